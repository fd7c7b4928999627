/* What is asked of strings, as one automaton over the decoded text: patterns, formats, excluded texts, lengths. Formats are regular expressions for the
 * definitions that JSON Schema refers to (RFC 3339, 4122, 2673, 4291, 5321, 1123, 3986, 6901). */
#include <stdio.h>
#include <string.h>

#include "engine/text/schema_internal.h"

#define DAY   "(\\d{4}-(((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01]))|((0[469]|11)-(0[1-9]|[12]\\d|30))|(02-(0[1-9]|1\\d|2[0-8])))|((\\d\\d(0[48]|[2468][048]|[13579][26]))|(([02468][048]|[13579][26])00))-02-29)"
#define CLOCK "(([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?([Zz]|[+-]([01]\\d|2[0-3]):[0-5]\\d))"
#define OCTET "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4  OCTET "\\." OCTET "\\." OCTET "\\." OCTET
#define H16   "[0-9A-Fa-f]{1,4}"
#define TAIL  "(" H16 ":" H16 "|" IPV4 ")"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HLABEL "[A-Za-z0-9](-?[A-Za-z0-9]){0,30}"      /* no two hyphens, so never a label in Punycode */
#define ATOM  "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define PCHAR "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define SEGMENT "([A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})"
#define REST  "(\\?(" PCHAR "|[/?])*)?(#(" PCHAR "|[/?])*)?"
#define USER  "(([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?"
#define HOST  "(([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:\\d*)?"

static const struct { const char *name, *text; } formats[] = {
    { "date", DAY }, { "time", CLOCK }, { "date-time", DAY "[Tt]" CLOCK },
    { "duration", "P(\\d+W|(\\d+Y(\\d+M(\\d+D)?)?|\\d+M(\\d+D)?|\\d+D)(T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S))?|T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S))" },
    { "uuid", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}" },
    { "ipv4", IPV4 },
    { "ipv6", "(" H16 ":){6}" TAIL "|::(" H16 ":){5}" TAIL "|(" H16 ")?::(" H16 ":){4}" TAIL "|((" H16 ":){0,1}" H16 ")?::(" H16 ":){3}" TAIL "|((" H16 ":){0,2}" H16 ")?::(" H16 ":){2}" TAIL
              "|((" H16 ":){0,3}" H16 ")?::" H16 ":" TAIL "|((" H16 ":){0,4}" H16 ")?::" TAIL "|((" H16 ":){0,5}" H16 ")?::" H16 "|((" H16 ":){0,6}" H16 ")?::" },
    { "email", ATOM "(\\." ATOM ")*@" LABEL "(\\." LABEL ")*" },
    { "hostname", HLABEL "(\\." HLABEL "){0,3}" },
    { "uri", "[A-Za-z][A-Za-z0-9+.-]*:(//" USER HOST "(/" PCHAR "*)*|/?(" PCHAR "+(/" PCHAR "*)*)?)" REST },
    { "uri-reference", "([A-Za-z][A-Za-z0-9+.-]*:(//" USER HOST "(/" PCHAR "*)*|/?(" PCHAR "+(/" PCHAR "*)*)?)|//" USER HOST "(/" PCHAR "*)*|/(" PCHAR "+(/" PCHAR "*)*)?|(" SEGMENT "+(/" PCHAR "*)*)?)" REST },
    { "json-pointer", "(/([^~/]|~[01])*)*" }, { "relative-json-pointer", "(0|[1-9]\\d*)(#|(/([^~/]|~[01])*)*)" },
};

static enum status format_dfa(struct schema *s, const struct json *schema, const struct json *k, struct dfa **out)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (json_is_string(k, formats[i].name)) return regex_compile(out, &s->net.maker, formats[i].text, strlen(formats[i].text), false, s->err);
    return schema_refuse(s, schema, "format", "names a format that cannot be enforced");
}

enum status schema_any_text(struct schema *s, int64_t least, int64_t most, struct dfa **out)
{
    char text[64];
    if (least > REGEX_REPEAT_MAX || most > REGEX_REPEAT_MAX) return err_set(s->err, ST_BAD_INPUT, "schema: keyword '%s' may be 2000 at most", most > REGEX_REPEAT_MAX ? "maxLength" : "minLength");
    if (most < 0) snprintf(text, sizeof text, "[\\s\\S]{%d,}", (int)least);
    else snprintf(text, sizeof text, "[\\s\\S]{%d,%d}", (int)least, (int)most);
    return regex_compile(out, &s->net.maker, text, strlen(text), false, s->err);
}

static enum status combine(struct schema *s, struct dfa **io, struct dfa *d, enum dfa_op op)
{
    enum status st = ST_OK;
    if (!*io && op == DFA_WITHOUT) st = schema_any_text(s, 0, -1, io);
    if (st) return st;
    if (*io) return dfa_combine(io, &s->net.maker, *io, d, op, s->err);
    *io = d;
    return ST_OK;
}

enum status schema_string_dfa(struct schema *s, const struct shape *h, struct dfa **out)
{
    struct dfa *d;
    *out = NULL;
    enum status st = ST_OK;
    if (!h->patterns) return ST_OK;
    for (uint32_t i = 0; i < h->list->count && !st; i++) {
        const struct json *schema = h->list->at[i], *k;
        static const char *const keys[] = { "pattern", "not pattern" };
        for (int n = 0; n < 2 && !st; n++) {
            if (!(k = json_get(schema, keys[n]))) continue;
            st = regex_compile(&d, &s->net.maker, k->string.text, k->string.length, true, s->err);
            if (st) {
                struct err why = *s->err;
                schema_refuse(s, schema, "pattern", "is not taken");
                return err_set(s->err, ST_BAD_INPUT, "%.250s: %.200s", s->err->text, why.text);
            }
            st = combine(s, out, d, n ? DFA_WITHOUT : DFA_AND);
        }
        if (!st && (k = json_get(schema, "format"))) {
            st = format_dfa(s, schema, k, &d);
            if (!st) st = combine(s, out, d, DFA_AND);
        }
        if (!st && (k = json_get(schema, "not const")) && k->type == JSON_STRING) {
            st = dfa_text(&d, &s->net.maker, k->string.text, k->string.length, s->err);
            if (!st) st = combine(s, out, d, DFA_WITHOUT);
        }
    }
    if (st || !*out || (!h->length_min && h->length_max < 0)) return st;
    st = schema_any_text(s, h->length_min, h->length_max, &d);
    return st ? st : combine(s, out, d, DFA_AND);
}

enum status schema_string_list_dfa(struct schema *s, const struct schema_list *list, struct dfa **out)
{
    struct schema_alternatives all;
    struct dfa *d;
    *out = NULL;
    enum status st = schema_expand(s, list, 0, &all);
    for (uint32_t i = 0; i < all.count && !st; i++) {
        struct shape h;
        st = schema_merge(s, &all.at[i], &h);
        if (st || !(h.types & TYPE_STRING)) continue;
        if (!h.allowed) {
            st = schema_string_dfa(s, &h, &d);
            if (!st && !d) st = schema_any_text(s, h.length_min, h.length_max, &d);
            if (!st) st = combine(s, out, d, DFA_OR);
            continue;
        }
        for (const struct json *v = h.allowed_const ? h.allowed : h.allowed->list.first; v && !st; v = h.allowed_const ? NULL : v->next) {
            bool ok = false;
            if (v->type == JSON_STRING) st = schema_check(s, v, &all.at[i], 0, &ok);
            if (st || !ok) continue;
            st = dfa_text(&d, &s->net.maker, v->string.text, v->string.length, s->err);
            if (!st) st = combine(s, out, d, DFA_OR);
        }
    }
    if (st || *out) return st;
    st = schema_any_text(s, 0, -1, &d);
    return st ? st : dfa_combine(out, &s->net.maker, d, d, DFA_WITHOUT, s->err);
}
