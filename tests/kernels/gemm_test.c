/* gemm_f32: alone, in teams, row by row. Not under ThreadSanitizer, which does not know libgomp. */
#include <math.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "tests/test.h"

#ifdef __SANITIZE_THREAD__
#define SLOW 1
#else
#define SLOW 0
#endif

/* The contract written out: one fused multiply-add per k in ascending order, then bias, then residual. */
static void reference(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k, const float *bias, const float *residual)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            for (int64_t s = 0; s < k; s++) sum = fmaf(a[i * k + s], b[s * n + j], sum);
            if (bias) sum += bias[j];
            if (residual) sum += residual[i * n + j];
            c[i * n + j] = sum;
        }
}

static float *fresh(int64_t n)
{
    float *p = malloc((size_t)(n ? n : 1) * sizeof *p);
    if (!p) abort();
    test_fill(p, (size_t)n, -1, 1);
    return p;
}

static void try_shape(const struct kernels *k, int64_t m, int64_t n, int64_t depth, int threads)
{
    float *a = fresh(m * depth), *b = fresh(depth * n), *turned = fresh(depth * n), *bias = fresh(n), *residual = fresh(m * n), *want = fresh(m * n), *got = fresh(m * n);
    for (int64_t s = 0; s < depth; s++)
        for (int64_t j = 0; j < n; j++) turned[j * depth + s] = b[s * n + j];
    void *packed = malloc(k->gemm_f32_packed_bytes(depth, n) + 64);
    void *packed_turned = malloc(k->gemm_f32_packed_bytes(depth, n) + 64);
    k->gemm_f32_pack(packed, b, n, 1, depth, n);
    k->gemm_f32_pack(packed_turned, turned, 1, depth, depth, n);
    CHECK(!memcmp(packed, packed_turned, k->gemm_f32_packed_bytes(depth, n)));
    const size_t bytes = (size_t)(m * n) * sizeof(float);

    reference(want, a, b, m, n, depth, NULL, NULL);
    k->gemm_f32(got, n, a, depth, packed, m, n, depth, NULL, threads);
    if (memcmp(got, want, bytes)) test_fail(__FILE__, __LINE__, "%s m %lld n %lld k %lld threads %d: plain product differs in bits", cpu_level_name(k->level), (long long)m, (long long)n, (long long)depth, threads);

    reference(want, a, b, m, n, depth, bias, residual);
    for (int64_t i = 0; i < m * n; i++) want[i] = want[i] > 0 ? want[i] : 0;
    struct gemm_epilogue ep = { .bias = bias, .residual = residual, .ldr = n, .act = { .kind = ACT_RELU } };
    k->gemm_f32(got, n, a, depth, packed, m, n, depth, &ep, threads);
    if (memcmp(got, want, bytes)) test_fail(__FILE__, __LINE__, "%s m %lld n %lld k %lld threads %d: bias + residual + relu differs in bits", cpu_level_name(k->level), (long long)m, (long long)n, (long long)depth, threads);

    /* the residual in place, and an activation that takes a second pass */
    memcpy(got, residual, bytes);
    reference(want, a, b, m, n, depth, NULL, residual);
    for (int64_t i = 0; i < m * n; i++) want[i] = tanhf(want[i]);
    ep = (struct gemm_epilogue){ .residual = got, .ldr = n, .act = { .kind = ACT_TANH } };
    k->gemm_f32(got, n, a, depth, packed, m, n, depth, &ep, threads);
    CHECK_CLOSE(got, want, (size_t)(m * n), 4e-7f);
    free(a), free(b), free(turned), free(bias), free(residual), free(want), free(got), free(packed), free(packed_turned);
}

TEST(gemm_f32_keeps_the_order_of_addition_at_every_level)
{
#if SLOW
    const int64_t m[] = { 1, 2, 5, 14, 15, 29 }, n[] = { 1, 33, 129 }, depth[] = { 3, 577 };      /* it is some thirty times slower */
#else
    const int64_t m[] = { 1, 2, 3, 5, 7, 13, 14, 15, 16, 29, 33 }, n[] = { 1, 7, 16, 31, 33, 64, 100, 129 }, depth[] = { 1, 3, 64, 577 };
#endif
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        struct kernels k;
        kernels_fill(&k, (enum cpu_level)level);
        CHECK_INT(k.level, level);
        for (size_t i = 0; i < sizeof m / sizeof *m; i++)
            for (size_t j = 0; j < sizeof n / sizeof *n; j++)
                for (size_t d = 0; d < sizeof depth / sizeof *depth; d++) try_shape(&k, m[i], n[j], depth[d], 1 + (int)((i + j + d) % 3));
    }
}

TEST(gemm_f32_blocks_over_k_and_columns_without_a_trace)
{
    for (int level = CPU_AVX2; level <= (int)cpu_level_detect(); level++) {
        struct kernels k;
        kernels_fill(&k, (enum cpu_level)level);
        const int64_t n = SLOW ? 600 : 1100;
        if (!SLOW) try_shape(&k, 45, n, 1300, 1);
        try_shape(&k, SLOW ? 17 : 45, n, 1300, 2);
        try_shape(&k, 1, n, 1300, 2);
    }
}

TEST(gemm_f32_gives_a_row_the_same_bits_alone_and_among_others)
{
    enum { ROWS = 32, N = 77, K = 611 };
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        struct kernels k;
        kernels_fill(&k, (enum cpu_level)level);
        float *a = fresh(ROWS * K), *b = fresh(K * N), *alone = fresh(ROWS * N), *among = fresh(ROWS * N);
        void *packed = malloc(k.gemm_f32_packed_bytes(K, N));
        k.gemm_f32_pack(packed, b, N, 1, K, N);
        const struct gemm_epilogue ep = { .act = { .kind = ACT_GELU } };
        for (int i = 0; i < ROWS; i++) k.gemm_f32(alone + i * N, N, a + i * K, K, packed, 1, N, K, &ep, 1);
        for (int rows = 1; rows <= ROWS; rows += SLOW ? 31 : 1)
            for (int threads = 1; threads <= 2; threads++) {
                k.gemm_f32(among, N, a, K, packed, rows, N, K, &ep, threads);
                CHECK(!memcmp(alone, among, (size_t)rows * N * sizeof(float)));
            }
        free(a), free(b), free(alone), free(among), free(packed);
    }
}

TEST(gemm_f32_of_no_depth_is_its_epilogue)
{
    struct kernels k;
    kernels_fill(&k, CPU_AMX);
    float c[6], bias[3] = { 1, 2, 3 }, packed[64];
    const struct gemm_epilogue ep = { .bias = bias };
    k.gemm_f32(c, 3, packed, 1, packed, 2, 3, 0, &ep, 2);
    CHECK(c[0] == 1 && c[2] == 3 && c[5] == 3);
}
