"""OpenAI's own document, to which answers must hold."""
import json, os, subprocess

from jsonschema import Draft202012Validator

from harness import ROOT

SHARED = os.environ.get("INFERD_SHARED", os.path.join(ROOT, "../shared"))
document = None


def with_null(x):
    """The document says `nullable` as OpenAPI 3.0 did; JSON Schema has another word for it."""
    if isinstance(x, list):
        return [with_null(v) for v in x]
    if not isinstance(x, dict):
        return x
    y = {k: with_null(v) for k, v in x.items() if k != "nullable"}
    return {"anyOf": [y, {"type": "null"}]} if x.get("nullable") is True else y


def validate(schema, value):
    """Against a schema of OpenAI's document, where ../shared has it."""
    global document
    path = os.path.join(SHARED, "data/openai-openapi.json.zst")
    if document is None:
        document = with_null(json.loads(subprocess.run(["zstd", "-dqc", path], stdout=subprocess.PIPE, check=True).stdout)) if os.path.exists(path) else {}
    if document:
        errors = sorted(Draft202012Validator({"$ref": "#/components/schemas/" + schema, "components": document["components"]}).iter_errors(value), key=str)
        assert not errors, "%s: %s at %s" % (schema, errors[0].message[:300], list(errors[0].absolute_path))
