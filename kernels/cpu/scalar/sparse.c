/* Products with pruned weights at this level. */
#include "kernels/cpu/levels.h"
#include "kernels/cpu/sparse_body.h"

void sparse_fill_scalar(struct kernels *k) { k->sparse_f32 = sparse_f32; }
