/* Pooling. f32 in one or two dimensions, channels last, is a kernel; the rest is computed directly. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"
#include "engine/operators/window.h"

enum pool { P_MAX, P_AVERAGE, P_GLOBAL_AVERAGE, P_GLOBAL_MAX, P_LP, P_GLOBAL_LP };

static enum status read_pool(struct window *w, const struct call *c, struct err *err)
{
    int64_t whole[WINDOW_DIMS];
    int code = c->node->op->code;
    if (code != P_GLOBAL_AVERAGE && code != P_GLOBAL_MAX && code != P_GLOBAL_LP) {
        int n;
        if (!node_ints(c->node, "kernel_shape", &n)) return call_error(c, err, ST_BAD_INPUT, "kernel_shape is missing");
        return window_read(w, c, NULL, err);
    }
    const struct operand *x = c->in[0];
    *w = (struct window){ .dims = x->rank - 2 };
    if (x->rank < 3) return call_error(c, err, ST_BAD_INPUT, "its input has %d dimensions; at least 3 are needed", x->rank);
    for (int d = 0; d < w->dims; d++) {
        whole[d] = w->in[d] = x->dims[d + 2];
        w->kernel[d] = whole[d];
        w->stride[d] = w->dilation[d] = w->out[d] = 1;
        if (whole[d] < 1 || whole[d] > INT32_MAX) return call_error(c, err, ST_BAD_INPUT, "a spatial dimension is %lld", (long long)whole[d]);
    }
    return ST_OK;
}

static enum status infer_pool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct window w;
    int64_t dims[TENSOR_RANK_MAX];
    bool max = c->node->op->code == P_MAX || c->node->op->code == P_GLOBAL_MAX;
    if (!dtype_is_real(x->dtype) && !(max && dtype_is_integer(x->dtype))) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(x->dtype));
    enum status st = read_pool(&w, c, err);
    if (st) return st;
    dims[0] = x->dims[0];
    dims[1] = x->dims[1];
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    st = call_set(c, 0, x->dtype, dims, x->rank, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, DT_I64, dims, x->rank, err);
}

struct cell { double sum, best; int64_t whole, at, inside, padded; };

/* Visits one window of the plane that starts at element `base`. */
static void visit(struct cell *r, const struct call *c, const struct window *w, int64_t base, const int64_t *strides, const int64_t *out, double p)
{
    const struct operand *x = c->in[0];
    int64_t k[WINDOW_DIMS] = { 0 };
    *r = (struct cell){ .best = -(double)INFINITY, .at = -1 };
    for (;;) {
        int64_t at = base;
        bool inside = true, padded = true;
        for (int d = 0; d < w->dims; d++) {
            int64_t i = out[d] * w->stride[d] - w->low[d] + k[d] * w->dilation[d];
            inside = inside && i >= 0 && i < w->in[d];
            padded = padded && i < w->in[d] + w->high[d];
            at += i * strides[d + 2];
        }
        r->padded += padded;
        if (inside) {
            double v;
            int64_t q = 0;
            r->inside++;
            if (dtype_is_real(x->dtype)) real_load(&v, x->dtype, x->data, (uint64_t)at, 0, 1);
            else { int_load(&q, x->dtype, x->data, (uint64_t)at, 0, 1); v = (double)q; }
            if (v > r->best || r->at < 0) { r->best = v; r->whole = q; r->at = at; }
            r->sum += p > 0 ? pow(fabs(v), p) : v;
        }
        int d = w->dims - 1;
        while (d >= 0 && ++k[d] == w->kernel[d]) k[d--] = 0;
        if (d < 0) return;
    }
}

/* storage_order 1 numbers the elements of a plane column by column. */
static int64_t column_index(int64_t at, const struct window *w)
{
    int64_t plane = 1, coordinate[WINDOW_DIMS], r = 0, step = 1;
    for (int d = 0; d < w->dims; d++) plane *= w->in[d];
    int64_t inside = at % plane;
    for (int d = w->dims - 1; d >= 0; d--) { coordinate[d] = inside % w->in[d]; inside /= w->in[d]; }
    for (int d = 0; d < w->dims; d++) { r += coordinate[d] * step; step *= w->in[d]; }
    return at - at % plane + r;
}

static void store_cell(const struct call *c, const struct window *w, const struct cell *r, uint64_t yo, bool with_padding, double p)
{
    struct operand *y = c->out[0];
    double v = 0;
    switch (c->node->op->code) {
    case P_MAX: case P_GLOBAL_MAX:
        v = r->best;
        if (!dtype_is_real(y->dtype)) int_store(y->data, y->dtype, yo, &r->whole, 1);
        else real_store(y->data, y->dtype, yo, &v, 1);
        if (c->out_count > 1 && c->out[1]) ((int64_t *)c->out[1]->data)[yo] = node_int(c->node, "storage_order", 0) ? column_index(r->at, w) : r->at;
        return;
    case P_LP: case P_GLOBAL_LP: v = pow(r->sum, 1 / p); break;
    default: v = r->sum / (double)(with_padding ? r->padded : r->inside ? r->inside : 1); break;
    }
    real_store(y->data, y->dtype, yo, &v, 1);
}

static enum status eval_pool_direct(struct call *c, const struct window *w)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    int64_t xs[TENSOR_RANK_MAX], ys[TENSOR_RANK_MAX], out[WINDOW_DIMS] = { 0 };
    int code = c->node->op->code;
    double p = code == P_LP || code == P_GLOBAL_LP ? (double)node_int(c->node, "p", 2) : 0;
    bool with_padding = node_int(c->node, "count_include_pad", 0) != 0;
    if (y->bytes == 0) return ST_OK;
    operand_strides(x, xs);
    operand_strides(y, ys);
    for (int64_t n = 0; n < y->dims[0]; n++)
        for (int64_t ch = 0; ch < y->dims[1]; ch++)
            for (;;) {
                struct cell r;
                int64_t yo = n * ys[0] + ch * ys[1];
                for (int d = 0; d < w->dims; d++) yo += out[d] * ys[d + 2];
                visit(&r, c, w, n * xs[0] + ch * xs[1], xs, out, p);
                store_cell(c, w, &r, (uint64_t)yo, with_padding, p);
                int d = w->dims - 1;
                while (d >= 0 && ++out[d] == w->out[d]) out[d--] = 0;
                if (d < 0) break;
            }
    return ST_OK;
}

/* Three dimensions and more: what lies behind the last axis that is really pooled is one run. */
static void pool_deep(const struct call *c, const struct window *w, enum pool_kind kind)
{
    const struct operand *x = c->in[0];
    struct pool_any p = { .outer = x->channels_last ? x->dims[0] : x->dims[0] * x->dims[1], .inner = x->channels_last ? x->dims[1] : 1, .dims = w->dims };
    for (int d = 0; d < w->dims; d++) {
        p.in[d] = w->in[d], p.out[d] = w->out[d], p.kernel[d] = w->kernel[d], p.stride[d] = w->stride[d];
        p.dilation[d] = w->dilation[d], p.low[d] = w->low[d], p.high[d] = w->high[d];
    }
    for (int d; p.dims > 1 && (d = p.dims - 1, p.kernel[d] == 1 && p.stride[d] == 1 && !p.low[d] && !p.high[d] && p.in[d] == p.out[d]); p.dims--) p.inner *= p.in[d];
    c->k->pool_any_f32(c->out[0]->data, x->data, &p, kind, c->threads);
}

static enum status eval_pool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    struct window w;
    enum status st = read_pool(&w, c, err);
    if (st || y->bytes == 0) return st;
    int code = c->node->op->code;
    bool indices = c->out_count > 1 && c->out[1];
    if ((x->dtype != DT_F32 && (x->dtype != DT_BF16 || w.dims > 2)) || indices || w.dims > POOL_DIMS_MAX || code == P_LP || code == P_GLOBAL_LP) return eval_pool_direct(c, &w);
    if (w.dims > 2) {
        pool_deep(c, &w, code == P_MAX || code == P_GLOBAL_MAX ? POOL_MAX : node_int(c->node, "count_include_pad", 0) ? POOL_AVERAGE_PADDED : POOL_AVERAGE);
        return ST_OK;
    }
    struct window2d d = window_2d(&w, x->dims[0], x->dims[1]);
    bool last = x->channels_last && y->channels_last;
    if (!last) {                                   /* planes of one channel lie alike in both orders */
        d.n *= d.c;
        d.c = 1;
    }
    if (x->dtype == DT_BF16) {
        c->k->pool2d_bf16(y->data, x->data, &d, code == P_MAX || code == P_GLOBAL_MAX ? POOL_MAX : node_int(c->node, "count_include_pad", 0) ? POOL_AVERAGE_PADDED : POOL_AVERAGE, c->threads);
        return ST_OK;
    }
    if (code == P_GLOBAL_AVERAGE) c->k->mean_rows_f32(y->data, x->data, d.n, d.h * d.w, d.c, c->threads);
    else if (code == P_MAX || code == P_GLOBAL_MAX) c->k->pool2d_f32(y->data, x->data, &d, POOL_MAX, c->threads);
    else c->k->pool2d_f32(y->data, x->data, &d, node_int(c->node, "count_include_pad", 0) ? POOL_AVERAGE_PADDED : POOL_AVERAGE, c->threads);
    return ST_OK;
}

static void tasks_pool(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    const int code = c->node->op->code;
    struct window w;
    struct gpu_task *t = task_add(l, GPU_POOL);
    task_value(l, t, x);
    task_value(l, t, c->out[0]);
    if (read_pool(&w, c, NULL) || code == P_LP || code == P_GLOBAL_LP || !dtype_is_real(x->dtype) || (c->out_count > 1 && c->out[1])) {
        task_refuse(l);
        return;
    }
    const bool max = code == P_MAX || code == P_GLOBAL_MAX, all = code == P_GLOBAL_AVERAGE || code == P_GLOBAL_MAX;
    if (all) {                                 /* over all space: a reduction by rows */
        const int64_t space = dims_product(x->dims, 2, x->rank), channels = x->dims[1];
        t->kind = GPU_REDUCE;
        t->u.reduce = (struct gpu_reduce){ .reduction = max ? GPU_RED_MAX : GPU_RED_MEAN, .count = x->dims[0] * channels, .length = space, .kept_rank = 2, .gone_rank = 1, .kept = { x->dims[0], channels },
                                           .kept_steps = { channels * space, x->channels_last ? 1 : space }, .gone = { space }, .gone_steps = { x->channels_last ? channels : 1 } };
        return;
    }
    t->u.pool = (struct gpu_pool){ .pooling = max ? GPU_POOL_MAX : node_int(c->node, "count_include_pad", 0) ? GPU_POOL_AVERAGE_PADDED : GPU_POOL_AVERAGE, .last = x->channels_last, .n = x->dims[0], .channels = x->dims[1], .w = task_window(l, &w) };
}

#define POOL(name, code, since, outs) { name, "", since, 0, 1, 1, 1, outs, OP_LAST, code, infer_pool, eval_pool, NULL, NULL, NULL, rows_first, tasks_pool }
const struct op ops_pool[] = {
    POOL("MaxPool", P_MAX, 1, 2), POOL("AveragePool", P_AVERAGE, 1, 1), POOL("GlobalAveragePool", P_GLOBAL_AVERAGE, 1, 1), POOL("GlobalMaxPool", P_GLOBAL_MAX, 1, 1),
    POOL("LpPool", P_LP, 2, 1), POOL("GlobalLpPool", P_GLOBAL_LP, 2, 1),
    { 0 }
};

/* ---- MeanPixels: GlobalAveragePool of a picture that lies in memory as bfloat16 (engine/graph/store_halves.c), in float ---- */
static enum status infer_mean_pixels(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t dims[TENSOR_RANK_MAX] = { x->dims[0], x->dims[1] };
    if (x->dtype != DT_BF16 || !x->channels_last) return call_error(c, err, ST_INTERNAL, "it takes pictures of bfloat16, channels last");
    for (int d = 2; d < x->rank; d++) dims[d] = 1;
    return call_set(c, 0, DT_F32, dims, x->rank, err);
}

static enum status eval_mean_pixels(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    (void)err;
    if (x->bytes) c->k->mean_rows_bf16(c->out[0]->data, x->data, x->dims[0], dims_product(x->dims, 2, x->rank), x->dims[1], c->threads);
    return ST_OK;
}
const struct op op_mean_pixels = { "MeanPixels", "inferd", 1, 0, 1, 1, 1, 1, 0, 0, infer_mean_pixels, eval_mean_pixels, NULL, NULL, NULL, rows_first, NULL };

/* ---- ScalePixels: a picture of bfloat16 times a number for each of its channels ---- */
static enum status infer_scale_pixels(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *s = c->in[1];
    if (x->dtype != DT_BF16 || !x->channels_last || s->dtype != DT_F32 || s->rank != x->rank || s->dims[0] != x->dims[0] || s->dims[1] != x->dims[1] || dims_product(s->dims, 2, s->rank) != 1)
        return call_error(c, err, ST_INTERNAL, "it takes a picture of bfloat16, channels last, and a float for each channel");
    return infer_same(c, err);
}

static enum status eval_scale_pixels(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    (void)err;
    if (x->bytes) c->k->scale_channels_bf16(c->out[0]->data, x->data, c->in[1]->data, x->dims[0], dims_product(x->dims, 2, x->rank), x->dims[1], c->threads);
    return ST_OK;
}
const struct op op_scale_pixels = { "ScalePixels", "inferd", 1, 0, 2, 2, 1, 1, OP_INPLACE, 0, infer_scale_pixels, eval_scale_pixels, NULL, NULL, NULL, rows_elementwise, NULL };
