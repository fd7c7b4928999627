/* Operators of networks that draw, made by the builders of engine/diffusion only. Pictures are [n, height, width, channels] in plain order: channels lie side by side, and a
 * pixel is a row for the operators of operators/llm.h (Linear, Norm, Gate, Sum). Tokens are [n, tokens, channels]. What an operator needs besides its inputs hangs on
 * node.spec, read only, in the graph's arena. Every picture of the batch is computed by itself, in an order that does not depend on its company. */
#ifndef ENGINE_OPERATORS_DIFFUSION_H
#define ENGINE_OPERATORS_DIFFUSION_H

#include "engine/graph/graph.h"

/* Conv2d: x [n, h, w, in_c] (and residual like the result as in[1]) -> [n, h', w', out_c] = act(conv + bias + residual). node.conv holds the packed layer. */
struct conv2d_spec { int64_t in_c, out_c; int kernel, stride, low, high; /* padding: above and left, below and right */ void *device; /* on a GPU the weight [out_c, kernel, kernel, in_c] in place of node.conv; its bias is node.bias */ };
extern const struct op op_conv2d;

/* GroupNorm: x [n, ..., channels], optional add [n, channels] (added to every pixel first), optional modulation [n, 2 channels] -> act(norm). The activation is node.act. */
struct group_norm_op_spec { int64_t channels, groups; const float *scale, *bias; float epsilon; };
extern const struct op op_group_norm;

/* Attention: q [n, ..., *], k, v [n, ..., *] (may be one value), optional key counts int32 [n] -> [n, ..., heads * head_dim] with q's leading dimensions. */
struct attention_dense_op_spec { int heads, head_dim; float scale; bool causal; bool bf16; /* may be rounded to bfloat16 */ int64_t q_column, k_column, v_column; const float *distance; /* as in kernels/attention_dense.h, for exactly `tokens` queries and keys */ int64_t tokens; };
extern const struct op op_attention;

/* Upsample: x [n, h, w, c], optional y whose height and width are wanted -> nearest; without it twice the size. */
extern const struct op op_upsample;

/* Join: along dimension `axis` (any but the first). Part: `count` numbers of dimension `axis` from `first`; count -1: as many as in[1] has there. */
struct join_spec { int axis; };
struct part_spec { int axis; int64_t first, count; };
extern const struct op op_join, op_part;

/* TimeEmbed: t f32 [n, ...] -> [n, ... dim]: for each number dim / 2 cosines and sines (or sines first) of t * scale * base^(-i / (dim / 2 - shift)); the numbers of a row lie side by side. */
struct time_embed_spec { int dim; bool cosines_first; float shift, scale, base; const float *frequencies; /* [dim / 2], or NULL: by the formula */ };
extern const struct op op_time_embed;

/* Act: node.act on every number. Product: in[0] * in[1], equal shapes. */
extern const struct op op_act, op_product;

/* Modulate: x [n, ..., c], m [n, columns] -> x * (1 + m[scale ..]) + m[shift ..]; a column below 0: none of it. */
struct modulate_spec { int64_t scale, shift; };
extern const struct op op_modulate;

/* Gated: x [n, ..., c], y like x, m [n, columns] -> x + m[gate ..] * y. */
struct gated_spec { int64_t gate; };
extern const struct op op_gated;

/* Unpatch: x [n, h, w, p p c] -> [n, h p, w p, c], a patch's numbers in the order [p, p, c] or, `by_channel`, [c, p, p]. Patch: the other way. */
struct patch_spec { int side; bool by_channel; };
extern const struct op op_patch, op_unpatch;

/* AddPositions: x [n, h, w, c] plus the middle h x w of a table [side, side, c]. */
struct positions_spec { const float *table; int64_t side; };
extern const struct op op_add_positions;

/* Reshaped: x with the leading dimensions of in[1], or (without it) as tokens [n, everything between, c]. */
extern const struct op op_as_tokens;

/* RopePairs: x [n, tokens, columns], table f32 [tokens, rotary]: the first rotary / 2 are cosines, then sines; turns neighbouring pairs of each head. In place. */
struct rope_pairs_spec { int64_t column; int heads, head_dim; };
extern const struct op op_rope_pairs;

/* ---- what they ask of a GPU: diffusion_tasks.c ---- */
struct task_list;
void tasks_conv2d(struct call *c, struct task_list *l);
void tasks_group_norm(struct call *c, struct task_list *l);
void tasks_attention_dense(struct call *c, struct task_list *l);
void tasks_upsample(struct call *c, struct task_list *l);
void tasks_join(struct call *c, struct task_list *l);
void tasks_part(struct call *c, struct task_list *l);
void tasks_act(struct call *c, struct task_list *l);
void tasks_product(struct call *c, struct task_list *l);
void tasks_modulate(struct call *c, struct task_list *l);
void tasks_gated(struct call *c, struct task_list *l);
void tasks_patches(struct call *c, struct task_list *l);
void tasks_add_positions(struct call *c, struct task_list *l);
void tasks_as_tokens(struct call *c, struct task_list *l);
void tasks_rope_pairs(struct call *c, struct task_list *l);

#endif
