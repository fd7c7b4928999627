/* Which tokens may follow: a walk over the trie of all tokens' bytes, cut wherever the automaton dies.
 *
 * In the middle of a JSON string nearly every token may follow, so that walk is long; and it is the same for every string of the grammar, whatever comes
 * after it. So the stacks of a configuration are grouped by what they return to, and each group is walked over a hole instead (machine_frame): that mask is
 * remembered for the frame, with the trie nodes at which the frame may have ended. What follows those, usually little, is walked with the real stack.
 * Near the limits of stacks and depth the frame would allow more than the real stack does, so there the walk is done in full. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/text/grammar_machine.h"
#include "engine/text/tokenizer.h"

static uint32_t words(const struct token_trie *t) { return ((uint32_t)t->token_count + 31) / 32; }

static void set_tokens(const struct token_trie *t, uint32_t node, uint32_t *mask)
{
    for (uint32_t i = t->token_first[node], n = i + t->token_own[node]; i < n; i++) mask[t->sorted[i] >> 5] |= 1u << (t->sorted[i] & 31);
}

/* Walks the nodes [from, to), all below a node of depth `depth` at which the automaton stands at `config`. `escapes` may be NULL (no frame). */
static bool walk(struct grammar_machine *m, uint32_t config, uint32_t from, uint32_t to, uint32_t depth, uint32_t *mask, uint32_t *escapes, uint32_t *escape_count)
{
    const struct token_trie *t = m->trie;
    m->levels[depth] = config;
    for (uint32_t i = from; i < to; ) {
        uint32_t above = m->levels[t->depth[i] - 1u];
        const uint32_t *next = m->configs[above].next;
        uint32_t c = next ? next[t->byte[i]] : CONFIG_UNKNOWN;
        if (c == CONFIG_UNKNOWN) c = machine_step(m, above, t->byte[i]);
        if (c == CONFIG_UNKNOWN) return false;
        if (c == CONFIG_DEAD) {
            i = t->end[i];
            continue;
        }
        if (t->token_own[i]) set_tokens(t, i, mask);
        if (escapes && (m->configs[c].flags & CONFIG_ESCAPE) && t->end[i] > i + 1) escapes[(*escape_count)++] = i;
        if (!m->configs[c].count) {
            i = t->end[i];
            continue;
        }
        m->levels[t->depth[i]] = c;
        i++;
    }
    return true;
}

/* Mask and escapes of a frame. */
static bool frame_make(struct grammar_machine *m, uint32_t frame)
{
    const struct token_trie *t = m->trie;
    if (m->configs[frame].mask) return true;
    uint32_t *escapes = mem_alloc_array((uint64_t)t->node_count + 1, sizeof *escapes), count = 0;
    uint32_t *mask = arena_calloc(&m->arena, (uint64_t)words(t) + 1, sizeof *mask);
    bool ok = escapes && mask && walk(m, frame, 0, t->node_count, 0, mask, escapes, &count);
    uint32_t *keep = ok ? arena_calloc(&m->arena, (uint64_t)count + 1, sizeof *keep) : NULL;
    if (keep) {
        if (count) memcpy(keep, escapes, count * sizeof *keep);
        m->configs[frame].escapes = keep, m->configs[frame].escape_count = count;
        m->configs[frame].mask = mask;
    }
    free(escapes);
    return keep != NULL;
}

static bool group_mask(struct grammar_machine *m, uint32_t parent, uint32_t frame, uint32_t *mask)
{
    const struct token_trie *t = m->trie;
    if (frame == CONFIG_UNKNOWN || !frame_make(m, frame)) return false;
    for (uint32_t w = 0; w < words(t); w++) mask[w] |= m->configs[frame].mask[w];
    if (parent < STACK_FIRST || !m->configs[frame].escape_count) return true;
    uint32_t back = machine_return(m, parent);
    if (back == CONFIG_UNKNOWN) return false;
    if (!m->configs[back].count) return true;
    const uint32_t *escapes = m->configs[frame].escapes;
    for (uint32_t i = 0, n = m->configs[frame].escape_count; i < n; i++)
        if (!walk(m, back, escapes[i] + 1, t->end[escapes[i]], t->depth[escapes[i]], mask, NULL, NULL)) return false;
    return true;
}

const uint32_t *machine_mask(struct grammar_machine *m, uint32_t config)
{
    uint32_t stacks[GRAMMAR_STACKS_MAX], group[GRAMMAR_STACKS_MAX], count = m->configs[config].count;
    if (m->configs[config].mask) return m->configs[config].mask;
    uint32_t *mask = arena_calloc(&m->arena, (uint64_t)words(m->trie) + 1, sizeof *mask);
    if (!mask) return NULL;
    if (count) memcpy(stacks, m->members + m->configs[config].first, count * sizeof *stacks);
    bool near_limits = count > GRAMMAR_STACKS_MAX / 4;
    for (uint32_t i = 0; i < count; i++) near_limits |= m->stacks[stacks[i]].depth >= FRAME_DEPTH;
    if (near_limits) {
        if (!walk(m, config, 0, m->trie->node_count, 0, mask, NULL, NULL)) return NULL;
        count = 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (stacks[i] == UINT32_MAX) continue;
        uint32_t parent = m->stacks[stacks[i]].parent, n = 0;
        for (uint32_t j = i; j < count; j++)
            if (stacks[j] != UINT32_MAX && m->stacks[stacks[j]].parent == parent) group[n++] = stacks[j], stacks[j] = UINT32_MAX;
        if (!group_mask(m, parent, machine_frame(m, group, n), mask)) return NULL;
    }
    return m->configs[config].mask = mask;
}

/* --- states --------------------------------------------------------------------------------------- */

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "grammar: out of memory"); }

/* The machine for this trie, made when there is none; machines of other tries without states are given back. */
static enum status machine_get(struct grammar *g, const struct token_trie *t, struct grammar_machine **out, struct err *err)
{
    for (struct grammar_machine **at = &g->machines, *m; (m = *at); ) {
        if (m->trie_serial == t->serial) {
            *out = m;
            return ST_OK;
        }
        if (m->states) at = &m->next;
        else {
            *at = m->next;
            m->next = NULL;
            machine_list_close(m);
        }
    }
    enum status st = machine_open(out, g, t, err);
    if (st) return st;
    (*out)->next = g->machines;
    g->machines = *out;
    return ST_OK;
}

enum status grammar_state_open(struct grammar_state **out, const struct grammar *g, const struct token_trie *t, struct err *err)
{
    struct grammar_state *s = calloc(1, sizeof *s);
    if (!s) return no_memory(err);
    s->grammar = (struct grammar *)(uintptr_t)g;       /* what it means never changes; what it remembers is behind its lock */
    pthread_mutex_lock(&s->grammar->lock);
    enum status st = machine_get(s->grammar, t, &s->machine, err);
    if (!st) st = machine_trim(s->machine, err);
    if (!st && (s->config = machine_start(s->machine)) == CONFIG_UNKNOWN) st = machine_fail(s->machine, err);
    if (!st) s->next = s->machine->states, s->machine->states = s;
    pthread_mutex_unlock(&s->grammar->lock);
    if (st) free(s);
    else *out = s;
    return st;
}

void grammar_state_close(struct grammar_state *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->grammar->lock);
    struct grammar_state **at = &s->machine->states;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&s->grammar->lock);
    free(s);
}

static bool begins_mark(const struct token_trie *t, int32_t token) { return t->offset[token + 1] > t->offset[token] && (uint8_t)t->bytes[t->offset[token]] == GRAMMAR_MARK_BYTE; }

/* A grammar with marks: each is a token of its own, and no other token may spell one's code. */
static enum status mask_marks(struct grammar_state *s, uint32_t *mask, struct err *err)
{
    struct grammar_machine *m = s->machine;
    const struct grammar *g = s->grammar;
    const struct token_trie *t = m->trie;
    for (uint32_t i = t->sorted_count; g->mark_count && i-- && begins_mark(t, t->sorted[i]); ) mask[t->sorted[i] >> 5] &= ~(1u << (t->sorted[i] & 31));
    uint32_t at = g->mark_count ? machine_step(m, s->config, GRAMMAR_MARK_BYTE) : CONFIG_DEAD;
    for (uint32_t i = 0; i < g->mark_count && at != CONFIG_DEAD; i++) {
        uint32_t c = at == CONFIG_UNKNOWN ? at : machine_step(m, at, (uint8_t)i);
        if (c == CONFIG_UNKNOWN) return machine_fail(m, err);
        if (c != CONFIG_DEAD && g->marks[i] < t->token_count) mask[g->marks[i] >> 5] |= 1u << (g->marks[i] & 31);
    }
    return ST_OK;
}

enum status grammar_state_mask(struct grammar_state *s, uint32_t *mask, bool *may_end, struct err *err)
{
    struct grammar_machine *m = s->machine;
    pthread_mutex_lock(&s->grammar->lock);
    enum status st = machine_trim(m, err);
    const uint32_t *from = st ? NULL : machine_mask(m, s->config);
    if (from) memcpy(mask, from, words(m->trie) * sizeof *mask);
    else if (!st) st = machine_fail(m, err);
    if (!st) st = mask_marks(s, mask, err);
    *may_end = !st && (m->configs[s->config].flags & CONFIG_ACCEPT);
    pthread_mutex_unlock(&s->grammar->lock);
    return st;
}

enum status grammar_state_accept_bytes(struct grammar_state *s, const char *bytes, size_t n, struct err *err)
{
    pthread_mutex_lock(&s->grammar->lock);
    enum status st = machine_trim(s->machine, err);
    uint32_t c = s->config;
    for (size_t i = 0; i < n && !st; i++) {
        c = machine_step(s->machine, c, (uint8_t)bytes[i]);
        if (c == CONFIG_UNKNOWN) st = machine_fail(s->machine, err);
        else if (c == CONFIG_DEAD) st = err_set(err, ST_BAD_INPUT, "the grammar allows no byte 0x%02x here", (uint8_t)bytes[i]);
    }
    if (!st) s->config = c;
    pthread_mutex_unlock(&s->grammar->lock);
    return st;
}

enum status grammar_state_accept(struct grammar_state *s, int32_t token, struct err *err)
{
    const struct token_trie *t = s->machine->trie;
    const struct grammar *g = s->grammar;
    for (uint32_t i = 0; i < g->mark_count; i++)
        if (g->marks[i] == token) return grammar_state_accept_bytes(s, (const char[]){ (char)GRAMMAR_MARK_BYTE, (char)i }, 2, err);
    if (token < 0 || token >= t->token_count || (g->mark_count && begins_mark(t, token)) || t->offset[token] == t->offset[token + 1]) return err_set(err, ST_BAD_INPUT, "the grammar does not allow token %d", token);
    return grammar_state_accept_bytes(s, t->bytes + t->offset[token], t->offset[token + 1] - t->offset[token], err);
}

bool grammar_state_may_end(const struct grammar_state *s)
{
    pthread_mutex_lock(&s->grammar->lock);
    bool end = s->machine->configs[s->config].flags & CONFIG_ACCEPT;
    pthread_mutex_unlock(&s->grammar->lock);
    return end;
}

/* --- the trie ------------------------------------------------------------------------------------- */

enum { TOKEN_BYTES_MAX = 4096 };       /* a longer token is never proposed */

static int compare(const void *a, const void *b, void *ctx)
{
    const struct token_trie *t = ctx;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    uint32_t nx = t->offset[x + 1] - t->offset[x], ny = t->offset[y + 1] - t->offset[y];
    int c = memcmp(t->bytes + t->offset[x], t->bytes + t->offset[y], nx < ny ? nx : ny);
    return c ? c : nx != ny ? (nx < ny ? -1 : 1) : x < y ? -1 : x > y;
}

/* Sorted strings to nodes in the order of a walk: each string adds the bytes that it does not share with the one before it. */
static void trie_nodes(struct token_trie *t, uint32_t sorted_count)
{
    uint32_t path[TOKEN_BYTES_MAX + 1], depth = 0, count = 0;
    const char *before = NULL;
    for (uint32_t i = 0; i < sorted_count; i++) {
        const char *text = t->bytes + t->offset[t->sorted[i]];
        uint32_t n = t->offset[t->sorted[i] + 1] - t->offset[t->sorted[i]], shared = 0;
        while (before && shared < depth && shared < n && text[shared] == before[shared]) shared++;
        while (depth > shared) t->end[path[--depth]] = count;
        for (; depth < n; depth++, count++) {
            path[depth] = count;
            t->byte[count] = (uint8_t)text[depth], t->depth[count] = (uint16_t)(depth + 1);
            t->token_first[count] = i;
        }
        t->token_own[path[n - 1]]++;
        if (n > t->depth_max) t->depth_max = n;
        before = text;
    }
    while (depth) t->end[path[--depth]] = count;
    t->node_count = count;
}

static enum status trie_build(struct token_trie *t, struct err *err)
{
    static atomic_ullong serials;
    uint64_t bytes = t->offset[t->token_count], room = bytes + 1;
    uint32_t sorted_count = 0;
    t->serial = atomic_fetch_add(&serials, 1) + 1;
    t->sorted = mem_alloc_array((uint64_t)t->token_count + 1, sizeof *t->sorted);
    t->byte = mem_alloc_array(room, 1);
    t->depth = mem_alloc_array(room, sizeof *t->depth);
    t->end = mem_calloc_array(room, sizeof *t->end);
    t->token_first = mem_calloc_array(room, sizeof *t->token_first);
    t->token_own = mem_calloc_array(room, sizeof *t->token_own);
    if (!t->sorted || !t->byte || !t->depth || !t->end || !t->token_first || !t->token_own) return no_memory(err);
    for (int32_t i = 0; i < t->token_count; i++) if (t->offset[i + 1] > t->offset[i]) t->sorted[sorted_count++] = i;
    if (sorted_count) qsort_r(t->sorted, sorted_count, sizeof *t->sorted, compare, t);
    t->sorted_count = sorted_count;
    trie_nodes(t, sorted_count);
    return ST_OK;
}

enum status token_trie_open_pieces(struct token_trie **out, const struct grammar_text *pieces, size_t n, struct err *err)
{
    struct token_trie *t = calloc(1, sizeof *t);
    uint64_t bytes = 0;
    if (!t || n > INT32_MAX / 2) {
        free(t);
        return no_memory(err);
    }
    for (size_t i = 0; i < n; i++) if (pieces[i].length <= TOKEN_BYTES_MAX) bytes += pieces[i].length;
    t->token_count = (int)n;
    t->offset = mem_calloc_array((uint64_t)n + 1, sizeof *t->offset);
    t->bytes = bytes > UINT32_MAX / 2 ? NULL : mem_alloc_array(bytes + 1, 1);
    enum status st = t->offset && t->bytes ? ST_OK : no_memory(err);
    for (size_t i = 0; i < n && !st; i++) {
        size_t length = pieces[i].length <= TOKEN_BYTES_MAX ? pieces[i].length : 0;
        if (length) memcpy(t->bytes + t->offset[i], pieces[i].text, length);
        t->offset[i + 1] = t->offset[i] + (uint32_t)length;
    }
    if (!st) st = trie_build(t, err);
    if (st) token_trie_close(t);
    else *out = t;
    return st;
}

enum status token_trie_open(struct token_trie **out, const struct tokenizer *t, struct err *err)
{
    int n = tokenizer_count(t);
    struct grammar_text *pieces = mem_calloc_array((uint64_t)n + 1, sizeof *pieces);
    if (!pieces) return no_memory(err);
    for (int32_t i = 0; i < n; i++)
        if (!tokenizer_is_control(t, i) && !tokenizer_is_eog(t, i)) pieces[i].text = tokenizer_piece(t, i, &pieces[i].length);
    enum status st = token_trie_open_pieces(out, pieces, (size_t)n, err);
    free(pieces);
    return st;
}

int token_trie_count(const struct token_trie *t) { return t->token_count; }

void token_trie_close(struct token_trie *t)
{
    if (!t) return;
    free(t->byte), free(t->depth), free(t->end), free(t->token_first), free(t->token_own), free(t->sorted), free(t->offset), free(t->bytes);
    free(t);
}
