/* inferd bench on a language model: how many tokens a second are read (prefill) and written (decode), as llama-bench counts them: no sampling, no tokenising. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/threads.h"
#include "engine/llm/llm_internal.h"
#include "server/command_bench.h"
#include "server/command_text.h"

enum { REPETITIONS_MAX = 1000, TRACE_STEPS = 20000 };

struct text_bench { struct engine_instance *i; int prompt, generate, sequences; };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One step: `each` tokens of every sequence, which stand at `position`; results of the last token of each. */
static enum status run_step(const struct text_bench *b, int position, int each, struct err *err)
{
    static const atomic_bool never = false;
    struct engine_instance *i = b->i;
    int pages = (b->prompt + b->generate + PAGE_TOKENS - 1) / PAGE_TOKENS;
    struct plan *plan;
    memset(i->rows, 0, (size_t)i->engine->sequences * 4 * sizeof *i->rows);
    for (int s = 0; s < b->sequences; s++) {
        memcpy(i->rows + 4 * s, (int32_t[]){ s * each, each, position, s * pages }, 4 * sizeof *i->rows);
        for (int p = 0; p < pages; p++) i->page_table[s * pages + p] = s * pages + p;
        for (int k = 0; k < each; k++) {
            i->tokens[s * each + k] = (int32_t)((uint32_t)(position + k + 1) * 2654435761u % (uint32_t)i->engine->model.config.vocabulary);
            i->positions[s * each + k] = position + k;
            i->types[s * each + k] = 0;
        }
        i->wanted[s] = s * each + each - 1;
    }
    return step_compute(i, b->sequences * each, b->sequences, &never, &plan, err);
}

static enum status prefill(const struct text_bench *b, double *seconds, struct err *err)
{
    uint64_t start = clock_ns();
    enum status st = ST_OK;
    int most = b->i->engine->step_tokens / b->sequences;
    for (int at = 0; at < b->prompt && !st; at += most) st = run_step(b, at, b->prompt - at < most ? b->prompt - at : most, err);
    *seconds = (double)(clock_ns() - start) / 1e9;
    return st;
}

static enum status decode(const struct text_bench *b, double *seconds, struct err *err)
{
    uint64_t start = clock_ns();
    enum status st = ST_OK;
    for (int at = 0; at < b->generate && !st; at++) st = run_step(b, b->prompt + at, 1, err);
    *seconds = (double)(clock_ns() - start) / 1e9;
    return st;
}

static void print_trace(const struct engine_instance *i)
{
    static struct plan_step_info info[TRACE_STEPS];
    struct total { const char *name, *kernel; uint64_t ns; int count; } totals[64];
    int count = 0;
    for (int p = 0; p < PLANS; p++) {
        if (!i->plans.entries[p].plan || i->plans.entries[p].used != i->plans.clock) continue;
        int n = plan_steps(i->plans.entries[p].plan, info, TRACE_STEPS);
        for (int k = 0; k < n && k < TRACE_STEPS; k++) {
            const char *kernel = info[k].node->linear ? linear_kernel(info[k].node->linear) : "";
            int t = 0;
            while (t < count && (strcmp(totals[t].name, info[k].node->op->name) || strcmp(totals[t].kernel, kernel))) t++;
            if (t == 64) continue;
            if (t == count) totals[count++] = (struct total){ info[k].node->op->name, kernel, 0, 0 };
            totals[t].ns += info[k].ns;
            totals[t].count++;
        }
    }
    printf("last step:\n%10s %5s  %s\n", "us", "nodes", "operator");
    for (int t = 0; t < count; t++) printf("%10.1f %5d  %s %s\n", (double)totals[t].ns / 1e3, totals[t].count, totals[t].name, totals[t].kernel);
}

/* Has a text the same bits in any company? */
static bool is_invariant(const struct graph *g, const struct engine_options *o)
{
    if (g->gpu) return o->batch_invariant;
    for (int i = 0; i < g->linear_count; i++)
        if (!linear_is_invariant(g->linears[i])) return false;
    return true;
}

static enum status repeat(const struct text_bench *b, const struct bench_text_ask *ask, enum status (*what)(const struct text_bench *, double *, struct err *), double *median, struct err *err)
{
    double times[REPETITIONS_MAX];
    int n = 0;
    uint64_t begin = clock_ns();
    enum status st = what(b, &times[0], err);      /* plans are made, weights touched */
    if (ask->trace)
        for (int p = 0; p < PLANS; p++)
            if (b->i->plans.entries[p].plan) plan_time(b->i->plans.entries[p].plan, true);
    while (!st && n < REPETITIONS_MAX && (n < 3 || (double)(clock_ns() - begin) < ask->seconds * 1e9)) st = what(b, &times[n++], err);
    qsort(times, (size_t)n, sizeof *times, compare);
    *median = n ? times[n / 2] : 0;
    if (!st && ask->trace && !ask->json) print_trace(b->i);
    return st;
}

enum status bench_text(const char *model, const struct engine_options *options, const struct bench_text_ask *ask, struct err *err)
{
    struct command_model m;
    threads_pin(0, options->threads);
    enum status st = command_text_open(&m, model, options, err);
    if (st) return st;
    const struct engine *e = m.engine;
    struct text_bench b = { .i = m.instance, .prompt = ask->prompt, .generate = ask->generate, .sequences = ask->sequences };
    int pages = (b.prompt + b.generate + PAGE_TOKENS - 1) / PAGE_TOKENS;
    double read_s = 0, write_s = 0;
    if (e->model.config.decoder_layers) st = err_set(err, ST_UNSUPPORTED, "a decoder beside an encoder is not timed");
    else if (b.prompt + b.generate > e->context) st = err_set(err, ST_BAD_INPUT, "%d tokens do not fit the context of %d", b.prompt + b.generate, e->context);
    else if (b.sequences > e->sequences || (int64_t)pages * b.sequences > e->pages) st = err_set(err, ST_BAD_INPUT, "%d sequences of %d tokens do not fit the KV cache of %d pages", b.sequences, b.prompt + b.generate, e->pages);
    if (!st && b.prompt) st = repeat(&b, ask, prefill, &read_s, err);
    if (!st && b.generate) st = repeat(&b, ask, decode, &write_s, err);
    if (!st) {
        double read = read_s > 0 ? b.prompt * b.sequences / read_s : 0, written = write_s > 0 ? b.generate * b.sequences / write_s : 0, load = (double)m.load_ns / 1e6, rss = command_resident_mb("VmHWM:");
        char where[64];
        const char *mode = options->precision == PRECISION_F32 ? "f32" : is_invariant(&e->graph, options) ? "batch invariant" : "fast";
        if (ask->json)
            printf("{\"prefill_tokens_per_s\":%.2f,\"decode_tokens_per_s\":%.2f,\"mode\":\"%s\",\"threads\":%d,\"prompt\":%d,\"generate\":%d,\"sequences\":%d,\"load_ms\":%.1f,\"peak_rss_mb\":%.1f}\n",
                   read, written, mode, options->threads, b.prompt, b.generate, b.sequences, load, rss);
        else
            printf("%s: mode %s, %s, %d sequences: prefill %d tokens %.1f tokens/s, decode %d tokens %.2f tokens/s; loaded in %.1f ms, peak %.1f MiB\n", model, mode,
                   command_where(options, e->graph.device.kernels.level, where), b.sequences, b.prompt, read, b.generate, written, load, rss);
    }
    command_model_close(&m);
    return st;
}
