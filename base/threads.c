#include "base/threads.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int cpus[CPUS_MAX], cpu_count;

static void read_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE && cpu_count < CPUS_MAX; i++)
            if (CPU_ISSET(i, &set)) cpus[cpu_count++] = i;
    if (!cpu_count) cpus[cpu_count++] = 0;
}

int threads_cpu_count(void)
{
    pthread_once(&once, read_cpus);
    return cpu_count;
}

int threads_cpu(int index)
{
    pthread_once(&once, read_cpus);
    return cpus[index % cpu_count];
}

void threads_pin(int first, int count)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < count; i++) CPU_SET(threads_cpu(first + i), &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

void threads_be_batch(void)
{
    struct sched_param none = { .sched_priority = 0 };
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
}

struct start { void *(*body)(void *); void *argument; char name[16]; };

static void *run(void *p)
{
    struct start s = *(struct start *)p;
    free(p);
    pthread_setname_np(pthread_self(), s.name);
    return s.body(s.argument);
}

void condition_init(pthread_cond_t *c)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(c, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

bool condition_wait(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns)
{
    const struct timespec t = { .tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u) };
    return pthread_cond_timedwait(c, m, &t) == 0;
}

enum status thread_start(pthread_t *out, const char *name, void *(*body)(void *), void *argument, struct err *err)
{
    struct start *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory to start thread %s", name);
    s->body = body;
    s->argument = argument;
    snprintf(s->name, sizeof s->name, "%.15s", name);
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV), sigdelset(&blocked, SIGBUS), sigdelset(&blocked, SIGFPE), sigdelset(&blocked, SIGILL), sigdelset(&blocked, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int failed = pthread_create(out, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) return ST_OK;
    free(s);
    return err_set(err, ST_UNAVAILABLE, "thread %s could not be started: %s", name, strerror(failed));
}
