/* CUDA's runtime, cuBLASLt and cuDNN over host memory: as much of them as the C files of kernels/cuda/ call, so that its host side runs where there is no card. Kernels are the functions that the
 * real ones are made of; work goes at once, or into a graph while a stream is captured. */
#ifndef TESTS_CUDA_SHIM_H
#define TESTS_CUDA_SHIM_H

#include <stdint.h>

/* Call number `at` (1: the next) of any of the three libraries fails: out of memory, or as a broken context, which stays so until the next setting. 0: none. Gives the calls since the last setting. */
uint64_t shim_fail(uint64_t at, int out_of_memory);
/* From now on cuBLASLt offers nothing for a product with an epilogue. */
void     shim_refuse_epilogues(int refuse);
/* Things made and not destroyed: allocations, streams, events, handles, descriptors, graphs. */
int      shim_held(void);
/* Kernels that were started behind a library's product or convolution, since the program began. */
int      shim_finishes(void);

#endif
