# needs: tritonclient.http
"""Sequence batching: state that a model keeps from one request of a sequence to the next, whoever asks in between."""
import json, os, shutil, sys, tempfile, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run
from tiny_onnx import FLOAT, INT64, model, node

import numpy as np
import tritonclient.http as triton

# sum' = sum * (1 - start) + x; what is answered: [sum', id, end]
RUNNING_SUM = model([node("Sub", ["one", "start"], ["keep"]), node("Mul", ["sum", "keep"], ["kept"]), node("Add", ["kept", "x"], ["sum_out"]), node("Identity", ["sum_out"], ["y"]),
                     node("Identity", ["id"], ["who"]), node("Identity", ["end"], ["last"])],
                    [("x", FLOAT, ["n", 1]), ("start", FLOAT, ["n", 1]), ("end", FLOAT, ["n", 1]), ("id", INT64, ["n", 1]), ("sum", FLOAT, ["n", 1])],
                    [("y", FLOAT, ["n", 1]), ("sum_out", FLOAT, ["n", 1]), ("who", INT64, ["n", 1]), ("last", FLOAT, ["n", 1])], [("one", [1.0])])
CONFIG = """max_batch_size: 8 response_cache { enable: true }
sequence_batching { %s max_sequence_idle_microseconds: %d
  control_input [{ name: "start" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] },
                 { name: "end" control [{ kind: CONTROL_SEQUENCE_END fp32_false_true: [0, 1] }] },
                 { name: "id" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 }] }]
  state [{ input_name: "sum" output_name: "sum_out" data_type: TYPE_FP32 dims: [1] }] }
"""


def make_store(strategy="oldest { max_candidate_sequences: 64 }", idle_us=5000000):
    store = tempfile.mkdtemp(prefix="inferd-store-")
    os.makedirs(os.path.join(store, "sum/1"))
    open(os.path.join(store, "sum/1/model.onnx"), "wb").write(RUNNING_SUM)
    open(os.path.join(store, "sum/config.pbtxt"), "w").write(CONFIG % (strategy, idle_us))
    return store


def ask(s, who, number, start=False, end=False, timeout=20):
    parameters = {"sequence_id": who, "sequence_start": start, "sequence_end": end}
    status, _, body = s.call("POST", "/v2/models/sum/infer", {"parameters": parameters, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}]}, timeout=timeout)
    answer = json.loads(body)
    return (status, {o["name"]: o["data"][0] for o in answer["outputs"]} if status == 200 else answer["error"])


server = Server("--access-log", "false", store=make_store())


def test_state_goes_from_one_request_to_the_next():
    got = [ask(server, 7, n, start=n == 1, end=n == 4)[1] for n in (1, 2, 3, 4)]
    assert [g["y"] for g in got] == [1, 3, 6, 10] and [g["who"] for g in got] == [7] * 4 and [g["last"] for g in got] == [0, 0, 0, 1], got
    assert set(got[0]) == {"y", "who", "last"}, got      # the state is nobody's business


def test_a_start_begins_anew_and_must_be_there():
    assert ask(server, 8, 5, start=True)[1]["y"] == 5
    assert ask(server, 8, 5)[1]["y"] == 10
    assert ask(server, 8, 1, start=True)[1]["y"] == 1
    assert ask(server, 8, 1, end=True)[1]["y"] == 2
    status, text = ask(server, 8, 1)
    assert status == 400 and "must specify the START flag on the first request of the sequence" in text, text
    status, text = ask(server, 0, 1, start=True)
    assert status == 400 and "correlation ID" in text, text


def test_the_same_question_again_is_another_step():
    got = [ask(server, 9, 2, start=k == 0, end=k == 3)[1]["y"] for k in range(4)]      # although its config asks for a response cache
    assert got == [2, 4, 6, 8], got


def test_what_is_hidden_is_not_described():
    about = server.json("GET", "/v2/models/sum")[1]
    assert [i["name"] for i in about["inputs"]] == ["x"] and [o["name"] for o in about["outputs"]] == ["y", "who", "last"], about
    config = server.json("GET", "/v2/models/sum/config")[1]
    assert [i["name"] for i in config["input"]] == ["x"] and "dynamic_batching" not in config and config["sequence_batching"]["oldest"]["max_candidate_sequences"] == 64, config


def test_many_sequences_ride_together():
    wrong = []

    def one(who):
        total = 0
        for n in range(1, 41):
            total += n * who
            status, answer = ask(server, who, n * who, start=n == 1, end=n == 40)
            if status != 200 or answer["y"] != total or answer["who"] != who:
                wrong.append((who, n, answer, total))

    threads = [threading.Thread(target=one, args=(100 + k,)) for k in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    batches = server.json("GET", "/v2/models/sum/stats")[1]["model_stats"][0]["batch_stats"]
    assert max(b["batch_size"] for b in batches) > 1, batches


def test_the_stock_client():
    c = triton.InferenceServerClient("127.0.0.1:%d" % server.port)
    total = 0
    for n in range(1, 5):
        x = triton.InferInput("x", [1, 1], "FP32")
        x.set_data_from_numpy(np.full((1, 1), n, np.float32))
        total += n
        got = c.infer("sum", [x], sequence_id=99, sequence_start=n == 1, sequence_end=n == 4, outputs=[triton.InferRequestedOutput("y")])
        assert got.as_numpy("y")[0, 0] == total
    c.close()


def test_an_idle_sequence_ends_and_makes_room():
    with Server("--access-log", "false", store=make_store("oldest { max_candidate_sequences: 2 }", 300000)) as s:
        assert ask(s, 1, 1, start=True)[0] == ask(s, 2, 1, start=True)[0] == 200
        begun = time.time()
        status, answer = ask(s, 3, 4, start=True)      # no room until one of the others has been idle for 0.3 s
        assert status == 200 and answer["y"] == 4 and 0.15 < time.time() - begun < 5, (answer, time.time() - begun)
        assert ask(s, 1, 1)[0] == 400
        shutil.rmtree(s.store)


def test_what_is_held_is_answered_at_the_end():
    s = Server("--access-log", "false", store=make_store("oldest { max_candidate_sequences: 1 }", 2000000))
    assert ask(s, 1, 1, start=True)[0] == 200
    got = []
    t = threading.Thread(target=lambda: got.append(ask(s, 2, 6, start=True)))
    t.start()
    time.sleep(0.5)
    assert not got
    assert s.stop() == 0      # the drain waits until it has had its turn
    t.join()
    assert got and got[0][0] == 200 and got[0][1]["y"] == 6, got
    shutil.rmtree(s.store)


STATE = "dims: [1] initial_state: { name: 'begin' data_type: TYPE_FP32 dims: [1] data_file: '%s' } }"


def states_of(name, content=None, link=None):
    store = make_store()
    path = os.path.join(store, "sum/config.pbtxt")
    text = open(path).read()
    open(path, "w").write(text.replace("dims: [1] }", STATE % name))
    os.makedirs(os.path.join(store, "sum/initial_state"))
    if content is not None:
        open(os.path.join(store, "sum/initial_state/begin"), "wb").write(content)
    if link:
        os.symlink(link, os.path.join(store, "sum/initial_state/begin"))
    return store


def test_a_state_begins_with_a_file():
    ten = np.float32(10).tobytes()
    with Server("--access-log", "false", store=states_of("begin", ten)) as s:
        assert [ask(s, 5, n, start=n == 1)[1]["y"] for n in (1, 2)] == [1, 3]      # the model begins anew where it is told to start
        shutil.rmtree(s.store)
    outside = tempfile.NamedTemporaryFile()
    outside.write(ten)
    outside.flush()
    for name, content, link, says in (("begin", ten + b"x", None, "has 5 bytes"), ("begin", b"", None, "has 0 bytes"), ("begin", None, None, "initial_state/begin"), ("../../x", ten, None, "plain file name"),
                                      (outside.name, ten, None, "plain file name"), ("begin", None, outside.name, "initial_state/begin")):
        with Server("--access-log", "false", "--strict-readiness", "false", store=states_of(name, content, link)) as s:
            reason = s.json("POST", "/v2/repository/index")[1][0].get("reason", "")
            assert says in reason, (name, says, reason)
            shutil.rmtree(s.store)


def test_the_first_state_reaches_the_model():
    store = states_of("begin", np.float32(10).tobytes())
    open(os.path.join(store, "sum/1/model.onnx"), "wb").write(model([node("Add", ["sum", "x"], ["sum_out"]), node("Identity", ["sum_out"], ["y"])], [("x", FLOAT, ["n", 1]), ("sum", FLOAT, ["n", 1])],
                                                                    [("y", FLOAT, ["n", 1]), ("sum_out", FLOAT, ["n", 1])]))
    path = os.path.join(store, "sum/config.pbtxt")
    text = open(path).read()
    open(path, "w").write(text[:text.index("control_input")] + text[text.index("state ["):])
    with Server("--access-log", "false", store=store) as s:
        assert [ask(s, 5, n, start=n == 1, end=n == 3)[1]["y"] for n in (1, 2, 3)] == [11, 13, 16]
        assert ask(s, 5, 1, start=True)[1]["y"] == 11
        shutil.rmtree(store)


def test_iterative_requests_are_sequences_of_their_own():
    store = make_store("iterative_sequence: true direct { }")
    with Server("--access-log", "false", store=store) as s:
        for _ in range(3):
            status, answer = s.json("POST", "/v2/models/sum/infer", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [4]}]})
            got = {o["name"]: o["data"][0] for o in answer["outputs"]}
            assert status == 200 and got["y"] == 4 and got["last"] == 1, answer
        assert [ask(s, 6, n)[1] for n in (1, 2)] == [{"y": 1, "who": 6, "last": 1}, {"y": 2, "who": 6, "last": 1}]      # without a start, which each is
        shutil.rmtree(store)


def test_direct_and_bad_plans():
    with Server("--access-log", "false", store=make_store("direct { }")) as s:
        assert [ask(s, 5, n, start=n == 1)[1]["y"] for n in (1, 2, 3)] == [1, 3, 6]
        shutil.rmtree(s.store)
    for change, says in ((('output_name: "sum_out"', 'output_name: "other"'), "does not have"), (("fp32_false_true: [0, 1]", "int32_false_true: [0, 1]"), "is int32"), (("dims: [1]", "dims: [-1]"), "free dimension")):
        store = make_store()
        path = os.path.join(store, "sum/config.pbtxt")
        text = open(path).read()
        open(path, "w").write(text.replace(*change))
        with Server("--access-log", "false", "--strict-readiness", "false", store=store) as s:
            reason = s.json("POST", "/v2/repository/index")[1][0].get("reason", "")
            assert says in reason, (says, reason)
        shutil.rmtree(store)


def test_it_ends_well():
    assert server.stop() == 0
    shutil.rmtree(server.store)


run(globals())
