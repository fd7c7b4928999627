#include "base/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
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

TEST(only_regular_files_below_the_folder)
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
    int dirfd = open(at("d"), O_RDONLY | O_DIRECTORY), fd = -1;
    uint64_t size;
    struct err err;
    CHECK_OK(file_open_below(&fd, &size, dirfd, "file", &err), err);
    CHECK_INT(size, 5);
    close(fd);
    CHECK_OK(file_open_below(&fd, &size, dirfd, "sub/inner", &err), err);
    close(fd);
    CHECK_INT(file_open_below(&fd, &size, dirfd, "missing", &err), ST_NOT_FOUND);
    static const char *const bad[] = { "link", "folder/secret", "pipe", "sub", "../outside/secret", "sub/../../outside/secret", "/etc/passwd", "", "sub//inner" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (file_open_below(&fd, &size, dirfd, bad[i], &err) != ST_BAD_INPUT) test_fail(__FILE__, __LINE__, "'%s': %s", bad[i], err.text);
    close(dirfd);
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
