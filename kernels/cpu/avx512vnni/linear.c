/* Products with panels of weights at this level. */
#include "kernels/cpu/linear_body.h"

const struct panel_kernels panel_kernels_avx512vnni = { "vnni", TILE_X, quantise, multiply, decode };
