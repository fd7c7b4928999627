#include "monitor/page.h"

uint64_t page_count(const atomic_uint_fast64_t *a) { return atomic_load_explicit((atomic_uint_fast64_t *)a, memory_order_relaxed); }

void page_family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Label values: backslash, quote and newline are escaped (names passed R20, metric tags need not). The brace stays open for more labels. */
static void open_labels(struct buf *out, const char *name, const char *suffix, enum page_labels labels, const struct model_version *v)
{
    buf_printf(out, "%s%s{%s=\"", name, suffix, labels == PAGE_TRITON ? "model" : "engine=\"0\",model_name");
    for (const char *t = v->name; *t; t++) {
        if (*t == '\\' || *t == '"') buf_putc(out, '\\');
        buf_putc(out, *t);
    }
    buf_putc(out, '"');
    if (labels == PAGE_TRITON) buf_printf(out, ",version=\"%lld\"", (long long)v->version);
}

void page_sample(struct buf *out, const char *name, enum page_labels labels, const struct model_version *v, const char *more, double value)
{
    open_labels(out, name, "", labels, v);
    if (more) buf_printf(out, ",%s", more);
    buf_printf(out, "} %.17g\n", value);
}

void page_histogram(struct buf *out, const char *name, enum page_labels labels, const struct model_version *v, const struct stat_histogram *h)
{
    uint64_t sum = 0;
    for (int b = 0; b < STATS_BUCKETS; b++) {
        sum += page_count(&h->bucket[b]);
        open_labels(out, name, "_bucket", labels, v);
        if (b < STATS_BUCKETS - 1) buf_printf(out, ",le=\"%g\"} %llu\n", stats_bucket_us[b] * 1e-6, (unsigned long long)sum);
        else buf_printf(out, ",le=\"+Inf\"} %llu\n", (unsigned long long)sum);
    }
    open_labels(out, name, "_sum", labels, v);
    buf_printf(out, "} %.9g\n", (double)page_count(&h->sum_ns) * 1e-9);
    open_labels(out, name, "_count", labels, v);
    buf_printf(out, "} %llu\n", (unsigned long long)sum);
}

void page_fields(struct buf *out, const struct page_field *fields, size_t field_count, enum page_labels labels, void *(*stats_of)(const struct model_version *v), struct model_version *const *versions, int count)
{
    static const char *const types[] = { [PAGE_COUNTER] = "counter", [PAGE_GAUGE] = "gauge", [PAGE_HISTOGRAM] = "histogram" };
    for (const struct page_field *f = fields; f < fields + field_count; f++) {
        page_family(out, f->name, types[f->type], f->help);
        for (int k = 0; k < count; k++) {
            const char *s = stats_of(versions[k]);
            if (!s) continue;
            const void *field = s + f->offset;
            if (f->type == PAGE_HISTOGRAM) page_histogram(out, f->name, labels, versions[k], field);
            else page_sample(out, f->name, labels, versions[k], NULL, f->type == PAGE_COUNTER ? (double)page_count(field) : (double)atomic_load((const atomic_int_fast64_t *)field));
        }
    }
}
