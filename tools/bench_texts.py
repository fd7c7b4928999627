#!/usr/bin/env python3
"""inferd and llama.cpp on the same GGUF files of Llama-3.2-1B's shape (random weights), same threads, in turns: prefill of 512 tokens, decode, several sequences.

llama-cpp-python is built from its source with the machine's own flags (some 15 minutes, once), its AMX tile configuration made safe for GCC 12, which otherwise drops
stores to it. Both sides as llama-bench counts: no sampling, no tokenising; llama.cpp with flash attention off and on and with its repacked weights and without, the
best of the four, and of as many turns of inferd beside them. Beside decode stands the rate at which weights were read, and what memory gives in the same minute (`kernels_bench memory`).
The files have a vocabulary of made-up syllables, so that text goes in and out of a server (tools/bench_stream.py).
usage: bench_texts.py [--types q4_k_m,q6_k,q8_0,q4_0,f16,bf16] [--sequences 1,16] [--rounds 3] [--threads 2] [--inferd build/release/inferd]
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build/texts")
VENV = os.path.join(WORK, "venv")
PYTHON = os.path.join(VENV, "bin/python")
TYPES = {"iq3_s": 26, "tq2_0": 37, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q8_0": 7, "q6_k": 18, "q4_0": 2, "bf16": 32}


def run(*command, **more):
    return subprocess.run(command, check=True, **more)


def prepare():
    os.makedirs(WORK, exist_ok=True)
    if not os.path.exists(PYTHON):
        run(sys.executable, "-m", "venv", VENV)
        run(PYTHON, "-m", "pip", "install", "-q", "numpy", "gguf", "diskcache", "jinja2", "typing_extensions")
    if subprocess.run([PYTHON, "-c", "import llama_cpp"], stderr=subprocess.DEVNULL).returncode:
        run(PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", WORK, "llama-cpp-python")
        archive = glob.glob(os.path.join(WORK, "llama_cpp_python-*.tar.gz"))[0]
        run("tar", "xf", archive, "-C", WORK)
        source = archive[: -len(".tar.gz")]
        amx = os.path.join(source, "vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp")
        with open(amx) as f:
            text = f.read()
        with open(amx, "w") as f:
            f.write(text.replace("_tile_loadconfig(&tc);", 'asm volatile("" : : "m"(tc) : "memory"); _tile_loadconfig(&tc);'))
        run(PYTHON, "-m", "pip", "install", "-q", "--no-deps", source,
            env=dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF"))


def inside(what, *arguments):
    """Runs this file's other half in the environment that has llama.cpp."""
    out = run(PYTHON, os.path.abspath(__file__), "--inside", what, *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def made_up_words(count):
    """Byte-level tokens and the merges that make them: the bytes, then pairs, triples and fours of letters, the first of which may be a space; BOS and EOS last.
    Few are lone bytes or control tokens, which come out of a server without text."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    tokens = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges, level = [], ["\u0120"] + letters
    while len(tokens) < count - 2:
        level = [(a, b) for a in level for b in letters][: count - 2 - len(tokens)]
        merges += ["%s %s" % pair for pair in level]
        level = [a + b for a, b in level]
        tokens += level
    kinds = [1] * len(tokens) + [3] * 2
    return tokens + ["<|begin|>", "<|end|>"], kinds, merges


def make_files(path, types):
    import gguf
    import llama_cpp
    import ctypes
    import numpy as np
    f16 = os.path.join(path, "f16.gguf")
    if not os.path.exists(f16):
        w = gguf.GGUFWriter(f16 + ".part", "llama")
        for name, value in (("context_length", 8192), ("embedding_length", 2048), ("block_count", 16), ("feed_forward_length", 8192), ("head_count", 32), ("head_count_kv", 8)):
            getattr(w, "add_" + name)(value)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_rope_freq_base(500000.0)
        w.add_rope_dimension_count(64)
        w.add_file_type(1)
        tokens, kinds, merges = made_up_words(128256)
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(tokens)
        w.add_token_types(kinds)
        w.add_token_merges(merges)
        w.add_bos_token_id(128254)
        w.add_eos_token_id(128255)
        w.add_vocab_size(128256)
        rng = np.random.default_rng(1)
        base = (rng.standard_normal(1 << 22) * 0.02).astype(np.float16)

        def random(*shape):
            return np.resize(np.roll(base, int(rng.integers(0, 1 << 20))), int(np.prod(shape))).reshape(shape)
        w.add_tensor("token_embd.weight", random(128256, 2048))
        for layer in range(16):
            for name, shape in (("attn_q", (2048, 2048)), ("attn_k", (512, 2048)), ("attn_v", (512, 2048)), ("attn_output", (2048, 2048)), ("ffn_gate", (8192, 2048)), ("ffn_up", (8192, 2048)), ("ffn_down", (2048, 8192))):
                w.add_tensor("blk.%d.%s.weight" % (layer, name), random(*shape))
            for name in ("attn_norm", "ffn_norm"):
                w.add_tensor("blk.%d.%s.weight" % (layer, name), np.ones(2048, np.float32))
        w.add_tensor("output_norm.weight", np.ones(2048, np.float32))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        os.rename(f16 + ".part", f16)
    for name in types:
        out = os.path.join(path, name + ".gguf")
        if name in TYPES and not os.path.exists(out):
            p = llama_cpp.llama_model_quantize_default_params()
            p.ftype = TYPES[name]
            assert llama_cpp.llama_model_quantize(f16.encode(), (out + ".part").encode(), ctypes.byref(p)) == 0
            os.rename(out + ".part", out)


def time_llama(path, threads, sequences, flash, repack, generate):
    import time

    import llama_cpp as L
    import numpy as np
    L.llama_backend_init()
    m = L.llama_model_default_params()
    m.use_extra_bufts = bool(repack)
    model = L.llama_model_load_from_file(path.encode(), m)
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch, p.n_seq_max, p.flash_attn_type = 1024 * sequences, 512, 512, threads, threads, sequences, flash
    context = L.llama_init_from_model(model, p)
    rng = np.random.default_rng(0)

    def batch(count, position, sequence, wanted):
        b = L.llama_batch_init(count, 0, sequences)
        b.n_tokens = count
        for i in range(count):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = int(rng.integers(0, 128000)), position(i), 1, wanted(i)
            b.seq_id[i][0] = sequence(i)
        return b

    def decode(batches):
        L.llama_memory_clear(L.llama_get_memory(context), True)
        start = time.time()
        for b in batches:
            assert L.llama_decode(context, b) == 0
            L.llama_get_logits(context)
        return time.time() - start
    out = {}
    if sequences == 1:
        prompt = batch(512, lambda i: i, lambda i: 0, lambda i: i == 511)
        out["prefill"] = 512 / min(decode([prompt]) for _ in range(3))
    steps = [batch(sequences, lambda i, p=p: p, lambda i: i, lambda i: 1) for p in range(generate)]
    out["decode"] = generate * sequences / min(decode(steps) for _ in range(2))
    return out


def memory_rate(o):
    out = run(os.path.join(os.path.dirname(o.inferd), "tests/bench/kernels_bench"), "--only-threads", str(o.threads), "memory", stdout=subprocess.PIPE, text=True).stdout
    return float(out.split()[-2])


def time_inferd(o, path, sequences):
    return json.loads(run(o.inferd, "bench", path, "--threads", str(o.threads), "--prompt", "512" if sequences == 1 else "0", "--generate", str(o.generate), "--sequences", str(sequences),
                          "--seconds", "2", "--json", stdout=subprocess.PIPE, text=True).stdout)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--types", default="q4_k_m,q6_k,q8_0,q4_0,f16,bf16")
    a.add_argument("--sequences", default="1,16")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--generate", type=int, default=24)
    a.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    o = a.parse_args()
    prepare()
    inside("files", WORK, o.types)
    print("%-8s %9s %-8s %12s %12s %7s" % ("file", "sequences", "", "inferd", "llama.cpp", "ratio"))
    for name in o.types.split(","):
        path = os.path.join(WORK, name + ".gguf")
        for sequences in map(int, o.sequences.split(",")):
            ours, theirs, memory, flags = {"prefill": [], "decode": []}, {"prefill": [], "decode": []}, [], {}
            for _ in range(o.rounds):
                runs, turns = {}, []
                for setting in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    if sequences == 1:
                        memory.append(memory_rate(o))
                    mine = time_inferd(o, path, sequences)
                    turns.append(mine)
                    runs[setting] = inside("llama", path, o.threads, sequences, *setting, o.generate)
                for key in theirs:
                    ours[key].append(max(turn[key + "_tokens_per_s"] for turn in turns))
                    if key in runs[0, 0]:
                        flags[key] = max(runs, key=lambda x: runs[x][key])
                        theirs[key].append(runs[flags[key]][key])
            for key in ("prefill", "decode"):
                if theirs[key]:
                    x, y = statistics.median(ours[key]), statistics.median(theirs[key])
                    print("%-8s %9d %-8s %12.1f %12.1f %7.2f   mode %s; llama.cpp with flash attention %d, repacking %d" % (name, sequences, key, x, y, x / y, mine["mode"], *flags[key]), end="")
                    if key == "decode" and sequences == 1:
                        rate, best = x * os.path.getsize(path) * 1e-9, max(memory)
                        print("; %.1f GB/s of weights, %.0f %% of memory's %.1f" % (rate, 100 * rate / best, best), end="")
                    print(flush=True)


if "--inside" in sys.argv:
    what, rest = sys.argv[2], sys.argv[3:]
    if what == "files":
        make_files(rest[0], rest[1].split(","))
        print("{}")
    else:
        print(json.dumps(time_llama(rest[0], *map(int, rest[1:]))))
elif __name__ == "__main__":
    main()
