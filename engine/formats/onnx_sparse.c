/* SparseTensorProto { 1: values, 2: indices, 3: dims }: an initializer stored by the elements that are not 0, made dense when it is read. The values' tensor bears the name;
 * indices are int64, one number for each value counted through the whole tensor, or one for each dimension. The dense bytes are charged to the file's arena. */
#include "engine/formats/onnx_tensor.h"

#include <string.h>

static enum status wrong(struct err *err, const struct onnx_tensor *t, const char *what) { return err_set(err, ST_BAD_INPUT, "sparse initializer '%s': %s", t->name ? t->name : "", what); }

/* Reads both parts and the dims into *dense. */
static enum status read_parts(struct onnx_tensor *values, struct onnx_tensor *indices, struct tensor *dense, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field f;
    enum status st = ST_OK;
    while (!st && pb_next(&c, &f)) {
        struct pb s = f.wire == PB_BYTES ? pb_sub(&f) : (struct pb){ 0 };
        uint64_t v = f.value;
        if (f.number == 1 && f.wire == PB_BYTES) st = onnx_read_tensor(values, arena, s, err);
        else if (f.number == 2 && f.wire == PB_BYTES) st = onnx_read_tensor(indices, arena, s, err);
        else if (f.number == 3)
            for (bool more = f.wire == PB_BYTES ? s.p < s.end : f.wire == PB_VARINT; !st && more; more = f.wire == PB_BYTES && s.p < s.end) {
                if ((f.wire == PB_BYTES && !pb_varint(&s, &v)) || (int64_t)v < 0 || dense->rank == TENSOR_RANK_MAX) st = wrong(err, values, "its dimensions are malformed or too many");
                else dense->dims[dense->rank++] = (int64_t)v;
            }
    }
    return !st && c.failed ? wrong(err, values, "it is malformed") : st;
}

/* Where value i goes; false: outside. */
static bool place_of(const struct tensor *dense, const struct tensor *at, uint64_t i, uint64_t count, uint64_t *place)
{
    int64_t k;
    *place = 0;
    if (at->rank == 1) {
        memcpy(&k, (const char *)at->data + i * 8, 8);
        *place = (uint64_t)k;
        return k >= 0 && (uint64_t)k < count;
    }
    for (int d = 0; d < dense->rank; d++) {
        memcpy(&k, (const char *)at->data + (i * (uint64_t)dense->rank + (uint64_t)d) * 8, 8);
        if (k < 0 || k >= dense->dims[d]) return false;
        *place = *place * (uint64_t)dense->dims[d] + (uint64_t)k;
    }
    return true;
}

enum status onnx_read_sparse(struct onnx_tensor *t, struct arena *arena, struct pb c, struct err *err)
{
    struct onnx_tensor indices = { 0 };
    struct tensor dense = { 0 };
    uint64_t count, size, n, place;
    *t = (struct onnx_tensor){ 0 };
    enum status st = read_parts(t, &indices, &dense, arena, c, err);
    if (st) return st;
    const struct tensor *v = &t->tensor, *at = &indices.tensor;
    if (!t->name || t->location || indices.location || v->rank != 1 || at->dtype != DT_I64 || v->dtype == DT_STRING) return wrong(err, t, "it needs values of one dimension and int64 indices, in the file itself");
    dense.dtype = v->dtype;
    n = (uint64_t)v->dims[0];
    size = n ? v->bytes / n : 0;
    if (n && size * n != v->bytes) return wrong(err, t, "its element type is packed, which is not taken");
    if (at->dims[0] != v->dims[0] || !(at->rank == 1 || (at->rank == 2 && at->dims[1] == dense.rank))) return wrong(err, t, "its indices do not fit its values");
    if (!shape_count(dense.dims, dense.rank, &count) || !tensor_bytes(dense.dtype, dense.dims, dense.rank, &dense.bytes)) return wrong(err, t, "its shape is too large");
    dense.data = arena_calloc(arena, dense.bytes ? dense.bytes : 1, 1);
    if (!dense.data) return err_set(err, ST_NO_MEMORY, "sparse initializer '%s' passes the model's memory budget", t->name);
    for (uint64_t i = 0; i < n; i++) {
        if (!place_of(&dense, at, i, count, &place)) return wrong(err, t, "an index is outside its shape");
        memcpy((char *)dense.data + place * size, (const char *)v->data + i * size, (size_t)size);
    }
    t->tensor = dense;
    return ST_OK;
}
