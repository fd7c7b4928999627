/* Messages that are not in one piece: received ones as a list of pieces that somebody else owns, ones to send as a head that is ours with large pieces of
 * borrowed memory put in at their places, so that tensors are not copied on their way out. */
#ifndef BASE_CHAIN_H
#define BASE_CHAIN_H

#include "base/buf.h"

enum { CHAIN_BORROWED_MAX = 64 };

struct piece { const uint8_t *bytes; size_t length; };

struct chain {
    struct buf head;
    struct { size_t at; const void *bytes; uint64_t length; } borrowed[CHAIN_BORROWED_MAX];      /* in front of head.data[at]; ascending */
    int        borrowed_count;
    uint64_t   length;                 /* of the whole; set when the message is complete */
};

static inline void chain_init(struct chain *c)
{
    buf_init(&c->head, 0);
    c->borrowed_count = 0;
    c->length = 0;
}

/* False: there is no place left, copy it into the head instead. */
static inline bool chain_borrow(struct chain *c, const void *bytes, uint64_t length)
{
    if (c->borrowed_count == CHAIN_BORROWED_MAX) return false;
    c->borrowed[c->borrowed_count].at = c->head.length;
    c->borrowed[c->borrowed_count].bytes = bytes;
    c->borrowed[c->borrowed_count++].length = length;
    return true;
}

static inline void chain_close(struct chain *c)
{
    c->length = c->head.length;
    for (int i = 0; i < c->borrowed_count; i++) c->length += c->borrowed[i].length;
}

#endif
