# release only: numbers, not memory
# needs: onnx
# needs: onnxruntime
# needs: PIL
"""`inferd quantize --calibrate` from the command line: the file is a valid model, onnxruntime answers on it as inferd does, and the demo network reads digits as before."""
import glob, os, shutil, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np
import onnx
import onnxruntime
from PIL import Image
from harness import BINARY, run

WORK = tempfile.mkdtemp(prefix="inferd-int8-")
SAMPLES = sorted(glob.glob("models/digits/samples/*.png"))


def inferd(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)


def pictures():
    """The samples, and each moved by a pixel in eight directions."""
    out = []
    for path in SAMPLES:
        x = np.asarray(Image.open(path).convert("L").resize((28, 28)), np.float32) / 255
        out += [np.roll(x, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.stack(out)[:, None]


def answers(model, x):
    file = os.path.join(WORK, "x.npy")
    np.save(file, x)
    got = inferd("run", model, "--input", file, "--output", WORK)
    assert got.returncode == 0, got.stderr
    return np.load(os.path.join(WORK, "logits.npy"))


def by_onnxruntime(path, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"image": x})[0]


def test_the_digits_are_read_as_before():
    for method in "minmax", "percentile", "entropy":
        path = os.path.join(WORK, method + ".onnx")
        got = inferd("quantize", "models/digits", "--calibrate", "models/digits/samples", "--output", path, "--method", method)
        assert got.returncode == 0 and "5 of 5 layers are int8" in got.stdout, got
        onnx.checker.check_model(path, full_check=True)
        x = pictures()
        want, mine, theirs = answers("models/digits", x), answers(path, x), by_onnxruntime(path, x)
        assert (want.argmax(1) == mine.argmax(1)).mean() >= 0.97
        assert np.linalg.norm(want - mine) <= 0.05 * np.linalg.norm(want)
        assert np.linalg.norm(theirs - mine) <= 0.01 * np.linalg.norm(want), np.linalg.norm(theirs - mine) / np.linalg.norm(want)


def test_tensors_in_every_form_are_the_same_inputs():
    x, files = pictures()[:4], {}
    for kind in "npy", "npz", "folders", "rows":
        folder = os.path.join(WORK, kind)
        os.makedirs(folder)
        for i in range(4):
            if kind == "npy":
                np.save(f"{folder}/{i}.npy", x[i:i + 1])
            elif kind == "rows":
                np.save(f"{folder}/{i}.npy", x[i])
            elif kind == "npz":
                np.savez_compressed(f"{folder}/{i}.npz", image=x[i:i + 1])
            else:
                os.makedirs(f"{folder}/test_data_set_{i}")
                with open(f"{folder}/test_data_set_{i}/input_0.pb", "wb") as f:
                    f.write(onnx.numpy_helper.from_array(x[i:i + 1], "image").SerializeToString())
        out = os.path.join(WORK, kind + ".onnx")
        got = inferd("quantize", "models/digits/1/model.onnx", "--calibrate", folder, "--output", out, "--no-table")
        assert got.returncode == 0, got
        files[kind] = open(out, "rb").read()
    assert len(set(files.values())) == 1


def test_data_outside_comes_into_the_file():
    folder = os.path.join(WORK, "outside")
    os.makedirs(folder)
    onnx.save(onnx.load("models/digits/1/model.onnx"), folder + "/model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    got = inferd("quantize", folder, "--calibrate", "models/digits/samples", "--keep-worst", "2", "--output", WORK + "/inside.onnx")
    assert got.returncode == 0 and "3 of 5 layers are int8" in got.stdout, got
    shutil.copy(WORK + "/inside.onnx", os.path.join(tempfile.mkdtemp(dir=WORK), "model.onnx"))
    onnx.checker.check_model(WORK + "/inside.onnx", full_check=True)
    x = pictures()
    assert (answers("models/digits", x).argmax(1) == answers(WORK + "/inside.onnx", x).argmax(1)).mean() >= 0.97


def test_what_does_not_fit_is_told():
    folder = os.path.join(WORK, "wrong")
    os.makedirs(folder)
    got = inferd("quantize", "models/digits", "--calibrate", folder)
    assert got.returncode == 1 and "holds no calibration inputs" in got.stderr, got
    np.save(folder + "/x.npy", np.zeros((1, 1, 28, 27), np.float32))
    got = inferd("quantize", "models/digits", "--calibrate", folder)
    assert got.returncode == 1 and "takes [-1,1,28,28], not [1,1,28,27]" in got.stderr, got
    np.save(folder + "/x.npy", np.zeros((1, 1, 28, 28), np.float64))
    got = inferd("quantize", "models/digits", "--calibrate", folder)
    assert got.returncode == 1 and "takes float32, not float64" in got.stderr, got
    np.savez(folder + "/x.npz", other=np.zeros(3))
    os.remove(folder + "/x.npy")
    got = inferd("quantize", "models/digits", "--calibrate", folder)
    assert got.returncode == 1 and "it holds no 'image'" in got.stderr, got
    for wrong in ("--method", "average"), ("--percentile", "3"), ("--activations", "int4"), ("--limit", "0"):
        got = inferd("quantize", "models/digits", "--calibrate", folder, *wrong)
        assert got.returncode == 2 and wrong[0] in got.stderr, got


try:
    run(globals())
finally:
    shutil.rmtree(WORK)
