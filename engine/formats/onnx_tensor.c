/* TensorProto. raw_data stays a view; the typed fields (float_data, int32_data, ...) are spread into arena memory of exactly dtype x shape.
 * A tensor whose bytes do not match its shape is refused, as is a shape whose size does not fit. */
#include "engine/formats/onnx_tensor.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"

static enum status wrong(struct err *err, const struct onnx_tensor *t, const char *what)
{
    return err_set(err, ST_BAD_INPUT, "tensor '%s': %s", t->name, what);
}

static enum status read_dims(struct onnx_tensor *t, const struct pb_field *f, struct err *err)
{
    struct pb s = f->wire == PB_BYTES ? pb_sub(f) : (struct pb){ 0 };
    bool packed = f->wire == PB_BYTES, more = packed ? s.p < s.end : true;
    uint64_t v = f->value;
    while (more) {
        if (packed && !pb_varint(&s, &v)) return wrong(err, t, "its dimensions are malformed");
        if (t->tensor.rank == TENSOR_RANK_MAX) return err_set(err, ST_UNSUPPORTED, "tensor '%s' has more than %d dimensions", t->name, TENSOR_RANK_MAX);
        if ((int64_t)v < 0) return wrong(err, t, "a dimension is negative");
        t->tensor.dims[t->tensor.rank++] = (int64_t)v;
        more = packed && s.p < s.end;
    }
    return ST_OK;
}

static bool key_is(const struct pb_field *f, const char *key) { return f->length == strlen(key) && memcmp(f->bytes, key, f->length) == 0; }

static bool read_decimal(const struct pb_field *f, uint64_t *out)
{
    uint64_t v = 0;
    if (f->length == 0 || f->length > 20) return false;
    for (uint64_t i = 0; i < f->length; i++) {
        if (f->bytes[i] < '0' || f->bytes[i] > '9') return false;
        if (!size_mul(v, 10, &v) || !size_add(v, (uint64_t)(f->bytes[i] - '0'), &v)) return false;
    }
    *out = v;
    return true;
}

/* StringStringEntryProto { 1: key, 2: value } of external_data */
static enum status read_external(struct onnx_tensor *t, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field f, key = { 0 }, value = { 0 };
    while (pb_next(&c, &f)) {
        if (f.wire != PB_BYTES) continue;
        if (f.number == 1) key = f;
        if (f.number == 2) value = f;
    }
    if (c.failed || !key.bytes) return wrong(err, t, "its external data entry is malformed");
    if (key_is(&key, "location")) return onnx_read_name(&t->location, arena, &value, err);
    if (key_is(&key, "offset")) return read_decimal(&value, &t->offset) ? ST_OK : wrong(err, t, "the offset of its external data is not a number");
    if (key_is(&key, "length")) {
        t->has_length = true;
        return read_decimal(&value, &t->length) ? ST_OK : wrong(err, t, "the length of its external data is not a number");
    }
    if (key_is(&key, "checksum")) return ST_OK;
    return wrong(err, t, "its external data has a key other than location, offset, length and checksum");
}

/* Which typed field holds this dtype: 4 float, 5 int32, 6 string, 7 int64, 10 double, 11 uint64. */
static uint32_t typed_field(enum dtype d)
{
    switch (d) {
    case DT_F32: case DT_C64: return 4;
    case DT_I64: return 7;
    case DT_F64: case DT_C128: return 10;
    case DT_U32: case DT_U64: return 11;
    case DT_STRING: return 6;
    case DT_NONE: return 0;
    default: return 5;
    }
}

struct sink { uint8_t *data; uint64_t room, used; int bytes; };

static bool sink_put(struct sink *s, uint64_t v)
{
    if (s->room - s->used < (uint64_t)s->bytes) return false;
    memcpy(s->data + s->used, &v, (size_t)s->bytes);
    s->used += (uint64_t)s->bytes;
    return true;
}

static bool spread_field(struct sink *s, const struct pb_field *f, uint32_t number)
{
    if (f->wire != PB_BYTES) return sink_put(s, f->value);
    if (number == 4 || number == 10) {
        if (f->length > s->room - s->used) return false;
        if (f->length) memcpy(s->data + s->used, f->bytes, f->length);
        s->used += f->length;
        return true;
    }
    struct pb c = pb_sub(f);
    for (uint64_t v; c.p < c.end;)
        if (!pb_varint(&c, &v) || !sink_put(s, v)) return false;
    return true;
}

static enum status spread(struct onnx_tensor *t, struct arena *arena, struct pb c, uint64_t bytes, struct err *err)
{
    uint32_t number = typed_field(t->tensor.dtype);
    int element = dtype_bits(t->tensor.dtype) / 8;
    if (number == 4) element = 4;
    if (number == 10) element = 8;
    if (element == 0) element = 1;      /* packed 4- and 2-bit types: one byte in each int32 */
    if (bytes > (uint64_t)(c.end - c.p) * 8) return wrong(err, t, "its data is shorter than its shape");
    struct sink s = { arena_alloc(arena, bytes ? bytes : 1, TENSOR_ALIGN), bytes, 0, element };
    if (!s.data) return err_set(err, ST_NO_MEMORY, "tensor '%s' passes the memory budget", t->name);
    struct pb_field f;
    while (pb_next(&c, &f))
        if (f.number == number && !spread_field(&s, &f, number)) return wrong(err, t, "its data is malformed or longer than its shape");
    if (s.used != bytes) return wrong(err, t, "its data is shorter than its shape");
    t->tensor.data = s.data;
    return ST_OK;
}

static enum status spread_strings(struct onnx_tensor *t, struct arena *arena, struct pb c, uint64_t count, struct err *err)
{
    struct pb_field f;
    uint64_t n = 0;
    if (count > (uint64_t)(c.end - c.p)) return wrong(err, t, "it has fewer strings than its shape");
    struct string_ref *x = arena_calloc(arena, count + 1, sizeof *x);
    if (!x) return err_set(err, ST_NO_MEMORY, "tensor '%s' passes the memory budget", t->name);
    while (pb_next(&c, &f)) {
        if (f.number != 6 || f.wire != PB_BYTES) continue;
        if (n == count) return wrong(err, t, "it has more strings than its shape");
        x[n++] = (struct string_ref){ (const char *)f.bytes, (size_t)f.length };
    }
    if (n != count) return wrong(err, t, "it has fewer strings than its shape");
    t->tensor.data = x;
    return ST_OK;
}

enum status onnx_read_tensor(struct onnx_tensor *t, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field f, raw = { 0 };
    bool external = false;
    enum status st = ST_OK;
    uint64_t dtype = 0;
    t->name = "";
    for (struct pb s = c; !st && pb_next(&s, &f);)
        if (f.number == 8) st = onnx_read_name(&t->name, arena, &f, err);
    for (struct pb s = c; !st && pb_next(&s, &f);) {
        switch (f.number) {
        case 1: st = read_dims(t, &f, err); break;
        case 2: dtype = f.value; break;
        case 3: st = wrong(err, t, "segmented tensors are not taken"); break;
        case 9: if (f.wire == PB_BYTES) raw = f; break;
        case 13: if (f.wire == PB_BYTES) st = read_external(t, arena, pb_sub(&f), err); break;
        case 14: external = f.value == 1; break;
        default: break;
        }
        if (!st && s.failed) st = wrong(err, t, "malformed");
    }
    if (st) return st;
    t->tensor.dtype = dtype < DT_COUNT ? (enum dtype)dtype : DT_NONE;
    if (t->tensor.dtype == DT_NONE) return wrong(err, t, "its data type is not one of ONNX's");
    uint64_t bytes, count;
    if (!tensor_bytes(t->tensor.dtype, t->tensor.dims, t->tensor.rank, &bytes) || !shape_count(t->tensor.dims, t->tensor.rank, &count) || bytes > (uint64_t)INT64_MAX)
        return wrong(err, t, "its shape is too large");
    t->tensor.bytes = bytes;
    if (external) return t->location ? ST_OK : wrong(err, t, "its external data has no location");
    t->location = NULL;
    if (t->tensor.dtype == DT_STRING) return spread_strings(t, arena, c, count, err);
    if (raw.bytes && (raw.length || bytes == 0)) {
        if (raw.length != bytes)
            return err_set(err, ST_BAD_INPUT, "tensor '%s' holds %llu bytes of raw data, but its type and shape need %llu", t->name, (unsigned long long)raw.length, (unsigned long long)bytes);
        t->tensor.data = (void *)(uintptr_t)raw.bytes;
        return ST_OK;
    }
    return spread(t, arena, c, bytes, err);
}

enum status onnx_open_external(struct onnx_tensor *t, struct file_map *map, int dirfd, struct err *err)
{
    int fd;
    uint64_t size;
    struct stat s;
    enum status st = file_open_below(&fd, &size, dirfd, t->location, err);
    if (st) return err_prefix(err, "external data '%s' of tensor '%s'", t->location, t->name);
    if (fstat(fd, &s) || s.st_nlink != 1) {
        close(fd);
        return err_set(err, ST_BAD_INPUT, "external data '%s' of tensor '%s' is a file with several names (hard links)", t->location, t->name);
    }
    uint64_t length = t->has_length ? t->length : t->tensor.bytes;
    if (length != t->tensor.bytes || !range_inside(t->offset, length, size)) {
        close(fd);
        return err_set(err, ST_BAD_INPUT, "external data of tensor '%s': bytes %llu+%llu of '%s' do not fit the tensor (%llu) or the file (%llu)", t->name,
                       (unsigned long long)t->offset, (unsigned long long)length, t->location, (unsigned long long)t->tensor.bytes, (unsigned long long)size);
    }
    st = file_map_fd(map, fd, err);
    close(fd);
    if (st) return st;
    t->tensor.data = map->data ? (void *)(uintptr_t)(map->data + t->offset) : NULL;
    return ST_OK;
}
