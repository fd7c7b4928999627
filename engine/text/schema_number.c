/* Numbers between bounds and multiples, as automata over their digits.
 *
 * A magnitude is read from its first digit. Compared with a bound, the whole digits so far are below, equal or above the bound's first ones; when they end, the
 * number with fewer digits is smaller; then fraction digits are compared one by one. The remainder by a multiple M * 10^-k is carried along over
 * the digits and as many fraction digits as k. States are made from the tuple of all that, met ones first. No exponents: 1e2 is written 100. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/text/schema_internal.h"

enum { MULTIPLE_MAX = 10000, STATES_MAX = 200000, DIGITS_MAX = 40 };

bool schema_decimal(const struct json *number, struct decimal *out)
{
    struct buf b;
    char digits[400];
    int whole = 0, count = 0, exponent = 0, point = -1;
    buf_init(&b, 300);
    json_write(&b, number);
    buf_putc(&b, 0);
    *out = (struct decimal){ .set = true };
    for (size_t i = 0; !b.failed && i < b.length && b.data[i]; i++) {
        char c = b.data[i];
        if (c == '-') out->negative = true;
        else if (c == '.') point = count;
        else if (c == 'e' || c == 'E') {
            exponent = atoi(b.data + i + 1);
            break;
        } else if (c >= '0' && c <= '9' && count < 60) digits[count++] = c;
    }
    bool ok = !b.failed && exponent < DIGITS_MAX && exponent > -DIGITS_MAX;
    buf_free(&b);
    if (!ok) return false;
    whole = (point < 0 ? count : point) + exponent;
    while (whole > count) digits[count++] = '0';
    if (whole < 1) {
        int add = 1 - whole;
        memmove(digits + add, digits, (size_t)count);
        memset(digits, '0', (size_t)add);
        count += add, whole = 1;
    }
    int skip = 0;
    while (whole - skip > 1 && digits[skip] == '0') skip++;
    while (count > whole && digits[count - 1] == '0') count--;
    if (count - skip > DIGITS_MAX) return false;
    memcpy(out->digits, digits + skip, (size_t)(count - skip));
    out->whole = whole - skip, out->fraction = count - whole;
    if (strspn(out->digits, "0") == strlen(out->digits)) out->negative = false;
    return true;
}

static int compare_magnitude(const struct decimal *a, const struct decimal *b)
{
    if (a->whole != b->whole) return a->whole < b->whole ? -1 : 1;
    int c = strcmp(a->digits, b->digits);
    return c < 0 ? -1 : c > 0;
}

int schema_decimal_compare(const struct decimal *a, const struct decimal *b)
{
    if (a->negative != b->negative) return a->negative ? -1 : 1;
    return a->negative ? -compare_magnitude(a, b) : compare_magnitude(a, b);
}

enum phase { PHASE_NEW, PHASE_ZERO, PHASE_WHOLE, PHASE_POINT, PHASE_FRACTION, PHASE_DEAD };

struct position { int32_t phase, count, low, high, place, remainder, nonzero, fraction; };       /* place: fraction digits read, fraction: one was not 0 */

struct magnitude {
    const struct decimal *low, *high;      /* of the magnitude; NULL: none */
    bool     nonzero, whole_only, fraction_only;
    uint32_t multiple;                     /* 0: none */
    int      places;                       /* of the multiple */
};

/* The digit at a place of the bound, whole digits from the front; '0' behind its end. */
static int bound_digit(const struct decimal *b, int place) { return place < b->whole + b->fraction ? b->digits[place] : '0'; }

/* -1, 0, 1 after one more whole digit; beyond the bound's length it does not matter. */
static int32_t after_whole(const struct decimal *b, int32_t so_far, int32_t index, int c)
{
    if (!b || so_far || index >= b->whole) return so_far;
    int d = bound_digit(b, index);
    return c < d ? -1 : c > d;
}
static int32_t whole_done(const struct decimal *b, int32_t so_far, int32_t count) { return !b ? 0 : count < b->whole ? -1 : count > b->whole ? 1 : so_far; }
static int32_t after_fraction(const struct decimal *b, int32_t so_far, int32_t place, int c)
{
    if (!b || so_far) return so_far;
    int d = bound_digit(b, b->whole + place);
    return c < d ? -1 : c > d;
}
static int32_t settled(const struct decimal *b, int32_t so_far, int32_t place)
{
    return !b ? 0 : so_far ? so_far : place < b->fraction ? -1 : 0;
}

static struct position advance(const struct magnitude *m, struct position p, int c)
{
    struct position dead = { .phase = PHASE_DEAD };
    int longest = (m->low ? m->low->whole : 0) > (m->high ? m->high->whole : 0) ? (m->low ? m->low->whole : 0) : (m->high ? m->high->whole : 0);
    if (c == '.') {
        if ((p.phase != PHASE_ZERO && p.phase != PHASE_WHOLE) || m->whole_only) return dead;
        p.low = whole_done(m->low, p.low, p.count), p.high = whole_done(m->high, p.high, p.count);
        p.phase = PHASE_POINT, p.count = 0;
        return p;
    }
    if (c < '0' || c > '9' || p.phase == PHASE_ZERO) return dead;
    if (p.phase <= PHASE_WHOLE) {
        p.low = after_whole(m->low, p.low, p.count, c), p.high = after_whole(m->high, p.high, p.count, c);
        p.phase = p.phase == PHASE_NEW && c == '0' ? PHASE_ZERO : PHASE_WHOLE;
        if (p.count <= longest) p.count++;
        if (m->high && p.count > m->high->whole) return dead;
        p.nonzero |= c != '0';
    } else {
        if (m->multiple && p.place >= m->places) return dead;
        p.low = after_fraction(m->low, p.low, p.place, c), p.high = after_fraction(m->high, p.high, p.place, c);
        p.phase = PHASE_FRACTION;
        int most = m->multiple ? m->places : 0;
        if (m->low && m->low->fraction > most) most = m->low->fraction;
        if (m->high && m->high->fraction > most) most = m->high->fraction;
        if (p.place <= most) p.place++;
        p.nonzero |= c != '0', p.fraction |= c != '0';
    }
    if (m->multiple) p.remainder = (int32_t)(((uint32_t)p.remainder * 10 + (uint32_t)(c - '0')) % m->multiple);
    return p;
}

static bool position_final(const struct magnitude *m, struct position p)
{
    if (p.phase != PHASE_ZERO && p.phase != PHASE_WHOLE && p.phase != PHASE_FRACTION) return false;
    if (p.phase != PHASE_FRACTION) p.low = whole_done(m->low, p.low, p.count), p.high = whole_done(m->high, p.high, p.count);
    int low = settled(m->low, p.low, p.place), high = settled(m->high, p.high, p.place);
    uint32_t rest = (uint32_t)p.remainder;
    for (int i = p.place; m->multiple && i < m->places; i++) rest = rest * 10 % m->multiple;
    if (m->low && (low < 0 || (!low && m->low->exclusive))) return false;
    if (m->high && (high > 0 || (!high && m->high->exclusive))) return false;
    return (!m->nonzero || p.nonzero) && (!m->fraction_only || p.fraction) && (!m->multiple || !rest);
}

/* Digits share no class: a table of 12 columns (none, the point, ten digits). */
static enum status magnitude_dfa(struct schema *s, const struct magnitude *m, struct dfa **out)
{
    struct arena *a = &s->net.arena;
    uint32_t room = 256, count = 2, slots = 1024;
    struct dfa *d = arena_calloc(a, 1, sizeof *d);
    struct position *p = arena_calloc(a, room, sizeof *p);
    uint32_t *slot = arena_calloc(a, slots, 4), *next = arena_calloc(a, (uint64_t)room * 12, 4);
    if (!d || !p || !slot || !next) return schema_no_memory(s);
    p[0].phase = PHASE_DEAD;
    for (uint32_t i = 1; i < count; i++)
        for (int c = 1; c < 12; c++) {
            struct position to = advance(m, p[i], c == 1 ? '.' : '0' + c - 2);
            if (to.phase == PHASE_DEAD) continue;
            uint64_t h = 0;
            const int32_t *words = (const int32_t *)&to;
            for (size_t w = 0; w < sizeof to / 4; w++) h = (h ^ (uint32_t)words[w]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
            uint32_t at = (uint32_t)h & (slots - 1);
            while (slot[at] && memcmp(p + slot[at], &to, sizeof to)) at = (at + 1) & (slots - 1);
            if (!slot[at]) {
                if (count == room) {
                    struct position *p2 = arena_calloc(a, (uint64_t)room * 2, sizeof *p2);
                    uint32_t *next2 = arena_calloc(a, (uint64_t)room * 24, 4), *slot2 = arena_calloc(a, (uint64_t)slots * 2, 4);
                    if (!p2 || !next2 || !slot2 || room * 2 > STATES_MAX) return schema_no_memory(s);
                    memcpy(p2, p, room * sizeof *p), memcpy(next2, next, (size_t)room * 48);
                    for (uint32_t q = 2; q < count; q++) {
                        uint64_t g = 0;
                        words = (const int32_t *)(p2 + q);
                        for (size_t w = 0; w < sizeof to / 4; w++) g = (g ^ (uint32_t)words[w]) * 0x9e3779b97f4a7c15u, g ^= g >> 29;
                        uint32_t t = (uint32_t)g & (slots * 2 - 1);
                        while (slot2[t]) t = (t + 1) & (slots * 2 - 1);
                        slot2[t] = q;
                    }
                    p = p2, next = next2, slot = slot2, room *= 2, slots *= 2;
                    at = (uint32_t)h & (slots - 1);
                    while (slot[at]) at = (at + 1) & (slots - 1);
                }
                slot[at] = count;
                p[count++] = to;
            }
            next[(uint64_t)i * 12 + (uint32_t)c] = slot[at];
        }
    d->class_of['.'] = 1;
    for (int c = 0; c < 10; c++) d->class_of['0' + c] = (uint8_t)(c + 2);
    d->class_count = 12, d->state_count = count, d->start = 1, d->next = next;
    d->final = arena_calloc(a, count, 1);
    if (!d->final) return schema_no_memory(s);
    for (uint32_t i = 1; i < count; i++) d->final[i] = position_final(m, p[i]);
    *out = d;
    return dfa_trim(d, &s->net.maker, s->err);
}

static enum status multiple_of(struct schema *s, const struct json *schema, uint32_t *multiple, int *places)
{
    const struct json *k = json_get(schema, "multipleOf");
    struct decimal d;
    *multiple = 0, *places = 0;
    if (!k) return ST_OK;
    if ((k->type != JSON_INT && k->type != JSON_UINT && k->type != JSON_REAL) || !schema_decimal(k, &d) || d.negative) return schema_refuse(s, schema, "multipleOf", "must be a positive number of at most 40 digits");
    uint64_t v = 0;
    for (const char *c = d.digits; *c && v <= MULTIPLE_MAX; c++) v = v * 10 + (uint64_t)(*c - '0');
    if (!v || v > MULTIPLE_MAX) return schema_refuse(s, schema, "multipleOf", "must not be 0 nor have digits above 10000");
    *multiple = (uint32_t)v, *places = d.fraction;
    return ST_OK;
}

/* One automaton for numbers of one sign: every multipleOf joined. *out NULL: there are none. */
static enum status signed_dfa(struct schema *s, const struct shape *h, bool negative, struct dfa **out)
{
    struct decimal low = h->low, high = h->high;
    struct magnitude m = { .nonzero = negative, .whole_only = !(h->types & TYPE_FRACTION), .fraction_only = !(h->types & TYPE_INTEGER) };
    *out = NULL;
    bool high_zero = high.set && strspn(high.digits, "0") == strlen(high.digits), low_zero = low.set && strspn(low.digits, "0") == strlen(low.digits);
    if (!negative) {
        if (high.set && (high.negative || (high_zero && high.exclusive))) return ST_OK;
        if (low.set && !low.negative) m.low = &low;
        if (high.set) m.high = &high;
    } else {
        if (low.set && (!low.negative || low_zero)) return ST_OK;
        if (high.set && high.negative) m.low = &high;
        if (low.set) m.high = &low;
    }
    bool any = false;
    for (uint32_t i = 0; i < h->list->count || !any; i++) {
        struct dfa *d;
        enum status st = i < h->list->count ? multiple_of(s, h->list->at[i], &m.multiple, &m.places) : ST_OK;
        if (st) return st;
        if (i < h->list->count && !m.multiple) continue;
        st = magnitude_dfa(s, &m, &d);
        if (!st && any) st = dfa_combine(&d, &s->net.maker, *out, d, DFA_AND, s->err);
        if (st) return st;
        *out = d, any = true;
    }
    return ST_OK;
}

enum status schema_number(struct schema *s, const struct shape *h, uint32_t from, uint32_t to)
{
    struct net *n = &s->net;
    unsigned types = h->types & (TYPE_INTEGER | TYPE_FRACTION);
    if (!h->low.set && !h->high.set && !h->multiples && (types & TYPE_INTEGER)) {
        net_call(n, from, s->parts.rule[types & TYPE_FRACTION ? JSON_PART_NUMBER : JSON_PART_INTEGER], to);
        return ST_OK;
    }
    for (int negative = 0; negative < 2; negative++) {
        struct dfa *d;
        uint32_t at = from;
        enum status st = signed_dfa(s, h, negative, &d);
        if (st) return st;
        if (!d) continue;
        if (negative) at = net_text(n, from, "-", 1);
        net_dfa(n, at, d, to);
    }
    return ST_OK;
}

enum status schema_number_check(struct schema *s, const struct shape *h, const struct json *value, bool *ok)
{
    struct decimal v;
    struct dfa *d;
    char text[64];
    *ok = false;
    if (!schema_decimal(value, &v)) return err_set(s->err, ST_BAD_INPUT, "schema: a number in enum or const has too many digits");
    enum status st = signed_dfa(s, h, v.negative, &d);
    if (st || !d) return st;
    size_t n = 0;
    for (int i = 0; i < v.whole; i++) text[n++] = v.digits[i];
    if (v.fraction) text[n++] = '.';
    for (int i = 0; i < v.fraction; i++) text[n++] = v.digits[v.whole + i];
    *ok = dfa_accepts(d, text, n);
    return ST_OK;
}
