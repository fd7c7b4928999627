/* GELU out of its parts. Exporters write x * 0.5 * (1 + erf(x / sqrt 2)), or with tanh, as a tree of products in any order: its factors are gathered, and when they are
 * x, one half and one more than the curve of x, the tree's root becomes Gelu. The parts die for want of readers. */
#include <math.h>
#include <string.h>

#include "engine/graph/passes.h"

enum { FACTORS_MAX = 4 };

/* A constant of one f32 number; rank does not matter, since the result's shape is compared. */
static bool scalar_of(const struct graph *g, int v, float *x)
{
    if (!value_is_constant(g, v) || g->values[v].type.dtype != DT_F32 || operand_count(&g->values[v].type) != 1) return false;
    memcpy(x, g->values[v].type.data, 4);
    return true;
}

static bool near_to(float x, double want) { return fabs((double)x - want) <= 2e-4 * fabs(want); }

/* Is n an operator of two inputs of which one is this number? *other is then the other input; a quotient's number stands second. */
static bool with_number(const struct graph *g, const struct node *n, const char *name, double want, int *other)
{
    float x;
    if (!node_is(n, name) || n->in_count != 2) return false;
    for (int side = 1; side >= 0; side--)
        if (scalar_of(g, n->in[side], &x) && near_to(x, want) && (side == 1 || name[0] != 'D')) {
            *other = n->in[!side];
            return true;
        }
    return false;
}

static void gather_factors(const struct graph *g, const struct node *n, int *factors, int *count, float *number)
{
    for (int side = 0; side < 2; side++) {
        const struct node *inner = graph_sole_producer(g, n->in[side]);
        float x;
        if (scalar_of(g, n->in[side], &x)) *number *= x;
        else if (node_is(inner, "Mul") && inner->in_count == 2 && *count < FACTORS_MAX) gather_factors(g, inner, factors, count, number);
        else if (*count < FACTORS_MAX) factors[(*count)++] = n->in[side];
        else *number = NAN;
    }
}

static bool is_cube(const struct graph *g, int v, int x)
{
    const struct node *n = graph_sole_producer(g, v), *square;
    int other;
    if (with_number(g, n, "Pow", 3, &other)) return other == x && n->in[0] == x;
    if (!node_is(n, "Mul") || n->in_count != 2) return false;
    for (int side = 0; side < 2; side++) {
        square = graph_sole_producer(g, n->in[side]);
        if (n->in[!side] == x && node_is(square, "Mul") && square->in[0] == x && square->in[1] == x) return true;
    }
    return false;
}

/* sqrt(2 / pi) (x + 0.044715 x^3) */
static bool is_tanh_argument(const struct graph *g, int v, int x)
{
    int sum, cube;
    if (!with_number(g, graph_sole_producer(g, v), "Mul", 0.7978845608, &sum)) return false;
    const struct node *add = graph_sole_producer(g, sum);
    if (!node_is(add, "Add") || add->in_count != 2) return false;
    for (int side = 0; side < 2; side++)
        if (add->in[side] == x && with_number(g, graph_sole_producer(g, add->in[!side]), "Mul", 0.044715, &cube) && is_cube(g, cube, x)) return true;
    return false;
}

/* Is v = 1 + erf(x / sqrt 2), or the same with tanh? */
static bool is_curve(const struct graph *g, int v, int x, bool *by_tanh)
{
    int curve, inner;
    if (!with_number(g, graph_sole_producer(g, v), "Add", 1, &curve)) return false;
    const struct node *n = graph_sole_producer(g, curve);
    *by_tanh = node_is(n, "Tanh");
    if (*by_tanh) return is_tanh_argument(g, n->in[0], x);
    if (!node_is(n, "Erf")) return false;
    const struct node *scaled = graph_sole_producer(g, n->in[0]);
    return (with_number(g, scaled, "Div", M_SQRT2, &inner) || with_number(g, scaled, "Mul", M_SQRT1_2, &inner)) && inner == x;
}

static bool find_gelu(struct graph *g, struct node *n)
{
    int factors[FACTORS_MAX], count = 0;
    float number = 1;
    bool known, by_tanh = false, found = false;
    if (!node_is(n, "Mul") || n->in_count != 2 || n->opset < 7 || !probe_known(g, n->out[0]) || g->values[n->out[0]].probe[0].dtype != DT_F32) return true;
    gather_factors(g, n, factors, &count, &number);
    if (count != 2 || !near_to(number, 0.5)) return true;
    int side = 0;
    for (; side < 2 && !found; side++) found = is_curve(g, factors[!side], factors[side], &by_tanh);
    const int x = found ? factors[side - 1] : -1;
    if (!found || !probe_same_shape(g, x, n->out[0])) return true;
    struct onnx_attribute *tanh_ = by_tanh ? arena_calloc(g->arena, 1, sizeof *tanh_) : NULL;
    if (by_tanh && !tanh_) return false;
    if (by_tanh) *tanh_ = (struct onnx_attribute){ .name = "approximate", .type = ONNX_STRING, .s = { .text = "tanh", .length = 4 } };
    n->op = op_find("", "Gelu", 20, &known);
    n->opset = 20;
    n->in[0] = x;
    n->in_count = 1;
    n->attributes = tanh_;
    n->attribute_count = by_tanh;
    return true;
}

enum status fuse_curves(struct graph *g, struct err *err)
{
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && g->nodes[i].out_count == 1 && g->nodes[i].out[0] >= 0 && !find_gelu(g, &g->nodes[i])) return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
    return ST_OK;
}
