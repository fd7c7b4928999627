/* Products of many rows in a graph in bfloat16 become TallProduct nodes (operators/nn/tall_product.h), which run on tiles as convolutions do, take and give numbers that are bfloat16 already, and
 * take the sum with another value of the same shape along. Few rows (a classifier's last layer) stay MatMul or Gemm: their weights are read once and kept as rows want them. */
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/nn/tall_product.h"
#include "kernels/conv.h"

enum { ROWS_MIN = 16 };      /* of each row of the batch */

static bool is_float(const struct graph *g, int v) { return probe_known(g, v) && g->values[v].probe[0].dtype == DT_F32; }

/* Rows of a product for each row of the batch. */
static int64_t rows_each(const struct graph *g, const struct node *n)
{
    int64_t rows[2], batch[2];
    for (int k = 0; k < 2; k++) {
        const struct operand *x = &g->values[n->in[0]].probe[k];
        rows[k] = x->rank && x->dims[x->rank - 1] > 0 ? (int64_t)operand_count(x) / x->dims[x->rank - 1] : 0;
        batch[k] = k ? 5 : 3;
    }
    return rows[0] == rows[1] ? rows[0] : (rows[1] - rows[0]) / (batch[1] - batch[0]);
}

static bool product_suits(const struct graph *g, const struct node *n, struct tall_product_spec *s)
{
    const bool gemm = node_is(n, "Gemm");
    if (!gemm_is_plain(g, n) || (gemm && node_int(n, "transA", 0)) || !is_float(g, n->in[0]) || g->values[n->in[0]].probe[0].rank < 2) return false;
    if (n->act.kind != ACT_NONE && !conv_takes_activation(n->act)) return false;
    const struct operand *w = &g->values[n->in[1]].type;
    s->turned = gemm && node_int(n, "transB", 0);
    s->k = w->dims[s->turned];
    s->n = w->dims[!s->turned];
    return rows_each(g, n) >= ROWS_MIN;
}

/* The Add that alone reads v, of v and another value of its shape; -1: none. *other is that value. */
static int find_sum(const struct graph *g, int v, int *other)
{
    if (g->values[v].uses != 1 || g->values[v].is_output) return -1;
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        if (n->dead || !node_is(n, "Add") || n->in_count != 2 || (n->in[0] != v && n->in[1] != v)) continue;
        *other = n->in[n->in[0] == v];
        return *other != v && !value_is_constant(g, *other) && probe_same_shape(g, v, *other) && probe_same_shape(g, v, n->out[0]) ? i : -1;
    }
    return -1;
}

/* Does v follow from what node `from` makes? The sum must not be one that waits for the product. */
static bool follows(const struct graph *g, int v, int from) { return g->values[v].kind == VALUE_NODE && g->values[v].producer > from; }

static bool make_product(struct graph *g, int at)
{
    struct node *n = &g->nodes[at];
    struct tall_product_spec spec, *s;
    if (!product_suits(g, n, &spec)) return true;
    int *in = arena_alloc(g->arena, 4 * sizeof *in, 8), other;
    s = arena_alloc(g->arena, sizeof *s, 16);
    if (!in || !s) return false;
    *s = spec;
    for (int k = 0; k < 4; k++) in[k] = k < n->in_count ? n->in[k] : -1;
    n->op = &op_tall_product;
    n->opset = 1;
    n->attribute_count = 0;
    n->spec = s;
    n->in = in;
    const int sum = n->act.kind == ACT_NONE ? find_sum(g, n->out[0], &other) : -1;
    if (sum < 0 || follows(g, other, at)) return true;
    n->in_count = 4;
    n->in[3] = other;
    n->residual = 3;
    n->out[0] = g->nodes[sum].out[0];
    g->values[n->out[0]].producer = at;
    g->nodes[sum].dead = true;
    return true;
}

enum status make_products(struct graph *g, struct err *err)
{
    if (g->device.kernels.level < CPU_AMX) return ST_OK;
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && g->nodes[i].out_count == 1 && g->nodes[i].out[0] >= 0 && !make_product(g, i)) return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
    return ST_OK;
}
