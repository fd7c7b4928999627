/* Row by row: softmax, layer norm, and the mean over rows (bodies at one level, kernels/cpu/vec.h). A row belongs to one thread whole, so its
 * sums are added in one order whatever rows are beside it. */
#ifndef KERNELS_CPU_ROWS_BODY_H
#define KERNELS_CPU_ROWS_BODY_H

#include "kernels/cpu/vec_math.h"

static const int64_t ROWS_PARALLEL_MIN = 8192;          /* elements */

/* The first n lanes from p, the others `fill`. */
VEC_INLINE vec rows_load_fill(const float *p, int n, float fill)
{
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = i < n ? p[i] : fill;
    return vec_load(lanes);
}

static void softmax_row(float *y, const float *x, int64_t columns)
{
    const float lowest = -__builtin_inff();
    const int64_t whole = columns / LANES * LANES;
    const int left = (int)(columns - whole);
    vec top = vec_set(lowest);
    for (int64_t c = 0; c < whole; c += LANES) top = vec_max(top, vec_load(x + c));
    if (left) top = vec_max(top, rows_load_fill(x + whole, left, lowest));
    vec most = vec_set(vec_top(top)), sum = vec_set(0.0f);
    for (int64_t c = 0; c < whole; c += LANES) {
        vec e = vec_exp(vec_load(x + c) - most);
        vec_store(y + c, e);
        sum = sum + e;
    }
    if (left) {
        vec e = vec_exp(rows_load_fill(x + whole, left, lowest) - most);
        vec_store_n(y + whole, e, left);
        sum = sum + e;
    }
    vec total = vec_set(vec_sum(sum));
    for (int64_t c = 0; c < whole; c += LANES) vec_store(y + c, vec_load(y + c) / total);
    if (left) vec_store_n(y + whole, vec_load_n(y + whole, left) / total, left);
}

struct rows_job {
    float *y;
    const float *x, *scale, *bias;
    int64_t n, rows, columns;
    float epsilon;
};

static void softmax_part(void *ctx, int part, int parts)
{
    const struct rows_job *j = ctx;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++)
        softmax_row(j->y + r * j->columns, j->x + r * j->columns, j->columns);
}

static void softmax_f32(float *y, const float *x, int64_t rows, int64_t columns, int threads)
{
    struct rows_job j = { .y = y, .x = x, .rows = rows, .columns = columns };
    int parts = rows * columns < ROWS_PARALLEL_MIN ? 1 : threads;
    if (columns > 0) parallel_for(parts, parts, softmax_part, &j);
}

static void layer_norm_row(const struct rows_job *j, float *y, const float *x)
{
    const int64_t whole = j->columns / LANES * LANES;
    const int left = (int)(j->columns - whole);
    vec sum = vec_set(0.0f), square = sum;
    for (int64_t c = 0; c < whole; c += LANES) sum = sum + vec_load(x + c);
    if (left) sum = sum + vec_load_n(x + whole, left);
    const float mean = vec_sum(sum) / (float)j->columns;
    for (int64_t c = 0; c < whole; c += LANES) {
        vec d = vec_load(x + c) - vec_set(mean);
        square = vec_fma(d, d, square);
    }
    if (left) {
        vec d = rows_load_fill(x + whole, left, mean) - vec_set(mean);
        square = vec_fma(d, d, square);
    }
    const vec rate = vec_set(1.0f / sqrtf(vec_sum(square) / (float)j->columns + j->epsilon));
    for (int64_t c = 0; c < j->columns; c += LANES) {
        int n = j->columns - c < LANES ? (int)(j->columns - c) : LANES;
        vec v = (vec_load_n(x + c, n) - vec_set(mean)) * rate;
        if (j->scale) v = v * vec_load_n(j->scale + c, n);
        if (j->bias) v = v + vec_load_n(j->bias + c, n);
        vec_store_n(y + c, v, n);
    }
}

static void layer_norm_part(void *ctx, int part, int parts)
{
    const struct rows_job *j = ctx;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++) layer_norm_row(j, j->y + r * j->columns, j->x + r * j->columns);
}

static void layer_norm_f32(float *y, const float *x, const float *scale, const float *bias, int64_t rows, int64_t columns, float epsilon, int threads)
{
    struct rows_job j = { .y = y, .x = x, .scale = scale, .bias = bias, .rows = rows, .columns = columns, .epsilon = epsilon };
    int parts = rows * columns < ROWS_PARALLEL_MIN ? 1 : threads;
    if (columns > 0) parallel_for(parts, parts, layer_norm_part, &j);
}

enum { MEAN_CHAINS = 8 };

/* Planes of one column: each sum waits for its last addition, so that several go side by side, each in its own order. */
static inline void mean_chains(const struct rows_job *j, int64_t u, const int chains)
{
    const float *x = j->x + u * j->rows;
    float sum[MEAN_CHAINS] = { 0 };
    for (int64_t r = 0; r < j->rows; r++)
        for (int p = 0; p < chains; p++) sum[p] = sum[p] + x[p * j->rows + r];
    for (int p = 0; p < chains; p++) j->y[u + p] = sum[p] / (float)j->rows;
}

static void mean_planes(const struct rows_job *j, int64_t u, int64_t end)
{
    for (; end - u >= MEAN_CHAINS; u += MEAN_CHAINS) mean_chains(j, u, MEAN_CHAINS);
    switch (end - u) {
    case 7: mean_chains(j, u, 7); break;
    case 6: mean_chains(j, u, 6); break;
    case 5: mean_chains(j, u, 5); break;
    case 4: mean_chains(j, u, 4); break;
    case 3: mean_chains(j, u, 3); break;
    case 2: mean_chains(j, u, 2); break;
    case 1: mean_chains(j, u, 1); break;
    default: break;
    }
}

/* Columns are the unit of work here: one vector of columns goes down all rows, first row first. */
static void mean_part(void *ctx, int part, int parts)
{
    const struct rows_job *j = ctx;
    const int64_t bands = (j->columns + LANES - 1) / LANES, units = j->n * bands;
    const vec count = vec_set((float)j->rows);
    if (j->columns == 1) {
        mean_planes(j, units * part / parts, units * (part + 1) / parts);
        return;
    }
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        int64_t c = u % bands * LANES;
        int n = j->columns - c < LANES ? (int)(j->columns - c) : LANES;
        const float *x = j->x + u / bands * j->rows * j->columns + c;
        vec sum = vec_set(0.0f);
        if (n == LANES)
            for (int64_t r = 0; r < j->rows; r++, x += j->columns) sum = sum + vec_load(x);
        else
            for (int64_t r = 0; r < j->rows; r++, x += j->columns) sum = sum + vec_load_n(x, n);
        vec_store_n(j->y + u / bands * j->columns + c, sum / count, n);
    }
}

static void mean_rows_f32(float *y, const float *x, int64_t n, int64_t rows, int64_t columns, int threads)
{
    struct rows_job j = { .y = y, .x = x, .n = n, .rows = rows, .columns = columns };
    int parts = n * rows * columns < 4 * ROWS_PARALLEL_MIN ? 1 : threads;
    if (n > 0 && columns > 0) parallel_for(parts, parts, mean_part, &j);
}

static void rows_fill(struct kernels *k)
{
    k->softmax_f32 = softmax_f32;
    k->layer_norm_f32 = layer_norm_f32;
    k->mean_rows_f32 = mean_rows_f32;
}

#endif
