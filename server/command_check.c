/* inferd check: runs the data sets that lie beside a model, as the ONNX backend suite stores them, and compares. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/operators/numbers.h"
#include "server/command_model.h"
#include "server/commands.h"

struct tolerance { double relative, absolute; bool given; };

static bool close_enough(double got, double want, struct tolerance t)
{
    if (want != want || got != got) return want != want && got != got;
    if (got == want) return true;
    return fabs(got - want) <= t.absolute + t.relative * fabs(want);
}

static enum status compare_items(const struct tensor *got, const struct tensor *want, struct tolerance tolerance, const char *name, struct err *err);

static enum status compare(const struct tensor *got, const struct tensor *want, struct tolerance tolerance, const char *name, struct err *err)
{
    char a[128], b[128];
    uint64_t n = 0;
    if (got->dtype != want->dtype) return err_set(err, ST_BAD_INPUT, "output '%s' is %s, not %s", name, dtype_name(got->dtype), dtype_name(want->dtype));
    if (got->rank != want->rank || (got->rank && memcmp(got->dims, want->dims, (size_t)got->rank * sizeof got->dims[0])))
        return err_set(err, ST_BAD_INPUT, "output '%s' has shape %s, not %s", name, shape_text(got->dims, got->rank, a, sizeof a), shape_text(want->dims, want->rank, b, sizeof b));
    if (want->dtype == DT_SEQUENCE) return compare_items(got, want, tolerance, name, err);
    shape_count(want->dims, want->rank, &n);
    if (want->dtype == DT_BF16 && !tolerance.given) tolerance.relative = 0.015625;
    for (uint64_t i = 0; i < n; i++) {
        if (want->dtype == DT_STRING) {
            const struct string_ref *p = (const struct string_ref *)got->data + i, *q = (const struct string_ref *)want->data + i;
            if (p->length != q->length || (p->length && memcmp(p->text, q->text, p->length))) return err_set(err, ST_BAD_INPUT, "output '%s' differs at element %llu", name, (unsigned long long)i);
            continue;
        }
        if (!dtype_is_dense(want->dtype)) return got->bytes == want->bytes && memcmp(got->data, want->data, got->bytes) == 0 ? ST_OK : err_set(err, ST_BAD_INPUT, "output '%s' differs", name);
        double x, y;
        real_load(&x, got->dtype, got->data, i, 0, 1);
        real_load(&y, want->dtype, want->data, i, 0, 1);
        if (!close_enough(x, y, tolerance)) return err_set(err, ST_BAD_INPUT, "output '%s' is %.9g at element %llu, not %.9g", name, x, (unsigned long long)i, y);
    }
    return ST_OK;
}

static enum status compare_items(const struct tensor *got, const struct tensor *want, struct tolerance tolerance, const char *name, struct err *err)
{
    for (int64_t i = 0; i < want->dims[0]; i++) {
        enum status st = compare((const struct tensor *)got->data + i, (const struct tensor *)want->data + i, tolerance, name, err);
        if (st) return err_prefix(err, "item %lld", (long long)i);
    }
    return ST_OK;
}

static enum status check_set(struct command_model *m, const char *dir, struct tolerance tolerance, struct err *err)
{
    static struct request_tensor inputs[COMMAND_TENSORS_MAX];
    struct request r = { 0 };
    struct arena arena;
    char path[8192];
    int count = 0, ran = 0;
    enum status st = ST_OK;
    arena_init(&arena, (uint64_t)8 << 30);
    for (; !st && count < m->signature->input_count; count++) {
        snprintf(path, sizeof path, "%s/input_%d.pb", dir, count);
        if (access(path, R_OK)) break;
        inputs[count].name = m->signature->inputs[count].name;
        st = command_tensor_read(&inputs[count].tensor, &arena, path, &m->signature->inputs[count], err);
    }
    if (!st) {
        ran = 1;
        st = command_model_run(m, &r, inputs, count, err);
    }
    int seen = 0;
    for (int k = 0; !st && k < r.output_count; k++, seen++) {
        struct tensor want;
        snprintf(path, sizeof path, "%s/output_%d.pb", dir, k);
        if (access(path, R_OK)) break;
        st = command_tensor_read(&want, &arena, path, k < m->signature->output_count ? &m->signature->outputs[k] : NULL, err);
        if (!st) st = compare(&r.outputs[k].tensor, &want, tolerance, r.outputs[k].name, err);
    }
    if (!st && seen == 0) st = err_set(err, ST_BAD_INPUT, "'%s' holds no output_0.pb", dir);
    if (ran) request_drop(&r);
    arena_free(&arena);
    return st;
}

static enum status check_directory(const char *dir, const struct engine_options *options, struct tolerance tolerance, struct err *err)
{
    struct command_model m;
    int sets = 0;
    enum status st = command_onnx_open(&m, dir, options, err);
    if (st) return st;
    for (int i = 0; !st; i++, sets++) {
        char path[4096 + 64];
        snprintf(path, sizeof path, "%s/test_data_set_%d", dir, i);
        if (access(path, R_OK)) break;
        st = check_set(&m, path, tolerance, err);
        if (st) err_prefix(err, "set %d", i);
    }
    command_model_close(&m);
    return !st && sets == 0 ? err_set(err, ST_BAD_INPUT, "it holds no test_data_set_0") : st;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd check [--rtol 1e-3] [--atol 1e-7] [--threads N] [--cpu-level L] [--as-written] DIR...\n"
                "Each DIR holds model.onnx and test_data_set_*/{input,output}_*.pb. Prints a line for each and at the end \"N passed, N failed\".\n");
}

int command_check(int argc, char **argv)
{
    struct engine_options options;
    struct tolerance tolerance = { 1e-3, 1e-7, false };
    struct command_args a = { argc, 1, argv };
    const char *v;
    int passed = 0, failed = 0;
    command_engine_defaults(&options);
    while (a.at < argc) {
        int took = command_engine_option(&a, &options);
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { usage(stdout); return 0; }
        if (command_flag(&a, "--as-written")) { options.passes_off = true; continue; }
        bool relative = command_option(&a, "--rtol", &v);
        if (relative || command_option(&a, "--atol", &v)) {
            if (!command_number(v, 0, 1e9, relative ? &tolerance.relative : &tolerance.absolute)) { fprintf(stderr, "inferd: a tolerance is a number from 0\n"); return 2; }
            tolerance.given = tolerance.given || relative;
            continue;
        }
        if (argv[a.at][0] == '-') { fprintf(stderr, "inferd check: unknown option '%s'\n", argv[a.at]); usage(stderr); return 2; }
        struct err err = { 0 };
        const char *dir = argv[a.at++];
        if (check_directory(dir, &options, tolerance, &err)) {
            printf("FAIL %s: %s\n", dir, err.text);
            failed++;
        } else {
            printf("ok   %s\n", dir);
            passed++;
        }
        fflush(stdout);
    }
    if (passed + failed == 0) { usage(stderr); return 2; }
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
