/* Reductions. One walk over what stays, one inside over what goes; sums are kept in double, so their order is the same for every row. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

enum reduce { R_SUM, R_MEAN, R_MAX, R_MIN, R_PROD, R_L1, R_L2, R_LOG_SUM, R_LOG_SUM_EXP, R_SUM_SQUARE };

static enum status read_axes(struct call *c, bool *gone, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axes[TENSOR_RANK_MAX];
    int n = 0, from = c->node->op->code == R_SUM ? 13 : 18;
    *known = true;
    for (int d = 0; d < TENSOR_RANK_MAX; d++) gone[d] = false;
    if (c->node->opset >= from && c->in_count > 1 && c->in[1]) {
        enum status st = call_ints(c, 1, axes, TENSOR_RANK_MAX, &n, known, err);
        if (st || !*known) return st;
    } else {
        const int64_t *a = node_ints(c->node, "axes", &n);
        if (n > TENSOR_RANK_MAX) return call_error(c, err, ST_BAD_INPUT, "it names %d axes", n);
        if (n) memcpy(axes, a, (size_t)n * sizeof *axes);
    }
    for (int i = 0; i < n; i++) {
        if (!axis_fix(&axes[i], x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axes[i], x->rank);
        gone[axes[i]] = true;
    }
    if (n == 0 && !node_int(c->node, "noop_with_empty_axes", 0))
        for (int d = 0; d < x->rank; d++) gone[d] = true;
    return ST_OK;
}

static enum status infer_reduce(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    bool gone[TENSOR_RANK_MAX], known, keep = node_int(c->node, "keepdims", 1) != 0;
    int64_t dims[TENSOR_RANK_MAX];
    int rank = 0, code = c->node->op->code;
    bool extreme = code == R_MAX || code == R_MIN;
    if (!dtype_is_real(x->dtype) && !dtype_is_integer(x->dtype) && !(extreme && x->dtype == DT_BOOL)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(x->dtype));
    enum status st = read_axes(c, gone, &known, err);
    if (st || !known) return st;
    for (int d = 0; d < x->rank; d++) {
        if (!gone[d]) dims[rank++] = x->dims[d];
        else if (keep) dims[rank++] = 1;
    }
    return call_set(c, 0, x->dtype, dims, rank, err);
}

static double step(int code, double r, double v)
{
    switch (code) {
    case R_MAX: return v != v || v > r ? v : r;
    case R_MIN: return v != v || v < r ? v : r;
    case R_PROD: return r * v;
    case R_L1: return r + fabs(v);
    case R_L2: case R_SUM_SQUARE: return r + v * v;
    case R_LOG_SUM_EXP: return r + exp(v);
    default: return r + v;
    }
}

static double first(int code) { return code == R_MAX ? -(double)INFINITY : code == R_MIN ? (double)INFINITY : code == R_PROD ? 1 : 0; }

static double last(int code, double r, int64_t n)
{
    switch (code) {
    case R_MEAN: return r / (double)n;
    case R_L2: return sqrt(r);
    case R_LOG_SUM: case R_LOG_SUM_EXP: return log(r);
    default: return r;
    }
}

static uint64_t step_int(int code, uint64_t r, int64_t v, bool u)
{
    bool less = u ? (uint64_t)v < r : v < (int64_t)r;
    switch (code) {
    case R_MAX: return less ? r : (uint64_t)v;
    case R_MIN: return less ? (uint64_t)v : r;
    case R_PROD: return r * (uint64_t)v;
    case R_L1: return r + (!u && v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
    case R_L2: case R_SUM_SQUARE: return r + (uint64_t)v * (uint64_t)v;
    default: return r + (uint64_t)v;
    }
}

static uint64_t first_int(int code, enum dtype t)
{
    if (code == R_PROD) return 1;
    if (code == R_MAX) return t == DT_U64 || t == DT_BOOL || t == DT_U8 || t == DT_U16 || t == DT_U32 ? 0 : (uint64_t)INT64_MIN;
    if (code == R_MIN) return t == DT_U64 ? UINT64_MAX : t == DT_BOOL ? 1 : (uint64_t)INT64_MAX;
    return 0;
}

static void reduce_one(const struct call *c, struct walk inner, int64_t base, uint64_t at, int64_t n)
{
    const struct operand *x = c->in[0];
    int code = c->node->op->code;
    bool real = dtype_is_real(x->dtype), doubled = real || code == R_LOG_SUM || code == R_LOG_SUM_EXP;
    double r = first(code), v[BLOCK], shift = 0;
    uint64_t q = first_int(code, x->dtype);
    int64_t k[BLOCK];
    if (code == R_LOG_SUM_EXP) {                       /* take the maximum off, so that exp does not overflow */
        shift = -(double)INFINITY;
        for (struct walk w = inner; w.more; walk_next(&w))
            for (int64_t i = 0; i < w.run; i++) {
                real_load(v, x->dtype, x->data, (uint64_t)(base + w.offset[0] + i * walk_step(&w, 0)), 0, 1);
                if (v[0] > shift) shift = v[0];
            }
        if (!(fabs(shift) < (double)INFINITY)) shift = 0;
    }
    for (; inner.more; walk_next(&inner))
        for (int64_t done = 0; done < inner.run; done += BLOCK) {
            int m = inner.run - done < BLOCK ? (int)(inner.run - done) : BLOCK;
            int64_t stride = walk_step(&inner, 0);
            uint64_t from = (uint64_t)(base + inner.offset[0] + done * stride);
            if (doubled) {
                real_load(v, x->dtype, x->data, from, stride, m);
                for (int i = 0; i < m; i++) r = step(code, r, v[i] - shift);
            } else {
                int_load(k, x->dtype, x->data, from, stride, m);
                for (int i = 0; i < m; i++) q = step_int(code, q, k[i], x->dtype == DT_U64);
            }
        }
    if (real) {
        r = last(code, r, n) + (code == R_LOG_SUM_EXP ? shift : 0);
        real_store(c->out[0]->data, x->dtype, at, &r, 1);
        return;
    }
    if (doubled) k[0] = (int64_t)(last(code, r, n) + shift);
    else if (code == R_L2) k[0] = (int64_t)sqrt((double)q);
    else if (code == R_MEAN) k[0] = n ? (int64_t)q / n : 0;
    else k[0] = (int64_t)q;
    int_store(c->out[0]->data, x->dtype, at, k, 1);
}

/* f32 along neighbouring axes of a plain tensor: a kernel. */
static bool run_axis(const struct call *c, const bool *gone, int64_t n)
{
    static const int kinds[] = { [R_SUM] = REDUCE_SUM, [R_MEAN] = REDUCE_MEAN, [R_MAX] = REDUCE_MAX, [R_MIN] = REDUCE_MIN, [R_PROD] = -1, [R_L1] = REDUCE_L1, [R_L2] = REDUCE_L2, [R_LOG_SUM] = -1, [R_LOG_SUM_EXP] = -1, [R_SUM_SQUARE] = REDUCE_SQUARES };
    const struct operand *x = c->in[0];
    const int kind = kinds[c->node->op->code];
    int from = 0, to = x->rank;
    if (x->dtype != DT_F32 || kind < 0 || x->channels_last || x->splat || n < 1) return false;
    while (from < to && (!gone[from] || x->dims[from] == 1)) from++;
    while (to > from && (!gone[to - 1] || x->dims[to - 1] == 1)) to--;
    for (int d = from; d < to; d++)
        if (!gone[d] && x->dims[d] != 1) return false;
    c->k->reduce_f32(c->out[0]->data, x->data, dims_product(x->dims, 0, from), dims_product(x->dims, from, to), dims_product(x->dims, to, x->rank), (enum reduce_kind)kind, c->threads);
    return true;
}

/* x as what stays and what goes, each a walk that has not begun. How many elements go. */
static int64_t split_axes(const struct operand *x, const bool *gone, struct walk *outer, struct walk *inner)
{
    int64_t strides[TENSOR_RANK_MAX];
    operand_strides(x, strides);
    *outer = *inner = (struct walk){ .count = 1 };
    for (int d = 0; d < x->rank; d++) {
        struct walk *w = gone[d] ? inner : outer;
        w->dims[w->rank] = x->dims[d];
        w->stride[0][w->rank++] = strides[d];
    }
    return dims_product(inner->dims, 0, inner->rank);
}

static enum status eval_reduce(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    bool gone[TENSOR_RANK_MAX], known;
    int64_t kept = 0;
    enum status st = read_axes(c, gone, &known, err);
    if (st || c->out[0]->bytes == 0) return st;
    struct walk outer, inner;
    const int64_t n = split_axes(x, gone, &outer, &inner);
    for (int d = 0; d < x->rank; d++)
        if (!gone[d]) kept = d + 1;
    bool tail = kept == outer.rank && !x->channels_last, space = x->channels_last && !gone[0] && !gone[1] && kept == 2;
    if (x->dtype == DT_F32 && c->node->op->code == R_MEAN && space && n > 0) {      /* the mean of a picture, channels last */
        c->k->mean_rows_f32(c->out[0]->data, x->data, x->dims[0], n, x->dims[1], c->threads);
        return ST_OK;
    }
    if (x->dtype == DT_F32 && c->node->op->code == R_MEAN && tail && n > 0) {       /* [rows, n] -> [rows] */
        c->k->mean_rows_f32(c->out[0]->data, x->data, (int64_t)(x->bytes / 4) / n, n, 1, c->threads);
        return ST_OK;
    }
    if (run_axis(c, gone, n)) return ST_OK;
    walk_begin(&inner);
    walk_begin(&outer);
    uint64_t at = 0;
    for (; outer.more; walk_next(&outer))
        for (int64_t i = 0; i < outer.run; i++) reduce_one(c, inner, outer.offset[0] + i * walk_step(&outer, 0), at++, n);
    return ST_OK;
}

static void tasks_reduce(struct call *c, struct task_list *l)
{
    static const unsigned char reductions[] = { [R_SUM] = GPU_RED_SUM, [R_MEAN] = GPU_RED_MEAN, [R_MAX] = GPU_RED_MAX, [R_MIN] = GPU_RED_MIN, [R_PROD] = GPU_RED_PROD, [R_L1] = GPU_RED_L1, [R_L2] = GPU_RED_L2, [R_LOG_SUM] = GPU_RED_LOG_SUM,
        [R_LOG_SUM_EXP] = GPU_RED_LOG_SUM_EXP, [R_SUM_SQUARE] = GPU_RED_SQUARES };
    const struct operand *x = c->in[0];
    const int code = c->node->op->code;
    bool gone[TENSOR_RANK_MAX], known;
    struct gpu_task *t = task_add(l, GPU_REDUCE);
    struct gpu_reduce *r = &t->u.reduce;
    struct walk kept, inner;
    task_value(l, t, x);
    task_value(l, t, c->out[0]);
    if (read_axes(c, gone, &known, NULL) || !known || (!dtype_is_real(x->dtype) && (code == R_L2 || code == R_LOG_SUM || code == R_LOG_SUM_EXP))) {
        task_refuse(l);
        return;
    }
    r->length = split_axes(x, gone, &kept, &inner);
    r->count = dims_product(kept.dims, 0, kept.rank);
    walk_begin(&inner);
    walk_begin(&kept);
    r->reduction = reductions[code];
    r->kept_rank = kept.rank;
    r->gone_rank = inner.rank;
    memcpy(r->kept, kept.dims, sizeof r->kept);
    memcpy(r->kept_steps, kept.stride[0], sizeof r->kept_steps);
    memcpy(r->gone, inner.dims, sizeof r->gone);
    memcpy(r->gone_steps, inner.stride[0], sizeof r->gone_steps);
}

static bool rows_reduce(const struct call *c)
{
    bool gone[TENSOR_RANK_MAX], known;
    struct call copy = *c;
    struct err e;
    return rows_first(c) && read_axes(&copy, gone, &known, &e) == ST_OK && known && !gone[0];
}

#define REDUCE(name, code) { name, "", 1, 0, 1, 2, 1, 1, OP_READS_LAST, code, infer_reduce, eval_reduce, NULL, NULL, NULL, rows_reduce, tasks_reduce }
const struct op ops_reduce[] = {
    REDUCE("ReduceSum", R_SUM), REDUCE("ReduceMean", R_MEAN), REDUCE("ReduceMax", R_MAX), REDUCE("ReduceMin", R_MIN), REDUCE("ReduceProd", R_PROD),
    REDUCE("ReduceL1", R_L1), REDUCE("ReduceL2", R_L2), REDUCE("ReduceLogSum", R_LOG_SUM), REDUCE("ReduceLogSumExp", R_LOG_SUM_EXP), REDUCE("ReduceSumSquare", R_SUM_SQUARE),
    { 0 }
};
