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
    int64_t         k, n, count;
    int64_t        *begin;
    uint16_t       *places;
    float          *values;
};

static uint64_t aligned(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static int64_t count_filled(const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n)
{
    int64_t filled = 0;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++) filled += b[i * row_stride + j * column_stride] != 0;
    return filled;
}

bool sparse_wanted(const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n)
{
    if (k < 1 || n < 1 || k > PLACES_MAX || k * n < ELEMENTS_MIN) return false;
    return (double)count_filled(b, row_stride, column_stride, k, n) <= FILLED_MAX * (double)k * (double)n;
}

enum status sparse_open(struct sparse_layer **out, const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n, const struct kernels *kernels, struct err *err)
{
    struct sparse_layer *s = mem_calloc_array(1, sizeof *s);
    const uint64_t count = (uint64_t)count_filled(b, row_stride, column_stride, k, n);
    if (!s) return err_set(err, ST_NO_MEMORY, "packing a pruned weight");
    s->kernels = *kernels;
    s->k = k;
    s->n = n;
    s->begin = mem_alloc_array((uint64_t)n + 1, sizeof *s->begin);
    s->places = mem_alloc_array(count + 1, sizeof *s->places);
    s->values = mem_alloc_array(count + 1, sizeof *s->values);
    if (!s->begin || !s->places || !s->values) {
        sparse_close(s);
        return err_set(err, ST_NO_MEMORY, "packing a pruned weight");
    }
    for (int64_t j = 0; j < n; j++) {
        s->begin[j] = s->count;
        for (int64_t i = 0; i < k; i++) {
            const float x = b[i * row_stride + j * column_stride];
            if (x == 0) continue;
            s->places[s->count] = (uint16_t)i;
            s->values[s->count++] = x;
        }
    }
    s->begin[n] = s->count;
    *out = s;
    return ST_OK;
}

void sparse_close(struct sparse_layer *s)
{
    if (!s) return;
    free(s->begin);
    free(s->places);
    free(s->values);
    free(s);
}

uint64_t sparse_bytes(const struct sparse_layer *s) { return (uint64_t)s->count * 6 + (uint64_t)(s->n + 1) * 8; }

static int rows_of(int64_t m) { return m == 1 ? 1 : m <= ROWS_FEW ? ROWS_FEW : ROWS_MAX; }

/* x and y turned, of one block of rows; a column of W for rows that are not finite. */
uint64_t sparse_scratch(const struct sparse_layer *s, int64_t m)
{
    const uint64_t rows = (uint64_t)rows_of(m);
    return aligned((uint64_t)s->k * rows * 4) + aligned((uint64_t)s->n * rows * 4) + aligned((uint64_t)s->k * 4);
}

/* ---- columns shared out ---- */
struct job { const struct sparse_layer *s; float *y; const float *x; int rows; };

static void run_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const int64_t n = j->s->n;
    const struct sparse_columns columns = { j->s->begin, j->s->places, j->s->values };
    j->s->kernels.sparse_f32(j->y, j->x, j->rows, &columns, n * part / parts, n * (part + 1) / parts);
}

static void turn(float *to, const float *a, int64_t lda, int64_t m, int64_t k, int rows)
{
    enum { STEP = 16 };
    for (int64_t from = 0; from < k; from += STEP)
        for (int r = 0; r < rows; r++) {
            const float *x = a + r * lda;
            for (int64_t i = from; i < k && i < from + STEP; i++) to[i * rows + r] = r < m ? x[i] : 0;
        }
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
    memset(column, 0, (size_t)s->k * sizeof *column);
    for (int64_t j = 0; j < s->n; j++) {
        float sum = 0;
        for (int64_t i = s->begin[j]; i < s->begin[j + 1]; i++) column[s->places[i]] = s->values[i];
        for (int64_t i = 0; i < s->k; i++) sum = fmaf(x[i], column[i], sum);
        for (int64_t i = s->begin[j]; i < s->begin[j + 1]; i++) column[s->places[i]] = 0;
        y[j] = sum;
    }
}

void sparse_run(const struct sparse_layer *s, float *c, int64_t ldc, const float *a, int64_t lda, int64_t m, const struct gemm_epilogue *ep, void *scratch, int threads)
{
    const int rows = rows_of(m);
    float *x = scratch, *y = x + aligned((uint64_t)s->k * (uint64_t)rows * 4) / 4, *column = y + aligned((uint64_t)s->n * (uint64_t)rows * 4) / 4;
    const struct gemm_epilogue none = { .act = { .kind = ACT_NONE } };
    if (!ep) ep = &none;
    for (int64_t top = 0; top < m; top += rows) {
        const int64_t here = m - top < rows ? m - top : rows;
        const float *from = a + top * lda;
        float *to = c + top * ldc;
        struct job j = { s, rows == 1 ? to : y, rows == 1 ? from : x, rows };
        const int parts = s->count * rows < PARALLEL_MIN ? 1 : threads;
        if (rows > 1) turn(x, from, lda, here, s->k, rows);
        parallel_for(parts, parts, run_part, &j);
        for (int64_t i = 0; i < s->n && rows > 1; i += ROWS_FEW)
            for (int64_t r = 0; r < here; r++)
                for (int64_t k = i; k < s->n && k < i + ROWS_FEW; k++) to[r * ldc + k] = y[k * rows + r];
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
