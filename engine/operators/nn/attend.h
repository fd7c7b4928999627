/* Attend: attention as exporters write it out of products and a softmax or as the operator Attention, found by engine/graph/fuse_attention.c and computed by the kernels of kernels/attention_dense.h without a
 * matrix of scores in memory. Inputs are q, k, v and up to two masks; each of q, k, v and the result may lie transposed, and is read or written where it lies. */
#ifndef ENGINE_OPERATORS_NN_ATTEND_H
#define ENGINE_OPERATORS_NN_ATTEND_H

#include "engine/graph/graph.h"
#include "kernels/attention_dense.h"

enum attend_mask_kind { ATTEND_NO_MASK, ATTEND_ADD /* float: added */, ATTEND_SEEN /* bool: false stands for `unseen` */, ATTEND_HIDDEN /* bool: true does */ };

enum { ATTEND_RANK_MAX = 4, ATTEND_Q = 0, ATTEND_K, ATTEND_V, ATTEND_MASK, ATTEND_INPUTS = ATTEND_MASK + ATTENTION_MASKS };

/* [batch, heads, tokens, numbers], of rank 3 without heads, or with so many of them side by side: [batch, tokens, heads numbers]. q[d] says which dimension of the tensor dimension d is;
 * the last one is always the last. Masks broadcast. */
struct attend_spec {
    int    rank;
    int    heads, kv_heads;              /* side by side in rank 3; 0: not so */
    bool   causal;                       /* query i sees keys up to i */
    bool   is_operator;                  /* as the operator Attention has it: masks may be shorter than the keys, and those behind them are not seen; each head of k and v may serve several of q */
    int8_t q[ATTEND_RANK_MAX], k[ATTEND_RANK_MAX], v[ATTEND_RANK_MAX], y[ATTEND_RANK_MAX];
    float  scale, nothing;               /* nothing: as in struct attention_dense */
    bool   bf16;                         /* numbers may be rounded to bfloat16, where the machine is quick at it */
    struct { enum attend_mask_kind kind; float unseen; } masks[ATTENTION_MASKS];
};

extern const struct op op_attend;
uint64_t attend_work(const struct call *c);      /* multiply-adds */

#endif
