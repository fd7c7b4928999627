/* inferd quantize MODEL.onnx --calibrate DIR: a network rounded to 8 bits. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/calibration_files.h"
#include "server/command_convert.h"
#include "server/command_model.h"

enum { PATH_BYTES = 4096, FOLDERS_MAX = 64, LIMIT = 1024, NAME_SHOWN = 48 };
static const uint64_t MEMORY_MAX = (uint64_t)16 << 30;

const char *const command_int8_usage =
    "usage: inferd quantize MODEL.onnx --calibrate DIR [--output FILE.onnx] [--method minmax|percentile|entropy] [--percentile 99.99]\n"
    "       [--keep-worst N] [--max-error 0.1] [--activations uint8|int8] [--limit 1024] [--no-table] [--threads N]\n"
    "A network in 8 bits (QuantizeLinear and DequantizeLinear, weights by output channel) that other engines read as well. DIR (may be given more than once) holds inputs of the kind the model will\n"
    "see: .npy, .npz, .pb or picture files, or folders of input_K.pb or NAME.npy. Each layer's error is shown; the worst stay in float until outputs differ by at most --max-error (relative; 0: whatever).\n"
    "example: inferd quantize models/digits --calibrate models/digits/samples --output digits-int8.onnx\n";

struct arguments {
    struct engine_options engine;
    struct int8_options   int8;
    const char *model, *output, *folders[FOLDERS_MAX];
    int folder_count, limit;
};

/* ---- arguments ---- */
static int wrong(const char *what)
{
    fprintf(stderr, "inferd quantize: %s\n", what);
    return -1;
}

/* 0: none of these; 1: taken; -1: wrong. */
static int read_option(struct command_args *a, struct arguments *g)
{
    const char *v;
    double n;
    if (command_option(a, "--calibrate", &v)) {
        if (!v || g->folder_count == FOLDERS_MAX) return wrong("--calibrate takes a folder or a file, at most 64 of them");
        g->folders[g->folder_count++] = v;
    } else if (command_option(a, "--output", &v)) {
        if (!v) return -1;
        g->output = v;
    } else if (command_option(a, "--method", &v)) {
        if (!v || !tally_method_from_name(v, &g->int8.method)) return wrong("--method takes minmax, percentile or entropy");
    } else if (command_option(a, "--percentile", &v)) {
        if (!command_number(v, 50, 100, &g->int8.percentile)) return wrong("--percentile takes a number from 50 to 100");
    } else if (command_option(a, "--keep-worst", &v)) {
        if (!command_number(v, 0, 100000, &n)) return wrong("--keep-worst takes a number of layers");
        g->int8.keep_worst = (int)n;
    } else if (command_option(a, "--max-error", &v)) {
        if (!command_number(v, 0, 1e6, &g->int8.error_max)) return wrong("--max-error takes a relative error such as 0.05, or 0 for none");
    } else if (command_option(a, "--limit", &v)) {
        if (!command_number(v, 1, CALIBRATION_FILES_MAX, &n)) return wrong("--limit takes a number of inputs");
        g->limit = (int)n;
    } else if (command_option(a, "--activations", &v)) {
        if (!v || (strcmp(v, "uint8") && strcmp(v, "int8"))) return wrong("--activations takes uint8 or int8");
        g->int8.signed_activations = strcmp(v, "int8") == 0;
    } else if (command_flag(a, "--no-table")) g->int8.no_table = true;
    else return 0;
    return 1;
}

/* 0: go on; else the exit status plus one. */
static int read_arguments(int argc, char **argv, struct arguments *g)
{
    struct command_args a = { argc, 1, argv };
    command_engine_defaults(&g->engine);
    while (a.at < argc) {
        int took = command_engine_option(&a, &g->engine);
        if (!took) took = read_option(&a, g);
        if (took < 0) return 3;
        if (took) continue;
        if (command_flag(&a, "--help")) {
            fputs(command_int8_usage, stdout);
            return 1;
        }
        if (argv[a.at][0] == '-' || g->model) {
            fprintf(stderr, "inferd quantize: '%s' is not understood\n%s", argv[a.at], command_int8_usage);
            return 3;
        }
        g->model = argv[a.at++];
    }
    if (g->model && g->folder_count) return 0;
    fputs(command_int8_usage, stderr);
    return 3;
}

/* ---- saying what happens ---- */
static void show_progress(void *ctx, const char *what, int done, int total)
{
    (void)ctx;
    fprintf(stderr, "\r%-28s %5d of %-5d", what, done, total);
}

static void print_report(const struct int8_report *r, const struct arguments *g)
{
    bool measured = false;
    for (int l = 0; l < r->layer_count; l++) measured = measured || r->layers[l].error >= 0;
    if (measured) printf("%-*s %-8s %10s %10s  %s\n", NAME_SHOWN, "layer", "kind", "error", "moved", "kept in");
    for (int l = 0; l < r->layer_count && measured; l++) {
        const struct int8_layer *x = &r->layers[l];
        const size_t n = strlen(x->name);
        printf("%-*.*s %-8s", NAME_SHOWN, NAME_SHOWN, n > NAME_SHOWN ? x->name + n - NAME_SHOWN : x->name, x->type);
        if (x->error >= 0) printf(" %10.3e %8.2f %%", x->error, 100 * x->moved);
        else printf(" %10s %10s", "-", "-");
        printf("  %s\n", x->kept ? "float" : "int8");
    }
    if (r->folded) printf("%d batch normalisations were multiplied into convolutions\n", r->folded);
    printf("%d of %d layers are int8; the outputs of %d inputs differ by %.3e (relative L2), %.2f %% have another largest element\n", r->layer_count - r->kept, r->layer_count, r->compared, r->error, 100 * r->moved);
    if (!r->reached) printf("note: even so the bound of %g does not hold\n", g->int8.error_max);
}

/* ---- files ---- */
static enum status write_file(const char *path, const struct buf *b, struct err *err)
{
    char part[PATH_BYTES];
    if (snprintf(part, sizeof part, "%s.part", path) >= PATH_BYTES) return err_set(err, ST_BAD_INPUT, "the path is too long");
    FILE *f = fopen(part, "wb");
    if (!f) return err_set(err, ST_INTERNAL, "'%s' cannot be written", part);
    const bool whole = fwrite(b->data, 1, b->length, f) == b->length;
    if (fclose(f) || !whole || rename(part, path)) {
        unlink(part);
        return err_set(err, ST_NO_SPACE, "'%s' cannot be written", path);
    }
    return ST_OK;
}

/* NAME.onnx -> NAME-int8.onnx, in its folder. */
static enum status default_output(char out[PATH_BYTES], const char *file, struct err *err)
{
    const size_t n = strlen(file), end = n > 5 && !strcmp(file + n - 5, ".onnx") ? n - 5 : n;
    return snprintf(out, PATH_BYTES, "%.*s-int8.onnx", (int)end, file) < PATH_BYTES ? ST_OK : err_set(err, ST_BAD_INPUT, "the path is too long");
}

static enum status make(const struct arguments *g, const struct command_model *m, struct calibration_files *files, struct int8_report *report, char output[PATH_BYTES], uint64_t sizes[2], struct err *err)
{
    struct int8_inputs inputs = { files->count < g->limit ? files->count : g->limit, files, calibration_files_read };
    struct file_map map = { 0 };
    struct buf out;
    buf_init(&out, 0);
    enum status st = g->output ? (snprintf(output, PATH_BYTES, "%s", g->output) < PATH_BYTES ? ST_OK : err_set(err, ST_BAD_INPUT, "the path is too long")) : default_output(output, m->file, err);
    if (!st && strcmp(output, m->file) == 0) st = err_set(err, ST_BAD_INPUT, "the output would replace the model itself");
    if (!st) st = file_map_path(&map, m->file, err);
    const int dirfd = st ? -1 : open(m->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!st) st = int8_make(&out, report, map.data, map.size, dirfd, &inputs, &g->int8, err);
    if (g->int8.progress) fprintf(stderr, "\r%50s\r", "");
    if (!st) st = write_file(output, &out, err);
    sizes[0] = map.size;
    sizes[1] = out.length;
    if (dirfd >= 0) close(dirfd);
    file_unmap(&map);
    buf_free(&out);
    return st;
}

int command_int8(int argc, char **argv)
{
    static char output[PATH_BYTES];
    struct arguments g = { .int8 = { .percentile = 99.99, .error_max = 0.1 }, .limit = LIMIT };
    struct int8_report report = { 0 };
    struct calibration_files files = { 0 };
    struct command_model m = { 0 };
    struct err err = { 0 };
    uint64_t sizes[2] = { 0 }, start = clock_ns();
    int done = read_arguments(argc, argv, &g);
    if (done) return done - 1;
    g.int8.threads = g.engine.threads;
    g.int8.cpu_level = g.engine.cpu_level;
    g.int8.memory_max = MEMORY_MAX;
    if (isatty(STDERR_FILENO)) g.int8.progress = show_progress;
    enum status st = command_onnx_open(&m, g.model, &g.engine, &err);
    if (!st) st = calibration_files_open(&files, m.directory, m.signature, &err);
    for (int i = 0; i < g.folder_count && !st; i++) st = calibration_files_add(&files, g.folders[i], &err);
    if (!st && files.passed_over) fprintf(stderr, "inferd: %d files of other kinds are passed over\n", files.passed_over);
    if (!st && files.count > g.limit) fprintf(stderr, "inferd: the first %d of %d inputs are used (--limit)\n", g.limit, files.count);
    if (!st) st = make(&g, &m, &files, &report, output, sizes, &err);
    if (!st) {
        print_report(&report, &g);
        printf("%s: %.1f MiB from %.1f MiB, %.1f s\n", output, (double)sizes[1] / 1048576, (double)sizes[0] / 1048576, (double)(clock_ns() - start) / 1e9);
    } else fprintf(stderr, "inferd: %s\n", err.text);
    int8_report_free(&report);
    calibration_files_close(&files);
    command_model_close(&m);
    return st ? 1 : 0;
}
