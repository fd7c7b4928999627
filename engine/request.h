/* One request on its way through the house. A transport creates it, fills what was asked, and hands it to a scheduler; the scheduler
 * tells what happens through the event callback; the transport sends the answer and lets go.
 *
 * Owner rule (R31): a request is counted. The transport holds one reference; scheduler_submit takes another and drops it when no
 * step touches the request any more. Exactly one of EVENT_DONE and EVENT_FAILED is sent, by whoever wins request_finish():
 * the worker, or the expiry thread (the answer does not wait for the step). After a failure the engine may still be reading the inputs
 * and writing the outputs until its step ends, so a transport reads outputs only after EVENT_DONE. */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/tensor.h"

enum { REQUEST_TENSORS_MAX = 256 };        /* inputs, and outputs, of one request */

enum request_event { EVENT_PARTIAL, EVENT_DONE, EVENT_FAILED };

struct request_tensor { const char *name; struct tensor tensor; };

/* A value under `parameters` of the request. */
enum parameter_type { PARAMETER_BOOL, PARAMETER_INT, PARAMETER_DOUBLE, PARAMETER_STRING };
struct parameter { const char *name; enum parameter_type type; union { bool boolean; int64_t integer; double real; const char *text; }; };

/* Moments on CLOCK_MONOTONIC in ns, 0 until reached. */
struct request_times {
    uint64_t received;          /* first byte of the request known to us */
    uint64_t queued;            /* entered the queue */
    uint64_t taken;             /* left the queue: joined a batch */
    uint64_t input_done;        /* batch gathered */
    uint64_t infer_done;        /* step computed */
    uint64_t output_done;       /* outputs handed to the request */
};

struct text_job;
struct image_job;
struct signature;
struct port;
struct sequence_ride;

struct request {
    atomic_int references;
    atomic_int finished;                   /* 0, then 1 by the winner of request_finish */
    atomic_bool cancelled;                 /* set by scheduler_cancel; engines look at it at step boundaries */
    struct arena arena;                    /* everything below points here or into body */

    /* what was asked; the transport fills it, nobody changes it after scheduler_submit */
    const char *id;                        /* client's id, or "" */
    struct request_tensor *inputs;  int input_count;
    const char **wanted;            int wanted_count;     /* names of outputs; 0: all */
    const struct parameter *parameters; int parameter_count;
    struct text_job *text;                 /* what is asked of a language model (engine/text_job.h); NULL: tensors only */
    struct image_job *image;               /* what is asked of an engine of pictures (engine/image_job.h), or NULL */
    uint32_t    priority;                  /* 0: the model's default; 1 is highest */
    uint64_t    queue_timeout_us;          /* 0: the model's policy; bounds the time in the queue only */
    uint64_t    deadline_ns;               /* CLOCK_MONOTONIC; 0: none; bounds the whole request */

    /* filled by engine check: who may share a step with it */
    uint64_t    ride_key;                  /* equal keys may ride together */
    int64_t     rows;                      /* rows of the batch dimension; 1 for a model without one */
    uint64_t    cost;                      /* bytes it will hold at most */

    /* the answer */
    struct request_tensor *outputs; int output_count;     /* in the order of `wanted`, or of the signature; from request_output */
    struct request **kept; int kept_count; /* requests in whose memory outputs lie, one reference of each: dropped with the last of this one's. The array is the arena's */
    struct err  error;                     /* after EVENT_FAILED */
    struct request_times times;
    int64_t     batch_rows;                /* rows of the step that computed it */

    /* who is told. Called from a scheduler thread; must not block and must not call back into the scheduler. */
    void (*event)(struct request *r, enum request_event e);
    void  *event_context;
    void (*told)(void *told_context);      /* after the event, or once after all events of one step: a transport wakes its thread here. May be NULL */
    void  *told_context;                   /* outlives every request */
    void (*release)(struct request *r);    /* called when the last reference is dropped: the transport's own clean-up, arena included; may be NULL */

    /* scheduler's own; nobody else looks */
    struct request *next, *previous;       /* the queue it waits in */
    struct request *order_next;            /* preserve_ordering: the request that came after it */
    struct scheduler *scheduler;
    struct sequence_ride *ride;            /* of a model with sequences (sequences.c's own) */
    const uint8_t *cache_key;              /* [DIGEST_BYTES], where the answer is to be kept; NULL */
    uint64_t    queue_deadline_ns;         /* 0: none */
    uint64_t    expiry_ns;                 /* when the expiry thread will look at it; its key in the heap */
    int         heap_index;                /* -1: not in the heap */
    bool        expires;                   /* has been in the heap; constant once queued */
    int         queue;                     /* level queue it waits in; the last one holds what was delayed */
    int         stage;
};

/* Sets every field to its start, one reference, an arena of `arena_limit` bytes. */
void  request_init(struct request *r, uint64_t arena_limit);
void  request_hold(struct request *r);
/* Drops a reference. The last one calls `release`, which frees or recycles the arena with whatever the request is part of; without one it frees the arena. */
void  request_drop(struct request *r);
/* True for exactly one caller: it then sets outputs or error and sends the event. */
bool  request_finish(struct request *r);

/* The input of that name; NULL if it has none. */
const struct request_tensor *request_input(const struct request *r, const char *name);
/* The tensor of a port; of one that was left out its dtype is DT_ABSENT. */
const struct tensor *request_input_tensor(const struct request *r, const struct port *p);
/* Inputs and wanted outputs against what a model takes: names, dtypes, shapes, bytes. Fills ride_key, rows (of a batchable signature; else 1) and cost. */
enum status request_check_ports(struct request *r, const struct signature *s, struct err *err);

/* Reserves output number `index` (0..output_count-1; the array must exist) with memory from the request's arena, aligned to
 * TENSOR_ALIGN. ST_NO_MEMORY when the budget is spent. */
enum status request_output(struct request *r, int index, const char *name, enum dtype t, const int64_t *dims, int rank, struct err *err);

#endif
