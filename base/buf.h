/* A growing byte buffer with a limit. A failed append sets `failed` and drops what follows, so that a writer checks once at its end. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char    *data;       /* may be NULL while length is 0 */
    size_t   length;
    size_t   capacity;
    uint64_t limit;      /* 0: no limit but the heap */
    bool     failed;
};

void buf_init(struct buf *b, uint64_t limit);
void buf_free(struct buf *b);
void buf_clear(struct buf *b);                                  /* length 0, failed false, memory kept */
bool buf_reserve(struct buf *b, size_t more);                   /* room for `more` bytes behind length */
void buf_append(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *text);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_int(struct buf *b, int64_t v);
void buf_uint(struct buf *b, uint64_t v);

#endif
