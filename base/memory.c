/* The only ways to the heap for sizes that depend on outside numbers (R10), and the arenas. */
#include "base/arena.h"
#include "base/checked.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK_FIRST = 4096, CHUNK_MOST = 1 << 20 /* chunks double up to here */, CHUNK_KEEP = 64 << 10 /* what reset keeps at most */, ALIGN_MAX = 4096, HUGE_PAGE = 2 << 20 };

void *mem_alloc_array(uint64_t count, uint64_t size)
{
    uint64_t bytes;
    if (!size_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *mem_calloc_array(uint64_t count, uint64_t size)
{
    uint64_t bytes;
    if (!size_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *mem_realloc_array(void *p, uint64_t count, uint64_t size)
{
    uint64_t bytes;
    if (!size_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void *mem_alloc_aligned(uint64_t bytes, size_t align)
{
    uint64_t padded;
    if (!size_add(bytes, align - 1, &padded) || padded > SIZE_MAX / 2) return NULL;
    return aligned_alloc(align, (padded & ~(uint64_t)(align - 1)) + (padded < align ? align : 0));
}

void *mem_alloc_huge(uint64_t bytes, size_t align)
{
    if (bytes < 2 * HUGE_PAGE) return mem_alloc_aligned(bytes, align);
    void *p = mem_alloc_aligned(bytes, HUGE_PAGE);
    if (p) madvise(p, bytes & ~(uint64_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return p;
}

struct arena_chunk {
    struct arena_chunk *before;
    uint64_t capacity, used;          /* bytes of data */
    _Alignas(64) unsigned char data[];
};

void arena_init(struct arena *a, uint64_t limit) { *a = (struct arena){ .limit = limit }; }

static void *chunk_take(struct arena_chunk *c, uint64_t bytes, size_t align)
{
    uintptr_t base = (uintptr_t)c->data, at = (base + c->used + align - 1) & ~(uintptr_t)(align - 1);
    uint64_t offset = at - base;
    if (offset > c->capacity || bytes > c->capacity - offset) return NULL;
    c->used = offset + bytes;
    return (void *)at;
}

void *arena_alloc(struct arena *a, uint64_t bytes, size_t align)
{
    assert(align && !(align & (align - 1)) && align <= ALIGN_MAX);
    uint64_t total;
    if (!size_add(a->used, bytes, &total) || total > a->limit) return NULL;
    if (!bytes) bytes = 1;
    void *p = a->head ? chunk_take(a->head, bytes, align) : NULL;
    if (!p) {
        uint64_t capacity = a->head ? a->head->capacity * 2 : CHUNK_FIRST, need;
        if (!size_add(bytes, align, &need)) return NULL;
        if (capacity > CHUNK_MOST) capacity = CHUNK_MOST;
        if (capacity < need) capacity = need;
        if (capacity > SIZE_MAX / 2) return NULL;
        struct arena_chunk *c = mem_alloc_aligned(sizeof *c + capacity, 64);
        if (!c) return NULL;
        *c = (struct arena_chunk){ .before = a->head, .capacity = capacity };
        a->head = c;
        p = chunk_take(c, bytes, align);
    }
    a->used = total;
    return p;
}

void *arena_calloc(struct arena *a, uint64_t count, uint64_t size)
{
    uint64_t bytes;
    if (!size_mul(count, size, &bytes)) return NULL;
    void *p = arena_alloc(a, bytes, 16);
    if (p) memset(p, 0, bytes);
    return p;
}

char *arena_copy(struct arena *a, const char *text, size_t length)
{
    char *p = arena_alloc(a, (uint64_t)length + 1, 1);
    if (!p) return NULL;
    if (length) memcpy(p, text, length);
    p[length] = 0;
    return p;
}

char *arena_format(struct arena *a, const char *format, ...)
{
    va_list list, again;
    va_start(list, format);
    va_copy(again, list);
    int n = vsnprintf(NULL, 0, format, list);
    va_end(list);
    char *p = n < 0 ? NULL : arena_alloc(a, (uint64_t)n + 1, 1);
    if (p) vsnprintf(p, (size_t)n + 1, format, again);
    va_end(again);
    return p;
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *keep = NULL;
    for (struct arena_chunk *c = a->head, *before; c; c = before) {
        before = c->before;
        if (c->capacity <= CHUNK_KEEP && (!keep || c->capacity > keep->capacity)) {
            free(keep);
            keep = c;
        } else {
            free(c);
        }
    }
    if (keep) keep->before = NULL, keep->used = 0;
    a->head = keep;
    a->used = 0;
}

void arena_free(struct arena *a)
{
    for (struct arena_chunk *c = a->head, *before; c; c = before) {
        before = c->before;
        free(c);
    }
    a->head = NULL;
    a->used = 0;
}
