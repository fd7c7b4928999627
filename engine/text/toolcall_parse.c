/* What the body of a call says: a name and arguments, which become the text of a JSON object whatever they were written in. Arguments without quotes (XML-like
 * parameters) take the type that the tool's schema gives them: text where it says string, else the value if it reads as one, else text. */
#include "engine/text/toolcall_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { PARSE_MEMORY = 32 << 20 };

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static struct span trimmed(struct span s)
{
    while (s.p < s.end && is_space(*s.p)) s.p++;
    while (s.end > s.p && is_space(s.end[-1])) s.end--;
    return s;
}

static const char *find(struct span s, const char *what) { return memmem(s.p, (size_t)(s.end - s.p), what, strlen(what)); }

static bool starts(struct span s, const char *what)
{
    size_t n = strlen(what);
    return (size_t)(s.end - s.p) >= n && !memcmp(s.p, what, n);
}

/* ---- what was found ---- */
/* Adds a call; takes `arguments` over, also on failure. */
static bool add_call(struct toolcall_reader *r, struct span name, struct buf *arguments)
{
    size_t n = (size_t)(name.end - name.p);
    bool fits = !arguments->failed && n && n <= TOOLCALL_NAME_MAX && !memchr(name.p, 0, n) && !memchr(name.p, '\n', n) && r->call_count < TOOLCALL_CALLS_MAX;
    struct toolcall *more = fits ? mem_realloc_array(r->calls, (size_t)r->call_count + 1, sizeof *more) : NULL;
    if (more) r->calls = more;
    char *copy = more ? strndup(name.p, n) : NULL;
    if (!copy) {
        buf_free(arguments);
        return false;
    }
    r->calls[r->call_count++] = (struct toolcall){ .name = copy, .arguments = *arguments };
    return true;
}

static void drop_calls(struct toolcall_reader *r, int keep)
{
    while (r->call_count > keep) {
        r->call_count--;
        free(r->calls[r->call_count].name);
        buf_free(&r->calls[r->call_count].arguments);
    }
}

static const struct json *find_tool(const struct toolcall_reader *r, struct span name)
{
    for (const struct json *t = r->tools && r->tools->type == JSON_ARRAY ? r->tools->list.first : NULL; t; t = t->next) {
        const struct json *f = json_get(t, "function") ? json_get(t, "function") : t, *own = json_get(f, "name");
        if (own && own->type == JSON_STRING && own->string.length == (size_t)(name.end - name.p) && !memcmp(own->string.text, name.p, own->string.length)) return f;
    }
    return NULL;
}

static bool is_text_parameter(const struct json *tool, struct span key)
{
    const struct json *properties = json_get(json_get(tool, "parameters"), "properties");
    for (const struct json *p = properties && properties->type == JSON_OBJECT ? properties->list.first : NULL; p; p = p->next)
        if (p->key_length == (size_t)(key.end - key.p) && !memcmp(p->key, key.p, p->key_length)) return json_is_string(json_get(p, "type"), "string");
    return false;
}

/* ---- JSON ---- */
/* An object, or a text that holds one; absent means none. */
static bool write_arguments(struct arena *arena, const struct json *a, struct buf *out)
{
    struct json *inner;
    if (a && a->type == JSON_STRING) {
        if (json_parse(&inner, arena, a->string.text, a->string.length, &(struct json_options){ .depth_max = TOOLCALL_DEPTH_MAX }, NULL)) return false;
        a = inner;
    }
    if (!a || a->type == JSON_NULL) buf_puts(out, "{}");
    else if (a->type == JSON_OBJECT) json_write(out, a);
    else return false;
    return !out->failed;
}

static bool add_json_call(struct toolcall_reader *r, struct arena *arena, const struct json *call)
{
    const struct json *inner = json_get(call, "function"), *from = inner && inner->type == JSON_OBJECT ? inner : call;
    const struct json *name = json_get(from, "name"), *arguments = json_get(from, "arguments");
    bool bare = !*r->form->open;
    struct buf out;
    if (!name) name = json_get(from, "tool_name");
    if (!arguments) arguments = json_get(from, "parameters");
    if (!name || name->type != JSON_STRING) return false;
    struct span text = { name->string.text, name->string.text + name->string.length };
    if (bare && (!arguments || !find_tool(r, text))) return false;      /* an answer in JSON is no call */
    buf_init(&out, TOOLCALL_BYTES_MAX);
    if (!write_arguments(arena, arguments, &out)) {
        buf_free(&out);
        return false;
    }
    return add_call(r, text, &out);
}

static bool parse_json(struct toolcall_reader *r, struct span s)
{
    struct arena arena;
    struct json *root;
    bool fine;
    arena_init(&arena, PARSE_MEMORY);
    fine = !json_parse(&root, &arena, s.p, (size_t)(s.end - s.p), &(struct json_options){ .depth_max = TOOLCALL_DEPTH_MAX + 4 }, NULL);
    if (fine && root->type == JSON_ARRAY) {
        fine = root->list.count > 0;
        for (const struct json *c = root->list.first; c && fine; c = c->next) fine = add_json_call(r, &arena, c);
    } else if (fine) {
        fine = add_json_call(r, &arena, root);
    }
    arena_free(&arena);
    return fine;
}

/* ---- a name, a separator, JSON ---- */
static struct span plain_name(struct span name)
{
    const char *id = find(name, "[CALL_ID]");
    if (id) name.end = id;
    name = trimmed(name);
    if (!starts(name, "functions.")) return name;
    const char *end = name.end;
    while (end > name.p && end[-1] >= '0' && end[-1] <= '9') end--;
    if (end < name.end && end[-1] == ':') name.end = end - 1;      /* functions.NAME:INDEX */
    name.p += strlen("functions.");
    return name;
}

static bool parse_separated(struct toolcall_reader *r, struct span s)
{
    const char *at = find(s, r->form->separator);
    struct span name = { s.p, at }, json;
    struct arena arena;
    struct json *root;
    struct buf out;
    if (!at) return false;
    json = trimmed((struct span){ at + strlen(r->form->separator), s.end });
    while (json.end > json.p && json.end[-1] == '`') json.end--;
    if (json.p < json.end && *json.p != '{') {      /* KIND separator NAME, then the arguments in a fence */
        const char *line = memchr(json.p, '\n', (size_t)(json.end - json.p)), *brace = line ? memchr(line, '{', (size_t)(json.end - line)) : NULL;
        if (!brace) return false;
        name = (struct span){ json.p, line };
        json.p = brace;
    }
    arena_init(&arena, PARSE_MEMORY);
    buf_init(&out, TOOLCALL_BYTES_MAX);
    bool fine = json.p == json.end || !json_parse(&root, &arena, json.p, (size_t)(json.end - json.p), &(struct json_options){ .depth_max = TOOLCALL_DEPTH_MAX }, NULL);
    fine = fine && write_arguments(&arena, json.p == json.end ? NULL : root, &out);
    arena_free(&arena);
    if (fine) return add_call(r, plain_name(name), &out);
    buf_free(&out);
    return false;
}

/* ---- parameters ---- */
static void write_typed(struct buf *out, struct span value, bool text)
{
    struct span rest = trimmed(value);
    size_t before = out->length;
    bool quoted = rest.p < rest.end && (*rest.p == '"' || *rest.p == '\'');
    if (!text && !quoted && toolcall_read_value(&rest, out) && rest.p == rest.end) return;
    out->length = before;
    json_write_string(out, value.p, (size_t)(value.end - value.p));
}

static void write_member(struct buf *out, struct span key, struct span value, bool text)
{
    if (out->length > 1) buf_puts(out, ", ");
    json_write_string(out, key.p, (size_t)(key.end - key.p));
    buf_puts(out, ": ");
    write_typed(out, value, text);
}

/* KEY" string="true">VALUE or KEY>VALUE, from behind the opening of a parameter to before its end. */
static bool split_parameter(struct span s, bool quoted, struct span *key, struct span *value, const char **attributes)
{
    const char *close = memchr(s.p, '>', (size_t)(s.end - s.p)), *quote = quoted ? memchr(s.p, '"', (size_t)(s.end - s.p)) : close;
    if (quoted && quote) close = memchr(quote, '>', (size_t)(s.end - quote));
    if (!close || !quote) return false;
    *key = trimmed((struct span){ s.p, quote });
    *attributes = quote;
    *value = (struct span){ close + 1, s.end };
    return key->p < key->end;
}

/* A sequence of parameters with nothing but white space between them. */
static bool parse_parameters(struct toolcall_reader *r, struct span name, struct span s, const char *open, const char *close)
{
    const struct json *tool = find_tool(r, name);
    bool quoted = open[strlen(open) - 1] == '"';
    struct buf out;
    buf_init(&out, TOOLCALL_BYTES_MAX);
    buf_putc(&out, '{');
    for (s = trimmed(s); starts(s, open); s = trimmed(s)) {
        struct span one = { s.p + strlen(open), NULL }, key, value;
        const char *attributes;
        one.end = find((struct span){ one.p, s.end }, close);
        if (!one.end || !split_parameter(one, quoted, &key, &value, &attributes)) break;
        struct span told = { attributes, value.p };
        /* a template that puts a value on lines of its own */
        if (!quoted && value.end - value.p >= 2 && *value.p == '\n' && value.end[-1] == '\n') value = (struct span){ value.p + 1, value.end - 1 };
        write_member(&out, key, value, find(told, "string=\"true\"") || (!find(told, "string=\"false\"") && is_text_parameter(tool, key)));
        s.p = one.end + strlen(close);
    }
    buf_putc(&out, '}');
    if (s.p == s.end) return add_call(r, name, &out);
    buf_free(&out);
    return false;
}

static bool parse_invoke(struct toolcall_reader *r, struct span s)
{
    const char *quote = memchr(s.p, '"', (size_t)(s.end - s.p));
    if (!quote || quote + 1 >= s.end || quote[1] != '>') return false;
    return parse_parameters(r, (struct span){ s.p, quote }, (struct span){ quote + 2, s.end }, r->form->parameter, r->form->parameter_end);
}

/* <function=NAME> parameters </function> */
static bool parse_function(struct toolcall_reader *r, struct span s)
{
    struct span name = { s.p + strlen("<function="), memchr(s.p, '>', (size_t)(s.end - s.p)) };
    if (!name.end) return false;
    struct span body = trimmed((struct span){ name.end + 1, s.end });
    static const char end[] = "</function>";
    if (body.end - body.p >= (ptrdiff_t)(sizeof end - 1) && !memcmp(body.end - (sizeof end - 1), end, sizeof end - 1)) body.end -= sizeof end - 1;
    return parse_parameters(r, trimmed(name), body, "<parameter=", "</parameter>");
}

/* NAME <arg_key>K</arg_key> <arg_value>V</arg_value> ... */
static bool parse_pairs(struct toolcall_reader *r, struct span s)
{
    const char *first = find(s, "<arg_key>");
    struct span name = trimmed((struct span){ s.p, first ? first : s.end });
    const struct json *tool = find_tool(r, name);
    struct buf out;
    if (!first && !tool) return false;
    buf_init(&out, TOOLCALL_BYTES_MAX);
    buf_putc(&out, '{');
    s = trimmed((struct span){ first ? first : s.end, s.end });
    while (starts(s, "<arg_key>")) {
        struct span key = { s.p + strlen("<arg_key>"), find(s, "</arg_key>") }, value;
        if (!key.end) break;
        struct span rest = trimmed((struct span){ key.end + strlen("</arg_key>"), s.end });
        if (!starts(rest, "<arg_value>")) break;
        value = (struct span){ rest.p + strlen("<arg_value>"), find(rest, "</arg_value>") };
        if (!value.end) break;
        write_member(&out, trimmed(key), value, is_text_parameter(tool, trimmed(key)));
        s = trimmed((struct span){ value.end + strlen("</arg_value>"), s.end });
    }
    buf_putc(&out, '}');
    if (s.p == s.end) return add_call(r, name, &out);
    buf_free(&out);
    return false;
}

/* call:NAME{key:value,...} */
static bool parse_braces(struct toolcall_reader *r, struct span s)
{
    const char *brace = memchr(s.p, '{', (size_t)(s.end - s.p));
    struct buf out;
    if (!starts(s, "call:") || !brace) return false;
    struct span name = { s.p + strlen("call:"), brace }, value = { brace, s.end };
    buf_init(&out, TOOLCALL_BYTES_MAX);
    if (toolcall_read_value(&value, &out) && value.p == value.end) return add_call(r, name, &out);
    buf_free(&out);
    return false;
}

/* ---- Python's calls ---- */
static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-'; }

static struct span word(struct span *s)
{
    *s = trimmed(*s);
    struct span w = { s->p, s->p };
    while (w.end < s->end && is_word(*w.end)) w.end++;
    *s = trimmed((struct span){ w.end, s->end });
    return w;
}

static bool take_char(struct span *s, char c)
{
    if (s->p >= s->end || *s->p != c) return false;
    *s = trimmed((struct span){ s->p + 1, s->end });
    return true;
}

static bool parse_one_python(struct toolcall_reader *r, struct span *s)
{
    struct span name = word(s);
    struct buf out;
    if (name.p == name.end || !take_char(s, '(')) return false;
    buf_init(&out, TOOLCALL_BYTES_MAX);
    buf_putc(&out, '{');
    bool fine = true, closed = take_char(s, ')');
    while (fine && !closed) {
        struct span key = word(s);
        fine = key.p < key.end && take_char(s, '=');
        if (!fine) break;
        if (out.length > 1) buf_puts(&out, ", ");
        json_write_string(&out, key.p, (size_t)(key.end - key.p));
        buf_puts(&out, ": ");
        fine = toolcall_read_value(s, &out);
        *s = trimmed(*s);
        closed = take_char(s, ')');
        if (fine && !closed) fine = take_char(s, ',');
    }
    buf_putc(&out, '}');
    if (fine) return add_call(r, name, &out);
    buf_free(&out);
    return false;
}

static bool parse_python(struct toolcall_reader *r, struct span s)
{
    if (!take_char(&s, '[')) return false;
    do {
        if (!parse_one_python(r, &s)) return false;
    } while (take_char(&s, ','));
    return take_char(&s, ']') && s.p == s.end;
}

bool toolcall_parse(struct toolcall_reader *r, struct span body)
{
    struct span s = trimmed(body);
    int before = r->call_count;
    bool json = s.p < s.end && (*s.p == '{' || *s.p == '['), fine = false;
    if (s.p == s.end) return false;
    switch (r->form->shape) {
    case SHAPE_JSON: fine = parse_json(r, s); break;
    case SHAPE_TAGGED: fine = json ? parse_json(r, s) : starts(s, "<function=") ? parse_function(r, s) : parse_pairs(r, s); break;
    case SHAPE_SEPARATED: fine = json ? parse_json(r, s) : parse_separated(r, s); break;
    case SHAPE_INVOKE: fine = parse_invoke(r, s); break;
    case SHAPE_BRACES: fine = parse_braces(r, s); break;
    case SHAPE_PYTHON: fine = json && parse_python(r, s); break;
    }
    if (!fine) drop_calls(r, before);
    return fine;
}
