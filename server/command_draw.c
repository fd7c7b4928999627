/* inferd draw: a picture from a sentence (or from another picture), without a server. */
#include "server/command_draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/image.h"
#include "engine/image_ops.h"
#include "server/commands.h"

enum { PICTURE_BYTES_MAX = 64 << 20, BAR = 30 };

struct draw {
    struct engine_options options;
    const char *model, *prompt, *negative, *image, *mask, *latents, *dump, *output;
    double seed, steps, guidance, strength, eta, pictures, label;
    int    width, height;
    enum image_sampler  sampler;
    enum image_schedule schedule;
    bool   seeded, quiet;
    uint64_t started;
};

struct told { void (*progress)(void *ctx, struct image_job *j); void *ctx; struct image_job *job; };

static void tell(void *ctx)
{
    const struct told *t = ctx;
    t->progress(t->ctx, t->job);
}

enum status command_image_run(struct command_model *m, struct image_job *j, void (*progress)(void *ctx, struct image_job *j), void *ctx, struct err *err)
{
    struct request r;
    struct told told = { progress, ctx, j };
    request_init(&r, 1 << 20);
    r.image = j;
    enum status st = command_job_run(m, &r, progress ? tell : NULL, &told, err);
    request_drop(&r);
    return st;
}

bool command_size(const char *text, int *width, int *height)
{
    char *end;
    long w = strtol(text, &end, 10), h;
    if (*end != 'x') return false;
    h = strtol(end + 1, &end, 10);
    if (*end || w < 8 || h < 8 || w > IMAGE_SIDE_MAX || h > IMAGE_SIDE_MAX) return false;
    *width = (int)w;
    *height = (int)h;
    return true;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd draw MODEL [--output picture.png] [--prompt TEXT] [--negative TEXT] [--seed N] [--steps N] [--guidance G] [--size WxH] [--n N]\n"
                "       [--sampler NAME] [--schedule NAME] [--eta E] [--label N] [--image FILE [--mask FILE] [--strength S]] [--precision f32|auto] [--threads N] [--quiet]\n"
                "       [--latents FILE.npy] [--dump DIR]\n"
                "--latents gives the first noise, float32 [n, channels, height, width] of unit variance; --dump writes the latents after every call of the network, DIR/step_0.npy and so on.\n"
                "MODEL is a diffusers folder, a .safetensors file, or STORE/NAME. With --n more files are written: NAME-2.png and so on. What is not said is the model's own.\n"
                "samplers:");
    for (int s = SAMPLER_MODEL + 1; s < SAMPLER_COUNT; s++) fprintf(to, " %s", image_sampler_name((enum image_sampler)s));
    fprintf(to, "\nschedules:");
    for (int s = SCHEDULE_MODEL + 1; s < SCHEDULE_COUNT; s++) fprintf(to, " %s", image_schedule_name((enum image_schedule)s));
    fprintf(to, "\nexample: inferd draw models/shapes --prompt 'a large red circle in the center on a white background' --seed 1 --output x.png\n");
}

static void show(void *ctx, struct image_job *j)
{
    static const char *const phases[] = { "waiting", "reading", "drawing", "decoding", "done" };
    const struct draw *d = ctx;
    pthread_mutex_lock(&j->lock);
    const int done = j->step, all = j->used.steps, filled = all > 0 ? done * BAR / all : 0;
    const enum image_phase phase = j->phase;
    pthread_mutex_unlock(&j->lock);
    if (d->quiet) return;
    fprintf(stderr, "\r[%.*s%*s] %d/%d %-8s %.1f s ", filled, "##############################", BAR - filled, "", done, all, phases[phase], (double)(clock_ns() - d->started) / 1e9);
    if (phase == IMAGE_OVER) fputc('\n', stderr);
}

static enum status read_picture(struct image *out, const char *path, int channels, struct err *err)
{
    char *bytes;
    size_t length;
    enum status st = file_read_path(&bytes, &length, path, PICTURE_BYTES_MAX, err);
    if (st) return st;
    st = image_decode(out, (const uint8_t *)bytes, length, channels, NULL, err);
    free(bytes);
    return st ? err_prefix(err, "'%s'", path) : ST_OK;
}

/* Picture k of the answer: FILE.png, FILE-2.png, ... */
static enum status write_picture(const char *output, int k, const struct image_job *j, struct err *err)
{
    const struct image picture = { .width = j->used.width, .height = j->used.height, .channels = 3, .pixels = j->answers[k].pixels };
    char path[4096];
    const char *dot = strrchr(output, '.');
    const size_t stem = dot && !strchr(dot, '/') ? (size_t)(dot - output) : strlen(output);
    if (k) snprintf(path, sizeof path, "%.*s-%d%.100s", (int)(stem < 3900 ? stem : 3900), output, k + 1, output + stem);
    else snprintf(path, sizeof path, "%.4000s", output);
    struct buf png, parameters;
    struct err ignored;
    buf_init(&png, 0);
    buf_init(&parameters, 0);
    image_parameters_write(&parameters, j, k, NULL);
    buf_putc(&parameters, 0);
    const struct image_text text = { "parameters", parameters.failed ? "" : parameters.data };
    enum status st = image_encode(&png, &picture, IMAGE_PNG, 100, &text, parameters.failed ? 0 : 1, err ? err : &ignored);
    FILE *f = st ? NULL : fopen(path, "wb");
    const bool written = f && fwrite(png.data, 1, png.length, f) == png.length;
    const bool closed = f && fclose(f) == 0;
    buf_free(&png);
    buf_free(&parameters);
    if (st) return st;
    return written && closed ? ST_OK : err_set(err, ST_INTERNAL, "'%s' cannot be written", path);
}

/* ---- latents: given as the first noise, and looked at after every call ---- */
struct dump { const char *directory; const struct image_job *job; const struct image_model *about; float *latents /* [pictures, channels, h, w] */; struct err err; };

/* The pictures of a call come one by one; the last one's writes the file. */
static void dump_latents(void *ctx, int picture, int step, const float *latents, int64_t count)
{
    struct dump *d = ctx;
    const struct image_job *j = d->job;
    char path[4096];
    struct tensor t = { .dtype = DT_F32, .rank = 4, .dims = { j->pictures, d->about->channels, j->used.height / d->about->factor, j->used.width / d->about->factor } };
    if (!d->latents) d->latents = mem_alloc_array((uint64_t)j->pictures, (uint64_t)count * sizeof *latents);
    if (d->err.status) return;
    if (!d->latents) {
        err_set(&d->err, ST_NO_MEMORY, "writing latents");
        return;
    }
    memcpy(d->latents + picture * count, latents, (size_t)count * sizeof *latents);
    if (picture + 1 < j->pictures) return;
    t.data = d->latents;
    tensor_bytes(t.dtype, t.dims, t.rank, &t.bytes);
    snprintf(path, sizeof path, "%.4000s/step_%d.npy", d->directory, step);
    command_tensor_write(path, &t, &d->err);
}

/* The first noise of a file, in the arena. */
static enum status read_latents(struct image_job *j, struct arena *arena, const char *path, struct err *err)
{
    struct tensor t;
    enum status st = command_tensor_read(&t, arena, path, NULL, err);
    if (!st && t.dtype != DT_F32) st = err_set(err, ST_BAD_INPUT, "'%s' holds numbers of the type %s; latents are float32", path, dtype_name(t.dtype));
    if (st) return st;
    j->latents = t.data;
    j->latent_count = t.bytes / sizeof(float);
    return ST_OK;
}

static enum status draw(struct draw *d, struct err *err)
{
    struct command_model m;
    struct image_job j = { 0 };
    struct image image = { 0 }, mask = { 0 };
    struct arena arena;
    char file[4096];
    arena_init(&arena, (uint64_t)4 << 30);
    enum status st = command_model_find(file, d->model, err);
    if (!st && !command_engine_of(file)->image) st = err_set(err, ST_BAD_INPUT, "'%s' draws no pictures", d->model);
    if (!st && d->image) st = read_picture(&image, d->image, 3, err);
    if (!st && d->mask) st = read_picture(&mask, d->mask, 1, err);
    if (!st) st = command_model_open(&m, d->model, &d->options, err);
    if (!st) {
        st = image_job_open(&j, d->prompt, strlen(d->prompt), (int)d->pictures, err);
        j.negative = d->negative;
        j.negative_length = strlen(d->negative);
        j.width = d->width;
        j.height = d->height;
        j.steps = (int)d->steps;
        j.guidance = (float)d->guidance;
        j.strength = (float)d->strength;
        j.eta = (float)d->eta;
        j.label = (int)d->label;
        j.sampler = d->sampler;
        j.schedule = d->schedule;
        j.seeded = d->seeded;
        j.seed = (uint64_t)d->seed;
        j.image = d->image ? &image : NULL;
        j.mask = d->mask ? &mask : NULL;
        struct dump dump = { .directory = d->dump, .job = &j, .about = m.ops->image->model(m.engine) };
        if (d->dump) j.watch = dump_latents, j.watch_context = &dump;
        if (!st && d->latents) st = read_latents(&j, &arena, d->latents, err);
        d->started = clock_ns();
        if (!st) st = command_image_run(&m, &j, show, d, err);
        if (!st && dump.err.status) st = (*err = dump.err).status;
        free(dump.latents);
        for (int k = 0; k < j.pictures && !st; k++) st = write_picture(d->output, k, &j, err);
        if (!st && !d->quiet) fprintf(stderr, "seed %llu, sampler %s, %d steps, guidance %g\n", (unsigned long long)j.used.seed, image_sampler_name(j.used.sampler), j.used.steps, (double)j.used.guidance);
        image_job_close(&j);
        command_model_close(&m);
    }
    image_free(&image);
    image_free(&mask);
    arena_free(&arena);
    return st;
}

/* Options with a number: 0 none of them, 1 taken, -1 wrong. */
static int number_option(struct command_args *a, struct draw *d)
{
    const struct { const char *name; double low, high; double *out; } numbers[] = {
        { "--seed", 0, 9e15, &d->seed }, { "--steps", 1, IMAGE_STEPS_MAX, &d->steps }, { "--guidance", 0, IMAGE_GUIDANCE_MAX, &d->guidance }, { "--strength", 0, 1, &d->strength },
        { "--eta", 0, 1, &d->eta }, { "--n", 1, IMAGE_PICTURES_MAX, &d->pictures }, { "--label", 0, 1e9, &d->label },
    };
    const char *v;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (!command_option(a, numbers[i].name, &v)) continue;
        if (command_number(v, numbers[i].low, numbers[i].high, numbers[i].out)) {
            d->seeded = d->seeded || i == 0;
            return 1;
        }
        fprintf(stderr, "inferd: %s takes a number from %g to %g\n", numbers[i].name, numbers[i].low, numbers[i].high);
        return -1;
    }
    return 0;
}

static int text_option(struct command_args *a, struct draw *d)
{
    const struct { const char *name; const char **out; } texts[] = { { "--prompt", &d->prompt }, { "--negative", &d->negative }, { "--image", &d->image }, { "--mask", &d->mask }, { "--output", &d->output }, { "--latents", &d->latents }, { "--dump", &d->dump } };
    const char *v;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (command_option(a, texts[i].name, texts[i].out)) return *texts[i].out ? 1 : -1;
    if (command_option(a, "--size", &v)) {
        if (v && command_size(v, &d->width, &d->height)) return 1;
        fprintf(stderr, "inferd: --size takes WIDTHxHEIGHT\n");
        return -1;
    }
    if (command_option(a, "--sampler", &v)) {
        if (v && image_sampler_from_name(v, strlen(v), &d->sampler)) return 1;
        fprintf(stderr, "inferd: there is no sampler '%s'; inferd draw --help lists them\n", v ? v : "");
        return -1;
    }
    if (command_option(a, "--schedule", &v)) {
        if (v && image_schedule_from_name(v, strlen(v), &d->schedule)) return 1;
        fprintf(stderr, "inferd: there is no schedule '%s'; inferd draw --help lists them\n", v ? v : "");
        return -1;
    }
    return 0;
}

int command_draw(int argc, char **argv)
{
    struct draw d = { .prompt = "", .negative = "", .output = "picture.png", .guidance = -1, .strength = -1, .pictures = 1, .label = -1, .quiet = !isatty(STDERR_FILENO) };
    struct command_args a = { argc, 1, argv };
    struct err err = { 0 };
    command_engine_defaults(&d.options);
    while (a.at < argc) {
        int took = command_engine_option(&a, &d.options);
        if (!took) took = number_option(&a, &d);
        if (!took) took = text_option(&a, &d);
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { usage(stdout); return 0; }
        if (command_flag(&a, "--quiet")) { d.quiet = true; continue; }
        if (argv[a.at][0] == '-' || d.model) { fprintf(stderr, "inferd draw: '%s' is not understood\n", argv[a.at]); usage(stderr); return 2; }
        d.model = argv[a.at++];
    }
    if (!d.model) { usage(stderr); return 2; }
    if (!draw(&d, &err)) return 0;
    fprintf(stderr, "inferd: %s\n", err.text);
    return 1;
}
