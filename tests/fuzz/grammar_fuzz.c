/* The first byte says what the rest is: a GBNF grammar (even) or a regular expression (odd). What compiles is run: every token that its mask offers for a few steps must be
 * accepted, and something must always be offered or the text may end. */
#include <stdlib.h>

#include "engine/text/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 24 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct token_trie *trie;
    static char bytes[256];
    struct grammar_text pieces[256];
    struct grammar *g;
    struct grammar_state *s;
    struct err err = { 0 };
    if (!trie) {
        for (int i = 0; i < 256; i++) bytes[i] = (char)i, pieces[i] = (struct grammar_text){ bytes + i, 1 };
        if (token_trie_open_pieces(&trie, pieces, 256, &err)) abort();
    }
    if (!size) return 0;
    if (data[0] & 1 ? grammar_open_regex(&g, (const char *)data + 1, size - 1, &err) : grammar_open_gbnf(&g, (const char *)data + 1, size - 1, &err)) {
        if (!err.text[0]) abort();
        return 0;
    }
    if (!grammar_state_open(&s, g, trie, &err)) {
        for (int step = 0; step < STEPS; step++) {
            uint32_t mask[8];
            bool may_end;
            int from = (step * 89 + (int)size) & 255, token = -1;
            if (grammar_state_mask(s, mask, &may_end, &err)) break;
            for (int i = 0; i < 256 && token < 0; i++) if (mask[((from + i) & 255) >> 5] >> ((from + i) & 31) & 1) token = (from + i) & 255;
            if (token < 0) {
                if (!may_end) abort();
                break;
            }
            if (grammar_state_accept(s, token, &err) == ST_BAD_INPUT) abort();
        }
        grammar_state_close(s);
    }
    grammar_close(g);
    return 0;
}
