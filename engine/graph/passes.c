#include "engine/graph/fuse_quantised.h"

#include <string.h>

#include "engine/graph/gpu_store.h"

enum { ALIGN_SHORT = 1 << 16 };

void graph_replace(struct graph *g, int from, int to)
{
    for (int i = 0; i < g->node_count; i++) {
        struct node *n = &g->nodes[i];
        if (n->dead) continue;
        for (int k = 0; k < n->in_count; k++) {
            if (n->in[k] != from) continue;
            n->in[k] = to;
            g->values[from].uses--;
            g->values[to].uses++;
        }
    }
}

struct node *graph_sole_producer(const struct graph *g, int v)
{
    if (v < 0 || g->values[v].uses != 1 || g->values[v].is_output || g->values[v].producer < 0) return NULL;
    struct node *n = &g->nodes[g->values[v].producer];
    for (int k = 1; k < n->out_count; k++)
        if (n->out[k] >= 0 && g->values[n->out[k]].uses) return NULL;
    return n->dead ? NULL : n;
}

struct node *graph_sole_reader(const struct graph *g, int v)
{
    if (v < 0 || g->values[v].uses != 1 || g->values[v].is_output) return NULL;
    for (int i = 0; i < g->node_count; i++)
        for (int k = 0; k < g->nodes[i].in_count && !g->nodes[i].dead; k++)
            if (g->nodes[i].in[k] == v) return &g->nodes[i];
    return NULL;
}

/* Nodes whose results nobody reads, found from the end. */
static void drop_dead(struct graph *g)
{
    for (int i = g->node_count - 1; i >= 0; i--) {
        struct node *n = &g->nodes[i];
        bool needed = n->dead;
        for (int k = 0; k < n->out_count; k++)
            if (n->out[k] >= 0 && g->values[n->out[k]].uses > 0) needed = true;
        if (needed) continue;
        n->dead = true;
        for (int k = 0; k < n->in_count; k++)
            if (n->in[k] >= 0) g->values[n->in[k]].uses--;
    }
}

enum status graph_settle(struct graph *g, struct err *err)
{
    graph_count_uses(g);
    drop_dead(g);
    return graph_sort(g, err);
}

/* A file's tensors start anywhere. The short ones, which take part in shape arithmetic, are aligned before anything reads them; the long ones when
 * it is known who reads them as they are (pack_weights). */
static enum status align_short(struct graph *g, struct err *err)
{
    for (int v = 0; v < g->value_count; v++) {
        const struct value *x = &g->values[v];
        if (x->kind == VALUE_CONSTANT && x->type.data && !x->type.splat && x->type.bytes <= ALIGN_SHORT && !graph_dense(g, v)) return err_set(err, ST_NO_MEMORY, "constant '%s' passes the model's memory budget", x->name);
    }
    return ST_OK;
}

enum status passes_run(struct graph *g, bool off, struct err *err)
{
    enum status st = align_short(g, err);
    if (!st && g->device.gpu && !g->is_body && !g->gpu) st = gpu_store_open(&g->gpu, g->device.gpu->api, g->device.gpu->gpu, g->device.gpu_float, err);
    for (struct graph *b = g->inner; b && !st; b = b->next_inner) {
        b->bf16 = g->bf16;
        b->int8 = g->int8;
        b->exact_ends = g->exact_ends;
        b->loose = g->loose;
        st = passes_run(b, off, err);
        g->packed_bytes += b->packed_bytes;
    }
    if (!st && !off) {
        if (g->int8) st = set_weights_aside(g, err);
        if (!st) st = fold_constants(g, err);
        if (!st) st = graph_settle(g, err);
        if (!st) st = probe_shapes(g, err);
        if (!st) st = fuse_attention(g, err);
        if (!st) st = graph_settle(g, err);
        if (!st) st = fuse_curves(g, err);
        if (!st) st = graph_settle(g, err);
        if (!st) st = fuse_scales(g, err);
        if (!st) st = graph_settle(g, err);
        if (!st) st = fuse_activations(g, err);
        if (!st) st = graph_settle(g, err);
        if (!st) st = probe_shapes(g, err);
        if (!st && g->int8) {
            st = fuse_quantised(g, err);
            if (!st) st = probe_shapes(g, err);
        } else if (!st) st = finish_bytes(g, err);
        if (!st && g->bf16) st = make_products(g, err);
        if (!st && g->bf16) st = graph_settle(g, err);
        if (!st) st = layout_last(g, err);
        if (!st) st = graph_settle(g, err);
        if (!st && g->bf16) {
            st = probe_shapes(g, err);
            if (!st) st = store_halves(g, err);
        }
    }
    if (!st) st = probe_shapes(g, err);
    if (!st) st = pack_weights(g, err);
    if (!st && !g->is_body) st = prove_rows(g, err);
    return st;
}
