#include "engine/diffusion/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/diffusion/single_file.h"

enum { JSON_BYTES_MAX = 4 << 20 };

/* Pipelines that do the same with a picture or a mask given (Img2Img, Inpaint, ...) are found by the beginning of their names. */
static const struct family families[] = {
    { "StableDiffusionXL", "stable-diffusion-xl", 50, 5, FAMILY_BEFORE | FAMILY_POOLED, 0 },
    { "StableDiffusion3", "stable-diffusion-3", 28, 7, FAMILY_BEFORE | FAMILY_POOLED | FAMILY_JOINED, 256 },
    { "StableDiffusion", "stable-diffusion", 50, 7.5f, 0, 0 },
    { "LatentConsistencyModel", "latent-consistency", 4, 8.5f, FAMILY_GUIDED, 0 },
    { "FluxPipeline", "flux", 28, 3.5f, FAMILY_POOLED | FAMILY_EVEN_FLOW | FAMILY_GUIDED | FAMILY_T5, 512 },
    { "FluxImg2Img", "flux", 28, 3.5f, FAMILY_POOLED | FAMILY_EVEN_FLOW | FAMILY_GUIDED | FAMILY_T5, 512 },
    { "DDPMPipeline", "ddpm", 1000, 1, FAMILY_PIXELS, 0 },
    { "DDIMPipeline", "ddim", 50, 1, FAMILY_PIXELS, 0 },
    { "PNDMPipeline", "pndm", 50, 1, FAMILY_PIXELS, 0 },
    { "LDMPipeline", "latent-diffusion", 50, 1, 0, 0 },
};

const struct family *diffusion_family(const char *class)
{
    for (size_t i = 0; class && i < sizeof families / sizeof families[0]; i++)
        if (!strncmp(families[i].pipeline, class, strlen(families[i].pipeline))) return &families[i];
    return NULL;
}

/* A scheduler's file may say -Infinity, which is no JSON: it becomes null, in place. */
static void mend_numbers(char *text)
{
    static const char *const words[] = { "-Infinity", "Infinity", "NaN" };
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++)
        for (char *p = text; (p = strstr(p, words[w]));) {
            const size_t n = strlen(words[w]);
            if (p > text && p[-1] == '"') { p += n; continue; }
            memset(p, ' ', n);
            memcpy(p, n < 4 ? "0  " : "null", n < 4 ? 3 : 4);
            p += n;
        }
}

enum status diffusion_model_json(struct diffusion_model *m, const char *path, const struct json **out, struct err *err)
{
    size_t length;
    char *text;
    struct json *root;
    if (m->text_count == MODEL_TEXTS_MAX) return err_set(err, ST_INTERNAL, "too many files of JSON");
    enum status st = file_read_path(&text, &length, path, JSON_BYTES_MAX, err);
    if (st) return st;
    m->texts[m->text_count++] = text;
    mend_numbers(text);
    st = json_parse(&root, &m->arena, text, length, NULL, err);
    if (!st && root->type != JSON_OBJECT) st = err_set(err, ST_BAD_INPUT, "no object");
    if (st) return err_prefix(err, "'%.300s'", path);
    *out = root;
    return ST_OK;
}

/* Is the part in the index, and not null? */
static bool has_part(const struct diffusion_model *m, const char *name)
{
    const struct json *j = json_get(m->index, name);
    return j && j->type == JSON_ARRAY && j->list.count == 2 && j->list.first->next->type == JSON_STRING;
}

static enum status open_tensors(struct safetensors **out, const char *folder, struct err *err)
{
    static const char *const names[] = { "diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "model.fp16", "diffusion_pytorch_model.bf16" };
    char path[4600];
    struct stat s;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (int sharded = 0; sharded < 2; sharded++) {
            const char *dot = strchr(names[i], '.');      /* model.safetensors.index.fp16.json */
            if (sharded && dot) snprintf(path, sizeof path, "%.4096s/%.*s.safetensors.index%s.json", folder, (int)(dot - names[i]), names[i], dot);
            else snprintf(path, sizeof path, "%.4096s/%s.safetensors%s", folder, names[i], sharded ? ".index.json" : "");
            if (stat(path, &s) == 0) return safetensors_open(out, -1, path, err);
        }
    return err_set(err, ST_NOT_FOUND, "'%.300s' holds no *.safetensors (files of pickles, *.bin, are not read)", folder);
}

static enum status open_part(struct diffusion_model *m, enum model_part part, const char *name, struct err *err)
{
    char path[4600];
    struct network_source *s = &m->parts[part];
    snprintf(path, sizeof path, "%.4000s/%s", m->directory, name);
    enum status st = open_tensors(&m->files[part], path, err);
    if (st) return st;
    snprintf(path, sizeof path, "%.4000s/%s/config.json", m->directory, name);
    st = diffusion_model_json(m, path, &s->config, err);
    if (st) return st;
    s->weights = safetensors_weights(m->files[part]);
    s->used = mem_calloc_array((uint64_t)s->weights->count + 1, 1);
    return s->used ? ST_OK : err_set(err, ST_NO_MEMORY, "opening a model");
}

static enum status open_folder(struct diffusion_model *m, const char *main_file, struct err *err)
{
    static const struct { enum model_part part; const char *names[2]; } parts[] = {
        { PART_TEXT, { "text_encoder" } }, { PART_TEXT_2, { "text_encoder_2" } }, { PART_TEXT_3, { "text_encoder_3" } }, { PART_DENOISER, { "unet", "transformer" } }, { PART_VAE, { "vae", "vqvae" } },
    };
    char path[4600];
    enum status st = diffusion_model_json(m, main_file, &m->index, err);
    if (st) return st;
    const struct json *class = json_get(m->index, "_class_name"), *zeros = json_get(m->index, "force_zeros_for_empty_prompt");
    m->family = class && class->type == JSON_STRING ? diffusion_family(class->string.text) : NULL;
    if (!m->family) return err_set(err, ST_UNSUPPORTED, "model_index.json: pipelines of the class '%.60s' are not computed", class && class->type == JSON_STRING ? class->string.text : "null");
    m->zero_empty = strstr(m->family->name, "-xl") && (!zeros || zeros->type != JSON_BOOL || zeros->boolean);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && !st; i++)
        for (int k = 0; k < 2 && parts[i].names[k] && !st; k++)
            if (has_part(m, parts[i].names[k])) st = open_part(m, parts[i].part, parts[i].names[k], err);
    if (st) return st;
    if (!m->parts[PART_DENOISER].weights) return err_set(err, ST_BAD_INPUT, "model_index.json names neither a unet nor a transformer");
    if (!m->parts[PART_VAE].weights && !(m->family->flags & FAMILY_PIXELS)) return err_set(err, ST_BAD_INPUT, "model_index.json names no autoencoder (vae)");
    const struct json *scheduler;
    snprintf(path, sizeof path, "%.4000s/scheduler/scheduler_config.json", m->directory);
    st = diffusion_model_json(m, path, &scheduler, err);
    if (!st) st = sampler_config_read(&m->sampler, scheduler, &m->arena, err);
    return st ? err_prefix(err, "scheduler") : ST_OK;
}

enum status diffusion_model_open(struct diffusion_model *m, const char *main_file, uint64_t memory_max, struct err *err)
{
    *m = (struct diffusion_model){ .pads = { -1, -1, -1 } };
    arena_init(&m->arena, memory_max);
    const char *slash = strrchr(main_file, '/');
    snprintf(m->directory, sizeof m->directory, "%.*s", slash ? (int)(slash - main_file) : 1, slash ? main_file : ".");
    const char *dot = strrchr(main_file, '.');
    m->single = dot && !strcmp(dot, ".safetensors");
    enum status st = m->single ? single_file_open(m, main_file, err) : open_folder(m, main_file, err);
    if (!st) m->sampler.from_one = m->family->flags & FAMILY_EVEN_FLOW;
    if (st) diffusion_model_close(m);
    return st;
}

void diffusion_model_close(struct diffusion_model *m)
{
    for (int i = 0; i < PART_COUNT; i++) {
        if (!m->single || i == PART_DENOISER) free(m->parts[i].used);      /* of a single file: one for all */
        safetensors_close(m->files[i]);
    }
    for (int i = 0; i < m->text_count; i++) free(m->texts[i]);
    arena_free(&m->arena);
    *m = (struct diffusion_model){ 0 };
}

bool diffusion_model_tokenizer(const struct diffusion_model *m, int index, char *out, size_t size)
{
    char name[32];
    struct stat s;
    if (!m->parts[PART_TEXT + index].weights) return false;
    snprintf(name, sizeof name, index ? "tokenizer_%d" : "tokenizer", index + 1);
    snprintf(out, size, "%.4000s/%s", m->directory, name);
    if (stat(out, &s) == 0 || !index) return true;
    snprintf(out, size, "%.4000s/tokenizer", m->directory);      /* one for all */
    return true;
}
