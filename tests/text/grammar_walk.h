/* A grammar run without a model: texts fed to it, texts drawn from it. */
#ifndef TESTS_TEXT_GRAMMAR_WALK_H
#define TESTS_TEXT_GRAMMAR_WALK_H

#include "base/buf.h"
#include "engine/text/grammar.h"

/* 256 tokens of one byte, and some of more. Closed with token_trie_close. */
struct token_trie *walk_trie(bool with_words);
const char *walk_word(int32_t token, size_t *length);     /* of walk_trie(true) */
bool walk_accepts(const struct grammar *g, const struct token_trie *t, const char *text, size_t length);
/* Draws allowed tokens until the text ends or has `most` bytes (true: it ended), ever more willing to end. The same seed, the same text. What mask and accept disagree on
 * is a failure of the test. */
bool walk_draw(const struct grammar *g, const struct token_trie *t, uint32_t seed, size_t most, struct buf *out);

#endif
