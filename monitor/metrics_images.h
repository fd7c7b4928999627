/* The inferd_image_* families of diffusion models. */
#ifndef MONITOR_METRICS_IMAGES_H
#define MONITOR_METRICS_IMAGES_H

#include "base/buf.h"
#include "model_store/registry.h"

/* Writes nothing when none of the versions draws. */
void metrics_write_images(struct buf *out, struct model_version *const *versions, int count);

#endif
