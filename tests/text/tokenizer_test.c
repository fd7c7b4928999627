/* The vocabularies of ../shared with their published texts and ids (ids without BOS). */
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "engine/formats/gguf.h"
#include "engine/text/tokenizer.h"
#include "tests/test.h"

static const char separator[] = "\n__ggml_vocab_test__\n";

static struct tokenizer *open_vocabulary(const char *name)
{
    char path[700];
    struct gguf *g;
    struct tokenizer *t = NULL;
    struct err err;
    snprintf(path, sizeof path, "%s/%s", test_shared(), name);
    if (gguf_open(&g, -1, path, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return NULL;
    }
    if (tokenizer_open_gguf(&t, g, &err)) test_fail(__FILE__, __LINE__, "%s: %s", name, err.text);
    gguf_close(g);
    return t;
}

static bool same_ids(const struct token_list *l, const char *line)
{
    size_t n = 0;
    for (char *end; *line && *line != '\n'; line = end, n++) {
        long id = strtol(line, &end, 10);
        if (end == line) break;
        if (n >= l->count || l->ids[n] != id) return false;
    }
    return n == l->count;
}

static void show(const char *name, const char *text, size_t length, const struct token_list *l, const char *line)
{
    char got[2000];
    int at = 0;
    for (size_t i = 0; i < l->count && at < 1900; i++) at += snprintf(got + at, sizeof got - (size_t)at, " %d", l->ids[i]);
    test_fail(__FILE__, __LINE__, "%s: '%.*s' became%s, not%.*s", name, (int)(length < 60 ? length : 60), text, got, (int)strcspn(line, "\n"), line);
}

/* Text that ids came from comes back, but for what normalising took. */
static void check_back(const struct tokenizer *t, const char *name, const char *text, size_t length, const struct token_list *l)
{
    struct detokenizer d;
    struct buf b;
    buf_init(&b, 0);
    detokenizer_init(&d, t, true, false);
    for (size_t i = 0; i < l->count; i++) detokenizer_feed(&d, l->ids[i], &b);
    detokenizer_finish(&d, &b);
    if (b.length != length || (length && memcmp(b.data, text, length))) test_fail(__FILE__, __LINE__, "%s: '%.*s' came back as '%.*s'", name, (int)length, text, (int)b.length, b.data ? b.data : "");
    buf_free(&b);
}

static void check_vocabulary(const char *name, bool back)
{
    char path[700], *texts, *ids;
    size_t size, ids_size;
    struct err err;
    struct tokenizer *t = open_vocabulary(name);
    REQUIRE(t);
    snprintf(path, sizeof path, "%s/%s.inp", test_shared(), name);
    REQUIRE_OK(file_read_path(&texts, &size, path, 1 << 20, &err), err);
    snprintf(path, sizeof path, "%s/%s.out", test_shared(), name);
    REQUIRE_OK(file_read_path(&ids, &ids_size, path, 1 << 20, &err), err);
    int count = 0;
    for (char *text = texts, *line = ids; *line; count++) {
        char *end = strstr(text, separator);
        size_t length = end ? (size_t)(end - text) : strlen(text);
        struct token_list l = { 0 };
        CHECK_OK(tokenizer_encode(t, text, length, 0, &l, &err), err);
        if (!same_ids(&l, line)) show(name, text, length, &l, line);
        if (back) check_back(t, name, text, length, &l);
        token_list_free(&l);
        line += strcspn(line, "\n");
        line += *line == '\n';
        if (!end) break;
        text = end + sizeof separator - 1;
    }
    CHECK_INT(count, 46);
    free(texts);
    free(ids);
    tokenizer_close(t);
}

TEST(published_ids_come_out)
{
    if (!test_shared()) SKIP("the vocabularies of ../shared are not here");
    check_vocabulary("data/vocab/gpt-2.gguf", true);
    check_vocabulary("data/vocab/falcon.gguf", true);
    check_vocabulary("data/vocab/deepseek-coder.gguf", true);
    check_vocabulary("data/vocab/llama-spm.gguf", true);
    check_vocabulary("data/vocab/bert-bge.gguf", false);
}

static const struct json *vectors(struct arena *arena, char **text)
{
    struct json *root = NULL;
    struct err err;
    size_t length;
    arena_init(arena, 256 << 20);
    if (file_read_path(text, &length, "tests/text/tokenizer_vectors.json", 4 << 20, &err) || json_parse(&root, arena, *text, length, NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return root;
}

static bool same_list(const struct token_list *l, const struct json *ids)
{
    size_t n = 0;
    for (const struct json *e = ids->list.first; e; e = e->next, n++)
        if (n >= l->count || e->integer != l->ids[n]) return false;
    return n == l->count;
}

static void compare(const struct tokenizer *t, const char *name, const struct json *texts, const struct json *ids, unsigned flags)
{
    const struct json *text = texts->list.first;
    int index = 0;
    for (const struct json *e = ids->list.first; e; e = e->next, text = text->next, index++) {
        struct token_list l = { 0 };
        struct err err;
        CHECK_OK(tokenizer_encode(t, text->string.text, text->string.length, flags, &l, &err), err);
        if (!same_list(&l, e) && !(flags & TOKENIZE_SPECIAL_ADD && index == 4)) {        /* "<s>x</s>" gets no second BOS and EOS here */
            struct buf b;
            buf_init(&b, 0);
            json_write(&b, e);
            buf_putc(&b, 0);
            show(name, text->string.text, text->string.length, &l, b.data);
            buf_free(&b);
        }
        token_list_free(&l);
    }
}

TEST(tokenizer_json_gives_the_ids_of_its_reference)
{
    struct arena arena;
    char *file = NULL;
    const struct json *root = vectors(&arena, &file), *texts = json_get(root, "texts");
    REQUIRE(root);
    int count = 0;
    for (const struct json *v = json_get(root, "json")->list.first; v; v = v->next, count++) {
        struct tokenizer *t;
        struct err err;
        struct buf b;
        const char *name = json_get(v, "name")->string.text;
        buf_init(&b, 0);
        json_write(&b, json_get(v, "tokenizer"));
        if (tokenizer_open_json(&t, b.data, b.length, NULL, 0, &err)) test_fail(__FILE__, __LINE__, "%s: %s", name, err.text);
        else {
            compare(t, name, texts, json_get(v, "plain"), TOKENIZE_SPECIAL_PARSE);
            compare(t, name, texts, json_get(v, "ids"), TOKENIZE_SPECIAL_PARSE | TOKENIZE_SPECIAL_ADD);
            tokenizer_close(t);
        }
        buf_free(&b);
    }
    CHECK(count > 10);
    free(file);
    arena_free(&arena);
}

TEST(sentencepiece_models_give_the_ids_of_their_reference)
{
    struct arena arena;
    char *file = NULL;
    const struct json *root = vectors(&arena, &file), *texts = json_get(root, "texts");
    REQUIRE(root);
    for (const struct json *v = json_get(root, "models")->list.first; v; v = v->next) {
        struct tokenizer *t;
        struct err err;
        const struct json *hex = json_get(v, "hex");
        const char *name = json_get(v, "name")->string.text;
        unsigned char *bytes = malloc(hex->string.length / 2 + 1);
        for (size_t i = 0; i + 1 < hex->string.length; i += 2) sscanf(hex->string.text + i, "%2hhx", &bytes[i / 2]);
        if (tokenizer_open_model(&t, bytes, hex->string.length / 2, NULL, 0, &err)) test_fail(__FILE__, __LINE__, "%s: %s", name, err.text);
        else {
            compare(t, name, texts, json_get(v, "ids"), 0);
            tokenizer_close(t);
        }
        free(bytes);
    }
    free(file);
    arena_free(&arena);
}

TEST(the_dictionary_s_two_forms_agree)
{
    if (!test_shared()) SKIP("the demo dictionary of ../shared is not here");
    char path[700];
    struct tokenizer *gguf = open_vocabulary("demo/dictionary/dictionary-q8_0.gguf"), *folder = NULL;
    struct err err;
    snprintf(path, sizeof path, "%s/demo/dictionary/hf", test_shared());
    REQUIRE_OK(tokenizer_open_folder(&folder, -1, path, &err), err);
    REQUIRE(gguf && tokenizer_count(gguf) == tokenizer_count(folder));
    CHECK_TEXT(tokenizer_chat_template(gguf, NULL), tokenizer_chat_template(folder, "default"));
    CHECK_INT(tokenizer_ids(folder)->bos, 1);
    CHECK_INT(tokenizer_ids(folder)->eos, 5);
    CHECK(tokenizer_is_eog(folder, 5) && tokenizer_is_eog(gguf, 5));
    struct arena arena;
    char *file = NULL;
    const struct json *texts = json_get(vectors(&arena, &file), "texts");
    static const char chat[] = "<|user|>Define mention.<|assistant|>mention (verb): make reference to.<|end|>";
    for (const struct json *e = texts->list.first; e; e = e->next) {
        for (unsigned flags = 0; flags < 4; flags++) {
            struct token_list a = { 0 }, b = { 0 };
            const char *text = e->string.length ? e->string.text : chat;
            size_t n = e->string.length ? e->string.length : sizeof chat - 1;
            CHECK_OK(tokenizer_encode(gguf, text, n, flags, &a, &err), err);
            CHECK_OK(tokenizer_encode(folder, text, n, flags, &b, &err), err);
            CHECK(a.count == b.count && !memcmp(a.ids, b.ids, a.count * sizeof *a.ids));
            bool control = false;
            for (size_t i = flags & TOKENIZE_SPECIAL_ADD; i < a.count; i++) control |= tokenizer_is_control(gguf, a.ids[i]);
            if (!(flags & TOKENIZE_SPECIAL_PARSE) && tokenizer_ids(gguf)->unk >= 0) CHECK(!control);
            if (text == chat && flags & TOKENIZE_SPECIAL_PARSE) CHECK(control);
            token_list_free(&a);
            token_list_free(&b);
        }
    }
    free(file);
    arena_free(&arena);
    tokenizer_close(gguf);
    tokenizer_close(folder);
}

static struct tokenizer *open_text(const char *text)
{
    struct tokenizer *t = NULL;
    struct err err;
    if (tokenizer_open_json(&t, text, strlen(text), NULL, 0, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return t;
}

static const char small[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"aa\":2,\"ab\":3,\"<|end|>\":4,\"aaaa\":5,\"<\":6,\"|\":7,\"<|\":8},\"merges\":[\"a a\",\"a b\",\"aa aa\",\"< |\"]},"
                            "\"added_tokens\":[{\"id\":4,\"content\":\"<|end|>\",\"special\":true},{\"id\":9,\"content\":\"USER\",\"special\":false}]}";

TEST(control_tokens_come_only_when_allowed)
{
    struct tokenizer *t = open_text(small);
    struct token_list l = { 0 };
    struct err err;
    REQUIRE(t);
    CHECK_OK(tokenizer_encode(t, "a<|end|>USERb", 13, 0, &l, &err), err);
    CHECK(l.count == 5 && l.ids[0] == 0 && l.ids[1] == 8 && l.ids[2] == 7 && l.ids[3] == 9 && l.ids[4] == 1);
    l.count = 0;
    CHECK_OK(tokenizer_encode(t, "a<|end|>USERb", 13, TOKENIZE_SPECIAL_PARSE, &l, &err), err);
    CHECK(l.count == 4 && l.ids[1] == 4 && l.ids[2] == 9);
    CHECK(tokenizer_is_control(t, 4) && !tokenizer_is_control(t, 9) && tokenizer_is_eog(t, 4) && !tokenizer_is_control(t, 99));
    CHECK_INT(tokenizer_find(t, "<|end|>", 7), 4);
    token_list_free(&l);
    tokenizer_close(t);
}

/* A word of a million letters costs no more than a few times what a million short words cost. */
TEST(long_words_are_merged_in_time)
{
    enum { N = 1 << 20 };
    struct tokenizer *t = open_text(small);
    struct token_list l = { 0 };
    struct err err;
    char *text = malloc(N);
    REQUIRE(t && text);
    memset(text, 'a', N);
    clock_t begin = clock();
    CHECK_OK(tokenizer_encode(t, text, N, 0, &l, &err), err);
    CHECK((double)(clock() - begin) / CLOCKS_PER_SEC < 10);
    CHECK_INT(l.count, N / 4);
    free(text);
    token_list_free(&l);
    tokenizer_close(t);
}

TEST(broken_files_are_refused)
{
    static const struct { const char *text, *why; } bad[] = {
        { "{}", "no model" }, { "{\"model\":{\"vocab\":{}}}", "empty" }, { "{\"model\":{\"vocab\":{\"a\":-1}}}", "natural" }, { "{\"model\":{\"vocab\":{\"a\":900000}}}", "900000" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "lacks" }, { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "no pair" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "merges" }, { "{\"model\":{\"type\":\"Magic\",\"vocab\":{\"a\":0}}}", "Magic" },
        { "{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",-1]]}}", "unk_id" }, { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "pair" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"Magic\"}}", "Magic" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"(\"}}}", "not understood" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\",5],\"cls\":[\"x\",0]}}", "outside" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"}}", "charsmap" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tokenizer *t;
        struct err err = { 0 };
        if (!tokenizer_open_json(&t, bad[i].text, strlen(bad[i].text), NULL, 0, &err)) {
            test_fail(__FILE__, __LINE__, "taken: %s", bad[i].text);
            tokenizer_close(t);
        } else if (!strstr(err.text, bad[i].why)) test_fail(__FILE__, __LINE__, "refused with \"%s\", not \"%s\"", err.text, bad[i].why);
    }
    struct tokenizer *t;
    struct err err;
    CHECK_INT(tokenizer_open_model(&t, "\x0a\x05x", 3, NULL, 0, &err), ST_BAD_INPUT);
    CHECK_INT(tokenizer_open_model(&t, "", 0, NULL, 0, &err), ST_BAD_INPUT);
    CHECK_INT(tokenizer_open_folder(&t, -1, "/nonexistent", &err), ST_NOT_FOUND);
}

/* Keys and ids of GGUF files (R13). */
TEST(broken_gguf_tokenizers_are_refused)
{
    static const struct { const char *model, *pre, *merge; uint32_t bos; const char *why; } all[] = {
        { "llama", NULL, NULL, 1, NULL }, { "llama", NULL, NULL, 2, "outside" }, { "llama", NULL, NULL, UINT32_MAX, NULL }, { "magic", NULL, NULL, 0, "magic" }, { "gpt2", "gpt-2", "a b", 0, NULL },
        { "gpt2", "magic", "a b", 0, "magic" }, { "gpt2", "gpt-2", "ab", 0, "no pair" }, { "gpt2", "gpt-2", NULL, 0, "merges" },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct gguf_writer *w;
        struct gguf *g;
        struct tokenizer *t;
        struct buf b;
        struct err err = { 0 };
        buf_init(&b, 0);
        REQUIRE_OK(gguf_writer_open(&w, 0, &err), err);
        gguf_writer_text(w, "tokenizer.ggml.model", all[i].model, strlen(all[i].model));
        if (all[i].pre) gguf_writer_text(w, "tokenizer.ggml.pre", all[i].pre, strlen(all[i].pre));
        if (all[i].merge) gguf_writer_texts(w, "tokenizer.ggml.merges", &all[i].merge, (const size_t[]){ strlen(all[i].merge) }, 1);
        gguf_writer_texts(w, "tokenizer.ggml.tokens", (const char *const[]){ "a", "b" }, (const size_t[]){ 1, 1 }, 2);
        gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", all[i].bos);
        CHECK_OK(gguf_writer_start(w, weights_sink_buf(&b), &err), err);
        gguf_writer_close(w);
        REQUIRE_OK(gguf_open_bytes(&g, b.data, b.length, &err), err);
        enum status st = tokenizer_open_gguf(&t, g, &err);
        CHECK_INT(!st, !all[i].why);
        if (!st) tokenizer_close(t);
        else if (all[i].why && !strstr(err.text, all[i].why)) test_fail(__FILE__, __LINE__, "refused with \"%s\", not \"%s\"", err.text, all[i].why);
        gguf_close(g);
        buf_free(&b);
    }
}

static void detokenized(const struct tokenizer *t, bool start, const char *want, int count, const int32_t *ids)
{
    struct detokenizer d;
    struct buf b;
    buf_init(&b, 0);
    detokenizer_init(&d, t, start, false);
    for (int i = 0; i < count; i++) detokenizer_feed(&d, ids[i], &b);
    detokenizer_finish(&d, &b);
    buf_putc(&b, 0);
    CHECK_TEXT(b.data, want);
    buf_free(&b);
}

TEST(only_whole_characters_come_out)
{
    if (!test_shared()) SKIP("the vocabularies of ../shared are not here");
    struct tokenizer *t = open_vocabulary("data/vocab/llama-spm.gguf"), *b = open_vocabulary("data/vocab/bert-bge.gguf");
    REQUIRE(t && b);
    struct detokenizer d;
    struct buf out;
    buf_init(&out, 0);
    detokenizer_init(&d, t, false, false);
    static const int32_t llama[] = { 243, 162, 169, 156 };          /* <0xF0> <0x9F> <0xA6> <0x99>, ids are bytes + 3 */
    for (int i = 0; i < 4; i++) {
        detokenizer_feed(&d, llama[i], &out);
        CHECK_INT(out.length, i == 3 ? 4 : 0);
    }
    buf_free(&out);
    detokenized(t, true, "\xEF\xBF\xBD", 1, llama);
    detokenized(t, true, "\xEF\xBF\xBD" "\xF0\x9F\xA6\x99", 5, (const int32_t[]){ 243, 243, 162, 169, 156 });
    detokenized(t, true, "\xEF\xBF\xBD" "A", 2, (const int32_t[]){ 243, 3 + 'A' });
    detokenized(t, true, "Hello world", 4, (const int32_t[]){ 1, 15043, 3186, 2 });
    detokenized(t, false, " Hello world", 2, (const int32_t[]){ 15043, 3186 });
    detokenized(b, true, "hello world", 3, (const int32_t[]){ 101, 7592, 2088 });
    tokenizer_close(t);
    tokenizer_close(b);
}

/* Every family's patterns compile: a name that GGUF files carry must not fail at the first load. */
TEST(every_family_opens)
{
    static const char *const names[] = { "llama-bpe", "qwen2", "qwen35", "gpt-2", "starcoder", "smollm", "command-r", "falcon", "default", "deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-4o", "llama4", "tekken", "tiny_aya", "kimi-k2",
                                         "bloom", "viking", "bailingmoe", "seed-coder", "exaone-moe", "chameleon", "jais-2", "gemma4", "mpt", "olmo", "stablelm2", "refact", "minimax-m2" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct gguf_writer *w;
        struct gguf *g;
        struct tokenizer *t;
        struct token_list l = { 0 };
        struct buf b;
        struct err err = { 0 };
        buf_init(&b, 0);
        REQUIRE_OK(gguf_writer_open(&w, 0, &err), err);
        gguf_writer_text(w, "tokenizer.ggml.model", "gpt2", 4);
        gguf_writer_text(w, "tokenizer.ggml.pre", names[i], strlen(names[i]));
        gguf_writer_texts(w, "tokenizer.ggml.merges", (const char *const[]){ "a b" }, (const size_t[]){ 3 }, 1);
        gguf_writer_texts(w, "tokenizer.ggml.tokens", (const char *const[]){ "a", "b", "ab" }, (const size_t[]){ 1, 1, 2 }, 3);
        CHECK_OK(gguf_writer_start(w, weights_sink_buf(&b), &err), err);
        gguf_writer_close(w);
        REQUIRE_OK(gguf_open_bytes(&g, b.data, b.length, &err), err);
        REQUIRE_OK(tokenizer_open_gguf(&t, g, &err), err);
        CHECK_OK(tokenizer_encode(t, "abab", 4, 0, &l, &err), err);
        CHECK(l.count == 2 && l.ids[0] == 2 && l.ids[1] == 2);
        token_list_free(&l);
        tokenizer_close(t);
        gguf_close(g);
        buf_free(&b);
    }
}

/* The ids are CLIPTokenizer's. */
TEST(vocab_and_merges_are_read)
{
    static const struct { const char *text; int count; int32_t ids[24]; } all[] = {
        { "a large red square on the left", 9, { 195, 58, 165, 181, 186, 171, 189, 166, 196 } },
        { "Two  BLUE circles, isn't it?", 20, { 195, 35, 38, 72, 129, 142, 18, 27, 20, 76, 44, 24, 34, 71, 1, 77, 24, 77, 57, 196 } },
        { "zebra 42 \xC3\xA9!", 12, { 195, 41, 20, 17, 33, 58, 51, 49, 196, 196, 42, 196 } },
    };
    char path[700];
    struct tokenizer *t = NULL;
    struct err err;
    if (!test_shared()) SKIP("the demo shapes of ../shared are not here");
    snprintf(path, sizeof path, "%s/demo/shapes/tokenizer", test_shared());
    REQUIRE_OK(tokenizer_open_folder(&t, -1, path, &err), err);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct token_list l = { 0 };
        int count = all[i].count;
        CHECK_OK(tokenizer_encode(t, all[i].text, strlen(all[i].text), TOKENIZE_SPECIAL_ADD, &l, &err), err);
        CHECK_INT(l.count, count);
        CHECK((int)l.count == count && !memcmp(l.ids, all[i].ids, (size_t)count * sizeof *l.ids));
        token_list_free(&l);
    }
    tokenizer_close(t);
}
