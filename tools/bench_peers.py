#!/usr/bin/env python3
"""inferd, onnxruntime and OpenVINO side by side: same file, same input, same threads on the same cores, one after the other in every round.

  bench_peers.py [--arms inferd:f32,onnxruntime:f32,openvino:f32,inferd:bf16,openvino:bf16,inferd:auto] [--threads 2] [--rounds 5] [--seconds 1] [--batch 1]
                 [NAME or FILE.onnx]...      (resnet50 mobilenet_v2 alexnet)

A name that ends in _int8 is a QDQ file of make_quantised.py (build/networks/NAME/model.onnx); its arms are inferd:int8,onnxruntime:int8,openvino:int8, each side running the same file as it does by
itself, and the answers of inferd and onnxruntime must agree to
0.25 (relative L2, printed: a quantum here and there, carried on through the layers; docs/NETWORKS.md).
An arm is a side and the precision it is asked for; OpenVINO's own choice on a machine with AMX is bf16, onnxruntime has f32 only. Names are made by make_networks.py
when they are missing. First the answers are compared (`inferd check`, 1e-4 of the largest, f32), then rounds of timed runs: `inferd bench --json`, and the others in processes of their
own, so that none runs while another is timed. Printed are the medians of the rounds' medians, and how many times as fast inferd is: in each precision as the fastest other side in
that precision, and by its own choice (auto) as each other side's; then what opening the file took (inferd's auto: with its trial) and the most memory that the file
and its runs added to a process in which the libraries were loaded. Status 1 when answers differ or a ratio at equal precision is below --least.
Packages that this interpreter lacks are taken from the virtual environment build/venv (tools/venv.sh).
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ARMS = "inferd:f32,onnxruntime:f32,openvino:f32,inferd:bf16,openvino:bf16,inferd:auto"
DISTURBED = 0.06      # cores that others may use during a round
ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))


def use_environment():
    """Goes on in build/venv when this interpreter lacks a package."""
    try:
        import numpy, onnx, onnxruntime, openvino  # noqa: F401
        return
    except ImportError:
        pass
    python = os.path.join(ROOT, "build/venv/bin/python")
    if os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(ROOT, "build/venv")):
        sys.exit("bench_peers: build/venv lacks packages; remove it and start again")
    subprocess.check_call([os.path.join(ROOT, "tools/venv.sh"), "onnx", "onnxruntime", "openvino"])
    os.execv(python, [python, *sys.argv])


def make_input(inputs, batch):
    """inputs: (name, shape whose free dimensions are no numbers, is it float)"""
    import numpy as np

    rng = np.random.default_rng(1)
    feed = {}
    for name, shape, floating in inputs:
        shape = [d if isinstance(d, int) else batch if i == 0 else 128 for i, d in enumerate(shape)]
        feed[name] = rng.standard_normal(shape).astype(np.float32) if floating else rng.integers(0, 2, shape).astype(np.int64)
    return feed


def open_onnxruntime(path, threads, batch, cores):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(c + 1) for c in cores[1:threads]))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = make_input([(v.name, v.shape, "float" in v.type) for v in session.get_inputs()], batch)
    return feed, [o.name for o in session.get_outputs()], lambda: session.run(None, feed)


def open_openvino(path, threads, batch, precision):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    feed = make_input([(v.any_name, [d.get_length() if d.is_static else None for d in v.partial_shape], v.element_type.is_real()) for v in model.inputs], batch)
    model.reshape({v.any_name: list(feed[v.any_name].shape) for v in model.inputs})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision not in ("auto", "int8"):
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return feed, [], lambda: request.infer(feed)


def peak_mb():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def peer(args, cores):
    """A side of its own: answers every line "SECONDS" on standard input with a JSON list of milliseconds; "save DIR" writes a test data set; "cost": [ms of opening, MB of memory]."""
    side, precision = args.peer_arm.split(":")
    __import__(side)
    before, begun = peak_mb(), time.perf_counter()
    if side == "onnxruntime":
        os.sched_setaffinity(0, {cores[0]})
        feed, outputs, run = open_onnxruntime(args.peer, args.threads, args.batch, cores)
    else:
        os.sched_setaffinity(0, set(cores[:args.threads]))
        feed, outputs, run = open_openvino(args.peer, args.threads, args.batch, precision)
    opened = 1e3 * (time.perf_counter() - begun)
    for line in sys.stdin:
        words = line.split(maxsplit=1)
        if words[0] == "cost":
            print(json.dumps([opened, peak_mb() - before]), flush=True)
            continue
        if words[0] == "save":
            from onnx import numpy_helper

            folder = words[1].strip()
            os.makedirs(folder, exist_ok=True)
            answers = list(zip(outputs, run()))
            for kind, tensors in ("input", list(feed.items())), ("output", answers):
                for i, (name, array) in enumerate(tensors):
                    with open(os.path.join(folder, f"{kind}_{i}.pb"), "wb") as f:
                        f.write(numpy_helper.from_array(array, name).SerializeToString())
            print(json.dumps([max(float(abs(array).max()) for _, array in answers)]), flush=True)
            continue
        for _ in range(3):
            run()
        times, end = [], time.perf_counter() + float(words[0])
        while time.perf_counter() < end or not times:
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


def ask(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit("bench_peers: a peer's process ended")
    return json.loads(answer)


def compare(inferd, path, process, threads):
    """Both sides on one input; True when they agree to 1e-4 of the largest answer."""
    name = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.join(ROOT, "build/peers", name)
    largest, = ask(process, "save " + os.path.join(folder, "test_data_set_0"))
    link = os.path.join(folder, "model.onnx")
    if os.path.lexists(link):
        os.remove(link)
    os.link(path, link)
    done = subprocess.run([inferd, "check", "--rtol", "1e-4", "--atol", str(1e-4 * max(1.0, largest)), "--threads", str(threads), folder], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode == 0


def compare_int8(inferd, path, process, threads):
    """Relative L2 difference of the answers on one input."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    folder = os.path.join(ROOT, "build/peers", os.path.basename(os.path.dirname(path)))
    ask(process, "save " + os.path.join(folder, "test_data_set_0"))
    names = [v.name for v in onnx.load(path, load_external_data=False).graph.output]
    subprocess.check_call([inferd, "run", path, "--input", os.path.join(folder, "test_data_set_0/input_0.pb"), "--output", folder, "--threads", str(threads), "--precision", "int8"], stdout=subprocess.DEVNULL)
    worst = 0.0
    for i, name in enumerate(names):
        with open(os.path.join(folder, f"test_data_set_0/output_{i}.pb"), "rb") as f:
            want = numpy_helper.to_array(onnx.TensorProto.FromString(f.read())).astype(np.float64)
        got = np.load(os.path.join(folder, name + ".npy")).astype(np.float64)
        worst = max(worst, float(np.linalg.norm(got - want) / np.linalg.norm(want)))
    return worst


def busy_seconds():
    """Processor time spent by everybody, stolen time included."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds(processes):
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = used.ru_utime + used.ru_stime
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def time_inferd(path, precision, args, cores):
    out = subprocess.run([args.inferd, "bench", path, "--precision", precision, "--threads", str(args.threads), "--batch", str(args.batch), "--seconds", str(args.seconds), "--json"],
                         capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, set(cores[:args.threads])))
    if out.returncode:
        sys.exit(f"bench_peers: inferd bench failed: {out.stderr}")
    return json.loads(out.stdout)


def ratios(ms):
    """How many times as fast inferd is; keys "f32", "bf16" against the fastest other side, "auto:SIDE:PRECISION" by its own choice."""
    made = {}
    for precision in "f32", "bf16", "int8":
        others = [v for arm, v in ms.items() if arm.endswith(":" + precision) and not arm.startswith("inferd")]
        if others and "inferd:" + precision in ms:
            made[precision] = min(others) / ms["inferd:" + precision]
    for arm, v in ms.items():
        if "inferd:auto" in ms and arm in ("onnxruntime:f32", "openvino:bf16", "openvino:auto"):
            made["auto against " + arm] = v / ms["inferd:auto"]
    return made


def bench(path, args, cores):
    int8 = path.endswith("_int8/model.onnx")
    arms = (args.arms or ("inferd:int8,onnxruntime:int8,openvino:int8" if int8 else ARMS)).split(",")
    peers = {}
    for arm in arms:
        if not arm.startswith("inferd"):
            child = [sys.executable, os.path.abspath(__file__), "--peer", path, "--peer-arm", arm, "--threads", str(args.threads), "--batch", str(args.batch)]
            peers[arm] = subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said, equal = "not compared", True
    if "onnxruntime:f32" in peers:
        equal = compare(args.inferd, path, peers["onnxruntime:f32"], args.threads)
        said = "equal to 1e-4" if equal else "DIFFER"
    if "onnxruntime:int8" in peers:
        difference = compare_int8(args.inferd, path, peers["onnxruntime:int8"], args.threads)
        equal = difference <= 0.25
        said = f"differ by {difference:.1e}" if equal else f"DIFFER by {difference:.1e}"
    for process in peers.values():      # none is still opening the file while another is timed
        ask(process, "cost")
    times, costs, disturbed, chosen = {arm: [] for arm in arms}, {}, 0, ""
    while len(times[arms[0]]) < args.rounds:
        before = time.monotonic(), busy_seconds() - own_seconds(peers.values())
        round_ms = {}
        for arm in arms:
            if arm in peers:
                round_ms[arm] = statistics.median(ask(peers[arm], str(args.seconds)))
                costs[arm] = ask(peers[arm], "cost")
            else:
                timed = time_inferd(path, arm.split(":")[1], args, cores)
                round_ms[arm] = timed["median_ms"]
                costs[arm] = min(costs.get(arm, [timed["load_ms"]])[0], timed["load_ms"]), timed["peak_rss_mb"] - timed["base_rss_mb"]
                chosen = timed["precision"] if arm == "inferd:auto" else chosen
        foreign = (busy_seconds() - own_seconds(peers.values()) - before[1]) / (time.monotonic() - before[0])
        if foreign > DISTURBED and disturbed < 2 * args.rounds:      # somebody else wanted the cores: measure again
            disturbed += 1
            time.sleep(1)
            continue
        for arm in arms:
            times[arm].append(round_ms[arm])
    for process in peers.values():
        process.stdin.close()
        process.wait()
    ms = {arm: statistics.median(t) for arm, t in times.items()}
    made = ratios(ms)
    print(f"{os.path.basename(os.path.dirname(path)) if int8 else os.path.basename(path):22} threads {args.threads} batch {args.batch}  answers {said}, {disturbed} rounds repeated" + (f", auto is {chosen}" if chosen else ""))
    print("   " + "  ".join(f"{arm} {ms[arm]:.3f} ms ({min(times[arm]):.3f}..{max(times[arm]):.3f})" for arm in arms))
    print("   speed: " + "  ".join(f"{what} {ratio:.3f}" for what, ratio in made.items()))
    print("   opened, memory: " + "  ".join(f"{arm} {costs[arm][0]:.0f} ms, {costs[arm][1]:.0f} MB" for arm in arms), flush=True)
    return equal and all(r >= args.least for what, r in made.items() if not what.startswith("auto")), made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", help=ARMS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--least", type=float, default=0.0, help="fail when a ratio at equal precision is below this")
    parser.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    parser.add_argument("--peer", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--peer-arm", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="*")
    args = parser.parse_args()
    use_environment()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < args.threads:
        sys.exit(f"bench_peers: {args.threads} threads on {len(cores)} cores would measure nothing")
    if args.peer:
        peer(args, cores)
        return
    good, all_made = True, []
    for name in args.models or ["resnet50", "mobilenet_v2", "alexnet"]:
        path = name if name.endswith(".onnx") else os.path.join(ROOT, "build/networks", name + ("/model.onnx" if name.endswith("_int8") else ".onnx"))
        if not os.path.exists(path):
            maker, kind = ("tools/make_quantised.py", name.removesuffix("_int8")) if name.endswith("_int8") else ("tools/make_networks.py", name)
            subprocess.check_call([sys.executable, os.path.join(ROOT, maker), "--out", os.path.join(ROOT, "build/networks"), kind], stdout=subprocess.DEVNULL)
        fine, made = bench(path, args, cores)
        good = fine and good
        all_made.append(made)
    for what in dict.fromkeys(k for made in all_made for k in made):
        values = [made[what] for made in all_made if what in made]
        print(f"geometric mean of {len(values)}, {what}: {statistics.geometric_mean(values):.3f}, least {min(values):.3f}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
