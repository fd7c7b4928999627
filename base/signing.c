#include "base/signing.h"

#include <nettle/eddsa.h>
#include <stdio.h>

void signing_public_key(const uint8_t secret[SIGNING_KEY_BYTES], uint8_t key[SIGNING_KEY_BYTES]) { ed25519_sha512_public_key(key, secret); }

void signing_sign(const uint8_t secret[SIGNING_KEY_BYTES], const void *message, size_t length, uint8_t signature[SIGNATURE_BYTES])
{
    uint8_t key[SIGNING_KEY_BYTES];
    ed25519_sha512_public_key(key, secret);
    ed25519_sha512_sign(key, secret, length, message, signature);
}

bool signing_verify(const uint8_t key[SIGNING_KEY_BYTES], const void *message, size_t length, const uint8_t signature[SIGNATURE_BYTES])
{
    return ed25519_sha512_verify(key, length, message, signature) == 1;
}

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

bool signing_from_hex(const char *hex, size_t length, uint8_t *out, size_t n)
{
    if (length != 2 * n) return false;
    for (size_t i = 0; i < n; i++) {
        const int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        out[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

void signing_hex(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}
