/* Attention of whole sequences: every query of a row of the batch looks at the keys of the same row. Nothing is kept between calls, and no matrix of scores is ever
 * whole in memory: a block of queries goes over the keys block by block with a running maximum.
 *
 * A query's result is the same bits whatever stands beside it, on any number of threads and at every level: scores and values are added as gemm_f32 does, in
 * ascending order within blocks of ATTENTION_DENSE_KEYS keys that begin at fixed places; the weights of a block are summed in 16 stripes. */
#ifndef KERNELS_ATTENTION_DENSE_H
#define KERNELS_ATTENTION_DENSE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum { ATTENTION_DENSE_KEYS = 256, ATTENTION_DENSE_QUERIES = 64 };

struct attention_dense {
    int     heads, head_dim, head_dim_v;
    int64_t batch, queries, keys;        /* of each row of the batch */
    float   scale;
    bool    causal;                      /* query i sees keys up to i + keys - queries */
    /* Head h of token t of row b of q begins at q + (b * queries + t) * ldq + h * head_dim; k, v and y likewise. */
    const float *q, *k, *v;
    int64_t ldq, ldk, ldv, ldy;
    float  *y;
    const float *distance;               /* [heads, queries + keys - 1] or NULL: query i and key j get distance[h, j - i + queries - 1] added to their product (T5) */
    const int32_t *key_counts;           /* [batch] keys of each row that are seen (at least 1), or NULL: all of them */
};

struct diffusion_kernels;

/* How many keys query i of row b sees. */
static inline int64_t attention_dense_seen(const struct attention_dense *a, int64_t b, int64_t i)
{
    int64_t seen = a->key_counts ? a->key_counts[b] : a->keys;
    if (a->causal && i + 1 + a->keys - a->queries < seen) seen = i + 1 + a->keys - a->queries;
    return seen > a->keys ? a->keys : seen;
}

/* Scratch of attention_dense_scratch bytes, aligned to 64; it grows with neither queries nor keys. y may overlap neither q, k nor v. */
uint64_t attention_dense_scratch(const struct attention_dense *a, int threads);
void     attention_dense_f32(const struct attention_dense *a, const struct kernels *k, const struct diffusion_kernels *d, void *scratch, int threads);

#endif
