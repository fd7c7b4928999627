#include "engine/device_gpu.h"

#include <pthread.h>
#include <stdio.h>

static struct { const struct gpu_api *api; int count; uint64_t budget; char cache[4096]; struct device_gpu cards[DEVICE_GPUS_MAX]; } all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int cards_of(const struct gpu_api *api)
{
    const int n = api ? api->count() : 0;
    return n > DEVICE_GPUS_MAX ? DEVICE_GPUS_MAX : n;
}

enum status device_gpus_open(const char *path, uint64_t budget, const char *cache, struct err *err)
{
    const struct gpu_api *api = gpu_library(path, err);
    if (!api) return err->status;
    pthread_mutex_lock(&lock);
    all.api = api;
    all.count = cards_of(api);
    all.budget = budget;
    snprintf(all.cache, sizeof all.cache, "%s", cache ? cache : "");
    pthread_mutex_unlock(&lock);
    return ST_OK;
}

void device_gpus_use(const struct gpu_api *api)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < DEVICE_GPUS_MAX; i++) {
        if (all.cards[i].gpu) all.api->close(all.cards[i].gpu);
        all.cards[i] = (struct device_gpu){ 0 };
    }
    all.api = api;
    all.count = cards_of(api);
    pthread_mutex_unlock(&lock);
}

int device_gpu_count(void)
{
    pthread_mutex_lock(&lock);
    const int n = all.count;
    pthread_mutex_unlock(&lock);
    return n;
}

enum status device_gpu_open(const struct device_gpu **out, int ordinal, struct err *err)
{
    enum status st = ST_OK;
    pthread_mutex_lock(&lock);
    struct device_gpu *d = ordinal >= 0 && ordinal < all.count ? &all.cards[ordinal] : NULL;
    if (!d) st = all.count ? err_set(err, ST_BAD_INPUT, "there is no GPU %d: %d can be used", ordinal, all.count) : err_set(err, ST_UNAVAILABLE, "no GPU can be used");
    else if (d->gpu && d->api->lost(d->gpu)) st = err_set(err, ST_UNAVAILABLE, "GPU %d is lost to this process; a new one may find it again", ordinal);
    else if (!d->gpu) {
        struct gpu *gpu = NULL;
        st = all.api->open(&gpu, ordinal, all.budget, all.cache[0] ? all.cache : NULL, err);
        if (!st) *d = (struct device_gpu){ all.api, gpu, ordinal };
    }
    pthread_mutex_unlock(&lock);
    if (!st) *out = d;
    return st;
}

const struct device_gpu *device_gpu_at(int ordinal)
{
    pthread_mutex_lock(&lock);
    const struct device_gpu *d = ordinal >= 0 && ordinal < all.count && all.cards[ordinal].gpu ? &all.cards[ordinal] : NULL;
    pthread_mutex_unlock(&lock);
    return d;
}
