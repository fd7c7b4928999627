#include "base/buf.h"

#include "base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, uint64_t limit) { *b = (struct buf){ .limit = limit }; }

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ .limit = b->limit };
}

void buf_clear(struct buf *b)
{
    b->length = 0;
    b->failed = false;
}

bool buf_reserve(struct buf *b, size_t more)
{
    uint64_t need;
    if (b->failed) return false;
    if (!size_add(b->length, more, &need) || (b->limit && need > b->limit)) return !(b->failed = true);
    if (need <= b->capacity) return true;
    uint64_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < need) capacity += capacity / 2 + 64;
    if (b->limit && capacity > b->limit) capacity = b->limit;
    char *data = mem_realloc_array(b->data, capacity, 1);
    if (!data) return !(b->failed = true);
    b->data = data;
    b->capacity = capacity;
    return true;
}

void buf_append(struct buf *b, const void *bytes, size_t n)
{
    if (!n || !buf_reserve(b, n)) return;
    memcpy(b->data + b->length, bytes, n);
    b->length += n;
}

void buf_puts(struct buf *b, const char *text) { buf_append(b, text, strlen(text)); }
void buf_putc(struct buf *b, char c) { buf_append(b, &c, 1); }

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list list, again;
    va_start(list, format);
    va_copy(again, list);
    int n = vsnprintf(NULL, 0, format, list);
    va_end(list);
    if (n >= 0 && buf_reserve(b, (size_t)n + 1)) {
        vsnprintf(b->data + b->length, (size_t)n + 1, format, again);
        b->length += (size_t)n;
    }
    va_end(again);
}

static void append_decimal(struct buf *b, uint64_t v, bool negative)
{
    char text[20];
    int at = 20;
    do text[--at] = (char)('0' + v % 10); while (v /= 10);
    if (negative) text[--at] = '-';      /* a negative number has at most 19 digits */
    buf_append(b, text + at, (size_t)(20 - at));
}

void buf_uint(struct buf *b, uint64_t v) { append_decimal(b, v, false); }
void buf_int(struct buf *b, int64_t v) { append_decimal(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0); }
