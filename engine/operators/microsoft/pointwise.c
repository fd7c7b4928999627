/* com.microsoft: elementwise operators and average pooling on quantised tensors. Each is computed on the numbers the integers stand for and quantised again. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"
#include "engine/operators/window.h"

enum pointwise { Q_ADD, Q_MUL, Q_SIGMOID, Q_LEAKY, Q_AVERAGE, Q_GLOBAL_AVERAGE };

static bool is_byte(const struct operand *o) { return o && (o->dtype == DT_U8 || o->dtype == DT_I8); }
static bool is_scale(const struct operand *o) { return o && dtype_is_real(o->dtype) && operand_count(o) == 1; }
static bool is_zero(const struct operand *o, enum dtype t) { return !o || (o->dtype == t && operand_count(o) == 1); }

static double restored(const struct operand *x, uint64_t k, const struct operand *scale, const struct operand *zero)
{
    return (operand_real(x, k) - (zero ? operand_real(zero, 0) : 0)) * operand_real(scale, 0);
}

static void put_quantised(struct operand *y, uint64_t k, double v, const struct operand *scale, const struct operand *zero)
{
    double low, high;
    dtype_range(y->dtype, &low, &high);
    v = nearbyint((double)((float)v / (float)operand_real(scale, 0))) + (zero ? operand_real(zero, 0) : 0);
    operand_real_put(y, k, v != v ? 0 : v < low ? low : v > high ? high : v);
}

/* ---- QLinearAdd, QLinearMul(a, scale, zero, b, scale, zero, result's scale, zero) ---- */
static enum status infer_pair(struct call *c, struct err *err)
{
    struct operand *pair[2] = { c->in[0], c->in[3] };
    struct call both = *c;
    int64_t dims[TENSOR_RANK_MAX];
    int rank;
    both.in = pair;
    both.in_count = 2;
    enum dtype t = c->in[0] ? c->in[0]->dtype : DT_NONE;
    if (!is_byte(c->in[0]) || !is_byte(c->in[3]) || c->in[3]->dtype != t || !is_scale(c->in[1]) || !is_scale(c->in[4]) || !is_scale(call_input(c, 6)) || !is_zero(c->in[2], t) || !is_zero(c->in[5], t) || !is_zero(call_input(c, 7), t)) return call_error(c, err, ST_BAD_INPUT, "its types, scales and zero points do not go together");
    enum status st = infer_broadcast_dims(&both, dims, &rank, err);
    return st ? st : call_set(c, 0, t, dims, rank, err);
}

static enum status eval_pair(struct call *c, struct err *err)
{
    struct operand *pair[2] = { c->in[0], c->in[3] };
    struct call both = *c;
    struct walk w;
    both.in = pair;
    both.in_count = 2;
    enum status st = walk_broadcast(&w, &both, err);
    uint64_t at = 0;
    for (; !st && w.more; walk_next(&w))
        for (int64_t i = 0; i < w.run; i++) {
            double a = restored(c->in[0], (uint64_t)(w.offset[0] + i * walk_step(&w, 0)), c->in[1], c->in[2]), b = restored(c->in[3], (uint64_t)(w.offset[1] + i * walk_step(&w, 1)), c->in[4], c->in[5]);
            put_quantised(c->out[0], at++, c->node->op->code == Q_ADD ? a + b : a * b, c->in[6], call_input(c, 7));
        }
    return st;
}

/* ---- QLinearSigmoid, QLinearLeakyRelu(x, scale, zero, result's scale, zero) and the averages ---- */
static enum status check_single(struct call *c, struct err *err)
{
    enum dtype t = c->in[0] ? c->in[0]->dtype : DT_NONE;
    if (!is_byte(c->in[0]) || !is_scale(c->in[1]) || !is_zero(c->in[2], t) || !is_scale(c->in[3]) || !is_zero(call_input(c, 4), t)) return call_error(c, err, ST_BAD_INPUT, "its types, scales and zero points do not go together");
    return ST_OK;
}

static enum status infer_single(struct call *c, struct err *err)
{
    enum status st = check_single(c, err);
    return st ? st : infer_same(c, err);
}

static enum status eval_single(struct call *c, struct err *err)
{
    double alpha = (double)node_float(c->node, "alpha", 0.01f);
    (void)err;
    for (uint64_t k = 0, n = operand_count(c->in[0]); k < n; k++) {
        double x = restored(c->in[0], k, c->in[1], c->in[2]);
        put_quantised(c->out[0], k, c->node->op->code == Q_SIGMOID ? 1 / (1 + exp(-x)) : x >= 0 ? x : alpha * x, c->in[3], call_input(c, 4));
    }
    return ST_OK;
}

static enum status read_average(struct call *c, struct window *w, struct err *err)
{
    const struct operand *x = c->in[0];
    enum status st = check_single(c, err);
    if (st) return st;
    if (node_int(c->node, "channels_last", 0)) return call_error(c, err, ST_UNSUPPORTED, "channels_last is not taken");
    if (c->node->op->code == Q_AVERAGE) return window_read(w, c, NULL, err);
    *w = (struct window){ .dims = x->rank - 2 };
    if (x->rank < 3) return call_error(c, err, ST_BAD_INPUT, "its input has %d dimensions; at least 3 are needed", x->rank);
    for (int d = 0; d < w->dims; d++) {
        w->in[d] = w->kernel[d] = x->dims[d + 2];
        w->stride[d] = w->dilation[d] = w->out[d] = 1;
    }
    return ST_OK;
}

static enum status infer_average(struct call *c, struct err *err)
{
    struct window w;
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = read_average(c, &w, err);
    if (st) return st;
    memcpy(dims, c->in[0]->dims, 2 * sizeof *dims);
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    return call_set(c, 0, c->in[0]->dtype, dims, c->in[0]->rank, err);
}

static enum status eval_average(struct call *c, struct err *err)
{
    struct window w;
    bool padded = node_int(c->node, "count_include_pad", 0) != 0;
    enum status st = read_average(c, &w, err);
    if (st) return st;
    int64_t cells = 1, space = 1, out = 1;
    for (int d = 0; d < w.dims; d++) {
        cells *= w.kernel[d];
        space *= w.in[d];
        out *= w.out[d];
    }
    for (int64_t k = 0, n = (int64_t)operand_count(c->out[0]); k < n; k++) {
        double sum = 0;
        int64_t inside = 0;
        for (int64_t j = 0; j < cells; j++) {
            int64_t at = 0, step = 1, left = j, o = k % out;
            bool in = true;
            for (int d = w.dims - 1; d >= 0; left /= w.kernel[d], o /= w.out[d], step *= w.in[d], d--) {
                int64_t i = o % w.out[d] * w.stride[d] - w.low[d] + left % w.kernel[d] * w.dilation[d];
                in = in && i >= 0 && i < w.in[d];
                at += i * step;
            }
            if (in) sum += restored(c->in[0], (uint64_t)(k / out * space + at), c->in[1], c->in[2]);
            inside += in;
        }
        int64_t by = padded ? cells : inside;
        put_quantised(c->out[0], (uint64_t)k, by ? sum / (double)by : 0, c->in[3], call_input(c, 4));
    }
    return ST_OK;
}

#define PAIR(name, code) { name, "com.microsoft", 1, 0, 7, 8, 1, 1, OP_HOLES, code, infer_pair, eval_pair, NULL, NULL, NULL, NULL, NULL }
#define SINGLE(name, code, kind) { name, "com.microsoft", 1, 0, 4, 5, 1, 1, OP_HOLES | OP_PRODUCT, code, infer_##kind, eval_##kind, NULL, NULL, NULL, NULL, NULL }
const struct op ops_ms_pointwise[] = {
    PAIR("QLinearAdd", Q_ADD), PAIR("QLinearMul", Q_MUL), SINGLE("QLinearSigmoid", Q_SIGMOID, single), SINGLE("QLinearLeakyRelu", Q_LEAKY, single),
    SINGLE("QLinearAveragePool", Q_AVERAGE, average), SINGLE("QLinearGlobalAveragePool", Q_GLOBAL_AVERAGE, average),
    { 0 }
};
