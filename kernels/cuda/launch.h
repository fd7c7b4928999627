/* What the .cu files offer to the C of this folder: tasks of their kind, started on a stream. A status is CUDA's (0: started). */
#ifndef KERNELS_CUDA_LAUNCH_H
#define KERNELS_CUDA_LAUNCH_H

#include "kernels/gpu.h"

/* How the .cu files start a kernel and name a block's shared memory. The host reads these files with words of its own (tests/cuda/emulated/cuda.h). */
#ifndef CUDA_LAUNCH
#define CUDA_LAUNCH(kernel, grid, block, bytes, stream, ...) kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define CUDA_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *cuda_stream;

int cuda_launch_elements(const struct gpu_task *t, cuda_stream stream);       /* all kinds that body_elements counts */
int cuda_launch_rows(const struct gpu_task *t, cuda_stream stream);           /* reductions, softmax, norms */
int cuda_launch_attention(const struct gpu_task *t, cuda_stream stream);
int cuda_launch_llm(const struct gpu_task *t, cuda_stream stream);            /* of language models, all but attention */
int cuda_launch_paged(const struct gpu_task *t, cuda_stream stream);
/* y = activation(y + residual) in place over the y of a product or convolution, for what a library's epilogue cannot do. bias too when with_bias. */
int cuda_launch_finish(const struct gpu_task *t, bool with_bias, bool with_residual, cuda_stream stream);

#ifdef __cplusplus
}
#endif

#endif
