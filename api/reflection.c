/* Descriptors out of the tables. A message's name says what it stands within ("ModelVersionPolicy.Latest"); which file has it is found by walking from
 * the file's roots, so no list of messages is kept beside the tables. */
#include "api/reflection.h"

#include "engine/formats/protobuf_write.h"

#include <ctype.h>
#include <stdio.h>

enum { MESSAGES_MAX = 128, NAME_MAX_BYTES = 256, ERROR_NOT_FOUND = 5, ERROR_UNSUPPORTED = 12 };

struct messages { const struct schema_message *list[MESSAGES_MAX]; int count; };

/* ---- which messages a file has ---- */

static bool has(const struct messages *s, const struct schema_message *m)
{
    for (int i = 0; i < s->count; i++)
        if (s->list[i] == m) return true;
    return false;
}

/* The tables do not nest within themselves, so the depth is theirs. */
static void collect(struct messages *s, const struct schema_message *m, const struct messages *imported)
{
    if (has(s, m) || (imported && has(imported, m)) || s->count == MESSAGES_MAX) return;
    s->list[s->count++] = m;
    for (int i = 0; i < m->count; i++)
        if (m->fields[i].message) collect(s, m->fields[i].message, imported);
}

static void collect_file(struct messages *s, const struct rpc_file *f)
{
    struct messages imported = { .count = 0 };
    s->count = 0;
    if (f->import && f->import->message) collect(&imported, f->import->message, NULL);
    if (f->message) collect(s, f->message, &imported);
    for (int i = 0; f->service && i < f->service->count; i++) {
        collect(s, f->service->methods[i].request, &imported);
        collect(s, f->service->methods[i].response, &imported);
    }
}

/* Is `name` "scope.X", one level in? An empty scope: has it no dot? Then *simple is X. */
static bool within(const char *name, const char *scope, const char **simple)
{
    size_t n = strlen(scope);
    if (n && (strncmp(name, scope, n) || name[n] != '.')) return false;
    *simple = name + n + (n > 0);
    return !strchr(*simple, '.');
}

/* ---- descriptors ---- */

/* "parameters" -> "ParametersEntry", as protoc names a map's entries. */
static void entry_name(char out[NAME_MAX_BYTES], const char *field)
{
    size_t n = 0;
    bool up = true;
    for (; *field && n + 8 < NAME_MAX_BYTES; field++) {
        if (*field == '_') up = true;
        else out[n++] = up ? (char)toupper((unsigned char)*field) : *field, up = false;
    }
    snprintf(out + n, NAME_MAX_BYTES - n, "Entry");
}

static int wire_type(enum schema_type t)
{
    static const int types[] = { [SCHEMA_DOUBLE] = 1, [SCHEMA_FLOAT] = 2, [SCHEMA_INT64] = 3, [SCHEMA_UINT64] = 4, [SCHEMA_INT32] = 5, [SCHEMA_BOOL] = 8, [SCHEMA_STRING] = 9,
                                 [SCHEMA_MESSAGE] = 11, [SCHEMA_BYTES] = 12, [SCHEMA_UINT32] = 13, [SCHEMA_ENUM] = 14 };
    return types[t];
}

static void json_name(char out[NAME_MAX_BYTES], const char *field)
{
    size_t n = 0;
    for (; *field && n + 1 < NAME_MAX_BYTES; field++)
        if (*field != '_') {
            out[n] = n && field[-1] == '_' ? (char)toupper((unsigned char)*field) : *field;
            n++;
        }
    out[n] = 0;
}

/* FieldDescriptorProto: name 1, number 3, label 4, type 5, type_name 6, oneof_index 9, json_name 10. A file and what it imports share their package. */
static void write_field(struct buf *out, int as, const char *package, const char *name, int number, bool repeated, int type, const char *type_name, int oneof)
{
    char text[NAME_MAX_BYTES];
    size_t at = pb_begin(out, as);
    pb_put_text(out, 1, name);
    pb_put_number(out, 3, (uint64_t)number);
    pb_put_number(out, 4, repeated ? 3 : 1);
    pb_put_number(out, 5, (uint64_t)type);
    if (type_name) {
        snprintf(text, sizeof text, ".%s.%s", package, type_name);
        pb_put_text(out, 6, text);
    }
    if (oneof >= 0) pb_put_number(out, 9, (uint64_t)oneof);
    json_name(text, name);
    pb_put_text(out, 10, text);
    pb_end(out, at);
}

static const char *type_name_of(const struct schema_field *f) { return f->message ? f->message->name : f->enumeration; }

/* DescriptorProto of a map's entry: name 1, field 2, options 7 { map_entry 7 }. */
static void write_entry(struct buf *out, const struct rpc_file *file, const struct schema_field *f)
{
    char name[NAME_MAX_BYTES];
    size_t at = pb_begin(out, 3);
    entry_name(name, f->name);
    pb_put_text(out, 1, name);
    write_field(out, 2, file->package, "key", 1, false, wire_type(f->rule == SCHEMA_MAP ? SCHEMA_STRING : SCHEMA_UINT64), NULL, -1);
    write_field(out, 2, file->package, "value", 2, false, wire_type(f->type), type_name_of(f), -1);
    size_t options = pb_begin(out, 7);
    pb_put_number(out, 7, 1);
    pb_end(out, options);
    pb_end(out, at);
}

/* EnumDescriptorProto: name 1, value 2 { name 1, number 2 }. Those whose name stands in `scope`, each once. */
static void write_enums(struct buf *out, int as, const struct messages *s, const char *scope)
{
    const char *done[MESSAGES_MAX];
    int count = 0;
    for (int i = 0; i < s->count; i++)
        for (int k = 0; k < s->list[i]->count; k++) {
            const struct schema_field *f = &s->list[i]->fields[k];
            const char *simple;
            bool seen = false;
            if (!f->enumeration || !within(f->enumeration, scope, &simple)) continue;
            for (int d = 0; d < count; d++) seen |= !strcmp(done[d], f->enumeration);
            if (seen || count == MESSAGES_MAX) continue;
            done[count++] = f->enumeration;
            size_t at = pb_begin(out, as);
            pb_put_text(out, 1, simple);
            for (int v = 0; f->names[v]; v++) {
                size_t value = pb_begin(out, 2);
                pb_put_text(out, 1, f->names[v]);
                pb_put_number(out, 2, (uint64_t)v);
                pb_end(out, value);
            }
            pb_end(out, at);
        }
}

static int oneofs_before(const struct schema_message *m, int field)
{
    int n = 0;
    for (int i = 0; i < field; i++) {
        bool first = m->fields[i].choice != NULL;
        for (int k = 0; k < i; k++) first &= !schema_excludes(&m->fields[k], &m->fields[i]);
        n += first;
    }
    return n;
}

/* The index of field i's oneof: the number of oneofs that begin before the first field of it. */
static int oneof_of(const struct schema_message *m, int i)
{
    if (!m->fields[i].choice) return -1;
    int first = 0;
    while (!schema_excludes(&m->fields[first], &m->fields[i])) first++;
    return oneofs_before(m, first);
}

static void write_message(struct buf *out, int as, const struct rpc_file *file, const struct messages *s, const struct schema_message *m)
{
    const char *simple = strrchr(m->name, '.');
    size_t at = pb_begin(out, as);
    pb_put_text(out, 1, simple ? simple + 1 : m->name);
    for (int i = 0; i < m->count; i++) {
        const struct schema_field *f = &m->fields[i];
        if (f->rule < SCHEMA_MAP) {
            write_field(out, 2, file->package, f->name, f->number, f->rule == SCHEMA_REPEATED, wire_type(f->type), type_name_of(f), oneof_of(m, i));
        } else {
            char entry[NAME_MAX_BYTES], type[2 * NAME_MAX_BYTES];
            entry_name(entry, f->name);
            snprintf(type, sizeof type, "%s.%s", m->name, entry);
            write_field(out, 2, file->package, f->name, f->number, true, wire_type(SCHEMA_MESSAGE), type, -1);
        }
    }
    for (int i = 0; i < m->count; i++)
        if (m->fields[i].rule >= SCHEMA_MAP) write_entry(out, file, &m->fields[i]);
    for (int i = 0; i < s->count; i++)
        if (within(s->list[i]->name, m->name, &simple)) write_message(out, 3, file, s, s->list[i]);
    write_enums(out, 4, s, m->name);
    for (int i = 0; i < m->count; i++) {      /* OneofDescriptorProto: name 1 */
        bool first = m->fields[i].choice != NULL;
        for (int k = 0; k < i; k++) first &= !schema_excludes(&m->fields[k], &m->fields[i]);
        if (!first) continue;
        size_t oneof = pb_begin(out, 8);
        pb_put_text(out, 1, m->fields[i].choice);
        pb_end(out, oneof);
    }
    pb_end(out, at);
}

/* ServiceDescriptorProto: name 1, method 2 { name 1, input_type 2, output_type 3, client_streaming 5, server_streaming 6 }. */
static void write_service(struct buf *out, const struct rpc_file *f)
{
    char text[NAME_MAX_BYTES];
    size_t at = pb_begin(out, 6);
    pb_put_text(out, 1, f->service->name);
    for (int i = 0; i < f->service->count; i++) {
        const struct rpc_method *m = &f->service->methods[i];
        size_t method = pb_begin(out, 2);
        pb_put_text(out, 1, m->name);
        snprintf(text, sizeof text, ".%s.%s", f->package, m->request->name);
        pb_put_text(out, 2, text);
        snprintf(text, sizeof text, ".%s.%s", f->package, m->response->name);
        pb_put_text(out, 3, text);
        if (m->streams_in) pb_put_number(out, 5, 1);
        if (m->streams_out) pb_put_number(out, 6, 1);
        pb_end(out, method);
    }
    pb_end(out, at);
}

void reflection_file_write(struct buf *out, const struct rpc_file *f)
{
    struct messages s;
    const char *simple;
    collect_file(&s, f);
    pb_put_text(out, 1, f->name);
    pb_put_text(out, 2, f->package);
    if (f->import) pb_put_text(out, 3, f->import->name);
    for (int i = 0; i < s.count; i++)
        if (within(s.list[i]->name, "", &simple)) write_message(out, 4, f, &s, s.list[i]);
    write_enums(out, 5, &s, "");
    if (f->service) write_service(out, f);
    pb_put_text(out, 12, "proto3");
}

/* ---- questions ---- */

static bool text_is(const struct pb_field *p, const char *text) { return p->length == strlen(text) && !memcmp(p->bytes, text, p->length); }

/* Has the file this symbol: its service, a method of it, a message? */
static bool file_has(const struct rpc_file *f, const struct pb_field *symbol)
{
    char text[2 * NAME_MAX_BYTES];
    struct messages s;
    collect_file(&s, f);
    if (f->service) {
        snprintf(text, sizeof text, "%s.%s", f->package, f->service->name);
        if (text_is(symbol, text)) return true;
        for (int i = 0; i < f->service->count; i++) {
            snprintf(text, sizeof text, "%s.%s.%s", f->package, f->service->name, f->service->methods[i].name);
            if (text_is(symbol, text)) return true;
        }
    }
    for (int i = 0; i < s.count; i++) {
        snprintf(text, sizeof text, "%s.%s", f->package, s.list[i]->name);
        if (text_is(symbol, text)) return true;
        for (int k = 0; k < s.list[i]->count; k++) {
            if (!s.list[i]->fields[k].enumeration) continue;
            snprintf(text, sizeof text, "%s.%s", f->package, s.list[i]->fields[k].enumeration);
            if (text_is(symbol, text)) return true;
        }
    }
    return false;
}

static void write_files(struct buf *out, const struct rpc_file *f)
{
    size_t answer = pb_begin(out, 4);
    for (; f; f = f->import) {
        size_t file = pb_begin(out, 1);
        reflection_file_write(out, f);
        pb_end(out, file);
    }
    pb_end(out, answer);
}

static void write_error(struct buf *out, int code, const char *text)
{
    size_t at = pb_begin(out, 7);
    pb_put_number(out, 1, (uint64_t)code);
    pb_put_text(out, 2, text);
    pb_end(out, at);
}

static void write_services(struct buf *out)
{
    size_t list = pb_begin(out, 6);
    for (int i = 0; i < RPC_FILES; i++) {
        char text[NAME_MAX_BYTES];
        if (!rpc_files[i].service) continue;
        snprintf(text, sizeof text, "%s.%s", rpc_files[i].package, rpc_files[i].service->name);
        size_t service = pb_begin(out, 1);
        pb_put_text(out, 1, text);
        pb_end(out, service);
    }
    pb_end(out, list);
}

enum status reflection_answer_write(struct buf *out, const void *request, size_t length, struct err *err)
{
    struct pb c = pb_open(request, length);
    struct pb_field p, asked = { 0 }, host = { 0 };
    const struct rpc_file *found = NULL;
    while (pb_next(&c, &p)) {
        if (p.number == 1 && p.wire == PB_BYTES) host = p;
        else if (p.number >= 3 && p.number <= 7 && p.wire == PB_BYTES) asked = p;
    }
    if (c.failed) return err_set(err, ST_BAD_INPUT, "the request is no valid protobuf: ServerReflectionRequest is cut off");
    pb_put_bytes(out, 1, host.bytes, host.length);
    pb_put_bytes(out, 2, request, length);
    for (int i = RPC_FILES - 1; i >= 0; i--)
        if (asked.number == 3 ? text_is(&asked, rpc_files[i].name) : asked.number == 4 && file_has(&rpc_files[i], &asked)) found = &rpc_files[i];
    if (asked.number == 7) write_services(out);
    else if (found) write_files(out, found);
    else if (asked.number == 3 || asked.number == 4) write_error(out, ERROR_NOT_FOUND, asked.number == 3 ? "there is no such file" : "no file has this symbol");
    else if (asked.number == 5 || asked.number == 6) write_error(out, ERROR_NOT_FOUND, "there are no extensions: the files are proto3");
    else write_error(out, ERROR_UNSUPPORTED, "the question is none that this server knows");
    return ST_OK;
}
