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

enum { ATTENTION_MASKS = 2 };

/* What becomes of the scaled scores; steps are 0 where one stands for all. A row's numbers lie side by side, one for each key.
 * add: is added. seen: 0 stands for `unseen` in the score's place (with `inverted`: what is not 0 does). */
struct attention_mask { const float *add; const uint8_t *seen; bool inverted; float unseen; int64_t batch, head, query; };

/* Where head h of token t of row b lies: b * row + t * token + h * head numbers on. 0: rows of the batch one after the other, heads side by side. */
struct attention_steps { int64_t row, head; };

struct attention_dense {
    int     heads, head_dim, head_dim_v;
    int64_t batch, queries, keys;        /* of each row of the batch */
    float   scale;
    bool    causal;                      /* query i sees keys up to i + keys - queries */
    /* Tokens are ldq numbers apart, further as at_q says. Floats; in bfloat16 (halves_q and so on) also numbers that lie so. */
    const void *q, *k, *v;
    int64_t ldq, ldk, ldv, ldy;
    struct attention_steps at_q, at_k, at_v, at_y;
    bool    halves_q, halves_k, halves_v, halves_y;
    void   *y;
    int     group;                       /* heads that share a head of k and v; 0: 1 */
    const float *distance;               /* [heads, queries + keys - 1] or NULL: query i and key j get distance[h, j - i + queries - 1] added to their product (T5) */
    const int32_t *key_counts;           /* [batch] keys of each row that are seen (at least 1), or NULL: all of them */
    struct attention_mask masks[ATTENTION_MASKS];     /* in this order; those without a pointer do nothing */
    float   nothing;                     /* times 0: what a query gets that sees no key, all of whose scores are -infinity: 0, or NaN as a softmax of such a row has it */
};

struct diffusion_kernels;

/* How many keys query i of row b sees. */
static inline int64_t attention_dense_seen(const struct attention_dense *a, int64_t b, int64_t i)
{
    int64_t seen = a->key_counts ? a->key_counts[b] : a->keys;
    if (a->causal && i + 1 + a->keys - a->queries < seen) seen = i + 1 + a->keys - a->queries;
    return seen > a->keys ? a->keys : seen;
}

/* How many numbers on from q (k, v, y) head h of row b begins. */
static inline int64_t attention_dense_q(const struct attention_dense *a, int64_t b, int64_t h) { return b * (a->at_q.row ? a->at_q.row : a->queries * a->ldq) + h * (a->at_q.head ? a->at_q.head : a->head_dim); }
static inline int64_t attention_dense_y(const struct attention_dense *a, int64_t b, int64_t h) { return b * (a->at_y.row ? a->at_y.row : a->queries * a->ldy) + h * (a->at_y.head ? a->at_y.head : a->head_dim_v); }
static inline int64_t attention_dense_kv(const struct attention_dense *a, const struct attention_steps *s, int64_t ld, int64_t dim, int64_t b, int64_t h)
{
    return b * (s->row ? s->row : a->keys * ld) + (a->group > 1 ? h / a->group : h) * (s->head ? s->head : dim);
}
static inline int64_t attention_dense_k(const struct attention_dense *a, int64_t b, int64_t h) { return attention_dense_kv(a, &a->at_k, a->ldk, a->head_dim, b, h); }
static inline int64_t attention_dense_v(const struct attention_dense *a, int64_t b, int64_t h) { return attention_dense_kv(a, &a->at_v, a->ldv, a->head_dim_v, b, h); }

static inline bool attention_dense_masked(const struct attention_dense *a) { return a->masks[0].add || a->masks[0].seen || a->masks[1].add || a->masks[1].seen; }

/* Scratch of attention_dense_scratch bytes, aligned to 64; it grows with neither queries nor keys. y may overlap neither q, k nor v. */
uint64_t attention_dense_scratch(const struct attention_dense *a, int threads);
void     attention_dense_f32(const struct attention_dense *a, const struct kernels *k, const struct diffusion_kernels *d, void *scratch, int threads);

#endif
