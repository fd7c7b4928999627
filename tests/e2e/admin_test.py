"""Uploads, publishing, activation forward and back, aliases, audit; versions that fail; modes none, poll and explicit; drain."""
import hashlib, json, os, shutil, signal, sqlite3, threading, time

from admin_test_parts import MODEL, OTHER, ZERO
from harness import DIGITS, Server, make_store, run


def digest(data):
    return {"X-Digest": "sha256=" + hashlib.sha256(data).hexdigest()}


def put(s, version, data, headers=None, model="digits", name="model.onnx"):
    return s.call("PUT", "/admin/models/%s/versions/%s/files/%s" % (model, version, name), data, digest(data) if headers is None else headers)[0]


def version_served(s, name="digits", headers=None):
    status, h, _ = s.call("POST", "/v2/models/%s/infer" % name, ZERO, headers)
    return h.get("x-inferd-version") if status == 200 else status


def logit(s, version=None):
    path = "/v2/models/digits/infer" if version is None else "/v2/models/digits/versions/%d/infer" % version
    return s.json("POST", path, ZERO)[1]["outputs"][0]["data"][0]


def index(s):
    return {(r["name"], r.get("version")): r for r in s.json("POST", "/v2/repository/index")[1]}


def test_upload_publish_activate_and_back():
    assert OTHER is not None and OTHER != MODEL
    with Server() as s:
        first = logit(s)
        assert put(s, 2, OTHER) == 201
        assert version_served(s) == "1"
        assert s.json("POST", "/admin/models/digits/versions/2/publish")[0] == 200
        status, answer = s.json("POST", "/admin/models/digits/activate", {"version": 2})
        assert status == 200, answer
        assert version_served(s) == "2" and abs(logit(s) - first - 1) < 1e-4
        assert s.json("POST", "/admin/models/digits/activate", {"version": 1})[0] == 200
        assert version_served(s) == "1" and logit(s) == first
        assert s.json("PUT", "/admin/models/digits/aliases/stable", {"version": 1})[0] == 200
        assert version_served(s, "digits@stable") == "1"
        assert s.json("PUT", "/admin/models/digits/aliases/stable", {"version": 77})[0] in (400, 404)
        assert s.json("POST", "/admin/models/digits/activate", {"version": 77})[0] == 404
        actions = [(a["action"], a.get("who")) for a in s.json("GET", "/admin/audit")[1]]
        for action in ("upload", "publish", "activate", "alias"):
            assert any(a[0] == action and a[1] == "local" for a in actions), (action, actions)
        models = s.json("GET", "/admin/models")[1]
        assert "digits" in json.dumps(models) and hashlib.sha256(MODEL).hexdigest()[:8] is not None
        # what was acknowledged survives a kill
        store = s.store
        s.own_store = False
        s.stop(signal.SIGKILL)
    with Server(store=store) as s:
        assert version_served(s) == "1" and version_served(s, "digits@stable") == "1"
    shutil.rmtree(store)


def test_uploads_that_are_refused():
    with Server() as s:
        assert put(s, 2, OTHER, {"X-Digest": "sha256=" + "0" * 64}) == 400
        assert put(s, 2, OTHER, {}) == 400
        assert put(s, 0, OTHER) in (400, 404)
        assert put(s, 2, OTHER, name=".hidden") == 400
        assert not os.path.exists(os.path.join(s.store, "digits/2/model.onnx"))
        assert s.json("POST", "/admin/models/digits/versions/2/publish")[0] in (400, 404)
        # an upload that is cut off leaves nothing
        c = s.connect()
        c.putrequest("PUT", "/admin/models/digits/versions/3/files/model.onnx")
        c.putheader("Content-Length", str(len(OTHER)))
        c.putheader("X-Digest", digest(OTHER)["X-Digest"])
        c.endheaders()
        c.send(OTHER[:1000])
        time.sleep(0.2)
        c.close()
        time.sleep(0.5)
        assert not os.path.exists(os.path.join(s.store, "digits/3/model.onnx"))
        assert version_served(s) == "1"


def test_a_broken_version_leaves_the_old_one_serving():
    with Server() as s:
        for broken in (b"", b"not a model", MODEL[:5000], MODEL[:20000] + bytes(5000) + MODEL[25000:]):
            v = 2
            while os.path.exists(os.path.join(s.store, "digits", str(v))):
                v += 1
            assert put(s, v, broken) == 201
            s.json("POST", "/admin/models/digits/versions/%d/publish" % v)
            status, answer = s.json("POST", "/admin/models/digits/activate", {"version": v})
            if broken == MODEL[:20000] + bytes(5000) + MODEL[25000:]:
                continue      # numbers in the middle of the weights may be zero: a network all the same
            assert 400 <= status < 600 and answer["error"], (v, status, answer)
            assert version_served(s) == "1"
            row = index(s)[("digits", str(v))]
            assert row["state"] == "UNAVAILABLE" and row["reason"], row
        assert s.call("GET", "/v2/health/live")[0] == 200


def test_mode_none_with_a_model_that_fails():
    store = make_store()
    os.makedirs(os.path.join(store, "broken/1"))
    open(os.path.join(store, "broken/1/model.onnx"), "wb").write(b"nonsense")
    with Server(store=store) as s:
        assert s.call("GET", "/v2/health/ready")[0] == 400 and s.call("GET", "/v2/health/live")[0] == 200
        assert version_served(s) == "1"
        row = [r for k, r in index(s).items() if k[0] == "broken"][0]
        assert row["state"] == "UNAVAILABLE" and row["reason"]
        assert s.json("POST", "/v2/repository/models/digits/load")[0] == 503
    with Server("--strict-readiness", "false", store=store) as s:
        assert s.call("GET", "/v2/health/ready")[0] == 200
    shutil.rmtree(store)


def test_wrong_configuration_names_line_and_field():
    store = make_store()
    path = os.path.join(store, "digits/config.pbtxt")
    text = open(path).read()
    open(path, "w").write(text + "\nmax_batch_sise: 3\n")
    with Server(store=store) as s:
        row = [r for k, r in index(s).items() if k[0] == "digits"][0]
        assert "max_batch_sise" in row["reason"] and str(text.count("\n") + 2) in row["reason"], row
    open(path, "w").write(text.replace("dims: [ 1, 28, 28 ]", "dims: [ 1, 28, 27 ]"))
    with Server(store=store) as s:
        row = [r for k, r in index(s).items() if k[0] == "digits"][0]
        assert "image" in row["reason"], row
    shutil.rmtree(store)


def test_poll_follows_the_store():
    with Server("--control", "poll", "--poll-ms", "100") as s:
        assert version_served(s) == "1"
        os.makedirs(os.path.join(s.store, "digits/.2"))
        open(os.path.join(s.store, "digits/.2/model.onnx"), "wb").write(OTHER)
        os.rename(os.path.join(s.store, "digits/.2"), os.path.join(s.store, "digits/2"))
        wait(lambda: version_served(s) == "2")
        shutil.rmtree(os.path.join(s.store, "digits/2"))
        wait(lambda: version_served(s) == "1")
        shutil.copytree(DIGITS, os.path.join(s.store, "twin"))
        text = open(os.path.join(s.store, "twin/config.pbtxt")).read().replace('"digits"', '"twin"')
        open(os.path.join(s.store, "twin/config.pbtxt"), "w").write(text)
        wait(lambda: version_served(s, "twin") == "1")
        shutil.rmtree(os.path.join(s.store, "twin"))
        wait(lambda: version_served(s, "twin") in (404, 503))


def wait(condition, seconds=10):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen"
        time.sleep(0.05)


def test_explicit_starts_with_what_was_loaded_last():
    store = make_store()
    with Server("--control", "explicit", store=store) as s:
        assert version_served(s) in (404, 503)
        assert s.call("POST", "/v2/repository/models/digits/load")[0] == 200
        assert version_served(s) == "1"
    with Server("--control", "explicit", store=store) as s:
        assert version_served(s) == "1"
        assert s.call("POST", "/v2/repository/models/digits/unload")[0] == 200
    with Server("--control", "explicit", store=store) as s:
        assert version_served(s) in (404, 503)
    shutil.rmtree(store)


def test_F6_a_flipped_byte_is_found():
    store = make_store()
    with Server(store=store) as s:
        assert version_served(s) == "1"
    path = os.path.join(store, "digits/1/model.onnx")
    data = bytearray(open(path, "rb").read())
    data[len(data) // 2] ^= 1
    open(path, "wb").write(data)
    with Server(store=store) as s:
        row = [r for k, r in index(s).items() if k[0] == "digits"][0]
        assert row["state"] == "UNAVAILABLE" and "digest" in row["reason"], row
    shutil.rmtree(store)


def test_F25_sigterm_finishes_what_was_accepted():
    """Clients that keep asking while the server drains: every request whose connection was accepted before the stop is answered."""
    for round in range(5):
        s = Server("--drain-delay", "1")
        lost, answered, not_ready, stop = [], [0], [None], threading.Event()

        def client():
            while not stop.is_set():
                try:
                    c = s.connect(5)
                    c.connect()
                except OSError:
                    return      # refused: not accepted
                try:
                    c.request("POST", "/v2/models/digits/infer", body=json.dumps(ZERO))
                    r = c.getresponse()
                    r.read()
                    if r.status == 200:
                        answered[0] += 1
                    else:
                        lost.append(r.status)
                except Exception as e:
                    if s.process.poll() is None and time.time() < closing[0]:
                        lost.append(repr(e))
                finally:
                    c.close()

        closing = [time.time() + 3600]
        threads = [threading.Thread(target=client) for _ in range(4)]
        for t in threads:
            t.start()
        time.sleep(0.3)
        s.process.send_signal(signal.SIGTERM)
        start = time.time()
        closing[0] = start + 0.9
        time.sleep(0.2)
        not_ready[0] = s.call("GET", "/v2/health/ready")[0]
        served = answered[0]
        time.sleep(0.3)
        assert answered[0] > served, "new requests are served during the drain delay"
        code = s.process.wait(30)
        took = time.time() - start
        stop.set()
        for t in threads:
            t.join()
        s.stop()
        assert code == 0 and not_ready[0] == 400 and not lost and 1 <= took < 5, (code, not_ready, lost[:3], took)


run(globals())
