/* A model in f32 whose inner tensors can be looked at: the graph with those among its outputs, so that the usual passes keep them. */
#ifndef ENGINE_CALIBRATE_OBSERVER_H
#define ENGINE_CALIBRATE_OBSERVER_H

#include "engine/graph/graph.h"
#include "engine/signature.h"

struct observer;
struct observer_options { int threads, cpu_level; uint64_t memory_max; };

/* `data` must outlive the observer. names: tensors of the main graph to keep. */
enum status observer_open(struct observer **out, const uint8_t *data, uint64_t size, const char *const *names, int name_count, const struct observer_options *o, struct err *err);
void        observer_close(struct observer *o);
const struct port *observer_inputs(const struct observer *o, int *count);
/* inputs[count of observer_inputs], data aligned to TENSOR_ALIGN. */
enum status observer_run(struct observer *o, const struct tensor *inputs, struct err *err);
/* Of the last run. */
const struct operand *observer_tensor(const struct observer *o, int name);
int         observer_output_count(const struct observer *o);
const struct operand *observer_output(const struct observer *o, int k);

#endif
