/* Products of many rows with bfloat16 tiles: W's panels are turned into tiles two at a time (32 columns of y), TILES_K of k at a time so that they stay in the
 * first-level cache, and meet TILES_X rows of x, which stay in the second-level cache as tiles. Panels of BF16 are tiles already. A step of 32 of k takes 2 tiles of x, 2 of W and 4 products. Sums
 * of 32 rows and columns wait as tiles until all of k is done; where TILES_X whole rows of x pass the second-level cache, all panels go by for one slab of k before the next.
 *
 * Of BF16 weights every sum takes its k in ascending order, whatever the rows beside it.
 *
 * The configuration is loaded by each part and released at its end, so that a parked thread keeps no tile state. */
#include "kernels/cpu/linear_put.h"
#include "kernels/cpu/amx/linear_weights.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/bf16_pairs.h"

/* Sums are tiles 0 to 3: rows 0-15 and 16-31 of x by two panels; with 16 rows of x at most, even and odd steps apart, since a tile takes a product every 16 cycles
 * but the same tile only every 52. */

/* Tiles of W: two side by side, `beside` numbers apart, and the next two `next` on. */
struct right { const uint16_t *at; int64_t beside, next, ahead; };

/* += two rows of tiles of x, `apart` numbers apart, by tiles of W */
static void sums_add_32(const uint16_t *a, int64_t apart, struct right w, int64_t steps)
{
    for (int64_t s = 0; s < steps; s++, a += TILE_NUMBERS, w.at += w.next) {
        if (w.ahead)
            for (int line = 0; line < TILE_NUMBERS; line += 32) __builtin_prefetch(w.at + w.ahead + line, 0, 2), __builtin_prefetch(w.at + w.ahead + w.beside + line, 0, 2);
        TILE_LOAD(4, a, 64);
        TILE_LOAD(6, w.at, 64);
        TILE_LOAD(7, w.at + w.beside, 64);
        TILE_DOT_BF16(0, 4, 6);
        TILE_LOAD(5, a + apart, 64);
        TILE_DOT_BF16(1, 4, 7);
        TILE_DOT_BF16(2, 5, 6);
        TILE_DOT_BF16(3, 5, 7);
    }
}
static void sums_add_16(const uint16_t *a, struct right w, int64_t steps)
{
    for (int64_t s = 0; s < steps; s += 2, a += 2 * TILE_NUMBERS, w.at += 2 * w.next) {
        TILE_LOAD(4, a, 64);
        TILE_LOAD(6, w.at, 64);
        TILE_LOAD(7, w.at + w.beside, 64);
        TILE_DOT_BF16(0, 4, 6);
        TILE_DOT_BF16(1, 4, 7);
        if (s + 1 == steps) break;
        TILE_LOAD(5, a + TILE_NUMBERS, 64);
        TILE_LOAD(6, w.at + w.next, 64);
        TILE_LOAD(7, w.at + w.next + w.beside, 64);
        TILE_DOT_BF16(2, 5, 6);
        TILE_DOT_BF16(3, 5, 7);
    }
}

/* A float as the sum of two bfloat16, as near as two come. */
static __m512 upper_part(__m512 x) { return widen_16(round_16(x)); }

/* F16 weights: their upper parts to every second tile from b on, the lower ones to those from `low` on. */
static void tiles_of_f16(uint16_t *b, uint16_t *low, const uint8_t *panel, int64_t from, int64_t k, int64_t limit)
{
    for (int64_t i = from; i < from + k; i += 2) {
        const int64_t at = (i - from) / 32 * 2 * TILE_NUMBERS + (i - from) % 32 / 2 * 32;
        const __m512 even = i < limit ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(panel + i * PANEL_ROWS * 2))) : vec_set(0.0f);
        const __m512 odd = i + 1 < limit ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(panel + (i + 1) * PANEL_ROWS * 2))) : vec_set(0.0f);
        __builtin_prefetch(panel + i * PANEL_ROWS * 2 + 4096, 0, 3);
        _mm512_storeu_si512(b + at, pair_of(even, odd));
        _mm512_storeu_si512(low + at, pair_of(even - upper_part(even), odd - upper_part(odd)));
    }
}

/* A panel of another type than BF16 to every second tile from b on; one beyond the last leaves zeros. The lower parts of F16 weights lie TILES_K * 32 numbers behind. */
static void tiles_of(const struct panel_job *j, uint16_t *b, int64_t panel, int64_t panels, int64_t from, int64_t k)
{
    const uint8_t *at = j->panels + panel * j->panel_bytes;
    if (panel >= panels) {
        for (int64_t s = 0; s < k / 32; s++) {
            memset(b + s * 2 * TILE_NUMBERS, 0, TILE_NUMBERS * sizeof *b);
            memset(b + TILES_K * 32 + s * 2 * TILE_NUMBERS, 0, TILE_NUMBERS * sizeof *b);
        }
        return;
    }
    if (j->type == BLOCK_F16) {
        tiles_of_f16(b, b + TILES_K * 32, at, from, k, j->k);
        return;
    }
    tiles_of_types[j->type](b, at, j->units + panel * PANEL_ROWS, from, k);
}

static void round_tiles(uint16_t *a, const struct panel_job *j, int64_t begin, int64_t end)
{
    const int64_t steps = panel_tiles_k(j->k) / 32, lower = (int64_t)panel_tiles_part(j->m, j->k);
    const bool whole = j->type == BLOCK_F16 || j->type == BLOCK_BF16;
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));      /* numbers 0, 2, 1, 3 of each 4: linear_weights.h */
    for (int64_t row = begin * 16; row < end * 16; row++)
        for (int64_t s = 0; s < steps; s++) {
            uint16_t *to = a + (row / 16 * steps + s) * TILE_NUMBERS + row % 16 * 32;
            const int64_t at = row * j->ldx + s * 32, left = row < j->m ? j->k - s * 32 : 0;
            const __m512i both = either_pairs(j->x, at, at + left, j->x_halves);
            _mm512_storeu_si512(to, whole ? both : _mm512_shuffle_epi8(both, order));
            if (j->type != BLOCK_F16) continue;
            const __m512 low = _mm512_maskz_loadu_ps(first(left), j->x + at), high = _mm512_maskz_loadu_ps(first(left - 16), j->x + at + 16);
            _mm512_storeu_si512(to + lower, (__m512i)_mm512_cvtne2ps_pbh(high - upper_part(high), low - upper_part(low)));
        }
}

/* Tiles 0 to 3 += k [from, from + k) of two panels by up to 32 rows of x from `row` on. */
static void sums_add(const struct panel_job *j, const uint16_t *a, struct right b, int64_t row, int64_t rows, int64_t from, int64_t k)
{
    const int64_t steps = panel_tiles_k(j->k) / 32;
    const uint16_t *tiles = a + (row / 16 * steps + from / 32) * TILE_NUMBERS;
    for (int part = 0; part < (j->type == BLOCK_F16 ? 3 : 1); part++) {      /* upper by upper, upper by lower, lower by upper */
        const uint16_t *x = part == 2 ? tiles + panel_tiles_part(j->m, j->k) : tiles;
        struct right w = b;
        if (part == 1) w.at += TILES_K * 32;
        if (rows > 16 || j->type == BLOCK_BF16) sums_add_32(x, rows > 16 ? steps * TILE_NUMBERS : 0, w, k / 32);      /* one order of addition for every row: the last 16 stand in for the next */
        else sums_add_16(x, w, k / 32);
    }
}

/* k [at, at + depth) of two panels as tiles: where they lie, or made in b. Beside the last panel stands itself again, whose sums nobody takes. */
static struct right right_of(const struct panel_job *j, uint16_t *b, int64_t panel, int64_t at, int64_t depth)
{
    const int64_t panels = (j->n + PANEL_ROWS - 1) / PANEL_ROWS;
    if (j->type == BLOCK_BF16) return (struct right){ (const uint16_t *)(const void *)(j->panels + panel * j->panel_bytes) + at * PANEL_ROWS, panel + 1 < panels ? j->panel_bytes / 2 : 0, TILE_NUMBERS, panel + 3 < panels ? j->panel_bytes : 0 };
    tiles_of(j, b, panel, panels, at, depth);
    tiles_of(j, b + TILE_NUMBERS, panel + 1, panels, at, depth);
    return (struct right){ b, TILE_NUMBERS, 2 * TILE_NUMBERS, 0 };
}

/* c = or += k [from, to) for rows [row, end) of x and two panels. As long as there are no more rows than tiles hold, sums stay in those. */
static void pair_multiply(const struct panel_job *j, const uint16_t *a, uint16_t *b, float *c, int64_t panel, int64_t row, int64_t end, int64_t from, int64_t to)
{
    const int64_t each = j->type == BLOCK_BF16 ? TILES_K / 2 : TILES_K;      /* of tiles in memory shorter parts are as cheap, and leave more of the first-level cache to x and c */
    const bool few = end - row <= 32;
    for (int64_t at = from; at < to; at += each) {
        const int64_t depth = to - at < each ? to - at : each;
        struct right w = right_of(j, b, panel, at, depth);
        for (int64_t r = row; r < end; r += 32) {
            float *sums = c + (r - row) * 32;
            if (at == 0) sums_clear();
            else if (!few || at == from) sums_load(sums);
            sums_add(j, a, w, r, end - r, at, depth);
            w.ahead = 0;
            if (!few || at + depth == to) sums_store(sums);
        }
    }
}

/* The sums of even and odd steps, of the last 16 rows, become one. */
static void halves_meet(float *c, int64_t rows)
{
    if ((unsigned)(rows % 32 - 1) >= 16) return;
    c += rows / 32 * 32 * 32;
    for (int i = 0; i < 16 * 32; i += 16) vec_store(c + i, vec_load(c + i) + vec_load(c + 16 * 32 + i));
}

/* BF16 weights by 16 rows of x at most: four panels at a time, whose sums are tiles 0 to 3, all of k. */
static void multiply_few(const struct panel_job *j, const uint16_t *a, float *c, int64_t from, int64_t to)
{
    struct tile_config config = whole_tiles;
    for (int t = 0; t < 5; t++) config.rows[t] = (uint8_t)j->m;
    tiles_begin(&config);
    const int64_t steps = panel_tiles_k(j->k) / 32, panels = (j->n + PANEL_ROWS - 1) / PANEL_ROWS;
    for (int64_t panel = from; panel < to; panel += 4) {
        const uint16_t *x = a, *w[4];
        for (int v = 0; v < 4; v++) w[v] = (const uint16_t *)(const void *)(j->panels + (panel + v < panels ? panel + v : panel) * j->panel_bytes);     /* beyond the last: sums that nobody takes */
        sums_clear();
        for (int64_t s = 0; s < steps; s++, x += TILE_NUMBERS) {
            const int64_t at = s * TILE_NUMBERS;
            TILE_LOAD(4, x, 64);
            TILE_LOAD(5, w[0] + at, 64);
            TILE_LOAD(6, w[1] + at, 64);
            TILE_DOT_BF16(0, 4, 5);
            TILE_LOAD(7, w[2] + at, 64);
            TILE_DOT_BF16(1, 4, 6);
            TILE_LOAD(5, w[3] + at, 64);
            TILE_DOT_BF16(2, 4, 7);
            TILE_DOT_BF16(3, 4, 5);
        }
        TILE_STORE(0, c, SUMS_STRIDE);
        TILE_STORE(1, c + 16, SUMS_STRIDE);
        TILE_STORE(2, c + 16 * 32, SUMS_STRIDE);
        TILE_STORE(3, c + 16 * 32 + 16, SUMS_STRIDE);
        sums_put(c, NULL, j, 0, j->m, panel * PANEL_ROWS);
        if (panel + 2 < to) sums_put(c + 16 * 32, NULL, j, 0, j->m, (panel + 2) * PANEL_ROWS);
    }
    tiles_end();
}

static void multiply_tiles(const struct panel_job *j, const uint16_t *a, void *lane, int64_t from, int64_t to)
{
    uint16_t *b = lane;
    float *sums = (float *)(void *)(b + 2 * TILES_K * 32);
    const int64_t k = panel_tiles_k(j->k), slab = panel_slab(j->m, j->k);
    if (j->type == BLOCK_BF16 && j->m <= 16) {
        multiply_few(j, a, sums, from, to);
        return;
    }
    tiles_begin(&whole_tiles);
    for (int64_t row = 0; row < j->m; row += TILES_X) {
        const int64_t end = row + TILES_X < j->m ? row + TILES_X : j->m;
        for (int64_t at = 0; at < k; at += slab) {
            const int64_t stop = at + slab < k ? at + slab : k;
            for (int64_t panel = from; panel < to; panel += 2) {
                float *c = sums + (slab < k ? (panel - from) / 2 * TILES_X * 32 : 0);
                pair_multiply(j, a, b, c, panel, row, end, at, stop);
                if (stop < k) continue;
                if (j->type != BLOCK_BF16) halves_meet(c, end - row);
                sums_put(c, j->units, j, row, end - row, panel * PANEL_ROWS);
            }
        }
    }
    tiles_end();
}

const struct panel_bf16_kernels panel_bf16_amx = { round_tiles, multiply_tiles };
