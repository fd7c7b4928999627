/* Shared by the operators of ai.onnx.ml: rows of features, lists in attributes, what is done to scores at the end, labels of classes. */
#ifndef ENGINE_OPERATORS_ML_ML_H
#define ENGINE_OPERATORS_ML_ML_H

#include "engine/operators/operators.h"

/* An input [rows, features] ([features] is one row). False: it is neither. */
bool ml_rows(const struct operand *x, int64_t *rows, int64_t *features);
const float *ml_floats(const struct node *n, const char *name, int64_t *count);           /* NULL and 0 if absent */
const int64_t *ml_ints(const struct node *n, const char *name, int64_t *count);
const struct string_ref *ml_strings(const struct node *n, const char *name, int64_t *count);

enum ml_transform { ML_NONE, ML_SOFTMAX, ML_LOGISTIC, ML_SOFTMAX_ZERO, ML_PROBIT };
enum ml_transform ml_transform_of(const struct node *n);
void ml_transform(double *scores, int64_t n, enum ml_transform t);
double ml_logistic(double x);

/* Labels: classlabels_strings, else the integers of `ints`. */
struct ml_labels { const struct string_ref *texts; const int64_t *numbers; int64_t count; };
struct ml_labels ml_labels_of(const struct node *n, const char *ints);
void ml_label_put(const struct ml_labels *l, struct operand *y, int64_t row, int64_t k);      /* label k, or k itself where there are none */
enum dtype ml_label_type(const struct ml_labels *l);

#endif
