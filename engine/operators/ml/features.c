/* Features prepared: Scaler, Normalizer, Binarizer, Imputer, FeatureVectorizer, ArrayFeatureExtractor, OneHotEncoder; and ZipMap, which hands its tensor on. */
#include <string.h>

#include "engine/operators/ml/ml.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum feature { F_SCALER, F_NORMALIZER, F_BINARIZER, F_IMPUTER };

static enum status infer_feature(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t rows, features;
    if (!dtype_is_number(x->dtype) || (c->node->op->code != F_BINARIZER && !ml_rows(x, &rows, &features))) return call_error(c, err, ST_BAD_INPUT, "it takes rows of numbers");
    bool keeps = c->node->op->code >= F_BINARIZER;
    return call_set(c, 0, keeps ? x->dtype : DT_F32, x->dims, x->rank, err);
}

/* One of a list that is by feature, or one for all. */
static double listed(const float *list, int64_t count, int64_t k, double otherwise) { return count ? (double)list[count == 1 ? 0 : k < count ? k : count - 1] : otherwise; }

static void scale_row(const struct call *c, double *x, int64_t n)
{
    int64_t scales, offsets;
    const float *scale = ml_floats(c->node, "scale", &scales), *offset = ml_floats(c->node, "offset", &offsets);
    for (int64_t k = 0; k < n; k++) x[k] = (double)((float)(x[k] - listed(offset, offsets, k, 0)) * (float)listed(scale, scales, k, 1));
}

static void normalise_row(const struct call *c, double *x, int64_t n)
{
    double norm = 0;
    bool l1 = node_text_is(c->node, "norm", "L1", false), l2 = node_text_is(c->node, "norm", "L2", false);
    for (int64_t k = 0; k < n; k++) norm = l1 ? norm + fabs(x[k]) : l2 ? norm + x[k] * x[k] : k == 0 || x[k] > norm ? x[k] : norm;
    if (l2) norm = sqrt(norm);
    for (int64_t k = 0; k < n && norm != 0; k++) x[k] /= norm;
}

static void impute_row(const struct call *c, double *x, int64_t n)
{
    bool real = dtype_is_real(c->in[0]->dtype);
    int64_t floats, ints;
    const float *with = ml_floats(c->node, "imputed_value_floats", &floats);
    const int64_t *with_int = ml_ints(c->node, "imputed_value_int64s", &ints);
    double replaced = real ? (double)node_float(c->node, "replaced_value_float", 0) : (double)node_int(c->node, "replaced_value_int64", 0);
    for (int64_t k = 0; k < n; k++) {
        bool hit = x[k] == replaced || (replaced != replaced && x[k] != x[k]);
        if (hit) x[k] = real ? listed(with, floats, k, x[k]) : ints ? (double)with_int[ints == 1 ? 0 : k < ints ? k : ints - 1] : x[k];
    }
}

static enum status eval_feature(struct call *c, struct err *err)
{
    struct reals r;
    int64_t rows = 0, n = 0;
    double threshold = (double)node_float(c->node, "threshold", 0);
    (void)err;
    if (!ml_rows(c->in[0], &rows, &n)) { rows = 1; n = (int64_t)operand_count(c->in[0]); }
    reals_begin(&r, c);
    memcpy(r.out[0], r.in[0], (size_t)(rows * n) * sizeof *r.in[0]);
    for (int64_t row = 0; row < rows; row++) {
        double *x = r.out[0] + row * n;
        switch (c->node->op->code) {
        case F_SCALER: scale_row(c, x, n); break;
        case F_NORMALIZER: normalise_row(c, x, n); break;
        case F_IMPUTER: impute_row(c, x, n); break;
        default:
            for (int64_t k = 0; k < n; k++) x[k] = x[k] > threshold;
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- FeatureVectorizer: rows of several inputs behind each other ---- */
static enum status infer_vectorizer(struct call *c, struct err *err)
{
    int64_t rows = 0, all = 0, r, n;
    for (int i = 0; i < c->in_count; i++) {
        if (!c->in[i] || !dtype_is_number(c->in[i]->dtype) || !ml_rows(c->in[i], &r, &n) || (i && r != rows)) return call_error(c, err, ST_BAD_INPUT, "its inputs differ in rows or hold no numbers");
        rows = r;
        if (__builtin_add_overflow(all, n, &all)) return call_error(c, err, ST_TOO_LARGE, "its rows are too long");
    }
    return call_set(c, 0, DT_F32, (int64_t[]){ rows, all }, 2, err);
}

static enum status eval_vectorizer(struct call *c, struct err *err)
{
    int64_t at = 0, all = c->out[0]->dims[1], rows, n;
    (void)err;
    for (int i = 0; i < c->in_count; i++, at += n) {
        ml_rows(c->in[i], &rows, &n);
        for (int64_t k = 0; k < rows * n; k++) operand_real_put(c->out[0], (uint64_t)(k / n * all + at + k % n), operand_real(c->in[i], (uint64_t)k));
    }
    return ST_OK;
}

/* ---- ArrayFeatureExtractor(x, indices): columns of the last dimension ---- */
static enum status infer_extract(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *at = c->in[1];
    int64_t dims[TENSOR_RANK_MAX], n = (int64_t)operand_count(at);
    if (x->rank < 1 || operand_size(x) == 0 || at->dtype != DT_I64 || n < 1) return call_error(c, err, ST_BAD_INPUT, "it takes a tensor and a list of int64");
    memcpy(dims, x->dims, sizeof dims);
    dims[x->rank - 1] = n;
    if (x->rank > 1) return call_set(c, 0, x->dtype, dims, x->rank, err);
    return call_set(c, 0, x->dtype, (int64_t[]){ 1, n }, 2, err);
}

static enum status eval_extract(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t n = (int64_t)operand_count(c->in[1]), width = x->dims[x->rank - 1], total = (int64_t)operand_count(c->out[0]);
    int size = operand_size(x);
    for (int64_t k = 0; k < total; k++) {
        int64_t at = operand_int(c->in[1], (uint64_t)(k % n));
        if (at < 0 || at >= width) return call_error(c, err, ST_BAD_INPUT, "index %lld is not in a row of %lld", (long long)at, (long long)width);
        memcpy((char *)c->out[0]->data + k * size, (const char *)x->data + (k / n * width + at) * size, (size_t)size);
    }
    return ST_OK;
}

/* ---- OneHotEncoder ---- */
static enum status infer_encoder(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t dims[TENSOR_RANK_MAX + 1], texts, ints;
    ml_strings(c->node, "cats_strings", &texts);
    ml_ints(c->node, "cats_int64s", &ints);
    if (x->dtype == DT_STRING ? texts == 0 : !dtype_is_number(x->dtype) || ints == 0) return call_error(c, err, ST_BAD_INPUT, "its categories do not fit %s", dtype_name(x->dtype));
    memcpy(dims, x->dims, sizeof x->dims);
    dims[x->rank] = x->dtype == DT_STRING ? texts : ints;
    return call_set(c, 0, DT_F32, dims, x->rank + 1, err);
}

static enum status eval_encoder(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t n, ints;
    const struct string_ref *texts = ml_strings(c->node, "cats_strings", &n), *s = x->data;
    const int64_t *numbers = ml_ints(c->node, "cats_int64s", &ints);
    bool strings = x->dtype == DT_STRING, lenient = node_int(c->node, "zeros", 1) != 0;
    float *y = c->out[0]->data;
    if (!strings) n = ints;
    for (uint64_t i = 0, count = operand_count(x); i < count; i++) {
        bool any = false;
        for (int64_t k = 0; k < n; k++) {
            bool hit = strings ? s[i].length == texts[k].length && (s[i].length == 0 || memcmp(s[i].text, texts[k].text, s[i].length) == 0) : (int64_t)operand_real(x, i) == numbers[k];
            y[(int64_t)i * n + k] = hit;
            any = any || hit;
        }
        if (!any && !lenient) return call_error(c, err, ST_BAD_INPUT, "element %llu is in no category", (unsigned long long)i);
    }
    return ST_OK;
}

/* ---- ZipMap ---- */
static enum status eval_zip(struct call *c, struct err *err)
{
    (void)err;
    if (c->out[0]->bytes && c->out[0]->data != c->in[0]->data) memcpy(c->out[0]->data, c->in[0]->data, c->out[0]->bytes);
    return ST_OK;
}

#define ML(name, ins, code, infer, eval, scratch) { name, "ai.onnx.ml", 1, 0, ins, ins, 1, 1, 0, code, infer, eval, scratch, NULL, NULL, rows_apart, NULL }
const struct op ops_ml_features[] = {
    ML("Scaler", 1, F_SCALER, infer_feature, eval_feature, reals_scratch), ML("Normalizer", 1, F_NORMALIZER, infer_feature, eval_feature, reals_scratch),
    ML("Binarizer", 1, F_BINARIZER, infer_feature, eval_feature, reals_scratch), ML("Imputer", 1, F_IMPUTER, infer_feature, eval_feature, reals_scratch),
    ML("ArrayFeatureExtractor", 2, 0, infer_extract, eval_extract, NULL), ML("OneHotEncoder", 1, 0, infer_encoder, eval_encoder, NULL),
    { "FeatureVectorizer", "ai.onnx.ml", 1, 0, 1, GRAPH_INPUTS_MAX, 1, 1, 0, 0, infer_vectorizer, eval_vectorizer, NULL, NULL, NULL, NULL, NULL },
    { "ZipMap", "ai.onnx.ml", 1, 0, 1, 1, 1, 1, OP_VIEW, 0, infer_same, eval_zip, NULL, NULL, NULL, rows_apart, NULL },
    { 0 }
};
