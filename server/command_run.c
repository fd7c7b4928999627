/* inferd run: one inference from files. Prints each output's shape and first numbers; --output DIR writes them as .npy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "engine/operators/numbers.h"
#include "server/command_model.h"
#include "server/commands.h"

enum { SHOWN = 10 };

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd run MODEL [--input NAME=FILE]... [--output DIR] [--threads N] [--cpu-level L]\n"
                "FILE is .npy, .pb (TensorProto) or a picture. A model with one input takes --input FILE as well.\n"
                "example: inferd run models/digits --input image=models/samples/digits/7_0.png\n");
}

static void print_output(const char *name, const struct tensor *t)
{
    char shape[128];
    uint64_t n = 0;
    shape_count(t->dims, t->rank, &n);
    printf("%s %s %s:", name, dtype_name(t->dtype), shape_text(t->dims, t->rank, shape, sizeof shape));
    for (uint64_t i = 0; i < n && i < SHOWN; i++) {
        double v;
        if (t->dtype == DT_STRING) {
            const struct string_ref *s = (const struct string_ref *)t->data + i;
            printf(" \"%.*s\"", (int)(s->length < 60 ? s->length : 60), s->text);
        } else if (dtype_is_number(t->dtype)) {
            real_load(&v, t->dtype, t->data, i, 0, 1);
            printf(" %.7g", v);
        }
    }
    printf(n > SHOWN ? " ...\n" : "\n");
}

static enum status write_output(const char *dir, const char *name, const struct tensor *t, struct err *err)
{
    char path[8192], plain[256];
    size_t n = 0;
    for (; name[n] && n < sizeof plain - 1; n++) plain[n] = strchr("/\\:", name[n]) ? '_' : name[n];
    plain[n] = 0;
    snprintf(path, sizeof path, "%s/%s.npy", dir, plain);
    return command_tensor_write(path, t, err);
}

static enum status run_once(const char *model, const struct engine_options *options, const struct command_binding *bindings, int count, const char *dir, struct err *err)
{
    static struct request_tensor inputs[COMMAND_TENSORS_MAX];
    struct command_model m;
    struct request r;
    struct arena arena;
    enum status st = command_onnx_open(&m, model, options, err);
    if (st) return st;
    arena_init(&arena, (uint64_t)8 << 30);
    st = command_bindings_read(m.signature, bindings, count, inputs, &arena, err);
    if (!st) {
        st = command_model_run(&m, &r, inputs, count, err);
        if (!st && dir) mkdir(dir, 0777);
        for (int k = 0; !st && k < r.output_count; k++) {
            print_output(r.outputs[k].name, &r.outputs[k].tensor);
            if (dir) st = write_output(dir, r.outputs[k].name, &r.outputs[k].tensor, err);
        }
        request_drop(&r);
    }
    arena_free(&arena);
    command_model_close(&m);
    return st;
}

int command_run(int argc, char **argv)
{
    static struct command_binding bindings[COMMAND_TENSORS_MAX];
    struct engine_options options;
    struct command_args a = { argc, 1, argv };
    const char *model = NULL, *dir = NULL;
    int count = 0;
    command_engine_defaults(&options);
    while (a.at < argc) {
        int took = command_engine_option(&a, &options);
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { usage(stdout); return 0; }
        if (command_option(&a, "--output", &dir)) {
            if (!dir) return 2;
            continue;
        }
        int bound = command_binding_option(&a, bindings, &count);
        if (bound < 0) { usage(stderr); return 2; }
        if (bound) continue;
        if (argv[a.at][0] == '-' || model) { fprintf(stderr, "inferd run: '%s' is not understood\n", argv[a.at]); usage(stderr); return 2; }
        model = argv[a.at++];
    }
    if (!model) { usage(stderr); return 2; }
    struct err err = { 0 };
    if (!run_once(model, &options, bindings, count, dir, &err)) return 0;
    fprintf(stderr, "inferd: %s\n", err.text);
    return 1;
}
