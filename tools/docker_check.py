#!/usr/bin/env python3
"""Takes the steps of docker/Dockerfile in clean Debian roots (debootstrap), without a container engine; then starts what the image would start, as its user and without
capabilities on a read-only root, and asks it something. As root: `make docker-check`, or docker_check.py STAGE (cpu). The roots lie under build/docker/; all but the first, bare one are made anew."""
import os, re, shlex, shutil, subprocess, sys, time, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build/docker")
BASE = os.path.join(WORK, "base")
PORT = 18000
TRUST = "/etc/ssl/certs/ca-certificates.crt"


def sh(command, **kw):
    print("+", command, flush=True)
    subprocess.run(["bash", "-euc", command], check=True, **kw)


def steps():
    """-> [[instruction, rest], ...]; a line's end may be escaped."""
    text = re.sub(r"\\\n", " ", open(os.path.join(ROOT, "docker/Dockerfile")).read())
    return [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def enter(root, command, cwd="/", user=None, writable=None):
    """-> the words that run a command in a root with /proc and /dev. `writable` (a list of folders): everything else is read-only, /tmp is fresh."""
    mounts = ["mount --rbind {0} {0}".format(root), "mount -t proc proc %s/proc" % root, "mount --rbind /dev %s/dev" % root]
    if os.path.exists(root + TRUST) and os.path.exists(TRUST):      # a machine may reach out through something that signs for others: what it trusts, the root does for this command
        mounts.append("mount --bind {1} {0}{1}".format(root, TRUST))
    if writable is not None:
        mounts += ["mount --bind {0}/{1} {0}/{1}".format(root, folder) for folder in writable]
        mounts += ["mount -t tmpfs tmpfs %s/tmp" % root, "mount -o remount,ro,bind %s" % root]
    who = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", "--bounding-set=-all"] if user else []
    words = ["chroot", root] + who + ["sh", "-c", "cd %s && %s" % (cwd, command)]
    return ["unshare", "--mount", "bash", "-euc", "; ".join(mounts) + "; exec " + shlex.join(words)]


def copy(root, cwd, words, stages):
    source = stages[words.pop(0).split("=")[1]]["root"] if words[0].startswith("--from=") else ROOT
    what, to = words
    target = os.path.join(root, os.path.join(cwd, to).lstrip("/"))
    if what == ".":      # the build context: what git knows of
        os.makedirs(target, exist_ok=True)
        sh("git -C %s ls-files -z --cached --others --exclude-standard | tar -C %s --null -T - -c | tar -C %s -x" % (source, source, target))
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        sh("cp -aT %s %s" % (os.path.join(source, what.lstrip("/")), target))


def wanted(target):
    """-> the stages that `target` is made of"""
    uses, name = {}, None
    for instruction, rest in steps():
        if instruction == "FROM":
            image, _, name = rest.split()
            uses[name] = {image}
        elif instruction == "COPY" and rest.startswith("--from="):
            uses[name].add(rest.split()[0].split("=")[1])
    found, todo = set(), [target]
    while todo:
        name = todo.pop()
        if name in uses and name not in found:
            found.add(name)
            todo += uses[name]
    return found


def build(target):
    """-> the stage `target`: root, user, entrypoint, command"""
    stages, stage, needed, skipping = {}, None, wanted(target), False
    for instruction, rest in steps():
        if instruction == "FROM":
            image, _, name = rest.split()
            skipping = name not in needed
            if skipping:
                continue
            assert image in stages or image.startswith("debian:bookworm"), image
            root = os.path.join(WORK, name)
            shutil.rmtree(root, ignore_errors=True)
            sh("cp -a %s %s" % (stages[image]["root"] if image in stages else BASE, root))
            stages[name] = stage = {**stages.get(image, {"cwd": "/", "user": None}), "root": root}
        elif skipping:
            continue
        elif instruction == "WORKDIR":
            stage["cwd"] = rest
            os.makedirs(stage["root"] + rest, exist_ok=True)
        elif instruction == "COPY":
            copy(stage["root"], stage["cwd"], rest.split(), stages)
        elif instruction == "RUN":
            print("RUN", rest, flush=True)
            subprocess.run(enter(stage["root"], rest, stage["cwd"], stage["user"]), check=True)
        elif instruction == "USER":
            stage["user"] = None if rest == "root" else rest.split(":")[0]
        elif instruction in ("ENTRYPOINT", "CMD"):
            stage[instruction] = eval(rest)
        elif instruction not in ("VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENV"):
            sys.exit("docker_check: the step %s is not known" % instruction)
    if target not in stages:
        sys.exit("docker_check: the Dockerfile has no stage %s" % target)
    return stages[target]


def serve(stage):
    root, user = stage["root"], stage["user"]
    subprocess.run(enter(root, "sh /usr/local/share/inferd/make_keys.sh", user=user, writable=["keys", "clients", "scrape", "panel"]), check=True)
    ports = ["--http-port", str(PORT), "--grpc-port", str(PORT + 1), "--metrics-port", str(PORT + 2)]
    server = subprocess.Popen(enter(root, "exec " + shlex.join(stage["ENTRYPOINT"] + stage["CMD"] + ports), user=user, writable=["store"]), stdout=subprocess.PIPE, text=True)
    try:
        print(server.stdout.readline().strip())
        if os.path.exists(root + "/usr/local/lib/libinferd_cuda.so"):      # all that it needs is there but the driver
            missing = subprocess.check_output(["chroot", root, "ldd", "/usr/local/lib/libinferd_cuda.so"], text=True)
            assert "not found" not in missing, missing
        subprocess.run(enter(root, "inferd health --port %d" % (PORT + 2), user=user, writable=[]), check=True)
        key = open(os.path.join(root, "clients/infer.key")).read()
        picture = open(os.path.join(ROOT, "models/digits/samples/7_0.png"), "rb").read()
        answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:%d/v2/models/digits/classify?k=1" % PORT, picture, {"Authorization": "Bearer " + key})).read()
        assert b'"label":"7"' in answer, answer
        owner = open("/proc/%d/status" % server.pid).read()
        assert re.search(r"^Uid:\s+%s\s" % user, owner, re.M) and re.search(r"^CapEff:\s+0+$", owner, re.M), owner
    finally:
        server.terminate()
    assert server.wait(30) == 0, "the server did not end well"


def main():
    if os.geteuid():
        sys.exit("docker_check needs root, for debootstrap and chroot")
    if not os.path.exists(os.path.join(BASE, "etc/debian_version")):
        os.makedirs(WORK, exist_ok=True)
        sh("debootstrap --variant=minbase bookworm %s >/dev/null" % BASE)
        shutil.copy("/etc/resolv.conf", BASE + "/etc/resolv.conf")
    start = time.time()
    stage = build(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    size = int(subprocess.check_output(["du", "-sm", stage["root"]]).split()[0])
    serve(stage)
    print("docker-check: every step passes, the server answers as user %s on a read-only root; image %d MB, %d s" % (stage["user"], size, time.time() - start))


if __name__ == "__main__":
    main()
