#include "base/hex.h"

#include <string.h>

enum { BYTES_MAX = 64 };

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

bool hex_read(const char *hex, size_t length, uint8_t *out, size_t n)
{
    uint8_t bytes[BYTES_MAX];
    if (n > BYTES_MAX || length != 2 * n) return false;
    for (size_t i = 0; i < n; i++) {
        const int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        bytes[i] = (uint8_t)(high * 16 + low);
    }
    memcpy(out, bytes, n);
    return true;
}

void hex_write(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = 0;
}
