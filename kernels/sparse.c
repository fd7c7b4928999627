#include "kernels/sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"

enum { PLACES_MAX = 65536, ELEMENTS_MIN = 4096, ROWS_MAX = 32, ROWS_FEW = 16, TIMES = 5, TIMED_ROWS_MAX = 64 };
static const double FILLED_MAX = 0.4;           /* more than that is never quicker */
static const int64_t PARALLEL_MIN = 150000;     /* products below which waking a team costs more than it saves */

struct sparse_layer {
    struct kernels kernels;
    int64_t         k, n, groups, steps;
    int64_t        *begin;
    int32_t        *order;
    uint16_t       *places;
    float          *values;
};

static uint64_t aligned(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

/* How many of b are not 0; with `columns` [n + 1], of each column as well, at its number plus one. In the order in which b lies. */
static int64_t count_filled(const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n, int64_t *columns)
{
    int64_t filled = 0;
    const bool by_column = row_stride < column_stride;
    for (int64_t outer = 0; outer < (by_column ? n : k); outer++)
        for (int64_t inner = 0; inner < (by_column ? k : n); inner++) {
            const int64_t i = by_column ? inner : outer, j = by_column ? outer : inner;
            const int one = b[i * row_stride + j * column_stride] != 0;
            filled += one;
            if (columns) columns[j + 1] += one;
        }
    return filled;
}

bool sparse_wanted(const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n)
{
    if (k < 1 || n < 1 || k > PLACES_MAX || k * n < ELEMENTS_MIN) return false;
    return (double)count_filled(b, row_stride, column_stride, k, n, NULL) <= FILLED_MAX * (double)k * (double)n;
}

/* Columns by length, the longest first: those of a group differ little. */
static void order_columns(int32_t *order, const int64_t *lengths, int64_t k, int64_t n, int64_t *first)
{
    memset(first, 0, (size_t)(k + 2) * sizeof *first);
    for (int64_t j = 0; j < n; j++) first[k - lengths[j] + 1]++;
    for (int64_t i = 0; i <= k; i++) first[i + 1] += first[i];
    for (int64_t j = 0; j < n; j++) order[first[k - lengths[j]]++] = (int32_t)j;
}

/* at[j]: where column j's next element goes. */
static void fill_lists(struct sparse_layer *s, const float *b, int64_t row_stride, int64_t column_stride, int64_t *at)
{
    for (int64_t p = 0; p < s->n; p++) at[s->order[p]] = s->begin[p / SPARSE_GROUP] * SPARSE_GROUP + p % SPARSE_GROUP;
    const bool by_column = row_stride < column_stride;
    for (int64_t outer = 0; outer < (by_column ? s->n : s->k); outer++)
        for (int64_t inner = 0; inner < (by_column ? s->k : s->n); inner++) {
            const int64_t i = by_column ? inner : outer, j = by_column ? outer : inner;
            const float x = b[i * row_stride + j * column_stride];
            if (x == 0) continue;
            s->places[at[j]] = (uint16_t)i;
            s->values[at[j]] = x;
            at[j] += SPARSE_GROUP;
        }
}

enum status sparse_open(struct sparse_layer **out, const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n, const struct kernels *kernels, struct err *err)
{
    struct sparse_layer *s = mem_calloc_array(1, sizeof *s);
    int64_t *at = mem_calloc_array((uint64_t)n + 1, sizeof *at), *first = mem_alloc_array((uint64_t)k + 2, sizeof *first);
    bool room = s && at && first;
    if (room) {
        *s = (struct sparse_layer){ .kernels = *kernels, .k = k, .n = n, .groups = (n + SPARSE_GROUP - 1) / SPARSE_GROUP };
        s->begin = mem_calloc_array((uint64_t)s->groups + 1, sizeof *s->begin);
        s->order = mem_alloc_array((uint64_t)s->groups * SPARSE_GROUP, sizeof *s->order);
        room = s->begin && s->order;
    }
    if (room) {
        count_filled(b, row_stride, column_stride, k, n, at);
        for (int64_t j = n; j < s->groups * SPARSE_GROUP; j++) s->order[j] = -1;
        order_columns(s->order, at + 1, k, n, first);
        for (int64_t g = 0; g < s->groups; g++) s->begin[g + 1] = s->begin[g] + at[1 + s->order[g * SPARSE_GROUP]];
        s->steps = s->begin[s->groups];
        s->places = mem_calloc_array((uint64_t)s->steps + 1, SPARSE_GROUP * sizeof *s->places);
        s->values = mem_calloc_array((uint64_t)s->steps + 1, SPARSE_GROUP * sizeof *s->values);
        room = s->places && s->values;
    }
    if (room) fill_lists(s, b, row_stride, column_stride, at);
    free(at);
    free(first);
    if (!room) {
        sparse_close(s);
        return err_set(err, ST_NO_MEMORY, "packing a pruned weight");
    }
    *out = s;
    return ST_OK;
}

void sparse_close(struct sparse_layer *s)
{
    if (!s) return;
    free(s->begin);
    free(s->order);
    free(s->places);
    free(s->values);
    free(s);
}

uint64_t sparse_bytes(const struct sparse_layer *s) { return (uint64_t)s->steps * SPARSE_GROUP * 6 + (uint64_t)s->groups * (8 + 4 * SPARSE_GROUP); }

static int rows_of(int64_t m) { return m == 1 ? 1 : m <= ROWS_FEW ? ROWS_FEW : ROWS_MAX; }

static uint64_t side_bytes(const struct sparse_layer *s, int rows) { return aligned((uint64_t)(s->k > s->n ? s->k : s->n) * (uint64_t)rows * 4); }

/* x and y turned, of one block of rows (each also holds the other before it is turned); a column of W for rows that are not finite. */
uint64_t sparse_scratch(const struct sparse_layer *s, int64_t m) { return 2 * side_bytes(s, rows_of(m)) + aligned((uint64_t)s->k * 4); }

/* ---- columns shared out ---- */
struct job { const struct sparse_layer *s; float *y; const float *x; int rows; };

static void run_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct sparse_columns columns = { j->s->begin, j->s->order, j->s->places, j->s->values };
    const int64_t all = j->s->steps;      /* as many steps each */
    int64_t from = 0, to;
    while (from < j->s->groups && j->s->begin[from] < all * part / parts) from++;
    for (to = from; to < j->s->groups && (part == parts - 1 || j->s->begin[to] < all * (part + 1) / parts);) to++;
    j->s->kernels.sparse_f32(j->y, j->x, j->rows, &columns, from, to);
}

/* x [k, rows] from `here` rows of a; those that lack are 0. `room` is as large as x. */
static void turn_in(const struct sparse_layer *s, float *x, float *room, const float *a, int64_t lda, int64_t here, int rows, int threads)
{
    if (lda != s->k || here < rows) {
        for (int64_t r = 0; r < here; r++) memcpy(room + r * s->k, a + r * lda, (size_t)s->k * sizeof *room);
        memset(room + here * s->k, 0, (size_t)((rows - here) * s->k) * sizeof *room);
        a = room;
    }
    s->kernels.transpose_2d(x, a, 1, rows, s->k, 4, threads);
}

/* `here` rows of c from y [n, rows]. */
static void turn_out(const struct sparse_layer *s, float *c, int64_t ldc, const float *y, float *room, int64_t here, int rows, int threads)
{
    const bool whole = ldc == s->n && here == rows;
    s->kernels.transpose_2d(whole ? c : room, y, 1, s->n, rows, 4, threads);
    for (int64_t r = 0; r < here && !whole; r++) memcpy(c + r * ldc, room + r * s->n, (size_t)s->n * sizeof *c);
}

/* ---- rows that are not finite ---- */
static bool is_finite_row(const float *x, int64_t k)
{
    uint32_t all = 0;
    for (int64_t i = 0; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        all |= (bits & 0x7fffffff) + 0x00800000;      /* the sign bit: an exponent of ones */
    }
    return all >> 31 == 0;
}

/* Every product of one row, those with 0 as well. */
static void run_whole(const struct sparse_layer *s, float *y, const float *x, float *column)
{
    for (int64_t p = 0; p < s->n; p++) {
        const int64_t first = s->begin[p / SPARSE_GROUP] * SPARSE_GROUP + p % SPARSE_GROUP, end = s->begin[p / SPARSE_GROUP + 1] * SPARSE_GROUP;
        float sum = 0;
        memset(column, 0, (size_t)s->k * sizeof *column);
        for (int64_t i = first; i < end && s->values[i] != 0; i += SPARSE_GROUP) column[s->places[i]] = s->values[i];
        for (int64_t i = 0; i < s->k; i++) sum = fmaf(x[i], column[i], sum);
        y[s->order[p]] = sum;
    }
}

void sparse_run(const struct sparse_layer *s, float *c, int64_t ldc, const float *a, int64_t lda, int64_t m, const struct gemm_epilogue *ep, void *scratch, int threads)
{
    const int rows = rows_of(m);
    float *x = scratch, *y = x + side_bytes(s, rows) / 4, *column = y + side_bytes(s, rows) / 4;
    const struct gemm_epilogue none = { .act = { .kind = ACT_NONE } };
    if (!ep) ep = &none;
    for (int64_t top = 0; top < m; top += rows) {
        const int64_t here = m - top < rows ? m - top : rows;
        const float *from = a + top * lda;
        float *to = c + top * ldc;
        struct job j = { s, rows == 1 ? to : y, rows == 1 ? from : x, rows };
        const int parts = s->steps * SPARSE_GROUP * rows < PARALLEL_MIN ? 1 : threads;
        if (rows > 1) turn_in(s, x, y, from, lda, here, rows, parts);
        parallel_for(parts, parts, run_part, &j);
        if (rows > 1) turn_out(s, to, ldc, y, x, here, rows, parts);
        for (int64_t r = 0; r < here; r++)
            if (!is_finite_row(from + r * lda, s->k)) run_whole(s, to + r * ldc, from + r * lda, column);
    }
    if (!ep->bias && ep->act.kind == ACT_NONE) return;
    if (ldc == s->n) s->kernels.scale_shift_f32(c, c, NULL, ep->bias, m, s->n, ep->act, threads);
    else
        for (int64_t r = 0; r < m; r++) s->kernels.scale_shift_f32(c + r * ldc, c + r * ldc, NULL, ep->bias, 1, s->n, ep->act, threads);
}

/* ---- which is quicker ---- */
struct trial { float *a, *c; void *scratch; };

static double gain_of(const struct sparse_layer *s, const void *packed, const struct trial *t, int64_t m, int threads)
{
    uint64_t best[2] = { UINT64_MAX, UINT64_MAX };
    for (int i = 0; i < TIMES; i++)
        for (int sparse = 0; sparse < 2; sparse++) {
            const uint64_t start = clock_ns();
            if (sparse) sparse_run(s, t->c, s->n, t->a, s->k, m, NULL, t->scratch, threads);
            else s->kernels.gemm_f32(t->c, s->n, t->a, s->k, packed, m, s->n, s->k, NULL, threads);
            const uint64_t ns = clock_ns() - start;
            best[sparse] = ns < best[sparse] ? ns : best[sparse];
        }
    return (double)best[0] / (double)(best[1] ? best[1] : 1);
}

bool sparse_is_quicker(const struct sparse_layer *s, const void *packed, int64_t rows, int threads)
{
    const int64_t m = rows < 1 ? 1 : rows > TIMED_ROWS_MAX ? TIMED_ROWS_MAX : rows;
    struct trial t = { mem_alloc_aligned((uint64_t)m * (uint64_t)s->k * 4, 64), mem_alloc_aligned((uint64_t)m * (uint64_t)s->n * 4, 64), mem_alloc_aligned(sparse_scratch(s, m > 1 ? ROWS_MAX : 1), 64) };
    double one = 0, many = 0;
    if (t.a && t.c && t.scratch) {
        for (int64_t i = 0; i < m * s->k; i++) t.a[i] = (float)(i % 61) * 0.03125f - 1;
        one = gain_of(s, packed, &t, 1, threads);
        many = m > 1 ? gain_of(s, packed, &t, m, threads) : one;
    }
    free(t.a);
    free(t.c);
    free(t.scratch);
    return one > 0.9 && many > 0.9 && one * many > 1.2;
}
