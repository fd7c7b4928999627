/* The input is a JSON Schema. What compiles is run: a text drawn from its masks that comes to an end must be JSON. */
#include <stdlib.h>

#include "base/buf.h"
#include "base/json.h"
#include "engine/text/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 60 };

static void run(const struct grammar *g, const struct token_trie *trie, size_t size)
{
    struct grammar_state *s;
    struct err err = { 0 };
    struct buf text;
    struct arena arena;
    struct json *j;
    bool may_end = false;
    if (grammar_state_open(&s, g, trie, &err)) return;
    buf_init(&text, 0);
    arena_init(&arena, 1 << 20);
    for (int step = 0; step < STEPS; step++) {
        uint32_t mask[8];
        int from = (step * 89 + (int)size) & 255, token = -1;
        if (grammar_state_mask(s, mask, &may_end, &err)) break;
        for (int i = 0; i < 256 && token < 0; i++) if (mask[((from + i) & 255) >> 5] >> ((from + i) & 31) & 1) token = (from + i) & 255;
        if (may_end && (token < 0 || step % 3 == 0)) break;
        if (token < 0) abort();
        if (grammar_state_accept(s, token, &err) == ST_BAD_INPUT) abort();
        buf_putc(&text, (char)token);
        may_end = false;
    }
    if (may_end && json_parse(&j, &arena, text.data, text.length, NULL, &err)) abort();
    arena_free(&arena);
    buf_free(&text);
    grammar_state_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct token_trie *trie;
    static char bytes[256];
    struct grammar_text pieces[256];
    struct grammar *g;
    struct arena arena;
    struct json *schema;
    struct err err = { 0 };
    if (!trie) {
        for (int i = 0; i < 256; i++) bytes[i] = (char)i, pieces[i] = (struct grammar_text){ bytes + i, 1 };
        if (token_trie_open_pieces(&trie, pieces, 256, &err)) abort();
    }
    arena_init(&arena, 8 << 20);
    if (!json_parse(&schema, &arena, (const char *)data, size, NULL, &err)) {
        if (!grammar_open_schema(&g, schema, &err)) {
            run(g, trie, size);
            grammar_close(g);
        } else if (!err.text[0]) abort();
    }
    arena_free(&arena);
    return 0;
}
