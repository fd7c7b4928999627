/* The ONNX backend suite, as far as the operators of the table go: tests/conformance/onnx_suite.txt lists what passes, so that nothing that once passed is
 * lost; and the nine whole networks, which are fed arange(n) / n. Both go through the command line's own check. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "engine/formats/onnx.h"
#include "server/commands.h"
#include "tests/test.h"

enum { LIST_MAX = 4000, PATH_MAX_BYTES = 700 };

/* The suite unpacked once; NULL when it is not there. */
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

/* Runs the command with its standard output in a file and repeats the lines that begin with FAIL as failures. */
static void check(int argc, char **argv)
{
    char path[600], line[2000];
    snprintf(path, sizeof path, "%s/check.log", test_directory());
    fflush(stdout);
    int keep = dup(1), fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(fd, 1);
    close(fd);
    int status = command_check(argc, argv);
    fflush(stdout);
    dup2(keep, 1);
    close(keep);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "FAIL", 4) == 0) test_fail(__FILE__, __LINE__, "%s", line);
    if (f) fclose(f);
    CHECK_INT(status, 0);
}

TEST(what_passed_still_passes)
{
    const char *root = suite();
    static char *argv[LIST_MAX + 4], paths[LIST_MAX][PATH_MAX_BYTES];
    char *text;
    size_t length;
    struct err err = { 0 };
    if (!root) SKIP("the ONNX backend suite (shared/data) is not here");
    REQUIRE_OK(file_read_path(&text, &length, "tests/conformance/onnx_suite.txt", 1 << 20, &err), err);
    int argc = 0, n = 0;
    argv[argc++] = "check";
    argv[argc++] = "--threads=1";
    for (char *save = NULL, *name = strtok_r(text, "\n", &save); name && n < LIST_MAX; name = strtok_r(NULL, "\n", &save), n++) {
        snprintf(paths[n], sizeof paths[n], "%s/%s", root, name);
        argv[argc++] = paths[n];
    }
    free(text);
    CHECK(n > 1000);
    check(argc, argv);
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
    check(12, argv);
}
