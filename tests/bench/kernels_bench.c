/* Speed of single kernels at every level: GB/s and GFLOP/s, best of several runs, on one thread and on `--threads N` (2).
 *   kernels_bench [--threads N] [--only-threads N] [--level L] [--type T] [gemm|pruned|conv|tiles|chain|small|linear|attention|memory]...
 * `linear` streams 16 matrices of 4096 x 4096 so that weights come from memory; `attention` decodes and fills a cache of 2048 positions, 32 heads on 8.
 * `memory` is what the memory gives to as many readers as there are threads, the rate that decoding weights is held against.
 * `conv` runs the convolution layers of ResNet-50, MobileNetV2 and AlexNet by each choice (own kernel, oneDNN), which is where the rules in conv.c and conv_onednn.c
 * come from. `tiles` runs convolutions in bfloat16 by conv_tiles.c (without tiles conv_winograd_bf16.c) and by oneDNN in turns: layers of Stable Diffusion 1.5 for 512x512, of ResNet-50 and a U-Net, and products of BERT and ViT. `chain` runs all layers of a network one after the other, each with weights of its own, so that they come from memory as in a network; of each
 * layer the best time of many rounds counts, own and oneDNN in turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/blocks.h"
#include "kernels/conv.h"
#include "kernels/linear.h"
#include "kernels/llm.h"
#include "kernels/sparse.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *fresh(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 127) & ~(size_t)63);
    if (!p) abort();
    uint32_t s = 1;
    for (size_t i = 0; i < n; i++) p[i] = (float)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
    return p;
}

/* Best seconds per call over about a tenth of a second. */
#define BEST(best, call)                                                                              \
    double best = 1e9;                                                                                \
    for (double started_ = now(), t_; now() - started_ < 0.12;) {                                     \
        t_ = now();                                                                                   \
        call;                                                                                         \
        t_ = now() - t_;                                                                              \
        if (t_ < best) best = t_;                                                                     \
    }

static void bench_gemm(const struct kernels *k, int threads)
{
    static const int64_t shapes[][3] = { { 512, 512, 512 }, { 1024, 1024, 1024 }, { 3136, 64, 256 }, { 784, 512, 128 }, { 196, 256, 1024 }, { 49, 2048, 512 }, { 1, 4096, 4096 }, { 1, 1000, 2048 }, { 8, 4096, 4096 }, { 32, 4096, 4096 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t m = shapes[s][0], n = shapes[s][1], depth = shapes[s][2];
        if (k->level == CPU_SCALAR && m > 49) continue;
        float *a = fresh((size_t)(m * depth)), *b = fresh((size_t)(depth * n)), *c = fresh((size_t)(m * n));
        void *packed = aligned_alloc(64, k->gemm_f32_packed_bytes(depth, n) + 64 - k->gemm_f32_packed_bytes(depth, n) % 64);
        k->gemm_f32_pack(packed, b, n, 1, depth, n);
        BEST(t, k->gemm_f32(c, n, a, depth, packed, m, n, depth, NULL, threads))
        printf("gemm    %-7s threads %d  %5lld x %5lld x %5lld  %8.1f GFLOP/s  %6.1f GB/s of b\n", cpu_level_name(k->level), threads, (long long)m, (long long)n, (long long)depth,
               2e-9 * (double)(m * n * depth) / t, 4e-9 * (double)(n * depth) / t);
        free(a), free(b), free(c), free(packed);
    }
}

/* Pruned weights beside the same in full. */
static void bench_pruned(const struct kernels *k, int threads)
{
    static const int64_t sizes[] = { 512, 1024, 2048, 4096 }, rows[] = { 1, 8, 32, 64 };
    for (size_t z = 0; z < 3; z++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const int64_t n = sizes[i], zeros[] = { 80, 90, 95 };
            float *b = fresh((size_t)(n * n)), *a = fresh((size_t)(64 * n)), *c = fresh((size_t)(64 * n));
            for (int64_t e = 0; e < n * n; e++) b[e] = (b[e] + 1) * 50 < (float)zeros[z] ? 0 : b[e];
            void *packed = aligned_alloc(64, k->gemm_f32_packed_bytes(n, n));
            struct sparse_layer *s;
            if (k->level == CPU_SCALAR || !packed || sparse_open(&s, b, n, 1, n, n, k, NULL)) continue;
            void *scratch = aligned_alloc(64, (sparse_scratch(s, 64) + 63) / 64 * 64);
            k->gemm_f32_pack(packed, b, n, 1, n, n);
            for (size_t r = 0; r < 4; r++) {
                const int64_t m = rows[r];
                BEST(full, k->gemm_f32(c, n, a, n, packed, m, n, n, NULL, threads))
                BEST(t, sparse_run(s, c, n, a, n, m, NULL, scratch, threads))
                printf("pruned  %-7s threads %d  %2lld %% zeros  %5lld x %5lld x %5lld  %8.3f ms  in full %8.3f ms  %5.2f times as fast\n", cpu_level_name(k->level), threads, (long long)zeros[z], (long long)m, (long long)n, (long long)n, 1e3 * t, 1e3 * full, full / t);
            }
            sparse_close(s);
            free(a), free(b), free(c), free(packed), free(scratch);
        }
}

static const struct layer { const char *net; int in_c, out_c, groups, k, stride, size, times, residual; } layers[] = {
    { "resnet50", 3, 64, 1, 7, 2, 224, 1, 0 },
    { "resnet50", 64, 64, 1, 1, 1, 56, 1, 0 }, { "resnet50", 64, 64, 1, 3, 1, 56, 3, 0 }, { "resnet50", 64, 256, 1, 1, 1, 56, 1, 0 }, { "resnet50", 64, 256, 1, 1, 1, 56, 3, 1 }, { "resnet50", 256, 64, 1, 1, 1, 56, 2, 0 },
    { "resnet50", 256, 128, 1, 1, 1, 56, 1, 0 }, { "resnet50", 128, 128, 1, 3, 2, 56, 1, 0 }, { "resnet50", 128, 512, 1, 1, 1, 28, 4, 1 }, { "resnet50", 256, 512, 1, 1, 2, 56, 1, 0 }, { "resnet50", 512, 128, 1, 1, 1, 28, 3, 0 }, { "resnet50", 128, 128, 1, 3, 1, 28, 3, 0 },
    { "resnet50", 512, 256, 1, 1, 1, 28, 1, 0 }, { "resnet50", 256, 256, 1, 3, 2, 28, 1, 0 }, { "resnet50", 256, 1024, 1, 1, 1, 14, 6, 1 }, { "resnet50", 512, 1024, 1, 1, 2, 28, 1, 0 }, { "resnet50", 1024, 256, 1, 1, 1, 14, 5, 0 }, { "resnet50", 256, 256, 1, 3, 1, 14, 5, 0 },
    { "resnet50", 1024, 512, 1, 1, 1, 14, 1, 0 }, { "resnet50", 512, 512, 1, 3, 2, 14, 1, 0 }, { "resnet50", 512, 2048, 1, 1, 1, 7, 3, 1 }, { "resnet50", 1024, 2048, 1, 1, 2, 14, 1, 0 }, { "resnet50", 2048, 512, 1, 1, 1, 7, 2, 0 }, { "resnet50", 512, 512, 1, 3, 1, 7, 2, 0 },
    { "mobilenet", 3, 32, 1, 3, 2, 224, 1, 0 }, { "mobilenet", 32, 32, 32, 3, 1, 112, 1, 0 }, { "mobilenet", 32, 16, 1, 1, 1, 112, 1, 0 }, { "mobilenet", 16, 96, 1, 1, 1, 112, 1, 0 }, { "mobilenet", 96, 96, 96, 3, 2, 112, 1, 0 }, { "mobilenet", 96, 24, 1, 1, 1, 56, 1, 0 },
    { "mobilenet", 24, 144, 1, 1, 1, 56, 2, 0 }, { "mobilenet", 144, 144, 144, 3, 1, 56, 1, 0 }, { "mobilenet", 144, 24, 1, 1, 1, 56, 1, 1 }, { "mobilenet", 144, 144, 144, 3, 2, 56, 1, 0 }, { "mobilenet", 144, 32, 1, 1, 1, 28, 1, 0 }, { "mobilenet", 32, 192, 1, 1, 1, 28, 3, 0 },
    { "mobilenet", 192, 192, 192, 3, 1, 28, 2, 0 }, { "mobilenet", 192, 32, 1, 1, 1, 28, 2, 1 }, { "mobilenet", 192, 192, 192, 3, 2, 28, 1, 0 }, { "mobilenet", 192, 64, 1, 1, 1, 14, 1, 0 }, { "mobilenet", 64, 384, 1, 1, 1, 14, 4, 0 }, { "mobilenet", 384, 384, 384, 3, 1, 14, 4, 0 },
    { "mobilenet", 384, 64, 1, 1, 1, 14, 3, 1 }, { "mobilenet", 384, 96, 1, 1, 1, 14, 1, 0 }, { "mobilenet", 96, 576, 1, 1, 1, 14, 3, 0 }, { "mobilenet", 576, 576, 576, 3, 1, 14, 2, 0 }, { "mobilenet", 576, 96, 1, 1, 1, 14, 2, 1 }, { "mobilenet", 576, 576, 576, 3, 2, 14, 1, 0 },
    { "mobilenet", 576, 160, 1, 1, 1, 7, 1, 0 }, { "mobilenet", 160, 960, 1, 1, 1, 7, 3, 0 }, { "mobilenet", 960, 960, 960, 3, 1, 7, 3, 0 }, { "mobilenet", 960, 160, 1, 1, 1, 7, 2, 1 }, { "mobilenet", 960, 320, 1, 1, 1, 7, 1, 0 }, { "mobilenet", 320, 1280, 1, 1, 1, 7, 1, 0 },
    { "alexnet", 3, 64, 1, 11, 4, 224, 1, 0 }, { "alexnet", 64, 192, 1, 5, 1, 27, 1, 0 }, { "alexnet", 192, 384, 1, 3, 1, 13, 1, 0 }, { "alexnet", 384, 256, 1, 3, 1, 13, 1, 0 }, { "alexnet", 256, 256, 1, 3, 1, 13, 1, 0 },
    { "vgg16", 3, 64, 1, 3, 1, 224, 1, 0 }, { "vgg16", 64, 64, 1, 3, 1, 224, 1, 0 }, { "vgg16", 64, 128, 1, 3, 1, 112, 1, 0 }, { "vgg16", 128, 128, 1, 3, 1, 112, 1, 0 }, { "vgg16", 128, 256, 1, 3, 1, 56, 1, 0 },
    { "vgg16", 256, 256, 1, 3, 1, 56, 2, 0 }, { "vgg16", 256, 512, 1, 3, 1, 28, 1, 0 }, { "vgg16", 512, 512, 1, 3, 1, 28, 2, 0 }, { "vgg16", 512, 512, 1, 3, 1, 14, 3, 0 },
};

static double bench_layer(const struct kernels *k, int threads, const struct layer *l, enum conv_choice choice, char *name, size_t name_size)
{
    struct conv_spec s = { .in_c = l->in_c, .out_c = l->out_c, .groups = l->groups, .kh = l->k, .kw = l->k, .stride_h = l->stride, .stride_w = l->stride, .dilation_h = 1, .dilation_w = 1,
                           .has_residual = l->residual, .act = { .kind = ACT_RELU }, .hint_h = l->size, .hint_w = l->size, .hint_n_max = 8 };
    const int pad = (l->k - 1) / 2;
    struct window2d w = { .n = 1, .h = l->size, .w = l->size, .c = l->in_c, .kh = l->k, .kw = l->k, .stride_h = l->stride, .stride_w = l->stride, .dilation_h = 1, .dilation_w = 1, .pad_top = pad, .pad_left = pad, .pad_bottom = pad, .pad_right = pad };
    w.out_h = w.out_w = (l->size + 2 * pad - l->k) / l->stride + 1;
    float *weight = fresh((size_t)(l->out_c * (l->in_c / l->groups) * l->k * l->k)), *bias = fresh((size_t)l->out_c), *x = fresh((size_t)(w.h * w.w * w.c)), *y = fresh((size_t)(w.out_h * w.out_w * l->out_c));
    struct err err;
    struct conv_layer *layer;
    struct conv_plan *plan;
    double result = -1;
    snprintf(name, name_size, "-");
    if (conv_layer_open_as(&layer, &s, weight, bias, k, threads, choice, &err) == ST_OK) {
        snprintf(name, name_size, "%s", conv_layer_kernel(layer));
        if (conv_plan_open(&plan, layer, &w, threads, &err) == ST_OK) {
            void *scratch = aligned_alloc(64, (conv_plan_scratch(plan) + 127) & ~(uint64_t)63);
            BEST(t, conv_plan_run(plan, y, x, l->residual ? y : NULL, scratch, &err))
            result = t;
            free(scratch);
            conv_plan_close(plan);
        }
        conv_layer_close(layer);
    }
    free(weight), free(bias), free(x), free(y);
    return result;
}

static void bench_conv(const struct kernels *k, int threads)
{
    double ours = 0, theirs = 0, best = 0, rule = 0;
    if (k->level < cpu_level_detect()) return;          /* oneDNN runs at one level per process */
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        const struct layer *l = layers + i;
        char name[64], own[64], chosen[64];
        double a = bench_layer(k, threads, l, l->k == 3 && l->stride == 1 && l->groups == 1 ? CONV_BY_WINOGRAD : CONV_BY_OWN, own, sizeof own), b = bench_layer(k, threads, l, CONV_BY_ONEDNN, name, sizeof name), c = bench_layer(k, threads, l, CONV_BY_RULE, chosen, sizeof chosen);
        const int out = (l->size + 2 * ((l->k - 1) / 2) - l->k) / l->stride + 1;
        const double flop = 2.0 * out * out * l->out_c * (l->in_c / l->groups) * l->k * l->k;
        printf("conv    %-9s %4d>%4d g%-3d %2dx%-2d /%d at %3d%s x%d  own %7.3f ms %6.1f GFLOP/s (%s)  onednn %7.3f ms %6.1f GFLOP/s (%s)  rule %7.3f ms (%s)\n", l->net, l->in_c, l->out_c, l->groups, l->k, l->k, l->stride, l->size,
               l->residual ? "+r" : "  ", l->times, a * 1e3, 1e-9 * flop / a, own, b * 1e3, 1e-9 * flop / b, name, c * 1e3, chosen);
        ours += a * l->times, theirs += (b < 0 ? a : b) * l->times, best += (b < 0 || a < b ? a : b) * l->times, rule += c * l->times;
        if (i + 1 == sizeof layers / sizeof *layers || strcmp(l->net, l[1].net)) {
            printf("conv    %-9s threads %d in all: own %.2f ms, onednn %.2f ms, better of both %.2f ms, rule %.2f ms\n", l->net, threads, ours * 1e3, theirs * 1e3, best * 1e3, rule * 1e3);
            ours = theirs = best = rule = 0;
        }
    }
}

enum { CHAIN_MAX = 64, CHAIN_ROUNDS = 25 };
/* Medians of nine runs each, in turns: the two differ less than the machine from one minute to the next. */
static int by_time(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static void bench_tiles(const struct kernels *k, int threads)
{
    static const struct { int in_c, out_c, h, w, taps, n; } shapes[] = {
        { 1280, 1280, 8, 8, 3, 2 }, { 2560, 1280, 8, 8, 3, 2 }, { 1280, 1280, 16, 16, 3, 2 }, { 2560, 1280, 16, 16, 3, 2 }, { 640, 640, 32, 32, 3, 2 }, { 1280, 1280, 32, 32, 3, 2 }, { 1920, 640, 32, 32, 3, 2 }, { 320, 320, 64, 64, 3, 2 },
        { 640, 320, 64, 64, 3, 2 }, { 960, 320, 64, 64, 3, 2 }, { 512, 512, 128, 128, 3, 1 }, { 256, 256, 256, 256, 3, 1 }, { 128, 128, 512, 512, 3, 1 }, { 64, 64, 56, 56, 3, 1 }, { 128, 128, 28, 28, 3, 1 }, { 256, 256, 14, 14, 3, 1 }, { 512, 512, 7, 7, 3, 1 },
        { 64, 64, 64, 64, 3, 2 }, { 128, 64, 64, 64, 3, 2 }, { 128, 128, 32, 32, 3, 2 }, { 192, 192, 16, 16, 3, 2 }, { 256, 256, 8, 8, 3, 2 }, { 64, 32, 256, 256, 3, 1 }, { 32, 32, 256, 256, 3, 1 }, { 64, 64, 128, 128, 3, 1 }, { 512, 256, 32, 32, 3, 1 },
        { 64, 256, 56, 56, 1, 1 }, { 256, 64, 56, 56, 1, 1 }, { 512, 128, 28, 28, 1, 1 }, { 256, 1024, 14, 14, 1, 1 }, { 2048, 512, 7, 7, 1, 1 }, { 96, 24, 56, 56, 1, 1 }, { 32, 192, 28, 28, 1, 1 },
        { 768, 768, 128, 1, 1, 1 }, { 768, 3072, 128, 1, 1, 1 }, { 3072, 768, 128, 1, 1, 1 }, { 768, 3072, 197, 1, 1, 1 }, { 3072, 768, 197, 1, 1, 1 } };
    const bool tiles = k->level >= CPU_AMX;
    if (!k->bf16) return;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int64_t in = shapes[i].in_c, out = shapes[i].out_c, high = shapes[i].h, wide = shapes[i].w, pixels = high * wide, n = shapes[i].n;
        const int taps = shapes[i].taps, pad = taps / 2;
        if (!tiles && taps != 3) continue;
        const struct conv_spec s = { .in_c = in, .out_c = out, .groups = 1, .kh = taps, .kw = taps, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .bf16 = true, .x_bf16 = true, .y_bf16 = true, .hint_h = high, .hint_w = wide, .hint_n_max = n };
        const struct window2d w = { .n = n, .h = high, .w = wide, .c = in, .kh = taps, .kw = taps, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .pad_top = pad, .pad_left = pad, .pad_bottom = pad, .pad_right = pad, .out_h = high, .out_w = wide };
        float *weight = fresh((size_t)(out * in * taps * taps)), *x = fresh((size_t)(n * pixels * in)), *y = fresh((size_t)(n * pixels * out));
        void *halves = fresh((size_t)(n * pixels * in));
        k->round_bf16(halves, x, n * pixels * in, threads);
        struct conv_layer *layer[2];
        struct conv_plan *plan[2];
        void *scratch[2];
        double times[2][9];
        struct err err;
        for (int by = 0; by < 2; by++) {
            if (conv_layer_open_as(&layer[by], &s, weight, NULL, k, threads, by ? CONV_BY_ONEDNN : tiles ? CONV_BY_TILES : CONV_BY_WINOGRAD_BF16, &err) || conv_plan_open(&plan[by], layer[by], &w, threads, &err)) exit(1);
            scratch[by] = aligned_alloc(64, (conv_plan_scratch(plan[by]) + 127) & ~(uint64_t)63);
        }
        for (int r = 0; r < 9; r++)
            for (int by = 0; by < 2; by++) {
                const double began = now();
                if (conv_plan_run(plan[by], y, halves, NULL, scratch[by], &err)) exit(1);
                times[by][r] = now() - began;
            }
        for (int by = 0; by < 2; by++) {
            qsort(times[by], 9, sizeof(double), by_time);
            conv_plan_close(plan[by]), conv_layer_close(layer[by]), free(scratch[by]);
        }
        printf("tiles   threads %d  %lld x %4lld>%4lld %dx%d at %3lldx%3lld  %s %7.2f ms %6.0f GFLOP/s  onednn %7.2f ms  ratio %.2f\n", threads, (long long)n, (long long)in, (long long)out, taps, taps, (long long)high, (long long)wide, tiles ? "tiles" : "winograd", times[0][4] * 1e3,
               2e-9 * (double)(n * pixels * out * in * taps * taps) / times[0][4], times[1][4] * 1e3, times[1][4] / times[0][4]);
        free(weight), free(x), free(y), free(halves);
    }
}

struct link { const struct layer *l; struct conv_layer *layer[2]; struct conv_plan *plan[2]; double best[2]; };

static void chain_open(struct link *c, const struct kernels *k, int threads, const struct layer *l)
{
    struct conv_spec s = { .in_c = l->in_c, .out_c = l->out_c, .groups = l->groups, .kh = l->k, .kw = l->k, .stride_h = l->stride, .stride_w = l->stride, .dilation_h = 1, .dilation_w = 1,
                           .has_residual = l->residual, .act = { .kind = ACT_RELU }, .hint_h = l->size, .hint_w = l->size, .hint_n_max = 2 };
    const int pad = (l->k - 1) / 2, out = (l->size + 2 * pad - l->k) / l->stride + 1;
    const struct window2d w = { .n = 1, .h = l->size, .w = l->size, .c = l->in_c, .out_h = out, .out_w = out, .kh = l->k, .kw = l->k, .stride_h = l->stride, .stride_w = l->stride, .dilation_h = 1, .dilation_w = 1, .pad_top = pad, .pad_left = pad, .pad_bottom = pad, .pad_right = pad };
    float *weight = fresh((size_t)(l->out_c * (l->in_c / l->groups) * l->k * l->k)), *bias = fresh((size_t)l->out_c);
    struct err err = { 0 };
    *c = (struct link){ .l = l, .best = { 1e9, 1e9 } };
    for (int own = 0; own < 2; own++)
        if (conv_layer_open_as(&c->layer[own], &s, weight, bias, k, threads, !own ? CONV_BY_ONEDNN : l->k == 3 && l->stride == 1 && l->groups == 1 ? CONV_BY_WINOGRAD : CONV_BY_OWN, &err) || conv_plan_open(&c->plan[own], c->layer[own], &w, threads, &err)) {
            fprintf(stderr, "kernels_bench: %s\n", err.text);
            exit(1);
        }
    free(weight), free(bias);
}

static void bench_chain(const struct kernels *k, int threads, const char *net)
{
    static struct link chain[CHAIN_MAX];
    int n = 0;
    if (k->level < cpu_level_detect()) return;
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        for (int t = 0; t < layers[i].times && !strcmp(layers[i].net, net) && n < CHAIN_MAX; t++) chain_open(chain + n++, k, threads, layers + i);
    const size_t largest = 4 << 20;
    float *x = fresh(largest), *y = fresh(largest);
    char *scratch = aligned_alloc(64, 64 << 20);
    struct err err = { 0 };
    for (int round = 0; round < CHAIN_ROUNDS; round++)
        for (int own = 0; own < 2; own++)
            for (int i = 0; i < n; i++) {
                float *in = i % 2 ? y : x, *out = i % 2 ? x : y;
                double t = now();
                if (conv_plan_run(chain[i].plan[own], out, in, chain[i].l->residual ? out : NULL, scratch, &err)) exit(1);
                t = now() - t;
                if (t < chain[i].best[own]) chain[i].best[own] = t;
            }
    double sum[2] = { 0, 0 }, best = 0;
    for (int i = 0; i < n; i++) {
        const struct layer *l = chain[i].l;
        const double flop = 2.0 * ((l->size - 1) / l->stride + 1) * ((l->size - 1) / l->stride + 1) * l->out_c * (l->in_c / l->groups) * l->k * l->k, a = chain[i].best[0], b = chain[i].best[1];
        printf("chain   %-9s threads %d %4d>%4d %2dx%-2d /%d at %3d%s  onednn %6.3f ms %6.1f GFLOP/s  own %6.3f ms %6.1f GFLOP/s%s\n", net, threads, l->in_c, l->out_c, l->k, l->k, l->stride, l->size, l->residual ? "+r" : "  ", a * 1e3,
               1e-9 * flop / a, b * 1e3, 1e-9 * flop / b, b < 0.97 * a ? "  <" : "");
        sum[0] += a, sum[1] += b, best += a < b ? a : b;
        for (int own = 0; own < 2; own++) conv_plan_close(chain[i].plan[own]), conv_layer_close(chain[i].layer[own]);
    }
    printf("chain   %-9s threads %d in all: onednn %.2f ms, own %.2f ms, better of both %.2f ms\n", net, threads, sum[0] * 1e3, sum[1] * 1e3, best * 1e3);
    free(x), free(y), free(scratch);
}

static void bench_small(const struct kernels *k, int threads)
{
    const int64_t n = 56 * 56 * 256;
    float *x = fresh((size_t)n), *y = fresh((size_t)n), *z = fresh((size_t)n);
    const struct window2d pool = { .n = 1, .h = 112, .w = 112, .c = 64, .out_h = 56, .out_w = 56, .kh = 3, .kw = 3, .stride_h = 2, .stride_w = 2, .dilation_h = 1, .dilation_w = 1, .pad_top = 1, .pad_left = 1, .pad_bottom = 1, .pad_right = 1 };
    const char *level = cpu_level_name(k->level);
#define SHOW(name, bytes, call)                                                                                    \
    do {                                                                                                           \
        BEST(t, call)                                                                                              \
        printf("%-14s %-7s threads %d  %8.3f ms  %6.1f GB/s\n", name, level, threads, t * 1e3, 1e-9 * (double)(bytes) / t); \
    } while (0)
    SHOW("add", 12 * n, k->add_f32(y, x, z, n, threads));
    SHOW("relu", 8 * n, k->activate_f32(y, x, n, (struct activation_spec){ .kind = ACT_RELU }, threads));
    SHOW("sigmoid", 8 * n, k->activate_f32(y, x, n, (struct activation_spec){ .kind = ACT_SIGMOID }, threads));
    SHOW("gelu", 8 * n, k->activate_f32(y, x, n, (struct activation_spec){ .kind = ACT_GELU }, threads));
    SHOW("scale_shift", 8 * n, k->scale_shift_f32(y, x, z, z, 3136, 256, (struct activation_spec){ .kind = ACT_RELU }, threads));
    SHOW("softmax 1000", 8 * 800 * 1000, k->softmax_f32(y, x, 800, 1000, threads));
    SHOW("layer_norm 768", 8 * 1024 * 768, k->layer_norm_f32(y, x, z, z, 1024, 768, 1e-5f, threads));
    SHOW("max pool 3x3/2", 4 * 112 * 112 * 64, k->pool2d_f32(y, x, &pool, POOL_MAX, threads));
    SHOW("mean rows 49", 4 * 49 * 2048, k->mean_rows_f32(y, x, 1, 49, 2048, threads));
    SHOW("lrn 5", 8 * 27 * 27 * 256, k->lrn_f32(y, x, 27 * 27, 256, 5, 1e-4f, 0.75f, 2, threads));
    SHOW("nchw>nhwc 3", 8 * 3 * 224 * 224, k->transpose_2d(y, x, 1, 3, 224 * 224, 4, threads));
    SHOW("nchw>nhwc 256", 8 * 256 * 3136, k->transpose_2d(y, x, 1, 256, 3136, 4, threads));
#undef SHOW
    free(x), free(y), free(z);
}

enum { LINEAR_N = 4096, LINEAR_LAYERS = 16, LINEAR_M_MAX = 512 };

static void bench_linear_mode(const struct kernels *k, int threads, int type, enum linear_mode mode, const void *weight, const float *x, float *y)
{
    static const int64_t rows[] = { 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, LINEAR_M_MAX };
    static const char *const modes[] = { "f32", "fast", "invariant" };
    const struct block_format *f = block_format(type);
    struct linear_layer *layers_[LINEAR_LAYERS];
    struct err err = { 0 };
    const struct linear_spec spec = { .type = type, .weight = weight, .n = LINEAR_N, .k = LINEAR_N, .row_bytes = (int64_t)LINEAR_N / f->elements * f->bytes, .mode = mode, .level = k->level };
    for (int i = 0; i < LINEAR_LAYERS; i++)
        if (linear_open(layers_ + i, &spec, &err)) {
            fprintf(stderr, "kernels_bench: %s\n", err.text);
            exit(1);
        }
    printf("linear  %-7s %-9s threads %d (%s)", f->name, modes[mode], threads, linear_kernel(layers_[0]));
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const int64_t m = rows[r];
        if (m > 8 && k->level < CPU_AVX2) continue;
        void *scratch = aligned_alloc(64, (linear_scratch(layers_[0], m, threads) + 127) & ~(uint64_t)63);
        int i = 0;
        BEST(t, for (int n = 0; n < (m < 16 ? LINEAR_LAYERS : 1); n++) linear_run(layers_[i++ % LINEAR_LAYERS], y, LINEAR_N, x, LINEAR_N, m, NULL, scratch, threads))
        if (m < 16) t /= LINEAR_LAYERS;
        if (m < 8) printf("  m=%lld %.1f GB/s", (long long)m, 1e-9 * (double)spec.row_bytes * LINEAR_N / t);
        else printf("  m=%lld %.0f GFLOP/s", (long long)m, 2e-9 * (double)(m * LINEAR_N) * LINEAR_N / t);
        fflush(stdout);
        free(scratch);
    }
    printf("\n");
    for (int i = 0; i < LINEAR_LAYERS; i++) linear_close(layers_[i]);
}

static const char *only_type;            /* --type: of the weights */

static void bench_linear(const struct kernels *k, int threads)
{
    static const int types[] = { BLOCK_Q4_K, BLOCK_Q6_K, BLOCK_Q8_0, BLOCK_Q4_0, BLOCK_Q5_K, BLOCK_IQ4_XS, BLOCK_MXFP4, BLOCK_Q3_K, BLOCK_Q2_K, BLOCK_IQ3_S, BLOCK_IQ3_XXS, BLOCK_IQ2_S, BLOCK_IQ2_XXS, BLOCK_IQ1_M, BLOCK_IQ1_S, BLOCK_TQ2_0, BLOCK_F16, BLOCK_BF16, BLOCK_F32 };
    float *x = fresh((size_t)LINEAR_M_MAX * LINEAR_N), *y = fresh((size_t)LINEAR_M_MAX * LINEAR_N), *row = fresh(LINEAR_N);
    char *weight = aligned_alloc(64, (size_t)LINEAR_N * LINEAR_N * 4);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        const struct block_format *f = block_format(types[t]);
        const size_t bytes = (size_t)(LINEAR_N / f->elements * f->bytes);
        if (only_type && strcmp(only_type, f->name)) continue;
        if (f->encode) f->encode(weight, row, LINEAR_N);
        else memset(weight, 0x11, bytes);                       /* indices, signs and scales of some kind */
        for (size_t r = 1; r < LINEAR_N; r++) memcpy(weight + r * bytes, weight, bytes);
        bench_linear_mode(k, threads, types[t], LINEAR_FAST, weight, x, y);
        if (types[t] == BLOCK_Q4_K || types[t] == BLOCK_BF16) bench_linear_mode(k, threads, types[t], LINEAR_INVARIANT, weight, x, y), bench_linear_mode(k, threads, types[t], LINEAR_F32, weight, x, y);
    }
    free(x), free(y), free(row), free(weight);
}

static void bench_attention(const struct kernels *kernels, int threads)
{
    enum { HEADS = 32, KV_HEADS = 8, DIM = 128, POSITIONS = 2048, CHUNK = 512, WIDTH = HEADS * DIM };
    static const int types[] = { BLOCK_F32, BLOCK_F16, BLOCK_Q8_0 };
    struct llm_kernels k;
    llm_kernels_fill(&k, kernels->level);
    if (kernels->level == CPU_SCALAR) return;
    float *q = fresh((size_t)CHUNK * WIDTH), *y = fresh((size_t)CHUNK * WIDTH), *kv = fresh((size_t)POSITIONS * KV_HEADS * DIM);
    int32_t pages[POSITIONS / ATTENTION_PAGE];
    for (int i = 0; i < POSITIONS / ATTENTION_PAGE; i++) pages[i] = i;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct attention_spec s = { .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .head_dim_v = DIM, .kv_type = types[i], .scale = 0.088f, .causal = true };
        const uint64_t page = attention_page_bytes(&s);
        char *pool = aligned_alloc(64, page * (POSITIONS / ATTENTION_PAGE)), *scratch = aligned_alloc(64, attention_scratch(&s, threads));
        struct attention_spec lone = s;                             /* one head of keys for all, as Falcon and StarCoder have: its pages are an eighth of these */
        lone.kv_heads = 1;
        char *lone_scratch = aligned_alloc(64, attention_scratch(&lone, threads));
        const struct attention_row all = { 0, POSITIONS, 0, pages }, one = { 0, 1, POSITIONS - 1, pages }, chunk = { 0, CHUNK, POSITIONS - CHUNK, pages };
        BEST(store, k.attention_store(pool, page, &s, kv, KV_HEADS * DIM, kv, KV_HEADS * DIM, &all, 1, threads))
        BEST(decode, k.attention_paged(y, WIDTH, q, WIDTH, pool, page, &s, &one, 1, scratch, threads))
        BEST(single, k.attention_paged(y, WIDTH, q, WIDTH, pool, page, &lone, &one, 1, lone_scratch, threads))
        BEST(prefill, k.attention_paged(y, WIDTH, q, WIDTH, pool, page, &s, &chunk, 1, scratch, threads))
        printf("attention %-7s threads %d  %-5s  store %6.2f us/position  decode at 2048 %7.1f us %5.1f GB/s, one head of keys %7.1f us  512 rows to 2048 %6.1f ms %6.1f GFLOP/s\n", cpu_level_name(k.level), threads, block_format(types[i])->name,
               store * 1e6 / POSITIONS, decode * 1e6, 1e-9 * (double)page * (POSITIONS / ATTENTION_PAGE) / decode, single * 1e6, prefill * 1e3, 4e-9 * CHUNK * (POSITIONS - CHUNK / 2.0) * WIDTH / prefill);
        free(pool), free(scratch), free(lone_scratch);
    }
    free(q), free(y), free(kv);
}

/* Two streams a thread, as the kernels that decode have. */
enum { MEMORY_BYTES = 512 << 20 };
struct memory { const char *bytes; uint64_t sums[64]; };

static void memory_part(void *ctx, int part, int parts)
{
    struct memory *m = ctx;
    const size_t each = (size_t)MEMORY_BYTES / (size_t)parts & ~(size_t)4095, half = each / 2;
    const char *from = m->bytes + (size_t)part * each;
    uint64_t sum[16] = { 0 };
    for (size_t at = 0; at < half; at += 64) {
        __builtin_prefetch(from + at + 4096, 0, 3), __builtin_prefetch(from + half + at + 4096, 0, 3);
        for (int i = 0; i < 8; i++) {
            uint64_t a, b;
            memcpy(&a, from + at + 8 * i, 8), memcpy(&b, from + half + at + 8 * i, 8);
            sum[i] += a, sum[8 + i] += b;
        }
    }
    for (int i = 0; i < 16; i++) m->sums[part] += sum[i];
}

static void bench_memory(int threads)
{
    static struct memory m;
    char *bytes = aligned_alloc(4096, MEMORY_BYTES);
    if (!bytes || threads > 64) abort();
    memset(bytes, 1, MEMORY_BYTES);
    m.bytes = bytes;
    double best = 1e9;
    for (int i = 0; i < 8; i++) {
        const double started = now();
        parallel_for(threads, threads, memory_part, &m);
        if (now() - started < best) best = now() - started;
    }
    printf("memory threads %d  read %.1f GB/s\n", threads, 1e-9 * MEMORY_BYTES / best);
    free(bytes);
}

int main(int argc, char **argv)
{
    int threads = 2, least = 1, all = 1;
    enum cpu_level top = cpu_level_detect(), bottom = CPU_SCALAR;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--only-threads") && i + 1 < argc) threads = least = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--type") && i + 1 < argc) only_type = argv[++i];
        else if (!strcmp(argv[i], "--level") && i + 1 < argc && cpu_level_from_name(argv[i + 1], &top)) bottom = top, i++;
        else all = 0;
    }
    for (int level = (int)top; level >= (int)bottom; level--) {
        struct kernels k;
        kernels_fill(&k, (enum cpu_level)level);
        for (int t = least; t <= threads; t += threads - least ? threads - least : 1) {
            for (int i = 1; i < argc && level == (int)top; i++)
                if (!strcmp(argv[i], "memory")) bench_memory(t);
            for (int i = 1; i < argc || (all && i == 1); i++) {
                if (all || !strcmp(argv[i], "gemm")) bench_gemm(&k, t);
                if (all || !strcmp(argv[i], "pruned")) bench_pruned(&k, t);
                if (all || !strcmp(argv[i], "small")) bench_small(&k, t);
                if (all || !strcmp(argv[i], "linear")) bench_linear(&k, t);
                if (all || !strcmp(argv[i], "attention")) bench_attention(&k, t);
                if (all || !strcmp(argv[i], "conv")) bench_conv(&k, t);
                if (all || !strcmp(argv[i], "tiles")) bench_tiles(&k, t);
                if (all || !strcmp(argv[i], "chain")) bench_chain(&k, t, "resnet50"), bench_chain(&k, t, "mobilenet"), bench_chain(&k, t, "vgg16");
                if (all) break;
            }
        }
    }
    return 0;
}
