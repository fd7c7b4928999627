/* Schemas made from schemas. The negation of a schema object is the union over its keywords of "this keyword fails", each of which is a schema again:
 * what fails `required` lacks a member, what fails `properties` has a member that fails. Keywords without such a form are refused. */
#include <string.h>

#include "engine/text/schema_internal.h"

static struct json *node(struct schema *s, enum json_type type)
{
    struct json *j = arena_calloc(&s->net.arena, 1, sizeof *j);
    if (j) j->type = type;
    return j;
}

static bool add_origin(struct schema *s, const struct json *made, const struct json *origin)
{
    if (s->origin_count == s->origin_room) {
        uint32_t room = s->origin_room ? 2 * s->origin_room : 64;
        const struct json *(*more)[2] = arena_calloc(&s->net.arena, room, sizeof *more);
        if (!more) return false;
        if (s->origin_count) memcpy(more, s->origins, s->origin_count * sizeof *more);
        s->origins = more, s->origin_room = room;
    }
    s->origins[s->origin_count][0] = made;
    s->origins[s->origin_count++][1] = origin;
    return true;
}

struct json *schema_make(struct schema *s, const struct json *origin)
{
    struct json *j = node(s, JSON_OBJECT);
    return j && add_origin(s, j, origin) ? j : NULL;
}

bool schema_is_made(const struct schema *s, const struct json *schema)
{
    for (uint32_t i = s->origin_count; i--; ) if (s->origins[i][0] == schema) return true;
    return false;
}

struct json *schema_make_list(struct schema *s) { return node(s, JSON_ARRAY); }

struct json *schema_make_bool(struct schema *s, bool v)
{
    struct json *j = node(s, JSON_BOOL);
    if (j) j->boolean = v;
    return j;
}

struct json *schema_make_text(struct schema *s, const char *text)
{
    struct json *j = node(s, JSON_STRING);
    if (j) j->string.text = text, j->string.length = strlen(text);
    return j;
}

struct json *schema_make_member(struct schema *s, struct json *object, const char *key, const struct json *value)
{
    struct json *j = object && value ? arena_calloc(&s->net.arena, 1, sizeof *j) : NULL;
    if (!j) return NULL;
    *j = *value;
    j->key = key, j->key_length = key ? strlen(key) : 0, j->next = NULL;
    struct json **at = &object->list.first;
    while (*at) at = &(*at)->next;
    *at = j;
    object->list.count++;
    /* A copy of a made schema stands for the same place. */
    for (uint32_t i = s->origin_count; i-- && j->type == JSON_OBJECT; )
        if (s->origins[i][0] == value) return add_origin(s, j, s->origins[i][1]) ? object : NULL;
    return object;
}

static struct json *one(struct schema *s, const struct json *origin, const char *type, const char *key, const struct json *value)
{
    struct json *j = schema_make(s, origin);
    if (j && type) j = schema_make_member(s, j, "type", schema_make_text(s, type));
    return j ? schema_make_member(s, j, key, value) : NULL;
}

/* A number one above or below another; for bounds on counts. */
static const struct json *count_beside(struct schema *s, const struct json *n, int by)
{
    int64_t v;
    struct json *j = node(s, JSON_INT);
    if (!j || !json_as_int64(n, &v)) return NULL;
    j->integer = v + by;
    return j;
}

static bool is_number(const struct json *j) { return j->type == JSON_INT || j->type == JSON_UINT || j->type == JSON_REAL; }

/* What differs from one number: no number, a smaller or a greater one. */
static struct json *other_number(struct schema *s, const struct json *origin, const struct json *number)
{
    struct json *list = schema_make_list(s);
    struct json *parts[3] = { one(s, origin, NULL, "not type", schema_make_text(s, "number")), one(s, origin, "number", "exclusiveMaximum", number), one(s, origin, "number", "exclusiveMinimum", number) };
    for (int i = 0; i < 3 && list; i++) list = parts[i] ? schema_make_member(s, list, NULL, parts[i]) : NULL;
    return list ? one(s, origin, NULL, "anyOf", list) : NULL;
}

/* What differs from every value of an enum, or from a const. */
static struct json *other_value(struct schema *s, const struct json *origin, const struct json *k, bool list)
{
    struct json *all = schema_make_list(s);
    for (const struct json *v = list ? k->list.first : k; v && all; v = list ? v->next : NULL) {
        struct json *made = is_number(v) ? other_number(s, origin, v) : one(s, origin, NULL, "not const", v);
        all = made ? schema_make_member(s, all, NULL, made) : NULL;
    }
    return all ? one(s, origin, NULL, "allOf", all) : NULL;
}

/* Adds to `any` what fails this keyword. *known false: no such form. */
static enum status negate_member(struct schema *s, const struct json *origin, const struct json *k, struct json *any, bool *known)
{
    static const struct { const char *key, *type, *opposite; int by; } bounds[] = {
        { "minimum", "number", "exclusiveMaximum", 0 }, { "maximum", "number", "exclusiveMinimum", 0 }, { "exclusiveMinimum", "number", "maximum", 0 }, { "exclusiveMaximum", "number", "minimum", 0 },
        { "minLength", "string", "maxLength", -1 }, { "maxLength", "string", "minLength", 1 }, { "minItems", "array", "maxItems", -1 }, { "maxItems", "array", "minItems", 1 },
        { "minProperties", "object", "maxProperties", -1 }, { "maxProperties", "object", "minProperties", 1 },
    };
    static const struct { const char *key, *made; } plain[] = { { "type", "not type" }, { "pattern", "not pattern" }, { "not type", "type" } };
    struct json *made = NULL;
    *known = true;
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        if (strcmp(k->key, bounds[i].key)) continue;
        const struct json *v = bounds[i].by ? count_beside(s, k, bounds[i].by) : k;
        if (bounds[i].by == -1 && v && v->integer < 0) return ST_OK;            /* it cannot fail */
        made = one(s, origin, bounds[i].type, bounds[i].opposite, v);
        return made && schema_make_member(s, any, NULL, made) ? ST_OK : schema_no_memory(s);
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(k->key, plain[i].key)) continue;
        made = one(s, origin, strcmp(k->key, "pattern") ? NULL : "string", plain[i].made, k);
        return made && schema_make_member(s, any, NULL, made) ? ST_OK : schema_no_memory(s);
    }
    if (strcmp(k->key, "const") == 0 || (strcmp(k->key, "enum") == 0 && k->type == JSON_ARRAY)) {
        made = other_value(s, origin, k, k->key[0] == 'e');
        return made && schema_make_member(s, any, NULL, made) ? ST_OK : schema_no_memory(s);
    }
    if (strcmp(k->key, "not") == 0) return schema_make_member(s, any, NULL, k) ? ST_OK : schema_no_memory(s);
    if (strcmp(k->key, "required") == 0 || strcmp(k->key, "properties") == 0 || strcmp(k->key, "allOf") == 0) {
        for (const struct json *e = k->list.first; e; e = e->next) {
            bool required = k->key[0] == 'r', all = k->key[0] == 'a';
            if (required && e->type != JSON_STRING) continue;
            const char *name = required ? e->string.text : e->key;
            struct json *inner = required ? schema_make_bool(s, false) : one(s, origin, NULL, "not", e);
            if (all) made = inner;
            else {
                struct json *members = schema_make_member(s, schema_make(s, origin), name, inner), *names = schema_make_member(s, schema_make_list(s), NULL, schema_make_text(s, name));
                made = members ? one(s, origin, "object", "properties", members) : NULL;
                if (made && !required) made = names ? schema_make_member(s, made, "required", names) : NULL;
            }
            if (!made || !schema_make_member(s, any, NULL, made)) return schema_no_memory(s);
        }
        return ST_OK;
    }
    if (strcmp(k->key, "anyOf") == 0) {
        struct json *list = schema_make_list(s);
        for (const struct json *e = k->list.first; e && list; e = e->next) list = schema_make_member(s, list, NULL, one(s, origin, NULL, "not", e));
        made = list ? one(s, origin, NULL, "allOf", list) : NULL;
        return made && schema_make_member(s, any, NULL, made) ? ST_OK : schema_no_memory(s);
    }
    *known = false;
    return ST_OK;
}

enum status schema_negate(struct schema *s, const struct json *schema, const struct json **out)
{
    static const char *const silent[] = { "title", "description", "default", "examples", "$comment", "$schema", "$id", "$defs", "definitions", "deprecated", "readOnly", "writeOnly", "$anchor" };
    enum status checked = schema_check_keywords(s, schema);
    if (checked) return checked;
    if (schema->type == JSON_BOOL) return (*out = schema_make_bool(s, !schema->boolean)) ? ST_OK : schema_no_memory(s);
    struct json *any = schema_make_list(s), *made = schema_make(s, schema);
    if (!any || !made) return schema_no_memory(s);
    for (const struct json *k = schema->list.first; k; k = k->next) {
        bool known = false;
        for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) known |= strcmp(k->key, silent[i]) == 0;
        if (known) continue;
        enum status st = negate_member(s, schema, k, any, &known);
        if (st) return st;
        if (!known) return schema_refuse(s, schema, k->key, "cannot be negated (in not, if, or a oneOf whose branches overlap)");
    }
    if (!any->list.count) return (*out = schema_make_bool(s, false)) ? ST_OK : schema_no_memory(s);
    *out = schema_make_member(s, made, "anyOf", any);
    return *out ? ST_OK : schema_no_memory(s);
}
