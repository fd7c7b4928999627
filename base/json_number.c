/* Reading one number. A tensor of 150,000 floats is 150,000 calls, and what clients send are mostly doubles of 16 or 17 digits, so:
 *
 *   1. up to 19 significant digits are gathered into a uint64, eight at a time (the classic SWAR reduction of eight ASCII digits);
 *   2. digits below 2^53 with |exponent| <= 22 are one exact multiplication or division of doubles (Clinger);
 *   3. otherwise, where long double has a 64-bit mantissa, digits * 10^e with |e| <= 27 is one operation on two exact operands, correctly
 *      rounded to 64 bits. Rounding that again to 53 bits can only go wrong when the 64-bit result lies exactly on the midpoint of two
 *      doubles (its low 11 bits are 0x400), so that case, and every other one, goes to 4;
 *   4. strtod, on a normalised copy without a decimal point (no locale, no read past the end). 800 digits and one sticky digit decide
 *      the rounding of any double, so the copy is bounded. */
#include "base/json.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOW_DIGITS = 800 };

static const double exact_pow10[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
#if LDBL_MANT_DIG == 64
static const long double long_pow10[] = { 1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,  1e7L,  1e8L,  1e9L,  1e10L, 1e11L, 1e12L, 1e13L,
                                          1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L, 1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L };
#endif

/* The digits of a number, as written: integer part [whole, whole + whole_length), fraction likewise, then a decimal exponent. */
struct parts {
    const char *whole, *fraction;
    size_t      whole_length, fraction_length;
    int64_t     exponent;
    bool        negative;
};

static inline bool is_digit(char c) { return (unsigned char)(c - '0') <= 9; }

static inline bool eight_digits(uint64_t v)
{
    return ((v & 0xf0f0f0f0f0f0f0f0u) | (((v + 0x0606060606060606u) & 0xf0f0f0f0f0f0f0f0u) >> 4)) == 0x3333333333333333u;
}

static inline uint32_t eight_value(uint64_t v)
{
    v -= 0x3030303030303030u;
    v = v * 10 + (v >> 8);      /* pairs, in every second byte */
    return (uint32_t)((((v & 0x000000ff000000ffu) * (100 + (1000000ull << 32))) + (((v >> 16) & 0x000000ff000000ffu) * (1 + (10000ull << 32)))) >> 32);
}

/* Reads digits from p on; *w takes them all, wrapping past 19 of them (the caller counts). */
static inline const char *read_digits(const char *p, const char *end, uint64_t *w)
{
    uint64_t v = *w;
    while (end - p >= 8) {
        uint64_t eight;
        memcpy(&eight, p, 8);
        if (!eight_digits(eight)) break;
        v = v * 100000000u + eight_value(eight);
        p += 8;
    }
    while (p < end && is_digit(*p)) v = v * 10 + (uint64_t)(*p++ - '0');
    *w = v;
    return p;
}

static bool read_slow(const struct parts *n, double *out)
{
    char     text[SLOW_DIGITS + 64];
    size_t   at = 0, dropped = 0;
    bool     sticky = false;
    if (n->negative) text[at++] = '-';
    size_t start = at;
    for (int part = 0; part < 2; part++) {
        const char *d = part ? n->fraction : n->whole;
        size_t length = part ? n->fraction_length : n->whole_length;
        for (size_t i = 0; i < length; i++) {
            if (at == start && d[i] == '0') continue;       /* leading zeros count for the exponent only through fraction_length */
            if (at - start < SLOW_DIGITS) {
                text[at++] = d[i];
            } else {
                dropped++;
                sticky |= d[i] != '0';
            }
        }
    }
    if (at == start) text[at++] = '0';
    int64_t e = n->exponent - (int64_t)n->fraction_length + (int64_t)dropped;
    if (sticky) text[at++] = '1', e--;
    if (e > 100000000) e = 100000000;
    if (e < -100000000) e = -100000000;
    snprintf(text + at, sizeof text - at, "e%lld", (long long)e);
    *out = strtod(text, NULL);
    return isfinite(*out);
}

/* `w` holds all digits of the number, at most 19. */
static bool read_real(const struct parts *n, uint64_t w, double *out)
{
    int64_t e = n->exponent - (int64_t)n->fraction_length;
    if (!w) return *out = n->negative ? -0.0 : 0.0, true;
    if (w <= (1ull << 53) && e >= -22 && e <= 22) {
        double d = e < 0 ? (double)w / exact_pow10[-e] : (double)w * exact_pow10[e];
        return *out = n->negative ? -d : d, true;
    }
#if LDBL_MANT_DIG == 64
    if (e >= -27 && e <= 27) {
        long double l = e < 0 ? (long double)w / long_pow10[-e] : (long double)w * long_pow10[e];
        uint64_t mantissa;
        memcpy(&mantissa, &l, 8);
        if ((mantissa & 0x7ff) != 0x400) return *out = n->negative ? -(double)l : (double)l, true;
    }
#endif
    return read_slow(n, out);
}

/* The integer part alone: exact where it fits, else a double. */
static bool set_integer(const struct parts *n, uint64_t w, struct json *out)
{
    static const char max[] = "18446744073709551615";
    bool fits = n->whole_length < 20 || (n->whole_length == 20 && memcmp(n->whole, max, 20) <= 0);
    if (fits && !n->negative) {
        out->type = w <= INT64_MAX ? JSON_INT : JSON_UINT;
        out->natural = w;
        return true;
    }
    if (fits && w <= (uint64_t)INT64_MAX + 1) {
        out->type = JSON_INT;
        out->integer = (int64_t)(0 - w);
        return true;
    }
    out->type = JSON_REAL;
    return read_slow(n, &out->real);
}

/* p is behind 'e' or 'E'. A huge exponent is held at a value that is certainly out of range, whatever the digits. */
static const char *read_exponent(const char *p, const char *end, int64_t *out)
{
    bool negative = false;
    if (p < end && (*p == '+' || *p == '-')) negative = *p++ == '-';
    if (p == end || !is_digit(*p)) return NULL;
    int64_t e = 0;
    for (; p < end && is_digit(*p); p++)
        if (e < (int64_t)1 << 40) e = e * 10 + (*p - '0');
    *out = negative ? -e : e;
    return p;
}

const char *json_number(const char *p, const char *end, struct json *out)
{
    struct parts n = { 0 };
    uint64_t w = 0;
    if (p < end && *p == '-') n.negative = true, p++;
    if (p == end || !is_digit(*p)) return NULL;
    n.whole = p;
    if (*p == '0') p++;                                    /* a digit behind it is the caller's syntax error */
    else p = read_digits(p, end, &w);
    n.whole_length = (size_t)(p - n.whole);
    bool real = false;
    if (p < end && *p == '.') {
        n.fraction = ++p;
        p = read_digits(p, end, &w);
        n.fraction_length = (size_t)(p - n.fraction);
        if (!n.fraction_length) return NULL;
        real = true;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p = read_exponent(p + 1, end, &n.exponent);
        if (!p) return NULL;
        real = true;
    }
    if (!real) return set_integer(&n, w, out) ? p : NULL;
    out->type = JSON_REAL;
    size_t digits = n.whole_length + n.fraction_length;
    if (digits > 19 && *n.whole == '0') {                  /* 0.000123: zeros in front do not count */
        size_t zeros = 0;
        while (zeros < n.fraction_length && n.fraction[zeros] == '0') zeros++;
        digits = n.fraction_length - zeros;
    }
    bool ok = digits <= 19 ? read_real(&n, w, &out->real) : read_slow(&n, &out->real);
    return ok ? p : NULL;
}
