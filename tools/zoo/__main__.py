"""The architecture zoo: one small network of each family, exported with seeded random weights, its answers by the library it comes from.

  python tools/zoo [--out build/zoo] [--make-only | --run-only] [--no-speed] [--threads 2] [--seconds 0.4] [NAME...]

Makes what is missing (OUT/NAME/model.onnx and test_data_set_0, the form of the ONNX backend suite), runs each through `inferd run`, and prints: family, exporter, the largest
error of any output, max|a-b| / max|b|, the same in bfloat16 as relative L2 error ("!" where the largest of a row differs though it stands out by four times the root mean square
error; nothing where NonMaxSuppression decides which rows there are), milliseconds, and onnxruntime's time divided by ours (same threads and inputs, in turns). Status 1 when a family does not agree to 1e-4, or in bfloat16 not in what is largest.
A network that onnxruntime itself cannot open or run has no ratio.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "../.."))
BAR = 1e-4
GROUPS = ["pictures", "sequences", "attention", "places", "making", "others", "classic"]


def load_groups():
    sys.path.insert(0, HERE)
    import importlib

    for group in GROUPS:
        importlib.import_module(group)
    from common import NETWORKS
    return NETWORKS


def make_all(names, args):
    networks = load_groups()
    import torch

    from common import make
    torch.set_num_threads(args.threads)
    failed = []
    for name in names or networks:
        if name not in networks:
            sys.exit(f"zoo: no network '{name}' (there are: {' '.join(networks)})")
        if os.path.exists(os.path.join(args.out, name, "model.onnx")) and not args.again:
            continue
        try:
            start = time.monotonic()
            make(name, args.out)
            print(f"made {name} ({networks[name]['exporter']}) in {time.monotonic() - start:.1f} s", flush=True)
        except Exception:
            failed.append(name)
            print(f"NOT MADE {name}: {traceback.format_exc().strip().splitlines()[-1][:300]}", flush=True)
            if args.verbose:
                traceback.print_exc()
    with open(os.path.join(args.out, "families.json"), "w") as f:
        json.dump({n: [e["family"], e["exporter"]] for n, e in networks.items()}, f)
    return failed


def tensors(folder, kind):
    import onnx
    from onnx import numpy_helper

    found = []
    while os.path.exists(path := os.path.join(folder, "test_data_set_0", f"{kind}_{len(found)}.pb")):
        with open(path, "rb") as f:
            t = onnx.TensorProto.FromString(f.read())
        found.append((t.name, path, numpy_helper.to_array(t)))
    return found


def error_of(got, want):
    import numpy as np

    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.size == 0:
        return 0.0
    if want.dtype.kind not in "f":
        return 0.0 if np.array_equal(got, want) else f"{int((got != want).sum())} of {want.size} differ"
    top = float(np.abs(want).max()) or 1.0
    e = float(np.abs(got.astype(np.float64) - want).max()) / top
    return e if e == e else "not a number"


def rounded_error(got, want):
    """(relative L2 error, do the largest of each row agree?) in bfloat16; rows whose two largest are within four times the root mean square error are not asked."""
    import numpy as np

    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f" or want.size == 0:
        return 0.0, True
    difference = got.astype(np.float64) - want
    error = float(np.linalg.norm(difference)) / (float(np.linalg.norm(want.astype(np.float64))) or 1.0)
    if want.ndim < 2 or want.shape[-1] < 2:
        return error, True
    top = np.sort(want, axis=-1)
    sure = top[..., -1] - top[..., -2] > 4 * np.sqrt(np.mean(difference**2))
    return error, bool(np.all((got.argmax(-1) == want.argmax(-1)) | ~sure))


def run_ours(folder, args, precision="f32", measure=error_of):
    """What `measure` makes of each output's answer and what it should be, or a sentence."""
    import numpy as np

    model = os.path.join(folder, "model.onnx")
    with tempfile.TemporaryDirectory() as out:
        given = [f"--input={name}={path}" for name, path, _ in tensors(folder, "input")]
        done = subprocess.run([args.inferd, "run", model, "--output", out, "--threads", str(args.threads), "--precision", precision, *args.flags, *given], capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        made = []
        import onnx
        names = [o.name for o in onnx.load(model, load_external_data=False).graph.output]
        for name, (_, _, want) in zip(names, tensors(folder, "output")):
            plain = "".join("_" if ch in "/\\:" else ch for ch in name)
            e = measure(np.load(os.path.join(out, plain + ".npy")), want)
            if isinstance(e, str):
                return f"output '{name}': {e}"
            made.append(e)
        return made


def peer(folder, threads, cores):
    """onnxruntime in a process of its own: a line "SECONDS" is answered with a list of milliseconds."""
    import onnxruntime

    os.sched_setaffinity(0, {cores[0]})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    if threads > 1:
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(c + 1) for c in cores[1:threads]))
    session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"])
    feed = {name: array for name, _, array in tensors(folder, "input")}
    print(json.dumps([]), flush=True)
    for line in sys.stdin:
        for _ in range(3):
            session.run(None, feed)
        times, end = [], time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 5:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(statistics.median(times)), flush=True)


def speeds(folder, args, cores):
    """Our median and onnxruntime's, in turns; None where one of them cannot."""
    model = os.path.join(folder, "model.onnx")
    given = [f"--input={name}={path}" for name, path, _ in tensors(folder, "input")]
    child = subprocess.Popen([sys.executable, HERE, "--peer", folder, "--threads", str(args.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    alive = bool(child.stdout.readline())
    mine, theirs = [], []
    for _ in range(args.rounds):
        done = subprocess.run([args.inferd, "bench", model, "--threads", str(args.threads), "--seconds", str(args.seconds), "--json", *args.flags, *given], capture_output=True, text=True,
                              preexec_fn=lambda: os.sched_setaffinity(0, set(cores[:args.threads])))
        if done.returncode == 0:
            mine.append(json.loads(done.stdout)["median_ms"])
        if alive:
            child.stdin.write(f"{args.seconds}\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            alive = bool(answer)
            if answer:
                theirs.append(json.loads(answer))
    child.stdin.close()
    child.wait()
    return statistics.median(mine) if mine else None, statistics.median(theirs) if theirs else None


def run_all(names, args):
    with open(os.path.join(args.out, "families.json")) as f:
        families = json.load(f)
    cores, failed, ratios = sorted(os.sched_getaffinity(0)), [], []
    print(f"{'network':28} {'family':52} {'by':7} {'error':>9} {'bf16':>8} {'ms':>9} {'speed':>6}")
    for name in names or sorted(os.listdir(args.out)):
        folder = os.path.join(args.out, name)
        if not os.path.exists(os.path.join(folder, "model.onnx")):
            continue
        family, by = families.get(name, ["?", "?"])
        e = run_ours(folder, args)
        e = e if isinstance(e, str) else max(e, default=0.0)
        with open(os.path.join(folder, "model.onnx"), "rb") as f:
            picks = b"NonMaxSuppression" in f.read()      # what is rounded decides which rows there are, and their order
        rounded = [] if picks else run_ours(folder, args, "bf16", rounded_error)
        good = not isinstance(e, str) and e <= BAR and not isinstance(rounded, str) and all(same for _, same in rounded)
        said = "" if picks else rounded if isinstance(rounded, str) else format(max((r for r, _ in rounded), default=0.0), ".1e") + ("" if all(same for _, same in rounded) else "!")
        mine = theirs = None
        if not args.no_speed and not isinstance(e, str):
            mine, theirs = speeds(folder, args, cores)
            if mine and theirs:
                ratios.append(theirs / mine)
        print(f"{name:28} {family[:52]:52} {by:7} {e if isinstance(e, str) else format(e, '9.1e')} {said:>8} {format(mine, '9.3f') if mine else '':>9} {format(theirs / mine, '6.2f') if mine and theirs else '':>6}"
              f"{'' if good else '  FAIL'}", flush=True)
        if not good:
            failed.append(name)
    if ratios:
        ratios.sort()
        print(f"speed against onnxruntime: {sum(r >= 1 for r in ratios)} of {len(ratios)} at least as fast, median {statistics.median(ratios):.2f}, least {ratios[0]:.2f}")
    print(f"{'every family agrees' if not failed else 'NOT EQUAL: ' + ' '.join(failed)}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(ROOT, "build/zoo"))
    parser.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--make-only", action="store_true")
    parser.add_argument("--run-only", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--again", action="store_true", help="make also what is there")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--flags", nargs=1, action="extend", default=[], help="an option for inferd, like --flags=--precision=f32")
    parser.add_argument("--peer", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if args.peer:
        return peer(args.peer, args.threads, cores)
    args.threads = min(args.threads, len(cores))
    os.makedirs(args.out, exist_ok=True)
    missing = [] if args.run_only else make_all(args.names, args)
    failed = [] if args.make_only else run_all(args.names, args)
    sys.exit(1 if missing or failed else 0)


if __name__ == "__main__":
    main()
