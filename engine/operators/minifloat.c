#include "engine/operators/minifloat.h"

#include <math.h>

/* mantissa bits, exponent bias, the largest finite number, the bits of infinity and of NaN (0: it has none; a NaN of 0x80 stands where -0 would). */
struct format { int mantissa, bias, sign; double most; uint8_t infinity, nan; };

static const struct format *format_of(enum dtype t)
{
    static const struct format e4m3fn = { 3, 7, 0x80, 448, 0, 0x7f }, e4m3fnuz = { 3, 8, 0x80, 240, 0, 0x80 }, e5m2 = { 2, 15, 0x80, 57344, 0x7c, 0x7e }, e5m2fnuz = { 2, 16, 0x80, 57344, 0, 0x80 }, e2m1 = { 1, 1, 8, 6, 0, 0 };
    switch (t) {
    case DT_F8E4M3FN: return &e4m3fn;
    case DT_F8E4M3FNUZ: return &e4m3fnuz;
    case DT_F8E5M2: return &e5m2;
    case DT_F8E5M2FNUZ: return &e5m2fnuz;
    default: return &e2m1;
    }
}

bool dtype_is_minifloat(enum dtype t) { return (t >= DT_F8E4M3FN && t <= DT_F8E5M2FNUZ) || t == DT_F4E2M1 || t == DT_F8E8M0; }

static bool is_nan(const struct format *f, unsigned bits)
{
    if (f->nan == 0x80) return bits == 0x80;
    if (f->infinity) return (bits & 0x7f) > f->infinity;
    return f->nan && (bits & 0x7f) == f->nan;
}

double minifloat_decode(enum dtype t, unsigned bits)
{
    if (t == DT_F8E8M0) return bits == 255 ? (double)NAN : ldexp(1, (int)bits - 127);
    const struct format *f = format_of(t);
    if (is_nan(f, bits)) return (double)NAN;
    int plain = (int)(bits & (unsigned)(f->sign - 1)), fraction = plain & ((1 << f->mantissa) - 1), exponent = plain >> f->mantissa;
    double v = f->infinity && plain == f->infinity ? (double)INFINITY : exponent ? ldexp((double)(fraction + (1 << f->mantissa)), exponent - f->bias - f->mantissa) : ldexp((double)fraction, 1 - f->bias - f->mantissa);
    return bits & (unsigned)f->sign ? -v : v;
}

/* A power of two from 2^-127 to 2^127; the sign is dropped. */
static uint8_t encode_exponent(double x, bool saturate, enum minifloat_round round)
{
    if (x != x || isinf(x)) return 255;
    int e;
    double fraction = frexp(fabs(x), &e);                /* 0.5 <= fraction < 1 */
    if (fraction == 0) return 0;
    int field = e - 1 + 127;
    if (field < 0) return 0;
    bool up = round == MINIFLOAT_UP ? fraction > 0.5 : round == MINIFLOAT_NEAREST && fraction >= 0.75;
    if (field >= 254) return field > 254 ? (saturate ? 254 : 255) : up && !saturate ? 255 : 254;
    return (uint8_t)(field + up);
}

uint8_t minifloat_encode(enum dtype t, double x, bool saturate, enum minifloat_round round)
{
    if (t == DT_F8E8M0) return encode_exponent(x, saturate, round);
    const struct format *f = format_of(t);
    int sign = signbit(x) ? f->sign : 0, e;
    if (x != x) return f->nan == 0x80 ? 0x80 : f->nan ? (uint8_t)(f->nan | sign) : (uint8_t)f->sign;
    double most = f->most, v = fabs(x);
    frexp(v, &e);
    int lowest = 1 - f->bias, unit = (v > 0 && e - 1 > lowest ? e - 1 : lowest) - f->mantissa;      /* the exponent of the last place */
    if (!isinf(v)) v = ldexp(nearbyint(ldexp(v, -unit)), unit);
    if (v > most) {
        if (!saturate && f->infinity) return (uint8_t)(f->infinity | sign);
        if (!saturate && f->nan) return f->nan == 0x80 ? 0x80 : (uint8_t)(f->nan | sign);
        v = most;
    }
    if (v == 0) return (uint8_t)(f->nan == 0x80 ? 0 : sign);
    frexp(v, &e);
    int exponent = e - 1, plain;
    if (exponent < lowest) plain = (int)ldexp(v, f->mantissa - lowest);
    else plain = ((exponent + f->bias) << f->mantissa) + (int)ldexp(v, f->mantissa - exponent) - (1 << f->mantissa);
    return (uint8_t)(plain | sign);
}
