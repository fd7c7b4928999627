/* What Winograd's convolution in bfloat16 decides before it runs: how many tiles meet the weights at once, and who takes what. Weights are read again for each block, so blocks are shared out where
 * weights are small beside the third-level cache; larger weights are read once, each thread its own channels. */
#include "kernels/conv_winograd_bf16.h"

#include <string.h>

#include "base/checked.h"
#include "kernels/half.h"

enum { ALIGN = 64, WIDTH = WINOGRAD_BF16_WIDTH, POINTS = WINOGRAD_BF16_POINTS, ROWS = WINOGRAD_BF16_ROWS, STEP_NUMBERS = 2 * 16 * 32, BLOCK_APART = 64, BLOCK_TOGETHER = 256 };
static const int64_t WEIGHTS_NEAR_MAX = 12 << 20;

static int64_t groups_of(int64_t channels) { return (channels + WIDTH - 1) / WIDTH; }

/* ---- weights ---- */
struct pack_job { uint16_t *to; const struct conv_spec *spec; const float *weight; };

/* u = G g G^T, rows of G: (1, 0, 0), (1, 1, 1) / 2, (1, -1, 1) / 2, (0, 0, 1) */
static void transform_kernel(double u[POINTS], const float *g)
{
    double half[4][3];
    for (int j = 0; j < 3; j++) {
        const double ends = (double)g[j] + g[6 + j];
        half[0][j] = g[j], half[1][j] = (ends + g[3 + j]) / 2, half[2][j] = (ends - g[3 + j]) / 2, half[3][j] = g[6 + j];
    }
    for (int i = 0; i < 4; i++) {
        const double ends = half[i][0] + half[i][2];
        u[4 * i] = half[i][0], u[4 * i + 1] = (ends + half[i][1]) / 2, u[4 * i + 2] = (ends - half[i][1]) / 2, u[4 * i + 3] = half[i][2];
    }
}

static void pack_part(void *ctx, int part, int parts)
{
    const struct pack_job *j = ctx;
    const struct conv_spec *s = j->spec;
    const int64_t steps = groups_of(s->in_c), pairs = groups_of(s->out_c);
    for (int64_t pair = pairs * part / parts, end = pairs * (part + 1) / parts; pair < end; pair++)
        for (int64_t o = 0; o < WIDTH && pair * WIDTH + o < s->out_c; o++)
            for (int64_t c = 0; c < s->in_c; c++) {
                double u[POINTS];
                transform_kernel(u, j->weight + ((pair * WIDTH + o) * s->in_c + c) * 9);
                uint16_t *to = j->to + (pair * POINTS * steps + c / WIDTH) * STEP_NUMBERS + o / 16 * (STEP_NUMBERS / 2) + c % WIDTH / 2 * 32 + o % 16 * 2 + c % 2;
                for (int p = 0; p < POINTS; p++) to[p * steps * STEP_NUMBERS] = f32_to_bf16_one((float)u[p]);
            }
}

enum status conv_winograd_bf16_pack(void **packed, uint64_t *bytes, const struct conv_spec *s, const float *weight, int threads, struct err *err)
{
    uint64_t size;
    if (!size_mul((uint64_t)groups_of(s->in_c) * POINTS, (uint64_t)groups_of(s->out_c), &size) || !size_mul(size, STEP_NUMBERS * sizeof(uint16_t), &size))
        return err_set(err, ST_TOO_LARGE, "convolution: the weights have more elements than fit in memory");
    uint16_t *to = mem_alloc_huge(size, ALIGN);
    if (!to) return err_set(err, ST_NO_MEMORY, "convolution weights");
    memset(to, 0, size);
    struct pack_job j = { to, s, weight };
    parallel_for(threads, threads, pack_part, &j);
    *packed = to;
    *bytes = size;
    return ST_OK;
}

/* ---- a shape ---- */
static int64_t whole_rows(int64_t tiles) { return (tiles + ROWS - 1) / ROWS * ROWS; }

enum status conv_winograd_bf16_plan(struct conv_winograd_bf16_plan *p, const struct conv_spec *s, const struct window2d *w, int threads, struct err *err)
{
    uint64_t tiles;
    if (!size_mul((uint64_t)((w->out_h + 1) / 2) * (uint64_t)((w->out_w + 1) / 2), (uint64_t)w->n, &tiles) || tiles > (uint64_t)INT64_MAX / 64)
        return err_set(err, ST_TOO_LARGE, "convolution: the shape has more tiles than can be counted");
    *p = (struct conv_winograd_bf16_plan){ .across = (w->out_w + 1) / 2, .tiles = (int64_t)tiles, .steps = groups_of(s->in_c), .pairs = groups_of(s->out_c) };
    const int64_t weights = p->steps * p->pairs * POINTS * STEP_NUMBERS * (int64_t)sizeof(uint16_t);
    p->together = p->pairs >= threads && (weights > WEIGHTS_NEAR_MAX || p->tiles < 2 * BLOCK_APART * threads);
    p->block = p->together ? BLOCK_TOGETHER : BLOCK_APART;
    int64_t blocks = (p->tiles + p->block - 1) / p->block;
    if (!p->together && blocks % threads) blocks += threads - blocks % threads;
    if (blocks > 0) p->block = whole_rows((p->tiles + blocks - 1) / blocks);      /* equal ones */
    p->v_bytes = (uint64_t)(POINTS * p->block * p->steps * WIDTH) * sizeof(uint16_t);
    p->m_bytes = (uint64_t)(POINTS * p->block * WIDTH) * sizeof(float);
    p->scratch = p->v_bytes * (uint64_t)(p->together ? 1 : threads) + p->m_bytes * (uint64_t)threads;
    return ST_OK;
}

static void apart_part(void *ctx, int part, int parts)
{
    const struct conv_winograd_bf16_run *r = ctx;
    const struct conv_winograd_bf16_plan *p = r->plan;
    char *lane = (char *)r->scratch + (p->v_bytes + p->m_bytes) * (uint64_t)part;
    uint16_t *v = (uint16_t *)(void *)lane;
    const int64_t blocks = (p->tiles + p->block - 1) / p->block;
    for (int64_t i = blocks * part / parts, end = blocks * (part + 1) / parts; i < end; i++) {
        const int64_t first = i * p->block, count = p->tiles - first < p->block ? p->tiles - first : p->block;
        conv_winograd_bf16_input(r, v, 0, first, count);
        conv_winograd_bf16_output(r, v, (float *)(void *)(lane + p->v_bytes), 0, p->pairs, first, count);
    }
}

/* One block for all threads. */
struct together { const struct conv_winograd_bf16_run *r; int64_t first, count; };

static void input_part(void *ctx, int part, int parts)
{
    const struct together *t = ctx;
    const int64_t from = t->count * part / parts, to = t->count * (part + 1) / parts;
    conv_winograd_bf16_input(t->r, t->r->scratch, from, t->first + from, to - from);
}

static void output_part(void *ctx, int part, int parts)
{
    const struct together *t = ctx;
    const struct conv_winograd_bf16_plan *p = t->r->plan;
    float *m = (float *)(void *)((char *)t->r->scratch + p->v_bytes + p->m_bytes * (uint64_t)part);
    conv_winograd_bf16_output(t->r, t->r->scratch, m, p->pairs * part / parts, p->pairs * (part + 1) / parts, t->first, t->count);
}

void conv_winograd_bf16_run(const struct conv_winograd_bf16_run *r, int threads)
{
    const struct conv_winograd_bf16_plan *p = r->plan;
    if (!p->together) {
        struct conv_winograd_bf16_run run = *r;
        parallel_for(threads, threads, apart_part, &run);
        return;
    }
    struct together t = { .r = r };
    for (t.first = 0; t.first < p->tiles; t.first += p->block) {
        t.count = p->tiles - t.first < p->block ? p->tiles - t.first : p->block;
        parallel_for(threads, threads, input_part, &t);
        parallel_for(threads, threads, output_part, &t);
    }
}
