#include "api/oip_tensor.h"

#include "base/checked.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- JSON in ---- */

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
    return p;
}

static enum status wrong(const char *name, const char *what, struct err *err)
{
    return err_set(err, ST_BAD_INPUT, "Unable to parse 'data' of input '%s': %s", name, what);
}

/* A signed or unsigned integer into its type, by range. */
static bool store_integer(void *data, uint64_t i, enum dtype t, const struct json *v)
{
    static const struct { int64_t low; uint64_t high; } range[DT_COUNT] = {
        [DT_BOOL] = { 0, 1 }, [DT_U8] = { 0, UINT8_MAX }, [DT_I8] = { INT8_MIN, INT8_MAX }, [DT_U16] = { 0, UINT16_MAX }, [DT_I16] = { INT16_MIN, INT16_MAX },
        [DT_U32] = { 0, UINT32_MAX }, [DT_I32] = { INT32_MIN, INT32_MAX }, [DT_U64] = { 0, UINT64_MAX }, [DT_I64] = { INT64_MIN, INT64_MAX },
    };
    uint64_t bits;
    if (v->type == JSON_INT) {
        if (v->integer < range[t].low || (v->integer > 0 && (uint64_t)v->integer > range[t].high)) return false;
        bits = (uint64_t)v->integer;
    } else if (v->type == JSON_UINT) {
        if (v->natural > range[t].high) return false;
        bits = v->natural;
    } else if (v->type == JSON_BOOL && t == DT_BOOL) {
        bits = v->boolean;
    } else {
        return false;
    }
    switch (dtype_bits(t)) {
    case 8:  ((uint8_t *)data)[i] = (uint8_t)bits; break;
    case 16: ((uint16_t *)data)[i] = (uint16_t)bits; break;
    case 32: ((uint32_t *)data)[i] = (uint32_t)bits; break;
    default: ((uint64_t *)data)[i] = bits;
    }
    return true;
}

static bool store_value(void *data, uint64_t i, enum dtype t, const struct json *v)
{
    if (t != DT_F32 && t != DT_F64) return store_integer(data, i, t, v);
    double d = v->type == JSON_REAL ? v->real : v->type == JSON_INT ? (double)v->integer : v->type == JSON_UINT ? (double)v->natural : NAN;
    if (v->type == JSON_BOOL || !isfinite(d)) return false;
    if (t == DT_F64) {
        ((double *)data)[i] = d;
        return true;
    }
    float f = (float)d;
    ((float *)data)[i] = f;
    return isfinite(f);
}

static enum status read_numbers(struct tensor *t, uint64_t count, const char *p, const char *end, const char *name, struct err *err)
{
    uint64_t n = 0;
    int depth = 0;
    bool value_next = true;      /* a value or '[' may come; else ',' or ']' */
    for (p = skip_space(p, end); p < end; p = skip_space(p, end)) {
        struct json v;
        if (value_next && t->dtype == DT_F32) {
            uint64_t run;
            p = json_floats(p, end, (float *)t->data + n, count - n, &run);
            n += run;
            if (run && (p = skip_space(p, end)) >= end) break;
        }
        if (*p == '[' && value_next) {
            if (++depth > TENSOR_RANK_MAX + 1) return wrong(name, "the arrays are nested deeper than the shape", err);
            const char *q = skip_space(p + 1, end);
            value_next = q >= end || *q != ']';
            p++;
        } else if (*p == ']' && !value_next && depth > 0) {
            if (--depth == 0) {
                p = skip_space(p + 1, end);
                break;
            }
            p++;
        } else if (*p == ',' && !value_next) {
            value_next = true;
            p++;
        } else if (value_next) {
            const char *after;
            if (end - p >= 4 && !memcmp(p, "true", 4)) v.type = JSON_BOOL, v.boolean = true, after = p + 4;
            else if (end - p >= 5 && !memcmp(p, "false", 5)) v.type = JSON_BOOL, v.boolean = false, after = p + 5;
            else after = json_number(p, end, &v);
            if (!after) return wrong(name, "a value is not a number", err);
            if (n >= count) return wrong(name, "it holds more values than the shape says", err);
            if (!store_value(t->data, n, t->dtype, &v)) return wrong(name, "a value does not fit the datatype", err);
            n++;
            value_next = false;
            p = after;
        } else {
            return wrong(name, "a ',' or ']' is missing", err);
        }
    }
    if (p != end || depth) return wrong(name, "the array is not complete", err);
    if (n != count) return err_set(err, ST_BAD_INPUT, "Unable to parse 'data' of input '%s': it holds %llu values but the shape says %llu", name, (unsigned long long)n, (unsigned long long)count);
    return ST_OK;
}

/* Strings come out of the general reader; nested arrays are walked in order without recursion. */
static enum status read_strings(struct tensor *t, uint64_t count, struct arena *arena, const char *text, size_t length, const char *name, struct err *err)
{
    struct json *root;
    const struct json *stack[TENSOR_RANK_MAX + 2];
    int depth = 0;
    uint64_t n = 0;
    enum status st = json_parse(&root, arena, text, length, &(struct json_options){ .depth_max = TENSOR_RANK_MAX + 1 }, err);
    if (st) return st;
    for (const struct json *j = root->list.first; j || depth;) {
        if (!j) {
            j = stack[--depth]->next;
        } else if (j->type == JSON_ARRAY) {
            stack[depth++] = j;
            j = j->list.first;
        } else {
            if (j->type != JSON_STRING) return wrong(name, "a value is not a string", err);
            if (n >= count) return wrong(name, "it holds more values than the shape says", err);
            ((struct string_ref *)t->data)[n++] = (struct string_ref){ j->string.text, j->string.length };
            j = j->next;
        }
    }
    return n == count ? ST_OK : wrong(name, "it holds fewer values than the shape says", err);
}

enum status oip_tensor_from_json(struct tensor *t, struct arena *arena, const char *text, size_t length, const char *name, struct err *err)
{
    uint64_t count;
    if (!dtype_oip(t->dtype)) return err_set(err, ST_BAD_INPUT, "input '%s' has a datatype that the protocol does not have", name);
    if (t->dtype == DT_F16 || t->dtype == DT_BF16)
        return err_set(err, ST_BAD_INPUT, "input '%s': %s tensors have no JSON form, send them as binary data", name, dtype_oip(t->dtype));
    if (!shape_count(t->dims, t->rank, &count) || !tensor_bytes(t->dtype, t->dims, t->rank, &t->bytes)) return wrong(name, "the shape is too large", err);
    if (count > length) return wrong(name, "it holds fewer values than the shape says", err);
    t->data = arena_alloc(arena, t->bytes, TENSOR_ALIGN);
    if (!t->data) return err_set(err, ST_TOO_LARGE, "input '%s' of %llu bytes is over the request's memory budget", name, (unsigned long long)t->bytes);
    return t->dtype == DT_STRING ? read_strings(t, count, arena, text, length, name, err) : read_numbers(t, count, text, text + length, name, err);
}

/* ---- raw in ---- */

static enum status raw_strings(struct tensor *t, uint64_t count, struct arena *arena, const char *bytes, uint64_t length, const char *name, struct err *err)
{
    if (count > length / 4) return err_set(err, ST_BAD_INPUT, "input '%s' has %llu bytes, too few for %llu strings with their 4-byte lengths", name, (unsigned long long)length, (unsigned long long)count);
    struct string_ref *refs = arena_alloc(arena, t->bytes, TENSOR_ALIGN);
    if (!refs) return err_set(err, ST_TOO_LARGE, "input '%s' is over the request's memory budget", name);
    uint64_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t n;
        if (!range_inside(at, 4, length)) return err_set(err, ST_BAD_INPUT, "input '%s' ends in the middle of string %llu", name, (unsigned long long)i);
        memcpy(&n, bytes + at, 4);
        if (!range_inside(at + 4, n, length)) return err_set(err, ST_BAD_INPUT, "input '%s': string %llu is %u bytes long, past the end of the data", name, (unsigned long long)i, n);
        refs[i] = (struct string_ref){ bytes + at + 4, n };
        at += 4 + (uint64_t)n;
    }
    if (at != length) return err_set(err, ST_BAD_INPUT, "input '%s' has %llu bytes behind its last string", name, (unsigned long long)(length - at));
    t->data = refs;
    return ST_OK;
}

enum status oip_tensor_from_raw(struct tensor *t, struct arena *arena, const char *bytes, uint64_t length, const char *name, struct err *err)
{
    uint64_t count;
    if (!shape_count(t->dims, t->rank, &count) || !tensor_bytes(t->dtype, t->dims, t->rank, &t->bytes))
        return err_set(err, ST_BAD_INPUT, "input '%s' has a shape that is too large", name);
    if (t->dtype == DT_STRING) return raw_strings(t, count, arena, bytes, length, name, err);
    if (t->bytes != length)
        return err_set(err, ST_BAD_INPUT, "input byte size mismatch for input '%s'. Expected %llu, got %llu", name, (unsigned long long)t->bytes, (unsigned long long)length);
    size_t element = (size_t)dtype_bits(t->dtype) / 8;
    if (element < 1) element = 1;
    if (((uintptr_t)bytes & (element - 1)) == 0) {
        t->data = (void *)bytes;
        return ST_OK;
    }
    t->data = arena_alloc(arena, length, TENSOR_ALIGN);
    if (!t->data) return err_set(err, ST_TOO_LARGE, "input '%s' of %llu bytes is over the request's memory budget", name, (unsigned long long)length);
    memcpy(t->data, bytes, length);
    return ST_OK;
}

/* ---- out ---- */

void oip_tensor_to_json(struct buf *out, const struct tensor *t)
{
    uint64_t count = 0;
    if (!shape_count(t->dims, t->rank, &count)) count = 0;
    buf_putc(out, '[');
    for (uint64_t i = 0; i < count && !out->failed; i++) {
        if (i) buf_putc(out, ',');
        switch (t->dtype) {
        case DT_F32: json_write_float(out, ((const float *)t->data)[i]); break;
        case DT_F64: json_write_double(out, ((const double *)t->data)[i]); break;
        case DT_BOOL: buf_puts(out, ((const uint8_t *)t->data)[i] ? "true" : "false"); break;
        case DT_U8: buf_uint(out, ((const uint8_t *)t->data)[i]); break;
        case DT_I8: buf_int(out, ((const int8_t *)t->data)[i]); break;
        case DT_U16: buf_uint(out, ((const uint16_t *)t->data)[i]); break;
        case DT_I16: buf_int(out, ((const int16_t *)t->data)[i]); break;
        case DT_U32: buf_uint(out, ((const uint32_t *)t->data)[i]); break;
        case DT_I32: buf_int(out, ((const int32_t *)t->data)[i]); break;
        case DT_U64: buf_uint(out, ((const uint64_t *)t->data)[i]); break;
        case DT_I64: buf_int(out, ((const int64_t *)t->data)[i]); break;
        case DT_STRING: json_write_string(out, ((const struct string_ref *)t->data)[i].text, ((const struct string_ref *)t->data)[i].length); break;
        default: out->failed = true;      /* the caller refuses types without a JSON form before */
        }
    }
    buf_putc(out, ']');
}

uint64_t oip_tensor_raw_bytes(const struct tensor *t)
{
    uint64_t count, bytes = 0;
    if (t->dtype != DT_STRING) return t->bytes;
    if (!shape_count(t->dims, t->rank, &count)) return 0;
    for (uint64_t i = 0; i < count; i++) bytes += 4 + ((const struct string_ref *)t->data)[i].length;
    return bytes;
}

void oip_tensor_to_raw(struct buf *out, const struct tensor *t)
{
    uint64_t count;
    if (t->dtype != DT_STRING) {
        buf_append(out, t->data, t->bytes);
        return;
    }
    if (!shape_count(t->dims, t->rank, &count)) return;
    for (uint64_t i = 0; i < count; i++) {
        const struct string_ref *s = &((const struct string_ref *)t->data)[i];
        uint32_t n = (uint32_t)s->length;
        buf_append(out, &n, 4);
        buf_append(out, s->text, s->length);
    }
}

/* ---- classification ---- */

static bool value_at(const struct tensor *t, uint64_t i, double *out)
{
    switch (t->dtype) {
    case DT_F32: *out = (double)((const float *)t->data)[i]; return true;
    case DT_F64: *out = ((const double *)t->data)[i]; return true;
    case DT_U8: *out = ((const uint8_t *)t->data)[i]; return true;
    case DT_I8: *out = ((const int8_t *)t->data)[i]; return true;
    case DT_U16: *out = ((const uint16_t *)t->data)[i]; return true;
    case DT_I16: *out = ((const int16_t *)t->data)[i]; return true;
    case DT_U32: *out = ((const uint32_t *)t->data)[i]; return true;
    case DT_I32: *out = ((const int32_t *)t->data)[i]; return true;
    case DT_U64: *out = (double)((const uint64_t *)t->data)[i]; return true;
    case DT_I64: *out = (double)((const int64_t *)t->data)[i]; return true;
    default: return false;
    }
}

/* The k largest of n values from `first` on, largest first, the lower index first among equals; k is small, so insertion it is. */
static int64_t top(const struct tensor *t, uint64_t first, int64_t n, int64_t k, int64_t *index, double *value)
{
    int64_t have = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = 0;
        value_at(t, first + (uint64_t)i, &v);
        if (have == k && !(v > value[k - 1])) continue;
        int64_t at = have < k ? have++ : k - 1;
        for (; at > 0 && v > value[at - 1]; at--) value[at] = value[at - 1], index[at] = index[at - 1];
        value[at] = v;
        index[at] = i;
    }
    return have;
}

enum status oip_classify(struct tensor *t, struct arena *arena, int64_t k, bool batched, const char *const *labels, int label_count, struct err *err)
{
    uint64_t count;
    double probe;
    if (!shape_count(t->dims, t->rank, &count) || (count && !value_at(t, 0, &probe)))
        return err_set(err, ST_BAD_INPUT, "class result not available for output due to unsupported type '%s'", dtype_oip(t->dtype) ? dtype_oip(t->dtype) : dtype_name(t->dtype));
    int64_t rows = batched && t->rank > 0 ? t->dims[0] : 1, each = rows ? (int64_t)(count / (uint64_t)rows) : 0;
    if (k > each) k = each;
    struct tensor classes = { .dtype = DT_STRING, .rank = batched ? 2 : 1 };
    classes.dims[0] = batched ? rows : k;
    classes.dims[1] = batched ? k : 0;
    tensor_bytes(DT_STRING, classes.dims, classes.rank, &classes.bytes);
    struct string_ref *out = arena_alloc(arena, classes.bytes, TENSOR_ALIGN);
    int64_t *index = arena_calloc(arena, (uint64_t)k, sizeof *index);
    double *value = arena_calloc(arena, (uint64_t)k, sizeof *value);
    if (!out || !index || !value) return err_set(err, ST_NO_MEMORY, "no memory for %lld classes", (long long)k);
    classes.data = out;
    for (int64_t row = 0; row < rows && k > 0; row++) {
        top(t, (uint64_t)(row * each), each, k, index, value);
        for (int64_t i = 0; i < k; i++) {
            bool real = t->dtype == DT_F32 || t->dtype == DT_F64;
            char *text = index[i] < label_count && labels[index[i]][0]
                ? arena_format(arena, real ? "%f:%lld:%s" : "%.0f:%lld:%s", value[i], (long long)index[i], labels[index[i]])
                : arena_format(arena, real ? "%f:%lld" : "%.0f:%lld", value[i], (long long)index[i]);
            if (!text) return err_set(err, ST_NO_MEMORY, "no memory for %lld classes", (long long)k);
            *out++ = (struct string_ref){ text, strlen(text) };
        }
    }
    *t = classes;
    return ST_OK;
}
