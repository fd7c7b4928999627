/* What both transports share of a call: the exchange's life, its events, the answers of the small routes, the access log. */
#include "server/server.h"

#include "api/oip_meta.h"
#include "base/clock.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- an exchange's life ---- */

static void serve_event(struct request *r, enum request_event e)
{
    struct exchange *x = (struct exchange *)r;
    if (e != EVENT_PARTIAL) atomic_store(&x->over, true);
    if (x->in_stream) rpc_news(x->loop, &x->rpc);
    else if (x->loop && e != EVENT_PARTIAL) rpc_resume_later(x->rpc);
    else if (x->loop) return;
    else if (x->image.ask.has_job) serve_images_event(x, e);
    else if (x->text.stream) http_news(x->listener->http, &x->call);
    else if (e != EVENT_PARTIAL) http_resume_later(x->call);
}

static void serve_release(struct request *r)
{
    struct exchange *x = (struct exchange *)r;
    struct server *s = x->server;
    if (x->pin) registry_unpin(s->registry, x->pin);
    if (x->upload) registry_upload_abort(x->upload);
    infer_ask_close(&x->ask);
    openai_ask_close(&x->text);
    images_close(&x->image.ask);
    pthread_mutex_destroy(&x->image.lock);
    free(x->body_base);
    buf_free(&x->answer);
    arena_reset(&r->arena);
    pthread_mutex_lock(&s->spare_lock);
    bool keep = s->spare_count < EXCHANGES_KEPT;
    if (keep) x->next_spare = s->spare, s->spare = x, s->spare_count++;
    pthread_mutex_unlock(&s->spare_lock);
    if (keep) return;
    arena_free(&r->arena);
    free(x);
}

struct exchange *exchange_new(struct server *s, uint64_t received_ns)
{
    pthread_mutex_lock(&s->spare_lock);
    struct exchange *x = s->spare;
    if (x) s->spare = x->next_spare, s->spare_count--;
    pthread_mutex_unlock(&s->spare_lock);
    struct arena kept = { 0 };
    if (x) kept = x->request.arena;
    else if (!(x = malloc(sizeof *x))) return NULL;
    memset(x, 0, sizeof *x);
    pthread_mutex_init(&x->image.lock, NULL);
    request_init(&x->request, (uint64_t)s->config->request_memory_max);
    x->request.arena.head = kept.head;      /* the memory of the last use, empty */
    x->request.event = serve_event;
    x->request.event_context = x;
    x->request.release = serve_release;
    x->request.times.received = received_ns;
    x->server = s;
    x->ask.regions = s->regions;
    return x;
}

void serve_trim(struct server *s)
{
    pthread_mutex_lock(&s->spare_lock);
    struct exchange *x = s->spare;
    s->spare = NULL;
    s->spare_count = 0;
    pthread_mutex_unlock(&s->spare_lock);
    for (struct exchange *next; x; x = next) {
        next = x->next_spare;
        arena_free(&x->request.arena);
        free(x);
    }
}

/* ---- down ---- */

void exchange_suspend(struct exchange *x)
{
    if (x->loop) rpc_suspend(x->rpc);
    else http_suspend(x->call);
}

void exchange_resume(struct exchange *x)
{
    if (x->loop) rpc_resume(x->rpc);
    else http_resume(x->call);
}

enum status exchange_pin(struct exchange *x, struct err *err)
{
    enum status st = registry_pin(x->server->registry, x->route.model, x->route.model_length, x->route.version, &x->pin, err);
    return st ? st : scheduler_full(x->pin->scheduler) ? err_set(err, ST_UNAVAILABLE, "Exceeds maximum queue size") : ST_OK;
}

enum status exchange_submit(struct exchange *x)
{
    enum status st = scheduler_submit(x->pin->scheduler, &x->request, &x->error);
    if (st != ST_BAD_INPUT) return st;
    struct err plain = x->error;      /* Triton names request and model in every sentence about an inference */
    return err_set(&x->error, st, "[request id: %s] %s for '%s'", x->request.id[0] ? x->request.id : "<id_unknown>", plain.text, x->pin->name);
}

void exchange_refused(struct exchange *x)
{
    if (!x->in_stream) {
        exchange_resume(x);
        return;
    }
    atomic_store(&x->over, true);
    rpc_news(x->loop, &x->rpc);
}

void exchange_cancel(struct exchange *x)
{
    if (atomic_load(&x->in_job)) return;
    if (x->pin && !x->job) scheduler_cancel(x->pin->scheduler, &x->request);
}

/* ---- answers ---- */

void serve_json(struct exchange *x, int status, struct buf *body)
{
    if (x->loop) {
        serve_rpc_json(x, body);
        return;
    }
    if (atomic_load(&x->server->closing)) http_answer_header(x->call, "Connection", "close");
    http_answer(x->call, status, "application/json", body);
}

void serve_flag(struct exchange *x, const char *name, bool value)
{
    struct buf b;
    if (!x->loop) {
        if (atomic_load(&x->server->closing)) http_answer_header(x->call, "Connection", "close");
        http_answer(x->call, value ? 200 : 400, "text/plain", NULL);      /* empty: clients look at the status */
        return;
    }
    buf_init(&b, 0);
    buf_printf(&b, "{\"%s\":%s}", name, value ? "true" : "false");
    serve_rpc_json(x, &b);
}

void serve_error(struct exchange *x, const struct err *e)
{
    struct buf b;
    if (e->status == ST_INTERNAL) log_write(x->server->log, LOG_ERROR, "request", "%s", e->text);
    if (x->loop) {
        rpc_answer(x->rpc, status_grpc(e->status), e->text, NULL, NULL, NULL);
        return;
    }
    buf_init(&b, 0);
    int status = status_http(e->status);
    if (x->route.route >= ROUTE_CHAT || (x->route.route == ROUTE_NONE && !strncmp(http_path(x->call), "/v1/", 4))) openai_error_write(&b, status, e->text, x->route.route >= ROUTE_IMAGE_GENERATIONS ? x->image.ask.parameter : x->text.parameter, x->route.route >= ROUTE_IMAGE_GENERATIONS ? x->image.ask.code : x->text.code);
    else oip_error_write(&b, e->text);
    bool v2 = x->route.route >= ROUTE_SERVER && x->route.route <= ROUTE_NAMED_REPOSITORY;
    if (e->status == ST_EXISTS && v2) status = 400;
    if (status == 503 || status == 429) {
        http_answer_header(x->call, "Retry-After", "1");
        http_answer_paced(x->call);
    }
    if (e->status == ST_UNAUTHENTICATED) http_answer_header(x->call, "WWW-Authenticate", "Bearer");
    serve_json(x, status, &b);
}

void serve_name_model(struct exchange *x)
{
    char version[24], digest[24];
    snprintf(version, sizeof version, "%" PRId64, x->pin->version);
    snprintf(digest, sizeof digest, "%.16s", x->pin->digest);
    if (x->loop) {
        rpc_answer_header(x->rpc, "x-inferd-model", x->pin->name);
        rpc_answer_header(x->rpc, "x-inferd-version", version);
        rpc_answer_header(x->rpc, "x-inferd-digest", digest);
        return;
    }
    http_answer_header(x->call, "X-Inferd-Model", x->pin->name);
    http_answer_header(x->call, "X-Inferd-Version", version);
    http_answer_header(x->call, "X-Inferd-Digest", digest);
}

enum status serve_read_object(struct exchange *x, struct json **out, struct err *err)
{
    size_t length;
    if (x->loop) {      /* its message became a tree already */
        *out = x->question;
        return ST_OK;
    }
    const char *body = http_body(x->call, &length);
    if (!length) body = "{}", length = 2;
    enum status st = json_parse(out, &x->request.arena, body, length, &(struct json_options){ .unique_keys = true }, err);
    if (st) return err_prefix(err, "failed to parse the request JSON buffer");
    return (*out)->type == JSON_OBJECT ? ST_OK : err_set(err, ST_BAD_INPUT, "failed to parse the request JSON buffer: an object is needed");
}

/* ---- the access log ---- */

static void log_transport(struct log_line *line, struct exchange *x)
{
    const char *peer = x->loop ? rpc_peer(x->rpc) : http_peer(x->call);
    log_line_text(line, "peer", peer, strlen(peer));
    if (x->loop) {
        size_t length;
        const char *path = rpc_method_path(x->rpc, &length);
        log_line_text(line, "method", "gRPC", 4);
        log_line_text(line, "path", path, length);
        log_line_int(line, "status", x->in_stream ? status_grpc(x->request.error.status ? x->request.error.status : x->error.status) : rpc_answer_code(x->rpc));
        if (!x->in_stream) log_line_int(line, "bytes", (int64_t)rpc_answer_bytes(x->rpc));
        return;
    }
    log_line_text(line, "method", http_method(x->call), strlen(http_method(x->call)));
    log_line_text(line, "path", http_path(x->call), strlen(http_path(x->call)));
    log_line_int(line, "status", http_answer_status(x->call));
    log_line_int(line, "bytes", (int64_t)http_answer_bytes(x->call));
}

static void note_trace(struct exchange *x)
{
    const struct err *failed = x->error.status ? &x->error : x->request.error.status ? &x->request.error : NULL;
    if (x->pin && x->request.times.queued) tracer_note(x->server->tracer, x->pin->name, x->pin->version, &x->request, &x->trace, clock_ns(), failed ? failed->text : NULL);
}

static void write_log(struct exchange *x, bool sent)
{
    struct log_line line;
    const struct request_times *t = &x->request.times;
    if (!x->server->config->access_log || !log_enabled(x->server->log, LOG_INFO)) return;
    log_line_begin(&line, x->server->log, "access");
    log_transport(&line, x);
    log_line_int(&line, "us", (int64_t)((clock_ns() - t->received) / 1000));
    if (x->who[0]) log_line_text(&line, "who", x->who, strlen(x->who));
    if (x->request.id[0]) log_line_text(&line, "id", x->request.id, strlen(x->request.id));
    if (x->pin) {
        log_line_text(&line, "model", x->pin->name, strlen(x->pin->name));
        log_line_int(&line, "version", x->pin->version);
    }
    if (x->request.batch_rows) {
        log_line_int(&line, "batch", x->request.batch_rows);
        log_line_int(&line, "queue_us", (int64_t)((t->taken - t->queued) / 1000));
        log_line_int(&line, "compute_us", (int64_t)((t->infer_done - t->taken) / 1000));
    }
    if (!sent) log_line_int(&line, "aborted", 1);
    log_line_end(&line);
}

/* Tokens read and written. */
static uint64_t count_tokens(struct exchange *x)
{
    uint64_t tokens = 0;
    struct text_job *j = &x->text.job;
    if (!x->text.has_job || !x->request.text) return 0;
    pthread_mutex_lock(&j->lock);
    for (int i = 0; i < j->prompt_count; i++) tokens += (uint64_t)j->prompts[i].count;
    for (int i = 0; i < j->answer_count; i++) tokens += (uint64_t)j->answers[i].id_count;
    pthread_mutex_unlock(&j->lock);
    return tokens;
}

void exchange_ended(struct exchange *x, bool sent)
{
    atomic_fetch_add_explicit(&x->server->served, 1, memory_order_relaxed);
    if (!atomic_load(&x->in_job)) auth_spend(x->server->auth, x->who, count_tokens(x), clock_ns());
    if (tracer_on(x->server->tracer)) note_trace(x);
    write_log(x, sent);
}
