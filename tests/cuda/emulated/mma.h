/* Tensor cores on the host: a warp's matrices lie with its first lane, which alone computes; what all lanes read afterwards they read behind a barrier, as on a card. */
#ifndef TESTS_CUDA_EMULATED_MMA_H
#define TESTS_CUDA_EMULATED_MMA_H

#include "tests/cuda/emulated/cuda.h"

namespace nvcuda { namespace wmma {
struct matrix_a {}; struct matrix_b {}; struct accumulator {}; struct row_major {}; struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
template <typename Use, int M, int N, int K, typename T, typename L = void> struct fragment { T x[256]; };

/* A matrix begins at a multiple of 32 bytes, its rows at multiples of 16. */
template <typename T> bool begins(const T *p, int64_t ld)
{
    emulated::wait_warp(true);
    if ((uintptr_t)p % 32 || ld * (int64_t)sizeof(T) % 16) emulated::fail("a matrix of tensor cores that does not lie as they want it");
    return emulated::now.lane == 0;
}
template <typename Use, typename T, typename L> void load_matrix_sync(fragment<Use, 16, 16, 16, T, L> &f, const T *p, int64_t ld)
{
    if (!begins(p, ld)) return;
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 16; c++) f.x[16 * r + c] = std::is_same<L, row_major>::value ? p[r * ld + c] : p[c * ld + r];
}
inline void load_matrix_sync(fragment<accumulator, 16, 16, 16, float> &f, const float *p, int64_t ld, layout_t)
{
    if (!begins(p, ld)) return;
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 16; c++) f.x[16 * r + c] = p[r * ld + c];
}
inline void store_matrix_sync(float *p, const fragment<accumulator, 16, 16, 16, float> &f, int64_t ld, layout_t)
{
    if (!begins(p, ld)) return;
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 16; c++) p[r * ld + c] = f.x[16 * r + c];
}
inline void fill_fragment(fragment<accumulator, 16, 16, 16, float> &f, float v)
{
    for (int i = 0; i < 256 && emulated::now.lane == 0; i++) f.x[i] = v;
}
template <typename T, typename A, typename B>
void mma_sync(fragment<accumulator, 16, 16, 16, float> &d, const fragment<matrix_a, 16, 16, 16, T, A> &a, const fragment<matrix_b, 16, 16, 16, T, B> &b, const fragment<accumulator, 16, 16, 16, float> &c)
{
    if (emulated::now.lane) return;
    float y[256];
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < 16; k++) {
            float sum = c.x[16 * r + k];
            for (int i = 0; i < 16; i++) sum += (float)a.x[16 * r + i] * (float)b.x[16 * i + k];
            y[16 * r + k] = sum;
        }
    std::memcpy(d.x, y, sizeof y);
}
} }

#endif
