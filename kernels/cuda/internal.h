/* What the C files of the library share: the device behind struct gpu, and how errors of CUDA become statuses. */
#ifndef KERNELS_CUDA_INTERNAL_H
#define KERNELS_CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kernels/cuda/launch.h"
#include "kernels/gpu.h"

enum { CUDA_PATH_MAX = 4096, CUDA_KEY_MAX = 64 };
/* Scratch of each queue for the libraries; plans that want more are not taken. */
#define CUDA_WORKSPACE ((uint64_t)128 << 20)

struct memory;                           /* kernels/cuda/memory.c */
struct nvml;                             /* kernels/cuda/nvml.c */

struct gpu {
    int             ordinal;
    struct gpu_info info;
    char            cache[CUDA_PATH_MAX];      /* "" without */
    struct memory  *memory;
    struct nvml    *nvml;                /* NULL: not there */
    cublasLtHandle_t blas;
    pthread_mutex_t lock;                /* of choices: one task is timed at a time, on the queue below */
    struct gpu_queue *trial;             /* opened with the first task that is timed */
    _Atomic bool    lost;
};

struct gpu_queue {
    struct gpu    *gpu;
    cudaStream_t   stream;
    cudnnHandle_t  dnn;
    void          *workspace;
    cudaEvent_t    begun, ended;         /* of what ran since the last wait */
    bool           begun_is_set;
    double         milliseconds;
    char          *ring; int half; uint64_t half_used; cudaEvent_t half_free[2];      /* pinned staging for copies from memory that is not: two halves in turn */
};

/* ST_OK, or the status and sentence of a CUDA error; what is not about memory or arguments leaves the device lost. `what` says what was being done. */
enum status cuda_check(struct gpu *g, cudaError_t e, const char *what, struct err *err);
enum status cuda_check_blas(struct gpu *g, cublasStatus_t s, const char *what, struct err *err);
enum status cuda_check_dnn(struct gpu *g, cudnnStatus_t s, const char *what, struct err *err);
/* The device of this thread from now on. */
enum status cuda_use(struct gpu *g, struct err *err);

/* ---- memory.c: a caching allocator ---- */
enum status memory_open(struct memory **out, struct gpu *g, uint64_t budget, struct err *err);
void        memory_close(struct memory *m);
enum status memory_take(struct memory *m, uint64_t bytes, void **out, struct err *err);
void        memory_give(struct memory *m, void *p);
enum status memory_pin(struct memory *m, uint64_t bytes, void **out, struct err *err);
void        memory_unpin(struct memory *m, void *p);
bool        memory_is_pinned(struct memory *m, const void *p, uint64_t bytes);

/* ---- blas.c: products through cuBLASLt; dnn.c: convolutions through cuDNN. What they make hangs in the task. ST_UNSUPPORTED: the plain kernel computes it. ---- */
struct blas_plan;
enum status blas_open(struct blas_plan **out, struct gpu *g, const struct gpu_task *t, struct err *err);
void        blas_close(struct blas_plan *p);
enum status blas_run(struct blas_plan *p, struct gpu_queue *q, const struct gpu_task *t, struct err *err);
struct dnn_plan;
enum status dnn_open(struct dnn_plan **out, struct gpu *g, const struct gpu_task *t, struct err *err);
void        dnn_close(struct dnn_plan *p);
enum status dnn_run(struct dnn_plan *p, struct gpu_queue *q, const struct gpu_task *t, struct err *err);

/* ---- trial.c: what a library offers for a task, timed on buffers that hold anything; all under g->lock ---- */
struct trial { struct gpu *gpu; struct gpu_queue *queue; struct gpu_task task; void *buffers[GPU_OPERANDS]; };
/* counts: numbers of each operand; 0: it is left out. */
enum status trial_begin(struct trial *t, struct gpu *g, const struct gpu_task *task, const uint64_t *counts, struct err *err);
/* Milliseconds of some calls in a row; negative: the offer does not run. */
float       trial_time(struct trial *t, enum status (*once)(void *plan, const void *offer, struct gpu_queue *q, const struct gpu_task *task, struct err *err), void *plan, const void *offer);
void        trial_end(struct trial *t);
/* The queue of trials (device.c). */
enum status cuda_trial_queue(struct gpu *g, struct gpu_queue **out, struct err *err);

/* ---- cache.c: choices on disk, by what they hold for ---- */
/* A key of the task's numbers (addresses left out), the card, its driver and the library's version. */
void cache_key(char key[CUDA_KEY_MAX], const struct gpu *g, const struct gpu_task *t, uint64_t library_version);
/* Reads at most size - 1 bytes as a text; false: nothing is kept under the key. */
bool cache_find(const struct gpu *g, const char *key, char *text, size_t size);
void cache_keep(const struct gpu *g, const char *key, const char *text, size_t length);

/* ---- nvml.c: the driver's monitoring library, opened at run time ---- */
struct nvml *nvml_open(int ordinal);     /* NULL: not there */
void         nvml_close(struct nvml *n);
bool         nvml_sample(struct nvml *n, struct gpu_sample *out);

#endif
