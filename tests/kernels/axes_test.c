/* Reductions, taps, pooling of any rank and recurrent cells at every level, against plain loops in double; sizes pass two vectors and two runs of columns. */
#include <math.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "tests/test.h"

#define EACH_LEVEL(k)                                                                       \
    struct kernels k;                                                                       \
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect() && (kernels_fill(&k, (enum cpu_level)level), true); level++)

static float *fresh(size_t n, float low, float high)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    if (!p) abort();
    test_fill(p, n, low, high);
    return p;
}

static double reduced(const float *x, int64_t n, int64_t step, enum reduce_kind kind)
{
    double r = kind == REDUCE_MAX || kind == REDUCE_MIN ? (double)x[0] : 0;
    for (int64_t i = 0; i < n; i++) {
        const double v = (double)x[i * step];
        if (kind == REDUCE_MAX) r = v > r ? v : r;
        else if (kind == REDUCE_MIN) r = v < r ? v : r;
        else r += kind == REDUCE_L1 ? fabs(v) : kind == REDUCE_L2 || kind == REDUCE_SQUARES ? v * v : v;
    }
    return kind == REDUCE_MEAN ? r / (double)n : kind == REDUCE_L2 ? sqrt(r) : r;
}

TEST(reductions_match_plain_loops)
{
    static const int64_t shapes[][3] = { { 3, 1, 1 }, { 5, 37, 1 }, { 2, 7, 600 }, { 1, 3, 17 }, { 4, 100, 33 }, { 1, 5000, 1 }, { 40, 90, 40 } };
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (int kind = REDUCE_SUM; kind <= REDUCE_SQUARES; kind++) {
                const int64_t outer = shapes[s][0], n = shapes[s][1], inner = shapes[s][2];
                float *x = fresh((size_t)(outer * n * inner), -3, 3), *y = fresh((size_t)(outer * inner), 0, 1), *one = fresh((size_t)(outer * inner), 0, 1);
                k.reduce_f32(y, x, outer, n, inner, (enum reduce_kind)kind, 2);
                k.reduce_f32(one, x, outer, n, inner, (enum reduce_kind)kind, 1);
                CHECK(!memcmp(y, one, (size_t)(outer * inner) * sizeof *y));
                for (int64_t i = 0; i < outer * inner; i++) {
                    const double want = reduced(x + i / inner * n * inner + i % inner, n, inner, (enum reduce_kind)kind);
                    CHECK(fabs((double)y[i] - want) <= 1e-6 * fmax(1, fabs(want)));
                }
                free(x), free(y), free(one);
            }
}

TEST(a_nan_makes_an_extreme_nan)
{
    EACH_LEVEL(k)
        for (int64_t inner = 1; inner <= 3; inner += 2)
            for (int at = 0; at < 40; at++) {
                float x[40 * 3], y[3];
                test_fill(x, 120, -1, 1);
                x[at * inner] = nanf("");
                k.reduce_f32(y, x, 1, 40, inner, at & 1 ? REDUCE_MAX : REDUCE_MIN, 1);
                CHECK(isnan(y[0]));
                CHECK(inner == 1 || !isnan(y[1]));
            }
}

TEST(taps_match_plain_loops)
{
    static const int64_t inners[] = { 1, 5, 16, 51 };
    enum { IN = 9, OUT = 23, OUTER = 3, EACH = 4 };
    struct axis_tap taps[OUT * EACH];
    for (int i = 0; i < OUT * EACH; i++) {
        float w;
        test_fill(&w, 1, -1, 1);
        taps[i] = (struct axis_tap){ (int64_t)(test_random() % IN), w };
    }
    EACH_LEVEL(k)
        for (int s = 0; s < 4; s++)
            for (int each = 1; each <= EACH; each++) {
                const int64_t inner = inners[s];
                float *x = fresh((size_t)(OUTER * IN * inner), -1, 1), *y = fresh((size_t)(OUTER * OUT * inner), 0, 1);
                if (each == 1)
                    for (int i = 0; i < OUT; i++) taps[i].weight = 1;
                k.taps_f32(y, x, OUTER, IN, OUT, inner, taps, each, 2);
                for (int64_t i = 0; i < OUTER * OUT * inner; i++) {
                    double want = 0;
                    for (int t = 0; t < each; t++) want += (double)taps[i / inner % OUT * each + t].weight * (double)x[(i / inner / OUT * IN + taps[i / inner % OUT * each + t].index) * inner + i % inner];
                    CHECK(fabs((double)y[i] - want) <= 1e-6);
                }
                free(x), free(y);
            }
}

static double pooled(const struct pool_any *w, const float *x, int64_t outer, int64_t a, int64_t b, int64_t c, enum pool_kind kind)
{
    double r = kind == POOL_MAX ? -INFINITY : 0;
    int64_t seen = 0, counted = 0, at[3] = { a, b, 0 };
    for (int64_t i = 0; i < w->kernel[0]; i++)
        for (int64_t j = 0; j < w->kernel[1]; j++) {
            const int64_t p = at[0] * w->stride[0] - w->low[0] + i * w->dilation[0], q = at[1] * w->stride[1] - w->low[1] + j * w->dilation[1];
            counted += p < w->in[0] + w->high[0] && q < w->in[1] + w->high[1];
            if (p < 0 || q < 0 || p >= w->in[0] || q >= w->in[1]) continue;
            const double v = (double)x[((outer * w->in[0] + p) * w->in[1] + q) * w->inner + c];
            r = kind == POOL_MAX ? fmax(r, v) : r + v;
            seen++;
        }
    return kind == POOL_MAX ? r : r / (double)(kind == POOL_AVERAGE ? seen : counted);
}

TEST(pooling_of_any_rank_matches_plain_loops)
{
    const struct pool_any w = { .outer = 3, .inner = 37, .dims = 2, .in = { 9, 7 }, .out = { 5, 7 }, .kernel = { 3, 2 }, .stride = { 2, 1 }, .dilation = { 1, 2 }, .low = { 1, 1 }, .high = { 1, 1 } };
    EACH_LEVEL(k)
        for (int kind = POOL_MAX; kind <= POOL_AVERAGE_PADDED; kind++) {
            float *x = fresh(3 * 9 * 7 * 37, -1, 1), *y = fresh(3 * 5 * 7 * 37, 0, 1);
            k.pool_any_f32(y, x, &w, (enum pool_kind)kind, 2);
            for (int64_t i = 0; i < 3 * 5 * 7 * 37; i++) CHECK(fabs((double)y[i] - pooled(&w, x, i / 37 / 35, i / 37 / 7 % 5, i / 37 % 7, i % 37, (enum pool_kind)kind)) <= 1e-6);
            free(x), free(y);
        }
}

TEST(arithmetic_with_one_number_matches_plain_loops)
{
    enum { N = 77 };
    static float a[N], b[N], y[N];
    test_fill(a, N, -2, 2);
    test_fill(b, N, -2, 2);
    a[5] = b[9] = nanf("");
    EACH_LEVEL(k)
        for (int steps = 1; steps < 4; steps++)
            for (int kind = ARITH_ADD; kind <= ARITH_PRELU; kind++) {
                k.arith_f32(y, a, b, N, steps & 1, steps >> 1, (enum arith_kind)kind, 2);
                for (int i = 0; i < N; i++) {
                    const float p = a[i * (steps & 1)], q = b[i * (steps >> 1)];
                    const float want = (const float[]){ p + q, p - q, p * q, p / q, p > q ? p : q, p < q ? p : q, p < 0 ? p * q : p }[kind];
                    const bool none = kind == ARITH_PRELU ? p != p || (p < 0 && q != q) : p != p || q != q;
                    CHECK(none ? y[i] != y[i] : memcmp(&y[i], &want, 4) == 0);
                }
            }
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

TEST(recurrent_cells_match_plain_loops)
{
    enum { ROWS = 3, N = 41 };
    static float gates[ROWS * 4 * N], x[ROWS * 4 * N], h[ROWS * N], cell[ROWS * N], was_h[ROWS * N], was_cell[ROWS * N];
    EACH_LEVEL(k) {
        test_fill(gates, ROWS * 4 * N, -4, 4);
        test_fill(x, ROWS * 4 * N, -4, 4);
        test_fill(was_h, ROWS * N, -1, 1);
        test_fill(was_cell, ROWS * N, -2, 2);
        memcpy(h, was_h, sizeof h);
        memcpy(cell, was_cell, sizeof cell);
        k.lstm_cell_f32(h, cell, N, gates, 4 * N, ROWS, N);
        for (int i = 0; i < ROWS * N; i++) {
            const float *g = gates + i / N * 4 * N + i % N;
            const double c = sigmoid(g[2 * N]) * was_cell[i] + sigmoid(g[0]) * tanh(g[3 * N]);
            CHECK(fabs(cell[i] - c) <= 1e-6);
            CHECK(fabs(h[i] - sigmoid(g[N]) * tanh(c)) <= 1e-6);
        }
        k.gru_cell_f32(h, was_h, N, x, 4 * N, gates, 3 * N, ROWS, N);
        for (int i = 0; i < ROWS * N; i++) {
            const float *a = x + i / N * 4 * N + i % N, *b = gates + i / N * 3 * N + i % N;
            const double z = sigmoid((double)a[0] + b[0]), r = sigmoid((double)a[N] + b[N]), n = tanh(a[2 * N] + r * b[2 * N]);
            CHECK(fabs(h[i] - ((1 - z) * n + z * was_h[i])) <= 1e-6);
        }
        memcpy(h, was_h, sizeof h);
        k.blend_f32(h, h, cell, N, x, 4 * N, ROWS, N);
        for (int i = 0; i < ROWS * N; i++) CHECK(fabs(h[i] - (cell[i] + (double)x[i / N * 4 * N + i % N] * ((double)was_h[i] - cell[i]))) <= 1e-5);
    }
}
