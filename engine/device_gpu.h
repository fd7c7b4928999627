/* The cards of this process. The library (kernels/gpu.h) is opened once, at start; a card when the first model asks for it, and it stays open. Any thread. */
#ifndef ENGINE_DEVICE_GPU_H
#define ENGINE_DEVICE_GPU_H

#include "kernels/gpu.h"

struct device_gpu { const struct gpu_api *api; struct gpu *gpu; int ordinal; };

enum { DEVICE_GPUS_MAX = 16 };

/* Opens the library: `path` as gpu_library takes it; budget and cache as api->open does, for every card. An error when there is none to use: everything then runs on the CPU. */
enum status device_gpus_open(const char *path, uint64_t budget, const char *cache, struct err *err);
/* The same with a table that is given: tests. NULL: forgets the library and closes its cards, which nobody may use any more. */
void        device_gpus_use(const struct gpu_api *api);
/* Cards that can be asked for; 0 without a library. */
int         device_gpu_count(void);
/* Card `ordinal`, opened. One that is lost (api->lost) is refused with ST_UNAVAILABLE. */
enum status device_gpu_open(const struct device_gpu **out, int ordinal, struct err *err);
/* A card that is open, for monitoring; NULL: it is not, or there is none. */
const struct device_gpu *device_gpu_at(int ordinal);

#endif
