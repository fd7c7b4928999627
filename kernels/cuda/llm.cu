/* Tasks of language models but attention: loops around kernels/cuda/body_llm.h, products of few rows with matrices of blocks, and the choice of experts. */
#include "kernels/cuda/body_llm.h"
#include "kernels/cuda/launch.h"

namespace {

enum { WARP = 32, THREADS = 256, WARPS = THREADS / WARP, BLOCKS_MAX = 1 << 16, COLUMNS = 2 /* of a warp */, ROWS_MAX = 8 };

int blocks_for(int64_t n, int64_t each)
{
    const int64_t blocks = (n + each - 1) / each;
    return blocks < 1 ? 1 : blocks > BLOCKS_MAX ? BLOCKS_MAX : (int)blocks;
}

/* ---- element by element ---- */
template <int KIND> __global__ void each(const __grid_constant__ struct gpu_task t, int64_t n)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        if (KIND == GPU_EMBED) body_embed(&t, i);
        else if (KIND == GPU_GATE) body_gate_one(&t, i);
        else if (KIND == GPU_ROPE_TABLE) body_rope_table(&t, i);
        else if (KIND == GPU_STORE) body_store_one(&t, i);
        else if (KIND == GPU_COMBINE) body_combine(&t, i);
    }
}

template <int KIND> int launch(const struct gpu_task *t, cuda_stream stream)
{
    const int64_t n = body_llm_elements(t);
    if (n == 0) return 0;
    CUDA_LAUNCH(each<KIND>, blocks_for(n, THREADS), THREADS, 0, stream, *t, n);
    return (int)cudaGetLastError();
}

/* ---- products of few rows ---- */
/* `count` (a multiple of 4) numbers of x from `at` on; behind k they are 0. */
template <int COUNT> __device__ __forceinline__ void fetch(float (&x)[COUNT], const float *row, int64_t at, int64_t k, bool aligned)
{
    if (aligned && at + COUNT <= k) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            const float4 v = __ldg((const float4 *)(row + at + i));
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = at + i < k ? row[at + i] : 0;
}

/* Sums of COLUMNS rows of a matrix with M rows of x, this lane's share: of plain numbers 16 bytes at a time, so that a warp reads without gaps; of blocks a chunk at a time. */
template <int BLOCK, int M> __device__ __forceinline__ void share(const struct gpu_matrix *of, const uint8_t *const (&rows)[COLUMNS], const float *const (&x)[M], bool aligned, float (&sum)[COLUMNS][M])
{
    constexpr bool plain = BLOCK == BLOCK_F32 || BLOCK == BLOCK_F16 || BLOCK == BLOCK_BF16;
    constexpr int count = plain ? (BLOCK == BLOCK_F32 ? 4 : 8) : GPU_CHUNK;
    struct gpu_matrix w = *of;
    w.block = BLOCK;
    const int lane = threadIdx.x % WARP;
#pragma unroll 2
    for (int64_t at = (int64_t)lane * count; at < w.k; at += WARP * count) {
        float v[COLUMNS][count];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (plain) {
                const struct body_words b = body_fetch(rows[c] + at * (BLOCK == BLOCK_F32 ? 4 : 2));
#pragma unroll
                for (int i = 0; i < count; i++) v[c][i] = body_load(&b, BLOCK == BLOCK_F32 ? GPU_F32 : BLOCK == BLOCK_F16 ? GPU_F16 : GPU_BF16, i);
            } else body_chunk(&w, rows[c], at / GPU_CHUNK, v[c]);
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
            float a[count];
            fetch<count>(a, x[m], at, w.k, aligned);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int i = 0; i < count; i++) sum[c][m] += a[i] * v[c][i];
        }
    }
}

/* Whole sums, in every lane. */
template <int M> __device__ void sums_of(const struct gpu_matrix *w, const uint8_t *const (&rows)[COLUMNS], const float *const (&x)[M], bool aligned, float (&sum)[COLUMNS][M])
{
    for (int c = 0; c < COLUMNS; c++)
        for (int m = 0; m < M; m++) sum[c][m] = 0;
    switch (w->block) {
    case BLOCK_F32: share<BLOCK_F32, M>(w, rows, x, aligned, sum); break;
    case BLOCK_F16: share<BLOCK_F16, M>(w, rows, x, aligned, sum); break;
    case BLOCK_BF16: share<BLOCK_BF16, M>(w, rows, x, aligned, sum); break;
    case BLOCK_Q4_0: share<BLOCK_Q4_0, M>(w, rows, x, aligned, sum); break;
    case BLOCK_Q8_0: share<BLOCK_Q8_0, M>(w, rows, x, aligned, sum); break;
    case BLOCK_Q4_K: share<BLOCK_Q4_K, M>(w, rows, x, aligned, sum); break;
    case BLOCK_Q5_K: share<BLOCK_Q5_K, M>(w, rows, x, aligned, sum); break;
    default: share<BLOCK_Q6_K, M>(w, rows, x, aligned, sum); break;
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int m = 0; m < M; m++)
            for (int d = WARP / 2; d; d /= 2) sum[c][m] += __shfl_xor_sync(0xffffffffu, sum[c][m], d);
}

/* A warp makes COLUMNS columns of one part for M rows; grid.x counts groups of columns, part by part, grid.y groups of rows. */
template <int M> __global__ void __launch_bounds__(THREADS) linear_few(const __grid_constant__ struct gpu_task t)
{
    const struct gpu_linear *l = &t.u.linear;
    const int lane = threadIdx.x % WARP;
    int64_t group = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    const int64_t r0 = (int64_t)blockIdx.y * M;
    int part = 0;
    for (; part < l->parts; part++) {                          /* groups do not reach over two parts */
        const int64_t groups = (l->w[part].n + COLUMNS - 1) / COLUMNS;
        if (group < groups) break;
        if (l->gated) return;
        group -= groups;
    }
    if (part == l->parts) return;
    const int64_t column = group * COLUMNS, n = l->w[part].n;
    const bool aligned = l->k % 4 == 0 && (uintptr_t)t.at[GPU_LINEAR_X] % 16 == 0;
    const uint8_t *rows[COLUMNS];
    const float *x[M];
    float sum[COLUMNS][M], other[COLUMNS][M];
#pragma unroll
    for (int m = 0; m < M; m++) x[m] = body_linear_x(&t, r0 + m < l->m ? r0 + m : l->m - 1);
    /* once, or gated: twice, part 1 first; one place in the code, since there is much of it */
#pragma unroll 1
    for (int left = l->gated; left >= 0; left--) {
        const int from = left ? 1 : part;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) rows[c] = body_linear_row(&t, from, r0, column + c < n ? column + c : n - 1);
        sums_of<M>(&l->w[from], rows, x, aligned, sum);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int m = 0; m < M && left; m++) other[c][m] = sum[c][m];
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int m = 0; m < M; m++)
            if (lane == c * M + m && column + c < n && r0 + m < l->m) body_linear_finish(&t, part, r0 + m, column + c, sum[c][m], l->gated ? other[c][m] : 0);
}

template <int M> int launch_few(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_linear *l = &t->u.linear;
    int64_t groups = 0;
    for (int p = 0; p < (l->gated ? 1 : l->parts); p++) groups += (l->w[p].n + COLUMNS - 1) / COLUMNS;
    const int64_t many = (l->m + M - 1) / M;
    if (groups == 0 || many == 0) return 0;
    if (many > 65535) return (int)cudaErrorInvalidValue;
    CUDA_LAUNCH(linear_few<M>, dim3((unsigned)((groups + WARPS - 1) / WARPS), (unsigned)many), THREADS, 0, stream, *t);
    return (int)cudaGetLastError();
}

int launch_linear(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_linear *l = &t->u.linear;
    if (l->experts || l->m == 1) return launch_few<1>(t, stream);
    return l->m <= 4 ? launch_few<4>(t, stream) : launch_few<ROWS_MAX>(t, stream);
}

/* ---- the choice of experts: a warp for each token ---- */
__global__ void route(const __grid_constant__ struct gpu_task t)
{
    const struct gpu_route *r = &t.u.route;
    const int lane = threadIdx.x % WARP;
    const int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (token >= r->tokens) return;
    const float *logits = (const float *)t.at[0] + token * r->experts;
    int32_t *chosen = (int32_t *)t.at[1] + token * r->used;
    float *weight = (float *)t.at[2] + token * r->used, top = -INFINITY, all = 0, some = 0, last = INFINITY;
    int last_at = -1;
    for (int e = lane; e < r->experts; e += WARP) top = fmaxf(top, logits[e]);
    for (int d = WARP / 2; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
    for (int e = lane; e < r->experts; e += WARP) all += expf(logits[e] - top);
    for (int d = WARP / 2; d; d /= 2) all += __shfl_xor_sync(0xffffffffu, all, d);
    for (int u = 0; u < r->used; u++) {                       /* the next one behind (last, last_at) in the order of falling logits and rising places */
        float best = -INFINITY;
        int at = r->experts;
        for (int e = lane; e < r->experts; e += WARP) {
            const float v = logits[e];
            const bool behind = v < last || (v == last && e > last_at);
            if (behind && (v > best || at == r->experts)) best = v, at = e;
        }
        for (int d = WARP / 2; d; d /= 2) {
            const float v = __shfl_xor_sync(0xffffffffu, best, d);
            const int a = __shfl_xor_sync(0xffffffffu, at, d);
            if (a < r->experts && (at == r->experts || v > best || (v == best && a < at))) best = v, at = a;
        }
        if (at == r->experts) at = 0;                         /* logits that are no numbers */
        last = best, last_at = at;
        const float w = expf(best - top);
        some += w;
        if (lane == 0) chosen[u] = at, weight[u] = w;
    }
    const float sum = r->own ? some : all;
    __syncwarp();
    for (int u = lane; u < r->used; u += WARP) weight[u] /= sum;
}

int launch_route(const struct gpu_task *t, cuda_stream stream)
{
    const int64_t n = t->u.route.tokens;
    if (n == 0) return 0;
    CUDA_LAUNCH(route, (unsigned)((n + WARPS - 1) / WARPS), THREADS, 0, stream, *t);
    return (int)cudaGetLastError();
}

}

int cuda_launch_llm(const struct gpu_task *t, cuda_stream stream)
{
    switch (t->kind) {
    case GPU_EMBED: return launch<GPU_EMBED>(t, stream);
    case GPU_GATE: return launch<GPU_GATE>(t, stream);
    case GPU_ROPE_TABLE: return launch<GPU_ROPE_TABLE>(t, stream);
    case GPU_STORE: return launch<GPU_STORE>(t, stream);
    case GPU_COMBINE: return launch<GPU_COMBINE>(t, stream);
    case GPU_LINEAR: return launch_linear(t, stream);
    case GPU_ROUTE: return launch_route(t, stream);
    default: return (int)cudaErrorInvalidValue;
    }
}
