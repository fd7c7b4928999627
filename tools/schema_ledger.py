#!/usr/bin/env python3
"""Two proofs for structured output, through the test binary build/<config>/tests/text/schema_test.

ledger: every schema of JSON-Schema-Test-Suite (drafts 7 and 2020-12, without format.json and content.json, where
        formats are remarks only and remarks are tested) is compiled or refused; each instance of a
        compiled one must be accepted exactly when the suite calls it valid. An instance is written on one line, numbers in their shortest decimal form, and counts as accepted
        when any order of its members is. Writes tests/conformance/schema_ledger.txt.
random: N random schemas, grammars and regular expressions; texts drawn from the masks must parse and validate with PyPI's jsonschema, at most 5 % may be refused.
"""
import argparse, itertools, json, os, random, re, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(binary, cases):
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder, "cases"), Path(folder, "results")
        a.write_text("".join(json.dumps(c) + "\n" for c in cases))
        p = subprocess.run([binary], cwd=ROOT, env=dict(os.environ, GRAMMAR_CASES=str(a), GRAMMAR_RESULTS=str(b)), capture_output=True, text=True)
        failed = [l for l in p.stdout.splitlines() if l.startswith(("FAIL", "fail")) or ": " in l and "not" in l and l.startswith("tests/")]
        if p.returncode:
            print(p.stdout[-3000:], p.stderr[-3000:], f"exit status {p.returncode}")
        results = [json.loads(l) for l in b.read_text(encoding="utf-8").split("\n") if l]
        if len(results) != len(cases):
            sys.exit(f"{len(results)} answers to {len(cases)} cases")
        return results, p.returncode


def number(v):
    if isinstance(v, float):
        if v == int(v) and abs(v) < 1e300:
            return str(int(v))
        text = repr(v)
        if "e" in text:
            text = f"{v:.40f}".rstrip("0")
        return text
    return str(v)


def text_of(v, order=None):
    """All the ways to write v that differ in the order of members (at most 720 for one object)."""
    if isinstance(v, bool) or v is None or isinstance(v, str):
        return [json.dumps(v, ensure_ascii=False)]
    if isinstance(v, (int, float)):
        return [number(v)]
    if isinstance(v, list):
        parts = itertools.product(*[text_of(x) for x in v])
        return ["[" + ",".join(p) + "]" for p in itertools.islice(parts, 200)]
    out = []
    for keys in itertools.islice(itertools.permutations(v), 720 if len(v) < 7 else 1):
        for p in itertools.islice(itertools.product(*[text_of(v[k]) for k in keys]), 50):
            out.append("{" + ",".join(json.dumps(k, ensure_ascii=False) + ":" + t for k, t in zip(keys, p)) + "}")
    return out[:2000]


def ledger(binary, suite, write):
    cases, names = [], []
    for draft in ("draft7", "draft2020-12"):
        base = Path(suite, "tests", draft)
        for f in sorted(base.rglob("*.json")):
            name = f.relative_to(base.parent).as_posix()
            if f.name in ("format.json", "format-assertion.json", "content.json"):
                continue
            for group in json.loads(f.read_text()):
                schema = group["schema"]
                if isinstance(schema, dict) and draft == "draft7":
                    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
                cases.append({"kind": "schema", "source": schema, "texts": [text_of(t["data"]) for t in group["tests"]]})
                names.append((name, group["description"], group["tests"]))
    results, _ = run(binary, cases)
    good = bad = refused = 0
    lines = []
    for (name, what, tests), r in zip(names, results):
        if "error" in r:
            refused += 1
            lines.append(f"refused  {name} | {what} | {r['error']}")
            continue
        for t, ok in zip(tests, r["accepts"]):
            if ok == t["valid"]:
                good += 1
            else:
                bad += 1
                lines.append(f"differs  {name} | {what} | {t['description']} | {'accepted' if ok else 'not accepted'}, the suite says {'valid' if t['valid'] else 'invalid'}")
    head = f"{len(cases)} schemas: {len(cases) - refused} compiled, {refused} refused; {good + bad} instances of the compiled ones: {good} as the suite says, {bad} not"
    print(head)
    loose = [l for l in lines if l.startswith("differs") and "| accepted, " in l]
    print(f"{len(loose)} invalid instances accepted")
    if write:
        Path(ROOT, "tests/conformance/schema_ledger.txt").write_text("# tools/schema_ledger.py ledger\n# " + head + "\n" + "\n".join(sorted(lines)) + "\n")
    else:
        print("\n".join(l for l in lines if l.startswith("differs")))
    return bool(loose)


WORDS = ["name", "age", "id", "tags", "kind", "x", "ä", "a b", 'q"t', "value", "next"]


def random_schema(r, depth=0, defs=False):
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format", "nullable"]
    if depth < 4:
        kinds += ["object"] * 5 + ["array"] * 3 + ["anyOf", "oneOf", "allOf", "tuple", "map"]
        if defs:
            kinds += ["ref"]
    k = r.choice(kinds) if depth or r.random() < .2 else "object"
    sub = lambda: random_schema(r, depth + 1, defs)
    if k == "string":
        s = {"type": "string"}
        if r.random() < .3: s["minLength"] = r.randint(0, 5)
        if r.random() < .3: s["maxLength"] = r.randint(5, 40)
        return s
    if k in ("integer", "number"):
        s = {"type": k}
        low = r.randint(-1000, 1000) if k == "integer" else round(r.uniform(-50, 50), r.randint(0, 3))
        if r.random() < .4: s[r.choice(["minimum", "exclusiveMinimum"])] = low
        if r.random() < .4: s[r.choice(["maximum", "exclusiveMaximum"])] = low + r.randint(2, 500)
        if k == "integer" and r.random() < .1: s["multipleOf"] = r.randint(1, 12)
        return s
    if k == "enum": return {"enum": [r.choice([1, "a", None, True, "b\n", -2.5, "ü", [1, 2], {"k": "v"}]) for _ in range(r.randint(1, 5))]}
    if k == "const": return {"const": r.choice(["fixed", 7, None, False, {"a": [1, "x"]}])}
    if k == "pattern":
        s = {"type": "string", "pattern": r.choice(["^[a-z]+$", "^\\d{3}-\\d{4}$", "[0-9]", "^(foo|bar)", "x$", "^[A-Z][a-z]{0,9}( [A-Z][a-z]*)?$", "^[^@ ]+@[a-z]+$", "^[^\"\\\\]*$", "a.c", "^#[0-9a-fA-F]{6}$"])}
        if r.random() < .3: s["maxLength"] = 30
        return s
    if k == "format": return {"type": "string", "format": r.choice(["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri"])}
    if k == "nullable": return {"type": ["null", r.choice(["string", "integer", "boolean"])]}
    if k == "ref": return {"$ref": "#/$defs/" + r.choice(["node", "leaf"])}
    if k == "anyOf": return {"anyOf": [sub() for _ in range(r.randint(1, 3))]}
    if k == "oneOf":
        if r.random() < .5: return {"oneOf": [{"type": "string", "maxLength": 9}, {"type": "integer"}, {"type": "array", "items": sub()}]}
        return {"oneOf": [{"type": "object", "properties": {"kind": {"const": c}, "v": sub()}, "required": ["kind", "v"], "additionalProperties": False} for c in ("p", "q")]}
    if k == "allOf": return {"allOf": [{"type": "object", "properties": {"a": sub()}, "required": ["a"]}, {"properties": {"b": sub()}}]}
    if k == "map":
        if r.random() < .3: return {"type": "object", "patternProperties": {"^[a-z]": sub()}, "additionalProperties": r.choice([False, True, {"type": "integer"}])}
        return {"type": "object", "additionalProperties": sub(), **({"maxProperties": 4} if r.random() < .5 else {})}
    if k == "tuple": return {"type": "array", "prefixItems": [sub() for _ in range(r.randint(1, 3))], "items": r.choice([False, True, sub()]), "minItems": r.randint(0, 2)}
    if k == "array":
        s = {"type": "array", "items": sub()}
        if r.random() < .3: s["minItems"] = r.randint(0, 3)
        if r.random() < .5: s["maxItems"] = r.randint(3, 6)
        if r.random() < .1: s.update(uniqueItems=True, items={"enum": ["r", "g", "b"]}, minItems=0)
        if r.random() < .1: s["contains"] = {"type": "integer"}; s["items"] = {"type": ["integer", "string"]}
        return s
    if k == "object":
        names = r.sample(WORDS, r.randint(0, 6))
        s = {"type": "object", "properties": {n: sub() for n in names}}
        s["required"] = r.sample(names, r.randint(0, len(names)))
        if r.random() < .7: s["additionalProperties"] = r.choice([False, False, False, True, {"type": "string"}])
        if names and r.random() < .08: s["dependentRequired"] = {names[0]: [names[-1]]}
        if names and r.random() < .05: s.update({"if": {"properties": {names[0]: {"const": 1}}, "required": [names[0]]}, "then": {"required": [names[-1]]}})
        if names and r.random() < .05: s["minProperties"] = 1
        if r.random() < .05: s["not"] = {"required": ["forbidden"]}
        if r.random() < .05: s["propertyNames"] = {"maxLength": 12}
        return s
    return {"type": k}


def random_regex(r, depth=0):
    k = r.randint(0, 9 if depth < 3 else 3)
    if k < 3: return r.choice(["a", "b", "\\d", "[a-f]", "[^x]", "é", "\\.", " "])
    if k == 3: return "[0-9a-z]{%d,%d}" % (r.randint(0, 2), r.randint(2, 5))
    if k < 7: return random_regex(r, depth + 1) + random_regex(r, depth + 1)
    if k == 7: return "(" + random_regex(r, depth + 1) + "|" + random_regex(r, depth + 1) + ")"
    return "(?:" + random_regex(r, depth + 1) + ")" + r.choice("*+?")


def random_grammar(r):
    """A grammar of brackets, and the regular expression or check its texts must pass."""
    body = random_regex(r)
    if r.random() < .5:
        return {"kind": "regex", "source": body}, lambda t: re.fullmatch(body, t) is not None
    a, b = r.choice([("(", ")"), ("<", ">"), ("[", "]"), ("begin ", " end")])
    n = r.randint(1, 4)
    source = f'root ::= item{{1,{n}}} # items\nitem ::= "{a}" ( item | word ("," word)* )? "{b}"\nword ::= [a-z] [a-z0-9_]*'

    def check(t):
        word = r"[a-z][a-z0-9_]*"
        while True:
            t2 = re.sub(re.escape(a) + rf"(?:\x00|{word}(?:,{word})*)?" + re.escape(b), "\x00", t)
            if t2 == t: break
            t = t2
        return 1 <= len(t) <= n and set(t) == {"\x00"}
    return {"kind": "gbnf", "source": source}, check


def randoms(binary, count, seed):
    import jsonschema
    r = random.Random(seed)
    cases, checks = [], []
    for i in range(count):
        if r.random() < .2:
            case, check = random_grammar(r)
        else:
            schema = random_schema(r, 0, defs := r.random() < .3)
            if defs:
                schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": {"leaf": random_schema(r, 4), "node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v"], "additionalProperties": False}}}
            case = {"kind": "schema", "source": schema}
            v = jsonschema.Draft202012Validator(schema)
            check = lambda t, v=v: v.is_valid(json.loads(t))
        cases.append({**case, "texts": [], "walks": 3, "seed": i * 7})
        checks.append(check)
    results, status = run(binary, cases)
    refused = wrong = texts = cut = 0
    why = {}
    for c, check, a in zip(cases, checks, results):
        if "error" in a:
            refused += 1
            key = re.sub(r"#\S*", "#", a["error"])[:120]
            why[key] = why.get(key, 0) + 1
            continue
        for w in a["walks"]:
            if not w["done"]:
                cut += 1
                continue
            texts += 1
            try:
                ok = check(w["text"])
            except Exception as e:
                ok = False
            if not ok:
                wrong += 1
                if wrong < 6: print("WRONG", json.dumps(c["source"])[:1500], "\n  ", w["text"][:600])
    print(f"{count} schemas and grammars: {refused} refused ({100 * refused / count:.1f} %), {texts} texts ended and {wrong} of them wrong, {cut} cut by length")
    for k, n in sorted(why.items(), key=lambda x: -x[1])[:8]: print(f"  {n:5} {k}")
    return wrong > 0 or refused > count * .05 or status != 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["ledger", "random"])
    p.add_argument("--binary", default=str(ROOT / "build/release/tests/text/schema_test"))
    p.add_argument("--suite", help="the unpacked JSON-Schema-Test-Suite")
    p.add_argument("--write", action="store_true", help="keep the ledger")
    p.add_argument("--count", type=int, default=10000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    binary = str(Path(a.binary).resolve())
    sys.exit(ledger(binary, a.suite, a.write) if a.what == "ledger" else randoms(binary, a.count, a.seed))


main()
