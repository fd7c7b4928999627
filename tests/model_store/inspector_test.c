#include "model_store/inspector.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/test.h"

/* The file's text says what its parser does. */
static enum status obey(const char *kind, const uint8_t *data, uint64_t size, struct err *err)
{
    char word[32] = "";
    if (size) memcpy(word, data, size < 31 ? (size_t)size : 31);
    if (!strcmp(word, "bad")) return err_set(err, ST_BAD_INPUT, "%s: node 3 is wrong", kind);
    if (!strcmp(word, "crash")) {
        volatile uintptr_t nowhere = 16;
        *(volatile char *)nowhere = 1;
    }
    if (!strcmp(word, "abort")) abort();
    if (!strcmp(word, "open")) return open("/etc/passwd", O_RDONLY) >= 0 ? ST_OK : err_set(err, ST_BAD_INPUT, "told no");
    if (!strcmp(word, "socket")) return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? ST_OK : err_set(err, ST_BAD_INPUT, "told no");
    if (!strcmp(word, "exec")) return execl("/bin/true", "true", NULL) ? ST_OK : ST_OK;
    if (!strcmp(word, "fork")) return fork() >= 0 ? ST_OK : ST_OK;
    if (!strcmp(word, "exit")) _exit(0);
    if (!strcmp(word, "memory")) {
        char *p = malloc((size_t)3 << 30);
        if (!p) return err_set(err, ST_NO_MEMORY, "no memory");
        *(volatile char *)p = 1;
        free(p);
    }
    return ST_OK;
}

static enum status check(struct inspector *i, const char *text, struct err *err)
{
    char path[300];
    snprintf(path, sizeof path, "%s/f", test_directory());
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (write(fd, text, strlen(text)) < 0) test_fail(__FILE__, __LINE__, "write");
    enum status st = inspector_check(i, "onnx", fd, err);
    close(fd);
    return st;
}

TEST(a_hostile_file_kills_only_its_own_child)
{
    struct inspector *i;
    struct err err;
    REQUIRE_OK(inspector_start(&i, obey, &err), err);
    CHECK_OK(check(i, "fine", &err), err);
    CHECK_OK(check(i, "", &err), err);
    CHECK_INT(check(i, "bad", &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "onnx: node 3 is wrong");
    static const char *const crimes[] = { "crash", "abort", "open", "socket", "exec", "fork", "exit" };
    for (int k = 0; k < 7; k++) {
        if (check(i, crimes[k], &err) != ST_BAD_INPUT || strcmp(err.text, "the file crashed its parser")) test_fail(__FILE__, __LINE__, "%s: %s", crimes[k], err.text);
        CHECK_OK(check(i, "fine", &err), err);
    }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK_INT(check(i, "memory", &err), ST_NO_MEMORY);
#endif
    inspector_stop(i);
}

TEST(only_regular_files_are_looked_at)
{
    struct inspector *i;
    struct err err;
    int ends[2];
    REQUIRE_OK(inspector_start(&i, obey, &err), err);
    REQUIRE(pipe(ends) == 0);
    CHECK_INT(inspector_check(i, "onnx", ends[0], &err), ST_BAD_INPUT);
    close(ends[0]);
    close(ends[1]);
    inspector_stop(i);
}
