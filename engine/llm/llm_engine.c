/* The language-model engine: opening, checking, admitting. What goes into a step is in step.c, what comes out of it in answer.c. */
#include "engine/llm/llm_engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/graph/gpu_store.h"
#include "engine/llm/llm_internal.h"
#include "kernels/blocks.h"

enum { MEMORY_DEFAULT_GIB = 64, KV_DEFAULT_MIB = 2048 };

static const struct port text_input = { .name = "text_input", .dtype = DT_STRING, .rank = 1, .dims = { 1 } }, text_output = { .name = "text_output", .dtype = DT_STRING, .rank = 1, .dims = { 1 } };

static void engine_close(struct engine *e)
{
    if (!e) return;
    graph_close(&e->graph);
    graph_close(&e->encoder);
    graph_close(&e->fallback);
    pthread_mutex_destroy(&e->lock);
    template_close(e->chat_template);
    token_trie_close(e->trie);
    tokenizer_close(e->tokenizer);
    llm_model_close(&e->model);
    free(e);
}

static enum status open_tokenizer(struct engine *e, const char *path, struct err *err)
{
    enum status st = e->model.gguf ? tokenizer_open_gguf(&e->tokenizer, e->model.gguf, err) : tokenizer_open_folder(&e->tokenizer, -1, path, err);
    if (st == ST_NOT_FOUND) return ST_OK;
    if (st) return err_prefix(err, "the tokenizer");
    if (!e->model.config.causal) return ST_OK;      /* grammars and templates are for what writes */
    st = token_trie_open(&e->trie, e->tokenizer, err);
    if (st) return st;
    const char *template = tokenizer_chat_template(e->tokenizer, NULL);
    if (template && template_open(&e->chat_template, template, strlen(template), &e->template_error)) e->chat_template = NULL;      /* the model still completes texts */
    for (int t = 0; t < tokenizer_count(e->tokenizer); t++)
        if (tokenizer_is_eog(e->tokenizer, t) && e->end_count < (int)(sizeof e->ends / sizeof e->ends[0])) e->ends[e->end_count++] = t;
    return ST_OK;
}

static bool model_has_tokenizer(const struct engine *e)
{
    return !e->model.gguf || (gguf_find(e->model.gguf, "tokenizer.ggml.model") && !gguf_text_is(e->model.gguf, "tokenizer.ggml.model", "no_vocab"));
}

/* The pool: enough for every text of a full step at its longest, if the budget allows; at least one text, or the context shrinks. */
static enum status size_pool(struct engine *e, struct err *err)
{
    const struct llm_config *c = &e->model.config;
    e->kv_type = e->options.kv_type ? e->options.kv_type - 1 : e->options.precision == PRECISION_F32 ? BLOCK_F32 : BLOCK_F16;
    uint64_t budget = e->options.kv_bytes ? e->options.kv_bytes : (uint64_t)KV_DEFAULT_MIB << 20;
    if (e->gpu) {
        uint64_t left;
        enum status st = card_budget(e, &left, err);
        if (st) return st;
        if (!e->options.kv_bytes) budget = left;
    }
    e->page_bytes = llm_page_bytes(c, e->kv_type);
    e->sequences = SEQUENCES_MAX;
    uint64_t each = ((uint64_t)c->context + PAGE_TOKENS - 1) / PAGE_TOKENS, wanted, most = budget / e->page_bytes;
    if (c->decoder_layers) each *= 2;      /* what is read and what is written */
    wanted = each * (uint64_t)e->sequences;
    if (wanted > most) wanted = most;
    if (wanted > 1 << 24) wanted = 1 << 24;
    if (wanted < 1) return err_set(err, ST_NO_MEMORY, "one page of the KV cache needs %llu bytes, more than its budget of %llu", (unsigned long long)e->page_bytes, (unsigned long long)budget);
    e->pages = (int32_t)wanted;
    if (c->decoder_layers) wanted /= 2;
    if (wanted < 1) return err_set(err, ST_NO_MEMORY, "the KV cache holds no text beside its prompt within its budget of %llu bytes", (unsigned long long)budget);
    e->context = (uint64_t)c->context <= wanted * PAGE_TOKENS ? c->context : (int)(wanted * PAGE_TOKENS);
    e->step_tokens = e->gpu ? STEP_TOKENS_CARD : STEP_TOKENS;
    e->window = c->causal && !c->decoder_layers ? c->window : 0;
    for (int l = 0; l < c->layers; l++)
        if (!llm_is_windowed(c, l)) e->window = 0;
    if ((!c->causal || c->decoder_layers) && e->step_tokens < e->context) e->step_tokens = e->context;
    return ST_OK;
}

struct llm_build_options llm_options(const struct engine *e)
{
    return (struct llm_build_options){ .mode = e->options.precision == PRECISION_F32 ? LINEAR_F32 : e->options.batch_invariant ? LINEAR_INVARIANT : LINEAR_FAST, .kv_type = e->kv_type, .pages = e->pages };
}

static enum status build(struct engine *e, struct err *err)
{
    const struct llm_build_options o = llm_options(e);
    e->graph = (struct graph){ .arena = &e->model.arena, .memory_max = e->memory_max, .max_rows = e->sequences };
    device_cpu_open(&e->graph.device, e->options.cpu_level, e->options.threads);
    e->graph.device.gpu = e->gpu;
    enum status st = e->gpu ? gpu_store_open(&e->graph.gpu, e->gpu->api, e->gpu->gpu, GPU_F32, err) : ST_OK;
    if (!st) st = llm_build(&e->graph, &e->model, &o, err);
    if (!st && e->gpu) st = card_check(e, err);
    if (st || !e->model.config.decoder_layers) return st;
    e->encoder = (struct graph){ .arena = &e->model.arena, .memory_max = e->memory_max, .max_rows = e->sequences, .device = e->graph.device, .packed_bytes = e->graph.packed_bytes };
    return llm_build_encoder(&e->encoder, &e->model, &o, err);
}

static const char *model_path(const struct model_files *files)
{
    const char *dot = strrchr(files->main_file, '.');
    return dot && !strcmp(dot, ".gguf") ? files->main_file : files->directory;
}

static enum status engine_open(struct engine **out, const struct model_files *files, const struct engine_options *options, struct err *err)
{
    struct engine *e = mem_calloc_array(1, sizeof *e);
    if (!e) return err_set(err, ST_NO_MEMORY, "opening a model");
    pthread_mutex_init(&e->lock, NULL);
    e->options = *options;
    e->memory_max = options->memory_max ? options->memory_max : (uint64_t)MEMORY_DEFAULT_GIB << 30;
    const char *path = model_path(files);
    enum status st = llm_model_open(&e->model, path, e->memory_max, err);
    if (!st && model_has_tokenizer(e)) st = open_tokenizer(e, path, err);
    if (!st && options->gpu) st = card_open(e, err);
    if (!st) st = size_pool(e, err);
    if (!st) st = build(e, err);
    if (!st && e->tokenizer && tokenizer_count(e->tokenizer) > e->model.config.vocabulary && e->model.config.causal)
        st = err_set(err, ST_BAD_INPUT, "the tokenizer has %d tokens, the model only %d", tokenizer_count(e->tokenizer), e->model.config.vocabulary);
    if (st) {
        engine_close(e);
        return st;
    }
    e->signature = (struct signature){ .platform = "llm", .inputs = &text_input, .input_count = 1, .outputs = &text_output, .output_count = 1, .text = true };
    atomic_store(&e->stats.pages, e->pages);
    *out = e;
    return ST_OK;
}

static const struct signature *engine_describe(const struct engine *e) { return &e->signature; }

static unsigned engine_abilities(const struct engine *e)
{
    const struct llm_config *c = &e->model.config;
    if (c->decoder_layers) return TEXT_CAN_GENERATE;
    if (c->causal) return TEXT_CAN_GENERATE | TEXT_CAN_EMBED;
    return TEXT_CAN_EMBED | (c->labels ? TEXT_CAN_SCORE : 0);
}

static enum status engine_check(const struct engine *e, struct request *r, struct err *err)
{
    const struct text_job *j = r->text;
    if (!j) return err_set(err, ST_BAD_INPUT, "this model takes text: use /v1/chat/completions, /v1/completions, /v1/embeddings or .../generate");
    unsigned able = engine_abilities(e);
    if (j->task == TEXT_GENERATE && !(able & TEXT_CAN_GENERATE)) return err_set(err, ST_BAD_INPUT, "this model is an encoder: it gives vectors, not text");
    if (j->task == TEXT_EMBED && !(able & TEXT_CAN_EMBED)) return err_set(err, ST_BAD_INPUT, "this model does not give vectors");
    if (j->task == TEXT_SCORE && !(able & TEXT_CAN_SCORE)) return err_set(err, ST_BAD_INPUT, "this model does not score pairs: it has no classifying head");
    enum status st = text_job_check(j, e->model.config.vocabulary, e->context, e->model.config.decoder_layers > 0, err);
    if (st) return st;
    if (e->model.config.decoder_layers && j->echo) return err_set(err, ST_BAD_INPUT, "'echo': what this model writes does not go on from its prompt");
    if (j->task == TEXT_GENERATE && j->stop_count && !e->tokenizer) return err_set(err, ST_BAD_INPUT, "this model has no tokenizer: stop strings cannot be looked for");
    r->ride_key = 1;
    r->rows = j->answer_count < e->sequences ? j->answer_count : e->sequences;
    r->cost = 0;
    return ST_OK;
}

/* ---- instances ---- */
static void instance_stop(struct engine_instance *i)
{
    if (!i) return;
    plan_cache_close(&i->plans);
    plan_cache_close(&i->encoder_plans);
    arena_free(&i->run);
    pages_close(&i->pages);
    pool_close(&i->pool);
    for (int k = 0; k < i->samplers_count; k++) sampler_close(i->samplers[k]);
    free(i->mask);
    free(i->tokens);
    free(i->rows);
    free(i->encoded);
    free(i->page_table);
    free(i->batch);
    free(i);
}

static enum status instance_start(struct engine_instance **out, struct engine *e, struct err *err)
{
    struct engine_instance *i = mem_calloc_array(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "starting an instance");
    uint64_t room = (uint64_t)e->step_tokens + 128;
    i->engine = e;
    i->graph = &e->graph;
    i->plans.budget = i->encoder_plans.budget = e->memory_max;
    arena_init(&i->run, e->memory_max);
    i->page_table_room = e->sequences * ((e->context + PAGE_TOKENS - 1) / PAGE_TOKENS + 1) * (e->model.config.decoder_layers ? 2 : 1);
    i->tokens = mem_calloc_array(room * 4, sizeof *i->tokens);
    i->rows = mem_calloc_array((uint64_t)e->sequences * 4, sizeof *i->rows);
    i->encoded = mem_calloc_array((uint64_t)e->sequences * 4, sizeof *i->encoded);
    i->page_table = mem_calloc_array((uint64_t)i->page_table_room, sizeof *i->page_table);
    i->batch = mem_calloc_array((uint64_t)e->sequences, sizeof(struct sequence *));
    i->mask = mem_calloc_array(((uint64_t)e->model.config.vocabulary + 63) / 32, sizeof *i->mask);
    enum status st = i->tokens && i->rows && i->encoded && i->page_table && i->batch && i->mask ? pages_open(&i->pages, e->pages, err) : err_set(err, ST_NO_MEMORY, "starting an instance");
    const int drawers = e->options.threads < 1 ? 1 : e->options.threads > DRAWERS_MAX ? DRAWERS_MAX : e->options.threads;
    for (int k = 0; k < drawers && !st; k++) {
        st = sampler_open(&i->samplers[k], e->model.config.vocabulary, &e->graph.device.kernels, err);
        i->samplers_count += !st;
    }
    if (!st) {
        i->positions = i->tokens + room;
        i->types = i->positions + room;
        i->wanted = i->types + room;
        st = pool_open(&i->pool, e->gpu, e->pages, llm_planes(&e->model.config), e->page_bytes, err);
        i->plans.site.state = e->gpu ? i->pool.at : NULL;
    }
    if (st) {
        instance_stop(i);
        return st;
    }
    *out = i;
    return ST_OK;
}

static void slot_close(struct engine_instance *i, struct llm_slot *s)
{
    struct text_stats *stats = &i->engine->stats;
    for (int k = 0; k < s->count; k++) {
        if (s->sequences[k].state != SEQUENCE_OVER && s->sequences[k].slot) atomic_fetch_add_explicit(&stats->finished[FINISHED_ABORT], 1, memory_order_relaxed);
        sequence_close(i, &s->sequences[k]);
    }
    free(s->sequences);
    free(s);
}

static enum status open_sequence(struct engine_instance *i, struct llm_slot *s, int index, uint64_t seed, struct err *err)
{
    const struct text_job *j = s->job;
    const struct engine *e = i->engine;
    struct sequence *q = &s->sequences[index];
    bool pair = e->model.config.decoder_layers > 0;
    enum status st = sequence_open(q, s, index / j->choices, index % j->choices, pair ? e->model.config.decoder_start : -1, err);
    if (st) return st;
    q->order = i->arrivals++;
    q->answer->seed = seed;
    q->max_tokens = j->max_tokens >= 0 ? j->max_tokens : e->context - q->given;
    bool begins = !j->grammar;      /* behind control tokens alone a text begins; a grammar has accepted the space that a beginning drops */
    for (int k = 0; k < q->prompt->count && begins && !pair; k++) begins = e->tokenizer && tokenizer_is_control(e->tokenizer, q->prompt->tokens[k]);
    if (e->tokenizer) detokenizer_init(&q->detokenizer, e->tokenizer, begins, !j->skip_special);
    if (j->grammar) {
        if (!e->trie) return err_set(err, ST_BAD_INPUT, "this model has no tokenizer: its text cannot be held to a grammar");
        st = grammar_state_open(&q->grammar, j->grammar, e->trie, err);
        if (st) return st;
    }
    return j->echo && e->tokenizer ? answer_echo(q, e->tokenizer, err) : ST_OK;
}

static enum status instance_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err)
{
    struct llm_slot *s = mem_calloc_array(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "a request for text");
    s->job = r->text;
    s->base.request = r;
    s->admitted_ns = clock_ns();
    s->sequences = mem_calloc_array((uint64_t)r->text->answer_count, sizeof *s->sequences);
    uint64_t seed = r->text->sampling.seed;
    if (!r->text->sampling.seeded && getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed) seed = clock_ns();
    enum status st = s->sequences ? ST_OK : err_set(err, ST_NO_MEMORY, "a request for text");
    while (!st && s->count < r->text->answer_count) {
        st = open_sequence(i, s, s->count, seed, err);
        s->count++;
    }
    s->open = s->count;
    if (st) {
        slot_close(i, s);
        return st;
    }
    stats_observe(&i->engine->stats.queued, s->admitted_ns - r->times.queued);
    *out = &s->base;
    return ST_OK;
}

static void instance_retire(struct engine_instance *i, struct slot *slot)
{
    slot_close(i, (struct llm_slot *)slot);
}

/* ---- steps ---- */
static void note_gauges(struct engine_instance *i, struct slot *const *slots, int n)
{
    struct text_stats *s = &i->engine->stats;
    int running = 0, waiting = 0;
    for (int k = 0; k < n; k++)
        for (int q = 0; q < ((struct llm_slot *)slots[k])->count; q++) {
            enum sequence_state state = ((struct llm_slot *)slots[k])->sequences[q].state;
            running += state == SEQUENCE_RUNNING;
            waiting += state == SEQUENCE_WAITING;
        }
    atomic_store_explicit(&s->running, running, memory_order_relaxed);
    atomic_store_explicit(&s->waiting, waiting, memory_order_relaxed);
    atomic_store_explicit(&s->pages_used, i->pages.count - pages_free(&i->pages), memory_order_relaxed);
}

static void settle(struct engine_instance *i, struct slot *slot)
{
    struct llm_slot *s = (struct llm_slot *)slot;
    struct request *r = slot->request;
    if (slot->state == SLOT_FAILED) return;
    slot->state = s->open ? SLOT_RUNNING : SLOT_DONE;
    if (s->open) return;
    uint64_t now = clock_ns();
    struct text_stats *stats = &i->engine->stats;
    uint64_t first = s->sequences[0].answer->first_ns;
    if (first) {
        stats_observe(&stats->prefill, first - s->admitted_ns);
        stats_observe(&stats->decode, now - first);
    }
    stats_observe(&stats->whole, now - r->times.queued);
    r->times.input_done = s->admitted_ns;
    r->times.infer_done = now;
}

static enum status instance_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    struct plan *plan = NULL;
    for (int k = 0; k < n; k++) {
        slots[k]->partial = false;
        slots[k]->state = SLOT_RUNNING;
    }
    if (i->engine->model.config.decoder_layers) {
        enum status encoded = step_encode(i, slots, n, stop, err);
        if (encoded) return encoded;
    }
    if (i->pool.gpu && (i->engine->fallen || i->pool.gpu->api->lost(i->pool.gpu->gpu))) {
        enum status left = card_leave(i, slots, n, err);
        if (left) return left;
    }
    step_gather(i, slots, n);
    if (i->batch_count == 0) return err_set(err, ST_INTERNAL, "no text of the step could be computed: the KV cache of %d pages is too small", i->engine->pages);
    enum status st = step_run(i, stop, &plan, err);
    if (!st) answer_draw(i, plan);
    for (int b = 0; b < i->batch_count && !st; b++) {
        struct slot *slot = &i->batch[b]->slot->base;
        if (slot->state == SLOT_FAILED) continue;
        struct err own = { 0 };
        if (answer_take(i, i->batch[b], plan, &own)) {
            slot->error = own;
            slot->state = SLOT_FAILED;
        }
    }
    arena_reset(&i->run);
    note_gauges(i, slots, n);
    for (int k = 0; k < n && !st; k++) settle(i, slots[k]);
    return st;
}

static enum status instance_collect(struct engine_instance *i, struct err *err)
{
    (void)i;
    (void)err;
    return ST_OK;
}

static const struct tokenizer *engine_tokenizer(const struct engine *e) { return e->tokenizer; }
static const struct template *engine_template(const struct engine *e) { return e->chat_template; }
static const char *engine_template_error(const struct engine *e) { return e->template_error.status ? e->template_error.text : NULL; }
static int engine_width(const struct engine *e) { return e->model.config.width; }
static int engine_context(const struct engine *e) { return e->context; }
static struct text_stats *engine_stats(const struct engine *e) { return (struct text_stats *)(uintptr_t)&e->stats; }      /* counters are no part of what is read only */

static const struct text_ops text = { .tokenizer = engine_tokenizer, .chat_template = engine_template, .template_error = engine_template_error, .context = engine_context, .width = engine_width, .abilities = engine_abilities, .stats = engine_stats };

const struct engine_ops llm_engine = {
    .name = "llm", .on_gpu = true, .open = engine_open, .describe = engine_describe, .close = engine_close, .check = engine_check, .start = instance_start, .stop = instance_stop,
    .admit = instance_admit, .submit = instance_submit, .collect = instance_collect, .retire = instance_retire, .text = &text,
};

enum status llm_inspect(const uint8_t *data, uint64_t size, struct err *err)
{
    struct llm_model m = { 0 };
    arena_init(&m.arena, (uint64_t)MEMORY_DEFAULT_GIB << 30);
    enum status st;
    if (size >= 4 && !memcmp(data, "GGUF", 4)) {
        st = gguf_open_bytes(&m.gguf, data, size, err);
        if (!st) {
            m.weights = gguf_weights(m.gguf);
            st = llm_config_read_gguf(&m, err);
        }
    } else {      /* a folder's config.json; its tensors are checked when they are mapped */
        st = json_parse(&m.config_json, &m.arena, (const char *)data, size, NULL, err);
        if (!st) st = llm_config_read_folder(&m, err);
    }
    if (!st) st = llm_config_check(&m.config, err);
    llm_model_close(&m);
    return st;
}
