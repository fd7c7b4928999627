#include "engine/request.h"

#include <assert.h>

void request_init(struct request *r, uint64_t arena_limit)
{
    *r = (struct request){ .id = "", .rows = 1, .heap_index = -1 };
    atomic_init(&r->references, 1);
    atomic_init(&r->finished, 0);
    atomic_init(&r->cancelled, false);
    arena_init(&r->arena, arena_limit);
}

void request_hold(struct request *r)
{
    int before = atomic_fetch_add_explicit(&r->references, 1, memory_order_relaxed);
    assert(before > 0);
}

void request_drop(struct request *r)
{
    int before = atomic_fetch_sub_explicit(&r->references, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before > 1) return;
    for (int i = 0; i < r->kept_count; i++) request_drop(r->kept[i]);
    r->kept_count = 0;
    void (*release)(struct request *) = r->release;
    if (release) release(r);      /* it frees or recycles the arena as well: the request is part of something of its own */
    else arena_free(&r->arena);
}

bool request_finish(struct request *r)
{
    int open = 0;
    return atomic_compare_exchange_strong(&r->finished, &open, 1);
}

enum status request_output(struct request *r, int index, const char *name, enum dtype t, const int64_t *dims, int rank, struct err *err)
{
    assert(index >= 0 && index < r->output_count && rank >= 0 && rank <= TENSOR_RANK_MAX);
    struct request_tensor *o = &r->outputs[index];
    uint64_t bytes;
    if (!tensor_bytes(t, dims, rank, &bytes)) return err_set(err, ST_INTERNAL, "output '%s' has a shape that does not fit", name);
    o->name = name;
    o->tensor = (struct tensor){ .dtype = t, .rank = rank, .bytes = bytes };
    for (int i = 0; i < rank; i++) o->tensor.dims[i] = dims[i];
    o->tensor.data = arena_alloc(&r->arena, bytes, TENSOR_ALIGN);
    if (!o->tensor.data) return err_set(err, ST_NO_MEMORY, "output '%s' of %llu bytes is over the request's memory budget", name, (unsigned long long)bytes);
    return ST_OK;
}
