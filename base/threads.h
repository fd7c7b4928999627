/* Threads with names, and the one core budget of the process: instances divide it, so that no two teams overlap on a core. */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { CPUS_MAX = 1024 };

/* CPUs this process may run on, by sched_getaffinity at the first call; at least 1. */
int threads_cpu_count(void);
/* The index-th CPU of that set (0-based). */
int threads_cpu(int index);
/* Pins the calling thread to CPUs first .. first+count-1 of the set (taken modulo its size); a failure is ignored: pinning is advice. */
void threads_pin(int first, int count);
/* Says that the calling thread computes (SCHED_BATCH): when it is woken it does not push a listener off a shared core, so that requests that arrive
 * together are queued together. A failure is ignored. */
void threads_be_batch(void);
/* A condition that is waited for by CLOCK_MONOTONIC, and the wait itself: false when `until_ns` came first. */
void condition_init(pthread_cond_t *c);
bool condition_wait(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns);
/* Starts a thread. `name` is cut at 15 bytes. Signals are blocked in it but those that report its own faults. */
enum status thread_start(pthread_t *out, const char *name, void *(*body)(void *), void *argument, struct err *err);

#endif
