/* Products of rows of x, rounded, with bfloat16 weights by dot products of pairs: DEPTH of k of two panels (32 columns of y) at a time, so that they stay in the first-level cache,
 * meet as many rows of x as stay in the second-level cache. Sums of those rows wait in memory until all of k is done. */
#include "kernels/cpu/avx512bf16/dots.h"
#include "kernels/cpu/linear_put.h"

enum { DEPTH = 320, BLOCK = DOT_ROWS * 32, NEAR_BYTES = 512 << 10, ROWS_MIN = 64, ONE_PANELS = 4 };

static void round_rows(uint16_t *a, const struct panel_job *j, int64_t begin, int64_t end)
{
    const int64_t steps = panel_tiles_k(j->k) / 32;
    for (int64_t row = begin * 16; row < end * 16; row++)
        for (int64_t s = 0; s < steps; s++) {
            const int64_t at = row * j->ldx + s * 32;
            _mm512_storeu_si512(a + (row / DOT_ROWS * steps + s) * BLOCK + row % DOT_ROWS * 32, either_pairs(j->x, at, at + (row < j->m ? j->k - s * 32 : 0), j->x_halves));
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

/* ---- one row ---- */

static void round_one(uint16_t *a, const struct panel_job *j, int64_t begin, int64_t end)
{
    if (begin > 0 || end < 1) return;
    for (int64_t i = 0; i < panel_tiles_k(j->k); i += 32) _mm512_storeu_si512(a + i, either_pairs(j->x, i, j->k, j->x_halves));
}

/* Pairs go by turns into two sums of each panel, since a sum takes a product only every few cycles. */
static inline __attribute__((always_inline)) void multiply_panels(const int panels, const struct panel_job *j, const uint16_t *a, int64_t panel)
{
    const uint16_t *b = (const uint16_t *)(const void *)(j->panels + panel * j->panel_bytes);
    const int64_t apart = j->panel_bytes / 2;
    __m512 sum[ONE_PANELS][2];
    float c[ONE_PANELS * PANEL_ROWS + PANEL_ROWS] = { 0 };
    for (int v = 0; v < panels; v++) sum[v][0] = sum[v][1] = _mm512_setzero_ps();
    for (int64_t i = 0; i < panel_tiles_k(j->k); i += 4, a += 4, b += 2 * 32)
#pragma GCC unroll 4
        for (int v = 0; v < panels; v++)
#pragma GCC unroll 2
            for (int t = 0; t < 2; t++) sum[v][t] = _mm512_dpbf16_ps(sum[v][t], pair_of_row(a + 2 * t), (__m512bh)_mm512_loadu_si512(b + v * apart + t * 32));
    for (int v = 0; v < panels; v++) _mm512_storeu_ps(c + v * PANEL_ROWS, sum[v][0] + sum[v][1]);
    for (int v = 0; v < panels; v += 2) sums_put(c + v * PANEL_ROWS, NULL, j, 0, 1, (panel + v) * PANEL_ROWS);
}

static void multiply_one(const struct panel_job *j, const uint16_t *a, void *lane, int64_t from, int64_t to)
{
    (void)lane;
    const int64_t end = (j->n + PANEL_ROWS - 1) / PANEL_ROWS;
    if (to > end) to = end;
    for (; from + ONE_PANELS <= to; from += ONE_PANELS) multiply_panels(ONE_PANELS, j, a, from);
    for (; from + 2 <= to; from += 2) multiply_panels(2, j, a, from);
    if (from < to) multiply_panels(1, j, a, from);
}

const struct panel_bf16_kernels panel_bf16_one = { round_one, multiply_one };
