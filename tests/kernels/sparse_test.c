/* Products with pruned weights: the bits of gemm_f32 at every level, for any rows and threads; zeros put back for rows that are not finite; what is worth trying */
#include "kernels/sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

/* b [k, n] with `percent` of it 0, some columns without anything. */
static float *pruned(int64_t k, int64_t n, int percent)
{
    float *b = malloc((size_t)(k * n) * sizeof *b);
    test_fill(b, (size_t)(k * n), -1, 1);
    for (int64_t i = 0; i < k * n; i++)
        if ((int)(test_random() % 100) < percent || i % n == n / 2) b[i] = i % 3 ? 0.0f : -0.0f;
    return b;
}

static void *aligned_floats(int64_t n) { return aligned_alloc(64, (size_t)((n + 16) * 4 + 63) / 64 * 64); }

static void check_shape(const struct kernels *k, int64_t m, int64_t n, int64_t depth, int threads, bool turned, int special)
{
    const int64_t lda = depth + 3, ldc = n + 5;
    float *b = pruned(depth, n, 90), *a = aligned_floats(m * lda), *want = aligned_floats(m * ldc), *got = aligned_floats(m * ldc), *bias = aligned_floats(n);
    const int64_t row = turned ? 1 : n, column = turned ? depth : 1;
    const struct gemm_epilogue ep = { .bias = bias, .act = { .kind = m % 2 ? ACT_RELU : ACT_GELU } };
    struct sparse_layer *s;
    struct err err;
    test_fill(a, (size_t)(m * lda), -2, 2);
    test_fill(bias, (size_t)n, -1, 1);
    memset(want, 0, (size_t)(m * ldc) * 4);
    memset(got, 0, (size_t)(m * ldc) * 4);
    if (special) a[(m - 1) * lda + depth / 2] = special == 1 ? INFINITY : NAN;
    void *packed = aligned_alloc(64, (k->gemm_f32_packed_bytes(depth, n) + 127) / 64 * 64), *scratch = NULL;
    k->gemm_f32_pack(packed, b, row, column, depth, n);
    k->gemm_f32(want, ldc, a, lda, packed, m, n, depth, &ep, threads);
    if (sparse_open(&s, b, row, column, depth, n, k, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    else {
        scratch = aligned_alloc(64, (size_t)sparse_scratch(s, m) + 64);
        sparse_run(s, got, ldc, a, lda, m, &ep, scratch, threads);
        int wrong = 0;
        for (int64_t i = 0; i < m * ldc; i++) wrong += memcmp(&got[i], &want[i], 4) != 0 && !(isnan(got[i]) && isnan(want[i]));
        if (wrong) test_fail(__FILE__, __LINE__, "%s, %lld x %lld x %lld, %d threads, special %d: %d differ", cpu_level_name(k->level), (long long)m, (long long)n, (long long)depth, threads, special, wrong);
        if (special) CHECK(isnan(got[(m - 1) * ldc + n / 2]));      /* a column of zeros */
        CHECK(sparse_bytes(s) < (uint64_t)(depth * n));
        sparse_close(s);
    }
    free(a), free(b), free(want), free(got), free(bias), free(packed), free(scratch);
}

TEST(sums_have_the_bits_of_the_dense_product_at_every_level)
{
    static const int64_t rows[] = { 1, 2, 7, 16, 17, 32, 33, 70 };
    test_seed(11);
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        struct kernels k;
        kernels_fill(&k, (enum cpu_level)level);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (int threads = 1; threads <= 3; threads += 2)
                for (int special = 0; special < 3; special++) check_shape(&k, rows[i], 77, 129, threads, i % 2 == 0, special);
        check_shape(&k, 3, 400, 1000, 2, false, 0);      /* enough for a team */
    }
}

TEST(what_is_not_pruned_or_does_not_fit_is_not_tried)
{
    test_seed(3);
    float *b = pruned(256, 64, 90), *full = pruned(256, 64, 10);
    CHECK(sparse_wanted(b, 64, 1, 256, 64));
    CHECK(!sparse_wanted(full, 64, 1, 256, 64));
    CHECK(!sparse_wanted(b, 64, 1, 32, 64));            /* too small to matter */
    CHECK(!sparse_wanted(b, 0, 0, 65537, 64));          /* places are 16 bits */
    free(b);
    free(full);
}
