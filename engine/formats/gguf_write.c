/* The head is kept in two buffers, keys and tensors, since their counts come first in the file; data is passed straight on. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/formats/gguf.h"

enum { VERSION = 3, ALIGNMENT = 32, RANK_MAX = 4, NAME_MAX_BYTES = 64 };

struct gguf_writer {
    struct buf          keys, tensors;
    uint64_t            key_count, tensor_count, capacity;
    uint64_t           *sizes;             /* bytes of each tensor */
    uint64_t            next_offset;       /* of the tensor declared next, within the data */
    uint64_t            at, within;        /* the tensor being written, and its bytes so far */
    uint32_t            alignment;
    struct weights_sink sink;
    struct err          failed;            /* the first failure; status ST_OK before it */
};

enum status gguf_writer_open(struct gguf_writer **out, uint32_t alignment, struct err *err)
{
    if (alignment & (alignment - 1)) return err_set(err, ST_BAD_INPUT, "an alignment of %u is no power of two", alignment);
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(err, ST_NO_MEMORY, "no memory for a GGUF writer");
    buf_init(&w->keys, 0);
    buf_init(&w->tensors, 0);
    w->alignment = alignment ? alignment : ALIGNMENT;
    if (alignment && alignment != ALIGNMENT) gguf_writer_u32(w, "general.alignment", alignment);
    *out = w;
    return ST_OK;
}

void gguf_writer_close(struct gguf_writer *w)
{
    if (!w) return;
    buf_free(&w->keys);
    buf_free(&w->tensors);
    free(w->sizes);
    free(w);
}

static void put_text(struct buf *b, const char *text, uint64_t n)
{
    buf_append(b, &n, 8);
    buf_append(b, text, n);
}

static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type, const void *value, size_t n)
{
    uint32_t number = type;
    put_text(&w->keys, key, strlen(key));
    buf_append(&w->keys, &number, 4);
    buf_append(&w->keys, value, n);
    w->key_count++;
}

void gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t v) { put_key(w, key, GGUF_U32, &v, 4); }
void gguf_writer_f32(struct gguf_writer *w, const char *key, float v) { put_key(w, key, GGUF_F32, &v, 4); }
void gguf_writer_bool(struct gguf_writer *w, const char *key, bool v) { put_key(w, key, GGUF_BOOL, &(uint8_t){ v }, 1); }

void gguf_writer_text(struct gguf_writer *w, const char *key, const char *text, size_t length)
{
    put_key(w, key, GGUF_STRING, NULL, 0);
    put_text(&w->keys, text, length);
}

void gguf_writer_array(struct gguf_writer *w, const char *key, enum gguf_type type, const void *data, uint64_t count)
{
    static const uint8_t bytes[GGUF_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    uint32_t number = type;
    put_key(w, key, GGUF_ARRAY, &number, 4);
    buf_append(&w->keys, &count, 8);
    buf_append(&w->keys, data, count * bytes[type]);
}

void gguf_writer_texts(struct gguf_writer *w, const char *key, const char *const *texts, const size_t *lengths, uint64_t count)
{
    uint32_t number = GGUF_STRING;
    put_key(w, key, GGUF_ARRAY, &number, 4);
    buf_append(&w->keys, &count, 8);
    for (uint64_t i = 0; i < count; i++) put_text(&w->keys, texts[i], lengths[i]);
}

void gguf_writer_copy(struct gguf_writer *w, const struct gguf_key *k)
{
    uint32_t number = k->array.type;
    if (k->type == GGUF_STRING) {
        gguf_writer_text(w, k->name, (const char *)k->value, k->length);
    } else if (k->type == GGUF_ARRAY) {
        put_key(w, k->name, GGUF_ARRAY, &number, 4);
        buf_append(&w->keys, &k->array.count, 8);
        buf_append(&w->keys, k->array.data, k->array.bytes);
    } else {
        put_key(w, k->name, k->type, k->value, k->length);
    }
}

void gguf_writer_tensor(struct gguf_writer *w, const char *name, int type, const int64_t *dims, int rank)
{
    uint64_t bytes = 0;
    if (w->failed.status) return;
    if (rank < 1 || rank > RANK_MAX || strlen(name) > NAME_MAX_BYTES || type >= WEIGHT_BOOL) {
        err_set(&w->failed, ST_UNSUPPORTED, "tensor '%.100s': GGUF has names up to %d bytes, 1 to %d dimensions and no type %s", name, NAME_MAX_BYTES, RANK_MAX, weight_type_name(type));
        return;
    }
    if (weight_tensor_bytes(type, dims, rank, &bytes, &w->failed)) {
        err_prefix(&w->failed, "tensor '%.100s'", name);
        return;
    }
    if (w->tensor_count == w->capacity) {
        uint64_t capacity = w->capacity ? w->capacity * 2 : 64, *more = mem_realloc_array(w->sizes, capacity, sizeof *more);
        if (!more) {
            err_set(&w->failed, ST_NO_MEMORY, "no memory for %llu tensors", (unsigned long long)capacity);
            return;
        }
        w->sizes = more, w->capacity = capacity;
    }
    w->sizes[w->tensor_count++] = bytes;
    put_text(&w->tensors, name, strlen(name));
    buf_append(&w->tensors, &(uint32_t){ (uint32_t)rank }, 4);
    for (int d = rank - 1; d >= 0; d--) buf_append(&w->tensors, &dims[d], 8);
    buf_append(&w->tensors, &(uint32_t){ (uint32_t)type }, 4);
    buf_append(&w->tensors, &w->next_offset, 8);
    w->next_offset = (w->next_offset + bytes + w->alignment - 1) & ~(uint64_t)(w->alignment - 1);
}

static enum status told(const struct gguf_writer *w, struct err *err)
{
    return w->failed.status ? err_set(err, w->failed.status, "%s", w->failed.text) : ST_OK;
}

static void put_out(struct gguf_writer *w, const void *bytes, uint64_t n)
{
    if (!w->failed.status && n && !w->sink.write(w->sink.ctx, bytes, n)) err_set(&w->failed, ST_NO_SPACE, "the file cannot be written");
}

static void pad(struct gguf_writer *w, uint64_t written)
{
    static const uint8_t zeros[64];
    for (uint64_t n = -written & (w->alignment - 1); n;) {
        uint64_t step = n < sizeof zeros ? n : sizeof zeros;
        put_out(w, zeros, step);
        n -= step;
    }
}

enum status gguf_writer_start(struct gguf_writer *w, struct weights_sink sink, struct err *err)
{
    uint32_t version = VERSION;
    w->sink = sink;
    if (!w->failed.status && (w->keys.failed || w->tensors.failed)) err_set(&w->failed, ST_NO_MEMORY, "no memory for the head of the file");
    put_out(w, "GGUF", 4);
    put_out(w, &version, 4);
    put_out(w, &w->tensor_count, 8);
    put_out(w, &w->key_count, 8);
    put_out(w, w->keys.data, w->keys.length);
    put_out(w, w->tensors.data, w->tensors.length);
    pad(w, 24 + w->keys.length + w->tensors.length);
    return told(w, err);
}

enum status gguf_writer_data(struct gguf_writer *w, const void *bytes, uint64_t n, struct err *err)
{
    const uint8_t *p = bytes;
    while (n && !w->failed.status) {
        if (w->at == w->tensor_count) {
            err_set(&w->failed, ST_INTERNAL, "more data than the tensors declared");
            break;
        }
        uint64_t room = w->sizes[w->at] - w->within, step = n < room ? n : room;
        put_out(w, p, step);
        p += step, n -= step, w->within += step;
        if (w->within == w->sizes[w->at]) {
            pad(w, w->within);
            w->at++, w->within = 0;
        }
    }
    return told(w, err);
}

enum status gguf_writer_finish(struct gguf_writer *w, struct err *err)
{
    if (!w->failed.status && w->at != w->tensor_count) err_set(&w->failed, ST_INTERNAL, "the data of %llu of %llu tensors came", (unsigned long long)w->at, (unsigned long long)w->tensor_count);
    return told(w, err);
}
