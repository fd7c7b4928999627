/* Which values are stored channels last. Convolutions take and give channels last; what follows keeps it as long as its operator can (OP_LAST);
 * everything else gets plain order through a Reorder node, made once for each value. Inputs and outputs of the graph are plain. */
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/nn/spread.h"
#include "engine/operators/operators.h"

struct layout { struct graph *g; int *other; int other_count; bool failed; };     /* other[v]: v in the other order, -1 */

static int rank_of(const struct graph *g, int v)
{
    if (value_is_constant(g, v)) return g->values[v].type.rank;
    return probe_known(g, v) ? g->values[v].probe[0].rank : -1;
}

/* v in the order that is wanted, through a Reorder if need be. */
static int in_order(struct layout *l, int v, bool last)
{
    struct graph *g = l->g;
    if (v < 0 || g->values[v].type.channels_last == last || rank_of(g, v) < 3) return v;
    if (v < l->other_count && l->other[v] >= 0) return l->other[v];
    int id = graph_add_value(g, g->values[v].name, VALUE_NODE);
    struct node *n = id < 0 ? NULL : graph_add_node(g, 1, 1);
    if (!n) { l->failed = true; return v; }
    n->op = &op_reorder;
    n->name = g->values[v].name;
    n->opset = 1;
    n->in[0] = v;
    n->out[0] = id;
    struct value *y = &g->values[id], *x = &g->values[v];
    y->probe[0] = x->probe[0];
    y->probe[1] = x->probe[1];
    y->type.channels_last = last;
    if (v < l->other_count) l->other[v] = id;
    return id;
}

/* The node's result k is channels last. A graph output keeps its plain name: the node makes a new value, a Reorder turns it. */
static void make_last(struct layout *l, int node, int k)
{
    struct graph *g = l->g;
    int v = g->nodes[node].out[k];
    if (v < 0) return;
    if (!g->values[v].is_output) {
        g->values[v].type.channels_last = true;
        return;
    }
    int id = graph_add_value(g, g->values[v].name, VALUE_NODE);
    struct node *n = id < 0 ? NULL : graph_add_node(g, 1, 1);
    if (!n) { l->failed = true; return; }
    g->values[id].type.channels_last = true;
    g->values[id].probe[0] = g->values[v].probe[0];
    g->values[id].probe[1] = g->values[v].probe[1];
    g->nodes[node].out[k] = id;
    n->op = &op_reorder;
    n->name = g->values[v].name;
    n->opset = 1;
    n->in[0] = id;
    n->out[0] = v;
    if (v < l->other_count) l->other[v] = id;
}

static void set_input(struct layout *l, int node, int k, bool last)
{
    int v = in_order(l, l->g->nodes[node].in[k], last);       /* may move the node table */
    l->g->nodes[node].in[k] = v;
}

/* May this node run channels last, and does an input come so? */
static bool goes_last(const struct graph *g, const struct node *n)
{
    if (!(n->op->flags & OP_LAST) || n->out[0] < 0) return false;
    int rank = rank_of(g, n->out[0]);
    bool many = n->op->flags & OP_BROADCAST || strcmp(n->op->name, "Concat") == 0, comes = false;
    if (rank < 3 || rank_of(g, n->in[0]) < 0) return false;
    if (!many && !(n->op->flags & (OP_UNARY | OP_BYTES)) && g->values[n->in[0]].probe[0].dtype != DT_F32) return false;      /* what is computed in double knows plain order only */
    if (strcmp(n->op->name, "MaxPool") == 0 && n->out_count > 1 && n->out[1] >= 0) return false;
    if (!many && rank_of(g, n->in[0]) != rank) return false;
    for (int k = 0; k < (many ? n->in_count : 1); k++) {
        if (n->in[k] < 0 || rank_of(g, n->in[k]) < 0) return false;
        comes = comes || g->values[n->in[k]].type.channels_last;
    }
    return comes;
}

static void lay_node(struct layout *l, int i)
{
    struct graph *g = l->g;
    struct node *n = &g->nodes[i];
    unsigned flags = n->op->flags;
    int ins = n->in_count, outs = n->out_count;
    if (flags & OP_SHAPE_ONLY) return;
    if (n->op == &op_spread) {
        set_input(l, i, 0, true);
        if (ins > SPREAD_BESIDE) set_input(l, i, SPREAD_BESIDE, true);
        make_last(l, i, 0);
        return;
    }
    if (flags & OP_WANTS_LAST) {
        bool last = (n->op->flags & OP_BYTES || conv_packable(g, n) || columns_packable(g, n)) && rank_of(g, n->in[0]) >= 3;
        set_input(l, i, 0, last);
        if (g->nodes[i].residual >= 0) set_input(l, i, g->nodes[i].residual, last);
        if (last) make_last(l, i, 0);
        return;
    }
    if (goes_last(g, n)) {
        int rank = rank_of(g, n->out[0]);
        bool concat = strcmp(n->op->name, "Concat") == 0, broadcast = (flags & OP_BROADCAST) != 0;
        for (int k = 0; k < ins; k++) {
            int v = g->nodes[i].in[k];
            if (v < 0) continue;
            bool whole = rank_of(g, v) == rank && (k == 0 || concat || broadcast) && (concat || !value_is_constant(g, v));
            set_input(l, i, k, whole);
        }
        for (int k = 0; k < outs; k++) make_last(l, i, k);
        return;
    }
    for (int k = 0; k < ins; k++)
        if (!(flags & OP_READS_LAST) || k > 0) set_input(l, i, k, false);
}

enum status layout_last(struct graph *g, struct err *err)
{
    struct layout l = { .g = g, .other_count = g->value_count };
    l.other = arena_alloc(g->arena, ((uint64_t)g->value_count + 1) * sizeof *l.other, 8);
    if (!l.other) return err_set(err, ST_NO_MEMORY, "the layout pass passes the model's memory budget");
    for (int v = 0; v < g->value_count; v++) l.other[v] = -1;
    int count = g->node_count;
    for (int i = 0; i < count && !l.failed; i++)
        if (!g->nodes[i].dead) lay_node(&l, i);
    return l.failed ? err_set(err, ST_NO_MEMORY, "the layout pass passes the model's memory budget") : ST_OK;
}
