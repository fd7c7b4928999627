"""The response cache: the same question is answered without a step, within its bytes, and never across versions."""
import os, re, shutil, sys, tempfile, threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run
from tiny_onnx import FLOAT, model, node

CONFIG = 'max_batch_size: 4 response_cache { enable: true } dynamic_batching { }'


def scale(factor):
    return model([node("Mul", ["x", "k"], ["y"])], [("x", FLOAT, ["n", 64])], [("y", FLOAT, ["n", 64])], [("k", [factor])])


def put(store, version, factor):
    os.makedirs(os.path.join(store, "scale", str(version)))
    open(os.path.join(store, "scale", str(version), "model.onnx"), "wb").write(scale(factor))


def make_store():
    store = tempfile.mkdtemp(prefix="inferd-store-")
    put(store, 1, 2.0)
    open(os.path.join(store, "scale/config.pbtxt"), "w").write(CONFIG)
    return store


def ask(s, number, **more):
    status, answer = s.json("POST", "/v2/models/scale/infer", dict({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [number] * 64}]}, **more))
    assert status == 200, answer
    return answer["outputs"][0]["data"][0]


def counts(s):
    stats = s.json("GET", "/v2/models/scale/stats")[1]["model_stats"][0]
    return stats["inference_stats"]["cache_hit"]["count"], stats["inference_stats"]["cache_miss"]["count"], stats["execution_count"]


def test_the_same_question_takes_no_step():
    with Server("--access-log", "false", store=make_store()) as s:
        before = counts(s)
        assert [ask(s, 3), ask(s, 4), ask(s, 3), ask(s, 3, outputs=[{"name": "y"}])] == [6, 8, 6, 6]
        hits, misses, steps = (b - a for a, b in zip(before, counts(s)))
        assert (hits, misses, steps) == (1, 3, 3), (hits, misses, steps)      # other outputs, another question
        page = s.call("GET", "/metrics")[2].decode()
        assert re.search(r'nv_cache_num_hits_per_model\{model="scale",version="1"\} 1\n', page)
        shutil.rmtree(s.store)


def test_a_new_version_has_answers_of_its_own():
    with Server("--access-log", "false", "--control", "explicit", "--load-model", "scale", store=make_store()) as s:
        assert [ask(s, 3), ask(s, 3)] == [6, 6]
        put(s.store, 2, 5.0)
        assert s.call("POST", "/v2/repository/models/scale/load")[0] == 200
        assert [ask(s, 3), ask(s, 3)] == [15, 15]
        shutil.rmtree(s.store)


def test_it_stays_within_its_bytes_and_threads():
    with Server("--access-log", "false", "--response-cache-size", "65536", store=make_store()) as s:
        wrong = []

        def keep(k):
            for i in range(150):
                number = (i * 7 + k) % 300
                if ask(s, number) != 2 * number:
                    wrong.append(number)

        threads = [threading.Thread(target=keep, args=(k,)) for k in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong, wrong[:5]
        hits, misses, _ = counts(s)
        assert hits and misses > 300, (hits, misses)      # more questions than it holds: some were thrown out
        shutil.rmtree(s.store)


run(globals())
