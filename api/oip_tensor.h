/* Tensor data in the two dialects of the Open Inference Protocol: JSON arrays (flat or nested, row-major) and raw little-endian bytes. */
#ifndef API_OIP_TENSOR_H
#define API_OIP_TENSOR_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "engine/tensor.h"

/* Fills t->data (from the arena) with the numbers of the JSON array `text`. t->dtype, rank and dims are set; the array must hold exactly as
 * many values as they say. Integers are checked against the type's range. BYTES take strings, BOOL true and false. FP16 and BF16 have no JSON form. */
enum status oip_tensor_from_json(struct tensor *t, struct arena *arena, const char *text, size_t length, const char *name, struct err *err);
/* Points t->data at `bytes`, or copies them where they are not aligned for the type; BYTES (4-byte length + bytes each) get string_refs
 * into them. `length` must be what dtype and shape say. */
enum status oip_tensor_from_raw(struct tensor *t, struct arena *arena, const char *bytes, uint64_t length, const char *name, struct err *err);

/* "[...]" flat. */
void     oip_tensor_to_json(struct buf *out, const struct tensor *t);
/* Raw bytes; the size they will take. */
uint64_t oip_tensor_raw_bytes(const struct tensor *t);
void     oip_tensor_to_raw(struct buf *out, const struct tensor *t);

/* The classification extension: BYTES [first dims..., k] of "value:index[:label]", the k largest of each row's last dimensions flattened
 * behind the batch dimension (batched) or of the whole tensor. `t` is replaced by the new tensor, made in the arena. */
enum status oip_classify(struct tensor *t, struct arena *arena, int64_t k, bool batched, const char *const *labels, int label_count, struct err *err);

#endif
