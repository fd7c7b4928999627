/* The rules of one shape: constants, strings, arrays; objects are in schema_object.c. */
#include <string.h>

#include "base/buf.h"
#include "engine/text/schema_internal.h"

/* The JSON text of a constant with an optional space after each comma and colon. */
static uint32_t constant_text(struct net *n, uint32_t from, const char *text, size_t length)
{
    bool inside = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '"' && (!i || !inside)) inside = true;
        else if (inside && c == '\\') from = net_text(n, from, text + i++, 1), c = text[i];
        else if (inside && c == '"') inside = false;
        if (!inside && (c == ',' || c == ':')) from = net_json_comma(n, from, c);
        else if (c == '<' && n->angle_escaped) from = net_text(n, from, "\\u003c", 6);
        else from = net_text(n, from, text + i, 1);
    }
    return from;
}

static enum status emit_constants(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    for (const struct json *v = h->allowed_const ? h->allowed : h->allowed->list.first; v; v = h->allowed_const ? NULL : v->next) {
        bool ok;
        struct buf b;
        enum status st = schema_check(s, v, h->list, 0, &ok);
        if (st) return st;
        if (!ok) continue;
        struct json plain = *v;
        plain.key = NULL, plain.key_length = 0, plain.next = NULL;
        buf_init(&b, GRAMMAR_SOURCE_MAX * 6);
        struct decimal d;
        if (plain.type == JSON_REAL && schema_decimal(&plain, &d)) buf_printf(&b, "%s%.*s%s%s", d.negative ? "-" : "", d.whole, d.digits, d.fraction ? "." : "", d.digits + d.whole);
        else json_write(&b, &plain);
        if (!b.failed) net_nothing(&s->net, constant_text(&s->net, from, b.data, b.length), to);
        bool failed = b.failed;
        buf_free(&b);
        if (failed) return schema_no_memory(s);
    }
    return ST_OK;
}

/* Strings of which only the length is asked; one rule for each pair of bounds. */
static enum status emit_length(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    if (h->length_min > GRAMMAR_REPEAT_MAX || h->length_max > GRAMMAR_REPEAT_MAX) return schema_refuse(s, h->list->at[0], h->length_min > GRAMMAR_REPEAT_MAX ? "minLength" : "maxLength", "may be 2000 at most");
    for (uint32_t i = 0; i < s->length_count; i++)
        if (s->lengths[i].least == h->length_min && s->lengths[i].most == h->length_max) {
            net_call(n, from, s->lengths[i].rule, to);
            return ST_OK;
        }
    int32_t rule = net_rule(n, NULL, 0);
    if (n->status) return ST_OK;
    uint32_t end = n->rules[rule].end, last = net_node(n), at = net_text(n, n->rules[rule].start, "\"", 1);
    for (int64_t i = 0; (i < h->length_min || i < h->length_max) && !n->status; i++) {
        uint32_t next = net_node(n);
        if (i >= h->length_min) net_nothing(n, at, last);
        net_json_character(n, at, next);
        at = next;
    }
    if (h->length_max < 0) net_json_character(n, at, at);
    net_nothing(n, at, last);
    net_bytes(n, last, '"', '"', end);
    if (s->length_count < SCHEMA_LENGTHS_MAX) {
        s->lengths[s->length_count].least = h->length_min, s->lengths[s->length_count].most = h->length_max;
        s->lengths[s->length_count++].rule = rule;
    }
    net_call(n, from, rule, to);
    return ST_OK;
}

static enum status emit_string(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    struct dfa *d;
    enum status st = schema_string_dfa(s, h, &d);
    if (st) return st;
    if (!d && !h->length_min && h->length_max < 0) net_call(n, from, s->parts.rule[JSON_PART_STRING], to);
    else if (!d) return emit_length(s, h, from, to);
    else {
        uint32_t end = net_node(n);
        net_json_dfa(n, net_text(n, from, "\"", 1), d, end);
        net_bytes(n, end, '"', '"', to);
    }
    return ST_OK;
}

/* Items that are all different: one of few constants each, so that the set of those used is the state. */
static enum status emit_unique(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    struct schema_list items;
    struct schema_alternatives all;
    struct shape item = { 0 };
    const struct json *values[SCHEMA_UNIQUE_MAX];
    uint32_t count = 0, nodes[1 << SCHEMA_UNIQUE_MAX];
    const struct json *rest;
    static const struct schema_list none;
    for (uint32_t i = 0; i < h->list->count; i++) if (schema_prefix(h->list->at[i], &rest)) return schema_refuse(s, h->list->at[i], "uniqueItems", "cannot be enforced beside leading items");
    enum status st = schema_item_list(s, h->list, 0, &items);
    if (!st) st = schema_expand(s, &items, 0, &all);
    if (!st && all.count == 1) st = schema_merge(s, &all.at[0], &item);
    if (st) return st;
    if (!item.allowed || h->contains) return schema_refuse(s, h->list->at[0], "uniqueItems", "can only be enforced for lists of few constants (enum)");
    for (const struct json *v = item.allowed_const ? item.allowed : item.allowed->list.first; v; v = item.allowed_const ? NULL : v->next) {
        bool ok, again = false;
        if ((st = schema_check(s, v, &all.at[0], 0, &ok))) return st;
        for (uint32_t i = 0; i < count; i++) again |= schema_equal(values[i], v);
        if (!ok || again) continue;
        if (count == SCHEMA_UNIQUE_MAX) return schema_refuse(s, h->list->at[0], "uniqueItems", "can be enforced for at most 10 different constants");
        values[count++] = v;
    }
    for (uint32_t used = 0; used < 1u << count; used++) nodes[used] = net_node(n);
    net_nothing(n, net_text(n, from, "[", 1), nodes[0]);
    for (uint32_t used = 0; used < 1u << count && !n->status; used++) {
        int64_t have = __builtin_popcount(used);
        if (have >= h->items_min) net_bytes(n, nodes[used], ']', ']', to);
        if (h->items_max >= 0 && have >= h->items_max) continue;
        uint32_t at = used ? net_json_comma(n, nodes[used], ',') : nodes[used];
        for (uint32_t i = 0; i < count && !st; i++) {
            struct shape one = { .allowed = values[i], .allowed_const = true, .list = &none };
            if (!(used >> i & 1)) st = emit_constants(s, &one, at, nodes[used | 1u << i]);
        }
    }
    return st;
}

/* The state before item `index` with `hits` items that `contains` counts. Beyond the leading items and the bounds both stand still. */
struct array_plan { uint64_t index_max, hits_max; uint32_t *node; };

static enum status contains_bounds(struct schema *s, const struct shape *h, int64_t *least, int64_t *most)
{
    *least = 0, *most = -1;
    if (!h->contains) return ST_OK;
    const struct json *low = json_get(h->contains, "minContains"), *high = json_get(h->contains, "maxContains");
    *least = 1;
    if ((low && (!json_as_int64(low, least) || *least < 0)) || (high && (!json_as_int64(high, most) || *most < 0))) return schema_refuse(s, h->contains, low ? "minContains" : "maxContains", "must be a natural number");
    return ST_OK;
}

/* Writes an item from `from` to `to` under one more schema (or NULL). */
static enum status emit_item(struct schema *s, const struct shape *h, uint64_t index, const struct json *more, uint32_t from, uint32_t to)
{
    struct schema_list items;
    enum status st = schema_item_list(s, h->list, index, &items);
    if (st) return st;
    if (more && !schema_list_add(&items, more)) return schema_refuse(s, more, "contains", "joins more than 64 schemas in one place");
    for (uint32_t i = 0; i < items.count; i++) if (items.at[i]->type == JSON_BOOL) return ST_OK;
    net_call(&s->net, from, schema_rule(s, &items), to);
    return ST_OK;
}

static enum status emit_array(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    int64_t least, most, prefix = 0;
    const struct json *not_contains = NULL, *contains = h->contains ? json_get(h->contains, "contains") : NULL, *rest, *p;
    enum status st = contains_bounds(s, h, &least, &most);
    if (!st && most >= 0) st = schema_negate(s, contains, &not_contains);
    if (st) return st;
    if (h->unique && (h->items_max < 0 || h->items_max > 1)) return emit_unique(s, h, from, to);
    for (uint32_t i = 0; i < h->list->count; i++)
        if ((p = schema_prefix(h->list->at[i], &rest)) && (int64_t)p->list.count > prefix) prefix = (int64_t)p->list.count;
    int64_t positions = h->items_min > h->items_max ? h->items_min : h->items_max, hits = most >= 0 ? most : least;
    if (prefix > positions) positions = prefix;
    if (positions < 1) positions = 1;
    if (positions > GRAMMAR_REPEAT_MAX || hits > GRAMMAR_REPEAT_MAX || (positions + 1) * (hits + 1) > 20000) return schema_refuse(s, h->list->at[0], h->items_max > GRAMMAR_REPEAT_MAX ? "maxItems" : "minItems", "may be 2000 at most");
    uint64_t cells = (uint64_t)(positions + 1) * (uint64_t)(hits + 1);
    uint32_t *node = arena_calloc(&n->arena, cells, sizeof *node);
    if (!node) return schema_no_memory(s);
    for (uint64_t i = 0; i < cells; i++) node[i] = net_node(n);
    net_nothing(n, net_text(n, from, "[", 1), node[0]);
    for (int64_t i = 0; i <= positions && !st; i++)
        for (int64_t c = 0; c <= hits && !st && !n->status; c++) {
            uint32_t at = node[i * (hits + 1) + c];
            if (i >= h->items_min && c >= least) net_bytes(n, at, ']', ']', to);
            if (h->items_max >= 0 && i >= h->items_max) continue;
            uint32_t before = i ? net_json_comma(n, at, ',') : at;
            int64_t next = i < positions ? i + 1 : i, up = c < hits ? c + 1 : c;
            /* An item is counted (then it must be one that counts) or not (then, if there is a most, it must be none). */
            st = emit_item(s, h, (uint64_t)i, not_contains, before, node[next * (hits + 1) + c]);
            if (!st && contains && (c < hits)) st = emit_item(s, h, (uint64_t)i, contains, before, node[next * (hits + 1) + up]);
        }
    return st;
}

enum status schema_emit(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    enum status st = ST_OK;
    if (h->allowed) return emit_constants(s, h, from, to);
    if (h->types & TYPE_NULL) net_nothing(n, net_text(n, from, "null", 4), to);
    if ((h->types & TYPE_BOOL) && (h->bools & 1)) net_nothing(n, net_text(n, from, "false", 5), to);
    if ((h->types & TYPE_BOOL) && (h->bools & 2)) net_nothing(n, net_text(n, from, "true", 4), to);
    if (h->types & (TYPE_INTEGER | TYPE_FRACTION)) st = schema_number(s, h, from, to);
    if (!st && (h->types & TYPE_STRING)) st = emit_string(s, h, from, to);
    if (!st && (h->types & TYPE_ARRAY)) st = emit_array(s, h, from, to);
    if (!st && (h->types & TYPE_OBJECT)) st = schema_object(s, h, from, to);
    return st;
}
