/* Floats to bfloat16 as tiles and dot products take them, pair by pair, and what is left of a vector at a row's end. */
#ifndef KERNELS_CPU_BF16_PAIRS_H
#define KERNELS_CPU_BF16_PAIRS_H

#include <immintrin.h>
#include <stdint.h>

/* Two rows of a right side: lane i holds even[i], then odd[i]. */
static inline __m512i pair_of(__m512 even, __m512 odd)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* a mask of the first n of 16 lanes, all where n is more and none where it is below 1 */
static inline __mmask16 first(int64_t n) { return n >= 16 ? (__mmask16)0xffff : n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1); }

static inline __m256i round_16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

#endif
