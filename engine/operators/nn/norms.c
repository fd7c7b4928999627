/* Normalisations that have no kernel of their own: over the last dimensions (RMS), over groups of channels, by a norm, over any axes; and
 * BatchNormalization while training. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/nn/norms.h"
#include "engine/operators/reals.h"
#include "kernels/diffusion.h"

/* y = (x - mean) / sqrt(variance + epsilon) over n numbers `step` apart; without `centred` the mean counts as 0. */
static void normalise_run(double *y, const double *x, int64_t n, int64_t step, double epsilon, bool centred)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n && centred; i++) mean += x[i * step];
    if (n) mean /= (double)n;
    for (int64_t i = 0; i < n; i++) square += (x[i * step] - mean) * (x[i * step] - mean);
    double scale = 1 / sqrt(square / (double)n + epsilon);
    for (int64_t i = 0; i < n; i++) y[i * step] = (x[i * step] - mean) * scale;
}

/* ---- RMSNormalization(x, scale) ---- */
static enum status infer_rms(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *s = c->in[1];
    int64_t axis = node_int(c->node, "axis", -1);
    enum status st = call_need_real(c, err);
    if (st) return st;
    bool fits = axis_fix(&axis, x->rank) && s->rank <= x->rank && dtype_is_real(s->dtype);
    for (int d = 0; fits && d < s->rank; d++) fits = s->dims[d] == 1 || s->dims[d] == x->dims[x->rank - s->rank + d];
    return fits ? call_set(c, 0, s->dtype, x->dims, x->rank, err) : call_error(c, err, ST_BAD_INPUT, "axis %lld or its scale does not fit the input", (long long)axis);
}

/* Rows stay apart unless the norm runs over them. */
static bool rows_rms(const struct call *c)
{
    int64_t axis = node_int(c->node, "axis", -1);
    return axis_fix(&axis, c->in[0]->rank) && axis > 0 && c->in[1]->rank < c->in[0]->rank && rows_first(c);
}

/* The element of `s`, broadcast to x's shape, that belongs to element k of x. */
static int64_t broadcast_index(const struct operand *s, const struct operand *x, int64_t k)
{
    int64_t at = 0, step = 1;
    for (int d = x->rank - 1, e = s->rank - 1; e >= 0; d--, e--) {
        int64_t i = k % x->dims[d];
        k /= x->dims[d];
        if (s->dims[e] != 1) at += i * step;
        step *= s->dims[e];
    }
    return at;
}

static enum status eval_rms(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1);
    double epsilon = (double)node_float(c->node, "epsilon", 1e-5f);
    struct reals r;
    (void)err;
    axis_fix(&axis, x->rank);
    reals_begin(&r, c);
    int64_t rows = dims_product(x->dims, 0, (int)axis), n = dims_product(x->dims, (int)axis, x->rank);
    for (int64_t row = 0; row < rows && n; row++) normalise_run(r.out[0] + row * n, r.in[0] + row * n, n, 1, epsilon, false);
    for (int64_t k = 0; k < rows * n; k++) r.out[0][k] *= r.in[1][broadcast_index(c->in[1], x, k)];
    reals_end(&r, c);
    return ST_OK;
}

/* ---- GroupNormalization(x, scale, bias): by group in opset 18, by channel since ---- */
static enum status infer_group(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t groups = node_int(c->node, "num_groups", 0), want = c->node->opset < 21 ? groups : x->rank > 1 ? x->dims[1] : 0;
    enum status st = call_need_real(c, err);
    if (st) return st;
    bool fits = x->rank >= 2 && groups > 0 && x->dims[1] % groups == 0;
    for (int i = 1; i < 3 && fits; i++) fits = dtype_is_real(c->in[i]->dtype) && operand_count(c->in[i]) == (uint64_t)want;
    return fits ? infer_same(c, err) : call_error(c, err, ST_BAD_INPUT, "%lld groups, scale or bias do not fit the input", (long long)groups);
}

/* ---- f32: channels last is a kernel of its own; in plain order a group is a row ---- */
static struct group_norm channels_norm_of(const struct call *c, int64_t groups)
{
    const struct operand *x = c->in[0];
    return (struct group_norm){ .n = x->dims[0], .rows = dims_product(x->dims, 2, x->rank), .channels = x->dims[1], .groups = groups };
}

uint64_t channels_norm_scratch(const struct call *c)
{
    if (c->in[0]->dtype != DT_F32 || c->in[0]->rank < 2) return reals_scratch(c);
    struct group_norm g = channels_norm_of(c, c->in[0]->dims[1]);       /* as many groups as there can be */
    uint64_t bytes = c->in[0]->channels_last ? group_norm_scratch(&g) : 0, other = reals_scratch(c);
    return (bytes > other ? bytes : other) + (uint64_t)g.channels * 8;
}

void channels_norm_f32(const struct call *c, int64_t groups, const float *scale, const float *bias, float epsilon)
{
    const struct operand *x = c->in[0];
    struct group_norm g = channels_norm_of(c, groups);
    g.scale = scale;
    g.bias = bias;
    g.epsilon = epsilon;
    if (x->channels_last && g.channels / groups <= GROUP_NORM_CHANNELS_MAX) {
        c->diffusion->group_norm_f32(c->out[0]->data, x->data, &g, c->scratch, c->threads);
        return;
    }
    const int64_t space = g.rows, per = g.channels / groups;
    float *y = c->out[0]->data;
    c->k->layer_norm_f32(y, x->data, NULL, NULL, g.n * groups, per * space, epsilon, c->threads);
    for (int64_t i = 0; i < g.n * g.channels; i++) {
        const float s = scale[i % g.channels], b = bias[i % g.channels];
        for (int64_t k = 0; k < space; k++) y[i * space + k] = y[i * space + k] * s + b;
    }
}

static enum status eval_group(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t groups = node_int(c->node, "num_groups", 1), channels = x->dims[1], space = dims_product(x->dims, 2, x->rank), per = channels / groups;
    double epsilon = (double)node_float(c->node, "epsilon", 1e-5f);
    struct reals r;
    (void)err;
    if (x->dtype == DT_F32 && c->in[1]->dtype == DT_F32 && c->in[2]->dtype == DT_F32 && x->bytes) {
        float *scale = (float *)(void *)((char *)c->scratch + channels_norm_scratch(c) - (uint64_t)channels * 8), *bias = scale + channels;
        for (int64_t i = 0; i < channels; i++) {
            const int64_t at = c->node->opset < 21 ? i / per : i;
            scale[i] = ((const float *)c->in[1]->data)[at];
            bias[i] = ((const float *)c->in[2]->data)[at];
        }
        channels_norm_f32(c, groups, scale, bias, (float)epsilon);
        return ST_OK;
    }
    reals_begin(&r, c);
    for (int64_t g = 0; g < x->dims[0] * groups && per > 0 && space > 0; g++) normalise_run(r.out[0] + g * per * space, r.in[0] + g * per * space, per * space, 1, epsilon, true);
    for (int64_t k = 0; k < x->dims[0] * channels * space; k++) {
        int64_t channel = k / space % channels, at = c->node->opset < 21 ? channel / per : channel;
        r.out[0][k] = r.out[0][k] * r.in[1][at] + r.in[2][at];
    }
    reals_end(&r, c);
    return ST_OK;
}

static void tasks_group(struct call *c, struct task_list *l)
{
    if (c->node->opset < 21) task_refuse(l);       /* a number for each group */
    channels_norm_tasks(c, l, node_int(c->node, "num_groups", 1), node_float(c->node, "epsilon", 1e-5f));
}

static void tasks_rms(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1);
    struct gpu_task *t = task_add(l, GPU_NORM_ROWS);
    axis_fix(&axis, x->rank);
    t->u.norm_rows = (struct gpu_norm_rows){ .rows = dims_product(x->dims, 0, (int)axis), .n = dims_product(x->dims, (int)axis, x->rank), .epsilon = node_float(c->node, "epsilon", 1e-5f), .rms = true };
    task_value(l, t, x);
    task_value(l, t, c->out[0]);
    task_value(l, t, c->in[1]);
    task_value(l, t, NULL);
    if (operand_count(c->in[1]) != (uint64_t)t->u.norm_rows.n) task_refuse(l);
}

/* ---- LpNormalization ---- */
static enum status infer_lp(struct call *c, struct err *err)
{
    int64_t axis = node_int(c->node, "axis", -1), p = node_int(c->node, "p", 2);
    enum status st = call_need_real(c, err);
    if (st) return st;
    return axis_fix(&axis, c->in[0]->rank) && (p == 1 || p == 2) ? infer_same(c, err) : call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit or p is %lld, neither 1 nor 2", (long long)axis, (long long)p);
}

static enum status eval_lp(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1), p = node_int(c->node, "p", 2);
    struct reals r;
    (void)err;
    axis_fix(&axis, x->rank);
    reals_begin(&r, c);
    int64_t n = x->dims[axis], inner = dims_product(x->dims, (int)axis + 1, x->rank), outer = dims_product(x->dims, 0, (int)axis);
    for (int64_t k = 0; k < outer * inner; k++) {
        int64_t at = k / inner * n * inner + k % inner;
        double norm = 0;
        for (int64_t i = 0; i < n; i++) norm += p == 1 ? fabs(r.in[0][at + i * inner]) : r.in[0][at + i * inner] * r.in[0][at + i * inner];
        if (p == 2) norm = sqrt(norm);
        for (int64_t i = 0; i < n; i++) r.out[0][at + i * inner] = norm == 0 ? 0 : r.in[0][at + i * inner] / norm;
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- MeanVarianceNormalization over any axes ---- */
static enum status read_mvn_axes(const struct call *c, bool over[TENSOR_RANK_MAX], struct err *err)
{
    static const int64_t usual[] = { 0, 2, 3 };
    int n;
    const int64_t *axes = node_ints(c->node, "axes", &n);
    memset(over, 0, TENSOR_RANK_MAX);
    if (!axes) { axes = usual; n = 3; }
    for (int i = 0; i < n; i++) {
        int64_t axis = axes[i];
        if (!axis_fix(&axis, c->in[0]->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, c->in[0]->rank);
        over[axis] = true;
    }
    return ST_OK;
}

static enum status infer_mvn(struct call *c, struct err *err)
{
    bool over[TENSOR_RANK_MAX];
    enum status st = call_need_real(c, err);
    if (!st) st = read_mvn_axes(c, over, err);
    return st ? st : infer_same(c, err);
}

static uint64_t scratch_mvn(const struct call *c) { return reals_scratch_more(c, 2 * operand_count(c->in[0])); }

static enum status eval_mvn(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    bool over[TENSOR_RANK_MAX];
    struct reals r;
    enum status st = read_mvn_axes(c, over, err);
    if (st) return st;
    reals_begin(&r, c);
    int64_t count = (int64_t)operand_count(x), n = 1;
    double *mean = r.rest, *square = r.rest + count;
    memset(mean, 0, (size_t)count * 2 * sizeof *mean);
    for (int d = 0; d < x->rank; d++) n *= over[d] ? x->dims[d] : 1;
    /* each element belongs to the cell of its coordinates with those of the axes taken as 0 */
    for (int pass = 0; pass < 3; pass++)
        for (int64_t k = 0; k < count; k++) {
            int64_t cell = 0, left = k, step = 1;
            for (int d = x->rank - 1; d >= 0; left /= x->dims[d], step *= x->dims[d], d--) cell += over[d] ? 0 : left % x->dims[d] * step;
            double v = r.in[0][k] - (pass ? mean[cell] : 0);
            if (pass == 0) mean[cell] += r.in[0][k] / (double)n;
            else if (pass == 1) square[cell] += v * v / (double)n;
            else r.out[0][k] = v / (sqrt(square[cell]) + 1e-9);
        }
    reals_end(&r, c);
    return ST_OK;
}

enum status batch_norm_train(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t channels = x->rank > 1 ? x->dims[1] : 1, space = dims_product(x->dims, 2, x->rank), n = x->dims[0] * space;
    double epsilon = (double)node_float(c->node, "epsilon", 1e-5f), momentum = (double)node_float(c->node, "momentum", 0.9f);
    (void)err;
    for (int64_t ch = 0; ch < channels; ch++) {
        double mean = 0, variance = 0;
        for (int64_t k = 0; k < n; k++) mean += operand_real(x, (uint64_t)((k / space * channels + ch) * space + k % space)) / (double)n;
        for (int64_t k = 0; k < n; k++) {
            double v = operand_real(x, (uint64_t)((k / space * channels + ch) * space + k % space)) - mean;
            variance += v * v / (double)n;
        }
        double s = operand_real(c->in[1], (uint64_t)ch) / sqrt(variance + epsilon), b = operand_real(c->in[2], (uint64_t)ch) - mean * s;
        for (int64_t k = 0; k < n; k++) {
            uint64_t at = (uint64_t)((k / space * channels + ch) * space + k % space);
            operand_real_put(c->out[0], at, operand_real(x, at) * s + b);
        }
        if (c->out_count > 1 && c->out[1]) operand_real_put(c->out[1], (uint64_t)ch, operand_real(c->in[3], (uint64_t)ch) * momentum + mean * (1 - momentum));
        if (c->out_count > 2 && c->out[2]) operand_real_put(c->out[2], (uint64_t)ch, operand_real(c->in[4], (uint64_t)ch) * momentum + variance * (1 - momentum));
    }
    return ST_OK;
}

const struct op ops_norms[] = {
    { "RMSNormalization", "", 23, 0, 2, 2, 1, 1, 0, 0, infer_rms, eval_rms, reals_scratch, NULL, NULL, rows_rms, tasks_rms },
    { "GroupNormalization", "", 18, 0, 3, 3, 1, 1, OP_LAST, 0, infer_group, eval_group, channels_norm_scratch, NULL, NULL, rows_first, tasks_group },
    { "LpNormalization", "", 1, 0, 1, 1, 1, 1, 0, 0, infer_lp, eval_lp, reals_scratch, NULL, NULL, NULL, NULL },
    { "MeanVarianceNormalization", "", 9, 0, 1, 1, 1, 1, 0, 0, infer_mvn, eval_mvn, scratch_mvn, NULL, NULL, NULL, NULL },
    { 0 }
};
