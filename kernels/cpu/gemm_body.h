/* c = a b with b packed: the body of gemm_f32 at one level (kernels/cpu/vec.h). The including file says TILE_ROWS and TILE_VECS, the
 * register tile: TILE_ROWS rows of c by TILE_VECS vectors, which fill the register file with sums.
 *
 * Packed b is a row of panels; a panel holds PANEL = TILE_VECS * LANES columns of b, k after k, zero-padded: panel[k][PANEL]. A tile walks
 * one panel downwards, and each of its sums takes one fused multiply-add per k, in ascending order. Blocking over k (so that a block of b
 * stays in the second-level cache for all rows) puts the sums down in c and takes them up again unchanged. So no choice made here, of
 * threads, blocks or tile heights, shows in the result. While a block is at work its tiles fetch the next one, an equal share each: the first tile of a block would else wait for memory
 * at every step, which costs a fourteenth of the time at 14 tiles and a third at two.
 *
 * Rows are dealt evenly to tiles (49 rows at 14 a tile: 13, 12, 12, 12). With few rows a tile takes several panels at once: there are then enough independent
 * sums to hide the latency of fma and enough streams to draw on memory at its rate. */
#ifndef KERNELS_CPU_GEMM_BODY_H
#define KERNELS_CPU_GEMM_BODY_H

#include "kernels/cpu/vec_math.h"

enum {
    PANEL = TILE_VECS * LANES,
    BLOCK_K = 1024,                      /* most k of a block */
    BLOCK_BYTES = 1 << 20,               /* of b */
    FEW_COLUMNS = 128, FEW_BYTES = 768 << 10,      /* columns of a block where no more bytes of a than these go by: then a stays in that cache beside this block and the next */
    COPY_STRIDE = BLOCK_K + 16,
    PREFETCH_AHEAD = 4096 / 4,           /* floats of b */
    LINE = 16                            /* floats of a cache line */
};
static const int64_t PARALLEL_MIN = 150000;   /* multiply-adds below which waking a team costs more than it saves */

struct gemm_job {
    float *c;
    int64_t ldc;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t m, n, k;
    const struct gemm_epilogue *ep;
    float low, high;                     /* the clamp that the store applies */
    int clamp_is_all;                    /* nothing of the activation is left after the clamp */
    int split_columns;                   /* threads share out columns, else rows */
};

/* A tile's place: rows from `row`, columns from `column`, k in [from, to); its first element of a. ahead: what to fetch of the next block (NULL: nothing), a line with each step
 * whose number has none of the mask's bits. */
struct gemm_place { int64_t row, column, from, to; const float *a; int64_t lda; const float *ahead; int64_t mask; };

VEC_INLINE void gemm_tile(const int rows, const int vecs, const struct gemm_job *j, const struct gemm_place *p, int columns)
{
    vec sum[TILE_ROWS][8];
    const int64_t lda = p->lda, steps = p->to - p->from, panel_stride = j->k * PANEL, mask = p->mask;
    const float *a = p->a, *ahead = p->ahead;
    const float *b = j->b + p->column / PANEL * panel_stride + p->from * PANEL;
    float *c = j->c + p->row * j->ldc + p->column;
    const int full = columns >= vecs * LANES;

    if (p->from == 0) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sum[i][v] = vec_set(0.0f);
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) {
                int left = columns - v * LANES;
                sum[i][v] = full ? vec_load(c + i * j->ldc + v * LANES) : vec_load_n(c + i * j->ldc + v * LANES, left < 0 ? 0 : left > LANES ? LANES : left);
            }
    }

    for (int64_t s = 0; s < steps; s++) {
        vec right[8];
        if (LANES > 1 && ahead && (s & mask) == 0) __builtin_prefetch(ahead, 0, 2), ahead += LINE;
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            const float *from = b + v / TILE_VECS * panel_stride + v % TILE_VECS * LANES;
            right[v] = vec_load(from);
            if (LANES > 1) __builtin_prefetch(from + PREFETCH_AHEAD, 0, 3);
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            vec left = vec_set(a[i * lda]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sum[i][v] = vec_fma(left, right[v], sum[i][v]);
        }
        a++;
        b += PANEL;
    }

    const int last = p->to == j->k;
    const float *bias = last && j->ep->bias ? j->ep->bias + p->column : NULL;
    const float *residual = last && j->ep->residual ? j->ep->residual + p->row * j->ep->ldr + p->column : NULL;
    const vec low = vec_set(last ? j->low : -__builtin_inff()), high = vec_set(last ? j->high : __builtin_inff());
    if (full) {
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            vec add = bias ? vec_load(bias + v * LANES) : vec_set(0.0f);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                vec x = sum[i][v];
                if (bias) x = x + add;
                if (residual) x = x + vec_load(residual + i * j->ep->ldr + v * LANES);
                vec_store(c + i * j->ldc + v * LANES, vec_clamp(x, low, high));
            }
        }
        return;
    }
#pragma GCC unroll 8
    for (int v = 0; v < vecs; v++) {
        int left = columns - v * LANES;
        left = left < 0 ? 0 : left > LANES ? LANES : left;
        vec add = bias ? vec_load_n(bias + v * LANES, left) : vec_set(0.0f);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            vec x = sum[i][v];
            if (bias) x = x + add;
            if (residual) x = x + vec_load_n(residual + i * j->ep->ldr + v * LANES, left);
            vec_store_n(c + i * j->ldc + v * LANES, vec_clamp(x, low, high), left);
        }
    }
}

/* The tile of `rows` rows: one function each, so that its sums are registers. */
#define GEMM_TILE(rows_, vecs_)                                                                                                            \
    static __attribute__((noinline)) void gemm_tile_##rows_(const struct gemm_job *j, const struct gemm_place *p, int columns)             \
    {                                                                                                                                      \
        gemm_tile(rows_, TILE_VECS, j, p, columns);                                                                                        \
    }                                                                                                                                      \
    static __attribute__((noinline)) void gemm_wide_##rows_(const struct gemm_job *j, const struct gemm_place *p, int columns)             \
    {                                                                                                                                      \
        gemm_tile(rows_, vecs_, j, p, columns);                                                                                            \
    }
#define ROW(rows_)  { gemm_tile_##rows_, gemm_wide_##rows_ }
struct gemm_tiles { void (*tile)(const struct gemm_job *, const struct gemm_place *, int), (*wide)(const struct gemm_job *, const struct gemm_place *, int); };

/* How many panels the wide form takes: as many as leave the sums in registers. */
#define WIDE(rows_) (TILE_VECS > 2 ? TILE_VECS : (rows_) * 8 <= TILE_ROWS + 2 ? 8 : (rows_) * 4 <= TILE_ROWS * 2 ? 4 : 2)
GEMM_TILE(1, WIDE(1))
GEMM_TILE(2, WIDE(2))
#if TILE_ROWS > 2
GEMM_TILE(3, WIDE(3))
GEMM_TILE(4, WIDE(4))
GEMM_TILE(5, WIDE(5))
GEMM_TILE(6, WIDE(6))
#endif
#if TILE_ROWS > 6
GEMM_TILE(7, WIDE(7))
GEMM_TILE(8, WIDE(8))
GEMM_TILE(9, WIDE(9))
GEMM_TILE(10, WIDE(10))
GEMM_TILE(11, WIDE(11))
GEMM_TILE(12, WIDE(12))
GEMM_TILE(13, WIDE(13))
GEMM_TILE(14, WIDE(14))
#endif

static const struct gemm_tiles gemm_tiles[TILE_ROWS + 1] = {
    { NULL, NULL }, ROW(1), ROW(2),
#if TILE_ROWS > 2
    ROW(3), ROW(4), ROW(5), ROW(6),
#endif
#if TILE_ROWS > 6
    ROW(7), ROW(8), ROW(9), ROW(10), ROW(11), ROW(12), ROW(13), ROW(14),
#endif
};
static const int gemm_wide[TILE_ROWS + 1] = {
    0, WIDE(1), WIDE(2),
#if TILE_ROWS > 2
    WIDE(3), WIDE(4), WIDE(5), WIDE(6),
#endif
#if TILE_ROWS > 6
    WIDE(7), WIDE(8), WIDE(9), WIDE(10), WIDE(11), WIDE(12), WIDE(13), WIDE(14),
#endif
};
#undef ROW
#undef WIDE
#undef GEMM_TILE

/* What tile t of `tiles` fetches of the block that follows columns [column, column + step) of k [from, to): its share of the first panel; the others' lie a panel apart. */
static const float *gemm_ahead(const struct gemm_job *j, const struct gemm_place *p, int64_t step, int64_t right, int64_t t, int64_t tiles)
{
    const int64_t share = ((p->to - p->from) * (PANEL / LINE) + tiles - 1) / tiles * LINE;
    if (PANEL < LINE || tiles == 1) return NULL;
    if (p->to < j->k) return j->b + p->column * j->k + p->to * PANEL + t * share;
    return p->column + step < right ? j->b + (p->column + step) * j->k + t * share : NULL;
}

/* rows [first, end) by columns [left, right), left on a panel's edge */
static void gemm_region(const struct gemm_job *j, int64_t first, int64_t end, int64_t left, int64_t right)
{
    const int64_t m = end - first, tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    if (m <= 0 || right <= left) return;
    /* One tile high: b is read once, so blocks would gain nothing. A residual that is c itself must still be whole at the last k. */
    const int one_pass = tiles == 1 || j->ep->residual == j->c;
    const int64_t parts_k = one_pass || j->k <= BLOCK_K ? 1 : (j->k + BLOCK_K - 1) / BLOCK_K, block_k = j->k < 1 ? 1 : (j->k + parts_k - 1) / parts_k;
    /* Rows a multiple of 2 KiB apart fall into the same few sets of the first-level cache and drive each other out: copied, they do not. */
    const int copy = !one_pass && j->lda % 512 == 0;
    float rows_of_a[TILE_ROWS * COPY_STRIDE];
    const int64_t fit = BLOCK_BYTES / (int64_t)sizeof(float) / block_k / PANEL * PANEL, many = fit < PANEL ? PANEL : fit, few = FEW_COLUMNS / PANEL * PANEL;
    const int64_t step = tiles == 1 ? right - left : copy || many < few || m * block_k * (int64_t)sizeof(float) > FEW_BYTES ? many : few;
    const int64_t mask = steps_mask(tiles * LINE / PANEL);
    for (int64_t from_column = left; from_column < right; from_column += step) {
        int64_t to_column = from_column + step < right ? from_column + step : right;
        for (int64_t part = 0; part < parts_k; part++)
            for (int64_t t = 0; t < tiles; t++) {
                int64_t top = first + m * t / tiles;
                int rows = (int)(first + m * (t + 1) / tiles - top);
                struct gemm_place p = { .row = top, .column = from_column, .from = j->k * part / parts_k, .to = j->k * (part + 1) / parts_k, .lda = j->lda, .mask = mask };
                p.a = j->a + top * j->lda + p.from;
                if (copy) {
                    for (int i = 0; i < rows; i++) memcpy(rows_of_a + i * COPY_STRIDE, p.a + i * p.lda, (size_t)(p.to - p.from) * sizeof *rows_of_a);
                    p.a = rows_of_a, p.lda = COPY_STRIDE;
                }
                const int wide = gemm_wide[rows] * LANES;
                const float *ahead = gemm_ahead(j, &p, step, right, t, tiles);
                for (; wide > PANEL && p.column + wide <= to_column; p.column += wide) gemm_tiles[rows].wide(j, &p, wide);
                for (; p.column < to_column; p.column += PANEL) {
                    p.ahead = ahead ? ahead + (p.column - from_column) * j->k : NULL;
                    gemm_tiles[rows].tile(j, &p, (int)(right - p.column < PANEL ? right - p.column : PANEL));
                }
                if (part < parts_k - 1 || j->clamp_is_all) continue;
                const int64_t across = to_column - from_column, whole = across == j->ldc ? rows : 1;       /* narrow rows that lie one behind the other are one span */
                for (int64_t i = 0; i < rows; i += whole) {
                    float *row = j->c + (top + i) * j->ldc + from_column;
                    activate_span(row, row, across * whole, j->ep->act);
                }
            }
    }
}

static void gemm_part(void *ctx, int part, int parts)
{
    const struct gemm_job *j = ctx;
    if (j->split_columns) {
        int64_t panels = (j->n + PANEL - 1) / PANEL, left = panels * part / parts * PANEL, right = panels * (part + 1) / parts * PANEL;
        gemm_region(j, 0, j->m, left, right < j->n ? right : j->n);
        return;
    }
    int64_t tiles = (j->m + TILE_ROWS - 1) / TILE_ROWS;
    gemm_region(j, j->m * (tiles * part / parts) / tiles, j->m * (tiles * (part + 1) / parts) / tiles, 0, j->n);
}

static void gemm_f32(float *c, int64_t ldc, const float *a, int64_t lda, const void *packed_b, int64_t m, int64_t n, int64_t k,
                     const struct gemm_epilogue *ep, int threads)
{
    if (m <= 0 || n <= 0) return;
    static const struct gemm_epilogue nothing = { .act = { .kind = ACT_NONE } };
    struct gemm_job j = { .c = c, .ldc = ldc, .a = a, .lda = lda, .b = packed_b, .m = m, .n = n, .k = k, .ep = ep ? ep : &nothing };
    j.clamp_is_all = activation_is_clamp(j.ep->act, &j.low, &j.high);
    const int64_t panels = (n + PANEL - 1) / PANEL, tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    /* Each thread reads all of the side that is not split: so split the larger. */
    j.split_columns = n >= m || tiles < threads;
    int64_t units = j.split_columns ? panels : tiles;
    int parts = m * n * k < PARALLEL_MIN ? 1 : units < threads ? (int)units : threads;
    parallel_for(parts, parts, gemm_part, &j);
}

static size_t gemm_f32_packed_bytes(int64_t k, int64_t n)
{
    return (size_t)((n + PANEL - 1) / PANEL * PANEL) * (size_t)k * sizeof(float);
}

static void gemm_f32_pack(void *packed, const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n)
{
    float *out = packed;
    for (int64_t column = 0; column < n; column += PANEL) {
        int64_t columns = n - column < PANEL ? n - column : PANEL;
        for (int64_t i = 0; i < k; i++, out += PANEL) {
            const float *from = b + i * row_stride + column * column_stride;
            for (int64_t s = 0; s < columns; s++) out[s] = from[s * column_stride];
            for (int64_t s = columns; s < PANEL; s++) out[s] = 0;
        }
    }
}

static void gemm_fill(struct kernels *k)
{
    k->gemm_f32_packed_bytes = gemm_f32_packed_bytes;
    k->gemm_f32_pack = gemm_f32_pack;
    k->gemm_f32 = gemm_f32;
}

#endif
