/* Damaged model files (the fault plan's F5): bits turned, lengths and counts overwritten, stretches moved, ends cut, in GGUF, in a folder's safetensors, configuration and tokenizer, and
 * in llama2.c's files. Every load ends in a status within a second; what loads all the same can be asked. 1,000 files; with FAULTS=full in the environment 20,000. Needs
 * ../shared/data/stories260k. The known bad cases of each format are in tests/engine/gguf_test.c and safetensors_test.c. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "engine/engine.h"
#include "engine/llm/convert.h"
#include "engine/llm/llm_engine.h"
#include "engine/text/tokenizer.h"
#include "engine/text_ops.h"
#include "kernels/blocks.h"
#include "kernels/kernels.h"
#include "tests/test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SECONDS_MAX = 6 };       /* instrumented code is several times slower */
#else
enum { SECONDS_MAX = 1 };
#endif

struct file { char path[700]; char *bytes; size_t length, head; };      /* head: where most of what is read as structure lies */

static bool load(struct file *f, const char *directory, const char *name, size_t head)
{
    struct err err;
    snprintf(f->path, sizeof f->path, "%s/%s", directory, name);
    if (file_read_path(&f->bytes, &f->length, f->path, 1 << 24, &err)) return false;
    f->head = head && head < f->length ? head : f->length;
    return true;
}

static bool put(const struct file *f, const char *bytes, size_t length)
{
    int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    bool ok = fd >= 0 && write(fd, bytes, length) == (ssize_t)length;
    if (fd >= 0) close(fd);
    return ok;
}

static size_t somewhere(const struct file *f) { return test_random() % (test_random() % 8 ? f->head : f->length); }

/* A few kinds of damage, one to four of them. Returns the new length. */
static size_t damage(const struct file *f, char *bytes)
{
    static const uint64_t extremes[] = { 0, 1, 0x7f, 0xff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffffff8 };
    size_t length = f->length;
    memcpy(bytes, f->bytes, length);
    for (int times = 1 + (int)(test_random() % 4); times > 0; times--) {
        size_t at = somewhere(f);
        uint64_t v = extremes[test_random() % (sizeof extremes / sizeof *extremes)];
        switch (test_random() % 7) {
        case 0: case 1: bytes[at] = (char)(bytes[at] ^ 1 << test_random() % 8); break;
        case 2: memcpy(bytes + at, &v, length - at < 8 ? length - at : 8); break;
        case 3: memcpy(bytes + at, &v, length - at < 4 ? length - at : 4); break;
        case 4: {
            size_t from = somewhere(f), n = 1 + test_random() % 64;
            if (from + n <= length && at + n <= length) memmove(bytes + at, bytes + from, n);
            break;
        }
        case 5: bytes[at] = (char)test_random(); break;
        default:
            if (times == 1) return test_random() % 2 ? at : length - test_random() % (length < 64 ? length : 64);
        }
    }
    return length;
}

static void ask(struct engine *e)
{
    const struct tokenizer *t = llm_engine.text->tokenizer(e);
    struct token_list ids = { 0 };
    struct detokenizer d;
    struct buf text;
    struct engine_instance *i;
    struct err err;
    if (!llm_engine.start(&i, e, &err)) llm_engine.stop(i);
    if (!t) return;
    buf_init(&text, 1 << 20);
    tokenizer_encode(t, "Once upon a time", 16, TOKENIZE_SPECIAL_ADD | TOKENIZE_SPECIAL_PARSE, &ids, &err);
    detokenizer_init(&d, t, true, true);
    for (size_t k = 0; k < ids.count; k++) detokenizer_feed(&d, ids.ids[k], &text);
    detokenizer_finish(&d, &text);
    token_list_free(&ids);
    buf_free(&text);
}

/* True when it could be loaded. */
static bool try_model(const char *main_file, const char *directory, double *slowest)
{
    struct model_files files = { .directory = directory, .main_file = main_file };
    struct engine_options options = { .threads = 1, .cpu_level = CPU_AMX, .precision = PRECISION_F32, .max_batch_rows = 4, .memory_max = (uint64_t)256 << 20, .kv_bytes = 16 << 20 };
    struct engine *e = NULL;
    struct err err = { 0 };
    uint64_t start = clock_ns();
    enum status st = llm_engine.open(&e, &files, &options, &err);
    double seconds = (double)(clock_ns() - start) / 1e9;
    if (seconds > *slowest) *slowest = seconds;
    CHECK(st == ST_OK ? e != NULL : err.text[0] != 0);
    if (st) return false;
    ask(e);
    llm_engine.close(e);
    return true;
}

static bool try_bin(const char *from, const char *to, double *slowest)
{
    struct convert_report report;
    struct err err = { 0 };
    uint64_t start = clock_ns();
    enum status st = convert_model(from, to, &(struct convert_options){ .type = BLOCK_F16, .threads = 1 }, &report, &err);
    double seconds = (double)(clock_ns() - start) / 1e9;
    if (seconds > *slowest) *slowest = seconds;
    CHECK(st == ST_OK || err.text[0]);
    unlink(to);
    return st == ST_OK;
}

TEST(damaged_files_end_in_a_status)
{
    char from[700], gguf[700], folder[700], target[700];
    const char *own = test_directory(), *how = getenv("FAULTS");
    int files = how && !strcmp(how, "full") ? 20000 : 1000, loaded = 0;
    struct convert_report report;
    struct err err = { 0 };
    static struct file kinds[6];
    double slowest = 0;
    if (!test_shared()) SKIP("the stories of ../shared are not here");
    snprintf(from, sizeof from, "%s/data/stories260k", test_shared());
    static const char *const names[] = { "stories260K.bin", "tok512.bin" };
    for (int i = 0; i < 2; i++) {
        REQUIRE(load(&kinds[4 + i], from, names[i], i ? 0 : 64));
        snprintf(kinds[4 + i].path, sizeof kinds[0].path, "%s/%s", own, names[i]);
        REQUIRE(put(&kinds[4 + i], kinds[4 + i].bytes, kinds[4 + i].length));
    }
    snprintf(gguf, sizeof gguf, "%s/stories.gguf", own);
    snprintf(folder, sizeof folder, "%s/folder", own);
    snprintf(target, sizeof target, "%s/target.gguf", own);
    REQUIRE_OK(convert_model(kinds[4].path, gguf, &(struct convert_options){ .type = BLOCK_Q8_0, .threads = 1 }, &report, &err), err);
    REQUIRE_OK(convert_model(gguf, folder, &(struct convert_options){ .type = BLOCK_F16, .threads = 1 }, &report, &err), err);
    REQUIRE(load(&kinds[0], own, "stories.gguf", 20 << 10));
    REQUIRE(load(&kinds[1], folder, "model.safetensors", 4096));
    REQUIRE(load(&kinds[2], folder, "config.json", 0));
    REQUIRE(load(&kinds[3], folder, "tokenizer.json", 0));
    test_seed(260);
    for (int n = 0; n < files; n++) {
        static const int turn[] = { 0, 1, 0, 2, 0, 1, 3, 0, 4, 5 };
        int kind = turn[n % 10];
        struct file *f = &kinds[kind];
        char *bytes = malloc(f->length + 1);
        REQUIRE(bytes != NULL);
        REQUIRE(put(f, bytes, damage(f, bytes)));
        if (kind < 4) loaded += try_model(kind ? kinds[2].path : gguf, kind ? folder : own, &slowest);
        else loaded += try_bin(kinds[4].path, target, &slowest);
        free(bytes);
        REQUIRE(put(f, f->bytes, f->length));
    }
    if (slowest > SECONDS_MAX) fprintf(stderr, "a load took %.2f s\n", slowest);
    CHECK(slowest <= SECONDS_MAX);
    CHECK(loaded < files * 3 / 4 && loaded > 0);      /* most damage is seen */
    CHECK(try_model(gguf, own, &slowest) && try_model(kinds[2].path, folder, &slowest) && try_bin(kinds[4].path, target, &slowest));
    fprintf(stderr, "%d files, %d of them loaded, the slowest took %.3f s\n", files, loaded, slowest);
    for (int i = 0; i < 6; i++) free(kinds[i].bytes);
}
