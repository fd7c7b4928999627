/* Requests for pictures. A field is looked up the same way in a JSON object and in a form, where everything is text. */
#include "api/openai_images.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/multipart.h"
#include "engine/image_ops.h"

enum { NUMBER_TEXT_MAX = 40, PARTIALS_OPENAI_MAX = 3 };

/* One field: its text, or its number, as the request has it. */
struct field { bool there, is_text; const char *text; size_t length; const struct json *json; };

static struct field find(const struct images_fields *f, const char *name)
{
    if (f->root) {
        const struct json *j = json_get_value(f->root, name);
        struct field x = { .there = j != NULL, .json = j };
        if (j && j->type == JSON_STRING) x.is_text = true, x.text = j->string.text, x.length = j->string.length;
        return x;
    }
    const struct form_part *p = multipart_find(f->parts, f->part_count, name);
    return p ? (struct field){ .there = true, .is_text = true, .text = p->data, .length = p->length } : (struct field){ 0 };
}

static enum status fault(struct images_ask *a, const char *parameter, struct err *err, const char *text)
{
    a->parameter = parameter;
    return err_set(err, ST_BAD_INPUT, "'%s' %s", parameter, text);
}

bool images_model(const struct images_fields *f, const char **name, size_t *length)
{
    const struct field x = find(f, "model");
    *name = x.text;
    *length = x.length;
    return x.is_text && x.length;
}

/* A number within [low, high]; *out keeps its value where the field is missing. */
static enum status number(struct images_ask *a, const struct images_fields *f, const char *name, double low, double high, bool whole, double *out, struct err *err)
{
    const struct field x = find(f, name);
    char text[NUMBER_TEXT_MAX + 1], *end = text, said[160];
    double v = 0;
    bool good = true;
    if (!x.there || (x.is_text && !x.length && !f->root)) return ST_OK;
    if (x.is_text && x.length <= NUMBER_TEXT_MAX) {
        memcpy(text, x.text, x.length);
        text[x.length] = 0;
        v = strtod(text, &end);
        good = end != text && !*end && !f->root;      /* in JSON a number is no string */
    } else {
        good = x.json && json_as_double(x.json, &v);
    }
    if (good && v >= low && v <= high && (!whole || v == floor(v))) {
        *out = v;
        return ST_OK;
    }
    snprintf(said, sizeof said, "must be a %snumber from %g to %g", whole ? "whole " : "", low, high);
    return fault(a, name, err, said);
}

static enum status seed(struct images_ask *a, const struct images_fields *f, struct err *err)
{
    const struct field x = find(f, "seed");
    char text[NUMBER_TEXT_MAX + 1], *end;
    int64_t v = 0;
    if (!x.there) return ST_OK;
    if (x.json && !x.is_text) {
        a->job.seeded = json_as_int64(x.json, &v);
        a->job.seed = (uint64_t)v;
        if (!a->job.seeded) a->job.seeded = json_as_uint64(x.json, &a->job.seed);
    } else if (!f->root && x.length && x.length <= NUMBER_TEXT_MAX) {
        memcpy(text, x.text, x.length);
        text[x.length] = 0;
        a->job.seed = *text == '-' ? (uint64_t)strtoll(text, &end, 10) : strtoull(text, &end, 10);
        a->job.seeded = end != text && !*end;
    }
    return a->job.seeded ? ST_OK : fault(a, "seed", err, "must be a whole number of 64 bits");
}

static enum status flag(struct images_ask *a, const struct images_fields *f, const char *name, bool *out, struct err *err)
{
    const struct field x = find(f, name);
    if (!x.there) return ST_OK;
    if (x.json && x.json->type == JSON_BOOL) *out = x.json->boolean;
    else if (!f->root && x.length == 4 && !memcmp(x.text, "true", 4)) *out = true;
    else if (!f->root && x.length == 5 && !memcmp(x.text, "false", 5)) *out = false;
    else return fault(a, name, err, "must be true or false");
    return ST_OK;
}

static bool is(const struct field *x, const char *text) { return x->is_text && x->length == strlen(text) && !memcmp(x->text, text, x->length); }

/* A text; missing is allowed. */
static enum status text(struct images_ask *a, const struct images_fields *f, const char *name, const char **out, size_t *length, struct err *err)
{
    const struct field x = find(f, name);
    if (!x.there) return ST_OK;
    if (!x.is_text) return fault(a, name, err, "must be a string");
    for (size_t i = 0, n; f->parts && i < x.length; i += n)
        if (!(n = json_utf8_length(x.text + i, x.length - i))) return fault(a, name, err, "must be UTF-8");
    *out = x.text;
    *length = x.length;
    return ST_OK;
}

/* "WxH" or "auto". */
static enum status size(struct images_ask *a, const struct images_fields *f, struct err *err)
{
    const struct field x = find(f, "size");
    char said[NUMBER_TEXT_MAX + 1], *end = said;
    if (!x.there || is(&x, "auto")) return ST_OK;
    if (x.is_text && x.length <= NUMBER_TEXT_MAX) {
        memcpy(said, x.text, x.length);
        said[x.length] = 0;
        const long w = strtol(said, &end, 10), h = *end == 'x' ? strtol(end + 1, &end, 10) : 0;
        if (!*end && w >= IMAGE_SIDE_MIN && w <= IMAGE_SIDE_MAX && h >= IMAGE_SIDE_MIN && h <= IMAGE_SIDE_MAX && w % 8 == 0 && h % 8 == 0) {
            a->job.width = (int)w;
            a->job.height = (int)h;
            return ST_OK;
        }
    }
    return fault(a, "size", err, "must be \"auto\" or WIDTHxHEIGHT, both from 8 to 4096 in steps of 8");
}

static enum status format(struct images_ask *a, const struct images_fields *f, struct err *err)
{
    const struct field format = find(f, "output_format"), response = find(f, "response_format"), background = find(f, "background"), quality = find(f, "quality");
    double compression = 100;
    a->said_quality = is(&quality, "low") ? "low" : is(&quality, "medium") ? "medium" : is(&quality, "high") ? "high" : "auto";
    if (!format.there || is(&format, "png")) a->format = IMAGE_PNG;
    else if (is(&format, "jpeg")) a->format = IMAGE_JPEG;
    else if (is(&format, "webp")) a->format = IMAGE_WEBP;
    else return fault(a, "output_format", err, "must be png, jpeg or webp");
    a->urls = is(&response, "url");
    if (response.there && !a->urls && !is(&response, "b64_json")) return fault(a, "response_format", err, "must be b64_json or url");
    if (is(&background, "transparent")) return fault(a, "background", err, "cannot be transparent: pictures are opaque");
    enum status st = number(a, f, "output_compression", 0, 100, true, &compression, err);
    a->quality = (int)compression;
    return st;
}

static enum status sampler(struct images_ask *a, const struct images_fields *f, struct err *err)
{
    const struct field x = find(f, "sampler"), y = find(f, "schedule");
    if (x.there && (!x.is_text || !image_sampler_from_name(x.text, x.length, &a->job.sampler))) return fault(a, "sampler", err, "names no sampler: `inferd draw --help` lists them");
    if (y.there && (!y.is_text || !image_schedule_from_name(y.text, y.length, &a->job.schedule))) return fault(a, "schedule", err, "names no schedule: `inferd draw --help` lists them");
    return ST_OK;
}

static enum status numbers(struct images_ask *a, const struct images_fields *f, struct err *err)
{
    double steps = 0, guidance = -1, strength = -1, eta = 0, partials = 0;
    enum status st = number(a, f, "steps", 1, IMAGE_STEPS_MAX, true, &steps, err);
    if (!st) st = number(a, f, "guidance_scale", 0, IMAGE_GUIDANCE_MAX, false, &guidance, err);
    if (!st) st = number(a, f, "strength", 0, 1, false, &strength, err);
    if (!st) st = number(a, f, "eta", 0, 1, false, &eta, err);
    if (!st) st = number(a, f, "partial_images", 0, PARTIALS_OPENAI_MAX, true, &partials, err);
    if (!st) st = flag(a, f, "stream", &a->stream, err);
    if (!st) st = flag(a, f, "progress", &a->job.progress, err);
    if (!st) st = seed(a, f, err);
    if (!st && a->job.progress && !a->stream) st = fault(a, "progress", err, "needs \"stream\": true");
    if (!st && partials > 0 && !a->stream) st = fault(a, "partial_images", err, "needs \"stream\": true");
    a->job.steps = (int)steps;
    a->job.guidance = (float)guidance;
    a->job.strength = (float)strength;
    a->job.eta = (float)eta;
    a->job.partials = (int)partials;
    return st;
}

/* The picture of an edit or a variation, and where it is drawn anew: where the mask is transparent, else where the picture itself is. */
static enum status pictures(struct images_ask *a, const struct images_fields *f, struct err *err)
{
    const struct form_part *image = multipart_find(f->parts, f->part_count, "image"), *mask = multipart_find(f->parts, f->part_count, "mask");
    int images = 0;
    for (int i = 0; i < f->part_count; i++) images += (f->parts[i].name_length == 5 && !memcmp(f->parts[i].name, "image", 5)) || (f->parts[i].name_length == 7 && !memcmp(f->parts[i].name, "image[]", 7));
    if (!image) image = multipart_find(f->parts, f->part_count, "image[]");
    if (!image) return fault(a, "image", err, "is missing: an edit or a variation begins with a picture");
    if (images > 1) return fault(a, "image", err, "is given more than once: one picture is taken");
    a->parameter = "image";
    enum status st = image_decode(&a->image, (const uint8_t *)image->data, image->length, 3, NULL, err);
    if (st) return err_prefix(err, "image");
    a->job.image = &a->image;
    if (a->kind == IMAGES_VARY) return ST_OK;
    if (mask) a->parameter = "mask";
    st = image_decode_clear(&a->mask, (const uint8_t *)(mask ? mask : image)->data, (mask ? mask : image)->length, NULL, err);
    if (st) return err_prefix(err, "mask");
    bool any = false;
    for (size_t i = 0, n = (size_t)a->mask.width * (size_t)a->mask.height; i < n && !any; i++) any = a->mask.pixels[i] != 0;
    if (any) a->job.mask = &a->mask;
    else if (mask) return fault(a, "mask", err, "is nowhere transparent: its transparent part is drawn anew");
    return ST_OK;
}

/* What the model can do with what was given. */
static enum status fits(struct images_ask *a, const struct image_model *m, struct err *err)
{
    if (a->kind != IMAGES_VARY && m->takes_text && !a->job.prompt_length) return fault(a, "prompt", err, "is missing");
    if (a->job.image && !m->takes_image) return fault(a, "image", err, "is not taken by this model");
    if (a->job.mask && !m->takes_mask) return fault(a, "mask", err, "is not taken by this model");
    return ST_OK;
}

enum status images_read(struct images_ask *a, enum images_kind kind, struct request *r, const struct images_fields *f, const struct model_version *v, int64_t now, struct err *err)
{
    const char *prompt = "", *negative = "";
    size_t prompt_length = 0, negative_length = 0;
    double n = 1;
    uint64_t random;
    a->kind = kind;
    a->created = now;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random) random = (uint64_t)(uintptr_t)a ^ (uint64_t)now;
    snprintf(a->id, sizeof a->id, "img-%016llx", (unsigned long long)random);
    enum status st = text(a, f, "prompt", &prompt, &prompt_length, err);
    if (!st) st = text(a, f, "negative_prompt", &negative, &negative_length, err);
    if (!st) st = number(a, f, "n", 1, IMAGE_PICTURES_MAX, true, &n, err);
    if (!st) st = image_job_open(&a->job, prompt, prompt_length, (int)n, err);
    if (st) return st;
    a->has_job = true;
    a->job.negative = negative;
    a->job.negative_length = negative_length;
    st = numbers(a, f, err);
    if (!st) st = size(a, f, err);
    if (!st) st = format(a, f, err);
    if (!st) st = sampler(a, f, err);
    if (!st && kind != IMAGES_GENERATE) st = pictures(a, f, err);
    if (!st) st = fits(a, v->ops->image->model(v->engine), err);
    if (st) return st;
    a->parameter = NULL;
    r->image = &a->job;
    return ST_OK;
}

void images_close(struct images_ask *a)
{
    if (!a->has_job) return;
    image_job_close(&a->job);
    image_free(&a->image);
    image_free(&a->mask);
    a->has_job = false;
}
