/* Conversion: every tiny model of tests/llm/vectors, written as a folder and converted to GGUF in F32, gives the logits of transformers to 1e-4; so does the
 * folder made from that file again. What GGUF has no words for is refused, and a settings change that it has words for is then converted. */
#include "engine/llm/convert.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/blocks.h"
#include "tests/llm/tiny.h"
#include "tests/test.h"

#define VECTORS "tests/llm/vectors"
static const struct convert_options as_f32 = { .type = BLOCK_F32, .threads = 1 };

/* Models that are refused as they are: a part of the sentence; and a change of config.json with which they are taken (the folder's own logits are then the measure). */
static const struct refusal { const char *name, *sentence, *from, *to; } refusals[] = {
    { "gptj.txt", "GGUF has no architecture for GPT-J", NULL, NULL },
    { "qwen2_window.txt", "windows: layer 0", "\"use_sliding_window\": true", "\"use_sliding_window\": false" },
    { "gemma2.txt", "attention scale", "\"query_pre_attn_scalar\": 10", "\"query_pre_attn_scalar\": 16" },
    { "gemma3.txt", "attention scale", "\"query_pre_attn_scalar\": 10", "\"query_pre_attn_scalar\": 16" },
    { "gpt_oss.txt", "frequencies of the rotation", "\"truncate\": false", "\"truncate\": true" },
};

static const char *directory;      /* one for the whole suite */

/* Families whose folders are not written. */
static const char *const no_folder[] = { "bert", "falcon", "gpt_neox", "gpt_oss", "llama3", "longrope" };

static bool any_in(const char *name, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strstr(name, list[i])) return true;
    return false;
}

static double farthest(const float *a, const float *b, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
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
    return got == columns ? farthest(out, want, rows * columns) : -1;
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
    CHECK(count >= 32);
    CHECK_INT(refused, sizeof refusals / sizeof refusals[0]);
}
