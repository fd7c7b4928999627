/* Routes answered at once from what is loaded: health, metadata, configuration, statistics, index, logging, metrics. */
#include "server/server.h"

#include "api/oip_meta.h"
#include "base/json.h"
#include "kernels/kernels.h"
#include "monitor/metrics.h"

#include <stdio.h>
#include <string.h>

bool serve_is_ready(struct server *s) { return !atomic_load(&s->draining) && registry_ready(s->registry); }

static void serve_server(struct exchange *x)
{
    struct buf b;
    buf_init(&b, 0);
    oip_server_write(&b, x->server->regions != NULL);
    serve_json(x, 200, &b);
}

/* Metadata, configuration, statistics and readiness of one model. */
static void serve_pinned(struct exchange *x)
{
    struct buf b;
    struct err err;
    enum status st = registry_pin(x->server->registry, x->route.model, x->route.model_length, x->route.version, &x->pin, &err);
    if (st) {
        /* Triton answers these two unlike other routes, and its clients know that: 400 over HTTP; over gRPC what is not there is not ready, so that who waits for a model may ask again and again */
        if (x->route.route == ROUTE_MODEL_READY && x->loop) {
            serve_flag(x, "ready", false);
            return;
        }
        if (x->route.route == ROUTE_MODEL_READY) err_set(&err, ST_BAD_INPUT, "Model version not ready");
        if (x->route.route == ROUTE_STATS) err_set(&err, ST_BAD_INPUT, "requested model '%.*s' is not available", (int)(x->route.model_length < 128 ? x->route.model_length : 128), x->route.model);
        serve_error(x, &err);
        return;
    }
    buf_init(&b, 0);
    switch (x->route.route) {
    case ROUTE_MODEL_READY: serve_flag(x, "ready", true); return;
    case ROUTE_CONFIG: model_config_write_json(&b, x->pin->config); break;
    case ROUTE_STATS:
        buf_puts(&b, "{\"model_stats\":[");
        oip_stats_write(&b, x->pin);
        buf_puts(&b, "]}");
        break;
    default: {
        int64_t versions[MODEL_VERSIONS_MAX];
        bool known;
        int n = registry_versions(x->server->registry, x->pin->name, versions, MODEL_VERSIONS_MAX, &known);
        oip_model_write(&b, x->pin, versions, n < MODEL_VERSIONS_MAX ? n : MODEL_VERSIONS_MAX);
    }
    }
    serve_json(x, 200, &b);
}

struct list { struct buf *out; int count; };

static void add_stats(void *ctx, struct model_version *v)
{
    struct list *l = ctx;
    if (l->count++) buf_putc(l->out, ',');
    oip_stats_write(l->out, v);
}

static void add_row(void *ctx, const struct registry_index_row *row)
{
    struct list *l = ctx;
    if (l->count++) buf_putc(l->out, ',');
    oip_index_write_row(l->out, row);
}

static void serve_all_stats(struct exchange *x)
{
    struct buf b;
    buf_init(&b, 0);
    struct list l = { &b, 0 };
    buf_puts(&b, "{\"model_stats\":[");
    registry_each(x->server->registry, add_stats, &l);
    buf_puts(&b, "]}");
    serve_json(x, 200, &b);
}

static void serve_index(struct exchange *x)
{
    struct buf b;
    struct err err;
    struct json *root;
    enum status st = serve_read_object(x, &root, &err);
    const struct json *ready = st ? NULL : json_get(root, "ready");
    if (!st && ready && ready->type != JSON_BOOL) st = err_set(&err, ST_BAD_INPUT, "Unable to parse 'ready': it must be a boolean");
    if (st) {
        serve_error(x, &err);
        return;
    }
    buf_init(&b, 0);
    struct list l = { &b, 0 };
    buf_putc(&b, '[');
    registry_index(x->server->registry, ready && ready->boolean, add_row, &l);
    buf_putc(&b, ']');
    serve_json(x, 200, &b);
}

static const struct { const char *key; enum log_level level; } switches[] = { { "log_info", LOG_INFO }, { "log_warning", LOG_WARNING }, { "log_error", LOG_ERROR } };

static enum status set_logging(struct exchange *x, struct err *err)
{
    struct json *root;
    enum status st = serve_read_object(x, &root, err);
    if (st) return st;
    /* all of it is checked before any of it is done */
    for (const struct json *j = root->list.first; j; j = j->next) {
        uint64_t level;
        size_t i = 0;
        while (i < 3 && strcmp(switches[i].key, j->key)) i++;
        /* a key that is no setting is passed over, as Triton does */
        if (i < 3 && j->type != JSON_BOOL) return err_set(err, ST_BAD_INPUT, "log setting '%s' must be a boolean", j->key);
        else if (i < 3) continue;
        if (!strcmp(j->key, "log_file")) return err_set(err, ST_UNSUPPORTED, "log file location can not be updated through network protocol");
        if (!strcmp(j->key, "log_verbose_level")) {
            if (!json_as_uint64(j, &level) || level > UINT32_MAX) return err_set(err, ST_BAD_INPUT, "log setting 'log_verbose_level' must be a natural number");
        } else if (!strcmp(j->key, "log_format")) {
            if (!json_is_string(j, "default") && !json_is_string(j, "ISO8601")) return err_set(err, ST_BAD_INPUT, "log setting 'log_format' must be default or ISO8601");
        }
    }
    for (const struct json *j = root->list.first; j; j = j->next) {
        uint64_t level;
        for (size_t i = 0; i < 3; i++)
            if (!strcmp(switches[i].key, j->key)) log_enable(x->server->log, switches[i].level, j->boolean);
        if (!strcmp(j->key, "log_verbose_level") && json_as_uint64(j, &level)) {
            atomic_store(&x->server->verbose_level, (unsigned)level);
            log_enable(x->server->log, LOG_VERBOSE, level > 0);
        }
    }
    registry_audit(x->server->registry, x->who, "logging", "", "");
    return ST_OK;
}

static void serve_logging(struct exchange *x)
{
    struct buf b;
    struct err err;
    if (x->route.route == ROUTE_LOGGING_SET && set_logging(x, &err)) {
        serve_error(x, &err);
        return;
    }
    buf_init(&b, 0);
    buf_puts(&b, "{\"log_file\":\"\"");
    for (size_t i = 0; i < 3; i++) buf_printf(&b, ",\"%s\":%s", switches[i].key, log_enabled(x->server->log, switches[i].level) ? "true" : "false");
    buf_printf(&b, ",\"log_verbose_level\":%u,\"log_format\":\"default\"}", atomic_load(&x->server->verbose_level));
    serve_json(x, 200, &b);
}

/* The settings of the model that the route names, or the global ones; changed first when the route says so. */
static void serve_trace(struct exchange *x)
{
    char model[MODEL_NAME_MAX + 1];
    struct json *settings = x->question;
    struct err err;
    struct buf b;
    enum status st = ST_OK;
    snprintf(model, sizeof model, "%.*s", (int)(x->route.model_length < MODEL_NAME_MAX ? x->route.model_length : MODEL_NAME_MAX), x->route.model ? x->route.model : "");
    if (*model) {
        st = registry_pin(x->server->registry, model, strlen(model), 0, &x->pin, &err);
        if (st) err_set(&err, ST_BAD_INPUT, "Request for unknown model : %s", model);
    }
    if (!st && x->route.route == ROUTE_TRACE_SET) {
        if (!settings) st = serve_read_object(x, &settings, &err);
        if (!st) st = tracer_set(x->server->tracer, *model ? model : NULL, settings, &err);
        if (!st) registry_audit(x->server->registry, x->who, "trace", model, "");
    }
    if (st) {
        serve_error(x, &err);
        return;
    }
    buf_init(&b, 0);
    tracer_write(x->server->tracer, *model ? model : NULL, &b);
    serve_json(x, 200, &b);
}

static void serve_metrics(struct exchange *x)
{
    struct buf b;
    buf_init(&b, 0);
    metrics_write(&b, x->server->registry, &(struct metrics_process){ .start_wall_ms = x->server->start_wall_ms,
                  .connections = x->server->main_listener.http ? http_connections(x->server->main_listener.http) : 0,
                  .busy = x->server->main_listener.http ? http_busy(x->server->main_listener.http) : 0, .cpu_level = x->server->cpu_level });
    http_answer(x->call, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

bool serve_model_route(struct exchange *x)
{
    struct err err;
    switch (x->route.route) {
    case ROUTE_LIVE: serve_flag(x, "live", true); return true;
    case ROUTE_READY: serve_flag(x, "ready", serve_is_ready(x->server)); return true;
    case ROUTE_SERVER: serve_server(x); return true;
    case ROUTE_MODEL: case ROUTE_MODEL_READY: case ROUTE_CONFIG: case ROUTE_STATS: serve_pinned(x); return true;
    case ROUTE_ALL_STATS: serve_all_stats(x); return true;
    case ROUTE_INDEX: serve_index(x); return true;
    case ROUTE_LOGGING_GET: case ROUTE_LOGGING_SET: serve_logging(x); return true;
    case ROUTE_METRICS: serve_metrics(x); return true;
    case ROUTE_TRACE: case ROUTE_TRACE_SET: serve_trace(x); return true;
    case ROUTE_SYSTEM_STATUS: case ROUTE_SYSTEM_REGISTER: case ROUTE_SYSTEM_UNREGISTER: serve_regions(x); return true;
    case ROUTE_CUDA_MEMORY:
        err_set(&err, ST_UNSUPPORTED, "CUDA shared memory is off");
        serve_error(x, &err);
        return true;
    case ROUTE_NAMED_REPOSITORY:
        err_set(&err, ST_UNSUPPORTED, "'repository_name' specification is not supported");
        serve_error(x, &err);
        return true;
    default: return false;
    }
}
