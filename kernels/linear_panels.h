/* Panels: how linear.c keeps weights for its fast kernels, and what a CPU level does with them. Inside kernels/ only.
 *
 * A panel is 16 rows of W side by side, so that a vector of 16 lanes works on 16 sums at once and none is ever added across lanes. Along k it is blocks of
 * 32; a block is its scales, then its numbers as unsigned integers u of few bits, in groups of 4 along k: group g holds k = 4g .. 4g + 3 of each row, one
 * dword per row (what an int8 dot product of 4 takes). The numbers' bits lie as in these vectors of 64 bytes:
 *   8 bits   8 vectors, group g in vector g
 *   4 bits   4 vectors, group v in the low halves of vector v, group v + 4 in the high ones
 *   2 bits   2 vectors, bits 2(g mod 4) of vector g / 4 are of group g
 *   1 bit    1 vector, bit g is of group g
 * low bits first, then the upper ones. A weight is a (table(u) - offset) - b; a and b come from the block's scales and, for formats of 256, a head
 * before each 8 blocks, lane by lane, each array [16]. Sizes are those of the file but for Q4_K and Q5_K, whose packed 6-bit scales take a byte each: + 3 %.
 *   Q4_0 Q5_0 Q8_0 IQ4_NL   f16 a                        MXFP4   exponent
 *   Q4_1 Q5_1               f16 a, f16 b (minimum, negated)
 *   Q4_K Q5_K  head f16 d, f16 dmin; u8 scale, u8 minimum: a = d scale, b = dmin minimum
 *   Q6_K Q3_K  head f16 d; i8 scale of k < 16, i8 scale of the rest: a = d scale
 *   Q2_K       head f16 d, f16 dmin; u8 two scales (low half: k < 16), u8 two minima
 *   IQ4_XS     head f16 d; i8 scale
 *   IQ3_XXS IQ3_S IQ2_XXS  head f16 d; u8 scale: a = d factor scale (block_factor)
 *   IQ2_XS IQ2_S IQ1_M     head f16 d; u8 two scales, (s - 1) / 2 of k < 16 in the low half
 *   IQ1_S                  head f16 d; u8 scale as block_indices has it: a = d scale, b = 7/8 a or 9/8 a
 *   TQ1_0 TQ2_0            head f16 d: a = d
 * The indices of grids are spread out to one of 4 bits for each number of IQ3, 3 (2 + 1) of IQ2 and IQ1_M, 2 of IQ1_S, so that panels are larger than the file: IQ3_S 1.25 times, IQ3_XXS 1.41, IQ2_S 1.29, IQ2_XS 1.43,
 * IQ2_XXS 1.6, IQ1_M 1.9, IQ1_S 1.48, TQ1_0 1.26.
 * F16 numbers are kept as they are, [k, 16]; BF16 ones pair by pair, [k / 2][16][2] with zeros up to a multiple of 32 of k: the tiles and vectors that dot products of pairs take. */
#ifndef KERNELS_LINEAR_PANELS_H
#define KERNELS_LINEAR_PANELS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

enum { PANEL_ROWS = 16, PANEL_BLOCK = 32 };

struct panel_layout {
    int head;                            /* bytes before each 8 blocks */
    int scales;                          /* bytes of a block's scales */
    int low, high;                       /* bits of u: low array, upper array */
    int offset;
    bool two;                            /* a scale for each 16 */
    bool minimum;
    bool pairs;                          /* BF16 */
};

/* NULL: the type has no panels. F16 and BF16 have low 16 and nothing else. */
const struct panel_layout *panel_layout(int type);
static inline int64_t panel_block_bytes(const struct panel_layout *p) { return p->scales + (p->low + p->high) * PANEL_BLOCK * PANEL_ROWS / 8; }
static inline int64_t panel_tiles_k(int64_t k) { return (k + 31) / 32 * 32; }
/* of one panel of k numbers a row */
static inline int64_t panel_bytes(const struct panel_layout *p, int64_t k)
{
    if (p->low == 16) return (p->pairs ? panel_tiles_k(k) : k) * PANEL_ROWS * 2;
    return k / PANEL_BLOCK * panel_block_bytes(p) + k / 256 * p->head;
}
/* rows [first, first + 16) of W, those from n on as zeros */
void panel_pack(uint8_t *panel, int type, const void *weight, int64_t row_bytes, int64_t first, int64_t n, int64_t k);
/* Of 16 rows: a power of two above twice every number's magnitude, 0 where all are 0, not finite where that is no number. Not for 16-bit weights. */
void panel_units(float *unit, int type, const uint8_t *panel, int64_t k);

/* 32 numbers of a row of x rounded to 8 bits. scale is the largest magnitude / 127, to 22 bits; less is -1.5 2^23 times that, exactly (lanes_f_scaled of kernels/cpu/vec_lanes.h).
 * For formats with minima: moment, the scale times the sum of the numbers; for the others
 * start, what dot products of u start from: LANES_ZERO - offset times the sum. [2]: of 16 each for formats with two scales a block, else the first is of all 32.
 * Rows lie in tiles, [block][row of the tile], so that a kernel goes through a tile with one pointer; how many rows a tile has is the kernels' own affair. */
struct panel_block {
    int8_t numbers[32];
    float scale, less;
    union { int32_t start[2]; float moment[2]; };
};

struct panel_job {
    int type;
    const uint8_t *panels;
    int64_t panel_bytes, n, k, m;
    float *y;
    int64_t ldy;
    const float *units;                  /* of every row of the panels; NULL for 16-bit weights: bfloat16 tiles only */
    struct panel_block *rows;            /* tiles of m rows; unused when exact */
    bool exact;                          /* x as it is, sums with k in ascending order; always so for 16-bit weights */
    const float *x;
    int64_t ldx;
    const struct gemm_epilogue *ep;
    bool x_halves, y_halves;             /* x; y and the residual lie in memory as bfloat16: kernels of bfloat16 with BF16 weights alone, and so is the next */
    bool gated;                          /* every second panel holds the gates of the one before: a pair makes 16 columns of y */
};

struct panel_kernels {
    const char *name;
    int tile;                            /* j->rows has room for a multiple of so many rows of x */
    /* one of `parts` parts of j->rows from j->x */
    void (*quantise)(const struct panel_job *j, int part, int parts);
    /* y's columns of panels [from, to), all m rows, epilogue and all */
    void (*multiply)(const struct panel_job *j, int64_t from, int64_t to);
    /* A panel as floats, equal in bits to the type's decoder: number k of row r to y[k * step + r], for r >= 8 to y[half + k * step + r - 8]. k numbers from `from` on. */
    void (*decode)(float *y, int64_t step, int64_t half, int type, const uint8_t *panel, int64_t from, int64_t k);
};

static inline uint64_t panel_rows_bytes(const struct panel_kernels *p, int64_t m, int64_t k) { return (uint64_t)((m + p->tile - 1) / p->tile * p->tile) * (uint64_t)(k / PANEL_BLOCK) * sizeof(struct panel_block); }

/* The best for min(level, machine): never NULL. */
const struct panel_kernels *panel_kernels(enum cpu_level level);
extern const struct panel_kernels panel_kernels_scalar, panel_kernels_avx2, panel_kernels_avx512vnni;

/* ---- tiles of bytes (AMX): the bits of panel_kernels_avx512vnni for many rows ---- */

/* A block of 16 rows of x; those beyond the last are zeros. */
struct panel_rows { int8_t numbers[16][PANEL_BLOCK]; float scale[16], moment[2][16]; };

enum { TILES_BYTES_X = 128, TILES_BYTES_LANE = 48 << 10 };         /* rows of x at a time; scratch of a thread */
static inline uint64_t panel_bytes_rows(int64_t m, int64_t k) { return (uint64_t)((m + 15) / 16) * (uint64_t)(k / PANEL_BLOCK) * sizeof(struct panel_rows); }
/* x's rows 16 first .. 16 end as rows [m / 16][k / 32] */
void panel_bytes_round(struct panel_rows *to, const struct panel_job *j, int64_t first, int64_t end);
/* y's columns of panels [from, to), from even; all rows, epilogue and all; lane: TILES_BYTES_LANE, 64-byte aligned. Only where cpu_level_detect() is CPU_AMX. */
void panel_bytes_multiply(const struct panel_job *j, const struct panel_rows *x, void *lane, int64_t from, int64_t to);

/* ---- bfloat16, by tiles (AMX) or dot products: x and W rounded to bfloat16, sums in float. For many rows.
 * F16 weights are not rounded: each is the sum of two bfloat16, exactly, and x of two to 16 bits; of the four products the one of both lower parts is left out. ---- */

enum { TILES_K = 512, TILES_X = 256, TILES_NEAR = 1 << 20 };       /* k (a multiple of 256) and rows of x at a time; bytes of x that stay in a second-level cache */
/* whole blocks of 32 */
static inline int64_t panel_rows_at_once(int64_t m) { return m < TILES_X ? (m + 31) / 32 * 32 : TILES_X; }
/* How much of k goes by at a time for the rows that do: equal parts, multiples of 256 when there are several. */
static inline int64_t panel_slab(int64_t m, int64_t k)
{
    const int64_t blocks = (k + 255) / 256, slabs = (2 * panel_rows_at_once(m) * k + TILES_NEAR - 1) / TILES_NEAR, parts = slabs < blocks ? slabs : blocks;
    return parts < 2 ? panel_tiles_k(k) : (blocks + parts - 1) / parts * 256;
}
/* Scratch of a thread that multiplies so many pairs of panels. */
static inline uint64_t panel_lane_bytes(int64_t m, int64_t k, int64_t pairs)
{
    return (uint64_t)(2 * TILES_K * 32 * 2) + (uint64_t)(panel_slab(m, k) < panel_tiles_k(k) ? pairs * TILES_X : panel_rows_at_once(m)) * 32 * sizeof(float);
}
static inline uint64_t panel_tiles_part(int64_t m, int64_t k) { return (uint64_t)((m + 15) / 16 * 16) * (uint64_t)panel_tiles_k(k); }
static inline uint64_t panel_tiles_bytes(int type, int64_t m, int64_t k) { return panel_tiles_part(m, k) * (type == BLOCK_F16 ? 4 : 2); }
struct panel_bf16_kernels {
    /* x's rows 16 first .. 16 end (from m on zeros) as multiply wants them: tiles a [m / 16][k / 32][16, 32] (of 8 rows for dot products), for quantised weights with the two middle numbers of each 4 changed over; for F16 weights the
     * lower parts behind them */
    void (*round)(uint16_t *a, const struct panel_job *j, int64_t first, int64_t end);
    /* y's columns of panels [from, to), from even; all rows, epilogue and all; lane: panel_lane_bytes, 64-byte aligned */
    void (*multiply)(const struct panel_job *j, const uint16_t *a, void *lane, int64_t from, int64_t to);
};
/* amx: only where cpu_level_detect() is CPU_AMX. The others, of BF16 weights alone, where cpu_is_quick_at_bf16 is so; one: a single row of x, for which `lane` is not used. */
extern const struct panel_bf16_kernels panel_bf16_amx, panel_bf16_avx512, panel_bf16_one;

#endif
