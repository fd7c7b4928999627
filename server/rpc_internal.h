/* Between rpc.c (the library) and rpc_guard.c (accept, limits); no name of the library. */
#ifndef SERVER_RPC_INTERNAL_H
#define SERVER_RPC_INTERNAL_H

#include "server/rpc.h"

struct rpc_guard;

/* `adopt` hands a connected socket to the library, which owns it from then on. It runs on the acceptor's thread. */
enum status rpc_guard_open(struct rpc_guard **out, const struct rpc_options *o, void (*adopt)(void *context, int fd), void *context, struct log *log, struct err *err);
enum status rpc_guard_start(struct rpc_guard *g, struct err *err);
uint16_t    rpc_guard_port(const struct rpc_guard *g);
uint32_t    rpc_guard_connections(const struct rpc_guard *g);
void        rpc_guard_stop(struct rpc_guard *g);        /* no new connections */
void        rpc_guard_free(struct rpc_guard *g);        /* NULL is allowed */
/* Looks for connections that closed, that never said a word, and on which nothing moves. Now and then, from any thread. */
void        rpc_guard_tick(struct rpc_guard *g);
/* A call of this peer ("fd:17" as the library names it, or "ipv4:127.0.0.1:4711" within TLS) was reset: too many of them in a short time and its connection is shut down. */
void        rpc_guard_reset(struct rpc_guard *g, const char *peer);
/* A flood: mark remembers what each connection has sent so far, end_busiest shuts down the one that has sent most since, if any has sent much. */
void        rpc_guard_mark(struct rpc_guard *g);
void        rpc_guard_end_busiest(struct rpc_guard *g);
/* The numeric address behind the peer's name. */
void        rpc_guard_address(struct rpc_guard *g, const char *peer, char *out, size_t size);

#endif
