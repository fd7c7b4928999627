/* A language model on a card: whether it fits, and what happens when the card is lost. */
#include <string.h>

#include "engine/graph/gpu_store.h"
#include "engine/llm/llm_internal.h"
#include "kernels/blocks.h"

enum status card_open(struct engine *e, struct err *err)
{
    if (e->model.config.arch->flags & LLM_PAIR) return err_set(err, ST_UNAVAILABLE, "models with an encoder and a decoder do not run on a GPU");
    return device_gpu_open(&e->gpu, e->options.gpu - 1, err);
}

/* About what the matrices of the file take there. */
static uint64_t weight_bytes(const struct weights *w)
{
    uint64_t sum = 0;
    for (int i = 0; i < w->count; i++) {
        const struct weight_tensor *t = &w->tensors[i];
        int64_t numbers = 1;
        for (int d = 0; d < t->rank; d++) numbers *= t->dims[d];
        const int64_t k = t->rank ? t->dims[t->rank - 1] : 1;
        const struct gpu_matrix m = gpu_matrix_of(t->type, k ? numbers / k : 0, k);
        sum += gpu_matrix_bytes(&m);
    }
    return sum;
}

enum status card_budget(const struct engine *e, uint64_t *left, struct err *err)
{
    struct gpu_info info;
    struct gpu_sample now = { 0 };
    const uint64_t need = weight_bytes(e->model.weights);
    e->gpu->api->info(e->gpu->gpu, &info);
    if (!e->gpu->api->sample(e->gpu->gpu, &now)) now.memory_used = 0;
    const uint64_t used = now.memory_used < info.budget ? now.memory_used : info.budget, unused = info.budget - used;
    if (need > unused || e->options.kv_bytes > unused - need)
        return err_set(err, ST_NO_MEMORY, "the model's weights take %llu MiB of device memory and its KV cache %llu; of GPU %d's budget of %llu MiB %llu are left", (unsigned long long)(need >> 20), (unsigned long long)(e->options.kv_bytes >> 20), e->gpu->ordinal,
                       (unsigned long long)(info.budget >> 20), (unsigned long long)(unused >> 20));
    *left = (unused - need) / 5 * 4;           /* the rest is for the steps' own buffers */
    return ST_OK;
}

enum status card_check(const struct engine *e, struct err *err)
{
    struct operand shapes[LLM_INPUTS];
    struct plan *p;
    for (int k = 0; k < LLM_INPUTS; k++) shapes[k] = (struct operand){ .dtype = DT_I32, .rank = 1, .dims = { 1 } };
    shapes[LLM_ROWS].rank = 2;
    shapes[LLM_ROWS].dims[1] = 4;
    shapes[LLM_KV] = (struct operand){ .dtype = DT_U8, .rank = 1, .dims = { (int64_t)((uint64_t)e->pages * e->page_bytes) } };
    enum status st = plan_open(&p, &e->graph, shapes, e->memory_max, err);
    if (st == ST_UNSUPPORTED) err->status = st = ST_UNAVAILABLE;
    if (!st) plan_close(p);
    return st;
}

/* The graph for the CPU, once for all instances. */
static enum status build_fallback(struct engine *e, struct err *err)
{
    const struct llm_build_options o = llm_options(e);
    enum status st = ST_OK;
    pthread_mutex_lock(&e->lock);
    if (!e->fallen) {
        e->fallback = (struct graph){ .arena = &e->model.arena, .memory_max = e->memory_max, .max_rows = e->sequences, .device = e->graph.device };
        e->fallback.device.gpu = NULL;
        st = llm_build(&e->fallback, &e->model, &o, err);
        if (st) {
            graph_close(&e->fallback);
            e->fallback = (struct graph){ 0 };
        }
        e->fallen = !st;
    }
    pthread_mutex_unlock(&e->lock);
    return st;
}

enum status card_leave(struct engine_instance *i, struct slot *const *slots, int n, struct err *err)
{
    struct engine *e = i->engine;
    struct pool host;
    enum status st = build_fallback(e, err);
    if (!st) st = pool_open(&host, NULL, e->pages, llm_planes(&e->model.config), e->page_bytes, err);
    if (st) return st;
    for (int s = 0; s < n; s++)
        for (int k = 0; k < ((struct llm_slot *)slots[s])->count; k++) {
            struct sequence *q = &((struct llm_slot *)slots[s])->sequences[k];
            if (q->state == SEQUENCE_RUNNING) sequence_give_up(i, q);
        }
    pages_close(&i->pages);
    st = pages_open(&i->pages, e->pages, err);
    if (st) {
        pool_close(&host);
        return st;
    }
    plan_cache_close(&i->plans);
    i->plans = (struct plan_cache){ .budget = e->memory_max };
    pool_close(&i->pool);
    i->pool = host;
    i->graph = &e->fallback;
    return ST_OK;
}
