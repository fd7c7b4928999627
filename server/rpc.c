/* The gRPC listener's loops and life; rpc_call.c is a call's. Calls come in two ways: those of the fast method with their message already read (one event of
 * the completion queue instead of three), all others by name. A worker that is done leaves the call in its loop's list and wakes the loop once for
 * however many calls: an empty batch of a call that is never made is the one way to put an event into a completion queue from outside. */
#include "server/rpc_library.h"

#include "base/clock.h"
#include "base/threads.h"

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WATCH_NS = 20 * 1000 * 1000, TICK_BUSY_MS = 20, TICK_IDLE_MS = 250, QUOTA_BYTES = 1 << 30, READ_BYTES_MAX = 128 << 10, WATCH_TICK_US = 25000, FLOOD_NS = 200 * 1000 * 1000 };

/* ---- the loop ---- */

void rpc_wake(struct rpc_loop *l)
{
    if (atomic_exchange(&l->woken, true)) return;
    grpc_call_start_batch(l->waker, NULL, 0, &l->wake_tag, NULL);
}

static struct rpc_call *take_resumed(struct rpc_loop *l)
{
    pthread_mutex_lock(&l->lock);
    struct rpc_call *c = l->resumed_first;
    if (c) {
        l->resumed_first = c->next;
        c->next = NULL;
        c->resumed = false;
    }
    pthread_mutex_unlock(&l->lock);
    return c;
}

static void resume_calls(struct rpc_loop *l)
{
    for (struct rpc_call *c; (c = take_resumed(l));) {
        if (c->stream) rpc_call_pump(c);
        else c->rpc->handler.resume(c->rpc->handler.context, c);
    }
}

static void look_again(struct rpc_loop *l)
{
    struct rpc_call *c = l->lookers;
    l->lookers = NULL;
    for (struct rpc_call *next; c; c = next) {
        next = c->next_looker;
        c->looks = false;
        rpc_call_pump(c);      /* it may look again; what it ends is freed later */
    }
}

/* Calls that have waited for a while are watched for a client that goes away. Returns whether any waits. */
static bool look_for_gone(struct rpc_loop *l)
{
    uint64_t now = clock_ns();
    bool any = false;
    pthread_mutex_lock(&l->lock);
    for (struct rpc_call *c = l->suspended; c; c = c->next) {
        any = true;
        if (!c->close_asked && now - c->suspended_ns > WATCH_NS) rpc_call_watch(c);
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}

static void *loop_run(void *p)
{
    struct rpc_loop *l = p;
    uint64_t looked = 0;
    long tick_ms = TICK_IDLE_MS;
    rpc_call_post(l);
    while (!atomic_load(&l->stopping) || l->calls) {
        gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(tick_ms, GPR_TIMESPAN));
        atomic_fetch_add_explicit(&l->turns, 1, memory_order_relaxed);
        grpc_event e = grpc_completion_queue_next(l->queue, until, NULL);
        atomic_fetch_add_explicit(&l->turns, 1, memory_order_relaxed);
        if (e.type == GRPC_OP_COMPLETE) {
            struct tag *t = e.tag;
            if (t->done) t->done(t->call, e.success);
            else if (t == &l->wake_tag) atomic_store(&l->woken, false);      /* before the list is looked at */
            else atomic_store(&l->rpc->shut, true);
        }
        resume_calls(l);
        uint64_t now = clock_ns();
        if (now - looked < TICK_BUSY_MS * UINT64_C(1000000)) continue;
        looked = now;
        rpc_call_post(l);
        look_again(l);
        tick_ms = look_for_gone(l) ? TICK_BUSY_MS : TICK_IDLE_MS;
        rpc_guard_tick(l->rpc->guard);
    }
    return NULL;
}

/* ---- the watch ---- */

static uint64_t cpu_ns(pthread_t thread)
{
    clockid_t clock;
    struct timespec t = { 0 };
    if (!pthread_getcpuclockid(thread, &clock)) clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* While a client sends without a pause, the library reads on and on and gives us nothing to count. A loop that has computed for FLOOD_NS within the library
 * (its turn is odd) without coming back is under such a flood, of resets, pings or whatever: the connection that has sent most since loses its place. */
static void *watch_run(void *p)
{
    struct rpc *s = p;
    while (atomic_load(&s->watching)) {
        usleep(WATCH_TICK_US);
        for (int i = 0; i < s->loop_count; i++) {
            struct rpc_loop *l = &s->loops[i];
            unsigned turns = atomic_load_explicit(&l->turns, memory_order_relaxed);
            uint64_t now = cpu_ns(l->thread);
            if (turns != l->seen_turns || turns % 2 == 0) {
                l->seen_turns = turns;
                l->seen_cpu_ns = now;
                l->suspected = false;
            } else if (!l->suspected && now - l->seen_cpu_ns > FLOOD_NS / 4) {
                l->suspected = true;
                rpc_guard_mark(s->guard);
            } else if (now - l->seen_cpu_ns > FLOOD_NS) {
                rpc_guard_end_busiest(s->guard);
                l->seen_cpu_ns = now;
                l->suspected = false;
            }
        }
    }
    return NULL;
}

/* ---- life ---- */

static void library_log(gpr_log_func_args *args) { (void)args; }      /* its words go nowhere: they are its own affairs, and our log is JSON */

static void adopt(void *context, int fd)
{
    struct rpc *s = context;
    if (s->tls) rpc_tls_adopt(s, fd);
    else grpc_server_add_channel_from_fd(s->server, fd, s->credentials);
}

static grpc_arg number_arg(const char *key, int value) { return (grpc_arg){ .type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value }; }

static grpc_server *make_server(struct rpc *rpc, const struct rpc_options *o)
{
    grpc_resource_quota *quota = grpc_resource_quota_create("inferd");
    grpc_resource_quota_resize(quota, QUOTA_BYTES);
    grpc_arg args[] = {
        number_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, o->message_max > INT32_MAX ? INT32_MAX : (int)o->message_max), number_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        number_arg(GRPC_ARG_MAX_METADATA_SIZE, RPC_METADATA_MAX), number_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, RPC_STREAMS_MAX),
        number_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, RPC_IDLE_MS), number_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, RPC_HANDSHAKE_MS),
        number_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 60000), number_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000), number_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2),
        number_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000), number_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0), number_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        number_arg(GRPC_ARG_ALLOW_REUSEPORT, 0), rpc_tls_arg(rpc), number_arg(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, READ_BYTES_MAX),
        { .type = GRPC_ARG_POINTER, .key = (char *)GRPC_ARG_RESOURCE_QUOTA, .value.pointer = { quota, grpc_resource_quota_arg_vtable() } },
    };
    grpc_server *s = grpc_server_create(&(grpc_channel_args){ sizeof args / sizeof *args, args }, NULL);
    grpc_resource_quota_unref(quota);
    return s;
}

static void loop_open(struct rpc *s, struct rpc_loop *l)
{
    l->rpc = s;
    pthread_mutex_init(&l->lock, NULL);
    l->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(s->server, l->queue, NULL);
    l->nowhere = grpc_lame_client_channel_create("nowhere", GRPC_STATUS_UNAVAILABLE, "");
    l->waker = grpc_channel_create_call(l->nowhere, NULL, 0, l->queue, grpc_slice_from_static_string("/wake"), NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
}

static void loop_close(struct rpc_loop *l)
{
    grpc_call_unref(l->waker);
    grpc_channel_destroy(l->nowhere);
    grpc_completion_queue_shutdown(l->queue);
    while (grpc_completion_queue_next(l->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type != GRPC_QUEUE_SHUTDOWN) continue;
    grpc_completion_queue_destroy(l->queue);
    rpc_call_free_spare(l);
    pthread_mutex_destroy(&l->lock);
}

enum status rpc_open(struct rpc **out, const struct rpc_options *o, const struct rpc_handler *handler, struct log *log, struct err *err)
{
    struct rpc *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory for a listener");
    s->handler = *handler;
    s->log = log;
    s->message_max = o->message_max;
    snprintf(s->fast_path, sizeof s->fast_path, "%s", o->fast_method);
    enum status st = rpc_guard_open(&s->guard, o, adopt, s, log, err);
    if (st) {
        free(s);
        return st;
    }
    gpr_set_log_function(library_log);
    grpc_init();
    s->tls = o->tls;
    s->server = make_server(s, o);
    if (s->tls) st = rpc_tls_open(s, err);
    else s->credentials = grpc_insecure_server_credentials_create();
    s->fast = grpc_server_register_method(s->server, s->fast_path, NULL, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
    s->loop_count = o->threads < 1 ? 1 : o->threads > RPC_LOOPS_MAX ? RPC_LOOPS_MAX : o->threads;
    for (int i = 0; i < s->loop_count; i++) loop_open(s, &s->loops[i]);
    if (!st) grpc_server_start(s->server);
    atomic_store(&s->listening, true);
    for (int i = 0; i < s->loop_count && !st; i++) {
        st = thread_start(&s->loops[i].thread, "rpc", loop_run, &s->loops[i], err);
        s->loops[i].running = !st;
    }
    if (!st) {
        atomic_store(&s->watching, true);
        st = thread_start(&s->watch, "rpc watch", watch_run, s, err);
        if (st) atomic_store(&s->watching, false);
    }
    if (!st) st = rpc_guard_start(s->guard, err);
    if (st) {
        rpc_stop(s);
        rpc_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

uint16_t rpc_port(const struct rpc *s) { return rpc_guard_port(s->guard); }
uint32_t rpc_connections(const struct rpc *s) { return rpc_guard_connections(s->guard); }
uint32_t rpc_busy(const struct rpc *s) { return atomic_load(&((struct rpc *)s)->busy); }

void rpc_stop_listening(struct rpc *s)
{
    if (!atomic_exchange(&s->listening, false)) return;
    rpc_guard_stop(s->guard);
    grpc_server_shutdown_and_notify(s->server, s->loops[0].queue, &s->shutdown_tag);
}

void rpc_stop(struct rpc *s)
{
    if (!s) return;
    rpc_stop_listening(s);
    if (atomic_exchange(&s->watching, false)) pthread_join(s->watch, NULL);
    grpc_server_cancel_all_calls(s->server);
    while (!atomic_load(&s->shut)) {
        if (s->loops[0].running) usleep(1000);
        else atomic_store(&s->shut, grpc_completion_queue_next(s->loops[0].queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).tag == &s->shutdown_tag);
    }
    for (int i = 0; i < s->loop_count; i++) {
        atomic_store(&s->loops[i].stopping, true);
        rpc_wake(&s->loops[i]);
        if (s->loops[i].running) pthread_join(s->loops[i].thread, NULL);
    }
}

void rpc_free(struct rpc *s)
{
    if (!s) return;
    grpc_server_destroy(s->server);
    for (int i = 0; i < s->loop_count; i++) loop_close(&s->loops[i]);
    if (s->credentials) grpc_server_credentials_release(s->credentials);
    grpc_shutdown_blocking();
    rpc_guard_free(s->guard);
    free(s);
}
