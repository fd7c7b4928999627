/* Dense attention in bfloat16 (kernels/cpu/attention_bf16.h). The walk is attention_dense_f32's (kernels/diffusion.c). What is beyond the heads' dimensions and
 * the last key is zeros. A query's bits do not depend on the other queries. */
#ifndef KERNELS_CPU_ATTENTION_DENSE_BF16_BODY_H
#define KERNELS_CPU_ATTENTION_DENSE_BF16_BODY_H

#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/levels.h"
#include "kernels/diffusion.h"

static uint64_t lane_of(struct lane *l, const struct attention_dense *a, char *base)
{
    return lane_layout(l, base, a->head_dim, a->head_dim_v, KEYS * up(a->head_dim, 32) * (int64_t)sizeof(uint16_t));
}

static uint64_t attention_bf16_scratch(const struct attention_dense *a, int threads)
{
    struct lane l;
    static char nowhere[1];
    return lane_of(&l, a, nowhere) * (uint64_t)(threads < 1 ? 1 : threads);
}

/* `at` numbers on from p, which are floats or halves */
static const void *number(const void *p, int64_t at, bool halves) { return (const char *)p + at * (halves ? 2 : 4); }

static void take_rows(uint16_t *y, int64_t width, const void *x, bool halves, int64_t ld, int64_t rows, int64_t all, int64_t n)
{
    if (halves) copy_rows(y, width, x, ld, rows, all, n);
    else round_rows(y, width, x, ld, rows, all, n);
}

/* 16 x 16 dwords turned: row i of `to`, 32 numbers apart, is column i of the rows x, `ld` numbers apart. */
static void turn_tile(uint16_t *to, const uint16_t *x, int64_t ld)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(x + i * ld);
    for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + 2 + k]), a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + 2 + k]);
    for (int i = 0; i < 4; i++)              /* a[4 g + i], lane L: column 4 L + i of rows 4 g to 4 g + 3 */
        for (int g = 0; g < 4; g += 2) b[4 * g + 2 * i] = _mm512_shuffle_i32x4(a[4 * g + i], a[4 * g + 4 + i], 0x88), b[4 * g + 2 * i + 1] = _mm512_shuffle_i32x4(a[4 * g + i], a[4 * g + 4 + i], 0xdd);
    for (int i = 0; i < 4; i++)
        for (int odd = 0; odd < 2; odd++) {
            _mm512_storeu_si512(to + (4 * odd + i) * 32, _mm512_shuffle_i32x4(b[2 * i + odd], b[8 + 2 * i + odd], 0x88));
            _mm512_storeu_si512(to + (8 + 4 * odd + i) * 32, _mm512_shuffle_i32x4(b[2 * i + odd], b[8 + 2 * i + odd], 0xdd));
        }
}

/* Keys as the right side: tile (16 keys, 32 dims), row r: dims 2r and 2r + 1 of 16 keys, pair by pair. */
static void pack_keys(const struct lane *l, const void *k, bool halves, int64_t ldk, int64_t keys, int64_t head_dim)
{
    const int64_t d = up(head_dim, 32), all = up(keys, 16);
    uint16_t *rows = l->packing, *to = l->k;
    take_rows(rows, d, k, halves, ldk, keys, all, head_dim);
    for (int64_t n = 0; n < all; n += 16)
        for (int64_t c = 0; c < d; c += 32, to += TILE) turn_tile(to, rows + n * d + c, d);
}

/* 16 numbers of row r, zeros from row `keys` on */
static __m256i halves_of(const uint16_t *v, int64_t ldv, int64_t r, int64_t keys, __mmask16 mask) { return r < keys ? _mm256_maskz_loadu_epi16(mask, v + r * ldv) : _mm256_setzero_si256(); }
static __m512 floats_of(const float *v, int64_t ldv, int64_t r, int64_t keys, __mmask16 mask) { return r < keys ? _mm512_maskz_loadu_ps(mask, v + r * ldv) : _mm512_setzero_ps(); }

/* Values as the right side: tile (32 keys, 16 dims), row r: keys 2r and 2r + 1 of 16 dims, pair by pair. */
static void pack_values(const struct lane *l, const void *v, bool halves, int64_t ldv, int64_t keys, int64_t head_dim)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const int64_t all = up(keys, 32);
    uint16_t *to = l->v;
    for (int64_t n = 0; n < all; n += 32)
        for (int64_t c = 0; c < head_dim; c += 16) {
            const __mmask16 mask = first(head_dim - c);
            const void *at = number(v, c, halves);
            for (int64_t r = n; r < n + 32; r += 2, to += 32)
                _mm512_storeu_si512(to, halves ? _mm512_permutexvar_epi16(order, _mm512_inserti64x4(_mm512_castsi256_si512(halves_of(at, ldv, r, keys, mask)), halves_of(at, ldv, r + 1, keys, mask), 1))
                                               : pair_of(floats_of(at, ldv, r, keys, mask), floats_of(at, ldv, r + 1, keys, mask)));
        }
}

/* What attention_masks_f32 does, for columns rounded up to 16. Finite scores stay so when they become powers of two. */
static void mask_scores(const struct lane *l, int64_t rows, int64_t columns, const struct attention_dense *a, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const __m512 scale = _mm512_set1_ps(a->scale), least = _mm512_set1_ps(-2e38f), none = _mm512_set1_ps(-__builtin_inff());
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c += 16) {
            float *x = l->scores + r * KEYS + c;
            const __mmask16 within = first(columns - c);
            __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x), scale);
            for (int m = 0; m < ATTENTION_MASKS; m++) {
                const struct attention_mask *k = &a->masks[m];
                const int64_t at = b * k->batch + h * k->head + (i + r) * k->query + j + c;
                if (k->add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(within, k->add + at));
                if (!k->seen) continue;
                const __m128i seen = _mm_maskz_loadu_epi8(within, k->seen + at);
                const __mmask16 hidden = k->inverted ? _mm_test_epi8_mask(seen, seen) : _mm_testn_epi8_mask(seen, seen);
                v = _mm512_mask_mov_ps(v, hidden, _mm512_set1_ps(k->unseen));
            }
            _mm512_storeu_ps(x, _mm512_mask_max_ps(v, _mm512_cmp_ps_mask(v, none, _CMP_NEQ_UQ), least, v));
        }
}

static void put_halves(uint16_t *y, const struct lane *l, int64_t i, int64_t dv, int64_t n, float by)
{
    for (int64_t c = 0; c < n; c += 16) _mm256_mask_storeu_epi16(y + c, first(n - c), round_16(_mm512_mul_ps(_mm512_loadu_ps(l->sums + i * dv + c), _mm512_set1_ps(by))));
}

struct job { const struct attention_dense *a; char *scratch; uint64_t lane_bytes; int64_t range; };

/* Queries [at, at + count) of a range that begins at `from`, against the packed block of keys that begins at `key`. */
static void attend_block(const struct job *j, const struct lane *l, int64_t b, int64_t h, int64_t from, int64_t at, int64_t count, int64_t key, int64_t keys)
{
    const struct attention_dense *a = j->a;
    const int64_t d = up(a->head_dim, 32), dv = up(a->head_dim_v, 16);
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t n = attention_dense_seen(a, b, from + at + i) - key;
        l->limit[i] = n < 0 ? 0 : n > keys ? keys : n;
        if (l->limit[i] > most) most = l->limit[i];
    }
    if (most == 0) return;
    multiply_keys(l->scores, l->q + at * d, l->k, up(count, 16), most, a->head_dim);
    const bool masked = attention_dense_masked(a);
    if (masked) mask_scores(l, count, most, a, b, h, from + at, key);
    take_block(l, at, count, most, masked ? 1 : a->scale, dv);
}

static void attend_range(const struct job *j, const struct lane *l, int64_t b, int64_t h, int64_t from, int64_t count)
{
    const struct attention_dense *a = j->a;
    const int64_t d = up(a->head_dim, 32), dv = up(a->head_dim_v, 16), end = attention_dense_seen(a, b, from + count - 1);
    take_rows(l->q, d, number(a->q, attention_dense_q(a, b, h) + from * a->ldq, a->halves_q), a->halves_q, a->ldq, count, up(count, 16), a->head_dim);
    range_begin(l, count, dv);
    for (int64_t key = 0; key < end; key += KEYS) {
        const int64_t keys = a->keys - key < KEYS ? a->keys - key : KEYS;
        pack_keys(l, number(a->k, attention_dense_k(a, b, h) + key * a->ldk, a->halves_k), a->halves_k, a->ldk, keys, a->head_dim);
        pack_values(l, number(a->v, attention_dense_v(a, b, h) + key * a->ldv, a->halves_v), a->halves_v, a->ldv, keys, a->head_dim_v);
        for (int64_t i = 0; i < count; i += QUERIES) attend_block(j, l, b, h, from, i, count - i < QUERIES ? count - i : QUERIES, key, keys);
    }
    char *y = (char *)a->y + (attention_dense_y(a, b, h) + from * a->ldy) * (a->halves_y ? 2 : 4);
    for (int64_t i = 0; i < count; i++, y += a->ldy * (a->halves_y ? 2 : 4)) {
        const float by = l->sum[i] > 0 ? 1 / l->sum[i] : a->nothing;
        if (a->halves_y) put_halves((uint16_t *)(void *)y, l, i, dv, a->head_dim_v, by);
        else put_sums((float *)(void *)y, l, i, dv, a->head_dim_v, by);
    }
}

static void attend_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct attention_dense *a = j->a;
    struct lane l;
    lane_of(&l, a, j->scratch + j->lane_bytes * (uint64_t)part);
    const int64_t ranges = (a->queries + j->range - 1) / j->range, units = a->batch * a->heads * ranges;
    squares_begin();
    for (int64_t u = units * part / parts, stop = units * (part + 1) / parts; u < stop; u++) {
        const int64_t from = u % ranges * j->range, count = a->queries - from < j->range ? a->queries - from : j->range;
        attend_range(j, &l, u / ranges / a->heads, u / ranges % a->heads, from, count);
    }
    squares_end();
}

static void attention_bf16(const struct attention_dense *a, void *scratch, int threads)
{
    struct lane l;
    if (a->batch < 1 || a->queries < 1 || a->keys < 1) return;
    if (threads < 1) threads = 1;
    struct job j = { .a = a, .scratch = scratch, .lane_bytes = lane_of(&l, a, scratch) };
    const int64_t each = a->batch * a->heads * a->queries / ((int64_t)threads * 4);
    j.range = up(each, QUERIES);
    if (j.range < QUERIES) j.range = QUERIES;
    if (j.range > RANGE) j.range = RANGE;
    parallel_for(threads, threads, attend_part, &j);
}

#endif
