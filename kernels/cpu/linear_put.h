/* From sums of 32 columns to y. */
#ifndef KERNELS_CPU_LINEAR_PUT_H
#define KERNELS_CPU_LINEAR_PUT_H

#include "kernels/cpu/bf16_pairs.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/linear_panels.h"

/* What sums_put does with a panel and its gates: 16 columns of y. */
VEC_INLINE void gated_put(const float *sums, const struct panel_job *j, int64_t row, int64_t rows, int64_t column)
{
    const float *bias = j->ep->bias ? j->ep->bias + column / 2 : NULL;
    const vec beside = bias ? vec_load(bias) : vec_set(0.0f), gate_bias = bias ? vec_load(bias + j->n / 2) : vec_set(0.0f);
    float gates[PANEL_ROWS * 16];
    for (int64_t r = 0; r < rows; r += 16) {
        const int64_t end = rows - r < 16 ? rows - r : 16;
        for (int64_t i = 0; i < end; i++) vec_store(gates + i * PANEL_ROWS, vec_load(sums + (r + i) * 2 * PANEL_ROWS + PANEL_ROWS) + gate_bias);
        activate_span(gates, gates, end * PANEL_ROWS, j->ep->act);
        for (int64_t i = 0; i < end; i++)
            either_store(j->y, (row + r + i) * j->ldy + column / 2, 0xffff, (vec_load(sums + (r + i) * 2 * PANEL_ROWS) + beside) * vec_load(gates + i * PANEL_ROWS), j->y_halves);
    }
}

/* Rows [row, row + rows) of y from `column` on: sums [rows, 32], times units (of all columns; NULL: 1), bias, residual; the activation last. */
VEC_INLINE void sums_put(const float *sums, const float *units, const struct panel_job *j, int64_t row, int64_t rows, int64_t column)
{
    enum { WIDTH = 2 * PANEL_ROWS };
    const struct gemm_epilogue *ep = j->ep;
    const int64_t columns = j->n - column < WIDTH ? j->n - column : WIDTH;
    float whole[WIDTH];
    if (j->gated) {
        gated_put(sums, j, row, rows, column);
        return;
    }
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
