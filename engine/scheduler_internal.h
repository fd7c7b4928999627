/* Shared by scheduler.c (the queue: submit, cancel, expire, finish) and scheduler_worker.c (who rides together, the step loop). */
#ifndef ENGINE_SCHEDULER_INTERNAL_H
#define ENGINE_SCHEDULER_INTERNAL_H

#include <pthread.h>

#include "engine/expiry.h"
#include "engine/response_cache.h"

enum { QUEUE_DELAYED = SCHEDULER_PRIORITIES_MAX, QUEUE_COUNT, SLOTS_MAX = 4096 };

/* A rider's stage stays RIDING; `finished` is what tells that it is over. OVER is used under preserve_ordering only: finished, waits for its turn to be told. */
enum request_stage { REQUEST_NEW, REQUEST_HELD /* behind others of its sequence */, REQUEST_RELEASED /* on its way from there to the queue */, REQUEST_WAITING, REQUEST_RIDING, REQUEST_ENDING /* left the queue to fail */, REQUEST_OVER };

struct request_queue { struct request *first, *last; uint32_t count; };

enum worker_state { WORKER_BUSY, WORKER_IDLE, WORKER_GATHERING };

struct worker {
    struct scheduler       *scheduler;
    int                     index;
    pthread_t               thread;
    bool                    started;
    pthread_cond_t          wake;          /* with the scheduler's lock */
    enum worker_state       state;         /* guarded by the scheduler's lock */
    int64_t                 gather_rows;   /* GATHERING: wake it when this many rows wait */
    struct engine_instance *instance;
    struct rate_member     *rate;          /* NULL: it needs no turn */
    enum { TURN_NONE, TURN_FRESH, TURN_USED } turn;      /* the worker's own */
    struct slot           **slots;         /* in flight [slot_count]; the worker writes, others read under the lock */
    int                     slot_count;
    int64_t                 slot_rows;
    struct slot           **step;          /* of the step that runs [step_count], guarded as slots */
    int                     step_count;
    atomic_bool             stop;          /* handed to the engine: nobody wants this step any more */
    struct request        **taken;         /* scratch of one admission round [slot_capacity] */
    uint64_t                busy_until_ns; /* forecast: when the step that runs will end */
};

struct scheduler {
    const struct engine_ops *ops;
    struct engine           *engine;
    struct scheduler_options o;
    struct expiry           *expiry;
    struct stats             stats;
    int                      slot_capacity;
    struct sequences        *sequences;    /* NULL: requests stand alone; its content is guarded by the lock */

    pthread_mutex_t      lock;             /* guards everything below, the workers' states, and the stage of each request */
    struct request_queue queues[QUEUE_COUNT];
    int64_t              waiting_rows;
    uint32_t             waiting;
    uint64_t             queue_key;        /* the one ride_key that waits, while `uniform` */
    bool                 uniform;
    bool                 closing;
    int                  starting;         /* instances that have not said yet whether they started */
    struct err           start_error;
    pthread_cond_t       started;
    struct request      *order_first, *order_last;   /* preserve_ordering: accepted and not yet told */
    bool                 telling;          /* somebody hands out events in order */
    double               step_ns;          /* moving average of a step's duration */
    struct worker       *workers;
};

/* Ends a request: the winner of request_finish counts it and its event is sent (in order, if that was asked). `why` NULL: done.
 * Without the lock. Drops no reference. `told_later`: the caller calls request.told when it has ended others, too. */
void scheduler_finish(struct scheduler *s, struct request *r, const struct err *why, enum stats_failure kind, bool told_later);

/* Before a request is dropped for good: what waited for it in its sequence goes on. Without the lock. */
void scheduler_leave_sequence(struct scheduler *s, struct request *r);

/* Queue operations, with the lock. */
void queue_append(struct scheduler *s, struct request *r, int queue);
void queue_prepend(struct scheduler *s, struct request *r, int queue);
void queue_unlink(struct scheduler *s, struct request *r);
struct request *queue_head(const struct scheduler *s);     /* most urgent, oldest; NULL when nothing waits */

/* Wakes a worker that gathers and has enough now, else an idle one. With the lock. */
void scheduler_wake_worker(struct scheduler *s);

void *scheduler_work(void *worker);        /* body of a worker's thread */

#endif
