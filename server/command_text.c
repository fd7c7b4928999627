/* inferd generate, tokenize, logits: a language model from the command line, without a server. */
#include "server/command_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/openai.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "engine/llm/llm_internal.h"
#include "engine/request.h"
#include "server/commands.h"

enum { INPUT_BYTES_MAX = 64 << 20 };

enum status command_text_open(struct command_model *m, const char *model, const struct engine_options *o, struct err *err)
{
    char file[4096];
    enum status st = command_model_find(file, model, err);
    if (st) return st;
    if (!command_engine_of(file)->text) return err_set(err, ST_BAD_INPUT, "'%s' is no language model: inferd run runs it", model);
    return command_model_open(m, model, o, err);
}

struct told { void (*progress)(void *ctx, const struct text_job *j); void *ctx; struct text_job *job; };

static void tell(void *ctx)
{
    const struct told *t = ctx;
    t->progress(t->ctx, t->job);
}

enum status command_text_run(struct command_model *m, struct text_job *j, void (*progress)(void *ctx, const struct text_job *j), void *ctx, struct err *err)
{
    struct request r;
    struct told told = { progress, ctx, j };
    request_init(&r, 1 << 20);
    r.text = j;
    enum status st = command_job_run(m, &r, progress ? tell : NULL, &told, err);
    request_drop(&r);
    return st;
}

static enum status read_all(FILE *f, struct buf *out, struct err *err)
{
    char part[65536];
    size_t n;
    buf_init(out, INPUT_BYTES_MAX);
    while ((n = fread(part, 1, sizeof part, f)) > 0) buf_append(out, part, n);
    if (ferror(f) || out->failed) return err_set(err, ST_BAD_INPUT, "standard input cannot be read, or is larger than %d MiB", INPUT_BYTES_MAX >> 20);
    return ST_OK;
}

/* ---- generate ---- */
struct generate { struct engine_options options; const char *model, *prompt, *messages; double max_tokens, temperature, seed; bool seeded; size_t shown; };

static void usage_generate(FILE *to)
{
    fprintf(to, "usage: inferd generate MODEL [--prompt TEXT | --messages FILE] [--max-tokens N] [--temperature T] [--seed N] [--precision f32|auto] [--threads N]\n"
                "MODEL is a .gguf file, a Hugging Face folder, or STORE/NAME. Without --prompt the text is read from standard input. The answer alone goes to standard output.\n"
                "--messages FILE: a JSON list of messages, or an object with \"messages\", for the model's chat template.\n"
                "example: inferd generate models/dictionary --prompt '<|user|>Define mention.<|assistant|>' --temperature 0\n");
}

static void show(void *ctx, const struct text_job *j)
{
    struct generate *g = ctx;
    const struct buf *text = &j->answers[0].text;
    if (text->length > g->shown) fwrite(text->data + g->shown, 1, text->length - g->shown, stdout);
    g->shown = text->length;
    fflush(stdout);
}

/* The conversation in a file as token ids, as the server makes them. */
static enum status encode_messages(const struct command_model *m, const char *path, struct token_list *out, struct err *err)
{
    char *text;
    size_t length;
    struct arena arena;
    struct json *root, object = { .type = JSON_OBJECT };
    const struct model_version v = { .name = m->file, .ops = m->ops, .engine = m->engine };
    enum status st = file_read_path(&text, &length, path, INPUT_BYTES_MAX, err);
    if (st) return st;
    arena_init(&arena, (uint64_t)4 * INPUT_BYTES_MAX);
    st = json_parse(&root, &arena, text, length, NULL, err);
    if (!st && root->type == JSON_ARRAY) {
        root->key = "messages";
        root->key_length = strlen(root->key);
        object.list.first = root;
        object.list.count = 1;
        root = &object;
    }
    if (!st) st = openai_render(out, &arena, &v, root, err);
    arena_free(&arena);
    free(text);
    return st ? err_prefix(err, "'%s'", path) : ST_OK;
}

static enum status generate(struct generate *g, struct err *err)
{
    struct command_model m;
    struct text_job j = { 0 };
    struct token_list tokens = { 0 };
    enum status st = command_text_open(&m, g->model, &g->options, err);
    if (st) return st;
    const struct tokenizer *t = m.ops->text->tokenizer(m.engine);
    if (g->messages) st = encode_messages(&m, g->messages, &tokens, err);
    else st = t ? tokenizer_encode(t, g->prompt, strlen(g->prompt), TOKENIZE_SPECIAL_ADD | TOKENIZE_SPECIAL_PARSE, &tokens, err) : err_set(err, ST_BAD_INPUT, "the model has no tokenizer");
    if (!st && tokens.count == 0) st = err_set(err, ST_BAD_INPUT, "the prompt is empty");
    const struct text_prompt prompt = { .tokens = tokens.ids, .count = (int)tokens.count };
    if (!st) st = text_job_open(&j, TEXT_GENERATE, &prompt, 1, 1, err);
    if (!st) {
        j.max_tokens = (int)g->max_tokens;
        j.sampling.temperature = (float)g->temperature;
        j.sampling.seeded = g->seeded;
        j.sampling.seed = (uint64_t)g->seed;
        st = command_text_run(&m, &j, show, g, err);
    }
    if (!st && isatty(STDOUT_FILENO)) putchar('\n');
    text_job_close(&j);
    token_list_free(&tokens);
    command_model_close(&m);
    return st;
}

static int finish(enum status st, const struct err *err)
{
    if (!st) return 0;
    fprintf(stderr, "inferd: %s\n", err->text);
    return 1;
}

/* One number option of generate: 0 not it, 1 taken, -1 wrong. */
static int number_option(struct command_args *a, const char *name, double low, double high, double *out)
{
    const char *v;
    if (!command_option(a, name, &v)) return 0;
    if (command_number(v, low, high, out)) return 1;
    fprintf(stderr, "inferd: %s takes a number from %g to %g\n", name, low, high);
    return -1;
}

int command_generate(int argc, char **argv)
{
    struct generate g = { .max_tokens = 256, .temperature = 1 };
    struct command_args a = { argc, 1, argv };
    struct buf input = { 0 };
    struct err err = { 0 };
    command_engine_defaults(&g.options);
    g.options.precision = PRECISION_AUTO;
    while (a.at < argc) {
        int took = command_engine_option(&a, &g.options);
        if (!took) took = number_option(&a, "--max-tokens", 0, 1e9, &g.max_tokens);
        if (!took) took = number_option(&a, "--temperature", 0, 100, &g.temperature);
        if (!took && (took = number_option(&a, "--seed", 0, 9e15, &g.seed)) > 0) g.seeded = true;
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { usage_generate(stdout); return 0; }
        if (command_option(&a, "--prompt", &g.prompt)) {
            if (!g.prompt) return 2;
            continue;
        }
        if (command_option(&a, "--messages", &g.messages)) {
            if (!g.messages) return 2;
            continue;
        }
        if (argv[a.at][0] == '-' || g.model) { fprintf(stderr, "inferd generate: '%s' is not understood\n", argv[a.at]); usage_generate(stderr); return 2; }
        g.model = argv[a.at++];
    }
    if (!g.model) { usage_generate(stderr); return 2; }
    enum status st = g.prompt || g.messages ? ST_OK : read_all(stdin, &input, &err);
    if (!st && !g.prompt && !g.messages) {
        buf_putc(&input, 0);
        g.prompt = input.data;
    }
    if (!st) st = generate(&g, &err);
    buf_free(&input);
    return finish(st, &err);
}

/* ---- tokenize ---- */

/* A model's tokenizer without the model. */
static enum status open_tokenizer(struct tokenizer **out, const char *model, struct err *err)
{
    char file[4096];
    struct gguf *g = NULL;
    enum status st = command_model_find(file, model, err);
    if (st) return st;
    const char *dot = strrchr(file, '.');
    if (dot && !strcmp(dot, ".gguf")) {
        st = gguf_open(&g, -1, file, err);
        if (!st) st = tokenizer_open_gguf(out, g, err);
        gguf_close(g);
        return st;
    }
    char *slash = strrchr(file, '/');
    if (slash) *slash = 0;
    return tokenizer_open_folder(out, -1, slash ? file : ".", err);
}

static enum status tokenize(const char *model, unsigned flags, struct err *err)
{
    struct buf text;
    struct tokenizer *t = NULL;
    struct token_list tokens = { 0 };
    enum status st = open_tokenizer(&t, model, err);
    if (st) return st;
    st = read_all(stdin, &text, err);
    if (!st) st = tokenizer_encode(t, text.data ? text.data : "", text.length, flags, &tokens, err);
    for (size_t i = 0; i < tokens.count && !st; i++) printf("%s%" PRId32, i ? " " : "", tokens.ids[i]);
    if (!st) putchar('\n');
    buf_free(&text);
    token_list_free(&tokens);
    tokenizer_close(t);
    return st;
}

int command_tokenize(int argc, char **argv)
{
    static const char usage[] = "usage: inferd tokenize MODEL [--no-special] < TEXT\nprints the token ids of standard input on one line; --no-special: without BOS, EOS and the like\n";
    struct command_args a = { argc, 1, argv };
    const char *model = NULL;
    unsigned flags = TOKENIZE_SPECIAL_ADD | TOKENIZE_SPECIAL_PARSE;
    struct err err = { 0 };
    while (a.at < argc) {
        if (command_flag(&a, "--help")) { fputs(usage, stdout); return 0; }
        if (command_flag(&a, "--no-special")) { flags &= ~(unsigned)TOKENIZE_SPECIAL_ADD; continue; }
        if (argv[a.at][0] == '-' || model) { fprintf(stderr, "inferd tokenize: '%s' is not understood\n%s", argv[a.at], usage); return 2; }
        model = argv[a.at++];
    }
    if (!model) { fputs(usage, stderr); return 2; }
    return finish(tokenize(model, flags, &err), &err);
}

/* ---- render ---- */

/* The template's text of a model (or of a .jinja file), and what bos_token and eos_token are. */
static enum status open_template(struct template **out, struct tokenizer **t, const char *model, struct err *err)
{
    const char *dot = strrchr(model, '.');
    if (!dot || strcmp(dot, ".jinja")) {
        enum status st = open_tokenizer(t, model, err);
        if (st) return st;
        const char *text = tokenizer_chat_template(*t, NULL);
        return text ? template_open(out, text, strlen(text), err) : err_set(err, ST_NOT_FOUND, "'%s' has no chat template", model);
    }
    char *text;
    size_t length;
    enum status st = file_read_path(&text, &length, model, INPUT_BYTES_MAX, err);
    if (st) return st;
    st = template_open(out, text, length, err);
    free(text);
    return st;
}

static enum status render(const char *model, struct err *err)
{
    struct template *template = NULL;
    struct tokenizer *t = NULL;
    struct template_output output = { 0 };
    struct arena arena;
    struct buf input = { 0 };
    struct json *root;
    arena_init(&arena, (uint64_t)4 * INPUT_BYTES_MAX);
    enum status st = open_template(&template, &t, model, err);
    if (!st) st = read_all(stdin, &input, err);
    if (!st) st = json_parse(&root, &arena, input.data ? input.data : "", input.length, NULL, err);
    if (!st && root->type != JSON_OBJECT) st = err_set(err, ST_BAD_INPUT, "standard input must be an object with \"messages\"");
    if (!st) st = openai_template_render(&output, &arena, template, t, root, err);
    if (!st) fwrite(output.text.data ? output.text.data : "", 1, output.text.length, stdout);
    template_output_free(&output);
    template_close(template);
    tokenizer_close(t);
    buf_free(&input);
    arena_free(&arena);
    return st;
}

int command_render(int argc, char **argv)
{
    static const char usage[] = "usage: inferd render MODEL|FILE.jinja < JSON\nprints the prompt that a conversation becomes: {\"messages\":[...], \"tools\":[...], \"add_generation_prompt\":true}\n";
    struct err err = { 0 };
    if (argc == 2 && !strcmp(argv[1], "--help")) { fputs(usage, stdout); return 0; }
    if (argc != 2) { fputs(usage, stderr); return 2; }
    return finish(render(argv[1], &err), &err);
}

/* ---- logits ---- */
static enum status read_ids(const char *text, int32_t **out, int *count, struct err *err)
{
    int n = 0, room = 64;
    int32_t *ids = mem_alloc_array((uint64_t)room, sizeof *ids);
    for (const char *p = text; ids;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p) break;
        if (n == room) {
            int32_t *more = mem_realloc_array(ids, (uint64_t)room * 2, sizeof *more);
            if (!more) break;
            ids = more;
            room *= 2;
        }
        ids[n++] = (int32_t)v;
        for (p = end; *p == ' ' || *p == ',';) p++;
    }
    if (!ids || n == 0) {
        free(ids);
        return err_set(err, ST_BAD_INPUT, "--tokens takes numbers, e.g. --tokens \"1 2 3\"");
    }
    *out = ids;
    *count = n;
    return ST_OK;
}

/* All rows of the model's last output for one text, in steps of as many tokens as a step takes. */
static enum status compute_logits(struct engine_instance *i, const int32_t *ids, int count, struct tensor *out, struct err *err)
{
    const struct engine *e = i->engine;
    static const atomic_bool never = false;
    int pages = (count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    if (e->model.config.decoder_layers) return err_set(err, ST_UNSUPPORTED, "a decoder beside an encoder has no logits of one text alone");
    if (count > e->context) return err_set(err, ST_BAD_INPUT, "%d tokens do not fit the context of %d", count, e->context);
    for (int p = 0; p < pages; p++) i->page_table[p] = p;
    for (int from = 0; from < count;) {
        int n = count - from < e->step_tokens ? count - from : e->step_tokens;
        struct plan *plan;
        for (int k = 0; k < n; k++) {
            if (ids[from + k] < 0 || ids[from + k] >= e->model.config.vocabulary) return err_set(err, ST_BAD_INPUT, "%d is not a token of this model", ids[from + k]);
            i->tokens[k] = ids[from + k];
            i->positions[k] = from + k;
            i->types[k] = 0;
            i->wanted[k] = k;
        }
        memset(i->rows, 0, (size_t)e->sequences * 4 * sizeof *i->rows);
        memcpy(i->rows, (int32_t[]){ 0, n, from, 0 }, 4 * sizeof *i->rows);
        enum status st = step_compute(i, n, n, &never, &plan, err);
        if (st) return st;
        const struct operand *o = plan_output(plan, e->graph.output_count - 1);
        if (!out->data) {
            *out = (struct tensor){ .dtype = DT_F32, .rank = 2, .dims = { count, o->dims[1] }, .bytes = (uint64_t)count * (uint64_t)o->dims[1] * sizeof(float) };
            out->data = malloc(out->bytes);
            if (!out->data) return err_set(err, ST_NO_MEMORY, "the logits");
        }
        memcpy((float *)out->data + from * o->dims[1], o->data, (size_t)n * (size_t)o->dims[1] * sizeof(float));
        from += n;
    }
    return ST_OK;
}

static enum status logits(const char *model, const struct engine_options *options, const char *text, const char *path, struct err *err)
{
    struct command_model m;
    struct tensor t = { 0 };
    int32_t *ids = NULL;
    int count = 0;
    enum status st = read_ids(text, &ids, &count, err);
    if (st) return st;
    st = command_text_open(&m, model, options, err);
    if (!st) {
        st = compute_logits(m.instance, ids, count, &t, err);
        if (!st) st = command_tensor_write(path, &t, err);
        command_model_close(&m);
    }
    free(t.data);
    free(ids);
    return st;
}

int command_logits(int argc, char **argv)
{
    static const char usage[] = "usage: inferd logits MODEL --tokens \"1 2 3\" --output FILE.npy [--precision f32|auto] [--threads N] [--cpu-level L]\nwrites float32 [tokens, vocabulary]; of an encoder, its vectors\n";
    struct engine_options options;
    struct command_args a = { argc, 1, argv };
    const char *model = NULL, *tokens = NULL, *output = NULL;
    struct err err = { 0 };
    command_engine_defaults(&options);
    options.precision = PRECISION_AUTO;
    while (a.at < argc) {
        int took = command_engine_option(&a, &options);
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { fputs(usage, stdout); return 0; }
        if (command_option(&a, "--tokens", &tokens) || command_option(&a, "--output", &output)) continue;
        if (argv[a.at][0] == '-' || model) { fprintf(stderr, "inferd logits: '%s' is not understood\n%s", argv[a.at], usage); return 2; }
        model = argv[a.at++];
    }
    if (!model || !tokens || !output) { fputs(usage, stderr); return 2; }
    return finish(logits(model, &options, tokens, output, &err), &err);
}
