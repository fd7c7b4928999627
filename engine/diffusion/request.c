/* From a question to a slot: every number that was left open is settled, everything that the request will hold is reserved, nothing is computed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/diffusion/diffusion_internal.h"

/* ---- what the request leaves to the model ---- */
static void settle_size(const struct engine *e, const struct image_job *j, int *width, int *height)
{
    *width = j->width ? j->width : j->image ? j->image->width / 8 * 8 : e->about.width;
    *height = j->height ? j->height : j->image ? j->image->height / 8 * 8 : e->about.height;
    if (*width < IMAGE_SIDE_MIN) *width = IMAGE_SIDE_MIN;
    if (*height < IMAGE_SIDE_MIN) *height = IMAGE_SIDE_MIN;
    if (*width > IMAGE_SIDE_MAX) *width = IMAGE_SIDE_MAX;
    if (*height > IMAGE_SIDE_MAX) *height = IMAGE_SIDE_MAX;
}

static struct image_used settle(const struct engine *e, const struct image_job *j)
{
    struct image_used u = { .steps = j->steps ? j->steps : e->about.steps, .guidance = j->guidance >= 0 ? j->guidance : e->about.guidance,
                            .strength = j->image ? j->strength >= 0 ? j->strength : j->mask ? 1 : 0.8f : 1, .sampler = j->sampler ? j->sampler : e->about.sampler, .seed = j->seed };
    settle_size(e, j, &u.width, &u.height);
    return u;
}

static int64_t tokens_of(const struct engine *e, int width, int height)
{
    const int side = e->vae.factor * (e->denoiser.patch > 1 ? e->denoiser.patch : 1);
    return (int64_t)(width / side) * (height / side);
}

static enum status plan_of(const struct engine *e, const struct image_job *j, const struct image_used *u, struct sampler_plan *p, struct err *err)
{
    return sampler_plan_open(p, &e->model.sampler, j->sampler, j->schedule, u->steps, (double)u->strength, (double)j->eta, tokens_of(e, u->width, u->height), err);
}

/* ---- texts ---- */
static const char *text_of(const struct image_job *j, int encoder, bool negative, size_t *length)
{
    const bool second = encoder > 0 && (negative ? j->negative_2 : j->prompt_2);
    const char *text = negative ? second ? j->negative_2 : j->negative : second ? j->prompt_2 : j->prompt;
    *length = !text ? 0 : negative ? second ? j->negative_2_length : j->negative_length : second ? j->prompt_2_length : j->prompt_length;
    return text ? text : "";
}

/* Prompts of all encoders in chunks, as many of each. */
static enum status open_prompts(const struct engine *e, const struct image_job *j, int rows, struct conditions *c, struct err *err)
{
    enum status st = ST_OK;
    int most = 1;
    for (int t = 0; t < TEXT_ENCODERS_MAX && !st; t++)
        for (int r = 0; r < rows && e->tokenizers[t] && !st; r++) {
            size_t length;
            const char *text = text_of(j, t, r == 1, &length);
            if (e->encoders[t].t5) st = prompt_open_plain(&c->prompts[t][r], e->tokenizers[t], text, length, e->encoders[t].positions, err);
            else st = prompt_open(&c->prompts[t][r], e->tokenizers[t], text, length, e->encoders[t].positions, e->model.pads[t], err);
            if (!st && c->prompts[t][r].chunks > most) most = c->prompts[t][r].chunks;
        }
    for (int t = 0; t < TEXT_ENCODERS_MAX && !st; t++)
        for (int r = 0; r < rows && e->tokenizers[t] && !e->encoders[t].t5 && !st; r++) st = prompt_extend(&c->prompts[t][r], e->tokenizers[t], most, err);
    if (!st && e->encoder_count) {
        c->rows = rows;
        c->clip_tokens = e->model.family->flags & FAMILY_T5 ? 0 : most * e->encoders[e->first_encoder].positions;
        c->tokens = c->clip_tokens + e->model.family->t5_tokens;
    }
    return st;
}

static void close_prompts(struct conditions *c)
{
    for (int t = 0; t < TEXT_ENCODERS_MAX; t++)
        for (int r = 0; r < 2; r++) prompt_close(&c->prompts[t][r]);
}

static bool goes_twice(const struct engine *e, float guidance) { return guidance > 1 && !(e->model.family->flags & FAMILY_GUIDED) && e->encoder_count > 0; }

/* ---- check ---- */
static enum status check_fit(const struct engine *e, const struct image_job *j, const struct image_used *u, struct err *err)
{
    const struct image_model *m = &e->about;
    if (j->image && !m->takes_image) return err_set(err, ST_BAD_INPUT, "this model redraws no pictures: it has no encoder");
    if (j->mask && !m->takes_mask) return err_set(err, ST_BAD_INPUT, "this model takes no mask");
    if (e->denoiser.in_channels != e->vae.latents && !j->mask) return err_set(err, ST_BAD_INPUT, "this model was made for inpainting: image and mask are needed");
    if (m->labels && (j->label < 0 || j->label >= m->labels)) return err_set(err, ST_BAD_INPUT, "label must be between 0 and %d", m->labels - 1);
    if (!m->labels && j->label >= 0) return err_set(err, ST_BAD_INPUT, "this model knows no labels");
    if (!m->takes_text && j->prompt_length) return err_set(err, ST_BAD_INPUT, "this model takes no prompt: it draws without words");
    if (u->width % m->factor || u->height % m->factor) return err_set(err, ST_BAD_INPUT, "width and height must be multiples of %d for this model", m->factor);
    if (e->denoiser.patch > 1 && (u->width % (m->factor * e->denoiser.patch) || u->height % (m->factor * e->denoiser.patch)))
        return err_set(err, ST_BAD_INPUT, "width and height must be multiples of %d for this model", m->factor * e->denoiser.patch);
    const uint64_t count = (uint64_t)j->pictures * (uint64_t)m->channels * (uint64_t)(u->width / m->factor) * (uint64_t)(u->height / m->factor);
    if (j->latents && j->latent_count != count) return err_set(err, ST_BAD_INPUT, "latents holds %llu numbers; %llu are needed for %d pictures of %dx%d", (unsigned long long)j->latent_count, (unsigned long long)count, j->pictures, u->width, u->height);
    return ST_OK;
}

enum status request_read_checked(const struct engine *e, struct image_job *j, struct request *r, struct err *err)
{
    if (e->about.takes_text && !r->input_count) return err_set(err, ST_BAD_INPUT, "this model draws pictures: give it the input 'prompt', or use /v1/images/generations, edits or variations");
    enum status st = request_check_ports(r, &e->signature, err);
    return st ? st : request_read_tensors(j, r, err);
}

enum status request_check(const struct engine *e, struct request *r, struct err *err)
{
    struct image_job own;
    const struct image_job *j = r->image ? r->image : &own;
    enum status st = r->image ? ST_OK : request_read_checked(e, &own, r, err);
    if (!st && !r->image && own.partials) st = err_set(err, ST_BAD_INPUT, "parameter 'partial_images' is for streams: ModelStreamInfer, or /v1/images");
    if (!st) st = image_job_check(j, err);
    if (st) return st;
    const struct image_used u = settle(e, j);
    struct sampler_plan plan;
    struct conditions c = { 0 };
    st = check_fit(e, j, &u, err);
    if (!st) st = plan_of(e, j, &u, &plan, err);
    if (st) return st;
    sampler_plan_close(&plan);
    st = open_prompts(e, j, goes_twice(e, u.guidance) ? 2 : 1, &c, err);
    close_prompts(&c);
    if (st) return st;
    r->ride_key = (uint64_t)u.width << 32 | (uint64_t)u.height;
    r->rows = j->pictures;
    r->cost = 0;
    return ST_OK;
}

/* ---- admit ---- */
static void slot_close(struct image_slot *s)
{
    if (!s) return;
    for (int k = 0; s->pictures && k < s->job->pictures; k++) {
        sampler_state_close(&s->pictures[k].state);
        free(s->pictures[k].given);
        free(s->pictures[k].first_noise);
        free(s->pictures[k].masked);
    }
    free(s->pictures);
    sampler_plan_close(&s->plan);
    close_prompts(&s->texts);
    free(s->texts.context);
    free(s->texts.pooled);
    free(s->mask);
    free(s->guide);
    image_job_close(&s->own);
    free(s);
}

/* LCM: the guidance less 1, times 1000, as a time is embedded. */
static enum status embed_guidance(const struct engine *e, struct image_slot *s, struct err *err)
{
    const int n = e->denoiser.guide_width, half = n / 2;
    if (!n) return ST_OK;
    s->guide = mem_calloc_array((uint64_t)n, sizeof *s->guide);
    if (!s->guide) return err_set(err, ST_NO_MEMORY, "a request for pictures");
    if (e->denoiser.guided) {      /* Flux: the network embeds it itself */
        s->guide[0] = s->guidance * 1000;
        return ST_OK;
    }
    for (int i = 0; i < half; i++) {
        const float f = expf((float)i * (float)-(log(10000.0) / (half - 1))), a = (s->guidance - 1) * 1000.0f * f;
        s->guide[i] = sinf(a);
        s->guide[half + i] = cosf(a);
    }
    return ST_OK;
}

static enum status open_pictures(const struct engine *e, struct image_slot *s, const struct image_used *u, struct err *err)
{
    s->pictures = mem_calloc_array((uint64_t)s->job->pictures, sizeof *s->pictures);
    if (!s->pictures) return err_set(err, ST_NO_MEMORY, "a request for pictures");
    enum status st = ST_OK;
    for (int k = 0; k < s->job->pictures && !st; k++) {
        struct picture *p = &s->pictures[k];
        st = sampler_state_open(&p->state, &s->plan, s->count, err);
        if (st) return st;
        noise_seed(&p->state.noise, u->seed + (uint64_t)k);
        if (s->job->image) p->given = mem_calloc_array((uint64_t)s->count, sizeof *p->given);
        if (s->job->mask) p->first_noise = mem_calloc_array((uint64_t)s->count, sizeof *p->first_noise);
        if (s->job->mask && e->denoiser.in_channels > e->vae.latents) p->masked = mem_calloc_array((uint64_t)(s->count + (int64_t)s->h * s->w), sizeof *p->masked);
        if ((s->job->image && !p->given) || (s->job->mask && !p->first_noise)) st = err_set(err, ST_NO_MEMORY, "a request for pictures");
    }
    if (s->job->mask) s->mask = mem_calloc_array((uint64_t)s->h * (uint64_t)s->w, sizeof *s->mask);
    return st;
}

static enum status open_answers(struct image_job *j, const struct image_used *u, struct err *err)
{
    const uint64_t bytes = (uint64_t)u->width * (uint64_t)u->height * 3;
    for (int k = 0; k < j->pictures && j->partials; k++) {
        j->answers[k].partial = mem_calloc_array(bytes, 1);
        if (!j->answers[k].partial) return err_set(err, ST_NO_MEMORY, "partial pictures");
    }
    return ST_OK;
}

/* The job of a request of tensors. */
static enum status open_own(struct image_slot *s, const struct request *r, struct err *err)
{
    enum status st = request_read_tensors(&s->own, r, err);
    return st ? st : image_job_reserve(&s->own, err);
}

enum status request_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err)
{
    struct engine *e = i->engine;
    struct image_slot *s = mem_calloc_array(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "a request for pictures");
    s->job = r->image ? r->image : &s->own;
    enum status st = r->image ? ST_OK : open_own(s, r, err);
    if (st) {
        slot_close(s);
        return st;
    }
    struct image_job *j = s->job;
    struct image_used u = settle(e, j);
    if (!j->seeded && getrandom(&u.seed, sizeof u.seed, GRND_NONBLOCK) != sizeof u.seed) u.seed = clock_ns();
    if (!j->seeded) u.seed &= 0x7fffffff;      /* what every client can write down */
    s->base.request = r;
    s->width = u.width;
    s->height = u.height;
    s->w = u.width / e->vae.factor;
    s->h = u.height / e->vae.factor;
    s->channels = e->vae.latents;
    s->count = (int64_t)s->channels * s->h * s->w;
    s->guidance = u.guidance;
    s->twice = goes_twice(e, u.guidance);
    s->phase = IMAGE_READING;
    s->phase_ns = clock_ns();
    st = plan_of(e, j, &u, &s->plan, err);
    if (!st) st = open_prompts(e, j, s->twice ? 2 : 1, &s->texts, err);
    if (!st) st = open_pictures(e, s, &u, err);
    if (!st) st = embed_guidance(e, s, err);
    if (!st) st = open_answers(j, &u, err);
    if (st) {
        slot_close(s);
        return st;
    }
    u.sampler = s->plan.sampler;
    u.schedule = s->plan.schedule;
    u.prompt_tokens = s->texts.prompts[e->first_encoder][0].tokens;
    s->call = s->plan.begin;
    pthread_mutex_lock(&j->lock);
    j->used = u;
    for (int k = 0; k < j->pictures; k++) j->answers[k].seed = u.seed + (uint64_t)k;
    j->phase = IMAGE_READING;
    j->step = s->plan.begin / s->plan.order;
    pthread_mutex_unlock(&j->lock);
    atomic_fetch_add(&e->stats.running, 1);
    *out = &s->base;
    return ST_OK;
}

void request_retire(struct slot *s) { slot_close((struct image_slot *)s); }
