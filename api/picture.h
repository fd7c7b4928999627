/* From the bytes of a JPEG, PNG or WebP picture to the f32 tensor that a model's configuration describes (docs/PICTURES.md). */
#ifndef API_PICTURE_H
#define API_PICTURE_H

#include "base/image.h"
#include "engine/request.h"
#include "model_store/model_config.h"

/* *t becomes f32 [1, c, h, w] or [1, h, w, c] in the request's arena. */
enum status picture_bytes_to_tensor(struct tensor *t, const struct picture_config *p, struct request *r, const char *bytes, size_t length, struct err *err);
/* A BYTES tensor of n pictures, shape [n] or [n, 1], becomes f32 [n, ...]. */
enum status picture_to_tensor(struct tensor *t, const struct picture_config *p, struct request *r, const char *name, struct err *err);

#endif
