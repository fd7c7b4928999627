/* The protobuf wire format, reading only: a cursor over bytes that somebody else owns. Every length is compared with the bytes that are
 * left before it is used; a cursor that met bad bytes stays failed and yields nothing more. Nothing is allocated here. */
#ifndef ENGINE_FORMATS_PROTOBUF_H
#define ENGINE_FORMATS_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum pb_wire { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };

struct pb { const uint8_t *p, *end; bool failed; };

struct pb_field {
    uint32_t       number;
    enum pb_wire   wire;
    uint64_t       value;            /* varint, or the bits of a fixed field */
    const uint8_t *bytes;            /* PB_BYTES */
    uint64_t       length;
};

static inline bool pb_varint(struct pb *c, uint64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (c->p == c->end) break;
        uint8_t b = *c->p++;
        if (shift == 63 && b > 1) break;
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128) { *out = v; return true; }
    }
    c->failed = true;
    return false;
}

static inline bool pb_fixed(struct pb *c, int bytes, uint64_t *out)
{
    if (c->end - c->p < bytes) { c->failed = true; return false; }
    uint64_t v = 0;
    memcpy(&v, c->p, (size_t)bytes);
    c->p += bytes;
    *out = v;
    return true;
}

/* The next field; false at the end and on bad bytes (then c->failed). Groups (wire types 3 and 4) are bad bytes: ONNX has none. */
static inline bool pb_next(struct pb *c, struct pb_field *f)
{
    uint64_t key;
    if (c->failed || c->p == c->end || !pb_varint(c, &key)) return false;
    uint64_t number = key >> 3;
    *f = (struct pb_field){ .number = (uint32_t)number, .wire = (enum pb_wire)(key & 7) };
    if (number == 0 || number > 536870911) { c->failed = true; return false; }
    switch (key & 7) {
    case PB_VARINT: return pb_varint(c, &f->value);
    case PB_FIXED64: return pb_fixed(c, 8, &f->value);
    case PB_FIXED32: return pb_fixed(c, 4, &f->value);
    case PB_BYTES:
        if (!pb_varint(c, &f->length)) return false;
        if (f->length > (uint64_t)(c->end - c->p)) break;
        f->bytes = c->p;
        c->p += f->length;
        return true;
    default: break;
    }
    c->failed = true;
    return false;
}

static inline struct pb pb_sub(const struct pb_field *f) { return (struct pb){ f->bytes, f->bytes + f->length, false }; }
static inline struct pb pb_open(const void *data, uint64_t size) { return (struct pb){ data, (const uint8_t *)data + size, false }; }

#endif
