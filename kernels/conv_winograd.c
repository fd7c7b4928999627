/* Blocks of tiles go through three steps: inputs transformed into 36 planes, a product for each plane, outputs transformed back. What decides speed is where the
 * planes and the weights lie meanwhile. Small weights (64 channels) stay in each core's second-level cache with a block of some forty tiles, and threads never
 * meet. Larger ones are read from far away once for each block, so a block is large (megabytes of planes), and threads share out the 36 products: each then
 * holds its own part of the weights. */
#include "kernels/conv_winograd.h"

#include <stdlib.h>

#include "base/checked.h"

enum {
    ALIGN = 64, ROWS_OF_TILES = 14,                                      /* a block is a multiple of it: gemm_f32's tile at AVX-512 */
    WEIGHTS_NEAR_MAX = 1200 * 1024, PLANES_NEAR_MAX = 1000 * 1024,       /* bytes: together in a second-level cache of 2 MiB */
    PLANES_FAR_MAX = 24 * 1024 * 1024,
    PLANE_GAP = 16,                                                      /* floats: planes a power of two apart would share few sets of the caches */
    TILES_MIN = 12, CHANNELS_MIN = 32,
};

bool conv_winograd_can(const struct conv_spec *s)
{
    return s->groups == 1 && s->kh == 3 && s->kw == 3 && s->stride_h == 1 && s->stride_w == 1 && s->dilation_h == 1 && s->dilation_w == 1;
}

bool conv_winograd_wanted(const struct conv_spec *s, enum cpu_level level)
{
    const int64_t tiles = ((s->hint_h + 3) / 4) * ((s->hint_w + 3) / 4);
    return level != CPU_SCALAR && conv_winograd_can(s) && tiles >= TILES_MIN && s->in_c >= CHANNELS_MIN && s->out_c >= CHANNELS_MIN;
}

/* The points of kernels/cpu/winograd_body.h: row p of G is [1, p, p^2] over what the other points' polynomial is at p. */
#define A2 (0.625 * 0.625)
#define B2 (1.5 * 1.5)
#define AT_A (2 * A2 * (A2 - B2))
#define AT_B (2 * B2 * (B2 - A2))
static const double G[6][3] = { { 1 / (A2 * B2), 0, 0 }, { 1 / AT_A, 0.625 / AT_A, A2 / AT_A }, { 1 / AT_A, -0.625 / AT_A, A2 / AT_A }, { 1 / AT_B, 1.5 / AT_B, B2 / AT_B }, { 1 / AT_B, -1.5 / AT_B, B2 / AT_B }, { 0, 0, 1 } };

/* Row `row` of G g G^T for one 3x3 kernel, in double: to u[0], u[step] ... u[5 step]. */
static void transform_kernel(float *u, int64_t step, const float *g, int row)
{
    double half[3];
    for (int j = 0; j < 3; j++) half[j] = G[row][0] * g[j] + G[row][1] * g[3 + j] + G[row][2] * g[6 + j];
    for (int j = 0; j < 6; j++) u[j * step] = (float)(half[0] * G[j][0] + half[1] * G[j][1] + half[2] * G[j][2]);
}

enum status conv_winograd_pack(void **packed, uint64_t *stride, uint64_t *bytes, const struct conv_spec *s, const float *weight, const struct kernels *k, struct err *err)
{
    const int64_t in = s->in_c, out = s->out_c;
    uint64_t all, plane;
    *stride = (k->gemm_f32_packed_bytes(in, out) + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
    if (!size_mul(*stride, WINOGRAD_POINTS, &all) || !size_mul((uint64_t)in * sizeof(float), (uint64_t)out, &plane)) return err_set(err, ST_TOO_LARGE, "convolution: the weights have more elements than fit in memory");
    char *to = mem_alloc_aligned(all, ALIGN);
    float *turned = mem_alloc_array(plane, 6);                            /* six planes [out, in]: a row of the 6 x 6 */
    if (!to || !turned) {
        free(to);
        free(turned);
        return err_set(err, ST_NO_MEMORY, "convolution weights");
    }
    for (int row = 0; row < 6; row++) {
        for (int64_t i = 0; i < out * in; i++) transform_kernel(turned + i, out * in, weight + i * 9, row);
        for (int j = 0; j < 6; j++) k->gemm_f32_pack(to + (uint64_t)(row * 6 + j) * *stride, turned + j * out * in, 1, in, in, out);
    }
    free(turned);
    *packed = to;
    *bytes = all;
    return ST_OK;
}

enum status conv_winograd_plan(struct conv_winograd_blocks *b, const struct conv_spec *s, const struct window2d *w, int threads, struct err *err)
{
    const int64_t each = (int64_t)sizeof(float) * WINOGRAD_POINTS * (s->in_c + s->out_c);
    uint64_t tiles, floats;
    if (!size_mul((uint64_t)((w->out_h + 3) / 4) * (uint64_t)((w->out_w + 3) / 4), (uint64_t)w->n, &tiles) || tiles > (uint64_t)INT64_MAX / 64) return err_set(err, ST_TOO_LARGE, "convolution: the shape has more tiles than can be counted");
    *b = (struct conv_winograd_blocks){ .tiles = (int64_t)tiles };
    b->together = (int64_t)sizeof(float) * WINOGRAD_POINTS * s->in_c * s->out_c > WEIGHTS_NEAR_MAX;
    b->block = (b->together ? PLANES_FAR_MAX : PLANES_NEAR_MAX) / each / ROWS_OF_TILES * ROWS_OF_TILES;
    if (b->block < ROWS_OF_TILES) b->block = ROWS_OF_TILES;
    /* equal blocks, and without sharing at least one for each thread */
    int64_t blocks = (b->tiles + b->block - 1) / b->block;
    if (!b->together && blocks % threads) blocks += threads - blocks % threads;
    if (blocks > 0) b->block = (b->tiles + blocks - 1) / blocks;
    if (b->block < 1) b->block = 1;
    b->input_plane = b->block * s->in_c + PLANE_GAP;
    b->output_plane = b->block * s->out_c + PLANE_GAP;
    if (!size_mul((uint64_t)(b->input_plane + b->output_plane) * WINOGRAD_POINTS, sizeof(float), &floats) || !size_mul(floats, b->together ? 1 : (uint64_t)threads, &b->scratch))
        return err_set(err, ST_TOO_LARGE, "convolution: the transformed inputs have more elements than fit in memory");
    return ST_OK;
}

static void multiply(const struct conv_winograd_run *r, float *v, float *m, int64_t count, int from, int to)
{
    for (int p = from; p < to; p++)
        r->k->gemm_f32(m + p * r->blocks->output_plane, r->spec->out_c, v + p * r->blocks->input_plane, r->spec->in_c, r->packed + (uint64_t)p * r->stride, count, r->spec->out_c, r->spec->in_c, NULL, 1);
}

static void apart_part(void *ctx, int part, int parts)
{
    const struct conv_winograd_run *r = ctx;
    const struct conv_winograd_blocks *b = r->blocks;
    float *v = r->scratch + part * WINOGRAD_POINTS * (b->input_plane + b->output_plane), *m = v + WINOGRAD_POINTS * b->input_plane;
    const int64_t blocks = (b->tiles + b->block - 1) / b->block;
    for (int64_t i = blocks * part / parts, end = blocks * (part + 1) / parts; i < end; i++) {
        const int64_t first = i * b->block, count = b->tiles - first < b->block ? b->tiles - first : b->block;
        r->k->winograd_input_f32(v, b->input_plane, r->x, r->w, first, count);
        multiply(r, v, m, count, 0, WINOGRAD_POINTS);
        r->k->winograd_output_f32(r->y, r->spec->out_c, m, b->output_plane, r->w, first, count, &r->ep);
    }
}

/* One block for all threads, step by step. */
struct together { const struct conv_winograd_run *r; float *v, *m; int64_t first, count; };

static void input_part(void *ctx, int part, int parts)
{
    const struct together *t = ctx;
    const int64_t from = t->count * part / parts, to = t->count * (part + 1) / parts;
    t->r->k->winograd_input_f32(t->v + from * t->r->spec->in_c, t->r->blocks->input_plane, t->r->x, t->r->w, t->first + from, to - from);
}
static void multiply_part(void *ctx, int part, int parts)
{
    const struct together *t = ctx;
    multiply(t->r, t->v, t->m, t->count, WINOGRAD_POINTS * part / parts, WINOGRAD_POINTS * (part + 1) / parts);
}
static void output_part(void *ctx, int part, int parts)
{
    const struct together *t = ctx;
    const int64_t from = t->count * part / parts, to = t->count * (part + 1) / parts;
    t->r->k->winograd_output_f32(t->r->y, t->r->spec->out_c, t->m + from * t->r->spec->out_c, t->r->blocks->output_plane, t->r->w, t->first + from, to - from, &t->r->ep);
}

void conv_winograd_run(const struct conv_winograd_run *r, int threads)
{
    const struct conv_winograd_blocks *b = r->blocks;
    if (!b->together) {
        struct conv_winograd_run run = *r;
        parallel_for(threads, threads, apart_part, &run);
        return;
    }
    struct together t = { .r = r, .v = r->scratch, .m = r->scratch + WINOGRAD_POINTS * b->input_plane };
    for (t.first = 0; t.first < b->tiles; t.first += b->block) {
        t.count = b->tiles - t.first < b->block ? b->tiles - t.first : b->block;
        parallel_for(threads, threads, input_part, &t);
        parallel_for(threads, threads, multiply_part, &t);
        parallel_for(threads, threads, output_part, &t);
    }
}
