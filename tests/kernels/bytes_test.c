/* Layers on bytes: every level against the definition in 64-bit integers, bit for bit */
#include "kernels/bytes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

enum finish { PLAIN, SATURATED, SIGNED_OUT, RESIDUAL, TABLE, FLOATS, WHOLE, GELU, SILU_FLOATS };
static const struct shape { int in_c, out_c, groups, kh, kw, stride, dilation, n, h, w, pad, x_zero; bool x_signed; enum finish finish; } shapes[] = {
    { 3, 64, 1, 7, 7, 2, 1, 2, 37, 41, 3, 114, false, PLAIN },
    { 64, 64, 1, 3, 3, 1, 1, 1, 29, 27, 1, 0, false, PLAIN },            /* one run of all rows */
    { 64, 96, 1, 3, 3, 1, 1, 1, 8, 64, 1, 255, false, RESIDUAL },        /* a run for each row */
    { 64, 96, 1, 1, 1, 1, 1, 3, 13, 15, 0, 128, false, RESIDUAL },
    { 48, 80, 1, 1, 1, 2, 1, 2, 14, 13, 0, 7, false, PLAIN },
    { 48, 40, 1, 1, 1, 1, 1, 1, 9, 9, 1, 9, false, TABLE },              /* padded 1x1 */
    { 17, 23, 1, 3, 3, 1, 1, 2, 10, 11, 1, 0, true, RESIDUAL },          /* channels of no vector's width */
    { 32, 32, 1, 3, 3, 1, 2, 1, 19, 18, 2, 3, false, SIGNED_OUT },
    { 160, 144, 1, 3, 3, 2, 1, 1, 15, 14, 1, 1, false, FLOATS },
    { 512, 300, 1, 3, 3, 1, 1, 1, 7, 7, 1, 200, false, PLAIN },          /* weights beyond a core's cache: threads share panels */
    { 1021, 40, 1, 1, 1, 1, 1, 1, 1, 3, 0, 100, false, FLOATS },         /* a prime number of bytes, fewer rows than a tile's */
    { 1021, 40, 1, 1, 1, 1, 1, 1, 1, 50, 0, 100, true, WHOLE },
    { 768, 129, 1, 1, 1, 1, 1, 1, 1, 131, 0, 131, false, GELU },         /* a matrix beyond four tiles */
    { 24, 16, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, false, PLAIN },
    { 24, 24, 1, 1, 7, 1, 1, 1, 12, 20, 0, 5, false, TABLE },
    { 1, 6, 1, 5, 5, 1, 1, 1, 28, 28, 2, 33, false, SILU_FLOATS },
    { 32, 32, 32, 3, 3, 1, 1, 2, 33, 30, 1, 77, false, PLAIN },          /* depthwise */
    { 72, 72, 72, 5, 5, 2, 1, 1, 28, 27, 2, 255, false, TABLE },
    { 200, 200, 200, 3, 3, 2, 1, 1, 14, 15, 1, 0, true, SIGNED_OUT },
    { 96, 96, 96, 5, 5, 1, 1, 1, 14, 14, 2, 0, false, PLAIN },
    { 40, 40, 40, 7, 7, 1, 1, 1, 14, 14, 3, 12, false, PLAIN },
    { 40, 40, 40, 3, 3, 1, 2, 1, 14, 14, 2, 12, false, SIGNED_OUT },
    { 40, 40, 40, 3, 3, 1, 1, 1, 14, 14, 1, 12, false, RESIDUAL },       /* as groups of one channel */
    { 40, 40, 40, 1, 1, 1, 1, 2, 9, 7, 0, 12, false, PLAIN },            /* a factor for each channel */
    { 96, 96, 96, 3, 3, 1, 1, 1, 15, 19, 1, 0, false, SATURATED },       /* the last channels of two rows at once; the last row alone */
    { 144, 144, 144, 3, 3, 2, 1, 2, 17, 22, 1, 9, false, SATURATED },
    { 9, 9, 9, 3, 3, 1, 1, 1, 6, 5, 1, 0, false, TABLE },
    { 64, 72, 1, 3, 3, 1, 1, 1, 9, 13, 1, 0, false, SATURATED },
    { 16, 96, 1, 1, 1, 1, 1, 2, 11, 13, 0, 0, false, SATURATED },
    { 32, 64, 4, 3, 3, 1, 1, 2, 14, 15, 1, 60, false, PLAIN },           /* groups */
    { 36, 36, 3, 1, 1, 1, 1, 1, 14, 14, 0, 60, false, RESIDUAL },
    { 16, 32, 16, 3, 3, 1, 1, 1, 8, 8, 1, 60, false, PLAIN },            /* two outputs a channel */
    { 96, 8, 1, 3, 3, 1, 1, 5, 58, 61, 1, 60, false, RESIDUAL },         /* pictures: two copies at a time, then one */
    { 32, 48, 1, 3, 3, 1, 1, 5, 7, 7, 1, 60, false, RESIDUAL },          /* a run for each of their rows */
    { 512, 300, 1, 3, 3, 1, 1, 3, 4, 5, 1, 200, false, PLAIN },          /* threads share panels of them */
    { 40, 56, 1, 1, 1, 2, 1, 3, 9, 11, 0, 7, false, SIGNED_OUT },
    { 48, 48, 48, 3, 3, 1, 1, 5, 7, 9, 1, 12, false, PLAIN },
};

struct bench { struct bytes_spec s; struct window2d w; int8_t *weight; uint8_t *x, *residual; int32_t *start; float *scale, *shift; size_t in, out; };

static uint8_t test_table[256];
static uint64_t drawn = 1;
static uint32_t draw(void) { return (uint32_t)((drawn = drawn * 6364136223846793005u + 1442695040888963407u) >> 33); }

static void *fresh(size_t n)
{
    uint8_t *p = malloc(n ? n : 1);                  /* just as large: a sanitizer sees what is read beyond */
    if (!p) abort();
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(draw() % 16 == 0 ? draw() % 2 * 255 : draw());      /* many at both ends */
    return p;
}

static struct bench bench_make(const struct shape *t)
{
    struct bench b = { .s = { .in_c = t->in_c, .out_c = t->out_c, .groups = t->groups, .kh = t->kh, .kw = t->kw, .stride_h = t->stride, .stride_w = t->stride, .dilation_h = t->dilation, .dilation_w = t->dilation,
                              .x_signed = t->x_signed, .x_zero = t->x_zero } };
    struct bytes_finish *f = &b.s.finish;
    b.w = (struct window2d){ .n = t->n, .h = t->h, .w = t->w, .c = t->in_c, .kh = t->kh, .kw = t->kw, .stride_h = t->stride, .stride_w = t->stride, .dilation_h = t->dilation, .dilation_w = t->dilation,
                             .pad_top = t->pad, .pad_left = t->pad, .pad_bottom = t->pad, .pad_right = t->pad };
    b.w.out_h = (t->h + 2 * t->pad - (t->kh - 1) * t->dilation - 1) / t->stride + 1;
    b.w.out_w = (t->w + 2 * t->pad - (t->kw - 1) * t->dilation - 1) / t->stride + 1;
    b.in = (size_t)(b.w.n * b.w.h * b.w.w * b.w.c), b.out = (size_t)(b.w.n * b.w.out_h * b.w.out_w * t->out_c);
    const int terms = t->in_c / t->groups * t->kh * t->kw;
    b.weight = fresh((size_t)(t->out_c * terms)), b.x = fresh(b.in), b.residual = fresh(b.out);
    b.start = fresh((size_t)t->out_c * 4), b.scale = fresh((size_t)t->out_c * 4), b.shift = fresh((size_t)t->out_c * 4);
    for (int i = 0; i < t->out_c; i++) {
        b.start[i] = (int32_t)(draw() % 2000) - 1000;
        b.scale[i] = (float)(1 + draw() % 100) / 90 / sqrtf((float)terms) / 50;
        b.shift[i] = (float)(draw() % 100) / 10 - 5;
    }
    for (int i = 0; i < 256; i++) test_table[i] = (uint8_t)(i * 7 + 3);
    f->start = b.start, f->scale = b.scale, f->shift = b.shift, f->out = BYTES_U8, f->zero = 19, f->low = -19, f->high = 236;
    switch (t->finish) {
    case SATURATED: f->zero = 0, f->low = 0, f->high = 255; break;
    case SIGNED_OUT: f->out = BYTES_S8, f->zero = -20, f->low = -108, f->high = 147; break;
    case RESIDUAL: f->has_residual = true, f->r_zero = 140, f->first = 0.75f, f->second = 1.25f, f->sum_low = -19, f->sum_high = 236, f->low = 0; break;
    case TABLE: f->table = test_table; break;
    case FLOATS: f->out = BYTES_F32, f->shift = NULL; break;
    case SILU_FLOATS: f->out = BYTES_F32, f->act.kind = ACT_SILU; break;
    case WHOLE: f->out = BYTES_I32, f->scale = f->shift = NULL; break;
    case GELU: f->act.kind = ACT_GELU, f->inverse = 3; break;
    default: break;
    }
    return b;
}

static void bench_free(struct bench *b) { free(b->weight), free(b->x), free(b->residual), free(b->start), free(b->scale), free(b->shift); }

static int64_t exact_sum(const struct bench *b, int64_t n, int64_t oy, int64_t ox, int64_t m)
{
    const struct bytes_spec *s = &b->s;
    const struct window2d *w = &b->w;
    const int64_t in = s->in_c / s->groups, first = m / (s->out_c / s->groups) * in;
    int64_t sum = s->finish.start[m];
    for (int ky = 0; ky < s->kh; ky++)
        for (int kx = 0; kx < s->kw; kx++) {
            const int64_t y = oy * s->stride_h - w->pad_top + ky * s->dilation_h, x = ox * s->stride_w - w->pad_left + kx * s->dilation_w;
            if (y < 0 || y >= w->h || x < 0 || x >= w->w) continue;
            for (int64_t c = 0; c < in; c++) {
                const uint8_t v = b->x[((n * w->h + y) * w->w + x) * s->in_c + first + c];
                sum += ((s->x_signed ? (int8_t)v : v) - s->x_zero) * b->weight[((m * in + c) * s->kh + ky) * s->kw + kx];
            }
        }
    return sum;
}

/* one number of y, as four bytes or one */
static int32_t finished(const struct bench *b, const struct kernels *k, int64_t at, int64_t m, int64_t sum)
{
    const struct bytes_finish *f = &b->s.finish;
    int32_t bits;
    if (f->out == BYTES_I32) return (int32_t)sum;
    float v = fmaf((float)sum, f->scale[m], f->shift ? f->shift[m] : 0);
    if (f->act.kind != ACT_NONE) k->activate_f32(&v, &v, 1, f->act, 1);
    if (f->out == BYTES_F32) {
        memcpy(&bits, &v, sizeof bits);
        return bits;
    }
    if (f->act.kind != ACT_NONE) v *= f->inverse;
    v = fminf(fmaxf(rintf(v), f->low), f->high);
    if (f->has_residual) v = fminf(fmaxf(rintf(fmaf((float)(b->residual[at] - f->r_zero), f->second, v * f->first)), f->sum_low), f->sum_high);
    const uint8_t byte = (uint8_t)((int)v + f->zero);
    return f->table ? f->table[byte] : byte;
}

static int64_t count_differences(const struct bench *b, const struct kernels *k, int threads)
{
    struct bytes_layer *l;
    struct err err;
    if (bytes_layer_open(&l, &b->s, b->weight, 0, k, &err)) return -1;
    const int size = b->s.finish.out <= BYTES_S8 ? 1 : 4;
    uint8_t *y = fresh(b->out * (size_t)size), *residual = b->s.finish.has_residual ? b->residual : NULL;
    void *scratch = aligned_alloc(64, (bytes_layer_scratch(l, &b->w, threads) + 127) & ~(uint64_t)63);
    bytes_layer_run(l, y, b->x, NULL, residual, &b->w, scratch, threads);
    int64_t wrong = 0, at = 0;
    for (int64_t n = 0; n < b->w.n; n++)
        for (int64_t oy = 0; oy < b->w.out_h; oy++)
            for (int64_t ox = 0; ox < b->w.out_w; ox++)
                for (int64_t m = 0; m < b->s.out_c; m++, at++) {
                    int32_t got;
                    if (size == 1) got = y[at];
                    else memcpy(&got, y + 4 * at, sizeof got);
                    wrong += got != finished(b, k, at, m, exact_sum(b, n, oy, ox, m));
                }
    bytes_layer_close(l);
    free(scratch);
    free(y);
    return wrong;
}

TEST(every_level_agrees_with_the_definition_in_bits)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct bench b = bench_make(&shapes[i]);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct kernels k;
            kernels_fill(&k, (enum cpu_level)level);
            for (int threads = 1; threads <= 3; threads++) {
                const int64_t wrong = count_differences(&b, &k, threads);
                if (wrong) printf("shape %zu, level %s, %d threads: %lld of %zu numbers differ\n", i, cpu_level_name((enum cpu_level)level), threads, (long long)wrong, b.out);
                CHECK(wrong == 0);
            }
        }
        bench_free(&b);
    }
}

/* 65,536 products of 255 and -128 are the most that fit; one more is refused. */
TEST(the_longest_sum_fits_and_a_longer_one_is_refused)
{
    enum { LONG = BYTES_TERMS_MAX };
    struct kernels k;
    struct err err;
    int8_t *weight = malloc(LONG + 1);
    uint8_t *x = malloc(LONG);
    void *scratch = aligned_alloc(64, 40 * LONG);
    struct bytes_layer *l;
    struct bytes_spec s = { .in_c = LONG, .out_c = 1, .groups = 1, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .finish = { .out = BYTES_I32 } };
    const struct window2d w = { .n = 1, .h = 1, .w = 1, .c = LONG, .out_h = 1, .out_w = 1, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
    CHECK(weight && x && scratch);
    memset(weight, -128, LONG + 1);
    memset(x, 255, LONG);
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        int32_t y = 0;
        kernels_fill(&k, (enum cpu_level)level);
        s.in_c = LONG;
        CHECK(bytes_layer_open(&l, &s, weight, 0, &k, &err) == ST_OK);
        CHECK(bytes_layer_scratch(l, &w, 1) <= 40 * LONG);
        bytes_layer_run(l, &y, x, NULL, NULL, &w, scratch, 1);
        CHECK(y == -255 * 128 * LONG);
        bytes_layer_close(l);
        s.in_c = LONG + 1;
        CHECK(bytes_layer_open(&l, &s, weight, 0, &k, &err) == ST_UNSUPPORTED);
    }
    free(weight), free(x), free(scratch);
}

TEST(a_zero_point_may_be_said_when_the_layer_runs)
{
    const struct shape shapes_of[] = { { 19, 21, 1, 3, 3, 1, 1, 1, 9, 8, 1, 0, false, WHOLE }, { 19, 21, 1, 1, 1, 1, 1, 1, 1, 40, 0, 0, true, WHOLE } };
    for (size_t i = 0; i < 2; i++)
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct bench b = bench_make(&shapes_of[i]);
            struct kernels k;
            struct err err;
            int32_t *y[2];
            kernels_fill(&k, (enum cpu_level)level);
            for (int later = 0; later < 2; later++) {
                struct bytes_layer *l;
                const int zero = b.s.x_signed ? -100 : 99;
                b.s.x_zero = later ? 3 : zero;
                CHECK(bytes_layer_open(&l, &b.s, b.weight, 0, &k, &err) == ST_OK);
                void *scratch = aligned_alloc(64, (bytes_layer_scratch(l, &b.w, 2) + 127) & ~(uint64_t)63);
                y[later] = malloc(b.out * 4);
                bytes_layer_run(l, y[later], b.x, later ? &zero : NULL, NULL, &b.w, scratch, 2);
                bytes_layer_close(l);
                free(scratch);
            }
            CHECK(memcmp(y[0], y[1], b.out * 4) == 0);
            free(y[0]), free(y[1]);
            bench_free(&b);
        }
}

/* What each level makes of every byte, and of lengths that are no vector's. */
TEST(bytes_number_by_number_agree_with_the_definition_at_every_level)
{
    enum { N = 517 };
    const struct quantum qa = { 0.11f, 13, false }, qb = { 0.07f, -9, true }, qy = { 0.2f, -3, true };
    uint8_t a[N], b[N], y[N], table[256];
    float x[N], back[N];
    for (int i = 0; i < N; i++) a[i] = (uint8_t)i, b[i] = (uint8_t)draw(), x[i] = ((float)(draw() % 4001) - 2000) / 50;
    for (int i = 0; i < 256; i++) table[i] = (uint8_t)(255 - i);
    x[0] = 1e30f, x[1] = -1e30f, x[2] = qb.scale * 0.5f, x[3] = qb.scale * 1.5f;         /* both ends; halves */
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        struct kernels k;
        int wrong = 0;
        kernels_fill(&k, (enum cpu_level)level);
        bytes_round(&k, y, x, N, &qb, 2);
        for (int i = 0; i < N; i++) wrong += (int8_t)y[i] != (int)fminf(fmaxf(rintf(x[i] / qb.scale) - 9, -128), 127);
        bytes_restore(&k, back, b, N, &qb, 2);
        for (int i = 0; i < N; i++) wrong += back[i] != (float)((int8_t)b[i] + 9) * qb.scale;
        bytes_add(&k, y, a, b, N, &qa, &qb, &qy, 0, 60, 2);
        for (int i = 0; i < N; i++) wrong += (int8_t)y[i] != (int)fminf(fmaxf(rintf(fmaf((float)(a[i] - 13), qa.scale / qy.scale, (float)((int8_t)b[i] + 9) * (qb.scale / qy.scale))), 0), 60) - 3;
        bytes_scale(&k, y, a, b, 11, 1, 47, &qa, &qb, &qy, 2);
        for (int i = 0; i < N; i++) wrong += (int8_t)y[i] != (int)fminf(fmaxf(rintf((float)((a[i] - 13) * ((int8_t)b[i] + 9)) * (qa.scale * qb.scale / qy.scale)), -125), 130) - 3;
        bytes_scale(&k, y, a, b, 1, 11, 47, &qa, &qb, &qy, 2);
        for (int i = 0; i < N; i++) wrong += (int8_t)y[i] != (int)fminf(fmaxf(rintf((float)((a[i] - 13) * ((int8_t)b[i % 47] + 9)) * (qa.scale * qb.scale / qy.scale)), -125), 130) - 3;
        bytes_look_up(&k, y, a, N, table, 2);
        for (int i = 0; i < N; i++) wrong += y[i] != table[a[i]];
        bytes_mean(&k, y, b, 1, 11, 47, &qb, &qy, 2);
        for (int i = 0; i < 47; i++) {
            int sum = 99;
            for (int r = 0; r < 11; r++) sum += (int8_t)b[r * 47 + i];
            wrong += (int8_t)y[i] != (int)fminf(fmaxf(rintf((float)sum * (qb.scale / qy.scale / 11)), -125), 130) - 3;
        }
        const struct window2d w = { .n = 1, .h = 3, .w = 4, .c = 43, .out_h = 2, .out_w = 2, .kh = 3, .kw = 3, .stride_h = 2, .stride_w = 2, .dilation_h = 1, .dilation_w = 1, .pad_top = 1, .pad_left = 1 };
        bytes_pool_max(&k, y, b, &w, true, 2);
        for (int i = 0; i < 4 * 43; i++) {
            int most = -128;
            for (int t = 0; t < 9; t++) {
                const int row = i / 86 * 2 - 1 + t / 3, column = i / 43 % 2 * 2 - 1 + t % 3;
                if (row >= 0 && row < 3 && column >= 0 && column < 4 && (int8_t)b[(row * 4 + column) * 43 + i % 43] > most) most = (int8_t)b[(row * 4 + column) * 43 + i % 43];
            }
            wrong += (int8_t)y[i] != most;
        }
        CHECK_INT(wrong, 0);
    }
}

TEST(a_matrix_with_its_columns_side_by_side_is_the_same_layer)
{
    enum { K = 50, N = 37, M = 21 };
    struct kernels k;
    struct err err;
    int8_t *rows = fresh(K * N), columns[K * N];
    uint8_t *x = fresh(M * K), y[2][M * N];
    float scale[N];
    for (int i = 0; i < N; i++) scale[i] = 0.001f * (float)(i + 1);
    for (int n = 0; n < N; n++)
        for (int i = 0; i < K; i++) columns[i * N + n] = rows[n * K + i];
    const struct bytes_spec s = { .in_c = K, .out_c = N, .groups = 1, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .x_zero = 5, .finish = { .out = BYTES_U8, .scale = scale, .zero = 100, .low = -100, .high = 155 } };
    const struct window2d w = { .n = 1, .h = 1, .w = M, .c = K, .out_h = 1, .out_w = M, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
    kernels_fill(&k, cpu_level_detect());
    for (int turned = 0; turned < 2; turned++) {
        struct bytes_layer *l;
        CHECK(bytes_layer_open(&l, &s, turned ? columns : rows, turned ? N : 0, &k, &err) == ST_OK);
        void *scratch = aligned_alloc(64, (bytes_layer_scratch(l, &w, 2) + 127) & ~(uint64_t)63);
        bytes_layer_run(l, y[turned], x, NULL, NULL, &w, scratch, 2);
        free(scratch);
        bytes_layer_close(l);
    }
    CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0);
    free(rows), free(x);
}

