#include "engine/device.h"

void device_cpu_open(struct device *d, int cap, int threads)
{
    *d = (struct device){ .name = "cpu", .threads = threads < 1 ? 1 : threads };
    enum cpu_level level = cap < 0 || cap >= CPU_LEVEL_COUNT ? CPU_AMX : (enum cpu_level)cap;
    kernels_fill(&d->kernels, level);
    llm_kernels_fill(&d->llm, level);
    diffusion_kernels_fill(&d->diffusion, level);
}
