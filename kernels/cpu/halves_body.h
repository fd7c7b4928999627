/* What is done to numbers that lie in memory as bfloat16 between layers on tiles (body at one level, kernels/cpu/vec.h): turned to and from float, pooled, averaged,
 * scaled. Arithmetic is float, in one order whatever the level and the threads; only a result is rounded. */
#ifndef KERNELS_CPU_HALVES_BODY_H
#define KERNELS_CPU_HALVES_BODY_H

#include "kernels/cpu/pictures_body.h"
#include "kernels/cpu/vec_half.h"

static const int64_t HALVES_PARALLEL_MIN = 30000;

struct halves_job {
    uint16_t *half_y;
    const uint16_t *half_x;
    float *y;
    const float *x;                      /* floats, or scales */
    int64_t n, rows, columns;
};

static int halves_parts(int64_t numbers, int threads) { return numbers < HALVES_PARALLEL_MIN || threads < 1 ? 1 : threads; }

/* Numbers [*from, *to) of a part, in whole vectors but at the end. */
static void halves_share(int64_t n, int part, int parts, int64_t *from, int64_t *to)
{
    const int64_t vectors = (n + LANES - 1) / LANES;
    *from = vectors * part / parts * LANES;
    *to = vectors * (part + 1) / parts * LANES;
    if (*to > n) *to = n;
}

static void halves_round_part(void *ctx, int part, int parts)
{
    const struct halves_job *j = ctx;
    int64_t i, to;
    halves_share(j->n, part, parts, &i, &to);
    for (; i + LANES <= to; i += LANES) vec_store_bf16(j->half_y + i, vec_load(j->x + i));
    if (i < to) vec_store_bf16_n(j->half_y + i, vec_load_n(j->x + i, (int)(to - i)), (int)(to - i));
}

static void round_bf16(void *y, const float *x, int64_t n, int threads)
{
    struct halves_job j = { .half_y = y, .x = x, .n = n };
    const int parts = halves_parts(n, threads);
    parallel_for(parts, parts, halves_round_part, &j);
}

static void halves_widen_part(void *ctx, int part, int parts)
{
    const struct halves_job *j = ctx;
    int64_t i, to;
    halves_share(j->n, part, parts, &i, &to);
    for (; i + LANES <= to; i += LANES) vec_store(j->y + i, vec_load_bf16(j->half_x + i));
    if (i < to) vec_store_n(j->y + i, vec_load_bf16_n(j->half_x + i, (int)(to - i)), (int)(to - i));
}

static void widen_bf16(float *y, const void *x, int64_t n, int threads)
{
    struct halves_job j = { .y = y, .half_x = x, .n = n };
    const int parts = halves_parts(n, threads);
    parallel_for(parts, parts, halves_widen_part, &j);
}

/* ---- pooling ---- */
struct halves_pool { uint16_t *y; const uint16_t *x; const struct window2d *w; enum pool_kind kind; };

/* One output pixel: taps [taps[0], taps[1]) x [taps[2], taps[3]) from x on, `count` of which an average is made. */
static void pool_pixel(const struct halves_pool *j, uint16_t *y, const uint16_t *x, const int taps[4], float count)
{
    const struct window2d *w = j->w;
    const int max = j->kind == POOL_MAX;
    for (int64_t c = 0; c < w->c; c += LANES) {
        const int channels = w->c - c < LANES ? (int)(w->c - c) : LANES;
        vec r = vec_set(max ? -__builtin_inff() : 0.0f);
        for (int ky = taps[0]; ky < taps[1]; ky++)
            for (int kx = taps[2]; kx < taps[3]; kx++) {
                const uint16_t *at = x + ((int64_t)ky * w->dilation_h * w->w + (int64_t)kx * w->dilation_w) * w->c + c;
                const vec v = channels == LANES ? vec_load_bf16(at) : vec_load_bf16_n(at, channels);
                if (max) r = vec_max(r, v);
                else r = r + v;
            }
        if (!max) r = r / vec_set(count);
        if (channels == LANES) vec_store_bf16(y + c, r);
        else vec_store_bf16_n(y + c, r, channels);
    }
}

static void halves_pool_part(void *ctx, int part, int parts)
{
    const struct halves_pool *j = ctx;
    const struct window2d *w = j->w;
    const int64_t rows = w->n * w->out_h;
    for (int64_t r = rows * part / parts, end = rows * (part + 1) / parts; r < end; r++) {
        const int64_t n = r / w->out_h, top = r % w->out_h * w->stride_h - w->pad_top;
        int taps[4], all[4];
        taps_inside(top, w->kh, w->dilation_h, w->h, &taps[0], &taps[1]);
        taps_inside(top + w->pad_top, w->kh, w->dilation_h, w->h + w->pad_top + w->pad_bottom, &all[0], &all[1]);
        for (int64_t ox = 0; ox < w->out_w; ox++) {
            const int64_t left = ox * w->stride_w - w->pad_left;
            taps_inside(left, w->kw, w->dilation_w, w->w, &taps[2], &taps[3]);
            taps_inside(left + w->pad_left, w->kw, w->dilation_w, w->w + w->pad_left + w->pad_right, &all[2], &all[3]);
            const int *counted = j->kind == POOL_AVERAGE_PADDED ? all : taps;
            pool_pixel(j, j->y + (r * w->out_w + ox) * w->c, j->x + ((n * w->h + top) * w->w + left) * w->c, taps, (float)((counted[1] - counted[0]) * (counted[3] - counted[2])));
        }
    }
}

static void pool2d_bf16(void *y, const void *x, const struct window2d *w, enum pool_kind kind, int threads)
{
    struct halves_pool j = { y, x, w, kind };
    const int parts = picture_parts(w, threads);
    if (w->n > 0 && w->out_h > 0) parallel_for(parts, parts, halves_pool_part, &j);
}

static void halves_mean_part(void *ctx, int part, int parts)
{
    const struct halves_job *j = ctx;
    const int64_t bands = (j->columns + LANES - 1) / LANES, units = j->n * bands;
    const vec count = vec_set((float)j->rows);
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        const int64_t c = u % bands * LANES;
        const int n = j->columns - c < LANES ? (int)(j->columns - c) : LANES;
        const uint16_t *x = j->half_x + u / bands * j->rows * j->columns + c;
        vec sum = vec_set(0.0f);
        for (int64_t r = 0; r < j->rows; r++, x += j->columns) sum = sum + (n == LANES ? vec_load_bf16(x) : vec_load_bf16_n(x, n));
        vec_store_n(j->y + u / bands * j->columns + c, sum / count, n);
    }
}

static void mean_rows_bf16(float *y, const void *x, int64_t n, int64_t rows, int64_t columns, int threads)
{
    struct halves_job j = { .y = y, .half_x = x, .n = n, .rows = rows, .columns = columns };
    const int parts = halves_parts(n * rows * columns, threads);
    if (n > 0 && columns > 0) parallel_for(parts, parts, halves_mean_part, &j);
}

static void halves_scale_part(void *ctx, int part, int parts)
{
    const struct halves_job *j = ctx;
    const int64_t rows = j->n * j->rows, columns = j->columns;
    for (int64_t r = rows * part / parts, end = rows * (part + 1) / parts; r < end; r++) {
        const float *scale = j->x + r / j->rows * columns;
        const uint16_t *x = j->half_x + r * columns;
        uint16_t *y = j->half_y + r * columns;
        int64_t c = 0;
        for (; c + LANES <= columns; c += LANES) vec_store_bf16(y + c, vec_load_bf16(x + c) * vec_load(scale + c));
        if (c < columns) vec_store_bf16_n(y + c, vec_load_bf16_n(x + c, (int)(columns - c)) * vec_load_n(scale + c, (int)(columns - c)), (int)(columns - c));
    }
}

static void scale_channels_bf16(void *y, const void *x, const float *scale, int64_t n, int64_t rows, int64_t columns, int threads)
{
    struct halves_job j = { .half_y = y, .half_x = x, .x = scale, .n = n, .rows = rows, .columns = columns };
    const int parts = halves_parts(n * rows * columns, threads);
    if (n > 0 && rows > 0) parallel_for(parts, parts, halves_scale_part, &j);
}

static void halves_fill(struct kernels *k)
{
    k->round_bf16 = round_bf16;
    k->widen_bf16 = widen_bf16;
    k->pool2d_bf16 = pool2d_bf16;
    k->mean_rows_bf16 = mean_rows_bf16;
    k->scale_channels_bf16 = scale_channels_bf16;
}

#endif
