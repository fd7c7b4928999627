/* One vector of floats of the level that the including file is compiled for. The bodies (the *_body.h beside this file) are written once against these few
 * operations and compiled once per level, so that all levels compute the same formula; with LANES == 1 they are the scalar reference.
 *
 * `vec` is the compiler's own vector (or plain float): + - * / work on it. No operation here fuses but vec_fma. vec_max and vec_min
 * return their second argument when either is NaN, so `vec_max(low, x)` lets a NaN in x pass. A tail is a masked load and store of the same
 * formula, never another formula: an element's result does not depend on where in a row it lies. */
#ifndef KERNELS_CPU_VEC_H
#define KERNELS_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define VEC_INLINE static inline __attribute__((always_inline, unused))

VEC_INLINE float vec_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
VEC_INLINE uint32_t vec_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* The largest 2^n - 1 below `every` (0 at least): what is done in steps whose number has none of these bits is done once in every so many of them, or somewhat more often. */
VEC_INLINE int64_t steps_mask(int64_t every)
{
    int64_t mask = 0;
    while (2 * mask + 2 <= every) mask = 2 * mask + 1;
    return mask;
}

#if defined(__AVX512F__)

#include <immintrin.h>
#define vec   __m512
enum { LANES = 16 };
VEC_INLINE vec  vec_set(float f) { return _mm512_set1_ps(f); }
VEC_INLINE vec  vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE void vec_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
VEC_INLINE __mmask16 vec_mask(int n) { return (__mmask16)((1u << n) - 1); }
VEC_INLINE vec  vec_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(vec_mask(n), p); }
VEC_INLINE void vec_store_n(float *p, vec v, int n) { _mm512_mask_storeu_ps(p, vec_mask(n), v); }
VEC_INLINE vec  vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE vec  vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
VEC_INLINE vec  vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
VEC_INLINE vec  vec_abs(vec a) { return _mm512_abs_ps(a); }
VEC_INLINE vec  vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
VEC_INLINE vec  vec_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* lane by lane: a < b ? yes : no */
VEC_INLINE vec  vec_if_less(vec a, vec b, vec yes, vec no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes); }
VEC_INLINE vec  vec_sign_of(vec magnitude, vec sign) { return _mm512_or_ps(_mm512_abs_ps(magnitude), _mm512_andnot_ps(_mm512_set1_ps(vec_from_bits(0x7fffffff)), sign)); }
/* p * 2^n for an integral n in [-252, 252], p in [0.5, 4); rounds once */
VEC_INLINE vec  vec_scale(vec p, vec n) { return _mm512_scalef_ps(p, n); }
/* x = m * 2^e with m in [1, 2), x normal and positive */
VEC_INLINE vec  vec_mantissa(vec x, vec *e) { *e = _mm512_getexp_ps(x); return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src); }
VEC_INLINE float vec_sum(vec a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
VEC_INLINE float vec_top(vec a) { return _mm512_reduce_max_ps(a); }

#elif defined(__AVX2__)

#include <immintrin.h>
#define vec   __m256
enum { LANES = 8 };
VEC_INLINE vec  vec_set(float f) { return _mm256_set1_ps(f); }
VEC_INLINE vec  vec_load(const float *p) { return _mm256_loadu_ps(p); }
VEC_INLINE void vec_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
VEC_INLINE __m256i vec_mask(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
VEC_INLINE vec  vec_load_n(const float *p, int n) { return _mm256_maskload_ps(p, vec_mask(n)); }
VEC_INLINE void vec_store_n(float *p, vec v, int n) { _mm256_maskstore_ps(p, vec_mask(n), v); }
VEC_INLINE vec  vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
VEC_INLINE vec  vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
VEC_INLINE vec  vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
VEC_INLINE vec  vec_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
VEC_INLINE vec  vec_sqrt(vec a) { return _mm256_sqrt_ps(a); }
VEC_INLINE vec  vec_round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VEC_INLINE vec  vec_if_less(vec a, vec b, vec yes, vec no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
VEC_INLINE vec  vec_sign_of(vec magnitude, vec sign) { return _mm256_or_ps(vec_abs(magnitude), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign)); }
VEC_INLINE vec  vec_scale(vec p, vec n)
{
    /* In two steps: the first is exact, so the result rounds once even where it is subnormal. */
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1), rest = _mm256_sub_epi32(k, half), bias = _mm256_set1_epi32(127);
    p = p * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    return p * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
}
VEC_INLINE vec  vec_mantissa(vec x, vec *e)
{
    __m256i bits = _mm256_castps_si256(x);
    *e = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127)));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)), _mm256_set1_epi32(127 << 23)));
}
VEC_INLINE float vec_sum(vec a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
VEC_INLINE float vec_top(vec a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#else

#define vec   float
enum { LANES = 1 };
VEC_INLINE vec  vec_set(float f) { return f; }
VEC_INLINE vec  vec_load(const float *p) { return *p; }
VEC_INLINE void vec_store(float *p, vec v) { *p = v; }
VEC_INLINE vec  vec_load_n(const float *p, int n) { return n > 0 ? *p : 0; }
VEC_INLINE void vec_store_n(float *p, vec v, int n) { if (n > 0) *p = v; }
VEC_INLINE vec  vec_fma(vec a, vec b, vec c) { return fmaf(a, b, c); }
VEC_INLINE vec  vec_max(vec a, vec b) { return a > b ? a : b; }
VEC_INLINE vec  vec_min(vec a, vec b) { return a < b ? a : b; }
VEC_INLINE vec  vec_abs(vec a) { return fabsf(a); }
VEC_INLINE vec  vec_sqrt(vec a) { return sqrtf(a); }
VEC_INLINE vec  vec_round(vec a) { return rintf(a); }
VEC_INLINE vec  vec_if_less(vec a, vec b, vec yes, vec no) { return a < b ? yes : no; }
VEC_INLINE vec  vec_sign_of(vec magnitude, vec sign) { return copysignf(magnitude, sign); }
VEC_INLINE vec  vec_scale(vec p, vec n)
{
    if (n != n) return n;
    int k = (int)n, half = k >> 1, rest = k - half;
    p = p * vec_from_bits((uint32_t)(half + 127) << 23);
    return p * vec_from_bits((uint32_t)(rest + 127) << 23);
}
VEC_INLINE vec  vec_mantissa(vec x, vec *e)
{
    uint32_t bits = vec_to_bits(x);
    *e = (float)((int)(bits >> 23) - 127);
    return vec_from_bits((bits & 0x7fffffu) | 127u << 23);
}
VEC_INLINE float vec_sum(vec a) { return a; }
VEC_INLINE float vec_top(vec a) { return a; }

#endif

#endif
