"""Loading a model from the files of the request (Triton's "file:" parameters), over HTTP and gRPC with the stock clients: nothing of the store changes, and nothing is left behind."""
# needs: numpy tritonclient.http tritonclient.grpc
import base64, hashlib, json, os, sys, tempfile

import numpy as np
import tritonclient.grpc as tg
import tritonclient.http as th
from tritonclient.utils import InferenceServerException

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run
from tiny_onnx import FLOAT, model, node

CONFIG = json.dumps({"backend": "onnxruntime", "max_batch_size": 4})


def scale(factor):
    return model([node("Mul", ["x", "k"], ["y"])], [("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 8])], [("k", [factor])])


def make_store():
    store = tempfile.mkdtemp(prefix="inferd-store-")
    for version, factor in ((1, 2.0), (3, 3.0)):
        os.makedirs(os.path.join(store, "scale", str(version)))
        open(os.path.join(store, "scale", str(version), "model.onnx"), "wb").write(scale(factor))
    return store


store = make_store()
server = Server("--control", "explicit", "--load-model", "scale", store=store)
web, rpc = th.InferenceServerClient(server.address), tg.InferenceServerClient(server.grpc)


def factor_of(name="scale", version=""):
    i = th.InferInput("x", [1, 8], "FP32")
    i.set_data_from_numpy(np.ones((1, 8), dtype=np.float32))
    return float(web.infer(name, [i], model_version=version).as_numpy("y")[0, 0])


def tree(root):
    """Every file of the store but the server's own."""
    return {os.path.relpath(os.path.join(d, f), root): hashlib.sha256(open(os.path.join(d, f), "rb").read()).hexdigest() for d, _, files in os.walk(root) for f in files if "/.inferd" not in d}


def overrides(root=store):
    return sorted(os.listdir(os.path.join(root, ".inferd/overrides")))


def refused(f):
    try:
        f()
    except InferenceServerException as e:
        return e.message()
    raise AssertionError("it was loaded")


before = tree(store)


def test_files_stand_in_place_of_the_version_folders():
    assert factor_of() == 3.0
    for client, factor in ((web, 5.0), (rpc, 7.0)):
        client.load_model("scale", config=CONFIG, files={"file:1/model.onnx": scale(factor)})
        assert factor_of() == factor and factor_of(version="1") == factor and len(overrides()) == 1
        assert not client.is_model_ready("scale", "3"), "a version that the files do not have still serves"
    assert tree(store) == before
    digest = server.call("POST", "/v2/models/scale/infer", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]})[1]["x-inferd-digest"]
    web.load_model("scale")      # from the store again
    assert factor_of() == 3.0 and overrides() == []
    assert digest != server.call("POST", "/v2/models/scale/infer", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]})[1]["x-inferd-digest"]


def test_a_model_that_the_store_does_not_have():
    for client in (web, rpc):
        client.load_model("guest", config=CONFIG, files={"file:2/model.onnx": scale(9.0), "file:notes.txt": b"\x00\xff"})
        assert factor_of("guest") == 9.0 and "guest" in [m["name"] for m in web.get_model_repository_index()]
        client.unload_model("guest")
        assert not client.is_model_ready("guest") and overrides() == []
        assert "guest" in refused(lambda: client.load_model("guest"))
    assert tree(store) == before


def test_what_fails_leaves_what_serves():
    for client in (web, rpc):
        assert "config" in refused(lambda: client.load_model("scale", files={"file:1/model.onnx": scale(1.0)}))
        assert "failed to load" in refused(lambda: client.load_model("scale", config=CONFIG, files={"file:1/model.onnx": b"no network"}))
        assert factor_of() == 3.0 and factor_of(version="3") == 3.0
        for path in ("1/../../x", "../x", "/x", "1/.hidden", "1//x", "", "1/", "a/b/c/d/e/f", "1/" + "x" * 300, "1/a\nb"):
            assert "is no path" in refused(lambda: client.load_model("scale", config=CONFIG, files={"file:" + path: b"x"})), path
        assert "failed to load" in refused(lambda: client.load_model("new", config=CONFIG, files={"file:1/model.onnx": b"no network"}))
        assert overrides() == [] and tree(store) == before
    web.load_model("scale", config=CONFIG, files={"file:1/model.onnx": scale(5.0)})
    assert "failed to load" in refused(lambda: web.load_model("scale", config=CONFIG, files={"file:1/model.onnx": b"no network"}))
    assert factor_of() == 5.0 and len(overrides()) == 1
    web.load_model("scale")
    assert factor_of() == 3.0 and overrides() == []
    for text in ("%%%%", "YQ", "YWI=YWI=", "Y"):
        status, answer = server.json("POST", "/v2/repository/models/scale/load", {"parameters": {"config": CONFIG, "file:1/model.onnx": text}})
        assert status == 400, (text, answer)
    assert server.json("POST", "/v2/repository/models/scale/load", {"parameters": {"config": CONFIG, "file:1/model.onnx": 5}})[0] == 400
    assert server.json("POST", "/v2/repository/models/scale/load", {"parameters": {"config": CONFIG, "file:1/model.onnx": base64.b64encode(scale(4.0)).decode()}})[0] == 200
    assert factor_of() == 4.0


def test_trust_and_ends():
    keys = tempfile.NamedTemporaryFile("w", suffix=".keys")
    keys.write("%s infer,read reader\n%s admin,infer,read boss\n" % (hashlib.sha256(b"r").hexdigest(), hashlib.sha256(b"b").hexdigest()))
    keys.flush()
    own = make_store()
    with Server("--control", "explicit", "--load-model", "scale", "--api-keys", keys.name, store=own) as s:
        body = {"parameters": {"config": CONFIG, "file:1/model.onnx": base64.b64encode(scale(5.0)).decode()}}
        assert s.json("POST", "/v2/repository/models/scale/load", body, {"Authorization": "Bearer r"})[0] == 403
        assert s.json("POST", "/v2/repository/models/scale/load", body, {"Authorization": "Bearer b"})[0] == 200
        assert any(r["action"] == "load of the request's files" and r["who"] == "boss" for r in s.json("GET", "/admin/audit", headers={"Authorization": "Bearer b"})[1])
        assert len(overrides(own)) == 1
    assert not os.path.exists(os.path.join(own, ".inferd/overrides")) or overrides(own) == []
    os.makedirs(os.path.join(own, ".inferd/overrides/17/1/deep"))      # what a crash leaves
    with Server("--control", "explicit", "--load-model", "*", store=own) as s:
        assert overrides(own) == [] and s.json("GET", "/v2/models/scale/ready")[0] == 200      # the store's own digests hold as before
    with Server(store=own) as s:
        assert s.json("POST", "/v2/repository/models/scale/load", {"parameters": {"config": CONFIG, "file:1/model.onnx": ""}})[0] == 503


run(globals())
