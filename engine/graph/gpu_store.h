/* A graph's constants in device memory: each goes there once, when a plan first reads it, and is shared by all plans and instances. Any thread. */
#ifndef ENGINE_GRAPH_GPU_STORE_H
#define ENGINE_GRAPH_GPU_STORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/gpu.h"

struct gpu_store {
    const struct gpu_api *api;
    struct gpu           *gpu;
    int                   float_type;      /* how floats of the file are stored */
    pthread_mutex_t       lock;
    struct gpu_queue     *queue;           /* for uploads, under the lock */
    struct gpu_constant { const void *key; int slot; void *at; } *items;
    int                   count, room;
};

enum status gpu_store_open(struct gpu_store **out, const struct gpu_api *api, struct gpu *g, int float_type, struct err *err);
void        gpu_store_close(struct gpu_store *s);        /* NULL is fine */
/* The constant under (key, slot), or NULL. */
void       *gpu_store_find(struct gpu_store *s, const void *key, int slot);
/* Puts it there (if nobody was quicker). floats: data is float and becomes `type`; else bytes are copied as they are. */
enum status gpu_store_put(struct gpu_store *s, const void *key, int slot, const void *data, uint64_t count, bool floats, int type, void **out, struct err *err);
/* A copy that is the caller's, by the same rule: given back with api->free. */
enum status gpu_store_copy(struct gpu_store *s, const void *data, uint64_t count, bool floats, int type, void **out, struct err *err);

/* Device memory that lives as long as the store, under (key, slot) where key is not NULL. */
enum status gpu_store_take(struct gpu_store *s, const void *key, int slot, uint64_t bytes, void **out, struct err *err);

/* Rows of a matrix as a file has them: n rows of k numbers in blocks of `type` (enum block_type), row_bytes apart. */
struct gpu_rows { int type; const void *data; int64_t n, k, row_bytes; };
/* What such a matrix is on the device: types that its kernels do not read become F16 (MXFP4: BF16, which holds it exactly). */
struct gpu_matrix gpu_matrix_of(int type, int64_t n, int64_t k);
static inline uint64_t gpu_matrix_bytes(const struct gpu_matrix *w) { return (uint64_t)w->n * (uint64_t)w->row_bytes; }
/* Copies the rows to `at`, taken apart there as w (of gpu_matrix_of) says. */
enum status gpu_store_rows(struct gpu_store *s, const struct gpu_rows *r, const struct gpu_matrix *w, void *at, struct err *err);

#endif
