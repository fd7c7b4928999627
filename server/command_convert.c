/* inferd convert and inferd quantize: language models from one format to another, and what inspect shows of one. */
#include "server/command_convert.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/llm/build.h"
#include "engine/llm/convert.h"
#include "engine/text/tokenizer.h"
#include "kernels/blocks.h"
#include "server/command_model.h"
#include "server/commands.h"

static const char *const convert_usage =
    "usage: inferd convert SOURCE TARGET [--type T] [--threads N]\n"
    "SOURCE is a Hugging Face folder, a .gguf file (the first part of a split one), or a .bin file of llama2.c with its tokN.bin beside it.\n"
    "TARGET is NAME.gguf, or from a .gguf file a new folder. --type: f32, f16, bf16 or, in GGUF, a quantised type for all matrices; without it they keep theirs.\n"
    "example: inferd convert ~/models/SmolLM2-135M smollm2.gguf --type bf16\n";
static const char *const quantize_usage =
    "usage: inferd quantize SOURCE.gguf TARGET.gguf TYPE [--threads N]\n"
    "SOURCE holds F32, F16 or BF16. TYPE is one of:";

/* ---- progress: one line on a terminal, nothing elsewhere ---- */
struct bar { bool shown; uint64_t last_ns; };

static void show_progress(void *ctx, uint64_t done, uint64_t total, const char *tensor)
{
    struct bar *b = ctx;
    uint64_t now = clock_ns();
    if (!b->shown || (now - b->last_ns < 100000000u && done < total)) return;
    b->last_ns = now;
    fprintf(stderr, "\r%3d %%  %-50.50s", total ? (int)((double)done / (double)total * 100) : 100, tensor);
    if (done == total) fprintf(stderr, "\r%60s\r", "");
}

static int finish(enum status st, const struct convert_report *r, const struct err *err, const char *target, uint64_t start_ns)
{
    if (st) {
        fprintf(stderr, "inferd: %s\n", err->text);
        return 1;
    }
    printf("%s: %d tensors, %.1f MiB from %.1f MiB, %.1f s\n", target, r->tensors, (double)r->target_bytes / 1048576, (double)r->source_bytes / 1048576, (double)(clock_ns() - start_ns) / 1e9);
    if (r->kept) printf("%d matrices stay F16: their rows are not whole blocks of the type\n", r->kept);
    if (r->note[0]) printf("note: %s\n", r->note);
    return 0;
}

struct words { const char *list[3]; int count; };

/* Options and up to `most` words; 0: go on, else the exit status plus one. */
static int read_arguments(int argc, char **argv, struct words *w, int most, int *type, struct convert_options *o, const char *usage, void (*more)(FILE *to))
{
    struct command_args a = { argc, 1, argv };
    struct engine_options engine;
    const char *v;
    command_engine_defaults(&engine);
    while (a.at < argc) {
        int took = command_engine_option(&a, &engine);
        if (took < 0) return 3;
        if (took) continue;
        if (command_flag(&a, "--help")) {
            fputs(usage, stdout);
            if (more) more(stdout);
            return 1;
        }
        if (type && command_option(&a, "--type", &v)) {
            *type = v ? convert_type_of(v) : -1;
            if (*type >= 0) continue;
            fprintf(stderr, "inferd convert: '%s' is no type that can be written; f32, f16, bf16, q8_0 are some that can\n", v ? v : "");
            return 3;
        }
        if (argv[a.at][0] == '-' || w->count == most) {
            fprintf(stderr, "inferd: '%s' is not understood\n%s", argv[a.at], usage);
            if (more) more(stderr);
            return 3;
        }
        w->list[w->count++] = argv[a.at++];
    }
    o->threads = engine.threads > 0 ? engine.threads : 1;
    if (w->count == most) return 0;
    fputs(usage, stderr);
    if (more) more(stderr);
    return 3;
}

int command_convert(int argc, char **argv)
{
    struct bar bar = { .shown = isatty(STDERR_FILENO) };
    struct convert_options o = { .type = CONVERT_KEEP, .progress = show_progress, .ctx = &bar };
    struct convert_report report;
    struct words w = { 0 };
    struct err err = { 0 };
    uint64_t start = clock_ns();
    int done = read_arguments(argc, argv, &w, 2, &o.type, &o, convert_usage, NULL);
    if (done) return done - 1;
    return finish(convert_model(w.list[0], w.list[1], &o, &report, &err), &report, &err, w.list[1], start);
}

static void print_mixes(FILE *to)
{
    for (int i = 0; convert_mix_name(i); i++) fprintf(to, " %s", convert_mix_name(i));
    fprintf(to, "\nexample: inferd quantize smollm2.gguf smollm2-q4.gguf Q4_K_M\n\n%s", command_int8_usage);
}

int command_quantize(int argc, char **argv)
{
    struct bar bar = { .shown = isatty(STDERR_FILENO) };
    struct convert_options o = { .type = CONVERT_KEEP, .progress = show_progress, .ctx = &bar };
    struct convert_report report;
    struct words w = { 0 };
    struct err err = { 0 };
    uint64_t start = clock_ns();
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--calibrate", 11) == 0) return command_int8(argc, argv);
    int done = read_arguments(argc, argv, &w, 3, NULL, &o, quantize_usage, print_mixes);
    if (done) return done - 1;
    return finish(convert_quantize(w.list[0], w.list[1], w.list[2], &o, &report, &err), &report, &err, w.list[1], start);
}

/* ---- inspect ---- */
static void print_bytes(const char *what, uint64_t n, const char *more)
{
    if (n < 10240) printf("%-10s %llu bytes%s\n", what, (unsigned long long)n, more);
    else if (n < 10u << 20) printf("%-10s %.1f KiB%s\n", what, (double)n / 1024, more);
    else printf("%-10s %.1f MiB%s\n", what, (double)n / 1048576, more);
}

static void print_types(const struct weights *w)
{
    struct { int count; uint64_t bytes; } types[WEIGHT_F8_E5M2 + 1] = { 0 };
    uint64_t all = 0;
    for (int i = 0; i < w->count; i++) {
        int t = w->tensors[i].type;
        if (t < 0 || t > WEIGHT_F8_E5M2) continue;
        types[t].count++;
        types[t].bytes += w->tensors[i].bytes;
        all += w->tensors[i].bytes;
    }
    print_bytes("weights", all, "");
    for (int t = 0; t <= WEIGHT_F8_E5M2; t++)
        if (types[t].count) printf("%-10s %4d tensors of %-8s %10.1f KiB\n", "", types[t].count, weight_type_name(t), (double)types[t].bytes / 1024);
}

static void print_tokenizer(const struct llm_model *m, const char *path)
{
    struct tokenizer *t = NULL;
    struct err err = { 0 };
    bool none = m->gguf && (!gguf_find(m->gguf, "tokenizer.ggml.model") || gguf_text_is(m->gguf, "tokenizer.ggml.model", "no_vocab"));
    enum status st = none ? ST_NOT_FOUND : m->gguf ? tokenizer_open_gguf(&t, m->gguf, &err) : tokenizer_open_folder(&t, -1, path, &err);
    if (st) {
        printf("%-10s %s%s\n", "tokenizer", none ? "none" : "cannot be used: ", none ? "" : err.text);
        return;
    }
    size_t n = 0;
    const char *kind = m->gguf ? gguf_text(m->gguf, "tokenizer.ggml.model", &n) : "";
    const struct tokenizer_ids *ids = tokenizer_ids(t);
    printf("%-10s %d tokens%s%.*s, BOS %d%s, EOS %d\n", "tokenizer", tokenizer_count(t), n ? ", " : "", (int)(n < 40 ? n : 40), kind, ids->bos, ids->add_bos ? " (put before each text)" : "", ids->eos);
    printf("%-10s %s\n", "template", tokenizer_chat_template(t, NULL) ? "yes" : "no: texts only, no chat");
    tokenizer_close(t);
}

static void print_config(const struct llm_config *c)
{
    printf("%-10s %s, %d layers, width %d, %d heads", "model", c->arch->name, c->layers, c->width, c->heads);
    if (c->kv_heads != c->heads) printf(" (%d of keys and values)", c->kv_heads);
    printf(" of %d, feed-forward %d\n", c->head_dim, c->ffn);
    if (c->experts) printf("%-10s %d experts of width %d, %d used for a token\n", "", c->experts, c->expert_ffn, c->experts_used);
    printf("%-10s %d tokens, vocabulary %d\n", "context", c->context, c->vocabulary);
    if (c->window) printf("%-10s %d tokens in %s\n", "window", c->window, c->window_layers || c->window_pattern > 1 ? "some layers" : "every layer");
    if (!c->causal) return;
    print_bytes("KV cache", llm_page_bytes(c, BLOCK_F16) / 16, " a token in F16");
    print_bytes("", llm_page_bytes(c, BLOCK_F16) / 16 * (uint64_t)c->context, " for a text of the whole context");
}

int command_inspect_text(const char *path)
{
    struct llm_model m;
    struct err err = { 0 };
    if (llm_model_open(&m, path, (uint64_t)1 << 30, &err)) {
        fprintf(stderr, "inferd: %s\n", err.text);
        return 1;
    }
    printf("%-10s %s\n", "file", path);
    print_config(&m.config);
    print_types(m.weights);
    print_tokenizer(&m, path);
    llm_model_close(&m);
    return 0;
}
