/* Attention over pages at one level (kernels/cpu/vec.h; contract in kernels/attention.h).
 *
 * The unit of work is some consecutive rows of one sequence and one head of the cache: its queries (rows times the heads that share it) go through the pages together,
 * so that a page is turned into floats once for all of them. Each query has its own running maximum, sums and values, and takes only the pages that
 * its own position sees, each page in one way: so nothing of the company shows in its bits. Each span of keys (ATTENTION_SPAN positions) is a sum of its own, and spans are folded into one in
 * ascending order, by the thread that goes through them all or, where there are few units, after many threads have taken a span each. The 16 scores of a page are 16 lanes whatever the
 * vector's width; sums of weights stay in 16 lanes until the end. Positions not seen have weight 0 and their values are not read: they may hold anything.
 * Where a unit has enough queries each has a lane of a vector (kernels/cpu/attention_lanes.h); the others, a decode's among them, go one by one or a few together. */
#ifndef KERNELS_CPU_ATTENTION_BODY_H
#define KERNELS_CPU_ATTENTION_BODY_H

#include "kernels/cpu/attention_lanes.h"
#include "kernels/cpu/attention_pages.h"
#include "kernels/cpu/attention_units.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/vec_math.h"

enum { PAGE_VECS = ATTENTION_PAGE / LANES };

/* What some keys give a query: the largest score (-infinity: none was seen), sums of weights [16] and behind them values [dim_v]. */
struct state { float top; float *sums; };

/* A query: weights [16] of the page at hand, the span at hand, and the spans before it. */
struct query { float *weights; struct state span, all; const float *q; int64_t position, from, to; int head; };

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

VEC_INLINE float *values_of(const struct query *q) { return q->span.sums + PAGE; }

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
            for (int i = 0; i < STEP; i++) a[n][i] = vec_load(values_of(queries[n]) + d + i * LANES) * vec_set(old[n]);
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
            for (int i = 0; i < STEP; i++) vec_store(values_of(queries[n]) + d + i * LANES, a[n][i]);
    }
    for (int n = 0; n < count; n++) page_add_values(values_of(queries[n]), old[n], queries[n]->weights, v, dim, d, 0, PAGE);
}

/* scale, cap, slope; then what this query does not see becomes -infinity. Returns the page's maximum. */
static float page_finish_scores(const struct attention_spec *s, const struct query *q, int64_t first_key, int from, int to)
{
    const float lowest = -__builtin_inff();
    for (int v = 0; v < PAGE; v += LANES) vec_store(q->weights + v, scores_scale(s, vec_load(q->weights + v)));
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
    const float top = page_finish_scores(s, q, first_key, from, to), most = top > q->span.top ? top : q->span.top;
    const float old = q->span.top == most ? 1.0f : exp_of(q->span.top - most);
    q->span.top = most;
    for (int v = 0; v < PAGE; v += LANES) {
        const vec e = vec_exp(vec_load(q->weights + v) - vec_set(most));
        vec_store(q->weights + v, e);
        vec_store(q->span.sums + v, vec_fma(vec_load(q->span.sums + v), vec_set(old), e));
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
            page_add_values(values_of(q), old, q->weights, values, s->head_dim_v, 0, from, to);
        }
    }
}

/* The next span's share is added to that of the spans before. */
static void state_fold(const struct attention_spec *s, struct state *all, const struct state *span)
{
    const int numbers = (int)attention_state(s);
    if (span->top == -__builtin_inff()) return;
    if (all->top == -__builtin_inff()) {
        all->top = span->top;
        memcpy(all->sums, span->sums, (size_t)numbers * sizeof *all->sums);
        return;
    }
    const float most = all->top > span->top ? all->top : span->top;
    const vec before = vec_set(all->top == most ? 1.0f : exp_of(all->top - most)), now = vec_set(span->top == most ? 1.0f : exp_of(span->top - most));
    all->top = most;
    for (int i = 0; i < numbers; i += LANES) vec_store(all->sums + i, vec_fma(vec_load(span->sums + i), now, vec_load(all->sums + i) * before));
}

static void state_clear(const struct attention_spec *s, struct state *x)
{
    x->top = -__builtin_inff();
    memset(x->sums, 0, attention_state(s) * sizeof *x->sums);
}

static void query_finish(const struct attention_spec *s, const struct state *x, int head, float *y)
{
    float sum[PAGE], old = 1;
    memcpy(sum, x->sums, sizeof sum);
    for (int half = PAGE / 2; half; half /= 2)
        for (int t = 0; t < half; t++) sum[t] += sum[t + half];
    if (s->sinks) {
        const float most = s->sinks[head] > x->top ? s->sinks[head] : x->top;
        old = exp_of(x->top - most);
        sum[0] = sum[0] * old + exp_of(s->sinks[head] - most);
    }
    const vec keep = vec_set(old), all = vec_set(sum[0]);
    for (int d = 0; d < s->head_dim_v; d += LANES) {
        const int n = s->head_dim_v - d < LANES ? s->head_dim_v - d : LANES;
        vec_store_n(y + d, vec_load_n(x->sums + PAGE + d, n) * keep / all, n);
    }
}

/* ---- units ---- */

/* A unit's queries in a thread's scratch; the first sets * LANES of them have lanes. */
struct group { struct query *queries; int total; int64_t low, high; float *keys, *values; struct lanes *lanes; int sets; };

/* Queries go a lane each as long as they fill the lanes well; slopes and `relative` are of single queries. */
static int sets_of_lanes(const struct attention_spec *s, int total)
{
    return LANES == 1 || s->alibi || s->relative ? 0 : total / LANES + (total % LANES >= LANES_QUERIES_MIN);
}
static struct query *set_query(const struct group *g, int set, int lane)      /* the last one again beyond the end */
{
    const int i = set * LANES + lane;
    return g->queries + (i < g->total ? i : g->total - 1);
}

static void group_put_lanes(const struct attention_spec *s, struct group *g, float *numbers)
{
    g->sets = sets_of_lanes(s, g->total);
    for (int n = 0; n < g->sets; n++, numbers += attention_lane(s) * LANES) {
        const float *q[LANES];
        g->lanes[n] = lanes_at(s, numbers);
        for (int i = 0; i < LANES; i++) {
            const struct query *query = set_query(g, n, i);
            q[i] = query->q;
            lanes_see(g->lanes + n, i, query->from, query->to);
        }
        rows_to_lanes(g->lanes[n].q, q, s->head_dim);
    }
}

/* What lanes have got of a span is put down with their queries. */
static void group_take_lanes(const struct attention_spec *s, const struct group *g)
{
    for (int n = 0; n < g->sets; n++) {
        float *sums[LANES];
        for (int i = 0; i < LANES; i++) sums[i] = set_query(g, n, i)->span.sums, set_query(g, n, i)->span.top = g->lanes[n].top[i];
        lanes_to_rows(sums, g->lanes[n].sums, PAGE + s->head_dim_v);
    }
}

static struct group group_of(const struct attention_job *j, const struct unit *u, int part)
{
    const struct attention_spec *s = j->units.s;
    char *scratch = j->scratch + attention_lane_bytes(s) * (uint64_t)part;
    const int heads = s->heads / s->kv_heads, stride = (int)attention_state(s) + PAGE;
    struct group g = { .queries = (struct query *)(void *)scratch, .total = u->count * heads, .low = INT64_MAX, .keys = (float *)(void *)(scratch + attention_queries(s) * ATTENTION_QUERY_BYTES) };
    _Static_assert(sizeof *g.queries <= ATTENTION_QUERY_BYTES, "a query's book-keeping has its place");
    _Static_assert(LANES == 1 || sizeof *g.lanes <= ATTENTION_SET_BYTES * LANES, "and so have lanes");
    g.lanes = (struct lanes *)(void *)g.keys;
    g.keys += attention_queries(s) * ATTENTION_SET_BYTES / sizeof *g.keys;
    g.values = g.keys + (s->head_dim + 15) / 16 * 16 * PAGE;
    float *numbers = g.values + (s->head_dim_v + 15) / 16 * 16 * PAGE, *all = numbers + g.total * stride, *lanes = all + g.total * attention_state(s);      /* what every page changes lies together */
    for (int i = 0; i < g.total; i++, numbers += stride) {
        struct query *q = g.queries + i;
        const int64_t row = u->first + i / heads;
        *q = (struct query){ .weights = numbers, .span.sums = numbers + PAGE, .all.sums = all + (uint64_t)i * attention_state(s), .head = u->head * heads + i % heads };
        q->q = j->q + (u->r->first + row) * j->ldq + (int64_t)q->head * s->head_dim;
        q->position = u->r->position + row;
        keys_seen(s, u->r, q->position, &q->from, &q->to);
        if (q->from < g.low) g.low = q->from;
        if (q->to > g.high) g.high = q->to;
    }
    group_put_lanes(s, &g, lanes);
    return g;
}

/* The queries take what they see of positions [span ATTENTION_SPAN, (span + 1) ATTENTION_SPAN). */
static void group_take_span(const struct attention_job *j, const struct unit *u, const struct group *g, int64_t span)
{
    const struct attention_spec *s = j->units.s;
    const int64_t low = g->low > span * ATTENTION_SPAN ? g->low : span * ATTENTION_SPAN, high = g->high < (span + 1) * ATTENTION_SPAN ? g->high : (span + 1) * ATTENTION_SPAN;
    const int single = g->sets * LANES;          /* the first query that has no lane */
    for (int i = single; i < g->total; i++) state_clear(s, &g->queries[i].span);
    for (int n = 0; n < g->sets; n++) lanes_clear(s, g->lanes + n);
    for (int64_t page = low / PAGE; page * PAGE < high; page++) {
        const char *at = j->pool + (uint64_t)u->r->pages[page] * j->page_stride;
        const int from = low > page * PAGE ? (int)(low - page * PAGE) : 0, to = high < (page + 1) * PAGE ? (int)(high - page * PAGE) : PAGE;
        const float *keys = page_keys(s, at, u->head, g->keys), *values = page_values(s, at, u->head, from, to, g->values);
        for (int n = 0; n < g->sets; n++)
            if (g->lanes[n].low < (page + 1) * PAGE && g->lanes[n].high > page * PAGE) lanes_take_page(s, g->lanes + n, page, keys, values);
        queries_take_page(s, g->queries + single, g->total - single, page, keys, values);
    }
    group_take_lanes(s, g);
}

static float *output_of(const struct attention_job *j, const struct unit *u, int i, int *head)
{
    const struct attention_spec *s = j->units.s;
    const int heads = s->heads / s->kv_heads;
    *head = u->head * heads + i % heads;
    return j->y + (u->r->first + u->first + i / heads) * j->ldy + (int64_t)*head * s->head_dim_v;
}

static void attention_unit(const void *job, const struct unit *u, int part)
{
    const struct attention_job *j = job;
    const struct group g = group_of(j, u, part);
    for (int i = 0; i < g.total; i++) g.queries[i].all.top = -__builtin_inff();
    for (int64_t span = g.low / ATTENTION_SPAN; span * ATTENTION_SPAN < g.high; span++) {
        group_take_span(j, u, &g, span);
        for (int i = 0; i < g.total; i++) state_fold(j->units.s, &g.queries[i].all, &g.queries[i].span);
    }
    for (int i = 0; i < g.total; i++) {
        int head;
        float *y = output_of(j, u, i, &head);
        query_finish(j->units.s, &g.queries[i].all, head, y);
    }
}

static void attention_part(void *ctx, int part, int parts) { units_walk(&((const struct attention_job *)ctx)->units, part, parts, attention_unit, ctx); }

/* ---- few units: their spans are shared out ---- */

struct split {
    const struct attention_job *job;
    struct unit *units;
    int count, at_once;                  /* units; spans of each that are gone through before they are folded */
    int64_t queries;                     /* of a unit at most */
    int64_t span, first, end;            /* of this round; of all */
    float *all, *spans;                  /* states: [count][queries], [count][at_once][queries], each its top in 16 floats and its numbers */
};

struct unit_list { struct unit *units; int *count; };
static void list_unit(const void *job, const struct unit *u, int part)
{
    const struct unit_list *l = job;
    (void)part;
    l->units[(*l->count)++] = *u;
}

static float *state_place(const struct split *s, float *states, int64_t i) { return states + i * (int64_t)(attention_state(s->job->units.s) + PAGE); }
static struct state state_at(const struct split *s, float *states, int64_t i)
{
    float *at = state_place(s, states, i);
    return (struct state){ at[0], at + PAGE };
}

static bool split_has_span(const struct group *g, int64_t span) { return span * ATTENTION_SPAN < g->high && (span + 1) * ATTENTION_SPAN > g->low; }

static void split_part(void *ctx, int part, int parts)
{
    struct split *s = ctx;
    const struct attention_spec *spec = s->job->units.s;
    for (int i = part; i < s->count * s->at_once; i += parts) {
        const struct unit *u = s->units + i / s->at_once;
        const struct group g = group_of(s->job, u, part);
        const int64_t span = s->span + i % s->at_once;
        const bool has = split_has_span(&g, span);
        if (has) group_take_span(s->job, u, &g, span);
        for (int n = 0; n < g.total; n++) {
            float *to = state_place(s, s->spans, i * s->queries + n);
            to[0] = has ? g.queries[n].span.top : -__builtin_inff();
            if (has) memcpy(to + PAGE, g.queries[n].span.sums, attention_state(spec) * sizeof *to);
        }
    }
}

/* What the spans of a round gave, to what was before; after the last round to y. */
static void split_fold(const struct split *s)
{
    const struct attention_spec *spec = s->job->units.s;
    for (int u = 0; u < s->count; u++)
        for (int n = 0; n < s->units[u].count * (spec->heads / spec->kv_heads); n++) {
            struct state all = state_at(s, s->all, u * s->queries + n);
            if (s->span == s->first) all.top = -__builtin_inff();
            for (int i = 0; i < s->at_once; i++) {
                const struct state span = state_at(s, s->spans, ((int64_t)u * s->at_once + i) * s->queries + n);
                state_fold(spec, &all, &span);
            }
            *state_place(s, s->all, u * s->queries + n) = all.top;
            int head;
            float *y = output_of(s->job, s->units + u, n, &head);
            if (s->span + s->at_once >= s->end) query_finish(spec, &all, head, y);
        }
}

/* Worth it: several spans, and fewer units than keep the threads busy. [first, end): the spans that anybody sees. */
static bool split_suits(const struct units *w, int threads, int64_t *first, int64_t *end)
{
    int64_t count = 0, low = INT64_MAX, high = 0, from, to;
    for (int i = 0; i < w->row_count; i++) {
        const struct attention_row *r = w->rows + i;
        if (!r->count) continue;
        count += (int64_t)(r->count + w->chunk - 1) / w->chunk * w->s->kv_heads;
        keys_seen(w->s, r, r->position, &from, &to);
        if (from < low) low = from;
        keys_seen(w->s, r, (int64_t)r->position + r->count - 1, &from, &to);
        if (to > high) high = to;
    }
    *first = low / ATTENTION_SPAN, *end = (high + ATTENTION_SPAN - 1) / ATTENTION_SPAN;
    return threads > 1 && *end - *first > 1 && count < (int64_t)ATTENTION_SPLIT_GROUPS * threads;
}

static void split_run(struct split *s, int threads)
{
    const struct attention_job *j = s->job;
    const struct attention_spec *spec = j->units.s;
    _Static_assert(sizeof(struct unit) <= ATTENTION_GROUP_BYTES, "a unit has its place");
    char *at = j->scratch + attention_lane_bytes(spec) * (uint64_t)threads;
    s->units = (struct unit *)(void *)at;
    s->all = (float *)(void *)(at + ATTENTION_SPLIT_GROUPS * ATTENTION_GROUP_BYTES * threads);
    s->spans = state_place(s, s->all, (int64_t)attention_queries(spec) * ATTENTION_SPLIT_GROUPS * threads);
    const struct unit_list list = { s->units, &s->count };
    units_walk(&j->units, 0, 1, list_unit, &list);
    for (int i = 0, group = spec->heads / spec->kv_heads; i < s->count; i++)
        if (s->units[i].count * group > s->queries) s->queries = s->units[i].count * group;
    s->at_once = ATTENTION_SPLIT_SPANS * threads / s->count;
    for (s->span = s->first; s->span < s->end; s->span += s->at_once) {
        parallel_for(threads, threads, split_part, s);
        split_fold(s);
    }
}

static void attention_paged(float *y, int64_t ldy, const float *q, int64_t ldq, const void *pool, uint64_t page_stride, const struct attention_spec *s,
                            const struct attention_row *rows, int row_count, void *scratch, int threads)
{
    struct attention_job j = { .y = y, .ldy = ldy, .q = q, .ldq = ldq, .pool = pool, .page_stride = page_stride, .units = units_of(s, rows, row_count, ATTENTION_QUERIES), .scratch = scratch };
    struct split split = { .job = &j };
    if (!j.units.cost) return;
    const int parts = units_parts(&j.units, threads);
    if (split_suits(&j.units, parts, &split.first, &split.end)) split_run(&split, parts);
    else parallel_for(parts, parts, attention_part, &j);
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
