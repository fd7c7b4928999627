/* Attention over pages of keys and values. A text that decodes (one token in the step) has its keys shared out by spans of GPU_SPAN, whose results a second kernel puts together; a text that is
 * read (many tokens) goes over all of its keys in one block. Two kernels: tensor cores through WMMA for pages of halves, all query heads of a head of the cache in one block, since a page's keys lie
 * as the right matrix of a product wants them; a warp for each query and head for everything else, whose results are the same bits whatever shares the step. */
#include <mma.h>

#include "kernels/cuda/body_llm.h"
#include "kernels/cuda/launch.h"

namespace {

enum { WARP = 32, WARPS = 4, THREADS = WARP * WARPS, PAGE = ATTENTION_PAGE };

/* What a query of a row may see. */
struct view { const int32_t *row; int index; int64_t position, from, to; int spans; };

__device__ int64_t spans_of(int64_t to) { return (to + GPU_SPAN - 1) / GPU_SPAN; }

__device__ struct view view_of(const struct gpu_paged *p, const int32_t *rows, int r, int64_t token)
{
    struct view v;
    v.row = rows + 4 * r;
    v.index = r;
    v.position = v.row[2] + token - v.row[0];
    v.from = body_paged_from(p, v.position);
    v.to = body_paged_to(p, v.row, v.position);
    v.spans = (int)spans_of(v.to);
    return v;
}

/* The row of a token, found by the lanes of a warp; -1: none. */
__device__ int row_of(const int32_t *rows, int sequences, int64_t token)
{
    int found = -1;
    for (int r = threadIdx.x % WARP; r < sequences; r += WARP)
        if (token >= rows[4 * r] && token < (int64_t)rows[4 * r] + rows[4 * r + 1]) found = r;
    for (int d = WARP / 2; d; d /= 2) found = max(found, __shfl_xor_sync(0xffffffffu, found, d));
    return found;
}

__device__ float *partial_of(const struct gpu_task *t, const struct view *v, int64_t span, int64_t head)
{
    const struct gpu_paged *p = &t->u.paged;
    return (float *)t->at[7] + ((body_paged_slot(v->row, v->index) + span) * p->heads + head) * gpu_paged_partial(p);
}

/* ---- a warp for each query and head ---- */
enum { LANES_MAX = ATTENTION_DIM_MAX / WARP };

/* Keys [from, to) of one span: each lane scores its own keys, then all lanes add up values. o: this lane's numbers lane, lane + 32, ... */
__device__ void attend_span(const struct gpu_task *t, const struct view *v, int64_t head, const float *q, int64_t from, int64_t to, float *o, float *top, float *total)
{
    const struct gpu_paged *p = &t->u.paged;
    const struct gpu_cache *c = &p->c;
    const int64_t of = head / (p->heads / c->kv_heads);
    const float slope = t->at[6] ? ((const float *)t->at[6])[head] : 0;
    const int32_t *pages = (const int32_t *)t->at[2] + v->row[3];
    const int lane = threadIdx.x % WARP;
    for (int64_t j0 = from / WARP * WARP; j0 < to; j0 += WARP) {
        const int64_t j = j0 + lane;
        float s = -INFINITY;
        if (j >= from && j < to) {
            const char *keys = body_keys(c, body_page(c, t->at[3], pages, j / PAGE), of);
            float product = 0;
            for (int64_t i = 0; i < c->head_dim; i++) product += q[i] * body_key(c, keys, j % PAGE, i);
            s = body_paged_score(p, slope, v->position, j, product);
        }
        float best = s;
        for (int d = WARP / 2; d; d /= 2) best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, d));
        if (best == -INFINITY) continue;
        best = fmaxf(best, *top);
        const float old = *top > -INFINITY ? expf(*top - best) : 0, w = s > -INFINITY ? expf(s - best) : 0;
        float sum = w;
        for (int d = WARP / 2; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        *top = best;
        *total = *total * old + sum;
#pragma unroll
        for (int i = 0; i < LANES_MAX; i++) o[i] *= old;
        for (int64_t k = 0; k < WARP && j0 + k < to; k++) {
            const float weight = __shfl_sync(0xffffffffu, w, (int)k);
            if (j0 + k < from || weight == 0) continue;
            const char *values = body_values(c, body_page(c, t->at[3], pages, (j0 + k) / PAGE), of);
#pragma unroll
            for (int i = 0; i < LANES_MAX; i++)
                if (i * WARP + lane < c->head_dim_v) o[i] += weight * body_value(c, values, (j0 + k) % PAGE, i * WARP + lane);
        }
    }
}

__device__ void finish(const struct gpu_task *t, int64_t token, int64_t head, const float *o, float top, float total)
{
    const struct gpu_paged *p = &t->u.paged;
    const int lane = threadIdx.x % WARP;
    float scale;
    const float inverse = body_paged_inverse(&scale, top, total, t->at[5] ? (const float *)t->at[5] + head : NULL);
    float *y = (float *)t->at[4] + (token * p->heads + head) * p->c.head_dim_v;
#pragma unroll
    for (int i = 0; i < LANES_MAX; i++)
        if (i * WARP + lane < p->c.head_dim_v) y[i * WARP + lane] = o[i] * scale * inverse;
}

/* grid.x: tokens and heads, a warp each; grid.y: spans, several in turn. */
__global__ void __launch_bounds__(THREADS) attend_alone(const __grid_constant__ struct gpu_task t)
{
    const struct gpu_paged *p = &t.u.paged;
    const int64_t which = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, token = which / p->heads, head = which % p->heads;
    if (token >= p->tokens) return;
    const int r = row_of((const int32_t *)t.at[1], p->c.sequences, token);
    if (r < 0) return;
    const struct view v = view_of(p, (const int32_t *)t.at[1], r, token);
    const float *q = (const float *)t.at[0] + (token * p->heads + head) * p->c.head_dim;
    const bool shared_out = v.row[1] == 1 && v.spans > 1;
    if (!shared_out && blockIdx.y) return;
    float all[LANES_MAX], top = -INFINITY, total = 0;
#pragma unroll
    for (int i = 0; i < LANES_MAX; i++) all[i] = 0;
    for (int64_t span = shared_out ? blockIdx.y : v.from / GPU_SPAN; span < v.spans; span += shared_out ? gridDim.y : 1) {
        float o[LANES_MAX], span_top = -INFINITY, span_total = 0;
#pragma unroll
        for (int i = 0; i < LANES_MAX; i++) o[i] = 0;
        const int64_t begin = span * GPU_SPAN, end = begin + GPU_SPAN;
        attend_span(&t, &v, head, q, v.from > begin ? v.from : begin, v.to < end ? v.to : end, o, &span_top, &span_total);
        if (shared_out) {
            float *part = partial_of(&t, &v, span, head);
#pragma unroll
            for (int i = 0; i < LANES_MAX; i++)
                if (i * WARP + threadIdx.x % WARP < p->c.head_dim_v) part[i * WARP + threadIdx.x % WARP] = o[i];
            if (threadIdx.x % WARP == 0) part[p->c.head_dim_v] = span_top, part[p->c.head_dim_v + 1] = span_total;
            continue;
        }
        const struct body_span s = body_span_join(top, total, span_top, span_total);
#pragma unroll
        for (int i = 0; i < LANES_MAX; i++) all[i] = all[i] * s.scale_old + o[i] * s.scale_new;
        top = s.top, total = s.total;
    }
    if (!shared_out) finish(&t, token, head, all, top, total);
}

/* Puts spans together, and zeros where no row names a token: a warp for each token and head. */
__global__ void __launch_bounds__(THREADS) put_together(const __grid_constant__ struct gpu_task t)
{
    const struct gpu_paged *p = &t.u.paged;
    const int lane = threadIdx.x % WARP;
    const int64_t which = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, token = which / p->heads, head = which % p->heads;
    if (token >= p->tokens) return;
    const int r = row_of((const int32_t *)t.at[1], p->c.sequences, token);
    float all[LANES_MAX], top = -INFINITY, total = 0;
#pragma unroll
    for (int i = 0; i < LANES_MAX; i++) all[i] = 0;
    if (r < 0) {
        float *y = (float *)t.at[4] + (token * p->heads + head) * p->c.head_dim_v;
        for (int64_t i = lane; i < p->c.head_dim_v; i += WARP) y[i] = 0;
        return;
    }
    const struct view v = view_of(p, (const int32_t *)t.at[1], r, token);
    if (v.row[1] != 1 || v.spans < 2) return;
    for (int64_t span = v.from / GPU_SPAN; span < v.spans; span++) {
        const float *part = partial_of(&t, &v, span, head);
        const struct body_span s = body_span_join(top, total, part[p->c.head_dim_v], part[p->c.head_dim_v + 1]);
#pragma unroll
        for (int i = 0; i < LANES_MAX; i++)
            if (i * WARP + lane < p->c.head_dim_v) all[i] = all[i] * s.scale_old + part[i * WARP + lane] * s.scale_new;
        top = s.top, total = s.total;
    }
    finish(&t, token, head, all, top, total);
}

/* ---- tensor cores: pages of halves ---- */
enum { ROWS = 16, KEYS = 64, TILE = ROWS * WARPS /* queries of a block, where its warps share them out */, PAD = 8 };

template <int TYPE> struct half_of { typedef __half type; };
template <> struct half_of<GPU_BF16> { typedef __nv_bfloat16 type; };

/* Shared memory of a warp: queries [ROWS][d + PAD] and weights [ROWS][KEYS + PAD] as halves; scores [ROWS][KEYS + 4], sums [ROWS][dv + 4], top and total [ROWS] as floats. */
__host__ __device__ size_t warp_bytes(int d, int dv) { return ((size_t)ROWS * (2 * (d + PAD) + 2 * (KEYS + PAD) + 4 * (KEYS + 4) + 4 * (dv + 4) + 8) + 31) / 32 * 32; }

/* A tile of queries of one row: query number i is token i / group of the row, head i % group. */
struct tile { struct view first; int64_t queries, begin; };

/* Which row the block's tile is of; false: none. Rows have count * group / TILE tiles each, rounded up. */
__device__ bool find_tile(const struct gpu_paged *p, const int32_t *rows, int group, int64_t which, int *row, int64_t *begin)
{
    for (int r = 0; r < p->c.sequences; r++) {
        const int64_t queries = (int64_t)rows[4 * r + 1] * group, tiles = (queries + TILE - 1) / TILE;
        if (which < tiles) {
            *row = r;
            *begin = which * TILE;
            return true;
        }
        which -= tiles;
    }
    return false;
}

/* Each warp 16 queries. together: the block's warps have the same queries and take blocks of KEYS in turn, else each has its own and takes all. */
template <int TYPE> __global__ void __launch_bounds__(THREADS) attend_tiles(const __grid_constant__ struct gpu_task t)
{
    using namespace nvcuda;
    typedef typename half_of<TYPE>::type H;
    CUDA_SHARED(memory);
    const struct gpu_paged *p = &t.u.paged;
    const struct gpu_cache *c = &p->c;
    const int d = (int)c->head_dim, dv = (int)c->head_dim_v, group = (int)(p->heads / c->kv_heads), warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, ldq = d + PAD, ldp = KEYS + PAD, lds = KEYS + 4, ldo = dv + 4;
    unsigned char *mine = memory + warp * warp_bytes(d, dv);
    H *qs = (H *)mine, *ps = qs + ROWS * ldq;
    float *ss = (float *)(ps + ROWS * ldp), *os = ss + ROWS * lds, *tops = os + ROWS * ldo, *totals = tops + ROWS;
    const int32_t *rows = (const int32_t *)t.at[1];
    const int64_t of = blockIdx.y;
    int r;
    int64_t begin;
    if (!find_tile(p, rows, group, blockIdx.x, &r, &begin)) return;
    const int32_t *row = rows + 4 * r;
    const int64_t queries = (int64_t)row[1] * group;
    const bool together = queries <= ROWS;
    const int64_t q0 = begin + (together ? 0 : warp * ROWS);
    const struct view last = view_of(p, rows, r, row[0] + ((q0 + ROWS < queries ? q0 + ROWS : queries) - 1) / group), first = view_of(p, rows, r, row[0] + (q0 < queries ? q0 : queries - 1) / group);
    const bool shared_out = row[1] == 1 && last.spans > 1;
    if (!shared_out && blockIdx.z) return;
    const int32_t *pages = (const int32_t *)t.at[2] + row[3];
    for (int i = lane; i < ROWS * d; i += WARP) {
        const int64_t q = q0 + i / d;
        qs[i / d * ldq + i % d] = (H)(q < queries ? ((const float *)t.at[0])[((row[0] + q / group) * p->heads + of * group + q % group) * d + i % d] : 0.0f);
    }
    const int own = lane / 2, side = lane % 2;                   /* two lanes share a query: each half of its scores */
    const int64_t query = q0 + own, position = row[2] + (query < queries ? query : queries - 1) / group;
    const int64_t to = body_paged_to(p, row, position), most = together || q0 < queries ? last.to : 0;
    const float slope = t.at[6] ? ((const float *)t.at[6])[of * group + (query < queries ? query : 0) % group] : 0;
    const int64_t spans = shared_out ? last.spans : 1;
    for (int64_t span = shared_out ? blockIdx.z : 0; span < spans; span += gridDim.z) {
        const int64_t low = shared_out ? span * GPU_SPAN : first.from / KEYS * KEYS, high = shared_out && (span + 1) * GPU_SPAN < most ? (span + 1) * GPU_SPAN : most;
        for (int i = lane; i < ROWS * ldo; i += WARP) os[i] = 0;
        float top = -INFINITY, total = 0;
        __syncwarp();
        for (int64_t j0 = low + (together ? warp * KEYS : 0); j0 < high; j0 += together ? WARPS * KEYS : KEYS) {
            for (int n = 0; n < KEYS / PAGE; n++) {
                wmma::fragment<wmma::accumulator, 16, 16, 16, float> s;
                wmma::fill_fragment(s, 0);
                if (j0 + n * PAGE < high && pages[j0 / PAGE + n] >= 0) {
                    const H *keys = (const H *)body_keys(c, body_page(c, t.at[3], pages, j0 / PAGE + n), of);
                    for (int i = 0; i < d; i += 16) {
                        wmma::fragment<wmma::matrix_a, 16, 16, 16, H, wmma::row_major> x;
                        wmma::fragment<wmma::matrix_b, 16, 16, 16, H, wmma::row_major> y;
                        wmma::load_matrix_sync(x, qs + i, ldq);
                        wmma::load_matrix_sync(y, keys + i * PAGE, PAGE);
                        wmma::mma_sync(s, x, y, s);
                    }
                }
                wmma::store_matrix_sync(ss + n * PAGE, s, lds, wmma::mem_row_major);
            }
            __syncwarp();
            float best = top;
            for (int j = side; j < KEYS; j += 2) {
                const float s = query < queries && j0 + j < to && j0 + j < high ? body_paged_score(p, slope, position, j0 + j, ss[own * lds + j]) : -INFINITY;
                ss[own * lds + j] = s;
                best = fmaxf(best, s);
            }
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
            const float old = top > -INFINITY ? expf(top - best) : best > -INFINITY ? 0 : 1;
            float part = 0;
            for (int j = side; j < KEYS; j += 2) {
                const float w = best > -INFINITY ? expf(ss[own * lds + j] - best) : 0;
                part += w;
                ps[own * ldp + j] = (H)w;
            }
            total = total * old + part + __shfl_xor_sync(0xffffffffu, part, 1);
            top = best;
            for (int i = side; i < dv; i += 2) os[own * ldo + i] *= old;
            __syncwarp();
            for (int i = 0; i < dv; i += 16) {
                wmma::fragment<wmma::accumulator, 16, 16, 16, float> o;
                wmma::load_matrix_sync(o, os + i, ldo, wmma::mem_row_major);
                for (int n = 0; n < KEYS / PAGE; n++) {
                    if (j0 + n * PAGE >= high || pages[j0 / PAGE + n] < 0) continue;
                    wmma::fragment<wmma::matrix_a, 16, 16, 16, H, wmma::row_major> x;
                    wmma::fragment<wmma::matrix_b, 16, 16, 16, H, wmma::row_major> y;
                    wmma::load_matrix_sync(x, ps + n * PAGE, ldp);
                    wmma::load_matrix_sync(y, (const H *)body_values(c, body_page(c, t.at[3], pages, j0 / PAGE + n), of) + i, dv);
                    wmma::mma_sync(o, x, y, o);
                }
                wmma::store_matrix_sync(os + i, o, ldo, wmma::mem_row_major);
            }
            __syncwarp();
        }
        if (side == 0) tops[own] = top, totals[own] = total;
        __syncwarp();
        if (together) __syncthreads();
        if (!together || warp == 0)                              /* the warps' sums of the same queries into one */
            for (int q = 0; q < ROWS; q++) {
                if (q0 + q >= queries) break;
                float joined = tops[q], weight = totals[q];
                for (int w = 1; w < WARPS && together; w++) {
                    float *theirs = (float *)((unsigned char *)os + w * warp_bytes(d, dv)), *their_tops = theirs + ROWS * ldo;
                    const struct body_span s = body_span_join(joined, weight, their_tops[q], their_tops[ROWS + q]);
                    for (int i = lane; i < dv; i += WARP) os[q * ldo + i] = os[q * ldo + i] * s.scale_old + theirs[q * ldo + i] * s.scale_new;
                    joined = s.top, weight = s.total;
                }
                const int64_t token = row[0] + (q0 + q) / group, head = of * group + (q0 + q) % group;
                if (shared_out) {
                    float *part = partial_of(&t, &last, span, head);
                    for (int i = lane; i < dv; i += WARP) part[i] = os[q * ldo + i];
                    if (lane == 0) part[dv] = joined, part[dv + 1] = weight;
                } else {
                    float scale;
                    const float inverse = body_paged_inverse(&scale, joined, weight, t.at[5] ? (const float *)t.at[5] + head : NULL);
                    for (int i = lane; i < dv; i += WARP) ((float *)t.at[4])[(token * p->heads + head) * dv + i] = os[q * ldo + i] * scale * inverse;
                }
            }
        if (together) __syncthreads();
    }
}

bool fits_tiles(const struct gpu_paged *p)
{
    const struct gpu_cache *c = &p->c;
    return !p->alone && (c->kv_block == BLOCK_F16 || c->kv_block == BLOCK_BF16) && c->head_dim % 16 == 0 && c->head_dim_v % 16 == 0 && p->heads / c->kv_heads <= TILE && c->page_stride % 64 == 0 && c->layer % 64 == 0
        && c->kv_heads <= 65535 && WARPS * warp_bytes((int)c->head_dim, (int)c->head_dim_v) <= 200u << 10;
}

/* Blocks that share out the spans of a text. */
unsigned span_blocks(const struct gpu_paged *p, int64_t others)
{
    const int64_t wanted = 1024 / (others < 1 ? 1 : others), most = p->spans < 1 ? 1 : p->spans;
    return (unsigned)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

template <int TYPE> int launch_tiles(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_paged *p = &t->u.paged;
    const size_t bytes = WARPS * warp_bytes((int)p->c.head_dim, (int)p->c.head_dim_v);
    cudaError_t e = cudaFuncSetAttribute(attend_tiles<TYPE>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e != cudaSuccess) return (int)e;
    const dim3 grid((unsigned)p->tokens, (unsigned)p->c.kv_heads, span_blocks(p, p->tokens * p->c.kv_heads));
    CUDA_LAUNCH(attend_tiles<TYPE>, grid, THREADS, bytes, stream, *t);
    return (int)cudaGetLastError();
}

}

int cuda_launch_paged(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_paged *p = &t->u.paged;
    const int64_t all = p->tokens * p->heads, blocks = (all + WARPS - 1) / WARPS;
    int e = 0;
    if (all == 0) return 0;
    if (fits_tiles(p)) e = p->c.kv_block == BLOCK_F16 ? launch_tiles<GPU_F16>(t, stream) : launch_tiles<GPU_BF16>(t, stream);
    else {
        CUDA_LAUNCH(attend_alone, dim3((unsigned)blocks, span_blocks(p, blocks)), THREADS, 0, stream, *t);
        e = (int)cudaGetLastError();
    }
    if (e) return e;
    CUDA_LAUNCH(put_together, (unsigned)blocks, THREADS, 0, stream, *t);
    return (int)cudaGetLastError();
}
