/* A plan from the inside, for plan.c and plan_gpu.c. */
#ifndef ENGINE_GRAPH_PLAN_INTERNAL_H
#define ENGINE_GRAPH_PLAN_INTERNAL_H

#include "engine/graph/plan.h"

enum place { PLACE_NONE, PLACE_KNOWN, PLACE_INPUT, PLACE_WORK, PLACE_DYNAMIC };

struct buffer { enum place place; uint64_t offset, bytes; int input, last; };

struct step {
    const struct node *node;
    struct call call;
    uint64_t scratch_offset, scratch_bytes;
    uint64_t ns;
    bool dynamic, view;
};

struct plan {
    const struct graph *graph;
    struct arena    arena;
    struct operand *operands;
    struct buffer  *buffers;          /* one for each value; only roots are in use */
    int            *root;             /* value -> value that owns its buffer */
    struct step    *steps; int step_count;
    uint64_t       *input_copy;       /* offsets */
    int           **bound;            /* values that follow input k, ended by -1 */
    uint64_t        workspace;
    char           *base;
    bool            dynamic, timed;
    struct plan_gpu *gpu;             /* NULL: every step runs on the CPU */
};

/* The value that owns v's buffer; chains are shortened on the way. */
int         plan_root(const struct plan *p, int v);
enum status plan_run_step(struct plan *p, struct step *s, struct arena *run, const atomic_bool *stop, struct err *err);

#endif
