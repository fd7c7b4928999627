#include "engine/diffusion/text_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

const struct text_entry *text_cache_find(struct text_cache *c, int encoder, const int32_t *ids, int length, int end)
{
    for (int k = 0; k < TEXT_CACHE_ENTRIES; k++) {
        struct text_entry *e = &c->entries[k];
        if (!e->ids || e->encoder != encoder || e->length != length || e->end != end || memcmp(e->ids, ids, (size_t)length * sizeof *ids)) continue;
        e->used = ++c->time;
        c->hits++;
        return e;
    }
    return NULL;
}

static void drop(struct text_cache *c, struct text_entry *e)
{
    c->bytes -= e->bytes;
    free(e->ids);
    *e = (struct text_entry){ 0 };
}

/* An empty place, beside which `bytes` more are within bounds. */
static struct text_entry *make_place(struct text_cache *c, uint64_t bytes)
{
    for (;;) {
        struct text_entry *oldest = NULL, *empty = NULL;
        for (int k = 0; k < TEXT_CACHE_ENTRIES; k++) {
            struct text_entry *e = &c->entries[k];
            if (!e->ids) empty = e;
            else if (!oldest || e->used < oldest->used) oldest = e;
        }
        if (empty && c->bytes + bytes <= (uint64_t)TEXT_CACHE_MIB << 20) return empty;
        if (!oldest) return NULL;
        drop(c, oldest);
    }
}

void text_cache_add(struct text_cache *c, int encoder, const int32_t *ids, int length, int end, const float *states, int width, const float *pooled, int pooled_width)
{
    const uint64_t id_bytes = (uint64_t)length * sizeof *ids, state_bytes = (uint64_t)length * (uint64_t)width * sizeof *states, pooled_bytes = pooled ? (uint64_t)pooled_width * sizeof *pooled : 0;
    const uint64_t bytes = id_bytes + state_bytes + pooled_bytes;
    char *block = bytes <= (uint64_t)TEXT_CACHE_MIB << 20 ? mem_alloc_array(bytes, 1) : NULL;
    struct text_entry *e = block ? make_place(c, bytes) : NULL;
    if (!e) {
        free(block);
        return;
    }
    *e = (struct text_entry){ .encoder = encoder, .length = length, .end = end, .ids = (int32_t *)(void *)block, .states = (float *)(void *)(block + id_bytes), .used = ++c->time, .bytes = bytes };
    memcpy(e->ids, ids, (size_t)id_bytes);
    memcpy(e->states, states, (size_t)state_bytes);
    if (pooled) e->pooled = memcpy(block + id_bytes + state_bytes, pooled, (size_t)pooled_bytes);
    c->bytes += bytes;
}

void text_cache_close(struct text_cache *c)
{
    for (int k = 0; k < TEXT_CACHE_ENTRIES; k++)
        if (c->entries[k].ids) drop(c, &c->entries[k]);
}
