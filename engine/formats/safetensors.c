/* The head is read by base/json into an arena that stays, since the tensors' names point into it. Spans are sorted by their begin and must then be a
 * chain from 0 to the end of the file: nothing can hide between two tensors and no byte belongs to two. */
#include "engine/formats/safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"

enum { HEAD_MAX = 100000000, NAME_MAX_BYTES = 512, INDEX_MAX = 32 << 20, SHARDS_MAX = 1024, PATH_BYTES = 4096 };

struct safetensors {
    struct file_map  *maps;
    int               map_count;
    struct weights    weights;
    const struct json *metadata;     /* of the first file; NULL when it has none */
    struct arena      arena;         /* heads */
};

static const struct { const char *name; int type; } dtypes[] = {
    { "F32", WEIGHT_F32 }, { "F16", WEIGHT_F16 }, { "BF16", WEIGHT_BF16 }, { "F64", WEIGHT_F64 }, { "I8", WEIGHT_I8 }, { "I16", WEIGHT_I16 }, { "I32", WEIGHT_I32 }, { "I64", WEIGHT_I64 },
    { "U8", WEIGHT_U8 }, { "U16", WEIGHT_U16 }, { "U32", WEIGHT_U32 }, { "U64", WEIGHT_U64 }, { "BOOL", WEIGHT_BOOL }, { "F8_E4M3", WEIGHT_F8_E4M3 }, { "F8_E5M2", WEIGHT_F8_E5M2 },
};

struct span { uint64_t begin, end; int tensor; };

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* One member of the head. */
static enum status read_tensor(const struct json *j, struct weight_tensor *t, struct span *span, struct err *err)
{
    const struct json *dtype = json_get(j, "dtype"), *shape = json_get(j, "shape"), *offsets = json_get(j, "data_offsets");
    t->name = j->key;
    t->type = -1;
    if (j->type != JSON_OBJECT || j->list.count != 3 || !dtype || !shape || !offsets) return err_set(err, ST_BAD_INPUT, "it needs exactly dtype, shape and data_offsets");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (json_is_string(dtype, dtypes[i].name)) t->type = dtypes[i].type;
    if (t->type < 0) return err_set(err, ST_UNSUPPORTED, "dtype '%.40s' is not known", dtype->type == JSON_STRING ? dtype->string.text : "?");
    if (shape->type != JSON_ARRAY || shape->list.count > WEIGHTS_RANK_MAX) return err_set(err, ST_BAD_INPUT, "its shape must be an array of up to %d numbers", WEIGHTS_RANK_MAX);
    for (const struct json *d = shape->list.first; d; d = d->next) {
        if (!json_as_int64(d, &t->dims[t->rank]) || t->dims[t->rank] < 0) return err_set(err, ST_BAD_INPUT, "dimension %d of its shape is no natural number", t->rank);
        t->rank++;
    }
    if (offsets->type != JSON_ARRAY || offsets->list.count != 2 || !json_as_uint64(offsets->list.first, &span->begin) || !json_as_uint64(offsets->list.first->next, &span->end) || span->begin > span->end)
        return err_set(err, ST_BAD_INPUT, "its data_offsets must be two ascending natural numbers");
    enum status st = weight_tensor_bytes(t->type, t->dims, t->rank, &t->bytes, err);
    if (!st && t->bytes != span->end - span->begin)
        st = err_set(err, ST_BAD_INPUT, "its span is %llu bytes, its dtype and shape need %llu", (unsigned long long)(span->end - span->begin), (unsigned long long)t->bytes);
    return st;
}

static enum status read_metadata(struct safetensors *s, const struct json *m, struct err *err)
{
    if (m->type != JSON_OBJECT) return err_set(err, ST_BAD_INPUT, "__metadata__ is no object");
    for (const struct json *e = m->list.first; e; e = e->next)
        if (e->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "__metadata__ holds something that is no text");
    if (!s->metadata) s->metadata = m;
    return ST_OK;
}

static enum status read_head(struct safetensors *s, const struct json *head, const uint8_t *data, uint64_t space, struct err *err)
{
    enum status st = ST_OK;
    uint64_t count = 0, at = 0;
    bool seen = false;
    struct span *spans = mem_calloc_array((uint64_t)head->list.count + 1, sizeof *spans);
    if (!spans) return err_set(err, ST_NO_MEMORY, "no memory for %zu tensors", head->list.count);
    for (const struct json *j = head->list.first; j && !st; j = j->next) {
        struct weight_tensor t = { 0 };
        if (!strcmp(j->key, "__metadata__")) {
            st = seen ? err_set(err, ST_BAD_INPUT, "__metadata__ is there twice") : read_metadata(s, j, err);
            seen = true;
            continue;
        }
        if (j->key_length > NAME_MAX_BYTES || !j->key_length || strlen(j->key) != j->key_length) {
            st = err_set(err, ST_BAD_INPUT, "a tensor's name of %zu bytes: 1 to %d without NUL are possible", j->key_length, NAME_MAX_BYTES);
            break;
        }
        st = read_tensor(j, &t, &spans[count], err);
        if (st) err_prefix(err, "tensor '%.100s'", j->key);
        spans[count++].tensor = s->weights.count;
        if (!st) st = weights_add(&s->weights, &t, err);
    }
    if (!st) qsort(spans, count, sizeof *spans, by_begin);
    for (uint64_t i = 0; i < count && !st; i++) {
        struct weight_tensor *t = &s->weights.tensors[spans[i].tensor];
        if (spans[i].begin != at) st = err_set(err, ST_BAD_INPUT, "tensor '%.100s' begins at %llu where %llu is the end of the one before it", t->name, (unsigned long long)spans[i].begin, (unsigned long long)at);
        else if (spans[i].end > space) st = err_set(err, ST_BAD_INPUT, "tensor '%.100s' reaches beyond the %llu bytes of data in the file", t->name, (unsigned long long)space);
        else t->data = data + at;
        at = spans[i].end;
    }
    if (!st && at != space) st = err_set(err, ST_BAD_INPUT, "the tensors end at %llu, the file's data at %llu", (unsigned long long)at, (unsigned long long)space);
    free(spans);
    return st;
}

static enum status read_file(struct safetensors *s, const uint8_t *data, uint64_t size, struct err *err)
{
    uint64_t head_bytes;
    struct json *head;
    if (!data || size < 8) return err_set(err, ST_BAD_INPUT, "not a safetensors file: it has %llu bytes", (unsigned long long)size);
    memcpy(&head_bytes, data, 8);
    if (head_bytes > HEAD_MAX || head_bytes > size - 8) return err_set(err, ST_BAD_INPUT, "not a safetensors file: a head of %llu bytes in a file of %llu (at most %d)", (unsigned long long)head_bytes, (unsigned long long)size, HEAD_MAX);
    if (!head_bytes || data[8] != '{') return err_set(err, ST_BAD_INPUT, "not a safetensors file: its head is no JSON object");
    enum status st = json_parse(&head, &s->arena, (const char *)data + 8, head_bytes, NULL, err);
    return st ? st : read_head(s, head, data + 8 + head_bytes, size - 8 - head_bytes, err);
}

/* Opens one file below dirfd or of the operator's own and keeps it mapped. */
static enum status map_file(struct safetensors *s, int dirfd, const char *path, struct err *err)
{
    struct file_map *more = mem_realloc_array(s->maps, (uint64_t)s->map_count + 1, sizeof *more);
    if (!more) return err_set(err, ST_NO_MEMORY, "no memory for the list of files");
    s->maps = more;
    enum status st;
    if (dirfd < 0) st = file_map_path(&s->maps[s->map_count], path, err);
    else {
        int fd = -1;
        uint64_t size;
        st = file_open_below(&fd, &size, dirfd, path, err);
        if (st) return st;
        st = file_map_fd(&s->maps[s->map_count], fd, err);
        close(fd);
    }
    if (!st) s->map_count++;
    return st;
}

static enum status read_shard(struct safetensors *s, int dirfd, const char *path, struct err *err)
{
    enum status st = map_file(s, dirfd, path, err);
    if (st) return st;
    st = read_file(s, s->maps[s->map_count - 1].data, s->maps[s->map_count - 1].size, err);
    return st ? err_prefix(err, "'%.200s'", path) : ST_OK;
}

/* Which tensors of the set each file holds is a range of the table, in the order the files were read. */
struct shard { const char *file; int first, end; };

static enum status read_index(struct safetensors *s, int dirfd, const char *path, const struct json *map, struct err *err)
{
    struct shard *shards = mem_calloc_array(SHARDS_MAX, sizeof *shards);
    struct weights_map files = { 0 };
    const char *slash = strrchr(path, '/');
    char name[PATH_BYTES];
    int count = 0;
    enum status st = shards ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for the list of files");
    for (const struct json *e = map->list.first; e && !st; e = e->next) {
        if (e->type != JSON_STRING || !e->string.length || strlen(e->string.text) != e->string.length || strchr(e->string.text, '/') || e->string.text[0] == '.') {
            st = err_set(err, ST_BAD_INPUT, "weight_map: '%.100s' lies in something that is no plain file name", e->key);
            break;
        }
        if (weights_map_get(&files, e->string.text, e->string.length) >= 0) continue;
        if (count == SHARDS_MAX) {
            st = err_set(err, ST_BAD_INPUT, "weight_map names more than %d files", SHARDS_MAX);
            break;
        }
        int n = snprintf(name, sizeof name, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, e->string.text);
        if (n < 0 || n >= (int)sizeof name) st = err_set(err, ST_BAD_INPUT, "weight_map: a path of %d bytes", n);
        shards[count] = (struct shard){ .file = e->string.text, .first = s->weights.count };
        if (!st && !weights_map_put(&files, e->string.text, e->string.length, count)) st = err_set(err, ST_NO_MEMORY, "no memory for the list of files");
        if (!st) st = read_shard(s, dirfd, name, err);
        shards[count++].end = s->weights.count;
    }
    for (const struct json *e = map->list.first; e && !st; e = e->next) {
        const struct shard *h = &shards[weights_map_get(&files, e->string.text, e->string.length)];
        int tensor = weights_map_get(&s->weights.names, e->key, e->key_length);
        if (tensor < h->first || tensor >= h->end) st = err_set(err, ST_BAD_INPUT, "weight_map: '%.100s' is not in '%.100s'", e->key, h->file);
    }
    weights_map_free(&files);
    free(shards);
    return st;
}

static struct safetensors *safetensors_new(void)
{
    struct safetensors *s = calloc(1, sizeof *s);
    if (s) arena_init(&s->arena, (uint64_t)1 << 30);
    return s;
}

enum status safetensors_open(struct safetensors **out, int dirfd, const char *path, struct err *err)
{
    static const char index_tail[] = ".index.json";
    struct safetensors *s = safetensors_new();
    size_t length = strlen(path);
    enum status st;
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory for a safetensors file");
    if (length > sizeof index_tail - 1 && !strcmp(path + length - (sizeof index_tail - 1), index_tail)) {
        struct json *root = NULL;
        st = map_file(s, dirfd, path, err);
        if (!st && s->maps[0].size > INDEX_MAX) st = err_set(err, ST_TOO_LARGE, "'%.200s' has more than %d bytes", path, INDEX_MAX);
        if (!st) st = json_parse(&root, &s->arena, (const char *)s->maps[0].data, s->maps[0].size, NULL, err);
        const struct json *map = st ? NULL : json_get(root, "weight_map");
        if (!st && (!map || map->type != JSON_OBJECT)) st = err_set(err, ST_BAD_INPUT, "'%.200s' has no object weight_map", path);
        if (!st) st = read_index(s, dirfd, path, map, err);
    } else st = read_shard(s, dirfd, path, err);
    if (st) safetensors_close(s);
    else *out = s;
    return st;
}

enum status safetensors_open_bytes(struct safetensors **out, const void *data, uint64_t size, struct err *err)
{
    struct safetensors *s = safetensors_new();
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory for a safetensors file");
    enum status st = read_file(s, data, size, err);
    if (st) safetensors_close(s);
    else *out = s;
    return st;
}

void safetensors_close(struct safetensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->map_count; i++) file_unmap(&s->maps[i]);
    free(s->maps);
    weights_free(&s->weights);
    arena_free(&s->arena);
    free(s);
}

const struct weights *safetensors_weights(const struct safetensors *s) { return &s->weights; }

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    const struct json *v = s->metadata ? json_get(s->metadata, key) : NULL;
    return v ? v->string.text : NULL;
}

static const char *dtype_name(int type)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].type == type) return dtypes[i].name;
    return NULL;
}

enum status safetensors_write_head(struct weights_sink sink, const struct weight_tensor *tensors, int count, const char *const *metadata, int count_metadata, struct err *err)
{
    struct buf head;
    uint64_t at = 0, length;
    enum status st = ST_OK;
    buf_init(&head, HEAD_MAX);
    buf_puts(&head, "{");
    if (metadata) buf_puts(&head, "\"__metadata__\":{");
    for (int i = 0; metadata && i < count_metadata; i++) {
        if (i) buf_putc(&head, ',');
        json_write_text(&head, metadata[2 * i]);
        buf_putc(&head, ':');
        json_write_text(&head, metadata[2 * i + 1]);
    }
    if (metadata) buf_putc(&head, '}');
    for (int i = 0; i < count; i++) {
        const struct weight_tensor *t = &tensors[i];
        const char *dtype = dtype_name(t->type);
        if (!dtype) {
            st = err_set(err, ST_UNSUPPORTED, "tensor '%.100s': safetensors has no dtype for %s", t->name, weight_type_name(t->type));
            break;
        }
        if (i || metadata) buf_putc(&head, ',');
        json_write_text(&head, t->name);
        buf_printf(&head, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
        for (int d = 0; d < t->rank; d++) buf_printf(&head, d ? ",%lld" : "%lld", (long long)t->dims[d]);
        buf_printf(&head, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    buf_putc(&head, '}');
    while (head.length % 8 && !head.failed) buf_putc(&head, ' ');       /* so that the data is aligned */
    if (!st && head.failed) st = err_set(err, ST_NO_MEMORY, "the head does not fit in memory or in %d bytes", HEAD_MAX);
    length = head.length;
    bool ok = !st && sink.write(sink.ctx, &length, 8) && sink.write(sink.ctx, head.data, head.length);
    if (!st && !ok) st = err_set(err, ST_NO_SPACE, "the file cannot be written");
    buf_free(&head);
    return st;
}

enum status safetensors_write(struct weights_sink sink, const struct weight_tensor *tensors, int count, const char *const *metadata, int count_metadata, struct err *err)
{
    enum status st = safetensors_write_head(sink, tensors, count, metadata, count_metadata, err);
    bool ok = !st;
    for (int i = 0; i < count && ok; i++) ok = !tensors[i].bytes || sink.write(sink.ctx, tensors[i].data, tensors[i].bytes);
    return st || ok ? st : err_set(err, ST_NO_SPACE, "the file cannot be written");
}
