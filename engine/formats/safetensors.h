/* Safetensors files: u64 length of a JSON head, the head ({"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}}), data.
 * Bounded (R12): head up to 100,000,000 bytes, up to 65,536 tensors, names up to 512 bytes, rank up to 8; spans must follow one another
 * without hole or overlap from 0 to the end of the file, and each is exactly dtype times shape. Tensors are views into the mapped file. */
#ifndef ENGINE_FORMATS_SAFETENSORS_H
#define ENGINE_FORMATS_SAFETENSORS_H

#include "engine/formats/weights.h"

struct safetensors;

/* Opens `path`: one .safetensors file, or a *.safetensors.index.json whose "weight_map" names the files beside it; each name it lists must be in the file
 * it says. dirfd as for gguf_open. */
enum status safetensors_open(struct safetensors **out, int dirfd, const char *path, struct err *err);
/* One whole file in memory, borrowed until safetensors_close. */
enum status safetensors_open_bytes(struct safetensors **out, const void *data, uint64_t size, struct err *err);
void        safetensors_close(struct safetensors *s);

const struct weights *safetensors_weights(const struct safetensors *s);
/* A text of the first file's __metadata__; NULL when absent. */
const char           *safetensors_metadata(const struct safetensors *s, const char *key);

/* Everything before the data, from names, types, shapes and sizes; the tensors' bytes follow in this order. */
enum status safetensors_write_head(struct weights_sink sink, const struct weight_tensor *tensors, int count, const char *const *metadata, int count_metadata, struct err *err);
/* Writes a whole file. metadata: NULL, or count_metadata pairs key, value. ST_UNSUPPORTED for block-quantised types. */
enum status safetensors_write(struct weights_sink sink, const struct weight_tensor *tensors, int count, const char *const *metadata, int count_metadata, struct err *err);

#endif
