/* Tensors made from positions or moved by them: Trilu, EyeLike, OneHot, ReverseSequence, CenterCropPad, CumSum and CumProd, Compress, NonZero, Det. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

/* ---- Trilu(x, k) ---- */
static enum status infer_trilu(struct call *c, struct err *err)
{
    const struct operand *k = c->in_count > 1 ? c->in[1] : NULL;
    enum status st = call_need_sized(c, err);
    if (st) return st;
    if (c->in[0]->rank < 2 || c->in[0]->dtype == DT_STRING || (k && (k->dtype != DT_I64 || operand_count(k) != 1))) return call_error(c, err, ST_BAD_INPUT, "it takes matrices of numbers and one int64");
    return infer_same(c, err);
}

static enum status eval_trilu(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t k = c->in_count > 1 && c->in[1] ? operand_int(c->in[1], 0) : 0, rows = x->dims[x->rank - 2], columns = x->dims[x->rank - 1], most = rows + columns;
    bool upper = node_int(c->node, "upper", 1) != 0;
    int size = operand_size(x);
    (void)err;
    k = k > most ? most : k < -most ? -most : k;
    for (int64_t at = 0, n = (int64_t)operand_count(x); at < n; at++) {
        int64_t i = at / columns % rows, j = at % columns;
        if (upper ? j - i >= k : j - i <= k) memcpy((char *)c->out[0]->data + at * size, (const char *)x->data + at * size, (size_t)size);
        else memset((char *)c->out[0]->data + at * size, 0, (size_t)size);
    }
    return ST_OK;
}

/* ---- EyeLike ---- */
static enum status infer_eye(struct call *c, struct err *err)
{
    enum dtype t = (enum dtype)node_int(c->node, "dtype", (int64_t)c->in[0]->dtype);
    if (c->in[0]->rank != 2 || !dtype_is_number(t)) return call_error(c, err, ST_BAD_INPUT, "it takes a matrix and gives numbers");
    return call_set(c, 0, t, c->in[0]->dims, 2, err);
}

static enum status eval_eye(struct call *c, struct err *err)
{
    int64_t k = node_int(c->node, "k", 0), rows = c->in[0]->dims[0], columns = c->in[0]->dims[1];
    (void)err;
    memset(c->out[0]->data, 0, c->out[0]->bytes);
    for (int64_t i = 0; i < rows && k > -INT32_MAX && k < INT32_MAX; i++)
        if (i + k >= 0 && i + k < columns) operand_real_put(c->out[0], (uint64_t)(i * columns + i + k), 1);
    return ST_OK;
}

/* ---- OneHot(indices, depth, values) ---- */
static enum status infer_one_hot(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *depth = c->in[1], *values = c->in[2];
    int64_t axis = node_int(c->node, "axis", -1), dims[TENSOR_RANK_MAX + 1];
    if (!dtype_is_number(x->dtype) || !dtype_is_number(depth->dtype) || operand_count(depth) != 1 || values->rank != 1 || values->dims[0] != 2 || operand_size(values) == 0 || !axis_fix(&axis, x->rank + 1)) return call_error(c, err, ST_BAD_INPUT, "indices, depth, values or axis do not fit");
    if (!depth->data) { c->needs_data = true; return ST_OK; }
    double n = operand_real(depth, 0);
    if (!(n >= 1 && n <= 1e9)) return call_error(c, err, ST_BAD_INPUT, "its depth is %g", n);
    for (int d = 0, from = 0; d <= x->rank; d++) dims[d] = d == axis ? (int64_t)n : x->dims[from++];
    return call_set(c, 0, values->dtype, dims, x->rank + 1, err);
}

static enum status eval_one_hot(struct call *c, struct err *err)
{
    struct operand *y = c->out[0];
    int64_t axis = node_int(c->node, "axis", -1);
    int size = operand_size(y);
    (void)err;
    axis_fix(&axis, y->rank);
    int64_t depth = y->dims[axis], inner = dims_product(y->dims, (int)axis + 1, y->rank), n = (int64_t)operand_count(y);
    for (int64_t at = 0; at < n; at++) {
        double hot = operand_real(c->in[0], (uint64_t)(at / (inner * depth) * inner + at % inner));
        bool on = hot >= -(double)depth && hot < (double)depth && (int64_t)(hot < 0 ? hot + (double)depth : hot) == at / inner % depth;
        memcpy((char *)y->data + at * size, (const char *)c->in[2]->data + (on ? size : 0), (size_t)size);
    }
    return ST_OK;
}

/* ---- ReverseSequence(x, lengths) ---- */
static enum status infer_reverse(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *n = c->in[1];
    int64_t time = node_int(c->node, "time_axis", 0), batch = node_int(c->node, "batch_axis", 1);
    enum status st = call_need_sized(c, err);
    if (st) return st;
    bool fits = x->rank >= 2 && time >= 0 && time < 2 && batch == 1 - time && n->dtype == DT_I64 && n->rank == 1 && n->dims[0] == x->dims[batch];
    return fits ? infer_same(c, err) : call_error(c, err, ST_BAD_INPUT, "its axes must be 0 and 1, with a length for each of the batch");
}

static enum status eval_reverse(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    bool time_first = node_int(c->node, "time_axis", 0) == 0;
    int64_t times = x->dims[!time_first], run = dims_product(x->dims, 2, x->rank) * operand_size(x);
    for (int64_t at = 0; at < x->dims[0] * x->dims[1] && run; at++) {
        int64_t t = time_first ? at / x->dims[1] : at % x->dims[1], b = time_first ? at % x->dims[1] : at / x->dims[1], n = operand_int(c->in[1], (uint64_t)b);
        if (n < 0 || n > times) return call_error(c, err, ST_BAD_INPUT, "a length is %lld of %lld", (long long)n, (long long)times);
        int64_t from = t < n ? n - 1 - t : t;
        memcpy((char *)c->out[0]->data + at * run, (const char *)x->data + (time_first ? from * x->dims[1] + b : b * x->dims[1] + from) * run, (size_t)run);
    }
    return ST_OK;
}

/* ---- CenterCropPad(x, shape) ---- */
static enum status infer_center(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t want[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX];
    int n, axes_count;
    bool known;
    const int64_t *axes = node_ints(c->node, "axes", &axes_count);
    enum status st = call_need_sized(c, err);
    if (!st) st = call_ints(c, 1, want, TENSOR_RANK_MAX, &n, &known, err);
    if (st || !known) return st;
    if (n != (axes ? axes_count : x->rank) || x->dtype == DT_STRING) return call_error(c, err, ST_BAD_INPUT, "its shape has %d numbers", n);
    memcpy(dims, x->dims, sizeof dims);
    for (int i = 0; i < n; i++) {
        int64_t axis = axes ? axes[i] : i;
        if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
        dims[axis] = want[i];
    }
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

static enum status eval_center(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct operand *y = c->out[0];
    int size = operand_size(x);
    (void)err;
    for (int64_t at = 0, n = (int64_t)operand_count(y); at < n; at++) {
        int64_t from = 0, step = 1, left = at;
        bool inside = true;
        for (int d = x->rank - 1; d >= 0; d--) {
            int64_t i = left % y->dims[d], more = x->dims[d] - y->dims[d];
            left /= y->dims[d];
            i += more >= 0 ? more / 2 : -(-more / 2);
            inside = inside && i >= 0 && i < x->dims[d];
            from += i * step;
            step *= x->dims[d];
        }
        if (inside) memcpy((char *)y->data + at * size, (const char *)x->data + from * size, (size_t)size);
        else memset((char *)y->data + at * size, 0, (size_t)size);
    }
    return ST_OK;
}

/* ---- CumSum, CumProd(x, axis) ---- */
static enum status infer_cumulate(struct call *c, struct err *err)
{
    const struct operand *axis = c->in[1];
    if (!dtype_is_number(c->in[0]->dtype) || (axis->dtype != DT_I64 && axis->dtype != DT_I32) || operand_count(axis) != 1) return call_error(c, err, ST_BAD_INPUT, "it takes numbers and one axis");
    return infer_same(c, err);
}

static enum status eval_cumulate(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = operand_int(c->in[1], 0);
    bool exclusive = node_int(c->node, "exclusive", 0) != 0, back = node_int(c->node, "reverse", 0) != 0, real = dtype_is_real(x->dtype), product_of = c->node->op->code == 1;
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    int64_t n = x->dims[axis], inner = dims_product(x->dims, (int)axis + 1, x->rank), outer = dims_product(x->dims, 0, (int)axis);
    for (int64_t k = 0; k < outer * inner; k++) {
        double sum = product_of;
        uint64_t whole = product_of;
        for (int64_t i = 0; i < n; i++) {
            uint64_t at = (uint64_t)(k / inner * n * inner + (back ? n - 1 - i : i) * inner + k % inner);
            double v = real ? operand_real(x, at) : 0;
            uint64_t w = real ? 0 : (uint64_t)operand_int(x, at);
            double next = product_of ? sum * v : sum + v;
            uint64_t next_whole = product_of ? whole * w : whole + w;
            if (real) operand_real_put(c->out[0], at, exclusive ? sum : next);
            else operand_int_put(c->out[0], at, (int64_t)(exclusive ? whole : next_whole));
            sum = next;
            whole = next_whole;
        }
    }
    return ST_OK;
}

/* ---- results whose size depends on data ---- */
static bool holds(const struct operand *o, uint64_t k) { return dtype_is_real(o->dtype) ? operand_real(o, k) != 0 : operand_int(o, k) != 0; }

static enum status eval_non_zero(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t dims[2] = { x->rank ? x->rank : 1, 0 }, at = 0;
    if (!dtype_is_number(x->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(x->dtype));
    uint64_t n = operand_count(x);
    for (uint64_t k = 0; k < n; k++) dims[1] += holds(x, k);
    enum status st = call_make(c, 0, DT_I64, dims, 2, err);
    int64_t *y = c->out[0]->data;
    for (uint64_t k = 0; k < n && !st; k++) {
        if (!holds(x, k)) continue;
        int64_t left = (int64_t)k;
        for (int d = x->rank - 1; d >= 0; left /= x->dims[d], d--) y[d * dims[1] + at] = left % x->dims[d];
        if (x->rank == 0) y[at] = 0;
        at++;
    }
    return st;
}

static enum status eval_compress(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *keep = c->in[1];
    int64_t axis = node_int(c->node, "axis", 0), dims[TENSOR_RANK_MAX], flat = (int64_t)operand_count(x), kept = 0;
    bool whole = !node_attribute(c->node, "axis");
    enum status st = call_need_sized(c, err);
    if (st) return st;
    if (keep->dtype != DT_BOOL || keep->rank != 1 || (!whole && !axis_fix(&axis, x->rank))) return call_error(c, err, ST_BAD_INPUT, "the condition must be a list of bools, and axis %lld fit", (long long)axis);
    memcpy(dims, x->dims, sizeof dims);
    if (whole) { dims[0] = flat; axis = 0; }
    int rank = whole ? 1 : x->rank;
    int64_t n = dims[axis], inner = dims_product(dims, (int)axis + 1, rank) * operand_size(x), outer = dims_product(dims, 0, (int)axis), listed = keep->dims[0] < n ? keep->dims[0] : n;
    const uint8_t *yes = keep->data;
    for (int64_t i = 0; i < listed; i++) kept += yes[i] != 0;
    dims[axis] = kept;
    st = call_make(c, 0, x->dtype, dims, rank, err);
    char *y = c->out[0]->data;
    for (int64_t o = 0; o < outer && !st && inner; o++)
        for (int64_t i = 0; i < listed; i++) {
            if (!yes[i]) continue;
            memcpy(y, (const char *)x->data + (o * n + i) * inner, (size_t)inner);
            y += inner;
        }
    return st;
}

/* ---- Det: elimination with the largest pivot ---- */
static enum status infer_det(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    if (!dtype_is_real(x->dtype) || x->rank < 2 || x->dims[x->rank - 1] != x->dims[x->rank - 2]) return call_error(c, err, ST_BAD_INPUT, "it takes square matrices of a floating type");
    return call_set(c, 0, x->dtype, x->dims, x->rank - 2, err);
}

static double determinant(double *a, int64_t n)
{
    double det = 1;
    for (int64_t k = 0; k < n; k++) {
        int64_t best = k;
        for (int64_t i = k; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[best * n + k])) best = i;
        if (a[best * n + k] == 0) return 0;
        for (int64_t j = 0; j < n && best != k; j++) {
            double t = a[k * n + j];
            a[k * n + j] = a[best * n + j];
            a[best * n + j] = t;
        }
        det *= best != k ? -a[k * n + k] : a[k * n + k];
        for (int64_t i = k + 1; i < n; i++) {
            double f = a[i * n + k] / a[k * n + k];
            for (int64_t j = k; j < n; j++) a[i * n + j] -= f * a[k * n + j];
        }
    }
    return det;
}

static enum status eval_det(struct call *c, struct err *err)
{
    int64_t n = c->in[0]->dims[c->in[0]->rank - 1];
    struct reals r;
    (void)err;
    reals_begin(&r, c);
    for (int64_t k = 0, count = (int64_t)operand_count(c->out[0]); k < count; k++) r.out[0][k] = determinant(r.in[0] + k * n * n, n);
    reals_end(&r, c);
    return ST_OK;
}

#define PLAIN(name, since, in_min, in_max, code, infer, eval, scratch) { name, "", since, 0, in_min, in_max, 1, 1, 0, code, infer, eval, scratch, NULL, NULL, NULL, NULL }
const struct op ops_arrange[] = {
    PLAIN("Trilu", 14, 1, 2, 0, infer_trilu, eval_trilu, NULL), PLAIN("OneHot", 9, 3, 3, 0, infer_one_hot, eval_one_hot, NULL), PLAIN("ReverseSequence", 10, 2, 2, 0, infer_reverse, eval_reverse, NULL),
    PLAIN("CenterCropPad", 18, 2, 2, 0, infer_center, eval_center, NULL), PLAIN("CumSum", 11, 2, 2, 0, infer_cumulate, eval_cumulate, NULL), PLAIN("CumProd", 26, 2, 2, 1, infer_cumulate, eval_cumulate, NULL),
    { "Det", "", 11, 0, 1, 1, 1, 1, OP_PRODUCT_ALL, 0, infer_det, eval_det, reals_scratch, NULL, NULL, NULL, NULL },
    { "EyeLike", "", 9, 0, 1, 1, 1, 1, OP_SHAPE_ONLY, 0, infer_eye, eval_eye, NULL, NULL, NULL, NULL, NULL },
    { "NonZero", "", 9, 0, 1, 1, 1, 1, OP_MAKES, 0, NULL, eval_non_zero, NULL, NULL, NULL, NULL, NULL },
    { "Compress", "", 9, 0, 2, 2, 1, 1, OP_MAKES, 0, NULL, eval_compress, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
