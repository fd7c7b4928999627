/* Elementwise operators over broadcast inputs. Equal shapes in f32 go to the kernels; other f32 runs have plain loops; the rest goes through
 * blocks of double or int64. Sum, Mean, Max and Min of many inputs are folded pair by pair. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

enum binary { B_ADD, B_SUB, B_MUL, B_DIV, B_POW, B_MOD, B_MIN, B_MAX, B_AND, B_OR, B_XOR, B_EQUAL, B_LESS, B_GREATER, B_LESS_EQUAL, B_GREATER_EQUAL, B_PRELU, B_SUM, B_MEAN };

enum { COLUMNS_MIN = 8 };      /* shorter columns are not worth a kernel call */

static bool is_comparison(int code) { return code >= B_AND && code <= B_GREATER_EQUAL; }

static double apply_real(int code, double a, double b, bool c_mod)
{
    switch (code) {
    case B_ADD: case B_SUM: case B_MEAN: return a + b;
    case B_SUB: return a - b;
    case B_MUL: return a * b;
    case B_DIV: return a / b;
    case B_POW: return pow(a, b);
    case B_MOD: return c_mod ? fmod(a, b) : a - b * floor(a / b);
    case B_MIN: return a != a ? a : b != b ? b : a < b ? a : b;
    case B_MAX: return a != a ? a : b != b ? b : a > b ? a : b;
    case B_PRELU: return a < 0 ? a * b : a;
    case B_EQUAL: return a == b;
    case B_LESS: return a < b;
    case B_GREATER: return a > b;
    case B_LESS_EQUAL: return a <= b;
    case B_GREATER_EQUAL: return a >= b;
    default: return 0;
    }
}

static int64_t power(int64_t a, int64_t b)
{
    uint64_t r = 1, x = (uint64_t)a;
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    for (; b; b >>= 1, x *= x)
        if (b & 1) r *= x;
    return (int64_t)r;
}

static int64_t divide(int64_t a, int64_t b, bool u)
{
    if (b == 0) return 0;                         /* undefined by ONNX; must not trap */
    if (u) return (int64_t)((uint64_t)a / (uint64_t)b);
    return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}

static int64_t modulo(int64_t a, int64_t b, bool u, bool c_mod)
{
    if (b == 0 || (!u && b == -1)) return 0;
    if (u) return (int64_t)((uint64_t)a % (uint64_t)b);
    int64_t r = a % b;
    return !c_mod && r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static int64_t apply_int(int code, int64_t a, int64_t b, bool u, bool c_mod)
{
    bool less = u ? (uint64_t)a < (uint64_t)b : a < b;
    switch (code) {
    case B_ADD: case B_SUM: case B_MEAN: return (int64_t)((uint64_t)a + (uint64_t)b);
    case B_SUB: return (int64_t)((uint64_t)a - (uint64_t)b);
    case B_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case B_DIV: return divide(a, b, u);
    case B_POW: return power(a, b);
    case B_MOD: return modulo(a, b, u, c_mod);
    case B_MIN: return less ? a : b;
    case B_MAX: return less ? b : a;
    case B_PRELU: return !u && a < 0 ? (int64_t)((uint64_t)a * (uint64_t)b) : a;
    case B_AND: return a && b;
    case B_OR: return a || b;
    case B_XOR: return !a != !b;
    case B_EQUAL: return a == b;
    case B_LESS: return less;
    case B_GREATER: return !less && a != b;
    case B_LESS_EQUAL: return less || a == b;
    case B_GREATER_EQUAL: return !less;
    default: return 0;
    }
}

/* y[i] = a[i*sa] op b[i*sb] for f32; true when there is a kernel and the steps are its. */
static bool run_f32(const struct call *c, int code, float *y, const float *a, const float *b, int64_t n, int64_t sa, int64_t sb)
{
    static const signed char kinds[] = { [B_ADD] = ARITH_ADD, [B_SUM] = ARITH_ADD, [B_MEAN] = ARITH_ADD, [B_SUB] = ARITH_SUB, [B_MUL] = ARITH_MUL, [B_DIV] = ARITH_DIV, [B_MAX] = ARITH_MAX, [B_MIN] = ARITH_MIN, [B_PRELU] = ARITH_PRELU,
        [B_POW] = -1, [B_MOD] = -1, [B_AND] = -1, [B_OR] = -1, [B_XOR] = -1, [B_EQUAL] = -1, [B_LESS] = -1, [B_GREATER] = -1, [B_LESS_EQUAL] = -1, [B_GREATER_EQUAL] = -1 };
    if (kinds[code] < 0 || sa < 0 || sa > 1 || sb < 0 || sb > 1) return false;
    c->k->arith_f32(y, a, b, n, (int)sa, (int)sb, (enum arith_kind)kinds[code], c->threads);
    return true;
}

static void run_block(int code, struct operand *y, uint64_t at, const struct operand *a, const struct operand *b, const int64_t offset[2], const int64_t step[2], int n, bool c_mod)
{
    bool real = dtype_is_real(a->dtype);
    bool u = a->dtype == DT_U64;
    double p[BLOCK], q[BLOCK];
    int64_t k[BLOCK], l[BLOCK];
    if (real) {
        real_load(p, a->dtype, a->data, (uint64_t)offset[0], step[0], n);
        real_load(q, b->dtype, b->data, (uint64_t)offset[1], step[1], n);
        for (int i = 0; i < n; i++) p[i] = apply_real(code, p[i], q[i], c_mod);
        if (!is_comparison(code)) { real_store(y->data, y->dtype, at, p, n); return; }
        for (int i = 0; i < n; i++) k[i] = p[i] != 0;
        int_store(y->data, y->dtype, at, k, n);
        return;
    }
    int_load(k, a->dtype, a->data, (uint64_t)offset[0], step[0], n);
    if (dtype_is_real(b->dtype)) {                 /* Pow of an integer by a real exponent */
        real_load(q, b->dtype, b->data, (uint64_t)offset[1], step[1], n);
        for (int i = 0; i < n; i++) {
            double r = pow((double)k[i], q[i]);
            k[i] = r >= 9.2e18 ? INT64_MAX : r <= -9.2e18 ? INT64_MIN : r != r ? 0 : (int64_t)r;
        }
        int_store(y->data, y->dtype, at, k, n);
        return;
    }
    int_load(l, b->dtype, b->data, (uint64_t)offset[1], step[1], n);
    for (int i = 0; i < n; i++) k[i] = apply_int(code, k[i], l[i], u, c_mod);
    int_store(y->data, y->dtype, at, k, n);
}

/* Strings know one comparison. */
static void run_strings(uint8_t *y, const struct string_ref *a, const struct string_ref *b, const int64_t step[2], int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const struct string_ref *p = &a[i * step[0]], *q = &b[i * step[1]];
        y[i] = p->length == q->length && (p->length == 0 || memcmp(p->text, q->text, p->length) == 0);
    }
}

/* [n, rows, c] with [n, c] or [c], the shape of biases and of squeeze-and-excite gates: a kernel for each n. False: not of that shape. */
static bool run_columns(const struct call *c, const struct walk *w, int code)
{
    int wide = -1;
    for (int k = 0; k < 2; k++)
        if (w->rank >= 2 && w->rank <= 3 && w->stride[k][w->rank - 1] == 1 && w->stride[k][w->rank - 2] == w->run && w->stride[!k][w->rank - 1] == 1 && w->stride[!k][w->rank - 2] == 0) wide = k;
    if (wide < 0 || w->run < COLUMNS_MIN || (code != B_ADD && code != B_MUL)) return false;
    int64_t rows = w->dims[w->rank - 2], n = w->rank == 3 ? w->dims[0] : 1;
    for (int64_t i = 0; i < n; i++) {
        const float *x = (const float *)c->in[wide]->data + (w->rank == 3 ? i * w->stride[wide][0] : 0);
        const float *v = (const float *)c->in[!wide]->data + (w->rank == 3 ? i * w->stride[!wide][0] : 0);
        c->k->scale_shift_f32((float *)c->out[0]->data + i * rows * w->run, x, code == B_MUL ? v : NULL, code == B_ADD ? v : NULL, rows, w->run, (struct activation_spec){ ACT_NONE, 0, 0 }, c->threads);
    }
    return true;
}

static enum status apply_pair(struct call *c, struct err *err)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    struct operand *y = c->out[0];
    int code = c->node->op->code;
    bool f32 = a->dtype == DT_F32 && b->dtype == DT_F32 && !is_comparison(code), c_mod = node_int(c->node, "fmod", 0) != 0;
    bool same = f32 && a->bytes == y->bytes && b->bytes == y->bytes && a->channels_last == b->channels_last && !a->splat && !b->splat;
    if (same && (code == B_ADD || code == B_SUM || code == B_MEAN)) { c->k->add_f32(y->data, a->data, b->data, (int64_t)(y->bytes / 4), c->threads); return ST_OK; }
    if (same && code == B_MUL) { c->k->mul_f32(y->data, a->data, b->data, (int64_t)(y->bytes / 4), c->threads); return ST_OK; }
    struct walk w;
    enum status st = walk_broadcast(&w, c, err);
    uint64_t at = 0;
    if (!st && f32 && w.more && run_columns(c, &w, code)) return ST_OK;
    for (; !st && w.more; walk_next(&w), at += (uint64_t)w.run) {
        int64_t step[2] = { walk_step(&w, 0), walk_step(&w, 1) };
        if (f32 && run_f32(c, code, (float *)y->data + at, (const float *)a->data + w.offset[0], (const float *)b->data + w.offset[1], w.run, step[0], step[1])) continue;
        if (a->dtype == DT_STRING) {
            run_strings((uint8_t *)y->data + at, (const struct string_ref *)a->data + w.offset[0], (const struct string_ref *)b->data + w.offset[1], step, w.run);
            continue;
        }
        for (int64_t done = 0; done < w.run; done += BLOCK) {
            int n = w.run - done < BLOCK ? (int)(w.run - done) : BLOCK;
            int64_t offset[2] = { w.offset[0] + done * step[0], w.offset[1] + done * step[1] };
            run_block(code, y, at + (uint64_t)done, a, b, offset, step, n, c_mod);
        }
    }
    return st;
}

static bool dtype_fits(int code, enum dtype a, enum dtype b)
{
    if (code == B_EQUAL) return a == b && (dtype_is_number(a) || a == DT_STRING);
    if (code == B_AND || code == B_OR || code == B_XOR) return a == DT_BOOL && b == DT_BOOL;
    if (code == B_POW) return (dtype_is_real(a) || dtype_is_integer(a)) && (dtype_is_real(b) || dtype_is_integer(b));
    return a == b && (dtype_is_real(a) || dtype_is_integer(a));
}

static enum status infer_broadcast(struct call *c, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX];
    int rank, code = c->node->op->code;
    enum dtype t = c->in[0]->dtype;
    for (int i = 1; i < c->in_count; i++)
        if (!dtype_fits(code, t, c->in[i]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s and %s", dtype_name(t), dtype_name(c->in[i]->dtype));
    if (c->in_count == 1 && !dtype_is_number(t)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(t));
    enum status st = infer_broadcast_dims(c, dims, &rank, err);
    return st ? st : call_set(c, 0, is_comparison(code) ? DT_BOOL : t, dims, rank, err);
}

/* f32 to a power that is one number for all: squares, cubes and roots without pow. */
static bool run_power(const struct call *c)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    const int64_t n = (int64_t)operand_count(a);
    double p;
    if (a->dtype != DT_F32 || !dtype_is_number(b->dtype) || operand_count(b) != 1 || c->out[0]->bytes != a->bytes || a->splat) return false;
    if (dtype_is_real(b->dtype)) real_load(&p, b->dtype, b->data, 0, 0, 1);
    else {
        int64_t k;
        int_load(&k, b->dtype, b->data, 0, 0, 1);
        p = (double)k;
    }
    const float *x = a->data;
    float *y = c->out[0]->data;
    if (p == 2) c->k->mul_f32(y, x, x, n, c->threads);
    else if (p == 3)
        for (int64_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * (double)x[i] * (double)x[i]);
    else if (p == 0.5)
        for (int64_t i = 0; i < n; i++) y[i] = x[i] == -INFINITY ? INFINITY : sqrtf(x[i]) + 0.0f;
    else if (p == 1) memcpy(y, x, a->bytes);
    else if (p == -1)
        for (int64_t i = 0; i < n; i++) y[i] = 1 / x[i];
    else return false;
    return true;
}

static enum status eval_pow(struct call *c, struct err *err)
{
    if (run_power(c)) return ST_OK;
    /* real base, integer exponent: the exponent is read as double by the block loop of the base's class */
    const struct operand *a = c->in[0], *b = c->in[1];
    if (!(dtype_is_real(a->dtype) && !dtype_is_real(b->dtype))) return apply_pair(c, err);
    struct walk w;
    enum status st = walk_broadcast(&w, c, err);
    uint64_t at = 0;
    for (; !st && w.more; walk_next(&w), at += (uint64_t)w.run)
        for (int64_t i = 0; i < w.run; i++) {
            double p, q;
            real_load(&p, a->dtype, a->data, (uint64_t)(w.offset[0] + i * walk_step(&w, 0)), 1, 1);
            real_load(&q, b->dtype, b->data, (uint64_t)(w.offset[1] + i * walk_step(&w, 1)), 1, 1);
            p = pow(p, q);
            real_store(c->out[0]->data, a->dtype, at + (uint64_t)i, &p, 1);
        }
    return st;
}

/* Max, Min, Sum, Mean: y = x0; y = y op x1; ... each step a broadcast of y against the next input. A first step joins x0 and x1. */
static enum status eval_many(struct call *c, struct err *err)
{
    struct operand y = *c->out[0], *pair[2] = { c->in[0], c->in_count > 1 ? c->in[1] : NULL }, *out[1] = { &y };
    struct call step = *c;
    enum status st = ST_OK;
    step.in = pair;
    step.in_count = 2;
    step.out = out;
    if (c->in_count == 1) memcpy(y.data, c->in[0]->data, y.bytes);
    for (int i = 1; i < c->in_count && !st; i++) {
        pair[1] = c->in[i];
        st = apply_pair(&step, err);
        pair[0] = &y;
    }
    if (st || c->node->op->code != B_MEAN || c->in_count == 1) return st;
    for (uint64_t i = 0, n = operand_count(&y); i < n; i++) {
        double v;
        real_load(&v, y.dtype, y.data, i, 1, 1);
        v /= c->in_count;
        real_store(y.data, y.dtype, i, &v, 1);
    }
    return ST_OK;
}

static enum status infer_mean(struct call *c, struct err *err)
{
    if (!dtype_is_real(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    return infer_broadcast(c, err);
}

static enum status infer_prelu(struct call *c, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX];
    int rank;
    enum status st = infer_broadcast(c, err);
    if (st) return st;
    st = infer_broadcast_dims(c, dims, &rank, err);
    if (!st && (rank != c->in[0]->rank || memcmp(dims, c->in[0]->dims, (size_t)rank * sizeof *dims))) return call_error(c, err, ST_BAD_INPUT, "the slope must broadcast to the input's shape");
    return st;
}

/* Where(condition, a, b) */
static enum status infer_where(struct call *c, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX];
    int rank;
    if (c->in[0]->dtype != DT_BOOL || c->in[1]->dtype != c->in[2]->dtype || operand_size(c->in[1]) == 0) return call_error(c, err, ST_BAD_INPUT, "it takes a bool and two tensors of one type");
    enum status st = infer_broadcast_dims(c, dims, &rank, err);
    return st ? st : call_set(c, 0, c->in[1]->dtype, dims, rank, err);
}

static enum status eval_where(struct call *c, struct err *err)
{
    const size_t size = (size_t)operand_size(c->out[0]);
    struct walk w;
    enum status st = walk_broadcast(&w, c, err);
    char *y = c->out[0]->data;
    for (; !st && w.more; walk_next(&w), y += w.run * (int64_t)size) {
        const uint8_t *condition = (const uint8_t *)c->in[0]->data + w.offset[0];
        const char *a = (const char *)c->in[1]->data + w.offset[1] * (int64_t)size, *b = (const char *)c->in[2]->data + w.offset[2] * (int64_t)size;
        const int64_t sc = walk_step(&w, 0), sa = walk_step(&w, 1) * (int64_t)size, sb = walk_step(&w, 2) * (int64_t)size;
        if (size == 4)
            for (int64_t i = 0; i < w.run; i++) memcpy(y + i * 4, condition[i * sc] ? a + i * sa : b + i * sb, 4);
        else
            for (int64_t i = 0; i < w.run; i++) memcpy(y + i * (int64_t)size, condition[i * sc] ? a + i * sa : b + i * sb, size);
    }
    return st;
}

static int task_function(const struct node *n)
{
    static const unsigned char functions[] = { [B_ADD] = GPU_ADD, [B_SUM] = GPU_ADD, [B_MEAN] = GPU_ADD, [B_SUB] = GPU_SUB, [B_MUL] = GPU_MUL, [B_DIV] = GPU_DIV, [B_POW] = GPU_POW, [B_MOD] = GPU_MOD, [B_MIN] = GPU_MIN, [B_MAX] = GPU_MAX,
        [B_AND] = GPU_AND, [B_OR] = GPU_OR, [B_XOR] = GPU_XOR, [B_EQUAL] = GPU_EQUAL, [B_LESS] = GPU_LESS, [B_GREATER] = GPU_GREATER, [B_LESS_EQUAL] = GPU_LESS_EQUAL, [B_GREATER_EQUAL] = GPU_GREATER_EQUAL, [B_PRELU] = GPU_PRELU };
    return n->op->code == B_MOD && node_int(n, "fmod", 0) ? GPU_FMOD : functions[n->op->code];
}

static void tasks_pair(struct call *c, struct task_list *l)
{
    if (c->node->op->code == B_POW && dtype_is_real(c->in[0]->dtype) != dtype_is_real(c->in[1]->dtype) && !dtype_is_real(c->in[0]->dtype)) task_refuse(l);      /* a whole number to a real power is truncated */
    task_pointwise(l, c, task_function(c->node), 2);
}

/* Two inputs as a pair, one as a copy; more go from pair to pair through the result. */
static void tasks_many(struct call *c, struct task_list *l)
{
    struct call step = *c;
    struct operand *pair[2] = { c->in[0], c->in_count > 1 ? c->in[1] : NULL };
    step.in = pair;
    for (int i = 1; i < c->in_count; i++) {
        pair[1] = c->in[i];
        step.in_count = 2;
        task_pointwise(l, &step, task_function(c->node), 2);
        pair[0] = c->out[0];
    }
    step.in_count = 1;
    if (c->in_count == 1) task_pointwise(l, &step, GPU_COPY, 1);
    else if (c->node->op->code == B_MEAN) {
        struct gpu_pointwise *p = &task_pointwise(l, &(struct call){ .node = c->node, .in = c->out, .out = c->out, .in_count = 1 }, GPU_SCALE, 1)->u.pointwise;
        p->alpha = 1 / (float)c->in_count;
    }
}

static void tasks_where(struct call *c, struct task_list *l) { task_pointwise(l, c, GPU_WHERE, 3); }

#define BINARY(name, since, code, flags) { name, "", since, 0, 2, 2, 1, 1, OP_LAST | OP_BROADCAST | (flags), code, infer_broadcast, apply_pair, NULL, NULL, NULL, rows_elementwise, tasks_pair }
#define MANY(name, code, infer) { name, "", 1, 0, 1, GRAPH_INPUTS_MAX, 1, 1, OP_LAST | OP_BROADCAST, code, infer, eval_many, NULL, NULL, NULL, rows_elementwise, tasks_many }
const struct op ops_binary[] = {
    BINARY("Add", 1, B_ADD, OP_INPLACE), BINARY("Sub", 1, B_SUB, OP_INPLACE), BINARY("Mul", 1, B_MUL, OP_INPLACE), BINARY("Div", 1, B_DIV, OP_INPLACE),
    BINARY("Mod", 10, B_MOD, 0), BINARY("And", 1, B_AND, 0), BINARY("Or", 1, B_OR, 0), BINARY("Xor", 1, B_XOR, 0), BINARY("Equal", 1, B_EQUAL, 0),
    BINARY("Less", 1, B_LESS, 0), BINARY("Greater", 1, B_GREATER, 0), BINARY("LessOrEqual", 12, B_LESS_EQUAL, 0), BINARY("GreaterOrEqual", 12, B_GREATER_EQUAL, 0),
    { "Pow", "", 1, 0, 2, 2, 1, 1, OP_LAST | OP_BROADCAST, B_POW, infer_broadcast, eval_pow, NULL, NULL, NULL, rows_elementwise, tasks_pair },
    { "PRelu", "", 1, 0, 2, 2, 1, 1, OP_LAST | OP_BROADCAST | OP_INPLACE, B_PRELU, infer_prelu, apply_pair, NULL, NULL, NULL, rows_elementwise, tasks_pair },
    MANY("Max", B_MAX, infer_broadcast), MANY("Min", B_MIN, infer_broadcast), MANY("Sum", B_SUM, infer_broadcast), MANY("Mean", B_MEAN, infer_mean),
    { "Where", "", 9, 0, 3, 3, 1, 1, OP_LAST | OP_BROADCAST, 0, infer_where, eval_where, NULL, NULL, NULL, rows_elementwise, tasks_where },
    { 0 }
};
