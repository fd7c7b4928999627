/* Running the operators' infer functions over a graph with its inputs bound to numbers, and computing what follows from shapes alone. */
#include <string.h>

#include "base/checked.h"

#include "engine/graph/plan.h"
#include "engine/operators/nn/attend.h"

enum { SHAPE_DATA_MAX = 1 << 16, SHAPE_WORK_MAX = 1 << 22 };      /* bytes and steps: what is beyond is not shape arithmetic */

void call_bind(struct call *c, const struct graph *g, const struct node *n, struct operand *operands, struct operand **in, struct operand **out)
{
    *c = (struct call){ .node = n, .in = in, .out = out, .in_count = n->in_count, .out_count = n->out_count, .k = &g->device.kernels, .llm = &g->device.llm, .diffusion = &g->device.diffusion, .threads = g->device.threads };
    for (int i = 0; i < n->in_count; i++) in[i] = n->in[i] < 0 ? NULL : &operands[n->in[i]];
    for (int i = 0; i < n->out_count; i++) out[i] = n->out[i] < 0 ? NULL : &operands[n->out[i]];
}

static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t r;
    return size_mul(a, b, &r) ? r : UINT64_MAX;
}

/* Operators whose sums run over whole inputs: a bound, not an estimate. */
static uint64_t work_of_products(const struct call *c)
{
    bool all = (c->node->op->flags & OP_PRODUCT_ALL) != 0;
    uint64_t in = 1, out = 0;
    for (int k = 0; k < c->in_count; k++) {
        uint64_t n = c->in[k] ? operand_count(c->in[k]) : 1;
        in = all ? times(in, n) : n > in ? n : in;
    }
    for (int k = 0; k < c->out_count; k++)
        if (c->out[k] && !c->out[k]->dynamic && !size_add(out, operand_count(c->out[k]), &out)) return UINT64_MAX;
    return all ? (c->in_count > 1 ? in : times(in, in)) : times(in, out);
}

uint64_t call_work(const struct call *c)
{
    const char *name = c->node->op->name;
    if (c->node->row_work && c->in[0]->rank) {      /* rows: all dimensions but the last */
        const struct operand *x = c->in[0];
        uint64_t last = x->rank > 1 && x->dims[x->rank - 1] > 0 ? (uint64_t)x->dims[x->rank - 1] : 1;
        return times(operand_count(x) / last, c->node->row_work);
    }
    if (c->node->op == &op_attend) return attend_work(c);
    if (c->node->op->flags & (OP_PRODUCT | OP_PRODUCT_ALL)) return work_of_products(c);
    uint64_t work = 0, each = 1;
    int n;
    const int64_t *kernel = node_ints(c->node, "kernel_shape", &n);
    for (int k = 0; kernel && k < n; k++) each = times(each, kernel[k] > 0 ? (uint64_t)kernel[k] : 1);
    if (c->node->op->flags & OP_WANTS_LAST && c->in[1] && c->in[1]->dims[0] > 0) each = operand_count(c->in[1]) / (uint64_t)c->in[1]->dims[0];
    else if (strcmp(name, "Gemm") == 0 && c->in[0]->rank == 2) each = (uint64_t)c->in[0]->dims[node_int(c->node, "transA", 0) == 0];
    else if (strcmp(name, "Spread") == 0) each = (uint64_t)c->in[0]->dims[1];
    else if ((strcmp(name, "MatMul") == 0 || strcmp(name, "TallProduct") == 0) && c->in[0]->rank > 0) each = (uint64_t)c->in[0]->dims[c->in[0]->rank - 1];
    else if (strcmp(name, "LRN") == 0) each = (uint64_t)node_int(c->node, "size", 1);
    else if (strcmp(name, "Resize") == 0 || strcmp(name, "Upsample") == 0) each = (uint64_t)1 << c->in[0]->rank;
    for (int k = 0; k < c->in_count; k++)
        if (c->in[k]) work += operand_count(c->in[k]);
    if (c->node->op->flags & OP_MAKES) return work;
    for (int k = 0; k < c->out_count; k++) {
        uint64_t more = c->out[k] && !c->out[k]->dynamic ? times(operand_count(c->out[k]), each) : 0;
        if (!size_add(work, more, &work)) return UINT64_MAX;
    }
    return work;
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
    for (int i = 0; i < c->in_count && !(op->flags & OP_SHAPE_ONLY); i++) {
        const struct operand *x = c->in[i];
        if (x && (!x->data || x->splat || x->channels_last || (uintptr_t)x->data % 8)) return ST_OK;
    }
    for (int i = 0; i < c->out_count; i++) {
        if (!c->out[i]) continue;
        if (c->out[i]->channels_last || c->out[i]->dtype == DT_STRING) return ST_OK;
        bytes += c->out[i]->bytes;
    }
    if (op->flags & OP_MAKES) return ST_OK;
    if (bytes > SHAPE_DATA_MAX || call_work(c) > SHAPE_WORK_MAX || op->prepare || (op->flags & OP_DRAWS)) return ST_OK;
    uint64_t scratch = op->scratch ? op->scratch(c) : 0;
    if (scratch > SHAPE_DATA_MAX) return ST_OK;
    c->scratch = arena_alloc(arena, scratch ? scratch : 1, TENSOR_ALIGN);
    for (int i = 0; i < c->out_count; i++)
        if (c->out[i]) c->out[i]->data = arena_alloc(arena, c->out[i]->bytes ? c->out[i]->bytes : 1, TENSOR_ALIGN);
    bool room = c->scratch != NULL;
    for (int i = 0; i < c->out_count; i++) room = room && (!c->out[i] || c->out[i]->data);
    if (!room) return err_set(err, ST_NO_MEMORY, "planning passes the model's memory budget");
    c->run = arena;
    return op->eval(c, err);
}

/* An operator that makes its results itself may do so at once when it looks at little that is all known: NonZero of a constant, say. */
static enum status make_early(struct call *c, struct arena *arena, bool *made, struct err *err)
{
    uint64_t bytes = 0;
    *made = false;
    if (c->node->body_count || c->node->op->prepare || c->node->op->flags & OP_DRAWS) return ST_OK;
    for (int i = 0; i < c->in_count; i++) {
        const struct operand *x = c->in[i];
        if (!x) continue;
        if (!x->data || x->splat || (uintptr_t)x->data % 8 || x->dtype == DT_STRING) return ST_OK;
        bytes += x->bytes;
    }
    if (bytes > SHAPE_DATA_MAX || c->in_count == 0) return ST_OK;
    c->run = arena;
    enum status st = c->node->op->eval(c, err);
    *made = !st;
    return st;
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
        bool makes = (n->op->flags & OP_MAKES) != 0, made = false;
        if (!dynamic) {
            enum status st = makes ? make_early(&c, arena, &made, err) : n->op->infer(&c, err);
            if (st) return st;
            dynamic = makes ? !made : c.needs_data;
        }
        for (int k = 0; k < n->out_count; k++) {
            out[k]->dynamic = dynamic;
            if (n->out[k] < 0) out[k] = NULL;
        }
        if (dynamic || makes) continue;
        enum status st = compute_early(&c, n->op, arena, err);
        if (st) return st;
    }
    return ST_OK;
}
