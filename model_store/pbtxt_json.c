/* The JSON side of the same tables. Recursion follows the table, which does not nest within itself, so its depth is a constant. */
#include "model_store/pbtxt.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reader { struct arena *arena; const char *where; struct err *err; };

#define REFUSE(r, ...) (err_set((r)->err, ST_BAD_INPUT, __VA_ARGS__), err_prefix((r)->err, "%.150s", (r)->where))

static enum status refuse_memory(struct reader *r) { return err_set(r->err, ST_NO_MEMORY, "%.150s: the config needs more memory than its budget", r->where); }

/* "maxBatchSize" is protobuf's other spelling of "max_batch_size". */
static bool same_name(const char *field, const char *key)
{
    if (!strcmp(field, key)) return true;
    for (; *field && *key; key++) {
        char c = *field++;
        if (c == '_' && *field) c = (char)toupper((unsigned char)*field++);
        if (c != *key) return false;
    }
    return !*field && !*key;
}

static const struct schema_field *find_field(const struct schema_message *m, const struct json *member)
{
    for (int i = 0; i < m->count; i++)
        if (strlen(member->key) == member->key_length && same_name(m->fields[i].name, member->key)) return &m->fields[i];
    return NULL;
}

static enum status read_integer(struct reader *r, const struct schema_field *f, const struct json *j, struct json *out)
{
    static const uint64_t most[] = { [SCHEMA_INT32] = INT32_MAX, [SCHEMA_UINT32] = UINT32_MAX, [SCHEMA_INT64] = INT64_MAX, [SCHEMA_UINT64] = UINT64_MAX };
    struct json n = *j;
    if (j->type == JSON_STRING) {          /* 64-bit integers come in quotes */
        const char *end = j->string.text + j->string.length;
        if (json_number(j->string.text, end, &n) != end) return REFUSE(r, "field '%s' is no whole number", f->name);
    }
    if (n.type == JSON_REAL && n.real == floor(n.real) && fabs(n.real) < 9e15) n.type = JSON_INT, n.integer = (int64_t)n.real;
    if (n.type != JSON_INT && n.type != JSON_UINT) return REFUSE(r, "field '%s' is no whole number", f->name);
    bool negative = n.type == JSON_INT && n.integer < 0, sign = f->type == SCHEMA_INT32 || f->type == SCHEMA_INT64;
    uint64_t size = negative ? 0 - n.natural : n.natural;
    if (size > most[f->type] + (negative && sign) || (negative && !sign)) return REFUSE(r, "the number of field '%s' is out of its range", f->name);
    out->type = n.type;
    out->natural = n.natural;
    return ST_OK;
}

static enum status read_scalar(struct reader *r, const struct schema_field *f, const struct json *j, struct json *out)
{
    int64_t number;
    switch (f->type) {
    case SCHEMA_STRING:
        if (j->type != JSON_STRING || memchr(j->string.text, 0, j->string.length)) return REFUSE(r, "field '%s' is no text", f->name);
        out->type = JSON_STRING;
        out->string.length = j->string.length;
        out->string.text = arena_copy(r->arena, j->string.text, j->string.length);
        return out->string.text ? ST_OK : refuse_memory(r);
    case SCHEMA_BOOL:
        if (j->type != JSON_BOOL) return REFUSE(r, "field '%s' is neither true nor false", f->name);
        out->type = JSON_BOOL;
        out->boolean = j->boolean;
        return ST_OK;
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE:
        if (!json_as_double(j, &out->real) || !isfinite(f->type == SCHEMA_FLOAT ? (float)out->real : out->real)) return REFUSE(r, "field '%s' is no number", f->name);
        out->type = JSON_REAL;
        return ST_OK;
    case SCHEMA_ENUM:
        for (int i = 0; f->names[i]; i++) {
            if (!json_is_string(j, f->names[i]) && !(json_as_int64(j, &number) && number == i)) continue;
            out->type = JSON_STRING;
            out->string.text = f->names[i];
            out->string.length = strlen(f->names[i]);
            return ST_OK;
        }
        return REFUSE(r, "field '%s' has an unknown value", f->name);
    default:
        return read_integer(r, f, j, out);
    }
}

static enum status read_message(struct reader *r, const struct schema_message *m, const struct json *j, struct json *out);

static enum status read_value(struct reader *r, const struct schema_field *f, const struct json *j, struct json *out)
{
    if (f->type != SCHEMA_MESSAGE) return read_scalar(r, f, j, out);
    if (j->type != JSON_OBJECT) return REFUSE(r, "field '%s' is no object", f->name);
    out->type = JSON_OBJECT;
    return read_message(r, f->message, j, out);
}

static enum status read_field(struct reader *r, const struct schema_field *f, const struct json *j, struct json *object)
{
    bool is_map = f->rule >= SCHEMA_MAP;
    struct json *n = pbtxt_add(r->arena, object, f->name, is_map ? JSON_OBJECT : JSON_ARRAY);
    if (!n) return refuse_memory(r);
    if (f->rule == SCHEMA_ONE) return read_value(r, f, j, n);
    if (j->type != (is_map ? JSON_OBJECT : JSON_ARRAY)) return REFUSE(r, "field '%s' is no %s", f->name, is_map ? "object" : "array");
    if (j->list.count > PBTXT_LIST_MAX) return REFUSE(r, "field '%s' has more than %d entries", f->name, PBTXT_LIST_MAX);
    for (const struct json *e = j->list.first; e; e = e->next) {
        if (is_map && (json_get(n, e->key) || strlen(e->key) != e->key_length)) return REFUSE(r, "a key of field '%s' is given twice", f->name);
        if (f->rule == SCHEMA_MAP_BY_NUMBER && (!*e->key || strspn(e->key, "0123456789") != e->key_length || e->key_length > 19)) return REFUSE(r, "a key of field '%s' is no number", f->name);
        struct json *to = pbtxt_add(r->arena, n, is_map ? e->key : NULL, JSON_NULL);
        enum status st = to ? read_value(r, f, e, to) : refuse_memory(r);
        if (st) return st;
    }
    return ST_OK;
}

static enum status read_message(struct reader *r, const struct schema_message *m, const struct json *j, struct json *out)
{
    for (const struct json *member = j->list.first; member; member = member->next) {
        const struct schema_field *f = find_field(m, member);
        if (!f) return REFUSE(r, "%s has no field '%.60s'", m->name, member->key);
        if (member->type == JSON_NULL) continue;
        if (json_get(out, f->name)) return REFUSE(r, "field '%s' of %s is given twice", f->name, m->name);
        for (int i = 0; i < m->count; i++)
            if (schema_excludes(&m->fields[i], f) && json_get(out, m->fields[i].name)) return REFUSE(r, "'%s' and '%s' of %s exclude each other", m->fields[i].name, f->name, m->name);
        enum status st = read_field(r, f, member, out);
        if (st) return st;
    }
    return ST_OK;
}

enum status pbtxt_from_json(struct json **out, struct arena *arena, const struct schema_message *m, const struct json *j, const char *where, struct err *err)
{
    struct reader r = { .arena = arena, .where = where, .err = err };
    if (j->type != JSON_OBJECT) return REFUSE(&r, "the config is no JSON object");
    struct json *root = arena_calloc(arena, 1, sizeof *root);
    if (!root) return refuse_memory(&r);
    root->type = JSON_OBJECT;
    enum status st = read_message(&r, m, j, root);
    if (!st) *out = root;
    return st;
}

static void write_default(struct buf *out, const struct schema_field *f)
{
    if (f->rule == SCHEMA_REPEATED) return buf_puts(out, "[]");
    if (f->rule != SCHEMA_ONE) return buf_puts(out, "{}");
    switch (f->type) {
    case SCHEMA_STRING: buf_puts(out, "\"\""); break;
    case SCHEMA_BOOL:   buf_puts(out, "false"); break;
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE: buf_puts(out, "0.0"); break;
    case SCHEMA_ENUM:   json_write_text(out, f->names[0]); break;
    default:            buf_putc(out, '0');
    }
}

static void write_value(struct buf *out, const struct schema_field *f, const struct json *j)
{
    if (f->type == SCHEMA_MESSAGE) pbtxt_write_json(out, f->message, j);
    else if (f->type == SCHEMA_FLOAT) json_write_float(out, (float)j->real);
    else json_write(out, j);
}

void pbtxt_write_json(struct buf *out, const struct schema_message *m, const struct json *tree)
{
    bool first = true;
    buf_putc(out, '{');
    for (int i = 0; i < m->count; i++) {
        const struct schema_field *f = &m->fields[i];
        const struct json *j = json_get(tree, f->name);
        if (!j && (f->choice || (f->type == SCHEMA_MESSAGE && f->rule == SCHEMA_ONE))) continue;
        if (!first) buf_putc(out, ',');
        first = false;
        json_write_text(out, f->name);
        buf_putc(out, ':');
        if (!j) {
            write_default(out, f);
        } else if (f->rule == SCHEMA_ONE) {
            struct json alone = *j;
            alone.key = NULL;
            alone.next = NULL;
            write_value(out, f, &alone);
        } else {
            bool is_map = f->rule >= SCHEMA_MAP, first_entry = true;
            buf_putc(out, is_map ? '{' : '[');
            for (const struct json *e = j->list.first; e; e = e->next) {
                struct json alone = *e;
                alone.key = NULL;
                alone.next = NULL;
                if (!first_entry) buf_putc(out, ',');
                first_entry = false;
                if (is_map) json_write_text(out, e->key), buf_putc(out, ':');
                write_value(out, f, &alone);
            }
            buf_putc(out, is_map ? '}' : ']');
        }
    }
    buf_putc(out, '}');
}
