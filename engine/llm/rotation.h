/* Frequencies of the rotary position embedding. */
#ifndef ENGINE_LLM_ROTATION_H
#define ENGINE_LLM_ROTATION_H

#include "engine/llm/model.h"

/* f[rotary / 2]: radians by position of each pair. divisors [rotary / 2] or NULL: rope_freqs, or LongRoPE's factors. local: with the windowed layers' own base. */
void  rotation_frequencies(const struct llm_config *c, bool local, const float *divisors, float *f);
/* What cosines and sines are multiplied by. */
float rotation_factor(const struct llm_config *c);

#endif
