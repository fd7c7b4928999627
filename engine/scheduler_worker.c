/* The worker side: one thread, one instance. Parent decides (who rides), the engine computes. The loop is a row of boundaries: drop what nobody
 * wants, admit what fits, step one group of equal ride_key, hand out what is done. */
#include "engine/scheduler_internal.h"

#include "base/clock.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <string.h>

/* Rows of `key` that wait; exact up to `enough`. With the lock. */
static int64_t rows_waiting(const struct scheduler *s, uint64_t key, int64_t enough)
{
    if (s->uniform) return s->queue_key == key ? s->waiting_rows : 0;
    int64_t rows = 0;
    for (int q = 0; q < QUEUE_COUNT; q++)
        for (const struct request *r = s->queues[q].first; r && rows < enough; r = r->next)
            if (r->ride_key == key) rows += r->rows;
    return rows;
}

/* How many rows to take now; 0: wait for riders until *until. Triton's rule: a preferred size that can be formed goes at once, the largest
 * first; otherwise the oldest waits at most max_queue_delay_us for company, then everything goes. With the lock. */
static int64_t rows_to_take(const struct scheduler *s, const struct request *head, uint64_t now, uint64_t *until)
{
    const struct scheduler_options *o = &s->o;
    if (!o->dynamic_batching) return head->rows;
    int64_t rows = rows_waiting(s, head->ride_key, o->max_batch_rows), best = 0;
    if (rows >= o->max_batch_rows) return o->max_batch_rows;
    for (int i = 0; i < o->preferred_count; i++)
        if (o->preferred[i] <= rows && o->preferred[i] > best) best = o->preferred[i];
    if (best >= head->rows && best > 0) return best;
    *until = head->times.queued + o->max_queue_delay_us * 1000;
    return o->max_queue_delay_us == 0 || now >= *until || s->closing ? o->max_batch_rows : 0;
}

static int64_t smallest_enough(const struct scheduler *s)
{
    int64_t least = s->o.max_batch_rows;
    for (int i = 0; i < s->o.preferred_count; i++)
        if (s->o.preferred[i] < least) least = s->o.preferred[i];
    return least;
}

/* Takes requests out of the queue into w->taken while their rows fit. The first decides the key; what has another key keeps its place. With the lock. */
static int take_riders(struct worker *w, int64_t room, bool any_key)
{
    struct scheduler *s = w->scheduler;
    uint64_t key = 0, now = clock_ns();
    int n = 0;
    for (int q = 0; q < QUEUE_COUNT && room > 0; q++)
        for (struct request *r = s->queues[q].first, *next; r && room > 0 && w->slot_count + n < s->slot_capacity; r = next) {
            next = r->next;
            if (n && !any_key && r->ride_key != key) continue;
            if (r->rows > room) return n;      /* it goes first next time: nobody overtakes it */
            if (!n) key = r->ride_key;
            queue_unlink(s, r);
            r->stage = REQUEST_RIDING;
            if (!r->times.taken) r->times.taken = now;
            room -= r->rows;
            w->taken[n++] = r;
            if (!s->o.dynamic_batching && !any_key) return n;
        }
    return n;
}

/* ---- turns (rate_limiter.h) ---- */

/* With the lock, which is let go meanwhile: what waits may change. False: it has its turn already. */
static bool wait_for_turn(struct worker *w)
{
    struct scheduler *s = w->scheduler;
    if (!w->rate || w->turn == TURN_FRESH) return false;
    pthread_mutex_unlock(&s->lock);
    if (w->turn == TURN_USED) rate_limiter_renew(s->o.limiter, w->rate);
    else rate_limiter_enter(s->o.limiter, w->rate);
    pthread_mutex_lock(&s->lock);
    w->turn = TURN_FRESH;
    return true;
}

static void give_turn_back(struct worker *w)
{
    if (w->turn != TURN_NONE) rate_limiter_exit(w->scheduler->o.limiter, w->rate);
    w->turn = TURN_NONE;
}

/* Sleeps until there is something to do and it has its turn; returns how many requests were taken. With the lock. */
static int wait_and_take(struct worker *w)
{
    struct scheduler *s = w->scheduler;
    for (;;) {
        struct request *head = queue_head(s);
        if (w->slot_count > 0 && wait_for_turn(w)) continue;
        if (w->slot_count > 0) {      /* a joining at a step boundary: never wait */
            int64_t room = s->o.max_batch_rows - w->slot_rows;
            return head && room > 0 ? take_riders(w, room, true) : 0;
        }
        if (!head) {
            give_turn_back(w);
            if (s->closing) return 0;
            w->state = WORKER_IDLE;
            pthread_cond_wait(&w->wake, &s->lock);
            w->state = WORKER_BUSY;
            continue;
        }
        uint64_t until = 0;
        int64_t rows = rows_to_take(s, head, clock_ns(), &until);
        if (rows && wait_for_turn(w)) continue;
        if (rows) return take_riders(w, rows, false);
        give_turn_back(w);
        w->state = WORKER_GATHERING;
        w->gather_rows = smallest_enough(s);
        condition_wait(&w->wake, &s->lock, until);
        w->state = WORKER_BUSY;
    }
}

static void remove_slot(struct worker *w, struct slot *slot)
{
    struct scheduler *s = w->scheduler;
    struct request *r = slot->request;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < w->slot_count; i++)
        if (w->slots[i] == slot) {
            memmove(&w->slots[i], &w->slots[i + 1], (size_t)(w->slot_count - i - 1) * sizeof *w->slots);
            w->slot_count--;
            break;
        }
    w->slot_rows -= r->rows;
    pthread_mutex_unlock(&s->lock);
    s->ops->retire(w->instance, slot);
}

/* Gives w->taken to the engine, one by one. */
static void admit_taken(struct worker *w, int n)
{
    struct scheduler *s = w->scheduler;
    for (int i = 0; i < n; i++) {
        struct request *r = w->taken[i];
        struct slot *slot = NULL;
        struct err why = { 0 };
        enum status st = s->ops->admit(w->instance, r, &slot, &why);
        pthread_mutex_lock(&s->lock);
        if (st == ST_UNAVAILABLE && w->slot_count > 0) {      /* no room now: back to the front, in order */
            for (int k = n - 1; k >= i; k--) queue_prepend(s, w->taken[k], w->taken[k]->queue);
            pthread_mutex_unlock(&s->lock);
            return;
        }
        if (!st) {
            *slot = (struct slot){ .request = r, .state = SLOT_RUNNING };
            w->slots[w->slot_count++] = slot;
            w->slot_rows += r->rows;
        }
        pthread_mutex_unlock(&s->lock);
        if (st) {
            scheduler_finish(s, r, &why, FAILURE_BACKEND, false);
            scheduler_leave_sequence(s, r);
            request_drop(r);
        }
    }
}

/* Cancelled requests end here; what the expiry thread has already answered only leaves. */
static void drop_unwanted(struct worker *w)
{
    struct scheduler *s = w->scheduler;
    for (int i = w->slot_count - 1; i >= 0; i--) {
        struct slot *slot = w->slots[i];
        struct request *r = slot->request;
        if (!atomic_load(&r->cancelled) && !atomic_load(&r->finished)) continue;
        struct err why;
        err_set(&why, ST_CANCELLED, "the request was cancelled");
        remove_slot(w, slot);
        scheduler_finish(s, r, &why, FAILURE_CANCELED, false);
        scheduler_leave_sequence(s, r);
        request_drop(r);
    }
}

/* The group that steps now: every slot with the key of the one that has waited longest, which is the first of the list (stepped slots move to its end). */
static void choose_step(struct worker *w)
{
    struct scheduler *s = w->scheduler;
    uint64_t key = w->slots[0]->request->ride_key;
    int rest = 0;
    pthread_mutex_lock(&s->lock);
    w->step_count = 0;
    for (int i = 0; i < w->slot_count; i++) {
        if (w->slots[i]->request->ride_key == key) w->step[w->step_count++] = w->slots[i];
        else w->slots[rest++] = w->slots[i];
    }
    memcpy(&w->slots[rest], w->step, (size_t)w->step_count * sizeof *w->step);
    atomic_store(&w->stop, false);
    w->busy_until_ns = clock_ns() + (uint64_t)s->step_ns;
    pthread_mutex_unlock(&s->lock);
}

static void count_step(struct scheduler *s, int64_t rows, const struct request_times *t, uint64_t start, uint64_t end)
{
    struct stats *all = &s->stats;
    atomic_fetch_add_explicit(&all->execution_count, 1, memory_order_relaxed);
    int at = 0;
    for (; at < STATS_BATCH_SIZES - 1; at++) {
        int_fast64_t none = 0;
        if (atomic_load_explicit(&all->batches[at].size, memory_order_relaxed) == rows) break;
        if (atomic_compare_exchange_strong(&all->batches[at].size, &none, rows) || none == rows) break;
    }
    struct stats_batch *b = &all->batches[at];
    uint64_t input = t->input_done > start ? t->input_done : start, infer = t->infer_done > input ? t->infer_done : input;
    stats_add(&b->input, input - start);
    stats_add(&b->infer, infer - input);
    stats_add(&b->output, end - infer);
}

/* The transport reads the outputs at the same time; nobody writes them. */
static void keep_answer(struct scheduler *s, const struct request *r)
{
    const uint64_t start = clock_ns();
    response_cache_put(s->o.cache, r->cache_key, r);
    atomic_fetch_add_explicit(&s->stats.cache_miss.ns, clock_ns() - start, memory_order_relaxed);
}

/* Hands out what the step did. */
static void settle_slot(struct worker *w, struct slot *slot, uint64_t now, int64_t rows, bool told_later)
{
    struct scheduler *s = w->scheduler;
    struct request *r = slot->request;
    if (slot->partial && slot->state != SLOT_FAILED && !atomic_load(&r->finished)) r->event(r, EVENT_PARTIAL);
    if (slot->state == SLOT_RUNNING) return;
    if (slot->state == SLOT_PREEMPTED) {
        remove_slot(w, slot);
        pthread_mutex_lock(&s->lock);
        queue_prepend(s, r, r->queue);
        pthread_mutex_unlock(&s->lock);
        return;
    }
    struct err why = slot->error;
    bool failed = slot->state == SLOT_FAILED, cancelled = atomic_load(&r->cancelled);
    r->times.output_done = now;
    r->batch_rows = rows;
    remove_slot(w, slot);
    if (cancelled) err_set(&why, ST_CANCELLED, "the request was cancelled");
    if (s->sequences && !failed && !cancelled && !atomic_load(&r->finished)) failed = sequences_capture(s->sequences, r, &why) != ST_OK;
    scheduler_finish(s, r, failed || cancelled ? &why : NULL, cancelled ? FAILURE_CANCELED : FAILURE_BACKEND, told_later);
    if (r->cache_key && !failed && !cancelled) keep_answer(s, r);
    scheduler_leave_sequence(s, r);
    request_drop(r);
}

static void run_step(struct worker *w)
{
    struct scheduler *s = w->scheduler;
    struct err why = { 0 };
    choose_step(w);
    int n = w->step_count;
    int64_t rows = 0;
    for (int i = 0; i < n; i++) rows += w->step[i]->request->rows;
    uint64_t start = clock_ns();
    enum status st = s->ops->submit(w->instance, w->step, n, &w->stop, &why);
    if (!st) st = s->ops->collect(w->instance, &why);
    uint64_t end = clock_ns();

    pthread_mutex_lock(&s->lock);
    w->step_count = 0;      /* w->step stays ours to read; nobody asks about this step any more */
    double took = (double)(end - start);
    s->step_ns = s->step_ns > 0 ? s->step_ns + (took - s->step_ns) * 0.125 : took;
    pthread_mutex_unlock(&s->lock);

    if (st && atomic_load(&w->stop)) {      /* let go because nobody wanted it: drop_unwanted ends them */
        drop_unwanted(w);
        return;
    }
    if (!st) count_step(s, rows, &w->step[0]->request->times, start, end);
    struct request *first = w->step[0]->request;
    void (*told)(void *) = first->told;
    void *context = first->told_context;
    for (int i = 0; i < n; i++) {
        if (st) {
            w->step[i]->state = SLOT_FAILED;
            w->step[i]->error = why;
            if (!why.status) err_set(&w->step[i]->error, st, "the step failed");
        }
        struct request *r = w->step[i]->request;
        settle_slot(w, w->step[i], end, rows, r->told == told && r->told_context == context);
    }
    if (told) told(context);      /* once: a listener on the same core would otherwise push this thread off at every event */
}

/* One core for each thread of the worker's team: left to themselves two of them meet on one core now and then, and a step waits for both. */
static void pin_part(void *first, int part, int parts)
{
    (void)parts;
    threads_pin(*(const int *)first + part, 1);
}

void *scheduler_work(void *p)
{
    struct worker *w = p;
    struct scheduler *s = w->scheduler;
    struct err why = { 0 };
    if (s->o.threads == 1) threads_be_batch();      /* a team must not: its threads wait for each other, and each would wait for a listener's whole time slice */
    if (s->o.first_cpu >= 0) {
        int first = s->o.first_cpu + w->index * s->o.threads;
        parallel_for(s->o.threads, s->o.threads, pin_part, &first);
    }
    enum status st = s->ops->start(&w->instance, s->engine, &why);

    pthread_mutex_lock(&s->lock);
    if (st && !s->start_error.status) s->start_error = why, s->start_error.status = st;
    if (--s->starting == 0) pthread_cond_signal(&s->started);
    while (!st) {
        int n = wait_and_take(w);
        if (!n && !w->slot_count) break;      /* closing, and nothing is left */
        if (s->waiting) scheduler_wake_worker(s);      /* more than one worker's fill */
        pthread_mutex_unlock(&s->lock);
        admit_taken(w, n);
        drop_unwanted(w);
        if (w->slot_count) run_step(w);
        if (w->turn == TURN_FRESH) w->turn = TURN_USED;
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    if (!st) s->ops->stop(w->instance);
    return NULL;
}
