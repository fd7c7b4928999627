/* Block formats are kernels/blocks.h's; the table here holds the plain types that it does not know. */
#include "engine/formats/weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/checked.h"
#include "kernels/blocks.h"

static const struct { int type; const char *name; uint32_t bytes; } plain[] = {
    { WEIGHT_I8, "I8", 1 },     { WEIGHT_I16, "I16", 2 }, { WEIGHT_I32, "I32", 4 }, { WEIGHT_I64, "I64", 8 }, { WEIGHT_F64, "F64", 8 },         { WEIGHT_BOOL, "BOOL", 1 },
    { WEIGHT_U8, "U8", 1 },     { WEIGHT_U16, "U16", 2 }, { WEIGHT_U32, "U32", 4 }, { WEIGHT_U64, "U64", 8 }, { WEIGHT_F8_E4M3, "F8_E4M3", 1 }, { WEIGHT_F8_E5M2, "F8_E5M2", 1 },
};

bool weight_type_block(int type, uint32_t *elements, uint32_t *bytes)
{
    const struct block_format *f = block_format(type);
    if (f) return *elements = (uint32_t)f->elements, *bytes = (uint32_t)f->bytes, true;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (plain[i].type == type) return *elements = 1, *bytes = plain[i].bytes, true;
    return false;
}

const char *weight_type_name(int type)
{
    const struct block_format *f = block_format(type);
    if (f) return f->name;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (plain[i].type == type) return plain[i].name;
    return "?";
}

enum status weight_tensor_bytes(int type, const int64_t *dims, int rank, uint64_t *bytes, struct err *err)
{
    uint32_t block, size;
    uint64_t n = 1;
    if (!weight_type_block(type, &block, &size)) return err_set(err, ST_UNSUPPORTED, "type number %d is no known type", type);
    for (int d = 0; d < rank; d++)
        if (dims[d] < 0 || !size_mul(n, (uint64_t)dims[d], &n)) return err_set(err, ST_BAD_INPUT, "its dimensions multiply to more than 2^63 elements");
    if (block > 1 && (rank == 0 || dims[rank - 1] % block))
        return err_set(err, ST_BAD_INPUT, "rows of type %s must be a multiple of %u elements", weight_type_name(type), block);
    if (!size_mul(n / block, size, &n) || n > INT64_MAX) return err_set(err, ST_BAD_INPUT, "it has more than 2^63 bytes");
    *bytes = n;
    return ST_OK;
}

/* Eight bytes at a time, multiplied and folded; the seed is drawn when the map is made. */
static uint64_t hash_bytes(const char *text, size_t length, uint64_t seed)
{
    uint64_t h = seed ^ (length * 0x9E3779B97F4A7C15u), v;
    for (; length >= 8; text += 8, length -= 8) {
        memcpy(&v, text, 8);
        h = (h ^ v) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    v = 0;
    memcpy(&v, text, length);
    h = (h ^ v) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    h *= 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

static struct weights_map_slot *slot_of(const struct weights_map *m, const char *text, size_t length)
{
    uint32_t i = (uint32_t)hash_bytes(text, length, m->seed) & m->mask;
    while (m->slots[i].text && (m->slots[i].length != length || memcmp(m->slots[i].text, text, length))) i = (i + 1) & m->mask;
    return &m->slots[i];
}

bool weights_map_init(struct weights_map *m, uint64_t expected)
{
    uint64_t size = 16;
    if (expected > (1u << 28)) return false;
    while (size < expected * 2) size *= 2;
    *m = (struct weights_map){ .slots = mem_calloc_array(size, sizeof *m->slots), .mask = (uint32_t)size - 1 };
    if (getrandom(&m->seed, sizeof m->seed, GRND_NONBLOCK) < 0) m->seed = (uint64_t)(uintptr_t)m->slots * 0x9E3779B97F4A7C15u;
    return m->slots != NULL;
}

static bool map_grow(struct weights_map *m)
{
    struct weights_map old = *m;
    uint64_t size = m->slots ? ((uint64_t)m->mask + 1) * 2 : 16;
    if (!m->slots) return weights_map_init(m, 0);
    if (size > 1u << 30) return false;
    struct weights_map_slot *slots = mem_calloc_array(size, sizeof *slots);
    if (!slots) return false;
    m->slots = slots, m->mask = (uint32_t)size - 1;
    for (uint32_t i = 0; i <= old.mask; i++)
        if (old.slots[i].text) *slot_of(m, old.slots[i].text, old.slots[i].length) = old.slots[i];
    free(old.slots);
    return true;
}

bool weights_map_put(struct weights_map *m, const char *text, size_t length, int32_t value)
{
    if (length > UINT32_MAX) return false;
    if ((!m->slots || m->count * 2 > m->mask) && !map_grow(m)) return false;
    struct weights_map_slot *s = slot_of(m, text, length);
    if (!s->text) m->count++;
    *s = (struct weights_map_slot){ text, (uint32_t)length, value };
    return true;
}

int weights_map_get(const struct weights_map *m, const char *text, size_t length)
{
    if (!m->slots || length > UINT32_MAX) return -1;
    const struct weights_map_slot *s = slot_of(m, text, length);
    return s->text ? s->value : -1;
}

void weights_map_free(struct weights_map *m)
{
    free(m->slots);
    *m = (struct weights_map){ 0 };
}

enum status weights_add(struct weights *w, const struct weight_tensor *t, struct err *err)
{
    size_t length = strlen(t->name);
    if (weights_map_get(&w->names, t->name, length) >= 0) return err_set(err, ST_BAD_INPUT, "the name '%.100s' is given to two tensors", t->name);
    if (w->count == WEIGHTS_TENSORS_MAX) return err_set(err, ST_BAD_INPUT, "more than %d tensors", WEIGHTS_TENSORS_MAX);
    if (w->count == w->capacity) {
        int capacity = w->capacity ? w->capacity * 2 : 64;
        struct weight_tensor *more = mem_realloc_array(w->tensors, (uint64_t)capacity, sizeof *more);
        if (!more) return err_set(err, ST_NO_MEMORY, "no memory for a table of %d tensors", capacity);
        w->tensors = more, w->capacity = capacity;
    }
    if (!weights_map_put(&w->names, t->name, length, w->count)) return err_set(err, ST_NO_MEMORY, "no memory for the names of %d tensors", w->count);
    w->tensors[w->count++] = *t;
    return ST_OK;
}

const struct weight_tensor *weights_find(const struct weights *w, const char *name)
{
    int i = weights_map_get(&w->names, name, strlen(name));
    return i < 0 ? NULL : &w->tensors[i];
}

void weights_free(struct weights *w)
{
    weights_map_free(&w->names);
    free(w->tensors);
    *w = (struct weights){ 0 };
}

static bool write_fd(void *ctx, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n) {
        ssize_t done = write(*(const int *)ctx, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        p += done, n -= (size_t)done;
    }
    return true;
}

static bool write_buf(void *ctx, const void *bytes, size_t n)
{
    struct buf *b = ctx;
    buf_append(b, bytes, n);
    return !b->failed;
}

struct weights_sink weights_sink_fd(const int *fd) { return (struct weights_sink){ write_fd, (void *)fd }; }
struct weights_sink weights_sink_buf(struct buf *b) { return (struct weights_sink){ write_buf, b }; }
