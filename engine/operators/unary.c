/* Elementwise operators of one input. f32 activations are kernels; everything else is computed in double (or int64), a block at a time. */
#include <float.h>
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

enum unary {
    U_RELU, U_LEAKY, U_ELU, U_SELU, U_SIGMOID, U_HARD_SIGMOID, U_HARD_SWISH, U_TANH, U_ERF, U_GELU, U_SOFTPLUS, U_SOFTSIGN, U_CLIP, U_EXP, U_LOG, U_SQRT,
    U_NEG, U_ABS, U_RECIPROCAL, U_FLOOR, U_CEIL, U_ROUND, U_SIGN, U_SIN, U_COS, U_TAN, U_ASIN, U_ACOS, U_ATAN, U_SINH, U_COSH, U_ASINH, U_ACOSH, U_ATANH,
    U_NOT, U_ISNAN, U_ISINF, U_THRESHOLDED, U_CELU, U_MISH, U_SWISH, U_SHRINK
};

struct numbers { double alpha, beta; };

static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
static double sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double gelu_tanh(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

static double shrink(double x, struct numbers p) { return x < -p.beta ? x + p.alpha : x > p.beta ? x - p.alpha : 0; }

static double apply_curve(int code, double x, struct numbers p)
{
    switch (code) {
    case U_RELU: return x > 0 ? x : x != x ? x : 0;
    case U_LEAKY: return x >= 0 ? x : p.alpha * x;
    case U_ELU: return x >= 0 ? x : p.alpha * expm1(x);
    case U_SELU: return p.beta * (x > 0 ? x : p.alpha * expm1(x));
    case U_CELU: return fmax(0, x) + fmin(0, p.alpha * expm1(x / p.alpha));
    case U_SIGMOID: return sigmoid(x);
    case U_HARD_SIGMOID: return fmax(0, fmin(1, p.alpha * x + p.beta));
    case U_HARD_SWISH: return x * fmax(0, fmin(1, x / 6 + 0.5));
    case U_TANH: return tanh(x);
    case U_ERF: return erf(x);
    case U_GELU: return p.beta != 0 ? gelu_tanh(x) : 0.5 * x * (1 + erf(x * 0.7071067811865476));
    case U_SOFTPLUS: return softplus(x);
    case U_SOFTSIGN: return x / (1 + fabs(x));
    case U_MISH: return x * tanh(softplus(x));
    case U_SWISH: return x * sigmoid(p.alpha * x);
    case U_SHRINK: return shrink(x, p);
    case U_THRESHOLDED: return x > p.alpha ? x : 0;
    case U_CLIP: return x < p.alpha ? p.alpha : x > p.beta ? p.beta : x;
    default: return x;
    }
}

static double apply_real(int code, double x, struct numbers p)
{
    switch (code) {
    case U_EXP: return exp(x);
    case U_LOG: return log(x);
    case U_SQRT: return sqrt(x);
    case U_NEG: return -x;
    case U_ABS: return fabs(x);
    case U_RECIPROCAL: return 1 / x;
    case U_FLOOR: return floor(x);
    case U_CEIL: return ceil(x);
    case U_ROUND: return nearbyint(x);
    case U_SIGN: return sign(x);
    case U_SIN: return sin(x);
    case U_COS: return cos(x);
    case U_TAN: return tan(x);
    case U_ASIN: return asin(x);
    case U_ACOS: return acos(x);
    case U_ATAN: return atan(x);
    case U_SINH: return sinh(x);
    case U_COSH: return cosh(x);
    case U_ASINH: return asinh(x);
    case U_ACOSH: return acosh(x);
    case U_ATANH: return atanh(x);
    default: return apply_curve(code, x, p);
    }
}

static struct numbers constants(const struct node *n)
{
    struct numbers p = { 0, 0 };
    switch (n->op->code) {
    case U_LEAKY: p.alpha = (double)node_float(n, "alpha", 0.01f); break;
    case U_ELU: case U_CELU: case U_THRESHOLDED: case U_SWISH: p.alpha = (double)node_float(n, "alpha", 1.0f); break;
    case U_SELU:
        p.alpha = (double)node_float(n, "alpha", n->opset < 6 ? 1.6732f : 1.67326319217681884765625f);
        p.beta = (double)node_float(n, "gamma", n->opset < 6 ? 1.0507f : 1.05070102214813232421875f);
        break;
    case U_HARD_SIGMOID:
        p.alpha = (double)node_float(n, "alpha", 0.2f);
        p.beta = (double)node_float(n, "beta", 0.5f);
        break;
    case U_GELU: p.beta = node_text_is(n, "approximate", "tanh", false); break;
    case U_SHRINK:
        p.alpha = (double)node_float(n, "bias", 0);
        p.beta = (double)node_float(n, "lambd", 0.5f);
        break;
    default: break;
    }
    return p;
}

/* The kernel's name for an operator, ACT_NONE where there is none. */
static struct activation_spec kernel_of(const struct node *n)
{
    struct numbers p = constants(n);
    struct activation_spec a = { ACT_NONE, (float)p.alpha, (float)p.beta };
    switch (n->op->code) {
    case U_RELU: a.kind = ACT_RELU; break;
    case U_LEAKY: a.kind = ACT_LEAKY_RELU; break;
    case U_ELU: a.kind = ACT_ELU; break;
    case U_SIGMOID: a.kind = ACT_SIGMOID; break;
    case U_HARD_SIGMOID: a.kind = ACT_HARD_SIGMOID; break;
    case U_HARD_SWISH: a.kind = ACT_HARD_SWISH; break;
    case U_TANH: a.kind = ACT_TANH; break;
    case U_GELU: a.kind = p.beta != 0 ? ACT_GELU_TANH : ACT_GELU; break;
    case U_SOFTPLUS: a.kind = ACT_SOFTPLUS; break;
    case U_EXP: a.kind = ACT_EXP; break;
    case U_ERF: a.kind = ACT_ERF; break;
    default: break;
    }
    return a;
}

struct activation_spec activation_of_node(const struct node *n)
{
    static const struct activation_spec none = { ACT_NONE, 0, 0 };
    for (const struct op *o = ops_unary; o->name; o++)
        if (o == n->op && o->code != U_EXP) return kernel_of(n);
    return none;
}

static int64_t apply_int(int code, int64_t x)
{
    switch (code) {
    case U_NEG: return (int64_t)(0 - (uint64_t)x);
    case U_ABS: return x < 0 ? (int64_t)(0 - (uint64_t)x) : x;
    case U_SIGN: return (x > 0) - (x < 0);
    case U_RELU: return x > 0 ? x : 0;
    case U_NOT: return !x;
    default: return x;
    }
}

static enum status eval_unary(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct operand *y = c->out[0];
    int code = c->node->op->code;
    uint64_t n = operand_count(x);
    struct activation_spec a = kernel_of(c->node);
    (void)err;
    if (x->dtype == DT_F32 && a.kind != ACT_NONE) {
        c->k->activate_f32(y->data, x->data, (int64_t)n, a, c->threads);
        return ST_OK;
    }
    struct numbers p = constants(c->node);
    bool real = dtype_is_real(x->dtype);
    for (uint64_t done = 0; done < n; done += BLOCK) {
        int m = n - done < BLOCK ? (int)(n - done) : BLOCK;
        double v[BLOCK];
        int64_t k[BLOCK];
        if (real) {
            real_load(v, x->dtype, x->data, done, 1, m);
            for (int i = 0; i < m; i++) v[i] = apply_real(code, v[i], p);
            real_store(y->data, y->dtype, done, v, m);
        } else {
            int_load(k, x->dtype, x->data, done, 1, m);
            for (int i = 0; i < m; i++) k[i] = x->dtype == DT_U64 && code != U_NOT ? (code == U_SIGN ? k[i] != 0 : k[i]) : apply_int(code, k[i]);
            int_store(y->data, y->dtype, done, k, m);
        }
    }
    return ST_OK;
}

static enum status infer_unary(struct call *c, struct err *err)
{
    enum dtype t = c->in[0]->dtype;
    int code = c->node->op->code;
    bool integers = code == U_NEG || code == U_ABS || code == U_SIGN || code == U_RELU;
    bool fine = code == U_NOT ? t == DT_BOOL : dtype_is_real(t) || (integers && dtype_is_integer(t));
    if (!fine) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(t));
    return infer_same(c, err);
}

/* IsNaN, IsInf */
static enum status infer_test(struct call *c, struct err *err)
{
    if (!dtype_is_real(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    return call_set(c, 0, DT_BOOL, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_test(struct call *c, struct err *err)
{
    uint64_t n = operand_count(c->in[0]);
    bool positive = node_int(c->node, "detect_positive", 1) != 0, negative = node_int(c->node, "detect_negative", 1) != 0;
    uint8_t *y = c->out[0]->data;
    (void)err;
    for (uint64_t i = 0; i < n; i++) {
        double v;
        real_load(&v, c->in[0]->dtype, c->in[0]->data, i, 1, 1);
        y[i] = c->node->op->code == U_ISNAN ? v != v : (positive && v == (double)INFINITY) || (negative && v == -(double)INFINITY);
    }
    return ST_OK;
}

/* Clip: limits are attributes before opset 11, inputs since. */
static enum status infer_clip(struct call *c, struct err *err)
{
    if (!dtype_is_number(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    for (int i = 1; i < c->in_count; i++)
        if (c->in[i] && (c->in[i]->dtype != c->in[0]->dtype || operand_count(c->in[i]) != 1)) return call_error(c, err, ST_BAD_INPUT, "a limit must be one number of the input's type");
    return infer_same(c, err);
}

static enum status eval_clip(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct operand *low = c->in_count > 1 ? c->in[1] : NULL, *high = c->in_count > 2 ? c->in[2] : NULL;
    uint64_t n = operand_count(x);
    (void)err;
    if (dtype_is_real(x->dtype)) {
        struct numbers p = { -(double)INFINITY, (double)INFINITY };
        if (c->node->opset < 11) p = (struct numbers){ (double)node_float(c->node, "min", -FLT_MAX), (double)node_float(c->node, "max", FLT_MAX) };
        if (low) real_load(&p.alpha, x->dtype, low->data, 0, 1, 1);
        if (high) real_load(&p.beta, x->dtype, high->data, 0, 1, 1);
        if (x->dtype == DT_F32 && p.alpha <= p.beta) {
            c->k->activate_f32(c->out[0]->data, x->data, (int64_t)n, (struct activation_spec){ ACT_CLIP, (float)p.alpha, (float)p.beta }, c->threads);
            return ST_OK;
        }
        for (uint64_t i = 0; i < n; i++) {
            double v;
            real_load(&v, x->dtype, x->data, i, 1, 1);
            v = v < p.alpha ? p.alpha : v;
            v = v > p.beta ? p.beta : v;
            real_store(c->out[0]->data, x->dtype, i, &v, 1);
        }
        return ST_OK;
    }
    int64_t a = x->dtype == DT_U64 ? 0 : INT64_MIN, b = x->dtype == DT_U64 ? -1 : INT64_MAX;
    if (low) int_load(&a, x->dtype, low->data, 0, 1, 1);
    if (high) int_load(&b, x->dtype, high->data, 0, 1, 1);
    for (uint64_t i = 0; i < n; i++) {
        int64_t v;
        int_load(&v, x->dtype, x->data, i, 1, 1);
        if (x->dtype == DT_U64) {
            v = (uint64_t)v < (uint64_t)a ? a : v;
            v = (uint64_t)v > (uint64_t)b ? b : v;
        } else {
            v = v < a ? a : v;
            v = v > b ? b : v;
        }
        int_store(c->out[0]->data, x->dtype, i, &v, 1);
    }
    return ST_OK;
}

static enum status eval_silu(struct call *c, struct err *err)
{
    (void)err;
    c->k->activate_f32(c->out[0]->data, c->in[0]->data, (int64_t)operand_count(c->in[0]), (struct activation_spec){ ACT_SILU, 0, 0 }, c->threads);
    return ST_OK;
}

static void tasks_unary(struct call *c, struct task_list *l)
{
    static const signed char functions[] = { [U_LOG] = GPU_LOG, [U_SQRT] = GPU_SQRT, [U_NEG] = GPU_NEG, [U_ABS] = GPU_ABS, [U_RECIPROCAL] = GPU_RECIPROCAL, [U_FLOOR] = GPU_FLOOR, [U_CEIL] = GPU_CEIL, [U_ROUND] = GPU_ROUND,
        [U_SIGN] = GPU_SIGN, [U_SIN] = GPU_SIN, [U_COS] = GPU_COS, [U_NOT] = GPU_NOT, [U_ISNAN] = GPU_ISNAN, [U_SOFTSIGN] = GPU_SOFTSIGN, [U_MISH] = GPU_MISH, [U_SWISH] = GPU_SWISH, [U_SELU] = GPU_SELU, [U_CELU] = GPU_CELU,
        [U_THRESHOLDED] = GPU_THRESHOLD, [U_SHRINK] = 0 };
    const struct activation_spec act = c->node->op == &op_silu ? (struct activation_spec){ ACT_SILU, 0, 0 } : kernel_of(c->node);
    const struct numbers p = constants(c->node);
    const int function = c->node->op == &op_silu ? GPU_COPY : functions[c->node->op->code];
    if (act.kind == ACT_NONE && function == GPU_COPY) {
        task_refuse(l);
        return;
    }
    struct gpu_pointwise *t = &task_pointwise(l, c, act.kind != ACT_NONE ? GPU_COPY : function, 1)->u.pointwise;
    t->act = act;
    if (act.kind == ACT_NONE) t->alpha = (float)p.alpha, t->beta = (float)p.beta;
    if (!dtype_is_real(c->in[0]->dtype) && act.kind != ACT_NONE) task_refuse(l);
}

/* Limits that are known now. */
static void tasks_clip(struct call *c, struct task_list *l)
{
    double low = -(double)INFINITY, high = (double)INFINITY;
    if (c->node->opset < 11) low = (double)node_float(c->node, "min", -FLT_MAX), high = (double)node_float(c->node, "max", FLT_MAX);
    for (int i = 1; i < 3 && i < c->in_count; i++) {
        if (!c->in[i]) continue;
        if (!c->in[i]->data || !dtype_is_real(c->in[0]->dtype)) {
            task_refuse(l);
            return;
        }
        real_load(i == 1 ? &low : &high, c->in[i]->dtype, c->in[i]->data, 0, 0, 1);
    }
    if (!(low <= high) || !dtype_is_real(c->in[0]->dtype)) task_refuse(l);
    task_pointwise(l, c, GPU_COPY, 1)->u.pointwise.act = (struct activation_spec){ ACT_CLIP, (float)low, (float)high };
}

const struct op op_silu = { "Silu", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE | OP_LAST | OP_UNARY, 0, infer_same, eval_silu, NULL, NULL, NULL, rows_elementwise, tasks_unary };

#define UNARY(name, since, code) { name, "", since, 0, 1, 1, 1, 1, OP_INPLACE | OP_LAST | OP_UNARY, code, infer_unary, eval_unary, NULL, NULL, NULL, rows_elementwise, tasks_unary }
const struct op ops_unary[] = {
    UNARY("Relu", 1, U_RELU), UNARY("LeakyRelu", 1, U_LEAKY), UNARY("Elu", 1, U_ELU), UNARY("Selu", 1, U_SELU), UNARY("Celu", 12, U_CELU),
    UNARY("Sigmoid", 1, U_SIGMOID), UNARY("HardSigmoid", 1, U_HARD_SIGMOID), UNARY("HardSwish", 14, U_HARD_SWISH), UNARY("Tanh", 1, U_TANH),
    UNARY("Erf", 9, U_ERF), UNARY("Gelu", 20, U_GELU), UNARY("Softplus", 1, U_SOFTPLUS), UNARY("Softsign", 1, U_SOFTSIGN), UNARY("Mish", 18, U_MISH),
    UNARY("Swish", 24, U_SWISH), UNARY("Shrink", 9, U_SHRINK),
    UNARY("ThresholdedRelu", 10, U_THRESHOLDED), UNARY("Exp", 1, U_EXP), UNARY("Log", 1, U_LOG), UNARY("Sqrt", 1, U_SQRT), UNARY("Neg", 1, U_NEG),
    UNARY("Abs", 1, U_ABS), UNARY("Reciprocal", 1, U_RECIPROCAL), UNARY("Floor", 1, U_FLOOR), UNARY("Ceil", 1, U_CEIL), UNARY("Round", 11, U_ROUND),
    UNARY("Sign", 9, U_SIGN), UNARY("Sin", 7, U_SIN), UNARY("Cos", 7, U_COS), UNARY("Tan", 7, U_TAN), UNARY("Asin", 7, U_ASIN), UNARY("Acos", 7, U_ACOS),
    UNARY("Atan", 7, U_ATAN), UNARY("Sinh", 9, U_SINH), UNARY("Cosh", 9, U_COSH), UNARY("Asinh", 9, U_ASINH), UNARY("Acosh", 9, U_ACOSH),
    UNARY("Atanh", 9, U_ATANH), UNARY("Not", 1, U_NOT),
    { "IsNaN", "", 9, 0, 1, 1, 1, 1, OP_LAST | OP_UNARY, U_ISNAN, infer_test, eval_test, NULL, NULL, NULL, rows_elementwise, tasks_unary },
    { "IsInf", "", 10, 0, 1, 1, 1, 1, OP_LAST | OP_UNARY, U_ISINF, infer_test, eval_test, NULL, NULL, NULL, rows_elementwise, NULL },
    { "Clip", "", 1, 0, 1, 3, 1, 1, OP_INPLACE | OP_LAST | OP_UNARY, U_CLIP, infer_clip, eval_clip, NULL, NULL, NULL, rows_first, tasks_clip },
    { 0 }
};
