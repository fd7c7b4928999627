/* Noise as torch.manual_seed(seed) gives it on a CPU, so that a picture made with PyTorch can be made again: mt19937, 24-bit uniforms and Box-Muller in groups of sixteen for
 * sixteen numbers and more, 53-bit uniforms one pair at a time for fewer. */
#ifndef ENGINE_DIFFUSION_NOISE_H
#define ENGINE_DIFFUSION_NOISE_H

#include <stdbool.h>
#include <stdint.h>

enum { NOISE_WORDS = 624 };
struct noise { uint32_t words[NOISE_WORDS]; int at; bool has_spare; double spare; };

/* The low 32 bits of the seed count. */
void noise_seed(struct noise *n, uint64_t seed);
/* What torch.randn(count, generator=...) gives next. */
void noise_fill(struct noise *n, float *y, int64_t count);

#endif
