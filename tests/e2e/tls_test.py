"""TLS on the HTTP ports with real clients: curl, Python's own, tritonclient, openai; clients' certificates, reloads, hostile peers. gRPC's is in tls_grpc_test.py."""
# needs: numpy tritonclient.http openai
import http.client, json, os, socket, ssl, subprocess, tempfile, threading, time

import numpy as np
import openai
import tritonclient.http as th

from certificates import Authority, put
from harness import BINARY, Server, make_store, run

ca, other = Authority("test authority"), Authority("another authority")
folder = tempfile.mkdtemp(prefix="inferd-tls-")
FIRST, SECOND = ca.issue("first"), ca.issue("second", kind="rsa")
CERT, KEY = put(folder, *FIRST)
TLS = ("--tls-cert", CERT, "--tls-key", KEY, "--grpc-port", "off")
store = make_store(("digits", "dictionary"))
server = Server(*TLS, "--header-timeout-ms", "1500", "--http-max-input-size", "2000000", store=store)


def context(authority=ca, client=None):
    c = ssl.create_default_context(cafile=authority.pem)
    if client:
        c.load_cert_chain(*client)
    return c


def get(s=server, path="/v2/health/ready", c=None, port=None):
    connection = http.client.HTTPSConnection("127.0.0.1", port or s.port, context=c or context(), timeout=20)
    try:
        connection.request("GET", path)
        r = connection.getresponse()
        return r.status, r.read()
    finally:
        connection.close()


def shown(s=server, port=None):
    """The common name of the certificate that a new connection is shown."""
    with socket.create_connection(("127.0.0.1", port or s.port), timeout=20) as raw, context().wrap_socket(raw, server_hostname="localhost") as t:
        return dict(p[0] for p in t.getpeercert()["subject"])["commonName"]


def refused(f):
    try:
        f()
    except (ssl.SSLError, ConnectionError, http.client.HTTPException) as e:
        return type(e).__name__ + ": " + str(e)
    raise AssertionError("it was served")


def metrics_port(s=server):
    return int(s.metrics.rsplit(":", 1)[1])


def test_curl_and_python():
    out = subprocess.run(["curl", "-sS", "--cacert", ca.pem, "https://localhost:%d/v2" % server.port], capture_output=True, text=True)
    assert json.loads(out.stdout)["name"] == "inferd", out
    assert get() == (200, b"") and get(path="/v2/nothing")[0] == 404
    assert get(port=metrics_port(), path="/metrics")[0] == 200 and get(port=metrics_port())[0] == 200
    assert shown() == "first" and shown(port=metrics_port()) == "first"


def test_the_health_command_speaks_tls():
    assert subprocess.run([BINARY, "health", "--port", str(metrics_port())]).returncode == 0
    assert subprocess.run([BINARY, "health", "--port", str(server.port), "--live"]).returncode == 0


def test_tritonclient():
    x = np.random.default_rng(1).random((64, 1, 28, 28), dtype=np.float32)
    c = th.InferenceServerClient("localhost:%d" % server.port, ssl=True, ssl_options={"ca_certs": ca.pem}, ssl_context_factory=lambda: context(), concurrency=4)
    i = th.InferInput("image", x.shape, "FP32")
    i.set_data_from_numpy(x)
    want = c.infer("digits", [i]).as_numpy("logits")
    for waiting in [c.async_infer("digits", [i]) for _ in range(40)]:
        assert np.array_equal(waiting.get_result().as_numpy("logits"), want)
    c.close()


def test_openai_streams():
    c = openai.OpenAI(base_url="https://localhost:%d/v1" % server.port, api_key="none", http_client=openai.DefaultHttpxClient(verify=context()))
    ask = dict(model="dictionary", temperature=0, messages=[{"role": "user", "content": "Define mention."}])
    whole = c.chat.completions.create(**ask).choices[0].message.content
    pieces = [p.choices[0].delta.content or "" for p in c.chat.completions.create(stream=True, **ask) if p.choices]
    assert len(whole) > 10 and "".join(pieces) == whole and len(pieces) > 3


def test_what_is_not_our_tls_is_refused():
    assert "CERTIFICATE_VERIFY_FAILED" in refused(lambda: get(c=context(other)))
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    refused(lambda: get(c=old))
    for ciphers in ("aNULL:@SECLEVEL=0", "kRSA:@SECLEVEL=0", "AES128-SHA:@SECLEVEL=0", "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"):
        weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        weak.check_hostname, weak.verify_mode = False, ssl.CERT_NONE
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(ciphers)
        refused(lambda: get(c=weak))
    twelve = context()
    twelve.maximum_version = ssl.TLSVersion.TLSv1_2
    assert get(c=twelve) == (200, b"")
    assert b"200" not in server.raw(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")[:20]
    assert get() == (200, b"")


def test_a_body_beyond_its_limit_is_answered_within_the_session():
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw, context().wrap_socket(raw, server_hostname="localhost") as t:
        t.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n")
        assert t.recv(12) == b"HTTP/1.1 413"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw, context().wrap_socket(raw, server_hostname="localhost") as t:
        t.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        out = b""
        try:
            for _ in range(40):
                t.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except (ssl.SSLError, ConnectionError):
            pass
        try:
            while piece := t.recv(65536):
                out += piece
        except (ssl.SSLError, ConnectionError):
            pass
        assert out[:12] in (b"HTTP/1.1 413", b""), out[:100]      # what was sent meanwhile may have reset the connection before the answer was read
    assert get() == (200, b"")


def test_peers_that_do_not_finish_a_handshake_hold_nobody_up():
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"      # the beginning of a ClientHello
    began = time.time()
    peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    for k, p in enumerate(peers):
        p.settimeout(8)
        if k % 2:
            p.sendall(hello)
    slowest = 0
    for _ in range(10):
        at = time.time()
        assert get() == (200, b"")
        slowest = max(slowest, time.time() - at)
    for p in peers:
        try:
            got = p.recv(100)
        except ConnectionResetError:
            got = b""
        assert b"HTTP" not in got
        p.close()
    assert time.time() - began < 6 and slowest < 2, (time.time() - began, slowest)


def test_clients_need_a_certificate_when_asked():
    good, late, bad, server_only = ca.issue("client", "clientAuth"), ca.issue("late", "clientAuth", expired=True), other.issue("stranger", "clientAuth"), ca.issue("no-client", "serverAuth")
    with Server(*TLS, "--tls-client-ca", ca.pem, store=store) as s:
        assert get(s, c=context(client=good)) == (200, b"")
        for c in (context(), context(client=late), context(client=bad), context(client=server_only)):
            refused(lambda: get(s, c=c))
        assert get(s, port=metrics_port(s)) == (200, b"")      # probes have no certificate
        out = subprocess.run(["curl", "-sS", "--cacert", ca.pem, "--cert", good[0], "--key", good[1], "https://localhost:%d/v2" % s.port], capture_output=True, text=True)
        assert json.loads(out.stdout)["name"] == "inferd", out
        assert subprocess.run(["curl", "-s", "--cacert", ca.pem, "https://localhost:%d/v2" % s.port], capture_output=True).returncode != 0


def wait_for(f, seconds=10):
    end = time.time() + seconds
    while not f():
        assert time.time() < end, "it did not come"
        time.sleep(0.1)


def test_reload_under_load_fails_no_request():
    failed, done, stop = [], [0], threading.Event()

    def ask(fresh):
        c = http.client.HTTPSConnection("127.0.0.1", server.port, context=context(), timeout=20)
        while not stop.is_set():
            try:
                if fresh:
                    c = http.client.HTTPSConnection("127.0.0.1", server.port, context=context(), timeout=20)
                c.request("GET", "/v2/models/digits")
                r = c.getresponse()
                r.read()
                if r.status != 200:
                    failed.append(r.status)
                done[0] += 1
            except Exception as e:
                failed.append(repr(e))
            if fresh:
                c.close()
    threads = [threading.Thread(target=ask, args=(k % 2 == 0,)) for k in range(4)]
    for t in threads:
        t.start()
    try:
        for name, pair in (("second", SECOND), ("first", FIRST), ("second", SECOND)):
            put(folder, *pair)
            wait_for(lambda: shown() == name)
        put(folder, SECOND[0], FIRST[1])      # a key of another certificate
        wait_for(lambda: any("is not the key of the certificate" in r.get("message", "") for r in server.logs()))
        open(CERT, "w").write("-----BEGIN CERTIFICATE-----\nbroken\n")
        wait_for(lambda: any("holds no certificate that can be read" in r.get("message", "") for r in server.logs()))
        assert shown() == "second"
        put(folder, *FIRST)
        wait_for(lambda: shown() == "first")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not failed and done[0] > 50, (failed[:5], done)


def start(*flags):
    """The words of a start that fails."""
    out = subprocess.run([BINARY, "serve", "--store", store, "--http-port", "0", "--grpc-port", "off", "--metrics-port", "off"] + list(flags), capture_output=True, text=True, timeout=60)
    assert out.returncode in (1, 2), out
    return out.stderr.splitlines()[-1] if out.returncode == 2 else [l for l in out.stderr.splitlines() if l.startswith("inferd serve:")][-1]


def test_what_cannot_be_used_is_said_at_start():
    cert, key = ca.issue("mode")
    assert "go together" in start("--tls-cert", cert)
    assert "needs --tls-cert" in start("--tls-client-ca", ca.pem)
    os.chmod(key, 0o644)
    assert "can be read or changed by others (mode 644)" in start("--tls-cert", cert, "--tls-key", key)
    os.chmod(key, 0o600)
    assert "cannot be opened" in start("--tls-cert", cert + ".not", "--tls-key", key)
    assert "is not a PEM file" in start("--tls-cert", "/etc/hostname", "--tls-key", key)
    assert "is not the key of the certificate" in start("--tls-cert", cert, "--tls-key", FIRST[1])
    assert "holds no certificate" in start("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key)
    locked = os.path.join(folder, "locked.key")
    subprocess.run(["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:secret"], check=True, capture_output=True)
    os.chmod(locked, 0o600)
    assert "is encrypted" in start("--tls-cert", cert, "--tls-key", locked)
    weak, weak_cert = os.path.join(folder, "weak.key"), os.path.join(folder, "weak.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-keyout", weak, "-out", weak_cert, "-subj", "/CN=weak"], check=True, capture_output=True)
    os.chmod(weak, 0o600)
    assert "too short" in start("--tls-cert", weak_cert, "--tls-key", weak)


run(globals())
