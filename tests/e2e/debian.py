"""Programs of Debian's that only tests use: installed ones, or those that tools/debs.sh unpacks."""
import os, socket, subprocess

from harness import ROOT, Skip

DEBS = os.path.join(ROOT, "build/debs")
PIECES = {"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool", "docker-compose": "usr/bin/docker-compose", "haproxy": "usr/sbin/haproxy"}


def debian(name):
    """Where a program of Debian's lies: installed, or unpacked by tools/debs.sh."""
    package = "prometheus" if name == "promtool" else name
    got = subprocess.run([os.path.join(ROOT, "tools/debs.sh"), package], capture_output=True, text=True)
    for path in (os.path.join(DEBS, PIECES[name]), "/" + PIECES[name]):
        if os.path.exists(path):
            return path
    raise Skip("Debian's %s cannot be had here: %s" % (package, got.stderr.strip()))


def environment():
    """For running one of them: where its libraries and modules lie."""
    return dict(os.environ, LD_LIBRARY_PATH=os.path.join(DEBS, "usr/lib/x86_64-linux-gnu"), PYTHONPATH=os.path.join(DEBS, "usr/lib/python3/dist-packages"))


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
