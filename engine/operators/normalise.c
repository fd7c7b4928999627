/* Normalisations and softmax. f32 rows go to kernels; other types and orders are computed in double. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/nn/norms.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

static double number_at(const struct operand *o, int64_t i)
{
    double v;
    real_load(&v, o->dtype, o->data, (uint64_t)i, 0, 1);
    return v;
}

static enum status need_channels(const struct call *c, int i, int64_t n, struct err *err)
{
    const struct operand *o = i < c->in_count ? c->in[i] : NULL;
    if (!o || !dtype_is_real(o->dtype) || operand_count(o) != (uint64_t)n) return call_error(c, err, ST_BAD_INPUT, "input %d must hold %lld numbers", i, (long long)n);
    return ST_OK;
}

/* ---- y = act(x * scale[c] + bias[c]): what BatchNormalization becomes; scale and bias are on the node ---- */
static enum status eval_scale_shift(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t channels = x->rank > 1 ? x->dims[1] : 1, space = dims_product(x->dims, 2, x->rank), n = x->rank ? x->dims[0] : 1;
    const float *scale = c->node->weight, *bias = c->node->bias;
    (void)err;
    if (x->channels_last || space == 1) {
        c->k->scale_shift_f32(c->out[0]->data, x->data, scale, bias, n * space, channels, c->node->act, c->threads);
        return ST_OK;
    }
    for (int64_t i = 0; i < n * channels; i++) {
        const float *p = (const float *)x->data + i * space;
        float *q = (float *)c->out[0]->data + i * space, s = scale ? scale[i % channels] : 1, b = bias ? bias[i % channels] : 0;
        for (int64_t k = 0; k < space; k++) q[k] = p[k] * s + b;
    }
    if (c->node->act.kind != ACT_NONE) c->k->activate_f32(c->out[0]->data, c->out[0]->data, n * channels * space, c->node->act, c->threads);
    return ST_OK;
}

/* x * scale + shift over the channels; what is missing of them is left out. */
static void tasks_scale_shift(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    const struct node *n = c->node;
    const int64_t channels = x->rank > 1 ? x->dims[1] : 1, space = dims_product(x->dims, 2, x->rank), rows = x->rank ? x->dims[0] : 1;
    const bool last = x->channels_last || space == 1;
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    struct gpu_pointwise *p = &t->u.pointwise;
    *p = (struct gpu_pointwise){ .function = n->weight && n->bias ? GPU_SCALE_SHIFT : n->weight ? GPU_MUL : GPU_ADD, .act = n->act, .inputs = 1 + (n->weight != NULL) + (n->bias != NULL), .rank = 3, .count = rows * channels * space,
                                 .dims = { rows, last ? space : channels, last ? channels : space }, .steps = { { channels * space, last ? channels : space, 1 } } };
    for (int k = 1; k < p->inputs; k++) p->steps[k][last ? 2 : 1] = 1;
    task_value(l, t, x);
    if (n->weight) task_floats(l, t, n, 1, n->weight, (uint64_t)channels, GPU_F32);
    if (n->bias) task_floats(l, t, n, 2, n->bias, (uint64_t)channels, GPU_F32);
    task_value(l, t, y);
    if (p->inputs == 1) task_refuse(l);
}

const struct op op_scale_shift = { "ScaleShift", "inferd", 1, 0, 1, 1, 1, 1, OP_LAST | OP_INPLACE | OP_UNARY, 0, infer_same, eval_scale_shift, NULL, NULL, NULL, rows_first, tasks_scale_shift };

/* ---- BatchNormalization(x, scale, bias, mean, variance) at inference ---- */
static enum status infer_batch_norm(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t channels = x->rank > 1 ? x->dims[1] : 1;
    enum status st = call_need_real(c, err);
    for (int i = 1; i < 5 && !st; i++) st = need_channels(c, i, channels, err);
    if (st) return st;
    if (c->node->opset < 9 && !node_int(c->node, "spatial", 1)) return call_error(c, err, ST_UNSUPPORTED, "spatial=0 is not computed");
    for (int i = 1; i < c->out_count && !st; i++) st = call_set(c, i, c->in[1]->dtype, &channels, 1, err);
    return st ? st : infer_same(c, err);
}

static enum status eval_batch_norm(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t channels = x->rank > 1 ? x->dims[1] : 1, space = dims_product(x->dims, 2, x->rank), n = x->rank ? x->dims[0] : 1;
    double epsilon = (double)node_float(c->node, "epsilon", 1e-5f), v[BLOCK];
    if (node_int(c->node, "training_mode", 0)) return batch_norm_train(c, err);
    for (int64_t i = 0; i < n * channels; i++) {
        int64_t ch = i % channels;
        double s = number_at(c->in[1], ch) / sqrt(number_at(c->in[4], ch) + epsilon), b = number_at(c->in[2], ch) - number_at(c->in[3], ch) * s;
        for (int64_t k = 0; k < space; k += BLOCK) {
            int m = space - k < BLOCK ? (int)(space - k) : BLOCK;
            real_load(v, x->dtype, x->data, (uint64_t)(i * space + k), 1, m);
            for (int j = 0; j < m; j++) v[j] = v[j] * s + b;
            real_store(c->out[0]->data, x->dtype, (uint64_t)(i * space + k), v, m);
        }
    }
    for (int i = 1; i < c->out_count; i++)
        if (c->out[i]) memset(c->out[i]->data, 0, c->out[i]->bytes);
    return ST_OK;
}

/* ---- rows normalised by their own mean and deviation ---- */
struct rows { int64_t count, length, per; double epsilon; bool affine_by_row; };   /* affine_by_row: scale[(row / per) % channels]; else scale[i] */

static void normalise_row(const struct call *c, const struct rows *r, int64_t row, int64_t channels)
{
    const struct operand *x = c->in[0], *scale = c->in_count > 1 ? c->in[1] : NULL, *bias = c->in_count > 2 ? c->in[2] : NULL;
    double sum = 0, squares = 0;
    int64_t at = row * r->length;
    for (int64_t i = 0; i < r->length; i++) sum += number_at(x, at + i);
    double mean = sum / (double)r->length;
    for (int64_t i = 0; i < r->length; i++) {
        double d = number_at(x, at + i) - mean;
        squares += d * d;
    }
    double inverse = 1 / sqrt(squares / (double)r->length + r->epsilon);
    for (int64_t i = 0; i < r->length; i++) {
        int64_t k = r->affine_by_row ? row % channels : i;
        double v = (number_at(x, at + i) - mean) * inverse * (scale ? number_at(scale, k) : 1) + (bias ? number_at(bias, k) : 0);
        real_store(c->out[0]->data, x->dtype, (uint64_t)(at + i), &v, 1);
    }
    if (c->out_count > 1 && c->out[1]) real_store(c->out[1]->data, c->out[1]->dtype, (uint64_t)row, &mean, 1);
    if (c->out_count > 2 && c->out[2]) real_store(c->out[2]->data, c->out[2]->dtype, (uint64_t)row, &inverse, 1);
}

static enum status infer_instance_norm(struct call *c, struct err *err)
{
    enum status st = call_need_real(c, err);
    if (!st && c->in[0]->rank < 3) st = call_error(c, err, ST_BAD_INPUT, "its input has %d dimensions; at least 3 are needed", c->in[0]->rank);
    for (int i = 1; i < 3 && !st; i++) st = need_channels(c, i, c->in[0]->dims[1], err);
    return st ? st : infer_same(c, err);
}

static enum status eval_instance_norm(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct rows r = { x->dims[0] * x->dims[1], dims_product(x->dims, 2, x->rank), 1, (double)node_float(c->node, "epsilon", 1e-5f), true };
    (void)err;
    if (x->dtype == DT_F32 && c->in[1]->dtype == DT_F32 && c->in[2]->dtype == DT_F32) {
        if (x->bytes) channels_norm_f32(c, x->dims[1], c->in[1]->data, c->in[2]->data, (float)r.epsilon);
        return ST_OK;
    }
    for (int64_t i = 0; i < r.count && r.length; i++) normalise_row(c, &r, i, x->dims[1]);
    return ST_OK;
}

/* By groups of channels; scale and bias are inputs 1 and 2, one number for each channel. */
void channels_norm_tasks(struct call *c, struct task_list *l, int64_t groups, float epsilon)
{
    const struct operand *x = c->in[0];
    struct gpu_task *t = task_add(l, GPU_NORM_CHANNELS);
    t->u.norm_channels = (struct gpu_norm_channels){ .batch = x->dims[0], .channels = x->dims[1], .groups = groups, .space = dims_product(x->dims, 2, x->rank), .epsilon = epsilon, .last = x->channels_last, .act = c->node->act };
    task_value(l, t, x);
    task_value(l, t, c->out[0]);
    task_value(l, t, c->in[1]);
    task_value(l, t, c->in[2]);
}

static void tasks_instance_norm(struct call *c, struct task_list *l) { channels_norm_tasks(c, l, c->in[0]->dims[1], node_float(c->node, "epsilon", 1e-5f)); }

static void tasks_layer_norm(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1);
    struct gpu_task *t = task_add(l, GPU_NORM_ROWS);
    if (!axis_fix(&axis, x->rank) || (c->out_count > 1 && c->out[1]) || (c->out_count > 2 && c->out[2])) task_refuse(l);
    else t->u.norm_rows = (struct gpu_norm_rows){ .rows = dims_product(x->dims, 0, (int)axis), .n = dims_product(x->dims, (int)axis, x->rank), .epsilon = node_float(c->node, "epsilon", 1e-5f) };
    task_value(l, t, x);
    task_value(l, t, c->out[0]);
    task_value(l, t, c->in[1]);
    task_value(l, t, c->in_count > 2 ? c->in[2] : NULL);
}

static enum status infer_layer_norm(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1), dims[TENSOR_RANK_MAX];
    enum status st = call_need_real(c, err);
    if (st) return st;
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    int64_t length = dims_product(x->dims, (int)axis, x->rank);
    st = need_channels(c, 1, length, err);
    if (!st && c->in_count > 2 && c->in[2]) st = need_channels(c, 2, length, err);
    for (int d = 0; d < x->rank; d++) dims[d] = d < axis ? x->dims[d] : 1;
    for (int i = 1; i < c->out_count && !st; i++) st = call_set(c, i, DT_F32, dims, x->rank, err);
    if (st) return st;
    return c->node->halves & HALVES_OUT ? call_set(c, 0, DT_BF16, x->dims, x->rank, err) : infer_same(c, err);
}

/* Some rows at a time as floats, then rounded: they stay in the first-level cache in between. */
enum { NORM_ROWS = 4 };
struct norm_halves { const struct call *c; const struct rows *r; };

static uint64_t norm_lane(int64_t length) { return ((uint64_t)NORM_ROWS * (uint64_t)length * sizeof(float) + 63) & ~(uint64_t)63; }

static void norm_halves_part(void *ctx, int part, int parts)
{
    const struct norm_halves *j = ctx;
    const struct call *c = j->c;
    const struct rows *r = j->r;
    float *rows = (float *)(void *)((char *)c->scratch + norm_lane(r->length) * (uint64_t)part);
    for (int64_t at = r->count * part / parts, end = r->count * (part + 1) / parts; at < end; at += NORM_ROWS) {
        const int64_t n = end - at < NORM_ROWS ? end - at : NORM_ROWS;
        c->k->layer_norm_f32(rows, (const float *)c->in[0]->data + at * r->length, c->in[1]->data, c->in_count > 2 && c->in[2] ? c->in[2]->data : NULL, n, r->length, (float)r->epsilon, 1);
        c->k->round_bf16((uint16_t *)c->out[0]->data + at * r->length, rows, n * r->length, 1);
    }
}

static uint64_t scratch_layer_norm(const struct call *c)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1);
    if (!(c->node->halves & HALVES_OUT) || !axis_fix(&axis, x->rank)) return 0;
    return norm_lane(dims_product(x->dims, (int)axis, x->rank)) * (uint64_t)(c->threads > 0 ? c->threads : 1);
}

static enum status eval_layer_norm(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *bias = c->in_count > 2 ? c->in[2] : NULL;
    int64_t axis = node_int(c->node, "axis", -1);
    (void)err;
    axis_fix(&axis, x->rank);
    struct rows r = { dims_product(x->dims, 0, (int)axis), dims_product(x->dims, (int)axis, x->rank), 1, (double)node_float(c->node, "epsilon", 1e-5f), false };
    if (c->node->halves & HALVES_OUT) {
        struct norm_halves j = { c, &r };
        if (c->out[0]->bytes) parallel_for(c->threads, c->threads, norm_halves_part, &j);
        return ST_OK;
    }
    bool extra = (c->out_count > 1 && c->out[1]) || (c->out_count > 2 && c->out[2]);
    if (x->dtype == DT_F32 && c->in[1]->dtype == DT_F32 && (!bias || bias->dtype == DT_F32) && !extra && r.length) {
        c->k->layer_norm_f32(c->out[0]->data, x->data, c->in[1]->data, bias ? bias->data : NULL, r.count, r.length, (float)r.epsilon, c->threads);
        return ST_OK;
    }
    for (int64_t i = 0; i < r.count && r.length; i++) normalise_row(c, &r, i, 1);
    return ST_OK;
}

static bool rows_layer_norm(const struct call *c)
{
    int64_t axis = node_int(c->node, "axis", -1);
    return axis_fix(&axis, c->in[0]->rank) && axis != 0 && c->in[0]->batched && !call_any_tainted(c, 1);
}

/* ---- LRN across channels ---- */
static enum status infer_lrn(struct call *c, struct err *err)
{
    int64_t size = node_int(c->node, "size", 0);
    enum status st = call_need_real(c, err);
    if (st) return st;
    if (c->in[0]->rank < 2 || size < 1 || size > INT32_MAX) return call_error(c, err, ST_BAD_INPUT, "it needs at least 2 dimensions and a positive size");
    return infer_same(c, err);
}

static enum status eval_lrn(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int size = (int)node_int(c->node, "size", 1);
    float alpha = node_float(c->node, "alpha", 1e-4f), beta = node_float(c->node, "beta", 0.75f), bias = node_float(c->node, "bias", 1);
    int64_t channels = x->dims[1], space = dims_product(x->dims, 2, x->rank);
    (void)err;
    if (x->dtype == DT_F32 && (x->channels_last || space == 1)) {
        c->k->lrn_f32(c->out[0]->data, x->data, x->dims[0] * space, channels, size, alpha, beta, bias, c->threads);
        return ST_OK;
    }
    int64_t before = (size - 1) / 2, after = size - 1 - before;
    for (int64_t n = 0; n < x->dims[0]; n++)
        for (int64_t ch = 0; ch < channels; ch++)
            for (int64_t k = 0; k < space; k++) {
                double sum = 0;
                int64_t low = ch > before ? ch - before : 0, high = channels - 1 - ch < after ? channels - 1 : ch + after;
                for (int64_t j = low; j <= high; j++) {
                    double v = number_at(x, (n * channels + j) * space + k);
                    sum += v * v;
                }
                int64_t at = (n * channels + ch) * space + k;
                double v = number_at(x, at) / pow((double)bias + (double)alpha / size * sum, (double)beta);
                real_store(c->out[0]->data, x->dtype, (uint64_t)at, &v, 1);
            }
    return ST_OK;
}

/* ---- Softmax, LogSoftmax, Hardmax: before opset 13 everything from the axis on is one row ---- */
enum softmax { S_SOFTMAX, S_LOG, S_HARD };

static bool softmax_axis(const struct call *c, int64_t *axis)
{
    *axis = node_int(c->node, "axis", c->node->opset < 13 ? 1 : -1);
    if (c->node->opset < 13 && *axis == c->in[0]->rank) return true;
    return axis_fix(axis, c->in[0]->rank);
}

static enum status infer_softmax(struct call *c, struct err *err)
{
    int64_t axis;
    enum status st = call_need_real(c, err);
    if (!st && !softmax_axis(c, &axis) && c->in[0]->rank) st = call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, c->in[0]->rank);
    return st ? st : infer_same(c, err);
}

static void softmax_row(const struct call *c, int64_t at, int64_t length, int64_t stride)
{
    const struct operand *x = c->in[0];
    double best = -(double)INFINITY, sum = 0;
    int64_t where = 0;
    for (int64_t i = 0; i < length; i++) {
        double v = number_at(x, at + i * stride);
        if (v > best) { best = v; where = i; }
    }
    for (int64_t i = 0; i < length; i++) sum += exp(number_at(x, at + i * stride) - best);
    for (int64_t i = 0; i < length; i++) {
        double v = number_at(x, at + i * stride) - best;
        v = c->node->op->code == S_HARD ? i == where : c->node->op->code == S_LOG ? v - log(sum) : exp(v) / sum;
        real_store(c->out[0]->data, x->dtype, (uint64_t)(at + i * stride), &v, 1);
    }
}

static uint64_t scratch_softmax(const struct call *c)
{
    int64_t axis;
    const struct operand *x = c->in[0];
    if (x->dtype != DT_F32 || c->node->op->code != S_SOFTMAX || c->node->opset < 13 || x->channels_last || x->rank == 0 || !softmax_axis(c, &axis) || axis == x->rank - 1) return 0;
    return 2 * x->bytes;
}

/* x as [outer, length, inner], of which the middle is the axis. */
static void softmax_shape(const struct call *c, int64_t *outer, int64_t *length, int64_t *inner)
{
    const struct operand *x = c->in[0];
    int64_t axis;
    if (x->rank == 0 || !softmax_axis(c, &axis)) axis = 0;
    const bool tail = c->node->opset < 13 || x->rank == 0;
    *outer = dims_product(x->dims, 0, (int)axis);
    *length = dims_product(x->dims, (int)axis, tail ? x->rank : (int)axis + 1);
    *inner = tail ? 1 : dims_product(x->dims, (int)axis + 1, x->rank);
    if (x->channels_last) {                        /* the layout pass lets axis 1 through only */
        *outer *= *inner;
        *inner = 1;
    }
}

static enum status eval_softmax(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t outer, length, inner;
    (void)err;
    if (x->bytes == 0) return ST_OK;
    softmax_shape(c, &outer, &length, &inner);
    if (x->dtype == DT_F32 && inner == 1 && c->node->op->code == S_SOFTMAX) {
        c->k->softmax_f32(c->out[0]->data, x->data, outer, length, c->threads);
        return ST_OK;
    }
    if (x->dtype == DT_F32 && c->node->op->code == S_SOFTMAX) {      /* turned, so that the axis is a row */
        float *turned = c->scratch, *made = turned + operand_count(x);
        c->k->transpose_2d(turned, x->data, outer, length, inner, 4, c->threads);
        c->k->softmax_f32(made, turned, outer * inner, length, c->threads);
        c->k->transpose_2d(c->out[0]->data, made, outer, inner, length, 4, c->threads);
        return ST_OK;
    }
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) softmax_row(c, o * length * inner + i, length, inner);
    return ST_OK;
}

static void tasks_softmax(struct call *c, struct task_list *l)
{
    struct gpu_task *t = task_add(l, GPU_SOFTMAX);
    struct gpu_softmax *s = &t->u.softmax;
    task_value(l, t, c->in[0]);
    task_value(l, t, c->out[0]);
    if (c->node->op->code == S_HARD || c->in[0]->rank == 0) task_refuse(l);
    softmax_shape(c, &s->outer, &s->n, &s->inner);
    s->log = c->node->op->code == S_LOG;
}

static bool rows_softmax(const struct call *c)
{
    int64_t axis;
    return c->in[0]->batched && softmax_axis(c, &axis) && axis != 0;
}

#define SOFTMAX(name, code) { name, "", 1, 0, 1, 1, 1, 1, 0, code, infer_softmax, eval_softmax, scratch_softmax, NULL, NULL, rows_softmax, tasks_softmax }
static bool rows_batch_norm(const struct call *c) { return !node_int(c->node, "training_mode", 0) && rows_first(c); }

const struct op ops_normalise[] = {
    { "BatchNormalization", "", 1, 0, 5, 5, 1, 5, 0, 0, infer_batch_norm, eval_batch_norm, NULL, NULL, NULL, rows_batch_norm, NULL },
    { "InstanceNormalization", "", 1, 0, 3, 3, 1, 1, OP_LAST, 0, infer_instance_norm, eval_instance_norm, channels_norm_scratch, NULL, NULL, rows_first, tasks_instance_norm },
    { "LayerNormalization", "", 17, 0, 2, 3, 1, 3, 0, 0, infer_layer_norm, eval_layer_norm, scratch_layer_norm, NULL, NULL, rows_layer_norm, tasks_layer_norm },
    { "LRN", "", 1, 0, 1, 1, 1, 1, OP_LAST, 0, infer_lrn, eval_lrn, NULL, NULL, NULL, rows_first, NULL },
    SOFTMAX("Softmax", S_SOFTMAX), SOFTMAX("LogSoftmax", S_LOG), SOFTMAX("Hardmax", S_HARD),
    { 0 }
};
