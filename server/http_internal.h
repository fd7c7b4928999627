/* Between http.c (the library) and http_guard.c (accept, limits, time). */
#ifndef SERVER_HTTP_INTERNAL_H
#define SERVER_HTTP_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "server/http.h"

enum connection_phase { PHASE_CLOSED, PHASE_HEADERS /* waiting for a request or in the middle of its headers */, PHASE_BODY, PHASE_WORK, PHASE_SEND };

/* One for each file descriptor the process may have; the guard's watcher reads what the listener writes. */
struct http_connection {
    atomic_int           phase;
    atomic_uint_fast64_t since_ns;        /* when the phase began */
    atomic_uint_fast64_t body_bytes;
    atomic_bool          fresh;           /* no request yet on this connection */
    atomic_uint          generation;      /* counts the connections that had this descriptor */
    struct in6_addr      address;         /* IPv4 as mapped */
    /* watcher's own */
    unsigned             seen_generation;
    uint64_t             seen_phase_ns, seen_bytes, moved_ns;
    bool                 shut;            /* we shut it down already */
};

struct http_guard;

enum status http_guard_open(struct http_guard **out, struct http *h, const char *address, uint16_t port, const struct http_options *options, struct log *log, struct err *err);
enum status http_guard_start(struct http_guard *g, struct err *err);      /* when the library is ready to adopt */
uint16_t    http_guard_port(const struct http_guard *g);
uint32_t    http_guard_connections(const struct http_guard *g);
void        http_guard_stop_listening(struct http_guard *g);
void        http_guard_stop(struct http_guard *g);        /* joins the threads; connections may still close afterwards */
void        http_guard_free(struct http_guard *g);
struct http_connection *http_guard_connection(struct http_guard *g, int fd);
void        http_guard_phase(struct http_guard *g, int fd, enum connection_phase phase);
void        http_guard_closed(struct http_guard *g, int fd);

/* http.c's side: takes a connected socket over, which the loop will give to the library (or close, and say so to http_guard_closed); false: no memory, it is still the caller's. */
bool        http_adopt(struct http *h, int fd, const struct sockaddr *address, socklen_t length);
/* Tells `gone` for suspended calls whose peer has closed. Returns how many calls are suspended. */
int         http_look_for_gone(struct http *h, uint64_t now_ns);

#endif
