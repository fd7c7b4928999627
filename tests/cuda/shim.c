#include "tests/cuda/shim.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/body.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/fake_gpu.h"

enum { MEMORY = 64 << 20, ENTRIES = 4096, ATTRIBUTES = 24, OFFERED = 2 };

static uint64_t calls, fail_at;
static int out_of_memory, held, finishes;
static cudaError_t broken, last;

uint64_t shim_fail(uint64_t at, int memory)
{
    const uint64_t before = calls;
    calls = 0, fail_at = at, out_of_memory = memory;
    broken = last = cudaSuccess;
    return before;
}
static int refuses_epilogues;
void shim_refuse_epilogues(int refuse) { refuses_epilogues = refuse; }
int shim_held(void) { return held; }
int shim_finishes(void) { return finishes; }

/* Counts a call; its error when it is its turn, or the context is broken. */
static cudaError_t enter(void)
{
    if (++calls == fail_at) {
        if (out_of_memory) return last = cudaErrorMemoryAllocation;
        broken = cudaErrorLaunchFailure;
    }
    if (broken) last = broken;
    return broken;
}

static void *make(size_t size)
{
    held++;
    return calloc(1, size);
}
static void destroy(void *p)
{
    if (p) held--;
    free(p);
}

/* ---- streams and graphs ---- */
struct entry { void (*run)(void *with); void *with; };
struct CUgraph_st { struct entry entries[ENTRIES]; int count; };
struct CUgraphExec_st { struct CUgraph_st graph; };
struct CUstream_st { struct CUgraph_st *captured; };
struct CUevent_st { int recorded; };

/* Runs now, or keeps what is to be run; `with` is copied. */
static cudaError_t submit(struct CUstream_st *s, void (*run)(void *), const void *with, size_t size)
{
    const cudaError_t e = enter();
    if (e) return e;
    void *copy = malloc(size);
    memcpy(copy, with, size);
    if (!s->captured) {
        run(copy);
        free(copy);
        return cudaSuccess;
    }
    if (s->captured->count == ENTRIES) return cudaErrorStreamCaptureInvalidated;
    s->captured->entries[s->captured->count++] = (struct entry){ run, copy };
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    (void)flags;
    const cudaError_t e = enter();
    if (!e) *s = make(sizeof **s);
    return e;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    destroy(s);
    return enter();
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return (void)s, enter(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    const cudaError_t e = enter();
    if (!e) s->captured = make(sizeof *s->captured);
    return e;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    const cudaError_t e = enter();
    *graph = e ? NULL : s->captured;
    if (e && s->captured) (void)cudaGraphDestroy(s->captured);
    s->captured = NULL;
    return e;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    for (int i = 0; i < g->count; i++) free(g->entries[i].with);
    destroy(g);
    return cudaSuccess;
}
/* The entries move over. */
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags)
{
    (void)flags;
    const cudaError_t e = enter();
    if (e) return e;
    *x = make(sizeof **x);
    (*x)->graph = *g;
    g->count = 0;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    for (int i = 0; i < x->graph.count; i++) free(x->graph.entries[i].with);
    destroy(x);
    return enter();
}
cudaError_t cudaGraphUpload(cudaGraphExec_t x, cudaStream_t s) { return (void)x, (void)s, enter(); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    (void)s;
    const cudaError_t e = enter();
    for (int i = 0; i < x->graph.count && !e; i++) x->graph.entries[i].run(x->graph.entries[i].with);
    return e;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *v, unsigned flags)
{
    (void)flags;
    const cudaError_t e = enter();
    if (!e) *v = make(sizeof **v);
    return e;
}
cudaError_t cudaEventCreate(cudaEvent_t *v) { return cudaEventCreateWithFlags(v, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t v)
{
    destroy(v);
    return enter();
}
cudaError_t cudaEventRecord(cudaEvent_t v, cudaStream_t s)
{
    (void)s;
    v->recorded = 1;
    return enter();
}
cudaError_t cudaEventSynchronize(cudaEvent_t v) { return (void)v, enter(); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    *ms = 1;
    return a->recorded && b->recorded ? enter() : cudaErrorInvalidValue;
}

/* ---- the device and its memory ---- */
cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, enter(); }
cudaError_t cudaSetDevice(int n) { return n ? cudaErrorInvalidDevice : enter(); }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int n)
{
    (void)n;
    memset(p, 0, sizeof *p);
    strcpy(p->name, "shim");
    p->major = 9;
    p->multiProcessorCount = 1;
    return enter();
}
cudaError_t cudaDriverGetVersion(int *v) { return *v = 13000, enter(); }
cudaError_t cudaRuntimeGetVersion(int *v) { return *v = 13000, enter(); }
cudaError_t cudaDeviceGetPCIBusId(char *text, int n, int device) { return (void)device, snprintf(text, (size_t)n, "0"), enter(); }
cudaError_t cudaMemGetInfo(size_t *unused, size_t *all) { return *unused = *all = (size_t)1 << 32, enter(); }
cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = last;
    last = broken;
    return e;
}
const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorLaunchFailure ? "launch failure" : "an error"; }

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    const cudaError_t e = enter();
    if (e) return e;
    held++;
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    destroy(p);
    return enter();
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) { return (void)flags, cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }

struct copy { void *to; const void *from; size_t bytes; };
static void run_copy(void *with)
{
    const struct copy *c = with;
    memcpy(c->to, c->from, c->bytes);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    (void)kind;
    return submit(s, run_copy, &(struct copy){ to, from, bytes }, sizeof(struct copy));
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    (void)s;
    const cudaError_t e = enter();
    if (!e) memset(to, value, bytes);
    return e;
}

/* ---- kernels ---- */
static void run_task(void *with) { fake_gpu_compute(with); }
int cuda_launch_elements(const struct gpu_task *t, cuda_stream s) { return (int)submit(s, run_task, t, sizeof *t); }
int cuda_launch_rows(const struct gpu_task *t, cuda_stream s) { return (int)submit(s, run_task, t, sizeof *t); }
int cuda_launch_attention(const struct gpu_task *t, cuda_stream s) { return (int)submit(s, run_task, t, sizeof *t); }
int cuda_launch_llm(const struct gpu_task *t, cuda_stream s) { return (int)submit(s, run_task, t, sizeof *t); }
int cuda_launch_paged(const struct gpu_task *t, cuda_stream s) { return (int)submit(s, run_task, t, sizeof *t); }

struct finish { struct gpu_task task; bool bias, residual; };
static void run_finish(void *with)
{
    const struct finish *f = with;
    const struct gpu_task *t = &f->task;
    const bool product = t->kind == GPU_PRODUCT;
    const int64_t columns = product ? t->u.product.n : t->u.conv.out_c;
    for (int64_t i = 0, n = body_elements(t); i < n; i++)
        body_store(t->at[2], t->type[2], i, body_finish(t, i, i % columns, body_load(t->at[2], t->type[2], i), f->bias, f->residual, product ? t->u.product.act : t->u.conv.act));
}
int cuda_launch_finish(const struct gpu_task *t, bool bias, bool residual, cuda_stream s)
{
    finishes++;
    return (int)submit(s, run_finish, &(struct finish){ *t, bias, residual }, sizeof(struct finish));
}

/* ---- cuBLASLt: what a product is asked for is kept as it is set ---- */
struct layout { cudaDataType type; uint64_t rows, columns; int64_t ld, step; int32_t batch; };
struct matmul { cublasOperation_t ta, tb; cublasLtEpilogue_t epilogue; const void *bias; };

static cublasStatus_t enter_blas(void)
{
    const cudaError_t e = enter();
    return e == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED : e ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    const cublasStatus_t s = enter_blas();
    if (!s) *h = make(1);
    return s;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    destroy(h);
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) { return 1; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale)
{
    const cublasStatus_t s = enter_blas();
    struct matmul *m = s || compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F ? NULL : make(sizeof *m);
    if (m) m->ta = m->tb = CUBLAS_OP_N, m->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    *d = (cublasLtMatmulDesc_t)(void *)m;
    return s ? s : m ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    destroy((void *)d);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name, const void *value, size_t size)
{
    struct matmul *m = (struct matmul *)(void *)d;
    (void)size;
    if (name == CUBLASLT_MATMUL_DESC_TRANSA) memcpy(&m->ta, value, sizeof m->ta);
    else if (name == CUBLASLT_MATMUL_DESC_TRANSB) memcpy(&m->tb, value, sizeof m->tb);
    else if (name == CUBLASLT_MATMUL_DESC_EPILOGUE) memcpy(&m->epilogue, value, sizeof m->epilogue);
    else if (name == CUBLASLT_MATMUL_DESC_BIAS_POINTER) memcpy(&m->bias, value, sizeof m->bias);
    else if (name != CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE) return CUBLAS_STATUS_INVALID_VALUE;
    return enter_blas();
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld)
{
    const cublasStatus_t s = enter_blas();
    struct layout *p = s ? NULL : make(sizeof *p);
    if (p) *p = (struct layout){ type, rows, columns, ld, 0, 1 };
    *l = (cublasLtMatrixLayout_t)(void *)p;
    return s;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    destroy((void *)l);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t name, const void *value, size_t size)
{
    struct layout *p = (struct layout *)(void *)l;
    (void)size;
    if (name == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) memcpy(&p->batch, value, sizeof p->batch);
    else if (name == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) memcpy(&p->step, value, sizeof p->step);
    else return CUBLAS_STATUS_INVALID_VALUE;
    return enter_blas();
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    const cublasStatus_t s = enter_blas();
    *p = s ? NULL : make(1);
    return s;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    destroy((void *)p);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t name, const void *value, size_t size) { return (void)p, (void)name, (void)value, (void)size, enter_blas(); }
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y, cublasLtMatmulPreference_t wishes, int most,
                                              cublasLtMatmulHeuristicResult_t *offers, int *count)
{
    (void)h, (void)a, (void)b, (void)c, (void)y, (void)wishes;
    *count = refuses_epilogues && ((struct matmul *)(void *)d)->epilogue != CUBLASLT_EPILOGUE_DEFAULT ? 0 : most < OFFERED ? most : OFFERED;
    memset(offers, 0, (size_t)*count * sizeof *offers);
    return enter_blas();
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y, const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *out)
{
    (void)h, (void)d, (void)a, (void)b, (void)c, (void)y, (void)algo;
    memset(out, 0, sizeof *out);
    return enter_blas();
}

static int type_of(cudaDataType t) { return t == CUDA_R_32F ? GPU_F32 : t == CUDA_R_16F ? GPU_F16 : GPU_BF16; }

/* By columns: y [rows, columns] = epilogue(alpha op(a) op(b) + beta c). */
struct multiply { struct matmul m; struct layout a, b, y; float alpha, beta; const void *at_a, *at_b, *at_c; void *at_y; };
static void run_multiply(void *with)
{
    const struct multiply *j = with;
    const bool ta = j->m.ta == CUBLAS_OP_T, tb = j->m.tb == CUBLAS_OP_T;
    const int64_t depth = (int64_t)(ta ? j->a.rows : j->a.columns);
    const int type = type_of(j->y.type);
    const bool bias = j->m.epilogue == CUBLASLT_EPILOGUE_BIAS || j->m.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS || j->m.epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
    const enum activation act = j->m.epilogue == CUBLASLT_EPILOGUE_RELU || j->m.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS ? ACT_RELU : j->m.epilogue == CUBLASLT_EPILOGUE_GELU || j->m.epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ? ACT_GELU_TANH : ACT_NONE;
    for (int64_t n = 0; n < j->y.batch; n++)
        for (int64_t column = 0; column < (int64_t)j->y.columns; column++)
            for (int64_t row = 0; row < (int64_t)j->y.rows; row++) {
                const int64_t at = n * j->y.step + column * j->y.ld + row;
                float sum = 0;
                for (int64_t k = 0; k < depth; k++)
                    sum += body_load(j->at_a, type_of(j->a.type), n * j->a.step + (ta ? row * j->a.ld + k : k * j->a.ld + row)) * body_load(j->at_b, type_of(j->b.type), n * j->b.step + (tb ? k * j->b.ld + column : column * j->b.ld + k));
                sum *= j->alpha;
                if (j->beta != 0) sum += j->beta * body_load(j->at_c, type, at);
                if (bias) sum += body_load(j->m.bias, type, row);
                body_store(j->at_y, type, at, body_activate(sum, (struct activation_spec){ act, 0, 0 }));
            }
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a, cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t lc,
                              void *y, cublasLtMatrixLayout_t ly, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes, cudaStream_t s)
{
    (void)h, (void)lc, (void)algo, (void)bytes;
    const struct multiply j = { *(struct matmul *)(void *)d, *(struct layout *)(void *)la, *(struct layout *)(void *)lb, *(struct layout *)(void *)ly, *(const float *)alpha, *(const float *)beta, a, b, c, y };
    if (!workspace) return CUBLAS_STATUS_INVALID_VALUE;
    const cudaError_t e = submit(s, run_multiply, &j, sizeof j);
    return e == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED : e ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

/* ---- cuDNN's graphs: descriptors keep what is set; a plan walks its operations ---- */
struct cudnnContext { cudaStream_t stream; };
struct attribute { cudnnBackendAttributeName_t name; int64_t count; char value[128]; };
struct shim_descriptor { cudnnBackendDescriptorType_t type; bool finished; struct attribute attributes[ATTRIBUTES]; int count; struct shim_descriptor *kept /* a plan's own copy of its graph */; };

static cudnnStatus_t enter_dnn(void)
{
    const cudaError_t e = enter();
    return e == cudaErrorMemoryAllocation ? CUDNN_STATUS_ALLOC_FAILED : e ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}
size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
const char *cudnnGetErrorString(cudnnStatus_t s) { return s == CUDNN_STATUS_NOT_SUPPORTED ? "not supported" : "an error"; }
cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    const cudnnStatus_t s = enter_dnn();
    if (!s) *h = make(sizeof **h);
    return s;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    destroy(h);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s) { return h->stream = s, enter_dnn(); }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out)
{
    const cudnnStatus_t s = enter_dnn();
    struct shim_descriptor *d = s ? NULL : make(sizeof *d);
    if (d) d->type = type;
    if (d) *out = d;
    return s;
}
static void drop(struct shim_descriptor *d);
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t p)
{
    struct shim_descriptor *d = p;
    drop(d->kept);
    destroy(d);
    return CUDNN_STATUS_SUCCESS;
}
static size_t size_of(cudnnBackendAttributeType_t t)
{
    return t == CUDNN_TYPE_INT64 || t == CUDNN_TYPE_DOUBLE || t == CUDNN_TYPE_BACKEND_DESCRIPTOR || t == CUDNN_TYPE_VOID_PTR || t == CUDNN_TYPE_HANDLE ? 8 : t == CUDNN_TYPE_BOOLEAN || t == CUDNN_TYPE_CHAR ? 1 : 4;
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    struct shim_descriptor *d = p;
    const size_t bytes = size_of(type) * (size_t)count;
    if (d->finished || d->count == ATTRIBUTES || bytes > sizeof d->attributes[0].value) return CUDNN_STATUS_BAD_PARAM;
    struct attribute *a = &d->attributes[d->count++];
    a->name = name;
    a->count = count;
    memcpy(a->value, value, bytes);
    return enter_dnn();
}
static const void *find(const struct shim_descriptor *d, cudnnBackendAttributeName_t name, int64_t *count)
{
    for (int i = 0; d && i < d->count; i++)
        if (d->attributes[i].name == name) {
            if (count) *count = d->attributes[i].count;
            return d->attributes[i].value;
        }
    return NULL;
}
static const struct shim_descriptor *at(const struct shim_descriptor *d, cudnnBackendAttributeName_t name)
{
    const void *p = find(d, name, NULL);
    const struct shim_descriptor *out = NULL;
    if (p) memcpy(&out, p, sizeof out);
    return out;
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most, int64_t *count, void *value)
{
    const struct shim_descriptor *d = p;
    (void)type;
    *count = 0;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS)          /* configurations that point at the graph */
        for (; *count < most && *count < OFFERED; ++*count) {
            struct shim_descriptor *c = ((struct shim_descriptor **)value)[*count];
            c->attributes[0] = *(struct attribute *)(void *)&d->attributes[0];
            c->count = 1;
        }
    else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) *count = 1, *(int64_t *)value = 0;
    else if (name == CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION) return CUDNN_STATUS_NOT_SUPPORTED;
    return enter_dnn();
}

static int64_t uid_of(const struct shim_descriptor *t) { return *(const int64_t *)find(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, NULL); }
static int gpu_type_of(const struct shim_descriptor *t)
{
    const cudnnDataType_t d = *(const cudnnDataType_t *)find(t, CUDNN_ATTR_TENSOR_DATA_TYPE, NULL);
    return d == CUDNN_DATA_HALF ? GPU_F16 : d == CUDNN_DATA_BFLOAT16 ? GPU_BF16 : GPU_F32;
}

struct execution { const struct shim_descriptor *graph; int64_t uids[8]; void *at[8]; int count; };
static void *address(const struct execution *x, const struct shim_descriptor *t)
{
    for (int i = 0; i < x->count; i++)
        if (x->uids[i] == uid_of(t)) return x->at[i];
    return NULL;
}

/* The convolution into floats, channels last. */
static float *convolve(const struct execution *x, const struct shim_descriptor *op, int64_t *count, int64_t *channels)
{
    const bool back = op->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
    const struct shim_descriptor *in = at(op, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X), *w = at(op, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W);
    const struct shim_descriptor *out = at(op, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y), *c = at(op, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    int64_t rank = 0;
    const int64_t *xd = find(in, CUDNN_ATTR_TENSOR_DIMENSIONS, &rank), *wd = find(w, CUDNN_ATTR_TENSOR_DIMENSIONS, NULL), *yd = find(out, CUDNN_ATTR_TENSOR_DIMENSIONS, NULL);
    struct gpu_task t = { .kind = GPU_CONV, .operands = 3, .type = { gpu_type_of(in), gpu_type_of(w), GPU_F32 } };
    struct gpu_conv *g = &t.u.conv;
    *g = (struct gpu_conv){ .n = xd[0], .in_c = xd[1], .out_c = yd[1], .transposed = back, .groups = back ? yd[1] / wd[1] : xd[1] / wd[1], .w.dims = (int)rank - 2 };
    *count = g->n * g->out_c;
    *channels = g->out_c;
    for (int d = 0; d < g->w.dims; d++) {
        g->w.in[d] = back ? yd[2 + d] : xd[2 + d];
        g->w.out[d] = back ? xd[2 + d] : yd[2 + d];
        g->w.kernel[d] = wd[2 + d];
        g->w.stride[d] = ((const int64_t *)find(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, NULL))[d];
        g->w.dilation[d] = ((const int64_t *)find(c, CUDNN_ATTR_CONVOLUTION_DILATIONS, NULL))[d];
        g->w.low[d] = ((const int64_t *)find(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, NULL))[d];
        *count *= yd[2 + d];
    }
    float *y = malloc((size_t)*count * sizeof *y);
    t.at[0] = address(x, in), t.at[1] = address(x, w), t.at[2] = y;
    fake_gpu_compute(&t);
    const double beta = *(const double *)find(op, back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, NULL);
    for (int64_t i = 0; i < *count && beta != 0; i++) y[i] += (float)beta * body_load(address(x, out), gpu_type_of(out), i);
    return y;
}

static void run_plan(void *with)
{
    const struct execution *x = with;
    int64_t ops = 0, count = 0, channels = 1;
    const struct shim_descriptor *const *op = find(x->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, &ops), *last_y = NULL;
    float *y = convolve(x, op[0], &count, &channels);
    for (int64_t i = 1; i < ops; i++) {
        const struct shim_descriptor *p = at(op[i], CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), *b = at(op[i], CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
        const cudnnPointwiseMode_t mode = *(const cudnnPointwiseMode_t *)find(p, CUDNN_ATTR_POINTWISE_MODE, NULL);
        const double *high = find(p, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, NULL);
        const enum activation act = mode == CUDNN_POINTWISE_SIGMOID_FWD ? ACT_SIGMOID : mode == CUDNN_POINTWISE_TANH_FWD ? ACT_TANH : mode == CUDNN_POINTWISE_SWISH_FWD ? ACT_SILU : mode == CUDNN_POINTWISE_GELU_FWD ? ACT_GELU : high ? ACT_CLIP : ACT_RELU;
        const bool row = b && ((const int64_t *)find(b, CUDNN_ATTR_TENSOR_DIMENSIONS, NULL))[0] == 1 && uid_of(b) == 4;
        for (int64_t k = 0; k < count; k++) y[k] = mode == CUDNN_POINTWISE_ADD ? y[k] + body_load(address(x, b), gpu_type_of(b), row ? k % channels : k) : body_activate(y[k], (struct activation_spec){ act, 0, high ? (float)*high : 0 });
        last_y = at(op[i], CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    }
    const bool back = op[0]->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
    if (!last_y) last_y = at(op[0], back ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
    for (int64_t k = 0; k < count; k++) body_store(address(x, last_y), gpu_type_of(last_y), k, y[k]);
    free(y);
}

/* What a descriptor points at: the graph's descriptors are destroyed once the plan stands, so a plan keeps a copy of them all. */
static int pointers_of(const struct attribute *a)
{
    const cudnnBackendAttributeName_t n = a->name;
    if (n == CUDNN_ATTR_OPERATIONGRAPH_OPS) return (int)a->count;
    return n == CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR || (n >= CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC && n <= CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y)
        || (n >= CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC && n <= CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY) || (n >= CUDNN_ATTR_OPERATION_POINTWISE_XDESC && n <= CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
}
static struct shim_descriptor *keep(const struct shim_descriptor *d)
{
    struct shim_descriptor *copy = malloc(sizeof *copy), *p;
    *copy = *d;
    copy->kept = NULL;
    for (int i = 0; i < copy->count; i++)
        for (int k = 0; k < pointers_of(&copy->attributes[i]); k++) {
            memcpy(&p, copy->attributes[i].value + 8 * k, sizeof p);
            p = keep(p);
            memcpy(copy->attributes[i].value + 8 * k, &p, sizeof p);
        }
    return copy;
}
static void drop(struct shim_descriptor *d)
{
    struct shim_descriptor *p;
    for (int i = 0; d && i < d->count; i++)
        for (int k = 0; k < pointers_of(&d->attributes[i]); k++) {
            memcpy(&p, d->attributes[i].value + 8 * k, sizeof p);
            drop(p);
        }
    free(d);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t p)
{
    struct shim_descriptor *d = p;
    const struct shim_descriptor *config = at(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG), *graph = config ? at(config, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH) : NULL;
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && graph) d->kept = keep(graph);
    d->finished = true;
    return enter_dnn();
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    struct execution x = { .graph = NULL };
    int64_t count = 0;
    const int64_t *uids = find(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &count);
    void *const *addresses = find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, NULL);
    x.count = (int)count;
    memcpy(x.uids, uids, (size_t)count * sizeof *uids);
    memcpy(x.at, addresses, (size_t)count * sizeof *addresses);
    x.graph = ((const struct shim_descriptor *)plan)->kept;
    const cudaError_t e = submit(h->stream, run_plan, &x, sizeof x);
    return e == cudaErrorMemoryAllocation ? CUDNN_STATUS_ALLOC_FAILED : e ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}
