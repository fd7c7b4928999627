/* Routes of language models: the OpenAI dialect, Triton's generate extension, and the tokenizer's own. A body becomes a text job (api/openai.h), the job rides
 * through the scheduler like any request, and what comes back is one answer or a stream of server-sent events. */
#include "server/server.h"

#include "base/json.h"
#include "engine/text_ops.h"

#include <string.h>
#include <time.h>

enum { TEXT_DEPTH_MAX = 100, LONG_BODY = 32 << 10 };

static enum status read_body(struct exchange *x, struct json **root, struct err *err)
{
    const char *body;
    size_t length;
    enum status st = serve_take_body(x, &body, &length, err);
    x->body_length = length;
    if (!st) st = json_parse(root, &x->request.arena, body, length, &(struct json_options){ .unique_keys = true, .depth_max = TEXT_DEPTH_MAX }, err);
    if (st) return err_prefix(err, "the request's body");
    return (*root)->type == JSON_OBJECT ? ST_OK : err_set(err, ST_BAD_INPUT, "the request's body must be a JSON object");
}

/* The model that the body names (or the path, for Triton's routes). */
static enum status pin_model(struct exchange *x, const struct json *root, struct err *err)
{
    const struct json *model = json_get(root, "model");
    const char *name = x->route.model;
    size_t length = x->route.model_length;
    if (!name) {
        x->text.parameter = "model";
        if (!model || model->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "'model' must name a model");
        name = model->string.text;
        length = model->string.length;
    }
    enum status st = registry_pin(x->server->registry, name, length, x->route.version, &x->pin, err);
    if (st == ST_NOT_FOUND) {
        x->text.code = "model_not_found";
        return x->route.model ? st : err_set(err, st, "The model `%.128s` does not exist", name);
    }
    if (st) return st;
    if (!x->pin->ops->text) return err_set(err, ST_BAD_INPUT, "model '%s' is no language model", x->pin->name);
    x->text.parameter = NULL;
    return ST_OK;
}

static enum openai_kind kind_of(enum route r)
{
    switch (r) {
    case ROUTE_CHAT: return OPENAI_CHAT;
    case ROUTE_EMBEDDINGS: return OPENAI_EMBEDDINGS;
    case ROUTE_RERANK: return OPENAI_RERANK;
    case ROUTE_GENERATE: case ROUTE_GENERATE_STREAM: case ROUTE_INFER: return OPENAI_GENERATE;
    default: return OPENAI_COMPLETION;
    }
}

/* Triton's generate: parameters may stand beside the text or under "parameters". */
static struct json *flatten(struct json *root)
{
    const struct json *more = json_get(root, "parameters");
    if (!more || more->type != JSON_OBJECT) return root;
    struct json *last = root->list.first;
    while (last->next) last = last->next;
    last->next = more->list.first;
    root->list.count += more->list.count;
    return root;
}

/* The question becomes a job and is queued. */
static enum status submit(struct exchange *x, struct json *root, struct err *err)
{
    enum status st = openai_read(&x->text, kind_of(x->route.route), &x->request, x->pin, root, (int64_t)time(NULL), err);
    if (x->route.route == ROUTE_GENERATE || x->route.route == ROUTE_GENERATE_STREAM) x->text.stream = x->route.route == ROUTE_GENERATE_STREAM;
    if (x->route.route == ROUTE_INFER) x->text.stream = x->in_stream;
    atomic_store(&x->in_job, false);      /* before it is queued: afterwards it may be over at any moment */
    if (!st && atomic_load(&x->left)) st = err_set(err, ST_CANCELLED, "the client went away");
    if (!st) st = scheduler_submit(x->pin->scheduler, &x->request, err);
    if (st == ST_BAD_INPUT) openai_note_failure(&x->text, x->pin);
    return st;
}

static void submit_in_job(void *argument)
{
    struct exchange *x = argument;
    if (submit(x, x->question, &x->error)) exchange_refused(x);
    request_drop(&x->request);
}

void serve_text_submit(struct exchange *x)
{
    if (x->body_length <= LONG_BODY && !openai_has_format(x->question) && !openai_has_forced_tools(x->question)) {
        if (submit(x, x->question, &x->error)) exchange_refused(x);
        return;
    }
    atomic_store(&x->in_job, true);      /* long texts and grammars take their time: not the listener's */
    request_hold(&x->request);           /* a stream may end before the job */
    if (!jobs_add(x->server->jobs, submit_in_job, x, &x->error)) return;
    request_drop(&x->request);
    atomic_store(&x->in_job, false);
    exchange_refused(x);
}

static void serve_generation(struct exchange *x)
{
    struct err err;
    struct json *root;
    bool v2 = x->route.route == ROUTE_GENERATE || x->route.route == ROUTE_GENERATE_STREAM;
    enum status st = read_body(x, &root, &err);
    if (!st) st = pin_model(x, root, &err);
    if (!st && scheduler_full(x->pin->scheduler)) st = err_set(&err, ST_UNAVAILABLE, "Exceeds maximum queue size");
    if (!st) st = serve_read_deadline(x, &err);
    if (!st && v2) {
        const struct json *id = json_get(root, "id");
        if (id && id->type == JSON_STRING) x->request.id = id->string.text;
        root = flatten(root);
    }
    if (st) {
        serve_error(x, &err);
        return;
    }
    http_suspend(x->call);
    x->question = root;
    serve_text_submit(x);
}

static enum http_stream more_events(void *context, struct http_call *c, struct buf *out)
{
    struct exchange *x = http_user(c);
    (void)context;
    bool over = atomic_load(&x->over);
    const struct err *failure = over && x->request.error.status ? &x->request.error : NULL;
    return openai_stream(out, &x->text, &x->request, x->pin, over, failure) ? HTTP_STREAM_END : HTTP_STREAM_WAIT;
}

void serve_text_resume(struct exchange *x)
{
    struct buf b;
    if (atomic_load(&x->over) && x->request.error.status) {
        serve_error(x, &x->request.error);
        return;
    }
    serve_name_model(x);
    http_answer_header(x->call, "X-Request-Id", x->text.id);
    if (x->text.stream) {
        http_answer_header(x->call, "Cache-Control", "no-cache");
        http_answer_stream(x->call, 200, "text/event-stream; charset=utf-8", more_events);
        return;
    }
    buf_init(&b, 0);
    openai_write(&b, &x->text, &x->request, x->pin);
    serve_json(x, 200, &b);
}

/* ---- the tokenizer's routes ---- */
static void serve_tokenizer(struct exchange *x)
{
    struct err err;
    struct json *root;
    struct buf b;
    buf_init(&b, 0);
    enum status st = read_body(x, &root, &err);
    if (!st) st = pin_model(x, root, &err);
    if (!st && x->route.route == ROUTE_TOKENIZE) st = openai_tokenize(&b, &x->request.arena, x->pin, root, &err);
    if (!st && x->route.route == ROUTE_DETOKENIZE) st = openai_detokenize(&b, &x->request.arena, x->pin, root, &err);
    if (!st && x->route.route == ROUTE_APPLY_TEMPLATE) st = openai_apply_template(&b, &x->request.arena, x->pin, root, &err);
    if (st) {
        buf_free(&b);
        serve_error(x, &err);
        return;
    }
    serve_name_model(x);
    serve_json(x, 200, &b);
}

/* ---- the list of models ---- */
struct model_list { struct buf *out; const char *last; int count; int64_t created; };

static void add_model(void *ctx, struct model_version *v)
{
    struct model_list *l = ctx;
    if ((!v->ops->text && !v->ops->image) || (l->last && !strcmp(l->last, v->name))) return;
    if (l->count++) buf_putc(l->out, ',');
    openai_model_write(l->out, v->name, l->created);
    l->last = v->name;
}

static void serve_models(struct exchange *x)
{
    struct buf b;
    struct model_list l = { .out = &b, .created = (int64_t)(x->server->start_wall_ms / 1000) };
    buf_init(&b, 0);
    buf_puts(&b, "{\"object\":\"list\",\"data\":[");
    registry_each(x->server->registry, add_model, &l);
    buf_puts(&b, "]}");
    serve_json(x, 200, &b);
}

static void serve_one_model(struct exchange *x)
{
    struct buf b;
    struct err err;
    if (registry_pin(x->server->registry, x->route.model, x->route.model_length, 0, &x->pin, &err)) {
        x->text.parameter = "model";
        x->text.code = "model_not_found";
        err_set(&err, ST_NOT_FOUND, "The model `%.*s` does not exist", (int)(x->route.model_length < 128 ? x->route.model_length : 128), x->route.model);
        serve_error(x, &err);
        return;
    }
    buf_init(&b, 0);
    openai_model_write(&b, x->pin->name, (int64_t)(x->server->start_wall_ms / 1000));
    serve_json(x, 200, &b);
}

bool serve_text_route(struct exchange *x)
{
    switch (x->route.route) {
    case ROUTE_CHAT: case ROUTE_COMPLETIONS: case ROUTE_EMBEDDINGS: case ROUTE_RERANK: case ROUTE_GENERATE: case ROUTE_GENERATE_STREAM: serve_generation(x); return true;
    case ROUTE_TOKENIZE: case ROUTE_DETOKENIZE: case ROUTE_APPLY_TEMPLATE: serve_tokenizer(x); return true;
    case ROUTE_OPENAI_MODELS: serve_models(x); return true;
    case ROUTE_OPENAI_MODEL: serve_one_model(x); return true;
    default: return false;
    }
}
