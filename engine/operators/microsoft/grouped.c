/* com.microsoft GroupQueryAttention, the operator of exported language models: queries of more heads than keys, rotated here or before, appended to a cache whose
 * filled length each row of the batch has for itself (seqlens_k holds it less one). Caches are kept in double; scores and values are computed in float but for
 * tensors of double and capped scores. Keys and values that are left out lie behind the queries
 * of each token ("packed"). A prompt is a call whose tokens are all there is: its rows begin at position 0; else they end at their row's length. */
#include <string.h>

#include "engine/operators/nn/attend_reals.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum { IN_KEY = 1, IN_VALUE, IN_PAST_KEY, IN_PAST_VALUE, IN_SEQLENS, IN_TOTAL, IN_COS, IN_SIN };

enum { HEADS_MAX = 1 << 16 };

struct grouped { int64_t batch, queries, heads, groups, width, past, present, window; bool packed, rotary; double scale, cap; };

static enum status read_grouped(struct call *c, struct grouped *a, bool *known, struct err *err)
{
    const struct operand *q = c->in[0], *k = call_input(c, IN_KEY), *v = call_input(c, IN_VALUE), *past = call_input(c, IN_PAST_KEY), *past_v = call_input(c, IN_PAST_VALUE), *lengths = call_input(c, IN_SEQLENS), *total = call_input(c, IN_TOTAL);
    *a = (struct grouped){ .heads = node_int(c->node, "num_heads", 0), .groups = node_int(c->node, "kv_num_heads", 0), .window = node_int(c->node, "local_window_size", -1), .packed = !k, .rotary = node_int(c->node, "do_rotary", 0) != 0, .scale = (double)node_float(c->node, "scale", 0), .cap = (double)node_float(c->node, "softcap", 0) };
    *known = false;
    for (int i = 9; i < c->in_count; i++)
        if (c->in[i]) return call_error(c, err, ST_UNSUPPORTED, "positions, biases and sinks of its own are not taken");
    if (node_int(c->node, "smooth_softmax", 0)) return call_error(c, err, ST_UNSUPPORTED, "smooth_softmax is not computed");
    bool fits = q && q->rank == 3 && dtype_is_real(q->dtype) && !k == !v && a->heads > 0 && a->groups > 0 && a->heads <= HEADS_MAX && a->groups <= HEADS_MAX && a->heads % a->groups == 0 && lengths && total && lengths->dtype == DT_I32 && total->dtype == DT_I32 && operand_count(total) == 1 && !past == !past_v;
    const int64_t shares = a->packed ? a->heads + 2 * a->groups : a->heads;
    if (fits) fits = q->dims[2] % shares == 0 && q->dims[2] > 0 && operand_count(lengths) == (uint64_t)q->dims[0];
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "queries, keys, heads, lengths and past do not fit each other");
    a->batch = q->dims[0];
    a->queries = q->dims[1];
    a->width = q->dims[2] / shares;
    if (a->scale == 0) a->scale = 1 / sqrt((double)a->width);
    for (int i = IN_KEY; i <= IN_VALUE && k; i++) fits = fits && c->in[i]->dtype == q->dtype && c->in[i]->rank == 3 && c->in[i]->dims[0] == a->batch && c->in[i]->dims[1] == a->queries && c->in[i]->dims[2] == a->groups * a->width;
    for (int i = IN_PAST_KEY; i <= IN_PAST_VALUE && past; i++) fits = fits && c->in[i]->dtype == q->dtype && c->in[i]->rank == 4 && c->in[i]->dims[0] == a->batch && c->in[i]->dims[1] == a->groups && c->in[i]->dims[3] == a->width && c->in[i]->dims[2] == past->dims[2];
    for (int i = IN_COS; i <= IN_SIN && a->rotary; i++) fits = fits && call_input(c, i) && dtype_is_real(c->in[i]->dtype) && c->in[i]->rank == 2 && c->in[i]->dims[0] == c->in[IN_COS]->dims[0] && c->in[i]->dims[1] * 2 <= a->width && c->in[i]->dims[1] == c->in[IN_COS]->dims[1];
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "keys, values, caches or rotation do not fit the queries");
    a->past = past ? past->dims[2] : 0;
    if (!total->data) {
        c->needs_data = true;
        return ST_OK;
    }
    const int64_t all = operand_int(total, 0);
    if (all < a->queries || all > INT32_MAX) return call_error(c, err, ST_BAD_INPUT, "total_sequence_length is %lld for %lld tokens", (long long)all, (long long)a->queries);
    a->present = all > a->past ? all : a->past;
    *known = true;
    return ST_OK;
}

static enum status infer_grouped(struct call *c, struct err *err)
{
    struct grouped a;
    bool known;
    enum status st = read_grouped(c, &a, &known, err);
    if (st || !known) return st;
    const int64_t y[3] = { a.batch, a.queries, a.heads * a.width }, cache[4] = { a.batch, a.groups, a.present, a.width };
    st = call_set(c, 0, c->in[0]->dtype, y, 3, err);
    for (int i = 1; i < c->out_count && !st; i++) st = call_set(c, i, c->in[0]->dtype, cache, 4, err);
    return st;
}

static bool in_floats(const struct call *c, const struct grouped *a) { return a->cap == 0 && c->in[0]->dtype != DT_F64 && a->queries > 0; }

struct window { int64_t start, length; };
static double outside(const void *ctx, int64_t head, int64_t query, int64_t key)
{
    const struct window *w = ctx;
    (void)head;
    return w->start + query - key < w->length ? 0 : -(double)INFINITY;
}

/* One row of the batch whose queries begin at position `start`. */
static struct attend_reals row_of(const struct grouped *a, int64_t start)
{
    return (struct attend_reals){ .heads = a->heads, .groups = a->groups, .queries = a->queries, .keys = start + a->queries, .width = a->width, .depth = a->width, .scale = a->scale, .causal = true, .bias = a->window > 0 ? outside : NULL,
                                  .q_head = a->queries * a->width, .q_token = a->width, .k_group = a->present * a->width, .v_group = a->present * a->width, .y_head = a->width, .y_token = a->heads * a->width };
}

/* doubles, for the largest row: turned queries, what the kernel takes */
static uint64_t floats_room(const struct call *c, const struct grouped *a)
{
    const struct attend_reals largest = row_of(a, a->present - a->queries);
    return (uint64_t)(a->heads * a->queries * a->width) + attend_reals_room(&largest, c->threads);
}

static uint64_t scratch_grouped(const struct call *c)
{
    struct grouped a;
    struct call copy = *c;
    bool known;
    if (read_grouped(&copy, &a, &known, NULL) || !known) return 0;
    return reals_scratch_more(c, (uint64_t)(2 * a.batch * a.groups * a.present * a.width) + (uint64_t)(a.present + a.width) + (in_floats(c, &a) ? floats_room(c, &a) : 0));
}

/* x at a position, turned into y. */
static void turn(const struct call *c, const struct reals *r, const struct grouped *a, double *y, const double *x, int64_t position)
{
    memcpy(y, x, (size_t)a->width * sizeof *y);
    if (!a->rotary) return;
    const int64_t half = c->in[IN_COS]->dims[1];
    const double *co = r->in[IN_COS] + position * half, *si = r->in[IN_SIN] + position * half;
    const bool pairs = node_int(c->node, "rotary_interleaved", 0) != 0;
    for (int64_t i = 0; i < half; i++) {
        const int64_t u = pairs ? 2 * i : i, v = pairs ? 2 * i + 1 : i + half;
        y[u] = co[i] * x[u] - si[i] * x[v];
        y[v] = si[i] * x[u] + co[i] * x[v];
    }
}

/* One query against keys [first, last] of its group. */
static void attend(const struct grouped *a, const double *q, const double *keys, const double *values, int64_t first, int64_t last, double *row, double *y)
{
    double most = -(double)INFINITY, sum = 0;
    for (int64_t j = first; j <= last; j++) {
        double s = 0;
        for (int64_t w = 0; w < a->width; w++) s += q[w] * keys[j * a->width + w];
        s *= a->scale;
        row[j] = a->cap > 0 ? a->cap * tanh(s / a->cap) : s;
        most = row[j] > most ? row[j] : most;
    }
    for (int64_t j = first; j <= last; j++) sum += row[j] = exp(row[j] - most);
    for (int64_t j = first; j <= last; j++)
        for (int64_t w = 0; w < a->width; w++) y[w] += row[j] / sum * values[j * a->width + w];
}

/* The present caches of row b: what was there, then the fresh tokens from `start` on. */
static void fill_cache(const struct call *c, const struct reals *r, const struct grouped *a, double *keys, double *values, int64_t b, int64_t start)
{
    const int64_t row = a->packed ? (a->heads + 2 * a->groups) * a->width : a->groups * a->width, w = a->width;
    const double *k = a->packed ? r->in[0] + a->heads * w : r->in[IN_KEY], *v = a->packed ? k + a->groups * w : r->in[IN_VALUE];
    for (int64_t g = 0; g < a->groups; g++) {
        double *to_k = keys + (b * a->groups + g) * a->present * w, *to_v = values + (b * a->groups + g) * a->present * w;
        memset(to_k, 0, (size_t)(a->present * w) * sizeof *to_k);
        memset(to_v, 0, (size_t)(a->present * w) * sizeof *to_v);
        if (a->past) {
            memcpy(to_k, r->in[IN_PAST_KEY] + (b * a->groups + g) * a->past * w, (size_t)(a->past * w) * sizeof *to_k);
            memcpy(to_v, r->in[IN_PAST_VALUE] + (b * a->groups + g) * a->past * w, (size_t)(a->past * w) * sizeof *to_v);
        }
        for (int64_t t = 0; t < a->queries; t++) {
            turn(c, r, a, to_k + (start + t) * w, k + (b * a->queries + t) * row + g * w, start + t);
            memcpy(to_v + (start + t) * w, v + (b * a->queries + t) * row + g * w, (size_t)w * sizeof *to_v);
        }
    }
}

/* Row b, whose caches are filled, at once. */
static void attend_row(const struct call *c, const struct reals *r, const struct grouped *a, const double *keys, const double *values, int64_t b, int64_t start, int64_t stride, double *room)
{
    struct attend_reals row = row_of(a, start);
    const struct window window = { start, a->window };
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t t = 0; t < a->queries; t++) turn(c, r, a, room + (h * a->queries + t) * a->width, r->in[0] + (b * a->queries + t) * stride + h * a->width, start + t);
    row.q = room;
    row.k = keys + b * a->groups * a->present * a->width;
    row.v = values + b * a->groups * a->present * a->width;
    row.ctx = &window;
    row.y = r->out[0] + b * a->queries * a->heads * a->width;
    attend_reals(c, &row, room + a->heads * a->queries * a->width);
}

static enum status eval_grouped(struct call *c, struct err *err)
{
    struct grouped a;
    struct reals r;
    bool known;
    enum status st = read_grouped(c, &a, &known, err);
    if (st) return st;
    const bool prompt = operand_int(c->in[IN_TOTAL], 0) == a.queries;
    for (int64_t b = 0; b < a.batch; b++) {
        const int64_t length = operand_int(c->in[IN_SEQLENS], (uint64_t)b) + 1, start = prompt ? 0 : length - a.queries;
        if (length < 1 || start < 0 || start + a.queries > a.present || length > a.present) return call_error(c, err, ST_BAD_INPUT, "row %lld has a length of %lld, for %lld tokens and room for %lld", (long long)b, (long long)length, (long long)a.queries, (long long)a.present);
        if (a.rotary && start + a.queries > c->in[IN_COS]->dims[0]) return call_error(c, err, ST_BAD_INPUT, "position %lld is not in the cache of %lld", (long long)(start + a.queries - 1), (long long)c->in[IN_COS]->dims[0]);
    }
    reals_begin(&r, c);
    double *keys = r.rest, *values = keys + a.batch * a.groups * a.present * a.width, *row = values + a.batch * a.groups * a.present * a.width, *query = row + a.present;
    const int64_t stride = (a.packed ? a.heads + 2 * a.groups : a.heads) * a.width;
    for (int64_t b = 0; b < a.batch; b++) {
        const int64_t start = prompt ? 0 : operand_int(c->in[IN_SEQLENS], (uint64_t)b) + 1 - a.queries;
        fill_cache(c, &r, &a, keys, values, b, start);
        if (r.out[0] && in_floats(c, &a)) attend_row(c, &r, &a, keys, values, b, start, stride, query + a.width);
        for (int64_t t = 0; t < a.queries && r.out[0] && !in_floats(c, &a); t++)
            for (int64_t h = 0; h < a.heads; h++) {
                const int64_t cache = (b * a.groups + h / (a.heads / a.groups)) * a.present * a.width, last = start + t, first = a.window > 0 && last - a.window + 1 > 0 ? last - a.window + 1 : 0;
                turn(c, &r, &a, query, r.in[0] + (b * a.queries + t) * stride + h * a.width, last);
                attend(&a, query, keys + cache, values + cache, first, last, row, r.out[0] + ((b * a.queries + t) * a.heads + h) * a.width);
            }
    }
    for (int i = 1; i < c->out_count && i < 3; i++)
        if (r.out[i]) memcpy(r.out[i], i == 1 ? keys : values, (size_t)(a.batch * a.groups * a.present * a.width) * sizeof *keys);
    reals_end(&r, c);
    return ST_OK;
}

const struct op ops_ms_grouped[] = {
    { "GroupQueryAttention", "com.microsoft", 1, 0, 7, 12, 1, 3, OP_PRODUCT | OP_HOLES, 0, infer_grouped, eval_grouped, scratch_grouped, NULL, NULL, NULL, NULL },
    { 0 }
};
