/* Products of bfloat16 tiles: what kernels/cpu/attention_bf16.h is written in, at this level. */
#ifndef KERNELS_CPU_AMX_SQUARE_H
#define KERNELS_CPU_AMX_SQUARE_H

#include "kernels/cpu/amx/tiles.h"

static inline void squares_begin(void) { tiles_begin(&whole_tiles); }
static inline void squares_end(void) { tiles_end(); }

/* c [32 or 16, 32 or 16] (`down`, `across` 1: two tiles) += a [.., depth] by tiles b, the tile beside b `beside` numbers on and the next step of 32 of depth `next` numbers on; both are zeros up to a whole step */
static inline void square_add(float *c, int64_t ldc, int down, int across, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t beside, int64_t next, int64_t depth, int begin)
{
    const int64_t steps = (depth + 31) / 32;
    float *below = c + 16 * ldc;
    if (begin) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    } else {
        TILE_LOAD(0, c, ldc * 4);
        if (across) TILE_LOAD(1, c + 16, ldc * 4);
        if (down) TILE_LOAD(2, below, ldc * 4);
        if (down && across) TILE_LOAD(3, below + 16, ldc * 4);
    }
    for (int64_t s = 0; s < steps; s++, a += 32, b += next) {
        TILE_LOAD(4, a, lda * 2);
        TILE_LOAD(6, b, 64);
        TILE_DOT_BF16(0, 4, 6);
        if (across) {
            TILE_LOAD(7, b + beside, 64);
            TILE_DOT_BF16(1, 4, 7);
        }
        if (!down) continue;
        TILE_LOAD(5, a + 16 * lda, lda * 2);
        TILE_DOT_BF16(2, 5, 6);
        if (across) TILE_DOT_BF16(3, 5, 7);
    }
    TILE_STORE(0, c, ldc * 4);
    if (across) TILE_STORE(1, c + 16, ldc * 4);
    if (down) TILE_STORE(2, below, ldc * 4);
    if (down && across) TILE_STORE(3, below + 16, ldc * 4);
}

#endif
