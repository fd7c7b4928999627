/* The protobuf wire format, writing: fields appended to a buf. A message within a message is opened and closed; its length is put in front of it when it
 * is closed, so nothing is measured first. What does not fit fails the buf, which the caller looks at once. */
#ifndef ENGINE_FORMATS_PROTOBUF_WRITE_H
#define ENGINE_FORMATS_PROTOBUF_WRITE_H

#include <string.h>

#include "base/buf.h"
#include "engine/formats/protobuf.h"

enum { PB_VARINT_MAX = 10 };

/* Writes at `out` (PB_VARINT_MAX bytes of room); how many bytes it took. */
static inline size_t pb_encode_varint(uint8_t *out, uint64_t v)
{
    size_t n = 0;
    for (; v > 127; v >>= 7) out[n++] = (uint8_t)(v | 128);
    out[n++] = (uint8_t)v;
    return n;
}

static inline void pb_put_varint(struct buf *b, uint64_t v)
{
    uint8_t bytes[PB_VARINT_MAX];
    buf_append(b, bytes, pb_encode_varint(bytes, v));
}

static inline void pb_put_key(struct buf *b, int number, enum pb_wire wire) { pb_put_varint(b, (uint64_t)number << 3 | (uint64_t)wire); }

/* Negative int32 and int64 travel as their 64 bits. */
static inline void pb_put_number(struct buf *b, int number, uint64_t v)
{
    pb_put_key(b, number, PB_VARINT);
    pb_put_varint(b, v);
}

static inline void pb_put_double(struct buf *b, int number, double v)
{
    pb_put_key(b, number, PB_FIXED64);
    buf_append(b, &v, sizeof v);
}

static inline void pb_put_float(struct buf *b, int number, float v)
{
    pb_put_key(b, number, PB_FIXED32);
    buf_append(b, &v, sizeof v);
}

static inline void pb_put_bytes(struct buf *b, int number, const void *bytes, size_t n)
{
    pb_put_key(b, number, PB_BYTES);
    pb_put_varint(b, n);
    if (n) buf_append(b, bytes, n);
}

static inline void pb_put_text(struct buf *b, int number, const char *text) { pb_put_bytes(b, number, text, strlen(text)); }

/* A message or packed list as field `number`: what is appended until pb_end is inside. Returns where it began, for pb_end. */
static inline size_t pb_begin(struct buf *b, int number)
{
    pb_put_key(b, number, PB_BYTES);
    buf_putc(b, 0);      /* room for the length of a short one */
    return b->length;
}

static inline void pb_end(struct buf *b, size_t begin)
{
    uint8_t bytes[PB_VARINT_MAX];
    if (b->failed) return;
    size_t inside = b->length - begin, n = pb_encode_varint(bytes, inside);
    if (n > 1) {
        static const uint8_t room[PB_VARINT_MAX];
        buf_append(b, room, n - 1);
        if (b->failed) return;
        memmove(b->data + begin - 1 + n, b->data + begin, inside);
    }
    memcpy(b->data + begin - 1, bytes, n);
}

#endif
