# not thread: ThreadSanitizer cannot see how the gRPC core, which is not instrumented, orders what it hands to us
"""TLS on the gRPC port with the stock clients: clients' certificates, reloads, and the limits of connections as they are in plain text."""
# needs: numpy tritonclient.grpc
import socket, ssl, tempfile, threading, time

import grpc
import numpy as np
import tritonclient.grpc as tg
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from certificates import Authority, put
from harness import Server, make_store, run

ca, other = Authority("test authority"), Authority("another authority")
folder = tempfile.mkdtemp(prefix="inferd-tls-")
FIRST, SECOND = ca.issue("first"), ca.issue("second", kind="rsa")
CERT, KEY = put(folder, *FIRST)
TLS = ("--tls-cert", CERT, "--tls-key", KEY)
store = make_store()
server = Server(*TLS, store=store)
PORT = int(server.grpc.rsplit(":", 1)[1])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def read(path):
    return open(path, "rb").read()


def channel(s=server, authority=ca, client=None):
    pair = {"certificate_chain": read(client[0]), "private_key": read(client[1])} if client else {}
    return grpc.secure_channel("localhost:" + s.grpc.rsplit(":", 1)[1], grpc.ssl_channel_credentials(read(authority.pem), **pair), options=[("grpc.use_local_subchannel_pool", 1)])


def live(**how):
    with channel(**how) as c:
        return service_pb2_grpc.GRPCInferenceServiceStub(c).ServerLive(service_pb2.ServerLiveRequest(), timeout=20).live


def refused(**how):
    try:
        live(**how)
    except grpc.RpcError as e:
        return e.code().name == "UNAVAILABLE"
    return False


def context():
    c = ssl.create_default_context(cafile=ca.pem)
    c.set_alpn_protocols(["h2"])
    return c


def shown():
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as raw, context().wrap_socket(raw, server_hostname="localhost") as t:
        return dict(p[0] for p in t.getpeercert()["subject"])["commonName"]


def wait_for(f, seconds=15):
    end = time.time() + seconds
    while not f():
        assert time.time() < end, "it did not come"
        time.sleep(0.1)


def image(n=1):
    x = np.random.default_rng(n).random((n, 1, 28, 28), dtype=np.float32)
    i = tg.InferInput("image", x.shape, "FP32")
    i.set_data_from_numpy(x)
    return i


def test_the_stock_client():
    c = tg.InferenceServerClient("localhost:%d" % PORT, ssl=True, root_certificates=ca.pem)
    plain = Server("--http-port", "off", store=store)
    want = tg.InferenceServerClient(plain.grpc).infer("digits", [image(64)]).as_numpy("logits")
    plain.stop()
    assert c.is_server_ready() and np.array_equal(c.infer("digits", [image(64)]).as_numpy("logits"), want)
    done = []
    c.start_stream(lambda result, error: done.append(error))
    for _ in range(20):
        c.async_stream_infer("digits", [image()])
    c.stop_stream()
    assert done == [None] * 20
    c.close()
    assert any(r.get("peer") == "127.0.0.1" and "ModelInfer" in r.get("path", "") for r in server.logs())


def test_what_is_not_our_tls_is_refused():
    assert refused(authority=other)
    with grpc.insecure_channel("127.0.0.1:%d" % PORT) as c:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(c).ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
            raise AssertionError("plain text was served")
        except grpc.RpcError:
            pass
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=20) as raw, old.wrap_socket(raw):
            raise AssertionError("TLS 1.1 was spoken")
    except (ssl.SSLError, ConnectionError):
        pass
    assert live()


def test_clients_need_a_certificate_when_asked():
    good, late, bad = ca.issue("client", "clientAuth"), ca.issue("late", "clientAuth", expired=True), other.issue("stranger", "clientAuth")
    with Server(*TLS, "--tls-client-ca", ca.pem, store=store) as s:
        assert live(s=s, client=good)
        assert refused(s=s) and refused(s=s, client=late) and refused(s=s, client=bad)


def test_reload_under_load_fails_no_call():
    failed, done, stop = [], [0], threading.Event()

    def ask(fresh):
        c = channel()
        while not stop.is_set():
            if fresh:
                c.close()
                c = channel()
            try:
                service_pb2_grpc.GRPCInferenceServiceStub(c).ServerLive(service_pb2.ServerLiveRequest(), timeout=20)
                done[0] += 1
            except grpc.RpcError as e:
                failed.append(e.details())
        c.close()
    threads = [threading.Thread(target=ask, args=(k % 2 == 0,)) for k in range(4)]
    for t in threads:
        t.start()
    try:
        for name, pair in (("second", SECOND), ("first", FIRST)):
            put(folder, *pair)
            wait_for(lambda: shown() == name)
        open(CERT, "w").write("-----BEGIN CERTIFICATE-----\nbroken\n")
        wait_for(lambda: any("the certificate stays as it was" in r.get("message", "") for r in server.logs()))
        assert shown() == "first"
        put(folder, *FIRST)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not failed and done[0] > 20, (failed[:5], done)


def test_resets_are_counted_for_their_connection():
    def literal(name, value):
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    block = b"\x83\x86" + literal(b":path", b"/inference.GRPCInferenceService/ModelInfer") + literal(b":authority", b"localhost") + literal(b"content-type", b"application/grpc") + literal(b"te", b"trailers")

    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    closed_after = None
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as raw, context().wrap_socket(raw, server_hostname="localhost") as t:
        t.sendall(PREFACE)
        t.settimeout(0.005)
        try:
            for k in range(600):
                t.sendall(frame(1, 4, 2 * k + 1, block) + frame(0, 0, 2 * k + 1, b"\0\0\0\0\x10partial"))
                time.sleep(0.002)
                t.sendall(frame(3, 0, 2 * k + 1, b"\0\0\0\x08"))
                try:
                    if not t.recv(65536):
                        closed_after = k
                        break
                except socket.timeout:
                    pass
        except (ssl.SSLError, ConnectionError):
            closed_after = k
    assert closed_after and closed_after > 150, closed_after
    assert any("reset more than 200 calls" in r.get("message", "") for r in server.logs())
    assert live()


def test_peers_that_do_not_finish_a_handshake_hold_nobody_up():
    began = time.time()
    peers = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(40)]
    for k, p in enumerate(peers):
        p.settimeout(30)
        if k % 2:
            p.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40)
    assert live() and time.time() - began < 5
    for p in peers:
        try:
            while p.recv(100):
                pass
        except ConnectionResetError:
            pass
        p.close()
    assert time.time() - began < 14, time.time() - began
    assert live()


run(globals())
