/* Between the regex parser and the maker of automata. */
#ifndef ENGINE_TEXT_REGEX_INTERNAL_H
#define ENGINE_TEXT_REGEX_INTERNAL_H

#include "engine/text/regex.h"

enum regex_kind { REGEX_EMPTY, REGEX_CLASS, REGEX_SEQUENCE, REGEX_EITHER, REGEX_REPEAT, REGEX_START, REGEX_END };

struct code_range { uint32_t low, high; };

struct regex_node {
    enum regex_kind    kind;
    struct regex_node *left, *right;       /* SEQUENCE, EITHER; REPEAT: left */
    int                least, most;        /* REPEAT; most -1: without end */
    struct code_range *ranges;             /* CLASS: ascending, apart, without surrogates */
    size_t             range_count;
};

/* The tree is no deeper than a small multiple of REGEX_DEPTH_MAX on its left sides; sequences and alternatives lean to the right and are walked in a loop. */
enum status regex_parse(struct regex_node **out, const struct dfa_maker *m, const char *text, size_t length, struct err *err);
struct regex_node *regex_any(const struct dfa_maker *m);       /* one character, whichever; NULL: no memory */

#endif
