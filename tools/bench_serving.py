#!/usr/bin/env python3
"""Figures of the whole server, each printed with what it must reach: bench_serving.py [front] [grpc] [batching] [overhead] [steps].

  front     requests/s of a 128-byte identity model, the server pinned to one core (scheduler, worker, metrics and access log on), wrk on the other
  grpc      the same over gRPC by our own driver; of 602 KB pictures (one GlobalAveragePool); and of 602 KB that come back as many
  batching  throughput with 64 closed-loop clients against max_batch_size 1: AlexNet, VGG-16 (weights outgrow the caches), ResNet-50
  overhead  ResNet-50 over HTTP with a binary tensor against the library call (`inferd bench`) in the same minute
  steps     eight requests for pictures of the demo model with samplers, steps and guidance of their own, one after the other and within a tenth of a second; in f32 the bytes must be the same
Needs wrk for `front`; networks come from tools/make_networks.py into build/networks."""
import json, os, random, re, shutil, struct, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))
os.environ.setdefault("INFERD", os.path.join(ROOT, "build/release/inferd"))
from harness import BINARY, Server

LOAD = os.path.join(os.path.dirname(BINARY), "tests/bench/load")
NETWORKS = os.path.join(ROOT, "build/networks")


def network(name):
    path = os.path.join(NETWORKS, name + ".onnx")
    if not os.path.exists(path):
        subprocess.run([sys.executable, os.path.join(ROOT, "tools/make_networks.py"), "--out", NETWORKS, name], check=True, stdout=subprocess.DEVNULL)
    return path


def store_of(name, config):
    store = tempfile.mkdtemp(prefix="inferd-bench-")
    os.makedirs(os.path.join(store, name, "1"))
    shutil.copy(network(name), os.path.join(store, name, "1/model.onnx"))
    open(os.path.join(store, name, "config.pbtxt"), "w").write(config)
    return store


def binary_request(shape, name, output):
    n = 1
    for d in shape:
        n *= d
    j = json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": 4 * n}}], "outputs": [{"name": output, "parameters": {"binary_data": True}}]}).encode()
    random.seed(1)
    return j + struct.pack("<%df" % n, *(random.random() for _ in range(n))), len(j)


def ports(server, name):
    m = server.json("GET", "/v2/models/" + name)[1]
    shape = [1] + [d if d > 0 else 1 for d in m["inputs"][0]["shape"][1:]]
    return shape, m["inputs"][0]["name"], m["outputs"][0]["name"]


def front():
    store = store_of("identity", 'backend: "onnx"\nmax_batch_size: 64\ndynamic_batching { }\n')
    saved = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(saved)})
    s = Server("--threads", "1", store=store)
    os.sched_setaffinity(0, saved)
    body, header = binary_request([1, 32], "input", "output")
    script = tempfile.NamedTemporaryFile("w", suffix=".lua")
    script.write("wrk.method='POST'\nwrk.body='%s'\nwrk.headers['Inference-Header-Content-Length']='%d'\nwrk.headers['Content-Type']='application/octet-stream'\n" % ("".join("\\%03d" % b for b in body), header))
    script.flush()
    url = "http://127.0.0.1:%d/v2/models/identity/infer" % s.port
    for connections in (1, 16, 64, 64, 64):
        out = subprocess.run(["taskset", "-c", str(max(saved)), "wrk", "-t1", "-c%d" % connections, "-d6", "--latency", "-s", script.name, url], capture_output=True, text=True).stdout
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
        p99 = re.search(r"99%\s+(\S+)", out).group(1)
        bad = re.search(r"Non-2xx.*", out)
        print("front: %2d connections %8.0f requests/s, p99 %s%s%s" % (connections, rate, p99, " " + bad.group(0) if bad else "", "   (at 64: 40,000 and 4 ms)" if connections == 64 else ""))
    s.stop()
    shutil.rmtree(store)


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def rpc_messages(s, model, shape):
    """A ModelInferRequest of one FP32 tensor, and the ModelInferResponse that must come: its tensor is what HTTP answers."""
    random.seed(1)
    n = 1
    for d in shape:
        n *= d
    raw = struct.pack("<%df" % n, *(random.random() for _ in range(n)))
    head = json.dumps({"inputs": [{"name": "input", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}], "parameters": {"binary_data_output": True}}).encode()
    _, headers, body = s.call("POST", "/v2/models/%s/infer" % model, head + raw, {"Inference-Header-Content-Length": str(len(head))})
    length = int(headers["inference-header-content-length"])
    dims = lambda shape: field(3, b"".join(map(varint, shape)))
    request = field(1, model.encode()) + field(5, field(1, b"input") + field(2, b"FP32") + dims(shape)) + field(7, raw)
    reply = field(1, model.encode()) + field(2, b"1") + field(5, field(1, b"output") + field(2, b"FP32") + dims(json.loads(body[:length])["outputs"][0]["shape"])) + field(6, body[length:])
    files = []
    for m in (request, reply):
        files.append(tempfile.NamedTemporaryFile())
        files[-1].write(m)
        files[-1].flush()
    return files


def grpc():
    saved = os.sched_getaffinity(0)
    runs = (("identity", [1, 32], ((1, 1), (8, 1), (8, 8), (8, 8), (8, 8)), "40,000"), ("gap", [1, 3, 224, 224], ((1, 1), (8, 1), (8, 1)), "3,500"), ("identity_picture", [1, 150528], ((8, 1),), "none"))
    for name, shape, rounds, want in runs:
        store = store_of(name, 'backend: "onnx"\nmax_batch_size: 64\ndynamic_batching { }\n')
        os.sched_setaffinity(0, {min(saved)})
        s = Server("--threads", "1", store=store)
        os.sched_setaffinity(0, saved)
        request, reply = rpc_messages(s, name, shape)
        for channels, streams in rounds:
            out = subprocess.run([LOAD.replace("/load", "/rpc_load"), "--port", s.grpc.rsplit(":", 1)[1], "--message", request.name, "--expect", reply.name, "--channels", str(channels), "--streams", str(streams),
                                  "--seconds", "4", "--pin", str(max(saved))], capture_output=True, text=True).stdout
            r = json.loads(out)
            print("grpc: %-16s %d channels of %d calls %8.0f requests/s, p50 %.2f ms, p99 %.2f ms, %d wrong   (with 8 channels: %s)" % (name, channels, streams, r["per_second"], r["p50_us"] / 1e3, r["p99_us"] / 1e3, r["errors"], want))
            sys.stdout.flush()
        s.stop()
        shutil.rmtree(store)


def load_command(s, name):
    """The load driver's command line for one binary request of the model, and the file that must live as long."""
    body, header = binary_request(*ports(s, name))
    f = tempfile.NamedTemporaryFile()
    f.write(body)
    f.flush()
    return [LOAD, "--port", str(s.port), "--path", "/v2/models/%s/infer" % name, "--body", f.name, "--header", "Inference-Header-Content-Length: %d" % header], f


def throughput(name, config, clients, seconds):
    store = store_of(name, config)
    s = Server("--access-log", "false", store=store)
    run, kept = load_command(s, name)
    run += ["--connections", str(clients)]
    subprocess.run(run + ["--seconds", "2"], capture_output=True)
    r = json.loads(subprocess.run(run + ["--seconds", str(seconds)], capture_output=True, text=True).stdout)
    stats = s.json("GET", "/v2/models/%s/stats" % name)[1]["model_stats"][0]
    s.stop()
    shutil.rmtree(store)
    return r["per_second"], stats["inference_count"] / max(1, stats["execution_count"]), r


def batching():
    for name, want in (("alexnet", 1.5), ("vgg16", 1.5), ("resnet50", 1.0)):
        seconds = 20 if name == "vgg16" else 10
        pairs = []
        for _ in range(2):      # in turns
            one, _, _ = throughput(name, 'backend: "onnx"\nmax_batch_size: 1\n', 64, seconds)
            many, mean, _ = throughput(name, 'backend: "onnx"\nmax_batch_size: 32\ndynamic_batching { }\n', 64, seconds)
            pairs.append((many / one, one, many, mean))
        ratio, one, many, mean = sorted(pairs)[len(pairs) // 2]
        print("batching: %-9s batch 1 %6.1f/s, dynamic %6.1f/s (mean batch %.1f): %.2f x   (at least %.1f)" % (name, one, many, mean, ratio, want))


def overhead():
    name, rounds = "resnet50", []
    store = store_of(name, 'backend: "onnx"\nmax_batch_size: 1\n')
    s = Server("--access-log", "false", store=store)
    run, kept = load_command(s, name)
    for _ in range(3):
        r = json.loads(subprocess.run(run + ["--connections", "1", "--seconds", "6"], capture_output=True, text=True).stdout)
        stats = s.json("GET", "/v2/models/%s/stats" % name)[1]["model_stats"][0]["inference_stats"]
        b = json.loads(subprocess.run([BINARY, "bench", network(name), "--threads", "2", "--seconds", "6", "--json"], capture_output=True, text=True).stdout)
        rounds.append((r["p50_us"] / 1000 - b["median_ms"], r["p50_us"] / 1000, b["median_ms"]))
    s.stop()
    shutil.rmtree(store)
    d, h, l = sorted(rounds)[1]
    compute = stats["compute_infer"]["ns"] / stats["compute_infer"]["count"] / 1e6
    print("overhead: ResNet-50 over HTTP %.2f ms, library call %.2f ms: %+.2f ms; within the server %.2f ms were computing   (at most 0.5 ms more)" % (h, l, d, compute))


def steps():
    rng = random.Random(3)
    jobs = [json.dumps({"model": "shapes", "prompt": "a large %s circle in the center on a white background" % color, "seed": i, "steps": rng.randrange(15, 40), "sampler": rng.choice(["ddim", "euler", "lms", "unipc"]), "guidance": 3 + i % 3, "size": "64x64"})
            for i, color in enumerate(["red", "blue", "green", "yellow", "red", "blue", "green", "black"])]
    store = tempfile.mkdtemp(prefix="inferd-bench-")
    shutil.copytree(os.path.join(ROOT, "models/shapes"), os.path.join(store, "shapes"))
    for precision, want in (("f32", "1.1"), ("auto", "none")):
        s = Server("--precision", precision, store=store)
        draw = lambda job: s.json("POST", "/v1/images/generations", job)[1]["data"][0]["b64_json"]
        pictures = [draw(job) for job in jobs]

        def later(i, among, delay):
            time.sleep(delay)
            among[i] = draw(jobs[i])
        ratios, same = [], True
        for _ in range(5):
            start = time.time()
            for job in jobs:
                draw(job)
            serial, among = time.time() - start, [None] * len(jobs)
            threads = [threading.Thread(target=later, args=(i, among, rng.random() / 10)) for i in range(len(jobs))]
            start = time.time()
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            ratios.append(serial / (time.time() - start))
            same = same and among == pictures
        s.stop()
        print("steps: %-4s eight requests together %.2f x as quick as one by one (%.2f to %.2f), bytes %s   (at least %s)" % (precision, sorted(ratios)[2], min(ratios), max(ratios), "the same" if same else "not the same", want))
        sys.stdout.flush()
    shutil.rmtree(store)


if __name__ == "__main__":
    which = sys.argv[1:] or ["front", "batching", "overhead"]
    for w in which:
        {"front": front, "grpc": grpc, "batching": batching, "overhead": overhead, "steps": steps}[w]()
        sys.stdout.flush()
