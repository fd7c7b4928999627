"""What the server refuses, and how: requirements R1 to R8, R18 to R20, R27 to R29, each just below and just above its limit."""
import base64, gzip, hashlib, json, os, socket, subprocess, tempfile, threading, time, zlib

from harness import BINARY, Server, make_store, run

server = Server("--control", "explicit", "--load-model", "digits", "--header-timeout-ms", "1500", "--idle-timeout-ms", "3000", "--max-connections", "300")
ZERO = {"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}]}
INFER = "/v2/models/digits/infer"


def alive():
    start = time.time()
    assert server.call("GET", "/v2/health/live")[0] == 200
    assert time.time() - start < 0.5


def status_of(data, **kw):
    out = server.raw(data, **kw)
    return int(out.split(b" ", 2)[1]) if out.startswith(b"HTTP/1.1 ") else None


def head(method="GET", path="/v2", more=b"", host=b"Host: localhost\r\n"):
    return method.encode() + b" " + path.encode() + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n" + more + b"\r\n"


def test_R5_request_line_and_headers():
    assert status_of(head(path="/v2?x=" + "a" * 8000)) == 200
    assert status_of(head(path="/v2?x=" + "a" * 8300)) == 414
    assert status_of(head(more=b"X-A: " + b"a" * 31000 + b"\r\n")) == 200
    assert status_of(head(more=b"X-A: " + b"a" * 33000 + b"\r\n")) == 431
    assert status_of(head(more=b"".join(b"X-%d: 1\r\n" % i for i in range(90)))) == 200
    assert status_of(head(more=b"".join(b"X-%d: 1\r\n" % i for i in range(120)))) == 431
    alive()


def test_R5_one_reading_of_a_body():
    body = json.dumps(ZERO).encode()
    post = lambda more: head("POST", INFER, more) + body
    n = b"Content-Length: %d\r\n" % len(body)
    assert status_of(post(n)) == 200
    assert status_of(post(n + b"Transfer-Encoding: chunked\r\n")) in (400, None)
    assert status_of(post(n + n)) in (400, None)
    assert status_of(post(b"Content-Length: +%d\r\n" % len(body))) in (400, None)
    assert status_of(post(b"Content-Length: -1\r\n")) in (400, None)
    assert status_of(post(b"Content-Length: 0x10\r\n")) in (400, None)
    assert status_of(post(b"Transfer-Encoding: gzip, chunked\r\n")) in (400, None)
    assert status_of(head(host=b"")) == 400
    assert status_of(head(host=b"Host: localhost\r\nHost: localhost\r\n")) == 400
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 100]), body[i:i + 100]) for i in range(0, len(body), 100)) + b"0\r\n\r\n"
    assert status_of(head("POST", INFER, b"Transfer-Encoding: chunked\r\n") + chunked) == 200
    alive()


def test_R5_slow_headers_and_bodies_are_ended():
    def trickle(first, piece, every, limit):
        s = socket.create_connection(("127.0.0.1", server.port))
        s.settimeout(every)
        s.sendall(first)
        start = time.time()
        while time.time() - start < limit:
            try:
                s.sendall(piece)
                if not s.recv(4096):
                    return time.time() - start
                return time.time() - start
            except socket.timeout:
                continue
            except OSError:
                return time.time() - start
        return None
    took = trickle(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a", 0.1, 6)
    assert took and took < 4, took
    took = trickle(head("POST", INFER, b"Content-Length: 100000\r\n"), b"1", 0.1, 6)
    assert took and took < 4, took
    # a keep-alive connection that is idle, and one that begins a second request and never ends it
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert s.recv(4096).startswith(b"HTTP/1.1 200")
    s.settimeout(8)
    start = time.time()
    assert s.recv(4096) == b"" and 2 < time.time() - start < 6
    alive()


def test_R4_host_and_origin():
    assert status_of(head(host=b"Host: evil.example\r\n")) == 421
    for good in (b"localhost:8000", b"127.0.0.1", b"[::1]:99", b"LOCALHOST"):
        assert status_of(head(host=b"Host: " + good + b"\r\n")) == 200, good
    for bad in (b"localhost.evil.example", b"127.0.0.1.evil.example", b"localhost:80:80", b"[::1", b"10.0.0.1", b""):
        assert status_of(head(host=b"Host: " + bad + b"\r\n")) in (421, 400), bad
    assert server.call("POST", "/v2/repository/index", b"", {"Origin": "http://evil.example"})[0] == 403
    assert server.call("POST", "/v2/repository/index", b"", {"Origin": "null"})[0] == 403
    assert server.call("POST", "/v2/repository/index", b"", {"Origin": "http://localhost:3000"})[0] == 200
    assert server.call("GET", "/v2", None, {"Origin": "http://evil.example"})[0] == 200
    assert "access-control-allow-origin" not in server.call("GET", "/v2", None, {"Origin": "http://localhost"})[1]


def test_R6_json_depth_and_text():
    def nested(n):
        return server.call("POST", INFER, '{"inputs":%s%s}' % ("[" * n, "]" * n))
    assert nested(50)[0] == 400 and b"nest" not in nested(50)[2]
    assert nested(120)[0] == 400 and b"deep" in nested(120)[2] or b"nest" in nested(120)[2]
    before = server.rss()
    start = time.time()
    assert server.call("POST", INFER, b"[" * 250000)[0] == 400
    assert time.time() - start < 0.5 and server.rss() - before < 4 << 20
    assert server.call("POST", INFER, b'{"inputs":[],"id":"\xff"}')[0] == 400
    assert server.call("POST", INFER, b'{"inputs":[],"id":"\\ud800"}')[0] == 400
    assert server.call("POST", INFER, b'{"inputs":[],"inputs":[]}')[0] == 400
    alive()


def test_R7_body_limits_and_encodings():
    big = 64 << 20
    assert status_of(head("POST", INFER, b"Content-Length: %d\r\n" % (big + 1))) == 413
    body = json.dumps(ZERO).encode()
    want = server.call("POST", INFER, body)[2]
    for name, data in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        status, _, got = server.call("POST", INFER, data, {"Content-Encoding": name})
        assert status == 200 and got == want
        assert server.call("POST", INFER, data[:-9], {"Content-Encoding": name})[0] == 400
    assert server.call("POST", INFER, body, {"Content-Encoding": "br"})[0] == 415
    bomb = gzip.compress(b" " * (100 << 20), 9)
    before = server.rss()
    assert server.call("POST", INFER, bomb, {"Content-Encoding": "gzip"})[0] == 413
    assert server.rss() - before < 80 << 20
    # chunked past the cap of an administrative body: told, then closed
    out = server.raw(head("POST", "/v2/repository/index", b"Transfer-Encoding: chunked\r\n") + b"%x\r\n" % (2 << 20) + b" " * (2 << 20) + b"\r\n0\r\n\r\n", timeout=5)
    assert out.startswith(b"HTTP/1.1 413"), out[:60]
    status, headers, data = server.call("POST", INFER, {"inputs": [{"name": "image", "shape": [32, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784 * 32}]}, {"Accept-Encoding": "gzip"})
    assert headers.get("content-encoding") == "gzip" and json.loads(gzip.decompress(data))["outputs"][0]["shape"] == [32, 10]
    alive()


def test_R8_connections_leave_room_for_the_others():
    """HTTP takes what the descriptors leave after the reserve, the metrics port's share and what gRPC may take."""
    for grpc, most in (("0", 2000 - 256 - 256 - 400), ("off", 2000 - 256 - 256)):
        out = subprocess.Popen(["bash", "-c", "ulimit -n 2000 && exec %s serve --store %s --http-port 0 --grpc-port %s --metrics-port 0" % (BINARY, server.store, grpc)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert out.stdout.readline().startswith("inferd ready")
        out.terminate()
        assert "connections are limited to %d:" % most in out.communicate(timeout=40)[1], (grpc, most)


def test_R8_too_many_connections():
    held = []
    try:
        refused = None
        for i in range(320):
            s = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            held.append(s)
        time.sleep(0.3)
        refused = sum(1 for s in held if s.fileno() >= 0 and _answer(s).startswith(b"HTTP/1.1 503"))
        assert refused and refused >= 20, refused
    finally:
        for s in held:
            s.close()
    time.sleep(0.5)
    alive()


def _answer(s):
    s.setblocking(False)
    try:
        return s.recv(100)
    except OSError:
        return b""


def test_methods_paths_and_errors():
    for method, path, want, text in (
            ("GET", "/", 404, "Not Found"), ("GET", "/v2/nothing", 404, "Not Found"), ("GET", "/v3", 404, "Not Found"), ("POST", "/v2", 405, "Method Not Allowed"),
            ("GET", INFER, 405, "Method Not Allowed"), ("DELETE", "/v2/models/digits", 405, "Method Not Allowed"), ("GET", "/v2/models/nothing", 404, None),
            ("GET", "/v2/models/digits/versions/99", 404, None), ("GET", "/v2/models/digits/versions/x", 404, "Not Found"),
            ("GET", "/v2/models/digits/versions/99999999999", 400, None), ("POST", "/v2/repository/other/models/digits/load", 501, "'repository_name' specification is not supported")):
        status, answer = server.json(method, path)
        assert status == want and isinstance(answer["error"], str) and (text is None or answer["error"] == text), (method, path, status, answer)


def test_R20_names_stay_in_the_store():
    outside = "/tmp/inferd-outside-%d" % os.getpid()
    for name in ("..", "../x", "%2e%2e", "..%2f..%2fetc", "a/../../b", "a%00b", ".inferd", "-x", "x" * 129, "a b", "%ff"):
        for method, path in (("GET", "/v2/models/%s" % name), ("POST", "/v2/repository/models/%s/load" % name), ("POST", "/v2/repository/models/%s/unload" % name),
                             ("PUT", "/admin/models/%s/versions/1/files/model.onnx" % name), ("PUT", "/admin/models/digits/versions/2/files/%s" % name)):
            body = b"x" if method == "PUT" else None
            try:
                status, _, _ = server.call(method, path.replace(" ", "%20"), body, {"X-Digest": "sha256=" + hashlib.sha256(b"x").hexdigest()} if body else {})
            except Exception as e:      # closed without an answer is a refusal as well
                status = 400
            if "files/.inferd" in path or "files/-x" in path or name == ".inferd":
                assert status >= 400, (method, path, status)
            assert status in (400, 404, 405, 403, 409, 421), (method, path, status)
    assert not os.path.exists(outside)
    assert sorted(os.listdir(server.store)) in (["digits"], [".inferd", "digits"]), os.listdir(server.store)
    alive()


def test_R18_pictures():
    def png(w, h):
        return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + w.to_bytes(4, "big") + h.to_bytes(4, "big") + b"\x08\0\0\0\0" + zlib.crc32(b"IHDR" + w.to_bytes(4, "big") + h.to_bytes(4, "big") + b"\x08\0\0\0\0").to_bytes(4, "big")
    good = open(os.path.join(os.path.dirname(server.store) and server.store, "digits/samples/4_0.png"), "rb").read()
    c = "/v2/models/digits/classify"
    assert server.call("POST", c, good)[0] == 200
    assert server.call("POST", c, good[:150])[0] == 400
    assert server.call("POST", c, b"")[0] == 400
    assert server.call("POST", c, b"GIF89a" + good)[0] == 400
    before = server.rss()
    assert server.call("POST", c, png(100000, 100000))[0] in (400, 413)
    assert server.rss() - before < 8 << 20
    assert server.call("POST", c + "?k=0", good)[0] == 400
    assert server.call("POST", c + "?k=11", good)[0] == 200
    alive()


def test_R28_log_lines_cannot_be_forged():
    server.call("GET", "/v2/models/x%22%0a%7B%22event%22:%22forged%22%7D")
    server.json("POST", INFER, {"id": "line\n{\"event\":\"forged\"}\u2028", "inputs": []})
    time.sleep(0.2)
    raw = open(server.log.name).read()
    assert all(json.loads(line) for line in raw.splitlines() if '"event"' in line)
    assert not any(r.get("event") == "forged" for r in server.logs())


def test_deadline_header():
    status, headers, data = server.call("POST", INFER, ZERO, {"X-Request-Timeout-Ms": "5000"})
    assert status == 200
    assert server.call("POST", INFER, ZERO, {"X-Request-Timeout-Ms": "soon"})[0] == 400


def start_fails(*flags):
    p = subprocess.run([BINARY, "serve", "--store", server.store, "--http-port", "0", "--metrics-port", "0"] + list(flags), capture_output=True, text=True, timeout=30)
    return p.returncode, p.stderr


def test_R1_exposure_needs_keys():
    code, text = start_fails("--host", "0.0.0.0")
    assert code == 1 and "--api-keys" in text, text
    code, text = start_fails("--store", "/nonexistent")
    assert code == 1 and "nonexistent" in text
    code, text = start_fails("--nonsense")
    assert code == 2 and "--nonsense" in text
    code, text = start_fails("--http-port", "70000")
    assert code == 2 and "65535" in text


def test_R2_keys_and_scopes():
    keys = tempfile.NamedTemporaryFile("w", suffix=".keys")
    for name, scopes in (("alice", "infer"), ("bob", "read"), ("carol", "admin"), ("dave", "infer,read,admin")):
        keys.write("%s %s %s\n" % (hashlib.sha256((name + "-secret").encode()).hexdigest(), scopes, name))
    keys.flush()
    with Server("--api-keys", keys.name, "--control", "explicit", "--load-model", "digits") as s:
        def status(method, path, who=None, body=None):
            return s.call(method, path, body, {"Authorization": "Bearer %s-secret" % who} if who else {})[0]
        assert status("GET", "/v2/health/live") == 200 and status("GET", "/v2/health/ready") == 200
        for method, path, body, right in (("POST", INFER, json.dumps(ZERO), ("alice", "dave")), ("GET", "/v2", None, ("bob", "dave")), ("GET", "/metrics", None, ("bob", "dave")),
                                          ("POST", "/v2/repository/models/digits/load", None, ("carol", "dave")), ("GET", "/admin/models", None, ("carol", "dave"))):
            assert status(method, path, None, body) == 401
            assert status(method, path, "mallory", body) == 401
            for who in ("alice", "bob", "carol", "dave"):
                got = status(method, path, who, body)
                assert (got == 200) if who in right else (got == 403), (method, path, who, got)
        # a key added to the file works after SIGHUP
        assert status("GET", "/v2", "erin") == 401
        keys.write("%s read erin\n" % hashlib.sha256(b"erin-secret").hexdigest())
        keys.flush()
        s.process.send_signal(1)
        time.sleep(0.5)
        assert status("GET", "/v2", "erin") == 200
        assert any(r["event"] == "access" and r.get("who") == "dave" for r in s.logs())


run(globals())
