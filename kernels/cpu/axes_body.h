/* What works along one axis of a tensor seen as [outer, n, inner], or over a window of several: reductions, growing and shrinking by taps, pooling of any rank (contracts in
 * kernels/kernels.h). Where inner is long the loops run side by side over it; the flags of the level's folder make vectors of them. Sums have one order: of the axis. */
#ifndef KERNELS_CPU_AXES_BODY_H
#define KERNELS_CPU_AXES_BODY_H

#include "kernels/cpu/vec_math.h"

enum { AXES_RUN = 256, AXES_STRIPES = 16 };
static const int64_t AXES_PARALLEL_MIN = 32768;         /* elements read */

/* ---- reductions: double sums ---- */
struct reduce_job { float *y; const float *x; int64_t outer, n, inner; enum reduce_kind kind; };

VEC_INLINE double reduce_last(double r, int64_t n, enum reduce_kind kind) { return kind == REDUCE_MEAN ? r / (double)n : kind == REDUCE_L2 ? sqrt(r) : r; }

/* One row whose elements lie one behind the other: 16 stripes, then their sum. */
static float reduce_row(const float *x, int64_t n, enum reduce_kind kind)
{
    if (kind == REDUCE_MAX || kind == REDUCE_MIN) {
        float top[AXES_STRIPES], most;
        int bad = 0;
        for (int s = 0; s < AXES_STRIPES; s++) top[s] = x[0];
        int64_t i = 0;
        for (; i + AXES_STRIPES <= n; i += AXES_STRIPES)
            for (int s = 0; s < AXES_STRIPES; s++) {
                const float v = x[i + s];
                bad |= v != v;
                top[s] = (kind == REDUCE_MAX ? v > top[s] : v < top[s]) ? v : top[s];
            }
        for (; i < n; i++) {
            bad |= x[i] != x[i];
            top[0] = (kind == REDUCE_MAX ? x[i] > top[0] : x[i] < top[0]) ? x[i] : top[0];
        }
        most = top[0];
        for (int s = 1; s < AXES_STRIPES; s++) most = (kind == REDUCE_MAX ? top[s] > most : top[s] < most) ? top[s] : most;
        return bad ? __builtin_nanf("") : most;
    }
    double sum[AXES_STRIPES] = { 0 };
    int64_t i = 0;
    for (; i + AXES_STRIPES <= n; i += AXES_STRIPES)
        for (int s = 0; s < AXES_STRIPES; s++) {
            const double v = (double)x[i + s];
            sum[s] += kind == REDUCE_L1 ? fabs(v) : kind == REDUCE_L2 || kind == REDUCE_SQUARES ? v * v : v;
        }
    for (int s = 0; i < n; i++, s++) {
        const double v = (double)x[i];
        sum[s] += kind == REDUCE_L1 ? fabs(v) : kind == REDUCE_L2 || kind == REDUCE_SQUARES ? v * v : v;
    }
    for (int s = 1; s < AXES_STRIPES; s++) sum[0] += sum[s];
    return (float)reduce_last(sum[0], n, kind);
}

/* Up to AXES_RUN columns of one [n, inner]. */
static void reduce_columns(float *y, const float *x, int64_t n, int64_t inner, int columns, enum reduce_kind kind)
{
    if (kind == REDUCE_MAX || kind == REDUCE_MIN) {
        memcpy(y, x, (size_t)columns * sizeof *y);
        for (int64_t i = 1; i < n; i++)
            for (int c = 0; c < columns; c++) {
                const float v = x[i * inner + c], r = y[c];
                y[c] = r != r ? r : v != v || (kind == REDUCE_MAX ? v > r : v < r) ? v : r;
            }
        return;
    }
    double sum[AXES_RUN] = { 0 };
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * inner;
        if (kind == REDUCE_L1)
            for (int c = 0; c < columns; c++) sum[c] += fabs((double)row[c]);
        else if (kind == REDUCE_L2 || kind == REDUCE_SQUARES)
            for (int c = 0; c < columns; c++) sum[c] += (double)row[c] * (double)row[c];
        else
            for (int c = 0; c < columns; c++) sum[c] += (double)row[c];
    }
    for (int c = 0; c < columns; c++) y[c] = (float)reduce_last(sum[c], n, kind);
}

static void reduce_part(void *ctx, int part, int parts)
{
    const struct reduce_job *j = ctx;
    const int64_t bands = (j->inner + AXES_RUN - 1) / AXES_RUN, units = j->outer * bands;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        const int64_t o = u / bands, c = u % bands * AXES_RUN;
        if (j->inner == 1) j->y[o] = reduce_row(j->x + o * j->n, j->n, j->kind);
        else reduce_columns(j->y + o * j->inner + c, j->x + o * j->n * j->inner + c, j->n, j->inner, (int)(j->inner - c < AXES_RUN ? j->inner - c : AXES_RUN), j->kind);
    }
}

static void reduce_f32(float *y, const float *x, int64_t outer, int64_t n, int64_t inner, enum reduce_kind kind, int threads)
{
    struct reduce_job j = { y, x, outer, n, inner, kind };
    const int parts = outer * n * inner < AXES_PARALLEL_MIN ? 1 : threads;
    if (n > 0) parallel_for(parts, parts, reduce_part, &j);
}

/* ---- taps ---- */
struct taps_job { float *y; const float *x; int64_t outer, in, out, inner; const struct axis_tap *taps; int each; };

static void taps_part(void *ctx, int part, int parts)
{
    const struct taps_job *j = ctx;
    const int64_t units = j->inner == 1 ? j->outer : j->outer * j->out;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        if (j->inner == 1) {
            const float *x = j->x + u * j->in;
            float *y = j->y + u * j->out;
            const struct axis_tap *t = j->taps;
            for (int64_t i = 0; i < j->out; i++, t += j->each) {
                float sum = t[0].weight * x[t[0].index];
                for (int k = 1; k < j->each; k++) sum = fmaf(t[k].weight, x[t[k].index], sum);
                y[i] = sum;
            }
            continue;
        }
        const struct axis_tap *t = j->taps + u % j->out * j->each;
        const float *x = j->x + u / j->out * j->in * j->inner;
        float *y = j->y + u * j->inner;
        const float *first = x + t[0].index * j->inner;
        if (j->each == 1) {
            memcpy(y, first, (size_t)j->inner * sizeof *y);
            continue;
        }
        for (int64_t c = 0; c < j->inner; c += LANES) {
            const int n = j->inner - c < LANES ? (int)(j->inner - c) : LANES;
            vec sum = vec_set(t[0].weight) * vec_load_n(first + c, n);
            for (int k = 1; k < j->each; k++) sum = vec_fma(vec_set(t[k].weight), vec_load_n(x + t[k].index * j->inner + c, n), sum);
            vec_store_n(y + c, sum, n);
        }
    }
}

static void taps_f32(float *y, const float *x, int64_t outer, int64_t in, int64_t out, int64_t inner, const struct axis_tap *taps, int each, int threads)
{
    struct taps_job j = { y, x, outer, in, out, inner, taps, each };
    const int parts = outer * out * inner < AXES_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, taps_part, &j);
}

/* ---- pooling of any rank ---- */
struct pool_job { float *y; const float *x; const struct pool_any *w; enum pool_kind kind; };

static void pool_position(const struct pool_job *j, float *y, const float *x, const int64_t *at)
{
    const struct pool_any *w = j->w;
    int64_t k[POOL_DIMS_MAX] = { 0 }, seen = 0, counted = 0, cells = 1;
    const int largest = j->kind == POOL_MAX;
    for (int d = 0; d < w->dims; d++) cells *= w->kernel[d];
    for (int64_t cell = 0; cell < cells; cell++) {
        int64_t from = 0;
        int inside = 1, padded = 1;
        for (int d = 0; d < w->dims; d++) {
            const int64_t i = at[d] * w->stride[d] - w->low[d] + k[d] * w->dilation[d];
            inside &= i >= 0 && i < w->in[d];
            padded &= i < w->in[d] + w->high[d];
            from = from * w->in[d] + i;
        }
        counted += padded;
        if (inside) {
            const float *p = x + from * w->inner;
            if (!seen++) memcpy(y, p, (size_t)w->inner * sizeof *y);
            else if (largest)
                for (int64_t c = 0; c < w->inner; c++) y[c] = p[c] > y[c] || p[c] != p[c] ? p[c] : y[c];
            else
                for (int64_t c = 0; c < w->inner; c++) y[c] += p[c];
        }
        for (int d = w->dims - 1; d >= 0 && ++k[d] == w->kernel[d]; d--) k[d] = 0;
    }
    if (!seen)
        for (int64_t c = 0; c < w->inner; c++) y[c] = largest ? -__builtin_inff() : 0;
    if (largest || !seen) return;
    const float n = (float)(j->kind == POOL_AVERAGE_PADDED ? counted : seen);
    for (int64_t c = 0; c < w->inner; c++) y[c] /= n;
}

static void pool_any_part(void *ctx, int part, int parts)
{
    const struct pool_job *j = ctx;
    const struct pool_any *w = j->w;
    int64_t in = w->inner, out = 1;
    for (int d = 0; d < w->dims; d++) in *= w->in[d], out *= w->out[d];
    const int64_t units = w->outer * out;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        int64_t at[POOL_DIMS_MAX], left = u % out;
        for (int d = w->dims - 1; d >= 0; d--) at[d] = left % w->out[d], left /= w->out[d];
        pool_position(j, j->y + u * w->inner, j->x + u / out * in, at);
    }
}

static void pool_any_f32(float *y, const float *x, const struct pool_any *w, enum pool_kind kind, int threads)
{
    struct pool_job j = { y, x, w, kind };
    int64_t work = w->outer * w->inner;
    for (int d = 0; d < w->dims; d++) work *= w->out[d] * w->kernel[d];
    const int parts = work < AXES_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, pool_any_part, &j);
}

static void axes_fill(struct kernels *k)
{
    k->reduce_f32 = reduce_f32;
    k->taps_f32 = taps_f32;
    k->pool_any_f32 = pool_any_f32;
}

#endif
