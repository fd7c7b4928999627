/* What can be reached from a value: attributes, items, slices, methods, and the arithmetic operators. Methods that would change a list or dictionary are refused,
 * as the immutable sandbox does. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/template_internal.h"

static const char *const text_methods[] = { "split", "rsplit", "strip", "lstrip", "rstrip", "startswith", "endswith", "upper", "lower", "title", "capitalize", "replace", "find", "rfind", "index", "count", "join", "splitlines", "isdigit", "isalpha", "isalnum", "isspace",
                                            "isupper", "islower", "removeprefix", "removesuffix", "partition", NULL };
static const char *const dict_methods[] = { "items", "keys", "values", "get", "copy", "pop", "update", "setdefault", "clear", "popitem", NULL };
static const char *const list_methods[] = { "index", "count", "copy", "append", "extend", "insert", "pop", "remove", "reverse", "sort", "clear", NULL };

bool method_exists(const struct value *self, const char *name, size_t length)
{
    const char *const *names = self->kind == V_TEXT ? text_methods : self->kind == V_DICT ? dict_methods : self->kind == V_LIST && !self->lazy ? list_methods : NULL;
    if (self->kind == V_LOOP) return name_is(name, length, "cycle") || name_is(name, length, "changed");
    for (; names && *names; names++)
        if (name_is(name, length, *names)) return true;
    return false;
}

static bool make_method(struct run *r, const struct value *self, const char *name, size_t length, struct value *out)
{
    struct method *m = arena_calloc(&r->arena, 1, sizeof *m);
    struct value *copy = arena_calloc(&r->arena, 1, sizeof *copy);
    if (!m || !copy) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    *copy = *self;
    *m = (struct method){ copy, name, length };
    *out = (struct value){ .kind = V_METHOD, .method = m };
    return true;
}

static bool loop_attribute(const struct loop *l, const char *name, size_t length, struct value *out)
{
    int64_t left = (int64_t)(l->count - l->index);
    const struct { const char *name; int64_t value; } numbers[] = { { "index", (int64_t)l->index + 1 }, { "index0", (int64_t)l->index }, { "revindex", left }, { "revindex0", left - 1 }, { "length", (int64_t)l->count }, { "depth", l->depth + 1 }, { "depth0", l->depth } };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (name_is(name, length, numbers[i].name)) return *out = value_of_int(numbers[i].value), true;
    if (name_is(name, length, "first")) return *out = value_bool(!l->index), true;
    if (name_is(name, length, "last")) return *out = value_bool(l->index + 1 == l->count), true;
    if (name_is(name, length, "previtem")) return *out = l->index ? l->items[l->index - 1] : value_undefined("previtem", 8), true;
    if (name_is(name, length, "nextitem")) return *out = l->index + 1 < l->count ? l->items[l->index + 1] : value_undefined("nextitem", 8), true;
    return false;
}

/* a.name: a method or attribute first, then an item. */
bool value_attribute(struct run *r, const struct value *v, const char *name, size_t length, struct value *out)
{
    const struct value *found;
    *out = value_undefined(name, length);
    if (v->kind == V_UNDEFINED) return run_fail(r, ST_BAD_INPUT, "'%.*s' is undefined", (int)v->name.length, v->name.name);
    if (v->kind == V_LOOP && loop_attribute(v->loop, name, length, out)) return true;
    if (method_exists(v, name, length)) return make_method(r, v, name, length, out);
    if ((v->kind == V_DICT || v->kind == V_NAMESPACE) && (found = dict_get(v->dict, name, length))) *out = *found;
    if (v->kind == V_MACRO && name_is(name, length, "name")) return text_make(r, out, v->macro->node->text, v->macro->node->length, FROM_TEMPLATE);
    return true;
}

/* a[key]: an item first, then a method or attribute. */
bool value_item(struct run *r, const struct value *v, const struct value *key, struct value *out)
{
    int64_t i;
    const struct value *found;
    *out = value_undefined("item", 4);
    if (!run_spend(r, v->kind == V_DICT ? v->dict->count / 16 : v->kind == V_TEXT ? v->text->length / 64 : 0)) return false;
    if (v->kind == V_UNDEFINED) return run_fail(r, ST_BAD_INPUT, "'%.*s' is undefined", (int)v->name.length, v->name.name);
    if ((v->kind == V_DICT || v->kind == V_NAMESPACE) && (found = dict_find(v->dict, key))) return *out = *found, true;
    if (v->kind == V_LIST && !v->lazy && value_int(key, &i)) {
        if (i < 0) i += (int64_t)v->list->count;
        if (i >= 0 && i < (int64_t)v->list->count) *out = v->list->items[i];
        return true;
    }
    if (v->kind == V_TEXT && value_int(key, &i)) {
        int64_t n = (int64_t)text_characters(v->text);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return true;
        size_t from = text_offset(v->text, (size_t)i), to = text_offset(v->text, (size_t)i + 1);
        return text_part(r, out, v->text, from, to - from);
    }
    if (key->kind == V_TEXT) return value_attribute(r, v, key->text->bytes, key->text->length, out);
    return true;
}

bool value_slice(struct run *r, const struct value *v, const struct value *start, const struct value *stop, const struct value *step, struct value *out)
{
    struct value *items, list;
    size_t count;
    int64_t by = 1, from, to;
    if (v->kind == V_UNDEFINED) return run_fail(r, ST_BAD_INPUT, "'%.*s' is undefined", (int)v->name.length, v->name.name);
    if ((v->kind != V_LIST || v->lazy) && v->kind != V_TEXT) return *out = value_undefined("slice", 5), true;
    if (step->kind != V_NONE && !value_int(step, &by)) return run_fail(r, ST_BAD_INPUT, "slice indices must be integers");
    if (!by || by == INT64_MIN) return run_fail(r, ST_BAD_INPUT, "slice step cannot be zero");
    if (!value_items(r, v, &items, &count)) return false;
    int64_t n = (int64_t)count;
    from = by > 0 ? 0 : n - 1, to = by > 0 ? n : -1;
    if (start->kind != V_NONE) {
        if (!value_int(start, &from)) return run_fail(r, ST_BAD_INPUT, "slice indices must be integers");
        if (from < 0) from = from < -n ? (by > 0 ? 0 : -1) : from + n;
        if (from > n) from = n;
        if (by < 0 && from > n - 1) from = n - 1;
    }
    if (stop->kind != V_NONE) {
        if (!value_int(stop, &to)) return run_fail(r, ST_BAD_INPUT, "slice indices must be integers");
        if (to < 0) to = to < -n ? (by > 0 ? 0 : -1) : to + n;
        if (to > n) to = n;
        if (by < 0 && to > n - 1) to = n - 1;
    }
    if (by > n + 1) by = n + 1;
    if (by < -n - 1) by = -n - 1;
    size_t kept = 0;
    for (int64_t i = from; by > 0 ? i < to : i > to; i += by) kept++;
    if (!list_make(r, &list, kept, v->tuple)) return false;
    kept = 0;
    for (int64_t i = from; by > 0 ? i < to : i > to; i += by) list.list->items[kept++] = items[i];
    if (v->kind == V_LIST) return *out = list, true;
    struct marked w;
    marked_init(&w, r->output_max);
    for (size_t i = 0; i < kept; i++) marked_text(&w, list.list->items[i].text, 0, list.list->items[i].text->length);
    return marked_finish(r, &w, out);
}

static bool is_blank(const struct text *t, size_t at, size_t *n)
{
    const unsigned char *p = (const unsigned char *)t->bytes + at;
    size_t left = t->length - at;
    *n = 1;
    if (*p == ' ' || (*p >= 9 && *p <= 13) || (*p >= 28 && *p <= 31)) return true;
    if (left >= 2 && p[0] == 0xC2 && (p[1] == 0x85 || p[1] == 0xA0)) return *n = 2, true;
    if (left < 3) return false;
    *n = 3;
    return (p[0] == 0xE1 && p[1] == 0x9A && p[2] == 0x80) || (p[0] == 0xE2 && p[1] == 0x80 && ((p[2] >= 0x80 && p[2] <= 0x8A) || p[2] == 0xA8 || p[2] == 0xA9 || p[2] == 0xAF)) || (p[0] == 0xE2 && p[1] == 0x81 && p[2] == 0x9F) || (p[0] == 0xE3 && p[1] == 0x80 && p[2] == 0x80);
}

/* Is the character at `at` one of those in `set` (NULL: blanks)? *n: its bytes. */
static bool strippable(const struct text *t, size_t at, const struct text *set, size_t *n)
{
    if (!set) return is_blank(t, at, n);
    for (*n = 1; at + *n < t->length && ((unsigned char)t->bytes[at + *n] & 0xC0) == 0x80; ++*n) {}
    return set->length && memmem(set->bytes, set->length, t->bytes + at, *n);
}

static bool strip(struct run *r, const struct text *t, const struct value *chars, bool left, bool right, struct value *out)
{
    const struct text *set = chars && chars->kind == V_TEXT ? chars->text : NULL;
    size_t from = 0, to = t->length, n;
    while (left && from < to && strippable(t, from, set, &n)) from += n;
    while (right && to > from) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)t->bytes[at] & 0xC0) == 0x80) at--;
        if (!strippable(t, at, set, &n) || at + n != to) break;
        to = at;
    }
    return run_spend(r, (t->length - (to - from)) / 64) && text_part(r, out, t, from, to - from);
}

static const char *search(const struct text *t, size_t from, const struct text *what) { return memmem(t->bytes + from, t->length - from, what->bytes, what->length); }

/* The last place of `what` that ends at or before `end`; -1. */
static int64_t search_back(const struct text *t, size_t end, const struct text *what)
{
    for (size_t i = end >= what->length ? end - what->length + 1 : 0; i-- > 0;)
        if (!memcmp(t->bytes + i, what->bytes, what->length)) return (int64_t)i;
    return -1;
}

struct parts { struct run *r; struct value list; size_t capacity; };

static bool parts_add(struct parts *p, const struct text *t, size_t from, size_t n)
{
    struct list *l = p->list.list;
    if (l->count == p->capacity) {
        struct value more;
        size_t count = l->count;
        p->capacity = p->capacity * 2 + 8;
        if (!list_make(p->r, &more, p->capacity, false)) return false;
        if (count) memcpy(more.list->items, l->items, count * sizeof *l->items);
        *l = *more.list;
        l->count = count;
    }
    return run_spend(p->r, 1) && text_part(p->r, &l->items[l->count++], t, from, n);
}

static bool split(struct run *r, const struct text *t, const struct value *by, int64_t most, bool back, struct value *out)
{
    struct parts p = { .r = r };
    size_t at = 0, n;
    if (!list_make(r, &p.list, 0, false)) return false;
    if (most < 0) most = INT64_MAX;
    if (!by || by->kind == V_NONE) {
        for (int64_t done = 0; at < t->length;) {
            while (at < t->length && is_blank(t, at, &n)) at += n;
            size_t from = at;
            if (at == t->length) break;
            if (done++ == most) {
                if (!parts_add(&p, t, from, t->length - from)) return false;
                break;
            }
            while (at < t->length && !is_blank(t, at, &n)) at++;
            if (!parts_add(&p, t, from, at - from)) return false;
        }
        return *out = p.list, true;
    }
    if (by->kind != V_TEXT || !by->text->length) return run_fail(r, ST_BAD_INPUT, "split needs a separator that is a text and not empty");
    if (back && most != INT64_MAX) {
        size_t end = t->length;
        for (int64_t cut; most > 0 && (cut = search_back(t, end, by->text)) >= 0; most--) {
            size_t behind = (size_t)cut + by->text->length;
            if (!parts_add(&p, t, behind, end - behind)) return false;
            end = (size_t)cut;
        }
        if (!parts_add(&p, t, 0, end)) return false;
        for (size_t i = 0, j = p.list.list->count - 1; i < j; i++, j--) {
            struct value swap = p.list.list->items[i];
            p.list.list->items[i] = p.list.list->items[j], p.list.list->items[j] = swap;
        }
        return *out = p.list, true;
    }
    for (const char *hit; most > 0 && (hit = search(t, at, by->text)); most--) {
        if (!parts_add(&p, t, at, (size_t)(hit - t->bytes) - at)) return false;
        at = (size_t)(hit - t->bytes) + by->text->length;
    }
    return parts_add(&p, t, at, t->length - at) && (*out = p.list, true);
}

static bool replace(struct run *r, const struct text *t, const struct text *from, const struct text *to, int64_t most, struct value *out)
{
    struct marked w;
    size_t at = 0;
    if (!from->length) return run_fail(r, ST_UNSUPPORTED, "replacing an empty text is not taken");
    marked_init(&w, r->output_max);
    for (const char *hit; most != 0 && (hit = search(t, at, from)); most--) {
        marked_text(&w, t, at, (size_t)(hit - t->bytes) - at);
        marked_text(&w, to, 0, to->length);
        at = (size_t)(hit - t->bytes) + from->length;
        if (w.bytes.failed) break;
    }
    marked_text(&w, t, at, t->length - at);
    return marked_finish(r, &w, out);
}

/* Letters of ASCII and of Latin-1, Greek and Cyrillic's plain ranges change case; the length in bytes stays. */
static uint32_t change(uint32_t c, bool upper)
{
    if (upper) {
        if ((c >= 'a' && c <= 'z') || (c >= 0xE0 && c <= 0xFE && c != 0xF7) || (c >= 0x3B1 && c <= 0x3C9 && c != 0x3C2) || (c >= 0x430 && c <= 0x44F)) return c - 32;
        return c >= 0x450 && c <= 0x45F ? c - 80 : c;
    }
    if ((c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F)) return c + 32;
    return c >= 0x400 && c <= 0x40F ? c + 80 : c;
}

/* mode: 'u'pper, 'l'ower, 't'itle, 'c'apitalize */
static bool change_case(struct run *r, const struct text *t, int mode, struct value *out)
{
    struct marked w;
    bool begins = true;
    marked_init(&w, r->output_max);
    for (size_t i = 0, n; i < t->length; i += n) {
        unsigned char b = (unsigned char)t->bytes[i];
        n = b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
        if (n > t->length - i) n = t->length - i;
        enum origin origin = t->origin == FROM_BOTH ? (enum origin)t->marks[i] : t->origin;
        bool upper = mode == 'u' || (mode != 'l' && begins);
        if (n > 2) marked_text(&w, t, i, n);
        else {
            uint32_t c = change(n == 1 ? b : (b & 31u) << 6 | ((unsigned char)t->bytes[i + 1] & 63u), upper);
            char code[2] = { (char)(c < 0x80 ? c : 0xC0 | c >> 6), (char)(0x80 | (c & 63)) };
            marked_put(&w, code, n, origin);
        }
        bool letter = n > 1 || (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z');
        begins = mode == 't' && !letter;
    }
    return marked_finish(r, &w, out);
}

static bool join(struct run *r, const struct text *between, const struct value *list, struct value *out)
{
    struct value *items;
    struct marked w;
    size_t count;
    if (!value_items(r, list, &items, &count)) return false;
    marked_init(&w, r->output_max);
    for (size_t i = 0; i < count; i++) {
        if (i) marked_text(&w, between, 0, between->length);
        if (items[i].kind != V_TEXT) return marked_free(&w), run_fail(r, ST_BAD_INPUT, "sequence item %zu: expected str, %s found", i, value_type(&items[i]));
        marked_text(&w, items[i].text, 0, items[i].text->length);
    }
    return marked_finish(r, &w, out);
}

static bool ends(const struct text *t, const struct text *what, bool at_end)
{
    return what->length <= t->length && (!what->length || !memcmp(t->bytes + (at_end ? t->length - what->length : 0), what->bytes, what->length));
}

/* startswith and endswith take a text or a tuple of them. */
static bool begins_or_ends(struct run *r, const struct text *t, const struct value *what, bool at_end, struct value *out)
{
    bool holds = false;
    if (what && what->kind == V_TEXT) holds = ends(t, what->text, at_end);
    else if (what && what->kind == V_LIST && what->tuple) {
        for (size_t i = 0; i < what->list->count; i++) holds |= what->list->items[i].kind == V_TEXT && ends(t, what->list->items[i].text, at_end);
    } else return run_fail(r, ST_BAD_INPUT, "%s first arg must be str or a tuple of str", at_end ? "endswith" : "startswith");
    return *out = value_bool(holds), true;
}

static bool split_lines(struct run *r, const struct text *t, struct value *out)
{
    struct parts p = { .r = r };
    size_t from = 0;
    if (!list_make(r, &p.list, 0, false)) return false;
    for (size_t i = 0; i < t->length; i++) {
        if (t->bytes[i] != '\n' && t->bytes[i] != '\r') continue;
        if (!parts_add(&p, t, from, i - from)) return false;
        if (t->bytes[i] == '\r' && i + 1 < t->length && t->bytes[i + 1] == '\n') i++;
        from = i + 1;
    }
    if (from < t->length && !parts_add(&p, t, from, t->length - from)) return false;
    return *out = p.list, true;
}

static bool all_of(const struct text *t, const char *name, size_t length)
{
    bool cased = false;
    for (size_t i = 0; i < t->length; i++) {
        unsigned char c = (unsigned char)t->bytes[i];
        bool number = c >= '0' && c <= '9', small = c >= 'a' && c <= 'z', big = c >= 'A' && c <= 'Z', letter = small || big || c >= 128;
        cased |= small || big;
        if ((name_is(name, length, "isdigit") && !number) || (name_is(name, length, "isalpha") && !letter) || (name_is(name, length, "isalnum") && !letter && !number) || (name_is(name, length, "isspace") && c != ' ' && (c < 9 || c > 13)) ||
            (name_is(name, length, "isupper") && small) || (name_is(name, length, "islower") && big)) return false;
    }
    return name_is(name, length, "isupper") || name_is(name, length, "islower") ? cased : t->length > 0;
}

static bool text_search(struct run *r, const struct method *m, const struct text *t, const struct text *what, struct value *out)
{
    int64_t found = -1;
    if (name_is(m->name, m->length, "count")) {
        size_t n = 0, at = 0;
        for (const char *hit; what->length && (hit = search(t, at, what)); n++) at = (size_t)(hit - t->bytes) + what->length;
        return *out = value_of_int((int64_t)(what->length ? n : text_characters(t) + 1)), true;
    }
    if (name_is(m->name, m->length, "rfind")) found = search_back(t, t->length, what);
    else {
        const char *hit = search(t, 0, what);
        found = hit ? hit - t->bytes : what->length ? -1 : 0;
    }
    if (found < 0 && name_is(m->name, m->length, "index")) return run_fail(r, ST_BAD_INPUT, "substring not found");
    struct text before = { .bytes = t->bytes, .length = found > 0 ? (size_t)found : 0 };
    return *out = value_of_int(found < 0 ? -1 : (int64_t)text_characters(&before)), true;
}

static bool partition(struct run *r, const struct text *t, const struct text *what, struct value *out)
{
    const char *hit = what->length ? search(t, 0, what) : NULL;
    size_t at = hit ? (size_t)(hit - t->bytes) : t->length, behind = hit ? at + what->length : at;
    return list_make(r, out, 3, true) && text_part(r, &out->list->items[0], t, 0, at) && text_part(r, &out->list->items[1], t, at, behind - at) && text_part(r, &out->list->items[2], t, behind, t->length - behind);
}

static bool text_method(struct run *r, const struct method *m, const struct arguments *a, struct value *out)
{
    const struct text *t = m->self->text;
    const struct value *first = arguments_get(a, 0, NULL), *second = arguments_get(a, 1, NULL);
    int64_t most = -1;
    const char *name = m->name;
    size_t n = m->length;
    if (!run_spend(r, t->length / 64)) return false;
    if (name_is(name, n, "strip")) return strip(r, t, first, true, true, out);
    if (name_is(name, n, "lstrip")) return strip(r, t, first, true, false, out);
    if (name_is(name, n, "rstrip")) return strip(r, t, first, false, true, out);
    if (name_is(name, n, "upper") || name_is(name, n, "lower") || name_is(name, n, "title") || name_is(name, n, "capitalize")) return change_case(r, t, name[0], out);
    if (name_is(name, n, "startswith")) return begins_or_ends(r, t, first, false, out);
    if (name_is(name, n, "endswith")) return begins_or_ends(r, t, first, true, out);
    if (name_is(name, n, "splitlines")) return split_lines(r, t, out);
    if (name[0] == 'i' && name[1] == 's') return *out = value_bool(all_of(t, name, n)), true;
    if (name_is(name, n, "split") || name_is(name, n, "rsplit")) {
        const struct value *limit = arguments_get(a, 1, "maxsplit"), *by = arguments_get(a, 0, "sep");
        if (limit && !value_int(limit, &most)) return run_fail(r, ST_BAD_INPUT, "maxsplit must be an integer");
        return split(r, t, by, most, name[0] == 'r', out);
    }
    if (name_is(name, n, "join")) return first ? join(r, t, first, out) : run_fail(r, ST_BAD_INPUT, "join needs a list");
    if (!first || first->kind != V_TEXT) return run_fail(r, ST_BAD_INPUT, "%.*s needs a text", (int)n, name);
    if (name_is(name, n, "replace")) {
        const struct value *limit = arguments_get(a, 2, "count");
        if (!second || second->kind != V_TEXT || (limit && !value_int(limit, &most))) return run_fail(r, ST_BAD_INPUT, "replace needs two texts");
        return replace(r, t, first->text, second->text, most, out);
    }
    if (name_is(name, n, "removeprefix")) return ends(t, first->text, false) ? text_part(r, out, t, first->text->length, t->length - first->text->length) : (*out = *m->self, true);
    if (name_is(name, n, "removesuffix")) return ends(t, first->text, true) ? text_part(r, out, t, 0, t->length - first->text->length) : (*out = *m->self, true);
    if (name_is(name, n, "partition")) return partition(r, t, first->text, out);
    return text_search(r, m, t, first->text, out);
}

static bool dict_method(struct run *r, const struct method *m, const struct arguments *a, struct value *out)
{
    const struct dict *d = m->self->dict;
    const struct value *first = arguments_get(a, 0, NULL), *otherwise = arguments_get(a, 1, NULL);
    if (name_is(m->name, m->length, "get")) {
        const struct value *v = first ? dict_find(d, first) : NULL;
        if (!first) return run_fail(r, ST_BAD_INPUT, "get expected at least 1 argument, got 0");
        *out = v ? *v : otherwise ? *otherwise : value_none();
        return run_spend(r, d->count / 16);
    }
    if (name_is(m->name, m->length, "copy")) return *out = *m->self, true;
    if (!list_make(r, out, d->count, false)) return false;
    out->lazy = out->sized = true;
    for (size_t i = 0; i < d->count; i++) {
        struct value *item = &out->list->items[i];
        if (name_is(m->name, m->length, "keys")) *item = d->pairs[i].key;
        else if (name_is(m->name, m->length, "values")) *item = d->pairs[i].value;
        else if (name_is(m->name, m->length, "items")) {
            if (!list_make(r, item, 2, true)) return false;
            item->list->items[0] = d->pairs[i].key, item->list->items[1] = d->pairs[i].value;
        }
    }
    return true;
}

bool method_call(struct run *r, const struct method *m, const struct arguments *a, struct value *out)
{
    static const char *const changing[] = { "pop", "update", "setdefault", "clear", "popitem", "append", "extend", "insert", "remove", "reverse", "sort" };
    for (size_t i = 0; m->self->kind != V_TEXT && i < sizeof changing / sizeof *changing; i++)
        if (name_is(m->name, m->length, changing[i])) return run_fail(r, ST_BAD_INPUT, "access to '%s' of '%s' is unsafe: values may not be changed", changing[i], value_type(m->self));
    if (m->self->kind == V_TEXT) return text_method(r, m, a, out);
    if (m->self->kind == V_DICT) return dict_method(r, m, a, out);
    const struct list *l = m->self->list;
    const struct value *first = arguments_get(a, 0, NULL);
    int64_t count = 0, index = -1;
    if (name_is(m->name, m->length, "copy")) return *out = *m->self, true;
    for (size_t i = 0; first && i < l->count; i++)
        if (value_equal(&l->items[i], first, 0)) count++, index = index < 0 ? (int64_t)i : index;
    if (name_is(m->name, m->length, "index") && index < 0) return run_fail(r, ST_BAD_INPUT, "the value is not in the list");
    *out = value_of_int(name_is(m->name, m->length, "index") ? index : count);
    return run_spend(r, l->count / 16);
}

static bool repeat(struct run *r, const struct value *v, int64_t times, struct value *out)
{
    if (times < 0) times = 0;
    if (v->kind == V_TEXT) {
        struct marked w;
        marked_init(&w, r->output_max);
        for (int64_t i = 0; i < times && v->text->length && !w.bytes.failed; i++) marked_text(&w, v->text, 0, v->text->length);
        return marked_finish(r, &w, out);
    }
    size_t n = v->list->count;
    if (n && (uint64_t)times > TEMPLATE_RANGE_MAX / n) return run_fail(r, ST_TOO_LARGE, "a list of more than %d elements", TEMPLATE_RANGE_MAX);
    if (!list_make(r, out, n * (size_t)times, v->tuple)) return false;
    for (size_t i = 0; i < n * (size_t)times; i++) out->list->items[i] = v->list->items[i % n];
    return true;
}

static bool add(struct run *r, const struct value *a, const struct value *b, struct value *out)
{
    if (a->kind == V_TEXT && b->kind == V_TEXT) {
        struct marked w;
        struct value x = *a, y = *b;
        bool safe = a->text->safe || b->text->safe;
        if (safe && (!text_escape(r, &x, a) || !text_escape(r, &y, b))) return false;
        marked_init(&w, r->output_max);
        marked_text(&w, x.text, 0, x.text->length);
        marked_text(&w, y.text, 0, y.text->length);
        if (!marked_finish(r, &w, out)) return false;
        out->text->safe = safe;
        return true;
    }
    if (a->kind == V_LIST && b->kind == V_LIST && a->tuple == b->tuple && !a->lazy && !b->lazy) {
        if (!list_make(r, out, a->list->count + b->list->count, a->tuple)) return false;
        memcpy(out->list->items, a->list->items, a->list->count * sizeof *a->list->items);
        memcpy(out->list->items + a->list->count, b->list->items, b->list->count * sizeof *b->list->items);
        return true;
    }
    if (a->kind == V_TEXT && b->kind != V_UNDEFINED) return run_fail(r, ST_BAD_INPUT, "can only concatenate str (not \"%s\") to str", value_type(b));
    return run_fail(r, ST_BAD_INPUT, "unsupported operand types for +: '%s' and '%s'", value_type(a), value_type(b));
}

static bool integers(struct run *r, int op, int64_t x, int64_t y, struct value *out)
{
    int64_t v = 0;
    bool over = false;
    if ((op == OP_FLOOR || op == OP_MODULO || op == OP_DIVIDE) && !y) return run_fail(r, ST_BAD_INPUT, "division by zero");
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(x, y, &v); break;
    case OP_SUBTRACT: over = __builtin_sub_overflow(x, y, &v); break;
    case OP_MULTIPLY: over = __builtin_mul_overflow(x, y, &v); break;
    case OP_DIVIDE: return *out = (struct value){ .kind = V_REAL, .real = (double)x / (double)y }, true;
    case OP_FLOOR: case OP_MODULO: {
        if (y == -1) return op == OP_FLOOR ? integers(r, OP_SUBTRACT, 0, x, out) : (*out = value_of_int(0), true);
        int64_t q = x / y, rest = x % y;
        if (rest && (rest < 0) != (y < 0)) q--, rest += y;
        v = op == OP_FLOOR ? q : rest;
        break;
    }
    default:
        if (y < 0) return *out = (struct value){ .kind = V_REAL, .real = pow((double)x, (double)y) }, true;
        v = 1;
        for (; y > 0 && !over; y--) {
            over = __builtin_mul_overflow(v, x, &v);
            if (x == 0 || x == 1 || x == -1) { v = x == -1 && y % 2 == 0 ? 1 : x; break; }
        }
    }
    return over ? run_fail(r, ST_BAD_INPUT, "an integer beyond 64 bits") : (*out = value_of_int(v), true);
}

bool binary_apply(struct run *r, int op, const struct value *a, const struct value *b, struct value *out)
{
    int64_t i, j;
    double x, y;
    const struct value *missing = a->kind == V_UNDEFINED ? a : b->kind == V_UNDEFINED ? b : NULL;
    if (missing) return run_fail(r, ST_BAD_INPUT, "'%.*s' is undefined", (int)missing->name.length, missing->name.name);
    if (value_int(a, &i) && value_int(b, &j)) return integers(r, op, i, j, out);
    if (op == OP_MULTIPLY && (a->kind == V_TEXT || a->kind == V_LIST) && value_int(b, &j)) return repeat(r, a, j, out);
    if (op == OP_MULTIPLY && (b->kind == V_TEXT || b->kind == V_LIST) && value_int(a, &i)) return repeat(r, b, i, out);
    if (value_number(a, &x) && value_number(b, &y)) {
        if (!y && (op == OP_DIVIDE || op == OP_FLOOR || op == OP_MODULO)) return run_fail(r, ST_BAD_INPUT, "division by zero");
        double v = op == OP_ADD ? x + y : op == OP_SUBTRACT ? x - y : op == OP_MULTIPLY ? x * y : op == OP_DIVIDE ? x / y : op == OP_FLOOR ? floor(x / y) : op == OP_MODULO ? x - floor(x / y) * y : pow(x, y);
        return *out = (struct value){ .kind = V_REAL, .real = v }, true;
    }
    if (op == OP_ADD) return add(r, a, b, out);
    return run_fail(r, ST_BAD_INPUT, "unsupported operand types for %s: '%s' and '%s'", op == OP_FLOOR ? "//" : op == OP_POWER ? "**" : (char[]){ (char)op, 0 }, value_type(a), value_type(b));
}
