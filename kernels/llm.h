/* What a language model needs beside kernels.h and linear.h, as a table of one level: attention, rotary positions, RMS norm, gates. */
#ifndef KERNELS_LLM_H
#define KERNELS_LLM_H

#include "kernels/attention.h"
#include "kernels/kernels.h"

/* Which two numbers of a head turn together: i and i + rotary / 2, or 2i and 2i + 1. */
enum rope_style { ROPE_STYLE_HALF, ROPE_STYLE_ADJACENT };

enum gate_kind {
    GATE_SILU, GATE_GELU /* erf */, GATE_GELU_TANH, GATE_RELU, GATE_SIGMOID,
    GATE_CLAMPED         /* g = min(gate, limit), u = clamp(up, -limit, limit): (u + 1) g sigmoid(1.702 g) (gpt-oss) */
};

struct llm_kernels {
    enum cpu_level level;

    /* y [t, heads head_dim_v], q [t, heads head_dim], t rows in all as `rows` say, ldy and ldq apart. Page p is pool + p * page_stride. Rows that no entry names are
     * left alone. The keys and values of the rows' own positions must be stored already. */
    void (*attention_paged)(float *y, int64_t ldy, const float *q, int64_t ldq, const void *pool, uint64_t page_stride, const struct attention_spec *s,
                            const struct attention_row *rows, int row_count, void *scratch, int threads);
    /* The same in bfloat16, quick for entries of many rows: queries, keys, values and weights rounded to bfloat16, scores and sums in float; a query's bits depend on how its
     * sequence is cut into calls. Only where attention_suits_bf16. NULL unless cpu_is_quick_at_bf16. */
    void (*attention_bf16)(float *y, int64_t ldy, const float *q, int64_t ldq, const void *pool, uint64_t page_stride, const struct attention_spec *s,
                            const struct attention_row *rows, int row_count, void *scratch, int threads);
    uint64_t (*attention_bf16_scratch)(const struct attention_spec *s, int threads);
    /* k [t, kv_heads head_dim], v [t, kv_heads head_dim_v], ldk and ldv apart, into their pages. Two entries may not name the same position of a page. */
    void (*attention_store)(void *pool, uint64_t page_stride, const struct attention_spec *s, const float *k, int64_t ldk, const float *v, int64_t ldv,
                            const struct attention_row *rows, int row_count, int threads);

    /* In place on x [rows, heads, head_dim], rows ldx apart: the first `rotary` numbers of each head turn by row positions[r] of cosines and sines [.., rotary / 2]. */
    void (*rope_f32)(float *x, int64_t ldx, int64_t rows, int heads, int head_dim, int rotary, enum rope_style style, const int32_t *positions,
                     const float *cosines, const float *sines, int threads);

    /* y[r, c] = x[r, c] / sqrt(mean(x[r]^2) + epsilon) * weight[c]; weight NULL: 1. y may be x. */
    void (*rms_norm_f32)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *weight, int64_t rows, int64_t columns, float epsilon, int threads);

    /* y[r, c] = act(gate[r, c]) * up[r, c]; y may be gate or up. limit: of GATE_CLAMPED. */
    void (*gate_f32)(float *y, int64_t ldy, const float *gate, int64_t ldg, const float *up, int64_t ldu, int64_t rows, int64_t columns, enum gate_kind kind, float limit, int threads);
};

/* Fills the table for min(cap, what the machine has). */
void llm_kernels_fill(struct llm_kernels *k, enum cpu_level cap);

#endif
