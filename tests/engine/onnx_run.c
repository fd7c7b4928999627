#include "tests/engine/onnx_run.h"

#include <string.h>

enum { TOGETHER_MAX = 64 };

enum status onnx_run_open(struct onnx_run *r, const char *path, const struct engine_options *o, struct err *err)
{
    struct model_files files = { NULL, path, NULL };
    *r = (struct onnx_run){ 0 };
    enum status st = onnx_engine.open(&r->engine, &files, o, err);
    if (st) return st;
    r->signature = onnx_engine.describe(r->engine);
    st = onnx_engine.start(&r->instance, r->engine, err);
    if (st) onnx_engine.close(r->engine);
    return st;
}

void onnx_run_close(struct onnx_run *r)
{
    onnx_engine.stop(r->instance);
    onnx_engine.close(r->engine);
}

enum status onnx_run_step(struct onnx_run *r, struct request **requests, int n, const atomic_bool *stop, struct err *err)
{
    static const atomic_bool never = false;
    struct slot *slots[TOGETHER_MAX];
    enum status st = ST_OK;
    for (int i = 0; i < n; i++) {
        st = onnx_engine.check(r->engine, requests[i], err);
        if (!st) st = onnx_engine.admit(r->instance, requests[i], &slots[i], err);
        if (st) { n = i; break; }
    }
    if (!st) st = onnx_engine.submit(r->instance, slots, n, stop ? stop : &never, err);
    if (!st) st = onnx_engine.collect(r->instance, err);
    for (int i = 0; i < n; i++) {
        if (!st && slots[i]->state != SLOT_DONE) {
            st = slots[i]->error.status;
            *err = slots[i]->error;
        }
        onnx_engine.retire(r->instance, slots[i]);
    }
    return st;
}

void onnx_run_request(struct request *q, struct request_tensor *slot, const char *name, float *x, const int64_t *dims, int rank, int64_t rows)
{
    request_init(q, 64 << 20);
    *slot = (struct request_tensor){ .name = name, .tensor = { .dtype = DT_F32, .rank = rank, .data = x } };
    memcpy(slot->tensor.dims, dims, (size_t)rank * sizeof *dims);
    slot->tensor.dims[0] = rows;
    tensor_bytes(DT_F32, slot->tensor.dims, rank, &slot->tensor.bytes);
    q->id = "";
    q->inputs = slot;
    q->input_count = 1;
}
