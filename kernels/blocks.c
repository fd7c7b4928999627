/* The table of block formats, the loop over blocks, and the formats of 32 numbers. */
#include "kernels/blocks.h"

#include <stddef.h>

#include "kernels/blocks_types.h"

const int8_t block_values_iq4[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
const int8_t block_values_mxfp4[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

static void decode_f32(float *y, const void *x, int64_t n) { memcpy(y, x, (size_t)n * sizeof *y); }
static void encode_f32(void *y, const float *x, int64_t n) { memcpy(y, x, (size_t)n * sizeof *x); }

static void decode_f16(float *y, const void *x, int64_t n)
{
    const uint8_t *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = half_load_f16(from + 2 * i);
}

static void encode_f16(void *y, const float *x, int64_t n)
{
    uint8_t *to = y;
    for (int64_t i = 0; i < n; i++) half_store_16(to + 2 * i, f32_to_f16(x[i]));
}

static void decode_bf16(float *y, const void *x, int64_t n)
{
    const uint8_t *from = x;
    for (int64_t i = 0; i < n; i++) y[i] = bf16_to_f32_one(half_load_16(from + 2 * i));
}

static void encode_bf16(void *y, const float *x, int64_t n)
{
    uint8_t *to = y;
    for (int64_t i = 0; i < n; i++) half_store_16(to + 2 * i, f32_to_bf16_one(x[i]));
}

/* Numbers i and i + 16 share byte i: low half, high half. */
static int nibble(const uint8_t *q, int i) { return q[i % 16] >> (i / 16 * 4) & 15; }

static void block_decode_q4_0(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = d * (float)(nibble(x + 2, i) - 8);
}

static void block_decode_q4_1(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x), min = half_load_f16(x + 2);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = d * (float)nibble(x + 4, i) + min;
}

static void block_decode_q5_0(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    const uint32_t high = half_load_32(x + 2);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = d * (float)((nibble(x + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

static void block_decode_q5_1(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x), min = half_load_f16(x + 2);
    const uint32_t high = half_load_32(x + 4);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = d * (float)(nibble(x + 8, i) | (int)(high >> i & 1) << 4) + min;
}

static void block_decode_q8_0(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = (float)(int8_t)x[2 + i] * d;
}

/* d, the sum of the block (for products with formats that have a minimum), 32 bytes */
static void block_decode_q8_1(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = (float)(int8_t)x[4 + i] * d;
}

/* d as a float, 256 bytes, 16 sums of 16 numbers each */
static void block_decode_q8_k(float *y, const uint8_t *x)
{
    const float d = half_from_bits(half_load_32(x));
    for (int i = 0; i < BLOCK_LARGE; i++) y[i] = d * (float)(int8_t)x[4 + i];
}

static void block_decode_iq4_nl(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = d * (float)block_values_iq4[nibble(x + 2, i)];
}

/* d, a word of 8 x 2 high bits of scales, 4 bytes of their low bits, 128 bytes of 4 bits */
static void block_decode_iq4_xs(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    const unsigned high = half_load_16(x + 2);
    for (int s = 0; s < 8; s++, y += BLOCK_SMALL) {
        const int scale = (int)((x[4 + s / 2] >> (s % 2 * 4) & 15) | (high >> 2 * s & 3) << 4) - 32;
        const float a = d * (float)scale;
        for (int i = 0; i < BLOCK_SMALL; i++) y[i] = a * (float)block_values_iq4[nibble(x + 8 + s * 16, i)];
    }
}

static void block_decode_mxfp4(float *y, const uint8_t *x)
{
    const float d = block_power_mxfp4(x[0]);
    for (int i = 0; i < BLOCK_SMALL; i++) y[i] = d * (float)block_values_mxfp4[nibble(x + 1, i)];
}

/* 52 bytes of digits, d */
static void block_decode_tq1_0(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x + 52);
    for (int i = 0; i < BLOCK_LARGE; i++) y[i] = d * (float)(block_digit_tq1_0(x, i) - 1);
}

/* 64 bytes of digits, d */
static void block_decode_tq2_0(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x + 64);
    for (int i = 0; i < BLOCK_LARGE; i++) y[i] = d * (float)(block_digit_tq2_0(x, i) - 1);
}

#define DECODE(name_, elements_, bytes_)                                                                  \
    static void decode_##name_(float *y, const void *x, int64_t n)                                        \
    {                                                                                                     \
        const uint8_t *from = x;                                                                          \
        for (int64_t i = 0; i < n; i += elements_, from += bytes_) block_decode_##name_(y + i, from);     \
    }
#define ENCODE(name_, elements_, bytes_)                                                                  \
    static void encode_##name_(void *y, const float *x, int64_t n)                                        \
    {                                                                                                     \
        uint8_t *to = y;                                                                                  \
        for (int64_t i = 0; i < n; i += elements_, to += bytes_) block_encode_##name_(to, x + i);         \
    }
/*        TYPE     name     numbers bytes */
#define WITH_ENCODER(X)            \
    X(Q4_0,    q4_0,     32,  18)  \
    X(Q4_1,    q4_1,     32,  20)  \
    X(Q5_0,    q5_0,     32,  22)  \
    X(Q5_1,    q5_1,     32,  24)  \
    X(Q8_0,    q8_0,     32,  34)  \
    X(Q2_K,    q2_k,    256,  84)  \
    X(Q3_K,    q3_k,    256, 110)  \
    X(Q4_K,    q4_k,    256, 144)  \
    X(Q5_K,    q5_k,    256, 176)  \
    X(Q6_K,    q6_k,    256, 210)  \
    X(IQ4_NL,  iq4_nl,   32,  18)  \
    X(IQ4_XS,  iq4_xs,  256, 136)  \
    X(TQ1_0,   tq1_0,   256,  54)  \
    X(TQ2_0,   tq2_0,   256,  66)  \
    X(MXFP4,   mxfp4,    32,  17)
#define WITHOUT_ENCODER(X)         \
    X(Q8_1,    q8_1,     32,  36)  \
    X(Q8_K,    q8_k,    256, 292)  \
    X(IQ1_S,   iq1_s,   256,  50)  \
    X(IQ1_M,   iq1_m,   256,  56)  \
    X(IQ2_XXS, iq2_xxs, 256,  66)  \
    X(IQ2_XS,  iq2_xs,  256,  74)  \
    X(IQ2_S,   iq2_s,   256,  82)  \
    X(IQ3_XXS, iq3_xxs, 256,  98)  \
    X(IQ3_S,   iq3_s,   256, 110)

#define DECODE_ROW(type_, name_, elements_, bytes_) DECODE(name_, elements_, bytes_)
#define ENCODE_ROW(type_, name_, elements_, bytes_) ENCODE(name_, elements_, bytes_)
WITH_ENCODER(DECODE_ROW)
WITH_ENCODER(ENCODE_ROW)
WITHOUT_ENCODER(DECODE_ROW)

#define BOTH(type_, name_, elements_, bytes_) [BLOCK_##type_] = { #type_, elements_, bytes_, decode_##name_, encode_##name_ },
#define ONE(type_, name_, elements_, bytes_)  [BLOCK_##type_] = { #type_, elements_, bytes_, decode_##name_, NULL },
static const struct block_format formats[BLOCK_TYPE_END] = {
    [BLOCK_F32] = { "F32", 1, 4, decode_f32, encode_f32 },
    [BLOCK_F16] = { "F16", 1, 2, decode_f16, encode_f16 },
    [BLOCK_BF16] = { "BF16", 1, 2, decode_bf16, encode_bf16 },
    WITH_ENCODER(BOTH)
    WITHOUT_ENCODER(ONE)
};

const struct block_format *block_format(int type) { return type >= 0 && type < BLOCK_TYPE_END && formats[type].name ? formats + type : NULL; }
