/* Products of many rows with tiles of bytes: the numbers of the VNNI kernels (x rounded to 8 bits in blocks of 32, exact integer dot products, then the
 * same float operations in the same order), and so their bits.
 *
 * A scale covers 16 or 32 of k, so a tile's integer sums go through memory after each of those. Vector instructions run at half their rate for some hundred cycles
 * after a tile instruction; therefore both work in turns, CHUNK blocks at a time: weights of two panels to tiles of bytes (once for all rows), dot products of 16 rows
 * of x by tiles, then scales and sums by vectors, 8 rows at a time so that their sums are registers. */
#include "kernels/cpu/linear_put.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/linear_round.h"
#include "kernels/cpu/linear_unpack.h"

enum { CHUNK = 8, ROWS = 16, PAIR = 2 * PANEL_ROWS, TILE_WEIGHTS = GROUPS * 64, TILE_SUMS = ROWS * PANEL_ROWS };

/* Two panels' blocks as tiles; what tiles put down; a panel's scales and minima are [half][16]. */
struct chunk {
    uint8_t weights[2][CHUNK][TILE_WEIGHTS];
    int32_t dots[CHUNK][2][TILE_SUMS];           /* [block, or half of a block][panel] */
    float scale[2][CHUNK][2][PANEL_ROWS], minimum[2][CHUNK][2][PANEL_ROWS];
};
_Static_assert(sizeof(struct chunk) + TILES_BYTES_X * PAIR * sizeof(float) <= TILES_BYTES_LANE, "a thread's scratch holds a chunk and its sums");
_Static_assert(sizeof(struct panel_rows) % 64 == 0, "tiles of x are aligned");

void panel_bytes_round(struct panel_rows *to, const struct panel_job *j, int64_t first, int64_t end)
{
    const struct panel_layout *p = panel_layout(j->type);
    const int64_t blocks = j->k / PANEL_BLOCK;
    for (int64_t row = first * ROWS; row < end * ROWS; row++)
        for (int64_t b = 0; b < blocks; b++) {
            struct panel_rows *y = to + row / ROWS * blocks + b;
            struct panel_block one = { .scale = 0 };
            if (row < j->m) round_block(&one, p, 0, j->x + row * j->ldx + b * PANEL_BLOCK);
            memcpy(y->numbers[row % ROWS], one.numbers, sizeof one.numbers);
            y->scale[row % ROWS] = one.scale;
            for (int h = 0; h < 2; h++) y->moment[h][row % ROWS] = p->minimum ? one.moment[h] : 0;
        }
}

/* `blocks` of a panel as tiles: group g is row g, its numbers signed */
VEC_INLINE void weights_take(const int type, struct chunk *c, int panel, const uint8_t **at, const uint8_t **heads, int64_t first, int blocks)
{
    const __m512i offset = _mm512_set1_epi8((char)panel_layout(type)->offset);
    if (TYPE_HEAD(type) && first % 8 == 0) *heads = *at, *at += TYPE_HEAD(type);
    const uint8_t *head = *heads;
    for (int b = 0; b < blocks; b++) {
        lanes_b u[GROUPS];
        lanes_f a[2], down[2];
        for (int line = 0; line < TYPE_BYTES(type); line += 64) __builtin_prefetch(*at + 4096 + line, 0, 3);
        unpack_scales(type, a, down, head, *at);
        unpack_groups(type, u, *at + TYPE_SCALES(type));
        *at += TYPE_BYTES(type);
        LANES_UNROLL
        for (int g = 0; g < GROUPS; g++) _mm512_store_si512(c->weights[panel][b] + 64 * g, TYPE_MINIMUM(type) ? u[g] : _mm512_sub_epi8(u[g], offset));
        for (int h = 0; h < 1 + TYPE_TWO(type); h++) {
            vec_store(c->scale[panel][b][h], a[h]);
            if (TYPE_MINIMUM(type)) vec_store(c->minimum[panel][b][h], down[h]);
        }
    }
}

/* integer sums of 16 rows of x with both panels, blocks [from, from + blocks) of the chunk */
VEC_INLINE void dots_make(const int two, struct chunk *c, const struct panel_rows *x, int from, int blocks)
{
    for (int b = from, to = 0; b < from + blocks; b++, x++, to += 1 + two) {
        TILE_LOAD(4, x->numbers, 32);
        TILE_LOAD(6, c->weights[0][b], 64);
        TILE_ZERO(0);
        TILE_DOT_I8(0, 4, 6);
        TILE_LOAD(7, c->weights[1][b], 64);
        TILE_ZERO(1);
        TILE_DOT_I8(1, 4, 7);
        TILE_STORE(0, c->dots[to][0], 64);
        TILE_STORE(1, c->dots[to][1], 64);
        if (!two) continue;
        TILE_LOAD(5, x->numbers[0] + 16, 32);
        TILE_LOAD(6, c->weights[0][b] + TILE_WEIGHTS / 2, 64);
        TILE_ZERO(2);
        TILE_DOT_I8(2, 5, 6);
        TILE_LOAD(7, c->weights[1][b] + TILE_WEIGHTS / 2, 64);
        TILE_ZERO(3);
        TILE_DOT_I8(3, 5, 7);
        TILE_STORE(2, c->dots[to + 1][0], 64);
        TILE_STORE(3, c->dots[to + 1][1], 64);
    }
}

/* Rows first .. first + 7: sums [16, 32] take up those blocks. */
VEC_INLINE void sums_add(const int two, const int minimum, float *sums, const struct chunk *c, const struct panel_rows *x, int first, int from, int blocks)
{
    enum { EACH = 8 };
    __m512 sum[EACH][2];
    LANES_UNROLL
    for (int r = 0; r < EACH; r++) sum[r][0] = vec_load(sums + (first + r) * PAIR), sum[r][1] = vec_load(sums + (first + r) * PAIR + PANEL_ROWS);
    for (int b = from, at = 0; b < from + blocks; b++, x++, at += 1 + two) {
        for (int h = 0; h < 1 + two; h++) {
            const __m512 left = vec_load(c->scale[0][b][h]), right = vec_load(c->scale[1][b][h]);
            LANES_UNROLL
            for (int r = 0; r < EACH; r++) {
                const __m512 scale = vec_set(x->scale[first + r]);
                sum[r][0] = vec_fma(_mm512_cvtepi32_ps(_mm512_load_si512(c->dots[at + h][0] + (first + r) * PANEL_ROWS)) * scale, left, sum[r][0]);
                sum[r][1] = vec_fma(_mm512_cvtepi32_ps(_mm512_load_si512(c->dots[at + h][1] + (first + r) * PANEL_ROWS)) * scale, right, sum[r][1]);
            }
            if (!minimum) continue;
            const __m512 down = vec_load(c->minimum[0][b][h]), down_beside = vec_load(c->minimum[1][b][h]);
            LANES_UNROLL
            for (int r = 0; r < EACH; r++) {
                const __m512 moment = vec_set(x->moment[h][first + r]);
                sum[r][0] = lanes_f_fnma(down, moment, sum[r][0]);
                sum[r][1] = lanes_f_fnma(down_beside, moment, sum[r][1]);
            }
        }
    }
    LANES_UNROLL
    for (int r = 0; r < EACH; r++) vec_store(sums + (first + r) * PAIR, sum[r][0]), vec_store(sums + (first + r) * PAIR + PANEL_ROWS, sum[r][1]);
}

/* Two panels (the second may be the first again) with `rows` rows of x: sums [rows rounded up to 16, 32]. */
VEC_INLINE void pair_multiply(const int type, float *sums, struct chunk *c, const struct panel_job *j, const uint8_t *left, const uint8_t *right, const struct panel_rows *x, int64_t rows)
{
    const int64_t blocks = j->k / PANEL_BLOCK;
    const int two = TYPE_TWO(type), minimum = TYPE_MINIMUM(type), step = CHUNK / (1 + two);
    const uint8_t *left_head = left, *right_head = right;
    memset(sums, 0, (size_t)((rows + ROWS - 1) / ROWS * ROWS * PAIR) * sizeof *sums);
    for (int64_t b = 0; b < blocks; b += CHUNK) {
        const int count = blocks - b < CHUNK ? (int)(blocks - b) : CHUNK;
        weights_take(type, c, 0, &left, &left_head, b, count);
        weights_take(type, c, 1, &right, &right_head, b, count);
        for (int64_t row = 0; row < rows; row += ROWS) {
            const struct panel_rows *tile = x + row / ROWS * blocks + b;
            for (int from = 0; from < count; from += step) {
                const int some = count - from < step ? count - from : step;
                dots_make(two, c, tile + from, from, some);
                sums_add(two, minimum, sums + row * PAIR, c, tile + from, 0, from, some);
                if (row + 8 < rows) sums_add(two, minimum, sums + row * PAIR, c, tile + from, 8, from, some);
            }
        }
    }
}

#define PAIR_OF(type_)                                                                                                                                              \
    static __attribute__((noinline)) void pair_##type_(float *sums, struct chunk *c, const struct panel_job *j, const uint8_t *left, const uint8_t *right, const struct panel_rows *x, int64_t rows) \
    {                                                                                                                                                               \
        pair_multiply(BLOCK_##type_, sums, c, j, left, right, x, rows);                                                                                             \
    }
PANEL_TYPES(PAIR_OF)
static void (*const pairs[BLOCK_TYPE_END])(float *, struct chunk *, const struct panel_job *, const uint8_t *, const uint8_t *, const struct panel_rows *, int64_t) = {
#define ONE(type_) [BLOCK_##type_] = pair_##type_,
    PANEL_TYPES(ONE)
#undef ONE
};

void panel_bytes_multiply(const struct panel_job *j, const struct panel_rows *x, void *lane, int64_t from, int64_t to)
{
    const int two = panel_layout(j->type)->two;
    const uint16_t wide = two ? 16 : 32;
    const uint8_t deep = two ? GROUPS / 2 : GROUPS;
    const struct tile_config config = { .palette = 1, .row_bytes = { 64, 64, 64, 64, wide, wide, 64, 64 }, .rows = { ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, deep, deep } };
    struct chunk *c = lane;
    float *sums = (float *)(void *)(c + 1);
    const int64_t blocks = j->k / PANEL_BLOCK;
    tiles_begin(&config);
    for (int64_t row = 0; row < j->m; row += TILES_BYTES_X) {
        const int64_t rows = j->m - row < TILES_BYTES_X ? j->m - row : TILES_BYTES_X;
        for (int64_t panel = from; panel < to; panel += 2) {
            const uint8_t *left = j->panels + panel * j->panel_bytes, *right = panel + 1 < to ? left + j->panel_bytes : left;
            pairs[j->type](sums, c, j, left, right, x + row / ROWS * blocks, rows);
            sums_put(sums, NULL, j, row, rows, panel * PANEL_ROWS);
        }
    }
    tiles_end();
}
