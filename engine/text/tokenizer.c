/* The pipeline of one call. Added tokens are cut out twice: those that are looked for in the text as it is, then, after normalising what lies between
 * them, those that are looked for in normalised text; each time the leftmost, of these the longest. A control token is passed over unless the
 * caller allows it, so that text which only looks like one is tokenised as text. */
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

void token_list_free(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){ 0 };
}

int tokenizer_count(const struct tokenizer *t) { return t->count; }

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *length)
{
    if (id < 0 || id >= t->count) return NULL;
    *length = t->tokens[id].piece_length;
    return t->tokens[id].piece;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t length) { return weights_map_get(&t->names, text, length); }

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->count && (t->tokens[id].kind == TOKEN_CONTROL || t->tokens[id].kind == TOKEN_UNKNOWN);
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id) { return id >= 0 && id < t->count && t->tokens[id].eog; }

const struct tokenizer_ids *tokenizer_ids(const struct tokenizer *t) { return &t->ids; }

const char *tokenizer_chat_template(const struct tokenizer *t, const char *name)
{
    for (int i = 0; i < t->template_count; i++)
        if (!strcmp(t->templates[i].name, name ? name : "default")) return t->templates[i].text;
    return NULL;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    for (int i = 0; i < t->normalise_count; i++) pattern_free(t->normalise[i].pattern);
    for (int i = 0; i < t->split_count; i++) pattern_free(t->split[i].pattern);
    weights_map_free(&t->names);
    weights_map_free(&t->words);
    pair_map_free(&t->added[0].edges);
    pair_map_free(&t->added[1].edges);
    pair_map_free(&t->merges);
    pair_map_free(&t->pieces.edges);
    arena_free(&t->arena);
    free(t->tokens);
    free(t);
}

static bool word_before(const char *text, size_t at)
{
    int32_t c;
    size_t i = at;
    if (!at) return false;
    do i--;
    while (i && ((unsigned char)text[i] & 0xC0) == 0x80);
    char_read(text + i, at - i, &c);
    return char_is_word(c);
}

struct call {
    const struct tokenizer  *t;
    struct work              w;
    unsigned                 flags;
    const struct token_span *spans;          /* where control tokens may be; NULL: anywhere that the flags allow them */
    size_t                   span_count;
    struct token_list       *out;
    struct err              *err;
    bool                     first, prefix;  /* nothing came before; the next text gets the file's space */
};

static bool control_allowed(const struct call *c, int round, size_t begin, size_t end)
{
    if (!(c->flags & TOKENIZE_SPECIAL_PARSE)) return false;
    if (!c->spans) return true;
    if (round) return false;                 /* offsets of normalised text say nothing about where it came from */
    size_t low = 0, high = c->span_count;
    while (low < high) {                     /* the last span that begins at or before `begin` */
        size_t middle = (low + high) / 2;
        if (c->spans[middle].offset <= begin) low = middle + 1;
        else high = middle;
    }
    return low && end <= c->spans[low - 1].offset + c->spans[low - 1].length;
}

/* The longest added token that begins exactly at `at`; -1. *end is behind it. */
static int32_t added_at(const struct call *call, int round, const char *text, size_t length, size_t at, size_t *end)
{
    const struct tokenizer *t = call->t;
    const struct trie *trie = &t->added[round];
    int32_t found = -1, node = 0, c;
    for (size_t i = at; i < length; i++) {
        const struct pair_slot *s = pair_map_get(&trie->edges, ((uint64_t)node << 8 | (unsigned char)text[i]) + 1);
        if (!s) break;
        node = s->a;
        if (s->b < 0) continue;
        const struct token *k = &t->tokens[s->b];
        if (k->kind != TOKEN_USER && !control_allowed(call, round, at, i + 1)) continue;
        if (k->single_word) {
            if (word_before(text, at)) continue;
            if (i + 1 < length && (char_read(text + i + 1, length - i - 1, &c), char_is_word(c))) continue;
        }
        found = s->b, *end = i + 1;
    }
    return found;
}

static enum status run_text(struct call *c, const char *text, size_t length)
{
    enum status st = tokenizer_run_split(c->t, &c->w, text, length, c->first, c->err);
    for (size_t i = 0; i < c->w.words.count && !st; i++)
        st = tokenizer_run_model(c->t, &c->w, c->w.words.text.data + c->w.words.spans[i].offset, c->w.words.spans[i].length, c->out, c->err);
    return st;
}

static enum status run_plain(struct call *c, int round, const char *text, size_t length);

/* Cuts added tokens out of the text; what lies between goes on to run_plain. Round 0 is the raw text, round 1 a normalised stretch of it. */
static enum status run_added(struct call *c, int round, const char *text, size_t length)
{
    const struct tokenizer *t = c->t;
    size_t gap = 0, end = 0;
    enum status st = ST_OK;
    int32_t ch;
    for (size_t i = 0; i < length && t->added[round].nodes && !st;) {
        int32_t id = added_at(c, round, text, length, i, &end);
        if (id < 0) {
            i++;
            continue;
        }
        size_t begin = i;
        while (t->tokens[id].lstrip && begin > gap && char_is_space((unsigned char)text[begin - 1])) begin--;
        for (size_t n; t->tokens[id].rstrip && end < length; end += n) {
            n = char_read(text + end, length - end, &ch);
            if (!char_is_space(ch)) break;
        }
        if (begin > gap) st = run_plain(c, round, text + gap, begin - gap);
        if (!st && !token_list_add(c->out, id)) st = err_set(c->err, ST_NO_MEMORY, "no memory for the tokens of a text");
        c->first = false, c->prefix = true;
        i = gap = end;
    }
    return st || gap == length ? st : run_plain(c, round, text + gap, length - gap);
}

static enum status run_plain(struct call *c, int round, const char *text, size_t length)
{
    enum status st;
    if (round == 0) {
        st = tokenizer_run_normalise(c->t, &c->w, text, length, &c->w.normal, c->err);
        if (!st && c->prefix && (c->t->prefix_each_text || (c->t->prefix_first_text && c->first)) && c->w.normal.length) {
            buf_clear(&c->w.a);
            buf_puts(&c->w.a, "\xE2\x96\x81");
            buf_append(&c->w.a, c->w.normal.data, c->w.normal.length);
            struct buf swap = c->w.normal;
            c->w.normal = c->w.a, c->w.a = swap;
            if (c->w.normal.failed) st = err_set(c->err, ST_NO_MEMORY, "no memory for a normalised text");
        }
        c->prefix = false;
        return st || !c->w.normal.length ? st : run_added(c, 1, c->w.normal.data, c->w.normal.length);
    }
    st = run_text(c, text, length);
    c->first = false;
    return st;
}

/* The text with bytes that are no UTF-8 replaced; `text` itself when there are none. */
static const char *whole_characters(const char *text, size_t *length, struct buf *b)
{
    size_t i = 0, n;
    while (i < *length && (n = json_utf8_length(text + i, *length - i))) i += n;
    if (i == *length) return text;
    for (i = 0; i < *length; i += n ? n : 1) {
        n = json_utf8_length(text + i, *length - i);
        if (n) buf_append(b, text + i, n);
        else buf_puts(b, "\xEF\xBF\xBD");
    }
    *length = b->length;
    return b->data;
}

void tokenizer_work_free(struct work *w)
{
    matcher_close(w->matcher);
    buf_free(&w->normal);
    buf_free(&w->a);
    buf_free(&w->b);
    buf_free(&w->words.text);
    buf_free(&w->next.text);
    free(w->words.spans);
    free(w->next.spans);
    free(w->nodes);
    free(w->heap);
    free(w->lattice);
}

static enum status wrap(struct call *c, const int32_t *ids, int count)
{
    for (int i = 0; i < count; i++)
        if (!token_list_add(c->out, ids[i])) return err_set(c->err, ST_NO_MEMORY, "no memory for the tokens of a text");
    return ST_OK;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, unsigned flags, struct token_list *out, struct err *err)
{
    return tokenizer_encode_spans(t, text, length, NULL, 0, flags, out, err);
}

enum status tokenizer_encode_spans(const struct tokenizer *t, const char *text, size_t length, const struct token_span *spans, size_t span_count, unsigned flags, struct token_list *out, struct err *err)
{
    struct call c = { .t = t, .flags = flags, .spans = spans, .span_count = span_count, .out = out, .err = err, .first = true, .prefix = true };
    struct buf clean;
    size_t start = out->count, own, end;
    buf_init(&clean, 0);
    struct buf *bufs[] = { &c.w.normal, &c.w.a, &c.w.b, &c.w.words.text, &c.w.next.text };
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) buf_init(bufs[i], 0);
    text = whole_characters(text, &length, &clean);
    if (spans && clean.length) c.span_count = 0;         /* offsets have moved: no control tokens at all */
    enum status st = clean.failed ? err_set(err, ST_NO_MEMORY, "no memory for a text of %zu bytes", length) : matcher_open(&c.w.matcher, err);
    bool add = flags & TOKENIZE_SPECIAL_ADD;
    int before = t->before_count;
    /* The text's own BOS stands for ours. */
    if (add && before && t->before[0] == t->ids.bos && length && added_at(&c, 0, text, length, 0, &end) == t->ids.bos) before = 0;
    if (!st && add) st = wrap(&c, t->before, before);
    own = out->count;
    if (!st && length) st = run_added(&c, 0, text, length);
    /* Its own EOS as well, if it was written and not only an unknown token of the same id. */
    const struct token *eos = t->ids.eos >= 0 ? &t->tokens[t->ids.eos] : NULL;
    bool ended = eos && flags & TOKENIZE_SPECIAL_PARSE && t->after_count && t->after[0] == t->ids.eos && out->count > own && out->ids[out->count - 1] == t->ids.eos && length >= eos->length && !memcmp(text + length - eos->length, eos->text, eos->length);
    if (!st && add && !ended) st = wrap(&c, t->after, t->after_count);
    if (st) out->count = start;
    tokenizer_work_free(&c.w);
    buf_free(&clean);
    return st;
}
