"""Faults under load (short form; `make faults` runs the full counts, FAULTS=full): hot swap F1, kills F2, overload F12, slow clients F16, clients that vanish
F17, many connections F15, load/unload storm F8. Every test ends in the same checks: alive, health in 100 ms, memory back."""
import concurrent.futures, hashlib, http.client, itertools, json, os, random, re, resource, shutil, socket, sqlite3, subprocess, sys, tempfile, threading, time

from harness import BINARY, DIGITS, ROOT, SANITIZED, Server, Skip, make_store, run
from admin_test_parts import OTHER, ZERO

FULL = os.environ.get("FAULTS") == "full"
# The driver is never a sanitizer's build, which would be the slow part.
LOAD = os.path.join(ROOT, "build/release" if SANITIZED else os.path.dirname(BINARY), "tests/bench/load")


def load(s, *flags, body=None, **kw):
    f = tempfile.NamedTemporaryFile()
    f.write(json.dumps(ZERO).encode() if body is None else body)
    f.flush()
    p = subprocess.run([LOAD, "--port", str(s.port), "--path", "/v2/models/digits/infer", "--body", f.name] + list(map(str, flags)), capture_output=True, text=True, timeout=900, **kw)
    assert p.stdout.startswith("{"), p.stderr
    r = json.loads(p.stdout)
    print("     %s" % json.dumps(r))
    return r


def settled(s, before, slack=0.02):
    """Alive, quick, and the memory of before (2 % + 4 MiB) after at most 5 s of idling."""
    start = time.time()
    assert s.call("GET", "/v2/health/live")[0] == 200
    assert time.time() - start < 0.1 or SANITIZED, time.time() - start
    end = time.time() + 5
    while s.rss() > before * (1 + slack) + (4 << 20) and time.time() < end:
        time.sleep(0.2)
    if not SANITIZED:
        assert s.rss() <= before * (1 + slack) + (4 << 20), (before, s.rss())
    assert s.process.poll() is None


def meet_every_batch(s):
    """Each batch size once: the plans that are made for them stay, so they belong to the memory before."""
    for n in range(1, 65):
        assert s.call("POST", "/v2/models/digits/infer", {"inputs": [{"name": "image", "shape": [n, 1, 28, 28], "datatype": "FP32", "data": [0] * (784 * n)}]})[0] == 200


def two_versions():
    s = Server("--access-log", "false")
    assert s.call("PUT", "/admin/models/digits/versions/2/files/model.onnx", OTHER, {"X-Digest": "sha256=" + hashlib.sha256(OTHER).hexdigest()})[0] == 201
    assert s.call("POST", "/admin/models/digits/versions/2/publish")[0] == 200
    expected = []
    for v in (2, 1):
        assert s.call("POST", "/admin/models/digits/activate", {"version": v})[0] == 200
        f = tempfile.NamedTemporaryFile(delete=False)
        f.write(s.call("POST", "/v2/models/digits/infer", ZERO)[2])
        f.close()
        expected.append((v, f.name))
    return s, expected


def test_F1_hot_swap_under_load():
    requests, swaps = (200000, 1000) if FULL else (20000, 100)
    if SANITIZED:
        requests, swaps = 3000, 20
    s, expected = two_versions()
    flags = [x for v, path in expected for x in ("--expect", "%d=%s" % (v, path))]
    swapping = ["--swap", "/admin/models/digits/activate", "--swap-versions", "1,2"]
    for _ in range(5):      # what a version keeps while it lives (plans, the library's kernels) and what the heap's many arenas keep belong to the memory before
        meet_every_batch(s)
        load(s, "--connections", 16, "--requests", requests // 100, *swapping, "--swaps", min(swaps, 50), "--swap-every-ms", 20, *flags)
    before, ratios = None, []
    while len(ratios) < 5 and (not ratios or min(ratios) > 2):      # a neighbour of the machine may spoil a round; the answers must be right in each
        seconds = "10" if FULL else "2"
        rest = [load(s, "--connections", 16, "--seconds", seconds, *flags)]
        if not before:
            meet_every_batch(s)
            before = s.rss()
        r = load(s, "--connections", 16, "--requests", requests, *swapping, "--swaps", swaps, "--swap-every-ms", 60, *flags)
        assert r["failed"] == r["mixed"] == r["stale"] == r["refused"] == r["swap_failures"] == r["unanswered"] == 0, r
        assert r["ok"] >= requests and r["swaps"] == swaps
        rest.append(load(s, "--connections", 16, "--seconds", seconds, *flags))
        p99 = (rest[0]["p99_us"] + rest[1]["p99_us"]) / 2
        ratios.append(r["p99_us"] / p99)
        print("     p99 at rest %d us, while swapping %.0f times a second %d us (%.1f x)" % (p99, swaps / r["seconds"], r["p99_us"], ratios[-1]))
    assert min(ratios) <= 2 or SANITIZED, ratios
    meet_every_batch(s)
    settled(s, before)
    s.stop()


def catalog_is_whole(store):
    """A copy of what the kill left passes SQLite's own check."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(os.path.join(store, ".inferd"), os.path.join(copy, "c"))
        db = sqlite3.connect(os.path.join(copy, "c/catalog.db"))
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()


def test_F2_killed_at_any_moment():
    """SIGKILL while versions are uploaded, published and activated under load: what comes up again serves the old version or the new one."""
    kills, rng = (200 if FULL else 20) if not SANITIZED else 5, random.Random(2)
    store, top = make_store(), 1
    digest = {"X-Digest": "sha256=" + hashlib.sha256(OTHER).hexdigest()}
    active, slowest, seen = 1, 0, {}
    body = tempfile.NamedTemporaryFile()
    body.write(json.dumps(ZERO).encode())
    body.flush()
    for _ in range(kills):
        s = Server("--access-log", "false", store=store)
        driver = subprocess.Popen([LOAD, "--port", str(s.port), "--path", "/v2/models/digits/infer", "--body", body.name, "--connections", "4", "--seconds", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        killer = threading.Timer(rng.uniform(0.01, 0.4), s.process.kill)
        killer.start()
        wanted, step = active, "idle"
        try:
            for step, call in itertools.cycle((("upload", None), ("publish", None), ("activate new", None), ("activate old", None))):
                if step == "upload":
                    top += 1
                    answer = s.call("PUT", "/admin/models/digits/versions/%d/files/model.onnx" % top, OTHER, digest)
                    good = 201
                elif step == "publish":
                    answer, good = s.call("POST", "/admin/models/digits/versions/%d/publish" % top), 200
                else:
                    wanted, good = (top if step == "activate new" else 1), 200
                    answer = s.call("POST", "/admin/models/digits/activate", {"version": wanted})
                assert answer[0] == good, (step, answer)
                active = wanted
        except (OSError, http.client.HTTPException):
            pass      # it is dead
        killer.join()
        s.process.wait()
        driver.kill()
        driver.wait()
        seen[step] = seen.get(step, 0) + 1
        catalog_is_whole(store)
        start = time.time()
        s = Server("--access-log", "false", store=store)
        slowest = max(slowest, time.time() - start)
        status, headers, _ = s.call("POST", "/v2/models/digits/infer", ZERO)
        assert status == 200, status
        serving = int(headers["x-inferd-version"])
        assert serving in (active, wanted), (serving, active, wanted)
        active = serving
        assert s.call("POST", "/admin/models/digits/activate", {"version": active})[0] == 200      # what is half there holds up nothing
        s.stop()
    print("     %d kills, during %s; slowest restart to ready %.2f s" % (kills, seen, slowest))
    assert slowest <= 1 or SANITIZED, slowest
    shutil.rmtree(store)


def overload(s, cpu, factors, body, header):
    """Open loop at so many times the saturation; -> the answers a second, the last run, and the longest queue that was seen."""
    saturation = load(s, "--connections", 64, "--seconds", 3, "--pin", cpu, "--header", header, body=body)["per_second"]
    goodput, longest, done = [], 0, threading.Event()

    def watch():
        nonlocal longest
        while not done.wait(0.2):
            longest = max([longest] + [int(n) for n in re.findall(r"nv_inference_pending_request_count\{[^}]*\} (\d+)\n", s.call("GET", "/metrics")[2].decode())])

    watcher = threading.Thread(target=watch)
    watcher.start()
    for factor in factors:
        r = load(s, "--connections", 512, "--seconds", 30 if FULL else 3, "--rate", saturation * factor, "--pin", cpu, "--header", header, body=body)
        assert r["failed"] == r["unanswered"] == r["unexplained"] == 0, r
        goodput.append(r["per_second"])
        print("     %.1f x: goodput %.0f %% of saturation, %d refused in %.1f ms (p99)" % (factor, 100 * r["per_second"] / saturation, r["refused"], r["refusal_p99_us"] / 1000))
    done.set()
    watcher.join()
    print("     longest queue seen: %d" % longest)
    return goodput, r, longest


def claim_overload(s, cpu, factors, question, share, refusal_ms):
    """At 3 x saturation at least `share` of the best goodput, refusals within refusal_ms (p99). Other work on the two cores spoils a round, so the best of five counts; what
    is right or wrong counts in each."""
    for _ in range(5):
        goodput, last, longest = overload(s, cpu, factors, *question)
        assert longest <= 64
        if SANITIZED or (goodput[-1] >= share * max(goodput) and last["refused"] and last["refusal_p99_us"] <= refusal_ms * 1000):
            return
        print("     not within the claim: once more")
    assert goodput[-1] >= share * max(goodput), goodput
    assert last["refused"] and last["refusal_p99_us"] <= refusal_ms * 1000, last


def test_F12_overload():
    """Server and driver each pinned to one core. Pictures by the batch, where every request of the open loop is sent and answered; then single ones,
    of which the listener can refuse so many in a second that clients which come again at once are made to wait."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[0]})
    s = Server("--access-log", "false", store=small_queue())
    os.sched_setaffinity(0, cpus)
    meet_every_batch(s)
    j = json.dumps({"inputs": [{"name": "image", "shape": [64, 1, 28, 28], "datatype": "FP32", "parameters": {"binary_data_size": 64 * 3136}}]}).encode()
    many = j + bytes(64 * 3136), "Inference-Header-Content-Length: %d" % len(j)
    one = json.dumps(ZERO).encode(), "Accept: */*"
    for (body, header), rate in ((many, 1000), (one, 20000)):
        load(s, "--connections", 512, "--seconds", 1, "--rate", rate, "--pin", cpus[-1], "--header", header, body=body)
    before = s.rss()
    claim_overload(s, cpus[-1], (0.5, 0.9, 1.5, 3), many, 0.9, 10)
    claim_overload(s, cpus[-1], (0.9, 1.5, 3), one, 0.8, 1000)
    settled(s, before)
    s.stop()


def small_queue():
    store = make_store()
    path = os.path.join(store, "digits/config.pbtxt")
    text = open(path).read().replace("dynamic_batching { }", "dynamic_batching { default_queue_policy { max_queue_size: 64 } }")
    open(path, "w").write(text)
    return store


def test_F15_many_connections():
    n = 10000 if FULL else 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < n + 1000:
        raise Skip("the hard limit of descriptors is %d" % hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, n + 2000), hard))
    s = Server("--access-log", "false", "--max-connections", str(n))
    before = s.rss()
    fds = len(os.listdir("/proc/%d/fd" % s.process.pid))
    held = []
    for _ in range(n - 1):
        c = socket.create_connection(("127.0.0.1", s.port))
        c.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert c.recv(200).startswith(b"HTTP/1.1 200")
        held.append(c)
    cost = (s.rss() - before) / n
    print("     %d idle connections cost %.1f KiB each" % (n, cost / 1024))
    assert cost <= 400 * 1024 * 1024 / 10000 or SANITIZED
    load(s, "--connections", 1, "--requests", 500)
    time.sleep(0.5)      # that client's connection is gone
    last = socket.create_connection(("127.0.0.1", s.port))
    time.sleep(0.2)
    over = socket.create_connection(("127.0.0.1", s.port))
    answer = over.recv(100)
    assert answer.startswith(b"HTTP/1.1 503"), answer
    for c in held + [last, over]:
        c.close()
    end = time.time() + 10
    while len(os.listdir("/proc/%d/fd" % s.process.pid)) > fds and time.time() < end:
        time.sleep(0.1)
    assert len(os.listdir("/proc/%d/fd" % s.process.pid)) <= fds
    assert s.call("GET", "/v2/health/live")[0] == 200
    s.stop()


def test_F16_slow_clients():
    n = 2000 if FULL else 300
    s = Server("--access-log", "false", "--header-timeout-ms", "10000" if FULL else "2000", "--stall-timeout-ms", "30000" if FULL else "3000")
    meet_every_batch(s)
    rest = load(s, "--connections", 4, "--requests", 2000)
    before = s.rss()
    slow = []
    for i in range(n):
        c = socket.create_connection(("127.0.0.1", s.port))
        if i % 3 == 0:
            c.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: ")
        elif i % 3 == 1:
            c.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        else:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            c.sendall(b"GET /v2/models/digits/config HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        c.setblocking(False)
        slow.append(c)
    start, during = time.time(), None
    open_ones = set(range(n))
    limit = 45 if FULL else 12
    while open_ones and time.time() - start < limit:
        for i in list(open_ones):
            try:
                if i % 3 < 2:
                    slow[i].send(b"a")
                    if slow[i].recv(1) is not None:
                        open_ones.discard(i)
                else:
                    if time.time() - start > limit * 0.6:      # nobody reads until then: by now it must be gone
                        while slow[i].recv(65536):
                            pass
                        open_ones.discard(i)
            except BlockingIOError:
                pass
            except OSError:
                open_ones.discard(i)
        if during is None:
            during = load(s, "--connections", 4, "--requests", 2000)
        time.sleep(0.5)
    left = [i % 3 for i in open_ones if i % 3 < 2]
    assert not left, "%d slow senders were not ended" % len(left)
    for c in slow:
        c.close()
    print("     p99 alone %d us, beside %d slow clients %d us" % (rest["p99_us"], n, during["p99_us"]))
    assert during["failed"] == 0
    time.sleep(1)
    settled(s, before)
    s.stop()


def test_F17_clients_that_vanish():
    s = Server("--access-log", "false")
    meet_every_batch(s)
    load(s, "--connections", 64, "--requests", 4000)
    before = s.rss()
    total = 0
    while total < (5000 if FULL else 600):
        r = load(s, "--connections", 64, "--requests", 2000, "--vanish", 200, "--seed", total + 1)
        assert r["failed"] == r["unanswered"] == 0, r
        total += r["vanished"]
    time.sleep(0.5)
    page = s.call("GET", "/metrics")[2].decode()
    assert re.search(r'nv_inference_pending_request_count\{[^}]*\} 0\n', page), "requests are left in the queue"
    assert re.search(r"inferd_requests_in_flight 1\n", page), re.search(r"inferd_requests_in_flight.*", page[page.rindex("inferd_requests_in_flight"):]).group(0)
    settled(s, before)
    s.stop()


def test_F8_load_unload_storm():
    clients, each = (32, 1024) if FULL else (16, 12)
    s = Server("--control", "explicit", "--access-log", "false", "--load-model", "digits")
    before = s.rss()
    seen = {}

    def storm(k):
        for i in range(each):
            op = "load" if (i + k) % 2 else "unload"
            status = s.call("POST", "/v2/repository/models/digits/%s" % op, None, None, 120)[0]
            seen[(op, status)] = seen.get((op, status), 0) + 1

    start = time.time()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for f in [pool.submit(storm, k) for k in range(clients)]:
            f.result()
    print("     %s in %.1f s" % (seen, time.time() - start))
    assert all(status in (200, 400, 503) for _, status in seen), seen
    assert s.call("POST", "/v2/repository/models/digits/load")[0] == 200
    assert s.call("POST", "/v2/models/digits/infer", ZERO)[0] == 200
    settled(s, before, 0.05)
    s.stop()


run(globals())
