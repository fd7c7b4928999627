/* The network of rules while it is built (struct net) and when it is ready (struct grammar). */
#ifndef ENGINE_TEXT_GRAMMAR_INTERNAL_H
#define ENGINE_TEXT_GRAMMAR_INTERNAL_H

#include <pthread.h>

#include "base/arena.h"
#include "engine/text/grammar.h"
#include "engine/text/regex.h"

enum { NET_NODES_MAX = 1 << 20, NET_EDGES_MAX = 1 << 21 };
#define NET_MEMORY_MAX ((uint64_t)256 << 20)
enum { NET_BYTES = -1, NET_NOTHING = -2 };     /* values of net_edge.rule; others call that rule */

struct net_edge {
    uint32_t from, to;
    int32_t  rule;
    uint8_t  low, high;        /* NET_BYTES: one byte of low..high */
    bool     tail;             /* a call after which nothing but the rule's end remains: it needs no place to return to */
};

struct net_rule {
    uint32_t    start, end;    /* nothing leaves `end`; nothing is written from it */
    const char *name;          /* for messages; NULL: made up */
    size_t      at;            /* where the source has it */
};

/* Adding to it never fails on the spot: the first failure stays in `status` and is told by net_finish. */
struct net {
    struct dfa_maker maker;
    struct arena     arena;
    struct net_edge *edges;
    uint64_t         edge_count, edge_room;
    uint32_t         node_count;
    struct net_rule *rules;            /* never NULL: without memory for any it is `spare` */
    struct net_rule  spare;
    int32_t          rule_count, rule_room;
    int32_t          rules_max;
    bool             angle_escaped;    /* JSON strings spell '<' as \u003c: what surrounds them is parted by marks that begin with it */
    enum status      status;
    struct err       err;
};

void     net_open(struct net *n);              /* the arena and the clock start */
void     net_close(struct net *n);
uint32_t net_node(struct net *n);
int32_t  net_rule(struct net *n, const char *name, size_t at);
void     net_bytes(struct net *n, uint32_t from, uint8_t low, uint8_t high, uint32_t to);
void     net_nothing(struct net *n, uint32_t from, uint32_t to);
void     net_call(struct net *n, uint32_t from, int32_t rule, uint32_t to);
uint32_t net_text(struct net *n, uint32_t from, const char *text, size_t length);      /* returns the node after the text */
void     net_dfa(struct net *n, uint32_t from, const struct dfa *d, uint32_t to);
void     net_fail(struct net *n, const struct err *e);
/* Trims and checks the network and makes the grammar that starts with `root`. strict: a rule that derives nothing is refused by name, else
 * it is cut out and only a root that derives nothing is refused. */
enum status net_finish(struct net *n, int32_t root, bool strict, struct grammar **out, struct err *err);

/* A control token that may stand where the network writes 0xff and its code; no text holds the byte 0xff. */
enum { GRAMMAR_MARKS_MAX = 64, GRAMMAR_MARK_BYTE = 0xff };

struct grammar_machine;
struct grammar {
    int32_t          marks[GRAMMAR_MARKS_MAX];     /* token ids by their codes */
    uint32_t         mark_count;
    uint32_t         node_count;
    uint32_t        *first;        /* [node_count + 1]: edges of a node */
    struct net_edge *edges;
    bool            *ends;         /* [node_count]: the end of its rule */
    uint32_t        *rule_start;
    uint32_t         start;
    pthread_mutex_t  lock;         /* guards `machines` and the states in them */
    struct grammar_machine *machines;      /* one for each trie that a state was opened with */
};
void machine_list_close(struct grammar_machine *m);

struct token_trie {
    uint64_t  serial;              /* never the same twice in a process */
    int       token_count;
    uint32_t  node_count;          /* in the order of a walk from the top: a node, then what is below it */
    uint8_t  *byte;                /* [node_count] */
    uint16_t *depth;               /* from 1 */
    uint32_t *end;                 /* the node after all that is below */
    uint32_t *token_first;         /* [node_count + 1] into sorted: tokens that end here come before those below */
    uint32_t *token_own;           /* how many end here */
    int32_t  *sorted;              /* token ids by their bytes */
    uint32_t  sorted_count;
    uint32_t  depth_max;
    uint32_t *offset;              /* [token_count + 1] into bytes */
    char     *bytes;
};

/* JSON parts that schemas share. */
enum json_part { JSON_PART_VALUE, JSON_PART_STRING, JSON_PART_NUMBER, JSON_PART_INTEGER, JSON_PART_OBJECT, JSON_PART_ARRAY, JSON_PART_CHARACTER, JSON_PART_COUNT };
struct json_parts { int32_t rule[JSON_PART_COUNT]; };
void     net_json_parts(struct net *n, struct json_parts *p);
void     net_json_character(struct net *n, uint32_t from, uint32_t to);     /* one character of a string, escaped or not */
uint32_t net_json_comma(struct net *n, uint32_t from, char mark);          /* the mark, then maybe one space */
/* The texts of `d` written as JSON strings without their quotes, in the shortest escapes. */
void     net_json_dfa(struct net *n, uint32_t from, const struct dfa *d, uint32_t to);

#endif
