#!/usr/bin/env python3
"""The same requests, good and bad, to inferd and to a real Triton (the tritonserver inside PyPI's nvidia-pytriton, Python backend), answers compared.

  compat.py [--keep DIR] [--case NAME] [--verbose]

Both serve models with the same signatures: `simple` (INT32 sum and difference, batched), `scale` (FP32, labels), `types` (identity of every datatype
that has a binary form), `plain` (no batching). Compared: status, the content headers, and the body (JSON by value, floats as float32, binary by
bytes). A difference is either mended or stands in tests/conformance/compat_explained.json with its reason; a different status needs a
requirement's number; nothing may excuse a request that succeeds there and fails here. Exit status 1 when a difference is unexplained or an
explanation is no longer needed. compat_grpc.py holds the gRPC cases."""
import argparse, gzip, http.client, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, time, zlib

import compat_grpc
import numpy as np
import onnx
from onnx import TensorProto as T, helper as h

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRITON = os.path.join(ROOT, "build/triton")
EXPLAINED = os.path.join(ROOT, "tests/conformance/compat_explained.json")
TYPES = [("BOOL", T.BOOL, "TYPE_BOOL"), ("UINT8", T.UINT8, "TYPE_UINT8"), ("UINT16", T.UINT16, "TYPE_UINT16"), ("UINT32", T.UINT32, "TYPE_UINT32"), ("UINT64", T.UINT64, "TYPE_UINT64"),
         ("INT8", T.INT8, "TYPE_INT8"), ("INT16", T.INT16, "TYPE_INT16"), ("INT32", T.INT32, "TYPE_INT32"), ("INT64", T.INT64, "TYPE_INT64"), ("FP16", T.FLOAT16, "TYPE_FP16"),
         ("FP32", T.FLOAT, "TYPE_FP32"), ("FP64", T.DOUBLE, "TYPE_FP64"), ("BYTES", T.STRING, "TYPE_STRING")]


# ---- the models, on both sides -------------------------------------------------------------------------------------

def value(name, t, dims):
    return h.make_tensor_value_info(name, t, dims)


def save(store, name, inputs, outputs, nodes, initializers, config, python):
    """python: the body of execute() for one request: `i` holds the inputs by name, fill `o`."""
    for side in ("inferd", "triton"):
        d = os.path.join(store, side, name, "1")
        os.makedirs(d)
        if side == "inferd":
            g = h.make_graph(nodes, name, inputs, outputs, initializers)
            onnx.save(h.make_model(g, opset_imports=[h.make_opsetid("", 17)], ir_version=8), os.path.join(d, "model.onnx"))
            head = 'backend: "onnx"\n'
        else:
            open(os.path.join(d, "model.py"), "w").write(PYTHON.replace("@SITE@", os.path.join(TRITON, "site")) % "\n".join("            " + line for line in python.splitlines()))
            head = 'backend: "python"\n'
        open(os.path.join(store, side, name, "config.pbtxt"), "w").write('name: "%s"\n' % name + head + config)
        if "labels.txt" in config:
            open(os.path.join(store, side, name, "labels.txt"), "w").write("red\ngreen\nblue\nwhite\n")


PYTHON = '''import sys
sys.path.insert(0, '@SITE@')
import numpy as np, triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for r in requests:
            i = {t.name(): t.as_numpy() for t in r.inputs()}
            o = {}
%s
            wanted = set(r.requested_output_names())
            responses.append(pb.InferenceResponse([pb.Tensor(k, v) for k, v in o.items() if k in wanted]))
        return responses
'''


def make_models(store):
    port = lambda n, t, d: '{ name: "%s" data_type: %s dims: [ %s ] }' % (n, t, d)
    save(store, "simple", [value("INPUT0", T.INT32, ["b", 16]), value("INPUT1", T.INT32, ["b", 16])], [value("OUTPUT0", T.INT32, ["b", 16]), value("OUTPUT1", T.INT32, ["b", 16])],
         [h.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), h.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])], [],
         "max_batch_size: 8\ninput [ %s, %s ]\noutput [ %s, %s ]\n" % (port("INPUT0", "TYPE_INT32", 16), port("INPUT1", "TYPE_INT32", 16), port("OUTPUT0", "TYPE_INT32", 16), port("OUTPUT1", "TYPE_INT32", 16)),
         "o['OUTPUT0'] = i['INPUT0'] + i['INPUT1']\no['OUTPUT1'] = i['INPUT0'] - i['INPUT1']")
    save(store, "scale", [value("x", T.FLOAT, ["b", 4])], [value("y", T.FLOAT, ["b", 4])], [h.make_node("Mul", ["x", "two"], ["y"])], [h.make_tensor("two", T.FLOAT, [], [2.0])],
         'max_batch_size: 4\ninput [ %s ]\noutput [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]\ndynamic_batching { }\n' % port("x", "TYPE_FP32", 4), "o['y'] = i['x'] * np.float32(2)")
    save(store, "plain", [value("x", T.FLOAT, [2, 3])], [value("y", T.FLOAT, [2, 3])], [h.make_node("Neg", ["x"], ["y"])], [],
         "max_batch_size: 0\ninput [ %s ]\noutput [ %s ]\n" % (port("x", "TYPE_FP32", "2, 3"), port("y", "TYPE_FP32", "2, 3")), "o['y'] = -i['x']")
    for name, t, config in TYPES:
        save(store, "type_" + name.lower(), [value("x", t, ["b", 3])], [value("y", t, ["b", 3])], [h.make_node("Identity", ["x"], ["y"])], [],
             "max_batch_size: 4\ninput [ %s ]\noutput [ %s ]\n" % (port("x", config, 3), port("y", config, 3)), "o['y'] = i['x']")


# ---- the servers ---------------------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def prepare_triton():
    """build/triton: the wheel unpacked, its Python backend and the stub of this Python in one backend directory."""
    backends = os.path.join(TRITON, "backends/python")
    if not os.path.exists(os.path.join(backends, "triton_python_backend_stub")):
        shutil.rmtree(TRITON, ignore_errors=True)
        os.makedirs(TRITON)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", TRITON, "nvidia-pytriton==0.7.0"], check=True)
        wheel = [f for f in os.listdir(TRITON) if f.endswith(".whl")][0]
        subprocess.run([sys.executable, "-m", "zipfile", "-e", os.path.join(TRITON, wheel), os.path.join(TRITON, "wheel")], check=True)
        w = os.path.join(TRITON, "wheel/pytriton/tritonserver")
        shutil.copytree(os.path.join(w, "backends/python"), backends)
        shutil.copy(os.path.join(w, "python_backend_stubs/%d.%d/triton_python_backend_stub" % sys.version_info[:2]), backends)
        for f in (os.path.join(backends, "triton_python_backend_stub"), os.path.join(w, "bin/tritonserver")):
            os.chmod(f, 0o755)
        # the Python backend needs numpy < 2: a folder of its own, for that process only
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", os.path.join(TRITON, "site"), "numpy<2"], check=True)
    return os.path.join(TRITON, "wheel/pytriton/tritonserver/bin/tritonserver")


def wait_http(port, process, path="/v2/health/ready", seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if process.poll() is not None:
            raise RuntimeError("a server ended at its start with status %s" % process.returncode)
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            c.request("GET", path)
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("a server did not get ready")


def start(store):
    log = open(os.path.join(store, "log"), "w")
    ports = [free_port() for _ in range(6)]
    import sysconfig
    env = dict(os.environ, LD_LIBRARY_PATH=":".join([os.path.join(TRITON, "wheel/nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]), PYTHONPATH=os.path.join(TRITON, "site"))
    triton = subprocess.Popen([prepare_triton(), "--model-repository", os.path.join(store, "triton"), "--backend-directory", os.path.join(TRITON, "backends"), "--http-port", str(ports[0]),
                               "--grpc-port", str(ports[1]), "--metrics-port", str(ports[2]), "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--metrics-address", "127.0.0.1",
                               "--model-control-mode", "explicit", "--load-model", "*", "--log-verbose", "0"], env=env, stdout=log, stderr=log)
    inferd = subprocess.Popen([os.path.join(ROOT, "build/release/inferd"), "serve", "--store", os.path.join(store, "inferd"), "--control", "explicit", "--load-model", "*", "--http-port", str(ports[3]),
                               "--metrics-port", str(ports[4]), "--grpc-port", str(ports[5])], stdout=log, stderr=log)
    wait_http(ports[3], inferd)
    wait_http(ports[0], triton)
    return (triton, ports[0], ports[2], ports[1]), (inferd, ports[3], ports[4], ports[5])


# ---- the cases -----------------------------------------------------------------------------------------------------

class Case:
    def __init__(self, name, method, path, body=None, headers=None, only=None):
        self.name, self.method, self.path, self.headers, self.only = name, method, path, headers or {}, only
        self.body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body


def tensor(name, datatype, shape, data=None, **parameters):
    t = {"name": name, "shape": shape, "datatype": datatype}
    if data is not None:
        t["data"] = data
    if parameters:
        t["parameters"] = parameters
    return t


def binary(request, *arrays):
    j = json.dumps(request).encode()
    return j + b"".join(arrays), {"Inference-Header-Content-Length": str(len(j)), "Content-Type": "application/octet-stream"}


def strings(*values):
    return b"".join(struct.pack("<I", len(v)) + v for v in values)


def cases():
    a, b = list(range(16)), [1] * 16
    two = [tensor("INPUT0", "INT32", [1, 16], a), tensor("INPUT1", "INT32", [1, 16], b)]
    infer = "/v2/models/simple/infer"
    x = tensor("x", "FP32", [1, 4], [1.5, -2.25, 0.1, 1e-8])
    yield Case("live", "GET", "/v2/health/live")
    yield Case("ready", "GET", "/v2/health/ready")
    yield Case("server metadata", "GET", "/v2")
    for m in ("simple", "scale", "plain", "type_bytes"):
        yield Case("metadata " + m, "GET", "/v2/models/" + m)
        yield Case("config " + m, "GET", "/v2/models/%s/config" % m)
        yield Case("ready " + m, "GET", "/v2/models/%s/ready" % m)
    yield Case("metadata version", "GET", "/v2/models/simple/versions/1")
    yield Case("ready version", "GET", "/v2/models/simple/versions/1/ready")
    yield Case("metadata unknown model", "GET", "/v2/models/nothing")
    yield Case("metadata unknown version", "GET", "/v2/models/simple/versions/9")
    yield Case("ready unknown model", "GET", "/v2/models/nothing/ready")
    yield Case("config unknown model", "GET", "/v2/models/nothing/config")
    yield Case("stats unknown model", "GET", "/v2/models/nothing/stats")
    yield Case("unknown path", "GET", "/v2/nothing")
    yield Case("root", "GET", "/")
    yield Case("unknown action", "GET", "/v2/models/simple/nothing")
    yield Case("wrong method infer", "GET", infer)
    yield Case("wrong method metadata", "POST", "/v2/models/simple", {})
    yield Case("wrong method index", "GET", "/v2/repository/index")
    yield Case("infer json", "POST", infer, {"inputs": two})
    yield Case("infer json id", "POST", infer, {"id": "abc", "inputs": two})
    yield Case("infer json version", "POST", "/v2/models/simple/versions/1/infer", {"inputs": two})
    yield Case("infer json one output", "POST", infer, {"inputs": two, "outputs": [{"name": "OUTPUT1"}]})
    yield Case("infer json outputs turned", "POST", infer, {"inputs": two, "outputs": [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]})
    yield Case("infer json nested", "POST", infer, {"inputs": [tensor("INPUT0", "INT32", [2, 16], [a, b]), tensor("INPUT1", "INT32", [2, 16], [b, a])]})
    yield Case("infer json inputs turned", "POST", infer, {"inputs": two[::-1]})
    yield Case("infer json parameters", "POST", infer, {"inputs": two, "parameters": {"priority": 1, "timeout": 1000000, "mine": "x", "half": 0.5, "yes": True}})
    yield Case("infer floats", "POST", "/v2/models/scale/infer", {"inputs": [x]})
    yield Case("infer floats from integers", "POST", "/v2/models/scale/infer", {"inputs": [tensor("x", "FP32", [1, 4], [1, 2, 3, -4])]})
    yield Case("infer plain", "POST", "/v2/models/plain/infer", {"inputs": [tensor("x", "FP32", [2, 3], [1, 2, 3, 4, 5, 6.5])]})
    for algorithm, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        yield Case("infer " + algorithm, "POST", infer, pack(json.dumps({"inputs": two}).encode()), {"Content-Encoding": algorithm})
        yield Case("infer broken " + algorithm, "POST", infer, b"xxxx" + pack(json.dumps({"inputs": two}).encode()), {"Content-Encoding": algorithm})
    raw = np.array(a, np.int32).tobytes(), np.array(b, np.int32).tobytes()
    ports = [tensor("INPUT0", "INT32", [1, 16], binary_data_size=64), tensor("INPUT1", "INT32", [1, 16], binary_data_size=64)]
    for name, extra in (("infer binary", {}), ("infer binary all outputs", {"parameters": {"binary_data_output": True}}),
                        ("infer binary one output", {"outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1", "parameters": {"binary_data": False}}]})):
        body, headers = binary(dict({"inputs": ports}, **extra), *raw)
        yield Case(name, "POST", infer, body, headers)
    body, headers = binary({"inputs": [ports[0], two[1]]}, raw[0])
    yield Case("infer binary and json mixed", "POST", infer, body, headers)
    body, headers = binary({"inputs": ports}, raw[0], raw[1][:60])
    yield Case("binary too short", "POST", infer, body, headers)
    body, headers = binary({"inputs": ports}, raw[0], raw[1], b"more")
    yield Case("binary too long", "POST", infer, body, headers)
    body, headers = binary({"inputs": [tensor("INPUT0", "INT32", [1, 16], binary_data_size=60), ports[1]]}, raw[0][:60], raw[1])
    yield Case("binary size beside shape", "POST", infer, body, headers)
    body, headers = binary({"inputs": ports}, *raw)
    yield Case("binary header too large", "POST", infer, body, dict(headers, **{"Inference-Header-Content-Length": "100000"}))
    yield Case("binary header no number", "POST", infer, body, dict(headers, **{"Inference-Header-Content-Length": "many"}))
    yield Case("raw request", "POST", "/v2/models/scale/infer", np.array([1, 2, 3, 4], np.float32).tobytes(), {"Inference-Header-Content-Length": "0"})
    yield Case("raw request two inputs", "POST", infer, raw[0], {"Inference-Header-Content-Length": "0"})
    samples = {"BOOL": [True, False, True], "FP16": None, "BYTES": ["a", "é\n", ""], "UINT64": [0, 1, 2**64 - 1], "INT64": [-2**63, 0, 2**63 - 1], "FP64": [0.1, -1e300, 5e-324], "FP32": [0.1, -3e38, 1e-40],
               "UINT8": [0, 1, 255], "INT8": [-128, 0, 127], "UINT16": [0, 1, 65535], "INT16": [-32768, 0, 32767], "UINT32": [0, 1, 2**32 - 1], "INT32": [-2**31, 0, 2**31 - 1]}
    for name, _, _ in TYPES:
        path = "/v2/models/type_%s/infer" % name.lower()
        if samples[name] is not None:
            yield Case("type json " + name, "POST", path, {"inputs": [tensor("x", name, [1, 3], samples[name])]})
        data = strings(b"a", b"\xff\x00", b"") if name == "BYTES" else np.array([1, 0, 1], {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}.get(name) or name.lower()).tobytes()
        body, headers = binary({"inputs": [tensor("x", name, [1, 3], binary_data_size=len(data))], "parameters": {"binary_data_output": True}}, data)
        yield Case("type binary " + name, "POST", path, body, headers)
    data = strings(b"a", b"b")
    body, headers = binary({"inputs": [tensor("x", "BYTES", [1, 3], binary_data_size=len(data))]}, data)
    yield Case("bytes too few", "POST", "/v2/models/type_bytes/infer", body, headers)
    data = strings(b"a", b"b") + struct.pack("<I", 99) + b"c"
    body, headers = binary({"inputs": [tensor("x", "BYTES", [1, 3], binary_data_size=len(data))]}, data)
    yield Case("bytes past the end", "POST", "/v2/models/type_bytes/infer", body, headers)
    yield Case("classification", "POST", "/v2/models/scale/infer", {"inputs": [tensor("x", "FP32", [2, 4], [4, 1, 3, 2, 1, 2, 3, 4])], "outputs": [{"name": "y", "parameters": {"classification": 2}}]})
    yield Case("classification more than there are", "POST", "/v2/models/scale/infer", {"inputs": [x], "outputs": [{"name": "y", "parameters": {"classification": 9}}]})
    yield Case("classification binary", "POST", "/v2/models/scale/infer", {"inputs": [tensor("x", "FP32", [1, 4], [4, 1, 3, 2])], "outputs": [{"name": "y", "parameters": {"classification": 3, "binary_data": True}}]})
    yield Case("classification of integers", "POST", infer, {"inputs": two, "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 2}}]})
    # bad ones
    yield Case("unknown model", "POST", "/v2/models/nothing/infer", {"inputs": two})
    yield Case("unknown version", "POST", "/v2/models/simple/versions/9/infer", {"inputs": two})
    yield Case("no body", "POST", infer)
    yield Case("not json", "POST", infer, b"hello")
    yield Case("json cut off", "POST", infer, json.dumps({"inputs": two}).encode()[:-9])
    yield Case("json array", "POST", infer, [1])
    yield Case("empty object", "POST", infer, {})
    yield Case("inputs no array", "POST", infer, {"inputs": {}})
    yield Case("inputs empty", "POST", infer, {"inputs": []})
    yield Case("one input missing", "POST", infer, {"inputs": two[:1]})
    yield Case("one input too many", "POST", infer, {"inputs": two + [tensor("INPUT2", "INT32", [1, 16], a)]})
    yield Case("input twice", "POST", infer, {"inputs": [two[0], two[0]]})
    yield Case("input unknown", "POST", infer, {"inputs": [two[0], tensor("other", "INT32", [1, 16], a)]})
    yield Case("input without name", "POST", infer, {"inputs": [{k: v for k, v in two[0].items() if k != "name"}, two[1]]})
    yield Case("input without shape", "POST", infer, {"inputs": [{k: v for k, v in two[0].items() if k != "shape"}, two[1]]})
    yield Case("input without datatype", "POST", infer, {"inputs": [{k: v for k, v in two[0].items() if k != "datatype"}, two[1]]})
    yield Case("input without data", "POST", infer, {"inputs": [{k: v for k, v in two[0].items() if k != "data"}, two[1]]})
    yield Case("datatype wrong", "POST", infer, {"inputs": [dict(two[0], datatype="FP32"), two[1]]})
    yield Case("datatype unknown", "POST", infer, {"inputs": [dict(two[0], datatype="INT33"), two[1]]})
    yield Case("shape wrong", "POST", infer, {"inputs": [tensor("INPUT0", "INT32", [1, 8], a[:8]), two[1]]})
    yield Case("shape without batch", "POST", infer, {"inputs": [tensor("INPUT0", "INT32", [16], a), tensor("INPUT1", "INT32", [16], b)]})
    yield Case("shape negative", "POST", infer, {"inputs": [dict(two[0], shape=[-1, 16]), two[1]]})
    yield Case("shape text", "POST", infer, {"inputs": [dict(two[0], shape=["1", "16"]), two[1]]})
    yield Case("shape zero rows", "POST", infer, {"inputs": [tensor("INPUT0", "INT32", [0, 16], []), tensor("INPUT1", "INT32", [0, 16], [])]})
    yield Case("rows differ", "POST", infer, {"inputs": [tensor("INPUT0", "INT32", [2, 16], a + a), two[1]]})
    yield Case("batch too large", "POST", infer, {"inputs": [tensor("INPUT0", "INT32", [9, 16], a * 9), tensor("INPUT1", "INT32", [9, 16], b * 9)]})
    yield Case("data too short", "POST", infer, {"inputs": [dict(two[0], data=a[:15]), two[1]]})
    yield Case("data too long", "POST", infer, {"inputs": [dict(two[0], data=a + [1]), two[1]]})
    yield Case("data text", "POST", infer, {"inputs": [dict(two[0], data=["1"] * 16), two[1]]})
    yield Case("data fraction for integers", "POST", infer, {"inputs": [dict(two[0], data=[0.5] * 16), two[1]]})
    yield Case("data out of range", "POST", infer, {"inputs": [dict(two[0], data=[2**40] * 16), two[1]]})
    yield Case("data no array", "POST", infer, {"inputs": [dict(two[0], data=1), two[1]]})
    yield Case("output unknown", "POST", infer, {"inputs": two, "outputs": [{"name": "nothing"}]})
    yield Case("output without name", "POST", infer, {"inputs": two, "outputs": [{}]})
    yield Case("outputs empty", "POST", infer, {"inputs": two, "outputs": []})
    yield Case("json fp16", "POST", "/v2/models/type_fp16/infer", {"inputs": [tensor("x", "FP16", [1, 3], [1, 2, 3])]})
    yield Case("fp16 answer as json", "POST", "/v2/models/type_fp16/infer", *binary({"inputs": [tensor("x", "FP16", [1, 3], binary_data_size=6)]}, np.array([1, 2, 3], "f2").tobytes()))
    yield Case("nesting 50", "POST", infer, b'{"inputs":' + b"[" * 50 + b"]" * 50 + b"}")
    yield Case("nesting 120", "POST", infer, b'{"inputs":' + b"[" * 120 + b"]" * 120 + b"}")
    yield Case("encoding unknown", "POST", infer, json.dumps({"inputs": two}).encode(), {"Content-Encoding": "br"})
    # repository, logging
    yield Case("index", "POST", "/v2/repository/index", b"")
    yield Case("index ready", "POST", "/v2/repository/index", {"ready": True})
    yield Case("index bad json", "POST", "/v2/repository/index", b"{")
    yield Case("index of a repository", "POST", "/v2/repository/other/index", b"")
    yield Case("load", "POST", "/v2/repository/models/simple/load", b"")
    yield Case("load empty object", "POST", "/v2/repository/models/simple/load", {})
    yield Case("load config", "POST", "/v2/repository/models/plain/load", {"parameters": {"config": json.dumps({"max_batch_size": 0})}})
    yield Case("load bad config", "POST", "/v2/repository/models/plain/load", {"parameters": {"config": "{"}})
    yield Case("load unknown parameter", "POST", "/v2/repository/models/plain/load", {"parameters": {"nothing": "x"}})
    yield Case("load unknown model", "POST", "/v2/repository/models/nothing/load", b"")
    yield Case("unload", "POST", "/v2/repository/models/plain/unload", b"")
    yield Case("infer unloaded", "POST", "/v2/models/plain/infer", {"inputs": [tensor("x", "FP32", [2, 3], [1] * 6)]})
    yield Case("ready unloaded", "GET", "/v2/models/plain/ready")
    yield Case("load again", "POST", "/v2/repository/models/plain/load", b"")
    yield Case("unload unknown model", "POST", "/v2/repository/models/nothing/unload", b"")
    yield Case("unload dependents", "POST", "/v2/repository/models/plain/unload", {"parameters": {"unload_dependents": True}})
    yield Case("logging", "GET", "/v2/logging")
    yield Case("logging set", "POST", "/v2/logging", {"log_info": True, "log_verbose_level": 0})
    yield Case("logging unknown", "POST", "/v2/logging", {"nothing": True})
    yield Case("logging wrong type", "POST", "/v2/logging", {"log_info": "yes"})
    yield Case("logging file", "POST", "/v2/logging", {"log_file": "/tmp/x"})
    yield Case("stats", "GET", "/v2/models/simple/stats", only="keys")
    yield Case("stats all", "GET", "/v2/models/stats", only="keys")
    yield Case("metrics", "GET", "/metrics", only="metrics")


# ---- comparing -----------------------------------------------------------------------------------------------------

def ask(port, case):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        c.request(case.method, case.path, body=case.body, headers=case.headers)
        r = c.getresponse()
        return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
    except (http.client.HTTPException, OSError) as e:
        return 0, {}, repr(e).encode()
    finally:
        c.close()


def floats(j):
    if isinstance(j, float):
        return float(np.float32(j)) if abs(j) < 3.5e38 else j
    if isinstance(j, list):
        return [floats(v) for v in j]
    if isinstance(j, dict):
        return {k: floats(v) for k, v in j.items()}
    return j


def keys_of(j):
    if isinstance(j, dict):
        return {k: keys_of(v) for k, v in j.items()}
    if isinstance(j, list):
        return [keys_of(j[0])] if j else []
    return type(j).__name__


def parts(case, answer):
    """The answer as named parts, so that a difference can be named and explained."""
    status, headers, body = answer
    p = {"status": status, "content-type": headers.get("content-type", ""), "content-encoding": headers.get("content-encoding", "")}
    n = headers.get("inference-header-content-length")
    p["binary"] = n is not None
    text, p["raw"] = (body[:int(n)], body[int(n):].hex()) if n else (body, "")
    if case.only == "metrics":
        return {"status": status, "metrics": sorted(set(re.findall(rb"^(nv_[a-z_]+)", body, re.M)))}
    try:
        j = json.loads(text) if text else None
        if case.only == "keys":
            return dict(p, keys=keys_of(j))
        if isinstance(j, dict) and "error" in j and status != 200:
            p["error"] = j["error"]
        elif case.path.endswith("/index") and isinstance(j, list):
            p["json"] = sorted(j, key=lambda r: r["name"])
        else:
            if case.path.endswith("/config"):      # what names the engine must differ: it is compared apart
                p["engine"] = [j.pop(k, None) for k in ("platform", "backend", "default_model_filename")]
            p["json"] = floats(j)
    except ValueError:
        p["text"] = text.decode("latin-1")
    return p


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--keep")
    a.add_argument("--case")
    a.add_argument("--verbose", action="store_true")
    args = a.parse_args()
    store = args.keep or tempfile.mkdtemp(prefix="inferd-compat-")
    os.makedirs(store, exist_ok=True)
    make_models(store)
    explained = json.load(open(EXPLAINED)) if os.path.exists(EXPLAINED) else {}
    unexplained, used, n = 0, set(), 0
    triton, inferd = start(store)
    try:
        for case in [*cases(), *compat_grpc.cases()]:
            if args.case and args.case not in case.name:
                continue
            n += 1
            metrics = case.only == "metrics"
            if isinstance(case, compat_grpc.RpcCase):
                theirs, ours = compat_grpc.parts(case, triton[3]), compat_grpc.parts(case, inferd[3])
            else:
                theirs, ours = parts(case, ask(triton[2] if metrics else triton[1], case)), parts(case, ask(inferd[2] if metrics else inferd[1], case))
            if metrics:
                ours = dict(ours, metrics=[m for m in ours["metrics"] if m in theirs["metrics"]])
            different = [k for k in sorted(set(theirs) | set(ours)) if theirs.get(k) != ours.get(k)]
            excuses = explained.get(case.name, {})
            if theirs["status"] == 200 and ours["status"] != 200 and not excuses.get("wrong there"):
                excuses = {}      # nothing excuses a request that succeeds there and fails here; an answer with wrong numbers is no success
            both_fail = theirs["status"] != 200 and ours["status"] != 200
            missing = [k for k in different if k not in excuses and not (both_fail and k in ("error", "content-type") and "*" + k in explained)]
            if "status" in different and not re.search(r"\bR\d+|protocols.md", str(excuses.get("status", ""))):
                missing = sorted(set(missing) | {"status"})
            used.update((case.name, k) for k in different if k in excuses)
            used.update((case.name, k) for k in ("wrong there",) if k in excuses and theirs["status"] == 200 and ours["status"] != 200)
            if args.verbose or missing:
                for k in (different if args.verbose else missing):
                    print("%-28s %-14s triton %s\n%43s inferd %s" % (case.name, k, str(theirs.get(k))[:600], "", str(ours.get(k))[:600]))
            unexplained += len(missing)
    finally:
        for p in (triton[0], inferd[0]):
            p.send_signal(signal.SIGTERM)
        for p in (triton[0], inferd[0]):
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
        if not args.keep:
            shutil.rmtree(store, ignore_errors=True)
    stale = [(c, k) for c, e in explained.items() if c[0] != "*" for k in e if (c, k) not in used] if not args.case else []
    for c, k in stale:
        print("explained but not needed any more: %s: %s" % (c, k))
    print("%d cases, %d differences explained, %d unexplained, %d explanations without a difference" % (n, len(used), unexplained, len(stale)))
    sys.exit(1 if unexplained or stale else 0)


if __name__ == "__main__":
    main()
