/* What happens to a graph between import and the first plan. Each pass leaves the graph sorted and right; passes_run does them in order. */
#ifndef ENGINE_GRAPH_PASSES_H
#define ENGINE_GRAPH_PASSES_H

#include <string.h>

#include "engine/graph/graph.h"

/* All passes, or with `off` only what running needs (weights packed, constants aligned). */
enum status passes_run(struct graph *g, bool off, struct err *err);

/* ---- the passes ---- */
/* Binds free dimensions to probing numbers and infers every shape twice, with different numbers of rows: values[].probe. A failure is an error only for
 * a graph without free dimensions; else the probes are simply not there. */
enum status probe_shapes(struct graph *g, struct err *err);
/* Sets g->batchable, or g->batch_reason. */
enum status prove_rows(struct graph *g, struct err *err);
enum status fold_constants(struct graph *g, struct err *err);
enum status fuse_attention(struct graph *g, struct err *err);     /* Attention, or products and softmax -> Attend; com.microsoft Attention -> a product and MultiHeadAttention */
enum status fuse_scales(struct graph *g, struct err *err);        /* BatchNormalization, Mul and Add by channel -> ScaleShift -> convolution */
enum status fuse_curves(struct graph *g, struct err *err);        /* GELU out of its parts */
enum status fuse_activations(struct graph *g, struct err *err);   /* bias, sum and activation into convolutions and products; shuffles */
enum status set_weights_aside(struct graph *g, struct err *err);  /* first, for fuse_quantised: weights in bytes are not folded to floats */
enum status fuse_quantised(struct graph *g, struct err *err);     /* layers between DequantizeLinear and QuantizeLinear, and what stands between them, on bytes */
bool        is_quantised(const struct graph *g);                  /* does the file carry scales of weights in bytes? */
enum status make_products(struct graph *g, struct err *err);      /* a graph in bfloat16: MatMul and Gemm of many rows -> TallProduct */
enum status layout_last(struct graph *g, struct err *err);
enum status store_halves(struct graph *g, struct err *err);       /* a graph in bfloat16: pictures between layers are stored so */
enum status pack_weights(struct graph *g, struct err *err);

/* ---- shared by passes ---- */
static inline bool node_is(const struct node *n, const char *name) { return n && strcmp(n->op->name, name) == 0 && !n->op->domain[0]; }      /* an operator of ai.onnx */
/* Counts uses, drops nodes whose results nobody reads, sorts. */
enum status graph_settle(struct graph *g, struct err *err);
/* Every reader of `from` reads `to` instead; graph outputs stay. */
void graph_replace(struct graph *g, int from, int to);
/* The live node that alone makes v for the one reader it has (v is no graph output), or NULL. */
struct node *graph_sole_producer(const struct graph *g, int v);
/* The live node that alone reads v (v is no graph output), or NULL. */
struct node *graph_sole_reader(const struct graph *g, int v);
bool probe_known(const struct graph *g, int v);
bool probe_same_shape(const struct graph *g, int a, int b);       /* under both bindings */
bool value_is_constant(const struct graph *g, int v);
/* Will packing make a layer (panels) of this node? Only then may an activation, a sum or a bias be fused into it. */
bool conv_packable(const struct graph *g, const struct node *n);
/* Is it a convolution or a transposed one that is a product of matrices (operators/nn/conv_columns.h) with a constant weight? */
bool columns_packable(const struct graph *g, const struct node *n);
bool gemm_packable(const struct graph *g, const struct node *n);
/* And is it nothing but a product and a bias of one number for each column? */
bool gemm_is_plain(const struct graph *g, const struct node *n);

#endif
