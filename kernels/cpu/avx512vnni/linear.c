/* Products with panels of weights at this level. */
#include "kernels/cpu/avx512vnni/linear_many.h"

static void quantise_any(const struct panel_job *j, int part, int parts)
{
    if (j->m >= MANY_ROWS) quantise_many(j, part, parts);
    else quantise(j, part, parts);
}

static void multiply_any(const struct panel_job *j, int64_t from, int64_t to)
{
    if (!j->exact && j->m >= MANY_ROWS) multiply_many(j, from, to);
    else multiply(j, from, to);
}

const struct panel_kernels panel_kernels_avx512vnni = { "vnni", TILE_X, quantise_any, multiply_any, decode };
