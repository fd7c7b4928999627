#!/usr/bin/env python3
"""Writes ONNX networks with seeded random weights, for benchmarks and comparisons.

  make_networks.py --out DIR [NAME...]              mlp lenet resnet18 resnet50 mobilenet_v2 alexnet vgg16 lstm bert_base vit_b16 unet
                                                    efficientnet_b0 identity identity_picture gap
  make_networks.py --out DIR --light LIGHT [NAME..] the light_*.onnx graphs of the ONNX backend suite, filled with random weights,
                                                    each as DIR/NAME/model.onnx with test_data_set_0 (outputs by onnxruntime)

Weights are scaled as He et al. do, so that activations keep their size through the network; batch norm stays a node of its own, as exporters
write it. The batch dimension is free ("batch"). Needs numpy and onnx; --light needs onnxruntime as well.
"""
import argparse
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Net:
    """Collects nodes and initialisers; every method takes and returns a value's name."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], [], 0

    def name(self, kind):
        self.count += 1
        return f"{kind}_{self.count}"

    def weight(self, kind, array):
        name = self.name(kind)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def integers(self, values):
        name = self.name("shape")
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, op, inputs, **attributes):
        out = self.name(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def conv(self, x, cin, cout, k, stride=1, pad=None, groups=1, bias=False, gain=2.0):
        fan_in = cin // groups * k * k
        w = self.rng.standard_normal((cout, cin // groups, k, k), np.float32) * np.sqrt(gain / fan_in)
        inputs = [x, self.weight("w", w)]
        if bias:
            inputs.append(self.weight("b", self.rng.uniform(-0.1, 0.1, cout)))
        pad = (k - 1) // 2 if pad is None else pad
        return self.node("Conv", inputs, kernel_shape=[k, k], strides=[stride, stride], pads=[pad] * 4, group=groups)

    def norm(self, x, c, scale=1.0):
        r = self.rng
        return self.node("BatchNormalization", [
            x, self.weight("scale", scale * r.uniform(0.8, 1.2, c)), self.weight("shift", r.uniform(-0.1, 0.1, c)),
            self.weight("mean", r.uniform(-0.1, 0.1, c)), self.weight("var", r.uniform(0.8, 1.2, c))], epsilon=1e-5)

    def relu(self, x):
        return self.node("Relu", [x])

    def relu6(self, x):
        return self.node("Clip", [x, self.weight("low", np.float32(0)), self.weight("high", np.float32(6))])

    def fc(self, x, cin, cout, gain=2.0):
        w = self.rng.standard_normal((cout, cin), np.float32) * np.sqrt(gain / cin)
        return self.node("Gemm", [x, self.weight("w", w), self.weight("b", self.rng.uniform(-0.1, 0.1, cout))], transB=1)

    def max_pool(self, x, k, stride, pad=0):
        return self.node("MaxPool", [x], kernel_shape=[k, k], strides=[stride, stride], pads=[pad] * 4)

    def flatten(self, x):
        return self.node("Flatten", [x], axis=1)

    def global_pool(self, x):
        return self.flatten(self.node("GlobalAveragePool", [x]))

    def save(self, path, name, shape, y, classes):
        self.nodes[-1].output[0] = "output"
        assert y == self.nodes[-1].name
        graph = helper.make_graph(
            self.nodes, name, [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", *classes])], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="inferd make_networks", ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def identity(n, width=32):
    return n.node("Identity", ["input"]), (width,), (width,)


def gap(n):
    """The least that can be asked of a picture: its mean colour."""
    return n.node("Flatten", [n.node("GlobalAveragePool", ["input"])]), (3, 224, 224), (3,)


def mlp(n):
    x = n.relu(n.fc("input", 784, 4096))
    x = n.relu(n.fc(x, 4096, 4096))
    return n.fc(x, 4096, 10, gain=1.0), (784,), (10,)


def lenet(n):
    x = n.max_pool(n.relu(n.conv("input", 1, 6, 5, pad=2, bias=True)), 2, 2)
    x = n.max_pool(n.relu(n.conv(x, 6, 16, 5, pad=0, bias=True)), 2, 2)
    x = n.relu(n.fc(n.flatten(x), 400, 120))
    x = n.relu(n.fc(x, 120, 84))
    return n.fc(x, 84, 10, gain=1.0), (1, 28, 28), (10,)


def resnet(n, blocks, bottleneck):
    x = n.relu(n.norm(n.conv("input", 3, 64, 7, 2), 64))
    x = n.max_pool(x, 3, 2, 1)
    cin, grow = 64, 4 if bottleneck else 1
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            short = x
            if bottleneck:
                y = n.relu(n.norm(n.conv(x, cin, width, 1), width))
                y = n.relu(n.norm(n.conv(y, width, width, 3, stride), width))
                y = n.norm(n.conv(y, width, 4 * width, 1), 4 * width, scale=0.5)
            else:
                y = n.relu(n.norm(n.conv(x, cin, width, 3, stride), width))
                y = n.norm(n.conv(y, width, width, 3), width, scale=0.5)
            if stride != 1 or cin != grow * width:
                short = n.norm(n.conv(x, cin, grow * width, 1, stride, gain=1.0), grow * width)
            x = n.relu(n.node("Add", [y, short]))
            cin = grow * width
    return n.fc(n.global_pool(x), cin, 1000, gain=1.0), (3, 224, 224), (1000,)


def mobilenet_v2(n):
    x = n.relu6(n.norm(n.conv("input", 3, 32, 3, 2), 32))
    cin = 32
    for t, cout, count, first in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(count):
            stride, hidden, y = first if i == 0 else 1, cin * t, x
            if t != 1:
                y = n.relu6(n.norm(n.conv(y, cin, hidden, 1), hidden))
            y = n.relu6(n.norm(n.conv(y, hidden, hidden, 3, stride, groups=hidden), hidden))
            y = n.norm(n.conv(y, hidden, cout, 1, gain=1.0), cout)
            x = n.node("Add", [x, y]) if stride == 1 and cin == cout else y
            cin = cout
    x = n.relu6(n.norm(n.conv(x, cin, 1280, 1), 1280))
    return n.fc(n.global_pool(x), 1280, 1000, gain=1.0), (3, 224, 224), (1000,)


def alexnet(n):
    x = n.max_pool(n.relu(n.conv("input", 3, 64, 11, 4, pad=2, bias=True)), 3, 2)
    x = n.max_pool(n.relu(n.conv(x, 64, 192, 5, bias=True)), 3, 2)
    x = n.relu(n.conv(x, 192, 384, 3, bias=True))
    x = n.relu(n.conv(x, 384, 256, 3, bias=True))
    x = n.max_pool(n.relu(n.conv(x, 256, 256, 3, bias=True)), 3, 2)
    x = n.relu(n.fc(n.flatten(x), 9216, 4096))
    x = n.relu(n.fc(x, 4096, 4096))
    return n.fc(x, 4096, 1000, gain=1.0), (3, 224, 224), (1000,)


def vgg16(n):
    x, cin = "input", 3
    for width, count in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(count):
            x = n.relu(n.conv(x, cin, width, 3, bias=True))
            cin = width
        x = n.max_pool(x, 2, 2)
    x = n.relu(n.fc(n.flatten(x), 25088, 4096))
    x = n.relu(n.fc(x, 4096, 4096))
    return n.fc(x, 4096, 1000, gain=1.0), (3, 224, 224), (1000,)


def lstm(n, steps=100, width=256, layers=2):
    x = n.node("Transpose", ["input"], perm=[1, 0, 2])
    for _ in range(layers):
        w, r = (n.weight("w", n.rng.uniform(-1, 1, (1, 4 * width, width)) / np.sqrt(width)) for _ in range(2))
        x = n.node("LSTM", [x, w, r, n.weight("b", n.rng.uniform(-0.1, 0.1, (1, 8 * width)))], hidden_size=width)
        x = n.node("Squeeze", [x, n.integers([1])])
    return n.node("Transpose", [x], perm=[1, 0, 2]), (steps, width), (steps, width)


def linear(n, x, cin, cout, gain=1.0):
    w = n.weight("w", n.rng.standard_normal((cin, cout), np.float32) * np.sqrt(gain / cin))
    return n.node("Add", [n.node("MatMul", [x, w]), n.weight("b", n.rng.uniform(-0.1, 0.1, cout))])


def layer_norm(n, x, width):
    return n.node("LayerNormalization", [x, n.weight("scale", n.rng.uniform(0.8, 1.2, width)), n.weight("shift", n.rng.uniform(-0.1, 0.1, width))], axis=-1, epsilon=1e-6)


def gelu(n, x):
    y = n.node("Erf", [n.node("Div", [x, n.weight("root", np.float32(np.sqrt(2)))])])
    y = n.node("Mul", [x, n.node("Add", [y, n.weight("one", np.float32(1))])])
    return n.node("Mul", [y, n.weight("half", np.float32(0.5))])


def attention(n, x, tokens, width, heads):
    def split(y, perm):
        return n.node("Transpose", [n.node("Reshape", [y, n.integers([0, tokens, heads, width // heads])])], perm=perm)
    q, k, v = split(linear(n, x, width, width), [0, 2, 1, 3]), split(linear(n, x, width, width), [0, 2, 3, 1]), split(linear(n, x, width, width), [0, 2, 1, 3])
    scores = n.node("Div", [n.node("MatMul", [q, k]), n.weight("root", np.float32(np.sqrt(width // heads)))])
    y = n.node("Transpose", [n.node("MatMul", [n.node("Softmax", [scores], axis=-1), v])], perm=[0, 2, 1, 3])
    return linear(n, n.node("Reshape", [y, n.integers([0, tokens, width])]), width, width)


def bert_base(n, tokens=128, width=768, layers=12):
    """The encoder as exporters write it, from the sum of its embeddings on."""
    x = layer_norm(n, "input", width)
    for _ in range(layers):
        x = layer_norm(n, n.node("Add", [x, attention(n, x, tokens, width, 12)]), width)
        x = layer_norm(n, n.node("Add", [x, linear(n, gelu(n, linear(n, x, width, 4 * width)), 4 * width, width)]), width)
    return x, (tokens, width), (tokens, width)


def vit_b16(n, width=768, layers=12):
    w = n.weight("w", n.rng.standard_normal((width, 3, 16, 16), np.float32) * np.sqrt(1 / 768))
    x = n.node("Conv", ["input", w, n.weight("b", n.rng.uniform(-0.1, 0.1, width))], kernel_shape=[16, 16], strides=[16, 16])
    x = n.node("Transpose", [n.node("Reshape", [x, n.integers([0, width, 196])])], perm=[0, 2, 1])
    x = n.node("Add", [x, n.weight("places", n.rng.uniform(-0.5, 0.5, (1, 196, width)))])
    for _ in range(layers):
        x = n.node("Add", [x, attention(n, layer_norm(n, x, width), 196, width, 12)])
        x = n.node("Add", [x, linear(n, gelu(n, linear(n, layer_norm(n, x, width), width, 4 * width)), 4 * width, width)])
    x = n.node("ReduceMean", [layer_norm(n, x, width)], axes=[1], keepdims=0)
    return n.fc(x, width, 1000, gain=1.0), (3, 224, 224), (1000,)


def unet(n, size=256, width=32, depth=4):
    def double(x, cin, cout):
        for c in (cin, cout):
            x = n.relu(n.norm(n.conv(x, c, cout, 3), cout))
        return x
    x, cin, kept = "input", 3, []
    for level in range(depth + 1):
        x, cin = double(x, cin, width << level), width << level
        if level < depth:
            kept.append((x, cin))
            x = n.max_pool(x, 2, 2)
    for short, cout in reversed(kept):
        w = n.weight("w", n.rng.standard_normal((cin, cout, 2, 2), np.float32) * np.sqrt(1 / cin))
        x = n.node("ConvTranspose", [x, w, n.weight("b", n.rng.uniform(-0.1, 0.1, cout))], kernel_shape=[2, 2], strides=[2, 2])
        x, cin = double(n.node("Concat", [short, x], axis=1), 2 * cout, cout), cout
    return n.conv(x, width, 4, 1, bias=True, gain=1.0), (3, size, size), (4, size, size)


def efficientnet_b0(n):
    def swish(x):
        return n.node("Mul", [x, n.node("Sigmoid", [x])])
    x, cin = swish(n.norm(n.conv("input", 3, 32, 3, 2), 32)), 32
    for t, cout, count, first, k in [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]:
        for i in range(count):
            stride, hidden, y = first if i == 0 else 1, cin * t, x
            if t != 1:
                y = swish(n.norm(n.conv(y, cin, hidden, 1), hidden))
            y = swish(n.norm(n.conv(y, hidden, hidden, k, stride, groups=hidden), hidden))
            gate = swish(n.conv(n.node("GlobalAveragePool", [y]), hidden, max(1, cin // 4), 1, bias=True))
            y = n.node("Mul", [y, n.node("Sigmoid", [n.conv(gate, max(1, cin // 4), hidden, 1, bias=True)])])
            y = n.norm(n.conv(y, hidden, cout, 1, gain=4.0), cout)
            x = n.node("Add", [x, y]) if stride == 1 and cin == cout else y
            cin = cout
    x = swish(n.norm(n.conv(x, cin, 1280, 1), 1280))
    return n.fc(n.global_pool(x), 1280, 1000, gain=1.0), (3, 224, 224), (1000,)


NETWORKS = {
    "lstm": lstm, "bert_base": bert_base, "vit_b16": vit_b16, "unet": unet, "efficientnet_b0": efficientnet_b0,
    "identity": identity, "identity_picture": lambda n: identity(n, 150528), "gap": gap, "mlp": mlp, "lenet": lenet, "alexnet": alexnet, "vgg16": vgg16, "mobilenet_v2": mobilenet_v2,
    "resnet18": lambda n: resnet(n, (2, 2, 2, 2), False), "resnet50": lambda n: resnet(n, (3, 4, 6, 3), True),
}


def write_network(out, name):
    n = Net(seed=sum(name.encode()))
    y, shape, classes = NETWORKS[name](n)
    path = os.path.join(out, name + ".onnx")
    n.save(path, name, shape, y, classes)
    print(path)


def filled(role, shape, rng):
    """Random values for a parameter that plays `role`: (operator, input index)."""
    op, index = role
    if op == "BatchNormalization":
        low, high = [(0, 0), (0.8, 1.2), (-0.1, 0.1), (-0.1, 0.1), (0.8, 1.2)][index]
        return rng.uniform(low, high, shape)
    if op in ("Conv", "Gemm", "MatMul") and index == 1:
        # Gemm in these graphs has transB: [out, in]
        return rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    if op == "Mul":
        return rng.uniform(0.8, 1.2, shape)
    return rng.uniform(-0.1, 0.1, shape)


def fill_light(model, rng):
    """Puts random numbers where the light graphs hold constants made of one value (ConstantOfShape of a stored shape, or an initialiser)."""
    graph = model.graph
    init = {t.name: t for t in graph.initializer}
    role = {}
    for node in graph.node:
        for i, value in enumerate(node.input):
            role.setdefault(value, (node.op_type, i))
    # a shape or an axis must stay: only float values are filled
    keep, made, used = [], [], set()
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in init:
            shape = numpy_helper.to_array(init[node.input[0]]).tolist()
            made.append(numpy_helper.from_array(filled(role.get(node.output[0], ("", 0)), shape, rng).astype(np.float32), node.output[0]))
            used.add(node.input[0])
        else:
            keep.append(node)
    still = {value for node in keep for value in node.input}
    for t in graph.initializer:
        if t.name in used and t.name not in still:
            continue
        if t.data_type == TensorProto.FLOAT and role.get(t.name, ("", 0))[0] in ("Conv", "Gemm", "BatchNormalization", "Mul", "Add"):
            made.append(numpy_helper.from_array(filled(role[t.name], list(t.dims), rng).astype(np.float32), t.name))
        else:
            made.append(t)
    inputs = [i for i in graph.input if i.name not in used or i.name in still]
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(keep)
    graph.initializer.extend(made)
    graph.input.extend(inputs)


def level_output(model, feed, run):
    """Scales the last convolution or Gemm so that the answer before softmax spreads by about 2: a saturated softmax would compare nothing."""
    graph = model.graph
    maker = {value: node for node in graph.node for value in node.output}
    node = maker[graph.output[0].name]
    before = graph.output[0].name
    while node.op_type not in ("Conv", "Gemm"):
        if node.op_type == "Softmax":
            before = node.input[0]
        node = maker[node.input[0]]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, None))
    factor = 2.0 / float(np.std(run(probe, feed)[0]))
    init = {t.name: t for t in graph.initializer}
    for value in node.input[1:]:
        while value not in init:      # reshaped or transposed on its way
            value = maker[value].input[0]
        t = init[value]
        t.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(t) * factor).astype(np.float32), value))


def write_light(out, folder, name):
    import onnxruntime

    rng = np.random.default_rng(sum(name.encode()))
    model = onnx.load(os.path.join(folder, name + ".onnx"))
    fill_light(model, rng)
    target = os.path.join(out, name)
    data = os.path.join(target, "test_data_set_0")
    os.makedirs(data, exist_ok=True)
    given = {t.name for t in model.graph.initializer}
    feed = {}
    for i, value in enumerate(v for v in model.graph.input if v.name not in given):
        shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        feed[value.name] = rng.standard_normal(shape).astype(np.float32)
        save_tensor(os.path.join(data, f"input_{i}.pb"), feed[value.name], value.name)

    def run(m, inputs):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)

    level_output(model, feed, run)
    onnx.save(model, os.path.join(target, "model.onnx"))
    answers = run(model, feed)
    for i, (value, answer) in enumerate(zip(model.graph.output, answers)):
        save_tensor(os.path.join(data, f"output_{i}.pb"), answer, value.name)
    spread = float(np.std(answers[0])), float(np.max(np.abs(answers[0])))
    print(f"{target}  output std {spread[0]:.3g} max {spread[1]:.3g}")


def save_tensor(path, array, name):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(array, name).SerializeToString())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--light", metavar="DIR", help="folder with light_*.onnx")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    if args.light:
        known = sorted(f[:-5] for f in os.listdir(args.light) if f.startswith("light_") and f.endswith(".onnx"))
        write = lambda name: write_light(args.out, args.light, name)
    else:
        known = list(NETWORKS)
        write = lambda name: write_network(args.out, name)
    for name in args.names or known:
        if name not in known:
            sys.exit(f"make_networks: no network '{name}' (there are: {', '.join(known)})")
        write(name)


if __name__ == "__main__":
    main()
