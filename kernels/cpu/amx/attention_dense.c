#include "kernels/cpu/amx/square.h"

#include "kernels/cpu/attention_dense_bf16_body.h"

void diffusion_fill_amx(struct diffusion_kernels *k)
{
    k->attention_bf16_scratch = attention_bf16_scratch;
    k->attention_bf16 = attention_bf16;
}
