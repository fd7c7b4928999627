/* 8 x 8 floats (or other numbers of 4 bytes) turned: y[i][j] = x[j][i]. Rows lie where the pointers say; lists of them that a caller computes in place cost nothing. */
#ifndef KERNELS_CPU_VEC_TURN_H
#define KERNELS_CPU_VEC_TURN_H

#include "kernels/cpu/vec.h"

enum { TURN = 8 };

#if defined(__AVX2__)
VEC_INLINE void vec_turn(float *const *y, const float *const *x)
{
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(x[i]);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i + 0] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44), a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44), a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(y[i], _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(y[i + 4], _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#else
VEC_INLINE void vec_turn(float *const *y, const float *const *x)
{
    for (int i = 0; i < TURN; i++)
        for (int j = 0; j < TURN; j++) memcpy(y[i] + j, x[j] + i, sizeof *y[i]);
}
#endif

#endif
