/* Spread: a transposed convolution of a picture whose windows do not overlap (the kernel is as large as the strides), in a graph in bfloat16: every pixel becomes a block of pixels. It is a 1x1
 * convolution to kh kw m channels (node.conv) whose results are written apart. A picture of the result's size may stand beside it: then the result is the two joined channel by channel, and
 * neither is copied again. Made by graph/make_products.c. */
#ifndef ENGINE_OPERATORS_NN_SPREAD_H
#define ENGINE_OPERATORS_NN_SPREAD_H

#include "engine/graph/graph.h"

enum spread_join { SPREAD_ALONE, SPREAD_BEHIND /* the other picture's channels come first */, SPREAD_BEFORE };
enum { SPREAD_BESIDE = 3 };              /* the input that is joined */

struct spread_spec { int64_t in_c, out_c; int kh, kw; enum spread_join join; };

/* Inputs: x channels last, weight [in_c, out_c, kh, kw], bias or none, the picture beside it or none. x and the result may be bfloat16 (node.halves), the picture beside it as the result. */
extern const struct op op_spread;

#endif
