/* Sizes and checks of attention; the table of language model kernels. */
#include "kernels/attention.h"

#include "kernels/blocks.h"
#include "kernels/cpu/levels.h"
#include "kernels/llm.h"

static bool is_quantised(int type) { return type == BLOCK_Q8_0 || type == BLOCK_Q4_0; }

enum status attention_check(const struct attention_spec *s, struct err *err)
{
    if (s->heads < 1 || s->kv_heads < 1 || s->heads % s->kv_heads)
        return err_set(err, ST_BAD_INPUT, "attention: %d heads do not share %d heads of keys evenly", s->heads, s->kv_heads);
    if (s->head_dim < 1 || s->head_dim > ATTENTION_DIM_MAX || s->head_dim_v < 1 || s->head_dim_v > ATTENTION_DIM_MAX)
        return err_set(err, ST_UNSUPPORTED, "attention: heads of %d and %d numbers; 1 to %d are possible", s->head_dim, s->head_dim_v, ATTENTION_DIM_MAX);
    if (s->kv_type != BLOCK_F32 && s->kv_type != BLOCK_F16 && s->kv_type != BLOCK_BF16 && !is_quantised(s->kv_type))
        return err_set(err, ST_UNSUPPORTED, "attention: the cache can be F32, F16, BF16, Q8_0 or Q4_0, not of type %d", s->kv_type);
    if (is_quantised(s->kv_type) && (s->head_dim % 32 || s->head_dim_v % 32))
        return err_set(err, ST_UNSUPPORTED, "attention: a %s cache needs heads of whole blocks of 32, not %d and %d", block_format(s->kv_type)->name, s->head_dim, s->head_dim_v);
    if (s->window < 0) return err_set(err, ST_BAD_INPUT, "attention: a window of %d positions", s->window);
    return ST_OK;
}

bool attention_suits_bf16(const struct attention_spec *s)
{
    return !(s->softcap > 0) && !s->alibi && !s->relative && s->heads / s->kv_heads <= ATTENTION_BF16_GROUP_MAX;
}

uint64_t attention_page_bytes(const struct attention_spec *s)
{
    const struct block_format *f = block_format(s->kv_type);
    const uint64_t numbers = (uint64_t)s->kv_heads * ATTENTION_PAGE * (uint64_t)(s->head_dim + s->head_dim_v);
    return (numbers / (uint64_t)f->elements * (uint64_t)f->bytes + 63) & ~(uint64_t)63;
}

uint64_t attention_scratch(const struct attention_spec *s, int threads)
{
    return attention_lane_bytes(s) * (uint64_t)(threads < 1 ? 1 : threads) + (threads > 1 ? attention_split_bytes(s, threads) : 0);
}

void llm_kernels_fill(struct llm_kernels *k, enum cpu_level cap)
{
    enum cpu_level level = cpu_level_detect();
    if (level > cap) level = cap;
    *k = (struct llm_kernels){ .level = level };
    llm_fill_scalar(k);
    if (level >= CPU_AVX2) llm_fill_avx2(k);
    if (level >= CPU_AVX512) llm_fill_avx512(k);
    if (level >= CPU_AMX) llm_fill_amx(k);
    else if (cpu_is_quick_at_bf16(level)) llm_fill_avx512bf16(k);
}
