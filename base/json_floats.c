/* Runs of plain numbers, as tensors are made of: "0.1234567,-1.5,3e-05". Digits are taken eight at a time without a branch on how many there are: the
 * bytes behind the last digit are shifted out of the word. What is not plain (more than 19 digits, a rounding in doubt) goes to json_number, so
 * that every value is rounded as it rounds it. */
#include "base/json.h"

#include "base/json_scale.h"

#include <string.h>

static const double pow10_exact[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
static const uint64_t pow10_whole[] = { 1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000 };

enum { SAFE = 48 /* bytes that may be read from the start of a number */ };

/* How many of the eight bytes at p are digits before the first that is none, and their value. */
static inline int some_digits(const char *p, uint64_t *value)
{
    uint64_t v, other;
    memcpy(&v, p, 8);
    other = ((v + 0x4646464646464646u) | (v - 0x3030303030303030u)) & 0x8080808080808080u;
    int n = other ? __builtin_ctzll(other) / 8 : 8;
    int half = 32 - 4 * n;      /* twice half of the way: with no digit everything is shifted out, without a branch */
    v = (v - 0x3030303030303030u) << half << half;
    v = v * 10 + (v >> 8);
    *value = (((v & 0x000000ff000000ffu) * (100 + (1000000ull << 32))) + (((v >> 16) & 0x000000ff000000ffu) * (1 + (10000ull << 32)))) >> 32;
    *value &= 0xffffffffu;
    return n;
}

/* One plain number at p; NULL when it is not plain. */
static inline const char *plain(const char *p, float *out)
{
    uint64_t w, more;
    bool negative = *p == '-';      /* signs are random: added, not branched upon */
    p += negative;
    int whole = 1, e = 0;
    bool many = false;      /* more than 15 digits may be more than one exact operation takes */
    /* Where the next number starts depends on where this one ends; a branch that is guessed right breaks that chain, so the common forms are asked for. */
    if (p[1] == '.' && (unsigned char)(*p - '0') <= 9) {
        w = (uint64_t)(*p - '0');
        p++;
    } else {
        whole = some_digits(p, &w);
        if (whole == 0 || whole == 8 || (whole > 1 && *p == '0')) return NULL;
        p += whole;
    }
    if (*p == '.') {
        int digits = 0, n = some_digits(++p, &more);
        if (!n) return NULL;
        while (n == 8) {      /* doubles have 16 or 17 digits: two groups and a bit. Steps of a constant: the next group does not wait for n */
            w = w * 100000000u + more;
            p += 8;
            digits += 8;
            if (digits > 16) return NULL;
            n = some_digits(p, &more);
        }
        w = w * pow10_whole[n] + more;
        p += n;
        digits += n;
        if (whole + digits > 19) return NULL;
        many = whole + digits > 15;
        e = -digits;
    }
    if ((*p | 0x20) == 'e') {
        bool down = p[1] == '-';
        p += 1 + (p[1] == '-' || p[1] == '+');
        int n = some_digits(p, &more);
        if (!n || n > 3) return NULL;
        e += down ? -(int)more : (int)more;
        p += n;
    }
    double d;
    if (many || e < -22 || e > 22) {
        if (!w || !json_scale(w, e, &d)) return NULL;
    } else {
        d = e < 0 ? (double)w / pow10_exact[-e] : (double)w * pow10_exact[e];
    }
    uint32_t bits;
    float f = (float)d;
    memcpy(&bits, &f, 4);
    bits |= (uint32_t)negative << 31;
    memcpy(out, &bits, 4);
    return p;
}

const char *json_floats(const char *p, const char *end, float *out, uint64_t most, uint64_t *count)
{
    uint64_t n = 0;
    while (n < most && end - p > SAFE) {
        const char *q = plain(p, &out[n]);
        if (!q || *q != ',') break;
        n++;
        p = q + 1;
        if (*p == ' ') p++;
    }
    *count = n;
    return p;
}
