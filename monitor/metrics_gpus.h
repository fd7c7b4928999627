/* The cards on the Prometheus page, with Triton's names: those that a model has opened. */
#ifndef MONITOR_METRICS_GPUS_H
#define MONITOR_METRICS_GPUS_H

#include "base/buf.h"

void metrics_gpus_write(struct buf *out);

#endif
