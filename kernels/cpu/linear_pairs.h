/* A panel of bfloat16 weights (kernels/linear_panels.h) as tiles of a right side: row r of a tile holds k = 2r and 2r + 1 of 16 columns, pair by pair. */
#ifndef KERNELS_CPU_LINEAR_PAIRS_H
#define KERNELS_CPU_LINEAR_PAIRS_H

#include "kernels/cpu/bf16_pairs.h"
#include "kernels/linear_panels.h"

enum { PAIRS_TILE = 16 * 32 };

/* k numbers from `from` on to every second tile from b on: they only change places; beyond the last k are zeros. limit: all of k. */
static inline void tiles_of_bf16(uint16_t *b, const uint8_t *panel, int64_t from, int64_t k, int64_t limit)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t i = from; i < from + k; i += 2) {
        const __m512i both = i + 1 < limit ? _mm512_loadu_si512(panel + i * PANEL_ROWS * 2) : i < limit ? _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(panel + i * PANEL_ROWS * 2))) : _mm512_setzero_si512();
        const int64_t at = i - from;
        __builtin_prefetch(panel + i * PANEL_ROWS * 2 + 4096, 0, 3);
        _mm512_storeu_si512(b + at / 32 * 2 * PAIRS_TILE + at % 32 / 2 * 32, _mm512_permutexvar_epi16(order, both));
    }
}

#endif
