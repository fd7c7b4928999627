# not thread: ThreadSanitizer cannot see how the gRPC core, which is not instrumented, orders what it hands to us, and slows it beyond its own time limits
"""The stock tritonclient[grpc], grpcio's health and reflection clients, and hand-made calls against a server: nothing of the clients is adapted."""
# needs: numpy tritonclient.grpc tritonclient.http grpc_health grpc_reflection
import errno, hashlib, json, os, queue, resource, select, signal, socket, subprocess, tempfile, time

import grpc
import numpy as np
import tritonclient.grpc as tg
import tritonclient.http as th
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from harness import BINARY, ROOT, SANITIZED, Server, make_store, run
from tiny_models import write_identity

TYPES = {"BOOL": (9, np.bool_), "UINT8": (2, np.uint8), "UINT16": (4, np.uint16), "UINT32": (12, np.uint32), "UINT64": (13, np.uint64), "INT8": (3, np.int8), "INT16": (5, np.int16),
         "INT32": (6, np.int32), "INT64": (7, np.int64), "FP16": (10, np.float16), "FP32": (1, np.float32), "FP64": (11, np.float64), "BYTES": (8, np.object_), "BF16": (16, np.float32)}
CONTENTS = {"BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents",
            "INT32": "int_contents", "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}

store = make_store(("digits", "dictionary"))
for name, (number, _) in TYPES.items():
    write_identity(os.path.join(store, "same_" + name.lower(), "1"), number)
server = Server("--control", "explicit", "--load-model", "*", store=store)
client = tg.InferenceServerClient(server.grpc)
web = th.InferenceServerClient(server.address)
channel = grpc.insecure_channel(server.grpc)
stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
PROMPT = "Define mention."


def code_of(f):
    try:
        f()
    except grpc.RpcError as e:
        return e.code().name, e.details()
    except InferenceServerException as e:
        return (e.status() or "").replace("StatusCode.", ""), e.message()
    raise AssertionError("no error")


def rows(n, seed=1):
    return np.random.default_rng(seed).random((n, 1, 28, 28), dtype=np.float32)


def image(value):
    i = tg.InferInput("image", value.shape, "FP32")
    i.set_data_from_numpy(value)
    return i


def values(datatype, seed):
    """A [2, 3] tensor with the ends of its range among the values."""
    kind = TYPES[datatype][1]
    if datatype == "BYTES":
        return np.array([[b"", b"\x00\xff", "\u00e9\u4e2d".encode()], [b"a" * 300, b"tail", b"\n"]], dtype=np.object_)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if np.issubdtype(kind, np.integer):
        info = np.iinfo(kind)
        return np.array([[info.min, info.max, 0], [1, info.max // 3, info.min // 5]], dtype=kind)
    return (np.random.default_rng(seed).standard_normal((2, 3)) * 100).astype(kind)


def test_health_and_metadata():
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nothing") and not client.is_model_ready("digits", "9")
    meta = client.get_server_metadata(as_json=True)
    assert meta == web.get_server_metadata() and meta["name"] == "inferd", meta
    for name in ("digits", "dictionary", "same_int64"):
        ours, theirs = client.get_model_metadata(name, as_json=True), web.get_model_metadata(name)
        known = theirs.pop("properties", None)      # the stock client's message does not have the field
        extra = {f.field_number for f in UnknownFieldSet(client.get_model_metadata(name))}
        assert extra == ({6} if known else set()), (name, known, extra)
        for t in ours["inputs"] + ours["outputs"]:
            t["shape"] = [int(d) for d in t.get("shape", [])]
        assert ours == theirs, (ours, theirs)


def test_the_configuration_is_the_same_over_both_transports():
    for name in ("digits", "dictionary"):
        ours = json_format.MessageToDict(client.get_model_config(name).config, preserving_proto_field_name=True)
        theirs = json_format.MessageToDict(json_format.ParseDict(web.get_model_config(name), model_config_pb2.ModelConfig()), preserving_proto_field_name=True)
        assert ours == theirs and ours["name"] == name, (ours, theirs)


def bytes_of(x, datatype):
    if datatype == "BF16":
        return b"".join(v.tobytes()[2:] for v in x.reshape(-1))
    return serialize_byte_tensor(x).item() if datatype == "BYTES" else x.tobytes()


def test_every_datatype_is_the_same_in_every_encoding():
    for datatype in TYPES:
        model, x = "same_" + datatype.lower(), values(datatype, 3)
        raw = bytes_of(x, datatype)
        request = service_pb2.ModelInferRequest(model_name=model, id="raw", inputs=[service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=[2, 3])], raw_input_contents=[raw])
        answer = stub.ModelInfer(request)
        assert (answer.id, answer.model_version, answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("raw", "1", datatype, [2, 3]) and answer.raw_output_contents[0] == raw, datatype
        if datatype != "BF16":
            i = tg.InferInput("x", x.shape, datatype)
            i.set_data_from_numpy(x)
            assert np.array_equal(client.infer(model, [i]).as_numpy("y"), x), datatype
        head = json.dumps({"inputs": [{"name": "x", "shape": [2, 3], "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}], "parameters": {"binary_data_output": True}}).encode()
        _, headers, body = server.call("POST", "/v2/models/%s/infer" % model, head + raw, {"Inference-Header-Content-Length": str(len(head))})
        assert body[int(headers["inference-header-content-length"]):] == raw, datatype
        if datatype == "BYTES":      # JSON has texts only
            x = np.array([[b"", b"a", "\u00e9".encode()], [b"b" * 300, b"c", b"\n"]], dtype=np.object_)
        if datatype not in ("FP16", "BF16"):
            flat = [v.decode() if isinstance(v, bytes) else v.item() for v in x.reshape(-1)]
            _, answer = server.json("POST", "/v2/models/%s/infer" % model, {"inputs": [{"name": "x", "shape": [2, 3], "datatype": datatype, "data": flat}]})
            request = service_pb2.ModelInferRequest(model_name=model, inputs=[service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=[2, 3])])
            getattr(request.inputs[0].contents, CONTENTS[datatype]).extend(x.reshape(-1).tolist())
            typed = stub.ModelInfer(request)
            back = answer["outputs"][0]["data"]
            assert (back == flat if datatype != "FP32" else np.array_equal(np.array(back, dtype=np.float32), x.reshape(-1))) and answer["outputs"][0]["shape"] == [2, 3], (datatype, answer)
            assert typed.raw_output_contents[0] == bytes_of(x, datatype) and list(typed.outputs[0].shape) == [2, 3], datatype


CASES = [
    ("one row", {"inputs": [("image", "FP32", [1, 1, 28, 28])]}),
    ("rows and a named output", {"inputs": [("image", "FP32", [3, 1, 28, 28])], "outputs": ["logits"]}),
    ("classes", {"inputs": [("image", "FP32", [2, 1, 28, 28])], "outputs": ["logits"], "classes": 3}),
    ("too many rows", {"inputs": [("image", "FP32", [65, 1, 28, 28])]}),
    ("wrong input", {"inputs": [("picture", "FP32", [1, 1, 28, 28])]}),
    ("wrong datatype", {"inputs": [("image", "INT32", [1, 1, 28, 28])]}),
    ("wrong shape", {"inputs": [("image", "FP32", [1, 28, 28])]}),
    ("no input", {"inputs": []}),
    ("twice", {"inputs": [("image", "FP32", [1, 1, 28, 28]), ("image", "FP32", [1, 1, 28, 28])]}),
    ("wrong output", {"inputs": [("image", "FP32", [1, 1, 28, 28])], "outputs": ["nothing"]}),
    ("unknown model", {"model": "nothing", "inputs": [("image", "FP32", [1, 1, 28, 28])]}),
    ("unknown version", {"version": "9", "inputs": [("image", "FP32", [1, 1, 28, 28])]}),
    ("classes beyond", {"inputs": [("image", "FP32", [1, 1, 28, 28])], "outputs": ["logits"], "classes": 10001}),
    ("bad priority", {"inputs": [("image", "FP32", [1, 1, 28, 28])], "parameters": {"priority": -1}}),
]
HTTP_OF = {"OK": 200, "INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503, "UNIMPLEMENTED": 501}


def data_of(datatype, shape):
    n = int(np.prod(shape))
    x = np.random.default_rng(n).random(n, dtype=np.float32)
    return x if datatype == "FP32" else (x * 9).astype(np.int32)


def ask_http(case, binary):
    inputs, raw = [], b""
    for name, datatype, shape in case["inputs"]:
        x = data_of(datatype, shape)
        inputs.append({"name": name, "datatype": datatype, "shape": shape})
        if binary:
            inputs[-1]["parameters"] = {"binary_data_size": x.nbytes}
            raw += x.tobytes()
        else:
            inputs[-1]["data"] = x.tolist()
    body = {"inputs": inputs}
    if "outputs" in case:
        body["outputs"] = [{"name": o, "parameters": {"binary_data": binary, **({"classification": case["classes"]} if "classes" in case else {})}} for o in case["outputs"]]
    body["parameters"] = {**case.get("parameters", {}), **({} if "outputs" in case else {"binary_data_output": binary})}
    text = json.dumps(body).encode()
    version = "/versions/" + case["version"] if "version" in case else ""
    status, headers, answer = server.call("POST", "/v2/models/%s%s/infer" % (case.get("model", "digits"), version), text + raw, {"Inference-Header-Content-Length": str(len(text))} if binary else {})
    length = int(headers.get("inference-header-content-length", len(answer)))
    tree, rest, outputs = json.loads(answer[:length]), answer[length:], []
    for o in tree.get("outputs", []):
        if binary:
            n = o["parameters"]["binary_data_size"]
            outputs.append((o["name"], o["datatype"], o["shape"], rest[:n]))
            rest = rest[n:]
        elif o["datatype"] == "BYTES":
            outputs.append((o["name"], o["datatype"], o["shape"], serialize_byte_tensor(np.array([v.encode() for v in o["data"]], dtype=np.object_)).item()))
        else:
            outputs.append((o["name"], o["datatype"], o["shape"], np.array(o["data"], dtype=np.float32).tobytes()))
    return status, tree.get("error"), outputs


def request_of(case):
    r = service_pb2.ModelInferRequest(model_name=case.get("model", "digits"), model_version=case.get("version", ""))
    for name, datatype, shape in case["inputs"]:
        r.inputs.add(name=name, datatype=datatype, shape=shape)
        r.raw_input_contents.append(data_of(datatype, shape).tobytes())
    for o in case.get("outputs", []):
        t = r.outputs.add(name=o)
        if "classes" in case:
            t.parameters["classification"].int64_param = case["classes"]
    for key, value in case.get("parameters", {}).items():
        r.parameters[key].int64_param = value
    return r


def outputs_of(answer):
    return [(o.name, o.datatype, list(o.shape), raw) for o, raw in zip(answer.outputs, answer.raw_output_contents)]


def test_one_list_of_cases_over_json_binary_and_grpc():
    for name, case in CASES:
        text, binary = ask_http(case, False), ask_http(case, True)
        try:
            answer = stub.ModelInfer(request_of(case))
            ours = (200, None, outputs_of(answer))
        except grpc.RpcError as e:
            ours = (HTTP_OF[e.code().name], e.details(), [])
        assert ours == binary, (name, ours, binary)
        assert text[:2] == ours[:2] and [o[:3] for o in text[2]] == [o[:3] for o in ours[2]], (name, text, ours)
        for a, b in zip(text[2], ours[2]):
            assert a[3] == b[3], name


def test_a_row_over_grpc_has_the_bits_it_has_over_http():
    x = rows(7, 5)
    j = th.InferInput("image", x.shape, "FP32")
    j.set_data_from_numpy(x)
    assert np.array_equal(client.infer("digits", [image(x)]).as_numpy("logits").view(np.uint32), web.infer("digits", [j]).as_numpy("logits").view(np.uint32))


def test_large_tensors_come_back_whole():
    x = np.random.default_rng(1).random((4, 60000 if SANITIZED else 600000), dtype=np.float32)
    i = tg.InferInput("x", x.shape, "FP32")
    i.set_data_from_numpy(x)
    for _ in range(3):
        assert np.array_equal(client.infer("same_fp32", [i]).as_numpy("y"), x)


def test_pictures_as_bytes():
    i = tg.InferInput("image", [1, 1], "BYTES")
    i.set_data_from_numpy(np.array([[open(os.path.join(ROOT, "models/digits/samples/7_0.png"), "rb").read()]], dtype=np.object_))
    assert client.infer("digits", [i]).as_numpy("logits").argmax() == 7


def test_compression():
    x = np.tile(rows(1), (64, 1, 1, 1))
    want = client.infer("digits", [image(x)]).as_numpy("logits")
    for algorithm in ("gzip", "deflate"):
        assert np.array_equal(client.infer("digits", [image(x)], compression_algorithm=algorithm).as_numpy("logits"), want), algorithm
    bomb = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[b"\0" * (48 << 20)])
    assert code_of(lambda: stub.ModelInfer(bomb, compression=grpc.Compression.Gzip))[0] == "RESOURCE_EXHAUSTED"


def test_async_and_many_channels():
    want = client.infer("digits", [image(rows(1))]).as_numpy("logits")
    done = queue.Queue()
    for _ in range(64):
        client.async_infer("digits", [image(rows(1))], lambda result, error: done.put((result, error)))
    for _ in range(64):
        result, error = done.get(timeout=30)
        assert error is None and np.array_equal(result.as_numpy("logits"), want)
    channels = [grpc.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(100)]
    request = request_of(CASES[0][1])
    waiting = [service_pb2_grpc.GRPCInferenceServiceStub(c).ModelInfer.future(request) for c in channels for _ in range(2)]
    answers = [w.result(timeout=60).raw_output_contents[0] for w in waiting]
    assert len(set(answers)) == 1
    for c in channels:
        c.close()


def stream(requests, metadata=(), timeout=60):
    return list(stub.ModelStreamInfer(iter(requests), metadata=metadata, timeout=timeout))


def test_a_stream_of_tensors():
    requests = []
    for k in range(200):
        requests.append(request_of(CASES[0][1]))
        requests[-1].id = str(k)
    requests[100].model_name = "nothing"
    want = stub.ModelInfer(request_of(CASES[0][1])).raw_output_contents[0]
    answers = stream(requests)
    assert len(answers) == 200
    for a in answers:
        if a.error_message:
            assert a.infer_response.id == "100" and "unknown model: 'nothing'" in a.error_message, a
        else:
            assert a.infer_response.raw_output_contents[0] == want and a.infer_response.parameters["triton_final_response"].bool_param
    assert sorted(int(a.infer_response.id) for a in answers) == list(range(200))
    assert code_of(lambda: stream(requests[99:102], metadata=(("triton_grpc_error", "true"),)))[0] == "NOT_FOUND"


def test_the_stock_client_streams():
    done = queue.Queue()
    c = tg.InferenceServerClient(server.grpc)
    c.start_stream(lambda result, error: done.put((result, error)))
    for k in range(20):
        c.async_stream_infer("digits", [image(rows(1, k))], request_id=str(k))
    c.stop_stream()
    got = {}
    for _ in range(20):
        result, error = done.get(timeout=30)
        assert error is None
        got[result.get_response().id] = result.as_numpy("logits")
    for k in range(20):
        assert np.array_equal(got[str(k)], client.infer("digits", [image(rows(1, k))]).as_numpy("logits"))
    c.close()


def question(prompt=PROMPT, **parameters):
    r = service_pb2.ModelInferRequest(model_name="dictionary", id="q", inputs=[service_pb2.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])])
    r.inputs[0].contents.bytes_contents.append(prompt.encode())
    for key, value in {"temperature": 0.0, "max_tokens": 24, **parameters}.items():
        kind = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "double_param" if isinstance(value, float) else "string_param"
        setattr(r.parameters[key], kind, value)
    return r


def text_of(response):
    raw = response.raw_output_contents[0]
    assert response.outputs[0].name == "text_output" and list(response.outputs[0].shape) == [1]
    return raw[4:].decode()


def test_texts_whole_and_token_by_token():
    _, http_answer = server.json("POST", "/v2/models/dictionary/generate", {"text_input": PROMPT, "parameters": {"temperature": 0, "max_tokens": 24}})
    want = http_answer["text_output"]
    assert len(want) > 10 and text_of(stub.ModelInfer(question())) == want
    answers = [a.infer_response for a in stream([question(triton_enable_empty_final_response=True)])]
    assert "".join(map(text_of, answers)) == want and len(answers) > 4, answers
    assert [a.parameters["triton_final_response"].bool_param for a in answers] == [False] * (len(answers) - 1) + [True]
    assert all(a.id == "q" and a.model_name == "dictionary" for a in answers)
    several = stream([question(), question("Define circle."), question()])
    assert sum(len(text_of(a.infer_response)) for a in several) > 2 * len(want)
    in_tensor = question()
    del in_tensor.parameters["temperature"], in_tensor.parameters["max_tokens"]
    in_tensor.inputs.add(name="sampling_parameters", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b'{"temperature":0,"max_tokens":24}')
    assert text_of(stub.ModelInfer(in_tensor)) == want
    assert code_of(lambda: stub.ModelInfer(question(temperature=-1.0)))[0] == "INVALID_ARGUMENT"


def counter(name, **labels):
    import http.client
    c = http.client.HTTPConnection(server.metrics, timeout=10)
    c.request("GET", "/metrics")
    total = 0.0
    for line in c.getresponse().read().decode().splitlines():
        if line.startswith(name + "{") and all('%s="%s"' % kv in line for kv in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def wait_for(f, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        if f():
            return True
        time.sleep(0.05)
    return False


LONG = {"max_tokens": 400, "ignore_eos": True}


def test_cancelled_calls_stop():
    before = counter("nv_inference_request_failure", model="dictionary", reason="CANCELED")
    call = stub.ModelInfer.future(question(**LONG))
    time.sleep(0.02)        # a text takes 70 ms or more
    call.cancel()
    assert wait_for(lambda: counter("nv_inference_request_failure", model="dictionary", reason="CANCELED") > before)
    call = stub.ModelStreamInfer(iter([question(**LONG), question(**LONG)]))
    next(call)
    call.cancel()
    assert wait_for(lambda: counter("nv_inference_request_failure", model="dictionary", reason="CANCELED") >= before + 3)
    assert text_of(stub.ModelInfer(question()))


def test_deadlines_reach_the_scheduler():
    began = time.time()
    assert code_of(lambda: stub.ModelInfer(question(**LONG), timeout=0.02))[0] == "DEADLINE_EXCEEDED"
    assert time.time() - began < 5
    assert text_of(stub.ModelInfer(question(), timeout=60))


def test_errors():
    assert code_of(lambda: client.infer("nothing", [image(rows(1))])) == ("NOT_FOUND", "Request for unknown model: 'nothing' is not found")
    assert code_of(lambda: client.infer("digits", [image(rows(1))], model_version="x"))[0] == "INVALID_ARGUMENT"
    both = request_of(CASES[0][1])
    both.inputs[0].contents.fp32_contents.extend([0.0] * 784)
    assert "contents field must not be specified" in code_of(lambda: stub.ModelInfer(both))[1]
    short = request_of(CASES[0][1])
    short.raw_input_contents[0] = b"1234"
    assert code_of(lambda: stub.ModelInfer(short))[0] == "INVALID_ARGUMENT"
    more = request_of(CASES[0][1])
    more.raw_input_contents.append(b"1234")
    assert stub.ModelInfer(more).raw_output_contents[0] == stub.ModelInfer(request_of(CASES[0][1])).raw_output_contents[0]      # nobody's: passed over, as Triton does
    region = request_of(CASES[0][1])
    region.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert code_of(lambda: stub.ModelInfer(region))[0] == "UNIMPLEMENTED"
    for f in (client.get_system_shared_memory_status, client.get_cuda_shared_memory_status, lambda: client.register_system_shared_memory("r", "/r", 64)):
        assert code_of(f)[0] == "UNIMPLEMENTED"
    ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    for bad in (b"\x0a\xff\xff\xff\xff\x7f", b"\x2a\x03\x0a\x05x", b"\x3a\x05ab", b"\x0b", b"\xff" * 12, b"\x22\x02\x0a\x01"):
        assert code_of(lambda: ask(b"\x0a\x06digits" + bad))[0] == "INVALID_ARGUMENT", bad
    assert code_of(lambda: channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b""))[0] == "UNIMPLEMENTED"
    assert code_of(lambda: channel.unary_unary("/nothing")(b""))[0] == "UNIMPLEMENTED"
    assert code_of(lambda: channel.unary_unary("/inference.GRPCInferenceService/ModelConfig")(b"\x0a\x05x"))[0] == "INVALID_ARGUMENT"


def test_statistics_and_settings():
    before = client.get_inference_statistics("digits").model_stats[0]
    client.infer("digits", [image(rows(5))])
    after = client.get_inference_statistics("digits", "1").model_stats[0]
    assert after.inference_count == before.inference_count + 5 and after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert any(b.batch_size == 5 for b in after.batch_stats) and len(client.get_inference_statistics().model_stats) == 2 + len(TYPES)
    assert client.update_log_settings({"log_info": False, "log_verbose_level": 1}).settings["log_verbose_level"].uint32_param == 1
    assert not client.get_log_settings().settings["log_info"].bool_param
    client.update_log_settings({"log_info": True, "log_verbose_level": 0})
    assert code_of(lambda: client.update_log_settings({"log_file": "/tmp/x"}))[0] == "UNIMPLEMENTED"


def test_repository_control():
    assert any(m.name == "digits" and m.state == "READY" for m in client.get_model_repository_index().models)
    client.unload_model("digits")
    assert code_of(lambda: client.infer("digits", [image(rows(1))]))[0] in ("NOT_FOUND", "UNAVAILABLE")
    client.load_model("digits", config='{"max_batch_size": 8}')
    assert client.get_model_config("digits").config.max_batch_size == 8
    client.load_model("digits")
    assert client.get_model_config("digits").config.max_batch_size == 64 and client.is_model_ready("digits")
    assert code_of(lambda: client.load_model("nothing"))[0] == "NOT_FOUND"
    assert "config" in code_of(lambda: client.load_model("digits", files={"file:1/model.onnx": b"x"}))[1]


def test_health_service():
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService", "grpc.health.v1.Health"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    assert code_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing")))[0] == "NOT_FOUND"
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nothing"))
    assert next(watch).status == 3
    watch.cancel()


def test_reflection_tells_what_the_stock_clients_know():
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(database.get_services())
    pool = DescriptorPool(database)

    def same(ours, theirs):
        a = {(f.name, f.number, f.type, f.is_repeated, f.containing_oneof.name if f.containing_oneof else None) for f in ours.fields}
        b = {(f.name, f.number, f.type, f.is_repeated, f.containing_oneof.name if f.containing_oneof else None) for f in theirs.fields}
        if ours.full_name == "inference.ModelMetadataResponse":      # the Open Inference Protocol has a field more than Triton
            a = {f for f in a if f[:2] != ("properties", 6)}
        assert a == b, (ours.full_name, a ^ b)
        assert {m.name for m in ours.nested_types if m.name != "PropertiesEntry"} == {m.name for m in theirs.nested_types}, ours.full_name
        assert {(e.name, tuple((v.name, v.number) for v in e.values)) for e in ours.enum_types} == {(e.name, tuple((v.name, v.number) for v in e.values)) for e in theirs.enum_types}, ours.full_name
        for m in theirs.nested_types:
            same(ours.nested_types_by_name[m.name], m)
    for module in (service_pb2, model_config_pb2):
        for name, theirs in module.DESCRIPTOR.message_types_by_name.items():
            same(pool.FindMessageTypeByName("inference." + name), theirs)
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    ours = pool.FindServiceByName("inference.GRPCInferenceService")
    assert {(m.name, m.input_type.name, m.output_type.name) for m in ours.methods} == {(m.name, m.input_type.name, m.output_type.name) for m in theirs.methods}


def test_the_proto_files_are_what_reflection_tells():
    made = tempfile.mkdtemp()
    subprocess.run([os.path.join(ROOT, "build/venv/bin/python"), os.path.join(ROOT, "tools/make_proto.py"), "--server", server.grpc, "--out", made], check=True)
    names = sorted(os.path.relpath(os.path.join(d, f), made) for d, _, files in os.walk(made) for f in files)
    assert len(names) == 5
    for name in names:
        assert open(os.path.join(made, name)).read() == open(os.path.join(ROOT, "api/proto", name)).read(), name


def test_limits():
    assert code_of(lambda: stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=(("x", "y" * 20000),)))[0] == "RESOURCE_EXHAUSTED"
    large = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[b"\0" * (65 << 20)])
    big = grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)])
    assert code_of(lambda: service_pb2_grpc.GRPCInferenceServiceStub(big).ModelInfer(large))[0] == "RESOURCE_EXHAUSTED"
    big.close()
    many = service_pb2.ModelInferRequest(model_name="digits")
    for k in range(257):
        many.inputs.add(name=str(k), datatype="FP32", shape=[1])
    assert "more than 256 inputs" in code_of(lambda: stub.ModelInfer(many))[1]


def test_a_client_that_resets_its_streams_is_cut_off():
    message = tempfile.NamedTemporaryFile()
    message.write(request_of(CASES[0][1]).SerializeToString()[:64])
    message.flush()
    load = os.path.join(ROOT, "build/release/tests/bench/rpc_load")
    before = cpu_seconds()
    out = json.loads(subprocess.run([load, "--port", server.grpc.rsplit(":", 1)[1], "--message", message.name, "--reset", "100000"], capture_output=True, text=True, timeout=60).stdout)
    spent = cpu_seconds() - before
    assert out["closed"], out
    assert spent < 0.2 or SANITIZED, (out, spent)
    assert client.is_server_live()


# ---- HTTP/2 by hand ----

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, number, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + payload


def request_headers(path):
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"), (b"content-type", b"application/grpc"), (b"te", b"trailers"))
    return b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields)


def read_frames(s, until):
    """Frames as (type, stream, payload) until one is of the type, or the connection ends."""
    data, frames = b"", []
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            n = 9 + int.from_bytes(data[:3], "big")
            frames.append((data[3], int.from_bytes(data[5:9], "big"), data[9:n]))
            data = data[n:]
            if frames[-1][0] == until:
                return frames
        more = s.recv(65536)
        if not more:
            return frames
        data += more


def test_the_201st_reset_is_one_too_many():
    opened = lambda number: frame(1, 4, number, request_headers(b"/none/none")) + frame(3, 0, number, (8).to_bytes(4, "big"))
    s = socket.create_connection(("127.0.0.1", int(server.grpc.rsplit(":", 1)[1])))
    s.settimeout(10)
    s.sendall(PREFACE + frame(4, 0, 0, b""))
    for i in range(200):
        for piece in (opened(2 * i + 1)[:5], opened(2 * i + 1)[5:]):      # frames may come in pieces
            s.sendall(piece)
    s.sendall(frame(6, 0, 0, b"12345678"))
    assert read_frames(s, 6)[-1][2] == b"12345678"                       # a ping is still answered
    s.sendall(opened(401))
    away = [f for f in read_frames(s, 7) if f[0] == 7]
    assert len(away) == 1 and away[0][2] == (401).to_bytes(4, "big") + (11).to_bytes(4, "big"), away
    try:
        assert read_frames(s, None) == []
    except ConnectionResetError:
        pass
    s.close()
    assert client.is_server_live()


def cpu_seconds():
    f = open("/proc/%d/stat" % server.process.pid).read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def test_descriptors_may_run_out_and_come_back():
    with Server("--control", "explicit", "--load-model", "digits", "--max-connections", "60", store=store) as s:
        address = ("127.0.0.1", int(s.grpc.rsplit(":", 1)[1]))
        taken = [socket.create_connection(address) for _ in range(80)]
        refused = 0
        for t in taken:
            t.settimeout(0.5)
            try:
                refused += t.recv(1) == b""
            except socket.timeout:
                pass
            except ConnectionResetError:
                refused += 1
        assert refused == 20, refused
        for t in taken:
            t.close()
        soft, hard = resource.prlimit(s.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(s.process.pid, resource.RLIMIT_NOFILE, (len(os.listdir("/proc/%d/fd" % s.process.pid)) + 3, hard))
        waiting = [socket.create_connection(address) for _ in range(30)]
        time.sleep(0.3)
        resource.prlimit(s.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for w in waiting:
            w.close()
        c = tg.InferenceServerClient(s.grpc)
        assert wait_for(lambda: alive(c)), "the port never came back"
        assert c.infer("digits", [image(rows(1))]).as_numpy("logits").shape == (1, 10)
        c.close()


def test_two_thousand_channels():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    address = ("127.0.0.1", int(server.grpc.rsplit(":", 1)[1]))
    for _ in range(2):      # the second round shows that the first came back
        idle = [socket.create_connection(address) for _ in range(300 if SANITIZED else 2000)]
        for s in idle:
            s.sendall(PREFACE + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        for s in idle:
            s.settimeout(20)
            assert s.recv(9)[3] == 4, "no SETTINGS frame"
        assert client.infer("digits", [image(rows(1))]).as_numpy("logits").shape == (1, 10)
        for s in idle:
            s.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_floods_and_broken_frames_close_their_connection_only():
    address = ("127.0.0.1", int(server.grpc.rsplit(":", 1)[1]))
    settings, ping = frame(4, 0, 0, b""), frame(6, 0, 0, b"12345678")
    preface = PREFACE + settings
    continuation = bytes([0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]) + bytes([0, 64, 0, 9, 0, 0, 0, 0, 1]) + b"\x40" * 16384
    for name, data in (("not HTTP/2", b"GET / HTTP/1.1\r\n\r\n"), ("a frame of 16 MB", preface + bytes([255, 255, 255, 0, 0, 0, 0, 0, 1]) + b"x" * 100000), ("pings", preface + ping * 200000),
                       ("settings", preface + settings * 2000000), ("headers without end", preface + continuation * 60), ("DATA on no stream", preface + bytes([0, 0, 1, 0, 0, 0, 0, 0, 9, 0]) * 100)):
        s = socket.create_connection(address)
        s.settimeout(10 if name == "DATA on no stream" else 40)      # a connection that the library forgets is closed after 30 s
        try:
            s.sendall(data)
            while s.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
        except socket.timeout:
            queues = [line.split()[1:5] for line in open("/proc/net/tcp") if "%04X " % s.getsockname()[1] in line]      # both ends: addresses, state, bytes unsent:unread
            assert name == "DATA on no stream", "%s went on: %s" % (name, queues)      # the stream is unknown, which closes nothing
        s.close()
        assert client.is_server_live(), name      # by a connection that was open all the time


def test_a_client_that_takes_nothing_is_let_go():
    """An answer of 60 KB for a client whose HTTP/2 window is open, whose socket takes a few KB, and who never reads it."""
    message = service_pb2.ModelInferRequest(model_name="same_uint8", raw_input_contents=[bytes(60000)])
    message.inputs.add(name="x", datatype="UINT8", shape=[1, 60000])
    body = message.SerializeToString()
    head = request_headers(b"/inference.GRPCInferenceService/ModelInfer")
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    s.connect(("127.0.0.1", int(server.grpc.rsplit(":", 1)[1])))
    open_window = frame(4, 0, 0, bytes([0, 4]) + (1 << 30).to_bytes(4, "big")) + frame(8, 0, 0, (1 << 30).to_bytes(4, "big"))
    data = b"\0" + len(body).to_bytes(4, "big") + body
    pieces = [data[i:i + 16384] for i in range(0, len(data), 16384)]
    s.sendall(PREFACE + open_window + frame(1, 4, 1, head) + b"".join(frame(0, p is pieces[-1], 1, p) for p in pieces))
    start = time.time()
    poll = select.poll()
    poll.register(s, 0)      # errors only
    assert not poll.poll(5000), "it was closed after %.1f s" % (time.time() - start)
    assert poll.poll(15000), "it was not closed"
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    s.close()
    assert client.is_server_live()


def alive(c):
    try:
        return c.is_server_live(client_timeout=1)
    except InferenceServerException:
        return False


def test_keys():
    keys = tempfile.NamedTemporaryFile("w", suffix=".keys")
    for key, scopes in (("k-infer", "infer"), ("k-read", "read"), ("k-admin", "infer,read,admin")):
        keys.write("%s %s %s\n" % (hashlib.sha256(key.encode()).hexdigest(), scopes, key))
    keys.write("%s infer few requests=2\n%s infer short tokens=5\n" % (hashlib.sha256(b"k-few").hexdigest(), hashlib.sha256(b"k-short").hexdigest()))
    keys.flush()
    with Server("--control", "explicit", "--load-model", "*", "--api-keys", keys.name, store=store) as s:
        c = tg.InferenceServerClient(s.grpc)
        bearer = lambda key: {"authorization": "Bearer " + key}
        assert c.is_server_live() and c.is_server_ready()
        assert code_of(lambda: c.infer("digits", [image(rows(1))]))[0] == "UNAUTHENTICATED"
        assert code_of(lambda: c.infer("digits", [image(rows(1))], headers=bearer("other")))[0] == "UNAUTHENTICATED"
        assert code_of(lambda: c.infer("digits", [image(rows(1))], headers=bearer("k-read")))[0] == "PERMISSION_DENIED"
        assert c.infer("digits", [image(rows(1))], headers=bearer("k-infer")).as_numpy("logits").shape == (1, 10)
        assert c.get_model_metadata("digits", headers=bearer("k-read")).name == "digits"
        assert code_of(lambda: c.unload_model("digits", headers=bearer("k-infer")))[0] == "PERMISSION_DENIED"
        assert c.get_log_settings(headers=bearer("k-read")).settings["log_info"].bool_param
        assert code_of(lambda: c.update_log_settings({"log_info": False}, headers=bearer("k-read")))[0] == "PERMISSION_DENIED"
        for _ in range(2):
            c.infer("digits", [image(rows(1))], headers=bearer("k-few"))
        assert code_of(lambda: c.infer("digits", [image(rows(1))], headers=bearer("k-few"))) == ("RESOURCE_EXHAUSTED", "the key's 2 requests a minute are used up")
        ask = lambda: s.call("POST", "/v1/completions", {"model": "dictionary", "prompt": PROMPT, "max_tokens": 8}, {"Authorization": "Bearer k-short"})
        assert ask()[0] == 200
        assert wait_for(lambda: ask()[0] == 429, 5)
        c.unload_model("digits", headers=bearer("k-admin"))
        assert any(r["action"] == "unload" and r["who"] == "k-admin" for r in s.json("GET", "/admin/audit", headers={"Authorization": "Bearer k-admin"})[1])
        assert code_of(lambda: list(service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(s.grpc)).ModelStreamInfer(iter([request_of(CASES[0][1])]))))[0] == "UNAUTHENTICATED"
        c.close()


def test_drain_finishes_what_was_begun():
    with Server("--control", "explicit", "--load-model", "*", "--drain-delay", "1", store=store) as s:
        c = grpc.insecure_channel(s.grpc)
        watch = health_pb2_grpc.HealthStub(c).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == 1
        slow = service_pb2_grpc.GRPCInferenceServiceStub(c)
        pieces = slow.ModelStreamInfer(iter([question(max_tokens=200, ignore_eos=True)]))
        text = text_of(next(pieces).infer_response)
        s.process.send_signal(signal.SIGTERM)
        assert next(watch).status == 2
        text += "".join(text_of(p.infer_response) for p in pieces)
        assert len(text) > 100
        assert code_of(lambda: list(watch))[0] in ("UNAVAILABLE", "CANCELLED")
        assert s.process.wait(40) == 0
        c.close()


run(globals())
