/* Memory that lives as long as one request, one load or one run and is freed once. Not thread-safe: one owner at a time. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head;      /* the chunk that is being filled */
    uint64_t            used;      /* bytes handed out since init or reset */
    uint64_t            limit;     /* budget in bytes: an allocation that would pass it fails */
};

void  arena_init(struct arena *a, uint64_t limit);
/* NULL when the budget or the heap is exhausted. `align` is a power of two up to 4096. Not cleared. */
void *arena_alloc(struct arena *a, uint64_t bytes, size_t align);
void *arena_calloc(struct arena *a, uint64_t count, uint64_t size);            /* cleared, aligned to 16; NULL on overflow too */
char *arena_copy(struct arena *a, const char *text, size_t length);            /* NUL-terminated copy */
char *arena_format(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
void  arena_reset(struct arena *a);    /* forgets everything but keeps the largest chunk (of at most 64 KiB) for the next use */
void  arena_free(struct arena *a);     /* gives everything back; the arena can be used again after arena_init */

#endif
