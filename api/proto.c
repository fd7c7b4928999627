#include "api/proto.h"

#include "engine/formats/protobuf_write.h"

#include <stdlib.h>

struct reader { struct arena *arena; struct err *err; };

/* ---- from the wire ---- */

static enum status no_memory(struct reader *r) { return err_set(r->err, ST_NO_MEMORY, "no memory for the request"); }

static enum status wrong(struct reader *r, const struct schema_message *m, const char *field, const char *what)
{
    return err_set(r->err, ST_BAD_INPUT, "the request is no valid protobuf: %s%s%s %s", m->name, field ? "." : "", field ? field : "", what);
}

static enum status read_text(struct reader *r, const struct schema_message *m, const struct schema_field *f, const struct pb_field *p, struct json *out)
{
    for (uint64_t at = 0; f->type == SCHEMA_STRING && at < p->length;) {
        size_t n = json_utf8_length((const char *)p->bytes + at, p->length - at);
        if (!n || !p->bytes[at]) return wrong(r, m, f->name, "is not UTF-8 without NULs");
        at += n;
    }
    out->type = JSON_STRING;
    out->string.length = p->length;
    out->string.text = arena_copy(r->arena, p->length ? (const char *)p->bytes : "", p->length);
    return out->string.text ? ST_OK : no_memory(r);
}

static void set_natural(struct json *out, uint64_t v)
{
    out->type = v > INT64_MAX ? JSON_UINT : JSON_INT;
    out->natural = v;
}

/* A field that has its whole value in p->value. */
static enum status read_number(struct reader *r, const struct schema_message *m, const struct schema_field *f, const struct pb_field *p, struct json *out)
{
    enum pb_wire want = f->type == SCHEMA_DOUBLE ? PB_FIXED64 : f->type == SCHEMA_FLOAT ? PB_FIXED32 : PB_VARINT;
    double real;
    float single;
    uint32_t bits = (uint32_t)p->value;
    if (p->wire != want) return wrong(r, m, f->name, "has another wire type");
    switch (f->type) {
    case SCHEMA_DOUBLE: memcpy(&real, &p->value, sizeof real); out->type = JSON_REAL; out->real = real; break;
    case SCHEMA_FLOAT: memcpy(&single, &bits, sizeof single); out->type = JSON_REAL; out->real = (double)single; break;
    case SCHEMA_BOOL: out->type = JSON_BOOL; out->boolean = p->value != 0; break;
    case SCHEMA_INT32: out->type = JSON_INT; out->integer = (int32_t)bits; break;
    case SCHEMA_INT64: out->type = JSON_INT; out->integer = (int64_t)p->value; break;
    case SCHEMA_UINT32: set_natural(out, bits); break;
    default: set_natural(out, p->value);
    }
    return ST_OK;
}

static enum status read_message(struct reader *r, const struct schema_message *m, struct pb c, struct json *out);

/* One value of field f, from its field on the wire, into out. */
static enum status read_value(struct reader *r, const struct schema_message *m, const struct schema_field *f, const struct pb_field *p, struct json *out)
{
    if (f->type != SCHEMA_STRING && f->type != SCHEMA_BYTES && f->type != SCHEMA_MESSAGE) return read_number(r, m, f, p, out);
    if (p->wire != PB_BYTES) return wrong(r, m, f->name, "has another wire type");
    return f->type == SCHEMA_MESSAGE ? read_message(r, f->message, pb_sub(p), out) : read_text(r, m, f, p, out);
}

static struct json *append(struct reader *r, struct json *parent, const char *key)
{
    struct json *node = arena_calloc(r->arena, 1, sizeof *node), **at = &parent->list.first;
    if (!node) return NULL;
    while (*at) at = &(*at)->next;
    *at = node;
    parent->list.count++;
    node->key = key;
    node->key_length = key ? strlen(key) : 0;
    return node;
}

static struct json *member(const struct json *object, const char *key) { return (struct json *)json_get(object, key); }

/* An entry of a map is a message of key 1 and value 2; of two with one key the last counts. */
static enum status read_entry(struct reader *r, const struct schema_message *m, const struct schema_field *f, struct pb c, struct json *map)
{
    struct json key = { .type = JSON_STRING, .string = { "", 0 } }, value = { 0 };
    const struct schema_field key_field = { .name = f->name, .type = f->rule == SCHEMA_MAP ? SCHEMA_STRING : SCHEMA_UINT64 };
    struct schema_field value_field = *f;
    struct pb_field p;
    enum status st = ST_OK;
    value_field.rule = SCHEMA_ONE;
    while (!st && pb_next(&c, &p)) {
        if (p.number == 1) st = read_value(r, m, &key_field, &p, &key);
        else if (p.number == 2) st = read_value(r, m, &value_field, &p, &value);
    }
    if (st) return st;
    if (c.failed) return wrong(r, m, f->name, "has an entry that is cut off");
    const char *name = key.type == JSON_STRING ? key.string.text : arena_format(r->arena, "%llu", (unsigned long long)key.natural);
    struct json *to = name ? member(map, name) : NULL;
    if (!to) to = name ? append(r, map, name) : NULL;
    if (!to) return no_memory(r);
    value.key = to->key, value.key_length = to->key_length, value.next = to->next;
    *to = value;
    return ST_OK;
}

static enum status read_packed(struct reader *r, const struct schema_message *m, const struct schema_field *f, struct pb c, struct json *list)
{
    struct pb_field p = { .wire = f->type == SCHEMA_DOUBLE ? PB_FIXED64 : f->type == SCHEMA_FLOAT ? PB_FIXED32 : PB_VARINT };
    while (c.p < c.end) {
        bool got = p.wire == PB_VARINT ? pb_varint(&c, &p.value) : pb_fixed(&c, p.wire == PB_FIXED64 ? 8 : 4, &p.value);
        if (!got) return wrong(r, m, f->name, "is cut off");
        if (list->list.count >= PROTO_LIST_MAX) return wrong(r, m, f->name, "has too many elements");
        struct json *to = append(r, list, NULL);
        enum status st = to ? read_number(r, m, f, &p, to) : no_memory(r);
        if (st) return st;
    }
    return ST_OK;
}

static enum status read_field(struct reader *r, const struct schema_message *m, const struct schema_field *f, const struct pb_field *p, struct json *out)
{
    bool scalar = f->type != SCHEMA_STRING && f->type != SCHEMA_BYTES && f->type != SCHEMA_MESSAGE;
    struct json *to = member(out, f->name);
    if (!to && !(to = append(r, out, f->name))) return no_memory(r);
    if (f->rule == SCHEMA_ONE) return read_value(r, m, f, p, to);
    to->type = f->rule >= SCHEMA_MAP ? JSON_OBJECT : JSON_ARRAY;
    if (f->rule == SCHEMA_REPEATED && scalar && p->wire == PB_BYTES) return read_packed(r, m, f, pb_sub(p), to);
    if (to->list.count >= PROTO_LIST_MAX) return wrong(r, m, f->name, "has too many elements");
    if (f->rule >= SCHEMA_MAP) return p->wire == PB_BYTES ? read_entry(r, m, f, pb_sub(p), to) : wrong(r, m, f->name, "has another wire type");
    struct json *element = append(r, to, NULL);
    return element ? read_value(r, m, f, p, element) : no_memory(r);
}

static enum status read_message(struct reader *r, const struct schema_message *m, struct pb c, struct json *out)
{
    struct json object = { .type = JSON_OBJECT };
    struct pb_field p;
    while (pb_next(&c, &p)) {
        for (int i = 0; i < m->count; i++) {
            if ((uint32_t)m->fields[i].number != p.number) continue;
            enum status st = read_field(r, m, &m->fields[i], &p, &object);
            if (st) return st;
        }
    }
    if (c.failed) return wrong(r, m, NULL, "is cut off");
    const struct json *last = object.list.first;
    while (last && last->next) last = last->next;      /* of a choice that was sent twice the last counts */
    struct json none = { .type = m->count && m->fields[0].rule == SCHEMA_REPEATED ? JSON_ARRAY : JSON_NULL };
    struct json value = m->bare ? last ? *last : none : object;
    value.key = out->key, value.key_length = out->key_length, value.next = out->next;
    *out = value;
    return ST_OK;
}

enum status proto_read(struct json **out, struct arena *arena, const struct schema_message *m, const void *data, size_t length, struct err *err)
{
    struct reader r = { arena, err };
    struct json *root = arena_calloc(arena, 1, sizeof *root);
    if (!root) return no_memory(&r);
    enum status st = read_message(&r, m, pb_open(data, length), root);
    if (!st) *out = root;
    return st;
}

/* ---- to the wire ---- */

static enum status other_kind(const struct schema_message *m, const struct schema_field *f, struct err *err)
{
    return err_set(err, ST_INTERNAL, "the answer's %s.%s is of another kind than its field", m->name, f->name);
}

static bool number_of(const struct schema_field *f, const struct json *j, uint64_t *out)
{
    if (f->type == SCHEMA_BOOL) return *out = j->boolean, j->type == JSON_BOOL;
    for (int i = 0; f->type == SCHEMA_ENUM && f->names[i]; i++)
        if (json_is_string(j, f->names[i])) return *out = (uint64_t)i, true;
    if (j->type != JSON_INT && j->type != JSON_UINT) return false;
    *out = j->natural;      /* the same bits whatever the sign */
    return true;
}

static enum status write_value(struct buf *out, const struct schema_message *m, const struct schema_field *f, const struct json *j, bool keep_default, struct err *err)
{
    double real;
    uint64_t n;
    switch (f->type) {
    case SCHEMA_STRING: case SCHEMA_BYTES:
        if (j->type != JSON_STRING) return other_kind(m, f, err);
        if (j->string.length || keep_default) pb_put_bytes(out, f->number, j->string.text, j->string.length);
        return ST_OK;
    case SCHEMA_FLOAT: case SCHEMA_DOUBLE:
        if (!json_as_double(j, &real)) return other_kind(m, f, err);
        if (real == 0 && !keep_default) return ST_OK;
        if (f->type == SCHEMA_FLOAT) pb_put_float(out, f->number, (float)real);
        else pb_put_double(out, f->number, real);
        return ST_OK;
    case SCHEMA_MESSAGE: {
        size_t at = pb_begin(out, f->number);
        enum status st = proto_write(out, f->message, j, err);
        pb_end(out, at);
        return st;
    }
    default:
        if (!number_of(f, j, &n)) return other_kind(m, f, err);
        if (n || keep_default) pb_put_number(out, f->number, n);
        return ST_OK;
    }
}

static enum status write_entries(struct buf *out, const struct schema_message *m, const struct schema_field *f, const struct json *map, struct err *err)
{
    struct schema_field value = *f;
    enum status st = ST_OK;
    value.rule = SCHEMA_ONE;
    value.number = 2;
    for (const struct json *e = map->list.first; e && !st; e = e->next) {
        size_t at = pb_begin(out, f->number);
        if (f->rule == SCHEMA_MAP) pb_put_bytes(out, 1, e->key, e->key_length);
        else pb_put_number(out, 1, strtoull(e->key, NULL, 10));
        st = write_value(out, m, &value, e, true, err);
        pb_end(out, at);
    }
    return st;
}

static enum status write_elements(struct buf *out, const struct schema_message *m, const struct schema_field *f, const struct json *list, struct err *err)
{
    enum status st = ST_OK;
    bool packs = f->type != SCHEMA_STRING && f->type != SCHEMA_BYTES && f->type != SCHEMA_MESSAGE && f->type != SCHEMA_FLOAT && f->type != SCHEMA_DOUBLE;
    if (!packs) {      /* floats may stand alone as well: every reader takes both */
        for (const struct json *e = list->list.first; e && !st; e = e->next) st = write_value(out, m, f, e, true, err);
        return st;
    }
    if (!list->list.first) return ST_OK;
    size_t at = pb_begin(out, f->number);
    for (const struct json *e = list->list.first; e; e = e->next) {
        uint64_t n;
        if (!number_of(f, e, &n)) return other_kind(m, f, err);
        pb_put_varint(out, n);
    }
    pb_end(out, at);
    return ST_OK;
}

/* Which of a bare message's fields takes this value; a list may be one value without brackets. */
static const struct schema_field *field_for(const struct schema_message *m, const struct json *j)
{
    for (int i = 0; i < m->count; i++) {
        const struct schema_field *f = &m->fields[i];
        bool fits = f->rule == SCHEMA_REPEATED && j->type == JSON_ARRAY ? true : j->type == JSON_BOOL ? f->type == SCHEMA_BOOL : j->type == JSON_STRING ? f->type == SCHEMA_STRING
                  : j->type == JSON_REAL ? f->type == SCHEMA_DOUBLE : j->type == JSON_INT || j->type == JSON_UINT ? f->type == SCHEMA_INT64 || f->type == SCHEMA_UINT32 : false;
        if (fits) return f;
    }
    return NULL;
}

enum status proto_write(struct buf *out, const struct schema_message *m, const struct json *object, struct err *err)
{
    if (m->bare) {
        const struct schema_field *f = field_for(m, object);
        if (!f) return err_set(err, ST_INTERNAL, "the answer's %s has no field for its value", m->name);
        return f->rule == SCHEMA_REPEATED && object->type == JSON_ARRAY ? write_elements(out, m, f, object, err) : write_value(out, m, f, object, true, err);
    }
    if (object->type != JSON_OBJECT) return err_set(err, ST_INTERNAL, "the answer's %s is no object", m->name);
    for (int i = 0; i < m->count; i++) {
        const struct schema_field *f = &m->fields[i];
        const struct json *j = json_get_value(object, f->name);
        enum status st = ST_OK;
        if (!j) continue;
        if (f->rule == SCHEMA_ONE) st = write_value(out, m, f, j, f->choice, err);
        else if (f->rule == SCHEMA_REPEATED) st = j->type == JSON_ARRAY ? write_elements(out, m, f, j, err) : other_kind(m, f, err);
        else st = j->type == JSON_OBJECT ? write_entries(out, m, f, j, err) : other_kind(m, f, err);
        if (st) return st;
    }
    return ST_OK;
}
