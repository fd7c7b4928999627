/* A page of the cache (kernels/attention.h) of one head as floats, and where in a page numbers lie: for every kernel that reads or writes pages. */
#ifndef KERNELS_CPU_ATTENTION_PAGES_H
#define KERNELS_CPU_ATTENTION_PAGES_H

#include "kernels/attention.h"
#include "kernels/blocks.h"
#include "kernels/cpu/vec_half.h"

enum { PAGE = ATTENTION_PAGE };

static uint64_t row_bytes(int type, int numbers)
{
    const struct block_format *f = block_format(type);
    return (uint64_t)numbers / (uint64_t)f->elements * (uint64_t)f->bytes;
}

/* ---- keys [dim, 16], values [16, dim_v] ---- */

static void halves_to_floats(float *y, const uint16_t *x, int64_t n, int bf16)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vec_store(y + i, bf16 ? vec_load_bf16(x + i) : vec_load_f16(x + i));
    for (; i < n; i++) y[i] = bf16 ? bf16_to_f32_one(x[i]) : f16_to_f32(x[i]);
}

static void quantised_keys_to_floats(float *y, const char *x, int dim, int type)
{
    for (int d = 0; d < dim; d += 32, y += 32 * PAGE) {
        float scales[PAGE];
        int8_t numbers[32 * PAGE];
        halves_to_floats(scales, (const uint16_t *)(const void *)x, PAGE, 0);
        x += 2 * PAGE;
        const int8_t *q = (const int8_t *)x;
        if (type == BLOCK_Q4_0) {
            for (int i = 0; i < 16 * PAGE; i++) numbers[i] = (int8_t)((x[i] & 15) - 8), numbers[16 * PAGE + i] = (int8_t)(((uint8_t)x[i] >> 4) - 8);
            q = numbers;
        }
        x += type == BLOCK_Q4_0 ? 16 * PAGE : 32 * PAGE;
        for (int i = 0; i < 32 * PAGE; i += LANES) vec_store(y + i, vec_load_i8(q + i) * vec_load(scales + i % PAGE));
    }
}

/* A value's row of Q8_0 or Q4_0 blocks. */
static void quantised_row_to_floats(float *y, const char *x, int dim, int type)
{
    for (int d = 0; d < dim; d += 32, y += 32) {
        const uint8_t *b = (const uint8_t *)x;
        int8_t numbers[32];
        const vec scale = vec_set(half_load_f16(b));
        if (type == BLOCK_Q4_0)
            for (int i = 0; i < 16; i++) numbers[i] = (int8_t)((b[2 + i] & 15) - 8), numbers[16 + i] = (int8_t)((b[2 + i] >> 4) - 8);
        else
            memcpy(numbers, b + 2, 32);
        for (int i = 0; i < 32; i += LANES) vec_store(y + i, vec_load_i8(numbers + i) * scale);
        x += type == BLOCK_Q4_0 ? 18 : 34;
    }
}

static const float *page_keys(const struct attention_spec *s, const char *page, int head, float *buffer)
{
    const char *x = page + (uint64_t)head * row_bytes(s->kv_type, s->head_dim * PAGE);
    if (s->kv_type == BLOCK_F32) return (const float *)(const void *)x;
    if (s->kv_type == BLOCK_F16 || s->kv_type == BLOCK_BF16) halves_to_floats(buffer, (const uint16_t *)(const void *)x, (int64_t)s->head_dim * PAGE, s->kv_type == BLOCK_BF16);
    else quantised_keys_to_floats(buffer, x, s->head_dim, s->kv_type);
    return buffer;
}

static const char *values_at(const struct attention_spec *s, const char *page, int head)
{
    return page + (uint64_t)s->kv_heads * row_bytes(s->kv_type, s->head_dim * PAGE) + (uint64_t)head * row_bytes(s->kv_type, s->head_dim_v * PAGE);
}

/* rows [from, to) only: the others may never have been written */
static const float *page_values(const struct attention_spec *s, const char *page, int head, int from, int to, float *buffer)
{
    const char *x = values_at(s, page, head);
    const int dim = s->head_dim_v;
    if (s->kv_type == BLOCK_F32) return (const float *)(const void *)x;
    if (s->kv_type == BLOCK_F16 || s->kv_type == BLOCK_BF16)
        halves_to_floats(buffer + from * dim, (const uint16_t *)(const void *)x + from * dim, (int64_t)(to - from) * dim, s->kv_type == BLOCK_BF16);
    else
        for (int t = from; t < to; t++) quantised_row_to_floats(buffer + t * dim, x + (uint64_t)t * row_bytes(s->kv_type, dim), dim, s->kv_type);
    return buffer;
}

#endif
