/* How a Prometheus page is written (text format 0.0.4): families, the labels that name a model version, histograms. */
#ifndef MONITOR_PAGE_H
#define MONITOR_PAGE_H

#include <stddef.h>

#include "base/buf.h"
#include "engine/stats.h"
#include "model_store/registry.h"

/* Which labels name the model: Triton's {model, version}, or vLLM's {engine, model_name}. */
enum page_labels { PAGE_TRITON, PAGE_VLLM };

uint64_t page_count(const atomic_uint_fast64_t *a);

/* The two lines before a family's samples; `type` is counter, gauge or histogram. */
void page_family(struct buf *out, const char *name, const char *type, const char *help);

/* `more` is a further label as it stands on the page, or NULL. */
void page_sample(struct buf *out, const char *name, enum page_labels labels, const struct model_version *v, const char *more, double value);

/* The buckets, sum and count of one version, in seconds. */
void page_histogram(struct buf *out, const char *name, enum page_labels labels, const struct model_version *v, const struct stat_histogram *h);

/* A family that is one field of an engine's struct of counts: atomic_uint_fast64_t (counter), atomic_int_fast64_t (gauge) or struct stat_histogram. */
enum page_type { PAGE_COUNTER, PAGE_GAUGE, PAGE_HISTOGRAM };
struct page_field { enum page_type type; const char *name, *help; size_t offset; };

/* Writes the families of a table. `stats_of` gives a version's struct, or NULL when its engine has none. */
void page_fields(struct buf *out, const struct page_field *fields, size_t field_count, enum page_labels labels, void *(*stats_of)(const struct model_version *v), struct model_version *const *versions, int count);

#endif
