#include "engine/image_job.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

static const char *const samplers[SAMPLER_COUNT] = { "model", "ddpm", "ddim", "pndm", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lms", "unipc", "lcm", "flow_euler" };
static const char *const schedules[SCHEDULE_COUNT] = { "model", "discrete", "karras", "exponential" };

static int find_name(const char *const *names, int count, const char *name, size_t length)
{
    for (int i = 0; i < count; i++)
        if (strlen(names[i]) == length && !memcmp(names[i], name, length)) return i;
    return -1;
}

const char *image_sampler_name(enum image_sampler s) { return (unsigned)s < SAMPLER_COUNT ? samplers[s] : "unknown"; }
const char *image_schedule_name(enum image_schedule s) { return (unsigned)s < SCHEDULE_COUNT ? schedules[s] : "unknown"; }

bool image_sampler_from_name(const char *name, size_t length, enum image_sampler *out)
{
    int i = find_name(samplers, SAMPLER_COUNT, name, length);
    if (i >= 0) *out = (enum image_sampler)i;
    return i >= 0;
}

bool image_schedule_from_name(const char *name, size_t length, enum image_schedule *out)
{
    int i = find_name(schedules, SCHEDULE_COUNT, name, length);
    if (i >= 0) *out = (enum image_schedule)i;
    return i >= 0;
}

enum status image_job_open(struct image_job *j, const char *prompt, size_t prompt_length, int pictures, struct err *err)
{
    *j = (struct image_job){ .prompt = prompt, .prompt_length = prompt_length, .pictures = pictures, .guidance = -1, .strength = -1, .label = -1 };
    return image_job_reserve(j, err);
}

enum status image_job_reserve(struct image_job *j, struct err *err)
{
    if (j->pictures < 1 || j->pictures > IMAGE_PICTURES_MAX) return err_set(err, ST_BAD_INPUT, "n must be between 1 and %d", IMAGE_PICTURES_MAX);
    j->answers = mem_calloc_array((uint64_t)j->pictures, sizeof *j->answers);
    if (!j->answers) return err_set(err, ST_NO_MEMORY, "a request for pictures");
    pthread_mutex_init(&j->lock, NULL);
    return ST_OK;
}

void image_job_close(struct image_job *j)
{
    if (!j || !j->answers) return;
    for (int i = 0; i < j->pictures; i++) {
        free(j->answers[i].pixels);
        free(j->answers[i].partial);
    }
    free(j->answers);
    j->answers = NULL;
    pthread_mutex_destroy(&j->lock);
}

struct range { const char *name; double value, low, high; };

enum status image_job_check(const struct image_job *j, struct err *err)
{
    const struct range ranges[] = {
        { "n", j->pictures, 1, IMAGE_PICTURES_MAX }, { "steps", j->steps, 0, IMAGE_STEPS_MAX }, { "width", j->width, 0, IMAGE_SIDE_MAX }, { "height", j->height, 0, IMAGE_SIDE_MAX },
        { "guidance_scale", (double)j->guidance, -1, IMAGE_GUIDANCE_MAX }, { "strength", (double)j->strength, -1, 1 }, { "eta", (double)j->eta, 0, 1 },
        { "partial_images", j->partials, 0, IMAGE_PARTIALS_MAX }, { "sampler", j->sampler, 0, SAMPLER_COUNT - 1 }, { "schedule", j->schedule, 0, SCHEDULE_COUNT - 1 },
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high)) return err_set(err, ST_BAD_INPUT, "%s must be between %g and %g", ranges[i].name, ranges[i].low < 0 ? 0 : ranges[i].low, ranges[i].high);
    if (j->width % 8 || j->height % 8) return err_set(err, ST_BAD_INPUT, "width and height go in steps of 8; %dx%d does not", j->width, j->height);
    const size_t lengths[] = { j->prompt_length, j->negative_length, j->prompt_2_length, j->negative_2_length };
    for (int i = 0; i < 4; i++)
        if (lengths[i] > IMAGE_PROMPT_BYTES_MAX) return err_set(err, ST_TOO_LARGE, "a prompt may have %d bytes, this one has %zu", IMAGE_PROMPT_BYTES_MAX, lengths[i]);
    if (j->mask && !j->image) return err_set(err, ST_BAD_INPUT, "a mask says which part of an image is drawn anew: the image is missing");
    if (j->image && (j->image->channels != 3 || !j->image->pixels || j->image->width < 1 || j->image->height < 1)) return err_set(err, ST_BAD_INPUT, "image must be an RGB picture");
    if (j->mask && (j->mask->channels != 1 || !j->mask->pixels || j->mask->width < 1 || j->mask->height < 1)) return err_set(err, ST_BAD_INPUT, "mask must be a grey picture");
    return ST_OK;
}

void image_parameters_write(struct buf *out, const struct image_job *j, int k, const char *model)
{
    const struct image_used *u = &j->used;
    buf_append(out, j->prompt, j->prompt_length);
    if (j->negative_length) {
        buf_puts(out, "\nNegative prompt: ");
        buf_append(out, j->negative, j->negative_length);
    }
    buf_printf(out, "\nSteps: %d, Sampler: %s, Schedule type: %s, CFG scale: %g, Seed: %llu, Size: %dx%d", u->steps, image_sampler_name(u->sampler), image_schedule_name(u->schedule), (double)u->guidance,
               (unsigned long long)j->answers[k].seed, u->width, u->height);
    if (j->image) buf_printf(out, ", Denoising strength: %g", (double)u->strength);
    if (model) buf_printf(out, ", Model: %s", model);
    buf_puts(out, ", Version: inferd " INFERD_VERSION);
}
