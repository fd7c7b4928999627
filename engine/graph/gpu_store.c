#include "engine/graph/gpu_store.h"

#include <stdlib.h>

#include "base/checked.h"
#include "kernels/half.h"

enum status gpu_store_open(struct gpu_store **out, const struct gpu_api *api, struct gpu *g, int float_type, struct err *err)
{
    struct gpu_store *s = mem_calloc_array(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "the table of constants on the device");
    s->api = api;
    s->gpu = g;
    s->float_type = float_type;
    enum status st = api->queue_open(g, &s->queue, err);
    if (st) {
        free(s);
        return st;
    }
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return ST_OK;
}

void gpu_store_close(struct gpu_store *s)
{
    if (!s) return;
    for (int i = 0; i < s->count; i++) s->api->free(s->gpu, s->items[i].at);
    s->api->queue_close(s->queue);
    pthread_mutex_destroy(&s->lock);
    free(s->items);
    free(s);
}

/* Under the lock. Models have some hundreds of constants, looked up once for each plan. */
static void *find(const struct gpu_store *s, const void *key, int slot)
{
    for (int i = 0; i < s->count; i++)
        if (s->items[i].key == key && s->items[i].slot == slot) return s->items[i].at;
    return NULL;
}

void *gpu_store_find(struct gpu_store *s, const void *key, int slot)
{
    pthread_mutex_lock(&s->lock);
    void *at = find(s, key, slot);
    pthread_mutex_unlock(&s->lock);
    return at;
}

/* Floats as the device wants them, in memory of the caller's. */
static void convert(void *to, const float *from, uint64_t count, int type)
{
    uint16_t *h = to;
    for (uint64_t i = 0; i < count; i++) h[i] = type == GPU_F16 ? f32_to_f16(from[i]) : f32_to_bf16_one(from[i]);
}

static enum status upload(struct gpu_store *s, void *at, const void *data, uint64_t count, uint64_t bytes, bool convertible, int type, struct err *err)
{
    void *made = NULL;
    if (convertible) {
        if (!(made = mem_alloc_array(count ? count : 1, sizeof(uint16_t)))) return err_set(err, ST_NO_MEMORY, "converting a constant of %llu bytes", (unsigned long long)bytes);
        convert(made, data, count, type);
        data = made;
    }
    enum status st = bytes ? s->api->put(s->queue, at, data, bytes, err) : ST_OK;
    if (!st) st = s->api->wait(s->queue, err);
    free(made);
    return st;
}

enum status gpu_store_put(struct gpu_store *s, const void *key, int slot, const void *data, uint64_t count, bool floats, int type, void **out, struct err *err)
{
    const uint64_t bytes = count * (uint64_t)gpu_type_bytes(type);
    enum status st = ST_OK;
    pthread_mutex_lock(&s->lock);
    void *at = find(s, key, slot);
    if (!at) {
        if (s->count == s->room) {
            const int room = s->room ? 2 * s->room : 64;
            void *more = mem_realloc_array(s->items, (uint64_t)room, sizeof *s->items);
            if (!more) st = err_set(err, ST_NO_MEMORY, "the table of constants on the device");
            else s->items = more, s->room = room;
        }
        if (!st) st = s->api->alloc(s->gpu, bytes ? bytes : 1, &at, err);
        if (!st && (st = upload(s, at, data, count, bytes, floats && type != GPU_F32, type, err))) s->api->free(s->gpu, at);
        if (!st) s->items[s->count++] = (struct gpu_constant){ key, slot, at };
    }
    pthread_mutex_unlock(&s->lock);
    if (!st) *out = at;
    return st;
}

enum status gpu_store_copy(struct gpu_store *s, const void *data, uint64_t count, bool floats, int type, void **out, struct err *err)
{
    const uint64_t bytes = count * (uint64_t)gpu_type_bytes(type);
    void *at;
    pthread_mutex_lock(&s->lock);
    enum status st = s->api->alloc(s->gpu, bytes ? bytes : 1, &at, err);
    if (!st && (st = upload(s, at, data, count, bytes, floats && type != GPU_F32, type, err))) s->api->free(s->gpu, at);
    pthread_mutex_unlock(&s->lock);
    if (!st) *out = at;
    return st;
}
