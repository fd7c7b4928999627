#!/usr/bin/env python3
"""Writes the networks of make_networks.py as 8-bit QDQ files, with onnxruntime's own quantiser.

  make_quantised.py --out DIR [--from DIR] [--inputs 4] [NAME...]
                        DIR/NAME_int8/model.onnx of FROM/NAME.onnx (resnet50 mobilenet_v2 efficientnet_b0 vit_b16 bert_base unet)
  make_quantised.py --vectors DIR
                        the small files of tests/engine/quantised: one of each pattern, with an input and onnxruntime's answer to it without its graph
                        optimisations (what the file says, step by step)

Batch norms are folded first, as quant_pre_process does. Activations are unsigned bytes by tensor, weights signed bytes by channel, ranges from generated inputs of a
normal distribution. Convolutional networks take the quantiser's own list of operators; transformers are quantised in their products with constant weights, as their
publishers do: what these are given is rounded, what they give stays float, and so do attention, softmax and normalisation. Needs onnx and onnxruntime.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
NAMES = ["resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b16", "bert_base", "unet"]
TRANSFORMERS = {"vit_b16", "bert_base"}


def reader(model, count, seed):
    from onnxruntime.quantization import CalibrationDataReader

    rng = np.random.default_rng(seed)
    feeds = []
    for _ in range(count):
        feeds.append({v.name: rng.standard_normal([d.dim_value or 1 for d in v.type.tensor_type.shape.dim]).astype(np.float32) for v in model.graph.input})

    class Noise(CalibrationDataReader):
        def get_next(self):
            return feeds.pop() if feeds else None

    return Noise()


def quantise(source, target, count, operators=None, signed=False, per_channel=True, **extra):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        ready = os.path.join(folder, "ready.onnx")
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        graph = onnx.load(ready).graph
        constants = {t.name for t in graph.initializer}
        inner = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in constants] if operators else []
        quantize_static(ready, target, reader(onnx.load(ready), count, 7), quant_format=QuantFormat.QDQ, op_types_to_quantize=operators, nodes_to_exclude=inner,
                        per_channel=per_channel, activation_type=QuantType.QInt8 if signed else QuantType.QUInt8, weight_type=QuantType.QInt8, extra_options=extra)


def write_network(args, name):
    source = os.path.join(args.source, name + ".onnx")
    if not os.path.exists(source):
        subprocess.check_call([sys.executable, os.path.join(ROOT, "tools/make_networks.py"), "--out", args.source, name])
    folder = os.path.join(args.out, name + "_int8")
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, "model.onnx")
    if name in TRANSFORMERS:
        quantise(source, target, args.inputs, ["Conv", "MatMul", "Gemm"], OpTypesToExcludeOutputQuantization=["MatMul", "Gemm"])
    else:
        quantise(source, target, args.inputs)
    print(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(ROOT, "build/networks"))
    parser.add_argument("--from", dest="source", default=os.path.join(ROOT, "build/networks"))
    parser.add_argument("--inputs", type=int, default=4)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for name in args.names or NAMES:
        write_network(args, name)


if __name__ == "__main__":
    main()
