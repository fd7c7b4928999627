/* Calls that stream: ModelStreamInfer, health's Watch, reflection. Requests of one ModelStreamInfer run beside each other, each an exchange of its own; whoever has
 * news tells the stream, which sends one message at a time, at its reader's pace. */
#include "server/serve_rpc.h"

#include "api/oip_proto.h"
#include "api/reflection.h"
#include "base/clock.h"
#include "engine/formats/protobuf_write.h"

#include <string.h>

enum { IN_STREAM_MAX = 64 /* requests of one stream that are not answered yet: then we read no further */, HEALTH_SERVING = 1, HEALTH_NOT_SERVING = 2, HEALTH_UNKNOWN = 3 };

/* ---- ModelStreamInfer ---- */

static bool infer_take(void *context, struct rpc_call *c, const struct piece *pieces, int count)
{
    struct server *s = context;
    struct exchange *stream = rpc_user(c), **at = &stream->stream.first;
    if (count < 0) {
        stream->stream.read_all = true;
        return false;
    }
    struct exchange *x = serve_rpc_exchange(s, c, stream->method);
    if (!x) {
        rpc_end_stream(c, status_grpc(ST_NO_MEMORY), "no memory for a request");
        stream->stream.read_all = true;
        return false;
    }
    while (*at) at = &(*at)->next_in_stream;
    *at = x;
    stream->stream.count++;
    atomic_fetch_add(&s->in_streams, 1);
    x->in_stream = true;
    x->request.times.received = clock_ns();
    memcpy(x->who, stream->who, sizeof x->who);
    struct err err;
    if (atomic_load(&s->stopping)) err_set(&x->error, ST_UNAVAILABLE, "the server is stopping");
    else if (auth_charge(s->auth, x->who, x->request.times.received, &err) || serve_rpc_read_infer(x, pieces, count, &err)) x->error = err;
    for (int i = 0; i < x->request.parameter_count; i++) {
        const struct parameter *p = &x->request.parameters[i];
        if (!strcmp(p->name, "triton_enable_empty_final_response") && p->type == PARAMETER_BOOL) x->final_wanted = p->boolean;
    }
    if (x->error.status) atomic_store(&x->over, true);
    else serve_rpc_submit(x);
    stream->stream.paused = stream->stream.count >= IN_STREAM_MAX;
    return !stream->stream.paused;
}

/* Takes a request out of its stream and lets it go. */
static void leave(struct exchange *stream, struct exchange *x, bool sent)
{
    struct exchange **at = &stream->stream.first;
    while (*at != x) at = &(*at)->next_in_stream;
    *at = x->next_in_stream;
    stream->stream.count--;
    exchange_ended(x, sent);
    rpc_forget(x->loop, &x->rpc);
    atomic_store(&x->left, true);
    if (!atomic_load(&x->over)) exchange_cancel(x);
    atomic_fetch_sub(&x->server->in_streams, 1);
    request_drop(&x->request);
}

static bool text_grew(struct exchange *x)
{
    if (atomic_load(&x->in_job) || !x->text.has_job) return false;
    pthread_mutex_lock(&x->text.job.lock);
    bool grew = x->text.job.answers[0].text.length > x->text.cursors[0].text;
    pthread_mutex_unlock(&x->text.job.lock);
    return grew;
}

/* A partial picture that was not sent yet. */
static bool put_partial(struct exchange *x, struct chain *out)
{
    struct images_ask *a = &x->image.ask;
    struct image_job *j = &a->job;
    bool put = false;
    if (!a->has_job) return false;
    pthread_mutex_lock(&j->lock);
    for (int k = 0; k < j->pictures && !put; k++) {
        const struct image_answer *p = &j->answers[k];
        if (!p->partial || p->partial_count <= a->seen[k]) continue;
        a->seen[k] = p->partial_count;
        oip_proto_write_partial(out, &x->request, x->pin, p->partial, j->used.width, j->used.height, k, p->partial_count - 1, "triton_final_response");
        put = !out->head.failed;      /* without memory it is left out: the next one, or the picture, says more */
        if (!put) buf_free(&out->head);
    }
    pthread_mutex_unlock(&j->lock);
    return put;
}

/* The error of a request that is over, as a message or as the stream's end. */
static enum rpc_next send_error(struct exchange *stream, struct exchange *x, const struct err *e, struct chain *out)
{
    if (stream->stream.errors_end) {
        rpc_end_stream(stream->rpc, status_grpc(e->status), e->text);
        leave(stream, x, false);
        return RPC_END;
    }
    oip_proto_write_error(out, e->text, x->request.id);
    leave(stream, x, true);
    return RPC_MORE;
}

/* What this request has to say now. RPC_WAIT: nothing. */
static enum rpc_next send_news(struct exchange *stream, struct exchange *x, struct chain *out)
{
    struct err err;
    bool over = atomic_load(&x->over), grew;      /* over first: what a text grew by before is then seen */
    if (over && x->error.status) return send_error(stream, x, &x->error, out);
    if (over && x->request.error.status) return send_error(stream, x, &x->request.error, out);
    if (put_partial(x, out)) {
        oip_proto_wrap(out);
        return RPC_MORE;
    }
    grew = text_grew(x);
    if (over && x->text.has_job && !grew && !x->final_wanted) {      /* all was said, and its last message was not known to be the last */
        leave(stream, x, true);
        return RPC_WAIT;
    }
    if (!over && !grew) return RPC_WAIT;
    if (serve_rpc_write_infer(x, out, &err)) return send_error(stream, x, &err, out);
    oip_proto_wrap(out);
    rpc_stream_lend(stream->rpc, serve_rpc_release, x);
    if (over) leave(stream, x, true);      /* what is borrowed is held */
    return RPC_MORE;
}

static enum rpc_next infer_more(void *context, struct rpc_call *c, struct chain *out)
{
    struct exchange *stream = rpc_user(c);
    enum rpc_next what = RPC_WAIT;
    (void)context;
    for (struct exchange *x = stream->stream.first, *next; x && what == RPC_WAIT; x = next) {
        next = x->next_in_stream;
        what = send_news(stream, x, out);
    }
    if (stream->stream.paused && stream->stream.count < IN_STREAM_MAX) {
        stream->stream.paused = false;
        rpc_read_on(c);
    }
    return what == RPC_WAIT && stream->stream.read_all && !stream->stream.first ? RPC_END : what;
}

static const struct rpc_stream infer_stream = { infer_take, infer_more };

/* ---- grpc.health.v1 Watch: the status, and whenever it changes ---- */

int serve_rpc_health(struct server *s, const uint8_t *request, size_t length)
{
    struct pb c = pb_open(request, length);
    struct pb_field f, name = { .bytes = (const uint8_t *)"" };
    while (pb_next(&c, &f))
        if (f.number == 1 && f.wire == PB_BYTES) name = f;
    bool known = !name.length;
    for (int i = 0; i < RPC_FILES && !known; i++) {
        size_t package = strlen(rpc_files[i].package);
        const struct rpc_service *service = rpc_files[i].service;
        known = service && name.length == package + 1 + strlen(service->name) && !memcmp(name.bytes, rpc_files[i].package, package) && name.bytes[package] == '.'
             && !memcmp(name.bytes + package + 1, service->name, strlen(service->name));
    }
    return !known ? -1 : serve_is_ready(s) ? HEALTH_SERVING : HEALTH_NOT_SERVING;
}

static bool health_take(void *context, struct rpc_call *c, const struct piece *pieces, int count)
{
    struct exchange *x = rpc_user(c);
    size_t length;
    (void)context;
    if (count < 0) {      /* a client that asks once says so at once */
        if (!x->stream.has_answer) x->stream.read_all = true;
        return false;
    }
    const uint8_t *bytes = serve_rpc_gather(&x->request.arena, pieces, count, &length);
    buf_clear(&x->answer);
    if (length && bytes) buf_append(&x->answer, bytes, length);
    x->stream.has_answer = bytes && !x->answer.failed;      /* which service is asked for is known */
    return true;
}

static enum rpc_next health_more(void *context, struct rpc_call *c, struct chain *out)
{
    struct server *s = context;
    struct exchange *x = rpc_user(c);
    if (!x->stream.has_answer) {
        if (!x->stream.read_all) return RPC_WAIT;
        rpc_end_stream(c, status_grpc(ST_BAD_INPUT), "the call has no message");
        return RPC_END;
    }
    int status = serve_rpc_health(s, (const uint8_t *)(x->answer.data ? x->answer.data : ""), x->answer.length);
    if (status < 0) status = HEALTH_UNKNOWN;
    if (atomic_load(&s->closing) && status == x->stream.told) {
        rpc_end_stream(c, status_grpc(ST_UNAVAILABLE), "the server is stopping");
        return RPC_END;
    }
    if (status == x->stream.told) {
        rpc_look_again(c);
        return RPC_WAIT;
    }
    x->stream.told = status;
    pb_put_number(&out->head, 1, (uint64_t)status);
    chain_close(out);
    return RPC_MORE;
}

static const struct rpc_stream health_stream = { health_take, health_more };

/* ---- reflection: an answer to each question, in order ---- */

static bool reflection_take(void *context, struct rpc_call *c, const struct piece *pieces, int count)
{
    struct exchange *x = rpc_user(c);
    struct err err;
    size_t length;
    (void)context;
    if (count < 0) {
        x->stream.read_all = true;
        return false;
    }
    const uint8_t *bytes = serve_rpc_gather(&x->request.arena, pieces, count, &length);
    buf_init(&x->answer, 0);
    enum status st = bytes ? reflection_answer_write(&x->answer, bytes, length, &err) : err_set(&err, ST_TOO_LARGE, "the request is over its memory budget");
    if (!st && x->answer.failed) st = err_set(&err, ST_NO_MEMORY, "no memory for the answer");
    arena_reset(&x->request.arena);
    if (st) {
        rpc_end_stream(c, status_grpc(st), err.text);
        x->stream.read_all = true;
        return false;
    }
    x->stream.has_answer = true;
    return false;      /* the next question when this answer is on its way */
}

static enum rpc_next reflection_more(void *context, struct rpc_call *c, struct chain *out)
{
    struct exchange *x = rpc_user(c);
    (void)context;
    if (!x->stream.has_answer) return x->stream.read_all ? RPC_END : RPC_WAIT;
    out->head = x->answer;
    x->answer = (struct buf){ 0 };
    chain_close(out);
    x->stream.has_answer = false;
    rpc_read_on(c);
    return RPC_MORE;
}

static const struct rpc_stream reflection_stream = { reflection_take, reflection_more };

/* ---- their life ---- */

void serve_rpc_stream_begin(struct exchange *x)
{
    char yes[8];
    x->stream.begun = true;
    x->stream.told = -1;
    x->stream.errors_end = rpc_metadata(x->rpc, "triton_grpc_error", yes, sizeof yes) && !strcmp(yes, "true");
    rpc_answer_stream(x->rpc, x->method->kind == RPC_STREAM_INFER ? &infer_stream : x->method->kind == RPC_HEALTH_WATCH ? &health_stream : &reflection_stream);
}

void serve_rpc_stream_gone(struct exchange *x)
{
    while (x->stream.first) leave(x, x->stream.first, false);
}
