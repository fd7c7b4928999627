/* Building, trimming and checking a network of rules.
 *
 * Three spreads over the edges, each linear: which nodes can still reach the end of their rule (others are cut: what remains can always be finished), which
 * rules may be empty, and which rules stand first in which (a cycle there is left recursion). */
#include "engine/text/grammar_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

void net_open(struct net *n)
{
    memset(n, 0, sizeof *n);
    arena_init(&n->arena, NET_MEMORY_MAX);
    n->maker = (struct dfa_maker){ &n->arena, cpu_time_ns() + 1000000000u };
    n->rules_max = GRAMMAR_RULES_MAX;
    n->rules = &n->spare;
}
void net_close(struct net *n) { arena_free(&n->arena); }

void net_fail(struct net *n, const struct err *e)
{
    if (n->status) return;
    n->err = *e;
    n->status = e->status;
}

static void fail(struct net *n, const char *what)
{
    struct err e;
    err_set(&e, ST_BAD_INPUT, "%s", what);
    net_fail(n, &e);
}

uint32_t net_node(struct net *n)
{
    if (n->node_count >= NET_NODES_MAX) {
        fail(n, "the grammar needs too many states");
        return 0;
    }
    return n->node_count++;
}

int32_t net_rule(struct net *n, const char *name, size_t at)
{
    if (n->rule_count == n->rule_room) {
        int32_t room = n->rule_room ? 2 * n->rule_room : 64;
        struct net_rule *rules = arena_calloc(&n->arena, (uint64_t)room, sizeof *rules);
        if (!rules) return fail(n, "the grammar needs too much memory"), 0;
        if (n->rule_count) memcpy(rules, n->rules, (size_t)n->rule_count * sizeof *rules);
        n->rules = rules, n->rule_room = room;
    }
    if (n->rule_count >= n->rules_max) {
        fail(n, "the grammar needs more than 10000 rules");
        return 0;
    }
    n->rules[n->rule_count] = (struct net_rule){ net_node(n), net_node(n), name, at };
    return n->rule_count++;
}

static void add_edge(struct net *n, struct net_edge e)
{
    if (n->status) return;
    if (n->edge_count == n->edge_room) {
        uint64_t room = n->edge_room ? 2 * n->edge_room : 1024;
        struct net_edge *edges = n->edge_count >= NET_EDGES_MAX ? NULL : arena_calloc(&n->arena, room, sizeof *edges);
        if (!edges) {
            fail(n, "the grammar needs too many states");
            return;
        }
        if (n->edge_count) memcpy(edges, n->edges, n->edge_count * sizeof *edges);
        n->edges = edges, n->edge_room = room;
        if (cpu_time_ns() > n->maker.cpu_ns_end) fail(n, "the grammar takes more than one second to compile");
    }
    n->edges[n->edge_count++] = e;
}
void net_bytes(struct net *n, uint32_t from, uint8_t low, uint8_t high, uint32_t to) { add_edge(n, (struct net_edge){ .from = from, .to = to, .rule = NET_BYTES, .low = low, .high = high }); }
void net_nothing(struct net *n, uint32_t from, uint32_t to) { add_edge(n, (struct net_edge){ .from = from, .to = to, .rule = NET_NOTHING }); }
void net_call(struct net *n, uint32_t from, int32_t rule, uint32_t to) { add_edge(n, (struct net_edge){ .from = from, .to = to, .rule = rule }); }

uint32_t net_text(struct net *n, uint32_t from, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint32_t to = net_node(n);
        net_bytes(n, from, (uint8_t)text[i], (uint8_t)text[i], to);
        from = to;
    }
    return from;
}

void net_dfa(struct net *n, uint32_t from, const struct dfa *d, uint32_t to)
{
    if (n->status || dfa_is_empty(d)) return;
    uint32_t base = n->node_count;
    if (d->state_count >= NET_NODES_MAX - base) {
        fail(n, "the grammar needs too many states");
        return;
    }
    n->node_count += d->state_count;
    net_nothing(n, from, base + d->start);
    for (uint32_t s = 1; s < d->state_count; s++) {
        if (d->final[s]) net_nothing(n, base + s, to);
        for (int c = 0, e; c < 256; c = e) {
            uint32_t next = dfa_next(d, s, (uint8_t)c);
            for (e = c + 1; e < 256 && dfa_next(d, s, (uint8_t)e) == next; e++) {}
            if (next) net_bytes(n, base + s, (uint8_t)c, (uint8_t)(e - 1), base + next);
        }
    }
}

/* Edges by the node they leave or enter. */
struct sorted { uint32_t *first, *edge; };

static bool sort_edges(struct net *n, bool by_target, struct sorted *s)
{
    s->first = arena_calloc(&n->arena, (uint64_t)n->node_count + 2, 4);
    s->edge = arena_calloc(&n->arena, n->edge_count + 1, 4);
    if (!s->first || !s->edge) return false;
    for (uint64_t e = 0; e < n->edge_count; e++) s->first[(by_target ? n->edges[e].to : n->edges[e].from) + 2]++;
    for (uint32_t v = 0; v < n->node_count; v++) s->first[v + 2] += s->first[v + 1];
    for (uint64_t e = 0; e < n->edge_count; e++) s->edge[s->first[(by_target ? n->edges[e].to : n->edges[e].from) + 1]++] = (uint32_t)e;
    return true;
}

/* The nodes that reach the end of their rule: over every edge, or (empty) only over those that write nothing. A call counts once its rule's start is in. */
static bool *spread(struct net *n, const struct sorted *into, const struct sorted *calls, bool empty)
{
    bool *in = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, 1);
    int32_t *starts = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, sizeof *starts);
    uint32_t *work = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, 4), top = 0;
    if (!in || !work || !starts) return NULL;
    for (int32_t r = 0; r < n->rule_count; r++) {
        starts[n->rules[r].start] = r + 1;
        if (!in[n->rules[r].end]) in[n->rules[r].end] = true, work[top++] = n->rules[r].end;
    }
    while (top) {
        uint32_t v = work[--top];
        for (uint32_t i = into->first[v]; i < into->first[v + 1]; i++) {
            const struct net_edge *e = n->edges + into->edge[i];
            if (in[e->from] || (e->rule == NET_BYTES && empty) || (e->rule >= 0 && !in[n->rules[e->rule].start])) continue;
            in[e->from] = true, work[top++] = e->from;
        }
        if (!starts[v]) continue;
        uint32_t r = (uint32_t)starts[v] - 1;
        for (uint32_t i = calls->first[r]; i < calls->first[r + 1]; i++) {
            const struct net_edge *e = n->edges + calls->edge[i];
            if (in[e->to] && !in[e->from]) in[e->from] = true, work[top++] = e->from;
        }
    }
    return in;
}

static bool sort_calls(struct net *n, struct sorted *s)
{
    s->first = arena_calloc(&n->arena, (uint64_t)n->rule_count + 2, 4);
    s->edge = arena_calloc(&n->arena, n->edge_count + 1, 4);
    if (!s->first || !s->edge) return false;
    for (uint64_t e = 0; e < n->edge_count; e++) if (n->edges[e].rule >= 0) s->first[n->edges[e].rule + 2]++;
    for (int32_t r = 0; r < n->rule_count; r++) s->first[r + 2] += s->first[r + 1];
    for (uint64_t e = 0; e < n->edge_count; e++) if (n->edges[e].rule >= 0) s->edge[s->first[n->edges[e].rule + 1]++] = (uint32_t)e;
    return true;
}

/* Nodes at which a rule may stand before it has written anything lead to calls; those edges from rule to rule must have no cycle. One walk over all: a rule's
 * nodes are its own, so "standing on the path" may be kept for nodes, and a path is a chain of nodes. Returns the rule on a cycle, -1, or -2 without memory. */
static int32_t find_left_recursion(struct net *n, const struct sorted *out, const bool *empty)
{
    uint8_t *seen = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, 1);      /* 1: on the path, 2: done */
    uint32_t *path = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, 4), *at = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, 4), *step = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, 4);
    int32_t *starts = arena_calloc(&n->arena, (uint64_t)n->node_count + 1, sizeof *starts);
    if (!seen || !path || !at || !step || !starts) return -2;
    for (int32_t r = 0; r < n->rule_count; r++) starts[n->rules[r].start] = r + 1;
    for (int32_t r = 0; r < n->rule_count; r++) {
        uint32_t top = 0;
        if (seen[n->rules[r].start]) continue;
        path[top] = n->rules[r].start, at[top] = out->first[path[0]], step[top++] = 0;
        seen[path[0]] = 1;
        while (top) {
            uint32_t v = path[top - 1], to;
            if (at[top - 1] == out->first[v + 1]) {
                seen[v] = 2, top--;
                continue;
            }
            const struct net_edge *e = n->edges + out->edge[at[top - 1]];
            /* An edge that calls a rule which may be empty is looked at twice: into the rule, then past it. */
            bool into = e->rule >= 0 && !step[top - 1];
            step[top - 1] = into && empty[n->rules[e->rule].start];
            if (!step[top - 1]) at[top - 1]++;
            if (e->rule == NET_BYTES) continue;
            to = into ? n->rules[e->rule].start : e->to;
            if (seen[to] == 1) {
                /* A loop inside one rule that writes nothing is harmless; one through a call is not. */
                bool called = false;
                int32_t rule = starts[to] - 1;
                for (uint32_t i = top; i-- && path[i] != to; ) if (starts[path[i]]) called = true, rule = rule < 0 ? starts[path[i]] - 1 : rule;
                if (into || called) return rule < 0 ? 0 : rule;
                continue;
            }
            if (seen[to]) continue;
            seen[to] = 1, path[top] = to, at[top] = out->first[to], step[top++] = 0;
        }
    }
    return -1;
}

/* Does nothing but its rule's end follow? */
static bool only_end(const struct grammar *g, uint32_t v)
{
    for (int hops = 0; hops < 4; hops++) {
        if (g->ends[v]) return true;
        if (g->first[v + 1] - g->first[v] != 1 || g->edges[g->first[v]].rule != NET_NOTHING) return false;
        v = g->edges[g->first[v]].to;
    }
    return false;
}

static enum status build(struct net *n, const bool *alive, const struct sorted *out, int32_t root, struct grammar **result, struct err *err)
{
    struct grammar *g = calloc(1, sizeof *g);
    if (!g) return err_set(err, ST_NO_MEMORY, "grammar: out of memory");
    pthread_mutex_init(&g->lock, NULL);
    g->node_count = n->node_count;
    g->first = mem_calloc_array((uint64_t)n->node_count + 1, sizeof *g->first);
    g->edges = mem_calloc_array(n->edge_count + 1, sizeof *g->edges);
    g->ends = mem_calloc_array((uint64_t)n->node_count + 1, sizeof *g->ends);
    g->rule_start = mem_calloc_array((uint64_t)n->rule_count + 1, sizeof *g->rule_start);
    if (!g->first || !g->edges || !g->ends || !g->rule_start) {
        grammar_close(g);
        return err_set(err, ST_NO_MEMORY, "grammar: out of memory");
    }
    uint32_t count = 0;
    for (uint32_t v = 0; v < n->node_count; v++) {
        g->first[v] = count;
        for (uint32_t i = out->first[v]; i < out->first[v + 1]; i++) {
            const struct net_edge *e = n->edges + out->edge[i];
            if (alive[e->to] && (e->rule < 0 || alive[n->rules[e->rule].start])) g->edges[count++] = *e;
        }
    }
    g->first[n->node_count] = count;
    for (int32_t r = 0; r < n->rule_count; r++) g->ends[n->rules[r].end] = true, g->rule_start[r] = n->rules[r].start;
    for (uint32_t e = 0; e < count; e++) g->edges[e].tail = g->edges[e].rule >= 0 && only_end(g, g->edges[e].to);
    g->start = n->rules[root].start;
    *result = g;
    return ST_OK;
}

enum status net_finish(struct net *n, int32_t root, bool strict, struct grammar **out, struct err *err)
{
    struct sorted into, from, calls;
    if (n->status) return err_set(err, n->status, "%s", n->err.text);
    if (!sort_edges(n, true, &into) || !sort_edges(n, false, &from) || !sort_calls(n, &calls)) return err_set(err, ST_NO_MEMORY, "grammar: out of memory");
    bool *alive = spread(n, &into, &calls, false), *empty = spread(n, &into, &calls, true);
    if (!alive || !empty) return err_set(err, ST_NO_MEMORY, "grammar: out of memory");
    for (int32_t r = 0; strict && r < n->rule_count; r++)
        if (!alive[n->rules[r].start] && n->rules[r].name) return err_set(err, ST_BAD_INPUT, "rule '%s' derives no text", n->rules[r].name);
    if (!alive[n->rules[root].start]) return err_set(err, ST_BAD_INPUT, "no text can satisfy it");
    int32_t left = find_left_recursion(n, &from, empty);
    if (left == -2) return err_set(err, ST_NO_MEMORY, "grammar: out of memory");
    if (left >= 0) return err_set(err, ST_BAD_INPUT, "rule '%s' begins with itself (left recursion)", n->rules[left].name ? n->rules[left].name : "a group");
    enum status st = dfa_maker_check(&n->maker, err);
    return st ? st : build(n, alive, &from, root, out, err);
}
