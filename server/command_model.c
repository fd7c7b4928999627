#include "server/command_model.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/image.h"
#include "base/threads.h"
#include "engine/device_gpu.h"
#include "engine/formats/npy.h"
#include "engine/formats/onnx.h"
#include "engine/diffusion/diffusion_engine.h"
#include "engine/llm/llm_engine.h"
#include "engine/onnx/onnx_engine.h"
#include "kernels/kernels.h"

enum { PATH_BYTES = 4096 };

bool command_option(struct command_args *a, const char *name, const char **value)
{
    const char *arg = a->argv[a->at];
    size_t n = strlen(name);
    if (strncmp(arg, name, n)) return false;
    if (arg[n] == '=') { *value = arg + n + 1; a->at++; return true; }
    if (arg[n]) return false;
    *value = a->at + 1 < a->argc ? a->argv[a->at + 1] : NULL;
    a->at += *value ? 2 : 1;
    if (!*value) fprintf(stderr, "inferd: %s needs a value\n", name);
    return true;
}

bool command_flag(struct command_args *a, const char *name)
{
    if (strcmp(a->argv[a->at], name)) return false;
    a->at++;
    return true;
}

bool command_number(const char *text, double low, double high, double *out)
{
    char *end;
    if (!text || !*text) return false;
    double v = strtod(text, &end);
    if (*end || !(v >= low && v <= high)) return false;
    *out = v;
    return true;
}

void command_engine_defaults(struct engine_options *o)
{
    *o = (struct engine_options){ .threads = threads_cpu_count(), .cpu_level = CPU_AMX, .precision = PRECISION_F32, .max_batch_rows = 1 };
}

int command_engine_option(struct command_args *a, struct engine_options *o)
{
    const char *v;
    double n;
    enum cpu_level level;
    if (command_option(a, "--threads", &v)) {
        if (!command_number(v, 1, 1024, &n) || n != (int)n) { fprintf(stderr, "inferd: --threads takes a number from 1 to 1024\n"); return -1; }
        o->threads = (int)n;
        return 1;
    }
    if (command_option(a, "--cpu-level", &v)) {
        if (!v || !cpu_level_from_name(v, &level)) { fprintf(stderr, "inferd: --cpu-level takes scalar, avx2, avx512 or amx\n"); return -1; }
        o->cpu_level = (int)level;
        return 1;
    }
    if (command_option(a, "--gpu", &v)) {
        struct err err;
        if (!command_number(v, 0, DEVICE_GPUS_MAX - 1, &n) || n != (int)n) { fprintf(stderr, "inferd: --gpu takes the number of a card, from 0\n"); return -1; }
        if (!device_gpu_count() && device_gpus_open(NULL, 0, NULL, &err)) { fprintf(stderr, "inferd: %s\n", err.text); return -1; }
        o->gpu = (int)n + 1;
        return 1;
    }
    if (command_option(a, "--precision", &v)) {
        if (v && precision_from_name(v, &o->precision)) return 1;
        fprintf(stderr, "inferd: --precision takes f32, f16, bf16, int8 or auto\n");
        return -1;
    }
    return 0;
}

static bool is_file(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* What a version folder is served from: model.onnx, the first *.gguf by name, config.json, model_index.json, or model.safetensors alone. */
static bool find_main(char file[PATH_BYTES], const char *folder)
{
    char best[256] = "";
    if (snprintf(file, PATH_BYTES, "%s/model.onnx", folder) < PATH_BYTES && is_file(file)) return true;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (ends_with(e->d_name, ".gguf") && strlen(e->d_name) < sizeof best && (!*best || strcmp(e->d_name, best) < 0)) strcpy(best, e->d_name);
    if (d) closedir(d);
    if (*best && snprintf(file, PATH_BYTES, "%s/%s", folder, best) < PATH_BYTES && is_file(file)) return true;
    static const char *const others[] = { "config.json", "model_index.json", "model.safetensors" };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (snprintf(file, PATH_BYTES, "%s/%s", folder, others[i]) < PATH_BYTES && is_file(file)) return true;
    return false;
}

enum status command_model_find(char file[PATH_BYTES], const char *model, struct err *err)
{
    struct stat s;
    if (stat(model, &s)) return err_set(err, ST_NOT_FOUND, "there is no file or folder '%s'", model);
    if (!S_ISDIR(s.st_mode)) {
        if (snprintf(file, PATH_BYTES, "%s", model) >= PATH_BYTES) return err_set(err, ST_BAD_INPUT, "the path is too long");
        return ST_OK;
    }
    if (find_main(file, model)) return ST_OK;
    DIR *d = opendir(model);
    long best = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        char *end;
        long v = strtol(e->d_name, &end, 10);
        if (*end || v <= best) continue;
        char path[PATH_BYTES];
        if (snprintf(path, sizeof path, "%s/%ld", model, v) < PATH_BYTES && find_main(file, path)) best = v;
    }
    if (d) closedir(d);
    char path[PATH_BYTES];
    if (best == 0 || snprintf(path, sizeof path, "%s/%ld", model, best) >= PATH_BYTES || !find_main(file, path))
        return err_set(err, ST_NOT_FOUND, "'%s' holds neither model.onnx, *.gguf, config.json, model_index.json or model.safetensors nor a version folder with one", model);
    return ST_OK;
}

const struct engine_ops *command_engine_of(const char *file)
{
    if (ends_with(file, "model_index.json") || ends_with(file, ".safetensors")) return &diffusion_engine;
    return ends_with(file, ".gguf") || ends_with(file, "config.json") ? &llm_engine : &onnx_engine;
}

enum status command_model_open(struct command_model *m, const char *model, const struct engine_options *o, struct err *err)
{
    *m = (struct command_model){ 0 };
    enum status st = command_model_find(m->file, model, err);
    if (st) return st;
    memcpy(m->directory, m->file, sizeof m->directory);
    char *slash = strrchr(m->directory, '/');
    if (slash) *slash = 0;
    else strcpy(m->directory, ".");
    struct model_files files = { m->directory, m->file, NULL };
    uint64_t start = clock_ns();
    m->ops = command_engine_of(m->file);
    st = m->ops->open(&m->engine, &files, o, err);
    if (!st) {
        m->signature = m->ops->describe(m->engine);
        st = m->ops->start(&m->instance, m->engine, err);
    }
    m->load_ns = clock_ns() - start;
    if (st) command_model_close(m);
    return st;
}

enum status command_onnx_open(struct command_model *m, const char *model, const struct engine_options *o, struct err *err)
{
    char file[PATH_BYTES];
    enum status st = command_model_find(file, model, err);
    if (st) return st;
    if (command_engine_of(file) != &onnx_engine) return err_set(err, ST_BAD_INPUT, command_engine_of(file)->image ? "'%s' is a model of pictures: inferd draw runs it" : "'%s' is a language model: inferd generate runs it", model);
    return command_model_open(m, model, o, err);
}

void command_model_close(struct command_model *m)
{
    if (m->instance) m->ops->stop(m->instance);
    if (m->engine) m->ops->close(m->engine);
    m->instance = NULL;
    m->engine = NULL;
}

enum status command_model_run(struct command_model *m, struct request *r, struct request_tensor *inputs, int count, struct err *err)
{
    static const atomic_bool never = false;
    struct slot *slot;
    request_init(r, (uint64_t)8 << 30);
    r->inputs = inputs;
    r->input_count = count;
    r->id = "";
    enum status st = m->ops->check(m->engine, r, err);
    if (!st) st = m->ops->admit(m->instance, r, &slot, err);
    if (st) return st;
    st = m->ops->submit(m->instance, &slot, 1, &never, err);
    if (!st) st = m->ops->collect(m->instance, err);
    if (!st && slot->state != SLOT_DONE) {
        st = slot->error.status;
        if (err) *err = slot->error;
    }
    m->ops->retire(m->instance, slot);
    return st;
}

static enum status read_picture(struct tensor *t, struct arena *arena, const char *bytes, size_t length, const struct port *port, struct err *err)
{
    if (!port || port->rank != 4 || (port->dtype != DT_F32 && port->dtype != DT_U8)) return err_set(err, ST_BAD_INPUT, "a picture fits an input of four dimensions of float32 or uint8 only");
    bool last = port->dims[3] == 1 || port->dims[3] == 3;
    int channels = (int)(last ? port->dims[3] : port->dims[1]);
    int64_t h = port->dims[last ? 1 : 2], w = port->dims[last ? 2 : 3];
    if (channels != 1 && channels != 3) return err_set(err, ST_BAD_INPUT, "input '%s' does not take 1 or 3 channels", port->name);
    struct image raw = { 0 }, sized = { 0 };
    enum status st = image_decode(&raw, (const uint8_t *)bytes, length, channels, NULL, err);
    if (st) return st;
    if (h < 0) h = raw.height;
    if (w < 0) w = raw.width;
    st = image_resize(&sized, &raw, (int)w, (int)h, IMAGE_BILINEAR, err);
    image_free(&raw);
    if (st) return st;
    *t = (struct tensor){ .dtype = port->dtype, .rank = 4, .dims = { 1, last ? h : channels, last ? w : h, last ? channels : w } };
    tensor_bytes(t->dtype, t->dims, 4, &t->bytes);
    t->data = arena_alloc(arena, t->bytes, TENSOR_ALIGN);
    for (int64_t i = 0; t->data && i < h * w; i++)
        for (int c = 0; c < channels; c++) {
            int64_t at = last ? i * channels + c : c * h * w + i;
            uint8_t v = sized.pixels[i * channels + c];
            if (port->dtype == DT_F32) ((float *)t->data)[at] = (float)v / 255.0f;
            else ((uint8_t *)t->data)[at] = v;
        }
    image_free(&sized);
    return t->data ? ST_OK : err_set(err, ST_NO_MEMORY, "reading a picture");
}

/* Moves data that lies at any place of a file to an aligned one; the items of a sequence each. */
static enum status align_data(struct tensor *t, struct arena *arena, const char *path, struct err *err)
{
    if (t->bytes && (uintptr_t)t->data % TENSOR_ALIGN) {
        void *aligned = arena_alloc(arena, t->bytes, TENSOR_ALIGN);
        if (!aligned) return err_set(err, ST_NO_MEMORY, "reading '%s'", path);
        t->data = memcpy(aligned, t->data, t->bytes);
    }
    enum status st = ST_OK;
    for (int64_t i = 0; t->dtype == DT_SEQUENCE && i < t->dims[0] && !st; i++) st = align_data((struct tensor *)t->data + i, arena, path, err);
    return st;
}

enum status command_tensor_read(struct tensor *t, struct arena *arena, const char *path, const struct port *port, struct err *err)
{
    char *bytes;
    size_t length;
    enum status st = file_read_path(&bytes, &length, path, (size_t)4 << 30, err);
    if (st) return st;
    const char *copy = arena_copy(arena, bytes, length);
    free(bytes);
    if (!copy) return err_set(err, ST_NO_MEMORY, "reading '%s'", path);
    const char *dot = strrchr(path, '.');
    if (dot && strcmp(dot, ".npy") == 0) st = npy_parse(t, arena, copy, length, err);
    else if (dot && strcmp(dot, ".pb") == 0) {
        struct onnx_tensor o = { 0 };
        if (port && port->optional) st = onnx_parse_optional(t, arena, (const uint8_t *)copy, length, err);
        else if (port && port->dtype == DT_SEQUENCE) st = onnx_parse_sequence(t, arena, (const uint8_t *)copy, length, err);
        else {
            st = onnx_parse_tensor(&o, arena, (const uint8_t *)copy, length, err);
            if (!st && o.location) st = err_set(err, ST_UNSUPPORTED, "its data is in another file");
            *t = o.tensor;
        }
    } else st = read_picture(t, arena, copy, length, port, err);
    if (st) return err_prefix(err, "'%s'", path);
    return align_data(t, arena, path, err);
}

enum status command_tensor_write(const char *path, const struct tensor *t, struct err *err)
{
    struct buf b;
    buf_init(&b, 0);
    enum status st = npy_write(&b, t, err);
    FILE *f = st ? NULL : fopen(path, "wb");
    if (!st && !f) st = err_set(err, ST_INTERNAL, "'%s' cannot be written", path);
    if (f && fwrite(b.data, 1, b.length, f) != b.length) st = err_set(err, ST_NO_SPACE, "'%s' cannot be written", path);
    if (f && fclose(f) && !st) st = err_set(err, ST_NO_SPACE, "'%s' cannot be written", path);
    buf_free(&b);
    return st;
}

enum status command_job_run(struct command_model *m, struct request *r, void (*progress)(void *ctx), void *ctx, struct err *err)
{
    static const atomic_bool never = false;
    struct slot *slot;
    r->times.received = r->times.queued = clock_ns();
    enum status st = m->ops->check(m->engine, r, err);
    if (!st) st = m->ops->admit(m->instance, r, &slot, err);
    if (st) return st;
    do {
        st = m->ops->submit(m->instance, &slot, 1, &never, err);
        if (!st) st = m->ops->collect(m->instance, err);
        if (!st && slot->state == SLOT_FAILED) {
            st = slot->error.status;
            if (err) *err = slot->error;
        }
        if (!st && progress) progress(ctx);
    } while (!st && slot->state == SLOT_RUNNING);
    m->ops->retire(m->instance, slot);
    return st;
}

int command_binding_option(struct command_args *a, struct command_binding *bindings, int *count)
{
    const char *v;
    if (!command_option(a, "--input", &v)) return 0;
    if (!v || *count == COMMAND_TENSORS_MAX) return -1;
    const char *equals = strchr(v, '=');
    bindings[(*count)++] = (struct command_binding){ equals ? v : NULL, equals ? equals + 1 : v, equals ? (size_t)(equals - v) : 0 };
    return 1;
}

enum status command_bindings_read(const struct signature *s, const struct command_binding *bindings, int count, struct request_tensor *inputs, struct arena *arena, struct err *err)
{
    for (int i = 0; i < count; i++) {
        const struct port *port = bindings[i].name ? NULL : s->input_count == 1 ? &s->inputs[0] : NULL;
        for (int k = 0; bindings[i].name && k < s->input_count; k++)
            if (strlen(s->inputs[k].name) == bindings[i].name_length && strncmp(s->inputs[k].name, bindings[i].name, bindings[i].name_length) == 0) port = &s->inputs[k];
        if (!port) return err_set(err, ST_BAD_INPUT, "the model has no input '%.*s'; inferd inspect lists them", (int)bindings[i].name_length, bindings[i].name ? bindings[i].name : "");
        inputs[i].name = port->name;
        enum status st = command_tensor_read(&inputs[i].tensor, arena, bindings[i].file, port, err);
        if (st) return st;
    }
    return ST_OK;
}

const char *command_where(const struct engine_options *o, enum cpu_level level, char *text)
{
    if (o->gpu) snprintf(text, 64, "GPU %d", o->gpu - 1);
    else snprintf(text, 64, "%d threads, %s", o->threads, cpu_level_name(level));
    return text;
}

double command_resident_mb(const char *field)
{
    double kb = 0;
    file_line_number("/proc/self/status", field, &kb);
    return kb / 1024;
}
