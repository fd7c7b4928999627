/* Linear layers: every type, mode and level against the definition (weights decoded, one fused multiply-add per k in ascending order). Not under
 * ThreadSanitizer, which does not know libgomp. */
#include <math.h>
#include <stdlib.h>

#include "kernels/blocks.h"
#include "kernels/linear.h"
#include "kernels/linear_panels.h"
#include "tests/test.h"


struct sample { int64_t n, k, row_bytes; uint8_t *packed; float *decoded; };      /* decoded [n, k] */

/* Rows 3 bytes further apart than they need be, at an odd address. Without an encoder: random blocks whose numbers are of a likely size. */
static struct sample sample_make(int type, int64_t n, int64_t k)
{
    const struct block_format *f = block_format(type);
    struct sample s = { .n = n, .k = k, .row_bytes = k / f->elements * f->bytes + 3 };
    s.packed = malloc((size_t)(n * s.row_bytes) + 1);
    s.decoded = malloc((size_t)(n * k) * sizeof *s.decoded);
    float *x = malloc((size_t)k * sizeof *x);
    for (int64_t r = 0; r < n; r++) {
        uint8_t *row = s.packed + 1 + r * s.row_bytes;
        if (f->encode) {
            test_fill(x, (size_t)k, -1, 1);
            for (int64_t i = 0; i < k; i++) x[i] = x[i] * (r % 3 ? 0.1f : 1.0f) + (r % 5 ? 0 : 0.5f);
            f->encode(row, x, k);
        }
        for (int64_t b = 0; !f->encode && b < k / f->elements; b++)
            for (float top = 1e9f; !(top < 8 && top > 1e-3f);) {
                for (int i = 0; i < f->bytes; i++) row[b * f->bytes + i] = (uint8_t)test_random();
                f->decode(x, row + b * f->bytes, f->elements);
                top = 0;
                for (int i = 0; i < f->elements; i++) top = fabsf(x[i]) < 1e9f ? fmaxf(top, fabsf(x[i])) : 1e9f;
            }
        f->decode(s.decoded + r * k, row, k);
    }
    free(x);
    return s;
}
static void sample_free(struct sample *s) { free(s->packed), free(s->decoded); }

static struct linear_layer *open_sample(const struct sample *s, int type, enum linear_mode mode, int level)
{
    const struct linear_spec spec = { .type = type, .weight = s->packed + 1, .n = s->n, .k = s->k, .row_bytes = s->row_bytes, .mode = mode, .level = (enum cpu_level)level };
    struct linear_layer *l = NULL;
    struct err err = { 0 };
    if (linear_open(&l, &spec, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    else if (linear_bytes(l) != linear_open_bytes(&spec)) test_fail(__FILE__, __LINE__, "linear_open_bytes is not what it holds");
    return l;
}

static void run(const struct linear_layer *l, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep, int threads)
{
    const uint64_t bytes = linear_scratch(l, m, threads);
    char *scratch = aligned_alloc(64, (bytes + 127) & ~(uint64_t)63);
    memset(scratch, 0x5a, bytes + 1);
    linear_run(l, y, ldy, x, ldx, m, ep, scratch, threads);
    if (scratch[bytes] != 0x5a && bytes % 64) test_fail(__FILE__, __LINE__, "it wrote past its scratch");
    free(scratch);
}

static void reference(float *y, const struct sample *s, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < s->n; j++) {
            float sum = 0;
            for (int64_t c = 0; c < s->k; c++) sum = fmaf(x[i * ldx + c], s->decoded[j * s->k + c], sum);
            if (ep && ep->bias) sum += ep->bias[j];
            if (ep && ep->residual) sum += ep->residual[i * ep->ldr + j];
            if (ep && ep->act.kind == ACT_RELU && !(sum > 0)) sum = 0;
            y[i * s->n + j] = sum;
        }
}

static const int64_t rows[] = { 1, 2, 3, 5, 8, 16, 17, 30, 33 };
enum { ROWS_MAX = 33, ROW_COUNT = sizeof rows / sizeof *rows };

/* For each type a depth that is no power of two, and columns that fill no panel. */
static int64_t depth_for(const struct block_format *f) { return f->elements == 1 ? 301 : f->elements == 32 ? 32 * 9 : 256 * 3; }

TEST(f32_mode_has_the_bits_of_the_definition)
{
    for (int type = 0; type < BLOCK_TYPE_END; type++) {
        const struct block_format *f = block_format(type);
        if (!f) continue;
        struct sample s = sample_make(type, 75, depth_for(f));
        const int64_t ldx = s.k + 5;
        float *x = malloc((size_t)(ROWS_MAX * ldx) * sizeof *x), *want = malloc((size_t)(ROWS_MAX * s.n) * sizeof *want), *got = malloc((size_t)(ROWS_MAX * s.n) * sizeof *got);
        float *bias = malloc((size_t)s.n * sizeof *bias);
        test_fill(x, (size_t)(ROWS_MAX * ldx), -1, 1);
        test_fill(bias, (size_t)s.n, -1, 1);
        const struct gemm_epilogue ep = { .bias = bias, .act = { .kind = ACT_RELU } };
        reference(want, &s, x, ldx, ROWS_MAX, &ep);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct linear_layer *l = open_sample(&s, type, LINEAR_F32, level);
            if (!l) continue;
            for (int r = 0; r < ROW_COUNT; r++) {
                run(l, got, s.n, x, ldx, rows[r], &ep, 1 + r % 2);
                if (memcmp(got, want, (size_t)(rows[r] * s.n) * sizeof *got)) test_fail(__FILE__, __LINE__, "%s at %s, %lld rows: the bits differ", linear_kernel(l), cpu_level_name((enum cpu_level)level), (long long)rows[r]);
            }
            linear_close(l);
        }
        free(x), free(want), free(got), free(bias);
        sample_free(&s);
    }
}

TEST(f32_mode_by_several_slabs_and_a_residual_in_place)
{
    enum { N = 107, K = 8192, M = 3 };
    struct sample s = sample_make(BLOCK_Q8_0, N, K);
    float *x = malloc(M * K * sizeof *x), *want = malloc(M * N * sizeof *want), *got = malloc(M * N * sizeof *got), *residual = malloc(M * N * sizeof *residual);
    test_fill(x, M * K, -1, 1);
    test_fill(residual, M * N, -1, 1);
    struct gemm_epilogue ep = { .residual = residual, .ldr = N };
    reference(want, &s, x, K, M, &ep);
    ep.residual = got;
    struct linear_layer *l = open_sample(&s, BLOCK_Q8_0, LINEAR_F32, CPU_AMX);
    for (int threads = 1; threads <= 3; threads++) {
        memcpy(got, residual, M * N * sizeof *got);
        run(l, got, N, x, K, M, &ep, threads);
        CHECK(!memcmp(got, want, M * N * sizeof *got));
    }
    linear_close(l);
    free(x), free(want), free(got), free(residual);
    sample_free(&s);
}

/* Deep enough that sums are put down and taken up again, and that x goes by in slabs of k, with all that an epilogue has. */
TEST(fast_mode_with_many_rows_a_deep_sum_and_a_residual_in_place)
{
    enum { N = 109, K = 2048 + 768, M = 300 };
    static const int types[] = { BLOCK_Q4_K, BLOCK_Q6_K, BLOCK_Q8_0, BLOCK_F16, BLOCK_BF16 };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct sample s = sample_make(types[t], N, K);
        float *x = malloc(M * K * sizeof *x), *want = malloc(M * N * sizeof *want), *got = malloc(M * N * sizeof *got), *residual = malloc(M * N * sizeof *residual), bias[N];
        test_fill(x, M * K, -1, 1);
        test_fill(residual, M * N, -1, 1);
        test_fill(bias, N, -1, 1);
        struct gemm_epilogue ep = { .bias = bias, .residual = residual, .ldr = N, .act = { .kind = ACT_RELU } };
        reference(want, &s, x, K, M, &ep);
        for (int in_place = 0; in_place < 2; in_place++) {
            struct linear_layer *l = open_sample(&s, types[t], LINEAR_FAST, CPU_AMX);
            ep.residual = in_place ? got : residual;
            memcpy(got, residual, M * N * sizeof *got);
            run(l, got, N, x, K, M, &ep, 2);
            CHECK_CLOSE(got, want, M * N, cpu_level_detect() >= CPU_AMX ? 0.25f : 0.4f);      /* 2816 terms, each off by up to 2^-8; without tiles of a number up to 1.5: 0.09 in the mean square */
            linear_close(l);
        }
        free(x), free(want), free(got), free(residual);
        sample_free(&s);
    }
}

/* Rows of W from a hundred-thousandth to a thousand, some all zeros (of which MXFP4 makes the least number it has), and in each one block a hundred times the others: tiles are made in half precision, which has few exponents. Half of the most that rounding can do:
 * a sum is mostly of 32 numbers, whose errors average less than those of many. */
TEST(fast_mode_with_rows_of_very_different_sizes)
{
    enum { N = 52, K = 512 + 256, M = 100 };
    static const int64_t some[] = { 17, 32, 33, 48, M };
    float *x = malloc(M * K * sizeof *x), *want = malloc(M * N * sizeof *want), *got = malloc(M * N * sizeof *got), *row = malloc(K * sizeof *row);
    test_fill(x, M * K, -1, 1);
    for (int type = 0; type < BLOCK_TYPE_END; type++) {
        const struct block_format *f = block_format(type);
        if (!f || !f->encode || f->elements == 1) continue;
        struct sample s = sample_make(type, N, K);
        float limit[N] = { 0 };
        for (int64_t r = 0; r < N; r++) {
            test_fill(row, K, -1, 1);
            for (int64_t c = 0; c < K; c++) row[c] *= r % 10 == 9 ? 0 : powf(10, (float)(r % 10) - 5) * (c / 32 == r % 24 ? 1 : 0.01f);
            f->encode(s.packed + 1 + r * s.row_bytes, row, K);
            f->decode(s.decoded + r * K, s.packed + 1 + r * s.row_bytes, K);
            for (int64_t c = 0; c < K; c++) limit[r] += fabsf(s.decoded[r * K + c]) / 256;
        }
        reference(want, &s, x, K, M, NULL);
        struct linear_layer *l = open_sample(&s, type, LINEAR_FAST, CPU_AMX);
        for (size_t i = 0; l && i < sizeof some / sizeof *some; i++) {
            run(l, got, N, x, K, some[i], NULL, 2);
            for (int64_t y = 0; y < some[i] * N; y++)
                if (!(fabsf(got[y] - want[y]) <= 0.5f * limit[y % N] + 1e-30f)) {
                    test_fail(__FILE__, __LINE__, "%s, %lld rows: number %lld is %g where %g is right and %g too far", linear_kernel(l), (long long)some[i], (long long)y, (double)got[y], (double)want[y], 0.5 * (double)limit[y % N]);
                    break;
                }
        }
        linear_close(l);
        sample_free(&s);
    }
    free(x), free(want), free(got), free(row);
}

/* What rounding x to 8 bits in blocks of 32 may cost: each term is off by at most half a step (1/254 of its block's largest) times the weight. As errors are
 * random, a quarter of that sum is allowed for; bfloat16 in its place has 2^-8 of each term. */
TEST(fast_and_invariant_modes_are_near_the_definition)
{
    for (int type = 0; type < BLOCK_TYPE_END; type++) {
        const struct block_format *f = block_format(type);
        if (!f) continue;
        struct sample s = sample_make(type, 75, depth_for(f));
        float *x = malloc((size_t)(ROWS_MAX * s.k) * sizeof *x), *want = malloc((size_t)(ROWS_MAX * s.n) * sizeof *want), *got = malloc((size_t)(ROWS_MAX * s.n) * sizeof *got);
        test_fill(x, (size_t)(ROWS_MAX * s.k), -1, 1);
        float *limit = calloc((size_t)s.n, sizeof *limit);
        for (int64_t j = 0; j < s.n; j++)
            for (int64_t c = 0; c < s.k; c++) limit[j] += fabsf(s.decoded[j * s.k + c]) / 256;
        reference(want, &s, x, s.k, ROWS_MAX, NULL);
        for (int mode = LINEAR_FAST; mode <= LINEAR_INVARIANT; mode++)
            for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
                struct linear_layer *l = open_sample(&s, type, (enum linear_mode)mode, level);
                for (int r = 0; l && r < ROW_COUNT; r++) {
                    run(l, got, s.n, x, s.k, rows[r], NULL, 1 + r % 2);
                    double worst = 0;
                    for (int64_t i = 0; i < rows[r] * s.n; i++) worst = test_worse(worst, (double)(fabsf(got[i] - want[i]) / limit[i % s.n]));
                    if (!(worst < 0.25)) test_fail(__FILE__, __LINE__, "%s, %lld rows: off by %.3f of the most that rounding can do", linear_kernel(l), (long long)rows[r], worst);
                }
                linear_close(l);
            }
        free(x), free(want), free(got), free(limit);
        sample_free(&s);
    }
}

TEST(invariant_mode_gives_a_row_the_same_bits_alone_and_among_others)
{
    for (int type = 0; type < BLOCK_TYPE_END; type++) {
        const struct block_format *f = block_format(type);
        if (!f) continue;
        struct sample s = sample_make(type, 117, depth_for(f));
        float *x = malloc((size_t)(ROWS_MAX * s.k) * sizeof *x), *alone = malloc((size_t)(ROWS_MAX * s.n) * sizeof *alone), *among = malloc((size_t)(ROWS_MAX * s.n) * sizeof *among);
        test_fill(x, (size_t)(ROWS_MAX * s.k), -1, 1);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct linear_layer *l = open_sample(&s, type, LINEAR_INVARIANT, level);
            if (!l) continue;
            for (int i = 0; i < ROWS_MAX; i++) run(l, alone + i * s.n, s.n, x + i * s.k, s.k, 1, NULL, 1);
            for (int r = 0; r < ROW_COUNT; r++)
                for (int threads = 1; threads <= 2; threads++) {
                    run(l, among, s.n, x, s.k, rows[r], NULL, threads);
                    if (memcmp(alone, among, (size_t)(rows[r] * s.n) * sizeof *among)) test_fail(__FILE__, __LINE__, "%s: %lld rows on %d threads differ from one", linear_kernel(l), (long long)rows[r], threads);
                }
            linear_close(l);
        }
        free(x), free(alone), free(among);
        sample_free(&s);
    }
}

/* More rows than any tile kernel takes at a time, with all that an epilogue has. */
TEST(invariant_mode_among_very_many_rows)
{
    enum { N = 45, K = 512 + 256, M = 150 };
    static const int types[] = { BLOCK_Q4_0, BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_Q5_1, BLOCK_Q6_K, BLOCK_IQ4_XS };
    float *x = malloc(M * K * sizeof *x), *alone = malloc(M * N * sizeof *alone), *among = malloc(M * N * sizeof *among), *residual = malloc(M * N * sizeof *residual), bias[N];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct sample s = sample_make(types[t], N, K);
        test_fill(x, M * K, -1, 1);
        test_fill(residual, M * N, -1, 1);
        test_fill(bias, N, -1, 1);
        struct linear_layer *l = open_sample(&s, types[t], LINEAR_INVARIANT, CPU_AMX);
        struct gemm_epilogue ep = { .bias = bias, .ldr = N, .act = { .kind = ACT_SILU } };
        memcpy(alone, residual, M * N * sizeof *alone);
        memcpy(among, residual, M * N * sizeof *among);
        for (int i = 0; i < M; i++) ep.residual = alone + i * N, run(l, alone + i * N, N, x + i * K, K, 1, &ep, 1);
        ep.residual = among;
        run(l, among, N, x, K, M, &ep, 2);
        if (memcmp(alone, among, M * N * sizeof *among)) test_fail(__FILE__, __LINE__, "%s: %d rows differ from one", linear_kernel(l), M);
        linear_close(l);
        sample_free(&s);
    }
    free(x), free(alone), free(among), free(residual);
}

/* Columns by the span, as threads share them out, have the bits of the whole; few rows of x with BF16 weights are near the definition when they are rounded, too. */
TEST(columns_by_the_span_have_the_bits_of_the_whole)
{
    enum { N = 141, K = 512, M = 40 };
    static const int types[] = { BLOCK_F32, BLOCK_F16, BLOCK_BF16, BLOCK_BF16, BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_IQ1_S };
    static const int64_t some[] = { 1, 2, 3, 8, 9, 16, M }, ends[] = { 0, 32, 96, N };
    float *x = malloc(M * K * sizeof *x), *want = malloc(M * N * sizeof *want), *whole = malloc(M * N * sizeof *whole), *parts = malloc(M * N * sizeof *parts), *residual = malloc(M * N * sizeof *residual), bias[N];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct sample s = sample_make(types[t], N, K);
        test_fill(x, M * K, -1, 1);
        test_fill(residual, M * N, -1, 1);
        test_fill(bias, N, -1, 1);
        const struct gemm_epilogue ep = { .bias = bias, .residual = residual, .ldr = N, .act = { .kind = ACT_RELU } };
        reference(want, &s, x, K, M, &ep);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            const struct linear_spec spec = { .type = types[t], .weight = s.packed + 1, .n = N, .k = K, .row_bytes = s.row_bytes, .mode = LINEAR_FAST, .level = (enum cpu_level)level, .few_rounded = t == 3 };
            struct linear_layer *l = NULL;
            struct err err = { 0 };
            REQUIRE_OK(linear_open(&l, &spec, &err), err);
            for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
                const int64_t m = some[i];
                const uint64_t bytes = linear_columns_scratch(l, m);
                char *scratch = aligned_alloc(64, (bytes + 63) & ~(uint64_t)63);
                run(l, whole, N, x, K, m, &ep, 2);
                for (int p = 0; p < 3; p++) linear_run_columns(l, parts, N, x, K, m, &ep, scratch, ends[p], ends[p + 1]);
                if (memcmp(whole, parts, (size_t)(m * N) * sizeof *parts)) test_fail(__FILE__, __LINE__, "%s: %lld rows by columns differ from the whole", linear_kernel(l), (long long)m);
                if (t == 3) CHECK_CLOSE(whole, want, m * N, 0.1f);            /* 512 terms, each off by up to 2^-8 */
                free(scratch);
            }
            linear_close(l);
        }
        sample_free(&s);
    }
    free(x), free(want), free(whole), free(parts), free(residual);
}

/* x, y and the residual as bfloat16 in memory, on a machine that is quick at it: what floats give, rounded once. With tiles a row has the same bits alone and among others. */
TEST(several_layers_of_one_x_have_the_bits_of_each_alone)
{
    static const int types[] = { BLOCK_Q4_K, BLOCK_Q4_K, BLOCK_Q2_K, BLOCK_Q6_K, BLOCK_Q8_0, BLOCK_Q4_0, BLOCK_Q8_0, BLOCK_BF16, BLOCK_F32, BLOCK_Q6_K, BLOCK_Q3_K };      /* layers that round alike beside such that do not */
    enum { LAYERS = sizeof types / sizeof *types, DEPTH = 768, MOST = 70 };
    const int64_t counts[] = { 1, 4, 7, 33, MOST }, ldx = DEPTH + 3;
    for (int mode = LINEAR_F32; mode < LINEAR_MODE_COUNT; mode++)
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct sample samples[LAYERS];
            struct linear_part parts[LAYERS];
            struct linear_layer *layers[LAYERS];
            float *x = malloc((size_t)(MOST * ldx) * sizeof *x), *bias = malloc(100 * sizeof *bias);
            const struct gemm_epilogue ep = { .bias = bias, .act = { .kind = ACT_NONE } };
            test_fill(x, (size_t)(MOST * ldx), -1, 1);
            test_fill(bias, 100, -1, 1);
            for (int i = 0; i < LAYERS; i++) {
                samples[i] = sample_make(types[i], 33 + 5 * i, DEPTH);
                layers[i] = open_sample(&samples[i], types[i], (enum linear_mode)mode, level);
                parts[i] = (struct linear_part){ .layer = layers[i], .y = malloc((size_t)(MOST * samples[i].n) * sizeof(float)), .ldy = samples[i].n, .ep = i % 2 ? &ep : NULL };
            }
            for (int r = 0; r < (int)(sizeof counts / sizeof *counts); r++) {
                uint64_t most = 0;
                for (int i = 0; i < LAYERS; i++) {
                    const uint64_t bytes = linear_scratch(layers[i], counts[r], 2);
                    if (bytes > most) most = bytes;
                }
                void *scratch = aligned_alloc(64, (most + 127) & ~(uint64_t)63);
                linear_run_parts(parts, LAYERS, x, ldx, counts[r], scratch, 2);
                free(scratch);
                for (int i = 0; i < LAYERS; i++) {
                    float *want = malloc((size_t)(counts[r] * samples[i].n) * sizeof *want);
                    run(layers[i], want, samples[i].n, x, ldx, counts[r], parts[i].ep, 2);
                    if (memcmp(parts[i].y, want, (size_t)(counts[r] * samples[i].n) * sizeof *want))
                        test_fail(__FILE__, __LINE__, "layer %d (%s) at %s, %lld rows: the bits differ", i, linear_kernel(layers[i]), cpu_level_name((enum cpu_level)level), (long long)counts[r]);
                    free(want);
                }
            }
            for (int i = 0; i < LAYERS; i++) linear_close(layers[i]), sample_free(&samples[i]), free(parts[i].y);
            free(x), free(bias);
        }
}

TEST(numbers_may_lie_as_bfloat16)
{
    enum { N = 141, K = 1100, M = 1040, SHOWN = 70 };          /* more rows than two threads take apart, and k that is no whole step */
    static const int64_t some[] = { 2, 9, 16, 17, 45, SHOWN, M };
    struct kernels k;
    kernels_fill(&k, CPU_AMX);
    if (!k.bf16) return;
    struct sample s = sample_make(BLOCK_BF16, N, K);
    const struct linear_spec spec = { .type = BLOCK_BF16, .weight = s.packed + 1, .n = N, .k = K, .row_bytes = s.row_bytes, .mode = LINEAR_FAST, .level = CPU_AMX, .few_rounded = true };
    struct linear_layer *l = NULL;
    struct err err = { 0 };
    REQUIRE_OK(linear_open(&l, &spec, &err), err);
    float *x = malloc(M * K * sizeof *x), *residual = malloc(M * N * sizeof *residual), *want = malloc(M * N * sizeof *want), *y = malloc(M * N * sizeof *y), *alone = malloc(N * sizeof *alone), bias[N];
    uint16_t *x16 = malloc(M * K * sizeof *x16), *residual16 = malloc(M * N * sizeof *residual16), *y16 = malloc(M * N * sizeof *y16), *want16 = malloc(M * N * sizeof *want16);
    test_fill(x, M * K, -1, 1);
    test_fill(residual, M * N, -1, 1);
    test_fill(bias, N, -1, 1);
    k.round_bf16(x16, x, M * K, 1), k.widen_bf16(x, x16, M * K, 1);
    k.round_bf16(residual16, residual, M * N, 1), k.widen_bf16(residual, residual16, M * N, 1);
    const struct gemm_epilogue ep = { .bias = bias, .residual = residual, .ldr = N, .act = { .kind = ACT_RELU } };
    struct gemm_epilogue ep16 = ep;
    ep16.residual = (const float *)(const void *)residual16;
    reference(want, &s, x, K, SHOWN, &ep);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        for (int threads = 1; threads <= 2; threads++) {
            const int64_t m = some[i], shown = m < SHOWN ? m : SHOWN;
            void *scratch = aligned_alloc(64, (linear_scratch(l, m, threads) + 63) & ~(uint64_t)63);
            linear_run_halves(l, y, N, x, K, m, (struct linear_halves){ 0 }, &ep, scratch, threads);
            CHECK_CLOSE(y, want, shown * N, 0.01f);
            k.round_bf16(want16, y, m * N, 1);
            linear_run_halves(l, y16, N, x16, K, m, (struct linear_halves){ .x = true, .y = true }, &ep16, scratch, threads);
            CHECK(memcmp(y16, want16, (size_t)(m * N) * sizeof *y16) == 0);
            memset(y16, 0, (size_t)(m * N) * sizeof *y16);
            linear_run_halves(l, y16, N, x, K, m, (struct linear_halves){ .y = true }, &ep16, scratch, threads);
            CHECK(memcmp(y16, want16, (size_t)(m * N) * sizeof *y16) == 0);
            if (k.level < CPU_AMX) {
                free(scratch);
                continue;
            }
            struct gemm_epilogue last = ep;
            last.residual += (m - 1) * N;
            linear_run_halves(l, alone, N, x16 + (m - 1) * K, K, 1, (struct linear_halves){ .x = true }, &last, scratch, 1);
            CHECK(memcmp(alone, y + (m - 1) * N, N * sizeof *alone) == 0);
            free(scratch);
        }
    linear_close(l);
    sample_free(&s);
    free(x), free(residual), free(want), free(y), free(alone), free(x16), free(residual16), free(y16), free(want16);
}

/* A layer with its gates beside what they gate is the plain layer, then the gates. */
TEST(gates_beside_what_they_gate)
{
    enum { N = 2 * 80, HALF = N / 2, K = 200, M = 70 };
    static const int64_t some[] = { 1, 2, 16, 17, M };
    struct kernels k;
    struct linear_layer *plain = NULL, *gated = NULL;
    struct err err = { 0 };
    kernels_fill(&k, CPU_AMX);
    struct sample s = sample_make(BLOCK_BF16, N, K);
    struct linear_spec spec = { .type = BLOCK_BF16, .weight = s.packed + 1, .n = N, .k = K, .row_bytes = s.row_bytes, .mode = LINEAR_FAST, .level = CPU_AMX, .few_rounded = true };
    REQUIRE_OK(linear_open(&plain, &spec, &err), err);
    spec.gated = true;
    if (k.bf16) REQUIRE_OK(linear_open(&gated, &spec, &err), err);
    else CHECK(linear_open(&gated, &spec, &err) == ST_UNSUPPORTED);
    struct linear_spec odd = spec;
    odd.n = N - 16;
    CHECK(linear_open(&(struct linear_layer *){ NULL }, &odd, &err) == ST_UNSUPPORTED);
    odd = spec;
    odd.few_rounded = false;
    CHECK(linear_open(&(struct linear_layer *){ NULL }, &odd, &err) == ST_UNSUPPORTED);
    float *x = malloc(M * K * sizeof *x), *both = malloc(M * N * sizeof *both), *want = malloc(M * HALF * sizeof *want), *y = malloc(M * HALF * sizeof *y), bias[N];
    test_fill(x, M * K, -1, 1);
    test_fill(bias, N, -1, 1);
    for (size_t i = 0; gated && i < sizeof some / sizeof *some; i++)
        for (int threads = 1; threads <= 2; threads++) {
            const int64_t m = some[i];
            const struct gemm_epilogue ep = { .bias = bias }, gates = { .bias = bias, .act = { .kind = ACT_GELU } };
            run(plain, both, N, x, K, m, &ep, 1);
            for (int64_t r = 0; r < m; r++) {
                k.activate_f32(both + r * N + HALF, both + r * N + HALF, HALF, gates.act, 1);
                for (int64_t c = 0; c < HALF; c++) want[r * HALF + c] = both[r * N + c] * both[r * N + HALF + c];
            }
            run(gated, y, HALF, x, K, m, &gates, threads);
            CHECK(memcmp(y, want, (size_t)(m * HALF) * sizeof *y) == 0);
        }
    linear_close(plain), linear_close(gated);
    sample_free(&s);
    free(x), free(both), free(want), free(y);
}

/* Where a machine has tiles and dot products of bfloat16 only the former are chosen for many rows: the latter, which other machines have alone, give the same sums in another order. */
TEST(dot_products_of_bfloat16_agree_with_tiles)
{
    enum { N = 160, K = 600, M = 53, PANELS = N / 16 };
    static const int64_t some[] = { 1, 2, 8, 9, M };
    if (cpu_level_detect() < CPU_AMX) return;
    struct sample s = sample_make(BLOCK_BF16, N, K);
    const int64_t each = panel_bytes(panel_layout(BLOCK_BF16), K);
    uint8_t *panels = aligned_alloc(64, (size_t)(each * PANELS));
    for (int p = 0; p < PANELS; p++) panel_pack(panels + p * each, BLOCK_BF16, s.packed + 1, s.row_bytes, p * 16, N, K);
    float *x = malloc(M * K * sizeof *x), *y[2] = { malloc(M * N * sizeof(float)), malloc(M * N * sizeof(float)) }, bias[N];
    uint16_t *a = aligned_alloc(64, panel_tiles_bytes(BLOCK_BF16, M, K));
    void *lane = aligned_alloc(64, (panel_lane_bytes(M, K, PANELS / 2) + 63) & ~(uint64_t)63);
    test_fill(x, M * K, -1, 1);
    test_fill(bias, N, -1, 1);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        for (int gated = 0; gated < 2; gated++) {
            const int64_t m = some[i], columns = gated ? N / 2 : N;
            const struct gemm_epilogue ep = { .bias = bias, .act = { .kind = ACT_SILU } };
            const struct panel_bf16_kernels *both[2] = { &panel_bf16_amx, m == 1 ? &panel_bf16_one : &panel_bf16_avx512 };
            for (int side = 0; side < 2; side++) {
                const struct panel_job j = { .type = BLOCK_BF16, .panels = panels, .panel_bytes = each, .n = N, .k = K, .m = m, .exact = true, .y = y[side], .ldy = columns, .x = x, .ldx = K, .ep = &ep, .gated = gated };
                both[side]->round(a, &j, 0, (m + 15) / 16);
                both[side]->multiply(&j, a, lane, 0, PANELS);
            }
            CHECK_CLOSE(y[1], y[0], m * columns, 1e-4f);
        }
    sample_free(&s);
    free(panels), free(x), free(y[0]), free(y[1]), free(a), free(lane);
}

TEST(what_is_not_finite_shows)
{
    static const int types[] = { BLOCK_Q4_0, BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_Q6_K, BLOCK_BF16, BLOCK_F16 };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct sample s = sample_make(types[t], 33, 256);
        float x[3 * 256], y[3 * 33];
        for (int mode = 0; mode < LINEAR_MODE_COUNT; mode++)
            for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
                struct linear_layer *l = open_sample(&s, types[t], (enum linear_mode)mode, level);
                if (!l) continue;
                test_fill(x, 3 * 256, -1, 1);
                x[256 + 100] = t % 2 ? NAN : INFINITY;
                run(l, y, 33, x, 256, 3, NULL, 1);
                for (int i = 0; i < 99; i++)
                    if (isfinite(y[i]) != (i / 33 != 1) && !(i / 33 == 1 && s.decoded[i % 33 * 256 + 100] == 0)) test_fail(__FILE__, __LINE__, "%s: number %d is %g", linear_kernel(l), i, (double)y[i]);
                linear_close(l);
            }
        sample_free(&s);
    }
}

TEST(specs_that_fit_no_layer_are_refused)
{
    static const uint8_t bytes[4096];
    const struct linear_spec good = { .type = BLOCK_Q4_K, .weight = bytes, .n = 2, .k = 512, .row_bytes = 288, .mode = LINEAR_FAST, .level = CPU_SCALAR };
    struct linear_spec s;
    struct linear_layer *l = NULL;
    struct err err;
    s = good, s.type = 4;
    CHECK_INT(linear_open(&l, &s, &err), ST_UNSUPPORTED);
    s = good, s.k = 500;
    CHECK_INT(linear_open(&l, &s, &err), ST_BAD_INPUT);
    s = good, s.row_bytes = 287;
    CHECK_INT(linear_open(&l, &s, &err), ST_BAD_INPUT);
    s = good, s.n = 0;
    CHECK_INT(linear_open(&l, &s, &err), ST_BAD_INPUT);
    s = good, s.n = (int64_t)1 << 60;
    CHECK_INT(linear_open(&l, &s, &err), ST_TOO_LARGE);
    CHECK(linear_open_bytes(&s) == UINT64_MAX && !l);
    CHECK_OK(linear_open(&l, &good, &err), err);
    linear_close(l);
    linear_close(NULL);
}
