/* The lexer knows two worlds: data, up to the next opening mark, and what stands between marks. White space around marks is settled here: a minus takes
 * all of it, trim_blocks the newline behind a statement or comment, lstrip_blocks the blanks before one that begins its line, a plus keeps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/text/template_internal.h"

struct lexer {
    struct arena  *arena;
    const char    *text, *p, *end;
    struct lexeme *tokens;
    size_t         count, capacity;
    int            line;
    bool           line_starting;      /* the data that comes begins a line */
    struct err    *err;
};

static bool blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 128; }
static bool digit(char c) { return c >= '0' && c <= '9'; }

static enum status no_memory(struct lexer *l) { return err_set(l->err, ST_NO_MEMORY, "no memory for a template"); }

static enum status add(struct lexer *l, struct lexeme token)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 256;
        struct lexeme *more = arena_calloc(l->arena, capacity, sizeof *more);
        if (!more) return no_memory(l);
        if (l->count) memcpy(more, l->tokens, l->count * sizeof *more);
        l->tokens = more, l->capacity = capacity;
    }
    token.line = l->line;
    l->tokens[l->count++] = token;
    return ST_OK;
}

static void count_lines(struct lexer *l, const char *from, const char *to)
{
    for (; from < to; from++) l->line += *from == '\n';
}

static void skip_blanks(struct lexer *l)
{
    for (; l->p < l->end && blank(*l->p); l->p++) l->line += *l->p == '\n';
}

/* Behind a closing mark whose sign was `sign`. */
static void after_mark(struct lexer *l, char sign, bool trims)
{
    const char *from = l->p;
    if (sign == '-') skip_blanks(l);
    else if (sign != '+' && trims && l->p < l->end && *l->p == '\n') l->p++, l->line++;
    l->line_starting = l->p > from && l->p[-1] == '\n';
}

/* Data up to `to`, where a mark begins with `sign` behind it. */
static enum status put_data(struct lexer *l, const char *from, const char *to, char sign, bool statement)
{
    const char *end = to;
    count_lines(l, from, to);
    if (sign == '-') while (end > from && blank(end[-1])) end--;
    else if (sign != '+' && statement) {
        const char *line = to;
        while (line > from && line[-1] != '\n') line--;
        bool only_blanks = line > from || l->line_starting;
        for (const char *q = line; q < to; q++) only_blanks &= blank(*q);
        if (only_blanks) end = line;
    }
    return end > from ? add(l, (struct lexeme){ .type = TK_DATA, .text = from, .length = (uint32_t)(end - from) }) : ST_OK;
}

static void put_code_point(struct buf *b, uint32_t c)
{
    if (c < 0x80) buf_putc(b, (char)c);
    else if (c < 0x800) buf_putc(b, (char)(0xC0 | c >> 6)), buf_putc(b, (char)(0x80 | (c & 63)));
    else if (c < 0x10000) buf_putc(b, (char)(0xE0 | c >> 12)), buf_putc(b, (char)(0x80 | (c >> 6 & 63))), buf_putc(b, (char)(0x80 | (c & 63)));
    else buf_putc(b, (char)(0xF0 | c >> 18)), buf_putc(b, (char)(0x80 | (c >> 12 & 63))), buf_putc(b, (char)(0x80 | (c >> 6 & 63))), buf_putc(b, (char)(0x80 | (c & 63)));
}

/* \x41, \u0041, \U00000041: the hexadecimal digits behind the letter. */
static bool put_hex(struct buf *b, const char *p, const char *end, int digits)
{
    uint32_t c = 0;
    if (end - p < digits) return false;
    for (int i = 0; i < digits; i++) {
        char d = p[i];
        int v = digit(d) ? d - '0' : d >= 'a' && d <= 'f' ? d - 'a' + 10 : d >= 'A' && d <= 'F' ? d - 'A' + 10 : -1;
        if (v < 0) return false;
        c = c << 4 | (uint32_t)v;
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD;
    put_code_point(b, c);
    return true;
}

static enum status lex_text(struct lexer *l)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char quote = *l->p++;
    const char *start = l->p;
    struct buf b;
    enum status st = ST_OK;
    buf_init(&b, 0);
    for (; l->p < l->end && *l->p != quote; l->p++) {
        l->line += *l->p == '\n';
        if (*l->p != '\\' || l->p + 1 == l->end) {
            buf_putc(&b, *l->p);
            continue;
        }
        char c = *++l->p;
        const char *known = strchr(from, c);
        int hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (c == '\n') continue;
        if (known && c) buf_putc(&b, to[known - from]);
        else if (hex) {
            if (!put_hex(&b, l->p + 1, l->end, hex)) {
                buf_free(&b);
                return err_set(l->err, ST_BAD_INPUT, "line %d: a broken \\%c escape", l->line, c);
            }
            l->p += hex;
        } else if (c >= '0' && c <= '7') {
            uint32_t v = 0;
            int n = 0;
            for (; n < 3 && l->p + n < l->end && l->p[n] >= '0' && l->p[n] <= '7'; n++) v = v * 8 + (uint32_t)(l->p[n] - '0');
            put_code_point(&b, v);
            l->p += n - 1;
        } else buf_putc(&b, '\\'), buf_putc(&b, c);
    }
    if (l->p >= l->end) st = err_set(l->err, ST_BAD_INPUT, "line %d: a text without its closing quote: %.40s", l->line, start);
    else {
        l->p++;
        char *copy = b.failed ? NULL : arena_copy(l->arena, b.data ? b.data : "", b.length);
        st = copy ? add(l, (struct lexeme){ .type = TK_TEXT, .text = copy, .length = (uint32_t)b.length }) : no_memory(l);
    }
    buf_free(&b);
    return st;
}

static enum status lex_number(struct lexer *l)
{
    char digits[64];
    size_t n = 0;
    bool real = false;
    for (; l->p < l->end && n < sizeof digits - 1; l->p++) {
        if (*l->p == '_' && n) continue;
        bool dot = *l->p == '.' && !real && l->p + 1 < l->end && digit(l->p[1]);
        bool power = (*l->p == 'e' || *l->p == 'E') && n && l->p + 1 < l->end && (digit(l->p[1]) || ((l->p[1] == '-' || l->p[1] == '+') && l->p + 2 < l->end && digit(l->p[2])));
        if (!digit(*l->p) && !dot && !power) break;
        digits[n++] = *l->p;
        real |= dot || power;
        if (power && !digit(l->p[1])) digits[n++] = *++l->p;
    }
    digits[n] = 0;
    errno = 0;
    struct lexeme t = { .type = real ? TK_REAL : TK_INT, .real = strtod(digits, NULL) };
    if (!real) t.integer = strtoll(digits, NULL, 10);
    if (errno == ERANGE && !real) return err_set(l->err, ST_BAD_INPUT, "line %d: the number %s is too large", l->line, digits);
    return add(l, t);
}

/* One token between marks. */
static enum status lex_code(struct lexer *l)
{
    static const char *const pairs[] = { "//", "**", "==", "!=", ">=", "<=" };
    const char *p = l->p;
    if (name_start(*p)) {
        while (l->p < l->end && (name_start(*l->p) || digit(*l->p))) l->p++;
        return add(l, (struct lexeme){ .type = TK_NAME, .text = p, .length = (uint32_t)(l->p - p) });
    }
    if (digit(*p)) return lex_number(l);
    if (*p == '"' || *p == '\'') return lex_text(l);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs && l->end - p > 1; i++)
        if (!memcmp(p, pairs[i], 2)) {
            l->p += 2;
            return add(l, (struct lexeme){ .type = TK_OPERATOR, .text = pairs[i], .length = 2 });
        }
    if (!*p || !strchr("+-*/%~[](){}<>=.:|,;", *p)) return err_set(l->err, ST_BAD_INPUT, "line %d: an unexpected character '%c'", l->line, *p);
    l->p++;
    return add(l, (struct lexeme){ .type = TK_OPERATOR, .text = p, .length = 1 });
}

/* From behind the opening mark to behind the closing one. */
static enum status lex_tag(struct lexer *l, bool statement)
{
    const char *close = statement ? "%}" : "}}";
    int depth = 0;
    enum status st = add(l, (struct lexeme){ .type = statement ? TK_OPEN_BLOCK : TK_OPEN_VALUE });
    while (!st) {
        skip_blanks(l);
        if (l->p >= l->end) return err_set(l->err, ST_BAD_INPUT, "line %d: '%s' is missing", l->line, close);
        char sign = 0;
        const char *p = l->p;
        if ((*p == '-' || *p == '+') && l->end - p > 2 && p[1] == close[0] && p[2] == close[1]) sign = *p++;
        if (l->end - p > 1 && p[0] == close[0] && p[1] == close[1] && (sign || !depth || statement)) {
            l->p = p + 2;
            st = add(l, (struct lexeme){ .type = statement ? TK_CLOSE_BLOCK : TK_CLOSE_VALUE });
            after_mark(l, sign, statement);
            return st;
        }
        depth += (*l->p == '{' || *l->p == '[' || *l->p == '(') - (*l->p == '}' || *l->p == ']' || *l->p == ')');
        st = lex_code(l);
    }
    return st;
}

/* {% raw %} ... {% endraw %}: true when one begins at p (behind "{%" and its sign); *sign is its closing sign. */
static const char *tag_named(const char *p, const char *end, const char *name, char *sign)
{
    size_t n = strlen(name);
    if (p < end && (*p == '-' || *p == '+')) p++;
    while (p < end && blank(*p)) p++;
    if ((size_t)(end - p) < n || memcmp(p, name, n)) return NULL;
    for (p += n; p < end && blank(*p); p++) {}
    *sign = 0;
    if (p < end && (*p == '-' || *p == '+')) *sign = *p++;
    return end - p > 1 && p[0] == '%' && p[1] == '}' ? p + 2 : NULL;
}

static enum status lex_raw(struct lexer *l, const char *body, char sign)
{
    char close_sign;
    l->p = body;
    after_mark(l, sign, true);
    const char *from = l->p;
    for (const char *q = from; q + 1 < l->end; q++) {
        const char *behind = q[0] == '{' && q[1] == '%' ? tag_named(q + 2, l->end, "endraw", &close_sign) : NULL;
        if (!behind) continue;
        enum status st = put_data(l, from, q, q[2], true);
        l->p = behind;
        after_mark(l, close_sign, true);
        return st;
    }
    return err_set(l->err, ST_BAD_INPUT, "line %d: raw without endraw", l->line);
}

static enum status lex_comment(struct lexer *l)
{
    const char *q = l->p;
    for (; q + 1 < l->end && !(q[0] == '#' && q[1] == '}'); q++) {}
    if (q + 1 >= l->end) return err_set(l->err, ST_BAD_INPUT, "line %d: a comment without its end", l->line);
    char sign = q > l->p && (q[-1] == '-' || q[-1] == '+') ? q[-1] : 0;
    count_lines(l, l->p, q);
    l->p = q + 2;
    after_mark(l, sign, true);
    return ST_OK;
}

enum status template_lex(struct arena *arena, const char *text, size_t length, struct lexeme **out, size_t *count, struct err *err)
{
    struct lexer l = { .arena = arena, .text = text, .p = text, .end = text + length, .line = 1, .line_starting = true, .err = err };
    enum status st = ST_OK;
    while (l.p < l.end && !st) {
        const char *from = l.p, *q = l.p;
        while (q + 1 < l.end && !(q[0] == '{' && (q[1] == '%' || q[1] == '{' || q[1] == '#'))) q++;
        if (q + 1 >= l.end) {
            l.p = l.end;
            st = put_data(&l, from, l.end, '+', false);
            break;
        }
        char sign = q + 2 < l.end ? q[2] : 0, kind = q[1], raw_sign;
        if (sign != '-' && sign != '+') sign = 0;
        if (sign == '+' && kind == '{') sign = 0;
        const char *raw = kind == '%' ? tag_named(q + 2, l.end, "raw", &raw_sign) : NULL;
        st = put_data(&l, from, q, sign, kind != '{');
        l.p = q + 2 + (sign ? 1 : 0);
        if (st) break;
        if (raw) st = lex_raw(&l, raw, raw_sign);
        else if (kind == '#') st = lex_comment(&l);
        else st = lex_tag(&l, kind == '%');
    }
    if (!st) st = add(&l, (struct lexeme){ .type = TK_END });
    *out = l.tokens, *count = l.count;
    return st;
}
