/* Tree to automaton, and the algebra of automata.
 *
 * A tree becomes a nondeterministic automaton over bytes: a class is split into the byte sequences of its code points' UTF-8 forms. Subset construction
 * then numbers the sets of nodes in the order in which they are met. ^ and $ are edges that take no byte: ^ may be passed only before the first byte, $ only when no byte
 * follows, so the set after closure keeps the nodes that wait at a $ and a state is final when the end can be reached through them. The bytes that no edge
 * tells apart share a column of the table. */
#include "engine/text/regex_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"

enum { NONE = -1, CHECK_EVERY = 64, WORK_BETWEEN_CHECKS = 100000 };

enum nfa_kind { NFA_BYTES, NFA_SPLIT, NFA_START, NFA_END, NFA_MATCH };
struct nfa_node { enum nfa_kind kind; uint8_t low, high; int32_t out, out2; };

struct nfa {
    const struct dfa_maker *m;
    struct nfa_node *nodes;
    int32_t count, room;
    bool    failed;
};

uint64_t cpu_time_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

enum status dfa_maker_check(const struct dfa_maker *m, struct err *err)
{
    if (cpu_time_ns() < m->cpu_ns_end) return ST_OK;
    return err_set(err, ST_BAD_INPUT, "the grammar takes more than one second to compile");
}

static enum status too_big(struct err *err) { return err_set(err, ST_BAD_INPUT, "the regular expression needs an automaton of more than %d states or too much memory", REGEX_STATES_MAX); }

static int32_t nfa_add(struct nfa *n, enum nfa_kind kind, int32_t out, int32_t out2)
{
    if (n->count == n->room) {
        int32_t room = n->room ? 2 * n->room : 256;
        struct nfa_node *nodes = n->failed || n->count >= REGEX_NODES_MAX ? NULL : arena_calloc(n->m->arena, (uint64_t)room, sizeof *nodes);
        if (!nodes) {
            n->failed = true;
            return 0;
        }
        if (n->count) memcpy(nodes, n->nodes, (size_t)n->count * sizeof *nodes);
        n->nodes = nodes, n->room = room;
    }
    n->nodes[n->count] = (struct nfa_node){ .kind = kind, .out = out, .out2 = out2 };
    return n->count++;
}

static int utf8_put(uint32_t c, uint8_t *out)
{
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    if (c < 0x800) return out[0] = (uint8_t)(0xc0 | c >> 6), out[1] = (uint8_t)(0x80 | (c & 63)), 2;
    if (c < 0x10000) return out[0] = (uint8_t)(0xe0 | c >> 12), out[1] = (uint8_t)(0x80 | (c >> 6 & 63)), out[2] = (uint8_t)(0x80 | (c & 63)), 3;
    return out[0] = (uint8_t)(0xf0 | c >> 18), out[1] = (uint8_t)(0x80 | (c >> 12 & 63)), out[2] = (uint8_t)(0x80 | (c >> 6 & 63)), out[3] = (uint8_t)(0x80 | (c & 63)), 4;
}

/* One run of code points whose forms differ in trailing bytes only as whole ranges. Returns the node before the new sequence, a choice with `otherwise`. */
static int32_t nfa_sequence(struct nfa *n, uint32_t low, uint32_t high, int32_t out, int32_t otherwise)
{
    uint8_t a[4], b[4];
    int length = utf8_put(low, a);
    utf8_put(high, b);
    for (int i = length - 1; i >= 0; i--) {
        out = nfa_add(n, NFA_BYTES, out, NONE);
        if (n->failed) return 0;
        n->nodes[out].low = a[i], n->nodes[out].high = b[i];
    }
    return otherwise == NONE ? out : nfa_add(n, NFA_SPLIT, out, otherwise);
}

/* Cuts a range where the length of the form changes, and where a leading part changes before the trailing part is whole. */
static int32_t nfa_class(struct nfa *n, const struct regex_node *c, int32_t out)
{
    static const uint32_t longest[] = { 0x7f, 0x7ff, 0xffff, 0x10ffff };
    int32_t all = NONE;
    for (size_t i = 0; i < c->range_count && !n->failed; i++)
        for (uint32_t low = c->ranges[i].low, high; low <= c->ranges[i].high; low = high + 1) {
            high = c->ranges[i].high;
            for (int k = 0; k < 4; k++) if (low <= longest[k] && high > longest[k]) high = longest[k];
            if (high >= 0x80) for (int bits = 6; bits <= 18; bits += 6) {
                uint32_t rest = (1u << bits) - 1;
                if ((low & ~rest) == (high & ~rest)) continue;
                if (low & rest) {
                    if ((low | rest) < high) high = low | rest;
                } else if ((high & rest) != rest) high = (high & ~rest) - 1;
            }
            all = nfa_sequence(n, low, high, out, all);
            if (n->failed) return 0;
        }
    return all == NONE ? nfa_add(n, NFA_SPLIT, NONE, NONE) : all;
}

/* Returns the node from which `tree` and then `out` is read. Depth is bounded by the parser; the right sides are few or walked here. */
static int32_t nfa_tree(struct nfa *n, const struct regex_node *tree, int32_t out);

static int32_t nfa_repeat(struct nfa *n, const struct regex_node *r, int32_t out)
{
    int32_t next = out;
    if (r->most < 0) {
        int32_t loop = nfa_add(n, NFA_SPLIT, NONE, out);
        int32_t body = nfa_tree(n, r->left, loop);
        if (n->failed) return 0;
        n->nodes[loop].out = body;
        next = loop;
    }
    for (int i = r->least; i < r->most && !n->failed; i++) next = nfa_add(n, NFA_SPLIT, nfa_tree(n, r->left, next), out);
    for (int i = 0; i < r->least && !n->failed; i++) next = nfa_tree(n, r->left, next);
    return next;
}

static int32_t nfa_sequence_tree(struct nfa *n, const struct regex_node *tree, int32_t out)
{
    size_t count = 0, i = 0;
    for (const struct regex_node *t = tree; t->kind == REGEX_SEQUENCE; t = t->right) count++;
    const struct regex_node **parts = arena_calloc(n->m->arena, count + 1, sizeof *parts);
    if (!parts) return n->failed = true, 0;
    for (const struct regex_node *t = tree; t->kind == REGEX_SEQUENCE; t = t->right) parts[i++] = t->left;
    while (i-- && !n->failed) out = nfa_tree(n, parts[i], out);
    return out;
}

static int32_t nfa_tree(struct nfa *n, const struct regex_node *tree, int32_t out)
{
    int32_t all = NONE;
    if (n->failed) return 0;
    for (; tree->kind == REGEX_EITHER; tree = tree->right) {
        int32_t one = nfa_tree(n, tree->left, out);
        all = all == NONE ? one : nfa_add(n, NFA_SPLIT, all, one);
    }
    int32_t last = out;
    switch (tree->kind) {
    case REGEX_CLASS:    last = nfa_class(n, tree, out); break;
    case REGEX_SEQUENCE: last = nfa_sequence_tree(n, tree, out); break;
    case REGEX_REPEAT:   last = nfa_repeat(n, tree, out); break;
    case REGEX_START:    last = nfa_add(n, NFA_START, out, NONE); break;
    case REGEX_END:      last = nfa_add(n, NFA_END, out, NONE); break;
    default: break;
    }
    return all == NONE ? last : nfa_add(n, NFA_SPLIT, all, last);
}

/* Sets of nodes by their content. */
struct sets {
    struct arena *arena;
    uint32_t    **member;      /* [room]: count, then the nodes, ascending */
    uint32_t      count, room, *slots, slot_count;
};

static uint32_t set_hash(const uint32_t *s, uint32_t n)
{
    uint64_t h = 1469598103934665603u;
    for (uint32_t i = 0; i < n; i++) h = (h ^ s[i]) * 1099511628211u;
    return (uint32_t)(h ^ h >> 32);
}

static bool sets_grow(struct sets *s)
{
    uint32_t room = s->room ? 2 * s->room : 64, slot_count = 4 * room;
    uint32_t **member = arena_calloc(s->arena, room, sizeof *member), *slots = arena_calloc(s->arena, slot_count, sizeof *slots);
    if (!member || !slots) return false;
    if (s->count) memcpy(member, s->member, s->count * sizeof *member);
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t at = set_hash(member[i] + 1, member[i][0]) & (slot_count - 1);
        while (slots[at]) at = (at + 1) & (slot_count - 1);
        slots[at] = i + 1;
    }
    s->member = member, s->slots = slots, s->room = room, s->slot_count = slot_count;
    return true;
}

/* The number of the set, added when it is new; UINT32_MAX: too many or no memory. */
static uint32_t sets_find(struct sets *s, const uint32_t *nodes, uint32_t n)
{
    if (s->count == s->room && (s->count >= REGEX_STATES_MAX || !sets_grow(s))) return UINT32_MAX;
    uint32_t at = set_hash(nodes, n) & (s->slot_count - 1);
    for (; s->slots[at]; at = (at + 1) & (s->slot_count - 1)) {
        const uint32_t *have = s->member[s->slots[at] - 1];
        if (have[0] == n && (!n || memcmp(have + 1, nodes, n * sizeof *nodes) == 0)) return s->slots[at] - 1;
    }
    uint32_t *copy = arena_alloc(s->arena, (n + 1) * sizeof *copy, 4);
    if (!copy) return UINT32_MAX;
    copy[0] = n;
    if (n) memcpy(copy + 1, nodes, n * sizeof *nodes);
    s->member[s->count] = copy;
    s->slots[at] = s->count + 1;
    return s->count++;
}

struct builder {
    const struct nfa *n;
    uint32_t *mark, epoch;         /* [nodes] */
    uint32_t *work, *set;          /* [nodes] */
};

static int number_compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Follows what takes no byte from `roots`; set gets the nodes that wait for a byte or for the end, ascending. Returns whether MATCH was met. */
static bool closure(struct builder *b, const uint32_t *roots, uint32_t root_count, bool at_start, bool at_end, uint32_t *set_count)
{
    uint32_t top = 0, n = 0;
    bool match = false;
    b->epoch++;
    for (uint32_t i = 0; i < root_count; i++) if (b->mark[roots[i]] != b->epoch) b->mark[roots[i]] = b->epoch, b->work[top++] = roots[i];
    while (top) {
        uint32_t at = b->work[--top];
        const struct nfa_node *node = b->n->nodes + at;
        bool through = node->kind == NFA_SPLIT || (node->kind == NFA_START && at_start) || (node->kind == NFA_END && at_end);
        if (node->kind == NFA_MATCH) match = true;
        if (node->kind == NFA_BYTES || node->kind == NFA_END || node->kind == NFA_MATCH) b->set[n++] = at;
        if (through && node->out != NONE && b->mark[node->out] != b->epoch) b->mark[node->out] = b->epoch, b->work[top++] = (uint32_t)node->out;
        if (through && node->out2 != NONE && b->mark[node->out2] != b->epoch) b->mark[node->out2] = b->epoch, b->work[top++] = (uint32_t)node->out2;
    }
    if (n > 48) qsort(b->set, n, sizeof *b->set, number_compare);
    else for (uint32_t i = 1; i < n; i++) {
        uint32_t v = b->set[i], j = i;
        for (; j && b->set[j - 1] > v; j--) b->set[j] = b->set[j - 1];
        b->set[j] = v;
    }
    *set_count = n;
    return match;
}

static void classes_of(struct dfa *d, const struct nfa *n)
{
    bool edge[257] = { true };
    int count = 0;
    for (int32_t i = 0; i < n->count; i++)
        if (n->nodes[i].kind == NFA_BYTES) edge[n->nodes[i].low] = edge[n->nodes[i].high + 1] = true;
    for (int c = 0; c < 256; c++) {
        if (edge[c]) count++;
        d->class_of[c] = (uint8_t)(count - 1);
    }
    d->class_count = (uint32_t)count;
}

/* A table that grows with its states. */
static bool table_fit(struct dfa *d, const struct dfa_maker *m, uint32_t *room, uint32_t states)
{
    if (states <= *room) return true;
    uint32_t more = *room ? 2 * *room : 64;
    while (more < states) more *= 2;
    uint32_t *next = arena_calloc(m->arena, (uint64_t)more * d->class_count, sizeof *next);
    bool *final = arena_calloc(m->arena, more, sizeof *final);
    if (!next || !final) return false;
    if (*room) memcpy(next, d->next, (size_t)*room * d->class_count * sizeof *next), memcpy(final, d->final, *room);
    d->next = next, d->final = final, *room = more;
    return true;
}

static enum status determinise(struct dfa *d, const struct nfa *n, int32_t start, struct err *err)
{
    const struct dfa_maker *m = n->m;
    struct sets sets = { .arena = m->arena };
    uint64_t count = (uint64_t)n->count;
    struct builder b = { .n = n, .mark = arena_calloc(m->arena, count, 4), .work = arena_calloc(m->arena, count, 4), .set = arena_calloc(m->arena, count, 4) };
    uint32_t *roots = arena_calloc(m->arena, count, 4), room = 0, k, first = (uint32_t)start;
    uint8_t sample[256];
    if (!b.mark || !b.work || !b.set || !roots) return too_big(err);
    classes_of(d, n);
    for (int c = 255; c >= 0; c--) sample[d->class_of[c]] = (uint8_t)c;
    if (sets_find(&sets, NULL, 0) != 0) return too_big(err);          /* the dead state */
    closure(&b, &first, 1, true, false, &k);
    d->start = sets_find(&sets, b.set, k);
    uint64_t work = 0;
    for (uint32_t s = 1; s < sets.count && d->start != UINT32_MAX; s++) {
        if (!table_fit(d, m, &room, s + 1)) return too_big(err);
        const uint32_t *set = sets.member[s];
        for (uint32_t c = 0; c < d->class_count; c++) {
            uint32_t r = 0, to;
            enum status st = work < WORK_BETWEEN_CHECKS ? ST_OK : dfa_maker_check(m, err);
            if (st) return st;
            work = work < WORK_BETWEEN_CHECKS ? work + set[0] + k : 0;
            for (uint32_t i = 1; i <= set[0]; i++) {
                const struct nfa_node *node = n->nodes + set[i];
                if (node->kind == NFA_BYTES && sample[c] >= node->low && sample[c] <= node->high) roots[r++] = (uint32_t)node->out;
            }
            if (!r) continue;
            closure(&b, roots, r, false, false, &k);
            to = sets_find(&sets, b.set, k);
            if (to == UINT32_MAX) return too_big(err);
            d->next[(uint64_t)s * d->class_count + c] = to;
        }
        d->final[s] = s == d->start ? closure(&b, &first, 1, true, true, &k) : closure(&b, set + 1, set[0], false, true, &k);
    }
    d->state_count = sets.count;
    return d->start == UINT32_MAX || !table_fit(d, m, &room, sets.count) ? too_big(err) : ST_OK;
}

/* States that reach no final one become the dead state, the rest are numbered anew. Backwards over a list of edges by target. */
enum status dfa_trim(struct dfa *d, const struct dfa_maker *m, struct err *err)
{
    uint64_t n = d->state_count, edges = n * d->class_count;
    uint32_t *first = arena_calloc(m->arena, n + 2, 4), *from = arena_calloc(m->arena, edges + 1, 4), *work = arena_calloc(m->arena, n + 1, 4), *name = arena_calloc(m->arena, n + 1, 4), top = 0, count = 1;
    if (!first || !from || !work || !name) return too_big(err);
    for (uint64_t e = 0; e < edges; e++) first[d->next[e] + 2]++;
    for (uint64_t s = 0; s < n; s++) first[s + 2] += first[s + 1];
    for (uint64_t e = 0; e < edges; e++) from[first[d->next[e] + 1]++] = (uint32_t)(e / d->class_count);
    for (uint32_t s = 1; s < n; s++) if (d->final[s]) name[s] = 1, work[top++] = s;
    while (top) {
        uint32_t s = work[--top];
        for (uint32_t e = first[s]; e < first[s + 1]; e++) if (from[e] && !name[from[e]]) name[from[e]] = 1, work[top++] = from[e];
    }
    for (uint32_t s = 1; s < n; s++) if (name[s]) name[s] = count++;
    for (uint32_t s = 1; s < n; s++) {
        if (!name[s]) continue;
        for (uint32_t c = 0; c < d->class_count; c++) d->next[(uint64_t)name[s] * d->class_count + c] = name[d->next[(uint64_t)s * d->class_count + c]];
        d->final[name[s]] = d->final[s];
    }
    memset(d->next, 0, d->class_count * sizeof *d->next);
    d->final[0] = false;
    d->start = name[d->start];
    d->state_count = count;
    return ST_OK;
}

enum status regex_compile(struct dfa **out, const struct dfa_maker *m, const char *text, size_t length, bool search, struct err *err)
{
    struct regex_node *tree, *any = regex_any(m);
    struct nfa n = { .m = m };
    struct dfa *d = arena_calloc(m->arena, 1, sizeof *d);
    if (!any || !d) return too_big(err);
    enum status st = regex_parse(&tree, m, text, length, err);
    if (st) return st;
    struct regex_node around = { .kind = REGEX_REPEAT, .left = any, .most = -1 };
    int32_t at = nfa_add(&n, NFA_MATCH, NONE, NONE);
    if (search) at = nfa_tree(&n, &around, at);
    at = nfa_tree(&n, tree, at);
    if (search) at = nfa_tree(&n, &around, at);
    if (n.failed) return too_big(err);
    st = determinise(d, &n, at, err);
    if (!st) st = dfa_trim(d, m, err);
    if (!st) *out = d;
    return st;
}

/* Pairs of states, numbered as they are met; {0, 0} is dead. */
enum status dfa_combine(struct dfa **out, const struct dfa_maker *m, const struct dfa *a, const struct dfa *b, enum dfa_op op, struct err *err)
{
    struct sets pairs = { .arena = m->arena };
    struct dfa *d = arena_calloc(m->arena, 1, sizeof *d);
    uint32_t room = 0, count = 0, sample[256];
    if (!d) return too_big(err);
    for (int c = 0; c < 256; c++) {
        bool fresh = !c || a->class_of[c] != a->class_of[c - 1] || b->class_of[c] != b->class_of[c - 1];
        if (fresh) sample[count++] = (uint32_t)c;
        d->class_of[c] = (uint8_t)(count - 1);
    }
    d->class_count = count;
    uint32_t pair[2] = { 0, 0 };
    if (sets_find(&pairs, pair, 2) != 0) return too_big(err);
    pair[0] = a->start, pair[1] = b->start;
    d->start = sets_find(&pairs, pair, 2);
    for (uint32_t s = 1; s < pairs.count; s++) {
        enum status st = s % CHECK_EVERY ? ST_OK : dfa_maker_check(m, err);
        if (st) return st;
        if (!table_fit(d, m, &room, s + 1)) return too_big(err);
        uint32_t x = pairs.member[s][1], y = pairs.member[s][2];
        for (uint32_t c = 0; c < count; c++) {
            pair[0] = dfa_next(a, x, (uint8_t)sample[c]), pair[1] = dfa_next(b, y, (uint8_t)sample[c]);
            if ((op == DFA_AND && (!pair[0] || !pair[1])) || (op == DFA_WITHOUT && !pair[0])) continue;
            uint32_t to = sets_find(&pairs, pair, 2);
            if (to == UINT32_MAX) return too_big(err);
            d->next[(uint64_t)s * count + c] = to;
        }
        d->final[s] = op == DFA_AND ? a->final[x] && b->final[y] : op == DFA_OR ? a->final[x] || b->final[y] : a->final[x] && !b->final[y];
    }
    d->state_count = pairs.count;
    if (d->start == UINT32_MAX || !table_fit(d, m, &room, pairs.count)) return too_big(err);
    enum status st = dfa_trim(d, m, err);
    if (!st) *out = d;
    return st;
}

enum status dfa_text(struct dfa **out, const struct dfa_maker *m, const char *text, size_t length, struct err *err)
{
    struct dfa *d = arena_calloc(m->arena, 1, sizeof *d);
    uint32_t room = 0;
    if (!d || length >= REGEX_STATES_MAX) return too_big(err);
    for (size_t i = 0; i < length; i++)
        if (!d->class_of[(uint8_t)text[i]]) d->class_of[(uint8_t)text[i]] = (uint8_t)++d->class_count;
    d->class_count++;           /* class 0: bytes that do not occur; UTF-8 never uses all 256 */
    d->state_count = (uint32_t)length + 2;
    d->start = 1;
    if (!table_fit(d, m, &room, d->state_count)) return too_big(err);
    for (uint32_t i = 0; i < length; i++) d->next[(uint64_t)(i + 1) * d->class_count + d->class_of[(uint8_t)text[i]]] = i + 2;
    d->final[length + 1] = true;
    *out = d;
    return ST_OK;
}

bool dfa_accepts(const struct dfa *d, const char *text, size_t length)
{
    uint32_t s = d->start;
    for (size_t i = 0; i < length && s; i++) s = dfa_next(d, s, (uint8_t)text[i]);
    return d->final[s];
}
