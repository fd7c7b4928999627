#include "engine/operators/numbers.h"

#include <assert.h>

#include "engine/operators/minifloat.h"

bool dtype_is_real(enum dtype t) { return t == DT_F32 || t == DT_F64 || t == DT_F16 || t == DT_BF16; }

bool dtype_is_integer(enum dtype t)
{
    return t == DT_U8 || t == DT_I8 || t == DT_U16 || t == DT_I16 || t == DT_I32 || t == DT_I64 || t == DT_U32 || t == DT_U64;
}

bool dtype_is_number(enum dtype t) { return dtype_is_real(t) || dtype_is_integer(t) || t == DT_BOOL; }
bool dtype_is_float(enum dtype t) { return dtype_is_real(t) || dtype_is_minifloat(t); }
bool dtype_is_narrow(enum dtype t) { return t == DT_U4 || t == DT_I4 || t == DT_U2 || t == DT_I2; }
bool dtype_is_dense(enum dtype t) { return dtype_is_number(t) || dtype_is_minifloat(t) || dtype_is_narrow(t); }

void dtype_range(enum dtype t, double *low, double *high)
{
    int bits = t == DT_BOOL ? 1 : dtype_bits(t);
    bool u = t == DT_BOOL || t == DT_U2 || t == DT_U4 || t == DT_U8 || t == DT_U16 || t == DT_U32 || t == DT_U64;
    *low = u ? 0 : -ldexp(1, bits - 1);
    *high = ldexp(1, u ? bits : bits - 1) - 1;
}

/* ---- packed types: the bits of one element ---- */
static unsigned bits_get(const void *data, int bits, uint64_t i)
{
    unsigned per = 8 / (unsigned)bits;
    return ((const uint8_t *)data)[i / per] >> (i % per * (unsigned)bits) & ((1u << bits) - 1);
}

static void bits_put(void *data, int bits, uint64_t i, unsigned v)
{
    unsigned per = 8 / (unsigned)bits, shift = (unsigned)(i % per) * (unsigned)bits, mask = ((1u << bits) - 1) << shift;
    uint8_t *b = (uint8_t *)data + i / per;
    *b = (uint8_t)((*b & ~mask) | (v << shift & mask));
}

static void minifloats_load(double *out, enum dtype t, const void *data, uint64_t start, int64_t stride, int n)
{
    int bits = dtype_bits(t);
    for (int i = 0; i < n; i++) out[i] = minifloat_decode(t, bits_get(data, bits, start + (uint64_t)((int64_t)i * stride)));
}

static void narrow_load(int64_t *out, enum dtype t, const void *data, uint64_t start, int64_t stride, int n)
{
    int bits = dtype_bits(t);
    for (int i = 0; i < n; i++) {
        int64_t v = (int64_t)bits_get(data, bits, start + (uint64_t)((int64_t)i * stride));
        out[i] = (t == DT_I4 || t == DT_I2) && v >> (bits - 1) ? v - (1 << bits) : v;
    }
}

/* One loop for each type; the element type is the only thing that differs. */
#define LOAD(type, convert) { const type *x = (const type *)data + start; for (int i = 0; i < n; i++) { type e = x[(int64_t)i * stride]; out[i] = convert; } } return
#define STORE(type, convert) { type *y = (type *)data + start; for (int i = 0; i < n; i++) y[i] = (type)(convert); } return

void real_load(double *out, enum dtype t, const void *data, uint64_t start, int64_t stride, int n)
{
    switch (t) {
    case DT_F32: LOAD(float, e);
    case DT_F64: LOAD(double, e);
    case DT_F16: LOAD(_Float16, (double)e);
    case DT_BF16: LOAD(uint16_t, (double)bf16_to_f32(e));
    case DT_U64: LOAD(uint64_t, (double)e);
    default: break;
    }
    if (dtype_is_minifloat(t)) { minifloats_load(out, t, data, start, stride, n); return; }
    int64_t v[BLOCK];
    for (int done = 0; done < n; done += BLOCK) {
        int m = n - done < BLOCK ? n - done : BLOCK;
        int_load(v, t, data, start + (uint64_t)((int64_t)done * stride), stride, m);
        for (int i = 0; i < m; i++) out[done + i] = (double)v[i];
    }
}

void real_store(void *data, enum dtype t, uint64_t start, const double *x, int n)
{
    switch (t) {
    case DT_F32: STORE(float, x[i]);
    case DT_F64: STORE(double, x[i]);
    case DT_F16: STORE(_Float16, x[i]);
    case DT_BF16: STORE(uint16_t, f32_to_bf16((float)x[i]));
    case DT_U64: STORE(uint64_t, x[i] >= 1.8446744073709550e19 ? UINT64_MAX : x[i] >= 0 ? (uint64_t)x[i] : x[i] > -9.2e18 ? (uint64_t)(int64_t)x[i] : 0);
    default: break;
    }
    if (dtype_is_minifloat(t)) {
        for (int i = 0; i < n; i++) bits_put(data, dtype_bits(t), start + (uint64_t)i, minifloat_encode(t, x[i], true, MINIFLOAT_UP));
        return;
    }
    for (int i = 0; i < n; i++) {
        int64_t v = t == DT_BOOL ? x[i] != 0 : x[i] != x[i] ? 0 : x[i] >= 9.2e18 ? INT64_MAX : x[i] <= -9.2e18 ? INT64_MIN : (int64_t)x[i];
        int_store(data, t, start + (uint64_t)i, &v, 1);
    }
}

void int_load(int64_t *out, enum dtype t, const void *data, uint64_t start, int64_t stride, int n)
{
    switch (t) {
    case DT_BOOL: LOAD(uint8_t, e != 0);
    case DT_U8: LOAD(uint8_t, e);
    case DT_I8: LOAD(int8_t, e);
    case DT_U16: LOAD(uint16_t, e);
    case DT_I16: LOAD(int16_t, e);
    case DT_U32: LOAD(uint32_t, e);
    case DT_I32: LOAD(int32_t, e);
    case DT_U64: LOAD(uint64_t, (int64_t)e);
    case DT_I64: LOAD(int64_t, e);
    default: break;
    }
    assert(dtype_is_narrow(t));
    narrow_load(out, t, data, start, stride, n);
}

void int_store(void *data, enum dtype t, uint64_t start, const int64_t *x, int n)
{
    switch (t) {
    case DT_BOOL: STORE(uint8_t, x[i] != 0);
    case DT_U8: case DT_I8: STORE(uint8_t, x[i]);
    case DT_U16: case DT_I16: STORE(uint16_t, x[i]);
    case DT_U32: case DT_I32: STORE(uint32_t, x[i]);
    case DT_U64: case DT_I64: STORE(int64_t, x[i]);
    default: break;
    }
    assert(dtype_is_narrow(t));
    for (int i = 0; i < n; i++) bits_put(data, dtype_bits(t), start + (uint64_t)i, (unsigned)x[i]);
}
