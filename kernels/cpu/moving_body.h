/* Transposition of many small or few large matrices (body at one level). Large ones go in tiles of 8 x 8 that stay in registers (4-byte elements) or in the
 * first-level cache; very thin ones (3 colour planes) in one sweep. */
#ifndef KERNELS_CPU_MOVING_BODY_H
#define KERNELS_CPU_MOVING_BODY_H

#include "kernels/cpu/vec_turn.h"
#include "kernels/kernels.h"

enum { MOVE_TILE = TURN, MOVE_THIN = 4 };
static const int64_t MOVE_PARALLEL_MIN = 32768;

struct move_job {
    unsigned char *y;
    const unsigned char *x;
    int64_t n, rows, columns;
    int bytes;
};

/* rows [r, r_end) x columns [c, c_end) of one matrix, element by element */
#define MOVE_BLOCK(bits_)                                                                                                                          \
    static void move_block_##bits_(uint##bits_##_t *restrict y, const uint##bits_##_t *restrict x, int64_t rows, int64_t columns, int64_t r,        \
                                   int64_t r_end, int64_t c, int64_t c_end)                                                                        \
    {                                                                                                                                              \
        for (int64_t j = c; j < c_end; j++)                                                                                                        \
            for (int64_t i = r; i < r_end; i++) y[j * rows + i] = x[i * columns + j];                                                              \
    }
MOVE_BLOCK(8)
MOVE_BLOCK(16)
MOVE_BLOCK(32)
MOVE_BLOCK(64)
#undef MOVE_BLOCK

static void move_tile_32(uint32_t *y, const uint32_t *x, int64_t rows, int64_t columns)
{
    float *to[TURN];
    const float *from[TURN];
    for (int i = 0; i < TURN; i++) to[i] = (float *)(void *)(y + i * rows), from[i] = (const float *)(const void *)(x + i * columns);
    vec_turn(to, from);
}

static void move_band(const struct move_job *j, int64_t matrix, int64_t c, int64_t c_end)
{
    const int64_t rows = j->rows, columns = j->columns, offset = matrix * rows * columns * j->bytes;
    unsigned char *y = j->y + offset;
    const unsigned char *x = j->x + offset;
    const int64_t step = rows <= MOVE_THIN ? rows : MOVE_TILE;
    for (int64_t r = 0; r < rows; r += step) {
        const int64_t r_end = r + step < rows ? r + step : rows;
        switch (j->bytes) {
        case 1: move_block_8(y, x, rows, columns, r, r_end, c, c_end); break;
        case 2: move_block_16((uint16_t *)y, (const uint16_t *)x, rows, columns, r, r_end, c, c_end); break;
        case 4:
            if (r_end - r == MOVE_TILE && c_end - c == MOVE_TILE) move_tile_32((uint32_t *)y + c * rows + r, (const uint32_t *)x + r * columns + c, rows, columns);
            else move_block_32((uint32_t *)y, (const uint32_t *)x, rows, columns, r, r_end, c, c_end);
            break;
        default: move_block_64((uint64_t *)y, (const uint64_t *)x, rows, columns, r, r_end, c, c_end); break;
        }
    }
}

static void move_part(void *ctx, int part, int parts)
{
    const struct move_job *j = ctx;
    const int64_t width = j->rows <= MOVE_THIN ? 512 : MOVE_TILE, bands = (j->columns + width - 1) / width, units = j->n * bands;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        int64_t c = u % bands * width;
        move_band(j, u / bands, c, c + width < j->columns ? c + width : j->columns);
    }
}

static void transpose_2d(void *y, const void *x, int64_t n, int64_t rows, int64_t columns, int element_bytes, int threads)
{
    struct move_job j = { .y = y, .x = x, .n = n, .rows = rows, .columns = columns, .bytes = element_bytes };
    if (n <= 0 || rows <= 0 || columns <= 0) return;
    if (rows == 1 || columns == 1) {
        memcpy(y, x, (size_t)n * (size_t)rows * (size_t)columns * (size_t)element_bytes);
        return;
    }
    int parts = n * rows * columns < MOVE_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, move_part, &j);
}

static void moving_fill(struct kernels *k)
{
    k->transpose_2d = transpose_2d;
}

#endif
