#include "base/json.h"

#include "base/buf.h"
#include "base/checked.h"
#include "base/clock.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every form a client may print: the run must give what json_number gives, bit for bit (but -0, which json_number takes for an integer), or stop. */
TEST(runs_give_what_single_numbers_give)
{
    static const char *const forms[] = { "%.7g", "%.9g", "%.17g", "%.3f", "%.0f", "%e", "%.1f", "%.12e" };
    enum { N = 20000 };
    struct buf b;
    buf_init(&b, 0);
    for (int i = 0; i < N; i++) {
        double v = ((double)test_random() / 4294967296.0 - 0.5) * (i % 7 ? 4 : 1e6);
        if (i % 50 == 0) v *= 1e-30;
        buf_printf(&b, forms[test_random() % 8], v);
        buf_puts(&b, i % 3 ? "," : ", ");
    }
    buf_puts(&b, "0]                                                          ");
    const char *p = b.data, *end = b.data + b.length;
    uint64_t fast = 0;
    for (uint64_t n = 0; n < N;) {
        float run[N];
        uint64_t count;
        const char *q = p, *stop = json_floats(p, end, run, N - n, &count);
        for (uint64_t i = 0; i < count; i++) {
            struct json one;
            const char *after = json_number(q, end, &one);
            REQUIRE(after != NULL && *after == ',');
            float want = (float)(one.type == JSON_REAL ? one.real : (double)one.integer);
            if (want == 0 ? run[i] != 0 : memcmp(&want, &run[i], 4) != 0) test_fail(__FILE__, __LINE__, "%.30s: %.9g, not %.9g", q, (double)run[i], (double)want);
            q = after + 1 + (after[1] == ' ');
        }
        CHECK(q == stop);
        fast += count, n += count, p = stop;
        if (n == N) break;
        struct json one;
        p = json_number(p, end, &one);
        REQUIRE(p != NULL && *p == ',');
        p += 1 + (p[1] == ' ');
        n++;
    }
    CHECK(fast > N / 2);
    buf_free(&b);
}

TEST(what_is_no_number_stops_the_run)
{
    static const char *const bad[] = { "01,", "1.,", ".5,", "+1,", "1e,", "--1,", "1.2.3,", "NaN,", "\"1\",", "[1,", "true,", "123456789,", "1 ,", "- 1," };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[128];
        float out[4];
        uint64_t count;
        snprintf(text, sizeof text, "%s%-100s", bad[i], "1,2,3");
        CHECK(json_floats(text, text + strlen(text), out, 4, &count) == text);
        CHECK_INT(count, 0);
    }
}

TEST(never_reads_past_the_end)
{
    for (size_t n = 0; n < 80; n++) {
        char *text = calloc(n ? n : 1, 1);      /* exactly n bytes: the sanitizer sees the next */
        float out[64];
        uint64_t count;
        for (size_t i = 0; i < n; i++) text[i] = "1.5,"[i % 4];
        const char *stop = json_floats(text, text + n, out, 64, &count);
        CHECK(stop >= text && stop <= text + n);
        free(text);
    }
}

/* The figure of SPEED.md, printed by the release build: a picture's worth of floats as clients print them. */
TEST(a_tensor_of_150528_floats)
{
    static const struct { const char *form; double scale; } kinds[] = { { "%.7g", 1 }, { "%.9g", 1 }, { "%.16g", 4 }, { "%.17g", 4 } };
    enum { N = 150528, ROUNDS = 5 };
    float *out = mem_alloc_array(N, sizeof *out);
    REQUIRE(out != NULL);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        struct buf b;
        uint64_t best = UINT64_MAX;
        buf_init(&b, 0);
        for (int i = 0; i < N; i++) {
            buf_printf(&b, kinds[k].form, (((double)test_random() + (double)test_random() / 4294967296.0) / 4294967296.0 - (kinds[k].scale > 1 ? 0.5 : 0)) * kinds[k].scale);
            buf_puts(&b, ",");
        }
        buf_printf(&b, "%*s", 64, "");
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t start = clock_ns(), done = 0;
            for (const char *p = b.data; done < N;) {      /* as the reader of tensors does it: what stops a run is read alone */
                uint64_t count;
                struct json one;
                p = json_floats(p, b.data + b.length, out + done, N - done, &count);
                done += count;
                if (done == N) break;
                p = json_number(p, b.data + b.length, &one);
                REQUIRE(p != NULL && *p == ',');
                out[done++] = (float)(one.type == JSON_REAL ? one.real : (double)one.integer);
                p++;
            }
            uint64_t took = clock_ns() - start;
            if (took < best) best = took;
        }
        CHECK(out[N - 1] == strtof(strrchr(b.data, '.') - 1 - (strrchr(b.data, '.')[-2] == '-'), NULL));
        printf("     %d floats as %s: %.2f ms\n", N, kinds[k].form, (double)best * 1e-6);
        buf_free(&b);
    }
    free(out);
}
