#include "base/signing.h"

#include <nettle/eddsa.h>

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
