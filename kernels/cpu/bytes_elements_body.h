/* Bytes number by number at one level (kernels/bytes_level.h): plain loops that the compiler turns into this level's vectors. The formulas have no sum whose order could differ. */
#ifndef KERNELS_CPU_BYTES_ELEMENTS_BODY_H
#define KERNELS_CPU_BYTES_ELEMENTS_BODY_H

#include "kernels/cpu/bytes_body.h"

static void elements_round(uint8_t *restrict y, const float *restrict x, int64_t n, float scale, int zero, uint8_t flip)
{
    const float low = (float)-zero, high = (float)(255 - zero);
    for (int64_t i = 0; i < n; i++) {
        float v = rintf(x[i] / scale);
        v = v > low ? v : low;
        v = v < high ? v : high;
        y[i] = (uint8_t)((int)v + zero) ^ flip;
    }
}

static void elements_restore(float *restrict y, const uint8_t *restrict x, int64_t n, float scale, int zero, uint8_t flip)
{
    for (int64_t i = 0; i < n; i++) y[i] = (float)((x[i] ^ flip) - zero) * scale;
}

VEC_INLINE uint8_t byte_of(float v, const struct bytes_pair *p)
{
    v = rintf(v);
    v = v > p->low ? v : p->low;
    v = v < p->high ? v : p->high;
    return (uint8_t)((int)v + p->zero_y) ^ p->flip_y;
}

static void elements_add(uint8_t *y, const uint8_t *a, const uint8_t *b, int64_t n, const struct bytes_pair *pair)
{
    const struct bytes_pair p = *pair;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) y[i] = byte_of(fmaf((float)((a[i] ^ p.flip_a) - p.zero_a), p.first, (float)((b[i] ^ p.flip_b) - p.zero_b) * p.second), &p);
}

static void elements_multiply(uint8_t *y, const uint8_t *a, const uint8_t *b, int64_t n, const struct bytes_pair *pair)
{
    const struct bytes_pair p = *pair;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) y[i] = byte_of((float)(((a[i] ^ p.flip_a) - p.zero_a) * ((b[i] ^ p.flip_b) - p.zero_b)) * p.first, &p);
}

static void elements_look_up(uint8_t *y, const uint8_t *x, int64_t n, const uint8_t *table)
{
    enum { STEP = 4096 };
    for (int64_t i = 0; i < n; i += STEP) {
        const int64_t some = n - i < STEP ? n - i : STEP;
        if (y != x) memcpy(y + i, x + i, (size_t)some);
        look_up(y + i, (int)some, table);
    }
}

static void elements_largest(uint8_t *restrict y, const uint8_t *restrict x, int64_t n, uint8_t flip)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t a = y[i] ^ flip, b = x[i] ^ flip;
        y[i] = (a > b ? a : b) ^ flip;
    }
}

static void elements_gather(int32_t *restrict sums, const uint8_t *restrict x, int64_t n, uint8_t flip)
{
    for (int64_t i = 0; i < n; i++) sums[i] += x[i] ^ flip;
}

#define BYTES_ELEMENTS { elements_round, elements_restore, elements_add, elements_multiply, elements_look_up, elements_largest, elements_gather }

#endif
