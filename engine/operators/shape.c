/* Operators that make, tell or change shapes; the views among them copy nothing. The generators of constants are here too. */
#include <string.h>

#include "base/checked.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

static enum status eval_copy(struct call *c, struct err *err)
{
    (void)err;
    if (c->out[0]->bytes && c->out[0]->data != c->in[0]->data) memcpy(c->out[0]->data, c->in[0]->data, c->out[0]->bytes);
    return ST_OK;
}

/* Reshape: 0 copies a dimension (unless allowzero), one -1 is worked out. */
static enum status infer_reshape(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t dims[TENSOR_RANK_MAX];
    int n = 0, free_at = -1;
    bool known = true;
    if (c->node->opset < 5) {
        const int64_t *a = node_ints(c->node, "shape", &n);
        if (n > TENSOR_RANK_MAX) return call_error(c, err, ST_UNSUPPORTED, "its shape has more than %d dimensions", TENSOR_RANK_MAX);
        if (n) memcpy(dims, a, (size_t)n * sizeof *dims);
    } else {
        if (c->in_count < 2 || !c->in[1]) return call_error(c, err, ST_BAD_INPUT, "input 1, the shape, is missing");
        enum status st = call_ints(c, 1, dims, TENSOR_RANK_MAX, &n, &known, err);
        if (st || !known) return st;
    }
    uint64_t have = operand_count(x), product = 1;
    bool zero = node_int(c->node, "allowzero", 0) != 0;
    for (int i = 0; i < n; i++) {
        if (dims[i] == 0 && !zero) {
            if (i >= x->rank) return call_error(c, err, ST_BAD_INPUT, "dimension %d of its shape copies one that the input does not have", i);
            dims[i] = x->dims[i];
        }
        if (dims[i] == -1 && free_at < 0) { free_at = i; continue; }
        if (dims[i] < 0 || !size_mul(product, (uint64_t)dims[i], &product)) return call_error(c, err, ST_BAD_INPUT, "dimension %d of its shape is %lld", i, (long long)dims[i]);
    }
    if (free_at >= 0) {
        if (product == 0 || have % product) goto wrong;
        dims[free_at] = (int64_t)(have / product);
        product = have;
    }
    if (product == have) return call_set(c, 0, x->dtype, dims, n, err);
wrong:;
    char a[80], b[80];
    return call_error(c, err, ST_BAD_INPUT, "%s cannot become %s", shape_text(x->dims, x->rank, a, sizeof a), shape_text(dims, n, b, sizeof b));
}

static enum status infer_flatten(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 1), dims[2] = { 1, 1 };
    if (axis < -(int64_t)x->rank || axis > x->rank) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    if (axis < 0) axis += x->rank;
    for (int d = 0; d < x->rank; d++) dims[d >= axis] *= x->dims[d];
    return call_set(c, 0, x->dtype, dims, 2, err);
}

/* Axes: an attribute before opset 13, input 1 since. */
static enum status read_axes(struct call *c, int64_t *axes, int *n, bool *known, struct err *err)
{
    *known = true;
    if (c->node->opset >= 13) {
        *n = 0;
        return c->in_count > 1 && c->in[1] ? call_ints(c, 1, axes, TENSOR_RANK_MAX, n, known, err) : ST_OK;
    }
    const int64_t *a = node_ints(c->node, "axes", n);
    if (*n > TENSOR_RANK_MAX) return call_error(c, err, ST_BAD_INPUT, "it names %d axes", *n);
    if (*n) memcpy(axes, a, (size_t)*n * sizeof *axes);
    return ST_OK;
}

static enum status infer_squeeze(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axes[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX];
    bool known, drop[TENSOR_RANK_MAX] = { false };
    int n, rank = 0;
    enum status st = read_axes(c, axes, &n, &known, err);
    if (st || !known) return st;
    for (int i = 0; i < n; i++) {
        if (!axis_fix(&axes[i], x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axes[i], x->rank);
        if (x->dims[axes[i]] != 1) return call_error(c, err, ST_BAD_INPUT, "dimension %lld is %lld, not 1", (long long)axes[i], (long long)x->dims[axes[i]]);
        drop[axes[i]] = true;
    }
    for (int d = 0; d < x->rank; d++)
        if (!(n ? drop[d] : x->dims[d] == 1)) dims[rank++] = x->dims[d];
    return call_set(c, 0, x->dtype, dims, rank, err);
}

static enum status infer_unsqueeze(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axes[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX];
    bool known, fresh[TENSOR_RANK_MAX] = { false };
    int n, from = 0;
    enum status st = read_axes(c, axes, &n, &known, err);
    if (st || !known) return st;
    int rank = x->rank + n;
    if (rank > TENSOR_RANK_MAX) return call_error(c, err, ST_UNSUPPORTED, "its result has %d dimensions; at most %d are taken", rank, TENSOR_RANK_MAX);
    for (int i = 0; i < n; i++) {
        if (!axis_fix(&axes[i], rank) || fresh[axes[i]]) return call_error(c, err, ST_BAD_INPUT, "axis %lld is repeated or does not fit rank %d", (long long)axes[i], rank);
        fresh[axes[i]] = true;
    }
    for (int d = 0; d < rank; d++) dims[d] = fresh[d] ? 1 : x->dims[from++];
    return call_set(c, 0, x->dtype, dims, rank, err);
}

static enum status infer_identity(struct call *c, struct err *err) { return infer_same(c, err); }

/* Dropout at inference is the identity; its mask is all true. */
static enum status infer_dropout(struct call *c, struct err *err)
{
    const struct operand *t = c->in_count > 2 ? c->in[2] : NULL;
    if (t && (t->dtype != DT_BOOL || operand_count(t) != 1)) return call_error(c, err, ST_BAD_INPUT, "training_mode must be one bool");
    if (t && !t->data) { c->needs_data = true; return ST_OK; }
    if (t && *(const uint8_t *)t->data) {
        const struct operand *r = c->in[1];
        double ratio = 0.5;
        if (r && !r->data) { c->needs_data = true; return ST_OK; }
        if (r) real_load(&ratio, r->dtype, r->data, 0, 0, 1);
        if (ratio != 0) return call_error(c, err, ST_UNSUPPORTED, "training mode is not for an inference server");
    }
    enum status st = infer_same(c, err);
    if (!st && c->out_count > 1) st = call_set(c, 1, c->node->opset < 10 ? c->in[0]->dtype : DT_BOOL, c->in[0]->dims, c->in[0]->rank, err);
    return st;
}

static enum status eval_dropout(struct call *c, struct err *err)
{
    if (c->out_count > 1 && c->out[1]) {
        struct operand *m = c->out[1];
        double one = 1;
        if (m->dtype == DT_BOOL) memset(m->data, 1, m->bytes);
        else
            for (uint64_t i = 0, n = operand_count(m); i < n; i++) real_store(m->data, m->dtype, i, &one, 1);
    }
    return eval_copy(c, err);
}

static enum status infer_shape(struct call *c, struct err *err)
{
    int rank = c->in[0]->rank;
    int64_t start = node_int(c->node, "start", 0), end = node_int(c->node, "end", rank);
    if (start < 0) start += rank;
    if (end < 0) end += rank;
    start = start < 0 ? 0 : start > rank ? rank : start;
    end = end < 0 ? 0 : end > rank ? rank : end;
    int64_t n = end > start ? end - start : 0;
    return call_set(c, 0, DT_I64, &n, 1, err);
}

static enum status eval_shape(struct call *c, struct err *err)
{
    int rank = c->in[0]->rank;
    int64_t start = node_int(c->node, "start", 0);
    (void)err;
    if (start < 0) start += rank;
    start = start < 0 ? 0 : start > rank ? rank : start;
    if (c->out[0]->bytes) memcpy(c->out[0]->data, &c->in[0]->dims[start], c->out[0]->bytes);
    return ST_OK;
}

static enum status infer_size(struct call *c, struct err *err) { return call_set(c, 0, DT_I64, NULL, 0, err); }

static enum status eval_size(struct call *c, struct err *err)
{
    (void)err;
    *(int64_t *)c->out[0]->data = (int64_t)operand_count(c->in[0]);
    return ST_OK;
}

static enum status infer_fill(struct call *c, struct err *err)
{
    const struct onnx_attribute *a = node_attribute(c->node, "value");
    int64_t dims[TENSOR_RANK_MAX];
    bool known;
    int n;
    if (a && (a->type != ONNX_TENSOR || a->t->location || a->t->tensor.bytes == 0 || a->t->tensor.dtype == DT_STRING || dtype_bits(a->t->tensor.dtype) % 8))
        return call_error(c, err, ST_BAD_INPUT, "its value must be a tensor of one number");
    enum status st = call_ints(c, 0, dims, TENSOR_RANK_MAX, &n, &known, err);
    if (st || !known) return st;
    return call_set(c, 0, a ? a->t->tensor.dtype : DT_F32, dims, n, err);
}

static enum status eval_fill(struct call *c, struct err *err)
{
    static const float zero = 0;
    const struct onnx_attribute *a = node_attribute(c->node, "value");
    size_t size = (size_t)operand_size(c->out[0]);
    const void *v = a ? a->t->tensor.data : &zero;
    char *y = c->out[0]->data;
    (void)err;
    uint64_t bytes = c->out[0]->splat ? size : c->out[0]->bytes;
    for (uint64_t i = 0; i < bytes; i += size) memcpy(y + i, v, size);
    return ST_OK;
}

static bool rows_fill(const struct call *c) { return c->out[0]->rank >= 1; }

/* Range(start, limit, delta): all scalars */
static bool range_number(const struct operand *o, double *real, int64_t *integer)
{
    if (!o->data) return false;
    if (dtype_is_real(o->dtype)) real_load(real, o->dtype, o->data, 0, 0, 1);
    else int_load(integer, o->dtype, o->data, 0, 0, 1);
    return true;
}

static enum status infer_range(struct call *c, struct err *err)
{
    double r[3] = { 0 };
    int64_t k[3] = { 0 }, n;
    for (int i = 0; i < 3; i++) {
        if (c->in[i]->dtype != c->in[0]->dtype || !dtype_is_number(c->in[0]->dtype) || operand_count(c->in[i]) != 1) return call_error(c, err, ST_BAD_INPUT, "it takes three numbers of one type");
        if (!range_number(c->in[i], &r[i], &k[i])) c->needs_data = true;
    }
    if (c->needs_data) return ST_OK;
    if (dtype_is_real(c->in[0]->dtype)) {
        double count = ceil((r[1] - r[0]) / r[2]);
        if (!(count <= 1e12)) return call_error(c, err, ST_TOO_LARGE, "it would make %g numbers", count);
        n = count > 0 ? (int64_t)count : 0;
    } else {
        if (k[2] == 0) return call_error(c, err, ST_BAD_INPUT, "its step is 0");
        __int128 count = ((__int128)k[1] - k[0] + k[2] - (k[2] > 0 ? 1 : -1)) / k[2];
        if (count > (__int128)1000000000000) return call_error(c, err, ST_TOO_LARGE, "it would make too many numbers");
        n = count > 0 ? (int64_t)count : 0;
    }
    return call_set(c, 0, c->in[0]->dtype, &n, 1, err);
}

static enum status eval_range(struct call *c, struct err *err)
{
    double r[3] = { 0 };
    int64_t k[3] = { 0 };
    bool real = dtype_is_real(c->in[0]->dtype);
    (void)err;
    for (int i = 0; i < 3; i++) range_number(c->in[i], &r[i], &k[i]);
    for (int64_t i = 0; i < c->out[0]->dims[0]; i++) {
        double v = r[0] + (double)i * r[2];
        int64_t q = (int64_t)((uint64_t)k[0] + (uint64_t)i * (uint64_t)k[2]);
        if (real) real_store(c->out[0]->data, c->out[0]->dtype, (uint64_t)i, &v, 1);
        else int_store(c->out[0]->data, c->out[0]->dtype, (uint64_t)i, &q, 1);
    }
    return ST_OK;
}

/* ---- proofs: the view keeps dimension 0, so row-major rows stay whole ---- */
static bool rows_view(const struct call *c)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    return x->batched && x->rank >= 1 && y->rank >= 1 && x->dims[0] == y->dims[0] && !(c->in_count > 1 && c->in[1] && c->in[1]->batched);
}

#define VIEW(name, since, in_min, in_max, flags, infer) { name, "", since, 0, in_min, in_max, 1, 1, OP_VIEW | (flags), 0, infer, eval_copy, NULL, NULL, NULL, rows_view, NULL }
const struct op ops_shape[] = {
    VIEW("Reshape", 1, 1, 2, OP_SHAPE_IN1, infer_reshape), VIEW("Flatten", 1, 1, 1, 0, infer_flatten), VIEW("Squeeze", 1, 1, 2, OP_SHAPE_IN1, infer_squeeze),
    VIEW("Unsqueeze", 1, 1, 2, OP_SHAPE_IN1, infer_unsqueeze), VIEW("Identity", 1, 1, 1, OP_LAST | OP_UNARY, infer_identity),
    { "Dropout", "", 1, 0, 1, 3, 1, 2, OP_VIEW, 0, infer_dropout, eval_dropout, NULL, NULL, NULL, rows_first, NULL },
    { "Shape", "", 1, 0, 1, 1, 1, 1, OP_SHAPE_ONLY, 0, infer_shape, eval_shape, NULL, NULL, NULL, NULL, NULL },
    { "Size", "", 1, 0, 1, 1, 1, 1, OP_SHAPE_ONLY, 0, infer_size, eval_size, NULL, NULL, NULL, NULL, NULL },
    { "ConstantOfShape", "", 9, 0, 1, 1, 1, 1, 0, 0, infer_fill, eval_fill, NULL, NULL, NULL, rows_fill, NULL },
    { "Range", "", 11, 0, 3, 3, 1, 1, 0, 0, infer_range, eval_range, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
