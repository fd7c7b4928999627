/* What dispatch.c calls: each level fills in the kernels it has. */
#ifndef KERNELS_CPU_LEVELS_H
#define KERNELS_CPU_LEVELS_H

#include "kernels/kernels.h"

void kernels_fill_scalar(struct kernels *k);     /* all of them */
void kernels_fill_avx2(struct kernels *k);
void kernels_fill_avx512(struct kernels *k);

#endif
