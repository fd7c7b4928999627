#!/usr/bin/env python3
"""Networks, language models and models of pictures on GPU 0, one after the other, with what PyTorch takes for the same networks there when it finds the card.

  bench_gpu.py [--inferd build/release/inferd] [--only NAME]... [--torch auto|off] [--seconds 2] [FILE.gguf or FOLDER]...

Networks are made by make_networks.py when they are missing (random weights); each is run in float16 at the batches below, inputs from the host. Of the language models and the models of pictures those are run whose files are
there: build/texts/*.gguf (bench_texts.py makes Llama-1B's shape), build/sd15 (make_sd15.py), models/dictionary, models/shapes, and what is named. PyTorch: torchvision's own networks in float16, channels last, compiled, inputs on
the device. Printed is a line for each run, with its command."""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORKS = {"resnet50": (1, 128), "mobilenet_v2": (1, 128), "efficientnet_b0": (1, 128), "vit_b16": (1, 32), "bert_base": (1, 32)}


def bench(inferd, path, *more):
    command = [inferd, "bench", path, "--gpu", "0", *more, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"FAIL {' '.join(command)}: {done.stderr.strip()}")
        return None
    return json.loads(done.stdout), " ".join(command)


def by_torch(name, batch, seconds):
    import torch
    import torchvision
    made = {"resnet50": "resnet50", "mobilenet_v2": "mobilenet_v2", "efficientnet_b0": "efficientnet_b0", "vit_b16": "vit_b_16"}.get(name)
    if not made or not torch.cuda.is_available():
        return None
    torch.backends.cudnn.benchmark = True
    model = torch.compile(getattr(torchvision.models, made)(weights=None).eval().half().cuda().to(memory_format=torch.channels_last))
    x = torch.rand(batch, 3, 224, 224, device="cuda", dtype=torch.half).to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(10):
            model(x)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            torch.cuda.synchronize()
            begin = time.perf_counter()
            model(x)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def networks(a):
    for name, batches in NETWORKS.items():
        if a.only and name not in a.only:
            continue
        path = os.path.join(ROOT, "build/networks", name, "model.onnx")
        if not os.path.exists(path):
            subprocess.run([sys.executable, os.path.join(ROOT, "tools/make_networks.py"), "--out", os.path.join(ROOT, "build/networks"), name], check=True)
        for batch in batches:
            ours = bench(a.inferd, path, "--precision", "f16", "--batch", str(batch), "--seconds", str(a.seconds))
            if not ours:
                continue
            theirs = None
            if a.torch != "off":
                try:
                    theirs = by_torch(name, batch, a.seconds)
                except ImportError:
                    pass
            ms = ours[0]["median_ms"]
            beside = f"; PyTorch {theirs:.3f} ms, {theirs / ms:.2f} times as long" if theirs else ""
            print(f"{name:16} batch {batch:4}: {ms:8.3f} ms, {batch / ms * 1e3:9.1f}/s{beside}   ({ours[1]})", flush=True)


def others(a):
    texts = [*glob.glob(os.path.join(ROOT, "build/texts/*.gguf")), os.path.join(ROOT, "models/dictionary"), *[f for f in a.files if f.endswith(".gguf")]]
    pictures = [f for f in (os.path.join(ROOT, "build/sd15"), os.path.join(ROOT, "models/shapes")) if os.path.exists(f)] + [f for f in a.files if not f.endswith(".gguf")]
    for path in texts:
        if a.only and os.path.basename(path) not in a.only:
            continue
        for sequences in ("1", "16", "64"):
            ours = bench(a.inferd, path, "--prompt", "512" if path.endswith(".gguf") else "64", "--generate", "64", "--sequences", sequences)
            if ours:
                r = ours[0]
                print(f"{os.path.basename(path):16} {sequences:>3} sequences: prefill {r['prefill_tokens_per_s']:10.1f} tokens/s, decode {r['decode_tokens_per_s']:9.2f} tokens/s   ({ours[1]})", flush=True)
    for path in pictures:
        if a.only and os.path.basename(path) not in a.only:
            continue
        ours = bench(a.inferd, path)
        if ours:
            r = ours[0]
            print(f"{os.path.basename(path):16} {r['width']}x{r['height']}, {r['steps']} steps: a step {r['step_s'] * 1e3:.2f} ms, the autoencoder {r['vae_s'] * 1e3:.2f} ms, all {r['whole_s']:.3f} s   ({ours[1]})", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    p.add_argument("--only", action="append", default=[])
    p.add_argument("--torch", choices=("auto", "off"), default="auto")
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("files", nargs="*")
    a = p.parse_args()
    networks(a)
    others(a)


if __name__ == "__main__":
    main()
