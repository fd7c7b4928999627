/* Opening a model and running one step over several requests, for tests. */
#ifndef TESTS_ENGINE_ONNX_RUN_H
#define TESTS_ENGINE_ONNX_RUN_H

#include "engine/engine.h"
#include "engine/onnx/onnx_engine.h"

struct onnx_run { struct engine *engine; struct engine_instance *instance; const struct signature *signature; };

enum status onnx_run_open(struct onnx_run *r, const char *path, const struct engine_options *o, struct err *err);
void        onnx_run_close(struct onnx_run *r);
/* A step over n requests that have passed check; each request's outputs are then there. */
enum status onnx_run_step(struct onnx_run *r, struct request **requests, int n, const atomic_bool *stop, struct err *err);
/* A request of one float input of `rows` rows (dims[0] is replaced); x is borrowed. */
void        onnx_run_request(struct request *q, struct request_tensor *slot, const char *name, float *x, const int64_t *dims, int rank, int64_t rows);

#endif
