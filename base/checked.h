/* Arithmetic on numbers from outside (R10): a size stays uint64_t until it has been compared with a budget, and every product and
 * sum of untrusted numbers goes through these. They return false on overflow and leave *out untouched. */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool size_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool size_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* Is [offset, offset + length) inside a thing of `total` bytes? Written so that nothing can wrap. */
static inline bool range_inside(uint64_t offset, uint64_t length, uint64_t total)
{
    return length <= total && offset <= total - length;
}

/* The only ways to ask the heap for count * size bytes; NULL on overflow too. */
void *mem_alloc_array(uint64_t count, uint64_t size);                 /* not cleared */
void *mem_calloc_array(uint64_t count, uint64_t size);                /* cleared */
void *mem_realloc_array(void *p, uint64_t count, uint64_t size);      /* p stays valid on failure */
void *mem_alloc_aligned(uint64_t bytes, size_t align);                /* align: a power of two; free() releases it */
void *mem_alloc_huge(uint64_t bytes, size_t align);                   /* the same for what is read again and again from memory, like weights: large blocks lie on huge pages where the system grants them */

#endif
