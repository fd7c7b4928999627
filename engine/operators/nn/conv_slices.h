/* Convolution over three dimensions as one over two for each place of the kernel's depth: in channels-last data a slice of x is a picture, and slice z of y adds up what the layers of kernels/conv.h
 * make of slices z * stride - low + k * dilation of x. y holds bias and residual first and takes the activation last. Floats, or numbers rounded to bfloat16 as the layers do it. */
#ifndef ENGINE_OPERATORS_NN_CONV_SLICES_H
#define ENGINE_OPERATORS_NN_CONV_SLICES_H

#include "engine/operators/window.h"
#include "kernels/conv.h"

struct conv_slices;      /* immutable, shared by all instances */
struct slices_plan;      /* for one exact shape and one instance */

/* spec: of a slice, without residual and activation; stride and dilation of the depth are the plan's. weight [out_c, in_c / groups, depth, kh, kw], bias [out_c] or NULL; both only read during the call. */
enum status conv_slices_open(struct conv_slices **out, const struct conv_spec *spec, int depth, const float *weight, const float *bias, struct activation_spec act, const struct kernels *k, int threads, struct err *err);
void        conv_slices_close(struct conv_slices *s);                /* NULL is fine */
uint64_t    conv_slices_bytes(const struct conv_slices *s);
const char *conv_slices_kernel(const struct conv_slices *s);         /* that of its layers */

/* w: three dimensions, depth first. */
enum status slices_plan_open(struct slices_plan **out, const struct conv_slices *s, const struct window *w, int64_t n, int threads, struct err *err);
void        slices_plan_close(struct slices_plan *p);                /* NULL is fine */
uint64_t    slices_plan_scratch(const struct slices_plan *p);
/* x [n, depth, h, w, in_c], y and residual [n, ...out, out_c]; residual NULL or any buffer, y too. */
enum status slices_plan_run(const struct slices_plan *p, float *y, const float *x, const float *residual, void *scratch, struct err *err);

#endif
