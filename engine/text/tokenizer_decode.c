/* A character of UTF-8 is put out when its last byte is there. A byte that cannot continue what is held ends it: U+FFFD, and the byte is looked at anew. */
#include <string.h>

#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

static const char broken[] = "\xEF\xBF\xBD";

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool start, bool show_control)
{
    *d = (struct detokenizer){ .tokenizer = t, .at_start = start, .show_control = show_control };
}

/* How many bytes the character of this first byte has; 0: no character begins so. */
static int length_of(unsigned char b) { return b < 0x80 ? 1 : b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0; }

/* May `b` stand at place `at` (1 to 3) of the character that begins with `first`? */
static bool continues(unsigned char first, int at, unsigned char b)
{
    if ((b & 0xC0) != 0x80) return false;
    if (at > 1) return true;
    if (first == 0xE0) return b >= 0xA0;
    if (first == 0xED) return b < 0xA0;
    if (first == 0xF0) return b >= 0x90;
    return first != 0xF4 || b < 0x90;
}

static void feed_byte(struct detokenizer *d, unsigned char b, struct buf *out)
{
    if (d->held_count && !continues(d->held[0], d->held_count, b)) {
        buf_puts(out, broken);
        d->held_count = 0;
    }
    if (!d->held_count && length_of(b) <= 1) {
        if (length_of(b)) buf_putc(out, (char)b);
        else buf_puts(out, broken);
        return;
    }
    d->held[d->held_count++] = b;
    if (d->held_count == length_of(d->held[0])) {
        buf_append(out, d->held, (size_t)d->held_count);
        d->held_count = 0;
    }
}

void detokenizer_feed(struct detokenizer *d, int32_t id, struct buf *out)
{
    const struct tokenizer *t = d->tokenizer;
    if (id < 0 || id >= t->count) return;
    const struct token *k = &t->tokens[id];
    bool control = tokenizer_is_control(t, id);
    if (control && !d->show_control) return;
    const char *p = k->piece;
    size_t n = k->piece_length;
    if (d->at_start && t->strip_first_space && !control && n && p[0] == ' ') p++, n--;
    if (!control) d->at_start = false;
    for (size_t i = 0; i < n; i++) feed_byte(d, (unsigned char)p[i], out);
}

void detokenizer_finish(struct detokenizer *d, struct buf *out)
{
    if (d->held_count) buf_puts(out, broken);
    d->held_count = 0;
}
