/* SHA-256 (FIPS 180-4) through nettle, and hexadecimal. */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { DIGEST_BYTES = 32, DIGEST_HEX = 64 };

/* Piece by piece. The state holds no memory of its own. */
struct digest_state { uint64_t opaque[16]; };
void digest_begin(struct digest_state *d);
void digest_update(struct digest_state *d, const void *data, size_t length);
void digest_end(struct digest_state *d, uint8_t out[DIGEST_BYTES]);

void digest_bytes(const void *data, size_t length, uint8_t out[DIGEST_BYTES]);
/* Reads the file from its start. `progress` may be NULL; it is told the bytes read so far and the whole size. */
enum status digest_file(int fd, uint8_t out[DIGEST_BYTES], void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *err);
void digest_hex(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_HEX + 1]);    /* lower case, NUL-terminated */
bool digest_from_hex(const char *hex, size_t length, uint8_t out[DIGEST_BYTES]);  /* exactly 64 lower-case digits */
bool digest_equal(const uint8_t a[DIGEST_BYTES], const uint8_t b[DIGEST_BYTES]);  /* in constant time */

#endif
