/* Tasks whose result needs whole rows: reductions, softmax, norms. A block takes a row; its threads' parts are joined by warps. Where rows are short, a warp takes one. */
#include "kernels/cuda/body.h"
#include "kernels/cuda/launch.h"

namespace {

enum { WARP = 32, THREADS = 256, WARPS = THREADS / WARP, SHORT = 1024 /* rows up to here go to one warp */ };

struct sum { __device__ static float join(float a, float b) { return a + b; } };
struct top { __device__ static float join(float a, float b) { return fmaxf(a, b); } };

/* How the threads of a row find their common number: a whole block, or one warp of it. */
template <bool BLOCK> struct team {
    __device__ static int size() { return BLOCK ? THREADS : WARP; }
    __device__ static int rank() { return BLOCK ? threadIdx.x : threadIdx.x % WARP; }
    __device__ static int64_t row() { return BLOCK ? blockIdx.x : (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP; }
    template <typename J> __device__ static float all(float v, float nothing)
    {
        for (int d = WARP / 2; d; d /= 2) v = J::join(v, __shfl_xor_sync(0xffffffffu, v, d));
        if (!BLOCK) return v;
        __shared__ float part[WARPS];
        __syncthreads();                              /* the numbers of the last time were read */
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
        __syncthreads();
        v = threadIdx.x % WARP < WARPS ? part[threadIdx.x % WARP] : nothing;
        for (int d = WARP / 2; d; d /= 2) v = J::join(v, __shfl_xor_sync(0xffffffffu, v, d));
        return v;
    }
};

template <typename F> int launch_rows(F *block, F *warp, const struct gpu_task *t, int64_t rows, int64_t n, cuda_stream stream)
{
    if (rows == 0) return 0;
    if (rows > 0x7fffffff) return (int)cudaErrorInvalidValue;
    if (n <= SHORT) CUDA_LAUNCH(warp, (unsigned)((rows + WARPS - 1) / WARPS), THREADS, 0, stream, *t, rows);
    else CUDA_LAUNCH(block, (unsigned)rows, THREADS, 0, stream, *t, rows);
    return (int)cudaGetLastError();
}

/* ---- softmax ---- */
template <bool BLOCK> __global__ void softmax(const __grid_constant__ struct gpu_task t, int64_t rows)
{
    typedef team<BLOCK> T;
    const struct gpu_softmax *s = &t.u.softmax;
    const int64_t row = T::row();
    if (row >= rows) return;
    float best = -INFINITY, total = 0;
    for (int64_t k = T::rank(); k < s->n; k += T::size()) best = fmaxf(best, body_load(t.at[0], t.type[0], body_softmax_at(s, row, k)));
    best = T::template all<top>(best, -INFINITY);
    for (int64_t k = T::rank(); k < s->n; k += T::size()) total += expf(body_load(t.at[0], t.type[0], body_softmax_at(s, row, k)) - best);
    total = T::template all<sum>(total, 0);
    const float scale = 1 / total, shift = logf(total);
    for (int64_t k = T::rank(); k < s->n; k += T::size()) {
        const int64_t at = body_softmax_at(s, row, k);
        const float v = body_load(t.at[0], t.type[0], at) - best;
        body_store(t.at[1], t.type[1], at, s->log ? v - shift : expf(v) * scale);
    }
}

/* ---- norms over rows ---- */
template <bool BLOCK> __global__ void norm_rows(const __grid_constant__ struct gpu_task t, int64_t rows)
{
    typedef team<BLOCK> T;
    const struct gpu_norm_rows *p = &t.u.norm_rows;
    const int64_t row = T::row(), from = row * p->n, own = p->periods ? row % p->periods * p->n : 0;
    if (row >= rows) return;
    float mean = 0, square = 0;
    if (!p->rms) {
        for (int64_t k = T::rank(); k < p->n; k += T::size()) mean += body_load(t.at[0], t.type[0], from + k);
        mean = T::template all<sum>(mean, 0) / (float)p->n;
    }
    for (int64_t k = T::rank(); k < p->n; k += T::size()) {
        const float v = body_load(t.at[0], t.type[0], from + k) - mean;
        square += v * v;
    }
    const float scale = rsqrtf(T::template all<sum>(square, 0) / (float)p->n + p->epsilon);
    for (int64_t k = T::rank(); k < p->n; k += T::size()) {
        float v = (body_load(t.at[0], t.type[0], from + k) - mean) * scale;
        if (t.at[2]) v *= body_load(t.at[2], t.type[2], own + k);
        if (t.at[3]) v += body_load(t.at[3], t.type[3], own + k);
        body_store(t.at[1], t.type[1], from + k, v);
    }
}

/* ---- norms over groups of channels ---- */
template <bool BLOCK> __global__ void norm_channels(const __grid_constant__ struct gpu_task t, int64_t rows)
{
    typedef team<BLOCK> T;
    const struct gpu_norm_channels *p = &t.u.norm_channels;
    const int64_t row = T::row(), n = p->channels / p->groups * p->space, batch = row / p->groups, group = row % p->groups;
    if (row >= rows) return;
    int64_t c;
    float mean = 0, square = 0;
    for (int64_t k = T::rank(); k < n; k += T::size()) mean += body_load(t.at[0], t.type[0], body_channels_at(p, batch, group, k, &c));
    mean = T::template all<sum>(mean, 0) / (float)n;
    for (int64_t k = T::rank(); k < n; k += T::size()) {
        const float v = body_load(t.at[0], t.type[0], body_channels_at(p, batch, group, k, &c)) - mean;
        square += v * v;
    }
    const float scale = rsqrtf(T::template all<sum>(square, 0) / (float)n + p->epsilon);
    for (int64_t k = T::rank(); k < n; k += T::size()) {
        const int64_t at = body_channels_at(p, batch, group, k, &c);
        float v = (body_load(t.at[0], t.type[0], at) - mean) * scale;
        if (t.at[2]) v *= body_load(t.at[2], t.type[2], c);
        if (t.at[3]) v += body_load(t.at[3], t.type[3], c);
        body_store(t.at[1], t.type[1], at, body_activate(v, p->act));
    }
}

/* ---- reductions ---- */
template <bool BLOCK> __device__ float join_all(int reduction, float v)
{
    typedef team<BLOCK> T;
    if (reduction == GPU_RED_MAX || reduction == GPU_RED_MIN) {       /* what is not a number wins */
        const bool any = T::template all<top>(v != v, 0) != 0;
        const float w = reduction == GPU_RED_MAX ? T::template all<top>(v, -INFINITY) : -T::template all<top>(-v, -INFINITY);
        return any ? NAN : w;
    }
    return T::template all<sum>(v, 0);
}

template <bool BLOCK> __global__ void reduce(const __grid_constant__ struct gpu_task t, int64_t rows)
{
    typedef team<BLOCK> T;
    const struct gpu_reduce *r = &t.u.reduce;
    const int64_t row = T::row();
    if (row >= rows) return;
    float v = body_reduce_first(r->reduction), shift = 0;
    if (r->reduction == GPU_RED_LOG_SUM_EXP) {
        float best = -INFINITY;
        for (int64_t k = T::rank(); k < r->length; k += T::size()) best = fmaxf(best, body_load(t.at[0], t.type[0], body_reduce_at(r, row, k)));
        shift = T::template all<top>(best, -INFINITY);
        if (!(fabsf(shift) < INFINITY)) shift = 0;
    }
    for (int64_t k = T::rank(); k < r->length; k += T::size()) v = body_reduce_step(r->reduction, v, body_load(t.at[0], t.type[0], body_reduce_at(r, row, k)), shift);
    v = join_all<BLOCK>(r->reduction, v);
    if (T::rank() == 0) body_store(t.at[1], t.type[1], row, body_reduce_last(r->reduction, v, r->length, shift));
}

/* One thread a result: products, places and whole numbers, which are rare and short. */
__global__ void reduce_alone(const __grid_constant__ struct gpu_task t, int64_t rows)
{
    const struct gpu_reduce *r = &t.u.reduce;
    const int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    if (!gpu_type_is_float(t.type[0])) {
        body_reduce_whole(&t, row);
        return;
    }
    float v = body_reduce_first(r->reduction);
    int64_t best = -1;
    for (int64_t k = 0; k < r->length; k++) {
        const float x = body_load(t.at[0], t.type[0], body_reduce_at(r, row, k));
        if (r->reduction < GPU_RED_ARGMAX) v = body_reduce_step(r->reduction, v, x, 0);
        else if (body_arg_better(r, x, k, v, best)) v = x, best = k;
    }
    if (r->reduction < GPU_RED_ARGMAX) body_store(t.at[1], t.type[1], row, body_reduce_last(r->reduction, v, r->length, 0));
    else body_store_whole(t.at[1], t.type[1], row, best < 0 ? 0 : best);
}

int launch_reduce(const struct gpu_task *t, cuda_stream stream)
{
    const struct gpu_reduce *r = &t->u.reduce;
    const bool alone = !gpu_type_is_float(t->type[0]) || r->reduction == GPU_RED_PROD || r->reduction >= GPU_RED_ARGMAX;
    if (!alone) return launch_rows(reduce<true>, reduce<false>, t, r->count, r->length, stream);
    if (r->count == 0) return 0;
    CUDA_LAUNCH(reduce_alone, (unsigned)((r->count + THREADS - 1) / THREADS), THREADS, 0, stream, *t, r->count);
    return (int)cudaGetLastError();
}

}

int cuda_launch_rows(const struct gpu_task *t, cuda_stream stream)
{
    switch (t->kind) {
    case GPU_REDUCE: return launch_reduce(t, stream);
    case GPU_SOFTMAX: return launch_rows(softmax<true>, softmax<false>, t, t->u.softmax.outer * t->u.softmax.inner, t->u.softmax.n, stream);
    case GPU_NORM_ROWS: return launch_rows(norm_rows<true>, norm_rows<false>, t, t->u.norm_rows.rows, t->u.norm_rows.n, stream);
    case GPU_NORM_CHANNELS: {
        const struct gpu_norm_channels *p = &t->u.norm_channels;
        return launch_rows(norm_channels<true>, norm_channels<false>, t, p->batch * p->groups, p->channels / p->groups * p->space, stream);
    }
    default: return (int)cudaErrorInvalidValue;
    }
}
