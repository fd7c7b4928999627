/* Element by element: activations, sums, products, per-channel scale and shift (bodies at one level, kernels/cpu/vec.h). */
#ifndef KERNELS_CPU_ELEMENTWISE_BODY_H
#define KERNELS_CPU_ELEMENTWISE_BODY_H

#include "kernels/cpu/vec_math.h"

static const int64_t ELEMENTS_PARALLEL_MIN = 65536;     /* below, one thread is done before a second has woken */
static const int64_t ACTIVATE_PARALLEL_MIN = 8192;      /* exp and its kin cost some ten times an addition */

enum element_op { OP_ACTIVATE, OP_ADD, OP_MUL };
struct element_job {
    float *y;
    const float *a, *b;
    int64_t n;
    struct activation_spec act;
    enum element_op op;
};

static void element_part(void *ctx, int part, int parts)
{
    const struct element_job *j = ctx;
    int64_t i = j->n * part / parts, end = j->n * (part + 1) / parts;
    if (j->op == OP_ACTIVATE) {
        activate_span(j->y + i, j->a + i, end - i, j->act);
        return;
    }
    const int add = j->op == OP_ADD;
    for (; i + LANES <= end; i += LANES) {
        vec a = vec_load(j->a + i), b = vec_load(j->b + i);
        vec_store(j->y + i, add ? a + b : a * b);
    }
    if (i < end) {
        vec a = vec_load_n(j->a + i, (int)(end - i)), b = vec_load_n(j->b + i, (int)(end - i));
        vec_store_n(j->y + i, add ? a + b : a * b, (int)(end - i));
    }
}

static void activate_f32(float *y, const float *x, int64_t n, struct activation_spec act, int threads)
{
    struct element_job j = { .y = y, .a = x, .n = n, .act = act, .op = OP_ACTIVATE };
    float low, high;
    int parts = n < (activation_is_clamp(act, &low, &high) ? ELEMENTS_PARALLEL_MIN : ACTIVATE_PARALLEL_MIN) ? 1 : threads;
    parallel_for(parts, parts, element_part, &j);
}

static void add_f32(float *y, const float *a, const float *b, int64_t n, int threads)
{
    struct element_job j = { .y = y, .a = a, .b = b, .n = n, .op = OP_ADD };
    int parts = n < ELEMENTS_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, element_part, &j);
}

static void mul_f32(float *y, const float *a, const float *b, int64_t n, int threads)
{
    struct element_job j = { .y = y, .a = a, .b = b, .n = n, .op = OP_MUL };
    int parts = n < ELEMENTS_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, element_part, &j);
}

struct arith_job { float *y; const float *a, *b; int64_t n; int step_a, step_b; enum arith_kind kind; };

#define ARITH(kind_, expression)                                                                                          \
    case kind_:                                                                                                           \
        if (j->step_a && j->step_b)                                                                                       \
            for (int64_t i = first; i < end; i++) { const float p = a[i], q = b[i]; y[i] = (expression); }                \
        else if (j->step_a)                                                                                               \
            for (int64_t i = first; i < end; i++) { const float p = a[i], q = one_b; y[i] = (expression); }               \
        else                                                                                                              \
            for (int64_t i = first; i < end; i++) { const float p = one_a, q = b[i * j->step_b]; y[i] = (expression); }   \
        break;

static void arith_part(void *ctx, int part, int parts)
{
    const struct arith_job *j = ctx;
    const int64_t first = j->n * part / parts, end = j->n * (part + 1) / parts;
    const float *a = j->a, *b = j->b, one_a = a[0], one_b = b[0];
    float *y = j->y;
    switch (j->kind) {
    ARITH(ARITH_ADD, p + q)
    ARITH(ARITH_SUB, p - q)
    ARITH(ARITH_MUL, p * q)
    ARITH(ARITH_DIV, p / q)
    ARITH(ARITH_MAX, p != p ? p : q != q ? q : p > q ? p : q)
    ARITH(ARITH_MIN, p != p ? p : q != q ? q : p < q ? p : q)
    ARITH(ARITH_PRELU, p < 0 ? p * q : p)
    }
}
#undef ARITH

static void arith_f32(float *y, const float *a, const float *b, int64_t n, int step_a, int step_b, enum arith_kind kind, int threads)
{
    struct arith_job j = { y, a, b, n, step_a, step_b, kind };
    const int parts = n < ELEMENTS_PARALLEL_MIN ? 1 : threads;
    if (n > 0) parallel_for(parts, parts, arith_part, &j);
}

struct scale_job {
    float *y;
    const float *x, *scale, *bias;
    int64_t rows, columns;
    struct activation_spec act;
    float low, high;
    int clamp_is_all;
};

VEC_INLINE vec scale_one(const struct scale_job *j, vec x, int64_t c, int n)
{
    const vec one = vec_set(1.0f), zero = vec_set(0.0f);
    vec scale = !j->scale ? one : n == LANES ? vec_load(j->scale + c) : vec_load_n(j->scale + c, n);
    vec bias = !j->bias ? zero : n == LANES ? vec_load(j->bias + c) : vec_load_n(j->bias + c, n);
    return vec_clamp(vec_fma(x, scale, bias), vec_set(j->low), vec_set(j->high));
}

static void scale_part(void *ctx, int part, int parts)
{
    const struct scale_job *j = ctx;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++) {
        const float *x = j->x + r * j->columns;
        float *y = j->y + r * j->columns;
        int64_t c = 0;
        for (; c + LANES <= j->columns; c += LANES) vec_store(y + c, scale_one(j, vec_load(x + c), c, LANES));
        if (c < j->columns) {
            int left = (int)(j->columns - c);
            vec_store_n(y + c, scale_one(j, vec_load_n(x + c, left), c, left), left);
        }
        if (!j->clamp_is_all) activate_span(y, y, j->columns, j->act);
    }
}

static void scale_shift_f32(float *y, const float *x, const float *scale, const float *bias, int64_t rows, int64_t columns, struct activation_spec act, int threads)
{
    struct scale_job j = { .y = y, .x = x, .scale = scale, .bias = bias, .rows = rows, .columns = columns, .act = act };
    j.clamp_is_all = activation_is_clamp(act, &j.low, &j.high);
    int parts = rows * columns < (j.clamp_is_all ? ELEMENTS_PARALLEL_MIN : ACTIVATE_PARALLEL_MIN) ? 1 : threads;
    parallel_for(parts, parts, scale_part, &j);
}

static void elementwise_fill(struct kernels *k)
{
    k->activate_f32 = activate_f32;
    k->add_f32 = add_f32;
    k->mul_f32 = mul_f32;
    k->arith_f32 = arith_f32;
    k->scale_shift_f32 = scale_shift_f32;
}

#endif
