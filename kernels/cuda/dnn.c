/* Convolutions through cuDNN's graph interface: the convolution with residual, bias and activation behind it as one graph where an engine takes that, else added to the residual in y (beta 1;
 * y may be the residual itself) with a kernel of ours for the rest behind it. Of the engines that its heuristics offer the quickest is taken, timed once for each shape; its plan is kept on disk as the library writes it. In f32 engines that round inputs (TF32)
 * are passed over. Everything is channels last. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/body.h"
#include "kernels/cuda/internal.h"

enum { OFFERS = 10, PARTS = 5 /* operands of the task */, MADE = 20 + OFFERS /* a graph with everything fused is 18 descriptors */, PLAN_TEXT_MAX = 1 << 20 };

struct dnn_plan {
    cudnnBackendDescriptor_t plan;
    bool fused;                      /* residual, bias and activation are in the plan */
};

/* Descriptors that describe one graph, all destroyed together. */
struct builder { const struct gpu_task *task; cudnnBackendDescriptor_t made[MADE]; int count; cudnnStatus_t status; };

static bool ok(const struct builder *b) { return b->status == CUDNN_STATUS_SUCCESS; }

static cudnnBackendDescriptor_t make(struct builder *b, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;
    if (ok(b) && b->count == MADE) b->status = CUDNN_STATUS_BAD_PARAM;
    if (ok(b)) b->status = cudnnBackendCreateDescriptor(type, &d);
    if (ok(b)) b->made[b->count++] = d;
    return d;
}

static void set(struct builder *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    if (ok(b)) b->status = cudnnBackendSetAttribute(d, name, type, count, value);
}

static void finish(struct builder *b, cudnnBackendDescriptor_t d)
{
    if (ok(b)) b->status = cudnnBackendFinalize(d);
}

static void destroy_all(struct builder *b)
{
    for (int i = b->count - 1; i >= 0; i--) (void)cudnnBackendDestroyDescriptor(b->made[i]);
    b->count = 0;
}

static cudnnDataType_t data_type(int type) { return type == GPU_F16 ? CUDNN_DATA_HALF : type == GPU_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT; }

/* [n, c, space...] channels last; one dimension is given a second one of 1 before it. */
static cudnnBackendDescriptor_t tensor(struct builder *b, int64_t uid, cudnnDataType_t type, int64_t n, int64_t c, int dims, const int64_t *space, bool is_virtual)
{
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int flat = dims == 1, all = dims + flat;
    int64_t shape[2 + GPU_SPACE] = { n, c, 1 }, strides[2 + GPU_SPACE], step = c;
    const int64_t alignment = 16;
    for (int i = 0; i < dims; i++) shape[2 + flat + i] = space[i];
    for (int i = all - 1; i >= 0; i--) {
        strides[2 + i] = step;
        step *= shape[2 + i];
    }
    strides[0] = step;
    strides[1] = 1;
    set(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 2 + all, shape);
    set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 2 + all, strides);
    set(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (is_virtual) set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    finish(b, d);
    return d;
}

static cudnnBackendDescriptor_t convolution(struct builder *b)
{
    const struct gpu_window *w = &b->task->u.conv.w;
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int flat = w->dims == 1;
    const int64_t dims = w->dims + flat;
    int64_t low[GPU_SPACE] = { 0 }, high[GPU_SPACE] = { 0 }, stride[GPU_SPACE] = { 1 }, dilation[GPU_SPACE] = { 1 };
    for (int i = 0; i < w->dims; i++) low[flat + i] = w->low[i], high[flat + i] = w->high[i], stride[flat + i] = w->stride[i], dilation[flat + i] = w->dilation[i];
    set(b, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(b, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(b, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    set(b, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, dims, low);
    set(b, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, dims, high);
    set(b, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, dims, stride);
    set(b, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, dims, dilation);
    finish(b, d);
    return d;
}

static cudnnBackendDescriptor_t pointwise(struct builder *b, cudnnPointwiseMode_t mode, const struct activation_spec *act, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t with, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR), op;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    set(b, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(b, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    if (act && act->kind == ACT_CLIP) {
        const double low = (double)act->alpha, high = (double)act->beta;
        set(b, d, CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP, CUDNN_TYPE_DOUBLE, 1, &low);
        set(b, d, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, CUDNN_TYPE_DOUBLE, 1, &high);
    }
    finish(b, d);
    op = make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &d);
    set(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
    if (with) set(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &with);
    set(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y);
    finish(b, op);
    return op;
}

/* cuDNN's name of an activation; false: it has none that means the same. */
static bool activation_mode(struct activation_spec a, cudnnPointwiseMode_t *mode)
{
    switch (a.kind) {
    case ACT_RELU: *mode = CUDNN_POINTWISE_RELU_FWD; return true;
    case ACT_CLIP: *mode = CUDNN_POINTWISE_RELU_FWD; return a.alpha == 0;
    case ACT_SIGMOID: *mode = CUDNN_POINTWISE_SIGMOID_FWD; return true;
    case ACT_TANH: *mode = CUDNN_POINTWISE_TANH_FWD; return true;
    case ACT_SILU: *mode = CUDNN_POINTWISE_SWISH_FWD; return true;
    case ACT_GELU: *mode = CUDNN_POINTWISE_GELU_FWD; return true;
    default: return false;
    }
}

/* What cuDNN calls the parts of a convolution and of one that undoes another. */
static const struct { cudnnBackendDescriptorType_t type; cudnnBackendAttributeName_t convolution, x, weight, y, alpha, beta; } names[2] = {
    { CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA },
    { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA },
};

/* The operations of the task; uid k + 1 is operand k. Given back is the finished graph. */
static cudnnBackendDescriptor_t describe(struct builder *b, cudnnHandle_t handle, bool fused)
{
    enum { VIRTUAL = 100 };
    const struct gpu_conv *c = &b->task->u.conv;
    const struct gpu_window *w = &c->w;
    const cudnnDataType_t type = data_type(b->task->type[0]);
    const int64_t ones[GPU_SPACE] = { 1, 1, 1 }, *x_space = c->transposed ? w->out : w->in, *y_space = c->transposed ? w->in : w->out;
    const double alpha = 1, beta = !fused && c->has_residual;
    cudnnPointwiseMode_t mode;
    const bool acts = fused && c->act.kind != ACT_NONE;
    cudnnBackendDescriptor_t ops[4], x = tensor(b, 1, type, c->n, c->in_c, w->dims, x_space, false), y = tensor(b, 3, type, c->n, c->out_c, w->dims, y_space, false);
    cudnnBackendDescriptor_t weight = c->transposed ? tensor(b, 2, type, c->in_c, c->out_c / c->groups, w->dims, w->kernel, false) : tensor(b, 2, type, c->out_c, c->in_c / c->groups, w->dims, w->kernel, false), d = convolution(b);
    int steps = fused ? c->has_residual + c->has_bias + acts : 0, count = 0;
    int64_t next = VIRTUAL;
    cudnnBackendDescriptor_t at = steps ? tensor(b, next++, CUDNN_DATA_FLOAT, c->n, c->out_c, w->dims, y_space, true) : y, op;
    op = make(b, names[c->transposed].type);
    set(b, op, names[c->transposed].convolution, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &d);
    set(b, op, names[c->transposed].x, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
    set(b, op, names[c->transposed].weight, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &weight);
    set(b, op, names[c->transposed].y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &at);
    set(b, op, names[c->transposed].alpha, CUDNN_TYPE_DOUBLE, 1, &alpha);
    set(b, op, names[c->transposed].beta, CUDNN_TYPE_DOUBLE, 1, &beta);
    finish(b, op);
    ops[count++] = op;
    for (int part = 0; part < 3 && steps; part++) {                   /* residual, bias, activation */
        if (part == 0 ? !c->has_residual : part == 1 ? !c->has_bias : !acts) continue;
        cudnnBackendDescriptor_t with = part == 0 ? tensor(b, 5, type, c->n, c->out_c, w->dims, y_space, false) : part == 1 ? tensor(b, 4, data_type(b->task->type[3]), 1, c->out_c, w->dims, ones, false) : NULL;
        cudnnBackendDescriptor_t to = --steps ? tensor(b, next++, CUDNN_DATA_FLOAT, c->n, c->out_c, w->dims, y_space, true) : y;
        if (part == 2) {
            if (!activation_mode(c->act, &mode)) b->status = CUDNN_STATUS_NOT_SUPPORTED;
            else ops[count++] = pointwise(b, mode, &c->act, at, NULL, to);
        } else ops[count++] = pointwise(b, CUDNN_POINTWISE_ADD, NULL, at, with, to);
        at = to;
    }
    cudnnBackendDescriptor_t graph = make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, ops);
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    finish(b, graph);
    return graph;
}

/* Engines that the heuristics offer, best guess first. */
static int list_offers(struct builder *b, cudnnBackendDescriptor_t graph, cudnnBackendDescriptor_t *offers)
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t count = 0;
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set(b, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    set(b, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finish(b, d);
    for (int i = 0; i < OFFERS; i++) offers[i] = make(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (ok(b)) b->status = cudnnBackendGetAttribute(d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, OFFERS, &count, offers);
    return ok(b) ? (int)count : 0;
}

/* Does an engine round floats on their way in or while adding? */
static bool is_exact(cudnnBackendDescriptor_t config)
{
    enum { NOTES = CUDNN_NUMERICAL_NOTE_TYPE_COUNT };
    cudnnBackendNumericalNote_t notes[NOTES];
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count = 0;
    bool exact = false;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS) return false;
    if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine) == CUDNN_STATUS_SUCCESS) {
        exact = true;
        count = 0;
        if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES, &count, notes) != CUDNN_STATUS_SUCCESS) count = 0;
        for (int64_t i = 0; i < count; i++)
            if (notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS || notes[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) exact = false;
    }
    (void)cudnnBackendDestroyDescriptor(engine);
    return exact;
}

/* Finishes a plan's description: does it stand, and fit the workspace? */
static bool is_ready(cudnnBackendDescriptor_t plan)
{
    int64_t bytes = 0, count = 0;
    return cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS && cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count, &bytes) == CUDNN_STATUS_SUCCESS && (uint64_t)bytes <= CUDA_WORKSPACE;
}

/* A plan from a configuration, or from the text that was kept of one (the other is NULL); NULL when it does not stand. */
static cudnnBackendDescriptor_t plan_of(cudnnHandle_t handle, cudnnBackendDescriptor_t config, const char *text)
{
    cudnnBackendDescriptor_t plan = NULL;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS) return NULL;
    cudnnStatus_t s = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    if (s == CUDNN_STATUS_SUCCESS && config) s = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (s == CUDNN_STATUS_SUCCESS && text) s = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(text), text);
    if (s == CUDNN_STATUS_SUCCESS && is_ready(plan)) return plan;
    (void)cudnnBackendDestroyDescriptor(plan);
    return NULL;
}

static enum status execute(cudnnBackendDescriptor_t plan, bool fused, struct gpu_queue *q, const struct gpu_task *t, struct err *err)
{
    const struct gpu_conv *c = &t->u.conv;
    cudnnBackendDescriptor_t pack = NULL;
    int64_t uids[PARTS] = { 1, 2, 3 };
    void *at[PARTS] = { t->at[0], t->at[1], t->at[2] };
    int count = 3;
    if (fused && c->has_bias) uids[count] = 4, at[count++] = t->at[3];
    if (fused && c->has_residual) uids[count] = 5, at[count++] = t->at[4];
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, at);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &q->workspace);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendExecute(q->dnn, plan, pack);
    if (pack) (void)cudnnBackendDestroyDescriptor(pack);
    return cuda_check_dnn(q->gpu, s, "a convolution", err);
}

static enum status execute_by(void *plan, const void *fused, struct gpu_queue *q, const struct gpu_task *t, struct err *err) { return execute(plan, *(const bool *)fused, q, t, err); }

/* Numbers of x and of the weight. */
static uint64_t x_count(const struct gpu_conv *c)
{
    int64_t n = c->n * c->in_c;
    for (int d = 0; d < c->w.dims; d++) n *= c->transposed ? c->w.out[d] : c->w.in[d];
    return (uint64_t)n;
}
static uint64_t weight_count(const struct gpu_conv *c)
{
    int64_t n = c->in_c / c->groups * c->out_c;
    for (int d = 0; d < c->w.dims; d++) n *= c->w.kernel[d];
    return (uint64_t)n;
}

static void keep_plan(const struct gpu *g, const char *key, const struct dnn_plan *p)
{
    char *text = malloc(PLAN_TEXT_MAX);
    int64_t count = 0;
    if (text && cudnnBackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, PLAN_TEXT_MAX - 1, &count, text + 1) == CUDNN_STATUS_SUCCESS && count > 0) {
        text[0] = p->fused ? 'f' : 'a';
        cache_keep(g, key, text, (size_t)count + 1);
    }
    free(text);
}

static bool kept_plan(struct gpu *g, cudnnHandle_t handle, const char *key, struct dnn_plan *p)
{
    char *text = g->cache[0] ? malloc(PLAN_TEXT_MAX) : NULL;
    if (text && cache_find(g, key, text, PLAN_TEXT_MAX)) *p = (struct dnn_plan){ plan_of(handle, NULL, text + 1), text[0] == 'f' };
    free(text);
    return p->plan != NULL;
}

/* The quickest engine for the task as one graph, or for the convolution alone. */
static enum status choose(struct dnn_plan *p, struct trial *trial, bool fused, struct err *err)
{
    struct gpu *g = trial->gpu;
    cudnnHandle_t handle = trial->queue->dnn;
    struct builder b = { .task = &trial->task };
    cudnnBackendDescriptor_t offers[OFFERS], graph = describe(&b, handle, fused);
    const int count = list_offers(&b, graph, offers);
    float best = -1;
    for (int i = 0; i < count && !g->lost; i++) {
        if (trial->task.type[0] == GPU_F32 && !is_exact(offers[i])) continue;
        cudnnBackendDescriptor_t plan = plan_of(handle, offers[i], NULL);
        const float ms = plan ? trial_time(trial, execute_by, plan, &fused) : -1;
        if (ms >= 0 && (best < 0 || ms < best)) {
            if (p->plan) (void)cudnnBackendDestroyDescriptor(p->plan);
            *p = (struct dnn_plan){ plan, fused };
            best = ms;
        } else if (plan) (void)cudnnBackendDestroyDescriptor(plan);
    }
    enum status st = g->lost ? err_set(err, ST_UNAVAILABLE, "GPU %d was lost while convolutions were timed", g->ordinal) : best >= 0 ? ST_OK : ok(&b) ? err_set(err, ST_UNSUPPORTED, "no engine of cuDNN takes this convolution") : cuda_check_dnn(g, b.status, "describing a convolution", err);
    destroy_all(&b);
    return st;
}

/* Times what cuDNN offers: with all that stands behind the convolution, then for it alone. */
static enum status find_plan(struct dnn_plan *p, struct gpu *g, const struct gpu_task *t, struct err *err)
{
    const struct gpu_conv *c = &t->u.conv;
    const uint64_t y = (uint64_t)body_elements(t);
    const bool fused = !c->transposed && (c->has_bias || c->has_residual || c->act.kind != ACT_NONE);
    struct gpu_queue *q;
    struct trial trial;
    char key[CUDA_KEY_MAX];
    cache_key(key, g, t, cudnnGetVersion());
    enum status st = cuda_trial_queue(g, &q, err);
    if (st || kept_plan(g, q->dnn, key, p)) return st;
    st = trial_begin(&trial, g, t, (uint64_t[]){ x_count(c), weight_count(c), y, c->has_bias ? (uint64_t)c->out_c : 0, c->has_residual ? y : 0 }, err);
    if (st) return st;
    st = choose(p, &trial, fused, err);
    if (st == ST_UNSUPPORTED && fused) st = choose(p, &trial, false, err);
    trial_end(&trial);
    if (!st) keep_plan(g, key, p);
    return st;
}

enum status dnn_open(struct dnn_plan **out, struct gpu *g, const struct gpu_task *t, struct err *err)
{
    const struct gpu_conv *c = &t->u.conv;
    if (!gpu_type_is_float(t->type[0]) || t->type[1] != t->type[0] || t->type[2] != t->type[0] || (c->has_residual && t->type[4] != t->type[0]) || (c->has_bias && t->type[3] != t->type[0]) || body_elements(t) == 0)
        return err_set(err, ST_UNSUPPORTED, "the convolution's types are not all one float type");
    struct dnn_plan *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "preparing a convolution");
    pthread_mutex_lock(&g->lock);
    enum status st = find_plan(p, g, t, err);
    pthread_mutex_unlock(&g->lock);
    if (st) {
        dnn_close(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void dnn_close(struct dnn_plan *p)
{
    if (!p) return;
    if (p->plan) (void)cudnnBackendDestroyDescriptor(p->plan);
    free(p);
}

enum status dnn_run(struct dnn_plan *p, struct gpu_queue *q, const struct gpu_task *t, struct err *err)
{
    const struct gpu_conv *c = &t->u.conv;
    enum status st = ST_OK;
    if (!p->fused && c->has_residual && t->at[4] != t->at[2])
        st = cuda_check(q->gpu, cudaMemcpyAsync(t->at[2], t->at[4], (size_t)body_elements(t) * (size_t)gpu_type_bytes(t->type[4]), cudaMemcpyDeviceToDevice, q->stream), "copying what a convolution is added to", err);
    if (!st) st = execute(p->plan, p->fused, q, t, err);
    const bool behind = !p->fused && (c->has_bias || c->act.kind != ACT_NONE);
    return st || !behind ? st : cuda_check(q->gpu, (cudaError_t)cuda_launch_finish(t, c->has_bias, false, q->stream), "finishing a convolution", err);
}
