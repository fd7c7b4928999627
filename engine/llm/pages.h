/* Who holds which page of the KV cache. A page keeps the keys and values of 16 consecutive positions of one text, in every layer. Pages are counted:
 * sequences that begin alike share their full pages. A full page is known by the digest of all tokens up to its end; when nobody holds it any more it
 * stays where it is until its room is needed, the one not used for longest first, so a later text with the same beginning finds it.
 *
 * Only the instance's worker calls any of this. */
#ifndef ENGINE_LLM_PAGES_H
#define ENGINE_LLM_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { PAGE_NONE = -1, PAGE_TOKENS = 16 };

struct page {
    int32_t  holders;
    int32_t  older, newer;       /* the list of pages that nobody holds */
    int32_t  next;               /* of the same hash slot */
    bool     known;              /* in the hash table */
    uint8_t  digest[16];         /* of the tokens up to its end */
};

struct pages {
    struct page *page;
    int32_t      count;
    int32_t     *slots;          /* [mask + 1] first page of each hash slot */
    uint32_t     mask;
    int32_t      oldest, newest; /* nobody holds them */
    int32_t      idle;           /* how many */
    uint64_t     lookups, hits;  /* tokens asked for in the cache, and found */
};

enum status pages_open(struct pages *p, int32_t count, struct err *err);
void        pages_close(struct pages *p);

/* A page to write to, held once; PAGE_NONE when every page is held. What it kept is forgotten. */
int32_t     pages_take(struct pages *p);
/* One holder more of a page that is held. */
void        pages_hold(struct pages *p, int32_t page);
/* One holder less. */
void        pages_drop(struct pages *p, int32_t page);
/* The page of this digest, held once more; PAGE_NONE when there is none. */
int32_t     pages_find(struct pages *p, const uint8_t digest[16]);
/* The held page is full and may be found by others from now on. When another page has the digest already, nothing happens. */
void        pages_publish(struct pages *p, int32_t page, const uint8_t digest[16]);
/* digest of tokens[0..16) behind what `before` stands for (NULL: the beginning; `salt` tells apart what must not be shared). */
void        pages_digest(uint8_t out[16], const uint8_t *before, uint64_t salt, const int32_t *tokens, int count);
/* Pages that can be had now. */
static inline int32_t pages_free(const struct pages *p) { return p->idle; }

#endif
