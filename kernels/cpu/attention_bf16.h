/* Attention in bfloat16, what the dense and the paged kind share: a range of queries meets blocks of at most KEYS keys with a running maximum. Queries, keys, values and
 * weights are rounded to bfloat16, scores and sums are float. Keys lie as tiles [keys / 16][d / 32], values as tiles [keys / 32][dv / 16]; d is the head's size rounded up to a
 * multiple of 32, dv to one of 16. The including file has its level's square.h before this. */
#ifndef KERNELS_CPU_ATTENTION_BF16_H
#define KERNELS_CPU_ATTENTION_BF16_H

#include <string.h>

#include "kernels/attention_dense.h"
#include "kernels/cpu/bf16_pairs.h"
#include "kernels/cpu/vec_math.h"

enum { QUERIES = ATTENTION_DENSE_QUERIES, KEYS = ATTENTION_DENSE_KEYS, RANGE = 1024 /* queries that meet a packed block of keys */, TILE = 16 * 32 };

static const float LOG2_E = 1.442695041f;

static inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* rows of n numbers, ld apart, to rows of `width`; rows from `rows` to `all` are zeros */
static inline void round_rows(uint16_t *y, int64_t width, const float *x, int64_t ld, int64_t rows, int64_t all, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, y += width, x += ld)
        for (int64_t c = 0; c < width; c += 16) _mm256_storeu_si256((__m256i *)(void *)(y + c), round_16(_mm512_maskz_loadu_ps(first(n - c), x + c)));
    if (all > rows) memset(y, 0, (size_t)((all - rows) * width) * sizeof *y);
}

/* The same of numbers that are bfloat16 already. */
static inline void copy_rows(uint16_t *y, int64_t width, const uint16_t *x, int64_t ld, int64_t rows, int64_t all, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, y += width, x += ld)
        for (int64_t c = 0; c < width; c += 16) _mm256_storeu_si256((__m256i *)(void *)(y + c), _mm256_maskz_loadu_epi16(first(n - c), x + c));
    if (all > rows) memset(y, 0, (size_t)((all - rows) * width) * sizeof *y);
}

/* What a thread works in. limit: how many keys of the block at hand a query sees; packing: floats or numbers on their way to tiles. */
struct lane { uint16_t *q, *k, *v, *weights; float *scores, *sums, *top, *sum, *shrink; int64_t *limit; void *packing; };

/* Returns the bytes that a lane at `base` takes. */
static inline uint64_t lane_layout(struct lane *l, char *base, int64_t head_dim, int64_t head_dim_v, int64_t packing_bytes)
{
    const int64_t d = up(head_dim, 32), dv = up(head_dim_v, 16);
    uint64_t at = 0;
#define PLACE(field, type, count) l->field = (type *)(void *)(base + at), at += (uint64_t)up((int64_t)sizeof(type) * (count), 64)
    PLACE(q, uint16_t, RANGE * d);
    PLACE(k, uint16_t, KEYS * d);
    PLACE(v, uint16_t, KEYS * dv);
    PLACE(weights, uint16_t, QUERIES * KEYS);
    PLACE(scores, float, QUERIES * KEYS);
    PLACE(sums, float, RANGE * dv);
    PLACE(top, float, RANGE);
    PLACE(sum, float, RANGE);
    PLACE(shrink, float, QUERIES);
    PLACE(limit, int64_t, QUERIES);
    PLACE(packing, char, packing_bytes);
#undef PLACE
    return at;
}

/* `count` queries of the range begin: nothing seen yet */
static inline void range_begin(const struct lane *l, int64_t count, int64_t dv)
{
    memset(l->sums, 0, (size_t)(up(count, 16) * dv) * sizeof *l->sums);
    for (int64_t i = 0; i < count; i++) l->top[i] = -__builtin_inff(), l->sum[i] = 0;
}

/* scores [rows, KEYS] of `rows` queries [rows, d] (a multiple of 16), of which head_dim numbers are not 0, with all packed keys */
static inline void multiply_keys(float *scores, const uint16_t *q, const uint16_t *k, int64_t rows, int64_t keys, int64_t head_dim)
{
    const int64_t tiles = up(keys, 16) / 16, d = up(head_dim, 32), tile = d / 32 * TILE;
    for (int64_t i = 0; i < rows; i += 32)
        for (int64_t n = 0; n < tiles; n += 2)
            square_add(scores + i * KEYS + n * 16, KEYS, i + 16 < rows, n + 1 < tiles, q + i * d, d, k + n * tile, tile, TILE, head_dim, 1);
}

/* sums [rows, dv] += weights [rows, KEYS] by the packed values */
static inline void multiply_values(float *sums, const uint16_t *weights, const uint16_t *v, int64_t rows, int64_t keys, int64_t dv)
{
    const int64_t across = dv / 16;
    for (int64_t i = 0; i < rows; i += 32)
        for (int64_t c = 0; c < across; c += 2)
            square_add(sums + i * dv + c * 16, dv, i + 16 < rows, c + 1 < across, weights + i * KEYS, KEYS, v + c * TILE, TILE, across * TILE, keys, 0);
}

/* 2^t for t from -126 to 0, to 1e-4 of its size: weights are rounded to 4e-3 of theirs. */
static inline __m512 power_of_two(__m512 t)
{
    t = _mm512_max_ps(_mm512_set1_ps(-126), t);      /* what is no number stays none */
    const __m512 whole = _mm512_roundscale_ps(t, 0), f = _mm512_sub_ps(t, whole);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.0559220356f), _mm512_set1_ps(0.242640083f));
    p = _mm512_fmadd_ps(f, p, _mm512_set1_ps(0.693121034f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(f, p, _mm512_set1_ps(0.999924481f)), whole);
}

/* The largest of n scores in powers of two, by > 0 or not. Rounding keeps order, so the largest score gives the largest product. */
static inline float largest(const float *x, int64_t n, float by)
{
    const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
    __m512 high = lowest, other = lowest;
    if (n <= 0) return -__builtin_inff();
    if (by <= 0) {
        for (int64_t c = 0; c < n; c += 16) high = _mm512_max_ps(high, _mm512_mask_mul_ps(lowest, first(n - c), _mm512_loadu_ps(x + c), _mm512_set1_ps(by)));
        return _mm512_reduce_max_ps(high);
    }
    int64_t c = 0;
    for (; c + 32 <= n; c += 32) high = _mm512_max_ps(high, _mm512_loadu_ps(x + c)), other = _mm512_max_ps(other, _mm512_loadu_ps(x + c + 16));
    for (; c < n; c += 16) high = _mm512_max_ps(high, _mm512_mask_loadu_ps(lowest, first(n - c), x + c));
    return _mm512_reduce_max_ps(_mm512_max_ps(high, other)) * by;
}

/* Scores of the block to weights, rounded: what attention_weights_f32 does, in one pass after the maximum. top is in powers of two. Each product is rounded as the maximum was,
 * so that rows of nothing but equal huge numbers, which masks make, weigh all alike. columns: a multiple of 32 */
static inline void weigh_block(const struct lane *l, int64_t at, int64_t count, int64_t columns, float scale)
{
    const float turn = scale * LOG2_E;
    const __m512 by = _mm512_set1_ps(turn);
    for (int64_t r = 0; r < count; r++) {
        const float *x = l->scores + r * KEYS, before = l->top[at + r];
        uint16_t *w = l->weights + r * KEYS;
        const int64_t n = l->limit[r];
        const float own = largest(x, n, turn), most = own > before ? own : before;
        if (own == -__builtin_inff() && before == own) {     /* no score but -infinity so far */
            memset(w, 0, (size_t)columns * sizeof *w);
            l->shrink[r] = 1;
            continue;
        }
        const __m512 off = _mm512_set1_ps(most);
        __m512 total = _mm512_setzero_ps(), other = total;
        int64_t c = 0;
        for (; c + 32 <= n; c += 32) {
            const __m512 e = power_of_two(_mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(x + c), by), off)), f = power_of_two(_mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(x + c + 16), by), off));
            total = _mm512_add_ps(total, e);
            other = _mm512_add_ps(other, f);
            _mm512_storeu_si512(w + c, (__m512i)_mm512_cvtne2ps_pbh(f, e));
        }
        for (; c < columns; c += 16) {
            const __m512 e = _mm512_maskz_mov_ps(first(n - c), power_of_two(_mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(x + c), by), off)));
            total = _mm512_add_ps(total, e);
            _mm256_storeu_si256((__m256i *)(void *)(w + c), round_16(e));
        }
        l->shrink[r] = before == most ? 1 : before == -__builtin_inff() ? 0 : exp2f(before - most);
        l->sum[at + r] = l->sum[at + r] * l->shrink[r] + _mm512_reduce_add_ps(_mm512_add_ps(total, other));
        l->top[at + r] = most;
    }
    memset(l->weights + count * KEYS, 0, (size_t)((up(count, 16) - count) * KEYS) * sizeof *l->weights);
}

/* Queries [at, at + count) of the range, whose scores with the packed block are made, take its values. */
static inline void take_block(const struct lane *l, int64_t at, int64_t count, int64_t keys, float scale, int64_t dv)
{
    weigh_block(l, at, count, up(keys, 32), scale);
    for (int64_t r = 0; r < count; r++) {
        float *y = l->sums + (at + r) * dv;
        const __m512 by = _mm512_set1_ps(l->shrink[r]);
        for (int64_t c = 0; c < dv && l->shrink[r] != 1; c += 16) _mm512_storeu_ps(y + c, _mm512_mul_ps(_mm512_loadu_ps(y + c), by));
    }
    multiply_values(l->sums + at * dv, l->weights, l->v, up(count, 16), keys, dv);
}

/* y [n] = sums of query i of the range, times `by` */
static inline void put_sums(float *y, const struct lane *l, int64_t i, int64_t dv, int64_t n, float by)
{
    for (int64_t c = 0; c < n; c += 16) _mm512_mask_storeu_ps(y + c, first(n - c), _mm512_mul_ps(_mm512_loadu_ps(l->sums + i * dv + c), _mm512_set1_ps(by)));
}

#endif
