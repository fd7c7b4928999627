#include "tests/diffusion/draft.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/diffusion/diffusion_engine.h"
#include "engine/formats/safetensors.h"
#include "kernels/blocks.h"
#include "kernels/half.h"

enum { TENSORS_MAX = 2048 };

bool draft_read(struct draft *d, const char *name)
{
    char path[512];
    size_t length;
    snprintf(path, sizeof path, "tests/diffusion/vectors/%s.json", name);
    *d = (struct draft){ 0 };
    arena_init(&d->arena, 1 << 28);
    if (file_read_path(&d->text, &length, path, 1 << 24, NULL)) return false;
    return json_parse(&d->root, &d->arena, d->text, length, NULL, NULL) == ST_OK;
}

void draft_free(struct draft *d)
{
    arena_free(&d->arena);
    free(d->text);
}

static bool write_bytes(const char *folder, const char *name, const void *bytes, size_t length)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(bytes, 1, length, f) == length;
    return f && fclose(f) == 0 && ok;
}

static bool write_json(const char *folder, const char *name, const struct json *j)
{
    struct buf b;
    buf_init(&b, 0);
    json_write(&b, j);
    bool ok = !b.failed && write_bytes(folder, name, b.data, b.length);
    buf_free(&b);
    return ok;
}

/* As the tool's `uniform`: FNV-1a of PART/NAME, splitmix64 of the index. */
static void fill(float *x, uint64_t count, const char *name, float base, float amplitude)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (const char *p = name; *p; p++) h = (h ^ (unsigned char)*p) * 0x100000001B3u;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t v = h + (i + 1) * 0x9E3779B97F4A7C15u;
        v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9u;
        v = (v ^ v >> 27) * 0x94D049BB133111EBu;
        v ^= v >> 31;
        x[i] = base + amplitude * ((float)(v >> 40) * 0x1p-23f - 1.0f);
    }
}

/* [name, [dims], base, amplitude] */
static bool make_tensor(struct weight_tensor *t, const struct json *j, const char *part, int type, void **data)
{
    const struct json *name = j->list.first, *dims = name->next, *base = dims->next, *amplitude = base->next;
    double low, wide;
    uint64_t count = 1;
    char full[300];
    *t = (struct weight_tensor){ .name = name->string.text, .type = type };
    for (const struct json *d = dims->list.first; d; d = d->next) {
        t->dims[t->rank++] = d->integer;
        count *= (uint64_t)d->integer;
    }
    if (!json_as_double(base, &low) || !json_as_double(amplitude, &wide)) return false;
    float *x = mem_alloc_array(count, sizeof *x);
    if (!x) return false;
    snprintf(full, sizeof full, "%s/%s", part, t->name);
    fill(x, count, full, (float)low, (float)wide);
    *data = x;
    t->data = (const uint8_t *)x;
    t->bytes = count * sizeof *x;
    if (type == WEIGHT_F32) return true;
    uint16_t *half = (uint16_t *)x;      /* in place: what is written lies before what is read */
    for (uint64_t i = 0; i < count; i++) {
        float f = x[i];
        half[i] = type == WEIGHT_F16 ? f32_to_f16(f) : f32_to_bf16_one(f);
    }
    t->bytes = count * sizeof *half;
    return true;
}

static bool write_weights(const char *folder, const struct json *part, int type)
{
    static struct weight_tensor tensors[TENSORS_MAX];
    static void *data[TENSORS_MAX];
    const struct json *list = json_get(part, "tensors"), *file = json_get(part, "file");
    char path[700];
    int n = 0;
    bool ok = list && list->list.count <= TENSORS_MAX;
    for (const struct json *t = ok ? list->list.first : NULL; t && ok; t = t->next, n++) {
        data[n] = NULL;
        ok = make_tensor(&tensors[n], t, part->key, type, &data[n]);
    }
    snprintf(path, sizeof path, "%s/%s", folder, file->string.text);
    int fd = ok ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    ok = fd >= 0 && safetensors_write(weights_sink_fd(&fd), tensors, n, NULL, 0, NULL) == ST_OK;
    if (fd >= 0) close(fd);
    for (int i = 0; i < n; i++) free(data[i]);
    return ok;
}

static bool copy_tokenizer(const char *folder, const char *name, bool pad_first)
{
    static const char *const files[] = { "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json" };
    char to[600], from[300];
    snprintf(to, sizeof to, "%s/%s", folder, name);
    if (mkdir(to, 0755)) return true;
    for (int i = 0; i < 4; i++) {
        char *text;
        size_t length;
        snprintf(from, sizeof from, "models/shapes/1/tokenizer/%s", files[i]);
        if (file_read_path(&text, &length, from, 1 << 20, NULL)) return false;
        char *pad = pad_first ? strstr(text, "\"pad_token\": \"<|endoftext|>\"") : NULL;
        if (pad) memcpy(pad, "\"pad_token\": \"!\"            ", 28);
        bool ok = write_bytes(to, files[i], text, length);
        free(text);
        if (!ok) return false;
    }
    return true;
}

/* Tokenizers that the vectors carry themselves: {"tokenizer_2": {file: text}}. */
static bool write_tokenizers(const struct draft *d, const char *folder)
{
    const struct json *all = json_get(d->root, "tokenizers");
    char path[600];
    bool ok = true;
    for (const struct json *t = all ? all->list.first : NULL; t && ok; t = t->next) {
        snprintf(path, sizeof path, "%s/%s", folder, t->key);
        mkdir(path, 0755);
        for (const struct json *f = t->list.first; f && ok; f = f->next) ok = write_bytes(path, f->key, f->string.text, f->string.length);
    }
    return ok;
}

bool draft_write(const struct draft *d, const char *folder, const struct json *scheduler, int type)
{
    char path[600];
    const struct json *pad = json_get(d->root, "pads");      /* tokenizers that fill up with "!" */
    bool ok = write_json(folder, "model_index.json", json_get(d->root, "index"));
    snprintf(path, sizeof path, "%s/scheduler", folder);
    mkdir(path, 0755);
    ok = ok && write_json(path, "scheduler_config.json", scheduler) && write_tokenizers(d, folder);
    for (const struct json *p = json_get(d->root, "parts")->list.first; p && ok; p = p->next) {
        snprintf(path, sizeof path, "%s/%s", folder, p->key);
        if (mkdir(path, 0755)) continue;      /* there already */
        ok = write_json(path, "config.json", json_get(p, "config")) && write_weights(path, p, type);
        if (!strcmp(p->key, "text_encoder")) ok = ok && copy_tokenizer(folder, "tokenizer", pad && pad->list.first->boolean);
        if (!strcmp(p->key, "text_encoder_2")) ok = ok && copy_tokenizer(folder, "tokenizer_2", pad && pad->list.first->next->boolean);
    }
    return ok;
}

/* ---- one file ---- */
static const struct json *tensor_row(const struct draft *d, const char *part, const char *name)
{
    const struct json *p = json_get(json_get(d->root, "parts"), part);
    for (const struct json *t = p ? json_get(p, "tensors")->list.first : NULL; t; t = t->next)
        if (!strcmp(t->list.first->string.text, name)) return t;
    return NULL;
}

/* NAME, "turned:NAME" (transposed) or "three:A,B,C" (one below the other). */
static bool make_row(const struct draft *d, struct weight_tensor *t, const char *part, const char *what, void **data)
{
    const bool turned = !strncmp(what, "turned:", 7), three = !strncmp(what, "three:", 6);
    char names[600], *next;
    snprintf(names, sizeof names, "%s", turned ? what + 7 : three ? what + 6 : what);
    uint64_t bytes = 0;
    for (char *name = strtok_r(names, ",", &next); name; name = strtok_r(NULL, ",", &next)) {
        const struct json *row = tensor_row(d, part, name);
        void *one = NULL;
        if (!row || !make_tensor(t, row, part, WEIGHT_F32, &one)) return false;
        *data = realloc(*data, bytes + t->bytes);
        memcpy((char *)*data + bytes, one, t->bytes);
        free(one);
        bytes += t->bytes;
    }
    if (three) t->dims[0] *= 3;
    if (turned) {
        const int64_t n = t->dims[0], k = t->dims[1];
        float *x = *data, *y = malloc(bytes);
        for (int64_t r = 0; r < n; r++)
            for (int64_t c = 0; c < k; c++) y[c * n + r] = x[r * k + c];
        free(x);
        *data = y;
        t->dims[0] = k;
        t->dims[1] = n;
    }
    if (!strcmp(part, "vae") && strstr(what, "attentions.0.to") && t->rank == 2) t->dims[t->rank++] = 1, t->dims[t->rank++] = 1;
    t->data = *data;
    t->bytes = bytes;
    return true;
}

bool draft_write_file(const struct draft *d, const char *folder)
{
    static struct weight_tensor tensors[TENSORS_MAX];
    static void *data[TENSORS_MAX];
    const struct json *list = json_get(d->root, "file");
    char path[700];
    int n = 0;
    bool ok = list && list->list.count <= TENSORS_MAX;
    for (const struct json *r = ok ? list->list.first : NULL; r && ok; r = r->next, n++) {
        const struct json *file = r->list.first, *part = file->next, *name = part->next;
        data[n] = NULL;
        ok = make_row(d, &tensors[n], part->string.text, name->string.text, &data[n]);
        if (!ok) printf("  no tensor %s of %s\n", name->string.text, part->string.text);
        tensors[n].name = file->string.text;
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    int fd = ok ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    ok = fd >= 0 && safetensors_write(weights_sink_fd(&fd), tensors, n, NULL, 0, NULL) == ST_OK && copy_tokenizer(folder, "tokenizer", false);
    if (fd >= 0) close(fd);
    for (int i = 0; i < n; i++) free(data[i]);
    return ok;
}

/* ---- asking ---- */
static double number(const struct json *c, const char *key, double otherwise)
{
    double v;
    return json_as_double(json_get_value(c, key), &v) ? v : otherwise;
}

static bool picture(struct image *p, int width, int height)
{
    *p = (struct image){ width, height, 3, malloc((size_t)(width * height * 3)) };
    for (int y = 0; p->pixels && y < height; y++)
        for (int x = 0; x < width; x++) {
            uint8_t *at = p->pixels + (y * width + x) * 3;
            at[0] = (uint8_t)((x * 7 + y * 3) % 256);
            at[1] = (uint8_t)((x * y) % 256);
            at[2] = (uint8_t)((255 - x * 5 - y + 512) % 256);
        }
    return p->pixels != NULL;
}

static bool mask_of(struct image *p, int width, int height)
{
    *p = (struct image){ width, height, 1, calloc((size_t)(width * height), 1) };
    for (int y = height / 3; p->pixels && y < height; y++) memset(p->pixels + y * width + width / 2, 255, (size_t)(width - width / 2));
    return p->pixels != NULL;
}

enum status draft_ask(const struct json *c, struct image_job *j, struct image *image, struct image *mask, struct err *err)
{
    const struct json *prompt = json_get(c, "prompt"), *negative = json_get(c, "negative"), *sampler = json_get(c, "sampler"), *schedule = json_get(c, "schedule");
    enum status st = image_job_open(j, prompt ? prompt->string.text : "", prompt ? prompt->string.length : 0, (int)number(c, "n", 1), err);
    if (st) return st;
    if (negative) j->negative = negative->string.text, j->negative_length = negative->string.length;
    j->width = (int)number(c, "width", 0);
    j->height = (int)number(c, "height", 0);
    j->steps = (int)number(c, "steps", 0);
    j->guidance = (float)number(c, "guidance", -1);
    j->strength = (float)number(c, "strength", -1);
    j->eta = (float)number(c, "eta", 0);
    j->label = (int)number(c, "label", -1);
    j->seeded = true;
    j->seed = (uint64_t)number(c, "seed", 0);
    if (sampler) image_sampler_from_name(sampler->string.text, sampler->string.length, &j->sampler);
    if (schedule) image_schedule_from_name(schedule->string.text, schedule->string.length, &j->schedule);
    if (json_get(c, "image") && picture(image, j->width, j->height)) j->image = image;
    if (json_get(c, "mask") && mask_of(mask, j->width, j->height)) j->mask = mask;
    return ST_OK;
}

/* ---- running ---- */
struct draft_way draft_way = { .precision = PRECISION_F32 };

enum status draft_open(struct draft_model *m, const char *folder, int threads, int level, struct err *err)
{
    char main_file[700];
    struct stat there;
    snprintf(main_file, sizeof main_file, "%s/model_index.json", folder);
    if (stat(main_file, &there)) snprintf(main_file, sizeof main_file, "%s/model.safetensors", folder);
    const struct model_files files = { .directory = folder, .main_file = main_file };
    const struct engine_options options = { .threads = threads, .cpu_level = level, .precision = draft_way.precision, .gpu = draft_way.gpu, .max_batch_rows = 16 };
    *m = (struct draft_model){ 0 };
    enum status st = diffusion_engine.open(&m->engine, &files, &options, err);
    if (!st) st = diffusion_engine.start(&m->instance, m->engine, err);
    if (st) draft_close(m);
    return st;
}

void draft_close(struct draft_model *m)
{
    if (m->instance) diffusion_engine.stop(m->instance);
    if (m->engine) diffusion_engine.close(m->engine);
    *m = (struct draft_model){ 0 };
}

enum status draft_run(struct draft_model *m, struct image_job *j, struct err *err)
{
    struct request r;
    request_init(&r, 1 << 20);
    r.image = j;
    enum status st = draft_run_request(m, &r, err);
    request_drop(&r);
    return st;
}

enum status draft_run_request(struct draft_model *m, struct request *r, struct err *err)
{
    struct slot *slot;
    enum status st = diffusion_engine.check(m->engine, r, err);
    if (!st) st = diffusion_engine.admit(m->instance, r, &slot, err);
    if (st) return st;
    do {
        st = diffusion_engine.submit(m->instance, &slot, 1, NULL, err);
        if (!st && slot->state == SLOT_FAILED) {
            *err = slot->error;
            st = err->status;
        }
    } while (!st && slot->state == SLOT_RUNNING);
    diffusion_engine.retire(m->instance, slot);
    return st;
}
