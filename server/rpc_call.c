/* A call's life at the library: the batches it is made of, its messages, its answers. Batches are started on a call's own thread only, so the library's rule
 * about them needs no lock. A unary call's end is asked of the library together with its answer; only one that waits longer has that asked before, to
 * learn that its client went away. Messages are expanded by us (R7): the library would expand one to any size. */
#include "server/rpc_library.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/compress.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXPAND_RATIO = 100, PACK_BYTES_MIN = 1024, SPARE_CALLS = 256 };

/* ---- calls are recycled ---- */

static void on_new(struct rpc_call *c, bool ok);
static void on_message(struct rpc_call *c, bool ok);
static void on_close(struct rpc_call *c, bool ok);
static void on_sent(struct rpc_call *c, bool ok);

static struct rpc_call *call_new(struct rpc_loop *l)
{
    struct rpc_call *c = l->spare;
    if (c) l->spare = c->next, l->spare_count--;
    else if (!(c = calloc(1, sizeof *c))) return NULL;
    struct piece *pieces = c->pieces;
    int room = c->piece_room;
    memset(c, 0, sizeof *c);
    c->pieces = pieces;
    c->piece_room = room;
    c->rpc = l->rpc;
    c->loop = l;
    c->tag_new = (struct tag){ on_new, c };
    c->tag_message = (struct tag){ on_message, c };
    c->tag_close = (struct tag){ on_close, c };
    c->tag_send = (struct tag){ on_sent, c };
    grpc_metadata_array_init(&c->metadata);
    grpc_call_details_init(&c->details);
    l->calls++;
    return c;
}

static void call_free(struct rpc_call *c)
{
    struct rpc_loop *l = c->loop;
    if (c->payload) grpc_byte_buffer_destroy(c->payload);
    if (c->sent) grpc_byte_buffer_destroy(c->sent);
    for (int i = 0; i < c->header_count; i++) grpc_slice_unref(c->headers[i].value);
    grpc_metadata_array_destroy(&c->metadata);
    grpc_call_details_destroy(&c->details);
    if (c->call) grpc_call_unref(c->call);
    l->calls--;
    if (l->spare_count < SPARE_CALLS) {
        c->next = l->spare;
        l->spare = c;
        l->spare_count++;
        return;
    }
    free(c->pieces);
    free(c);
}

static void post(struct rpc_loop *l, bool fast)
{
    struct rpc *s = l->rpc;
    struct rpc_call *c = call_new(l);
    if (!c) return;
    c->fast = fast;
    grpc_call_error e = fast ? grpc_server_request_registered_call(s->server, s->fast, &c->call, &c->deadline, &c->metadata, &c->payload, l->queue, l->queue, &c->tag_new)
                             : grpc_server_request_call(s->server, &c->call, &c->details, &c->metadata, l->queue, l->queue, &c->tag_new);
    if (e != GRPC_CALL_OK) call_free(c);
    else l->waiting[fast]++;
}

/* What memory did not allow before, or what has begun. */
void rpc_call_post(struct rpc_loop *l)
{
    if (!atomic_load(&l->rpc->listening)) return;
    for (int n = RPC_FAST_SLOTS - l->waiting[true]; n > 0; n--) post(l, true);
    for (int n = RPC_SLOW_SLOTS - l->waiting[false]; n > 0; n--) post(l, false);
}

void rpc_call_free_spare(struct rpc_loop *l)
{
    for (struct rpc_call *c = l->spare, *next; c; c = next) {
        next = c->next;
        free(c->pieces);
        free(c);
    }
}

/* ---- batches ---- */

static bool start(struct rpc_call *c, const grpc_op *ops, size_t n, struct tag *tag)
{
    if (grpc_call_start_batch(c->call, ops, n, tag, NULL) != GRPC_CALL_OK) return false;
    c->pending++;
    return true;
}

static void read_message(struct rpc_call *c)
{
    grpc_op op = { .op = GRPC_OP_RECV_MESSAGE };
    op.data.recv_message.recv_message = &c->payload;
    c->reading = start(c, &op, 1, &c->tag_message);
}

static grpc_op close_op(struct rpc_call *c)
{
    grpc_op op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER };
    op.data.recv_close_on_server.cancelled = &c->cancelled;
    c->close_asked = true;
    return op;
}

void rpc_call_watch(struct rpc_call *c)
{
    grpc_op op = close_op(c);
    start(c, &op, 1, &c->tag_close);
}

static grpc_op metadata_op(struct rpc_call *c)
{
    grpc_op op = { .op = GRPC_OP_SEND_INITIAL_METADATA };
    if (c->packs) c->headers[c->header_count++] = (grpc_metadata){ .key = grpc_slice_from_static_string("grpc-internal-encoding-request"), .value = grpc_slice_from_static_string("gzip") };
    op.data.send_initial_metadata.count = (size_t)c->header_count;
    op.data.send_initial_metadata.metadata = c->headers;
    c->metadata_sent = true;
    return op;
}

/* The chain's head becomes the library's; what it borrows is released when the library lets go of it. */
static grpc_byte_buffer *to_buffer(struct rpc_call *c, struct chain *m)
{
    grpc_slice slices[2 * CHAIN_BORROWED_MAX + 1];
    size_t n = 0, at = 0;
    grpc_slice head = m->head.length ? grpc_slice_new_with_user_data(m->head.data, m->head.length, free, m->head.data) : grpc_empty_slice();
    if (!m->head.length) free(m->head.data);
    for (int i = 0; i < m->borrowed_count; i++) {
        if (m->borrowed[i].at > at) slices[n++] = grpc_slice_sub(head, at, m->borrowed[i].at);
        at = m->borrowed[i].at;
        slices[n++] = grpc_slice_new_with_user_data((void *)m->borrowed[i].bytes, m->borrowed[i].length, c->release, c->owner);
    }
    if (at < m->head.length) slices[n++] = grpc_slice_sub(head, at, m->head.length);
    grpc_byte_buffer *b = grpc_raw_byte_buffer_create(slices, n);
    for (size_t i = 0; i < n; i++) grpc_slice_unref(slices[i]);
    grpc_slice_unref(head);
    c->answer_bytes += m->length;
    m->head = (struct buf){ 0 };
    return b;
}

static grpc_op message_op(struct rpc_call *c, struct chain *m)
{
    grpc_op op = { .op = GRPC_OP_SEND_MESSAGE };
    c->sent = to_buffer(c, m);
    op.data.send_message.send_message = c->sent;
    return op;
}

/* The last batch of a call. */
static void finish(struct rpc_call *c, struct chain *message)
{
    grpc_op ops[4];
    size_t n = 0;
    grpc_slice text = c->text[0] ? grpc_slice_from_copied_string(c->text) : grpc_empty_slice();
    if (!c->metadata_sent) ops[n++] = metadata_op(c);
    if (message) ops[n++] = message_op(c, message);
    ops[n] = (grpc_op){ .op = GRPC_OP_SEND_STATUS_FROM_SERVER };
    ops[n].data.send_status_from_server.status = (grpc_status_code)c->code;
    ops[n++].data.send_status_from_server.status_details = &text;
    if (!c->close_asked) ops[n++] = close_op(c);
    c->answered = true;
    bool started = start(c, ops, n, &c->tag_send);
    assert(started);
    c->sending = true;
    grpc_slice_unref(text);
}

/* A stream ends, once its message on the way is sent. */
static void end_stream(struct rpc_call *c)
{
    if (c->sending) c->ending = true;
    else finish(c, NULL);
}

/* No news may find a stream that is over; the handler has forgotten its places. */
static void leave_lists(struct rpc_call *c)
{
    struct rpc_loop *l = c->loop;
    for (struct rpc_call **p = &l->lookers; *p && c->looks; p = &(*p)->next_looker)
        if (*p == c) {
            *p = c->next_looker;
            break;
        }
    pthread_mutex_lock(&l->lock);
    struct rpc_call *before = NULL, *at = l->resumed_first;
    for (; at && at != c; at = at->next) before = at;
    if (at) {
        if (before) before->next = c->next;
        else l->resumed_first = c->next;
        if (l->resumed_last == c) l->resumed_last = before;
    }
    pthread_mutex_unlock(&l->lock);
}

/* When the library has nothing of the call any more and its answer has gone, it ends. */
static void end_when_done(struct rpc_call *c)
{
    struct rpc *s = c->rpc;
    if (!c->answered || c->pending) return;
    if (c->cancelled) rpc_guard_reset(s->guard, c->name);
    s->handler.end(s->handler.context, c, !c->cancelled);
    if (c->stream) leave_lists(c);
    else atomic_fetch_sub(&s->busy, 1);
    call_free(c);
}

/* ---- messages ---- */

static bool piece_room(struct rpc_call *c, size_t count)
{
    if ((int)count <= c->piece_room) return true;
    struct piece *more = mem_realloc_array(c->pieces, count, sizeof *more);
    if (!more) return false;
    c->pieces = more;
    c->piece_room = (int)count;
    return true;
}

/* The message that came compressed, in one piece; c->pieces has room. */
static enum status expand(struct rpc_call *c, const grpc_slice_buffer *slices, struct buf *out, struct err *err)
{
    struct buf packed;
    enum compress_kind kind = c->payload->data.raw.compression == GRPC_COMPRESS_GZIP ? COMPRESS_GZIP : COMPRESS_DEFLATE;
    buf_init(&packed, 0);
    buf_init(out, c->rpc->message_max + 1);
    for (size_t i = 0; i < slices->count; i++) buf_append(&packed, GRPC_SLICE_START_PTR(slices->slices[i]), GRPC_SLICE_LENGTH(slices->slices[i]));
    enum status st = packed.failed ? err_set(err, ST_NO_MEMORY, "no memory for the message")
                                   : compress_expand(out, kind, packed.data ? packed.data : "", packed.length, c->rpc->message_max, EXPAND_RATIO, err);
    buf_free(&packed);
    c->pieces[0] = (struct piece){ (const uint8_t *)out->data, out->length };
    c->packs = kind == COMPRESS_GZIP;
    return st;
}

/* Hands the message in c->payload to `to`. */
static bool deliver(struct rpc_call *c, bool (*to)(struct rpc_call *c, const struct piece *pieces, int count))
{
    const grpc_slice_buffer *slices = &c->payload->data.raw.slice_buffer;
    struct buf expanded = { 0 };
    struct err err = { 0 };
    enum status st = piece_room(c, slices->count + 1) ? ST_OK : err_set(&err, ST_NO_MEMORY, "no memory for the message");
    int count = st ? 0 : (int)slices->count;
    bool on = false;
    for (int i = 0; i < count; i++) c->pieces[i] = (struct piece){ GRPC_SLICE_START_PTR(slices->slices[i]), GRPC_SLICE_LENGTH(slices->slices[i]) };
    if (!st && c->payload->data.raw.compression != GRPC_COMPRESS_NONE) {
        st = expand(c, slices, &expanded, &err);
        count = 1;
    }
    if (!st) on = to(c, c->pieces, count);
    buf_free(&expanded);
    grpc_byte_buffer_destroy(c->payload);
    c->payload = NULL;
    if (st && c->stream) {
        rpc_end_stream(c, status_grpc(st), err.text);
        end_stream(c);
    } else if (st) {
        rpc_answer(c, status_grpc(st), err.text, NULL, NULL, NULL);
    }
    return on;
}

static bool to_handler(struct rpc_call *c, const struct piece *pieces, int count)
{
    c->rpc->handler.message(c->rpc->handler.context, c, pieces, count);
    return false;
}

static bool to_stream(struct rpc_call *c, const struct piece *pieces, int count) { return c->stream->take(c->rpc->handler.context, c, pieces, count); }

/* Asks the stream for what it has, while the client takes it. */
void rpc_call_pump(struct rpc_call *c)
{
    if (c->sending || c->answered || c->ending) return;
    struct chain m;
    chain_init(&m);
    enum rpc_next what = c->stream->more(c->rpc->handler.context, c, &m);
    if (what == RPC_WAIT) return;
    if (what == RPC_END) {
        finish(c, NULL);
        return;
    }
    grpc_op ops[2];
    size_t n = 0;
    if (!c->metadata_sent) ops[n++] = metadata_op(c);
    ops[n++] = message_op(c, &m);
    c->sending = start(c, ops, n, &c->tag_send);
}

static void unary_message(struct rpc_call *c)
{
    if (c->payload) deliver(c, to_handler);
    else rpc_answer(c, status_grpc(ST_BAD_INPUT), "the call has no message", NULL, NULL, NULL);
}

/* ---- what the library tells; the call's own thread ---- */

static void on_new(struct rpc_call *c, bool ok)
{
    struct rpc *s = c->rpc;
    c->loop->waiting[c->fast]--;
    if (!ok) {      /* the server is shutting down */
        c->call = NULL;
        call_free(c);
        return;
    }
    post(c->loop, c->fast);
    c->received_ns = clock_ns();
    char *peer = grpc_call_get_peer(c->call);      /* now: of a call that was reset the library forgets it */
    snprintf(c->name, sizeof c->name, "%s", peer);
    gpr_free(peer);
    gpr_timespec deadline = c->fast ? c->deadline : c->details.deadline;
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type))) {
        gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
        int64_t ns = left.tv_sec > 86400 ? INT64_C(86400000000000) : left.tv_sec * INT64_C(1000000000) + left.tv_nsec;
        c->deadline_ns = ns > 0 ? c->received_ns + (uint64_t)ns : c->received_ns;
    }
    atomic_fetch_add(&s->busy, 1);
    s->handler.begin(s->handler.context, c);
    if (c->answered) return;
    if (c->stream) {
        atomic_fetch_sub(&s->busy, 1);
        rpc_call_watch(c);
        read_message(c);
        rpc_call_pump(c);
    } else if (c->fast) {
        unary_message(c);
    } else {
        read_message(c);
    }
}

static void on_message(struct rpc_call *c, bool ok)
{
    bool on = false;
    (void)ok;      /* without a message there is no payload */
    c->pending--;
    c->reading = false;
    if (c->answered) {
        end_when_done(c);
        return;
    }
    if (!c->stream) {
        unary_message(c);
        return;
    }
    if (c->payload) on = deliver(c, to_stream);
    else c->stream->take(c->rpc->handler.context, c, NULL, -1);
    if (on && !c->answered) read_message(c);
    if (!c->answered) rpc_call_pump(c);
}

static void on_close(struct rpc_call *c, bool ok)
{
    (void)ok;
    c->pending--;
    if (c->cancelled && !c->answered) {
        c->rpc->handler.gone(c->rpc->handler.context, c);
        if (c->stream && !c->answered) {
            rpc_end_stream(c, GRPC_STATUS_CANCELLED, "");
            end_stream(c);
        }
    }
    end_when_done(c);
}

static void on_sent(struct rpc_call *c, bool ok)
{
    (void)ok;
    c->pending--;
    c->sending = false;
    if (c->sent) grpc_byte_buffer_destroy(c->sent);
    c->sent = NULL;
    if (!c->answered && c->ending) finish(c, NULL);
    else if (!c->answered) rpc_call_pump(c);
    end_when_done(c);
}

/* ---- a call ---- */

uint64_t         rpc_received_ns(const struct rpc_call *c) { return c->received_ns; }
uint64_t         rpc_deadline_ns(const struct rpc_call *c) { return c->deadline_ns; }
void            *rpc_user(const struct rpc_call *c) { return c->user; }
void             rpc_set_user(struct rpc_call *c, void *user) { c->user = user; }
int              rpc_answer_code(const struct rpc_call *c) { return c->code; }
uint64_t         rpc_answer_bytes(const struct rpc_call *c) { return c->answer_bytes; }
struct rpc_loop *rpc_loop_of(const struct rpc_call *c) { return c->loop; }

const char *rpc_method_path(const struct rpc_call *c, size_t *length)
{
    if (c->fast) return *length = strlen(c->rpc->fast_path), c->rpc->fast_path;
    *length = GRPC_SLICE_LENGTH(c->details.method);
    return (const char *)GRPC_SLICE_START_PTR(c->details.method);
}

bool rpc_metadata(const struct rpc_call *c, const char *name, char *out, size_t size)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < c->metadata.count; i++) {
        const grpc_metadata *m = &c->metadata.metadata[i];
        if (GRPC_SLICE_LENGTH(m->key) != length || memcmp(GRPC_SLICE_START_PTR(m->key), name, length)) continue;
        size_t n = GRPC_SLICE_LENGTH(m->value);
        if (n >= size) return false;
        memcpy(out, GRPC_SLICE_START_PTR(m->value), n);
        out[n] = 0;
        return true;
    }
    return false;
}

const char *rpc_peer(struct rpc_call *c)
{
    if (c->peer[0]) return c->peer;
    rpc_guard_address(c->rpc->guard, c->name, c->peer, sizeof c->peer);
    return c->peer;
}

void rpc_answer_header(struct rpc_call *c, const char *name, const char *value)
{
    if (c->header_count == RPC_ANSWER_HEADERS_MAX || c->metadata_sent) return;
    c->headers[c->header_count++] = (grpc_metadata){ .key = grpc_slice_from_static_string(name), .value = grpc_slice_from_copied_string(value) };
}

static void set_status(struct rpc_call *c, int code, const char *text)
{
    c->code = code;
    snprintf(c->text, sizeof c->text, "%s", text);
}

void rpc_answer(struct rpc_call *c, int code, const char *text, struct chain *message, void (*release)(void *), void *owner)
{
    assert(!c->answered && !c->stream);
    set_status(c, code, text);
    c->release = release;
    c->owner = owner;
    if (!message || message->length < PACK_BYTES_MIN) c->packs = false;
    finish(c, message);
}

void rpc_answer_stream(struct rpc_call *c, const struct rpc_stream *stream) { c->stream = stream; }

void rpc_stream_lend(struct rpc_call *c, void (*release)(void *), void *owner)
{
    c->release = release;
    c->owner = owner;
}

void rpc_end_stream(struct rpc_call *c, int code, const char *text) { set_status(c, code, text); }

void rpc_read_on(struct rpc_call *c)
{
    if (!c->reading && !c->answered) read_message(c);
}

void rpc_look_again(struct rpc_call *c)
{
    if (c->looks) return;
    c->looks = true;
    c->next_looker = c->loop->lookers;
    c->loop->lookers = c;
}

/* ---- waiting ---- */

void rpc_suspend(struct rpc_call *c)
{
    struct rpc_loop *l = c->loop;
    assert(!c->answered && !c->stream);
    c->suspended_ns = clock_ns();
    pthread_mutex_lock(&l->lock);
    c->is_suspended = true;
    c->previous = NULL;
    c->next = l->suspended;
    if (c->next) c->next->previous = c;
    l->suspended = c;
    pthread_mutex_unlock(&l->lock);
}

/* With the lock. */
static void put_resumed(struct rpc_call *c)
{
    struct rpc_loop *l = c->loop;
    c->next = c->previous = NULL;
    c->resumed = true;
    if (l->resumed_first) l->resumed_last->next = c;
    else l->resumed_first = c;
    l->resumed_last = c;
}

void rpc_resume_later(struct rpc_call *c)
{
    struct rpc_loop *l = c->loop;
    pthread_mutex_lock(&l->lock);
    assert(c->is_suspended);
    c->is_suspended = false;
    if (c->previous) c->previous->next = c->next;
    else l->suspended = c->next;
    if (c->next) c->next->previous = c->previous;
    put_resumed(c);
    pthread_mutex_unlock(&l->lock);
}

void rpc_resume(struct rpc_call *c)
{
    struct rpc_loop *l = c->loop;
    rpc_resume_later(c);
    rpc_wake(l);
}

void rpc_news(struct rpc_loop *l, struct rpc_call *const *place)
{
    pthread_mutex_lock(&l->lock);
    struct rpc_call *c = *place;
    bool wake = c && !c->resumed;
    if (wake) put_resumed(c);
    pthread_mutex_unlock(&l->lock);
    if (wake) rpc_wake(l);
}

void rpc_forget(struct rpc_loop *l, struct rpc_call **place)
{
    pthread_mutex_lock(&l->lock);
    *place = NULL;
    pthread_mutex_unlock(&l->lock);
}
