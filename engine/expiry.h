/* The expiry thread's side that the scheduler uses: a heap of requests by the moment at which somebody must look at them. */
#ifndef ENGINE_EXPIRY_H
#define ENGINE_EXPIRY_H

#include "engine/scheduler.h"

/* Puts r (or moves it) to `when_ns`. The heap holds a reference while r is in it. False: no memory; r is then not in the heap. */
bool expiry_arm(struct expiry *e, struct request *r, uint64_t when_ns);
void expiry_disarm(struct expiry *e, struct request *r);       /* harmless when it is not in the heap */
/* Returns when the thread is not inside scheduler_expire for any request of `s`. */
void expiry_quiesce(struct expiry *e, struct scheduler *s);

/* The scheduler's side: called by the expiry thread, without the heap's lock. */
void scheduler_expire(struct scheduler *s, struct request *r);

#endif
