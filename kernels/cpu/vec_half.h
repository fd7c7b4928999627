/* Vectors from and to the 16-bit floats (kernels/cpu/vec.h; kernels/half.h one at a time). All levels agree in bits for what is not NaN. */
#ifndef KERNELS_CPU_VEC_HALF_H
#define KERNELS_CPU_VEC_HALF_H

#include "kernels/cpu/vec.h"
#include "kernels/half.h"

#if defined(__AVX512F__)
VEC_INLINE vec vec_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16)); }
VEC_INLINE vec vec_load_i8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
#elif defined(__AVX2__)
VEC_INLINE vec vec_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16)); }
VEC_INLINE vec vec_load_i8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))); }
#else
VEC_INLINE vec vec_load_f16(const uint16_t *p) { return f16_to_f32(*p); }
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return bf16_to_f32_one(*p); }
VEC_INLINE vec vec_load_i8(const int8_t *p) { return (float)*p; }
#endif

#endif
