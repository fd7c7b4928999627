/* Tools of a chat request: whether calls may, must or must not be made, which grammar that takes, and the readers that part the answers. A choice that cannot be
 * enforced is refused. */
#include "api/openai.h"

#include <string.h>

#include "engine/text/grammar.h"
#include "engine/text/template.h"
#include "engine/text_ops.h"

static enum status fault(struct openai_ask *a, const char *parameter, struct err *err, const char *text)
{
    a->parameter = parameter;
    return err_set(err, ST_BAD_INPUT, "%s", text);
}

static const struct json *function_of(const struct json *tool)
{
    const struct json *f = json_get(tool, "function");
    return f && f->type == JSON_OBJECT ? f : NULL;
}

/* {"type": "function", "function": value} */
static struct json *as_tool(struct arena *arena, const struct json *value)
{
    static const struct json kind = { .type = JSON_STRING, .string = { "function", 8 } };
    struct json *tool = arena_calloc(arena, 1, sizeof *tool);
    if (!tool) return NULL;
    tool->type = JSON_OBJECT;
    return openai_add_member(tool, arena, "function", value) && openai_add_member(tool, arena, "type", &kind) ? tool : NULL;
}

/* A list of one: what an assistant called before. */
static bool modernise_message(struct arena *arena, struct json *m)
{
    static const struct json tool_role = { .type = JSON_STRING, .string = { "tool", 4 } };
    const struct json *call = json_get_value(m, "function_call");
    struct json *role = (struct json *)(uintptr_t)json_get(m, "role");      /* the tree is the request's own */
    if (role && json_is_string(role, "function")) role->string = tool_role.string;
    if (!call || json_get_value(m, "tool_calls")) return true;
    struct json list = { .type = JSON_ARRAY }, *tool = as_tool(arena, call);
    if (!tool) return false;
    list.list.first = tool;
    list.list.count = 1;
    return openai_add_member(m, arena, "tool_calls", &list) != NULL;
}

bool openai_tools_modernise(struct openai_ask *a, struct arena *arena, struct json *root)
{
    const struct json *functions = json_get_value(root, "functions"), *call = json_get_value(root, "function_call"), *messages = json_get_value(root, "messages");
    for (struct json *m = messages && messages->type == JSON_ARRAY ? messages->list.first : NULL; m; m = m->next)
        if (m->type == JSON_OBJECT && !modernise_message(arena, m)) return false;
    if (!functions || functions->type != JSON_ARRAY || json_get_value(root, "tools")) return true;
    struct json list = { .type = JSON_ARRAY }, **end = &list.list.first, *choice;
    for (const struct json *f = functions->list.first; f; f = f->next, end = &(*end)->next, list.list.count++)
        if (!(*end = as_tool(arena, f))) return false;
    a->old_calls = true;
    if (!openai_add_member(root, arena, "tools", &list)) return false;
    if (!call || json_get_value(root, "tool_choice")) return true;
    choice = call->type == JSON_OBJECT ? as_tool(arena, call) : NULL;
    if (call->type == JSON_OBJECT && !choice) return false;
    return openai_add_member(root, arena, "tool_choice", choice ? choice : call) != NULL;
}

static bool is_strict(const struct json *tools)
{
    for (const struct json *t = tools && tools->type == JSON_ARRAY ? tools->list.first : NULL; t; t = t->next) {
        const struct json *strict = t->type == JSON_OBJECT && function_of(t) ? json_get(function_of(t), "strict") : NULL;
        if (strict && strict->type == JSON_BOOL && strict->boolean) return true;
    }
    return false;
}

bool openai_has_forced_tools(const struct json *root)
{
    const struct json *choice = json_get_value(root, "tool_choice"), *tools = json_get_value(root, "tools");
    if (choice && json_is_string(choice, "none")) return false;
    return (choice && (json_is_string(choice, "required") || choice->type == JSON_OBJECT)) || is_strict(tools);
}

static enum status check_tools(struct openai_ask *a, const struct json *tools, struct err *err)
{
    if (tools->type != JSON_ARRAY) return fault(a, "tools", err, "'tools' must be a list");
    if (tools->list.count > OPENAI_TOOLS_MAX) return fault(a, "tools", err, "at most 128 tools are taken");
    for (const struct json *t = tools->list.first; t; t = t->next) {
        const struct json *f = t->type == JSON_OBJECT ? function_of(t) : NULL, *name = f ? json_get(f, "name") : NULL, *parameters = f ? json_get_value(f, "parameters") : NULL;
        if (!f || !name || name->type != JSON_STRING || !name->string.length) return fault(a, "tools", err, "a tool is {\"type\": \"function\", \"function\": {\"name\": ..., \"parameters\": ...}}");
        if (parameters && parameters->type != JSON_OBJECT) return fault(a, "tools", err, "a function's 'parameters' must be the JSON Schema of an object");
    }
    return ST_OK;
}

static bool has_tool(const struct json *tools, const char *name)
{
    for (const struct json *t = tools ? tools->list.first : NULL; t; t = t->next)
        if (json_is_string(json_get(function_of(t), "name"), name)) return true;
    return false;
}

/* What the request says of calls. *tools becomes NULL where none may be made. */
static enum status read_choice(struct openai_ask *a, const struct json *root, const struct json **tools, struct toolcall_wish *wish, bool *forced, struct err *err)
{
    const struct json *choice = json_get_value(root, "tool_choice"), *parallel = json_get_value(root, "parallel_tool_calls");
    *tools = json_get_value(root, "tools");
    *wish = (struct toolcall_wish){ 0 };
    *forced = false;
    enum status st = *tools ? check_tools(a, *tools, err) : ST_OK;
    if (st) return st;
    if (*tools && !(*tools)->list.count) *tools = NULL;
    if (parallel && parallel->type != JSON_BOOL) return fault(a, "parallel_tool_calls", err, "'parallel_tool_calls' must be true or false");
    wish->single = parallel && !parallel->boolean;
    if (choice && json_is_string(choice, "none")) *tools = NULL;
    if (choice && choice->type == JSON_OBJECT) {
        const struct json *f = function_of(choice), *name = f ? json_get(f, "name") : NULL;
        if (!name || name->type != JSON_STRING) return fault(a, "tool_choice", err, "'tool_choice' must be none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}");
        wish->name = name->string.text;
        wish->single = true;
        if (!has_tool(*tools, wish->name)) {
            a->parameter = "tool_choice";
            return err_set(err, ST_BAD_INPUT, "'tool_choice' names the function '%.64s', which is not among 'tools'", wish->name);
        }
        *forced = true;
    } else if (choice && json_is_string(choice, "required")) {
        if (!*tools) return fault(a, "tool_choice", err, "'tool_choice' required needs 'tools'");
        *forced = true;
    } else if (choice && !json_is_string(choice, "none") && !json_is_string(choice, "auto")) {
        return fault(a, "tool_choice", err, "'tool_choice' must be none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}");
    }
    return ST_OK;
}

/* Calls that must be made leave no text, so a format has nothing to say; where they only may be made, a format alone decides what can be written. */
static enum status open_grammar(struct openai_ask *a, const struct model_version *v, const struct json *tools, struct toolcall_wish *wish, bool forced, struct err *err)
{
    size_t length;
    const char *text = template_text(v->ops->text->chat_template(v->engine), &length);
    if (!forced && (!is_strict(tools) || a->grammar)) return ST_OK;
    wish->optional = !forced;
    grammar_close(a->grammar);
    a->grammar = NULL;
    enum status st = toolcall_grammar_open(&a->grammar, text, length, a->prompt_end, strlen(a->prompt_end), tools, wish, a->tokenizer, err);
    if (st) a->parameter = forced ? "tool_choice" : "tools";
    a->job.grammar = a->grammar;
    return st ? err_prefix(err, forced ? "'tool_choice'" : "'strict'") : ST_OK;
}

enum status openai_tools_read(struct openai_ask *a, struct request *r, const struct model_version *v, const struct json *root, struct err *err)
{
    const struct json *tools;
    struct toolcall_wish wish;
    struct toolcall_reader probe;
    bool forced;
    size_t length;
    const char *text = template_text(v->ops->text->chat_template(v->engine), &length);
    enum status st = read_choice(a, root, &tools, &wish, &forced, err);
    if (!st && tools) st = open_grammar(a, v, tools, &wish, forced, err);
    if (st) return st;
    a->one_call = wish.single || a->old_calls;
    if (!toolcall_reader_open(&probe, text, length, a->prompt_end, strlen(a->prompt_end), tools)) return ST_OK;
    a->readers = arena_calloc(&r->arena, (uint64_t)a->job.answer_count, sizeof *a->readers);
    if (!a->readers) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    for (int i = 0; i < a->job.answer_count; i++) toolcall_reader_open(&a->readers[i], text, length, a->prompt_end, strlen(a->prompt_end), tools);
    a->job.skip_special = false;      /* marks are often control tokens */
    return ST_OK;
}

int openai_calls_shown(const struct openai_ask *a, const struct toolcall_reader *r) { return !r ? 0 : a->one_call && r->call_count > 1 ? 1 : r->call_count; }

/* Tokens of an answer whose text ends within the thought or its marks. */
int64_t openai_reasoning_tokens(const struct openai_ask *a, int answer)
{
    const struct toolcall_reader *r = a->readers ? &a->readers[answer] : NULL;
    const struct text_answer *x = &a->job.answers[answer];
    struct detokenizer d;
    struct buf text;
    int64_t count = 0;
    if (!r || !r->thought || !r->thought_end || !a->tokenizer) return 0;
    buf_init(&text, 0);
    detokenizer_init(&d, a->tokenizer, false, true);
    for (int i = 0; i < x->id_count; i++) {
        if (text.length >= r->thought_end) break;
        detokenizer_feed(&d, x->ids[i], &text);
        count += text.length > r->thought_begin;
    }
    buf_free(&text);
    return count;
}

void openai_note_failure(struct openai_ask *a, const struct model_version *v)
{
    static const char *const names[] = { [OPENAI_CHAT] = "messages", [OPENAI_COMPLETION] = "prompt", [OPENAI_EMBEDDINGS] = "input", [OPENAI_RERANK] = "documents", [OPENAI_GENERATE] = "text_input" };
    int64_t context = v->ops->text->context(v->engine), wanted = a->has_job && a->job.task == TEXT_GENERATE && a->job.max_tokens > 0 ? a->job.max_tokens : 0;
    for (int p = 0; a->has_job && !a->parameter && p < a->job.prompt_count; p++)
        if (a->job.prompts[p].count + wanted > context) {
            a->parameter = names[a->kind];
            a->code = "context_length_exceeded";
        }
}
