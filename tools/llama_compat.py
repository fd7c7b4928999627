#!/usr/bin/env python3
"""Our quantised files in llama.cpp: every type that `inferd quantize` writes and llama.cpp knows is loaded there and computes what we compute, within its own rounding; and what either loses in
its quick mode against the file's exact numbers, as the mean KL divergence of the next token's distribution.

The model: random Llama of width 512, three layers, logits of standard deviation 2 and more. The exact numbers: `inferd logits --precision f32`, which equals the decoded weights in f32
(tests/llm/quantised_test.c). llama-cpp-python is the one that tools/bench_texts.py builds (build/texts/venv; --venv names another).
usage: llama_compat.py [--inferd build/release/inferd] [--venv build/texts/venv] [--types Q4_K_M,Q8_0] [--tokens 256]
"""
import argparse
import json
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build/llama-compat")
TYPES = "F16 Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_L Q3_K_M Q3_K_S Q2_K Q5_1 Q5_0 Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4 TQ2_0 TQ1_0".split()
WIDTH, LAYERS, HEADS, KV, FFN, VOCABULARY = 512, 3, 8, 4, 1024, 1024


def make_source(path):
    import gguf
    rng = np.random.default_rng(7)
    w = gguf.GGUFWriter(path, "llama")
    for name, value in (("context_length", 1024), ("embedding_length", WIDTH), ("block_count", LAYERS), ("feed_forward_length", FFN), ("head_count", HEADS), ("head_count_kv", KV)):
        getattr(w, "add_" + name)(value)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(WIDTH // HEADS)
    w.add_file_type(1)
    w.add_tokenizer_model("no_vocab")
    w.add_vocab_size(VOCABULARY)
    random = lambda n, k, gain: (rng.standard_normal((n, k)) * gain / k ** 0.5).astype(np.float16)
    w.add_tensor("token_embd.weight", random(VOCABULARY, WIDTH, WIDTH ** 0.5))
    w.add_tensor("output.weight", random(VOCABULARY, WIDTH, 2.5))
    w.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        head = WIDTH // HEADS
        for name, n, k, gain in (("attn_q", WIDTH, WIDTH, 1.5), ("attn_k", KV * head, WIDTH, 1.5), ("attn_v", KV * head, WIDTH, 1), ("attn_output", WIDTH, WIDTH, 1), ("ffn_gate", FFN, WIDTH, 1.5), ("ffn_up", FFN, WIDTH, 1.5), ("ffn_down", WIDTH, FFN, 1)):
            w.add_tensor("blk.%d.%s.weight" % (layer, name), random(n, k, gain))
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor("blk.%d.%s.weight" % (layer, name), (1 + 0.2 * rng.standard_normal(WIDTH)).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama_logits(path, tokens, out):
    """Runs in the environment that has llama.cpp."""
    import llama_cpp as L
    L.llama_backend_init()
    model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
    if not model:
        raise SystemExit("llama.cpp does not load it")
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch = 1024, 512, 512, 2, 2
    p.type_k = p.type_v = 0      # F32 keys and values: only the weights' rounding is looked at
    context = L.llama_init_from_model(model, p)
    b = L.llama_batch_init(len(tokens), 0, 1)
    b.n_tokens = len(tokens)
    for i, t in enumerate(tokens):
        b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = t, i, 1, True
        b.seq_id[i][0] = 0
    assert L.llama_decode(context, b) == 0
    np.save(out, np.stack([np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), (VOCABULARY,)).copy() for i in range(len(tokens))]))


def divergence(exact, other):
    """Mean over positions of KL(exact || other)."""
    log = lambda x: x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
    a, b = log(exact.astype(np.float64)), log(other.astype(np.float64))
    return float((np.exp(a) * (a - b)).sum(-1).mean())


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    a.add_argument("--venv", default=os.path.join(ROOT, "build/texts/venv"))
    a.add_argument("--types", default=",".join(TYPES))
    a.add_argument("--tokens", type=int, default=256)
    a.add_argument("--inside", nargs=3)
    a = a.parse_args()
    if a.inside:
        llama_logits(a.inside[0], json.loads(a.inside[1]), a.inside[2])
        return 0
    python = os.path.join(a.venv, "bin/python")
    if subprocess.run([python, "-c", "import llama_cpp"], stderr=subprocess.DEVNULL).returncode:
        raise SystemExit("%s has no llama_cpp: `make bench-texts` builds one" % python)
    os.makedirs(WORK, exist_ok=True)
    source = os.path.join(WORK, "f16.gguf")
    make_source(source)
    tokens = [int(x) for x in np.random.default_rng(1).integers(0, VOCABULARY, a.tokens)]

    def ours(path, precision):
        out = os.path.join(WORK, precision + ".npy")
        subprocess.run([a.inferd, "logits", path, "--tokens", " ".join(map(str, tokens)), "--output", out, "--precision", precision], check=True)
        return np.load(out)
    worse = refused = 0
    plain = ours(source, "f32")
    print("logits have a standard deviation of %.2f" % plain.std())
    print("%-8s %14s %14s %12s %12s   %s" % ("type", "KL llama.cpp", "KL inferd", "max llama", "max inferd", "KL of the type itself"))
    for kind in a.types.split(","):
        path = source if kind == "F16" else os.path.join(WORK, kind.lower() + ".gguf")
        if kind != "F16":
            subprocess.run([a.inferd, "quantize", source, path, kind], check=True, stdout=subprocess.DEVNULL)
        exact, fast = ours(path, "f32"), ours(path, "auto")
        got = os.path.join(WORK, "llama.npy")
        r = subprocess.run([python, os.path.abspath(__file__), "--inside", path, json.dumps(tokens), got], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if r.returncode:
            print("%-8s llama.cpp: %s" % (kind, r.stderr.strip().splitlines()[-1]))
            refused += 1
            continue
        theirs = np.load(got)
        of_llama, of_ours = divergence(exact, theirs), divergence(exact, fast)
        print("%-8s %14.3g %14.3g %12.3g %12.3g   %.3g" % (kind, of_llama, of_ours, np.abs(theirs - exact).max(), np.abs(fast - exact).max(), divergence(plain, exact)))
        worse += of_ours > max(1.05 * of_llama, 1e-9)      # unquantised ones are exact but for the order of sums
        refused += of_llama > 0.01                  # not the same model
    print("%d types: %d not computed alike by llama.cpp, %d where inferd's quick mode loses more" % (len(a.types.split(",")), refused, worse))
    return 1 if refused or worse else 0


sys.exit(main())
