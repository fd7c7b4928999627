/* Tasks whose result is made element by element: loops around kernels/cuda/body.h, specialised by type. Numbers that lie dense go 16 bytes at a time. */
#include "kernels/cuda/body.h"
#include "kernels/cuda/launch.h"

namespace {

enum { THREADS = 256, BLOCKS_MAX = 1 << 16 };

int blocks_for(int64_t n)
{
    const int64_t blocks = (n + THREADS - 1) / THREADS;
    return blocks < 1 ? 1 : blocks > BLOCKS_MAX ? BLOCKS_MAX : (int)blocks;
}

/* Any types: they are read from the task, the same branch for all threads. */
template <int KIND> __global__ void each(const __grid_constant__ struct gpu_task t, int64_t n, bool whole)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        if (KIND == GPU_POINTWISE) body_pointwise(&t, i, whole);
        else if (KIND == GPU_MOVE) body_move(&t, i);
        else if (KIND == GPU_FILL) body_fill(&t, i);
        else if (KIND == GPU_GATHER) body_gather(&t, i);
        else if (KIND == GPU_PIXELS) body_pixels(&t, i);
        else if (KIND == GPU_POOL) body_pool(&t, i);
        else if (KIND == GPU_RESIZE) body_resize(&t, i);
        else if (KIND == GPU_ROTATE) body_rotate(&t, i);
        else if (KIND == GPU_PRODUCT) body_product(&t, i);
        else if (KIND == GPU_CONV) body_conv(&t, i);
    }
}

template <int KIND> int launch(const struct gpu_task *t, cuda_stream stream)
{
    const int64_t n = body_elements(t);
    if (n == 0) return 0;
    CUDA_LAUNCH(each<KIND>, blocks_for(n), THREADS, 0, stream, *t, n, KIND == GPU_POINTWISE && body_is_whole(t));
    return (int)cudaGetLastError();
}

/* 16 bytes of numbers of one type. */
template <int TYPE> struct pack {
    enum { BYTES = TYPE == GPU_F32 ? 4 : 2, COUNT = 16 / BYTES };
    uint4 bits;
    __device__ float get(int k) const { return body_load(&bits, TYPE, k); }
    __device__ void set(int k, float v) { body_store(&bits, TYPE, k, v); }
};

/* Dense operands of one float type. */
template <int TYPE> __global__ void pointwise_dense(const __grid_constant__ struct gpu_task t, int64_t packs, int64_t n)
{
    const struct gpu_pointwise *p = &t.u.pointwise;
    typedef pack<TYPE> P;
    const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = at; i < packs; i += step) {
        P v[3], r;
#pragma unroll
        for (int k = 0; k < 3; k++) v[k].bits = k < p->inputs ? ((const uint4 *)t.at[k])[i] : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < P::COUNT; k++) {
            const float a = v[0].get(k), b = v[1].get(k), c = v[2].get(k);
            r.set(k, body_activate(p->function == GPU_WHERE ? (a != 0 ? b : c) : body_function(p->function, a, b, c, p->alpha, p->beta), p->act));
        }
        ((uint4 *)t.at[p->inputs])[i] = r.bits;
    }
    for (int64_t i = packs * P::COUNT + at; i < n; i += step) body_pointwise(&t, i, false);
}

/* Is the task for pointwise_dense? */
bool is_dense(const struct gpu_task *t, int type)
{
    const struct gpu_pointwise *p = &t->u.pointwise;
    if (p->rank) return false;
    for (int k = 0; k <= p->inputs; k++)
        if (t->type[k] != type || (uintptr_t)t->at[k] % 16) return false;
    return true;
}

template <int TYPE> int launch_dense(const struct gpu_task *t, cuda_stream stream)
{
    const int64_t n = t->u.pointwise.count, packs = n / pack<TYPE>::COUNT;
    CUDA_LAUNCH(pointwise_dense<TYPE>, blocks_for(packs ? packs : n), THREADS, 0, stream, *t, packs, n);
    return (int)cudaGetLastError();
}

int launch_pointwise(const struct gpu_task *t, cuda_stream stream)
{
    if (t->u.pointwise.count == 0) return 0;
    if (is_dense(t, GPU_F32)) return launch_dense<GPU_F32>(t, stream);
    if (is_dense(t, GPU_F16)) return launch_dense<GPU_F16>(t, stream);
    if (is_dense(t, GPU_BF16)) return launch_dense<GPU_BF16>(t, stream);
    return launch<GPU_POINTWISE>(t, stream);
}

/* ---- moves that turn matrices: [a, b] read along a and written along b, through shared memory ---- */
enum { TILE = 32, TILE_ROWS = 8 };

/* The dimension along which x is dense while y is not; -1: the plain loop will do. */
int turned_dimension(const struct gpu_move *m)
{
    const int last = m->rank - 1;
    if (m->rank < 2 || m->y_steps[last] != 1 || m->x_steps[last] == 1 || m->dims[last] < TILE / 2) return -1;
    for (int d = 0; d < last; d++)
        if (m->x_steps[d] == 1 && m->dims[d] >= TILE / 2) return d;
    return -1;
}

/* blockIdx.z counts what is left of the dimensions. */
template <typename T> __global__ void turn(const __grid_constant__ struct gpu_move m, int by, const T *x, T *y, int64_t others)
{
    __shared__ T tile[TILE][TILE + 1];
    const int last = m.rank - 1;
    for (int64_t z = blockIdx.z; z < others; z += gridDim.z) {
        int64_t rest = z, from = m.from, to = m.to;
        for (int d = last - 1; d >= 0; d--) {
            if (d == by) continue;
            from += rest % m.dims[d] * m.x_steps[d];
            to += rest % m.dims[d] * m.y_steps[d];
            rest /= m.dims[d];
        }
        const int64_t a0 = (int64_t)blockIdx.x * TILE, b0 = (int64_t)blockIdx.y * TILE;        /* a along x's dense dimension, b along y's */
        for (int r = threadIdx.y; r < TILE; r += TILE_ROWS)
            if (a0 + threadIdx.x < m.dims[by] && b0 + r < m.dims[last]) tile[r][threadIdx.x] = x[from + (a0 + threadIdx.x) + (b0 + r) * m.x_steps[last]];
        __syncthreads();
        for (int r = threadIdx.y; r < TILE; r += TILE_ROWS)
            if (a0 + r < m.dims[by] && b0 + threadIdx.x < m.dims[last]) y[to + (a0 + r) * m.y_steps[by] + (b0 + threadIdx.x)] = tile[threadIdx.x][r];
        __syncthreads();
    }
}

template <typename T> int launch_turn(const struct gpu_task *t, int by, cuda_stream stream)
{
    const struct gpu_move *m = &t->u.move;
    const int64_t a = m->dims[by], b = m->dims[m->rank - 1], others = m->count / (a * b), rows = (b + TILE - 1) / TILE;
    if (rows > 65535) return launch<GPU_MOVE>(t, stream);
    const dim3 grid((unsigned)((a + TILE - 1) / TILE), (unsigned)rows, (unsigned)(others > 65535 ? 65535 : others));
    CUDA_LAUNCH(turn<T>, grid, dim3(TILE, TILE_ROWS), 0, stream, *m, by, (const T *)t->at[0], (T *)t->at[1], others);
    return (int)cudaGetLastError();
}

int launch_move(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_move *m = &t->u.move;
    if (m->count == 0) return 0;
    const bool whole = m->rank <= 1 && (m->rank == 0 || (m->x_steps[0] == 1 && m->y_steps[0] == 1));
    if (whole) return (int)cudaMemcpyAsync((char *)t->at[1] + m->to * m->size, (const char *)t->at[0] + m->from * m->size, (size_t)(m->count * m->size), cudaMemcpyDeviceToDevice, stream);
    const int by = turned_dimension(m);
    if (by >= 0 && m->size == 4) return launch_turn<uint32_t>(t, by, stream);
    if (by >= 0 && m->size == 2) return launch_turn<uint16_t>(t, by, stream);
    return launch<GPU_MOVE>(t, stream);
}

__global__ void finish(const __grid_constant__ struct gpu_task t, int64_t n, int64_t columns, bool with_bias, bool with_residual, struct activation_spec act)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        body_store(t.at[2], t.type[2], i, body_finish(&t, i, i % columns, body_load(t.at[2], t.type[2], i), with_bias, with_residual, act));
}

}

int cuda_launch_finish(const struct gpu_task *t, bool with_bias, bool with_residual, cuda_stream stream)
{
    const bool product = t->kind == GPU_PRODUCT;
    const int64_t n = body_elements(t);
    if (n == 0) return 0;
    CUDA_LAUNCH(finish, blocks_for(n), THREADS, 0, stream, *t, n, product ? t->u.product.n : t->u.conv.out_c, with_bias, with_residual, product ? t->u.product.act : t->u.conv.act);
    return (int)cudaGetLastError();
}

int cuda_launch_elements(const struct gpu_task *t, cuda_stream stream)
{
    switch (t->kind) {
    case GPU_POINTWISE: return launch_pointwise(t, stream);
    case GPU_MOVE: return launch_move(t, stream);
    case GPU_FILL: return launch<GPU_FILL>(t, stream);
    case GPU_GATHER: return launch<GPU_GATHER>(t, stream);
    case GPU_PIXELS: return launch<GPU_PIXELS>(t, stream);
    case GPU_POOL: return launch<GPU_POOL>(t, stream);
    case GPU_RESIZE: return launch<GPU_RESIZE>(t, stream);
    case GPU_ROTATE: return launch<GPU_ROTATE>(t, stream);
    case GPU_PRODUCT: return launch<GPU_PRODUCT>(t, stream);
    case GPU_CONV: return launch<GPU_CONV>(t, stream);
    default: return (int)cudaErrorInvalidValue;
    }
}
