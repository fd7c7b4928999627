/* Schemas to automata: what they accept and refuse, and what is refused as a schema. With GRAMMAR_CASES and GRAMMAR_RESULTS (files; tools/schema_ledger.py) it answers
 * any number of cases instead of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/test.h"
#include "tests/text/grammar_walk.h"

static enum status open_source(struct grammar **out, const char *kind, const struct json *source, struct err *err)
{
    if (strcmp(kind, "schema") == 0) return grammar_open_schema(out, source, err);
    if (source->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "no text");
    if (strcmp(kind, "regex") == 0) return grammar_open_regex(out, source->string.text, source->string.length, err);
    return grammar_open_gbnf(out, source->string.text, source->string.length, err);
}

/* One line: {"kind", "source", "texts": [[text, ...], ...], "walks": n, "seed": n}; any text of an inner list may be accepted. */
static void answer(const struct json *q, FILE *f, const struct token_trie *t)
{
    struct grammar *g;
    struct err err = { 0 };
    struct buf b;
    int64_t walks = 0, seed = 0;
    buf_init(&b, 0);
    json_as_int64(json_get(q, "walks"), &walks), json_as_int64(json_get(q, "seed"), &seed);
    if (open_source(&g, json_get(q, "kind")->string.text, json_get(q, "source"), &err)) {
        buf_puts(&b, "{\"error\":");
        json_write_text(&b, err.text);
    } else {
        buf_puts(&b, "{\"accepts\":[");
        const struct json *texts = json_get(q, "texts");
        for (const struct json *any = texts ? texts->list.first : NULL; any; any = any->next) {
            bool ok = false;
            for (const struct json *text = any->list.first; text && !ok; text = text->next) ok = walk_accepts(g, t, text->string.text, text->string.length);
            buf_puts(&b, ok ? "true" : "false");
            if (any->next) buf_putc(&b, ',');
        }
        buf_puts(&b, "],\"walks\":[");
        for (int64_t i = 0; i < walks; i++) {
            struct buf text;
            buf_init(&text, 0);
            bool done = walk_draw(g, t, (uint32_t)(seed + i), 2000, &text);
            buf_printf(&b, "%s{\"done\":%s,\"text\":", i ? "," : "", done ? "true" : "false");
            json_write_string(&b, text.data ? text.data : "", text.length);
            buf_putc(&b, '}');
            buf_free(&text);
        }
        buf_putc(&b, ']');
        grammar_close(g);
    }
    fprintf(f, "%.*s}\n", (int)b.length, b.data);
    buf_free(&b);
}

TEST(cases_of_a_file)
{
    const char *from = getenv("GRAMMAR_CASES"), *to = getenv("GRAMMAR_RESULTS");
    char *text, *save = NULL;
    size_t length;
    struct err err = { 0 };
    if (!from || !to) SKIP("GRAMMAR_CASES names no file of cases");
    REQUIRE_OK(file_read_path(&text, &length, from, (uint64_t)1 << 30, &err), err);
    FILE *f = fopen(to, "w");
    struct token_trie *t = walk_trie(true);
    for (char *line = strtok_r(text, "\n", &save); line && f; line = strtok_r(NULL, "\n", &save)) {
        struct arena arena;
        struct json *q;
        arena_init(&arena, 64 << 20);
        if (json_parse(&q, &arena, line, strlen(line), &(struct json_options){ .depth_max = 200 }, &err)) fprintf(f, "{\"error\":\"case: no JSON\"}\n");
        else answer(q, f, t);
        arena_free(&arena);
    }
    CHECK(f && fclose(f) == 0);
    token_trie_close(t);
    free(text);
}
