/* The body of convolutions on tiles (kernels/conv_tiles.h). A block of tiles meets the weights part by part, `depth` planes of 32 channels by all taps for two panels of 16 output channels,
 * so that the part is read again from a near cache by every two tiles of the block; sums wait in memory between parts. The configuration is loaded by each thread and released at its end. */
#include <string.h>

#include "kernels/conv_tiles.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/bf16_pairs.h"
#include "kernels/cpu/vec_math.h"

enum { WIDTH = 32, TILE_NUMBERS = 16 * WIDTH, STEP_NUMBERS = 2 * TILE_NUMBERS, SUMS = 16 * WIDTH };

/* `count` positions from column `left` of a line of x (which may lie outside) to a plane */
static void write_line(uint16_t *to, const struct conv_tiles_run *r, const char *line, int64_t left, int64_t count, int64_t plane)
{
    const int64_t w = r->w->w, c = r->w->c, most = c - plane * WIDTH;
    for (int64_t i = 0; i < count; i++, to += WIDTH) {
        const int64_t at = left + i;
        __m512i v = _mm512_setzero_si512();
        if (line && at >= 0 && at < w) v = either_pairs(line, at * c + plane * WIDTH, at * c + plane * WIDTH + most, r->spec->x_bf16);
        _mm512_store_si512(to, v);
    }
}

void conv_tiles_write_x(const struct conv_tiles_run *r, uint16_t *x, int64_t first, int64_t end)
{
    const struct conv_tiles_plan *p = r->plan;
    const struct window2d *w = r->w;
    const int64_t lines = p->image / p->line, size = r->spec->x_bf16 ? 2 : 4;
    for (int64_t l = first; l < end; l++) {
        const int64_t row = l % lines - w->pad_top;
        const char *line = row >= 0 && row < w->h ? (const char *)r->x + (l / lines * w->h + row) * w->w * w->c * size : NULL;
        for (int copy = 0; copy < p->copies; copy++)
            for (int64_t g = 0; g < p->groups; g++)
                write_line(x + ((copy * p->groups + g) * p->positions + l * p->line) * WIDTH, r, line, (int64_t)copy * w->dilation_w - w->pad_left, p->line, g);
    }
}

/* Outputs [16, 32] of tile t and a pair of panels, whose sums are finished. */
static void put_tile(const struct conv_tiles_run *r, float *sums, int64_t t, int64_t pair)
{
    const struct conv_tiles_plan *p = r->plan;
    const struct conv_spec *s = r->spec;
    const int64_t pixels = r->w->out_h * r->w->out_w, at = t % p->image_tiles * 16, rows = pixels - at < 16 ? pixels - at : 16, column = pair * WIDTH;
    const __mmask16 masks[2] = { first(s->out_c - column), first(s->out_c - column - 16) };
    const int64_t from = (t / p->image_tiles * pixels + at) * s->out_c + column;
    for (int64_t i = 0; i < rows; i++)
        for (int v = 0; v < 2; v++) {
            float *sum = sums + i * WIDTH + v * 16;
            const int64_t place = from + i * s->out_c + v * 16;
            __m512 x = _mm512_load_ps(sum);
            if (r->bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(masks[v], r->bias + column + v * 16));
            if (r->residual) x = _mm512_add_ps(x, either_load(r->residual, place, masks[v], s->y_bf16));
            _mm512_store_ps(sum, x);
        }
    if (s->act.kind != ACT_NONE) activate_span(sums, sums, rows * WIDTH, s->act);
    for (int64_t i = 0; i < rows; i++)
        for (int v = 0; v < 2; v++) either_store(r->y, from + i * s->out_c + v * 16, masks[v], _mm512_load_ps(sums + i * WIDTH + v * 16), s->y_bf16);
}

/* Where tile t begins. */
static int64_t position_of(const struct conv_tiles_plan *p, int64_t t)
{
    const int64_t in = t % p->image_tiles;
    return t / p->image_tiles * p->image + (p->across ? in / p->across * p->line + in % p->across * 16 : in * 16);
}

/* sums [2][16, 32] of two tiles (with `two` 0 the second is none and stays 0) += planes [0, depth) of x from a and b on, by weights */
static void add_steps(float *sums, int two, int begin, const uint16_t *a, const uint16_t *b, const uint16_t *weights, const int64_t *taps, int64_t tap_count, int64_t depth, int64_t plane)
{
    if (begin) sums_clear();
    else sums_load(sums);
    for (int64_t g = 0; g < depth; g++, a += plane, b += plane)
        for (int64_t t = 0; t < tap_count; t++, weights += STEP_NUMBERS) {
            TILE_LOAD(4, a + taps[t], 64);
            TILE_LOAD(6, weights, 64);
            TILE_LOAD(7, weights + TILE_NUMBERS, 64);
            TILE_DOT_BF16(0, 4, 6);
            TILE_DOT_BF16(1, 4, 7);
            if (!two) continue;
            TILE_LOAD(5, b + taps[t], 64);
            TILE_DOT_BF16(2, 5, 6);
            TILE_DOT_BF16(3, 5, 7);
        }
    sums_store(sums);
}

void conv_tiles_multiply(const struct conv_tiles_run *r, const uint16_t *x, float *sums, int64_t from, int64_t to, int64_t first, int64_t end)
{
    const struct conv_tiles_plan *p = r->plan;
    const struct window2d *w = r->w;
    const int64_t plane = p->positions * WIDTH, copy = plane * p->groups;
    int64_t taps[CONV_TILES_TAPS_MAX];
    for (int64_t t = 0; t < p->taps; t++) {
        const int64_t ky = t / w->kw, kx = t % w->kw;
        taps[t] = ky * w->dilation_h * p->line * WIDTH + (p->across ? kx * w->dilation_w * WIDTH : kx * copy);
    }
    tiles_begin(&whole_tiles);
    for (int64_t at = first; at < end; at += p->block) {
        const int64_t stop = at + p->block < end ? at + p->block : end;
        for (int64_t g = 0; g < p->groups; g += p->depth) {
            const int64_t depth = p->groups - g < p->depth ? p->groups - g : p->depth;
            const bool last = g + depth == p->groups;
            for (int64_t pair = from; pair < to; pair++) {
                const uint16_t *weights = r->packed + (pair * p->groups + g) * p->taps * STEP_NUMBERS;
                for (int64_t t = at; t < stop; t += 2) {
                    float *c = p->depth < p->groups ? sums + ((pair - from) * p->block + t - at) * SUMS : sums;
                    const int two = t + 1 < stop;
                    const uint16_t *a = x + position_of(p, t) * WIDTH + g * plane, *b = two ? x + position_of(p, t + 1) * WIDTH + g * plane : a;
                    add_steps(c, two, g == 0, a, b, weights, taps, p->taps, depth, plane);
                    if (!last) continue;
                    put_tile(r, c, t, pair);
                    if (two) put_tile(r, c + SUMS, t + 1, pair);
                }
            }
        }
    }
    tiles_end();
}
