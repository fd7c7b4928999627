/* One number at a time between the 16-bit floats and float. IEEE 754 binary16 has 5 bits of exponent and 10 of fraction; bfloat16 is the upper
 * half of a float. Towards 16 bits both round to nearest, ties to even; a NaN stays a NaN. */
#ifndef KERNELS_HALF_H
#define KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline float half_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint32_t half_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return half_from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x0400) return half_from_bits(sign | ((rest << 13) + ((127u - 15u) << 23)));
    const float tiny = (float)rest * 0x1p-24f;                 /* subnormal: exact */
    return half_from_bits(sign | half_to_bits(tiny));
}

static inline uint16_t f32_to_f16(float f)
{
    const uint32_t bits = half_to_bits(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  /* 65520 and above round to infinity */
    if (rest < 0x38800000) {                                   /* below 2^-14: the unit of 2^-24 is rounded to by adding 0.5, whose last place it is */
        return (uint16_t)(sign | (half_to_bits(half_from_bits(rest) + 0.5f) - half_to_bits(0.5f)));
    }
    const uint32_t rounded = rest - ((127u - 15u) << 23) + 0xfff + (rest >> 13 & 1);
    return (uint16_t)(sign | rounded >> 13);
}

static inline float bf16_to_f32_one(uint16_t h) { return half_from_bits((uint32_t)h << 16); }

static inline uint16_t f32_to_bf16_one(float f)
{
    const uint32_t bits = half_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The bytes of a file are little-endian and not aligned. */
static inline uint16_t half_load_16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t half_load_32(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static inline float    half_load_f16(const uint8_t *p) { return f16_to_f32(half_load_16(p)); }
static inline void     half_store_16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }

#endif
