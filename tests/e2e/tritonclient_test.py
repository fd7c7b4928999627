"""The stock tritonclient[http] against the demo store: nothing of it is adapted."""
# needs: numpy tritonclient.http
import glob, os

import numpy as np
import tritonclient.http as tc
from tritonclient.utils import InferenceServerException

from harness import DIGITS, ROOT, Server, run

server = Server("--control", "explicit", "--load-model", "digits")
client = tc.InferenceServerClient(server.address, concurrency=8)


def picture(path):
    """An 8-bit grey PNG of 28x28 without any picture library of ours: read by the server, so only its bytes are needed."""
    return open(path, "rb").read()


def random_rows(n, seed=1):
    return np.random.default_rng(seed).random((n, 1, 28, 28), dtype=np.float32)


def infer(rows, binary_in=True, binary_out=True, **kw):
    i = tc.InferInput("image", rows.shape, "FP32")
    i.set_data_from_numpy(rows, binary_data=binary_in)
    return client.infer("digits", [i], outputs=[tc.InferRequestedOutput("logits", binary_data=binary_out)], **kw)


def test_health_and_metadata():
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nothing")
    meta = client.get_server_metadata()
    assert meta["name"] == "inferd" and "binary_tensor_data" in meta["extensions"]
    m = client.get_model_metadata("digits")
    assert m["versions"] == ["1"] and m["platform"] == "onnxruntime_onnx", m
    assert m["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 28, 28]}], m
    assert m["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}], m
    c = client.get_model_config("digits")
    assert c["name"] == "digits" and c["max_batch_size"] == 64 and c["input"][0]["dims"] == [1, 28, 28] and "dynamic_batching" in c, c


def test_binary_and_json_agree_bit_for_bit():
    for n in (1, 3, 16):
        rows = random_rows(n, n)
        want = infer(rows).as_numpy("logits")
        assert want.shape == (n, 10) and want.dtype == np.float32
        for a in (False, True):
            for b in (False, True):
                got = infer(rows, a, b).as_numpy("logits")
                assert np.array_equal(want.view(np.uint32), got.view(np.uint32)), (n, a, b)


def test_a_row_does_not_depend_on_its_batch():
    rows = random_rows(32, 7)
    together = infer(rows).as_numpy("logits")
    for k in range(32):
        alone = infer(rows[k:k + 1]).as_numpy("logits")
        assert np.array_equal(together[k:k + 1].view(np.uint32), alone.view(np.uint32)), k


def test_request_id_and_response_headers():
    r = infer(random_rows(1), request_id="abc")
    assert r.get_response()["id"] == "abc" and r.get_response()["model_version"] == "1"
    status, headers, _ = server.call("POST", "/v2/models/digits/infer", {"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}]})
    assert status == 200 and headers["x-inferd-model"] == "digits" and headers["x-inferd-version"] == "1" and len(headers["x-inferd-digest"]) == 16
    assert "compute;dur=" in headers["server-timing"], headers


def test_compression_both_ways():
    rows = random_rows(4)
    want = infer(rows).as_numpy("logits")
    for a in ("gzip", "deflate"):
        got = infer(rows, request_compression_algorithm=a, response_compression_algorithm=a).as_numpy("logits")
        assert np.array_equal(want, got), a


def test_classification_extension():
    i = tc.InferInput("image", (2, 1, 28, 28), "FP32")
    i.set_data_from_numpy(random_rows(2))
    r = client.infer("digits", [i], outputs=[tc.InferRequestedOutput("logits", class_count=3)])
    top = r.as_numpy("logits")
    assert top.shape == (2, 3)
    value, index, label = top[0][0].decode().split(":")
    assert label == index and float(value) >= float(top[0][1].decode().split(":")[0])


def test_pictures_as_bytes_and_as_the_body():
    right = 0
    samples = sorted(glob.glob(os.path.join(DIGITS, "samples/*.png")))
    assert len(samples) == 20
    for path in samples:
        digit = os.path.basename(path)[0]
        i = tc.InferInput("image", [1, 1], "BYTES")
        i.set_data_from_numpy(np.array([[picture(path)]], dtype=np.object_))
        logits = client.infer("digits", [i]).as_numpy("logits")
        status, answer = server.json("POST", "/v2/models/digits/classify?k=2", picture(path))
        assert status == 200 and answer["model_name"] == "digits" and answer["model_version"] == "1" and len(answer["labels"]) == 2, answer
        assert answer["labels"][0]["label"] == str(int(logits.argmax())) and abs(answer["labels"][0]["score"] - logits.max()) < 1e-4
        right += answer["labels"][0]["label"] == digit
    assert right >= 19, right


def test_async_infer():
    i = tc.InferInput("image", (1, 1, 28, 28), "FP32")
    i.set_data_from_numpy(random_rows(1))
    want = infer(random_rows(1)).as_numpy("logits")
    waiting = [client.async_infer("digits", [i]) for _ in range(64)]
    for w in waiting:
        assert np.array_equal(w.get_result().as_numpy("logits"), want)


def test_statistics_count():
    before = client.get_inference_statistics("digits")["model_stats"][0]
    infer(random_rows(5))
    after = client.get_inference_statistics("digits", "1")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 5 and after["execution_count"] == before["execution_count"] + 1
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert any(b["batch_size"] == 5 for b in after["batch_stats"])
    assert client.get_inference_statistics()["model_stats"]


def error(f):
    try:
        f()
    except InferenceServerException as e:
        return e.status(), e.message()
    raise AssertionError("no error")


def test_errors():
    x = tc.InferInput("image", (1, 1, 28, 28), "FP32")
    x.set_data_from_numpy(random_rows(1))
    assert error(lambda: client.infer("nothing", [x])) == ("404", "Request for unknown model: 'nothing' is not found")
    assert error(lambda: client.infer("digits", [x], model_version="9"))[0] == "404"
    wrong = tc.InferInput("picture", (1, 1, 28, 28), "FP32")
    wrong.set_data_from_numpy(random_rows(1))
    assert "unexpected inference input 'picture' for model 'digits'" in error(lambda: client.infer("digits", [wrong]))[1]
    large = random_rows(65)
    i = tc.InferInput("image", large.shape, "FP32")
    i.set_data_from_numpy(large)
    status, message = error(lambda: client.infer("digits", [i]))
    assert status == "400" and "batch-size must be <= 64" in message, message


def test_repository_control():
    index = client.get_model_repository_index()
    assert {"name": "digits", "version": "1", "state": "READY"}.items() <= index[0].items(), index
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    assert error(lambda: infer(random_rows(1)))[0] in ("404", "503", "400")
    client.load_model("digits")
    assert client.is_model_ready("digits")
    infer(random_rows(1))
    client.load_model("digits", config='{"max_batch_size": 8}')
    assert client.get_model_config("digits")["max_batch_size"] == 8
    assert error(lambda: infer(random_rows(9)))[0] == "400"
    client.load_model("digits")
    assert client.get_model_config("digits")["max_batch_size"] == 64
    assert error(lambda: client.load_model("nothing"))[0] == "404"


def test_log_settings():
    assert client.get_log_settings()["log_info"] is True
    assert client.update_log_settings({"log_info": False})["log_info"] is False
    assert client.update_log_settings({"log_info": True, "log_verbose_level": 1})["log_verbose_level"] == 1
    client.update_log_settings({"log_verbose_level": 0})
    assert error(lambda: client.update_log_settings({"log_file": "/tmp/x"}))[0] in ("400", "501")


def test_what_is_off_says_so():
    for f in (client.get_system_shared_memory_status, lambda: client.register_system_shared_memory("r", "/r", 64), lambda: client.unregister_system_shared_memory("r"),
              client.get_cuda_shared_memory_status):
        assert error(f)[0] == "501"


def test_metrics():
    import http.client
    c = http.client.HTTPConnection(server.metrics, timeout=10)
    c.request("GET", "/metrics")
    r = c.getresponse()
    page = r.read().decode()
    assert r.status == 200 and r.getheader("Content-Type").startswith("text/plain")
    for name in ("nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count", "nv_inference_pending_request_count", "nv_cpu_utilization",
                 "inferd_queue_seconds_bucket", "inferd_compute_seconds_sum", "inferd_build_info", "nv_model_load_duration_secs"):
        assert name in page, name
    assert 'nv_inference_request_failure{model="digits",version="1",reason="REJECTED"}' in page
    c.close()


run(globals())
