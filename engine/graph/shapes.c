/* Running the operators' infer functions over a graph with its inputs bound to numbers, and computing what follows from shapes alone. */
#include <string.h>

#include "engine/graph/plan.h"

enum { SHAPE_DATA_MAX = 1 << 16 };      /* bytes: integer tensors beyond this are not shape arithmetic */

void call_bind(struct call *c, const struct graph *g, const struct node *n, struct operand *operands, struct operand **in, struct operand **out)
{
    *c = (struct call){ .node = n, .in = in, .out = out, .in_count = n->in_count, .out_count = n->out_count, .k = &g->device.kernels, .threads = g->device.threads };
    for (int i = 0; i < n->in_count; i++) in[i] = n->in[i] < 0 ? NULL : &operands[n->in[i]];
    for (int i = 0; i < n->out_count; i++) out[i] = n->out[i] < 0 ? NULL : &operands[n->out[i]];
}

void shapes_begin(const struct graph *g, struct operand *operands)
{
    for (int v = 0; v < g->value_count; v++) {
        operands[v] = g->values[v].type;
        if (g->values[v].kind != VALUE_CONSTANT) operands[v].data = NULL;
    }
}

/* Computes a node whose inputs are all known while planning. False: not worth it, or no room; the node then simply runs. */
static enum status compute_early(struct call *c, const struct op *op, struct arena *arena, struct err *err)
{
    uint64_t bytes = 0;
    for (int i = 0; i < c->in_count; i++)
        if (c->in[i] && ((!c->in[i]->data && !(op->flags & OP_SHAPE_ONLY)) || c->in[i]->splat || c->in[i]->channels_last || (uintptr_t)c->in[i]->data % 8)) return ST_OK;
    for (int i = 0; i < c->out_count; i++) {
        if (!c->out[i]) continue;
        if (c->out[i]->channels_last || c->out[i]->dtype == DT_STRING) return ST_OK;
        bytes += c->out[i]->bytes;
    }
    if (bytes > SHAPE_DATA_MAX || op->prepare || (op->flags & OP_DRAWS)) return ST_OK;
    uint64_t scratch = op->scratch ? op->scratch(c) : 0;
    if (scratch > SHAPE_DATA_MAX) return ST_OK;
    c->scratch = arena_alloc(arena, scratch ? scratch : 1, TENSOR_ALIGN);
    for (int i = 0; i < c->out_count; i++)
        if (c->out[i]) c->out[i]->data = arena_alloc(arena, c->out[i]->bytes ? c->out[i]->bytes : 1, TENSOR_ALIGN);
    bool room = c->scratch != NULL;
    for (int i = 0; i < c->out_count; i++) room = room && (!c->out[i] || c->out[i]->data);
    if (!room) return err_set(err, ST_NO_MEMORY, "planning passes the model's memory budget");
    return op->eval(c, err);
}

enum status shapes_infer(const struct graph *g, struct operand *operands, struct arena *arena, const atomic_bool *stop, struct err *err)
{
    struct operand *in[GRAPH_INPUTS_MAX], *out[GRAPH_INPUTS_MAX], dropped[GRAPH_INPUTS_MAX];
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        struct call c;
        bool dynamic = false;
        if (stop && atomic_load_explicit(stop, memory_order_relaxed)) return err_set(err, ST_CANCELLED, "stopped");
        call_bind(&c, g, n, operands, in, out);
        for (int k = 0; k < n->in_count; k++) dynamic = dynamic || (in[k] && in[k]->dynamic);
        for (int k = 0; k < n->out_count; k++)
            if (!out[k]) { dropped[k] = (struct operand){ 0 }; out[k] = &dropped[k]; }
        if (!dynamic) {
            enum status st = n->op->infer(&c, err);
            if (st) return st;
            dynamic = c.needs_data;
        }
        for (int k = 0; k < n->out_count; k++) {
            out[k]->dynamic = dynamic;
            if (n->out[k] < 0) out[k] = NULL;
        }
        if (dynamic) continue;
        enum status st = compute_early(&c, n->op, arena, err);
        if (st) return st;
    }
    return ST_OK;
}
