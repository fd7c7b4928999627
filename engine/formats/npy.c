/* The header is a Python dictionary with three known keys: descr, fortran_order, shape. It is searched for them, not interpreted. */
#include "engine/formats/npy.h"

#include <stdio.h>
#include <string.h>

enum { HEADER_MAX = 65536 };

static enum status bad(struct err *err, const char *what) { return err_set(err, ST_BAD_INPUT, "not a .npy file that is taken: %s", what); }

static const char *value_of(const char *header, const char *key)
{
    const char *p = strstr(header, key);
    if (!p) return NULL;
    for (p += strlen(key); *p == '\'' || *p == '"' || *p == ':' || *p == ' '; p++) {}
    return p;
}

static enum status read_shape(struct tensor *t, const char *p, struct err *err)
{
    if (*p++ != '(') return bad(err, "its shape is not a tuple");
    while (*p && *p != ')') {
        if (*p == ' ' || *p == ',') { p++; continue; }
        if (*p < '0' || *p > '9' || t->rank == TENSOR_RANK_MAX) return bad(err, "its shape is not a short tuple of numbers");
        int64_t v = 0;
        for (; *p >= '0' && *p <= '9'; p++) {
            if (v > (INT64_MAX - 9) / 10) return bad(err, "its shape is too large");
            v = v * 10 + (*p - '0');
        }
        t->dims[t->rank++] = v;
    }
    return *p == ')' ? ST_OK : bad(err, "its shape is cut off");
}

enum status npy_parse(struct tensor *out, struct arena *arena, const char *bytes, size_t length, struct err *err)
{
    *out = (struct tensor){ 0 };
    if (length < 10 || memcmp(bytes, "\x93NUMPY", 6)) return bad(err, "its first bytes are wrong");
    int version = (uint8_t)bytes[6];
    size_t at = version == 1 ? 10 : 12, n = (uint8_t)bytes[8] | (size_t)(uint8_t)bytes[9] << 8;
    if (version < 1 || version > 3 || length < at) return bad(err, "its version is unknown");
    if (version > 1) n |= (size_t)(uint8_t)bytes[10] << 16 | (size_t)(uint8_t)bytes[11] << 24;
    if (n > HEADER_MAX || n > length - at) return bad(err, "its header is cut off");
    const char *header = arena_copy(arena, bytes + at, n);
    if (!header) return err_set(err, ST_NO_MEMORY, "reading a .npy file");
    const char *descr = value_of(header, "descr"), *order = value_of(header, "fortran_order"), *shape = value_of(header, "shape");
    if (!descr || !order || !shape) return bad(err, "its header lacks a key");
    if (strncmp(order, "False", 5)) return bad(err, "its order is Fortran's");
    for (int t = 1; t < DT_COUNT; t++) {
        const char *name = dtype_npy((enum dtype)t);
        size_t k = name ? strlen(name) : 0;
        if (name && (strncmp(descr, name, k) == 0 || (name[0] == '|' && descr[0] == '<' && strncmp(descr + 1, name + 1, k - 1) == 0)) && (descr[k] == '\'' || descr[k] == '"')) out->dtype = (enum dtype)t;
    }
    if (out->dtype == DT_NONE) return bad(err, "its element type has no counterpart");
    enum status st = read_shape(out, shape, err);
    if (st) return st;
    if (!tensor_bytes(out->dtype, out->dims, out->rank, &out->bytes) || out->bytes > length - at - n) return bad(err, "its data is shorter than its shape");
    out->data = (void *)(uintptr_t)(bytes + at + n);
    return ST_OK;
}

enum status npy_write(struct buf *out, const struct tensor *t, struct err *err)
{
    char header[256];
    const char *name = dtype_npy(t->dtype);
    if (!name) return err_set(err, ST_UNSUPPORTED, "NumPy has no type for %s", dtype_name(t->dtype));
    int n = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (", name);
    for (int d = 0; d < t->rank; d++) n += snprintf(header + n, sizeof header - (size_t)n, "%lld, ", (long long)t->dims[d]);
    n += snprintf(header + n, sizeof header - (size_t)n, "), }");
    while ((10 + n + 1) % 64) header[n++] = ' ';
    header[n++] = '\n';
    buf_append(out, "\x93NUMPY\x01\x00", 8);
    buf_putc(out, (char)(n & 255));
    buf_putc(out, (char)(n >> 8));
    buf_append(out, header, (size_t)n);
    buf_append(out, t->data, t->bytes);
    return out->failed ? err_set(err, ST_NO_MEMORY, "writing a .npy file") : ST_OK;
}
