/* Dot products of bfloat16 pairs: a block of sums in registers, for machines that have them at full rate and no tiles.
 *
 * The right side lies as tiles do: [steps][16 pairs][16 columns][2], 32 of k a step. The left side is rows of 32 numbers for each step, whose
 * places lie `apart` numbers from one step to the next. 8 rows by 2 vectors of sums take 2 loads and 8 broadcasts for 16 products. */
#ifndef KERNELS_CPU_AVX512BF16_DOTS_H
#define KERNELS_CPU_AVX512BF16_DOTS_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { DOT_ROWS = 8, DOT_TILE = 16 * 32 };

/* Numbers 2p and 2p + 1 of a row in every lane. */
static inline __m512bh pair_of_row(const uint16_t *row)
{
    int both;
    memcpy(&both, row, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* sum += pairs of DOT_ROWS rows from x on, by vectors from b on */
static inline __attribute__((always_inline)) void dots_pair(const int vectors, __m512 sum[DOT_ROWS][2], const uint16_t *x, int64_t lda, const uint16_t *b, int64_t beside)
{
    __m512bh right[2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) right[v] = (__m512bh)_mm512_loadu_si512(b + v * beside);
#pragma GCC unroll 8
    for (int i = 0; i < DOT_ROWS; i++) {
        const __m512bh left = pair_of_row(x + i * lda);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
    }
}

/* c [DOT_ROWS, 16 vectors], ldc apart, += depth of k (odd: both sides have a zero behind it); from 0 with `begin`. The right side's second tile is `beside` numbers on, its next step `next`.
 * ahead: how many numbers on the rows begin that are wanted next; 0: nobody knows. */
static inline __attribute__((always_inline)) void dots_add(const int vectors, float *c, int64_t ldc, const uint16_t *a, int64_t lda, int64_t apart, const uint16_t *b, int64_t beside, int64_t next, int64_t depth, bool begin, int64_t ahead)
{
    const int64_t steps = depth / 32, rest = (depth % 32 + 1) / 2;
    __m512 sum[DOT_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < DOT_ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[i][v] = begin ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * ldc + v * 16);
    for (int64_t s = 0; s < steps; s++, a += apart, b += next) {
#pragma GCC unroll 8
        for (int i = 0; ahead && i < DOT_ROWS; i++) __builtin_prefetch(a + ahead + i * lda, 0, 3);
#pragma GCC unroll 4
        for (int p = 0; p < 16; p++) dots_pair(vectors, sum, a + 2 * p, lda, b + p * 32, beside);
    }
    for (int64_t p = 0; p < rest; p++) dots_pair(vectors, sum, a + 2 * p, lda, b + p * 32, beside);
#pragma GCC unroll 8
    for (int i = 0; i < DOT_ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(c + i * ldc + v * 16, sum[i][v]);
}

#endif
