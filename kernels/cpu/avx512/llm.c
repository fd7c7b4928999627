/* The language model kernels at this level. */
#include "kernels/cpu/llm_body.h"

void llm_fill_avx512(struct llm_kernels *k) { llm_fill(k); }
