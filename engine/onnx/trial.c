/* Inputs are one row of noise: floats of a normal distribution's spread, whole numbers and truth values 0 or 1 (good as ids, positions and masks of whatever table), from one
 * seed, so that all machines try the same. Free dimensions are as large as probing found them to work. */
#include "engine/onnx/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/graph/passes.h"
#include "engine/graph/plan_cache.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum { INPUTS_MAX = 8 };
static const uint64_t WORK_MIN = 20000000, SPEND_NS = 400000000;       /* products of a call; what the runs of one precision may take */

struct trial {
    uint64_t memory_max;
    int count;                           /* inputs in use */
    struct operand shapes[GRAPH_INPUTS_MAX];
    struct arena arena;                  /* inputs and answers */
    void **data[INPUTS_MAX];             /* [input_count] */
    struct operand *answers[INPUTS_MAX]; /* [output_count] */
    uint64_t ns;                         /* least of a call in float */
};

static bool is_plain(enum dtype t) { return dtype_is_number(t) && (t == DT_F32 || t == DT_F64 || !dtype_is_real(t)); }

/* One row, free dimensions as probed. */
static bool shapes_of(const struct graph *g, struct operand *shapes)
{
    for (int k = 0; k < g->input_count; k++) {
        const struct value *v = &g->values[g->inputs[k]];
        if (!probe_known(g, g->inputs[k]) || v->is_optional || !is_plain(v->type.dtype)) return false;
        shapes[k] = (struct operand){ .dtype = v->type.dtype, .rank = v->type.rank };
        for (int d = 0; d < v->type.rank; d++) shapes[k].dims[d] = v->type.dims[d] >= 0 ? v->type.dims[d] : d == 0 ? 1 : v->probe[0].dims[d];
    }
    return true;
}

/* Layers that gain by another precision: on the CPU those that were packed, on a card products and convolutions of any kind. */
static bool is_product(const struct node *n) { return n->op->tasks && (!strcmp(n->op->name, "Conv") || !strcmp(n->op->name, "MatMul") || !strcmp(n->op->name, "Gemm")); }

static bool has_layers(const struct graph *g)
{
    for (int i = 0; i < g->node_count && g->gpu; i++)
        if (!g->nodes[i].dead && is_product(&g->nodes[i])) return true;
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && (g->nodes[i].conv || ((g->nodes[i].packed || g->nodes[i].sparse) && (gemm_packable(g, &g->nodes[i]) || recurrent_packable(g, &g->nodes[i]))))) return true;
    for (const struct graph *b = g->inner; b; b = b->next_inner)
        if (has_layers(b)) return true;
    return false;
}

/* What plan_work of a plan for these shapes would say; no kernel is prepared for it. 0 where they do not work. */
static uint64_t work_of(const struct graph *g, const struct operand *shapes, uint64_t memory_max)
{
    struct operand *in[GRAPH_INPUTS_MAX], *out[GRAPH_INPUTS_MAX];
    struct arena arena;
    uint64_t work = 0;
    arena_init(&arena, memory_max);
    struct operand *operands = arena_calloc(&arena, (uint64_t)g->value_count + 1, sizeof *operands);
    if (operands) shapes_begin(g, operands);
    bool fits = operands != NULL;
    for (int k = 0; k < g->input_count && fits; k++) {
        struct operand *o = &operands[g->inputs[k]];
        memcpy(o->dims, shapes[k].dims, sizeof o->dims);
        fits = tensor_bytes(o->dtype, o->dims, o->rank, &o->bytes);
    }
    fits = fits && !shapes_infer(g, operands, &arena, NULL, NULL);
    for (int i = 0; i < g->node_count && fits; i++) {
        struct call c;
        bool known = true, dynamic = false;
        call_bind(&c, g, &g->nodes[i], operands, in, out);
        for (int k = 0; k < c.out_count; k++) {
            known = known && (!out[k] || out[k]->data);
            dynamic = dynamic || (out[k] && out[k]->dynamic);
        }
        if (!known && !dynamic && !size_add(work, call_work(&c), &work)) work = UINT64_MAX;
    }
    arena_free(&arena);
    return fits ? work : 0;
}

bool trial_wanted(const struct graph *g, uint64_t memory_max)
{
    struct operand shapes[GRAPH_INPUTS_MAX];
    if (!g->input_count || !has_layers(g) || !shapes_of(g, shapes)) return false;
    for (int k = 0; k < g->output_count; k++) {
        const struct value *v = &g->values[g->outputs[k]];
        if (!probe_known(g, g->outputs[k]) || v->is_optional || !dtype_is_number(v->probe[0].dtype)) return false;
    }
    return work_of(g, shapes, memory_max) >= WORK_MIN;
}

static void make_noise(void *data, const struct operand *o, uint64_t *state)
{
    const uint64_t n = operand_count(o);
    for (uint64_t i = 0; i < n; i++) {
        double sum = -6;                 /* twelve uniform numbers less 6: about normal */
        for (int k = 0; k < 12; k++) {
            *state = *state * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(*state >> 40) * 0x1p-24;
        }
        const int64_t bit = sum > 0;
        if (dtype_is_real(o->dtype)) real_store(data, o->dtype, i, &sum, 1);
        else int_store(data, o->dtype, i, &bit, 1);
    }
}

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "trying a precision passes the model's memory budget"); }

static enum status make_inputs(struct trial *t, const struct graph *g, struct err *err)
{
    uint64_t state = 20260101;
    for (int i = 0; i < INPUTS_MAX; i++) {
        t->data[i] = arena_calloc(&t->arena, (uint64_t)g->input_count, sizeof *t->data[i]);
        if (!t->data[i]) return no_memory(err);
        for (int k = 0; k < g->input_count; k++) {
            struct operand *o = &t->shapes[k];
            if (!tensor_bytes(o->dtype, o->dims, o->rank, &o->bytes)) return err_set(err, ST_TOO_LARGE, "an input's shape is too large");
            t->data[i][k] = arena_alloc(&t->arena, o->bytes + 1, TENSOR_ALIGN);
            if (!t->data[i][k]) return no_memory(err);
            make_noise(t->data[i][k], o, &state);
        }
    }
    return ST_OK;
}

static enum status keep_answers(struct trial *t, int i, const struct graph *g, const struct plan *p, struct err *err)
{
    t->answers[i] = arena_calloc(&t->arena, (uint64_t)g->output_count, sizeof *t->answers[i]);
    if (!t->answers[i]) return no_memory(err);
    for (int k = 0; k < g->output_count; k++) {
        const struct operand *o = plan_output(p, k);
        struct operand *to = &t->answers[i][k];
        *to = *o;
        to->data = arena_alloc(&t->arena, o->bytes + 1, TENSOR_ALIGN);
        if (!to->data) return no_memory(err);
        if (o->bytes) memcpy(to->data, o->data, o->bytes);
    }
    return ST_OK;
}

/* INFINITY: another shape, another whole number, or not a number where there was one. */
static double error_of(const struct operand *a, const struct operand *b, bool bytes)
{
    double square = 0, all = 0;
    if (a->dtype != b->dtype || a->rank != b->rank || a->bytes != b->bytes || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims)) return INFINITY;
    bytes = bytes && (a->dtype == DT_U8 || a->dtype == DT_I8);
    if (!dtype_is_real(a->dtype) && !bytes) return a->bytes && memcmp(a->data, b->data, a->bytes) ? INFINITY : 0;
    for (uint64_t i = 0, n = operand_count(a); i < n; i++) {
        double x, y;
        if (bytes) x = operand_real(a, i), y = operand_real(b, i);
        else {
            real_load(&x, a->dtype, a->data, i, 0, 1);
            real_load(&y, b->dtype, b->data, i, 0, 1);
        }
        if (!isfinite(x) || !isfinite(y)) {
            if (x == y || (isnan(x) && isnan(y))) continue;
            return INFINITY;
        }
        square += (x - y) * (x - y);
        all += x * x;
    }
    return square == 0 ? 0 : all == 0 ? INFINITY : sqrt(square / all);
}

/* Runs g on the inputs: keeps the answers when `error` is NULL, else compares them. The least time of a call that was not the first. */
static enum status run_all(struct trial *t, const struct graph *g, double *error, uint64_t *least, struct err *err)
{
    struct plan_cache plans = { .budget = t->memory_max };
    struct arena run;
    struct plan *p;
    uint64_t begin = clock_ns();
    arena_init(&run, t->memory_max);
    enum status st = plan_cache_get(&plans, g, t->shapes, &p, err);
    *least = UINT64_MAX;
    for (int i = -1; !st && i < (error ? t->count : INPUTS_MAX); i++) {
        if (!error && i > 0 && clock_ns() - begin > SPEND_NS) break;
        const uint64_t start = clock_ns();
        st = plan_run(p, t->data[i < 0 ? 0 : i], &run, NULL, err);
        const uint64_t ns = clock_ns() - start;
        if (ns < *least && (i >= 0 || ns > SPEND_NS)) *least = ns;
        if (!st && i >= 0 && !error) {
            st = keep_answers(t, i, g, p, err);
            t->count = i + 1;
        }
        for (int k = 0; !st && i >= 0 && error && k < g->output_count; k++) {
            const double e = error_of(&t->answers[i][k], plan_output(p, k), g->int8);
            if (!(e <= *error)) *error = e;
        }
        arena_reset(&run);
    }
    arena_free(&run);
    plan_cache_close(&plans);
    return st;
}

enum status trial_begin(struct trial **out, const struct graph *g, uint64_t memory_max, struct err *err)
{
    struct trial *t = mem_calloc_array(1, sizeof *t);
    if (!t) return no_memory(err);
    t->memory_max = memory_max;
    arena_init(&t->arena, memory_max);
    enum status st = shapes_of(g, t->shapes) ? make_inputs(t, g, err) : err_set(err, ST_UNSUPPORTED, "inputs of this model cannot be made up");
    if (!st) st = run_all(t, g, NULL, &t->ns, err);
    if (st) trial_end(t);
    else *out = t;
    return st;
}

enum status trial_compare(struct trial *t, const struct graph *g, double *error, double *gain, struct err *err)
{
    uint64_t ns;
    *error = 0;
    enum status st = run_all(t, g, error, &ns, err);
    if (!st) *gain = (double)t->ns / (double)(ns ? ns : 1);
    return st;
}

int trial_inputs(const struct trial *t) { return t->count; }

void trial_end(struct trial *t)
{
    if (!t) return;
    arena_free(&t->arena);
    free(t);
}
