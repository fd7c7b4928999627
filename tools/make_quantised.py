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
from onnx import TensorProto, helper

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


def quantise(source, target, count, operators=None, signed=False, per_channel=True, form=None, **extra):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        ready = os.path.join(folder, "ready.onnx")
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        graph = onnx.load(ready).graph
        constants = {t.name for t in graph.initializer}
        inner = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in constants] if operators else []
        quantize_static(ready, target, reader(onnx.load(ready), count, 7), quant_format=form or QuantFormat.QDQ, op_types_to_quantize=operators, nodes_to_exclude=inner,
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


# ---- small files of each pattern ----

def picture(n, x, cin, kind):
    """A few layers of the kinds that networks of pictures have."""
    if kind == "residual":
        x = n.relu(n.conv(x, cin, 24, 3, 2, bias=True))
        y = n.relu(n.conv(x, 24, 40, 1, bias=True))
        y = n.node("Clip", [n.conv(y, 40, 40, 3, groups=40, bias=True), n.weight("low", np.float32(0)), n.weight("high", np.float32(2))])
        x = n.relu(n.node("Add", [n.conv(y, 40, 24, 1), x]))
        x = n.conv(n.max_pool(x, 3, 2, 1), 24, 33, 3, bias=True)
        return n.fc(n.global_pool(x), 33, 10, gain=1.0), [10]
    if kind == "gated":
        def swish(v):
            return n.node("Mul", [v, n.node("Sigmoid", [v])])
        x = swish(n.conv(x, cin, 24, 3, bias=True))
        y = swish(n.conv(x, 24, 24, 5, 2, groups=24))
        gate = n.node("Sigmoid", [n.conv(swish(n.conv(n.node("GlobalAveragePool", [y]), 24, 6, 1, bias=True)), 6, 24, 1, bias=True)])
        x = n.node("LeakyRelu", [n.conv(n.node("Mul", [y, gate]), 24, 16, 1)], alpha=0.2)
        return n.conv(x, 16, 8, 1, bias=True), [8, 8, 8]
    w = n.weight("w", n.rng.standard_normal((20, 12, 2, 2), np.float32) * 0.2)
    short = n.relu(n.conv(x, cin, 12, 3, bias=True))
    x = n.relu(n.conv(n.max_pool(short, 2, 2), 12, 20, 3, bias=True))
    x = n.node("ConvTranspose", [x, w, n.weight("b", n.rng.uniform(-0.1, 0.1, 12))], kernel_shape=[2, 2], strides=[2, 2])
    return n.conv(n.node("Concat", [short, x], axis=1), 24, 4, 1, bias=True), [4, 16, 16]


def encoder(n, width=48, tokens=10):
    import make_networks as nets

    x = nets.linear(n, nets.gelu(n, nets.linear(n, nets.layer_norm(n, "input", width), width, 2 * width)), 2 * width, width)
    return n.fc(n.node("ReduceMean", [n.node("Add", ["input", x])], axes=[1], keepdims=0), width, 7), [tokens, width], [7]


def save_small(n, path, y, shape, out):
    n.nodes[-1].output[0] = "output"
    graph = helper.make_graph(n.nodes, "small", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
                              [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", *out])], n.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def slim(path):
    """Drops what the quantiser writes down and nobody reads."""
    model = onnx.load(path)
    del model.graph.value_info[:], model.metadata_props[:]
    used = {o.domain for o in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in used or o.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)


def write_vectors(folder):
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic
    sys.path.insert(0, os.path.join(ROOT, "tools"))
    from make_networks import Net

    os.makedirs(folder, exist_ok=True)
    files = {"residual": {}, "gated": {}, "joined": {}, "residual_signed": dict(signed=True), "residual_tensor": dict(per_channel=False), "residual_operators": dict(form=QuantFormat.QOperator, operators=["Conv", "MaxPool"]),
             "encoder": dict(operators=["MatMul", "Gemm"], OpTypesToExcludeOutputQuantization=["MatMul", "Gemm"]), "encoder_dynamic": dict(dynamic=True)}
    for name, options in files.items():
        kind, n = name.split("_")[0], Net(seed=sum(name.encode()))
        with tempfile.TemporaryDirectory() as scratch:
            source, target = os.path.join(scratch, "net.onnx"), os.path.join(folder, name + ".onnx")
            if kind == "encoder":
                y, shape, out = encoder(n)
            else:
                shape = [3, 16, 16]
                y, out = picture(n, "input", 3, kind)
            save_small(n, source, y, shape, out)
            if options.pop("dynamic", False):
                quantize_dynamic(source, target, weight_type=QuantType.QInt8)
            else:
                quantise(source, target, 4, options.pop("operators", None), **options)
        slim(target)
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = 3
        x = np.random.default_rng(11).standard_normal([2, *shape]).astype(np.float32)
        session = onnxruntime.InferenceSession(target, settings, providers=["CPUExecutionProvider"])
        np.save(os.path.join(folder, name + ".x.npy"), x)
        np.save(os.path.join(folder, name + ".y.npy"), session.run(None, {session.get_inputs()[0].name: x})[0])
        print(target, os.path.getsize(target))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(ROOT, "build/networks"))
    parser.add_argument("--from", dest="source", default=os.path.join(ROOT, "build/networks"))
    parser.add_argument("--inputs", type=int, default=4)
    parser.add_argument("--vectors", metavar="DIR")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.vectors:
        write_vectors(args.vectors)
        return
    for name in args.names or NAMES:
        write_network(args, name)


if __name__ == "__main__":
    main()
