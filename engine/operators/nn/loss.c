/* NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss: scores [n, classes, ...], target classes [n, ...], a weight for each class. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum loss { L_LIKELIHOOD, L_ENTROPY };

static enum status infer_loss(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *t = c->in[1], *w = c->in_count > 2 ? c->in[2] : NULL;
    bool fits = x->rank >= 2 && dtype_is_real(x->dtype) && t->rank == x->rank - 1 && (t->dtype == DT_I64 || t->dtype == DT_I32) && t->dims[0] == x->dims[0];
    for (int d = 1; fits && d < t->rank; d++) fits = t->dims[d] == x->dims[d + 1];
    if (fits && w) fits = w->rank == 1 && w->dims[0] == x->dims[1] && w->dtype == x->dtype;
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "scores, targets and weights do not fit each other");
    bool each = node_text_is(c->node, "reduction", "none", false);
    enum status st = call_set(c, 0, x->dtype, t->dims, each ? t->rank : 0, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, x->dtype, x->dims, x->rank, err);
}

/* Scores become their log-softmax over the classes. */
static void log_softmax(double *x, int64_t n, int64_t classes, int64_t inner)
{
    for (int64_t row = 0; row < n * inner; row++) {
        double *p = x + row / inner * classes * inner + row % inner, most = -(double)INFINITY, sum = 0;
        for (int64_t k = 0; k < classes; k++) most = p[k * inner] > most ? p[k * inner] : most;
        for (int64_t k = 0; k < classes; k++) sum += exp(p[k * inner] - most);
        for (int64_t k = 0; k < classes; k++) p[k * inner] = p[k * inner] - most - log(sum);
    }
}

static enum status eval_loss(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *t = c->in[1];
    int64_t classes = x->dims[1], inner = 1, ignored = node_int(c->node, "ignore_index", 0);
    bool ignores = node_attribute(c->node, "ignore_index") != NULL, each = node_text_is(c->node, "reduction", "none", false), sum = node_text_is(c->node, "reduction", "sum", false);
    struct reals r;
    for (int d = 2; d < x->rank; d++) inner *= x->dims[d];
    reals_begin(&r, c);
    if (c->node->op->code == L_ENTROPY) log_softmax(r.in[0], x->dims[0], classes, inner);
    double total = 0, weights = 0;
    for (uint64_t k = 0, n = operand_count(t); k < n; k++) {
        int64_t target = operand_int(t, k);
        double loss = 0, weight = 0;
        if (!ignores || target != ignored) {
            if (target < 0 || target >= classes) return call_error(c, err, ST_BAD_INPUT, "target %lld is not one of %lld classes", (long long)target, (long long)classes);
            weight = c->in_count > 2 && c->in[2] ? r.in[2][target] : 1;
            loss = -weight * r.in[0][((int64_t)k / inner * classes + target) * inner + (int64_t)k % inner];
        }
        if (each) r.out[0][k] = loss;
        total += loss;
        weights += weight;
    }
    if (!each) r.out[0][0] = sum ? total : total / weights;
    if (c->out_count > 1 && r.out[1]) memcpy(r.out[1], r.in[0], operand_count(x) * sizeof *r.in[0]);
    reals_end(&r, c);
    return ST_OK;
}

const struct op ops_loss[] = {
    { "NegativeLogLikelihoodLoss", "", 12, 0, 2, 3, 1, 1, 0, L_LIKELIHOOD, infer_loss, eval_loss, reals_scratch, NULL, NULL, NULL, NULL },
    { "SoftmaxCrossEntropyLoss", "", 12, 0, 2, 3, 1, 2, 0, L_ENTROPY, infer_loss, eval_loss, reals_scratch, NULL, NULL, NULL, NULL },
    { 0 }
};
