/* What computes: the kernels of one CPU level and how many threads a call may use. One per engine instance's thread budget; the
 * struct is plain and copied freely. */
#ifndef ENGINE_DEVICE_H
#define ENGINE_DEVICE_H

#include "engine/device_gpu.h"
#include "kernels/diffusion.h"
#include "kernels/llm.h"

struct device {
    const char    *name;       /* "cpu" */
    struct kernels kernels;
    struct llm_kernels llm;
    struct diffusion_kernels diffusion;
    int            threads;    /* >= 1 */
    const struct device_gpu *gpu;      /* a graph's nodes run there where they can; NULL: on the CPU alone */
    int            gpu_float;  /* enum gpu_type: how floats of the file are stored and computed there */
};

/* `cap`: the highest CPU level to use; values outside the enum mean what the machine has. */
void device_cpu_open(struct device *d, int cap, int threads);

#endif
