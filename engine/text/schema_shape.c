/* A list of schemas without combinators merged into one shape, and the questions that are asked of such lists: what holds for a member or an item, whether a given
 * value satisfies it (for enum and const), whether anything can (for oneOf). */
#include <string.h>

#include "engine/text/schema_internal.h"

static bool is_number(const struct json *j) { return j->type == JSON_INT || j->type == JSON_UINT || j->type == JSON_REAL; }

static unsigned type_bit(const char *name)
{
    static const struct { const char *name; unsigned bit; } types[] = { { "null", TYPE_NULL }, { "boolean", TYPE_BOOL }, { "integer", TYPE_INTEGER }, { "number", TYPE_INTEGER | TYPE_FRACTION }, { "string", TYPE_STRING }, { "array", TYPE_ARRAY }, { "object", TYPE_OBJECT } };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) if (strcmp(types[i].name, name) == 0) return types[i].bit;
    return 0;
}

static enum status types_of(struct schema *s, const struct json *schema, const struct json *k, unsigned *out)
{
    *out = 0;
    if (k->type == JSON_STRING) *out = type_bit(k->string.text);
    else if (k->type == JSON_ARRAY) for (const struct json *e = k->list.first; e; e = e->next) {
        unsigned bit = e->type == JSON_STRING ? type_bit(e->string.text) : 0;
        if (!bit) return schema_refuse(s, schema, "type", "names no type");
        *out |= bit;
    }
    return *out ? ST_OK : schema_refuse(s, schema, "type", "names no type");
}

static unsigned type_of_value(const struct json *v)
{
    switch (v->type) {
    case JSON_NULL: return TYPE_NULL;
    case JSON_BOOL: return TYPE_BOOL;
    case JSON_STRING: return TYPE_STRING;
    case JSON_ARRAY: return TYPE_ARRAY;
    case JSON_OBJECT: return TYPE_OBJECT;
    case JSON_REAL: return v->real == __builtin_trunc(v->real) ? TYPE_INTEGER : TYPE_FRACTION;
    default: return TYPE_INTEGER;
    }
}

static enum status merge_count(struct schema *s, const struct json *schema, const char *key, bool least, int64_t *io)
{
    const struct json *k = json_get(schema, key);
    int64_t v;
    if (!k) return ST_OK;
    if (k->type == JSON_REAL && k->real >= 0 && k->real < 1e15 && k->real == __builtin_trunc(k->real)) v = (int64_t)k->real;
    else if (!json_as_int64(k, &v) || v < 0) return schema_refuse(s, schema, key, "must be a natural number");
    if (least ? v > *io : *io < 0 || v < *io) *io = v;
    return ST_OK;
}

static enum status merge_bound(struct schema *s, const struct json *schema, const char *key, bool low, bool exclusive, struct decimal *io)
{
    const struct json *k = json_get(schema, key);
    struct decimal d;
    if (!k) return ST_OK;
    if (!is_number(k)) return schema_refuse(s, schema, key, "must be a number");
    if (!schema_decimal(k, &d)) return schema_refuse(s, schema, key, "has too many digits");
    d.exclusive = exclusive;
    int c = io->set ? schema_decimal_compare(&d, io) : 0;
    if (!io->set || (low ? c > 0 : c < 0) || (c == 0 && exclusive)) *io = d;
    return ST_OK;
}

/* A value that `not` excludes (numbers became bounds): a scalar narrows the shape, others must not be possible at all. */
static enum status exclude(struct schema *s, struct shape *h, const struct json *schema)
{
    const struct json *v = json_get(schema, "not const");
    if (!v) return ST_OK;
    if (v->type == JSON_NULL) h->types &= ~(unsigned)TYPE_NULL;
    else if (v->type == JSON_BOOL) h->bools &= v->boolean ? 1u : 2u;
    else if (v->type == JSON_STRING) h->patterns = true;
    else if (!h->allowed && (h->types & type_of_value(v))) return schema_refuse(s, schema, "const", "of a list or an object cannot be negated");
    return ST_OK;
}

static enum status merge_one(struct schema *s, const struct json *schema, struct shape *h)
{
    const struct json *k;
    unsigned types;
    enum status st = ST_OK;
    if ((k = json_get(schema, "type"))) {
        if ((st = types_of(s, schema, k, &types))) return st;
        const struct json *nullable = json_get(schema, "nullable");
        if (nullable && nullable->type == JSON_BOOL && nullable->boolean) types |= TYPE_NULL;
        h->types &= types;
    }
    if ((k = json_get(schema, "not type"))) {
        if ((st = types_of(s, schema, k, &types))) return st;
        h->types &= ~types;
    }
    if ((k = json_get(schema, "enum"))) {
        if (!h->allowed) h->allowed = k, h->allowed_const = false;
    }
    if ((k = json_get(schema, "const")) && (!h->allowed || !h->allowed_const)) h->allowed = k, h->allowed_const = true;
    if (!st) st = merge_bound(s, schema, "minimum", true, false, &h->low);
    if (!st) st = merge_bound(s, schema, "exclusiveMinimum", true, true, &h->low);
    if (!st) st = merge_bound(s, schema, "maximum", false, false, &h->high);
    if (!st) st = merge_bound(s, schema, "exclusiveMaximum", false, true, &h->high);
    if (!st) st = merge_count(s, schema, "minLength", true, &h->length_min);
    if (!st) st = merge_count(s, schema, "maxLength", false, &h->length_max);
    if (!st) st = merge_count(s, schema, "minItems", true, &h->items_min);
    if (!st) st = merge_count(s, schema, "maxItems", false, &h->items_max);
    if (!st) st = merge_count(s, schema, "minProperties", true, &h->members_min);
    if (!st) st = merge_count(s, schema, "maxProperties", false, &h->members_max);
    if (json_get(schema, "multipleOf")) h->multiples = true;
    if (json_get(schema, "pattern") || json_get(schema, "not pattern") || json_get(schema, "format")) h->patterns = true;
    if ((k = json_get(schema, "uniqueItems")) && k->type == JSON_BOOL && k->boolean) h->unique = true;
    if (!st && json_get(schema, "contains")) {
        if (h->contains) return schema_refuse(s, schema, "contains", "cannot be enforced twice in one place");
        h->contains = schema;
    }
    if (json_get(schema, "propertyNames")) h->names = schema;
    return st;
}

enum status schema_merge(struct schema *s, const struct schema_list *list, struct shape *out)
{
    *out = (struct shape){ .types = TYPE_ALL, .bools = 3, .list = list, .length_max = -1, .items_max = -1, .members_max = -1 };
    enum status st = ST_OK;
    for (uint32_t i = 0; i < list->count && !st; i++) st = merge_one(s, list->at[i], out);
    for (uint32_t i = 0; i < list->count && !st; i++) st = exclude(s, out, list->at[i]);
    if (out->length_max >= 0 && out->length_min > out->length_max) out->types &= ~(unsigned)TYPE_STRING;
    if (out->items_max >= 0 && out->items_min > out->items_max) out->types &= ~(unsigned)TYPE_ARRAY;
    if (out->members_max >= 0 && out->members_min > out->members_max) out->types &= ~(unsigned)TYPE_OBJECT;
    if (!out->bools) out->types &= ~(unsigned)TYPE_BOOL;
    if (out->low.set && out->high.set) {
        int c = schema_decimal_compare(&out->low, &out->high);
        if (c > 0 || (!c && (out->low.exclusive || out->high.exclusive))) out->types &= ~(unsigned)(TYPE_INTEGER | TYPE_FRACTION);
    }
    return st;
}

static const struct json *find_member(const struct json *object, const char *key, size_t length)
{
    for (const struct json *e = object && object->type == JSON_OBJECT ? object->list.first : NULL; e; e = e->next)
        if (e->key_length == length && memcmp(e->key, key, length) == 0) return e;
    return NULL;
}

bool schema_requires(const struct schema_list *list, const char *key, size_t length)
{
    for (uint32_t i = 0; i < list->count; i++) {
        const struct json *k = json_get(list->at[i], "required");
        for (const struct json *e = k && k->type == JSON_ARRAY ? k->list.first : NULL; e; e = e->next)
            if (e->type == JSON_STRING && e->string.length == length && memcmp(e->string.text, key, length) == 0) return true;
    }
    return false;
}

enum status schema_member_list(struct schema *s, const struct schema_list *list, const char *key, size_t length, struct schema_list *out)
{
    out->count = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct json *schema = list->at[i], *named = find_member(json_get(schema, "properties"), key, length), *patterns = json_get(schema, "patternProperties");
        bool found = named != NULL, room = !named || schema_list_add(out, named);
        for (const struct json *p = patterns && patterns->type == JSON_OBJECT ? patterns->list.first : NULL; p && room; p = p->next) {
            struct dfa *d;
            enum status st = regex_compile(&d, &s->net.maker, p->key, p->key_length, true, s->err);
            if (st) return err_prefix(s->err, "schema: keyword 'patternProperties': ");
            if (!dfa_accepts(d, key, length)) continue;
            found = true;
            room = schema_list_add(out, p);
        }
        const struct json *other = json_get(schema, "additionalProperties");
        if (!other) other = json_get(schema, "unevaluatedProperties");
        if (!found && other && room) room = schema_list_add(out, other);
        if (!room) return schema_refuse(s, schema, "properties", "joins more than 64 schemas in one place");
    }
    return ST_OK;
}

const struct json *schema_prefix(const struct json *schema, const struct json **rest)
{
    const struct json *prefix = json_get(schema, "prefixItems"), *items = json_get(schema, "items");
    if (items && items->type == JSON_ARRAY) prefix = items, items = json_get(schema, "additionalItems");
    *rest = items ? items : json_get(schema, "unevaluatedItems");
    return prefix && prefix->type == JSON_ARRAY ? prefix : NULL;
}

enum status schema_item_list(struct schema *s, const struct schema_list *list, uint64_t index, struct schema_list *out)
{
    out->count = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct json *rest, *prefix = schema_prefix(list->at[i], &rest), *e = prefix ? prefix->list.first : NULL;
        for (uint64_t n = index; e && n; n--) e = e->next;
        if (!e) e = rest;
        if (e && !schema_list_add(out, e)) return schema_refuse(s, list->at[i], "items", "joins more than 64 schemas in one place");
    }
    return ST_OK;
}

/* Depth was bounded when the document was walked. */
bool schema_equal(const struct json *a, const struct json *b)
{
    double x, y;
    int64_t m, n;
    if (is_number(a) && is_number(b)) {
        if (json_as_int64(a, &m) && json_as_int64(b, &n)) return m == n;
        return json_as_double(a, &x) && json_as_double(b, &y) && x == y;
    }
    if (a->type != b->type) return false;
    if (a->type == JSON_NULL) return true;
    if (a->type == JSON_BOOL) return a->boolean == b->boolean;
    if (a->type == JSON_STRING) return a->string.length == b->string.length && memcmp(a->string.text, b->string.text, a->string.length) == 0;
    if (a->list.count != b->list.count) return false;
    const struct json *y2 = b->list.first;
    for (const struct json *x2 = a->list.first; x2; x2 = x2->next) {
        const struct json *other = a->type == JSON_ARRAY ? y2 : find_member(b, x2->key, x2->key_length);
        if (!other || !schema_equal(x2, other)) return false;
        if (y2) y2 = y2->next;
    }
    return true;
}

static bool in_list(const struct json *value, const struct json *list)
{
    for (const struct json *e = list->type == JSON_ARRAY ? list->list.first : NULL; e; e = e->next) if (schema_equal(e, value)) return true;
    return false;
}

static bool allowed(const struct json *value, const struct schema_list *list)
{
    const struct json *k;
    for (uint32_t i = 0; i < list->count; i++) {
        if ((k = json_get(list->at[i], "enum")) && !in_list(value, k)) return false;
        if ((k = json_get(list->at[i], "const")) && !schema_equal(value, k)) return false;
        if ((k = json_get(list->at[i], "not const")) && schema_equal(value, k)) return false;
    }
    return true;
}

static enum status check_object(struct schema *s, const struct json *v, const struct shape *h, int depth, bool *ok)
{
    struct schema_list members;
    enum status st = ST_OK;
    *ok = (int64_t)v->list.count >= h->members_min && (h->members_max < 0 || (int64_t)v->list.count <= h->members_max);
    for (uint32_t i = 0; i < h->list->count; i++) {
        const struct json *k = json_get(h->list->at[i], "required");
        for (const struct json *e = k && k->type == JSON_ARRAY ? k->list.first : NULL; e; e = e->next)
            if (e->type == JSON_STRING && !find_member(v, e->string.text, e->string.length)) *ok = false;
    }
    if (h->names) return schema_refuse(s, h->names, "propertyNames", "cannot be enforced beside enum or const");
    for (const struct json *e = v->list.first; e && *ok && !st; e = e->next) {
        st = schema_member_list(s, h->list, e->key, e->key_length, &members);
        if (!st) st = schema_check(s, e, &members, depth + 1, ok);
    }
    return st;
}

static enum status check_array(struct schema *s, const struct json *v, const struct shape *h, int depth, bool *ok)
{
    struct schema_list items;
    enum status st = ST_OK;
    uint64_t index = 0;
    *ok = (int64_t)v->list.count >= h->items_min && (h->items_max < 0 || (int64_t)v->list.count <= h->items_max);
    if (h->contains) return schema_refuse(s, h->contains, "contains", "cannot be enforced beside enum or const");
    for (const struct json *e = v->list.first; e && *ok && !st; e = e->next) {
        for (const struct json *f = e->next; h->unique && f; f = f->next) if (schema_equal(e, f)) *ok = false;
        st = schema_item_list(s, h->list, index++, &items);
        if (!st && *ok) st = schema_check(s, e, &items, depth + 1, ok);
    }
    return st;
}

static enum status check_string(struct schema *s, const struct json *v, const struct shape *h, bool *ok)
{
    struct dfa *d = NULL;
    int64_t length = 0;
    for (size_t i = 0; i < v->string.length; i++) length += (v->string.text[i] & 0xc0) != 0x80;
    enum status st = schema_string_dfa(s, h, &d);
    *ok = length >= h->length_min && (h->length_max < 0 || length <= h->length_max) && (!d || dfa_accepts(d, v->string.text, v->string.length));
    return st;
}

enum status schema_check(struct schema *s, const struct json *value, const struct schema_list *list, int depth, bool *ok)
{
    struct schema_alternatives all;
    *ok = !list->count;
    if (*ok) return ST_OK;
    if (depth > GRAMMAR_DEPTH_SOURCE_MAX) return err_set(s->err, ST_BAD_INPUT, "schema: a constant is nested too deep");
    enum status st = schema_expand(s, list, depth < SCHEMA_DEPTH_MAX ? depth : SCHEMA_DEPTH_MAX, &all);
    for (uint32_t i = 0; i < all.count && !st && !*ok; i++) {
        struct shape h;
        st = schema_merge(s, &all.at[i], &h);
        if (st || !(h.types & type_of_value(value)) || !allowed(value, &all.at[i])) continue;
        *ok = true;
        if (is_number(value)) st = schema_number_check(s, &h, value, ok);
        else if (value->type == JSON_STRING) st = check_string(s, value, &h, ok);
        else if (value->type == JSON_OBJECT) st = check_object(s, value, &h, depth, ok);
        else if (value->type == JSON_ARRAY) st = check_array(s, value, &h, depth, ok);
    }
    return st;
}

/* An object that must have a member which nothing satisfies is impossible. */
static enum status possible_object(struct schema *s, const struct schema_list *list, int depth, bool *possible)
{
    struct schema_list member;
    enum status st = ST_OK;
    *possible = true;
    for (uint32_t i = 0; i < list->count && *possible && !st; i++) {
        const struct json *k = json_get(list->at[i], "required");
        for (const struct json *e = k && k->type == JSON_ARRAY ? k->list.first : NULL; e && *possible && !st; e = e->next) {
            if (e->type != JSON_STRING) continue;
            st = schema_member_list(s, list, e->string.text, e->string.length, &member);
            if (!st) st = schema_possible(s, &member, depth + 1, possible);
        }
    }
    return st;
}

enum status schema_possible(struct schema *s, const struct schema_list *list, int depth, bool *possible)
{
    struct schema_alternatives all;
    *possible = true;
    if (depth > SCHEMA_DEPTH_MAX || !list->count) return ST_OK;
    enum status st = schema_expand(s, list, depth, &all);
    *possible = false;
    for (uint32_t i = 0; i < all.count && !st && !*possible; i++) {
        struct shape h;
        st = schema_merge(s, &all.at[i], &h);
        if (st || !h.types) continue;
        if (h.allowed) {
            for (const struct json *v = h.allowed_const ? h.allowed : h.allowed->list.first; v && !st && !*possible; v = h.allowed_const ? NULL : v->next) st = schema_check(s, v, &all.at[i], depth + 1, possible);
        } else if (h.types == TYPE_OBJECT) st = possible_object(s, &all.at[i], depth, possible);
        else *possible = true;
    }
    return st;
}
