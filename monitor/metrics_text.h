/* Language models on the Prometheus page, under the names that vLLM's dashboards have (protocols.md 2.3); labels model_name and engine. */
#ifndef MONITOR_METRICS_TEXT_H
#define MONITOR_METRICS_TEXT_H

#include "base/buf.h"
#include "model_store/registry.h"

/* versions: pinned; those without text are passed over. */
void metrics_write_text(struct buf *out, struct model_version *const *versions, int count);

#endif
