#include "engine/llm/pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/digest.h"

static void list_append(struct pages *p, int32_t i)
{
    p->page[i].older = p->newest;
    p->page[i].newer = PAGE_NONE;
    if (p->newest >= 0) p->page[p->newest].newer = i;
    else p->oldest = i;
    p->newest = i;
    p->idle++;
}

static void list_remove(struct pages *p, int32_t i)
{
    struct page *x = &p->page[i];
    if (x->older >= 0) p->page[x->older].newer = x->newer;
    else p->oldest = x->newer;
    if (x->newer >= 0) p->page[x->newer].older = x->older;
    else p->newest = x->older;
    p->idle--;
}

static uint32_t slot_of(const struct pages *p, const uint8_t digest[16])
{
    uint32_t h;
    memcpy(&h, digest, sizeof h);
    return h & p->mask;
}

static void forget(struct pages *p, int32_t i)
{
    struct page *x = &p->page[i];
    if (!x->known) return;
    int32_t *at = &p->slots[slot_of(p, x->digest)];
    while (*at != i) at = &p->page[*at].next;
    *at = x->next;
    x->known = false;
}

enum status pages_open(struct pages *p, int32_t count, struct err *err)
{
    uint32_t slots = 16;
    while (slots < (uint32_t)count) slots *= 2;
    *p = (struct pages){ .count = count, .mask = slots - 1, .oldest = PAGE_NONE, .newest = PAGE_NONE };
    p->page = mem_calloc_array((uint64_t)count + 1, sizeof *p->page);
    p->slots = mem_alloc_array(slots, sizeof *p->slots);
    if (!p->page || !p->slots) {
        pages_close(p);
        return err_set(err, ST_NO_MEMORY, "the table of KV pages");
    }
    for (uint32_t i = 0; i < slots; i++) p->slots[i] = PAGE_NONE;
    for (int32_t i = 0; i < count; i++) list_append(p, i);
    return ST_OK;
}

void pages_close(struct pages *p)
{
    free(p->page);
    free(p->slots);
    *p = (struct pages){ 0 };
}

int32_t pages_take(struct pages *p)
{
    int32_t i = p->oldest;
    if (i < 0) return PAGE_NONE;
    list_remove(p, i);
    forget(p, i);
    p->page[i].holders = 1;
    return i;
}

void pages_hold(struct pages *p, int32_t page)
{
    assert(p->page[page].holders > 0);
    p->page[page].holders++;
}

void pages_drop(struct pages *p, int32_t page)
{
    struct page *x = &p->page[page];
    assert(x->holders > 0);
    if (--x->holders == 0) list_append(p, page);
}

int32_t pages_find(struct pages *p, const uint8_t digest[16])
{
    for (int32_t i = p->slots[slot_of(p, digest)]; i >= 0; i = p->page[i].next) {
        if (memcmp(p->page[i].digest, digest, 16)) continue;
        if (p->page[i].holders++ == 0) list_remove(p, i);
        return i;
    }
    return PAGE_NONE;
}

void pages_publish(struct pages *p, int32_t page, const uint8_t digest[16])
{
    struct page *x = &p->page[page];
    assert(x->holders > 0);
    if (x->known) return;
    for (int32_t i = p->slots[slot_of(p, digest)]; i >= 0; i = p->page[i].next)
        if (!memcmp(p->page[i].digest, digest, 16)) return;
    memcpy(x->digest, digest, 16);
    x->next = p->slots[slot_of(p, digest)];
    p->slots[slot_of(p, digest)] = page;
    x->known = true;
}

void pages_digest(uint8_t out[16], const uint8_t *before, uint64_t salt, const int32_t *tokens, int count)
{
    uint8_t all[DIGEST_BYTES], text[8 + 16 + PAGE_TOKENS * 4] = { 0 };
    assert(count <= PAGE_TOKENS);
    memcpy(text, &salt, sizeof salt);
    if (before) memcpy(text + 8, before, 16);
    memcpy(text + 24, tokens, (size_t)count * sizeof *tokens);
    digest_bytes(text, 24 + (size_t)count * sizeof *tokens, all);
    memcpy(out, all, 16);
}
