/* Running the bodies of a node. Each body has plans of its own by exact shapes, made when they are first met and kept as long as the plan of the graph around it;
 * its buffers are its own workspace, and what it finds while running lies in the arena the caller names. */
#ifndef ENGINE_OPERATORS_CONTROL_BODY_H
#define ENGINE_OPERATORS_CONTROL_BODY_H

#include "engine/graph/plan_cache.h"

struct bodies { int count; struct plan_cache caches[]; };

/* For op->prepare and op->release of operators with bodies: call->state is a struct bodies. */
enum status bodies_prepare(struct call *c, struct err *err);
void        bodies_release(void *state);
/* The index of the body of this attribute, -1: there is none. */
int         body_find(const struct call *c, const char *attribute);
/* Runs body b on `formal` (as many as it declares) and its captures. outputs[k] then point into the workspace, the arena, constants or the inputs: they hold until
 * the next run of the same body. outputs has room for GRAPH_INPUTS_MAX. */
enum status body_run(struct call *c, int b, const struct operand *formal, int formal_count, struct arena *run, struct operand *outputs, int *output_count, struct err *err);

/* Results of a loop put behind each other: [n, ...]; memory of the run. */
struct stack { struct operand one; int64_t count, room; char *data; };
enum status stack_push(struct stack *s, struct call *c, const struct operand *item, struct err *err);
/* The result as output i, the stacked dimension at `axis`, in reverse order if so. An empty stack has shape [0]. */
enum status stack_finish(struct stack *s, struct call *c, int i, int64_t axis, bool reverse, struct err *err);

#endif
