/* Pad, DepthToSpace and SpaceToDepth. Pad works on the dimensions in the order the bytes lie in, so it keeps any layout. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

/* ---- Pad ---- */
enum pad_mode { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP };
struct pad { int64_t low[TENSOR_RANK_MAX], high[TENSOR_RANK_MAX]; enum pad_mode mode; };

static enum status read_pads(struct call *c, struct pad *p, bool *known, struct err *err)
{
    int64_t v[2 * TENSOR_RANK_MAX] = { 0 }, axes[TENSOR_RANK_MAX];
    int n = 0, m = 0, rank = c->in[0]->rank;
    enum status st = ST_OK;
    *known = true;
    *p = (struct pad){ .mode = node_text_is(c->node, "mode", "reflect", false) ? PAD_REFLECT : node_text_is(c->node, "mode", "edge", false) ? PAD_EDGE : node_text_is(c->node, "mode", "wrap", false) ? PAD_WRAP : PAD_CONSTANT };
    if (c->node->opset < 11) {
        const int64_t *a = node_ints(c->node, c->node->opset < 2 ? "paddings" : "pads", &n);
        if (n > 2 * TENSOR_RANK_MAX) return call_error(c, err, ST_BAD_INPUT, "it has %d pads", n);
        if (n) memcpy(v, a, (size_t)n * sizeof *v);
    } else if (c->in_count > 1 && c->in[1]) {
        st = call_ints(c, 1, v, 2 * TENSOR_RANK_MAX, &n, known, err);
        if (st || !*known) return st;
    }
    if (c->in_count > 3 && c->in[3]) {
        st = call_ints(c, 3, axes, TENSOR_RANK_MAX, &m, known, err);
        if (st || !*known) return st;
    } else {
        for (m = 0; m < rank; m++) axes[m] = m;
    }
    if (n != 2 * m) return call_error(c, err, ST_BAD_INPUT, "%d pads for %d dimensions", n, m);
    for (int i = 0; i < m; i++) {
        if (!axis_fix(&axes[i], rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axes[i], rank);
        p->low[axes[i]] = v[i];
        p->high[axes[i]] = v[i + m];
    }
    return ST_OK;
}

static enum status infer_pad(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct pad p;
    bool known;
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = call_need_sized(c, err);
    if (!st && c->in_count > 2 && c->in[2] && (c->in[2]->dtype != x->dtype || operand_count(c->in[2]) != 1)) st = call_error(c, err, ST_BAD_INPUT, "the fill must be one element of the input's type");
    if (!st) st = read_pads(c, &p, &known, err);
    if (st || !known) return st;
    for (int d = 0; d < x->rank; d++) {
        if (__builtin_add_overflow(x->dims[d], p.low[d], &dims[d]) || __builtin_add_overflow(dims[d], p.high[d], &dims[d]) || dims[d] < 0)
            return call_error(c, err, ST_BAD_INPUT, "dimension %d of %lld cannot be padded by %lld and %lld", d, (long long)x->dims[d], (long long)p.low[d], (long long)p.high[d]);
        bool outside = p.low[d] > 0 || p.high[d] > 0;
        if (p.mode == PAD_REFLECT && outside && (p.low[d] >= x->dims[d] || p.high[d] >= x->dims[d])) return call_error(c, err, ST_BAD_INPUT, "dimension %d of %lld is too small to be reflected that far", d, (long long)x->dims[d]);
        if (p.mode != PAD_CONSTANT && outside && x->dims[d] == 0) return call_error(c, err, ST_BAD_INPUT, "dimension %d is empty", d);
    }
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

/* Source index of i within n elements; -1: the fill. */
static int64_t pad_source(int64_t i, int64_t n, enum pad_mode mode)
{
    if (i >= 0 && i < n) return i;
    switch (mode) {
    case PAD_CONSTANT: return -1;
    case PAD_EDGE: return i < 0 ? 0 : n - 1;
    case PAD_REFLECT: return i < 0 ? -i : 2 * (n - 1) - i;
    case PAD_WRAP: i %= n; return i < 0 ? i + n : i;
    }
    return -1;
}

static void pad_row(char *y, const char *x, int64_t count, int64_t low, int64_t n, enum pad_mode mode, const void *fill, int size)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t s = x ? pad_source(i - low, n, mode) : -1;
        if (s >= 0 && mode == PAD_CONSTANT) {
            int64_t run = n - s < count - i ? n - s : count - i;
            memcpy(y + i * size, x + s * size, (size_t)(run * size));
            i += run - 1;
            continue;
        }
        memcpy(y + i * size, s < 0 ? (const char *)fill : x + s * size, (size_t)size);
    }
}

static enum status eval_pad(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct pad p;
    bool known;
    enum status st = read_pads(c, &p, &known, err);
    if (st) return st;
    static const struct string_ref nothing = { "", 0 };
    char fill[16] = { 0 };
    double value = (double)node_float(c->node, "value", 0);
    int size = operand_size(x), rank = x->rank;
    if (x->dtype == DT_STRING) memcpy(fill, &nothing, sizeof nothing);
    else if (c->node->opset < 11 && dtype_is_real(x->dtype)) real_store(fill, x->dtype, 0, &value, 1);
    if (c->in_count > 2 && c->in[2]) memcpy(fill, c->in[2]->data, (size_t)size);
    int64_t in[TENSOR_RANK_MAX], out[TENSOR_RANK_MAX], low[TENSOR_RANK_MAX], index[TENSOR_RANK_MAX] = { 0 }, s[TENSOR_RANK_MAX], step = 1;
    operand_physical(x, in);
    operand_physical(c->out[0], out);
    for (int d = 0; d < rank; d++) low[operand_physical_axis(x, d)] = p.low[d];
    for (int d = rank - 1; d >= 0; d--) { s[d] = step; step *= in[d]; }
    char *y = c->out[0]->data;
    if (c->out[0]->bytes == 0) return ST_OK;
    if (rank == 0) { memcpy(y, x->data, (size_t)size); return ST_OK; }
    for (;;) {
        int64_t from = 0;
        bool inside = true;
        for (int d = 0; d < rank - 1 && inside; d++) {
            int64_t k = pad_source(index[d] - low[d], in[d], p.mode);
            inside = k >= 0;
            from += k * s[d];
        }
        pad_row(y, inside ? (const char *)x->data + from * size : NULL, out[rank - 1], low[rank - 1], in[rank - 1], p.mode, fill, size);
        y += out[rank - 1] * size;
        int d = rank - 2;
        while (d >= 0 && ++index[d] == out[d]) index[d--] = 0;
        if (d < 0) return ST_OK;
    }
}

/* A fill, then the input's elements that stay: constants only. */
static void tasks_pad(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    struct pad p;
    bool known;
    double fill = (double)node_float(c->node, "value", 0);
    int64_t s[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX], out[TENSOR_RANK_MAX], steps[TENSOR_RANK_MAX], y_steps[TENSOR_RANK_MAX], to = 0, from = 0, step = 1;
    const struct operand *value = c->in_count > 2 ? c->in[2] : NULL;
    if (read_pads(c, &p, &known, NULL) || !known || p.mode != PAD_CONSTANT || x->dtype != DT_F32 || (value && !value->data)) {
        task_refuse(l);
        return;
    }
    if (value) real_load(&fill, value->dtype, value->data, 0, 0, 1);
    task_fill(l, y, (float)fill);
    operand_strides(x, s);
    operand_physical(y, out);
    for (int d = 0; d < x->rank; d++) {
        const int at = operand_physical_axis(x, d);
        const int64_t cut_low = p.low[d] < 0 ? -p.low[d] : 0, cut_high = p.high[d] < 0 ? -p.high[d] : 0;
        dims[at] = x->dims[d] - cut_low - cut_high;
        steps[at] = s[d];
        from += cut_low * s[d];
        if (dims[at] <= 0) return;               /* nothing of it stays */
    }
    for (int at = x->rank - 1; at >= 0; step *= out[at--]) y_steps[at] = step;
    for (int d = 0; d < x->rank; d++) to += (p.low[d] > 0 ? p.low[d] : 0) * y_steps[operand_physical_axis(x, d)];
    task_move_into(l, y, to, y_steps, x, from, steps, x->rank, dims);
}

static bool rows_pad(const struct call *c)
{
    struct pad p;
    struct err e;
    bool known;
    struct call copy = *c;
    return rows_first(c) && read_pads(&copy, &p, &known, &e) == ST_OK && known && p.low[0] == 0 && p.high[0] == 0;
}

/* ---- DepthToSpace, SpaceToDepth ---- */
static enum status infer_depth(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t b = node_int(c->node, "blocksize", 0);
    bool deep = c->node->op->code == 0;
    enum status st = call_need_sized(c, err);
    if (st) return st;
    if (x->rank != 4 || b < 1 || b > 65536) return call_error(c, err, ST_BAD_INPUT, "it takes rank 4 and a positive block size");
    if (deep ? x->dims[1] % (b * b) : x->dims[2] % b || x->dims[3] % b) return call_error(c, err, ST_BAD_INPUT, "the shape does not divide by the block size %lld", (long long)b);
    int64_t down[4] = { x->dims[0], x->dims[1] / (b * b), x->dims[2] * b, x->dims[3] * b };
    int64_t up[4] = { x->dims[0], x->dims[1] * b * b, x->dims[2] / b, x->dims[3] / b };
    return call_set(c, 0, x->dtype, deep ? down : up, 4, err);
}

static enum status eval_depth(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    int64_t b = node_int(c->node, "blocksize", 1);
    bool deep = c->node->op->code == 0, crd = node_text_is(c->node, "mode", "CRD", false);
    int64_t channels = deep ? y->dims[1] : x->dims[1], h = deep ? x->dims[2] : y->dims[2], w = deep ? x->dims[3] : y->dims[3];
    int size = operand_size(x);
    (void)err;
    /* small: [n, ., h, w] with b*b times the channels; large: [n, channels, h*b, w*b] */
    for (int64_t n = 0; n < x->dims[0]; n++)
        for (int64_t ch = 0; ch < channels; ch++)
            for (int64_t i = 0; i < h * b; i++)
                for (int64_t j = 0; j < w * b; j++) {
                    int64_t block = i % b * b + j % b, deep_c = crd ? ch * b * b + block : block * channels + ch;
                    int64_t large = ((n * channels + ch) * h * b + i) * w * b + j, small = ((n * channels * b * b + deep_c) * h + i / b) * w + j / b;
                    memcpy((char *)y->data + (deep ? large : small) * size, (const char *)x->data + (deep ? small : large) * size, (size_t)size);
                }
    return ST_OK;
}

/* [n, ., ., channels, h, ., w, .] of one side walked in the order of the other. */
static void tasks_depth(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    const int64_t b = node_int(c->node, "blocksize", 1);
    const bool deep = c->node->op->code == 0, crd = node_text_is(c->node, "mode", "CRD", false);
    const int64_t channels = deep ? y->dims[1] : x->dims[1], h = deep ? x->dims[2] : y->dims[2], w = deep ? x->dims[3] : y->dims[3], plane = h * w;
    const int64_t by_channel = crd ? b * b * plane : plane, by_row = (crd ? b : b * channels) * plane, by_column = (crd ? 1 : channels) * plane;
    if (deep) task_move(l, y, x, 0, 6, (int64_t[]){ x->dims[0], channels, h, b, w, b }, (int64_t[]){ channels * b * b * plane, by_channel, w, by_row, 1, by_column });
    else task_move(l, y, x, 0, 6, (int64_t[]){ x->dims[0], b, b, channels, h, w }, (int64_t[]){ channels * b * b * plane, w * b, 1, plane * b * b, w * b * b, b });
}

const struct op ops_pad[] = {
    { "Pad", "", 1, 0, 1, 4, 1, 1, OP_LAST, 0, infer_pad, eval_pad, NULL, NULL, NULL, rows_pad, tasks_pad },
    { "DepthToSpace", "", 1, 0, 1, 1, 1, 1, 0, 0, infer_depth, eval_depth, NULL, NULL, NULL, rows_first, tasks_depth },
    { "SpaceToDepth", "", 1, 0, 1, 1, 1, 1, 0, 1, infer_depth, eval_depth, NULL, NULL, NULL, rows_first, tasks_depth },
    { 0 }
};
