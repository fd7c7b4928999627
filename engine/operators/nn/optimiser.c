/* Steps of optimisers (ai.onnx.preview.training): Momentum, Adagrad, Adam. Inputs: the rate, the number of the step, then n tensors to be optimised, their n
 * gradients and their states; outputs: the tensors and states after the step. */
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum optimiser { O_MOMENTUM, O_ADAGRAD, O_ADAM };

static int states_of(const struct call *c) { return c->node->op->code == O_ADAM ? 2 : 1; }

static enum status infer_step(struct call *c, struct err *err)
{
    int per = 2 + states_of(c), n = (c->in_count - 2) / per;
    bool fits = (c->in_count - 2) % per == 0 && c->out_count == n * (1 + states_of(c)) && operand_count(c->in[0]) == 1 && dtype_is_real(c->in[0]->dtype) && operand_count(c->in[1]) == 1 && c->in[1]->dtype == DT_I64;
    for (int i = 2; fits && i < c->in_count; i++) {
        const struct operand *x = c->in[2 + (i - 2) % n], *o = c->in[i];
        fits = o && dtype_is_real(o->dtype) && o->dtype == x->dtype && operand_count(o) == operand_count(x);
    }
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "tensors, gradients and states do not fit each other");
    enum status st = ST_OK;
    for (int i = 0; i < c->out_count && !st; i++) {
        const struct operand *x = c->in[2 + (i < n ? i : i + n)];
        st = call_set(c, i, x->dtype, x->dims, x->rank, err);
    }
    return st;
}

struct step { double rate, t, norm, alpha, beta, epsilon; bool nesterov; };

/* One number: x and its states h[0], h[1] after a step along gradient g. */
static double take_step(const struct call *c, const struct step *s, double x, double g, double h[2])
{
    g += s->norm * x;
    if (c->node->op->code == O_MOMENTUM) {
        h[0] = s->alpha * h[0] + (s->t > 0 ? s->beta : 1) * g;
        return x - s->rate * (s->nesterov ? g + s->alpha * h[0] : h[0]);
    }
    if (c->node->op->code == O_ADAGRAD) {
        h[0] += g * g;
        return x - s->rate / (1 + s->t * s->alpha) * g / (sqrt(h[0]) + s->epsilon);
    }
    h[0] = s->alpha * h[0] + (1 - s->alpha) * g;
    h[1] = s->beta * h[1] + (1 - s->beta) * g * g;
    double rate = s->t > 0 ? s->rate * sqrt(1 - pow(s->beta, s->t)) / (1 - pow(s->alpha, s->t)) : s->rate;
    return (1 - (double)node_float(c->node, "norm_coefficient_post", 0)) * (x - rate * h[0] / (sqrt(h[1]) + s->epsilon));
}

static enum status eval_step(struct call *c, struct err *err)
{
    int states = states_of(c), n = (c->in_count - 2) / (2 + states);
    bool adagrad = c->node->op->code == O_ADAGRAD, adam = c->node->op->code == O_ADAM;
    struct step s = { .rate = operand_real(c->in[0], 0), .t = (double)operand_int(c->in[1], 0), .norm = (double)node_float(c->node, "norm_coefficient", 0) };
    s.alpha = (double)node_float(c->node, adagrad ? "decay_factor" : "alpha", adagrad ? 0 : 0.9f);
    s.beta = (double)node_float(c->node, "beta", adam ? 0.999f : 1);
    s.epsilon = (double)node_float(c->node, "epsilon", adagrad ? 0 : 1e-6f);
    s.nesterov = node_text_is(c->node, "mode", "nesterov", false);
    (void)err;
    for (int i = 0; i < n; i++)
        for (uint64_t k = 0, count = operand_count(c->in[2 + i]); k < count; k++) {
            double h[2] = { 0, 0 };
            for (int j = 0; j < states; j++) h[j] = operand_real(c->in[2 + (2 + j) * n + i], k);
            double x = take_step(c, &s, operand_real(c->in[2 + i], k), operand_real(c->in[2 + n + i], k), h);
            if (c->out[i]) operand_real_put(c->out[i], k, x);
            for (int j = 0; j < states; j++)
                if (c->out[(1 + j) * n + i]) operand_real_put(c->out[(1 + j) * n + i], k, h[j]);
        }
    return ST_OK;
}

#define STEP(name, code) { name, "ai.onnx.preview.training", 1, 0, 3, GRAPH_INPUTS_MAX, 1, GRAPH_INPUTS_MAX, 0, code, infer_step, eval_step, NULL, NULL, NULL, NULL, NULL }
const struct op ops_optimiser[] = {
    STEP("Momentum", O_MOMENTUM), STEP("Adagrad", O_ADAGRAD), STEP("Adam", O_ADAM),
    { 0 }
};
