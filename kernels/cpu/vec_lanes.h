/* Sixteen lanes at any level: what the panels of kernels/linear_panels.h are worked on with. `lanes_f` holds 16 floats, `lanes_i` 16 sums of 32 bits, `lanes_b`
 * 64 bytes. AVX-512 with VNNI has them as one register, AVX2 as two, scalar code as arrays. All levels give the same bits: integer sums are
 * exact and floats are worked on lane by lane. */
#ifndef KERNELS_CPU_VEC_LANES_H
#define KERNELS_CPU_VEC_LANES_H

#include <math.h>

#include "kernels/blocks_types.h"
#include "kernels/cpu/vec_half.h"

/* lanes_f_scaled: scale times the sums, rounded once, where sums have started from LANES_ZERO. AVX-512 starts them from the bits of 1.5 2^23: read as a float a sum is then
 * 1.5 2^23 + sum as long as that is below 2^22, and one fused multiply-add with less = -1.5 2^23 scale takes the place of a conversion and a product. The scale has 22 bits, so that
 * less is exact and the bits are those of the other levels.
 * VNNI multiplies unsigned by signed bytes without saturation. AVX2's pairs of 16 bits would saturate for u above 127, so 8-bit weights are taken signed there. */
#if defined(__AVX512VNNI__)

enum { LANES_SIGNED_WIDE = 0, LANES_ZERO = 0x4b400000 };
#define lanes_f __m512
#define lanes_i __m512i
#define lanes_b __m512i
VEC_INLINE lanes_b lanes_b_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
VEC_INLINE void    lanes_b_store(uint8_t *p, lanes_b x) { _mm512_storeu_si512(p, x); }
VEC_INLINE lanes_b lanes_b_bits(lanes_b x, int shift, int mask) { return _mm512_and_si512(_mm512_srli_epi16(x, (unsigned)shift), _mm512_set1_epi8((char)mask)); }
VEC_INLINE lanes_b lanes_b_join(lanes_b low, lanes_b high, int shift) { return _mm512_or_si512(low, _mm512_slli_epi16(high, (unsigned)shift)); }
/* table[x] ^ flip for x of 4 bits */
VEC_INLINE lanes_b lanes_b_table(lanes_b x, const int8_t *table, int flip)
{
    const __m512i t = _mm512_broadcast_i32x4(_mm_xor_si128(_mm_loadu_si128((const __m128i *)table), _mm_set1_epi8((char)flip)));
    return _mm512_shuffle_epi8(t, x);
}
VEC_INLINE lanes_b lanes_b_flip(lanes_b x) { return _mm512_xor_si512(x, _mm512_set1_epi8((char)0x80)); }
VEC_INLINE lanes_i lanes_i_set(int32_t v) { return _mm512_set1_epi32(v); }
/* sums + u . x for the 4 bytes of each lane; the same 4 signed bytes x for every lane */
VEC_INLINE lanes_i lanes_i_dot(lanes_i sums, lanes_b u, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_dpbusd_epi32(sums, u, _mm512_set1_epi32(four));
}
/* byte `at` (0..3) of each lane */
VEC_INLINE lanes_i lanes_i_byte(lanes_b x, int at) { return _mm512_and_si512(_mm512_srli_epi32(x, (unsigned)at * 8), _mm512_set1_epi32(255)); }
VEC_INLINE lanes_f lanes_f_from(lanes_i x) { return _mm512_cvtepi32_ps(x); }
VEC_INLINE lanes_f lanes_f_set(float v) { return _mm512_set1_ps(v); }
VEC_INLINE lanes_f lanes_f_mul(lanes_f a, lanes_f b) { return _mm512_mul_ps(a, b); }
VEC_INLINE lanes_f lanes_f_add(lanes_f a, lanes_f b) { return _mm512_add_ps(a, b); }
VEC_INLINE lanes_f lanes_f_sub(lanes_f a, lanes_f b) { return _mm512_sub_ps(a, b); }
VEC_INLINE lanes_f lanes_f_fma(lanes_f a, lanes_f b, lanes_f c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE lanes_f lanes_f_fnma(lanes_f a, lanes_f b, lanes_f c) { return _mm512_fnmadd_ps(a, b, c); }      /* c - a b */
VEC_INLINE lanes_f lanes_f_scaled(lanes_i sums, float scale, float less) { return _mm512_fmadd_ps((__m512)sums, _mm512_set1_ps(scale), _mm512_set1_ps(less)); }
VEC_INLINE lanes_f lanes_f_f16(const uint8_t *p) { return vec_load_f16((const uint16_t *)(const void *)p); }
/* 16 pairs of bfloat16: the first or second number of each */
VEC_INLINE lanes_f lanes_f_bf16(const uint8_t *p, int second)
{
    const __m512i both = _mm512_loadu_si512(p);
    return (__m512)(second ? _mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(both, 16));
}
VEC_INLINE lanes_f lanes_f_i8(const uint8_t *p) { return vec_load_i8((const int8_t *)p); }
/* bits of each lane's byte as floats */
VEC_INLINE lanes_f lanes_f_bits(const uint8_t *p, int shift, int mask)
{
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), (unsigned)shift), _mm512_set1_epi32(mask)));
}
VEC_INLINE lanes_f lanes_f_u8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))); }
/* 2^(e - 128) of each lane's byte, as block_power_mxfp4 */
VEC_INLINE lanes_f lanes_f_power(const uint8_t *p)
{
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    return (__m512)_mm512_mask_sllv_epi32(normal, _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), _mm512_set1_epi32(0x00200000), e);
}
VEC_INLINE lanes_f lanes_f_load(const float *p, int n) { return _mm512_maskz_loadu_ps(vec_mask(n), p); }
VEC_INLINE void    lanes_f_store(float *p, lanes_f x, int n) { _mm512_mask_storeu_ps(p, vec_mask(n), x); }
/* lanes 0-7 and 8-15 */
VEC_INLINE void    lanes_f_store_halves(float *low, float *high, lanes_f x) { _mm256_storeu_ps(low, _mm512_castps512_ps256(x)), _mm256_storeu_ps(high, _mm512_extractf32x8_ps(x, 1)); }

#elif defined(__AVX2__)

enum { LANES_SIGNED_WIDE = 1, LANES_ZERO = 0 };
struct lanes_float { __m256 v[2]; };
struct lanes_int { __m256i v[2]; };
#define lanes_f struct lanes_float
#define lanes_i struct lanes_int
#define lanes_b struct lanes_int
#define LANES_PAIR(type_, expression) ({ type_ y_; for (int h = 0; h < 2; h++) y_.v[h] = (expression); y_; })
VEC_INLINE lanes_b lanes_b_load(const uint8_t *p) { return LANES_PAIR(lanes_b, _mm256_loadu_si256((const __m256i *)p + h)); }
VEC_INLINE void    lanes_b_store(uint8_t *p, lanes_b x) { _mm256_storeu_si256((__m256i *)p, x.v[0]), _mm256_storeu_si256((__m256i *)p + 1, x.v[1]); }
VEC_INLINE lanes_b lanes_b_bits(lanes_b x, int shift, int mask) { return LANES_PAIR(lanes_b, _mm256_and_si256(_mm256_srli_epi16(x.v[h], shift), _mm256_set1_epi8((char)mask))); }
VEC_INLINE lanes_b lanes_b_join(lanes_b low, lanes_b high, int shift) { return LANES_PAIR(lanes_b, _mm256_or_si256(low.v[h], _mm256_slli_epi16(high.v[h], shift))); }
VEC_INLINE lanes_b lanes_b_table(lanes_b x, const int8_t *table, int flip)
{
    const __m256i t = _mm256_broadcastsi128_si256(_mm_xor_si128(_mm_loadu_si128((const __m128i *)table), _mm_set1_epi8((char)flip)));
    return LANES_PAIR(lanes_b, _mm256_shuffle_epi8(t, x.v[h]));
}
VEC_INLINE lanes_b lanes_b_flip(lanes_b x) { return LANES_PAIR(lanes_b, _mm256_xor_si256(x.v[h], _mm256_set1_epi8((char)0x80))); }
VEC_INLINE lanes_i lanes_i_set(int32_t v) { return LANES_PAIR(lanes_i, _mm256_set1_epi32(v)); }
VEC_INLINE lanes_i lanes_i_dot(lanes_i sums, lanes_b u, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    const __m256i all = _mm256_set1_epi32(four), one = _mm256_set1_epi16(1);
    return LANES_PAIR(lanes_i, _mm256_add_epi32(sums.v[h], _mm256_madd_epi16(_mm256_maddubs_epi16(u.v[h], all), one)));
}
/* the same with signed w: |w| times x with w's sign */
VEC_INLINE lanes_i lanes_i_dot_signed(lanes_i sums, lanes_b w, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    const __m256i all = _mm256_set1_epi32(four), one = _mm256_set1_epi16(1);
    return LANES_PAIR(lanes_i, _mm256_add_epi32(sums.v[h], _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w.v[h]), _mm256_sign_epi8(all, w.v[h])), one)));
}
VEC_INLINE lanes_i lanes_i_byte(lanes_b x, int at) { return LANES_PAIR(lanes_i, _mm256_and_si256(_mm256_srli_epi32(x.v[h], at * 8), _mm256_set1_epi32(255))); }
VEC_INLINE lanes_f lanes_f_from(lanes_i x) { return LANES_PAIR(lanes_f, _mm256_cvtepi32_ps(x.v[h])); }
VEC_INLINE lanes_f lanes_f_set(float v) { return LANES_PAIR(lanes_f, _mm256_set1_ps(v)); }
VEC_INLINE lanes_f lanes_f_mul(lanes_f a, lanes_f b) { return LANES_PAIR(lanes_f, _mm256_mul_ps(a.v[h], b.v[h])); }
VEC_INLINE lanes_f lanes_f_add(lanes_f a, lanes_f b) { return LANES_PAIR(lanes_f, _mm256_add_ps(a.v[h], b.v[h])); }
VEC_INLINE lanes_f lanes_f_sub(lanes_f a, lanes_f b) { return LANES_PAIR(lanes_f, _mm256_sub_ps(a.v[h], b.v[h])); }
VEC_INLINE lanes_f lanes_f_fma(lanes_f a, lanes_f b, lanes_f c) { return LANES_PAIR(lanes_f, _mm256_fmadd_ps(a.v[h], b.v[h], c.v[h])); }
VEC_INLINE lanes_f lanes_f_fnma(lanes_f a, lanes_f b, lanes_f c) { return LANES_PAIR(lanes_f, _mm256_fnmadd_ps(a.v[h], b.v[h], c.v[h])); }
VEC_INLINE lanes_f lanes_f_f16(const uint8_t *p) { return LANES_PAIR(lanes_f, vec_load_f16((const uint16_t *)(const void *)p + 8 * h)); }
VEC_INLINE __m256 lanes_half_bf16(const uint8_t *p, int second)
{
    const __m256i both = _mm256_loadu_si256((const __m256i *)p);
    return (__m256)(second ? _mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(both, 16));
}
VEC_INLINE lanes_f lanes_f_bf16(const uint8_t *p, int second) { return LANES_PAIR(lanes_f, lanes_half_bf16(p + 32 * h, second)); }
VEC_INLINE lanes_f lanes_f_i8(const uint8_t *p) { return LANES_PAIR(lanes_f, vec_load_i8((const int8_t *)p + 8 * h)); }
VEC_INLINE __m256i lanes_half_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
VEC_INLINE lanes_f lanes_f_bits(const uint8_t *p, int shift, int mask)
{
    return LANES_PAIR(lanes_f, _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(lanes_half_u8(p + 8 * h), shift), _mm256_set1_epi32(mask))));
}
VEC_INLINE lanes_f lanes_f_u8(const uint8_t *p) { return LANES_PAIR(lanes_f, _mm256_cvtepi32_ps(lanes_half_u8(p + 8 * h))); }
VEC_INLINE __m256 lanes_half_power(__m256i e)
{
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23), tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return (__m256)_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
}
VEC_INLINE lanes_f lanes_f_power(const uint8_t *p) { return LANES_PAIR(lanes_f, lanes_half_power(lanes_half_u8(p + 8 * h))); }
VEC_INLINE lanes_f lanes_f_load(const float *p, int n) { return LANES_PAIR(lanes_f, vec_load_n(p + 8 * h, n - 8 * h)); }
VEC_INLINE void    lanes_f_store(float *p, lanes_f x, int n) { vec_store_n(p, x.v[0], n), vec_store_n(p + 8, x.v[1], n - 8); }
VEC_INLINE void    lanes_f_store_halves(float *low, float *high, lanes_f x) { vec_store(low, x.v[0]), vec_store(high, x.v[1]); }

#else

enum { LANES_SIGNED_WIDE = 0, LANES_ZERO = 0 };
struct lanes_float { float v[16]; };
struct lanes_int { int32_t v[16]; };
struct lanes_bytes { uint8_t v[64]; };
#define lanes_f struct lanes_float
#define lanes_i struct lanes_int
#define lanes_b struct lanes_bytes
#define LANES_EACH(type_, count_, expression) ({ type_ y_; for (int l = 0; l < (count_); l++) y_.v[l] = (expression); y_; })
VEC_INLINE lanes_b lanes_b_load(const uint8_t *p) { return LANES_EACH(lanes_b, 64, p[l]); }
VEC_INLINE void    lanes_b_store(uint8_t *p, lanes_b x) { memcpy(p, x.v, 64); }
VEC_INLINE lanes_b lanes_b_bits(lanes_b x, int shift, int mask) { return LANES_EACH(lanes_b, 64, (uint8_t)(x.v[l] >> shift & mask)); }
VEC_INLINE lanes_b lanes_b_join(lanes_b low, lanes_b high, int shift) { return LANES_EACH(lanes_b, 64, (uint8_t)(low.v[l] | high.v[l] << shift)); }
VEC_INLINE lanes_b lanes_b_table(lanes_b x, const int8_t *table, int flip) { return LANES_EACH(lanes_b, 64, (uint8_t)(table[x.v[l]] ^ flip)); }
VEC_INLINE lanes_b lanes_b_flip(lanes_b x) { return LANES_EACH(lanes_b, 64, x.v[l] ^ 0x80); }
VEC_INLINE lanes_i lanes_i_set(int32_t v) { return LANES_EACH(lanes_i, 16, v); }
VEC_INLINE lanes_i lanes_i_dot(lanes_i sums, lanes_b u, const int8_t *x) { return LANES_EACH(lanes_i, 16, sums.v[l] + u.v[4 * l] * x[0] + u.v[4 * l + 1] * x[1] + u.v[4 * l + 2] * x[2] + u.v[4 * l + 3] * x[3]); }
VEC_INLINE lanes_i lanes_i_byte(lanes_b x, int at) { return LANES_EACH(lanes_i, 16, x.v[4 * l + at]); }
VEC_INLINE lanes_f lanes_f_from(lanes_i x) { return LANES_EACH(lanes_f, 16, (float)x.v[l]); }
VEC_INLINE lanes_f lanes_f_set(float v) { return LANES_EACH(lanes_f, 16, v); }
VEC_INLINE lanes_f lanes_f_mul(lanes_f a, lanes_f b) { return LANES_EACH(lanes_f, 16, a.v[l] * b.v[l]); }
VEC_INLINE lanes_f lanes_f_add(lanes_f a, lanes_f b) { return LANES_EACH(lanes_f, 16, a.v[l] + b.v[l]); }
VEC_INLINE lanes_f lanes_f_sub(lanes_f a, lanes_f b) { return LANES_EACH(lanes_f, 16, a.v[l] - b.v[l]); }
VEC_INLINE lanes_f lanes_f_fma(lanes_f a, lanes_f b, lanes_f c) { return LANES_EACH(lanes_f, 16, fmaf(a.v[l], b.v[l], c.v[l])); }
VEC_INLINE lanes_f lanes_f_fnma(lanes_f a, lanes_f b, lanes_f c) { return LANES_EACH(lanes_f, 16, fmaf(-a.v[l], b.v[l], c.v[l])); }
VEC_INLINE lanes_f lanes_f_f16(const uint8_t *p) { return LANES_EACH(lanes_f, 16, half_load_f16(p + 2 * l)); }
VEC_INLINE lanes_f lanes_f_bf16(const uint8_t *p, int second) { return LANES_EACH(lanes_f, 16, bf16_to_f32_one(half_load_16(p + 4 * l + 2 * second))); }
VEC_INLINE lanes_f lanes_f_i8(const uint8_t *p) { return LANES_EACH(lanes_f, 16, (float)(int8_t)p[l]); }
VEC_INLINE lanes_f lanes_f_bits(const uint8_t *p, int shift, int mask) { return LANES_EACH(lanes_f, 16, (float)(p[l] >> shift & mask)); }
VEC_INLINE lanes_f lanes_f_u8(const uint8_t *p) { return LANES_EACH(lanes_f, 16, (float)p[l]); }
VEC_INLINE lanes_f lanes_f_power(const uint8_t *p) { return LANES_EACH(lanes_f, 16, block_power_mxfp4(p[l])); }
VEC_INLINE lanes_f lanes_f_load(const float *p, int n) { return LANES_EACH(lanes_f, 16, l < n ? p[l] : 0); }
VEC_INLINE void    lanes_f_store(float *p, lanes_f x, int n) { memcpy(p, x.v, (size_t)(n < 16 ? n : 16) * sizeof *p); }
VEC_INLINE void    lanes_f_store_halves(float *low, float *high, lanes_f x) { memcpy(low, x.v, 32), memcpy(high, x.v + 8, 32); }

#endif

#if !defined(__AVX512VNNI__)
VEC_INLINE lanes_f lanes_f_scaled(lanes_i sums, float scale, float less) { return (void)less, lanes_f_mul(lanes_f_from(sums), lanes_f_set(scale)); }
#endif
#if !defined(__AVX2__) || defined(__AVX512VNNI__)
VEC_INLINE lanes_i lanes_i_dot_signed(lanes_i sums, lanes_b w, const int8_t *x) { return lanes_i_dot(sums, lanes_b_flip(w), x); }
#endif

/* Loops over what ought to be registers; checked code is slow anyway and would take minutes to compile. */
#if defined(__AVX2__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LANES_UNROLL _Pragma("GCC unroll 16")
#else
#define LANES_UNROLL
#endif

#endif
