/* Conversion: every tiny model of tests/llm/vectors, written as a folder and converted to GGUF in F32, gives the logits of transformers to 1e-4; so does the
 * folder made from that file again. What GGUF has no words for is refused, and a settings change that it has words for is then converted. */
#include "engine/llm/convert_internal.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "engine/text/tokenizer.h"
#include "kernels/blocks.h"
#include "tests/llm/tiny.h"
#include "tests/test.h"

#define VECTORS "tests/llm/vectors"
static const struct convert_options as_f32 = { .type = BLOCK_F32, .threads = 1 };

/* Models that are refused as they are: a part of the sentence; and a change of config.json with which they are taken (the folder's own logits are then the measure). */
static const struct refusal { const char *name, *sentence, *from, *to; } refusals[] = {
    { "falcon_rw.txt", "this model has alibi", NULL, NULL },
    { "gptj.txt", "GGUF has no architecture for GPT-J", NULL, NULL },
    { "smollm3.txt", "layers without rotation", "\"no_rope_layers\": [1, 0, 1]", "\"no_rope_layers\": [1, 1, 1]" },
    { "qwen2_window.txt", "windows: layer 0", "\"use_sliding_window\": true", "\"use_sliding_window\": false" },
    { "gemma2.txt", "attention scale", "\"query_pre_attn_scalar\": 10", "\"query_pre_attn_scalar\": 16" },
    { "gemma3.txt", "attention scale", "\"query_pre_attn_scalar\": 10", "\"query_pre_attn_scalar\": 16" },
    { "t5.txt", "distance from which all are alike", "\"relative_attention_max_distance\": 14", "\"relative_attention_max_distance\": 128" },
    { "t5_gated.txt", "distance from which all are alike", "\"relative_attention_max_distance\": 14", "\"relative_attention_max_distance\": 128" },
    { "t5_encoder.txt", "distance from which all are alike", "\"relative_attention_max_distance\": 14", "\"relative_attention_max_distance\": 128" },
    { "gpt_oss.txt", "frequencies of the rotation", "\"truncate\": false", "\"truncate\": true" },
};

static const char *directory;      /* one for the whole suite */

/* Families whose folders are not written. */
static const char *const no_folder[] = { "bert", "falcon", "gpt_neox", "gpt_oss", "longrope", "t5", "bloom", "mpt" };

static bool any_in(const char *name, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strstr(name, list[i])) return true;
    return false;
}

/* Runs the model at `path` and says how far it is from `want`; -1 with a sentence on stderr when it does not run. */
static double measure(const struct tiny *t, const char *path, const float *want, int rows, int columns)
{
    static float out[TINY_TOKENS * 4096];
    struct err err = { 0 };
    int got = columns;
    if (tiny_run(path, NULL, t->tokens, t->token_count, t->token_count, 1, CPU_AMX, out, &got, &err)) {
        fprintf(stderr, "  %s\n", err.text);
        return -1;
    }
    return got == columns ? tiny_farthest(out, want, rows * columns) : -1;
}

static bool convert(const char *name, const char *from, const char *to, struct err *err)
{
    struct convert_report report;
    enum status st = convert_model(from, to, &as_f32, &report, err);
    if (st) fprintf(stderr, "%s: %s\n", name, err->text);
    return !st && report.tensors > 0 && report.kept == 0;
}

static void check_both_ways(const char *name, const struct tiny *t, const char *folder, const float *want, int rows, int columns)
{
    char file[300], again[300];
    struct err err = { 0 };
    snprintf(file, sizeof file, "%s/%s.gguf", directory, name);
    snprintf(again, sizeof again, "%s/%s.folder", directory, name);
    if (!convert(name, folder, file, &err)) {
        CHECK(!"converted to GGUF");
        return;
    }
    double d = measure(t, file, want, rows, columns);
    if (!(d >= 0 && d < 1e-4)) fprintf(stderr, "%s as GGUF: off by %g\n", name, d);
    CHECK(d >= 0 && d < 1e-4);
    if (any_in(name, no_folder, sizeof no_folder / sizeof no_folder[0])) {
        struct convert_report report;
        CHECK_INT(convert_model(file, again, &as_f32, &report, &err), ST_UNSUPPORTED);
        CHECK(access(again, F_OK) != 0);
    } else if (convert(name, file, again, &err)) {
        d = measure(t, again, want, rows, columns);
        if (!(d >= 0 && d < 1e-4)) fprintf(stderr, "%s as a folder again: off by %g\n", name, d);
        CHECK(d >= 0 && d < 1e-4);
    } else {
        CHECK(!"converted to a folder");
    }
    unlink(file);
}

/* t with `from` replaced by `to` in its config; *text is freed by the caller. */
static bool changed(const struct tiny *t, const struct refusal *r, struct tiny *out, char **text)
{
    const char *at = strstr(t->config, r->from);
    *out = *t;
    *text = malloc(t->config_length + strlen(r->to) + 1);
    if (!at || !*text) return false;
    out->config_length = (size_t)sprintf(*text, "%.*s%s%s", (int)(at - t->config), t->config, r->to, at + strlen(r->from));
    out->config = *text;
    return true;
}

static void check_refused(const char *name, const struct tiny *t, const struct refusal *r, const char *folder)
{
    static float want[TINY_TOKENS * 4096];
    char file[300], *text = NULL;
    struct err err = { 0 };
    struct convert_report report;
    struct tiny other;
    int columns = 0;
    snprintf(file, sizeof file, "%s/refused.gguf", directory);
    CHECK_INT(convert_model(folder, file, &as_f32, &report, &err), ST_UNSUPPORTED);
    if (!strstr(err.text, r->sentence)) fprintf(stderr, "%s: %s\n", name, err.text);
    CHECK(strstr(err.text, r->sentence) != NULL);
    CHECK(access(file, F_OK) != 0);
    if (!r->from) return;
    REQUIRE(changed(t, r, &other, &text));
    CHECK(tiny_write(&other, folder, NULL));
    CHECK_OK(tiny_run(folder, NULL, t->tokens, t->token_count, t->token_count, 1, CPU_AMX, want, &columns, &err), err);
    check_both_ways(name, t, folder, want, t->token_count, columns);
    free(text);
}

TEST(every_architecture_survives_conversion)
{
    DIR *d = opendir(VECTORS);
    int count = 0, refused = 0;
    REQUIRE(d != NULL);
    directory = test_directory();
    for (struct dirent *e; (e = readdir(d));) {
        static struct tiny t;
        char path[300], folder[300];
        const struct refusal *r = NULL;
        if (!strstr(e->d_name, ".txt")) continue;
        snprintf(path, sizeof path, VECTORS "/%s", e->d_name);
        snprintf(folder, sizeof folder, "%s/source", directory);
        mkdir(folder, 0777);
        CHECK(tiny_read(&t, path) && tiny_write(&t, folder, NULL));
        for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
            if (!strcmp(refusals[i].name, e->d_name)) r = &refusals[i];
        if (r) check_refused(e->d_name, &t, r, folder), refused++;
        else check_both_ways(e->d_name, &t, folder, t.values, t.rows, t.columns), count++;
        tiny_free(&t);
    }
    closedir(d);
    CHECK(count >= 31);
    CHECK_INT(refused, sizeof refusals / sizeof refusals[0]);
}

/* ---- tokenizers: real vocabularies through tokenizer.json and back into GGUF ---- */
static bool same_ids(const struct tokenizer *a, const struct tokenizer *b, const char *text, size_t length)
{
    struct token_list x = { 0 }, y = { 0 };
    struct err err = { 0 };
    bool same = !tokenizer_encode(a, text, length, TOKENIZE_SPECIAL_ADD, &x, &err) && !tokenizer_encode(b, text, length, TOKENIZE_SPECIAL_ADD, &y, &err) && x.count == y.count && x.count > 0 && !memcmp(x.ids, y.ids, x.count * sizeof *x.ids);
    token_list_free(&x);
    token_list_free(&y);
    return same;
}

/* t's keys in a new GGUF file of `vocabulary` tokens, opened; the way it splits text must be named `pre`. NULL with a sentence on stderr. */
static struct tokenizer *through_gguf(const struct tokenizer *t, int vocabulary, const char *pre)
{
    struct llm_config c = { .vocabulary = vocabulary };
    struct tokenizer *out = NULL;
    struct gguf_writer *w = NULL;
    struct gguf *g = NULL;
    struct buf bytes = { 0 };
    struct err err = { 0 };
    enum status st = gguf_writer_open(&w, 0, &err);
    if (!st) st = convert_put_tokenizer(w, t, vocabulary, &err);
    if (!st) st = convert_reopen(w, &c, &g, &bytes, &err);
    if (!st) st = tokenizer_open_gguf(&out, g, &err);
    if (st) fprintf(stderr, "  %s\n", err.text);
    if (!st) CHECK(gguf_text_is(g, "tokenizer.ggml.pre", pre));
    gguf_close(g);
    buf_free(&bytes);
    gguf_writer_close(w);
    return out;
}

static void check_vocabulary(const char *name, const char *pre, bool json)
{
    char path[500], *text;
    size_t length;
    struct gguf *g;
    struct tokenizer *own = NULL, *folder = NULL, *again;
    struct buf written, config;
    struct err err = { 0 };
    snprintf(path, sizeof path, "%s/data/vocab/%s.gguf", test_shared(), name);
    REQUIRE_OK(gguf_open(&g, -1, path, &err), err);
    REQUIRE_OK(tokenizer_open_gguf(&own, g, &err), err);
    gguf_close(g);
    strcat(path, ".inp");
    REQUIRE_OK(file_read_path(&text, &length, path, 1 << 20, &err), err);
    buf_init(&written, 0);
    buf_init(&config, 0);
    CHECK_INT(convert_write_tokenizer(&written, &config, own, pre, &err), json ? ST_OK : ST_UNSUPPORTED);
    if (json) {
        CHECK_OK(tokenizer_open_json(&folder, written.data, written.length, config.data, config.length, &err), err);
        if (folder && !same_ids(own, folder, text, length)) fprintf(stderr, "%s: tokenizer.json gives other ids\n", name);
        CHECK(folder && same_ids(own, folder, text, length));
    }
    again = through_gguf(folder ? folder : own, tokenizer_count(own) + 3, pre);
    CHECK(again && tokenizer_count(again) == tokenizer_count(own) + 3);
    CHECK(again && same_ids(own, again, text, length));
    CHECK(!again || !convert_same_tokenizer(own, again, "GGUF", &err));
    CHECK_INT(convert_put_tokenizer(NULL, own, tokenizer_count(own) - 1, &err), ST_UNSUPPORTED);
    if (again) tokenizer_close(again);
    if (folder) tokenizer_close(folder);
    tokenizer_close(own);
    buf_free(&written);
    buf_free(&config);
    free(text);
}

TEST(tokenizers_survive_conversion)
{
    if (!test_shared()) SKIP("../shared is not there");
    check_vocabulary("llama-spm", "default", true);
    check_vocabulary("gpt-2", "gpt-2", true);
    check_vocabulary("deepseek-coder", "deepseek-coder", true);
    check_vocabulary("falcon", "falcon", true);
    check_vocabulary("bert-bge", "default", false);
}

/* ---- failures ---- */
static int files_in(const char *path)
{
    DIR *d = opendir(path);
    int count = 0;
    for (struct dirent *e; d && (e = readdir(d));) count += e->d_name[0] != '.';
    if (d) closedir(d);
    return count;
}

TEST(failures_leave_nothing_behind)
{
    static struct tiny t;
    char folder[300], out[300], path[400];
    const char *base = test_directory();
    struct convert_report report;
    struct err err = { 0 };
    snprintf(folder, sizeof folder, "%s/source", base);
    snprintf(out, sizeof out, "%s/out", base);
    REQUIRE(!mkdir(folder, 0777) && !mkdir(out, 0777));
    REQUIRE(tiny_read(&t, VECTORS "/llama_tied.txt"));
    snprintf(path, sizeof path, "%s/x.gguf", out);
    CHECK_INT(convert_model(out, path, &as_f32, &report, &err), ST_NOT_FOUND);
    snprintf(t.tensors[0].name, sizeof t.tensors[0].name, "model.something_new.weight");
    REQUIRE(tiny_write(&t, folder, NULL));
    CHECK(convert_model(folder, path, &as_f32, &report, &err) != ST_OK);
    CHECK_INT(files_in(out), 0);
    tiny_free(&t);
    REQUIRE(tiny_read(&t, VECTORS "/llama_tied.txt"));
    struct tiny_tensor *extra = &t.tensors[t.tensor_count++];
    *extra = (struct tiny_tensor){ .name = "model.layers.0.gadget.weight", .dims = { 4 }, .rank = 1 };
    REQUIRE(tiny_write(&t, folder, NULL));
    CHECK_INT(convert_model(folder, path, &as_f32, &report, &err), ST_UNSUPPORTED);
    CHECK(strstr(err.text, "gadget") != NULL);
    CHECK_INT(files_in(out), 0);
    t.tensor_count--;
    REQUIRE(tiny_write(&t, folder, NULL));
    CHECK_OK(convert_model(folder, path, &as_f32, &report, &err), err);
    CHECK_INT(files_in(out), 1);
    CHECK_INT(convert_model(path, out, &as_f32, &report, &err), ST_EXISTS);
    const struct convert_options blocks = { .type = BLOCK_Q8_0, .threads = 1 };
    snprintf(folder, sizeof folder, "%s/again", out);
    CHECK_INT(convert_model(path, folder, &blocks, &report, &err), ST_UNSUPPORTED);
    CHECK_INT(convert_model(path, "/nowhere/x.gguf", &as_f32, &report, &err), ST_NOT_FOUND);
    CHECK_INT(files_in(out), 1);
    tiny_free(&t);
}
