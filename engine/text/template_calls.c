/* The filters, tests and functions that chat templates use, by name. One that is not here fails the rendering where it is reached, with its name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/text/template_internal.h"

const struct value *arguments_get(const struct arguments *a, int index, const char *name)
{
    if (index < a->count) return &a->values[index];
    for (int i = 0; name && i < a->named_count; i++)
        if (name_is(a->named[i].name, a->named[i].length, name)) return &a->named[i].value;
    return NULL;
}

static bool flag(const struct arguments *a, int index, const char *name, bool otherwise)
{
    const struct value *v = arguments_get(a, index, name);
    return v ? value_true(v) : otherwise;
}

/* A method of texts, used as a filter. */
static bool by_method(struct run *r, const struct value *v, const char *name, const struct arguments *a, struct value *out)
{
    struct value text;
    struct method m = { &text, name, strlen(name) };
    return text_of(r, &text, v) && method_call(r, &m, a, out);
}

static bool f_tojson(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *indent = arguments_get(a, 1, "indent"), *separators = arguments_get(a, 2, "separators");
    int64_t width = -1;
    struct value item, colon;
    struct marked w;
    bool both = separators && separators->kind == V_LIST && separators->list->count == 2;
    if (indent && indent->kind != V_NONE && !value_int(indent, &width)) return run_fail(r, ST_BAD_INPUT, "tojson's indent must be an integer");
    if (width > 64) return run_fail(r, ST_TOO_LARGE, "tojson's indent is more than 64");
    if (both && (!text_of(r, &item, &separators->list->items[0]) || !text_of(r, &colon, &separators->list->items[1]))) return false;
    const char *between = both ? arena_copy(&r->arena, item.text->bytes, item.text->length) : width >= 0 ? "," : ", ", *after = both ? arena_copy(&r->arena, colon.text->bytes, colon.text->length) : ": ";
    if (!between || !after) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    marked_init(&w, r->output_max);
    if (!json_dump(r, &w, v, (int)width, flag(a, 0, "ensure_ascii", false), flag(a, 3, "sort_keys", false), between, after, 0)) return marked_free(&w), false;
    return marked_finish(r, &w, out);
}

static bool f_length(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    (void)a;
    size_t n = 0;
    switch (v->kind) {
    case V_UNDEFINED: break;
    case V_TEXT: n = text_characters(v->text); break;
    case V_LIST:
        if (v->lazy && !v->sized) return run_fail(r, ST_BAD_INPUT, "object of type 'generator' has no len()");
        n = v->list->count;
        break;
    case V_DICT: n = v->dict->count; break;
    default: return run_fail(r, ST_BAD_INPUT, "object of type '%s' has no len()", value_type(v));
    }
    return *out = value_of_int((int64_t)n), true;
}

static bool f_trim(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return by_method(r, v, "strip", a, out); }
static bool f_upper(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return by_method(r, v, "upper", a, out); }
static bool f_lower(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return by_method(r, v, "lower", a, out); }
static bool f_title(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return by_method(r, v, "title", a, out); }
static bool f_capitalize(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return by_method(r, v, "capitalize", a, out); }
static bool f_replace(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return by_method(r, v, "replace", a, out); }
static bool f_string(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { (void)a; return text_of(r, out, v); }

static bool f_list(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    struct value *items;
    size_t count;
    (void)a;
    if (!value_items(r, v, &items, &count) || !list_make(r, out, count, false)) return false;
    if (count) memcpy(out->list->items, items, count * sizeof *items);
    return true;
}

static bool f_items(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    struct method m = { (struct value *)v, "items", 5 };
    if (v->kind == V_UNDEFINED) return list_make(r, out, 0, false) && (out->lazy = true);
    if (v->kind != V_DICT) return run_fail(r, ST_BAD_INPUT, "Can only get item pairs from a mapping.");
    if (!method_call(r, &m, a, out)) return false;
    out->sized = false;
    return true;
}

static bool f_default(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *otherwise = arguments_get(a, 0, "default_value");
    bool use = v->kind == V_UNDEFINED || (flag(a, 1, "boolean", false) && !value_true(v));
    if (use && !otherwise) return text_make(r, out, "", 0, FROM_TEMPLATE);
    return *out = use ? *otherwise : *v, true;
}

/* ---- sorting: a bottom-up merge, stable, since a comparison may fail ---- */
struct sorting { bool fold, reverse; const struct value *attribute; int part; };

static bool sort_key(struct run *r, const struct sorting *s, const struct value *v, struct value *out)
{
    struct arguments none = { .count = 0 };
    *out = *v;
    if (s->part >= 0 && v->kind == V_LIST && v->list->count > (size_t)s->part) *out = v->list->items[s->part];
    if (s->attribute && !value_item(r, v, s->attribute, out)) return false;
    return !s->fold || out->kind != V_TEXT || by_method(r, &(struct value){ .kind = V_TEXT, .text = out->text }, "lower", &none, out);
}

static bool sort_items(struct run *r, const struct sorting *s, struct value *items, size_t count)
{
    struct value *keys = arena_calloc(&r->arena, (uint64_t)count + 1, 4 * sizeof *keys), *next_keys = keys + count, *next = keys + 2 * count;
    if (!keys) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    for (size_t i = 0; i < count; i++)
        if (!sort_key(r, s, &items[i], &keys[i])) return false;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t from = 0; from < count; from += 2 * width) {
            size_t middle = from + width < count ? from + width : count, end = from + 2 * width < count ? from + 2 * width : count, a = from, b = middle;
            for (size_t k = from; k < end; k++) {
                int order = 0;
                if (a < middle && b < end && (!run_spend(r, 1) || !value_compare(r, &keys[a], &keys[b], &order))) return false;
                bool left = b >= end || (a < middle && (s->reverse ? order >= 0 : order <= 0));
                size_t from_index = left ? a++ : b++;
                next_keys[k] = keys[from_index], next[k] = items[from_index];
            }
        }
        memcpy(keys, next_keys, count * sizeof *keys);
        memcpy(items, next, count * sizeof *items);
    }
    return true;
}

static bool f_sort(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *attribute = arguments_get(a, 2, "attribute");
    struct sorting s = { .reverse = flag(a, 0, "reverse", false), .fold = !flag(a, 1, "case_sensitive", false), .attribute = attribute && attribute->kind == V_TEXT ? attribute : NULL, .part = -1 };
    struct arguments none = { .count = 0 };
    return f_list(r, v, &none, out) && sort_items(r, &s, out->list->items, out->list->count);
}

static bool f_dictsort(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *by = arguments_get(a, 1, "by");
    struct sorting s = { .fold = !flag(a, 0, "case_sensitive", false), .reverse = flag(a, 2, "reverse", false), .part = by && value_is_text(by, "value") ? 1 : 0 };
    struct arguments none = { .count = 0 };
    if (v->kind != V_DICT) return run_fail(r, ST_BAD_INPUT, "'%s' object has no attribute 'items'", value_type(v));
    return f_items(r, v, &none, out) && (out->lazy = out->sized = false, true) && sort_items(r, &s, out->list->items, out->list->count);
}

static bool f_join(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *between = arguments_get(a, 0, "d"), *attribute = arguments_get(a, 1, "attribute");
    struct value *items, separator = value_none();
    struct marked w;
    size_t count;
    if ((between && !text_of(r, &separator, between)) || !value_items(r, v, &items, &count)) return false;
    marked_init(&w, r->output_max);
    for (size_t i = 0; i < count; i++) {
        struct value item = items[i];
        if (i && between) marked_text(&w, separator.text, 0, separator.text->length);
        if ((attribute && !value_item(r, &items[i], attribute, &item)) || !run_spend(r, 1) || !marked_value(r, &w, &item)) return marked_free(&w), false;
    }
    return marked_finish(r, &w, out);
}

static bool f_first(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    struct value *items;
    size_t count;
    (void)a;
    if (!value_items(r, v, &items, &count)) return false;
    return *out = count ? items[0] : value_undefined("first", 5), true;
}

static bool f_last(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    struct value *items;
    size_t count;
    (void)a;
    if (!value_items(r, v, &items, &count)) return false;
    return *out = count ? items[count - 1] : value_undefined("last", 4), true;
}

static bool f_reverse(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    struct value minus = value_of_int(-1), none = value_none();
    (void)a;
    if (v->kind == V_TEXT) return value_slice(r, v, &none, &none, &minus, out);
    struct value list;
    struct arguments empty = { .count = 0 };
    return f_list(r, v, &empty, &list) && value_slice(r, &list, &none, &none, &minus, out) && (out->lazy = true);
}

static bool f_unique(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    size_t kept = 0;
    if (!f_list(r, v, a, out)) return false;
    for (size_t i = 0; i < out->list->count; i++) {
        bool seen = false;
        if (!run_spend(r, kept / 8 + 1)) return false;
        for (size_t k = 0; k < kept; k++) seen |= value_equal(&out->list->items[k], &out->list->items[i], 0);
        if (!seen) out->list->items[kept++] = out->list->items[i];
    }
    out->list->count = kept;
    return out->lazy = true;
}

static bool f_map(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *attribute = a->count ? NULL : arguments_get(a, 0, "attribute"), *otherwise = a->count ? NULL : arguments_get(a, 9, "default");
    struct value *items;
    struct arguments rest = { .count = 0 };
    size_t count;
    if (!attribute && (!a->count || a->values[0].kind != V_TEXT)) return run_fail(r, ST_BAD_INPUT, "map needs a filter's name or an attribute");
    if (!value_true(v)) return list_make(r, out, 0, false) && (out->lazy = true);          /* None too */
    if (!value_items(r, v, &items, &count) || !list_make(r, out, count, false)) return false;
    for (int i = 1; i < a->count; i++) rest.values[rest.count++] = a->values[i];
    for (size_t i = 0; i < count; i++) {
        struct value *item = &out->list->items[i];
        if (attribute) {
            if (!value_item(r, &items[i], attribute, item)) return false;
            if (item->kind == V_UNDEFINED && otherwise) *item = *otherwise;
        } else if (!run_spend(r, 1) || !filter_apply(r, a->values[0].text->bytes, a->values[0].text->length, &items[i], &rest, item)) return false;
    }
    return out->lazy = true;
}

/* select, reject, selectattr, rejectattr: `attribute`: the first argument names what is looked at. */
static bool choose(struct run *r, const struct value *v, const struct arguments *a, bool keep, bool attribute, struct value *out)
{
    struct value *items;
    struct arguments rest = { .count = 0 };
    size_t count, kept = 0;
    int at = attribute;
    if (attribute && !a->count) return run_fail(r, ST_BAD_INPUT, "selectattr needs an attribute");
    if (!value_true(v)) return list_make(r, out, 0, false) && (out->lazy = true);          /* None too */
    if (!value_items(r, v, &items, &count) || !list_make(r, out, count, false)) return false;
    for (int i = at + 1; i < a->count; i++) rest.values[rest.count++] = a->values[i];
    for (size_t i = 0; i < count; i++) {
        struct value item = items[i];
        bool holds;
        if (!run_spend(r, 1) || (attribute && !value_item(r, &items[i], &a->values[0], &item))) return false;
        if (at >= a->count) holds = value_true(&item);
        else if (a->values[at].kind != V_TEXT) return run_fail(r, ST_BAD_INPUT, "a test's name must be a text");
        else if (!test_apply(r, a->values[at].text->bytes, a->values[at].text->length, &item, &rest, &holds)) return false;
        if (holds == keep) out->list->items[kept++] = items[i];
    }
    out->list->count = kept;
    return out->lazy = true;
}
static bool f_select(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return choose(r, v, a, true, false, out); }
static bool f_reject(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return choose(r, v, a, false, false, out); }
static bool f_selectattr(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return choose(r, v, a, true, true, out); }
static bool f_rejectattr(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { return choose(r, v, a, false, true, out); }

static bool f_int(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *otherwise = arguments_get(a, 0, "default");
    int64_t i = 0;
    char *end = NULL;
    (void)r;
    if (value_int(v, &i)) return *out = value_of_int(i), true;
    if (v->kind == V_REAL && fabs(v->real) < 9e18) return *out = value_of_int((int64_t)v->real), true;
    if (v->kind == V_TEXT && v->text->length) {
        char text[64];
        size_t n = v->text->length < sizeof text - 1 ? v->text->length : sizeof text - 1;
        memcpy(text, v->text->bytes, n);
        text[n] = 0;
        double d = strtod(text, &end);
        i = fabs(d) < 9e18 ? strtoll(text, NULL, 10) : 0;
        if (end > text && !end[strspn(end, " \n\t\r")] && fabs(d) < 9e18) return *out = value_of_int(d == (double)i ? i : (int64_t)d), true;
    }
    return *out = otherwise ? *otherwise : value_of_int(0), true;
}

static bool f_float(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *otherwise = arguments_get(a, 0, "default");
    double d = 0;
    char text[64], *end = text;
    (void)r;
    bool ok = value_number(v, &d);
    if (!ok && v->kind == V_TEXT && v->text->length && v->text->length < sizeof text) {
        memcpy(text, v->text->bytes, v->text->length);
        text[v->text->length] = 0;
        d = strtod(text, &end);
        ok = end > text && !*end;
    }
    if (!ok && otherwise) return *out = *otherwise, true;
    return *out = (struct value){ .kind = V_REAL, .real = ok ? d : 0 }, true;
}

static bool f_abs(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    (void)a;
    if (v->kind == V_REAL) return *out = (struct value){ .kind = V_REAL, .real = fabs(v->real) }, true;
    if (v->kind != V_INT || v->integer == INT64_MIN) return run_fail(r, ST_BAD_INPUT, "bad operand type for abs(): '%s'", value_type(v));
    return *out = value_of_int(v->integer < 0 ? -v->integer : v->integer), true;
}

static bool f_round(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *digits = arguments_get(a, 0, "precision"), *method = arguments_get(a, 1, "method");
    int64_t n = 0;
    double d, scale;
    if (!value_number(v, &d) || (digits && (!value_int(digits, &n) || n < -300 || n > 300))) return run_fail(r, ST_BAD_INPUT, "round needs numbers");
    scale = pow(10, (double)n);
    double x = method && value_is_text(method, "ceil") ? ceil(d * scale) : method && value_is_text(method, "floor") ? floor(d * scale) : nearbyint(d * scale);
    return *out = (struct value){ .kind = V_REAL, .real = x / scale }, true;
}

static bool f_sum(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *attribute = arguments_get(a, 0, "attribute");
    struct value *items, total = value_of_int(0), item;
    size_t count;
    if (!value_items(r, v, &items, &count)) return false;
    for (size_t i = 0; i < count; i++) {
        item = items[i];
        if ((attribute && attribute->kind == V_TEXT && !value_item(r, &items[i], attribute, &item)) || !run_spend(r, 1) || !binary_apply(r, OP_ADD, &total, &item, &total)) return false;
    }
    return *out = total, true;
}

static bool extreme(struct run *r, const struct value *v, int sign, struct value *out)
{
    struct value *items;
    size_t count;
    int order;
    if (!value_items(r, v, &items, &count)) return false;
    *out = count ? items[0] : value_undefined("min", 3);
    for (size_t i = 1; i < count; i++) {
        if (!run_spend(r, 1) || !value_compare(r, &items[i], out, &order)) return false;
        if (order * sign > 0) *out = items[i];
    }
    return true;
}
static bool f_min(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { (void)a; return extreme(r, v, -1, out); }
static bool f_max(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { (void)a; return extreme(r, v, 1, out); }

static bool f_indent(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    const struct value *width = arguments_get(a, 0, "width");
    int64_t n = 4;
    bool first = flag(a, 1, "first", false), blank = flag(a, 2, "blank", false), begin = true;
    struct value text;
    struct marked w;
    if ((width && !value_int(width, &n)) || n < 0 || n > 1000) return run_fail(r, ST_BAD_INPUT, "indent needs a width from 0 to 1000");
    if (!text_of(r, &text, v)) return false;
    marked_init(&w, r->output_max);
    for (size_t i = 0; i < text.text->length; i++) {
        if (begin && (i || first) && (blank || text.text->bytes[i] != '\n'))
            for (int64_t k = 0; k < n; k++) marked_put(&w, " ", 1, FROM_TEMPLATE);
        begin = text.text->bytes[i] == '\n';
        marked_text(&w, text.text, i, 1);
    }
    return marked_finish(r, &w, out);
}

static bool f_escape(struct run *r, const struct value *v, const struct arguments *a, struct value *out) { (void)a; return text_escape(r, out, v); }

static bool f_safe(struct run *r, const struct value *v, const struct arguments *a, struct value *out)
{
    struct value text;
    (void)a;
    if (!text_of(r, &text, v) || !text_part(r, out, text.text, 0, text.text->length)) return false;
    return out->text->safe = true;
}

bool filter_apply(struct run *r, const char *name, size_t length, const struct value *v, const struct arguments *a, struct value *out)
{
    static const struct { const char *name; bool (*apply)(struct run *, const struct value *, const struct arguments *, struct value *); } all[] = {
        { "tojson", f_tojson }, { "length", f_length }, { "count", f_length }, { "trim", f_trim }, { "upper", f_upper }, { "lower", f_lower }, { "title", f_title }, { "capitalize", f_capitalize }, { "replace", f_replace },
        { "string", f_string }, { "safe", f_safe }, { "list", f_list }, { "items", f_items }, { "default", f_default }, { "d", f_default }, { "sort", f_sort }, { "dictsort", f_dictsort }, { "join", f_join }, { "first", f_first },
        { "last", f_last }, { "reverse", f_reverse }, { "unique", f_unique }, { "map", f_map }, { "select", f_select }, { "reject", f_reject }, { "selectattr", f_selectattr }, { "rejectattr", f_rejectattr }, { "int", f_int },
        { "float", f_float }, { "abs", f_abs }, { "round", f_round }, { "sum", f_sum }, { "min", f_min }, { "max", f_max }, { "indent", f_indent }, { "escape", f_escape }, { "e", f_escape },
    };
    if (++r->frames > TEMPLATE_FRAMES_MAX) return run_fail(r, ST_TOO_LARGE, "the template nests too deeply");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (name_is(name, length, all[i].name)) {
            bool ok = all[i].apply(r, v, a, out);
            r->frames--;
            return ok;
        }
    return run_fail(r, ST_BAD_INPUT, "No filter named '%.*s'.", (int)(length < 40 ? length : 40), name);
}

static bool test_case(const struct value *v, bool upper)
{
    bool cased = false;
    if (v->kind != V_TEXT) return false;
    for (size_t i = 0; i < v->text->length; i++) {
        char c = v->text->bytes[i];
        bool small = c >= 'a' && c <= 'z', big = c >= 'A' && c <= 'Z';
        if (upper ? small : big) return false;
        cased |= small || big;
    }
    return cased;
}

static bool test_order(struct run *r, int op, const struct value *v, const struct value *other, bool *out)
{
    int order = 0;
    if (!value_compare(r, v, other, &order)) return false;
    return *out = op == OP_LESS ? order < 0 : op == OP_LESS_EQUAL ? order <= 0 : op == OP_GREATER ? order > 0 : order >= 0, true;
}

static bool test_in(struct run *r, const struct value *v, const struct value *list, bool *out)
{
    struct value *items;
    size_t count;
    *out = false;
    if (list->kind == V_TEXT && v->kind == V_TEXT) return *out = !v->text->length || memmem(list->text->bytes, list->text->length, v->text->bytes, v->text->length), true;
    if (list->kind == V_DICT) return *out = dict_find(list->dict, v) != NULL, true;
    if (!value_items(r, list, &items, &count)) return false;
    for (size_t i = 0; i < count && !*out; i++) *out = value_equal(&items[i], v, 0);
    return run_spend(r, count / 16);
}

bool test_apply(struct run *r, const char *name, size_t length, const struct value *v, const struct arguments *a, bool *out)
{
    static const struct { const char *name; int op; } orders[] = { { "lt", OP_LESS }, { "lessthan", OP_LESS }, { "<", OP_LESS }, { "le", OP_LESS_EQUAL }, { "<=", OP_LESS_EQUAL }, { "gt", OP_GREATER }, { "greaterthan", OP_GREATER }, { ">", OP_GREATER }, { "ge", OP_GREATER_EQUAL }, { ">=", OP_GREATER_EQUAL } };
    const struct value *first = arguments_get(a, 0, NULL);
    int64_t i, j;
    bool number = v->kind == V_INT || v->kind == V_REAL || v->kind == V_BOOL;
    const struct { const char *name; bool holds; } plain[] = {
        { "defined", v->kind != V_UNDEFINED }, { "undefined", v->kind == V_UNDEFINED }, { "none", v->kind == V_NONE }, { "string", v->kind == V_TEXT }, { "mapping", v->kind == V_DICT }, { "boolean", v->kind == V_BOOL },
        { "integer", v->kind == V_INT }, { "float", v->kind == V_REAL }, { "number", number }, { "true", v->kind == V_BOOL && v->boolean }, { "false", v->kind == V_BOOL && !v->boolean },
        { "iterable", v->kind == V_TEXT || v->kind == V_LIST || v->kind == V_DICT || v->kind == V_UNDEFINED }, { "sequence", v->kind == V_TEXT || (v->kind == V_LIST && !v->lazy) || v->kind == V_DICT || v->kind == V_UNDEFINED },
        { "callable", v->kind == V_MACRO || v->kind == V_FUNCTION || v->kind == V_METHOD || v->kind == V_UNDEFINED }, { "upper", test_case(v, true) }, { "lower", test_case(v, false) }, { "escaped", false },
    };
    for (size_t k = 0; k < sizeof plain / sizeof *plain; k++)
        if (name_is(name, length, plain[k].name)) return *out = plain[k].holds, true;
    bool odd = name_is(name, length, "odd"), even = name_is(name, length, "even");
    if ((odd || even) && value_int(v, &i)) return *out = (i % 2 != 0) == odd, true;
    if (!first) return run_fail(r, ST_BAD_INPUT, "No test named '%.*s', or it lacks its argument.", (int)(length < 40 ? length : 40), name);
    if (name_is(name, length, "equalto") || name_is(name, length, "eq") || name_is(name, length, "==")) return *out = value_equal(v, first, 0), true;
    if (name_is(name, length, "sameas")) return *out = v->kind == first->kind && value_equal(v, first, 0), true;
    if (name_is(name, length, "ne") || name_is(name, length, "!=")) return *out = !value_equal(v, first, 0), true;
    if (name_is(name, length, "in")) return test_in(r, v, first, out);
    if (name_is(name, length, "divisibleby") && value_int(v, &i) && value_int(first, &j) && j) return *out = j == -1 || i % j == 0, true;
    for (size_t k = 0; k < sizeof orders / sizeof *orders; k++)
        if (name_is(name, length, orders[k].name)) return test_order(r, orders[k].op, v, first, out);
    return run_fail(r, ST_BAD_INPUT, "No test named '%.*s'.", (int)(length < 40 ? length : 40), name);
}

static bool call_range(struct run *r, const struct arguments *a, struct value *out)
{
    int64_t from = 0, to, by = 1, count;
    if (!a->count || !value_int(&a->values[a->count > 1], &to) || (a->count > 1 && !value_int(&a->values[0], &from)) || (a->count > 2 && !value_int(&a->values[2], &by)) || !by) return run_fail(r, ST_BAD_INPUT, "range needs one to three integers");
    if (llabs(from) > INT32_MAX || llabs(to) > INT32_MAX || llabs(by) > INT32_MAX) return run_fail(r, ST_TOO_LARGE, "Range too big. The sandbox blocks ranges larger than %d.", TEMPLATE_RANGE_MAX);
    count = by > 0 ? (to - from + by - 1) / by : (from - to - by - 1) / -by;
    if (count < 0) count = 0;
    if (count > TEMPLATE_RANGE_MAX) return run_fail(r, ST_TOO_LARGE, "Range too big. The sandbox blocks ranges larger than %d.", TEMPLATE_RANGE_MAX);
    if (!list_make(r, out, (size_t)count, false)) return false;
    for (int64_t i = 0; i < count; i++) out->list->items[i] = value_of_int(from + i * by);
    return true;
}

static bool call_time(struct run *r, const struct arguments *a, struct value *out)
{
    const struct value *format = arguments_get(a, 0, "format");
    char text[512];
    struct tm t;
    time_t now = (time_t)r->now;
    struct marked w;
    if (!format || format->kind != V_TEXT || format->text->length > 128) return run_fail(r, ST_BAD_INPUT, "strftime_now needs a format of at most 128 bytes");
    localtime_r(&now, &t);
    const char *pattern = arena_copy(&r->arena, format->text->bytes, format->text->length);
    if (!pattern) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    size_t n = *pattern ? strftime(text, sizeof text, pattern, &t) : 0;
    marked_init(&w, r->output_max);
    marked_put(&w, text, n, FROM_DATA);
    return marked_finish(r, &w, out);
}

bool function_exists(const char *name, size_t length)
{
    static const char *const names[] = { "range", "namespace", "dict", "raise_exception", "strftime_now" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (name_is(name, length, names[i])) return true;
    return false;
}

bool function_call(struct run *r, const char *name, size_t length, const struct arguments *a, struct value *out)
{
    const struct value *first = arguments_get(a, 0, NULL);
    if (name_is(name, length, "range")) return call_range(r, a, out);
    if (name_is(name, length, "strftime_now")) return call_time(r, a, out);
    if (name_is(name, length, "raise_exception")) {
        struct value words;
        const struct value *said = first ? first : arguments_get(a, 0, "message");
        if (!said || !text_of(r, &words, said)) return run_fail(r, ST_BAD_INPUT, "raise_exception needs a message");
        return run_fail(r, ST_BAD_INPUT, "%.*s", (int)(words.text->length < 300 ? words.text->length : 300), words.text->bytes);
    }
    if (!dict_make(r, out, first && first->kind == V_DICT ? first->dict->count : 8)) return false;
    for (size_t i = 0; first && first->kind == V_DICT && i < first->dict->count; i++)
        if (!dict_set(r, out->dict, &first->dict->pairs[i].key, &first->dict->pairs[i].value)) return false;
    for (int i = 0; i < a->named_count; i++) {
        struct value key;
        if (!text_make(r, &key, a->named[i].name, a->named[i].length, FROM_TEMPLATE) || !dict_set(r, out->dict, &key, &a->named[i].value)) return false;
    }
    if (name_is(name, length, "namespace")) out->kind = V_NAMESPACE;
    return true;
}
