/* The text form is a list of `name: value` and `name { ... }`; the table says what each name may hold, so a typing mistake is found where it
 * stands. Messages nest by recursion with an explicit depth, bounded by CONFIG_DEPTH_MAX. */
#include "model_store/pbtxt.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 16, WORD_MAX = 128, NUMBER_MAX = 64 };

struct reader {
    const char   *p, *end, *where;
    int           line;
    struct arena *arena;
    struct err   *err;
};

#define REFUSE(r, ...) (err_set((r)->err, ST_BAD_INPUT, __VA_ARGS__), err_prefix((r)->err, "%.150s line %d", (r)->where, (r)->line))

static enum status refuse_memory(struct reader *r) { return err_set(r->err, ST_NO_MEMORY, "%.150s: the config needs more memory than its budget", r->where); }

struct json *pbtxt_add(struct arena *arena, struct json *parent, const char *key, enum json_type type)
{
    struct json *n = arena_calloc(arena, 1, sizeof *n);
    if (!n) return NULL;
    n->type = type;
    if (key) {
        n->key_length = strlen(key);
        n->key = arena_copy(arena, key, n->key_length);
        if (!n->key) return NULL;
    }
    struct json **at = &parent->list.first;
    while (*at) at = &(*at)->next;
    *at = n;
    parent->list.count++;
    return n;
}

static void skip_space(struct reader *r)
{
    for (; r->p < r->end; r->p++) {
        if (*r->p == '#') {
            while (r->p < r->end && *r->p != '\n') r->p++;
            if (r->p == r->end) return;
        }
        if (*r->p == '\n') r->line++;
        else if (*r->p != ' ' && *r->p != '\t' && *r->p != '\r' && *r->p != '\f' && *r->p != '\v') return;
    }
}

/* The next byte that is no space, 0 at the end. */
static char peek(struct reader *r)
{
    skip_space(r);
    return r->p < r->end ? *r->p : 0;
}

static bool take(struct reader *r, char c)
{
    if (!c || peek(r) != c) return false;
    r->p++;
    return true;
}

static bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

/* Copies a word ([A-Za-z0-9_]...) of less than WORD_MAX bytes; false when there is none. */
static bool take_word(struct reader *r, char word[WORD_MAX])
{
    size_t n = 0;
    skip_space(r);
    while (r->p + n < r->end && is_word(r->p[n])) n++;
    if (!n || n >= WORD_MAX) return false;
    memcpy(word, r->p, n);
    word[n] = 0;
    r->p += n;
    return true;
}

static int digit_of(char c, int base)
{
    int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
    return d < base ? d : -1;
}

static int take_digits(struct reader *r, int base, int count)
{
    int v = 0, n = 0;
    for (; n < count && r->p < r->end && digit_of(*r->p, base) >= 0; n++) v = v * base + digit_of(*r->p++, base);
    return n ? v : -1;
}

/* r->p is behind a backslash. Writes at most four bytes. */
static enum status take_escape(struct reader *r, char **out)
{
    static const char from[] = "abfnrtv\\'\"?", to[] = "\a\b\f\n\r\t\v\\'\"?";
    char c = r->p < r->end ? *r->p : 0;
    const char *hit = c ? strchr(from, c) : NULL;
    int v = -1;
    if (hit) {
        r->p++;
        v = to[hit - from];
    } else if (c >= '0' && c <= '7') {
        v = take_digits(r, 8, 3);
    } else if (c == 'x' || c == 'X') {
        r->p++;
        v = take_digits(r, 16, 2);
    }
    if (v < 0 || v > 255) return REFUSE(r, "an unknown escape in a string");
    *(*out)++ = (char)v;
    return ST_OK;
}

/* One or more quoted pieces, joined. */
static enum status read_string(struct reader *r, const char **text, size_t *length)
{
    size_t total = 0;
    char *all = NULL;
    char quote = peek(r);
    if (quote != '"' && quote != '\'') return REFUSE(r, "a string in quotes is expected");
    for (; quote == '"' || quote == '\''; quote = peek(r)) {
        const char *from = ++r->p, *p = from;
        while (p < r->end && *p != quote && *p != '\n') p += *p == '\\' && r->end - p > 1 ? 2 : 1;
        if (p >= r->end || *p != quote) return REFUSE(r, "a string without its closing quote");
        char *joined = arena_alloc(r->arena, (uint64_t)total + (uint64_t)(p - from) + 1, 1), *o = joined;
        if (!joined) return refuse_memory(r);
        if (total) memcpy(joined, all, total);
        o += total;
        while (r->p < p) {
            enum status st = ST_OK;
            if (*r->p != '\\') *o++ = *r->p++;
            else r->p++, st = take_escape(r, &o);
            if (st) return st;
        }
        r->p = p + 1;
        *o = 0;
        all = joined;
        total = (size_t)(o - joined);
    }
    if (memchr(all, 0, total)) return REFUSE(r, "a string must not hold a NUL byte");
    for (size_t i = 0; i < total;) {
        size_t n = json_utf8_length(all + i, total - i);
        if (!n) return REFUSE(r, "a string is not valid UTF-8");
        i += n;
    }
    *text = all;
    *length = total;
    return ST_OK;
}

static enum status set_integer(struct reader *r, const struct schema_field *f, bool negative, uint64_t v, struct json *out)
{
    static const uint64_t most[] = { [SCHEMA_INT32] = INT32_MAX, [SCHEMA_UINT32] = UINT32_MAX, [SCHEMA_INT64] = INT64_MAX, [SCHEMA_UINT64] = UINT64_MAX };
    bool sign = f->type == SCHEMA_INT32 || f->type == SCHEMA_INT64;
    if (v > most[f->type] + (negative && sign) || (negative && !sign && v)) return REFUSE(r, "the number of field '%s' is out of its range", f->name);
    out->type = negative || v <= INT64_MAX ? JSON_INT : JSON_UINT;
    out->natural = negative ? 0 - v : v;
    return ST_OK;
}

static enum status read_number(struct reader *r, const struct schema_field *f, struct json *out)
{
    char text[NUMBER_MAX], *after;
    size_t n = 0;
    bool negative = take(r, '-');
    skip_space(r);
    while (r->p + n < r->end && n < NUMBER_MAX - 1 && (is_word(r->p[n]) || r->p[n] == '.' || ((r->p[n] == '-' || r->p[n] == '+') && n && (r->p[n - 1] | 32) == 'e'))) n++;
    memcpy(text, r->p, n);
    text[n] = 0;
    errno = 0;
    if (f->type == SCHEMA_FLOAT || f->type == SCHEMA_DOUBLE) {
        if (n && (text[n - 1] | 32) == 'f' && !strpbrk(text, "xXiI")) text[n - 1] = 0;
        if (isdigit((unsigned char)text[0]) || text[0] == '.') out->real = strtod(text, &after);
        else after = text;
        if (after == text || *after || !isfinite(f->type == SCHEMA_FLOAT ? (float)out->real : out->real)) return REFUSE(r, "'%s' is no number for field '%s'", text, f->name);
        out->type = JSON_REAL;
        if (negative) out->real = -out->real;
        r->p += n;
        return ST_OK;
    }
    uint64_t v = isdigit((unsigned char)text[0]) ? strtoull(text, &after, 0) : (after = text, 0);
    if (after == text || *after) return REFUSE(r, "'%s' is no whole number for field '%s'", text, f->name);
    if (errno) return REFUSE(r, "the number of field '%s' is out of its range", f->name);
    r->p += n;
    return set_integer(r, f, negative, v, out);
}

static enum status set_enum(struct reader *r, const struct schema_field *f, const char *word, struct json *out)
{
    char *after;
    unsigned long number = strtoul(word, &after, 10);
    bool by_number = *word && !*after;
    for (unsigned long i = 0; f->names[i]; i++) {
        if (by_number ? i != number : strcmp(f->names[i], word) != 0) continue;
        out->type = JSON_STRING;
        out->string.text = f->names[i];
        out->string.length = strlen(f->names[i]);
        return ST_OK;
    }
    return REFUSE(r, "'%.60s' is no value of field '%s'", word, f->name);
}

static enum status read_scalar(struct reader *r, const struct schema_field *f, struct json *out)
{
    static const char *const words[] = { "true", "false", "t", "f", "True", "False", "1", "0" };
    char word[WORD_MAX];
    if (f->type == SCHEMA_STRING) {
        out->type = JSON_STRING;
        enum status st = read_string(r, &out->string.text, &out->string.length);
        return st == ST_BAD_INPUT ? err_prefix(r->err, "field '%s'", f->name) : st;
    }
    if (f->type != SCHEMA_BOOL && f->type != SCHEMA_ENUM) return read_number(r, f, out);
    if (!take_word(r, word)) return REFUSE(r, "field '%s' needs a value", f->name);
    if (f->type == SCHEMA_ENUM) return set_enum(r, f, word, out);
    for (int i = 0; i < 8; i++) {
        if (strcmp(word, words[i])) continue;
        out->type = JSON_BOOL;
        out->boolean = i % 2 == 0;
        return ST_OK;
    }
    return REFUSE(r, "'%s' is neither true nor false for field '%s'", word, f->name);
}

static enum status read_message(struct reader *r, const struct schema_message *m, struct json *object, char close, int depth);

/* The opening bracket of a message; returns the closing one, 0 when there is none. */
static char open_message(struct reader *r) { return take(r, '{') ? '}' : take(r, '<') ? '>' : 0; }

static enum status read_value(struct reader *r, const struct schema_field *f, struct json *out, int depth)
{
    if (f->type != SCHEMA_MESSAGE) return read_scalar(r, f, out);
    char close = open_message(r);
    if (!close) return REFUSE(r, "field '%s' is a message: '{' is missing", f->name);
    if (depth >= DEPTH_MAX) return REFUSE(r, "field '%s' is nested too deeply", f->name);
    out->type = JSON_OBJECT;
    return read_message(r, f->message, out, close, depth + 1);
}

/* { key: "k" value: ... } of a map; an entry with a key that is there already replaces it. */
static enum status read_entry(struct reader *r, const struct schema_field *f, struct json *map, int depth)
{
    const struct schema_field key_field = { .name = "key", .type = f->rule == SCHEMA_MAP ? SCHEMA_STRING : SCHEMA_UINT64 };
    struct schema_field value_field = *f;
    struct json key = { 0 }, value = { .type = f->type == SCHEMA_MESSAGE ? JSON_OBJECT : JSON_STRING };
    char word[WORD_MAX], close = open_message(r);
    bool has_key = false, has_value = false;
    if (value.type == JSON_STRING) value.string.text = "";
    value_field.name = "value";
    value_field.rule = SCHEMA_ONE;
    if (!close) return REFUSE(r, "field '%s' is a map: '{' is missing", f->name);
    while (!take(r, close)) {
        if (!take_word(r, word)) return REFUSE(r, "'key', 'value' or '%c' is expected in field '%s'", close, f->name);
        bool is_key = !strcmp(word, "key"), is_value = !strcmp(word, "value");
        if (!is_key && !is_value) return REFUSE(r, "an entry of '%s' has no field '%s'", f->name, word);
        if (is_key ? has_key : has_value) return REFUSE(r, "'%s' is given twice in an entry of '%s'", word, f->name);
        has_key |= is_key, has_value |= is_value;
        bool colon = take(r, ':');
        if (!colon && (is_key || f->type != SCHEMA_MESSAGE)) return REFUSE(r, "':' is missing behind '%s'", word);
        enum status st = is_key ? read_scalar(r, &key_field, &key) : read_value(r, &value_field, &value, depth);
        if (st) return st;
        if (!take(r, ',')) take(r, ';');
    }
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)key.natural);
    const char *name = f->rule == SCHEMA_MAP ? (has_key ? key.string.text : "") : has_key ? number : "0";
    struct json *n = (struct json *)json_get(map, name);
    if (!n) n = pbtxt_add(r->arena, map, name, value.type);
    if (!n) return refuse_memory(r);
    value.key = n->key, value.key_length = n->key_length, value.next = n->next;
    *n = value;
    return ST_OK;
}

static const struct schema_field *find_field(const struct schema_message *m, const char *name)
{
    for (int i = 0; i < m->count; i++)
        if (!strcmp(m->fields[i].name, name)) return &m->fields[i];
    return NULL;
}

/* The name of the field of the same choice that is there already, or NULL. */
static const char *other_choice(const struct schema_message *m, const struct schema_field *f, const struct json *object)
{
    for (int i = 0; i < m->count; i++)
        if (schema_excludes(&m->fields[i], f) && &m->fields[i] != f && json_get(object, m->fields[i].name)) return m->fields[i].name;
    return NULL;
}

static enum status read_field(struct reader *r, const struct schema_message *m, const struct schema_field *f, struct json *object, int depth)
{
    bool is_map = f->rule >= SCHEMA_MAP, many = f->rule != SCHEMA_ONE;
    struct json *n = (struct json *)json_get(object, f->name);
    if (n && !many) return REFUSE(r, "field '%s' of %s is given twice", f->name, m->name);
    const char *other = other_choice(m, f, object);
    if (other) return REFUSE(r, "'%s' and '%s' of %s exclude each other", other, f->name, m->name);
    bool colon = take(r, ':');
    if (!colon && !is_map && f->type != SCHEMA_MESSAGE) return REFUSE(r, "':' is missing behind '%s'", f->name);
    if (!n) n = pbtxt_add(r->arena, object, f->name, is_map ? JSON_OBJECT : JSON_ARRAY);
    if (!n) return refuse_memory(r);
    if (!many) return read_value(r, f, n, depth);
    bool list = take(r, '[');
    if (list && take(r, ']')) return ST_OK;
    do {
        enum status st;
        if (n->list.count >= PBTXT_LIST_MAX) return REFUSE(r, "field '%s' has more than %d entries", f->name, PBTXT_LIST_MAX);
        if (is_map) {
            st = read_entry(r, f, n, depth);
        } else {
            struct json *e = pbtxt_add(r->arena, n, NULL, JSON_NULL);
            st = e ? read_value(r, f, e, depth) : refuse_memory(r);
        }
        if (st) return st;
    } while (list && take(r, ','));
    if (list && !take(r, ']')) return REFUSE(r, "',' or ']' is missing in the list of field '%s'", f->name);
    return ST_OK;
}

/* `close` ends it; 0: the end of the text does. */
static enum status read_message(struct reader *r, const struct schema_message *m, struct json *object, char close, int depth)
{
    char word[WORD_MAX];
    for (;;) {
        if (take(r, close)) return ST_OK;
        if (!peek(r) && r->p == r->end) return close ? REFUSE(r, "the text ends before '%c' of %s", close, m->name) : ST_OK;
        if (!take_word(r, word)) return REFUSE(r, "a field of %s is expected, not '%c'", m->name, isprint((unsigned char)*r->p) ? *r->p : '?');
        const struct schema_field *f = find_field(m, word);
        if (!f) return REFUSE(r, "%s has no field '%s'", m->name, word);
        enum status st = read_field(r, m, f, object, depth);
        if (st) return st;
        if (!take(r, ',')) take(r, ';');
    }
}

enum status pbtxt_parse(struct json **out, struct arena *arena, const struct schema_message *m, const char *text, size_t length, const char *where, struct err *err)
{
    struct reader r = { .p = text, .end = text + length, .where = where, .line = 1, .arena = arena, .err = err };
    struct json *root = arena_calloc(arena, 1, sizeof *root);
    if (!root) return refuse_memory(&r);
    root->type = JSON_OBJECT;
    enum status st = read_message(&r, m, root, 0, 0);
    if (!st) *out = root;
    return st;
}
