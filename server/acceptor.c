#include "server/acceptor.h"

#include "base/threads.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { BACKLOG = 4096, BURST = 256, PAUSE_US = 10000 };

struct acceptor {
    int         listener, wake;           /* wake: an eventfd that ends the thread */
    uint16_t    port;
    const char *thread_name;
    void      (*take)(void *context, int fd, const struct sockaddr_storage *from, socklen_t length);
    void       *context;
    pthread_t   thread;
    bool        running;
    atomic_bool listening;
};

static void *accept_run(void *p)
{
    struct acceptor *a = p;
    struct pollfd polls[2] = { { .fd = a->listener, .events = POLLIN }, { .fd = a->wake, .events = POLLIN } };
    while (atomic_load(&a->listening)) {
        if (poll(polls, 2, -1) < 0 && errno != EINTR) break;
        if (!(polls[0].revents & POLLIN)) continue;
        for (int burst = 0; burst < BURST && atomic_load(&a->listening); burst++) {
            struct sockaddr_storage from;
            socklen_t length = sizeof from;
            int one = 1, fd = accept4(a->listener, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                a->take(a->context, fd, &from, length);
                continue;
            }
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) usleep(PAUSE_US);      /* never a spin */
            break;
        }
    }
    return NULL;
}

static enum status listen_on(struct acceptor *a, const char *address, uint16_t port, struct err *err)
{
    struct sockaddr_storage to = { 0 };
    struct sockaddr_in *v4 = (struct sockaddr_in *)&to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&to;
    socklen_t length;
    int one = 1;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        to.ss_family = AF_INET;
        v4->sin_port = htons(port);
        length = sizeof *v4;
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        to.ss_family = AF_INET6;
        v6->sin6_port = htons(port);
        length = sizeof *v6;
    } else {
        return err_set(err, ST_BAD_INPUT, "'%s' is not a numeric IP address; 127.0.0.1 and ::1 are loopback, 0.0.0.0 and :: are every interface", address);
    }
    a->listener = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (a->listener < 0) return err_set(err, ST_INTERNAL, "no socket: %s", strerror(errno));
    setsockopt(a->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(a->listener, (struct sockaddr *)&to, length) || listen(a->listener, BACKLOG))
        return err_set(err, ST_UNAVAILABLE, "port %u of %s cannot be had: %s", port, address, strerror(errno));
    length = sizeof to;
    getsockname(a->listener, (struct sockaddr *)&to, &length);
    a->port = ntohs(to.ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
    return ST_OK;
}

enum status acceptor_open(struct acceptor **out, const char *thread_name, const char *address, uint16_t port,
                          void (*take)(void *, int, const struct sockaddr_storage *, socklen_t), void *context, struct err *err)
{
    struct acceptor *a = calloc(1, sizeof *a);
    if (!a) return err_set(err, ST_NO_MEMORY, "no memory for a listener");
    *a = (struct acceptor){ .listener = -1, .wake = -1, .thread_name = thread_name, .take = take, .context = context };
    enum status st = listen_on(a, address, port, err);
    if (!st && (a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) st = err_set(err, ST_INTERNAL, "no eventfd: %s", strerror(errno));
    if (st) {
        acceptor_free(a);
        return st;
    }
    atomic_store(&a->listening, true);
    *out = a;
    return ST_OK;
}

enum status acceptor_start(struct acceptor *a, struct err *err)
{
    enum status st = thread_start(&a->thread, a->thread_name, accept_run, a, err);
    a->running = !st;
    return st;
}

uint16_t acceptor_port(const struct acceptor *a) { return a->port; }

void acceptor_stop(struct acceptor *a)
{
    uint64_t one = 1;
    if (!atomic_exchange(&a->listening, false)) return;
    shutdown(a->listener, SHUT_RDWR);
    if (write(a->wake, &one, sizeof one) < 0) errno = 0;      /* already awake */
    if (a->running) pthread_join(a->thread, NULL);
    a->running = false;
    close(a->listener);
    a->listener = -1;
}

void acceptor_free(struct acceptor *a)
{
    if (!a) return;
    if (a->listener >= 0) close(a->listener);
    if (a->wake >= 0) close(a->wake);
    free(a);
}

void acceptor_map_address(struct in6_addr *out, const struct sockaddr_storage *a)
{
    *out = (struct in6_addr){ 0 };
    if (a->ss_family == AF_INET6) {
        *out = ((const struct sockaddr_in6 *)a)->sin6_addr;
    } else {
        out->s6_addr[10] = out->s6_addr[11] = 0xff;
        memcpy(out->s6_addr + 12, &((const struct sockaddr_in *)a)->sin_addr, 4);
    }
}

uint16_t acceptor_map_port(const struct sockaddr_storage *a)
{
    return ntohs(a->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port : ((const struct sockaddr_in *)a)->sin_port);
}
