/* Parse, import, all passes, a plan and a run, within a small budget of memory and of work; loops, whose length the data says, are stopped by a timer. Free
 * dimensions are 2; inputs hold small numbers. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/checked.h"
#include "engine/graph/passes.h"
#include "engine/graph/plan.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_engine.h"

enum { MEMORY = 32 << 20, WORK = 20000000, STOP_US = 300000 };

static atomic_bool stop;

static void on_alarm(int signal)
{
    (void)signal;
    atomic_store(&stop, true);
}

/* 0: disarms */
static void arm(int us)
{
    struct itimerval t = { .it_value = { .tv_usec = us } };
    atomic_store(&stop, false);
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &t, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fill(void *x, const struct operand *o)
{
    uint8_t *b = x;
    static float one = 1;
    memset(x, 0, o->bytes);
    if (o->dtype == DT_F32)
        for (uint64_t i = 0; i < o->bytes; i += 4) memcpy(b + i, &one, 4);
    else if (o->dtype == DT_I64)
        for (uint64_t i = 0; i < o->bytes; i += 8) b[i] = (uint8_t)(i / 8 % 3);
    else if (o->dtype == DT_SEQUENCE)
        for (uint64_t i = 0; i < o->bytes; i += sizeof(struct tensor)) memcpy(b + i, &(struct tensor){ .dtype = DT_F32, .data = &one, .bytes = 4 }, sizeof(struct tensor));
    else if (o->dtype == DT_STRING)
        for (uint64_t i = 0; i < o->bytes; i += sizeof(struct string_ref)) memcpy(b + i, &(struct string_ref){ "ab", 2 }, sizeof(struct string_ref));
    else memset(x, 1, o->bytes);
}

static void run_plan(const struct graph *g, struct plan *p)
{
    struct arena run;
    struct err err;
    char *workspace = mem_alloc_aligned((plan_workspace(p) + 4095) & ~(uint64_t)4095, 4096);
    void **inputs = mem_calloc_array((uint64_t)g->input_count + 1, sizeof *inputs);
    arena_init(&run, MEMORY);
    plan_bind(p, workspace);
    for (int k = 0; workspace && inputs && k < g->input_count; k++) {
        struct operand o = g->values[g->inputs[k]].type;
        for (int d = 0; d < o.rank; d++) o.dims[d] = o.dims[d] < 0 ? 2 : o.dims[d];
        tensor_bytes(o.dtype, o.dims, o.rank, &o.bytes);
        inputs[k] = plan_input_buffer(p, k);
        fill(inputs[k], &o);
    }
    for (int i = 0; workspace && inputs && i < 2; i++) {
        arm(STOP_US);
        plan_run(p, inputs, &run, &stop, &err);
        arm(0);
        arena_reset(&run);
    }
    arena_free(&run);
    free(workspace);
    free(inputs);
}

static void plan_and_run(const struct graph *g)
{
    struct operand shapes[GRAPH_INPUTS_MAX];
    struct plan *p;
    struct err err;
    for (int k = 0; k < g->input_count; k++) {
        shapes[k] = g->values[g->inputs[k]].type;
        if (shapes[k].rank < 0) shapes[k].rank = 1, shapes[k].dims[0] = 2;
        for (int d = 0; d < shapes[k].rank; d++) shapes[k].dims[d] = shapes[k].dims[d] < 0 ? 2 : shapes[k].dims[d];
    }
    if (plan_open(&p, g, shapes, MEMORY, &err)) return;
    if (plan_work(p) < WORK) run_plan(g, p);
    plan_close(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct device device;
    struct import m;
    struct err err;
    device_cpu_open(&device, CPU_AVX2, 1);
    onnx_inspect(data, size, &err);
    for (int off = 0; off < 2; off++) {
        if (import_open(&m, data, size, -1, false, &device, MEMORY, &err)) break;
        if (!passes_run(&m.graph, off, &err)) {
            bool known = true;
            for (int k = 0; k < m.graph.input_count; k++) known = known && m.graph.values[m.graph.inputs[k]].type.rank >= 0;
            if (known) plan_and_run(&m.graph);
        }
        import_close(&m);
    }
    return 0;
}
