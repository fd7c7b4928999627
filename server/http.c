/* The only file that names libmicrohttpd. The library reads bytes and parses HTTP; this file checks what it lets through (R5), gathers the body
 * into one aligned piece of memory, and turns its callbacks into the calls of http.h. A suspended connection leaves the library's epoll set, so a
 * client that goes away is not seen there: the guard's watcher looks at suspended sockets. */
#include "server/http_internal.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/threads.h"
#include "server/tls.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* POOL_BYTES holds a request's headers (32 KiB at most) and is cleared by the library after each request: larger costs memory and time. */
enum { POOL_BYTES = 36 << 10, ALIGN = 64, GONE_AFTER_NS = 20 * 1000 * 1000, GONE_BATCH = 512, TURN_CREDIT_NS = 10 * 1000 * 1000, HEADER_PARTS = 2 * HTTP_ANSWER_HEADERS_MAX, STREAM_BLOCK = 16 << 10 };

struct http {
    struct MHD_Daemon  *daemon;
    struct http_guard  *guard;
    struct http_handler handler;
    struct log         *log;
    struct tls         *tls;
    bool                asks_client;
    atomic_uint         busy;
    pthread_mutex_t     lock;                    /* recursive: `gone` may lead to http_resume. Guards the four lists below */
    struct http_call   *suspended;
    struct http_call   *resumed_first, *resumed_last;   /* let go, not yet told to the library */
    struct newcomer    *newcomers;               /* accepted, not yet given to the library */
    struct http_call   *paced_first, *paced_last; /* refusals that wait for their turn, in its order */
    uint64_t            turn_ns, turn_every_ns;  /* the last turn given away */
    atomic_int          suspended_count;
    int                 wake;                    /* an eventfd: newcomers or resumed calls are there, or stop */
    atomic_bool         woken, stopping;
    pthread_t           loop;
    pthread_mutex_t     spare_lock;              /* guards the spare calls */
    struct http_call   *spare;
    int                 spare_count;
};

struct newcomer { struct newcomer *next; int fd; socklen_t length; struct sockaddr_storage address; };

enum call_gone { GONE_NO, GONE_SEEN, GONE_TOLD };

struct http_call {
    struct http           *http;
    struct MHD_Connection *connection;
    int                    fd;
    uint64_t               received_ns, suspended_ns;
    void                  *user;
    size_t                 line_length;          /* of the request target as sent */
    bool                   holds_nul;            /* the library decodes %00, which would cut the path there */
    const char            *method, *path;
    char                   peer[INET6_ADDRSTRLEN];
    /* body */
    uint64_t               declared, limit, align_offset;
    char                  *body_base, *body;
    size_t                 body_length, body_capacity;
    bool (*sink)(void *context, struct http_call *c, const void *data, size_t n);
    bool                   begun, ready, queued, has_answer, drains;
    bool                   paced;                /* its answer takes a turn first */
    uint64_t               paced_ns;
    struct http_call      *paced_next;
    atomic_bool            is_suspended;
    enum call_gone         gone;                 /* guarded by http.lock */
    /* answer */
    int                    status;
    const char            *content_type;
    struct buf             answer;
    uint64_t               answer_bytes;
    enum http_stream     (*more)(void *context, struct http_call *c, struct buf *out);
    size_t                 stream_at;            /* how much of `answer`, the piece at hand, was handed over */
    bool                   stream_ended;
    bool                   news;                 /* guarded by http.lock: came while it did not sleep */
    const char            *header_parts[HEADER_PARTS];
    int                    header_count;
    size_t                 text_used;
    char                   text[HTTP_ANSWER_TEXT_MAX];
    struct http_call      *next, *previous;      /* in http.suspended, or among the spare */
};

/* ---- calls are recycled: none is allocated while the load is steady ---- */

static struct http_call *call_new(struct http *h)
{
    pthread_mutex_lock(&h->spare_lock);
    struct http_call *c = h->spare;
    if (c) h->spare = c->next, h->spare_count--;
    pthread_mutex_unlock(&h->spare_lock);
    if (!c && !(c = malloc(sizeof *c))) return NULL;
    memset(c, 0, offsetof(struct http_call, text));
    c->http = h;
    c->limit = HTTP_BODY_MAX;
    return c;
}

static void call_free(struct http_call *c)
{
    struct http *h = c->http;
    free(c->body_base);
    buf_free(&c->answer);
    pthread_mutex_lock(&h->spare_lock);
    bool keep = h->spare_count < 256;
    if (keep) c->next = h->spare, h->spare = c, h->spare_count++;
    pthread_mutex_unlock(&h->spare_lock);
    if (!keep) free(c);
}

/* ---- R5: what the library lets through ---- */

struct header_scan { size_t bytes; int count, lengths, encodings, hosts; bool bad_length, bad_text; uint64_t length; const char *encoding; };

static enum MHD_Result scan_header(void *p, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct header_scan *s = p;
    (void)kind;
    s->count++;
    s->bytes += strlen(name) + (value ? strlen(value) : 0) + 4;
    for (const char *t = value ? value : ""; *t; t++)
        if ((unsigned char)*t < 0x20 && *t != '\t') s->bad_text = true;
    if (!strcasecmp(name, "content-length")) {
        s->lengths++;
        const char *t = value ? value : "";
        uint64_t n = 0;
        if (!*t) s->bad_length = true;
        for (; *t; t++) {
            if (*t < '0' || *t > '9' || !size_mul(n, 10, &n) || !size_add(n, (uint64_t)(*t - '0'), &n)) {
                s->bad_length = true;
                break;
            }
        }
        s->length = n;
    } else if (!strcasecmp(name, "transfer-encoding")) {
        s->encodings++;
        s->encoding = value;
    } else if (!strcasecmp(name, "host")) {
        s->hosts++;
    }
    return MHD_YES;
}

static void answer_error(struct http_call *c, enum status st, const char *text)
{
    struct buf b;
    buf_init(&b, 0);
    buf_printf(&b, "{\"error\":\"%s\"}", text);
    http_answer_header(c, "Connection", "close");
    http_answer(c, status_http(st), "application/json", &b);
}

static void check_headers(struct http_call *c, const char *version)
{
    struct header_scan s = { 0 };
    MHD_get_connection_values(c->connection, MHD_HEADER_KIND, scan_header, &s);
    c->declared = s.encodings ? UINT64_MAX : s.length;
    if (c->line_length > HTTP_LINE_MAX) answer_error(c, ST_URI_TOO_LONG, "the request line is longer than 8 KiB");
    else if (c->holds_nul) answer_error(c, ST_BAD_INPUT, "the path holds a NUL");
    else if (s.bytes > HTTP_HEADERS_MAX || s.count > HTTP_HEADER_COUNT_MAX) answer_error(c, ST_HEADERS_TOO_LARGE, "the headers are larger than 32 KiB or more than 100");
    else if (s.bad_length) answer_error(c, ST_BAD_INPUT, "Content-Length is not a decimal number");
    else if (s.lengths > 1) answer_error(c, ST_BAD_INPUT, "more than one Content-Length");
    else if (s.lengths && s.encodings) answer_error(c, ST_BAD_INPUT, "both Content-Length and Transfer-Encoding");
    else if (s.encodings > 1 || (s.encoding && strcasecmp(s.encoding, "chunked"))) answer_error(c, ST_BAD_INPUT, "the only Transfer-Encoding taken is chunked");
    else if (s.bad_text) answer_error(c, ST_BAD_INPUT, "a header holds a control character");
    else if (s.hosts != 1 && !strcmp(version, MHD_HTTP_VERSION_1_1)) answer_error(c, ST_BAD_INPUT, "exactly one Host header is needed");
}

/* ---- body ---- */

static bool body_room(struct http_call *c, size_t more)
{
    uint64_t need;
    if (!size_add(c->body_length, more, &need) || need > c->limit) return false;
    if (need <= c->body_capacity) return true;
    uint64_t capacity = c->declared != UINT64_MAX ? c->declared : c->body_capacity * 2 > need ? c->body_capacity * 2 : need + 4096;
    if (capacity < need) capacity = need;
    char *base = mem_alloc_array(capacity + 2 * ALIGN, 1);
    if (!base) return false;
    /* so placed that base + align_offset is a multiple of ALIGN */
    uintptr_t at = (uintptr_t)base + (size_t)(c->align_offset % ALIGN), up = (at + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    char *body = base + (up - at);
    if (c->body_length) memcpy(body, c->body, c->body_length);
    free(c->body_base);
    c->body_base = base;
    c->body = body;
    c->body_capacity = capacity;
    return true;
}

/* The library cannot send an answer in the middle of a body: a short one goes straight to the socket, then the connection closes. */
static void refuse_body(struct http_call *c, enum status st, const char *text)
{
    char answer[256];
    int n = snprintf(answer, sizeof answer, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n{\"error\":\"%s\"}",
                     status_http(st), status_words(st), strlen(text) + 12, text);
    c->status = status_http(st);
    const union MHD_ConnectionInfo *i = c->http->tls ? MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION) : NULL;
    if (i) tls_send(i->tls_session, answer, (size_t)n);
    else if (send(c->fd, answer, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return;
}

static bool take_body(struct http_call *c, const char *data, size_t n)
{
    atomic_fetch_add_explicit(&http_guard_connection(c->http->guard, c->fd)->body_bytes, n, memory_order_relaxed);
    if (c->has_answer) return true;      /* answered early: the rest is thrown away */
    if (c->sink) return c->sink(c->http->handler.context, c, data, n);
    if (!body_room(c, n)) {
        bool fits = n <= c->limit && c->body_length <= c->limit - n;
        refuse_body(c, fits ? ST_NO_MEMORY : ST_TOO_LARGE, fits ? "no memory for the body" : "the body is larger than its limit");
        return false;
    }
    memcpy(c->body + c->body_length, data, n);
    c->body_length += n;
    return true;
}

static void suspend_locked(struct http_call *c, uint64_t now_ns)
{
    struct http *h = c->http;
    assert(!c->is_suspended);
    c->is_suspended = true;
    c->suspended_ns = now_ns;
    c->previous = NULL;
    c->next = h->suspended;
    if (c->next) c->next->previous = c;
    h->suspended = c;
    atomic_fetch_add(&h->suspended_count, 1);
    MHD_suspend_connection(c->connection);
}

/* ---- answers ---- */

/* A piece of a stream for the library; 0: nothing now, the connection sleeps. */
static ssize_t read_stream(void *p, uint64_t at, char *out, size_t room)
{
    struct http_call *c = p;
    struct http *h = c->http;
    (void)at;
    while (c->stream_at == c->answer.length) {
        buf_clear(&c->answer);
        c->stream_at = 0;
        if (c->stream_ended) return MHD_CONTENT_READER_END_OF_STREAM;
        pthread_mutex_lock(&h->lock);
        c->news = false;
        pthread_mutex_unlock(&h->lock);
        enum http_stream what = c->more(h->handler.context, c, &c->answer);
        if (c->answer.failed) return MHD_CONTENT_READER_END_WITH_ERROR;
        c->stream_ended = what == HTTP_STREAM_END;
        if (what != HTTP_STREAM_WAIT || c->answer.length) continue;
        pthread_mutex_lock(&h->lock);
        bool sleeps = !c->news;
        if (sleeps) {
            http_guard_phase(h->guard, c->fd, PHASE_WORK);
            suspend_locked(c, clock_ns());
        }
        pthread_mutex_unlock(&h->lock);
        if (sleeps) return 0;
    }
    size_t n = c->answer.length - c->stream_at;
    if (n > room) n = room;
    memcpy(out, c->answer.data + c->stream_at, n);
    c->stream_at += n;
    c->answer_bytes += n;
    http_guard_phase(h->guard, c->fd, PHASE_SEND);
    return (ssize_t)n;
}

static enum MHD_Result queue_answer(struct http_call *c)
{
    size_t length = c->answer.length;
    struct MHD_Response *r = c->more ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, c, NULL)
                           : length ? MHD_create_response_from_buffer(length, c->answer.data, MHD_RESPMEM_MUST_FREE)
                                    : MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    if (!c->more) {
        if (!length) free(c->answer.data);
        c->answer.data = NULL;
        c->answer.length = c->answer.capacity = 0;
        c->answer_bytes = length;
    }
    if (c->content_type) MHD_add_response_header(r, "Content-Type", c->content_type);
    for (int i = 0; i < c->header_count; i += 2) MHD_add_response_header(r, c->header_parts[i], c->header_parts[i + 1]);
    http_guard_phase(c->http->guard, c->fd, PHASE_SEND);
    c->queued = true;
    enum MHD_Result done = MHD_queue_response(c->connection, (unsigned)c->status, r);
    MHD_destroy_response(r);
    return done;
}

void http_answer_header(struct http_call *c, const char *name, const char *value)
{
    size_t n = strlen(value) + 1;
    if (c->header_count + 2 > HEADER_PARTS || n > sizeof c->text - c->text_used) return;
    char *copy = c->text + c->text_used;
    memcpy(copy, value, n);
    c->text_used += n;
    c->header_parts[c->header_count++] = name;
    c->header_parts[c->header_count++] = copy;
}

void http_answer(struct http_call *c, int status, const char *content_type, struct buf *body)
{
    assert(!c->has_answer);
    c->has_answer = true;
    c->status = status;
    c->content_type = content_type;
    if (body) c->answer = *body, *body = (struct buf){ 0 };
    if (c->answer.failed) {
        buf_free(&c->answer);
        c->status = 503;
    }
    c->answer_bytes = c->answer.length;
}

void http_answer_stream(struct http_call *c, int status, const char *content_type, enum http_stream (*more)(void *context, struct http_call *c, struct buf *out))
{
    http_answer(c, status, content_type, NULL);
    c->more = more;
}

void http_answer_paced(struct http_call *c) { c->paced = true; }
void http_drain_body(struct http_call *c) { c->drains = true; }

/* True when the call was suspended until its turn. Turns are given away in order; whoever comes after a pause goes at once. */
static bool wait_for_turn(struct http_call *c)
{
    struct http *h = c->http;
    uint64_t now = clock_ns();
    c->paced = false;
    pthread_mutex_lock(&h->lock);
    h->turn_ns += h->turn_every_ns;
    bool at_once = h->turn_ns <= now;
    if (at_once) {
        if (now - h->turn_ns > TURN_CREDIT_NS) h->turn_ns = now - TURN_CREDIT_NS;
    } else {
        c->paced_ns = h->turn_ns;
        c->paced_next = NULL;
        if (h->paced_first) h->paced_last->paced_next = c;
        else h->paced_first = c;
        h->paced_last = c;
        suspend_locked(c, now);
    }
    pthread_mutex_unlock(&h->lock);
    return !at_once;
}

/* ---- the library's callbacks ---- */

static void *on_request_line(void *p, const char *uri, struct MHD_Connection *connection)
{
    struct http *h = p;
    struct http_call *c = call_new(h);
    if (!c) return NULL;
    c->line_length = strlen(uri);
    c->holds_nul = strstr(uri, "%00") != NULL;
    c->connection = connection;
    c->received_ns = clock_ns();
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->fd = i ? i->connect_fd : -1;
    if (i) http_guard_phase(h->guard, c->fd, PHASE_BODY);
    return c;
}

const char *http_peer(struct http_call *c)
{
    if (c->peer[0]) return c->peer;
    const struct in6_addr *a = &http_guard_connection(c->http->guard, c->fd)->address;
    if (IN6_IS_ADDR_V4MAPPED(a)) inet_ntop(AF_INET, a->s6_addr + 12, c->peer, sizeof c->peer);
    else inet_ntop(AF_INET6, a, c->peer, sizeof c->peer);
    return c->peer;
}

static void call_begin(struct http_call *c, const char *path, const char *method, const char *version)
{
    struct http *h = c->http;
    c->begun = true;
    c->path = path;
    c->method = method;
    atomic_fetch_add(&h->busy, 1);
    check_headers(c, version);
    h->handler.begin(h->handler.context, c);
    if (!c->has_answer && !c->sink && c->declared != UINT64_MAX && c->declared > c->limit)
        answer_error(c, ST_TOO_LARGE, "the body is larger than its limit");
}

static enum MHD_Result on_access(void *p, struct MHD_Connection *connection, const char *path, const char *method, const char *version,
                                 const char *data, size_t *size, void **state)
{
    struct http *h = p;
    struct http_call *c = *state;
    (void)connection;
    if (!c || c->fd < 0) return MHD_NO;
    if (!c->begun) {
        call_begin(c, path, method, version);
        if (c->has_answer && c->declared > 0 && !c->drains) return queue_answer(c);      /* the body is not read; the library closes */
        return MHD_YES;
    }
    if (*size) {
        bool taken = take_body(c, data, *size);
        *size = 0;
        return taken ? MHD_YES : MHD_NO;
    }
    if (!c->ready) {
        c->ready = true;
        http_guard_phase(h->guard, c->fd, PHASE_WORK);
        if (!c->has_answer) h->handler.ready(h->handler.context, c);
        if (c->is_suspended) return MHD_YES;
    } else if (!c->queued && !c->has_answer) {
        if (c->is_suspended) return MHD_YES;
        h->handler.resume(h->handler.context, c);
    }
    if (c->queued) return MHD_YES;
    if (!c->has_answer) return MHD_YES;      /* suspended meanwhile */
    if (c->paced && wait_for_turn(c)) return MHD_YES;
    return queue_answer(c);
}

static void on_completed(void *p, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode code)
{
    struct http *h = p;
    struct http_call *c = *state;
    (void)connection;
    if (!c) return;
    *state = NULL;
    if (c->begun) {
        h->handler.end(h->handler.context, c, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
        atomic_fetch_sub(&h->busy, 1);
    }
    if (c->fd >= 0) http_guard_phase(h->guard, c->fd, PHASE_HEADERS);
    call_free(c);
}

/* The library has made the session and not begun it: here it gets our certificate and our rules, and the connection holds them until its session is gone. */
static void begin_session(struct http *h, struct MHD_Connection *connection, void **state)
{
    const union MHD_ConnectionInfo *session = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION), *fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const struct tls_identity *i = session ? tls_begin(h->tls, session->tls_session, h->asks_client) : NULL;
    *state = (void *)i;
    if (!i && fd) shutdown(fd->connect_fd, SHUT_RDWR);
}

static void on_connection(void *p, struct MHD_Connection *connection, void **state, enum MHD_ConnectionNotificationCode code)
{
    struct http *h = p;
    if (code == MHD_CONNECTION_NOTIFY_STARTED && h->tls) begin_session(h, connection, state);
    if (code != MHD_CONNECTION_NOTIFY_CLOSED) return;
    if (*state) tls_release(*state);
    *state = NULL;
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (i) http_guard_closed(h->guard, i->connect_fd);
}

static void on_library_log(void *p, const char *format, va_list list)
{
    struct http *h = p;
    char text[256];
    vsnprintf(text, sizeof text, format, list);
    text[strcspn(text, "\r\n")] = 0;
    log_write(h->log, LOG_VERBOSE, "http", "%s", text);
}

/* ---- the loop ---- */

void http_wake(struct http *h)
{
    uint64_t one = 1;
    if (atomic_exchange(&h->woken, true)) return;
    if (write(h->wake, &one, sizeof one) < 0) return;      /* full: it is awake */
}

bool http_adopt(struct http *h, int fd, const struct sockaddr *address, socklen_t length)
{
    struct newcomer *n = malloc(sizeof *n);
    if (!n) return false;
    n->fd = fd;
    n->length = length;
    memcpy(&n->address, address, length);
    pthread_mutex_lock(&h->lock);
    n->next = h->newcomers;
    h->newcomers = n;
    pthread_mutex_unlock(&h->lock);
    http_wake(h);
    return true;
}

static void take_newcomers(struct http *h)
{
    pthread_mutex_lock(&h->lock);
    struct newcomer *n = h->newcomers;
    h->newcomers = NULL;
    pthread_mutex_unlock(&h->lock);
    for (struct newcomer *next; n; n = next) {
        next = n->next;
        if (MHD_add_connection(h->daemon, n->fd, (struct sockaddr *)&n->address, n->length) != MHD_YES) http_guard_closed(h->guard, n->fd);      /* the library has closed it */
        free(n);
    }
}

/* Gives the library back what was let go and the refusals whose turn has come. Returns how many ms until the next turn; -1: nobody waits for one. */
static int resume_calls(struct http *h)
{
    uint64_t now = clock_ns();
    int next_ms = -1;
    pthread_mutex_lock(&h->lock);
    while (h->paced_first && h->paced_first->paced_ns <= now) {
        struct http_call *c = h->paced_first;
        h->paced_first = c->paced_next;
        http_resume_later(c);
    }
    if (h->paced_first) next_ms = (int)((h->paced_first->paced_ns - now + 999999) / 1000000);
    for (struct http_call *c = h->resumed_first, *next; c; c = next) {
        next = c->next;
        c->next = NULL;
        atomic_fetch_sub(&h->suspended_count, 1);
        MHD_resume_connection(c->connection);
    }
    h->resumed_first = NULL;
    pthread_mutex_unlock(&h->lock);
    return next_ms;
}

/* The library's own thread would be woken for each call that is resumed, and each time look through all that are not; and it sleeps on when exactly as
 * many sockets were ready as it asks for at once. So the loop is ours and the library only runs when there is something to do. */
static void *loop_run(void *p)
{
    struct http *h = p;
    const union MHD_DaemonInfo *i = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd polls[2] = { { .fd = h->wake, .events = POLLIN }, { .fd = i->epoll_fd, .events = POLLIN } };
    while (!atomic_load(&h->stopping)) {
        MHD_UNSIGNED_LONG_LONG left;
        uint64_t told;
        int wait_ms = resume_calls(h);
        MHD_run(h->daemon);
        if (MHD_get_timeout(h->daemon, &left) == MHD_YES && left == 0) wait_ms = 0;
        if (poll(polls, 2, wait_ms) > 0 && polls[0].revents && read(h->wake, &told, sizeof told) < 0) continue;
        atomic_store(&h->woken, false);      /* before the lists are looked at */
        take_newcomers(h);
    }
    return NULL;
}

/* ---- life ---- */

static void stop_loop(struct http *h)
{
    atomic_store(&h->stopping, true);
    atomic_store(&h->woken, false);
    http_wake(h);
    pthread_join(h->loop, NULL);
    take_newcomers(h);      /* so that the library closes them with the others */
}

enum status http_open(struct http **out, const char *address, uint16_t port, const struct http_handler *handler, const struct http_options *options,
                      struct log *log, struct err *err)
{
    struct http *h = calloc(1, sizeof *h);
    if (!h) return err_set(err, ST_NO_MEMORY, "no memory for a listener");
    h->handler = *handler;
    h->log = log;
    uint64_t per_second = (uint64_t)threads_cpu_count() * HTTP_REFUSALS_PER_S;
    h->turn_every_ns = 1000000000u / (per_second < HTTP_REFUSALS_PER_S_MAX ? per_second : HTTP_REFUSALS_PER_S_MAX);
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&h->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_mutex_init(&h->spare_lock, NULL);
    struct http_options none = { 0 };
    h->tls = options ? options->tls : NULL;
    h->asks_client = options && options->asks_client;
    enum status st = (h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0 ? err_set(err, ST_INTERNAL, "no eventfd: %s", strerror(errno)) : ST_OK;
    if (!st) st = http_guard_open(&h->guard, h, address, port, options ? options : &none, log, err);
    if (st) goto free_http;
    const struct tls_identity *i = h->tls ? tls_hold(h->tls) : NULL;      /* the library wants a certificate at its start; begin_session decides what is shown */
    h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG | (i ? MHD_USE_TLS : 0),
                                 0, NULL, NULL, on_access, h,
                                 MHD_OPTION_EXTERNAL_LOGGER, on_library_log, h,
                                 MHD_OPTION_URI_LOG_CALLBACK, on_request_line, h,
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
                                 MHD_OPTION_CONNECTION_LIMIT, 100000u,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES,
                                 MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)(16 << 10),
                                 MHD_OPTION_STRICT_FOR_CLIENT, 1,
                                 i ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, i ? i->cert : NULL,
                                 MHD_OPTION_HTTPS_MEM_KEY, i ? i->key : NULL,
                                 MHD_OPTION_END);
    if (i) tls_release(i);
    if (!h->daemon) {
        st = err_set(err, ST_INTERNAL, "the HTTP library did not start on port %u", port);
        http_guard_stop(h->guard);
        http_guard_free(h->guard);
        goto free_http;
    }
    st = thread_start(&h->loop, "http", loop_run, h, err);
    bool looping = !st;
    if (!st) st = http_guard_start(h->guard, err);
    if (st) {
        http_guard_stop(h->guard);
        if (looping) stop_loop(h);
        MHD_stop_daemon(h->daemon);
        http_guard_free(h->guard);
        goto free_http;
    }
    *out = h;
    return ST_OK;
free_http:
    if (h->wake >= 0) close(h->wake);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->spare_lock);
    free(h);
    return st;
}

void http_trim(struct http *h)
{
    pthread_mutex_lock(&h->spare_lock);
    struct http_call *c = h->spare;
    h->spare = NULL;
    h->spare_count = 0;
    pthread_mutex_unlock(&h->spare_lock);
    for (struct http_call *next; c; c = next) {
        next = c->next;
        free(c);
    }
}

uint16_t http_port(const struct http *h) { return http_guard_port(h->guard); }
uint32_t http_connections(const struct http *h) { return http_guard_connections(h->guard); }
uint32_t http_busy(const struct http *h) { return atomic_load(&((struct http *)h)->busy); }
void     http_stop_listening(struct http *h) { http_guard_stop_listening(h->guard); }

void http_stop(struct http *h)
{
    if (!h) return;
    assert(atomic_load(&h->suspended_count) == 0);      /* the library panics otherwise */
    http_guard_stop(h->guard);
    stop_loop(h);
    MHD_stop_daemon(h->daemon);
}

void http_free(struct http *h)
{
    if (!h) return;
    http_guard_free(h->guard);
    http_trim(h);
    close(h->wake);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->spare_lock);
    free(h);
}

/* ---- a call ---- */

const char *http_method(const struct http_call *c) { return c->method; }
const char *http_path(const struct http_call *c) { return c->path; }
const char *http_query(const struct http_call *c, const char *name) { return MHD_lookup_connection_value(c->connection, MHD_GET_ARGUMENT_KIND, name); }
const char *http_header(const struct http_call *c, const char *name) { return MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, name); }
struct http *http_of(const struct http_call *c) { return c->http; }
void       *http_user(const struct http_call *c) { return c->user; }
void        http_set_user(struct http_call *c, void *user) { c->user = user; }
uint64_t    http_received_ns(const struct http_call *c) { return c->received_ns; }
void        http_body_limit(struct http_call *c, uint64_t bytes) { c->limit = bytes; }
void        http_body_align(struct http_call *c, uint64_t offset) { c->align_offset = offset; }
void        http_body_sink(struct http_call *c, bool (*write)(void *, struct http_call *, const void *, size_t)) { c->sink = write; }
uint64_t    http_body_declared(const struct http_call *c) { return c->declared; }
bool        http_answered(const struct http_call *c) { return c->has_answer; }
int         http_answer_status(const struct http_call *c) { return c->status; }
uint64_t    http_answer_bytes(const struct http_call *c) { return c->answer_bytes; }

const char *http_body(const struct http_call *c, size_t *length)
{
    *length = c->body_length;
    return c->body_length ? c->body : "";
}

char *http_body_take(struct http_call *c, void **base, size_t *length)
{
    char *body = c->body;
    *base = c->body_base;
    *length = c->body_length;
    c->body_base = c->body = NULL;
    c->body_length = c->body_capacity = 0;
    return body;
}

/* ---- waiting ---- */

void http_suspend(struct http_call *c)
{
    struct http *h = c->http;
    assert(!c->has_answer);
    pthread_mutex_lock(&h->lock);
    suspend_locked(c, clock_ns());
    pthread_mutex_unlock(&h->lock);
}

void http_resume_later(struct http_call *c)
{
    struct http *h = c->http;
    pthread_mutex_lock(&h->lock);
    assert(c->is_suspended);
    c->is_suspended = false;
    if (c->previous) c->previous->next = c->next;
    else h->suspended = c->next;
    if (c->next) c->next->previous = c->previous;
    c->next = c->previous = NULL;
    if (h->resumed_first) h->resumed_last->next = c;
    else h->resumed_first = c;
    h->resumed_last = c;
    pthread_mutex_unlock(&h->lock);
}

void http_resume(struct http_call *c)
{
    struct http *h = c->http;
    http_resume_later(c);
    http_wake(h);
}

void http_news(struct http *h, struct http_call *const *place)
{
    pthread_mutex_lock(&h->lock);
    struct http_call *c = *place;
    bool sleeps = c && c->is_suspended;
    if (sleeps) http_resume_later(c);
    else if (c) c->news = true;
    pthread_mutex_unlock(&h->lock);
    if (sleeps) http_wake(h);
}

void http_forget(struct http *h, struct http_call **place)
{
    pthread_mutex_lock(&h->lock);
    *place = NULL;
    pthread_mutex_unlock(&h->lock);
}

/* Marks the suspended calls whose peer has closed; with the lock. Returns how many. */
static int mark_gone(struct http *h, uint64_t now_ns)
{
    struct pollfd polls[GONE_BATCH];
    struct http_call *calls[GONE_BATCH];
    int marked = 0;
    for (struct http_call *c = h->suspended; c;) {
        int n = 0;
        for (; c && n < GONE_BATCH; c = c->next) {
            if (c->gone != GONE_NO || now_ns - c->suspended_ns < GONE_AFTER_NS) continue;
            polls[n] = (struct pollfd){ .fd = c->fd, .events = POLLRDHUP };
            calls[n++] = c;
        }
        if (!n || poll(polls, (nfds_t)n, 0) <= 0) continue;
        for (int i = 0; i < n; i++)
            if (polls[i].revents & (POLLRDHUP | POLLHUP | POLLERR)) calls[i]->gone = GONE_SEEN, marked++;
    }
    return marked;
}

int http_look_for_gone(struct http *h, uint64_t now_ns)
{
    int count = atomic_load(&h->suspended_count);
    if (!count) return 0;
    pthread_mutex_lock(&h->lock);
    int left = mark_gone(h, now_ns);
    while (left > 0) {
        /* from the head each time: telling one may resume others (answers that leave in order) */
        struct http_call *c = h->suspended;
        while (c && c->gone != GONE_SEEN) c = c->next;
        if (!c) break;
        c->gone = GONE_TOLD;
        h->handler.gone(h->handler.context, c);
        left--;
    }
    pthread_mutex_unlock(&h->lock);
    return count;
}
