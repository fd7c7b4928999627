/* The walk over gRPC. Down: rpc_begin (which method, may they), rpc_message (the message becomes the tree that the HTTP route would have read, or a
 * request of tensors), then the handler of the same HTTP route, or the scheduler. Back: an event, rpc_resume_call, rpc_end. What a call is about lives
 * in an exchange as over HTTP; streams keep theirs in serve_rpc_stream.c. A call's user is its exchange, a stream's its struct stream. */
#include "server/serve_rpc.h"

#include "api/oip_ask.h"
#include "api/oip_proto.h"
#include "api/oip_text.h"
#include "api/proto.h"
#include "base/json.h"
#include "engine/image_ops.h"
#include "engine/formats/protobuf_write.h"

#include <stdio.h>
#include <string.h>

enum { SMALL_MESSAGE_MAX = 1 << 20, KEY_MAX = 512, TRACEPARENT_MAX = 128, ANSWER_MEMORY = 64 << 20 };

struct exchange *serve_rpc_exchange(struct server *s, struct rpc_call *c, const struct rpc_method *m)
{
    struct exchange *x = exchange_new(s, rpc_received_ns(c));
    if (!x) return NULL;
    x->rpc = c;
    x->loop = rpc_loop_of(c);
    x->method = m;
    x->route = (struct route_match){ .route = m ? m->route : ROUTE_NONE, .scope = m ? m->scope : SCOPE_OPEN };
    x->request.deadline_ns = rpc_deadline_ns(c);
    char parent[TRACEPARENT_MAX];
    if (tracer_on(s->tracer) && rpc_metadata(c, "traceparent", parent, sizeof parent)) x->trace = trace_context_read(parent);
    return x;
}

static enum status check_trust(struct exchange *x, enum scope scope, struct err *err)
{
    char key[KEY_MAX];
    bool given = scope != SCOPE_OPEN && rpc_metadata(x->rpc, "authorization", key, sizeof key);
    return auth_check(x->server->auth, given ? key : NULL, scope, x->who, err);
}

const uint8_t *serve_rpc_gather(struct arena *arena, const struct piece *pieces, int count, size_t *length)
{
    *length = 0;
    for (int i = 0; i < count; i++) *length += pieces[i].length;
    if (count == 1) return pieces[0].bytes;
    uint8_t *all = arena_alloc(arena, *length, 16), *at = all;
    for (int i = 0; i < count && all; at += pieces[i++].length) memcpy(at, pieces[i].bytes, pieces[i].length);
    return all;
}

/* ---- small messages: as over HTTP ---- */

/* The model and version that the message names become the route's. */
static enum status read_model(struct exchange *x, const struct json *root, struct err *err)
{
    const struct json *model = json_get(root, x->method->model), *version = json_get(root, "version");
    x->route.model = model ? model->string.text : "";
    x->route.model_length = model ? model->string.length : 0;
    if (!version || !version->string.length || model_version_parse(version->string.text, version->string.length, &x->route.version)) return ST_OK;
    return err_set(err, ST_BAD_INPUT, "failed to get model version from specified version string '%.32s': a version is a number from 1 to 2147483647", version->string.text);
}

/* Where a method is more than one HTTP route. */
static enum status choose_route(struct exchange *x, struct json *root, struct err *err)
{
    const struct json *repository = json_get(root, "repository_name"), *settings = json_get(root, "settings");
    switch (x->route.route) {
    case ROUTE_STATS:
        if (!x->route.model_length) x->route.route = ROUTE_ALL_STATS;
        return ST_OK;
    case ROUTE_LOAD: case ROUTE_UNLOAD:
        if (repository && repository->string.length) x->route.route = ROUTE_NAMED_REPOSITORY;
        return ST_OK;
    case ROUTE_LOGGING_SET:
        if (!settings || !settings->list.count) {
            x->route.route = ROUTE_LOGGING_GET;
            return ST_OK;
        }
        x->question = (struct json *)settings;
        return check_trust(x, SCOPE_ADMIN, err);
    case ROUTE_TRACE:
        if (!settings || !settings->list.count) return ST_OK;
        x->route.route = ROUTE_TRACE_SET;
        x->question = (struct json *)settings;
        return check_trust(x, SCOPE_ADMIN, err);
    default: return ST_OK;
    }
}

static enum status read_small(struct exchange *x, const struct piece *pieces, int count, struct err *err)
{
    size_t length;
    const uint8_t *bytes = serve_rpc_gather(&x->request.arena, pieces, count, &length);
    if (!bytes) return err_set(err, ST_TOO_LARGE, "the request is over its memory budget");
    if (length > SMALL_MESSAGE_MAX && x->route.route != ROUTE_LOAD) return err_set(err, ST_TOO_LARGE, "the request is larger than %d bytes", SMALL_MESSAGE_MAX);
    enum status st = proto_read(&x->question, &x->request.arena, x->method->request, bytes, length, err);
    if (!st && x->method->model) st = read_model(x, x->question, err);
    return st ? st : choose_route(x, x->question, err);
}

void serve_rpc_json(struct exchange *x, struct buf *body)
{
    struct arena arena;
    struct json *root, outer = { .type = JSON_OBJECT };
    struct chain m;
    struct err err = { 0 };
    arena_init(&arena, ANSWER_MEMORY);
    chain_init(&m);
    enum status st = body->failed ? err_set(&err, ST_NO_MEMORY, "no memory for the answer") : ST_OK;
    if (!st && body->length) {
        st = json_parse(&root, &arena, body->data, body->length, &(struct json_options){ 0 }, &err);
        if (!st && x->method->wraps) {
            root->key = x->method->wraps;
            root->key_length = strlen(x->method->wraps);
            outer.list.first = root;
            outer.list.count = 1;
            root = &outer;
        }
        if (!st) st = proto_write(&m.head, x->method->response, root, &err);
        if (!st && m.head.failed) st = err_set(&err, ST_NO_MEMORY, "no memory for the answer");
    }
    arena_free(&arena);
    buf_free(body);
    chain_close(&m);
    if (!st) {
        rpc_answer(x->rpc, 0, "", &m, NULL, NULL);
        return;
    }
    buf_free(&m.head);
    serve_error(x, &err);
}

static void serve_small(struct exchange *x, const struct piece *pieces, int count)
{
    struct err err;
    if (read_small(x, pieces, count, &err)) serve_error(x, &err);
    else if (!serve_model_route(x)) serve_admin_route(x);
}

/* ---- inference ---- */

/* Whoever wants partial pictures in a stream has a job of their own; else the engine makes one of the tensors. */
static enum status read_drawing(struct exchange *x, struct err *err)
{
    const struct image_ops *ops = x->pin->ops->image;
    struct images_ask *a = &x->image.ask;
    enum status st = ops->read_tensors(x->pin->engine, &a->job, &x->request, err);
    if (st || !a->job.partials) return st;
    st = image_job_reserve(&a->job, err);
    if (st) return st;
    a->has_job = true;
    x->request.image = &a->job;
    return ST_OK;
}

enum status serve_rpc_read_infer(struct exchange *x, const struct piece *pieces, int count, struct err *err)
{
    struct oip_proto_names names;
    enum status st = oip_proto_names_read(&names, &x->request.arena, pieces, count, err);
    if (st) return st;
    x->request.id = names.id;
    x->route.model = names.model;
    x->route.model_length = strlen(names.model);
    if (names.version[0] && !model_version_parse(names.version, strlen(names.version), &x->route.version))
        return err_set(err, ST_BAD_INPUT, "failed to get model version from specified version string '%.32s': a version is a number from 1 to 2147483647", names.version);
    st = exchange_pin(x, err);
    if (!st) st = oip_proto_read(&x->request, &x->ask, names.model, pieces, count, err);
    if (!st && x->pin->ops->text) {
        for (int i = 0; i < count; i++) x->body_length += pieces[i].length;
        return oip_text_question(&x->question, &x->request, err);
    }
    if (!st) st = oip_infer_check_named(&x->request, &x->ask, x->pin, err);
    return st || !x->in_stream || !x->pin->ops->image ? st : read_drawing(x, err);
}

void serve_rpc_submit(struct exchange *x)
{
    if (x->pin->ops->text) serve_text_submit(x);
    else if (exchange_submit(x)) exchange_refused(x);
}

static void serve_inference(struct exchange *x, const struct piece *pieces, int count)
{
    struct err err;
    if (serve_rpc_read_infer(x, pieces, count, &err)) {
        serve_error(x, &err);
        return;
    }
    rpc_suspend(x->rpc);
    serve_rpc_submit(x);
}

void serve_rpc_release(void *exchange) { request_drop(&((struct exchange *)exchange)->request); }

/* Of a text what has grown since. */
static enum status write_text(struct exchange *x, struct chain *out, struct err *err)
{
    bool over = atomic_load(&x->over);
    pthread_mutex_lock(&x->text.job.lock);
    const struct buf *text = &x->text.job.answers[0].text;
    size_t from = x->text.cursors[0].text;
    oip_proto_write_text(out, &x->request, x->pin, OIP_TEXT_OUTPUT, text->length > from ? text->data + from : "", text->length - from, x->in_stream ? "triton_final_response" : NULL, over);
    x->text.cursors[0].text = text->length;
    pthread_mutex_unlock(&x->text.job.lock);
    return out->head.failed ? err_set(err, ST_NO_MEMORY, "no memory for the answer") : ST_OK;
}

enum status serve_rpc_write_infer(struct exchange *x, struct chain *out, struct err *err)
{
    if (x->text.has_job) return write_text(x, out, err);
    enum status st = x->image.ask.has_job ? x->pin->ops->image->write_tensors(&x->request, &x->image.ask.job, err) : ST_OK;
    if (!st) st = oip_proto_write(out, &x->request, &x->ask, x->pin, x->in_stream ? "triton_final_response" : NULL, true, err);
    if (st) {
        buf_free(&out->head);
        return st;
    }
    for (int i = 0; i < out->borrowed_count; i++) request_hold(&x->request);
    return ST_OK;
}

static void serve_outputs(struct exchange *x)
{
    struct chain m;
    struct err err;
    if (serve_rpc_write_infer(x, &m, &err)) {
        serve_error(x, &err);
        return;
    }
    serve_name_model(x);
    rpc_answer(x->rpc, 0, "", &m, serve_rpc_release, x);
}

/* ---- health ---- */

static void serve_health(struct exchange *x, const struct piece *pieces, int count)
{
    size_t length;
    struct chain m;
    struct err err;
    const uint8_t *bytes = serve_rpc_gather(&x->request.arena, pieces, count, &length);
    int status = bytes ? serve_rpc_health(x->server, bytes, length) : -1;
    if (status < 0) {
        err_set(&err, ST_NOT_FOUND, "there is no such service");
        serve_error(x, &err);
        return;
    }
    chain_init(&m);
    pb_put_number(&m.head, 1, (uint64_t)status);
    chain_close(&m);
    rpc_answer(x->rpc, 0, "", &m, NULL, NULL);
}

/* ---- the transport's callbacks ---- */

static void told(void *loop) { rpc_wake(loop); }

static void rpc_begin(void *context, struct rpc_call *c)
{
    struct server *s = context;
    size_t length;
    const char *path = rpc_method_path(c, &length);
    const struct rpc_method *m = rpc_find(path, length);
    struct err err;
    struct exchange *x = serve_rpc_exchange(s, c, m);
    if (!x) {
        rpc_answer(c, status_grpc(ST_NO_MEMORY), "no memory for the call", NULL, NULL, NULL);
        return;
    }
    rpc_set_user(c, x);
    x->request.told = told;
    x->request.told_context = x->loop;
    enum status st = atomic_load(&s->stopping) ? err_set(&err, ST_UNAVAILABLE, "the server is stopping")
                   : m ? check_trust(x, m->scope, &err) : err_set(&err, ST_UNSUPPORTED, "there is no method %.*s", (int)(length < 128 ? length : 128), path);
    if (!st && m->kind == RPC_INFER) st = auth_charge(s->auth, x->who, x->request.times.received, &err);
    if (st) serve_error(x, &err);
    else if (m->streams_out) serve_rpc_stream_begin(x);
}

static void rpc_message(void *context, struct rpc_call *c, const struct piece *pieces, int count)
{
    struct exchange *x = rpc_user(c);
    (void)context;
    if (x->method->kind == RPC_INFER) serve_inference(x, pieces, count);
    else if (x->method->kind == RPC_HEALTH_CHECK) serve_health(x, pieces, count);
    else serve_small(x, pieces, count);
}

static void rpc_resume_call(void *context, struct rpc_call *c)
{
    struct exchange *x = rpc_user(c);
    (void)context;
    if (x->error.status) serve_error(x, &x->error);
    else if (x->job) serve_json(x, 200, &x->answer);
    else if (x->request.error.status) serve_error(x, &x->request.error);
    else serve_outputs(x);
}

static void rpc_gone(void *context, struct rpc_call *c)
{
    struct exchange *x = rpc_user(c);
    (void)context;
    if (!x->method) return;
    if (x->stream.begun) serve_rpc_stream_gone(x);
    else exchange_cancel(x);
}

static void rpc_end(void *context, struct rpc_call *c, bool sent)
{
    struct exchange *x = rpc_user(c);
    (void)context;
    if (!x) return;
    if (x->stream.begun) serve_rpc_stream_gone(x);
    exchange_ended(x, sent);
    request_drop(&x->request);
}

struct rpc_handler serve_rpc_handler(struct server *s)
{
    return (struct rpc_handler){ .context = s, .begin = rpc_begin, .message = rpc_message, .resume = rpc_resume_call, .gone = rpc_gone, .end = rpc_end };
}
