/* Routes of pictures: generations, edits and variations. Reading a form and decoding its pictures, and encoding what was drawn, take milliseconds: job threads do both. A
 * stream's events are made by one job at a time, which goes on while there is news, and handed to the listener under the exchange's lock. */
#include "server/server.h"

#include "api/multipart.h"
#include "base/json.h"

#include <stdlib.h>
#include <time.h>

enum { IMAGES_DEPTH_MAX = 32 };

static enum images_kind kind_of(enum route r) { return r == ROUTE_IMAGE_EDITS ? IMAGES_EDIT : r == ROUTE_IMAGE_VARIATIONS ? IMAGES_VARY : IMAGES_GENERATE; }

static enum status pin_model(struct exchange *x, const struct images_fields *f, struct err *err)
{
    const char *name;
    size_t length;
    x->image.ask.parameter = "model";
    if (!images_model(f, &name, &length)) return err_set(err, ST_BAD_INPUT, "'model' must name a model");
    enum status st = registry_pin(x->server->registry, name, length, 0, &x->pin, err);
    if (st == ST_NOT_FOUND) {
        x->image.ask.code = "model_not_found";
        return err_set(err, st, "The model `%.*s` does not exist", (int)(length < 128 ? length : 128), name);
    }
    if (st) return st;
    if (!x->pin->ops->image) return err_set(err, ST_BAD_INPUT, "model '%s' draws no pictures", x->pin->name);
    x->image.ask.parameter = NULL;
    return scheduler_full(x->pin->scheduler) ? err_set(err, ST_UNAVAILABLE, "Exceeds maximum queue size") : ST_OK;
}

/* The body as fields of a JSON object, or of a form (of which the parts live in the request's arena). */
static enum status read_fields(struct exchange *x, struct images_fields *f, const char *body, size_t length, struct err *err)
{
    struct json *root;
    enum status st;
    *f = (struct images_fields){ 0 };
    if (x->route.route == ROUTE_IMAGE_GENERATIONS) {
        st = json_parse(&root, &x->request.arena, body, length, &(struct json_options){ .unique_keys = true, .depth_max = IMAGES_DEPTH_MAX }, err);
        if (st) return err_prefix(err, "the request's body");
        f->root = root;
        return root->type == JSON_OBJECT ? ST_OK : err_set(err, ST_BAD_INPUT, "the request's body must be a JSON object");
    }
    struct form_part *parts = arena_calloc(&x->request.arena, FORM_PARTS_MAX, sizeof *parts);
    if (!parts) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    f->parts = parts;
    return multipart_parse(parts, &f->part_count, x->image.content_type, body, length, err);
}

static void read_in_job(void *argument)
{
    struct exchange *x = argument;
    struct images_fields f;
    enum status st = read_fields(x, &f, x->image.body, x->body_length, &x->error);
    if (!st) st = pin_model(x, &f, &x->error);
    if (!st) st = images_read(&x->image.ask, kind_of(x->route.route), &x->request, &f, x->pin, (int64_t)time(NULL), &x->error);
    atomic_store(&x->in_job, false);      /* before it is queued: afterwards it may be over at any moment */
    if (!st) st = scheduler_submit(x->pin->scheduler, &x->request, &x->error);
    if (st) http_resume(x->call);         /* refused: no event will come */
}

static void serve_drawing(struct exchange *x)
{
    struct err err;
    enum status st = serve_take_body(x, &x->image.body, &x->body_length, &err);
    if (!st) st = serve_read_deadline(x, &err);
    if (st) {
        serve_error(x, &err);
        return;
    }
    x->image.content_type = http_header(x->call, "Content-Type");
    http_suspend(x->call);
    atomic_store(&x->in_job, true);
    if (!jobs_add(x->server->jobs, read_in_job, x, &x->error)) return;
    atomic_store(&x->in_job, false);
    http_resume(x->call);
}

/* ---- back ---- */

/* By whoever has set `working`. */
static void make_events(struct exchange *x)
{
    struct buf events;
    if (x->image.complete) return;
    const bool over = atomic_load(&x->over);
    buf_init(&events, 0);
    images_stream(&events, &x->image.ask, x->pin, over, over && x->request.error.status ? &x->request.error : NULL);
    pthread_mutex_lock(&x->image.lock);
    buf_append(&x->answer, events.data, events.length);
    if (over) x->image.complete = true;
    pthread_mutex_unlock(&x->image.lock);
    buf_free(&events);
}

static void answer_in_job(void *argument)
{
    struct exchange *x = argument;
    if (!x->image.ask.stream) {
        if (!x->request.error.status && images_write(&x->answer, &x->image.ask, x->pin, &x->error)) buf_clear(&x->answer);
        atomic_store(&x->image.encoded, true);
        http_resume(x->call);
    } else {
        for (unsigned seen = 0; seen != atomic_load(&x->image.news);) {
            seen = atomic_load(&x->image.news);
            make_events(x);
            http_news(x->listener->http, &x->call);
            /* None left: the next event begins a job of its own, unless it came before the flag fell. */
            if (seen == atomic_load(&x->image.news)) {
                atomic_store(&x->image.working, false);
                if (seen != atomic_load(&x->image.news) && !atomic_exchange(&x->image.working, true)) continue;
                break;
            }
        }
    }
    request_drop(&x->request);
}

/* From a worker: a partial picture, or the end. */
void serve_images_event(struct exchange *x, enum request_event e)
{
    struct err ignored;
    if (!x->image.ask.stream) {
        if (e == EVENT_PARTIAL) return;
        request_hold(&x->request);
        if (!jobs_add(x->server->jobs, answer_in_job, x, &ignored)) return;
        request_drop(&x->request);
        http_resume_later(x->call);      /* too many jobs: the listener encodes */
        return;
    }
    atomic_fetch_add(&x->image.news, 1);
    if (atomic_exchange(&x->image.working, true)) return;
    request_hold(&x->request);
    if (!jobs_add(x->server->jobs, answer_in_job, x, &ignored)) return;
    atomic_store(&x->image.working, false);
    request_drop(&x->request);
    http_news(x->listener->http, &x->call);
}

static enum http_stream more_events(void *context, struct http_call *c, struct buf *out)
{
    struct exchange *x = http_user(c);
    (void)context;
    /* The last event may have found no job: then they are made here. */
    if (atomic_load(&x->over) && !atomic_exchange(&x->image.working, true)) {
        make_events(x);
        atomic_store(&x->image.working, false);
    }
    pthread_mutex_lock(&x->image.lock);
    buf_append(out, x->answer.data, x->answer.length);
    buf_clear(&x->answer);
    const bool complete = x->image.complete;
    pthread_mutex_unlock(&x->image.lock);
    return complete ? HTTP_STREAM_END : HTTP_STREAM_WAIT;
}

void serve_images_resume(struct exchange *x)
{
    struct err err;
    if (atomic_load(&x->over) && x->request.error.status) {
        serve_error(x, &x->request.error);
        return;
    }
    serve_name_model(x);
    http_answer_header(x->call, "X-Request-Id", x->image.ask.id);
    if (x->image.ask.stream) {
        http_answer_header(x->call, "Cache-Control", "no-cache");
        http_answer_stream(x->call, 200, "text/event-stream; charset=utf-8", more_events);
        return;
    }
    if (!atomic_load(&x->image.encoded) && images_write(&x->answer, &x->image.ask, x->pin, &err)) serve_error(x, &err);
    else serve_json(x, 200, &x->answer);
}

bool serve_images_route(struct exchange *x)
{
    if (x->route.route < ROUTE_IMAGE_GENERATIONS || x->route.route > ROUTE_IMAGE_VARIATIONS) return false;
    serve_drawing(x);
    return true;
}
