#include "base/json.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/file.h"
#include "tests/test.h"

static enum status parse(struct arena *a, struct json **out, const char *text, struct err *err) { return json_parse(out, a, text, strlen(text), NULL, err); }

static bool refused(const char *text, size_t length)
{
    struct arena a;
    struct json *j;
    struct err err = { 0 };
    arena_init(&a, 1 << 20);
    enum status st = json_parse(&j, &a, text, length, NULL, &err);
    arena_free(&a);
    return st == ST_BAD_INPUT && err.text[0];
}

TEST(document_is_read_in_order)
{
    struct arena a;
    struct json *j;
    struct err err;
    arena_init(&a, 1 << 20);
    REQUIRE_OK(parse(&a, &j, " {\"a\" : [1, -2, 18446744073709551615, 0.5e1, \"x\\u00e9\\ud83d\\ude00\\n\", true, null, {}], \"b\":{\"c\":[]}} ", &err), err);
    const struct json *list = json_get(j, "a");
    REQUIRE(list && list->type == JSON_ARRAY);
    CHECK_INT(list->list.count, 8);
    const struct json *e = list->list.first;
    int64_t i;
    uint64_t u;
    double d;
    CHECK(json_as_int64(e, &i) && i == 1);
    e = e->next;
    CHECK(json_as_int64(e, &i) && i == -2 && !json_as_uint64(e, &u));
    e = e->next;
    CHECK(!json_as_int64(e, &i) && json_as_uint64(e, &u) && u == UINT64_MAX);
    e = e->next;
    CHECK(!json_as_int64(e, &i) && json_as_double(e, &d) && d == 5.0);
    e = e->next;
    CHECK(json_is_string(e, "x\xc3\xa9\xf0\x9f\x98\x80\n"));
    CHECK(e->next->type == JSON_BOOL && e->next->boolean);
    CHECK(json_get(json_get(j, "b"), "c") && !json_get(j, "c") && !json_get(NULL, "c"));
    struct buf b;
    buf_init(&b, 0);
    json_write(&b, j);
    buf_putc(&b, 0);
    CHECK_TEXT(b.data, "{\"a\":[1,-2,18446744073709551615,5.0,\"x\xc3\xa9\xf0\x9f\x98\x80\\n\",true,null,{}],\"b\":{\"c\":[]}}");
    buf_free(&b);
    arena_free(&a);
}

TEST(bad_documents_are_refused)
{
    static const char *const bad[] = { "", " ", "[", "]", "[1,]", "[,1]", "[1 2]", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "01", "-", "+1", "1.", ".5",
        "1e", "1e+", "0x1", "NaN", "Infinity", "1e400", "nul", "truex", "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"",
        "\"\n\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "\xef\xbb\xbf{}", "[1]]", "{} {}", "[}", "{]" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!refused(bad[i], strlen(bad[i]))) test_fail(__FILE__, __LINE__, "accepted: %s", bad[i]);
    CHECK(refused("[1]\0", 4));
    CHECK(refused("\"a\0b\"", 5));
}

TEST(depth_limit_has_two_sides)
{
    char text[512];
    for (int depth = 99; depth <= 101; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        CHECK_INT(refused(text, 2 * (size_t)depth), depth > 100);
    }
}

TEST(deep_nesting_is_refused_at_once)
{
    static char text[250000];
    struct rusage before, after;
    memset(text, '[', sizeof text);
    getrusage(RUSAGE_SELF, &before);
    uint64_t start = clock_ns();
    CHECK(refused(text, sizeof text));
    CHECK(clock_ns() - start < 50 * 1000000ull);
    getrusage(RUSAGE_SELF, &after);
    CHECK(after.ru_maxrss - before.ru_maxrss < 1024);
}

TEST(memory_budget_is_kept)
{
    struct arena a;
    struct json *j;
    struct err err;
    static char text[100001];
    for (int i = 0; i < 50000; i++) memcpy(text + 2 * i, i ? ",1" : "[1", 2);
    text[100000] = ']';
    arena_init(&a, 64 << 10);
    CHECK_INT(json_parse(&j, &a, text, sizeof text, NULL, &err), ST_NO_MEMORY);
    CHECK(a.used <= 64 << 10);
    arena_free(&a);
}

TEST(repeated_keys)
{
    struct arena a;
    struct json *j;
    struct err err;
    struct json_options unique = { .unique_keys = true };
    const char *twice = "{\"a\":1,\"b\":{\"a\":1},\"a\":2}", *once = "{\"a\":1,\"b\":{\"a\":1},\"ab\":2}";
    arena_init(&a, 1 << 20);
    CHECK_OK(parse(&a, &j, twice, &err), err);
    CHECK_INT(json_parse(&j, &a, twice, strlen(twice), &unique, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "'a'"));
    CHECK_OK(json_parse(&j, &a, once, strlen(once), &unique, &err), err);
    arena_free(&a);
}

TEST(raw_arrays_are_handed_over_whole)
{
    struct arena a;
    struct json *j;
    struct err err;
    struct json_options raw = { .raw_key = "data" };
    const char *text = "{\"x\":[{\"data\": [[1,2],[3 , \"]\\\"[\"],{\"k\":[1]}, 1234567890123456789012345] , \"y\":1}],\"z\":{\"data\":7}}";
    arena_init(&a, 1 << 20);
    REQUIRE_OK(json_parse(&j, &a, text, strlen(text), &raw, &err), err);
    const struct json *d = json_get(json_get(j, "x")->list.first, "data");
    REQUIRE(d && d->type == JSON_RAW);
    CHECK(d->raw.text[0] == '[' && d->raw.text[d->raw.length - 1] == ']' && d->raw.text[d->raw.length] == ' ');
    CHECK(d->next && json_is_string(d, "") == false);
    static const char *const bad[] = { "{\"data\":[", "{\"data\":[[]}", "{\"data\":[}", "{\"data\":[{]}]}", "{\"data\":[\"]}", "{\"data\":[\"\xff\"]}" };
    for (int i = 0; i < 6; i++) CHECK_INT(json_parse(&j, &a, bad[i], strlen(bad[i]), &raw, &err), ST_BAD_INPUT);
    char deep[512] = "{\"data\":";
    for (int n = 99; n <= 100; n++) {
        memset(deep + 8, '[', (size_t)n);
        memset(deep + 8 + n, ']', (size_t)n);
        deep[8 + 2 * n] = '}';
        CHECK_INT(json_parse(&j, &a, deep, (size_t)(9 + 2 * n), &raw, &err), n > 99 ? ST_BAD_INPUT : ST_OK);
    }
    arena_free(&a);
}

static bool number(const char *text, struct json *out) { return json_number(text, text + strlen(text), out) == text + strlen(text); }

TEST(numbers_keep_their_kind)
{
    struct json n;
    CHECK(number("9223372036854775807", &n) && n.type == JSON_INT && n.integer == INT64_MAX);
    CHECK(number("9223372036854775808", &n) && n.type == JSON_UINT && n.natural == (uint64_t)INT64_MAX + 1);
    CHECK(number("18446744073709551616", &n) && n.type == JSON_REAL && n.real == 18446744073709551616.0);
    CHECK(number("-9223372036854775808", &n) && n.type == JSON_INT && n.integer == INT64_MIN);
    CHECK(number("-9223372036854775809", &n) && n.type == JSON_REAL && n.real == -9223372036854775808.0);
    CHECK(number("1.0", &n) && n.type == JSON_REAL);
    CHECK(number("-0.0", &n) && n.type == JSON_REAL && signbit(n.real));
    CHECK(number("1e-400", &n) && n.real == 0);
    CHECK(!number("1e309", &n) && !number("-1e99999999999999999999", &n));
    CHECK(json_number("1.", "1." + 2, &n) == NULL);
}

static void check_reading(const char *text)
{
    struct json n;
    double want = strtod(text, NULL), got;
    if (!number(text, &n)) return test_fail(__FILE__, __LINE__, "refused: %s", text);
    got = n.type == JSON_REAL ? n.real : n.type == JSON_INT ? (double)n.integer : (double)n.natural;
    if (got != want) test_fail(__FILE__, __LINE__, "%s read as %.17g, not %.17g", text, got, want);
}

TEST(reals_are_read_correctly_rounded)
{
    static const char *const hard[] = { "2.2250738585072011e-308", "9007199254740993", "9007199254740993.0", "9007199254740992.99999999999", "1.7976931348623158e308", "4.9e-324", "2.4703282292062327208e-324",
        "0.500000000000000166533453693773481063544750213623046875", "3.518437208883201171875e13", "62.5364939768271845828", "8.10109172351e-10", "0.00000000000000000000000000012345678901234567890",
        "123456789012345678901234567890", "1e22", "1e23", "8.5e22", "179769313486231580793728971405301199e272", "6.631236846766476e-316" };
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) check_reading(hard[i]);
    char text[64];
    for (int i = 0; i < 200000; i++) {
        uint64_t bits = (uint64_t)test_random() << 32 | test_random();
        if (i % 2) bits = (bits & 0x800fffffffffffff) | (uint64_t)(1023 - 40 + test_random() % 80) << 52;
        double v;
        memcpy(&v, &bits, 8);
        if (!isfinite(v)) continue;
        snprintf(text, sizeof text, "%.*g", 1 + (int)(test_random() % 20), v);
        if (isfinite(strtod(text, NULL))) check_reading(text);
    }
}

TEST(midpoints_of_doubles_are_read_correctly_rounded)
{
    char text[2048];
    for (int i = 0; i < 2000; i++) {           /* exact halfway cases with up to 50 digits, then one digit more or less */
        uint64_t c = 1ull << 53 | ((uint64_t)test_random() << 21 & ((1ull << 53) - 1)) | 1;
        int shift = (int)(test_random() % 8);
        snprintf(text, sizeof text, "%.30Lf", ldexpl((long double)c, -shift));
        check_reading(text);
        strcat(text, "1");
        check_reading(text);
    }
    memset(text, '9', 1500);
    memcpy(text, "0.", 2);
    text[1500] = 0;
    check_reading(text);
}

/* The shortest: it reads back, and no shorter decimal does. */
static void check_float(float v)
{
    struct buf b;
    char shorter[64];
    buf_init(&b, 0);
    json_write_float(&b, v);
    buf_putc(&b, 0);
    if (strtof(b.data, NULL) != v) test_fail(__FILE__, __LINE__, "%.9g printed as %s", (double)v, b.data);
    int digits = 1;
    for (; digits < 9; digits++) {
        snprintf(shorter, sizeof shorter, "%.*e", digits - 1, (double)v);
        if (strtof(shorter, NULL) == v) break;
    }
    char *e = strchr(b.data, 'e');
    if (e) *e = 0;
    int count = 0, zeros = 0;
    for (const char *p = b.data; *p; p++)
        if (*p >= '0' && *p <= '9' && (count || *p != '0')) count++, zeros = *p == '0' ? zeros + 1 : 0;
    if (v != 0 && count - zeros > digits) test_fail(__FILE__, __LINE__, "%s has more than %d digits", b.data, digits);
    buf_free(&b);
}

TEST(floats_print_shortest)
{
    static const float some[] = { 0.1f, 1, 16777216, 3.4028235e38f, 1.17549435e-38f, 1.4e-45f, 0.3f, 1e10f, 1e21f, 9.5367431640625e-07f, 33554432, 4294967296.0f };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) check_float(some[i]), check_float(-some[i]);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = test_random() ^ (uint32_t)i << 16;
        float v;
        memcpy(&v, &bits, 4);
        if (isfinite(v) && v != 0) check_float(v);
    }
    for (uint32_t e = 1; e < 255; e++) {          /* powers of two: the gap below is half as wide */
        uint32_t bits = e << 23;
        float v;
        memcpy(&v, &bits, 4);
        check_float(v);
    }
}

TEST(doubles_print_and_read_back)
{
    struct buf b;
    struct json n;
    buf_init(&b, 0);
    for (int i = 0; i < 300000; i++) {
        uint64_t bits = (uint64_t)test_random() << 32 | test_random();
        if (i % 16 == 0) bits &= 0xfff0000000000000;
        double v;
        memcpy(&v, &bits, 8);
        if (!isfinite(v)) continue;
        buf_clear(&b);
        json_write_double(&b, v);
        const char *end = json_number(b.data, b.data + b.length, &n);
        if (end != b.data + b.length || n.type != JSON_REAL || n.real != v) test_fail(__FILE__, __LINE__, "%.17g printed as %.*s", v, (int)b.length, b.data);
        char text[40];
        snprintf(text, sizeof text, "%.16g", v);
        size_t digits = 0;
        for (size_t k = 0; k < b.length && b.data[k] != 'e'; k++) digits += b.data[k] >= '0' && b.data[k] <= '9';
        if (strtod(text, NULL) == v && digits > 16 && v > 1 && v < 1e15) test_fail(__FILE__, __LINE__, "%.*s is not the shortest (%s is shorter)", (int)b.length, b.data, text);
    }
    buf_free(&b);
}

TEST(layout_of_numbers)
{
    static const struct { double v; const char *text; } cases[] = { { 1, "1.0" }, { 0, "0.0" }, { -0.0, "-0.0" }, { 0.1, "0.1" }, { 1e-6, "0.000001" }, { 1.5e-7, "1.5e-7" }, { 1e20, "100000000000000000000.0" },
        { 1e21, "1e21" }, { 1.25e300, "1.25e300" }, { 5e-324, "5e-324" }, { 123.456, "123.456" }, { NAN, "null" }, { -INFINITY, "null" }, { 1.7976931348623157e308, "1.7976931348623157e308" } };
    struct buf b;
    buf_init(&b, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_clear(&b);
        json_write_double(&b, cases[i].v);
        buf_putc(&b, 0);
        CHECK_TEXT(b.data, cases[i].text);
    }
    buf_free(&b);
}

TEST(strings_are_escaped)
{
    struct buf b;
    buf_init(&b, 0);
    json_write_string(&b, "a\"\\\n\x01\x7f\xc3\xa9\xff\xed\xa0\x80z\0!", 15);
    buf_putc(&b, 0);
    CHECK_TEXT(b.data, "\"a\\\"\\\\\\n\\u0001\x7f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\\u0000!\"");
    buf_free(&b);
}

TEST(public_suite)
{
    const char *shared = test_shared();
    if (!shared) SKIP("no shared folder");
    char command[1400], path[1400];
    const char *directory = test_directory();
    snprintf(command, sizeof command, "tar --zstd -xf '%s/data/json/JSONTestSuite-test_parsing.tar.zst' -C '%s'", shared, directory);
    if (system(command)) SKIP("the suite cannot be unpacked");
    snprintf(path, sizeof path, "%s/test_parsing", directory);
    DIR *d = opendir(path);
    REQUIRE(d);
    int yes = 0, no = 0, either = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *text;
        size_t length;
        struct err err;
        snprintf(path, sizeof path, "%s/test_parsing/%s", directory, e->d_name);
        REQUIRE_OK(file_read_path(&text, &length, path, 1 << 20, &err), err);
        struct arena a;
        struct json *j;
        arena_init(&a, 16 << 20);
        enum status st = json_parse(&j, &a, text, length, NULL, &err);
        if (e->d_name[0] == 'y' && st) test_fail(__FILE__, __LINE__, "%s refused: %s", e->d_name, err.text);
        if (e->d_name[0] == 'n' && !st) test_fail(__FILE__, __LINE__, "%s accepted", e->d_name);
        yes += e->d_name[0] == 'y', no += e->d_name[0] == 'n', either += e->d_name[0] == 'i';
        arena_free(&a);
        free(text);
    }
    closedir(d);
    CHECK_INT(yes, 95);
    CHECK_INT(no, 188);
    CHECK(either > 30);
}

TEST(speed_of_tensors)
{
    enum { COUNT = 150528 };
    static float values[COUNT];
    struct buf b;
    buf_init(&b, 0);
    test_fill(values, COUNT, -3, 3);
    for (int i = 0; i < COUNT; i++) buf_printf(&b, "%s%.17g", i ? "," : "", (double)values[i]);
    uint64_t best_read = UINT64_MAX, best_write = UINT64_MAX;
    size_t bytes = b.length;
    double sum = 0;
    for (int round = 0; round < 5; round++) {
        uint64_t start = clock_ns();
        struct json n;
        const char *p = b.data, *end = b.data + bytes;
        for (int i = 0; i < COUNT && p; i++) {
            p = json_number(p, end, &n);
            sum += n.real;
            if (p && p < end) p++;
        }
        CHECK(p == end);
        uint64_t took = clock_ns() - start;
        if (took < best_read) best_read = took;
    }
    buf_clear(&b);
    for (int round = 0; round < 5; round++) {
        buf_clear(&b);
        uint64_t start = clock_ns();
        for (int i = 0; i < COUNT; i++) {
            buf_putc(&b, ',');
            json_write_float(&b, values[i]);
        }
        uint64_t took = clock_ns() - start;
        if (took < best_write) best_write = took;
    }
    printf("     read %d reals of 17 digits: %.2f ms (%.0f MB/s); write: %.2f ms (sum %g)\n", COUNT, (double)best_read * 1e-6, (double)bytes * 1e3 / (double)best_read, (double)best_write * 1e-6, sum);
    buf_free(&b);
}
