/* Products with panels of quantised or 16-bit weights at one level (kernels/linear_panels.h, kernels/cpu/vec_lanes.h).
 *
 * A tile is some rows of x and one panel or two: for each block of 32 the weights are unpacked once into 8 vectors, each row takes 8 integer dot products of 4 and then one fused
 * multiply-add (one for each scale and minimum) into its 16 float sums. There is a function for each type and number of rows, so that weights and sums are registers. Those sums belong to a row of x and 16 rows of W and take their blocks in ascending
 * order: the same bits whatever tile, company, thread or level. */
#ifndef KERNELS_CPU_LINEAR_BODY_H
#define KERNELS_CPU_LINEAR_BODY_H

#include "kernels/cpu/linear_round.h"
#include "kernels/cpu/linear_unpack.h"
#include "kernels/cpu/vec_math.h"

enum { LINEAR_PREFETCH = 4096 };

/* Most rows of x in a tile: as many as leave their sums in registers. Rounded rows, of two panels; rows as they are. */
#if defined(__AVX512VNNI__)
enum { TILE_X = 4, EXACT_X = 8 };
#elif defined(__AVX2__)
enum { TILE_X = 4, EXACT_X = 4 };
#else
enum { TILE_X = 1, EXACT_X = 1 };
#endif
/* Panels of 16-bit weights at once, with HALF_ROWS rows of x at most. */
enum { HALF_PANELS = 4, HALF_ROWS = EXACT_X < 8 ? 1 : 4 };

/* rows of the next tile when `left` rows are left: the least power of two that takes them all, or half of that where a quarter would stay empty; at most `most` */
static int64_t tile_rows(int most, int64_t left)
{
    int64_t rows = 1;
    while (rows < left && rows < most) rows *= 2;
    return rows > left && left <= rows - rows / 4 && rows >= 8 ? rows / 2 : rows;
}

/* Row `row` of x as blocks that are `apart` from each other, from y on; zeros from row m on. */
static void round_row(const struct panel_job *j, struct panel_block *y, int64_t apart, int64_t row)
{
    const struct panel_layout *p = panel_layout(j->type);
    const int offset = LANES_SIGNED_WIDE && p->offset == 128 ? 0 : p->offset, zero = p->minimum ? 0 : LANES_ZERO;
    for (int64_t b = 0; b < j->k / PANEL_BLOCK; b++, y += apart) {
        if (row < j->m) round_block(y, p, offset, j->x + row * j->ldx + b * PANEL_BLOCK);
        else *y = (struct panel_block){ .start = { zero, zero } };
    }
}

static void quantise(const struct panel_job *j, int part, int parts)
{
    const int64_t tiles = (j->m + TILE_X - 1) / TILE_X, end = tiles * (part + 1) / parts * TILE_X, last = end < j->m ? end : j->m;
    for (int64_t row = tiles * part / parts * TILE_X, rows; row < last; row += rows) {
        rows = tile_rows(TILE_X, j->m - row);
        for (int64_t r = 0; r < rows; r++) round_row(j, j->rows + row * (j->k / PANEL_BLOCK) + r, rows, row + r);
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

/* Rows of x whose integer sums grow side by side: each is a chain of 8 steps. */
enum { DOTS_TOGETHER = TILE_X >= 4 ? 4 : 1 };

/* Where a panel is gone through, block by block; all but the place is constant with the type. */
struct panel_place { const uint8_t *at, *head; };

/* A block of a panel with the same block of `rows` rows of x: the weights stay in registers for all of them. */
VEC_INLINE void quantised_block(const int type, const int rows, struct panel_place *place, int64_t block, const struct panel_block *x, lanes_f *sum)
{
    const int two = TYPE_TWO(type), minimum = TYPE_MINIMUM(type), as_signed = LANES_SIGNED_WIDE && TYPE_WIDE(type);
    lanes_b u[GROUPS];
    lanes_f a[2], b[2];
    if (TYPE_HEAD(type) && block % 8 == 0) place->head = place->at, place->at += TYPE_HEAD(type);
    for (int line = 0; line < TYPE_BYTES(type); line += 64) __builtin_prefetch(place->at + LINEAR_PREFETCH + line, 0, 3);
    unpack_scales(type, a, b, place->head, place->at);
    unpack_groups(type, u, place->at + TYPE_SCALES(type));
    place->at += TYPE_BYTES(type);
    LANES_UNROLL
    for (int r = 0; r < rows; r += DOTS_TOGETHER) {
        lanes_i dot[2][DOTS_TOGETHER];
        const int count = rows - r < DOTS_TOGETHER ? rows - r : DOTS_TOGETHER;
        LANES_UNROLL
        for (int g = 0; g < GROUPS; g++)
            LANES_UNROLL
            for (int i = 0; i < count; i++) {
                const int h = two ? g / 4 : 0;
                const lanes_i so_far = g % (two ? 4 : 8) ? dot[h][i] : lanes_i_set(minimum ? LANES_ZERO : x[r + i].start[h]);
                dot[h][i] = as_signed ? lanes_i_dot_signed(so_far, lanes_b_flip(u[g]), x[r + i].numbers + 4 * g) : lanes_i_dot(so_far, u[g], x[r + i].numbers + 4 * g);
            }
        LANES_UNROLL
        for (int i = 0; i < count; i++) {
            const float scale = x[r + i].scale, less = x[r + i].less;
            sum[r + i] = lanes_f_fma(lanes_f_scaled(dot[0][i], scale, less), a[0], sum[r + i]);
            if (minimum) sum[r + i] = lanes_f_fnma(b[0], lanes_f_set(x[r + i].moment[0]), sum[r + i]);
            if (two) sum[r + i] = lanes_f_fma(lanes_f_scaled(dot[1][i], scale, less), a[1], sum[r + i]);
            if (minimum && two) sum[r + i] = lanes_f_fnma(b[1], lanes_f_set(x[r + i].moment[1]), sum[r + i]);
        }
    }
}

/* Two panels where the sums leave room: memory gives more to two streams than to one. The second is the first again where there is none. */
VEC_INLINE void quantised_tile(const int type, const int rows, const int panels, const struct panel_job *j, int64_t panel, int64_t end, int64_t row)
{
    const int64_t blocks = j->k / PANEL_BLOCK;
    const struct panel_block *x = j->rows + row * blocks;
    struct panel_place place[2];
    lanes_f sum[2][TILE_X];
    LANES_UNROLL
    for (int v = 0; v < panels; v++) {
        place[v].at = place[v].head = j->panels + (panel + v < end ? panel + v : panel) * j->panel_bytes;
        LANES_UNROLL
        for (int r = 0; r < rows; r++) sum[v][r] = lanes_f_set(0.0f);
    }
    for (int64_t b = 0; b < blocks; b++, x += rows)
        LANES_UNROLL
        for (int v = 0; v < panels; v++) quantised_block(type, rows, &place[v], b, x, sum[v]);
    LANES_UNROLL
    for (int v = 0; v < panels; v++)
        LANES_UNROLL
        for (int r = 0; r < rows; r++)
            if (row + r < j->m && panel + v < end) tile_store(j, row + r, (panel + v) * PANEL_ROWS, sum[v][r]);
}

/* sum += number i + second of each row of x by its weights, which are the first or second of the two at `at` */
VEC_INLINE void half_add(const int type, const int rows, const int panels, lanes_f sum[EXACT_X][HALF_PANELS], const uint8_t *at, int64_t apart, const float *const x[EXACT_X], int64_t i, const int second)
{
    lanes_f w[HALF_PANELS];
    LANES_UNROLL
    for (int v = 0; v < panels; v++) w[v] = type == BLOCK_BF16 ? lanes_f_bf16(at + v * apart, second) : lanes_f_f16(at + v * apart + second * PANEL_ROWS * 2);
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        LANES_UNROLL
        for (int v = 0; v < panels; v++) sum[r][v] = lanes_f_fma(lanes_f_set(x[r][i + second]), w[v], sum[r][v]);
}

/* 16-bit weights: each sum takes its k in ascending order, one fused multiply-add each, as gemm_f32. Several panels at once, for as many chains of sums. */
VEC_INLINE void half_tile(const int type, const int rows, const int panels, const struct panel_job *j, int64_t panel, int64_t row)
{
    const float *x[EXACT_X];
    lanes_f sum[EXACT_X][HALF_PANELS];
    const uint8_t *at = j->panels + panel * j->panel_bytes;
    LANES_UNROLL
    for (int r = 0; r < rows; r++) {
        x[r] = j->x + (row + r < j->m ? row + r : row) * j->ldx;
        for (int v = 0; v < panels; v++) sum[r][v] = lanes_f_set(0.0f);
    }
    for (int64_t i = 0; i < j->k / 2 * 2; i += 2) {
        LANES_UNROLL
        for (int v = 0; rows <= 4 && v < panels; v++) __builtin_prefetch(at + v * j->panel_bytes + i * PANEL_ROWS * 2 + LINEAR_PREFETCH / 2, 0, 3);
        LANES_UNROLL
        for (int second = 0; second < 2; second++) half_add(type, rows, panels, sum, at + i * PANEL_ROWS * 2, j->panel_bytes, x, i, second);
    }
    if (j->k % 2) half_add(type, rows, panels, sum, at + (j->k - 1) * PANEL_ROWS * 2, j->panel_bytes, x, j->k - 1, 0);
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels && row + r < j->m; v++) tile_store(j, row + r, (panel + v) * PANEL_ROWS, sum[r][v]);
}

/* Each weight as its decoder has it and each sum with its k in ascending order: x as it is. */
VEC_INLINE void exact_tile(const int rows, const struct panel_job *j, int64_t panel, int64_t row)
{
    const struct panel_layout *p = panel_layout(j->type);
    struct panel_walk walk;
    const float *x[EXACT_X];
    struct spread s;
    lanes_f sum[EXACT_X];
    LANES_UNROLL
    for (int r = 0; r < rows; r++) x[r] = j->x + (row + r < j->m ? row + r : row) * j->ldx, sum[r] = lanes_f_set(0.0f);
    panel_walk_begin(&walk, j->type, j->panels + panel * j->panel_bytes, 0);
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
#define EXACT(rows_)                                                                                                          \
    static __attribute__((noinline)) void exact_tile_##rows_(const struct panel_job *j, int64_t panel, int64_t row) { exact_tile(rows_, j, panel, row); }
#define HALF(type_, panels_, rows_)                                                                                                       \
    static __attribute__((noinline)) void half_tile_##type_##_##panels_##_##rows_(const struct panel_job *j, int64_t panel, int64_t row)  \
    {                                                                                                                                     \
        half_tile(BLOCK_##type_, rows_, panels_, j, panel, row);                                                                          \
    }
/* panels: 2 as long as two panels' sums are registers */
#define QUANTISED(type_, rows_)                                                                                                                      \
    static __attribute__((noinline)) void quantised_##type_##_##rows_(const struct panel_job *j, int64_t panel, int64_t end, int64_t row)            \
    {                                                                                                                                                \
        quantised_tile(BLOCK_##type_, rows_, PANELS_OF(rows_), j, panel, end, row);                                                                  \
    }
#define PANELS_OF(rows) (EXACT_X == 4 && (rows) == 4 ? 1 : 2)

typedef void exact_kernel(const struct panel_job *j, int64_t panel, int64_t row);
typedef void quantised_kernel(const struct panel_job *j, int64_t panel, int64_t end, int64_t row);

/* by the rows' logarithm */
#if defined(__AVX512VNNI__)
#define EACH(X, ...)  X(__VA_ARGS__ 1) X(__VA_ARGS__ 2) X(__VA_ARGS__ 4) X(__VA_ARGS__ 8)
#define LIST(name)    { name##1, name##2, name##4, name##8 }
#define EACH_FEW(X, ...)  X(__VA_ARGS__ 1) X(__VA_ARGS__ 2) X(__VA_ARGS__ 4)
#define LIST_FEW(name)    { name##1, name##2, name##4 }
#elif defined(__AVX2__)
#define EACH(X, ...)  X(__VA_ARGS__ 1) X(__VA_ARGS__ 2) X(__VA_ARGS__ 4)
#define LIST(name)    { name##1, name##2, name##4 }
#define EACH_FEW(X, ...)  X(__VA_ARGS__ 1)
#define LIST_FEW(name)    { name##1 }
#else
#define EACH(X, ...)  X(__VA_ARGS__ 1)
#define LIST(name)    { name##1 }
#define EACH_FEW          EACH
#define LIST_FEW          LIST
#endif
#if defined(__AVX2__)
#define QUANTISED_ALL(type_)  QUANTISED(type_, 1) QUANTISED(type_, 2) QUANTISED(type_, 4)
#define QUANTISED_LIST(type_) [BLOCK_##type_] = { quantised_##type_##_1, quantised_##type_##_2, quantised_##type_##_4 },
#else
#define QUANTISED_ALL(type_)  QUANTISED(type_, 1)
#define QUANTISED_LIST(type_) [BLOCK_##type_] = { quantised_##type_##_1 },
#endif
EACH(EXACT, )
EACH(HALF, F16, 1, )
EACH(HALF, F16, 2, )
EACH(HALF, BF16, 1, )
EACH(HALF, BF16, 2, )
EACH_FEW(HALF, F16, 4, )
EACH_FEW(HALF, BF16, 4, )
PANEL_TYPES(QUANTISED_ALL)
static exact_kernel *const exact_kernels[4] = LIST(exact_tile_), *const half_kernels[2][3][4] = { { LIST(half_tile_F16_1_), LIST(half_tile_F16_2_), LIST_FEW(half_tile_F16_4_) }, { LIST(half_tile_BF16_1_), LIST(half_tile_BF16_2_), LIST_FEW(half_tile_BF16_4_) } };
static quantised_kernel *const quantised_kernels[BLOCK_TYPE_END][3] = { PANEL_TYPES(QUANTISED_LIST) };

/* The activation, on rows [first, end) of the columns of panels [from, to). */
static void columns_activate(const struct panel_job *j, int64_t first, int64_t end, int64_t from, int64_t to)
{
    const int64_t left = from * PANEL_ROWS, right = to * PANEL_ROWS < j->n ? to * PANEL_ROWS : j->n;
    for (int64_t r = first; j->ep->act.kind != ACT_NONE && r < end; r++) activate_span(j->y + r * j->ldy + left, j->y + r * j->ldy + left, right - left, j->ep->act);
}

/* All rows against panels [from, to): a panel stays in cache while the rows go by. */
static void multiply(const struct panel_job *j, int64_t from, int64_t to)
{
    const int half = j->type == BLOCK_F16 || j->type == BLOCK_BF16, exact = half || j->exact;
    for (int64_t panel = from, step; panel < to; panel += step) {
        step = !half ? exact ? 1 : 2 : j->m <= HALF_ROWS && panel + HALF_PANELS <= to ? HALF_PANELS : panel + 2 <= to ? 2 : 1;
        exact_kernel *const *kernels = half ? half_kernels[j->type == BLOCK_BF16][step / 2] : exact_kernels;
        for (int64_t row = 0, rows; row < j->m; row += rows) {
            rows = tile_rows(exact ? EXACT_X : TILE_X, j->m - row);
            const int at = __builtin_ctz((unsigned)rows);
            if (exact) kernels[at](j, panel, row);
            else
                for (int64_t p = panel; p < panel + step && p < to; p += PANELS_OF(rows)) quantised_kernels[j->type][at](j, p, to, row);
        }
    }
    columns_activate(j, 0, j->m, from, to);
}

static void decode(float *y, int64_t step, int64_t half, int type, const uint8_t *panel, int64_t from, int64_t k)
{
    const struct panel_layout *p = panel_layout(type);
    if (p->low == 16) {
        for (int64_t i = from; i < from + k; i++, y += step)
            lanes_f_store_halves(y, y + half, type == BLOCK_BF16 ? lanes_f_bf16(panel + i / 2 * PANEL_ROWS * 4, (int)(i % 2)) : lanes_f_f16(panel + i * PANEL_ROWS * 2));
        return;
    }
    struct panel_walk walk;
    struct spread s;
    panel_walk_begin(&walk, type, panel, from);
    for (int64_t b = 0; b < k / PANEL_BLOCK; b++) {
        panel_walk_next(&walk, &s);
        for (int g = 0; g < GROUPS; g++)
            for (int i = 0; i < 4; i++, y += step) lanes_f_store_halves(y, y + half, weight_of(&s, p, g, i));
    }
}

#endif
