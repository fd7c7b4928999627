/* The device and its queues, and the table that the library exports. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/internal.h"

enum { RING_HALF = 8 << 20 };

/* ---- errors ---- */
/* Errors that say something of this call alone; any other may have broken the context. */
static bool is_harmless(cudaError_t e)
{
    return e == cudaErrorInvalidValue || e == cudaErrorInvalidConfiguration || e == cudaErrorNotSupported || e == cudaErrorInvalidDevice || e == cudaErrorStreamCaptureUnsupported || e == cudaErrorStreamCaptureInvalidated || e == cudaErrorInvalidDeviceFunction;
}

enum status cuda_check(struct gpu *g, cudaError_t e, const char *what, struct err *err)
{
    if (e == cudaSuccess) return ST_OK;
    (void)cudaGetLastError();
    if (e == cudaErrorMemoryAllocation) return err_set(err, ST_NO_MEMORY, "%s: the GPU is out of memory", what);
    if (is_harmless(e)) return err_set(err, ST_INTERNAL, "%s: %s", what, cudaGetErrorString(e));
    if (g) g->lost = true;
    return err_set(err, ST_UNAVAILABLE, "%s: %s; the GPU is lost to this process", what, cudaGetErrorString(e));
}

enum status cuda_check_blas(struct gpu *g, cublasStatus_t s, const char *what, struct err *err)
{
    if (s == CUBLAS_STATUS_SUCCESS) return ST_OK;
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_ARCH_MISMATCH || s == CUBLAS_STATUS_INVALID_VALUE) return err_set(err, ST_UNSUPPORTED, "%s: cuBLASLt status %d", what, (int)s);
    if (s == CUBLAS_STATUS_ALLOC_FAILED) return err_set(err, ST_NO_MEMORY, "%s: cuBLASLt is out of memory", what);
    if (s == CUBLAS_STATUS_EXECUTION_FAILED || s == CUBLAS_STATUS_INTERNAL_ERROR || s == CUBLAS_STATUS_MAPPING_ERROR) {
        enum status st = cuda_check(g, cudaGetLastError(), what, err);
        return st ? st : err_set(err, ST_INTERNAL, "%s: cuBLASLt status %d", what, (int)s);
    }
    return err_set(err, ST_INTERNAL, "%s: cuBLASLt status %d", what, (int)s);
}

enum status cuda_check_dnn(struct gpu *g, cudnnStatus_t s, const char *what, struct err *err)
{
    if (s == CUDNN_STATUS_SUCCESS) return ST_OK;
    const int family = (int)s / 1000;
    if (family == 3 || family == 2) return err_set(err, ST_UNSUPPORTED, "%s: %s", what, cudnnGetErrorString(s));       /* not supported, bad parameter */
    if (family == 5) {                             /* execution failed */
        enum status st = cuda_check(g, cudaGetLastError(), what, err);
        return st ? st : err_set(err, ST_INTERNAL, "%s: %s", what, cudnnGetErrorString(s));
    }
    return err_set(err, s == CUDNN_STATUS_ALLOC_FAILED ? ST_NO_MEMORY : ST_INTERNAL, "%s: %s", what, cudnnGetErrorString(s));
}

enum status cuda_use(struct gpu *g, struct err *err)
{
    if (g->lost) return err_set(err, ST_UNAVAILABLE, "GPU %d is lost to this process", g->ordinal);
    return cuda_check(g, cudaSetDevice(g->ordinal), "choosing the GPU", err);
}

/* ---- the device ---- */
static int count_cards(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return n;
}

static void close_card(struct gpu *g);

static enum status read_card(struct gpu *g, struct err *err)
{
    struct cudaDeviceProp p;
    int driver = 0, runtime = 0;
    size_t unused = 0, all = 0;
    enum status st = cuda_check(g, cudaGetDeviceProperties(&p, g->ordinal), "reading the GPU's properties", err);
    if (st) return st;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    st = cuda_check(g, cudaMemGetInfo(&unused, &all), "reading the GPU's memory", err);
    if (st) return st;
    snprintf(g->info.name, sizeof g->info.name, "%.*s", GPU_TEXT - 1, p.name);
    snprintf(g->info.driver, sizeof g->info.driver, "driver for CUDA %d.%d, runtime %d.%d, cuDNN %llu", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, (unsigned long long)cudnnGetVersion());
    const unsigned char *u = (const unsigned char *)p.uuid.bytes;
    snprintf(g->info.uuid, sizeof g->info.uuid, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    g->info.major = p.major;
    g->info.minor = p.minor;
    g->info.processors = p.multiProcessorCount;
    g->info.memory = all;
    if (!g->info.budget) g->info.budget = (uint64_t)unused / 10 * 9;
    if (p.major < 8) return err_set(err, ST_UNSUPPORTED, "GPU %d, %s, is of compute capability %d.%d; 8.0 is the least", g->ordinal, p.name, p.major, p.minor);
    return ST_OK;
}

static enum status open_card(struct gpu **out, int ordinal, uint64_t budget, const char *cache, struct err *err)
{
    struct gpu *g = calloc(1, sizeof *g);
    if (!g) return err_set(err, ST_NO_MEMORY, "opening the GPU");
    g->ordinal = ordinal;
    g->info.budget = budget;
    if (cache) snprintf(g->cache, sizeof g->cache, "%s", cache);
    pthread_mutex_init(&g->lock, NULL);
    enum status st = cuda_use(g, err);
    if (!st) st = read_card(g, err);
    if (!st) st = memory_open(&g->memory, g, g->info.budget, err);
    if (!st) st = cuda_check_blas(g, cublasLtCreate(&g->blas), "opening cuBLASLt", err);
    if (st) {
        close_card(g);
        return st;
    }
    g->nvml = nvml_open(ordinal);
    *out = g;
    return ST_OK;
}

static void queue_close(struct gpu_queue *q);

static void close_card(struct gpu *g)
{
    if (!g) return;
    queue_close(g->trial);
    if (g->blas) (void)cublasLtDestroy(g->blas);
    memory_close(g->memory);
    nvml_close(g->nvml);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static void card_info(const struct gpu *g, struct gpu_info *out) { *out = g->info; }
static bool card_sample(struct gpu *g, struct gpu_sample *out) { return g->nvml && nvml_sample(g->nvml, out); }
static bool card_lost(const struct gpu *g) { return g->lost; }
static enum status card_alloc(struct gpu *g, uint64_t bytes, void **out, struct err *err) { return memory_take(g->memory, bytes, out, err); }
static void card_free(struct gpu *g, void *p) { memory_give(g->memory, p); }
static enum status card_pin(struct gpu *g, uint64_t bytes, void **out, struct err *err) { return memory_pin(g->memory, bytes, out, err); }
static void card_unpin(struct gpu *g, void *p) { memory_unpin(g->memory, p); }

/* ---- queues ---- */
static enum status queue_open(struct gpu *g, struct gpu_queue **out, struct err *err)
{
    struct gpu_queue *q = calloc(1, sizeof *q);
    void *ring = NULL;
    if (!q) return err_set(err, ST_NO_MEMORY, "opening a queue of the GPU");
    q->gpu = g;
    q->milliseconds = -1;
    enum status st = cuda_use(g, err);
    if (!st) st = cuda_check(g, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "making a stream", err);
    if (!st) st = cuda_check(g, cudaEventCreate(&q->begun), "making an event", err);
    if (!st) st = cuda_check(g, cudaEventCreate(&q->ended), "making an event", err);
    for (int i = 0; i < 2 && !st; i++) st = cuda_check(g, cudaEventCreateWithFlags(&q->half_free[i], cudaEventDisableTiming), "making an event", err);
    if (!st) st = cuda_check_dnn(g, cudnnCreate(&q->dnn), "opening cuDNN", err);
    if (!st) st = cuda_check_dnn(g, cudnnSetStream(q->dnn, q->stream), "opening cuDNN", err);
    if (!st) st = memory_take(g->memory, CUDA_WORKSPACE, &q->workspace, err);
    if (!st) st = memory_pin(g->memory, 2 * RING_HALF, &ring, err);
    q->ring = ring;
    if (st) {
        queue_close(q);
        return st;
    }
    *out = q;
    return ST_OK;
}

static void queue_close(struct gpu_queue *q)
{
    if (!q) return;
    if (q->stream) (void)cudaStreamSynchronize(q->stream);
    if (q->dnn) (void)cudnnDestroy(q->dnn);
    for (int i = 0; i < 2; i++)
        if (q->half_free[i]) (void)cudaEventDestroy(q->half_free[i]);
    if (q->begun) (void)cudaEventDestroy(q->begun);
    if (q->ended) (void)cudaEventDestroy(q->ended);
    memory_give(q->gpu->memory, q->workspace);
    memory_unpin(q->gpu->memory, q->ring);
    if (q->stream) (void)cudaStreamDestroy(q->stream);
    free(q);
}

enum status cuda_trial_queue(struct gpu *g, struct gpu_queue **out, struct err *err)
{
    enum status st = g->trial ? ST_OK : queue_open(g, &g->trial, err);
    *out = g->trial;
    return st;
}

/* The first work since the last wait begins the time that milliseconds tells. */
static enum status begin(struct gpu_queue *q, struct err *err)
{
    enum status st = cuda_use(q->gpu, err);
    if (st || q->begun_is_set) return st;
    q->begun_is_set = true;
    return cuda_check(q->gpu, cudaEventRecord(q->begun, q->stream), "timing", err);
}

static enum status put(struct gpu_queue *q, void *device, const void *host, uint64_t bytes, struct err *err)
{
    enum status st = begin(q, err);
    if (st || bytes == 0) return st;
    if (bytes > RING_HALF || memory_is_pinned(q->gpu->memory, host, bytes)) return cuda_check(q->gpu, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, q->stream), "copying to the GPU", err);
    if (q->half_used + bytes > RING_HALF) {          /* on to the other half, once its copies are done */
        st = cuda_check(q->gpu, cudaEventRecord(q->half_free[q->half], q->stream), "copying to the GPU", err);
        q->half = !q->half;
        q->half_used = 0;
        if (!st) st = cuda_check(q->gpu, cudaEventSynchronize(q->half_free[q->half]), "copying to the GPU", err);
        if (st) return st;
    }
    char *at = q->ring + (uint64_t)q->half * RING_HALF + q->half_used;
    memcpy(at, host, bytes);
    q->half_used += (bytes + 255) & ~(uint64_t)255;
    return cuda_check(q->gpu, cudaMemcpyAsync(device, at, bytes, cudaMemcpyHostToDevice, q->stream), "copying to the GPU", err);
}

static enum status get(struct gpu_queue *q, void *host, const void *device, uint64_t bytes, struct err *err)
{
    enum status st = begin(q, err);
    return st || bytes == 0 ? st : cuda_check(q->gpu, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, q->stream), "copying from the GPU", err);
}

static enum status wait_all(struct gpu_queue *q, struct err *err)
{
    enum status st = cuda_use(q->gpu, err);
    if (st) return st;
    float ms = -1;
    if (q->begun_is_set) st = cuda_check(q->gpu, cudaEventRecord(q->ended, q->stream), "timing", err);
    if (!st) st = cuda_check(q->gpu, cudaStreamSynchronize(q->stream), "waiting for the GPU", err);
    if (!st && q->begun_is_set && cudaEventElapsedTime(&ms, q->begun, q->ended) != cudaSuccess) (void)cudaGetLastError();
    q->milliseconds = (double)ms;
    q->begun_is_set = false;
    q->half_used = 0;
    return st;
}

static double milliseconds(struct gpu_queue *q) { return q->milliseconds; }

/* ---- tasks ---- */
/* What a task goes through: a library's plan, or (both NULL) a kernel of ours. */
struct prepared { struct blas_plan *blas; struct dnn_plan *dnn; };

/* Dimensions that index arithmetic of 32 bits is right for. */
static bool fits(const struct gpu_task *t)
{
    if (t->kind == GPU_POINTWISE)
        for (int d = 0; d < t->u.pointwise.rank; d++)
            if (t->u.pointwise.dims[d] > INT32_MAX) return false;
    if (t->kind == GPU_MOVE)
        for (int d = 0; d < t->u.move.rank; d++)
            if (t->u.move.dims[d] > INT32_MAX) return false;
    return true;
}

static enum status prepare(struct gpu *g, struct gpu_task *t, struct err *err)
{
    enum { HEAD_MAX = 512 };
    if (!fits(t)) return err_set(err, ST_UNSUPPORTED, "a dimension is too large for the GPU's kernels");
    if (t->kind == GPU_ATTENTION && (t->u.attention.head_dim > HEAD_MAX || t->u.attention.head_dim_v > HEAD_MAX)) return err_set(err, ST_UNSUPPORTED, "a head of attention has more than %d numbers", HEAD_MAX);
    struct prepared *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "preparing a task");
    enum status st = cuda_use(g, err);
    if (!st && t->kind == GPU_PRODUCT) st = blas_open(&p->blas, g, t, err);
    if (!st && t->kind == GPU_CONV) st = dnn_open(&p->dnn, g, t, err);
    if (st == ST_UNSUPPORTED) st = ST_OK;                /* the plain kernel */
    if (st) {
        free(p);
        return st;
    }
    t->prepared = p;
    return ST_OK;
}

static void release(struct gpu *g, struct gpu_task *t)
{
    struct prepared *p = t->prepared;
    (void)g;
    if (!p) return;
    blas_close(p->blas);
    dnn_close(p->dnn);
    free(p);
    t->prepared = NULL;
}

static enum status run_one(struct gpu_queue *q, const struct gpu_task *t, struct err *err)
{
    const struct prepared *p = t->prepared;
    if (p->blas) return blas_run(p->blas, q, t, err);
    if (p->dnn) return dnn_run(p->dnn, q, t, err);
    switch (t->kind) {
    case GPU_REDUCE: case GPU_SOFTMAX: case GPU_NORM_ROWS: case GPU_NORM_CHANNELS: return cuda_check(q->gpu, (cudaError_t)cuda_launch_rows(t, q->stream), "starting a kernel over rows", err);
    case GPU_ATTENTION: return cuda_check(q->gpu, (cudaError_t)cuda_launch_attention(t, q->stream), "starting attention", err);
    case GPU_EMBED: case GPU_LINEAR: case GPU_GATE: case GPU_ROPE_TABLE: case GPU_STORE: case GPU_ROUTE: case GPU_COMBINE: return cuda_check(q->gpu, (cudaError_t)cuda_launch_llm(t, q->stream), "starting a kernel of a language model", err);
    case GPU_PAGED: return cuda_check(q->gpu, (cudaError_t)cuda_launch_paged(t, q->stream), "starting attention over pages", err);
    default: return cuda_check(q->gpu, (cudaError_t)cuda_launch_elements(t, q->stream), "starting a kernel over elements", err);
    }
}

static enum status run(struct gpu_queue *q, const struct gpu_task *tasks, int count, struct err *err)
{
    enum status st = begin(q, err);
    for (int i = 0; i < count && !st; i++) st = run_one(q, &tasks[i], err);
    return st;
}

/* ---- recordings: CUDA graphs ---- */
struct gpu_recording { cudaGraphExec_t graph; };

static enum status record(struct gpu_queue *q, const struct gpu_task *tasks, int count, struct gpu_recording **out, struct err *err)
{
    cudaGraph_t graph = NULL;
    struct gpu_recording *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "recording tasks");
    enum status st = cuda_use(q->gpu, err);
    if (!st) st = cuda_check(q->gpu, cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal), "recording tasks", err);
    if (st) {
        free(r);
        return st;
    }
    for (int i = 0; i < count && !st; i++) st = run_one(q, &tasks[i], err);
    const cudaError_t ended = cudaStreamEndCapture(q->stream, &graph);
    if (!st) st = cuda_check(q->gpu, ended, "recording tasks", err);
    else (void)cudaGetLastError();
    if (!st) st = cuda_check(q->gpu, cudaGraphInstantiate(&r->graph, graph, 0), "recording tasks", err);
    if (!st) st = cuda_check(q->gpu, cudaGraphUpload(r->graph, q->stream), "recording tasks", err);
    if (graph) (void)cudaGraphDestroy(graph);
    if (st) {
        if (r->graph) (void)cudaGraphExecDestroy(r->graph);
        free(r);
        return st;
    }
    *out = r;
    return ST_OK;
}

static enum status replay(struct gpu_queue *q, struct gpu_recording *r, struct err *err)
{
    enum status st = begin(q, err);
    return st ? st : cuda_check(q->gpu, cudaGraphLaunch(r->graph, q->stream), "starting recorded tasks", err);
}

static void recording_close(struct gpu_recording *r)
{
    if (!r) return;
    (void)cudaGraphExecDestroy(r->graph);
    free(r);
}

__attribute__((visibility("default"))) const struct gpu_api *inferd_gpu_api(void)
{
    static const struct gpu_api api = {
        .version = GPU_API_VERSION, .name = "cuda", .count = count_cards, .open = open_card, .close = close_card, .info = card_info, .sample = card_sample, .lost = card_lost, .alloc = card_alloc, .free = card_free,
        .pin = card_pin, .unpin = card_unpin, .queue_open = queue_open, .queue_close = queue_close, .put = put, .get = get, .wait = wait_all, .milliseconds = milliseconds, .prepare = prepare, .release = release, .run = run,
        .record = record, .replay = replay, .recording_close = recording_close,
    };
    return &api;
}
