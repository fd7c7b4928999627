"""A real inferd on loopback with a store of its own, and the closing line of a suite.

A test is a function whose name starts with test_; run(globals()) calls them in order, each with a fresh Server unless
the module shares one. INFERD names another binary than build/release/inferd."""
import http.client, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, time, traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("INFERD", os.path.join(ROOT, "build/release/inferd"))
SANITIZED = os.path.basename(os.path.dirname(BINARY)) in ("address", "undefined", "thread")      # a build that is several times slower
DIGITS = os.path.join(ROOT, "models/digits")


def make_store(models=("digits",)):
    store = tempfile.mkdtemp(prefix="inferd-store-")
    for m in models:
        shutil.copytree(os.path.join(ROOT, "models", m), os.path.join(store, m))
    return store


servers = []          # every server of this suite: those that a failed test left behind are stopped at the end
reported = set()      # servers whose log held a sanitizer's report


class Server:
    def __init__(self, *flags, store=None, wait=True, env=None):
        self.own_store = store is None
        self.stopped = False
        self.store = store or make_store()
        self.log = tempfile.NamedTemporaryFile(prefix="inferd-log-", suffix=".jsonl", mode="w+")
        command = [BINARY, "serve", "--store", self.store]
        for f, v in (("--http-port", "0"), ("--grpc-port", "0"), ("--metrics-port", "0")):
            if f not in flags:
                command += [f, v]
        command += os.environ.get("INFERD_FLAGS", "").split()      # --threads 1 under ThreadSanitizer, which does not know libgomp
        self.process = subprocess.Popen(command + list(flags), stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        self.ready_line = ""
        servers.append(self)
        if wait:
            self.wait_ready()

    def wait_ready(self):
        self.ready_line = self.process.stdout.readline().strip()
        m = re.match(r"inferd ready http=(\S+) grpc=(\S+) metrics=(\S+)$", self.ready_line)
        if not m:
            self.process.wait(10)
            raise RuntimeError("no ready line: %r\n%s" % (self.ready_line, open(self.log.name).read()[-3000:]))
        self.address, self.grpc, self.metrics = m.groups()
        self.port = int(self.address.rsplit(":", 1)[1]) if self.address != "off" else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, how=signal.SIGTERM):
        if self.stopped:
            return self.process.returncode
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.own_store:
            shutil.rmtree(self.store, ignore_errors=True)
        self.check_sanitizers()
        return self.process.returncode

    def check_sanitizers(self):
        """A server built with SAN= tells on its log what was wrong; that fails the suite wherever it happened."""
        text = open(self.log.name, errors="replace").read()
        at = re.search(r"(ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:|Assertion .* failed)", text)
        if at and self.process.pid not in reported:
            reported.add(self.process.pid)
            print("sanitizer report of the server:\n" + text[max(0, at.start() - 200):at.start() + 4000])

    def logs(self):
        text = open(self.log.name).read()      # the last line may be half there
        return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def connect(self, timeout=20):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def call(self, method, path, body=None, headers=None, timeout=60):
        """-> (status, headers as a lower-case dict, bytes)"""
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        c = self.connect(timeout)
        try:
            c.request(method, path, body=body, headers=headers or {})
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    def json(self, method, path, body=None, headers=None):
        status, _, data = self.call(method, path, body, headers)
        return status, json.loads(data) if data else None

    def raw(self, data, timeout=10, shut=False):
        """Sends bytes as they are and returns what comes back until the peer closes or is silent for `timeout` seconds."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        try:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            out = b""
            while True:
                piece = s.recv(65536)
                if not piece:
                    return out
                out += piece
        except (socket.timeout, ConnectionResetError):
            return out
        finally:
            s.close()

    def rss(self):
        for line in open("/proc/%d/status" % self.process.pid):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024


class Skip(Exception):
    pass


def run(names):
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = skipped = 0
    for name, f in list(names.items()):
        if not name.startswith("test_") or only not in name:
            continue
        start = time.time()
        try:
            f()
            print("ok   %s (%.1f s)" % (name, time.time() - start))
            passed += 1
        except Skip as e:
            print("skip %s: %s" % (name, e))
            skipped += 1
        except BaseException:
            print("FAIL %s" % name)
            traceback.print_exc(file=sys.stdout)
            failed += 1
        sys.stdout.flush()
        for server in servers:
            if not any(server is v for v in names.values()):
                server.stop()
    for server in servers:
        server.stop()
    failed += len(reported)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    sys.exit(1 if failed else 0)
