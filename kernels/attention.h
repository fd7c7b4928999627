/* Attention over a paged cache of keys and values. A page keeps 16 consecutive positions of one sequence in one layer: first the keys, for each head of the
 * cache [head_dim, 16] (a position is a column: the 16 scores of a page are sums that run side by side), then the values, for each head [16, head_dim_v].
 * Numbers are of kv_type. For Q8_0 and Q4_0 a value's row is blocks of that type as in blocks.h; keys keep the same numbers and scales with positions
 * side by side: for each 32 of head_dim 16 scales (f16), then [32, 16] bytes (Q8_0) or [16, 16] bytes whose low half is dimension d and high half d + 16 (Q4_0).
 * Only attention_store writes pages; as they are, they may be copied and shared.
 *
 * The functions themselves are in the table of kernels/llm.h. A query's result is the same bits whatever other queries are in the call, however the rows
 * of its sequence are cut into calls, on any number of threads and at every level: scores are four partial sums over dimensions d mod 4, keys are taken
 * by pages in ascending order with a running maximum, and values are added in ascending order; every ATTENTION_SPAN positions begin anew, and what the spans give is put together in
 * ascending order. So a few queries with a long past keep every thread busy. */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { ATTENTION_PAGE = 16, ATTENTION_SPAN = 512, ATTENTION_DIM_MAX = 512, ATTENTION_BF16_GROUP_MAX = 512 };

struct attention_spec {
    int   heads, kv_heads;               /* heads a multiple of kv_heads: head h reads head h / (heads / kv_heads) of the cache */
    int   head_dim, head_dim_v;          /* 1..ATTENTION_DIM_MAX; multiples of 32 for Q8_0 and Q4_0 */
    int   kv_type;                       /* BLOCK_F32, BLOCK_F16, BLOCK_BF16, BLOCK_Q8_0, BLOCK_Q4_0 */
    float scale;                         /* of the products, usually 1 / sqrt(head_dim) */
    float softcap;                       /* c: scores become c tanh(score / c); 0: none */
    int   window;                        /* w: position p sees keys above p - w (and below p + w when not causal); 0: none */
    bool  causal;                        /* p sees keys up to p; else all keys of the sequence, up to position + count - 1 */
    const float *sinks;                  /* [heads] a score that takes weight and gives no value, or NULL */
    const float *alibi;                  /* [heads] slopes: slope * (key - p) is added to a score, or NULL */
    const float *relative;               /* [heads, 2 * span + 1]: element span + (key - p), that held to +-span, is added to a score; or NULL */
    int   relative_span;
};

/* Rows first .. first + count - 1 of q (k, v) are positions position .. position + count - 1 of one sequence. pages[p / 16] is the page of position p:
 * all pages up to the last position are given. */
struct attention_row {
    int32_t first, count;
    int32_t position;
    const int32_t *pages;
};

/* A sentence when the numbers do not fit together. */
enum status attention_check(const struct attention_spec *s, struct err *err);
/* No cap, slopes or `relative`, and not too many heads for one of the cache. */
bool        attention_suits_bf16(const struct attention_spec *s);
uint64_t    attention_page_bytes(const struct attention_spec *s);              /* of one layer, a multiple of 64 */
uint64_t    attention_scratch(const struct attention_spec *s, int threads);    /* for attention_paged, 64-byte aligned; grows with neither rows nor positions */

#endif
