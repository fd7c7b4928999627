/* The first runs of a version happen before anyone waits for them: plans are made, weights touched, kernels chosen. A model whose first run
 * fails is not published. What is run: the samples of model_warmup, and zeros of the signature for one row and for the largest batch, where
 * every other dimension is known. */
#include "engine/image_job.h"
#include "engine/image_ops.h"
#include "engine/text_job.h"
#include "engine/text_ops.h"
#include "model_store/registry_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>



#define SAMPLE_BYTES_MAX ((uint64_t)1 << 30)
enum { WARM_DIRECTORY_PATH = 300 };

/* Lives on the waiting thread's stack until every sample has told. */
struct waiting { pthread_mutex_t lock; pthread_cond_t told; int left; bool failed; struct err err; };

static void tell(struct request *q, enum request_event e)
{
    struct waiting *w = q->event_context;
    if (e == EVENT_PARTIAL) return;
    pthread_mutex_lock(&w->lock);
    if (e == EVENT_FAILED && !w->failed) w->failed = true, w->err = q->error;
    w->left--;
    pthread_cond_signal(&w->told);
    pthread_mutex_unlock(&w->lock);
}

static void release(struct request *q)
{
    arena_free(&q->arena);
    free(q);
}

static void fill_random(void *data, uint64_t bytes, enum dtype t)
{
    uint32_t x = 2463534242u;
    float   *f = data;
    uint8_t *b = data;
    for (uint64_t i = 0; i < (t == DT_F32 ? bytes / 4 : bytes); i++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        if (t == DT_F32) f[i] = (float)(x >> 8) / 16777216.0f;
        else if (t == DT_BOOL) b[i] = x & 1;
        else if (i % (uint64_t)(dtype_bits(t) / 8 ? dtype_bits(t) / 8 : 1) == 0) b[i] = (uint8_t)(x & 0x3f);      /* small whole numbers; small floats of 16 and 64 bits */
    }
}

static enum status fill_strings(struct tensor *t, uint64_t count)
{
    struct string_ref *s = t->data;
    for (uint64_t i = 0; i < count; i++) s[i] = (struct string_ref){ "", 0 };
    return ST_OK;
}

/* Raw bytes of one row, repeated for each row of the sample. */
static enum status fill_file(struct registry *r, const struct model_version *v, const struct config_warmup_input *in, struct tensor *t, uint64_t rows, struct err *err)
{
    char path[WARM_DIRECTORY_PATH], *bytes;
    size_t length;
    uint64_t one = t->bytes / (rows ? rows : 1);
    if (in->dtype == DT_STRING) return err_set(err, ST_UNSUPPORTED, "a warm-up file of TYPE_STRING cannot be read; use zero_data");
    snprintf(path, sizeof path, "warmup/%s", in->file);
    enum status st = repository_read_file(r->repository, v->name, 0, path, (size_t)one + 1, &bytes, &length, err);
    if (st) return st;
    if (length != one) st = err_set(err, ST_BAD_INPUT, "'%.100s' has %zu bytes; the input takes %llu", path, length, (unsigned long long)one);
    for (uint64_t i = 0; !st && i < rows; i++) memcpy((char *)t->data + i * one, bytes, length);
    free(bytes);
    return st;
}

/* ST_OK with t->data NULL: no sample can be made, since a dimension is free or the tensor is too large. */
static enum status make_input(struct request *q, struct request_tensor *in, const char *name, enum dtype type, const int64_t *dims, int rank)
{
    struct tensor *t = &in->tensor;
    uint64_t count;
    in->name = name;
    *t = (struct tensor){ .dtype = type, .rank = rank };
    if (rank < 0) return ST_OK;
    for (int i = 0; i < rank; i++) t->dims[i] = dims[i];
    if (!shape_count(dims, rank, &count) || !tensor_bytes(type, dims, rank, &t->bytes) || t->bytes > SAMPLE_BYTES_MAX) return ST_OK;
    t->data = arena_alloc(&q->arena, t->bytes ? t->bytes : 1, TENSOR_ALIGN);
    if (!t->data) return ST_NO_MEMORY;
    if (type == DT_STRING) return fill_strings(t, count);
    memset(t->data, 0, t->bytes);
    return ST_OK;
}

/* A sequence of one request. */
static void begin_sequence(struct request *q, const struct sequence_plan *p)
{
    static const struct parameter by_number[] = { { "sequence_id", PARAMETER_INT, { .integer = 1 } }, { "sequence_start", PARAMETER_BOOL, { .boolean = true } }, { "sequence_end", PARAMETER_BOOL, { .boolean = true } } };
    static const struct parameter by_name[] = { { "sequence_id", PARAMETER_STRING, { .text = "warm-up" } }, { "sequence_start", PARAMETER_BOOL, { .boolean = true } }, { "sequence_end", PARAMETER_BOOL, { .boolean = true } } };
    q->parameters = by_number;
    q->parameter_count = 3;
    for (int k = 0; k < p->control_count; k++)
        if (p->controls[k].kind == CONTROL_ID && p->controls[k].dtype == DT_STRING) q->parameters = by_name;
}

static struct request *make_request(const struct model_version *v, struct waiting *w, int inputs)
{
    struct request *q = malloc(sizeof *q);
    if (!q) return NULL;
    request_init(q, 4 * SAMPLE_BYTES_MAX);
    if (v->config->scheduling.sequences.on) begin_sequence(q, &v->config->scheduling.sequences);
    q->event = tell;
    q->event_context = w;
    q->release = release;
    q->inputs = arena_calloc(&q->arena, (uint64_t)inputs + 1, sizeof *q->inputs);
    if (q->inputs) return q;
    release(q);
    return NULL;
}

/* NULL in *out with ST_OK: this model cannot be warmed so. */
static enum status make_zeros(const struct model_version *v, int64_t rows, struct waiting *w, struct request **out, struct err *err)
{
    const struct signature *s = v->signature;
    struct request *q = make_request(v, w, s->input_count);
    *out = NULL;
    if (!q) return err_set(err, ST_NO_MEMORY, "no memory for a warm-up sample");
    for (int i = 0; i < s->input_count; i++) {
        const struct port *p = &s->inputs[i];
        int64_t dims[TENSOR_RANK_MAX];
        if (p->optional) continue;
        for (int d = 0; d < p->rank; d++) dims[d] = p->dims[d];
        if (p->rank > 0 && dims[0] < 0 && (v->config->max_batch_size > 0 || s->batchable)) dims[0] = rows;
        struct request_tensor *in = &q->inputs[q->input_count++];
        enum status st = make_input(q, in, p->name, p->dtype, dims, p->rank);
        if (st || !in->tensor.data) {
            release(q);
            return st ? err_set(err, st, "no memory for a warm-up sample") : ST_OK;
        }
    }
    *out = q;
    return ST_OK;
}

static enum status make_sample(struct registry *r, const struct model_version *v, const struct config_warmup *c, struct waiting *w, struct request **out, struct err *err)
{
    struct request *q = make_request(v, w, c->input_count);
    enum status st = q ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for a warm-up sample");
    for (int i = 0; !st && i < c->input_count; i++) {
        const struct config_warmup_input *in = &c->inputs[i];
        struct request_tensor *t = &q->inputs[q->input_count++];
        int64_t dims[TENSOR_RANK_MAX];
        int rank = 0, batched = v->config->max_batch_size > 0;
        if (batched && in->rank == TENSOR_RANK_MAX) { st = err_set(err, ST_BAD_INPUT, "input '%.60s' has too many dimensions", in->name); break; }
        if (batched) dims[rank++] = c->batch_size;
        for (int d = 0; d < in->rank; d++) dims[rank++] = in->dims[d];
        st = make_input(q, t, in->name, in->dtype, dims, rank);
        if (!st && !t->tensor.data) st = err_set(err, ST_TOO_LARGE, "input '%.60s' is too large for a sample", in->name);
        else if (st) err_set(err, st, "no memory for a warm-up sample");
        if (!st && in->data == WARMUP_RANDOM && in->dtype != DT_STRING) fill_random(t->tensor.data, t->tensor.bytes, in->dtype);
        if (!st && in->data == WARMUP_FILE) st = fill_file(r, v, in, &t->tensor, batched ? c->batch_size : 1, err);
    }
    if (st && q) release(q);
    if (!st) *out = q;
    return st;
}

/* Submits and lets go; the sample tells `w`. A refusal counts as told. */
static void submit(const struct model_version *v, struct request *q, struct waiting *w)
{
    struct err err;
    pthread_mutex_lock(&w->lock);
    w->left++;
    pthread_mutex_unlock(&w->lock);
    if (scheduler_submit(v->scheduler, q, &err)) {
        pthread_mutex_lock(&w->lock);
        if (!w->failed) w->failed = true, w->err = err;
        w->left--;
        pthread_mutex_unlock(&w->lock);
    }
    request_drop(q);
}

static enum status wait_all(struct waiting *w, struct err *err)
{
    pthread_mutex_lock(&w->lock);
    while (w->left) pthread_cond_wait(&w->told, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return w->failed ? err_set(err, w->err.status, "%s", w->err.text) : ST_OK;
}

/* A text of a few tokens, written or turned into a vector: every kernel has run once, and the weights are in memory. */
struct text_sample { struct request request; struct text_job job; struct text_prompt prompt; int32_t tokens[16]; };

static void release_text(struct request *q)
{
    struct text_sample *s = (struct text_sample *)q;
    text_job_close(&s->job);
    arena_free(&q->arena);
    free(s);
}

static enum status run_text(const struct model_version *v, struct waiting *w, struct err *err)
{
    struct text_sample *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory for a warm-up sample");
    request_init(&s->request, SAMPLE_BYTES_MAX);
    s->request.event = tell;
    s->request.event_context = w;
    s->request.release = release_text;
    s->request.text = &s->job;
    int context = v->ops->text->context(v->engine), most = sizeof s->tokens / sizeof s->tokens[0];
    s->prompt = (struct text_prompt){ .tokens = s->tokens, .count = context > most + 2 ? most : 1 };
    bool writes = v->ops->text->abilities(v->engine) & TEXT_CAN_GENERATE;
    enum status st = text_job_open(&s->job, writes ? TEXT_GENERATE : TEXT_EMBED, &s->prompt, 1, 1, err);
    if (st) {
        release_text(&s->request);
        return st;
    }
    s->job.max_tokens = context > s->prompt.count + 2 ? 2 : 0;
    s->job.no_cache = s->job.ignore_eos = true;
    s->job.sampling.temperature = 0;
    submit(v, &s->request, w);
    return wait_all(w, err);
}

/* A small picture in two steps. */
struct image_sample { struct request request; struct image_job job; uint8_t grey[8 * 8 * 3]; struct image image, mask; };
enum { SAMPLE_SIDE = 64 };

static void release_image(struct request *q)
{
    struct image_sample *s = (struct image_sample *)q;
    image_job_close(&s->job);
    arena_free(&q->arena);
    free(s);
}

static enum status run_image(const struct model_version *v, struct waiting *w, struct err *err)
{
    const struct image_model *m = v->ops->image->model(v->engine);
    struct image_sample *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "no memory for a warm-up sample");
    request_init(&s->request, SAMPLE_BYTES_MAX);
    s->request.event = tell;
    s->request.event_context = w;
    s->request.release = release_image;
    s->request.image = &s->job;
    enum status st = image_job_open(&s->job, "", 0, 1, err);
    if (st) {
        release_image(&s->request);
        return st;
    }
    s->image = (struct image){ 8, 8, 3, s->grey };
    s->mask = (struct image){ 8, 8, 1, s->grey };
    s->job.width = m->width < SAMPLE_SIDE || !m->takes_image ? m->width : SAMPLE_SIDE;
    s->job.height = m->height < SAMPLE_SIDE || !m->takes_image ? m->height : SAMPLE_SIDE;
    s->job.sampler = m->sampler == SAMPLER_FLOW_EULER ? SAMPLER_MODEL : SAMPLER_EULER;
    s->job.steps = 2;
    s->job.seeded = true;
    s->job.label = m->labels ? 0 : -1;
    if (m->needs_mask) s->job.image = &s->image, s->job.mask = &s->mask;
    submit(v, &s->request, w);
    return wait_all(w, err);
}

static enum status run_samples(struct registry *r, const struct model_version *v, struct waiting *w, struct err *err)
{
    struct request *q = NULL;
    enum status st = ST_OK;
    int64_t sizes[2] = { 1, v->config->max_batch_size };
    if (v->signature->ensemble) return ST_OK;      /* its models warm themselves up, and may come later */
    if (v->ops->text) return run_text(v, w, err);
    if (v->ops->image) return run_image(v, w, err);
    const bool batches = sizes[1] > 1 && !v->config->scheduling.sequences.on;      /* a request of a sequence brings one row */
    for (int i = 0; !st && i < 1 + batches; i++) {
        for (int k = 0; !st && k < v->config->scheduling.instances; k++) {
            st = make_zeros(v, sizes[i], w, &q, err);
            if (!st && q) submit(v, q, w);
        }
        enum status ran = wait_all(w, st ? NULL : err);
        if (!st) st = ran;
    }
    for (int i = 0; !st && i < v->config->warmup_count; i++) {
        const struct config_warmup *c = &v->config->warmups[i];
        for (uint32_t k = 0; !st && k < c->count; k++) {
            st = make_sample(r, v, c, w, &q, err);
            if (!st) submit(v, q, w), st = wait_all(w, err);
        }
        if (st) err_prefix(err, "sample '%.60s'", c->name);
    }
    return st;
}

enum status warm_run_version(struct registry *r, const struct model_version *v, struct err *err)
{
    struct waiting w = { .left = 0 };
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.told, NULL);
    enum status st = run_samples(r, v, &w, err);
    pthread_cond_destroy(&w.told);
    pthread_mutex_destroy(&w.lock);
    return st ? err_prefix(err, "the warm-up failed") : ST_OK;
}
