/* Attention of one row of a batch whose numbers are doubles (engine/operators/reals.h), computed in float by kernels/attention_dense.h: for operators that keep caches, turn positions or
 * mask in ways of their own, and have done so before. */
#ifndef ENGINE_OPERATORS_NN_ATTEND_REALS_H
#define ENGINE_OPERATORS_NN_ATTEND_REALS_H

#include "engine/graph/graph.h"

struct attend_reals {
    int64_t heads, groups, queries, keys, width, depth;      /* heads a multiple of groups; width: of a key, depth: of a value */
    double  scale;
    bool    causal;                      /* query i sees keys up to i + keys - queries */
    const double *q; int64_t q_head, q_token;      /* numbers from one head's to the next's, from one token's to the next's */
    const double *k, *v; int64_t k_group, v_group; /* [keys, width | depth] of each group */
    const float *mask; int64_t mask_head;          /* NULL, or [queries, keys] to be added to the scores, of all heads (mask_head 0) or so far apart */
    double *y; int64_t y_head, y_token;            /* a query that sees no key gets 0 */
};

/* Numbers of a mask of so many heads; where that passes 2^60, which no budget holds, it is that. */
uint64_t attend_mask_numbers(int64_t heads, int64_t queries, int64_t keys);
/* Bytes; the place may have any alignment. For at most so many of each. */
uint64_t attend_reals_scratch(const struct attend_reals *a, int threads);
void     attend_reals(const struct call *c, const struct attend_reals *a, void *scratch);

#endif
