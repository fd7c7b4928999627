/* Random tensors: RandomUniform, RandomNormal, their Like forms, Bernoulli, Multinomial. With a seed every run draws the same; without one each plan starts at
 * its own place and goes on from run to run. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum draw { DRAW_UNIFORM, DRAW_NORMAL, DRAW_BERNOULLI, DRAW_MULTINOMIAL };

static enum status prepare_draw(struct call *c, struct err *err)
{
    uint64_t *s = mem_alloc_array(1, sizeof *s);
    if (!s) return call_error(c, err, ST_NO_MEMORY, "its generator");
    *s = clock_ns();
    c->state = s;
    return ST_OK;
}

/* splitmix64: 53 bits of the next number, in [0, 1) */
static double next(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static void begin(const struct call *c, uint64_t *s)
{
    float seed = node_float(c->node, "seed", 0);
    uint32_t bits;
    memcpy(&bits, &seed, sizeof bits);
    if (node_attribute(c->node, "seed")) *s = bits;
}

/* The shape is an attribute, or that of input 0. */
static enum status infer_draw(struct call *c, struct err *err)
{
    const struct operand *x = c->in_count ? c->in[0] : NULL;
    int64_t type = node_int(c->node, "dtype", x ? (int64_t)x->dtype : DT_F32);
    enum dtype t = type > 0 && type < DT_COUNT ? (enum dtype)type : DT_NONE;
    int n = 0;
    const int64_t *shape = node_ints(c->node, "shape", &n);
    bool bernoulli = c->node->op->code == DRAW_BERNOULLI;
    if (bernoulli ? !dtype_is_number(t) || !dtype_is_real(x->dtype) : !dtype_is_real(t)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(t));
    if (!x && (!shape || n > TENSOR_RANK_MAX)) return call_error(c, err, ST_BAD_INPUT, "its shape is missing or has more than %d dimensions", TENSOR_RANK_MAX);
    return x ? call_set(c, 0, t, x->dims, x->rank, err) : call_set(c, 0, t, shape, n, err);
}

static enum status eval_draw(struct call *c, struct err *err)
{
    uint64_t *s = c->state;
    double low = (double)node_float(c->node, "low", 0), high = (double)node_float(c->node, "high", 1), mean = (double)node_float(c->node, "mean", 0), scale = (double)node_float(c->node, "scale", 1);
    (void)err;
    begin(c, s);
    for (uint64_t k = 0, n = operand_count(c->out[0]); k < n; k++) {
        double u = next(s);
        if (c->node->op->code == DRAW_UNIFORM) u = low + u * (high - low);
        else if (c->node->op->code == DRAW_NORMAL) u = mean + scale * sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * next(s));
        else u = u < operand_real(c->in[0], k);
        operand_real_put(c->out[0], k, u);
    }
    return ST_OK;
}

/* Multinomial(x [rows, classes], unnormalised log-probabilities) -> [rows, samples] */
static enum status infer_multinomial(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t t = node_int(c->node, "dtype", DT_I32);
    if (x->rank != 2 || !dtype_is_real(x->dtype) || x->dims[1] < 1 || (t != DT_I32 && t != DT_I64)) return call_error(c, err, ST_BAD_INPUT, "it takes [rows, classes] and gives integers");
    return call_set(c, 0, (enum dtype)t, (int64_t[]){ x->dims[0], node_int(c->node, "sample_size", 1) }, 2, err);
}

static enum status eval_multinomial(struct call *c, struct err *err)
{
    uint64_t *s = c->state;
    int64_t classes = c->in[0]->dims[1], samples = c->out[0]->dims[1];
    struct reals r;
    (void)err;
    reals_begin(&r, c);
    begin(c, s);
    for (int64_t row = 0; row < c->in[0]->dims[0]; row++) {
        double *p = r.in[0] + row * classes, most = p[0], sum = 0;
        for (int64_t k = 1; k < classes; k++) most = p[k] > most ? p[k] : most;
        for (int64_t k = 0; k < classes; k++) sum += p[k] = exp(p[k] - most);
        for (int64_t i = 0; i < samples; i++) {
            double left = next(s) * sum;
            int64_t k = 0;
            while (k < classes - 1 && left >= p[k]) left -= p[k++];
            r.out[0][row * samples + i] = (double)k;
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

#define DRAW(name, ins, code) { name, "", 1, 0, ins, ins, 1, 1, OP_DRAWS, code, infer_draw, eval_draw, NULL, prepare_draw, free, NULL, NULL }
const struct op ops_random[] = {
    DRAW("RandomUniform", 0, DRAW_UNIFORM), DRAW("RandomUniformLike", 1, DRAW_UNIFORM), DRAW("RandomNormal", 0, DRAW_NORMAL), DRAW("RandomNormalLike", 1, DRAW_NORMAL), DRAW("Bernoulli", 1, DRAW_BERNOULLI),
    { "Multinomial", "", 7, 0, 1, 1, 1, 1, OP_DRAWS, DRAW_MULTINOMIAL, infer_multinomial, eval_multinomial, reals_scratch, prepare_draw, free, NULL, NULL },
    { 0 }
};
