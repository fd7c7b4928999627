#include "engine/diffusion/noise.h"

#include <math.h>

enum { SHIFT = 397, GROUP = 16 };

void noise_seed(struct noise *n, uint64_t seed)
{
    n->words[0] = (uint32_t)seed;
    for (int i = 1; i < NOISE_WORDS; i++) n->words[i] = 1812433253u * (n->words[i - 1] ^ n->words[i - 1] >> 30) + (uint32_t)i;
    n->at = NOISE_WORDS;
    n->has_spare = false;
}

static void refill(struct noise *n)
{
    uint32_t *w = n->words;
    for (int i = 0; i < NOISE_WORDS; i++) {
        uint32_t y = (w[i] & 0x80000000u) | (w[(i + 1) % NOISE_WORDS] & 0x7fffffffu);
        w[i] = w[(i + SHIFT) % NOISE_WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    n->at = 0;
}

static uint32_t draw(struct noise *n)
{
    if (n->at == NOISE_WORDS) refill(n);
    uint32_t y = n->words[n->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static float uniform(struct noise *n) { return (float)(draw(n) & 0xffffffu) * 0x1p-24f; }

static double uniform_long(struct noise *n)
{
    uint64_t high = draw(n);
    return (double)((high << 32 | draw(n)) & 0x1fffffffffffffu) * 0x1p-53;
}

/* Sixteen uniforms become sixteen normals: element j the cosine, j + 8 the sine. */
static void turn_group(float *y)
{
    for (int j = 0; j < GROUP / 2; j++) {
        const float radius = sqrtf(-2 * logf(1 - y[j])), angle = 2 * (float)M_PI * y[j + GROUP / 2];
        y[j] = radius * cosf(angle);
        y[j + GROUP / 2] = radius * sinf(angle);
    }
}

static double draw_pair(struct noise *n)
{
    if (n->has_spare) {
        n->has_spare = false;
        return n->spare;
    }
    const double u = uniform_long(n), v = uniform_long(n), radius = sqrt(-2 * log1p(-v)), angle = 2 * M_PI * u;
    n->spare = radius * sin(angle);
    n->has_spare = true;
    return radius * cos(angle);
}

void noise_fill(struct noise *n, float *y, int64_t count)
{
    if (count < GROUP) {
        for (int64_t i = 0; i < count; i++) y[i] = (float)draw_pair(n);
        return;
    }
    for (int64_t i = 0; i < count; i++) y[i] = uniform(n);
    for (int64_t i = 0; i + GROUP <= count; i += GROUP) turn_group(y + i);
    if (count % GROUP) {      /* the last sixteen are drawn anew */
        y += count - GROUP;
        for (int j = 0; j < GROUP; j++) y[j] = uniform(n);
        turn_group(y);
    }
}
