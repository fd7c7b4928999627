/* Winograd's F(4x4, 3x3), the two transforms beside the products (body at one level, kernels/cpu/vec.h; A. Lavin and S. Gray, "Fast Algorithms for
 * Convolutional Neural Networks"). A tile is 4 x 4 outputs from 6 x 6 inputs; channels lie across the
 * vector, so an element's result depends on its own tile and channel alone and all levels agree in bits. */
#ifndef KERNELS_CPU_WINOGRAD_BODY_H
#define KERNELS_CPU_WINOGRAD_BODY_H

#include "kernels/cpu/vec_math.h"

/* Points 0, +-5/8, +-3/2 and infinity: exact in binary, and the sums lose little more than the definition's do (0, +-1, +-2 lose four times as much). */
#define WINOGRAD_A  0.625f
#define WINOGRAD_B  1.5f
#define WINOGRAD_A2 (WINOGRAD_A * WINOGRAD_A)
#define WINOGRAD_B2 (WINOGRAD_B * WINOGRAD_B)

/* One column (or row) of the input transform: t = B^T d. */
VEC_INLINE void winograd_in6(vec t[6], const vec d[6])
{
    const vec minus_a2 = vec_set(-WINOGRAD_A2), minus_b2 = vec_set(-WINOGRAD_B2), both = vec_set(WINOGRAD_A2 * WINOGRAD_B2), minus_sum = vec_set(-(WINOGRAD_A2 + WINOGRAD_B2));
    const vec even_a = vec_fma(minus_b2, d[2], d[4]), odd_a = vec_set(WINOGRAD_A) * vec_fma(minus_b2, d[1], d[3]);
    const vec even_b = vec_fma(minus_a2, d[2], d[4]), odd_b = vec_set(WINOGRAD_B) * vec_fma(minus_a2, d[1], d[3]);
    t[0] = vec_fma(minus_sum, d[2], vec_fma(both, d[0], d[4]));
    t[1] = even_a + odd_a;
    t[2] = even_a - odd_a;
    t[3] = even_b + odd_b;
    t[4] = even_b - odd_b;
    t[5] = vec_fma(minus_sum, d[3], vec_fma(both, d[1], d[5]));
}

/* One column (or row) of the output transform: y = A^T m. */
VEC_INLINE void winograd_out4(vec y[4], const vec m[6])
{
    const vec sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = vec_fma(vec_set(WINOGRAD_A), difference_a, vec_set(WINOGRAD_B) * difference_b);
    y[2] = vec_fma(vec_set(WINOGRAD_A2), sum_a, vec_set(WINOGRAD_B2) * sum_b);
    y[3] = vec_fma(vec_set(WINOGRAD_A2 * WINOGRAD_A), difference_a, vec_fma(vec_set(WINOGRAD_B2 * WINOGRAD_B), difference_b, m[5]));
}

/* Where a tile's inputs begin, and which of its 6 rows and columns lie inside the picture. */
struct winograd_place { const float *x; int top, bottom, left, right; };

static void winograd_tile_in(float *v, int64_t plane, const struct window2d *w, const struct winograd_place *p)
{
    const int inside = p->top == 0 && p->left == 0 && p->bottom == 6 && p->right == 6;
    for (int64_t c = 0; c < w->c; c += LANES) {
        const int n = w->c - c < LANES ? (int)(w->c - c) : LANES;
        vec half[6][6];                                      /* [column][row]: columns transformed */
        for (int j = 0; j < 6; j++) {
            vec d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) {
                const float *at = p->x + (i * w->w + j) * w->c + c;
                if (inside) d[i] = n == LANES ? vec_load(at) : vec_load_n(at, n);
                else d[i] = i >= p->top && i < p->bottom && j >= p->left && j < p->right ? vec_load_n(at, n) : vec_set(0.0f);
            }
            winograd_in6(half[j], d);
        }
        for (int i = 0; i < 6; i++) {
            vec d[6], t[6];
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) d[j] = half[j][i];
            winograd_in6(t, d);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) {
                float *to = v + (i * 6 + j) * plane + c;
                if (n == LANES) vec_store(to, t[j]);
                else vec_store_n(to, t[j], n);
            }
        }
    }
}

static void winograd_input_f32(float *v, int64_t plane, const float *x, const struct window2d *w, int64_t first, int64_t count)
{
    const int64_t across = (w->out_w + 3) / 4, down = (w->out_h + 3) / 4;
    for (int64_t t = first; t < first + count; t++) {
        const int64_t n = t / (across * down), y = t / across % down * 4 - w->pad_top, left = t % across * 4 - w->pad_left;
        struct winograd_place p = { .x = x + ((n * w->h + y) * w->w + left) * w->c };
        p.top = y < 0 ? (int)-y : 0, p.bottom = w->h - y < 6 ? (int)(w->h - y) : 6;
        p.left = left < 0 ? (int)-left : 0, p.right = w->w - left < 6 ? (int)(w->w - left) : 6;
        winograd_tile_in(v + (t - first) * w->c, plane, w, &p);
    }
}

struct winograd_end { const float *bias, *residual; float low, high; };

/* rows and columns: how many of the tile's outputs the picture has */
static void winograd_tile_out(float *y, int64_t out_w, int64_t channels, const float *m, int64_t plane, int rows, int columns, const struct winograd_end *e)
{
    const vec low = vec_set(e->low), high = vec_set(e->high);
    for (int64_t c = 0; c < channels; c += LANES) {
        const int n = channels - c < LANES ? (int)(channels - c) : LANES;
        const vec bias = e->bias ? vec_load_n(e->bias + c, n) : vec_set(0.0f);
        vec half[6][4];                                      /* [column][row] */
        for (int j = 0; j < 6; j++) {
            vec d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) {
                const float *at = m + (i * 6 + j) * plane + c;
                d[i] = n == LANES ? vec_load(at) : vec_load_n(at, n);
            }
            winograd_out4(half[j], d);
        }
        for (int i = 0; i < rows; i++) {
            vec d[6], r[4];
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) d[j] = half[j][i];
            winograd_out4(r, d);
            for (int j = 0; j < columns; j++) {
                const int64_t at = (i * out_w + j) * channels + c;
                vec o = r[j] + bias;
                if (e->residual) o = o + vec_load_n(e->residual + at, n);
                vec_store_n(y + at, vec_clamp(o, low, high), n);
            }
        }
    }
}

static void winograd_output_f32(float *y, int64_t channels, const float *m, int64_t plane, const struct window2d *w, int64_t first, int64_t count, const struct gemm_epilogue *ep)
{
    const int64_t across = (w->out_w + 3) / 4, down = (w->out_h + 3) / 4;
    struct winograd_end e = { .bias = ep->bias };
    const int clamp_is_all = activation_is_clamp(ep->act, &e.low, &e.high);
    for (int64_t t = first; t < first + count; t++) {
        const int64_t n = t / (across * down), top = t / across % down * 4, left = t % across * 4, at = ((n * w->out_h + top) * w->out_w + left) * channels;
        const int rows = w->out_h - top < 4 ? (int)(w->out_h - top) : 4, columns = w->out_w - left < 4 ? (int)(w->out_w - left) : 4;
        e.residual = ep->residual ? ep->residual + at : NULL;
        winograd_tile_out(y + at, w->out_w, channels, m + (t - first) * channels, plane, rows, columns, &e);
        for (int i = 0; !clamp_is_all && i < rows; i++) {
            float *row = y + at + i * w->out_w * channels;
            activate_span(row, row, columns * channels, ep->act);
        }
    }
}

static void winograd_fill(struct kernels *k)
{
    k->winograd_input_f32 = winograd_input_f32;
    k->winograd_output_f32 = winograd_output_f32;
}

#endif
