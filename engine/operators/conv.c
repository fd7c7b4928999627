/* Convolution. With a constant f32 weight and one or two spatial dimensions the node carries a packed layer (kernels/conv.h) that runs on
 * channels-last data, with three one for each place of the kernel's depth (nn/conv_slices.h); an operand in plain order is turned in scratch, so the node is right with and without the layout pass. Other f32 is gathered into
 * rows and multiplied (nn/conv_columns.h); other types are computed directly. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/tasks.h"
#include "engine/operators/nn/conv_columns.h"
#include "engine/operators/nn/conv_slices.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"
#include "engine/operators/window.h"
#include "kernels/conv.h"

struct conv_state {
    struct conv_plan *plan;               /* one of the two */
    struct slices_plan *slices;
    uint64_t turned_x, turned_y;          /* bytes at the start of scratch */
    int64_t  in_space, out_space;
};

static enum status read_conv(struct call *c, struct window *w, int64_t *groups, struct err *err)
{
    const struct operand *x = c->in[0], *weight = c->in[1];
    *groups = node_int(c->node, "group", 1);
    if (weight->rank != x->rank) return call_error(c, err, ST_BAD_INPUT, "its weight has %d dimensions, its input %d", weight->rank, x->rank);
    enum status st = window_read(w, c, weight->dims + 2, err);
    if (st) return st;
    int64_t m = weight->dims[0], in_c = weight->dims[1];
    if (*groups < 1 || *groups > WINDOW_NUMBER_MAX || in_c < 1 || m < 1 || m % *groups || x->dims[1] % *groups || x->dims[1] / *groups != in_c) {
        char a[80], b[80];
        return call_error(c, err, ST_BAD_INPUT, "weight %s with %lld groups does not fit input %s", shape_text(weight->dims, weight->rank, a, sizeof a), (long long)*groups, shape_text(x->dims, x->rank, b, sizeof b));
    }
    const struct operand *bias = c->in_count > 2 && c->node->residual != 2 ? c->in[2] : NULL;
    if (bias && (bias->dtype != weight->dtype || bias->rank != 1 || bias->dims[0] != m)) return call_error(c, err, ST_BAD_INPUT, "its bias must be [%lld] of the input's type", (long long)m);
    return ST_OK;
}

static enum status infer_conv(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *weight = c->in[1];
    struct window w;
    int64_t groups, dims[TENSOR_RANK_MAX];
    const enum dtype t = c->node->halves & HALVES_OUT ? DT_BF16 : weight->dtype;
    if (!dtype_is_real(x->dtype) || (c->node->halves & HALVES_IN ? DT_BF16 : weight->dtype) != x->dtype) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s and %s", dtype_name(x->dtype), dtype_name(weight->dtype));
    enum status st = read_conv(c, &w, &groups, err);
    if (st) return st;
    dims[0] = x->dims[0];
    dims[1] = weight->dims[0];
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    st = call_set(c, 0, t, dims, x->rank, err);
    if (st || c->node->residual < 0) return st;
    const struct operand *r = c->in[c->node->residual];
    if (r->rank != x->rank || r->dtype != t || memcmp(r->dims, dims, (size_t)x->rank * sizeof *dims)) {
        char a[80], b[80];
        return call_error(c, err, ST_BAD_INPUT, "the sum behind it adds %s to %s", shape_text(r->dims, r->rank, a, sizeof a), shape_text(dims, x->rank, b, sizeof b));
    }
    return ST_OK;
}

static void release_conv(void *state)
{
    struct conv_state *s = state;
    if (s->plan) conv_plan_close(s->plan);
    slices_plan_close(s->slices);
    free(s);
}

static enum status prepare_conv(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    struct window w;
    int64_t groups;
    if ((!c->node->conv && !c->node->slices) || y->bytes == 0) return ST_OK;
    enum status st = read_conv(c, &w, &groups, err);
    if (st) return st;
    struct conv_state *s = mem_calloc_array(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "planning a convolution");
    if (c->node->slices) st = slices_plan_open(&s->slices, c->node->slices, &w, x->dims[0], c->threads, err);
    else {
        const struct window2d d = window_2d(&w, x->dims[0], x->dims[1]);
        st = conv_plan_open(&s->plan, c->node->conv, &d, c->threads, err);
    }
    if (st) {
        free(s);
        return st;
    }
    s->in_space = dims_product(x->dims, 2, x->rank);
    s->out_space = dims_product(y->dims, 2, y->rank);
    if (!x->channels_last && x->dims[1] > 1 && s->in_space > 1) s->turned_x = (x->bytes + 63) & ~(uint64_t)63;
    if (!y->channels_last && y->dims[1] > 1 && s->out_space > 1) s->turned_y = (y->bytes + 63) & ~(uint64_t)63;
    c->state = s;
    return ST_OK;
}

static uint64_t scratch_conv(const struct call *c)
{
    const struct conv_state *s = c->state;
    struct call copy = *c;
    struct window w;
    int64_t groups;
    if (s) return s->turned_x + s->turned_y + (s->plan ? conv_plan_scratch(s->plan) : slices_plan_scratch(s->slices));
    return c->in[0]->dtype == DT_F32 && !read_conv(&copy, &w, &groups, NULL) ? columns_scratch(c, &w, false, groups) : 0;
}

struct direct { const struct call *c; const struct window *w; int64_t groups; };

/* One output element of a direct convolution. */
static double direct_sum(const struct direct *j, int64_t n, int64_t m, const int64_t *at)
{
    const struct operand *x = j->c->in[0], *weight = j->c->in[1];
    int64_t per = weight->dims[1], first = m / (weight->dims[0] / j->groups) * per, xs[TENSOR_RANK_MAX], ws[TENSOR_RANK_MAX], k[WINDOW_DIMS] = { 0 };
    double sum = 0;
    operand_strides(x, xs);
    operand_strides(weight, ws);
    for (;;) {
        int64_t xo = n * xs[0] + first * xs[1], wo = m * ws[0];
        bool inside = true;
        for (int d = 0; d < j->w->dims && inside; d++) {
            int64_t i = at[d] * j->w->stride[d] - j->w->low[d] + k[d] * j->w->dilation[d];
            inside = i >= 0 && i < j->w->in[d];
            xo += i * xs[d + 2];
            wo += k[d] * ws[d + 2];
        }
        for (int64_t ch = 0; inside && ch < per; ch++) {
            double a, b;
            real_load(&a, x->dtype, x->data, (uint64_t)(xo + ch * xs[1]), 0, 1);
            real_load(&b, weight->dtype, weight->data, (uint64_t)(wo + ch * ws[1]), 0, 1);
            sum += a * b;
        }
        int d = j->w->dims - 1;
        while (d >= 0 && ++k[d] == j->w->kernel[d]) k[d--] = 0;
        if (d < 0) return sum;
    }
}

static enum status eval_direct(struct call *c, struct err *err)
{
    struct window w;
    int64_t groups, at[WINDOW_DIMS] = { 0 }, ys[TENSOR_RANK_MAX];
    enum status st = read_conv(c, &w, &groups, err);
    struct operand *y = c->out[0];
    if (st || y->bytes == 0) return st;
    if (y->dtype == DT_F32) {
        columns_convolve(c, &w, groups);
        return ST_OK;
    }
    struct direct j = { c, &w, groups };
    operand_strides(y, ys);
    for (int64_t n = 0; n < y->dims[0]; n++)
        for (int64_t m = 0; m < y->dims[1]; m++)
            for (;;) {
                double v = direct_sum(&j, n, m, at), b;
                int64_t yo = n * ys[0] + m * ys[1];
                if (c->in_count > 2 && c->in[2]) {
                    real_load(&b, y->dtype, c->in[2]->data, (uint64_t)m, 0, 1);
                    v += b;
                }
                for (int d = 0; d < w.dims; d++) yo += at[d] * ys[d + 2];
                real_store(y->data, y->dtype, (uint64_t)yo, &v, 1);
                int d = w.dims - 1;
                while (d >= 0 && ++at[d] == w.out[d]) at[d--] = 0;
                if (d < 0) break;
            }
    return ST_OK;
}

static enum status eval_conv(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    struct conv_state *s = c->state;
    if (y->bytes == 0) return ST_OK;
    if (!s) return eval_direct(c, err);
    void *in = x->data, *out = y->data;
    char *scratch = c->scratch;
    if (s->turned_x) {
        in = scratch;
        c->k->transpose_2d(in, x->data, x->dims[0], x->dims[1], s->in_space, 4, c->threads);
    }
    if (s->turned_y) out = scratch + s->turned_x;
    const void *residual = c->node->residual >= 0 ? c->in[c->node->residual]->data : NULL;
    char *rest = scratch + s->turned_x + s->turned_y;
    enum status st = s->plan ? conv_plan_run(s->plan, out, in, residual, rest, err) : slices_plan_run(s->slices, out, in, residual, rest, err);
    if (!st && s->turned_y) c->k->transpose_2d(y->data, out, y->dims[0], s->out_space, y->dims[1], 4, c->threads);
    return st;
}

/* Channels last on both sides; with a weight that is no constant, or in plain order, the CPU computes it. */
static void tasks_conv(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0], *bias = c->in_count > 2 && c->node->residual != 2 ? c->in[2] : NULL, *residual = c->node->residual >= 0 ? c->in[c->node->residual] : NULL;
    struct window w;
    int64_t groups;
    struct gpu_task *t = task_add(l, GPU_CONV);
    if (read_conv(c, &w, &groups, NULL)) {
        task_refuse(l);
        return;
    }
    const bool flat = dims_product(w.in, 0, w.dims) == 1 && dims_product(w.out, 0, w.dims) == 1;        /* one pixel lies the same in either order */
    if (!flat && ((!x->channels_last && x->dims[1] > 1) || (!y->channels_last && y->dims[1] > 1) || (residual && !residual->channels_last && y->dims[1] > 1))) task_refuse(l);
    t->u.conv = (struct gpu_conv){ .n = x->dims[0], .in_c = x->dims[1], .out_c = y->dims[1], .groups = groups, .has_bias = bias != NULL, .has_residual = residual != NULL, .act = c->node->act, .w = task_window(l, &w) };
    task_value(l, t, x);
    task_weight(l, t, c->node, 1, c->in[1], c->node->weight);
    task_value(l, t, y);
    task_value(l, t, bias);
    task_value(l, t, residual);
}

static bool rows_conv(const struct call *c)
{
    const struct operand *y = c->out[0];
    if (!c->in[0]->batched || y->dims[0] != c->in[0]->dims[0]) return false;
    for (int i = 1; i < c->in_count; i++) {
        if (!c->in[i]) continue;
        if (i == c->node->residual) {
            if (!c->in[i]->batched) return false;
        } else if (c->in[i]->batched || c->in[i]->tainted) return false;
    }
    return true;
}

const struct op ops_conv[] = {
    { "Conv", "", 1, 0, 2, 4, 1, 1, OP_WANTS_LAST | OP_LAST, 0, infer_conv, eval_conv, scratch_conv, prepare_conv, release_conv, rows_conv, tasks_conv },
    { 0 }
};
