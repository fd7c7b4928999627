/* Products of many rows of x, rounded, with bfloat16 weights by dot products of pairs: two panels (32 columns of y) at a time are turned into tiles, DEPTH of k so that they stay in the first-level cache,
 * and meet as many rows of x as stay in the second-level cache. Sums of those rows wait in memory until all of k is done. */
#include "kernels/cpu/avx512bf16/dots.h"
#include "kernels/cpu/linear_pairs.h"
#include "kernels/cpu/linear_put.h"

enum { DEPTH = 320, BLOCK = DOT_ROWS * 32, NEAR_BYTES = 512 << 10, ROWS_MIN = 64 };
_Static_assert((int)DEPTH <= (int)TILES_K, "two panels' part fits the lane");

static void round_rows(uint16_t *a, const struct panel_job *j, int64_t first, int64_t end)
{
    const int64_t steps = panel_tiles_k(j->k) / 32;
    for (int64_t row = first * 16; row < end * 16; row++)
        for (int64_t s = 0; s < steps; s++) {
            const int64_t left = row < j->m ? j->k - s * 32 : 0;
            const float *x = j->x + row * j->ldx + s * 32;
            const __m512 low = left > 0 ? vec_load_n(x, left < 16 ? (int)left : 16) : vec_set(0.0f), high = left > 16 ? vec_load_n(x + 16, left < 32 ? (int)left - 16 : 16) : vec_set(0.0f);
            _mm512_storeu_si512(a + (row / DOT_ROWS * steps + s) * BLOCK + row % DOT_ROWS * 32, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
}

/* k [from, from + k) of a panel to every second tile from b on; one beyond the last is zeros */
static void take_panel(const struct panel_job *j, uint16_t *b, int64_t panel, int64_t from, int64_t k)
{
    if (panel * PANEL_ROWS < j->n) tiles_of_bf16(b, j->panels + panel * j->panel_bytes, from, k, j->k);
    else
        for (int64_t s = 0; s < k / 32; s++) memset(b + s * 2 * DOT_TILE, 0, DOT_TILE * sizeof *b);
}

static void multiply(const struct panel_job *j, const uint16_t *a, void *lane, int64_t from, int64_t to)
{
    const int64_t k = panel_tiles_k(j->k), steps = k / 32, parts = (k + DEPTH - 1) / DEPTH, each = (steps + parts - 1) / parts;
    uint16_t *b = lane;
    float *c = (float *)(void *)(b + 2 * TILES_K * 32);
    int64_t most = NEAR_BYTES / (2 * k) / 16 * 16;
    if (most > TILES_X) most = TILES_X;
    if (most < ROWS_MIN) most = ROWS_MIN;
    for (int64_t row = 0; row < j->m; row += most) {
        const int64_t rows = j->m - row < most ? j->m - row : most;
        for (int64_t panel = from; panel < to; panel += 2) {
            for (int64_t at = 0; at < steps; at += each) {
                const int64_t depth = steps - at < each ? steps - at : each;
                take_panel(j, b, panel, at * 32, depth * 32);
                take_panel(j, b + DOT_TILE, panel + 1, at * 32, depth * 32);
                for (int64_t r = 0; r < rows; r += DOT_ROWS)
                    dots_add(2, c + r * 32, 32, a + ((row + r) / DOT_ROWS * steps + at) * BLOCK, 32, BLOCK, b, DOT_TILE, 2 * DOT_TILE, depth * 32, at == 0, steps * BLOCK);
            }
            sums_put(c, NULL, j, row, rows, panel * PANEL_ROWS);
        }
    }
}

const struct panel_bf16_kernels panel_bf16_avx512 = { round_rows, multiply };
