/* y = x W with W as lists of what is not 0 (kernels/sparse.h), at one level (kernels/cpu/vec.h). The 16 columns of a group go down their lists in step: for one row a vector of sums is 16
 * columns, and what they meet of x is gathered; for 16 and 32 rows a vector of sums is rows of one column, and as many columns go together as fill the registers. */
#ifndef KERNELS_CPU_SPARSE_BODY_H
#define KERNELS_CPU_SPARSE_BODY_H

#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

enum { PREFETCH_STEPS = 16 };

static void sparse_row(float *y, const float *x, const struct sparse_columns *s, int64_t group)
{
    float sum[SPARSE_GROUP];
#if defined(__AVX512F__)
    vec a = vec_set(0.0f);
    for (int64_t i = s->begin[group]; i < s->begin[group + 1]; i++) {
        const __m512i at = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(s->places + i * SPARSE_GROUP)));
        __builtin_prefetch(s->values + (i + PREFETCH_STEPS) * SPARSE_GROUP);
        a = vec_fma(_mm512_i32gather_ps(at, x, 4), vec_load(s->values + i * SPARSE_GROUP), a);
    }
    vec_store(sum, a);
#elif defined(__AVX2__)
    vec a = vec_set(0.0f), b = vec_set(0.0f);
    for (int64_t i = s->begin[group]; i < s->begin[group + 1]; i++) {
        const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(s->places + i * SPARSE_GROUP))), high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(s->places + i * SPARSE_GROUP + LANES)));
        __builtin_prefetch(s->values + (i + PREFETCH_STEPS) * SPARSE_GROUP);
        a = vec_fma(_mm256_i32gather_ps(x, low, 4), vec_load(s->values + i * SPARSE_GROUP), a);
        b = vec_fma(_mm256_i32gather_ps(x, high, 4), vec_load(s->values + i * SPARSE_GROUP + LANES), b);
    }
    vec_store(sum, a);
    vec_store(sum + LANES, b);
#else
    for (int c = 0; c < SPARSE_GROUP; c++) {
        sum[c] = 0;
        for (int64_t i = s->begin[group]; i < s->begin[group + 1]; i++) sum[c] = __builtin_fmaf(x[s->places[i * SPARSE_GROUP + c]], s->values[i * SPARSE_GROUP + c], sum[c]);
    }
#endif
    for (int c = 0; c < SPARSE_GROUP; c++)
        if (s->order[group * SPARSE_GROUP + c] >= 0) y[s->order[group * SPARSE_GROUP + c]] = sum[c];
}

/* `columns` columns of a group from `first` on, for vecs * LANES rows: x [k][rows], y [n][rows]. */
VEC_INLINE void sparse_tile(const int vecs, const int columns, float *y, const float *x, const struct sparse_columns *s, int64_t group, int first)
{
    vec sum[SPARSE_GROUP][32 / LANES];
    const int rows = vecs * LANES;
#pragma GCC unroll 16
    for (int c = 0; c < columns; c++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) sum[c][v] = vec_set(0.0f);
    const uint16_t *places = s->places + s->begin[group] * SPARSE_GROUP + first;
    const float *values = s->values + s->begin[group] * SPARSE_GROUP + first;
    for (int64_t steps = s->begin[group + 1] - s->begin[group]; steps > 0; steps--, places += SPARSE_GROUP, values += SPARSE_GROUP) {
        __builtin_prefetch(values + PREFETCH_STEPS * SPARSE_GROUP);
#pragma GCC unroll 16
        for (int c = 0; c < columns; c++) {
            const float *from = x + (int64_t)places[c] * rows;
            const vec w = vec_set(values[c]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sum[c][v] = vec_fma(vec_load(from + v * LANES), w, sum[c][v]);
        }
    }
#pragma GCC unroll 16
    for (int c = 0; c < columns; c++) {
        const int64_t j = s->order[group * SPARSE_GROUP + first + c];
        if (j < 0) continue;
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) vec_store(y + j * rows + v * LANES, sum[c][v]);
    }
}

/* Columns at once: 16 sums of AVX-512's 32 registers, 8 of AVX2's 16; the reference takes one. */
#define SPARSE_SUMS (LANES == 16 ? 16 : LANES == 8 ? 8 : 32)
#define SPARSE_AT_ONCE(vecs) (SPARSE_SUMS / (vecs) > 0 ? SPARSE_SUMS / (vecs) : 1)

static __attribute__((noinline)) void sparse_tile_16(float *y, const float *x, const struct sparse_columns *s, int64_t group, int first) { sparse_tile(16 / LANES, SPARSE_AT_ONCE(16 / LANES), y, x, s, group, first); }
static __attribute__((noinline)) void sparse_tile_32(float *y, const float *x, const struct sparse_columns *s, int64_t group, int first) { sparse_tile(32 / LANES, SPARSE_AT_ONCE(32 / LANES), y, x, s, group, first); }

static void sparse_f32(float *y, const float *x, int rows, const struct sparse_columns *s, int64_t from, int64_t to)
{
    for (int64_t g = from; g < to; g++) {
        if (rows == 1) sparse_row(y, x, s, g);
        for (int first = 0; rows == 16 && first < SPARSE_GROUP; first += SPARSE_AT_ONCE(16 / LANES)) sparse_tile_16(y, x, s, g, first);
        for (int first = 0; rows == 32 && first < SPARSE_GROUP; first += SPARSE_AT_ONCE(32 / LANES)) sparse_tile_32(y, x, s, g, first);
    }
}

#endif
