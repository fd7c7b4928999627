/* Calls and reasoning, read back from what templates write. The published templates of ../shared render a conversation in which the assistant calls two tools; its turn is cut
 * out and read byte by byte and whole. The other tests need no file. */
#include <stdlib.h>

#include "base/file.h"
#include "engine/text/template.h"
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
