#include "monitor/metrics_text.h"

#include "engine/text_ops.h"

#include <stddef.h>

static uint64_t get(const atomic_uint_fast64_t *v) { return atomic_load_explicit(v, memory_order_relaxed); }

static struct text_stats *stats_of(const struct model_version *v) { return v->ops->text ? v->ops->text->stats(v->engine) : NULL; }

static void family(struct buf *out, const char *name, const char *type, const char *help) { buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type); }

static void labels(struct buf *out, const char *name, const char *suffix, const struct model_version *v)
{
    buf_printf(out, "%s%s{engine=\"0\",model_name=\"%s\"", name, suffix, v->name);      /* a model's name needs no escapes (R20) */
}

struct counter { const char *name, *help; size_t offset; };
static const struct counter counters[] = {
    { "vllm:prefix_cache_queries_total", "Prefix cache queries, in tokens", offsetof(struct text_stats, prefix_queries) },
    { "vllm:prefix_cache_hits_total", "Prefix cache hits, in tokens", offsetof(struct text_stats, prefix_hits) },
    { "vllm:prompt_tokens_total", "Prefill tokens processed", offsetof(struct text_stats, prompt_tokens) },
    { "vllm:generation_tokens_total", "Generation tokens processed", offsetof(struct text_stats, generated_tokens) },
    { "vllm:num_preemptions_total", "Texts that gave their KV pages up, to be computed again or copied back", offsetof(struct text_stats, preemptions) },
    { "inferd_kv_swaps_total", "Texts whose KV pages were kept on the heap while they waited", offsetof(struct text_stats, swaps) },
};
static const struct counter histograms[] = {
    { "vllm:time_to_first_token_seconds", "From the queue to the first token", offsetof(struct text_stats, first_token) },
    { "vllm:inter_token_latency_seconds", "Between two tokens of a text", offsetof(struct text_stats, between_tokens) },
    { "vllm:e2e_request_latency_seconds", "From the queue to the last token", offsetof(struct text_stats, whole) },
    { "vllm:request_queue_time_seconds", "Spent in the queue", offsetof(struct text_stats, queued) },
    { "vllm:request_prefill_time_seconds", "From admission to the first token", offsetof(struct text_stats, prefill) },
    { "vllm:request_decode_time_seconds", "From the first token to the last", offsetof(struct text_stats, decode) },
};

static void write_gauges(struct buf *out, struct model_version *const *versions, int count)
{
    static const char *const names[] = { "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc" };
    static const char *const helps[] = { "Texts in the running batch", "Texts waiting for room, the queue included", "KV cache usage; 1 means every page is held" };
    for (int i = 0; i < 3; i++) {
        family(out, names[i], "gauge", helps[i]);
        for (int k = 0; k < count; k++) {
            struct text_stats *s = stats_of(versions[k]);
            if (!s) continue;
            double pages = (double)atomic_load(&s->pages);
            double value = i == 0 ? (double)atomic_load(&s->running) : i == 1 ? (double)(atomic_load(&s->waiting) + atomic_load(&versions[k]->stats->pending)) : pages > 0 ? (double)atomic_load(&s->pages_used) / pages : 0;
            labels(out, names[i], "", versions[k]);
            buf_printf(out, "} %.9g\n", value);
        }
    }
}

static void write_histogram(struct buf *out, const struct counter *c, const struct model_version *v, const struct stat_histogram *h)
{
    uint64_t sum = 0;
    for (int b = 0; b < STATS_BUCKETS; b++) {
        sum += get(&h->bucket[b]);
        labels(out, c->name, "_bucket", v);
        if (b < STATS_BUCKETS - 1) buf_printf(out, ",le=\"%g\"} %llu\n", stats_bucket_us[b] * 1e-6, (unsigned long long)sum);
        else buf_printf(out, ",le=\"+Inf\"} %llu\n", (unsigned long long)sum);
    }
    labels(out, c->name, "_sum", v);
    buf_printf(out, "} %.9g\n", (double)get(&h->sum_ns) * 1e-9);
    labels(out, c->name, "_count", v);
    buf_printf(out, "} %llu\n", (unsigned long long)sum);
}

void metrics_write_text(struct buf *out, struct model_version *const *versions, int count)
{
    static const char *const reasons[FINISHED_COUNT] = { [FINISHED_STOP] = "stop", [FINISHED_LENGTH] = "length", [FINISHED_ABORT] = "abort", [FINISHED_ERROR] = "error" };
    bool any = false;
    for (int k = 0; k < count; k++) any = any || stats_of(versions[k]);
    if (!any) return;
    write_gauges(out, versions, count);
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        family(out, counters[i].name, "counter", counters[i].help);
        for (int k = 0; k < count; k++) {
            struct text_stats *s = stats_of(versions[k]);
            if (!s) continue;
            labels(out, counters[i].name, "", versions[k]);
            buf_printf(out, "} %llu\n", (unsigned long long)get((const atomic_uint_fast64_t *)((const char *)s + counters[i].offset)));
        }
    }
    family(out, "vllm:request_success_total", "counter", "Texts that came to an end, by reason");
    for (int k = 0; k < count; k++)
        for (int r = 0; r < FINISHED_COUNT && stats_of(versions[k]); r++) {
            labels(out, "vllm:request_success_total", "", versions[k]);
            buf_printf(out, ",finished_reason=\"%s\"} %llu\n", reasons[r], (unsigned long long)get(&stats_of(versions[k])->finished[r]));
        }
    for (size_t i = 0; i < sizeof histograms / sizeof histograms[0]; i++) {
        family(out, histograms[i].name, "histogram", histograms[i].help);
        for (int k = 0; k < count; k++) {
            struct text_stats *s = stats_of(versions[k]);
            if (s) write_histogram(out, &histograms[i], versions[k], (const struct stat_histogram *)((const char *)s + histograms[i].offset));
        }
    }
}
