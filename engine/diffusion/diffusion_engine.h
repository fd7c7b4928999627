/* The engine of pictures: diffusion models from diffusers folders and single files. */
#ifndef ENGINE_DIFFUSION_DIFFUSION_ENGINE_H
#define ENGINE_DIFFUSION_DIFFUSION_ENGINE_H

#include "engine/engine.h"

extern const struct engine_ops diffusion_engine;

/* For the inspector: what can be told from model_index.json's bytes (or those of a single file) alone. */
enum status diffusion_inspect(const uint8_t *data, uint64_t size, struct err *err);

#endif
