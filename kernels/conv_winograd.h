/* Winograd's part of a convolution layer: 3x3, stride 1, dilation 1, one group, by F(4x4, 3x3): 36 products of [tiles, in_c] by [in_c, out_c] in place of
 * 144 by the definition, for weights four times as large. Used by conv.c alone.
 *
 * One tile size whatever the batch, and every product is gemm_f32, whose sums have one order: so a picture's bits do not depend on its neighbours, on threads, nor on the
 * level. The error against sums in double is like that of the definition in f32 (tests/kernels/conv_test.c). */
#ifndef KERNELS_CONV_WINOGRAD_H
#define KERNELS_CONV_WINOGRAD_H

#include "kernels/conv.h"

enum { WINOGRAD_POINTS = 36 };

bool conv_winograd_can(const struct conv_spec *s);
/* Is it the first choice for this layer at this level? A rule from measurements (SPEED.md). */
bool conv_winograd_wanted(const struct conv_spec *s, enum cpu_level level);

/* weight: ONNX order. *packed: 36 packed b of *stride bytes each, on the heap. */
enum status conv_winograd_pack(void **packed, uint64_t *stride, uint64_t *bytes, const struct conv_spec *s, const float *weight, const struct kernels *k, struct err *err);

/* How a shape's tiles are worked through: `block` tiles at a time, by each thread for itself where the weights fit its cache, else by all threads together. */
struct conv_winograd_blocks { int64_t tiles, block, input_plane, output_plane; bool together; uint64_t scratch; };
enum status conv_winograd_plan(struct conv_winograd_blocks *out, const struct conv_spec *s, const struct window2d *w, int threads, struct err *err);

struct conv_winograd_run {
    const struct conv_spec *spec;
    const struct kernels *k;
    const struct window2d *w;
    const struct conv_winograd_blocks *blocks;
    const char *packed;
    uint64_t stride;
    float *y;
    const float *x;
    struct gemm_epilogue ep;             /* bias [out_c], residual of y's shape or NULL, activation */
    float *scratch;
};
void conv_winograd_run(const struct conv_winograd_run *r, int threads);

#endif
