#include "tests/text/grammar_walk.h"

#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

static const char *const words[] = { "\":", "\", \"", "true", "false", "null", "{\"", "\"}", "}}", "]", "[[", "12", "00", "the ", "ab", "\xc3\xa4", "\xe4\xbd", "\xa0\xe5", "\\u00", "\\\"", "a\"", "\",", ", ", ": ", "-1", ".5", "e1", "name", "2024-", "-01" };
enum { WORDS = sizeof words / sizeof *words, WORD_MAX = 320 };
static struct grammar_text pieces[256 + WORDS];
static char bytes[256];

static void fill(void)
{
    for (int i = 0; i < 256; i++) bytes[i] = (char)i, pieces[i] = (struct grammar_text){ bytes + i, 1 };
    for (int i = 0; i < WORDS; i++) pieces[256 + i] = (struct grammar_text){ words[i], strlen(words[i]) };
}

struct token_trie *walk_trie(bool with_words)
{
    struct token_trie *t = NULL;
    struct err err = { 0 };
    fill();
    if (token_trie_open_pieces(&t, pieces, with_words ? 256 + WORDS : 256, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return t;
}

const char *walk_word(int32_t token, size_t *length)
{
    *length = pieces[token].length;
    return pieces[token].text;
}

bool walk_accepts(const struct grammar *g, const struct token_trie *t, const char *text, size_t length)
{
    struct grammar_state *s;
    struct err err = { 0 };
    if (grammar_state_open(&s, g, t, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    bool ok = !grammar_state_accept_bytes(s, text, length, &err) && grammar_state_may_end(s);
    grammar_state_close(s);
    return ok;
}

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

bool walk_draw(const struct grammar *g, const struct token_trie *t, uint32_t seed, size_t most, struct buf *out)
{
    struct grammar_state *s;
    struct err err = { 0 };
    uint32_t mask[(256 + WORDS + 31) / 32 + 1];
    int32_t open[256 + WORDS], ends[256];
    bool may_end = false, done = false;
    if (grammar_state_open(&s, g, t, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    while (out->length < most && !done) {
        int count = 0, end_count = 0, n = token_trie_count(t);
        if (grammar_state_mask(s, mask, &may_end, &err)) {
            test_fail(__FILE__, __LINE__, "%s", err.text);
            break;
        }
        for (int32_t i = 0; i < n; i++)
            if (mask[i >> 5] >> (i & 31) & 1) {
                open[count++] = i;
                if (i == '"' || i == '}' || i == ']') ends[end_count++] = i;
            }
        if (!count && !may_end) {
            test_fail(__FILE__, __LINE__, "nothing may follow '%.*s'", (int)out->length, out->data ? out->data : "");
            break;
        }
        if (may_end && (!count || random_next(&seed) % 4 == 0)) done = true;
        else {
            bool hurry = end_count && random_next(&seed) % 400 < 40 + out->length;
            int32_t token = hurry ? ends[random_next(&seed) % (uint32_t)end_count] : open[random_next(&seed) % (uint32_t)count];
            if (grammar_state_accept(s, token, &err)) {
                test_fail(__FILE__, __LINE__, "token %d was offered after '%.*s' and then refused: %s", token, (int)out->length, out->data ? out->data : "", err.text);
                break;
            }
            buf_append(out, pieces[token].text, pieces[token].length);
        }
    }
    grammar_state_close(s);
    return done;
}
