/* The plans of one instance by exact input shapes, the one not used for longest making room, and one workspace for all of them (only one runs at a time). */
#ifndef ENGINE_GRAPH_PLAN_CACHE_H
#define ENGINE_GRAPH_PLAN_CACHE_H

#include "engine/graph/plan.h"

/* What runs of a plan's rows took, whole and in parts: kept here for the owner, all 0 at first. */
struct plan_ways { unsigned runs; uint64_t ns[2]; };

enum { PLANS = 64 };       /* shapes remembered: as many as batch sizes are usual, since making a plan costs more than a small network's run */

struct plan_cache {
    struct plan_entry { struct plan *plan; struct operand *shapes; uint64_t used; struct plan_ways ways; } entries[PLANS];
    uint64_t clock, budget;        /* bytes for plans and workspace; set by the owner */
    char    *workspace;
    uint64_t workspace_bytes;
    struct plan_site site;         /* of a graph on a GPU: its queue and device workspace; the host's workspace is pinned memory then */
    struct gpu_store *gpu;
};

/* The plan for these shapes (dtype and dims of each graph input), bound to a workspace that is large enough. */
enum status plan_cache_get(struct plan_cache *c, const struct graph *g, const struct operand *shapes, struct plan **out, struct err *err);
struct plan_ways *plan_cache_ways(struct plan_cache *c, const struct plan *p);      /* p: what plan_cache_get gave last */
void        plan_cache_close(struct plan_cache *c);

#endif
