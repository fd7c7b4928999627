/* Answers that are given again: for a model that is a function of its inputs alone, the same question gets the stored answer without a step. Bounded in bytes; what was not
 * asked for longest goes first. One cache for the process, any thread. */
#ifndef ENGINE_RESPONSE_CACHE_H
#define ENGINE_RESPONSE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "engine/request.h"

struct response_cache;

/* NULL without memory. `bytes_max` counts the tensors and what the cache itself keeps about them. */
struct response_cache *response_cache_open(uint64_t bytes_max);
void                   response_cache_close(struct response_cache *c);      /* answers that are being sent live on */

/* SHA-256 over the model's name (its config is a part of what it answers) and version digest, the inputs (by name, with dtype, shape and data) and the outputs asked for. */
void response_cache_key(const struct request *r, const char *model_name, const char *model_digest, uint8_t key[DIGEST_BYTES]);
/* On a hit sets r's outputs, which lie in the cache's memory and stay there as long as `r` lives (request.kept). */
bool response_cache_find(struct response_cache *c, const uint8_t key[DIGEST_BYTES], struct request *r);
/* Keeps a copy of r's outputs, unless they take more than a quarter of the cache. */
void response_cache_put(struct response_cache *c, const uint8_t key[DIGEST_BYTES], const struct request *r);

struct response_cache_use { uint64_t bytes, bytes_max, entries; };
struct response_cache_use response_cache_usage(struct response_cache *c);

#endif
