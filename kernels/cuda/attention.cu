/* Attention without a matrix of scores in device memory: a block of queries goes over the keys block by block with a running maximum (online softmax, Milakov and Gimelshein 2018; blocked as
 * FlashAttention, Dao et al. 2022). Two kernels: tensor cores through WMMA for half types whose head sizes divide by 8, and one warp a query for everything else. */
#include <mma.h>

#include "kernels/cuda/body.h"
#include "kernels/cuda/launch.h"

namespace {

enum { WARP = 32, WARPS = 4, THREADS = WARP * WARPS };

/* ---- a warp for each query: any type, any head size ---- */
enum { LANES_MAX = 16 /* numbers of a head that one lane holds: head sizes to 512 */ };

__global__ void attend_alone(const __grid_constant__ struct gpu_task t, int64_t all)
{
    const struct gpu_attention *a = &t.u.attention;
    const int lane = threadIdx.x % WARP;
    const int64_t which = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (which >= all) return;
    const int64_t query = which % a->queries, head = which / a->queries % a->heads, row = which / a->queries / a->heads, of = head / a->group, seen = body_attention_seen(&t, row, query);
    const int64_t q_at = a->q.row * row + a->q.head * head + a->q.token * query, k_at = a->k.row * row + a->k.head * of, v_at = a->v.row * row + a->v.head * of, y_at = a->y.row * row + a->y.head * head + a->y.token * query;
    float q[LANES_MAX], o[LANES_MAX], top = -INFINITY, total = 0;
#pragma unroll
    for (int i = 0; i < LANES_MAX; i++) {
        const int at = i * WARP + lane;
        q[i] = at < a->head_dim ? body_load(t.at[0], t.type[0], q_at + at) : 0;
        o[i] = 0;
    }
    for (int64_t j = 0; j < seen; j++) {
        float s = 0;
#pragma unroll
        for (int i = 0; i < LANES_MAX; i++) {
            const int at = i * WARP + lane;
            if (at < a->head_dim) s += q[i] * body_load(t.at[1], t.type[1], k_at + a->k.token * j + at);
        }
        for (int d = WARP / 2; d; d /= 2) s += __shfl_xor_sync(0xffffffffu, s, d);
        s = body_attention_score(&t, row, head, query, j, s);
        const float best = fmaxf(top, s);
        if (best == -INFINITY) continue;
        const float old = expf(top - best), now = expf(s - best);
        top = best;
        total = total * old + now;
#pragma unroll
        for (int i = 0; i < LANES_MAX; i++) {
            const int at = i * WARP + lane;
            if (at < a->head_dim_v) o[i] = o[i] * old + now * body_load(t.at[2], t.type[2], v_at + a->v.token * j + at);
        }
    }
#pragma unroll
    for (int i = 0; i < LANES_MAX; i++) {
        const int at = i * WARP + lane;
        if (at < a->head_dim_v) body_store(t.at[3], t.type[3], y_at + at, total > 0 ? o[i] / total : 0 * a->nothing);
    }
}

/* ---- tensor cores: each warp 16 queries, the block's warps share 64 keys at a time ---- */
enum { ROWS = 16, KEYS = 64, QUERIES = ROWS * WARPS, PAD = 8 };

template <int TYPE> struct half_of { typedef __half type; };
template <> struct half_of<GPU_BF16> { typedef __nv_bfloat16 type; };

/* Head sizes are filled up with zeros to what the tensor cores take. */
__host__ __device__ inline int padded(int d) { return (d + 15) / 16 * 16; }

/* Shared memory: q [QUERIES][D + PAD], k and v [KEYS][D + PAD] as halves; scores [WARPS][ROWS][KEYS + 4] and sums [WARPS][ROWS][D + 4] as floats; weights [WARPS][ROWS][KEYS + PAD] as halves. */
size_t shared_bytes(int d, int dv)
{
    return 2u * (QUERIES * (size_t)(d + PAD) + KEYS * (size_t)(d + PAD) + KEYS * (size_t)(dv + PAD) + QUERIES * (size_t)(KEYS + PAD)) + 4u * (QUERIES * (size_t)(KEYS + 4) + QUERIES * (size_t)(dv + 4));
}

/* `count` rows of `width` numbers (a multiple of 8), 16 bytes at a time where they lie so; rows from `have` on, and numbers up to `padded`, become 0. */
template <typename H> __device__ void fetch(H *to, int ld, const H *from, int64_t step, int count, int64_t have, int width, int padded)
{
    const bool aligned = (uintptr_t)from % 16 == 0 && step % 8 == 0;
    for (int i = threadIdx.x; i < count * (padded / 8); i += THREADS) {
        const int r = i / (padded / 8), c = i % (padded / 8) * 8;
        if (r >= have || c >= width) *(uint4 *)(to + r * ld + c) = make_uint4(0, 0, 0, 0);
        else if (aligned) *(uint4 *)(to + r * ld + c) = *(const uint4 *)(from + r * step + c);
        else
            for (int k = 0; k < 8; k++) to[r * ld + c + k] = from[r * step + c + k];
    }
}

template <int TYPE> __global__ void __launch_bounds__(THREADS) attend_tiles(const __grid_constant__ struct gpu_task t)
{
    using namespace nvcuda;
    typedef typename half_of<TYPE>::type H;
    CUDA_SHARED(memory);
    const struct gpu_attention *a = &t.u.attention;
    const int d = padded((int)a->head_dim), dv = padded((int)a->head_dim_v), warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, ldq = d + PAD, ldv = dv + PAD, lds = KEYS + 4, ldp = KEYS + PAD, ldo = dv + 4;
    H *qs = (H *)memory, *ks = qs + QUERIES * ldq, *vs = ks + KEYS * ldq, *ps = vs + KEYS * ldv + warp * ROWS * ldp;
    float *ss = (float *)(vs + KEYS * ldv + QUERIES * ldp) + warp * ROWS * lds, *os = (float *)(vs + KEYS * ldv + QUERIES * ldp) + QUERIES * lds + warp * ROWS * ldo;
    const int64_t head = blockIdx.y, row = blockIdx.z, of = head / a->group, q0 = (int64_t)blockIdx.x * QUERIES;
    const H *q = (const H *)t.at[0] + a->q.row * row + a->q.head * head, *k = (const H *)t.at[1] + a->k.row * row + a->k.head * of, *v = (const H *)t.at[2] + a->v.row * row + a->v.head * of;
    fetch(qs, ldq, q + a->q.token * q0, a->q.token, QUERIES, a->queries - q0, (int)a->head_dim, d);
    for (int i = lane; i < ROWS * ldo; i += WARP) os[i] = 0;
    /* two lanes share a query: each half of its scores */
    const int mine = lane / 2, side = lane % 2;
    const int64_t query = q0 + warp * ROWS + mine, seen = query < a->queries ? body_attention_seen(&t, row, query) : 0, last = q0 + QUERIES < a->queries ? q0 + QUERIES - 1 : a->queries - 1, most = body_attention_seen(&t, row, last);
    float top = -INFINITY, total = 0;
    for (int64_t j0 = 0; j0 < most; j0 += KEYS) {
        __syncthreads();
        fetch(ks, ldq, k + a->k.token * j0, a->k.token, KEYS, a->keys - j0, (int)a->head_dim, d);
        fetch(vs, ldv, v + a->v.token * j0, a->v.token, KEYS, a->keys - j0, (int)a->head_dim_v, dv);
        __syncthreads();
        for (int n = 0; n < KEYS; n += 16) {
            wmma::fragment<wmma::accumulator, 16, 16, 16, float> s;
            wmma::fill_fragment(s, 0);
            for (int i = 0; i < d; i += 16) {
                wmma::fragment<wmma::matrix_a, 16, 16, 16, H, wmma::row_major> x;
                wmma::fragment<wmma::matrix_b, 16, 16, 16, H, wmma::col_major> y;
                wmma::load_matrix_sync(x, qs + warp * ROWS * ldq + i, ldq);
                wmma::load_matrix_sync(y, ks + n * ldq + i, ldq);
                wmma::mma_sync(s, x, y, s);
            }
            wmma::store_matrix_sync(ss + n, s, lds, wmma::mem_row_major);
        }
        __syncwarp();
        float best = top;
        for (int j = side; j < KEYS; j += 2) {
            const float s = j0 + j < seen ? body_attention_score(&t, row, head, query, j0 + j, ss[mine * lds + j]) : -INFINITY;
            ss[mine * lds + j] = s;
            best = fmaxf(best, s);
        }
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
        const float old = best == -INFINITY ? 1 : expf(top - best);
        float part = 0;
        for (int j = side; j < KEYS; j += 2) {
            const float w = best == -INFINITY ? 0 : expf(ss[mine * lds + j] - best);
            part += w;
            ps[mine * ldp + j] = (H)w;
        }
        total = total * old + part + __shfl_xor_sync(0xffffffffu, part, 1);
        top = best;
        for (int i = side; i < dv; i += 2) os[mine * ldo + i] *= old;
        __syncwarp();
        for (int i = 0; i < dv; i += 16) {
            wmma::fragment<wmma::accumulator, 16, 16, 16, float> o;
            wmma::load_matrix_sync(o, os + i, ldo, wmma::mem_row_major);
            for (int n = 0; n < KEYS; n += 16) {
                wmma::fragment<wmma::matrix_a, 16, 16, 16, H, wmma::row_major> x;
                wmma::fragment<wmma::matrix_b, 16, 16, 16, H, wmma::row_major> y;
                wmma::load_matrix_sync(x, ps + n, ldp);
                wmma::load_matrix_sync(y, vs + n * ldv + i, ldv);
                wmma::mma_sync(o, x, y, o);
            }
            wmma::store_matrix_sync(os + i, o, ldo, wmma::mem_row_major);
        }
        __syncwarp();
    }
    if (query < a->queries)
        for (int i = side; i < a->head_dim_v; i += 2) body_store(t.at[3], TYPE, a->y.row * row + a->y.head * head + a->y.token * query + i, total > 0 ? os[mine * ldo + i] / total : 0 * a->nothing);
}

template <int TYPE> int launch_tiles(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_attention *a = &t->u.attention;
    const size_t bytes = shared_bytes(padded((int)a->head_dim), padded((int)a->head_dim_v));
    cudaError_t e = cudaFuncSetAttribute(attend_tiles<TYPE>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e != cudaSuccess) return (int)e;
    const dim3 grid((unsigned)((a->queries + QUERIES - 1) / QUERIES), (unsigned)a->heads, (unsigned)a->batch);
    CUDA_LAUNCH(attend_tiles<TYPE>, grid, THREADS, bytes, stream, *t);
    return (int)cudaGetLastError();
}

bool fits_tiles(const struct gpu_task *t)
{
    const struct gpu_attention *a = &t->u.attention;
    const bool same = t->type[0] == t->type[1] && t->type[0] == t->type[2] && t->type[0] == t->type[3] && (t->type[0] == GPU_F16 || t->type[0] == GPU_BF16);
    return same && a->head_dim % 8 == 0 && a->head_dim_v % 8 == 0 && a->head_dim <= 256 && a->head_dim_v <= 256 && a->heads <= 65535 && a->batch <= 65535 && shared_bytes(padded((int)a->head_dim), padded((int)a->head_dim_v)) <= 200u << 10;
}

}

int cuda_launch_attention(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_attention *a = &t->u.attention;
    const int64_t all = a->batch * a->heads * a->queries;
    if (all == 0) return 0;
    if (fits_tiles(t)) return t->type[0] == GPU_F16 ? launch_tiles<GPU_F16>(t, stream) : launch_tiles<GPU_BF16>(t, stream);
    if (a->head_dim > LANES_MAX * WARP || a->head_dim_v > LANES_MAX * WARP) return (int)cudaErrorInvalidValue;
    CUDA_LAUNCH(attend_alone, (unsigned)((all + WARPS - 1) / WARPS), THREADS, 0, stream, *t, all);
    return (int)cudaGetLastError();
}
