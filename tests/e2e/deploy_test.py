# needs: kubernetes_validate
# release only
"""What docker/ holds, checked without a container engine: the files say what their tools take, and a real Prometheus that scrapes a real server with its key finds an
answer to every query of every dashboard."""
import glob, json, math, os, re, subprocess, sys, tempfile, threading, time, urllib.parse, urllib.request

import kubernetes_validate, yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from debian import debian, environment, free_port
from harness import BINARY, ROOT, Server, make_store, run

DOCKER = os.path.join(ROOT, "docker")


def passes(*command):
    r = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert r.returncode == 0, r.stdout + r.stderr
    return r.stdout


def make_keys(root):
    for folder in ("keys", "clients", "scrape", "panel"):
        os.mkdir(os.path.join(root, folder))
    passes("sh", os.path.join(DOCKER, "make_keys.sh"), root)
    return {name: open(os.path.join(root, "clients", name + ".key")).read() for name in ("infer", "read", "admin")}


def test_health_says_what_the_server_is():
    def health(port, *more):
        return subprocess.run([BINARY, "health", "--port", str(port), *more], capture_output=True, text=True)

    with Server("--drain-delay", "1") as s:
        port = int(s.metrics.rsplit(":", 1)[1])
        assert health(port).returncode == 0 and health(port, "--live").returncode == 0
        s.process.terminate()
        time.sleep(0.3)
        left = health(port)
        assert left.returncode == 1 and "with 400" in left.stderr, left
    assert health(free_port()).returncode == 1
    assert health("many").returncode == 2


def test_keys_are_made_once_and_hold():
    with tempfile.TemporaryDirectory() as root:
        keys = make_keys(root)
        before = open(os.path.join(root, "keys/api-keys")).read()
        passes("sh", os.path.join(DOCKER, "make_keys.sh"), root)
        assert open(os.path.join(root, "keys/api-keys")).read() == before and len(before.splitlines()) == 4
        assert not any(key in before for key in keys.values())
        assert os.stat(os.path.join(root, "clients/admin.key")).st_mode & 0o077 == 0
        with Server("--api-keys", os.path.join(root, "keys/api-keys")) as s:
            def status(path, key, method="GET"):
                return s.call(method, path, None, {"Authorization": "Bearer " + key} if key else None)[0]
            assert [status("/v2", k) for k in (None, keys["read"], keys["infer"], "x")] == [401, 200, 200, 401]
            assert [status("/admin/models", keys[k]) for k in ("infer", "read", "admin")] == [403, 403, 200]


def test_compose_file():
    text = open(os.path.join(DOCKER, "compose.yaml")).read()
    got = yaml.safe_load(passes("/usr/bin/python3", debian("docker-compose"), "-f", "docker/compose.yaml", "config"))
    assert set(got["services"]) == {"keys", "inferd", "prometheus", "grafana"}
    for path in re.findall(r'"\./([^:"]+):', text):
        assert os.path.exists(os.path.join(DOCKER, path)), path
    for f in glob.glob(DOCKER + "/**/*", recursive=True):
        assert os.path.isdir(f) or "insecure-no-auth" not in open(f).read(), f
    inferd = got["services"]["inferd"]
    assert inferd["read_only"] and inferd["cap_drop"] == ["ALL"] and "--api-keys" in inferd["command"]


def test_compose_file_with_tls():
    got = yaml.safe_load(passes("/usr/bin/python3", debian("docker-compose"), "-f", "docker/compose.yaml", "-f", "docker/compose.tls.yaml", "config"))
    inferd, volumes = got["services"]["inferd"], str(got["services"]["inferd"]["volumes"])
    plain = yaml.safe_load(open(os.path.join(DOCKER, "compose.yaml")))["services"]["inferd"]["command"]
    assert inferd["command"] == plain + ["--tls-cert", "/tls/tls.crt", "--tls-key", "/tls/tls.key"] and "/tls:ro" in volumes and "/keys" in volumes, inferd
    assert "/tls/ca.crt:ro" in str(got["services"]["prometheus"]["volumes"])


def test_prometheus_files():
    promtool = debian("promtool")
    passes(promtool, "check", "config", "--syntax-only", "docker/prometheus/prometheus.yml")
    passes(promtool, "check", "config", "--syntax-only", "docker/prometheus/prometheus.tls.yml")
    assert "7 rules found" in passes(promtool, "check", "rules", "docker/prometheus/rules.yml")
    passes(promtool, "test", "rules", "docker/prometheus/rules_test.yml")


def test_kubernetes_files():
    seen = []
    for path in sorted(glob.glob(os.path.join(DOCKER, "k8s/*.yaml"))):
        for d in yaml.safe_load_all(open(path)):
            if d["kind"] == "Kustomization":
                assert all(os.path.exists(os.path.join(DOCKER, "k8s", r)) for r in d["resources"])
                continue
            seen.append(d["kind"])
            if d["kind"] == "ServingRuntime":
                check_runtime(d)
            else:
                kubernetes_validate.validate(d, "1.29", strict=True)
    check_tls_patch()
    assert sorted(seen) == ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "ServingRuntime"]


def merged(base, patch):
    """A strategic merge, as far as our patches go: lists of named things by name, others replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {k: merged(base[k], patch[k]) if k in base and k in patch else patch.get(k, base.get(k)) for k in {**base, **patch}}
    if isinstance(base, list) and patch and isinstance(patch[0], dict):
        new = {p["name"]: p for p in patch}
        return [merged(b, new.pop(b["name"])) if b["name"] in new else b for b in base] + list(new.values())
    return patch


def check_tls_patch():
    base, patch = (yaml.safe_load(open(os.path.join(DOCKER, "k8s", f))) for f in ("deployment.yaml", "tls/deployment.yaml"))
    d = merged(base, patch)
    kubernetes_validate.validate(d, "1.29", strict=True)
    c = d["spec"]["template"]["spec"]["containers"][0]
    assert c["args"] == base["spec"]["template"]["spec"]["containers"][0]["args"] + ["--tls-cert", "/tls/tls.crt", "--tls-key", "/tls/tls.key"]
    assert all(c[p]["httpGet"]["scheme"] == "HTTPS" and c[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert {v["name"] for v in d["spec"]["template"]["spec"]["volumes"]} == {"store", "keys", "tmp", "tls"}


def check_runtime(d):
    """The fields of KServe's ServingRuntime (serving.kserve.io/v1alpha1); what is a pod's is checked as a pod's."""
    spec = dict(d["spec"])
    assert d["apiVersion"] == "serving.kserve.io/v1alpha1"
    pod = {"containers": spec.pop("containers"), "volumes": spec.pop("volumes")}
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}, "1.29", strict=True)
    assert pod["containers"][0]["name"] == "kserve-container"
    for f in spec.pop("supportedModelFormats"):
        assert f["name"] and set(f) <= {"name", "version", "autoSelect", "priority"}
    assert set(spec.pop("protocolVersions")) <= {"v1", "v2", "grpc-v1", "grpc-v2"}
    spec.pop("annotations"), spec.pop("multiModel")
    assert not spec, spec


def queries():
    for path in sorted(glob.glob(os.path.join(DOCKER, "grafana/dashboards/*.json"))):
        for p in json.load(open(path))["panels"]:
            for t in p["targets"]:
                yield "%s: %s" % (os.path.basename(path), p["title"]), t["expr"].replace("$model", ".*").replace("$__rate_interval", "20s")


def test_every_query_of_the_dashboards_has_an_answer():
    passes(sys.executable, "tools/make_dashboards.py", "--check")
    prometheus = debian("prometheus")
    with tempfile.TemporaryDirectory() as root:
        keys = make_keys(root)
        with Server("--api-keys", os.path.join(root, "keys/api-keys"), store=make_store(("digits", "dictionary", "shapes"))) as s:
            config = yaml.safe_load(open(os.path.join(DOCKER, "prometheus/prometheus.yml")))
            config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
            config["rule_files"] = [os.path.join(DOCKER, "prometheus/rules.yml")]
            config["scrape_configs"][0]["authorization"]["credentials_file"] = os.path.join(root, "scrape/read.key")
            config["scrape_configs"][0]["static_configs"][0]["targets"] = [s.metrics]
            yaml.safe_dump(config, open(os.path.join(root, "prometheus.yml"), "w"))
            port = free_port()
            watcher = subprocess.Popen([prometheus, "--config.file=" + os.path.join(root, "prometheus.yml"), "--storage.tsdb.path=" + os.path.join(root, "history"), "--web.listen-address=127.0.0.1:%d" % port],
                                       stdout=subprocess.DEVNULL, stderr=open(os.path.join(root, "log"), "w"))
            try:
                traffic(s, keys["infer"], 12)
                empty = [(where, q) for where, q in queries() if not answered(port, q)]
                assert not empty, empty
            finally:
                watcher.terminate()
                watcher.wait()


def traffic(s, key, seconds):
    """Something of everything, for so long; all of it is answered."""
    header = {"Authorization": "Bearer " + key}
    picture = open(os.path.join(ROOT, "models/digits/samples/7_0.png"), "rb").read()
    chat = {"model": "dictionary", "max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": "Define mention."}]}
    drawing = {"model": "shapes", "prompt": "a large red circle", "steps": 4, "seed": 1}
    end, wrong = time.time() + seconds, []

    def keep(method, path, body):
        while time.time() < end:
            status, _, answer = s.call(method, path, body, header)
            if status != 200:
                wrong.append((path, status, answer[:200]))

    threads = [threading.Thread(target=keep, args=("POST", path, body)) for path, body in (("/v2/models/digits/classify", picture), ("/v1/chat/completions", chat), ("/v1/chat/completions", chat), ("/v1/images/generations", drawing))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]


def answered(port, query):
    """Prometheus has a sample for it now that is a number."""
    with urllib.request.urlopen("http://127.0.0.1:%d/api/v1/query?%s" % (port, urllib.parse.urlencode({"query": query}))) as r:
        result = json.load(r)["data"]["result"]
    return any(not math.isnan(float(x["value"][1])) for x in result)


run(globals())
