/* From sums of 32 columns to y. */
#ifndef KERNELS_CPU_LINEAR_PUT_H
#define KERNELS_CPU_LINEAR_PUT_H

#include "kernels/cpu/vec_math.h"
#include "kernels/linear_panels.h"

/* Rows [row, row + rows) of y from `column` on: sums [rows, 32], times units (of all columns; NULL: 1), bias, residual; the activation last. */
VEC_INLINE void sums_put(const float *sums, const float *units, const struct panel_job *j, int64_t row, int64_t rows, int64_t column)
{
    enum { WIDTH = 2 * PANEL_ROWS };
    const struct gemm_epilogue *ep = j->ep;
    const int64_t columns = j->n - column < WIDTH ? j->n - column : WIDTH;
    for (int64_t r = 0; r < rows; r++) {
        float *y = j->y + (row + r) * j->ldy + column;
        for (int64_t v = 0; v < columns; v += PANEL_ROWS) {
            const int n = columns - v < PANEL_ROWS ? (int)(columns - v) : PANEL_ROWS;
            vec sum = vec_load(sums + r * WIDTH + v);
            if (units) sum = sum * vec_load(units + column + v);
            if (ep->bias) sum = sum + vec_load_n(ep->bias + column + v, n);
            if (ep->residual) sum = sum + vec_load_n(ep->residual + (row + r) * ep->ldr + column + v, n);
            vec_store_n(y + v, sum, n);
        }
        if (ep->act.kind != ACT_NONE) activate_span(y, y, columns, ep->act);
    }
}

#endif
