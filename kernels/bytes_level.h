/* What a CPU level does for kernels/bytes.c. Inside kernels/ only.
 *
 * Weights lie in panels of 16 output channels. A sum runs over `segments` stretches of x that are each contiguous in memory (a row of the window, all its channels); a stretch is
 * `chunks` times `depth` bytes, depth a multiple of 4 up to 64, the weights beyond its end 0. In a panel, for each chunk, come depth / 4 groups of 16 channels x 4 bytes:
 * the right side of a tile as it is, and what a dot product of 4 bytes takes. Rows of a block are pixels `step` bytes apart. */
#ifndef KERNELS_BYTES_LEVEL_H
#define KERNELS_BYTES_LEVEL_H

#include "kernels/bytes.h"

enum { BYTES_PANEL = 16, BYTES_ROWS = 32, BYTES_PAIR = 2 * BYTES_PANEL, BYTES_DEPTH = 64, BYTES_LINE = 64 /* of a cache */ };

struct bytes_walk {
    int segments, chunks, depth;
    const int64_t *at;                   /* [segments]: offset of each from the row's beginning */
    int64_t step, panel_bytes;
    const int8_t *ahead;                 /* weights that the next calls take, NULL: none: `lines` lines of 64 bytes are to be fetched meanwhile */
    int lines;
    int mask;                            /* and that with groups whose number has none of these bits (a level's own) */
};

/* Where finished rows go. */
struct bytes_rows {
    const struct bytes_finish *finish;
    bool saturates;                      /* limits are those of an unsigned byte, its zero is 0, and no sum passes what an int32 holds: limiting is saturation */
    const struct kernels *k;
    void *y;
    const uint8_t *residual;
    int64_t channels;                    /* numbers from one pixel of y to the next */
    const int64_t *pixel;                /* [rows] which pixel of y, -1: none; NULL: from `first` on, one after the other */
    int64_t first;
    int rows;
};

/* A depthwise layer: its weights are [kh][kw][channels], or with `depth_columns` of the level [kw][groups of 4 window rows][blocks of 64 channels][256]: each block four vectors
 * of 16 channels x 4 rows, channel 16 l + 4 v + i in dword 4 l + i of vector v; start, scale and shift lie in the same order, [blocks][4][16]. What passes the end is 0. */
struct bytes_depth_job {
    const struct window2d *w;            /* of x, which holds its padding: none is left */
    const struct bytes_finish *finish;
    const struct kernels *k;
    const int8_t *weight;
    const int32_t *start;
    const float *scale, *shift;
    const uint8_t *x;
    uint8_t *y;
    bool saturates;                      /* as of struct bytes_rows */
    bool twice;                          /* with depth_columns: the last block has 32 channels or fewer, which stand in both of its halves */
};

/* Number by number; a signed byte is read and written as x ^ flip, and so counts from 0 to 255 with its zero 128 higher. One thread. */
struct bytes_pair { uint8_t flip_a, flip_b, flip_y; int zero_a, zero_b, zero_y; float first, second, low, high; };

struct bytes_elements {
    void (*round)(uint8_t *y, const float *x, int64_t n, float scale, int zero, uint8_t flip);
    void (*restore)(float *y, const uint8_t *x, int64_t n, float scale, int zero, uint8_t flip);
    /* round((a - zero_a) first + (b - zero_b) second) */
    void (*add)(uint8_t *y, const uint8_t *a, const uint8_t *b, int64_t n, const struct bytes_pair *p);
    /* round((a - zero_a) (b - zero_b) first) */
    void (*multiply)(uint8_t *y, const uint8_t *a, const uint8_t *b, int64_t n, const struct bytes_pair *p);
    void (*look_up)(uint8_t *y, const uint8_t *x, int64_t n, const uint8_t *table);
    void (*largest)(uint8_t *y, const uint8_t *x, int64_t n, uint8_t flip);           /* y = max(y, x) */
    void (*gather)(int32_t *sums, const uint8_t *x, int64_t n, uint8_t flip);         /* sums += x */
};

struct bytes_level {
    const char *name;
    int rows_whole;                      /* rows are worked on in this many at once: as many must be readable */
    void (*begin)(int depth);            /* around a thread's calls of multiply */
    void (*end)(void);
    /* sums [rows][32] of 1 or 2 panels */
    void (*multiply)(int32_t *sums, const uint8_t *x, const struct bytes_walk *w, int rows, const int8_t *panel, int panels);
    /* rows of sums [32] as channels [channel, channel + columns), columns <= 32 */
    void (*finish)(const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns);
    bool depth_columns;
    /* rows [from, to) of y: bytes, no residual, no activation but limits */
    void (*depthwise)(const struct bytes_depth_job *j, int64_t from, int64_t to);
    struct bytes_elements each;
};

extern const struct bytes_level bytes_level_scalar, bytes_level_avx2, bytes_level_avx512, bytes_level_avx512vnni, bytes_level_avx512vbmi /* and looks bytes up in registers */, bytes_level_amx;
const struct bytes_level *bytes_level(enum cpu_level level);         /* the best for min(level, machine) */

#endif
