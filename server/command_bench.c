/* inferd bench: timed runs of one model through the engine, after warm-up, on random inputs. --trace shows where the time goes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/threads.h"
#include "engine/onnx/trial.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "engine/operators/numbers.h"
#include "server/command_bench.h"
#include "server/command_draw.h"
#include "server/command_model.h"
#include "server/commands.h"

enum { RUNS_MAX = 1000000, WARM_UP = 3, STEPS_MAX = 20000, STEPS_SHOWN = 40, OPERATORS_MAX = 64 };

struct bench { const char *model, *size; int64_t batch; double seconds; bool json, trace; struct engine_options options; struct bench_text_ask text; struct draw_bench draw; struct command_binding *bindings; int binding_count; };

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd bench MODEL [--batch N] [--threads N] [--precision P] [--seconds S] [--json] [--trace] [--size N] [--cpu-level L] [--input NAME=FILE]...\n"
                "Free dimensions but the first are --size (224); with --input all inputs are read from files. --json prints one line; --trace lists the slowest nodes of the last run.\n"
                "On a language model: [--prompt 512] [--generate 128] [--sequences 1] [--precision f32|auto] [--batch-invariant].\n"
                "On a model of pictures: [--size 512x512] [--steps N] [--guidance G] [--batch PICTURES] [--precision f32|auto].\n");
}

static enum status make_inputs(const struct signature *s, const struct bench *b, struct request_tensor *inputs, struct arena *arena, struct err *err)
{
    uint64_t seed = 88172645463325252u;
    double size = 224;
    if (b->size && !command_number(b->size, 1, 1 << 20, &size)) return err_set(err, ST_BAD_INPUT, "--size takes a number");
    for (int k = 0; k < s->input_count; k++) {
        const struct port *p = &s->inputs[k];
        struct tensor *t = &inputs[k].tensor;
        if (p->rank < 0) return err_set(err, ST_UNSUPPORTED, "input '%s' does not say its shape", p->name);
        if (!dtype_is_number(p->dtype)) return err_set(err, ST_UNSUPPORTED, "input '%s' is %s; only numbers are made up", p->name, dtype_name(p->dtype));
        inputs[k].name = p->name;
        *t = (struct tensor){ .dtype = p->dtype, .rank = p->rank };
        for (int d = 0; d < p->rank; d++) t->dims[d] = p->dims[d] >= 0 ? p->dims[d] : d == 0 ? b->batch : (int64_t)size;
        uint64_t n;
        if (!tensor_bytes(t->dtype, t->dims, t->rank, &t->bytes) || !shape_count(t->dims, t->rank, &n)) return err_set(err, ST_TOO_LARGE, "input '%s' is too large", p->name);
        t->data = arena_alloc(arena, t->bytes ? t->bytes : 1, TENSOR_ALIGN);
        if (!t->data) return err_set(err, ST_NO_MEMORY, "input '%s'", p->name);
        for (uint64_t i = 0; i < n; i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            double v = (double)(seed >> 40) / 16777216.0;
            int64_t zero = 0;
            if (dtype_is_real(t->dtype)) real_store(t->data, t->dtype, i, &v, 1);
            else int_store(t->data, t->dtype, i, &zero, 1);
        }
    }
    return ST_OK;
}

static int compare_times(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int slower(const void *a, const void *b)
{
    const struct plan_step_info *x = a, *y = b;
    return (x->ns < y->ns) - (x->ns > y->ns);
}

static void print_operators(const struct plan_step_info *info, int n, uint64_t all)
{
    struct total { const char *name; uint64_t ns; int count; } totals[OPERATORS_MAX];
    int count = 0;
    for (int i = 0; i < n; i++) {
        int t = 0;
        while (t < count && strcmp(totals[t].name, info[i].node->op->name)) t++;
        if (t == OPERATORS_MAX) continue;
        if (t == count) totals[count++] = (struct total){ info[i].node->op->name, 0, 0 };
        totals[t].ns += info[i].ns;
        totals[t].count++;
    }
    printf("\n%10s %6s %5s  %s\n", "us", "%", "nodes", "operator");
    for (int t = 0; t < count; t++) printf("%10.1f %6.2f %5d  %s\n", (double)totals[t].ns / 1e3, all ? 100.0 * (double)totals[t].ns / (double)all : 0, totals[t].count, totals[t].name);
}

static void print_trace(const struct command_model *m)
{
    struct plan_step_info *info = mem_calloc_array(STEPS_MAX, sizeof *info);
    const struct plan_entry *last = m->instance->plans.entries;
    for (int i = 1; i < PLANS; i++)
        if (m->instance->plans.entries[i].used > last->used) last = &m->instance->plans.entries[i];
    const struct plan *p = last->plan;
    if (!info || !p) { free(info); return; }
    int n = plan_steps(p, info, STEPS_MAX);
    uint64_t all = 0;
    n = n > STEPS_MAX ? STEPS_MAX : n;
    for (int i = 0; i < n; i++) all += info[i].ns;
    qsort(info, (size_t)n, sizeof *info, slower);
    printf("%10s %6s  %-16s %-28s %-20s %s\n", "us", "%", "operator", "kernel", "result", "node");
    for (int i = 0; i < n && i < STEPS_SHOWN; i++) {
        char shape[128];
        printf("%10.1f %6.2f  %-16s %-28s %-20s %s\n", (double)info[i].ns / 1e3, all ? 100.0 * (double)info[i].ns / (double)all : 0, info[i].node->op->name, info[i].kernel,
               shape_text(info[i].out->dims, info[i].out->rank, shape, sizeof shape), info[i].node->name);
    }
    print_operators(info, n, all);
    free(info);
}

static enum status measure(const struct bench *b, struct command_model *m, struct request_tensor *inputs, int count, uint64_t *times, int *runs, struct err *err)
{
    enum status st = ST_OK;
    uint64_t begin = clock_ns();
    *runs = 0;
    for (int i = -WARM_UP; !st && *runs < RUNS_MAX && (*runs < 5 || (double)(clock_ns() - begin) < b->seconds * 1e9); i++) {
        struct request r;
        uint64_t start = clock_ns();
        st = command_model_run(m, &r, inputs, count, err);
        uint64_t end = clock_ns();
        request_drop(&r);
        if (i == -1) begin = end;
        if (i >= 0) times[(*runs)++] = end - start;
        for (int k = 0; i == 0 && b->trace && k < PLANS; k++)
            if (m->instance->plans.entries[k].plan) plan_time(m->instance->plans.entries[k].plan, true);
    }
    return st;
}

static enum status bench(const struct bench *b, struct err *err)
{
    static struct request_tensor inputs[COMMAND_TENSORS_MAX];
    struct command_model m;
    struct arena arena;
    int runs = 0;
    const double base = command_resident_mb("VmRSS:");
    threads_pin(0, b->options.threads);
    enum status st = command_onnx_open(&m, b->model, &b->options, err);
    if (st) return st;
    arena_init(&arena, (uint64_t)16 << 30);
    uint64_t *times = mem_alloc_array(RUNS_MAX, sizeof *times);
    if (!times) st = err_set(err, ST_NO_MEMORY, "the list of times");
    int count = b->binding_count ? b->binding_count : m.signature->input_count;
    if (!st) st = b->binding_count ? command_bindings_read(m.signature, b->bindings, count, inputs, &arena, err) : make_inputs(m.signature, b, inputs, &arena, err);
    if (!st) st = measure(b, &m, inputs, count, times, &runs, err);
    if (!st) {
        char where[64];
        qsort(times, (size_t)runs, sizeof *times, compare_times);
        double min = (double)times[0] / 1e6, median = (double)times[runs / 2] / 1e6, p99 = (double)times[(runs - 1) * 99 / 100] / 1e6;
        double load = (double)m.load_ns / 1e6, rss = command_resident_mb("VmHWM:");
        if (b->json) printf("{\"precision\":\"%s\",\"threads\":%d,\"batch\":%lld,\"runs\":%d,\"min_ms\":%.4f,\"median_ms\":%.4f,\"p99_ms\":%.4f,\"load_ms\":%.1f,\"base_rss_mb\":%.1f,\"peak_rss_mb\":%.1f}\n", m.signature->precision.name, b->options.threads, (long long)b->batch, runs, min, median, p99, load, base, rss);
        else printf("%s: batch %lld, %s, %s: %d runs, min %.3f ms, median %.3f ms, p99 %.3f ms, %.1f rows/s; loaded in %.1f ms, peak %.1f MiB\n", b->model, (long long)b->batch,
                    m.signature->precision.name, command_where(&b->options, m.engine->import.graph.device.kernels.level, where), runs, min, median, p99, (double)b->batch / median * 1e3, load, rss);
        const struct signature_precision *p = &m.signature->precision;
        if (!b->json && p->error >= 0) printf("precision: %s has an error of %.2e (%.1e is allowed) and is %.2f times as fast as f32: %s\n", p->tried, p->error, p->error_max, p->gain, p->name);
        if (b->trace && !b->json) print_trace(&m);
    }
    free(times);
    arena_free(&arena);
    command_model_close(&m);
    return st;
}

/* --name N into a small count: 0 not it, 1 taken, -1 wrong. */
static int count_option(struct command_args *a, const char *name, int low, int *out)
{
    const char *v;
    double n;
    if (!command_option(a, name, &v)) return 0;
    if (!command_number(v, low, 1 << 20, &n) || n != (int)n) {
        fprintf(stderr, "inferd: %s takes a number from %d to %d\n", name, low, 1 << 20);
        return -1;
    }
    *out = (int)n;
    return 1;
}

static enum status run_bench(struct bench *b, struct err *err)
{
    char file[4096];
    const struct engine_ops *ops = command_model_find(file, b->model, NULL) ? NULL : command_engine_of(file);
    if (ops && ops->text) return bench_text(b->model, &b->options, &b->text, err);
    if (!ops || !ops->image) return bench(b, err);
    b->draw.pictures = (int)(b->batch < IMAGE_PICTURES_MAX ? b->batch : IMAGE_PICTURES_MAX);
    b->draw.json = b->json;
    b->draw.trace = b->trace;
    if (b->size && !command_size(b->size, &b->draw.width, &b->draw.height)) return err_set(err, ST_BAD_INPUT, "--size takes WIDTHxHEIGHT");
    return bench_draw(b->model, &b->options, &b->draw, err);
}

int command_bench(int argc, char **argv)
{
    static struct command_binding bindings[COMMAND_TENSORS_MAX];
    struct bench b = { .bindings = bindings, .batch = 1, .seconds = 3, .text = { .prompt = 512, .generate = 128, .sequences = 1 }, .draw = { .steps = 4, .guidance = -1 } };
    struct command_args a = { argc, 1, argv };
    const char *v;
    double n;
    command_engine_defaults(&b.options);
    b.options.precision = PRECISION_AUTO;
    while (a.at < argc) {
        int took = command_engine_option(&a, &b.options);
        if (!took) took = count_option(&a, "--prompt", 0, &b.text.prompt);
        if (!took) took = count_option(&a, "--generate", 0, &b.text.generate);
        if (!took) took = count_option(&a, "--sequences", 1, &b.text.sequences);
        if (!took) took = count_option(&a, "--steps", 1, &b.draw.steps);
        if (!took) took = command_binding_option(&a, bindings, &b.binding_count);
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { usage(stdout); return 0; }
        if (command_flag(&a, "--json")) { b.json = true; continue; }
        if (command_flag(&a, "--trace")) { b.trace = true; continue; }
        if (command_flag(&a, "--batch-invariant")) { b.options.batch_invariant = true; continue; }
        if (command_option(&a, "--size", &b.size)) continue;
        if (command_option(&a, "--guidance", &v)) {
            if (!command_number(v, 0, IMAGE_GUIDANCE_MAX, &b.draw.guidance)) { fprintf(stderr, "inferd: --guidance takes a number\n"); return 2; }
            continue;
        }
        if (command_option(&a, "--batch", &v)) {
            if (!command_number(v, 1, 65536, &n) || n != (double)(int64_t)n) { fprintf(stderr, "inferd: --batch takes a number from 1 to 65536\n"); return 2; }
            b.batch = (int64_t)n;
            continue;
        }
        if (command_option(&a, "--seconds", &v)) {
            if (!command_number(v, 0, 86400, &b.seconds)) { fprintf(stderr, "inferd: --seconds takes a number\n"); return 2; }
            continue;
        }
        if (argv[a.at][0] == '-' || b.model) { fprintf(stderr, "inferd bench: '%s' is not understood\n", argv[a.at]); usage(stderr); return 2; }
        b.model = argv[a.at++];
    }
    if (!b.model) { usage(stderr); return 2; }
    b.options.max_batch_rows = b.batch;
    struct err err = { 0 };
    b.text.seconds = b.seconds;
    b.text.json = b.json;
    b.text.trace = b.trace;
    if (!run_bench(&b, &err)) return 0;
    fprintf(stderr, "inferd: %s\n", err.text);
    return 1;
}
