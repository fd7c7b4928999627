/* What a text encoder said of a chunk of tokens, kept for the requests that say the same: prompts that come again, and the empty text that most guided pictures are drawn away
 * from. The key is the encoder and the token ids themselves; what is used least recently goes first. Belongs to an instance and its worker thread. In f32 a chunk's numbers do
 * not depend on the chunks that went through the encoder beside it, so a hit has the bits of a miss. */
#ifndef ENGINE_DIFFUSION_TEXT_CACHE_H
#define ENGINE_DIFFUSION_TEXT_CACHE_H

#include <stdint.h>

enum { TEXT_CACHE_ENTRIES = 64, TEXT_CACHE_MIB = 64 };

struct text_entry {
    int      encoder, length, end;       /* tokens; place of the token that ends the text */
    int32_t *ids;                        /* [length]; one block with what follows; NULL: empty */
    float   *states, *pooled;            /* [length, width]; [pooled width] or NULL */
    uint64_t used, bytes;
};

struct text_cache { struct text_entry entries[TEXT_CACHE_ENTRIES]; uint64_t time, bytes, hits; };

/* NULL: not kept. The entry stays until the next text_cache_add. */
const struct text_entry *text_cache_find(struct text_cache *c, int encoder, const int32_t *ids, int length, int end);
/* Copies; what is larger than the cache, or finds no memory, is not kept. pooled NULL: the encoder gives none. */
void text_cache_add(struct text_cache *c, int encoder, const int32_t *ids, int length, int end, const float *states, int width, const float *pooled, int pooled_width);
void text_cache_close(struct text_cache *c);

#endif
