/* The Prometheus page (text format 0.0.4): Triton's nv_* names (protocols.md 2.3) and our own inferd_* histograms for each stage. */
#ifndef MONITOR_METRICS_H
#define MONITOR_METRICS_H

#include "base/buf.h"
#include "model_store/registry.h"

struct metrics_process {      /* what only the server knows */
    uint64_t start_wall_ms;
    uint64_t connections, busy;
    const char *cpu_level;
};

void metrics_write(struct buf *out, struct registry *r, const struct metrics_process *p);

#endif
