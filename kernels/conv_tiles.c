/* What a convolution on tiles decides before it runs: how weights and positions lie, how much of either stays near, who takes what. The body is in kernels/cpu/amx/conv_tiles.c. */
#include "kernels/conv_tiles.h"

#include <string.h>

#include "base/checked.h"
#include "kernels/half.h"

enum {
    ALIGN = 64, WIDTH = 32, TILE_NUMBERS = 16 * 32, STEP_NUMBERS = 2 * TILE_NUMBERS,
    STEPS_NEAR = 144,                    /* steps of weights, 2 KiB each, that a block of tiles meets one after another: a part that stays in the second-level cache */
    SUMS_BYTES_MAX = 1 << 20,
    BLOCK_MIN = 16,
    CHANNELS_MIN = 256, CHANNELS_MIN_LARGE = 128, PIXELS_LARGE = 64 * 64,      /* with fewer input channels oneDNN's kernel is as quick, in large pictures sooner than in small ones */
    TAPS_MAX = CONV_TILES_TAPS_MAX
};

bool conv_tiles_can(const struct conv_spec *s) { return s->groups == 1 && s->stride_h == 1 && s->stride_w == 1 && s->kh <= TAPS_MAX && s->kw <= TAPS_MAX && s->kh * s->kw <= TAPS_MAX; }

bool conv_tiles_wanted(const struct conv_spec *s) { return conv_tiles_can(s) && s->kh * s->kw > 1 && s->in_c >= (s->hint_h * s->hint_w >= PIXELS_LARGE ? CHANNELS_MIN_LARGE : CHANNELS_MIN) && s->out_c >= WIDTH; }

static int64_t groups_of(int64_t channels) { return (channels + WIDTH - 1) / WIDTH; }

/* ---- weights ---- */
struct pack_job { uint16_t *to; const struct conv_spec *spec; const float *weight; };

/* Pairs of panels: read as the file has them, written within the 2 KiB that each tap has of a plane. */
static void pack_part(void *ctx, int part, int parts)
{
    const struct pack_job *j = ctx;
    const struct conv_spec *s = j->spec;
    const int64_t groups = groups_of(s->in_c), taps = (int64_t)s->kh * s->kw, pairs = groups_of(s->out_c);
    for (int64_t pair = pairs * part / parts, end = pairs * (part + 1) / parts; pair < end; pair++)
        for (int64_t g = 0; g < groups; g++)
            for (int64_t o = 0; o < WIDTH && pair * WIDTH + o < s->out_c; o++) {
                uint16_t *to = j->to + (pair * groups + g) * taps * STEP_NUMBERS + o / 16 * TILE_NUMBERS + o % 16 * 2;
                const float *from = j->weight + ((pair * WIDTH + o) * s->in_c + g * WIDTH) * taps;
                for (int64_t c = 0; c < WIDTH && g * WIDTH + c < s->in_c; c++, from += taps)
                    for (int64_t t = 0; t < taps; t++) to[t * STEP_NUMBERS + c / 2 * WIDTH + c % 2] = f32_to_bf16_one(from[t]);
            }
}

enum status conv_tiles_pack(void **packed, uint64_t *bytes, const struct conv_spec *s, const float *weight, int threads, struct err *err)
{
    uint64_t size;
    if (!size_mul((uint64_t)groups_of(s->in_c) * (uint64_t)s->kh * (uint64_t)s->kw, (uint64_t)groups_of(s->out_c), &size) || !size_mul(size, STEP_NUMBERS * sizeof(uint16_t), &size))
        return err_set(err, ST_TOO_LARGE, "convolution: the weights have more elements than fit in memory");
    uint16_t *to = mem_alloc_aligned(size, ALIGN);
    if (!to) return err_set(err, ST_NO_MEMORY, "convolution weights");
    memset(to, 0, size);
    struct pack_job j = { to, s, weight };
    parallel_for(threads, threads, pack_part, &j);
    *packed = to;
    *bytes = size;
    return ST_OK;
}

/* ---- a shape ---- */
enum status conv_tiles_plan(struct conv_tiles_plan *p, const struct conv_spec *s, const struct window2d *w, int threads, struct err *err)
{
    const int64_t lines = w->out_h + (int64_t)(w->kh - 1) * w->dilation_h;
    *p = (struct conv_tiles_plan){ .groups = groups_of(s->in_c), .pairs = groups_of(s->out_c), .taps = (int64_t)w->kh * w->kw };
    if (w->out_w % 16 == 0) p->copies = 1, p->line = w->out_w + (int64_t)(w->kw - 1) * w->dilation_w, p->across = w->out_w / 16;
    else p->copies = w->kw, p->line = w->out_w;
    p->image = lines * p->line;
    p->image_tiles = (w->out_h * w->out_w + 15) / 16;
    p->tiles = p->image_tiles * w->n;
    p->positions = p->image * w->n + 16;                                  /* the last tile may reach beyond */
    if (!size_mul((uint64_t)p->positions * (uint64_t)p->groups, (uint64_t)p->copies * WIDTH * sizeof(uint16_t), &p->x_bytes) || p->x_bytes > (uint64_t)1 << 40)
        return err_set(err, ST_TOO_LARGE, "convolution: the shape has more elements than fit in memory");
    const uint64_t weights = (uint64_t)p->pairs * (uint64_t)p->groups * (uint64_t)p->taps * STEP_NUMBERS * sizeof(uint16_t);
    p->split_pairs = weights > p->x_bytes && p->pairs >= threads;         /* each thread reads all of the side that is not split */
    p->depth = STEPS_NEAR / p->taps < 1 ? 1 : STEPS_NEAR / p->taps;
    const int64_t pairs = p->split_pairs ? (p->pairs + threads - 1) / threads : p->pairs, each = pairs * 16 * WIDTH * (int64_t)sizeof(float);
    p->block = SUMS_BYTES_MAX / each / 2 * 2;
    if (p->block < BLOCK_MIN) p->block = BLOCK_MIN;
    p->lane_bytes = p->depth < p->groups ? (uint64_t)(p->block * each) : 2 * 16 * WIDTH * sizeof(float);
    p->scratch = p->x_bytes + p->lane_bytes * (uint64_t)threads;
    return ST_OK;
}

static void write_part(void *ctx, int part, int parts)
{
    const struct conv_tiles_run *r = ctx;
    const int64_t lines = r->plan->image / r->plan->line * r->w->n;
    conv_tiles_write_x(r, r->scratch, lines * part / parts, lines * (part + 1) / parts);
}

static void multiply_part(void *ctx, int part, int parts)
{
    const struct conv_tiles_run *r = ctx;
    const struct conv_tiles_plan *p = r->plan;
    float *sums = (float *)(void *)((char *)r->scratch + p->x_bytes + p->lane_bytes * (uint64_t)part);
    if (p->split_pairs) conv_tiles_multiply(r, r->scratch, sums, p->pairs * part / parts, p->pairs * (part + 1) / parts, 0, p->tiles);
    else conv_tiles_multiply(r, r->scratch, sums, 0, p->pairs, p->tiles * part / parts, p->tiles * (part + 1) / parts);
}

void conv_tiles_run(const struct conv_tiles_run *r, int threads)
{
    struct conv_tiles_run run = *r;
    parallel_for(threads, threads, write_part, &run);
    parallel_for(threads, threads, multiply_part, &run);
}
