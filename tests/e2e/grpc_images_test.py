# not thread: ThreadSanitizer cannot see how the gRPC core, which is not instrumented, orders what it hands to us
"""Pictures over gRPC: ModelInfer draws what /v2/models/M/infer draws, a stream shows what becomes; with the stock client."""
# needs: numpy tritonclient.grpc
import os, queue, sys, time

import grpc
import numpy as np
import tritonclient.grpc as tg
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, make_store, run

store = make_store(("shapes",))
with open(os.path.join(store, "shapes/config.pbtxt"), "w") as f:
    f.write('parameters { key: "precision" value { string_value: "f32" } }\n')
server = Server(store=store)
client = tg.InferenceServerClient(server.grpc)
RED = "a large red circle in the center on a white background"
FEW = {"steps": 4, "guidance_scale": 4.0, "seed": 1}


def text(name, words):
    i = tg.InferInput(name, [1], "BYTES")
    i.set_data_from_numpy(np.array([words.encode()], dtype=np.object_))
    return i


def over_http(**parameters):
    status, answer = server.json("POST", "/v2/models/shapes/infer", {"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [RED]}], "parameters": {**FEW, **parameters}})
    assert status == 200, answer
    return np.array(answer["outputs"][0]["data"], dtype=np.uint8).reshape(answer["outputs"][0]["shape"])


def stream(requests, timeout=120):
    """-> the answers of a stream, in order: (result, error)."""
    done = queue.Queue()
    c = tg.InferenceServerClient(server.grpc)
    c.start_stream(lambda result, error: done.put((result, error)))
    for request_id, parameters in requests:
        c.async_stream_infer("shapes", [text("prompt", RED)], request_id=request_id, parameters=parameters)
    c.stop_stream()
    c.close()
    return list(done.queue)


def parameter(result, name):
    p = result.get_response().parameters[name]
    return p.bool_param if p.WhichOneof("parameter_choice") == "bool_param" else p.int64_param


def test_a_picture_is_the_one_that_http_draws():
    got = client.infer("shapes", [text("prompt", RED)], parameters={**FEW, "n": 2, "width": 72, "height": 48}).as_numpy("images")
    assert got.shape == (2, 48, 72, 3) and np.array_equal(got, over_http(n=2, width=72, height=48))
    meta = client.get_model_metadata("shapes")
    assert [o.name for o in meta.outputs] == ["images"] and "prompt" in [i.name for i in meta.inputs]


def test_a_stream_without_partial_pictures():
    answers = stream([(str(k), dict(FEW)) for k in range(3)])
    want = over_http()
    assert len(answers) == 3 and all(e is None and np.array_equal(r.as_numpy("images"), want) and parameter(r, "triton_final_response") for r, e in answers), answers


def test_a_stream_shows_what_becomes():
    answers = stream([("a", {**FEW, "partial_images": 3, "n": 2, "width": 64, "height": 48})])
    assert all(e is None for _, e in answers), answers
    partial, (last, _) = answers[:-1], answers[-1]
    assert parameter(last, "triton_final_response") and np.array_equal(last.as_numpy("images"), over_http(n=2, width=64, height=48))
    assert 2 <= len(partial) <= 6, len(partial)      # a slow reader may miss some, never the last
    seen = {}
    for r, _ in partial:
        assert r.get_response().id == "a" and not parameter(r, "triton_final_response") and r.as_numpy("images").shape == (1, 48, 64, 3)
        k, index = parameter(r, "picture"), parameter(r, "partial_image_index")
        assert 0 <= k < 2 and index > seen.get(k, -1), (k, index, seen)
        seen[k] = index
    assert set(seen) == {0, 1}
    last_partial = [r for r, _ in partial if parameter(r, "picture") == 0][-1].as_numpy("images")[0].astype(int)
    assert abs(last_partial - last.as_numpy("images")[0].astype(int)).mean() < 60      # it is on its way there


def test_streams_beside_each_other():
    answers = stream([(str(k), {**FEW, "seed": k, "partial_images": 1}) for k in range(4)])
    finals = {r.get_response().id: r.as_numpy("images") for r, e in answers if e is None and parameter(r, "triton_final_response")}
    assert sorted(finals) == list("0123"), answers
    for k in range(4):
        assert np.array_equal(finals[str(k)], over_http(seed=k)), k


def test_refusals():
    def refused(**parameters):
        try:
            client.infer("shapes", [text("prompt", RED)], parameters={**FEW, **parameters})
        except InferenceServerException as e:
            return e.message()
        raise AssertionError("it was drawn")
    assert "'partial_images' is for streams" in refused(partial_images=2)
    assert "'steps' must be" in refused(steps=0) and "names no sampler" in refused(sampler="none")
    for parameters, says in (({"partial_images": 99}, "partial_images"), ({"partial_images": 1, "steps": 0}, "steps"), ({"partial_images": 1, "width": 20}, "steps of 8")):
        (result, error), = stream([("x", {**FEW, **parameters})])
        assert error is not None and says in error.message(), (parameters, result, error)
    assert stream([("x", {**FEW, "partial_images": 0})])[0][1] is None


def test_who_leaves_a_stream_frees_its_picture():
    from tritonclient.grpc import service_pb2
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(server.grpc))
    r = service_pb2.ModelInferRequest(model_name="shapes", inputs=[service_pb2.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])])
    r.inputs[0].contents.bytes_contents.append(RED.encode())
    for key, value in {"steps": 300, "partial_images": 16, "n": 2}.items():
        r.parameters[key].int64_param = value
    for _ in range(3):
        call = stub.ModelStreamInfer(iter([r]), timeout=60)
        next(call)
        call.cancel()
    end = time.time() + 20
    while True:
        page = server.call("GET", "/metrics")[2].decode()
        running = [l for l in page.splitlines() if l.startswith("inferd_image_requests_running") or l.startswith("nv_inference_pending_request_count")]
        if running and all(l.endswith(" 0") for l in running):
            break
        assert time.time() < end, running
        time.sleep(0.1)
    assert client.infer("shapes", [text("prompt", RED)], parameters=FEW).as_numpy("images").shape[0] == 1


run(globals())
