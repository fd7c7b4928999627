/* The graph of a language model, from its configuration and weights. One step computes T tokens of any sequences at once.
 *
 * Inputs, in this order: tokens, positions, types int32 [T]; rows, pages, kv as operators/llm.h describes them; wanted int32 [N]: the tokens whose
 * results are asked for. Outputs: hidden f32 [N, width] behind the last norm; logits f32 [N, vocabulary] (a cross-encoder: scores [N, labels]; other
 * encoders have the first output only). */
#ifndef ENGINE_LLM_BUILD_H
#define ENGINE_LLM_BUILD_H

#include "engine/graph/graph.h"
#include "engine/llm/model.h"
#include "kernels/linear.h"

enum llm_input { LLM_TOKENS, LLM_POSITIONS, LLM_TYPES, LLM_ROWS, LLM_PAGES, LLM_KV, LLM_WANTED, LLM_ENCODED /* of a pair's decoder: operators/llm.h */, LLM_INPUTS };
enum llm_output { LLM_HIDDEN, LLM_LOGITS };

struct llm_build_options {
    enum linear_mode mode;
    int      kv_type;              /* ggml type number of keys and values: F32, F16, BF16, Q8_0, Q4_0 */
    int64_t  pages;                /* of the pool, for each layer */
};

/* Fills *g (opened by the caller: arena, device, memory_max). The model's files stay mapped as long as the graph: layers may borrow from them. */
enum status llm_build(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err);
/* The encoder of a model with decoder_layers, whose decoder llm_build makes: its output is hidden, and it keeps in the pool what the decoder looks at. Built after the decoder. */
enum status llm_build_encoder(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err);
/* How many layers a page has room for. */
int         llm_planes(const struct llm_config *c);
/* Bytes of one page of all layers together. */
uint64_t    llm_page_bytes(const struct llm_config *c, int kv_type);

#endif
