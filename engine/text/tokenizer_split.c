/* The steps that make words of a normalised text. Each takes the words so far and makes new ones from each of them; steps that change bytes (byte-level,
 * metaspace) write a new text. A step first marks which stretches of a word are matches, then a behaviour says what becomes of them. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/text/tokenizer_internal.h"

bool pieces_add(struct pieces *p, size_t offset, size_t length)
{
    if (!length) return true;
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 64;
        struct span *more = mem_realloc_array(p->spans, capacity, sizeof *more);
        if (!more) return p->failed = true, false;
        p->spans = more, p->capacity = capacity;
    }
    p->spans[p->count++] = (struct span){ offset, length };
    return true;
}

/* The stretches of one word come in order, matches and gaps; the behaviour joins them. */
struct joiner { struct pieces *out; enum split_behaviour behaviour; bool invert; size_t begin, end; bool open, open_match; };

static void joiner_flush(struct joiner *j)
{
    if (j->open) pieces_add(j->out, j->begin, j->end - j->begin);
    j->open = false;
}

static void joiner_add(struct joiner *j, size_t begin, size_t end, bool match)
{
    bool join = false;
    if (begin == end) return;
    match ^= j->invert;
    switch (j->behaviour) {
    case SPLIT_REMOVED:
        if (match) { joiner_flush(j); return; }
        break;
    case SPLIT_ISOLATED: break;
    case SPLIT_WITH_PREVIOUS: join = match && !j->open_match; break;
    case SPLIT_WITH_NEXT: join = j->open_match && !match; break;
    case SPLIT_CONTIGUOUS: join = match == j->open_match; break;
    }
    if (!j->open || !join) {
        joiner_flush(j);
        j->begin = begin;
    }
    j->end = end, j->open = true, j->open_match = match;
}

static bool char_matches(const struct split_step *s, int32_t c)
{
    switch (s->kind) {
    case SPLIT_DIGITS: return char_is_number(c);
    case SPLIT_PUNCTUATION: return char_is_punctuation(c);
    case SPLIT_SPACE: return char_is_space(c);
    case SPLIT_CHAR: {
        int32_t mark;
        char_read(s->mark, s->mark_length, &mark);
        return c == mark;
    }
    default: return false;
    }
}

static void split_chars(struct pieces *out, const struct split_step *s, const char *text, struct span word)
{
    struct joiner j = { .out = out, .behaviour = s->behaviour, .invert = s->invert };
    size_t gap = word.offset, end = word.offset + word.length, n;
    int32_t c;
    for (size_t i = word.offset; i < end; i += n) {
        n = char_read(text + i, end - i, &c);
        if (!char_matches(s, c)) continue;
        joiner_add(&j, gap, i, false);
        joiner_add(&j, i, i + n, true);
        gap = i + n;
    }
    joiner_add(&j, gap, end, false);
    joiner_flush(&j);
}

static enum status split_pattern(struct work *w, struct pieces *out, const struct split_step *s, const char *text, struct span word, struct err *err)
{
    struct joiner j = { .out = out, .behaviour = s->behaviour, .invert = s->invert };
    const char *p = text + word.offset;
    size_t gap = 0, from = 0, begin, end;
    int found = 0;
    while (from <= word.length && (found = matcher_find(w->matcher, s->pattern, p, word.length, from, &begin, &end)) > 0) {
        int32_t c;
        if (begin == end) {
            from = end < word.length ? end + char_read(p + end, word.length - end, &c) : word.length + 1;
            continue;
        }
        joiner_add(&j, word.offset + gap, word.offset + begin, false);
        joiner_add(&j, word.offset + begin, word.offset + end, true);
        gap = from = end;
    }
    if (found < 0) return err_set(err, ST_BAD_INPUT, "the text exceeds the match limits of the tokenizer's splitting pattern");
    joiner_add(&j, word.offset + gap, word.offset + word.length, false);
    joiner_flush(&j);
    return ST_OK;
}

/* Bert: spaces go, punctuation stands alone. */
static void split_bert(struct pieces *out, const char *text, struct span word)
{
    size_t gap = word.offset, end = word.offset + word.length, n;
    int32_t c;
    for (size_t i = word.offset; i < end; i += n) {
        n = char_read(text + i, end - i, &c);
        bool space = char_is_space(c);
        if (!space && !char_is_punctuation(c)) continue;
        pieces_add(out, gap, i - gap);
        if (!space) pieces_add(out, i, n);
        gap = i + n;
    }
    pieces_add(out, gap, end - gap);
}

/* Spaces become the mark; each mark begins a word. */
static void split_metaspace(struct pieces *out, const struct split_step *s, const char *text, struct span word, bool first)
{
    size_t begin = out->text.length, m = s->mark_length;
    bool marked = word.length && (text[word.offset] == ' ' || (word.length >= m && !memcmp(text + word.offset, s->mark, m)));
    if (!marked && (s->scheme == 2 || (s->scheme == 1 && first))) buf_append(&out->text, s->mark, m);
    for (size_t i = 0; i < word.length; i++) {
        if (text[word.offset + i] == ' ') buf_append(&out->text, s->mark, m);
        else buf_putc(&out->text, text[word.offset + i]);
    }
    if (out->text.failed) return;
    size_t end = out->text.length, word_begin = begin;
    for (size_t i = begin; s->split && i < end;) {
        if (end - i >= m && !memcmp(out->text.data + i, s->mark, m)) {
            pieces_add(out, word_begin, i - word_begin);
            word_begin = i;
            i += m;
        } else i++;
    }
    pieces_add(out, word_begin, end - word_begin);
}

static void split_bytes(struct pieces *out, const struct split_step *s, const char *text, struct span word)
{
    size_t begin = out->text.length;
    if (s->prefix_space && text[word.offset] != ' ') char_put(&out->text, char_of_byte(' '));
    bytes_to_chars(&out->text, text + word.offset, word.length);
    pieces_add(out, begin, out->text.length - begin);
}

enum status tokenizer_run_split(const struct tokenizer *t, struct work *w, const char *text, size_t length, bool first, struct err *err)
{
    enum status st = ST_OK;
    struct pieces *words = &w->words, *next = &w->next;
    words->count = 0, words->failed = false;
    buf_clear(&words->text);
    buf_append(&words->text, text, length);
    if (words->text.failed || !pieces_add(words, 0, length)) return err_set(err, ST_NO_MEMORY, "no memory for the words of a text of %zu bytes", length);
    for (int k = 0; k < t->split_count && !st; k++) {
        const struct split_step *s = &t->split[k];
        bool rewrites = s->kind == SPLIT_METASPACE || s->kind == SPLIT_BYTES;
        next->count = 0, next->failed = false;
        buf_clear(&next->text);
        for (size_t i = 0; i < words->count && !st; i++) {
            struct span word = words->spans[i];
            switch (s->kind) {
            case SPLIT_PATTERN: st = split_pattern(w, next, s, words->text.data, word, err); break;
            case SPLIT_BYTES: split_bytes(next, s, words->text.data, word); break;
            case SPLIT_METASPACE: split_metaspace(next, s, words->text.data, word, first && i == 0); break;
            case SPLIT_BERT: split_bert(next, words->text.data, word); break;
            default: split_chars(next, s, words->text.data, word);
            }
        }
        if (!rewrites) {
            struct buf swap = words->text;
            words->text = next->text, next->text = swap;
        }
        struct pieces swap = *words;
        *words = *next, *next = swap;
        if (words->failed || next->failed || words->text.failed) break;
    }
    if (!st && (words->failed || next->failed || words->text.failed)) st = err_set(err, ST_NO_MEMORY, "no memory for the words of a text of %zu bytes", length);
    return st;
}
