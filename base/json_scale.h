/* Decimal digits times a power of ten, correctly rounded to a double: shared by json_number.c and json_floats.c. */
#ifndef BASE_JSON_SCALE_H
#define BASE_JSON_SCALE_H

#include <stdbool.h>
#include <string.h>

#include "base/json_pow10.h"

/* w * 10^e for w > 0; false when the rounding is in doubt or the result is no normal double.
 *
 * The digits, moved up to 64 bits, are multiplied by the 126-bit power of ten. That power is too large by less than one unit, so the 192-bit
 * product is too large by less than four units of its middle word. The top 53 bits are the answer and what is below them rounds it; only
 * when that lies within those four units above exactly one half is the answer in doubt. */
static inline bool json_scale(uint64_t w, int e, double *out)
{
    if (e < POW10_FIRST || e > POW10_LAST) return false;
    const struct json_pow10 *t = &json_pow10[e - POW10_FIRST];
    int zeros = __builtin_clzll(w);
    w <<= zeros;
    unsigned __int128 upper = (unsigned __int128)w * (t->high << 2 | t->low >> 62) + (uint64_t)((unsigned __int128)w * (t->low << 2) >> 64);
    uint64_t top = (uint64_t)(upper >> 64), middle = (uint64_t)upper;
    int shift = 10 + (int)(top >> 63);
    uint64_t mantissa = top >> shift, rest = top & ((1ull << shift) - 1), half = 1ull << (shift - 1);
    if (rest == half && middle <= 4) return false;
    mantissa += rest >= half;
    int exponent = 63 + (int)(top >> 63) + pow10_floor_log2(e) - zeros + 1023 + (int)(mantissa >> 53);
    if (exponent < 1 || exponent > 2046) return false;
    uint64_t bits = (uint64_t)exponent << 52 | ((mantissa >> (mantissa >> 53)) & 0xfffffffffffffu);
    memcpy(out, &bits, 8);
    return true;
}

#endif
