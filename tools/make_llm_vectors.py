#!/usr/bin/env python3
"""Writes tests/llm/vectors/NAME.txt: for every row of the architecture table a tiny model of every layer type, as transformers computes it in float32.

Weights are not stored: parameter NAME's element i is base + amplitude * u(NAME, i), u uniform in [-1, 1) from a hash, so that the test makes the same file.
Amplitudes are such that logits spread (standard deviation of 2 and more) and every bias, norm and scale matters. Needs PyPI's torch and transformers.
usage: make_llm_vectors.py [NAME...]
"""
import json
import math
import os
import sys
import tempfile

import numpy as np
import torch
import transformers as tf
from safetensors import safe_open

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
from tiny_models import uniform

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "llm", "vectors")
V, T = 48, 32


COMMON = dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=128,
              bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)


def common(**more):
    c = dict(COMMON)
    c.update(more)
    return {k: v for k, v in c.items() if v is not None}


T5 = dict(vocab_size=V, d_model=32, d_kv=12, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=4, relative_attention_num_buckets=8, relative_attention_max_distance=14, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, n_positions=64)

# name: (config class, model class, settings, features that the test switches off one by one)
MODELS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", common(attention_bias=True, mlp_bias=True, rope_theta=1000.0), ["zero:self_attn.q_proj.bias", "zero:mlp.down_proj.bias", "rotation"]),
    "llama_tied": ("LlamaConfig", "LlamaForCausalLM", common(tie_word_embeddings=True, head_dim=12), ["rotation"]),
    "llama_llama3": ("LlamaConfig", "LlamaForCausalLM", common(rope_parameters={"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}), ["scaling"]),
    "llama_linear": ("LlamaConfig", "LlamaForCausalLM", common(rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}), ["scaling"]),
    "llama_yarn": ("LlamaConfig", "LlamaForCausalLM", common(rope_parameters={"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}), ["scaling"]),
    "mistral": ("MistralConfig", "MistralForCausalLM", common(sliding_window=9), ["window"]),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", common(num_local_experts=4, num_experts_per_tok=2, sliding_window=None), ["experts"]),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", common(), ["zero:q_proj.bias", "zero:v_proj.bias"]),
    "qwen2_window": ("Qwen2Config", "Qwen2ForCausalLM", common(use_sliding_window=True, sliding_window=8, max_window_layers=1), ["window"]),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", common(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40, norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[]), ["experts", "renormalise"]),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", common(head_dim=16), ["one:q_norm.weight"]),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", common(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[]), ["experts", "renormalise"]),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", common(head_dim=16, tie_word_embeddings=True), ["plus_one", "embedding_scale"]),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", common(head_dim=16, tie_word_embeddings=True, sliding_window=8, query_pre_attn_scalar=10, attn_logit_softcapping=5.0, final_logit_softcapping=6.0), ["plus_one", "window", "attention_softcap", "final_softcap", "attention_scale"]),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", common(head_dim=16, tie_word_embeddings=True, sliding_window=8, num_hidden_layers=6, query_pre_attn_scalar=10), ["plus_one", "window", "local_base", "attention_scale", "one:q_norm.weight"]),
    "phi": ("PhiConfig", "PhiForCausalLM", common(partial_rotary_factor=0.5, num_key_value_heads=4), ["rotary", "zero:fc1.bias", "zero:lm_head.bias"]),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", common(sliding_window=9), ["window"]),
    "phi3_longrope": ("Phi3Config", "Phi3ForCausalLM", common(original_max_position_embeddings=64, rope_parameters={"rope_type": "longrope", "rope_theta": 1000.0, "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 5.0, 9.0], "original_max_position_embeddings": 64}), ["scaling"]),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", dict(vocab_size=V, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2), ["zero:c_attn.bias", "zero:wpe"]),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", dict(vocab_size=V, n_embd=32, n_layer=3, n_head=4, n_positions=64, rotary_dim=4, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False), ["rotary", "zero:lm_head.bias"]),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", common(num_key_value_heads=None, rotary_pct=0.5, use_parallel_residual=True), ["rotary", "parallel"]),
    "gpt_neox_sequential": ("GPTNeoXConfig", "GPTNeoXForCausalLM", common(num_key_value_heads=None, rotary_pct=0.5, use_parallel_residual=False), ["parallel"]),
    "falcon": ("FalconConfig", "FalconForCausalLM", dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, multi_query=True, parallel_attn=True, new_decoder_architecture=False, bias=False, alibi=False, bos_token_id=1, eos_token_id=2), ["rotation"]),
    "falcon_new": ("FalconConfig", "FalconForCausalLM", dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True, parallel_attn=True, bias=False, alibi=False, bos_token_id=1, eos_token_id=2), ["one:ln_attn.weight"]),
    "falcon_rw": ("FalconConfig", "FalconForCausalLM", dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, multi_query=False, parallel_attn=False, new_decoder_architecture=False, bias=True, alibi=True, bos_token_id=1, eos_token_id=2), ["alibi", "zero:dense_4h_to_h.bias"]),
    "bloom": ("BloomConfig", "BloomForCausalLM", dict(vocab_size=V, hidden_size=36, n_layer=3, n_head=6, bos_token_id=1, eos_token_id=2), ["alibi", "one:word_embeddings_layernorm", "zero:query_key_value.bias"]),
    "mpt": ("MptConfig", "MptForCausalLM", dict(vocab_size=V, d_model=32, n_layers=3, n_heads=4, expansion_ratio=4, max_seq_len=64, attn_config={"alibi": True, "clip_qkv": 1.5}, bos_token_id=1, eos_token_id=2), ["alibi", "clip"]),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", common(sliding_window=9, use_bias=True, tie_word_embeddings=True), ["window", "zero:c_fc.bias"]),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", common(partial_rotary_factor=0.25, use_qkv_bias=True), ["rotary", "zero:q_proj.bias"]),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", common(clip_qkv=0.8), ["clip"]),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", common(), ["one:q_norm.weight", "one:post_attention_layernorm.weight"]),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", common(num_experts=4, num_experts_per_tok=2, norm_topk_prob=False), ["experts", "renormalise", "one:k_norm.weight"]),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", common(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, num_hidden_layers=4, rope_parameters={"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 32}), ["window", "scaling", "experts", "low:sinks"]),
    "granite": ("GraniteConfig", "GraniteForCausalLM", common(embedding_multiplier=3.0, residual_multiplier=0.6, attention_multiplier=0.5, logits_scaling=0.5), ["embedding_scale", "residual_scale", "attention_scale", "logits_scale"]),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", common(no_rope_layers=[1, 0, 1]), ["rotation", "unrotated"]),
    "bert": ("BertConfig", "BertModel", dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64), ["zero:query.bias", "zero:token_type"]),
    "bert_score": ("BertConfig", "BertForSequenceClassification", dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64, num_labels=1), ["zero:classifier.bias"]),
    "roberta": ("RobertaConfig", "RobertaModel", dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1), []),
    "roberta_score": ("RobertaConfig", "RobertaForSequenceClassification", dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, num_labels=1), []),
    "t5": ("T5Config", "T5ForConditionalGeneration", dict(T5, feed_forward_proj="relu"), ["zero:encoder.block.0.layer.0.SelfAttention.relative", "zero:decoder.block.0.layer.0.SelfAttention.relative", "zero:EncDecAttention.v", "one:decoder.block.1.layer.1.layer_norm", "logits_scale", "activation", "distance"]),
    "t5_gated": ("T5Config", "T5ForConditionalGeneration", dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False), ["activation", "zero:wi_0", "zero:EncDecAttention.q", "distance"]),
    "t5_encoder": ("T5Config", "T5EncoderModel", dict(T5, feed_forward_proj="gated-gelu"), ["activation", "distance", "zero:relative_attention_bias"]),
    "distilbert": ("DistilBertConfig", "DistilBertModel", dict(vocab_size=V, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64), []),
}


def rule(name, shape, tied):
    """(base, amplitude) of a parameter."""
    last = name.rsplit(".", 1)[-1]
    norm = any(k in name.lower() for k in ("norm", "ln_", ".ln", "layer_norm"))
    if last == "bias" or last.endswith("_bias"):
        return 0.0, 0.5
    if norm:
        return 1.0, 0.6
    if name.startswith("shared"):
        return 0.0, 6.0
    if "relative_attention_bias" in name:
        return 0.0, 3.0
    if "sinks" in name:
        return 0.5, 1.0
    if len(shape) == 1:
        return 1.0, 0.6
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0.0, 1.0
    fan = shape[-2] if any(k in name for k in ("c_attn", "c_proj", "c_fc", "experts.gate_up_proj", "experts.down_proj")) and len(shape) >= 2 else shape[-1]
    if "lm_head" in name or "embed_out" in name:
        return 0.0, 4.0 * math.sqrt(3.0 / shape[-1]) * 0.6
    gain = 3.0 if "q_proj" in name or "k_proj" in name else 2.0
    return 0.0, gain * math.sqrt(3.0 / fan) * 0.6


def main(names):
    os.makedirs(OUT, exist_ok=True)
    for name in names or MODELS:
        config_class, model_class, settings, features = MODELS[name]
        torch.manual_seed(0)
        config = getattr(tf, config_class)(**settings)
        kind = "sdpa" if name == "falcon_rw" else "eager"      # transformers 5.24 adds Falcon's alibi twice when eager, in the mask and in the attention
        config._attn_implementation = kind
        model = getattr(tf, model_class)(config).float().eval()
        tied = bool(getattr(config, "tie_word_embeddings", False))
        with tempfile.TemporaryDirectory() as d:
            model.save_pretrained(d)          # the names and layouts of files, not of modules
            tensors = []
            stored = {}
            with safe_open(os.path.join(d, "model.safetensors"), "pt") as f:
                for key in sorted(f.keys()):
                    shape = tuple(f.get_tensor(key).shape)
                    if "inv_freq" in key or "masked_bias" in key or key.endswith(".attn.bias"):
                        continue
                    base, amplitude = rule(key, shape, tied)
                    if config_class.startswith("Gemma") and "norm" in key:
                        base = 0.0
                    tensors.append((key, base, amplitude, shape))
                    stored[key] = torch.from_numpy((np.float32(base) + np.float32(amplitude) * uniform(key, int(np.prod(shape)))).reshape(shape))
            if name == "t5_gated":      # a head of its own, as the published files have; transformers leaves it out of what it writes
                tensors.append(("lm_head.weight",) + rule("lm_head.weight", (V, 32), tied) + ((V, 32),))
                stored["lm_head.weight"] = torch.from_numpy((np.float32(tensors[-1][2]) * uniform("lm_head.weight", V * 32)).reshape(V, 32))
            from safetensors.torch import save_file
            save_file(stored, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
            model = getattr(tf, model_class).from_pretrained(d, dtype=torch.float32, attn_implementation=kind).eval()
            with open(os.path.join(d, "config.json")) as f:
                text = json.dumps(json.load(f), sort_keys=True)
        ids = [(7 * i * i + 3 * i + 5) % (V - 3) + 3 for i in range(T)]
        with torch.no_grad():
            if "ForConditionalGeneration" in model_class:      # the test's encoder reads the same tokens backwards, but for the last ones
                out = model(input_ids=torch.tensor([ids[:4:-1]]), decoder_input_ids=torch.tensor([ids]))
                greedy = model.generate(torch.tensor([ids[:4:-1]]), do_sample=False, max_new_tokens=16, min_new_tokens=16)[0][1:].tolist()
            else:
                out = model(torch.tensor([ids]), output_hidden_states=False)
        values = out.logits[0] if hasattr(out, "logits") else out.last_hidden_state[0]
        values = values.float().numpy()
        if values.ndim == 1:
            values = values[None]
        spread = float(values.std())
        with open(os.path.join(OUT, name + ".txt"), "w") as f:
            f.write("config " + text + "\n")
            for key, base, amplitude, shape in tensors:
                f.write("tensor %s %s %s %s\n" % (key, np.float32(base).tobytes()[::-1].hex(), np.float32(amplitude).tobytes()[::-1].hex(), " ".join(map(str, shape))))
            f.write("tokens " + " ".join(map(str, ids)) + "\n")
            if "ForConditionalGeneration" in model_class:
                f.write("greedy " + " ".join(map(str, greedy)) + "\n")
            for feature in features:
                f.write("feature " + feature + "\n")
            f.write("values %d %d\n" % values.shape)
            for row in values:
                f.write(" ".join("%.7g" % x for x in row) + "\n")
        print(name, values.shape, "spread %.2f" % spread, "" if spread >= 2 or "score" in name or values.shape[1] == 32 else "TOO NARROW")


main(sys.argv[1:])
