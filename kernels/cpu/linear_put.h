/* From sums of 32 columns to y. */
#ifndef KERNELS_CPU_LINEAR_PUT_H
#define KERNELS_CPU_LINEAR_PUT_H

#include "kernels/cpu/bf16_pairs.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/linear_panels.h"

/* Rows [row, row + rows) of y from `column` on: sums [rows, 32], times units (of all columns; NULL: 1), bias, residual; the activation last. */
VEC_INLINE void sums_put(const float *sums, const float *units, const struct panel_job *j, int64_t row, int64_t rows, int64_t column)
{
    enum { WIDTH = 2 * PANEL_ROWS };
    const struct gemm_epilogue *ep = j->ep;
    const int64_t columns = j->n - column < WIDTH ? j->n - column : WIDTH;
    float whole[WIDTH];
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = (row + r) * j->ldy + column;
        float *to = j->y_halves ? whole : j->y + at;
        for (int64_t v = 0; v < columns; v += PANEL_ROWS) {
            const int n = columns - v < PANEL_ROWS ? (int)(columns - v) : PANEL_ROWS;
            vec sum = vec_load(sums + r * WIDTH + v);
            if (units) sum = sum * vec_load(units + column + v);
            if (ep->bias) sum = sum + vec_load_n(ep->bias + column + v, n);
            if (ep->residual) sum = sum + either_load(ep->residual, (row + r) * ep->ldr + column + v, first(n), j->y_halves);
            vec_store_n(to + v, sum, n);
        }
        if (ep->act.kind != ACT_NONE) activate_span(to, to, columns, ep->act);
        for (int64_t v = 0; j->y_halves && v < columns; v += PANEL_ROWS) either_store(j->y, at + v, first(columns - v), vec_load(whole + v), true);
    }
}

#endif
