/* The cells of recurrent networks at one level (kernels/cpu/vec.h; contracts in kernels/kernels.h): one pass over the gates' sums makes the next state. */
#ifndef KERNELS_CPU_RECURRENT_BODY_H
#define KERNELS_CPU_RECURRENT_BODY_H

#include "kernels/cpu/vec_math.h"

static void lstm_cell_f32(float *h, float *cell, const float *gates, int64_t rows, int64_t hidden)
{
    for (int64_t r = 0; r < rows; r++, h += hidden, cell += hidden, gates += 4 * hidden)
        for (int64_t k = 0; k < hidden; k += LANES) {
            const int n = hidden - k < LANES ? (int)(hidden - k) : LANES;
            const float *g = gates + k;
            const vec in = vec_sigmoid(vec_load_n(g, n)), out = vec_sigmoid(vec_load_n(g + hidden, n)), keep = vec_sigmoid(vec_load_n(g + 2 * hidden, n)), new = vec_tanh(vec_load_n(g + 3 * hidden, n));
            const vec state = vec_fma(keep, vec_load_n(cell + k, n), in * new);
            vec_store_n(cell + k, state, n);
            vec_store_n(h + k, out * vec_tanh(state), n);
        }
}

static void gru_cell_f32(float *h, const float *x, int64_t ldx, const float *sums, int64_t rows, int64_t hidden)
{
    for (int64_t r = 0; r < rows; r++, h += hidden, x += ldx, sums += 3 * hidden)
        for (int64_t k = 0; k < hidden; k += LANES) {
            const int n = hidden - k < LANES ? (int)(hidden - k) : LANES;
            const float *a = x + k, *b = sums + k;
            const vec keep = vec_sigmoid(vec_load_n(a, n) + vec_load_n(b, n)), reset = vec_sigmoid(vec_load_n(a + hidden, n) + vec_load_n(b + hidden, n));
            const vec new = vec_tanh(vec_fma(reset, vec_load_n(b + 2 * hidden, n), vec_load_n(a + 2 * hidden, n)));
            vec_store_n(h + k, vec_fma(keep, vec_load_n(h + k, n) - new, new), n);
        }
}

static void blend_f32(float *h, const float *keep, int64_t ldk, const float *new, int64_t rows, int64_t hidden)
{
    for (int64_t r = 0; r < rows; r++, h += hidden, keep += ldk, new += hidden)
        for (int64_t k = 0; k < hidden; k += LANES) {
            const int n = hidden - k < LANES ? (int)(hidden - k) : LANES;
            const vec from = vec_load_n(new + k, n);
            vec_store_n(h + k, vec_fma(vec_load_n(keep + k, n), vec_load_n(h + k, n) - from, from), n);
        }
}

static void recurrent_fill(struct kernels *k)
{
    k->lstm_cell_f32 = lstm_cell_f32;
    k->gru_cell_f32 = gru_cell_f32;
    k->blend_f32 = blend_f32;
}

#endif
