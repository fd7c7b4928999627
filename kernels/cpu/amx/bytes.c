/* Products of bytes with tiles: blocks of 32 pixels by 32 channels are four tiles of sums, and each step of up to 64 bytes loads two tiles of x and two of weights for four products.
 * All tiles of a layer have one shape, so that it is set once for each call of a thread. */
#define BYTES_OWN_MULTIPLY
#include "kernels/cpu/bytes_elements_body.h"
#include "kernels/cpu/amx/tiles.h"

enum { TILE_ROWS = 16, PREFETCH = 2048 };

static void begin(int depth)
{
    const uint8_t groups = (uint8_t)(depth / 4);
    const uint16_t wide = (uint16_t)depth;
    const struct tile_config config = { .palette = 1, .row_bytes = { 64, 64, 64, 64, wide, wide, 64, 64 }, .rows = { TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, groups, groups } };
    tiles_begin(&config);
}

static void end(void) { tiles_end(); }

VEC_INLINE void block_multiply(const int tall, const int wide, int32_t *sums, const uint8_t *x, const struct bytes_walk *w, const int8_t *panel)
{
    const int64_t step = w->step, group = (int64_t)w->depth * BYTES_PANEL;
    const int8_t *b = panel;
    TILE_ZERO(0);
    if (wide) TILE_ZERO(1);
    if (tall) TILE_ZERO(2);
    if (tall && wide) TILE_ZERO(3);
    for (int s = 0; s < w->segments; s++) {
        const uint8_t *a = x + w->at[s];
        for (int chunk = 0; chunk < w->chunks; chunk++, a += w->depth, b += group) {
            for (int64_t line = 0; line < group; line += 64) {
                __builtin_prefetch(b + PREFETCH + line, 0, 3);
                if (wide) __builtin_prefetch(b + w->panel_bytes + PREFETCH + line, 0, 3);
            }
            TILE_LOAD(6, b, 64);
            TILE_LOAD(4, a, step);
            TILE_DOT_U8(0, 4, 6);
            if (wide) {
                TILE_LOAD(7, b + w->panel_bytes, 64);
                TILE_DOT_U8(1, 4, 7);
            }
            if (!tall) continue;
            TILE_LOAD(5, a + TILE_ROWS * step, step);
            TILE_DOT_U8(2, 5, 6);
            if (wide) TILE_DOT_U8(3, 5, 7);
        }
    }
    TILE_STORE(0, sums, BYTES_PAIR * 4);
    if (wide) TILE_STORE(1, sums + BYTES_PANEL, BYTES_PAIR * 4);
    if (tall) TILE_STORE(2, sums + TILE_ROWS * BYTES_PAIR, BYTES_PAIR * 4);
    if (tall && wide) TILE_STORE(3, sums + TILE_ROWS * BYTES_PAIR + BYTES_PANEL, BYTES_PAIR * 4);
}

static void multiply(int32_t *sums, const uint8_t *x, const struct bytes_walk *w, int rows, const int8_t *panel, int panels)
{
    if (rows > TILE_ROWS && panels > 1) block_multiply(1, 1, sums, x, w, panel);
    else if (rows > TILE_ROWS) block_multiply(1, 0, sums, x, w, panel);
    else if (panels > 1) block_multiply(0, 1, sums, x, w, panel);
    else block_multiply(0, 0, sums, x, w, panel);
}

const struct bytes_level bytes_level_amx = { "amx", TILE_ROWS, begin, end, multiply, finish, DEPTH_COLUMNS, depthwise, BYTES_ELEMENTS };
