/* Values: texts that know where each byte came from, lists and dictionaries in the run's arena, and how all of them print. Printing follows Python, in whose
 * terms templates are written: True, None, 1.0, ['a', 1]. Nested values are walked with a depth limit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/text/template_internal.h"

enum { NESTED_MAX = 120 };

void marked_init(struct marked *w, uint64_t limit)
{
    buf_init(&w->bytes, limit);
    buf_init(&w->marks, limit);
}

void marked_free(struct marked *w)
{
    buf_free(&w->bytes);
    buf_free(&w->marks);
}

void marked_put(struct marked *w, const char *bytes, size_t n, enum origin origin)
{
    buf_append(&w->bytes, bytes, n);
    if (!n || w->bytes.failed || !buf_reserve(&w->marks, n)) {
        w->bytes.failed |= n && w->marks.failed;
        return;
    }
    memset(w->marks.data + w->marks.length, (int)origin, n);
    w->marks.length += n;
}

void marked_text(struct marked *w, const struct text *t, size_t from, size_t n)
{
    if (t->origin != FROM_BOTH) {
        marked_put(w, t->bytes + from, n, t->origin);
        return;
    }
    buf_append(&w->bytes, t->bytes + from, n);
    buf_append(&w->marks, t->marks + from, n);
}

bool text_make(struct run *r, struct value *out, const char *bytes, size_t n, enum origin origin)
{
    struct text *t = arena_calloc(&r->arena, 1, sizeof *t);
    if (!t) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    *t = (struct text){ .bytes = bytes, .length = n, .origin = origin };
    *out = (struct value){ .kind = V_TEXT, .text = t };
    return true;
}

bool text_part(struct run *r, struct value *out, const struct text *t, size_t from, size_t n)
{
    if (!text_make(r, out, t->bytes + from, n, t->origin)) return false;
    out->text->marks = t->marks ? t->marks + from : NULL;
    out->text->safe = t->safe;
    return true;
}

bool marked_finish(struct run *r, struct marked *w, struct value *out)
{
    size_t n = w->bytes.length, ours = 0;
    bool ok = !w->bytes.failed && !w->marks.failed;
    for (size_t i = 0; ok && i < n; i++) ours += w->marks.data[i] == FROM_TEMPLATE;
    enum origin origin = ours == n ? FROM_TEMPLATE : ours ? FROM_BOTH : FROM_DATA;
    char *bytes = ok ? arena_copy(&r->arena, n ? w->bytes.data : "", n) : NULL;
    char *marks = bytes && origin == FROM_BOTH ? arena_copy(&r->arena, w->marks.data, n) : NULL;
    marked_free(w);
    if (!bytes || (origin == FROM_BOTH && !marks)) return run_fail(r, ST_TOO_LARGE, "a text of the template exceeds the limit of %llu bytes", (unsigned long long)r->output_max);
    if (!text_make(r, out, bytes, n, origin) || !run_spend(r, n / 64)) return false;
    out->text->marks = (const uint8_t *)marks;
    return true;
}

bool list_make(struct run *r, struct value *out, size_t count, bool tuple)
{
    struct list *l = arena_calloc(&r->arena, 1, sizeof *l);
    if (l) l->items = arena_calloc(&r->arena, (uint64_t)count + 1, sizeof *l->items);
    if (!l || !l->items) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    l->count = count;
    *out = (struct value){ .kind = V_LIST, .tuple = tuple, .list = l };
    return run_spend(r, count / 8);
}

bool dict_make(struct run *r, struct value *out, size_t capacity)
{
    struct dict *d = arena_calloc(&r->arena, 1, sizeof *d);
    if (d) d->pairs = arena_calloc(&r->arena, (uint64_t)capacity + 1, sizeof *d->pairs);
    if (!d || !d->pairs) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    d->capacity = capacity;
    *out = (struct value){ .kind = V_DICT, .dict = d };
    return true;
}

const struct value *dict_find(const struct dict *d, const struct value *key)
{
    for (size_t i = d->count; i-- > 0;)
        if (value_equal(&d->pairs[i].key, key, 0)) return &d->pairs[i].value;
    return NULL;
}

const struct value *dict_get(const struct dict *d, const char *key, size_t length)
{
    struct text t = { .bytes = key, .length = length };
    struct value k = { .kind = V_TEXT, .text = &t };
    return dict_find(d, &k);
}

bool dict_set(struct run *r, struct dict *d, const struct value *key, const struct value *v)
{
    struct value *old = (struct value *)dict_find(d, key);
    if (!run_spend(r, d->count / 16 + 1)) return false;
    if (old) return *old = *v, true;
    if (d->count == d->capacity) {
        size_t capacity = d->capacity * 2 + 8;
        struct pair *more = arena_calloc(&r->arena, capacity, sizeof *more);
        if (!more) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
        if (d->count) memcpy(more, d->pairs, d->count * sizeof *more);
        d->pairs = more, d->capacity = capacity;
    }
    d->pairs[d->count].key = *key;
    d->pairs[d->count++].value = *v;
    return true;
}

struct value value_none(void) { return (struct value){ .kind = V_NONE }; }
struct value value_bool(bool b) { return (struct value){ .kind = V_BOOL, .boolean = b }; }
struct value value_of_int(int64_t i) { return (struct value){ .kind = V_INT, .integer = i }; }
struct value value_undefined(const char *name, size_t length) { return (struct value){ .kind = V_UNDEFINED, .name = { name, length } }; }

const char *value_type(const struct value *v)
{
    static const char *const names[] = { "undefined", "None", "bool", "int", "float", "str", "list", "dict", "namespace", "macro", "function", "method", "loop" };
    return v->kind == V_LIST && v->tuple ? "tuple" : names[v->kind];
}

bool value_true(const struct value *v)
{
    switch (v->kind) {
    case V_UNDEFINED: case V_NONE: return false;
    case V_BOOL: return v->boolean;
    case V_INT: return v->integer != 0;
    case V_REAL: return v->real != 0;
    case V_TEXT: return v->text->length > 0;
    case V_LIST: return v->list->count > 0 || (v->lazy && !v->sized);
    case V_DICT: return v->dict->count > 0;
    default: return true;
    }
}

bool value_int(const struct value *v, int64_t *out)
{
    if (v->kind != V_INT && v->kind != V_BOOL) return false;
    *out = v->kind == V_INT ? v->integer : v->boolean;
    return true;
}

bool value_number(const struct value *v, double *out)
{
    int64_t i;
    if (v->kind == V_REAL) return *out = v->real, true;
    if (!value_int(v, &i)) return false;
    *out = (double)i;
    return true;
}

bool value_is_text(const struct value *v, const char *text) { return v->kind == V_TEXT && name_is(v->text->bytes, v->text->length, text); }

bool value_equal(const struct value *a, const struct value *b, int depth)
{
    double x, y;
    int64_t i, j;
    if (depth > NESTED_MAX) return false;
    if (value_int(a, &i) && value_int(b, &j)) return i == j;
    if (value_number(a, &x) && value_number(b, &y)) return x == y;
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case V_UNDEFINED: case V_NONE: return true;
    case V_TEXT: return a->text->length == b->text->length && (!a->text->length || !memcmp(a->text->bytes, b->text->bytes, a->text->length));
    case V_LIST:
        if (a->list->count != b->list->count || a->tuple != b->tuple) return false;
        for (size_t k = 0; k < a->list->count; k++)
            if (!value_equal(&a->list->items[k], &b->list->items[k], depth + 1)) return false;
        return true;
    case V_DICT:
        if (a->dict->count != b->dict->count) return false;
        for (size_t k = 0; k < a->dict->count; k++) {
            const struct value *other = dict_find(b->dict, &a->dict->pairs[k].key);
            if (!other || !value_equal(&a->dict->pairs[k].value, other, depth + 1)) return false;
        }
        return true;
    default: return a->list == b->list;
    }
}

bool value_compare(struct run *r, const struct value *a, const struct value *b, int *out)
{
    double x, y;
    if (value_number(a, &x) && value_number(b, &y)) return *out = (x > y) - (x < y), true;
    if (a->kind == V_TEXT && b->kind == V_TEXT) {
        size_t n = a->text->length < b->text->length ? a->text->length : b->text->length;
        int c = n ? memcmp(a->text->bytes, b->text->bytes, n) : 0;
        *out = c ? c : (a->text->length > b->text->length) - (a->text->length < b->text->length);
        return true;
    }
    if (a->kind == V_LIST && b->kind == V_LIST) {
        for (size_t i = 0; i < a->list->count && i < b->list->count; i++) {
            if (value_equal(&a->list->items[i], &b->list->items[i], 0)) continue;
            if (++r->frames > TEMPLATE_FRAMES_MAX) return run_fail(r, ST_TOO_LARGE, "values nested too deeply to compare");
            bool ok = value_compare(r, &a->list->items[i], &b->list->items[i], out);
            r->frames--;
            return ok;
        }
        return *out = (a->list->count > b->list->count) - (a->list->count < b->list->count), true;
    }
    return run_fail(r, ST_BAD_INPUT, "'%s' and '%s' cannot be ordered", value_type(a), value_type(b));
}

size_t text_characters(const struct text *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->length; i++) n += ((unsigned char)t->bytes[i] & 0xC0) != 0x80;
    return n;
}

size_t text_offset(const struct text *t, size_t character)
{
    size_t i = 0;
    for (; i < t->length; i++)
        if (((unsigned char)t->bytes[i] & 0xC0) != 0x80 && !character--) break;
    return i;
}

/* Python's repr of a float: the shortest digits that read back, an exponent below 1e-4 and from 1e16 on. */
static void put_real(struct marked *w, double v)
{
    char digits[40], text[48];
    int n = 0;
    if (isnan(v) || isinf(v)) n = snprintf(text, sizeof text, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
    for (int precision = 1; !n && precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision - 1, v);
        if (strtod(digits, NULL) != v && precision < 17) continue;
        int exponent = atoi(strchr(digits, 'e') + 1);
        if (exponent < -4 || exponent >= 16) {
            *strchr(digits, 'e') = 0;
            n = snprintf(text, sizeof text, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
        } else n = snprintf(text, sizeof text, "%.*f", precision - 1 - exponent > 1 ? precision - 1 - exponent : 1, v);
    }
    marked_put(w, text, (size_t)n, FROM_DATA);
}

static void put_quoted(struct marked *w, const struct text *t)
{
    bool single = memchr(t->bytes, '\'', t->length) && !memchr(t->bytes, '"', t->length);
    char quote = single ? '"' : '\'', code[12];
    marked_put(w, &quote, 1, FROM_DATA);
    for (size_t i = 0; i < t->length; i++) {
        unsigned char c = (unsigned char)t->bytes[i];
        const char *escape = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\\' ? "\\\\" : c == (unsigned char)quote ? "\\'" : NULL;
        if (escape) marked_put(w, escape, 2, FROM_DATA);
        else if (c < 32 || c == 127) marked_put(w, code, (size_t)snprintf(code, sizeof code, "\\x%02x", c), FROM_DATA);
        else marked_text(w, t, i, 1);
    }
    marked_put(w, &quote, 1, FROM_DATA);
}

static void put(struct marked *w, const char *text) { marked_put(w, text, strlen(text), FROM_DATA); }

bool marked_repr(struct run *r, struct marked *w, const struct value *v, int depth)
{
    if (depth > NESTED_MAX) return run_fail(r, ST_TOO_LARGE, "values nested too deeply to print");
    if (!run_spend(r, 1)) return false;
    if (v->kind == V_TEXT) return put_quoted(w, v->text), true;
    if (v->kind == V_LIST) {
        put(w, v->tuple ? "(" : "[");
        for (size_t i = 0; i < v->list->count; i++) {
            if (i) put(w, ", ");
            if (!marked_repr(r, w, &v->list->items[i], depth + 1)) return false;
        }
        if (v->tuple && v->list->count == 1) put(w, ",");
        put(w, v->tuple ? ")" : "]");
        return true;
    }
    if (v->kind == V_DICT) {
        put(w, "{");
        for (size_t i = 0; i < v->dict->count; i++) {
            if (i) put(w, ", ");
            if (!marked_repr(r, w, &v->dict->pairs[i].key, depth + 1)) return false;
            put(w, ": ");
            if (!marked_repr(r, w, &v->dict->pairs[i].value, depth + 1)) return false;
        }
        put(w, "}");
        return true;
    }
    return marked_value(r, w, v);
}

bool marked_value(struct run *r, struct marked *w, const struct value *v)
{
    char number[32];
    switch (v->kind) {
    case V_UNDEFINED: return true;
    case V_NONE: put(w, "None"); return true;
    case V_BOOL: put(w, v->boolean ? "True" : "False"); return true;
    case V_INT: marked_put(w, number, (size_t)snprintf(number, sizeof number, "%lld", (long long)v->integer), FROM_DATA); return true;
    case V_REAL: put_real(w, v->real); return true;
    case V_TEXT: marked_text(w, v->text, 0, v->text->length); return true;
    case V_LIST: case V_DICT: return marked_repr(r, w, v, 0);
    default: put(w, "<"), put(w, value_type(v)), put(w, ">"); return true;
    }
}

bool text_of(struct run *r, struct value *out, const struct value *v)
{
    struct marked w;
    if (v->kind == V_TEXT) return *out = *v, true;
    marked_init(&w, r->output_max);
    if (!marked_value(r, &w, v)) return marked_free(&w), false;
    return marked_finish(r, &w, out);
}

bool text_escape(struct run *r, struct value *out, const struct value *v)
{
    struct marked w;
    if (!text_of(r, out, v)) return false;
    const struct text *t = out->text;
    if (t->safe) return true;
    marked_init(&w, r->output_max);
    for (size_t i = 0; i < t->length; i++) {
        char c = t->bytes[i];
        const char *code = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '\'' ? "&#39;" : c == '"' ? "&#34;" : NULL;
        if (code) marked_put(&w, code, strlen(code), FROM_DATA);
        else marked_text(&w, t, i, 1);
    }
    if (!marked_finish(r, &w, out)) return false;
    return out->text->safe = true;
}

bool value_items(struct run *r, const struct value *v, struct value **items, size_t *count)
{
    struct value list;
    switch (v->kind) {
    case V_UNDEFINED: *items = NULL, *count = 0; return true;
    case V_LIST: *items = v->list->items, *count = v->list->count; return true;
    case V_DICT:
        if (!list_make(r, &list, v->dict->count, false)) return false;
        for (size_t i = 0; i < v->dict->count; i++) list.list->items[i] = v->dict->pairs[i].key;
        break;
    case V_TEXT: {
        if (!list_make(r, &list, text_characters(v->text), false)) return false;
        size_t from = 0;
        for (size_t i = 0; i < list.list->count; i++) {
            size_t to = from + 1;
            while (to < v->text->length && ((unsigned char)v->text->bytes[to] & 0xC0) == 0x80) to++;
            if (!text_part(r, &list.list->items[i], v->text, from, to - from)) return false;
            from = to;
        }
        break;
    }
    default: return run_fail(r, ST_BAD_INPUT, "'%s' cannot be gone through", value_type(v));
    }
    *items = list.list->items, *count = list.list->count;
    return true;
}

bool value_of_json(struct run *r, struct value *out, const struct json *j, enum origin origin, int depth)
{
    if (depth > NESTED_MAX) return run_fail(r, ST_TOO_LARGE, "a variable is nested deeper than %d", NESTED_MAX);
    switch (j->type) {
    case JSON_NULL: *out = value_none(); return true;
    case JSON_BOOL: *out = value_bool(j->boolean); return true;
    case JSON_INT: *out = value_of_int(j->integer); return true;
    case JSON_UINT: *out = (struct value){ .kind = V_REAL, .real = (double)j->natural }; return true;
    case JSON_REAL: *out = (struct value){ .kind = V_REAL, .real = j->real }; return true;
    case JSON_STRING: return text_make(r, out, j->string.text, j->string.length, origin);
    case JSON_ARRAY: {
        size_t i = 0;
        if (!list_make(r, out, j->list.count, false)) return false;
        for (const struct json *e = j->list.first; e; e = e->next)
            if (!value_of_json(r, &out->list->items[i++], e, origin, depth + 1)) return false;
        return true;
    }
    case JSON_OBJECT:
        if (!dict_make(r, out, j->list.count)) return false;
        for (const struct json *e = j->list.first; e; e = e->next) {
            struct pair *p = &out->dict->pairs[out->dict->count++];      /* request objects have no key twice; the last would be found */
            if (!text_make(r, &p->key, e->key, e->key_length, FROM_DATA) || !value_of_json(r, &p->value, e, origin, depth + 1)) return false;
        }
        return true;
    default: return run_fail(r, ST_BAD_INPUT, "a variable holds something that is no value");
    }
}

static void dump_text(struct marked *w, const struct text *t, bool ascii)
{
    char code[16];
    put(w, "\"");
    for (size_t i = 0; i < t->length;) {
        unsigned char c = (unsigned char)t->bytes[i];
        size_t n = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        const char *escape = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\b' ? "\\b" : c == '\f' ? "\\f" : NULL;
        if (n > t->length - i) n = t->length - i;
        if (escape) put(w, escape);
        else if (c < 32) marked_put(w, code, (size_t)snprintf(code, sizeof code, "\\u%04x", c), FROM_DATA);
        else if (n > 1 && ascii) {
            uint32_t v = c & (0xFFu >> (n + 1));
            for (size_t k = 1; k < n; k++) v = v << 6 | ((unsigned char)t->bytes[i + k] & 63);
            int length = v < 0x10000 ? snprintf(code, sizeof code, "\\u%04x", v) : snprintf(code, sizeof code, "\\u%04x\\u%04x", 0xD800 + ((v - 0x10000) >> 10), 0xDC00 + ((v - 0x10000) & 0x3FF));
            marked_put(w, code, (size_t)length, FROM_DATA);
        } else marked_text(w, t, i, n);
        i += n;
    }
    put(w, "\"");
}

static void new_line(struct marked *w, int indent, int depth)
{
    if (indent < 0) return;
    put(w, "\n");
    for (int i = 0; i < indent * depth && !w->bytes.failed; i++) put(w, " ");
}

static int by_key(const void *a, const void *b)
{
    const struct text *x = (*(const struct pair *const *)a)->key.text, *y = (*(const struct pair *const *)b)->key.text;
    size_t n = x->length < y->length ? x->length : y->length;
    int c = n ? memcmp(x->bytes, y->bytes, n) : 0;
    return c ? c : (x->length > y->length) - (x->length < y->length);
}

static bool dump_dict(struct run *r, struct marked *w, const struct dict *d, int indent, bool ascii, bool sort, const char *item, const char *colon, int depth)
{
    const struct pair **order = arena_calloc(&r->arena, (uint64_t)d->count + 1, sizeof *order);
    if (!order) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    for (size_t i = 0; i < d->count; i++) {
        order[i] = &d->pairs[i];
        sort &= d->pairs[i].key.kind == V_TEXT;
    }
    if (sort) qsort(order, d->count, sizeof *order, by_key);
    put(w, "{");
    for (size_t i = 0; i < d->count; i++) {
        struct value key;
        if (i) put(w, item);
        new_line(w, indent, depth + 1);
        if (!text_of(r, &key, &order[i]->key)) return false;
        dump_text(w, key.text, ascii);
        put(w, colon);
        if (!json_dump(r, w, &order[i]->value, indent, ascii, sort, item, colon, depth + 1)) return false;
    }
    if (d->count) new_line(w, indent, depth);
    put(w, "}");
    return true;
}

bool json_dump(struct run *r, struct marked *w, const struct value *v, int indent, bool ascii, bool sort, const char *item, const char *colon, int depth)
{
    if (depth > NESTED_MAX) return run_fail(r, ST_TOO_LARGE, "values nested too deeply to write as JSON");
    if (!run_spend(r, 1)) return false;
    switch (v->kind) {
    case V_NONE: put(w, "null"); return true;
    case V_BOOL: put(w, v->boolean ? "true" : "false"); return true;
    case V_INT: return marked_value(r, w, v);
    case V_REAL:
        if (isnan(v->real) || isinf(v->real)) put(w, isnan(v->real) ? "NaN" : v->real < 0 ? "-Infinity" : "Infinity");
        else put_real(w, v->real);
        return true;
    case V_TEXT: dump_text(w, v->text, ascii); return true;
    case V_LIST:
        if (v->lazy) return run_fail(r, ST_BAD_INPUT, "a generator or view cannot be written as JSON; make it a list first");
        put(w, "[");
        for (size_t i = 0; i < v->list->count; i++) {
            if (i) put(w, item);
            new_line(w, indent, depth + 1);
            if (!json_dump(r, w, &v->list->items[i], indent, ascii, sort, item, colon, depth + 1)) return false;
        }
        if (v->list->count) new_line(w, indent, depth);
        put(w, "]");
        return true;
    case V_DICT: return dump_dict(r, w, v->dict, indent, ascii, sort, item, colon, depth);
    default: return run_fail(r, ST_BAD_INPUT, "'%s' cannot be written as JSON", value_type(v));
    }
}
