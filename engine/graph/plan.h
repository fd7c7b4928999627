/* A plan is a graph laid out for one exact set of input shapes: every shape known, every buffer placed in one workspace, every kernel call
 * prepared. Running it takes nothing from the heap by our own code. One plan is used by one thread at a time; the workspace is shared by the
 * plans of an instance, since only one of them runs. */
#ifndef ENGINE_GRAPH_PLAN_H
#define ENGINE_GRAPH_PLAN_H

#include <stdatomic.h>

#include "engine/graph/graph.h"

/* ---- shapes ---- */
/* operands[value_count]: constants and inputs filled by the caller, everything else found here. What follows from shapes alone is computed into
 * `arena`. A node whose shape depends on data, and all behind it, are marked dynamic. */
enum status shapes_infer(const struct graph *g, struct operand *operands, struct arena *arena, const atomic_bool *stop, struct err *err);
void        shapes_begin(const struct graph *g, struct operand *operands);        /* constants, layouts; inputs get dtype and declared dims */
/* Points the call at its operands; in and out hold at least in_count and out_count pointers. */
void        call_bind(struct call *c, const struct graph *g, const struct node *n, struct operand *operands, struct operand **in, struct operand **out);

/* About how many elements and products the call touches; UINT64_MAX when that does not fit. */
uint64_t    call_work(const struct call *c);

/* ---- plans ---- */
struct plan;

struct plan_step_info { const struct node *node; const char *kernel; uint64_t ns; const struct operand *out; };

/* inputs[g->input_count]: dtype and dims of each. */
enum status plan_open(struct plan **out, const struct graph *g, const struct operand *inputs, uint64_t memory_max, struct err *err);
void        plan_close(struct plan *p);
uint64_t    plan_workspace(const struct plan *p);                 /* bytes it needs of the workspace, input copies included */
uint64_t    plan_memory(const struct plan *p);                    /* bytes it holds itself */
uint64_t    plan_work(const struct plan *p);                      /* call_work of all steps whose shapes are known */
bool        plan_is_dynamic(const struct plan *p);                /* some shapes are found while running */
/* Where input k is put when rows are gathered; valid after plan_bind. */
void       *plan_input_buffer(const struct plan *p, int k);
/* Points everything at the workspace; cheap when nothing changed. */
void        plan_bind(struct plan *p, void *workspace);
/* On a GPU: what a plan needs there, and where it finds it; after plan_bind. */
struct gpu_queue;
struct plan_site { struct gpu_queue *queue; char *memory; uint64_t bytes; char *state /* where the graph's input that outlives steps lies on the device; NULL: it has none */; };
uint64_t    plan_site_bytes(const struct plan *p);                /* 0: nothing of it runs there */
void        plan_bind_site(struct plan *p, const struct plan_site *site);
/* Runs with input k at data[k] (aligned to TENSOR_ALIGN, only read). ST_CANCELLED when the stop flag was seen. What a dynamic plan needs on top comes from `run`. */
enum status plan_run(struct plan *p, void *const *data, struct arena *run, const atomic_bool *stop, struct err *err);
const struct operand *plan_output(const struct plan *p, int k);   /* after a run: dims and data of graph output k, plain order */
int         plan_steps(const struct plan *p, struct plan_step_info *info, int max);   /* ns: of the last run, when timing is on */
void        plan_time(struct plan *p, bool on);

#endif
