"""What every family group uses: the list of networks, seeded parameters, export and the folder form of the ONNX backend suite.

A family is a function marked @network: it gives (module, inputs), or a Case made by hand. Its parameters are drawn again from the network's own seed, so that norms
scale and shift, biases are not zero and activations keep their size; what is random in the architecture (noise, dropout) is an input of the network.
"""
import math
import os
import shutil
import warnings
import zlib

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

NETWORKS = {}


class Case:
    """A finished network: a model (onnx.ModelProto or the path of a file), its inputs by name, its outputs in order."""

    def __init__(self, model, inputs, outputs):
        self.model, self.inputs, self.outputs = model, inputs, outputs


def network(name, family, exporter=None, opset=None, gain=1.4, draw=True):
    """exporter: "script" (TorchScript) or "dynamo"; without it the name decides, so that both are in the mix."""
    def mark(make):
        assert name not in NETWORKS, name
        way = exporter or ("dynamo" if zlib.crc32(name.encode()) % 2 else "script")
        NETWORKS[name] = dict(make=make, family=family, exporter=way, opset=opset, gain=gain, draw=draw)
        return make
    return mark


def seed_of(name):
    return zlib.crc32(name.encode())


def draw_parameters(module, gain):
    """Weights of about unit gain, scales around 1, biases and running statistics that are not trivial."""
    for path, m in module.named_modules():
        for key, p in list(m.named_parameters(recurse=False)) + list(m.named_buffers(recurse=False)):
            if not torch.is_floating_point(p):
                continue
            with torch.no_grad():
                if key == "running_mean":
                    p.uniform_(-0.2, 0.2)
                elif key == "running_var":
                    p.uniform_(0.6, 1.4)
                elif isinstance(p, nn.Parameter):
                    draw_parameter(m, key, p, gain)


def draw_parameter(m, key, p, gain):
    if p.dim() < 2:
        p.uniform_(-0.2, 0.2) if "bias" in key or "beta" in key else p.uniform_(0.6, 1.4)
    elif isinstance(m, nn.Embedding):
        p.normal_(0, 0.5)
    elif isinstance(m, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        p.normal_(0, gain / math.sqrt(p.shape[0] * math.prod(p.shape[2:]) / math.prod(m.stride)))
    else:
        p.normal_(0, gain / math.sqrt(math.prod(p.shape[1:])))


def flatten(value):
    """The tensors of an answer, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = [v for v in value.values() if v is not None]
    return [t for v in value for t in flatten(v)] if isinstance(value, (list, tuple)) else []


class Plain(nn.Module):
    """A module whose answer is a plain tuple of tensors: what both exporters take."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *x):
        y = tuple(flatten(self.inner(*x)))
        return y[0] if len(y) == 1 else y


def export(module, inputs, path, entry):
    names = [f"x{i}" for i in range(len(inputs))]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if entry["exporter"] == "script":
            torch.onnx.export(module, inputs, path, dynamo=False, opset_version=entry["opset"] or 17, input_names=names, do_constant_folding=True)
        else:
            torch.onnx.export(module, inputs, path, dynamo=True, opset_version=entry["opset"] or 18, input_names=names, external_data=False, verbose=False)


def make(name, root):
    """Writes root/name: model.onnx and test_data_set_0, as the ONNX backend suite has them."""
    entry, folder = NETWORKS[name], os.path.join(root, name)
    draft = folder + ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    os.makedirs(os.path.join(draft, "test_data_set_0"))
    torch.manual_seed(seed_of(name))
    made, path = entry["make"](), os.path.join(draft, "model.onnx")
    if isinstance(made, Case):
        onnx.save(made.model, path)
        inputs, outputs = made.inputs, made.outputs
    else:
        module, inputs = made
        module = Plain(module).eval()
        if entry["draw"]:
            draw_parameters(module, entry["gain"])
        with torch.no_grad():
            outputs = flatten(module(*[x.clone() for x in inputs]))
        export(module, tuple(inputs), path, entry)
        outputs = [y.detach().numpy() for y in outputs]
        inputs = {f"x{i}": x.numpy() for i, x in enumerate(inputs)}
    ports = [v.name for v in onnx.load(path, load_external_data=False).graph.input]
    used = {k: v for k, v in inputs.items() if k in ports}
    for kind, arrays in (("input", [used[p] for p in ports]), ("output", outputs)):
        for i, array in enumerate(arrays):
            array = np.asarray(array)
            assert not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all(), f"{name}: {kind} {i} is not finite"
            with open(os.path.join(draft, "test_data_set_0", f"{kind}_{i}.pb"), "wb") as f:
                f.write(numpy_helper.from_array(array, (ports + [""] * 99)[i] if kind == "input" else f"y{i}").SerializeToString())
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(draft, folder)


def noise(*shape, scale=1.0):
    return torch.randn(*shape) * scale


def ids(high, *shape):
    return torch.randint(0, high, shape)
