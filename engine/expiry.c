/* One thread sleeps until the earliest deadline of the process. Lock order: scheduler, then heap; so the thread takes a due request out of the
 * heap, lets go of the heap, and only then asks the request's scheduler. */
#include "engine/expiry.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/threads.h"

#include <pthread.h>
#include <stdlib.h>

struct expiry {
    pthread_mutex_t lock;          /* guards everything below */
    pthread_cond_t  changed;       /* an earlier deadline, or stop */
    pthread_cond_t  idle;          /* `asking` went back to NULL */
    pthread_t       thread;
    struct request **heap;         /* smallest expiry_ns first */
    int             count, capacity;
    struct scheduler *asking;      /* the scheduler that is being told right now */
    bool            stopping;
};

static void place(struct expiry *e, int at, struct request *r)
{
    e->heap[at] = r;
    r->heap_index = at;
}

static void sift(struct expiry *e, int at, struct request *r)
{
    while (at > 0 && e->heap[(at - 1) / 2]->expiry_ns > r->expiry_ns) {
        place(e, at, e->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (int child; (child = at * 2 + 1) < e->count; at = child) {
        if (child + 1 < e->count && e->heap[child + 1]->expiry_ns < e->heap[child]->expiry_ns) child++;
        if (e->heap[child]->expiry_ns >= r->expiry_ns) break;
        place(e, at, e->heap[child]);
    }
    place(e, at, r);
}

static void take_out(struct expiry *e, struct request *r)
{
    int at = r->heap_index;
    struct request *last = e->heap[--e->count];
    r->heap_index = -1;
    if (last != r) sift(e, at, last);
}

bool expiry_arm(struct expiry *e, struct request *r, uint64_t when_ns)
{
    bool done = true;
    pthread_mutex_lock(&e->lock);
    r->expiry_ns = when_ns;
    if (r->heap_index >= 0) {
        sift(e, r->heap_index, r);
    } else {
        if (e->count == e->capacity) {
            int capacity = e->capacity ? e->capacity * 2 : 256;
            struct request **heap = mem_realloc_array(e->heap, (uint64_t)capacity, sizeof *heap);
            if (heap) e->heap = heap, e->capacity = capacity;
            else done = false;
        }
        if (done) {
            request_hold(r);
            e->count++;
            sift(e, e->count - 1, r);
        }
    }
    if (done && r->heap_index == 0) pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
    return done;
}

void expiry_disarm(struct expiry *e, struct request *r)
{
    pthread_mutex_lock(&e->lock);
    bool inside = r->heap_index >= 0;
    if (inside) take_out(e, r);
    pthread_mutex_unlock(&e->lock);
    if (inside) request_drop(r);
}

void expiry_quiesce(struct expiry *e, struct scheduler *s)
{
    pthread_mutex_lock(&e->lock);
    while (e->asking == s) pthread_cond_wait(&e->idle, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

static void *expiry_run(void *p)
{
    struct expiry *e = p;
    pthread_mutex_lock(&e->lock);
    while (!e->stopping) {
        if (!e->count) {
            pthread_cond_wait(&e->changed, &e->lock);
            continue;
        }
        struct request *r = e->heap[0];
        if (r->expiry_ns > clock_ns()) {
            condition_wait(&e->changed, &e->lock, r->expiry_ns);
            continue;
        }
        take_out(e, r);
        e->asking = r->scheduler;
        pthread_mutex_unlock(&e->lock);
        scheduler_expire(r->scheduler, r);
        request_drop(r);
        pthread_mutex_lock(&e->lock);
        e->asking = NULL;
        pthread_cond_broadcast(&e->idle);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

enum status expiry_open(struct expiry **out, struct err *err)
{
    struct expiry *e = calloc(1, sizeof *e);
    if (!e) return err_set(err, ST_NO_MEMORY, "no memory for the expiry thread");
    pthread_mutex_init(&e->lock, NULL);
    condition_init(&e->changed);
    pthread_cond_init(&e->idle, NULL);
    enum status st = thread_start(&e->thread, "expiry", expiry_run, e, err);
    if (st) {
        free(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

void expiry_close(struct expiry *e)
{
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
    pthread_cond_destroy(&e->idle);
    free(e->heap);
    free(e);
}
