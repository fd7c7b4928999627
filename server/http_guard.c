/* Who may connect and for how long. We accept ourselves: at the library's own limit it would stop accepting, here the 10,001st gets its 503, and
 * descriptors are kept in reserve for the store and the log (R8). A watcher measures what the library does not: the header's deadline,
 * the rate of a body, an idle keep-alive, an answer that nobody reads (R5). It ends a connection by shutdown(2); the library sees that and closes. */
#include "server/http_internal.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/threads.h"
#include "server/acceptor.h"

#include <errno.h>
#include <linux/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TICK_BUSY_MS = 20, TICK_IDLE_MS = 250, SCAN_MS = 500 };

struct http_guard {
    struct http            *http;
    struct log             *log;
    struct http_options     limits;
    struct acceptor        *acceptor;
    int                     wake;                 /* an eventfd that ends the watcher */
    struct http_connection *connections;          /* [fd_max], by descriptor */
    int                     fd_max;
    atomic_int              fd_top;               /* one above the highest descriptor met */
    atomic_uint             count;
    atomic_bool             stopping;
    pthread_t               watcher;
    bool                    watching;
};

struct http_connection *http_guard_connection(struct http_guard *g, int fd) { return &g->connections[fd]; }
uint16_t http_guard_port(const struct http_guard *g) { return acceptor_port(g->acceptor); }
uint32_t http_guard_connections(const struct http_guard *g) { return atomic_load(&((struct http_guard *)g)->count); }

void http_guard_phase(struct http_guard *g, int fd, enum connection_phase phase)
{
    struct http_connection *c = &g->connections[fd];
    atomic_store_explicit(&c->since_ns, clock_ns(), memory_order_relaxed);
    if (phase == PHASE_BODY) {
        atomic_store_explicit(&c->body_bytes, 0, memory_order_relaxed);
        atomic_store_explicit(&c->fresh, false, memory_order_relaxed);
    }
    atomic_store_explicit(&c->phase, phase, memory_order_release);
}

void http_guard_closed(struct http_guard *g, int fd)
{
    atomic_store(&g->connections[fd].phase, PHASE_CLOSED);
    atomic_fetch_sub(&g->count, 1);
}

/* ---- accepting ---- */

static void refuse(const struct http_guard *g, int fd)
{
    static const char answer[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: 32\r\n\r\n"
                                 "{\"error\":\"too many connections\"}";
    if (!g->limits.tls && send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) shutdown(fd, SHUT_WR);
    close(fd);
}

static bool address_full(struct http_guard *g, const struct in6_addr *address)
{
    if (!g->limits.per_address_max) return false;
    uint32_t same = 0;
    for (int fd = 0, top = atomic_load(&g->fd_top); fd < top; fd++)
        if (atomic_load(&g->connections[fd].phase) != PHASE_CLOSED && !memcmp(&g->connections[fd].address, address, sizeof *address)) same++;
    return same >= g->limits.per_address_max;
}

static void take(void *context, int fd, const struct sockaddr_storage *from, socklen_t length)
{
    struct http_guard *g = context;
    struct in6_addr address;
    acceptor_map_address(&address, from);
    if (fd >= g->fd_max || atomic_load(&g->count) >= g->limits.connections_max || address_full(g, &address)) {
        refuse(g, fd);
        return;
    }
    struct http_connection *c = &g->connections[fd];
    c->address = address;
    atomic_fetch_add(&c->generation, 1);
    atomic_store(&c->fresh, true);
    http_guard_phase(g, fd, PHASE_HEADERS);
    if (fd >= atomic_load(&g->fd_top)) atomic_store(&g->fd_top, fd + 1);
    atomic_fetch_add(&g->count, 1);
    if (http_adopt(g->http, fd, (const struct sockaddr *)from, length)) return;
    http_guard_closed(g, fd);
    refuse(g, fd);
}

/* ---- watching ---- */

static bool tcp_bytes(int fd, uint64_t *received, uint64_t *acked)
{
    struct tcp_info i;
    socklen_t length = sizeof i;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &length)) return false;
    *received = i.tcpi_bytes_received;
    *acked = i.tcpi_bytes_acked;
    return true;
}

/* Within TLS the session belongs to the listener's thread: such a connection ends without a word. */
static void end(const struct http_guard *g, struct http_connection *c, int fd, const char *answer)
{
    if (answer && !g->limits.tls && send(fd, answer, strlen(answer), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) answer = NULL;
    c->shut = true;
    shutdown(fd, SHUT_RDWR);
}

/* Looks at one open connection; its phase may change at any moment: what we then do hits a request that began within this tick, which is
 * only possible when the limits were passed just before. */
static void watch_one(struct http_guard *g, int fd, uint64_t now)
{
    struct http_connection *c = &g->connections[fd];
    static const char slow[] = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    enum connection_phase phase = (enum connection_phase)atomic_load_explicit(&c->phase, memory_order_acquire);
    uint64_t since = atomic_load_explicit(&c->since_ns, memory_order_relaxed), age_ms = now > since ? (now - since) / 1000000 : 0, received, acked;
    if (phase == PHASE_CLOSED || phase == PHASE_WORK) return;
    unsigned generation = atomic_load(&c->generation);
    if (generation != c->seen_generation) {
        c->seen_generation = generation;
        c->seen_phase_ns = 0;
        c->shut = false;
    }
    if (c->shut) return;
    if (phase == PHASE_BODY) {
        uint64_t bytes = atomic_load_explicit(&c->body_bytes, memory_order_relaxed);
        if (age_ms > g->limits.body_grace_ms && bytes * 1000 / age_ms < g->limits.body_bytes_per_s) end(g, c, fd, slow);
        return;
    }
    if (phase == PHASE_HEADERS && atomic_load_explicit(&c->fresh, memory_order_relaxed)) {
        if (age_ms > g->limits.header_ms) end(g, c, fd, tcp_bytes(fd, &received, &acked) && received ? slow : NULL);      /* who has asked nothing is answered nothing: an answer now would be taken for the next one */
        return;
    }
    if (!tcp_bytes(fd, &received, &acked)) return;
    uint64_t bytes = phase == PHASE_SEND ? acked : received;
    bool first_look = c->seen_phase_ns != since;
    if (first_look || (bytes != c->seen_bytes && phase == PHASE_SEND)) {
        c->seen_phase_ns = since;
        c->seen_bytes = bytes;
        c->moved_ns = now;
        return;
    }
    if (phase == PHASE_SEND) {
        if ((now - c->moved_ns) / 1000000 > g->limits.stall_ms) end(g, c, fd, NULL);
        return;
    }
    /* between requests: bytes that have come since we first looked are a header that began and is not complete */
    if (bytes != c->seen_bytes ? (now - c->moved_ns) / 1000000 > g->limits.header_ms : age_ms > g->limits.idle_ms) end(g, c, fd, NULL);
}

static void *watch_run(void *p)
{
    struct http_guard *g = p;
    struct pollfd wake = { .fd = g->wake, .events = POLLIN };
    uint64_t scanned = 0;
    int tick = TICK_IDLE_MS;
    while (!atomic_load(&g->stopping)) {
        uint64_t told;
        if (poll(&wake, 1, tick) > 0 && read(g->wake, &told, sizeof told) < 0) tick = TICK_IDLE_MS;
        uint64_t now = clock_ns();
        tick = http_look_for_gone(g->http, now) ? TICK_BUSY_MS : TICK_IDLE_MS;
        if (now - scanned < (uint64_t)SCAN_MS * 1000000) continue;
        scanned = now;
        for (int fd = 0, top = atomic_load(&g->fd_top); fd < top; fd++) watch_one(g, fd, now);
    }
    return NULL;
}

/* ---- life ---- */

static void set_limits(struct http_guard *g, const struct http_options *o)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    g->fd_max = files.rlim_cur > 1 << 20 ? 1 << 20 : (int)files.rlim_cur;
    g->limits = *o;
    if (!g->limits.connections_max) g->limits.connections_max = HTTP_CONNECTIONS_MAX;
    uint32_t fds = (uint32_t)g->fd_max, kept = HTTP_FD_RESERVE + o->fds_elsewhere, have = fds > 2 * kept ? fds - kept : fds / 2;
    if (g->limits.connections_max > have) {
        log_write(g->log, LOG_WARNING, "limits", "connections are limited to %u: RLIMIT_NOFILE is %d, and %u descriptors are kept for others", have, g->fd_max, kept);
        g->limits.connections_max = have;
    }
    if (!g->limits.header_ms) g->limits.header_ms = 10000;
    if (!g->limits.body_grace_ms) g->limits.body_grace_ms = 10000;
    if (!g->limits.body_bytes_per_s) g->limits.body_bytes_per_s = 1024;
    if (!g->limits.idle_ms) g->limits.idle_ms = 75000;
    if (!g->limits.stall_ms) g->limits.stall_ms = 30000;
}

enum status http_guard_open(struct http_guard **out, struct http *h, const char *address, uint16_t port, const struct http_options *options, struct log *log, struct err *err)
{
    struct http_guard *g = calloc(1, sizeof *g);
    if (!g) return err_set(err, ST_NO_MEMORY, "no memory for a listener");
    g->http = h;
    g->log = log;
    g->wake = -1;
    set_limits(g, options);
    g->connections = mem_calloc_array((uint64_t)g->fd_max, sizeof *g->connections);
    enum status st = g->connections ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for %d connections", g->fd_max);
    if (!st) st = acceptor_open(&g->acceptor, "http accept", address, port, take, g, err);
    if (!st && (g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) st = err_set(err, ST_INTERNAL, "no eventfd: %s", strerror(errno));
    if (st) {
        http_guard_free(g);
        return st;
    }
    *out = g;
    return ST_OK;
}

enum status http_guard_start(struct http_guard *g, struct err *err)
{
    enum status st = acceptor_start(g->acceptor, err);
    if (st) return st;
    st = thread_start(&g->watcher, "http watch", watch_run, g, err);
    g->watching = !st;
    return st;
}

static void wake_up(struct http_guard *g)
{
    uint64_t one = 1;
    if (write(g->wake, &one, sizeof one) < 0) return;      /* already awake */
}

void http_guard_stop_listening(struct http_guard *g) { acceptor_stop(g->acceptor); }

void http_guard_stop(struct http_guard *g)
{
    atomic_store(&g->stopping, true);
    http_guard_stop_listening(g);
    wake_up(g);
    if (g->watching) pthread_join(g->watcher, NULL);
    g->watching = false;
}

void http_guard_free(struct http_guard *g)
{
    acceptor_free(g->acceptor);
    if (g->wake >= 0) close(g->wake);
    free(g->connections);
    free(g);
}
