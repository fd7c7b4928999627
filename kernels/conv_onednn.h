/* oneDNN's part of a convolution layer. Used by conv.c alone; with INFERD_NO_ONEDNN every open answers ST_UNSUPPORTED. */
#ifndef KERNELS_CONV_ONEDNN_H
#define KERNELS_CONV_ONEDNN_H

#include "kernels/conv.h"

struct conv_onednn;          /* packed weights and their layout */
struct conv_onednn_plan;     /* a primitive for one shape */

/* Is oneDNN the first choice for this layer at this level? A rule from measurements (SPEED.md). */
bool conv_onednn_wanted(const struct conv_spec *s, enum cpu_level level);
bool conv_onednn_takes_activation(struct activation_spec act);
/* ST_UNSUPPORTED: oneDNN has no kernel for it that keeps rows independent of their neighbours. */
enum status conv_onednn_open(struct conv_onednn **out, const struct conv_spec *s, const float *weight, const float *bias, enum cpu_level level, int threads, struct err *err);
void        conv_onednn_close(struct conv_onednn *c);
uint64_t    conv_onednn_bytes(const struct conv_onednn *c);
const char *conv_onednn_name(const struct conv_onednn *c);    /* e.g. "jit:avx512_core" */

/* The weights in ONNX order again, and the bias (borrowed, may be NULL). */
enum status conv_onednn_unpack(const struct conv_onednn *c, float *weight, const float **bias, struct err *err);

/* ST_UNSUPPORTED: the layer's kernel does not take this shape, at no batch size. */
enum status conv_onednn_plan_open(struct conv_onednn_plan **out, const struct conv_onednn *c, const struct window2d *w, int threads, struct err *err);
void        conv_onednn_plan_close(struct conv_onednn_plan *p);
uint64_t    conv_onednn_plan_scratch(const struct conv_onednn_plan *p);
/* x: floats, or with spec.bf16 bfloat16. y and residual: floats, or with spec.bf16 and spec.y_bf16 bfloat16. */
enum status conv_onednn_plan_run(struct conv_onednn_plan *p, void *y, const void *x, const void *residual, void *scratch, struct err *err);

#endif
