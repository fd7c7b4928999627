/* Reading one number. A tensor of 150,000 floats is 150,000 calls, and what clients send are mostly doubles of 16 or 17 digits, so:
 *
 *   1. up to 19 significant digits are gathered into a uint64, eight at a time (the classic SWAR reduction of eight ASCII digits);
 *   2. they are scaled by a 126-bit power of ten (json_scale.h), which settles the rounding of nearly every number;
 *   3. for the others, and outside the range of normal doubles, strtod decides, on a normalised copy without a decimal point (no
 *      locale, no read past the end). 800 digits and one sticky digit decide the rounding of any double, so the copy is bounded. */
#include "base/json.h"

#include "base/json_scale.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOW_DIGITS = 800 };

/* The digits of a number, as written: integer part [whole, whole + whole_length), fraction likewise, then a decimal exponent. */
struct parts {
    const char *whole, *fraction;
    size_t      whole_length, fraction_length;
    int64_t     exponent;
    bool        negative;
};

static inline bool is_digit(char c) { return (unsigned char)(c - '0') <= 9; }

static inline uint32_t eight_value(uint64_t v)
{
    v -= 0x3030303030303030u;
    v = v * 10 + (v >> 8);      /* pairs, in every second byte */
    return (uint32_t)((((v & 0x000000ff000000ffu) * (100 + (1000000ull << 32))) + (((v >> 16) & 0x000000ff000000ffu) * (1 + (10000ull << 32)))) >> 32);
}

/* Reads digits from p on; *w takes them all, wrapping past 19 of them (the caller counts). The last group of fewer than eight is moved up behind
 * zeros instead of being read one by one: how many there are is random, and a branch on it would be guessed wrong. */
static inline const char *read_digits(const char *p, const char *end, uint64_t *w)
{
    static const uint32_t pow10_of[8] = { 1, 10, 100, 1000, 10000, 100000, 1000000, 10000000 };
    uint64_t v = *w;
    while (end - p >= 8) {
        uint64_t eight;
        memcpy(&eight, p, 8);
        uint64_t other = ((eight + 0x4646464646464646u) | (eight - 0x3030303030303030u)) & 0x8080808080808080u;   /* marks bytes that are no digits; right up to the first */
        if (!other) {
            v = v * 100000000u + eight_value(eight);
            p += 8;
            continue;
        }
        int count = __builtin_ctzll(other) >> 3;
        eight = (eight << (8 * (7 - count)) << 8) | 0x3030303030303030u >> (8 * count);
        *w = v * pow10_of[count] + eight_value(eight);
        return p + count;
    }
    while (p < end && is_digit(*p)) v = v * 10 + (uint64_t)(*p++ - '0');
    *w = v;
    return p;
}

/* Kept out of line: its buffer would burden every call of json_number with a large frame. */
__attribute__((noinline)) static bool read_slow(const struct parts *n, double *out)
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

/* A real that the first try left: zero, many digits, far exponents. Out of line as well. */
__attribute__((noinline)) static bool read_rest(const struct parts *n, double *out)
{
    uint64_t w = 0;
    const char *d = n->whole_length == 1 && *n->whole == '0' ? n->fraction : n->whole;
    size_t digits = n->whole_length + n->fraction_length;
    if (d == n->fraction) {                                /* 0.000123: zeros in front do not count */
        size_t zeros = 0;
        while (zeros < n->fraction_length && n->fraction[zeros] == '0') zeros++;
        digits = n->fraction_length - zeros;
    }
    if (digits > 19) return read_slow(n, out);
    if (d == n->whole) read_digits(d, d + n->whole_length, &w);
    if (n->fraction_length) read_digits(n->fraction, n->fraction + n->fraction_length, &w);
    if (!w) return *out = n->negative ? -0.0 : 0.0, true;
    int64_t e = n->exponent - (int64_t)n->fraction_length;
    if (e < POW10_FIRST || e > POW10_LAST || !json_scale(w, (int)e, out)) return read_slow(n, out);
    *out = n->negative ? -*out : *out;
    return true;
}

const char *json_number(const char *p, const char *end, struct json *out)
{
    uint64_t w;
    int64_t exponent = 0;
    if (p == end) return NULL;
    bool negative = *p == '-', real = false;
    p += negative;
    if (p == end || !is_digit(*p)) return NULL;
    const char *whole = p, *fraction = NULL;
    w = (uint64_t)(*p++ - '0');
    if (w && p < end && is_digit(*p)) p = read_digits(p, end, &w);      /* a digit behind a first zero is the caller's syntax error */
    size_t whole_length = (size_t)(p - whole), fraction_length = 0;
    if (p < end && *p == '.') {
        fraction = ++p;
        p = read_digits(p, end, &w);
        fraction_length = (size_t)(p - fraction);
        if (!fraction_length) return NULL;
        real = true;
    }
    if (p < end && (*p | 32) == 'e') {
        p = read_exponent(p + 1, end, &exponent);
        if (!p) return NULL;
        real = true;
    }
    int64_t e = exponent - (int64_t)fraction_length;
    if (real && whole_length + fraction_length <= 19 && w && e >= POW10_FIRST && e <= POW10_LAST && json_scale(w, (int)e, &out->real)) {
        uint64_t bits;
        memcpy(&bits, &out->real, 8);
        bits |= (uint64_t)negative << 63;
        memcpy(&out->real, &bits, 8);
        out->type = JSON_REAL;
        return p;
    }
    struct parts n = { .whole = whole, .fraction = fraction, .whole_length = whole_length, .fraction_length = fraction_length, .exponent = exponent, .negative = negative };
    if (!real) return set_integer(&n, w, out) ? p : NULL;
    out->type = JSON_REAL;
    return read_rest(&n, &out->real) ? p : NULL;
}
