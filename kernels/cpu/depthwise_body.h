/* Depthwise convolution of pictures in NHWC, which lie in memory as floats or as bfloat16 (body at one level, kernels/cpu/vec.h).
 *
 * One vector of channels goes along a line of the output in strips of STRIP pixels, whose sums stay in registers: each column of the input is loaded (and, if it is bfloat16,
 * widened) once for all the pixels and taps that want it. 7 divides the sizes 7, 14, 28, 56 and 112 that networks have. Kernels of 3 or 5 columns at stride 1 or 2 are written out
 * so; any other goes pixel by pixel. Taps outside the picture are skipped, those inside are taken in the order kh, kw, so all levels and both ways agree in bits. */
#ifndef KERNELS_CPU_DEPTHWISE_BODY_H
#define KERNELS_CPU_DEPTHWISE_BODY_H

#include "kernels/cpu/pictures_body.h"
#include "kernels/cpu/vec_half.h"

enum { STRIP = 7, DEPTHWISE_VECTORS = 2 /* of channels that go down a picture together: their lines stay in the first-level cache */ };

struct depthwise_job {
    void *y;
    const void *x, *residual;
    const float *weight, *bias;
    const struct window2d *w;
    struct activation_spec act;
    float low, high;
    int clamp_is_all;
};

/* Where a line of the output lies and which taps of a column reach into the picture. */
struct depthwise_line { int64_t x, y, c; int channels, from, to; };      /* x: input line of tap row 0, y: output line, in elements; vector of channels from c on */

VEC_INLINE vec depthwise_load(const void *x, int64_t at, int n, const int half)
{
    if (half) return n == LANES ? vec_load_bf16((const uint16_t *)x + at) : vec_load_bf16_n((const uint16_t *)x + at, n);
    return n == LANES ? vec_load((const float *)x + at) : vec_load_n((const float *)x + at, n);
}

VEC_INLINE void depthwise_store(const struct depthwise_job *j, int64_t at, int64_t c, vec r, int n, const int half)
{
    if (j->bias) r = r + (n == LANES ? vec_load(j->bias + c) : vec_load_n(j->bias + c, n));
    if (j->residual) r = r + depthwise_load(j->residual, at, n, half);
    r = j->clamp_is_all ? vec_clamp(r, vec_set(j->low), vec_set(j->high)) : activate_vec(r, j->act);
    if (half && n == LANES) vec_store_bf16((uint16_t *)j->y + at, r);
    else if (half) vec_store_bf16_n((uint16_t *)j->y + at, r, n);
    else if (n == LANES) vec_store((float *)j->y + at, r);
    else vec_store_n((float *)j->y + at, r, n);
}

/* Pixels [ox, ox + STRIP) of a line; kw, stride, half and inside (no column lies outside) are constants at every call; whole vectors of channels. */
VEC_INLINE void depthwise_strip(const struct depthwise_job *j, const struct depthwise_line *l, int64_t ox, const int kw, const int stride, const int half, const int inside)
{
    const struct window2d *w = j->w;
    const int64_t left = ox * stride - w->pad_left;
    vec sum[STRIP];
#pragma GCC unroll 8
    for (int p = 0; p < STRIP; p++) sum[p] = vec_set(0.0f);
    for (int ky = l->from; ky < l->to; ky++) {
        const float *weight = j->weight + (int64_t)ky * kw * w->c + l->c;
        int64_t at = l->x + ((int64_t)ky * w->dilation_h * w->w + left) * w->c + l->c;
        vec tap[5];
#pragma GCC unroll 8
        for (int kx = 0; kx < kw; kx++) tap[kx] = vec_load(weight + kx * w->c);
#pragma GCC unroll 24
        for (int i = 0; i < (STRIP - 1) * stride + kw; i++, at += w->c) {
            if (!inside && (left + i < 0 || left + i >= w->w)) continue;
            const vec v = depthwise_load(j->x, at, LANES, half);
#pragma GCC unroll 8
            for (int p = 0; p < STRIP; p++)
                if (i - p * stride >= 0 && i - p * stride < kw) sum[p] = vec_fma(v, tap[i - p * stride], sum[p]);
        }
    }
#pragma GCC unroll 8
    for (int p = 0; p < STRIP; p++) depthwise_store(j, l->y + (ox + p) * w->c + l->c, l->c, sum[p], LANES, half);
}

VEC_INLINE void depthwise_pixel(const struct depthwise_job *j, const struct depthwise_line *l, int64_t ox, const int half)
{
    const struct window2d *w = j->w;
    const int64_t left = ox * w->stride_w - w->pad_left;
    int from, to;
    vec sum = vec_set(0.0f);
    taps_inside(left, w->kw, w->dilation_w, w->w, &from, &to);
    for (int ky = l->from; ky < l->to; ky++)
        for (int kx = from; kx < to; kx++) {
            const float *weight = j->weight + ((int64_t)ky * w->kw + kx) * w->c + l->c;
            const int64_t at = l->x + ((int64_t)ky * w->dilation_h * w->w + left + (int64_t)kx * w->dilation_w) * w->c + l->c;
            sum = vec_fma(depthwise_load(j->x, at, l->channels, half), l->channels == LANES ? vec_load(weight) : vec_load_n(weight, l->channels), sum);
        }
    depthwise_store(j, l->y + ox * w->c + l->c, l->c, sum, l->channels, half);
}

/* kw 0: none of those that are written out */
VEC_INLINE void depthwise_along(const struct depthwise_job *j, const struct depthwise_line *l, const int kw, const int stride, const int half)
{
    const struct window2d *w = j->w;
    int64_t ox = 0;
    for (; kw && ox + STRIP <= w->out_w; ox += STRIP) {
        const int64_t left = ox * stride - w->pad_left;
        if (left >= 0 && left + (STRIP - 1) * stride + kw <= w->w) depthwise_strip(j, l, ox, kw, stride, half, 1);
        else depthwise_strip(j, l, ox, kw, stride, half, 0);
    }
    for (; ox < w->out_w; ox++) depthwise_pixel(j, l, ox, half);
}

VEC_INLINE void depthwise_share(const struct depthwise_job *j, int part, int parts, const int half)
{
    const struct window2d *w = j->w;
    const int64_t vectors = (w->c + LANES - 1) / LANES, groups = (vectors + DEPTHWISE_VECTORS - 1) / DEPTHWISE_VECTORS, units = w->n * groups * w->out_h;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        const int64_t n = u / w->out_h / groups, row = n * w->out_h + u % w->out_h, top = u % w->out_h * w->stride_h - w->pad_top, first = u / w->out_h % groups * DEPTHWISE_VECTORS;
        struct depthwise_line l = { .x = (n * w->h + top) * w->w * w->c, .y = row * w->out_w * w->c };
        taps_inside(top, w->kh, w->dilation_h, w->h, &l.from, &l.to);
        for (int64_t v = first; v < vectors && v < first + DEPTHWISE_VECTORS; v++) {
            l.c = v * LANES;
            l.channels = w->c - l.c < LANES ? (int)(w->c - l.c) : LANES;
            const int known = l.channels == LANES && w->dilation_w == 1 && w->stride_w <= 2 ? w->kw : 0;
            if (known == 3 && w->stride_w == 1) depthwise_along(j, &l, 3, 1, half);
            else if (known == 3) depthwise_along(j, &l, 3, 2, half);
            else if (known == 5 && w->stride_w == 1) depthwise_along(j, &l, 5, 1, half);
            else if (known == 5) depthwise_along(j, &l, 5, 2, half);
            else depthwise_along(j, &l, 0, 1, half);
        }
    }
}

static void depthwise_part_f32(void *ctx, int part, int parts) { depthwise_share(ctx, part, parts, 0); }
static void depthwise_part_bf16(void *ctx, int part, int parts) { depthwise_share(ctx, part, parts, 1); }

static void depthwise_run(struct depthwise_job j, void (*body)(void *ctx, int part, int parts), int threads)
{
    j.clamp_is_all = activation_is_clamp(j.act, &j.low, &j.high);
    const int parts = picture_parts(j.w, threads);
    if (j.w->n > 0 && j.w->out_h > 0) parallel_for(parts, parts, body, &j);
}

static void depthwise2d_f32(float *y, const float *x, const float *weight, const float *bias, const float *residual, const struct window2d *w, struct activation_spec act, int threads)
{
    depthwise_run((struct depthwise_job){ .y = y, .x = x, .weight = weight, .bias = bias, .residual = residual, .w = w, .act = act }, depthwise_part_f32, threads);
}

static void depthwise2d_bf16(void *y, const void *x, const float *weight, const float *bias, const void *residual, const struct window2d *w, struct activation_spec act, int threads)
{
    depthwise_run((struct depthwise_job){ .y = y, .x = x, .weight = weight, .bias = bias, .residual = residual, .w = w, .act = act }, depthwise_part_bf16, threads);
}

static void depthwise_fill(struct kernels *k)
{
    k->depthwise2d_f32 = depthwise2d_f32;
    k->depthwise2d_bf16 = depthwise2d_bf16;
}

#endif
