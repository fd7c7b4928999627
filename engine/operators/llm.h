/* Operators of language models, made by the builder of engine/llm only (ONNX files cannot name them). What an operator needs besides its inputs hangs on
 * node.spec, read only, in the graph's arena. T is the number of tokens of a step, of any sequences, one behind the other; a value [T, n]
 * may as well have several leading dimensions, whose product is T.
 *
 * Inputs that stand for state: `rows` int32 [sequences, 4] {first token, tokens, position of the first, first entry in pages}, a row of 0 tokens is
 * empty; `pages` int32 [entries]: page numbers of each sequence in the order of positions; `kv` uint8 [bytes]: the pool, written by the
 * attention operator. The token at position p of a sequence lies in page pages[first + p / 16]. */
#ifndef ENGINE_OPERATORS_LLM_H
#define ENGINE_OPERATORS_LLM_H

#include "engine/graph/graph.h"
#include "kernels/blocks.h"
#include "kernels/gpu.h"
#include "kernels/linear.h"
#include "kernels/llm.h"

/* On a GPU (graph.gpu) matrices lie in device memory from the load on, in place of node.linear, and rotation is a part of attention; what an operator asks of the device is in llm_tasks.c. */
struct device_matrix { struct gpu_matrix m; void *at /* the graph's store owns it */; };

/* Embed: ids int32 [T] -> f32 [T, width]: row id + shift of a table, times scale. */
struct embed_spec { const struct block_format *format; const uint8_t *table; int64_t rows, width, row_bytes, shift; float scale; struct device_matrix device; };
extern const struct op op_embed;

/* Linear: x f32 [T, k] (and residual [T, n] as in[1]) -> f32 [T, n] = act(x W' + bias + residual). node.linear holds the packed weight, node.bias its
 * bias, node.act the activation. */
struct linear_op_spec { int64_t n, k; struct device_matrix device; bool exact /* on a GPU: a row's bits do not depend on the others, and nothing is rounded */; };
extern const struct op op_linear;

/* Gate: gate, up [T, n] -> act(gate) * up. With in[1] left out both lie in in[0], [T, 2n], gate first unless `up_first`. */
struct gate_spec { enum gate_kind kind; float limit; bool up_first; };
extern const struct op op_gate;

/* Projections: x [T, k] -> up to three f32 [T, n_i] = x W_i' + bias_i; gated: of two, one [T, n] = gate(first) * second. The weights are `linear`, or on a GPU w; node.linear is the first. */
struct projections_spec { int parts; int64_t k, n[GPU_PARTS]; struct linear_layer *linear[GPU_PARTS]; struct device_matrix w[GPU_PARTS]; const float *bias[GPU_PARTS]; bool gated; struct gate_spec gate; bool exact; };
extern const struct op op_projections;

/* Norm: x [T, columns] -> same; groups of `width` columns each by its own mean square (RMS) or mean and variance. scale, bias [width] or, `whole`, [columns]. */
struct norm_spec { bool layer, whole; int64_t width; const float *scale, *bias; float epsilon; };
extern const struct op op_norm;

/* RopeTable: positions int32 [T] -> f32 [T, rotary]: rotary / 2 cosines, then as many sines, times the factor. A position with the bit ROPE_LONG set
 * belongs to a sequence that may outgrow the original context: it takes the long frequencies, where there are any (longrope). */
enum { ROPE_LONG = 1 << 30 };
struct rope_table_spec { int rotary; const float *frequency, *frequency_long; float factor, factor_long; };
extern const struct op op_rope_table;

/* Rope: x [T, columns], table [T, rotary] -> x with `heads` heads rotated that begin at `column`. In place. */
struct rope_op_spec { int64_t column, heads, head_dim; int rotary; bool adjacent; };
extern const struct op op_rope;

/* PagedAttention: q, k, v [T, ...] (may be one value), rows, pages, kv -> f32 [T, heads * head_dim]; k and v are written to the pool first. On a GPU in[6], if it
 * is there, is the table of the rotation that q and k have not had yet. */
struct attention_op_spec { struct attention_spec kernel; int64_t q_column, k_column, v_column; uint64_t layer_offset, page_stride; bool round /* to bfloat16 where that is quick */; int rotary; bool adjacent /* on a GPU: of the rotation */, exact; };
extern const struct op op_paged_attention;

/* Keep: x [T, n], k, v [T, ...], rows, pages, kv -> x; k and v are written to the pool. CrossAttention: q [T, ...], encoded, pages, kv -> f32 [T, heads * head_dim]: every row
 * of a sequence sees all that was kept for it; `encoded` int32 [sequences, 4] is {first token, tokens, kept positions, first entry in pages}. Both take an attention_op_spec. */
extern const struct op op_keep, op_cross_attention;
/* The rows of a step of t tokens that are not empty, checked; for operators that touch the cache. */
enum status llm_rows(const struct call *c, const struct operand *table, const struct operand *pages, int64_t t, struct attention_row *rows, int *count, struct err *err);

/* TakeRows: x [T, n], wanted int32 [N] -> [N, n]. */
extern const struct op op_take_rows;

/* Element by element. Clip: to [-limit, limit]; Softcap: limit * tanh(x / limit); Scale: x * limit; Sum: in[0] + in[1]. */
struct limit_spec { float limit; };
extern const struct op op_clip, op_softcap, op_scale, op_sum;

/* Experts: x [T, width], router logits [T, experts] -> [T, width]: the `used` most likely experts of each token, weighted. */
struct expert_layers { struct linear_layer *gate, *up, *down; const float *gate_bias, *up_bias, *down_bias; };
/* All experts' matrices of one kind on a GPU: one behind the other, their biases too. */
struct device_experts { struct device_matrix w; const float *bias; };
struct experts_spec {
    int     experts, used;
    int64_t width, ffn;
    bool    softmax_later, renormalise;
    struct gate_spec gate;
    struct expert_layers *layers;      /* [experts]; the linear layers are on the list of the graph (graph_own_linear) */
    struct device_experts device_gate, device_up /* no matrix: gate and up are rows of one, gate first */, device_down;
};
extern const struct op op_experts;

/* Shared: x [T, n] * sigmoid(gate [T, 1]) + y [T, n]. */
extern const struct op op_shared;

/* ---- what they ask of a GPU: llm_tasks.c ---- */
struct task_list;
void tasks_embed(struct call *c, struct task_list *l);
void tasks_linear(struct call *c, struct task_list *l);
void tasks_projections(struct call *c, struct task_list *l);
void tasks_norm(struct call *c, struct task_list *l);
void tasks_rope_table(struct call *c, struct task_list *l);
void tasks_paged_attention(struct call *c, struct task_list *l);
void tasks_gate(struct call *c, struct task_list *l);
void tasks_take_rows(struct call *c, struct task_list *l);
void tasks_clip(struct call *c, struct task_list *l);
void tasks_softcap(struct call *c, struct task_list *l);
void tasks_scale(struct call *c, struct task_list *l);
void tasks_sum(struct call *c, struct task_list *l);
void tasks_shared(struct call *c, struct task_list *l);
void tasks_experts(struct call *c, struct task_list *l);

#endif
