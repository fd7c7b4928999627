/* Vectors from and to the 16-bit floats (kernels/cpu/vec.h; kernels/half.h one at a time). All levels agree in bits for what is not NaN. */
#ifndef KERNELS_CPU_VEC_HALF_H
#define KERNELS_CPU_VEC_HALF_H

#include "kernels/cpu/vec.h"
#include "kernels/half.h"

#if defined(__AVX512F__)
VEC_INLINE vec vec_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16)); }
VEC_INLINE void vec_store_bf16(uint16_t *p, vec v)
{
    const __m512i u = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1)), up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i kept = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}
VEC_INLINE vec vec_load_i8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
#elif defined(__AVX2__)
VEC_INLINE vec vec_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16)); }
VEC_INLINE void vec_store_bf16(uint16_t *p, vec v)
{
    const __m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)), up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)), kept = _mm256_srli_epi32(_mm256_blendv_epi8(up, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), none), 16);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1)));
}
VEC_INLINE vec vec_load_i8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))); }
#else
VEC_INLINE vec vec_load_f16(const uint16_t *p) { return f16_to_f32(*p); }
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return bf16_to_f32_one(*p); }
VEC_INLINE void vec_store_bf16(uint16_t *p, vec v) { *p = f32_to_bf16_one(v); }
VEC_INLINE vec vec_load_i8(const int8_t *p) { return (float)*p; }
#endif

/* n of LANES */
VEC_INLINE vec vec_load_bf16_n(const uint16_t *p, int n)
{
    uint16_t whole[LANES] = { 0 };
    memcpy(whole, p, (size_t)n * sizeof *p);
    return vec_load_bf16(whole);
}
VEC_INLINE void vec_store_bf16_n(uint16_t *p, vec v, int n)
{
    uint16_t whole[LANES];
    vec_store_bf16(whole, v);
    memcpy(p, whole, (size_t)n * sizeof *p);
}

#endif
