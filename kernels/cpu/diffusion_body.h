/* Group norms, attention weights, growing pictures at one level (kernels/cpu/vec.h; contracts in kernels/diffusion.h). */
#ifndef KERNELS_CPU_DIFFUSION_BODY_H
#define KERNELS_CPU_DIFFUSION_BODY_H

#include "kernels/cpu/vec_math.h"
#include "kernels/diffusion.h"

static const int64_t DIFFUSION_PARALLEL_MIN = 32768;    /* elements */

/* ---- group norm ---- */
struct group_job { const struct group_norm *g; float *y; const float *x; double *stats; float *factors; int64_t blocks; };

/* Of each of `width` channels the sum over `rows` pixels, `channels` apart: of x + add, or with `means` of the squared distance from them. */
static void sum_rows(float *sums, const float *x, int64_t rows, int64_t channels, int64_t width, const float *add, const float *means)
{
    for (int64_t c = 0; c < width; c += LANES) {
        const int n = width - c < LANES ? (int)(width - c) : LANES;
        const vec plus = add ? vec_load_n(add + c, n) : vec_set(0.0f);
        vec sum = vec_set(0.0f);
        const float *p = x + c;
        if (!means)
            for (int64_t r = 0; r < rows; r++, p += channels) sum = sum + ((n == LANES ? vec_load(p) : vec_load_n(p, n)) + plus);
        else {
            const vec mean = vec_load_n(means + c, n);
            for (int64_t r = 0; r < rows; r++, p += channels) {
                const vec d = (n == LANES ? vec_load(p) : vec_load_n(p, n)) + plus - mean;
                sum = vec_fma(d, d, sum);
            }
        }
        vec_store_n(sums + c, sum, n);
    }
}

/* Mean and sum of squared distances of every group of one block of pixels; some whole groups at a time, so that what is kept of channels fits on the stack. */
static void block_stats(const struct group_job *j, int64_t n, int64_t block)
{
    const struct group_norm *g = j->g;
    float sums[GROUP_NORM_CHANNELS_MAX], means[GROUP_NORM_CHANNELS_MAX];
    const int64_t each = g->channels / g->groups, first = block * GROUP_NORM_ROWS, rows = g->rows - first < GROUP_NORM_ROWS ? g->rows - first : GROUP_NORM_ROWS;
    const int64_t at_once = GROUP_NORM_CHANNELS_MAX / each;
    for (int64_t from = 0; from < g->groups; from += at_once) {
        const int64_t groups = g->groups - from < at_once ? g->groups - from : at_once, width = groups * each;
        const float *x = j->x + (n * g->rows + first) * g->channels + from * each, *add = g->add ? g->add + n * g->ldadd + from * each : NULL;
        double *stats = j->stats + ((n * j->blocks + block) * g->groups + from) * 2;
        for (int pass = 0; pass < 2; pass++) {
            sum_rows(sums, x, rows, g->channels, width, add, pass ? means : NULL);
            for (int64_t k = 0; k < groups; k++) {
                double total = 0;
                for (int64_t i = k * each; i < (k + 1) * each; i++) total += (double)sums[i];
                stats[2 * k + pass] = pass ? total : total / (double)(rows * each);
                for (int64_t i = k * each; i < (k + 1) * each && !pass; i++) means[i] = (float)stats[2 * k];
            }
        }
    }
}

static void stats_part(void *ctx, int part, int parts)
{
    const struct group_job *j = ctx;
    const int64_t units = j->g->n * j->blocks;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) block_stats(j, u / j->blocks, u % j->blocks);
}

/* What the blocks found of a group joined in their order, and from it what every channel is multiplied by and what is added then. */
static void join_group(const struct group_job *j, int64_t n, int64_t group)
{
    const struct group_norm *g = j->g;
    const int64_t each = g->channels / g->groups;
    double count = 0, mean = 0, squares = 0;
    for (int64_t b = 0; b < j->blocks; b++) {
        const double *s = j->stats + ((n * j->blocks + b) * g->groups + group) * 2;
        const int64_t rows = g->rows - b * GROUP_NORM_ROWS < GROUP_NORM_ROWS ? g->rows - b * GROUP_NORM_ROWS : GROUP_NORM_ROWS;
        const double more = (double)(rows * each), away = s[0] - mean, whole = count + more;
        mean += away * more / whole;
        squares += s[1] + away * away * count * more / whole;
        count = whole;
    }
    const double rate = 1 / sqrt(squares / count + (double)g->epsilon);
    for (int64_t c = group * each; c < (group + 1) * each; c++) {
        double factor = g->scale ? rate * (double)g->scale[c] : rate, shift = (g->add ? (double)g->add[n * g->ldadd + c] - mean : -mean) * factor + (g->bias ? (double)g->bias[c] : 0);
        if (g->modulation) {
            const double m = 1 + (double)g->modulation[n * g->ldmod + c];
            factor *= m;
            shift = shift * m + (double)g->modulation[n * g->ldmod + g->channels + c];
        }
        j->factors[n * 2 * g->channels + c] = (float)factor;
        j->factors[n * 2 * g->channels + g->channels + c] = (float)shift;
    }
}

static void apply_part(void *ctx, int part, int parts)
{
    const struct group_job *j = ctx;
    const struct group_norm *g = j->g;
    const int64_t units = g->n * g->rows;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        const float *factor = j->factors + u / g->rows * 2 * g->channels, *shift = factor + g->channels, *x = j->x + u * g->channels;
        float *y = j->y + u * g->channels;
        int64_t c = 0;
        for (; c + LANES <= g->channels; c += LANES)
            vec_store(y + c, vec_fma(vec_load(x + c), vec_load(factor + c), vec_load(shift + c)));
        if (c < g->channels) {
            const int n = (int)(g->channels - c);
            vec_store_n(y + c, vec_fma(vec_load_n(x + c, n), vec_load_n(factor + c, n), vec_load_n(shift + c, n)), n);
        }
        if (g->act.kind != ACT_NONE) activate_span(y, y, g->channels, g->act);
    }
}

static void group_norm_f32(float *y, const float *x, const struct group_norm *g, void *scratch, int threads)
{
    struct group_job j = { .g = g, .y = y, .x = x, .stats = scratch, .blocks = (g->rows + GROUP_NORM_ROWS - 1) / GROUP_NORM_ROWS };
    const uint64_t stats = ((uint64_t)(g->n * j.blocks * g->groups) * 2 * sizeof(double) + 63) & ~(uint64_t)63;
    j.factors = (float *)(void *)((char *)scratch + stats);
    const int parts = g->n * g->rows * g->channels < DIFFUSION_PARALLEL_MIN ? 1 : threads;
    if (g->n < 1 || g->rows < 1) return;
    parallel_for(parts, parts, stats_part, &j);
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t k = 0; k < g->groups; k++) join_group(&j, n, k);
    parallel_for(parts, parts, apply_part, &j);
}

/* ---- attention ---- */
static void attention_masks_f32(float *s, int64_t lds, int64_t rows, int64_t columns, const struct attention_dense *a, int64_t b, int64_t h, int64_t i, int64_t j)
{
    for (int64_t r = 0; r < rows; r++) {
        float *x = s + r * lds;
        for (int64_t c = 0; c < columns; c++) x[c] *= a->scale;
        for (int m = 0; m < ATTENTION_MASKS; m++) {
            const struct attention_mask *k = &a->masks[m];
            const int64_t at = b * k->batch + h * k->head + (i + r) * k->query + j;
            const float *add = k->add ? k->add + at : NULL;
            const uint8_t *seen = k->seen ? k->seen + at : NULL;
            for (int64_t c = 0; add && c < columns; c++) x[c] += add[c];
            for (int64_t c = 0; seen && c < columns; c++) x[c] = (seen[c] != 0) != k->inverted ? x[c] : k->unseen;
        }
    }
}

enum { STRIPES = 16 / LANES };           /* vectors that make 16 lanes: the sums of a row go over 16 of them at every level */

static void attention_weights_f32(float *s, int64_t lds, int64_t rows, int64_t columns, const int64_t *limit, float scale, float *top, float *sum, float *shrink)
{
    const float lowest = -__builtin_inff();
    for (int64_t r = 0; r < rows; r++) {
        float *x = s + r * lds, most = top[r], lanes[16];
        const int64_t n = limit[r], padded = (n + 15) & ~(int64_t)15;
        if (n == 0) {
            memset(x, 0, (size_t)columns * sizeof *x);
            shrink[r] = 1;
            continue;
        }
        for (int64_t c = n; c < padded && c < lds; c++) x[c] = lowest;
        vec high = vec_set(lowest);
        for (int64_t c = 0; c < padded; c += LANES) {
            const vec v = vec_load(x + c) * vec_set(scale);
            vec_store(x + c, v);
            high = vec_max(high, v);
        }
        const float own = vec_top(high);
        if (own > most) most = own;
        if (own == lowest && most == lowest) {
            memset(x, 0, (size_t)columns * sizeof *x);
            shrink[r] = 1;
            continue;
        }
        vec total[STRIPES];
        for (int i = 0; i < STRIPES; i++) total[i] = vec_set(0.0f);
        for (int64_t c = 0; c < padded; c += 16)
            for (int i = 0; i < STRIPES; i++) {
                const vec e = vec_exp(vec_load(x + c + i * LANES) - vec_set(most));
                vec_store(x + c + i * LANES, e);
                total[i] = total[i] + e;
            }
        for (int i = 0; i < STRIPES; i++) vec_store(lanes + i * LANES, total[i]);
        for (int width = 8; width; width /= 2)
            for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
        for (int64_t c = n; c < columns; c++) x[c] = 0;
        shrink[r] = top[r] == lowest ? 0 : expf(top[r] - most);
        sum[r] = sum[r] * shrink[r] + lanes[0];
        top[r] = most;
    }
}

static void scale_rows_f32(float *y, int64_t ldy, const float *factor, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++, y += ldy) {
        const vec f = vec_set(factor[r]);
        int64_t c = 0;
        if (factor[r] == 1) continue;
        for (; c + LANES <= columns; c += LANES) vec_store(y + c, vec_load(y + c) * f);
        if (c < columns) vec_store_n(y + c, vec_load_n(y + c, (int)(columns - c)) * f, (int)(columns - c));
    }
}

/* ---- growing ---- */
struct grow_job { float *y; const float *x; int64_t n, h, w, c, out_h, out_w; };

static void grow_part(void *ctx, int part, int parts)
{
    const struct grow_job *j = ctx;
    const int64_t units = j->n * j->out_h;
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        const int64_t n = u / j->out_h, row = u % j->out_h * j->h / j->out_h;
        const float *line = j->x + (n * j->h + row) * j->w * j->c;
        float *y = j->y + u * j->out_w * j->c;
        for (int64_t i = 0; i < j->out_w; i++) memcpy(y + i * j->c, line + i * j->w / j->out_w * j->c, (size_t)j->c * sizeof *y);
    }
}

static void upsample_f32(float *y, const float *x, int64_t n, int64_t h, int64_t w, int64_t c, int64_t out_h, int64_t out_w, int threads)
{
    struct grow_job j = { y, x, n, h, w, c, out_h, out_w };
    const int parts = n * out_h * out_w * c < DIFFUSION_PARALLEL_MIN ? 1 : threads;
    parallel_for(parts, parts, grow_part, &j);
}

static void diffusion_fill(struct diffusion_kernels *k)
{
    k->group_norm_f32 = group_norm_f32;
    k->attention_masks_f32 = attention_masks_f32;
    k->attention_weights_f32 = attention_weights_f32;
    k->scale_rows_f32 = scale_rows_f32;
    k->upsample_f32 = upsample_f32;
}

#endif
