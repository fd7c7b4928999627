/* Calls that must be made, as a grammar: what toolcall.c reads, written so that nothing else can be drawn. Each family of templates has a row (or several, told apart by
 * a second text of the template) with the bytes around names and arguments as the template itself writes them. Arguments are JSON by the tool's schema, or one
 * parameter after another; there text parameters stand without quotes and may hold anything but the marks that end them, and strings within JSON spell '<' as an escape.
 *
 * Marks that are control tokens of the vocabulary are written as those tokens and not as letters (grammar_internal.h). What a family's form cannot carry is refused. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/schema_internal.h"
#include "engine/text/tokenizer.h"
#include "engine/text/toolcall_internal.h"

enum { NAME_MAX_ENFORCED = 64, DIGITS = '\1', NEWLINE = '\2' /* in a row's texts: one to three digits; a newline or nothing */, PARAMETERS_MAX = 256 };

enum arguments { ARGUMENTS_JSON, ARGUMENTS_TAGS /* text as it is */, ARGUMENTS_TYPED_TAGS /* that, and told in the tag */, ARGUMENTS_PYTHON };

struct row {
    const char *needle, *also;             /* the form's needle; what else the template holds, or NULL */
    enum arguments arguments;
    bool single;                           /* the template takes one call in a turn */
    const char *open, *close, *between;    /* around all calls and between two */
    const char *head, *middle, *tail;      /* around a name, around its arguments */
    const char *key, *value, *end;         /* around a parameter's name and value */
};

#define JSON_CALL "{\"name\": \"", "\", \"arguments\": ", "}"
static const struct row rows[] = {
    { "<｜tool▁calls▁begin｜>", "```json", ARGUMENTS_JSON, false, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "\n", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>", NULL, NULL, NULL },
    { "<｜tool▁calls▁begin｜>", NULL, ARGUMENTS_JSON, false, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", NULL, NULL, NULL },
    { "<|tool_calls_section_begin|>", NULL, ARGUMENTS_JSON, false, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "", "<|tool_call_begin|>functions.", ":\1<|tool_call_argument_begin|>", "<|tool_call_end|>", NULL, NULL, NULL },
    { "｜DSML｜", NULL, ARGUMENTS_TYPED_TAGS, false, "<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>", "", "<｜DSML｜invoke name=\"", "\">\n", "</｜DSML｜invoke>\n", "<｜DSML｜parameter name=\"", "\" string=\"", "</｜DSML｜parameter>\n" },
    { "minimax:tool_call", NULL, ARGUMENTS_TAGS, false, "<minimax:tool_call>\n", "</minimax:tool_call>", "", "<invoke name=\"", "\">\n", "</invoke>\n", "<parameter name=\"", "\">", "</parameter>\n" },
    { "seed:tool_call", NULL, ARGUMENTS_TAGS, false, "", "", "\2", "<seed:tool_call>\n<function=", ">\n", "</function>\n</seed:tool_call>", "<parameter=", ">", "</parameter>\n" },
    { "<|START_ACTION|>", NULL, ARGUMENTS_JSON, false, "<|START_ACTION|>[\n    ", "\n]<|END_ACTION|>", ",\n    ", "{\"tool_call_id\": \"\1\", \"tool_name\": \"", "\", \"parameters\": ", "}", NULL, NULL, NULL },
    { "<|function_call|>", NULL, ARGUMENTS_JSON, true, "<|function_call|>", "", "", JSON_CALL, NULL, NULL, NULL },
    { "<|tool_call>", NULL, ARGUMENTS_JSON, false, "", "", "", "<|tool_call>call:", "", "<tool_call|>", NULL, NULL, NULL },
    { "<|tool_list_start|>", NULL, ARGUMENTS_PYTHON, false, "<|tool_call_start|>[", "]<|tool_call_end|>", ", ", "", "(", ")", "", "=", "" },
    { "List of tools: [", NULL, ARGUMENTS_PYTHON, false, "<|tool_call_start|>[", "]<|tool_call_end|>", ", ", "", "(", ")", "", "=", "" },
    { "<tool_calls>", NULL, ARGUMENTS_JSON, false, "<tool_calls>[", "]</tool_calls>", ", ", JSON_CALL, NULL, NULL, NULL },
    { "[TOOL_CALLS]", "[ARGS]", ARGUMENTS_JSON, false, "", "", "", "[TOOL_CALLS]", "[ARGS]", "", NULL, NULL, NULL },
    { "[TOOL_CALLS]", NULL, ARGUMENTS_JSON, false, "[TOOL_CALLS][", "]", ", ", JSON_CALL, NULL, NULL, NULL },
    { "<tool_call>", "<function=", ARGUMENTS_TAGS, false, "", "", "\2", "<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", "<parameter=", ">\n", "\n</parameter>\n" },
    { "<tool_call>", "<arg_key>", ARGUMENTS_TAGS, false, "", "", "", "<tool_call>", "", "</tool_call>", "<arg_key>", "</arg_key><arg_value>", "</arg_value>" },
    { "<tool_call>", NULL, ARGUMENTS_JSON, false, "", "", "\2", "<tool_call>\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>", NULL, NULL, NULL },
    { "<function=", NULL, ARGUMENTS_JSON, false, "", "", "", "<function=", ">", "</function>", NULL, NULL, NULL },
    { "Environment: ipython", NULL, ARGUMENTS_JSON, true, "", "", "", "{\"name\": \"", "\", \"parameters\": ", "}", NULL, NULL, NULL },
};

struct writer {
    struct schema *schema;
    struct net *n;
    const struct tokenizer *tokenizer;             /* NULL: marks are letters */
    const struct toolcall_form *form;
    const struct toolcall_thought *thought;
    const struct row *row;
    int32_t marks[GRAMMAR_MARKS_MAX];
    uint32_t mark_count;
    struct dfa *any;                               /* any text */
    struct err *err;
};

/* ---- texts and marks ---- */
static bool stands_in(const struct writer *w, const char *text, size_t length)
{
    const char *all[] = { w->row->open, w->row->close, w->row->between, w->row->head, w->row->middle, w->row->tail, w->row->key, w->row->value, w->row->end, toolcall_thought_open(w->thought), toolcall_thought_close(w->thought) };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] && memmem(all[i], strlen(all[i]), text, length)) return true;
    return false;
}

static void find_marks(struct writer *w)
{
    for (int32_t id = 0; w->tokenizer && id < tokenizer_count(w->tokenizer) && w->mark_count < GRAMMAR_MARKS_MAX; id++) {
        size_t length = 0;
        if (!tokenizer_is_control(w->tokenizer, id) || tokenizer_is_eog(w->tokenizer, id)) continue;
        const char *piece = tokenizer_piece(w->tokenizer, id, &length);
        if (length > 2 && stands_in(w, piece, length)) w->marks[w->mark_count++] = id;
    }
}

/* The longest mark at the front of a text; its length or 0. */
static size_t mark_at(const struct writer *w, const char *text, uint32_t *code)
{
    size_t best = 0;
    for (uint32_t i = 0; i < w->mark_count; i++) {
        size_t length;
        const char *piece = tokenizer_piece(w->tokenizer, w->marks[i], &length);
        if (length <= best || strncmp(text, piece, length)) continue;
        best = length;
        *code = i;
    }
    return best;
}

static uint32_t put_digits(struct net *n, uint32_t from)
{
    uint32_t to = net_node(n);
    for (int i = 0; i < 3; i++) {
        uint32_t next = net_node(n);
        net_bytes(n, from, '0', '9', next);
        net_nothing(n, next, to);
        from = next;
    }
    return to;
}

static uint32_t put(struct writer *w, uint32_t from, const char *text)
{
    struct net *n = w->n;
    while (*text) {
        uint32_t code = 0;
        size_t length = mark_at(w, text, &code);
        if (length) from = net_text(n, from, (const char[]){ (char)GRAMMAR_MARK_BYTE, (char)code }, 2);
        else if (*text == DIGITS) from = put_digits(n, from), length = 1;
        else if (*text == NEWLINE) {
            uint32_t to = net_node(n);
            net_nothing(n, from, to);
            net_bytes(n, from, '\n', '\n', to);
            from = to, length = 1;
        }
        else from = net_text(n, from, text, length = 1);
        text += length;
    }
    return from;
}

/* Takes the texts that hold `mark` out of *d. */
static enum status without(struct writer *w, struct dfa **d, const char *mark)
{
    char pattern[400];
    while (*mark == '\n') mark++;
    size_t at = 0, length = strlen(mark);
    struct dfa *holds;
    while (length && mark[length - 1] == '\n') length--;
    if (!length) return ST_OK;
    for (size_t i = 0; i < length && at + 3 < sizeof pattern; i++) {
        if (strchr("\\^$.|?*+()[]{}/-", mark[i])) pattern[at++] = '\\';
        pattern[at++] = mark[i];
    }
    enum status st = regex_compile(&holds, &w->n->maker, pattern, at, true, w->err);
    return st ? st : dfa_combine(d, &w->n->maker, *d, holds, DFA_WITHOUT, w->err);
}

/* ---- arguments ---- */
static enum status refuse(struct writer *w, const char *name, const char *why) { return err_set(w->err, ST_BAD_INPUT, "tool '%.64s' cannot be enforced in the form in which this model writes calls: %s", name, why); }

static const struct json *list_first(const struct json *j) { return j && (j->type == JSON_OBJECT || j->type == JSON_ARRAY) ? j->list.first : NULL; }

/* No members but the named ones, where the schema leaves that open and nothing else could name more. */
static bool add_closed(struct schema *s, struct schema_list *list, const struct json *schema)
{
    static const char *const more[] = { "additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref", "if", "not", "required", "dependencies", "dependentRequired", "dependentSchemas", "minProperties" };
    struct json *none = schema_make(s, schema);
    const struct json *properties = json_get(schema, "properties"), *required = json_get(schema, "required");
    for (const struct json *r = list_first(required); r; r = r->next)
        if (r->type != JSON_STRING || !json_get(properties, r->string.text)) return true;
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (strcmp(more[i], "required") && json_get(schema, more[i])) return true;
    if (none && properties) none = schema_make_member(s, none, "properties", properties);
    if (none) none = schema_make_member(s, none, "additionalProperties", schema_make_bool(s, false));
    return none && schema_list_add(list, none);
}

static enum status json_arguments(struct writer *w, const struct json *schema, uint32_t from, uint32_t to)
{
    struct schema *s = w->schema;
    struct schema_list list = { 0 };
    struct json *object = schema_make(s, schema);
    if (object) object = schema_make_member(s, object, "type", schema_make_text(s, "object"));
    if (!object || !schema_list_add(&list, schema) || !schema_list_add(&list, object) || !add_closed(s, &list, schema)) return schema_no_memory(s);
    net_call(w->n, from, schema_rule(s, &list), to);
    return ST_OK;
}

/* Only the words that mean nothing beside a list of members. */
static enum status check_parameters(struct writer *w, const char *name, const struct json *schema)
{
    static const char *const known[] = { "type", "properties", "required", "additionalProperties", "title", "description", "$schema", "$defs", "definitions", "default", "examples", "strict", "$comment" };
    if (schema->type != JSON_OBJECT) return refuse(w, name, "its parameters are no object's schema");
    for (const struct json *m = list_first(schema); m; m = m->next) {
        bool fine = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) fine = fine || !strcmp(m->key, known[i]);
        if (!fine) return refuse(w, name, "its parameters' schema is more than a list of members");
    }
    const struct json *type = json_get(schema, "type"), *properties = json_get(schema, "properties");
    if (type && !json_is_string(type, "object")) return refuse(w, name, "its parameters are no object");
    if (properties && (properties->type != JSON_OBJECT || properties->list.count > PARAMETERS_MAX)) return refuse(w, name, "'properties' must be an object of at most 256 members");
    for (const struct json *r = list_first(json_get(schema, "required")); r; r = r->next)
        if (r->type != JSON_STRING || !json_get(properties, r->string.text)) return refuse(w, name, "a required parameter has no schema");
    return ST_OK;
}

static bool plain_word(const char *text, size_t length, size_t most)
{
    bool fine = length && length <= most;
    for (size_t i = 0; i < length && fine; i++) fine = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z') || (text[i] >= '0' && text[i] <= '9') || (text[i] && strchr("_-.", text[i]));
    return fine;
}

/* A text parameter, without quotes. */
static enum status text_value(struct writer *w, const struct json *schema, uint32_t from, uint32_t to)
{
    struct schema_list list = { 0 };
    struct dfa *d;
    schema_list_add(&list, schema);
    enum status st = schema_string_list_dfa(w->schema, &list, &d);
    if (!st) st = without(w, &d, w->row->end);
    if (!st && w->form->close) st = without(w, &d, w->form->close);
    if (!st && w->form->section_close) st = without(w, &d, w->form->section_close);
    if (!st) net_dfa(w->n, from, d, to);
    return st;
}

static enum status parameter_value(struct writer *w, const char *name, const struct json *schema, uint32_t from, uint32_t to)
{
    static const char *const types[] = { "integer", "number", "boolean", "null", "array", "object" };
    const struct json *type = json_get(schema, "type");
    bool text = json_is_string(type, "string"), plain = w->row->arguments == ARGUMENTS_PYTHON;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) plain = plain || json_is_string(type, types[i]);
    if (!plain && !text) return refuse(w, name, "a parameter's 'type' must be one word");
    if (w->row->arguments == ARGUMENTS_TYPED_TAGS) from = put(w, from, text ? "true\">" : "false\">");
    if (text && w->row->arguments != ARGUMENTS_PYTHON) return text_value(w, schema, from, to);
    struct schema_list list = { 0 };
    schema_list_add(&list, schema);
    net_call(w->n, from, schema_rule(w->schema, &list), to);
    return ST_OK;
}

static bool is_required(const struct json *schema, const struct json *member)
{
    for (const struct json *r = list_first(json_get(schema, "required")); r; r = r->next)
        if (r->type == JSON_STRING && r->string.length == member->key_length && !memcmp(r->string.text, member->key, member->key_length)) return true;
    return false;
}

/* Parameters in the schema's order; those that are not required may be left out. at[1]: one has been written (Python's need commas). */
static enum status tag_arguments(struct writer *w, const char *name, const struct json *schema, uint32_t from, uint32_t to)
{
    struct net *n = w->n;
    uint32_t at[2] = { from, net_node(n) };
    bool commas = w->row->arguments == ARGUMENTS_PYTHON;
    enum status st = check_parameters(w, name, schema);
    for (const struct json *p = st ? NULL : list_first(json_get(schema, "properties")); p && !st; p = p->next) {
        uint32_t next[2] = { net_node(n), net_node(n) }, key = net_node(n), value = net_node(n);
        if (!plain_word(p->key, p->key_length, NAME_MAX_ENFORCED)) return refuse(w, name, "a parameter's name must be of 1 to 64 letters, digits, '_', '-' and '.'");
        for (int k = 0; k < 2; k++) {
            net_nothing(n, k && commas ? put(w, at[k], ", ") : at[k], key);
            if (!is_required(schema, p)) net_nothing(n, at[k], next[k]);
        }
        uint32_t inside = put(w, net_text(n, put(w, key, w->row->key), p->key, p->key_length), w->row->value);
        st = parameter_value(w, name, p, inside, value);
        net_nothing(n, put(w, value, w->row->end), next[1]);
        memcpy(at, next, sizeof at);
    }
    for (int k = 0; k < 2; k++) net_nothing(n, at[k], to);
    return st;
}

/* ---- calls ---- */
static const char *name_of(const struct json *tool)
{
    const struct json *f = json_get(tool, "function"), *name = json_get(f && f->type == JSON_OBJECT ? f : tool, "name");
    return name && name->type == JSON_STRING ? name->string.text : "";
}

static enum status write_tool(struct writer *w, const struct json *tool, uint32_t from, uint32_t to)
{
    struct net *n = w->n;
    struct schema *s = w->schema;
    const struct json *f = json_get(tool, "function"), *schema = json_get(f && f->type == JSON_OBJECT ? f : tool, "parameters");
    const char *name = name_of(tool);
    if (!plain_word(name, strlen(name), NAME_MAX_ENFORCED)) return refuse(w, name, "its name must be of 1 to 64 letters, digits, '_', '-' and '.'");
    if (!schema || schema->type == JSON_NULL) schema = schema_make(s, tool);
    if (!schema) return schema_no_memory(s);
    enum status st = schema_set_root(s, schema);
    uint32_t inside = put(w, net_text(n, put(w, from, w->row->head), name, strlen(name)), w->row->middle), after = net_node(n);
    if (!st) st = w->row->arguments == ARGUMENTS_JSON ? json_arguments(w, schema, inside, after) : tag_arguments(w, name, schema, inside, after);
    if (!st) st = schema_write(s);
    net_nothing(n, put(w, after, w->row->tail), to);
    return st ? err_prefix(w->err, "tool '%.64s'", name) : ST_OK;
}

/* One call, or as many as the reader takes. */
static enum status write_calls(struct writer *w, const struct json *tools, const struct toolcall_wish *wish, uint32_t from, uint32_t to)
{
    struct net *n = w->n;
    int32_t call = net_rule(n, NULL, 0);
    enum status st = ST_OK;
    bool any = false;
    for (const struct json *t = list_first(tools); t && !st; t = t->next) {
        if (wish->name && strcmp(wish->name, name_of(t))) continue;
        any = true;
        st = write_tool(w, t, n->rules[call].start, n->rules[call].end);
    }
    if (st) return st;
    if (!any) return err_set(w->err, ST_BAD_INPUT, "there is no tool '%.64s' to be called", wish->name ? wish->name : "");
    uint32_t at = put(w, from, w->row->open), done = net_node(n);
    int most = w->row->single || wish->single ? 1 : TOOLCALL_CALLS_MAX;
    for (int i = 0; i < most; i++) {
        uint32_t next = net_node(n);
        net_call(n, i ? put(w, at, w->row->between) : at, call, next);
        net_nothing(n, next, done);
        at = next;
    }
    net_nothing(n, put(w, done, w->row->close), to);
    return ST_OK;
}

/* What may stand before: the rest of a thought that the prompt has begun, or a thought of its own, or nothing. */
static enum status write_thought(struct writer *w, bool within, uint32_t from, uint32_t to)
{
    struct net *n = w->n;
    struct dfa *d = w->any;
    if (!within) net_nothing(n, from, to);
    if (!w->thought) return ST_OK;
    enum status st = without(w, &d, toolcall_thought_close(w->thought));
    if (st) return st;
    uint32_t end = net_node(n);
    net_dfa(n, within ? from : put(w, from, toolcall_thought_open(w->thought)), d, end);
    end = put(w, end, toolcall_thought_close(w->thought));
    for (int lines = 0; lines < 3; lines++) {
        net_nothing(n, end, to);
        end = net_text(n, end, "\n", 1);
    }
    return ST_OK;
}

/* Text in which the reader finds no call. */
static enum status write_content(struct writer *w, uint32_t from, uint32_t to)
{
    struct dfa *d = w->any;
    const char *marks[] = { w->form->section_open ? w->form->section_open : w->form->open, w->form->drop[0], w->form->drop[1] };
    enum status st = ST_OK;
    for (size_t i = 0; i < sizeof marks / sizeof *marks && !st; i++)
        if (marks[i]) st = without(w, &d, marks[i]);
    if (!st && !*w->form->open) {      /* an opening brace is the mark */
        static const char brace[] = "^\\s*\\{";
        struct dfa *begins;
        st = regex_compile(&begins, &w->n->maker, brace, sizeof brace - 1, true, w->err);
        if (!st) st = dfa_combine(&d, &w->n->maker, d, begins, DFA_WITHOUT, w->err);
    }
    if (!st) net_dfa(w->n, from, d, to);
    return st;
}

static enum status write_all(struct writer *w, const struct json *tools, const struct toolcall_wish *wish, bool within, int32_t root)
{
    struct net *n = w->n;
    uint32_t begin = net_node(n), end = n->rules[root].end, text = net_node(n);
    enum status st = schema_any_text(w->schema, 0, -1, &w->any);
    if (!st) st = write_thought(w, within, n->rules[root].start, begin);
    if (!st && wish->optional) {
        st = write_content(w, begin, text);
        net_nothing(n, text, end);
        if (*w->form->open) net_nothing(n, text, begin = net_node(n));      /* a call may follow a text */
        else net_nothing(n, begin, end);
    }
    return st ? st : write_calls(w, tools, wish, begin, end);
}

static const struct row *find_row(const struct toolcall_form *f, const char *template, size_t length)
{
    for (size_t i = 0; f && i < sizeof rows / sizeof *rows; i++)
        if (!strcmp(rows[i].needle, f->needle) && (!rows[i].also || memmem(template, length, rows[i].also, strlen(rows[i].also)))) return &rows[i];
    return NULL;
}

enum status toolcall_grammar_open(struct grammar **out, const char *template, size_t length, const char *prompt, size_t prompt_length, const struct json *tools, const struct toolcall_wish *wish, const struct tokenizer *t, struct err *err)
{
    struct toolcall_reader reader;
    struct schema *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "schema: out of memory");
    struct writer w = { .schema = s, .n = &s->net, .tokenizer = t, .err = err };
    toolcall_reader_open(&reader, template, length, prompt, prompt_length, tools);
    w.form = reader.form;
    w.thought = reader.thought;
    w.row = find_row(w.form, template, length);
    bool within = reader.state == TOOLCALL_IN_THOUGHT;
    toolcall_reader_close(&reader);
    net_open(&s->net);
    s->err = err;
    enum status st = w.row ? ST_OK : err_set(err, ST_BAD_INPUT, "this model's chat template has no form of tool calls that can be enforced");
    if (!st) {
        s->net.angle_escaped = w.row->arguments != ARGUMENTS_JSON || w.form->shape == SHAPE_BRACES;
        find_marks(&w);
        net_json_parts(&s->net, &s->parts);
        int32_t root = net_rule(&s->net, "root", 0);
        st = s->net.status ? err_set(err, s->net.status, "%s", s->net.err.text) : write_all(&w, tools, wish, within, root);
        if (!st) st = net_finish(&s->net, root, false, out, err);
    }
    if (!st) {
        memcpy((*out)->marks, w.marks, sizeof w.marks);
        (*out)->mark_count = w.mark_count;
    }
    net_close(&s->net);
    free(s);
    return st;
}
