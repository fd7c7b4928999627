#include "engine/operators/window.h"

#include <string.h>

static enum status read_list(const struct call *c, const char *name, int64_t *out, int n, int64_t low, struct err *err)
{
    int count;
    const int64_t *a = node_ints(c->node, name, &count);
    if (!a) return ST_OK;
    if (count != n) return call_error(c, err, ST_BAD_INPUT, "%s has %d numbers, not %d", name, count, n);
    for (int i = 0; i < n; i++) {
        if (a[i] < low || a[i] > WINDOW_NUMBER_MAX) return call_error(c, err, ST_BAD_INPUT, "%s[%d] is %lld; %lld to %d is taken", name, i, (long long)a[i], (long long)low, WINDOW_NUMBER_MAX);
        out[i] = a[i];
    }
    return ST_OK;
}

static enum status resolve(struct window *w, const struct call *c, int d, bool ceil_mode, int same, bool valid, struct err *err)
{
    int64_t reach = (w->kernel[d] - 1) * w->dilation[d] + 1, in = w->in[d], s = w->stride[d];
    if (same) {
        w->out[d] = (in + s - 1) / s;
        int64_t total = (w->out[d] - 1) * s + reach - in;
        if (total < 0) total = 0;
        w->low[d] = same > 0 ? total / 2 : total - total / 2;
        w->high[d] = total - w->low[d];
        return ST_OK;
    }
    if (valid) w->low[d] = w->high[d] = 0;
    int64_t room = in + w->low[d] + w->high[d] - reach;
    if (room < 0 && !(ceil_mode && room > -s)) return call_error(c, err, ST_BAD_INPUT, "a window of %lld does not fit a dimension of %lld padded by %lld and %lld", (long long)reach, (long long)in, (long long)w->low[d], (long long)w->high[d]);
    w->out[d] = (ceil_mode ? (room + s - 1) / s : room / s) + 1;
    if (ceil_mode && w->out[d] > 1 && (w->out[d] - 1) * s >= in + w->low[d]) w->out[d]--;     /* a window must not start in the right padding */
    return ST_OK;
}

enum status window_read(struct window *w, const struct call *c, const int64_t *kernel, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t pads[2 * WINDOW_DIMS] = { 0 };
    int n = x->rank - 2;
    if (n < 1 || n > WINDOW_DIMS) return call_error(c, err, ST_BAD_INPUT, "its input has %d dimensions; 3 to %d are taken", x->rank, TENSOR_RANK_MAX);
    *w = (struct window){ .dims = n };
    for (int d = 0; d < n; d++) {
        w->in[d] = x->dims[d + 2];
        w->stride[d] = w->dilation[d] = 1;
        w->kernel[d] = kernel ? kernel[d] : 0;
        if (w->in[d] > INT32_MAX) return call_error(c, err, ST_TOO_LARGE, "a dimension is %lld", (long long)w->in[d]);
    }
    enum status st = read_list(c, "strides", w->stride, n, 1, err);
    if (!st) st = read_list(c, "dilations", w->dilation, n, 1, err);
    if (!st) st = read_list(c, "pads", pads, 2 * n, 0, err);
    if (!st) st = read_list(c, "kernel_shape", w->kernel, n, 1, err);
    if (st) return st;
    bool ceil_mode = node_int(c->node, "ceil_mode", 0) != 0, valid = node_text_is(c->node, "auto_pad", "VALID", false);
    int same = node_text_is(c->node, "auto_pad", "SAME_UPPER", false) ? 1 : node_text_is(c->node, "auto_pad", "SAME_LOWER", false) ? -1 : 0;
    for (int d = 0; d < n && !st; d++) {
        if (kernel && w->kernel[d] != kernel[d]) return call_error(c, err, ST_BAD_INPUT, "kernel_shape[%d] is %lld but the weight says %lld", d, (long long)w->kernel[d], (long long)kernel[d]);
        if (w->kernel[d] < 1 || w->kernel[d] > WINDOW_NUMBER_MAX) return call_error(c, err, ST_BAD_INPUT, "the kernel's size %d is %lld", d, (long long)w->kernel[d]);
        w->low[d] = pads[d];
        w->high[d] = pads[d + n];
        st = resolve(w, c, d, ceil_mode, same, valid, err);
    }
    return st;
}

struct window2d window_2d(const struct window *w, int64_t n, int64_t channels)
{
    bool flat = w->dims == 1;
    int b = flat ? 0 : 1;
    return (struct window2d){
        .n = n, .c = channels, .h = flat ? 1 : w->in[0], .w = w->in[b], .out_h = flat ? 1 : w->out[0], .out_w = w->out[b],
        .kh = flat ? 1 : (int)w->kernel[0], .kw = (int)w->kernel[b], .stride_h = flat ? 1 : (int)w->stride[0], .stride_w = (int)w->stride[b],
        .dilation_h = flat ? 1 : (int)w->dilation[0], .dilation_w = (int)w->dilation[b],
        .pad_top = flat ? 0 : (int)w->low[0], .pad_left = (int)w->low[b], .pad_bottom = flat ? 0 : (int)w->high[0], .pad_right = (int)w->high[b],
    };
}
