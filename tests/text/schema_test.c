/* Schemas to automata: what they accept and refuse, and what is refused as a schema; JSON-Schema-Test-Suite in short. With GRAMMAR_CASES and GRAMMAR_RESULTS (files;
 * tools/schema_ledger.py makes them) it answers any number of cases instead of the suite. */
#include <dirent.h>
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

static void answer_cases(const char *from, const char *to)
{
    char *text, *save = NULL;
    size_t length;
    struct err err = { 0 };
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

struct tally { int compiled, refused, valid, accepted; };

/* Instances as they stand in the file: an order of members or a spelling of numbers that is not generated may cost a valid one, but no invalid one is ever accepted. */
static void check_group(const struct json *group, const char *file, const struct token_trie *t, struct tally *n)
{
    struct grammar *g;
    struct err err = { 0 };
    if (grammar_open_schema(&g, json_get(group, "schema"), &err)) {
        n->refused++;
        CHECK(err.status == ST_BAD_INPUT && err.text[0]);
        return;
    }
    n->compiled++;
    for (const struct json *test = json_get(group, "tests")->list.first; test; test = test->next) {
        struct buf b;
        struct json instance = *json_get(test, "data");
        instance.key = NULL, instance.key_length = 0, instance.next = NULL;
        buf_init(&b, 0);
        json_write(&b, &instance);
        bool valid = json_get(test, "valid")->boolean, ok = walk_accepts(g, t, b.data, b.length);
        n->valid += valid, n->accepted += valid && ok;
        if (ok && !valid) test_fail(__FILE__, __LINE__, "%s: %s: %.*s is accepted", file, json_get(test, "description")->string.text, (int)b.length, b.data);
        buf_free(&b);
    }
    grammar_close(g);
}

TEST(the_suite_is_never_accepted_wrongly)
{
    const char *from = getenv("GRAMMAR_CASES"), *to = getenv("GRAMMAR_RESULTS"), *shared = test_shared(), *unpacked = test_directory();
    char command[2000], folder[1000];
    struct tally n = { 0 };
    if (from && to) {
        answer_cases(from, to);
        return;
    }
    if (!shared) SKIP("JSON-Schema-Test-Suite (shared/data) is not here");
    snprintf(command, sizeof command, "tar --zstd -xf '%s/data/schema/JSON-Schema-Test-Suite.tar.zst' -C '%s' 2>/dev/null", shared, unpacked);
    snprintf(folder, sizeof folder, "%s/tests/draft2020-12", unpacked);
    DIR *d = system(command) == 0 ? opendir(folder) : NULL;
    if (!d) SKIP("JSON-Schema-Test-Suite (shared/data) is not here");
    struct token_trie *t = walk_trie(false);
    for (struct dirent *e; (e = readdir(d)); ) {
        char path[1300], *text;
        size_t length;
        struct arena arena;
        struct json *groups;
        struct err err = { 0 };
        if (!strstr(e->d_name, ".json") || strcmp(e->d_name, "format.json") == 0 || strcmp(e->d_name, "content.json") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        REQUIRE_OK(file_read_path(&text, &length, path, 1 << 22, &err), err);
        arena_init(&arena, 64 << 20);
        REQUIRE_OK(json_parse(&groups, &arena, text, length, NULL, &err), err);
        for (const struct json *g = groups->list.first; g; g = g->next) check_group(g, e->d_name, t, &n);
        arena_free(&arena);
        free(text);
    }
    closedir(d);
    token_trie_close(t);
    printf("  %d schemas compiled, %d refused; %d of %d valid instances accepted as they stand\n", n.compiled, n.refused, n.accepted, n.valid);
    CHECK(n.compiled > 2 * n.refused && n.accepted * 100 > n.valid * 90);
}

/* The schema, then texts it accepts, NULL, texts it does not, NULL. */
static void check_schema(const char *source, const char *const *texts)
{
    struct grammar *g;
    struct arena arena;
    struct json *schema;
    struct err err = { 0 };
    struct token_trie *t = walk_trie(true);
    arena_init(&arena, 8 << 20);
    REQUIRE_OK(json_parse(&schema, &arena, source, strlen(source), NULL, &err), err);
    REQUIRE_OK(grammar_open_schema(&g, schema, &err), err);
    for (bool want = true; ; texts++) {
        if (!*texts && !want) break;
        if (!*texts) want = false;
        else if (walk_accepts(g, t, *texts, strlen(*texts)) != want) test_fail(__FILE__, __LINE__, "%s: '%s' is %s", source, *texts, want ? "refused" : "accepted");
    }
    grammar_close(g);
    token_trie_close(t);
    arena_free(&arena);
}

TEST(objects_have_their_members_in_order)
{
    check_schema("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"integer\"},\"c\":{\"type\":\"boolean\"}},\"required\":[\"b\"],\"additionalProperties\":false}",
                 (const char *const[]){ "{\"b\":1}", "{\"a\": \"x\", \"b\": -1}", "{\"a\":\"\",\"b\":0,\"c\":true}", NULL, "{}", "{\"a\":\"x\"}", "{\"b\":1,\"d\":2}", "{\"b\":1,}", "{\"b\":1.5}", "{ \"b\":1}", "{\"b\":1,\"b\":1}", NULL });
    check_schema("{\"type\":\"object\",\"patternProperties\":{\"^n\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":\"integer\"},\"maxProperties\":2}",
                 (const char *const[]){ "{}", "{\"n\":null}", "{\"x\":1,\"nn\":null}", NULL, "{\"n\":1}", "{\"x\":null}", "{\"x\":1,\"y\":2,\"z\":3}", NULL });
    check_schema("{\"type\":\"object\",\"properties\":{\"a\\\"b\":{}},\"required\":[\"a\\\"b\",\"z\"],\"dependentRequired\":{\"z\":[\"y\"]},\"additionalProperties\":{\"const\":1}}",
                 (const char *const[]){ "{\"a\\\"b\":[],\"z\":1,\"y\":1}", NULL, "{\"a\\\"b\":[],\"z\":1}", "{\"z\":1,\"y\":1}", NULL });
}

TEST(numbers_stay_in_their_bounds)
{
    check_schema("{\"type\":\"integer\",\"minimum\":-12,\"exclusiveMaximum\":120}", (const char *const[]){ "-12", "0", "-1", "119", "99", NULL, "-13", "120", "1.0", "00", "-0", "1e1", "-", NULL });
    check_schema("{\"type\":\"number\",\"minimum\":0.25,\"maximum\":1.5}", (const char *const[]){ "0.25", "1", "1.5", "1.500", "0.3", NULL, "0.2", "0.249", "1.51", "2", "0", "-1", "1.", NULL });
    check_schema("{\"type\":\"number\",\"multipleOf\":0.05,\"exclusiveMinimum\":-1}", (const char *const[]){ "0.05", "-0.95", "7", "0.1", NULL, "-1", "0.01", "-1.05", NULL });
    check_schema("{\"type\":\"integer\",\"multipleOf\":7}", (const char *const[]){ "0", "7", "-14", "700", NULL, "8", "-1", NULL });
}

TEST(strings_have_their_length_pattern_and_format)
{
    check_schema("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", (const char *const[]){ "\"ab\"", "\"\xc3\xa4\xf0\x9f\x98\x80\"", "\"\\n\\u0041\\\"\"", "\"\\ud83d\\ude00x\"", NULL, "\"a\"", "\"abcd\"", "\"\\ud83d\\ude00\"", NULL });
    check_schema("{\"type\":\"string\",\"pattern\":\"^\\\"[^a]?$\",\"maxLength\":2}", (const char *const[]){ "\"\\\"\"", "\"\\\"b\"", "\"\\\"\\\\\"", "\"\\\"\\u0001\"", NULL, "\"b\"", "\"\\\"a\"", "\"\\\"bb\"", "\"\"\"", NULL });
    check_schema("{\"type\":\"string\",\"pattern\":\"b\"}", (const char *const[]){ "\"abc\"", "\"b\"", NULL, "\"ac\"", NULL });
    check_schema("{\"type\":\"string\",\"format\":\"date\"}", (const char *const[]){ "\"2024-02-29\"", "\"2000-02-29\"", "\"2023-12-31\"", NULL, "\"2023-02-29\"", "\"1900-02-29\"", "\"2023-13-01\"", "\"2023-04-31\"", NULL });
    check_schema("{\"not\":{\"enum\":[\"a\",1,null]},\"type\":[\"string\",\"integer\",\"null\"]}", (const char *const[]){ "\"b\"", "\"aa\"", "2", "0", NULL, "\"a\"", "1", "null", NULL });
}

TEST(lists_have_their_items)
{
    check_schema("{\"type\":\"array\",\"prefixItems\":[{\"type\":\"boolean\"}],\"items\":{\"type\":\"null\"},\"minItems\":1,\"maxItems\":3}", (const char *const[]){ "[true]", "[true, null,null]", NULL, "[]", "[null]", "[true,null,null,null]", "[true,]", NULL });
    check_schema("{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"b\"]},\"uniqueItems\":true,\"minItems\":1}", (const char *const[]){ "[\"a\"]", "[\"b\",\"a\"]", NULL, "[]", "[\"a\",\"a\"]", NULL });
    check_schema("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"contains\":{\"minimum\":5},\"maxContains\":2}", (const char *const[]){ "[5]", "[1,6,2,7]", NULL, "[]", "[1]", "[5,6,7]", NULL });
}

TEST(combinations_are_exact)
{
    check_schema("{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":2}],\"type\":\"number\"}", (const char *const[]){ "1", "2.5", NULL, "3", "1.5", NULL });
    check_schema("{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},\"required\":[\"next\"],\"additionalProperties\":false}},\"$ref\":\"#/$defs/n\"}",
                 (const char *const[]){ "{\"next\":null}", "{\"next\":{\"next\":{\"next\":null}}}", NULL, "{}", "{\"next\":{}}", NULL });
    check_schema("{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[\"a\",\"b\"]},\"v\":{\"type\":\"integer\"}},\"required\":[\"k\"],\"additionalProperties\":false,\"if\":{\"properties\":{\"k\":{\"const\":\"a\"}},\"required\":[\"k\"]},\"then\":{\"required\":[\"v\"]}}",
                 (const char *const[]){ "{\"k\":\"a\",\"v\":1}", "{\"k\":\"b\"}", NULL, "{\"k\":\"a\"}", NULL });
    check_schema("{\"allOf\":[{\"enum\":[1,2,3,\"x\"]},{\"minimum\":2},{\"type\":\"number\"}]}", (const char *const[]){ "2", "3", NULL, "1", "\"x\"", NULL });
}

TEST(what_cannot_be_enforced_is_refused_by_keyword_and_path)
{
    static const struct { const char *source, *words; } cases[] = {
        { "{\"properties\":{\"a\":{\"format\":\"phone\"}}}", "'format' at #/properties/a" }, { "{\"items\":[{\"uniqueItems\":true}],\"$schema\":\"http://json-schema.org/draft-07/schema#\"}", "'uniqueItems' at #/items/0" },
        { "{\"properties\":{\"a\":{\"$ref\":\"http://x/y\"}}}", "'$ref' at #/properties/a" }, { "{\"anyOf\":[{\"$ref\":\"#/nowhere\"}]}", "'$ref' at #/anyOf/0" }, { "{\"$dynamicRef\":\"#x\"}", "'$dynamicRef' at #" },
        { "{\"allOf\":[{\"a\":1}],\"unevaluatedProperties\":false}", "'unevaluatedProperties' at #" }, { "{\"pattern\":\"(?=a)\"}", "'pattern' at #" }, { "{\"pattern\":\"a\\\\1\"}", "back references" },
        { "{\"maxLength\":2001,\"type\":\"string\"}", "'maxLength' at #" }, { "{\"minItems\":2001}", "2000 at most" }, { "{\"not\":{\"items\":{}}}", "'items' at #/not" }, { "{\"type\":\"strin\"}", "'type' at #" },
        { "{\"minimum\":\"1\"}", "'minimum' at #" }, { "false", "no text can satisfy" }, { "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no text can satisfy" }, { "[]", "must be an object" },
        { "{\"minProperties\":3,\"type\":\"object\"}", "'minProperties' at #" }, { "{\"multipleOf\":0}", "'multipleOf' at #" },
        { "{\"not pattern\":5}", "is no keyword" }, { "{\"properties\":{\"a\":5}}", "'a' at #/properties/a must be an object, true or false" }, { "{\"not\":{\"anyOf\":[[\"a\"]]}}", "must be an object, true or false" }, { "{\"required\":{\"a\":1}}", "'required' at # must be a list" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct grammar *g;
        struct arena arena;
        struct json *schema;
        struct err err = { 0 };
        arena_init(&arena, 1 << 20);
        REQUIRE_OK(json_parse(&schema, &arena, cases[i].source, strlen(cases[i].source), NULL, &err), err);
        enum status st = grammar_open_schema(&g, schema, &err);
        CHECK_INT(st, ST_BAD_INPUT);
        if (!strstr(err.text, cases[i].words)) test_fail(__FILE__, __LINE__, "%s: \"%s\"", cases[i].source, err.text);
        if (!st) grammar_close(g);
        arena_free(&arena);
    }
}
