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
    double (*bias)(const void *ctx, int64_t head, int64_t query, int64_t key);      /* what is added to a score, -infinity where the key is not seen; NULL: nothing. Asked of head 0 alone unless by_head */
    const void *ctx;
    bool    by_head;
    double *y; int64_t y_head, y_token;            /* a query that sees no key gets 0 */
};

/* How many doubles of room that takes; 2^60, which no budget holds, where a mask passes it. Grows with each of the numbers. */
uint64_t attend_reals_room(const struct attend_reals *a, int threads);
void     attend_reals(const struct call *c, const struct attend_reals *a, double *room);

#endif
