/* A published model version made by hand, for tests of the dialects: inputs "x" FP32 [-1,4] and "names" BYTES [-1,1] (optional), outputs
 * "y" FP32 [-1,3] and "n" INT64 [-1,1]; max_batch_size 8; labels red, green, blue. */
#ifndef TESTS_API_FAKE_MODEL_H
#define TESTS_API_FAKE_MODEL_H

#include "model_store/registry.h"

const struct model_version *fake_model(void);

#endif
