#include "engine/llm/pool.h"

#include <string.h>
#include <sys/mman.h>

/* Zeros: what a page held before may be no number, and a weight of 0 does not take that away. */
static enum status clear(struct pool *p, struct err *err)
{
    const struct gpu_api *api = p->gpu->api;
    struct gpu_task t;
    memset(&t, 0, sizeof t);
    t.kind = GPU_FILL;
    t.operands = 1;
    t.type[0] = GPU_I64;
    t.at[0] = p->at;
    t.u.fill = (struct gpu_fill){ .size = 8, .count = (int64_t)(p->bytes / 8) };
    enum status st = api->prepare(p->gpu->gpu, &t, err);
    if (st) return st;
    st = api->run(p->queue, &t, 1, err);
    if (!st) st = api->wait(p->queue, err);
    api->release(p->gpu->gpu, &t);
    return st;
}

enum status pool_open(struct pool *p, const struct device_gpu *gpu, int32_t pages, int planes, uint64_t page_bytes, struct err *err)
{
    *p = (struct pool){ .gpu = gpu, .bytes = (uint64_t)pages * page_bytes, .pages = pages, .planes = planes, .plane_bytes = page_bytes / (uint64_t)planes };
    void *at = NULL;
    if (!gpu) {
        at = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return err_set(err, ST_NO_MEMORY, "a KV cache of %llu bytes", (unsigned long long)p->bytes);
        p->at = at;
        return ST_OK;
    }
    enum status st = gpu->api->alloc(gpu->gpu, p->bytes, &at, err);
    if (st) return st == ST_NO_MEMORY ? err_set(err, st, "GPU %d has no room for a KV cache of %llu bytes", gpu->ordinal, (unsigned long long)p->bytes) : st;
    p->at = at;
    st = gpu->api->queue_open(gpu->gpu, &p->queue, err);
    if (!st) st = clear(p, err);
    if (st) pool_close(p);
    return st;
}

void pool_close(struct pool *p)
{
    if (!p->gpu && p->at) munmap(p->at, p->bytes);
    if (p->gpu && p->queue) p->gpu->api->queue_close(p->queue);
    if (p->gpu) p->gpu->api->free(p->gpu->gpu, p->at);
    *p = (struct pool){ 0 };
}

static char *plane(const struct pool *p, int32_t page, int l) { return p->at + ((uint64_t)l * (uint64_t)p->pages + (uint64_t)page) * p->plane_bytes; }

enum status pool_read(struct pool *p, int32_t page, char *bytes, struct err *err)
{
    enum status st = ST_OK;
    for (int l = 0; l < p->planes && !st; l++, bytes += p->plane_bytes) {
        if (p->gpu) st = p->gpu->api->get(p->queue, bytes, plane(p, page, l), p->plane_bytes, err);
        else memcpy(bytes, plane(p, page, l), p->plane_bytes);
    }
    return p->gpu && !st ? p->gpu->api->wait(p->queue, err) : st;
}

enum status pool_write(struct pool *p, int32_t page, const char *bytes, struct err *err)
{
    enum status st = ST_OK;
    for (int l = 0; l < p->planes && !st; l++, bytes += p->plane_bytes) {
        if (p->gpu) st = p->gpu->api->put(p->queue, plane(p, page, l), bytes, p->plane_bytes, err);
        else memcpy(plane(p, page, l), bytes, p->plane_bytes);
    }
    return p->gpu && !st ? p->gpu->api->wait(p->queue, err) : st;
}
