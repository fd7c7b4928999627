#!/usr/bin/env python3
"""Sentences a second of all-MiniLM-L6-v2: inferd over HTTP beside transformers on PyTorch, the same threads, one after the other in every round.

  bench_embeddings.py [--inferd FILE] [--threads 2] [--rounds 5] [--count 128] [--length 20] [--batch 32] [--least RATIO]
  bench_embeddings.py --write          makes tests/e2e/embeddings_vectors.json again

Each side gets the same sentences of --length/2 to --length words. PyTorch computes batches of sentences sorted by length, as sentence-transformers does; inferd gets one
request with all of them. Printed are the best round of each and the ratio of speeds; status 1 below --least. Needs torch and transformers."""
import argparse, base64, json, os, struct, subprocess, sys, time

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))

PEER = r"""
import json, sys, time, torch, transformers
folder, threads, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
def embed(texts):
    order, out = sorted(range(len(texts)), key=lambda i: -len(texts[i])), [None] * len(texts)
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        x = tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            h = model(**x).last_hidden_state
        keep = x["attention_mask"].unsqueeze(-1).float()
        for i, v in zip(part, torch.nn.functional.normalize((h * keep).sum(1) / keep.sum(1), dim=1)):
            out[i] = v.tolist()
    return out
for line in sys.stdin:
    texts = json.loads(line)
    start = time.perf_counter()
    vectors = embed(texts)
    print(json.dumps([time.perf_counter() - start, vectors]), flush=True)
"""


class Peer:
    def __init__(self, folder, threads, batch):
        self.process = subprocess.Popen([sys.executable, "-c", PEER, folder, str(threads), str(batch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ask(self, texts):
        """-> seconds, vectors"""
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("bench_embeddings: the peer ended; torch and transformers must be importable by %s" % sys.executable)
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)


def write_vectors(peer):
    import embeddings_test as test
    flat = [x for text in test.TEXTS for x in peer.ask([text])[1][0][::test.EVERY]]
    scale = max(abs(x) for x in flat) / 32767
    data = struct.pack("<%dh" % len(flat), *(round(x / scale) for x in flat))
    json.dump({"scale": scale, "values": base64.b64encode(data).decode()}, open(os.path.join(ROOT, "tests/e2e/embeddings_vectors.json"), "w"))


def compare(options, peer):
    from harness import Server
    from sentences import sentences
    import embeddings_test as test
    texts = sentences(options.count, options.length, seed=11)
    server = Server("--threads", str(options.threads), store=test.make_embedding_store())

    def ours():
        start = time.perf_counter()
        status, body = server.json("POST", "/v1/embeddings", {"model": "minilm", "input": texts, "encoding_format": "base64"})
        seconds = time.perf_counter() - start
        assert status == 200, body
        return seconds, [struct.unpack("<384f", base64.b64decode(d["embedding"])) for d in body["data"]]

    try:
        worst = max(abs(a - b) for x, y in zip(ours()[1], peer.ask(texts)[1]) for a, b in zip(x, y))
        rounds = [(ours()[0], peer.ask(texts)[0]) for _ in range(options.rounds)]
    finally:
        server.stop()
    best = [min(r[k] for r in rounds) for k in range(2)]
    ratio = best[1] / best[0]
    print("%d sentences of at most %d words, %d threads: inferd %.0f/s, PyTorch %.0f/s, ratio %.2f; vectors differ by at most %.1e" % (options.count, options.length, options.threads, options.count / best[0], options.count / best[1], ratio, worst), flush=True)
    return ratio if worst < 1e-4 else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--inferd", default=os.path.join(ROOT, "build/release/inferd"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--count", type=int, default=128)
    p.add_argument("--length", type=int, default=20)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--least", type=float, default=0)
    p.add_argument("--write", action="store_true")
    options = p.parse_args()
    os.environ["INFERD"] = options.inferd
    import embeddings_test as test
    from harness import Skip
    try:
        peer = Peer(test.fetch_model(), options.threads, options.batch)
    except Skip as e:
        sys.exit("bench_embeddings: %s" % e)
    ratio = 0
    try:
        if options.write:
            write_vectors(peer)
            return
        ratio = compare(options, peer)
    finally:
        peer.stop()
    sys.exit(ratio < options.least)


if __name__ == "__main__":
    main()
