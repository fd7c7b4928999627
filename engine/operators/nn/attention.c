/* Attention of opset 23 and later where it does not become Attend (attend.h), and FlexAttention. Computed in double; what the operator's own type would have rounded on the way (float16,
 * bfloat16) is rounded, so that results agree with the definition's steps. Of float32 scores and values are computed in float (attend_reals.h), unless somebody wants to see scores. */
#include <string.h>

#include "base/checked.h"
#include "engine/operators/control/body.h"
#include "engine/operators/nn/attend_reals.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum { IN_MASK = 3, IN_PAST_KEY, IN_PAST_VALUE, IN_LENGTHS };

struct attention { int64_t batch, heads, groups, queries, fresh, past, total, width, depth; bool packed; };      /* width: of a key; depth: of a value */

static double rounded(enum dtype t, double v) { return t == DT_F16 ? (double)(_Float16)v : t == DT_BF16 ? (double)bf16_to_f32(f32_to_bf16((float)v)) : v; }

/* [batch, length, heads * width] or [batch, heads, length, width] */
static bool read_heads(const struct operand *o, int64_t heads, int64_t *h, int64_t *length, int64_t *width)
{
    if (o->rank == 4) {
        *h = o->dims[1];
        *length = o->dims[2];
        *width = o->dims[3];
        return true;
    }
    if (o->rank != 3 || heads < 1 || o->dims[2] % heads) return false;
    *h = heads;
    *length = o->dims[1];
    *width = o->dims[2] / heads;
    return true;
}

static enum status read_attention(const struct call *c, struct attention *a, struct err *err)
{
    const struct operand *q = c->in[0], *k = c->in[1], *v = c->in[2], *past = call_input(c, IN_PAST_KEY), *past_v = call_input(c, IN_PAST_VALUE), *lengths = call_input(c, IN_LENGTHS);
    int64_t qh = node_int(c->node, "q_num_heads", 0), kh = node_int(c->node, "kv_num_heads", 0), vh, vl, kw;
    *a = (struct attention){ .packed = q->rank == 3, .batch = q->rank ? q->dims[0] : 0 };
    bool fits = q->rank == k->rank && k->rank == v->rank && read_heads(q, qh, &a->heads, &a->queries, &a->width) && read_heads(k, kh, &a->groups, &a->fresh, &kw) && read_heads(v, kh, &vh, &vl, &a->depth);
    fits = fits && vh == a->groups && vl == a->fresh && kw == a->width && k->dims[0] == a->batch && v->dims[0] == a->batch && (a->groups ? a->heads % a->groups == 0 : a->heads == 0);
    for (int i = 0; i < 3 && fits; i++) fits = dtype_is_real(c->in[i]->dtype);
    if (fits && past) {
        fits = past_v && past->rank == 4 && past_v->rank == 4 && past->dims[0] == a->batch && past_v->dims[0] == a->batch && past->dims[1] == a->groups && past_v->dims[1] == a->groups && past->dims[3] == a->width && past_v->dims[3] == a->depth && past_v->dims[2] == past->dims[2];
        if (fits) a->past = past->dims[2];
    }
    if (fits && lengths) fits = lengths->rank == 1 && lengths->dims[0] == a->batch && lengths->dtype == DT_I64;
    a->total = a->past + a->fresh;
    const struct operand *mask = call_input(c, IN_MASK);
    int64_t want[4] = { a->batch, a->heads, a->queries, a->total };
    if (fits && mask) fits = mask->rank >= 1 && mask->rank <= 4 && mask->dims[mask->rank - 1] <= a->total && (mask->dtype == DT_BOOL || dtype_is_real(mask->dtype));
    for (int d = 0; fits && mask && d < mask->rank - 1; d++) fits = mask->dims[d] == 1 || mask->dims[d] == want[4 - mask->rank + d];
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "queries, keys, values, mask and past do not fit each other");
}

static enum status infer_attention(struct call *c, struct err *err)
{
    struct attention a;
    enum status st = read_attention(c, &a, err);
    if (st) return st;
    int64_t y[4] = { a.batch, a.heads, a.queries, a.depth }, packed[3] = { a.batch, a.queries, a.heads * a.depth }, keys[4] = { a.batch, a.groups, a.total, a.width }, values[4] = { a.batch, a.groups, a.total, a.depth }, qk[4] = { a.batch, a.heads, a.queries, a.total };
    st = a.packed ? call_set(c, 0, c->in[0]->dtype, packed, 3, err) : call_set(c, 0, c->in[0]->dtype, y, 4, err);
    if (!st && c->out_count > 1) st = call_set(c, 1, c->in[1]->dtype, keys, 4, err);
    if (!st && c->out_count > 2) st = call_set(c, 2, c->in[2]->dtype, values, 4, err);
    if (!st && c->out_count > 3) st = call_set(c, 3, c->in[0]->dtype, qk, 4, err);
    return st;
}

static bool in_floats(const struct call *c, const struct attention *a)
{
    for (int i = 0; i < 3; i++)
        if (c->in[i]->dtype != DT_F32) return false;
    return a->total > 0 && a->width > 0 && a->queries > 0 && node_float(c->node, "softcap", 0) <= 0 && node_int(c->node, "softmax_precision", DT_F32) == DT_F32 && (c->out_count < 4 || !c->out[3]);
}

static double scale_of(const struct call *c, const struct attention *a) { return node_attribute(c->node, "scale") ? (double)node_float(c->node, "scale", 0) : 1 / sqrt((double)a->width); }

struct biased_row { const struct bias *bias; int64_t b; };
static double bias_of_row(const void *ctx, int64_t head, int64_t query, int64_t key);

/* A row of the batch; where its numbers lie is said by who has them. */
static struct attend_reals row_of(const struct call *c, const struct attention *a)
{
    const struct operand *mask = call_input(c, IN_MASK);
    const bool masked = mask || call_input(c, IN_LENGTHS) || node_int(c->node, "is_causal", 0) || node_int(c->node, "left_window_size", -1) >= 0 || node_int(c->node, "right_window_size", -1) >= 0;
    const int64_t heads = a->packed ? 1 : a->queries, tokens = a->packed ? a->heads : 1;
    return (struct attend_reals){ .heads = a->heads, .groups = a->groups, .queries = a->queries, .keys = a->total, .width = a->width, .depth = a->depth, .scale = scale_of(c, a), .q_head = heads * a->width, .q_token = tokens * a->width,
                                  .k_group = a->total * a->width, .v_group = a->total * a->depth, .bias = masked ? bias_of_row : NULL, .by_head = mask && mask->rank > 2 && mask->dims[mask->rank - 3] != 1, .y_head = heads * a->depth, .y_token = tokens * a->depth };
}

static uint64_t scratch_attention(const struct call *c)
{
    struct attention a;
    if (read_attention(c, &a, NULL)) return 0;
    const struct attend_reals row = row_of(c, &a);
    return reals_scratch_more(c, (uint64_t)(a.batch * a.groups * a.total * (a.width + a.depth) + a.total + a.width) + (in_floats(c, &a) ? attend_reals_room(&row, c->threads) : 0));
}

/* Past and fresh rows of one kind behind each other: to[b, h, t, w]. */
static void join(double *to, const double *past, const double *fresh, const struct attention *a, int64_t w)
{
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->groups; h++)
            for (int64_t t = 0; t < a->total; t++, to += w) {
                int64_t f = t - a->past;
                const double *from = f < 0 ? past + ((b * a->groups + h) * a->past + t) * w : a->packed ? fresh + ((b * a->fresh + f) * a->groups + h) * w : fresh + ((b * a->groups + h) * a->fresh + f) * w;
                memcpy(to, from, (size_t)w * sizeof *to);
            }
}

/* What is added to score [b, h, i, j]: -infinity where key j may not be looked at. */
struct bias { const struct call *c; const struct attention *a; const double *mask; int64_t left, right; bool causal, boolean; };

static double mask_at(const struct bias *s, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const struct operand *m = s->c->in[IN_MASK];
    int64_t at[4] = { b, h, i, j }, k = 0;
    if (j >= m->dims[m->rank - 1]) return -(double)INFINITY;
    for (int d = 0; d < m->rank; d++) k = k * m->dims[d] + (m->dims[d] == 1 && d < m->rank - 1 ? 0 : at[4 - m->rank + d]);
    return !s->boolean ? s->mask[k] : s->mask[k] != 0 ? 0 : -(double)INFINITY;
}

static double bias_at(const struct bias *s, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const struct operand *lengths = call_input(s->c, IN_LENGTHS);
    int64_t known = lengths ? operand_int(lengths, (uint64_t)b) : 0, position = i + (call_input(s->c, IN_PAST_KEY) ? s->a->past : lengths ? known - s->a->queries : 0);
    if ((lengths && j >= known) || (s->causal && j > position)) return -(double)INFINITY;
    if ((s->left >= 0 && position - j > s->left) || (s->right >= 0 && j - position > s->right)) return -(double)INFINITY;
    return s->mask ? mask_at(s, b, h, i, j) : 0;
}

static double bias_of_row(const void *ctx, int64_t head, int64_t query, int64_t key)
{
    const struct biased_row *row = ctx;
    return bias_at(row->bias, row->b, head, query, key);
}

/* x becomes its softmax; a row of -infinity becomes 0. */
static void softmax_row(double *x, int64_t n, enum dtype t)
{
    double most = -(double)INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) most = x[j] > most || x[j] != x[j] ? x[j] : most;
    if (most == -(double)INFINITY) {
        for (int64_t j = 0; j < n; j++) x[j] = 0;
        return;
    }
    for (int64_t j = 0; j < n; j++) sum += x[j] = rounded(t, exp(rounded(t, x[j] - most)));
    sum = rounded(t, sum);
    for (int64_t j = 0; j < n; j++) x[j] = rounded(t, x[j] / sum);
}

/* All rows of the batch, joined with their past, by the kernel. room: scratch behind the joined ones. */
static void attend_floats(const struct call *c, const struct reals *r, const struct attention *a, const struct bias *bias, const double *keys, const double *values, double *room)
{
    struct attend_reals row = row_of(c, a);
    for (int64_t b = 0; b < a->batch; b++) {
        const struct biased_row biased = { bias, b };
        row.q = r->in[0] + b * a->heads * a->queries * a->width;
        row.k = keys + b * a->groups * a->total * a->width;
        row.v = values + b * a->groups * a->total * a->depth;
        row.ctx = &biased;
        row.y = r->out[0] + b * a->heads * a->queries * a->depth;
        attend_reals(c, &row, room);
    }
}

static enum status eval_attention(struct call *c, struct err *err)
{
    struct attention a;
    struct reals r;
    enum status st = read_attention(c, &a, err);
    if (st) return st;
    reals_begin(&r, c);
    enum dtype t = c->in[0]->dtype, softmax = (enum dtype)node_int(c->node, "softmax_precision", (int64_t)t);
    double *keys = r.rest, *values = keys + a.batch * a.groups * a.total * a.width, *row = values + a.batch * a.groups * a.total * a.depth, *query = row + a.total;
    join(keys, call_input(c, IN_PAST_KEY) ? r.in[IN_PAST_KEY] : NULL, r.in[1], &a, a.width);
    join(values, call_input(c, IN_PAST_VALUE) ? r.in[IN_PAST_VALUE] : NULL, r.in[2], &a, a.depth);
    if (c->out_count > 1 && r.out[1]) memcpy(r.out[1], keys, (size_t)(a.batch * a.groups * a.total * a.width) * sizeof *keys);
    if (c->out_count > 2 && r.out[2]) memcpy(r.out[2], values, (size_t)(a.batch * a.groups * a.total * a.depth) * sizeof *values);
    const struct operand *mask = call_input(c, IN_MASK);
    struct bias bias = { c, &a, mask ? r.in[IN_MASK] : NULL, node_int(c->node, "left_window_size", -1), node_int(c->node, "right_window_size", -1), node_int(c->node, "is_causal", 0) != 0, mask && mask->dtype == DT_BOOL };
    if (in_floats(c, &a)) {
        if (r.out[0]) attend_floats(c, &r, &a, &bias, keys, values, query + a.width);
        reals_end(&r, c);
        return ST_OK;
    }
    const double cap = (double)node_float(c->node, "softcap", 0), scale = rounded(t, sqrt(scale_of(c, &a)));
    for (int64_t k = 0, n = a.batch * a.groups * a.total * a.width; k < n; k++) keys[k] = rounded(t, keys[k] * scale);
    int64_t mode = node_int(c->node, "qk_matmul_output_mode", 0);
    double *told = c->out_count > 3 ? r.out[3] : NULL;
    for (int64_t b = 0; b < a.batch; b++)
        for (int64_t h = 0; h < a.heads; h++)
            for (int64_t i = 0; i < a.queries; i++) {
                int64_t g = b * a.groups + h / (a.heads / a.groups), at = (b * a.heads + h) * a.queries + i, packed = (b * a.queries + i) * a.heads + h;
                const double *q = r.in[0] + (a.packed ? packed : at) * a.width;
                for (int64_t w = 0; w < a.width; w++) query[w] = rounded(t, q[w] * scale);
                for (int64_t j = 0; j < a.total; j++) {
                    const double *key = keys + (g * a.total + j) * a.width;
                    double s = 0;
                    for (int64_t w = 0; w < a.width; w++) s += query[w] * key[w];
                    double raw = s = rounded(t, s);
                    if (cap > 0) s = rounded(t, cap * rounded(t, tanh(rounded(t, s / cap))));
                    double capped = s;
                    s = rounded(t, s + bias_at(&bias, b, h, i, j));
                    if (told && mode < 3) told[at * a.total + j] = mode == 0 ? raw : mode == 1 ? capped : s;
                    row[j] = s;
                }
                softmax_row(row, a.total, softmax);
                double *y = r.out[0] + (a.packed ? packed : at) * a.depth;
                for (int64_t j = 0; j < a.total; j++) {
                    if (told && mode == 3) told[at * a.total + j] = row[j];
                    double p = rounded(t, row[j]);
                    for (int64_t w = 0; w < a.depth && p != 0; w++) y[w] += p * values[(g * a.total + j) * a.depth + w];
                }
            }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- FlexAttention: the scores and the weights pass through bodies ---- */
static enum status through_body(struct call *c, const char *name, struct operand *x, struct err *err)
{
    struct operand out[GRAPH_INPUTS_MAX];
    int n, b = body_find(c, name);
    if (b < 0) return ST_OK;
    enum status st = body_run(c, b, x, 1, c->run, out, &n, err);
    if (st) return st;
    if (n != 1 || out[0].dtype != x->dtype || out[0].rank != 4 || memcmp(out[0].dims, x->dims, 4 * sizeof *x->dims)) return call_error(c, err, ST_BAD_INPUT, "%s must keep type and shape", name);
    memcpy(x->data, out[0].data, x->bytes);
    return ST_OK;
}

static enum status eval_flex(struct call *c, struct err *err)
{
    struct attention a;
    enum status st = c->in[0]->rank == 4 ? read_attention(c, &a, err) : call_error(c, err, ST_BAD_INPUT, "its inputs must have 4 dimensions");
    if (st) return st;
    enum dtype t = c->in[0]->dtype, precision = (enum dtype)node_int(c->node, "softmax_precision", t == DT_F64 ? DT_F64 : DT_F32);
    if (!dtype_is_real(precision)) return call_error(c, err, ST_UNSUPPORTED, "softmax_precision must be a floating type");
    double scale = node_attribute(c->node, "scale") ? (double)node_float(c->node, "scale", 0) : 1 / sqrt((double)a.width);
    struct operand s = { .dtype = precision, .rank = 4, .dims = { a.batch, a.heads, a.queries, a.total } };
    if (!tensor_bytes(precision, s.dims, 4, &s.bytes) || !(s.data = arena_alloc(c->run, s.bytes ? s.bytes : 1, TENSOR_ALIGN))) return call_error(c, err, ST_NO_MEMORY, "its scores pass the memory budget");
    double *row = arena_calloc(c->run, (uint64_t)a.total + (uint64_t)a.depth + 1, sizeof *row);
    if (!row) return call_error(c, err, ST_NO_MEMORY, "its scores pass the memory budget");
    int64_t rows = a.batch * a.heads * a.queries, y[4] = { a.batch, a.heads, a.queries, a.depth };
    for (int64_t at = 0; at < rows; at++) {
        int64_t head = at / a.queries, g = head / a.heads * a.groups + head % a.heads / (a.heads / a.groups);
        for (int64_t j = 0; j < a.total; j++) {
            double sum = 0;
            for (int64_t w = 0; w < a.width; w++) sum += operand_real(c->in[0], (uint64_t)(at * a.width + w)) * operand_real(c->in[1], (uint64_t)((g * a.total + j) * a.width + w));
            operand_real_put(&s, (uint64_t)(at * a.total + j), sum * scale);
        }
    }
    st = through_body(c, "score_mod", &s, err);
    for (int64_t at = 0; at < rows && !st && a.total; at++) {
        for (int64_t j = 0; j < a.total; j++) row[j] = operand_real(&s, (uint64_t)(at * a.total + j));
        softmax_row(row, a.total, precision);
        real_store(s.data, precision, (uint64_t)(at * a.total), row, (int)a.total);
    }
    if (!st) st = through_body(c, "prob_mod", &s, err);
    if (!st) st = call_make(c, 0, t, y, 4, err);
    for (int64_t at = 0; at < rows && !st; at++) {
        int64_t head = at / a.queries, g = head / a.heads * a.groups + head % a.heads / (a.heads / a.groups);
        double *sum = row + a.total;
        memset(sum, 0, (size_t)a.depth * sizeof *sum);
        for (int64_t j = 0; j < a.total; j++) {
            double p = rounded(t, operand_real(&s, (uint64_t)(at * a.total + j)));
            for (int64_t w = 0; w < a.depth; w++) sum[w] += p * operand_real(c->in[2], (uint64_t)((g * a.total + j) * a.depth + w));
        }
        real_store(c->out[0]->data, t, (uint64_t)(at * a.depth), sum, (int)a.depth);
    }
    return st;
}

static bool rows_attention(const struct call *c) { return c->in_count == 3 && c->out_count == 1 && c->in[0]->batched && c->in[1]->batched && c->in[2]->batched; }

const struct op ops_attention[] = {
    { "Attention", "", 23, 0, 3, 7, 1, 4, OP_PRODUCT, 0, infer_attention, eval_attention, scratch_attention, NULL, NULL, rows_attention, NULL },
    { "FlexAttention", "ai.onnx.preview", 1, 0, 3, 3, 1, 1, OP_MAKES, 0, NULL, eval_flex, NULL, bodies_prepare, bodies_release, NULL, NULL },
    { 0 }
};
