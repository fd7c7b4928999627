/* A 2-D convolution layer, NHWC f32 in and out, weights packed once. Kernel and packed layout are chosen when the layer is made and hold
 * for every batch size and spatial size, so that a row's result does not depend on its neighbours (bit for bit in f32): oneDNN's
 * direct convolution where it keeps that promise (checked when the layer is made, for row 0 alone and within the largest batch), our own
 * depthwise, 1x1 (GEMM), 3x3 (Winograd, one tile size) and bfloat16 (tiles) kernels, and a general own kernel (im2col rows in scratch + gemm_f32) that is always there and is the reference.
 * Everything of oneDNN's C API is in conv_onednn.c; a build with -DINFERD_NO_ONEDNN leaves it out. */
#ifndef KERNELS_CONV_H
#define KERNELS_CONV_H

#include "base/err.h"
#include "kernels/kernels.h"

struct conv_spec {
    int64_t in_c, out_c;                 /* channels in all */
    int64_t groups;
    int     kh, kw, stride_h, stride_w, dilation_h, dilation_w;
    bool    has_residual;                /* y = act(conv + bias + residual): residual has y's shape */
    struct activation_spec act;
    bool    bf16;                        /* where the machine is quick at it: inputs and weights are rounded to bfloat16, sums are float */
    bool    loose;                       /* with bf16: the error may be 1.7 times as large where that is much quicker (kernels/conv_winograd_bf16.h) */
    bool    x_bf16, y_bf16;              /* x, y and the residual lie in memory as bfloat16; any layer takes that */
    /* typical spatial size, for choosing a kernel; 0: unknown */
    int64_t hint_h, hint_w, hint_n_max;
    int64_t hint_out_h, hint_out_w;      /* the output of it and the padding before it; 0: as large as the input divided by the strides, padded evenly */
    int     hint_top, hint_left;
};

struct conv_layer;       /* packed weights + choice; immutable, shared by all instances */
struct conv_plan;        /* for one exact input shape and one instance */

/* weight: ONNX order [out_c, in_c / groups, kh, kw], bias [out_c] or NULL; both only read during the call. */
enum status conv_layer_open(struct conv_layer **out, const struct conv_spec *spec, const float *weight, const float *bias,
                            const struct kernels *k, int threads, struct err *err);
/* The same with the choice made by the caller: tests and benchmarks. ST_UNSUPPORTED when the choice cannot do this layer. */
enum conv_choice { CONV_BY_RULE, CONV_BY_OWN, CONV_BY_IM2COL, CONV_BY_WINOGRAD, CONV_BY_TILES, CONV_BY_WINOGRAD_BF16, CONV_BY_ONEDNN };
enum status conv_layer_open_as(struct conv_layer **out, const struct conv_spec *spec, const float *weight, const float *bias,
                               const struct kernels *k, int threads, enum conv_choice choice, struct err *err);
void        conv_layer_close(struct conv_layer *l);
uint64_t    conv_layer_bytes(const struct conv_layer *l);           /* packed weights */
bool        conv_layer_is_loose(const struct conv_layer *l);        /* took a kernel that spec.loose allowed */
/* Does the kernel on tiles do this activation as it stores? */
bool        conv_takes_activation(struct activation_spec act);
const char *conv_layer_kernel(const struct conv_layer *l);          /* "onednn:jit:avx512_core", "gemm1x1", "depthwise", "im2col" ... for inspect */

/* w.n, h, w, c, out_h, out_w and the padding of this shape. The plan may be used by one thread at a time. Scratch of conv_plan_scratch bytes (64-byte aligned) is given to each run. */
enum status conv_plan_open(struct conv_plan **out, const struct conv_layer *l, const struct window2d *w, int threads, struct err *err);
void        conv_plan_close(struct conv_plan *p);
uint64_t    conv_plan_scratch(const struct conv_plan *p);
/* residual: NULL unless spec.has_residual; it may be y itself. Floats, or what the spec says. No allocation by our own code. */
enum status conv_plan_run(struct conv_plan *p, void *y, const void *x, const void *residual, void *scratch, struct err *err);

#endif
