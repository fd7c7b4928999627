/* Winograd's F(2x2, 3x3) in bfloat16 (kernels/conv_winograd_bf16.h; A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks"): a tile is 2 x 2 outputs from 4 x 4 inputs, channels lie
 * across the vector. Rows of v beyond a block's tiles may hold anything: their sums go nowhere. */
#include "kernels/conv_winograd_bf16.h"

#include "kernels/cpu/avx512bf16/dots.h"
#include "kernels/cpu/bf16_pairs.h"
#include "kernels/cpu/vec_math.h"

enum { WIDTH = WINOGRAD_BF16_WIDTH, POINTS = WINOGRAD_BF16_POINTS, BLOCK = DOT_ROWS * WIDTH, DEPTH = 10 /* steps of weights at a time: what stays in the first-level cache */ };
_Static_assert((int)DOT_ROWS == (int)WINOGRAD_BF16_ROWS, "v lies in blocks of as many rows as are multiplied at once");

/* t = B^T d of a column or row */
static inline void turn_in(__m512 t[4], __m512 a, __m512 b, __m512 c, __m512 d)
{
    t[0] = _mm512_sub_ps(a, c);
    t[1] = _mm512_add_ps(b, c);
    t[2] = _mm512_sub_ps(c, b);
    t[3] = _mm512_sub_ps(b, d);
}

/* The transformed tile of 16 channels: t [row][column] */
static inline void tile_in(__m512 t[4][4], const struct conv_winograd_bf16_run *r, int64_t picture, int64_t top, int64_t left, int64_t c, __mmask16 mask)
{
    const struct window2d *w = r->w;
    __m512 half[4][4];                   /* [column][row] */
    for (int j = 0; j < 4; j++) {
        __m512 d[4];
        for (int i = 0; i < 4; i++) {
            const int64_t y = top + i, x = left + j;
            const bool inside = y >= 0 && y < w->h && x >= 0 && x < w->w;
            d[i] = inside ? either_load(r->x, ((picture * w->h + y) * w->w + x) * w->c + c, mask, r->spec->x_bf16) : _mm512_setzero_ps();
        }
        turn_in(half[j], d[0], d[1], d[2], d[3]);
    }
    for (int i = 0; i < 4; i++) turn_in(t[i], half[0][i], half[1][i], half[2][i], half[3][i]);
}

void conv_winograd_bf16_input(const struct conv_winograd_bf16_run *r, uint16_t *v, int64_t at, int64_t begin, int64_t count)
{
    const struct conv_winograd_bf16_plan *p = r->plan;
    const int64_t down = p->tiles / r->w->n / p->across, plane = p->block * p->steps * WIDTH;
    for (int64_t i = 0; i < count; i++) {
        const int64_t tile = begin + i, row = at + i, top = tile / p->across % down * 2 - r->w->pad_top, left = tile % p->across * 2 - r->w->pad_left;
        uint16_t *to = v + row / DOT_ROWS * p->steps * BLOCK + row % DOT_ROWS * WIDTH;
        for (int64_t c = 0; c < r->w->c; c += WIDTH, to += BLOCK) {
            __m512 low[4][4], high[4][4];
            tile_in(low, r, tile / (p->across * down), top, left, c, first(r->w->c - c));
            tile_in(high, r, tile / (p->across * down), top, left, c + 16, first(r->w->c - c - 16));
            for (int k = 0; k < POINTS; k++) _mm512_storeu_si512(to + k * plane, (__m512i)_mm512_cvtne2ps_pbh(high[k / 4][k % 4], low[k / 4][k % 4]));
        }
    }
}

/* y = A^T m of a column or row */
static inline void turn_out(__m512 y[2], __m512 a, __m512 b, __m512 c, __m512 d)
{
    y[0] = _mm512_add_ps(_mm512_add_ps(a, b), c);
    y[1] = _mm512_sub_ps(_mm512_sub_ps(b, c), d);
}

/* Outputs of one tile, 32 channels from `column` on; m: its row of the first point, planes `plane` floats apart */
static void put_tile(const struct conv_winograd_bf16_run *r, const float *m, int64_t plane, int64_t tile, int64_t column)
{
    const struct conv_winograd_bf16_plan *p = r->plan;
    const struct conv_spec *s = r->spec;
    const struct window2d *w = r->w;
    const int64_t down = p->tiles / w->n / p->across, top = tile / p->across % down * 2, left = tile % p->across * 2, begin = (tile / (p->across * down) * w->out_h + top) * w->out_w + left;
    _Alignas(64) float out[4][WIDTH];
    const __mmask16 masks[2] = { first(s->out_c - column), first(s->out_c - column - 16) };
    for (int v = 0; v < 2; v++) {
        __m512 half[4][2], y[2][2];      /* [column][row]; [row][column] */
        const __m512 bias = r->bias ? _mm512_maskz_loadu_ps(masks[v], r->bias + column + 16 * v) : _mm512_setzero_ps();
        for (int j = 0; j < 4; j++) {
            const float *at = m + j * plane + 16 * v;
            turn_out(half[j], _mm512_loadu_ps(at), _mm512_loadu_ps(at + 4 * plane), _mm512_loadu_ps(at + 8 * plane), _mm512_loadu_ps(at + 12 * plane));
        }
        for (int i = 0; i < 2; i++) turn_out(y[i], half[0][i], half[1][i], half[2][i], half[3][i]);
        for (int k = 0; k < 4; k++) {
            __m512 sum = _mm512_add_ps(y[k / 2][k % 2], bias);
            const int64_t at = (begin + k / 2 * w->out_w + k % 2) * s->out_c + column + 16 * v;
            if (r->residual && top + k / 2 < w->out_h && left + k % 2 < w->out_w) sum = _mm512_add_ps(sum, either_load(r->residual, at, masks[v], s->y_bf16));
            _mm512_store_ps(out[k] + 16 * v, sum);
        }
    }
    if (s->act.kind != ACT_NONE) activate_span(out[0], out[0], 4 * WIDTH, s->act);
    for (int k = 0; k < 4; k++) {
        if (top + k / 2 >= w->out_h || left + k % 2 >= w->out_w) continue;
        const int64_t at = (begin + k / 2 * w->out_w + k % 2) * s->out_c + column;
        for (int v = 0; v < 2; v++) either_store(r->y, at + 16 * v, masks[v], _mm512_load_ps(out[k] + 16 * v), s->y_bf16);
    }
}

void conv_winograd_bf16_output(const struct conv_winograd_bf16_run *r, const uint16_t *v, float *m, int64_t from, int64_t to, int64_t begin, int64_t count)
{
    const struct conv_winograd_bf16_plan *p = r->plan;
    const int64_t plane_v = p->block * p->steps * WIDTH, plane_m = p->block * WIDTH, parts = (p->steps + DEPTH - 1) / DEPTH, each = (p->steps + parts - 1) / parts;
    for (int64_t pair = from; pair < to; pair++) {
        for (int64_t k = 0; k < POINTS; k++)
            for (int64_t at = 0; at < p->steps; at += each) {
                const int64_t depth = p->steps - at < each ? p->steps - at : each;
                const uint16_t *b = r->packed + ((pair * POINTS + k) * p->steps + at) * 2 * DOT_TILE;
                for (int64_t row = 0; row < count; row += DOT_ROWS)
                    dots_add(2, m + k * plane_m + row * WIDTH, WIDTH, v + k * plane_v + (row / DOT_ROWS * p->steps + at) * BLOCK, WIDTH, BLOCK, b, DOT_TILE, 2 * DOT_TILE, depth * WIDTH, at == 0, p->steps * BLOCK);
            }
        for (int64_t i = 0; i < count; i++) put_tile(r, m + i * WIDTH, plane_m, begin + i, pair * WIDTH);
    }
}
