/* Attention out of its parts (a product of queries and keys, a scale, a mask that is added or chooses, a softmax over the keys and the product with the values), and the operator
 * Attention of opset 23 and later, become one node (operators/nn/attend.h), which keeps no matrix of scores and reads through the transposes that exporters write around it. Scores that
 * anything else reads, or that are an output themselves, are left alone, and so is a scale behind a mask. Transposes die for want of readers. com.microsoft's Attention is cut into its
 * projection and a MultiHeadAttention. */
#include <math.h>
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/nn/attend.h"

/* What was found on the way from the softmax up to the product of queries and keys. */
struct chain { const struct node *product; double scale; bool scaled; int mask_count, masks[ATTENTION_MASKS]; enum attend_mask_kind kinds[ATTENTION_MASKS]; float unseen[ATTENTION_MASKS]; };

static int rank_of(const struct graph *g, int v) { return probe_known(g, v) ? g->values[v].probe[0].rank : -1; }
static bool is_float(const struct graph *g, int v) { return probe_known(g, v) && g->values[v].probe[0].dtype == DT_F32; }

static bool number_of(const struct graph *g, int v, float *x)
{
    if (!value_is_constant(g, v) || g->values[v].type.dtype != DT_F32 || !g->values[v].type.data) return false;
    if (operand_count(&g->values[v].type) != 1 && !g->values[v].type.splat) return false;
    memcpy(x, g->values[v].type.data, 4);
    return true;
}

/* Is n another value times one number? */
static bool scales(const struct graph *g, const struct node *n, int *other, double *by)
{
    float x;
    const bool divides = node_is(n, "Div");
    if ((!divides && !node_is(n, "Mul")) || n->in_count != 2 || n->opset < 7) return false;
    for (int side = 1; side >= divides; side--) {
        if (!number_of(g, n->in[side], &x) || !probe_same_shape(g, n->in[!side], n->out[0])) continue;
        *other = n->in[!side];
        *by = divides ? 1 / (double)x : (double)x;
        return true;
    }
    return false;
}

/* All dimensions of the mask but the last broadcast to those of scores of so many dimensions. */
static bool mask_broadcasts(const struct operand *m, const int64_t *scores, int rank)
{
    if (m->rank < 1 || m->rank > rank) return false;
    for (int d = 0; d < m->rank - 1; d++)
        if (m->dims[d] != 1 && m->dims[d] != scores[rank - m->rank + d]) return false;
    return true;
}

/* The mask broadcasts to the scores but is as long as the keys, whatever the batch. */
static bool mask_suits(const struct graph *g, int mask, int scores, enum dtype t)
{
    if (!probe_known(g, mask) || !probe_known(g, scores)) return false;
    for (int k = 0; k < 2; k++) {
        const struct operand *m = &g->values[mask].probe[k], *s = &g->values[scores].probe[k];
        if (m->dtype != t || !mask_broadcasts(m, s->dims, s->rank) || m->dims[m->rank - 1] != s->dims[s->rank - 1]) return false;
    }
    return true;
}

static bool find_product(const struct graph *g, int v, struct chain *c);

/* n masks the scores `scores`; whatever else is wrong with this reading ends it. */
static bool find_masked(const struct graph *g, const struct node *n, int scores, int mask, enum attend_mask_kind kind, float unseen, struct chain *c)
{
    struct chain more = *c;
    if (more.mask_count == ATTENTION_MASKS || more.scaled || !probe_same_shape(g, scores, n->out[0]) || !mask_suits(g, mask, scores, kind == ATTEND_ADD ? DT_F32 : DT_BOOL)) return false;
    more.masks[more.mask_count] = mask;
    more.kinds[more.mask_count] = kind;
    more.unseen[more.mask_count++] = unseen;
    if (!find_product(g, scores, &more)) return false;
    *c = more;
    return true;
}

static bool find_product(const struct graph *g, int v, struct chain *c)
{
    const struct node *n = graph_sole_producer(g, v);
    int other;
    double by;
    float x;
    if (node_is(n, "MatMul")) {
        c->product = n;
        return true;
    }
    if (n && scales(g, n, &other, &by)) {
        c->scale *= by;
        c->scaled = true;
        return find_product(g, other, c);
    }
    if (node_is(n, "Add") && n->in_count == 2 && n->opset >= 7)
        return find_masked(g, n, n->in[0], n->in[1], ATTEND_ADD, 0, c) || find_masked(g, n, n->in[1], n->in[0], ATTEND_ADD, 0, c);
    if (!node_is(n, "Where")) return false;
    if (number_of(g, n->in[2], &x)) return find_masked(g, n, n->in[1], n->in[0], ATTEND_SEEN, x, c);
    return number_of(g, n->in[1], &x) && find_masked(g, n, n->in[2], n->in[0], ATTEND_HIDDEN, x, c);
}

/* Goes up from v through transposes and numbers it is multiplied by, as far as a tensor whose last dimension is the one that dimension rank - 1 of `at` says. */
static bool find_source(const struct graph *g, int *v, int rank, int8_t *at, double *scale)
{
    int now = *v, count;
    int8_t order[ATTEND_RANK_MAX];
    double by = 1, more;
    bool found = false;
    memcpy(order, at, sizeof order);
    for (;;) {
        if (rank_of(g, now) != rank || !is_float(g, now)) break;
        if (order[rank - 1] == rank - 1) {
            *v = now;
            *scale *= by;
            by = 1;
            memcpy(at, order, sizeof order);
            found = true;
        }
        if (g->values[now].kind != VALUE_NODE || g->values[now].producer < 0) break;
        const struct node *n = &g->nodes[g->values[now].producer];
        int other;
        if (n->dead) break;
        if (scales(g, n, &other, &more)) {
            by *= more;
            now = other;
            continue;
        }
        if (!node_is(n, "Transpose")) break;
        const int64_t *perm = node_ints(n, "perm", &count);
        if (perm && count != rank) break;
        for (int d = 0; d < rank; d++) order[d] = (int8_t)(perm ? perm[order[d]] : rank - 1 - order[d]);
        now = n->in[0];
    }
    return found;
}

/* Softmax over the last dimension, perhaps with 0 where it is no number; *nothing is then 0. */
static const struct node *find_softmax(const struct graph *g, int v, float *nothing)
{
    const struct node *n = graph_sole_producer(g, v), *test;
    float zero;
    *nothing = NAN;
    if (node_is(n, "Where") && number_of(g, n->in[1], &zero) && zero == 0 && g->values[n->in[2]].uses == 2 && !g->values[n->in[2]].is_output && g->values[n->in[2]].producer >= 0) {
        test = graph_sole_producer(g, n->in[0]);
        if (!node_is(test, "IsNaN") || test->in[0] != n->in[2]) return NULL;
        n = &g->nodes[g->values[n->in[2]].producer];
        *nothing = 0;
    }
    if (!node_is(n, "Softmax") || n->dead || rank_of(g, n->in[0]) < 3) return NULL;
    int64_t axis = node_int(n, "axis", n->opset < 13 ? 1 : -1), rank = rank_of(g, n->in[0]);
    return axis == -1 || axis == rank - 1 ? n : NULL;
}

/* Heads are not broadcast but to one another as a whole, and the batch not but from one row. */
static bool products_suit(const struct graph *g, const struct node *scores, const struct node *root, int rank)
{
    for (int k = 0; k < 2; k++) {
        const struct operand *q = &g->values[scores->in[0]].probe[k], *t = &g->values[scores->in[1]].probe[k], *v = &g->values[root->in[1]].probe[k], *y = &g->values[root->out[0]].probe[k];
        if (q->rank != rank || t->rank != rank || v->rank != rank || y->rank != rank) return false;
        for (int d = 0; d < rank - 2; d++)
            if (q->dims[d] != y->dims[d] || t->dims[d] != v->dims[d] || (t->dims[d] != q->dims[d] && t->dims[d] != 1)) return false;
        if (t->dims[rank - 1] < 1 || q->dims[rank - 1] < 1) return false;
    }
    return true;
}

/* The transpose that alone reads the result, if it leaves the last dimension: its result becomes the node's. */
static void take_transpose(struct graph *g, struct node *n, struct attend_spec *s)
{
    struct node *t = graph_sole_reader(g, n->out[0]);
    int count;
    if (!node_is(t, "Transpose")) return;
    const int64_t *perm = node_ints(t, "perm", &count);
    if (!perm || count != s->rank || perm[s->rank - 1] != s->rank - 1) return;
    for (int d = 0; d < s->rank; d++) s->y[perm[d]] = (int8_t)d;
    n->out[0] = t->out[0];
    g->values[t->out[0]].producer = (int)(n - g->nodes);
    t->dead = true;
}

/* n becomes the node that the spec describes, with so many masks among its inputs. false: no memory. */
static bool become_attend(struct graph *g, struct node *n, struct attend_spec *spec, const int in[ATTEND_INPUTS], int masks)
{
    struct attend_spec *s = arena_alloc(g->arena, sizeof *s, 16);
    int *list = arena_alloc(g->arena, ATTEND_INPUTS * sizeof *list, 8);
    if (!s || !list) return false;
    memcpy(list, in, ATTEND_INPUTS * sizeof *list);
    n->op = &op_attend;
    n->opset = 1;
    n->in = list;
    n->in_count = ATTEND_MASK + masks;
    n->out_count = 1;
    n->attribute_count = 0;
    if (!spec->heads) take_transpose(g, n, spec);
    *s = *spec;
    n->spec = s;
    return true;
}

static bool find_attention(struct graph *g, struct node *n)
{
    struct attend_spec spec = { 0 };
    struct chain c = { .scale = 1 };
    const int rank = n->out[0] >= 0 ? rank_of(g, n->out[0]) : -1;
    if (!node_is(n, "MatMul") || (rank != 3 && rank != 4) || !is_float(g, n->out[0])) return true;
    const struct node *softmax = find_softmax(g, n->in[0], &spec.nothing);
    if (!softmax || !find_product(g, softmax->in[0], &c) || !products_suit(g, c.product, n, rank)) return true;
    int in[ATTEND_INPUTS] = { c.product->in[0], c.product->in[1], n->in[1], -1, -1 };
    for (int d = 0; d < rank; d++) spec.q[d] = spec.k[d] = spec.v[d] = spec.y[d] = (int8_t)d;
    spec.k[rank - 1] = (int8_t)(rank - 2);
    spec.k[rank - 2] = (int8_t)(rank - 1);
    double scale = c.scale, one = 1;
    if (!find_source(g, &in[ATTEND_Q], rank, spec.q, &scale) || !find_source(g, &in[ATTEND_K], rank, spec.k, &scale) || !find_source(g, &in[ATTEND_V], rank, spec.v, &one) || one != 1) return true;
    for (int i = 0; i < c.mask_count; i++) {      /* found last, done first */
        const int m = c.mask_count - 1 - i;
        in[ATTEND_MASK + i] = c.masks[m];
        spec.masks[i].kind = c.kinds[m];
        spec.masks[i].unseen = c.unseen[m];
    }
    spec.rank = rank;
    spec.scale = (float)scale;
    spec.bf16 = g->bf16 || g->int8;      /* what stands between layers on bytes has a coarser rounding behind it than bfloat16's */
    return become_attend(g, n, &spec, in, c.mask_count);
}

/* ---- the operator Attention ---- */

/* What scores it has under a probe: [batch, heads, queries, keys]; heads of q and of k and v, and the width of a head. false: not what Attend takes. */
static bool scores_of(const struct graph *g, const struct node *n, int probe, int64_t *scores, int64_t *kv_heads, int64_t *width)
{
    const struct operand *q = &g->values[n->in[0]].probe[probe], *k = &g->values[n->in[1]].probe[probe];
    const bool packed = q->rank == 3;
    const int64_t heads = packed ? node_int(n, "q_num_heads", 0) : q->dims[1];
    *kv_heads = packed ? node_int(n, "kv_num_heads", 0) : k->dims[1];
    if ((!packed && q->rank != 4) || k->rank != q->rank || heads < 1 || heads > INT32_MAX || *kv_heads < 1 || heads % *kv_heads || (packed && q->dims[2] % heads)) return false;
    *width = packed ? q->dims[2] / heads : q->dims[3];
    scores[0] = q->dims[0], scores[1] = heads, scores[2] = packed ? q->dims[1] : q->dims[2], scores[3] = packed ? k->dims[1] : k->dims[2];
    return *width > 0 && scores[3] > 0 && k->dims[0] == q->dims[0];
}

/* Without a past, a window, a cap or another result than the first. */
static bool operator_suits(const struct graph *g, const struct node *n, int64_t *heads, int64_t *kv_heads, int64_t *width)
{
    const int mask = n->in_count > ATTEND_MASK ? n->in[ATTEND_MASK] : -1;
    if (!node_is(n, "Attention") || n->in_count < 3) return false;
    for (int i = 0; i < n->in_count; i++)
        if (i < 3 ? n->in[i] < 0 || !is_float(g, n->in[i]) : i > ATTEND_MASK && n->in[i] >= 0) return false;
    for (int i = 1; i < n->out_count; i++)
        if (n->out[i] >= 0) return false;
    if (node_float(n, "softcap", 0) > 0 || node_int(n, "left_window_size", -1) >= 0 || node_int(n, "right_window_size", -1) >= 0 || node_int(n, "softmax_precision", DT_F32) != DT_F32) return false;
    if (mask >= 0 && !probe_known(g, mask)) return false;
    for (int k = 0; k < 2; k++) {
        int64_t scores[4], groups, across;
        if (!scores_of(g, n, k, scores, &groups, &across)) return false;
        if (k && (scores[1] != *heads || groups != *kv_heads || across != *width)) return false;
        *heads = scores[1], *kv_heads = groups, *width = across;
        if (mask < 0) continue;
        const struct operand *m = &g->values[mask].probe[k];
        if ((m->dtype != DT_F32 && m->dtype != DT_BOOL) || !mask_broadcasts(m, scores, 4) || m->dims[m->rank - 1] < 1 || m->dims[m->rank - 1] > scores[3]) return false;
    }
    return true;
}

/* An input of rank 4 through the transposes before it, if that multiplies by nothing that *scale cannot take. */
static void take_source(const struct graph *g, int *in, int8_t *at, double *scale)
{
    int v = *in;
    int8_t order[ATTEND_RANK_MAX];
    double by = 1;
    memcpy(order, at, sizeof order);
    if (!find_source(g, &v, 4, order, &by) || (!scale && by != 1)) return;
    *in = v;
    memcpy(at, order, sizeof order);
    if (scale) *scale *= by;
}

static bool take_operator(struct graph *g, struct node *n)
{
    int64_t heads = 0, kv_heads = 0, width = 0;
    if (!operator_suits(g, n, &heads, &kv_heads, &width)) return true;
    struct attend_spec spec = { .rank = rank_of(g, n->in[0]), .causal = node_int(n, "is_causal", 0) != 0, .is_operator = true, .bf16 = g->bf16 || g->int8 };
    int in[ATTEND_INPUTS] = { n->in[0], n->in[1], n->in[2], n->in_count > ATTEND_MASK ? n->in[ATTEND_MASK] : -1, -1 };
    const bool masked = in[ATTEND_MASK] >= 0;
    double scale = node_attribute(n, "scale") ? (double)node_float(n, "scale", 0) : 1 / sqrt((double)width);
    for (int d = 0; d < spec.rank; d++) spec.q[d] = spec.k[d] = spec.v[d] = spec.y[d] = (int8_t)d;
    if (spec.rank == 3) spec.heads = (int)heads, spec.kv_heads = (int)kv_heads;
    else {
        take_source(g, &in[ATTEND_Q], spec.q, &scale);
        take_source(g, &in[ATTEND_K], spec.k, &scale);
        take_source(g, &in[ATTEND_V], spec.v, NULL);
    }
    if (masked) {
        spec.masks[0].kind = g->values[in[ATTEND_MASK]].probe[0].dtype == DT_BOOL ? ATTEND_SEEN : ATTEND_ADD;
        spec.masks[0].unseen = -INFINITY;
    }
    spec.scale = (float)scale;
    return become_attend(g, n, &spec, in, masked);
}

/* ---- com.microsoft Attention ---- */

/* The projection that com.microsoft's Attention brings with it (x W + b, thirds of the columns) becomes a product of its own, and the rest a MultiHeadAttention: so the weights are packed
 * like any others. false: no memory. */
static bool split_projection(struct graph *g, int at)
{
    bool known;
    const struct node *n = &g->nodes[at];
    if (n->dead || strcmp(n->op->name, "Attention") || strcmp(n->op->domain, "com.microsoft") || n->out_count != 1) return true;
    for (int i = 4; i < n->in_count; i++)
        if (i != 5 && n->in[i] >= 0) return true;
    const int mask = n->in_count > 3 ? n->in[3] : -1, add = n->in_count > 5 ? n->in[5] : -1, bias = n->in_count > 2 ? n->in[2] : -1;
    if (!is_float(g, n->in[0]) || rank_of(g, n->in[0]) != 3 || !value_is_constant(g, n->in[1]) || node_attribute(n, "qkv_hidden_sizes") || node_int(n, "do_rotary", 0)) return true;
    /* What does not fit is left to the operator, which says so. */
    const struct operand *w = &g->values[n->in[1]].type;
    const int64_t heads = node_int(n, "num_heads", 0);
    if (w->dtype != DT_F32 || w->rank != 2 || heads < 1 || heads > w->dims[1] || w->dims[1] % (3 * heads)) return true;
    if (bias >= 0 && (!is_float(g, bias) || rank_of(g, bias) != 1 || g->values[bias].probe[0].dims[0] != w->dims[1])) return true;
    const struct op *product = op_find("", "MatMul", 13, &known), *sum = op_find("", "Add", 14, &known), *split = op_find("", "Split", 13, &known), *rest = op_find("com.microsoft", "MultiHeadAttention", 1, &known);
    struct node *made;
    int all = graph_add_operator(g, product, (int[]){ n->in[0], n->in[1] }, 2, NULL, 0, &made);
    if (all < 0) return false;
    made->opset = 13;
    if (bias >= 0) {
        all = graph_add_operator(g, sum, (int[]){ all, bias }, 2, NULL, 0, &made);
        if (all < 0) return false;
        made->opset = 14;
    }
    struct onnx_attribute *axis = arena_calloc(g->arena, 1, sizeof *axis);
    int *in = arena_alloc(g->arena, 6 * sizeof *in, 8), parts[3];
    for (int i = 0; i < 3; i++) parts[i] = graph_add_value(g, "", VALUE_NODE);
    made = axis && in && parts[0] >= 0 && parts[1] >= 0 && parts[2] >= 0 ? graph_add_node(g, 1, 3) : NULL;
    if (!made) return false;
    *axis = (struct onnx_attribute){ .name = "axis", .type = ONNX_INT, .i = 2 };
    made->op = split;
    made->name = split->name;
    made->opset = 13;
    made->attributes = axis;
    made->attribute_count = 1;
    made->in[0] = all;
    for (int i = 0; i < 3; i++) made->out[i] = parts[i], g->values[parts[i]].producer = (int)(made - g->nodes);
    memcpy(in, (int[]){ parts[0], parts[1], parts[2], -1, mask, add }, 6 * sizeof *in);
    g->nodes[at].op = rest;
    g->nodes[at].in = in;
    g->nodes[at].in_count = add >= 0 ? 6 : mask >= 0 ? 5 : 3;
    return true;
}

enum status fuse_attention(struct graph *g, struct err *err)
{
    for (int i = 0, count = g->node_count; i < count; i++)
        if (!split_projection(g, i)) return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
    for (int i = 0; i < g->node_count; i++) {
        if (g->nodes[i].dead) continue;
        if (!(g->nodes[i].in_count == 2 ? find_attention : take_operator)(g, &g->nodes[i])) return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
        if (g->nodes[i].op == &op_attend) graph_count_uses(g);
    }
    return ST_OK;
}
