/* Text of a regular expression to a tree. Classes are lists of code point ranges from the start, so that negation and Unicode categories are plain set
 * arithmetic; surrogates are in no class, since no UTF-8 text holds them. */
#include "engine/text/regex_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/json.h"

enum { CODE_MAX = 0x10ffff, RANGES_MAX = 20000 };

struct ranges { struct code_range *at; size_t count, room; };

struct parser {
    const struct dfa_maker *m;
    const char *text;
    size_t      length, at;
    int         depth;
    struct err *err;
};

static enum status parse_either(struct parser *p, struct regex_node **out);

static enum status refuse(struct parser *p, const char *what)
{
    return err_set(p->err, ST_BAD_INPUT, "regular expression, byte %zu: %s", p->at, what);
}
static enum status no_memory(struct parser *p)
{
    return err_set(p->err, ST_BAD_INPUT, "regular expression: it needs too much memory");
}

static struct regex_node *node_new(const struct dfa_maker *m, enum regex_kind kind)
{
    struct regex_node *n = arena_calloc(m->arena, 1, sizeof *n);
    if (n) n->kind = kind;
    return n;
}

static bool ranges_add(struct parser *p, struct ranges *r, uint32_t low, uint32_t high)
{
    if (r->count == r->room) {
        size_t room = r->room ? 2 * r->room : 8;
        struct code_range *at = room > RANGES_MAX ? NULL : arena_calloc(p->m->arena, room, sizeof *at);
        if (!at) return false;
        if (r->count) memcpy(at, r->at, r->count * sizeof *at);
        r->at = at, r->room = room;
    }
    r->at[r->count++] = (struct code_range){ low, high };
    return true;
}

static int range_compare(const void *a, const void *b)
{
    const struct code_range *x = a, *y = b;
    return x->low < y->low ? -1 : x->low > y->low;
}

/* Sorts, joins what touches, negates if asked. */
static bool ranges_settle(struct parser *p, struct ranges *r, bool negate)
{
    struct ranges joined = { 0 };
    if (r->count) qsort(r->at, r->count, sizeof *r->at, range_compare);
    uint32_t from = 0;
    for (size_t i = 0; i < r->count; ) {
        uint32_t low = r->at[i].low, high = r->at[i].high;
        for (i++; i < r->count && r->at[i].low <= high + 1; i++) if (r->at[i].high > high) high = r->at[i].high;
        if (!negate) {
            if (!ranges_add(p, &joined, low, high)) return false;
        } else if (low > from && !ranges_add(p, &joined, from, low - 1)) return false;
        from = high + 1;
    }
    if (negate && from <= CODE_MAX && !ranges_add(p, &joined, from, CODE_MAX)) return false;
    *r = joined;
    return true;
}

static struct regex_node *class_node(const struct dfa_maker *m, const struct ranges *r)
{
    struct regex_node *n = node_new(m, REGEX_CLASS);
    struct code_range *at = arena_calloc(m->arena, r->count + 1, sizeof *at);
    if (!n || !at) return NULL;
    n->ranges = at;
    for (size_t i = 0; i < r->count; i++) {
        struct code_range c = r->at[i];
        if (c.high < 0xd800 || c.low > 0xdfff) {
            at[n->range_count++] = c;
            continue;
        }
        if (c.low < 0xd800) at[n->range_count++] = (struct code_range){ c.low, 0xd7ff };
        if (c.high > 0xdfff) at[n->range_count++] = (struct code_range){ 0xe000, c.high };
    }
    return n;
}

struct regex_node *regex_any(const struct dfa_maker *m)
{
    struct code_range all = { 0, CODE_MAX };
    struct ranges r = { &all, 1, 1 };
    return class_node(m, &r);
}

static bool more(const struct parser *p) { return p->at < p->length; }
static int  peek(const struct parser *p) { return more(p) ? (unsigned char)p->text[p->at] : -1; }
static bool looking(const struct parser *p, const char *word)
{
    size_t n = strlen(word);
    return p->length - p->at >= n && memcmp(p->text + p->at, word, n) == 0;
}

static uint32_t take_code(struct parser *p)
{
    utf8proc_int32_t c;
    size_t n = json_utf8_length(p->text + p->at, p->length - p->at);
    if (!n) {
        p->at++;
        return 0xfffd;
    }
    utf8proc_iterate((const utf8proc_uint8_t *)p->text + p->at, (utf8proc_ssize_t)n, &c);
    p->at += n;
    return (uint32_t)c;
}

static enum status take_hex(struct parser *p, int digits, uint32_t *out)
{
    uint32_t v = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        int c = peek(p) | 32;
        if (!more(p) || !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return refuse(p, "a hexadecimal digit is missing");
        v = v * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *out = v;
    return ST_OK;
}

/* After \u: four digits, a pair of surrogates, or braces. */
static enum status take_unicode(struct parser *p, uint32_t *out)
{
    uint32_t low = 0;
    if (peek(p) == '{') {
        size_t end = ++p->at;
        while (end < p->length && p->text[end] != '}') end++;
        if (end == p->length || end - p->at > 6 || end == p->at) return refuse(p, "\\u{...} needs one to six hexadecimal digits");
        enum status st = take_hex(p, (int)(end - p->at), out);
        p->at++;
        return st ? st : *out > CODE_MAX ? refuse(p, "no such code point") : ST_OK;
    }
    enum status st = take_hex(p, 4, out);
    if (st || *out < 0xd800 || *out > 0xdbff || !looking(p, "\\u")) return st;
    size_t back = p->at;
    p->at += 2;
    st = take_hex(p, 4, &low);
    if (st) return st;
    if (low >= 0xdc00 && low <= 0xdfff) *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
    else p->at = back;
    return ST_OK;
}

/* Short and long names of the general categories (Unicode Standard Annex 44, table 12) in utf8proc's order. */
static const char *const categories[][2] = {
    { "Cn", "Unassigned" }, { "Lu", "Uppercase_Letter" }, { "Ll", "Lowercase_Letter" }, { "Lt", "Titlecase_Letter" }, { "Lm", "Modifier_Letter" }, { "Lo", "Other_Letter" },
    { "Mn", "Nonspacing_Mark" }, { "Mc", "Spacing_Mark" }, { "Me", "Enclosing_Mark" }, { "Nd", "Decimal_Number" }, { "Nl", "Letter_Number" }, { "No", "Other_Number" },
    { "Pc", "Connector_Punctuation" }, { "Pd", "Dash_Punctuation" }, { "Ps", "Open_Punctuation" }, { "Pe", "Close_Punctuation" }, { "Pi", "Initial_Punctuation" },
    { "Pf", "Final_Punctuation" }, { "Po", "Other_Punctuation" }, { "Sm", "Math_Symbol" }, { "Sc", "Currency_Symbol" }, { "Sk", "Modifier_Symbol" }, { "So", "Other_Symbol" },
    { "Zs", "Space_Separator" }, { "Zl", "Line_Separator" }, { "Zp", "Paragraph_Separator" }, { "Cc", "Control" }, { "Cf", "Format" }, { "Cs", "Surrogate" }, { "Co", "Private_Use" },
};
static const char *const category_groups[][2] = {
    { "L", "Letter" }, { "M", "Mark" }, { "N", "Number" }, { "P", "Punctuation" }, { "S", "Symbol" }, { "Z", "Separator" }, { "C", "Other" },
};

static bool same(const char *name, const char *text, size_t n) { return strlen(name) == n && memcmp(name, text, n) == 0; }

/* A bit for each category that a name means; 0: unknown. */
static uint32_t category_bits(const char *name, size_t n)
{
    uint32_t bits = 0;
    if (same("digit", name, n)) name = "Nd", n = 2;
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++) {
        if (same(categories[i][0], name, n) || same(categories[i][1], name, n)) bits |= 1u << i;
        for (size_t g = 0; g < sizeof category_groups / sizeof *category_groups; g++)
            if (categories[i][0][0] == category_groups[g][0][0] && (same(category_groups[g][0], name, n) || same(category_groups[g][1], name, n))) bits |= 1u << i;
    }
    return bits;
}

static enum status add_category(struct parser *p, struct ranges *r, bool negate)
{
    if (peek(p) != '{') return refuse(p, "\\p needs a category in braces");
    size_t start = ++p->at;
    while (more(p) && peek(p) != '}') p->at++;
    if (!more(p)) return refuse(p, "\\p{ is not closed");
    const char *name = p->text + start, *equals = memchr(name, '=', p->at - start);
    if (equals && !same("General_Category", name, (size_t)(equals - name)) && !same("gc", name, (size_t)(equals - name))) return refuse(p, "of \\p{...} only general categories are taken");
    if (equals) name = equals + 1;
    uint32_t bits = category_bits(name, (size_t)(p->text + p->at - name));
    if (!bits) return refuse(p, "of \\p{...} only general categories are taken");
    p->at++;
    for (uint32_t c = 0, from = 0, in = 0; c <= CODE_MAX + 1; c++) {
        uint32_t now = c <= CODE_MAX && (bits >> utf8proc_category((utf8proc_int32_t)c) & 1) != (uint32_t)negate;
        if (now && !in) from = c;
        if (!now && in && !ranges_add(p, r, from, c - 1)) return no_memory(p);
        in = now;
    }
    return ST_OK;
}

/* \d, \w, \s and their opposites: ranges ascending and apart. */
static bool add_named(struct parser *p, struct ranges *r, int which)
{
    static const struct code_range digits[] = { { '0', '9' } }, words[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } },
        spaces[] = { { 9, 13 }, { ' ', ' ' }, { 0xa0, 0xa0 }, { 0x1680, 0x1680 }, { 0x2000, 0x200a }, { 0x2028, 0x2029 }, { 0x202f, 0x202f }, { 0x205f, 0x205f }, { 0x3000, 0x3000 }, { 0xfeff, 0xfeff } };
    const struct code_range *set = (which | 32) == 'd' ? digits : (which | 32) == 'w' ? words : spaces;
    size_t n = set == digits ? 1 : set == words ? 4 : sizeof spaces / sizeof *spaces;
    bool negate = !(which & 32);
    uint32_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (!negate && !ranges_add(p, r, set[i].low, set[i].high)) return false;
        if (negate && set[i].low > from && !ranges_add(p, r, from, set[i].low - 1)) return false;
        from = set[i].high + 1;
    }
    return !negate || ranges_add(p, r, from, CODE_MAX);
}

/* After a backslash: either one character (*one) or a set added to r (*one = UINT32_MAX). */
static enum status take_escape(struct parser *p, struct ranges *r, bool in_class, uint32_t *one)
{
    static const char plain[] = "tnrfv", codes[] = "\t\n\r\f\v";
    int c = peek(p);
    const char *hit;
    *one = UINT32_MAX;
    if (c < 0) return refuse(p, "it ends in a backslash");
    if (c >= 0x80) {
        *one = take_code(p);
        return ST_OK;
    }
    p->at++;
    if (strchr("dDwWsS", c)) return add_named(p, r, c) ? ST_OK : no_memory(p);
    if (c == 'p' || c == 'P') return add_category(p, r, c == 'P');
    if ((hit = strchr(plain, c))) *one = (uint32_t)codes[hit - plain];
    else if (c == 'x') return take_hex(p, 2, one);
    else if (c == 'u') return take_unicode(p, one);
    else if (c == 'b' && in_class) *one = 8;
    else if (c == '0' && !(peek(p) >= '0' && peek(p) <= '9')) *one = 0;
    else if (c == 'c') {
        int letter = peek(p) | 32;
        if (letter < 'a' || letter > 'z') return refuse(p, "\\c needs a letter");
        p->at++;
        *one = (uint32_t)letter & 31;
    } else if ((c >= '0' && c <= '9') || c == 'k') return refuse(p, "back references are not taken");
    else if (c == 'b' || c == 'B') return refuse(p, "word boundaries are not taken");
    else if ((c | 32) >= 'a' && (c | 32) <= 'z') return refuse(p, "unknown escape");
    else *one = (uint32_t)c;
    return ST_OK;
}

static enum status take_class_atom(struct parser *p, struct ranges *r, uint32_t *one)
{
    if (peek(p) != '\\') {
        *one = take_code(p);
        return ST_OK;
    }
    p->at++;
    return take_escape(p, r, true, one);
}

static enum status parse_class(struct parser *p, struct regex_node **out)
{
    struct ranges r = { 0 };
    bool negate = peek(p) == '^';
    if (negate) p->at++;
    while (more(p) && peek(p) != ']') {
        uint32_t low = 0, high;
        enum status st = take_class_atom(p, &r, &low);
        if (st) return st;
        high = low;
        if (low != UINT32_MAX && peek(p) == '-' && p->at + 1 < p->length && p->text[p->at + 1] != ']') {
            p->at++;
            st = take_class_atom(p, &r, &high);
            if (st) return st;
            if (high == UINT32_MAX || high < low) return refuse(p, "the range ends before it begins");
        }
        if (low != UINT32_MAX && !ranges_add(p, &r, low, high)) return no_memory(p);
    }
    if (!more(p)) return refuse(p, "the class is not closed");
    p->at++;
    if (!ranges_settle(p, &r, negate) || !(*out = class_node(p->m, &r))) return no_memory(p);
    return ST_OK;
}

static enum status parse_group(struct parser *p, struct regex_node **out)
{
    if (looking(p, "?:")) p->at += 2;
    else if (looking(p, "?<") && !looking(p, "?<=") && !looking(p, "?<!")) {
        while (more(p) && peek(p) != '>') p->at++;
        if (!more(p)) return refuse(p, "the group's name is not closed");
        p->at++;
    } else if (peek(p) == '?') return refuse(p, "look-around is not taken");
    if (++p->depth > REGEX_DEPTH_MAX) return refuse(p, "groups are nested too deep (64)");
    enum status st = parse_either(p, out);
    p->depth--;
    if (st) return st;
    if (peek(p) != ')') return refuse(p, "a group is not closed");
    p->at++;
    return ST_OK;
}

static enum status parse_atom(struct parser *p, struct regex_node **out)
{
    struct ranges r = { 0 };
    uint32_t one = UINT32_MAX;
    int c = peek(p);
    enum status st;
    if (c == '(' || c == '[') {
        p->at++;
        return c == '(' ? parse_group(p, out) : parse_class(p, out);
    }
    if (c == '^' || c == '$') {
        p->at++;
        *out = node_new(p->m, c == '^' ? REGEX_START : REGEX_END);
        return *out ? ST_OK : no_memory(p);
    }
    if (c == '*' || c == '+' || c == '?') return refuse(p, "nothing to repeat");
    if (c == '.') {
        p->at++;
        if (!ranges_add(p, &r, '\n', '\n') || !ranges_add(p, &r, '\r', '\r') || !ranges_add(p, &r, 0x2028, 0x2029) || !ranges_settle(p, &r, true)) return no_memory(p);
    } else if (c == '\\') {
        p->at++;
        st = take_escape(p, &r, false, &one);
        if (st) return st;
    } else one = take_code(p);
    if (one != UINT32_MAX && !ranges_add(p, &r, one, one)) return no_memory(p);
    if (!ranges_settle(p, &r, false) || !(*out = class_node(p->m, &r))) return no_memory(p);
    return ST_OK;
}

static bool take_number(struct parser *p, int *out)
{
    size_t start = p->at;
    int v = 0;
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) if (v < 1000000) v = v * 10 + peek(p) - '0';
    *out = v;
    return p->at > start;
}

/* {m}, {m,} or {m,n}; false (and nothing taken) when the brace is a plain character, as ECMA-262's annex B has it. */
static bool take_braces(struct parser *p, int *least, int *most)
{
    size_t back = p->at++;
    bool ok = take_number(p, least);
    *most = *least;
    if (ok && peek(p) == ',') {
        p->at++;
        if (!take_number(p, most)) *most = -1;
    }
    ok = ok && peek(p) == '}';
    p->at = ok ? p->at + 1 : back;
    return ok;
}

static enum status parse_repeats(struct parser *p, struct regex_node **io)
{
    int least, most, times = 0;
    for (;; times++) {
        int c = peek(p);
        if (c == '*' || c == '+' || c == '?') {
            least = c == '+';
            most = c == '?' ? 1 : -1;
            p->at++;
        } else if (c != '{' || !take_braces(p, &least, &most)) return ST_OK;
        if (times) return refuse(p, "nothing to repeat");
        if (least > REGEX_REPEAT_MAX || most > REGEX_REPEAT_MAX) return refuse(p, "a repetition may be 2000 at most");
        if (most >= 0 && most < least) return refuse(p, "a repetition's bounds are out of order");
        if (peek(p) == '?') p->at++;
        struct regex_node *n = node_new(p->m, REGEX_REPEAT);
        if (!n) return no_memory(p);
        n->left = *io, n->least = least, n->most = most;
        *io = n;
    }
}

static enum status parse_sequence(struct parser *p, struct regex_node **out)
{
    struct regex_node **tail = out;
    while (more(p) && peek(p) != '|' && peek(p) != ')') {
        struct regex_node *n = node_new(p->m, REGEX_SEQUENCE);
        if (!n) return no_memory(p);
        enum status st = peek(p) == '{' && take_braces(p, &n->least, &n->most) ? refuse(p, "nothing to repeat") : parse_atom(p, &n->left);
        if (!st) st = parse_repeats(p, &n->left);
        if (st) return st;
        *tail = n;
        tail = &n->right;
    }
    *tail = node_new(p->m, REGEX_EMPTY);
    return *tail ? ST_OK : no_memory(p);
}

static enum status parse_either(struct parser *p, struct regex_node **out)
{
    for (;;) {
        struct regex_node *branch, *n;
        enum status st = parse_sequence(p, &branch);
        if (st) return st;
        if (peek(p) != '|') {
            *out = branch;
            return ST_OK;
        }
        p->at++;
        n = node_new(p->m, REGEX_EITHER);
        if (!n) return no_memory(p);
        n->left = branch;
        *out = n;
        out = &n->right;
    }
}

enum status regex_parse(struct regex_node **out, const struct dfa_maker *m, const char *text, size_t length, struct err *err)
{
    struct parser p = { .m = m, .text = text, .length = length, .err = err };
    if (length > REGEX_SOURCE_MAX) return err_set(err, ST_BAD_INPUT, "a regular expression may have 65536 bytes at most, not %zu", length);
    enum status st = parse_either(&p, out);
    if (!st && more(&p)) return refuse(&p, "')' without '('");
    return st;
}
