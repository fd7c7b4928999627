/* What dispatch.c calls: each level fills in the kernels it has. */
#ifndef KERNELS_CPU_LEVELS_H
#define KERNELS_CPU_LEVELS_H

#include "kernels/diffusion.h"
#include "kernels/kernels.h"
#include "kernels/llm.h"

void kernels_fill_scalar(struct kernels *k);     /* all of them */
void kernels_fill_avx2(struct kernels *k);
void kernels_fill_avx512(struct kernels *k);

void sparse_fill_scalar(struct kernels *k);
void sparse_fill_avx2(struct kernels *k);
void sparse_fill_avx512(struct kernels *k);

void llm_fill_scalar(struct llm_kernels *k);
void llm_fill_avx2(struct llm_kernels *k);
void llm_fill_avx512(struct llm_kernels *k);
void llm_fill_avx512bf16(struct llm_kernels *k);
void llm_fill_amx(struct llm_kernels *k);

void diffusion_fill_scalar(struct diffusion_kernels *k);
void diffusion_fill_avx2(struct diffusion_kernels *k);
void diffusion_fill_avx512(struct diffusion_kernels *k);
void diffusion_fill_avx512bf16(struct diffusion_kernels *k);
void diffusion_fill_amx(struct diffusion_kernels *k);

/* What one thread of attention_paged works in: a page of keys and of values as floats, and the state of a group of queries. */
enum { ATTENTION_QUERIES = 32, ATTENTION_QUERY_BYTES = 128 };        /* rows times heads that share a page's conversion (at least one row's heads); book-keeping of one */
static inline uint64_t attention_queries(const struct attention_spec *s)
{
    const int group = s->heads / s->kv_heads;
    return (uint64_t)(group > ATTENTION_QUERIES ? group : ATTENTION_QUERIES);
}
static inline uint64_t attention_lane_bytes(const struct attention_spec *s)
{
    const uint64_t dims = (uint64_t)(s->head_dim + 15 + s->head_dim_v + 15);
    const uint64_t numbers = dims * ATTENTION_PAGE + attention_queries(s) * ((uint64_t)(s->head_dim_v + 15) / 16 * 16 + 2 * ATTENTION_PAGE);
    return (numbers * sizeof(float) + attention_queries(s) * ATTENTION_QUERY_BYTES + 63) & ~(uint64_t)63;
}

#endif
