/* Between quantised layers: what stands between DequantizeLinear and QuantizeLinear and is worth staying in bytes.
 *
 * Whatever follows number by number from one value of bytes alone (an activation, a swish of its parts with bytes in between, another scale) is a table of 256: the nodes themselves compute it once
 * for all bytes. A sum behind a layer rides in the layer where nothing else reads what it gives; sums, gates, pools and means have kernels; what only moves numbers moves bytes, and a table follows
 * where the scale behind it is another. All else stays float between its two nodes. */
#include "engine/graph/fuse_quantised.h"

#include <math.h>
#include <string.h>

#include "engine/operators/operators.h"

enum { TABLE = 256, STEPS_MAX = 16 };

static bool same_quantum(const struct quantum *a, const struct quantum *b) { return a->scale == b->scale && a->zero == b->zero && a->is_signed == b->is_signed; }

/* ---- tables ---- */

/* A value that follows from one value of bytes: what it is for each of the 256. */
struct closure {
    struct graph *g;
    int root;                            /* -1: not met yet */
    int count, values[STEPS_MAX];
    struct operand operands[STEPS_MAX];
    bool failed, room;
};

static bool is_step(const struct graph *g, const struct node *n)
{
    struct quantum q;
    if (n->dead || n->op->flags & OP_MAKES || n->op->prepare || n->op->scratch || n->out_count < 1 || n->residual >= 0 || n->act.kind != ACT_NONE) return false;
    if (node_is(n, "QuantizeLinear") || node_is(n, "DequantizeLinear")) return quantum_of(g, n, &q);
    return (n->op->flags & (OP_UNARY | OP_BROADCAST)) != 0 && !n->op->domain[0] ? true : n->op == &op_bytes_table || n->op == &op_silu;
}

static struct operand *follow(struct closure *c, int v);

static void begin_root(struct closure *c, int v, enum dtype t)
{
    static const int64_t dims[] = { TABLE };
    uint8_t *all = arena_alloc(c->g->arena, TABLE, TENSOR_ALIGN);
    c->room = all != NULL;
    for (int i = 0; all && i < TABLE; i++) all[i] = (uint8_t)i;
    c->root = c->values[0] = v;
    c->operands[0] = (struct operand){ .dtype = t, .rank = 1, .dims = { dims[0] }, .data = all, .bytes = TABLE };
    c->count = 1;
}

/* Runs node n, which makes v, on the 256. */
static struct operand *take_step(struct closure *c, const struct node *n, int v)
{
    struct operand *in[GRAPH_INPUTS_MAX], out = { 0 }, *outs[] = { &out };
    struct operand constants[4];
    int used = 0;
    if (n->in_count > 4 || n->in_count < 1 || n->out_count > 1) return NULL;
    for (int k = 0; k < n->in_count; k++) {
        in[k] = NULL;
        if (n->in[k] < 0) continue;
        if (value_is_constant(c->g, n->in[k])) {
            const struct operand *o = &c->g->values[n->in[k]].type;
            if (!o->data || operand_count(o) != 1 || !graph_dense(c->g, n->in[k])) return NULL;
            constants[used] = c->g->values[n->in[k]].type;
            constants[used].rank = 0;
            in[k] = &constants[used++];
        } else if (!(in[k] = follow(c, n->in[k]))) return NULL;
    }
    if (c->count == STEPS_MAX) return NULL;
    struct call call = { .node = n, .in = in, .out = outs, .in_count = n->in_count, .out_count = 1, .k = &c->g->device.kernels, .threads = 1, .run = c->g->arena };
    if (n->op->infer(&call, NULL) || call.needs_data || out.rank != 1 || out.dims[0] != TABLE) return NULL;
    out.data = arena_alloc(c->g->arena, out.bytes, TENSOR_ALIGN);
    c->room = out.data != NULL;
    if (!c->room || n->op->eval(&call, NULL)) return NULL;
    c->values[c->count] = v;
    c->operands[c->count] = out;
    return &c->operands[c->count++];
}

/* v for each byte of the root; NULL: it follows from something else, too. */
static struct operand *follow(struct closure *c, int v)
{
    const struct graph *g = c->g;
    for (int i = 0; i < c->count; i++)
        if (c->values[i] == v) return &c->operands[i];
    if (c->failed || g->values[v].producer < 0 || !probe_known(g, v)) return NULL;
    const struct node *n = &g->nodes[g->values[v].producer];
    const enum dtype t = g->values[v].probe[0].dtype;
    const bool bytes = t == DT_U8 || t == DT_I8;
    if (is_step(g, n) && !(bytes && c->root == v)) {
        struct operand *o = take_step(c, n, v);
        if (o) return o;
        if (!c->room || c->root >= 0) {
            c->failed = true;
            return NULL;
        }
    }
    if (!bytes || c->root >= 0) {
        c->failed = true;
        return NULL;
    }
    c->failed = false;                   /* what lies behind bytes need not be followed */
    begin_root(c, v, t);
    return c->room ? &c->operands[0] : NULL;
}

/* Q of something that one value of bytes decides becomes a table. */
static bool fuse_table(struct graph *g, struct node *n, bool *done)
{
    struct closure c = { .g = g, .root = -1, .room = true };
    struct bytes_values v = { 0 };
    if (!quantum_of(g, n, &v.y) || !probe_known(g, n->out[0])) return true;
    const struct operand *y = follow(&c, n->out[0]);
    if (!c.room) return false;
    if (!y || c.failed || c.root < 0 || c.root == n->out[0] || !probe_same_shape(g, c.root, n->out[0]) || y->bytes != TABLE) return true;
    memcpy(v.table, y->data, TABLE);
    v.a.is_signed = g->values[c.root].probe[0].dtype == DT_I8;
    *done = true;
    bool identity = v.a.is_signed == v.y.is_signed;
    for (int i = 0; i < TABLE; i++) identity = identity && v.table[i] == i;
    if (identity && !g->values[n->out[0]].is_output) {
        graph_replace(g, n->out[0], c.root);
        n->dead = true;
        return true;
    }
    return node_become(g, n, &op_bytes_table, n, &c.root, 1, &v, sizeof v);
}

/* ---- sums and gates ---- */

/* The float node that makes what n quantises, through one activation that limits it. */
static struct node *under_limits(struct graph *g, const struct node *n, struct activation_spec *act)
{
    struct node *p = graph_sole_producer(g, n->in[0]);
    *act = (struct activation_spec){ .kind = ACT_NONE };
    if (!p || p->out[0] != n->in[0]) return NULL;
    if (!node_is(p, "Relu")) return p;
    act->kind = ACT_RELU;
    struct node *under = graph_sole_producer(g, p->in[0]);
    return under && under->out[0] == p->in[0] ? under : NULL;
}

/* The layer whose bytes only this sum reads, and which can take it in. */
static struct node *layer_for_sum(const struct graph *g, int sum_in, int bytes)
{
    if (g->values[sum_in].uses != 1 || g->values[bytes].uses != 1 || g->values[bytes].is_output || g->values[bytes].producer < 0) return NULL;
    struct node *p = &g->nodes[g->values[bytes].producer];
    if ((p->op != &op_bytes_conv && p->op != &op_bytes_product) || p->residual >= 0 || p->dead) return NULL;
    const struct bytes_product *s = p->spec;
    return s->layer.finish.out <= BYTES_S8 && !s->layer.finish.table ? p : NULL;
}

static bool fuse_sum(struct graph *g, struct node *n, bool *done)
{
    struct bytes_values v = { 0 };
    struct activation_spec act;
    struct node *add;
    int x[2];
    if (!quantum_of(g, n, &v.y) || !(add = under_limits(g, n, &act)) || !node_is(add, "Add") || add->in_count != 2 || add->in[0] == add->in[1]) return true;
    if (!byte_source(g, add->in[0], &x[0], &v.a) || !byte_source(g, add->in[1], &x[1], &v.b) || x[0] == x[1] || !probe_same_shape(g, x[0], x[1]) || !limits_of(&v.y, act, &v.low, &v.high)) return true;
    *done = true;
    int best = -1;
    for (int side = 0; side < 2; side++)
        if (layer_for_sum(g, add->in[side], x[side]) && (best < 0 || g->values[x[side]].producer > g->values[x[best]].producer)) best = side;
    if (best < 0) return node_become(g, n, &op_bytes_add, add, x, 2, &v, sizeof v);
    const struct node *layer = layer_for_sum(g, add->in[best], x[best]);
    const struct quantum *own = best ? &v.b : &v.a, *other = best ? &v.a : &v.b;
    struct bytes_product p = *(const struct bytes_product *)layer->spec;
    struct bytes_finish *f = &p.layer.finish;
    f->has_residual = true;
    f->r_signed = other->is_signed, f->r_zero = other->zero;
    f->first = own->scale / v.y.scale, f->second = other->scale / v.y.scale;
    f->out = v.y.is_signed ? BYTES_S8 : BYTES_U8;
    f->zero = v.y.zero;
    f->sum_low = v.low, f->sum_high = v.high;
    const int in[] = { layer->in[0], layer->in[1], x[!best] };
    if (!node_become(g, n, layer->op, layer, in, 3, &p, sizeof p)) return false;
    n->residual = 2;
    return true;
}

/* A picture by a number for each of its channels. */
static bool fuse_gate(struct graph *g, struct node *n, bool *done)
{
    struct bytes_values v = { 0 };
    const struct node *mul = graph_sole_producer(g, n->in[0]);
    int x[2];
    if (!quantum_of(g, n, &v.y) || !node_is(mul, "Mul") || mul->in_count != 2 || !byte_source(g, mul->in[0], &x[0], &v.a) || !byte_source(g, mul->in[1], &x[1], &v.b)) return true;
    for (int side = 0; side < 2; side++) {
        const int picture = x[side], gate = x[!side];
        if (!probe_same_shape(g, picture, n->out[0]) || !probe_known(g, gate) || g->values[picture].probe[0].rank < 3 || g->values[gate].probe[0].rank != g->values[picture].probe[0].rank) continue;
        bool fits = true;
        for (int k = 0; k < 2; k++) {
            const struct operand *a = &g->values[picture].probe[k], *b = &g->values[gate].probe[k];
            for (int d = 0; d < a->rank; d++) fits = fits && b->dims[d] == (d < 2 ? a->dims[d] : 1);
        }
        if (!fits) continue;
        if (side) {
            const struct quantum q = v.a;
            v.a = v.b;
            v.b = q;
        }
        const int in[] = { picture, gate };
        *done = true;
        return node_become(g, n, &op_bytes_scale, mul, in, 2, &v, sizeof v);
    }
    return true;
}

/* ---- pools and what moves ---- */

static bool fuse_mean(struct graph *g, struct node *n, bool *done)
{
    struct bytes_values v = { 0 };
    const struct node *mean = graph_sole_producer(g, n->in[0]);
    int x;
    if (!quantum_of(g, n, &v.y) || !node_is(mean, "GlobalAveragePool") || !byte_source(g, mean->in[0], &x, &v.a)) return true;
    *done = true;
    return node_become(g, n, &op_bytes_mean, mean, &x, 1, &v, sizeof v);
}

/* A table from the quanta of one value to those of another. */
static void table_between(struct bytes_values *v, const struct quantum *a, const struct quantum *y)
{
    float low, high;
    *v = (struct bytes_values){ .a = *a, .y = *y };
    limits_of(y, (struct activation_spec){ .kind = ACT_NONE }, &low, &high);
    for (int i = 0; i < TABLE; i++) {
        const float r = rintf((float)((a->is_signed ? (int8_t)i : i) - a->zero) * a->scale / y->scale);
        v->table[i] = (uint8_t)((int)(r < low ? low : r > high ? high : r) + y->zero);
    }
}

/* x in the quanta of y: x itself, or through a new table. -1: no memory. */
static int in_quanta(struct graph *g, int x, const struct quantum *a, const struct quantum *y)
{
    struct bytes_values v;
    if (same_quantum(a, y)) return x;
    table_between(&v, a, y);
    const int id = graph_add_operator(g, &op_bytes_table, &x, 1, &v, sizeof v, NULL);
    if (id < 0) return -1;
    g->values[x].uses++;
    for (int k = 0; k < 2; k++) {
        g->values[id].probe[k] = g->values[x].probe[k];
        g->values[id].probe[k].dtype = y->is_signed ? DT_I8 : DT_U8;
    }
    return id;
}

static const char *const movers[] = { "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "DepthToSpace", "SpaceToDepth", "MaxPool", "Concat" };

static bool pool_fits(const struct graph *g, const struct node *n)
{
    const int rank = probe_known(g, n->in[0]) ? g->values[n->in[0]].probe[0].rank : 0;
    return (n->out_count < 2 || n->out[1] < 0) && (rank == 3 || rank == 4);
}

/* Moving, pooling by the largest and joining give bytes as they took them. */
static bool fuse_mover(struct graph *g, int index, bool *done)
{
    struct node *n = &g->nodes[index], *m = graph_sole_producer(g, n->in[0]);
    struct quantum y, q[GRAPH_INPUTS_MAX];
    int x[GRAPH_INPUTS_MAX];
    bool known = false;
    if (!quantum_of(g, n, &y) || !m || m->out[0] != n->in[0] || m->op->domain[0]) return true;
    for (size_t i = 0; i < sizeof movers / sizeof *movers; i++) known = known || node_is(m, movers[i]);
    const bool joins = node_is(m, "Concat"), pools = node_is(m, "MaxPool");
    if (!known || (pools && !pool_fits(g, m)) || m->in_count > GRAPH_INPUTS_MAX) return true;
    for (int k = 0; k < m->in_count; k++) {
        x[k] = m->in[k];
        if ((k == 0 || joins) && (m->in[k] < 0 || !byte_source(g, m->in[k], &x[k], &q[k]))) return true;
    }
    *done = true;
    const int ins = m->in_count, from = (int)(m - g->nodes);
    for (int k = 0; k < (joins ? ins : 0); k++)
        if ((x[k] = in_quanta(g, x[k], &q[k], &y)) < 0) return false;       /* the node table may have moved */
    n = &g->nodes[index];
    const struct node move = g->nodes[from];
    const struct op *op = pools ? &op_bytes_pool : move.op;
    if (joins || same_quantum(&q[0], &y)) return node_become(g, n, op, &move, x, ins, NULL, 0);
    struct bytes_values v;
    table_between(&v, &q[0], &y);
    if (!node_become(g, &g->nodes[from], op, &move, x, ins, NULL, 0)) return false;
    g->values[move.out[0]].probe[0].dtype = g->values[move.out[0]].probe[1].dtype = q[0].is_signed ? DT_I8 : DT_U8;
    return node_become(g, n, &op_bytes_table, n, &move.out[0], 1, &v, sizeof v);
}

enum status fuse_bytes(struct graph *g, struct err *err)
{
    bool room = true;
    for (int i = 0, count = g->node_count; i < count && room; i++) {
        bool done = false;
        if (g->nodes[i].dead || !node_is(&g->nodes[i], "QuantizeLinear") || g->nodes[i].out[0] < 0) continue;
        room = fuse_table(g, &g->nodes[i], &done);
        if (room && !done) room = fuse_sum(g, &g->nodes[i], &done);
        if (room && !done) room = fuse_gate(g, &g->nodes[i], &done);
        if (room && !done) room = fuse_mean(g, &g->nodes[i], &done);
        if (room && !done) room = fuse_mover(g, i, &done);
    }
    return room ? ST_OK : err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
}

/* ---- the end ---- */

/* A table behind a layer that only it reads: the layer looks each byte up as it puts it down. */
static bool ride_table(struct graph *g, struct node *n)
{
    if (n->op != &op_bytes_table) return true;
    const struct node *layer = graph_sole_producer(g, n->in[0]);
    if (!layer || !op_is_bytes_layer(layer->op)) return true;
    struct bytes_product p = *(const struct bytes_product *)layer->spec;
    struct bytes_finish *f = &p.layer.finish;
    const struct bytes_values *v = n->spec;
    if (f->table || f->out != (v->y.is_signed ? BYTES_S8 : BYTES_U8)) return true;
    uint8_t *table = arena_alloc(g->arena, TABLE, 16);
    if (!table) return false;
    memcpy(table, v->table, TABLE);
    f->table = table;
    int in[3];
    const int count = layer->in_count < 3 ? layer->in_count : 3, residual = layer->residual;
    for (int k = 0; k < count; k++) in[k] = layer->in[k];
    if (!node_become(g, n, layer->op, layer, in, count, &p, sizeof p)) return false;
    n->residual = residual;
    return true;
}

static bool become_kernel(struct graph *g, struct node *n)
{
    struct bytes_values v = { 0 };
    const bool rounds = node_is(n, "QuantizeLinear");
    if (n->in[0] < 0 || value_is_constant(g, n->in[0]) || !probe_known(g, n->in[0]) || (rounds && g->values[n->in[0]].probe[0].dtype != DT_F32) || !quantum_of(g, n, rounds ? &v.y : &v.a)) return true;
    return node_become(g, n, rounds ? &op_bytes_round : &op_bytes_restore, n, n->in, 1, &v, sizeof v);
}

enum status finish_bytes(struct graph *g, struct err *err)
{
    bool room = true;
    for (int i = 0; i < g->node_count && room; i++)
        if (!g->nodes[i].dead) room = ride_table(g, &g->nodes[i]);
    for (int i = 0; i < g->node_count && room; i++)
        if (!g->nodes[i].dead) room = become_kernel(g, &g->nodes[i]);
    return room ? ST_OK : err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
}
