#include "api/oip_ask.h"

#include "api/oip_tensor.h"
#include "api/picture.h"

#include <string.h>

/* ---- what a request says beside its tensors ---- */

enum status oip_parameter_use(struct request *r, struct infer_ask *ask, const struct parameter *p, struct err *err)
{
    if (!strcmp(p->name, "binary_data_output")) {
        if (p->type != PARAMETER_BOOL) return err_set(err, ST_BAD_INPUT, "Unable to parse 'binary_data_output': it must be a boolean");
        ask->binary_output = p->boolean;
    } else if (!strcmp(p->name, "priority")) {
        if (p->type != PARAMETER_INT || p->integer < 0 || p->integer > UINT32_MAX) return err_set(err, ST_BAD_INPUT, "Unable to parse 'priority': it must be a natural number");
        r->priority = (uint32_t)p->integer;
    } else if (!strcmp(p->name, "timeout")) {
        if (p->type != PARAMETER_INT || p->integer < 0) return err_set(err, ST_BAD_INPUT, "Unable to parse 'timeout': it must be a natural number of microseconds");
        r->queue_timeout_us = (uint64_t)p->integer;
    }
    return ST_OK;
}

/* ---- shared memory ---- */

enum status oip_shared_use(struct shared_ask *s, const struct parameter *p, const char *tensor, struct err *err)
{
    const bool offset = !strcmp(p->name, "shared_memory_offset");
    if (!strcmp(p->name, "shared_memory_region")) {
        if (p->type != PARAMETER_STRING) return err_set(err, ST_BAD_INPUT, "Unable to parse 'shared_memory_region' of '%s': it must be a string", tensor);
        s->region = p->text;
    } else if (offset || !strcmp(p->name, "shared_memory_byte_size")) {
        if (p->type != PARAMETER_INT || p->integer < 0) return err_set(err, ST_BAD_INPUT, "Unable to parse '%s' of '%s': it must be a natural number", p->name, tensor);
        *(offset ? &s->offset : &s->bytes) = (uint64_t)p->integer;
    }
    return ST_OK;
}

enum status oip_shared_input(struct request *r, const struct infer_ask *ask, struct request_tensor *in, const struct shared_ask *s, struct err *err)
{
    struct region *region;
    enum status st = regions_find(ask->regions, s->region, s->offset, s->bytes, &region, err);
    if (st) return err_prefix(err, "input '%s'", in->name);
    char *bytes = arena_alloc(&r->arena, s->bytes + !s->bytes, TENSOR_ALIGN);
    if (!bytes) st = err_set(err, ST_TOO_LARGE, "input '%s' is over the request's memory budget", in->name);
    if (!st && (st = region_read(region, s->offset, bytes, s->bytes, err))) err_prefix(err, "input '%s'", in->name);
    region_drop(region);
    return st ? st : oip_tensor_from_raw(&in->tensor, &r->arena, bytes, s->bytes, in->name, err);
}

enum status oip_output_store(const struct output_ask *a, const struct tensor *t, struct err *err)
{
    const uint64_t n = oip_tensor_raw_bytes(t);
    struct buf text;
    if (n > a->shared_bytes) return err_set(err, ST_BAD_INPUT, "shared memory size specified with the request for output '%s' (%llu bytes) should be at least %llu bytes to hold the results", a->name, (unsigned long long)a->shared_bytes, (unsigned long long)n);
    if (t->dtype != DT_STRING) return region_write(a->region, a->shared_offset, t->data, n, err);
    buf_init(&text, 0);
    oip_tensor_to_raw(&text, t);
    enum status st = text.failed ? err_set(err, ST_NO_MEMORY, "no memory for output '%s'", a->name) : region_write(a->region, a->shared_offset, text.data, n, err);
    buf_free(&text);
    return st;
}

void infer_ask_close(struct infer_ask *ask)
{
    for (int i = 0; i < ask->output_count; i++) region_drop(ask->outputs[i].region);
    ask->output_count = 0;
}

enum status oip_output_use(struct request *r, struct infer_ask *ask, struct output_ask *o, uint64_t classes, const struct shared_ask *shared, struct err *err)
{
    if (classes > CLASSES_MAX) return err_set(err, ST_BAD_INPUT, "Unable to parse 'classification' of output '%s': it must be a number from 1 to %d", o->name, CLASSES_MAX);
    for (int i = 0; i < ask->output_count; i++)
        if (!strcmp(ask->outputs[i].name, o->name)) return err_set(err, ST_BAD_INPUT, "output '%s' is asked for twice", o->name);
    o->classes = (int64_t)classes;
    if (shared->region) {
        if (regions_find(ask->regions, shared->region, shared->offset, shared->bytes, &o->region, err)) return err_prefix(err, "output '%s'", o->name);
        o->region_name = shared->region;
        o->shared_offset = shared->offset;
        o->shared_bytes = shared->bytes;
    }
    r->wanted[ask->output_count++] = o->name;
    return ST_OK;
}

/* ---- against the model ---- */

static bool shape_fits(const struct port *p, const struct tensor *t)
{
    if (p->rank < 0) return true;
    if (p->rank != t->rank) return false;
    for (int i = 0; i < p->rank; i++)
        if (p->dims[i] >= 0 && p->dims[i] != t->dims[i]) return false;
    return true;
}

static enum status check_input(const struct request *r, const struct model_version *v, struct request_tensor *in, struct err *err)
{
    const struct port *p = signature_input(v->signature, in->name);
    if (!p) return err_set(err, ST_BAD_INPUT, "unexpected inference input '%s' for model '%s'", in->name, v->name);
    if (in->tensor.dtype == DT_STRING && p->dtype == DT_F32 && v->config->picture.usable)
        return picture_to_tensor(&in->tensor, &v->config->picture, ((struct request *)r), in->name, err);
    if (in->tensor.dtype != p->dtype)
        return err_set(err, ST_BAD_INPUT, "inference input '%s' data-type is '%s', but model '%s' expects '%s'", in->name, dtype_oip(in->tensor.dtype), v->name,
                       dtype_oip(p->dtype) ? dtype_oip(p->dtype) : dtype_name(p->dtype));
    if (!shape_fits(p, &in->tensor)) {
        char want[128], got[128];
        return err_set(err, ST_BAD_INPUT, "unexpected shape for input '%s' for model '%s'. Expected %s, got %s", in->name, v->name,
                       shape_text(p->dims, p->rank, want, sizeof want), shape_text(in->tensor.dims, in->tensor.rank, got, sizeof got));
    }
    return ST_OK;
}

enum status oip_infer_check(struct request *r, const struct infer_ask *ask, const struct model_version *v, struct err *err)
{
    for (int i = 0; i < r->input_count; i++) {
        for (int k = 0; k < i; k++)
            if (!strcmp(r->inputs[k].name, r->inputs[i].name)) return err_set(err, ST_BAD_INPUT, "input '%s' already exists in request", r->inputs[i].name);
        enum status st = check_input(r, v, &r->inputs[i], err);
        if (st) return st;
    }
    for (int i = 0; i < v->signature->input_count; i++) {
        const struct port *p = &v->signature->inputs[i];
        int k = 0;
        while (k < r->input_count && strcmp(r->inputs[k].name, p->name)) k++;
        if (k == r->input_count && !p->optional)
            return err_set(err, ST_BAD_INPUT, "expected %d inputs but got %d inputs for model '%s'. The required input '%s' is missing.", v->signature->input_count, r->input_count, v->name, p->name);
    }
    for (int i = 0; i < ask->output_count; i++)
        if (!signature_output(v->signature, ask->outputs[i].name))
            return err_set(err, ST_BAD_INPUT, "unexpected inference output '%s' for model '%s'", ask->outputs[i].name, v->name);
    return ST_OK;
}

/* Triton names the request in every sentence about it but these. */
enum status oip_infer_check_named(struct request *r, const struct infer_ask *ask, const struct model_version *v, struct err *err)
{
    enum status st = oip_infer_check(r, ask, v, err);
    if (!st || !strncmp(err->text, "unexpected inference ", 21)) return st;
    struct err plain = *err;
    return err_set(err, st, "[request id: %s] %s", r->id[0] ? r->id : "<id_unknown>", plain.text);
}

/* ---- the answer ---- */

const struct request_tensor *oip_output_named(const struct request *r, const char *name)
{
    for (int i = 0; i < r->output_count; i++)
        if (!strcmp(r->outputs[i].name, name)) return &r->outputs[i];
    return NULL;
}

enum status oip_output_pick(const struct request_tensor **out, struct request *r, const struct infer_ask *ask, int i, const struct model_version *v, struct err *err)
{
    const struct output_ask *a = ask->output_count ? &ask->outputs[i] : NULL;
    const struct request_tensor *o = a ? oip_output_named(r, a->name) : &r->outputs[i];
    *out = o;
    if (!o) return err_set(err, ST_INTERNAL, "the model made no output '%s'", a->name);
    return a && a->classes ? oip_classify((struct tensor *)&o->tensor, &r->arena, a->classes, v->config->max_batch_size > 0, v->labels, v->label_count, err) : ST_OK;
}
