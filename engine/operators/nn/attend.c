/* Attend (attend.h): strides from dimensions, and which kernel. In f32 a query's bits depend on nothing but its row; in bfloat16 neither, but numbers are rounded. Keys and values of
 * one row serve every row of the batch, and those of one head every head, as a product of matrices broadcasts them. */
#include "engine/operators/nn/attend.h"

#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/operators.h"
#include "kernels/diffusion.h"

enum { BATCH, HEADS, TOKENS, NUMBERS };

/* A tensor's dimensions in the order of the spec, and how many numbers lie between two neighbours of each. */
struct placed { int64_t dims[4], steps[4]; };

/* heads: side by side in the last dimension; 0: not so */
static bool place(struct placed *p, const struct operand *o, int rank, const int8_t *at, int heads)
{
    int64_t steps[ATTEND_RANK_MAX], step = 1;
    if (!o || o->rank != rank) return false;
    if (heads) {
        const int64_t across = o->dims[2];
        *p = (struct placed){ .dims = { o->dims[0], heads, o->dims[1], across / heads }, .steps = { o->dims[1] * across, across / heads, across, 1 } };
        return across % heads == 0;
    }
    for (int d = rank - 1; d >= 0; d--) {
        steps[d] = step;
        step *= o->dims[d];
    }
    *p = (struct placed){ .dims = { 1, 1, 1, 1 } };
    for (int d = 0; d < rank; d++) {
        const int to = rank == 3 && d > 0 ? d + 1 : d;
        p->dims[to] = o->dims[at[d]];
        p->steps[to] = steps[at[d]];
    }
    return true;
}

struct placing { struct placed q, k, v; };

static int scores_rank(const struct attend_spec *s) { return s->heads ? 4 : s->rank; }

static bool mask_fits(const struct operand *m, const struct attend_spec *s, enum attend_mask_kind kind, const int64_t *scores)
{
    const int rank = scores_rank(s);
    if (!m || m->rank < 1 || m->rank > rank || m->dtype != (kind == ATTEND_ADD ? DT_F32 : DT_BOOL)) return false;
    if (s->is_operator ? m->dims[m->rank - 1] < 1 || m->dims[m->rank - 1] > scores[rank - 1] : m->dims[m->rank - 1] != scores[rank - 1]) return false;
    for (int d = 0; d < m->rank - 1; d++) {
        const int64_t want = scores[rank - m->rank + d];
        if (m->dims[d] != 1 && m->dims[d] != want) return false;
    }
    return true;
}

static bool is_real(const struct operand *o) { return o && (o->dtype == DT_F32 || o->dtype == DT_BF16); }

static enum status read_attend(const struct call *c, struct placing *p, struct err *err)
{
    const struct attend_spec *s = c->node->spec;
    bool fits = is_real(c->in[ATTEND_Q]) && is_real(c->in[ATTEND_K]) && is_real(c->in[ATTEND_V]);
    fits = fits && place(&p->q, c->in[ATTEND_Q], s->rank, s->q, s->heads) && place(&p->k, c->in[ATTEND_K], s->rank, s->k, s->kv_heads) && place(&p->v, c->in[ATTEND_V], s->rank, s->v, s->kv_heads);
    const int64_t *q = p->q.dims, *k = p->k.dims, *v = p->v.dims;
    fits = fits && q[NUMBERS] == k[NUMBERS] && k[TOKENS] == v[TOKENS] && k[BATCH] == v[BATCH] && k[HEADS] == v[HEADS] && (k[BATCH] == q[BATCH] || (k[BATCH] == 1 && !s->is_operator));
    fits = fits && (k[HEADS] == q[HEADS] || k[HEADS] == 1 || (s->is_operator && k[HEADS] > 0 && q[HEADS] % k[HEADS] == 0));
    fits = fits && q[HEADS] <= INT32_MAX && q[NUMBERS] <= INT32_MAX && v[NUMBERS] <= INT32_MAX;
    const bool four = scores_rank(s) == 4;
    const int64_t scores[4] = { q[BATCH], four ? q[HEADS] : q[TOKENS], four ? q[TOKENS] : k[TOKENS], k[TOKENS] };
    for (int m = 0; m < ATTENTION_MASKS && fits; m++)
        if (s->masks[m].kind != ATTEND_NO_MASK) fits = ATTEND_MASK + m < c->in_count && mask_fits(c->in[ATTEND_MASK + m], s, s->masks[m].kind, scores);
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "queries, keys, values and mask do not fit each other");
}

static enum status infer_attend(struct call *c, struct err *err)
{
    const struct attend_spec *s = c->node->spec;
    struct placing p;
    int64_t dims[ATTEND_RANK_MAX];
    enum status st = read_attend(c, &p, err);
    if (st) return st;
    for (int d = 0; d < 3 && s->heads; d++) dims[d] = d == 0 ? p.q.dims[BATCH] : d == 1 ? p.q.dims[TOKENS] : p.q.dims[HEADS] * p.v.dims[NUMBERS];
    for (int d = 0; d < s->rank && !s->heads; d++) {
        const int at = s->rank == 3 && d > 0 ? d + 1 : d;
        dims[s->y[d]] = at == NUMBERS ? p.v.dims[NUMBERS] : p.q.dims[at];
    }
    return call_set(c, 0, c->node->halves & HALVES_OUT ? DT_BF16 : DT_F32, dims, s->rank, err);
}

uint64_t attend_work(const struct call *c)
{
    struct placing p;
    if (read_attend(c, &p, NULL)) return 0;
    const double work = (double)operand_count(c->in[ATTEND_Q]) * (double)p.k.dims[TOKENS] * 2;
    return work < 1e18 ? (uint64_t)work : UINT64_MAX / 2;
}

static struct attention_mask mask_of(const struct call *c, int i, const struct attend_spec *s)
{
    struct attention_mask m = { .unseen = s->masks[i].unseen, .inverted = s->masks[i].kind == ATTEND_HIDDEN };
    const struct operand *o = c->in[ATTEND_MASK + i];
    int64_t step = o->dims[o->rank - 1], *steps[3] = { &m.query, scores_rank(s) == 4 ? &m.head : &m.batch, &m.batch };
    for (int d = o->rank - 2, at = 0; d >= 0; d--, at++) {
        *steps[at] = o->dims[d] == 1 ? 0 : step;
        step *= o->dims[d];
    }
    if (s->masks[i].kind == ATTEND_ADD) m.add = o->data;
    else m.seen = o->data;
    return m;
}

/* Heads of q that share one of k and v. */
static int group_of(const struct placing *p) { return p->k.dims[HEADS] ? (int)(p->q.dims[HEADS] / p->k.dims[HEADS]) : 1; }

/* How many keys any query sees: none behind a short mask, and none behind the last query where that is causal. */
static int64_t keys_in_sight(const struct call *c, const struct placing *p)
{
    const struct attend_spec *s = c->node->spec;
    int64_t keys = p->k.dims[TOKENS];
    for (int m = 0; m < ATTENTION_MASKS && s->is_operator; m++) {
        const struct operand *o = s->masks[m].kind == ATTEND_NO_MASK ? NULL : c->in[ATTEND_MASK + m];
        if (o && o->dims[o->rank - 1] < keys) keys = o->dims[o->rank - 1];
    }
    return s->causal && p->q.dims[TOKENS] < keys ? p->q.dims[TOKENS] : keys;
}

/* A batch of which row `from` is the first. */
static struct attention_dense attention_of(const struct call *c, const struct placing *p)
{
    const struct attend_spec *s = c->node->spec;
    struct operand *y = c->out[0];
    struct placed to;
    place(&to, y, s->rank, s->y, s->heads);
    struct attention_dense a = { .heads = (int)p->q.dims[HEADS], .head_dim = (int)p->q.dims[NUMBERS], .head_dim_v = (int)p->v.dims[NUMBERS], .batch = p->q.dims[BATCH], .queries = p->q.dims[TOKENS], .keys = keys_in_sight(c, p),
                                 .scale = s->scale, .causal = s->causal, .nothing = s->nothing, .group = group_of(p), .q = c->in[ATTEND_Q]->data, .k = c->in[ATTEND_K]->data, .v = c->in[ATTEND_V]->data, .y = y->data,
                                 .ldq = p->q.steps[TOKENS], .ldk = p->k.steps[TOKENS], .ldv = p->v.steps[TOKENS], .ldy = to.steps[TOKENS],
                                 .at_q = { p->q.steps[BATCH], p->q.steps[HEADS] }, .at_k = { p->k.steps[BATCH], p->k.steps[HEADS] }, .at_v = { p->v.steps[BATCH], p->v.steps[HEADS] }, .at_y = { to.steps[BATCH], to.steps[HEADS] },
                                 .halves_q = c->in[ATTEND_Q]->dtype == DT_BF16, .halves_k = c->in[ATTEND_K]->dtype == DT_BF16, .halves_v = c->in[ATTEND_V]->dtype == DT_BF16, .halves_y = y->dtype == DT_BF16 };
    for (int i = 0; i < ATTENTION_MASKS; i++)
        if (s->masks[i].kind != ATTEND_NO_MASK) a.masks[i] = mask_of(c, i, s);
    return a;
}

static bool in_bf16(const struct call *c) { return ((const struct attend_spec *)c->node->spec)->bf16 && c->diffusion->attention_bf16; }

static uint64_t scratch_attend(const struct call *c)
{
    struct placing p;
    if (read_attend(c, &p, NULL)) return 0;
    const struct attention_dense a = attention_of(c, &p);
    return in_bf16(c) ? c->diffusion->attention_bf16_scratch(&a, c->threads) : attention_dense_scratch(&a, c->threads);
}

static void attend_rows(const struct call *c, const struct attention_dense *a)
{
    if (in_bf16(c)) c->diffusion->attention_bf16(a, c->scratch, c->threads);
    else attention_dense_f32(a, c->k, c->diffusion, c->scratch, c->threads);
}

/* Causal queries from the last key on see all keys. */
static void attend(const struct call *c, const struct attention_dense *a)
{
    if (!a->causal || a->queries <= a->keys) {
        attend_rows(c, a);
        return;
    }
    struct attention_dense first = *a, rest = *a;
    first.queries = a->keys;
    attend_rows(c, &first);
    rest.causal = false;
    rest.queries = a->queries - a->keys;
    rest.q = (const char *)a->q + a->keys * a->ldq * operand_size(c->in[ATTEND_Q]);
    rest.y = (char *)a->y + a->keys * a->ldy * operand_size(c->out[0]);
    for (int i = 0; i < ATTENTION_MASKS; i++) {
        if (rest.masks[i].add) rest.masks[i].add += a->keys * a->masks[i].query;
        if (rest.masks[i].seen) rest.masks[i].seen += a->keys * a->masks[i].query;
    }
    attend_rows(c, &rest);
}

static enum status eval_attend(struct call *c, struct err *err)
{
    struct placing p;
    enum status st = read_attend(c, &p, err);
    if (st || c->out[0]->bytes == 0) return st;
    struct attention_dense a = attention_of(c, &p);
    if (a.keys == 0 && ((const struct attend_spec *)c->node->spec)->is_operator) {       /* which gives 0 to a query that sees no key */
        memset(c->out[0]->data, 0, c->out[0]->bytes);
        return ST_OK;
    }
    if (a.keys == 0 || a.head_dim == 0) return call_error(c, err, ST_UNSUPPORTED, "there are no keys");
    if (a.batch == p.k.dims[BATCH]) {
        attend(c, &a);
        return ST_OK;
    }
    const int64_t rows = a.batch;            /* one row's keys for all */
    a.batch = 1;
    for (int64_t b = 0; b < rows; b++) {
        a.q = (const char *)c->in[ATTEND_Q]->data + b * a.at_q.row * operand_size(c->in[ATTEND_Q]);
        a.y = (char *)c->out[0]->data + b * a.at_y.row * operand_size(c->out[0]);
        attend(c, &a);
        for (int i = 0; i < ATTENTION_MASKS; i++) {
            if (a.masks[i].add) a.masks[i].add += a.masks[i].batch;
            if (a.masks[i].seen) a.masks[i].seen += a.masks[i].batch;
        }
    }
    return ST_OK;
}

static void tasks_attend(struct call *c, struct task_list *l)
{
    const struct attend_spec *s = c->node->spec;
    struct placing p;
    struct placed to;
    struct gpu_task *t = task_add(l, GPU_ATTENTION);
    struct gpu_attention *a = &t->u.attention;
    if (read_attend(c, &p, NULL) || !place(&to, c->out[0], s->rank, s->y, s->heads) || p.k.dims[TOKENS] == 0 || p.q.dims[NUMBERS] == 0 || (s->causal && keys_in_sight(c, &p) < p.q.dims[TOKENS])) {
        task_refuse(l);
        return;
    }
    *a = (struct gpu_attention){ .batch = p.q.dims[BATCH], .heads = p.q.dims[HEADS], .queries = p.q.dims[TOKENS], .keys = keys_in_sight(c, &p), .head_dim = p.q.dims[NUMBERS], .head_dim_v = p.v.dims[NUMBERS], .group = group_of(&p), .causal = s->causal,
                                 .scale = s->scale, .nothing = s->nothing, .q = { p.q.steps[BATCH], p.q.steps[HEADS], p.q.steps[TOKENS] }, .k = { p.k.steps[BATCH], p.k.steps[HEADS], p.k.steps[TOKENS] },
                                 .v = { p.v.steps[BATCH], p.v.steps[HEADS], p.v.steps[TOKENS] }, .y = { to.steps[BATCH], to.steps[HEADS], to.steps[TOKENS] } };
    if (p.k.dims[BATCH] == 1) a->k.row = a->v.row = 0;
    for (int k = 0; k < ATTEND_MASK; k++) task_value(l, t, c->in[k]);
    task_value(l, t, c->out[0]);
    for (int m = 0; m < ATTENTION_MASKS; m++) {
        const bool is = s->masks[m].kind != ATTEND_NO_MASK;
        task_value(l, t, is ? c->in[ATTEND_MASK + m] : NULL);
        if (!is) continue;
        const struct attention_mask k = mask_of(c, m, s);
        a->masks[m] = (struct gpu_mask){ .kind = s->masks[m].kind == ATTEND_ADD ? GPU_MASK_ADD : s->masks[m].kind == ATTEND_SEEN ? GPU_MASK_SEEN : GPU_MASK_HIDDEN, .unseen = k.unseen, .row = k.batch, .head = k.head, .query = k.query };
    }
}

static bool rows_attend(const struct call *c)
{
    const struct attend_spec *s = c->node->spec;
    if (s->q[0] || s->k[0] || s->v[0] || s->y[0]) return false;
    for (int i = 0; i < ATTEND_MASK; i++)
        if (!c->in[i]->batched && (i == ATTEND_Q || c->in[i]->tainted || c->in[i]->dims[0] != 1)) return false;
    for (int i = ATTEND_MASK; i < c->in_count; i++) {
        const struct operand *m = c->in[i];
        if (m && (m->batched ? m->rank != scores_rank(s) : m->tainted || (m->rank == scores_rank(s) && m->dims[0] != 1))) return false;
    }
    return c->in[ATTEND_K]->batched == c->in[ATTEND_V]->batched;
}

const struct op op_attend = { "Attend", "inferd", 1, 0, ATTEND_MASK, ATTEND_INPUTS, 1, 1, 0, 0, infer_attend, eval_attend, scratch_attend, NULL, NULL, rows_attend, tasks_attend };
