/* Linear models and support vector machines. */
#include <math.h>
#include <string.h>

#include "engine/operators/ml/ml.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum machine_kind { M_LINEAR_REGRESSOR, M_LINEAR_CLASSIFIER, M_SVM_REGRESSOR, M_SVM_CLASSIFIER };

static enum status wrong(const struct call *c, struct err *err) { return call_error(c, err, ST_BAD_INPUT, "its coefficients do not fit rows of %lld numbers", (long long)c->in[0]->dims[c->in[0]->rank - 1]); }

static struct ml_labels labels_of(const struct call *c) { return ml_labels_of(c->node, "classlabels_ints"); }

/* ---- linear ---- */
/* How many scores a row has: targets, or classes by the coefficients. */
static int64_t linear_scores(const struct call *c, int64_t features)
{
    int64_t n;
    ml_floats(c->node, "coefficients", &n);
    if (c->node->op->code == M_LINEAR_REGRESSOR) return node_int(c->node, "targets", 1);
    return features ? n / features : 0;
}

static enum status infer_linear(struct call *c, struct err *err)
{
    int64_t rows, features, count, intercepts;
    if (!dtype_is_number(c->in[0]->dtype) || !ml_rows(c->in[0], &rows, &features)) return call_error(c, err, ST_BAD_INPUT, "it takes rows of numbers");
    int64_t n = linear_scores(c, features);
    ml_floats(c->node, "coefficients", &count);
    ml_floats(c->node, "intercepts", &intercepts);
    if (n < 1 || n > 1 << 20 || count != n * features || (intercepts && intercepts != n)) return wrong(c, err);
    if (c->node->op->code == M_LINEAR_REGRESSOR) return call_set(c, 0, DT_F32, (int64_t[]){ rows, n }, 2, err);
    struct ml_labels labels = labels_of(c);
    enum status st = call_set(c, 0, ml_label_type(&labels), &rows, 1, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, DT_F32, (int64_t[]){ rows, n == 1 && labels.count == 2 ? 2 : n }, 2, err);
}

static uint64_t scratch_linear(const struct call *c)
{
    int64_t rows, features;
    if (!ml_rows(c->in[0], &rows, &features)) return 0;
    int64_t n = linear_scores(c, features);
    return reals_scratch_more(c, (uint64_t)(n > 0 ? n : 0) + 2);
}

static enum status eval_linear(struct call *c, struct err *err)
{
    struct reals r;
    struct ml_labels labels = labels_of(c);
    int64_t rows = 0, features = 0, count, intercepts;
    const float *w = ml_floats(c->node, "coefficients", &count), *b = ml_floats(c->node, "intercepts", &intercepts);
    bool classes = c->node->op->code == M_LINEAR_CLASSIFIER;
    enum ml_transform t = ml_transform_of(c->node);
    (void)err;
    ml_rows(c->in[0], &rows, &features);
    int64_t n = linear_scores(c, features), width = n;
    reals_begin(&r, c);
    double *scores = r.rest, *to = !classes ? r.out[0] : c->out_count > 1 ? r.out[1] : NULL;
    for (int64_t row = 0; row < rows; row++) {
        int64_t best = 0;
        for (int64_t k = 0; k < n; k++) {
            scores[k] = intercepts ? (double)b[k] : 0;
            for (int64_t f = 0; f < features; f++) scores[k] += (double)w[k * features + f] * r.in[0][row * features + f];
            best = scores[k] > scores[best] ? k : best;
        }
        if (classes && n == 1) {
            best = scores[0] > 0;
            if (labels.count == 2) {                      /* the other class is what is left */
                width = 2;
                scores[1] = t == ML_LOGISTIC ? ml_logistic(scores[0]) : scores[0];
                scores[0] = t == ML_LOGISTIC ? ml_logistic(-scores[0]) : 1 - scores[0];
            }
        }
        if (width == n) ml_transform(scores, n, t);
        if (to) memcpy(to + row * width, scores, (size_t)width * sizeof *scores);
        if (classes && c->out[0]) ml_label_put(&labels, c->out[0], row, best);
    }
    if (classes) r.out[0] = NULL;
    reals_end(&r, c);
    return ST_OK;
}

/* ---- support vectors ---- */
struct kernel { double gamma, coef, degree; int kind; };      /* 0 linear, 1 polynomial, 2 radial, 3 sigmoid */

static struct kernel read_kernel(const struct node *n)
{
    static const char *const names[] = { "LINEAR", "POLY", "RBF", "SIGMOID" };
    struct kernel k = { 0 };
    int64_t count;
    const float *p = ml_floats(n, "kernel_params", &count);
    if (count >= 3) k = (struct kernel){ (double)p[0], (double)p[1], (double)p[2], 0 };
    for (int i = 1; i < 4; i++)
        if (node_text_is(n, "kernel_type", names[i], false)) k.kind = i;
    return k;
}

static double kernel_of(const struct kernel *k, const double *x, const float *v, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += k->kind == 2 ? (x[i] - (double)v[i]) * (x[i] - (double)v[i]) : x[i] * (double)v[i];
    if (k->kind == 1) return pow(k->gamma * sum + k->coef, k->degree);
    if (k->kind == 2) return exp(-k->gamma * sum);
    return k->kind == 3 ? tanh(k->gamma * sum + k->coef) : sum;
}

struct machine { const float *vectors, *coefficients, *rho, *a, *b; const int64_t *per_class; int64_t supports, classes, features, pairs; bool probable, linear; };

static enum status read_machine(const struct call *c, struct machine *m, int64_t *rows, struct err *err)
{
    int64_t vectors, coefficients, rhos, as, bs, per;
    *m = (struct machine){ 0 };
    if (!dtype_is_number(c->in[0]->dtype) || !ml_rows(c->in[0], rows, &m->features)) return call_error(c, err, ST_BAD_INPUT, "it takes rows of numbers");
    m->vectors = ml_floats(c->node, "support_vectors", &vectors);
    m->coefficients = ml_floats(c->node, "coefficients", &coefficients);
    m->rho = ml_floats(c->node, "rho", &rhos);
    m->a = ml_floats(c->node, "prob_a", &as);
    m->b = ml_floats(c->node, "prob_b", &bs);
    m->per_class = ml_ints(c->node, "vectors_per_class", &per);
    bool fits = rhos >= 1;
    if (c->node->op->code == M_SVM_REGRESSOR) {
        m->supports = node_int(c->node, "n_supports", 0);
        m->linear = m->supports <= 0;
        fits = fits && (m->linear ? coefficients == m->features : coefficients == m->supports && vectors == m->supports * m->features);
        return fits ? ST_OK : wrong(c, err);
    }
    m->linear = per == 0;
    m->classes = m->linear ? labels_of(c).count : per;
    m->pairs = m->classes * (m->classes - 1) / 2;
    for (int64_t i = 0; i < per && fits; i++) fits = m->per_class[i] >= 0 && m->per_class[i] <= vectors && (m->supports += m->per_class[i]) <= vectors;
    fits = fits && m->classes >= 1 && m->classes < 1 << 12;
    if (fits && m->linear) fits = coefficients == m->classes * m->features;
    else if (fits) fits = m->classes >= 2 && vectors == m->supports * m->features && coefficients == (m->classes - 1) * m->supports && rhos >= m->pairs;
    m->probable = as > 0 && !m->linear;
    if (fits && m->probable) fits = as == m->pairs && bs == m->pairs;
    return fits ? ST_OK : wrong(c, err);
}

static int64_t machine_scores(const struct machine *m) { return m->probable || m->linear || m->classes == 2 ? m->classes : m->pairs > m->classes ? m->pairs : m->classes; }

static enum status infer_machine(struct call *c, struct err *err)
{
    struct machine m;
    int64_t rows;
    enum status st = read_machine(c, &m, &rows, err);
    if (st) return st;
    if (c->node->op->code == M_SVM_REGRESSOR) return call_set(c, 0, DT_F32, (int64_t[]){ rows, 1 }, 2, err);
    struct ml_labels labels = labels_of(c);
    st = call_set(c, 0, ml_label_type(&labels), &rows, 1, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, DT_F32, (int64_t[]){ rows, machine_scores(&m) }, 2, err);
}

static uint64_t scratch_machine(const struct call *c)
{
    struct machine m;
    int64_t rows;
    if (read_machine(c, &m, &rows, NULL)) return 0;
    return reals_scratch_more(c, (uint64_t)(m.supports + 2 * m.pairs + m.classes * (2 * m.classes + 6) + 8));
}

static double regress(const struct call *c, const struct machine *m, const struct kernel *k, const double *x)
{
    double sum = (double)m->rho[0];
    if (m->linear) sum += kernel_of(k, x, m->coefficients, m->features);
    for (int64_t i = 0; i < m->supports && !m->linear; i++) sum += (double)m->coefficients[i] * kernel_of(k, x, m->vectors + i * m->features, m->features);
    if (node_int(c->node, "one_class", 0)) return sum > 0 ? 1 : -1;
    return sum;
}

/* Decisions of each pair of classes: above 0 for the first. */
static void decide_pairs(const struct machine *m, const struct kernel *k, const double *x, double *kernels, double *pairs)
{
    for (int64_t i = 0; i < m->supports; i++) kernels[i] = kernel_of(k, x, m->vectors + i * m->features, m->features);
    int64_t at = 0, from_i = 0;
    for (int64_t i = 0; i < m->classes; from_i += m->per_class[i++])
        for (int64_t j = i + 1, from_j = from_i + m->per_class[i]; j < m->classes; from_j += m->per_class[j++], at++) {
            double sum = (double)m->rho[at];
            for (int64_t s = from_i; s < from_i + m->per_class[i]; s++) sum += (double)m->coefficients[(j - 1) * m->supports + s] * kernels[s];
            for (int64_t s = from_j; s < from_j + m->per_class[j]; s++) sum += (double)m->coefficients[i * m->supports + s] * kernels[s];
            pairs[at] = sum;
        }
}

/* Probabilities of the classes from those of the pairs (r[i, j] of i against j), by the fixed point of Wu, Lin and Weng. */
static void couple(const double *r, int64_t n, double *p, double *q)
{
    double *qp = q + n * n;
    for (int64_t t = 0; t < n; t++) {
        p[t] = 1 / (double)n;
        q[t * n + t] = 0;
        for (int64_t j = 0; j < n; j++) {
            if (j == t) continue;
            q[t * n + t] += r[j * n + t] * r[j * n + t];
            q[t * n + j] = -r[j * n + t] * r[t * n + j];
        }
    }
    for (int step = 0; step < 100; step++) {
        double whole = 0, worst = 0;
        for (int64_t t = 0; t < n; t++) {
            qp[t] = 0;
            for (int64_t j = 0; j < n; j++) qp[t] += q[t * n + j] * p[j];
            whole += p[t] * qp[t];
        }
        for (int64_t t = 0; t < n; t++) worst = fmax(worst, fabs(qp[t] - whole));
        if (worst < 0.005 / (double)n) break;
        for (int64_t t = 0; t < n; t++) {
            double diff = (whole - qp[t]) / q[t * n + t];
            p[t] += diff;
            whole = (whole + diff * (diff * q[t * n + t] + 2 * qp[t])) / (1 + diff) / (1 + diff);
            for (int64_t j = 0; j < n; j++) {
                qp[j] = (qp[j] + diff * q[t * n + j]) / (1 + diff);
                p[j] /= 1 + diff;
            }
        }
    }
}

/* The scores of one row; the class it is of is given back. */
static int64_t classify(const struct machine *m, const struct kernel *k, const double *x, double *scores, double *work, enum ml_transform t)
{
    double *kernels = work, *pairs = kernels + m->supports, *votes = pairs + m->pairs, *r = votes + m->classes;
    int64_t n = m->classes, best = 0, at = 0;
    if (m->linear) {
        for (int64_t i = 0; i < n; i++) scores[i] = kernel_of(k, x, m->coefficients + i * m->features, m->features) + (double)m->rho[0];
        for (int64_t i = 1; i < n; i++) best = scores[i] > scores[best] ? i : best;
        ml_transform(scores, n, t);
        return best;
    }
    decide_pairs(m, k, x, kernels, pairs);
    memset(votes, 0, (size_t)n * sizeof *votes);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++, at++) {
            votes[pairs[at] > 0 ? i : j] += 1;
            double p = m->probable ? fmin(fmax(ml_logistic(-((double)m->a[at] * pairs[at] + (double)m->b[at])), 1e-7), 1 - 1e-7) : 0;
            r[i * n + j] = p;
            r[j * n + i] = 1 - p;
        }
    for (int64_t i = 1; i < n; i++) best = votes[i] > votes[best] ? i : best;
    if (m->probable) {
        couple(r, n, scores, r + n * n);
        ml_transform(scores, n, t);
        return best;
    }
    if (n == 2) {
        double s = pairs[0];
        scores[1] = t == ML_LOGISTIC ? ml_logistic(s) : s;
        scores[0] = t == ML_LOGISTIC ? ml_logistic(-s) : -s;
        return best;
    }
    memcpy(scores, pairs, (size_t)m->pairs * sizeof *pairs);
    ml_transform(scores, m->pairs, t);
    return best;
}

static enum status eval_machine(struct call *c, struct err *err)
{
    struct machine m;
    struct reals r;
    struct kernel k = read_kernel(c->node);
    struct ml_labels labels = labels_of(c);
    int64_t rows;
    enum status st = read_machine(c, &m, &rows, err);
    if (st) return st;
    reals_begin(&r, c);
    bool classes = c->node->op->code == M_SVM_CLASSIFIER;
    int64_t n = classes ? machine_scores(&m) : 1;
    double *scores = r.rest, *work = scores + (n > 4 ? n : 4);
    for (int64_t row = 0; row < rows; row++) {
        const double *x = r.in[0] + row * m.features;
        if (!classes) { r.out[0][row] = regress(c, &m, &k, x); continue; }
        int64_t best = classify(&m, &k, x, scores, work, ml_transform_of(c->node));
        if (c->out_count > 1 && r.out[1]) memcpy(r.out[1] + row * n, scores, (size_t)n * sizeof *scores);
        if (c->out[0]) ml_label_put(&labels, c->out[0], row, best);
    }
    if (classes) r.out[0] = NULL;
    reals_end(&r, c);
    return ST_OK;
}

#define MACHINE(name, outs, code, kind) { name, "ai.onnx.ml", 1, 0, 1, 1, 1, outs, OP_PRODUCT, code, infer_##kind, eval_##kind, scratch_##kind, NULL, NULL, rows_apart, NULL }
const struct op ops_ml_machines[] = {
    MACHINE("LinearRegressor", 1, M_LINEAR_REGRESSOR, linear), MACHINE("LinearClassifier", 2, M_LINEAR_CLASSIFIER, linear),
    MACHINE("SVMRegressor", 1, M_SVM_REGRESSOR, machine), MACHINE("SVMClassifier", 2, M_SVM_CLASSIFIER, machine),
    { 0 }
};
