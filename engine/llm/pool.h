/* Where the keys and values of an instance lie: memory of the host, or of the card that its graph runs on. A page has a plane in each layer; planes of a layer lie side by side. */
#ifndef ENGINE_LLM_POOL_H
#define ENGINE_LLM_POOL_H

#include "engine/device_gpu.h"

struct pool {
    const struct device_gpu *gpu;        /* NULL: of the host */
    char            *at;                 /* host memory, or a device address */
    struct gpu_queue *queue;             /* of the card, for what is copied here */
    uint64_t         bytes;
    int32_t          pages;
    int              planes;
    uint64_t         plane_bytes;        /* of a page in one layer */
};

/* All 0 at first, on the host without taking memory before it is written. */
enum status pool_open(struct pool *p, const struct device_gpu *gpu, int32_t pages, int planes, uint64_t page_bytes, struct err *err);
void        pool_close(struct pool *p);
/* Between a page and its bytes [page_bytes], plane behind plane. */
enum status pool_read(struct pool *p, int32_t page, char *bytes, struct err *err);
enum status pool_write(struct pool *p, int32_t page, const char *bytes, struct err *err);

#endif
