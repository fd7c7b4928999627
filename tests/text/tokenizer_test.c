/* The vocabularies of ../shared with their published texts and ids (ids without BOS). */
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
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
