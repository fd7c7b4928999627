/* Calls and reasoning, read back from what templates write. The published templates of ../shared render a conversation in which the assistant calls two tools; its turn is cut
 * out and read byte by byte and whole. The other tests need no file. */
#include <stdlib.h>

#include "base/file.h"
#include "engine/text/template.h"
#include "engine/text/grammar.h"
#include "engine/text/tokenizer.h"
#include "engine/text/toolcall.h"
#include "tests/test.h"

#define TOOL(name) "{\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{" \
    "\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},\"ok\":{\"type\":\"boolean\"},\"list\":{\"type\":\"array\",\"items\":{\"type\":\"number\"}},\"opt\":{\"type\":\"object\"}},\"required\":[\"city\"]}}}"
#define ARGUMENTS_1 "{\"city\": \"Z\\u00fc \\\"q\\\"\\n</x> 12\", \"days\": 2, \"list\": [1, 2.5], \"ok\": true}"
#define ARGUMENTS_2 "{\"city\": \"12\", \"opt\": {\"k\": false, \"l\": [\"it's\", -1]}}"
#define CALL(id, name, arguments) "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":" arguments "}}"

static const char tools_text[] = "[" TOOL("get_weather") "," TOOL("add.it") "]";
static const char user[] = "{\"role\":\"user\",\"content\":\"Weather?\"}";

static struct json *parse(struct arena *arena, const char *text)
{
    struct json *j = NULL;
    struct err err = { 0 };
    if (json_parse(&j, arena, text, strlen(text), NULL, &err)) test_fail(__FILE__, __LINE__, "%s: %s", err.text, text);
    return j;
}

/* As JSON: members in any order. */
static bool same(const struct json *a, const struct json *b)
{
    if (!a || !b) return false;
    double x, y;
    if (json_as_double(a, &x) && json_as_double(b, &y)) return x == y;
    if (a->type != b->type) return false;
    if (a->type == JSON_BOOL) return a->boolean == b->boolean;
    if (a->type == JSON_STRING) return a->string.length == b->string.length && !memcmp(a->string.text, b->string.text, a->string.length);
    if (a->type != JSON_ARRAY && a->type != JSON_OBJECT) return true;
    if (a->list.count != b->list.count) return false;
    const struct json *other = b->list.first;
    for (const struct json *m = a->list.first; m; m = m->next, other = other->next)
        if (!same(m, a->type == JSON_OBJECT ? json_get(b, m->key) : other)) return false;
    return true;
}

static void check_call(const struct toolcall_reader *r, int index, const char *name, const char *arguments, const char *where)
{
    struct arena arena;
    struct json *got = NULL;
    arena_init(&arena, 1 << 20);
    const struct toolcall *c = &r->calls[index];
    if (strcmp(c->name, name)) test_fail(__FILE__, __LINE__, "%s: call %d is of '%s', not '%s'", where, index, c->name, name);
    struct err err = { 0 };
    if (json_parse(&got, &arena, c->arguments.data, c->arguments.length, &(struct json_options){ .unique_keys = true }, &err) || !same(got, parse(&arena, arguments)))
        test_fail(__FILE__, __LINE__, "%s: the arguments of call %d are %.*s", where, index, (int)c->arguments.length, c->arguments.data);
    arena_free(&arena);
}

static void feed(struct toolcall_reader *r, const char *text, size_t length, size_t piece)
{
    for (size_t i = 0; i < length; i += piece) toolcall_reader_feed(r, text + i, length - i < piece ? length - i : piece);
    toolcall_reader_finish(r);
}

static bool holds(const struct buf *b, const char *what) { return b->length && memmem(b->data, b->length, what, strlen(what)); }

/* ---- published templates ---- */
struct family { const char *file; int calls; bool bare; /* rendered without tools */ };
static const struct family families[] = {
    { "Apriel-1.6-15b-Thinker-fixed.jinja", 2, false }, { "ByteDance-Seed-OSS.jinja", 2, false }, { "CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja", 2, false }, { "GLM-4.7-Flash.jinja", 2, false },
    { "GigaChat3.1-10B-A1.8B.jinja", 1, false }, { "MiniMax-M2.jinja", 2, false }, { "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja", 2, false }, { "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja", 2, false },
    { "Qwen-QwQ-32B.jinja", 2, false }, { "Qwen-Qwen3-0.6B.jinja", 2, false }, { "Qwen3.5-4B.jinja", 2, false }, { "StepFun3.5-Flash.jinja", 2, false }, { "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", 2, false },
    { "deepseek-ai-DeepSeek-V3.2.jinja", 2, false }, { "google-gemma-4-31B-it.jinja", 2, false }, { "ibm-granite-granite-4.0.jinja", 2, false }, { "llama-cpp-deepseek-r1.jinja", 2, true },
    { "meetkai-functionary-medium-v3.1.jinja", 2, false }, { "meta-llama-Llama-3.1-8B-Instruct.jinja", 1, false }, { "meta-llama-Llama-3.3-70B-Instruct.jinja", 1, false }, { "mistralai-Ministral-3-14B-Reasoning-2512.jinja", 2, false },
    { "moonshotai-Kimi-K2.jinja", 2, false }, { "stepfun-ai-Step-3.5-Flash.jinja", 2, false }, { "unsloth-mistral-Devstral-Small-2507.jinja", 2, false },
};

static enum status render(const struct template *t, const struct family *f, const char *messages, bool prompt, struct template_output *out, struct err *err)
{
    struct arena arena;
    struct buf text;
    arena_init(&arena, 8 << 20);
    buf_init(&text, 0);
    buf_printf(&text, "{\"messages\":[%s],\"tools\":%s,\"documents\":null,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":%s}", messages, f->bare ? "null" : tools_text, prompt ? "true" : "false");
    buf_putc(&text, 0);
    enum status st = template_render(t, parse(&arena, text.data), &(struct template_limits){ .now = 1 }, out, err);
    buf_free(&text);
    arena_free(&arena);
    return st;
}

/* Where the assistant's turn begins: as far as the prompt for it goes, but not into a mark. */
static size_t turn_begin(const struct buf *prompt, const struct buf *whole)
{
    size_t n = 0;
    while (n < prompt->length && n < whole->length && prompt->data[n] == whole->data[n]) n++;
    while (n && n < prompt->length && !strchr(">\n]", whole->data[n - 1])) n--;
    return n;
}

static void check_turn(const struct family *f, const char *template, size_t length, const struct buf *whole, size_t from, const char *before)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct json *tools = parse(&arena, tools_text);
    static const size_t pieces[] = { 1, 7, 1 << 20 };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct toolcall_reader r;
        struct buf text;
        buf_init(&text, 0);
        buf_puts(&text, before);
        buf_append(&text, whole->data + from, whole->length - from);
        CHECK(toolcall_reader_open(&r, template, length, whole->data, *before ? 0 : from, tools));
        feed(&r, text.data, text.length, pieces[i]);
        if (r.call_count != f->calls) test_fail(__FILE__, __LINE__, "%s: %d calls in pieces of %zu: %.*s", f->file, r.call_count, pieces[i], (int)text.length, text.data);
        else check_call(&r, 0, "get_weather", ARGUMENTS_1, f->file);
        if (r.call_count == 2) check_call(&r, 1, "add.it", ARGUMENTS_2, f->file);
        if (holds(&r.content, "get_weather") || holds(&r.content, "city") || holds(&r.content, "call") || r.reasoning.length) test_fail(__FILE__, __LINE__, "%s: content '%.*s'", f->file, (int)r.content.length, r.content.data);
        if (*before && (r.content.length < strlen(before) || memcmp(r.content.data, before, strlen(before)))) test_fail(__FILE__, __LINE__, "%s: lost the text before: '%.*s'", f->file, (int)r.content.length, r.content.data);
        toolcall_reader_close(&r);
        buf_free(&text);
    }
    arena_free(&arena);
}

static void check_family(const struct family *f)
{
    char path[800], messages[2000], *text;
    size_t length;
    struct err err = { 0 };
    struct template *t;
    struct template_output prompt = { 0 }, whole = { 0 };
    snprintf(path, sizeof path, "%s/data/templates/%s", test_shared(), f->file);
    REQUIRE_OK(file_read_path(&text, &length, path, 1 << 20, &err), err);
    REQUIRE_OK(template_open(&t, text, length, &err), err);
    snprintf(messages, sizeof messages, "%s,{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[%s%s]}", user, CALL("abc123456", "get_weather", ARGUMENTS_1), f->calls > 1 ? "," CALL("def123456", "add.it", ARGUMENTS_2) : "");
    enum status st = render(t, f, user, true, &prompt, &err);
    if (!st) st = render(t, f, messages, false, &whole, &err);
    if (st) {
        test_fail(__FILE__, __LINE__, "%s: %s", f->file, err.text);
    } else {
        size_t from = turn_begin(&prompt.text, &whole.text);
        check_turn(f, text, length, &whole.text, from, "");
        /* bare JSON is a call only where the answer begins, and a thought ends only once */
        if (strncmp(f->file, "meta-llama", 10) && !holds(&(struct buf){ .data = whole.text.data + from, .length = whole.text.length - from }, "</think>")) check_turn(f, text, length, &whole.text, from, "I look, 1 < 2.");
    }
    template_output_free(&prompt);
    template_output_free(&whole);
    template_close(t);
    free(text);
}

TEST(published_templates_give_their_calls_back)
{
    if (!test_shared()) SKIP("the templates of ../shared are not here");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) check_family(&families[i]);
}

/* ---- calls that must be made ---- */
static bool of_type(const struct json *arguments, const char *key, unsigned types)
{
    const struct json *v = json_get(arguments, key);
    return !v || (types >> v->type & 1);
}

/* What the schema of tools_text asks for. */
static bool fits_tool(const struct toolcall *c)
{
    struct arena arena;
    struct json *a = NULL;
    arena_init(&arena, 8 << 20);
    bool fine = !strcmp(c->name, "get_weather") || !strcmp(c->name, "add.it");
    fine = fine && !json_parse(&a, &arena, c->arguments.data, c->arguments.length, &(struct json_options){ .unique_keys = true }, NULL) && a->type == JSON_OBJECT && json_get(a, "city");
    fine = fine && of_type(a, "city", 1u << JSON_STRING) && of_type(a, "days", 1u << JSON_INT | 1u << JSON_UINT | 1u << JSON_REAL) && of_type(a, "ok", 1u << JSON_BOOL) && of_type(a, "list", 1u << JSON_ARRAY) && of_type(a, "opt", 1u << JSON_OBJECT);
    arena_free(&arena);
    return fine;
}

static struct grammar *open_calls(const char *template, size_t length, const char *prompt, size_t prompt_length, struct toolcall_wish wish)
{
    struct arena arena;
    struct grammar *g = NULL;
    struct err err = { 0 };
    arena_init(&arena, 1 << 20);
    if (toolcall_grammar_open(&g, template, length, prompt, prompt_length, parse(&arena, tools_text), &wish, NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    arena_free(&arena);
    return g;
}

/* Bytes, and the marks that end what a random text would never end. */
static const char *const marks[] = { "</think>", "</parameter>", "\n</parameter>\n", "</seed:think>", "<|END_THINKING|>", "<channel|>", "[/THINK]", "[BEGIN FINAL RESPONSE]", "</arg_value>", "</｜DSML｜parameter>\n", "<tool_call>", "\"}", "]", "}", "\": ", "12",
    "<seed:tool_call>", "<|tool_calls_section_begin|>", "<｜tool▁calls▁begin｜>", "<｜DSML｜function_calls>", "<minimax:tool_call>", "<|START_ACTION|>", "<|function_call|>", "<|tool_call>", "<tool_calls>", "[TOOL_CALLS]", "<function=", "{\"name\": \"" };
enum { MARKS = sizeof marks / sizeof *marks };

static struct token_trie *open_trie(void)
{
    static char bytes[256];
    static struct grammar_text pieces[256 + MARKS];
    struct token_trie *t = NULL;
    struct err err = { 0 };
    for (int i = 0; i < 256; i++) bytes[i] = (char)i, pieces[i] = (struct grammar_text){ bytes + i, 1 };
    for (int i = 0; i < MARKS; i++) pieces[256 + i] = (struct grammar_text){ marks[i], strlen(marks[i]) };
    if (token_trie_open_pieces(&t, pieces, 256 + MARKS, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return t;
}

static uint32_t next_random(uint32_t *seed) { return (*seed = *seed * 1664525u + 1013904223u) >> 8; }

/* A random text of the grammar, marks and ends preferred; false: it has no end within its budget. */
static bool draw(const struct grammar *g, const struct token_trie *t, uint32_t seed, struct buf *out)
{
    struct grammar_state *s;
    struct err err = { 0 };
    uint32_t mask[(256 + MARKS + 31) / 32];
    bool ended = false;
    if (grammar_state_open(&s, g, t, &err)) return false;
    for (int step = 0; step < 2000 && !ended; step++) {
        int32_t allowed[256 + MARKS];
        int n = 0, from = 0;
        bool may_end;
        if (grammar_state_mask(s, mask, &may_end, &err)) break;
        for (int i = 0; i < 256 + MARKS; i++)
            if (mask[i / 32] >> i % 32 & 1) allowed[n++] = i;
        if (may_end && (!n || !(next_random(&seed) & 3))) ended = true;
        if (ended || !n) break;
        for (int i = 0; i < n && next_random(&seed) & 1 && !from; i++)
            if (allowed[n - 1 - i] >= 256) from = n - 1 - i;
        int32_t token = from ? allowed[from] : allowed[next_random(&seed) % (uint32_t)n];
        if (grammar_state_accept(s, token, &err)) test_fail(__FILE__, __LINE__, "token %d was allowed, then not: %s", token, err.text);
        if (token < 256) buf_putc(out, (char)token);
        else buf_puts(out, marks[token - 256]);
    }
    grammar_state_close(s);
    return ended;
}

/* Whatever the grammar draws is read as calls that fit, and nothing else. */
static void check_draws(const char *file, const char *template, size_t length, const struct buf *prompt, struct toolcall_wish wish, const struct token_trie *trie)
{
    struct grammar *g = open_calls(template, length, prompt->data, prompt->length, wish);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct json *tools = parse(&arena, tools_text);
    int ended = 0, calls = 0;
    for (uint32_t seed = 1; g && seed <= 40; seed++) {
        struct toolcall_reader r;
        struct buf text;
        buf_init(&text, 0);
        if (!draw(g, trie, seed * 7919, &text)) {
            buf_free(&text);
            continue;
        }
        ended++;
        toolcall_reader_open(&r, template, length, prompt->data, prompt->length, tools);
        feed(&r, text.data, text.length, 5);
        bool fine = wish.optional || (r.call_count >= 1 && !r.content.length);
        if (wish.single) fine = fine && r.call_count <= 1;
        for (int i = 0; i < r.call_count && fine; i++) fine = fits_tool(&r.calls[i]) && (!wish.name || !strcmp(r.calls[i].name, wish.name));
        if (!fine) test_fail(__FILE__, __LINE__, "%s, seed %u: %d calls, content '%.*s' of: %.*s", file, seed, r.call_count, (int)r.content.length, r.content.data, (int)text.length, text.data);
        calls += r.call_count;
        toolcall_reader_close(&r);
        buf_free(&text);
    }
    if (ended < 10 || (!calls && !wish.optional)) test_fail(__FILE__, __LINE__, "%s: only %d texts came to an end, with %d calls", file, ended, calls);
    arena_free(&arena);
    grammar_close(g);
}

/* The grammar takes what the template itself writes, up to the end of the last call. */
static void check_own(const char *file, const char *template, size_t length, const struct buf *prompt, const char *turn, size_t turn_length, const struct token_trie *trie)
{
    struct grammar *g = open_calls(template, length, prompt->data, prompt->length, (struct toolcall_wish){ 0 });
    struct grammar_state *s;
    struct err err = { 0 };
    static const char *const begins[] = { "", "</think>", "[BEGIN FINAL RESPONSE]" };      /* the template leaves out what ends a thought */
    size_t taken = 0, ended = 0, skip = 0;
    if (!g) return;
    if (turn_length > 8 && !memcmp(turn, "</think>", 8)) skip = 8;      /* of a thought that the prompt has closed */
    while (skip < turn_length && strchr(" \n", turn[skip])) skip++;
    for (size_t k = 0; k < 6 && !ended; k++) {      /* with or without the space that the template puts first */
        REQUIRE_OK(grammar_state_open(&s, g, trie, &err), err);
        bool fine = !grammar_state_accept_bytes(s, begins[k / 2], strlen(begins[k / 2]), &err);
        for (taken = k % 2 ? skip : 0; fine && taken < turn_length && !grammar_state_accept_bytes(s, turn + taken, 1, &err); taken++)
            if (grammar_state_may_end(s)) ended = taken;
        if (grammar_state_may_end(s)) ended = taken;
        grammar_state_close(s);
    }
    if (!ended || memmem(turn + ended, turn_length - ended, "Rome", 4)) test_fail(__FILE__, __LINE__, "%s: the grammar stops at byte %zu of '%.*s'", file, taken, (int)turn_length, turn);
    grammar_close(g);
}

TEST(calls_that_must_be_made_are_made)
{
    struct token_trie *trie = open_trie();
    if (!test_shared()) SKIP("the templates of ../shared are not here");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *f = &families[i];
        char path[800], messages[2000], *text;
        size_t length;
        struct err err = { 0 };
        struct template *t;
        struct template_output prompt = { 0 }, whole = { 0 };
        snprintf(path, sizeof path, "%s/data/templates/%s", test_shared(), f->file);
        REQUIRE_OK(file_read_path(&text, &length, path, 1 << 20, &err), err);
        REQUIRE_OK(template_open(&t, text, length, &err), err);
        snprintf(messages, sizeof messages, "%s,{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[%s%s]}", user, CALL("abc123456", "get_weather", "{\"city\": \"Oslo\", \"days\": 2}"), f->calls > 1 ? "," CALL("def123456", "add.it", "{\"city\": \"Rome\"}") : "");
        REQUIRE_OK(render(t, f, user, true, &prompt, &err), err);
        REQUIRE_OK(render(t, f, messages, false, &whole, &err), err);
        check_draws(f->file, text, length, &prompt.text, (struct toolcall_wish){ 0 }, trie);
        check_draws(f->file, text, length, &prompt.text, (struct toolcall_wish){ .name = "add.it", .single = true }, trie);
        check_draws(f->file, text, length, &prompt.text, (struct toolcall_wish){ .optional = true, .single = true }, trie);
        size_t from = turn_begin(&prompt.text, &whole.text);
        if (strncmp(f->file, "google-gemma-4", 14)) check_own(f->file, text, length, &prompt.text, whole.text.data + from, whole.text.length - from, trie);      /* whose keys have no quotes */
        template_output_free(&prompt);
        template_output_free(&whole);
        template_close(t);
        free(text);
    }
    token_trie_close(trie);
}

/* ---- by hand ---- */
/* "content|reasoning|name{arguments}..." of an answer, whatever the pieces. */
static void check_reading(const char *template, const char *prompt, const char *answer, const char *want)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct json *tools = parse(&arena, tools_text);
    for (size_t piece = 1; piece <= strlen(answer); piece++) {
        struct toolcall_reader r;
        struct buf got;
        buf_init(&got, 0);
        CHECK(toolcall_reader_open(&r, template, strlen(template), prompt, strlen(prompt), tools));
        feed(&r, answer, strlen(answer), piece);
        buf_append(&got, r.content.data, r.content.length);
        buf_putc(&got, '|');
        buf_append(&got, r.reasoning.data, r.reasoning.length);
        buf_putc(&got, '|');
        for (int i = 0; i < r.call_count; i++) {
            buf_puts(&got, r.calls[i].name);
            buf_append(&got, r.calls[i].arguments.data, r.calls[i].arguments.length);
        }
        buf_putc(&got, 0);
        CHECK_TEXT(got.data, want);
        buf_free(&got);
        toolcall_reader_close(&r);
    }
    arena_free(&arena);
}

TEST(text_around_calls_is_content)
{
    static const char t[] = "..<tool_call>..</think>";
    check_reading(t, "", "Just text.\n", "Just text.\n||");
    check_reading(t, "", "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", "I look.||f{\"a\":1}");
    check_reading(t, "", "\n\n<tool_call>{\"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": \"{\\\"b\\\": []}\"}</tool_call>\nDone.", "Done.||f{}g{\"b\":[]}");
    check_reading(t, "", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call>\"}}</tool_call>", "||f{\"a\":\"</tool_call>\"}");
    check_reading(t, "", "<tool_call>{\"name\": \"f\", \"arguments\": {}}", "||f{}");
    check_reading(t, "", "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_", "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_||");
    check_reading("<|tool_list_start|>", "", "<|tool_call_start|>[f(a=1, b='x \"y\"', c=[True, None], d={'k': 2.5}), g()]<|tool_call_end|>ok", "ok||f{\"a\": 1, \"b\": \"x \\\"y\\\"\", \"c\": [true, null], \"d\": {\"k\": 2.5}}g{}");
    check_reading("[TOOL_CALLS]", "", "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}}] x", "x||f{\"a\":\"]\"}");
    check_reading("[TOOL_CALLS]", "", "[TOOL_CALLS]f[CALL_ID]a1[ARGS]{}[TOOL_CALLS]g[ARGS]{\"b\": 2}", "||f{}g{\"b\":2}");
    check_reading("Environment: ipython", "", "<|python_tag|>{\"name\": \"add.it\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {\"days\": 1}}", "||add.it{}get_weather{\"days\":1}");
}

TEST(what_looks_like_a_call_is_content)
{
    static const char t[] = "..<tool_call>..";
    check_reading(t, "", "<tool_ca> and <tool_call", "<tool_ca> and <tool_call||");
    check_reading(t, "", "a <tool_call>{\"name\": 5}</tool_call> b", "a <tool_call>{\"name\": 5}</tool_call> b||");
    check_reading(t, "", "<tool_call>{broken}</tool_call>", "<tool_call>{broken}</tool_call>||");
    check_reading(t, "", "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>", "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>||");
    check_reading(t, "", "<tool_call>x<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>x||f{}");
    check_reading(t, "", "<tool_call><function=f><parameter=a>1</parameter> or </function></tool_call>", "<tool_call><function=f><parameter=a>1</parameter> or </function></tool_call>||");
    check_reading("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁begin｜>no", "<｜tool▁calls▁begin｜>no||");
    check_reading("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜> no", "no||f{\"a\":1}");
    check_reading("Environment: ipython", "", "{\"name\": \"Ada\", \"parameters\": {}} {\"a\": 1}", "{\"name\": \"Ada\", \"parameters\": {}} {\"a\": 1}||");
    check_reading("Environment: ipython", "", "Like {\"name\": \"add.it\", \"parameters\": {}}", "Like {\"name\": \"add.it\", \"parameters\": {}}||");
}

TEST(reasoning_is_told_apart)
{
    static const char t[] = "..<tool_call>..</think>";
    check_reading(t, "", "<think>\nhm < 3 </thin k\n</think>\n\nYes.", "Yes.|hm < 3 </thin k|");
    check_reading(t, "<think>\n", "hm\n</think>\n\n<tool_call>{\"name\": \"f\"}</tool_call>", "|hm|f{}");
    check_reading(t, "", "Say <think>x</think>", "Say <think>x</think>||");
    check_reading(t, "", "<think>cut off", "|cut off|");
    check_reading("[TOOL_CALLS][THINK]", "", "[THINK]a[/THINK]b[TOOL_CALLS]f[ARGS]{}", "b|a|f{}");
    check_reading("<|START_ACTION|><|START_THINKING|>", "", "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", "b|a|");
    check_reading("</think>", "", "<think>a</think><tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>{\"name\": \"f\"}</tool_call>|a|");
}

TEST(templates_without_marks_need_no_reader)
{
    struct toolcall_reader r;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    CHECK(!toolcall_reader_open(&r, "{{ messages }}", 14, "", 0, parse(&arena, tools_text)));
    CHECK(!toolcall_reader_open(&r, "<tool_call>", 11, "", 0, NULL));
    arena_free(&arena);
}

/* n calls one after another, then the last of them with a name or a depth of that many. */
static int read_calls(int n, size_t name, int depth, size_t padding)
{
    struct toolcall_reader r;
    struct arena arena;
    struct buf b;
    arena_init(&arena, 1 << 20);
    buf_init(&b, 0);
    for (int i = 0; i < n; i++) {
        buf_puts(&b, "<tool_call>{\"name\": \"");
        for (size_t k = 0; k < name; k++) buf_putc(&b, 'f');
        buf_puts(&b, "\", \"arguments\": {\"a\": ");
        for (int k = 0; k < depth; k++) buf_putc(&b, '[');
        for (int k = 0; k < depth; k++) buf_putc(&b, ']');
        buf_puts(&b, depth ? "" : "0");
        for (size_t k = 0; k < padding; k++) buf_putc(&b, ' ');
        buf_puts(&b, "}}</tool_call>");
    }
    CHECK(toolcall_reader_open(&r, "<tool_call>", 11, "", 0, parse(&arena, tools_text)));
    feed(&r, b.data, b.length, 1 << 12);
    int calls = r.call_count;
    CHECK(calls == n || r.content.length);
    toolcall_reader_close(&r);
    buf_free(&b);
    arena_free(&arena);
    return calls;
}

TEST(limits_hold)
{
    CHECK_INT(read_calls(TOOLCALL_CALLS_MAX, 1, 0, 0), TOOLCALL_CALLS_MAX);
    CHECK_INT(read_calls(TOOLCALL_CALLS_MAX + 1, 1, 0, 0), TOOLCALL_CALLS_MAX);
    CHECK_INT(read_calls(1, TOOLCALL_NAME_MAX, 0, 0), 1);
    CHECK_INT(read_calls(1, TOOLCALL_NAME_MAX + 1, 0, 0), 0);
    CHECK_INT(read_calls(1, 1, TOOLCALL_DEPTH_MAX, 0), 1);
    CHECK_INT(read_calls(1, 1, TOOLCALL_DEPTH_MAX + 8, 0), 0);
    CHECK_INT(read_calls(1, 1, 0, TOOLCALL_BYTES_MAX - 100), 1);
    CHECK_INT(read_calls(1, 1, 0, TOOLCALL_BYTES_MAX), 0);
}

TEST(many_broken_calls_end_the_looking)
{
    struct toolcall_reader r;
    struct arena arena;
    struct buf b;
    arena_init(&arena, 1 << 20);
    buf_init(&b, 0);
    for (int i = 0; i < 90000; i++) buf_puts(&b, "<tool_call>x");
    CHECK(toolcall_reader_open(&r, "<tool_call>", 11, "", 0, parse(&arena, tools_text)));
    feed(&r, b.data, b.length, 1 << 14);
    CHECK_INT(r.call_count, 0);
    CHECK(r.content.length == b.length && !memcmp(r.content.data, b.data, b.length));
    toolcall_reader_close(&r);
    buf_free(&b);
    arena_free(&arena);
}
