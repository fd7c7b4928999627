/* Attention over pages, a query a lane: LANES queries that share a head of the cache take a page together. A number of the page goes to all lanes, so that its keys and values are read once
 * for all of them, and maxima and sums of weights stay in their lanes. Every operation on a query is that of kernels/cpu/attention_body.h, in the same order: the same bits.
 *
 * Arrays are [.., LANES]. Lanes beyond the queries hold the last one again. */
#ifndef KERNELS_CPU_ATTENTION_LANES_H
#define KERNELS_CPU_ATTENTION_LANES_H

#include "kernels/cpu/attention_pages.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/cpu/vec_turn.h"

enum { LANES_QUERIES_MIN = LANES / 2 };      /* fewer go one by one */

struct lanes {
    float *q, *top, *sums, *values;      /* [head_dim], 1, [PAGE], [head_dim_v] */
    int64_t from[LANES], to[LANES];      /* positions that a lane sees: [from, to) */
    int64_t low, high, whole_from, whole_to;      /* that any sees; that all see */
};

static struct lanes lanes_at(const struct attention_spec *s, float *numbers)
{
    struct lanes l = { .q = numbers, .low = INT64_MAX, .whole_to = INT64_MAX };
    l.top = l.q + s->head_dim * LANES;
    l.sums = l.top + LANES;
    l.values = l.sums + PAGE * LANES;
    return l;
}

/* y[i][lane] = x[lane][i] for i below n */
static void rows_to_lanes(float *y, const float *const *x, int n)
{
    for (int lane = 0; lane < LANES; lane += TURN) {
        int i = 0;
        for (; lane + TURN <= LANES && i + TURN <= n; i += TURN) {
            float *to[TURN];
            const float *from[TURN];
            for (int k = 0; k < TURN; k++) to[k] = y + (i + k) * LANES + lane, from[k] = x[lane + k] + i;
            vec_turn(to, from);
        }
        for (; i < n; i++)
            for (int k = lane; k < lane + TURN && k < LANES; k++) y[i * LANES + k] = x[k][i];
    }
}

/* y[lane][i] = x[i][lane] for i below n */
static void lanes_to_rows(float *const *y, const float *x, int n)
{
    for (int lane = 0; lane < LANES; lane += TURN) {
        int i = 0;
        for (; lane + TURN <= LANES && i + TURN <= n; i += TURN) {
            float *to[TURN];
            const float *from[TURN];
            for (int k = 0; k < TURN; k++) to[k] = y[lane + k] + i, from[k] = x + (i + k) * LANES + lane;
            vec_turn(to, from);
        }
        for (; i < n; i++)
            for (int k = lane; k < lane + TURN && k < LANES; k++) y[k][i] = x[i * LANES + k];
    }
}

/* Lanes from `lane` on see [from, to). */
static void lanes_see(struct lanes *l, int lane, int64_t from, int64_t to)
{
    for (int i = lane; i < LANES; i++) l->from[i] = from, l->to[i] = to;
    if (from < l->low) l->low = from;
    if (to > l->high) l->high = to;
    if (from > l->whole_from) l->whole_from = from;
    if (to < l->whole_to) l->whole_to = to;
}

static void lanes_clear(const struct attention_spec *s, struct lanes *l)
{
    vec_store(l->top, vec_set(-__builtin_inff()));
    memset(l->sums, 0, (size_t)(PAGE + s->head_dim_v) * LANES * sizeof *l->sums);
}

VEC_INLINE vec scores_scale(const struct attention_spec *s, vec x)
{
    x = x * vec_set(s->scale);
    if (s->softcap > 0) x = vec_tanh(x / vec_set(s->softcap)) * vec_set(s->softcap);
    return x;
}

enum { LANES_STEP = LANES == 16 ? 16 : 8, LANES_DIMS = LANES == 16 ? 8 : 4 };      /* positions, dimensions that are registers at a time */

/* One of the four sums of dimensions d mod 4 = i. */
VEC_INLINE void lanes_part(vec *sum, const float *q, const float *keys, int dim, int i)
{
#pragma GCC unroll 16
    for (int t = 0; t < LANES_STEP; t++) sum[t] = vec_set(0.0f);
    for (int d = i; d < dim; d += 4) {
        const vec x = vec_load(q + d * LANES);
#pragma GCC unroll 16
        for (int t = 0; t < LANES_STEP; t++) sum[t] = vec_fma(x, vec_set(keys[d * PAGE + t]), sum[t]);
    }
}

static void lanes_scores(float *scores, const float *q, const float *keys, int dim)
{
    for (int t = 0; t < PAGE; t += LANES_STEP, scores += LANES_STEP * LANES, keys += LANES_STEP) {
        vec even[LANES_STEP], odd[LANES_STEP], sum[LANES_STEP];
        lanes_part(even, q, keys, dim, 0);
        lanes_part(sum, q, keys, dim, 1);
        for (int n = 0; n < LANES_STEP; n++) even[n] = even[n] + sum[n];
        lanes_part(odd, q, keys, dim, 2);
        lanes_part(sum, q, keys, dim, 3);
        for (int n = 0; n < LANES_STEP; n++) vec_store(scores + n * LANES, even[n] + (odd[n] + sum[n]));
    }
}

/* values = values * old + sum over t of weights[t] * v[t], ascending; with `seen` only the t of a lane for which it is above 0 */
VEC_INLINE void lanes_add(const int dims, float *values, vec old, const float *weights, const float *v, int dim, const float *seen)
{
    vec a[LANES_DIMS];
#pragma GCC unroll 8
    for (int i = 0; i < dims; i++) a[i] = vec_load(values + i * LANES) * old;
#pragma GCC unroll 16
    for (int t = 0; t < PAGE; t++) {
        const vec w = vec_load(weights + t * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < dims; i++) {
            const vec more = vec_fma(w, vec_set(v[t * dim + i]), a[i]);
            a[i] = seen ? vec_if_less(vec_set(0.0f), vec_load(seen + t * LANES), more, a[i]) : more;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < dims; i++) vec_store(values + i * LANES, a[i]);
}

VEC_INLINE void lanes_add_all(float *values, vec old, const float *weights, const float *v, int dim, const float *seen)
{
    int d = 0;
    for (; d + LANES_DIMS <= dim; d += LANES_DIMS) lanes_add(LANES_DIMS, values + d * LANES, old, weights, v + d, dim, seen);
    for (; d < dim; d++) lanes_add(1, values + d * LANES, old, weights, v + d, dim, seen);
}

/* seen[t]: 1 in the lanes that see position first + t, else 0 */
static void lanes_seen(const struct lanes *l, int64_t first, float *seen)
{
    for (int t = 0; t < PAGE; t++)
        for (int i = 0; i < LANES; i++) seen[t * LANES + i] = first + t >= l->from[i] && first + t < l->to[i];
}

/* A page of which some lane sees something; values of positions that none sees are not looked at. */
static void lanes_take_page(const struct attention_spec *s, struct lanes *l, int64_t page, const float *keys, const float *v)
{
    const float lowest = -__builtin_inff();
    const int64_t first = page * PAGE;
    const bool whole = l->whole_from <= first && l->whole_to >= first + PAGE;
    float weights[PAGE * LANES] __attribute__((aligned(64))), seen[PAGE * LANES] __attribute__((aligned(64)));
    const vec top = vec_load(l->top);
    vec most = vec_set(lowest);
    lanes_scores(weights, l->q, keys, s->head_dim);
    if (!whole) lanes_seen(l, first, seen);
    for (int t = 0; t < PAGE; t++) {
        vec x = scores_scale(s, vec_load(weights + t * LANES));
        if (!whole) x = vec_if_less(vec_set(0.0f), vec_load(seen + t * LANES), x, vec_set(lowest));
        vec_store(weights + t * LANES, x);
        most = vec_max(x, most);
    }
    most = vec_max(most, top);
    const vec old = vec_if_less(top, most, vec_exp(top - most), vec_set(1.0f)), from = vec_if_less(vec_set(lowest), most, most, vec_set(0.0f));      /* a lane that has seen nothing yet has weights of 0 */
    vec_store(l->top, most);
    for (int t = 0; t < PAGE; t++) {
        const vec e = vec_exp(vec_load(weights + t * LANES) - from);
        vec_store(weights + t * LANES, e);
        vec_store(l->sums + t * LANES, vec_fma(vec_load(l->sums + t * LANES), old, e));
    }
    if (whole) lanes_add_all(l->values, old, weights, v, s->head_dim_v, NULL);
    else lanes_add_all(l->values, old, weights, v, s->head_dim_v, seen);
}

#endif
