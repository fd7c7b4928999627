# needs: tritonclient.http
"""Traces: a real collector on loopback gets the spans of a request, in the trace its client is in; the file has Triton's form; settings hold for all or for one model."""
import http.server, json, os, sys, tempfile, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run

import tritonclient.http as triton

ZERO = {"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Takes OTLP/HTTP in JSON; keeps the spans."""

    def __init__(self):
        self.spans, collector = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for r in message["resourceSpans"]:
                    assert {"key": "service.name", "value": {"stringValue": "inferd"}} in r["resource"]["attributes"]
                    collector.spans += [span for scope in r["scopeSpans"] for span in scope["spans"]]
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d/v1/traces" % self.server.server_port

    def wait(self, n):
        end = time.time() + 10
        while len(self.spans) < n and time.time() < end:
            time.sleep(0.05)
        return self.spans


def ask(s, **headers):
    return s.call("POST", "/v2/models/digits/infer", dict(ZERO, id="q1"), {k.replace("_", "-"): v for k, v in headers.items()})[0]


def test_spans_reach_the_collector_in_the_clients_trace():
    c = Collector()
    with Server("--otlp-endpoint", c.url, "--trace-level", "timestamps", "--trace-rate", "1000000") as s:
        ask(s)      # the first of a million
        assert len(c.wait(5)) == 5
        del c.spans[:]
        begun = time.time_ns()
        assert ask(s, traceparent="00-%s-00f067aa0ba902b7-01" % TRACE) == 200
        assert ask(s, traceparent="00-%s-00f067aa0ba902b7-00" % TRACE) == 200      # not sampled there: the rate decides
        assert ask(s, traceparent="00-%s-00f067aa0ba902b7-01" % ("0" * 32)) == 200      # no trace id at all
        spans = c.wait(5)
        time.sleep(1.2)
        assert len(spans) == 5, spans
        root = next(x for x in spans if x["name"] == "inference")
        assert {x["name"] for x in spans} == {"inference", "queue", "compute_input", "compute_infer", "compute_output"}
        assert all(x["traceId"] == TRACE for x in spans) and root["parentSpanId"] == "00f067aa0ba902b7" and root["kind"] == 2
        assert all(x["parentSpanId"] == root["spanId"] for x in spans if x is not root)
        for x in spans:
            a, b = int(x["startTimeUnixNano"]), int(x["endTimeUnixNano"])
            assert int(root["startTimeUnixNano"]) <= a <= b <= int(root["endTimeUnixNano"])
            assert abs(a - begun) < 5e9
        values = {a["key"]: a["value"] for a in root["attributes"]}
        assert values["model.name"] == {"stringValue": "digits"} and values["request.id"] == {"stringValue": "q1"} and values["model.version"] == {"intValue": "1"}, values


def test_a_collector_that_is_gone_hurts_nobody():
    with Server("--otlp-endpoint", "http://127.0.0.1:9/v1/traces", "--trace-level", "timestamps", "--trace-rate", "1") as s:
        assert [ask(s) for _ in range(20)] == [200] * 20
        time.sleep(1.5)
        assert any(line["event"] == "trace" and "not taken" in line["message"] for line in s.logs())
    assert s.process.returncode == 0


def test_the_file_has_tritons_form():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "traces")
        with Server("--trace-file", path, "--trace-level", "timestamps", "--trace-rate", "2", "--trace-count", "3") as s:
            for _ in range(10):
                assert ask(s) == 200
        traces = json.load(open(path if os.path.exists(path) else path + ".0"))
        assert len(traces) == 3, traces
        assert all(t["model_name"] == "digits" and t["request_id"] == "q1" for t in traces)
        stamps = {x["name"]: x["ns"] for x in traces[0]["timestamps"]}
        order = ["HTTP_RECV_START", "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END", "HTTP_SEND_END"]
        assert [stamps[k] for k in order] == sorted(stamps[k] for k in order), stamps


def test_settings_with_the_stock_client():
    with Server() as s:
        c = triton.InferenceServerClient("127.0.0.1:%d" % s.port)
        assert c.get_trace_settings()["trace_level"] == ["OFF"] and c.get_trace_settings()["trace_rate"] == "1000"
        assert c.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "7"})["trace_rate"] == "7"
        assert c.update_trace_settings("digits", {"trace_rate": "3", "trace_count": "5"})["trace_count"] == "5"
        assert c.get_trace_settings("digits")["trace_rate"] == "3" and c.get_trace_settings()["trace_rate"] == "7"
        assert c.update_trace_settings("digits", {"trace_rate": None})["trace_rate"] == "7"
        for bad, says in (({"trace_rate": "0"}, "number from 1"), ({"trace_level": ["TENSORS"]}, "TIMESTAMPS"), ({"trace_file": "/tmp/x"}, "can not be updated"), ({"colour": "1"}, "no trace setting")):
            try:
                c.update_trace_settings(settings=bad)
                assert False, bad
            except triton.InferenceServerException as e:
                assert says in str(e), e
        assert s.call("GET", "/v2/models/nobody/trace/setting")[0] == 400
        c.close()


run(globals())
