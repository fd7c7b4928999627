/* Rows of x rounded to 8 bits in blocks of 32 (struct panel_block of kernels/linear_panels.h), with the same bits at every level that rounds by vectors. */
#ifndef KERNELS_CPU_LINEAR_ROUND_H
#define KERNELS_CPU_LINEAR_ROUND_H

#include "kernels/cpu/vec_lanes.h"
#include "kernels/linear_panels.h"

static const uint32_t SCALE_LOST = 3;    /* a scale's last bits: it keeps 22, so that 1.5 2^23 times as much is a float */
static const float ROUND_LEAST = 1e-30f, ROUND_MOST = 1e33f;       /* magnitudes: below the first a block is zeros, above the second it is not finite, as its sums might not be */

/* The largest of a block's magnitudes; what is not finite counts as larger than any that is, as its bits do. */
VEC_INLINE float block_top(const float *x)
{
    uint32_t top = 0;
#if defined(__AVX512F__)
    const __m512i low = (__m512i)vec_abs(vec_load(x)), high = (__m512i)vec_abs(vec_load(x + 16));
    top = (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(low, high));
#elif defined(__AVX2__)
    __m256i v[4];
    for (int i = 0; i < 4; i++) v[i] = (__m256i)vec_abs(vec_load(x + 8 * i));
    const __m256i all = _mm256_max_epi32(_mm256_max_epi32(v[0], v[1]), _mm256_max_epi32(v[2], v[3]));
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    top = (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
    for (int i = 0; i < PANEL_BLOCK; i++) {
        const uint32_t bits = vec_to_bits(fabsf(x[i]));
        if (bits > top) top = bits;
    }
#endif
    return vec_from_bits(top);
}

/* Of a block: returns 127 / largest magnitude, 0 where that is next to nothing; *scale its inverse, not finite when some number is not. */
VEC_INLINE float block_range(const float *x, float *scale)
{
    const float most = block_top(x);
    *scale = most < ROUND_MOST ? vec_from_bits(vec_to_bits(most / 127.0f) & ~SCALE_LOST) : __builtin_inff();
    return most > ROUND_LEAST && most < ROUND_MOST ? 127.0f / most : 0.0f;
}

/* A block's numbers; sum: of the first 16 of them and of the others. */
VEC_INLINE void block_round(int8_t *numbers, int sum[2], const float *x, float rate)
{
#if defined(__AVX2__)
#if defined(__AVX512F__)
    const __m256i bytes = _mm256_setr_m128i(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vec_load(x) * vec_set(rate))), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vec_load(x + 16) * vec_set(rate))));
#else
    __m256i q[4];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(vec_load(x + 8 * i) * vec_set(rate));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#endif
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    const __m256i eights = _mm256_hadd_epi32(fours, fours), all = _mm256_hadd_epi32(eights, eights);
    sum[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(all)), sum[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(all, 1));
    _mm256_storeu_si256((__m256i *)numbers, bytes);
#else
    sum[0] = sum[1] = 0;
    for (int i = 0; i < PANEL_BLOCK; i++) {
        const float v = rintf(x[i] * rate);
        numbers[i] = (int8_t)(v > -128 && v < 128 ? v : 0);
        sum[i / 16] += numbers[i];
    }
#endif
}

/* offset: what the numbers u of dot products are above the weights' own, where they are not taken as signed */
VEC_INLINE void round_block(struct panel_block *y, const struct panel_layout *p, int offset, const float *x)
{
    int sum[2];
    block_round(y->numbers, sum, x, block_range(x, &y->scale));
    y->less = -0x1.8p23f * y->scale;
    if (!p->two) sum[0] += sum[1], sum[1] = 0;
    for (int h = 0; h < 2; h++) {
        if (p->minimum) y->moment[h] = y->scale * (float)sum[h];
        else y->start[h] = LANES_ZERO - offset * sum[h];
    }
}

#endif
