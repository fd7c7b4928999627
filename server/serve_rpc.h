/* Between serve_rpc.c (calls) and serve_rpc_stream.c (streams of them). Everything here is for the call's own thread. */
#ifndef SERVER_SERVE_RPC_H
#define SERVER_SERVE_RPC_H

#include "server/server.h"

/* An exchange for the call, or for a message of it. NULL: no memory. */
struct exchange *serve_rpc_exchange(struct server *s, struct rpc_call *c, const struct rpc_method *m);
/* A ModelInferRequest: which model, what does it say; x is then ready for serve_rpc_submit. */
enum status serve_rpc_read_infer(struct exchange *x, const struct piece *pieces, int count, struct err *err);
/* Queues it; what it is refused for comes as exchange_refused. */
void        serve_rpc_submit(struct exchange *x);
/* The answer of an exchange that is over; of a text in a stream what has grown since. What it borrows is held: serve_rpc_release with the exchange lets go. */
enum status serve_rpc_write_infer(struct exchange *x, struct chain *out, struct err *err);
void        serve_rpc_release(void *exchange);
/* A message in one run of bytes: itself, or a copy in the arena. NULL: no memory. */
const uint8_t *serve_rpc_gather(struct arena *arena, const struct piece *pieces, int count, size_t *length);
/* The status that grpc.health.v1 has for the service that a HealthCheckRequest names; -1: there is no such service. */
int         serve_rpc_health(struct server *s, const uint8_t *request, size_t length);

/* Streams (serve_rpc_stream.c): the exchange is the stream's own. */
void        serve_rpc_stream_begin(struct exchange *x);
void        serve_rpc_stream_gone(struct exchange *x);      /* its client went away, or it ended: what is left of it is let go */

#endif
