/* Objects: the members that schemas name, in their order, each left out or not as `required` says; then others, as far as they are allowed.
 *
 * A state is (member i, how many were written); the number stops counting where no bound looks at it, so without minProperties and maxProperties it only tells
 * whether a comma is due. Other members are told apart by which patterns their names match: for each set of patterns the automaton of names that match those and no
 * others, without the named ones. Two other members may get the same name; a reader keeps one, so a minProperties that counts on them is refused. */
#include <string.h>

#include "engine/text/schema_internal.h"

enum { MEMBERS_MAX = 2000, CELLS_MAX = 40000 };

struct member { const char *key; size_t length; };

struct object {
    struct member *members;
    int64_t        member_count, required_count;
    const struct json *patterns[SCHEMA_PATTERNS_MAX];
    int            pattern_count;
};

static enum status add_member(struct schema *s, struct object *o, const struct json *schema, const char *key, size_t length)
{
    for (int64_t i = 0; i < o->member_count; i++) if (o->members[i].length == length && memcmp(o->members[i].key, key, length) == 0) return ST_OK;
    if (o->member_count == MEMBERS_MAX) return schema_refuse(s, schema, "properties", "names more than 2000 members");
    o->members[o->member_count++] = (struct member){ key, length };
    return ST_OK;
}

static enum status collect(struct schema *s, const struct shape *h, struct object *o)
{
    enum status st = ST_OK;
    o->members = arena_calloc(&s->net.arena, MEMBERS_MAX, sizeof *o->members);
    if (!o->members) return schema_no_memory(s);
    for (uint32_t i = 0; i < h->list->count && !st; i++) {
        const struct json *k = json_get(h->list->at[i], "properties"), *patterns = json_get(h->list->at[i], "patternProperties");
        for (const struct json *e = k ? k->list.first : NULL; e && !st; e = e->next) st = add_member(s, o, h->list->at[i], e->key, e->key_length);
        for (const struct json *e = patterns && patterns->type == JSON_OBJECT ? patterns->list.first : NULL; e; e = e->next) {
            bool again = false;
            for (int p = 0; p < o->pattern_count; p++) again |= strcmp(o->patterns[p]->key, e->key) == 0;
            if (again) continue;
            if (o->pattern_count == SCHEMA_PATTERNS_MAX) return schema_refuse(s, h->list->at[i], "patternProperties", "has more than 5 patterns in one place");
            o->patterns[o->pattern_count++] = e;
        }
    }
    for (uint32_t i = 0; i < h->list->count && !st; i++) {
        const struct json *k = json_get(h->list->at[i], "required");
        for (const struct json *e = k ? k->list.first : NULL; e && !st; e = e->next) {
            if (e->type != JSON_STRING) return schema_refuse(s, h->list->at[i], "required", "must be a list of names");
            st = add_member(s, o, h->list->at[i], e->string.text, e->string.length);
        }
    }
    for (int64_t i = 0; i < o->member_count; i++) o->required_count += schema_requires(h->list, o->members[i].key, o->members[i].length);
    return st;
}

/* The automaton of names under every propertyNames of the list; *out NULL: any. */
static enum status names_dfa(struct schema *s, const struct shape *h, struct dfa **out)
{
    struct schema_list list = { 0 };
    *out = NULL;
    for (uint32_t i = 0; i < h->list->count; i++) {
        const struct json *k = json_get(h->list->at[i], "propertyNames");
        if (k && !schema_list_add(&list, k)) return schema_refuse(s, h->list->at[i], "propertyNames", "joins more than 64 schemas in one place");
    }
    return list.count ? schema_string_list_dfa(s, &list, out) : ST_OK;
}

/* What holds for the value of another member whose name matches just the patterns in `set`. */
static enum status other_list(struct schema *s, const struct shape *h, const struct object *o, unsigned set, struct schema_list *out)
{
    out->count = 0;
    for (uint32_t i = 0; i < h->list->count; i++) {
        const struct json *patterns = json_get(h->list->at[i], "patternProperties"), *other = json_get(h->list->at[i], "additionalProperties");
        bool found = false, room = true;
        for (int p = 0; p < o->pattern_count && patterns; p++) {
            const struct json *e = set >> p & 1 ? json_get(patterns, o->patterns[p]->key) : NULL;
            if (!e) continue;
            found = true;
            room = room && schema_list_add(out, e);
        }
        if (!other) other = json_get(h->list->at[i], "unevaluatedProperties");
        if (!found && other) room = room && schema_list_add(out, other);
        if (!room) return schema_refuse(s, h->list->at[i], "properties", "joins more than 64 schemas in one place");
    }
    return ST_OK;
}

static bool never(const struct schema_list *l)
{
    for (uint32_t i = 0; i < l->count; i++) if (l->at[i]->type == JSON_BOOL) return true;
    return false;
}

/* The names of one class of other members; *out empty when there are none. */
static enum status other_names(struct schema *s, const struct object *o, unsigned set, struct dfa *const *patterns, const struct dfa *names, struct dfa **out)
{
    const struct dfa_maker *m = &s->net.maker;
    struct dfa *d;
    enum status st = schema_any_text(s, 0, -1, out);
    if (!st && names) st = dfa_combine(out, m, *out, names, DFA_AND, s->err);
    for (int p = 0; p < o->pattern_count && !st; p++) st = dfa_combine(out, m, *out, patterns[p], set >> p & 1 ? DFA_AND : DFA_WITHOUT, s->err);
    for (int64_t i = 0; i < o->member_count && !st; i++) {
        if (!dfa_accepts(*out, o->members[i].key, o->members[i].length)) continue;
        st = dfa_text(&d, m, o->members[i].key, o->members[i].length, s->err);
        if (!st) st = dfa_combine(out, m, *out, d, DFA_WITHOUT, s->err);
    }
    return st;
}

/* A rule for one other member (name, colon, value) of any class; -1: there are none. */
static enum status others_rule(struct schema *s, const struct shape *h, const struct object *o, const struct dfa *names, int32_t *rule)
{
    struct net *n = &s->net;
    struct dfa *patterns[SCHEMA_PATTERNS_MAX], *d;
    enum status st = ST_OK;
    *rule = -1;
    for (int p = 0; p < o->pattern_count && !st; p++) st = regex_compile(&patterns[p], &n->maker, o->patterns[p]->key, o->patterns[p]->key_length, true, s->err);
    for (unsigned set = 0; set < 1u << o->pattern_count && !st && !n->status; set++) {
        struct schema_list value;
        st = other_list(s, h, o, set, &value);
        if (st || never(&value)) continue;
        bool free_name = !o->pattern_count && !o->member_count && !names;
        if (!free_name && (st = other_names(s, o, set, patterns, names, &d))) break;
        if (!free_name && dfa_is_empty(d)) continue;
        if (*rule < 0) *rule = net_rule(n, NULL, 0);
        if (n->status) break;
        uint32_t start = n->rules[*rule].start, end = n->rules[*rule].end, named = net_node(n);
        if (free_name) net_call(n, start, s->parts.rule[JSON_PART_STRING], named);
        else {
            uint32_t quote = net_node(n);
            net_json_dfa(n, net_text(n, start, "\"", 1), d, quote);
            net_bytes(n, quote, '"', '"', named);
        }
        net_call(n, net_json_comma(n, named, ':'), schema_rule(s, &value), end);
    }
    return st;
}

/* "name": value, from `from` to `to`. Nothing when no value is possible. */
static enum status emit_member(struct schema *s, const struct shape *h, const struct member *m, const struct dfa *names, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    struct schema_list value;
    struct buf b;
    enum status st = schema_member_list(s, h->list, m->key, m->length, &value);
    if (st || never(&value) || (names && !dfa_accepts(names, m->key, m->length))) return st;
    buf_init(&b, GRAMMAR_SOURCE_MAX * 6);
    json_write_string(&b, m->key, m->length);
    if (!b.failed) net_call(n, net_json_comma(n, net_text(n, from, b.data, b.length), ':'), schema_rule(s, &value), to);
    st = b.failed ? schema_no_memory(s) : ST_OK;
    buf_free(&b);
    return st;
}

enum status schema_object(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    struct object o = { 0 };
    struct dfa *names;
    int32_t others = -1;
    enum status st = collect(s, h, &o);
    if (!st) st = names_dfa(s, h, &names);
    if (!st) st = others_rule(s, h, &o, names, &others);
    if (st) return st;
    if (others >= 0 && h->members_min > 1 && h->members_min > o.required_count) return schema_refuse(s, h->list->at[0], "minProperties", "cannot be enforced where members without a name in the schema are allowed");
    int64_t cap = 1;
    if (h->members_max + 1 > cap) cap = h->members_max + 1;
    if (h->members_min > cap) cap = h->members_min;
    if (h->members_max >= 0 && o.required_count > h->members_max) return ST_OK;
    if (cap > o.member_count + 1 && others < 0) cap = o.member_count + 1;
    if (cap > GRAMMAR_REPEAT_MAX || (cap + 1) * (o.member_count + 1) > CELLS_MAX) return schema_refuse(s, h->list->at[0], "maxProperties", "and minProperties are too large here");
    uint32_t *node = arena_calloc(&n->arena, (uint64_t)(cap + 1) * (uint64_t)(o.member_count + 1), sizeof *node);
    if (!node) return schema_no_memory(s);
    for (int64_t i = 0; i < (cap + 1) * (o.member_count + 1); i++) node[i] = net_node(n);
    net_nothing(n, net_text(n, from, "{", 1), node[0]);
    for (int64_t i = 0; i < o.member_count && !st && !n->status; i++) {
        bool required = schema_requires(h->list, o.members[i].key, o.members[i].length);
        uint32_t key = net_node(n), done = net_node(n);
        for (int64_t c = 0; c <= cap; c++) {
            uint32_t at = node[i * (cap + 1) + c];
            if (!required) net_nothing(n, at, node[(i + 1) * (cap + 1) + c]);
            if (h->members_max >= 0 && c >= h->members_max) continue;
            /* One count only: the member is written once and shared by "first" and "after a comma". */
            uint32_t before = c ? net_json_comma(n, at, ',') : at, after = node[(i + 1) * (cap + 1) + (c < cap ? c + 1 : c)];
            if (cap > 1) st = emit_member(s, h, &o.members[i], names, before, after);
            else net_nothing(n, before, key), net_nothing(n, done, after);
            if (st) return st;
        }
        if (cap == 1) st = emit_member(s, h, &o.members[i], names, key, done);
    }
    for (int64_t c = 0; c <= cap && !st; c++) {
        uint32_t at = node[o.member_count * (cap + 1) + c];
        if (c >= h->members_min) net_bytes(n, at, '}', '}', to);
        if (others >= 0 && (h->members_max < 0 || c < h->members_max)) net_call(n, c ? net_json_comma(n, at, ',') : at, others, node[o.member_count * (cap + 1) + (c < cap ? c + 1 : c)]);
    }
    return st;
}
