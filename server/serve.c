/* The walk itself, over HTTP (serve_rpc.c is the same walk over gRPC; exchange.c is what both share). Down: serve_begin (headers: who asks, for what, may
 * they, where does the body go), serve_ready (the body is in: which model, what does it say), the scheduler. Back: an event (a worker or the expiry thread
 * has news), serve_resume (outputs become bytes of the same dialect), serve_end (it was sent: log, let go). Everything but serve_gone runs on
 * the listener's thread. */
#include "server/server.h"

#include "api/oip_meta.h"
#include "api/picture.h"
#include "base/clock.h"
#include "base/compress.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { EXPAND_RATIO = 100, CLASSES_DEFAULT = 5, ADMIN_BODY_MAX = 1 << 20 };

/* "name;dur=1.234" in milliseconds; by hand, since printing five doubles would be a tenth of a small request's time. */
static char *put_stage(char *p, const char *name, uint64_t from, uint64_t to)
{
    uint64_t us = to > from ? (to - from) / 1000 : 0;
    char digits[24];
    int at = 24;
    for (int i = 0; i < 4 || us; i++) {
        if (i == 3) digits[--at] = '.';
        digits[--at] = (char)('0' + us % 10);
        us /= 10;
    }
    p = stpcpy(p, name);
    memcpy(p, digits + at, (size_t)(24 - at));
    return p + (24 - at);
}

static void tell_timing(struct exchange *x)
{
    const struct request_times *t = &x->request.times;
    char text[256], *p = text;
    p = put_stage(p, "read;dur=", t->received, t->queued);
    p = put_stage(p, ", queue;dur=", t->queued, t->taken);
    p = put_stage(p, ", input;dur=", t->taken, t->input_done);
    p = put_stage(p, ", compute;dur=", t->input_done, t->infer_done);
    p = put_stage(p, ", output;dur=", t->infer_done, t->output_done);
    snprintf(p, (size_t)(text + sizeof text - p), ", batch;desc=\"%" PRId64 "\"", x->request.batch_rows);
    http_answer_header(x->call, "Server-Timing", text);
}

/* Compresses when the client takes it and it pays. */
static void pack_answer(struct exchange *x, struct buf *body)
{
    const char *accepted = http_header(x->call, "Accept-Encoding");
    if (!accepted || body->length < 1024) return;
    enum compress_kind kind = COMPRESS_GZIP;
    const char *name = strstr(accepted, "gzip") ? "gzip" : strstr(accepted, "deflate") ? (kind = COMPRESS_DEFLATE, "deflate") : NULL;
    struct buf packed;
    struct err err;
    if (!name) return;
    buf_init(&packed, 0);
    if (compress_pack(&packed, kind, body->data, body->length, &err) || packed.length >= body->length) {
        buf_free(&packed);
        return;
    }
    buf_free(body);
    *body = packed;
    http_answer_header(x->call, "Content-Encoding", name);
}

static void serve_told(void *http) { http_wake(http); }

/* ---- down: the headers are in ---- */

static enum status check_trust(struct exchange *x, struct err *err)
{
    struct server *s = x->server;
    const char *method = http_method(x->call), *host = http_header(x->call, "Host"), *origin = http_header(x->call, "Origin");
    if (s->loopback && host && !auth_host_allowed(host, s->config->allowed_hosts))
        return err_set(err, ST_MISDIRECTED, "this server is bound to loopback and does not answer for host '%.64s'; --allowed-hosts names more", host);
    if (origin && strcmp(method, "GET") && strcmp(method, "HEAD") && !auth_origin_allowed(origin, s->config->allowed_hosts))
        return err_set(err, ST_FORBIDDEN, "calls that change something are not taken from the origin '%.64s'", origin);
    enum status st = route_find(&x->route, method, http_path(x->call), err);
    if (!st && x->listener->metrics_only && x->route.route != ROUTE_METRICS && x->route.scope != SCOPE_OPEN) st = err_set(err, ST_NOT_FOUND, "Not Found");
    if (!st) st = auth_check(s->auth, http_header(x->call, "Authorization"), x->route.scope, x->who, err);
    return st || x->route.scope != SCOPE_INFER ? st : auth_charge(s->auth, x->who, x->request.times.received, err);
}

static bool header_number(struct exchange *x, const char *name, uint64_t *out)
{
    const char *text = http_header(x->call, name);
    if (!text) return false;
    char *end;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end;
}

static enum status plan_body(struct exchange *x, struct err *err)
{
    struct server *s = x->server;
    const char *encoding = http_header(x->call, "Content-Encoding");
    uint64_t offset;
    if (encoding && strcasecmp(encoding, "gzip") && strcasecmp(encoding, "deflate") && strcasecmp(encoding, "identity"))
        return err_set(err, ST_BAD_MEDIA, "Content-Encoding '%.32s' is not taken; gzip and deflate are", encoding);
    switch (x->route.route) {
    case ROUTE_INFER: case ROUTE_LOAD: case ROUTE_GENERATE: case ROUTE_GENERATE_STREAM: case ROUTE_CHAT: case ROUTE_COMPLETIONS: case ROUTE_EMBEDDINGS: case ROUTE_RERANK:
    case ROUTE_TOKENIZE: case ROUTE_DETOKENIZE: case ROUTE_APPLY_TEMPLATE: case ROUTE_IMAGE_GENERATIONS: case ROUTE_IMAGE_EDITS: case ROUTE_IMAGE_VARIATIONS: http_body_limit(x->call, (uint64_t)s->config->body_max); break;
    case ROUTE_CLASSIFY: http_body_limit(x->call, (uint64_t)(s->config->body_max < 20 << 20 ? s->config->body_max : 20 << 20)); break;
    case ROUTE_UPLOAD: break;
    default: http_body_limit(x->call, ADMIN_BODY_MAX);
    }
    if (x->route.route == ROUTE_INFER && !encoding && header_number(x, "Inference-Header-Content-Length", &offset)) http_body_align(x->call, offset);
    if (x->route.route == ROUTE_UPLOAD) serve_upload_begin(x);
    return ST_OK;
}

/* Asked before a body is stored and parsed, since a refusal must be cheap; the pin is not kept, so that a slow body holds no version. */
static bool queue_is_full(struct exchange *x, struct err *err)
{
    struct model_version *v;
    struct err ignored;
    if (x->route.route != ROUTE_INFER && x->route.route != ROUTE_CLASSIFY) return false;
    if (registry_pin(x->server->registry, x->route.model, x->route.model_length, x->route.version, &v, &ignored)) return false;
    bool full = scheduler_full(v->scheduler);
    registry_unpin(x->server->registry, v);
    if (full) err_set(err, ST_UNAVAILABLE, "Exceeds maximum queue size");
    return full;
}

static void serve_begin(void *context, struct http_call *c)
{
    struct listener *l = context;
    struct exchange *x = exchange_new(l->server, http_received_ns(c));
    struct err err;
    http_set_user(c, x);
    if (x) {
        x->listener = l;
        x->call = c;
        x->request.told = serve_told;
        x->request.told_context = http_of(c);
    }
    if (http_answered(c)) return;
    if (!x) {
        http_answer(c, 503, NULL, NULL);
        return;
    }
    if (tracer_on(l->server->tracer)) x->trace = trace_context_read(http_header(c, "traceparent"));
    enum status st = atomic_load(&l->server->stopping) ? err_set(&err, ST_UNAVAILABLE, "the server is stopping") : check_trust(x, &err);
    if (!st) st = plan_body(x, &err);
    if (!st && queue_is_full(x, &err)) {
        http_drain_body(c);
        st = err.status;
    }
    if (st) serve_error(x, &err);
}

/* ---- down: the body is in ---- */

enum status serve_take_body(struct exchange *x, const char **body, size_t *length, struct err *err)
{
    const char *encoding = http_header(x->call, "Content-Encoding");
    *body = http_body_take(x->call, &x->body_base, length);
    if (!*body) *body = "";
    if (!encoding || !strcasecmp(encoding, "identity")) return ST_OK;
    struct buf expanded;
    buf_init(&expanded, (uint64_t)x->server->config->body_max + 1);
    enum status st = compress_expand(&expanded, strcasecmp(encoding, "gzip") ? COMPRESS_DEFLATE : COMPRESS_GZIP, *body, *length, (uint64_t)x->server->config->body_max, EXPAND_RATIO, err);
    free(x->body_base);
    x->body_base = expanded.data;
    *body = expanded.data ? expanded.data : "";
    *length = expanded.length;
    return st;
}

static enum status read_infer(struct exchange *x, struct err *err)
{
    const char *body, *header = http_header(x->call, "Inference-Header-Content-Length");
    size_t length;
    uint64_t json_length = 0;
    enum status st = serve_take_body(x, &body, &length, err);
    if (st) return st;
    if (header && (!header_number(x, "Inference-Header-Content-Length", &json_length) || json_length > length))
        return err_set(err, ST_BAD_INPUT, "Unable to parse Inference-Header-Content-Length: '%.32s' is not a number of bytes of the body", header);
    return oip_infer_read(&x->request, &x->ask, x->pin, body, length, header ? (int64_t)json_length : -1, err);
}

static enum status read_classify(struct exchange *x, struct err *err)
{
    const char *body, *k = http_query(x->call, "k");
    size_t length;
    char *end = NULL;
    long long classes = k ? strtoll(k, &end, 10) : CLASSES_DEFAULT;
    if (k && (end == k || *end || classes < 1 || classes > CLASSES_MAX)) return err_set(err, ST_BAD_INPUT, "k takes a number from 1 to %d", CLASSES_MAX);
    x->classes = classes;
    const struct signature *sig = x->pin->signature;
    if (!x->pin->config->picture.usable)
        return err_set(err, ST_BAD_INPUT, "model '%s' does not take pictures: its configuration does not say how a picture becomes its input", x->pin->name);
    enum status st = serve_take_body(x, &body, &length, err);
    if (st) return st;
    x->request.inputs = arena_calloc(&x->request.arena, 1, sizeof *x->request.inputs);
    if (!x->request.inputs) return err_set(err, ST_NO_MEMORY, "no memory for the picture");
    x->request.input_count = 1;
    x->request.inputs[0].name = sig->inputs[0].name;
    return picture_bytes_to_tensor(&x->request.inputs[0].tensor, &x->pin->config->picture, &x->request, body, length, err);
}

enum status serve_read_deadline(struct exchange *x, struct err *err)
{
    uint64_t timeout_ms;
    const char *text = http_header(x->call, "X-Request-Timeout-Ms");
    if (!text) return ST_OK;
    if (!header_number(x, "X-Request-Timeout-Ms", &timeout_ms) || timeout_ms < 1 || timeout_ms > 86400000)
        return err_set(err, ST_BAD_INPUT, "X-Request-Timeout-Ms takes a number from 1 to 86400000, not '%.32s'", text);
    x->request.deadline_ns = x->request.times.received + timeout_ms * 1000000;
    return ST_OK;
}

static void serve_inference(struct exchange *x)
{
    struct err err;
    enum status st = exchange_pin(x, &err);      /* the queue may have filled while the body came */
    if (!st) st = serve_read_deadline(x, &err);
    if (!st) st = x->route.route == ROUTE_CLASSIFY ? read_classify(x, &err) : read_infer(x, &err);
    if (st) {
        serve_error(x, &err);
        return;
    }
    http_suspend(x->call);
    if (exchange_submit(x)) exchange_refused(x);
}

static void serve_ready(void *context, struct http_call *c)
{
    struct exchange *x = http_user(c);
    (void)context;
    if (x->route.route == ROUTE_INFER || x->route.route == ROUTE_CLASSIFY) serve_inference(x);
    else if (!serve_text_route(x) && !serve_images_route(x) && !serve_model_route(x)) serve_admin_route(x);
}

/* ---- back ---- */

static void serve_outputs(struct exchange *x)
{
    struct buf body;
    struct err err;
    size_t json_length = 0;
    buf_init(&body, 0);
    enum status st = x->route.route == ROUTE_CLASSIFY ? classify_write(&body, &x->request, x->classes, x->pin, &err)
                                                      : oip_infer_write(&body, &json_length, &x->request, &x->ask, x->pin, &err);
    serve_name_model(x);
    if (st) {
        buf_free(&body);
        serve_error(x, &err);
        return;
    }
    tell_timing(x);
    if (json_length) {
        char text[24];
        snprintf(text, sizeof text, "%zu", json_length);
        http_answer_header(x->call, "Inference-Header-Content-Length", text);
    }
    pack_answer(x, &body);
    if (atomic_load(&x->server->closing)) http_answer_header(x->call, "Connection", "close");
    http_answer(x->call, 200, json_length ? "application/octet-stream" : "application/json", &body);
}

static void serve_resume(void *context, struct http_call *c)
{
    struct exchange *x = http_user(c);
    (void)context;
    if (x->error.status) serve_error(x, &x->error);
    else if (x->text.has_job) serve_text_resume(x);
    else if (x->image.ask.has_job) serve_images_resume(x);
    else if (x->job) serve_json(x, x->answer_status ? x->answer_status : 200, &x->answer);
    else if (x->request.error.status) serve_error(x, &x->request.error);
    else serve_outputs(x);
}

static void serve_gone(void *context, struct http_call *c)
{
    struct exchange *x = http_user(c);
    (void)context;
    exchange_cancel(x);
}

static void serve_end(void *context, struct http_call *c, bool sent)
{
    struct exchange *x = http_user(c);
    (void)context;
    if (!x) return;
    exchange_ended(x, sent);
    if (x->text.stream || x->image.ask.stream) {
        http_forget(x->listener->http, &x->call);
        if (x->pin && x->request.scheduler && !atomic_load(&x->over)) scheduler_cancel(x->pin->scheduler, &x->request);
    }
    request_drop(&x->request);
}

struct http_handler serve_handler(struct listener *l)
{
    return (struct http_handler){ .context = l, .begin = serve_begin, .ready = serve_ready, .resume = serve_resume, .gone = serve_gone, .end = serve_end };
}
