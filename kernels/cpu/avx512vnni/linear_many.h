/* Products of many rows of x with two panels at a time, with the bits of kernels/cpu/linear_body.h: the same integer sums, then the same float operations in the same order.
 *
 * Rows of x are in groups of GROUP_ROWS at most, all about as large, which are their tiles. Weights are unpacked once for SPAN blocks and up to ROWS_MOST rows, into first-level
 * cache. A group then takes, for each four of k, two vectors of weights and one number of each row: seven rows are 14 chains of dot products, more than the ten that keep both ports busy,
 * and their 14 integer and 14 float sums are registers. Where all of a row's blocks are gone through at once instead, weights are unpacked for 16 rows, and with a register for each
 * of their vectors the chains are too few: two thirds of the rate. */
#ifndef KERNELS_CPU_AVX512VNNI_LINEAR_MANY_H
#define KERNELS_CPU_AVX512VNNI_LINEAR_MANY_H

#include "kernels/cpu/linear_body.h"

enum {
    MANY_ROWS = TILE_X + 1,              /* from so many rows of x on */
    GROUP_ROWS = 7, GROUP_TWO_ROWS = 5,  /* the most of a group; of formats with two scales, whose sums are taken up twice a block */
    LEAST_ROWS = 3,                      /* the fewest that sharing out any number of rows leads to */
    ROWS_MOST = 260,                     /* at a time: 512 are two turns; fewer where x would not stay in a second-level cache */
    ROWS_NEAR = 1536 << 10,              /* bytes of x that do */
    SPAN = 16,                           /* blocks: with two panels' half of a first-level cache */
    PAIR = 2 * PANEL_ROWS
};

struct many_span { struct spread panel[2][SPAN]; };

/* Rows shared out to groups: the first `more` of them have least + 1. */
struct many_groups { int64_t count, least, more; };
static int group_rows(const struct panel_job *j) { return panel_layout(j->type)->two ? GROUP_TWO_ROWS : GROUP_ROWS; }      /* at most */

static struct many_groups many_groups(const struct panel_job *j)
{
    const int most = group_rows(j);
    const int64_t count = (j->m + most - 1) / most;
    return (struct many_groups){ .count = count, .least = j->m / count, .more = j->m % count };
}
static int64_t many_first(const struct many_groups *groups, int64_t g) { return g * groups->least + (g < groups->more ? g : groups->more); }       /* row */

static void quantise_many(const struct panel_job *j, int part, int parts)
{
    const struct many_groups groups = many_groups(j);
    for (int64_t g = groups.count * part / parts; g < groups.count * (part + 1) / parts; g++) {
        const int64_t first = many_first(&groups, g), end = many_first(&groups, g + 1);
        for (int64_t row = first; row < end; row++) round_row(j, j->rows + first * (j->k / PANEL_BLOCK) + row - first, end - first, row);
    }
}

/* A group with a span's blocks; so many lines of each panel's next span are fetched with each of them. */
struct many_step { float *sums /* [rows, 32] */; bool first /* span: nothing is in them */; const struct panel_block *x; const uint8_t *ahead[2]; int lines, blocks; };

VEC_INLINE void many_group(const int two, const int minimum, const int rows, const struct many_span *s, const struct many_step *step)
{
    const struct panel_block *x = step->x;
    const uint8_t *ahead = step->ahead[0], *ahead_beside = step->ahead[1];
    const int blocks = step->blocks, lines = step->lines;
    lanes_f sum[2][GROUP_ROWS];
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) sum[v][r] = step->first ? lanes_f_set(0.0f) : _mm512_load_ps(step->sums + r * PAIR + v * PANEL_ROWS);
    for (int b = 0; b < blocks; b++, x += rows) {
        for (int line = 0; line < lines; line++, ahead += 64, ahead_beside += 64) __builtin_prefetch(ahead, 0, 2), __builtin_prefetch(ahead_beside, 0, 2);
        LANES_UNROLL
        for (int h = 0; h < 1 + two; h++) {
            lanes_i dot[2][GROUP_ROWS];
            LANES_UNROLL
            for (int r = 0; r < rows; r++) dot[0][r] = dot[1][r] = lanes_i_set(minimum ? LANES_ZERO : x[r].start[h]);
            LANES_UNROLL
            for (int g = 0; g < GROUPS / (1 + two); g++) {
                const int at = g + h * (GROUPS / 2);
                const lanes_b w = lanes_b_load(s->panel[0][b].u + 64 * at), beside = lanes_b_load(s->panel[1][b].u + 64 * at);
                LANES_UNROLL
                for (int r = 0; r < rows; r++) {
                    dot[0][r] = lanes_i_dot(dot[0][r], w, x[r].numbers + 4 * at);
                    dot[1][r] = lanes_i_dot(dot[1][r], beside, x[r].numbers + 4 * at);
                }
            }
            LANES_UNROLL
            for (int v = 0; v < 2; v++) {
                const lanes_f a = _mm512_load_ps(s->panel[v][b].a + PANEL_ROWS * h);
                LANES_UNROLL
                for (int r = 0; r < rows; r++) sum[v][r] = lanes_f_fma(lanes_f_scaled(dot[v][r], x[r].scale, x[r].less), a, sum[v][r]);
            }
            LANES_UNROLL
            for (int v = 0; minimum && v < 2; v++) {
                const lanes_f down = _mm512_load_ps(s->panel[v][b].minimum + PANEL_ROWS * h);
                LANES_UNROLL
                for (int r = 0; r < rows; r++) sum[v][r] = lanes_f_fnma(down, lanes_f_set(x[r].moment[h]), sum[v][r]);
            }
        }
    }
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) _mm512_store_ps(step->sums + r * PAIR + v * PANEL_ROWS, sum[v][r]);
}

/* A function for each number of rows and kind of scales, so that sums are registers. */
typedef void many_kernel(const struct many_span *s, const struct many_step *step);
#define MANY(two_, minimum_, rows_)                                                                                                            \
    static __attribute__((noinline)) void many_##two_##minimum_##_##rows_(const struct many_span *s, const struct many_step *step)            \
    {                                                                                                                                          \
        many_group(two_, minimum_, rows_, s, step);                                                                                            \
    }
MANY(0, 0, 3) MANY(0, 0, 4) MANY(0, 0, 5) MANY(0, 0, 6) MANY(0, 0, 7)
MANY(0, 1, 3) MANY(0, 1, 4) MANY(0, 1, 5) MANY(0, 1, 6) MANY(0, 1, 7)
MANY(1, 0, 3) MANY(1, 0, 4) MANY(1, 0, 5)
MANY(1, 1, 3) MANY(1, 1, 4) MANY(1, 1, 5)
static many_kernel *const many_kernels[2][2][GROUP_ROWS - LEAST_ROWS + 1] = { { { many_00_3, many_00_4, many_00_5, many_00_6, many_00_7 }, { many_01_3, many_01_4, many_01_5, many_01_6, many_01_7 } },
                                                                              { { many_10_3, many_10_4, many_10_5 }, { many_11_3, many_11_4, many_11_5 } } };
_Static_assert(MANY_ROWS == 5 && GROUP_ROWS == 7 && GROUP_TWO_ROWS == 5 && LEAST_ROWS == 3, "any number of rows is shared out to groups for which there is a function");

static void many_store(const struct panel_job *j, const float *sums, int64_t row, int64_t rows, int64_t panel, int64_t to)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t v = 0; v < 2 && panel + v < to; v++) tile_store(j, row + r, (panel + v) * PANEL_ROWS, _mm512_load_ps(sums + r * PAIR + v * PANEL_ROWS));
}

/* Rows of groups [first, end) with panels `panel` and the next; sums, one row of 32 after the other, are in the first-level cache, and y takes a group's while the next one is multiplied. */
static void many_pair(const struct panel_job *j, const struct many_groups *groups, float *sums, int64_t panel, int64_t to, int64_t first, int64_t end)
{
    const int64_t blocks = j->k / PANEL_BLOCK, row = many_first(groups, first);
    const struct panel_layout *p = panel_layout(j->type);
    many_kernel *const *kernels = many_kernels[p->two][p->minimum];
    struct many_span span;
    struct panel_walk walk[2];           /* registers: pairs of what has just been stored one by one would wait until all earlier stores, rows of y among them, have reached the cache */
    LANES_UNROLL
    for (int v = 0; v < 2; v++) panel_walk_begin(&walk[v], j->type, j->panels + (panel + v < to ? panel + v : panel) * j->panel_bytes, 0);
    for (int64_t b = 0; b < blocks; b += SPAN) {
        const int count = blocks - b < SPAN ? (int)(blocks - b) : SPAN;
        LANES_UNROLL
        for (int v = 0; v < 2; v++)
            for (int i = 0; i < count; i++) panel_walk_next(&walk[v], &span.panel[v][i]);
        const int64_t bytes = SPAN * walk->bytes + SPAN / 8 * walk->head_bytes, turns = 64 * count * (end - first);
        struct many_step step = { .first = b == 0, .blocks = count, .lines = (int)((bytes + turns - 1) / turns), .sums = sums, .ahead = { walk[0].at, walk[1].at } };
        for (int64_t g = first, at = row, rows; g < end; g++, at += rows) {
            rows = groups->least + (g < groups->more);
            step.x = j->rows + at * blocks + b * rows;
            kernels[rows - LEAST_ROWS](&span, &step);
            if (b + count == blocks) many_store(j, step.sums, at, rows, panel, to);
            step.sums += rows * PAIR;
            for (int v = 0; v < 2; v++) step.ahead[v] += 64 * step.lines * count;
        }
    }
}

/* As multiply of linear_body.h. */
static void multiply_many(const struct panel_job *j, int64_t from, int64_t to)
{
    float sums[ROWS_MOST * PAIR] __attribute__((aligned(64)));
    const struct many_groups groups = many_groups(j);
    const int64_t near = ROWS_NEAR / (j->k / PANEL_BLOCK * (int64_t)sizeof(struct panel_block)), rows = near < ROWS_MOST ? near : ROWS_MOST, most = rows < group_rows(j) ? 1 : rows / group_rows(j);
    const int64_t turns = (groups.count + most - 1) / most;
    for (int64_t turn = 0; turn < turns; turn++) {
        const int64_t first = groups.count * turn / turns, last = groups.count * (turn + 1) / turns, row = many_first(&groups, first), end = many_first(&groups, last);
        for (int64_t panel = from; panel < to; panel += 2) {
            const int64_t stop = panel + 2 < to ? panel + 2 : to;
            many_pair(j, &groups, sums, panel, to, first, last);
            columns_activate(j, row, end, panel, stop);
        }
    }
}

#endif
