/* NumPy's .npz files: zip archives (stored or deflated, below 4 GiB) of .npy files. */
#ifndef ENGINE_FORMATS_NPZ_H
#define ENGINE_FORMATS_NPZ_H

#include "base/arena.h"
#include "engine/tensor.h"

enum { NPZ_ENTRIES_MAX = 4096 };

struct npz_entry { const char *name; struct tensor tensor; };      /* the name without ".npy" */
struct npz { struct npz_entry *entries; int count; };

/* The tensors' data points into `bytes` or into the arena (and may not be aligned for its type). Entries that are no .npy files are left out. */
enum status npz_parse(struct npz *out, struct arena *arena, const char *bytes, size_t length, struct err *err);
const struct tensor *npz_find(const struct npz *n, const char *name);      /* NULL: none */

#endif
