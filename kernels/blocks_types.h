/* The decoders and encoders behind blocks.h, one block at a time. blocks.c holds the table and the loop over blocks. */
#ifndef KERNELS_BLOCKS_TYPES_H
#define KERNELS_BLOCKS_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/blocks.h"
#include "kernels/half.h"

enum { BLOCK_SMALL = 32, BLOCK_LARGE = 256 };

/* x: one block; y: its numbers */
void block_decode_q2_k(float *y, const uint8_t *x);
void block_decode_q3_k(float *y, const uint8_t *x);
void block_decode_q4_k(float *y, const uint8_t *x);
void block_decode_q5_k(float *y, const uint8_t *x);
void block_decode_q6_k(float *y, const uint8_t *x);
void block_decode_iq1_s(float *y, const uint8_t *x);
void block_decode_iq1_m(float *y, const uint8_t *x);
void block_decode_iq2_xxs(float *y, const uint8_t *x);
void block_decode_iq2_xs(float *y, const uint8_t *x);
void block_decode_iq2_s(float *y, const uint8_t *x);
void block_decode_iq3_xxs(float *y, const uint8_t *x);
void block_decode_iq3_s(float *y, const uint8_t *x);

void block_encode_q4_0(uint8_t *y, const float *x);
void block_encode_q4_1(uint8_t *y, const float *x);
void block_encode_q5_0(uint8_t *y, const float *x);
void block_encode_q5_1(uint8_t *y, const float *x);
void block_encode_q8_0(uint8_t *y, const float *x);
void block_encode_q2_k(uint8_t *y, const float *x);
void block_encode_q3_k(uint8_t *y, const float *x);
void block_encode_q4_k(uint8_t *y, const float *x);
void block_encode_q5_k(uint8_t *y, const float *x);
void block_encode_q6_k(uint8_t *y, const float *x);
void block_encode_iq4_nl(uint8_t *y, const float *x);
void block_encode_iq4_xs(uint8_t *y, const float *x);
void block_encode_tq1_0(uint8_t *y, const float *x);
void block_encode_tq2_0(uint8_t *y, const float *x);
void block_encode_mxfp4(uint8_t *y, const float *x);

extern const int8_t block_values_iq4[16];      /* the 16 values of IQ4_NL and IQ4_XS, ascending */
extern const int8_t block_values_mxfp4[16];    /* e2m1, doubled */
extern const int8_t block_values_iq1_m[16], block_values_iq2[16], block_values_iq3_xxs[16], block_values_iq3_s[16];

/* What the indices of a type stand for, [16]; NULL for types whose numbers are themselves. Those of 8 values repeat them. */
static inline const int8_t *block_table(int type)
{
    switch (type) {
    case BLOCK_IQ4_NL:
    case BLOCK_IQ4_XS:  return block_values_iq4;
    case BLOCK_MXFP4:   return block_values_mxfp4;
    case BLOCK_IQ1_M:   return block_values_iq1_m;
    case BLOCK_IQ2_XXS:
    case BLOCK_IQ2_XS:
    case BLOCK_IQ2_S:   return block_values_iq2;
    case BLOCK_IQ3_XXS: return block_values_iq3_xxs;
    case BLOCK_IQ3_S:   return block_values_iq3_s;
    default:            return NULL;
    }
}
/* IQ1_M, IQ2 and IQ3: a number is d times this, times its scale, times its value. Exact, whatever the order. */
static inline float block_factor(int type) { return type == BLOCK_IQ3_XXS ? 0.25f : type == BLOCK_IQ3_S ? 1.0f : 0.125f; }
/* of these: a scale for each 16 numbers, not 32 */
static inline bool block_has_two(int type) { return type == BLOCK_IQ1_M || type == BLOCK_IQ2_XS || type == BLOCK_IQ2_S; }
/* Numbers 32 b .. 32 b + 31 of a block x of IQ1, IQ2 or IQ3 as indices u [32] of its table, and their scale or two, odd numbers up to 31. IQ1_S has no table: u is 0 to 2, a number is
 * d (scale & 127) (u - 1 - 1/8 where the scale's bit 7 is set, + 1/8 where not). */
void block_indices(int type, uint8_t *u, uint8_t *scales, const uint8_t *x, int b);
uint16_t block_scale_iq1_m(const uint8_t *x);  /* d of a block, as f16 */

/* Number i of a block of TQ1_0, 0 to 2. A byte stands for the fraction byte / 256 in base 3, whose first digits are numbers: multiplying by 3^n moves digit n in front of the
 * point. 32 bytes of 5 digits, 16 of 5, 4 of 4: first digits first. */
static inline uint8_t block_digit_tq1_0(const uint8_t *x, int i)
{
    static const uint8_t power[5] = { 1, 3, 9, 27, 81 };
    const int before = i < 160 ? 0 : i < 240 ? 160 : 240, from = i < 160 ? 0 : i < 240 ? 32 : 48, bytes = i < 160 ? 32 : i < 240 ? 16 : 4;
    const uint8_t moved = (uint8_t)(x[from + (i - before) % bytes] * power[(i - before) / bytes]);
    return (uint8_t)(moved * 3 >> 8);
}
/* of TQ2_0: 64 bytes of 4 numbers */
static inline uint8_t block_digit_tq2_0(const uint8_t *x, int i) { return x[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3; }

/* 2^(e - 128): the power of MXFP4's shared exponent, halved because the values are doubled */
static inline float block_power_mxfp4(uint8_t e) { return half_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); }

/* The 6-bit scale and minimum of sub-block i of 8 (Q4_K, Q5_K) from their 12 bytes: 0-3 whole in the first 8 bytes, 4-7 with
 * their low 4 bits in the last 4 and their upper 2 bits on top of those of 0-3. */
static inline void block_scale_min(const uint8_t *s, int i, int *scale, int *min)
{
    if (i < 4) {
        *scale = s[i] & 63, *min = s[i + 4] & 63;
    } else {
        *scale = (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
        *min = s[i + 4] >> 4 | (s[i] >> 6) << 4;
    }
}

#endif
