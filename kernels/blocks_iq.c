/* Decoding of the formats whose numbers come in vectors of 8 or 4 from a fixed grid (blocks_grids.h). A grid point is stored as 2-bit or 3-bit indices of the
 * few magnitudes that occur. Where signs are packed 7 to a vector, the eighth makes their number even. */
#include "kernels/blocks_grids.h"
#include "kernels/blocks_types.h"

static const float magnitudes_iq2[4] = { 8, 25, 43, 0 }, magnitudes_iq3_xxs[8] = { 4, 12, 20, 28, 36, 44, 52, 62 };

static unsigned signs_of_seven(unsigned s) { return s | (unsigned)__builtin_parity(s) << 7; }

/* y[0..8) = scale * grid point * signs */
static void vector_of_8(float *y, float scale, uint16_t point, unsigned signs)
{
    for (int i = 0; i < 8; i++) {
        const float v = scale * magnitudes_iq2[point >> 2 * i & 3];
        y[i] = signs >> i & 1 ? -v : v;
    }
}

static void vector_of_4(float *y, float scale, uint16_t point, const float *magnitudes, unsigned signs)
{
    for (int i = 0; i < 4; i++) {
        const float v = scale * magnitudes[point >> 3 * i & 7];
        y[i] = signs >> i & 1 ? -v : v;
    }
}

/* d, then per 32 numbers: 4 grid indices, and a word of 4 x 7 signs and a 4-bit scale */
void block_decode_iq2_xxs(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int b = 0; b < 8; b++) {
        const uint8_t *at = x + 2 + b * 8;
        const uint32_t word = half_load_32(at + 4);
        const float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
        for (int v = 0; v < 4; v++, y += 8) vector_of_8(y, scale, block_grid_iq2_xxs[at[v]], signs_of_seven(word >> 7 * v & 127));
    }
}

/* d, 32 words of 9 bits of index and 7 signs, 16 scales of 4 bits */
void block_decode_iq2_xs(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int v = 0; v < 32; v++, y += 8) {
        const unsigned word = half_load_16(x + 2 + v * 2);
        const float scale = d * (0.5f + (float)(x[66 + v / 4] >> (v / 2 % 2 * 4) & 15)) * 0.25f;
        vector_of_8(y, scale, block_grid_iq2_xs[word & 511], signs_of_seven(word >> 9));
    }
}

/* d, 32 low bytes of indices, 32 bytes of signs, 8 bytes of 2 high bits, 16 scales of 4 bits */
void block_decode_iq2_s(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int v = 0; v < 32; v++, y += 8) {
        const unsigned index = x[2 + v] | (unsigned)(x[66 + v / 4] >> (v % 4 * 2) & 3) << 8;
        const float scale = d * (0.5f + (float)(x[74 + v / 4] >> (v / 2 % 2 * 4) & 15)) * 0.25f;
        vector_of_8(y, scale, block_grid_iq2_s[index], x[34 + v]);
    }
}

/* d, 64 grid indices, 8 words of 4 x 7 signs and a 4-bit scale */
void block_decode_iq3_xxs(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int v = 0; v < 64; v++, y += 4) {
        const uint32_t word = half_load_32(x + 66 + v / 8 * 4);
        const float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
        vector_of_4(y, scale, block_grid_iq3_xxs[x[2 + v]], magnitudes_iq3_xxs, signs_of_seven(word >> v / 2 % 4 * 7 & 127) >> (v % 2 * 4));
    }
}

/* d, 64 low bytes of indices, 8 bytes of high bits, 32 bytes of signs, 8 scales of 4 bits */
void block_decode_iq3_s(float *y, const uint8_t *x)
{
    static const float magnitudes[8] = { 1, 3, 5, 7, 9, 11, 13, 15 };
    const float d = half_load_f16(x);
    for (int v = 0; v < 64; v++, y += 4) {
        const unsigned index = x[2 + v] | (unsigned)(x[66 + v / 8] >> v % 8 & 1) << 8;
        const float scale = d * (float)(1 + 2 * (x[106 + v / 16] >> (v / 8 % 2 * 4) & 15));
        vector_of_4(y, scale, block_grid_iq3_s[index], magnitudes, (unsigned)x[74 + v / 2] >> (v % 2 * 4));
    }
}

/* grid values -1, 0, 1 moved by an eighth up or down */
static void vector_of_ternary(float *y, float scale, uint16_t point, int down)
{
    for (int i = 0; i < 8; i++) y[i] = scale * ((float)((point >> 2 * i & 3) - 1) + (down ? -0.125f : 0.125f));
}

/* d, 32 low bytes of indices, 8 words of 4 x 3 high bits, a 3-bit scale and the direction */
void block_decode_iq1_s(float *y, const uint8_t *x)
{
    const float d = half_load_f16(x);
    for (int v = 0; v < 32; v++, y += 8) {
        const unsigned word = half_load_16(x + 34 + v / 4 * 2), index = x[2 + v] | (word >> v % 4 * 3 & 7) << 8;
        vector_of_ternary(y, d * (float)(2 * (word >> 12 & 7) + 1), block_grid_iq1[index], word >> 15);
    }
}

/* 32 low bytes of indices, 16 bytes of 3 high bits and direction, 4 words of 4 x 3-bit scales whose top 4 bits together are d */
void block_decode_iq1_m(float *y, const uint8_t *x)
{
    unsigned bits = 0;
    for (int i = 0; i < 4; i++) bits |= (unsigned)(half_load_16(x + 48 + i * 2) >> 12) << 4 * i;
    const float d = f16_to_f32((uint16_t)bits);
    for (int v = 0; v < 32; v++, y += 8) {
        const unsigned more = x[32 + v / 2] >> (v % 2 * 4), index = x[v] | (more & 7) << 8;
        const unsigned scale = half_load_16(x + 48 + v / 8 * 2) >> (v / 2 % 4 * 3) & 7;
        vector_of_ternary(y, d * (float)(2 * scale + 1), block_grid_iq1[index], more >> 3 & 1);
    }
}
