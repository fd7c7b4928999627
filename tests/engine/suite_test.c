/* The ONNX backend suite, all of it, against tests/conformance/onnx_ledger.txt: each line names a suite, a test and what must come of it, "pass", or "no" and
 * the reason, or "chance" and the reason where random numbers decide. A test that should pass and does not fails this one; so does a test that passes and is not promoted, and one that stands in no line. Three suites are
 * known: "debian" (the package libonnx-testdata), "v1.22.0" (the archive of shared/data) and "generated" (tools/make_onnx_cases.py: com.microsoft and ai.onnx.ml beside
 * onnxruntime); one that is not there is skipped. `make conformance` runs this at every CPU level (CONFORMANCE_LEVEL), with the graph passes on and off (CONFORMANCE_AS_WRITTEN), and once
 * through the tasks of a GPU (CONFORMANCE_GPU: tests/kernels/fake_gpu.h, the functions that CUDA kernels are made of). */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "engine/device_gpu.h"
#include "engine/formats/onnx.h"
#include "server/commands.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/test.h"

enum { TESTS_MAX = 4000, PATH_MAX_BYTES = 700, LEDGER_BYTES_MAX = 4 << 20 };

/* The archive unpacked once; NULL when it is not there. */
static const char *suite(void)
{
    static char folder[512], command[1600];
    static bool tried;
    const char *shared = test_shared();
    if (tried) return folder[0] ? folder : NULL;
    tried = true;
    if (!shared) return NULL;
    snprintf(folder, sizeof folder, "%s", test_directory());
    snprintf(command, sizeof command, "tar --zstd -xf '%s/data/onnx-backend-v1.22.0.tar.zst' -C '%s' 2>/dev/null", shared, folder);
    if (system(command) != 0) {
        folder[0] = 0;
        return NULL;
    }
    snprintf(folder + strlen(folder), sizeof folder - strlen(folder), "/onnx/backend/test/data");
    return folder;
}

static const char *debian(void)
{
    static const char *const places[] = { "/usr/share/libonnx-testdata/data", "build/debs/usr/share/libonnx-testdata/data" };
    for (int i = 0; i < 2; i++)
        if (access(places[i], R_OK) == 0) return places[i];
    return NULL;
}

/* Runs the command with its standard output in a file, whose path is given back. */
static const char *run_check(int argc, char **argv)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/check.log", test_directory());
    fflush(stdout);
    int keep = dup(1), fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(fd, 1);
    close(fd);
    command_check(argc, argv);
    fflush(stdout);
    dup2(keep, 1);
    close(keep);
    return path;
}

/* ---- the ledger ---- */
struct row { const char *name; bool pass, chance, ran; };
struct ledger { char *text; struct row rows[TESTS_MAX]; int count; };

static bool read_ledger(struct ledger *l, const char *suite_name)
{
    size_t length;
    struct err err = { 0 };
    l->count = 0;
    if (file_read_path(&l->text, &length, "tests/conformance/onnx_ledger.txt", LEDGER_BYTES_MAX, &err)) return false;
    for (char *save = NULL, *line = strtok_r(l->text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        size_t n = strlen(suite_name);
        char *name = line + n + 1, *space;
        if (line[0] == '#' || strncmp(line, suite_name, n) || line[n] != ' ' || !(space = strchr(name, ' ')) || l->count == TESTS_MAX) continue;
        *space = 0;
        l->rows[l->count] = (struct row){ .name = name, .pass = strcmp(space + 1, "pass") == 0, .chance = strncmp(space + 1, "chance ", 7) == 0 };
        if (!l->rows[l->count].pass && !l->rows[l->count].chance && strncmp(space + 1, "no ", 3)) test_fail(__FILE__, __LINE__, "ledger, %s: neither \"pass\" nor \"no\" or \"chance\" and a reason", name);
        l->count++;
    }
    return l->count > 0;
}

static struct row *find_row(struct ledger *l, const char *name)
{
    for (int i = 0; i < l->count; i++)
        if (strcmp(l->rows[i].name, name) == 0) return &l->rows[i];
    return NULL;
}

/* Adds every folder of root/kind to the arguments. */
static int list_tests(const char *root, const char *kind, char **argv, int argc, char paths[][PATH_MAX_BYTES])
{
    char folder[PATH_MAX_BYTES / 2];
    snprintf(folder, sizeof folder, "%s/%s", root, kind);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || argc == TESTS_MAX) continue;
        snprintf(paths[argc], PATH_MAX_BYTES, "%s/%s", folder, e->d_name);
        argv[argc] = paths[argc];
        argc++;
    }
    if (d) closedir(d);
    return argc;
}

/* as_tasks: of a GPU, whatever the environment says. */
static void compare_with_ledger(const char *name, const char *root, bool as_tasks)
{
    const bool gpu = as_tasks || getenv("CONFORMANCE_GPU");
    static const char *const kinds[] = { "node", "simple", "pytorch-converted", "pytorch-operator" };
    static char *argv[TESTS_MAX + 1], paths[TESTS_MAX][PATH_MAX_BYTES], line[4000], level[64];
    static struct ledger ledger;
    int argc = 0, passed = 0;
    REQUIRE(read_ledger(&ledger, name));
    argv[argc++] = "check";
    argv[argc++] = "--threads=1";
    if (getenv("CONFORMANCE_AS_WRITTEN")) argv[argc++] = "--as-written";
    if (getenv("CONFORMANCE_LEVEL")) {
        snprintf(level, sizeof level, "--cpu-level=%s", getenv("CONFORMANCE_LEVEL"));
        argv[argc++] = level;
    }
    if (gpu) {
        if (!device_gpu_count()) device_gpus_use(fake_gpu_api());
        argv[argc++] = "--gpu=0";
    }
    int options = argc;
    for (int k = 0; k < 4; k++) argc = list_tests(root, kinds[k], argv, argc, paths);
    uint64_t ran = 0;
    FILE *f = fopen(run_check(argc, argv), "r");
    for (int k = 0; k < GPU_KIND_COUNT; k++) ran += fake_gpu_ran((enum gpu_kind)k);
    if (gpu) printf("     %llu tasks\n", (unsigned long long)ran);
    for (size_t skip = strlen(root) + 1; f && fgets(line, sizeof line, f);) {
        bool ok = strncmp(line, "ok   ", 5) == 0;
        if ((!ok && strncmp(line, "FAIL ", 5)) || strncmp(line + 5, root, skip - 1)) continue;
        char *test = line + 5 + skip, *end = strpbrk(test, ":\n"), *why = end && *end == ':' ? end + 2 : "";
        if (end) *end = 0;
        struct row *r = find_row(&ledger, test);
        if (!r) test_fail(__FILE__, __LINE__, "%s %s stands in no line of the ledger (%s)", name, test, ok ? "it passes" : why);
        else if (ok && !r->pass && !r->chance) test_fail(__FILE__, __LINE__, "%s %s passes now: promote it in the ledger", name, test);
        else if (!ok && r->pass) test_fail(__FILE__, __LINE__, "%s %s: %s", name, test, why);
        if (r) r->ran = true;
        passed += ok;
    }
    if (f) fclose(f);
    for (int i = 0; i < ledger.count; i++)
        if (!ledger.rows[i].ran && strncmp(ledger.rows[i].name, "light/", 6)) test_fail(__FILE__, __LINE__, "%s %s stands in the ledger but was not run", name, ledger.rows[i].name);
    printf("     %s: %d of %d pass\n", name, passed, argc - options);
    free(ledger.text);
}

TEST(the_archive_agrees_with_the_ledger)
{
    if (!suite()) SKIP("the ONNX backend suite (shared/data) is not here");
    compare_with_ledger("v1.22.0", suite(), false);
}

TEST(debians_suite_agrees_with_the_ledger)
{
    if (!debian()) SKIP("Debian's libonnx-testdata is not here (tools/debs.sh libonnx-testdata)");
    compare_with_ledger("debian", debian(), false);
}

TEST(debians_suite_agrees_as_tasks_of_a_gpu)
{
    if (!debian()) SKIP("Debian's libonnx-testdata is not here (tools/debs.sh libonnx-testdata)");
    compare_with_ledger("debian", debian(), true);
}

TEST(the_generated_cases_agree_with_the_ledger)
{
    if (access("build/onnx-cases/node", R_OK)) SKIP("build/onnx-cases is not here; make conformance makes it");
    compare_with_ledger("generated", "build/onnx-cases", false);
}

static void put_varint(struct buf *b, uint64_t v)
{
    for (; v > 127; v >>= 7) buf_putc(b, (char)(v | 128));
    buf_putc(b, (char)v);
}

/* arange(n) / n of the shape the model declares for its only true input, as a TensorProto. */
static bool write_input(const char *model, const char *path)
{
    struct file_map map;
    struct arena arena;
    struct onnx_model *m;
    struct err err = { 0 };
    struct buf b, raw;
    if (file_map_path(&map, model, &err)) return false;
    arena_init(&arena, 1 << 30);
    bool good = onnx_parse(&m, &arena, map.data, map.size, &err) == ST_OK;
    buf_init(&b, 0);
    buf_init(&raw, 0);
    for (int i = 0; good && i < m->graph.input_count; i++) {
        const struct onnx_port *p = &m->graph.inputs[i];
        bool weight = false;
        for (int k = 0; k < m->graph.initializer_count; k++) weight = weight || strcmp(m->graph.initializers[k].name, p->name) == 0;
        if (weight) continue;
        int64_t n = 1;
        for (int d = 0; d < p->rank; d++) {
            n *= p->dims[d];
            buf_putc(&b, 0x08);
            put_varint(&b, (uint64_t)p->dims[d]);
        }
        for (int64_t k = 0; k < n; k++) {
            float v = (float)((double)k / (double)n);
            buf_append(&raw, &v, 4);
        }
        buf_append(&b, "\x10\x01\x4a", 3);
        put_varint(&b, raw.length);
        buf_append(&b, raw.data, raw.length);
    }
    FILE *f = fopen(path, "wb");
    good = good && f && fwrite(b.data, 1, b.length, f) == b.length;
    if (f) fclose(f);
    buf_free(&b);
    buf_free(&raw);
    arena_free(&arena);
    file_unmap(&map);
    return good;
}

TEST(the_nine_whole_networks)
{
    static const char *const names[] = { "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19", "zfnet512" };
    static char paths[9][PATH_MAX_BYTES], *argv[12] = { "check", "--rtol=2e-3", "--threads=2" };
    const char *root = suite(), *folder;
    if (!root) SKIP("the ONNX backend suite (shared/data) is not here");
    folder = test_directory();
    for (int i = 0; i < 9; i++) {
        char from[PATH_MAX_BYTES], to[PATH_MAX_BYTES + 64];
        snprintf(paths[i], sizeof paths[i], "%s/%s", folder, names[i]);
        mkdir(paths[i], 0755);
        snprintf(to, sizeof to, "%s/test_data_set_0", paths[i]);
        mkdir(to, 0755);
        snprintf(from, sizeof from, "%s/light/light_%s.onnx", root, names[i]);
        snprintf(to, sizeof to, "%s/test_data_set_0/input_0.pb", paths[i]);
        CHECK(write_input(from, to));
        snprintf(to, sizeof to, "%s/model.onnx", paths[i]);
        CHECK_INT(rename(from, to), 0);
        snprintf(from, sizeof from, "%s/light/light_%s_output_0.pb", root, names[i]);
        snprintf(to, sizeof to, "%s/test_data_set_0/output_0.pb", paths[i]);
        CHECK_INT(rename(from, to), 0);
        argv[3 + i] = paths[i];
    }
    FILE *log = fopen(run_check(12, argv), "r");
    char line[2000];
    int passed = 0;
    for (; log && fgets(line, sizeof line, log); passed += strncmp(line, "ok ", 3) == 0)
        if (strncmp(line, "FAIL", 4) == 0) test_fail(__FILE__, __LINE__, "%s", line);
    if (log) fclose(log);
    CHECK_INT(passed, 9);
}
