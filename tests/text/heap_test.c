/* own heap: every allocation of the readers, tokenizers, templates and grammars fails once, one run after the other, until none is left to fail: each run must end with a
 * status and a sentence, and give back what it took. The inputs are the fuzz targets' corpora. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "base/file.h"
#include "engine/formats/gguf.h"
#include "engine/formats/safetensors.h"
#include "engine/text/grammar.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include "tests/test.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

static bool counting;
static long countdown, alive;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void  __libc_free(void *p);

static bool fails(void)
{
    if (!counting) return false;
    if (countdown-- != 0) return false;
    errno = ENOMEM;
    return true;
}

static void *taken(void *p)
{
    alive += counting && p;
    return p;
}

void *malloc(size_t n) { return fails() ? NULL : taken(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : taken(__libc_calloc(n, size)); }
void *realloc(void *p, size_t n)
{
    if (fails()) return NULL;
    void *q = __libc_realloc(p, n);
    return p ? q : taken(q);
}
void *aligned_alloc(size_t align, size_t n) { return fails() ? NULL : taken(__libc_memalign(align, n)); }
int posix_memalign(void **out, size_t align, size_t n)
{
    if (fails()) return ENOMEM;
    return (*out = taken(__libc_memalign(align, n))) ? 0 : ENOMEM;
}
void free(void *p)
{
    alive -= counting && p;
    __libc_free(p);
}

static enum status use_tokenizer(struct tokenizer *t, struct err *err)
{
    static const char text[] = "Hello  w\xC3\xB6rld 123\n\n<s> <|end|>\xE4\xBD\xA0 \xFF aaaa e\xCC\x81 [CLS]";
    struct token_list l = { 0 };
    struct detokenizer d;
    struct buf b;
    buf_init(&b, 0);
    enum status st = tokenizer_encode(t, text, sizeof text - 1, TOKENIZE_SPECIAL_ADD | TOKENIZE_SPECIAL_PARSE, &l, err);
    detokenizer_init(&d, t, true, true);
    for (size_t i = 0; i < l.count; i++) detokenizer_feed(&d, l.ids[i], &b);
    detokenizer_finish(&d, &b);
    if (!st && b.failed) st = err_set(err, ST_NO_MEMORY, "the buffer is full");
    buf_free(&b);
    token_list_free(&l);
    return st;
}

static enum status run_tokenizer(const char *data, size_t size, struct err *err)
{
    struct tokenizer *t = NULL;
    struct gguf *g;
    enum status st;
    if (!memcmp(data, "GGUF", 4)) {
        if ((st = gguf_open_bytes(&g, data, size, err))) return st;
        st = tokenizer_open_gguf(&t, g, err);
        gguf_close(g);
    } else if (data[0] == '{') st = tokenizer_open_json(&t, data, size, NULL, 0, err);
    else st = tokenizer_open_model(&t, data, size, NULL, 0, err);
    if (!st) st = use_tokenizer(t, err), tokenizer_close(t);
    return st;
}

static enum status run_template(const char *data, size_t size, struct err *err)
{
    static const char variables[] = "{\"a\":1,\"b\":2.5,\"s\":\"Hello World\",\"l\":[3,1,2],\"d\":{\"x\":1,\"B\":2},\"w\":[\"b\",\"A\"],\"t\":true,\"p\":[{\"n\":\"x\",\"v\":2}],\"u\":\"\\u4f60\",\"q\":\"it's\",\"nl\":\"a\\nb\",\"e\":\"\",\"h\":\"<\"}";
    struct template *t;
    struct template_output out = { 0 };
    struct arena arena;
    struct json *j;
    enum status st = template_open(&t, data, size, err);
    if (st) return st;
    arena_init(&arena, 1 << 20);
    st = json_parse(&j, &arena, variables, sizeof variables - 1, NULL, err);
    if (!st) st = template_render(t, j, NULL, &out, err);
    template_output_free(&out);
    template_close(t);
    arena_free(&arena);
    return st;
}

static enum status run_gguf(const char *data, size_t size, struct err *err)
{
    struct gguf *g;
    enum status st = gguf_open_bytes(&g, data, size, err);
    if (!st) gguf_close(g);
    return st;
}

static enum status run_safetensors(const char *data, size_t size, struct err *err)
{
    struct safetensors *s;
    enum status st = safetensors_open_bytes(&s, data, size, err);
    if (!st) safetensors_close(s);
    return st;
}

/* Some steps of a grammar over the 256 bytes; the tree is kept. */
static enum status use_grammar(struct grammar *g, struct err *err)
{
    static struct token_trie *trie;
    static char bytes[256];
    struct grammar_text pieces[256];
    struct grammar_state *s;
    uint32_t mask[8];
    bool may_end;
    for (int i = 0; i < 256; i++) bytes[i] = (char)i, pieces[i] = (struct grammar_text){ bytes + i, 1 };
    enum status st = trie ? ST_OK : token_trie_open_pieces(&trie, pieces, 256, err);
    if (!st) st = grammar_state_open(&s, g, trie, err);
    if (st) return st;
    for (int step = 0; step < 12 && !st; step++) {
        int token = 255;
        st = grammar_state_mask(s, mask, &may_end, err);
        while (!st && token >= 0 && !(mask[token >> 5] >> (token & 31) & 1)) token--;
        if (st || token < 0) break;
        st = grammar_state_accept(s, token, err);
    }
    grammar_state_close(s);
    return st;
}

static enum status run_grammar(const char *data, size_t size, struct err *err)
{
    struct grammar *g;
    enum status st = data[0] & 1 ? grammar_open_regex(&g, data + 1, size - 1, err) : grammar_open_gbnf(&g, data + 1, size - 1, err);
    if (!st) st = use_grammar(g, err), grammar_close(g);
    return st;
}

static enum status run_schema(const char *data, size_t size, struct err *err)
{
    struct grammar *g;
    struct arena arena;
    struct json *j;
    arena_init(&arena, 1 << 20);
    enum status st = json_parse(&j, &arena, data, size, NULL, err);
    if (!st) st = grammar_open_schema(&g, j, err);
    if (!st) st = use_grammar(g, err), grammar_close(g);
    arena_free(&arena);
    return st;
}

static void fail_each(const char *name, enum status (*run)(const char *, size_t, struct err *), const char *data, size_t size)
{
    struct err plain = { 0 };
    enum status without = run(data, size, &plain);
    for (long n = 0; n < 100000; n++) {
        struct err err = { 0 };
        countdown = n, alive = 0;
        counting = true;
        enum status st = run(data, size, &err);
        counting = false;
        if (alive) test_fail(__FILE__, __LINE__, "%s: %ld blocks were kept when allocation %ld failed", name, alive, n);
        if (countdown >= 0) {
            if (st != without) test_fail(__FILE__, __LINE__, "%s: %s at last, %s before", name, err.text, plain.text);
            return;
        }
        if (st && !err.text[0]) test_fail(__FILE__, __LINE__, "%s: no sentence when allocation %ld failed", name, n);
        if (alive || (st && !err.text[0])) return;
    }
    test_fail(__FILE__, __LINE__, "%s never ends", name);
}

static void fail_corpus(const char *corpus, enum status (*run)(const char *, size_t, struct err *))
{
    char path[700];
    int files = 0;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", corpus);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *data;
        size_t size;
        struct err err;
        snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%.200s", corpus, e->d_name);
        if (e->d_name[0] == '.' || file_read_path(&data, &size, path, 1 << 20, &err)) continue;
        fail_each(path, run, data, size);
        free(data);
        files++;
    }
    if (d) closedir(d);
    CHECK(files > 1);
}

TEST(gguf_allocations_may_fail) { fail_corpus("gguf", run_gguf); }
TEST(safetensors_allocations_may_fail) { fail_corpus("safetensors", run_safetensors); }
TEST(grammar_allocations_may_fail) { fail_corpus("grammar", run_grammar); }
TEST(schema_allocations_may_fail) { fail_corpus("schema", run_schema); }
TEST(template_allocations_may_fail) { fail_corpus("template", run_template); }
TEST(tokenizer_allocations_may_fail) { fail_corpus("tokenizer", run_tokenizer); }

#endif
