/* Constant folding, charged to the model's budget. A uniform fill stays a splat: one element, whatever its shape. A result that would grow or
 * cost a lot is left to run time, where it lives for one run only. Identity, inference-time Dropout and a Pad by nothing go, too. */
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/graph/plan.h"
#include "engine/operators/operators.h"

enum { FOLD_GROWTH_MIN = 16 << 20, FOLD_GROWTH = 4, FOLD_WORK_MAX = 1 << 30 };

static enum status no_memory(const struct node *n, struct err *err)
{
    return err_set(err, ST_NO_MEMORY, "folding node '%s' (%s) passes the model's memory budget", n->name, n->op->name);
}

static bool all_constant(const struct graph *g, const struct node *n)
{
    for (int k = 0; k < n->in_count; k++)
        if (n->in[k] >= 0 && (!value_is_constant(g, n->in[k]) || !g->values[n->in[k]].type.data)) return false;
    return !(n->op->flags & (OP_DRAWS | OP_MAKES));
}

static bool costs_too_much(const struct call *c)
{
    uint64_t in = 0, out = 0;
    for (int k = 0; k < c->in_count; k++) in += c->in[k] ? c->in[k]->bytes : 0;
    for (int k = 0; k < c->out_count; k++) out += c->out[k]->bytes;
    return (out > FOLD_GROWTH_MIN && out / FOLD_GROWTH > in) || call_work(c) > FOLD_WORK_MAX;
}

/* Makes the outputs of a call constants: by a splat, a view, or the operator itself. */
static enum status compute(struct graph *g, struct node *n, struct call *c, struct err *err)
{
    struct operand *y = c->out[0];
    bool view = n->op->flags & OP_VIEW && n->out_count == 1;
    if (view && c->in[0]->splat) {
        y->data = c->in[0]->data;
        y->splat = true;
        return ST_OK;
    }
    bool fill = strcmp(n->op->name, "ConstantOfShape") == 0;
    if (!fill && costs_too_much(c)) return ST_UNAVAILABLE;
    for (int k = 0; k < n->in_count; k++)
        if (n->in[k] >= 0 && !view) {
            if (!graph_dense(g, n->in[k])) return no_memory(n, err);
            *c->in[k] = g->values[n->in[k]].type;
        }
    if (view) {
        y->data = c->in[0]->data;
        return ST_OK;
    }
    y->splat = fill && y->bytes;
    for (int k = 0; k < n->out_count; k++) {
        uint64_t bytes = c->out[k]->splat ? 16 : c->out[k]->bytes;
        c->out[k]->data = arena_alloc(g->arena, bytes ? bytes : 1, TENSOR_ALIGN);
        if (!c->out[k]->data) return no_memory(n, err);
    }
    uint64_t scratch = n->op->scratch ? n->op->scratch(c) : 0;
    if (scratch && !(c->scratch = arena_alloc(g->arena, scratch, TENSOR_ALIGN))) return no_memory(n, err);
    return n->op->eval(c, err);
}

static enum status fold_node(struct graph *g, struct node *n, struct err *err)
{
    struct operand ins[GRAPH_INPUTS_MAX], outs[GRAPH_INPUTS_MAX], *in[GRAPH_INPUTS_MAX], *out[GRAPH_INPUTS_MAX];
    struct call c = { .node = n, .in = in, .out = out, .in_count = n->in_count, .out_count = n->out_count, .k = &g->device.kernels, .threads = 1, .run = g->arena };
    for (int k = 0; k < n->in_count; k++) {
        in[k] = n->in[k] < 0 ? NULL : &ins[k];
        if (in[k]) ins[k] = g->values[n->in[k]].type;
    }
    for (int k = 0; k < n->out_count; k++) {
        outs[k] = (struct operand){ 0 };
        out[k] = &outs[k];
    }
    enum status st = n->op->infer(&c, err);
    if (st || c.needs_data) return st;
    st = compute(g, n, &c, err);
    if (st) return st == ST_UNAVAILABLE ? ST_OK : st;
    for (int k = 0; k < n->out_count; k++) {
        if (n->out[k] < 0) continue;
        struct value *v = &g->values[n->out[k]];
        v->kind = VALUE_CONSTANT;
        v->type = outs[k];
    }
    n->dead = true;
    return ST_OK;
}

/* A Pad whose pads are all 0, as exporters put before every pooling. */
static bool pads_nothing(const struct graph *g, const struct node *n)
{
    int count = 0;
    if (strcmp(n->op->name, "Pad")) return false;
    if (n->opset < 11) {
        const int64_t *pads = node_ints(n, n->opset < 2 ? "paddings" : "pads", &count);
        while (count > 0 && pads[count - 1] == 0) count--;
        return count == 0;
    }
    if (n->in_count < 2 || !value_is_constant(g, n->in[1])) return false;
    const struct operand *o = &g->values[n->in[1]].type;
    const uint8_t *bytes = o->data;
    uint64_t size = o->splat ? (uint64_t)operand_size(o) : o->bytes;
    while (size > 0 && bytes[size - 1] == 0) size--;
    return size == 0;
}

static bool is_identity(const struct graph *g, const struct node *n)
{
    bool dropout = strcmp(n->op->name, "Dropout") == 0 && (n->out_count < 2 || n->out[1] < 0) && (n->in_count < 3 || n->in[2] < 0);
    return strcmp(n->op->name, "Identity") == 0 || dropout || pads_nothing(g, n);
}

enum status fold_constants(struct graph *g, struct err *err)
{
    for (int i = 0; i < g->node_count; i++) {
        struct node *n = &g->nodes[i];
        for (int k = 1; k < n->out_count; k++)            /* results that nobody reads need not be made */
            if (n->out[k] >= 0 && g->values[n->out[k]].uses == 0) n->out[k] = -1;
        if (n->dead || n->out[0] < 0 || value_is_constant(g, n->out[0])) continue;      /* set aside by fuse_quantised.c */
        if (all_constant(g, n) && !n->op->prepare) {
            enum status st = fold_node(g, n, err);
            if (st) return st;
            continue;
        }
        if (!is_identity(g, n) || n->in[0] < 0 || g->values[n->out[0]].is_output) continue;
        graph_replace(g, n->out[0], n->in[0]);
        n->dead = true;
    }
    return ST_OK;
}
