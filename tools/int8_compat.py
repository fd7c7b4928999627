#!/usr/bin/env python3
"""Networks that `inferd quantize --calibrate` wrote, beside onnxruntime: is the file a valid model, does onnxruntime answer on it as inferd does (up to one step of a quantiser), and is its error against float
no larger than that of onnxruntime's own quantize_static with the same method on the same inputs?

    tools/int8_compat.py --inferd build/release/inferd [--methods minmax,percentile,entropy] build/zoo/resnet18 build/zoo/bert ...
"""
import argparse
import glob
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime import quantization as q

HELD = 8        # inputs beyond those of calibration


def read_inputs(folder, model):
    """The stored inputs of the zoo's one run, by name."""
    names = [i.name for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    out = {}
    for k, name in enumerate(names):
        t = onnx.TensorProto()
        with open(os.path.join(folder, "test_data_set_0", f"input_{k}.pb"), "rb") as f:
            t.ParseFromString(f.read())
        out[name] = numpy_helper.to_array(t)
    return out


def vary(inputs, rng):
    """Inputs of the same kind: numbers of the same mean and spread, whole numbers drawn from those that are there."""
    out = {}
    for name, x in inputs.items():
        if x.dtype.kind == "f":
            out[name] = (rng.standard_normal(x.shape) * (x.std() or 1) + x.mean()).astype(x.dtype)
        else:
            out[name] = rng.permutation(x.ravel()).reshape(x.shape)
    return out


class Reader(q.CalibrationDataReader):
    def __init__(self, samples):
        self.samples = iter(samples)

    def get_next(self):
        return next(self.samples, None)


def error(want, got):
    worst = 0.0
    for a, b in zip(want, got):
        if a.dtype.kind == "f":
            worst = max(worst, float(np.linalg.norm((a - b).astype(np.float64)) / max(np.linalg.norm(a.astype(np.float64)), 1e-30)))
    return worst


def answers(path, samples, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    o = ort.SessionOptions()
    o.graph_optimization_level = level
    o.intra_op_num_threads = 1
    o.log_severity_level = 3
    s = ort.InferenceSession(path, o, providers=["CPUExecutionProvider"])
    return [s.run(None, x) for x in samples]


def own_answers(inferd, path, samples, outputs, work):
    out = []
    for x in samples:
        args = [inferd, "run", path, "--output", work]
        for name, value in x.items():
            file = os.path.join(work, "in_" + name.replace("/", "_") + ".npy")
            np.save(file, value)
            args += ["--input", f"{name}={file}"]
        subprocess.run(args, check=True, stdout=subprocess.DEVNULL)
        out.append([np.load(os.path.join(work, o.replace("/", "_").replace(":", "_") + ".npy")) for o in outputs])
    return out


def stack(runs):
    return [np.concatenate([np.asarray(r[k]).ravel() for r in runs]) for k in range(len(runs[0]))]


def measure(folder, a, method, seed, work):
    source = os.path.join(folder, "model.onnx")
    model = onnx.load(source)
    rng = np.random.default_rng(seed)
    base = read_inputs(folder, model)
    samples = [vary(base, rng) for _ in range(a.samples)]
    held = [vary(base, rng) for _ in range(HELD)]
    data = os.path.join(work, "data")
    shutil.rmtree(data, ignore_errors=True)
    os.makedirs(data)
    for i, s in enumerate(samples):
        np.savez(os.path.join(data, f"{i:04d}.npz"), **s)
    ours, theirs, ready = (os.path.join(work, n) for n in ("ours.onnx", "theirs.onnx", "ready.onnx"))
    subprocess.run([a.inferd, "quantize", source, "--calibrate", data, "--output", ours, "--method", method, "--percentile", "99.999", "--max-error", "0", "--no-table"], check=True, stdout=subprocess.DEVNULL)
    onnx.checker.check_model(ours, full_check=True)
    outputs = [o.name for o in model.graph.output]
    want = stack(answers(source, held))
    plain = stack(answers(ours, held, ort.GraphOptimizationLevel.ORT_DISABLE_ALL))
    fused = stack(answers(ours, held))
    mine = stack(own_answers(a.inferd, ours, held, outputs, work))
    try:
        q.shape_inference.quant_pre_process(source, ready, skip_symbolic_shape=True)
        methods = {"minmax": q.CalibrationMethod.MinMax, "percentile": q.CalibrationMethod.Percentile, "entropy": q.CalibrationMethod.Entropy}
        q.quantize_static(ready, theirs, Reader(samples), quant_format=q.QuantFormat.QDQ, per_channel=True, activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, calibrate_method=methods[method])
        peer = error(want, stack(answers(theirs, held)))
    except Exception as e:      # quantize_static does not take every network
        peer = float("nan")
        print(f"  quantize_static: {str(e)[:100]}", file=sys.stderr)
    return error(want, mine), error(want, fused), peer, error(plain, mine)


def one(folder, a, method, work):
    """Means over the seeds: what one draw of inputs says of two ways to round is off by a tenth."""
    e_ours, e_fused, peer, apart = np.mean([measure(folder, a, method, seed, work) for seed in range(a.seeds)], axis=0)
    good = (peer != peer or e_ours <= 1.1 * peer) and apart <= max(1e-4, a.apart * e_ours)
    print(f"{os.path.basename(folder.rstrip('/')):<18} {method:<10} {e_ours:10.3e} {e_fused:10.3e} {peer:10.3e} {apart:10.3e}  {'ok' if good else 'WORSE'}", flush=True)
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="*")
    p.add_argument("--inferd", default="build/release/inferd")
    p.add_argument("--methods", default="minmax,percentile,entropy")
    p.add_argument("--samples", type=int, default=16)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--apart", type=float, default=0.8, help="how far both engines may be apart on the same file, as a share of its error: steps of quantisers fall either way")
    a = p.parse_args()
    folders = a.folders or [f for f in sorted(glob.glob("build/zoo/*")) if os.path.basename(f) in ("resnet18", "mobilenet_v2", "lenet5", "bert", "vgg16", "googlenet")]
    print(f"{'network':<18} {'method':<10} {'inferd':>10} {'by ORT':>10} {'static':>10} {'apart':>10}   (relative L2 to float: our file in inferd and in onnxruntime, quantize_static's; both engines on our file, as written)")
    bad = 0
    with tempfile.TemporaryDirectory() as work:
        for folder in folders:
            for method in a.methods.split(","):
                bad += not one(folder, a, method, work)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
