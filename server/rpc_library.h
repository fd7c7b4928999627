/* What rpc.c (loops, the server's life), rpc_call.c (a call's life) and rpc_tls.c share: the only files that name the gRPC library. */
#ifndef SERVER_RPC_LIBRARY_H
#define SERVER_RPC_LIBRARY_H

#include <grpc/grpc.h>
#include <grpc/support/alloc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "server/rpc_internal.h"

enum { RPC_FAST_SLOTS = 128, RPC_SLOW_SLOTS = 16, RPC_LOOPS_MAX = 16, RPC_METHOD_BYTES = 128, RPC_PEER_BYTES = 64 };

/* What the library hands back when something is done. */
struct tag { void (*done)(struct rpc_call *c, bool ok); struct rpc_call *call; };

struct rpc_loop {
    struct rpc            *rpc;
    grpc_completion_queue *queue;
    grpc_channel          *nowhere;           /* for the call that wakes */
    grpc_call             *waker;
    struct tag             wake_tag;
    pthread_t              thread;
    bool                   running;
    atomic_bool            woken, stopping;
    atomic_uint            turns;             /* how often the thread went into the library and came back: odd while it is inside */
    unsigned               seen_turns;        /* the watch's own, as are the next two */
    uint64_t               seen_cpu_ns;
    bool                   suspected;
    int                    calls, waiting[2]; /* calls posted or begun, and those that wait to begin: by name, fast; the loop's own */
    pthread_mutex_t        lock;              /* guards the lists, and every *place of rpc_news */
    struct rpc_call       *suspended;
    struct rpc_call       *resumed_first, *resumed_last;
    struct rpc_call       *lookers;           /* streams that are to be asked again; the loop's own */
    struct rpc_call       *spare;             /* the loop's own */
    int                    spare_count;
};

struct rpc {
    grpc_server             *server;
    grpc_server_credentials *credentials;
    struct tls              *tls;             /* NULL: plain text */
    uint64_t                 tls_number;      /* of the identity that the library has; guarded by the library */
    struct fd_taker         *fd_taker;        /* within TLS: what takes our sockets over; the core's */
    void                    *fast;
    char                     fast_path[RPC_METHOD_BYTES];
    struct rpc_guard        *guard;
    struct rpc_handler       handler;
    struct log              *log;
    uint64_t                 message_max;
    struct rpc_loop          loops[RPC_LOOPS_MAX];
    int                      loop_count;
    atomic_uint              busy;
    struct tag               shutdown_tag;
    atomic_bool              listening, shut, watching;
    pthread_t                watch;
};

struct rpc_call {
    struct rpc          *rpc;
    struct rpc_loop     *loop;
    grpc_call           *call;
    grpc_call_details    details;             /* of a call by name */
    grpc_metadata_array  metadata;
    gpr_timespec         deadline;
    grpc_byte_buffer    *payload, *sent;
    struct tag           tag_new, tag_message, tag_close, tag_send;
    bool                 fast;
    struct piece        *pieces;              /* kept for the next message */
    int                  piece_room;
    int                  pending;             /* batches that the library has */
    void                *user;
    const struct rpc_stream *stream;
    bool                 answered, close_asked, metadata_sent, sending, reading, reads_no_more, packs;
    bool                 ending;              /* as soon as the message on its way is sent */
    bool                 is_suspended, resumed;     /* guarded by loop.lock */
    int                  cancelled;
    uint64_t             received_ns, suspended_ns, deadline_ns, answer_bytes;
    int                  code;
    char                 text[ERR_TEXT_MAX];
    char                 name[RPC_PEER_BYTES], peer[RPC_PEER_BYTES];      /* the peer as the library names it, and its address once it was asked for */
    grpc_metadata        headers[RPC_ANSWER_HEADERS_MAX + 1];
    int                  header_count;
    void               (*release)(void *owner);
    void                *owner;
    bool                 looks;               /* it is in loop.lookers */
    struct rpc_call     *next_looker;
    struct rpc_call     *next, *previous;     /* in loop.suspended, .resumed or .spare */
};

/* ---- rpc_tls.c ---- */
grpc_arg    rpc_tls_arg(struct rpc *s);                             /* of the server; harmless without TLS */
enum status rpc_tls_open(struct rpc *s, struct err *err);           /* before the server starts */
void        rpc_tls_adopt(struct rpc *s, int fd);

/* ---- rpc_call.c; the loop's thread ---- */
/* Lets the library have as many calls to begin as it may. */
void rpc_call_post(struct rpc_loop *l);
/* Asks a stream for what it has, while the client takes it. */
void rpc_call_pump(struct rpc_call *c);
/* Has the library tell when the client of a waiting call goes away. */
void rpc_call_watch(struct rpc_call *c);
void rpc_call_free_spare(struct rpc_loop *l);

#endif
