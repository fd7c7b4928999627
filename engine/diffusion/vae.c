/* Between pictures and latents. A picture whose plan would pass the memory that the autoencoder may take goes in tiles that overlap by a quarter and are blended into each other. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/diffusion/diffusion_internal.h"

enum { TILE_LATENTS = 64, TILE_LATENTS_MIN = 16 };

/* ---- one plan ---- */
static enum status run(struct engine_instance *i, enum diffusion_graph g, float *x, int64_t h, int64_t w, int64_t c, const struct operand **out, const atomic_bool *stop, struct err *err)
{
    const struct operand shape = { .dtype = DT_F32, .rank = 4, .dims = { 1, h, w, c } };
    struct plan *plan;
    void *data[] = { x };
    enum status st = step_plan(i, g, &shape, &plan, err);
    if (!st) st = plan_run(plan, data, &i->run, stop, err);
    arena_reset(&i->run);
    if (!st) *out = plan_output(plan, 0);
    return st;
}

/* Would the whole fit? */
static bool fits(struct engine_instance *i, enum diffusion_graph g, int64_t h, int64_t w, int64_t c)
{
    const struct operand shape = { .dtype = DT_F32, .rank = 4, .dims = { 1, h, w, c } };
    struct plan *plan;
    struct err err;
    if (step_plan(i, g, &shape, &plan, &err)) return false;
    return true;
}

/* ---- tiles ---- */
/* From one picture [h, w, in] to another [h', w', out], sides times `up` / `down`. Tiles begin every three quarters of their side. */
struct tiles { enum diffusion_graph g; const float *x; int64_t h, w, in; float *y; int64_t out_h, out_w, out; int up, down; int64_t tile; };

static void blend(const struct tiles *t, const float *tile, int64_t th, int64_t tw, int64_t top, int64_t left)
{
    const int64_t reach = t->tile / 4 * t->up / t->down;
    for (int64_t r = 0; r < th; r++)
        for (int64_t c = 0; c < tw; c++) {
            float share = 1;
            if (top && r < reach) share *= (float)r / (float)reach;
            if (left && c < reach) share *= (float)c / (float)reach;
            float *y = t->y + ((top + r) * t->out_w + left + c) * t->out;
            const float *x = tile + (r * tw + c) * t->out;
            for (int64_t k = 0; k < t->out; k++) y[k] = share == 1 ? x[k] : x[k] * share + y[k] * (1 - share);
        }
}

static enum status run_tiles(struct engine_instance *i, const struct tiles *t, const atomic_bool *stop, struct err *err)
{
    const int64_t stride = t->tile - t->tile / 4;
    float *piece = mem_alloc_aligned((uint64_t)(t->tile * t->tile * t->in) * sizeof *piece + 64, TENSOR_ALIGN);
    enum status st = piece ? ST_OK : err_set(err, ST_NO_MEMORY, "a tile");
    for (int64_t top = 0; !st && (top == 0 || top + t->tile - stride < t->h); top += stride)
        for (int64_t left = 0; !st && (left == 0 || left + t->tile - stride < t->w); left += stride) {
            const int64_t h = t->h - top < t->tile ? t->h - top : t->tile, w = t->w - left < t->tile ? t->w - left : t->tile;
            const struct operand *out;
            for (int64_t r = 0; r < h; r++) memcpy(piece + r * w * t->in, t->x + ((top + r) * t->w + left) * t->in, (size_t)(w * t->in) * sizeof *piece);
            st = run(i, t->g, piece, h, w, t->in, &out, stop, err);
            if (!st) blend(t, out->data, out->dims[1], out->dims[2], top * t->up / t->down, left * t->up / t->down);
        }
    free(piece);
    return st;
}

/* ---- decoding ---- */
/* VQ: every pixel of latents becomes the nearest code. */
static void nearest_codes(const struct autoencoder *v, float *x, int64_t pixels)
{
    for (int64_t p = 0; p < pixels; p++) {
        float *at = x + p * v->latents;
        double best = INFINITY;
        int code = 0;
        for (int c = 0; c < v->codebook_size; c++) {
            double far = 0;
            for (int k = 0; k < v->latents; k++) {
                const double d = (double)at[k] - (double)v->codebook[(int64_t)c * v->latents + k];
                far += d * d;
            }
            if (far < best) {
                best = far;
                code = c;
            }
        }
        memcpy(at, v->codebook + (int64_t)code * v->latents, (size_t)v->latents * sizeof *at);
    }
}

/* -1..1 (tiny: 0..1) to bytes; grey becomes three equal channels. */
static void to_pixels(uint8_t *y, const float *x, int64_t pixels, int channels, bool tiny)
{
    for (int64_t p = 0; p < pixels; p++)
        for (int c = 0; c < 3; c++) {
            float v = x[p * channels + (channels == 3 ? c : 0)];
            if (tiny) v = v * 2 - 1;
            v = v / 2 + 0.5f;
            v = v < 0 ? 0 : v > 1 ? 1 : v;
            y[p * 3 + c] = v == v ? (uint8_t)rintf(v * 255) : 0;
        }
}

enum status vae_decode(struct engine_instance *i, const struct image_slot *s, const float *latents, uint8_t *pixels, const atomic_bool *stop, struct err *err)
{
    const struct engine *e = i->engine;
    const struct autoencoder *v = &e->vae;
    const int64_t space = (int64_t)s->h * s->w, whole = (int64_t)s->height * s->width;
    float *x = mem_alloc_aligned((uint64_t)s->count * sizeof *x + 64, TENSOR_ALIGN), *y = NULL;
    if (!x) return err_set(err, ST_NO_MEMORY, "decoding a picture");
    for (int c = 0; c < s->channels; c++)
        for (int64_t p = 0; p < space; p++) x[p * s->channels + c] = latents[c * space + p] / v->scale + v->shift;
    enum status st = ST_OK;
    if (!e->built[GRAPH_DECODER]) {
        to_pixels(pixels, x, space, v->channels, false);
    } else {
        const struct operand *out;
        if (v->codebook) nearest_codes(v, x, space);
        if (fits(i, GRAPH_DECODER, s->h, s->w, s->channels)) {
            st = run(i, GRAPH_DECODER, x, s->h, s->w, s->channels, &out, stop, err);
            if (!st) to_pixels(pixels, out->data, whole, v->channels, v->tiny);
        } else {
            struct tiles t = { .g = GRAPH_DECODER, .x = x, .h = s->h, .w = s->w, .in = s->channels, .out_h = s->height, .out_w = s->width, .out = v->channels, .up = v->factor, .down = 1, .tile = TILE_LATENTS };
            while (t.tile > TILE_LATENTS_MIN && !fits(i, GRAPH_DECODER, t.tile, t.tile, s->channels)) t.tile /= 2;
            t.y = y = mem_calloc_array((uint64_t)whole, (uint64_t)v->channels * sizeof *y);
            st = y ? run_tiles(i, &t, stop, err) : err_set(err, ST_NO_MEMORY, "decoding a picture");
            if (!st) to_pixels(pixels, y, whole, v->channels, v->tiny);
        }
    }
    free(x);
    free(y);
    return st;
}

/* ---- encoding ---- */
static int encoded_channels(const struct autoencoder *v) { return v->variational ? 2 * v->latents : v->latents; }

enum status vae_encode(struct engine_instance *i, const struct image_slot *s, const float *picture, float *y, const atomic_bool *stop, struct err *err)
{
    const struct autoencoder *v = &i->engine->vae;
    const int out_c = encoded_channels(v);
    const int64_t whole = (int64_t)s->height * s->width;
    float *x = mem_alloc_aligned((uint64_t)(whole * v->channels) * sizeof *x + 64, TENSOR_ALIGN), *tiled = NULL;
    if (!x) return err_set(err, ST_NO_MEMORY, "encoding a picture");
    for (int64_t p = 0; p < whole * v->channels; p++) x[p] = v->tiny ? (picture[p] + 1) / 2 : picture[p];
    const struct operand *out;
    enum status st;
    if (fits(i, GRAPH_ENCODER, s->height, s->width, v->channels)) {
        st = run(i, GRAPH_ENCODER, x, s->height, s->width, v->channels, &out, stop, err);
        if (!st && (out->dims[1] != s->h || out->dims[2] != s->w || out->dims[3] != out_c)) st = err_set(err, ST_INTERNAL, "the encoder's latents have another size than the picture's");
        if (!st) pixels_to_planes(y, out->data, out_c, (int64_t)s->h * s->w, out_c);
    } else {
        struct tiles t = { .g = GRAPH_ENCODER, .x = x, .h = s->height, .w = s->width, .in = v->channels, .out_h = s->h, .out_w = s->w, .out = out_c, .up = 1, .down = v->factor, .tile = TILE_LATENTS * v->factor };
        while (t.tile > TILE_LATENTS_MIN * v->factor && !fits(i, GRAPH_ENCODER, t.tile, t.tile, v->channels)) t.tile /= 2;
        t.y = tiled = mem_calloc_array((uint64_t)(s->h * s->w), (uint64_t)out_c * sizeof *tiled);
        st = tiled ? run_tiles(i, &t, stop, err) : err_set(err, ST_NO_MEMORY, "encoding a picture");
        if (!st) pixels_to_planes(y, tiled, out_c, (int64_t)s->h * s->w, out_c);
    }
    free(x);
    free(tiled);
    return st;
}

/* ---- what is given ---- */
/* The request's picture at the slot's size as -1..1, [height, width, channels of the autoencoder]. */
static enum status read_picture(const struct image_slot *s, const struct autoencoder *v, float **out, struct err *err)
{
    struct image sized = { 0 };
    const struct image *from = s->job->image;
    enum status st = ST_OK;
    if (from->width != s->width || from->height != s->height) {
        st = image_resize(&sized, from, s->width, s->height, IMAGE_BICUBIC, err);
        from = &sized;
    }
    const int64_t pixels = (int64_t)s->width * s->height;
    float *x = st ? NULL : mem_alloc_array((uint64_t)pixels * (uint64_t)v->channels, sizeof *x);
    if (!st && !x) st = err_set(err, ST_NO_MEMORY, "reading a picture");
    for (int64_t p = 0; p < pixels && !st; p++) {
        const uint8_t *rgb = from->pixels + 3 * p;
        for (int c = 0; c < v->channels; c++) x[p * v->channels + c] = v->channels == 3 ? (float)rgb[c] / 255 * 2 - 1 : ((float)rgb[0] * 0.299f + (float)rgb[1] * 0.587f + (float)rgb[2] * 0.114f) / 255 * 2 - 1;
    }
    image_free(&sized);
    *out = x;
    return st;
}

/* White above the middle counts; [height, width] of ones and zeros. */
static enum status read_mask(struct image_slot *s, float **out, struct err *err)
{
    struct image sized = { 0 };
    const struct image *from = s->job->mask;
    enum status st = ST_OK;
    if (from->width != s->width || from->height != s->height) {
        st = image_resize(&sized, from, s->width, s->height, IMAGE_BICUBIC, err);
        from = &sized;
    }
    const int64_t pixels = (int64_t)s->width * s->height;
    float *x = st ? NULL : mem_alloc_array((uint64_t)pixels, sizeof *x);
    if (!st && !x) st = err_set(err, ST_NO_MEMORY, "reading a mask");
    for (int64_t p = 0; p < pixels && !st; p++) x[p] = from->pixels[p] >= 128;
    for (int64_t r = 0; r < s->h && !st; r++)
        for (int64_t c = 0; c < s->w; c++) s->mask[r * s->w + c] = x[r * s->height / s->h * s->width + c * s->width / s->w];
    image_free(&sized);
    *out = x;
    return st;
}

/* A sample of what the encoder said, as latents. */
static void sample(const struct autoencoder *v, struct sampler_state *state, const float *said, float *y, int64_t count)
{
    if (v->variational) noise_fill(&state->noise, state->fresh, count);
    for (int64_t i = 0; i < count; i++) {
        float z = said[i];
        if (v->variational) {
            float variance = said[count + i];
            variance = variance < -30 ? -30 : variance > 20 ? 20 : variance;
            z += expf(0.5f * variance) * state->fresh[i];
        }
        y[i] = (z - v->shift) * v->scale;
    }
}

/* What a network made for inpainting sees beside the latents: the mask, and the picture without what is drawn anew. */
static enum status begin_masked(struct engine_instance *i, struct image_slot *s, float *picture, const float *mask, float *said, const atomic_bool *stop, struct err *err)
{
    const struct autoencoder *v = &i->engine->vae;
    const int64_t pixels = (int64_t)s->width * s->height, space = (int64_t)s->h * s->w;
    for (int64_t p = 0; p < pixels; p++)
        for (int c = 0; c < v->channels && mask[p] != 0; c++) picture[p * v->channels + c] = 0;
    enum status st = vae_encode(i, s, picture, said, stop, err);
    for (int k = 0; k < s->job->pictures && !st; k++) {
        struct picture *p = &s->pictures[k];
        float *y = p->masked ? p->masked + space : p->state.original;      /* the draw counts whether it is used or not, as in diffusers */
        sample(v, &p->state, said, y, s->count);
        if (p->masked) memcpy(p->masked, s->mask, (size_t)space * sizeof *y);
    }
    return st;
}

static enum status begin_given(struct engine_instance *i, struct image_slot *s, const atomic_bool *stop, struct err *err)
{
    const struct autoencoder *v = &i->engine->vae;
    float *picture = NULL, *mask = NULL, *said = mem_alloc_array((uint64_t)s->count, 2 * sizeof *said);
    enum status st = said ? read_picture(s, v, &picture, err) : err_set(err, ST_NO_MEMORY, "reading a picture");
    if (!st && s->mask) st = read_mask(s, &mask, err);
    if (!st) st = vae_encode(i, s, picture, said, stop, err);
    for (int k = 0; k < s->job->pictures && !st; k++) {
        struct picture *p = &s->pictures[k];
        const bool masked_network = p->masked && s->plan.begin == 0;      /* it has no use for the picture's latents, and diffusers draws none */
        if (!masked_network) sample(v, &p->state, said, p->given, s->count);
        if (s->job->latents) memcpy(p->state.fresh, s->job->latents + k * s->count, (size_t)s->count * sizeof *said);
        else noise_fill(&p->state.noise, p->state.fresh, s->count);
        if (p->first_noise) memcpy(p->first_noise, p->state.fresh, (size_t)s->count * sizeof *said);
        if (s->plan.begin > 0 || !s->mask) sampler_add_noise(&s->plan, s->plan.begin, p->state.x, p->given, p->state.fresh, s->count);
        else
            for (int64_t n = 0; n < s->count; n++) p->state.x[n] = p->state.fresh[n] * s->plan.start_scale;      /* with a mask and full strength: from noise alone */
    }
    if (!st && s->mask) st = begin_masked(i, s, picture, mask, said, stop, err);
    free(picture);
    free(mask);
    free(said);
    return st;
}

enum status vae_begin(struct engine_instance *i, struct image_slot *s, const atomic_bool *stop, struct err *err)
{
    if (s->job->image) return begin_given(i, s, stop, err);
    for (int k = 0; k < s->job->pictures; k++) {
        struct sampler_state *p = &s->pictures[k].state;
        if (s->job->latents) memcpy(p->x, s->job->latents + k * s->count, (size_t)s->count * sizeof *p->x);
        else noise_fill(&p->noise, p->x, s->count);
        for (int64_t n = 0; n < s->count; n++) p->x[n] *= s->plan.start_scale;
    }
    return ST_OK;
}
