/* What a language model may write, as an automaton: JSON Schema, a regular expression, a GBNF grammar, a choice of texts, or any JSON object.
 *
 * A grammar is a network of rules over bytes (a pushdown automaton: rules call rules). While a text is generated a state keeps the set of stacks on which
 * the network could stand after the bytes so far; a token may follow when its bytes lead to a set that is not empty. Rules that derive nothing are
 * cut out when the grammar is compiled, so every state can still reach an end: nothing ever backtracks. Sets of stacks are numbered and their
 * steps and masks remembered, for all states of one grammar together.
 *
 * Limits (R16): 64 KiB of source, nesting 64, 10,000 rules, repetitions of 2,000, one second of CPU time, GRAMMAR_STACKS_MAX stacks at a time, GRAMMAR_DEPTH_MAX
 * calls deep. Beyond the last two the automaton takes fewer texts than the grammar has, never more. */
#ifndef ENGINE_TEXT_GRAMMAR_H
#define ENGINE_TEXT_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct json;
struct tokenizer;
struct grammar;
struct token_trie;
struct grammar_state;

enum { GRAMMAR_SOURCE_MAX = 65536, GRAMMAR_DEPTH_SOURCE_MAX = 64, GRAMMAR_RULES_MAX = 10000, GRAMMAR_REPEAT_MAX = 2000, GRAMMAR_STACKS_MAX = 256, GRAMMAR_DEPTH_MAX = 512 };

/* Compilers keep nothing of their input. ST_BAD_INPUT says what was wrong or cannot be enforced, and where. */
enum status grammar_open_gbnf(struct grammar **out, const char *text, size_t length, struct err *err);         /* the rule `root` */
enum status grammar_open_regex(struct grammar **out, const char *text, size_t length, struct err *err);        /* the whole text matches; syntax: regex.h */
struct grammar_text { const char *text; size_t length; };
enum status grammar_open_choice(struct grammar **out, const struct grammar_text *texts, size_t n, struct err *err);
/* JSON that the schema (drafts 7 and 2020-12) calls valid, on one line, members in the schema's order; docs/STRUCTURED.md has the details. */
enum status grammar_open_schema(struct grammar **out, const struct json *schema, struct err *err);
enum status grammar_open_json_object(struct grammar **out, struct err *err);
/* Any thread may use a grammar; it is closed after the last of its states. */
void        grammar_close(struct grammar *g);

/* The bytes of all tokens that are no control tokens, as a tree; built once for a model, never changed, usable by any thread. */
enum status token_trie_open(struct token_trie **out, const struct tokenizer *t, struct err *err);
/* The same of plain byte strings: token i is pieces[i]; an empty one can never follow. */
enum status token_trie_open_pieces(struct token_trie **out, const struct grammar_text *pieces, size_t n, struct err *err);
int         token_trie_count(const struct token_trie *t);       /* tokens; a mask has (count + 31) / 32 words */
void        token_trie_close(struct token_trie *t);

/* One text being generated. A state belongs to one thread at a time; the grammar and the trie outlive it. */
enum status grammar_state_open(struct grammar_state **out, const struct grammar *g, const struct token_trie *t, struct err *err);
/* Sets the bit of each token whose bytes may follow and clears all others (tokens of no bytes among them). *may_end: the text may end here. Both empty happens
 * only when the vocabulary lacks the bytes to go on. ST_NO_MEMORY; ST_BAD_INPUT: a grammar so ambiguous that the question takes too long. */
enum status grammar_state_mask(struct grammar_state *s, uint32_t *mask, bool *may_end, struct err *err);
/* ST_BAD_INPUT when the token may not follow; the state is then as before. */
enum status grammar_state_accept(struct grammar_state *s, int32_t token, struct err *err);
enum status grammar_state_accept_bytes(struct grammar_state *s, const char *bytes, size_t n, struct err *err);      /* the same for bytes of any kind */
bool        grammar_state_may_end(const struct grammar_state *s);
void        grammar_state_close(struct grammar_state *s);

#endif
