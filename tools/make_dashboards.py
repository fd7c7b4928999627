#!/usr/bin/env python3
"""Writes Grafana's dashboards, docker/grafana/dashboards/*.json, from the tables below; `--check` says whether they are what the tables give.

A panel is (title, unit, [(query, legend), ...]) and takes a third of a row. $model is the variable of the dashboard, %s its selector."""
import json, os, sys

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../docker/grafana/dashboards")
RATE = "[$__rate_interval]"


def quantiles(metric, label="model"):
    return [("histogram_quantile(%s, sum by (le, %s) (rate(%s_bucket{%%s}%s)))" % (q, label, metric, RATE), "{{%s}} p%s" % (label, q[2:].ljust(2, "0"))) for q in ("0.5", "0.99")]


def mean(metric, legend, label="model"):
    return "sum by ({l}) (rate({m}_sum{{%s}}{r})) / sum by ({l}) (rate({m}_count{{%s}}{r}))".format(l=label, m=metric, r=RATE), legend


def rate(metric, by="model", legend=None):
    return "sum by (%s) (rate(%s{%%s}%s))" % (by, metric, RATE), legend or "{{%s}}" % by


SERVING = [
    ("Answers a second", "reqps", [rate("nv_inference_request_success")]),
    ("Failures a second", "reqps", [rate("nv_inference_request_failure", "model, reason", "{{model}} {{reason}}")]),
    ("Time of a request", "s", quantiles("inferd_request_seconds")),
    ("Time in the queue", "s", quantiles("inferd_queue_seconds")),
    ("Time to compute", "s", quantiles("inferd_compute_seconds")),
    ("Where the time goes (mean)", "s", [mean("inferd_%s_seconds" % s, "{{model}} " + s) for s in ("queue", "input", "compute", "output")]),
    ("Rows of a batch (mean)", "none", [("sum by (model) (rate(nv_inference_count{%s}" + RATE + ")) / sum by (model) (rate(nv_inference_exec_count{%s}" + RATE + "))", "{{model}}")]),
    ("Waiting requests", "none", [("sum by (model, version) (nv_inference_pending_request_count{%s})", "{{model}} {{version}}")]),
    ("Connections and requests in flight", "none", [("inferd_connections", "{{instance}} connections"), ("inferd_requests_in_flight", "{{instance}} requests")]),
    ("Memory", "bytes", [("process_resident_memory_bytes{job=\"inferd\"}", "{{instance}} process"), ("inferd_model_memory_bytes{%s}", "{{model}} {{version}}"), ("nv_cpu_memory_used_bytes", "{{instance}} machine")]),
    ("Cores", "percentunit", [("nv_cpu_utilization", "{{instance}}")]),
    ("Time to load", "s", [("nv_model_load_duration_secs{%s}", "{{model}} {{version}}")]),
    ("Up since", "s", [("time() - process_start_time_seconds{job=\"inferd\"}", "{{instance}}")]),
    ("Version and kernels", "none", [("inferd_build_info", "{{instance}} {{version}} {{cpu_level}}")]),
]
LANGUAGE = [
    ("Time to the first token", "s", quantiles("vllm:time_to_first_token_seconds", "model_name")),
    ("Time between tokens", "s", quantiles("vllm:inter_token_latency_seconds", "model_name")),
    ("Time of a text", "s", quantiles("vllm:e2e_request_latency_seconds", "model_name")),
    ("Tokens a second", "none", [rate("vllm:prompt_tokens_total", "model_name", "{{model_name}} read"), rate("vllm:generation_tokens_total", "model_name", "{{model_name}} written")]),
    ("Texts", "none", [("vllm:num_requests_running{%s}", "{{model_name}} running"), ("vllm:num_requests_waiting{%s}", "{{model_name}} waiting")]),
    ("Ends a second", "reqps", [rate("vllm:request_success_total", "model_name, finished_reason", "{{model_name}} {{finished_reason}}")]),
    ("KV cache in use", "percentunit", [("vllm:kv_cache_usage_perc{%s}", "{{model_name}}")]),
    ("Share of prompts found in the cache", "percentunit", [("sum by (model_name) (rate(vllm:prefix_cache_hits_total{%s}" + RATE + ")) / sum by (model_name) (rate(vllm:prefix_cache_queries_total{%s}" + RATE + "))", "{{model_name}}")]),
    ("Preemptions a second", "none", [rate("vllm:num_preemptions_total", "model_name", "{{model_name}}"), rate("inferd_kv_swaps_total", "model_name", "{{model_name}} kept in memory")]),
    ("Where the time goes (mean)", "s", [mean("vllm:request_%s_time_seconds" % s, "{{model_name}} " + s, "model_name") for s in ("queue", "prefill", "decode")]),
]
DIFFUSION = [
    ("Pictures a minute", "none", [("60 * sum by (model) (rate(inferd_images_total{%s}" + RATE + "))", "{{model}}")]),
    ("Steps a second", "none", [rate("inferd_image_steps_total")]),
    ("Requests in flight", "none", [("inferd_image_requests_running{%s}", "{{model}}")]),
    ("Time of a call of the network", "s", quantiles("inferd_image_call_seconds")),
    ("Rows of a call (mean)", "none", [("sum by (model) (rate(inferd_image_rows_total{%s}" + RATE + ")) / sum by (model) (rate(inferd_image_call_seconds_count{%s}" + RATE + "))", "{{model}}")]),
    ("Where the time goes (mean)", "s", [mean("inferd_image_%s_seconds" % s, "{{model}} " + s) for s in ("text", "denoise", "decode")]),
]
DASHBOARDS = [
    ("serving", "inferd: serving", "model", "nv_inference_request_success", SERVING),
    ("language", "inferd: language models", "model_name", "vllm:generation_tokens_total", LANGUAGE),
    ("diffusion", "inferd: pictures", "model", "inferd_images_total", DIFFUSION),
]


def panel(number, title, unit, queries, label):
    chosen = '%s=~"$model"' % label
    targets = [{"refId": chr(65 + k), "expr": q.replace("%s", chosen), "legendFormat": legend, "datasource": {"type": "prometheus", "uid": "prometheus"}} for k, (q, legend) in enumerate(queries)]
    return {"id": number + 1, "type": "timeseries", "title": title, "datasource": {"type": "prometheus", "uid": "prometheus"}, "targets": targets,
            "gridPos": {"x": 8 * (number % 3), "y": 8 * (number // 3), "w": 8, "h": 8}, "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []}}


def dashboard(uid, title, label, metric, panels):
    variable = {"name": "model", "label": "model", "type": "query", "query": "label_values(%s, %s)" % (metric, label), "datasource": {"type": "prometheus", "uid": "prometheus"},
                "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {"uid": "inferd-" + uid, "title": title, "tags": ["inferd"], "schemaVersion": 39, "version": 1, "editable": False, "refresh": "10s", "time": {"from": "now-30m", "to": "now"},
            "templating": {"list": [variable]}, "links": [{"type": "dashboards", "tags": ["inferd"], "asDropdown": False, "title": "inferd"}],
            "panels": [panel(k, *p, label) for k, p in enumerate(panels)]}


def main():
    stale = []
    for name, *rest in DASHBOARDS:
        text = json.dumps(dashboard(name, *rest), indent=1) + "\n"
        path = os.path.join(HERE, name + ".json")
        if not os.path.exists(path) or open(path).read() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                open(path, "w").write(text)
    if stale and "--check" in sys.argv:
        sys.exit("stale: %s; run tools/make_dashboards.py" % ", ".join(stale))


if __name__ == "__main__":
    main()
