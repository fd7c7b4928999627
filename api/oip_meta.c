#include "api/oip_meta.h"

#include "api/oip_tensor.h"
#include "base/json.h"

#include <string.h>

/* Only what works is announced. */
static const char *const extensions[] = { "classification", "sequence", "model_repository", "schedule_policy", "model_configuration", "binary_tensor_data", "parameters", "statistics", "trace", "logging" };

void oip_server_write(struct buf *out, bool shared_memory)
{
    buf_puts(out, "{\"name\":\"inferd\",\"version\":\"" INFERD_VERSION "\",\"extensions\":[");
    for (size_t i = 0; i < sizeof extensions / sizeof extensions[0]; i++) buf_printf(out, "%s\"%s\"", i ? "," : "", extensions[i]);
    if (shared_memory) buf_puts(out, ",\"system_shared_memory\"");
    buf_puts(out, "]}");
}

static void write_ports(struct buf *out, const char *key, const struct port *p, int n)
{
    buf_printf(out, ",\"%s\":[", key);
    for (int i = 0; i < n; i++) {
        buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        json_write_text(out, p[i].name);
        buf_printf(out, ",\"datatype\":\"%s\",\"shape\":[", dtype_oip(p[i].dtype) ? dtype_oip(p[i].dtype) : dtype_name(p[i].dtype));
        for (int d = 0; d < p[i].rank; d++) {
            if (d) buf_putc(out, ',');
            buf_int(out, p[i].dims[d]);
        }
        buf_puts(out, "]}");
    }
    buf_putc(out, ']');
}

/* The optional "properties" of the protocol: texts. */
static void write_precision(struct buf *out, const struct signature_precision *p)
{
    if (!p->name) return;
    buf_printf(out, ",\"properties\":{\"precision\":\"%s\"", p->name);
    if (p->error >= 0) buf_printf(out, ",\"%s_error\":\"%.3e\",\"%s_speedup\":\"%.3f\"", p->tried, p->error, p->tried, p->gain);
    buf_putc(out, '}');
}

void oip_model_write(struct buf *out, const struct model_version *v, const int64_t *versions, int version_count)
{
    buf_puts(out, "{\"name\":");
    json_write_text(out, v->name);
    buf_puts(out, ",\"versions\":[");
    for (int i = 0; i < version_count; i++) buf_printf(out, "%s\"%lld\"", i ? "," : "", (long long)versions[i]);
    buf_puts(out, "],\"platform\":");
    json_write_text(out, v->config->platform && v->config->platform[0] ? v->config->platform : v->signature->platform);
    write_ports(out, "inputs", v->signature->inputs, v->signature->input_count);
    write_ports(out, "outputs", v->signature->outputs, v->signature->output_count);
    write_precision(out, &v->signature->precision);
    buf_putc(out, '}');
}

/* ---- statistics ---- */

static uint64_t get(const atomic_uint_fast64_t *a) { return atomic_load_explicit((atomic_uint_fast64_t *)a, memory_order_relaxed); }

static void write_duration(struct buf *out, const char *name, const struct stat_duration *d, bool comma)
{
    buf_printf(out, "%s\"%s\":{\"count\":%llu,\"ns\":%llu}", comma ? "," : "", name, (unsigned long long)get(&d->count), (unsigned long long)get(&d->ns));
}

void oip_stats_write(struct buf *out, const struct model_version *v)
{
    const struct stats *s = v->stats;
    buf_puts(out, "{\"name\":");
    json_write_text(out, v->name);
    buf_printf(out, ",\"version\":\"%lld\",\"last_inference\":%llu,\"inference_count\":%llu,\"execution_count\":%llu,\"inference_stats\":{", (long long)v->version,
               (unsigned long long)get(&s->last_inference_ms), (unsigned long long)get(&s->inference_count), (unsigned long long)get(&s->execution_count));
    write_duration(out, "success", &s->success, false);
    write_duration(out, "fail", &s->fail, true);
    write_duration(out, "queue", &s->queue, true);
    write_duration(out, "compute_input", &s->compute_input, true);
    write_duration(out, "compute_infer", &s->compute_infer, true);
    write_duration(out, "compute_output", &s->compute_output, true);
    write_duration(out, "cache_hit", &s->cache_hit, true);
    write_duration(out, "cache_miss", &s->cache_miss, true);
    buf_puts(out, "},\"response_stats\":{},\"batch_stats\":[");
    bool first = true;
    for (int i = 0; i < STATS_BATCH_SIZES; i++) {
        const struct stats_batch *b = &s->batches[i];
        int64_t size = atomic_load_explicit((atomic_int_fast64_t *)&b->size, memory_order_relaxed);
        if (!size) continue;
        buf_printf(out, "%s{\"batch_size\":%lld", first ? "" : ",", (long long)size);
        write_duration(out, "compute_input", &b->input, true);
        write_duration(out, "compute_infer", &b->infer, true);
        write_duration(out, "compute_output", &b->output, true);
        buf_putc(out, '}');
        first = false;
    }
    buf_printf(out, "],\"memory_usage\":[{\"type\":\"CPU\",\"id\":0,\"byte_size\":%llu}]}", (unsigned long long)v->memory_bytes);
}

void oip_index_write_row(struct buf *out, const struct registry_index_row *row)
{
    buf_puts(out, "{\"name\":");
    json_write_text(out, row->name);
    if (row->version) buf_printf(out, ",\"version\":\"%lld\"", (long long)row->version);
    if (row->state[0]) buf_printf(out, ",\"state\":\"%s\"", row->state);
    if (row->reason[0]) {
        buf_puts(out, ",\"reason\":");
        json_write_text(out, row->reason);
    }
    buf_putc(out, '}');
}

/* ---- classify ---- */

/* "value:index[:label]" apart again. */
static void write_class(struct buf *out, const struct string_ref *c)
{
    const char *end = c->text + c->length, *first = memchr(c->text, ':', c->length), *second;
    if (!first) return;
    second = memchr(first + 1, ':', (size_t)(end - first - 1));
    buf_puts(out, "{\"label\":");
    json_write_string(out, second ? second + 1 : first + 1, (size_t)(end - (second ? second + 1 : first + 1)));
    buf_puts(out, ",\"index\":");
    buf_append(out, first + 1, (size_t)((second ? second : end) - first - 1));
    buf_puts(out, ",\"score\":");
    struct json score;
    if (json_number(c->text, first, &score) == first) buf_append(out, c->text, (size_t)(first - c->text));
    else buf_puts(out, "null");      /* not a number: NaN or infinite */
    buf_putc(out, '}');
}

enum status classify_write(struct buf *out, struct request *r, int64_t k, const struct model_version *v, struct err *err)
{
    if (r->output_count < 1) return err_set(err, ST_INTERNAL, "the model made no output");
    struct tensor t = r->outputs[0].tensor;
    enum status st = oip_classify(&t, &r->arena, k, false, v->labels, v->label_count, err);
    if (st) return st;
    buf_puts(out, "{\"model_name\":");
    json_write_text(out, v->name);
    buf_printf(out, ",\"model_version\":\"%lld\",\"digest\":\"%s\",\"labels\":[", (long long)v->version, v->digest);
    for (int64_t i = 0; i < t.dims[0]; i++) {
        if (i) buf_putc(out, ',');
        write_class(out, &((const struct string_ref *)t.data)[i]);
    }
    buf_puts(out, "]}");
    return out->failed ? err_set(err, ST_NO_MEMORY, "no memory for the answer") : ST_OK;
}
