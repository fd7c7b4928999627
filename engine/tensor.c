#include "engine/tensor.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"

struct dtype_row { int bits; const char *name, *oip, *config, *npy; };

static const struct dtype_row rows[DT_COUNT] = {
    [DT_NONE] = {0, "undefined", NULL, NULL, NULL},
    [DT_F32] = {32, "float32", "FP32", "TYPE_FP32", "<f4"},
    [DT_U8] = {8, "uint8", "UINT8", "TYPE_UINT8", "|u1"},
    [DT_I8] = {8, "int8", "INT8", "TYPE_INT8", "|i1"},
    [DT_U16] = {16, "uint16", "UINT16", "TYPE_UINT16", "<u2"},
    [DT_I16] = {16, "int16", "INT16", "TYPE_INT16", "<i2"},
    [DT_I32] = {32, "int32", "INT32", "TYPE_INT32", "<i4"},
    [DT_I64] = {64, "int64", "INT64", "TYPE_INT64", "<i8"},
    [DT_STRING] = {0, "string", "BYTES", "TYPE_STRING", NULL},
    [DT_BOOL] = {8, "bool", "BOOL", "TYPE_BOOL", "|b1"},
    [DT_F16] = {16, "float16", "FP16", "TYPE_FP16", "<f2"},
    [DT_F64] = {64, "float64", "FP64", "TYPE_FP64", "<f8"},
    [DT_U32] = {32, "uint32", "UINT32", "TYPE_UINT32", "<u4"},
    [DT_U64] = {64, "uint64", "UINT64", "TYPE_UINT64", "<u8"},
    [DT_C64] = {64, "complex64", NULL, NULL, "<c8"},
    [DT_C128] = {128, "complex128", NULL, NULL, "<c16"},
    [DT_BF16] = {16, "bfloat16", "BF16", "TYPE_BF16", NULL},
    [DT_F8E4M3FN] = {8, "float8e4m3fn", NULL, NULL, NULL},
    [DT_F8E4M3FNUZ] = {8, "float8e4m3fnuz", NULL, NULL, NULL},
    [DT_F8E5M2] = {8, "float8e5m2", NULL, NULL, NULL},
    [DT_F8E5M2FNUZ] = {8, "float8e5m2fnuz", NULL, NULL, NULL},
    [DT_U4] = {4, "uint4", NULL, NULL, NULL},
    [DT_I4] = {4, "int4", NULL, NULL, NULL},
    [DT_F4E2M1] = {4, "float4e2m1", NULL, NULL, NULL},
    [DT_F8E8M0] = {8, "float8e8m0", NULL, NULL, NULL},
    [DT_U2] = {2, "uint2", NULL, NULL, NULL},
    [DT_I2] = {2, "int2", NULL, NULL, NULL},
};

static const struct dtype_row *row_of(enum dtype t)
{
    static const struct dtype_row sequence = {0, "sequence", NULL, NULL, NULL}, absent = {0, "absent", NULL, NULL, NULL};
    if (t == DT_SEQUENCE) return &sequence;
    if (t == DT_ABSENT) return &absent;
    return (int)t >= 0 && t < DT_COUNT ? &rows[t] : &rows[DT_NONE];
}

int         dtype_bits(enum dtype t) { return row_of(t)->bits; }
const char *dtype_name(enum dtype t) { return row_of(t)->name; }
const char *dtype_oip(enum dtype t) { return row_of(t)->oip; }
const char *dtype_config(enum dtype t) { return row_of(t)->config; }
const char *dtype_npy(enum dtype t) { return row_of(t)->npy; }

static bool text_is(const char *row, const char *name, size_t length)
{
    return row && strlen(row) == length && memcmp(row, name, length) == 0;
}

enum dtype dtype_from_oip(const char *name, size_t length)
{
    for (int t = 1; t < DT_COUNT; t++)
        if (text_is(rows[t].oip, name, length)) return (enum dtype)t;
    return DT_NONE;
}

enum dtype dtype_from_config(const char *name, size_t length)
{
    for (int t = 1; t < DT_COUNT; t++)
        if (text_is(rows[t].config, name, length)) return (enum dtype)t;
    return DT_NONE;
}

bool shape_count(const int64_t *dims, int rank, uint64_t *out)
{
    uint64_t n = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 0) return false;
        if (dims[i] == 0) empty = true;
        else if (!size_mul(n, (uint64_t)dims[i], &n)) return false;
    }
    *out = empty ? 0 : n;
    return true;
}

bool tensor_bytes(enum dtype t, const int64_t *dims, int rank, uint64_t *out)
{
    uint64_t n, bits;
    if (!shape_count(dims, rank, &n)) return false;
    if (t == DT_STRING) return size_mul(n, sizeof(struct string_ref), out);
    if (t == DT_SEQUENCE) return size_mul(n, sizeof(struct tensor), out);
    if (t == DT_ABSENT) return *out = 0, true;
    if (dtype_bits(t) == 0) return false;
    if (!size_mul(n, (uint64_t)dtype_bits(t), &bits)) return false;
    if (bits > UINT64_MAX - 7) return false;
    *out = (bits + 7) / 8;
    return true;
}

char *shape_text(const int64_t *dims, int rank, char *out, size_t size)
{
    size_t n = 0;
    if (size == 0) return out;
    out[0] = 0;
    for (int i = 0; i < rank && n < size; i++) {
        int w = snprintf(out + n, size - n, "%s%lld", i ? "," : "[", (long long)dims[i]);
        n += w > 0 ? (size_t)w : 0;
    }
    if (n < size) snprintf(out + n, size - n, rank ? "]" : "[]");
    return out;
}
