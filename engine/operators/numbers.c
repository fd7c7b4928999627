#include "engine/operators/numbers.h"

#include <assert.h>

bool dtype_is_real(enum dtype t) { return t == DT_F32 || t == DT_F64 || t == DT_F16 || t == DT_BF16; }

bool dtype_is_integer(enum dtype t)
{
    return t == DT_U8 || t == DT_I8 || t == DT_U16 || t == DT_I16 || t == DT_I32 || t == DT_I64 || t == DT_U32 || t == DT_U64;
}

bool dtype_is_number(enum dtype t) { return dtype_is_real(t) || dtype_is_integer(t) || t == DT_BOOL; }

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
    default: assert(!"real_store: not a real type");
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
    default: assert(!"int_load: not an integer type");
    }
}

void int_store(void *data, enum dtype t, uint64_t start, const int64_t *x, int n)
{
    switch (t) {
    case DT_BOOL: STORE(uint8_t, x[i] != 0);
    case DT_U8: case DT_I8: STORE(uint8_t, x[i]);
    case DT_U16: case DT_I16: STORE(uint16_t, x[i]);
    case DT_U32: case DT_I32: STORE(uint32_t, x[i]);
    case DT_U64: case DT_I64: STORE(int64_t, x[i]);
    default: assert(!"int_store: not an integer type");
    }
}
