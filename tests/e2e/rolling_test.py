# release only
"""A rolling restart: three servers behind a real HAProxy, each ended and started again under load, and no request is lost."""
import json, os, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from debian import debian, environment, free_port
from harness import ROOT, Server, run

LOAD = os.path.join(ROOT, "build/release/tests/bench/load")
ROUNDS = 5


def start(port):
    return Server("--http-port", str(port), "--drain-delay", "1", "--access-log", "false", "--threads", "1")


def test_rolling_restart_loses_nothing():
    haproxy = debian("haproxy")
    ports = [free_port() for _ in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        text = open(os.path.join(ROOT, "docker/haproxy.cfg")).read().replace("bind :8000", "bind 127.0.0.1:%d" % ports[0])
        for name, port in zip(("1", "2", "3"), ports[1:]):
            text = text.replace("inferd-%s:8000" % name, "127.0.0.1:%d" % port)
        open(os.path.join(folder, "haproxy.cfg"), "w").write(text)
        servers = [start(port) for port in ports[1:]]
        proxy = subprocess.Popen([haproxy, "-f", os.path.join(folder, "haproxy.cfg")], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1.5)
            body = os.path.join(folder, "body")
            json.dump({"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}]}, open(body, "w"))
            load = subprocess.Popen([LOAD, "--port", str(ports[0]), "--path", "/v2/models/digits/infer", "--body", body, "--connections", "16", "--seconds", "600"], stdout=subprocess.PIPE, text=True)
            for _ in range(ROUNDS):
                for k in range(3):
                    assert servers[k].stop() == 0, "a server did not end well"
                    servers[k] = start(ports[1 + k])
                    time.sleep(1.2)      # two checks: the proxy has seen it
            load.terminate()
            result = json.loads(load.communicate()[0])
        finally:
            proxy.kill()
            proxy.wait()
        print("     %d restarts, %d requests, p99 %d us, at most %d us" % (3 * ROUNDS, result["requests"], result["p99_us"], result["max_us"]))
        assert result["failed"] == result["unanswered"] == result["mixed"] == 0 and result["ok"] == result["requests"] > 1000, result


run(globals())
