/* A request of tensors (v2 infer) as an image job: texts from `prompt` and `negative_prompt`, the first noise from `latents`, everything else from the request's parameters, by
 * the names that /v1/images has. The pictures become the output `images`. */
#include <string.h>

#include "engine/diffusion/diffusion_internal.h"

static void read_text(const struct request *r, const char *name, const char **text, size_t *length)
{
    const struct request_tensor *in = request_input(r, name);
    const struct string_ref none = { "", 0 }, *said = in ? in->tensor.data : &none;
    *text = said->text;
    *length = said->length;
}

static enum status read_number(const struct parameter *p, double low, double high, bool whole, double *out, struct err *err)
{
    const double v = p->type == PARAMETER_INT ? (double)p->integer : p->type == PARAMETER_DOUBLE ? p->real : low - 1;
    if (!(v >= low && v <= high) || (whole && p->type != PARAMETER_INT)) return err_set(err, ST_BAD_INPUT, "parameter '%s' must be a %s from %g to %g", p->name, whole ? "whole number" : "number", low, high);
    *out = v;
    return ST_OK;
}

/* Numbers and names under `parameters`; what is none of ours is another's (timeout, priority). */
static enum status read_parameters(struct image_job *j, const struct request *r, struct err *err)
{
    double seed = -1, steps = 0, guidance = -1, eta = 0, n = 1, width = 0, height = 0, label = -1, partials = 0;
    const struct { const char *name; double low, high; bool whole; double *out; } numbers[] = {
        { "seed", 0, 9007199254740992.0, true, &seed }, { "steps", 1, IMAGE_STEPS_MAX, true, &steps }, { "guidance_scale", 0, IMAGE_GUIDANCE_MAX, false, &guidance }, { "eta", 0, 1, false, &eta },
        { "n", 1, IMAGE_PICTURES_MAX, true, &n }, { "width", 8, IMAGE_SIDE_MAX, true, &width }, { "height", 8, IMAGE_SIDE_MAX, true, &height }, { "label", 0, 1e9, true, &label }, { "partial_images", 0, IMAGE_PARTIALS_MAX, true, &partials },
    };
    for (int k = 0; k < r->parameter_count; k++) {
        const struct parameter *p = &r->parameters[k];
        const char *name = p->type == PARAMETER_STRING ? p->text : "";
        if (!strcmp(p->name, "sampler") && !image_sampler_from_name(name, strlen(name), &j->sampler)) return err_set(err, ST_BAD_INPUT, "parameter 'sampler' names no sampler: `inferd draw --help` lists them");
        if (!strcmp(p->name, "schedule") && !image_schedule_from_name(name, strlen(name), &j->schedule)) return err_set(err, ST_BAD_INPUT, "parameter 'schedule' names no schedule: `inferd draw --help` lists them");
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            if (strcmp(p->name, numbers[i].name)) continue;
            enum status st = read_number(p, numbers[i].low, numbers[i].high, numbers[i].whole, numbers[i].out, err);
            if (st) return st;
        }
    }
    j->seeded = seed >= 0;
    j->seed = seed >= 0 ? (uint64_t)seed : 0;
    j->steps = (int)steps;
    j->guidance = (float)guidance;
    j->eta = (float)eta;
    j->pictures = (int)n;
    j->width = (int)width;
    j->height = (int)height;
    j->label = (int)label;
    j->partials = (int)partials;
    return ST_OK;
}

enum status request_read_tensors(struct image_job *j, const struct request *r, struct err *err)
{
    const struct request_tensor *latents = request_input(r, "latents");
    *j = (struct image_job){ .strength = -1 };
    read_text(r, "prompt", &j->prompt, &j->prompt_length);
    read_text(r, "negative_prompt", &j->negative, &j->negative_length);
    if (latents) j->latents = latents->tensor.data, j->latent_count = latents->tensor.bytes / sizeof(float);
    return read_parameters(j, r, err);
}

enum status request_write_tensors(struct request *r, const struct image_job *j, struct err *err)
{
    const int64_t dims[4] = { j->pictures, j->used.height, j->used.width, 3 }, each = dims[1] * dims[2] * dims[3];
    r->outputs = arena_calloc(&r->arena, 1, sizeof *r->outputs);
    if (!r->outputs) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    r->output_count = 1;
    enum status st = request_output(r, 0, "images", DT_U8, dims, 4, err);
    for (int k = 0; k < j->pictures && !st; k++) memcpy((uint8_t *)r->outputs[0].tensor.data + k * each, j->answers[k].pixels, (size_t)each);
    return st;
}
