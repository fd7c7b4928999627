/* Convolutions in f32 that kernels/conv.h has no layer for (three spatial dimensions and more, weights that are made while running), and transposed ones: products of
 * matrices over channels-last data. A packed weight is a row of matrices, one for each group (and, transposed, for each kernel element). */
#ifndef ENGINE_OPERATORS_NN_CONV_COLUMNS_H
#define ENGINE_OPERATORS_NN_CONV_COLUMNS_H

#include "engine/operators/operators.h"
#include "engine/operators/window.h"

/* w: dims of the weight as the file has it. UINT64_MAX: too large. */
uint64_t columns_pack_bytes(const struct kernels *k, bool transposed, const int64_t *w, int rank, int64_t groups);
void     columns_pack(const struct kernels *k, bool transposed, void *packed, const float *weight, const int64_t *w, int rank, int64_t groups);

/* For op->scratch and op->eval: f32 operands of which each may be in plain order or channels last; c->node->packed, or packed into scratch. */
uint64_t columns_scratch(const struct call *c, const struct window *w, bool transposed, int64_t groups);
void     columns_convolve(const struct call *c, const struct window *w, int64_t groups);
void     columns_transpose(const struct call *c, const struct window *w, int64_t groups);

#endif
