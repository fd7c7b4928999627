/* One gRPC listener over the C core: completion queues with one thread each. rpc.c, rpc_call.c and rpc_tls.c are the only files that name the library; rpc_guard.c accepts, counts and
 * closes connections by our own limits (R8, R9), since the library's listener never listens again once descriptors ran out and it does not mind a client
 * that resets its streams for ever.
 *
 * A unary call goes begin -> message -> [rpc_suspend ... rpc_resume -> resume] -> rpc_answer -> end. A streaming call says rpc_answer_stream in begin: then its
 * messages come to `take` and its answers are asked of `more`, one at a time, whenever the client takes one. All callbacks run on the call's own thread;
 * a call's functions below are for that thread unless they say otherwise. */
#ifndef SERVER_RPC_H
#define SERVER_RPC_H

#include "base/chain.h"
#include "base/err.h"
#include "base/log.h"

enum {
    RPC_METADATA_MAX = 16 << 10, RPC_STREAMS_MAX = 128, RPC_CONNECTIONS_MAX = 2500, RPC_ANSWER_HEADERS_MAX = 4, RPC_IDLE_MS = 300000, RPC_HANDSHAKE_MS = 10000,
    RPC_STALL_MS = 10000, RPC_UNREAD_MS = 30000,      /* bytes that a connection's client does not take, or that the library does not */
    RPC_RESETS_MAX = 200, RPC_RESETS_MS = 10000,
    RPC_FD_SHARE = 5                  /* one descriptor in five may be a gRPC connection, the others are for HTTP and files */
};

struct rpc;
struct rpc_call;
struct tls;

enum rpc_next { RPC_MORE /* *out holds a message */, RPC_WAIT /* until rpc_news */, RPC_END /* rpc_end_stream was called */ };

struct rpc_handler {
    void *context;
    /* Method and metadata are in. May answer (then no message is read) or say rpc_answer_stream. */
    void (*begin)(void *context, struct rpc_call *c);
    /* The message of a unary call is in; the pieces live until this returns. Must answer, or suspend and later resume. */
    void (*message)(void *context, struct rpc_call *c, const struct piece *pieces, int count);
    /* After rpc_resume: must answer. */
    void (*resume)(void *context, struct rpc_call *c);
    /* The client went away or its deadline has passed: stop the work; who suspended still resumes. */
    void (*gone)(void *context, struct rpc_call *c);
    /* The last callback of a call, once for every begin. `sent`: the client was there to the end. */
    void (*end)(void *context, struct rpc_call *c, bool sent);
};

struct rpc_stream {
    /* A message of the client; count -1: there will be none any more. False: read no further until rpc_read_on. */
    bool (*take)(void *context, struct rpc_call *c, const struct piece *pieces, int count);
    /* The client takes another message. */
    enum rpc_next (*more)(void *context, struct rpc_call *c, struct chain *out);
};

struct rpc_options {
    const char *host;
    uint16_t    port;                    /* 0: a free one */
    uint32_t    connections_max, per_address_max;      /* 0: RPC_CONNECTIONS_MAX; 0: no limit */
    uint64_t    message_max;
    const char *fast_method;             /* the unary method that most calls are for: its message is read with the call */
    int         threads;
    struct tls *tls;                     /* NULL: plain text */
};

/* How many descriptors a listener may take for connections, when it is asked for `connections_max`. */
uint32_t    rpc_fds_wanted(uint32_t connections_max);
enum status rpc_open(struct rpc **out, const struct rpc_options *o, const struct rpc_handler *handler, struct log *log, struct err *err);
uint16_t    rpc_port(const struct rpc *s);
uint32_t    rpc_connections(const struct rpc *s);
uint32_t    rpc_busy(const struct rpc *s);              /* unary calls between begin and end */
void        rpc_stop_listening(struct rpc *s);          /* no new connections, no new calls; what was begun is finished */
void        rpc_stop(struct rpc *s);                    /* cancels what is left and ends its threads; no call may be suspended any more. NULL is allowed */
void        rpc_free(struct rpc *s);                    /* after rpc_stop, when no other thread can be inside rpc_resume or rpc_news any more */

/* ---- a call ---- */
const char *rpc_method_path(const struct rpc_call *c, size_t *length);                      /* "/package.Service/Method" */
bool        rpc_metadata(const struct rpc_call *c, const char *name, char *out, size_t size);      /* false: absent or longer than `size` */
const char *rpc_peer(struct rpc_call *c);                                                   /* numeric address */
uint64_t    rpc_received_ns(const struct rpc_call *c);
uint64_t    rpc_deadline_ns(const struct rpc_call *c);                                      /* CLOCK_MONOTONIC; 0: none */
void       *rpc_user(const struct rpc_call *c);
void        rpc_set_user(struct rpc_call *c, void *user);

/* Initial metadata of the answer; the name must be a constant, the value is copied. */
void        rpc_answer_header(struct rpc_call *c, const char *name, const char *value);
/* Ends a unary call: code 0 and the message, whose head is taken over, or another code and a text. What the chain borrows lives until release(owner) was
 * called, once for each borrowed piece, on any thread. */
void        rpc_answer(struct rpc_call *c, int code, const char *text, struct chain *message, void (*release)(void *owner), void *owner);
int         rpc_answer_code(const struct rpc_call *c);
uint64_t    rpc_answer_bytes(const struct rpc_call *c);

void        rpc_answer_stream(struct rpc_call *c, const struct rpc_stream *stream);         /* in begin; `stream` is a constant */
/* The owner of what the next message borrows, as in rpc_answer. Within `more`. */
void        rpc_stream_lend(struct rpc_call *c, void (*release)(void *owner), void *owner);
void        rpc_end_stream(struct rpc_call *c, int code, const char *text);                 /* before `more` returns RPC_END */
void        rpc_read_on(struct rpc_call *c);
void        rpc_look_again(struct rpc_call *c);         /* within `more`, before RPC_WAIT: it is asked again in a while, without news */

/* ---- waiting ---- */
void        rpc_suspend(struct rpc_call *c);            /* before the work is handed to anybody who may resume */
void        rpc_resume_later(struct rpc_call *c);       /* nobody looks before the next rpc_wake of the call's loop. Any thread, once for each suspend */
void        rpc_resume(struct rpc_call *c);             /* both. Any thread */
/* A thread's loop: what rpc_wake wakes. It outlives its calls. */
struct rpc_loop;
struct rpc_loop *rpc_loop_of(const struct rpc_call *c);
void        rpc_wake(struct rpc_loop *l);               /* any thread */
/* There is news for the stream at *place. Does nothing when *place is NULL: only rpc_forget may clear it. Any thread. */
void        rpc_news(struct rpc_loop *l, struct rpc_call *const *place);
void        rpc_forget(struct rpc_loop *l, struct rpc_call **place);

#endif
