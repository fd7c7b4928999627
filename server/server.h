/* The process: what its parts share, and the exchange that carries one request down the walk and back, over HTTP or gRPC. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "api/oip_infer.h"
#include "api/openai.h"
#include "api/openai_images.h"
#include "api/routes.h"
#include "api/rpcs.h"
#include "base/log.h"
#include "model_store/inspector.h"
#include "model_store/registry.h"
#include "monitor/trace.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/http.h"
#include "server/jobs.h"
#include "server/rpc.h"
#include "server/tls.h"

enum { MODEL_VERSIONS_MAX = 1024, EXCHANGES_KEPT = 1024 };

struct server;
struct exchange;
struct json;

struct listener { struct server *server; bool metrics_only; struct http *http; };

struct server {
    const struct server_config *config;
    struct log        *log;
    struct auth       *auth;
    struct tls        *tls;                 /* NULL: plain text */
    struct registry   *registry;
    struct expiry     *expiry;
    struct response_cache *cache;
    struct rate_limiter *limiter;           /* NULL: none */
    struct tracer     *tracer;
    struct signers    *signers;
    struct regions    *regions;             /* shared memory that clients registered; NULL: not allowed */
    struct inspector  *inspector;
    struct jobs       *jobs;
    struct listener    main_listener, metrics_listener;
    struct rpc        *rpc;                 /* NULL: no gRPC */
    atomic_uint        in_streams;          /* requests within gRPC streams */
    bool               loopback;            /* every listener is on a loopback address */
    uint64_t           start_wall_ms;
    atomic_bool        draining;            /* not ready any more */
    atomic_bool        closing;             /* answers close their connections */
    atomic_bool        stopping;            /* nothing new is begun */
    atomic_bool        drain_asked;         /* POST /admin/drain */
    atomic_uint        verbose_level;
    atomic_uint_fast64_t served;            /* calls that have ended */
    const char        *cpu_level;
    pthread_mutex_t    spare_lock;          /* guards the spare exchanges */
    struct exchange   *spare;
    int                spare_count;
};

/* What an exchange has when it asks for pictures (serve_images.c). */
struct image_exchange {
    struct images_ask ask;
    const char       *content_type, *body;
    pthread_mutex_t   lock;                 /* guards `complete` and the exchange's `answer` while a stream grows; exists always */
    bool              complete;             /* the last event is in the answer */
    atomic_bool       encoded;              /* the whole answer is there */
    atomic_bool       working;              /* a job makes events */
    atomic_uint       news;                 /* events of the request so far */
};

/* What an exchange has that is a gRPC stream itself (serve_rpc_stream.c). The loop's own. */
struct stream_exchange {
    bool             begun;
    struct exchange *first;                 /* its requests that are not answered yet */
    int              count;
    bool             read_all, paused;      /* the client will send no more; we read no more for now */
    bool             errors_end;            /* an error is the stream's status and ends it, instead of a message */
    int              told;                  /* health: the status that was told last, -1 none */
    bool             has_answer;            /* reflection: `answer` is to be sent; health: it holds the question */
};

/* One request, from its headers to the end of its answer. Its struct request is what the scheduler sees; the last reference to that
 * recycles the whole. */
struct exchange {
    struct request        request;          /* first: a request is its exchange */
    struct server        *server;
    struct listener      *listener;
    struct http_call     *call;             /* over HTTP; NULL once it ended */
    struct rpc_loop      *loop;             /* over gRPC: the thread, and the call (of a stream: guarded by the loop, NULL once it ended) */
    struct rpc_call      *rpc;
    const struct rpc_method *method;
    bool                  in_stream;        /* one of many requests of a ModelStreamInfer */
    atomic_bool           left;             /* its stream has ended: a job need not queue it any more */
    bool                  final_wanted;     /* in a stream: an empty last response too */
    struct exchange      *next_in_stream;
    struct stream_exchange stream;          /* of a call that streams */
    struct route_match    route;
    char                  who[AUTH_NAME_MAX];
    struct model_version *pin;
    struct infer_ask      ask;
    struct openai_ask     text;             /* of a language model's routes */
    struct image_exchange image;            /* of the routes of pictures */
    atomic_bool           over;             /* its last event came */
    atomic_bool           in_job;           /* a job thread reads its question: there is nothing to cancel yet */
    int64_t               classes;          /* classify */
    void                 *body_base;        /* memory of the body, where the tensors are */
    size_t                body_length;      /* of a text route's body */
    struct json          *question;         /* its tree */
    struct upload        *upload;
    struct trace_context  trace;            /* what the client says of the trace it is in */
    struct err            error;            /* of what was done before or beside the scheduler */
    struct buf            answer;           /* JSON made by a job */
    int                   answer_status;
    void                (*job)(struct exchange *x);      /* what jobs are to do with it */
    struct exchange      *next_spare;
};

/* The handler of a listener (serve.c). */
struct http_handler serve_handler(struct listener *l);
struct rpc_handler serve_rpc_handler(struct server *s);      /* serve_rpc.c */

/* ---- exchange.c: what both transports share ---- */
/* Counted by its request: request_drop ends it. NULL: no memory. The caller sets call, or loop, rpc and method, and who is told. */
struct exchange *exchange_new(struct server *s, uint64_t received_ns);
void        exchange_suspend(struct exchange *x);
void        exchange_resume(struct exchange *x);      /* any thread */
/* Pins the route's model; ST_UNAVAILABLE too when its queue is full. */
enum status exchange_pin(struct exchange *x, struct err *err);
/* Queues the request. What it was refused for is in x->error: then no event will come. */
enum status exchange_submit(struct exchange *x);
/* A suspended exchange, or one in a stream, got x->error instead of being queued. Any thread. */
void        exchange_refused(struct exchange *x);
void        exchange_cancel(struct exchange *x);      /* its client went away */
void        exchange_ended(struct exchange *x, bool sent);      /* its answer was sent, or its client lost: counts, settles, logs */
/* Gives back the exchanges that are kept for the next requests. Any thread. */
void serve_trim(struct server *s);

/* Answers `x` with an error in the route's dialect. Listener's thread, as are the others. */
void serve_error(struct exchange *x, const struct err *e);
/* Over gRPC the JSON becomes the method's message. */
void serve_json(struct exchange *x, int status, struct buf *body);
void serve_rpc_json(struct exchange *x, struct buf *body);      /* serve_rpc.c */
/* Yes or no: a status over HTTP, the field `name` over gRPC. */
void serve_flag(struct exchange *x, const char *name, bool value);
/* The headers that name the model, version and digest an answer came from. */
void serve_name_model(struct exchange *x);
/* The body as it was meant: expanded when it came compressed. The exchange owns its memory from here on. */
enum status serve_take_body(struct exchange *x, const char **body, size_t *length, struct err *err);
enum status serve_read_deadline(struct exchange *x, struct err *err);
/* The body as one JSON object in the request's arena; an empty body is an empty object. */
enum status serve_read_object(struct exchange *x, struct json **out, struct err *err);
/* Runs x->job on a job thread; the answer is made from x->error and x->answer when it is done. */
void serve_in_job(struct exchange *x, void (*job)(struct exchange *x));

bool serve_is_ready(struct server *s);

/* Routes that need no scheduler: serve_model.c, serve_admin.c. True when the route was theirs. */
bool serve_model_route(struct exchange *x);
bool serve_admin_route(struct exchange *x);
/* Routes of system shared memory (serve_regions.c). */
void serve_regions(struct exchange *x);
/* Routes of language models (serve_text.c): true when the route was theirs. serve_text_resume: after an event. */
bool serve_text_route(struct exchange *x);
void serve_text_resume(struct exchange *x);
/* Reads the suspended exchange's x->question, whose model is pinned, and queues it; on a job thread when that takes time. */
void serve_text_submit(struct exchange *x);
/* Routes of pictures (serve_images.c). serve_images_event: from a worker's thread. */
bool serve_images_route(struct exchange *x);
void serve_images_event(struct exchange *x, enum request_event e);
void serve_images_resume(struct exchange *x);
void serve_upload_begin(struct exchange *x);

#endif
