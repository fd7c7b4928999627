/* The geometry that convolution and pooling share: kernel, strides, dilations and pads of each spatial dimension, resolved for one shape. */
#ifndef ENGINE_OPERATORS_WINDOW_H
#define ENGINE_OPERATORS_WINDOW_H

#include "engine/graph/graph.h"

enum { WINDOW_DIMS = TENSOR_RANK_MAX - 2, WINDOW_NUMBER_MAX = 1 << 20 };

struct window {
    int     dims;                                   /* spatial */
    int64_t in[WINDOW_DIMS], out[WINDOW_DIMS], kernel[WINDOW_DIMS], stride[WINDOW_DIMS], dilation[WINDOW_DIMS], low[WINDOW_DIMS], high[WINDOW_DIMS];
};

/* `kernel` NULL: from the attribute kernel_shape. */
enum status window_read(struct window *w, const struct call *c, const int64_t *kernel, struct err *err);
/* One and two spatial dimensions as a 2-D window (one dimension: height 1). */
struct window2d window_2d(const struct window *w, int64_t n, int64_t channels);

#endif
