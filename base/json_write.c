/* The writers. Answers hold hundreds of thousands of floats, so the shortest decimal that reads back as the same number is computed with
 * integers, after Raffaello Giulietti's "The Schubfach way to render doubles": a number c * 2^q owns the interval of reals
 * that round to it. Scale that interval by a power of ten so that it is about as wide as one to ten integers; an integer inside,
 * preferably a multiple of ten, is the answer. The three scaled ends are products with a 126-bit power of ten rounded to odd, which keeps
 * every comparison exact. A float is the same with a wider interval. */
#include "base/json.h"

#include "base/json_pow10.h"

#include <math.h>
#include <string.h>

enum { WRITE_DEPTH_MAX = 1024 };

static inline int floor_log10_pow2(int e) { return (e * 1262611) >> 22; }                        /* |e| <= 1100 */
static inline int floor_log10_three_quarters_pow2(int e) { return (e * 1262611 - 524031) >> 22; }

/* (high:low * x) >> 128, the last bit set when anything was cut off */
static inline uint64_t scale_to_odd(uint64_t high, uint64_t low, uint64_t x)
{
    unsigned __int128 lower = (unsigned __int128)low * x, upper = (unsigned __int128)high * x;
    upper += (uint64_t)(lower >> 64);
    return (uint64_t)(upper >> 64) | ((uint64_t)upper > 1);
}

/* digits * 10^*exponent, the shortest within the interval of c * 2^q. `power` says that c is the smallest of its binade: the gap below is half as wide. */
static uint64_t shortest_digits(uint64_t c, int q, bool power, int *exponent)
{
    bool odd = c & 1;
    uint64_t middle = 4 * c, below = power ? middle - 1 : middle - 2, above = middle + 2;
    int k = power ? floor_log10_three_quarters_pow2(q) : floor_log10_pow2(q);
    int h = q + pow10_floor_log2(-k) + 3;           /* the table has two bits of headroom */
    uint64_t high = json_pow10[-k - POW10_FIRST].high, low = json_pow10[-k - POW10_FIRST].low;
    uint64_t low_end = scale_to_odd(high, low, below << h) + odd;
    uint64_t value = scale_to_odd(high, low, middle << h);
    uint64_t high_end = scale_to_odd(high, low, above << h) - odd;
    uint64_t s = value / 4;
    if (s >= 10) {
        uint64_t ten = s / 10;
        bool under = low_end <= 40 * ten, over = 40 * ten + 40 <= high_end;
        if (under != over) return *exponent = k + 1, ten + over;
    }
    *exponent = k;
    bool under = low_end <= 4 * s, over = 4 * s + 4 <= high_end;
    if (under != over) return s + over;
    uint64_t half = 4 * s + 2;
    return s + (value > half || (value == half && (s & 1)));
}

/* Writes v > 0 without a NUL, two digits at a time from the right; returns how many digits there are. */
static int write_digits(char *out, uint64_t v)
{
    static const char pairs[] = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
                                "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    static const uint64_t pow10_of[20] = { 1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000, 1000000000000, 10000000000000, 100000000000000,
        1000000000000000, 10000000000000000, 100000000000000000, 1000000000000000000, 10000000000000000000u };
    int guess = ((64 - __builtin_clzll(v)) * 1233) >> 12, n = guess + (v >= pow10_of[guess]), at = n;
    while (v > UINT32_MAX) memcpy(out + (at -= 2), pairs + 2 * (v % 100), 2), v /= 100;
    uint32_t small = (uint32_t)v;
    for (; small >= 100; small /= 100) memcpy(out + (at -= 2), pairs + 2 * (small % 100), 2);
    if (small >= 10) memcpy(out, pairs + 2 * small, 2);
    else out[0] = (char)('0' + small);
    return n;
}

/* digits * 10^e as JSON: plain between 1e-6 and 1e21, with an exponent outside; always with a point or an exponent, so that it reads back as a
 * real. Copies have fixed lengths and run over what will be written next: lengths that vary cost more than the bytes. */
static void write_decimal(struct buf *b, bool negative, uint64_t digits, int e)
{
    enum { COPY = 24, ROOM = 80 };
    char text[2 * COPY];
    if (!buf_reserve(b, ROOM)) return;
    char *start = b->data + b->length, *o = start;
    while (digits % 10 == 0) digits /= 10, e++;
    *o = '-';
    o += negative;
    memset(text, '0', sizeof text);
    int n = write_digits(text, digits), point = n + e;      /* the decimal point is behind `point` digits */
    if (point > 0 && point <= 21) {
        memcpy(o, text, COPY);
        o[point] = '.';
        memcpy(o + point + 1, text + point, COPY);
        o += point < n ? n + 1 : point + 2;
    } else if (point <= 0 && point > -6) {
        memcpy(o, "0.000000", 8);
        memcpy(o + 2 - point, text, COPY);
        o += 2 - point + n;
    } else {
        *o++ = text[0];
        if (n > 1) {
            *o = '.';
            memcpy(o + 1, text + 1, COPY);
            o += n;
        }
        *o++ = 'e';
        if (point < 1) *o++ = '-';
        int power = point < 1 ? 1 - point : point - 1;
        if (power) o += write_digits(o, (uint64_t)power);
        else *o++ = '0';
    }
    b->length += (size_t)(o - start);
}

void json_write_base64(struct buf *b, const char *prefix, const void *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *bytes = data;
    buf_reserve(b, n / 3 * 4 + 8);
    buf_putc(b, '"');
    buf_puts(b, prefix);
    for (size_t i = 0; i < n; i += 3) {
        uint32_t x = (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
        const char four[4] = { digits[x >> 18], digits[x >> 12 & 63], i + 1 < n ? digits[x >> 6 & 63] : '=', i + 2 < n ? digits[x & 63] : '=' };
        buf_append(b, four, 4);
    }
    buf_putc(b, '"');
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool json_read_base64(struct buf *out, const char *text, size_t length)
{
    uint32_t bits = 0;
    int have = 0;
    size_t digits = length;
    while (digits && text[digits - 1] == '=') digits--;
    if (length - digits > 2 || (length != digits && length % 4) || digits % 4 == 1) return false;
    buf_reserve(out, out->length + digits / 4 * 3 + 3);
    for (size_t i = 0; i < digits; i++) {
        int d = base64_value(text[i]);
        if (d < 0) return false;
        bits = bits << 6 | (uint32_t)d;
        if ((have += 6) >= 8) buf_putc(out, (char)(bits >> (have -= 8)));
    }
    return true;
}

void json_write_float(struct buf *b, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    uint32_t fraction = bits & 0x7fffff, biased = bits >> 23 & 0xff;
    if (biased == 255) return buf_append(b, "null", 4);
    if (!(bits << 1)) return bits ? buf_append(b, "-0.0", 4) : buf_append(b, "0.0", 3);
    int e;
    uint64_t digits = shortest_digits(biased ? fraction | 0x800000 : fraction, biased ? (int)biased - 150 : -149, biased > 1 && !fraction, &e);
    write_decimal(b, bits >> 31, digits, e);
}

void json_write_double(struct buf *b, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    uint64_t fraction = bits & 0xfffffffffffff;
    int biased = (int)(bits >> 52 & 0x7ff), e;
    if (biased == 2047) return buf_append(b, "null", 4);
    if (!(bits << 1)) return bits ? buf_append(b, "-0.0", 4) : buf_append(b, "0.0", 3);
    uint64_t digits = shortest_digits(biased ? fraction | 1ull << 52 : fraction, biased ? biased - 1075 : -1074, biased > 1 && !fraction, &e);
    write_decimal(b, bits >> 63, digits, e);
}

size_t json_utf8_length(const char *text, size_t left)
{
    const unsigned char *p = (const unsigned char *)text;
    uint32_t first = p[0], second = left > 1 ? p[1] : 0;
    size_t n = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;
    return n;
}

void json_write_string(struct buf *b, const char *text, size_t length)
{
    static const char hex[] = "0123456789abcdef", named[] = "\b\f\n\r\t\"\\", letter[] = "bfnrt\"\\";
    const unsigned char *p = (const unsigned char *)text;
    buf_putc(b, '"');
    for (size_t i = 0, from = 0; i <= length;) {
        unsigned char c = i < length ? p[i] : 0;
        size_t n = i < length ? json_utf8_length(text + i, length - i) : 0;
        if (i < length && n && c >= 0x20 && c != '"' && c != '\\') {
            i += n;
            continue;
        }
        buf_append(b, text + from, i - from);
        if (i == length) break;
        const char *hit = c ? memchr(named, c, sizeof named - 1) : NULL;
        if (!n) buf_append(b, "\xef\xbf\xbd", 3);
        else if (hit) buf_append(b, (char[]){ '\\', letter[hit - named] }, 2);
        else buf_append(b, (char[]){ '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] }, 6);
        from = ++i;
    }
    buf_putc(b, '"');
}

void json_write_text(struct buf *b, const char *text) { json_write_string(b, text, strlen(text)); }

static void write_leaf(struct buf *b, const struct json *j)
{
    switch (j->type) {
    case JSON_NULL:   buf_puts(b, "null"); break;
    case JSON_BOOL:   buf_puts(b, j->boolean ? "true" : "false"); break;
    case JSON_INT:    buf_int(b, j->integer); break;
    case JSON_UINT:   buf_uint(b, j->natural); break;
    case JSON_REAL:   json_write_double(b, j->real); break;
    case JSON_STRING: json_write_string(b, j->string.text, j->string.length); break;
    case JSON_RAW:    buf_append(b, j->raw.text, j->raw.length); break;
    case JSON_ARRAY:
    case JSON_OBJECT: break;
    }
}

/* A tree deeper than WRITE_DEPTH_MAX (json_parse never makes one) fails the buffer. */
void json_write(struct buf *b, const struct json *j)
{
    const struct json *open[WRITE_DEPTH_MAX];      /* the containers around j */
    int depth = 0;
    for (;;) {
        if (depth && j->key) {
            json_write_string(b, j->key, j->key_length);
            buf_putc(b, ':');
        }
        if (j->type == JSON_ARRAY || j->type == JSON_OBJECT) {
            buf_putc(b, j->type == JSON_ARRAY ? '[' : '{');
            if (depth == WRITE_DEPTH_MAX) {
                b->failed = true;
                return;
            }
            if (j->list.first) {
                open[depth++] = j;
                j = j->list.first;
                continue;
            }
            buf_putc(b, j->type == JSON_ARRAY ? ']' : '}');
        } else {
            write_leaf(b, j);
        }
        while (depth && !j->next) {
            j = open[--depth];
            buf_putc(b, j->type == JSON_ARRAY ? ']' : '}');
        }
        if (!depth) return;
        j = j->next;
        buf_putc(b, ',');
    }
}
