/* Encoding. The formats with one scale take it from the number of largest magnitude, in the arithmetic of the `gguf` package, so that files agree in bytes.
 * The K formats and IQ4 leave a choice: here a sub-block's scale (and minimum) is the best of a row of candidates in the sense of
 * least squares; the sub-block scales are then rounded to the few bits they have, and the numbers rounded once more against those. */
#include <math.h>
#include <stdbool.h>

#include "kernels/blocks_types.h"

/* NaN becomes the low end; halves are rounded away from 0. Held to the ends first, so that what is cut off fits an int; without a call or a branch, so that it can be done for several at once. */
static inline float nearest_number(float v, float low, float high)
{
    v = v > low ? v : low;
    v = v < high ? v : high;
    const float whole = (float)(int)v, rest = v - whole;
    return whole + (rest >= 0.5f ? 1.0f : 0.0f) - (rest <= -0.5f ? 1.0f : 0.0f);
}
static int nearest(float v, int low, int high) { return (int)nearest_number(v, (float)low, (float)high); }
static int clamped(float v, int low, int high)
{
    if (!(v > (float)low)) return low;
    return v >= (float)high ? high : (int)v;
}
static float inverse(float d) { return d == 0 ? 0 : 1.0f / d; }
static void put_f16(uint8_t *y, float d) { half_store_16(y, f32_to_f16(d)); }
static float get_f16(const uint8_t *y) { return half_load_f16(y); }

/* The number of largest magnitude, the first of equals. */
static float extreme(const float *x, int n)
{
    float top = 0, at = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > top) top = fabsf(x[i]), at = x[i];
    return at;
}

static void range(const float *x, int n, float *low, float *high)
{
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < *low) *low = x[i];
        if (x[i] > *high) *high = x[i];
    }
}

static void put_nibbles(uint8_t *y, const int *q)
{
    for (int i = 0; i < 16; i++) y[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}
static void put_fifth_bits(uint8_t *y, const int *q)
{
    for (int b = 0; b < 4; b++) {
        y[b] = 0;
        for (int i = 0; i < 8; i++) y[b] = (uint8_t)(y[b] | (q[b * 8 + i] >> 4 & 1) << i);
    }
}

void block_encode_q4_0(uint8_t *y, const float *x)
{
    int q[BLOCK_SMALL];
    const float d = extreme(x, BLOCK_SMALL) / -8, id = inverse(d);
    for (int i = 0; i < BLOCK_SMALL; i++) q[i] = clamped(x[i] * id + 8.5f, 0, 15);
    put_f16(y, d);
    put_nibbles(y + 2, q);
}

void block_encode_q4_1(uint8_t *y, const float *x)
{
    int q[BLOCK_SMALL];
    float low, high;
    range(x, BLOCK_SMALL, &low, &high);
    const float d = (high - low) / 15, id = inverse(d);
    for (int i = 0; i < BLOCK_SMALL; i++) q[i] = clamped((x[i] - low) * id + 0.5f, 0, 15);
    put_f16(y, d), put_f16(y + 2, low);
    put_nibbles(y + 4, q);
}

void block_encode_q5_0(uint8_t *y, const float *x)
{
    int q[BLOCK_SMALL];
    const float d = extreme(x, BLOCK_SMALL) / -16, id = inverse(d);
    for (int i = 0; i < BLOCK_SMALL; i++) q[i] = clamped(x[i] * id + 16.5f, 0, 31);
    put_f16(y, d);
    put_fifth_bits(y + 2, q);
    put_nibbles(y + 6, q);
}

void block_encode_q5_1(uint8_t *y, const float *x)
{
    int q[BLOCK_SMALL];
    float low, high;
    range(x, BLOCK_SMALL, &low, &high);
    const float d = (high - low) / 31, id = inverse(d);
    for (int i = 0; i < BLOCK_SMALL; i++) q[i] = clamped((x[i] - low) * id + 0.5f, 0, 31);
    put_f16(y, d), put_f16(y + 2, low);
    put_fifth_bits(y + 4, q);
    put_nibbles(y + 8, q);
}

void block_encode_q8_0(uint8_t *y, const float *x)
{
    const float d = fabsf(extreme(x, BLOCK_SMALL)) / 127, id = inverse(d);
    put_f16(y, d);
    for (int i = 0; i < BLOCK_SMALL; i++) y[2 + i] = (uint8_t)nearest(x[i] * id, -128, 127);
}

/* ---- best fits ---- */

/* Candidates are tried side by side, each adding up in the order of the numbers; the first of the best is taken. */
enum { CANDIDATES = 9, TRIED = 2 * CANDIDATES + 1, LANES = 20 /* a whole number of vectors; the last repeats another */ };

/* scale with x ~ scale q, q integral in [-depth, depth - 1] */
static float fit_scale(const float *x, int n, int depth)
{
    const float top = extreme(x, n), low = (float)-depth, high = (float)(depth - 1);
    float best = top / (float)-depth, least = INFINITY, id[LANES], xq[LANES] = { 0 }, qq[LANES] = { 0 }, d[LANES], error[LANES] = { 0 }, q[BLOCK_SMALL][LANES];
    if (top == 0) return 0;
    for (int c = 0; c < LANES; c++) id[c] = -((float)depth + 0.1f * (float)((c < TRIED ? c : 0) - CANDIDATES)) / top;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < LANES; c++) {
            q[i][c] = nearest_number(x[i] * id[c], low, high);
            xq[c] += x[i] * q[i][c], qq[c] += q[i][c] * q[i][c];
        }
    for (int c = 0; c < LANES; c++) d[c] = xq[c] / qq[c];
    for (int i = 0; i < n; i++)
        for (int c = 0; c < LANES; c++) {
            const float off = x[i] - d[c] * q[i][c];
            error[c] += off * off;
        }
    for (int c = 0; c < TRIED; c++)
        if (qq[c] != 0 && error[c] < least) least = error[c], best = d[c];
    return best;
}

/* scale and min >= 0 with x ~ scale q - min, q integral in [0, top] */
static void fit_line(const float *x, int n, int top, float *scale, float *min)
{
    float low, high, least = INFINITY, sx = 0, id[LANES], sq[LANES] = { 0 }, qq[LANES] = { 0 }, xq[LANES] = { 0 }, a[LANES], b[LANES], error[LANES] = { 0 }, q[BLOCK_SMALL][LANES];
    bool fits[LANES];
    range(x, n, &low, &high);
    if (low > 0) low = 0;
    *scale = (high - low) / (float)top, *min = -low;
    if (high <= low) {
        *scale = 0;
        return;
    }
    for (int c = 0; c < LANES; c++) id[c] = ((float)top + 0.1f * (float)((c < TRIED ? c : 0) - CANDIDATES)) / (high - low);
    for (int i = 0; i < n; i++) {
        sx += x[i];
        for (int c = 0; c < LANES; c++) {
            q[i][c] = nearest_number((x[i] - low) * id[c], 0, (float)top);
            sq[c] += q[i][c], qq[c] += q[i][c] * q[i][c], xq[c] += x[i] * q[i][c];
        }
    }
    for (int c = 0; c < LANES; c++) {
        const float det = (float)n * qq[c] - sq[c] * sq[c];
        fits[c] = det > 0;
        a[c] = ((float)n * xq[c] - sx * sq[c]) / det, b[c] = (qq[c] * sx - sq[c] * xq[c]) / det;
        if (b[c] > 0) a[c] = xq[c] / qq[c], b[c] = 0;
    }
    for (int i = 0; i < n; i++)
        for (int c = 0; c < LANES; c++) {
            const float off = a[c] * q[i][c] + b[c] - x[i];
            error[c] += off * off;
        }
    for (int c = 0; c < TRIED; c++)
        if (fits[c] && a[c] > 0 && error[c] < least) least = error[c], *scale = a[c], *min = -b[c];
}

/* d and the rounded sub-block scales: the one of largest magnitude becomes -depth */
static float round_scales(int *rounded, const float *scales, int n, int depth, uint8_t *y_d)
{
    put_f16(y_d, extreme(scales, n) / (float)-depth);
    const float d = get_f16(y_d), id = inverse(d);
    for (int i = 0; i < n; i++) rounded[i] = nearest(scales[i] * id, -depth, depth - 1);
    return d;
}

/* the same for scales that are not negative, 0..top */
static float round_positive(int *rounded, const float *scales, int n, int top, uint8_t *y_d)
{
    put_f16(y_d, extreme(scales, n) / (float)top);
    const float d = get_f16(y_d), id = inverse(d);
    for (int i = 0; i < n; i++) rounded[i] = nearest(scales[i] * id, 0, top);
    return d;
}

void block_encode_q2_k(uint8_t *y, const float *x)
{
    float scales[16], mins[16];
    int s[16], m[16];
    for (int b = 0; b < 16; b++) fit_line(x + b * 16, 16, 3, scales + b, mins + b);
    const float d = round_positive(s, scales, 16, 15, y + 80), dmin = round_positive(m, mins, 16, 15, y + 82);
    memset(y, 0, 80);
    for (int b = 0; b < 16; b++) y[b] = (uint8_t)(s[b] | m[b] << 4);
    for (int i = 0; i < BLOCK_LARGE; i++) {
        const int q = nearest((x[i] + dmin * (float)m[i / 16]) * inverse(d * (float)s[i / 16]), 0, 3);
        y[16 + i / 128 * 32 + i % 32] |= (uint8_t)(q << (i / 32 % 4 * 2));
    }
}

void block_encode_q3_k(uint8_t *y, const float *x)
{
    float scales[16];
    int s[16];
    for (int b = 0; b < 16; b++) scales[b] = fit_scale(x + b * 16, 16, 4);
    const float d = round_scales(s, scales, 16, 32, y + 108);
    memset(y, 0, 108);
    for (int b = 0; b < 16; b++) {
        const int v = s[b] + 32;
        y[96 + b % 8] |= (uint8_t)((v & 15) << (b / 8 * 4));
        y[104 + b % 4] |= (uint8_t)((v >> 4) << (b / 4 * 2));
    }
    for (int i = 0; i < BLOCK_LARGE; i++) {
        const int q = nearest(x[i] * inverse(d * (float)s[i / 16]), -4, 3) + 4;
        y[32 + i / 128 * 32 + i % 32] |= (uint8_t)((q & 3) << (i / 32 % 4 * 2));
        y[i % 32] |= (uint8_t)((q >> 2) << (i / 32));
    }
}

static void put_scale_min(uint8_t *y, int i, int scale, int min)
{
    if (i < 4) {
        y[i] |= (uint8_t)scale, y[i + 4] |= (uint8_t)min;
    } else {
        y[i + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
        y[i - 4] |= (uint8_t)(scale >> 4 << 6), y[i] |= (uint8_t)(min >> 4 << 6);
    }
}

/* Q4_K and Q5_K but for where their bits go: q [256] in 0..top */
static void encode_lines(uint8_t *y, int *q, const float *x, int top)
{
    float scales[8], mins[8];
    int s[8], m[8];
    for (int b = 0; b < 8; b++) fit_line(x + b * 32, 32, top, scales + b, mins + b);
    const float d = round_positive(s, scales, 8, 63, y), dmin = round_positive(m, mins, 8, 63, y + 2);
    memset(y + 4, 0, 12);
    for (int b = 0; b < 8; b++) put_scale_min(y + 4, b, s[b], m[b]);
    for (int i = 0; i < BLOCK_LARGE; i++) q[i] = nearest((x[i] + dmin * (float)m[i / 32]) * inverse(d * (float)s[i / 32]), 0, top);
}

void block_encode_q4_k(uint8_t *y, const float *x)
{
    int q[BLOCK_LARGE];
    encode_lines(y, q, x, 15);
    for (int i = 0; i < 128; i++) y[16 + i] = (uint8_t)(q[i / 32 * 64 + i % 32] | q[i / 32 * 64 + 32 + i % 32] << 4);
}

void block_encode_q5_k(uint8_t *y, const float *x)
{
    int q[BLOCK_LARGE];
    encode_lines(y, q, x, 31);
    memset(y + 16, 0, 32);
    for (int i = 0; i < BLOCK_LARGE; i++) y[16 + i % 32] |= (uint8_t)((q[i] >> 4) << i / 32);
    for (int i = 0; i < 128; i++) y[48 + i] = (uint8_t)((q[i / 32 * 64 + i % 32] & 15) | (q[i / 32 * 64 + 32 + i % 32] & 15) << 4);
}

void block_encode_q6_k(uint8_t *y, const float *x)
{
    float scales[16];
    int s[16];
    for (int b = 0; b < 16; b++) scales[b] = fit_scale(x + b * 16, 16, 32);
    const float d = round_scales(s, scales, 16, 128, y + 208);
    memset(y, 0, 192);
    for (int b = 0; b < 16; b++) y[192 + b] = (uint8_t)s[b];
    for (int i = 0; i < BLOCK_LARGE; i++) {
        const int q = nearest(x[i] * inverse(d * (float)s[i / 16]), -32, 31) + 32;
        y[i / 128 * 64 + i % 64] |= (uint8_t)((q & 15) << (i / 64 % 2 * 4));
        y[128 + i / 128 * 32 + i % 32] |= (uint8_t)((q >> 4) << (i / 32 % 4 * 2));
    }
}

/* the index of the value nearest to v; the values ascend */
static int nearest_iq4(float v)
{
    int low = 0;
    while (low < 14 && v > (float)block_values_iq4[low + 1]) low++;
    return v - (float)block_values_iq4[low] > (float)block_values_iq4[low + 1] - v ? low + 1 : low;
}

static float fit_iq4(const float *x, int n)
{
    const float top = extreme(x, n);
    float best = top / -127.0f, least = INFINITY, id[LANES], xq[LANES] = { 0 }, qq[LANES] = { 0 }, d[LANES], error[LANES] = { 0 }, q[BLOCK_SMALL][LANES];
    if (top == 0) return 0;
    for (int c = 0; c < LANES; c++) id[c] = (-127.0f + 2.0f * (float)((c < TRIED ? c : 0) - CANDIDATES)) / top;
    for (int i = 0; i < n; i++) {
        for (int c = 0; c < LANES; c++) q[i][c] = (float)block_values_iq4[0];
        for (int k = 0; k < 15; k++) {      /* as nearest_iq4: one step up for each middle that is passed */
            const float from = (float)block_values_iq4[k], to = (float)block_values_iq4[k + 1];
            for (int c = 0; c < LANES; c++) q[i][c] += x[i] * id[c] - from > to - x[i] * id[c] ? to - from : 0.0f;
        }
        for (int c = 0; c < LANES; c++) xq[c] += x[i] * q[i][c], qq[c] += q[i][c] * q[i][c];
    }
    for (int c = 0; c < LANES; c++) d[c] = xq[c] / qq[c];
    for (int i = 0; i < n; i++)
        for (int c = 0; c < LANES; c++) {
            const float off = x[i] - d[c] * q[i][c];
            error[c] += off * off;
        }
    for (int c = 0; c < TRIED; c++)
        if (error[c] < least) least = error[c], best = d[c];
    return best;
}

static void put_iq4(uint8_t *y, const float *x, float d)
{
    int q[BLOCK_SMALL];
    const float id = inverse(d);
    for (int i = 0; i < BLOCK_SMALL; i++) q[i] = nearest_iq4(x[i] * id);
    put_nibbles(y, q);
}

void block_encode_iq4_nl(uint8_t *y, const float *x)
{
    put_f16(y, fit_iq4(x, BLOCK_SMALL));
    put_iq4(y + 2, x, get_f16(y));
}

void block_encode_iq4_xs(uint8_t *y, const float *x)
{
    float scales[8];
    int s[8];
    unsigned high = 0;
    for (int b = 0; b < 8; b++) scales[b] = fit_iq4(x + b * 32, 32);
    const float d = round_scales(s, scales, 8, 32, y);
    memset(y + 4, 0, 4);
    for (int b = 0; b < 8; b++) {
        const unsigned v = (unsigned)(s[b] + 32);
        y[4 + b / 2] |= (uint8_t)((v & 15) << (b % 2 * 4));
        high |= (v >> 4) << 2 * b;
        put_iq4(y + 8 + b * 16, x + b * 32, d * (float)s[b]);
    }
    half_store_16(y + 2, (uint16_t)high);
}

/* ---- three values, and the shared power of two ---- */

void block_encode_tq1_0(uint8_t *y, const float *x)
{
    static const struct { int from, bytes, digits; } parts[3] = { { 0, 32, 5 }, { 32, 16, 5 }, { 48, 4, 4 } };
    const float d = fabsf(extreme(x, BLOCK_LARGE)), id = inverse(d);
    for (int p = 0; p < 3; p++) {
        for (int i = 0; i < parts[p].bytes; i++) {
            int v = 0;
            for (int n = 0; n < 5; n++) v = v * 3 + (n < parts[p].digits ? nearest(x[n * parts[p].bytes + i] * id, -1, 1) + 1 : 0);
            y[parts[p].from + i] = (uint8_t)((v * 256 + 242) / 243);
        }
        x += parts[p].bytes * parts[p].digits;
    }
    put_f16(y + 52, d);
}

void block_encode_tq2_0(uint8_t *y, const float *x)
{
    const float d = fabsf(extreme(x, BLOCK_LARGE)), id = inverse(d);
    memset(y, 0, 64);
    for (int i = 0; i < BLOCK_LARGE; i++) y[i / 128 * 32 + i % 32] |= (uint8_t)((nearest(x[i] * id, -1, 1) + 1) << (i / 32 % 4 * 2));
    put_f16(y + 64, d);
}

void block_encode_mxfp4(uint8_t *y, const float *x)
{
    int q[BLOCK_SMALL], exponent = 0;
    const float top = fabsf(extreme(x, BLOCK_SMALL));
    if (top > 0) exponent = (int)(half_to_bits(top) >> 23) - 2;          /* 6 = 1.5 * 2^2 is the largest value */
    if (exponent < 0) exponent = 0;
    const float d = block_power_mxfp4((uint8_t)exponent);
    for (int i = 0; i < BLOCK_SMALL; i++) {
        float least = INFINITY;
        q[i] = 0;
        for (int v = 0; v < 16; v++) {
            const float off = fabsf(d * (float)block_values_mxfp4[v] - x[i]);
            if (off < least) least = off, q[i] = v;
        }
    }
    y[0] = (uint8_t)exponent;
    put_nibbles(y + 1, q);
}
