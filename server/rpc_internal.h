/* Between rpc.c (the library) and rpc_guard.c (accept, limits); no name of the library. */
#ifndef SERVER_RPC_INTERNAL_H
#define SERVER_RPC_INTERNAL_H

#include "server/rpc.h"

struct rpc_guard;

enum { RPC_PREFACE_BYTES = 24 };                    /* "PRI * HTTP/2.0...", what a client says first: no frame */

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
/* A flood: mark remembers what each connection has sent so far, end_busiest shuts down the one that has sent most since, if any has sent much: frames in plain text, where a large message is few of them,
 * bytes within TLS. */
void        rpc_guard_mark(struct rpc_guard *g);
void        rpc_guard_end_busiest(struct rpc_guard *g);
/* The numeric address behind the peer's name. */
void        rpc_guard_address(struct rpc_guard *g, const char *peer, char *out, size_t size);

/* ---- rpc_reads.c: what the library reads, before it sees it ---- */

/* Once, before the first connection: descriptors below fd_max can be watched. */
enum status rpc_reads_open(int fd_max, struct err *err);
/* A new connection in plain text, before the library has it: more than RPC_RESETS_MAX RST_STREAM frames within RPC_RESETS_MS end it at that very frame, with GOAWAY (ENHANCE_YOUR_CALM). */
void        rpc_reads_watch(int fd);
void        rpc_reads_forget(int fd);               /* it closed */
uint64_t    rpc_reads_frames(int fd);               /* that have come so far; 0 where it is not watched */

#endif
