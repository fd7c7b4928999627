"""Signed versions: who vouches for what is loaded, and what is refused."""
import os, shutil, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BINARY, Server, make_store, run

FOLDER = tempfile.mkdtemp(prefix="inferd-keys-")


def sign(*arguments):
    return subprocess.run([BINARY, "sign", *arguments], capture_output=True, text=True)


def new_key(name):
    path = os.path.join(FOLDER, name)
    got = sign("--new-key", path)
    assert got.returncode == 0 and len(got.stdout.strip()) == 64, got
    assert os.stat(path).st_mode & 0o077 == 0
    return path, got.stdout.strip()


ALICE, MALLORY = new_key("alice"), new_key("mallory")
TRUSTED = os.path.join(FOLDER, "trusted")
open(TRUSTED, "w").write("# who may\n%s alice\n" % ALICE[1])


def reason(store, *flags):
    """'' when version 1 of digits was loaded, else why it was not."""
    with Server("--trusted-signers", TRUSTED, "--strict-readiness", "false", "--access-log", "false", *flags, store=store) as s:
        row = s.json("POST", "/v2/repository/index")[1][0]
        status = s.call("GET", "/v2/models/digits/ready")[0]
        assert (status == 200) == (row["state"] == "READY"), row
        return row.get("reason", "")


def test_a_key_is_not_written_over():
    got = sign("--new-key", ALICE[0])
    assert got.returncode == 1 and "cannot be written" in got.stderr, got


def test_signed_and_unsigned():
    store = make_store()
    assert reason(store) == ""
    assert "not signed" in reason(store, "--require-signatures")
    got = sign(os.path.join(store, "digits/1"), "--key", ALICE[0])
    assert got.returncode == 0 and ALICE[1] in got.stdout, got
    assert reason(store, "--require-signatures") == ""
    shutil.rmtree(store)


def test_signed_by_a_stranger():
    store = make_store()
    assert sign(os.path.join(store, "digits/1/"), "--key", MALLORY[0]).returncode == 0
    assert "nobody whom this server trusts" in reason(store)
    assert sign(os.path.join(store, "digits/1"), "--key", ALICE[0]).returncode == 0      # one of two is enough
    assert reason(store, "--require-signatures") == ""
    shutil.rmtree(store)


def test_changed_after_it_was_signed():
    store = make_store()
    assert sign(os.path.join(store, "digits/1"), "--key", ALICE[0]).returncode == 0
    with open(os.path.join(store, "digits/1/model.onnx"), "ab") as f:
        f.write(b"\x72\x00")
    assert "changed after they were signed" in reason(store)
    shutil.rmtree(store)


def test_under_another_name():
    store = make_store()
    assert sign(os.path.join(store, "digits/1"), "--key", ALICE[0]).returncode == 0
    os.rename(os.path.join(store, "digits"), os.path.join(store, "faces"))
    text = open(os.path.join(store, "faces/config.pbtxt")).read().replace('name: "digits"', 'name: "faces"')
    open(os.path.join(store, "faces/config.pbtxt"), "w").write(text)
    with Server("--trusted-signers", TRUSTED, "--strict-readiness", "false", store=store) as s:
        assert "changed after" in s.json("POST", "/v2/repository/index")[1][0]["reason"]
    shutil.rmtree(store)


def test_bad_files_say_where():
    for text, says in (("zz alice\n", "line 1: a public key"), (ALICE[1] + "\n", "line 1: a signer needs a name"), ("\n", "names no signer")):
        path = os.path.join(FOLDER, "bad")
        open(path, "w").write(text)
        store = make_store()
        got = subprocess.run([BINARY, "serve", "--store", store, "--http-port", "0", "--grpc-port", "off", "--metrics-port", "off", "--trusted-signers", path], capture_output=True, text=True, timeout=20)
        assert got.returncode == 1 and says in got.stderr, (says, got.stderr[-300:])
        shutil.rmtree(store)
    shutil.rmtree(FOLDER)


run(globals())
