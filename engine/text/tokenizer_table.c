/* The hash table of merges and trie edges: open addressing, seeded, at most half full. */
#include <stdlib.h>
#include <sys/random.h>

#include "base/checked.h"
#include "engine/text/tokenizer_internal.h"

static uint64_t mix(uint64_t k)
{
    k = (k ^ (k >> 31)) * 0xD6E8FEB86659FD93u;
    k = (k ^ (k >> 29)) * 0x9E3779B97F4A7C15u;
    return k ^ (k >> 32);
}

bool pair_map_init(struct pair_map *m, uint64_t expected)
{
    uint64_t size = 64;
    if (expected > (uint64_t)1 << 30) return false;
    while (size < expected * 2) size *= 2;
    *m = (struct pair_map){ .slots = mem_calloc_array(size, sizeof *m->slots), .mask = size - 1 };
    if (getrandom(&m->seed, sizeof m->seed, GRND_NONBLOCK) < 0) m->seed = (uint64_t)(uintptr_t)m->slots;
    return m->slots != NULL;
}

static struct pair_slot *slot_of(const struct pair_map *m, uint64_t key)
{
    uint64_t i = mix(key ^ m->seed) & m->mask;
    while (m->slots[i].key && m->slots[i].key != key) i = (i + 1) & m->mask;
    return &m->slots[i];
}

static bool grow(struct pair_map *m)
{
    struct pair_map more;
    if (!pair_map_init(&more, m->slots ? m->mask + 1 : 0)) return false;
    more.seed = m->seed ? m->seed : more.seed;
    more.count = m->count;
    for (uint64_t i = 0; m->slots && i <= m->mask; i++)
        if (m->slots[i].key) *slot_of(&more, m->slots[i].key) = m->slots[i];
    free(m->slots);
    *m = more;
    return true;
}

bool pair_map_put(struct pair_map *m, uint64_t key, int32_t a, int32_t b)
{
    if ((!m->slots || m->count * 2 > m->mask) && !grow(m)) return false;
    struct pair_slot *s = slot_of(m, key);
    if (s->key) return true;
    m->count++;
    *s = (struct pair_slot){ key, a, b };
    return true;
}

const struct pair_slot *pair_map_get(const struct pair_map *m, uint64_t key)
{
    if (!m->slots) return NULL;
    const struct pair_slot *s = slot_of(m, key);
    return s->key ? s : NULL;
}

void pair_map_free(struct pair_map *m)
{
    free(m->slots);
    *m = (struct pair_map){ 0 };
}

bool trie_add(struct trie *t, const char *text, size_t length, int32_t id)
{
    int32_t node = 0;
    if (!t->edges.slots && !pair_map_init(&t->edges, 0)) return false;
    for (size_t i = 0; i < length; i++) {
        uint64_t key = ((uint64_t)node << 8 | (unsigned char)text[i]) + 1;
        struct pair_slot *s = slot_of(&t->edges, key);
        if (!s->key) {
            if (t->nodes == INT32_MAX || !pair_map_put(&t->edges, key, ++t->nodes, -1)) return false;
            s = slot_of(&t->edges, key);
        }
        if (i + 1 == length) s->b = id;
        node = s->a;
    }
    return true;
}
