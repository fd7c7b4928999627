"""The stock openai client against the demo model of shapes: generations, edits, variations and streams; every answer validates against OpenAI's own document."""
# needs: openai jsonschema
import base64, concurrent.futures, json, os, shutil, struct, subprocess, tempfile, time, warnings, zlib

import numpy
import openai

from harness import ROOT, Server, make_store, run
from openai_document import validate

SANITIZED = os.path.basename(os.path.dirname(os.environ.get("INFERD", ""))) in ("address", "undefined", "thread")
store = make_store(("shapes", "digits"))
with open(os.path.join(store, "shapes/config.pbtxt"), "w") as f:
    f.write('backend: "diffusion"\nparameters { key: "precision" value { string_value: "f32" } }\n')
shutil.copytree(os.path.join(store, "shapes"), os.path.join(store, "quick"), ignore=lambda *_: ["config.pbtxt"])      # in the arithmetic that the machine is quickest at
server = Server(store=store)
client = openai.OpenAI(base_url="http://%s/v1" % server.address, api_key="none", max_retries=0)
RED = "a large red circle in the center on a white background"
FEW = {"steps": 3 if SANITIZED else 25, "guidance_scale": 4}
warnings.simplefilter("ignore", DeprecationWarning)


def pixels(png):
    """A PNG of ours (8-bit RGB, not interlaced) as (width, height, rows), and its texts."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, texts = 8, b"", {}
    while at < len(png):
        n, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + n]
        assert struct.unpack(">I", png[at + 8 + n:at + 12 + n])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2)
        elif kind == b"IDAT":
            data += body
        elif kind == b"iTXt":
            key, rest = body.split(b"\0", 1)
            texts[key.decode()] = rest[4:].decode()
        at += 12 + n
    raw, rows, above = zlib.decompress(data), [], bytes(3 * width)
    for y in range(height):
        kind, line = raw[y * (3 * width + 1)], bytearray(raw[y * (3 * width + 1) + 1:(y + 1) * (3 * width + 1)])
        for i in range(3 * width):
            a, b, c = line[i - 3] if i >= 3 else 0, above[i], above[i - 3] if i >= 3 else 0
            p = a + b - c
            paeth = min(((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c)))[2]
            line[i] = (line[i] + (0, a, b, (a + b) // 2, paeth)[kind]) & 255
        rows.append([tuple(line[3 * x:3 * x + 3]) for x in range(width)])
        above = bytes(line)
    return width, height, rows, texts


def png(width, height, colour, alpha=None):
    """A PNG of one colour; alpha(x, y) makes it RGBA."""
    rows = b"".join(b"\0" + b"".join(bytes(colour) + (bytes([alpha(x, y)]) if alpha else b"") for x in range(width)) for y in range(height))
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6 if alpha else 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def draw(**more):
    body = {"model": "shapes", "prompt": RED, "seed": 1, **FEW, **more}
    status, answer = server.json("POST", "/v1/images/generations", body)
    assert status == 200, answer
    return answer


def like(a, b, within):
    return max(abs(a[i] - b[i]) for i in range(3)) <= within


def test_a_sentence_is_drawn():
    r = client.images.generate(model="shapes", prompt=RED, extra_body={"seed": 1, **FEW})
    bytes_ = base64.b64decode(r.data[0].b64_json)
    width, height, rows, texts = pixels(bytes_)
    assert (width, height, r.size, r.output_format) == (64, 64, "64x64", "png")
    assert RED in texts["parameters"] and "Seed: 1" in texts["parameters"] and "Sampler: ddim" in texts["parameters"] and "Model: shapes" in texts["parameters"], texts
    if not SANITIZED:
        red, green, blue = rows[32][32]
        assert red > 180 and green < 90 and blue < 90, rows[32][32]
        assert all(like(rows[y][x], (255, 255, 255), 40) for x, y in ((3, 3), (60, 3), (3, 60), (60, 60)))
    answer = draw(n=2)
    validate("ImagesResponse", {**answer, "size": "1024x1024"})      # the document knows three sizes
    assert [d["seed"] for d in answer["data"]] == [1, 2] and base64.b64decode(answer["data"][0]["b64_json"]) == bytes_
    p = answer["parameters"]
    assert (p["steps"], p["guidance_scale"], p["seed"], p["sampler"], p["width"], p["height"]) == (FEW["steps"], 4, 1, "ddim", 64, 64), p


def test_quick_arithmetic_draws_the_same():
    exact, quick = (pixels(base64.b64decode(draw(model=m)["data"][0]["b64_json"]))[2] for m in ("shapes", "quick"))
    off = [abs(a - b) for y in range(64) for x in range(64) for a, b in zip(exact[y][x], quick[y][x])]
    assert sum(off) / len(off) < 2 and max(off) < 40, (sum(off) / len(off), max(off))


def test_the_same_beside_others():
    alone = {seed: draw(seed=seed, steps=steps, sampler=sampler)["data"][0]["b64_json"] for seed, steps, sampler in ((1, 3, "ddim"), (2, 5, "euler"), (3, 4, "dpmpp_2m"), (4, 3, "ddpm"))}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(1 if SANITIZED else 3):
            together = list(pool.map(lambda a: (a[0], draw(seed=a[0], steps=a[1], sampler=a[2])["data"][0]["b64_json"]), ((1, 3, "ddim"), (2, 5, "euler"), (3, 4, "dpmpp_2m"), (4, 3, "ddpm"))))
            assert dict(together) == alone


def test_formats_and_sizes():
    for name, mark in (("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")):
        answer = draw(output_format=name, output_compression=90, steps=1)
        assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(mark) and answer["output_format"] == name
    url = draw(response_format="url", steps=1)["data"][0]["url"]
    assert url.startswith("data:image/png;base64,") and base64.b64decode(url[22:]).startswith(b"\x89PNG")
    assert pixels(base64.b64decode(draw(size="72x48", steps=1)["data"][0]["b64_json"]))[:2] == (72, 48)
    unseeded = draw(seed=None, steps=1)
    assert draw(seed=unseeded["data"][0]["seed"], steps=1)["data"] == unseeded["data"]


def test_streams_show_what_becomes():
    kinds, last = [], None
    for event in client.images.generate(model="shapes", prompt=RED, stream=True, partial_images=2, extra_body={"seed": 1, **FEW}):
        kinds.append(event.type)
        validate("ImageGenPartialImageEvent" if event.type.endswith("partial_image") else "ImageGenCompletedEvent", {**event.to_dict(), "size": "1024x1024"})
        assert pixels(base64.b64decode(event.b64_json))[:2] == (64, 64)
        last = event
    assert kinds[-1] == "image_generation.completed" and 1 <= kinds.count("image_generation.partial_image") <= 2, kinds
    assert last.b64_json == draw()["data"][0]["b64_json"]


def test_edits_and_variations():
    grey, base = png(64, 64, (200, 200, 200)), base64.b64decode(draw()["data"][0]["b64_json"])
    left = png(64, 64, (0, 0, 0), lambda x, y: 0 if x < 32 else 255)      # the left half is drawn anew
    edit = lambda image, prompt=RED, **more: base64.b64decode(client.images.edit(model="shapes", image=("a.png", image, "image/png"), prompt=prompt, extra_body={"seed": 1, **FEW}, **more).data[0].b64_json)
    _, _, rows, texts = pixels(edit(base, "a large blue circle in the center on a white background", mask=("m.png", left, "image/png")))
    assert "Denoising strength" in texts["parameters"]
    if not SANITIZED:
        before = pixels(base)[2]
        far = [(x, y) for x in range(44, 64, 3) for y in range(0, 64, 3) if not like(rows[y][x], before[y][x], 60)]
        assert len(far) < 10, far                                          # what lies to the right stays as it was
        assert rows[32][22][2] > rows[32][22][0] + 50, rows[32][22]         # and blue has come on the left
    assert edit(png(64, 64, (200, 200, 200), lambda x, y: 0 if x < 32 else 255)) != edit(grey)      # without a mask the picture's own transparent part is drawn anew
    r = client.images.create_variation(model="shapes", image=("a.png", grey, "image/png"), n=2)
    assert len(r.data) == 2 and r.data[0].b64_json != r.data[1].b64_json
    kinds = [e.type for e in client.images.edit(model="shapes", image=("a.png", grey, "image/png"), prompt=RED, stream=True, extra_body={"seed": 1, "steps": 2})]
    assert kinds == ["image_edit.completed"], kinds


def test_refusals_name_the_field():
    for body, field in (({"size": "7x7"}, "size"), ({"size": "64"}, "size"), ({"n": 0}, "n"), ({"n": 17}, "n"), ({"steps": 0}, "steps"), ({"steps": 1001}, "steps"), ({"guidance_scale": "4"}, "guidance_scale"), ({"sampler": "none"}, "sampler"),
                        ({"schedule": "none"}, "schedule"), ({"seed": 1.5}, "seed"), ({"output_format": "gif"}, "output_format"), ({"response_format": "file"}, "response_format"), ({"background": "transparent"}, "background"), ({"prompt": 5}, "prompt"),
                        ({"prompt": ""}, "prompt"), ({"partial_images": 4, "stream": True}, "partial_images"), ({"partial_images": 1}, "partial_images"), ({"stream": "yes"}, "stream"), ({"strength": 2}, "strength"), ({"output_compression": 101}, "output_compression"),
                        ({"model": None}, "model"), ({"model": "digits"}, "model")):
        status, answer = server.json("POST", "/v1/images/generations", {"model": "shapes", "prompt": RED, **body})
        assert status == 400 and answer["error"]["param"] == field and answer["error"]["type"] == "invalid_request_error", (body, status, answer)
    try:
        client.images.generate(model="nobody", prompt="x")
        assert False
    except openai.NotFoundError as e:
        assert e.body["code"] == "model_not_found"
    for image, mask, field in ((b"no picture", None, "image"), (png(8, 8, (0, 0, 0)), b"no picture", "mask"), (png(8, 8, (0, 0, 0)), png(8, 8, (0, 0, 0)), "mask")):
        try:
            client.images.edit(model="shapes", image=("a.png", image), prompt=RED, **({"mask": ("m.png", mask)} if mask else {}))
            assert False, field
        except openai.BadRequestError as e:
            assert e.body["param"] == field, e.body
    status, headers, body = server.call("POST", "/v1/images/edits", {"model": "shapes", "prompt": RED})
    assert status == 415 and b"multipart/form-data" in body, (status, body)
    assert server.json("POST", "/v1/chat/completions", {"model": "shapes", "messages": [{"role": "user", "content": "hi"}]})[0] == 400


def test_those_who_leave_free_everything():
    """Cancelled at a step boundary: a picture of many steps does not run on, and the server answers others at once."""
    for stream in (False, True):
        c = server.connect()
        c.request("POST", "/v1/images/generations", json.dumps({"model": "shapes", "prompt": RED, "steps": 1000, "stream": stream, "n": 4}))
        time.sleep(0.3)
        c.close()
    start = time.time()
    draw(steps=1)
    assert time.time() - start < (60 if SANITIZED else 5), time.time() - start
    metrics = server.call("GET", "/metrics")[2].decode()
    pending = [l for l in metrics.split("\n") if l.startswith("nv_inference_pending_request_count") and 'model="shapes"' in l]
    assert pending and all(l.endswith(" 0") for l in pending), pending


def test_the_command_takes_and_gives_latents():
    program, folder = os.environ.get("INFERD", os.path.join(ROOT, "build/release/inferd")), tempfile.mkdtemp()
    command = lambda *more: subprocess.run([program, "draw", os.path.join(ROOT, "models/shapes"), "--prompt", RED, "--sampler", "ddim", "--steps", "2", "--precision", "f32", "--quiet", *more], cwd=folder, capture_output=True, text=True)
    first = numpy.random.default_rng(1).standard_normal((2, 4, 16, 16)).astype(numpy.float32)
    numpy.save(os.path.join(folder, "first.npy"), first)
    said = []
    for seed in ("1", "2"):
        out = command("--n", "2", "--seed", seed, "--latents", "first.npy", "--dump", ".")
        assert out.returncode == 0, out.stderr
        said.append([numpy.load(os.path.join(folder, "step_%d.npy" % k)) for k in range(2)])
    assert said[0][0].shape == first.shape and said[0][0].dtype == numpy.float32 and not os.path.exists(os.path.join(folder, "step_2.npy"))
    assert all((a == b).all() for a, b in zip(*said)) and (said[0][0] != first).any()        # the seed has no say where the noise is given
    assert os.path.exists(os.path.join(folder, "picture.png")) and os.path.exists(os.path.join(folder, "picture-2.png"))
    for wrong, sentence in ((("--latents", "first.npy"), "1024 are needed for 1 pictures"), (("--dump", "nowhere"), "step_0.npy' cannot be written"), (("--sampler", "none"), "there is no sampler 'none'")):
        out = command(*wrong)
        assert out.returncode != 0 and sentence in out.stderr, (wrong, out.stderr)
    shutil.rmtree(folder)


def test_models_lists_it():
    assert sorted(m.id for m in client.models.list()) == ["quick", "shapes"]


run(globals())
