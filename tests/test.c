#include "tests/test.h"

#include <ftw.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TESTS_MAX = 2000, DIRECTORIES_MAX = 64 };

static struct { const char *name; void (*body)(void); } tests[TESTS_MAX];
static int      test_count, failures_now;
static char     skipped_now[256];
static char     directories[DIRECTORIES_MAX][64];
static int      directory_count;
static uint32_t random_state = 1;

void test_add(const char *name, void (*body)(void))
{
    if (test_count == TESTS_MAX) abort();
    tests[test_count].name = name;
    tests[test_count++].body = body;
}

void test_fail(const char *file, int line, const char *format, ...)
{
    if (++failures_now > 20) return;
    va_list list;
    va_start(list, format);
    fprintf(stderr, "    %s:%d: ", file, line);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
}

void test_skip(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(skipped_now, sizeof skipped_now, format, list);
    va_end(list);
}

void test_close(const char *file, int line, const float *got, const float *want, size_t n, float tolerance)
{
    size_t bad = 0, worst = 0;
    double worst_error = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(got[i]) && isnan(want[i])) continue;
        if (got[i] == want[i]) continue;
        double error = fabs((double)got[i] - want[i]) / fmax(1.0, fabs((double)want[i]));
        if (error <= tolerance) continue;
        if (!bad || error > worst_error) worst = i, worst_error = error;
        bad++;
    }
    if (bad)
        test_fail(file, line, "%zu of %zu differ; worst at [%zu]: %.9g, not %.9g", bad, n, worst, (double)got[worst], (double)want[worst]);
}

double test_worse(double worst, double difference) { return isnan(worst) || difference <= worst ? worst : difference; }

uint32_t test_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

void test_seed(uint32_t seed) { random_state = seed ? seed : 1; }

void test_fill(float *x, size_t n, float low, float high)
{
    for (size_t i = 0; i < n; i++) x[i] = low + (high - low) * (float)(test_random() >> 8) / 16777216.0f;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void remove_directories(void)
{
    for (int i = 0; i < directory_count; i++) nftw(directories[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_directory(void)
{
    if (directory_count == DIRECTORIES_MAX) abort();
    char *d = directories[directory_count];
    snprintf(d, sizeof directories[0], "/tmp/inferd-test-XXXXXX");
    if (!mkdtemp(d)) abort();
    if (directory_count++ == 0) atexit(remove_directories);
    return d;
}

const char *test_shared(void)
{
    static char path[512];
    const char *asked = getenv("INFERD_SHARED");
    snprintf(path, sizeof path, "%s", asked ? asked : "../shared");
    return access(path, R_OK) == 0 ? path : NULL;
}

/* [pattern]: only tests whose name contains it. */
int main(int argc, char **argv)
{
    int passed = 0, failed = 0, skipped = 0;
    for (int i = 0; i < test_count; i++) {
        if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
        failures_now = 0;
        skipped_now[0] = 0;
        test_seed(1);
        tests[i].body();
        if (failures_now) {
            printf("FAIL %s\n", tests[i].name);
            failed++;
        } else if (skipped_now[0]) {
            printf("skip %s: %s\n", tests[i].name, skipped_now);
            skipped++;
        } else {
            printf("ok   %s\n", tests[i].name);
            passed++;
        }
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
