/* Products through cuBLASLt. Its matrices are by columns, so y = a b by rows is asked for as y' = b' a'. Bias and the activations that it knows go into its epilogue, the residual is its C;
 * other activations are a kernel behind it. Of the algorithms that its heuristics offer the quickest is taken, timed once for each shape and kept. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/internal.h"

enum { OFFERS = 8 };

struct blas_plan {
    cublasLtMatmulDesc_t   op;
    cublasLtMatrixLayout_t a, b, y;       /* a, b in cuBLASLt's order: the right matrix of the task is its first */
    cublasLtMatmulAlgo_t   algo;
    bool                   finish;        /* the activation is a kernel of its own; so are bias and residual then */
};

static bool data_type(int type, cudaDataType *out)
{
    switch (type) {
    case GPU_F32: *out = CUDA_R_32F; return true;
    case GPU_F16: *out = CUDA_R_16F; return true;
    case GPU_BF16: *out = CUDA_R_16BF; return true;
    default: return false;
    }
}

void blas_close(struct blas_plan *p)
{
    if (!p) return;
    if (p->op) (void)cublasLtMatmulDescDestroy(p->op);
    if (p->a) (void)cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) (void)cublasLtMatrixLayoutDestroy(p->b);
    if (p->y) (void)cublasLtMatrixLayoutDestroy(p->y);
    free(p);
}

static cublasStatus_t layout(cublasLtMatrixLayout_t *out, cudaDataType type, int64_t rows, int64_t columns, int64_t batch, int64_t step)
{
    const int32_t count = (int32_t)batch;
    cublasStatus_t s = cublasLtMatrixLayoutCreate(out, type, (uint64_t)rows, (uint64_t)columns, rows);
    if (s == CUBLAS_STATUS_SUCCESS && batch > 1) s = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
    if (s == CUBLAS_STATUS_SUCCESS && batch > 1) s = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
    return s;
}

/* What the epilogue can do of bias and activation; false: a kernel of its own has to. */
static bool epilogue_of(const struct gpu_product *p, cublasLtEpilogue_t *out)
{
    switch (p->act.kind) {
    case ACT_NONE: *out = p->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT; return true;
    case ACT_RELU: *out = p->has_bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU; return true;
    case ACT_GELU_TANH: *out = p->has_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU; return true;
    default: *out = CUBLASLT_EPILOGUE_DEFAULT; return false;
    }
}

/* plain: without an epilogue of the library's. */
static enum status describe(struct blas_plan *p, struct gpu *g, const struct gpu_task *t, bool plain, struct err *err)
{
    const struct gpu_product *s = &t->u.product;
    const cublasOperation_t turned = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue;
    cudaDataType type, made;
    if (!data_type(t->type[0], &type) || t->type[1] != t->type[0] || !data_type(t->type[2], &made) || (made != type && made != CUDA_R_32F) || (s->has_bias && t->type[3] != t->type[2]) || (s->has_residual && t->type[4] != t->type[2]))
        return err_set(err, ST_UNSUPPORTED, "the product's types are not one float type, or halves with a result of floats");
    if (s->m * s->n * s->k * s->batch == 0 || s->batch > INT32_MAX) return err_set(err, ST_UNSUPPORTED, "the product is empty");
    p->finish = !epilogue_of(s, &epilogue) || plain;
    if (plain) epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    cublasStatus_t b = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);         /* floats in full, without TF32 */
    if (b == CUBLAS_STATUS_SUCCESS && s->b_turned) b = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
    if (b == CUBLAS_STATUS_SUCCESS && s->a_turned) b = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &turned, sizeof turned);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (b == CUBLAS_STATUS_SUCCESS && s->has_bias && !p->finish) b = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &made, sizeof made);
    if (b == CUBLAS_STATUS_SUCCESS) b = layout(&p->a, type, s->b_turned ? s->k : s->n, s->b_turned ? s->n : s->k, s->batch, s->b_step);
    if (b == CUBLAS_STATUS_SUCCESS) b = layout(&p->b, type, s->a_turned ? s->m : s->k, s->a_turned ? s->k : s->m, s->batch, s->a_step);
    if (b == CUBLAS_STATUS_SUCCESS) b = layout(&p->y, made, s->n, s->m, s->batch, s->m * s->n);
    return cuda_check_blas(g, b, "describing a product", err);
}

static enum status multiply(struct blas_plan *p, struct gpu_queue *q, const struct gpu_task *t, const cublasLtMatmulAlgo_t *algo, struct err *err)
{
    const struct gpu_product *s = &t->u.product;
    const bool adds = s->has_residual && !p->finish;
    const float alpha = s->alpha, beta = adds ? 1 : 0;
    cublasStatus_t b = CUBLAS_STATUS_SUCCESS;
    if (s->has_bias && !p->finish) b = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &t->at[3], sizeof t->at[3]);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasLtMatmul(q->gpu->blas, p->op, &alpha, t->at[1], p->a, t->at[0], p->b, &beta, adds ? t->at[4] : t->at[2], p->y, t->at[2], p->y, algo, q->workspace, CUDA_WORKSPACE, q->stream);
    return cuda_check_blas(q->gpu, b, "a product", err);
}

static enum status multiply_by(void *plan, const void *algo, struct gpu_queue *q, const struct gpu_task *t, struct err *err) { return multiply(plan, q, t, algo, err); }

static enum status choose(struct blas_plan *p, struct gpu *g, const struct gpu_task *t, const cublasLtMatmulHeuristicResult_t *offers, int count, struct err *err)
{
    const struct gpu_product *s = &t->u.product;
    const uint64_t y = (uint64_t)(s->m * s->n * s->batch);
    struct trial trial;
    enum status st = trial_begin(&trial, g, t, (uint64_t[]){ (uint64_t)(s->a_step ? s->a_step * s->batch : s->m * s->k), (uint64_t)(s->b_step ? s->b_step * s->batch : s->k * s->n), y, s->has_bias ? (uint64_t)s->n : 0, s->has_residual ? y : 0 }, err);
    if (st) return st;
    float best = -1;
    for (int i = 0; i < count; i++) {
        const float ms = trial_time(&trial, multiply_by, p, &offers[i].algo);
        if (ms < 0 || (best >= 0 && ms >= best)) continue;
        best = ms;
        p->algo = offers[i].algo;
    }
    st = cuda_check(g, cudaStreamSynchronize(trial.queue->stream), "timing products", err);
    trial_end(&trial);
    return st || best >= 0 ? st : err_set(err, ST_UNSUPPORTED, "no algorithm of cuBLASLt runs this product");
}

/* The quickest of what the library offers, or what was the quickest before. */
static enum status find_algorithm(struct blas_plan *p, struct gpu *g, const struct gpu_task *t, struct err *err)
{
    cublasLtMatmulPreference_t wishes = NULL;
    cublasLtMatmulHeuristicResult_t offers[OFFERS];
    const uint64_t room = CUDA_WORKSPACE;
    int count = 0;
    char key[CUDA_KEY_MAX], kept[sizeof p->algo + 1];
    cache_key(key, g, t, cublasLtGetVersion());
    if (cache_find(g, key, kept, sizeof kept)) {
        cublasLtMatmulHeuristicResult_t checked;
        memcpy(&p->algo, kept, sizeof p->algo);
        if (cublasLtMatmulAlgoCheck(g->blas, p->op, p->a, p->b, p->y, p->y, &p->algo, &checked) == CUBLAS_STATUS_SUCCESS && checked.workspaceSize <= CUDA_WORKSPACE) return ST_OK;
    }
    cublasStatus_t b = cublasLtMatmulPreferenceCreate(&wishes);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasLtMatmulPreferenceSetAttribute(wishes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasLtMatmulAlgoGetHeuristic(g->blas, p->op, p->a, p->b, p->y, p->y, wishes, OFFERS, offers, &count);
    if (wishes) (void)cublasLtMatmulPreferenceDestroy(wishes);
    enum status st = cuda_check_blas(g, b, "choosing an algorithm for a product", err);
    if (!st && count == 0) st = err_set(err, ST_UNSUPPORTED, "cuBLASLt offers nothing for this product");
    if (!st) st = choose(p, g, t, offers, count, err);
    if (!st) cache_keep(g, key, (const char *)&p->algo, sizeof p->algo);
    return st;
}

static enum status open_as(struct blas_plan **out, struct gpu *g, const struct gpu_task *t, bool plain, struct err *err)
{
    struct blas_plan *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "preparing a product");
    enum status st = describe(p, g, t, plain, err);
    pthread_mutex_lock(&g->lock);
    if (!st) st = find_algorithm(p, g, t, err);
    pthread_mutex_unlock(&g->lock);
    if (st) {
        blas_close(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

/* With the library's epilogue, or where it offers nothing with it, without: a kernel finishes the product then. */
enum status blas_open(struct blas_plan **out, struct gpu *g, const struct gpu_task *t, struct err *err)
{
    const struct gpu_product *s = &t->u.product;
    enum status st = open_as(out, g, t, false, err);
    if (st == ST_UNSUPPORTED && (s->has_bias || s->has_residual || s->act.kind != ACT_NONE)) st = open_as(out, g, t, true, err);
    return st;
}

enum status blas_run(struct blas_plan *p, struct gpu_queue *q, const struct gpu_task *t, struct err *err)
{
    const struct gpu_product *s = &t->u.product;
    enum status st = multiply(p, q, t, &p->algo, err);
    return st || !p->finish ? st : cuda_check(q->gpu, (cudaError_t)cuda_launch_finish(t, s->has_bias, s->has_residual, q->stream), "finishing a product", err);
}
