/* Products of integers: MatMulInteger, QLinearMatMul, ConvInteger, QLinearConv. Sums are exact; QLinear forms round half to even once, at the end. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"
#include "engine/operators/window.h"

/* Where each part of an operator stands among its inputs; -1: it has none. */
struct parts { int a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, bias; };
static const struct parts parts_integer = { 0, -1, 2, 1, -1, 3, -1, -1, -1 }, parts_linear = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };

static const struct parts *parts_of(const struct call *c) { return c->node->op->code ? &parts_linear : &parts_integer; }
static const struct operand *part(const struct call *c, int i) { return i >= 0 && i < c->in_count ? c->in[i] : NULL; }

static bool is_byte(const struct operand *o) { return o && (o->dtype == DT_U8 || o->dtype == DT_I8 || o->dtype == DT_I16 || o->dtype == DT_U16); }

static int64_t zero_at(const struct operand *o, int64_t i) { return !o ? 0 : operand_int(o, operand_count(o) == 1 ? 0 : (uint64_t)i); }
static double scale_at(const struct operand *o, int64_t i) { return operand_real(o, operand_count(o) == 1 ? 0 : (uint64_t)i); }

/* A number for all or one for each of n. */
static bool each_or_one(const struct operand *o, int64_t n) { return !o || operand_count(o) == 1 || operand_count(o) == (uint64_t)n; }

static enum status check_parts(const struct call *c, int64_t rows, int64_t columns, struct err *err)
{
    const struct parts *p = parts_of(c);
    const struct operand *zeros[] = { part(c, p->a_zero), part(c, p->b_zero), part(c, p->y_zero) }, *scales[] = { part(c, p->a_scale), part(c, p->b_scale), part(c, p->y_scale) };
    bool fits = is_byte(c->in[p->a]) && is_byte(c->in[p->b]);
    for (int i = 0; i < 3 && fits; i++) {
        fits = (!zeros[i] || dtype_is_integer(zeros[i]->dtype)) && (!scales[i] || dtype_is_real(scales[i]->dtype));
        int64_t n = i == 0 ? rows : i == 1 ? columns : 1;
        fits = fits && each_or_one(zeros[i], n) && each_or_one(scales[i], n);
    }
    return fits ? ST_OK : call_error(c, err, ST_UNSUPPORTED, "its types, scales and zero points do not go together");
}

/* A sum as the result has it: int32 itself, or scaled, rounded, shifted and clamped. */
static void put_result(const struct call *c, uint64_t at, int64_t sum, int64_t row, int64_t column)
{
    const struct parts *p = parts_of(c);
    double low, high;
    if (p->y_scale < 0) { operand_int_put(c->out[0], at, sum); return; }
    float scale = (float)(scale_at(part(c, p->a_scale), row) * scale_at(part(c, p->b_scale), column) / scale_at(part(c, p->y_scale), 0));
    double v = nearbyint((double)((float)sum * scale)) + (double)zero_at(part(c, p->y_zero), 0);
    dtype_range(c->out[0]->dtype, &low, &high);
    operand_real_put(c->out[0], at, v != v ? 0 : v < low ? low : v > high ? high : v);
}

static enum dtype result_type(const struct call *c)
{
    const struct operand *z = part(c, parts_of(c)->y_zero);
    return z ? z->dtype : DT_I32;
}

/* ---- matrices ---- */
struct matrices { int64_t m, n, k; struct batch_shape batch; int a_rank, b_rank; };

static enum status read_matrices(const struct call *c, struct matrices *s, struct err *err)
{
    const struct operand *a = c->in[parts_of(c)->a], *b = c->in[parts_of(c)->b];
    *s = (struct matrices){ .a_rank = a->rank, .b_rank = b->rank };
    bool fits = a->rank >= 1 && b->rank >= 1;
    if (fits) {
        s->m = a->rank == 1 ? 1 : a->dims[a->rank - 2];
        s->k = a->dims[a->rank - 1];
        s->n = b->rank == 1 ? 1 : b->dims[b->rank - 1];
        fits = s->k == (b->rank == 1 ? b->dims[0] : b->dims[b->rank - 2]);
    }
    fits = fits && batch_shape_of(&s->batch, a, b);
    return fits ? check_parts(c, s->m, s->n, err) : call_error(c, err, ST_BAD_INPUT, "its inputs cannot be multiplied");
}

static enum status infer_matrices(struct call *c, struct err *err)
{
    struct matrices s;
    enum status st = read_matrices(c, &s, err);
    if (st) return st;
    int64_t dims[TENSOR_RANK_MAX];
    int rank = s.batch.rank;
    memcpy(dims, s.batch.dims, sizeof dims);
    if (s.a_rank > 1) dims[rank++] = s.m;
    if (s.b_rank > 1) dims[rank++] = s.n;
    return call_set(c, 0, result_type(c), dims, rank, err);
}

static enum status eval_matrices(struct call *c, struct err *err)
{
    const struct parts *p = parts_of(c);
    const struct operand *a = c->in[p->a], *b = c->in[p->b], *az = part(c, p->a_zero), *bz = part(c, p->b_zero);
    struct matrices s;
    enum status st = read_matrices(c, &s, err);
    if (st) return st;
    const int64_t batches = dims_product(s.batch.dims, 0, s.batch.rank);
    for (int64_t t = 0; t < batches; t++) {
        int64_t ma = batch_matrix(&s.batch, a, t) * s.m * s.k, mb = batch_matrix(&s.batch, b, t) * s.k * s.n;
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t j = 0; j < s.n; j++) {
                int64_t sum = 0, za = zero_at(az, i), zb = zero_at(bz, j);
                for (int64_t k = 0; k < s.k; k++) sum += (operand_int(a, (uint64_t)(ma + i * s.k + k)) - za) * (operand_int(b, (uint64_t)(mb + k * s.n + j)) - zb);
                put_result(c, (uint64_t)((t * s.m + i) * s.n + j), sum, i, j);
            }
    }
    return ST_OK;
}

/* ---- convolution ---- */
struct conv { struct window w; int64_t groups, channels, filters, space, kernel; };      /* channels of one group; space: of one input plane */

static enum status read_conv(const struct call *c, struct conv *s, struct err *err)
{
    const struct operand *x = c->in[parts_of(c)->a], *w = c->in[parts_of(c)->b], *bias = part(c, parts_of(c)->bias);
    *s = (struct conv){ .groups = node_int(c->node, "group", 1), .space = 1, .kernel = 1 };
    if (w->rank != x->rank || x->rank < 3) return call_error(c, err, ST_BAD_INPUT, "input and weight have %d and %d dimensions", x->rank, w->rank);
    enum status st = window_read(&s->w, c, w->dims + 2, err);
    if (st) return st;
    s->channels = w->dims[1];
    s->filters = w->dims[0];
    if (s->groups < 1 || s->filters % s->groups || x->dims[1] % s->groups || x->dims[1] / s->groups != s->channels) return call_error(c, err, ST_BAD_INPUT, "%lld groups do not fit", (long long)s->groups);
    if (bias && (bias->dtype != DT_I32 || operand_count(bias) != (uint64_t)s->filters)) return call_error(c, err, ST_BAD_INPUT, "its bias must be one int32 for each filter");
    for (int d = 0; d < s->w.dims; d++) {
        s->space *= s->w.in[d];
        s->kernel *= s->w.kernel[d];
    }
    return check_parts(c, 1, s->filters, err);
}

static enum status infer_conv(struct call *c, struct err *err)
{
    struct conv s;
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = read_conv(c, &s, err);
    if (st) return st;
    dims[0] = c->in[0]->dims[0];
    dims[1] = s.filters;
    memcpy(dims + 2, s.w.out, (size_t)s.w.dims * sizeof *dims);
    return call_set(c, 0, result_type(c), dims, s.w.dims + 2, err);
}

/* The sum of one window over one channel: x's plane and w's kernel begin at the given elements. */
static int64_t window_sum(const struct conv *s, const struct operand *x, int64_t plane, int64_t zx, const struct operand *w, int64_t kernel, int64_t zw, const int64_t *out)
{
    int64_t sum = 0;
    for (int64_t k = 0; k < s->kernel; k++) {
        int64_t left = k, at = 0, step = 1;
        bool inside = true;
        for (int d = s->w.dims - 1; d >= 0; left /= s->w.kernel[d], step *= s->w.in[d], d--) {
            int64_t i = out[d] * s->w.stride[d] - s->w.low[d] + left % s->w.kernel[d] * s->w.dilation[d];
            inside = inside && i >= 0 && i < s->w.in[d];
            at += i * step;
        }
        if (inside) sum += (operand_int(x, (uint64_t)(plane + at)) - zx) * (operand_int(w, (uint64_t)(kernel + k)) - zw);
    }
    return sum;
}

static enum status eval_conv(struct call *c, struct err *err)
{
    const struct parts *p = parts_of(c);
    const struct operand *x = c->in[p->a], *w = c->in[p->b], *bias = part(c, p->bias);
    struct conv s;
    enum status st = read_conv(c, &s, err);
    if (st) return st;
    int64_t zx = zero_at(part(c, p->a_zero), 0), per = s.filters / s.groups;
    for (int64_t at = 0, n = (int64_t)operand_count(c->out[0]); at < n; at++) {
        int64_t left = at, out[WINDOW_DIMS];
        for (int d = s.w.dims - 1; d >= 0; left /= s.w.out[d], d--) out[d] = left % s.w.out[d];
        int64_t filter = left % s.filters, image = left / s.filters, group = filter / per, sum = bias ? operand_int(bias, (uint64_t)filter) : 0;
        for (int64_t ch = 0; ch < s.channels; ch++)
            sum += window_sum(&s, x, ((image * s.groups + group) * s.channels + ch) * s.space, zx, w, (filter * s.channels + ch) * s.kernel, zero_at(part(c, p->b_zero), filter), out);
        put_result(c, (uint64_t)at, sum, 0, filter);
    }
    return ST_OK;
}

#define PRODUCT(name, in_min, in_max, linear, infer, eval) { name, "", 10, 0, in_min, in_max, 1, 1, OP_PRODUCT, linear, infer, eval, NULL, NULL, NULL, NULL, NULL }
const struct op ops_products[] = {
    PRODUCT("MatMulInteger", 2, 4, 0, infer_matrices, eval_matrices), PRODUCT("QLinearMatMul", 8, 8, 1, infer_matrices, eval_matrices),
    PRODUCT("ConvInteger", 2, 4, 0, infer_conv, eval_conv), PRODUCT("QLinearConv", 8, 9, 1, infer_conv, eval_conv),
    { 0 }
};
