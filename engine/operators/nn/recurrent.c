/* RNN, GRU and LSTM in both directions and layouts. One step of one direction is the same for all three: the gates' sums W x + R h + b, then the cell.
 * Here they are computed in double, for all types and attributes; f32 with the usual ones is in recurrent_f32.c. */
#include <string.h>
#include <strings.h>

#include "engine/operators/nn/recurrent.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

static bool shaped(const struct operand *o, enum dtype t, int64_t a, int64_t b, int64_t n)
{
    if (!o) return true;
    return o->dtype == t && o->dims[0] == a && (b < 0 || (o->rank > 1 && o->dims[1] == b)) && (n < 0 || (o->rank > 2 && o->dims[2] == n)) && o->rank == (b < 0 ? 1 : n < 0 ? 2 : 3);
}

enum status recurrent_read(const struct call *c, struct recurrent *r, struct err *err)
{
    const struct operand *x = c->in[IN_X], *w = c->in[IN_W];
    enum dtype t = x->dtype;
    static const int gates[] = { 1, 3, 4 };
    bool both = node_text_is(c->node, "direction", "bidirectional", false);
    *r = (struct recurrent){ .cell = (enum cell)c->node->op->code, .directions = both ? 2 : 1, .reverse = node_text_is(c->node, "direction", "reverse", false), .batch_first = node_int(c->node, "layout", 0) != 0 };
    r->gates = gates[r->cell];
    if (!dtype_is_real(t) || x->rank != 3 || w->rank != 3) return call_error(c, err, ST_BAD_INPUT, "its input and weights must have 3 dimensions of a floating type");
    r->steps = x->dims[r->batch_first];
    r->batch = x->dims[!r->batch_first];
    r->inputs = x->dims[2];
    r->hidden = node_int(c->node, "hidden_size", w->dims[1] / r->gates);
    if (r->hidden < 1 || r->hidden > 1 << 24) return call_error(c, err, ST_BAD_INPUT, "hidden_size is %lld", (long long)r->hidden);
    int64_t d = r->directions, h = r->hidden, g = r->gates * h, first = r->batch_first ? r->batch : d, second = r->batch_first ? d : r->batch;
    const struct operand *lengths = call_input(c, IN_LENGTHS);
    bool fits = shaped(w, t, d, g, r->inputs) && shaped(c->in[IN_R], t, d, g, h) && shaped(call_input(c, IN_B), t, d, 2 * g, -1) && shaped(lengths, DT_I32, r->batch, -1, -1) && shaped(call_input(c, IN_H), t, first, second, h);
    if (r->cell == CELL_LSTM) fits = fits && shaped(call_input(c, IN_C), t, first, second, h) && shaped(call_input(c, IN_P), t, d, 3 * h, -1);
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "its weights, lengths and states do not fit %lld inputs and hidden_size %lld", (long long)r->inputs, (long long)r->hidden);
}

static enum status infer_recurrent(struct call *c, struct err *err)
{
    struct recurrent r;
    enum status st = recurrent_read(c, &r, err);
    if (st) return st;
    int64_t d = r.directions, all[2][4] = { { r.steps, d, r.batch, r.hidden }, { r.batch, r.steps, d, r.hidden } }, last[2][3] = { { d, r.batch, r.hidden }, { r.batch, d, r.hidden } };
    st = call_set(c, 0, c->in[0]->dtype, all[r.batch_first], 4, err);
    for (int i = 1; i < c->out_count && !st; i++) st = call_set(c, i, c->in[0]->dtype, last[r.batch_first], 3, err);
    return st;
}

static uint64_t scratch_recurrent(const struct call *c)
{
    struct recurrent r;
    if (recurrent_read(c, &r, NULL)) return 0;
    return recurrent_is_plain(c->node) && c->in[IN_X]->dtype == DT_F32 ? recurrent_f32_scratch(c, &r) : reals_scratch_more(c, (uint64_t)(r.hidden * (2 * r.gates + 3)));
}

/* ---- activations by name, each with its own alpha and beta ---- */
static const char *const curves[] = { "tanh", "sigmoid", "relu", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu", "softsign", "softplus" };
enum { CURVES = sizeof curves / sizeof curves[0] };
struct curve { int kind; double alpha, beta; };      /* kind: index of curves */

static double apply(const struct curve *f, double x)
{
    switch (f->kind) {
    case 0: return tanh(x);
    case 1: return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
    case 2: return x > 0 ? x : 0;
    case 3: return f->alpha * x + f->beta;
    case 4: return x >= 0 ? x : f->alpha * x;
    case 5: return x > f->alpha ? x : 0;
    case 6: return f->alpha * tanh(f->beta * x);
    case 7: return fmin(1, fmax(0, f->alpha * x + f->beta));
    case 8: return x >= 0 ? x : f->alpha * expm1(x);
    case 9: return x / (1 + fabs(x));
    default: return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    }
}

/* Activation k of direction d, by the attributes; names nobody knows are refused. */
static enum status read_curve(const struct call *c, int per, int d, int k, struct curve *out, struct err *err)
{
    static const char *const usual[3][3] = { { "Tanh" }, { "Sigmoid", "Tanh" }, { "Sigmoid", "Tanh", "Tanh" } };
    const struct onnx_attribute *names = node_attribute(c->node, "activations"), *alpha = node_attribute(c->node, "activation_alpha"), *beta = node_attribute(c->node, "activation_beta");
    int at = d * per + k, i = 0;
    bool named = names && names->type == ONNX_STRINGS && at < names->count;
    const char *text = named ? names->strings[at].text : usual[c->node->op->code][k];
    size_t length = named ? names->strings[at].length : strlen(text);
    while (i < CURVES && (strlen(curves[i]) != length || strncasecmp(text, curves[i], length))) i++;
    if (i == CURVES) return call_error(c, err, ST_UNSUPPORTED, "its activation '%.*s' is not known", (int)(length < 40 ? length : 40), text);
    static const double alphas[] = { 0, 0, 0, 1, 0.01, 1, 1, 0.2, 1, 0, 0 }, betas[] = { 0, 0, 0, 0, 0, 0, 1, 0.5, 0, 0, 0 };
    out->kind = i;
    out->alpha = alpha && alpha->type == ONNX_FLOATS && at < alpha->count ? (double)alpha->floats[at] : alphas[i];
    out->beta = beta && beta->type == ONNX_FLOATS && at < beta->count ? (double)beta->floats[at] : betas[i];
    return ST_OK;
}

/* ---- one step ---- */
struct lane { const double *w, *r, *b, *p; struct curve f[3]; double *sums, *h, *cell, *turned; };      /* sums: [gates * hidden] W x + b, then as many R h + b */

static void gate_sums(const struct recurrent *r, const struct lane *l, const double *x)
{
    int64_t g = r->gates * r->hidden;
    for (int64_t i = 0; i < g; i++) {
        double a = l->b ? l->b[i] : 0, b = l->b ? l->b[g + i] : 0;
        for (int64_t k = 0; k < r->inputs; k++) a += l->w[i * r->inputs + k] * x[k];
        for (int64_t k = 0; k < r->hidden; k++) b += l->r[i * r->hidden + k] * l->h[k];
        l->sums[i] = a;
        l->sums[g + i] = b;
    }
}

static double clipped(double v, double clip) { return clip > 0 ? fmax(-clip, fmin(clip, v)) : v; }

/* Gates z, r, h. linear_before_reset decides whether the reset multiplies the product or what goes into it. */
static void step_gru(const struct recurrent *r, const struct lane *l, bool linear, double clip)
{
    int64_t n = r->hidden;
    const double *x = l->sums, *h = l->sums + 3 * n;
    double *next = l->turned, *reset = l->turned + n;
    for (int64_t i = 0; i < n; i++) reset[i] = apply(&l->f[0], clipped(x[n + i] + h[n + i], clip));
    for (int64_t i = 0; i < n; i++) {
        double z = apply(&l->f[0], clipped(x[i] + h[i], clip)), product = h[2 * n + i];
        if (linear) product *= reset[i];
        else {
            product = l->b ? l->b[5 * n + i] : 0;
            for (int64_t k = 0; k < n; k++) product += l->r[(2 * n + i) * n + k] * reset[k] * l->h[k];
        }
        next[i] = (1 - z) * apply(&l->f[1], clipped(x[2 * n + i] + product, clip)) + z * l->h[i];
    }
    memcpy(l->h, next, (size_t)n * sizeof *next);
}

/* Gates i, o, f, c; peepholes for i, o, f. */
static void step_lstm(const struct recurrent *r, const struct lane *l, bool coupled, double clip)
{
    int64_t n = r->hidden;
    for (int64_t k = 0; k < n; k++) {
        double v[4];
        for (int g = 0; g < 4; g++) v[g] = l->sums[g * n + k] + l->sums[(4 + g) * n + k];
        double old = l->cell[k], in = apply(&l->f[0], clipped(v[0] + (l->p ? l->p[k] * old : 0), clip));
        double forget = coupled ? 1 - in : apply(&l->f[0], clipped(v[2] + (l->p ? l->p[2 * n + k] * old : 0), clip));
        l->cell[k] = forget * old + in * apply(&l->f[1], clipped(v[3], clip));
        double out = apply(&l->f[0], clipped(v[1] + (l->p ? l->p[n + k] * l->cell[k] : 0), clip));
        l->h[k] = out * apply(&l->f[2], l->cell[k]);
    }
}

static void step(const struct call *c, const struct recurrent *r, const struct lane *l, const double *x)
{
    double clip = (double)node_float(c->node, "clip", 0);
    gate_sums(r, l, x);
    if (r->cell == CELL_GRU) step_gru(r, l, node_int(c->node, "linear_before_reset", 0) != 0, clip);
    else if (r->cell == CELL_LSTM) step_lstm(r, l, node_int(c->node, "input_forget", 0) != 0, clip);
    else
        for (int64_t i = 0; i < r->hidden; i++) l->h[i] = apply(&l->f[0], clipped(l->sums[i] + l->sums[r->hidden + i], clip));
}

/* All steps of one row in one direction. */
static void run_row(const struct call *c, const struct recurrent *r, const struct lane *l, const struct reals *v, int d, int64_t b)
{
    int64_t n = r->hidden, at = recurrent_state_at(r, d, b), length = call_input(c, IN_LENGTHS) ? operand_int(c->in[IN_LENGTHS], (uint64_t)b) : r->steps;
    bool back = r->reverse || d == 1, lstm = r->cell == CELL_LSTM;
    length = length < 0 ? 0 : length > r->steps ? r->steps : length;
    for (int64_t i = 0; i < n; i++) {
        l->h[i] = call_input(c, IN_H) ? v->in[IN_H][at + i] : 0;
        l->cell[i] = lstm && call_input(c, IN_C) ? v->in[IN_C][at + i] : 0;
    }
    for (int64_t k = 0; k < length; k++) {
        int64_t t = back ? length - 1 - k : k;
        step(c, r, l, v->in[IN_X] + (r->batch_first ? b * r->steps + t : t * r->batch + b) * r->inputs);
        if (v->out[0]) memcpy(v->out[0] + (r->batch_first ? (b * r->steps + t) * r->directions + d : (t * r->directions + d) * r->batch + b) * n, l->h, (size_t)n * sizeof *l->h);
    }
    if (c->out_count > 1 && v->out[1]) memcpy(v->out[1] + at, l->h, (size_t)n * sizeof *l->h);
    if (c->out_count > 2 && v->out[2]) memcpy(v->out[2] + at, l->cell, (size_t)n * sizeof *l->cell);
}

static enum status eval_recurrent(struct call *c, struct err *err)
{
    struct recurrent r;
    struct reals v;
    enum status st = recurrent_read(c, &r, err);
    if (st) return st;
    if (recurrent_is_plain(c->node) && c->in[IN_X]->dtype == DT_F32) {
        recurrent_f32_eval(c, &r);
        return ST_OK;
    }
    reals_begin(&v, c);
    int per = r.cell + 1;
    int64_t g = r.gates * r.hidden;
    for (int d = 0; d < r.directions; d++) {
        struct lane l = { .w = v.in[IN_W] + d * g * r.inputs, .r = v.in[IN_R] + d * g * r.hidden, .sums = v.rest };
        l.b = call_input(c, IN_B) ? v.in[IN_B] + d * 2 * g : NULL;
        l.p = r.cell == CELL_LSTM && call_input(c, IN_P) ? v.in[IN_P] + d * 3 * r.hidden : NULL;
        l.h = v.rest + 2 * g;
        l.cell = l.turned = l.h + r.hidden;
        for (int k = 0; k < per && !st; k++) st = read_curve(c, per, d, k, &l.f[k], err);
        for (int64_t b = 0; b < r.batch && !st; b++) run_row(c, &r, &l, &v, d, b);
    }
    if (!st) reals_end(&v, c);
    return st;
}

/* Each row is a sequence for itself: rows stay apart where the batch comes first. */
static bool rows_recurrent(const struct call *c) { return node_int(c->node, "layout", 0) != 0 && c->in[0]->batched && !call_any_tainted(c, 1); }

#define RECURRENT(name, code, ins, outs) { name, "", 1, 0, 3, ins, 1, outs, OP_PRODUCT, code, infer_recurrent, eval_recurrent, scratch_recurrent, NULL, NULL, rows_recurrent, NULL }
const struct op ops_recurrent[] = {
    RECURRENT("RNN", CELL_RNN, 6, 2), RECURRENT("GRU", CELL_GRU, 6, 2), RECURRENT("LSTM", CELL_LSTM, 8, 3),
    { 0 }
};
