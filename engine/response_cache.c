/* An entry is itself a request that has its outputs: whoever is answered from it holds a reference, so an entry that is thrown out lives until its last answer was sent. */
#include "engine/response_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { BUCKETS = 4096 };

struct entry {
    struct request request;                /* first: the entry is a request */
    uint8_t        key[DIGEST_BYTES];
    uint64_t       bytes;
    struct entry  *chain;                  /* of its bucket */
    struct entry  *newer, *older;          /* by last use */
};

struct response_cache {
    pthread_mutex_t lock;                  /* guards everything */
    uint64_t        bytes, bytes_max, entries;
    struct entry   *buckets[BUCKETS];
    struct entry   *newest, *oldest;
};

struct response_cache *response_cache_open(uint64_t bytes_max)
{
    struct response_cache *c = mem_calloc_array(1, sizeof *c);
    if (!c) return NULL;
    pthread_mutex_init(&c->lock, NULL);
    c->bytes_max = bytes_max;
    return c;
}

static struct entry **bucket_of(struct response_cache *c, const uint8_t key[DIGEST_BYTES])
{
    uint32_t hash;
    memcpy(&hash, key, sizeof hash);
    return &c->buckets[hash % BUCKETS];
}

static void unlink_use(struct response_cache *c, struct entry *e)
{
    *(e->newer ? &e->newer->older : &c->newest) = e->older;
    *(e->older ? &e->older->newer : &c->oldest) = e->newer;
}

static void link_newest(struct response_cache *c, struct entry *e)
{
    e->newer = NULL;
    e->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = e;
    c->newest = e;
}

/* With the lock. */
static void throw_out(struct response_cache *c, struct entry *e)
{
    struct entry **at = bucket_of(c, e->key);
    while (*at != e) at = &(*at)->chain;
    *at = e->chain;
    unlink_use(c, e);
    c->bytes -= e->bytes;
    c->entries--;
    request_drop(&e->request);
}

void response_cache_close(struct response_cache *c)
{
    if (!c) return;
    while (c->newest) throw_out(c, c->newest);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- keys ---- */
static void hash_tensor(struct digest_state *d, const struct request_tensor *t)
{
    const int64_t about[] = { t->tensor.dtype, t->tensor.rank };
    digest_update(d, t->name, strlen(t->name) + 1);
    digest_update(d, about, sizeof about);
    digest_update(d, t->tensor.dims, (size_t)t->tensor.rank * sizeof *t->tensor.dims);
    if (t->tensor.dtype != DT_STRING) {
        digest_update(d, t->tensor.data, t->tensor.bytes);
        return;
    }
    const struct string_ref *s = t->tensor.data;
    for (uint64_t i = 0; i < t->tensor.bytes / sizeof *s; i++) {
        digest_update(d, &s[i].length, sizeof s[i].length);
        digest_update(d, s[i].text, s[i].length);
    }
}

/* Inputs in the order of their names: clients may send them in any. */
void response_cache_key(const struct request *r, const char *model_name, const char *model_digest, uint8_t key[DIGEST_BYTES])
{
    struct digest_state d;
    const char *before = "";
    digest_begin(&d);
    digest_update(&d, model_name, strlen(model_name) + 1);
    digest_update(&d, model_digest, strlen(model_digest) + 1);
    for (int n = 0; n < r->input_count; n++) {
        const struct request_tensor *next = NULL;
        for (int i = 0; i < r->input_count; i++)
            if ((!n || strcmp(r->inputs[i].name, before) > 0) && (!next || strcmp(r->inputs[i].name, next->name) < 0)) next = &r->inputs[i];
        hash_tensor(&d, next);
        before = next->name;
    }
    for (int i = 0; i < r->wanted_count; i++) digest_update(&d, r->wanted[i], strlen(r->wanted[i]) + 1);
    digest_end(&d, key);
}

/* ---- finding and keeping ---- */
bool response_cache_find(struct response_cache *c, const uint8_t key[DIGEST_BYTES], struct request *r)
{
    struct request_tensor *outputs = NULL;
    pthread_mutex_lock(&c->lock);
    struct entry *e = *bucket_of(c, key);
    while (e && memcmp(e->key, key, DIGEST_BYTES)) e = e->chain;
    if (e) outputs = arena_calloc(&r->arena, (uint64_t)e->request.output_count + 1, sizeof *outputs);
    if (outputs) r->kept = arena_calloc(&r->arena, 1, sizeof(struct request *));
    bool hit = outputs && r->kept;
    if (hit) {
        memcpy(outputs, e->request.outputs, (size_t)e->request.output_count * sizeof *outputs);
        r->outputs = outputs;
        r->output_count = e->request.output_count;
        r->batch_rows = e->request.batch_rows;
        request_hold(&e->request);
        r->kept[0] = &e->request;
        r->kept_count = 1;
        unlink_use(c, e);
        link_newest(c, e);
    }
    pthread_mutex_unlock(&c->lock);
    return hit;
}

static void entry_release(struct request *r)
{
    arena_free(&r->arena);
    free((struct entry *)r);
}

static bool copy_tensor(struct request *to, struct request_tensor *out, const struct request_tensor *in)
{
    *out = *in;
    out->name = arena_copy(&to->arena, in->name, strlen(in->name));
    out->tensor.data = arena_alloc(&to->arena, in->tensor.bytes + !in->tensor.bytes, TENSOR_ALIGN);
    if (!out->name || !out->tensor.data) return false;
    if (in->tensor.bytes) memcpy(out->tensor.data, in->tensor.data, in->tensor.bytes);
    struct string_ref *s = out->tensor.data;
    for (uint64_t i = 0; in->tensor.dtype == DT_STRING && i < in->tensor.bytes / sizeof *s; i++)
        if (!(s[i].text = arena_copy(&to->arena, s[i].text, s[i].length))) return false;
    return true;
}

static struct entry *make_entry(const uint8_t key[DIGEST_BYTES], const struct request *r, uint64_t bytes_max)
{
    struct entry *e = mem_calloc_array(1, sizeof *e);
    if (!e) return NULL;
    request_init(&e->request, bytes_max);
    e->request.release = entry_release;
    memcpy(e->key, key, DIGEST_BYTES);
    e->request.outputs = arena_calloc(&e->request.arena, (uint64_t)r->output_count + 1, sizeof *e->request.outputs);
    bool ok = e->request.outputs != NULL;
    for (int i = 0; ok && i < r->output_count; i++) ok = copy_tensor(&e->request, &e->request.outputs[e->request.output_count++], &r->outputs[i]);
    e->request.batch_rows = r->batch_rows;
    e->bytes = sizeof *e + e->request.arena.used;
    if (ok) return e;
    entry_release(&e->request);
    return NULL;
}

void response_cache_put(struct response_cache *c, const uint8_t key[DIGEST_BYTES], const struct request *r)
{
    struct entry *e = make_entry(key, r, c->bytes_max / 4);
    if (!e) return;
    pthread_mutex_lock(&c->lock);
    struct entry **bucket = bucket_of(c, key), *same = *bucket;
    while (same && memcmp(same->key, key, DIGEST_BYTES)) same = same->chain;
    if (same) {      /* two asked at the same time */
        pthread_mutex_unlock(&c->lock);
        request_drop(&e->request);
        return;
    }
    e->chain = *bucket;
    *bucket = e;
    link_newest(c, e);
    c->bytes += e->bytes;
    c->entries++;
    while (c->bytes > c->bytes_max) throw_out(c, c->oldest);
    pthread_mutex_unlock(&c->lock);
}

struct response_cache_use response_cache_usage(struct response_cache *c)
{
    pthread_mutex_lock(&c->lock);
    struct response_cache_use u = { c->bytes, c->bytes_max, c->entries };
    pthread_mutex_unlock(&c->lock);
    return u;
}
