/* Answers of pictures: OpenAI's ImagesResponse and image events, with every parameter that made them beside, and in a PNG's text. */
#include "api/openai_images.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/openai.h"

static const char *format_name(enum image_format f) { return f == IMAGE_JPEG ? "jpeg" : f == IMAGE_WEBP ? "webp" : "png"; }

/* The pixels as a JSON string of base64. `k`: the picture whose parameters are written into it, -1: none (a partial one). */
static enum status write_pixels(struct buf *out, const struct images_ask *a, uint8_t *pixels, int k, const struct model_version *v, struct err *err)
{
    const struct image picture = { .width = a->job.used.width, .height = a->job.used.height, .channels = 3, .pixels = pixels };
    struct buf bytes, parameters;
    char model[160], prefix[40] = "";
    buf_init(&bytes, 0);
    buf_init(&parameters, 0);
    snprintf(model, sizeof model, "%.100s version %" PRId64 " (%.16s)", v->name, v->version, v->digest);
    if (k >= 0) image_parameters_write(&parameters, &a->job, k, model);
    buf_putc(&parameters, 0);
    const struct image_text text = { "parameters", parameters.failed ? "" : parameters.data };
    enum status st = image_encode(&bytes, &picture, a->format, a->quality, &text, k >= 0, err);
    if (a->urls) snprintf(prefix, sizeof prefix, "data:image/%s;base64,", format_name(a->format));
    if (!st) json_write_base64(out, prefix, bytes.data, bytes.length);
    buf_free(&bytes);
    buf_free(&parameters);
    return st;
}

static void write_usage(struct buf *out, const struct images_ask *a)
{
    const int tokens = a->job.used.prompt_tokens;      /* pictures are not counted in tokens here */
    buf_printf(out, "\"usage\":{\"total_tokens\":%d,\"input_tokens\":%d,\"output_tokens\":0,\"input_tokens_details\":{\"text_tokens\":%d,\"image_tokens\":0}}", tokens, tokens, tokens);
}

static void write_parameters(struct buf *out, const struct images_ask *a)
{
    const struct image_used *u = &a->job.used;
    buf_printf(out, "\"parameters\":{\"width\":%d,\"height\":%d,\"steps\":%d,\"sampler\":\"%s\",\"schedule\":\"%s\",\"seed\":%" PRIu64 ",\"guidance_scale\":", u->width, u->height, u->steps,
               image_sampler_name(u->sampler), image_schedule_name(u->schedule), u->seed);
    json_write_float(out, u->guidance);
    if (a->job.image) {
        buf_puts(out, ",\"strength\":");
        json_write_float(out, u->strength);
    }
    if (a->job.negative_length) {
        buf_puts(out, ",\"negative_prompt\":");
        json_write_string(out, a->job.negative, a->job.negative_length);
    }
    buf_putc(out, '}');
}

enum status images_write(struct buf *out, const struct images_ask *a, const struct model_version *v, struct err *err)
{
    enum status st = ST_OK;
    buf_printf(out, "{\"created\":%" PRId64 ",\"data\":[", a->created);
    for (int k = 0; k < a->job.pictures && !st; k++) {
        buf_printf(out, "%s{\"%s\":", k ? "," : "", a->urls ? "url" : "b64_json");
        st = write_pixels(out, a, a->job.answers[k].pixels, k, v, err);
        buf_printf(out, ",\"seed\":%" PRIu64 "}", a->job.answers[k].seed);
    }
    buf_printf(out, "],\"background\":\"opaque\",\"output_format\":\"%s\",\"size\":\"%dx%d\",", format_name(a->format), a->job.used.width, a->job.used.height);
    if (strcmp(a->said_quality, "auto")) buf_printf(out, "\"quality\":\"%s\",", a->said_quality);
    write_parameters(out, a);
    buf_putc(out, ',');
    write_usage(out, a);
    buf_putc(out, '}');
    return st ? st : out->failed ? err_set(err, ST_NO_MEMORY, "no memory for the answer") : ST_OK;
}

static const char *event_kind(const struct images_ask *a) { return a->kind == IMAGES_GENERATE ? "image_generation" : "image_edit"; }

/* The part that partial and finished pictures have in common, up to the pixels. */
static void begin_event(struct buf *out, const struct images_ask *a, const char *what)
{
    const char *kind = event_kind(a);
    buf_printf(out, "event: %s.%s\ndata: {\"type\":\"%s.%s\",\"created_at\":%" PRId64 ",\"size\":\"%dx%d\",\"quality\":\"%s\",\"background\":\"opaque\",\"output_format\":\"%s\",\"b64_json\":", kind, what, kind, what, a->created,
               a->job.used.width, a->job.used.height, a->said_quality, format_name(a->format));
}

static void error_event(struct buf *out, const struct err *e)
{
    buf_puts(out, "event: error\ndata: ");
    openai_error_write(out, status_http(e->status), e->text, NULL, NULL);
    buf_puts(out, "\n\n");
}

/* The latest partial picture of each, where it was not seen. Its bytes are copied under the lock: encoding would hold up the worker. */
static void stream_partials(struct buf *out, struct images_ask *a, const struct model_version *v)
{
    struct image_job *j = &a->job;
    for (int k = 0; k < j->pictures; k++) {
        struct err err;
        const size_t bytes = (size_t)j->used.width * (size_t)j->used.height * 3;
        pthread_mutex_lock(&j->lock);
        const int count = j->answers[k].partial_count;
        uint8_t *copy = count > a->seen[k] && j->answers[k].partial ? malloc(bytes) : NULL;
        if (copy) memcpy(copy, j->answers[k].partial, bytes);
        pthread_mutex_unlock(&j->lock);
        if (!copy) continue;
        const size_t start = out->length;
        begin_event(out, a, "partial_image");
        if (write_pixels(out, a, copy, -1, v, &err)) out->length = start;
        else buf_printf(out, ",\"partial_image_index\":%d}\n\n", count - 1);
        a->seen[k] = count;
        free(copy);
    }
}

/* How far it is, where it was asked for and has moved. */
static void stream_progress(struct buf *out, struct images_ask *a)
{
    struct image_job *j = &a->job;
    if (!j->progress) return;
    pthread_mutex_lock(&j->lock);
    const int step = j->step, steps = j->used.steps;
    pthread_mutex_unlock(&j->lock);
    if (step <= a->seen_step) return;
    a->seen_step = step;
    buf_printf(out, "event: %s.progress\ndata: {\"type\":\"%s.progress\",\"created_at\":%" PRId64 ",\"step\":%d,\"steps\":%d}\n\n", event_kind(a), event_kind(a), a->created, step, steps);
}

void images_stream(struct buf *out, struct images_ask *a, const struct model_version *v, bool finished, const struct err *failure)
{
    struct err err;
    stream_progress(out, a);
    stream_partials(out, a, v);
    if (!finished) return;
    if (failure) {
        error_event(out, failure);
        return;
    }
    for (int k = 0; k < a->job.pictures; k++) {
        const size_t start = out->length;
        begin_event(out, a, "completed");
        if (write_pixels(out, a, a->job.answers[k].pixels, k, v, &err)) {
            out->length = start;
            error_event(out, &err);
            continue;
        }
        buf_printf(out, ",\"seed\":%" PRIu64 ",", a->job.answers[k].seed);
        write_parameters(out, a);
        buf_putc(out, ',');
        write_usage(out, a);
        buf_puts(out, "}\n\n");
    }
}
