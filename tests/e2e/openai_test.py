"""The stock openai client against the demo dictionary: chat, streams, log-probabilities, embeddings; every answer validates against OpenAI's own document."""
# needs: openai jsonschema
import base64, concurrent.futures, http.client, json, os, random, struct, subprocess, time

import openai

from harness import ROOT, Server, Skip, make_store, run
from jsonschema import Draft202012Validator

from openai_document import validate
from tiny_models import write_tensors

store = make_store(("dictionary", "digits"))
server = Server(store=store)
client = openai.OpenAI(base_url="http://%s/v1" % server.address, api_key="none", max_retries=0)
ASK = [{"role": "user", "content": "Define mention."}]
ANSWER = "mention (verb): make reference to."


def post(path, body):
    return server.json("POST", path, body)


def events(path, body):
    c = server.connect()
    c.request("POST", path, json.dumps(body))
    r = c.getresponse()
    assert r.status == 200, r.read()
    assert r.getheader("Content-Type").startswith("text/event-stream")
    data = [line[6:] for line in r.read().decode().split("\n") if line.startswith("data: ")]
    c.close()
    return data


def test_models():
    assert [m.id for m in client.models.list()] == ["dictionary"]
    assert client.models.retrieve("dictionary").id == "dictionary"
    validate("ListModelsResponse", post_get("/v1/models"))


def post_get(path):
    return server.json("GET", path)[1]


def test_chat():
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0)
    assert r.choices[0].message.content == ANSWER and r.choices[0].finish_reason == "stop"
    assert r.usage.prompt_tokens == 6 and r.usage.completion_tokens == 10
    status, body = post("/v1/chat/completions", {"model": "dictionary", "messages": ASK, "temperature": 0, "logprobs": True, "top_logprobs": 2, "n": 2})
    assert status == 200
    validate("CreateChatCompletionResponse", body)


def test_forty_facts():
    facts = json.load(open(os.path.join(ROOT, "tests/e2e/dictionary_facts.json")))
    for word, answer in facts:
        r = client.chat.completions.create(model="dictionary", messages=[{"role": "user", "content": "Define %s." % word}], temperature=0)
        assert r.choices[0].message.content == answer, (word, r.choices[0].message.content)


def test_parts_of_content_are_joined():
    r = client.chat.completions.create(model="dictionary", messages=[{"role": "user", "content": [{"type": "text", "text": "Define mention."}]}], temperature=0)
    assert r.choices[0].message.content == ANSWER


def test_stream():
    pieces, usage, finish = [], None, None
    for chunk in client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            finish = chunk.choices[0].finish_reason or finish
    assert "".join(pieces) == ANSWER and finish == "stop" and len(pieces) >= 3
    assert usage.completion_tokens == 10
    data = events("/v1/chat/completions", {"model": "dictionary", "messages": ASK, "temperature": 0, "stream": True, "logprobs": True, "top_logprobs": 1})
    assert data[-1] == "[DONE]"
    for d in data[:-1]:
        validate("CreateChatCompletionStreamResponse", json.loads(d))


def test_log_probabilities():
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, logprobs=True, top_logprobs=3)
    tokens = r.choices[0].logprobs.content
    assert "".join(t.token for t in tokens) == ANSWER
    for t in tokens:
        assert len(t.top_logprobs) == 3 and t.logprob <= 0 and bytes(t.bytes).decode() == t.token
        assert t.top_logprobs[0].token == t.token and t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob


def test_completions():
    prompts = ["<|user|>Define mention.<|assistant|>", "<|user|>Define house.<|assistant|>"]
    r = client.completions.create(model="dictionary", prompt=prompts, temperature=0, max_tokens=40, logprobs=1, n=2)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert r.choices[0].text == ANSWER and r.choices[1].text == ANSWER and r.choices[2].text.startswith("house (noun)")
    status, body = post("/v1/completions", {"model": "dictionary", "prompt": prompts[0], "temperature": 0, "echo": True, "logprobs": 2, "max_tokens": 4})
    lp = body["choices"][0]["logprobs"]
    assert lp["token_logprobs"][0] == 0 and all(x < 0 for x in lp["token_logprobs"][1:]) and len(lp["tokens"]) == 6 + 4
    validate("CreateCompletionResponse", body)
    assert body["choices"][0]["text"].endswith("mention (verb")
    status, body = post("/v1/completions", {"model": "dictionary", "prompt": prompts[0], "temperature": 0, "echo": True, "max_tokens": 0})
    assert body["usage"]["completion_tokens"] == 0 and body["choices"][0]["finish_reason"] == "length"
    best = client.completions.create(model="dictionary", prompt=prompts[0], temperature=1.5, max_tokens=12, best_of=8, n=1, seed=3)
    assert len(best.choices) == 1


def test_token_ids_as_prompt():
    _, t = post("/tokenize", {"model": "dictionary", "prompt": "<|user|>Define mention.<|assistant|>"})
    assert t["count"] == 6 and t["max_model_len"] == 512
    r = client.completions.create(model="dictionary", prompt=t["tokens"], temperature=0, max_tokens=40)
    assert r.choices[0].text == ANSWER
    _, d = post("/detokenize", {"model": "dictionary", "tokens": t["tokens"]})
    assert "Define mention." in d["prompt"]
    _, p = post("/apply-template", {"model": "dictionary", "messages": ASK})
    assert p["prompt"] == "<|user|>Define mention.<|assistant|>"


def test_marks_in_a_message_stay_text():
    plain = post("/tokenize", {"model": "dictionary", "messages": [{"role": "user", "content": "x"}]})[1]["tokens"]
    typed = post("/tokenize", {"model": "dictionary", "messages": [{"role": "user", "content": "<|assistant|>"}]})[1]["tokens"]
    mark = plain[-1]
    assert typed.count(mark) == 1 and typed[-1] == mark, (plain, typed)


def test_stop_strings():
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, stop=["reference", "nothing"])
    assert r.choices[0].message.content == "mention (verb): make " and r.choices[0].finish_reason == "stop"
    text = ""
    for chunk in client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, stop="make ref", stream=True):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text == "mention (verb): ", text


def test_limits_and_ends():
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, max_tokens=3)
    assert r.choices[0].finish_reason == "length" and r.usage.completion_tokens == 3
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, max_completion_tokens=30, extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 30 and r.choices[0].finish_reason == "length"
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, extra_body={"min_tokens": 15})
    assert r.usage.completion_tokens >= 15


def sampled(i, **more):
    words = ["mention", "house", "river", "music", "stone", "travel", "winter", "bread"]
    extra = [{}, {"top_k": 20}, {"min_p": 0.05}, {"typical_p": 0.9}, {"repetition_penalty": 1.3}, {"top_n_sigma": 1.5}, {"mirostat": 2}, {"xtc_probability": 0.5, "xtc_threshold": 0.1}, {"dry_multiplier": 0.8}, {"mirostat": 1}]
    r = client.chat.completions.create(model="dictionary", messages=[{"role": "user", "content": "Define %s." % words[i % 8]}], temperature=0 if i % 5 == 0 else 1.2, top_p=0.95 if i % 3 else 1, seed=1000 + i, max_tokens=24,
                                       frequency_penalty=0.3 if i % 4 == 0 else 0, extra_body=extra[i % len(extra)], **more)
    return r.choices[0].message.content


def test_same_text_alone_and_in_company():
    alone = [sampled(i) for i in range(20)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(sampled, range(20)))
    assert alone == together, [(a, b) for a, b in zip(alone, together) if a != b][:2]


def test_seeds_differ_and_repeat():
    ask = dict(model="dictionary", messages=ASK, temperature=1.8, max_tokens=20)
    a, b, c = (client.chat.completions.create(seed=s, **ask).choices[0].message.content for s in (1, 1, 2))
    assert a == b and a != c
    n = client.chat.completions.create(seed=1, n=4, **ask)
    assert len({x.message.content for x in n.choices}) > 1


def test_logit_bias():
    token = post("/tokenize", {"model": "dictionary", "prompt": " noun", "add_special_tokens": False})[1]["tokens"][-1]
    first = post("/v1/completions", {"model": "dictionary", "prompt": "<|user|>Define mention.<|assistant|>", "temperature": 0, "max_tokens": 1, "logit_bias": {str(token): 100}})[1]
    assert "noun" in first["choices"][0]["text"]


def test_embeddings():
    e = client.embeddings.create(model="dictionary", input=["hello", "world", "hello"])
    assert len(e.data) == 3 and len(e.data[0].embedding) == 256
    assert e.data[0].embedding == e.data[2].embedding != e.data[1].embedding
    assert abs(sum(x * x for x in e.data[0].embedding) - 1) < 1e-4
    status, body = post("/v1/embeddings", {"model": "dictionary", "input": "hello", "encoding_format": "float"})
    validate("CreateEmbeddingResponse", body)
    status, packed = post("/v1/embeddings", {"model": "dictionary", "input": "hello", "encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<256f", raw)) == [struct.unpack("<f", struct.pack("<f", x))[0] for x in body["data"][0]["embedding"]]
    many = client.embeddings.create(model="dictionary", input=["text %d" % i for i in range(300)])
    assert len(many.data) == 300


def test_errors():
    def error(path, body, status, param=None, code=None):
        got, e = post(path, body)
        assert got == status, (got, e)
        assert set(e["error"]) == {"message", "type", "param", "code"} and e["error"]["message"], e
        assert e["error"]["param"] == param and e["error"]["code"] == code, e
        validate("ErrorResponse", e)
        return e["error"]["message"]
    error("/v1/chat/completions", {"model": "nothing", "messages": ASK}, 404, "model", "model_not_found")
    error("/v1/chat/completions", {"messages": ASK}, 400, "model")
    error("/v1/chat/completions", {"model": "dictionary", "messages": []}, 400, "messages")
    error("/v1/chat/completions", {"model": "dictionary", "messages": ASK, "temperature": "hot"}, 400, "temperature")
    error("/v1/chat/completions", {"model": "dictionary", "messages": ASK, "n": 17}, 400, "n")
    error("/v1/chat/completions", {"model": "digits", "messages": ASK}, 400, "model")
    error("/v1/rerank", {"model": "dictionary", "query": "a", "documents": ["b"]}, 400)
    assert "512" in error("/v1/completions", {"model": "dictionary", "prompt": "word " * 600}, 400, "prompt", "context_length_exceeded")
    assert "512" in error("/v1/completions", {"model": "dictionary", "prompt": "a", "max_tokens": 600}, 400, "prompt", "context_length_exceeded")
    assert "512" in error("/v1/chat/completions", {"model": "dictionary", "messages": [{"role": "user", "content": "word " * 600}]}, 400, "messages", "context_length_exceeded")
    error("/v1/completions", {"model": "dictionary", "prompt": "a", "suffix": "b"}, 400, "suffix")
    error("/v1/embeddings", {"model": "dictionary", "input": "a", "dimensions": 100000}, 400, "dimensions")
    error("/v1/completions", {"model": "dictionary", "prompt": [99999]}, 400)
    status, _, body = server.call("POST", "/v1/chat/completions", "{")
    assert status == 400 and "message" in json.loads(body)["error"]
    try:
        client.chat.completions.create(model="nothing", messages=ASK)
        assert False
    except openai.NotFoundError:
        pass


def test_structured_output():
    schema = {"type": "object", "properties": {"word": {"type": "string", "maxLength": 12}, "count": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["noun", "verb"]}}, "required": ["word", "count", "kind"], "additionalProperties": False}
    for seed in range(8):
        r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=1.0, seed=seed, max_tokens=120, response_format={"type": "json_schema", "json_schema": {"name": "word", "schema": schema, "strict": True}})
        if r.choices[0].finish_reason == "stop":
            value = json.loads(r.choices[0].message.content)
            assert not list(Draft202012Validator(schema).iter_errors(value)), value
        else:
            assert r.choices[0].finish_reason == "length"
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, max_tokens=20, extra_body={"structured_outputs": {"choice": ["yes", "no", "perhaps"]}})
    assert r.choices[0].message.content in ("yes", "no", "perhaps") and r.choices[0].finish_reason == "stop"
    r = client.completions.create(model="dictionary", prompt="a", temperature=1, seed=5, max_tokens=20, extra_body={"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}})
    assert len(r.choices[0].text) == 6 and r.choices[0].text[3] == "-", r.choices[0].text
    r = client.completions.create(model="dictionary", prompt="a", temperature=1, seed=5, max_tokens=40, extra_body={"grammar": 'root ::= ("ab" | "cd")+ "."'})
    assert r.choices[0].finish_reason == "length" or r.choices[0].text.endswith("."), r.choices[0].text
    r = client.chat.completions.create(model="dictionary", messages=ASK, temperature=0, seed=1, max_tokens=100, response_format={"type": "json_object"})
    assert r.choices[0].message.content.startswith("{")
    status, e = post("/v1/chat/completions", {"model": "dictionary", "messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}}})
    assert status == 400 and "uniqueItems" in e["error"]["message"] and e["error"]["param"] == "response_format", e


def metric(name):
    status, _, text = server.call("GET", "/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.decode().splitlines() if line.startswith(name + "{"))


def test_prefix_cache_is_told():
    words = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen. " * 3
    ask = {"model": "dictionary", "prompt": words, "max_tokens": 2, "temperature": 0}
    first = post("/v1/completions", ask)[1]
    again = post("/v1/completions", ask)[1]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 32
    assert first["choices"][0]["text"] == again["choices"][0]["text"]
    off = post("/v1/completions", dict(ask, cache_prompt=False))[1]
    assert off["usage"]["prompt_tokens_details"]["cached_tokens"] == 0 and off["choices"][0]["text"] == first["choices"][0]["text"]
    assert metric("vllm:prefix_cache_hits_total") > 0


def test_clients_that_leave_free_everything():
    body = json.dumps({"model": "dictionary", "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 2})
    for i in range(40):
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        c.request("POST", "/v1/completions", body)
        if i % 2:
            c.getresponse().read(200)
        c.close()
    end = time.time() + 20
    while time.time() < end and (metric("vllm:num_requests_running") or metric("vllm:kv_cache_usage_perc")):
        client.completions.create(model="dictionary", prompt="a", max_tokens=1)      # gauges are set by a step
        time.sleep(0.1)
    assert metric("vllm:num_requests_running") == 0 and metric("vllm:kv_cache_usage_perc") == 0
    assert metric("vllm:request_success_total") > 0


def test_generate_extension():
    status, body = post("/v2/models/dictionary/generate", {"text_input": "<|user|>Define mention.<|assistant|>", "id": "7", "parameters": {"temperature": 0, "max_tokens": 40}})
    assert status == 200 and body["text_output"] == ANSWER and body["id"] == "7" and body["model_name"] == "dictionary", body
    data = events("/v2/models/dictionary/generate_stream", {"text_input": "<|user|>Define mention.<|assistant|>", "temperature": 0, "max_tokens": 40})
    assert "".join(json.loads(d)["text_output"] for d in data) == ANSWER
    status, body = post("/v2/models/digits/generate", {"text_input": "x"})
    assert status == 400 and isinstance(body["error"], str)


PIECES = ["<think>", "hm, ", "weather", "</think>", "\n\n", "I ", "look.", "\n", "<tool_call>", "\n{\"name\": \"get", "_weather\", \"arguments\": {\"city\"", ": \"Paris</tool_call>\"}}", "\n</tool_call>",
          "\n<tool_call>{\"name\": ", "\"noop\", \"arguments\":", " {}}</tool_call>"]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}, {"type": "function", "function": {"name": "noop", "parameters": {"type": "object", "properties": {}}}}]


def make_caller(folder):
    """A language model that always says PIECES: one-hot embeddings pass through layers of zeros, and the head sends each token to the next."""
    os.makedirs(folder)
    texts = ["<unk>", "<|user|>", "<|assistant|>"] + PIECES + ["<|end|>"] + [chr(c) for c in range(32, 127)]
    special = {"<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<tool_call>"}
    n, wide, end = len(texts), 128, 3 + len(PIECES)
    zeros = lambda rows: [[0.0] * wide for _ in range(rows)]
    embed, head = zeros(n), zeros(n)
    for i in range(n):
        embed[i][i] = 1.0
        head[min(i + 1, end)][i] = 10.0
    tensors = {"model.embed_tokens.weight": embed, "lm_head.weight": head, "model.norm.weight": [1.0] * wide}
    for name, value in (("input_layernorm", [1.0] * wide), ("post_attention_layernorm", [1.0] * wide), ("self_attn.q_proj", zeros(wide)), ("self_attn.k_proj", zeros(wide)), ("self_attn.v_proj", zeros(wide)), ("self_attn.o_proj", zeros(wide)),
                        ("mlp.gate_proj", zeros(wide)), ("mlp.up_proj", zeros(wide)), ("mlp.down_proj", zeros(wide))):
        tensors["model.layers.0.%s.weight" % name] = value
    write_tensors(folder, tensors)
    write = lambda name, content: open(os.path.join(folder, name), "wb").write(content)
    write("config.json", json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": wide, "intermediate_size": wide, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": n,
                                     "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32", "eos_token_id": end}).encode())
    write("tokenizer.json", json.dumps({"version": "1.0", "added_tokens": [{"id": i, "content": t, "special": t in special, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False} for i, t in enumerate(texts)],
                                        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}, "post_processor": None, "decoder": {"type": "ByteLevel"},
                                        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(texts)}, "merges": []}}).encode())
    write("tokenizer_config.json", json.dumps({"eos_token": "<|end|>", "chat_template": "{# <tool_call> </think> #}<|user|><|assistant|>"}).encode())


caller_server = None


def caller(path, body, stream=False):
    global caller_server
    if caller_server is None:
        made = make_store(())
        make_caller(os.path.join(made, "caller", "1"))
        caller_server = Server(store=made)
    body = dict(body, model="caller", temperature=0)
    if not stream:
        return caller_server.json("POST", path, body)
    status, _, text = caller_server.call("POST", path, dict(body, stream=True))
    assert status == 200, text
    return [line[6:] for line in text.decode().split("\n") if line.startswith("data: ")]


def test_tool_calls():
    status, body = caller("/v1/chat/completions", {"messages": ASK, "tools": TOOLS, "n": 2, "logprobs": True})
    assert status == 200, body
    validate("CreateChatCompletionResponse", body)
    for c in body["choices"]:
        m = c["message"]
        assert c["finish_reason"] == "tool_calls" and m["content"] == "I look." and m["reasoning_content"] == "hm, weather", m
        assert [(t["type"], t["function"]["name"], json.loads(t["function"]["arguments"])) for t in m["tool_calls"]] == [("function", "get_weather", {"city": "Paris</tool_call>"}), ("function", "noop", {})]
    ids = [t["id"] for c in body["choices"] for t in c["message"]["tool_calls"]]
    assert len(set(ids)) == 4 and all(i.startswith("call_") for i in ids), ids


def test_tool_calls_are_streamed():
    data = caller("/v1/chat/completions", {"messages": ASK, "tools": TOOLS}, stream=True)
    assert data[-1] == "[DONE]"
    content, reasoning, calls, finish = "", "", [], None
    for d in map(json.loads, data[:-1]):
        validate("CreateChatCompletionStreamResponse", d)
        delta = d["choices"][0]["delta"]
        content += delta.get("content") or ""
        reasoning += delta.get("reasoning_content") or ""
        finish = d["choices"][0]["finish_reason"] or finish
        for t in delta.get("tool_calls", []):
            if t["index"] == len(calls):
                assert t["id"].startswith("call_") and t["type"] == "function"
                calls.append([t["function"]["name"], ""])
            calls[t["index"]][1] += t["function"]["arguments"]
    assert content == "I look." and reasoning == "hm, weather" and finish == "tool_calls", (content, reasoning, finish)
    assert [(n, json.loads(a)) for n, a in calls] == [("get_weather", {"city": "Paris</tool_call>"}), ("noop", {})], calls
    own = openai.OpenAI(base_url="http://%s/v1" % caller_server.address, api_key="none", max_retries=0)
    names = [t.function.name for chunk in own.chat.completions.create(model="caller", messages=ASK, tools=TOOLS, temperature=0, stream=True) for t in (chunk.choices[0].delta.tool_calls or []) if t.function.name]
    assert names == ["get_weather", "noop"]


def test_calls_are_text_unless_tools_may_be_called():
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        status, body = caller("/v1/chat/completions", dict(more, messages=ASK))
        m = body["choices"][0]["message"]
        validate("CreateChatCompletionResponse", body)
        assert "tool_calls" not in m and m["content"].startswith("I look.\n<tool_call>\n{") and m["reasoning_content"] == "hm, weather" and body["choices"][0]["finish_reason"] == "stop", m
    status, body = caller("/v1/chat/completions", {"messages": ASK, "tools": TOOLS, "max_tokens": 11})
    m = body["choices"][0]["message"]
    assert body["choices"][0]["finish_reason"] == "length" and "tool_calls" not in m and "get_weather" in m["content"], m


def one_call(body):
    status, answer = caller("/v1/chat/completions", dict(body, messages=ASK))
    assert status == 200, answer
    validate("CreateChatCompletionResponse", answer)
    c = answer["choices"][0]
    return c["message"], c["finish_reason"], answer["usage"]


def test_calls_that_must_be_made():
    """The model wants to say something before it calls, and to call two tools; what is asked for is what comes."""
    m, finish, usage = one_call({"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False})
    assert finish == "tool_calls" and m["content"] is None and [(t["function"]["name"], json.loads(t["function"]["arguments"])) for t in m["tool_calls"]] == [("get_weather", {"city": "Paris</tool_call>"})], m
    assert m["reasoning_content"] == "hm, weather" and usage["completion_tokens_details"]["reasoning_tokens"] == 4, usage
    m, finish, usage = one_call({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "noop"}}})
    assert [(t["function"]["name"], t["function"]["arguments"]) for t in m["tool_calls"]] == [("noop", "{}")] and m["content"] is None, m
    strict = [{"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": {"type": "object", "properties": {"days": {"enum": [3]}}, "required": ["days"], "additionalProperties": False}}}]
    m, finish, usage = one_call({"tools": strict, "parallel_tool_calls": False})
    assert m["content"] == "I look." and [json.loads(t["function"]["arguments"]) for t in m["tool_calls"]] == [{"days": 3}], m
    m, finish, usage = one_call({"tools": TOOLS, "parallel_tool_calls": False})
    assert m["content"] == "I look." and len(m["tool_calls"]) == 1 and usage["completion_tokens_details"]["reasoning_tokens"] == 4, (m, usage)
    own = openai.OpenAI(base_url="http://%s/v1" % caller_server.address, api_key="none", max_retries=0)
    names = [t.function.name for chunk in own.chat.completions.create(model="caller", messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=0, stream=True) if chunk.choices for t in (chunk.choices[0].delta.tool_calls or []) if t.function.name]
    assert names == ["get_weather"], names


def test_functions_as_they_were_before_tools():
    functions = [t["function"] for t in TOOLS]
    m, finish, usage = one_call({"functions": functions})
    assert finish == "function_call" and m["content"] == "I look." and "tool_calls" not in m and m["function_call"]["name"] == "get_weather", m
    m, finish, usage = one_call({"functions": functions, "function_call": {"name": "noop"}})
    assert m["function_call"] == {"name": "noop", "arguments": "{}"} and finish == "function_call", m
    m, finish, usage = one_call({"functions": functions, "function_call": "none"})
    assert "function_call" not in m and finish == "stop", m
    data = caller("/v1/chat/completions", {"messages": ASK + [{"role": "assistant", "content": None, "function_call": {"name": "noop", "arguments": "{}"}}, {"role": "function", "name": "noop", "content": "done"}], "functions": functions}, stream=True)
    calls = [d["choices"][0]["delta"]["function_call"] for d in map(json.loads, data[:-1]) if d["choices"][0]["delta"].get("function_call")]
    assert [c["name"] for c in calls] == ["get_weather"] and json.loads(calls[0]["arguments"]) == {"city": "Paris</tool_call>"}, data


def test_choices_that_cannot_be_enforced_are_refused():
    odd = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"$dynamicRef": "#x"}}}}}]
    for body, parameter, words in (
            ({"tool_choice": "required"}, "tool_choice", "needs 'tools'"), ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "none, auto, required"),
            ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice", "fly"), ({"tools": odd, "tool_choice": "required"}, "tool_choice", "$dynamicRef"),
            ({"tools": [{"type": "function"}]}, "tools", "a tool is"), ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls", "true or false")):
        status, answer = caller("/v1/chat/completions", dict(body, messages=ASK))
        assert status == 400 and answer["error"]["param"] == parameter and words in answer["error"]["message"], answer
    status, answer = post("/v1/chat/completions", {"model": "dictionary", "messages": ASK, "tools": TOOLS, "tool_choice": "required"})
    assert status == 400 and "no form of tool calls" in answer["error"]["message"], answer


def test_a_template_that_cannot_be_read_is_logged():
    made = make_store(())
    make_caller(os.path.join(made, "mute", "1"))
    path = os.path.join(made, "mute", "1", "tokenizer_config.json")
    config = json.load(open(path))
    config["chat_template"] = "{% for m in messages %}never closed"
    json.dump(config, open(path, "w"))
    mute = Server(store=made)
    assert mute.json("POST", "/v1/completions", {"model": "mute", "prompt": "a", "max_tokens": 1})[0] == 200
    status, answer = mute.json("POST", "/v1/chat/completions", {"model": "mute", "messages": ASK})
    mute.stop()
    assert status == 400 and "no chat template" in answer["error"]["message"], answer
    assert any(l.get("message", "").startswith("mute version 1: no chat template: ") for l in mute.logs()), mute.logs()


def make_pair(folder, decoder):
    """A T5 of random weights over letters, or its encoder alone."""
    os.makedirs(folder)
    draw = random.Random(5)
    pieces = ["<pad>", "</s>", "<unk>", "\u2581"] + [chr(c) for c in range(97, 123)]
    wide, inner, ffn = 16, 16, 24
    rows = lambda n, k, size: [[draw.uniform(-size, size) for _ in range(k)] for _ in range(n)]
    tensors = {"shared.weight": rows(len(pieces), wide, 3)}
    for stack in ("encoder", "decoder") if decoder else ("encoder",):
        for layer in range(2):
            at = "%s.block.%d.layer." % (stack, layer)
            attention = [("0.", "SelfAttention")] + ([("1.", "EncDecAttention")] if stack == "decoder" else [])
            for where, kind in attention:
                for part in "qkv":
                    tensors[at + where + kind + "." + part + ".weight"] = rows(inner, wide, 0.5)
                tensors[at + where + kind + ".o.weight"] = rows(wide, inner, 0.5)
                tensors[at + where + "layer_norm.weight"] = [1.0] * wide
            last = "%d." % len(attention)
            for part, n, k in (("wi_0", ffn, wide), ("wi_1", ffn, wide), ("wo", wide, ffn)):
                tensors[at + last + "DenseReluDense." + part + ".weight"] = rows(n, k, 0.5)
            tensors[at + last + "layer_norm.weight"] = [1.0] * wide
        tensors[stack + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = rows(32, 2, 1)
        tensors[stack + ".final_layer_norm.weight"] = [1.0] * wide
    if decoder:
        tensors["lm_head.weight"] = rows(len(pieces), wide, 1)
    write_tensors(folder, tensors)
    write = lambda name, value: json.dump(value, open(os.path.join(folder, name), "w"))
    write("config.json", {"architectures": ["T5ForConditionalGeneration" if decoder else "T5EncoderModel"], "model_type": "t5", "d_model": wide, "d_kv": 8, "d_ff": ffn, "num_heads": 2, "num_layers": 2, "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6,
                          "vocab_size": len(pieces), "decoder_start_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False, "n_positions": 64})
    write("tokenizer.json", {"version": "1.0", "added_tokens": [{"id": i, "content": pieces[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False} for i in range(3)], "normalizer": None,
                             "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}, "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
                             "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
                             "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": False, "vocab": [[p, 0.0 if i < 3 else -1.0 - i / 100] for i, p in enumerate(pieces)]}})
    write("tokenizer_config.json", {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


def test_an_encoder_beside_a_decoder():
    made = make_store(())
    make_pair(os.path.join(made, "pair", "1"), True)
    make_pair(os.path.join(made, "reader", "1"), False)
    with Server(store=made) as s:
        own = openai.OpenAI(base_url="http://%s/v1" % s.address, api_key="none", max_retries=0)
        one = own.completions.create(model="pair", prompt="translate this", max_tokens=20, temperature=0)
        assert one.usage.prompt_tokens == 16 and 1 <= one.usage.completion_tokens <= 20 and one.choices[0].finish_reason in ("stop", "length"), one
        many = own.completions.create(model="pair", prompt=["translate this", "or that", "abc"], max_tokens=20, temperature=0, n=2)
        assert many.choices[0].text == many.choices[1].text == one.choices[0].text and len({c.text for c in many.choices}) > 1, many
        streamed = "".join(c.choices[0].text for c in own.completions.create(model="pair", prompt="translate this", max_tokens=20, temperature=0, stream=True))
        assert streamed == one.choices[0].text
        status, body = s.json("POST", "/v1/completions", {"model": "pair", "prompt": "x" * 62, "max_tokens": 63, "temperature": 0})      # each side has the context to itself
        assert status == 200, body
        for more, words in (({"prompt": "x" * 70}, "maximum context length is 64"), ({"prompt": "x", "max_tokens": 65}, "at most 64"), ({"prompt": "x", "echo": True}, "'echo'")):
            status, body = s.json("POST", "/v1/completions", dict(more, model="pair"))
            assert status == 400 and words in body["error"]["message"], body
        status, body = s.json("POST", "/v1/embeddings", {"model": "pair", "input": "x"})
        assert status == 400 and "vectors" in body["error"]["message"], body
        vectors = own.embeddings.create(model="reader", input=["one text", "another"], encoding_format="float")
        assert len(vectors.data[0].embedding) == 16 and vectors.data[0].embedding != vectors.data[1].embedding
        status, body = s.json("POST", "/v1/completions", {"model": "reader", "prompt": "x"})
        assert status == 400 and "encoder" in body["error"]["message"], body


run(globals())
