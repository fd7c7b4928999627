/* JSON as rules: what a schema leaves open is written by these. No white space but at most one space after a colon or comma, so that a model cannot
 * idle in it; exponents stay below 300, so that every reader gets a finite number. */
#include "engine/text/grammar_internal.h"

#include <string.h>

static uint32_t after_bytes(struct net *n, uint32_t from, uint8_t low, uint8_t high)
{
    uint32_t to = net_node(n);
    net_bytes(n, from, low, high, to);
    return to;
}

static uint32_t after_hex(struct net *n, uint32_t from)
{
    uint32_t to = net_node(n);
    net_bytes(n, from, '0', '9', to);
    net_bytes(n, from, 'a', 'f', to);
    net_bytes(n, from, 'A', 'F', to);
    return to;
}

/* A letter in either case. */
static void letters(struct net *n, uint32_t from, char low, char high, uint32_t to)
{
    net_bytes(n, from, (uint8_t)low, (uint8_t)high, to);
    net_bytes(n, from, (uint8_t)(low - 32), (uint8_t)(high - 32), to);
}

uint32_t net_json_comma(struct net *n, uint32_t from, char mark)
{
    uint32_t to = net_node(n), marked = after_bytes(n, from, (uint8_t)mark, (uint8_t)mark);
    net_nothing(n, marked, to);
    net_bytes(n, marked, ' ', ' ', to);
    return to;
}

/* \u and four digits: one that is no surrogate, or a high and a low one. */
static void json_unicode(struct net *n, uint32_t u, uint32_t to)
{
    uint32_t last = net_node(n), third = net_node(n), second = net_node(n), surrogate = net_node(n), high = net_node(n);
    net_bytes(n, u, '0', '9', second);
    letters(n, u, 'a', 'c', second);
    letters(n, u, 'e', 'f', second);
    net_bytes(n, second, '0', '9', third);
    letters(n, second, 'a', 'f', third);
    letters(n, u, 'd', 'd', surrogate);
    net_bytes(n, surrogate, '0', '7', third);
    net_bytes(n, surrogate, '8', '9', high);
    letters(n, surrogate, 'a', 'b', high);
    uint32_t low = net_text(n, after_hex(n, after_hex(n, high)), "\\u", 2), low2 = net_node(n);
    letters(n, low, 'd', 'd', low2);
    letters(n, low2, 'c', 'f', third);
    net_bytes(n, third, '0', '9', last);
    letters(n, third, 'a', 'f', last);
    net_bytes(n, last, '0', '9', to);
    letters(n, last, 'a', 'f', to);
}

void net_json_character(struct net *n, uint32_t from, uint32_t to)
{
    static const char plain[] = "\"\\/bfnrt";
    uint32_t one = net_node(n), two = net_node(n), escape = net_node(n);
    net_bytes(n, from, 0x20, '"' - 1, to);
    net_bytes(n, from, '"' + 1, n->angle_escaped ? '<' - 1 : '\\' - 1, to);
    if (n->angle_escaped) net_bytes(n, from, '<' + 1, '\\' - 1, to);
    net_bytes(n, from, '\\' + 1, 0x7f, to);
    net_bytes(n, one, 0x80, 0xbf, to);
    net_bytes(n, two, 0x80, 0xbf, one);
    net_bytes(n, from, 0xc2, 0xdf, one);
    net_bytes(n, after_bytes(n, from, 0xe0, 0xe0), 0xa0, 0xbf, one);
    net_bytes(n, from, 0xe1, 0xec, two);
    net_bytes(n, after_bytes(n, from, 0xed, 0xed), 0x80, 0x9f, one);
    net_bytes(n, from, 0xee, 0xef, two);
    net_bytes(n, after_bytes(n, from, 0xf0, 0xf0), 0x90, 0xbf, two);
    net_bytes(n, after_bytes(n, from, 0xf1, 0xf3), 0x80, 0xbf, two);
    net_bytes(n, after_bytes(n, from, 0xf4, 0xf4), 0x80, 0x8f, two);
    net_bytes(n, from, '\\', '\\', escape);
    for (const char *p = plain; *p; p++) net_bytes(n, escape, (uint8_t)*p, (uint8_t)*p, to);
    json_unicode(n, after_bytes(n, escape, 'u', 'u'), to);
}

void net_json_dfa(struct net *n, uint32_t from, const struct dfa *d, uint32_t to)
{
    static const char named[] = "\b\f\n\r\t", letter[] = "bfnrt";
    if (n->status || dfa_is_empty(d)) return;
    uint32_t base = n->node_count;
    for (uint32_t s = 0; s < d->state_count; s++) net_node(n);
    net_nothing(n, from, base + d->start);
    for (uint32_t s = 1; s < d->state_count && !n->status; s++) {
        uint32_t escape = 0, digits[2] = { 0, 0 };
        if (d->final[s]) net_nothing(n, base + s, to);
        for (int c = 0, e; c < 256; c = e) {
            uint32_t next = dfa_next(d, s, (uint8_t)c);
            bool angle = n->angle_escaped && c == '<', special = c < 0x20 || c == '"' || c == '\\' || angle;
            e = c + 1;
            if (!special) for (; e < 256 && e != '"' && e != '\\' && !(n->angle_escaped && e == '<') && dfa_next(d, s, (uint8_t)e) == next; e++) {}
            if (!next) continue;
            if (!special) {
                net_bytes(n, base + s, (uint8_t)c, (uint8_t)(e - 1), base + next);
                continue;
            }
            if (!escape) escape = after_bytes(n, base + s, '\\', '\\');
            if (angle) {
                letters(n, net_text(n, escape, "u003", 4), 'c', 'c', base + next);
                continue;
            }
            const char *hit = c ? strchr(named, c) : NULL;
            if (c >= 0x20 || hit) {
                uint8_t put = hit ? (uint8_t)letter[hit - named] : (uint8_t)c;
                net_bytes(n, escape, put, put, base + next);
                continue;
            }
            if (!digits[c >> 4]) digits[c >> 4] = net_text(n, escape, c >> 4 ? "u001" : "u000", 4);
            if ((c & 15) < 10) net_bytes(n, digits[c >> 4], (uint8_t)('0' + (c & 15)), (uint8_t)('0' + (c & 15)), base + next);
            else letters(n, digits[c >> 4], (char)('a' + (c & 15) - 10), (char)('a' + (c & 15) - 10), base + next);
        }
    }
}

static void add_regex(struct net *n, int32_t rule, const char *text)
{
    struct dfa *d;
    struct err err;
    if (n->status) return;
    if (regex_compile(&d, &n->maker, text, strlen(text), false, &err)) net_fail(n, &err);
    else net_dfa(n, n->rules[rule].start, d, n->rules[rule].end);
}

void net_json_parts(struct net *n, struct json_parts *p)
{
    static const char *const names[] = { "value", "string", "number", "integer", "object", "array", "character" };
    for (int i = 0; i < JSON_PART_COUNT; i++) p->rule[i] = net_rule(n, names[i], 0);
    if (n->status) return;
    const struct net_rule *r = n->rules, value = r[p->rule[JSON_PART_VALUE]], string = r[p->rule[JSON_PART_STRING]], object = r[p->rule[JSON_PART_OBJECT]], array = r[p->rule[JSON_PART_ARRAY]],
        character = r[p->rule[JSON_PART_CHARACTER]];
    static const enum json_part choices[] = { JSON_PART_STRING, JSON_PART_NUMBER, JSON_PART_OBJECT, JSON_PART_ARRAY };
    for (int i = 0; i < 4; i++) net_call(n, value.start, p->rule[choices[i]], value.end);
    net_nothing(n, net_text(n, value.start, "true", 4), value.end);
    net_nothing(n, net_text(n, value.start, "false", 5), value.end);
    net_nothing(n, net_text(n, value.start, "null", 4), value.end);
    net_json_character(n, character.start, character.end);
    uint32_t inside = after_bytes(n, string.start, '"', '"');
    net_json_character(n, inside, inside);
    net_bytes(n, inside, '"', '"', string.end);
    add_regex(n, p->rule[JSON_PART_NUMBER], "-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?(0?[0-9]{1,2}|[12][0-9]{2}))?");
    add_regex(n, p->rule[JSON_PART_INTEGER], "-?(0|[1-9][0-9]*)");
    uint32_t open = after_bytes(n, object.start, '{', '{'), first = net_node(n), done = net_node(n), key = net_node(n);
    net_bytes(n, open, '}', '}', object.end);
    net_nothing(n, open, first);
    net_call(n, first, p->rule[JSON_PART_STRING], key);
    net_call(n, net_json_comma(n, key, ':'), p->rule[JSON_PART_VALUE], done);
    net_nothing(n, net_json_comma(n, done, ','), first);
    net_bytes(n, done, '}', '}', object.end);
    open = after_bytes(n, array.start, '[', '['), first = net_node(n), done = net_node(n);
    net_bytes(n, open, ']', ']', array.end);
    net_nothing(n, open, first);
    net_call(n, first, p->rule[JSON_PART_VALUE], done);
    net_nothing(n, net_json_comma(n, done, ','), first);
    net_bytes(n, done, ']', ']', array.end);
}
