/* Who may compute now, over all models: Triton's rate limiter. An instance's config says which resources one execution of it needs (so many copies of a name) and how often it is to have its turn against others that want the
 * same. A worker waits for its turn before it takes a batch, so that requests go on gathering and expiring in the queue meanwhile, and gives it back after the step.
 *
 * The copies of a resource are what the most demanding loaded instance needs, or what the operator says. Turns are shared by stride: an instance of priority p moves p strides for each turn, and who has moved least goes
 * first; so priority 2 gets half the turns of priority 1 (0 counts as 1) and nobody starves. Whoever waits for a resource that is held is not overtaken by those behind it that need the same one; others pass. */
#ifndef ENGINE_RATE_LIMITER_H
#define ENGINE_RATE_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { RATE_NEEDS_MAX = 16, RATE_NAME_MAX = 64, RATE_RESOURCES_MAX = 256, RATE_COPIES_MAX = 1 << 20 };

struct rate_need { char name[RATE_NAME_MAX]; uint32_t count; bool global; };

/* What one execution of an instance needs. */
struct rate_claim { struct rate_need needs[RATE_NEEDS_MAX]; int need_count; uint32_t priority; int instances; };

struct rate_limiter;
struct rate_member;

/* NULL: no memory. */
struct rate_limiter *rate_limiter_open(void);
void        rate_limiter_close(struct rate_limiter *l);      /* when every member has left; NULL is allowed */
/* "NAME:COUNT" or "NAME:COUNT:0" (the one device there is): fixes the copies of a resource. Before anybody joins. */
enum status rate_limiter_fix(struct rate_limiter *l, const char *text, struct err *err);

/* One instance. Refused when a fixed resource has too few copies for it, or when a name is global for one model and of a device for another. */
enum status rate_limiter_join(struct rate_limiter *l, const struct rate_claim *claim, struct rate_member **out, struct err *err);
void        rate_limiter_leave(struct rate_limiter *l, struct rate_member *m);      /* it holds nothing; NULL is allowed */

/* Waits for a turn. A member's own worker. */
void        rate_limiter_enter(struct rate_limiter *l, struct rate_member *m);
void        rate_limiter_exit(struct rate_limiter *l, struct rate_member *m);
/* Both at once for who has more to do: it stands in line before its own turn is given away. */
void        rate_limiter_renew(struct rate_limiter *l, struct rate_member *m);

#endif
