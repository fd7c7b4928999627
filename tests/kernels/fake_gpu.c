#include "tests/kernels/fake_gpu.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/body.h"

enum { BLOCKS_MAX = 1 << 14 };

struct gpu { uint64_t budget; };
struct gpu_queue { struct gpu *gpu; };
struct gpu_recording { struct gpu_task *tasks; int count; };

static struct block { char *at; uint64_t bytes; bool pinned; } blocks[BLOCKS_MAX];
static struct fake_gpu_held held;
static uint64_t calls, fail_at, ran[GPU_KIND_COUNT];
static enum status fail_with;
static bool is_lost;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t fake_gpu_fail(uint64_t at, enum status status)
{
    const uint64_t before = calls;
    calls = 0;
    fail_at = at;
    fail_with = status;
    if (!at) is_lost = false;
    return before;
}

struct fake_gpu_held fake_gpu_held(void) { return held; }
bool fake_gpu_is_empty(void) { return !held.bytes && !held.pinned && !held.queues && !held.recordings && !held.prepared; }
uint64_t fake_gpu_ran(enum gpu_kind kind) { return ran[kind]; }

/* Counts a call; a failure when it is this one's turn, or the device is lost. */
static enum status enter(const char *what, struct err *err)
{
    pthread_mutex_lock(&lock);
    const bool now = ++calls == fail_at;
    if (now && fail_with != ST_NO_MEMORY) is_lost = true;
    const bool fails = now || is_lost;
    pthread_mutex_unlock(&lock);
    return !fails ? ST_OK : err_set(err, is_lost ? ST_UNAVAILABLE : fail_with, "%s: %s", what, is_lost ? "the device is lost" : "the device is out of memory");
}

static int count_cards(void) { return 1; }

static enum status open_card(struct gpu **out, int ordinal, uint64_t budget, const char *cache, struct err *err)
{
    (void)ordinal, (void)cache;
    enum status st = enter("open", err);
    struct gpu *g = st ? NULL : calloc(1, sizeof *g);
    if (st || !g) return st ? st : err_set(err, ST_NO_MEMORY, "opening the device");
    g->budget = budget ? budget : UINT64_MAX;
    *out = g;
    return ST_OK;
}

static void close_card(struct gpu *g) { free(g); }
static void card_info(const struct gpu *g, struct gpu_info *out) { *out = (struct gpu_info){ .name = "no card", .driver = "none", .uuid = "GPU-none", .processors = 1, .budget = g->budget }; }
static bool card_sample(struct gpu *g, struct gpu_sample *out)
{
    (void)g;
    *out = (struct gpu_sample){ .memory_used = held.bytes, .power_watts = -1, .energy_joules = -1, .utilisation = -1 };
    return true;
}
static bool card_lost(const struct gpu *g)
{
    (void)g;
    return is_lost;
}

static enum status take(uint64_t bytes, bool pinned, void **out, struct err *err)
{
    char *p = aligned_alloc(256, (bytes + 255) & ~(uint64_t)255);
    if (!p) return err_set(err, ST_NO_MEMORY, "device memory");
    memset(p, 0xff, bytes);              /* what is read before it is written shows */
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < BLOCKS_MAX && blocks[i].at) i++;
    assert(i < BLOCKS_MAX);
    blocks[i] = (struct block){ p, bytes, pinned };
    *(pinned ? &held.pinned : &held.bytes) += bytes;
    pthread_mutex_unlock(&lock);
    *out = p;
    return ST_OK;
}

static void give(void *p, bool pinned)
{
    if (!p) return;
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < BLOCKS_MAX && blocks[i].at != p) i++;
    assert(i < BLOCKS_MAX && blocks[i].pinned == pinned);
    *(pinned ? &held.pinned : &held.bytes) -= blocks[i].bytes;
    blocks[i] = (struct block){ 0 };
    pthread_mutex_unlock(&lock);
    free(p);
}

static enum status card_alloc(struct gpu *g, uint64_t bytes, void **out, struct err *err)
{
    enum status st = enter("alloc", err);
    if (!st && (bytes > g->budget || held.bytes > g->budget - bytes)) st = err_set(err, ST_NO_MEMORY, "the budget of the device is full");
    return st ? st : take(bytes, false, out, err);
}
static void card_free(struct gpu *g, void *p)
{
    (void)g;
    give(p, false);
}
static enum status card_pin(struct gpu *g, uint64_t bytes, void **out, struct err *err)
{
    (void)g;
    enum status st = enter("pin", err);
    return st ? st : take(bytes, true, out, err);
}
static void card_unpin(struct gpu *g, void *p)
{
    (void)g;
    give(p, true);
}

static enum status open_queue(struct gpu *g, struct gpu_queue **out, struct err *err)
{
    enum status st = enter("queue_open", err);
    struct gpu_queue *q = st ? NULL : calloc(1, sizeof *q);
    if (st || !q) return st ? st : err_set(err, ST_NO_MEMORY, "a queue");
    q->gpu = g;
    held.queues++;
    *out = q;
    return ST_OK;
}
static void close_queue(struct gpu_queue *q)
{
    if (q) held.queues--;
    free(q);
}

/* Are these bytes within one block of device memory? */
static bool is_mine(const void *p, uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    bool mine = false;
    for (int i = 0; i < BLOCKS_MAX && !mine; i++) mine = blocks[i].at && !blocks[i].pinned && (const char *)p >= blocks[i].at && (const char *)p + bytes <= blocks[i].at + blocks[i].bytes;
    pthread_mutex_unlock(&lock);
    return mine;
}

static enum status put(struct gpu_queue *q, void *device, const void *host, uint64_t bytes, struct err *err)
{
    (void)q;
    enum status st = enter("put", err);
    if (!st && !is_mine(device, bytes)) st = err_set(err, ST_INTERNAL, "a copy of %llu bytes to what is no device memory", (unsigned long long)bytes);
    if (!st) memcpy(device, host, bytes);
    return st;
}
static enum status get(struct gpu_queue *q, void *host, const void *device, uint64_t bytes, struct err *err)
{
    (void)q;
    enum status st = enter("get", err);
    if (!st && !is_mine(device, bytes)) st = err_set(err, ST_INTERNAL, "a copy of %llu bytes from what is no device memory", (unsigned long long)bytes);
    if (!st) memcpy(host, device, bytes);
    return st;
}
static enum status wait_all(struct gpu_queue *q, struct err *err)
{
    (void)q;
    return enter("wait", err);
}
static double milliseconds(struct gpu_queue *q)
{
    (void)q;
    return -1;
}

static enum status prepare(struct gpu *g, struct gpu_task *t, struct err *err)
{
    (void)g;
    enum status st = enter("prepare", err);
    if (st) return st;
    t->prepared = malloc(1);
    held.prepared++;
    return ST_OK;
}
static void release(struct gpu *g, struct gpu_task *t)
{
    (void)g;
    if (t->prepared) held.prepared--;
    free(t->prepared);
    t->prepared = NULL;
}

/* ---- what goes by rows ---- */
static void reduce(const struct gpu_task *t)
{
    const struct gpu_reduce *r = &t->u.reduce;
    for (int64_t i = 0; i < r->count; i++) {
        if (!gpu_type_is_float(t->type[0])) {
            body_reduce_whole(t, i);
            continue;
        }
        float a = body_reduce_first(r->reduction), shift = 0;
        int64_t best = -1;
        if (r->reduction == GPU_RED_LOG_SUM_EXP) {
            shift = -INFINITY;
            for (int64_t k = 0; k < r->length; k++) shift = fmaxf(shift, body_load(t->at[0], t->type[0], body_reduce_at(r, i, k)));
            if (!(fabsf(shift) < INFINITY)) shift = 0;
        }
        for (int64_t k = 0; k < r->length; k++) {
            const float v = body_load(t->at[0], t->type[0], body_reduce_at(r, i, k));
            if (r->reduction < GPU_RED_ARGMAX) a = body_reduce_step(r->reduction, a, v, shift);
            else if (body_arg_better(r, v, k, a, best)) a = v, best = k;
        }
        if (r->reduction < GPU_RED_ARGMAX) body_store(t->at[1], t->type[1], i, body_reduce_last(r->reduction, a, r->length, shift));
        else body_store_whole(t->at[1], t->type[1], i, best < 0 ? 0 : best);
    }
}

static void softmax(const struct gpu_task *t)
{
    const struct gpu_softmax *s = &t->u.softmax;
    for (int64_t row = 0; row < s->outer * s->inner; row++) {
        float top = -INFINITY, sum = 0;
        for (int64_t k = 0; k < s->n; k++) top = fmaxf(top, body_load(t->at[0], t->type[0], body_softmax_at(s, row, k)));
        for (int64_t k = 0; k < s->n; k++) sum += expf(body_load(t->at[0], t->type[0], body_softmax_at(s, row, k)) - top);
        for (int64_t k = 0; k < s->n; k++) {
            const int64_t at = body_softmax_at(s, row, k);
            const float v = body_load(t->at[0], t->type[0], at) - top;
            body_store(t->at[1], t->type[1], at, s->log ? v - logf(sum) : expf(v) / sum);
        }
    }
}

static void norm_rows(const struct gpu_task *t)
{
    const struct gpu_norm_rows *p = &t->u.norm_rows;
    for (int64_t row = 0; row < p->rows; row++) {
        const int64_t own = p->periods ? row % p->periods * p->n : 0;
        float mean = 0, square = 0;
        for (int64_t k = 0; k < p->n && !p->rms; k++) mean += body_load(t->at[0], t->type[0], row * p->n + k);
        mean /= (float)p->n;
        for (int64_t k = 0; k < p->n; k++) {
            const float v = body_load(t->at[0], t->type[0], row * p->n + k) - mean;
            square += v * v;
        }
        const float scale = 1 / sqrtf(square / (float)p->n + p->epsilon);
        for (int64_t k = 0; k < p->n; k++) {
            float v = (body_load(t->at[0], t->type[0], row * p->n + k) - mean) * scale;
            if (t->at[2]) v *= body_load(t->at[2], t->type[2], own + k);
            if (t->at[3]) v += body_load(t->at[3], t->type[3], own + k);
            body_store(t->at[1], t->type[1], row * p->n + k, v);
        }
    }
}

static void norm_channels(const struct gpu_task *t)
{
    const struct gpu_norm_channels *p = &t->u.norm_channels;
    const int64_t n = p->channels / p->groups * p->space;
    int64_t c;
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t g = 0; g < p->groups; g++) {
            float mean = 0, square = 0;
            for (int64_t k = 0; k < n; k++) mean += body_load(t->at[0], t->type[0], body_channels_at(p, b, g, k, &c));
            mean /= (float)n;
            for (int64_t k = 0; k < n; k++) {
                const float v = body_load(t->at[0], t->type[0], body_channels_at(p, b, g, k, &c)) - mean;
                square += v * v;
            }
            const float scale = 1 / sqrtf(square / (float)n + p->epsilon);
            for (int64_t k = 0; k < n; k++) {
                const int64_t at = body_channels_at(p, b, g, k, &c);
                float v = (body_load(t->at[0], t->type[0], at) - mean) * scale;
                if (t->at[2]) v *= body_load(t->at[2], t->type[2], c);
                if (t->at[3]) v += body_load(t->at[3], t->type[3], c);
                body_store(t->at[1], t->type[1], at, body_activate(v, p->act));
            }
        }
}

static void attend_query(const struct gpu_task *t, int64_t row, int64_t head, int64_t query, float *scores)
{
    const struct gpu_attention *a = &t->u.attention;
    const int64_t of = head / a->group, seen = body_attention_seen(t, row, query);
    float top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < seen; j++) {
        float product = 0;
        for (int64_t i = 0; i < a->head_dim; i++)
            product += body_load(t->at[0], t->type[0], a->q.row * row + a->q.head * head + a->q.token * query + i) * body_load(t->at[1], t->type[1], a->k.row * row + a->k.head * of + a->k.token * j + i);
        scores[j] = body_attention_score(t, row, head, query, j, product);
        top = fmaxf(top, scores[j]);
    }
    for (int64_t j = 0; j < seen && top > -INFINITY; j++) sum += scores[j] = expf(scores[j] - top);
    for (int64_t i = 0; i < a->head_dim_v; i++) {
        float v = 0;
        for (int64_t j = 0; j < seen && sum > 0; j++) v += scores[j] * body_load(t->at[2], t->type[2], a->v.row * row + a->v.head * of + a->v.token * j + i);
        body_store(t->at[3], t->type[3], a->y.row * row + a->y.head * head + a->y.token * query + i, sum > 0 ? v / sum : 0 * a->nothing);
    }
}

static void attention(const struct gpu_task *t)
{
    const struct gpu_attention *a = &t->u.attention;
    float *scores = malloc((size_t)a->keys * sizeof *scores + 1);
    assert(scores);
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t q = 0; q < a->queries; q++) attend_query(t, b, h, q, scores);
    free(scores);
}

static void one(const struct gpu_task *t, int64_t i, bool is_whole)
{
    switch (t->kind) {
    case GPU_POINTWISE: body_pointwise(t, i, is_whole); return;
    case GPU_MOVE: body_move(t, i); return;
    case GPU_FILL: body_fill(t, i); return;
    case GPU_GATHER: body_gather(t, i); return;
    case GPU_PIXELS: body_pixels(t, i); return;
    case GPU_POOL: body_pool(t, i); return;
    case GPU_RESIZE: body_resize(t, i); return;
    case GPU_ROTATE: body_rotate(t, i); return;
    case GPU_PRODUCT: body_product(t, i); return;
    case GPU_CONV: body_conv(t, i); return;
    default: assert(false);
    }
}

void fake_gpu_compute(const struct gpu_task *t)
{
    if (fake_gpu_compute_llm(t)) return;
    switch (t->kind) {
    case GPU_REDUCE: reduce(t); return;
    case GPU_SOFTMAX: softmax(t); return;
    case GPU_NORM_ROWS: norm_rows(t); return;
    case GPU_NORM_CHANNELS: norm_channels(t); return;
    case GPU_ATTENTION: attention(t); return;
    default: break;
    }
    const bool is_whole = t->kind == GPU_POINTWISE && body_is_whole(t);
    for (int64_t i = 0, n = body_elements(t); i < n; i++) one(t, i, is_whole);
}

static bool (*compute_by)(const struct gpu_task *t);
void fake_gpu_compute_by(bool (*compute)(const struct gpu_task *t)) { compute_by = compute; }

static enum status run_one(const struct gpu_task *t, struct err *err)
{
    if (!t->prepared) return err_set(err, ST_INTERNAL, "a task that was not prepared");
    for (int k = 0; k < t->operands; k++)
        if (t->at[k] && !is_mine(t->at[k], 1)) return err_set(err, ST_INTERNAL, "operand %d of a task of kind %d is no device memory", k, t->kind);
    ran[t->kind]++;
    if (!compute_by) fake_gpu_compute(t);
    else if (!compute_by(t)) return err_set(err, ST_INTERNAL, "a kernel refused a task of kind %d", t->kind);
    return ST_OK;
}

static enum status run_all(const struct gpu_task *tasks, int count, struct err *err)
{
    enum status st = ST_OK;
    for (int i = 0; i < count && !st; i++) st = run_one(&tasks[i], err);
    return st;
}

static enum status run(struct gpu_queue *q, const struct gpu_task *tasks, int count, struct err *err)
{
    (void)q;
    enum status st = enter("run", err);
    return st ? st : run_all(tasks, count, err);
}

static enum status record(struct gpu_queue *q, const struct gpu_task *tasks, int count, struct gpu_recording **out, struct err *err)
{
    (void)q;
    enum status st = enter("record", err);
    struct gpu_recording *r = st ? NULL : calloc(1, sizeof *r);
    if (st || !r) return st ? st : err_set(err, ST_NO_MEMORY, "a recording");
    r->tasks = malloc((size_t)count * sizeof *r->tasks);
    assert(r->tasks);
    memcpy(r->tasks, tasks, (size_t)count * sizeof *r->tasks);
    r->count = count;
    held.recordings++;
    *out = r;
    return ST_OK;
}
static enum status replay(struct gpu_queue *q, struct gpu_recording *r, struct err *err)
{
    (void)q;
    enum status st = enter("replay", err);
    return st ? st : run_all(r->tasks, r->count, err);
}
static void recording_close(struct gpu_recording *r)
{
    if (!r) return;
    held.recordings--;
    free(r->tasks);
    free(r);
}

const struct gpu_api *fake_gpu_api(void)
{
    static const struct gpu_api api = {
        .version = GPU_API_VERSION, .name = "fake", .count = count_cards, .open = open_card, .close = close_card, .info = card_info, .sample = card_sample, .lost = card_lost, .alloc = card_alloc, .free = card_free, .pin = card_pin,
        .unpin = card_unpin, .queue_open = open_queue, .queue_close = close_queue, .put = put, .get = get, .wait = wait_all, .milliseconds = milliseconds, .prepare = prepare, .release = release, .run = run, .record = record,
        .replay = replay, .recording_close = recording_close,
    };
    return &api;
}
