/* Words to ids. Merging models keep their symbols in a list and the possible merges in a heap: each merge removes a symbol and adds at most two
 * entries, so a word of n characters costs O(n log n) whatever it looks like. An entry is stale when its pair is no longer what it was when it was
 * pushed, which its length tells: symbols only grow. Unigram is Viterbi's best path over a lattice of n positions, entered through a trie. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/text/tokenizer_internal.h"

enum { WORD_KEY_MAX = 1024, WORD_MAX = 1 << 28 };

bool token_list_add(struct token_list *l, int32_t id)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 64;
        int32_t *more = mem_realloc_array(l->ids, capacity, sizeof *more);
        if (!more) return false;
        l->ids = more, l->capacity = capacity;
    }
    l->ids[l->count++] = id;
    return true;
}

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "no memory for the tokens of a text"); }

/* Room for `count` elements; what was there is kept. */
static bool make_room(void **p, size_t *capacity, size_t count, size_t size)
{
    if (count <= *capacity) return true;
    size_t more = count + count / 2 + 64;
    void *q = mem_realloc_array(*p, more, size);
    if (!q) return false;
    *p = q, *capacity = more;
    return true;
}

static bool before(const struct merge_entry *a, const struct merge_entry *b) { return a->key < b->key || (a->key == b->key && a->left < b->left); }

static bool heap_push(struct work *w, struct merge_entry e)
{
    if (!make_room((void **)&w->heap, &w->heap_capacity, w->heap_count + 1, sizeof *w->heap)) return false;
    size_t i = w->heap_count++;
    for (; i && before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
    return true;
}

static struct merge_entry heap_pop(struct work *w)
{
    struct merge_entry top = w->heap[0], last = w->heap[--w->heap_count];
    size_t i = 0, n = w->heap_count;
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && before(&w->heap[c + 1], &w->heap[c])) c++;
        if (!before(&w->heap[c], &last)) break;
        w->heap[i] = w->heap[c];
    }
    if (n) w->heap[i] = last;
    return top;
}

/* Pushes the pair that begins at node `left`, if the model merges it. */
static bool push_pair(const struct tokenizer *t, struct work *w, const char *word, int32_t left)
{
    if (left < 0 || w->nodes[left].next < 0) return true;
    const struct merge_node *a = &w->nodes[left], *b = &w->nodes[a->next];
    uint32_t bytes = a->length + b->length;
    if (t->model == MODEL_BPE) {
        const struct pair_slot *s = a->id < 0 || b->id < 0 ? NULL : pair_map_get(&t->merges, ((uint64_t)a->id << 32 | (uint32_t)b->id) + 1);
        return !s || heap_push(w, (struct merge_entry){ s->a, left, s->b, bytes });
    }
    int id = bytes > t->longest ? -1 : weights_map_get(&t->words, word + a->offset, bytes);
    return id < 0 || heap_push(w, (struct merge_entry){ -(double)t->tokens[id].score, left, id, bytes });
}

static bool add_node(struct work *w, size_t *count, int32_t id, size_t offset, size_t length)
{
    if (!make_room((void **)&w->nodes, &w->node_capacity, *count + 1, sizeof *w->nodes)) return false;
    w->nodes[*count] = (struct merge_node){ (int32_t)*count - 1, (int32_t)*count + 1, id, (uint32_t)offset, (uint32_t)length };
    (*count)++;
    return true;
}

/* The id of one character of a word for BPE, with what the file puts around characters; -1. */
static int32_t char_id(const struct tokenizer *t, const char *text, size_t n, bool first, bool last)
{
    char key[64];
    size_t a = first || !t->continuing ? 0 : strlen(t->continuing), b = last && t->suffix ? strlen(t->suffix) : 0;
    int32_t c;
    if (!a && !b) {
        char_read(text, n, &c);
        return c < 512 ? t->char_ids[c] : weights_map_get(&t->words, text, n);
    }
    if (a + n + b > sizeof key) return -1;
    memcpy(key, t->continuing ? t->continuing : "", a);
    memcpy(key + a, text, n);
    memcpy(key + a + n, t->suffix ? t->suffix : "", b);
    return weights_map_get(&t->words, key, a + n + b);
}

/* The symbols that a word begins as. Characters that are no token become byte tokens where the file has them all. */
static bool first_nodes(const struct tokenizer *t, struct work *w, const char *word, size_t length, size_t *count)
{
    bool ok = true;
    for (size_t i = 0, n; i < length && ok; i += n) {
        int32_t c;
        n = char_read(word + i, length - i, &c);
        int32_t id = char_id(t, word + i, n, i == 0, i + n == length);
        bool bytes = id < 0 && t->model == MODEL_BPE && t->byte_fallback;
        for (size_t k = 0; k < n && bytes; k++) bytes = t->byte_ids[(unsigned char)word[i + k]] >= 0;
        if (!bytes) ok = add_node(w, count, id, i, n);
        for (size_t k = 0; k < n && bytes && ok; k++) ok = add_node(w, count, t->byte_ids[(unsigned char)word[i + k]], i + k, 1);
    }
    return ok;
}

/* What is no token: bytes where the file has them, else the unknown token (one for a run, if the file fuses them), else nothing. */
static bool put_unknown(const struct tokenizer *t, const char *text, size_t n, bool *fusing, struct token_list *out)
{
    bool bytes = t->byte_fallback;
    for (size_t k = 0; k < n && bytes; k++) bytes = t->byte_ids[(unsigned char)text[k]] >= 0;
    if (bytes) {
        for (size_t k = 0; k < n; k++)
            if (!token_list_add(out, t->byte_ids[(unsigned char)text[k]])) return false;
        return true;
    }
    bool skip = t->ids.unk < 0 || (*fusing && t->fuse_unk);
    *fusing = true;
    return skip || token_list_add(out, t->ids.unk);
}

static enum status run_merges(const struct tokenizer *t, struct work *w, const char *word, size_t length, struct token_list *out, struct err *err)
{
    size_t count = 0;
    bool fusing = false;
    if (t->ignore_merges && length <= t->longest) {
        int id = weights_map_get(&t->words, word, length);
        if (id >= 0) return token_list_add(out, id) ? ST_OK : no_memory(err);
    }
    if (!first_nodes(t, w, word, length, &count)) return no_memory(err);
    w->nodes[count - 1].next = -1;
    w->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++)
        if (!push_pair(t, w, word, (int32_t)i)) return no_memory(err);
    while (w->heap_count) {
        struct merge_entry e = heap_pop(w);
        struct merge_node *a = &w->nodes[e.left];
        if (!a->length || a->next < 0 || a->length + w->nodes[a->next].length != e.bytes) continue;
        struct merge_node *b = &w->nodes[a->next];
        a->length = e.bytes, a->id = e.merged, a->next = b->next, b->length = 0;
        if (a->next >= 0) w->nodes[a->next].previous = e.left;
        if (!push_pair(t, w, word, a->previous) || !push_pair(t, w, word, e.left)) return no_memory(err);
    }
    for (int32_t i = 0; i >= 0; i = w->nodes[i].next) {
        const struct merge_node *n = &w->nodes[i];
        bool known = n->id >= 0;
        if (known) fusing = false;
        if (!(known ? token_list_add(out, n->id) : put_unknown(t, word + n->offset, n->length, &fusing, out))) return no_memory(err);
    }
    return ST_OK;
}

static enum status run_unigram(const struct tokenizer *t, struct work *w, const char *word, size_t length, struct token_list *out, struct err *err)
{
    if (!make_room((void **)&w->lattice, &w->lattice_capacity, length + 1, sizeof *w->lattice)) return no_memory(err);
    struct lattice_node *l = w->lattice;
    for (size_t i = 0; i <= length; i++) l[i] = (struct lattice_node){ 0, -1, -1 };
    l[0].from = 0;
    for (size_t i = 0, step; i < length; i += step) {
        int32_t c, node = 0;
        bool single = false;
        step = char_read(word + i, length - i, &c);
        for (size_t k = i; k < length; k++) {
            const struct pair_slot *s = pair_map_get(&t->pieces.edges, ((uint64_t)node << 8 | (unsigned char)word[k]) + 1);
            if (!s) break;
            node = s->a;
            if (s->b < 0) continue;
            double score = l[i].score + (double)t->tokens[s->b].score;
            if (l[k + 1].from < 0 || score > l[k + 1].score) l[k + 1] = (struct lattice_node){ score, (int32_t)i, s->b };
            if (k + 1 == i + step) single = true;
        }
        struct lattice_node *after = &l[i + step];
        if (!single && (after->from < 0 || l[i].score + t->unk_score > after->score)) *after = (struct lattice_node){ l[i].score + t->unk_score, (int32_t)i, -1 };
    }
    /* Turn the path round in place: `score` of a node is free now, `from` becomes the way forward. */
    int32_t at = (int32_t)length, next = -1;
    while (at > 0) {
        int32_t previous = l[at].from;
        l[at].from = next;
        next = at, at = previous;
    }
    bool fusing = false;
    for (int32_t begin = 0; next >= 0; begin = next, next = l[next].from) {
        bool known = l[next].id >= 0;
        if (known) fusing = false;
        if (!(known ? token_list_add(out, l[next].id) : put_unknown(t, word + begin, (size_t)(next - begin), &fusing, out))) return no_memory(err);
    }
    return ST_OK;
}

/* The longest token that is a prefix of the rest; the whole word is unknown when there is none. */
static enum status run_wordpiece(const struct tokenizer *t, const char *word, size_t length, struct token_list *out, struct err *err)
{
    char key[WORD_KEY_MAX];
    size_t start = out->count, chars = 0, at = 0;
    for (size_t i = 0; i < length; i++) chars += ((unsigned char)word[i] & 0xC0) != 0x80;
    bool known = chars <= (size_t)t->word_chars_max;
    while (at < length && known) {
        const char *prefix = at ? t->continuing : t->beginning;
        size_t p = strlen(prefix), n = length - at;
        int id = -1;
        if (n + p > t->longest) n = t->longest > p ? t->longest - p : 0;
        memcpy(key, prefix, p);
        memcpy(key + p, word + at, n);
        for (; n && (id = weights_map_get(&t->words, key, p + n)) < 0; n--) {}
        known = id >= 0;
        if (known && !token_list_add(out, id)) return no_memory(err);
        at += n;
    }
    if (known) return ST_OK;
    out->count = start;
    return t->ids.unk < 0 || token_list_add(out, t->ids.unk) ? ST_OK : no_memory(err);
}

enum status tokenizer_run_model(const struct tokenizer *t, struct work *w, const char *word, size_t length, struct token_list *out, struct err *err)
{
    if (length > WORD_MAX) return err_set(err, ST_TOO_LARGE, "a word of %zu bytes; at most %d are tokenised", length, WORD_MAX);
    switch (t->model) {
    case MODEL_BPE: case MODEL_SCORES: return run_merges(t, w, word, length, out, err);
    case MODEL_UNIGRAM: return run_unigram(t, w, word, length, out, err);
    case MODEL_WORDPIECE: return run_wordpiece(t, word, length, out, err);
    case MODEL_WORDS: {
        int id = weights_map_get(&t->words, word, length);
        if (id < 0) id = t->ids.unk;
        return id < 0 || token_list_add(out, id) ? ST_OK : no_memory(err);
    }
    }
    return ST_OK;
}
