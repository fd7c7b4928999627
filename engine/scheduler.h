/* The step scheduler: one for every model version, one queue, one worker thread for each instance. It never asks what an engine computes.
 * At each step boundary a worker drops what was cancelled or has expired, admits what waits by priority and age while there is room,
 * and steps everything in flight together. An idle worker takes what is there at once; max_queue_delay_us only makes it
 * wait for riders when the queue holds fewer rows than a preferred size. */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "engine/rate_limiter.h"
#include "engine/sequences.h"
#include "engine/stats.h"

struct response_cache;

enum { SCHEDULER_PREFERRED_MAX = 32, SCHEDULER_PRIORITIES_MAX = 64, SCHEDULER_QUEUE_DEFAULT = 4096 };

/* Triton's ModelQueuePolicy. */
struct queue_policy {
    bool     delay;                        /* after the timeout: DELAY (serve when nothing else waits) instead of REJECT */
    uint64_t default_timeout_us;           /* 0: none */
    bool     allow_timeout_override;       /* a request may shorten it */
    uint32_t max_queue_size;               /* 0: SCHEDULER_QUEUE_DEFAULT for the whole queue */
};

struct scheduler_options {
    int64_t  max_batch_rows;               /* 1: no batching */
    bool     dynamic_batching;             /* false: every step takes one request (multi-step engines: joins still happen) */
    int64_t  preferred[SCHEDULER_PREFERRED_MAX]; int preferred_count;
    uint64_t max_queue_delay_us;
    bool     preserve_ordering;            /* answers leave in the order in which requests came */
    uint32_t priority_levels;              /* 0: one level */
    uint32_t default_priority;             /* 1..priority_levels */
    struct queue_policy policy;                                  /* of every level without its own */
    struct queue_policy level_policy[SCHEDULER_PRIORITIES_MAX];  /* index level - 1 */
    bool     level_has_policy[SCHEDULER_PRIORITIES_MAX];
    struct sequence_plan sequences;        /* on: requests belong to sequences */
    struct response_cache *cache;          /* answers are kept there and found there again; NULL: none */
    const char *model_name, *model_digest; /* whose answers, for the cache */
    struct rate_limiter *limiter;          /* over all models; NULL: whoever has work computes */
    const struct rate_claim *claims; int claim_count;      /* what its instances need, in their order; borrowed while it opens */
    int      instances;                    /* workers, >= 1 */
    int      threads;                      /* cores of each worker */
    int      first_cpu;                    /* index into threads_cpu(): where worker 0 is pinned; -1: not pinned */
};

/* The thread that fails requests at their deadline the moment it passes. One for the process. */
struct expiry;
enum status expiry_open(struct expiry **out, struct err *err);
void        expiry_close(struct expiry *e);         /* after every scheduler was closed */

struct scheduler;

/* Starts the workers and waits until each instance has started. ops and engine are borrowed until scheduler_close. */
enum status scheduler_open(struct scheduler **out, const struct engine_ops *ops, struct engine *engine, const struct scheduler_options *options,
                           struct expiry *expiry, struct err *err);

/* Checks and queues. ST_OK: r->event will be called exactly once with DONE or FAILED (perhaps before this returns). Anything else:
 * refused, no event, the caller keeps the only reference. ST_UNAVAILABLE: queue full, closing, or the deadline cannot be met by the queue's forecast. */
enum status scheduler_submit(struct scheduler *s, struct request *r, struct err *err);

/* The client went away or asked to stop: fails with ST_CANCELLED at once where it waits, at the next step boundary where it rides. Any thread; harmless when the request is finished. */
void scheduler_cancel(struct scheduler *s, struct request *r);

/* Refuses what comes from now on, finishes what was accepted, then stops the workers. */
void scheduler_close(struct scheduler *s);

struct stats *scheduler_stats(struct scheduler *s);      /* lives as long as the scheduler */
/* Would a request of default priority be refused now for want of room? A hint to refuse early; scheduler_submit decides. */
bool          scheduler_full(const struct scheduler *s);
uint32_t      scheduler_waiting(const struct scheduler *s);
uint64_t      scheduler_forecast_ns(const struct scheduler *s);   /* how long a request that came now would wait */

#endif
