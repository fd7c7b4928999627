/* What a text must look like: response_format (OpenAI), structured_outputs and guided_* (vLLM), grammar and json_schema (llama.cpp). What cannot be enforced is
 * refused; nothing is enforced by halves. */
#include "api/openai.h"

#include <string.h>

#include "engine/text/grammar.h"

static enum status fault(struct openai_ask *a, const char *parameter, struct err *err, const char *text)
{
    a->parameter = parameter;
    return err_set(err, ST_BAD_INPUT, "%s", text);
}

/* A schema, or the text of one. */
static enum status open_schema(struct openai_ask *a, struct arena *arena, const char *name, const struct json *schema, struct err *err)
{
    struct json *parsed = NULL;
    a->parameter = name;
    if (schema->type == JSON_STRING) {
        enum status st = json_parse(&parsed, arena, schema->string.text, schema->string.length, NULL, err);
        if (st) return err_prefix(err, "'%s'", name);
        schema = parsed;
    }
    return grammar_open_schema(&a->grammar, schema, err);
}

static enum status open_choice(struct openai_ask *a, struct arena *arena, const char *name, const struct json *list, struct err *err)
{
    if (list->type != JSON_ARRAY || !list->list.count) return fault(a, name, err, "a choice must be a list of strings");
    struct grammar_text *texts = arena_calloc(arena, list->list.count, sizeof *texts);
    size_t n = 0;
    if (!texts) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    for (const struct json *x = list->list.first; x; x = x->next) {
        if (x->type != JSON_STRING) return fault(a, name, err, "a choice must be a list of strings");
        texts[n++] = (struct grammar_text){ x->string.text, x->string.length };
    }
    a->parameter = name;
    return grammar_open_choice(&a->grammar, texts, n, err);
}

static enum status open_text(struct openai_ask *a, const char *name, const struct json *j, enum status (*open)(struct grammar **, const char *, size_t, struct err *), struct err *err)
{
    if (j->type != JSON_STRING) return fault(a, name, err, "a grammar or regular expression must be a string");
    a->parameter = name;
    return open(&a->grammar, j->string.text, j->string.length, err);
}

static enum status open_response_format(struct openai_ask *a, struct arena *arena, const struct json *format, struct err *err)
{
    const struct json *type = json_get_value(format, "type"), *schema = json_get_value(format, "json_schema");
    if (type && json_is_string(type, "text")) return ST_OK;
    if (type && json_is_string(type, "json_object")) {
        a->parameter = "response_format";
        return json_get_value(format, "schema") ? open_schema(a, arena, "response_format", json_get_value(format, "schema"), err) : grammar_open_json_object(&a->grammar, err);
    }
    if (!type || !json_is_string(type, "json_schema")) return fault(a, "response_format", err, "'response_format' has the type text, json_object or json_schema");
    schema = schema ? json_get_value(schema, "schema") ? json_get_value(schema, "schema") : NULL : json_get_value(format, "schema");
    if (!schema) return fault(a, "response_format", err, "'response_format' of the type json_schema needs json_schema.schema");
    return open_schema(a, arena, "response_format", schema, err);
}

struct source { const char *name; enum { SOURCE_SCHEMA, SOURCE_REGEX, SOURCE_CHOICE, SOURCE_GBNF } kind; };

static enum status open_source(struct openai_ask *a, struct arena *arena, const struct source *s, const struct json *j, struct err *err)
{
    switch (s->kind) {
    case SOURCE_SCHEMA: return open_schema(a, arena, s->name, j, err);
    case SOURCE_REGEX: return open_text(a, s->name, j, grammar_open_regex, err);
    case SOURCE_CHOICE: return open_choice(a, arena, s->name, j, err);
    default: return open_text(a, s->name, j, grammar_open_gbnf, err);
    }
}

bool openai_has_format(const struct json *root)
{
    static const char *const names[] = { "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (json_get_value(root, names[i])) return true;
    return false;
}

enum status openai_format_read(struct openai_ask *a, struct arena *arena, const struct json *root, struct err *err)
{
    static const struct source beside[] = { { "guided_json", SOURCE_SCHEMA }, { "guided_regex", SOURCE_REGEX }, { "guided_choice", SOURCE_CHOICE }, { "guided_grammar", SOURCE_GBNF }, { "grammar", SOURCE_GBNF }, { "json_schema", SOURCE_SCHEMA } };
    static const struct source within[] = { { "json", SOURCE_SCHEMA }, { "regex", SOURCE_REGEX }, { "choice", SOURCE_CHOICE }, { "grammar", SOURCE_GBNF } };
    const struct json *format = json_get_value(root, "response_format"), *outputs = json_get_value(root, "structured_outputs");
    enum status st = ST_OK;
    if (format && format->type != JSON_OBJECT) return fault(a, "response_format", err, "'response_format' must be an object");
    if (outputs && outputs->type != JSON_OBJECT) return fault(a, "structured_outputs", err, "'structured_outputs' must be an object");
    if (format) st = open_response_format(a, arena, format, err);
    for (size_t i = 0; i < sizeof within / sizeof within[0] && !st; i++) {
        const struct json *j = json_get_value(outputs, within[i].name);
        if (j && a->grammar) return fault(a, "structured_outputs", err, "only one thing can say what a text must look like");
        if (j) st = open_source(a, arena, &within[i], j, err);
    }
    for (size_t i = 0; i < sizeof beside / sizeof beside[0] && !st; i++) {
        const struct json *j = json_get_value(root, beside[i].name);
        if (j && a->grammar) return fault(a, beside[i].name, err, "only one thing can say what a text must look like");
        if (j) st = open_source(a, arena, &beside[i], j, err);
    }
    if (!st) a->parameter = NULL;
    a->job.grammar = a->grammar;
    return st;
}
