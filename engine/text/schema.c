/* JSON Schema to rules: the document is walked once for its limits and places, then rules are written for one list of schemas after another (no recursion: a rule that is
 * needed is only numbered, and written when its turn comes; that is also what makes recursive $ref finite).
 *
 * schema_expand brings a list into disjunctive form. Each branch keeps what is done and what is still to be looked at; anyOf, oneOf and if split it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/text/schema_internal.h"

enum status schema_no_memory(const struct schema *s) { return err_set(s->err, ST_BAD_INPUT, "the schema needs too much memory to compile"); }

/* "#/properties/a" of a value of the document, cut at the front when it is long. */
static void path_of(const struct schema *s, const struct json *at, char *out, size_t room)
{
    char text[400];
    size_t begin = sizeof text - 1;
    uint32_t i = 0;
    text[begin] = 0;
    for (uint32_t o = s->origin_count; o--; ) if (s->origins[o][0] == at) at = s->origins[o][1];
    while (i < s->place_count && s->places[i].node != at) i++;
    for (; i < s->place_count && i; i = s->places[i].parent) {
        char step[80];
        const struct json *j = s->places[i].node;
        int n = j->key ? snprintf(step, sizeof step, "/%.60s", j->key) : snprintf(step, sizeof step, "/%u", s->places[i].index);
        if (n < 0 || (size_t)n >= begin) break;
        begin -= (size_t)n;
        memcpy(text + begin, step, (size_t)n);
    }
    snprintf(out, room, "#%s", text + begin);
}

enum status schema_refuse(const struct schema *s, const struct json *at, const char *keyword, const char *why)
{
    char path[300];
    path_of(s, at, path, sizeof path);
    return err_set(s->err, ST_BAD_INPUT, "schema: keyword '%.60s' at %s %s", keyword, path, why);
}

bool schema_list_add(struct schema_list *l, const struct json *schema)
{
    if ((schema->type == JSON_BOOL && schema->boolean) || (schema->type == JSON_OBJECT && !schema->list.count)) return true;
    for (uint32_t i = 0; i < l->count; i++) if (l->at[i] == schema) return true;
    if (l->count == SCHEMA_LIST_MAX) return false;
    l->at[l->count++] = schema;
    return true;
}

int32_t schema_rule(struct schema *s, const struct schema_list *list)
{
    uint64_t hash = list->count;
    if (!list->count) return s->parts.rule[JSON_PART_VALUE];
    for (uint32_t i = 0; i < list->count; i++) hash = (hash ^ (uintptr_t)list->at[i]) * 1099511628211u;
    for (uint32_t i = 0; i < s->memo_count; i++)
        if (s->memos[i].hash == hash && s->memos[i].list.count == list->count && memcmp(s->memos[i].list.at, list->at, list->count * sizeof *list->at) == 0) return s->memos[i].rule;
    if (s->memo_count == s->memo_room) {
        uint32_t room = s->memo_room ? 2 * s->memo_room : 32;
        struct schema_memo *more = arena_calloc(&s->net.arena, room, sizeof *more);
        if (!more) {
            struct err e;
            err_set(&e, ST_BAD_INPUT, "the schema needs too much memory to compile");
            net_fail(&s->net, &e);
            return 0;
        }
        if (s->memo_count) memcpy(more, s->memos, s->memo_count * sizeof *more);
        s->memos = more, s->memo_room = room;
    }
    int32_t rule = net_rule(&s->net, NULL, 0);
    s->memos[s->memo_count++] = (struct schema_memo){ *list, rule, hash };
    return rule;
}

/* --- references ----------------------------------------------------------------------------------- */

/* One step of a JSON pointer (RFC 6901, percent-encoded as a URI fragment), compared with a key. */
static bool step_is(const char *step, size_t length, const char *key, size_t key_length)
{
    size_t k = 0;
    for (size_t i = 0; i < length; i++, k++) {
        int c = (unsigned char)step[i];
        if (c == '%' && i + 2 < length) {
            char hex[3] = { step[i + 1], step[i + 2], 0 };
            c = (int)strtol(hex, NULL, 16);
            i += 2;
        }
        if (c == '~' && i + 1 < length) c = step[++i] == '1' ? '/' : '~';
        if (k >= key_length || (unsigned char)key[k] != c) return false;
    }
    return k == key_length;
}

static const struct json *find_pointer(const struct json *at, const char *p)
{
    while (at && *p == '/') {
        size_t n = strcspn(++p, "/");
        const struct json *e = at->type == JSON_OBJECT || at->type == JSON_ARRAY ? at->list.first : NULL;
        if (at->type == JSON_ARRAY) {
            char *end;
            unsigned long index = strtoul(p, &end, 10);
            if (end != p + n || !n) return NULL;
            while (e && index--) e = e->next;
        } else while (e && !step_is(p, n, e->key, e->key_length)) e = e->next;
        at = e;
        p += n;
    }
    return *p ? NULL : at;
}

static const struct json *find_anchor(const struct schema *s, const char *name)
{
    for (uint32_t i = 0; i < s->place_count; i++) {
        const struct json *anchor = json_get(s->places[i].node, "$anchor"), *id = json_get(s->places[i].node, "$id");
        if (json_is_string(anchor, name) || (id && id->type == JSON_STRING && id->string.text[0] == '#' && strcmp(id->string.text + 1, name) == 0)) return s->places[i].node;
    }
    return NULL;
}

static enum status resolve(struct schema *s, const struct json *schema, const struct json *ref, const struct json **out)
{
    const struct json *id = json_get(s->root, "$id");
    if (ref->type != JSON_STRING) return schema_refuse(s, schema, "$ref", "must be a text");
    const char *text = ref->string.text;
    if (id && id->type == JSON_STRING) {
        size_t n = strcspn(id->string.text, "#");
        if (n && strncmp(text, id->string.text, n) == 0 && (text[n] == '#' || !text[n])) text = text[n] ? text + n : "#";
    }
    if (text[0] != '#') return schema_refuse(s, schema, "$ref", "refers to another document, which is never fetched");
    if (s->nested_ids) return schema_refuse(s, schema, "$ref", "cannot be followed in a schema with $id inside");
    *out = !text[1] ? s->root : text[1] == '/' ? find_pointer(s->root, text + 1) : find_anchor(s, text + 1);
    if (!*out) return schema_refuse(s, schema, "$ref", "refers to nothing in the schema");
    return ST_OK;
}

/* --- disjunctive form ----------------------------------------------------------------------------- */

struct branch { struct schema_list done, todo; };
struct branches { struct branch *at; uint32_t count, room; };

static enum status push(struct schema *s, const struct json *schema, struct branch *b, const struct json *more)
{
    if (more->type != JSON_BOOL && more->type != JSON_OBJECT) return schema_refuse(s, schema, "schema", "has a place where a schema should be an object, true or false");
    return schema_list_add(&b->todo, more) ? ST_OK : schema_refuse(s, schema, "allOf", "joins more than 64 schemas in one place");
}

/* A copy of *b that must also satisfy `more` (and `also`). */
static enum status split(struct schema *s, struct branches *all, const struct branch *b, const struct json *schema, const struct json *more, const struct json *also)
{
    if (all->count == SCHEMA_ALTERNATIVES_MAX) return schema_refuse(s, schema, "anyOf", "and its like make more than 128 alternatives");
    if (all->count == all->room) {
        uint32_t room = all->room ? 2 * all->room : 4;
        struct branch *at = arena_calloc(&s->net.arena, room, sizeof *at);
        if (!at) return schema_no_memory(s);
        if (all->count) memcpy(at, all->at, all->count * sizeof *at);
        all->at = at, all->room = room;
    }
    struct branch *made = all->at + all->count;
    *made = *b;
    enum status st = push(s, schema, made, more);
    if (!st && also) st = push(s, schema, made, also);
    if (!st) all->count++;
    return st;
}

/* Do all pairs of the branches exclude each other? What stands around them is left out: it holds the oneOf itself. */
static enum status disjoint(struct schema *s, const struct json *branches, int depth, bool *yes)
{
    *yes = true;
    for (const struct json *x = branches->list.first; x; x = x->next)
        for (const struct json *y = x->next; y && *yes; y = y->next) {
            struct schema_list both = { 0 };
            bool possible = true;
            if (!schema_list_add(&both, x) || !schema_list_add(&both, y)) return ST_OK;
            enum status st = depth >= SCHEMA_DEPTH_MAX ? ST_OK : schema_possible(s, &both, depth + 1, &possible);
            if (st) return st;
            if (possible) *yes = false;
        }
    return ST_OK;
}

static enum status split_one_of(struct schema *s, struct branches *all, const struct branch *b, const struct json *schema, const struct json *options, int depth)
{
    bool apart;
    enum status st = disjoint(s, options, depth, &apart);
    for (const struct json *x = options->list.first; x && !st; x = x->next) {
        struct json *rest = apart ? NULL : schema_make_list(s), *made = apart ? NULL : schema_make(s, schema);
        for (const struct json *y = apart ? NULL : options->list.first; y && !st; y = y->next) {
            const struct json *not_y;
            if (y == x) continue;
            st = schema_negate(s, y, &not_y);
            if (!st && !schema_make_member(s, rest, NULL, not_y)) st = schema_no_memory(s);
        }
        if (!st && !apart && !schema_make_member(s, made, "allOf", rest)) st = schema_no_memory(s);
        if (!st) st = split(s, all, b, schema, x, made);
    }
    return st;
}

/* `dependencies` and its successors: lacks the member, or satisfies the rest. Made into one anyOf per member. */
static enum status push_dependencies(struct schema *s, const struct json *schema, const struct json *list, struct branch *b)
{
    for (const struct json *e = list->list.first; e; e = e->next) {
        struct json *members = schema_make_member(s, schema_make(s, schema), e->key, schema_make_bool(s, false)), *lacks = schema_make(s, schema), *rest = schema_make(s, schema), *any = schema_make_list(s), *made = schema_make(s, schema);
        if (!members || !lacks || !rest || !any || !made || !schema_make_member(s, lacks, "properties", members)) return schema_no_memory(s);
        if (e->type == JSON_ARRAY && !schema_make_member(s, rest, "required", e)) return schema_no_memory(s);
        if (!schema_make_member(s, any, NULL, lacks) || !schema_make_member(s, any, NULL, e->type == JSON_ARRAY ? rest : e) || !schema_make_member(s, made, "anyOf", any)) return schema_no_memory(s);
        /* A list of names asks for an object, and so does the member: other types satisfy `lacks`. */
        enum status st = push(s, schema, b, made);
        if (st) return st;
    }
    return ST_OK;
}

enum status schema_check_keywords(const struct schema *s, const struct json *schema)
{
    static const struct { const char *keyword; enum json_type type; const char *words; } types[] = {
        { "properties", JSON_OBJECT, "must be an object" }, { "patternProperties", JSON_OBJECT, "must be an object" }, { "dependencies", JSON_OBJECT, "must be an object" },
        { "dependentRequired", JSON_OBJECT, "must be an object" }, { "dependentSchemas", JSON_OBJECT, "must be an object" }, { "required", JSON_ARRAY, "must be a list of names" },
        { "allOf", JSON_ARRAY, "must be a list" }, { "anyOf", JSON_ARRAY, "must be a list" }, { "oneOf", JSON_ARRAY, "must be a list" }, { "enum", JSON_ARRAY, "must be a list" },
        { "prefixItems", JSON_ARRAY, "must be a list" }, { "pattern", JSON_STRING, "must be a text" }, { "format", JSON_STRING, "must be a text" }, { "uniqueItems", JSON_BOOL, "must be true or false" },
    };
    if (schema->type != JSON_OBJECT) return schema->type == JSON_BOOL ? ST_OK : schema_refuse(s, schema, schema->key ? schema->key : "schema", "must be an object, true or false");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct json *k = json_get(schema, types[i].keyword);
        if (k && k->type != types[i].type) return schema_refuse(s, schema, types[i].keyword, types[i].words);
    }
    static const char *const refused[] = { "$dynamicRef", "$recursiveRef" }, *const own[] = { "not type", "not pattern", "not const" };
    static const char *const combining[] = { "$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "contains" };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) if (json_get(schema, refused[i])) return schema_refuse(s, schema, refused[i], "cannot be enforced");
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (json_get(schema, own[i]) && !schema_is_made(s, schema)) return schema_refuse(s, schema, own[i], "is no keyword");
    for (int i = 0; i < 2; i++) {
        const char *keyword = i ? "unevaluatedItems" : "unevaluatedProperties";
        const struct json *k = json_get(schema, keyword);
        if (!k || (k->type == JSON_BOOL && k->boolean)) continue;
        for (size_t c = 0; c < sizeof combining / sizeof *combining; c++)
            if (json_get(schema, combining[c])) return schema_refuse(s, schema, keyword, "cannot be enforced beside combinators");
    }
    return ST_OK;
}

/* Takes one schema out of the branch's todo. *dead: nothing satisfies the branch; *did_split: it was replaced by others. */
static enum status expand_one(struct schema *s, struct branches *all, struct branch *b, int depth, bool *dead, bool *did_split)
{
    static const char *const lists[] = { "anyOf", "oneOf" };
    const struct json *schema = b->todo.at[--b->todo.count], *k, *target;
    *dead = schema->type == JSON_BOOL;       /* true was never added */
    for (uint32_t i = 0; i < b->done.count; i++) if (b->done.at[i] == schema) return ST_OK;
    if (*dead) return ST_OK;
    enum status st = schema_check_keywords(s, schema);
    if (st) return st;
    if ((k = json_get(schema, "$ref"))) {
        if ((st = resolve(s, schema, k, &target)) || (st = push(s, schema, b, target))) return st;
        if (s->draft7) return schema == target ? schema_refuse(s, schema, "$ref", "refers to itself") : ST_OK;
    }
    if (!schema_list_add(&b->done, schema)) return schema_refuse(s, schema, "allOf", "joins more than 64 schemas in one place");
    if ((k = json_get(schema, "allOf"))) {
        for (size_t i = k->list.count; i--; ) {       /* todo is taken from its end */
            const struct json *e = k->list.first;
            for (size_t n = i; n; n--) e = e->next;
            if ((st = push(s, schema, b, e))) return st;
        }
    }
    if ((k = json_get(schema, "not"))) {
        if ((st = schema_negate(s, k, &target)) || (st = push(s, schema, b, target))) return st;
    }
    static const char *const dependencies[] = { "dependencies", "dependentRequired", "dependentSchemas" };
    for (int i = 0; i < 3; i++)
        if ((k = json_get(schema, dependencies[i]))) {
            if ((st = push_dependencies(s, schema, k, b))) return st;
        }
    /* Up to three splits: each works on what the one before has made. */
    struct branches now = { 0 };
    struct json *nothing = schema_make_bool(s, true);
    if (!nothing) return schema_no_memory(s);
    const struct json *condition = json_get(schema, "if"), *options[2] = { json_get(schema, lists[0]), json_get(schema, lists[1]) };
    if (condition && !json_get(schema, "then") && !json_get(schema, "else")) condition = NULL;
    if (!condition && !options[0] && !options[1]) return ST_OK;
    if ((st = split(s, &now, b, schema, nothing, NULL))) return st;
    for (int i = 0; i < 3 && !st; i++) {
        struct branches next = { 0 };
        const struct json *o = i < 2 ? options[i] : condition;
        if (!o) continue;
        for (uint32_t n = 0; n < now.count && !st; n++) {
            if (i == 0) for (const struct json *e = o->list.first; e && !st; e = e->next) st = split(s, &next, now.at + n, schema, e, NULL);
            else if (i == 1) st = split_one_of(s, &next, now.at + n, schema, o, depth);
            else {
                const struct json *then = json_get(schema, "then"), *other = json_get(schema, "else");
                st = schema_negate(s, o, &target);
                if (!st) st = split(s, &next, now.at + n, schema, o, then);
                if (!st) st = split(s, &next, now.at + n, schema, target, other);
            }
        }
        now = next;
    }
    *did_split = true;
    for (uint32_t n = 0; n < now.count && !st; n++) st = split(s, all, now.at + n, schema, nothing, NULL);
    return st;
}

enum status schema_expand(struct schema *s, const struct schema_list *list, int depth, struct schema_alternatives *out)
{
    struct branches open = { 0 };
    struct branch first = { .todo = *list };
    struct json *nothing = schema_make_bool(s, true);
    *out = (struct schema_alternatives){ .at = arena_calloc(&s->net.arena, SCHEMA_ALTERNATIVES_MAX, sizeof *out->at) };
    if (!nothing || !out->at) return schema_no_memory(s);
    for (uint32_t i = 0; i < first.todo.count / 2; i++) {       /* taken from the end: the first comes first */
        const struct json *swap = first.todo.at[i];
        first.todo.at[i] = first.todo.at[first.todo.count - 1 - i], first.todo.at[first.todo.count - 1 - i] = swap;
    }
    enum status st = split(s, &open, &first, s->root, nothing, NULL);
    while (open.count && !st) {
        struct branch b = open.at[--open.count];
        bool dead = false, did_split = false;
        while (b.todo.count && !dead && !did_split && !st) {
            if (++s->steps > SCHEMA_STEPS_MAX) return err_set(s->err, ST_BAD_INPUT, "schema: its alternatives take more than %d steps to tell apart", SCHEMA_STEPS_MAX);
            st = expand_one(s, &open, &b, depth, &dead, &did_split);
            if (!st && s->steps % 32 == 0) st = dfa_maker_check(&s->net.maker, s->err);
        }
        if (st || dead || did_split) continue;
        if (out->count == SCHEMA_ALTERNATIVES_MAX) return err_set(s->err, ST_BAD_INPUT, "schema: anyOf and its like make more than 128 alternatives in one place");
        out->at[out->count++] = b.done;
    }
    return st;
}

/* --- the whole ------------------------------------------------------------------------------------ */

static enum status walk_places(struct schema *s)
{
    struct buf b;
    buf_init(&b, GRAMMAR_SOURCE_MAX);
    json_write(&b, s->root);
    bool fits = !b.failed;
    size_t room = b.length / 2 + 16;
    buf_free(&b);
    if (!fits) return err_set(s->err, ST_BAD_INPUT, "a schema may have 65536 bytes at most");
    s->places = arena_calloc(&s->net.arena, room, sizeof *s->places);
    uint8_t *depth = arena_calloc(&s->net.arena, room, 1);
    if (!s->places || !depth) return schema_no_memory(s);
    s->places[s->place_count++] = (struct schema_place){ s->root, 0, 0 };
    for (uint32_t i = 0; i < s->place_count; i++) {
        const struct json *j = s->places[i].node;
        uint32_t index = 0;
        if (j->type != JSON_OBJECT && j->type != JSON_ARRAY) continue;
        const struct json *id = i ? json_get(j, "$id") : NULL;
        if (id && id->type == JSON_STRING && id->string.text[0] != '#') s->nested_ids = true;
        for (const struct json *e = j->list.first; e && s->place_count < room; e = e->next) {
            depth[s->place_count] = (uint8_t)(depth[i] + 1);
            if (depth[i] + 1 > GRAMMAR_DEPTH_SOURCE_MAX) return err_set(s->err, ST_BAD_INPUT, "a schema may be nested 64 deep at most");
            s->places[s->place_count++] = (struct schema_place){ e, i, index++ };
        }
    }
    return ST_OK;
}

enum status schema_write(struct schema *s)
{
    enum status st = ST_OK;
    while (s->todo < s->memo_count && !st && !s->net.status) {
        struct schema_memo memo = s->memos[s->todo++];
        struct schema_alternatives all;
        st = schema_expand(s, &memo.list, 0, &all);
        for (uint32_t i = 0; i < all.count && !st; i++) {
            struct shape shape;
            st = schema_merge(s, &all.at[i], &shape);
            if (!st && shape.types) st = schema_emit(s, &shape, s->net.rules[memo.rule].start, s->net.rules[memo.rule].end);
        }
        if (!st) st = dfa_maker_check(&s->net.maker, s->err);
    }
    return st;
}

enum status schema_set_root(struct schema *s, const struct json *root)
{
    const struct json *draft = json_get(root, "$schema");
    s->root = root;
    s->place_count = 0;
    s->nested_ids = false;
    s->draft7 = draft && draft->type == JSON_STRING && (strstr(draft->string.text, "draft-07") || strstr(draft->string.text, "draft-06") || strstr(draft->string.text, "draft-04"));
    if (root->type != JSON_OBJECT && root->type != JSON_BOOL) return err_set(s->err, ST_BAD_INPUT, "a schema must be an object, true or false");
    return walk_places(s);
}

enum status grammar_open_schema(struct grammar **out, const struct json *schema, struct err *err)
{
    struct schema *s = calloc(1, sizeof *s);
    struct err own;
    struct schema_list list = { 0 };
    if (!s) return err_set(err, ST_NO_MEMORY, "schema: out of memory");
    net_open(&s->net);
    s->err = err ? err : &own;
    enum status st = schema_set_root(s, schema);
    if (!st) {
        net_json_parts(&s->net, &s->parts);
        schema_list_add(&list, schema);
        int32_t root = schema_rule(s, &list);
        st = schema_write(s);
        if (!st) st = net_finish(&s->net, root, false, out, s->err);
    }
    net_close(&s->net);
    free(s);
    return st;
}
