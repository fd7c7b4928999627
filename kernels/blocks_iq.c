/* Decoding of the formats whose numbers come in vectors of 8 or 4 from a fixed grid (blocks_grids.h). A grid point is stored as 2-bit or 3-bit indices of the
 * few magnitudes that occur. Where signs are packed 7 to a vector, the eighth makes their number even. */
#include "kernels/blocks_grids.h"
#include "kernels/blocks_types.h"

/* IQ1_M: -1, 0, 1 and an eighth more, then an eighth less, all eight times. The others: magnitudes, then the same below 0. Those of 8 values twice, so that a table is 16 long. */
const int8_t block_values_iq1_m[16] = { -7, 1, 9, 0, -9, -1, 7, 0, -7, 1, 9, 0, -9, -1, 7, 0 };
const int8_t block_values_iq2[16] = { 8, 25, 43, 0, -8, -25, -43, 0, 8, 25, 43, 0, -8, -25, -43, 0 };
const int8_t block_values_iq3_xxs[16] = { 4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62 };
const int8_t block_values_iq3_s[16] = { 1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15 };

static unsigned signs_of_seven(unsigned s) { return s | (unsigned)__builtin_parity(s) << 7; }

static void indices_of_8(uint8_t *u, uint16_t point, unsigned signs)
{
    for (int i = 0; i < 8; i++) u[i] = (uint8_t)((point >> 2 * i & 3) | (signs >> i & 1) << 2);
}

static void indices_of_4(uint8_t *u, uint16_t point, unsigned signs)
{
    for (int i = 0; i < 4; i++) u[i] = (uint8_t)((point >> 3 * i & 7) | (signs >> i & 1) << 3);
}

/* odd numbers up to 31 from the two halves of a byte */
static void two_scales(uint8_t *scales, uint8_t both) { scales[0] = (uint8_t)(2 * (both & 15) + 1), scales[1] = (uint8_t)(2 * (both >> 4) + 1); }

/* After d for each 32 numbers: 4 grid indices, and a word of 4 x 7 signs and a 4-bit scale. */
static void indices_iq2_xxs(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    const uint8_t *at = x + 2 + b * 8;
    const uint32_t word = half_load_32(at + 4);
    scales[0] = (uint8_t)(2 * (word >> 28) + 1);
    for (int v = 0; v < 4; v++) indices_of_8(u + 8 * v, block_grid_iq2_xxs[at[v]], signs_of_seven(word >> 7 * v & 127));
}

/* After d 32 words of 9 bits of index and 7 signs, 16 scales of 4 bits. */
static void indices_iq2_xs(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    two_scales(scales, x[66 + b]);
    for (int v = 0; v < 4; v++) {
        const unsigned word = half_load_16(x + 2 + (4 * b + v) * 2);
        indices_of_8(u + 8 * v, block_grid_iq2_xs[word & 511], signs_of_seven(word >> 9));
    }
}

/* After d 32 low bytes of indices, 32 bytes of signs, 8 bytes of 2 high bits, 16 scales of 4 bits. */
static void indices_iq2_s(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    two_scales(scales, x[74 + b]);
    for (int v = 0; v < 4; v++) indices_of_8(u + 8 * v, block_grid_iq2_s[x[2 + 4 * b + v] | (unsigned)(x[66 + b] >> 2 * v & 3) << 8], x[34 + 4 * b + v]);
}

/* After d 64 grid indices, 8 words of 4 x 7 signs and a 4-bit scale. */
static void indices_iq3_xxs(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    const uint32_t word = half_load_32(x + 66 + b * 4);
    scales[0] = (uint8_t)(2 * (word >> 28) + 1);
    for (int v = 0; v < 8; v++) indices_of_4(u + 4 * v, block_grid_iq3_xxs[x[2 + 8 * b + v]], signs_of_seven(word >> v / 2 * 7 & 127) >> (v % 2 * 4));
}

/* After d 64 low bytes of indices, 8 bytes of high bits, 32 bytes of signs, 8 scales of 4 bits. */
static void indices_iq3_s(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    scales[0] = (uint8_t)(2 * (x[106 + b / 2] >> (b % 2 * 4) & 15) + 1);
    for (int v = 0; v < 8; v++) indices_of_4(u + 4 * v, block_grid_iq3_s[x[2 + 8 * b + v] | (unsigned)(x[66 + b] >> v & 1) << 8], (unsigned)x[74 + 4 * b + v / 2] >> (v % 2 * 4));
}

/* After d 32 low bytes of indices, 8 words of 4 x 3 high bits, a 3-bit scale and the direction of all 32 numbers. */
static void indices_iq1_s(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    const unsigned word = half_load_16(x + 34 + b * 2);
    scales[0] = (uint8_t)((2 * (word >> 12 & 7) + 1) | (word >> 15 << 7));
    for (int v = 0; v < 4; v++) indices_of_8(u + 8 * v, block_grid_iq1[x[2 + 4 * b + v] | (word >> v * 3 & 7) << 8], 0);
}

/* 32 low bytes of indices, 16 bytes of 3 high bits and direction, 4 words of 4 x 3-bit scales whose top 4 bits together are d. */
static void indices_iq1_m(uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    for (int h = 0; h < 2; h++) scales[h] = (uint8_t)(2 * (half_load_16(x + 48 + b / 2 * 2) >> ((2 * b + h) % 4 * 3) & 7) + 1);
    for (int v = 0; v < 4; v++) {
        const unsigned more = x[32 + 2 * b + v / 2] >> (v % 2 * 4);
        indices_of_8(u + 8 * v, block_grid_iq1[x[4 * b + v] | (more & 7) << 8], more >> 3 & 1 ? 255 : 0);
    }
}

void block_indices(int type, uint8_t *u, uint8_t *scales, const uint8_t *x, int b)
{
    switch (type) {
    case BLOCK_IQ1_S:   indices_iq1_s(u, scales, x, b); break;
    case BLOCK_IQ1_M:   indices_iq1_m(u, scales, x, b); break;
    case BLOCK_IQ2_XXS: indices_iq2_xxs(u, scales, x, b); break;
    case BLOCK_IQ2_XS:  indices_iq2_xs(u, scales, x, b); break;
    case BLOCK_IQ2_S:   indices_iq2_s(u, scales, x, b); break;
    case BLOCK_IQ3_XXS: indices_iq3_xxs(u, scales, x, b); break;
    default:            indices_iq3_s(u, scales, x, b);
    }
}

uint16_t block_scale_iq1_m(const uint8_t *x)
{
    unsigned bits = 0;
    for (int i = 0; i < 4; i++) bits |= (unsigned)(half_load_16(x + 48 + i * 2) >> 12) << 4 * i;
    return (uint16_t)bits;
}

/* 256 numbers: d, the scale and the value are 11, 5 and 6 bits long, so their product is exact in any order. */
static void decode_by_indices(float *y, const uint8_t *x, int type, float d)
{
    const int8_t *table = block_table(type);
    const float unit = d * block_factor(type);
    uint8_t u[32], scales[2];
    for (int b = 0; b < 8; b++, y += 32) {
        block_indices(type, u, scales, x, b);
        for (int i = 0; i < 32; i++) y[i] = unit * (float)scales[block_has_two(type) ? i / 16 : 0] * (float)table[u[i]];
    }
}

void block_decode_iq1_m(float *y, const uint8_t *x)   { decode_by_indices(y, x, BLOCK_IQ1_M, f16_to_f32(block_scale_iq1_m(x))); }
void block_decode_iq2_xxs(float *y, const uint8_t *x) { decode_by_indices(y, x, BLOCK_IQ2_XXS, half_load_f16(x)); }
void block_decode_iq2_xs(float *y, const uint8_t *x)  { decode_by_indices(y, x, BLOCK_IQ2_XS, half_load_f16(x)); }
void block_decode_iq2_s(float *y, const uint8_t *x)   { decode_by_indices(y, x, BLOCK_IQ2_S, half_load_f16(x)); }
void block_decode_iq3_xxs(float *y, const uint8_t *x) { decode_by_indices(y, x, BLOCK_IQ3_XXS, half_load_f16(x)); }
void block_decode_iq3_s(float *y, const uint8_t *x)   { decode_by_indices(y, x, BLOCK_IQ3_S, half_load_f16(x)); }

void block_decode_iq1_s(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    uint8_t u[32], scale;
    for (int b = 0; b < 8; b++, y += 32) {
        block_indices(BLOCK_IQ1_S, u, &scale, x, b);
        for (int i = 0; i < 32; i++) y[i] = d * (float)(scale & 127) * ((float)(u[i] - 1) + (scale >> 7 ? -0.125f : 0.125f));
    }
}
