"""ONNX files of a few nodes, written byte by byte, so that tests need no package for it (field numbers: onnx.proto)."""
import struct

FLOAT, INT64, INT32 = 1, 7, 6


def varint(n):
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def node(op, inputs, outputs, **attributes):
    body = b"".join(field(1, n) for n in inputs) + b"".join(field(2, n) for n in outputs) + field(4, op)
    for name, v in attributes.items():
        body += field(5, field(1, name) + field(3, v) + field(20, 2))      # an integer
    return field(1, body)


def value(number, name, dtype, dims):
    shape = b"".join(field(1, field(2, d) if isinstance(d, str) else field(1, d)) for d in dims)
    return field(number, field(1, name) + field(2, field(1, field(1, dtype) + field(2, shape))))


def constant(name, numbers):
    return field(5, field(1, len(numbers)) + field(2, FLOAT) + field(8, name) + field(9, struct.pack("<%df" % len(numbers), *numbers)))


def model(nodes, inputs, outputs, constants=()):
    """inputs, outputs: (name, dtype, dims); constants: (name, floats)."""
    graph = b"".join(nodes) + field(2, "tiny") + b"".join(constant(*c) for c in constants) + b"".join(value(11, *i) for i in inputs) + b"".join(value(12, *o) for o in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))
