#!/usr/bin/env python3
"""inferd and onnxruntime side by side: same file, same input, same threads on the same cores, one after the other in every round.

  bench_peers.py [--threads 2] [--rounds 5] [--seconds 1] [--batch 1] [NAME or FILE.onnx]...      (resnet50 mobilenet_v2 alexnet)

Names are made by make_networks.py when they are missing. First the answers are compared (`inferd check`, 1e-4), then rounds of timed runs: `inferd bench
--json` and an onnxruntime session in a process of its own, whose threads are pinned, so that neither runs while the other is timed. Printed are the median of
the rounds' medians and the ratio of speeds. Status 1 when answers differ or a ratio is below --least.
Without onnxruntime in this interpreter, the virtual environment build/venv (tools/venv.sh) is used.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

DISTURBED = 0.06      # cores that others may use during a round
ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))


def use_environment():
    """Goes on in build/venv when this interpreter lacks a package."""
    try:
        import numpy, onnx, onnxruntime  # noqa: F401
        return
    except ImportError:
        pass
    python = os.path.join(ROOT, "build/venv/bin/python")
    if os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(ROOT, "build/venv")):
        sys.exit("bench_peers: build/venv lacks packages; remove it and start again")
    subprocess.check_call([os.path.join(ROOT, "tools/venv.sh"), "onnx", "onnxruntime"])
    os.execv(python, [python, *sys.argv])


def make_input(session, batch):
    import numpy as np

    rng = np.random.default_rng(1)
    feed = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else batch for d in value.shape]
        feed[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feed


def peer(path, threads, batch, cores):
    """The other side: answers every line "SECONDS" on standard input with a JSON list of milliseconds; "save DIR" writes a test data set."""
    import onnxruntime
    from onnx import numpy_helper

    os.sched_setaffinity(0, {cores[0]})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(c + 1) for c in cores[1:threads]))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = make_input(session, batch)
    for line in sys.stdin:
        words = line.split(maxsplit=1)
        if words[0] == "save":
            folder = words[1].strip()
            os.makedirs(folder, exist_ok=True)
            pairs = [("input", list(feed.items())), ("output", [(o.name, y) for o, y in zip(session.get_outputs(), session.run(None, feed))])]
            for kind, tensors in pairs:
                for i, (name, array) in enumerate(tensors):
                    with open(os.path.join(folder, f"{kind}_{i}.pb"), "wb") as f:
                        f.write(numpy_helper.from_array(array, name).SerializeToString())
            print(json.dumps([]), flush=True)
            continue
        for _ in range(3):
            session.run(None, feed)
        times, end = [], time.perf_counter() + float(words[0])
        while time.perf_counter() < end:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


def ask(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit("bench_peers: the onnxruntime process ended")
    return json.loads(answer)


def compare(inferd, path, process, threads):
    """Both sides on one input; True when they agree."""
    name = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.join(ROOT, "build/peers", name)
    ask(process, "save " + os.path.join(folder, "test_data_set_0"))
    link = os.path.join(folder, "model.onnx")
    if os.path.lexists(link):
        os.remove(link)
    os.link(path, link)
    done = subprocess.run([inferd, "check", "--rtol", "1e-4", "--atol", "1e-4", "--threads", str(threads), folder], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode == 0


def busy_seconds():
    """Processor time spent by everybody, stolen time included."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds(process):
    with open(f"/proc/{process.pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + used.ru_utime + used.ru_stime


def bench(path, args, cores):
    child = [sys.executable, os.path.abspath(__file__), "--peer", path, "--threads", str(args.threads), "--batch", str(args.batch)]
    process = subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    equal = compare(args.inferd, path, process, args.threads)
    mine, theirs, disturbed = [], [], 0
    while len(mine) < args.rounds:
        before = time.monotonic(), busy_seconds() - own_seconds(process)
        out = subprocess.run([args.inferd, "bench", path, "--threads", str(args.threads), "--batch", str(args.batch), "--seconds", str(args.seconds), "--json"],
                             capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, set(cores[:args.threads])))
        if out.returncode:
            sys.exit(f"bench_peers: inferd bench failed: {out.stderr}")
        a = json.loads(out.stdout)["median_ms"]
        b = statistics.median(ask(process, str(args.seconds)))
        foreign = (busy_seconds() - own_seconds(process) - before[1]) / (time.monotonic() - before[0])
        if foreign > DISTURBED and disturbed < 4 * args.rounds:      # somebody else wanted the cores: measure again
            disturbed += 1
            time.sleep(1)
            continue
        mine.append(a)
        theirs.append(b)
    process.stdin.close()
    process.wait()
    a, b = statistics.median(mine), statistics.median(theirs)
    print(f"{os.path.basename(path):22} threads {args.threads} batch {args.batch}  inferd {a:8.3f} ms ({min(mine):.3f}..{max(mine):.3f})  "
          f"onnxruntime {b:8.3f} ms ({min(theirs):.3f}..{max(theirs):.3f})  speed {b / a:.3f}  answers {'equal to 1e-4' if equal else 'DIFFER'}  "
          f"{disturbed} rounds repeated", flush=True)
    return equal and b / a >= args.least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--least", type=float, default=0.0, help="fail when a ratio is below this")
    parser.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    parser.add_argument("--peer", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="*")
    args = parser.parse_args()
    use_environment()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < args.threads:
        sys.exit(f"bench_peers: {args.threads} threads on {len(cores)} cores would measure nothing")
    if args.peer:
        peer(args.peer, args.threads, args.batch, cores)
        return
    good = True
    for name in args.models or ["resnet50", "mobilenet_v2", "alexnet"]:
        path = name if name.endswith(".onnx") else os.path.join(ROOT, "build/networks", name + ".onnx")
        if not os.path.exists(path):
            subprocess.check_call([sys.executable, os.path.join(ROOT, "tools/make_networks.py"), "--out", os.path.join(ROOT, "build/networks"), name], stdout=subprocess.DEVNULL)
        good = bench(path, args, cores) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
