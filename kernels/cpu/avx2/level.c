/* AVX2, FMA: 16 registers of 8 floats. The register tile is 6 rows by 16 columns: 12 sums, 2 of b, 1 of a. */
#define TILE_ROWS 6
#define TILE_VECS 2
#include "kernels/cpu/axes_body.h"
#include "kernels/cpu/depthwise_body.h"
#include "kernels/cpu/elementwise_body.h"
#include "kernels/cpu/gemm_body.h"
#include "kernels/cpu/halves_body.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/moving_body.h"
#include "kernels/cpu/pictures_body.h"
#include "kernels/cpu/recurrent_body.h"
#include "kernels/cpu/rows_body.h"
#include "kernels/cpu/winograd_body.h"

void kernels_fill_avx2(struct kernels *k)
{
    axes_fill(k);
    depthwise_fill(k);
    elementwise_fill(k);
    gemm_fill(k);
    halves_fill(k);
    moving_fill(k);
    pictures_fill(k);
    recurrent_fill(k);
    rows_fill(k);
    winograd_fill(k);
}
