/* What normalise.c borrows. */
#ifndef ENGINE_OPERATORS_NN_NORMS_H
#define ENGINE_OPERATORS_NN_NORMS_H

#include "engine/graph/graph.h"

/* InstanceNormalization and GroupNormalization in f32, whatever the layout: `groups` of channels, scale and bias of each channel. */
void        channels_norm_f32(const struct call *c, int64_t groups, const float *scale, const float *bias, float epsilon);
uint64_t    channels_norm_scratch(const struct call *c);
/* BatchNormalization by the statistics of this very batch; outputs 1 and 2 are the running mean and variance. */
enum status batch_norm_train(struct call *c, struct err *err);

/* The same as a task of a GPU, scale and bias being inputs 1 and 2 with a number for each channel. */
void channels_norm_tasks(struct call *c, struct task_list *l, int64_t groups, float epsilon);

#endif
