/* Resize and Upsample: nearest and linear, any rank, the coordinate rules of opset 10 to 19. Each dimension's sources are worked out one at a
 * time, so linear interpolation runs dimension by dimension over the corner points. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

enum coordinates { C_HALF_PIXEL, C_ASYMMETRIC, C_ALIGN_CORNERS, C_PYTORCH, C_HALF_SYMMETRIC };
enum nearest { N_PREFER_FLOOR, N_PREFER_CEIL, N_FLOOR, N_CEIL };

struct resize { double scale[TENSOR_RANK_MAX]; int64_t out[TENSOR_RANK_MAX]; bool linear; enum coordinates rule; enum nearest nearest; };

static enum status read_scales(struct call *c, int i, double *scales, int *n, bool *known, struct err *err)
{
    const struct operand *o = c->in[i];
    uint64_t count = operand_count(o);
    if (!dtype_is_real(o->dtype) || count > TENSOR_RANK_MAX) return call_error(c, err, ST_BAD_INPUT, "its scales must be at most %d numbers", TENSOR_RANK_MAX);
    *n = (int)count;
    *known = count == 0 || o->data;
    if (!*known) c->needs_data = true;
    else if (count) real_load(scales, o->dtype, o->data, 0, 1, (int)count);
    return ST_OK;
}

static enum status read_rules(const struct call *c, struct resize *r, struct err *err)
{
    const struct node *n = c->node;
    bool upsample = n->op->code == 1 || n->opset < 11;
    r->linear = node_text_is(n, "mode", "linear", false) || node_text_is(n, "mode", "bilinear", false);
    if (!r->linear && !node_text_is(n, "mode", "nearest", true)) return call_error(c, err, ST_UNSUPPORTED, "only the modes nearest and linear are computed");
    if (node_int(n, "antialias", 0) || node_int(n, "exclude_outside", 0)) return call_error(c, err, ST_UNSUPPORTED, "antialias and exclude_outside are not computed");
    if (!node_text_is(n, "keep_aspect_ratio_policy", "stretch", true)) return call_error(c, err, ST_UNSUPPORTED, "only keep_aspect_ratio_policy=stretch is computed");
    static const char *const rules[] = { "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric" };
    static const char *const nearest[] = { "round_prefer_floor", "round_prefer_ceil", "floor", "ceil" };
    r->rule = upsample ? C_ASYMMETRIC : C_HALF_PIXEL;
    r->nearest = upsample ? N_FLOOR : N_PREFER_FLOOR;
    if (upsample) return ST_OK;
    int found = 0;
    for (int i = 0; i < 5; i++)
        if (node_text_is(n, "coordinate_transformation_mode", rules[i], i == 0)) { r->rule = (enum coordinates)i; found = 1; break; }
    if (!found) return call_error(c, err, ST_UNSUPPORTED, "its coordinate_transformation_mode is not computed");
    for (int i = 0; i < 4; i++)
        if (node_text_is(n, "nearest_mode", nearest[i], i == 0)) { r->nearest = (enum nearest)i; break; }
    return ST_OK;
}

static enum status read_resize(struct call *c, struct resize *r, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    double scales[TENSOR_RANK_MAX];
    int64_t sizes[TENSOR_RANK_MAX], axes[TENSOR_RANK_MAX];
    int ns = 0, nz = 0, m = 0;
    const struct onnx_attribute *a = node_attribute(c->node, "scales");
    const int64_t *ax = node_ints(c->node, "axes", &m);
    *known = true;
    enum status st = read_rules(c, r, err);
    int at = c->node->op->code == 1 || c->node->opset < 11 ? 1 : 2;
    if (st) return st;
    if (a && a->type == ONNX_FLOATS && c->node->opset < 9) {
        for (ns = 0; ns < a->count && ns < TENSOR_RANK_MAX; ns++) scales[ns] = (double)a->floats[ns];
    } else if (c->in_count > at && c->in[at]) {
        st = read_scales(c, at, scales, &ns, known, err);
    }
    if (!st && *known && ns == 0 && c->in_count > 3 && c->in[3]) st = call_ints(c, 3, sizes, TENSOR_RANK_MAX, &nz, known, err);
    if (st || !*known) return st;
    if (!ax || m > TENSOR_RANK_MAX)
        for (m = 0; m < x->rank; m++) axes[m] = m;
    else memcpy(axes, ax, (size_t)m * sizeof *axes);
    if (ns != m && nz != m) return call_error(c, err, ST_BAD_INPUT, "%d scales and %d sizes for %d dimensions", ns, nz, m);
    for (int d = 0; d < x->rank; d++) { r->scale[d] = 1; r->out[d] = x->dims[d]; }
    for (int i = 0; i < m; i++) {
        int64_t d = axes[i];
        if (!axis_fix(&d, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)d, x->rank);
        if (ns == m) {
            double size = floor((double)x->dims[d] * scales[i]);
            if (!(scales[i] > 0) || !(size <= 1e12)) return call_error(c, err, ST_BAD_INPUT, "scale %d is %g", i, scales[i]);
            r->scale[d] = scales[i];
            r->out[d] = (int64_t)size;
        } else {
            r->out[d] = sizes[i];
            if (sizes[i] < 0 || (sizes[i] > 0 && x->dims[d] == 0)) return call_error(c, err, ST_BAD_INPUT, "size %d is %lld", i, (long long)sizes[i]);
            r->scale[d] = x->dims[d] ? (double)sizes[i] / (double)x->dims[d] : 1;
        }
    }
    return ST_OK;
}

static enum status infer_resize(struct call *c, struct err *err)
{
    struct resize r;
    bool known;
    if (!dtype_is_real(c->in[0]->dtype) && !dtype_is_integer(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    enum status st = read_resize(c, &r, &known, err);
    if (st || !known) return st;
    return call_set(c, 0, c->in[0]->dtype, r.out, c->in[0]->rank, err);
}

static double source(const struct resize *r, int d, int64_t i, int64_t in)
{
    double s = r->scale[d], n = (double)in * s, x = (double)i;        /* n: the resized length before it is rounded */
    switch (r->rule) {
    case C_ASYMMETRIC: return x / s;
    case C_ALIGN_CORNERS: return r->out[d] == 1 ? 0 : x * (double)(in - 1) / (n - 1);
    case C_PYTORCH: return r->out[d] == 1 ? 0 : (x + 0.5) / s - 0.5;
    case C_HALF_SYMMETRIC: {
        double adjust = (double)r->out[d] / n, centre = (double)in / 2;
        return centre * (1 - adjust) + (x + 0.5) / s - 0.5;
    }
    default: return (x + 0.5) / s - 0.5;
    }
}

static int64_t nearest_of(double x, enum nearest rule, int64_t in)
{
    double v = rule == N_FLOOR ? floor(x) : rule == N_CEIL ? ceil(x) : rule == N_PREFER_FLOOR ? ceil(x - 0.5) : floor(x + 0.5);
    return v < 0 ? 0 : v > (double)(in - 1) ? in - 1 : (int64_t)v;
}

struct point { int64_t low[TENSOR_RANK_MAX], high[TENSOR_RANK_MAX]; double part[TENSOR_RANK_MAX]; };

static void place(struct point *p, const struct resize *r, int d, int64_t i, int64_t in)
{
    double x = source(r, d, i, in);
    if (r->out[d] == in && r->scale[d] == 1) { p->low[d] = p->high[d] = i; p->part[d] = 0; return; }
    if (!r->linear) {
        p->low[d] = p->high[d] = nearest_of(x, r->nearest, in);
        p->part[d] = 0;
        return;
    }
    x = x < 0 ? 0 : x > (double)(in - 1) ? (double)(in - 1) : x;
    p->low[d] = (int64_t)x;
    p->high[d] = p->low[d] + 1 < in ? p->low[d] + 1 : p->low[d];
    p->part[d] = x - (double)p->low[d];
}

static double blend(const struct operand *x, const struct point *p, const int64_t *strides)
{
    double sum = 0, v;
    for (unsigned corner = 0; corner < 1u << x->rank; corner++) {
        double weight = 1;
        int64_t at = 0;
        for (int d = 0; d < x->rank && weight != 0; d++) {
            bool high = corner >> d & 1;
            weight *= high ? p->part[d] : 1 - p->part[d];
            at += (high ? p->high[d] : p->low[d]) * strides[d];
        }
        if (weight == 0) continue;
        real_load(&v, x->dtype, x->data, (uint64_t)at, 0, 1);
        sum += weight * v;
    }
    return sum;
}

static enum status eval_resize(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    struct resize r;
    struct point p;
    bool known;
    int64_t xs[TENSOR_RANK_MAX], ys[TENSOR_RANK_MAX], index[TENSOR_RANK_MAX] = { 0 };
    int size = operand_size(x);
    enum status st = read_resize(c, &r, &known, err);
    if (st || y->bytes == 0) return st;
    operand_strides(x, xs);
    operand_strides(y, ys);
    for (int d = 0; d < x->rank; d++) place(&p, &r, d, 0, x->dims[d]);
    for (;;) {
        int64_t from = 0, to = 0;
        for (int d = 0; d < x->rank; d++) {
            from += p.low[d] * xs[d];
            to += index[d] * ys[d];
        }
        if (!r.linear) memcpy((char *)y->data + to * size, (const char *)x->data + from * size, (size_t)size);
        else {
            double v = blend(x, &p, xs);
            int64_t k = (int64_t)v;
            if (dtype_is_real(y->dtype)) real_store(y->data, y->dtype, (uint64_t)to, &v, 1);
            else int_store(y->data, y->dtype, (uint64_t)to, &k, 1);
        }
        int d = x->rank - 1;
        while (d >= 0 && ++index[d] == y->dims[d]) {
            index[d] = 0;
            place(&p, &r, d, 0, x->dims[d]);
            d--;
        }
        if (d < 0) return ST_OK;
        place(&p, &r, d, index[d], x->dims[d]);
    }
}

/* Sizes may be worked out from the number of rows (that the rest of the shape is not was checked); scales may not. */
static bool rows_resize(const struct call *c)
{
    for (int i = 1; i < c->in_count; i++)
        if (c->in[i] && (c->in[i]->batched || (c->in[i]->tainted && i != 3))) return false;
    return c->in[0]->batched && c->out[0]->dims[0] == c->in[0]->dims[0];
}

const struct op ops_resize[] = {
    { "Resize", "", 10, 0, 1, 4, 1, 1, OP_LAST, 0, infer_resize, eval_resize, NULL, NULL, NULL, rows_resize },
    { "Upsample", "", 1, 9, 1, 2, 1, 1, OP_LAST, 1, infer_resize, eval_resize, NULL, NULL, NULL, rows_resize },
    { 0 }
};
