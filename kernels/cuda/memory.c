/* Device memory is asked of the driver in steps of a size class and kept when it is given back, so that a plan of another shape costs no driver call (which would wait for the whole
 * device). Classes are a quarter of a power of two apart: at most a fifth is wasted. When the budget or the card is full, what is kept goes back first. */
#include <stdlib.h>

#include "base/checked.h"
#include "kernels/cuda/internal.h"

struct block { char *at; uint64_t bytes; bool in_use, pinned; };

struct memory { struct gpu *gpu; pthread_mutex_t lock; struct block *blocks; int count, room; uint64_t budget, taken /* of the driver, pinned ones apart */; };

static uint64_t class_of(uint64_t bytes)
{
    uint64_t step = 256;
    while (bytes > 8 * step) step *= 2;          /* between 4 and 8 steps */
    return (bytes + step - 1) / step * step;
}

enum status memory_open(struct memory **out, struct gpu *g, uint64_t budget, struct err *err)
{
    struct memory *m = calloc(1, sizeof *m);
    if (!m) return err_set(err, ST_NO_MEMORY, "the allocator of the device");
    m->gpu = g;
    m->budget = budget;
    pthread_mutex_init(&m->lock, NULL);
    *out = m;
    return ST_OK;
}

static void to_driver(struct memory *m, int i)
{
    if (m->blocks[i].pinned) (void)cudaFreeHost(m->blocks[i].at);
    else {
        (void)cudaFree(m->blocks[i].at);
        m->taken -= m->blocks[i].bytes;
    }
    m->blocks[i] = m->blocks[--m->count];
}

void memory_close(struct memory *m)
{
    if (!m) return;
    while (m->count) to_driver(m, m->count - 1);
    free(m->blocks);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* Gives back to the driver what nobody uses. True when there was something. */
static bool trim(struct memory *m)
{
    bool any = false;
    for (int i = m->count - 1; i >= 0; i--)
        if (!m->blocks[i].in_use && !m->blocks[i].pinned) {
            to_driver(m, i);
            any = true;
        }
    return any;
}

static bool has_room(struct memory *m)
{
    if (m->count < m->room) return true;
    const int room = m->room ? 2 * m->room : 256;
    void *more = mem_realloc_array(m->blocks, (uint64_t)room, sizeof *m->blocks);
    if (!more) return false;
    m->blocks = more;
    m->room = room;
    return true;
}

static enum status take_new(struct memory *m, uint64_t bytes, void **out, struct err *err)
{
    void *at = NULL;
    if (!has_room(m)) return err_set(err, ST_NO_MEMORY, "the allocator of the device");
    if ((bytes > m->budget || m->taken > m->budget - bytes) && trim(m) && bytes <= m->budget && m->taken <= m->budget - bytes) return take_new(m, bytes, out, err);
    if (bytes > m->budget || m->taken > m->budget - bytes)
        return err_set(err, ST_NO_MEMORY, "%llu bytes of device memory do not fit the budget of %llu, of which %llu are taken", (unsigned long long)bytes, (unsigned long long)m->budget, (unsigned long long)m->taken);
    cudaError_t e = cudaMalloc(&at, bytes);
    if (e == cudaErrorMemoryAllocation && trim(m)) {
        (void)cudaGetLastError();
        e = cudaMalloc(&at, bytes);
    }
    enum status st = cuda_check(m->gpu, e, "allocating device memory", err);
    if (st) return st;
    m->taken += bytes;
    m->blocks[m->count++] = (struct block){ .at = at, .bytes = bytes, .in_use = true };
    *out = at;
    return ST_OK;
}

enum status memory_take(struct memory *m, uint64_t bytes, void **out, struct err *err)
{
    const uint64_t want = class_of(bytes ? bytes : 1);
    enum status st = cuda_use(m->gpu, err);
    if (st) return st;
    pthread_mutex_lock(&m->lock);
    int i = 0;
    while (i < m->count && (m->blocks[i].in_use || m->blocks[i].pinned || m->blocks[i].bytes != want)) i++;
    if (i < m->count) {
        m->blocks[i].in_use = true;
        *out = m->blocks[i].at;
    } else st = take_new(m, want, out, err);
    pthread_mutex_unlock(&m->lock);
    return st;
}

static int find(const struct memory *m, const void *p)
{
    int i = m->count - 1;
    while (i >= 0 && m->blocks[i].at != p) i--;
    return i;
}

void memory_give(struct memory *m, void *p)
{
    if (!p) return;
    pthread_mutex_lock(&m->lock);
    const int i = find(m, p);
    if (i >= 0) m->blocks[i].in_use = false;
    pthread_mutex_unlock(&m->lock);
}

enum status memory_pin(struct memory *m, uint64_t bytes, void **out, struct err *err)
{
    enum status st = cuda_use(m->gpu, err);
    if (st) return st;
    pthread_mutex_lock(&m->lock);
    void *at = NULL;
    st = has_room(m) ? cuda_check(m->gpu, cudaHostAlloc(&at, bytes ? bytes : 1, cudaHostAllocDefault), "pinning host memory", err) : err_set(err, ST_NO_MEMORY, "the allocator of the device");
    if (!st) {
        m->blocks[m->count++] = (struct block){ .at = at, .bytes = bytes, .in_use = true, .pinned = true };
        *out = at;
    }
    pthread_mutex_unlock(&m->lock);
    return st;
}

void memory_unpin(struct memory *m, void *p)
{
    if (!p) return;
    pthread_mutex_lock(&m->lock);
    const int i = find(m, p);
    if (i >= 0) to_driver(m, i);
    pthread_mutex_unlock(&m->lock);
}

bool memory_is_pinned(struct memory *m, const void *p, uint64_t bytes)
{
    const char *at = p;
    bool pinned = false;
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < m->count && !pinned; i++) pinned = m->blocks[i].pinned && at >= m->blocks[i].at && at + bytes <= m->blocks[i].at + m->blocks[i].bytes;
    pthread_mutex_unlock(&m->lock);
    return pinned;
}
