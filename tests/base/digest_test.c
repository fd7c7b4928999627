#include "base/digest.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/test.h"

TEST(known_digests)
{
    uint8_t d[32];
    char hex[65];
    digest_bytes("abc", 3, d);           /* FIPS 180-4's examples */
    digest_hex(d, hex);
    CHECK_TEXT(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    digest_bytes(NULL, 0, d);
    digest_hex(d, hex);
    CHECK_TEXT(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static uint64_t seen, of;
static void progress(void *ctx, uint64_t done, uint64_t total) { *(int *)ctx += 1, seen = done, of = total; }

TEST(files_hash_like_bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/x", test_directory());
    size_t n = (20 << 20) + 13;
    uint8_t *bytes = malloc(n), a[32], b[32];
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(i * 7 + (i >> 9));
    int fd = open(path, O_RDWR | O_CREAT, 0600), calls = 0;
    struct err err;
    CHECK_INT(write(fd, bytes, n), n);
    CHECK_OK(digest_file(fd, a, progress, &calls, &err), err);
    digest_bytes(bytes, n, b);
    CHECK(digest_equal(a, b));
    CHECK(calls >= 2 && seen == n && of == n);
    b[31] ^= 1;
    CHECK(!digest_equal(a, b));
    CHECK_OK(digest_file(fd, b, NULL, NULL, &err), err);      /* the file's own position does not matter */
    CHECK(digest_equal(a, b));
    close(fd);
    CHECK_INT(digest_file(fd, a, NULL, NULL, &err), ST_INTERNAL);
    free(bytes);
}

TEST(hexadecimal_is_strict)
{
    uint8_t d[32];
    char hex[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    CHECK(digest_from_hex(hex, 64, d) && d[0] == 0xba && d[31] == 0xad);
    CHECK(!digest_from_hex(hex, 63, d));
    CHECK(!digest_from_hex(hex, 65, d));
    hex[5] = 'F';
    CHECK(!digest_from_hex(hex, 64, d));
    hex[5] = 'g';
    CHECK(!digest_from_hex(hex, 64, d));
}
