/* Operators of language models that carry a state: RotaryEmbedding, LinearAttention, CausalConvWithState, TensorScatter. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

/* ---- RotaryEmbedding(X, cos, sin, positions) ---- */
struct rotary { int64_t batch, heads, length, width, turned; bool packed; };

static enum status read_rotary(const struct call *c, struct rotary *r, struct err *err)
{
    const struct operand *x = c->in[0], *co = c->in[1], *si = c->in[2], *at = call_input(c, 3);
    int64_t heads = node_int(c->node, "num_heads", 0);
    *r = (struct rotary){ .packed = x->rank == 3 };
    bool fits = (x->rank == 4 || (x->rank == 3 && heads > 0 && x->dims[2] % heads == 0)) && dtype_is_real(x->dtype) && co->dtype == x->dtype && si->dtype == x->dtype;
    if (fits) {
        r->batch = x->dims[0];
        r->heads = r->packed ? heads : x->dims[1];
        r->length = x->dims[r->packed ? 1 : 2];
        r->width = r->packed ? x->dims[2] / heads : x->dims[3];
        r->turned = node_int(c->node, "rotary_embedding_dim", 0);
        if (r->turned == 0) r->turned = r->width;
        fits = r->turned > 0 && r->turned <= r->width && r->turned % 2 == 0 && co->rank == (at ? 2 : 3) && si->rank == co->rank && memcmp(co->dims, si->dims, (size_t)co->rank * sizeof *co->dims) == 0 && co->dims[co->rank - 1] == r->turned / 2;
    }
    if (fits && at) fits = at->dtype == DT_I64 && at->rank == 2 && at->dims[0] == r->batch && at->dims[1] == r->length;
    if (fits && !at) fits = co->dims[0] == r->batch && co->dims[1] == r->length;
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "its input, caches and positions do not fit each other");
}

static enum status infer_rotary(struct call *c, struct err *err)
{
    struct rotary r;
    enum status st = read_rotary(c, &r, err);
    return st ? st : infer_same(c, err);
}

static enum status eval_rotary(struct call *c, struct err *err)
{
    struct rotary r;
    struct reals v;
    enum status st = read_rotary(c, &r, err);
    if (st) return st;
    reals_begin(&v, c);
    const struct operand *positions = call_input(c, 3);
    bool pairs = node_int(c->node, "interleaved", 0) != 0;
    int64_t half = r.turned / 2;
    for (int64_t b = 0; b < r.batch; b++)
        for (int64_t t = 0; t < r.length; t++) {
            int64_t row = b * r.length + t;
            if (positions) row = operand_int(positions, (uint64_t)row);
            if (positions && (row < 0 || row >= c->in[1]->dims[0])) return call_error(c, err, ST_BAD_INPUT, "position %lld is not in the cache of %lld", (long long)row, (long long)c->in[1]->dims[0]);
            const double *co = v.in[1] + row * half, *si = v.in[2] + row * half;
            for (int64_t h = 0; h < r.heads; h++) {
                int64_t at = (r.packed ? (b * r.length + t) * r.heads + h : (b * r.heads + h) * r.length + t) * r.width;
                const double *x = v.in[0] + at;
                double *y = v.out[0] + at;
                memcpy(y, x, (size_t)r.width * sizeof *y);
                for (int64_t k = 0; k < half; k++) {
                    int64_t p = pairs ? 2 * k : k, q = pairs ? 2 * k + 1 : k + half;
                    y[p] = co[k] * x[p] - si[k] * x[q];
                    y[q] = si[k] * x[p] + co[k] * x[q];
                }
            }
        }
    reals_end(&v, c);
    return ST_OK;
}

/* ---- LinearAttention(query, key, value, past state, decay, beta) ---- */
enum rule { RULE_LINEAR, RULE_GATED, RULE_DELTA, RULE_GATED_DELTA };
struct linear { int64_t batch, length, heads, groups, width, depth; enum rule rule; bool decay_each, beta_each; };

static bool packed_as(const struct operand *o, const struct linear *a, int64_t last) { return o && o->rank == 3 && o->dims[0] == a->batch && o->dims[1] == a->length && o->dims[2] == last && dtype_is_real(o->dtype); }

static enum status read_linear(const struct call *c, struct linear *a, struct err *err)
{
    static const char *const rules[] = { "linear", "gated", "delta", "gated_delta" };
    const struct operand *q = c->in[0], *v = c->in[2], *past = call_input(c, 3), *decay = call_input(c, 4), *beta = call_input(c, 5);
    *a = (struct linear){ .heads = node_int(c->node, "q_num_heads", 0), .groups = node_int(c->node, "kv_num_heads", 0), .rule = RULE_GATED_DELTA };
    for (int i = 0; i < 4; i++)
        if (node_text_is(c->node, "update_rule", rules[i], false)) a->rule = (enum rule)i;
    bool fits = q->rank == 3 && v->rank == 3 && a->heads > 0 && a->groups > 0 && a->heads % a->groups == 0 && q->dims[2] % a->heads == 0 && v->dims[2] % a->groups == 0;
    if (fits) {
        a->batch = q->dims[0];
        a->length = q->dims[1];
        a->width = q->dims[2] / a->heads;
        a->depth = v->dims[2] / a->groups;
        fits = packed_as(q, a, q->dims[2]) && packed_as(c->in[1], a, a->groups * a->width) && packed_as(v, a, v->dims[2]);
    }
    if (fits && past) fits = past->rank == 4 && past->dims[0] == a->batch && past->dims[1] == a->groups && past->dims[2] == a->width && past->dims[3] == a->depth && dtype_is_real(past->dtype);
    if (fits && a->rule & 1) {
        a->decay_each = packed_as(decay, a, a->groups * a->width) && a->width != 1;
        fits = a->decay_each || packed_as(decay, a, a->groups);
    }
    if (fits && a->rule >= RULE_DELTA) {
        a->beta_each = packed_as(beta, a, a->groups);
        fits = a->beta_each || packed_as(beta, a, 1);
    }
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "its inputs do not fit each other and update_rule %s", rules[a->rule]);
}

static enum status infer_linear(struct call *c, struct err *err)
{
    struct linear a;
    enum status st = read_linear(c, &a, err);
    if (st) return st;
    int64_t y[3] = { a.batch, a.length, a.heads * a.depth }, state[4] = { a.batch, a.groups, a.width, a.depth };
    st = call_set(c, 0, c->in[0]->dtype, y, 3, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, call_input(c, 3) ? c->in[3]->dtype : c->in[0]->dtype, state, 4, err);
}

static uint64_t scratch_linear(const struct call *c)
{
    struct linear a;
    return read_linear(c, &a, NULL) ? 0 : reals_scratch_more(c, (uint64_t)(a.batch * a.groups * a.width * a.depth));
}

/* One token of one group: the state is let decay, then takes the token in. */
static void take_token(const struct linear *a, double *state, const double *k, const double *v, const double *decay, double beta)
{
    for (int64_t w = 0; w < a->width && decay; w++)
        for (int64_t d = 0; d < a->depth; d++) state[w * a->depth + d] *= exp(decay[a->decay_each ? w : 0]);
    for (int64_t d = 0; d < a->depth; d++) {
        double old = 0;
        for (int64_t w = 0; w < a->width && a->rule >= RULE_DELTA; w++) old += state[w * a->depth + d] * k[w];
        double add = a->rule >= RULE_DELTA ? beta * (v[d] - old) : v[d];
        for (int64_t w = 0; w < a->width; w++) state[w * a->depth + d] += k[w] * add;
    }
}

static enum status eval_linear(struct call *c, struct err *err)
{
    struct linear a;
    struct reals r;
    enum status st = read_linear(c, &a, err);
    if (st) return st;
    reals_begin(&r, c);
    int64_t per = a.heads / a.groups, size = a.width * a.depth;
    double scale = (double)node_float(c->node, "scale", 0), *states = r.rest;
    if (scale == 0) scale = 1 / sqrt((double)a.width);
    if (call_input(c, 3)) memcpy(states, r.in[3], (size_t)(a.batch * a.groups * size) * sizeof *states);
    else memset(states, 0, (size_t)(a.batch * a.groups * size) * sizeof *states);
    for (int64_t b = 0; b < a.batch; b++)
        for (int64_t t = 0; t < a.length; t++)
            for (int64_t g = 0; g < a.groups; g++) {
                int64_t at = (b * a.length + t) * a.groups + g;
                double *state = states + (b * a.groups + g) * size;
                const double *decay = a.rule & 1 ? r.in[4] + at * (a.decay_each ? a.width : 1) : NULL;
                double beta = a.rule >= RULE_DELTA ? r.in[5][a.beta_each ? at : b * a.length + t] : 0;
                take_token(&a, state, r.in[1] + at * a.width, r.in[2] + at * a.depth, decay, beta);
                for (int64_t h = g * per; h < (g + 1) * per; h++) {
                    const double *q = r.in[0] + ((b * a.length + t) * a.heads + h) * a.width;
                    double *y = r.out[0] + ((b * a.length + t) * a.heads + h) * a.depth;
                    for (int64_t w = 0; w < a.width; w++)
                        for (int64_t d = 0; d < a.depth; d++) y[d] += scale * q[w] * state[w * a.depth + d];
                }
            }
    if (c->out_count > 1 && r.out[1]) memcpy(r.out[1], states, (size_t)(a.batch * a.groups * size) * sizeof *states);
    reals_end(&r, c);
    return ST_OK;
}

/* ---- CausalConvWithState(input [n, c, t], weight [c, 1, k], bias, past [n, c, k - 1]) ---- */
static enum status infer_causal(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *w = c->in[1], *bias = call_input(c, 2), *past = call_input(c, 3);
    bool fits = x->rank == 3 && w->rank == 3 && dtype_is_real(x->dtype) && w->dtype == x->dtype && w->dims[0] == x->dims[1] && w->dims[1] == 1 && w->dims[2] >= 1;
    if (fits && bias) fits = bias->rank == 1 && bias->dims[0] == x->dims[1] && bias->dtype == x->dtype;
    if (fits && past) fits = past->rank == 3 && past->dims[0] == x->dims[0] && past->dims[1] == x->dims[1] && past->dims[2] == w->dims[2] - 1 && past->dtype == x->dtype;
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "input, weight, bias and past state do not fit each other");
    enum status st = infer_same(c, err);
    int64_t state[3] = { x->dims[0], x->dims[1], w->dims[2] - 1 };
    return st || c->out_count < 2 ? st : call_set(c, 1, x->dtype, state, 3, err);
}

static enum status eval_causal(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t n = x->dims[2], k = c->in[1]->dims[2], rows = x->dims[0] * x->dims[1];
    bool silu = node_text_is(c->node, "activation", "silu", false) || node_text_is(c->node, "activation", "swish", false);
    struct reals r;
    (void)err;
    reals_begin(&r, c);
    for (int64_t row = 0; row < rows; row++) {
        int64_t channel = row % x->dims[1];
        const double *in = r.in[0] + row * n, *past = call_input(c, 3) ? r.in[3] + row * (k - 1) : NULL, *w = r.in[1] + channel * k;
        for (int64_t t = 0; t < n; t++) {
            double sum = call_input(c, 2) ? r.in[2][channel] : 0;
            for (int64_t j = 0; j < k; j++) {
                int64_t at = t + j - (k - 1);
                sum += w[j] * (at >= 0 ? in[at] : past ? past[at + k - 1] : 0);
            }
            r.out[0][row * n + t] = silu ? sum / (1 + exp(-sum)) : sum;
        }
        for (int64_t j = 0; j < k - 1 && c->out_count > 1 && r.out[1]; j++) {
            int64_t at = n + j - (k - 1);
            r.out[1][row * (k - 1) + j] = at >= 0 ? in[at] : past ? past[at + k - 1] : 0;
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- TensorScatter(past, update, write indices) ---- */
static enum status infer_scatter(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *u = c->in[1], *at = call_input(c, 2);
    int64_t axis = node_int(c->node, "axis", -2);
    bool fits = axis_fix(&axis, x->rank) && axis > 0 && u->rank == x->rank && u->dtype == x->dtype && operand_size(x) && (!at || (at->dtype == DT_I64 && at->rank == 1 && at->dims[0] == x->dims[0]));
    for (int d = 0; fits && d < x->rank; d++) fits = d == axis ? u->dims[d] <= x->dims[d] : u->dims[d] == x->dims[d];
    return fits ? infer_same(c, err) : call_error(c, err, ST_BAD_INPUT, "the update and its indices do not fit the cache");
}

static enum status eval_scatter(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *u = c->in[1], *at = call_input(c, 2);
    int64_t axis = node_int(c->node, "axis", -2), outer = 1, inner = operand_size(x);
    bool circular = node_text_is(c->node, "mode", "circular", false);
    axis_fix(&axis, x->rank);
    for (int d = 0; d < x->rank; d++)
        if (d != axis) *(d < axis ? &outer : &inner) *= x->dims[d];
    int64_t most = x->dims[axis], n = u->dims[axis], per = x->dims[0] ? outer / x->dims[0] : 1;
    char *y = c->out[0]->data;
    if (x->bytes && y != x->data) memcpy(y, x->data, x->bytes);
    for (int64_t o = 0; o < outer && inner; o++) {
        int64_t first = at ? operand_int(at, (uint64_t)(o / per)) : 0;
        if (first < 0 || (!circular && first > most - n)) return call_error(c, err, ST_BAD_INPUT, "index %lld and %lld rows pass the cache of %lld", (long long)first, (long long)n, (long long)most);
        for (int64_t k = 0; k < n; k++) memcpy(y + (o * most + (first % most + k) % most) * inner, (const char *)u->data + (o * n + k) * inner, (size_t)inner);
    }
    return ST_OK;
}

const struct op ops_linear_attention[] = {
    { "RotaryEmbedding", "", 23, 0, 3, 4, 1, 1, 0, 0, infer_rotary, eval_rotary, reals_scratch, NULL, NULL, rows_first, NULL },
    { "LinearAttention", "", 27, 0, 3, 6, 1, 2, OP_PRODUCT, 0, infer_linear, eval_linear, scratch_linear, NULL, NULL, NULL, NULL },
    { "CausalConvWithState", "", 27, 0, 2, 4, 1, 2, OP_PRODUCT, 0, infer_causal, eval_causal, reals_scratch, NULL, NULL, NULL, NULL },
    { "TensorScatter", "", 24, 0, 2, 3, 1, 1, 0, 0, infer_scatter, eval_scatter, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
