/* A real model of 260 thousand parameters with its known greedy text: our own conversions of llama2.c's file to GGUF in F32 and F16 and to a folder of safetensors give all
 * 200 tokens; Q8_0 runs. Needs ../shared/data/stories260k. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "engine/device_gpu.h"
#include "engine/engine.h"
#include "engine/llm/convert.h"
#include "engine/llm/llm_engine.h"
#include "engine/text/tokenizer.h"
#include "kernels/blocks.h"
#include "server/command_text.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/test.h"

enum { TOKENS = 200 };

static enum status convert(const char *from, const char *to, int type, struct err *err)
{
    const struct convert_options o = { .type = type, .threads = 1 };
    struct convert_report report;
    return convert_model(from, to, &o, &report, err);
}

/* The greedy text behind BOS alone, in f32. */
static enum status greedy(const char *path, int gpu, struct buf *text, struct err *err)
{
    struct command_model m;
    struct text_job j = { 0 };
    struct token_list tokens = { 0 };
    struct engine_options o;
    struct detokenizer d;
    command_engine_defaults(&o);
    o.precision = gpu ? PRECISION_AUTO : PRECISION_F32;
    o.gpu = gpu;
    buf_init(text, 0);
    enum status st = command_text_open(&m, path, &o, err);
    if (st) return st;
    const struct tokenizer *t = m.ops->text->tokenizer(m.engine);
    st = tokenizer_encode(t, "", 0, TOKENIZE_SPECIAL_ADD, &tokens, err);
    const struct text_prompt prompt = { .tokens = tokens.ids, .count = (int)tokens.count };
    if (!st) st = text_job_open(&j, TEXT_GENERATE, &prompt, 1, 1, err);
    j.max_tokens = TOKENS;
    j.sampling.temperature = 0;
    if (!st) st = command_text_run(&m, &j, NULL, NULL, err);
    if (!st) {
        CHECK_INT(tokens.count, 1);
        CHECK_INT(j.answers[0].id_count, TOKENS);
        detokenizer_init(&d, t, true, false);
        for (int i = 0; i < j.answers[0].id_count; i++) detokenizer_feed(&d, j.answers[0].ids[i], text);
        detokenizer_finish(&d, text);
        buf_putc(text, 0);
    }
    text_job_close(&j);
    token_list_free(&tokens);
    command_model_close(&m);
    return st;
}

/* Bytes in which two texts agree from their beginning. */
static size_t agree(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] && a[n] == b[n]) n++;
    return n;
}

TEST(golden_text_from_every_format)
{
    static const struct { const char *file; int type; bool exact; } made[] = { { "f32.gguf", BLOCK_F32, true }, { "f16.gguf", BLOCK_F16, true }, { "folder", BLOCK_F32, true }, { "folder16", BLOCK_F16, true }, { "q8_0.gguf", BLOCK_Q8_0, false } };
    char source[500], first[300] = "", path[300];
    char *golden;
    size_t length;
    struct err err = { 0 };
    if (!test_shared()) SKIP("../shared is not there");
    const char *directory = test_directory();
    snprintf(source, sizeof source, "%s/data/stories260k/golden-greedy-200.txt", test_shared());
    REQUIRE_OK(file_read_path(&golden, &length, source, 1 << 16, &err), err);
    snprintf(source, sizeof source, "%s/data/stories260k/stories260K.bin", test_shared());
    device_gpus_use(test_gpu_api());
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        struct buf text;
        bool folder = !strncmp(made[i].file, "folder", 6);
        snprintf(path, sizeof path, "%s/%s", directory, made[i].file);
        if (i == 0) snprintf(first, sizeof first, "%s", path);
        REQUIRE_OK(convert(folder ? first : source, path, made[i].type, &err), err);
        for (int gpu = 0; gpu < 2; gpu++) {                    /* the card: without a card (tests/kernels/fake_gpu.h), at its default precision */
            REQUIRE_OK(greedy(path, gpu, &text, &err), err);
            printf("  %s%s: %zu of %zu bytes as golden\n", made[i].file, gpu ? " on a card" : "", agree(text.data, golden), length);
            if (made[i].exact) CHECK_TEXT(text.data, golden);
            CHECK(agree(text.data, golden) >= 100);
            buf_free(&text);
        }
    }
    device_gpus_use(NULL);
    free(golden);
}
