/* Which pictures and rows lie in memory as bfloat16 between the layers of a graph in that precision: half of the bytes to write and to read, and no layer rounds what the one
 * before it has rounded already.
 *
 * A value is stored so when a convolution makes it, or something that only moves, pools or scales what is stored so, and when all its readers take it: a convolution's
 * input or what is added to its result, pooling, an average over all pixels, concatenation, the gate of a squeeze-and-excitation block. All else stays float, and what
 * enters or leaves the graph does. Of rows it is what a TallProduct, Attend or a layer norm makes for a TallProduct or Attend; what is summed up from layer to layer and normalised stays float, since
 * its roundings would add up. Some operators give what they take (a pool), or want all of one type (concatenation, a sum, another shape of the same numbers): such values stand or fall
 * together, and those that may not are struck until none is left. */
#include <string.h>

#include "engine/graph/passes.h"
#include "engine/operators/nn/attend.h"
#include "engine/operators/nn/spread.h"
#include "engine/operators/nn/tall_product.h"
#include "engine/operators/operators.h"

enum role { ROLE_NONE, ROLE_CONV, ROLE_POOL, ROLE_CONCAT, ROLE_MEAN, ROLE_GATE, ROLE_PRODUCT, ROLE_ATTEND, ROLE_NORM, ROLE_VIEW, ROLE_SPREAD };

static bool is_picture(const struct graph *g, int v)
{
    return v >= 0 && probe_known(g, v) && g->values[v].probe[0].dtype == DT_F32 && g->values[v].probe[0].rank >= 3 && g->values[v].kind == VALUE_NODE && g->values[v].type.channels_last;
}

static bool is_rows(const struct graph *g, int v) { return v >= 0 && probe_known(g, v) && g->values[v].probe[0].dtype == DT_F32 && g->values[v].kind == VALUE_NODE && !g->values[v].type.channels_last; }

/* A norm that the kernel for floats does, over rows of which a few fit the cache. */
static bool is_norm(const struct graph *g, const struct node *n)
{
    if (!node_is(n, "LayerNormalization") || !probe_known(g, n->in[0])) return false;
    const struct operand *x = &g->values[n->in[0]].probe[0];
    int64_t axis = node_int(n, "axis", -1);
    if (!axis_fix(&axis, x->rank) || axis != x->rank - 1 || x->dims[axis] < 1) return false;
    for (int k = 0; k < n->in_count && k < 3; k++)
        if (n->in[k] >= 0 && (!probe_known(g, n->in[k]) || g->values[n->in[k]].probe[0].dtype != DT_F32)) return false;
    return true;
}

/* [n, c, h, w] times [n, c, 1, 1]; *side is where the picture stands */
static bool is_gate(const struct graph *g, const struct node *n, int *side)
{
    if (strcmp(n->op->name, "Mul") || n->in_count != 2 || n->opset < 7) return false;
    for (*side = 0; *side < 2; ++*side) {
        const int x = n->in[*side], s = n->in[!*side];
        if (!is_picture(g, x) || !probe_known(g, s) || !probe_same_shape(g, x, n->out[0])) continue;
        bool fits = true;
        for (int k = 0; k < 2; k++) {
            const struct operand *a = &g->values[x].probe[k], *b = &g->values[s].probe[k];
            fits = fits && b->dtype == DT_F32 && b->rank == a->rank && b->dims[0] == a->dims[0] && b->dims[1] == a->dims[1];
            for (int d = 2; fits && d < b->rank; d++) fits = b->dims[d] == 1;
        }
        if (fits) return true;
    }
    return false;
}

static enum role role_of(const struct graph *g, const struct node *n)
{
    int side;
    const char *name = n->op->name;
    if (!n->dead && n->op == &op_tall_product) return is_rows(g, n->out[0]) ? ROLE_PRODUCT : ROLE_NONE;
    if (!n->dead && n->op == &op_spread) return is_picture(g, n->out[0]) ? ROLE_SPREAD : ROLE_NONE;
    if (!n->dead && n->op == &op_attend) return is_rows(g, n->out[0]) && ((const struct attend_spec *)n->spec)->bf16 && g->device.kernels.bf16 ? ROLE_ATTEND : ROLE_NONE;
    if (n->dead || n->op->domain[0] || n->out_count < 1 || n->in_count < 1) return ROLE_NONE;
    if (n->op->flags & OP_WANTS_LAST) return conv_packable(g, n) && is_picture(g, n->out[0]) ? ROLE_CONV : ROLE_NONE;
    for (int k = 1; k < n->out_count; k++)
        if (n->out[k] >= 0) return ROLE_NONE;
    if (is_rows(g, n->out[0]) && is_norm(g, n)) return ROLE_NORM;
    if (n->op->flags & OP_VIEW && is_rows(g, n->in[0]) && is_rows(g, n->out[0])) return ROLE_VIEW;
    if (!strcmp(name, "GlobalAveragePool")) return is_picture(g, n->in[0]) ? ROLE_MEAN : ROLE_NONE;
    if (!is_picture(g, n->out[0])) return ROLE_NONE;
    if ((!strcmp(name, "MaxPool") || !strcmp(name, "AveragePool")) && g->values[n->out[0]].probe[0].rank <= 4) return ROLE_POOL;
    if (!strcmp(name, "Concat")) return ROLE_CONCAT;
    return is_gate(g, n, &side) ? ROLE_GATE : ROLE_NONE;
}

/* Does this node take input k as bfloat16? */
static bool takes(const struct graph *g, const struct node *n, enum role role, int k)
{
    int side;
    switch (role) {
    case ROLE_CONV: case ROLE_PRODUCT: return k == 0 || k == n->residual;
    case ROLE_POOL: case ROLE_MEAN: case ROLE_VIEW: return k == 0;
    case ROLE_ATTEND: return k < ATTEND_MASK;
    case ROLE_SPREAD: return k == 0 || k == SPREAD_BESIDE;
    case ROLE_CONCAT: return true;
    case ROLE_GATE:   return is_gate(g, n, &side) && k == side;
    default:          return false;
    }
}

/* A result that is stored as what is taken is, or as what is added. */
static bool ties(const struct node *n, enum role role, int k)
{
    if (role == ROLE_SPREAD) return k == SPREAD_BESIDE;
    return role == ROLE_CONV || role == ROLE_PRODUCT ? k == n->residual : role != ROLE_ATTEND && role != ROLE_NORM;
}

/* Strikes values that one of their neighbours keeps from being stored so; true when one was struck. */
static bool strike(const struct graph *g, const enum role *roles, bool *halves)
{
    bool struck = false;
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        const enum role role = roles[i];
        if (role == ROLE_NONE || role == ROLE_MEAN) continue;
        bool all = halves[n->out[0]], tied = false;
        for (int k = 0; k < n->in_count; k++)
            if (n->in[k] >= 0 && ties(n, role, k) && takes(g, n, role, k)) all = all && halves[n->in[k]], tied = true;
        if (all || !tied) continue;
        for (int k = -1; k < n->in_count; k++) {
            const int v = k < 0 ? n->out[0] : n->in[k];
            if (v < 0 || !halves[v] || (k >= 0 && !(ties(n, role, k) && takes(g, n, role, k)))) continue;
            halves[v] = false;
            struck = true;
        }
    }
    return struck;
}

static void settle_node(struct graph *g, struct node *n, enum role role, const bool *halves)
{
    int side;
    if (role == ROLE_ATTEND || role == ROLE_NORM) n->halves = halves[n->out[0]] ? HALVES_OUT : 0;
    if (role == ROLE_CONV || role == ROLE_PRODUCT || role == ROLE_SPREAD) n->halves = (n->in[0] >= 0 && halves[n->in[0]] ? HALVES_IN : 0) | (halves[n->out[0]] ? HALVES_OUT : 0);
    if (role == ROLE_MEAN && halves[n->in[0]]) n->op = &op_mean_pixels;
    if (role != ROLE_GATE || !halves[n->out[0]]) return;
    is_gate(g, n, &side);
    const int x = n->in[side], s = n->in[!side];
    n->op = &op_scale_pixels;
    n->in[0] = x;
    n->in[1] = s;
}

enum status store_halves(struct graph *g, struct err *err)
{
    bool *halves = arena_calloc(g->arena, (uint64_t)g->value_count + 1, sizeof *halves);
    enum role *roles = arena_calloc(g->arena, (uint64_t)g->node_count + 1, sizeof *roles);
    if (!halves || !roles) return err_set(err, ST_NO_MEMORY, "the storage pass passes the model's memory budget");
    for (int i = 0; i < g->node_count; i++) {
        roles[i] = role_of(g, &g->nodes[i]);
        if (roles[i] != ROLE_NONE && roles[i] != ROLE_MEAN) halves[g->nodes[i].out[0]] = !g->values[g->nodes[i].out[0]].is_output;
    }
    for (int i = 0; i < g->node_count; i++)
        for (int k = 0; k < g->nodes[i].in_count; k++)
            if (!g->nodes[i].dead && g->nodes[i].in[k] >= 0 && !takes(g, &g->nodes[i], roles[i], k)) halves[g->nodes[i].in[k]] = false;
    while (strike(g, roles, halves)) {}
    for (int i = 0; i < g->node_count; i++) settle_node(g, &g->nodes[i], roles[i], halves);
    return ST_OK;
}
