/* What each element of a result is, for every kind of task: index arithmetic and the formula, in words that C17 and CUDA C++ both read. The kernels of the .cu files are loops around these,
 * specialised by type; a host build of the same functions is what tests run (tests/kernels/fake_gpu.c). */
#ifndef KERNELS_CUDA_BODY_H
#define KERNELS_CUDA_BODY_H

#include <math.h>
#include <stdint.h>

#include "kernels/gpu.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define BODY static __host__ __device__ __forceinline__
#else
#include "kernels/half.h"
#define BODY static inline
#endif

/* ---- numbers in memory ---- */
BODY float body_load(const void *p, int type, int64_t i)
{
    switch (type) {
    case GPU_F32: return ((const float *)p)[i];
#ifdef __CUDACC__
    case GPU_F16: return __half2float(((const __half *)p)[i]);
    case GPU_BF16: return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
#else
    case GPU_F16: return f16_to_f32(((const uint16_t *)p)[i]);
    case GPU_BF16: return bf16_to_f32_one(((const uint16_t *)p)[i]);
#endif
    case GPU_I32: return (float)((const int32_t *)p)[i];
    case GPU_I64: return (float)((const int64_t *)p)[i];
    case GPU_I8: return (float)((const int8_t *)p)[i];
    default: return (float)((const uint8_t *)p)[i];
    }
}

BODY int64_t body_load_whole(const void *p, int type, int64_t i)
{
    switch (type) {
    case GPU_I64: return ((const int64_t *)p)[i];
    case GPU_I32: return ((const int32_t *)p)[i];
    case GPU_I8: return ((const int8_t *)p)[i];
    case GPU_U8: return ((const uint8_t *)p)[i];
    default: return (int64_t)body_load(p, type, i);
    }
}

BODY void body_store_whole(void *p, int type, int64_t i, int64_t v)
{
    switch (type) {
    case GPU_I64: ((int64_t *)p)[i] = v; return;
    case GPU_I32: ((int32_t *)p)[i] = (int32_t)v; return;
    case GPU_I8: ((int8_t *)p)[i] = (int8_t)v; return;
    default: ((uint8_t *)p)[i] = (uint8_t)v; return;
    }
}

/* A float outside of a whole number's range becomes its end, what is not a number 0. */
BODY int64_t body_truncate(float v) { return v != v ? 0 : v >= 9.2233715e18f ? INT64_MAX : v <= -9.2233715e18f ? INT64_MIN : (int64_t)v; }

BODY void body_store(void *p, int type, int64_t i, float v)
{
    switch (type) {
    case GPU_F32: ((float *)p)[i] = v; return;
#ifdef __CUDACC__
    case GPU_F16: ((__half *)p)[i] = __float2half_rn(v); return;
    case GPU_BF16: ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v); return;
#else
    case GPU_F16: ((uint16_t *)p)[i] = f32_to_f16(v); return;
    case GPU_BF16: ((uint16_t *)p)[i] = f32_to_bf16_one(v); return;
#endif
    default: body_store_whole(p, type, i, body_truncate(v)); return;
    }
}

/* ---- curves ---- */
BODY float body_sigmoid(float v) { return 1 / (1 + expf(-v)); }
BODY float body_softplus(float v) { return v > 0 ? v + log1pf(expf(-v)) : log1pf(expf(v)); }
BODY float body_clamp(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

BODY float body_activate(float v, struct activation_spec a)
{
    switch (a.kind) {
    case ACT_RELU: return v < 0 ? 0 : v;
    case ACT_CLIP: return body_clamp(v, a.alpha, a.beta);
    case ACT_LEAKY_RELU: return v >= 0 ? v : a.alpha * v;
    case ACT_SIGMOID: return body_sigmoid(v);
    case ACT_TANH: return tanhf(v);
    case ACT_SILU: return v * body_sigmoid(v);
    case ACT_HARD_SIGMOID: return body_clamp(a.alpha * v + a.beta, 0, 1);
    case ACT_HARD_SWISH: return v * body_clamp(v / 6 + 0.5f, 0, 1);
    case ACT_GELU: return 0.5f * v * (1 + erff(v * 0.70710678f));
    case ACT_GELU_TANH: return 0.5f * v * (1 + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
    case ACT_ELU: return v >= 0 ? v : a.alpha * expm1f(v);
    case ACT_SOFTPLUS: return body_softplus(v);
    case ACT_EXP: return expf(v);
    case ACT_QUICK_GELU: return v * body_sigmoid(1.702f * v);
    case ACT_ERF: return erff(v);
    default: return v;
    }
}

BODY float body_function(int f, float a, float b, float c, float alpha, float beta)
{
    switch (f) {
    case GPU_NEG: return -a;
    case GPU_ABS: return fabsf(a);
    case GPU_RECIPROCAL: return 1 / a;
    case GPU_FLOOR: return floorf(a);
    case GPU_CEIL: return ceilf(a);
    case GPU_ROUND: return rintf(a);
    case GPU_SIGN: return a > 0 ? 1 : a < 0 ? -1 : a;
    case GPU_SQRT: return sqrtf(a);
    case GPU_EXP: return expf(a);
    case GPU_LOG: return logf(a);
    case GPU_SIN: return sinf(a);
    case GPU_COS: return cosf(a);
    case GPU_NOT: return a == 0;
    case GPU_ISNAN: return a != a;
    case GPU_SOFTSIGN: return a / (1 + fabsf(a));
    case GPU_MISH: return a * tanhf(body_softplus(a));
    case GPU_SWISH: return a * body_sigmoid(alpha * a);
    case GPU_SELU: return beta * (a > 0 ? a : alpha * expm1f(a));
    case GPU_CELU: return fmaxf(0, a) + fminf(0, alpha * expm1f(a / alpha));
    case GPU_THRESHOLD: return a > alpha ? a : 0;
    case GPU_SCALE: return alpha * a;
    case GPU_ADD: return a + b;
    case GPU_SUB: return a - b;
    case GPU_MUL: return a * b;
    case GPU_DIV: return a / b;
    case GPU_POW: return powf(a, b);
    case GPU_MIN: return a != a ? a : b != b ? b : a < b ? a : b;
    case GPU_MAX: return a != a ? a : b != b ? b : a > b ? a : b;
    case GPU_MOD: return a - b * floorf(a / b);
    case GPU_FMOD: return fmodf(a, b);
    case GPU_PRELU: return a < 0 ? a * b : a;
    case GPU_AND: return a != 0 && b != 0;
    case GPU_OR: return a != 0 || b != 0;
    case GPU_XOR: return (a != 0) != (b != 0);
    case GPU_EQUAL: return a == b;
    case GPU_LESS: return a < b;
    case GPU_GREATER: return a > b;
    case GPU_LESS_EQUAL: return a <= b;
    case GPU_GREATER_EQUAL: return a >= b;
    case GPU_SCALE_SHIFT: return a * b + c;
    case GPU_MODULATE: return a * (1 + b) + c;
    default: return a;
    }
}

BODY int64_t body_divide(int64_t a, int64_t b) { return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; }
BODY int64_t body_modulo(int64_t a, int64_t b, bool sign_of_a)
{
    if (b == 0 || b == -1) return 0;
    const int64_t r = a % b;
    return !sign_of_a && r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

BODY int64_t body_power(int64_t a, int64_t b)
{
    uint64_t r = 1, x = (uint64_t)a;
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    for (; b; b >>= 1, x *= x)
        if (b & 1) r *= x;
    return (int64_t)r;
}

BODY int64_t body_function_whole(int f, int64_t a, int64_t b, int64_t c)
{
    switch (f) {
    case GPU_NEG: return (int64_t)(0 - (uint64_t)a);
    case GPU_ABS: return a < 0 ? (int64_t)(0 - (uint64_t)a) : a;
    case GPU_SIGN: return (a > 0) - (a < 0);
    case GPU_NOT: return a == 0;
    case GPU_ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case GPU_SUB: return (int64_t)((uint64_t)a - (uint64_t)b);
    case GPU_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case GPU_DIV: return body_divide(a, b);
    case GPU_POW: return body_power(a, b);
    case GPU_MIN: return a < b ? a : b;
    case GPU_MAX: return a > b ? a : b;
    case GPU_MOD: return body_modulo(a, b, false);
    case GPU_FMOD: return body_modulo(a, b, true);
    case GPU_PRELU: return a < 0 ? (int64_t)((uint64_t)a * (uint64_t)b) : a;
    case GPU_AND: return a && b;
    case GPU_OR: return a || b;
    case GPU_XOR: return !a != !b;
    case GPU_EQUAL: return a == b;
    case GPU_LESS: return a < b;
    case GPU_GREATER: return a > b;
    case GPU_LESS_EQUAL: return a <= b;
    case GPU_GREATER_EQUAL: return a >= b;
    case GPU_WHERE: return a ? b : c;
    default: return a;
    }
}

/* ---- places ---- */
/* Where element i of a shape lies by steps. Dimensions are below 2^31 (prepare refuses others): divisions of 32 bits cost a tenth of those of 64. */
BODY int64_t body_place(int64_t i, int rank, const int64_t *dims, const int64_t *steps)
{
    int64_t at = 0;
    if (i <= 0x7fffffff) {
        uint32_t left = (uint32_t)i;
        for (int d = rank - 1; d > 0; d--) {
            const uint32_t n = (uint32_t)dims[d], rest = left / n;
            at += (int64_t)(left - rest * n) * steps[d];
            left = rest;
        }
        return rank > 0 ? at + (int64_t)left * steps[0] : at;
    }
    for (int d = rank - 1; d > 0; d--) {
        at += i % dims[d] * steps[d];
        i /= dims[d];
    }
    return rank > 0 ? at + i * steps[0] : at;
}

/* ---- element by element ---- */
/* Are all operands that are computed with whole numbers? Where's condition is not computed with. */
BODY bool body_is_whole(const struct gpu_task *t)
{
    for (int k = t->u.pointwise.function == GPU_WHERE; k < t->u.pointwise.inputs; k++)
        if (gpu_type_is_float(t->type[k])) return false;
    return t->u.pointwise.function != GPU_COPY || !gpu_type_is_float(t->type[1]);
}

BODY void body_pointwise(const struct gpu_task *t, int64_t i, bool whole)
{
    const struct gpu_pointwise *p = &t->u.pointwise;
    int64_t at[3] = { i, i, i };
    if (p->rank)
        for (int k = 0; k < p->inputs; k++) at[k] = body_place(i, p->rank, p->dims, p->steps[k]);
    const int y = p->inputs;
    if (whole) {
        int64_t v[3] = { 0, 0, 0 };
        for (int k = 0; k < p->inputs; k++) v[k] = body_load_whole(t->at[k], t->type[k], at[k]);
        const int64_t r = body_function_whole(p->function, v[0], v[1], v[2]);
        if (gpu_type_is_float(t->type[y])) body_store(t->at[y], t->type[y], i, body_activate((float)r, p->act));
        else body_store_whole(t->at[y], t->type[y], i, p->function == GPU_COPY && t->type[y] == GPU_U8 && p->alpha != 0 ? r != 0 : r);
        return;
    }
    float v[3] = { 0, 0, 0 };
    for (int k = 0; k < p->inputs; k++) v[k] = body_load(t->at[k], t->type[k], at[k]);
    float r = p->function == GPU_WHERE ? (v[0] != 0 ? v[1] : v[2]) : body_function(p->function, v[0], v[1], v[2], p->alpha, p->beta);
    if (p->function == GPU_COPY && t->type[y] == GPU_U8 && p->alpha != 0) r = r != 0;         /* alpha: the result is bool */
    body_store(t->at[y], t->type[y], i, body_activate(r, p->act));
}

BODY void body_copy_one(void *y, int64_t to, const void *x, int64_t from, int size)
{
    switch (size) {
    case 8: ((uint64_t *)y)[to] = ((const uint64_t *)x)[from]; return;
    case 4: ((uint32_t *)y)[to] = ((const uint32_t *)x)[from]; return;
    case 2: ((uint16_t *)y)[to] = ((const uint16_t *)x)[from]; return;
    default: ((uint8_t *)y)[to] = ((const uint8_t *)x)[from]; return;
    }
}

/* Operands x, y. */
BODY void body_move(const struct gpu_task *t, int64_t i)
{
    const struct gpu_move *m = &t->u.move;
    body_copy_one(t->at[1], m->to + body_place(i, m->rank, m->dims, m->y_steps), t->at[0], m->from + body_place(i, m->rank, m->dims, m->x_steps), m->size);
}

/* Operand y. */
BODY void body_fill(const struct gpu_task *t, int64_t i) { body_copy_one(t->at[0], i, &t->u.fill.bits, 0, t->u.fill.size); }

/* i counts elements of y. */
BODY void body_gather(const struct gpu_task *t, int64_t i)
{
    const struct gpu_gather *g = &t->u.gather;
    const int64_t inner = i % g->inner, which = i / g->inner % g->count, outer = i / g->inner / g->count;
    int64_t k = body_load_whole(t->at[1], t->type[1], which);
    if (k < 0) k += g->n;
    if (k < 0 || k >= g->n) *(int32_t *)t->at[3] = 1, k = 0;
    body_copy_one(t->at[2], i, t->at[0], (outer * g->n + k) * g->inner + inner, g->size);
}

/* Operands x (uint8), y, scale, shift; i counts elements of x. */
BODY void body_pixels(const struct gpu_task *t, int64_t i)
{
    const struct gpu_pixels *p = &t->u.pixels;
    const int64_t c = i % p->channels, at = i / p->channels % p->space, n = i / p->channels / p->space;
    const float v = (float)((const uint8_t *)t->at[0])[i] * ((const float *)t->at[2])[c] + ((const float *)t->at[3])[c];
    body_store(t->at[1], t->type[1], p->last ? i : (n * p->channels + c) * p->space + at, v);
}

/* Operands x, table, y; i counts numbers of y. */
BODY void body_rotate(const struct gpu_task *t, int64_t i)
{
    const struct gpu_rotate *r = &t->u.rotate;
    const int64_t c = i % r->columns - r->column, row = i / r->columns, within = c % r->head_dim;
    float v = body_load(t->at[0], t->type[0], i);
    if (c >= 0 && c < r->heads * r->head_dim && within < r->rotary) {
        const int64_t at = row % r->tokens * r->rotary + within / 2;
        const float cosine = body_load(t->at[1], t->type[1], at), sine = body_load(t->at[1], t->type[1], at + r->rotary / 2);
        const float other = body_load(t->at[0], t->type[0], within % 2 ? i - 1 : i + 1);
        v = within % 2 ? v * cosine + other * sine : v * cosine - other * sine;
    }
    body_store(t->at[2], t->type[2], i, v);
}

/* ---- windows ---- */
/* Element i of a pooling's result, channels last or first; operands x, y. */
BODY void body_pool(const struct gpu_task *t, int64_t i)
{
    const struct gpu_pool *p = &t->u.pool;
    const struct gpu_window *w = &p->w;
    int64_t out[GPU_SPACE] = { 0, 0, 0 }, rest = i, channel, space = 1, in_all = 1;
    for (int d = 0; d < w->dims; d++) space *= w->out[d], in_all *= w->in[d];
    if (p->last) channel = rest % p->channels, rest /= p->channels;
    else channel = rest / space % p->channels;
    int64_t where = p->last ? rest % space : rest % space;
    const int64_t n = p->last ? rest / space : rest / space / p->channels;
    for (int d = w->dims - 1; d >= 0; d--) out[d] = where % w->out[d], where /= w->out[d];
    int64_t k[GPU_SPACE] = { 0, 0, 0 }, seen = 0, counted = 0;
    float r = p->pooling == GPU_POOL_MAX ? -INFINITY : 0;
    for (bool more = true; more;) {
        int64_t at = 0;
        bool inside = true, padded = true;
        for (int d = 0; d < w->dims; d++) {
            const int64_t x = out[d] * w->stride[d] - w->low[d] + k[d] * w->dilation[d];
            inside = inside && x >= 0 && x < w->in[d];
            padded = padded && x >= -w->low[d] && x < w->in[d] + w->high[d];
            at = at * w->in[d] + x;
        }
        counted += padded;
        if (inside) {
            const float v = body_load(t->at[0], t->type[0], p->last ? (n * in_all + at) * p->channels + channel : (n * p->channels + channel) * in_all + at);
            r = p->pooling == GPU_POOL_MAX ? (v > r || v != v ? v : r) : r + v;
            seen++;
        }
        int d = w->dims - 1;
        while (d >= 0 && ++k[d] == w->kernel[d]) k[d--] = 0;
        more = d >= 0;
    }
    if (p->pooling != GPU_POOL_MAX) r /= (float)(p->pooling == GPU_POOL_AVERAGE ? seen : counted);
    body_store(t->at[1], t->type[1], i, r);
}

/* Element i of [outer, out, inner]; operands x, y, index, weight. */
BODY void body_resize(const struct gpu_task *t, int64_t i)
{
    const struct gpu_resize *r = &t->u.resize;
    const int64_t inner = i % r->inner, o = i / r->inner % r->out, outer = i / r->inner / r->out;
    float sum = 0;
    for (int k = 0; k < r->taps; k++)
        sum += ((const float *)t->at[3])[o * r->taps + k] * body_load(t->at[0], t->type[0], (outer * r->in + ((const int32_t *)t->at[2])[o * r->taps + k]) * r->inner + inner);
    body_store(t->at[1], t->type[1], i, sum);
}

/* ---- products ---- */
BODY float body_finish(const struct gpu_task *t, int64_t i, int64_t column, float sum, bool has_bias, bool has_residual, struct activation_spec act)
{
    if (has_bias) sum += body_load(t->at[3], t->type[3], column);
    if (has_residual) sum += body_load(t->at[4], t->type[4], i);
    return body_activate(sum, act);
}

/* Element i of [batch, m, n]: the plain way, for what the library does not take. Operands a, b, y, bias, residual. */
BODY void body_product(const struct gpu_task *t, int64_t i)
{
    const struct gpu_product *p = &t->u.product;
    const int64_t column = i % p->n, row = i / p->n % p->m, batch = i / p->n / p->m;
    float sum = 0;
    for (int64_t k = 0; k < p->k; k++)
        sum += body_load(t->at[0], t->type[0], batch * p->a_step + (p->a_turned ? k * p->m + row : row * p->k + k)) * body_load(t->at[1], t->type[1], batch * p->b_step + (p->b_turned ? column * p->k + k : k * p->n + column));
    body_store(t->at[2], t->type[2], i, body_finish(t, i, column, p->alpha * sum, p->has_bias, p->has_residual, p->act));
}

/* Element i of [n, out..., out_c]; operands x, weight, y, bias, residual. */
BODY void body_conv(const struct gpu_task *t, int64_t i)
{
    const struct gpu_conv *c = &t->u.conv;
    const struct gpu_window *w = &c->w;
    const int64_t per_in = c->in_c / c->groups, per_out = c->out_c / c->groups, m = i % c->out_c, group = m / per_out;
    const int64_t *x_dims = c->transposed ? w->out : w->in, *y_dims = c->transposed ? w->in : w->out;
    int64_t at[GPU_SPACE] = { 0, 0, 0 }, rest = i / c->out_c, k[GPU_SPACE] = { 0, 0, 0 }, cells = 1;
    for (int d = w->dims - 1; d >= 0; d--) at[d] = rest % y_dims[d], rest /= y_dims[d], cells *= w->kernel[d];
    float sum = 0;
    for (int64_t cell = 0; cell < cells; cell++) {
        int64_t x = 0;
        bool inside = true;
        for (int d = 0; d < w->dims; d++) {
            int64_t p;
            if (c->transposed) {
                const int64_t from = at[d] + w->low[d] - k[d] * w->dilation[d];
                inside = inside && from >= 0 && from % w->stride[d] == 0;
                p = from / w->stride[d];
            } else p = at[d] * w->stride[d] - w->low[d] + k[d] * w->dilation[d];
            inside = inside && p >= 0 && p < x_dims[d];
            x = x * x_dims[d] + p;
        }
        if (inside) {
            int64_t space = 1;
            for (int d = 0; d < w->dims; d++) space *= x_dims[d];
            const int64_t from = (rest * space + x) * c->in_c + group * per_in;
            for (int64_t j = 0; j < per_in; j++) {
                const int64_t weight = c->transposed ? ((group * per_in + j) * cells + cell) * per_out + m % per_out : (m * cells + cell) * per_in + j;
                sum += body_load(t->at[0], t->type[0], from + j) * body_load(t->at[1], t->type[1], weight);
            }
        }
        for (int d = w->dims - 1; d >= 0 && ++k[d] == w->kernel[d]; d--) k[d] = 0;
    }
    body_store(t->at[2], t->type[2], i, body_finish(t, i, m, sum, c->has_bias, c->has_residual, c->act));
}

/* ---- rows ---- */
BODY float body_reduce_first(int r) { return r == GPU_RED_MAX || r == GPU_RED_ARGMAX ? -INFINITY : r == GPU_RED_MIN || r == GPU_RED_ARGMIN ? INFINITY : r == GPU_RED_PROD ? 1 : 0; }
BODY float body_reduce_step(int r, float a, float v, float shift)
{
    switch (r) {
    case GPU_RED_MAX: return v != v || v > a ? v : a;
    case GPU_RED_MIN: return v != v || v < a ? v : a;
    case GPU_RED_PROD: return a * v;
    case GPU_RED_L1: return a + fabsf(v);
    case GPU_RED_L2: case GPU_RED_SQUARES: return a + v * v;
    case GPU_RED_LOG_SUM_EXP: return a + expf(v - shift);
    default: return a + v;
    }
}
/* Two partial results into one. */
BODY float body_reduce_join(int r, float a, float b)
{
    switch (r) {
    case GPU_RED_MAX: case GPU_RED_MIN: case GPU_RED_PROD: return body_reduce_step(r, a, b, 0);
    default: return a + b;
    }
}
BODY float body_reduce_last(int r, float a, int64_t n, float shift)
{
    switch (r) {
    case GPU_RED_MEAN: return a / (float)n;
    case GPU_RED_L2: return sqrtf(a);
    case GPU_RED_LOG_SUM: return logf(a);
    case GPU_RED_LOG_SUM_EXP: return logf(a) + shift;
    default: return a;
    }
}
BODY int64_t body_reduce_at(const struct gpu_reduce *r, int64_t kept, int64_t gone) { return body_place(kept, r->kept_rank, r->kept, r->kept_steps) + body_place(gone, r->gone_rank, r->gone, r->gone_steps); }
/* Does element v at place `at` beat the best so far? */
BODY bool body_arg_better(const struct gpu_reduce *r, float v, int64_t at, float best, int64_t best_at)
{
    if (best_at < 0) return true;
    const bool better = r->reduction == GPU_RED_ARGMAX ? v > best : v < best;
    return better || (v == best && (r->last ? at > best_at : at < best_at));
}

/* Whole numbers: sums, products, extremes and their places in int64. */
BODY void body_reduce_whole(const struct gpu_task *t, int64_t i)
{
    const struct gpu_reduce *r = &t->u.reduce;
    int64_t a = 0, place = 0;
    for (int64_t k = 0; k < r->length; k++) {
        const int64_t v = body_load_whole(t->at[0], t->type[0], body_reduce_at(r, i, k));
        switch (r->reduction) {
        case GPU_RED_MAX: a = k == 0 || v > a ? v : a; break;
        case GPU_RED_MIN: a = k == 0 || v < a ? v : a; break;
        case GPU_RED_PROD: a = k == 0 ? v : (int64_t)((uint64_t)a * (uint64_t)v); break;
        case GPU_RED_L1: a += v < 0 ? -v : v; break;
        case GPU_RED_SQUARES: a += v * v; break;
        case GPU_RED_ARGMAX: if (k == 0 || v > a || (r->last && v == a)) a = v, place = k; break;
        case GPU_RED_ARGMIN: if (k == 0 || v < a || (r->last && v == a)) a = v, place = k; break;
        default: a += v; break;
        }
    }
    if (r->reduction == GPU_RED_MEAN) a = r->length ? a / r->length : 0;
    body_store_whole(t->at[1], t->type[1], i, r->reduction >= GPU_RED_ARGMAX ? place : a);
}

BODY int64_t body_softmax_at(const struct gpu_softmax *s, int64_t row, int64_t k) { return (row / s->inner * s->n + k) * s->inner + row % s->inner; }

/* Element k of a group's [channels / groups * space] numbers. */
BODY int64_t body_channels_at(const struct gpu_norm_channels *p, int64_t batch, int64_t group, int64_t k, int64_t *channel)
{
    const int64_t per = p->channels / p->groups;
    const int64_t c = p->last ? group * per + k % per : group * per + k / p->space, s = p->last ? k / per : k % p->space;
    *channel = c;
    return p->last ? (batch * p->space + s) * p->channels + c : (batch * p->channels + c) * p->space + s;
}

/* ---- attention ---- */
BODY int64_t body_attention_seen(const struct gpu_task *t, int64_t row, int64_t query)
{
    const struct gpu_attention *a = &t->u.attention;
    const int64_t most = t->at[6] && ((const int32_t *)t->at[6])[row] < a->keys ? ((const int32_t *)t->at[6])[row] : a->keys, seen = query + 1 + a->keys - a->queries;
    return !a->causal || seen > most ? most : seen < 0 ? 0 : seen;
}

/* The score of key j, given the product of query and key. */
BODY float body_attention_score(const struct gpu_task *t, int64_t row, int64_t head, int64_t query, int64_t key, float product)
{
    const struct gpu_attention *a = &t->u.attention;
    float s = product * a->scale;
    for (int m = 0; m < GPU_MASKS; m++) {
        const struct gpu_mask *k = &a->masks[m];
        if (k->kind == GPU_NO_MASK) continue;
        const int64_t at = k->row * row + k->head * head + k->query * query + key;
        if (k->kind == GPU_MASK_ADD) s += body_load(t->at[4 + m], t->type[4 + m], at);
        else if ((((const uint8_t *)t->at[4 + m])[at] == 0) == (k->kind == GPU_MASK_SEEN)) s = k->unseen;
    }
    return s;
}

/* How many elements a task that is computed element by element has; 0 where it is computed by rows. */
BODY int64_t body_elements(const struct gpu_task *t)
{
    int64_t n = 1;
    switch (t->kind) {
    case GPU_POINTWISE: return t->u.pointwise.count;
    case GPU_MOVE: return t->u.move.count;
    case GPU_FILL: return t->u.fill.count;
    case GPU_GATHER: return t->u.gather.outer * t->u.gather.count * t->u.gather.inner;
    case GPU_PIXELS: return t->u.pixels.n * t->u.pixels.space * t->u.pixels.channels;
    case GPU_POOL:
        for (int d = 0; d < t->u.pool.w.dims; d++) n *= t->u.pool.w.out[d];
        return n * t->u.pool.n * t->u.pool.channels;
    case GPU_ROTATE: return t->u.rotate.rows * t->u.rotate.columns;
    case GPU_RESIZE: return t->u.resize.outer * t->u.resize.out * t->u.resize.inner;
    case GPU_PRODUCT: return t->u.product.batch * t->u.product.m * t->u.product.n;
    case GPU_CONV:
        for (int d = 0; d < t->u.conv.w.dims; d++) n *= t->u.conv.transposed ? t->u.conv.w.in[d] : t->u.conv.w.out[d];
        return n * t->u.conv.n * t->u.conv.out_c;
    default: return 0;
    }
}

#endif
