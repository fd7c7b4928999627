/* Attention over pages at one level (kernels/cpu/vec.h; contract in kernels/attention.h).
 *
 * The unit of work is some consecutive rows of one sequence and one head of the cache: its queries (rows times the heads that share it) go through the pages together,
 * so that a page is turned into floats once for all of them. Each query has its own running maximum, sums and values, and takes only the pages that
 * its own position sees, each page in one way: so nothing of the company shows in its bits. The 16 scores of a page are 16 lanes whatever the
 * vector's width; sums of weights stay in 16 lanes until the end. Positions not seen have weight 0 and their values are not read: they may hold anything. */
#ifndef KERNELS_CPU_ATTENTION_BODY_H
#define KERNELS_CPU_ATTENTION_BODY_H

#include "kernels/cpu/attention_pages.h"
#include "kernels/cpu/attention_units.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/vec_math.h"

enum { PAGE_VECS = ATTENTION_PAGE / LANES };

/* One query's state. Layout in scratch: weights of the page at hand and sums [16] each, values [dim_v]. */
struct query { float *weights, *sums, *values; const float *q; float top; int64_t position, from, to; int head; };

/* ---- one query and one page ---- */

/* Queries that take a page together, sharing what is loaded of it: as many as leave their sums in registers. */
enum { TOGETHER = LANES == 16 ? 4 : 1 };

/* weights[t] = q . keys[:, t]: four sums by d mod 4, then (0 + 1) + (2 + 3) */
VEC_INLINE void page_scores(const int count, const struct query *const *queries, const float *keys, int dim)
{
    vec sum[TOGETHER][4][PAGE_VECS];
    const float *q[TOGETHER];
#pragma GCC unroll 4
    for (int n = 0; n < count; n++) {
        q[n] = queries[n]->q;
        for (int i = 0; i < 4; i++)
            for (int v = 0; v < PAGE_VECS; v++) sum[n][i][v] = vec_set(0.0f);
    }
    int d = 0;
    for (; d + 4 <= dim; d += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 16
            for (int v = 0; v < PAGE_VECS; v++) {
                const vec key = vec_load(keys + (d + i) * PAGE + v * LANES);
#pragma GCC unroll 4
                for (int n = 0; n < count; n++) sum[n][i][v] = vec_fma(vec_set(q[n][d + i]), key, sum[n][i][v]);
            }
    for (int i = 0; d + i < dim; i++)
        for (int v = 0; v < PAGE_VECS; v++)
            for (int n = 0; n < count; n++) sum[n][i][v] = vec_fma(vec_set(q[n][d + i]), vec_load(keys + (d + i) * PAGE + v * LANES), sum[n][i][v]);
#pragma GCC unroll 4
    for (int n = 0; n < count; n++)
        for (int v = 0; v < PAGE_VECS; v++) vec_store(queries[n]->weights + v * LANES, (sum[n][0][v] + sum[n][1][v]) + (sum[n][2][v] + sum[n][3][v]));
}

/* From dimension d on: values = values * old + sum over t in [from, to) of weights[t] * v[t], ascending. */
static void page_add_values(float *values, float old, const float *weights, const float *v, int dim, int d, int from, int to)
{
    const vec keep = vec_set(old);
    for (; d + 4 * LANES <= dim; d += 4 * LANES) {
        vec a0 = vec_load(values + d) * keep, a1 = vec_load(values + d + LANES) * keep, a2 = vec_load(values + d + 2 * LANES) * keep, a3 = vec_load(values + d + 3 * LANES) * keep;
        for (int t = from; t < to; t++) {
            const float *row = v + t * dim + d;
            const vec w = vec_set(weights[t]);
            a0 = vec_fma(w, vec_load(row), a0), a1 = vec_fma(w, vec_load(row + LANES), a1);
            a2 = vec_fma(w, vec_load(row + 2 * LANES), a2), a3 = vec_fma(w, vec_load(row + 3 * LANES), a3);
        }
        vec_store(values + d, a0), vec_store(values + d + LANES, a1), vec_store(values + d + 2 * LANES, a2), vec_store(values + d + 3 * LANES, a3);
    }
    for (; d < dim; d += LANES) {
        const int n = dim - d < LANES ? dim - d : LANES;
        vec a = vec_load_n(values + d, n) * keep;
        for (int t = from; t < to; t++) a = vec_fma(vec_set(weights[t]), vec_load_n(v + t * dim + d, n), a);
        vec_store_n(values + d, a, n);
    }
}

/* The same for whole pages and several queries. */
VEC_INLINE void page_add_whole(const int count, const struct query *const *queries, const float *old, const float *v, int dim)
{
    enum { STEP = LANES == 16 ? 2 : 4 };
    int d = 0;
    for (; d + STEP * LANES <= dim; d += STEP * LANES) {
        vec a[TOGETHER][STEP];
#pragma GCC unroll 4
        for (int n = 0; n < count; n++)
#pragma GCC unroll 4
            for (int i = 0; i < STEP; i++) a[n][i] = vec_load(queries[n]->values + d + i * LANES) * vec_set(old[n]);
#pragma GCC unroll 4
        for (int t = 0; t < PAGE; t++) {
            vec row[STEP];
#pragma GCC unroll 4
            for (int i = 0; i < STEP; i++) row[i] = vec_load(v + t * dim + d + i * LANES);
#pragma GCC unroll 4
            for (int n = 0; n < count; n++)
#pragma GCC unroll 4
                for (int i = 0; i < STEP; i++) a[n][i] = vec_fma(vec_set(queries[n]->weights[t]), row[i], a[n][i]);
        }
#pragma GCC unroll 4
        for (int n = 0; n < count; n++)
#pragma GCC unroll 4
            for (int i = 0; i < STEP; i++) vec_store(queries[n]->values + d + i * LANES, a[n][i]);
    }
    for (int n = 0; n < count; n++) page_add_values(queries[n]->values, old[n], queries[n]->weights, v, dim, d, 0, PAGE);
}

/* scale, cap, slope; then what this query does not see becomes -infinity. Returns the page's maximum. */
static float page_finish_scores(const struct attention_spec *s, const struct query *q, int64_t first_key, int from, int to)
{
    const float cap = s->softcap, lowest = -__builtin_inff();
    for (int v = 0; v < PAGE; v += LANES) {
        vec x = vec_load(q->weights + v) * vec_set(s->scale);
        if (cap > 0) x = vec_tanh(x / vec_set(cap)) * vec_set(cap);
        vec_store(q->weights + v, x);
    }
    if (s->alibi)
        for (int t = 0; t < PAGE; t++) q->weights[t] += s->alibi[q->head] * (float)(first_key + t - q->position);
    if (s->relative)
        for (int t = 0; t < PAGE; t++) {
            const int64_t d = first_key + t - q->position, held = d > s->relative_span ? s->relative_span : d < -s->relative_span ? -s->relative_span : d;
            q->weights[t] += s->relative[(int64_t)q->head * (2 * s->relative_span + 1) + s->relative_span + held];
        }
    for (int t = 0; t < from; t++) q->weights[t] = lowest;
    for (int t = to; t < PAGE; t++) q->weights[t] = lowest;
    vec top = vec_load(q->weights);
    for (int v = LANES; v < PAGE; v += LANES) top = vec_max(top, vec_load(q->weights + v));
    return vec_top(top);
}

VEC_INLINE float exp_of(float x)
{
    float lanes[LANES];
    vec_store(lanes, vec_exp(vec_set(x)));
    return lanes[0];
}

/* Scores to weights; returns what the sums and values so far are to be multiplied by. */
static float query_weigh(const struct attention_spec *s, struct query *q, int64_t first_key, int from, int to)
{
    const float top = page_finish_scores(s, q, first_key, from, to), most = top > q->top ? top : q->top;
    const float old = q->top == most ? 1.0f : exp_of(q->top - most);
    q->top = most;
    for (int v = 0; v < PAGE; v += LANES) {
        const vec e = vec_exp(vec_load(q->weights + v) - vec_set(most));
        vec_store(q->weights + v, e);
        vec_store(q->sums + v, vec_fma(vec_load(q->sums + v), vec_set(old), e));
    }
    return old;
}

/* The queries that see the page take it; those that see all of it and follow each other together. */
static void queries_take_page(const struct attention_spec *s, struct query *queries, int total, int64_t page, const float *keys, const float *values)
{
    const int64_t first = page * PAGE, end = first + PAGE;
    for (int i = 0; i < total; i++) {
        struct query *q = queries + i;
        const struct query *together[TOGETHER] = { q };
        int whole = 0;
        while (whole < TOGETHER && i + whole < total && q[whole].from <= first && q[whole].to >= end) together[whole] = q + whole, whole++;
        if (TOGETHER > 1 && whole == TOGETHER) {
            float old[TOGETHER];
            page_scores(TOGETHER, together, keys, s->head_dim);
            for (int n = 0; n < TOGETHER; n++) old[n] = query_weigh(s, q + n, first, 0, PAGE);
            page_add_whole(TOGETHER, together, old, values, s->head_dim_v);
            i += TOGETHER - 1;
        } else if (q->from < end && q->to > first) {
            const int from = q->from > first ? (int)(q->from - first) : 0, to = q->to < end ? (int)(q->to - first) : PAGE;
            page_scores(1, together, keys, s->head_dim);
            const float old = query_weigh(s, q, first, from, to);
            page_add_values(q->values, old, q->weights, values, s->head_dim_v, 0, from, to);
        }
    }
}

static void query_finish(const struct attention_spec *s, const struct query *q, float *y)
{
    float sum[PAGE], old = 1;
    memcpy(sum, q->sums, sizeof sum);
    for (int half = PAGE / 2; half; half /= 2)
        for (int t = 0; t < half; t++) sum[t] += sum[t + half];
    if (s->sinks) {
        const float most = s->sinks[q->head] > q->top ? s->sinks[q->head] : q->top;
        old = exp_of(q->top - most);
        sum[0] = sum[0] * old + exp_of(s->sinks[q->head] - most);
    }
    for (int d = 0; d < s->head_dim_v; d++) y[d] = q->values[d] * old / sum[0];
}

/* ---- units ---- */

static void attention_unit(const void *job, const struct unit *u, int part)
{
    const struct attention_job *j = job;
    const struct attention_spec *s = j->units.s;
    char *scratch = j->scratch + attention_lane_bytes(s) * (uint64_t)part;
    const int group = s->heads / s->kv_heads, dim_v = (s->head_dim_v + 15) / 16 * 16, total = u->count * group, stride = dim_v + 2 * PAGE;
    struct query *queries = (struct query *)(void *)scratch;
    float *keys_buffer = (float *)(void *)(scratch + attention_queries(s) * ATTENTION_QUERY_BYTES);
    float *values_buffer = keys_buffer + (s->head_dim + 15) / 16 * 16 * PAGE, *state = values_buffer + dim_v * PAGE;
    _Static_assert(sizeof *queries <= ATTENTION_QUERY_BYTES, "a query's book-keeping has its place");
    int64_t low = INT64_MAX, high = 0;

    memset(state, 0, (size_t)total * (size_t)stride * sizeof *state);
    for (int i = 0; i < total; i++) {
        struct query *q = queries + i;
        const int64_t row = u->first + i / group;
        *q = (struct query){ .weights = state + i * stride, .sums = state + i * stride + PAGE, .values = state + i * stride + 2 * PAGE, .top = -__builtin_inff() };
        q->head = u->head * group + i % group;
        q->q = j->q + (u->r->first + row) * j->ldq + (int64_t)q->head * s->head_dim;
        q->position = u->r->position + row;
        keys_seen(s, u->r, q->position, &q->from, &q->to);
        if (q->from < low) low = q->from;
        if (q->to > high) high = q->to;
    }
    for (int64_t page = low / PAGE; page * PAGE < high; page++) {
        const char *at = j->pool + (uint64_t)u->r->pages[page] * j->page_stride;
        const int from = low > page * PAGE ? (int)(low - page * PAGE) : 0, to = high < (page + 1) * PAGE ? (int)(high - page * PAGE) : PAGE;
        const float *keys = page_keys(s, at, u->head, keys_buffer), *values = page_values(s, at, u->head, from, to, values_buffer);
        queries_take_page(s, queries, total, page, keys, values);
    }
    for (int i = 0; i < total; i++)
        query_finish(s, queries + i, j->y + (u->r->first + u->first + i / group) * j->ldy + (int64_t)queries[i].head * s->head_dim_v);
}

static void attention_part(void *ctx, int part, int parts) { units_walk(&((const struct attention_job *)ctx)->units, part, parts, attention_unit, ctx); }

static void attention_paged(float *y, int64_t ldy, const float *q, int64_t ldq, const void *pool, uint64_t page_stride, const struct attention_spec *s,
                            const struct attention_row *rows, int row_count, void *scratch, int threads)
{
    struct attention_job j = { .y = y, .ldy = ldy, .q = q, .ldq = ldq, .pool = pool, .page_stride = page_stride, .units = units_of(s, rows, row_count, ATTENTION_QUERIES), .scratch = scratch };
    if (!j.units.cost) return;
    const int parts = units_parts(&j.units, threads);
    parallel_for(parts, parts, attention_part, &j);
}

/* ---- storing ---- */

struct store_job {
    char *pool;
    uint64_t page_stride;
    const struct attention_spec *s;
    const float *k, *v;
    int64_t ldk, ldv;
    const struct attention_row *r;
};

/* One key as column `t` of its head's page. */
static void store_key(const struct attention_spec *s, char *page, int head, int t, const float *k)
{
    char *x = page + (uint64_t)head * row_bytes(s->kv_type, s->head_dim * PAGE);
    const struct block_format *f = block_format(s->kv_type);
    const int dim = s->head_dim;
    if (s->kv_type == BLOCK_F32) {
        for (int d = 0; d < dim; d++) memcpy(x + (d * PAGE + t) * 4, k + d, 4);
        return;
    }
    if (f->elements == 1) {
        uint16_t row[ATTENTION_DIM_MAX];
        f->encode(row, k, dim);
        for (int d = 0; d < dim; d++) memcpy(x + (d * PAGE + t) * 2, row + d, 2);
        return;
    }
    uint8_t block[34];
    for (int d = 0; d < dim; d += 32, x += f->bytes * PAGE) {
        f->encode(block, k + d, 32);
        memcpy(x + 2 * t, block, 2);
        for (int i = 0; i < f->bytes - 2; i++) x[2 * PAGE + i * PAGE + t] = (char)block[2 + i];
    }
}

static void store_part(void *ctx, int part, int parts)
{
    const struct store_job *j = ctx;
    const struct attention_spec *s = j->s;
    const struct block_format *f = block_format(s->kv_type);
    for (int64_t i = (int64_t)j->r->count * part / parts, end = (int64_t)j->r->count * (part + 1) / parts; i < end; i++) {
        const int64_t position = j->r->position + i;
        char *page = j->pool + (uint64_t)j->r->pages[position / PAGE] * j->page_stride;
        const int t = (int)(position % PAGE);
        for (int head = 0; head < s->kv_heads; head++) {
            store_key(s, page, head, t, j->k + (j->r->first + i) * j->ldk + (int64_t)head * s->head_dim);
            char *to = page + (values_at(s, page, head) - page) + (uint64_t)t * row_bytes(s->kv_type, s->head_dim_v);
            f->encode(to, j->v + (j->r->first + i) * j->ldv + (int64_t)head * s->head_dim_v, s->head_dim_v);
        }
    }
}

static void attention_store(void *pool, uint64_t page_stride, const struct attention_spec *s, const float *k, int64_t ldk, const float *v, int64_t ldv,
                            const struct attention_row *rows, int row_count, int threads)
{
    for (int i = 0; i < row_count; i++) {
        struct store_job j = { .pool = pool, .page_stride = page_stride, .s = s, .k = k, .ldk = ldk, .v = v, .ldv = ldv, .r = rows + i };
        const int parts = rows[i].count < 32 ? 1 : threads < 1 ? 1 : threads;
        parallel_for(parts, parts, store_part, &j);
    }
}

#endif
