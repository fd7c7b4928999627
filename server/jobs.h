/* A few threads for what must not block a listener: loading, hashing, fsync. A bounded queue of functions. */
#ifndef SERVER_JOBS_H
#define SERVER_JOBS_H

#include "base/err.h"

struct jobs;

enum status jobs_open(struct jobs **out, int threads, int waiting_max, struct err *err);
/* ST_UNAVAILABLE when the queue is full. */
enum status jobs_add(struct jobs *j, void (*work)(void *argument), void *argument, struct err *err);
void        jobs_close(struct jobs *j);      /* does what is queued, then joins */

#endif
