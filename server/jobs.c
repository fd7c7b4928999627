#include "server/jobs.h"

#include "base/checked.h"
#include "base/threads.h"

#include <stdlib.h>

enum { JOB_THREADS_MAX = 16 };

struct job { void (*work)(void *argument); void *argument; };

struct jobs {
    pthread_mutex_t lock;      /* guards the ring and stopping */
    pthread_cond_t  more;
    struct job     *ring;
    int             capacity, first, count, thread_count;
    bool            stopping;
    pthread_t       threads[JOB_THREADS_MAX];
};

static void *jobs_run(void *p)
{
    struct jobs *j = p;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        while (!j->count && !j->stopping) pthread_cond_wait(&j->more, &j->lock);
        if (!j->count) break;
        struct job job = j->ring[j->first];
        j->first = (j->first + 1) % j->capacity;
        j->count--;
        pthread_mutex_unlock(&j->lock);
        job.work(job.argument);
        pthread_mutex_lock(&j->lock);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

enum status jobs_open(struct jobs **out, int threads, int waiting_max, struct err *err)
{
    struct jobs *j = calloc(1, sizeof *j);
    if (!j || !(j->ring = mem_calloc_array((uint64_t)waiting_max, sizeof *j->ring))) {
        free(j);
        return err_set(err, ST_NO_MEMORY, "no memory for %d jobs", waiting_max);
    }
    j->capacity = waiting_max;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->more, NULL);
    enum status st = ST_OK;
    for (int i = 0; i < threads && i < JOB_THREADS_MAX && !st; i++) {
        st = thread_start(&j->threads[i], "job", jobs_run, j, err);
        j->thread_count += !st;
    }
    if (st) jobs_close(j);
    else *out = j;
    return st;
}

enum status jobs_add(struct jobs *j, void (*work)(void *argument), void *argument, struct err *err)
{
    enum status st = ST_OK;
    pthread_mutex_lock(&j->lock);
    if (j->stopping || j->count == j->capacity) st = err_set(err, ST_UNAVAILABLE, "too many administrative calls are waiting");
    else {
        j->ring[(j->first + j->count) % j->capacity] = (struct job){ work, argument };
        j->count++;
        pthread_cond_signal(&j->more);
    }
    pthread_mutex_unlock(&j->lock);
    return st;
}

void jobs_close(struct jobs *j)
{
    if (!j) return;
    pthread_mutex_lock(&j->lock);
    j->stopping = true;
    pthread_cond_broadcast(&j->more);
    pthread_mutex_unlock(&j->lock);
    for (int i = 0; i < j->thread_count; i++) pthread_join(j->threads[i], NULL);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->more);
    free(j->ring);
    free(j);
}
