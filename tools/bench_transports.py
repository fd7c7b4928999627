#!/usr/bin/env python3
"""Latency of HTTP and gRPC beside the real tritonserver's (tools/compat.py starts both), in one table: requests/s, median and p99 at 1, 8 and 64 requests at once.

Two questions: a readiness call, which is transport alone on both sides, and an identity of three floats. tritonserver (PyPI's nvidia-pytriton) has no ONNX backend: its identity is its Python
backend's, so the second question compares what an engineer gets from either box, not the transports. Both servers stay up and take turns; our own drivers (tests/bench) ask.
usage: tools/venv.sh numpy onnx grpcio, then build/venv/bin/python tools/bench_transports.py [--seconds 2] [--rounds 2]"""
import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import tempfile

import compat
import grpc
from bench_serving import field, varint

DRIVERS = os.path.join(compat.ROOT, "build/release/tests/bench")
INFER, READY = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ServerReady"
LOADS = ((1, 1), (8, 1), (8, 8))                 # channels or connections, and calls at once on each


def kept(data):
    f = tempfile.NamedTemporaryFile()
    f.write(data)
    f.flush()
    return f


def ask_grpc(port, method, message):
    with grpc.insecure_channel("127.0.0.1:%d" % port) as channel:
        return channel.unary_unary(method, request_serializer=lambda m: m, response_deserializer=lambda m: m)(message)


def questions():
    floats = struct.pack("<3f", 1, 2, 3)
    head = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    dims = field(3, varint(1) + varint(3))
    message = field(1, b"type_fp32") + field(5, field(1, b"x") + field(2, b"FP32") + dims) + field(7, floats)
    return (("ready", "/v2/health/ready", None, None, READY, b""), ("identity", "/v2/models/type_fp32/infer", head + floats, len(head), INFER, message))


def drive(command):
    r = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    wrong = r.get("errors", 0) + r.get("failed", 0)
    if wrong:
        raise SystemExit("%d of the answers were wrong: %s" % (wrong, " ".join(command)))
    return r["per_second"], r["p50_us"] / 1e3, r["p99_us"] / 1e3


def measure(server, transport, question, load, seconds):
    _, path, body, head, method, message = question
    channels, streams = load
    if transport == "http":
        files = [kept(body or b"")]
        command = [os.path.join(DRIVERS, "load"), "--port", str(server[1]), "--path", path, "--connections", str(channels * streams), "--seconds", str(seconds)]
        if body:
            command += ["--body", files[0].name, "--header", "Inference-Header-Content-Length: %d" % head]
    else:
        files = [kept(message), kept(ask_grpc(server[3], method, message))]
        command = [os.path.join(DRIVERS, "rpc_load"), "--port", str(server[3]), "--method", method, "--message", files[0].name, "--expect", files[1].name, "--channels", str(channels), "--streams", str(streams), "--seconds", str(seconds)]
    return drive(command)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--rounds", type=int, default=2)
    o = p.parse_args()
    store = tempfile.mkdtemp(prefix="inferd-transports-")
    compat.make_models(store)
    servers = dict(zip(("tritonserver", "inferd"), compat.start(store)))
    try:
        print("%-9s %-5s %7s  %-13s %10s %8s %8s" % ("question", "by", "at once", "server", "a second", "p50 ms", "p99 ms"))
        for question in questions():
            for transport in ("http", "grpc"):
                for load in LOADS:
                    runs = {name: [] for name in servers}
                    for _ in range(o.rounds):
                        for name, server in servers.items():
                            runs[name].append(measure(server, transport, question, load, o.seconds))
                    for name in servers:
                        print("%-9s %-5s %7d  %-13s %10.0f %8.2f %8.2f" % (question[0], transport, load[0] * load[1], name, *(statistics.median(r[k] for r in runs[name]) for k in range(3))), flush=True)
    finally:
        for server in servers.values():
            server[0].terminate()
        for server in servers.values():
            server[0].wait(60)
        shutil.rmtree(store)


if __name__ == "__main__":
    main()
