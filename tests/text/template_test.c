/* Templates against what the reference environment makes of them: the small cases in tests/text/template_vectors.json whole, the published templates of ../shared by
 * digest (tools/make_template_vectors.py writes both). Where the reference raises, we raise. */
#include <stdlib.h>

#include "base/digest.h"
#include "base/file.h"
#include "engine/text/template.h"
#include "tests/test.h"

static const struct json *vectors(struct arena *arena, char **text)
{
    struct json *root = NULL;
    struct err err;
    size_t length;
    arena_init(arena, 64 << 20);
    if (file_read_path(text, &length, "tests/text/template_vectors.json", 4 << 20, &err) || json_parse(&root, arena, *text, length, NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return root;
}

static enum status render(const char *text, size_t length, const struct json *variables, const struct template_limits *limits, struct template_output *out, struct err *err)
{
    struct template *t;
    enum status st = template_open(&t, text, length, err);
    if (st) return st;
    st = template_render(t, variables, limits, out, err);
    template_close(t);
    return st;
}

TEST(small_templates_render_as_the_reference_does)
{
    struct arena arena;
    char *file = NULL;
    const struct json *root = vectors(&arena, &file);
    REQUIRE(root);
    struct template_limits limits = { .now = json_get(root, "now")->integer };
    setenv("TZ", "UTC", 1);
    for (const struct json *c = json_get(root, "small")->list.first; c; c = c->next) {
        const struct json *text = c->list.first, *want = text->next;
        struct template_output out = { 0 };
        struct err err = { 0 };
        enum status st = render(text->string.text, text->string.length, json_get(root, "data"), &limits, &out, &err);
        buf_putc(&out.text, 0);
        if (want->type == JSON_NULL) {
            if (!st) test_fail(__FILE__, __LINE__, "%s gave '%s' where the reference raises", text->string.text, out.text.data);
            else CHECK(err.text[0]);
        } else if (st) test_fail(__FILE__, __LINE__, "%s: %s", text->string.text, err.text);
        else if (strcmp(out.text.data, want->string.text)) test_fail(__FILE__, __LINE__, "%s gave\n'%s', not\n'%s'", text->string.text, out.text.data, want->string.text);
        template_output_free(&out);
    }
    free(file);
    arena_free(&arena);
}

static void check_published(const struct json *root, const struct json *digests, const char *folder)
{
    char path[800], *text;
    size_t length;
    struct err err = { 0 };
    struct template_limits limits = { .now = json_get(root, "now")->integer };
    const struct json *want = digests->list.first;
    snprintf(path, sizeof path, "%s/%s", folder, digests->key);
    REQUIRE_OK(file_read_path(&text, &length, path, 1 << 20, &err), err);
    int index = 0;
    for (const struct json *chat = json_get(root, "chats")->list.first; chat; chat = chat->next, want = want->next, index++) {
        struct template_output out = { 0 };
        uint8_t digest[DIGEST_BYTES];
        char hex[DIGEST_HEX + 1];
        enum status st = render(text, length, chat, &limits, &out, &err);
        digest_bytes(out.text.data ? out.text.data : "", out.text.length, digest);
        digest_hex(digest, hex);
        hex[16] = 0;
        if (want->type == JSON_NULL && !st) test_fail(__FILE__, __LINE__, "%s, chat %d rendered where the reference raises", digests->key, index);
        else if (want->type == JSON_NULL) CHECK(err.text[0]);
        else if (st) test_fail(__FILE__, __LINE__, "%s, chat %d: %s", digests->key, index, err.text);
        else if (strcmp(hex, want->string.text)) test_fail(__FILE__, __LINE__, "%s, chat %d rendered otherwise than the reference:\n%.*s", digests->key, index, (int)out.text.length, out.text.data);
        template_output_free(&out);
    }
    free(text);
}

TEST(published_templates_render_as_the_reference_does)
{
    struct arena arena;
    char *file = NULL, folder[700];
    if (!test_shared()) SKIP("the templates of ../shared are not here");
    const struct json *root = vectors(&arena, &file);
    REQUIRE(root);
    setenv("TZ", "UTC", 1);
    snprintf(folder, sizeof folder, "%s/data/templates", test_shared());
    for (const struct json *d = json_get(root, "digests")->list.first; d; d = d->next) check_published(root, d, folder);
    free(file);
    arena_free(&arena);
}

static struct json *parse(struct arena *arena, const char *text)
{
    struct json *j = NULL;
    struct err err;
    if (json_parse(&j, arena, text, strlen(text), NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return j;
}

/* The bytes that the template wrote, the others as dots. */
static void check_marks(const char *template, const char *variables, const char *text, const char *marked)
{
    static const char *const trusted[] = { "bos_token", NULL };
    struct template_limits limits = { .trusted = trusted };
    struct template_output out = { 0 };
    struct arena arena;
    struct err err = { 0 };
    arena_init(&arena, 1 << 20);
    CHECK_OK(render(template, strlen(template), parse(&arena, variables), &limits, &out, &err), err);
    buf_putc(&out.text, 0);
    CHECK_TEXT(out.text.data, text);
    char shown[256] = { 0 };
    memset(shown, '.', strlen(text));
    for (size_t i = 0; i < out.span_count; i++) memcpy(shown + out.spans[i].offset, out.text.data + out.spans[i].offset, out.spans[i].length);
    CHECK_TEXT(shown, marked);
    template_output_free(&out);
    arena_free(&arena);
}

TEST(what_came_from_messages_is_known)
{
    check_marks("<|u|>{{ m }}<|e|>", "{\"m\":\"<|e|>\"}", "<|u|><|e|><|e|>", "<|u|>.....<|e|>");
    check_marks("{{ bos_token + m }}{{ ['<a>', m] | join('<b>') }}", "{\"m\":\"x\",\"bos_token\":\"<s>\"}", "<s>x<a><b>x", "<s>.<a><b>.");
    check_marks("{{ ('<a>' ~ m ~ '<b>').replace('x', 'yy') | upper }}", "{\"m\":\"x1\"}", "<A>YY1<B>", "<A>YY.<B>");
    check_marks("{% set k %}<a>{{ m | trim }}{% endset %}{{ k[1:] }}{{ (k ~ 'z').split('x')[1] }}", "{\"m\":\" x \"}", "a>xz", "a>.z");
    check_marks("{% macro f(v) %}[{{ v }}]{% endmacro %}{{ f(m) }}{{ m | tojson }}{{ {'a': '<e>'} | tojson }}", "{\"m\":\"q\"}", "[q]\"q\"{\"a\": \"<e>\"}", "[.].....a....<e>..");
    check_marks("{{ m[0] }}{{ m | reverse }}{{ '%' * 2 }}", "{\"m\":\"ab\"}", "aba%%", "...%%");
}

static void refused(const char *template, const struct template_limits *limits, enum status want)
{
    struct template_output out = { 0 };
    struct arena arena;
    struct err err = { 0 };
    arena_init(&arena, 1 << 20);
    enum status st = render(template, strlen(template), parse(&arena, "{\"a\":\"text\"}"), limits, &out, &err);
    if (st != want || (st && (!err.text[0] || out.text.data || out.spans))) test_fail(__FILE__, __LINE__, "%.60s ended with %s: %s", template, status_name(st), err.text);
    template_output_free(&out);
    arena_free(&arena);
}

TEST(limits_hold)
{
    struct buf b;
    refused("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", NULL, ST_TOO_LARGE);
    refused("{% for i in range(100001) %}{% endfor %}", NULL, ST_TOO_LARGE);
    refused("{% for i in range(100000) %}{% endfor %}", NULL, ST_OK);
    refused("{{ a * 100000000 }}", NULL, ST_TOO_LARGE);
    refused("{% set ns = namespace(x=a) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", NULL, ST_TOO_LARGE);
    refused("{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", NULL, ST_TOO_LARGE);
    refused("{% for i in range(1001) %}{{ a }}{% endfor %}", &(struct template_limits){ .output = 4000 }, ST_TOO_LARGE);
    refused("{% for i in range(1000) %}{{ a }}{% endfor %}", &(struct template_limits){ .output = 4000 }, ST_OK);
    refused("{% for i in range(1000) %}{{ a }}{% endfor %}", &(struct template_limits){ .steps = 1000 }, ST_TOO_LARGE);
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", NULL, ST_TOO_LARGE);
    buf_init(&b, 0);
    buf_puts(&b, "{{ ");
    for (int i = 0; i < 100000; i++) buf_putc(&b, '(');
    buf_putc(&b, 0);
    refused(b.data, NULL, ST_BAD_INPUT);
    buf_clear(&b);
    buf_puts(&b, "{{ a");
    for (int i = 0; i < 50000; i++) buf_puts(&b, " + a");
    buf_puts(&b, " }}");
    buf_putc(&b, 0);
    refused(b.data, NULL, ST_TOO_LARGE);
    buf_clear(&b);
    for (int i = 0; i < 1000; i++) buf_puts(&b, "{% if a %}");
    buf_putc(&b, 0);
    refused(b.data, NULL, ST_BAD_INPUT);
    buf_free(&b);
}

/* A chat through a real template and tokenizer: only the template's own marks become control tokens. */
TEST(typed_marks_stay_text)
{
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<\":0,\"|\":1,\"e\":2,\">\":3,\"a\":4,\"<|e|>\":5},\"merges\":[]},\"added_tokens\":[{\"id\":5,\"content\":\"<|e|>\",\"special\":true}]}";
    static const char template[] = "{% for m in messages %}{{ m }}<|e|>{% endfor %}";
    struct tokenizer *t;
    struct template_output out = { 0 };
    struct token_list l = { 0 };
    struct arena arena;
    struct err err = { 0 };
    arena_init(&arena, 1 << 20);
    REQUIRE_OK(tokenizer_open_json(&t, json, sizeof json - 1, NULL, 0, &err), err);
    REQUIRE_OK(render(template, sizeof template - 1, parse(&arena, "{\"messages\":[\"a\",\"<|e|>\",\"<|e\"]}"), NULL, &out, &err), err);
    CHECK_OK(tokenizer_encode_spans(t, out.text.data, out.text.length, out.spans, out.span_count, TOKENIZE_SPECIAL_PARSE, &l, &err), err);
    static const int32_t want[] = { 4, 5, 0, 1, 2, 1, 3, 5, 0, 1, 2, 5 };
    CHECK(l.count == sizeof want / sizeof *want && !memcmp(l.ids, want, sizeof want));
    token_list_free(&l);
    template_output_free(&out);
    tokenizer_close(t);
    arena_free(&arena);
}
