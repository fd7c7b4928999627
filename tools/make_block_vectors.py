#!/usr/bin/env python3
"""Writes kernels/blocks_grids.h (the grids of the IQ formats, two or three bits an entry) and tests/kernels/blocks_vectors.h (blocks of every format with the
digest of what the `gguf` package makes of them). Needs gguf and numpy."""
import os
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DECODED = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S,
           T.IQ1_S, T.IQ1_M, T.IQ4_NL, T.IQ4_XS, T.TQ1_0, T.TQ2_0, T.MXFP4]
ENCODED = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0, T.MXFP4]
# Where a block keeps its 16-bit scales, so that these can be made finite and of a likely size.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
          T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ4_NL: [0], T.IQ4_XS: [0], T.TQ1_0: [52], T.TQ2_0: [64]}


def fnv(data):
    h = 0xcbf29ce484222325
    for b in bytes(data):
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def grid(name, cls, bits):
    cls.init_grid()
    values = list(cls.grid_map)
    points = cls.grid.reshape(-1, cls.grid_shape[1])
    words = [sum(values.index(v) << bits * i for i, v in enumerate(p)) for p in points.astype(int).tolist()]
    lines = [", ".join(f"{w:#06x}" for w in words[i:i + 16]) for i in range(0, len(words), 16)]
    return f"static const uint16_t block_grid_{name}[{len(words)}] = {{\n    " + ",\n    ".join(lines) + "\n};\n"


def write(path, text):
    with open(os.path.join(ROOT, path), "w") as f:
        f.write(text)


def grids():
    text = "/* Made by tools/make_block_vectors.py: the grids of the IQ formats, facts of the format. A point of 8 (4 in IQ3) numbers is 8 indices of 2 (3) bits,\n * the first in the lowest bits; what the indices stand for is in blocks_iq.c. */\n#ifndef KERNELS_BLOCKS_GRIDS_H\n#define KERNELS_BLOCKS_GRIDS_H\n\n#include <stdint.h>\n\n"
    for name, kind, bits in (("iq2_xxs", "IQ2_XXS", 2), ("iq2_xs", "IQ2_XS", 2), ("iq2_s", "IQ2_S", 2), ("iq3_xxs", "IQ3_XXS", 3), ("iq3_s", "IQ3_S", 3), ("iq1", "IQ1_S", 2)):
        text += grid(name, getattr(quants, kind), bits) + "\n"
    write("kernels/blocks_grids.h", text + "#endif\n")


def blocks_of(kind, rng, count):
    elements, size = GGML_QUANT_SIZES[kind]
    if kind in (T.F16, T.BF16):
        values = (rng.standard_normal(256) * 2.0 ** rng.integers(-24, 15, 256)).astype(np.float32)
        return np.frombuffer(quants.quantize(values.reshape(1, -1), kind).tobytes(), np.uint8).reshape(-1, size)
    b = rng.integers(0, 256, (count, size), np.uint8)
    for at in SCALES.get(kind, []):
        b[:, at:at + 2] = (rng.standard_normal(count) * 0.05).astype(np.float16).view(np.uint8).reshape(count, 2)
    if kind == T.IQ1_M:
        for n in range(4):
            word = b[:, 48 + 2 * n:50 + 2 * n].copy().view(np.uint16) & 0x0fff
            part = (rng.standard_normal(count) * 0.05).astype(np.float16).view(np.uint16) if n == 0 else part
            b[:, 48 + 2 * n:50 + 2 * n] = (word | ((part >> 4 * n & 15) << 12).reshape(-1, 1)).astype(np.uint16).view(np.uint8)
    return b


def main():
    rng = np.random.default_rng(7)
    grids()
    text = "/* Made by tools/make_block_vectors.py with the gguf package. Digests are FNV-1a of 64 bits over little-endian bytes. */\n#ifndef TESTS_KERNELS_BLOCKS_VECTORS_H\n#define TESTS_KERNELS_BLOCKS_VECTORS_H\n\n#include <stdint.h>\n\n"
    rows = []
    for kind in DECODED:
        elements, size = GGML_QUANT_SIZES[kind]
        b = blocks_of(kind, rng, 512 // elements if elements > 1 else 0)
        decoded = quants.dequantize(b.reshape(1, -1), kind).astype(np.float32).ravel()
        digits = b.tobytes().hex()
        lines = [digits[i:i + 160] for i in range(0, len(digits), 160)]
        text += f"static const char blocks_{kind.name}[] =\n" + "\n".join(f'    "{l}"' for l in lines) + ";\n"
        rows.append(f'    {{ {int(kind)}, "{kind.name}", {elements}, {size}, blocks_{kind.name}, {len(decoded)}, {fnv(decoded.tobytes()):#018x}, {{ ' + ", ".join(f"{float(v).hex()}f" for v in decoded[:4]) + " } },")
    text += "\nstatic const struct block_vector { int type; const char *name; int elements, bytes; const char *hex; int numbers; uint64_t digest; float first[4]; } block_vectors[] = {\n" + "\n".join(rows) + "\n};\n\n"
    # The numbers to encode: x[i] = (s >> 8) * 2^-23 - 1 with s = s * 1664525 + 1013904223 from 1, cubed; the first 32 of each 1024 are 0.
    s, x = 1, np.zeros(2048, np.float32)
    for i in range(2048):
        s = (s * 1664525 + 1013904223) & 0xffffffff
        v = np.float32((s >> 8) * 2.0 ** -23 - 1)
        x[i] = v * v * v
    x.reshape(2, 1024)[:, :32] = 0
    rows = []
    for kind in ENCODED:
        rows.append(f"    {{ {int(kind)}, {fnv(quants.quantize(x.reshape(1, -1), kind).tobytes()):#018x} }},")
    text += "static const struct block_encoded { int type; uint64_t digest; } block_encoded[] = {\n" + "\n".join(rows) + "\n};\n\n#endif\n"
    write("tests/kernels/blocks_vectors.h", text)


if __name__ == "__main__":
    sys.exit(main())
