/* What the two halves of the pass over quantised patterns share: fuse_quantised.c (layers with weights) and fuse_bytes.c (all else). */
#ifndef ENGINE_GRAPH_FUSE_QUANTISED_H
#define ENGINE_GRAPH_FUSE_QUANTISED_H

#include "engine/graph/passes.h"
#include "engine/operators/quantised/bytes.h"

/* What a QuantizeLinear or DequantizeLinear says where one constant scale and zero point hold for the whole tensor of bytes. */
bool quantum_of(const struct graph *g, const struct node *n, struct quantum *q);
/* Is v made out of bytes *x (no constant) by such a DequantizeLinear? */
bool byte_source(const struct graph *g, int v, int *x, struct quantum *q);
/* The QuantizeLinear that alone reads v, or NULL. */
struct node *sole_quantiser(const struct graph *g, int v, struct quantum *q);
/* n becomes `op` of these inputs, made of the bytes that n quantised or of n itself: name, opset and attributes are those of `from`. NULL in `spec`: none. False: no memory. */
bool node_become(struct graph *g, struct node *n, const struct op *op, const struct node *from, const int *in, int in_count, const void *spec, size_t spec_size);
/* The limits of bytes around a zero point, narrowed by an activation of v in quanta; false: the activation is no limit. */
bool limits_of(const struct quantum *q, struct activation_spec act, float *low, float *high);

/* Everything between layers: sums, tables, pools, what moves. */
enum status fuse_bytes(struct graph *g, struct err *err);
/* The tables that follow a layer ride in it; what is left of QuantizeLinear and DequantizeLinear with one scale becomes a kernel. After a count of uses. */
enum status finish_bytes(struct graph *g, struct err *err);

#endif
