/* The kernels of networks that draw at this level. */
#include "kernels/cpu/diffusion_body.h"
#include "kernels/cpu/levels.h"

void diffusion_fill_scalar(struct diffusion_kernels *k) { diffusion_fill(k); }
