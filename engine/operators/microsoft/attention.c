/* com.microsoft: Attention (projection and all), MultiHeadAttention, RotaryEmbedding. One core serves both attentions: queries, keys and
 * values as [batch, heads, length, width] in double, a bias for each score, softmax, the weighted values, by the kernel of kernels/attention_dense.h but for tensors of double.
 * MultiHeadAttention of float32 goes to that kernel straight. */
#include <string.h>

#include "engine/operators/nn/attend_reals.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"
#include "kernels/diffusion.h"

struct core {
    int64_t batch, heads, groups, queries, keys, width, depth, past;      /* keys: past ones included */
    double scale, cap;
    bool causal;
    const double *q, *k, *v;            /* [batch, heads | groups, length, width | depth] */
    const struct operand *mask;         /* int32: [batch] lengths, or [batch, keys] of 0 and 1 */
    const double *bias; const struct operand *bias_shape;      /* added to scores: [1 | batch, 1 | heads, queries, keys] */
    double masked;                      /* what a masked score gets added */
};

static double bias_of(const struct core *a, int64_t b, int64_t h, int64_t i, int64_t j)
{
    double s = 0;
    if (a->causal && j > i + a->past) return -(double)INFINITY;
    if (a->mask && a->mask->rank == 1 && j >= operand_int(a->mask, (uint64_t)b)) s = a->masked;
    if (a->mask && a->mask->rank == 2 && operand_int(a->mask, (uint64_t)(b * a->keys + j)) == 0) s = a->masked;
    if (!a->bias) return s;
    const struct operand *o = a->bias_shape;
    return s + a->bias[(((o->dims[0] == 1 ? 0 : b) * o->dims[1] + (o->dims[1] == 1 ? 0 : h)) * a->queries + i) * a->keys + j];
}

/* Tensors of double are computed so; all others by the kernel in float, row by row of the batch. */
static bool in_kernel(const struct call *c, const struct core *a) { return a->cap == 0 && c->in[0]->dtype != DT_F64 && a->queries > 0 && a->keys > 0 && a->width > 0; }

struct biased_row { const struct core *a; int64_t b; };
static double bias_of_row(const void *ctx, int64_t head, int64_t query, int64_t key)
{
    const struct biased_row *row = ctx;
    return bias_of(row->a, row->b, head, query, key);
}

static struct attend_reals row_of(const struct core *a)
{
    return (struct attend_reals){ .heads = a->heads, .groups = a->groups, .queries = a->queries, .keys = a->keys, .width = a->width, .depth = a->depth, .scale = a->scale, .q_head = a->queries * a->width, .q_token = a->width,
                                  .k_group = a->keys * a->width, .v_group = a->keys * a->depth, .bias = a->causal || a->mask || a->bias_shape ? bias_of_row : NULL, .by_head = a->bias_shape && a->bias_shape->dims[1] != 1,
                                  .y_head = a->depth, .y_token = a->heads * a->depth };
}

/* doubles that attend needs */
static uint64_t attend_room(const struct call *c, const struct core *a)
{
    const struct attend_reals row = row_of(a);
    return in_kernel(c, a) ? attend_reals_room(&row, c->threads) : (uint64_t)a->keys;
}

static void attend_kernel(const struct call *c, const struct core *a, double *room, double *y)
{
    struct attend_reals row = row_of(a);
    for (int64_t b = 0; b < a->batch; b++) {
        const struct biased_row biased = { a, b };
        row.q = a->q + b * a->heads * a->queries * a->width;
        row.k = a->k + b * a->groups * a->keys * a->width;
        row.v = a->v + b * a->groups * a->keys * a->depth;
        row.ctx = &biased;
        row.y = y + b * a->queries * a->heads * a->depth;
        attend_reals(c, &row, room);
    }
}

/* y: [batch, queries, heads * depth]; room: of attend_room doubles */
static void attend(const struct call *c, const struct core *a, double *room, double *y)
{
    if (in_kernel(c, a)) {
        attend_kernel(c, a, room, y);
        return;
    }
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->queries; i++) {
                int64_t g = b * a->groups + h / (a->heads / a->groups);
                const double *q = a->q + ((b * a->heads + h) * a->queries + i) * a->width;
                double most = -(double)INFINITY, sum = 0, *row = room, *out = y + ((b * a->queries + i) * a->heads + h) * a->depth;
                for (int64_t j = 0; j < a->keys; j++) {
                    double s = 0;
                    for (int64_t w = 0; w < a->width; w++) s += q[w] * a->k[(g * a->keys + j) * a->width + w];
                    s *= a->scale;
                    if (a->cap > 0) s = a->cap * tanh(s / a->cap);
                    row[j] = s + bias_of(a, b, h, i, j);
                    most = row[j] > most ? row[j] : most;
                }
                for (int64_t j = 0; j < a->keys; j++) sum += row[j] = most == -(double)INFINITY ? 0 : exp(row[j] - most);
                for (int64_t j = 0; j < a->keys && sum > 0; j++)
                    for (int64_t w = 0; w < a->depth; w++) out[w] += row[j] / sum * a->v[(g * a->keys + j) * a->depth + w];
            }
}

/* [batch, length, heads * width] with a bias of [heads * width] to [batch, heads, length + past, width], the past first. */
static void spread(double *to, const double *from, int64_t row, const double *bias, const double *past, int64_t batch, int64_t heads, int64_t length, int64_t before, int64_t width)
{
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < before + length; t++)
                for (int64_t w = 0; w < width; w++) *to++ = t < before ? past[((b * heads + h) * before + t) * width + w] : from[(b * length + t - before) * row + h * width + w] + (bias ? bias[h * width + w] : 0);
}

/* ---- MultiHeadAttention(q, k, v, bias, key mask, attention bias, past key, past value) ---- */
static enum status read_heads(const struct call *c, struct core *a, struct err *err)
{
    const struct operand *q = c->in[0], *k = call_input(c, 1), *v = call_input(c, 2), *bias = call_input(c, 3), *mask = call_input(c, 4), *add = call_input(c, 5), *past = call_input(c, 6), *past_v = call_input(c, 7);
    *a = (struct core){ .heads = node_int(c->node, "num_heads", 0), .causal = node_int(c->node, "unidirectional", 0) != 0, .masked = (double)node_float(c->node, "mask_filter_value", -10000.0f) };
    if (!k || !v || q->rank != 3 || k->rank != 3 || v->rank != 3) return call_error(c, err, ST_UNSUPPORTED, "it is computed for queries, keys and values of 3 dimensions only");
    bool fits = dtype_is_real(q->dtype) && k->dtype == q->dtype && v->dtype == q->dtype && a->heads > 0 && q->dims[2] % a->heads == 0 && v->dims[2] % a->heads == 0 && k->dims[2] == q->dims[2] && k->dims[0] == q->dims[0] && v->dims[0] == q->dims[0] && v->dims[1] == k->dims[1] && !past == !past_v;
    if (fits) {
        a->batch = q->dims[0];
        a->groups = a->heads;
        a->queries = q->dims[1];
        a->width = q->dims[2] / a->heads;
        a->depth = v->dims[2] / a->heads;
        if (past) {
            fits = past->rank == 4 && past_v->rank == 4 && past->dims[0] == a->batch && past->dims[1] == a->heads && past->dims[3] == a->width && past_v->dims[0] == a->batch && past_v->dims[1] == a->heads && past_v->dims[3] == a->depth && past_v->dims[2] == past->dims[2] && dtype_is_real(past->dtype) && dtype_is_real(past_v->dtype);
            a->past = past->dims[2];
        }
        a->keys = k->dims[1] + a->past;
    }
    if (fits && bias) fits = dtype_is_real(bias->dtype) && operand_count(bias) == (uint64_t)(2 * q->dims[2] + v->dims[2]);
    if (fits && mask) fits = mask->dtype == DT_I32 && ((mask->rank == 1 && mask->dims[0] == a->batch) || (mask->rank == 2 && mask->dims[0] == a->batch && mask->dims[1] == a->keys));
    if (fits && add) fits = dtype_is_real(add->dtype) && add->rank == 4 && (add->dims[0] == 1 || add->dims[0] == a->batch) && (add->dims[1] == 1 || add->dims[1] == a->heads) && add->dims[2] == a->queries && add->dims[3] == a->keys;
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "queries, keys, values, biases, mask and past do not fit each other");
    a->scale = (double)node_float(c->node, "scale", 0);
    if (a->scale == 0) a->scale = 1 / sqrt((double)a->width);
    a->mask = mask;
    a->bias_shape = add;
    return ST_OK;
}

static enum status infer_heads(struct call *c, struct err *err)
{
    struct core a;
    enum status st = read_heads(c, &a, err);
    if (st) return st;
    int64_t y[3] = { a.batch, a.queries, a.heads * a.depth }, keys[4] = { a.batch, a.heads, a.keys, a.width }, values[4] = { a.batch, a.heads, a.keys, a.depth };
    st = call_set(c, 0, c->in[0]->dtype, y, 3, err);
    if (!st && c->out_count > 1) st = call_set(c, 1, c->in[0]->dtype, keys, 4, err);
    return st || c->out_count < 3 ? st : call_set(c, 2, c->in[0]->dtype, values, 4, err);
}

static uint64_t core_room(const struct call *c, const struct core *a) { return (uint64_t)(a->batch * a->heads * (a->queries * a->width + a->keys * (a->width + a->depth))) + attend_room(c, a); }

/* In float: where queries, keys and values with their biases, keys and values behind past ones and a mask as floats have their place. */
struct float_room { float *q, *k, *v, *mask; void *rest; };

static uint64_t room_of(const struct core *a, struct float_room *room, char *at)
{
    const uint64_t numbers[4] = { (uint64_t)(a->batch * a->heads * a->queries * a->width), (uint64_t)(a->batch * a->heads * a->keys * a->width), (uint64_t)(a->batch * a->heads * a->keys * a->depth), (uint64_t)(a->batch * a->keys) };
    float **places[4] = { &room->q, &room->k, &room->v, &room->mask };
    uint64_t bytes = 0;
    for (int i = 0; i < 4; i++) {
        *places[i] = (float *)(void *)(at + bytes);
        bytes += (numbers[i] * sizeof(float) + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
    }
    room->rest = at + bytes;
    return bytes;
}

static bool in_floats(const struct call *c, const struct core *a)
{
    for (int i = 0; i < c->in_count; i++)
        if (c->in[i] && c->in[i]->dtype != DT_F32 && dtype_is_real(c->in[i]->dtype)) return false;
    return a->cap == 0 && a->keys > 0 && a->width > 0 && a->heads <= INT32_MAX && a->width <= INT32_MAX && a->depth <= INT32_MAX && (!a->causal || a->keys - a->past == a->queries);
}

static struct attention_dense dense_of(const struct core *a)
{
    return (struct attention_dense){ .heads = (int)a->heads, .head_dim = (int)a->width, .head_dim_v = (int)a->depth, .batch = a->batch, .queries = a->queries, .keys = a->keys, .scale = (float)a->scale, .causal = a->causal,
                                     .ldq = a->heads * a->width, .ldk = a->heads * a->width, .ldv = a->heads * a->depth, .ldy = a->heads * a->depth };
}

static uint64_t scratch_heads(const struct call *c)
{
    struct core a;
    struct float_room room;
    if (read_heads(c, &a, NULL)) return 0;
    if (!in_floats(c, &a)) return reals_scratch_more(c, core_room(c, &a));
    const struct attention_dense dense = dense_of(&a);
    return room_of(&a, &room, NULL) + attention_dense_scratch(&dense, c->threads);
}

/* rows of numbers and a bias */
static const float *biased(float *to, const float *from, const float *bias, int64_t rows, int64_t numbers)
{
    for (int64_t r = 0; bias && r < rows; r++)
        for (int64_t i = 0; i < numbers; i++) to[r * numbers + i] = from[r * numbers + i] + bias[i];
    return bias ? to : from;
}

/* [batch, heads, past + fresh, width] of the past ones and [batch, fresh, heads width] with a bias */
static void join_floats(float *to, const float *past, const float *fresh, const float *bias, const struct core *a, int64_t width)
{
    const int64_t count = a->keys - a->past;
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->heads; h++) {
            if (past) memcpy(to, past + (b * a->heads + h) * a->past * width, (size_t)(a->past * width) * sizeof *to);
            to += a->past * width;
            for (int64_t t = 0; t < count; t++, to += width)
                for (int64_t w = 0; w < width; w++) to[w] = fresh[((b * count + t) * a->heads + h) * width + w] + (bias ? bias[h * width + w] : 0);
        }
}

static const float *floats_of(const struct call *c, int i) { return call_input(c, i) ? c->in[i]->data : NULL; }
static float *wanted(const struct call *c, int i) { return i < c->out_count && c->out[i] ? c->out[i]->data : NULL; }

/* Keys (i = 1) or values (2) of all positions, where the kernel reads them: as they come, or heads first where there are past ones or somebody wants them so. */
static const float *heads_floats(const struct call *c, const struct core *a, int i, float *room, const float *bias, int64_t width, int64_t *ld, struct attention_steps *at)
{
    const float *past = a->past ? floats_of(c, 5 + i) : NULL;
    float *to = wanted(c, i);
    if (!past && !to) return biased(room, floats_of(c, i), bias, a->batch * a->keys, a->heads * width);
    join_floats(to ? to : room, past, floats_of(c, i), bias, a, width);
    *ld = width;
    *at = (struct attention_steps){ a->heads * a->keys * width, a->keys * width };
    return to ? to : room;
}

static void run_floats(struct call *c, const struct core *a)
{
    const int64_t hidden = a->heads * a->width;
    const float *bias = floats_of(c, 3);
    struct attention_dense d = dense_of(a);
    struct float_room room;
    room_of(a, &room, c->scratch);
    d.q = biased(room.q, floats_of(c, 0), bias, a->batch * a->queries, hidden);
    d.k = heads_floats(c, a, 1, room.k, bias ? bias + hidden : NULL, a->width, &d.ldk, &d.at_k);
    d.v = heads_floats(c, a, 2, room.v, bias ? bias + 2 * hidden : NULL, a->depth, &d.ldv, &d.at_v);
    d.y = wanted(c, 0);
    if (a->mask) {
        for (int64_t b = 0; b < a->batch; b++)
            for (int64_t j = 0; j < a->keys; j++) {
                const bool seen = a->mask->rank == 1 ? j < operand_int(a->mask, (uint64_t)b) : operand_int(a->mask, (uint64_t)(b * a->keys + j)) != 0;
                room.mask[b * a->keys + j] = seen ? 0 : (float)a->masked;
            }
        d.masks[0] = (struct attention_mask){ .add = room.mask, .batch = a->keys };
    }
    if (a->bias_shape) {
        const int64_t *dims = a->bias_shape->dims, head = a->queries * a->keys;
        d.masks[1] = (struct attention_mask){ .add = a->bias_shape->data, .batch = dims[0] == 1 ? 0 : dims[1] * head, .head = dims[1] == 1 ? 0 : head, .query = a->keys };
    }
    if (d.y) attention_dense_f32(&d, c->k, c->diffusion, room.rest, c->threads);
}

static enum status eval_heads(struct call *c, struct err *err)
{
    struct core a;
    struct reals r;
    enum status st = read_heads(c, &a, err);
    if (st) return st;
    if (in_floats(c, &a)) {
        run_floats(c, &a);
        return ST_OK;
    }
    reals_begin(&r, c);
    int64_t hidden = a.heads * a.width, fresh = a.keys - a.past;
    double *q = r.rest, *k = q + a.batch * a.heads * a.queries * a.width, *v = k + a.batch * a.heads * a.keys * a.width, *row = v + a.batch * a.heads * a.keys * a.depth;
    const double *bias = call_input(c, 3) ? r.in[3] : NULL;
    spread(q, r.in[0], hidden, bias, NULL, a.batch, a.heads, a.queries, 0, a.width);
    spread(k, r.in[1], hidden, bias ? bias + hidden : NULL, a.past ? r.in[6] : NULL, a.batch, a.heads, fresh, a.past, a.width);
    spread(v, r.in[2], a.heads * a.depth, bias ? bias + 2 * hidden : NULL, a.past ? r.in[7] : NULL, a.batch, a.heads, fresh, a.past, a.depth);
    a.q = q;
    a.k = k;
    a.v = v;
    a.bias = a.bias_shape ? r.in[5] : NULL;
    if (r.out[0]) attend(c, &a, row, r.out[0]);
    if (c->out_count > 1 && r.out[1]) memcpy(r.out[1], k, (size_t)(a.batch * a.heads * a.keys * a.width) * sizeof *k);
    if (c->out_count > 2 && r.out[2]) memcpy(r.out[2], v, (size_t)(a.batch * a.heads * a.keys * a.depth) * sizeof *v);
    reals_end(&r, c);
    return ST_OK;
}

static bool rows_heads(const struct call *c)
{
    for (int i = 0; i < c->in_count; i++) {
        const struct operand *o = c->in[i];
        const bool fixed = o && !o->batched && !o->tainted;
        if (o && (i == 3 ? !fixed : !o->batched && !(i == 5 && fixed && o->dims[0] == 1))) return false;
    }
    return true;
}

/* ---- Attention(x [batch, length, inputs], weights [inputs, 3 * hidden], bias, mask) ---- */
static enum status read_projected(const struct call *c, struct core *a, struct err *err)
{
    const struct operand *x = c->in[0], *w = c->in[1], *bias = call_input(c, 2), *mask = call_input(c, 3), *add = call_input(c, 5);
    *a = (struct core){ .heads = node_int(c->node, "num_heads", 0), .causal = node_int(c->node, "unidirectional", 0) != 0, .masked = (double)node_float(c->node, "mask_filter_value", -10000.0f) };
    if (call_input(c, 4) || node_attribute(c->node, "qkv_hidden_sizes") || node_int(c->node, "do_rotary", 0) || call_input(c, 6)) return call_error(c, err, ST_UNSUPPORTED, "past values, uneven sizes and rotation are not taken");
    bool fits = x->rank == 3 && w->rank == 2 && dtype_is_real(x->dtype) && w->dtype == x->dtype && w->dims[0] == x->dims[2] && a->heads > 0 && w->dims[1] % (3 * a->heads) == 0 && (!bias || (dtype_is_real(bias->dtype) && operand_count(bias) == (uint64_t)w->dims[1]));
    if (fits) {
        a->batch = x->dims[0];
        a->groups = a->heads;
        a->queries = a->keys = x->dims[1];
        a->width = a->depth = w->dims[1] / (3 * a->heads);
    }
    if (fits && mask) fits = mask->dtype == DT_I32 && ((mask->rank == 1 && mask->dims[0] == a->batch) || (mask->rank == 2 && mask->dims[0] == a->batch && mask->dims[1] == a->keys));
    if (fits && add) fits = dtype_is_real(add->dtype) && add->rank == 4 && (add->dims[0] == 1 || add->dims[0] == a->batch) && (add->dims[1] == 1 || add->dims[1] == a->heads) && add->dims[2] == a->queries && add->dims[3] == a->keys;
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "input, weights, bias and mask do not fit each other");
    a->scale = (double)node_float(c->node, "scale", 0);
    if (a->scale == 0) a->scale = 1 / sqrt((double)a->width);
    a->mask = mask;
    a->bias_shape = add;
    return ST_OK;
}

static enum status infer_projected(struct call *c, struct err *err)
{
    struct core a;
    enum status st = read_projected(c, &a, err);
    return st ? st : call_set(c, 0, c->in[0]->dtype, (int64_t[]){ a.batch, a.queries, a.heads * a.depth }, 3, err);
}

static uint64_t scratch_projected(const struct call *c)
{
    struct core a;
    return read_projected(c, &a, NULL) ? 0 : reals_scratch_more(c, core_room(c, &a) + (uint64_t)(a.batch * a.queries * 3 * a.heads * a.width));
}

static enum status eval_projected(struct call *c, struct err *err)
{
    struct core a;
    struct reals r;
    enum status st = read_projected(c, &a, err);
    if (st) return st;
    reals_begin(&r, c);
    int64_t rows = a.batch * a.queries, hidden = a.heads * a.width, inputs = c->in[0]->dims[2], size = rows * hidden;
    double *all = r.rest, *q = all + 3 * size, *k = q + size, *v = k + size, *row = v + size;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < 3 * hidden; j++) {
            double sum = call_input(c, 2) ? r.in[2][j] : 0;
            for (int64_t n = 0; n < inputs; n++) sum += r.in[0][i * inputs + n] * r.in[1][n * 3 * hidden + j];
            all[i * 3 * hidden + j] = sum;
        }
    spread(q, all, 3 * hidden, NULL, NULL, a.batch, a.heads, a.queries, 0, a.width);
    spread(k, all + hidden, 3 * hidden, NULL, NULL, a.batch, a.heads, a.queries, 0, a.width);
    spread(v, all + 2 * hidden, 3 * hidden, NULL, NULL, a.batch, a.heads, a.queries, 0, a.width);
    a.q = q;
    a.k = k;
    a.v = v;
    a.bias = a.bias_shape ? r.in[5] : NULL;
    attend(c, &a, row, r.out[0]);
    reals_end(&r, c);
    return ST_OK;
}

/* ---- RotaryEmbedding(x, positions, cos, sin): positions are one start for all or one for each place ---- */
struct turn { int64_t batch, heads, length, width, turned; bool packed; };

static enum status read_turn(const struct call *c, struct turn *t, struct err *err)
{
    const struct operand *x = c->in[0], *at = c->in[1], *co = c->in[2], *si = c->in[3];
    int64_t heads = node_int(c->node, "num_heads", 0), turned = node_int(c->node, "rotary_embedding_dim", 0);
    bool fits = (x->rank == 3 || x->rank == 4) && dtype_is_real(x->dtype) && at->dtype == DT_I64 && co->rank == 2 && si->rank == 2 && dtype_is_real(co->dtype) && dtype_is_real(si->dtype) && co->dims[0] == si->dims[0] && co->dims[1] == si->dims[1];
    *t = (struct turn){ .packed = x->rank == 3 };
    if (fits && t->packed) {
        t->width = turned ? (heads > 0 ? x->dims[2] / heads : 0) : co->dims[1] * 2;
        fits = t->width > 0 && x->dims[2] % t->width == 0;
        t->heads = fits ? x->dims[2] / t->width : 0;
    } else if (fits) {
        t->heads = x->dims[1];
        t->width = x->dims[3];
    }
    t->batch = x->dims[0];
    t->length = x->dims[t->packed ? 1 : 2];
    t->turned = turned ? turned : t->width;
    fits = fits && t->turned <= t->width && t->turned % 2 == 0 && co->dims[1] * 2 == t->turned && (operand_count(at) == 1 || operand_count(at) == (uint64_t)(t->batch * t->length));
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "its input, positions and caches do not fit each other");
}

static enum status infer_turn(struct call *c, struct err *err)
{
    struct turn t;
    enum status st = read_turn(c, &t, err);
    return st ? st : infer_same(c, err);
}

static enum status eval_turn(struct call *c, struct err *err)
{
    struct turn t;
    struct reals r;
    enum status st = read_turn(c, &t, err);
    if (st) return st;
    reals_begin(&r, c);
    bool pairs = node_int(c->node, "interleaved", 0) != 0, one = operand_count(c->in[1]) == 1;
    int64_t half = t.turned / 2;
    for (int64_t k = 0; k < t.batch * t.length * t.heads; k++) {
        int64_t b = k / (t.length * t.heads), p = t.packed ? k / t.heads % t.length : k % t.length, place = one ? operand_int(c->in[1], 0) : operand_int(c->in[1], (uint64_t)(b * t.length + p));
        if (one && __builtin_add_overflow(place, p, &place)) place = -1;
        if (place < 0 || place >= c->in[2]->dims[0]) return call_error(c, err, ST_BAD_INPUT, "position %lld is not in the cache of %lld", (long long)place, (long long)c->in[2]->dims[0]);
        const double *x = r.in[0] + k * t.width, *co = r.in[2] + place * half, *si = r.in[3] + place * half;
        double *y = r.out[0] + k * t.width;
        memcpy(y, x, (size_t)t.width * sizeof *y);
        for (int64_t i = 0; i < half; i++) {
            int64_t u = pairs ? 2 * i : i, v = pairs ? 2 * i + 1 : i + half;
            y[u] = co[i] * x[u] - si[i] * x[v];
            y[v] = si[i] * x[u] + co[i] * x[v];
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

const struct op ops_ms_attention[] = {
    { "MultiHeadAttention", "com.microsoft", 1, 0, 1, 8, 1, 3, OP_PRODUCT, 0, infer_heads, eval_heads, scratch_heads, NULL, NULL, rows_heads, NULL },
    { "Attention", "com.microsoft", 1, 0, 2, 7, 1, 1, OP_PRODUCT, 0, infer_projected, eval_projected, scratch_projected, NULL, NULL, NULL, NULL },
    { "RotaryEmbedding", "com.microsoft", 1, 0, 4, 4, 1, 1, 0, 0, infer_turn, eval_turn, reals_scratch, NULL, NULL, NULL, NULL },
    { 0 }
};
