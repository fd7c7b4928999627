/* Decoding of the K formats: 256 numbers that share one or two 16-bit scales, in sub-blocks of 16 or 32 whose small integer scales (and minima)
 * lie beside them. Bits of one number are spread: low bits in one array, high bits in another, several numbers to a byte by shifts. */
#include "kernels/blocks_types.h"

/* 16 scales (low 4 bits) and minima (high 4), 64 bytes of 2 bits, d, dmin */
void block_decode_q2_k(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x + 80), min = half_load_f16(x + 82);
    for (int i = 0; i < BLOCK_LARGE; i++) {
        const uint8_t scale = x[i / 16];
        const int q = x[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        y[i] = d * (float)(scale & 15) * (float)q - min * (float)(scale >> 4);
    }
}

/* 32 bytes of high bits (inverted), 64 bytes of 2 bits, 12 bytes of 6-bit scales, d */
void block_decode_q3_k(float *y, const uint8_t *x)
{
    const uint8_t *scales = x + 96;
    const float d = half_load_f16(x + 108);
    for (int i = 0; i < BLOCK_LARGE; i++) {
        const int s = i / 16, low = scales[s % 8] >> (s / 8 * 4) & 15, high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
        const int q = (x[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) - (x[i % 32] >> (i / 32) & 1 ? 0 : 4);
        y[i] = d * (float)((low | high << 4) - 32) * (float)q;
    }
}

/* d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes of 4 bits: each 32 bytes hold two sub-blocks of 32, low halves first */
void block_decode_q4_k(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x), dmin = half_load_f16(x + 2);
    for (int s = 0; s < 8; s++) {
        int scale, min;
        block_scale_min(x + 4, s, &scale, &min);
        const float a = d * (float)scale, b = dmin * (float)min;
        for (int i = 0; i < 32; i++) *y++ = a * (float)(x[16 + s / 2 * 32 + i] >> (s % 2 * 4) & 15) - b;
    }
}

/* as Q4_K with 32 bytes of fifth bits before the 128 */
void block_decode_q5_k(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x), dmin = half_load_f16(x + 2);
    for (int s = 0; s < 8; s++) {
        int scale, min;
        block_scale_min(x + 4, s, &scale, &min);
        const float a = d * (float)scale, b = dmin * (float)min;
        for (int i = 0; i < 32; i++) *y++ = a * (float)((x[48 + s / 2 * 32 + i] >> (s % 2 * 4) & 15) | (x[16 + i] >> s & 1) << 4) - b;
    }
}

/* 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales, d */
void block_decode_q6_k(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x + 208);
    for (int i = 0; i < BLOCK_LARGE; i++) {
        const int low = x[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15, high = x[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        y[i] = d * (float)(int8_t)x[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}
