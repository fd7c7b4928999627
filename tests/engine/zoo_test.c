/* The small networks of the zoo that lie in the tree (tests/conformance/zoo, made by tools/zoo from the libraries the networks come from): every one agrees, with the
 * graph's passes and as it is written, on one thread and on two, at the level of the machine. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/commands.h"
#include "tests/test.h"

enum { NETWORKS_MAX = 128, OPTIONS = 5 };

static void check_all(const char *threads, bool as_written)
{
    static char paths[NETWORKS_MAX][300];
    char *argv[OPTIONS + NETWORKS_MAX + 1] = { "check", (char *)(uintptr_t)threads, "--rtol=1e-4", "--atol=1e-4" }, log[600], line[1000];
    int argc = 4, passed = 0;
    if (as_written) argv[argc++] = "--as-written";
    const int first = argc;
    DIR *d = opendir("tests/conformance/zoo");
    REQUIRE(d != NULL);
    for (struct dirent *e; (e = readdir(d)) && argc < first + NETWORKS_MAX;) {
        if (e->d_name[0] == '.') continue;
        snprintf(paths[argc - first], sizeof paths[0], "tests/conformance/zoo/%.200s", e->d_name);
        argv[argc] = paths[argc - first];
        argc++;
    }
    closedir(d);
    snprintf(log, sizeof log, "%s/check.log", test_directory());
    fflush(stdout);
    int keep = dup(1), fd = open(log, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(fd, 1);
    close(fd);
    int status = command_check(argc, argv);
    fflush(stdout);
    dup2(keep, 1);
    close(keep);
    FILE *f = fopen(log, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "FAIL ", 5) == 0) test_fail(__FILE__, __LINE__, "%s%s: %s", threads, as_written ? " as written" : "", line + 5);
        passed += strncmp(line, "ok   ", 5) == 0;
    }
    if (f) fclose(f);
    CHECK_INT(status, 0);
    CHECK_INT(passed, argc - first);
    CHECK(passed >= 30);
}

TEST(every_network_agrees_on_one_thread) { check_all("--threads=1", false); }
TEST(every_network_agrees_on_two_threads) { check_all("--threads=2", false); }
TEST(every_network_agrees_as_it_is_written) { check_all("--threads=2", true); }
