/* Who may connect to the gRPC port. We accept ourselves and count; the library takes the socket over and closes it without a word, so a connection is known
 * by its socket's cookie, and those whose descriptor has another one, or none, are gone. */
#include "server/rpc_internal.h"

#include "base/checked.h"
#include "base/clock.h"
#include "server/acceptor.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { FD_TABLE_MAX = 1 << 20, SCAN_NS = 500 * 1000 * 1000,
       FLOOD_BYTES_MIN = 256 << 10, FLOOD_FRAMES_MIN = 10000 /* whoever sent less was not it; a message of 64 MiB is 4,096 frames */ };

struct rpc_connection {
    uint64_t        cookie;              /* 0: none */
    struct in6_addr address;
    uint16_t        port;
    uint64_t        since_ns, window_ns;
    uint32_t        resets;              /* since window_ns */
    uint64_t        marked;              /* what it had sent (sent_by) when rpc_guard_mark was called */
    uint64_t        sent, read;          /* at the last scan: bytes its client has acknowledged, bytes that the library has taken */
    unsigned        stalled;             /* scans since which nothing moved though bytes were waiting */
    bool            silent;              /* no request has been seen on it yet */
};

struct rpc_guard {
    struct log            *log;
    struct acceptor       *acceptor;
    void                 (*adopt)(void *context, int fd);
    void                  *context;
    uint32_t               connections_max, per_address_max;
    pthread_mutex_t        lock;         /* guards all below */
    struct rpc_connection *connections;  /* [fd_max], by descriptor */
    int                    fd_max, fd_top;
    bool                   plain;        /* no TLS */
    uint32_t               count;
    uint64_t               scanned_ns;
};

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) ? 0 : cookie;
}

static uint64_t bytes_received(int fd)
{
    struct tcp_info i = { 0 };
    socklen_t length = sizeof i;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &length) ? 0 : i.tcpi_bytes_received;
}

/* Bytes wait on the socket and none has moved for so many scans: bytes that its client does not take, or that the library does not, which gets longer, because a busy process is nobody's fault.
 * Scans are counted, not time: a process that was stopped finds its clients waiting. */
static bool is_stalled(struct rpc_connection *c, int fd)
{
    struct tcp_info i = { 0 };
    socklen_t length = sizeof i;
    int unsent = 0, unread = 0;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &length) || ioctl(fd, SIOCOUTQ, &unsent) || ioctl(fd, SIOCINQ, &unread)) return false;
    uint64_t sent = i.tcpi_bytes_acked, read = i.tcpi_bytes_received - (uint64_t)unread;
    bool moved = sent != c->sent || read != c->read;
    c->sent = sent;
    c->read = read;
    c->stalled = moved || (!unsent && !unread) ? 0 : c->stalled + 1;
    return c->stalled >= (unsent ? RPC_STALL_MS : RPC_UNREAD_MS) / (SCAN_NS / 1000000);
}

static void end_stalled(struct rpc_guard *g)
{
    struct linger at_once = { .l_onoff = 1 };
    for (int fd = 0; fd < g->fd_top; fd++) {
        struct rpc_connection *c = &g->connections[fd];
        if (!c->cookie || !is_stalled(c, fd)) continue;
        log_write(g->log, LOG_WARNING, "rpc", "a connection was closed: bytes waited on it for %u s and none moved", c->stalled * (SCAN_NS / 1000000) / 1000);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);      /* a client that reads nothing would keep the socket's memory past its close */
        shutdown(fd, SHUT_RDWR);
        c->stalled = 0;
    }
}

static void forget_closed(struct rpc_guard *g, uint64_t now)
{
    for (int fd = 0; fd < g->fd_top; fd++) {
        struct rpc_connection *c = &g->connections[fd];
        if (!c->cookie) continue;
        if (cookie_of(fd) != c->cookie) {
            rpc_reads_forget(fd);
            c->cookie = 0;
            g->count--;
        } else if (c->silent && now - c->since_ns > RPC_HANDSHAKE_MS * UINT64_C(1000000)) {
            c->silent = bytes_received(fd) < RPC_PREFACE_BYTES;
            if (c->silent) shutdown(fd, SHUT_RDWR);
        }
    }
    g->scanned_ns = now;
}

static uint32_t same_address(const struct rpc_guard *g, const struct in6_addr *address)
{
    uint32_t n = 0;
    for (int fd = 0; fd < g->fd_top; fd++) n += g->connections[fd].cookie && !memcmp(&g->connections[fd].address, address, sizeof *address);
    return n;
}

static bool is_full(struct rpc_guard *g, const struct in6_addr *address)
{
    return g->count >= g->connections_max || (g->per_address_max && same_address(g, address) >= g->per_address_max);
}

static void take(void *context, int fd, const struct sockaddr_storage *from, socklen_t length)
{
    struct rpc_guard *g = context;
    struct in6_addr address;
    (void)length;
    acceptor_map_address(&address, from);
    uint64_t now = clock_ns();
    pthread_mutex_lock(&g->lock);
    if (is_full(g, &address)) forget_closed(g, now);
    bool room = fd < g->fd_max && !is_full(g, &address);
    if (room) {
        if (!g->connections[fd].cookie) g->count++;      /* else the one before has closed and was not missed yet */
        g->connections[fd] = (struct rpc_connection){ .cookie = cookie_of(fd), .address = address, .port = acceptor_map_port(from), .since_ns = now, .silent = true };
        if (fd >= g->fd_top) g->fd_top = fd + 1;
    }
    pthread_mutex_unlock(&g->lock);
    if (room && g->plain) rpc_reads_watch(fd);
    if (room) g->adopt(g->context, fd);
    else close(fd);
}

void rpc_guard_tick(struct rpc_guard *g)
{
    uint64_t now = clock_ns();
    pthread_mutex_lock(&g->lock);
    if (now - g->scanned_ns > SCAN_NS) {
        forget_closed(g, now);
        end_stalled(g);
    }
    pthread_mutex_unlock(&g->lock);
}

/* A peer within TLS: "ipv4:127.0.0.1:4711" or "ipv6:%5B::1%5D:4711". */
static bool read_address(const char *peer, struct in6_addr *address, uint16_t *port)
{
    char text[INET6_ADDRSTRLEN + 8];
    struct sockaddr_storage a = { 0 };
    bool v6 = !strncmp(peer, "ipv6:", 5);
    const char *from = peer + 5, *colon = strrchr(peer, ':');
    if (!v6 && strncmp(peer, "ipv4:", 5)) return false;
    size_t open = !v6 ? 0 : strncasecmp(from, "%5B", 3) ? 1 : 3, n = (size_t)(colon - from);
    if (colon < from || n < 2 * open || n - 2 * open >= sizeof text) return false;
    memcpy(text, from + open, n - 2 * open);
    text[n - 2 * open] = 0;
    *port = (uint16_t)atoi(colon + 1);
    a.ss_family = v6 ? AF_INET6 : AF_INET;
    if (inet_pton(a.ss_family, text, v6 ? (void *)&((struct sockaddr_in6 *)&a)->sin6_addr : (void *)&((struct sockaddr_in *)&a)->sin_addr) != 1) return false;
    acceptor_map_address(address, &a);
    return true;
}

/* With the lock. NULL: the peer is none of ours, or is gone. */
static struct rpc_connection *connection_of(struct rpc_guard *g, const char *peer, int *fd)
{
    char *end;
    struct in6_addr address;
    uint16_t port;
    if (read_address(peer, &address, &port)) {
        for (*fd = 0; *fd < g->fd_top; ++*fd) {
            struct rpc_connection *c = &g->connections[*fd];
            if (c->cookie && c->port == port && !memcmp(&c->address, &address, sizeof address) && cookie_of(*fd) == c->cookie) return c;
        }
        return NULL;
    }
    if (strncmp(peer, "fd:", 3)) return NULL;
    long n = strtol(peer + 3, &end, 10);
    if (end == peer + 3 || *end || n < 0 || n >= g->fd_top || !g->connections[n].cookie) return NULL;
    *fd = (int)n;
    return &g->connections[n];
}

void rpc_guard_reset(struct rpc_guard *g, const char *peer)
{
    uint64_t now = clock_ns();
    int fd;
    pthread_mutex_lock(&g->lock);
    struct rpc_connection *c = connection_of(g, peer, &fd);
    if (c && now - c->window_ns > RPC_RESETS_MS * UINT64_C(1000000)) c->window_ns = now, c->resets = 0;
    if (c && ++c->resets == RPC_RESETS_MAX + 1 && cookie_of(fd) == c->cookie) {
        log_write(g->log, LOG_WARNING, "rpc", "a connection was closed: its client reset more than %d calls within %d s", RPC_RESETS_MAX, RPC_RESETS_MS / 1000);
        shutdown(fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&g->lock);
}

static uint64_t sent_by(const struct rpc_guard *g, int fd) { return g->plain ? rpc_reads_frames(fd) : bytes_received(fd); }

void rpc_guard_mark(struct rpc_guard *g)
{
    pthread_mutex_lock(&g->lock);
    forget_closed(g, clock_ns());
    for (int fd = 0; fd < g->fd_top; fd++)
        if (g->connections[fd].cookie) g->connections[fd].marked = sent_by(g, fd);
    pthread_mutex_unlock(&g->lock);
}

void rpc_guard_end_busiest(struct rpc_guard *g)
{
    uint64_t most = g->plain ? FLOOD_FRAMES_MIN : FLOOD_BYTES_MIN;
    int busiest = -1;
    pthread_mutex_lock(&g->lock);
    forget_closed(g, clock_ns());
    for (int fd = 0; fd < g->fd_top; fd++) {
        uint64_t sent = g->connections[fd].cookie ? sent_by(g, fd) : 0;
        if (sent <= g->connections[fd].marked || sent - g->connections[fd].marked <= most) continue;
        most = sent - g->connections[fd].marked;
        busiest = fd;
    }
    if (busiest >= 0) {
        log_write(g->log, LOG_WARNING, "rpc", "a connection was closed: its client kept the listener busy without a pause");
        shutdown(busiest, SHUT_RDWR);
    }
    pthread_mutex_unlock(&g->lock);
}

void rpc_guard_address(struct rpc_guard *g, const char *peer, char *out, size_t size)
{
    int fd;
    pthread_mutex_lock(&g->lock);
    const struct rpc_connection *c = connection_of(g, peer, &fd);
    if (!c) snprintf(out, size, "%s", peer);
    else if (IN6_IS_ADDR_V4MAPPED(&c->address)) inet_ntop(AF_INET, c->address.s6_addr + 12, out, (socklen_t)size);
    else inet_ntop(AF_INET6, &c->address, out, (socklen_t)size);
    pthread_mutex_unlock(&g->lock);
}

uint32_t rpc_fds_wanted(uint32_t connections_max)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    uint32_t share = (files.rlim_cur > FD_TABLE_MAX ? FD_TABLE_MAX : (uint32_t)files.rlim_cur) / RPC_FD_SHARE, want = connections_max ? connections_max : RPC_CONNECTIONS_MAX;
    return want < share ? want : share;
}

enum status rpc_guard_open(struct rpc_guard **out, const struct rpc_options *o, void (*adopt)(void *, int), void *context, struct log *log, struct err *err)
{
    struct rlimit files;
    struct rpc_guard *g = calloc(1, sizeof *g);
    if (!g) return err_set(err, ST_NO_MEMORY, "no memory for a listener");
    *g = (struct rpc_guard){ .log = log, .adopt = adopt, .context = context, .per_address_max = o->per_address_max, .plain = !o->tls };
    pthread_mutex_init(&g->lock, NULL);
    getrlimit(RLIMIT_NOFILE, &files);
    g->fd_max = files.rlim_cur > FD_TABLE_MAX ? FD_TABLE_MAX : (int)files.rlim_cur;
    g->connections_max = rpc_fds_wanted(o->connections_max);
    g->connections = mem_calloc_array((uint64_t)g->fd_max, sizeof *g->connections);
    enum status st = rpc_reads_open(g->fd_max, err);
    if (!st) st = g->connections ? acceptor_open(&g->acceptor, "rpc accept", o->host, o->port, take, g, err) : err_set(err, ST_NO_MEMORY, "no memory for %d connections", g->fd_max);
    if (st) rpc_guard_free(g);
    else *out = g;
    return st;
}

enum status rpc_guard_start(struct rpc_guard *g, struct err *err) { return acceptor_start(g->acceptor, err); }
uint16_t    rpc_guard_port(const struct rpc_guard *g) { return acceptor_port(g->acceptor); }
void        rpc_guard_stop(struct rpc_guard *g) { acceptor_stop(g->acceptor); }

uint32_t rpc_guard_connections(const struct rpc_guard *guard)
{
    struct rpc_guard *g = (struct rpc_guard *)guard;
    pthread_mutex_lock(&g->lock);
    forget_closed(g, clock_ns());
    uint32_t n = g->count;
    pthread_mutex_unlock(&g->lock);
    return n;
}

void rpc_guard_free(struct rpc_guard *g)
{
    if (!g) return;
    acceptor_free(g->acceptor);
    pthread_mutex_destroy(&g->lock);
    free(g->connections);
    free(g);
}
