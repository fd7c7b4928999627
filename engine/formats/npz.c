/* A zip archive is read from its end: the record there says where the list of entries is, an entry says where its data is. Every place is compared with the file's size before it is looked at. */
#include "engine/formats/npz.h"

#include <string.h>

#include "base/checked.h"
#include "base/compress.h"
#include "engine/formats/npy.h"

enum { END_BYTES = 22, COMMENT_MAX = 65535, ENTRY_BYTES = 46, LOCAL_BYTES = 30, STORED = 0, DEFLATED = 8, RATIO_MAX = 1100 /* deflate's own limit is 1032 */ };
static const uint32_t END_MARK = 0x06054b50, ENTRY_MARK = 0x02014b50, LOCAL_MARK = 0x04034b50;

static enum status bad(struct err *err, const char *what) { return err_set(err, ST_BAD_INPUT, "not a .npz file that is taken: %s", what); }

static uint32_t u16_at(const char *p) { return (uint8_t)p[0] | (uint32_t)(uint8_t)p[1] << 8; }
static uint32_t u32_at(const char *p) { return u16_at(p) | u16_at(p + 2) << 16; }

static const char *find_end(const char *bytes, size_t length)
{
    for (size_t back = END_BYTES; back <= length && back <= END_BYTES + COMMENT_MAX; back++)
        if (u32_at(bytes + length - back) == END_MARK) return bytes + length - back;
    return NULL;
}

/* The bytes of an entry, expanded. e: its record in the list, ENTRY_BYTES long. */
static enum status entry_bytes(const char **out, size_t *count, struct arena *arena, const char *bytes, size_t length, const char *e, struct err *err)
{
    const uint32_t method = u16_at(e + 10), packed = u32_at(e + 20), plain = u32_at(e + 24), at = u32_at(e + 42);
    if (!range_inside(at, LOCAL_BYTES, length) || u32_at(bytes + at) != LOCAL_MARK) return bad(err, "an entry is not where the list says");
    const uint64_t data = (uint64_t)at + LOCAL_BYTES + u16_at(bytes + at + 26) + u16_at(bytes + at + 28);
    if (!range_inside(data, packed, length)) return bad(err, "an entry is cut off");
    if (u16_at(e + 8) & 1) return bad(err, "an entry is encrypted");
    if (method == STORED) {
        if (packed != plain) return bad(err, "an entry has two sizes");
        *out = bytes + data;
        *count = plain;
        return ST_OK;
    }
    if (method != DEFLATED) return bad(err, "an entry is packed in another way than by deflate");
    struct buf b;
    buf_init(&b, 0);
    enum status st = compress_expand(&b, COMPRESS_BARE, bytes + data, packed, plain, RATIO_MAX, err);
    if (!st && b.length != plain) st = bad(err, "an entry does not expand to its size");
    if (!st && !(*out = arena_copy(arena, b.data ? b.data : "", b.length))) st = err_set(err, ST_NO_MEMORY, "reading a .npz file");
    *count = b.length;
    buf_free(&b);
    return st;
}

enum status npz_parse(struct npz *out, struct arena *arena, const char *bytes, size_t length, struct err *err)
{
    const char *end = find_end(bytes, length);
    *out = (struct npz){ 0 };
    if (!end) return bad(err, "it is no zip archive, or cut off");
    const uint32_t count = u16_at(end + 10);
    uint64_t at = u32_at(end + 16);
    if (count > NPZ_ENTRIES_MAX) return bad(err, "it has more than 4096 entries, or is of 4 GiB and more");
    if (!(out->entries = arena_calloc(arena, (uint64_t)count + 1, sizeof *out->entries))) return err_set(err, ST_NO_MEMORY, "reading a .npz file");
    for (uint32_t i = 0; i < count; i++) {
        if (!range_inside(at, ENTRY_BYTES, length) || u32_at(bytes + at) != ENTRY_MARK) return bad(err, "its list of entries is cut off");
        const char *e = bytes + at, *name = e + ENTRY_BYTES, *data = NULL;
        size_t n = u16_at(e + 28), size = 0;
        if (!range_inside(at + ENTRY_BYTES, n, length)) return bad(err, "its list of entries is cut off");
        at += ENTRY_BYTES + (uint64_t)n + u16_at(e + 30) + u16_at(e + 32);
        if (n < 4 || memcmp(name + n - 4, ".npy", 4)) continue;
        struct npz_entry *x = &out->entries[out->count++];
        enum status st = entry_bytes(&data, &size, arena, bytes, length, e, err);
        if (!st && !(x->name = arena_copy(arena, name, n - 4))) st = err_set(err, ST_NO_MEMORY, "reading a .npz file");
        if (!st) st = npy_parse(&x->tensor, arena, data, size, err);
        if (st) return st;
    }
    return ST_OK;
}

const struct tensor *npz_find(const struct npz *n, const char *name)
{
    for (int i = 0; i < n->count; i++)
        if (strcmp(n->entries[i].name, name) == 0) return &n->entries[i].tensor;
    return NULL;
}
