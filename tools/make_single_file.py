#!/usr/bin/env python3
"""A diffusers folder of Stable Diffusion 1's shape as one safetensors file with the names of the first releases: make_single_file.py FOLDER FILE

Numbers are copied as they are; only names change, and the matrices of the autoencoder's attention, which were 1x1 convolutions there. What stable-diffusion.cpp reads.
"""
import json
import os
import re
import struct
import sys

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
PLAIN = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2"}


def swap(table, rest):
    """`rest` with the one of the table's names that it begins with exchanged."""
    for old, new in table.items():
        if rest.startswith(old + "."):
            return new + rest[len(old):]
    return rest


def of_unet(name):
    m = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    if m:
        way, i, kind, j, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        at = 3 * i + j + (way == "down")
        if kind == "downsamplers":
            return "input_blocks.%d.0.op.%s" % (3 * i + 3, rest[len("conv."):])
        if kind == "upsamplers":
            return "output_blocks.%d.%d.%s" % (3 * i + 2, 2 if i else 1, rest)
        return "%s_blocks.%d.%d.%s" % ("input" if way == "down" else "output", at, kind == "attentions", swap(RESNET, rest) if kind == "resnets" else rest)
    m = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name)
    if m:
        return "middle_block.%d.%s" % (1 if m[1] == "attentions" else 2 * int(m[2]), swap(RESNET, m[3]) if m[1] == "resnets" else m[3])
    return swap(PLAIN, name)


def of_vae(name):
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out").replace("downsamplers.0.conv", "downsample.conv").replace("upsamplers.0.conv", "upsample.conv")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: "mid.block_%d" % (int(m[1]) + 1), name)
    name = re.sub(r"mid_block\.attentions\.0\.(.*)", lambda m: "mid.attn_1." + swap(ATTENTION, m[1]), name)
    name = re.sub(r"up_blocks\.(\d)", lambda m: "up.%d" % (3 - int(m[1])), name).replace("down_blocks.", "down.")
    return re.sub(r"resnets\.(\d)", r"block.\1", name)


def head_of(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        return {k: v for k, v in json.loads(f.read(size)).items() if k != "__metadata__"}, 8 + size


def main(folder, target):
    parts = (("unet/diffusion_pytorch_model.safetensors", "model.diffusion_model.", of_unet), ("vae/diffusion_pytorch_model.safetensors", "first_stage_model.", of_vae),
             ("text_encoder/model.safetensors", "cond_stage_model.transformer.", lambda n: n if n.startswith("text_model.") else "text_model." + n))
    head, offset, files = {}, 0, []
    for file, prefix, rename in parts:
        path = os.path.join(folder, file)
        tensors, start = head_of(path)
        for name, t in tensors.items():
            new = prefix + rename(name)
            shape = t["shape"] + [1, 1] if re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight", new) else t["shape"]
            head[new] = dict(t, shape=shape, data_offsets=[offset + x for x in t["data_offsets"]])
        length = os.path.getsize(path) - start
        files.append((path, start))
        offset += length
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(target + ".part", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for path, start in files:
            with open(path, "rb") as f:
                f.seek(start)
                while block := f.read(1 << 24):
                    out.write(block)
    os.rename(target + ".part", target)


if __name__ == "__main__":
    main(*sys.argv[1:])
