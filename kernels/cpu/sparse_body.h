/* Columns of y = x W with W as lists of what is not 0 (kernels/sparse.h), at one level (kernels/cpu/vec.h). Several columns go together, so that their chains of sums hide each other's
 * latency: as far as the shortest list reaches in step, then each to its end. */
#ifndef KERNELS_CPU_SPARSE_BODY_H
#define KERNELS_CPU_SPARSE_BODY_H

#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

/* `columns` columns from j on, for one row. */
VEC_INLINE void sparse_row(const int columns, float *y, const float *x, const struct sparse_columns *s, int64_t j)
{
    float sum[8];
    int64_t common = INT64_MAX;
    for (int c = 0; c < columns; c++) {
        const int64_t n = s->begin[j + c + 1] - s->begin[j + c];
        sum[c] = 0;
        common = n < common ? n : common;
    }
    for (int64_t i = 0; i < common; i++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) sum[c] = __builtin_fmaf(x[s->places[s->begin[j + c] + i]], s->values[s->begin[j + c] + i], sum[c]);
    for (int c = 0; c < columns; c++) {
        for (int64_t i = s->begin[j + c] + common; i < s->begin[j + c + 1]; i++) sum[c] = __builtin_fmaf(x[s->places[i]], s->values[i], sum[c]);
        y[j + c] = sum[c];
    }
}

/* The same for vecs * LANES rows: x [k][rows], y [n][rows]. */
VEC_INLINE void sparse_tile(const int vecs, const int columns, float *y, const float *x, const struct sparse_columns *s, int64_t j)
{
    vec sum[8][8];
    const int rows = vecs * LANES;
    int64_t common = INT64_MAX;
    for (int c = 0; c < columns; c++) {
        const int64_t n = s->begin[j + c + 1] - s->begin[j + c];
        for (int v = 0; v < vecs; v++) sum[c][v] = vec_set(0.0f);
        common = n < common ? n : common;
    }
    const uint16_t *places[8];
    const float *values[8];
    for (int c = 0; c < columns; c++) {
        places[c] = s->places + s->begin[j + c];
        values[c] = s->values + s->begin[j + c];
    }
    for (int64_t i = 0; i < common; i++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            const float *from = x + (int64_t)places[c][i] * rows;
            const vec w = vec_set(values[c][i]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sum[c][v] = vec_fma(vec_load(from + v * LANES), w, sum[c][v]);
        }
    for (int c = 0; c < columns; c++) {
        for (int64_t i = common, n = s->begin[j + c + 1] - s->begin[j + c]; i < n; i++) {
            const float *from = x + (int64_t)places[c][i] * rows;
            const vec w = vec_set(values[c][i]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sum[c][v] = vec_fma(vec_load(from + v * LANES), w, sum[c][v]);
        }
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) vec_store(y + (j + c) * rows + v * LANES, sum[c][v]);
    }
}

#define SPARSE_SPAN(name, call, columns)                                                                                                  \
    static __attribute__((noinline)) void name(float *y, const float *x, const struct sparse_columns *s, int64_t from, int64_t to)       \
    {                                                                                                                                      \
        int64_t j = from;                                                                                                                 \
        for (; j + (columns) <= to; j += (columns)) call(columns, y, x, s, j);                                                            \
        for (; j < to; j++) call(1, y, x, s, j);                                                                                          \
    }
#define SPARSE_ROW(columns, y, x, s, j)  sparse_row(columns, y, x, s, j)
SPARSE_SPAN(sparse_span_1, SPARSE_ROW, 8)
#if LANES_KNOWN >= 8
#define SPARSE_16(columns, y, x, s, j)   sparse_tile(16 / LANES, columns, y, x, s, j)
#define SPARSE_32(columns, y, x, s, j)   sparse_tile(32 / LANES, columns, y, x, s, j)
SPARSE_SPAN(sparse_span_16, SPARSE_16, 4)
SPARSE_SPAN(sparse_span_32, SPARSE_32, 2)
#else
/* The reference: row by row. */
static void sparse_span_any(float *y, const float *x, const struct sparse_columns *s, int rows, int64_t from, int64_t to)
{
    for (int64_t j = from; j < to; j++)
        for (int r = 0; r < rows; r++) {
            float sum = 0;
            for (int64_t i = s->begin[j]; i < s->begin[j + 1]; i++) sum = __builtin_fmaf(x[(int64_t)s->places[i] * rows + r], s->values[i], sum);
            y[j * rows + r] = sum;
        }
}
static void sparse_span_16(float *y, const float *x, const struct sparse_columns *s, int64_t from, int64_t to) { sparse_span_any(y, x, s, 16, from, to); }
static void sparse_span_32(float *y, const float *x, const struct sparse_columns *s, int64_t from, int64_t to) { sparse_span_any(y, x, s, 32, from, to); }
#endif

static void sparse_f32(float *y, const float *x, int rows, const struct sparse_columns *s, int64_t from, int64_t to)
{
    if (rows == 1) sparse_span_1(y, x, s, from, to);
    else if (rows == 16) sparse_span_16(y, x, s, from, to);
    else sparse_span_32(y, x, s, from, to);
}

#endif
