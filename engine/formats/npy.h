/* NumPy's .npy files, versions 1 to 3: one dense little-endian array, C order. */
#ifndef ENGINE_FORMATS_NPY_H
#define ENGINE_FORMATS_NPY_H

#include "base/arena.h"
#include "base/buf.h"
#include "engine/tensor.h"

/* The tensor's data points into `bytes` (which may not be aligned for its type). */
enum status npy_parse(struct tensor *out, struct arena *arena, const char *bytes, size_t length, struct err *err);
/* Appends the whole file. ST_UNSUPPORTED for a dtype that NumPy does not have. */
enum status npy_write(struct buf *out, const struct tensor *t, struct err *err);

#endif
