#!/usr/bin/env python3
"""A language model through the whole server: streaming clients at once beside `inferd bench --sequences` on the same file in the same minute.

Prints tokens/s while all of them are being answered, as a share of the library's figure (0.9 is asked), and the median and 99th percentile of the gaps between a
client's tokens (2 x the median is asked). The model must have a vocabulary that text comes out of (tools/bench_texts.py makes such files).
usage: bench_stream.py MODEL.gguf [--clients 16] [--tokens 128] [--threads 2] [--inferd build/release/inferd]
"""
import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def ask(port, number, tokens):
    body = json.dumps({"model": "m", "prompt": "some words %d" % number, "max_tokens": tokens, "ignore_eos": True, "stream": True, "temperature": 1, "seed": number, "cache_prompt": False}).encode()
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return s


def stream(port, clients, tokens):
    """Arrival times of each client's events; one thread, so that the clients cost little."""
    waiting = selectors.DefaultSelector()
    for i in range(clients):
        waiting.register(ask(port, i, tokens), selectors.EVENT_READ, [b"", []])
    times = []
    while waiting.get_map():
        for key, _ in waiting.select():
            data = key.fileobj.recv(65536)
            now = time.monotonic()
            events, rest = (key.data[0] + data).count(b"\ndata: {"), (key.data[0] + data)[-7:]
            key.data[1].extend([now] * events)
            key.data[0] = rest
            if b"[DONE]" in data or not data:
                if not key.data[1]:
                    sys.exit("bench_stream: the server answered %r" % data[:300])
                times.append(key.data[1])
                waiting.unregister(key.fileobj)
                key.fileobj.close()
    return times


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("--clients", type=int, default=16)
    a.add_argument("--tokens", type=int, default=128)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--rounds", type=int, default=2)
    a.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    o = a.parse_args()
    store = tempfile.mkdtemp(prefix="stream-", dir=os.path.dirname(os.path.abspath(o.model)))     # beside the model: a version holds files, not links, and a second name costs nothing
    os.makedirs(os.path.join(store, "m/1"))
    os.link(os.path.abspath(o.model), os.path.join(store, "m/1/model.gguf"))
    with open(os.path.join(store, "m/config.pbtxt"), "w") as f:
        f.write('backend: "llm"\nmax_batch_size: %d\n' % o.clients)
    port = free_port()
    server = subprocess.Popen([o.inferd, "serve", "--store", store, "--http-port", str(port), "--grpc-port", "off", "--metrics-port", "0", "--threads", str(o.threads)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as s:
                    s.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if b" 200 " in s.recv(100):
                        break
            except OSError:
                pass
            time.sleep(0.1)
        stream(port, o.clients, 8)
        for _ in range(o.rounds):
            library = json.loads(subprocess.run([o.inferd, "bench", o.model, "--threads", str(o.threads), "--prompt", "0", "--generate", str(o.tokens), "--sequences", str(o.clients), "--seconds", "3", "--json"],
                                                check=True, stdout=subprocess.PIPE, text=True).stdout)
            times = stream(port, o.clients, o.tokens)
            first, last = max(t[1] for t in times), min(t[-1] for t in times)
            count = sum(1 for t in times for x in t if first < x <= last)
            gaps = sorted(b - a for t in times for a, b in zip(t[1:], t[2:]))
            median, high = statistics.median(gaps), gaps[int(0.99 * len(gaps))]
            rate, mine = count / (last - first), library["decode_tokens_per_s"]
            print("%d clients: %.1f tokens/s, %.2f of the library's %.1f (mode %s); gaps: median %.1f ms, p99 %.1f ms, %.2f x; %d of %d tokens came with text" % (o.clients, rate, rate / mine, mine, library["mode"], median * 1e3, high * 1e3, high / median, sum(map(len, times)) - o.clients, o.clients * o.tokens), flush=True)
    finally:
        server.terminate()
        server.wait()
        subprocess.run(["rm", "-rf", store])


main()
