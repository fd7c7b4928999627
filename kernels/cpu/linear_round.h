/* Rows of x rounded to 8 bits in blocks of 32 (struct panel_block of kernels/linear_panels.h), with the same bits at every level that rounds by vectors. */
#ifndef KERNELS_CPU_LINEAR_ROUND_H
#define KERNELS_CPU_LINEAR_ROUND_H

#include "kernels/cpu/vec_lanes.h"
#include "kernels/linear_panels.h"

/* Of a block: returns 127 / largest magnitude, 0 where that is next to nothing; *scale its inverse, not finite when some number is not. */
VEC_INLINE float block_range(const float *x, float *scale)
{
    vec top = vec_set(0.0f), poison = top;
    for (int i = 0; i < PANEL_BLOCK; i += LANES) {
        const vec v = vec_load(x + i);
        top = vec_max(top, vec_abs(v));
        poison = vec_fma(v, vec_set(0.0f), poison);
    }
    const float most = vec_top(top);
    *scale = most / 127.0f + vec_sum(poison);
    return most > 1e-30f && most < __builtin_inff() ? 127.0f / most : 0.0f;
}

VEC_INLINE void block_round(int8_t *numbers, const float *x, float rate)
{
#if defined(__AVX512F__)
    for (int i = 0; i < PANEL_BLOCK; i += 16) _mm_storeu_si128((__m128i *)(numbers + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vec_load(x + i) * vec_set(rate))));
#elif defined(__AVX2__)
    __m256i q[4];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(vec_load(x + 8 * i) * vec_set(rate));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)numbers, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
    for (int i = 0; i < PANEL_BLOCK; i++) {
        const float v = rintf(x[i] * rate);
        numbers[i] = (int8_t)(v > -128 && v < 128 ? v : 0);
    }
#endif
}

/* offset: what the numbers u of dot products are above the weights' own, where they are not taken as signed */
VEC_INLINE void round_block(struct panel_block *y, const struct panel_layout *p, int offset, const float *x)
{
    int sum[2] = { 0, 0 };
    block_round(y->numbers, x, block_range(x, &y->scale));
    for (int i = 0; i < 16; i++) sum[0] += y->numbers[i], sum[1] += y->numbers[16 + i];
    if (!p->two) sum[0] += sum[1], sum[1] = 0;
    for (int h = 0; h < 2; h++) {
        if (p->minimum) y->moment[h] = y->scale * (float)sum[h];
        else y->start[h] = -offset * sum[h];
    }
}

#endif
