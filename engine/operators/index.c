/* Gather and the operators that answer with places: ArgMax, ArgMin, TopK. Every index that comes as data is checked while running (R32). */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

/* ---- Gather ---- */
static enum status infer_gather(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1];
    int64_t axis = node_int(c->node, "axis", 0), dims[2 * TENSOR_RANK_MAX];
    int rank = 0;
    if (operand_size(x) == 0 || (i->dtype != DT_I64 && i->dtype != DT_I32)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s at %s", dtype_name(x->dtype), dtype_name(i->dtype));
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    for (int d = 0; d < axis; d++) dims[rank++] = x->dims[d];
    for (int d = 0; d < i->rank; d++) dims[rank++] = i->dims[d];
    for (int d = (int)axis + 1; d < x->rank; d++) dims[rank++] = x->dims[d];
    return call_set(c, 0, x->dtype, dims, rank, err);
}

static enum status fix_index(const struct call *c, const struct operand *indices, int64_t k, int64_t n, int64_t *out, struct err *err)
{
    int_load(out, indices->dtype, indices->data, (uint64_t)k, 0, 1);
    if (*out < -n || *out >= n) return call_error(c, err, ST_BAD_INPUT, "index %lld is outside a dimension of %lld", (long long)*out, (long long)n);
    if (*out < 0) *out += n;
    return ST_OK;
}

static enum status eval_gather(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *indices = c->in[1];
    int64_t axis = node_int(c->node, "axis", 0), at;
    axis_fix(&axis, x->rank);
    int64_t outer = dims_product(x->dims, 0, (int)axis), n = x->dims[axis], count = (int64_t)operand_count(indices);
    size_t bytes = (size_t)(dims_product(x->dims, (int)axis + 1, x->rank) * operand_size(x));
    char *y = c->out[0]->data;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < count; k++, y += bytes) {
            enum status st = fix_index(c, indices, k, n, &at, err);
            if (st) return st;
            if (bytes) memcpy(y, (const char *)x->data + (size_t)(o * n + at) * bytes, bytes);
        }
    return ST_OK;
}

static void tasks_gather(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0);
    struct gpu_task *t = task_add(l, GPU_GATHER);
    axis_fix(&axis, x->rank);
    task_value(l, t, x);
    task_value(l, t, c->in[1]);
    task_value(l, t, c->out[0]);
    task_fault(l, t);
    t->u.gather = (struct gpu_gather){ .size = gpu_type_bytes(t->type[0]), .outer = dims_product(x->dims, 0, (int)axis), .n = x->dims[axis], .inner = dims_product(x->dims, (int)axis + 1, x->rank), .count = (int64_t)operand_count(c->in[1]) };
    if (x->dims[axis] == 0) task_refuse(l);
}

static bool rows_gather(const struct call *c)
{
    int64_t axis = node_int(c->node, "axis", 0);
    if (!axis_fix(&axis, c->in[0]->rank)) return false;
    if (c->in[0]->batched) return axis != 0 && !call_any_tainted(c, 1);
    return axis == 0 && !c->in[0]->tainted && c->in[1]->batched;          /* an embedding: rows of indices choose */
}

/* ---- GatherElements ---- */
static enum status infer_gather_elements(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *i = c->in[1];
    int64_t axis = node_int(c->node, "axis", 0);
    if (operand_size(x) == 0 || (i->dtype != DT_I64 && i->dtype != DT_I32)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s at %s", dtype_name(x->dtype), dtype_name(i->dtype));
    if (!axis_fix(&axis, x->rank) || i->rank != x->rank) return call_error(c, err, ST_BAD_INPUT, "axis %lld and indices of rank %d do not fit rank %d", (long long)axis, i->rank, x->rank);
    for (int d = 0; d < x->rank; d++)
        if (d != axis && i->dims[d] > x->dims[d]) return call_error(c, err, ST_BAD_INPUT, "dimension %d of the indices is larger than the input's", d);
    return call_set(c, 0, x->dtype, i->dims, i->rank, err);
}

static enum status eval_gather_elements(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *indices = c->in[1];
    int64_t axis = node_int(c->node, "axis", 0), s[TENSOR_RANK_MAX], index[TENSOR_RANK_MAX] = { 0 }, at;
    int size = operand_size(x);
    axis_fix(&axis, x->rank);
    operand_strides(x, s);
    for (int64_t k = 0, n = (int64_t)operand_count(indices); k < n; k++) {
        enum status st = fix_index(c, indices, k, x->dims[axis], &at, err);
        if (st) return st;
        int64_t from = at * s[axis];
        for (int d = 0; d < x->rank; d++)
            if (d != axis) from += index[d] * s[d];
        memcpy((char *)c->out[0]->data + k * size, (const char *)x->data + from * size, (size_t)size);
        for (int d = x->rank - 1; d >= 0 && ++index[d] == indices->dims[d]; d--) index[d] = 0;
    }
    return ST_OK;
}

/* ---- ArgMax, ArgMin ---- */
static enum status infer_arg(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), dims[TENSOR_RANK_MAX];
    int rank = 0;
    if (!dtype_is_real(x->dtype) && !dtype_is_integer(x->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(x->dtype));
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    if (x->dims[axis] == 0) return call_error(c, err, ST_BAD_INPUT, "dimension %lld is empty", (long long)axis);
    for (int d = 0; d < x->rank; d++) {
        if (d != axis) dims[rank++] = x->dims[d];
        else if (node_int(c->node, "keepdims", 1)) dims[rank++] = 1;
    }
    return call_set(c, 0, DT_I64, dims, rank, err);
}

/* Is element a before element b? Larger first unless smallest. */
static bool better(const struct operand *x, int64_t a, int64_t b, bool smallest)
{
    if (dtype_is_real(x->dtype)) {
        double p, q;
        real_load(&p, x->dtype, x->data, (uint64_t)a, 0, 1);
        real_load(&q, x->dtype, x->data, (uint64_t)b, 0, 1);
        return smallest ? p < q : p > q;
    }
    int64_t p, q;
    int_load(&p, x->dtype, x->data, (uint64_t)a, 0, 1);
    int_load(&q, x->dtype, x->data, (uint64_t)b, 0, 1);
    if (x->dtype == DT_U64) return smallest ? (uint64_t)p < (uint64_t)q : (uint64_t)p > (uint64_t)q;
    return smallest ? p < q : p > q;
}

static enum status eval_arg(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), *y = c->out[0]->data;
    bool last = node_int(c->node, "select_last_index", 0) != 0, smallest = c->node->op->code != 0;
    (void)err;
    axis_fix(&axis, x->rank);
    int64_t outer = dims_product(x->dims, 0, (int)axis), n = x->dims[axis], inner = dims_product(x->dims, (int)axis + 1, x->rank);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t best = 0, base = o * n * inner + i;
            for (int64_t k = 1; k < n; k++) {
                bool take = last ? !better(x, base + best * inner, base + k * inner, smallest) : better(x, base + k * inner, base + best * inner, smallest);
                if (take) best = k;
            }
            *y++ = best;
        }
    return ST_OK;
}

static void tasks_arg(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0);
    struct gpu_task *t = task_add(l, GPU_REDUCE);
    axis_fix(&axis, x->rank);
    const int64_t outer = dims_product(x->dims, 0, (int)axis), n = x->dims[axis], inner = dims_product(x->dims, (int)axis + 1, x->rank);
    task_value(l, t, x);
    task_value(l, t, c->out[0]);
    t->u.reduce = (struct gpu_reduce){ .reduction = c->node->op->code ? GPU_RED_ARGMIN : GPU_RED_ARGMAX, .last = node_int(c->node, "select_last_index", 0) != 0, .count = outer * inner, .length = n, .kept_rank = 2, .gone_rank = 1,
                                       .kept = { outer, inner }, .kept_steps = { n * inner, 1 }, .gone = { n }, .gone_steps = { inner } };
}

static bool rows_axis(const struct call *c, int64_t otherwise)
{
    int64_t axis = node_int(c->node, "axis", otherwise);
    return axis_fix(&axis, c->in[0]->rank) && axis != 0 && c->in[0]->batched && !call_any_tainted(c, 1) && c->out[0]->rank >= 1;
}
static bool rows_arg(const struct call *c) { return rows_axis(c, 0); }
static bool rows_topk(const struct call *c) { return rows_axis(c, -1); }

/* ---- TopK ---- */
static enum status read_k(struct call *c, int64_t *k, bool *known, struct err *err)
{
    int n = 1;
    *known = true;
    if (c->node->opset < 10) { *k = node_int(c->node, "k", 0); return ST_OK; }
    if (c->in_count < 2 || !c->in[1]) return call_error(c, err, ST_BAD_INPUT, "k is missing");
    enum status st = call_ints(c, 1, k, 1, &n, known, err);
    return !st && n != 1 ? call_error(c, err, ST_BAD_INPUT, "k must be one number") : st;
}

static enum status infer_topk(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1), k, dims[TENSOR_RANK_MAX];
    bool known;
    if (!dtype_is_real(x->dtype) && !dtype_is_integer(x->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(x->dtype));
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    enum status st = read_k(c, &k, &known, err);
    if (st || !known) return st;
    if (k < 0 || k > x->dims[axis]) return call_error(c, err, ST_BAD_INPUT, "k is %lld for a dimension of %lld", (long long)k, (long long)x->dims[axis]);
    memcpy(dims, x->dims, sizeof dims);
    dims[axis] = k;
    st = call_set(c, 0, x->dtype, dims, x->rank, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, DT_I64, dims, x->rank, err);
}

static uint64_t scratch_topk(const struct call *c)
{
    int64_t axis = node_int(c->node, "axis", -1);
    return axis_fix(&axis, c->in[0]->rank) ? (uint64_t)c->in[0]->dims[axis] * 8 : 0;
}

/* Restores the heap `h` of n places below i: the worst of the kept ones is on top. */
static void sift(int64_t *h, int64_t n, int64_t i, const struct operand *x, int64_t base, int64_t inner, bool smallest)
{
    for (;;) {
        int64_t worst = i;
        for (int64_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++) {
            int64_t a = base + h[worst] * inner, b = base + h[child] * inner;
            bool before = better(x, a, b, smallest) || (!better(x, b, a, smallest) && h[worst] < h[child]);
            if (before) worst = child;
        }
        if (worst == i) return;
        int64_t t = h[i];
        h[i] = h[worst];
        h[worst] = t;
        i = worst;
    }
}

static void topk_row(const struct call *c, int64_t base, int64_t out, int64_t inner, int64_t n, int64_t k)
{
    const struct operand *x = c->in[0];
    bool smallest = !node_int(c->node, "largest", 1);
    int64_t *h = c->scratch;
    for (int64_t i = 0; i < k; i++) h[i] = i;
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift(h, k, i, x, base, inner, smallest);
    for (int64_t i = k; i < n && k; i++) {
        if (!better(x, base + i * inner, base + h[0] * inner, smallest)) continue;
        h[0] = i;
        sift(h, k, 0, x, base, inner, smallest);
    }
    for (int64_t left = k; left > 0; left--) {          /* the worst leaves first and goes last */
        int64_t place = h[0];
        h[0] = h[left - 1];
        sift(h, left - 1, 0, x, base, inner, smallest);
        int64_t at = out + (left - 1) * inner;
        int size = operand_size(x);
        if (c->out[0]) memcpy((char *)c->out[0]->data + at * size, (const char *)x->data + (base + place * inner) * size, (size_t)size);
        if (c->out_count > 1 && c->out[1]) ((int64_t *)c->out[1]->data)[at] = place;
    }
}

static enum status eval_topk(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", -1), k;
    bool known;
    enum status st = read_k(c, &k, &known, err);
    if (st) return st;
    axis_fix(&axis, x->rank);
    int64_t outer = dims_product(x->dims, 0, (int)axis), n = x->dims[axis], inner = dims_product(x->dims, (int)axis + 1, x->rank);
    if (k < 0 || k > n) return call_error(c, err, ST_BAD_INPUT, "k is %lld for a dimension of %lld", (long long)k, (long long)n);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) topk_row(c, o * n * inner + i, o * k * inner + i, inner, n, k);
    return ST_OK;
}

const struct op ops_index[] = {
    { "Gather", "", 1, 0, 2, 2, 1, 1, 0, 0, infer_gather, eval_gather, NULL, NULL, NULL, rows_gather, tasks_gather },
    { "GatherElements", "", 11, 0, 2, 2, 1, 1, 0, 0, infer_gather_elements, eval_gather_elements, NULL, NULL, NULL, NULL, NULL },
    { "ArgMax", "", 1, 0, 1, 1, 1, 1, 0, 0, infer_arg, eval_arg, NULL, NULL, NULL, rows_arg, tasks_arg },
    { "ArgMin", "", 1, 0, 1, 1, 1, 1, 0, 1, infer_arg, eval_arg, NULL, NULL, NULL, rows_arg, tasks_arg },
    { "TopK", "", 1, 0, 1, 2, 1, 2, 0, 0, infer_topk, eval_topk, scratch_topk, NULL, NULL, rows_topk, NULL },
    { 0 }
};
