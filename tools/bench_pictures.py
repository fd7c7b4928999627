#!/usr/bin/env python3
"""inferd beside stable-diffusion.cpp, PyTorch (diffusers) in bfloat16 and OpenVINO on the same cores: Stable Diffusion 1.5's shape, random float16 weights (tools/make_sd15.py),
512x512, guidance (the network at batch 2): seconds of a step, seconds of the autoencoder, most memory.

Each side runs in a process of its own, in turns, on the same number of threads; the first call of a network is not counted (but for stable-diffusion.cpp, which says itself how
long its steps take). Nothing is compared but time: all networks are the same diffusers folder, whose latents inferd's tests compare with diffusers.
stable-diffusion-cpp-python is built from its source with the machine's own flags (some 15 minutes, once), its AMX tile configuration made safe for GCC 12; OpenVINO gets the
networks by openvino.convert_model, once, and runs them in the precision it takes by itself (bfloat16 on AMX).
usage: bench_pictures.py [--arms inferd,torch,openvino,sdcpp] [--rounds 1] [--steps 3] [--size 512] [--threads 2] [--prepare] [--inferd build/release/inferd]
"""
import argparse
import glob
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build/pictures")
MODEL = os.path.join(WORK, "sd15")
SINGLE = os.path.join(WORK, "sd15.safetensors")                       # for stable-diffusion.cpp
TORCH = os.path.join(ROOT, "build/venv/bin/python")                 # tools/venv.sh torch transformers diffusers openvino
OWN = os.path.join(WORK, "venv/bin/python")                         # has stable_diffusion_cpp
ARMS = ("inferd", "torch", "openvino", "sdcpp")


def run(*command, **more):
    return subprocess.run(command, check=True, **more)


# ---- once ----
def prepare(arms):
    os.makedirs(WORK, exist_ok=True)
    if not os.path.exists(os.path.join(MODEL, "model_index.json")):
        run(TORCH, os.path.join(ROOT, "tools/make_sd15.py"), MODEL)
    if "sdcpp" in arms:
        build_sdcpp()
        if not os.path.exists(SINGLE):
            run(sys.executable, os.path.join(ROOT, "tools/make_single_file.py"), MODEL, SINGLE)
    if "openvino" in arms and not os.path.exists(os.path.join(WORK, "decoder.xml")):
        run(TORCH, os.path.abspath(__file__), "--inside", "convert", "2")


def build_sdcpp():
    if not os.path.exists(OWN):
        run(sys.executable, "-m", "venv", os.path.join(WORK, "venv"))
        run(OWN, "-m", "pip", "install", "-q", "scikit-build-core", "cmake", "ninja", "pillow", "numpy", "typing_extensions")
    if not subprocess.run([OWN, "-c", "import stable_diffusion_cpp"], stderr=subprocess.DEVNULL).returncode:
        return
    run(OWN, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", WORK, "stable-diffusion-cpp-python")
    archive = glob.glob(os.path.join(WORK, "stable_diffusion_cpp_python-*.tar.gz"))[0]
    run("tar", "xf", archive, "-C", WORK)
    source = archive[: -len(".tar.gz")]
    for path in glob.glob(source + "/**/ggml-cpu/amx/mmq.cpp", recursive=True):
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(text.replace("_tile_loadconfig(&tc);", 'asm volatile("" : : "m"(tc) : "memory"); _tile_loadconfig(&tc);'))
    run(OWN, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", source, env=dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON"))


# ---- the other sides, each in a process of its own ----
def networks(dtype):
    import diffusers
    import torch
    load = lambda what, kind: kind.from_pretrained(os.path.join(MODEL, what), torch_dtype=dtype).eval()
    return torch, load("unet", diffusers.UNet2DConditionModel), load("vae", diffusers.AutoencoderKL)


def inputs(torch, side, dtype):
    torch.manual_seed(0)
    return torch.randn(2, 4, side, side).to(dtype), torch.tensor([500, 500]), torch.randn(2, 77, 768).to(dtype), torch.randn(1, 4, side, side).to(dtype)


def timed(step, decode, steps):
    step()
    times = []
    for _ in range(steps):
        start = time.time()
        step()
        times.append(time.time() - start)
    decode()
    start = time.time()
    decode()
    return {"step_s": statistics.median(times), "vae_s": time.time() - start}


def time_torch(threads, steps, size):
    import torch
    torch.set_num_threads(threads)
    torch, unet, vae = networks(torch.bfloat16)
    unet, vae = unet.to(memory_format=torch.channels_last), vae.to(memory_format=torch.channels_last)
    x, t, context, z = inputs(torch, size // 8, torch.bfloat16)
    with torch.no_grad():
        return timed(lambda: unet(x, t, context, return_dict=False), lambda: vae.decode(z, return_dict=False), steps)


def convert(threads):
    import openvino
    import torch
    torch.set_num_threads(threads)
    torch, unet, vae = networks(torch.float32)

    class First(torch.nn.Module):
        """The first of what a network or one of its functions returns."""
        def __init__(self, network, function):
            super().__init__()
            self.network, self.function = network, function

        def forward(self, *inputs):
            return getattr(self.network, self.function)(*inputs, return_dict=False)[0]
    x, t, context, z = inputs(torch, 64, torch.float32)
    with torch.no_grad():
        openvino.save_model(openvino.convert_model(First(unet, "forward"), example_input=(x, t, context)), os.path.join(WORK, "unet.xml"))
        openvino.save_model(openvino.convert_model(First(vae, "decode"), example_input=(z,)), os.path.join(WORK, "decoder.xml"))
    return {}


def time_openvino(threads, steps, size):
    import numpy as np
    import openvino
    core = openvino.Core()
    side, rng = size // 8, np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    given = {"unet": [normal(2, 4, side, side), np.array([500, 500]), normal(2, 77, 768)], "decoder": [normal(1, 4, side, side)]}
    calls = {}
    for name, arrays in given.items():
        model = core.read_model(os.path.join(WORK, name + ".xml"))
        model.reshape({i: list(a.shape) for i, a in enumerate(arrays)})
        compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
        request = compiled.create_infer_request()
        calls[name] = lambda request=request, arrays=arrays: request.infer(dict(enumerate(arrays)))
    return timed(calls["unet"], calls["decoder"], steps)


def time_sdcpp(threads, steps, size):
    """What it writes to its log as it goes."""
    from stable_diffusion_cpp import StableDiffusion
    model = StableDiffusion(model_path=SINGLE, n_threads=threads, verbose=True)
    model.generate_image(prompt="a photograph of an astronaut riding a horse", negative_prompt="blurred", width=size, height=size, sample_steps=steps, cfg_scale=7.0, seed=1, sample_method="euler")
    return {}


def read_sdcpp(log):
    """Seconds of one step and of the autoencoder from the log."""
    sampling = re.findall(r"sampling completed, taking ([0-9.]+)s", log)
    decoding = re.findall(r"decode_first_stage completed, taking ([0-9.]+)s", log) or re.findall(r"latent 1 decoded, taking ([0-9.]+)s", log)
    if not sampling or not decoding:
        raise SystemExit("stable-diffusion.cpp did not say how long it took:\n" + log[-3000:])
    return float(sampling[-1]), float(decoding[-1])


def measure(arm, o):
    if arm == "inferd":
        out = json.loads(run(o.inferd, "bench", MODEL, "--size", "%dx%d" % (o.size, o.size), "--steps", str(o.steps), "--guidance", "7", "--threads", str(o.threads), "--json", stdout=subprocess.PIPE, text=True).stdout)
        return {"step_s": out["step_s"], "vae_s": out["vae_s"], "peak_mb": out["peak_rss_mb"]}
    steps = 1 if arm == "sdcpp" else o.steps
    p = subprocess.run([OWN if arm == "sdcpp" else TORCH, os.path.abspath(__file__), "--inside", arm, str(o.threads), str(steps), str(o.size)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       env=dict(os.environ, OMP_NUM_THREADS=str(o.threads)))
    if p.returncode:
        raise SystemExit("%s failed:\n%s" % (arm, p.stderr[-3000:]))
    out = json.loads(p.stdout.strip().splitlines()[-1])
    if arm == "sdcpp":
        whole, vae = read_sdcpp(p.stdout + p.stderr)
        out.update(step_s=whole / steps, vae_s=vae)
    return out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--arms", default=",".join(ARMS))
    a.add_argument("--rounds", type=int, default=1)
    a.add_argument("--steps", type=int, default=3)
    a.add_argument("--size", type=int, default=512)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--prepare", action="store_true", help="build and convert only")
    a.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    o = a.parse_args()
    arms = o.arms.split(",")
    if set(arms) - set(ARMS):
        raise SystemExit("--arms takes some of " + ",".join(ARMS))
    prepare(arms)
    if o.prepare:
        return
    seen = {arm: [] for arm in arms}
    for _ in range(o.rounds):
        for arm in arms:
            seen[arm].append(measure(arm, o))
            print("%-9s %s" % (arm, json.dumps(seen[arm][-1])), flush=True)
    median = lambda arm, key: statistics.median(x[key] for x in seen[arm])
    print("%-9s %9s %9s %9s %12s %12s" % ("", "step, s", "vae, s", "peak, MB", "step ratio", "vae ratio"))
    for arm in arms:
        ratios = ["%12.2f" % (median(arm, key) / median("inferd", key)) if "inferd" in arms else "" for key in ("step_s", "vae_s")]
        print("%-9s %9.3f %9.3f %9.0f %s %s" % (arm, median(arm, "step_s"), median(arm, "vae_s"), median(arm, "peak_mb"), *ratios))


if "--inside" in sys.argv:
    what, numbers = sys.argv[2], [int(n) for n in sys.argv[3:]]
    said = {"torch": time_torch, "openvino": time_openvino, "sdcpp": time_sdcpp, "convert": convert}[what](*numbers)
    print("\n" + json.dumps(dict(said, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
else:
    main()
