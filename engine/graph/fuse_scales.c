/* Everything that is y = x * scale[channel] + bias[channel] becomes one ScaleShift node: BatchNormalization with constant statistics, and Mul, Add, Sub and
 * Div by constants of one number a channel behind a convolution or another ScaleShift. Neighbours merge; a convolution takes a ScaleShift behind it
 * into its weights (when they are packed) and its bias. */
#include <math.h>
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/operators.h"

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget"); }

static int64_t channels_of(const struct graph *g, int v)
{
    const struct operand *o = &g->values[v].probe[0];
    return probe_known(g, v) && o->rank >= 2 && o->dtype == DT_F32 && o->dims[1] == g->values[v].probe[1].dims[1] ? o->dims[1] : 0;
}

/* A constant as one number a channel of x; NULL when it is not. */
static const float *by_channel(struct graph *g, const struct node *n, int constant, int x, int64_t channels, bool *scalar)
{
    const struct operand *c = &g->values[constant].type;
    int rank = g->values[x].probe[0].rank, at = rank - c->rank;
    *scalar = operand_count(c) == 1;
    if (c->dtype != DT_F32 || at < 0) return NULL;
    if (n->opset < 7 && node_int(n, "broadcast", 0)) at = (int)node_int(n, "axis", at);
    if (at < 0 || at + c->rank > rank) return NULL;
    for (int d = 0; d < c->rank && !*scalar; d++)
        if (c->dims[d] != (at + d == 1 ? channels : 1)) return NULL;
    return graph_dense(g, constant);
}

static struct node *producer_of(struct graph *g, int v)
{
    struct node *p = graph_sole_producer(g, v);
    if (!p || p->act.kind != ACT_NONE || p->residual >= 0) return NULL;
    return p->op == &op_scale_shift || conv_packable(g, p) ? p : NULL;
}

static enum status norm_numbers(struct graph *g, const struct node *n, int64_t channels, float *scale, float *bias)
{
    const float *v[5] = { 0 };
    for (int k = 1; k < 5; k++) {
        v[k] = graph_dense(g, n->in[k]);
        if (!v[k]) return ST_NO_MEMORY;
    }
    double epsilon = (double)node_float(n, "epsilon", 1e-5f);
    for (int64_t c = 0; c < channels; c++) {
        double s = (double)v[1][c] / sqrt((double)v[4][c] + epsilon);
        scale[c] = (float)s;
        bias[c] = (float)((double)v[2][c] - (double)v[3][c] * s);
    }
    return ST_OK;
}

static bool is_norm(const struct graph *g, const struct node *n, int64_t channels)
{
    if (strcmp(n->op->name, "BatchNormalization") || node_int(n, "training_mode", 0)) return false;
    for (int k = 1; k < 5; k++)
        if (!value_is_constant(g, n->in[k]) || g->values[n->in[k]].type.dtype != DT_F32 || operand_count(&g->values[n->in[k]].type) != (uint64_t)channels) return false;
    for (int k = 1; k < n->out_count; k++)
        if (n->out[k] >= 0) return false;
    return true;
}

/* 0 Mul, 1 Add, 2 Sub, 3 Div; -1 other */
static int arithmetic(const struct node *n)
{
    static const char *const names[] = { "Mul", "Add", "Sub", "Div" };
    for (int i = 0; i < 4; i++)
        if (strcmp(n->op->name, names[i]) == 0 && !n->op->domain[0]) return i;
    return -1;
}

/* Fills scale and bias when node n is such a line; *x is the value it applies to. */
static bool read_line(struct graph *g, struct node *n, float **scale, float **bias, int *x, int64_t *channels, enum status *st)
{
    int kind = arithmetic(n), side = 0;
    bool norm = strcmp(n->op->name, "BatchNormalization") == 0 && !node_int(n, "training_mode", 0), scalar = false;
    const float *c = NULL;
    if (!norm && kind < 0) return false;
    if (!norm) {
        side = value_is_constant(g, n->in[0]) ? 1 : 0;
        if (!value_is_constant(g, n->in[!side]) || value_is_constant(g, n->in[side]) || (side == 1 && kind >= 2)) return false;
        if (!producer_of(g, n->in[side]) || !probe_same_shape(g, n->in[side], n->out[0])) return false;
        if (side == 1 && n->opset < 7) return false;
    }
    *x = n->in[side];
    *channels = channels_of(g, *x);
    if (*channels <= 0 || (norm && !is_norm(g, n, *channels))) return false;
    if (!norm && !(c = by_channel(g, n, n->in[!side], *x, *channels, &scalar))) return false;
    *scale = arena_alloc(g->arena, (uint64_t)*channels * 4, TENSOR_ALIGN);
    *bias = arena_alloc(g->arena, (uint64_t)*channels * 4, TENSOR_ALIGN);
    if (!*scale || !*bias) { *st = ST_NO_MEMORY; return false; }
    if (norm) {
        *st = norm_numbers(g, n, *channels, *scale, *bias);
        return *st == ST_OK;
    }
    for (int64_t i = 0; i < *channels; i++) {
        float v = c[scalar ? 0 : i];
        (*scale)[i] = kind == 0 ? v : kind == 3 ? 1 / v : 1;
        (*bias)[i] = kind == 1 ? v : kind == 2 ? -v : 0;
    }
    return true;
}

/* The convolution's inputs become x, weight, bias, residual. */
static bool widen_conv(struct graph *g, struct node *n)
{
    if (n->in_count == 4) return true;
    int *in = arena_alloc(g->arena, 4 * sizeof *in, 8);
    if (!in) return false;
    for (int k = 0; k < 4; k++) in[k] = k < n->in_count ? n->in[k] : -1;
    n->in = in;
    n->in_count = 4;
    return true;
}

static bool fold_into_conv(struct graph *g, int index, const float *scale, const float *bias, int64_t channels)
{
    float *s = arena_alloc(g->arena, (uint64_t)channels * 4, TENSOR_ALIGN), *b = arena_alloc(g->arena, (uint64_t)channels * 4, TENSOR_ALIGN);
    if (!s || !b || !widen_conv(g, &g->nodes[index])) return false;
    struct node *n = &g->nodes[index];
    const float *old = n->in[2] >= 0 ? graph_dense(g, n->in[2]) : NULL;
    if (n->in[2] >= 0 && !old) return false;
    for (int64_t c = 0; c < channels; c++) {
        s[c] = (n->weight ? n->weight[c] : 1) * scale[c];
        b[c] = (old ? old[c] : 0) * scale[c] + bias[c];
    }
    int id = graph_add_constant(g, n->name, DT_F32, &channels, 1, b);
    if (id < 0) return false;
    n->in[2] = id;
    n->weight = s;
    g->values[id].uses = 1;
    return true;
}

static bool fuse_line(struct graph *g, int i, float *scale, float *bias, int x, int64_t channels)
{
    struct node *n = &g->nodes[i], *p = producer_of(g, x);
    if (p && p->op != &op_scale_shift) {
        int index = (int)(p - g->nodes);
        if (!fold_into_conv(g, index, scale, bias, channels)) return false;
        g->nodes[index].out[0] = n->out[0];
        g->values[n->out[0]].producer = index;
        n->dead = true;
        return true;
    }
    if (p) {
        for (int64_t c = 0; c < channels; c++) {
            bias[c] = p->bias[c] * scale[c] + bias[c];
            scale[c] = p->weight[c] * scale[c];
        }
        x = p->in[0];
        p->dead = true;
    }
    n->op = &op_scale_shift;
    n->in[0] = x;
    n->in_count = n->out_count = 1;
    n->attribute_count = 0;
    n->weight = scale;
    n->bias = bias;
    return true;
}

enum status fuse_scales(struct graph *g, struct err *err)
{
    for (int i = 0; i < g->node_count; i++) {
        float *scale, *bias;
        int64_t channels;
        int x;
        enum status st = ST_OK;
        if (g->nodes[i].dead || g->nodes[i].out[0] < 0) continue;
        bool line = read_line(g, &g->nodes[i], &scale, &bias, &x, &channels, &st);
        if (st || (line && !fuse_line(g, i, scale, bias, x, channels))) return no_memory(err);
    }
    return ST_OK;
}
