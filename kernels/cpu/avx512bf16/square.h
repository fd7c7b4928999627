/* Products of squares of bfloat16 numbers: what kernels/cpu/attention_bf16.h is written in, at this level. */
#ifndef KERNELS_CPU_AVX512BF16_SQUARE_H
#define KERNELS_CPU_AVX512BF16_SQUARE_H

#include "kernels/cpu/avx512bf16/dots.h"

static inline void squares_begin(void) {}
static inline void squares_end(void) {}

/* c [32 or 16, 32 or 16] (`down`, `across` 1: two tiles) += a [.., depth] by tiles b, the tile beside b `beside` numbers on and the next step of 32 of depth `next` numbers on; both are zeros up to a whole step */
static inline void square_add(float *c, int64_t ldc, int down, int across, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t beside, int64_t next, int64_t depth, int begin)
{
    for (int i = 0; i < (down ? 32 : 16); i += DOT_ROWS)
        if (across) dots_add(2, c + i * ldc, ldc, a + i * lda, lda, 32, b, beside, next, depth, begin, 0);
        else dots_add(1, c + i * ldc, ldc, a + i * lda, lda, 32, b, beside, next, depth, begin, 0);
}

#endif
