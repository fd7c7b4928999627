/* Products of many rows in a graph in bfloat16 become TallProduct nodes (operators/nn/tall_product.h), which run on tiles, or as convolutions in bfloat16 do, take and give numbers that are bfloat16 already, and
 * take the sum with another value of the same shape along. Few rows (a classifier's last layer) stay MatMul or Gemm: their weights are read once and kept as rows want them.
 *
 * A transposed convolution whose windows do not overlap is such a product, too: it becomes a Spread node (operators/nn/spread.h), and takes the concatenation behind it along, which a U-Net has there. */
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/nn/spread.h"
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

/* The Add that alone reads v, of v and another value of its shape; NULL: none. *other is that value. */
static struct node *find_sum(const struct graph *g, int v, int *other)
{
    struct node *n = graph_sole_reader(g, v);
    if (!node_is(n, "Add") || n->in_count != 2) return NULL;
    *other = n->in[n->in[0] == v];
    return !value_is_constant(g, *other) && probe_same_shape(g, v, *other) && probe_same_shape(g, v, n->out[0]) ? n : NULL;
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
    struct node *sum = n->act.kind == ACT_NONE ? find_sum(g, n->out[0], &other) : NULL;
    if (!sum || follows(g, other, at)) return true;
    n->in_count = 4;
    n->in[3] = other;
    n->residual = 3;
    n->out[0] = sum->out[0];
    g->values[n->out[0]].producer = at;
    sum->dead = true;
    return true;
}

static bool all_are(const struct node *n, const char *name, int64_t want, int count)
{
    int have;
    const int64_t *a = node_ints(n, name, &have);
    for (int k = 0; a && k < have; k++)
        if (a[k] != want) return false;
    return !a || have == count;
}

static bool spread_suits(const struct graph *g, const struct node *n, struct spread_spec *s)
{
    int count;
    if (!node_is(n, "ConvTranspose") || n->act.kind != ACT_NONE || n->residual >= 0 || !columns_packable(g, n) || node_int(n, "group", 1) != 1 || node_attribute(n, "output_shape") || !node_text_is(n, "auto_pad", "NOTSET", true)) return false;
    const struct operand *w = &g->values[n->in[1]].type, *b = n->in_count > 2 && n->in[2] >= 0 ? &g->values[n->in[2]].type : NULL;
    const int64_t *strides = node_ints(n, "strides", &count);
    if (w->rank != 4 || !strides || count != 2 || strides[0] != w->dims[2] || strides[1] != w->dims[3] || w->dims[2] > 16 || w->dims[3] > 16) return false;
    if (!all_are(n, "pads", 0, 4) || !all_are(n, "dilations", 1, 2) || !all_are(n, "output_padding", 0, 2) || !is_float(g, n->in[0]) || !probe_known(g, n->out[0])) return false;
    if (b && (!value_is_constant(g, n->in[2]) || b->dtype != DT_F32 || b->rank != 1 || b->dims[0] != w->dims[1])) return false;
    *s = (struct spread_spec){ .in_c = w->dims[0], .out_c = w->dims[1], .kh = (int)w->dims[2], .kw = (int)w->dims[3] };
    return true;
}

/* The concatenation along the channels that alone reads v, of v and one other picture; NULL: none. */
static struct node *find_join(const struct graph *g, int v, int *other)
{
    struct node *n = graph_sole_reader(g, v);
    if (!node_is(n, "Concat") || n->in_count != 2) return NULL;
    *other = n->in[n->in[0] == v];
    const int64_t axis = node_int(n, "axis", 1);
    if (value_is_constant(g, *other) || !is_float(g, *other) || (axis != 1 && axis != -3)) return NULL;
    for (int k = 0; k < 2; k++) {
        const struct operand *a = &g->values[v].probe[k], *b = &g->values[*other].probe[k];
        if (a->rank != 4 || b->rank != 4 || a->dims[0] != b->dims[0] || a->dims[2] != b->dims[2] || a->dims[3] != b->dims[3]) return NULL;
    }
    return n;
}

static bool make_spread(struct graph *g, int at)
{
    struct node *n = &g->nodes[at];
    struct spread_spec spec, *s;
    int other;
    if (!spread_suits(g, n, &spec)) return true;
    int *in = arena_alloc(g->arena, 4 * sizeof *in, 8);
    s = arena_alloc(g->arena, sizeof *s, 16);
    if (!in || !s) return false;
    for (int k = 0; k < 4; k++) in[k] = k < n->in_count ? n->in[k] : -1;
    struct node *join = find_join(g, n->out[0], &other);
    if (join && !follows(g, other, at)) {
        in[SPREAD_BESIDE] = other;
        spec.join = join->in[0] == other ? SPREAD_BEHIND : SPREAD_BEFORE;
        n->out[0] = join->out[0];
        g->values[n->out[0]].producer = at;
        join->dead = true;
    }
    *s = spec;
    n->op = &op_spread;
    n->opset = 1;
    n->attribute_count = 0;
    n->spec = s;
    n->in = in;
    n->in_count = spec.join ? 4 : 3;
    return true;
}

enum status make_products(struct graph *g, struct err *err)
{
    if (!g->device.kernels.bf16) return ST_OK;
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && g->nodes[i].out_count == 1 && g->nodes[i].out[0] >= 0 && (!make_product(g, i) || !make_spread(g, i))) return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
    return ST_OK;
}
