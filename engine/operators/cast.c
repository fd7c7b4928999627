/* Casts between all types, strings included, and BitCast. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/minifloat.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

static enum dtype cast_to(const struct call *c)
{
    const struct onnx_attribute *a = node_attribute(c->node, "to");
    if (strcmp(c->node->op->name, "CastLike") == 0) return c->in[1]->dtype;
    if (a && a->type == ONNX_INT) return a->i > 0 && a->i < DT_COUNT ? (enum dtype)a->i : DT_NONE;
    if (!a || a->type != ONNX_STRING) return DT_NONE;
    static const char *const names[] = { [DT_F32] = "FLOAT", [DT_F64] = "DOUBLE", [DT_F16] = "FLOAT16", [DT_I32] = "INT32", [DT_I64] = "INT64", [DT_BOOL] = "BOOL", [DT_U8] = "UINT8", [DT_I8] = "INT8" };
    for (int t = 1; t < (int)(sizeof names / sizeof names[0]); t++)
        if (names[t] && strlen(names[t]) == a->s.length && memcmp(names[t], a->s.text, a->s.length) == 0) return (enum dtype)t;
    return DT_NONE;
}

static bool castable(enum dtype t) { return dtype_is_dense(t) || t == DT_STRING; }

static enum status infer_cast(struct call *c, struct err *err)
{
    enum dtype to = cast_to(c);
    if (!castable(to) || !castable(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "casts from %s to %s are not computed", dtype_name(c->in[0]->dtype), dtype_name(to));
    return call_set(c, 0, to, c->in[0]->dims, c->in[0]->rank, err);
}

static int64_t to_integer(double v, enum dtype t)
{
    if (v != v) return t == DT_BOOL;
    if (t == DT_BOOL) return v != 0;
    if (t == DT_U64) return v >= 18446744073709551615.0 ? -1 : v <= -9.2e18 ? 0 : v < 0 ? (int64_t)v : (int64_t)(uint64_t)v;
    return v >= 9223372036854775807.0 ? INT64_MAX : v <= -9223372036854775808.0 ? INT64_MIN : (int64_t)v;
}

/* 8-bit floats take the attributes saturate and round_mode. */
static void store_minifloats(const struct call *c, struct operand *y, uint64_t at, const double *v, int m)
{
    bool saturate = node_int(c->node, "saturate", 1) != 0;
    enum minifloat_round round = node_text_is(c->node, "round_mode", "down", false) ? MINIFLOAT_DOWN : node_text_is(c->node, "round_mode", "nearest", false) ? MINIFLOAT_NEAREST : MINIFLOAT_UP;
    for (int i = 0; i < m; i++) ((uint8_t *)y->data)[at + (uint64_t)i] = minifloat_encode(y->dtype, v[i], saturate, round);
}

static void cast_numbers(const struct call *c, const struct operand *x, struct operand *y)
{
    bool from_real = dtype_is_float(x->dtype), to_real = dtype_is_float(y->dtype);
    uint64_t n = operand_count(x);
    for (uint64_t done = 0; done < n; done += BLOCK) {
        int m = n - done < BLOCK ? (int)(n - done) : BLOCK;
        double v[BLOCK];
        int64_t k[BLOCK];
        if (from_real || to_real) real_load(v, x->dtype, x->data, done, 1, m);
        else int_load(k, x->dtype, x->data, done, 1, m);
        if (to_real) {
            if (dtype_is_minifloat(y->dtype) && y->dtype != DT_F4E2M1) store_minifloats(c, y, done, v, m);
            else real_store(y->data, y->dtype, done, v, m);
            continue;
        }
        if (from_real)
            for (int i = 0; i < m; i++) k[i] = to_integer(v[i], y->dtype);
        int_store(y->data, y->dtype, done, k, m);
    }
}

/* The shortest decimal that reads back as the same float, written as NumPy's str does for ONNX: "1.0", "1e-07", "inf", "NaN". */
static int real_text(char *out, size_t size, double v, enum dtype t)
{
    if (v != v) return snprintf(out, size, "NaN");
    if (isinf(v)) return snprintf(out, size, v < 0 ? "-INF" : "INF");
    int digits = 1;
    for (; digits < 17; digits++) {
        snprintf(out, size, "%.*e", digits - 1, v);
        double back = strtod(out, NULL);
        if (t == DT_F64 ? back == v : t == DT_F16 ? (double)(_Float16)back == v : (double)(float)back == v) break;
    }
    int exponent = v == 0 ? 0 : (int)strtol(strchr(out, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) return snprintf(out, size, "%.*e", digits - 1, v);
    int decimals = digits - 1 - exponent;
    return snprintf(out, size, "%.*f", decimals > 1 ? decimals : 1, v);
}

static enum status cast_to_strings(struct call *c, const struct operand *x, struct operand *y, struct err *err)
{
    struct string_ref *s = y->data;
    for (uint64_t i = 0, n = operand_count(x); i < n; i++) {
        char text[64];
        double v;
        int64_t k;
        int length;
        if (dtype_is_float(x->dtype)) {
            real_load(&v, x->dtype, x->data, i, 1, 1);
            length = real_text(text, sizeof text, v, x->dtype);
        } else {
            int_load(&k, x->dtype, x->data, i, 1, 1);
            length = x->dtype == DT_BOOL ? snprintf(text, sizeof text, k ? "True" : "False") : x->dtype == DT_U64 ? snprintf(text, sizeof text, "%llu", (unsigned long long)k) : snprintf(text, sizeof text, "%lld", (long long)k);
        }
        char *copy = arena_copy(c->run, text, (size_t)length);
        if (!copy) return call_error(c, err, ST_NO_MEMORY, "its texts pass the memory budget");
        s[i] = (struct string_ref){ copy, (size_t)length };
    }
    return ST_OK;
}

static enum status cast_from_strings(struct call *c, const struct operand *x, struct operand *y, struct err *err)
{
    const struct string_ref *s = x->data;
    for (uint64_t i = 0, n = operand_count(x); i < n; i++) {
        char text[128], *end = text;
        size_t length = s[i].length < sizeof text - 1 ? s[i].length : 0;
        if (length) memcpy(text, s[i].text, length);
        text[length] = 0;
        if (dtype_is_float(y->dtype)) {
            double v = strtod(text, &end);
            real_store(y->data, y->dtype, i, &v, 1);
        } else {
            int64_t k = y->dtype == DT_U64 ? (int64_t)strtoull(text, &end, 10) : strtoll(text, &end, 10);
            if (*end == '.' || *end == 'e') k = to_integer(strtod(text, &end), y->dtype);
            int_store(y->data, y->dtype, i, &k, 1);
        }
        if (length == 0 || *end) return call_error(c, err, ST_BAD_INPUT, "element %llu is no number", (unsigned long long)i);
    }
    return ST_OK;
}

static enum status eval_cast(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct operand *y = c->out[0];
    if (x->dtype == y->dtype) {
        if (y->bytes && y->data != x->data) memcpy(y->data, x->data, y->bytes);
        return ST_OK;
    }
    if (y->dtype == DT_STRING) return cast_to_strings(c, x, y, err);
    if (x->dtype == DT_STRING) return cast_from_strings(c, x, y, err);
    if (dtype_bits(y->dtype) < 8) memset(y->data, 0, y->bytes);
    cast_numbers(c, x, y);
    return ST_OK;
}

static enum status infer_bitcast(struct call *c, struct err *err)
{
    enum dtype to = cast_to(c), from = c->in[0]->dtype;
    if (dtype_bits(to) == 0 || dtype_bits(to) != dtype_bits(from)) return call_error(c, err, ST_BAD_INPUT, "%s and %s differ in size", dtype_name(from), dtype_name(to));
    return call_set(c, 0, to, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_bitcast(struct call *c, struct err *err)
{
    (void)err;
    if (c->out[0]->bytes && c->out[0]->data != c->in[0]->data) memcpy(c->out[0]->data, c->in[0]->data, c->out[0]->bytes);
    return ST_OK;
}

static void tasks_cast(struct call *c, struct task_list *l) { task_pointwise(l, c, GPU_COPY, 1)->u.pointwise.alpha = c->out[0]->dtype == DT_BOOL; }

static bool rows_cast(const struct call *c) { return c->in[0]->batched && c->out[0]->rank >= 1; }

const struct op ops_cast[] = {
    { "Cast", "", 1, 0, 1, 1, 1, 1, OP_LAST | OP_UNARY, 0, infer_cast, eval_cast, NULL, NULL, NULL, rows_cast, tasks_cast },
    { "CastLike", "", 15, 0, 2, 2, 1, 1, 0, 0, infer_cast, eval_cast, NULL, NULL, NULL, rows_cast, tasks_cast },
    { "BitCast", "", 26, 0, 1, 1, 1, 1, OP_LAST | OP_UNARY, 0, infer_bitcast, eval_bitcast, NULL, NULL, NULL, rows_cast, NULL },
    { 0 }
};
