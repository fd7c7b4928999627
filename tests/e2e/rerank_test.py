# needs: numpy
"""/v1/rerank with a cross-encoder: the scores that transformers gave (tools/make_rerank_vectors.py), alone and in company, in Cohere's and Jina's shape."""
import json, os

from harness import ROOT, Server, make_store, run
from tiny_models import write_cross_encoder

want = json.load(open(os.path.join(ROOT, "tests/e2e/rerank_vectors.json")))
store = make_store(("dictionary",))
write_cross_encoder(os.path.join(store, "judge", "1"), want["config"], want["tensors"], want["words"])
server = Server(store=store)
ORDER = sorted(range(len(want["scores"])), key=lambda i: -want["scores"][i])


def rerank(documents, **more):
    return server.json("POST", "/v1/rerank", dict(more, model=more.get("model", "judge"), query=more.get("query", want["query"]), documents=documents))


def check(results, indices):
    assert [r["index"] for r in results] == indices, (results, indices)
    for r in results:
        assert abs(r["relevance_score"] - want["scores"][r["index"]]) < 1e-4, (r, want["scores"][r["index"]])


def test_scores_are_those_of_transformers():
    status, body = rerank(want["documents"])
    assert status == 200, body
    check(body["results"], ORDER)
    assert body["model"] == "judge" and body["usage"]["prompt_tokens"] == sum(want["tokens"]), body["usage"]
    together = {r["index"]: r["relevance_score"] for r in body["results"]}
    for i, document in enumerate(want["documents"]):
        status, body = rerank([document])
        assert status == 200 and body["results"][0]["relevance_score"] == together[i], (body, together[i])


def test_top_and_documents():
    status, body = rerank(want["documents"], top_n=3, return_documents=True)
    check(body["results"], ORDER[:3])
    assert [r["document"]["text"] for r in body["results"]] == [want["documents"][i] for i in ORDER[:3]]
    status, body = rerank([{"text": d} for d in want["documents"]], top_n=1)
    check(body["results"], ORDER[:1])
    assert "document" not in body["results"][0]


def test_equals_keep_their_order():
    status, body = rerank(["Germany", "what", "Germany"])
    assert [r["index"] for r in body["results"]] == [1, 0, 2] if want["scores"][3] > want["scores"][5] else [0, 2, 1], body


def test_what_is_wrong_is_said():
    for body, words in (({"documents": []}, "'documents'"), ({"documents": ["a"], "query": 5}, "'query'"), ({"documents": ["a"], "top_n": 0}, "'top_n'"), ({"documents": [5]}, "'documents'"), ({"documents": ["a " * 100]}, "maximum context length")):
        status, answer = server.json("POST", "/v1/rerank", dict({"model": "judge", "query": "a"}, **body))
        assert status == 400 and words in answer["error"]["message"], answer
    status, answer = rerank(["a"], model="dictionary")
    assert status == 400 and "score" in answer["error"]["message"], answer


run(globals())
