/* One cursor walks the file's head; each read compares with what is left, so no declared number is believed. Keys go into a table with a hash beside it.
 * Tensors are checked against the data section, sorted by offset to find overlaps, and then handed over as views. */
#include "engine/formats/gguf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"

enum { KEYS_MAX = 65536, KEY_MAX = 65535, NAME_MAX_BYTES = 64, RANK_MAX = 4, ALIGNMENT_MAX = 1 << 20, ALIGNMENT = 32, PARTS_MAX = 1000, PATH_BYTES = 4096 };

struct gguf {
    struct file_map   *maps;             /* one for each part that this object mapped itself */
    int                map_count;
    struct gguf_key   *keys;
    int                key_count;
    struct weights_map key_names;
    struct weights     weights;
    struct arena       arena;            /* keys' and tensors' names */
};

struct cursor { const uint8_t *start, *p, *end; };

static const uint8_t scalar_bytes[GGUF_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

static enum status bad_at(struct err *err, const struct cursor *c, const char *what)
{
    return err_set(err, ST_BAD_INPUT, "at byte %llu: %s", (unsigned long long)(c->p - c->start), what);
}

static uint64_t left(const struct cursor *c) { return (uint64_t)(c->end - c->p); }

static bool take(struct cursor *c, void *out, size_t n)
{
    if (left(c) < n) return false;
    memcpy(out, c->p, n);
    c->p += n;
    return true;
}

static enum status take_string(struct cursor *c, const char **text, uint64_t *length, uint64_t max, const char *what, struct err *err)
{
    uint64_t n;
    if (!take(c, &n, 8)) return bad_at(err, c, "the file ends within the length of a string");
    if (n > left(c)) return err_set(err, ST_BAD_INPUT, "at byte %llu: %s of %llu bytes does not fit in the %llu bytes left", (unsigned long long)(c->p - c->start), what, (unsigned long long)n, (unsigned long long)left(c));
    if (n > max) return err_set(err, ST_BAD_INPUT, "at byte %llu: %s of %llu bytes is longer than %llu", (unsigned long long)(c->p - c->start), what, (unsigned long long)n, (unsigned long long)max);
    *text = (const char *)c->p;
    *length = n;
    c->p += n;
    return ST_OK;
}

/* A key or a tensor's name: UTF-8 without NUL, copied. */
static enum status take_name(struct gguf *g, struct cursor *c, const char **out, uint64_t max, const char *what, struct err *err)
{
    const char *text;
    uint64_t n;
    enum status st = take_string(c, &text, &n, max, what, err);
    if (st) return st;
    if (!n) return err_set(err, ST_BAD_INPUT, "at byte %llu: %s is empty", (unsigned long long)(c->p - c->start), what);
    for (uint64_t i = 0; i < n;) {
        size_t step = json_utf8_length(text + i, n - i);
        if (!step || !text[i]) return err_set(err, ST_BAD_INPUT, "at byte %llu: %s is no UTF-8 text", (unsigned long long)(c->p - c->start), what);
        i += step;
    }
    *out = arena_copy(&g->arena, text, n);
    return *out ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for names");
}

static enum status take_array(struct cursor *c, struct gguf_array *a, struct err *err)
{
    uint32_t type;
    if (!take(c, &type, 4) || !take(c, &a->count, 8)) return bad_at(err, c, "the file ends within an array's head");
    if (type >= GGUF_TYPES) return err_set(err, ST_BAD_INPUT, "at byte %llu: %u is no type of array elements", (unsigned long long)(c->p - c->start), type);
    if (type == GGUF_ARRAY) return bad_at(err, c, "arrays of arrays are not taken");
    a->type = (enum gguf_type)type;
    a->data = c->p;
    uint64_t least = type == GGUF_STRING ? 8 : scalar_bytes[type];
    if (a->count > left(c) / least) return err_set(err, ST_BAD_INPUT, "at byte %llu: an array of %llu elements does not fit in the %llu bytes left", (unsigned long long)(c->p - c->start), (unsigned long long)a->count, (unsigned long long)left(c));
    if (type != GGUF_STRING) c->p += a->count * least;
    for (uint64_t i = 0; type == GGUF_STRING && i < a->count; i++) {
        const char *text;
        uint64_t n;
        enum status st = take_string(c, &text, &n, UINT64_MAX, "a string of an array", err);
        if (st) return st;
    }
    a->bytes = (uint64_t)(c->p - a->data);
    return ST_OK;
}

static enum status take_key(struct gguf *g, struct cursor *c, struct gguf_key *k, struct err *err)
{
    uint32_t type;
    const char *text;
    enum status st = take_name(g, c, &k->name, KEY_MAX, "a key", err);
    if (st) return st;
    if (!take(c, &type, 4)) return bad_at(err, c, "the file ends within a key's type");
    if (type >= GGUF_TYPES) return err_set(err, ST_BAD_INPUT, "key '%.100s': %u is no type of value", k->name, type);
    k->type = (enum gguf_type)type;
    k->value = c->p;
    if (type == GGUF_ARRAY) st = take_array(c, &k->array, err);
    else if (type == GGUF_STRING) {
        st = take_string(c, &text, &k->length, UINT64_MAX, "a string", err);
        if (!st) k->value = (const uint8_t *)text;
    } else {
        k->length = scalar_bytes[type];
        if (left(c) < k->length) st = bad_at(err, c, "the file ends within a value");
        else c->p += k->length;
    }
    if (!st && type == GGUF_BOOL && *k->value > 1) st = err_set(err, ST_BAD_INPUT, "a boolean is %u", *k->value);
    return st ? err_prefix(err, "key '%.100s'", k->name) : ST_OK;
}

static enum status take_tensor(struct gguf *g, struct cursor *c, struct weight_tensor *t, uint64_t *offset, struct err *err)
{
    uint32_t rank, type;
    uint64_t dims[RANK_MAX];
    enum status st = take_name(g, c, &t->name, NAME_MAX_BYTES, "a tensor's name", err);
    if (st) return st;
    if (!take(c, &rank, 4)) return bad_at(err, c, "the file ends within a tensor's rank");
    if (rank < 1 || rank > RANK_MAX) return err_set(err, ST_BAD_INPUT, "tensor '%.64s' has %u dimensions; 1 to %d are possible", t->name, rank, RANK_MAX);
    if (!take(c, dims, rank * sizeof *dims) || !take(c, &type, 4) || !take(c, offset, 8)) return bad_at(err, c, "the file ends within the list of tensors");
    t->rank = (int)rank;
    for (uint32_t d = 0; d < rank; d++) {
        if (!dims[d] || dims[d] > INT64_MAX) return err_set(err, ST_BAD_INPUT, "tensor '%.64s': a dimension is %llu", t->name, (unsigned long long)dims[d]);
        t->dims[rank - 1 - d] = (int64_t)dims[d];
    }
    t->type = type < WEIGHT_BOOL ? (int)type : -1;
    st = weight_tensor_bytes(t->type, t->dims, t->rank, &t->bytes, err);
    return st ? err_prefix(err, "tensor '%.64s' (type %u)", t->name, type) : ST_OK;
}

struct span { uint64_t offset, bytes; int tensor; };

static int by_offset(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* The tensors' list and their data. `c` stands behind the keys. */
static enum status take_tensors(struct gguf *g, struct cursor *c, uint64_t count, uint32_t alignment, struct err *err)
{
    int first = g->weights.count;
    enum status st = ST_OK;
    struct span *spans = mem_calloc_array(count + 1, sizeof *spans);
    if (!spans) return err_set(err, ST_NO_MEMORY, "no memory for %llu tensors", (unsigned long long)count);
    for (uint64_t i = 0; i < count && !st; i++) {
        struct weight_tensor t = { 0 };
        st = take_tensor(g, c, &t, &spans[i].offset, err);
        if (!st) st = weights_add(&g->weights, &t, err);
        spans[i].bytes = t.bytes, spans[i].tensor = first + (int)i;
    }
    uint64_t head = (uint64_t)(c->p - c->start), total = (uint64_t)(c->end - c->start), begin = (head + alignment - 1) & ~(uint64_t)(alignment - 1);
    uint64_t space = begin <= total ? total - begin : 0, last = 0;
    if (!st) qsort(spans, count, sizeof *spans, by_offset);
    for (uint64_t i = 0; i < count && !st; i++) {
        struct weight_tensor *t = &g->weights.tensors[spans[i].tensor];
        if (spans[i].offset % alignment) st = err_set(err, ST_BAD_INPUT, "tensor '%.64s' begins at %llu, which is no multiple of the alignment %u", t->name, (unsigned long long)spans[i].offset, alignment);
        else if (!range_inside(spans[i].offset, spans[i].bytes, space)) st = err_set(err, ST_BAD_INPUT, "tensor '%.64s' of %llu bytes at %llu reaches beyond the %llu bytes of data in the file", t->name, (unsigned long long)spans[i].bytes, (unsigned long long)spans[i].offset, (unsigned long long)space);
        else if (spans[i].offset < last) st = err_set(err, ST_BAD_INPUT, "tensor '%.64s' overlaps the one before it", t->name);
        else {
            t->data = c->start + begin + spans[i].offset;
            last = spans[i].offset + spans[i].bytes;
        }
    }
    free(spans);
    return st;
}

/* One part. The keys of the first part are those of the whole; later parts' keys are checked and dropped, but for split.*, which the caller reads
 * through `part`. */
static enum status read_part(struct gguf *g, const uint8_t *data, uint64_t size, int part, int *split_no, struct err *err)
{
    struct cursor c = { data, data, data + size };
    char magic[4];
    uint32_t version, alignment = ALIGNMENT;
    uint64_t tensors, keys;
    struct gguf own = *g;                /* a later part's keys live in a table of their own */
    enum status st = ST_OK;
    if (!data || !take(&c, magic, 4) || memcmp(magic, "GGUF", 4)) return err_set(err, ST_BAD_INPUT, "not a GGUF file: it does not begin with 'GGUF'");
    if (!take(&c, &version, 4)) return bad_at(err, &c, "the file ends within its head");
    if (version != 2 && version != 3)
        return err_set(err, ST_UNSUPPORTED, version && !(version & 0xffffff) ? "GGUF file of big-endian numbers; little-endian is read" : "GGUF version %u; 2 and 3 are read", version);
    if (!take(&c, &tensors, 8) || !take(&c, &keys, 8)) return bad_at(err, &c, "the file ends within its head");
    if (tensors > WEIGHTS_TENSORS_MAX || keys > KEYS_MAX)
        return err_set(err, ST_BAD_INPUT, "%llu tensors and %llu keys; at most %d of each are taken", (unsigned long long)tensors, (unsigned long long)keys, KEYS_MAX);
    if (keys > left(&c) / 13 || tensors > left(&c) / 25) return err_set(err, ST_BAD_INPUT, "%llu tensors and %llu keys do not fit in %llu bytes", (unsigned long long)tensors, (unsigned long long)keys, (unsigned long long)size);
    own.keys = mem_calloc_array(keys + 1, sizeof *own.keys);
    own.key_names = (struct weights_map){ 0 };
    if (!own.keys || !weights_map_init(&own.key_names, keys)) st = err_set(err, ST_NO_MEMORY, "no memory for %llu keys", (unsigned long long)keys);
    for (own.key_count = 0; !st && (uint64_t)own.key_count < keys; own.key_count++) {
        struct gguf_key *k = &own.keys[own.key_count];
        st = take_key(&own, &c, k, err);
        if (!st && weights_map_get(&own.key_names, k->name, strlen(k->name)) >= 0) st = err_set(err, ST_BAD_INPUT, "key '%.100s' is there twice", k->name);
        if (!st && !weights_map_put(&own.key_names, k->name, strlen(k->name), own.key_count)) st = err_set(err, ST_NO_MEMORY, "no memory for keys");
        if (st) break;
    }
    if (!st && gguf_find(&own, "general.alignment") && (!gguf_u32(&own, "general.alignment", &alignment) || !alignment || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1))))
        st = err_set(err, ST_BAD_INPUT, "general.alignment must be a power of two up to %d", ALIGNMENT_MAX);
    if (!st) st = take_tensors(&own, &c, tensors, alignment, err);
    uint32_t no = 0;
    gguf_u32(&own, "split.no", &no);
    *split_no = no < PARTS_MAX ? (int)no : -1;
    g->arena = own.arena;
    g->weights = own.weights;
    if (part == 0) {
        g->keys = own.keys, g->key_count = own.key_count, g->key_names = own.key_names;
    } else {
        free(own.keys);
        weights_map_free(&own.key_names);
    }
    return st;
}

static enum status map_file(struct gguf *g, int dirfd, const char *path, struct err *err)
{
    struct file_map *more = mem_realloc_array(g->maps, (uint64_t)g->map_count + 1, sizeof *more);
    if (!more) return err_set(err, ST_NO_MEMORY, "no memory for the list of parts");
    g->maps = more;
    if (dirfd < 0) {
        enum status st = file_map_path(&g->maps[g->map_count], path, err);
        if (!st) g->map_count++;
        return st;
    }
    int fd = -1;
    uint64_t size;
    enum status st = file_open_below(&fd, &size, dirfd, path, err);
    if (st) return st;
    st = file_map_fd(&g->maps[g->map_count], fd, err);
    if (!st) g->map_count++;
    close(fd);
    return st;
}

/* NAME-00001-of-0000N.gguf: the other parts have the same name but for the number. */
static enum status read_other_parts(struct gguf *g, int dirfd, const char *path, int split_no, struct err *err)
{
    uint32_t count = 0;
    char name[PATH_BYTES], tail[32];
    if (!gguf_u32(g, "split.count", &count) || count <= 1) return ST_OK;
    snprintf(tail, sizeof tail, "-00001-of-%05u.gguf", count);
    size_t length = strlen(path), n = strlen(tail);
    if (count > PARTS_MAX) return err_set(err, ST_BAD_INPUT, "split.count is %u; at most %d parts are taken", count, PARTS_MAX);
    if (split_no != 0 || length < n || strcmp(path + length - n, tail))
        return err_set(err, ST_BAD_INPUT, "it is part %d of a model split into %u files; open the first, whose name ends in '%s'", split_no + 1, count, tail);
    for (uint32_t i = 1; i < count; i++) {
        int no;
        snprintf(name, sizeof name, "%.*s-%05u-of-%05u.gguf", (int)(length - n), path, i + 1, count);
        enum status st = map_file(g, dirfd, name, err);
        if (!st) st = read_part(g, g->maps[g->map_count - 1].data, g->maps[g->map_count - 1].size, (int)i, &no, err);
        if (!st && no != (int)i) st = err_set(err, ST_BAD_INPUT, "its split.no is %d, not %u", no, i);
        if (st) return err_prefix(err, "part %u", i + 1);
    }
    uint32_t tensors;
    if (gguf_u32(g, "split.tensors.count", &tensors) && tensors != (uint32_t)g->weights.count)
        return err_set(err, ST_BAD_INPUT, "split.tensors.count says %u tensors, the parts hold %d", tensors, g->weights.count);
    return ST_OK;
}

static struct gguf *gguf_new(void)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (g) arena_init(&g->arena, (uint64_t)1 << 30);
    return g;
}

enum status gguf_open(struct gguf **out, int dirfd, const char *path, struct err *err)
{
    struct gguf *g = gguf_new();
    int split_no = 0;
    if (!g) return err_set(err, ST_NO_MEMORY, "no memory for a GGUF file");
    if (strlen(path) >= PATH_BYTES) {
        gguf_close(g);
        return err_set(err, ST_BAD_INPUT, "a path of %zu bytes", strlen(path));
    }
    enum status st = map_file(g, dirfd, path, err);
    if (!st) {
        st = read_part(g, g->maps[0].data, g->maps[0].size, 0, &split_no, err);
        if (!st) st = read_other_parts(g, dirfd, path, split_no, err);
        if (st) err_prefix(err, "'%.200s'", path);
    }
    if (st) gguf_close(g);
    else *out = g;
    return st;
}

enum status gguf_open_bytes(struct gguf **out, const void *data, uint64_t size, struct err *err)
{
    struct gguf *g = gguf_new();
    int split_no;
    if (!g) return err_set(err, ST_NO_MEMORY, "no memory for a GGUF file");
    enum status st = read_part(g, data, size, 0, &split_no, err);
    if (st) gguf_close(g);
    else *out = g;
    return st;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    for (int i = 0; i < g->map_count; i++) file_unmap(&g->maps[i]);
    free(g->maps);
    free(g->keys);
    weights_map_free(&g->key_names);
    weights_free(&g->weights);
    arena_free(&g->arena);
    free(g);
}

const struct weights  *gguf_weights(const struct gguf *g) { return &g->weights; }
int                    gguf_key_count(const struct gguf *g) { return g->key_count; }
const struct gguf_key *gguf_key_at(const struct gguf *g, int index) { return &g->keys[index]; }

const struct gguf_key *gguf_find(const struct gguf *g, const char *key)
{
    int i = weights_map_get(&g->key_names, key, strlen(key));
    return i < 0 ? NULL : &g->keys[i];
}
