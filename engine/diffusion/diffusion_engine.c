/* The engine of pictures: opening. A request is read (its texts and its picture encoded), moved one call of the network at a time, and decoded; what waits for the same is computed
 * together. How a request becomes a slot is in request.c, what a step does in step.c. */
#include "engine/diffusion/diffusion_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/diffusion/diffusion_internal.h"
#include "engine/graph/gpu_store.h"

enum { MEMORY_DEFAULT_GIB = 64, VAE_MEMORY_MIB = 1024 };

/* A model without words takes what comes behind them. Everything else is said by parameters (request_tensors.c). */
enum { PORTS_OF_WORDS = 2 };
static const struct port ports_in[] = {
    { .name = "prompt", .dtype = DT_STRING, .rank = 1, .dims = { 1 } }, { .name = "negative_prompt", .dtype = DT_STRING, .rank = 1, .dims = { 1 }, .optional = true },
    { .name = "latents", .dtype = DT_F32, .rank = 4, .dims = { -1, -1, -1, -1 }, .optional = true },
};
static const struct port ports_out[] = { { .name = "images", .dtype = DT_U8, .rank = 4, .dims = { -1, -1, -1, 3 } } };

static void engine_close(struct engine *e)
{
    if (!e) return;
    for (int g = 0; g < GRAPH_COUNT; g++)
        if (e->built[g]) graph_close(&e->graphs[g]);
    for (int t = 0; t < TEXT_ENCODERS_MAX; t++) tokenizer_close(e->tokenizers[t]);
    diffusion_model_close(&e->model);
    engine_close(e->fallback);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* How floats are stored on the card: what draws in halves; the autoencoder's numbers pass what float16 holds. */
static int float_type(const struct engine *e, enum diffusion_graph g)
{
    if (e->options.precision == PRECISION_F32) return GPU_F32;
    const bool wide = g == GRAPH_ENCODER || g == GRAPH_DECODER || e->model.family->t5_tokens;
    return e->options.precision == PRECISION_BF16 || wide ? GPU_BF16 : GPU_F16;
}

/* NULL: no memory, or the card refused. cpu: whatever runs elsewhere, this does not. */
static struct graph *begin_graph(struct engine *e, enum diffusion_graph g, int64_t rows, bool cpu, struct err *err)
{
    uint64_t taken = 0;
    for (int k = 0; k < GRAPH_COUNT; k++) taken += e->graphs[k].packed_bytes;
    e->graphs[g] = (struct graph){ .arena = &e->model.arena, .memory_max = taken < e->memory_max ? e->memory_max - taken : 0, .max_rows = rows };
    device_cpu_open(&e->graphs[g].device, e->options.cpu_level, e->options.threads);
    e->built[g] = true;
    if (!e->gpu || cpu) return &e->graphs[g];
    e->graphs[g].device.gpu = e->gpu;
    return gpu_store_open(&e->graphs[g].gpu, e->gpu->api, e->gpu->gpu, float_type(e, g), err) ? NULL : &e->graphs[g];
}

static enum status open_texts(struct engine *e, enum linear_mode mode, struct err *err)
{
    char folder[4200];
    for (int t = 0; t < TEXT_ENCODERS_MAX; t++) {
        struct network_source *s = &e->model.parts[PART_TEXT + t];
        if (!s->weights) continue;
        const struct json *type = json_get(s->config, "model_type");
        const bool t5 = json_is_string(type, "t5") || json_is_string(type, "t5_encoder");
        struct graph *g = begin_graph(e, GRAPH_TEXT + t, TEXT_ROWS_MAX, t5, err);
        if (!g) return err->status;
        if (t5 && !e->model.family->t5_tokens) return err_set(err, ST_UNSUPPORTED, "text encoder %d is T5, which this family does not use", t + 1);
        enum status st = t5 ? build_t5(g, s, mode, e->model.family->t5_tokens, &e->encoders[t], err) : build_clip(g, s, mode, &e->encoders[t], err);
        if (st) return err_prefix(err, "text encoder %d", t + 1);
        diffusion_model_tokenizer(&e->model, t, folder, sizeof folder);
        st = tokenizer_open_folder(&e->tokenizers[t], -1, folder, err);
        if (st) return err_prefix(err, "the tokenizer in '%.300s'", folder);
        if (tokenizer_count(e->tokenizers[t]) > e->encoders[t].vocabulary) return err_set(err, ST_BAD_INPUT, "tokenizer %d has %d tokens, its text encoder only %d", t + 1, tokenizer_count(e->tokenizers[t]), e->encoders[t].vocabulary);
        if (!e->encoder_count++) e->first_encoder = t;
    }
    return ST_OK;
}

static int pooled_width(const struct engine *e)
{
    int width = 0;
    for (int t = 0; t < TEXT_ENCODERS_MAX; t++)
        if (e->tokenizers[t]) width = e->encoders[t].pooled_width;
    return width;
}

/* Do the text encoders give what the network takes? */
static enum status check_texts(const struct engine *e, struct err *err)
{
    const unsigned flags = e->model.family->flags;
    const struct denoiser *d = &e->denoiser;
    int width = 0, pooled = 0, t5 = 0;
    for (int t = 0; t < TEXT_ENCODERS_MAX; t++) {
        if (!e->tokenizers[t]) continue;
        if (e->encoders[t].t5) t5 = e->encoders[t].width;
        else width += e->encoders[t].width, pooled = flags & FAMILY_JOINED ? pooled + e->encoders[t].pooled_width : flags & FAMILY_T5 && pooled ? pooled : e->encoders[t].pooled_width;
    }
    const bool fits = flags & FAMILY_T5 ? t5 == d->context_width : flags & FAMILY_JOINED ? width <= d->context_width && (!t5 || t5 == d->context_width) : width == d->context_width && !t5;
    if (d->context_width && !fits) return err_set(err, ST_BAD_INPUT, "the network takes texts of %d numbers, the text encoders give %d", d->context_width, flags & FAMILY_T5 ? t5 : width);
    if (d->pooled_width && pooled != d->pooled_width) return err_set(err, ST_BAD_INPUT, "the network takes a text as %d numbers, the text encoders give %d", d->pooled_width, pooled);
    return ST_OK;
}

static enum status build(struct engine *e, struct err *err)
{
    const enum linear_mode mode = e->options.precision == PRECISION_F32 ? LINEAR_F32 : LINEAR_FAST;
    struct diffusion_model *m = &e->model;
    enum status st = open_texts(e, mode, err);
    if (st) return st;
    struct network_source *drawing = &m->parts[PART_DENOISER];
    struct graph *g = begin_graph(e, GRAPH_DENOISER, CALL_ROWS_MAX, false, err);
    if (!g) return err->status;
    if (m->family->t5_tokens) st = build_dit(g, drawing, mode, &e->denoiser, err);
    else st = build_unet(g, drawing, mode, m->family->flags & FAMILY_POOLED ? pooled_width(e) : 0, &e->denoiser, err);
    if (st) return err_prefix(err, "the network that draws");
    if (m->parts[PART_VAE].weights) {
        struct graph *encoder = begin_graph(e, GRAPH_ENCODER, 1, false, err), *decoder = encoder ? begin_graph(e, GRAPH_DECODER, 1, false, err) : NULL;
        if (!decoder) return err->status;
        st = build_autoencoder(encoder, decoder, &m->parts[PART_VAE], mode, &e->vae, err);
        if (st) return err_prefix(err, "the autoencoder");
    } else {
        e->vae = (struct autoencoder){ .channels = e->denoiser.in_channels, .latents = e->denoiser.in_channels, .factor = 1, .scale = 1 };
    }
    st = check_texts(e, err);
    if (st) return st;
    const int given = e->vae.latents, in = e->denoiser.in_channels;
    if (in != given && in != 2 * given + 1) return err_set(err, ST_UNSUPPORTED, "a network of %d input channels does not fit latents of %d", in, given);
    if (e->denoiser.out_channels != given) return err_set(err, ST_UNSUPPORTED, "a network of %d output channels does not fit latents of %d (learned variances are not computed)", e->denoiser.out_channels, given);
    if (e->vae.channels != 3 && e->vae.channels != 1) return err_set(err, ST_UNSUPPORTED, "pictures of %d channels are not drawn", e->vae.channels);
    return ST_OK;
}

static void describe(struct engine *e)
{
    const struct family *f = e->model.family;
    int side = e->denoiser.sample_size > 0 ? e->denoiser.sample_size * e->vae.factor : e->vae.sample_size > 0 ? e->vae.sample_size : 512;
    if (side > IMAGE_SIDE_MAX) side = IMAGE_SIDE_MAX;
    side = side < 8 ? 8 : side / 8 * 8;
    e->about = (struct image_model){
        .family = f->name, .width = side, .height = side, .steps = f->steps, .guidance = f->guidance, .sampler = e->model.sampler.sampler, .schedule = e->model.sampler.schedule,
        .factor = e->vae.factor, .channels = e->vae.latents, .labels = e->denoiser.labels, .takes_text = e->encoder_count > 0, .takes_image = e->built[GRAPH_ENCODER], .takes_mask = e->built[GRAPH_ENCODER] && !e->denoiser.labels, .needs_mask = e->denoiser.in_channels != e->vae.latents,
    };
    const int words = e->about.takes_text ? 0 : PORTS_OF_WORDS;
    if (e->about.steps > e->model.sampler.train_steps) e->about.steps = e->model.sampler.train_steps;
    e->signature = (struct signature){ .platform = "diffusion", .inputs = ports_in + words, .input_count = (int)(sizeof ports_in / sizeof *ports_in) - words, .outputs = ports_out, .output_count = 1, .image = true };
}

/* Shapes that do not fit each other are found by planning the smallest picture. */
static enum status try_plans(struct engine *e, struct err *err)
{
    const int64_t side = e->model.family->flags & FAMILY_PIXELS ? e->about.width : 8;
    struct operand shapes[DENOISER_INPUTS] = { { 0 } };
    const struct denoiser *d = &e->denoiser;
    const int64_t dims[DENOISER_INPUTS][4] = { { 1, side, side, d->in_channels }, { 1 }, { 1, 1, d->context_width }, { 1 }, { 1, d->pooled_width }, { 1, d->size_count }, { 1, d->guide_width }, { 1 }, { 1 + side / 2 * (side / 2), d->head_dim } };
    static const int ranks[DENOISER_INPUTS] = { 4, 1, 3, 1, 2, 2, 2, 1, 2 };
    struct plan *plan;
    for (int k = 0; k < DENOISER_INPUTS; k++) {
        if (d->at[k] < 0) continue;
        struct operand *o = &shapes[d->at[k]];
        o->rank = ranks[k];
        memcpy(o->dims, dims[k], sizeof dims[k]);
    }
    enum status st = plan_open(&plan, &e->graphs[GRAPH_DENOISER], shapes, e->memory_max, err);
    if (st) return err_prefix(err, "the network that draws");
    plan_close(plan);
    for (int g = GRAPH_ENCODER; g <= GRAPH_DECODER && !st; g++) {
        if (!e->built[g]) continue;
        const int64_t pixels = g == GRAPH_ENCODER ? 8 * e->vae.factor : 8;
        struct operand o = { .rank = 4, .dims = { 1, pixels, pixels, g == GRAPH_ENCODER ? e->vae.channels : e->vae.latents } };
        st = plan_open(&plan, &e->graphs[g], &o, e->memory_max, err);
        if (st) return err_prefix(err, "the autoencoder");
        plan_close(plan);
    }
    return st;
}

static enum status engine_open(struct engine **out, const struct model_files *files, const struct engine_options *options, struct err *err)
{
    struct engine *e = mem_calloc_array(1, sizeof *e);
    if (!e) return err_set(err, ST_NO_MEMORY, "opening a model");
    e->options = *options;
    e->memory_max = options->memory_max ? options->memory_max : (uint64_t)MEMORY_DEFAULT_GIB << 30;
    e->vae_memory = (uint64_t)VAE_MEMORY_MIB << 20;
    if (e->vae_memory > e->memory_max / 2) e->vae_memory = e->memory_max / 2;
    pthread_mutex_init(&e->lock, NULL);
    snprintf(e->main_file, sizeof e->main_file, "%s", files->main_file);
    enum status st = diffusion_model_open(&e->model, files->main_file, e->memory_max, err);
    if (!st && options->gpu) st = device_gpu_open(&e->gpu, options->gpu - 1, err);
    if (!st) st = build(e, err);
    if (!st) {
        describe(e);
        st = try_plans(e, err);
    }
    if (st) {
        engine_close(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

enum status engine_graph(struct engine *e, enum diffusion_graph g, const struct graph **out, struct err *err)
{
    enum status st = ST_OK;
    *out = &e->graphs[g];
    if (!e->graphs[g].gpu || (!e->fallback && !e->gpu->api->lost(e->gpu->gpu))) return ST_OK;
    pthread_mutex_lock(&e->lock);
    if (!e->fallback) {
        const struct model_files files = { .main_file = e->main_file };
        struct engine_options o = e->options;
        o.gpu = 0;
        st = engine_open(&e->fallback, &files, &o, err);
    }
    if (!st) *out = &e->fallback->graphs[g];
    pthread_mutex_unlock(&e->lock);
    return st;
}

static const struct signature *engine_describe(const struct engine *e) { return &e->signature; }

static void instance_stop(struct engine_instance *i)
{
    if (!i) return;
    for (int g = 0; g < GRAPH_COUNT; g++) plan_cache_close(&i->plans[g]);
    free(i->workspace);
    arena_free(&i->run);
    free(i->sample);
    free(i->said);
    free(i->context);
    free(i->pooled);
    free(i->sizes);
    free(i->guides);
    free(i->rotation);
    text_cache_close(&i->texts);
    free(i);
}

static enum status instance_start(struct engine_instance **out, struct engine *e, struct err *err)
{
    struct engine_instance *i = mem_calloc_array(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "starting an instance");
    i->engine = e;
    for (int g = 0; g < GRAPH_COUNT; g++) i->plans[g].budget = g == GRAPH_ENCODER || g == GRAPH_DECODER ? e->vae_memory : e->memory_max;
    arena_init(&i->run, e->memory_max);
    *out = i;
    return ST_OK;
}

static enum status instance_collect(struct engine_instance *i, struct err *err)
{
    (void)i;
    (void)err;
    return ST_OK;
}

static void instance_retire(struct engine_instance *i, struct slot *s)
{
    atomic_fetch_sub(&i->engine->stats.running, 1);
    request_retire(s);
}

static const struct image_model *engine_model(const struct engine *e) { return &e->about; }
static struct image_stats *engine_stats(const struct engine *e) { return (struct image_stats *)(uintptr_t)&e->stats; }      /* counters are no part of what is read only */
static const struct image_ops image = { .model = engine_model, .stats = engine_stats, .read_tensors = request_read_checked, .write_tensors = request_write_tensors };

const struct engine_ops diffusion_engine = {
    .name = "diffusion", .on_gpu = true, .open = engine_open, .describe = engine_describe, .close = engine_close, .check = request_check, .start = instance_start, .stop = instance_stop,
    .admit = request_admit, .submit = step_submit, .collect = instance_collect, .retire = instance_retire, .image = &image,
};

enum status diffusion_inspect(const uint8_t *data, uint64_t size, struct err *err)
{
    struct arena arena;
    struct json *root;
    if (size == 0 || *data != '{') {      /* no JSON: a single file */
        struct safetensors *file;
        enum status st = safetensors_open_bytes(&file, data, size, err);
        if (st) return st;
        if (!diffusion_is_checkpoint(safetensors_weights(file))) st = err_set(err, ST_UNSUPPORTED, "the tensors are not those of a diffusion model");
        safetensors_close(file);
        return st;
    }
    arena_init(&arena, 64 << 20);
    enum status st = json_parse(&root, &arena, (const char *)data, size, NULL, err);
    if (!st && (root->type != JSON_OBJECT || !json_get(root, "_class_name"))) st = err_set(err, ST_BAD_INPUT, "model_index.json names no pipeline (_class_name)");
    arena_free(&arena);
    return st ? err_prefix(err, "model_index.json") : ST_OK;
}
