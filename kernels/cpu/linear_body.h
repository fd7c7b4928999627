/* Products with panels of quantised or 16-bit weights at one level (kernels/linear_panels.h, kernels/cpu/vec_lanes.h).
 *
 * A tile is some rows of x and one panel: for each block of 32 the weights are unpacked once into 8 vectors, each row takes 8 integer dot products of 4 and then one fused
 * multiply-add (one for each scale and minimum) into its 16 float sums. Those sums belong to a row of x and 16 rows of W and take their blocks in ascending
 * order: the same bits whatever tile, company, thread or level. */
#ifndef KERNELS_CPU_LINEAR_BODY_H
#define KERNELS_CPU_LINEAR_BODY_H

#include "kernels/cpu/linear_unpack.h"
#include "kernels/cpu/vec_math.h"

enum { LINEAR_PREFETCH = 4096 };

/* Rows of x in a tile: one, or TILE_X where there are registers for their sums. */
#if defined(__AVX512VNNI__)
enum { TILE_X = 8, TILE_SMALL = 4 };
#elif defined(__AVX2__)
enum { TILE_X = 4, TILE_SMALL = 4 };
#else
enum { TILE_X = 1, TILE_SMALL = 1 };
#endif

/* ---- x to 8 bits ---- */

/* Of a block: returns 127 / largest magnitude, 0 where that is next to nothing; *scale its inverse, not finite when some number is not. */
VEC_INLINE float block_range(const float *x, float *scale)
{
    vec top = vec_set(0.0f), poison = top;
    for (int i = 0; i < PANEL_BLOCK; i += LANES) {
        const vec v = vec_load(x + i);
        top = vec_max(top, vec_abs(v));
        poison = vec_fma(v, vec_set(0.0f), poison);
    }
    const float most = vec_top(top);
    *scale = most / 127.0f + vec_sum(poison);
    return most > 1e-30f && most < __builtin_inff() ? 127.0f / most : 0.0f;
}

VEC_INLINE void block_round(int8_t *numbers, const float *x, float rate)
{
#if defined(__AVX512F__)
    for (int i = 0; i < PANEL_BLOCK; i += 16) _mm_storeu_si128((__m128i *)(numbers + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vec_load(x + i) * vec_set(rate))));
#elif defined(__AVX2__)
    __m256i q[4];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(vec_load(x + 8 * i) * vec_set(rate));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)numbers, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
    for (int i = 0; i < PANEL_BLOCK; i++) {
        const float v = rintf(x[i] * rate);
        numbers[i] = (int8_t)(v > -128 && v < 128 ? v : 0);
    }
#endif
}

VEC_INLINE void quantise_block(struct panel_block *y, const struct panel_layout *p, const float *x)
{
    const int offset = LANES_SIGNED_WIDE && p->offset == 128 ? 0 : p->offset;
    int sum[2] = { 0, 0 };
    block_round(y->numbers, x, block_range(x, &y->scale));
    for (int i = 0; i < 16; i++) sum[0] += y->numbers[i], sum[1] += y->numbers[16 + i];
    y->moment = y->scale * (float)(sum[0] + sum[1]);
    if (p->two && p->minimum) y->start[0] = sum[0], y->start[1] = sum[1];
    else if (p->two) y->start[0] = -offset * sum[0], y->start[1] = -offset * sum[1];
    else y->start[0] = -offset * (sum[0] + sum[1]), y->start[1] = 0;
}

static void quantise(const struct panel_job *j, int64_t first, int64_t end)
{
    const struct panel_layout *p = panel_layout(j->type);
    const int64_t blocks = j->k / PANEL_BLOCK;
    for (int64_t t = first; t < end; t++) {
        const int64_t row = t * TILE_X, rows = panel_tile_rows(TILE_X, TILE_SMALL, j->m - row);
        for (int64_t r = 0; r < rows; r++) {
            struct panel_block *y = j->rows + row * blocks + r;
            const float *x = j->x + (row + r) * j->ldx;
            for (int64_t b = 0; b < blocks; b++, y += rows) {
                if (row + r < j->m) quantise_block(y, p, x + b * PANEL_BLOCK);
                else memset(y, 0, sizeof *y);
            }
        }
    }
}

/* ---- tiles ---- */


/* bias and residual, then `columns` of the 16 sums to y; the activation follows when all is stored */
VEC_INLINE void tile_store(const struct panel_job *j, int64_t row, int64_t column, lanes_f sum)
{
    const int columns = j->n - column < PANEL_ROWS ? (int)(j->n - column) : PANEL_ROWS;
    if (j->ep->bias) sum = lanes_f_add(sum, lanes_f_load(j->ep->bias + column, columns));
    if (j->ep->residual) sum = lanes_f_add(sum, lanes_f_load(j->ep->residual + row * j->ep->ldr + column, columns));
    lanes_f_store(j->y + row * j->ldy + column, sum, columns);
}

/* 16 of k: groups u[0..4) with x[0..16) */
VEC_INLINE lanes_i dot_four(lanes_i dot, const lanes_b *u, const int8_t *x, int as_signed)
{
    LANES_UNROLL
    for (int g = 0; g < 4; g++) dot = as_signed ? lanes_i_dot_signed(dot, lanes_b_flip(u[g]), x + 4 * g) : lanes_i_dot(dot, u[g], x + 4 * g);
    return dot;
}

/* A block of a panel with the same block of `rows` rows of x. */
VEC_INLINE void quantised_block(const int rows, const struct panel_layout *p, struct panel_walk *walk, const struct panel_block *x, lanes_f *sum)
{
    const int two = p->two, minimum = p->minimum, as_signed = LANES_SIGNED_WIDE && p->offset == 128;
    struct spread s;
    lanes_b u[GROUPS];
    if (rows <= 4)
        for (int line = 0; line < walk->bytes; line += 64) __builtin_prefetch(walk->at + LINEAR_PREFETCH + line, 0, 3);
    panel_walk_next(walk, &s);
    LANES_UNROLL
    for (int g = 0; g < GROUPS; g++) u[g] = lanes_b_load(s.u + 64 * g);
    const lanes_f a = lanes_f_load(s.a, PANEL_ROWS);
    LANES_UNROLL
    for (int r = 0; r < rows; r++) {
        const int8_t *q = x[r].numbers;
        const float scale = x[r].scale;
        const lanes_i start = lanes_i_set(two && minimum ? 0 : x[r].start[0]);
        if (two) {
            const lanes_i second = lanes_i_set(minimum ? 0 : x[r].start[1]);
            sum[r] = lanes_f_fma(lanes_f_from(dot_four(start, u, q, as_signed)), lanes_f_mul(a, lanes_f_set(scale)), sum[r]);
            sum[r] = lanes_f_fma(lanes_f_from(dot_four(second, u + 4, q + 16, as_signed)), lanes_f_mul(lanes_f_load(s.a + PANEL_ROWS, PANEL_ROWS), lanes_f_set(scale)), sum[r]);
        } else {
            sum[r] = lanes_f_fma(lanes_f_from(dot_four(dot_four(start, u, q, as_signed), u + 4, q + 16, as_signed)), lanes_f_mul(a, lanes_f_set(scale)), sum[r]);
        }
        if (minimum) sum[r] = lanes_f_fma(lanes_f_load(s.minimum, PANEL_ROWS), lanes_f_set(two ? -scale * (float)x[r].start[0] : -x[r].moment), sum[r]);
        if (minimum && two) sum[r] = lanes_f_fma(lanes_f_load(s.minimum + PANEL_ROWS, PANEL_ROWS), lanes_f_set(-scale * (float)x[r].start[1]), sum[r]);
    }
}

VEC_INLINE void quantised_tile(const int rows, const struct panel_job *j, int64_t panel, int64_t row)
{
    const struct panel_layout *p = panel_layout(j->type);
    const int64_t blocks = j->k / PANEL_BLOCK;
    const struct panel_block *x = j->rows + row * blocks;
    struct panel_walk walk = panel_walk_from(j->type, j->panels + panel * j->panel_bytes, 0);
    lanes_f sum[TILE_X];
    LANES_UNROLL
    for (int r = 0; r < rows; r++) sum[r] = lanes_f_set(0.0f);
    for (int64_t b = 0; b < blocks; b++, x += rows) quantised_block(rows, p, &walk, x, sum);
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        if (row + r < j->m) tile_store(j, row + r, panel * PANEL_ROWS, sum[r]);
}

/* One row of x: memory is what counts, and it gives more to two streams than to one. */
static __attribute__((noinline)) void quantised_pair(const struct panel_job *j, int64_t panel)
{
    const struct panel_layout *p = panel_layout(j->type);
    const struct panel_block *x = j->rows;
    struct panel_walk left = panel_walk_from(j->type, j->panels + panel * j->panel_bytes, 0), right = panel_walk_from(j->type, j->panels + (panel + 1) * j->panel_bytes, 0);
    lanes_f sum[2] = { lanes_f_set(0.0f), lanes_f_set(0.0f) };
    for (int64_t b = 0; b < j->k / PANEL_BLOCK; b++, x++) {
        quantised_block(1, p, &left, x, &sum[0]);
        quantised_block(1, p, &right, x, &sum[1]);
    }
    tile_store(j, 0, panel * PANEL_ROWS, sum[0]);
    tile_store(j, 0, (panel + 1) * PANEL_ROWS, sum[1]);
}

/* 16-bit weights: each sum takes its k in ascending order, one fused multiply-add each, as gemm_f32. Two panels at once, for two chains of sums. */
VEC_INLINE void half_tile(const int type, const int rows, const int panels, const struct panel_job *j, int64_t panel, int64_t row)
{
    const float *x[TILE_X];
    lanes_f sum[TILE_X][2];
    const uint8_t *at = j->panels + panel * j->panel_bytes;
    LANES_UNROLL
    for (int r = 0; r < rows; r++) {
        x[r] = j->x + (row + r < j->m ? row + r : row) * j->ldx;
        for (int v = 0; v < panels; v++) sum[r][v] = lanes_f_set(0.0f);
    }
    for (int64_t i = 0; i < j->k; i++) {
        lanes_f w[2];
        LANES_UNROLL
        for (int v = 0; v < panels; v++) {
            const uint8_t *from = at + v * j->panel_bytes + i * PANEL_ROWS * 2;
            w[v] = type == BLOCK_BF16 ? lanes_f_bf16(from) : lanes_f_f16(from);
            if (rows <= 4 && i % 2 == 0) __builtin_prefetch(from + LINEAR_PREFETCH / 2, 0, 3);
        }
        LANES_UNROLL
        for (int r = 0; r < rows; r++)
            LANES_UNROLL
            for (int v = 0; v < panels; v++) sum[r][v] = lanes_f_fma(lanes_f_set(x[r][i]), w[v], sum[r][v]);
    }
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels && row + r < j->m; v++) tile_store(j, row + r, (panel + v) * PANEL_ROWS, sum[r][v]);
}

/* Each weight as its decoder has it and each sum with its k in ascending order: x as it is. */
VEC_INLINE void exact_tile(const int rows, const struct panel_job *j, int64_t panel, int64_t row)
{
    const struct panel_layout *p = panel_layout(j->type);
    struct panel_walk walk = panel_walk_from(j->type, j->panels + panel * j->panel_bytes, 0);
    const float *x[TILE_X];
    struct spread s;
    lanes_f sum[TILE_X];
    LANES_UNROLL
    for (int r = 0; r < rows; r++) x[r] = j->x + (row + r < j->m ? row + r : row) * j->ldx, sum[r] = lanes_f_set(0.0f);
    for (int64_t b = 0; b < j->k / PANEL_BLOCK; b++) {
        panel_walk_next(&walk, &s);
        for (int g = 0; g < GROUPS; g++)
            LANES_UNROLL
            for (int i = 0; i < 4; i++) {
                const lanes_f w = weight_of(&s, p, g, i);
                LANES_UNROLL
                for (int r = 0; r < rows; r++) sum[r] = lanes_f_fma(lanes_f_set(x[r][b * PANEL_BLOCK + 4 * g + i]), w, sum[r]);
            }
    }
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        if (row + r < j->m) tile_store(j, row + r, panel * PANEL_ROWS, sum[r]);
}

/* A tile of so many rows: one function each, so that its sums are registers. */
#define TILE(kind_, rows_)                                                                                                    \
    static __attribute__((noinline)) void kind_##_tile_##rows_(const struct panel_job *j, int64_t panel, int64_t row)         \
    {                                                                                                                         \
        kind_##_tile(rows_, j, panel, row);                                                                                   \
    }
#define TILE_HALF(type_, panels_, rows_)                                                                                                  \
    static __attribute__((noinline)) void half_tile_##type_##_##panels_##_##rows_(const struct panel_job *j, int64_t panel, int64_t row)  \
    {                                                                                                                                     \
        half_tile(BLOCK_##type_, rows_, panels_, j, panel, row);                                                                          \
    }
/* of 1, TILE_SMALL and TILE_X rows */
#if defined(__AVX512VNNI__)
#define TILES(X) X(1), X(4), X(8)
#define TILES_OF(kind_) TILE(kind_, 1) TILE(kind_, 4) TILE(kind_, 8)
#define HALVES_OF(type_, panels_) TILE_HALF(type_, panels_, 1) TILE_HALF(type_, panels_, 4) TILE_HALF(type_, panels_, 8)
#elif defined(__AVX2__)
#define TILES(X) X(1), X(4), X(4)
#define TILES_OF(kind_) TILE(kind_, 1) TILE(kind_, 4)
#define HALVES_OF(type_, panels_) TILE_HALF(type_, panels_, 1) TILE_HALF(type_, panels_, 4)
#else
#define TILES(X) X(1), X(1), X(1)
#define TILES_OF(kind_) TILE(kind_, 1)
#define HALVES_OF(type_, panels_) TILE_HALF(type_, panels_, 1)
#endif
TILES_OF(quantised)
TILES_OF(exact)
HALVES_OF(F16, 1)
HALVES_OF(F16, 2)
HALVES_OF(BF16, 1)
HALVES_OF(BF16, 2)

struct tiles { void (*tile[3])(const struct panel_job *j, int64_t panel, int64_t row); };
#define QUANTISED(rows_)  quantised_tile_##rows_
#define EXACT(rows_)      exact_tile_##rows_
#define F16_ONE(rows_)    half_tile_F16_1_##rows_
#define F16_TWO(rows_)    half_tile_F16_2_##rows_
#define BF16_ONE(rows_)   half_tile_BF16_1_##rows_
#define BF16_TWO(rows_)   half_tile_BF16_2_##rows_
static const struct tiles quantised_tiles = { { TILES(QUANTISED) } }, exact_tiles = { { TILES(EXACT) } };
static const struct tiles half_tiles[2][2] = { { { { TILES(F16_ONE) } }, { { TILES(F16_TWO) } } }, { { { TILES(BF16_ONE) } }, { { TILES(BF16_TWO) } } } };

/* All rows against panels [from, to): a panel stays in cache while the rows go by. */
static void multiply(const struct panel_job *j, int64_t from, int64_t to)
{
    const int half = j->type == BLOCK_F16 || j->type == BLOCK_BF16;
    for (int64_t panel = from; panel < to;) {
        const int panels = half && panel + 2 <= to ? 2 : 1;
        if (!half && !j->exact && j->m == 1 && panel + 2 <= to) {
            quantised_pair(j, panel);
            panel += 2;
            continue;
        }
        const struct tiles *t = half ? &half_tiles[j->type == BLOCK_BF16][panels - 1] : j->exact ? &exact_tiles : &quantised_tiles;
        for (int64_t row = 0; row < j->m;) {
            const int64_t rows = panel_tile_rows(TILE_X, TILE_SMALL, j->m - row);
            t->tile[rows == 1 ? 0 : rows == TILE_SMALL ? 1 : 2](j, panel, row);
            row += rows;
        }
        panel += panels;
    }
    const int64_t left = from * PANEL_ROWS, right = to * PANEL_ROWS < j->n ? to * PANEL_ROWS : j->n;
    for (int64_t r = 0; j->ep->act.kind != ACT_NONE && r < j->m; r++) activate_span(j->y + r * j->ldy + left, j->y + r * j->ldy + left, right - left, j->ep->act);
}

static void decode(float *y, int64_t step, int64_t half, int type, const uint8_t *panel, int64_t from, int64_t k)
{
    const struct panel_layout *p = panel_layout(type);
    if (p->low == 16) {
        for (int64_t i = from; i < from + k; i++, y += step)
            lanes_f_store_halves(y, y + half, type == BLOCK_BF16 ? lanes_f_bf16(panel + i * PANEL_ROWS * 2) : lanes_f_f16(panel + i * PANEL_ROWS * 2));
        return;
    }
    struct panel_walk walk = panel_walk_from(type, panel, from);
    struct spread s;
    for (int64_t b = 0; b < k / PANEL_BLOCK; b++) {
        panel_walk_next(&walk, &s);
        for (int g = 0; g < GROUPS; g++)
            for (int i = 0; i < 4; i++, y += step) lanes_f_store_halves(y, y + half, weight_of(&s, p, g, i));
    }
}

#endif
