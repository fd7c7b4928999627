/* The running automaton of one grammar over one trie: stacks, sets of stacks (configurations) and what is remembered of them. The caller holds grammar.lock. */
#ifndef ENGINE_TEXT_GRAMMAR_MACHINE_H
#define ENGINE_TEXT_GRAMMAR_MACHINE_H

#include "engine/text/grammar_internal.h"

enum { STACK_BOTTOM, STACK_HOLE, STACK_FIRST };            /* below every stack; HOLE: "whatever called this rule" */
enum { CONFIG_UNKNOWN, CONFIG_DEAD, CONFIG_FIRST };
enum { CONFIG_ACCEPT = 1, CONFIG_ESCAPE = 2 };             /* the whole text may end; the frame over HOLE may end */
enum { FRAME_DEPTH = GRAMMAR_DEPTH_MAX / 2 };             /* how deep HOLE counts as: only shallower stacks are looked at as frames */
#define MACHINE_EFFORT_MAX  ((int64_t)8 << 20)             /* edges looked at for one mask: about 0.1 s */
#define MACHINE_MEMORY_MAX  ((uint64_t)48 << 20)           /* everything remembered is dropped beyond */

struct stack { uint32_t node, parent, depth; };

struct config {
    uint32_t  first, count;        /* stacks in machine.members, ascending */
    uint8_t   flags;
    uint32_t *next;                /* [256], CONFIG_UNKNOWN where not yet stepped; NULL: never stepped */
    uint32_t *mask;                /* tokens that may follow (of a frame: within it); NULL: not yet made */
    uint32_t *escapes;             /* for a frame over HOLE: trie nodes at which it may have ended */
    uint32_t  escape_count;
};

struct table { uint32_t *slots; uint32_t size, used; };    /* open addressing; numbers + 1 */

struct grammar_machine {
    const struct grammar    *grammar;
    const struct token_trie *trie;
    uint64_t                 trie_serial;
    struct grammar_machine  *next;
    struct grammar_state    *states;       /* those that live */
    struct arena             arena;        /* holds all below; dropped as a whole */
    struct stack  *stacks;   uint32_t stack_count, stack_room;
    uint32_t      *mark, mark_room, epoch;
    uint32_t      *work;     uint32_t work_count, work_room;
    uint32_t      *found;    uint32_t found_count, found_room;
    uint32_t      *members;  uint32_t member_count, member_room;
    struct config *configs;  uint32_t config_count, config_room;
    struct table   stack_table, config_table;
    int64_t        effort;                 /* edges that may still be looked at for the question at hand */
    uint32_t      *levels;                 /* [trie depth + 2]: the configuration at each depth of a walk */
};

struct grammar_state {
    struct grammar         *grammar;
    struct grammar_machine *machine;
    uint32_t                config;
    struct grammar_state   *next;
};

enum status machine_open(struct grammar_machine **out, const struct grammar *g, const struct token_trie *t, struct err *err);
/* All return a configuration, CONFIG_UNKNOWN when memory or effort ends (machine_fail tells which). */
uint32_t machine_start(struct grammar_machine *m);
uint32_t machine_step(struct grammar_machine *m, uint32_t config, uint8_t byte);
uint32_t machine_frame(struct grammar_machine *m, const uint32_t *stacks, uint32_t count);      /* the same tops, over HOLE */
uint32_t machine_return(struct grammar_machine *m, uint32_t stack);                             /* where a stack stands once the frame above it has ended */
/* Begins a question: full effort; drops what is remembered when it has grown beyond MACHINE_MEMORY_MAX; the states' configurations are carried over. */
enum status machine_trim(struct grammar_machine *m, struct err *err);
enum status machine_fail(const struct grammar_machine *m, struct err *err);
/* The mask of a configuration, NULL when memory or effort ends. */
const uint32_t *machine_mask(struct grammar_machine *m, uint32_t config);

#endif
