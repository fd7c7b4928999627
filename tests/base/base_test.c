/* Status, errors, memory, buffers, clock, log, compression: what every other folder stands on. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/compress.h"
#include "base/json.h"
#include "base/log.h"
#include "tests/test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

TEST(errors_quote_themselves_and_are_cut)
{
    struct err e;
    CHECK_INT(err_set(&e, ST_NOT_FOUND, "no %s", "model"), ST_NOT_FOUND);
    CHECK_INT(err_prefix(&e, "store %d", 3), ST_NOT_FOUND);
    CHECK_TEXT(e.text, "store 3: no model");
    CHECK_INT(err_set(&e, ST_INTERNAL, "again: %s", e.text), ST_INTERNAL);
    CHECK_TEXT(e.text, "again: store 3: no model");
    char long_text[2000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    err_set(&e, ST_INTERNAL, "%s", long_text);
    CHECK_INT(strlen(e.text), ERR_TEXT_MAX - 1);
    CHECK_INT(status_http(ST_TOO_LARGE), 413);
    CHECK_INT(status_grpc(ST_UNAVAILABLE), 14);
    CHECK_INT(err_set(NULL, ST_OK, "nothing"), ST_OK);
}

TEST(sizes_do_not_wrap)
{
    uint64_t r = 7;
    CHECK(!size_mul(UINT64_MAX, 2, &r) && r == 7);
    CHECK(!size_add(UINT64_MAX, 1, &r) && r == 7);
    CHECK(size_mul(1u << 31, 4, &r) && r == 1ull << 33);
    CHECK(range_inside(0, 0, 0) && range_inside(5, 5, 10) && !range_inside(6, 5, 10) && !range_inside(UINT64_MAX, 2, 10) && !range_inside(2, UINT64_MAX, 10));
    CHECK(mem_alloc_array(UINT64_MAX / 2, 4) == NULL);
    CHECK(mem_calloc_array(1ull << 62, 8) == NULL);
    void *p = mem_alloc_aligned(100, 4096);
    CHECK((uintptr_t)p % 4096 == 0);
    free(p);
}

TEST(an_arena_keeps_its_budget)
{
    struct arena a;
    arena_init(&a, 10000);
    char *first = arena_alloc(&a, 1, 1), *aligned = arena_alloc(&a, 100, 4096);
    CHECK(first && aligned && (uintptr_t)aligned % 4096 == 0);
    memset(aligned, 1, 100);
    CHECK(arena_alloc(&a, 9900, 1) == NULL);
    CHECK(arena_alloc(&a, UINT64_MAX, 1) == NULL);
    CHECK(arena_calloc(&a, UINT64_MAX / 2, 4) == NULL);
    char *big = arena_alloc(&a, 9800, 64);
    REQUIRE(big != NULL);
    memset(big, 2, 9800);
    CHECK(arena_alloc(&a, 100, 1) == NULL);
    arena_reset(&a);
    CHECK_INT(a.used, 0);
    CHECK_TEXT(arena_format(&a, "%s-%d", "x", 5), "x-5");
    CHECK_TEXT(arena_copy(&a, "hello", 4), "hell");
    arena_free(&a);
}

TEST(a_buffer_fails_once_and_stays_failed)
{
    struct buf b;
    buf_init(&b, 20);
    buf_puts(&b, "0123456789");
    buf_int(&b, INT64_MIN);      /* 20 characters: too many */
    CHECK(b.failed);
    buf_putc(&b, 'x');
    CHECK_INT(b.length, 10);
    buf_clear(&b);
    buf_int(&b, INT64_MIN);
    CHECK(!b.failed && b.length == 20 && !memcmp(b.data, "-9223372036854775808", 20));
    buf_free(&b);
    buf_init(&b, 0);
    buf_uint(&b, UINT64_MAX);
    buf_printf(&b, "|%05d", 42);
    CHECK(b.length == 26 && !memcmp(b.data, "18446744073709551615|00042", 26));
    buf_free(&b);
}

TEST(dates)
{
    char text[25];
    static const struct { uint64_t ms; const char *text; } known[] = { { 0, "1970-01-01T00:00:00.000Z" }, { 951782400000, "2000-02-29T00:00:00.000Z" }, { 1795226401234, "2026-11-21T02:00:01.234Z" }, { 4107542399999, "2100-02-28T23:59:59.999Z" }, { 4107542400000, "2100-03-01T00:00:00.000Z" } };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        clock_iso8601(known[i].ms, text);
        CHECK_TEXT(text, known[i].text);
    }
}

TEST(log_records_cannot_be_forged)
{
    char path[128], text[16384], wild[3000];
    snprintf(path, sizeof path, "%s/log", test_directory());
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct log *l = log_open(fd);
    for (size_t i = 0; i < sizeof wild - 1; i++) wild[i] = (char)(1 + i % 255);
    wild[sizeof wild - 1] = 0;
    log_write(l, LOG_INFO, "a", "line\nbreak \"quoted\" \\ %s", "\xe2\x80\xa8 \xff\xc3\xa9 \x7f");
    log_write(l, LOG_VERBOSE, "b", "not shown");
    log_enable(l, LOG_VERBOSE, true);
    log_write(l, LOG_VERBOSE, "c", "%s", wild);
    struct log_line r;
    log_line_begin(&r, l, "d");
    for (int i = 0; i < 40; i++) log_line_text(&r, "k", wild, sizeof wild - 1);
    log_line_int(&r, "n", INT64_MIN);
    log_line_end(&r);
    log_close(l);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    close(fd);
    REQUIRE(n > 0);
    text[n] = 0;
    int lines = 0;
    for (char *line = text, *next; *line; line = next, lines++) {
        struct arena a;
        struct json *j;
        struct err err;
        next = strchr(line, '\n');
        REQUIRE(next != NULL);
        arena_init(&a, 1 << 20);
        CHECK_OK(json_parse(&j, &a, line, (size_t)(next - line), &(struct json_options){ 0 }, &err), err);
        arena_free(&a);
        next++;
    }
    CHECK_INT(lines, 3);
    CHECK(strstr(text, "line\\u000abreak \\u0022quoted\\u0022 \\u005c \\u2028 \\ufffd\xc3\xa9 \\u007f") != NULL);
    CHECK(strstr(text, "\"cut\":true") != NULL);
}

TEST(compression_both_ways_within_its_caps)
{
    struct buf packed, out;
    struct err err;
    char *data = malloc(1 << 20);
    for (size_t i = 0; i < 1 << 20; i++) data[i] = (char)(test_random() % 7);
    for (int kind = COMPRESS_GZIP; kind <= COMPRESS_DEFLATE; kind++) {
        buf_init(&packed, 0), buf_init(&out, 0);
        REQUIRE_OK(compress_pack(&packed, (enum compress_kind)kind, data, 1 << 20, &err), err);
        REQUIRE_OK(compress_expand(&out, (enum compress_kind)kind, packed.data, packed.length, 1 << 20, 100, &err), err);
        CHECK(out.length == 1 << 20 && !memcmp(out.data, data, 1 << 20));
        buf_clear(&out);
        CHECK_INT(compress_expand(&out, (enum compress_kind)kind, packed.data, packed.length, (1 << 20) - 1, 100, &err), ST_TOO_LARGE);
        buf_clear(&out);
        CHECK_INT(compress_expand(&out, (enum compress_kind)kind, packed.data, packed.length - 5, 1 << 20, 100, &err), ST_BAD_INPUT);
        buf_clear(&out);
        packed.data[packed.length / 2] ^= 0x55;
        CHECK_INT(compress_expand(&out, (enum compress_kind)kind, packed.data, packed.length, 1 << 20, 100, &err), ST_BAD_INPUT);
        buf_free(&packed), buf_free(&out);
        memset(data, 0, 1 << 20);
        REQUIRE_OK(compress_pack(&packed, (enum compress_kind)kind, data, 1 << 20, &err), err);
        CHECK_INT(compress_expand(&out, (enum compress_kind)kind, packed.data, packed.length, 1 << 20, 100, &err), ST_TOO_LARGE);      /* 1000 to 1 */
        buf_free(&packed), buf_free(&out);
        for (size_t i = 0; i < 1 << 20; i++) data[i] = (char)(test_random() % 7);
    }
    buf_init(&out, 0);
    CHECK_INT(compress_expand(&out, COMPRESS_GZIP, "", 0, 100, 100, &err), ST_BAD_INPUT);
    buf_free(&out);
    free(data);
}
