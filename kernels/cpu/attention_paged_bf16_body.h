/* Attention over pages in bfloat16 (kernels/cpu/attention_bf16.h), for many rows. A unit (kernels/cpu/attention_units.h) is a range: its queries, the heads of a row side
 * by side, meet blocks of keys that begin at the first page any of them sees. A page's keys [dim, 16] are turned into tiles two dimensions at a time, its values [16, dim_v]
 * two positions at a time. Positions that nobody sees may hold anything: their scores are never looked at, and their values are zeros here. */
#ifndef KERNELS_CPU_ATTENTION_PAGED_BF16_BODY_H
#define KERNELS_CPU_ATTENTION_PAGED_BF16_BODY_H

#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/attention_pages.h"
#include "kernels/cpu/attention_units.h"
#include "kernels/cpu/levels.h"

_Static_assert((int)RANGE >= (int)ATTENTION_BF16_GROUP_MAX, "a row's heads fit a range");

static uint64_t lane_of(struct lane *l, const struct attention_spec *s, char *base)
{
    const int64_t page = up(s->head_dim, 32) * PAGE + up(s->head_dim_v, 16) * 2 * PAGE;      /* a page's keys and two pages' values as floats */
    return lane_layout(l, base, s->head_dim, s->head_dim_v, page * (int64_t)sizeof(float));
}

static uint64_t attention_bf16_scratch(const struct attention_spec *s, int threads)
{
    struct lane l;
    static char nowhere[1];
    return lane_of(&l, s, nowhere) * (uint64_t)(threads < 1 ? 1 : threads);
}

/* The keys of one page (dims beyond the head's as zeros) as tiles [d / 32]. */
static void pack_keys(uint16_t *to, const float *keys, int64_t head_dim)
{
    for (int64_t d = 0; d < up(head_dim, 32); d += 2, to += 32) {
        const __m512 even = d < head_dim ? _mm512_loadu_ps(keys + d * PAGE) : _mm512_setzero_ps(), odd = d + 1 < head_dim ? _mm512_loadu_ps(keys + (d + 1) * PAGE) : _mm512_setzero_ps();
        _mm512_storeu_si512(to, pair_of(even, odd));
    }
}

/* Values [2 PAGE, head_dim_v], the first `count` of them from `skip` on, as tiles [dv / 16]; the others are zeros. */
static void pack_values(uint16_t *to, const float *values, int skip, int count, int64_t head_dim_v)
{
    for (int64_t c = 0; c < head_dim_v; c += 16)
        for (int r = 0; r < 2 * PAGE; r += 2, to += 32) {
            const __m512 even = r >= skip && r < count ? _mm512_maskz_loadu_ps(first(head_dim_v - c), values + r * head_dim_v + c) : _mm512_setzero_ps();
            const __m512 odd = r + 1 >= skip && r + 1 < count ? _mm512_maskz_loadu_ps(first(head_dim_v - c), values + (r + 1) * head_dim_v + c) : _mm512_setzero_ps();
            _mm512_storeu_si512(to, pair_of(even, odd));
        }
}

/* Positions [key, key + keys) of a head; nothing below `low` is read of the values. */
static void pack_block(const struct attention_job *j, const struct lane *l, const struct unit *u, int64_t key, int64_t keys, int64_t low)
{
    const struct attention_spec *s = j->units.s;
    const int64_t d = up(s->head_dim, 32), dv = up(s->head_dim_v, 16);
    float *keys_buffer = l->packing, *values_buffer = keys_buffer + d * PAGE;
    for (int64_t at = 0; at < keys; at += 2 * PAGE) {
        const int skip = low > key + at ? (int)(low - key - at) : 0, count = keys - at < 2 * PAGE ? (int)(keys - at) : 2 * PAGE;
        for (int half = 0; half < 2 && half * PAGE < count; half++) {
            const char *page = j->pool + (uint64_t)u->r->pages[(key + at) / PAGE + half] * j->page_stride;
            const int from = skip - half * PAGE > 0 ? skip - half * PAGE : 0, to = count - half * PAGE < PAGE ? count - half * PAGE : PAGE;
            float *values = values_buffer + half * PAGE * s->head_dim_v;
            pack_keys(l->k + (at / PAGE + half) * d / 32 * TILE, page_keys(s, page, u->head, keys_buffer), s->head_dim);
            if (from >= to) continue;
            const float *read = page_values(s, page, u->head, from, to, values);
            if (read != values) memcpy(values + from * s->head_dim_v, read + from * s->head_dim_v, (size_t)((to - from) * s->head_dim_v) * sizeof *values);
        }
        pack_values(l->v + at / (2 * PAGE) * (dv / 16) * TILE, values_buffer, skip, count, s->head_dim_v);
    }
}

/* The position of query i of the unit. */
static int64_t position_of(const struct attention_job *j, const struct unit *u, int64_t i)
{
    return (int64_t)u->r->position + u->first + i / (j->units.s->heads / j->units.s->kv_heads);
}

/* Queries [at, at + count) of the unit against the packed block [key, key + keys). */
static void attend_block(const struct attention_job *j, const struct lane *l, const struct unit *u, int64_t at, int64_t count, int64_t key, int64_t keys)
{
    const struct attention_spec *s = j->units.s;
    int64_t below[QUERIES], most = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t from, to;
        keys_seen(s, u->r, position_of(j, u, at + i), &from, &to);
        l->limit[i] = to <= key || from >= key + keys ? 0 : to - key > keys ? keys : to - key;
        below[i] = from > key ? from - key : 0;
        if (l->limit[i] > most) most = l->limit[i];
    }
    if (most == 0) return;
    const int64_t d = up(s->head_dim, 32);
    multiply_keys(l->scores, l->q + at * d, l->k, up(count, 16), most, s->head_dim);
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < below[i] && c < l->limit[i]; c++) l->scores[i * KEYS + c] = -__builtin_inff();
    take_block(l, at, count, most, s->scale, up(s->head_dim_v, 16));
}

/* A query's values; its sink takes its share of the weights. */
static void finish_query(const struct attention_spec *s, const struct lane *l, int64_t i, int head, float *y)
{
    float sum = l->sum[i], old = 1;
    if (s->sinks) {
        const float sink = s->sinks[head] * LOG2_E, most = sink > l->top[i] ? sink : l->top[i];
        old = exp2f(l->top[i] - most);
        sum = sum * old + exp2f(sink - most);
    }
    put_sums(y, l, i, up(s->head_dim_v, 16), s->head_dim_v, old / sum);
}

static void attend_unit(const void *job, const struct unit *u, int part)
{
    const struct attention_job *j = job;
    const struct attention_spec *s = j->units.s;
    const int group = s->heads / s->kv_heads;
    const int64_t d = up(s->head_dim, 32), count = (int64_t)u->count * group;
    int64_t low, high, unused;
    struct lane l;
    lane_of(&l, s, j->scratch + lane_of(&l, s, j->scratch) * (uint64_t)part);
    for (int r = 0; r < u->count; r++)
        round_rows(l.q + r * group * d, d, j->q + (u->r->first + u->first + r) * j->ldq + (int64_t)u->head * group * s->head_dim, s->head_dim, group, group, s->head_dim);
    memset(l.q + count * d, 0, (size_t)((up(count, 16) - count) * d) * sizeof *l.q);
    range_begin(&l, count, up(s->head_dim_v, 16));
    keys_seen(s, u->r, position_of(j, u, 0), &low, &unused);
    keys_seen(s, u->r, position_of(j, u, count - 1), &unused, &high);
    for (int64_t key = low / PAGE * PAGE; key < high; key += KEYS) {
        const int64_t keys = high - key < KEYS ? high - key : KEYS;
        pack_block(j, &l, u, key, keys, low);
        for (int64_t i = 0; i < count; i += QUERIES) attend_block(j, &l, u, i, count - i < QUERIES ? count - i : QUERIES, key, keys);
    }
    for (int64_t i = 0; i < count; i++) {
        const int head = u->head * group + (int)(i % group);
        finish_query(s, &l, i, head, j->y + (u->r->first + u->first + i / group) * j->ldy + (int64_t)head * s->head_dim_v);
    }
}

static void attend_part(void *ctx, int part, int parts)
{
    squares_begin();
    units_walk(&((const struct attention_job *)ctx)->units, part, parts, attend_unit, ctx);
    squares_end();
}

static void attention_bf16(float *y, int64_t ldy, const float *q, int64_t ldq, const void *pool, uint64_t page_stride, const struct attention_spec *s,
                            const struct attention_row *rows, int row_count, void *scratch, int threads)
{
    struct attention_job j = { .y = y, .ldy = ldy, .q = q, .ldq = ldq, .pool = pool, .page_stride = page_stride, .units = units_of(s, rows, row_count, RANGE), .scratch = scratch };
    if (!j.units.cost) return;
    const int parts = units_parts(&j.units, threads);
    parallel_for(parts, parts, attend_part, &j);
}

#endif
