#include "kernels/cpu/amx/square.h"

#include "kernels/cpu/attention_paged_bf16_body.h"

void llm_fill_amx(struct llm_kernels *k)
{
    k->attention_bf16_scratch = attention_bf16_scratch;
    k->attention_bf16 = attention_bf16;
}
