/* A small mutating driver for LLVMFuzzerTestOneInput, so that `make test` needs no other compiler: runs every file of a corpus folder as it
 * is, then mutates them (bit flips, byte changes, truncations, splices, inserted lengths) for --seconds S with a seed it prints.
 * An input that takes longer than one second is a failure. `make fuzz CC=clang` can link libFuzzer's main instead. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILES_MAX = 4096, INPUT_MAX = 1 << 20 };
static struct { uint8_t *data; size_t size; } files[FILES_MAX];
static int      file_count;
static uint64_t state;
static uint8_t *current;
static size_t   current_size;

static uint64_t rnd(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void load(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d)) && file_count < FILES_MAX;) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!f) continue;
        uint8_t *data = malloc(INPUT_MAX);
        size_t n = fread(data, 1, INPUT_MAX, f);
        fclose(f);
        files[file_count].data = data;
        files[file_count++].size = n;
    }
    closedir(d);
}

/* A copy of exactly `size` bytes on the heap, so that AddressSanitizer sees a read past its end. */
static void run_one(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    current = copy, current_size = size;
    double start = now();
    LLVMFuzzerTestOneInput(copy, size);
    if (now() - start > 1.0 * (getenv("FUZZ_SLOW") ? 20 : 3)) {
        fprintf(stderr, "an input of %zu bytes took %.1f s\n", size, now() - start);
        abort();
    }
    free(copy);
}

static size_t mutate(uint8_t *b, size_t n)
{
    for (int steps = 1 + (int)(rnd() % 6); steps-- > 0;) {
        size_t at = n ? rnd() % n : 0;
        switch (rnd() % 8) {
        case 0: if (n) b[at] ^= (uint8_t)(1u << (rnd() % 8)); break;
        case 1: if (n) b[at] = (uint8_t)rnd(); break;
        case 2: if (n > 1) n = rnd() % n; break;
        case 3: if (n) b[at] = (uint8_t)"\0\xff\x7f\x80\x01{}[]\",:0-9eE.\\u"[rnd() % 21]; break;
        case 4: for (int i = 0; i < 8 && at + (size_t)i < n; i++) b[at + (size_t)i] = (uint8_t)(rnd() % 3 ? 0xff : rnd()); break;
        case 5:
            if (n > 4) {
                size_t length = 1 + rnd() % (n / 2), from = rnd() % (n - length + 1), to = rnd() % (n - length + 1);
                memmove(b + to, b + from, length);
            }
            break;
        case 6: {
            if (!file_count) break;
            int other = (int)(rnd() % (uint64_t)file_count);
            if (!files[other].size) break;
            size_t from = rnd() % files[other].size, length = rnd() % (files[other].size - from) + 1;
            if (length > 4096) length = 4096;
            if (at + length > INPUT_MAX) break;
            memcpy(b + at, files[other].data + from, length);
            if (at + length > n) n = at + length;
            break;
        }
        default:
            if (n + 8 < INPUT_MAX && n) {
                size_t length = 1 + rnd() % 8;
                memmove(b + at + length, b + at, n - at);
                for (size_t i = 0; i < length; i++) b[at + i] = (uint8_t)rnd();
                n += length;
            }
        }
    }
    return n;
}

static void keep_crash(int signal_number)
{
    (void)signal_number;
    FILE *f = fopen("build/fuzz-crash", "wb");
    if (f) fwrite(current, 1, current_size, f), fclose(f);
    fprintf(stderr, "the input is in build/fuzz-crash\n");
}

#include <signal.h>
void __asan_set_death_callback(void (*)(void)) __attribute__((weak));
static void asan_death(void) { keep_crash(0); }

int main(int argc, char **argv)
{
    double seconds = 2;
    state = (uint64_t)time(NULL) * 2654435761u | 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--seconds") && i + 1 < argc) seconds = atof(argv[++i]);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc) state = strtoull(argv[++i], NULL, 10) | 1;
        else load(argv[i]);
    }
    if (__asan_set_death_callback) __asan_set_death_callback(asan_death);
    signal(SIGABRT, keep_crash);
    uint64_t seed = state;
    for (int i = 0; i < file_count; i++) run_one(files[i].data, files[i].size);
    uint8_t *b = malloc(INPUT_MAX + 4096);
    uint64_t runs = 0;
    for (double end = now() + seconds; now() < end; runs++) {
        size_t n = 0;
        if (file_count) {
            int pick = (int)(rnd() % (uint64_t)file_count);
            memcpy(b, files[pick].data, n = files[pick].size);
        } else {
            n = rnd() % 512;
            for (size_t i = 0; i < n; i++) b[i] = (uint8_t)rnd();
        }
        n = mutate(b, n);
        run_one(b, n);
    }
    printf("%s: %d files, %llu mutations, seed %llu\n", strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0], file_count,
           (unsigned long long)runs, (unsigned long long)seed);
    free(b);
    for (int i = 0; i < file_count; i++) free(files[i].data);
    return file_count ? 0 : (fprintf(stderr, "no corpus\n"), 1);
}
