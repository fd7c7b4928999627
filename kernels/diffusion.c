/* Dense attention over the tables of kernels.h and diffusion.h: who computes what, in which order. Work is cut into (row, head, range of queries); a range goes over the
 * keys once, and for each block of keys packs them (and their values) as the right side of two products. */
#include "kernels/diffusion.h"

#include <string.h>

#include "kernels/cpu/levels.h"

enum { RANGE_MAX = 512, ALIGN = 64 };

void diffusion_kernels_fill(struct diffusion_kernels *k, enum cpu_level cap)
{
    enum cpu_level level = cpu_level_detect();
    if (level > cap) level = cap;
    *k = (struct diffusion_kernels){ .level = level };
    diffusion_fill_scalar(k);
    if (level >= CPU_AVX2) diffusion_fill_avx2(k);
    if (level >= CPU_AVX512) diffusion_fill_avx512(k);
    if (level >= CPU_AMX) diffusion_fill_amx(k);
    else if (cpu_is_quick_at_bf16(level)) diffusion_fill_avx512bf16(k);
}

static uint64_t round_up(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

static int64_t blocks_of(const struct group_norm *g) { return (g->rows + GROUP_NORM_ROWS - 1) / GROUP_NORM_ROWS; }

uint64_t group_norm_scratch(const struct group_norm *g)
{
    /* mean and squares of each group of each block; what each channel is multiplied by and what is added */
    return round_up((uint64_t)(g->n * blocks_of(g) * g->groups) * 2 * sizeof(double)) + round_up((uint64_t)(g->n * g->channels) * 2 * sizeof(float));
}

/* ---- attention ---- */
struct lane { uint64_t keys, values, scores, state, bytes; };

/* A packed side is at most a panel wider than it must be: 64 columns are enough for any level. */
static struct lane lane_of(const struct attention_dense *a)
{
    struct lane l;
    l.keys = 0;
    l.values = l.keys + round_up((uint64_t)a->head_dim * (ATTENTION_DENSE_KEYS + 64) * sizeof(float));
    l.scores = l.values + round_up((uint64_t)ATTENTION_DENSE_KEYS * (uint64_t)(a->head_dim_v + 64) * sizeof(float));
    l.state = l.scores + round_up((uint64_t)ATTENTION_DENSE_QUERIES * ATTENTION_DENSE_KEYS * sizeof(float));
    l.bytes = l.state + round_up((uint64_t)RANGE_MAX * 2 * sizeof(float)) + round_up(ATTENTION_DENSE_QUERIES * (sizeof(float) + sizeof(int64_t)));
    return l;
}

uint64_t attention_dense_scratch(const struct attention_dense *a, int threads) { return lane_of(a).bytes * (uint64_t)(threads < 1 ? 1 : threads); }

struct job {
    const struct attention_dense *a;
    const struct kernels *k;
    const struct diffusion_kernels *d;
    char   *scratch;
    struct lane lane;
    int64_t range;                       /* queries of a unit of work */
};

/* Queries [from, from + count), at most ATTENTION_DENSE_QUERIES, against the packed block of `keys` keys that begins at `first`. */
static void attend_block(const struct job *j, char *lane, int64_t b, int64_t h, int64_t from, int64_t count, int64_t first, int64_t keys, float *top, float *sum)
{
    const struct attention_dense *a = j->a;
    float *scores = (float *)(void *)(lane + j->lane.scores), *shrink = (float *)(void *)(lane + j->lane.state + round_up((uint64_t)RANGE_MAX * 2 * sizeof(float)));
    int64_t *limit = (int64_t *)(void *)(shrink + ATTENTION_DENSE_QUERIES), most = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t n = attention_dense_seen(a, b, from + i) - first;
        limit[i] = n < 0 ? 0 : n > keys ? keys : n;
        if (limit[i] > most) most = limit[i];
    }
    if (most == 0 && first > 0) return;
    const float *q = (const float *)a->q + attention_dense_q(a, b, h) + from * a->ldq;
    float *y = (float *)a->y + attention_dense_y(a, b, h) + from * a->ldy;
    const bool masked = attention_dense_masked(a);
    /* along a row of scores the distance grows by one, from row to row it falls by one */
    const struct gemm_epilogue by_distance = { .residual = a->distance ? a->distance + h * (a->queries + a->keys - 1) + a->queries - 1 - from + first : NULL, .ldr = -1 };
    j->k->gemm_f32(scores, ATTENTION_DENSE_KEYS, q, a->ldq, lane + j->lane.keys, count, keys, a->head_dim, a->distance ? &by_distance : NULL, 1);
    if (masked) j->d->attention_masks_f32(scores, ATTENTION_DENSE_KEYS, count, keys, a, b, h, from, first);
    j->d->attention_weights_f32(scores, ATTENTION_DENSE_KEYS, count, keys, limit, masked ? 1 : a->scale, top, sum, shrink);
    struct gemm_epilogue on = { .residual = y, .ldr = a->ldy };
    if (first > 0) j->d->scale_rows_f32(y, a->ldy, shrink, count, a->head_dim_v);
    j->k->gemm_f32(y, a->ldy, scores, ATTENTION_DENSE_KEYS, lane + j->lane.values, count, a->head_dim_v, keys, first > 0 ? &on : NULL, 1);
}

static void attend_range(const struct job *j, char *lane, int64_t b, int64_t h, int64_t from, int64_t count)
{
    const struct attention_dense *a = j->a;
    float *top = (float *)(void *)(lane + j->lane.state), *sum = top + RANGE_MAX;
    int64_t end = attention_dense_seen(a, b, from + count - 1);
    for (int64_t i = 0; i < count; i++) {
        top[i] = -__builtin_inff();
        sum[i] = 0;
    }
    for (int64_t first = 0; first < end || first == 0; first += ATTENTION_DENSE_KEYS) {
        const int64_t keys = a->keys - first < ATTENTION_DENSE_KEYS ? a->keys - first : ATTENTION_DENSE_KEYS;
        j->k->gemm_f32_pack(lane + j->lane.keys, (const float *)a->k + attention_dense_k(a, b, h) + first * a->ldk, 1, a->ldk, a->head_dim, keys);
        j->k->gemm_f32_pack(lane + j->lane.values, (const float *)a->v + attention_dense_v(a, b, h) + first * a->ldv, a->ldv, 1, keys, a->head_dim_v);
        for (int64_t i = 0; i < count; i += ATTENTION_DENSE_QUERIES)
            attend_block(j, lane, b, h, from + i, count - i < ATTENTION_DENSE_QUERIES ? count - i : ATTENTION_DENSE_QUERIES, first, keys, top + i, sum + i);
    }
    for (int64_t i = 0; i < count; i++) sum[i] = sum[i] > 0 ? 1 / sum[i] : a->nothing;
    j->d->scale_rows_f32((float *)a->y + attention_dense_y(a, b, h) + from * a->ldy, a->ldy, sum, count, a->head_dim_v);
}

static void attend_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct attention_dense *a = j->a;
    char *lane = j->scratch + j->lane.bytes * (uint64_t)part;
    const int64_t ranges = (a->queries + j->range - 1) / j->range, units = a->batch * a->heads * ranges;
    for (int64_t u = units * part / parts, stop = units * (part + 1) / parts; u < stop; u++) {
        const int64_t from = u % ranges * j->range, count = a->queries - from < j->range ? a->queries - from : j->range;
        attend_range(j, lane, u / ranges / a->heads, u / ranges % a->heads, from, count);
    }
}

void attention_dense_f32(const struct attention_dense *a, const struct kernels *k, const struct diffusion_kernels *d, void *scratch, int threads)
{
    if (a->batch < 1 || a->queries < 1 || a->keys < 1) return;
    if (threads < 1) threads = 1;
    struct job j = { .a = a, .k = k, .d = d, .scratch = scratch, .lane = lane_of(a) };
    const int64_t each = a->batch * a->heads * a->queries / ((int64_t)threads * 4);
    j.range = (each + ATTENTION_DENSE_QUERIES - 1) / ATTENTION_DENSE_QUERIES * ATTENTION_DENSE_QUERIES;
    if (j.range < ATTENTION_DENSE_QUERIES) j.range = ATTENTION_DENSE_QUERIES;
    if (j.range > RANGE_MAX) j.range = RANGE_MAX;
    parallel_for(threads, threads, attend_part, &j);
}
