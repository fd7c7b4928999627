/* Rotary positions, RMS norm and gates at one level (kernels/cpu/vec.h; contracts in kernels/llm.h). */
#ifndef KERNELS_CPU_LLM_BODY_H
#define KERNELS_CPU_LLM_BODY_H

#include "kernels/cpu/attention_body.h"

static const int64_t LLM_PARALLEL_MIN = 32768;          /* elements */

struct llm_job {
    float *y;
    const float *x, *other;              /* other: a norm's weight, a gate's up */
    int64_t ldy, ldx, ldo, rows, columns;
    float epsilon;
    /* of rope */
    int heads, rotary;
    enum rope_style style;
    const int32_t *positions;
    const float *cosines, *sines;
    enum gate_kind gate;
};

static void run_rows(struct llm_job *j, int threads, void (*body)(void *ctx, int part, int parts))
{
    const int parts = j->rows * j->columns < LLM_PARALLEL_MIN || j->rows < threads ? 1 : threads < 1 ? 1 : threads;
    if (j->rows > 0 && j->columns > 0) parallel_for(parts, parts, body, j);
}

static void rope_head(float *x, int rotary, enum rope_style style, const float *c, const float *s)
{
    const int pairs = rotary / 2;
    int i = 0;
    if (style == ROPE_STYLE_HALF) {
        for (; i + LANES <= pairs; i += LANES) {
            const vec a = vec_load(x + i), b = vec_load(x + pairs + i), cos = vec_load(c + i), sin = vec_load(s + i);
            vec_store(x + i, a * cos - b * sin);
            vec_store(x + pairs + i, b * cos + a * sin);
        }
        for (; i < pairs; i++) {
            const float a = x[i], b = x[pairs + i];
            x[i] = a * c[i] - b * s[i], x[pairs + i] = b * c[i] + a * s[i];
        }
        return;
    }
    for (; i < pairs; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i], x[2 * i + 1] = b * c[i] + a * s[i];
    }
}

static void rope_part(void *ctx, int part, int parts)
{
    const struct llm_job *j = ctx;
    const int64_t dim = j->columns / j->heads;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++) {
        const int64_t at = (int64_t)j->positions[r] * (j->rotary / 2);
        for (int h = 0; h < j->heads; h++) rope_head(j->y + r * j->ldy + h * dim, j->rotary, j->style, j->cosines + at, j->sines + at);
    }
}

static void rope_f32(float *x, int64_t ldx, int64_t rows, int heads, int head_dim, int rotary, enum rope_style style, const int32_t *positions,
                     const float *cosines, const float *sines, int threads)
{
    struct llm_job j = { .y = x, .ldy = ldx, .rows = rows, .columns = (int64_t)heads * head_dim, .heads = heads, .rotary = rotary, .style = style, .positions = positions, .cosines = cosines, .sines = sines };
    run_rows(&j, threads, rope_part);
}

/* The squares go into 4 vectors of sums in turn. */
static void rms_norm_row(const struct llm_job *j, float *y, const float *x)
{
    vec sum[4] = { vec_set(0.0f), vec_set(0.0f), vec_set(0.0f), vec_set(0.0f) };
    int64_t c = 0;
    for (; c + 4 * LANES <= j->columns; c += 4 * LANES)
        for (int i = 0; i < 4; i++) {
            const vec v = vec_load(x + c + i * LANES);
            sum[i] = vec_fma(v, v, sum[i]);
        }
    for (; c < j->columns; c += LANES) {
        const vec v = vec_load_n(x + c, j->columns - c < LANES ? (int)(j->columns - c) : LANES);
        sum[0] = vec_fma(v, v, sum[0]);
    }
    const vec rate = vec_set(1.0f / sqrtf(vec_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)j->columns + j->epsilon));
    for (c = 0; c < j->columns; c += LANES) {
        const int n = j->columns - c < LANES ? (int)(j->columns - c) : LANES;
        vec v = vec_load_n(x + c, n) * rate;
        if (j->other) v = v * vec_load_n(j->other + c, n);
        vec_store_n(y + c, v, n);
    }
}

static void rms_norm_part(void *ctx, int part, int parts)
{
    const struct llm_job *j = ctx;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++) rms_norm_row(j, j->y + r * j->ldy, j->x + r * j->ldx);
}

static void rms_norm_f32(float *y, int64_t ldy, const float *x, int64_t ldx, const float *weight, int64_t rows, int64_t columns, float epsilon, int threads)
{
    struct llm_job j = { .y = y, .x = x, .other = weight, .ldy = ldy, .ldx = ldx, .rows = rows, .columns = columns, .epsilon = epsilon };
    run_rows(&j, threads, rms_norm_part);
}

/* `kind` is a constant at every call. */
VEC_INLINE vec gate_one(vec g, vec u, enum gate_kind kind, float limit)
{
    const vec zero = vec_set(0.0f), one = vec_set(1.0f);
    switch (kind) {
    case GATE_SILU:      return vec_activate(g, ACT_SILU, zero, zero) * u;
    case GATE_GELU:      return vec_activate(g, ACT_GELU, zero, zero) * u;
    case GATE_GELU_TANH: return vec_activate(g, ACT_GELU_TANH, zero, zero) * u;
    case GATE_RELU:      return vec_activate(g, ACT_RELU, zero, zero) * u;
    case GATE_SIGMOID:   return vec_sigmoid(g) * u;
    case GATE_CLAMPED:   break;
    }
    const vec high = vec_set(limit);
    g = vec_min(high, g);
    u = vec_clamp(u, zero - high, high);
    return (u + one) * (g * vec_sigmoid(g * vec_set(1.702f)));
}

static void gate_part(void *ctx, int part, int parts)
{
    const struct llm_job *j = ctx;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++) {
        const float *g = j->x + r * j->ldx, *u = j->other + r * j->ldo;
        float *y = j->y + r * j->ldy;
        switch (j->gate) {
#define GATE(kind_)                                                                                                          \
    case kind_:                                                                                                              \
        for (int64_t c = 0; c < j->columns; c += LANES) {                                                                    \
            const int n = j->columns - c < LANES ? (int)(j->columns - c) : LANES;                                            \
            vec_store_n(y + c, gate_one(vec_load_n(g + c, n), vec_load_n(u + c, n), kind_, j->epsilon), n);                   \
        }                                                                                                                    \
        break;
        GATE(GATE_SILU)
        GATE(GATE_GELU)
        GATE(GATE_GELU_TANH)
        GATE(GATE_RELU)
        GATE(GATE_SIGMOID)
        GATE(GATE_CLAMPED)
#undef GATE
        }
    }
}

static void gate_f32(float *y, int64_t ldy, const float *gate, int64_t ldg, const float *up, int64_t ldu, int64_t rows, int64_t columns, enum gate_kind kind, float limit, int threads)
{
    struct llm_job j = { .y = y, .x = gate, .other = up, .ldy = ldy, .ldx = ldg, .ldo = ldu, .rows = rows, .columns = columns, .epsilon = limit, .gate = kind };
    run_rows(&j, threads, gate_part);
}

static void llm_fill(struct llm_kernels *k)
{
    k->attention_paged = attention_paged;
    k->attention_store = attention_store;
    k->rope_f32 = rope_f32;
    k->rms_norm_f32 = rms_norm_f32;
    k->gate_f32 = gate_f32;
}

#endif
