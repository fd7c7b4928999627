/* Shared by onnx.c and onnx_tensor.c only. */
#ifndef ENGINE_FORMATS_ONNX_TENSOR_H
#define ENGINE_FORMATS_ONNX_TENSOR_H

#include "engine/formats/onnx.h"
#include "engine/formats/protobuf.h"

enum status onnx_read_name(const char **out, struct arena *arena, const struct pb_field *f, struct err *err);
enum status onnx_read_tensor(struct onnx_tensor *t, struct arena *arena, struct pb c, struct err *err);
enum status onnx_read_sparse(struct onnx_tensor *t, struct arena *arena, struct pb c, struct err *err);      /* a SparseTensorProto, made dense */

#endif
