/* The only place that knows OpenMP. */
#include "kernels/kernels.h"

#include <omp.h>

void parallel_for(int threads, int parts, void (*body)(void *ctx, int part, int parts), void *ctx)
{
    if (threads <= 1 || parts <= 1) {
        for (int part = 0; part < parts; part++) body(ctx, part, parts);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int part = 0; part < parts; part++) body(ctx, part, parts);
}

void parallel_set_threads(int threads)
{
    if (threads < 1) threads = 1;
    if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
}
