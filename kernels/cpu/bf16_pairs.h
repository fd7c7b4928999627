/* Floats to bfloat16 as tiles and dot products take them, pair by pair, and what is left of a vector at a row's end. */
#ifndef KERNELS_CPU_BF16_PAIRS_H
#define KERNELS_CPU_BF16_PAIRS_H

#include <immintrin.h>
#include <stdbool.h>
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
static inline __m512 widen_16(__m256i x) { return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }

/* The mask's of 16 numbers from `at` on, which lie in memory as floats or, with `halves`, as bfloat16; the others are zeros, or stay as they are there. */
static inline __m512 either_load(const void *x, int64_t at, __mmask16 mask, bool halves)
{
    return halves ? widen_16(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + at)) : _mm512_maskz_loadu_ps(mask, (const float *)x + at);
}
static inline void either_store(void *y, int64_t at, __mmask16 mask, __m512 x, bool halves)
{
    if (halves) _mm256_mask_storeu_epi16((uint16_t *)y + at, mask, round_16(x));
    else _mm512_mask_storeu_ps((float *)y + at, mask, x);
}

/* Numbers [at, at + 32) of such a row of n, rounded; zeros beyond. */
static inline __m512i either_pairs(const void *x, int64_t at, int64_t n, bool halves)
{
    const int64_t left = n - at;
    if (halves) return _mm512_maskz_loadu_epi16(left >= 32 ? 0xffffffffu : left <= 0 ? 0 : (1u << left) - 1, (const uint16_t *)x + at);
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(first(left - 16), (const float *)x + at + 16), _mm512_maskz_loadu_ps(first(left), (const float *)x + at));
}

#endif
