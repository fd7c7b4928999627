/* The convolution layer, each CPU level in a process of its own, since oneDNN can be capped once per process */
#include "kernels/conv.h"

#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

static const struct shape { int in_c, out_c, groups, kh, kw, stride, dilation, h, w, pad; bool residual; enum activation act; } shapes[] = {
    { 3, 64, 1, 7, 7, 2, 1, 37, 41, 3, false, ACT_RELU },
    { 64, 64, 1, 3, 3, 1, 1, 29, 27, 1, false, ACT_RELU },
    { 64, 96, 1, 1, 1, 1, 1, 13, 15, 0, true, ACT_RELU },
    { 48, 80, 1, 1, 1, 2, 1, 14, 13, 0, false, ACT_NONE },
    { 48, 40, 1, 1, 1, 1, 1, 9, 9, 1, false, ACT_CLIP },                 /* padded 1x1 */
    { 17, 23, 1, 3, 3, 1, 1, 10, 11, 1, true, ACT_TANH },                /* channels of no vector's width */
    { 32, 32, 1, 3, 3, 1, 2, 19, 18, 2, false, ACT_CLIP },
    { 40, 72, 1, 3, 3, 1, 1, 15, 22, 1, true, ACT_SILU },                /* Winograd: outputs that 4 does not divide, an activation that is no clamp */
    { 160, 144, 1, 3, 3, 1, 1, 14, 14, 0, false, ACT_RELU },             /* its weights pass a core's cache: threads share the planes */
    { 24, 24, 1, 1, 7, 1, 1, 12, 20, 0, false, ACT_SILU },
    { 1, 6, 1, 5, 5, 1, 1, 28, 28, 2, false, ACT_TANH },                 /* LeNet */
    { 32, 32, 32, 3, 3, 1, 1, 33, 30, 1, false, ACT_CLIP },              /* depthwise */
    { 72, 72, 72, 5, 5, 2, 1, 28, 27, 2, false, ACT_HARD_SWISH },
    { 40, 40, 40, 3, 3, 1, 1, 14, 14, 1, true, ACT_NONE },
    { 32, 64, 4, 3, 3, 1, 1, 14, 15, 1, false, ACT_LEAKY_RELU },         /* groups */
    { 36, 36, 3, 1, 1, 1, 1, 14, 14, 0, false, ACT_HARD_SIGMOID },       /* an activation that oneDNN has not */
    { 16, 32, 16, 3, 3, 1, 1, 8, 8, 1, false, ACT_NONE },                /* depthwise, two outputs a channel */
};
/* for tiles of bfloat16 alone: lines of whole tiles, more channels than stay near at once, threads that share channels and threads that share pixels */
static const struct shape wide[] = {
    { 48, 40, 1, 3, 3, 1, 1, 7, 32, 1, true, ACT_SILU },
    { 544, 72, 1, 3, 3, 1, 1, 8, 8, 1, false, ACT_NONE },
    { 544, 40, 1, 3, 3, 1, 1, 5, 16, 1, true, ACT_CLIP },
    { 33, 70, 1, 5, 3, 1, 2, 12, 19, 3, true, ACT_RELU },
};
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
enum { PICTURES = 32, PICTURES_FEW = 3 };        /* few where plain loops take their time: at the level scalar, and under a sanitizer */

struct bench { struct conv_spec s; struct window2d w; float *weight, *bias, *x, *residual; size_t in, out; };

static float *fresh(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 127) & ~(size_t)63);
    if (!p) abort();
    test_fill(p, n, -1, 1);
    return p;
}

static struct bench bench_make(const struct shape *t)
{
    struct bench b = { .s = { .in_c = t->in_c, .out_c = t->out_c, .groups = t->groups, .kh = t->kh, .kw = t->kw, .stride_h = t->stride, .stride_w = t->stride, .dilation_h = t->dilation, .dilation_w = t->dilation,
                              .has_residual = t->residual, .act = { t->act, t->act == ACT_HARD_SIGMOID ? 0.2f : -0.1f, 0.5f }, .hint_h = t->h, .hint_w = t->w, .hint_n_max = 8 } };
    b.w = (struct window2d){ .n = PICTURES, .h = t->h, .w = t->w, .c = t->in_c, .kh = t->kh, .kw = t->kw, .stride_h = t->stride, .stride_w = t->stride, .dilation_h = t->dilation, .dilation_w = t->dilation,
                             .pad_top = t->pad, .pad_left = t->pad, .pad_bottom = t->pad, .pad_right = t->pad };
    b.w.out_h = (t->h + 2 * t->pad - (t->kh - 1) * t->dilation - 1) / t->stride + 1;
    b.w.out_w = (t->w + 2 * t->pad - (t->kw - 1) * t->dilation - 1) / t->stride + 1;
    b.in = (size_t)(b.w.h * b.w.w * b.w.c), b.out = (size_t)(b.w.out_h * b.w.out_w * t->out_c);
    b.weight = fresh((size_t)(t->out_c * (t->in_c / t->groups) * t->kh * t->kw)), b.bias = fresh((size_t)t->out_c), b.x = fresh(b.in * PICTURES), b.residual = fresh(b.out * PICTURES);
    return b;
}

static void bench_free(struct bench *b) { free(b->weight), free(b->bias), free(b->x), free(b->residual); }

static double activation(const struct activation_spec a, double x)
{
    switch (a.kind) {
    case ACT_RELU:         return fmax(0, x);
    case ACT_CLIP:         return fmin(a.beta, fmax(a.alpha, x));
    case ACT_LEAKY_RELU:   return x < 0 ? a.alpha * x : x;
    case ACT_TANH:         return tanh(x);
    case ACT_SILU:         return x / (1 + exp(-x));
    case ACT_HARD_SIGMOID: return fmax(0, fmin(1, a.alpha * x + a.beta));
    case ACT_HARD_SWISH:   return x * fmax(0, fmin(1, x / 6 + 0.5));
    default:               return x;
    }
}

/* one picture, straight from the definition, in double */
static void reference(const struct bench *b, float *y, const float *x, const float *residual)
{
    const struct conv_spec *s = &b->s;
    const struct window2d *w = &b->w;
    const int64_t ic = s->in_c / s->groups, oc = s->out_c / s->groups;
    for (int64_t i = 0; i < (int64_t)b->out; i++) {
        const int64_t o = i % s->out_c, ox = i / s->out_c % w->out_w, oy = i / s->out_c / w->out_w, g = o / oc;
        double sum = b->bias[o];
        for (int ky = 0; ky < s->kh; ky++)
            for (int kx = 0; kx < s->kw; kx++) {
                const int64_t iy = oy * s->stride_h - w->pad_top + ky * s->dilation_h, ix = ox * s->stride_w - w->pad_left + kx * s->dilation_w;
                if (iy < 0 || ix < 0 || iy >= w->h || ix >= w->w) continue;
                for (int64_t c = 0; c < ic; c++) sum += (double)x[(iy * w->w + ix) * w->c + g * ic + c] * b->weight[((o * ic + c) * s->kh + ky) * s->kw + kx];
            }
        y[i] = (float)activation(s->act, sum + (residual ? residual[i] : 0));
    }
}

static bool run(const struct conv_layer *l, struct window2d w, int64_t n, int threads, void *y, const void *x, const void *residual)
{
    struct err err = { 0 };
    struct conv_plan *p;
    w.n = n;
    if (conv_plan_open(&p, l, &w, threads, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    void *scratch = aligned_alloc(64, (conv_plan_scratch(p) + 127) & ~(uint64_t)63);
    enum status st = conv_plan_run(p, y, x, residual, scratch, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s", err.text);
    free(scratch);
    conv_plan_close(p);
    return st == ST_OK;
}

/* How many times as large as the definition's the error in bfloat16 is. */
static float rounding_of(enum conv_choice choice) { return choice == CONV_BY_WINOGRAD_BF16 ? 1.7f : 1; }

static void check_shape(const struct kernels *k, const struct shape *t, enum conv_choice choice, bool bf16)
{
    struct bench b = bench_make(t);
    b.s.bf16 = bf16;
    struct err err = { 0 };
    struct conv_layer *l;
    enum status st = conv_layer_open_as(&l, &b.s, b.weight, b.bias, k, 2, choice, &err);
    if (st == ST_UNSUPPORTED && (choice == CONV_BY_ONEDNN || choice == CONV_BY_WINOGRAD || choice == CONV_BY_TILES || choice == CONV_BY_WINOGRAD_BF16)) {
        bench_free(&b);
        return;
    }
    if (st) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        bench_free(&b);
        return;
    }
    CHECK(conv_layer_bytes(l) >= (uint64_t)(t->out_c * (t->in_c / t->groups) * t->kh * t->kw) * (bf16 ? sizeof(uint16_t) : sizeof(float)));
    float *want = fresh(b.out), *alone = fresh(b.out * PICTURES), *batch = fresh(b.out * PICTURES);
    const int64_t most = k->level == CPU_SCALAR || SANITIZED ? PICTURES_FEW : PICTURES;
    for (size_t i = 0; i < (size_t)most; i++) run(l, b.w, 1, 1, alone + i * b.out, b.x + i * b.in, t->residual ? b.residual + i * b.out : NULL);
    /* sums of `depth` products: their size, and what f32 loses of them, grow with its root */
    const int depth = t->in_c / t->groups * t->kh * t->kw;
    /* bfloat16 turns each number by up to 2^-9 of it: five deviations of a sum of such products */
    const float within = bf16 && k->bf16 ? rounding_of(choice) * 5 * 0x1p-9f * 0.47f * sqrtf((float)depth) : 3e-5f * (depth > 100 ? sqrtf((float)depth / 100) : 1);
    reference(&b, want, b.x, t->residual ? b.residual : NULL);
    CHECK_CLOSE(alone, want, b.out, within);
    reference(&b, want, b.x + 2 * b.in, t->residual ? b.residual + 2 * b.out : NULL);
    CHECK_CLOSE(alone + 2 * b.out, want, b.out, within);
    for (int64_t n = 1; n <= most; n += n < 5 ? 1 : 9)
        for (int threads = 1; threads <= 2; threads++) {
            if (t->residual && n % 2) memcpy(batch, b.residual, (size_t)n * b.out * sizeof *batch);       /* in place */
            run(l, b.w, n, threads, batch, b.x, !t->residual ? NULL : n % 2 ? batch : b.residual);
            if (memcmp(batch, alone, (size_t)n * b.out * sizeof *batch))
                test_fail(__FILE__, __LINE__, "%s %s %d>%d groups %d %dx%d: %lld pictures on %d threads differ in bits from one", cpu_level_name(k->level), conv_layer_kernel(l), t->in_c, t->out_c, t->groups, t->kh, t->kw, (long long)n, threads);
        }
    free(want), free(alone), free(batch);
    conv_layer_close(l);
    bench_free(&b);
}

/* The numbers of p rounded to bfloat16: as such, and as floats in their place. */
static uint16_t *round_all(const struct kernels *k, float *p, size_t n)
{
    uint16_t *halves = aligned_alloc(64, (n * sizeof *halves + 127) & ~(size_t)63);
    if (!halves) abort();
    k->round_bf16(halves, p, (int64_t)n, 1);
    k->widen_bf16(p, halves, (int64_t)n, 1);
    return halves;
}

/* Pictures that lie in memory as bfloat16, by whatever kernel: the same numbers but for the rounding of the result. */
static void check_storage(const struct kernels *k, const struct shape *t, enum conv_choice choice, bool bf16)
{
    struct bench b = bench_make(t);
    struct err err = { 0 };
    struct conv_layer *l;
    b.s.bf16 = bf16, b.s.x_bf16 = b.s.y_bf16 = true;
    const size_t n = 3;
    uint16_t *x = round_all(k, b.x, n * b.in), *residual = round_all(k, b.residual, n * b.out), *y = aligned_alloc(64, (n * b.out * sizeof *y + 127) & ~(size_t)63);
    float *want = fresh(b.out), *got = fresh(n * b.out);
    if (!y) abort();
    if (conv_layer_open_as(&l, &b.s, b.weight, b.bias, k, 2, choice, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    else if (run(l, b.w, (int64_t)n, 2, y, x, t->residual ? residual : NULL)) {
        const int depth = t->in_c / t->groups * t->kh * t->kw;
        const float within = bf16 && k->bf16 ? rounding_of(choice) * 4 * 0x1p-9f * 0.47f * sqrtf((float)depth) : 3e-5f * (depth > 100 ? sqrtf((float)depth / 100) : 1);
        k->widen_bf16(got, y, (int64_t)(n * b.out), 1);
        for (size_t p = 0; p < n; p++) {
            reference(&b, want, b.x + p * b.in, t->residual ? b.residual + p * b.out : NULL);
            for (size_t i = 0; i < b.out; i++)
                if (!(fabsf(got[p * b.out + i] - want[i]) <= within + 0x1p-8f * fabsf(want[i]))) {
                    test_fail(__FILE__, __LINE__, "%s %s %d>%d: stored as bfloat16 %g, it should be near %g", cpu_level_name(k->level), conv_layer_kernel(l), t->in_c, t->out_c, (double)got[p * b.out + i], (double)want[i]);
                    break;
                }
        }
        conv_layer_close(l);
    }
    free(want), free(got), free(x), free(y), free(residual);
    bench_free(&b);
}

static const char level_variable[] = "INFERD_TEST_LEVEL";

/* In the child: everything at its level. In the parent: a child for every level. */
TEST(a_picture_has_the_same_bits_alone_and_in_every_batch_at_every_level)
{
    const char *name = getenv(level_variable);
    if (!name) {
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            if (SANITIZED && level == CPU_AVX512 && cpu_level_detect() > CPU_AVX512) continue;      /* the same code as the level above */
            pid_t pid = fork();
            REQUIRE(pid >= 0);
            if (pid == 0) {
                setenv(level_variable, cpu_level_name((enum cpu_level)level), 1);
                dup2(STDERR_FILENO, STDOUT_FILENO);
                execl("/proc/self/exe", "conv_test", (char *)NULL);
                _exit(127);
            }
            int status = 0;
            REQUIRE(waitpid(pid, &status, 0) == pid);
            if (!WIFEXITED(status) || WEXITSTATUS(status)) test_fail(__FILE__, __LINE__, "level %s: status %d", cpu_level_name((enum cpu_level)level), status);
        }
        return;
    }
    enum cpu_level level;
    REQUIRE(cpu_level_from_name(name, &level));
    struct kernels k;
    kernels_fill(&k, level);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (level != CPU_SCALAR) check_storage(&k, shapes + i, CONV_BY_RULE, false);
        if (k.bf16) check_storage(&k, shapes + i, CONV_BY_RULE, true);
        if (level >= CPU_AMX) check_shape(&k, shapes + i, CONV_BY_TILES, true);
        if (k.bf16 && level < CPU_AMX) check_shape(&k, shapes + i, CONV_BY_WINOGRAD_BF16, true);
        for (int choice = CONV_BY_RULE; choice <= CONV_BY_ONEDNN; choice++) {
            if (choice == CONV_BY_RULE && k.bf16) check_shape(&k, shapes + i, CONV_BY_RULE, true);
            if ((level == CPU_SCALAR || SANITIZED) && choice == CONV_BY_OWN) continue;      /* scalar: what the rule takes */
            check_shape(&k, shapes + i, (enum conv_choice)choice, false);
        }
    }
    for (size_t i = 0; k.bf16 && level < CPU_AMX && i < sizeof wide / sizeof *wide; i++) {
        check_shape(&k, wide + i, CONV_BY_WINOGRAD_BF16, true);
        if (wide[i].kh == wide[i].kw) check_storage(&k, wide + i, CONV_BY_WINOGRAD_BF16, true);
    }
    for (size_t i = 0; level >= CPU_AMX && i < sizeof wide / sizeof *wide; i++) {
        check_shape(&k, wide + i, CONV_BY_TILES, true);
        check_storage(&k, wide + i, CONV_BY_TILES, true);
    }
}

TEST(impossible_layers_and_windows_are_refused)
{
    struct kernels k;
    kernels_fill(&k, CPU_SCALAR);
    struct err err = { 0 };
    struct conv_layer *l = NULL;
    struct conv_plan *p = NULL;
    float weight[9] = { 0 };
    struct conv_spec s = { .in_c = 1, .out_c = 1, .groups = 1, .kh = 3, .kw = 3, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
    struct conv_spec bad = s;
    bad.groups = 2;
    CHECK_INT(conv_layer_open(&l, &bad, weight, NULL, &k, 1, &err), ST_BAD_INPUT);
    bad = s, bad.stride_h = 0;
    CHECK_INT(conv_layer_open(&l, &bad, weight, NULL, &k, 1, &err), ST_BAD_INPUT);
    bad = s, bad.in_c = (int64_t)1 << 40, bad.out_c = (int64_t)1 << 40;
    CHECK_INT(conv_layer_open(&l, &bad, weight, NULL, &k, 1, &err), ST_TOO_LARGE);
    REQUIRE_OK(conv_layer_open(&l, &s, weight, NULL, &k, 1, &err), err);
    CHECK_TEXT(conv_layer_kernel(l), "im2col");
    struct window2d w = { .n = 1, .h = 5, .w = 5, .c = 1, .out_h = 3, .out_w = 3, .kh = 3, .kw = 3, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
    struct window2d wrong = w;
    wrong.out_h = 4;
    CHECK_INT(conv_plan_open(&p, l, &wrong, 1, &err), ST_BAD_INPUT);
    wrong = w, wrong.c = 2;
    CHECK_INT(conv_plan_open(&p, l, &wrong, 1, &err), ST_BAD_INPUT);
    wrong = w, wrong.n = INT64_MAX / 2;
    CHECK_INT(conv_plan_open(&p, l, &wrong, 1, &err), ST_TOO_LARGE);
    wrong = w, wrong.n = 0;
    REQUIRE_OK(conv_plan_open(&p, l, &wrong, 1, &err), err);
    CHECK_OK(conv_plan_run(p, weight, weight, NULL, NULL, &err), err);
    conv_plan_close(p);
    REQUIRE_OK(conv_plan_open(&p, l, &w, 1, &err), err);
    conv_plan_close(p);
    conv_layer_close(l);
}
