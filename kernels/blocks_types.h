/* The decoders and encoders behind blocks.h, one block at a time. blocks.c holds the table and the loop over blocks. */
#ifndef KERNELS_BLOCKS_TYPES_H
#define KERNELS_BLOCKS_TYPES_H

#include <stdint.h>

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
