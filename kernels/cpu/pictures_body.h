/* Pictures in NHWC: pooling, response normalisation (bodies at one level, kernels/cpu/vec.h). Work is shared out by
 * rows of the output; within a row, one vector of channels at a time. Taps outside the picture are skipped; taps inside are taken in the
 * order kh, kw at every level, so all levels agree in bits. */
#ifndef KERNELS_CPU_PICTURES_BODY_H
#define KERNELS_CPU_PICTURES_BODY_H

#include "kernels/cpu/vec_math.h"

static const int64_t PICTURES_PARALLEL_MIN = 30000;     /* taps times channels */

struct picture_job {
    float *y;
    const float *x;
    const struct window2d *w;
    enum pool_kind pool;
};

/* The taps [from, to) of `taps` that fall inside [0, size) when the first lies at `start`. */
static void taps_inside(int64_t start, int taps, int dilation, int64_t size, int *from, int *to)
{
    int64_t skip = start < 0 ? (-start + dilation - 1) / dilation : 0;
    int64_t reach = start >= size ? 0 : (size - start + dilation - 1) / dilation;
    *to = (int)(reach > taps ? taps : reach);
    *from = (int)(skip > *to ? *to : skip);
}

static int picture_parts(const struct window2d *w, int threads)
{
    int64_t rows = w->n * w->out_h, work = rows * w->out_w * w->kh * w->kw * w->c;
    return work < PICTURES_PARALLEL_MIN || threads < 1 ? 1 : rows < threads ? (int)rows : threads;
}

static void pool_row(const struct picture_job *j, int64_t n, int64_t oy)
{
    const struct window2d *w = j->w;
    int ky0, ky1, all_y0, all_y1;
    const int64_t top = oy * w->stride_h - w->pad_top;
    taps_inside(top, w->kh, w->dilation_h, w->h, &ky0, &ky1);
    taps_inside(top + w->pad_top, w->kh, w->dilation_h, w->h + w->pad_top + w->pad_bottom, &all_y0, &all_y1);
    for (int64_t ox = 0; ox < w->out_w; ox++) {
        int kx0, kx1, all_x0, all_x1;
        const int64_t left = ox * w->stride_w - w->pad_left;
        taps_inside(left, w->kw, w->dilation_w, w->w, &kx0, &kx1);
        taps_inside(left + w->pad_left, w->kw, w->dilation_w, w->w + w->pad_left + w->pad_right, &all_x0, &all_x1);
        const int padded = j->pool == POOL_AVERAGE_PADDED;
        const vec count = vec_set((float)(padded ? (all_y1 - all_y0) * (all_x1 - all_x0) : (ky1 - ky0) * (kx1 - kx0)));
        float *y = j->y + ((n * w->out_h + oy) * w->out_w + ox) * w->c;
        for (int64_t c = 0; c < w->c; c += LANES) {
            const int channels = w->c - c < LANES ? (int)(w->c - c) : LANES;
            vec r = vec_set(j->pool == POOL_MAX ? -__builtin_inff() : 0.0f);
            for (int ky = ky0; ky < ky1; ky++) {
                const float *x = j->x + ((n * w->h + top + ky * w->dilation_h) * w->w + left + kx0 * w->dilation_w) * w->c + c;
                for (int kx = kx0; kx < kx1; kx++, x += w->dilation_w * w->c) {
                    vec v = channels == LANES ? vec_load(x) : vec_load_n(x, channels);
                    if (j->pool == POOL_MAX) r = vec_max(r, v);
                    else r = r + v;
                }
            }
            if (j->pool != POOL_MAX) r = r / count;
            vec_store_n(y + c, r, channels);
        }
    }
}

static void pool_part(void *ctx, int part, int parts)
{
    const struct picture_job *j = ctx;
    const int64_t rows = j->w->n * j->w->out_h;
    for (int64_t r = rows * part / parts, end = rows * (part + 1) / parts; r < end; r++) pool_row(j, r / j->w->out_h, r % j->w->out_h);
}

static void pool2d_f32(float *y, const float *x, const struct window2d *w, enum pool_kind kind, int threads)
{
    struct picture_job j = { .y = y, .x = x, .w = w, .pool = kind };
    int parts = picture_parts(w, threads);
    if (w->n > 0 && w->out_h > 0) parallel_for(parts, parts, pool_part, &j);
}

struct lrn_job {
    float *y;
    const float *x;
    int64_t rows, c;
    int before, after;                   /* channels of the window below and above the middle one */
    float rate, beta, bias;              /* rate = alpha / size */
};

VEC_INLINE vec lrn_apply(const struct lrn_job *j, vec x, vec squares)
{
    vec base = vec_fma(squares, vec_set(j->rate), vec_set(j->bias));
    if (j->beta == 0.75f) {
        vec root = vec_sqrt(base);
        return x / (root * vec_sqrt(root));
    }
    return x * vec_exp(vec_log(base) * vec_set(-j->beta));
}

static void lrn_part(void *ctx, int part, int parts)
{
    const struct lrn_job *j = ctx;
    for (int64_t r = j->rows * part / parts, end = j->rows * (part + 1) / parts; r < end; r++) {
        const float *x = j->x + r * j->c;
        float *y = j->y + r * j->c;
        for (int64_t c = 0; c < j->c; c += LANES) {
            const int n = j->c - c < LANES ? (int)(j->c - c) : LANES;
            vec squares = vec_set(0.0f);
            if (c >= j->before && c + LANES + j->after <= j->c) {
                for (int i = -j->before; i <= j->after; i++) {
                    vec v = vec_load(x + c + i);
                    squares = vec_fma(v, v, squares);
                }
            } else {
                /* Near an edge lane by lane: the same additions, those outside left out. */
                float lanes[LANES];
                for (int l = 0; l < LANES; l++) {
                    lanes[l] = 0;
                    for (int64_t i = c + l - j->before; i <= c + l + j->after; i++)
                        if (i >= 0 && i < j->c) lanes[l] = fmaf(x[i], x[i], lanes[l]);
                }
                squares = vec_load(lanes);
            }
            vec_store_n(y + c, lrn_apply(j, vec_load_n(x + c, n), squares), n);
        }
    }
}

static void lrn_f32(float *y, const float *x, int64_t rows, int64_t c, int size, float alpha, float beta, float bias, int threads)
{
    struct lrn_job j = { .y = y, .x = x, .rows = rows, .c = c, .before = (size - 1) / 2, .after = size - 1 - (size - 1) / 2,
                         .rate = alpha / (float)size, .beta = beta, .bias = bias };
    int parts = rows * c * size < PICTURES_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, lrn_part, &j);
}

static void pictures_fill(struct kernels *k)
{
    k->pool2d_f32 = pool2d_f32;
    k->lrn_f32 = lrn_f32;
}

#endif
