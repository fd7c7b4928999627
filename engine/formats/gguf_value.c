/* Typed views of GGUF values. Integers of every width are one kind to a reader, since converters choose widths freely. */
#include <math.h>
#include <string.h>

#include "engine/formats/gguf.h"

/* An integer of the type at p as int64; false for other types and for u64 values above INT64_MAX. */
static bool read_int(enum gguf_type type, const uint8_t *p, int64_t *out)
{
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64; } v = { 0 };
    switch (type) {
    case GGUF_U8: case GGUF_BOOL: *out = p[0]; return true;
    case GGUF_I8: memcpy(&v, p, 1); *out = v.i8; return true;
    case GGUF_U16: memcpy(&v, p, 2); *out = v.u16; return true;
    case GGUF_I16: memcpy(&v, p, 2); *out = v.i16; return true;
    case GGUF_U32: memcpy(&v, p, 4); *out = v.u32; return true;
    case GGUF_I32: memcpy(&v, p, 4); *out = v.i32; return true;
    case GGUF_U64: case GGUF_I64: memcpy(&v, p, 8); *out = v.i64; return type == GGUF_I64 || v.u64 <= INT64_MAX;
    default: return false;
    }
}

static bool read_real(enum gguf_type type, const uint8_t *p, double *out)
{
    int64_t i;
    float f;
    if (type == GGUF_F64) { memcpy(out, p, 8); return true; }
    if (type == GGUF_F32) { memcpy(&f, p, 4); *out = (double)f; return true; }
    if (type == GGUF_BOOL || !read_int(type, p, &i)) return false;
    *out = (double)i;
    return true;
}

bool gguf_i64(const struct gguf *g, const char *key, int64_t *out)
{
    const struct gguf_key *k = gguf_find(g, key);
    return k && k->type != GGUF_BOOL && read_int(k->type, k->value, out);
}

bool gguf_u32(const struct gguf *g, const char *key, uint32_t *out)
{
    int64_t v;
    if (!gguf_i64(g, key, &v) || v < 0 || v > UINT32_MAX) return false;
    *out = (uint32_t)v;
    return true;
}

bool gguf_f32(const struct gguf *g, const char *key, float *out)
{
    const struct gguf_key *k = gguf_find(g, key);
    double v;
    if (!k || !read_real(k->type, k->value, &v)) return false;
    *out = (float)v;
    return true;
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_key *k = gguf_find(g, key);
    if (!k || k->type != GGUF_BOOL) return false;
    *out = *k->value;
    return true;
}

const char *gguf_text(const struct gguf *g, const char *key, size_t *length)
{
    const struct gguf_key *k = gguf_find(g, key);
    if (!k || k->type != GGUF_STRING) return NULL;
    *length = k->length;
    return (const char *)k->value;
}

bool gguf_text_is(const struct gguf *g, const char *key, const char *text)
{
    size_t n;
    const char *t = gguf_text(g, key, &n);
    return t && n == strlen(text) && !memcmp(t, text, n);
}

bool gguf_array(const struct gguf *g, const char *key, struct gguf_array *out)
{
    const struct gguf_key *k = gguf_find(g, key);
    if (!k || k->type != GGUF_ARRAY) return false;
    *out = k->array;
    return true;
}

/* Every element of a numeric array has the same size. */
static const uint8_t *element(const struct gguf_array *a, uint64_t index) { return a->data + index * (a->bytes / a->count); }

int64_t gguf_array_int(const struct gguf_array *a, uint64_t index)
{
    int64_t v;
    return a->type != GGUF_STRING && read_int(a->type, element(a, index), &v) ? v : 0;
}

double gguf_array_real(const struct gguf_array *a, uint64_t index)
{
    double v;
    return a->type != GGUF_STRING && read_real(a->type, element(a, index), &v) ? v : NAN;
}

bool gguf_array_text(const struct gguf_array *a, uint64_t *offset, const char **text, size_t *length)
{
    uint64_t n;
    if (a->type != GGUF_STRING || *offset >= a->bytes) return false;
    memcpy(&n, a->data + *offset, 8);
    *text = (const char *)a->data + *offset + 8;
    *length = n;
    *offset += 8 + n;
    return true;
}
