/* The steps before splitting. Each reads a whole text and writes a whole text. Canonical and compatibility forms come from utf8proc; plain ASCII is
 * its own form. A charsmap is SentencePiece's: a double-array trie over byte strings, whose values are offsets into a block of replacement texts. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/text/tokenizer_internal.h"

static bool is_ascii(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] >= 128) return false;
    return true;
}

static enum status unicode_form(struct buf *out, const char *text, size_t length, int options, struct err *err)
{
    utf8proc_uint8_t *form = NULL;
    if (is_ascii(text, length)) {
        buf_append(out, text, length);
        return ST_OK;
    }
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &form, (utf8proc_option_t)(options | UTF8PROC_STABLE));
    if (n < 0) return err_set(err, n == UTF8PROC_ERROR_NOMEM ? ST_NO_MEMORY : ST_BAD_INPUT, "the text cannot be normalised");
    buf_append(out, form, (size_t)n);
    free(form);
    return ST_OK;
}

static void put_lower(struct buf *out, int32_t c)
{
    if (c == 0x130) buf_puts(out, "i\xCC\x87");          /* the one capital whose small letter is two characters */
    else char_put(out, char_lower(c));
}

static void drop_marks(struct buf *out, const char *text, size_t length, bool nonspacing_only)
{
    int32_t c;
    for (size_t i = 0, n; i < length; i += n) {
        n = char_read(text + i, length - i, &c);
        if (!char_is_mark(c, nonspacing_only)) buf_append(out, text + i, n);
    }
}

static void strip(struct buf *out, const char *text, size_t length, bool left, bool right)
{
    int32_t c;
    size_t begin = 0, end = 0, n;
    bool seen = false;
    for (size_t i = 0; i < length; i += n) {
        n = char_read(text + i, length - i, &c);
        if (char_is_space(c)) continue;
        if (!seen) begin = i;
        seen = true, end = i + n;
    }
    if (!left) begin = 0;
    if (!right) end = length;
    if (seen) buf_append(out, text + begin, end - begin);
    else if (!left || !right) buf_append(out, text, left || right ? 0 : length);
}

static enum status replace(struct work *w, const struct normalise_step *s, struct buf *out, const char *text, size_t length, struct err *err)
{
    size_t at = 0, begin, end;
    if (s->pattern) {
        size_t from = 0;
        int found = 0;
        while (from <= length && (found = matcher_find(w->matcher, s->pattern, text, length, from, &begin, &end)) > 0) {
            buf_append(out, text + at, begin - at);
            buf_append(out, s->to, s->to_length);
            at = end;
            int32_t c;
            from = end > begin ? end : end < length ? end + char_read(text + end, length - end, &c) : length + 1;
        }
        if (found < 0) return err_set(err, ST_BAD_INPUT, "the text exceeds the limits of a normaliser's pattern");
    } else {
        for (const char *hit; s->from_length && (hit = memmem(text + at, length - at, s->from, s->from_length)); at = (size_t)(hit - text) + s->from_length) {
            buf_append(out, text + at, (size_t)(hit - text) - at);
            buf_append(out, s->to, s->to_length);
        }
    }
    buf_append(out, text + at, length - at);
    return ST_OK;
}

static enum status bert(struct work *w, const struct normalise_step *s, struct buf *out, const char *text, size_t length, struct err *err)
{
    int32_t c;
    struct buf *cleaned = &w->b;
    buf_clear(cleaned);
    for (size_t i = 0, n; i < length; i += n) {
        n = char_read(text + i, length - i, &c);
        if (s->clean && (c == 0 || c == 0xFFFD || char_is_control(c))) continue;
        if (s->clean && char_is_space(c)) buf_putc(cleaned, ' ');
        else if (s->chinese && char_is_chinese(c)) {
            buf_putc(cleaned, ' ');
            char_put(cleaned, c);
            buf_putc(cleaned, ' ');
        } else char_put(cleaned, c);
    }
    struct buf form;
    buf_init(&form, 0);
    enum status st = ST_OK;
    if (s->accents) {
        st = unicode_form(&form, cleaned->data, cleaned->length, UTF8PROC_DECOMPOSE, err);
        buf_clear(cleaned);
        drop_marks(cleaned, form.data, form.length, true);
    }
    for (size_t i = 0, n; i < cleaned->length && !st; i += n) {
        n = char_read(cleaned->data + i, cleaned->length - i, &c);
        if (s->lower) put_lower(out, c);
        else char_put(out, c);
    }
    if (!st && (form.failed || cleaned->failed)) st = err_set(err, ST_NO_MEMORY, "no memory for a normalised text");
    buf_free(&form);
    return st;
}

/* The value of the shortest or longest prefix of the text in the trie; -1: none. *used: its bytes. */
static int64_t map_find(const struct normalise_step *s, const char *text, size_t length, bool shortest, size_t *used)
{
    int64_t found = -1;
    uint32_t unit, at = 0;
    if (!s->map_units) return -1;
    memcpy(&unit, s->map, 4);
    at ^= (unit >> 10) << ((unit & (1u << 9)) >> 6);
    for (size_t i = 0; i < length && text[i]; i++) {
        at ^= (unsigned char)text[i];
        if (at >= s->map_units) break;
        memcpy(&unit, s->map + (size_t)at * 4, 4);
        if ((unit & 0x800000FFu) != (unsigned char)text[i]) break;
        at ^= (unit >> 10) << ((unit & (1u << 9)) >> 6);
        if (at >= s->map_units) break;
        if (unit >> 8 & 1) {
            uint32_t leaf;
            memcpy(&leaf, s->map + (size_t)at * 4, 4);
            found = leaf & 0x7FFFFFFF, *used = i + 1;
            if (shortest) break;
        }
    }
    return found >= 0 && (uint64_t)found < s->map_texts_length ? found : -1;
}

static bool put_mapped(const struct normalise_step *s, struct buf *out, const char *text, size_t length, bool shortest, size_t *used)
{
    int64_t at = map_find(s, text, length, shortest, used);
    if (at >= 0) buf_puts(out, s->map_texts + at);           /* the block ends in NUL: tokenizer_set_charsmap */
    return at >= 0;
}

static void charsmap(const struct normalise_step *s, struct buf *out, const char *text, size_t length)
{
    size_t i = 0, n, used;
    int32_t c, next;
    while (i < length) {
        if (!s->graphemes) {
            if (put_mapped(s, out, text + i, length - i, false, &used)) i += used;
            else {
                n = char_read(text + i, length - i, &c);
                buf_append(out, text + i, n);
                i += n;
            }
            continue;
        }
        utf8proc_int32_t state = 0;
        size_t end = i + char_read(text + i, length - i, &c);
        for (int32_t last = c; end < length; end += n, last = next) {
            n = char_read(text + end, length - end, &next);
            if (utf8proc_grapheme_break_stateful(last, next, &state)) break;
        }
        if (end - i < 6 && put_mapped(s, out, text + i, end - i, true, &used)) {
            i = end;
            continue;
        }
        for (; i < end; i += n) {
            n = char_read(text + i, end - i, &c);
            if (!put_mapped(s, out, text + i, n, true, &used)) buf_append(out, text + i, n);
        }
    }
}

/* What SentencePiece's "nmt" rules do to characters that are not in its map. */
static void nmt(struct buf *out, const char *text, size_t length)
{
    int32_t c;
    for (size_t i = 0, n; i < length; i += n) {
        n = char_read(text + i, length - i, &c);
        if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) continue;
        if (c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD) buf_putc(out, ' ');
        else buf_append(out, text + i, n);
    }
}

/* Runs of spaces become one, those at the ends go. */
static void collapse(struct buf *out, const char *text, size_t length)
{
    bool space = false, any = false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == ' ') {
            space = true;
            continue;
        }
        if (space && any) buf_putc(out, ' ');
        buf_putc(out, text[i]);
        space = false, any = true;
    }
}

static enum status run_step(struct work *w, const struct normalise_step *s, struct buf *out, const char *text, size_t length, struct err *err)
{
    int32_t c;
    switch (s->kind) {
    case NORMALISE_NFC: return unicode_form(out, text, length, UTF8PROC_COMPOSE, err);
    case NORMALISE_NFD: return unicode_form(out, text, length, UTF8PROC_DECOMPOSE, err);
    case NORMALISE_NFKC: return unicode_form(out, text, length, UTF8PROC_COMPOSE | UTF8PROC_COMPAT, err);
    case NORMALISE_NFKD: return unicode_form(out, text, length, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, err);
    case NORMALISE_LOWER:
        for (size_t i = 0; i < length; i += char_read(text + i, length - i, &c)) {
            char_read(text + i, length - i, &c);
            put_lower(out, c);
        }
        return ST_OK;
    case NORMALISE_STRIP_ACCENTS: drop_marks(out, text, length, false); return ST_OK;
    case NORMALISE_STRIP: strip(out, text, length, s->clean, s->accents); return ST_OK;
    case NORMALISE_REPLACE: return replace(w, s, out, text, length, err);
    case NORMALISE_PREPEND:
        if (length) buf_append(out, s->to, s->to_length);
        buf_append(out, text, length);
        return ST_OK;
    case NORMALISE_BERT: return bert(w, s, out, text, length, err);
    case NORMALISE_CHARSMAP: charsmap(s, out, text, length); return ST_OK;
    case NORMALISE_NMT: nmt(out, text, length); return ST_OK;
    case NORMALISE_BYTES: bytes_to_chars(out, text, length); return ST_OK;
    case NORMALISE_COLLAPSE: collapse(out, text, length); return ST_OK;
    }
    return ST_OK;
}

enum status tokenizer_run_normalise(const struct tokenizer *t, struct work *w, const char *text, size_t length, struct buf *out, struct err *err)
{
    buf_clear(out);
    buf_append(out, text, length);
    for (int i = 0; i < t->normalise_count; i++) {
        buf_clear(&w->a);
        enum status st = run_step(w, &t->normalise[i], &w->a, out->data ? out->data : "", out->length, err);
        if (st) return st;
        struct buf swap = *out;
        *out = w->a, w->a = swap;
    }
    return out->failed ? err_set(err, ST_NO_MEMORY, "no memory for a normalised text") : ST_OK;
}
