/* Stacks and sets of stacks, each kept once and known by its number.
 *
 * A stack is (node, the stack to return to); two stacks with the same calls behind them share all of them. A configuration is the set of stacks whose top waits
 * for a byte, found by following everything that writes nothing (closure). Since configurations are numbered, stepping one by a byte is a look-up after the
 * first time: the automaton becomes deterministic where it is used. Everything remembered lies in one arena. */
#include "engine/text/grammar_machine.h"

#include <stdlib.h>
#include <string.h>

enum { WORK_MAX = 1 << 16 };       /* stacks looked at in one closure; more are left out */

static uint64_t mix(uint64_t h) { return h ^= h >> 33, h *= 0xff51afd7ed558ccdu, h ^ h >> 29; }

/* Doubles an array of the arena when it is full; the old one is given up to it. */
static bool grow(struct arena *a, void *array, uint32_t count, uint32_t *room, size_t size)
{
    void *old, *more;
    if (count < *room) return true;
    uint32_t to = *room ? 2 * *room : 256;
    memcpy(&old, array, sizeof old);
    more = arena_calloc(a, to, size);
    if (!more) return false;
    if (count) memcpy(more, old, count * size);
    memcpy(array, &more, sizeof more);
    *room = to;
    return true;
}

static bool table_fit(struct arena *a, struct table *t, uint32_t count, uint64_t (*hash)(const struct grammar_machine *, uint32_t), const struct grammar_machine *m)
{
    if ((uint64_t)count * 2 < t->size) return true;
    uint32_t size = t->size ? 2 * t->size : 1024;
    uint32_t *slots = arena_calloc(a, size, sizeof *slots);
    if (!slots) return false;
    for (uint32_t i = 0; i < t->size; i++) {
        if (!t->slots[i]) continue;
        uint32_t at = (uint32_t)hash(m, t->slots[i] - 1) & (size - 1);
        while (slots[at]) at = (at + 1) & (size - 1);
        slots[at] = t->slots[i];
    }
    t->slots = slots, t->size = size;
    return true;
}

static uint64_t stack_hash(const struct grammar_machine *m, uint32_t s) { return mix((uint64_t)m->stacks[s].node << 32 | m->stacks[s].parent); }

static uint64_t members_hash(const uint32_t *s, uint32_t n, uint8_t flags)
{
    uint64_t h = flags;
    for (uint32_t i = 0; i < n; i++) h = mix(h * 31 + s[i]);
    return mix(h);
}
static uint64_t config_hash(const struct grammar_machine *m, uint32_t c) { return members_hash(m->members + m->configs[c].first, m->configs[c].count, m->configs[c].flags); }

/* UINT32_MAX: no memory. */
static uint32_t stack_find(struct grammar_machine *m, uint32_t node, uint32_t parent)
{
    struct stack s = { node, parent, m->stacks[parent].depth + 1 };
    if (!table_fit(&m->arena, &m->stack_table, m->stack_count, stack_hash, m)) return UINT32_MAX;
    uint32_t at = (uint32_t)mix((uint64_t)node << 32 | parent) & (m->stack_table.size - 1);
    for (uint32_t i; (i = m->stack_table.slots[at]); at = (at + 1) & (m->stack_table.size - 1))
        if (m->stacks[i - 1].node == node && m->stacks[i - 1].parent == parent) return i - 1;
    if (!grow(&m->arena, &m->stacks, m->stack_count, &m->stack_room, sizeof *m->stacks) || !grow(&m->arena, &m->mark, m->stack_count, &m->mark_room, sizeof *m->mark)) return UINT32_MAX;
    m->stacks[m->stack_count] = s;
    m->stack_table.slots[at] = m->stack_count + 1;
    return m->stack_count++;
}

static int number_compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t config_find(struct grammar_machine *m, uint32_t *stacks, uint32_t count, uint8_t flags)
{
    if (!count && !flags) return CONFIG_DEAD;
    if (count) qsort(stacks, count, sizeof *stacks, number_compare);
    if (count > GRAMMAR_STACKS_MAX) count = GRAMMAR_STACKS_MAX;
    if (!table_fit(&m->arena, &m->config_table, m->config_count, config_hash, m)) return CONFIG_UNKNOWN;
    uint32_t at = (uint32_t)members_hash(stacks, count, flags) & (m->config_table.size - 1);
    for (uint32_t i; (i = m->config_table.slots[at]); at = (at + 1) & (m->config_table.size - 1)) {
        const struct config *c = m->configs + i - 1;
        if (c->count == count && c->flags == flags && (!count || memcmp(m->members + c->first, stacks, count * sizeof *stacks) == 0)) return i - 1;
    }
    if (!grow(&m->arena, &m->configs, m->config_count, &m->config_room, sizeof *m->configs)) return CONFIG_UNKNOWN;
    for (uint32_t i = 0; i < count; i++) {
        if (!grow(&m->arena, &m->members, m->member_count + i, &m->member_room, sizeof *m->members)) return CONFIG_UNKNOWN;
        m->members[m->member_count + i] = stacks[i];
    }
    m->configs[m->config_count] = (struct config){ .first = m->member_count, .count = count, .flags = flags };
    m->member_count += count;
    m->config_table.slots[at] = m->config_count + 1;
    return m->config_count++;
}

static void closure_begin(struct grammar_machine *m)
{
    m->epoch++;
    m->work_count = m->found_count = 0;
}

/* A stack to look at, given as its number; false without memory. */
static bool reach(struct grammar_machine *m, uint32_t stack)
{
    if (stack == UINT32_MAX) return false;
    if (m->mark[stack] == m->epoch || m->work_count >= WORK_MAX) return true;
    m->mark[stack] = m->epoch;
    if (!grow(&m->arena, &m->work, m->work_count, &m->work_room, sizeof *m->work)) return false;
    m->work[m->work_count++] = stack;
    return true;
}

static bool reach_call(struct grammar_machine *m, const struct net_edge *e, uint32_t parent)
{
    uint32_t back = parent;
    if (!e->tail) {
        if (m->stacks[parent].depth >= GRAMMAR_DEPTH_MAX) return true;
        back = stack_find(m, e->to, parent);
        if (back == UINT32_MAX) return false;
    }
    return reach(m, stack_find(m, m->grammar->rule_start[e->rule], back));
}

/* Follows what writes nothing from the stacks reached; returns the configuration. */
static uint32_t closure_end(struct grammar_machine *m)
{
    const struct grammar *g = m->grammar;
    uint8_t flags = 0;
    /* The list of work is walked from its front and never shortened, so that WORK_MAX bounds the whole closure. */
    for (uint32_t i = 0; i < m->work_count; i++) {
        uint32_t id = m->work[i];
        bool waits = false, ok = true;
        if (id == STACK_BOTTOM) flags |= CONFIG_ACCEPT;
        if (id == STACK_HOLE) flags |= CONFIG_ESCAPE;
        if (id < STACK_FIRST) continue;
        struct stack s = m->stacks[id];
        m->effort -= 1 + g->first[s.node + 1] - g->first[s.node];
        if (m->effort < 0) return CONFIG_UNKNOWN;
        if (g->ends[s.node]) {
            if (!reach(m, s.parent)) return CONFIG_UNKNOWN;
            continue;
        }
        for (uint32_t e = g->first[s.node]; e < g->first[s.node + 1] && ok; e++) {
            if (g->edges[e].rule == NET_BYTES) waits = true;
            else if (g->edges[e].rule == NET_NOTHING) ok = reach(m, stack_find(m, g->edges[e].to, s.parent));
            else ok = reach_call(m, g->edges + e, s.parent);
        }
        if (!ok) return CONFIG_UNKNOWN;
        if (!waits) continue;
        if (!grow(&m->arena, &m->found, m->found_count, &m->found_room, sizeof *m->found)) return CONFIG_UNKNOWN;
        m->found[m->found_count++] = id;
    }
    return config_find(m, m->found, m->found_count, flags);
}

uint32_t machine_start(struct grammar_machine *m)
{
    closure_begin(m);
    return reach(m, stack_find(m, m->grammar->start, STACK_BOTTOM)) ? closure_end(m) : CONFIG_UNKNOWN;
}

uint32_t machine_return(struct grammar_machine *m, uint32_t stack)
{
    closure_begin(m);
    return reach(m, stack) ? closure_end(m) : CONFIG_UNKNOWN;
}

uint32_t machine_frame(struct grammar_machine *m, const uint32_t *stacks, uint32_t count)
{
    closure_begin(m);
    for (uint32_t i = 0; i < count; i++)
        if (!reach(m, stack_find(m, m->stacks[stacks[i]].node, STACK_HOLE))) return CONFIG_UNKNOWN;
    /* The tops were closed already: what they can do without a byte is in the set or beyond the hole. */
    return config_find(m, m->work, m->work_count, 0);
}

uint32_t machine_step(struct grammar_machine *m, uint32_t config, uint8_t byte)
{
    const struct grammar *g = m->grammar;
    if (config <= CONFIG_DEAD) return config;
    if (!m->configs[config].next) {
        uint32_t *next = arena_calloc(&m->arena, 256, sizeof *next);
        if (!next) return CONFIG_UNKNOWN;
        m->configs[config].next = next;
    }
    if (m->configs[config].next[byte]) return m->configs[config].next[byte];
    closure_begin(m);
    for (uint32_t i = 0; i < m->configs[config].count; i++) {
        struct stack s = m->stacks[m->members[m->configs[config].first + i]];
        m->effort -= g->first[s.node + 1] - g->first[s.node];
        for (uint32_t e = g->first[s.node]; e < g->first[s.node + 1]; e++)
            if (g->edges[e].rule == NET_BYTES && byte >= g->edges[e].low && byte <= g->edges[e].high && !reach(m, stack_find(m, g->edges[e].to, s.parent))) return CONFIG_UNKNOWN;
    }
    uint32_t to = closure_end(m);
    return m->configs[config].next[byte] = to;
}

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "grammar: out of memory"); }

enum status machine_fail(const struct grammar_machine *m, struct err *err)
{
    return m->effort < 0 ? err_set(err, ST_BAD_INPUT, "the grammar has too many ways to go on here") : no_memory(err);
}

/* Empties the arena and sets up what every machine has. */
static enum status machine_reset(struct grammar_machine *m, struct err *err)
{
    struct grammar_machine fresh = { .grammar = m->grammar, .trie = m->trie, .trie_serial = m->trie_serial, .next = m->next, .states = m->states };
    *m = fresh;
    arena_init(&m->arena, 2 * MACHINE_MEMORY_MAX);
    m->levels = arena_calloc(&m->arena, (uint64_t)m->trie->depth_max + 2, sizeof *m->levels);
    if (!m->levels || !grow(&m->arena, &m->stacks, 0, &m->stack_room, sizeof *m->stacks) || !grow(&m->arena, &m->mark, 0, &m->mark_room, sizeof *m->mark) ||
        !grow(&m->arena, &m->configs, 0, &m->config_room, sizeof *m->configs) || !grow(&m->arena, &m->members, 0, &m->member_room, sizeof *m->members)) return no_memory(err);
    m->effort = MACHINE_EFFORT_MAX;
    m->stack_count = STACK_FIRST;
    m->stacks[STACK_HOLE].depth = FRAME_DEPTH;
    m->config_count = CONFIG_FIRST;
    return ST_OK;
}

enum status machine_open(struct grammar_machine **out, const struct grammar *g, const struct token_trie *t, struct err *err)
{
    struct grammar_machine *m = calloc(1, sizeof *m);
    if (!m) return no_memory(err);
    m->grammar = g, m->trie = t, m->trie_serial = t->serial;
    enum status st = machine_reset(m, err);
    if (st) {
        arena_free(&m->arena);
        free(m);
        return st;
    }
    *out = m;
    return ST_OK;
}

void machine_list_close(struct grammar_machine *m)
{
    while (m) {
        struct grammar_machine *next = m->next;
        arena_free(&m->arena);
        free(m);
        m = next;
    }
}

/* The stack of `from` with this number, made again in m. */
static uint32_t stack_carry(struct grammar_machine *m, const struct grammar_machine *from, uint32_t stack)
{
    uint32_t chain[GRAMMAR_DEPTH_MAX + 4], n = 0;
    for (; stack >= STACK_FIRST && n < GRAMMAR_DEPTH_MAX + 4; stack = from->stacks[stack].parent) chain[n++] = stack;
    while (n-- && stack != UINT32_MAX) stack = stack_find(m, from->stacks[chain[n]].node, stack);
    return stack;
}

enum status machine_trim(struct grammar_machine *m, struct err *err)
{
    m->effort = MACHINE_EFFORT_MAX;
    if (m->arena.used < MACHINE_MEMORY_MAX) return ST_OK;
    struct grammar_machine old = *m;
    uint32_t stacks[GRAMMAR_STACKS_MAX];
    enum status st = machine_reset(m, err);
    for (struct grammar_state *s = old.states; s && !st; s = s->next) {
        const struct config *c = old.configs + s->config;
        for (uint32_t i = 0; i < c->count && !st; i++) {
            stacks[i] = stack_carry(m, &old, old.members[c->first + i]);
            if (stacks[i] == UINT32_MAX) st = no_memory(err);
        }
        uint32_t to = st ? CONFIG_UNKNOWN : config_find(m, stacks, c->count, c->flags);
        if (to == CONFIG_UNKNOWN) st = no_memory(err);
        else s->config = to;
    }
    arena_free(&old.arena);
    /* A state that could not be carried over stands nowhere: nothing may follow. */
    for (struct grammar_state *s = m->states; st && s; s = s->next) s->config = CONFIG_DEAD;
    return st;
}
