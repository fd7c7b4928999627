#include "base/digest.h"

#include "base/hex.h"

#include <errno.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 20, PROGRESS_BYTES = 16 << 20 };

_Static_assert(sizeof(struct sha256_ctx) <= sizeof(struct digest_state) && _Alignof(struct sha256_ctx) <= _Alignof(struct digest_state), "the state must hold nettle's");

void digest_begin(struct digest_state *d) { sha256_init((struct sha256_ctx *)d); }

void digest_update(struct digest_state *d, const void *data, size_t length)
{
    if (length) sha256_update((struct sha256_ctx *)d, length, data);
}

void digest_end(struct digest_state *d, uint8_t out[DIGEST_BYTES]) { sha256_digest((struct sha256_ctx *)d, DIGEST_BYTES, out); }

void digest_bytes(const void *data, size_t length, uint8_t out[DIGEST_BYTES])
{
    struct sha256_ctx c;
    sha256_init(&c);
    if (length) sha256_update(&c, length, data);
    sha256_digest(&c, DIGEST_BYTES, out);
}

enum status digest_file(int fd, uint8_t out[DIGEST_BYTES], void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st)) return err_set(err, ST_INTERNAL, "a file cannot be examined: %s", strerror(errno));
    uint8_t *block = malloc(READ_BYTES);
    if (!block) return err_set(err, ST_NO_MEMORY, "no memory to compute a digest");
    struct sha256_ctx c;
    sha256_init(&c);
    uint64_t done = 0, told = 0;
    ssize_t n;
    for (;;) {
        n = pread(fd, block, READ_BYTES, (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        sha256_update(&c, (size_t)n, block);
        done += (uint64_t)n;
        if (progress && done - told >= PROGRESS_BYTES) progress(ctx, told = done, (uint64_t)st.st_size);
    }
    int cause = errno;
    free(block);
    if (n < 0) return err_set(err, ST_INTERNAL, "reading failed after %llu bytes: %s", (unsigned long long)done, strerror(cause));
    if (progress && done != told) progress(ctx, done, (uint64_t)st.st_size);
    sha256_digest(&c, DIGEST_BYTES, out);
    return ST_OK;
}

void digest_hex(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_HEX + 1]) { hex_write(digest, DIGEST_BYTES, out); }
bool digest_from_hex(const char *hex, size_t length, uint8_t out[DIGEST_BYTES]) { return hex_read(hex, length, out, DIGEST_BYTES); }
bool digest_equal(const uint8_t a[DIGEST_BYTES], const uint8_t b[DIGEST_BYTES]) { return memeql_sec(a, b, DIGEST_BYTES); }
