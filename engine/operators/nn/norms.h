/* What normalise.c borrows. */
#ifndef ENGINE_OPERATORS_NN_NORMS_H
#define ENGINE_OPERATORS_NN_NORMS_H

#include "engine/graph/graph.h"

/* BatchNormalization by the statistics of this very batch; outputs 1 and 2 are the running mean and variance. */
enum status batch_norm_train(struct call *c, struct err *err);

#endif
