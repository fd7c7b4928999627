/* The ONNX front end of the graph core as an engine (engine/engine.h): a slot is done after one step. Rows of requests that ride together are
 * gathered into one input, run, and scattered; a lone request runs on its own buffers. */
#ifndef ENGINE_ONNX_ONNX_ENGINE_H
#define ENGINE_ONNX_ONNX_ENGINE_H

#include "engine/engine.h"

extern const struct engine_ops onnx_engine;

/* Parses and imports without keeping anything: what the inspector's child runs (R34). External data is not opened. */
enum status onnx_inspect(const uint8_t *data, uint64_t size, struct err *err);

#endif
