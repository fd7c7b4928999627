"""The rate limiter over a whole server: models that share a resource have their turns by priority, and what can never run is refused at load."""
import json, os, shutil, sys, tempfile, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import DIGITS, Server, run

ROWS = 64


def put(store, name, needs, priority):
    shutil.copytree(DIGITS, os.path.join(store, name))
    path = os.path.join(store, name, "config.pbtxt")
    text = open(path).read().replace('name: "digits"', 'name: "%s"' % name)
    resources = " ".join('{ name: "%s" count: %d %s}' % (n, c, "global: true " if g else "") for n, c, g in needs)
    open(path, "w").write(text + "\ninstance_group [ { count: 1 kind: KIND_CPU rate_limiter { resources [ %s ] priority: %d } } ]\n" % (resources.replace("} {", "}, {"), priority))


def make_store(**models):
    store = tempfile.mkdtemp(prefix="inferd-store-")
    for name, (needs, priority) in models.items():
        put(store, name, needs, priority)
    return store


def executions(s, name):
    return s.json("GET", "/v2/models/%s/stats" % name)[1]["model_stats"][0]["execution_count"]


def drive(s, names, seconds, threads=3):
    """Keeps every model busy; -> how many batches each ran."""
    import json
    body = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [ROWS, 1, 28, 28], "data": [0.5] * (ROWS * 784)}]}).encode()
    stop, failed = threading.Event(), []

    def ask(name):
        while not stop.is_set():
            status = s.call("POST", "/v2/models/%s/infer" % name, body)[0]
            if status != 200:
                failed.append(status)
    all = [threading.Thread(target=ask, args=(n,)) for n in names for _ in range(threads)]
    before = {n: executions(s, n) for n in names}
    for t in all:
        t.start()
    time.sleep(seconds)
    stop.set()
    for t in all:
        t.join()
    assert not failed, failed[:3]
    return {n: executions(s, n) - before[n] for n in names}


def test_models_that_share_a_resource_all_have_turns():
    store = make_store(first=([("gpu-memory", 1, False)], 1), second=([("gpu-memory", 1, False)], 4), alone=([("other", 3, True)], 9))
    with Server("--rate-limit", "execution_count", "--access-log", "false", store=store) as s:
        got = drive(s, ("first", "second", "alone"), 1.5)
        assert all(n >= 5 for n in got.values()), got
        assert s.json("GET", "/v2/models/second/config")[1]["instance_group"][0]["rate_limiter"]["priority"] == 4


def test_fixed_copies():
    store = make_store(small=([("R", 1, False)], 1), large=([("R", 5, False)], 1))
    with Server("--control", "explicit", "--rate-limit", "execution_count", "--rate-limit-resource", "R:4", store=store) as s:
        assert s.json("POST", "/v2/repository/models/small/load")[0] == 200
        status, answer = s.json("POST", "/v2/repository/models/large/load")
        assert status == 400 and "is limited to 4" in answer["error"], answer
        assert drive(s, ("small",), 0.3)["small"] > 0
    with Server(store=store) as s:      # off: configs may say what they like
        assert drive(s, ("small", "large"), 0.3)["large"] > 0


def test_a_name_is_global_or_of_a_device():
    store = make_store(one=([("R", 1, False)], 1), two=([("R", 1, True)], 1))
    with Server("--control", "explicit", "--rate-limit", "execution_count", store=store) as s:
        assert s.json("POST", "/v2/repository/models/one/load")[0] == 200
        assert "global for one model" in s.json("POST", "/v2/repository/models/two/load")[1]["error"]
        assert s.json("POST", "/v2/repository/models/one/unload")[0] == 200
        assert s.json("POST", "/v2/repository/models/two/load")[0] == 200


run(globals())
