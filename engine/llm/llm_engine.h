/* Language models as an engine (engine/engine.h): GGUF files and Hugging Face folders, built into one graph that every step runs over the tokens of all
 * texts in flight (continuous batching), with a paged cache of keys and values that texts with the same beginning share. */
#ifndef ENGINE_LLM_LLM_ENGINE_H
#define ENGINE_LLM_LLM_ENGINE_H

#include "engine/engine.h"
#include "engine/text_ops.h"

extern const struct engine_ops llm_engine;

/* Parses the keys and tensors of a GGUF file, or a config.json, without keeping anything: what the inspector's child runs (R34). */
enum status llm_inspect(const uint8_t *data, uint64_t size, struct err *err);

#endif
