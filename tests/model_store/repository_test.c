#include "model_store/repository.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/digest.h"
#include "tests/test.h"

static const char *store;

static const char *at(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", store, name);
    return p;
}

static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s", at(name));
    for (char *p = path + strlen(store) + 1; *p; p++)
        if (*p == '/') *p = 0, mkdir(path, 0755), *p = '/';
    FILE *f = fopen(path, "w");
    if (!f) return test_fail(__FILE__, __LINE__, "cannot write %s", name);
    fputs(text, f);
    fclose(f);
}

static struct repository *open_store(void)
{
    struct repository *r = NULL;
    struct err err;
    if (!store) store = test_directory();
    if (repository_open(&r, store, NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return r;
}

TEST(models_and_versions_are_found)
{
    store = test_directory();
    struct err err;
    char **names;
    int count;
    int64_t versions[8];
    put("b/1/model.onnx", "x"), put("b/10/model.onnx", "x"), put("b/2/model.onnx", "x");
    put("b/03/model.onnx", "x"), put("b/x/model.onnx", "x"), put("b/config.pbtxt", "");
    put("a/7/w.gguf", "x"), put(".hidden/1/model.onnx", "x"), put("file", "x"), put("bad name/1/model.onnx", "x");
    CHECK_INT(symlink("a", at("link")), 0);
    struct repository *r = open_store();
    REQUIRE_OK(repository_list_models(r, &names, &count, &err), err);
    REQUIRE(count == 2);
    CHECK_TEXT(names[0], "a");
    CHECK_TEXT(names[1], "b");
    free(names);
    REQUIRE_OK(repository_list_versions(r, "b", versions, 8, &count, &err), err);
    CHECK(count == 3 && versions[0] == 1 && versions[1] == 2 && versions[2] == 10);
    CHECK_INT(repository_list_versions(r, "link", versions, 8, &count, &err), ST_NOT_FOUND);
    CHECK_INT(repository_list_versions(r, "..", versions, 8, &count, &err), ST_NOT_FOUND);
    CHECK(repository_has_version(r, "b", 10) && !repository_has_version(r, "b", 3) && !repository_has_version(r, "../b", 1));
    struct version_kind kind;
    CHECK_OK(repository_find_kind(r, "b", 1, &kind, &err), err);
    CHECK_TEXT(kind.engine, "onnx");
    CHECK_OK(repository_find_kind(r, "a", 7, &kind, &err), err);
    CHECK_TEXT(kind.engine, "llm");
    CHECK_TEXT(kind.main_file, "w.gguf");
    put("c/1/readme", "x");
    CHECK_INT(repository_find_kind(r, "c", 1, &kind, &err), ST_BAD_INPUT);
    repository_close(r);
    CHECK_INT(repository_open(&r, at("none"), NULL, &err), ST_NOT_FOUND);
}

TEST(digest_is_the_documented_one)
{
    store = test_directory();
    struct err err;
    char hex[65], want[65], line[256], one[65], two[65];
    uint8_t d[32];
    put("m/1/model.onnx", "abc"), put("m/1/data/w", ""), put("m/1/.part", "ignored");
    struct repository *r = open_store();
    REQUIRE_OK(repository_digest(r, "m", 1, hex, NULL, NULL, &err), err);
    digest_bytes("", 0, d), digest_hex(d, one);
    digest_bytes("abc", 3, d), digest_hex(d, two);
    int n = snprintf(line, sizeof line, "data/w%c0%c%s\nmodel.onnx%c3%c%s\n", 0, 0, one, 0, 0, two);
    digest_bytes(line, (size_t)n, d), digest_hex(d, want);
    CHECK_TEXT(hex, want);
    uint64_t before = repository_stamp(r, "m", 1);
    CHECK(before && before == repository_stamp(r, "m", 1) && repository_stamp(r, "m", 2) == 0);
    put("m/config.pbtxt", "x");
    CHECK(before != repository_stamp(r, "m", 1));
    before = repository_stamp(r, "m", 1);
    put("m/1/model.onnx", "abd");
    CHECK(before != repository_stamp(r, "m", 1));
    CHECK_INT(symlink("/etc/passwd", at("m/1/link")), 0);
    CHECK_INT(repository_digest(r, "m", 1, hex, NULL, NULL, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "'link'"));
    char *text;
    size_t length;
    CHECK_INT(repository_read_file(r, "m", 1, "link", 100, &text, &length, &err), ST_BAD_INPUT);
    CHECK_OK(repository_read_file(r, "m", 1, "config.pbtxt", 100, &text, &length, &err), err);      /* the model's, since the version has none */
    CHECK_TEXT(text, "x");
    free(text);
    CHECK_INT(repository_read_file(r, "m", 1, "../m/config.pbtxt", 100, &text, &length, &err), ST_BAD_INPUT);
    repository_close(r);
}

static enum status upload(struct repository *r, const char *model, int64_t version, const char *file, const char *text, struct err *err)
{
    struct repository_upload *u;
    uint8_t d[32];
    digest_bytes(text, strlen(text), d);
    enum status st = repository_upload_begin(r, model, version, file, strlen(text), d, &u, err);
    if (st) return st;
    st = repository_upload_write(u, text, strlen(text), err);
    if (st) repository_upload_abort(u);
    return st ? st : repository_upload_commit(u, err);
}

static int count_uploads(void)
{
    char command[600], out[16] = "";
    snprintf(command, sizeof command, "ls '%s/.inferd/uploads' | wc -l", store);
    FILE *f = popen(command, "r");
    if (!f || !fgets(out, sizeof out, f)) return -1;
    pclose(f);
    return atoi(out);
}

TEST(uploads_are_checked_before_they_are_seen)
{
    store = test_directory();
    struct repository *r = open_store();
    struct repository_upload *u;
    struct err err;
    uint8_t d[32] = { 0 };
    REQUIRE_OK(upload(r, "m", 3, "model.onnx", "abc", &err), err);
    CHECK_OK(upload(r, "m", 3, "config.pbtxt", "max_batch_size: 0", &err), err);
    CHECK(repository_is_staged(r, "m", 3) && !repository_has_version(r, "m", 3) && !repository_has_model(r, "m"));
    REQUIRE_OK(repository_upload_begin(r, "m", 3, "other", 3, d, &u, &err), err);        /* wrong digest */
    CHECK_OK(repository_upload_write(u, "abc", 3, &err), err);
    CHECK_INT(repository_upload_commit(u, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "SHA-256"));
    REQUIRE_OK(repository_upload_begin(r, "m", 3, "other", 3, d, &u, &err), err);        /* too short, too long */
    CHECK_INT(repository_upload_write(u, "abcd", 4, &err), ST_BAD_INPUT);
    CHECK_INT(repository_upload_commit(u, &err), ST_BAD_INPUT);
    CHECK_INT(count_uploads(), 0);
    static const char *const bad[] = { "", "..", "a/b", ".x", "a b" };
    for (int i = 0; i < 5; i++) {
        CHECK_INT(repository_upload_begin(r, "m", 3, bad[i], 3, d, &u, &err), ST_BAD_INPUT);
        CHECK_INT(repository_upload_begin(r, bad[i], 3, "f", 3, d, &u, &err), ST_BAD_INPUT);
    }
    CHECK_INT(repository_upload_begin(r, "m", 0, "f", 3, d, &u, &err), ST_BAD_INPUT);
    CHECK_INT(repository_publish(r, "m", 4, &err), ST_NOT_FOUND);
    REQUIRE_OK(repository_publish(r, "m", 3, &err), err);
    CHECK(repository_has_version(r, "m", 3) && !repository_is_staged(r, "m", 3) && access(at("m/3/model.onnx"), R_OK) == 0);
    CHECK_INT(upload(r, "m", 3, "model.onnx", "abc", &err), ST_EXISTS);
    repository_close(r);
}

static int steps_left;
static void die_at(const char *step) { (void)step; if (steps_left-- == 0) kill(getpid(), SIGKILL); }

/* The whole way in, killed before each of its steps in turn: afterwards the version is there whole or not at all, and a new start can finish. */
TEST(killed_at_every_step)
{
    int step = 0, survived = 0, seen = 0;
    for (; step < 40 && !survived; step++) {
        store = test_directory();
        put("m/1/model.onnx", "old");
        pid_t child = fork();
        if (!child) {
            struct err err;
            struct repository *r = NULL;
            if (repository_open(&r, store, NULL, &err)) _exit(2);
            steps_left = step;
            repository_failpoint = die_at;
            if (upload(r, "m", 2, "model.onnx", "new", &err) || repository_publish(r, "m", 2, &err)) _exit(3);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        survived = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        CHECK(survived || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        struct repository *r = open_store();
        struct err err;
        char hex[65];
        CHECK_INT(count_uploads(), 0);
        CHECK_OK(repository_digest(r, "m", 1, hex, NULL, NULL, &err), err);
        bool there = repository_has_version(r, "m", 2);
        seen += there;
        if (there) {
            CHECK_INT(access(at("m/2/model.onnx"), R_OK), 0);
        } else {
            CHECK_OK(upload(r, "m", 2, "model.onnx", "new", &err), err);
            CHECK_OK(repository_publish(r, "m", 2, &err), err);
        }
        CHECK(repository_has_version(r, "m", 2));
        repository_close(r);
        char command[300];
        snprintf(command, sizeof command, "rm -rf '%s'/m '%s'/.inferd", store, store);
        CHECK_INT(system(command), 0);
    }
    CHECK(survived && step > 8 && seen > 1 && seen < step);
}

TEST(a_full_disk_is_told_and_leaves_nothing)
{
    store = test_directory();
    struct repository *r = open_store();
    struct repository_upload *u;
    struct err err;
    uint8_t d[32] = { 0 };
    struct rlimit old, small = { 4096, RLIM_INFINITY };
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK_INT(repository_upload_begin(r, "m", 1, "big", 10000, d, &u, &err), ST_NO_SPACE);
    CHECK_INT(upload(r, "m", 1, "small", "abc", &err), ST_OK);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_INT(count_uploads(), 0);
    CHECK_OK(upload(r, "m", 1, "big", "abc", &err), err);
    repository_close(r);
}

TEST(a_store_that_cannot_be_written_is_read_only)
{
    store = test_directory();
    struct err err;
    struct repository *r;
    put("m/1/model.onnx", "x"), put(".inferd", "a file in the way");
    REQUIRE_OK(repository_open(&r, store, NULL, &err), err);
    CHECK(repository_read_only(r) && repository_has_version(r, "m", 1));
    CHECK_INT(upload(r, "m", 2, "model.onnx", "x", &err), ST_UNAVAILABLE);
    CHECK_INT(repository_publish(r, "m", 2, &err), ST_UNAVAILABLE);
    repository_close(r);
}
