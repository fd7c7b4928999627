/* Writing and reading at indices: ScatterElements (and Scatter), ScatterND, GatherND. Elements are bytes; where a reduction is asked, numbers. */
#include <string.h>

#include "base/checked.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum reduction { R_NONE, R_ADD, R_MUL, R_MAX, R_MIN };

static enum reduction reduction_of(const struct node *n)
{
    static const char *const names[] = { "none", "add", "mul", "max", "min" };
    for (int i = 1; i < 5; i++)
        if (node_text_is(n, "reduction", names[i], false)) return (enum reduction)i;
    return R_NONE;
}

static bool is_index(enum dtype t) { return t == DT_I64 || t == DT_I32; }

static int64_t combined(int64_t a, int64_t b, enum reduction how)
{
    switch (how) {
    case R_ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case R_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case R_MAX: return a > b ? a : b;
    default: return a < b ? a : b;
    }
}

static double combined_real(double a, double b, enum reduction how)
{
    switch (how) {
    case R_ADD: return a + b;
    case R_MUL: return a * b;
    case R_MAX: return a > b || a != a ? a : b;
    default: return a < b || a != a ? a : b;
    }
}

/* n elements of u from `from` on go to y from `to` on. */
static void put(struct operand *y, int64_t to, const struct operand *u, int64_t from, int64_t n, enum reduction how)
{
    int size = operand_size(y);
    if (how == R_NONE) {
        memcpy((char *)y->data + to * size, (const char *)u->data + from * size, (size_t)(n * size));
        return;
    }
    for (int64_t k = 0; k < n; k++) {
        uint64_t p = (uint64_t)(to + k), q = (uint64_t)(from + k);
        if (dtype_is_real(y->dtype)) operand_real_put(y, p, combined_real(operand_real(y, p), operand_real(u, q), how));
        else operand_int_put(y, p, combined(operand_int(y, p), operand_int(u, q), how));
    }
}

static enum status check_types(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1], *u = c->in[2];
    if (!is_index(i->dtype) || u->dtype != x->dtype || operand_size(x) == 0) return call_error(c, err, ST_BAD_INPUT, "data of %s, indices of %s and updates of %s do not go together", dtype_name(x->dtype), dtype_name(i->dtype), dtype_name(u->dtype));
    if (reduction_of(c->node) != R_NONE && !dtype_is_number(x->dtype)) return call_error(c, err, ST_UNSUPPORTED, "its reduction is not computed for %s", dtype_name(x->dtype));
    return ST_OK;
}

/* The result starts as a copy of the data. */
static void start(struct call *c)
{
    if (c->in[0]->bytes && c->out[0]->data != c->in[0]->data) memcpy(c->out[0]->data, c->in[0]->data, c->in[0]->bytes);
}

static enum status infer_elements(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1], *u = c->in[2];
    int64_t axis = node_int(c->node, "axis", 0);
    enum status st = check_types(c, err);
    if (st) return st;
    bool fits = axis_fix(&axis, x->rank) && i->rank == x->rank && u->rank == x->rank && memcmp(i->dims, u->dims, (size_t)x->rank * sizeof *i->dims) == 0;
    for (int d = 0; fits && d < x->rank; d++) fits = d == axis || i->dims[d] <= x->dims[d];
    return fits ? infer_same(c, err) : call_error(c, err, ST_BAD_INPUT, "indices and updates do not fit the data");
}

static enum status eval_elements(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *indices = c->in[1];
    int64_t axis = node_int(c->node, "axis", 0), at[TENSOR_RANK_MAX] = { 0 }, n = x->rank ? x->dims[axis < 0 ? axis + x->rank : axis] : 0;
    enum reduction how = reduction_of(c->node);
    axis_fix(&axis, x->rank);
    start(c);
    for (uint64_t k = 0, count = operand_count(indices); k < count; k++) {
        int64_t i = operand_int(indices, k), to = 0;
        if (i < -n || i >= n) return call_error(c, err, ST_BAD_INPUT, "index %lld is not in a dimension of %lld", (long long)i, (long long)n);
        for (int d = 0; d < x->rank; d++) to = to * x->dims[d] + (d == axis ? (i < 0 ? i + n : i) : at[d]);
        put(c->out[0], to, c->in[2], (int64_t)k, 1, how);
        for (int d = x->rank - 1; d >= 0 && ++at[d] == indices->dims[d]; d--) at[d] = 0;
    }
    return ST_OK;
}

/* ---- ScatterND, GatherND: the last dimension of the indices names leading dimensions of the data ---- */
/* The element where the slice that index row `row` names begins; the data's dimensions from `first` on are meant. */
static enum status slice_at(const struct call *c, const struct operand *indices, int64_t row, int first, int64_t *out, struct err *err)
{
    const struct operand *x = c->in[0];
    int depth = (int)indices->dims[indices->rank - 1];
    int64_t at = 0;
    for (int d = 0; d < depth; d++) {
        int64_t i = operand_int(indices, (uint64_t)(row * depth + d)), n = x->dims[first + d];
        if (i < -n || i >= n) return call_error(c, err, ST_BAD_INPUT, "index %lld is not in a dimension of %lld", (long long)i, (long long)n);
        at = at * n + (i < 0 ? i + n : i);
    }
    *out = at * dims_product(x->dims, first + depth, x->rank);
    return ST_OK;
}

static enum status infer_scatter_nd(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1], *u = c->in[2];
    enum status st = check_types(c, err);
    if (st) return st;
    int64_t depth = i->rank ? i->dims[i->rank - 1] : -1;
    bool fits = depth >= 0 && depth <= x->rank && u->rank == i->rank - 1 + x->rank - (int)depth;
    for (int d = 0; fits && d < i->rank - 1; d++) fits = u->dims[d] == i->dims[d];
    for (int d = (int)depth; fits && d < x->rank; d++) fits = u->dims[i->rank - 1 + d - (int)depth] == x->dims[d];
    return fits ? infer_same(c, err) : call_error(c, err, ST_BAD_INPUT, "indices and updates do not fit the data");
}

static enum status eval_scatter_nd(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1];
    int64_t rows = dims_product(i->dims, 0, i->rank - 1), run = dims_product(x->dims, (int)i->dims[i->rank - 1], x->rank), to = 0;
    enum reduction how = reduction_of(c->node);
    enum status st = ST_OK;
    start(c);
    for (int64_t row = 0; row < rows && !st && run; row++) {
        st = slice_at(c, i, row, 0, &to, err);
        if (!st) put(c->out[0], to, c->in[2], row * run, run, how);
    }
    return st;
}

static enum status infer_gather_nd(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1];
    int64_t batch = node_int(c->node, "batch_dims", 0), depth = i->rank ? i->dims[i->rank - 1] : -1, dims[2 * TENSOR_RANK_MAX];
    int rank = 0;
    bool fits = is_index(i->dtype) && operand_size(x) && batch >= 0 && depth >= 0 && batch < i->rank && batch + depth <= x->rank;
    for (int d = 0; fits && d < batch; d++) fits = x->dims[d] == i->dims[d];
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "indices do not fit the data");
    for (int d = 0; d < i->rank - 1; d++) dims[rank++] = i->dims[d];
    for (int d = (int)(batch + depth); d < x->rank; d++) dims[rank++] = x->dims[d];
    return call_set(c, 0, x->dtype, dims, rank, err);
}

static enum status eval_gather_nd(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1];
    int batch = (int)node_int(c->node, "batch_dims", 0), depth = (int)i->dims[i->rank - 1], size = operand_size(x);
    int64_t rows = dims_product(i->dims, 0, i->rank - 1), run = dims_product(x->dims, batch + depth, x->rank) * size, per = dims_product(i->dims, batch, i->rank - 1), whole = dims_product(x->dims, batch, x->rank), from = 0;
    enum status st = ST_OK;
    for (int64_t row = 0; row < rows && !st && run; row++) {
        st = slice_at(c, i, row, batch, &from, err);
        if (!st) memcpy((char *)c->out[0]->data + row * run, (const char *)x->data + (row / per * whole + from) * size, (size_t)run);
    }
    return st;
}

const struct op ops_scatter[] = {
    { "ScatterElements", "", 11, 0, 3, 3, 1, 1, 0, 0, infer_elements, eval_elements, NULL, NULL, NULL, NULL, NULL },
    { "Scatter", "", 9, 0, 3, 3, 1, 1, 0, 0, infer_elements, eval_elements, NULL, NULL, NULL, NULL, NULL },
    { "ScatterND", "", 11, 0, 3, 3, 1, 1, 0, 0, infer_scatter_nd, eval_scatter_nd, NULL, NULL, NULL, NULL, NULL },
    { "GatherND", "", 11, 0, 2, 2, 1, 1, 0, 0, infer_gather_nd, eval_gather_nd, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
