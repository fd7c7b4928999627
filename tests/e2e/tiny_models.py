"""Tiny models whose weights come from a hash of their names, so that files need not be kept: what tools describe, tests make again."""
import json, os, struct

import numpy as np

M64 = (1 << 64) - 1


def uniform(name, count):
    """[-1, 1) from FNV-1a of the name and splitmix64 of the index; tests/llm/tiny.c has the same."""
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & M64
    x = (np.uint64(h) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0 ** -23) - np.float32(1)


def tensor(name, base, amplitude, shape):
    return (np.float32(base) + np.float32(amplitude) * uniform(name, int(np.prod(shape)))).reshape(shape)


def write_tensors(folder, tensors):
    """{name: array} as model.safetensors in F32."""
    header, data = {}, b""
    for name, value in tensors.items():
        value = np.ascontiguousarray(value, dtype=np.float32)
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    open(os.path.join(folder, "model.safetensors"), "wb").write(struct.pack("<Q", len(text)) + text + data)


def write_cross_encoder(folder, config, tensors, words):
    """A BERT that scores pairs: `tensors` [[name, base, amplitude, shape]], `words` its WordPiece vocabulary."""
    os.makedirs(folder, exist_ok=True)
    write_tensors(folder, {name: tensor(name, base, amplitude, shape) for name, base, amplitude, shape in tensors})
    json.dump(config, open(os.path.join(folder, "config.json"), "w"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    mark = lambda t: {"SpecialToken": {"id": t, "type_id": 0}}
    json.dump({"version": "1.0", "added_tokens": [{"id": words.index(t), "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False} for t in special],
               "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"},
               "post_processor": {"type": "TemplateProcessing", "single": [mark("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, mark("[SEP]")],
                                  "pair": [mark("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, mark("[SEP]"), {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                                  "special_tokens": {t: {"id": t, "ids": [words.index(t)], "tokens": [t]} for t in ("[CLS]", "[SEP]")}},
               "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
               "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(words)}}}, open(os.path.join(folder, "tokenizer.json"), "w"))
    json.dump({"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}, open(os.path.join(folder, "tokenizer_config.json"), "w"))


def wire(number, value):
    """A protobuf field: a number or bytes."""
    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    return varint(number << 3) + varint(value) if isinstance(value, int) else varint(number << 3 | 2) + varint(len(value)) + value


def write_identity(folder, elem_type):
    """An ONNX network whose output "y" is its input "x", two free dimensions of ONNX's element type."""
    shape = wire(1, wire(2, b"rows")) + wire(1, wire(2, b"columns"))
    port = lambda name: wire(1, name) + wire(2, wire(1, wire(1, elem_type) + wire(2, shape)))
    graph = wire(1, wire(1, b"x") + wire(2, b"y") + wire(4, b"Identity")) + wire(2, b"same") + wire(11, port(b"x")) + wire(12, port(b"y"))
    os.makedirs(folder, exist_ok=True)
    open(os.path.join(folder, "model.onnx"), "wb").write(wire(1, 8) + wire(7, graph) + wire(8, wire(2, 17)))
