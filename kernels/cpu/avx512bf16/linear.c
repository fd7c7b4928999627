/* Products of rows of x, rounded, with bfloat16 weights by dot products of pairs: DEPTH of k of two panels (32 columns of y) at a time, so that they stay in the first-level cache,
 * meet as many rows of x as stay in the second-level cache. Sums of those rows wait in memory until all of k is done. */
#include "kernels/cpu/avx512bf16/dots.h"
#include "kernels/cpu/linear_put.h"

enum { DEPTH = 320, BLOCK = DOT_ROWS * 32, NEAR_BYTES = 512 << 10, ROWS_MIN = 64 };

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

static void multiply(const struct panel_job *j, const uint16_t *a, void *lane, int64_t from, int64_t to)
{
    const int64_t k = panel_tiles_k(j->k), steps = k / 32, parts = (k + DEPTH - 1) / DEPTH, each = (steps + parts - 1) / parts;
    float *c = lane;
    int64_t most = NEAR_BYTES / (2 * k) / 16 * 16;
    if (most > TILES_X) most = TILES_X;
    if (most < ROWS_MIN) most = ROWS_MIN;
    for (int64_t row = 0; row < j->m; row += most) {
        const int64_t rows = j->m - row < most ? j->m - row : most;
        for (int64_t panel = from; panel < to; panel += 2) {
            const uint16_t *b = (const uint16_t *)(const void *)(j->panels + panel * j->panel_bytes);
            const int64_t beside = (panel + 1) * PANEL_ROWS < j->n ? j->panel_bytes / 2 : 0;     /* beside the last panel itself again, whose sums nobody takes */
            for (int64_t at = 0; at < steps; at += each) {
                const int64_t depth = steps - at < each ? steps - at : each;
                for (int64_t r = 0; r < rows; r += DOT_ROWS)
                    dots_add(2, c + r * 32, 32, a + ((row + r) / DOT_ROWS * steps + at) * BLOCK, 32, BLOCK, b + at * DOT_TILE, beside, DOT_TILE, depth * 32, at == 0, steps * BLOCK);
            }
            sums_put(c, NULL, j, row, rows, panel * PANEL_ROWS);
        }
    }
}

const struct panel_bf16_kernels panel_bf16_avx512 = { round_rows, multiply };
