#!/usr/bin/env python3
"""Cases for operators of which the ONNX backend suite has (almost) none: com.microsoft and ai.onnx.ml, answered by onnxruntime.

    build/venv/bin/python tools/make_onnx_cases.py build/onnx-cases [OPERATOR...]

Writes OUT/node/<domain>_<operator>_<k>/ in the suite's form (model.onnx, test_data_set_0/{input,output}_*.pb), 20 and more for each operator, from fixed
seeds. `make conformance` holds them against tests/conformance/onnx_ledger.txt, suite "generated"."""
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CASES = 20
F, I64, I32, U8, I8 = np.float32, np.int64, np.int32, np.uint8, np.int8


def floats(r, *shape, scale=1.0):
    return (r.standard_normal(shape) * scale).astype(F)


def shape_of(r, rank, low=1, high=7):
    return [int(n) for n in r.integers(low, high, rank)]


def scale_of(r):
    return np.array(r.uniform(0.01, 0.1), F)


def byte(r, k, *shape):
    return r.integers(0, 255, shape).astype(U8) if k % 2 else r.integers(-128, 127, shape).astype(I8)


# Each maker gives (inputs as a list of arrays or None, attributes, number of outputs).
def gelu(r, k): return [floats(r, *shape_of(r, 1 + k % 4))], {}, 1
def bias_gelu(r, k): s = shape_of(r, 2 + k % 2); return [floats(r, *s), floats(r, s[-1])], {}, 1
def fast_gelu(r, k): s = shape_of(r, 2 + k % 2); return [floats(r, *s, scale=0.5)] + ([floats(r, s[-1], scale=0.5)] if k % 2 else []), {}, 1      # far below 0 only rounding is left
def quick_gelu(r, k): return [floats(r, *shape_of(r, 2))], {"alpha": 1.702 if k % 2 else 0.7}, 1


def fused_matmul(r, k):
    m, n, q = shape_of(r, 3, 1, 9)
    ta, tb, batch = k & 1, k >> 1 & 1, [[], [2], [2, 3]][k % 3]
    a, b = [q, m] if ta else [m, q], [n, q] if tb else [q, n]
    return [floats(r, *batch, *a), floats(r, *(batch if k % 5 else []), *b)], {"transA": ta, "transB": tb, "alpha": 0.5 + k}, 1


def skip_norm(r, k):
    s = shape_of(r, 3, 1, 6)
    beta, bias = k % 2 == 1, k % 3 == 1
    x = [floats(r, *s), floats(r, *s), floats(r, s[2]), floats(r, s[2]) if beta else None, floats(r, s[2]) if bias else None]
    return x, {"epsilon": 1e-5}, 1


def skip_simple(r, k): s = shape_of(r, 3, 1, 6); return [floats(r, *s), floats(r, *s), floats(r, s[2])] + ([floats(r, s[2])] if k % 3 == 1 else []), {"epsilon": 1e-5}, 1
def simple_norm(r, k): s = shape_of(r, 3, 1, 6); return [floats(r, *s), floats(r, s[2])], {"epsilon": 1e-5, "axis": -1}, 1


def embed(r, k):
    b, t, n = int(r.integers(1, 4)), int(r.integers(1, 6)), 4 * int(r.integers(1, 4))
    ids, seg = r.integers(0, 9, (b, t)).astype(I32), r.integers(0, 2, (b, t)).astype(I32)
    return [ids, seg, floats(r, 9, n), floats(r, 8, n), floats(r, 2, n), floats(r, n), floats(r, n)], {"epsilon": 1e-5}, 2


def nbits(r, k):
    n, q, block = int(r.integers(1, 9)), 16 * int(r.integers(1, 6)), [16, 32][k % 2]
    blocks = (q + block - 1) // block
    x = [floats(r, *[int(d) for d in r.integers(1, 5, 1 + k % 2)], q), r.integers(0, 255, (n, blocks, block // 2)).astype(U8), floats(r, n * blocks)]
    if k % 3 == 1:
        x.append(r.integers(0, 255, n * ((blocks + 1) // 2)).astype(U8))
    return x, {"N": n, "K": q, "bits": 4, "block_size": block}, 1


def dynamic_matmul(r, k):
    m, n, q = shape_of(r, 3, 1, 9)
    b = byte(r, k, q, n)
    return [floats(r, m, q), b, scale_of(r) if k % 3 else np.abs(floats(r, n)) + F(0.01), np.array(3, b.dtype) if k % 3 else np.full(n, 2, b.dtype)] + ([floats(r, n)] if k % 2 else []), {}, 1


def matmul_to_float(r, k):
    m, n, q = shape_of(r, 3, 1, 9)
    a, b = r.integers(0, 255, (m, q)).astype(U8), byte(r, k, q, n)
    return [a, b, scale_of(r), scale_of(r), np.array(7, U8), np.array(2, b.dtype)] + ([floats(r, n)] if k % 2 else []), {}, 1


def q_pair(r, k):
    s = shape_of(r, 1 + k % 3)
    a, b = byte(r, k, *s), byte(r, k, *(s if k % 3 else s[-1:]))
    return [a, scale_of(r), np.array(5, a.dtype), b, scale_of(r), np.array(1, a.dtype), scale_of(r), np.array(9, a.dtype)], {}, 1


def q_single(r, k): a = byte(r, k, *shape_of(r, 2)); return [a, scale_of(r), np.array(5, a.dtype), np.array(1 / 256, F), np.array(0 if k % 2 else -128, a.dtype)], {}, 1
def q_leaky(r, k): x, _, n = q_single(r, k); x[3] = scale_of(r); x[4] = np.array(3, x[0].dtype); return x, {"alpha": 0.1}, n


def q_pool(r, k):
    a = byte(r, k, int(r.integers(1, 3)), int(r.integers(1, 4)), int(r.integers(4, 9)), int(r.integers(4, 9)))
    return [a, scale_of(r), np.array(5, a.dtype), scale_of(r), np.array(3, a.dtype)], {"kernel_shape": [2, 3], "strides": [1, 1 + k % 2], "pads": [0, k % 2, 0, k % 2], "count_include_pad": k >> 1 & 1}, 1


def q_global(r, k): x, _, n = q_pool(r, k); return x, {"channels_last": 0}, n


def heads(r, k):
    b, h, w, s, t = int(r.integers(1, 3)), int(r.integers(1, 4)), 4 * int(r.integers(1, 3)), int(r.integers(1, 5)), int(r.integers(1, 6))
    x = [floats(r, b, s, h * w), floats(r, b, t, h * w), floats(r, b, t, h * w), floats(r, 3 * h * w) if k % 2 else None, None, floats(r, 1 if k % 3 else b, h, s, t) if k % 4 == 3 else None]
    return x, {"num_heads": h}, 1


def projected(r, k):
    b, h, w, s, n = int(r.integers(1, 3)), int(r.integers(1, 4)), 4 * int(r.integers(1, 3)), int(r.integers(2, 6)), int(r.integers(2, 7))
    mask = (np.arange(s)[None, :] < r.integers(1, s + 1, (b, 1))).astype(I32)
    return [floats(r, b, s, n), floats(r, n, 3 * h * w), floats(r, 3 * h * w)] + ([mask] if k % 2 else []), {"num_heads": h, "unidirectional": k >> 1 & 1 if not k % 2 else 0}, 1


def rotary(r, k):
    b, h, t, w = int(r.integers(1, 3)), int(r.integers(1, 4)), int(r.integers(1, 6)), 2 * int(r.integers(1, 5))
    at = np.array([2], I64) if k % 2 else r.integers(0, 8, (b, t)).astype(I64)
    return [floats(r, b, t, h * w) if k % 3 else floats(r, b, h, t, w), at, floats(r, 10, w // 2), floats(r, 10, w // 2)], {"interleaved": k >> 1 & 1}, 1


def grouped(r, k):
    """Even cases are prompts, odd ones a token or two behind a past; every third is packed, every other one rotates."""
    b, kv, w, more = int(r.integers(1, 3)), int(r.integers(1, 3)), 16 * int(r.integers(1, 3)), 1 + k % 4 // 2
    h, s, past = kv * more, int(r.integers(1, 6)) if k % 2 == 0 else 1, 0 if k % 2 == 0 else int(r.integers(1, 7))
    packed, turned = k % 3 == 1, k // 2 % 2 == 1
    x = [floats(r, b, s, (h + 2 * kv) * w)] + [None, None] if packed else [floats(r, b, s, h * w), floats(r, b, s, kv * w), floats(r, b, s, kv * w)]
    x += [floats(r, b, kv, past, w), floats(r, b, kv, past, w)] if past else [None, None]
    x += [np.full(b, past + s - 1, I32), np.array([past + s], I32)] + ([floats(r, 16, w // 2), floats(r, 16, w // 2)] if turned else [])
    return x, {"num_heads": h, "kv_num_heads": kv, "do_rotary": int(turned), "rotary_interleaved": int(turned and k % 5 == 2), "local_window_size": 3 if k % 4 == 3 else -1, **({"softcap": 2.0} if k % 7 == 5 else {})}, 3


def q_linear(r, k): x = floats(r, *shape_of(r, 2), scale=5); t = [U8, I8][k % 2]; return [x, scale_of(r), np.array(4, t)], {}, 1
def dq_linear(r, k): a = byte(r, k, *shape_of(r, 2)); return [a, scale_of(r), np.array(4, a.dtype)], {}, 1


def max_roi(r, k):
    n, h, w = int(r.integers(1, 3)), int(r.integers(3, 9)), int(r.integers(3, 9))
    at = r.uniform(0, 6, (1 + k % 3, 2, 2)).cumsum(1).reshape(-1, 4)
    return [floats(r, n, 2, h, w), np.concatenate([r.integers(0, n, (len(at), 1)), at], 1).astype(F)], {"pooled_shape": [1 + k % 3, 2], "spatial_scale": [1.0, 0.5][k % 2]}, 1


# ---- ai.onnx.ml ----
def scaler(r, k): n = int(r.integers(1, 6)); m = n if k % 2 else 1; return [floats(r, 3, n)], {"scale": floats(r, m).tolist(), "offset": floats(r, m).tolist()}, 1
def normalizer(r, k): return [np.abs(floats(r, 3, 4)) + F(0.1)], {"norm": ["MAX", "L1", "L2"][k % 3]}, 1
def binarizer(r, k): return [floats(r, *shape_of(r, 2))], {"threshold": float(k) / 20 - 0.5}, 1
def imputer(r, k): x = floats(r, 3, 4); x[r.random((3, 4)) < 0.4] = np.nan; return [x], {"imputed_value_floats": floats(r, 4 if k % 2 else 1).tolist(), "replaced_value_float": float("nan")}, 1
def extractor(r, k): return [floats(r, 3, 6), r.integers(0, 6, (1, 1 + k % 4)).astype(I64)], {}, 1
def one_hot(r, k): return [r.integers(0, 5, shape_of(r, 1 + k % 2)).astype(I64)], {"cats_int64s": [0, 1, 2, 3], "zeros": 1}, 1
def vectorizer(r, k): return [floats(r, 3, 2), floats(r, 3, 4)], {"inputdimensions": [2, 4]}, 1


def label(r, k):
    kind = k % 4
    if kind == 0: return [r.choice(np.array(["a", "b", "c", "z"], object), (2, 3))], {"keys_strings": ["a", "b", "c"], "values_int64s": [4, 5, 6], "default_int64": -7}, 1
    if kind == 1: return [r.integers(0, 5, (4,)).astype(I64)], {"keys_int64s": [0, 1, 2], "values_strings": ["x", "y", "z"], "default_string": "none"}, 1
    if kind == 2: return [r.integers(0, 5, (4,)).astype(I64)], {"keys_int64s": [0, 1, 2], "values_floats": [0.5, 1.5, 2.5], "default_float": 9.0}, 1
    return [r.integers(0, 4, (5,)).astype(F)], {"keys_floats": [0.0, 1.0, 2.0], "values_floats": [3.0, 2.0, 1.0], "default_float": -1.0}, 1


def category(r, k):
    if k % 2: return [r.choice(np.array(["a", "b", "z"], object), (5,))], {"cats_strings": ["a", "b", "c"], "cats_int64s": [4, 5, 6], "default_int64": -7}, 1
    return [r.integers(3, 8, (5,)).astype(I64)], {"cats_strings": ["a", "b", "c"], "cats_int64s": [4, 5, 6], "default_string": "none"}, 1


def linear_regressor(r, k): t = 1 + k % 3; return [floats(r, 4, 3)], {"coefficients": floats(r, 3 * t).tolist(), "intercepts": floats(r, t).tolist(), "targets": t}, 1


def linear_classifier(r, k):
    n = [1, 3, 4][k % 3]
    labels = [5, 9] if n == 1 else list(range(10, 10 + n))
    return [floats(r, 4, 3)], {"coefficients": floats(r, 3 * n).tolist(), "intercepts": floats(r, n).tolist(), "classlabels_ints": labels, "post_transform": ["NONE", "LOGISTIC", "SOFTMAX"][k // 3 % (2 if n == 1 else 3)]}, 2


def grow(r, features, depth):
    """One random tree as lists: (feature, value, mode, yes, no), leaves marked by mode LEAF."""
    nodes = []

    def add(d):
        at = len(nodes)
        nodes.append(None)
        if d == 0 or r.random() < 0.2 and d < depth:
            nodes[at] = (0, 0.0, "LEAF", 0, 0)
            return at
        f, v, mode = int(r.integers(0, features)), float(F(r.standard_normal())), "BRANCH_LEQ" if MODE_ONE else str(r.choice(["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE"]))
        yes = add(d - 1)
        no = add(d - 1)
        nodes[at] = (f, v, mode, yes, no)
        return at

    add(depth)
    return nodes


MODE_ONE = False


def forest(r, k, targets, prefix):
    global MODE_ONE
    MODE_ONE = k % 2 == 0
    a = {n: [] for n in ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true")}
    w = {prefix + n: [] for n in ("_treeids", "_nodeids", "_ids", "_weights")}
    for t in range(1 + k % 4):
        for i, (f, v, mode, yes, no) in enumerate(grow(r, 3, 1 + k % 3)):
            for name, value in zip(a, (t, i, f, v, mode, yes, no, int(k % 3 == 1))):
                a[name].append(value)
            if mode == "LEAF":
                for target in targets:
                    for name, value in zip(w, (t, i, target, float(F(abs(r.standard_normal()) if k % 5 < 3 else r.standard_normal())))):
                        w[name].append(value)
    return {**a, **w}


def tree_regressor(r, k):
    n = 1 + k % 2
    a = forest(r, k, range(n), "target")
    return [floats(r, 5, 3)], {**a, "n_targets": n, "aggregate_function": ["SUM", "AVERAGE", "MIN", "MAX"][k % 4], **({"base_values": floats(r, n).tolist()} if k % 3 == 0 else {})}, 1


def tree_classifier(r, k):
    many = k % 2 == 1
    a = forest(r, k, range(3) if many else [0], "class")
    return [floats(r, 5, 3)], {**a, "classlabels_int64s": [4, 5, 6] if many else [4, 5], "post_transform": ["NONE", "SOFTMAX", "LOGISTIC"][k % 3] if many else ["NONE", "LOGISTIC"][k // 2 % 2]}, 2


def svm_regressor(r, k):
    n = int(r.integers(1, 5))
    return [floats(r, 4, 3)], {"kernel_type": ["LINEAR", "POLY", "RBF", "SIGMOID"][k % 4], "kernel_params": [0.3, 0.5, 2.0], "support_vectors": floats(r, 3 * n).tolist(), "coefficients": floats(r, n).tolist(), "rho": floats(r, 1).tolist(), "n_supports": n, "one_class": int(k % 7 == 6)}, 1


def svm_classifier(r, k):
    n = 2 + k % 3
    per = [int(v) for v in r.integers(1, 4, n)]
    pairs = n * (n - 1) // 2
    a = {"kernel_type": ["LINEAR", "POLY", "RBF", "SIGMOID"][k % 4], "kernel_params": [0.3, 0.5, 2.0], "support_vectors": floats(r, 3 * sum(per)).tolist(), "coefficients": floats(r, (n - 1) * sum(per)).tolist(), "rho": floats(r, pairs).tolist(), "vectors_per_class": per, "classlabels_ints": list(range(3, 3 + n))}
    if k % 2:
        a.update(prob_a=(-np.abs(floats(r, pairs)) - 0.1).tolist(), prob_b=floats(r, pairs, scale=0.1).tolist())
    return [floats(r, 4, 3)], a, 2


MS, ML = "com.microsoft", "ai.onnx.ml"
OPERATORS = [
    (MS, "Gelu", gelu), (MS, "BiasGelu", bias_gelu), (MS, "FastGelu", fast_gelu), (MS, "QuickGelu", quick_gelu), (MS, "FusedMatMul", fused_matmul), (MS, "SkipLayerNormalization", skip_norm),
    (MS, "SkipSimplifiedLayerNormalization", skip_simple), ("", "SimplifiedLayerNormalization", simple_norm), (MS, "EmbedLayerNormalization", embed), (MS, "MatMulNBits", nbits), (MS, "DynamicQuantizeMatMul", dynamic_matmul),
    (MS, "MatMulIntegerToFloat", matmul_to_float), (MS, "QLinearAdd", q_pair), (MS, "QLinearMul", q_pair), (MS, "QLinearSigmoid", q_single), (MS, "QLinearLeakyRelu", q_leaky), (MS, "QLinearAveragePool", q_pool),
    (MS, "QLinearGlobalAveragePool", q_global), (MS, "MultiHeadAttention", heads), (MS, "Attention", projected), (MS, "RotaryEmbedding", rotary), (MS, "GroupQueryAttention", grouped), (MS, "QuantizeLinear", q_linear), (MS, "DequantizeLinear", dq_linear), ("", "MaxRoiPool", max_roi),
    (ML, "Scaler", scaler), (ML, "Normalizer", normalizer), (ML, "Binarizer", binarizer), (ML, "Imputer", imputer), (ML, "ArrayFeatureExtractor", extractor), (ML, "OneHotEncoder", one_hot), (ML, "FeatureVectorizer", vectorizer),
    (ML, "LabelEncoder", label), (ML, "CategoryMapper", category), (ML, "LinearRegressor", linear_regressor), (ML, "LinearClassifier", linear_classifier), (ML, "TreeEnsembleRegressor", tree_regressor),
    (ML, "TreeEnsembleClassifier", tree_classifier), (ML, "SVMRegressor", svm_regressor), (ML, "SVMClassifier", svm_classifier),
]


def kind(x): return TensorProto.STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)


def write(folder, name, x):
    with open(f"{folder}/{name}.pb", "wb") as f:
        f.write(numpy_helper.from_array(x, name).SerializeToString())


def make(out, domain, op, maker, k):
    r = np.random.default_rng([k, sum(map(ord, op))])
    inputs, attributes, outputs = maker(r, k)
    while inputs and inputs[-1] is None: inputs.pop()
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    graph = helper.make_graph([node], op, [helper.make_tensor_value_info(n, kind(x), x.shape) for n, x in zip(names, inputs) if n], [helper.make_empty_tensor_value_info(n) for n in results])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1), helper.make_opsetid(ML, 3)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    got = session.run(None, {n: x for n, x in zip(names, inputs) if n})
    folder = f"{out}/node/{(domain or 'ai.onnx').replace('.', '_')}_{op}_{k:02}"
    os.makedirs(folder + "/test_data_set_0", exist_ok=True)
    onnx.save(model, folder + "/model.onnx")
    for i, x in enumerate(x for x in inputs if x is not None): write(folder + "/test_data_set_0", f"input_{i}", x)
    for i, y in enumerate(got): write(folder + "/test_data_set_0", f"output_{i}", np.asarray(y))


def main():
    out, wanted, bad = sys.argv[1], sys.argv[2:], 0
    for domain, op, maker in OPERATORS:
        if wanted and op not in wanted: continue
        for k in range(CASES):
            try:
                make(out, domain, op, maker, k)
            except Exception as e:
                bad += 1
                print(f"{domain}.{op} {k}: {str(e).splitlines()[0][:200]}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
