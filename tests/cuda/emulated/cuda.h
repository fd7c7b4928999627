/* What the .cu files of kernels/cuda/ need of CUDA C++, on the host: the threads of a block are fibers of one thread, run in turn until they wait for each other. A C++ compiler reads the very
 * kernels with this header in front (EMULATED is set). What a card would not do is an error here: shuffles and barriers of a warp that some lanes have left, addresses and steps that tensor cores
 * do not take, blocks larger than a card's. Shared memory is filled with what is no number before each block. */
#ifndef TESTS_CUDA_EMULATED_CUDA_H
#define TESTS_CUDA_EMULATED_CUDA_H

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "kernels/half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(n)
#define __align__(n) alignas(n)
#define __shared__ static

struct dim3 { unsigned x, y, z; dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }

struct __half { uint16_t bits; __half() = default; explicit __half(float v) : bits(f32_to_f16(v)) {} explicit operator float() const { return f16_to_f32(bits); } };
struct __nv_bfloat16 { uint16_t bits; __nv_bfloat16() = default; explicit __nv_bfloat16(float v) : bits(f32_to_bf16_one(v)) {} explicit operator float() const { return bf16_to_f32_one(bits); } };

namespace emulated {
enum { WARP = 32, THREADS_MAX = 1024, SHARED_MAX = 227 << 10 };
[[noreturn]] inline void fail(const char *what)
{
    std::printf("an emulated kernel: %s\n", what);
    std::abort();
}
struct place { dim3 thread, block, threads, blocks; int lane, warp; };
extern place now;
extern unsigned char *shared;
void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel);
void wait_block();
void wait_warp(bool all);                /* all: no lane may have left */
uint64_t *slot(int lane);                /* of this warp, for shuffles */
template <typename T> T exchange(T v, int from)
{
    std::memcpy(slot(now.lane), &v, sizeof v);
    wait_warp(true);
    std::memcpy(&v, slot(from), sizeof v);
    wait_warp(true);
    return v;
}
}

#define threadIdx emulated::now.thread
#define blockIdx emulated::now.block
#define blockDim emulated::now.threads
#define gridDim emulated::now.blocks
#define CUDA_LAUNCH(kernel, grid, block, bytes, stream, ...) ((void)(stream), emulated::launch(grid, block, bytes, [=] { kernel(__VA_ARGS__); }))
#define CUDA_SHARED(name) unsigned char *const name = emulated::shared

inline void __syncthreads() { emulated::wait_block(); }
inline void __syncwarp() { emulated::wait_warp(false); }
template <typename T> T __shfl_xor_sync(unsigned, T v, int d) { return emulated::exchange(v, emulated::now.lane ^ d); }
template <typename T> T __shfl_sync(unsigned, T v, int from) { return emulated::exchange(v, from); }
template <typename T> T __ldg(const T *p)
{
    if ((uintptr_t)p % sizeof(T)) emulated::fail("a load from an address that does not divide by its size");
    return *p;
}
inline float rsqrtf(float v) { return 1 / std::sqrt(v); }
inline int max(int a, int b) { return a > b ? a : b; }

typedef int cudaError_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaMemcpyDeviceToDevice = 3, cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
template <typename F> cudaError_t cudaFuncSetAttribute(F *, int, int bytes) { return bytes <= emulated::SHARED_MAX ? cudaSuccess : cudaErrorInvalidValue; }
template <typename S> cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, int, S) { return std::memmove(to, from, n), cudaSuccess; }

#endif
