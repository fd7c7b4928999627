/* GBNF, the notation of llama.cpp: rules `name ::= alternatives`, literals, character classes, groups, names, * + ? {m} {m,} {m,n}, # comments.
 *
 * Rules are written into the network while they are read. What is repeated becomes a rule of its own unless it is one class, so that a repetition of 2,000
 * costs 2,000 calls whatever it repeats. A class of characters goes through the regular expressions' automaton. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/text/grammar_internal.h"

struct reader {
    struct net *n;
    const char *text;
    size_t      length, at;
    int         depth;
    bool       *defined;           /* [GRAMMAR_RULES_MAX] by rule */
    struct err *err;
};

static enum status refuse(const struct reader *r, const char *what)
{
    size_t line = 1;
    for (size_t i = 0; i < r->at && i < r->length; i++) line += r->text[i] == '\n';
    return err_set(r->err, ST_BAD_INPUT, "grammar, line %zu: %s", line, what);
}

static int peek(const struct reader *r) { return r->at < r->length ? (unsigned char)r->text[r->at] : -1; }
static bool is_name(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

static void skip(struct reader *r, bool newlines)
{
    for (int c; (c = peek(r)) >= 0; r->at++) {
        if (c == '#') {
            while (peek(r) >= 0 && peek(r) != '\n') r->at++;
            r->at--;
            if (r->at + 1 >= r->length) {
                r->at = r->length;
                return;
            }
        } else if (c != ' ' && c != '\t' && !(newlines && (c == '\n' || c == '\r'))) return;
    }
}

/* The rule of this name, made when it is met first. Names are compared one by one: there are few. */
static int32_t rule_named(struct reader *r, size_t start, size_t end)
{
    struct net *n = r->n;
    size_t length = end - start;
    for (int32_t i = 0; i < n->rule_count; i++)
        if (n->rules[i].name && strlen(n->rules[i].name) == length && memcmp(n->rules[i].name, r->text + start, length) == 0) return i;
    char *name = arena_copy(&n->arena, r->text + start, length);
    return name ? net_rule(n, name, start) : -1;
}

static enum status take_hex(struct reader *r, int digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, r->at++) {
        int c = peek(r) | 32;
        if (peek(r) < 0 || !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return refuse(r, "a hexadecimal digit is missing");
        *out = *out * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return ST_OK;
}

/* One character of a literal or class, as UTF-8. */
static enum status take_character(struct reader *r, char out[4], size_t *length)
{
    int c = peek(r);
    uint32_t code;
    *length = 1;
    if (c != '\\') {
        *length = json_utf8_length(r->text + r->at, r->length - r->at);
        if (!*length) return refuse(r, "a byte that is no UTF-8");
        memcpy(out, r->text + r->at, *length);
        r->at += *length;
        return ST_OK;
    }
    r->at++;
    c = peek(r);
    r->at++;
    if (c == 'x' || c == 'u' || c == 'U') {
        enum status st = take_hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, &code);
        if (st) return st;
        if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return refuse(r, "no such character");
        if (code < 0x80) out[0] = (char)code;
        else if (code < 0x800) out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 63)), *length = 2;
        else if (code < 0x10000) out[0] = (char)(0xe0 | code >> 12), out[1] = (char)(0x80 | (code >> 6 & 63)), out[2] = (char)(0x80 | (code & 63)), *length = 3;
        else out[0] = (char)(0xf0 | code >> 18), out[1] = (char)(0x80 | (code >> 12 & 63)), out[2] = (char)(0x80 | (code >> 6 & 63)), out[3] = (char)(0x80 | (code & 63)), *length = 4;
        return ST_OK;
    }
    switch (c) {
    case 'n': out[0] = '\n'; break;
    case 'r': out[0] = '\r'; break;
    case 't': out[0] = '\t'; break;
    case '\\': case '"': case '[': case ']': case '-': case '^': out[0] = (char)c; break;
    default: return refuse(r, "unknown escape");
    }
    return ST_OK;
}

static enum status read_literal(struct reader *r, uint32_t from, uint32_t *to)
{
    char c[4];
    size_t n;
    for (r->at++; peek(r) != '"'; from = net_text(r->n, from, c, n)) {
        if (peek(r) < 0 || peek(r) == '\n') return refuse(r, "the literal is not closed");
        enum status st = take_character(r, c, &n);
        if (st) return st;
    }
    r->at++;
    *to = from;
    return ST_OK;
}

/* [a-z], [^"\\] or a dot, as the text of a regular expression's class (every character escaped where it could mean something). */
static enum status read_class(struct reader *r, struct dfa **out)
{
    struct buf b;
    char c[4];
    size_t n;
    enum status st = ST_OK;
    buf_init(&b, 0);
    if (peek(r) == '.') {
        r->at++;
        buf_puts(&b, "[^\\n]");
    } else {
        r->at++;
        buf_puts(&b, "[");
        if (peek(r) == '^') buf_putc(&b, '^'), r->at++;
        while (!st && peek(r) != ']') {
            if (peek(r) < 0 || peek(r) == '\n') {
                st = refuse(r, "the class is not closed");
                break;
            }
            if (peek(r) == '-') {
                buf_puts(&b, r->at + 1 < r->length && r->text[r->at + 1] == ']' ? "\\-" : r->text[r->at - 1] == '[' || r->text[r->at - 1] == '^' ? "\\-" : "-");
                r->at++;
                continue;
            }
            st = take_character(r, c, &n);
            if (!st && n == 1 && !is_name((unsigned char)c[0])) buf_printf(&b, "\\x%02x", (unsigned char)c[0]);
            else if (!st && n == 1 && (c[0] == '-')) buf_puts(&b, "\\-");
            else if (!st) buf_append(&b, c, n);
        }
        r->at++;
        buf_puts(&b, "]");
    }
    if (!st && b.failed) st = err_set(r->err, ST_NO_MEMORY, "grammar: out of memory");
    if (!st) st = regex_compile(out, &r->n->maker, b.data, b.length, false, r->err);
    buf_free(&b);
    return st;
}

static enum status read_either(struct reader *r, uint32_t from, uint32_t to, bool nested);

static bool take_number(struct reader *r, int *out)
{
    size_t start = r->at;
    for (*out = 0; peek(r) >= '0' && peek(r) <= '9'; r->at++) if (*out < 100000) *out = *out * 10 + peek(r) - '0';
    return r->at > start;
}

/* What stands behind a symbol; *most -1: without end. Absent: 1, 1. */
static enum status read_repeat(struct reader *r, int *least, int *most)
{
    int c = peek(r);
    *least = *most = 1;
    if (c == '*' || c == '+' || c == '?') {
        r->at++;
        *least = c == '+';
        *most = c == '?' ? 1 : -1;
        return ST_OK;
    }
    if (c != '{') return ST_OK;
    r->at++;
    skip(r, false);
    if (!take_number(r, least)) {
        if (peek(r) != ',') return refuse(r, "a repetition needs a number");
        *least = 0;
    }
    skip(r, false);
    *most = *least;
    if (peek(r) == ',') {
        r->at++;
        skip(r, false);
        if (!take_number(r, most)) *most = -1;
        skip(r, false);
    }
    if (peek(r) != '}') return refuse(r, "a repetition is not closed");
    r->at++;
    if (*least > GRAMMAR_REPEAT_MAX || *most > GRAMMAR_REPEAT_MAX) return refuse(r, "a repetition may be 2000 at most");
    if (*most >= 0 && *most < *least) return refuse(r, "a repetition's bounds are out of order");
    return ST_OK;
}

static uint32_t call_once(struct net *n, uint32_t from, int32_t rule)
{
    uint32_t to = net_node(n);
    net_call(n, from, rule, to);
    return to;
}

/* Repeats the rule from `from` on; returns the node after it. */
static uint32_t repeat(struct net *n, uint32_t from, int32_t rule, int least, int most)
{
    for (int i = 0; i < least && !n->status; i++) from = call_once(n, from, rule);
    if (most < 0) {
        uint32_t loop = net_node(n);
        net_nothing(n, from, loop);
        net_call(n, loop, rule, loop);
        return loop;
    }
    if (most == least) return from;
    uint32_t end = net_node(n);
    for (int i = least; i < most && !n->status; i++) {
        net_nothing(n, from, end);
        from = call_once(n, from, rule);
    }
    net_nothing(n, from, end);
    return end;
}

static enum status read_symbol(struct reader *r, uint32_t from, uint32_t *to)
{
    struct net *n = r->n;
    int c = peek(r), least, most;
    int32_t rule;
    struct dfa *d = NULL;
    enum status st = ST_OK;
    size_t start = r->at;
    if (is_name(c)) {
        while (is_name(peek(r))) r->at++;
        rule = rule_named(r, start, r->at);
    } else rule = net_rule(n, NULL, start);
    if (n->status || rule < 0) return n->status ? err_set(r->err, n->status, "%s", n->err.text) : err_set(r->err, ST_NO_MEMORY, "grammar: out of memory");
    struct net_rule made = n->rules[rule];
    if (c == '"') {
        uint32_t end = 0;
        st = read_literal(r, made.start, &end);
        if (!st) net_nothing(n, end, made.end);
    } else if (c == '[' || c == '.') {
        st = read_class(r, &d);
        if (!st) net_dfa(n, made.start, d, made.end);
    } else if (c == '(') {
        r->at++;
        if (++r->depth > GRAMMAR_DEPTH_SOURCE_MAX) return refuse(r, "groups are nested too deep (64)");
        st = read_either(r, made.start, made.end, true);
        r->depth--;
        if (!st && peek(r) != ')') return refuse(r, "a group is not closed");
        r->at++;
    } else if (!is_name(c)) return refuse(r, "a literal, class, group or rule name was expected");
    if (!st) st = read_repeat(r, &least, &most);
    if (st) return st;
    if (!d) {
        *to = repeat(n, from, rule, least, most);
        return ST_OK;
    }
    /* A class that is not repeated or repeated without end is written in place: no call for each character. */
    if (least <= 1 && (most == 1 || most == -1)) {
        uint32_t end = net_node(n);
        net_dfa(n, from, d, end);
        if (!least) net_nothing(n, from, end);
        if (most < 0) net_dfa(n, end, d, end);
        *to = end;
    } else *to = repeat(n, from, rule, least, most);
    return ST_OK;
}

/* Alternatives up to a closing bracket (nested) or the end of the rule. */
static enum status read_either(struct reader *r, uint32_t from, uint32_t to, bool nested)
{
    for (;;) {
        uint32_t at = net_node(r->n);
        net_nothing(r->n, from, at);
        skip(r, true);
        for (int c; (c = peek(r)) >= 0 && c != '|' && c != ')' && c != '\n' && c != '\r'; skip(r, nested)) {
            enum status st = read_symbol(r, at, &at);
            if (st) return st;
        }
        net_nothing(r->n, at, to);
        size_t back = r->at;
        skip(r, true);
        if (peek(r) != '|') {
            if (!nested) r->at = back;
            return ST_OK;
        }
        r->at++;
    }
}

static enum status read_rule(struct reader *r)
{
    size_t start = r->at;
    while (is_name(peek(r))) r->at++;
    if (r->at == start) return refuse(r, "a rule's name was expected");
    int32_t rule = rule_named(r, start, r->at);
    if (rule < 0 || r->n->status) return err_set(r->err, ST_BAD_INPUT, "%s", r->n->status ? r->n->err.text : "grammar: out of memory");
    if (r->defined[rule]) return refuse(r, "the rule is defined twice");
    r->defined[rule] = true;
    skip(r, true);
    if (r->length - r->at < 3 || memcmp(r->text + r->at, "::=", 3)) return refuse(r, "'::=' was expected");
    r->at += 3;
    enum status st = read_either(r, r->n->rules[rule].start, r->n->rules[rule].end, false);
    if (st) return st;
    if (peek(r) >= 0 && peek(r) != '\n' && peek(r) != '\r') return refuse(r, "the end of the rule was expected");
    return ST_OK;
}

static enum status read_all(struct reader *r, int32_t *root)
{
    struct net *n = r->n;
    for (skip(r, true); peek(r) >= 0; skip(r, true)) {
        enum status st = read_rule(r);
        if (!st) st = dfa_maker_check(&n->maker, r->err);
        if (st) return st;
    }
    *root = -1;
    for (int32_t i = 0; i < n->rule_count; i++) {
        const char *name = n->rules[i].name;
        if (!name) continue;
        if (!r->defined[i]) return err_set(r->err, ST_BAD_INPUT, "rule '%.100s' is used but never defined", name);
        if (strcmp(name, "root") == 0) *root = i;
    }
    return *root >= 0 ? ST_OK : err_set(r->err, ST_BAD_INPUT, "the grammar has no rule 'root'");
}

enum status grammar_open_gbnf(struct grammar **out, const char *text, size_t length, struct err *err)
{
    struct net n;
    int32_t root = -1;
    if (length > GRAMMAR_SOURCE_MAX) return err_set(err, ST_BAD_INPUT, "a grammar may have 65536 bytes at most, not %zu", length);
    net_open(&n);
    struct reader r = { .n = &n, .text = text, .length = length, .err = err, .defined = arena_calloc(&n.arena, GRAMMAR_RULES_MAX + 1, sizeof(bool)) };
    enum status st = r.defined ? read_all(&r, &root) : err_set(err, ST_NO_MEMORY, "grammar: out of memory");
    if (!st) st = net_finish(&n, root, true, out, err);
    net_close(&n);
    return st;
}
