/* Winograd's part of a convolution layer in bfloat16: 3x3, stride 1, dilation 1, one group, by F(2x2, 3x3): 16 products in place of 36 by the definition, for weights 1.8 times as large. Used by
 * conv.c alone, where dot products of bfloat16 and not memory decide (AVX512_BF16 without tiles).
 *
 * Inputs are transformed in float and rounded, weights in double and rounded, sums are float. On random data the error is 1.7 times that of the definition in bfloat16 (F(4x4) of kernels/conv_winograd.h
 * would make it four times). Transforms and sums of a tile have one order: a picture's bits depend neither on its neighbours nor on threads. */
#ifndef KERNELS_CONV_WINOGRAD_BF16_H
#define KERNELS_CONV_WINOGRAD_BF16_H

#include "kernels/conv.h"

enum { WINOGRAD_BF16_POINTS = 16, WINOGRAD_BF16_WIDTH = 32 /* channels of a step and of a pair of vectors */, WINOGRAD_BF16_ROWS = 8 };

/* weight: ONNX order. *packed: [out_c / 32][16 points][in_c / 32][2][16 pairs][16 columns][2], *bytes on the heap. ST_TOO_LARGE, ST_NO_MEMORY. */
enum status conv_winograd_bf16_pack(void **packed, uint64_t *bytes, const struct conv_spec *s, const float *weight, int threads, struct err *err);

/* How a shape's tiles are worked through, `block` at a time (a multiple of 8): by each thread for itself, or together, then by its share of the output channels. */
struct conv_winograd_bf16_plan {
    int64_t  across, tiles, block, steps, pairs;      /* tiles of a line and in all; of 32 input channels, of 32 output channels */
    bool     together;
    uint64_t v_bytes, m_bytes, scratch;               /* transformed inputs of a block; sums of a block and 32 channels */
};
enum status conv_winograd_bf16_plan(struct conv_winograd_bf16_plan *out, const struct conv_spec *s, const struct window2d *w, int threads, struct err *err);

struct conv_winograd_bf16_run {
    const struct conv_spec *spec;
    const struct window2d *w;
    const struct conv_winograd_bf16_plan *plan;
    const uint16_t *packed;
    const float *bias;                   /* [out_c] or NULL */
    void *y;                             /* floats or, with spec->y_bf16, bfloat16 */
    const void *x, *residual;            /* floats or, with spec->x_bf16 (y_bf16), bfloat16; residual NULL or y's shape (it may be y) */
    void *scratch;
};
/* Only where cpu_is_quick_at_bf16 below CPU_AMX. */
void conv_winograd_bf16_run(const struct conv_winograd_bf16_run *r, int threads);

/* ---- kernels/cpu/avx512bf16/winograd.c ---- */
/* Tiles [first, first + count) of all pictures, transformed, to rows `at` to at + count of v [16 points][block / 8][steps][8][32] */
void conv_winograd_bf16_input(const struct conv_winograd_bf16_run *r, uint16_t *v, int64_t at, int64_t first, int64_t count);
/* The outputs of `count` tiles from `first` on, whose inputs are v's first rows, for channels of pairs [from, to); m: m_bytes */
void conv_winograd_bf16_output(const struct conv_winograd_bf16_run *r, const uint16_t *v, float *m, int64_t from, int64_t to, int64_t first, int64_t count);

#endif
