/* Dense attention on bfloat16 tiles: queries, keys, values and weights are rounded to bfloat16, scores and sums are float. The walk is attention_dense_f32's (kernels/diffusion.c):
 * a range of queries goes over the keys block by block with a running maximum; a block of keys lies as tiles [keys / 16][head_dim / 32], a block of values as tiles
 * [keys / 32][head_dim_v / 16]. What is beyond the heads' dimensions and the last key is zeros. A query's bits do not depend on the other queries. */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/levels.h"
#include "kernels/diffusion.h"

enum { QUERIES = ATTENTION_DENSE_QUERIES, KEYS = ATTENTION_DENSE_KEYS, RANGE = 512, TILE = 16 * 32 };

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct lane { uint16_t *q, *k, *v, *weights, *row; float *scores, *sums, *top, *sum, *shrink; int64_t *limit; };

static uint64_t lane_layout(const struct attention_dense *a, char *base, struct lane *l)
{
    const int64_t d = up(a->head_dim, 32), dv = up(a->head_dim_v, 16);
    uint64_t at = 0;
#define PLACE(field, type, count) l->field = (type *)(void *)(base + at), at += (uint64_t)up((int64_t)sizeof(type) * (count), 64)
    PLACE(q, uint16_t, RANGE * d);
    PLACE(k, uint16_t, KEYS * d);
    PLACE(v, uint16_t, KEYS * dv);
    PLACE(weights, uint16_t, QUERIES * KEYS);
    PLACE(row, uint16_t, KEYS * d);
    PLACE(scores, float, QUERIES * KEYS);
    PLACE(sums, float, RANGE * dv);
    PLACE(top, float, RANGE);
    PLACE(sum, float, RANGE);
    PLACE(shrink, float, QUERIES);
    PLACE(limit, int64_t, QUERIES);
#undef PLACE
    return at;
}

static uint64_t attention_tiles_scratch(const struct attention_dense *a, int threads)
{
    struct lane l;
    static char nowhere[1];
    return lane_layout(a, nowhere, &l) * (uint64_t)(threads < 1 ? 1 : threads);
}

static __m256i round_16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static __mmask16 first(int64_t n) { return n >= 16 ? (__mmask16)0xffff : n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1); }

/* rows of n numbers, ld apart, to rows of `width`; rows from `rows` to `all` are zeros */
static void round_rows(uint16_t *y, int64_t width, const float *x, int64_t ld, int64_t rows, int64_t all, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, y += width, x += ld)
        for (int64_t c = 0; c < width; c += 16) _mm256_storeu_si256((__m256i *)(void *)(y + c), round_16(_mm512_maskz_loadu_ps(first(n - c), x + c)));
    if (all > rows) memset(y, 0, (size_t)((all - rows) * width) * sizeof *y);
}

/* Keys as the right side: tile (16 keys, 32 dims), row r: dims 2r and 2r + 1 of 16 keys, pair by pair. */
static void pack_keys(const struct lane *l, const float *k, int64_t ldk, int64_t keys, int64_t head_dim)
{
    const int64_t d = up(head_dim, 32), all = up(keys, 16);
    const __m512i step = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32((int)(d / 2)));
    round_rows(l->row, d, k, ldk, keys, all, head_dim);
    uint16_t *to = l->k;
    for (int64_t n = 0; n < all; n += 16)
        for (int64_t c = 0; c < d; c += 32)
            for (int64_t r = 0; r < 16; r++, to += 32) _mm512_storeu_si512(to, _mm512_i32gather_epi32(step, (const int *)(const void *)(l->row + n * d + c + 2 * r), 4));
}

/* Values as the right side: tile (32 keys, 16 dims), row r: keys 2r and 2r + 1 of 16 dims, pair by pair. */
static void pack_values(const struct lane *l, const float *v, int64_t ldv, int64_t keys, int64_t head_dim)
{
    const int64_t all = up(keys, 32);
    uint16_t *to = l->v;
    for (int64_t n = 0; n < all; n += 32)
        for (int64_t c = 0; c < head_dim; c += 16)
            for (int64_t r = n; r < n + 32; r += 2, to += 32) {
                const __m512 even = r < keys ? _mm512_maskz_loadu_ps(first(head_dim - c), v + r * ldv + c) : _mm512_setzero_ps();
                const __m512 odd = r + 1 < keys ? _mm512_maskz_loadu_ps(first(head_dim - c), v + (r + 1) * ldv + c) : _mm512_setzero_ps();
                const __m512i low = _mm512_cvtepu16_epi32(round_16(even)), high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(round_16(odd)), 16);
                _mm512_storeu_si512(to, _mm512_or_si512(low, high));
            }
}

/* scores [rows, KEYS] of `rows` queries (a multiple of 16) with all packed keys */
static void multiply_keys(const struct lane *l, const uint16_t *q, int64_t rows, int64_t keys, int64_t d)
{
    const int64_t tiles = up(keys, 16) / 16, steps = d / 32;
    for (int64_t i = 0; i < rows; i += 16)
        for (int64_t n = 0; n < tiles; n += 2) {
            const uint16_t *left = q + i * d, *b = l->k + n * steps * TILE;
            const int two = n + 1 < tiles;
            TILE_ZERO(0);
            TILE_ZERO(1);
            for (int64_t s = 0; s < steps; s++) {
                TILE_LOAD(4, left + s * 32, d * 2);
                TILE_LOAD(6, b + s * TILE, 64);
                TILE_DOT_BF16(0, 4, 6);
                if (!two) continue;
                TILE_LOAD(7, b + (steps + s) * TILE, 64);
                TILE_DOT_BF16(1, 4, 7);
            }
            TILE_STORE(0, l->scores + i * KEYS + n * 16, KEYS * 4);
            if (two) TILE_STORE(1, l->scores + i * KEYS + n * 16 + 16, KEYS * 4);
        }
}

/* sums [rows, dv] += weights [rows, KEYS] by the packed values */
static void multiply_values(const struct lane *l, float *sums, int64_t rows, int64_t keys, int64_t dv)
{
    const int64_t steps = up(keys, 32) / 32, across = dv / 16;
    for (int64_t i = 0; i < rows; i += 16)
        for (int64_t c = 0; c < across; c++) {
            TILE_LOAD(0, sums + i * dv + c * 16, dv * 4);
            for (int64_t s = 0; s < steps; s++) {
                TILE_LOAD(4, l->weights + i * KEYS + s * 32, KEYS * 2);
                TILE_LOAD(6, l->v + (s * across + c) * TILE, 64);
                TILE_DOT_BF16(0, 4, 6);
            }
            TILE_STORE(0, sums + i * dv + c * 16, dv * 4);
        }
}

struct job { const struct attention_dense *a; const struct diffusion_kernels *d; char *scratch; uint64_t lane_bytes; int64_t range; };

/* Queries [at, at + count) of a range that begins at `from`, against the packed block of keys that begins at `key`. */
static void attend_block(const struct job *j, const struct lane *l, int64_t b, int64_t from, int64_t at, int64_t count, int64_t key, int64_t keys)
{
    const struct attention_dense *a = j->a;
    const int64_t d = up(a->head_dim, 32), dv = up(a->head_dim_v, 16), rows = up(count, 16);
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t n = attention_dense_seen(a, b, from + at + i) - key;
        l->limit[i] = n < 0 ? 0 : n > keys ? keys : n;
        if (l->limit[i] > most) most = l->limit[i];
    }
    if (most == 0) return;
    multiply_keys(l, l->q + at * d, rows, keys, d);
    j->d->attention_weights_f32(l->scores, KEYS, count, up(keys, 32), l->limit, a->scale, l->top + at, l->sum + at, l->shrink);
    round_rows(l->weights, KEYS, l->scores, KEYS, count, rows, up(keys, 32));
    j->d->scale_rows_f32(l->sums + at * dv, dv, l->shrink, count, dv);
    multiply_values(l, l->sums + at * dv, rows, keys, dv);
}

static void attend_range(const struct job *j, const struct lane *l, int64_t b, int64_t h, int64_t from, int64_t count)
{
    const struct attention_dense *a = j->a;
    const int64_t d = up(a->head_dim, 32), dv = up(a->head_dim_v, 16), end = attention_dense_seen(a, b, from + count - 1);
    round_rows(l->q, d, a->q + (b * a->queries + from) * a->ldq + h * a->head_dim, a->ldq, count, up(count, 16), a->head_dim);
    memset(l->sums, 0, (size_t)(up(count, 16) * dv) * sizeof *l->sums);
    for (int64_t i = 0; i < count; i++) l->top[i] = -__builtin_inff(), l->sum[i] = 0;
    for (int64_t key = 0; key < end; key += KEYS) {
        const int64_t keys = a->keys - key < KEYS ? a->keys - key : KEYS;
        pack_keys(l, a->k + (b * a->keys + key) * a->ldk + h * a->head_dim, a->ldk, keys, a->head_dim);
        pack_values(l, a->v + (b * a->keys + key) * a->ldv + h * a->head_dim_v, a->ldv, keys, a->head_dim_v);
        for (int64_t i = 0; i < count; i += QUERIES) attend_block(j, l, b, from, i, count - i < QUERIES ? count - i : QUERIES, key, keys);
    }
    float *y = a->y + (b * a->queries + from) * a->ldy + h * a->head_dim_v;
    for (int64_t i = 0; i < count; i++, y += a->ldy) {
        const __m512 by = _mm512_set1_ps(l->sum[i] > 0 ? 1 / l->sum[i] : 0);
        for (int64_t c = 0; c < a->head_dim_v; c += 16) _mm512_mask_storeu_ps(y + c, first(a->head_dim_v - c), _mm512_mul_ps(_mm512_loadu_ps(l->sums + i * dv + c), by));
    }
}

static void attend_part(void *ctx, int part, int parts)
{
    static const struct tile_config config = { .palette = 1, .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, .rows = { 16, 16, 16, 16, 16, 16, 16, 16 } };
    const struct job *j = ctx;
    const struct attention_dense *a = j->a;
    struct lane l;
    lane_layout(a, j->scratch + j->lane_bytes * (uint64_t)part, &l);
    const int64_t ranges = (a->queries + j->range - 1) / j->range, units = a->batch * a->heads * ranges;
    tiles_begin(&config);
    for (int64_t u = units * part / parts, stop = units * (part + 1) / parts; u < stop; u++) {
        const int64_t from = u % ranges * j->range, count = a->queries - from < j->range ? a->queries - from : j->range;
        attend_range(j, &l, u / ranges / a->heads, u / ranges % a->heads, from, count);
    }
    tiles_end();
}

static void attention_tiles(const struct attention_dense *a, const struct diffusion_kernels *d, void *scratch, int threads)
{
    struct lane l;
    if (a->batch < 1 || a->queries < 1 || a->keys < 1) return;
    if (threads < 1) threads = 1;
    struct job j = { .a = a, .d = d, .scratch = scratch, .lane_bytes = lane_layout(a, scratch, &l) };
    const int64_t each = a->batch * a->heads * a->queries / ((int64_t)threads * 4);
    j.range = up(each, QUERIES);
    if (j.range < QUERIES) j.range = QUERIES;
    if (j.range > RANGE) j.range = RANGE;
    parallel_for(threads, threads, attend_part, &j);
}

void diffusion_fill_amx(struct diffusion_kernels *k)
{
    k->attention_tiles_scratch = attention_tiles_scratch;
    k->attention_tiles = attention_tiles;
}
