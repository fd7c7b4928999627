/* A family's lines must stand together, so the page is written family by family: first every published version is pinned, then each row of the
 * table walks over them. */
#include "monitor/metrics.h"

#include "monitor/metrics_gpus.h"
#include "monitor/metrics_images.h"
#include "monitor/metrics_text.h"
#include "monitor/page.h"

#include "base/checked.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSIONS_MAX = 4096 };

struct page { struct registry *registry; struct model_version **versions; int count; };

/* ---- Triton's ---- */

enum source { SUCCESS_COUNT, INFERENCES, EXECUTIONS, REQUEST_US, QUEUE_US, INPUT_US, INFER_US, OUTPUT_US, PENDING, LOAD_SECONDS, CACHE_HITS, CACHE_MISSES, CACHE_HIT_US, CACHE_MISS_US };

static double read_source(const struct model_version *v, enum source s)
{
    const struct stats *t = v->stats;
    switch (s) {
    case SUCCESS_COUNT: return (double)page_count(&t->success.count);
    case INFERENCES: return (double)page_count(&t->inference_count);
    case EXECUTIONS: return (double)page_count(&t->execution_count);
    case REQUEST_US: return (double)(page_count(&t->success.ns) / 1000);
    case QUEUE_US: return (double)(page_count(&t->queue.ns) / 1000);
    case INPUT_US: return (double)(page_count(&t->compute_input.ns) / 1000);
    case INFER_US: return (double)(page_count(&t->compute_infer.ns) / 1000);
    case OUTPUT_US: return (double)(page_count(&t->compute_output.ns) / 1000);
    case PENDING: return (double)atomic_load(&((struct stats *)t)->pending);
    case CACHE_HITS: return (double)page_count(&t->cache_hit.count);
    case CACHE_MISSES: return (double)page_count(&t->cache_miss.count);
    case CACHE_HIT_US: return (double)(page_count(&t->cache_hit.ns) / 1000);
    case CACHE_MISS_US: return (double)(page_count(&t->cache_miss.ns) / 1000);
    default: return (double)v->load_ns * 1e-9;
    }
}

static const struct { const char *name, *type, *help; enum source source; } triton[] = {
    { "nv_inference_request_success", "counter", "Number of successful inference requests, all batch sizes", SUCCESS_COUNT },
    { "nv_inference_count", "counter", "Number of inferences performed (rows)", INFERENCES },
    { "nv_inference_exec_count", "counter", "Number of model executions performed (batches)", EXECUTIONS },
    { "nv_inference_request_duration_us", "counter", "Cumulative inference request duration in microseconds", REQUEST_US },
    { "nv_inference_queue_duration_us", "counter", "Cumulative inference queuing duration in microseconds", QUEUE_US },
    { "nv_inference_compute_input_duration_us", "counter", "Cumulative compute input duration in microseconds", INPUT_US },
    { "nv_inference_compute_infer_duration_us", "counter", "Cumulative compute inference duration in microseconds", INFER_US },
    { "nv_inference_compute_output_duration_us", "counter", "Cumulative compute output duration in microseconds", OUTPUT_US },
    { "nv_inference_pending_request_count", "gauge", "Instantaneous number of requests awaiting execution", PENDING },
    { "nv_model_load_duration_secs", "gauge", "Time the model took to load in seconds", LOAD_SECONDS },
    { "nv_cache_num_hits_per_model", "counter", "Number of answers found in the response cache", CACHE_HITS },
    { "nv_cache_num_misses_per_model", "counter", "Number of answers not found in the response cache", CACHE_MISSES },
    { "nv_cache_hit_duration_per_model", "counter", "Cumulative time to look up answers that were found, in microseconds", CACHE_HIT_US },
    { "nv_cache_miss_duration_per_model", "counter", "Cumulative time to look up and keep answers that were not found, in microseconds", CACHE_MISS_US },
};

static void write_triton(struct buf *out, const struct page *p)
{
    static const char *const reasons[FAILURE_COUNT] = { "reason=\"REJECTED\"", "reason=\"CANCELED\"", "reason=\"BACKEND\"", "reason=\"OTHER\"" };
    for (size_t i = 0; i < sizeof triton / sizeof triton[0]; i++) {
        page_family(out, triton[i].name, triton[i].type, triton[i].help);
        for (int k = 0; k < p->count; k++) page_sample(out, triton[i].name, PAGE_TRITON, p->versions[k], NULL, read_source(p->versions[k], triton[i].source));
    }
    page_family(out, "nv_inference_request_failure", "counter", "Number of failed inference requests, by reason");
    for (int k = 0; k < p->count; k++)
        for (int f = 0; f < FAILURE_COUNT; f++) page_sample(out, "nv_inference_request_failure", PAGE_TRITON, p->versions[k], reasons[f], (double)page_count(&p->versions[k]->stats->failures[f]));
}

/* ---- ours ---- */

static void write_stages(struct buf *out, const struct page *p)
{
    static const struct { const char *name, *help; } stages[STAGE_COUNT] = {
        [STAGE_QUEUE] = { "inferd_queue_seconds", "Time a request waited in the queue, riders' wait included" },
        [STAGE_INPUT] = { "inferd_input_seconds", "Time to gather a batch" },
        [STAGE_COMPUTE] = { "inferd_compute_seconds", "Time to compute a batch" },
        [STAGE_OUTPUT] = { "inferd_output_seconds", "Time to hand out a batch's outputs" },
        [STAGE_TOTAL] = { "inferd_request_seconds", "Time from the queue to the answer" },
    };
    for (int s = 0; s < STAGE_COUNT; s++) {
        page_family(out, stages[s].name, "histogram", stages[s].help);
        for (int k = 0; k < p->count; k++) page_histogram(out, stages[s].name, PAGE_TRITON, p->versions[k], &p->versions[k]->stats->stage[s]);
    }
    page_family(out, "inferd_model_memory_bytes", "gauge", "Resident memory a model version took when it was loaded");
    for (int k = 0; k < p->count; k++) page_sample(out, "inferd_model_memory_bytes", PAGE_TRITON, p->versions[k], NULL, (double)p->versions[k]->memory_bytes);
}

/* Busy share of all cores since the call before; the first call tells the share since boot. */
static double cpu_utilization(void)
{
    static atomic_uint_fast64_t last_busy, last_all;
    unsigned long long user = 0, nice = 0, sys = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
    FILE *f = fopen("/proc/stat", "re");
    int n = f ? fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &sys, &idle, &wait, &irq, &soft, &steal) : 0;
    if (f) fclose(f);
    if (n < 8) return 0;
    uint64_t busy = user + nice + sys + irq + soft + steal, all = busy + idle + wait;
    uint64_t was_busy = atomic_exchange(&last_busy, busy), was_all = atomic_exchange(&last_all, all);
    return all > was_all ? (double)(busy - was_busy) / (double)(all - was_all) : 0;
}

static void write_process(struct buf *out, const struct metrics_process *p)
{
    double total = 0, available = 0, resident = 0;
    metrics_gpus_write(out);
    page_family(out, "nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]");
    buf_printf(out, "nv_cpu_utilization %.6g\n", cpu_utilization());
    if (file_line_number("/proc/meminfo", "MemTotal:", &total) && file_line_number("/proc/meminfo", "MemAvailable:", &available)) {
        page_family(out, "nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes");
        buf_printf(out, "nv_cpu_memory_total_bytes %.17g\n", total * 1024);
        page_family(out, "nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes");
        buf_printf(out, "nv_cpu_memory_used_bytes %.17g\n", (total - available) * 1024);
    }
    if (file_line_number("/proc/self/status", "VmRSS:", &resident)) {
        page_family(out, "process_resident_memory_bytes", "gauge", "Resident memory of the server");
        buf_printf(out, "process_resident_memory_bytes %.17g\n", resident * 1024);
    }
    page_family(out, "process_start_time_seconds", "gauge", "Start of the server since the Unix epoch");
    buf_printf(out, "process_start_time_seconds %.3f\n", (double)p->start_wall_ms / 1000);
    page_family(out, "inferd_connections", "gauge", "Open HTTP connections");
    buf_printf(out, "inferd_connections %llu\n", (unsigned long long)p->connections);
    page_family(out, "inferd_requests_in_flight", "gauge", "HTTP requests between their headers and the end of their answer");
    buf_printf(out, "inferd_requests_in_flight %llu\n", (unsigned long long)p->busy);
    page_family(out, "inferd_build_info", "gauge", "Version of the server and the CPU level it runs at");
    buf_printf(out, "inferd_build_info{version=\"%s\",cpu_level=\"%s\"} 1\n", INFERD_VERSION, p->cpu_level);
}

static void pin_each(void *ctx, struct model_version *v)
{
    struct page *p = ctx;
    struct err err;
    if (p->count == VERSIONS_MAX) return;
    if (!registry_pin(p->registry, v->name, strlen(v->name), v->version, &p->versions[p->count], &err)) p->count++;
}

void metrics_write(struct buf *out, struct registry *r, const struct metrics_process *process)
{
    struct page p = { .registry = r, .versions = mem_calloc_array(VERSIONS_MAX, sizeof *p.versions) };
    if (!p.versions) {
        out->failed = true;
        return;
    }
    registry_each(r, pin_each, &p);
    write_triton(out, &p);
    write_stages(out, &p);
    metrics_write_text(out, p.versions, p.count);
    metrics_write_images(out, p.versions, p.count);
    write_process(out, process);
    for (int i = 0; i < p.count; i++) registry_unpin(r, p.versions[i]);
    free(p.versions);
}
