/* Writes small ONNX files for tests: values are named "v0", "v1", ...; weights are random from a fixed seed. */
#ifndef TESTS_ENGINE_ONNX_WRITER_H
#define TESTS_ENGINE_ONNX_WRITER_H

#include <stdint.h>

#include "base/buf.h"

struct writer { struct buf graph; int opset, next; uint32_t seed; };

void writer_begin(struct writer *w, int opset);
/* dims: -1 is the free dimension "batch". Returns the value's number: "v<number>". */
int  writer_input(struct writer *w, int dtype, const int64_t *dims, int rank);
void writer_output(struct writer *w, int value, int dtype, const int64_t *dims, int rank);
int  writer_floats(struct writer *w, const int64_t *dims, int rank, float low, float high);
int  writer_ints(struct writer *w, const int64_t *values, int count);
/* attributes: "axis=1", "pads=1,1,1,1", "alpha=f0.5", "mode=sreflect", ended by NULL */
int  writer_node(struct writer *w, const char *op, const int *inputs, int count, const char *const *attributes);
/* The whole ModelProto; frees the writer. */
void writer_finish(struct writer *w, struct buf *model);
void writer_save(struct writer *w, const char *path);

/* Whole networks on [batch, 3, size, size] (mlp: [batch, 64]) with `classes` results. */
void write_mlp(const char *path);
void write_resnet18(const char *path, int size, int width);
void write_mobilenet_v2(const char *path, int size);
/* One of every habit of the CNN families: squeeze and excite, gates, shuffles, branches, splits, odd pooling, resizing, means; two outputs
 * ([batch, 12, size/2, size/2] and [batch, 10]), the first of them read on by the network. */
void write_mixture(const char *path, int size);

#endif
