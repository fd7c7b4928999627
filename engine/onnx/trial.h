/* The trial of a precision: the same generated inputs through a graph in float and through the same graph in bfloat16 or in bytes, errors compared and calls timed. */
#ifndef ENGINE_ONNX_TRIAL_H
#define ENGINE_ONNX_TRIAL_H

#include "engine/graph/graph.h"

struct trial;

/* Largest relative L2 error, |a - b| / |a|, that a float output may have. */
#define TRIAL_ERROR_MAX 1e-2
/* Up to here it is tried once more with the layers at the graph's ends in float, which is worth some tenths of the error. */
#define TRIAL_ERROR_NEAR 1.3e-2
/* A graph in bytes gives each operator's answer to one quantum of the file's own; what a quantum has become at the outputs is the network's matter (a chain of eighty layers with random
 * weights makes 0.1 to 0.2 of it, and so do two ways to add up the same file in float). This bound only finds what is wrong. */
#define TRIAL_INT8_ERROR_MAX 0.25

/* Is there anything to gain: layers on constant weights, and so much work in a call that its time shows? False too for inputs and outputs that cannot be made up or
 * compared (texts, sequences, shapes that are not known). `g` has been through its passes, in float. */
bool        trial_wanted(const struct graph *g, uint64_t memory_max);
/* Makes up to 8 inputs, runs g (float) on them for about half a second, keeps the answers and the least time of a call. */
enum status trial_begin(struct trial **out, const struct graph *g, uint64_t memory_max, struct err *err);
/* Runs g (another precision of the same file) on the same inputs. *error: the largest of any float output, INFINITY where one is not finite that was, or a whole number
 * differs (of a graph in bytes, bytes count as numbers). *gain: how many times as fast. */
enum status trial_compare(struct trial *t, const struct graph *g, double *error, double *gain, struct err *err);
int         trial_inputs(const struct trial *t);        /* how many were used */
void        trial_end(struct trial *t);                 /* NULL is fine */

#endif
