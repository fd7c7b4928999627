/* Bytes number by number (kernels/bytes.h): threads share out the numbers, each level brings the loops. */
#include <string.h>

#include "kernels/bytes_level.h"

enum { SHARE_MIN = 4096, COLUMNS = 64 };

struct job {
    const struct bytes_elements *e;
    uint8_t *y;
    const uint8_t *a, *b;
    float *reals_out;
    const float *reals;
    const uint8_t *table;
    const struct quantum *q, *qy;
    const struct window2d *w;
    struct bytes_pair pair;
    int64_t n, rows, columns;
};

static uint8_t flip_of(const struct quantum *q) { return q->is_signed ? 0x80 : 0; }
static int     zero_of(const struct quantum *q) { return q->zero + (q->is_signed ? 128 : 0); }

/* one part's numbers, in steps of 64 */
static void share(int64_t n, int part, int parts, int64_t *from, int64_t *to)
{
    const int64_t steps = (n + 63) / 64;
    *from = steps * part / parts * 64;
    *to = steps * (part + 1) / parts * 64;
    if (*to > n) *to = n;
}

static void run(struct job *j, int64_t numbers, int threads, void (*body)(void *, int, int))
{
    const int parts = numbers < SHARE_MIN ? 1 : threads;
    parallel_for(parts, parts, body, j);
}

static void round_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    int64_t from, to;
    share(j->n, part, parts, &from, &to);
    j->e->round(j->y + from, j->reals + from, to - from, j->q->scale, zero_of(j->q), flip_of(j->q));
}

void bytes_round(const struct kernels *k, void *y, const float *x, int64_t n, const struct quantum *q, int threads)
{
    struct job j = { .e = &bytes_level(k->level)->each, .y = y, .reals = x, .n = n, .q = q };
    run(&j, n, threads, round_part);
}

static void restore_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    int64_t from, to;
    share(j->n, part, parts, &from, &to);
    j->e->restore(j->reals_out + from, j->a + from, to - from, j->q->scale, zero_of(j->q), flip_of(j->q));
}

void bytes_restore(const struct kernels *k, float *y, const void *x, int64_t n, const struct quantum *q, int threads)
{
    struct job j = { .e = &bytes_level(k->level)->each, .reals_out = y, .a = x, .n = n, .q = q };
    run(&j, n, threads, restore_part);
}

static struct bytes_pair pair_of(const struct quantum *a, const struct quantum *b, const struct quantum *y)
{
    const int zero = zero_of(y);
    return (struct bytes_pair){ flip_of(a), flip_of(b), flip_of(y), zero_of(a), zero_of(b), zero, a->scale / y->scale, b->scale / y->scale, (float)-zero, (float)(255 - zero) };
}

static void add_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    int64_t from, to;
    share(j->n, part, parts, &from, &to);
    j->e->add(j->y + from, j->a + from, j->b + from, to - from, &j->pair);
}

void bytes_add(const struct kernels *k, void *y, const void *a, const void *b, int64_t n, const struct quantum *qa, const struct quantum *qb, const struct quantum *qy, float low, float high, int threads)
{
    struct job j = { .e = &bytes_level(k->level)->each, .y = y, .a = a, .b = b, .n = n, .pair = pair_of(qa, qb, qy) };
    if (low > j.pair.low) j.pair.low = low;
    if (high < j.pair.high) j.pair.high = high;
    run(&j, n, threads, add_part);
}

static void scale_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    if (j->rows == 1) {
        int64_t from, to;
        share(j->n * j->columns, part, parts, &from, &to);
        j->e->multiply(j->y + from, j->a + from, j->b + from, to - from, &j->pair);
        return;
    }
    for (int64_t row = j->n * j->rows * part / parts, end = j->n * j->rows * (part + 1) / parts; row < end; row++)
        j->e->multiply(j->y + row * j->columns, j->a + row * j->columns, j->b + row / j->rows * j->columns, j->columns, &j->pair);
}

void bytes_scale(const struct kernels *k, void *y, const void *x, const void *gate, int64_t n, int64_t rows, int64_t columns, const struct quantum *qx, const struct quantum *qg, const struct quantum *qy, int threads)
{
    struct job j = { .e = &bytes_level(k->level)->each, .y = y, .a = x, .b = gate, .n = n, .rows = rows, .columns = columns, .pair = pair_of(qx, qg, qy) };
    j.pair.first = qx->scale * qg->scale / qy->scale;
    run(&j, n * rows * columns, threads, scale_part);
}

static void look_up_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    int64_t from, to;
    share(j->n, part, parts, &from, &to);
    j->e->look_up(j->y + from, j->a + from, to - from, j->table);
}

void bytes_look_up(const struct kernels *k, void *y, const void *x, int64_t n, const uint8_t *table, int threads)
{
    struct job j = { .e = &bytes_level(k->level)->each, .y = y, .a = x, .n = n, .table = table };
    run(&j, n, threads, look_up_part);
}

/* rows of y */
static void pool_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct window2d *w = j->w;
    const uint8_t flip = flip_of(j->q);
    for (int64_t row = w->n * w->out_h * part / parts, end = w->n * w->out_h * (part + 1) / parts; row < end; row++)
        for (int64_t column = 0; column < w->out_w; column++) {
            uint8_t *y = j->y + (row * w->out_w + column) * w->c;
            bool first = true;
            for (int ky = 0; ky < w->kh; ky++)
                for (int kx = 0; kx < w->kw; kx++) {
                    const int64_t at = row % w->out_h * w->stride_h - w->pad_top + ky * w->dilation_h, to = column * w->stride_w - w->pad_left + kx * w->dilation_w;
                    if (at < 0 || at >= w->h || to < 0 || to >= w->w) continue;
                    const uint8_t *x = j->a + ((row / w->out_h * w->h + at) * w->w + to) * w->c;
                    if (first) memcpy(y, x, (size_t)w->c);
                    else j->e->largest(y, x, w->c, flip);
                    first = false;
                }
            if (first) memset(y, flip, (size_t)w->c);
        }
}

void bytes_pool_max(const struct kernels *k, void *y, const void *x, const struct window2d *w, bool is_signed, int threads)
{
    const struct quantum q = { .is_signed = is_signed };
    struct job j = { .e = &bytes_level(k->level)->each, .y = y, .a = x, .w = w, .q = &q };
    run(&j, w->n * w->out_h * w->out_w * w->c * w->kh * w->kw, threads, pool_part);
}

/* blocks of columns of each picture */
static void mean_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const int64_t each = (j->columns + COLUMNS - 1) / COLUMNS;
    const int zero = zero_of(j->qy);
    const float scale = j->q->scale / j->qy->scale / (float)j->rows;
    for (int64_t i = j->n * each * part / parts, end = j->n * each * (part + 1) / parts; i < end; i++) {
        int32_t sums[COLUMNS] = { 0 };
        const int64_t column = i % each * COLUMNS, count = j->columns - column < COLUMNS ? j->columns - column : COLUMNS;
        for (int64_t row = 0; row < j->rows; row++) j->e->gather(sums, j->a + (i / each * j->rows + row) * j->columns + column, count, flip_of(j->q));
        for (int64_t c = 0; c < count; c++) {
            float v = __builtin_rintf((float)(sums[c] - j->rows * zero_of(j->q)) * scale);
            v = v > (float)-zero ? v : (float)-zero;
            v = v < (float)(255 - zero) ? v : (float)(255 - zero);
            j->y[i / each * j->columns + column + c] = (uint8_t)((int)v + zero) ^ flip_of(j->qy);
        }
    }
}

void bytes_mean(const struct kernels *k, void *y, const void *x, int64_t n, int64_t rows, int64_t columns, const struct quantum *qx, const struct quantum *qy, int threads)
{
    struct job j = { .e = &bytes_level(k->level)->each, .y = y, .a = x, .n = n, .rows = rows, .columns = columns, .q = qx, .qy = qy };
    run(&j, n * rows * columns, threads, mean_part);
}
