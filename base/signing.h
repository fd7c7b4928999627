/* Ed25519 (RFC 8032) through nettle: who vouches for a model's files. */
#ifndef BASE_SIGNING_H
#define BASE_SIGNING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIGNING_KEY_BYTES = 32, SIGNATURE_BYTES = 64 };

void signing_public_key(const uint8_t secret[SIGNING_KEY_BYTES], uint8_t key[SIGNING_KEY_BYTES]);
void signing_sign(const uint8_t secret[SIGNING_KEY_BYTES], const void *message, size_t length, uint8_t signature[SIGNATURE_BYTES]);
bool signing_verify(const uint8_t key[SIGNING_KEY_BYTES], const void *message, size_t length, const uint8_t signature[SIGNATURE_BYTES]);

#endif
