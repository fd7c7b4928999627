/* y = x W for a weight of which most is 0 (a pruned network): only what is not 0 is stored and multiplied.
 *
 * W [k, n] lies as lists, one for each column: places (rows of W, ascending) and values, 6 bytes each; columns of about the same length stand 16 side by side, filled up to the longest. A sum takes its products in ascending order, one fused multiply-add each, as gemm_f32
 * does, and leaves out those with 0, which add nothing: so the bits are gemm_f32's at every level, for any number of rows and threads. (But for the sign of a 0 that a product smaller than any float
 * left behind.) A row of x with an infinity or a NaN is another matter, 0 times those is NaN: such rows are found and computed with the zeros put back.
 *
 * Many rows: x is turned, so that a vector is one column of x for 16 rows, and a stored value meets 16 or 32 rows at once. One row: 16 columns at once. */
#ifndef KERNELS_SPARSE_H
#define KERNELS_SPARSE_H

#include "base/err.h"
#include "kernels/kernels.h"

struct sparse_layer;      /* immutable, shared by all instances */

/* Is it worth trying: the share of zeros, and a shape that can be stored? b[i, j] = b[i * row_stride + j * column_stride]. */
bool        sparse_wanted(const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n);
enum status sparse_open(struct sparse_layer **out, const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n, const struct kernels *kernels, struct err *err);
void        sparse_close(struct sparse_layer *s);
uint64_t    sparse_bytes(const struct sparse_layer *s);
uint64_t    sparse_scratch(const struct sparse_layer *s, int64_t m);
/* c [m, n] = act(a W + bias); ep's residual must be NULL. scratch: sparse_scratch bytes, aligned to 64. */
void        sparse_run(const struct sparse_layer *s, float *c, int64_t ldc, const float *a, int64_t lda, int64_t m, const struct gemm_epilogue *ep, void *scratch, int threads);
/* Is it quicker than gemm_f32 on the packed panels, for one row and for `rows`? Times both. */
bool        sparse_is_quicker(const struct sparse_layer *s, const void *packed, int64_t rows, int threads);

#endif
