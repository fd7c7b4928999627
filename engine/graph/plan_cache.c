#include "engine/graph/plan_cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "engine/graph/gpu_store.h"

static void free_workspace(struct plan_cache *c)
{
    if (c->gpu) c->gpu->api->unpin(c->gpu->gpu, c->workspace);
    else free(c->workspace);
    c->workspace = NULL;
}

void plan_cache_close(struct plan_cache *c)
{
    for (int p = 0; p < PLANS; p++) {
        plan_close(c->entries[p].plan);
        free(c->entries[p].shapes);
    }
    free_workspace(c);
    if (c->gpu && c->site.queue) c->gpu->api->queue_close(c->site.queue);
    if (c->gpu) c->gpu->api->free(c->gpu->gpu, c->site.memory);
    *c = (struct plan_cache){ 0 };
}

static bool same_shapes(const struct graph *g, const struct operand *a, const struct operand *b)
{
    for (int k = 0; k < g->input_count; k++)
        if (a[k].rank != b[k].rank || a[k].dtype != b[k].dtype || memcmp(a[k].dims, b[k].dims, (size_t)a[k].rank * sizeof a[k].dims[0])) return false;
    return true;
}

static enum status find_plan(struct plan_cache *c, const struct graph *g, const struct operand *shapes, struct plan **out, struct err *err)
{
    struct plan_entry *victim = &c->entries[0];
    c->clock++;
    for (int p = 0; p < PLANS; p++) {
        struct plan_entry *e = &c->entries[p];
        if (e->used < victim->used) victim = e;
        if (!e->plan || !same_shapes(g, e->shapes, shapes)) continue;
        e->used = c->clock;
        *out = e->plan;
        return ST_OK;
    }
    plan_close(victim->plan);
    free(victim->shapes);
    *victim = (struct plan_entry){ 0 };
    struct plan *plan;
    enum status st = plan_open(&plan, g, shapes, c->budget, err);
    if (st) return st;
    struct operand *copy = mem_alloc_array((uint64_t)g->input_count + 1, sizeof *copy);
    if (!copy) {
        plan_close(plan);
        return err_set(err, ST_NO_MEMORY, "keeping a plan");
    }
    memcpy(copy, shapes, (size_t)g->input_count * sizeof *copy);
    *victim = (struct plan_entry){ .plan = plan, .shapes = copy, .used = c->clock };
    *out = plan;
    return ST_OK;
}

struct plan_ways *plan_cache_ways(struct plan_cache *c, const struct plan *p)
{
    struct plan_entry *e = c->entries;
    while (e->plan != p) e++;
    return &e->ways;
}

static enum status grow_workspace(struct plan_cache *c, uint64_t need, struct err *err)
{
    if (need <= c->workspace_bytes) return ST_OK;
    size_t align = need >= 4u << 20 ? 2u << 20 : 4096;
    free_workspace(c);
    c->workspace_bytes = 0;
    if (c->gpu) {
        void *pinned = NULL;
        enum status st = c->gpu->api->pin(c->gpu->gpu, need, &pinned, err);
        c->workspace = pinned;
        if (!st) c->workspace_bytes = need;
        return st;
    }
    c->workspace = mem_alloc_aligned((need + align - 1) & ~(uint64_t)(align - 1), align);
    if (!c->workspace) return err_set(err, ST_NO_MEMORY, "the buffers of a plan (%llu bytes)", (unsigned long long)need);
    c->workspace_bytes = need;
    madvise(c->workspace, (need + align - 1) & ~(uint64_t)(align - 1), MADV_HUGEPAGE);     /* advice only: large buffers fault in fewer steps */
    return ST_OK;
}

/* Queue and memory on the device. */
static enum status grow_site(struct plan_cache *c, uint64_t need, struct err *err)
{
    const struct gpu_store *s = c->gpu;
    enum status st = c->site.queue ? ST_OK : s->api->queue_open(s->gpu, &c->site.queue, err);
    if (st || need <= c->site.bytes) return st;
    void *memory = NULL;
    s->api->free(s->gpu, c->site.memory);
    c->site.memory = NULL;
    c->site.bytes = 0;
    if ((st = s->api->alloc(s->gpu, need, &memory, err))) return st;
    c->site.memory = memory;
    c->site.bytes = need;
    return ST_OK;
}

enum status plan_cache_get(struct plan_cache *c, const struct graph *g, const struct operand *shapes, struct plan **out, struct err *err)
{
    c->gpu = g->gpu;
    enum status st = find_plan(c, g, shapes, out, err);
    if (!st) st = grow_workspace(c, plan_workspace(*out), err);
    if (!st) plan_bind(*out, c->workspace);
    if (st || !g->gpu) return st;
    st = grow_site(c, plan_site_bytes(*out), err);
    if (!st) plan_bind_site(*out, &c->site);
    return st;
}
