/* Scores of a block of keys to weights with a running maximum, and what was added up so far shrunk by it (contracts in kernels/diffusion.h): what every attention that goes
 * by blocks of keys does between its two products. */
#ifndef KERNELS_CPU_ATTENTION_WEIGHTS_H
#define KERNELS_CPU_ATTENTION_WEIGHTS_H

#include "kernels/cpu/vec_math.h"

enum { STRIPES = 16 / LANES };           /* vectors that make 16 lanes: the sums of a row go over 16 of them at every level */

static void attention_weights_f32(float *s, int64_t lds, int64_t rows, int64_t columns, const int64_t *limit, float scale, float *top, float *sum, float *shrink)
{
    const float lowest = -__builtin_inff();
    for (int64_t r = 0; r < rows; r++) {
        float *x = s + r * lds, most = top[r], lanes[16];
        const int64_t n = limit[r], padded = (n + 15) & ~(int64_t)15;
        if (n == 0) {
            memset(x, 0, (size_t)columns * sizeof *x);
            shrink[r] = 1;
            continue;
        }
        for (int64_t c = n; c < padded && c < lds; c++) x[c] = lowest;
        vec high = vec_set(lowest);
        for (int64_t c = 0; c < padded; c += LANES) {
            const vec v = vec_load(x + c) * vec_set(scale);
            vec_store(x + c, v);
            high = vec_max(high, v);
        }
        const float own = vec_top(high);
        if (own > most) most = own;
        vec total[STRIPES];
        for (int i = 0; i < STRIPES; i++) total[i] = vec_set(0.0f);
        for (int64_t c = 0; c < padded; c += 16)
            for (int i = 0; i < STRIPES; i++) {
                const vec e = vec_exp(vec_load(x + c + i * LANES) - vec_set(most));
                vec_store(x + c + i * LANES, e);
                total[i] = total[i] + e;
            }
        for (int i = 0; i < STRIPES; i++) vec_store(lanes + i * LANES, total[i]);
        for (int width = 8; width; width /= 2)
            for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
        for (int64_t c = n; c < columns; c++) x[c] = 0;
        shrink[r] = top[r] == lowest ? 0 : expf(top[r] - most);
        sum[r] = sum[r] * shrink[r] + lanes[0];
        top[r] = most;
    }
}

static void scale_rows_f32(float *y, int64_t ldy, const float *factor, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++, y += ldy) {
        const vec f = vec_set(factor[r]);
        int64_t c = 0;
        if (factor[r] == 1) continue;
        for (; c + LANES <= columns; c += LANES) vec_store(y + c, vec_load(y + c) * f);
        if (c < columns) vec_store_n(y + c, vec_load_n(y + c, (int)(columns - c)) * f, (int)(columns - c));
    }
}

#endif
