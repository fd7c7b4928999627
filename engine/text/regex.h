/* Regular expressions (the ECMA-262 syntax that JSON Schema's `pattern` uses) as deterministic automata over UTF-8 bytes, and the algebra that schemas
 * need of them: and, or, without. Nothing ever backtracks; what would need more than REGEX_STATES_MAX states is refused.
 *
 * Taken: alternation, groups (also named and non-capturing), classes, \d \D \w \W (ASCII) \s \S, \p{General_Category}, dots, greedy and lazy quantifiers up to
 * REGEX_REPEAT_MAX, ^ and $ anywhere. Refused, since they are no regular sets of characters or not worth one: back references, look-around, \b and \B. */
#ifndef ENGINE_TEXT_REGEX_H
#define ENGINE_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

enum { REGEX_SOURCE_MAX = 65536, REGEX_REPEAT_MAX = 2000, REGEX_DEPTH_MAX = 64, REGEX_STATES_MAX = 65536, REGEX_NODES_MAX = 400000 };

/* States are numbered from 0; state 0 is dead (no text goes on from it) and every other one can still reach a final one. */
struct dfa {
    uint32_t  state_count, class_count, start;
    uint8_t   class_of[256];       /* bytes that no state tells apart share a class */
    uint32_t *next;                /* [state_count, class_count] */
    bool     *final;               /* [state_count] */
};

/* Where automata are made: an arena (its budget is the limit on memory) and the thread's CPU time at which to give up. */
struct dfa_maker { struct arena *arena; uint64_t cpu_ns_end; };
uint64_t    cpu_time_ns(void);                                                     /* CLOCK_THREAD_CPUTIME_ID */
enum status dfa_maker_check(const struct dfa_maker *m, struct err *err);           /* ST_BAD_INPUT once the time is spent */

/* search: texts that hold a match anywhere (JSON Schema); else texts that match as a whole. ST_BAD_INPUT says what is not taken and at which byte. */
enum status regex_compile(struct dfa **out, const struct dfa_maker *m, const char *text, size_t length, bool search, struct err *err);

enum dfa_op { DFA_AND, DFA_OR, DFA_WITHOUT };
enum status dfa_combine(struct dfa **out, const struct dfa_maker *m, const struct dfa *a, const struct dfa *b, enum dfa_op op, struct err *err);
enum status dfa_text(struct dfa **out, const struct dfa_maker *m, const char *text, size_t length, struct err *err);       /* just this text */
bool        dfa_accepts(const struct dfa *d, const char *text, size_t length);
static inline bool dfa_is_empty(const struct dfa *d) { return d->start == 0; }
static inline uint32_t dfa_next(const struct dfa *d, uint32_t state, uint8_t byte) { return d->next[(uint64_t)state * d->class_count + d->class_of[byte]]; }
/* Gives the dead state its place and drops states that reach no final one; d->next and d->final may be changed. For makers of automata. */
enum status dfa_trim(struct dfa *d, const struct dfa_maker *m, struct err *err);

#endif
