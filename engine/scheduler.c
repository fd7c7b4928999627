/* The queue side of the step scheduler: who may wait, who is told, and when. Transports and the expiry thread come in here; the workers
 * (scheduler_worker.c) take from the other end. An event is always sent without the lock, by whoever won request_finish(). */
#include "engine/scheduler_internal.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/threads.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the queues ---- */

static void count_in(struct scheduler *s, struct request *r)
{
    if (!s->waiting) s->uniform = true, s->queue_key = r->ride_key;
    else if (r->ride_key != s->queue_key) s->uniform = false;
    s->waiting++;
    s->waiting_rows += r->rows;
    r->stage = REQUEST_WAITING;
    atomic_fetch_add_explicit(&s->stats.pending, 1, memory_order_relaxed);
}

void queue_append(struct scheduler *s, struct request *r, int queue)
{
    struct request_queue *q = &s->queues[queue];
    r->queue = queue;
    r->next = NULL;
    r->previous = q->last;
    if (q->last) q->last->next = r;
    else q->first = r;
    q->last = r;
    q->count++;
    count_in(s, r);
}

void queue_prepend(struct scheduler *s, struct request *r, int queue)
{
    struct request_queue *q = &s->queues[queue];
    r->queue = queue;
    r->previous = NULL;
    r->next = q->first;
    if (q->first) q->first->previous = r;
    else q->last = r;
    q->first = r;
    q->count++;
    count_in(s, r);
}

void queue_unlink(struct scheduler *s, struct request *r)
{
    struct request_queue *q = &s->queues[r->queue];
    if (r->previous) r->previous->next = r->next;
    else q->first = r->next;
    if (r->next) r->next->previous = r->previous;
    else q->last = r->previous;
    r->next = r->previous = NULL;
    q->count--;
    s->waiting--;
    s->waiting_rows -= r->rows;
    atomic_fetch_sub_explicit(&s->stats.pending, 1, memory_order_relaxed);
}

struct request *queue_head(const struct scheduler *s)
{
    for (int i = 0; i < QUEUE_COUNT; i++)
        if (s->queues[i].first) return s->queues[i].first;
    return NULL;
}

/* ---- telling ---- */

static void count_end(struct scheduler *s, struct request *r, const struct err *why, enum stats_failure kind, uint64_t now)
{
    struct stats *t = &s->stats;
    struct request_times *m = &r->times;
    if (why) {
        stats_add(&t->fail, now - m->queued);
        atomic_fetch_add_explicit(&t->failures[kind], 1, memory_order_relaxed);
        return;
    }
    stats_add(&t->success, now - m->queued);
    stats_add(&t->queue, m->taken - m->queued);
    stats_add(&t->compute_input, m->input_done - m->taken);
    stats_add(&t->compute_infer, m->infer_done - m->input_done);
    stats_add(&t->compute_output, m->output_done - m->infer_done);
    stats_observe(&t->stage[STAGE_QUEUE], m->taken - m->queued);
    stats_observe(&t->stage[STAGE_INPUT], m->input_done - m->taken);
    stats_observe(&t->stage[STAGE_COMPUTE], m->infer_done - m->input_done);
    stats_observe(&t->stage[STAGE_OUTPUT], m->output_done - m->infer_done);
    stats_observe(&t->stage[STAGE_TOTAL], now - m->queued);
    atomic_fetch_add_explicit(&t->inference_count, (uint64_t)r->rows, memory_order_relaxed);
    atomic_store_explicit(&t->last_inference_ms, clock_wall_ms(), memory_order_relaxed);
}

/* The request may be gone once its event was sent. */
static void tell(struct request *r, bool told_later)
{
    void (*told)(void *) = r->told;
    void *context = r->told_context;
    r->event(r, r->error.status ? EVENT_FAILED : EVENT_DONE);
    if (told && !told_later) told(context);
}

/* Hands out events from the head of the order list as far as it is over. Only one thread does at a time, so that the order holds;
 * another that finds it busy leaves its request for it. */
static void tell_in_order(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    if (!s->telling) {
        s->telling = true;
        while (s->order_first && s->order_first->stage == REQUEST_OVER) {
            struct request *r = s->order_first;
            s->order_first = r->order_next;
            if (!s->order_first) s->order_last = NULL;
            pthread_mutex_unlock(&s->lock);
            tell(r, false);      /* perhaps another worker's, which has handed out its step already */
            request_drop(r);
            pthread_mutex_lock(&s->lock);
        }
        s->telling = false;
    }
    pthread_mutex_unlock(&s->lock);
}

void scheduler_finish(struct scheduler *s, struct request *r, const struct err *why, enum stats_failure kind, bool told_later)
{
    if (!request_finish(r)) return;
    if (r->expires) expiry_disarm(s->expiry, r);
    count_end(s, r, why, kind, clock_ns());
    if (why) r->error = *why;
    if (!s->o.preserve_ordering) {
        tell(r, told_later);
        return;
    }
    pthread_mutex_lock(&s->lock);
    r->stage = REQUEST_OVER;
    pthread_mutex_unlock(&s->lock);
    tell_in_order(s);
}

/* ---- sequences ---- */

/* What a sequence (or a sweep) lets go enters the queue; what cannot is failed, which may let go more. Without the lock. */
static void queue_released(struct scheduler *s, struct request *ready)
{
    while (ready) {
        struct request *r = ready;
        struct err why = { 0 };
        ready = r->next;
        r->next = NULL;
        pthread_mutex_lock(&s->lock);
        enum status st = sequences_dispatch(s->sequences, r, &why);
        if (!st) st = s->ops->check(s->engine, r, &why);      /* the state's shape may have grown */
        if (!st) {
            queue_append(s, r, r->queue);
            scheduler_wake_worker(s);
        } else {
            r->stage = REQUEST_ENDING;
        }
        pthread_mutex_unlock(&s->lock);
        if (!st) continue;
        scheduler_finish(s, r, &why, FAILURE_BACKEND, false);
        scheduler_leave_sequence(s, r);
        request_drop(r);
    }
}

/* Nobody but us touches them until they are queued. With the lock. */
static struct request *take_released(struct scheduler *s, struct request *ready)
{
    for (struct request *r = ready; r; r = r->next) {
        r->stage = REQUEST_RELEASED;
        atomic_fetch_sub_explicit(&s->stats.pending, 1, memory_order_relaxed);      /* as held */
    }
    return ready;
}

/* `closing`: nothing idle is waited for any more. */
static void sweep_sequences(struct scheduler *s, bool closing)
{
    if (!s->sequences) return;
    pthread_mutex_lock(&s->lock);
    struct request *ready = take_released(s, sequences_sweep(s->sequences, clock_ns(), closing));
    pthread_mutex_unlock(&s->lock);
    queue_released(s, ready);
}

void scheduler_leave_sequence(struct scheduler *s, struct request *r)
{
    if (!s->sequences) return;
    pthread_mutex_lock(&s->lock);
    struct request *ready = take_released(s, sequences_leave(s->sequences, r, clock_ns()));
    const bool closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    queue_released(s, ready);
    if (closing) sweep_sequences(s, true);
}

/* ---- coming in ---- */

/* The earlier of two moments, of which 0 is none. */
static uint64_t earlier(uint64_t a, uint64_t b) { return !a || (b && b < a) ? b : a; }

/* True: answered from the cache, its event was sent. */
static bool answer_from_cache(struct scheduler *s, struct request *r)
{
    const uint64_t start = clock_ns();
    uint8_t *key = arena_alloc(&r->arena, DIGEST_BYTES, 1);
    if (!key) return false;
    response_cache_key(r, s->o.model_name, s->o.model_digest, key);
    if (!response_cache_find(s->o.cache, key, r)) {
        r->cache_key = key;
        stats_add(&s->stats.cache_miss, clock_ns() - start);
        return false;
    }
    const uint64_t now = clock_ns();
    r->times.queued = r->times.taken = r->times.input_done = start;
    r->times.infer_done = r->times.output_done = now;
    stats_add(&s->stats.cache_hit, now - start);
    stats_add(&s->stats.success, now - start);
    stats_observe(&s->stats.stage[STAGE_TOTAL], now - start);
    if (request_finish(r)) tell(r, false);
    return true;
}

static const struct queue_policy *policy_of(const struct scheduler *s, int level)
{
    return s->o.level_has_policy[level] ? &s->o.level_policy[level] : &s->o.policy;
}

static uint64_t forecast_ns(const struct scheduler *s, uint64_t now)
{
    /* The steps that what waits will take, spread over the workers, behind the one that is free first. */
    uint64_t first_free = UINT64_MAX;
    for (int i = 0; i < s->o.instances; i++) {
        uint64_t until = s->workers[i].state == WORKER_BUSY ? s->workers[i].busy_until_ns : 0;
        uint64_t wait = until > now ? until - now : 0;
        if (wait < first_free) first_free = wait;
    }
    double steps = (double)((s->waiting_rows + s->o.max_batch_rows - 1) / s->o.max_batch_rows);
    return first_free + (uint64_t)(steps * s->step_ns / s->o.instances);
}

static enum status may_enter(struct scheduler *s, struct request *r, const struct queue_policy *p, int level, uint64_t now, struct err *err)
{
    if (s->closing) return err_set(err, ST_UNAVAILABLE, "the model is being unloaded");
    uint32_t most = p->max_queue_size ? p->max_queue_size : SCHEDULER_QUEUE_DEFAULT;
    uint32_t here = p->max_queue_size ? s->queues[level].count : s->waiting;
    if (here >= most) return err_set(err, ST_UNAVAILABLE, "Exceeds maximum queue size");
    if (r->deadline_ns) {
        uint64_t wait = forecast_ns(s, now), need = wait + (uint64_t)s->step_ns;
        if (r->deadline_ns <= now || (s->step_ns > 0 && need > r->deadline_ns - now))
            return err_set(err, ST_UNAVAILABLE, "the deadline cannot be met: it is %lld ms away, the queue's forecast is %llu ms",
                           r->deadline_ns > now ? (long long)((r->deadline_ns - now) / 1000000) : 0LL, (unsigned long long)(need / 1000000));
    }
    return ST_OK;
}

/* Steps that wait for others. With the lock. */
static void wake_steps(struct scheduler *s)
{
    for (int i = 0; s->ops->wake && i < s->o.instances; i++)
        if (s->workers[i].instance) s->ops->wake(s->workers[i].instance);
}

void scheduler_wake_worker(struct scheduler *s)
{
    struct worker *idle = NULL;
    wake_steps(s);
    for (int i = 0; i < s->o.instances; i++) {
        struct worker *w = &s->workers[i];
        if (w->state == WORKER_GATHERING) {
            if (s->waiting_rows >= w->gather_rows) pthread_cond_signal(&w->wake);
            return;
        }
        if (w->state == WORKER_IDLE && !idle) idle = w;
    }
    if (!idle) return;
    idle->state = WORKER_BUSY;
    pthread_cond_signal(&idle->wake);
}

enum status scheduler_submit(struct scheduler *s, struct request *r, struct err *err)
{
    enum status st = s->sequences ? sequences_prepare(s->sequences, r, s->ops->describe(s->engine), err) : ST_OK;
    if (!st) st = s->ops->check(s->engine, r, err);
    if (st) return st;
    if (s->o.sequences.rows && s->sequences && r->rows != 1) return err_set(err, ST_BAD_INPUT, "a request of a sequence brings one row, not %lld", (long long)r->rows);
    if (r->rows > s->o.max_batch_rows)
        return err_set(err, ST_BAD_INPUT, "inference request batch-size must be <= %lld", (long long)s->o.max_batch_rows);
    uint32_t levels = s->o.priority_levels ? s->o.priority_levels : 1;
    uint32_t level = r->priority ? r->priority : s->o.default_priority ? s->o.default_priority : 1;
    if (level > levels) level = levels;
    const struct queue_policy *p = policy_of(s, (int)level - 1);
    uint64_t timeout_us = p->default_timeout_us;
    if (p->allow_timeout_override && r->queue_timeout_us && (!timeout_us || r->queue_timeout_us < timeout_us)) timeout_us = r->queue_timeout_us;

    r->scheduler = s;
    sweep_sequences(s, false);
    if (s->o.cache && answer_from_cache(s, r)) return ST_OK;
    pthread_mutex_lock(&s->lock);
    uint64_t now = clock_ns();
    bool ready = true;
    st = may_enter(s, r, p, (int)level - 1, now, err);
    if (!st && s->sequences) st = sequences_enter(s->sequences, r, now, &ready, err);
    if (st) {
        pthread_mutex_unlock(&s->lock);
        atomic_fetch_add_explicit(&s->stats.failures[FAILURE_REJECTED], 1, memory_order_relaxed);
        stats_add(&s->stats.fail, 0);
        return st;
    }
    request_hold(r);
    r->times.queued = now;
    r->queue_deadline_ns = timeout_us ? now + timeout_us * 1000 : 0;
    uint64_t look = earlier(r->deadline_ns, r->queue_deadline_ns);
    if (!ready) look = earlier(look, sequences_next_sweep(s->sequences));      /* room may come when an idle sequence ends */
    r->expires = look != 0;
    if (look && !expiry_arm(s->expiry, r, look)) {
        pthread_mutex_unlock(&s->lock);
        scheduler_leave_sequence(s, r);
        request_drop(r);
        return err_set(err, ST_NO_MEMORY, "no memory to keep the request's deadline");
    }
    if (s->o.preserve_ordering) {
        request_hold(r);
        r->order_next = NULL;
        if (s->order_last) s->order_last->order_next = r;
        else s->order_first = r;
        s->order_last = r;
    }
    r->queue = (int)level - 1;
    if (!s->sequences) {
        queue_append(s, r, r->queue);
        scheduler_wake_worker(s);
        pthread_mutex_unlock(&s->lock);
        return ST_OK;
    }
    r->stage = ready ? REQUEST_RELEASED : REQUEST_HELD;
    if (!ready) atomic_fetch_add_explicit(&s->stats.pending, 1, memory_order_relaxed);
    pthread_mutex_unlock(&s->lock);
    if (ready) r->next = NULL, queue_released(s, r);
    return ST_OK;
}

/* ---- going early ---- */

/* When nobody wants what a running step computes, the step may let go at its next node. With the lock. */
static void stop_unwanted_step(struct scheduler *s)
{
    for (int i = 0; i < s->o.instances; i++) {
        struct worker *w = &s->workers[i];
        bool wanted = w->step_count == 0;
        for (int k = 0; k < w->step_count && !wanted; k++) {
            struct request *r = w->step[k]->request;
            wanted = !atomic_load(&r->cancelled) && !atomic_load(&r->finished);
        }
        if (!wanted) atomic_store(&w->stop, true);
    }
    wake_steps(s);
}

/* Ends a waiting request for good; with the lock, which it releases. */
static void end_waiting(struct scheduler *s, struct request *r, enum status status, const char *text, enum stats_failure kind)
{
    struct err why;
    err_set(&why, status, "%s", text);
    if (r->stage == REQUEST_WAITING) queue_unlink(s, r);
    else atomic_fetch_sub_explicit(&s->stats.pending, 1, memory_order_relaxed);
    r->stage = REQUEST_ENDING;
    pthread_mutex_unlock(&s->lock);
    scheduler_finish(s, r, &why, kind, false);
    scheduler_leave_sequence(s, r);
    request_drop(r);
}

void scheduler_cancel(struct scheduler *s, struct request *r)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&r->cancelled, true);
    if (r->stage == REQUEST_WAITING || r->stage == REQUEST_HELD) {
        end_waiting(s, r, ST_CANCELLED, "the request was cancelled", FAILURE_CANCELED);
        return;
    }
    stop_unwanted_step(s);
    pthread_mutex_unlock(&s->lock);
}

void scheduler_expire(struct scheduler *s, struct request *r)
{
    uint64_t now = clock_ns();
    sweep_sequences(s, false);
    pthread_mutex_lock(&s->lock);
    bool held = r->stage == REQUEST_HELD, waiting = held || r->stage == REQUEST_WAITING;
    if (r->deadline_ns && now >= r->deadline_ns) {
        if (waiting) {
            end_waiting(s, r, ST_EXPIRED, "Request timeout expired", FAILURE_REJECTED);
            return;
        }
        bool riding = r->stage == REQUEST_RIDING;
        if (r->stage == REQUEST_RELEASED) expiry_arm(s->expiry, r, now + 1000000);      /* it is about to be queued */
        pthread_mutex_unlock(&s->lock);
        if (!riding) return;
        /* The answer does not wait for the step; the worker retires the slot at its next boundary. */
        struct err why;
        err_set(&why, ST_EXPIRED, "Request timeout expired");
        scheduler_finish(s, r, &why, FAILURE_OTHER, false);
        pthread_mutex_lock(&s->lock);
        stop_unwanted_step(s);
        pthread_mutex_unlock(&s->lock);
        return;
    }
    if (waiting && r->queue_deadline_ns && now >= r->queue_deadline_ns) {
        if (!policy_of(s, r->queue == QUEUE_DELAYED ? 0 : r->queue)->delay) {
            end_waiting(s, r, ST_EXPIRED, "Request timeout expired", FAILURE_REJECTED);
            return;
        }
        r->queue_deadline_ns = 0;
        if (held) r->queue = QUEUE_DELAYED;
        else queue_unlink(s, r), queue_append(s, r, QUEUE_DELAYED);
    }
    uint64_t look = waiting || r->stage == REQUEST_RIDING ? r->deadline_ns : 0;
    if (waiting) look = earlier(look, r->queue_deadline_ns);
    if (held) look = earlier(look, sequences_next_sweep(s->sequences));
    if (look) expiry_arm(s->expiry, r, look);
    pthread_mutex_unlock(&s->lock);
    if (atomic_load(&r->finished)) expiry_disarm(s->expiry, r);      /* it ended while it was out of the heap */
}

/* ---- life ---- */

struct stats *scheduler_stats(struct scheduler *s) { return &s->stats; }

uint32_t scheduler_waiting(const struct scheduler *s)
{
    return (uint32_t)atomic_load_explicit(&((struct scheduler *)s)->stats.pending, memory_order_relaxed);
}

bool scheduler_full(const struct scheduler *s)
{
    uint32_t most = s->o.policy.max_queue_size ? s->o.policy.max_queue_size : SCHEDULER_QUEUE_DEFAULT;
    return s->o.priority_levels <= 1 && scheduler_waiting(s) >= most;
}

uint64_t scheduler_forecast_ns(const struct scheduler *s)
{
    struct scheduler *m = (struct scheduler *)s;
    pthread_mutex_lock(&m->lock);
    uint64_t ns = forecast_ns(s, clock_ns());
    pthread_mutex_unlock(&m->lock);
    return ns;
}

static void scheduler_free(struct scheduler *s)
{
    for (int i = 0; s->workers && i < s->o.instances; i++) {
        rate_limiter_leave(s->o.limiter, s->workers[i].rate);
        pthread_cond_destroy(&s->workers[i].wake);
        free(s->workers[i].slots);
        free(s->workers[i].step);
        free(s->workers[i].taken);
    }
    sequences_close(s->sequences);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->started);
    free(s->workers);
    free(s);
}

static void stop_workers(struct scheduler *s)
{
    sweep_sequences(s, true);      /* what waits for an idle sequence to end has its turn */
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    for (int i = 0; i < s->o.instances; i++) pthread_cond_signal(&s->workers[i].wake);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->o.instances; i++)
        if (s->workers[i].started) pthread_join(s->workers[i].thread, NULL);
}

static bool worker_prepare(struct scheduler *s, int index)
{
    struct worker *w = &s->workers[index];
    condition_init(&w->wake);
    w->scheduler = s;
    w->index = index;
    w->slots = mem_calloc_array((uint64_t)s->slot_capacity, sizeof *w->slots);
    w->step = mem_calloc_array((uint64_t)s->slot_capacity, sizeof *w->step);
    w->taken = mem_calloc_array((uint64_t)s->slot_capacity, sizeof *w->taken);
    return w->slots && w->step && w->taken;
}

/* Each instance joins with what its group says it needs. */
static enum status join_limiter(struct scheduler *s, struct err *err)
{
    int claim = 0, of_claim = 0;
    enum status st = ST_OK;
    for (int i = 0; s->o.limiter && i < s->o.instances && !st; i++, of_claim++) {
        while (claim < s->o.claim_count && of_claim >= s->o.claims[claim].instances) claim++, of_claim = 0;
        if (claim < s->o.claim_count && s->o.claims[claim].need_count) st = rate_limiter_join(s->o.limiter, &s->o.claims[claim], &s->workers[i].rate, err);
    }
    s->o.claims = NULL;
    return st;
}

enum status scheduler_open(struct scheduler **out, const struct engine_ops *ops, struct engine *engine, const struct scheduler_options *options,
                           struct expiry *expiry, struct err *err)
{
    struct scheduler *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory for a scheduler");
    s->ops = ops;
    s->engine = engine;
    s->o = *options;
    s->expiry = expiry;
    if (s->o.max_batch_rows < 1) s->o.max_batch_rows = 1;
    if (s->o.instances < 1) s->o.instances = 1;
    if (s->o.priority_levels > SCHEDULER_PRIORITIES_MAX) s->o.priority_levels = SCHEDULER_PRIORITIES_MAX;
    s->slot_capacity = s->o.max_batch_rows < SLOTS_MAX ? (int)s->o.max_batch_rows : SLOTS_MAX;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->started, NULL);
    s->workers = mem_calloc_array((uint64_t)s->o.instances, sizeof *s->workers);
    if (s->o.sequences.on) s->sequences = sequences_open(&s->o.sequences);
    bool ready = s->workers != NULL && (s->sequences || !s->o.sequences.on);
    for (int i = 0; ready && i < s->o.instances; i++) ready = worker_prepare(s, i);
    if (!ready) {
        if (!s->workers) s->o.instances = 0;
        scheduler_free(s);
        return err_set(err, ST_NO_MEMORY, "no memory for %d workers", options->instances);
    }
    enum status st = join_limiter(s, err);
    pthread_mutex_lock(&s->lock);      /* no worker counts itself before all were started */
    for (int i = 0; i < s->o.instances && !st; i++) {
        char name[24];
        snprintf(name, sizeof name, "worker %d", i);
        st = thread_start(&s->workers[i].thread, name, scheduler_work, &s->workers[i], err);
        s->workers[i].started = !st;
        s->starting += !st;
    }
    while (s->starting > 0) pthread_cond_wait(&s->started, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (!st && s->start_error.status) {
        st = s->start_error.status;
        if (err) *err = s->start_error;
    }
    if (st) {
        stop_workers(s);
        scheduler_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void scheduler_close(struct scheduler *s)
{
    if (!s) return;
    stop_workers(s);
    expiry_quiesce(s->expiry, s);
    scheduler_free(s);
}
