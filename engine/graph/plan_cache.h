/* The plans of one instance by exact input shapes, the one not used for longest making room, and one workspace for all of them (only one runs at a time). */
#ifndef ENGINE_GRAPH_PLAN_CACHE_H
#define ENGINE_GRAPH_PLAN_CACHE_H

#include "engine/graph/plan.h"

enum { PLANS = 64 };       /* shapes remembered: as many as batch sizes are usual, since making a plan costs more than a small network's run */

struct plan_cache {
    struct plan_entry { struct plan *plan; struct operand *shapes; uint64_t used; } entries[PLANS];
    uint64_t clock, budget;        /* bytes for plans and workspace; set by the owner */
    char    *workspace;
    uint64_t workspace_bytes;
    struct plan_site site;         /* of a graph on a GPU: its queue and device workspace; the host's workspace is pinned memory then */
    struct gpu_store *gpu;
};

/* The plan for these shapes (dtype and dims of each graph input), bound to a workspace that is large enough. */
enum status plan_cache_get(struct plan_cache *c, const struct graph *g, const struct operand *shapes, struct plan **out, struct err *err);
void        plan_cache_close(struct plan_cache *c);

#endif
