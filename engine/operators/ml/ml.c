#include "engine/operators/ml/ml.h"

#include <math.h>
#include <string.h>

#include "engine/operators/reals.h"

bool ml_rows(const struct operand *x, int64_t *rows, int64_t *features)
{
    if (x->rank != 1 && x->rank != 2) return false;
    *rows = x->rank == 2 ? x->dims[0] : 1;
    *features = x->dims[x->rank - 1];
    return true;
}

static const struct onnx_attribute *list(const struct node *n, const char *name, enum onnx_attribute_type t, int64_t *count)
{
    const struct onnx_attribute *a = node_attribute(n, name);
    if (a && a->type != t) a = NULL;
    *count = a ? a->count : 0;
    return a;
}

const float *ml_floats(const struct node *n, const char *name, int64_t *count)
{
    const struct onnx_attribute *a = list(n, name, ONNX_FLOATS, count);
    return a ? a->floats : NULL;
}

const int64_t *ml_ints(const struct node *n, const char *name, int64_t *count)
{
    const struct onnx_attribute *a = list(n, name, ONNX_INTS, count);
    return a ? a->ints : NULL;
}

const struct string_ref *ml_strings(const struct node *n, const char *name, int64_t *count)
{
    const struct onnx_attribute *a = list(n, name, ONNX_STRINGS, count);
    return a ? a->strings : NULL;
}

enum ml_transform ml_transform_of(const struct node *n)
{
    static const char *const names[] = { "NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT" };
    for (int i = 1; i < 5; i++)
        if (node_text_is(n, "post_transform", names[i], false)) return (enum ml_transform)i;
    return ML_NONE;
}

double ml_logistic(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

/* The inverse of the normal distribution as Winitzki approximates it. */
static double probit(double p)
{
    double x = 2 * p - 1, sign = x < 0 ? -1 : 1, log_rest = log((1 - x) * (1 + x)), a = 2 / (3.14159 * 0.147) + 0.5 * log_rest;
    return 1.41421356 * sign * sqrt(-a + sqrt(a * a - log_rest / 0.147));
}

void ml_transform(double *s, int64_t n, enum ml_transform t)
{
    double most = -(double)INFINITY, sum = 0;
    for (int64_t k = 0; k < n && t == ML_LOGISTIC; k++) s[k] = ml_logistic(s[k]);
    for (int64_t k = 0; k < n && t == ML_PROBIT; k++) s[k] = probit(s[k]);
    if (t != ML_SOFTMAX && t != ML_SOFTMAX_ZERO) return;
    for (int64_t k = 0; k < n; k++) most = s[k] > most ? s[k] : most;
    for (int64_t k = 0; k < n; k++) {
        bool zero = t == ML_SOFTMAX_ZERO && fabs(s[k]) <= 1e-7;         /* what was 0 stays 0 */
        sum += s[k] = zero ? 0 : exp(s[k] - most);
    }
    for (int64_t k = 0; k < n && sum > 0; k++) s[k] /= sum;
}

struct ml_labels ml_labels_of(const struct node *n, const char *ints)
{
    struct ml_labels l = { 0 };
    l.texts = ml_strings(n, "classlabels_strings", &l.count);
    if (l.count == 0) {
        l.texts = NULL;
        l.numbers = ml_ints(n, ints, &l.count);
    }
    return l;
}

enum dtype ml_label_type(const struct ml_labels *l) { return l->texts ? DT_STRING : DT_I64; }

void ml_label_put(const struct ml_labels *l, struct operand *y, int64_t row, int64_t k)
{
    static const struct string_ref none = { "", 0 };
    if (l->texts) ((struct string_ref *)y->data)[row] = k >= 0 && k < l->count ? l->texts[k] : none;
    else ((int64_t *)y->data)[row] = l->numbers && k >= 0 && k < l->count ? l->numbers[k] : k;
}
