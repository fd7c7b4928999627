/* The cells of recurrent networks at one level (kernels/cpu/vec.h; contracts in kernels/kernels.h): one pass over the gates' sums makes the next state. */
#ifndef KERNELS_CPU_RECURRENT_BODY_H
#define KERNELS_CPU_RECURRENT_BODY_H

#include "kernels/cpu/vec_math.h"

static void lstm_cell_f32(float *h, float *cell, int64_t ldh, const float *gates, int64_t ldg, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, h += ldh, cell += ldh, gates += ldg)
        for (int64_t k = 0; k < n; k += LANES) {
            const int lanes = n - k < LANES ? (int)(n - k) : LANES;
            const float *g = gates + k;
            const vec in = vec_sigmoid(vec_load_n(g, lanes)), out = vec_sigmoid(vec_load_n(g + n, lanes)), keep = vec_sigmoid(vec_load_n(g + 2 * n, lanes)), new = vec_tanh(vec_load_n(g + 3 * n, lanes));
            const vec state = vec_fma(keep, vec_load_n(cell + k, lanes), in * new);
            vec_store_n(cell + k, state, lanes);
            vec_store_n(h + k, out * vec_tanh(state), lanes);
        }
}

static void gru_cell_f32(float *y, const float *h, int64_t ldh, const float *x, int64_t ldx, const float *sums, int64_t lds, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, y += ldh, h += ldh, x += ldx, sums += lds)
        for (int64_t k = 0; k < n; k += LANES) {
            const int lanes = n - k < LANES ? (int)(n - k) : LANES;
            const float *a = x + k, *b = sums + k;
            const vec keep = vec_sigmoid(vec_load_n(a, lanes) + vec_load_n(b, lanes)), reset = vec_sigmoid(vec_load_n(a + n, lanes) + vec_load_n(b + n, lanes));
            const vec new = vec_tanh(vec_fma(reset, vec_load_n(b + 2 * n, lanes), vec_load_n(a + 2 * n, lanes)));
            vec_store_n(y + k, vec_fma(keep, vec_load_n(h + k, lanes) - new, new), lanes);
        }
}

static void blend_f32(float *y, const float *h, const float *new, int64_t ldh, const float *keep, int64_t ldk, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, y += ldh, h += ldh, new += ldh, keep += ldk)
        for (int64_t k = 0; k < n; k += LANES) {
            const int lanes = n - k < LANES ? (int)(n - k) : LANES;
            const vec from = vec_load_n(new + k, lanes);
            vec_store_n(y + k, vec_fma(vec_load_n(keep + k, lanes), vec_load_n(h + k, lanes) - from, from), lanes);
        }
}

static void recurrent_fill(struct kernels *k)
{
    k->lstm_cell_f32 = lstm_cell_f32;
    k->gru_cell_f32 = gru_cell_f32;
    k->blend_f32 = blend_f32;
}

#endif
