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

/* What one thread of attention_paged works in: a page of keys and of values as floats, and the state of a group of queries, once by query and once by lanes of queries. */
enum { ATTENTION_QUERIES = 64, ATTENTION_QUERY_BYTES = 128, ATTENTION_SET_BYTES = 32 };        /* rows times heads that share a page's conversion (at least one row's heads); book-keeping of one, of its lane */
static inline uint64_t attention_queries(const struct attention_spec *s)
{
    const int group = s->heads / s->kv_heads;
    return (uint64_t)(group > ATTENTION_QUERIES ? (group + 15) / 16 * 16 : ATTENTION_QUERIES);
}
/* floats of a query's sums and values */
static inline uint64_t attention_state(const struct attention_spec *s) { return (uint64_t)(s->head_dim_v + 15) / 16 * 16 + ATTENTION_PAGE; }
/* floats of a query that has a lane (kernels/cpu/attention_lanes.h) */
static inline uint64_t attention_lane(const struct attention_spec *s) { return (uint64_t)(s->head_dim + 1 + ATTENTION_PAGE + s->head_dim_v); }
static inline uint64_t attention_lane_bytes(const struct attention_spec *s)
{
    const uint64_t dims = (uint64_t)(s->head_dim + 15 + s->head_dim_v + 15);
    const uint64_t numbers = dims * ATTENTION_PAGE + attention_queries(s) * (2 * attention_state(s) + ATTENTION_PAGE + attention_lane(s));
    return (numbers * sizeof(float) + attention_queries(s) * (ATTENTION_QUERY_BYTES + ATTENTION_SET_BYTES) + 63) & ~(uint64_t)63;
}
/* Where spans of keys are shared out (kernels/cpu/attention_body.h): groups of queries fewer than this many a thread, and what they see of so many spans of a group at a time. */
enum { ATTENTION_SPLIT_GROUPS = 4, ATTENTION_SPLIT_SPANS = 8, ATTENTION_GROUP_BYTES = 32 };
static inline uint64_t attention_split_bytes(const struct attention_spec *s, int threads)
{
    const uint64_t states = attention_queries(s) * (attention_state(s) + ATTENTION_PAGE) * sizeof(float);
    return (uint64_t)threads * ((ATTENTION_SPLIT_GROUPS + ATTENTION_SPLIT_SPANS) * states + ATTENTION_SPLIT_GROUPS * ATTENTION_GROUP_BYTES);
}

#endif
