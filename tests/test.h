/* A test file holds TEST(name) { ... } blocks; tests/test.c runs them, one line each, and ends with "N passed, N failed, N skipped".
 * CHECK* record a failure and go on; REQUIRE* leave the test. A first line that begins with "/" "* threaded" makes the suite run under
 * ThreadSanitizer too. */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define TEST(name)                                                                                     \
    static void name(void);                                                                            \
    __attribute__((constructor)) static void test_register_##name(void) { test_add(#name, name); }     \
    static void name(void)

#define CHECK(x)         do { if (!(x)) test_fail(__FILE__, __LINE__, "%s", #x); } while (0)
#define REQUIRE(x)       do { if (!(x)) { test_fail(__FILE__, __LINE__, "%s", #x); return; } } while (0)
#define CHECK_INT(a, b)  do { long long a_ = (long long)(a), b_ = (long long)(b); if (a_ != b_) test_fail(__FILE__, __LINE__, "%s is %lld, not %lld", #a, a_, b_); } while (0)
#define CHECK_TEXT(a, b) do { const char *a_ = (a), *b_ = (b); if (!a_ || !b_ || strcmp(a_, b_)) test_fail(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #a, a_ ? a_ : "NULL", b_ ? b_ : "NULL"); } while (0)
/* status ST_OK; on failure shows err.text */
#define CHECK_OK(call, err)   do { if ((call) != 0) test_fail(__FILE__, __LINE__, "%s: %s", #call, (err).text); } while (0)
#define REQUIRE_OK(call, err) do { if ((call) != 0) { test_fail(__FILE__, __LINE__, "%s: %s", #call, (err).text); return; } } while (0)
/* max |got - want| <= tolerance * max(1, |want|), element by element; NaN equals NaN only */
#define CHECK_CLOSE(got, want, n, tolerance) test_close(__FILE__, __LINE__, (got), (want), (n), (tolerance))
#define SKIP(...)        do { test_skip(__VA_ARGS__); return; } while (0)

void test_add(const char *name, void (*body)(void));
void test_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
void test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
void test_close(const char *file, int line, const float *got, const float *want, size_t n, float tolerance);
/* The larger of the worst difference so far and another one; NaN, which passes no bound, once either is NaN (fmax would lose it). */
double test_worse(double worst, double difference);
/* Uniform in [low, high), the same sequence every run. */
void test_fill(float *x, size_t n, float low, float high);
uint32_t test_random(void);
void test_seed(uint32_t seed);
/* A fresh directory under $TMPDIR that is removed at exit; returns a static buffer's copy (do not free). */
const char *test_directory(void);
/* ../shared (or $INFERD_SHARED), NULL when it is not there: the test then says SKIP. */
const char *test_shared(void);

#endif
