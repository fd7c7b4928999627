/* From the blocks of a file to the panels of linear_panels.h: each block of 32 is spread out to one byte a number, then packed into its lanes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/blocks_types.h"
#include "kernels/linear_panels.h"

static const struct panel_layout layouts[BLOCK_TYPE_END] = {
    [BLOCK_F16] = { .low = 16 },
    [BLOCK_BF16] = { .low = 16, .pairs = true },
    [BLOCK_Q4_0] = { .scales = 32, .low = 4, .offset = 8 },
    [BLOCK_Q4_1] = { .scales = 64, .low = 4, .minimum = true },
    [BLOCK_Q5_0] = { .scales = 32, .low = 4, .high = 1, .offset = 16 },
    [BLOCK_Q5_1] = { .scales = 64, .low = 4, .high = 1, .minimum = true },
    [BLOCK_Q8_0] = { .scales = 32, .low = 8, .offset = 128 },
    [BLOCK_Q2_K] = { .head = 64, .scales = 32, .low = 2, .two = true, .minimum = true },
    [BLOCK_Q3_K] = { .head = 32, .scales = 32, .low = 2, .high = 1, .offset = 4, .two = true },
    [BLOCK_Q4_K] = { .head = 64, .scales = 32, .low = 4, .minimum = true },
    [BLOCK_Q5_K] = { .head = 64, .scales = 32, .low = 4, .high = 1, .minimum = true },
    [BLOCK_Q6_K] = { .head = 32, .scales = 32, .low = 4, .high = 2, .offset = 32, .two = true },
    [BLOCK_IQ4_NL] = { .scales = 32, .low = 4, .offset = 128 },
    [BLOCK_IQ4_XS] = { .head = 32, .scales = 16, .low = 4, .offset = 128 },
    [BLOCK_MXFP4] = { .scales = 16, .low = 4, .offset = 128 },
    [BLOCK_IQ1_S] = { .head = 32, .scales = 16, .low = 2, .minimum = true },
    [BLOCK_IQ1_M] = { .head = 32, .scales = 16, .low = 2, .high = 1, .offset = 128, .two = true },
    [BLOCK_IQ2_XXS] = { .head = 32, .scales = 16, .low = 2, .high = 1, .offset = 128 },
    [BLOCK_IQ2_XS] = { .head = 32, .scales = 16, .low = 2, .high = 1, .offset = 128, .two = true },
    [BLOCK_IQ2_S] = { .head = 32, .scales = 16, .low = 2, .high = 1, .offset = 128, .two = true },
    [BLOCK_IQ3_XXS] = { .head = 32, .scales = 16, .low = 4, .offset = 128 },
    [BLOCK_IQ3_S] = { .head = 32, .scales = 16, .low = 4, .offset = 128 },
    [BLOCK_TQ1_0] = { .head = 32, .low = 2, .offset = 1 },
    [BLOCK_TQ2_0] = { .head = 32, .low = 2, .offset = 1 },
};

const struct panel_layout *panel_layout(int type) { return type >= 0 && type < BLOCK_TYPE_END && layouts[type].low ? layouts + type : NULL; }

static void spread_nibbles(uint8_t *u, const uint8_t *q)
{
    for (int i = 0; i < 16; i++) u[i] = q[i] & 15, u[16 + i] = q[i] >> 4;
}
static void add_fifth_bits(uint8_t *u, const uint8_t *bits)
{
    for (int i = 0; i < 32; i++) u[i] |= (uint8_t)((bits[i / 8] >> i % 8 & 1) << 4);
}

static void negate_f16(uint8_t *y, const uint8_t *x) { y[0] = x[0], y[1] = x[1] ^ 0x80; }

/* Block b (of 8 in formats of 256) of the row at x: its numbers u [32], and its scales as this row's lane of each array, in order. */
static void spread_block(int type, const uint8_t *x, int b, uint8_t *u, uint8_t *scales)
{
    switch (type) {
    case BLOCK_Q4_0:
    case BLOCK_IQ4_NL: spread_nibbles(u, x + 2), memcpy(scales, x, 2); break;
    case BLOCK_Q4_1:   spread_nibbles(u, x + 4), memcpy(scales, x, 2), negate_f16(scales + 2, x + 2); break;
    case BLOCK_Q5_0:   spread_nibbles(u, x + 6), add_fifth_bits(u, x + 2), memcpy(scales, x, 2); break;
    case BLOCK_Q5_1:   spread_nibbles(u, x + 8), add_fifth_bits(u, x + 4), memcpy(scales, x, 2), negate_f16(scales + 2, x + 2); break;
    case BLOCK_Q8_0:   memcpy(scales, x, 2); for (int i = 0; i < 32; i++) u[i] = x[2 + i] ^ 0x80; break;
    case BLOCK_MXFP4:  spread_nibbles(u, x + 1), scales[0] = x[0]; break;
    case BLOCK_IQ4_XS: {
        spread_nibbles(u, x + 8 + b * 16);
        scales[0] = (uint8_t)(((x[4 + b / 2] >> (b % 2 * 4) & 15) | (half_load_16(x + 2) >> 2 * b & 3) << 4) - 32);
        break;
    }
    case BLOCK_Q4_K:
    case BLOCK_Q5_K: {
        const uint8_t *q = x + (type == BLOCK_Q4_K ? 16 : 48) + b / 2 * 32;
        int scale, min;
        block_scale_min(x + 4, b, &scale, &min);
        scales[0] = (uint8_t)scale, scales[1] = (uint8_t)min;
        const int shift = b % 2 * 4;
        for (int i = 0; i < 32; i++) u[i] = (uint8_t)(q[i] >> shift & 15);
        for (int i = 0; i < 32 && type == BLOCK_Q5_K; i++) u[i] |= (uint8_t)((x[16 + i] >> b & 1) << 4);
        break;
    }
    case BLOCK_Q6_K: {
        const uint8_t *low = x + b / 4 * 64 + b % 2 * 32, *high = x + 128 + b / 4 * 32;
        const int shift = b % 4 / 2 * 4, shift_high = b % 4 * 2;
        for (int i = 0; i < 32; i++) u[i] = (uint8_t)((low[i] >> shift & 15) | (high[i] >> shift_high & 3) << 4);
        scales[0] = x[192 + 2 * b], scales[1] = x[193 + 2 * b];
        break;
    }
    case BLOCK_Q3_K:
        for (int i = 0; i < 32; i++) u[i] = (uint8_t)((x[32 + b / 4 * 32 + i] >> (b % 4 * 2) & 3) | (x[i] >> b & 1) << 2);
        for (int h = 0; h < 2; h++) {
            const int s = 2 * b + h;
            scales[h] = (uint8_t)(((x[96 + s % 8] >> (s / 8 * 4) & 15) | (x[104 + s % 4] >> (s / 4 * 2) & 3) << 4) - 32);
        }
        break;
    case BLOCK_IQ1_M:
    case BLOCK_IQ2_XS:
    case BLOCK_IQ2_S:  block_indices(type, u, scales, x, b), scales[0] = (uint8_t)(scales[0] / 2 | scales[1] / 2 << 4); break;
    case BLOCK_IQ1_S:
    case BLOCK_IQ2_XXS:
    case BLOCK_IQ3_XXS:
    case BLOCK_IQ3_S:  block_indices(type, u, scales, x, b); break;
    case BLOCK_TQ1_0:  for (int i = 0; i < 32; i++) u[i] = block_digit_tq1_0(x, 32 * b + i); break;
    case BLOCK_TQ2_0:  for (int i = 0; i < 32; i++) u[i] = block_digit_tq2_0(x, 32 * b + i); break;
    default:                             /* Q2_K */
        for (int i = 0; i < 32; i++) u[i] = x[16 + b / 4 * 32 + i] >> (b % 4 * 2) & 3;
        scales[0] = (uint8_t)((x[2 * b] & 15) | x[2 * b + 1] << 4), scales[1] = (uint8_t)(x[2 * b] >> 4 | (x[2 * b + 1] & 0xf0));
    }
}

static void head_of(int type, const uint8_t *x, uint8_t *head)
{
    switch (type) {
    case BLOCK_Q2_K: memcpy(head, x + 80, 4); break;
    case BLOCK_Q3_K: memcpy(head, x + 108, 2); break;
    case BLOCK_Q6_K: memcpy(head, x + 208, 2); break;
    case BLOCK_IQ1_M: { const uint16_t d = block_scale_iq1_m(x); memcpy(head, &d, 2); break; }
    case BLOCK_TQ1_0: memcpy(head, x + 52, 2); break;
    case BLOCK_TQ2_0: memcpy(head, x + 64, 2); break;
    default:         memcpy(head, x, 4);         /* Q4_K, Q5_K: d, dmin; IQ1_S to IQ4: d */
    }
}

/* bits [shift, shift + bits) of u [32] into row r's lanes of an array of so many bits: 4 numbers, a group, at a time */
static void put_bits(uint8_t *to, int bits, const uint8_t *u, int shift, int r)
{
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    const int together = 8 / bits, vectors = bits;                    /* groups of one vector; vectors */
    for (int v = 0; v < vectors; v++) {
        uint32_t dword = 0;
        for (int i = 0; i < together; i++) {
            uint32_t group;
            memcpy(&group, u + 4 * (bits == 4 ? v + 4 * i : v * together + i), sizeof group);
            dword |= (group >> shift & mask) << (i * bits);
        }
        memcpy(to + v * 64 + r * 4, &dword, sizeof dword);
    }
}

/* lane r of arrays of `width` bytes a lane */
static void put_lanes(uint8_t *to, const uint8_t *from, int bytes, int width, int r)
{
    for (int at = 0; at < bytes; at += width)
        if (width == 2) memcpy(to + at * PANEL_ROWS + r * 2, from + at, 2);
        else to[at * PANEL_ROWS + r] = from[at];
}

static void pack_row(uint8_t *panel, int type, const uint8_t *x, int r, int64_t k)
{
    const struct panel_layout *p = layouts + type;
    const struct block_format *f = block_format(type);
    if (p->low == 16) {
        for (int64_t i = 0; i < k; i++) memcpy(panel + (p->pairs ? (i / 2 * PANEL_ROWS + r) * 2 + i % 2 : i * PANEL_ROWS + r) * 2, x + 2 * i, 2);
        return;
    }
    for (int64_t i = 0; i < k; i += PANEL_BLOCK) {
        uint8_t u[PANEL_BLOCK], scales[4] = { 0 }, head[4];
        const int b = (int)(i % f->elements / PANEL_BLOCK);
        if (p->head && b == 0) {
            head_of(type, x, head);
            put_lanes(panel, head, p->head / PANEL_ROWS, 2, r);
            panel += p->head;
        }
        spread_block(type, x, b, u, scales);
        put_lanes(panel, scales, p->scales / PANEL_ROWS, p->head || p->scales == 16 ? 1 : 2, r);
        put_bits(panel + p->scales, p->low, u, 0, r);
        if (p->high) put_bits(panel + p->scales + p->low * 64, p->high, u, p->low, r);
        panel += panel_block_bytes(p);
        if ((i + PANEL_BLOCK) % f->elements == 0) x += f->bytes;
    }
}

void panel_pack(uint8_t *panel, int type, const void *weight, int64_t row_bytes, int64_t first, int64_t n, int64_t k)
{
    memset(panel, 0, (size_t)panel_bytes(layouts + type, k));
    for (int r = 0; r < PANEL_ROWS && first + r < n; r++) pack_row(panel, type, (const uint8_t *)weight + (first + r) * row_bytes, r, k);
}

/* largest value of a grid */
static int grid_top(int type) { return type == BLOCK_IQ1_M ? 9 : type == BLOCK_IQ3_S ? 15 : type == BLOCK_IQ3_XXS ? 62 : 43; }

/* most that a number of row r of a block can be: |a| times the largest |table(u) - offset|, and |b| */
static float most_of(int type, const uint8_t *head, const uint8_t *scales, int r)
{
    const struct panel_layout *p = layouts + type;
    const float d = p->head ? half_load_f16(head + 2 * r) : 0, down = p->head == 64 ? half_load_f16(head + 32 + 2 * r) : 0;
    const int bits = p->low + p->high, top = p->minimum ? (1 << bits) - 1 : p->offset, first = p->scales ? scales[r] : 0, second = p->scales > 16 ? scales[16 + r] : 0;
    switch (type) {
    case BLOCK_Q4_K:
    case BLOCK_Q5_K:   return fabsf(d) * (float)(top * first) + fabsf(down) * (float)second;
    case BLOCK_Q2_K:   return fabsf(d) * (float)(top * 15) + fabsf(down) * 15;
    case BLOCK_Q6_K:
    case BLOCK_Q3_K:   return fabsf(d) * (float)(top * (abs((int8_t)first) > abs((int8_t)second) ? abs((int8_t)first) : abs((int8_t)second)));
    case BLOCK_IQ4_XS: return fabsf(d) * (float)(top * abs((int8_t)first));
    case BLOCK_IQ2_XXS:
    case BLOCK_IQ3_XXS:
    case BLOCK_IQ3_S:  return fabsf(d) * block_factor(type) * (float)(grid_top(type) * first);
    case BLOCK_IQ1_M:
    case BLOCK_IQ2_XS:
    case BLOCK_IQ2_S:  return fabsf(d) * block_factor(type) * (float)(grid_top(type) * (2 * ((first & 15) > first >> 4 ? first & 15 : first >> 4) + 1));
    case BLOCK_IQ1_S:  return fabsf(d) * (float)(first & 127) * (2 + 1.125f);
    case BLOCK_TQ1_0:  return fabsf(d);
    case BLOCK_TQ2_0:  return fabsf(d) * 2;
    case BLOCK_MXFP4:  return block_power_mxfp4((uint8_t)first) * 12;
    case BLOCK_Q4_1:
    case BLOCK_Q5_1:   return fabsf(half_load_f16(scales + 2 * r)) * (float)top + fabsf(half_load_f16(scales + 32 + 2 * r));
    default:           return fabsf(half_load_f16(scales + 2 * r)) * (float)top;
    }
}

void panel_units(float *unit, int type, const uint8_t *panel, int64_t k)
{
    const struct panel_layout *p = layouts + type;
    float most[PANEL_ROWS] = { 0 };
    const uint8_t *head = panel;
    for (int64_t b = 0; b < k / PANEL_BLOCK; b++, panel += panel_block_bytes(p)) {
        if (p->head && b % 8 == 0) head = panel, panel += p->head;
        for (int r = 0; r < PANEL_ROWS; r++) {
            const float top = most_of(type, head, panel, r);
            if (!(top <= most[r])) most[r] = top;
        }
    }
    for (int r = 0; r < PANEL_ROWS; r++) {
        int power = 0;
        frexpf(most[r], &power);
        unit[r] = most[r] == 0 ? 0 : most[r] < 1e37f ? ldexpf(1, power + 1) : NAN;
    }
}
