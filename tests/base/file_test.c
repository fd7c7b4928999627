#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

static const char *root;

static const char *at(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

static void put(const char *name, const char *text)
{
    int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) test_fail(__FILE__, __LINE__, "cannot write %s", name);
    close(fd);
}

static void make_tree(void)
{
    root = test_directory();
    mkdir(at("d"), 0700);
    mkdir(at("outside"), 0700);
    put("d/file", "hello");
    put("outside/secret", "no");
    CHECK_INT(symlink("../outside/secret", at("d/link")), 0);
    CHECK_INT(symlink("../outside", at("d/folder")), 0);
    CHECK_INT(mkfifo(at("d/pipe"), 0600), 0);
    mkdir(at("d/sub"), 0700);
    put("d/sub/inner", "x");
}

/* How many paths are not judged as they should be. */
static int misjudged(void)
{
    static const struct { const char *path; enum status want; } cases[] = { { "file", ST_OK }, { "sub/inner", ST_OK }, { "missing", ST_NOT_FOUND }, { "sub/missing", ST_NOT_FOUND }, { "file/x", ST_NOT_FOUND },
        { "link", ST_BAD_INPUT }, { "folder/secret", ST_BAD_INPUT }, { "pipe", ST_BAD_INPUT }, { "sub", ST_BAD_INPUT }, { "../outside/secret", ST_BAD_INPUT }, { "sub/../../outside/secret", ST_BAD_INPUT },
        { "/etc/passwd", ST_BAD_INPUT }, { "", ST_BAD_INPUT }, { "sub//inner", ST_BAD_INPUT } };
    int dirfd = open(at("d"), O_RDONLY | O_DIRECTORY), wrong = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t size = 0;
        struct err err;
        int fd = -1;
        enum status st = file_open_below(&fd, &size, dirfd, cases[i].path, &err);
        if (st != cases[i].want || (!st && (fd < 0 || size != (i ? 1 : 5)))) wrong++, fprintf(stderr, "    '%s' is %s\n", cases[i].path, status_name(st));
        if (fd >= 0) close(fd);
    }
    close(dirfd);
    return wrong;
}

TEST(only_regular_files_below_the_folder)
{
    make_tree();
    CHECK_INT(misjudged(), 0);
}

/* The same where the kernel does not have openat2: in a child that is denied the call every path is judged alike. */
TEST(the_same_rules_without_openat2)
{
    make_tree();
    pid_t child = fork();
    if (!child) {
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
        if (!filter || seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(openat2), 0) || seccomp_load(filter)) _exit(9);
        seccomp_release(filter);
        struct open_how how = { .flags = O_RDONLY };
        if (syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how) >= 0 || errno != ENOSYS) _exit(8);
        _exit(misjudged());
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK_INT(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
}

TEST(whole_files)
{
    root = test_directory();
    put("a", "12345");
    put("empty", "");
    char *text;
    size_t length;
    struct err err;
    REQUIRE_OK(file_read_path(&text, &length, at("a"), 5, &err), err);
    CHECK_TEXT(text, "12345");
    free(text);
    CHECK_INT(file_read_path(&text, &length, at("a"), 4, &err), ST_TOO_LARGE);
    CHECK_INT(file_read_path(&text, &length, at("none"), 4, &err), ST_NOT_FOUND);
    CHECK_INT(file_read_path(&text, &length, root, 4, &err), ST_BAD_INPUT);
    struct file_map m;
    REQUIRE_OK(file_map_path(&m, at("a"), &err), err);
    CHECK(m.size == 5 && !memcmp(m.data, "12345", 5));
    file_unmap(&m);
    REQUIRE_OK(file_map_path(&m, at("empty"), &err), err);
    CHECK(m.size == 0 && !m.data);
    file_unmap(&m);
}
