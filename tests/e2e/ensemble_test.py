"""Ensembles: models in a row and side by side as one model, swapped and cancelled like any other."""
import hashlib, json, os, shutil, sys, tempfile, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run
from tiny_onnx import FLOAT, model, node

SCALE = model([node("Mul", ["x", "k"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])], [("k", [2.0])])
SCALE_10 = model([node("Mul", ["x", "k"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])], [("k", [10.0])])
ADD = model([node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])], [("a", FLOAT, ["n", 3]), ("b", FLOAT, ["n", 3])], [("sum", FLOAT, ["n", 3]), ("difference", FLOAT, ["n", 3])])
BOTH = """platform: "ensemble" max_batch_size: 8 response_cache { enable: true }
input [{ name: "raw" data_type: TYPE_FP32 dims: [3] }]
output [{ name: "plus" data_type: TYPE_FP32 dims: [3] }, { name: "doubled" data_type: TYPE_FP32 dims: [3] }]
ensemble_scheduling { step [
  { model_name: "add" input_map { key: "a" value: "doubled" } input_map { key: "b" value: "raw" } output_map { key: "sum" value: "plus" } },
  { model_name: "scale" input_map { key: "x" value: "raw" } output_map { key: "y" value: "doubled" } }
] }
"""


def make_store(config=BOTH):
    store = tempfile.mkdtemp(prefix="inferd-store-")
    for name, files in (("scale", {"1/model.onnx": SCALE}), ("add", {"1/model.onnx": ADD}), ("both", {"config.pbtxt": config.encode(), "1": None})):
        for path, data in files.items():
            path = os.path.join(store, name, path)
            os.makedirs(path if data is None else os.path.dirname(path), exist_ok=True)
            if data is not None:
                open(path, "wb").write(data)
    return store


def ask(s, rows, **more):
    return s.json("POST", "/v2/models/both/infer", dict({"inputs": [{"name": "raw", "datatype": "FP32", "shape": [len(rows), 3], "data": sum(rows, [])}]}, **more))


def outputs(answer):
    return {o["name"]: o["data"] for o in answer["outputs"]}


server = Server("--access-log", "false", "--control", "explicit", "--load-model", "*", store=make_store())


def test_the_digest_names_the_config():
    """The version's folder is empty: what tells one ensemble from another is its config."""
    digest = lambda s: s.call("POST", "/v2/models/both/infer", {"inputs": [{"name": "raw", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]})[1]["x-inferd-digest"]
    first = digest(server)
    assert first != hashlib.sha256(b"").hexdigest()[:16]
    path = os.path.join(server.store, "both/config.pbtxt")
    text = open(path).read()
    open(path, "w").write(text.replace("max_batch_size: 8", "max_batch_size: 4"))
    assert server.json("POST", "/v2/repository/models/both/load")[0] == 200
    second = digest(server)
    open(path, "w").write(text)
    assert server.json("POST", "/v2/repository/models/both/load")[0] == 200
    assert second != first and digest(server) == first


def test_steps_pass_tensors_on():
    status, answer = ask(server, [[1, 2, 3], [4, 5, 6]])
    assert status == 200 and outputs(answer) == {"plus": [3, 6, 9, 12, 15, 18], "doubled": [2, 4, 6, 8, 10, 12]}, answer
    assert [o["shape"] for o in answer["outputs"]] == [[2, 3], [2, 3]]
    status, answer = ask(server, [[1, 2, 3]], outputs=[{"name": "plus"}])
    assert status == 200 and outputs(answer) == {"plus": [3, 6, 9]}, answer


def test_it_is_described_as_a_model():
    status, about = server.json("GET", "/v2/models/both")
    assert status == 200 and about["platform"] == "ensemble" and about["inputs"] == [{"name": "raw", "datatype": "FP32", "shape": [-1, 3]}], about
    status, config = server.json("GET", "/v2/models/both/config")
    assert status == 200 and [s["model_name"] for s in config["ensemble_scheduling"]["step"]] == ["add", "scale"], config
    _, stats = server.json("GET", "/v2/models/both/stats")
    assert stats["model_stats"][0]["inference_stats"]["success"]["count"] >= 2, stats
    _, stats = server.json("GET", "/v2/models/scale/stats")
    assert stats["model_stats"][0]["inference_stats"]["success"]["count"] >= 2, stats


def test_bad_questions_are_refused():
    assert ask(server, [[1, 2, 3]] * 9)[0] == 400
    status, answer = server.json("POST", "/v2/models/both/infer", {"inputs": [{"name": "raw", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]})
    assert status == 400 and "shape" in answer["error"], answer


def test_many_at_once_and_a_swap_below():
    wrong, stop = [], threading.Event()

    def keep(k):
        while not stop.is_set():
            status, answer = ask(server, [[k, k + 1, k + 2]])
            if status != 200 or outputs(answer)["plus"] not in ([3 * k, 3 * k + 3, 3 * k + 6], [11 * k, 11 * k + 11, 11 * k + 22]):
                wrong.append((status, answer))

    threads = [threading.Thread(target=keep, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for version, file in ((2, SCALE_10), (3, SCALE), (4, SCALE_10)):
        os.makedirs(os.path.join(server.store, "scale", str(version)))
        open(os.path.join(server.store, "scale", str(version), "model.onnx"), "wb").write(file)
        assert server.call("POST", "/v2/repository/models/scale/load")[0] == 200
        time.sleep(0.3)
    stop.set()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    assert outputs(ask(server, [[1, 1, 1]])[1])["doubled"] == [10, 10, 10]


def test_a_step_without_its_model_says_so():
    assert server.call("POST", "/v2/repository/models/add/unload")[0] == 200
    time.sleep(0.2)
    status, answer = ask(server, [[1, 2, 3]])
    assert status in (400, 404, 503) and "step 1" in answer["error"] and "'add'" in answer["error"], (status, answer)
    assert server.call("POST", "/v2/repository/models/add/load")[0] == 200
    assert ask(server, [[1, 2, 3]])[0] == 200


def test_plans_that_cannot_work_are_refused_at_load():
    for change, says in ((('value: "raw" } output_map { key: "y"', 'value: "plus" } output_map { key: "y"'), "circle"), (('value: "doubled" } input_map', 'value: "nobody" } input_map'), "no step makes it"),
                         (('key: "sum" value: "plus"', 'key: "sum" value: "other"'), "made by no step"), (('value: "plus" } }', 'value: "plus" } output_map { key: "difference" value: "doubled" } }'), "made twice")):
        open(os.path.join(server.store, "both/config.pbtxt"), "w").write(BOTH.replace(*change))
        status, _, body = server.call("POST", "/v2/repository/models/both/load")
        assert status == 400 and says in body.decode(), (says, body)
    assert ask(server, [[1, 2, 3]])[0] == 200      # what served goes on


def test_it_ends_well():
    assert server.stop() == 0
    shutil.rmtree(server.store)


run(globals())
