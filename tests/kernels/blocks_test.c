/* Block formats: decoding equals the gguf package in bits, encoding equals it in bytes where it encodes; the other encoders by their error. */
#include <math.h>
#include <stdlib.h>

#include "kernels/blocks.h"
#include "kernels/half.h"
#include "tests/kernels/blocks_vectors.h"
#include "tests/test.h"

static uint64_t digest(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void numbers_to_encode(float *x, int n)
{
    uint32_t s = 1;
    for (int i = 0; i < n; i++) {
        const float v = (float)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
        x[i] = i % 1024 < 32 ? 0 : v * v * v;
    }
}

static unsigned digit(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10); }

TEST(every_format_decodes_to_the_bits_of_the_gguf_package)
{
    for (size_t v = 0; v < sizeof block_vectors / sizeof *block_vectors; v++) {
        const struct block_vector *t = block_vectors + v;
        const struct block_format *f = block_format(t->type);
        REQUIRE(f);
        CHECK_TEXT(f->name, t->name);
        CHECK_INT(f->elements, t->elements);
        CHECK_INT(f->bytes, t->bytes);
        const size_t bytes = strlen(t->hex) / 2;
        CHECK_INT(bytes, t->numbers / t->elements * t->bytes);
        uint8_t *packed = malloc(bytes + 1);
        float *y = malloc((size_t)t->numbers * sizeof *y);
        /* one byte off: blocks of a file are not aligned */
        for (size_t i = 0; i < bytes; i++) packed[1 + i] = (uint8_t)(digit(t->hex[2 * i]) << 4 | digit(t->hex[2 * i + 1]));
        f->decode(y, packed + 1, t->numbers);
        for (int i = 0; i < 4; i++)
            if (y[i] != t->first[i]) test_fail(__FILE__, __LINE__, "%s: number %d is %a, not %a", t->name, i, (double)y[i], (double)t->first[i]);
        if (digest(y, (size_t)t->numbers * sizeof *y) != t->digest) test_fail(__FILE__, __LINE__, "%s: some number differs in bits", t->name);
        free(packed), free(y);
    }
}

TEST(encoders_write_the_bytes_of_the_gguf_package)
{
    enum { N = 2048 };
    float *x = malloc(N * sizeof *x);
    uint8_t *packed = malloc(N * 4);
    numbers_to_encode(x, N);
    for (size_t v = 0; v < sizeof block_encoded / sizeof *block_encoded; v++) {
        const struct block_format *f = block_format(block_encoded[v].type);
        REQUIRE(f && f->encode);
        f->encode(packed, x, N);
        if (digest(packed, (size_t)(N / f->elements * f->bytes)) != block_encoded[v].digest) test_fail(__FILE__, __LINE__, "%s: some byte differs", f->name);
    }
    free(x), free(packed);
}

/* Root of the mean square error as a part of the numbers' own, for uniform numbers in [-1, 1): a grid of 2^b equal steps over [-1, 1] would give 2^-b. */
TEST(encoders_of_the_k_formats_come_near)
{
    static const struct { int type; float error; } limits[] = {
        { BLOCK_Q2_K, 0.25f }, { BLOCK_Q3_K, 0.125f }, { BLOCK_Q4_K, 0.060f }, { BLOCK_Q5_K, 0.031f }, { BLOCK_Q6_K, 0.0175f }, { BLOCK_IQ4_NL, 0.082f }, { BLOCK_IQ4_XS, 0.084f },
    };
    enum { N = 4096 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    uint8_t *packed = malloc(N * 4);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        for (int kind = 0; kind < 3; kind++) {                       /* centred, positive, small */
            test_fill(x, N, kind == 1 ? 0.0f : -1.0f, 1.0f);
            if (kind == 2)
                for (int n = 0; n < N; n++) x[n] *= 0.02f;
            const struct block_format *f = block_format(limits[i].type);
            f->encode(packed, x, N);
            f->decode(y, packed, N);
            double error = 0, size = 0;
            for (int n = 0; n < N; n++) error += (double)(x[n] - y[n]) * (double)(x[n] - y[n]), size += (double)x[n] * (double)x[n];
            if (!(sqrt(error / size) < (double)limits[i].error)) test_fail(__FILE__, __LINE__, "%s: the error is %.4f of the numbers", f->name, sqrt(error / size));
        }
    free(x), free(y), free(packed);
}

TEST(encoders_take_zeros_and_what_is_not_finite)
{
    float x[512], y[512];
    uint8_t packed[2048];
    for (int type = 0; type < BLOCK_TYPE_END; type++) {
        const struct block_format *f = block_format(type);
        if (!f || !f->encode) continue;
        memset(x, 0, sizeof x);
        f->encode(packed, x, 512);
        f->decode(y, packed, 512);
        for (int i = 0; i < 512; i++)
            if (y[i] != 0) test_fail(__FILE__, __LINE__, "%s: zero came back as %g", f->name, (double)y[i]);
        x[3] = INFINITY, x[40] = -INFINITY, x[70] = NAN, x[300] = 1e38f;
        f->encode(packed, x, 512);                                   /* the sanitizers watch */
        f->decode(y, packed, 512);
    }
}

TEST(any_bytes_decode)
{
    uint8_t packed[2048];
    float y[512];
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < sizeof packed; i++) packed[i] = round < 4 ? (uint8_t)(round * 85) : (uint8_t)test_random();
        for (int type = 0; type < BLOCK_TYPE_END; type++) {
            const struct block_format *f = block_format(type);
            if (f) f->decode(y, packed, 256);
        }
    }
    CHECK(block_format(BLOCK_F32)->elements == 1);
}

TEST(numbers_without_a_format_have_none)
{
    CHECK(!block_format(-1) && !block_format(4) && !block_format(5) && !block_format(24) && !block_format(BLOCK_TYPE_END) && !block_format(1 << 30));
    CHECK(!block_format(BLOCK_IQ2_XXS)->encode);
}

TEST(f16_rounds_to_nearest_even_over_its_whole_range)
{
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const float f = f16_to_f32((uint16_t)h), next = f16_to_f32((uint16_t)(h + 1)), middle = h == 0x7bff ? 65520.0f : f + (next - f) / 2;
        CHECK(f == (h < 0x400 ? ldexpf((float)h, -24) : ldexpf((float)(1024 + h % 1024), (int)(h / 1024) - 25)));
        CHECK(f32_to_f16(f) == h && f32_to_f16(-f) == (h | 0x8000));
        CHECK(f32_to_f16(middle) == (h % 2 ? h + 1 : h));
        CHECK(f32_to_f16(nextafterf(middle, 0)) == h && f32_to_f16(nextafterf(middle, INFINITY)) == h + 1);
    }
    CHECK(f32_to_f16(INFINITY) == 0x7c00 && isnan(f16_to_f32(f32_to_f16(NAN))) && isinf(f16_to_f32(0xfc00)));
    CHECK(f32_to_bf16_one(1.00390625f) == 0x3f80 && f32_to_bf16_one(1.01171875f) == 0x3f82 && (f32_to_bf16_one(NAN) & 0x7fff) > 0x7f80);
}
