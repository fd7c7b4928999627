/* QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear: by tensor, by axis and by blocks, into integers of any width and 8- and 4-bit floats. */
#include "engine/operators/minifloat.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

/* Which scale belongs to an element: one for all, one for each index of an axis, or one for each `block` of them. */
struct grid { int64_t inner, n, block, blocks; bool one; };

static enum status read_grid(const struct call *c, struct grid *g, struct err *err)
{
    const struct operand *x = c->in[0], *s = c->in[1], *z = c->in_count > 2 ? c->in[2] : NULL;
    int64_t axis = node_int(c->node, "axis", 1), block = node_int(c->node, "block_size", 0);
    *g = (struct grid){ .one = operand_count(s) == 1 && block == 0, .inner = 1, .n = 1, .block = 1, .blocks = 1 };
    bool fits = !z || operand_count(z) == operand_count(s);
    if (fits && !g->one) {
        fits = axis_fix(&axis, x->rank) && block >= 0;
        if (fits) g->n = x->dims[axis];
        for (int d = (int)axis + 1; fits && d < x->rank; d++) g->inner *= x->dims[d];
        if (fits && block > 0) {
            g->block = block;
            g->blocks = g->n / block + (g->n % block != 0);
            fits = s->rank == x->rank;
            for (int d = 0; fits && d < x->rank; d++) fits = s->dims[d] == (d == axis ? g->blocks : x->dims[d]);
        } else if (fits) {
            g->blocks = g->n;
            fits = s->rank == 1 && s->dims[0] == g->n;
            g->block = 0;
        }
    }
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "scale and zero point do not fit the input, axis %lld and blocks of %lld", (long long)axis, (long long)block);
}

static uint64_t scale_of(const struct grid *g, int64_t k)
{
    if (g->one) return 0;
    int64_t i = k / g->inner % g->n;
    if (g->block == 0) return (uint64_t)i;
    return (uint64_t)((k / (g->inner * g->n) * g->blocks + i / g->block) * g->inner + k % g->inner);
}

static double rounded(enum dtype t, double v)
{
    switch (t) {
    case DT_F16: return (double)(_Float16)v;
    case DT_BF16: return (double)bf16_to_f32(f32_to_bf16((float)v));
    case DT_F64: return v;
    default: return (double)(float)v;
    }
}

static bool is_quantised(enum dtype t) { return t == DT_U8 || t == DT_I8 || t == DT_U16 || t == DT_I16 || t == DT_I32 || dtype_is_narrow(t) || (dtype_is_minifloat(t) && t != DT_F8E8M0); }

static enum dtype quantised_type(const struct call *c)
{
    int64_t said = node_int(c->node, "output_dtype", 0);
    if (c->in_count > 2 && c->in[2]) return c->in[2]->dtype;
    return said > 0 && said < DT_COUNT ? (enum dtype)said : DT_U8;
}

static enum status infer_quantise(struct call *c, struct err *err)
{
    struct grid g;
    enum dtype t = quantised_type(c);
    if (!dtype_is_number(c->in[0]->dtype) || !dtype_is_float(c->in[1]->dtype) || !is_quantised(t) || t == DT_I32) return call_error(c, err, ST_UNSUPPORTED, "%s by a scale of %s into %s is not computed", dtype_name(c->in[0]->dtype), dtype_name(c->in[1]->dtype), dtype_name(t));
    enum status st = read_grid(c, &g, err);
    return st ? st : call_set(c, 0, t, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_quantise(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *z = c->in_count > 2 ? c->in[2] : NULL;
    struct operand *y = c->out[0];
    struct grid g;
    double low = 0, high = 0;
    bool whole = !dtype_is_float(y->dtype), saturate = node_int(c->node, "saturate", 1) != 0;
    enum status st = read_grid(c, &g, err);
    int64_t precision = node_int(c->node, "precision", 0);
    enum dtype work = precision == DT_F16 || precision == DT_F32 || precision == DT_BF16 || precision == DT_F64 ? (enum dtype)precision : dtype_is_real(x->dtype) ? x->dtype : DT_F32;
    if (st) return st;
    if (whole) dtype_range(y->dtype, &low, &high);
    for (int64_t k = 0, n = (int64_t)operand_count(x); k < n; k++) {
        uint64_t s = scale_of(&g, k);
        double v = rounded(work, operand_real(x, (uint64_t)k) / operand_real(c->in[1], s));
        if (whole) {
            v = nearbyint(v) + (z ? operand_real(z, s) : 0);
            operand_real_put(y, (uint64_t)k, v != v ? 0 : v < low ? low : v > high ? high : v);
        } else if (dtype_bits(y->dtype) == 8) ((uint8_t *)y->data)[k] = minifloat_encode(y->dtype, v, saturate, MINIFLOAT_UP);
        else operand_real_put(y, (uint64_t)k, v + (z ? operand_real(z, s) : 0));
    }
    return ST_OK;
}

static enum dtype restored_type(const struct call *c)
{
    int64_t said = node_int(c->node, "output_dtype", 0);
    return said > 0 && said < DT_COUNT ? (enum dtype)said : c->in[1]->dtype;
}

static enum status infer_dequantise(struct call *c, struct err *err)
{
    struct grid g;
    enum dtype t = restored_type(c);
    if (!is_quantised(c->in[0]->dtype) || !dtype_is_float(c->in[1]->dtype) || !dtype_is_real(t)) return call_error(c, err, ST_UNSUPPORTED, "%s by a scale of %s into %s is not computed", dtype_name(c->in[0]->dtype), dtype_name(c->in[1]->dtype), dtype_name(t));
    if (c->in_count > 2 && c->in[2] && !dtype_is_dense(c->in[2]->dtype)) return call_error(c, err, ST_BAD_INPUT, "its zero point must be a number");
    enum status st = read_grid(c, &g, err);
    return st ? st : call_set(c, 0, t, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_dequantise(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *z = c->in_count > 2 ? c->in[2] : NULL;
    struct grid g;
    enum status st = read_grid(c, &g, err);
    if (st) return st;
    for (int64_t k = 0, n = (int64_t)operand_count(x); k < n; k++) {
        uint64_t s = scale_of(&g, k);
        operand_real_put(c->out[0], (uint64_t)k, (operand_real(x, (uint64_t)k) - (z ? operand_real(z, s) : 0)) * operand_real(c->in[1], s));
    }
    return ST_OK;
}

/* ---- DynamicQuantizeLinear(x) -> y, scale, zero point ---- */
static enum status infer_dynamic(struct call *c, struct err *err)
{
    if (c->in[0]->dtype != DT_F32) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    enum status st = call_set(c, 0, DT_U8, c->in[0]->dims, c->in[0]->rank, err);
    if (!st) st = call_set(c, 1, DT_F32, NULL, 0, err);
    return st ? st : call_set(c, 2, DT_U8, NULL, 0, err);
}

static enum status eval_dynamic(struct call *c, struct err *err)
{
    const float *x = c->in[0]->data;
    float low = 0, high = 0;
    uint64_t n = operand_count(c->in[0]);
    (void)err;
    for (uint64_t k = 0; k < n; k++) {
        low = x[k] < low ? x[k] : low;
        high = x[k] > high ? x[k] : high;
    }
    float scale = (high - low) / 255.0f;
    if (scale == 0) scale = 1;
    float zero = nearbyintf(fmaxf(0, fminf(255, -low / scale)));
    uint8_t *y = c->out[0] ? c->out[0]->data : NULL;
    for (uint64_t k = 0; k < n && y; k++) y[k] = (uint8_t)fmaxf(0, fminf(255, nearbyintf(x[k] / scale) + zero));
    if (c->out[1]) *(float *)c->out[1]->data = scale;
    if (c->out[2]) *(uint8_t *)c->out[2]->data = (uint8_t)zero;
    return ST_OK;
}

const struct op ops_quantise[] = {
    { "QuantizeLinear", "", 10, 0, 2, 3, 1, 1, 0, 0, infer_quantise, eval_quantise, NULL, NULL, NULL, NULL, NULL },
    { "DequantizeLinear", "", 10, 0, 2, 3, 1, 1, 0, 0, infer_dequantise, eval_dequantise, NULL, NULL, NULL, NULL, NULL },
    { "QuantizeLinear", "com.microsoft", 1, 0, 2, 3, 1, 1, 0, 0, infer_quantise, eval_quantise, NULL, NULL, NULL, NULL, NULL },
    { "DequantizeLinear", "com.microsoft", 1, 0, 2, 3, 1, 1, 0, 0, infer_dequantise, eval_dequantise, NULL, NULL, NULL, NULL, NULL },
    { "DynamicQuantizeLinear", "", 11, 0, 1, 1, 3, 3, 0, 0, infer_dynamic, eval_dynamic, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
