/* How attention over pages is cut into units of work, and which units a thread takes: the same cut for every kernel. */
#ifndef KERNELS_CPU_ATTENTION_UNITS_H
#define KERNELS_CPU_ATTENTION_UNITS_H

#include "kernels/attention.h"

/* The keys that position p of an entry sees: [from, to). */
static void keys_seen(const struct attention_spec *s, const struct attention_row *r, int64_t p, int64_t *from, int64_t *to)
{
    const int64_t end = (int64_t)r->position + r->count;
    *to = s->causal ? p + 1 : end;
    *from = 0;
    if (s->window > 0) {
        if (p - s->window + 1 > 0) *from = p - s->window + 1;
        if (p + s->window < *to) *to = p + s->window;
    }
}

/* Some consecutive rows of an entry, counted from its own first, and one head of the cache. */
struct unit { const struct attention_row *r; int first, count, head; };

struct units {
    const struct attention_spec *s;
    const struct attention_row *rows;
    int row_count, chunk;                /* rows of a unit */
    int64_t cost;                        /* of all units */
};
typedef void unit_body(const void *job, const struct unit *u, int part);

/* Multiply-adds of a unit, near enough to share out by. */
static int64_t unit_cost(const struct attention_spec *s, const struct unit *u)
{
    int64_t from, to;
    keys_seen(s, u->r, (int64_t)u->r->position + u->first + u->count / 2, &from, &to);
    return (to - from + ATTENTION_PAGE) * (u->count + 1);
}

/* Goes through all units in one order; `part` takes those whose share of the cost is its own. part -1 only adds up. */
static int64_t units_walk(const struct units *w, int part, int parts, unit_body *body, const void *job)
{
    int64_t before = 0;
    for (int i = 0; i < w->row_count; i++)
        for (int first = 0; first < w->rows[i].count; first += w->chunk)
            for (int head = 0; head < w->s->kv_heads; head++) {
                const int left = w->rows[i].count - first;
                const struct unit u = { w->rows + i, first, left < w->chunk ? left : w->chunk, head };
                const int64_t cost = unit_cost(w->s, &u);
                if (part >= 0 && (before + cost / 2) * parts / w->cost == part) body(job, &u, part);
                before += cost;
            }
    return before;
}

/* Units of at most `queries` queries (but one row's heads at least), their cost added up: 0 when there is nothing to do. */
static struct units units_of(const struct attention_spec *s, const struct attention_row *rows, int row_count, int queries)
{
    const int group = s->heads / s->kv_heads;
    struct units w = { .s = s, .rows = rows, .row_count = row_count, .chunk = group >= queries ? 1 : queries / group };
    w.cost = units_walk(&w, -1, 1, NULL, NULL);
    return w;
}

/* A run of one kernel. */
struct attention_job {
    float *y;
    int64_t ldy;
    const float *q;
    int64_t ldq;
    const char *pool;
    uint64_t page_stride;
    struct units units;
    char *scratch;
};

static const int64_t ATTENTION_PARALLEL_MIN = 100000;     /* multiply-adds below which waking a team costs more than it saves */

static int units_parts(const struct units *w, int threads)
{
    const int group = w->s->heads / w->s->kv_heads;
    return w->cost * group * (w->s->head_dim + w->s->head_dim_v) < ATTENTION_PARALLEL_MIN ? 1 : threads < 1 ? 1 : threads;
}

#endif
