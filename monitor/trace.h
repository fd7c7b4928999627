/* Traces: when each stage of a request began and ended, for one request in so many. They go to a file in Triton's form (trace_mode triton) or, as spans of OpenTelemetry, to
 * a collector over OTLP/HTTP in JSON (trace_mode opentelemetry). Where they go is the operator's to say at the start (R27); level, rate and count can be set while the server runs, for
 * all models or for one. A request that brings a sampled W3C traceparent is traced whatever the rate. Everything may be called from any thread. */
#ifndef MONITOR_TRACE_H
#define MONITOR_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/request.h"

struct tracer;

struct tracer_options {
    const char *file;            /* triton: written when trace_count or log_frequency is reached, and at close; NULL */
    const char *endpoint;        /* opentelemetry: the collector's URL, e.g. http://127.0.0.1:4318/v1/traces; NULL */
    bool        on;              /* trace_level TIMESTAMPS from the start */
    int64_t     rate, count;     /* one in `rate`; at most `count`, -1: no limit */
    struct log *log;
};

enum status tracer_open(struct tracer **out, const struct tracer_options *o, struct err *err);
void        tracer_close(struct tracer *t);          /* what was collected is written or sent first */

/* The settings of one model, or the global ones (`model` NULL), as Triton's clients know them. Values are strings, lists of strings, or null, which goes back to
 * the global one. Nothing is changed when anything is wrong: ST_BAD_INPUT. */
enum status tracer_set(struct tracer *t, const char *model, const struct json *settings, struct err *err);
void        tracer_write(struct tracer *t, const char *model, struct buf *out);

/* W3C Trace Context, level 1: "00-<32 hex>-<16 hex>-<2 hex>". */
struct trace_context { uint8_t trace[16], parent[8]; bool given, sampled; };
struct trace_context trace_context_read(const char *traceparent);      /* NULL or malformed: not given */

/* Is anything to be traced at all? One load; asked for every request. */
bool tracer_on(const struct tracer *t);
/* Called once for each request that reached a model, when it is over: decides and keeps. `failed` NULL: it was answered. */
void tracer_note(struct tracer *t, const char *model, int64_t version, const struct request *r, const struct trace_context *c, uint64_t end_ns, const char *failed);

#endif
