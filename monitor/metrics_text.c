#include "monitor/metrics_text.h"

#include "engine/text_ops.h"
#include "monitor/page.h"

static void *stats_of(const struct model_version *v) { return v->ops->text ? v->ops->text->stats(v->engine) : NULL; }

#define FIELD(member) offsetof(struct text_stats, member)
static const struct page_field fields[] = {
    { PAGE_GAUGE, "vllm:num_requests_running", "Texts in the running batch", FIELD(running) },
    { PAGE_COUNTER, "vllm:prefix_cache_queries_total", "Prefix cache queries, in tokens", FIELD(prefix_queries) },
    { PAGE_COUNTER, "vllm:prefix_cache_hits_total", "Prefix cache hits, in tokens", FIELD(prefix_hits) },
    { PAGE_COUNTER, "vllm:prompt_tokens_total", "Prefill tokens processed", FIELD(prompt_tokens) },
    { PAGE_COUNTER, "vllm:generation_tokens_total", "Generation tokens processed", FIELD(generated_tokens) },
    { PAGE_COUNTER, "vllm:num_preemptions_total", "Texts that gave their KV pages up, to be computed again or copied back", FIELD(preemptions) },
    { PAGE_COUNTER, "inferd_kv_swaps_total", "Texts whose KV pages were kept on the heap while they waited", FIELD(swaps) },
    { PAGE_HISTOGRAM, "vllm:time_to_first_token_seconds", "From the queue to the first token", FIELD(first_token) },
    { PAGE_HISTOGRAM, "vllm:inter_token_latency_seconds", "Between two tokens of a text", FIELD(between_tokens) },
    { PAGE_HISTOGRAM, "vllm:e2e_request_latency_seconds", "From the queue to the last token", FIELD(whole) },
    { PAGE_HISTOGRAM, "vllm:request_queue_time_seconds", "Spent in the queue", FIELD(queued) },
    { PAGE_HISTOGRAM, "vllm:request_prefill_time_seconds", "From admission to the first token", FIELD(prefill) },
    { PAGE_HISTOGRAM, "vllm:request_decode_time_seconds", "From the first token to the last", FIELD(decode) },
};

static double waiting(const struct model_version *v, const struct text_stats *s) { return (double)(atomic_load(&s->waiting) + atomic_load(&v->stats->pending)); }

static double cache_usage(const struct text_stats *s)
{
    double pages = (double)atomic_load(&s->pages);
    return pages > 0 ? (double)atomic_load(&s->pages_used) / pages : 0;
}

void metrics_write_text(struct buf *out, struct model_version *const *versions, int count)
{
    static const char *const reasons[FINISHED_COUNT] = { [FINISHED_STOP] = "finished_reason=\"stop\"", [FINISHED_LENGTH] = "finished_reason=\"length\"", [FINISHED_ABORT] = "finished_reason=\"abort\"", [FINISHED_ERROR] = "finished_reason=\"error\"" };
    bool any = false;
    for (int k = 0; k < count; k++) any = any || stats_of(versions[k]);
    if (!any) return;
    page_fields(out, fields, sizeof fields / sizeof fields[0], PAGE_VLLM, stats_of, versions, count);
    page_family(out, "vllm:num_requests_waiting", "gauge", "Texts waiting for room, the queue included");
    for (int k = 0; k < count; k++)
        if (stats_of(versions[k])) page_sample(out, "vllm:num_requests_waiting", PAGE_VLLM, versions[k], NULL, waiting(versions[k], stats_of(versions[k])));
    page_family(out, "vllm:kv_cache_usage_perc", "gauge", "KV cache usage; 1 means every page is held");
    for (int k = 0; k < count; k++)
        if (stats_of(versions[k])) page_sample(out, "vllm:kv_cache_usage_perc", PAGE_VLLM, versions[k], NULL, cache_usage(stats_of(versions[k])));
    page_family(out, "vllm:request_success_total", "counter", "Texts that came to an end, by reason");
    for (int k = 0; k < count; k++) {
        const struct text_stats *s = stats_of(versions[k]);
        for (int r = 0; s && r < FINISHED_COUNT; r++) page_sample(out, "vllm:request_success_total", PAGE_VLLM, versions[k], reasons[r], (double)page_count(&s->finished[r]));
    }
}
