#include "kernels/gpu.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char library[] = "libinferd_cuda.so";

/* Beside the program (a build) or in the lib beside its bin (an installation). */
static void *open_near(void)
{
    static const char *const places[] = { "", "../lib/" };
    char path[PATH_MAX + sizeof library + 8];
    void *handle = NULL;
    const ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    for (size_t i = 0; slash && !handle && i < sizeof places / sizeof *places; i++) {
        snprintf(slash + 1, sizeof library + 8, "%s%s", places[i], library);
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    }
    return handle;
}

const struct gpu_api *gpu_library(const char *path, struct err *err)
{
    void *handle = path ? NULL : open_near();
    if (!handle) handle = dlopen(path ? path : library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
        err_set(err, ST_NOT_FOUND, "the GPU library cannot be opened: %s", dlerror());
        return NULL;
    }
    const struct gpu_api *(*entry)(void);
    void *symbol = dlsym(handle, "inferd_gpu_api");
    memcpy(&entry, &symbol, sizeof entry);
    const struct gpu_api *api = symbol ? entry() : NULL;
    if (!api || api->version != GPU_API_VERSION) err_set(err, ST_UNSUPPORTED, "the GPU library is of version %u where %d is needed: build both from one source", api ? api->version : 0, GPU_API_VERSION);
    else if (api->count() < 1) err_set(err, ST_UNAVAILABLE, "the GPU library finds no card that it can use (driver and card are asked through CUDA)");
    else return api;
    return NULL;
}
