/* What can ride on the end of a convolution or a product does: bias, a sum with another value, an activation. Also Silu and HardSwish out of their
 * parts, and the channel shuffle out of reshape, transpose, reshape. */
#include <math.h>
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

static bool is_f32(const struct graph *g, int v) { return probe_known(g, v) && g->values[v].probe[0].dtype == DT_F32; }

/* Node i takes over what n made. */
static void take_output(struct graph *g, struct node *keep, struct node *n)
{
    keep->out[0] = n->out[0];
    g->values[n->out[0]].producer = (int)(keep - g->nodes);
    n->dead = true;
}

static struct activation_spec clip_of(const struct graph *g, const struct node *n)
{
    struct activation_spec a = { ACT_CLIP, -INFINITY, INFINITY };
    if (n->opset < 11) {
        a.alpha = node_float(n, "min", -INFINITY);
        a.beta = node_float(n, "max", INFINITY);
    }
    for (int k = 1; k < n->in_count; k++) {
        if (n->in[k] < 0) continue;
        const struct operand *o = &g->values[n->in[k]].type;
        if (!value_is_constant(g, n->in[k]) || o->dtype != DT_F32 || operand_count(o) != 1) return (struct activation_spec){ ACT_NONE, 0, 0 };
        memcpy(k == 1 ? &a.alpha : &a.beta, o->data, 4);
    }
    if (!(a.alpha <= a.beta)) a.kind = ACT_NONE;
    return a;
}

static bool is_scalar(const struct graph *g, int v, float want)
{
    float x;
    if (!value_is_constant(g, v) || g->values[v].type.dtype != DT_F32 || operand_count(&g->values[v].type) != 1) return false;
    memcpy(&x, g->values[v].type.data, 4);
    return x == want;
}

/* Is v = Clip(x + 3, 0, 6), made for one reader? */
static bool is_ramp(struct graph *g, int v, int x)
{
    struct node *clip = graph_sole_producer(g, v), *add;
    if (!node_is(clip, "Clip")) return false;
    struct activation_spec a = clip_of(g, clip);
    add = graph_sole_producer(g, clip->in[0]);
    return a.kind == ACT_CLIP && a.alpha == 0 && a.beta == 6 && node_is(add, "Add") && ((add->in[0] == x && is_scalar(g, add->in[1], 3)) || (add->in[1] == x && is_scalar(g, add->in[0], 3)));
}

/* x * (Clip(x + 3, 0, 6) / 6) and (x * Clip(x + 3, 0, 6)) / 6: HardSwish before opset 14 had it. The parts die for want of readers. */
static void find_hard_swish(struct graph *g, struct node *n)
{
    bool known;
    int x = -1;
    if (n->in_count != 2 || n->opset < 7 || !is_f32(g, n->out[0])) return;
    struct node *mul = node_is(n, "Mul") ? n : node_is(n, "Div") && is_scalar(g, n->in[1], 6) ? graph_sole_producer(g, n->in[0]) : NULL;
    if (!node_is(mul, "Mul") || mul->in_count != 2) return;
    for (int side = 0; side < 2; side++) {
        int ramp = mul->in[side];
        struct node *div = mul == n ? graph_sole_producer(g, ramp) : NULL;
        if (mul == n && (!node_is(div, "Div") || !is_scalar(g, div->in[1], 6))) continue;
        if (is_ramp(g, div ? div->in[0] : ramp, mul->in[!side])) x = mul->in[!side];
    }
    if (x < 0 || !probe_same_shape(g, x, n->out[0])) return;
    struct node *side = graph_sole_producer(g, mul->in[mul->in[0] == x]);      /* Div or Clip, down to the Add */
    while (side && !side->dead) {
        struct node *next = node_is(side, "Add") ? NULL : graph_sole_producer(g, side->in[0]);
        side->dead = true;
        side = next;
    }
    if (mul != n) mul->dead = true;
    g->values[x].uses--;
    n->op = op_find("", "HardSwish", 14, &known);
    n->opset = 14;
    n->in[0] = x;
    n->in_count = 1;
    n->attribute_count = 0;
}

/* Mul(x, Sigmoid(x)) and Mul(x, HardSigmoid(x)) with 1/6 and 1/2. */
static void find_gate(struct graph *g, struct node *n)
{
    bool known;
    if (!node_is(n, "Mul") || !is_f32(g, n->out[0])) return;
    for (int side = 0; side < 2; side++) {
        struct node *s = graph_sole_producer(g, n->in[side]);
        bool silu = node_is(s, "Sigmoid");
        bool hard = node_is(s, "HardSigmoid") && fabsf(node_float(s, "alpha", 0.2f) - 1.0f / 6) < 1e-6f && node_float(s, "beta", 0.5f) == 0.5f;
        if ((!silu && !hard) || s->in[0] != n->in[!side]) continue;
        n->op = silu ? &op_silu : op_find("", "HardSwish", 14, &known);
        n->opset = silu ? n->opset : 14;
        n->in[0] = s->in[0];
        n->in_count = 1;
        n->attribute_count = 0;
        s->dead = true;
        g->values[n->in[0]].uses--;
        return;
    }
}

static struct activation_spec activation_of(const struct graph *g, const struct node *n)
{
    if (n->op == &op_silu) return (struct activation_spec){ ACT_SILU, 0, 0 };
    return node_is(n, "Clip") ? clip_of(g, n) : activation_of_node(n);
}

bool gemm_is_plain(const struct graph *g, const struct node *n)
{
    if (!gemm_packable(g, n) || !is_f32(g, n->out[0])) return false;
    if (node_is(n, "MatMul")) return true;
    if (node_float(n, "alpha", 1) != 1 || node_float(n, "beta", 1) != 1) return false;
    if (n->in_count < 3 || n->in[2] < 0) return true;
    const struct operand *c = &g->values[n->in[2]].type, *w = &g->values[n->in[1]].type;
    int64_t columns = w->dims[!node_int(n, "transB", 0)];
    return value_is_constant(g, n->in[2]) && operand_count(c) == (uint64_t)columns && (c->rank < 2 || c->dims[0] == 1);
}

static void fuse_activation(struct graph *g, struct node *n)
{
    struct activation_spec a = activation_of(g, n);
    if (a.kind == ACT_NONE || !is_f32(g, n->in[0])) return;
    struct node *p = graph_sole_producer(g, n->in[0]);
    if (!p || p->act.kind != ACT_NONE || p->out[0] != n->in[0]) return;
    if (!conv_packable(g, p) && p->op != &op_scale_shift && !gemm_is_plain(g, p)) return;
    p->act = a;
    take_output(g, p, n);
}

/* Add or Sum of a convolution's result and another value of the same shape. */
static bool fuse_sum(struct graph *g, struct node *n)
{
    if ((!node_is(n, "Add") && !node_is(n, "Sum")) || n->in_count != 2) return true;
    if (n->in[0] == n->in[1] || !is_f32(g, n->out[0]) || !probe_same_shape(g, n->in[0], n->in[1]) || !probe_same_shape(g, n->in[0], n->out[0])) return true;
    int best = -1;
    for (int side = 0; side < 2; side++) {
        struct node *p = graph_sole_producer(g, n->in[side]);
        if (!p || !conv_packable(g, p) || p->act.kind != ACT_NONE || p->residual >= 0 || value_is_constant(g, n->in[!side])) continue;
        if (best < 0 || g->values[n->in[side]].producer > g->values[n->in[best]].producer) best = side;
    }
    if (best < 0) return true;
    struct node *p = graph_sole_producer(g, n->in[best]);
    if (p->in_count < 4) {
        int *in = arena_alloc(g->arena, 4 * sizeof *in, 8);
        if (!in) return false;
        for (int k = 0; k < 4; k++) in[k] = k < p->in_count ? p->in[k] : -1;
        p->in = in;
        p->in_count = 4;
    }
    p->residual = 3;
    p->in[3] = n->in[!best];
    take_output(g, p, n);
    return true;
}

/* MatMul by a constant, then Add of a constant of one number a column. */
static bool fuse_bias(struct graph *g, struct node *n)
{
    if (!node_is(n, "Add") || n->in_count != 2) return true;
    for (int side = 0; side < 2; side++) {
        struct node *p = graph_sole_producer(g, n->in[side]);
        if (!node_is(p, "MatMul") || !gemm_packable(g, p) || p->bias || p->act.kind != ACT_NONE || !value_is_constant(g, n->in[!side])) continue;
        if (!probe_same_shape(g, n->in[side], n->out[0]) || (n->opset < 7 && side == 1)) continue;
        const struct operand *c = &g->values[n->in[!side]].type, *w = &g->values[p->in[1]].type;
        if (c->dtype != DT_F32 || operand_count(c) != (uint64_t)w->dims[1] || c->rank < 1 || c->dims[c->rank - 1] != w->dims[1]) continue;
        p->bias = graph_dense(g, n->in[!side]);
        if (!p->bias) return false;
        take_output(g, p, n);
        return true;
    }
    return true;
}

/* Reshape [n,g,c/g,...], Transpose 0,2,1,3.., Reshape back to the first shape. */
static bool find_shuffle(struct graph *g, struct node *last)
{
    if (!node_is(last, "Reshape")) return true;
    struct node *turn = graph_sole_producer(g, last->in[0]);
    if (!node_is(turn, "Transpose")) return true;
    struct node *first = graph_sole_producer(g, turn->in[0]);
    if (!node_is(first, "Reshape") || !probe_same_shape(g, first->in[0], last->out[0]) || !is_f32(g, last->out[0])) return true;
    const struct operand *x = &g->values[first->in[0]].probe[0], *split = &g->values[first->out[0]].probe[0];
    int n;
    const int64_t *perm = node_ints(turn, "perm", &n);
    if (!perm || !probe_known(g, first->out[0]) || n != x->rank + 1 || split->rank != n || x->rank < 3 || split->dims[0] != x->dims[0] || split->dims[1] * split->dims[2] != x->dims[1]) return true;
    for (int d = 0; d < n; d++)
        if (perm[d] != (d == 1 ? 2 : d == 2 ? 1 : d) || (d > 2 && split->dims[d] != x->dims[d - 1])) return true;
    struct onnx_attribute *group = arena_calloc(g->arena, 1, sizeof *group);
    if (!group) return false;
    *group = (struct onnx_attribute){ .name = "group", .type = ONNX_INT, .i = split->dims[1] };
    last->op = &op_shuffle;
    last->in[0] = first->in[0];
    last->in_count = 1;
    last->attributes = group;
    last->attribute_count = 1;
    turn->dead = first->dead = true;
    return true;
}

enum status fuse_activations(struct graph *g, struct err *err)
{
    bool room = true;
    for (int i = 0; i < g->node_count && room; i++)
        if (!g->nodes[i].dead && g->nodes[i].out[0] >= 0) room = find_shuffle(g, &g->nodes[i]);
    for (int i = 0; i < g->node_count && room; i++) {
        struct node *n = &g->nodes[i];
        if (n->dead || n->out[0] < 0 || n->in_count < 1 || n->in[0] < 0) continue;
        find_gate(g, n);
        find_hard_swish(g, n);
        room = fuse_bias(g, n);
        if (!n->dead && room) room = fuse_sum(g, n);
        if (!n->dead && room) fuse_activation(g, n);
    }
    return room ? ST_OK : err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
}
