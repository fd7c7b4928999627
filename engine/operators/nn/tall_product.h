/* TallProduct: y = act(x W + bias + sum) of many rows in a graph that is in bfloat16, where W is constant: what graph/make_products.c makes of MatMul, Gemm and a sum behind them. x, y and the sum
 * may lie in memory as bfloat16 (node.halves; the sum as y does). With tiles a linear layer (node.linear, and node.bias the bias), elsewhere a 1x1 convolution of a picture as high as there are rows: node.conv holds the layer. */
#ifndef ENGINE_OPERATORS_NN_TALL_PRODUCT_H
#define ENGINE_OPERATORS_NN_TALL_PRODUCT_H

#include "engine/graph/graph.h"

struct tall_product_spec { int64_t k, n; bool turned; /* W is [n, k] */ };

/* Inputs: x [..., k], W, its bias or none (then node.bias may hold one), and with node.residual 3 the sum, of y's shape. */
extern const struct op op_tall_product;

#endif
