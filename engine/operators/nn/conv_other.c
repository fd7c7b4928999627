/* ConvTranspose, DeformConv, Col2Im and MaxUnpool: convolutions and poolings the other way round. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/nn/conv_columns.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"
#include "engine/operators/window.h"

static int64_t listed(const struct call *c, const char *name, int k, int64_t otherwise)
{
    int n;
    const int64_t *a = node_ints(c->node, name, &n);
    return k < n ? a[k] : otherwise;
}

static bool is_small(int64_t v, int64_t low) { return v >= low && v <= WINDOW_NUMBER_MAX; }

/* strides, dilations and pads of `dims` spatial dimensions as they are written; the rest of the window is the caller's. */
static enum status read_steps(const struct call *c, struct window *w, int dims, struct err *err)
{
    *w = (struct window){ .dims = dims };
    if (dims < 1 || dims > WINDOW_DIMS) return call_error(c, err, ST_BAD_INPUT, "%d spatial dimensions; 1 to %d are taken", dims, WINDOW_DIMS);
    for (int d = 0; d < dims; d++) {
        w->stride[d] = listed(c, "strides", d, 1);
        w->dilation[d] = listed(c, "dilations", d, 1);
        w->low[d] = listed(c, "pads", d, 0);
        w->high[d] = listed(c, "pads", d + dims, 0);
        if (!is_small(w->stride[d], 1) || !is_small(w->dilation[d], 1) || !is_small(w->low[d], 0) || !is_small(w->high[d], 0)) return call_error(c, err, ST_BAD_INPUT, "its strides, dilations or pads are out of range");
    }
    return ST_OK;
}

/* ---- ConvTranspose(x [n, c, ...], w [c, m / groups, ...], bias) ---- */
static enum status read_transposed(const struct call *c, struct window *w, int64_t *groups, struct err *err)
{
    const struct operand *x = c->in[0], *k = c->in[1], *bias = c->in_count > 2 ? c->in[2] : NULL;
    *groups = node_int(c->node, "group", 1);
    enum status st = read_steps(c, w, x->rank - 2, err);
    if (st) return st;
    bool fits = dtype_is_real(x->dtype) && k->dtype == x->dtype && k->rank == x->rank && k->dims[0] == x->dims[1] && *groups >= 1 && *groups <= WINDOW_NUMBER_MAX && x->dims[1] % *groups == 0 && k->dims[1] >= 1;
    if (fits && bias) fits = bias->dtype == x->dtype && bias->rank == 1 && bias->dims[0] == k->dims[1] * *groups;
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "weight or bias do not fit the input with %lld groups", (long long)*groups);
    bool same_upper = node_text_is(c->node, "auto_pad", "SAME_UPPER", false), same_lower = node_text_is(c->node, "auto_pad", "SAME_LOWER", false), shaped = node_attribute(c->node, "output_shape") != NULL;
    int shape_count;
    node_ints(c->node, "output_shape", &shape_count);
    for (int d = 0; d < w->dims; d++) {
        w->in[d] = x->dims[d + 2];
        w->kernel[d] = k->dims[d + 2];
        if (!is_small(w->in[d], 0) || !is_small(w->kernel[d], 1)) return call_error(c, err, ST_BAD_INPUT, "a dimension is %lld by a kernel of %lld", (long long)w->in[d], (long long)w->kernel[d]);
        int64_t extra = listed(c, "output_padding", d, 0), whole = w->stride[d] * (w->in[d] - 1) + extra + (w->kernel[d] - 1) * w->dilation[d] + 1, want = whole - w->low[d] - w->high[d];
        if (!is_small(extra, 0)) return call_error(c, err, ST_BAD_INPUT, "output_padding is %lld", (long long)extra);
        if (same_upper || same_lower) want = w->in[d] * w->stride[d];
        if (shaped) want = listed(c, "output_shape", d + (shape_count > w->dims ? shape_count - w->dims : 0), want);
        if (same_upper || same_lower || shaped) {
            int64_t total = whole - want > 0 ? whole - want : 0;
            w->low[d] = same_upper ? total / 2 : total - total / 2;
            if (shaped && !same_upper && !same_lower) w->low[d] = total / 2;
            w->high[d] = total - w->low[d];
        }
        w->out[d] = want;
        if (want < 0 || want > INT32_MAX) return call_error(c, err, ST_BAD_INPUT, "dimension %d of its result would be %lld", d + 2, (long long)want);
    }
    return ST_OK;
}

static enum status infer_transposed(struct call *c, struct err *err)
{
    struct window w;
    int64_t groups, dims[TENSOR_RANK_MAX];
    enum status st = read_transposed(c, &w, &groups, err);
    if (st) return st;
    dims[0] = c->in[0]->dims[0];
    dims[1] = c->in[1]->dims[1] * groups;
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    return call_set(c, 0, c->in[0]->dtype, dims, c->in[0]->rank, err);
}

static void tasks_transposed(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0], *bias = c->in_count > 2 ? c->in[2] : NULL;
    struct window w;
    int64_t groups;
    struct gpu_task *t = task_add(l, GPU_CONV);
    if (read_transposed(c, &w, &groups, NULL) || (!x->channels_last && x->dims[1] > 1) || (!y->channels_last && y->dims[1] > 1)) {
        task_refuse(l);
        return;
    }
    struct gpu_window undone = task_window(l, &w);           /* of the convolution that it undoes: from y to x */
    memcpy(undone.in, w.out, sizeof undone.in);
    memcpy(undone.out, w.in, sizeof undone.out);
    t->u.conv = (struct gpu_conv){ .n = x->dims[0], .in_c = x->dims[1], .out_c = y->dims[1], .groups = groups, .transposed = true, .has_bias = bias != NULL, .act = c->node->act, .w = undone };
    task_value(l, t, x);
    task_weight(l, t, c->node, 1, c->in[1], NULL);
    task_value(l, t, y);
    task_value(l, t, bias);
}

/* The element of the result's plane that kernel element k of input element i adds to; false: it is cut off. */
static bool target_of(const struct window *w, int64_t i, int64_t k, int64_t *out)
{
    int64_t at = 0, step = 1;
    for (int d = w->dims - 1; d >= 0; d--) {
        int64_t o = i % w->in[d] * w->stride[d] + k % w->kernel[d] * w->dilation[d] - w->low[d];
        i /= w->in[d];
        k /= w->kernel[d];
        if (o < 0 || o >= w->out[d]) return false;
        at += o * step;
        step *= w->out[d];
    }
    *out = at;
    return true;
}

static uint64_t scratch_transposed(const struct call *c)
{
    struct window w;
    int64_t groups;
    if (c->in[0]->dtype != DT_F32) return reals_scratch(c);
    return read_transposed(c, &w, &groups, NULL) ? 0 : columns_scratch(c, &w, true, groups);
}

static enum status eval_transposed(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *k = c->in[1];
    struct window w;
    struct reals r;
    int64_t groups, to;
    enum status st = read_transposed(c, &w, &groups, err);
    if (st || c->out[0]->bytes == 0) return st;
    if (x->dtype == DT_F32) {
        columns_transpose(c, &w, groups);
        return ST_OK;
    }
    reals_begin(&r, c);
    int64_t in = dims_product(w.in, 0, w.dims), out = dims_product(w.out, 0, w.dims), kernel = dims_product(w.kernel, 0, w.dims), channels = x->dims[1], per = channels / groups, filters = k->dims[1];
    for (int64_t n = 0; n < x->dims[0]; n++) {
        for (int64_t m = 0; m < filters * groups; m++)
            for (int64_t o = 0; o < out && c->in_count > 2 && c->in[2]; o++) r.out[0][(n * filters * groups + m) * out + o] = r.in[2][m];
        for (int64_t i = 0; i < in; i++)
            for (int64_t j = 0; j < kernel; j++) {
                if (!target_of(&w, i, j, &to)) continue;
                for (int64_t ch = 0; ch < channels; ch++) {
                    double v = r.in[0][(n * channels + ch) * in + i];
                    for (int64_t f = 0; f < filters; f++) r.out[0][((n * groups + ch / per) * filters + f) * out + to] += v * r.in[1][(ch * filters + f) * kernel + j];
                }
            }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- DeformConv(x, w, offset, bias, mask): two spatial dimensions; each kernel element looks where its offset says, between pixels linearly ---- */
static enum status infer_deform(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *k = c->in[1], *offset = c->in[2], *bias = c->in_count > 3 ? c->in[3] : NULL, *mask = c->in_count > 4 ? c->in[4] : NULL;
    int64_t groups = node_int(c->node, "group", 1), parts = node_int(c->node, "offset_group", 1);
    struct window w;
    if (x->rank != 4 || k->rank != 4 || offset->rank != 4) return call_error(c, err, ST_UNSUPPORTED, "it is computed for two spatial dimensions only");
    enum status st = window_read(&w, c, k->dims + 2, err);
    if (st) return st;
    int64_t cells = w.kernel[0] * w.kernel[1];
    bool fits = dtype_is_real(x->dtype) && k->dtype == x->dtype && groups >= 1 && groups <= WINDOW_NUMBER_MAX && parts >= 1 && parts <= WINDOW_NUMBER_MAX && x->dims[1] % groups == 0 && x->dims[1] % parts == 0 && k->dims[0] % groups == 0 && k->dims[1] == x->dims[1] / groups;
    fits = fits && dtype_is_real(offset->dtype) && offset->dims[0] == x->dims[0] && offset->dims[1] == parts * cells * 2 && offset->dims[2] == w.out[0] && offset->dims[3] == w.out[1];
    if (fits && bias) fits = bias->rank == 1 && bias->dims[0] == k->dims[0] && dtype_is_real(bias->dtype);
    if (fits && mask) fits = mask->rank == 4 && mask->dims[0] == x->dims[0] && mask->dims[1] == parts * cells && mask->dims[2] == w.out[0] && mask->dims[3] == w.out[1] && dtype_is_real(mask->dtype);
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "weight, offset, bias or mask do not fit the input");
    return call_set(c, 0, x->dtype, (int64_t[]){ x->dims[0], k->dims[0], w.out[0], w.out[1] }, 4, err);
}

/* The picture between its pixels; outside it is 0. */
static double pixel_between(const double *plane, int64_t h, int64_t w, double y, double x)
{
    if (!(y > -1 && y < (double)h && x > -1 && x < (double)w)) return 0;
    double fy = floor(y), fx = floor(x), sum = 0;
    for (int k = 0; k < 4; k++) {
        int64_t i = (int64_t)fy + k / 2, j = (int64_t)fx + k % 2;
        double weight = (k / 2 ? y - fy : 1 - (y - fy)) * (k % 2 ? x - fx : 1 - (x - fx));
        if (i >= 0 && i < h && j >= 0 && j < w) sum += weight * plane[i * w + j];
    }
    return sum;
}

static enum status eval_deform(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *k = c->in[1];
    int64_t groups = node_int(c->node, "group", 1), parts = node_int(c->node, "offset_group", 1), channels = x->dims[1], per = channels / groups, filters = k->dims[0];
    bool biased = c->in_count > 3 && c->in[3], masked = c->in_count > 4 && c->in[4];
    struct window w;
    struct reals r;
    enum status st = window_read(&w, c, k->dims + 2, err);
    if (st) return st;
    reals_begin(&r, c);
    int64_t cells = w.kernel[0] * w.kernel[1], out = w.out[0] * w.out[1], in = w.in[0] * w.in[1];
    for (int64_t n = 0; n < x->dims[0]; n++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t m = 0; m < filters; m++) {
                double sum = biased ? r.in[3][m] : 0;
                for (int64_t f = 0; f < per; f++) {
                    int64_t ch = m / (filters / groups) * per + f, part = ch / (channels / parts);
                    for (int64_t j = 0; j < cells; j++) {
                        int64_t cell = (n * parts + part) * cells + j;
                        double y = (double)(o / w.out[1] * w.stride[0] - w.low[0] + j / w.kernel[1] * w.dilation[0]) + r.in[2][2 * cell * out + o];
                        double z = (double)(o % w.out[1] * w.stride[1] - w.low[1] + j % w.kernel[1] * w.dilation[1]) + r.in[2][(2 * cell + 1) * out + o];
                        sum += pixel_between(r.in[0] + (n * channels + ch) * in, w.in[0], w.in[1], y, z) * r.in[1][(m * per + f) * cells + j] * (masked ? r.in[4][cell * out + o] : 1);
                    }
                }
                r.out[0][(n * filters + m) * out + o] = sum;
            }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- Col2Im(x [n, c * cells, blocks], image shape, block shape) ---- */
static enum status read_columns(struct call *c, struct window *w, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t image[WINDOW_DIMS], block[WINDOW_DIMS], blocks = 1;
    int n, m;
    bool k1, k2;
    enum status st = call_ints(c, 1, image, WINDOW_DIMS, &n, &k1, err);
    if (!st) st = call_ints(c, 2, block, WINDOW_DIMS, &m, &k2, err);
    if (!st) st = read_steps(c, w, n, err);
    *known = !st && k1 && k2;
    if (!*known) return st;
    if (n != m || x->rank != 3 || !dtype_is_real(x->dtype)) return call_error(c, err, ST_BAD_INPUT, "its input must have 3 dimensions, its shapes one length");
    for (int d = 0; d < n; d++) {
        w->out[d] = image[d];
        w->kernel[d] = block[d];
        if (!is_small(image[d], 1) || !is_small(block[d], 1)) return call_error(c, err, ST_BAD_INPUT, "an image of %lld by blocks of %lld", (long long)image[d], (long long)block[d]);
        int64_t room = image[d] + w->low[d] + w->high[d] - w->dilation[d] * (block[d] - 1) - 1;
        w->in[d] = room < 0 ? 0 : room / w->stride[d] + 1;
        if (__builtin_mul_overflow(blocks, w->in[d], &blocks)) return call_error(c, err, ST_TOO_LARGE, "its image is too large");
    }
    int64_t cells = 1;
    for (int d = 0; d < n; d++)
        if (__builtin_mul_overflow(cells, w->kernel[d], &cells)) return call_error(c, err, ST_TOO_LARGE, "its blocks are too large");
    if (x->dims[1] % cells || x->dims[2] != blocks) return call_error(c, err, ST_BAD_INPUT, "%lld columns of %lld do not fit %lld blocks of %lld", (long long)x->dims[2], (long long)x->dims[1], (long long)blocks, (long long)cells);
    return ST_OK;
}

static enum status infer_columns(struct call *c, struct err *err)
{
    struct window w;
    bool known;
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = read_columns(c, &w, &known, err);
    if (st || !known) return st;
    dims[0] = c->in[0]->dims[0];
    dims[1] = c->in[0]->dims[1] / dims_product(w.kernel, 0, w.dims);
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    return call_set(c, 0, c->in[0]->dtype, dims, w.dims + 2, err);
}

static enum status eval_columns(struct call *c, struct err *err)
{
    struct window w;
    struct reals r;
    bool known;
    int64_t to;
    enum status st = read_columns(c, &w, &known, err);
    if (st) return st;
    reals_begin(&r, c);
    int64_t cells = dims_product(w.kernel, 0, w.dims), blocks = dims_product(w.in, 0, w.dims), out = dims_product(w.out, 0, w.dims), planes = c->out[0]->dims[0] * c->out[0]->dims[1];
    for (int64_t p = 0; p < planes; p++)
        for (int64_t k = 0; k < cells; k++)
            for (int64_t i = 0; i < blocks; i++)
                if (target_of(&w, i, k, &to)) r.out[0][p * out + to] += r.in[0][(p * cells + k) * blocks + i];
    reals_end(&r, c);
    return ST_OK;
}

/* ---- MaxUnpool(x, indices, output shape) ---- */
static enum status infer_unpool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *at = c->in[1];
    int64_t dims[TENSOR_RANK_MAX];
    int n;
    bool known;
    if (x->rank < 3 || operand_size(x) == 0 || x->dtype == DT_STRING || at->dtype != DT_I64 || at->rank != x->rank || memcmp(at->dims, x->dims, (size_t)x->rank * sizeof *x->dims)) return call_error(c, err, ST_BAD_INPUT, "its indices do not fit the input");
    if (c->in_count > 2 && c->in[2]) {
        enum status st = call_ints(c, 2, dims, TENSOR_RANK_MAX, &n, &known, err);
        if (st || !known) return st;
        if (n != x->rank) return call_error(c, err, ST_BAD_INPUT, "its output shape has %d numbers", n);
        return call_set(c, 0, x->dtype, dims, n, err);
    }
    memcpy(dims, x->dims, sizeof dims);
    struct window w;
    enum status st = read_steps(c, &w, x->rank - 2, err);
    if (st) return st;
    for (int d = 0; d < w.dims; d++) {
        int64_t kernel = listed(c, "kernel_shape", d, 1);
        if (!is_small(kernel, 1) || !is_small(x->dims[d + 2], 0)) return call_error(c, err, ST_BAD_INPUT, "kernel_shape is %lld", (long long)kernel);
        dims[d + 2] = (x->dims[d + 2] - 1) * w.stride[d] - w.low[d] - w.high[d] + kernel;
    }
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

/* Indices count within the pooled tensor of no output shape, whose planes may be smaller than those wanted. */
static enum status eval_unpool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct operand *y = c->out[0];
    int size = operand_size(x), rank = x->rank;
    int64_t small[TENSOR_RANK_MAX], total = (int64_t)operand_count(y);
    memcpy(small, y->dims, sizeof small);
    for (int d = 2; d < rank && c->in_count > 2 && c->in[2]; d++) small[d] = (x->dims[d] - 1) * listed(c, "strides", d - 2, 1) - listed(c, "pads", d - 2, 0) - listed(c, "pads", d - 2 + rank - 2, 0) + listed(c, "kernel_shape", d - 2, 1);
    memset(y->data, 0, y->bytes);
    for (uint64_t k = 0, n = operand_count(x); k < n; k++) {
        int64_t left = operand_int(c->in[1], k), at = 0, step = 1;
        bool inside = left >= 0;
        for (int d = rank - 1; d >= 0 && inside; d--) {
            inside = small[d] > 0;
            int64_t i = inside ? left % small[d] : 0;
            left = inside ? left / small[d] : 0;
            inside = inside && i < y->dims[d];
            at += i * step;
            step *= y->dims[d];
        }
        if (!inside || left || at >= total) return call_error(c, err, ST_BAD_INPUT, "index %lld is not in its result", (long long)operand_int(c->in[1], k));
        memcpy((char *)y->data + at * size, (const char *)x->data + (int64_t)k * size, (size_t)size);
    }
    return ST_OK;
}

const struct op ops_conv_other[] = {
    { "ConvTranspose", "", 1, 0, 2, 3, 1, 1, OP_PRODUCT | OP_LAST, 0, infer_transposed, eval_transposed, scratch_transposed, NULL, NULL, rows_first, tasks_transposed },
    { "DeformConv", "", 19, 0, 3, 5, 1, 1, OP_PRODUCT, 0, infer_deform, eval_deform, reals_scratch, NULL, NULL, NULL, NULL },
    { "Col2Im", "", 18, 0, 3, 3, 1, 1, OP_PRODUCT, 0, infer_columns, eval_columns, reals_scratch, NULL, NULL, NULL, NULL },
    { "MaxUnpool", "", 9, 0, 2, 3, 1, 1, 0, 0, infer_unpool, eval_unpool, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
