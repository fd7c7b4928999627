/* The architecture table: one row for a family, and how its files name their tensors. Sources: the GGUF naming of ggml's documentation, and the
 * parameter names and config.json of each family as published in Hugging Face folders. */
#include <stdio.h>
#include <string.h>

#include "engine/llm/model.h"

/* GGUF names a role alike in every family. '%d': the layer. */
static const char *const gguf_names[ROLE_COUNT][3] = {
    [ROLE_TOKENS] = { "token_embd" }, [ROLE_POSITIONS] = { "position_embd" }, [ROLE_TYPES] = { "token_types" }, [ROLE_EMBED_NORM] = { "token_embd_norm" },
    [ROLE_FINAL_NORM] = { "output_norm" }, [ROLE_HEAD] = { "output" }, [ROLE_ROPE_FACTORS] = { "rope_freqs" }, [ROLE_ROPE_LONG] = { "rope_factors_long" },
    [ROLE_ROPE_SHORT] = { "rope_factors_short" }, [ROLE_SCORE_DENSE] = { "cls" }, [ROLE_SCORE] = { "cls.output" },
    [ROLE_ATTENTION_NORM] = { "blk.%d.attn_norm" }, [ROLE_ATTENTION_NORM2] = { "blk.%d.attn_norm_2" }, [ROLE_Q] = { "blk.%d.attn_q" }, [ROLE_K] = { "blk.%d.attn_k" },
    [ROLE_V] = { "blk.%d.attn_v" }, [ROLE_QKV] = { "blk.%d.attn_qkv" }, [ROLE_O] = { "blk.%d.attn_output" }, [ROLE_Q_NORM] = { "blk.%d.attn_q_norm" }, [ROLE_K_NORM] = { "blk.%d.attn_k_norm" },
    [ROLE_SINKS] = { "blk.%d.attn_sinks" }, [ROLE_ATTENTION_POST] = { "blk.%d.post_attention_norm", "blk.%d.attn_output_norm" },
    [ROLE_FFN_NORM] = { "blk.%d.ffn_norm", "blk.%d.post_attention_norm" }, [ROLE_GATE] = { "blk.%d.ffn_gate" }, [ROLE_UP] = { "blk.%d.ffn_up" }, [ROLE_DOWN] = { "blk.%d.ffn_down" },
    [ROLE_FFN_POST] = { "blk.%d.post_ffw_norm", "blk.%d.layer_output_norm" }, [ROLE_ROUTER] = { "blk.%d.ffn_gate_inp" },
    [ROLE_EXPERT_GATE] = { "blk.%d.ffn_gate_exps", "blk.%d.ffn_gate.%e" }, [ROLE_EXPERT_UP] = { "blk.%d.ffn_up_exps", "blk.%d.ffn_up.%e" },
    [ROLE_EXPERT_GATE_UP] = { "blk.%d.ffn_gate_up_exps" }, [ROLE_EXPERT_DOWN] = { "blk.%d.ffn_down_exps", "blk.%d.ffn_down.%e" },
    [ROLE_SHARED_GATE] = { "blk.%d.ffn_gate_shexp" }, [ROLE_SHARED_UP] = { "blk.%d.ffn_up_shexp" }, [ROLE_SHARED_DOWN] = { "blk.%d.ffn_down_shexp" }, [ROLE_SHARED_ROUTER] = { "blk.%d.ffn_gate_inp_shexp" },
};

/* But for pairs of an encoder and a decoder. */
static const struct llm_names gguf_names_pair = { {
    [ROLE_TOKENS] = "token_embd", [ROLE_FINAL_NORM] = "enc.output_norm", [ROLE_PAIR_NORM] = "dec.output_norm", [ROLE_HEAD] = "output",
    [ROLE_ATTENTION_NORM] = "enc.blk.%d.attn_norm", [ROLE_Q] = "enc.blk.%d.attn_q", [ROLE_K] = "enc.blk.%d.attn_k", [ROLE_V] = "enc.blk.%d.attn_v", [ROLE_O] = "enc.blk.%d.attn_o", [ROLE_RELATIVE] = "enc.blk.%d.attn_rel_b",
    [ROLE_FFN_NORM] = "enc.blk.%d.ffn_norm", [ROLE_GATE] = "enc.blk.%d.ffn_gate", [ROLE_UP] = "enc.blk.%d.ffn_up", [ROLE_DOWN] = "enc.blk.%d.ffn_down",
    [ROLE_PAIR_ATTENTION_NORM] = "dec.blk.%d.attn_norm", [ROLE_PAIR_Q] = "dec.blk.%d.attn_q", [ROLE_PAIR_K] = "dec.blk.%d.attn_k", [ROLE_PAIR_V] = "dec.blk.%d.attn_v", [ROLE_PAIR_O] = "dec.blk.%d.attn_o",
    [ROLE_PAIR_RELATIVE] = "dec.blk.%d.attn_rel_b", [ROLE_CROSS_NORM] = "dec.blk.%d.cross_attn_norm", [ROLE_CROSS_Q] = "dec.blk.%d.cross_attn_q", [ROLE_CROSS_K] = "dec.blk.%d.cross_attn_k",
    [ROLE_CROSS_V] = "dec.blk.%d.cross_attn_v", [ROLE_CROSS_O] = "dec.blk.%d.cross_attn_o",
    [ROLE_PAIR_FFN_NORM] = "dec.blk.%d.ffn_norm", [ROLE_PAIR_GATE] = "dec.blk.%d.ffn_gate", [ROLE_PAIR_UP] = "dec.blk.%d.ffn_up", [ROLE_PAIR_DOWN] = "dec.blk.%d.ffn_down",
} };

/* Llama's names, which most families have taken over. A family's own table goes first. */
static const struct llm_names names_llama = { {
    [ROLE_TOKENS] = "model.embed_tokens", [ROLE_FINAL_NORM] = "model.norm", [ROLE_HEAD] = "lm_head", [ROLE_SCORE] = "score",
    [ROLE_ATTENTION_NORM] = "model.layers.%d.input_layernorm", [ROLE_Q] = "model.layers.%d.self_attn.q_proj", [ROLE_K] = "model.layers.%d.self_attn.k_proj", [ROLE_V] = "model.layers.%d.self_attn.v_proj",
    [ROLE_QKV] = "model.layers.%d.self_attn.qkv_proj", [ROLE_O] = "model.layers.%d.self_attn.o_proj", [ROLE_Q_NORM] = "model.layers.%d.self_attn.q_norm", [ROLE_K_NORM] = "model.layers.%d.self_attn.k_norm",
    [ROLE_SINKS] = "model.layers.%d.self_attn.sinks", [ROLE_FFN_NORM] = "model.layers.%d.post_attention_layernorm",
    [ROLE_GATE] = "model.layers.%d.mlp.gate_proj", [ROLE_UP] = "model.layers.%d.mlp.up_proj", [ROLE_GATE_UP] = "model.layers.%d.mlp.gate_up_proj", [ROLE_DOWN] = "model.layers.%d.mlp.down_proj",
    [ROLE_ROUTER] = "model.layers.%d.mlp.gate", [ROLE_EXPERT_GATE] = "model.layers.%d.mlp.experts.%e.gate_proj", [ROLE_EXPERT_UP] = "model.layers.%d.mlp.experts.%e.up_proj",
    [ROLE_EXPERT_GATE_UP] = "model.layers.%d.mlp.experts.gate_up_proj", [ROLE_EXPERT_DOWN] = "model.layers.%d.mlp.experts.%e.down_proj",
    [ROLE_SHARED_GATE] = "model.layers.%d.mlp.shared_expert.gate_proj", [ROLE_SHARED_UP] = "model.layers.%d.mlp.shared_expert.up_proj", [ROLE_SHARED_DOWN] = "model.layers.%d.mlp.shared_expert.down_proj",
    [ROLE_SHARED_ROUTER] = "model.layers.%d.mlp.shared_expert_gate",
} };
static const struct llm_names names_mixtral = { {
    [ROLE_ROUTER] = "model.layers.%d.block_sparse_moe.gate", [ROLE_EXPERT_GATE] = "model.layers.%d.block_sparse_moe.experts.%e.w1", [ROLE_EXPERT_DOWN] = "model.layers.%d.block_sparse_moe.experts.%e.w2",
    [ROLE_EXPERT_UP] = "model.layers.%d.block_sparse_moe.experts.%e.w3",
} };
static const struct llm_names names_gemma2 = { {
    [ROLE_ATTENTION_POST] = "model.layers.%d.post_attention_layernorm", [ROLE_FFN_NORM] = "model.layers.%d.pre_feedforward_layernorm", [ROLE_FFN_POST] = "model.layers.%d.post_feedforward_layernorm",
} };
static const struct llm_names names_olmo2 = { {
    [ROLE_ATTENTION_POST] = "model.layers.%d.post_attention_layernorm", [ROLE_FFN_POST] = "model.layers.%d.post_feedforward_layernorm", [ROLE_FFN_NORM] = "-",
} };
static const struct llm_names names_phi2 = { {
    [ROLE_FINAL_NORM] = "model.final_layernorm", [ROLE_O] = "model.layers.%d.self_attn.dense", [ROLE_UP] = "model.layers.%d.mlp.fc1", [ROLE_DOWN] = "model.layers.%d.mlp.fc2",
} };
static const struct llm_names names_starcoder2 = { { [ROLE_UP] = "model.layers.%d.mlp.c_fc", [ROLE_DOWN] = "model.layers.%d.mlp.c_proj" } };
static const struct llm_names names_gpt_oss = { {
    [ROLE_ROUTER] = "model.layers.%d.mlp.router", [ROLE_EXPERT_GATE_UP] = "model.layers.%d.mlp.experts.gate_up_proj", [ROLE_EXPERT_DOWN] = "model.layers.%d.mlp.experts.down_proj", [ROLE_EXPERT_GATE] = "-", [ROLE_EXPERT_UP] = "-",
} };
static const struct llm_names names_gpt2 = { {
    [ROLE_TOKENS] = "transformer.wte", [ROLE_POSITIONS] = "transformer.wpe", [ROLE_FINAL_NORM] = "transformer.ln_f", [ROLE_ATTENTION_NORM] = "transformer.h.%d.ln_1", [ROLE_QKV] = "transformer.h.%d.attn.c_attn",
    [ROLE_O] = "transformer.h.%d.attn.c_proj", [ROLE_FFN_NORM] = "transformer.h.%d.ln_2", [ROLE_UP] = "transformer.h.%d.mlp.c_fc", [ROLE_DOWN] = "transformer.h.%d.mlp.c_proj",
} };
static const struct llm_names names_gptj = { {
    [ROLE_TOKENS] = "transformer.wte", [ROLE_FINAL_NORM] = "transformer.ln_f", [ROLE_ATTENTION_NORM] = "transformer.h.%d.ln_1", [ROLE_Q] = "transformer.h.%d.attn.q_proj", [ROLE_K] = "transformer.h.%d.attn.k_proj",
    [ROLE_V] = "transformer.h.%d.attn.v_proj", [ROLE_O] = "transformer.h.%d.attn.out_proj", [ROLE_UP] = "transformer.h.%d.mlp.fc_in", [ROLE_DOWN] = "transformer.h.%d.mlp.fc_out",
} };
static const struct llm_names names_neox = { {
    [ROLE_TOKENS] = "gpt_neox.embed_in", [ROLE_FINAL_NORM] = "gpt_neox.final_layer_norm", [ROLE_HEAD] = "embed_out", [ROLE_ATTENTION_NORM] = "gpt_neox.layers.%d.input_layernorm",
    [ROLE_FFN_NORM] = "gpt_neox.layers.%d.post_attention_layernorm", [ROLE_QKV] = "gpt_neox.layers.%d.attention.query_key_value", [ROLE_O] = "gpt_neox.layers.%d.attention.dense",
    [ROLE_UP] = "gpt_neox.layers.%d.mlp.dense_h_to_4h", [ROLE_DOWN] = "gpt_neox.layers.%d.mlp.dense_4h_to_h",
} };
static const struct llm_names names_falcon = { {
    [ROLE_TOKENS] = "transformer.word_embeddings", [ROLE_FINAL_NORM] = "transformer.ln_f", [ROLE_ATTENTION_NORM] = "transformer.h.%d.input_layernorm", [ROLE_FFN_NORM] = "transformer.h.%d.post_attention_layernorm",
    [ROLE_QKV] = "transformer.h.%d.self_attention.query_key_value", [ROLE_O] = "transformer.h.%d.self_attention.dense", [ROLE_UP] = "transformer.h.%d.mlp.dense_h_to_4h", [ROLE_DOWN] = "transformer.h.%d.mlp.dense_4h_to_h",
} };
static const struct llm_names names_falcon_new = { { [ROLE_ATTENTION_NORM] = "transformer.h.%d.ln_attn", [ROLE_FFN_NORM] = "transformer.h.%d.ln_mlp" } };
static const struct llm_names names_bloom = { {
    [ROLE_TOKENS] = "transformer.word_embeddings", [ROLE_EMBED_NORM] = "transformer.word_embeddings_layernorm", [ROLE_FINAL_NORM] = "transformer.ln_f", [ROLE_ATTENTION_NORM] = "transformer.h.%d.input_layernorm",
    [ROLE_FFN_NORM] = "transformer.h.%d.post_attention_layernorm", [ROLE_QKV] = "transformer.h.%d.self_attention.query_key_value", [ROLE_O] = "transformer.h.%d.self_attention.dense",
    [ROLE_UP] = "transformer.h.%d.mlp.dense_h_to_4h", [ROLE_DOWN] = "transformer.h.%d.mlp.dense_4h_to_h",
} };
static const struct llm_names names_mpt = { {
    [ROLE_TOKENS] = "transformer.wte", [ROLE_FINAL_NORM] = "transformer.norm_f", [ROLE_ATTENTION_NORM] = "transformer.blocks.%d.norm_1", [ROLE_FFN_NORM] = "transformer.blocks.%d.norm_2",
    [ROLE_QKV] = "transformer.blocks.%d.attn.Wqkv", [ROLE_O] = "transformer.blocks.%d.attn.out_proj", [ROLE_UP] = "transformer.blocks.%d.ffn.up_proj", [ROLE_DOWN] = "transformer.blocks.%d.ffn.down_proj",
} };
static const struct llm_names names_bert = { {
    [ROLE_TOKENS] = "embeddings.word_embeddings", [ROLE_POSITIONS] = "embeddings.position_embeddings", [ROLE_TYPES] = "embeddings.token_type_embeddings", [ROLE_EMBED_NORM] = "embeddings.LayerNorm",
    [ROLE_Q] = "encoder.layer.%d.attention.self.query", [ROLE_K] = "encoder.layer.%d.attention.self.key", [ROLE_V] = "encoder.layer.%d.attention.self.value", [ROLE_O] = "encoder.layer.%d.attention.output.dense",
    [ROLE_ATTENTION_POST] = "encoder.layer.%d.attention.output.LayerNorm", [ROLE_UP] = "encoder.layer.%d.intermediate.dense", [ROLE_DOWN] = "encoder.layer.%d.output.dense",
    [ROLE_FFN_POST] = "encoder.layer.%d.output.LayerNorm", [ROLE_POOLER] = "pooler.dense", [ROLE_SCORE] = "classifier",
} };
/* As BERT, but for the classifying head. */
static const struct llm_names names_roberta = { {
    [ROLE_SCORE_DENSE] = "classifier.dense", [ROLE_SCORE] = "classifier.out_proj",
} };
static const struct llm_names names_distilbert = { {
    [ROLE_TOKENS] = "embeddings.word_embeddings", [ROLE_POSITIONS] = "embeddings.position_embeddings", [ROLE_EMBED_NORM] = "embeddings.LayerNorm", [ROLE_Q] = "transformer.layer.%d.attention.q_lin",
    [ROLE_K] = "transformer.layer.%d.attention.k_lin", [ROLE_V] = "transformer.layer.%d.attention.v_lin", [ROLE_O] = "transformer.layer.%d.attention.out_lin",
    [ROLE_ATTENTION_POST] = "transformer.layer.%d.sa_layer_norm", [ROLE_UP] = "transformer.layer.%d.ffn.lin1", [ROLE_DOWN] = "transformer.layer.%d.ffn.lin2", [ROLE_FFN_POST] = "transformer.layer.%d.output_layer_norm",
    [ROLE_SCORE_DENSE] = "pre_classifier", [ROLE_SCORE] = "classifier",
} };
static const struct llm_names names_nomic = { {
    [ROLE_TOKENS] = "embeddings.word_embeddings", [ROLE_TYPES] = "embeddings.token_type_embeddings", [ROLE_EMBED_NORM] = "emb_ln", [ROLE_QKV] = "encoder.layers.%d.attn.Wqkv", [ROLE_O] = "encoder.layers.%d.attn.out_proj",
    [ROLE_ATTENTION_POST] = "encoder.layers.%d.norm1", [ROLE_UP] = "encoder.layers.%d.mlp.fc11", [ROLE_GATE] = "encoder.layers.%d.mlp.fc12", [ROLE_DOWN] = "encoder.layers.%d.mlp.fc2", [ROLE_FFN_POST] = "encoder.layers.%d.norm2",
} };

#define ENCODER "encoder.block.%d.layer."
#define DECODER "decoder.block.%d.layer."
static const struct llm_names names_t5 = { {
    [ROLE_TOKENS] = "shared", [ROLE_FINAL_NORM] = "encoder.final_layer_norm", [ROLE_PAIR_NORM] = "decoder.final_layer_norm",
    [ROLE_ATTENTION_NORM] = ENCODER "0.layer_norm", [ROLE_Q] = ENCODER "0.SelfAttention.q", [ROLE_K] = ENCODER "0.SelfAttention.k", [ROLE_V] = ENCODER "0.SelfAttention.v", [ROLE_O] = ENCODER "0.SelfAttention.o",
    [ROLE_RELATIVE] = ENCODER "0.SelfAttention.relative_attention_bias", [ROLE_FFN_NORM] = ENCODER "1.layer_norm",
    [ROLE_GATE] = ENCODER "1.DenseReluDense.wi_0", [ROLE_UP] = ENCODER "1.DenseReluDense.wi", [ROLE_GATE_UP] = "-", [ROLE_DOWN] = ENCODER "1.DenseReluDense.wo",
    [ROLE_PAIR_ATTENTION_NORM] = DECODER "0.layer_norm", [ROLE_PAIR_Q] = DECODER "0.SelfAttention.q", [ROLE_PAIR_K] = DECODER "0.SelfAttention.k", [ROLE_PAIR_V] = DECODER "0.SelfAttention.v",
    [ROLE_PAIR_O] = DECODER "0.SelfAttention.o", [ROLE_PAIR_RELATIVE] = DECODER "0.SelfAttention.relative_attention_bias",
    [ROLE_CROSS_NORM] = DECODER "1.layer_norm", [ROLE_CROSS_Q] = DECODER "1.EncDecAttention.q", [ROLE_CROSS_K] = DECODER "1.EncDecAttention.k", [ROLE_CROSS_V] = DECODER "1.EncDecAttention.v",
    [ROLE_CROSS_O] = DECODER "1.EncDecAttention.o", [ROLE_PAIR_FFN_NORM] = DECODER "2.layer_norm",
    [ROLE_PAIR_GATE] = DECODER "2.DenseReluDense.wi_0", [ROLE_PAIR_UP] = DECODER "2.DenseReluDense.wi", [ROLE_PAIR_DOWN] = DECODER "2.DenseReluDense.wo",
} };
/* The second half of a gate. */
static const struct llm_names names_t5_gated = { { [ROLE_UP] = ENCODER "1.DenseReluDense.wi_1", [ROLE_PAIR_UP] = DECODER "2.DenseReluDense.wi_1" } };

#define FOLDERS(...) (const char *const[]){ __VA_ARGS__, NULL }
static const struct llm_architecture rows[] = {
    { "llama", FOLDERS("llama", "mistral", "ministral", "smollm3"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_ADJACENT_GGUF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "llama", FOLDERS("mixtral"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_ADJACENT_GGUF, { ACT_SILU, 0, 0 }, 0, 0, &names_mixtral },
    { "granite", FOLDERS("granite"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_ADJACENT_GGUF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "qwen2", FOLDERS("qwen2"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "qwen2moe", FOLDERS("qwen2_moe"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, LLM_NO_RENORM, 0, NULL },
    { "qwen3", FOLDERS("qwen3"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "qwen3moe", FOLDERS("qwen3_moe"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "gemma", FOLDERS("gemma"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_GELU_TANH, 0, 0 }, LLM_NORM_PLUS_ONE | LLM_EMBED_SCALED, 0, NULL },
    { "gemma2", FOLDERS("gemma2"), NORM_RMS, BLOCK_SANDWICH, ROPE_HALF, { ACT_GELU_TANH, 0, 0 }, LLM_NORM_PLUS_ONE | LLM_EMBED_SCALED, 2, &names_gemma2 },
    { "gemma3", FOLDERS("gemma3_text"), NORM_RMS, BLOCK_SANDWICH, ROPE_HALF, { ACT_GELU_TANH, 0, 0 }, LLM_NORM_PLUS_ONE | LLM_EMBED_SCALED | LLM_LOCAL_BASE, 6, &names_gemma2 },
    { "phi2", FOLDERS("phi"), NORM_LAYER, BLOCK_PARALLEL, ROPE_HALF, { ACT_GELU_TANH, 0, 0 }, 0, 0, &names_phi2 },
    { "phi3", FOLDERS("phi3"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "gpt2", FOLDERS("gpt2"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_NONE, { ACT_GELU_TANH, 0, 0 }, LLM_TRANSPOSED, 0, &names_gpt2 },
    { "gptj", FOLDERS("gptj"), NORM_LAYER, BLOCK_PARALLEL, ROPE_ADJACENT, { ACT_GELU_TANH, 0, 0 }, 0, 0, &names_gptj },
    { "gptneox", FOLDERS("gpt_neox"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_GELU, 0, 0 }, LLM_QKV_BY_HEAD, 0, &names_neox },
    { "falcon", FOLDERS("falcon"), NORM_LAYER, BLOCK_PARALLEL, ROPE_HALF, { ACT_GELU, 0, 0 }, LLM_QKV_BY_HEAD, 0, &names_falcon },
    { "bloom", FOLDERS("bloom"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_NONE, { ACT_GELU_TANH, 0, 0 }, LLM_QKV_BY_HEAD | LLM_ALIBI, 0, &names_bloom },
    { "mpt", FOLDERS("mpt"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_NONE, { ACT_GELU, 0, 0 }, LLM_ALIBI, 0, &names_mpt },
    { "starcoder2", FOLDERS("starcoder2"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_GELU_TANH, 0, 0 }, 0, 0, &names_starcoder2 },
    { "stablelm", FOLDERS("stablelm"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "olmo", FOLDERS("olmo"), NORM_LAYER, BLOCK_SEQUENTIAL, ROPE_ADJACENT_GGUF, { ACT_SILU, 0, 0 }, 0, 0, NULL },
    { "olmo2", FOLDERS("olmo2"), NORM_RMS, BLOCK_POST_NORM, ROPE_HALF, { ACT_SILU, 0, 0 }, 0, 0, &names_olmo2 },
    { "olmoe", FOLDERS("olmoe"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, LLM_NO_RENORM, 0, NULL },
    { "gpt-oss", FOLDERS("gpt_oss"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_HALF, { ACT_SILU, 0, 0 }, LLM_SOFTMAX_LATER | LLM_CLAMPED_GATE, 2, &names_gpt_oss },
    { "bert", FOLDERS("bert"), NORM_LAYER, BLOCK_AFTER, ROPE_NONE, { ACT_GELU, 0, 0 }, LLM_ENCODER, 0, &names_bert },
    { "roberta", FOLDERS("roberta", "xlm-roberta"), NORM_LAYER, BLOCK_AFTER, ROPE_NONE, { ACT_GELU, 0, 0 }, LLM_ENCODER | LLM_POSITION_SHIFT, 0, &names_roberta },
    { "distilbert", FOLDERS("distilbert"), NORM_LAYER, BLOCK_AFTER, ROPE_NONE, { ACT_GELU, 0, 0 }, LLM_ENCODER, 0, &names_distilbert },
    { "t5", FOLDERS("t5", "mt5"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_NONE, { ACT_RELU, 0, 0 }, LLM_ENCODER | LLM_PAIR, 0, &names_t5 },
    { "t5encoder", FOLDERS("t5encoder"), NORM_RMS, BLOCK_SEQUENTIAL, ROPE_NONE, { ACT_RELU, 0, 0 }, LLM_ENCODER | LLM_PAIR, 0, &names_t5 },
    { "nomic-bert", FOLDERS("nomic_bert"), NORM_LAYER, BLOCK_AFTER, ROPE_HALF, { ACT_SILU, 0, 0 }, LLM_ENCODER, 0, &names_nomic },
};

const struct llm_architecture *llm_architecture_of_gguf(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strlen(rows[i].name) == length && memcmp(rows[i].name, name, length) == 0) return &rows[i];
    return NULL;
}

const struct llm_architecture *llm_architecture_of_folder(const char *model_type)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (const char *const *f = rows[i].folders; *f; f++)
            if (strcmp(*f, model_type) == 0) return &rows[i];
    return NULL;
}

/* "%d" and "%e" replaced; nothing else of printf. */
static void put_numbers(const char *pattern, int layer, int expert, char *out, size_t size)
{
    size_t n = 0;
    for (const char *p = pattern; *p && n + 12 < size; p++) {
        if (p[0] == '%' && (p[1] == 'd' || p[1] == 'e')) n += (size_t)snprintf(out + n, size - n, "%d", *++p == 'd' ? layer : expert);
        else out[n++] = *p;
    }
    out[n] = 0;
}

bool llm_role_name(const struct llm_architecture *a, bool folder, enum llm_role role, int layer, int expert, int index, char *out, size_t size)
{
    const char *list[4] = { NULL };
    int n = 0;
    if (!folder && a->flags & LLM_PAIR) {
        if (gguf_names_pair.names[role]) list[n++] = gguf_names_pair.names[role];
    } else if (!folder) {
        for (int i = 0; i < 3 && gguf_names[role][i]; i++) list[n++] = gguf_names[role][i];
    } else {
        const char *own = a->hf ? a->hf->names[role] : NULL;
        if (!own && a->hf == &names_roberta) own = names_bert.names[role];
        if (own) list[n++] = own;
        else if (names_llama.names[role]) list[n++] = names_llama.names[role];
        if (a->hf == &names_t5 && names_t5_gated.names[role]) list[n++] = names_t5_gated.names[role];
        if (a->hf == &names_falcon && names_falcon_new.names[role]) list[n++] = names_falcon_new.names[role];
    }
    if (index >= n || list[index][0] == '-') return false;
    put_numbers(list[index], layer, expert, out, size);
    return true;
}
