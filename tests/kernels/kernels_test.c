/* Every kernel but gemm, at every level, against plain loops in double */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/half.h"
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

static double activation(enum activation kind, double x, double a, double b)
{
    switch (kind) {
    case ACT_RELU:         return fmax(0, x);
    case ACT_CLIP:         return fmin(b, fmax(a, x));
    case ACT_LEAKY_RELU:   return x < 0 ? a * x : x;
    case ACT_SIGMOID:      return 1 / (1 + exp(-x));
    case ACT_TANH:         return tanh(x);
    case ACT_SILU:         return x / (1 + exp(-x));
    case ACT_HARD_SIGMOID: return fmax(0, fmin(1, a * x + b));
    case ACT_HARD_SWISH:   return x * fmax(0, fmin(1, x / 6 + 0.5));
    case ACT_GELU:         return 0.5 * x * erfc(-x / sqrt(2));
    case ACT_GELU_TANH:    return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_ELU:          return x < 0 ? a * expm1(x) : x;
    case ACT_SOFTPLUS:     return x > 40 ? x : log1p(exp(x));
    case ACT_EXP:          return exp(x);
    case ACT_QUICK_GELU:   return x / (1 + exp(-1.702 * x));
    case ACT_ERF:          return erf(x);
    default:               return x;
    }
}

TEST(levels_have_names)
{
    enum cpu_level l;
    for (int i = 0; i < CPU_LEVEL_COUNT; i++) {
        REQUIRE(cpu_level_from_name(cpu_level_name((enum cpu_level)i), &l));
        CHECK_INT(l, i);
    }
    CHECK(!cpu_level_from_name("sse", &l));
    CHECK(!cpu_level_from_name("", &l));
}

TEST(activations_are_within_a_few_ulp_everywhere)
{
    enum { N = 4001 };
    float *x = fresh(N, 0, 1), *y = fresh(N, 0, 1);
    EACH_LEVEL(k)
        for (int kind = ACT_NONE; kind < ACT_COUNT; kind++)
            for (int range = 0; range < 4; range++) {
                const float span = (const float[]){ 0.01f, 1.0f, 8.0f, 110.0f }[range];
                test_fill(x, N, -span, span);
                const struct activation_spec act = { .kind = (enum activation)kind, .alpha = kind == ACT_CLIP ? -0.3f : 0.2f, .beta = 0.6f };
                k.activate_f32(y, x, N, act, 2);
                double worst = 0;
                int at = 0;
                for (int i = 0; i < N; i++) {
                    double want = activation(act.kind, x[i], act.alpha, act.beta);
                    if ((float)want == y[i]) continue;
                    double size = fmax(fabs(want), FLT_MIN), error = fabs(y[i] - want) / (size * 0x1p-24);
                    if (fabs(want) > FLT_MAX && isinf(y[i])) error = 0;
                    if (!isnan(worst) && !(error <= worst)) worst = error, at = i;
                }
                /* e^(-x^2/2) turns a rounding of x into x^2 of them, e^(-1.7 x) one of 1.7 x into 1.7 x; a sum that cancels (the hard forms) is held to its terms */
                const double allowed = kind == ACT_GELU || kind == ACT_GELU_TANH ? 8 + 2.0 * x[at] * x[at] : kind == ACT_QUICK_GELU ? 8 + 2 * fabs((double)x[at]) : kind == ACT_HARD_SIGMOID || kind == ACT_HARD_SWISH ? 1e4 : 8;
                if (!(worst <= allowed) && fabs(activation(act.kind, x[at], act.alpha, act.beta)) > 1e-36)
                    test_fail(__FILE__, __LINE__, "%s activation %d at %.9g: %.9g is off by %.1f half-ulps", cpu_level_name(k.level), kind, (double)x[at], (double)y[at], worst);
            }
    free(x), free(y);
}

TEST(activations_carry_nan_and_infinity)
{
    const float nan = nanf(""), inf = INFINITY;
    EACH_LEVEL(k)
        for (int kind = ACT_NONE; kind < ACT_COUNT; kind++) {
            float x[19], y[19];
            for (int i = 0; i < 19; i++) x[i] = nan;
            k.activate_f32(y, x, 19, (struct activation_spec){ (enum activation)kind, 0.1f, 0.9f }, 1);
            for (int i = 0; i < 19; i++) CHECK(isnan(y[i]));
            for (int i = 0; i < 19; i++) x[i] = inf;
            k.activate_f32(y, x, 19, (struct activation_spec){ (enum activation)kind, 0.1f, 0.9f }, 1);
            for (int i = 0; i < 19; i++) CHECK(y[i] == (float)activation((enum activation)kind, inf, 0.1, (double)0.9f));
        }
}

TEST(an_element_has_the_same_bits_wherever_it_lies)
{
    enum { N = 101 };
    EACH_LEVEL(k)
        for (int kind = ACT_NONE; kind < ACT_COUNT; kind++) {
            const struct activation_spec act = { (enum activation)kind, 0.2f, 0.6f };
            float x[N], y[N], one;
            test_fill(x, N, -6, 6);
            k.activate_f32(y, x, N, act, 1);
            for (int i = 0; i < N; i++) {
                k.activate_f32(&one, x + i, 1, act, 1);
                CHECK(!memcmp(&one, y + i, sizeof one));
            }
        }
}

TEST(sums_and_products)
{
    const int64_t sizes[] = { 1, 15, 16, 17, 200, 70001 };
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            const size_t n = (size_t)sizes[s];
            float *a = fresh(n, -2, 2), *b = fresh(n, -2, 2), *got = fresh(n, 0, 0), *want = fresh(n, 0, 0);
            k.add_f32(got, a, b, (int64_t)n, 2);
            for (size_t i = 0; i < n; i++) want[i] = a[i] + b[i];
            CHECK(!memcmp(got, want, n * sizeof *got));
            memcpy(got, a, n * sizeof *got);
            k.mul_f32(got, got, b, (int64_t)n, 2);
            for (size_t i = 0; i < n; i++) want[i] = a[i] * b[i];
            CHECK(!memcmp(got, want, n * sizeof *got));
            free(a), free(b), free(got), free(want);
        }
}

TEST(scale_and_shift)
{
    enum { ROWS = 5, COLUMNS = 37 };
    float x[ROWS * COLUMNS], y[ROWS * COLUMNS], want[ROWS * COLUMNS], scale[COLUMNS], bias[COLUMNS];
    test_fill(x, ROWS * COLUMNS, -2, 2), test_fill(scale, COLUMNS, -2, 2), test_fill(bias, COLUMNS, -2, 2);
    EACH_LEVEL(k)
        for (int given = 0; given < 4; given++)
            for (int kind = ACT_NONE; kind <= ACT_TANH; kind++) {
                k.scale_shift_f32(y, x, given & 1 ? scale : NULL, given & 2 ? bias : NULL, ROWS, COLUMNS, (struct activation_spec){ (enum activation)kind, 0.1f, 0.9f }, 2);
                for (int i = 0; i < ROWS * COLUMNS; i++)
                    want[i] = (float)activation((enum activation)kind, (given & 1 ? (double)scale[i % COLUMNS] : 1) * x[i] + (given & 2 ? (double)bias[i % COLUMNS] : 0), (double)0.1f, (double)0.9f);
                CHECK_CLOSE(y, want, ROWS * COLUMNS, 5e-7f);
            }
}

TEST(softmax_and_layer_norm_agree_with_double)
{
    const int64_t columns[] = { 1, 2, 10, 16, 37, 257, 1000 };
    enum { ROWS = 33 };
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof columns / sizeof *columns; s++) {
            const size_t c = (size_t)columns[s];
            float *x = fresh(ROWS * c, -90, 90), *y = fresh(ROWS * c, 0, 0), *want = fresh(ROWS * c, 0, 0), *scale = fresh(c, -1, 1), *bias = fresh(c, -1, 1), *one = fresh(c, 0, 0);
            k.softmax_f32(y, x, ROWS, (int64_t)c, 2);
            for (size_t r = 0; r < ROWS; r++) {
                double top = -INFINITY, sum = 0;
                for (size_t i = 0; i < c; i++) top = fmax(top, x[r * c + i]);
                for (size_t i = 0; i < c; i++) sum += exp(x[r * c + i] - top);
                for (size_t i = 0; i < c; i++) want[r * c + i] = (float)(exp(x[r * c + i] - top) / sum);
                k.softmax_f32(one, x + r * c, 1, (int64_t)c, 1);
                CHECK(!memcmp(one, y + r * c, c * sizeof *one));
            }
            CHECK_CLOSE(y, want, ROWS * c, 1e-6f);
            k.layer_norm_f32(y, x, scale, bias, ROWS, (int64_t)c, 1e-5f, 2);
            for (size_t r = 0; r < ROWS; r++) {
                double mean = 0, variance = 0;
                for (size_t i = 0; i < c; i++) mean += x[r * c + i] / (double)c;
                for (size_t i = 0; i < c; i++) variance += pow(x[r * c + i] - mean, 2) / (double)c;
                for (size_t i = 0; i < c; i++) want[r * c + i] = (float)((x[r * c + i] - mean) / sqrt(variance + (double)1e-5f) * scale[i] + bias[i]);
                k.layer_norm_f32(one, x + r * c, scale, bias, 1, (int64_t)c, 1e-5f, 1);
                CHECK(!memcmp(one, y + r * c, c * sizeof *one));
            }
            CHECK_CLOSE(y, want, ROWS * c, 3e-6f);
            free(x), free(y), free(want), free(scale), free(bias), free(one);
        }
}

TEST(mean_over_rows)
{
    const int64_t columns[] = { 1, 16, 37, 600 };
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof columns / sizeof *columns; s++) {
            const size_t c = (size_t)columns[s], n = 3, rows = 49;
            float *x = fresh(n * rows * c, -1, 1), *y = fresh(n * c, 0, 0), *want = fresh(n * c, 0, 0);
            k.mean_rows_f32(y, x, (int64_t)n, (int64_t)rows, (int64_t)c, 2);
            for (size_t i = 0; i < n * c; i++) {
                double sum = 0;
                for (size_t r = 0; r < rows; r++) sum += x[(i / c * rows + r) * c + i % c];
                want[i] = (float)(sum / (double)rows);
            }
            CHECK_CLOSE(y, want, n * c, 1e-6f);
            free(x), free(y), free(want);
        }
}

/* Planes side by side: each has the bits that it has alone, however many there are and whoever takes them. */
TEST(mean_of_planes_has_one_order)
{
    enum { ROWS = 203, MOST = 19 };
    EACH_LEVEL(k)
        for (int n = 1; n <= MOST; n++)
            for (int threads = 1; threads <= 3; threads++) {
                float *x = fresh(MOST * ROWS, -1, 1), y[MOST];
                k.mean_rows_f32(y, x, n, ROWS, 1, threads);
                for (int i = 0; i < n; i++) {
                    float sum = 0;
                    for (int r = 0; r < ROWS; r++) sum = sum + x[i * ROWS + r];
                    sum /= (float)ROWS;
                    CHECK(!memcmp(&sum, &y[i], sizeof sum));
                }
                free(x);
            }
}

static const struct window2d windows[] = {
    { .n = 2, .h = 7, .w = 9, .c = 5, .out_h = 7, .out_w = 9, .kh = 3, .kw = 3, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1 },
    { .n = 1, .h = 21, .w = 40, .c = 35, .out_h = 11, .out_w = 20, .kh = 3, .kw = 3, .stride_h = 2, .stride_w = 2, .dilation_h = 1, .dilation_w = 1, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1 },
    { .n = 1, .h = 30, .w = 33, .c = 16, .out_h = 26, .out_w = 29, .kh = 3, .kw = 3, .stride_h = 1, .stride_w = 1, .dilation_h = 2, .dilation_w = 2 },
    { .n = 3, .h = 6, .w = 5, .c = 48, .out_h = 4, .out_w = 3, .kh = 2, .kw = 3, .stride_h = 2, .stride_w = 2, .dilation_h = 1, .dilation_w = 1, .pad_top = 1, .pad_left = 0, .pad_bottom = 1, .pad_right = 2 },   /* ceil: the last window hangs over */
    { .n = 1, .h = 4, .w = 4, .c = 17, .out_h = 4, .out_w = 4, .kh = 7, .kw = 7, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .pad_top = 3, .pad_left = 3, .pad_bottom = 3, .pad_right = 3 },
};

TEST(pooling)
{
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof windows / sizeof *windows; s++)
            for (int kind = POOL_MAX; kind <= POOL_AVERAGE_PADDED; kind++) {
                const struct window2d *w = windows + s;
                const size_t n = (size_t)(w->n * w->out_h * w->out_w * w->c);
                float *x = fresh((size_t)(w->n * w->h * w->w * w->c), -1, 1), *y = fresh(n, 0, 0), *want = fresh(n, 0, 0);
                for (size_t i = 0; i < n; i++) {
                    const int64_t c = (int64_t)i % w->c, ox = (int64_t)i / w->c % w->out_w, oy = (int64_t)i / w->c / w->out_w % w->out_h, b = (int64_t)i / w->c / w->out_w / w->out_h;
                    double top = -INFINITY, sum = 0, inside = 0, padded = 0;
                    for (int ky = 0; ky < w->kh; ky++)
                        for (int kx = 0; kx < w->kw; kx++) {
                            const int64_t iy = oy * w->stride_h - w->pad_top + ky * w->dilation_h, ix = ox * w->stride_w - w->pad_left + kx * w->dilation_w;
                            padded += iy < w->h + w->pad_bottom && ix < w->w + w->pad_right;
                            if (iy < 0 || ix < 0 || iy >= w->h || ix >= w->w) continue;
                            double v = x[((b * w->h + iy) * w->w + ix) * w->c + c];
                            top = fmax(top, v), sum += v, inside++;
                        }
                    want[i] = (float)(kind == POOL_MAX ? top : sum / (kind == POOL_AVERAGE ? inside : padded));
                }
                k.pool2d_f32(y, x, w, (enum pool_kind)kind, 1 + (int)s % 2);
                CHECK_CLOSE(y, want, n, 1e-6f);
                free(x), free(y), free(want);
            }
}

/* n numbers of x as bfloat16 bits; x keeps what they stand for. */
static uint16_t *halves_of(float *x, size_t n)
{
    uint16_t *h = malloc((n ? n : 1) * sizeof *h);
    if (!h) abort();
    for (size_t i = 0; i < n; i++) x[i] = bf16_to_f32_one(h[i] = f32_to_bf16_one(x[i]));
    return h;
}

TEST(bfloat16_to_and_fro_at_every_level)
{
    const float odd[] = { 0.0f, -0.0f, 1.00390625f, 1.01171875f, INFINITY, -INFINITY, NAN, 0x1p-140f, 3.4e38f, -3.4e38f };
    const int64_t sizes[] = { 0, 1, 7, 16, 33, 70001 };
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            const size_t n = (size_t)sizes[s];
            float *x = fresh(n, -3, 3), *back = fresh(n, 0, 0);
            uint16_t *y = malloc((n + 1) * sizeof *y);
            for (size_t i = 0; i < n && i < sizeof odd / sizeof *odd; i++) x[i] = odd[i];
            y[n] = 0xabcd;
            k.round_bf16(y, x, (int64_t)n, 2);
            k.widen_bf16(back, y, (int64_t)n, 2);
            for (size_t i = 0; i < n; i++) {
                CHECK(isnan(x[i]) ? isnan(bf16_to_f32_one(y[i])) : y[i] == f32_to_bf16_one(x[i]));
                CHECK(isnan(x[i]) ? isnan(back[i]) : back[i] == bf16_to_f32_one(y[i]));
            }
            CHECK_INT(y[n], 0xabcd);
            free(x), free(back), free(y);
        }
}

TEST(pictures_of_bfloat16_are_pooled_averaged_and_scaled_as_floats_are)
{
    EACH_LEVEL(k) {
        for (size_t s = 0; s < sizeof windows / sizeof *windows; s++)
            for (int kind = POOL_MAX; kind <= POOL_AVERAGE_PADDED; kind++) {
                const struct window2d *w = &windows[s];
                const size_t in = (size_t)(w->n * w->h * w->w * w->c), out = (size_t)(w->n * w->out_h * w->out_w * w->c);
                float *x = fresh(in, -2, 2), *want = fresh(out, 0, 0);
                uint16_t *h = halves_of(x, in), *got = malloc(out * sizeof *got);
                k.pool2d_f32(want, x, w, (enum pool_kind)kind, 1);
                k.pool2d_bf16(got, h, w, (enum pool_kind)kind, 2);
                for (size_t i = 0; i < out; i++) CHECK_INT(got[i], f32_to_bf16_one(want[i]));
                free(x), free(want), free(h), free(got);
            }
        const int64_t columns[] = { 1, 16, 37, 600 };
        for (size_t s = 0; s < sizeof columns / sizeof *columns; s++) {
            const size_t c = (size_t)columns[s], n = 3, rows = 49;
            float *x = fresh(n * rows * c, -1, 1), *mean = fresh(n * c, 0, 0), *want = fresh(n * c, 0, 0), *scale = fresh(n * c, -1, 1);
            uint16_t *h = halves_of(x, n * rows * c);
            k.mean_rows_f32(want, x, (int64_t)n, (int64_t)rows, (int64_t)c, 1);
            k.mean_rows_bf16(mean, h, (int64_t)n, (int64_t)rows, (int64_t)c, 2);
            CHECK(!memcmp(mean, want, n * c * sizeof *want));
            k.scale_channels_bf16(h, h, scale, (int64_t)n, (int64_t)rows, (int64_t)c, 2);
            for (size_t i = 0; i < n * rows * c; i++) CHECK_INT(h[i], f32_to_bf16_one(x[i] * scale[i / c / rows * c + i % c]));
            free(x), free(mean), free(want), free(scale), free(h);
        }
    }
}

TEST(depthwise)
{
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof windows / sizeof *windows; s++)
            for (int given = 0; given < 4; given++) {
                const struct window2d *w = windows + s;
                const size_t n = (size_t)(w->n * w->out_h * w->out_w * w->c), taps = (size_t)(w->kh * w->kw * w->c), row = n / (size_t)w->n;
                const size_t in_row = (size_t)(w->h * w->w * w->c);
                float *x = fresh((size_t)w->n * in_row, -1, 1), *weight = fresh(taps, -1, 1), *bias = fresh((size_t)w->c, -1, 1), *residual = fresh(n, -1, 1), *y = fresh(n, 0, 0), *want = fresh(n, 0, 0);
                const struct activation_spec act = { given == 3 ? ACT_HARD_SWISH : ACT_CLIP, 0, 6 };
                for (size_t i = 0; i < n; i++) {
                    const int64_t c = (int64_t)i % w->c, ox = (int64_t)i / w->c % w->out_w, oy = (int64_t)i / w->c / w->out_w % w->out_h, b = (int64_t)i / w->c / w->out_w / w->out_h;
                    float sum = 0;
                    for (int ky = 0; ky < w->kh; ky++)
                        for (int kx = 0; kx < w->kw; kx++) {
                            const int64_t iy = oy * w->stride_h - w->pad_top + ky * w->dilation_h, ix = ox * w->stride_w - w->pad_left + kx * w->dilation_w;
                            if (iy < 0 || ix < 0 || iy >= w->h || ix >= w->w) continue;
                            sum = fmaf(x[((b * w->h + iy) * w->w + ix) * w->c + c], weight[(ky * w->kw + kx) * w->c + c], sum);
                        }
                    if (given & 1) sum += bias[c];
                    if (given & 2) sum += residual[i];
                    want[i] = act.kind == ACT_CLIP ? fminf(6, fmaxf(0, sum)) : (float)activation(act.kind, sum, 0, 0);
                }
                k.depthwise2d_f32(y, x, weight, given & 1 ? bias : NULL, given & 2 ? residual : NULL, w, act, 2);
                if (act.kind == ACT_CLIP) CHECK(!memcmp(y, want, n * sizeof *y));
                else CHECK_CLOSE(y, want, n, 1e-6f);
                struct window2d last = *w;
                last.n = 1;
                memcpy(want, y, n * sizeof *y);
                k.depthwise2d_f32(y, x + (size_t)(w->n - 1) * in_row, weight, given & 1 ? bias : NULL, given & 2 ? residual + n - row : NULL, &last, act, 1);
                CHECK(!memcmp(y, want + n - row, row * sizeof *y));
                free(x), free(weight), free(bias), free(residual), free(y), free(want);
            }
}

TEST(local_response_normalisation)
{
    const int64_t channels[] = { 3, 16, 37, 96, 130 };
    const int sizes[] = { 1, 3, 4, 5, 11 };
    EACH_LEVEL(k)
        for (size_t s = 0; s < 5; s++)
            for (size_t z = 0; z < 5; z++)
                for (int beta = 0; beta < 2; beta++) {
                    const size_t c = (size_t)channels[s], rows = 9;
                    const int size = sizes[z];
                    const float exponent = beta ? 0.75f : 0.6f;
                    float *x = fresh(rows * c, -30, 30), *y = fresh(rows * c, 0, 0), *want = fresh(rows * c, 0, 0);
                    k.lrn_f32(y, x, (int64_t)rows, (int64_t)c, size, 0.3f, exponent, 1.5f, 2);
                    for (size_t i = 0; i < rows * c; i++) {
                        double sum = 0;
                        for (int o = -((size - 1) / 2); o <= size / 2; o++) {
                            const int64_t at = (int64_t)(i % c) + o;
                            if (at >= 0 && at < (int64_t)c) sum += pow(x[i / c * c + (size_t)at], 2);
                        }
                        want[i] = (float)(x[i] / pow((double)1.5f + (double)0.3f / size * sum, exponent));
                    }
                    CHECK_CLOSE(y, want, rows * c, 2e-6f);
                    free(x), free(y), free(want);
                }
}

TEST(transpose_of_every_element_size)
{
    const int64_t shapes[][3] = { { 1, 1, 7 }, { 2, 3, 1000 }, { 2, 1000, 3 }, { 3, 8, 16 }, { 1, 37, 41 }, { 2, 64, 49 }, { 1, 200, 210 } };
    EACH_LEVEL(k)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t bytes = 1; bytes <= 8; bytes *= 2) {
                const size_t n = (size_t)shapes[s][0], r = (size_t)shapes[s][1], c = (size_t)shapes[s][2], total = n * r * c;
                unsigned char *x = malloc(total * bytes), *y = malloc(total * bytes);
                for (size_t i = 0; i < total * bytes; i++) x[i] = (unsigned char)test_random();
                k.transpose_2d(y, x, (int64_t)n, (int64_t)r, (int64_t)c, (int)bytes, 2);
                size_t wrong = 0;
                for (size_t m = 0; m < n; m++)
                    for (size_t i = 0; i < r; i++)
                        for (size_t j = 0; j < c; j++) wrong += memcmp(x + ((m * r + i) * c + j) * bytes, y + ((m * c + j) * r + i) * bytes, bytes) != 0;
                CHECK_INT(wrong, 0);
                free(x), free(y);
            }
}
