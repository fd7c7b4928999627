/* Dense attention on bfloat16 tiles (kernels/cpu/amx/attention_tiles.h). The walk is attention_dense_f32's (kernels/diffusion.c). What is beyond the heads' dimensions and
 * the last key is zeros. A query's bits do not depend on the other queries. */
#include "kernels/cpu/amx/attention_tiles.h"
#include "kernels/cpu/levels.h"
#include "kernels/diffusion.h"

static uint64_t lane_of(struct lane *l, const struct attention_dense *a, char *base)
{
    return lane_layout(l, base, a->head_dim, a->head_dim_v, KEYS * up(a->head_dim, 32) * (int64_t)sizeof(uint16_t));
}

static uint64_t attention_tiles_scratch(const struct attention_dense *a, int threads)
{
    struct lane l;
    static char nowhere[1];
    return lane_of(&l, a, nowhere) * (uint64_t)(threads < 1 ? 1 : threads);
}

/* Keys as the right side: tile (16 keys, 32 dims), row r: dims 2r and 2r + 1 of 16 keys, pair by pair. */
static void pack_keys(const struct lane *l, const float *k, int64_t ldk, int64_t keys, int64_t head_dim)
{
    const int64_t d = up(head_dim, 32), all = up(keys, 16);
    const __m512i step = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32((int)(d / 2)));
    uint16_t *rows = l->packing;
    round_rows(rows, d, k, ldk, keys, all, head_dim);
    uint16_t *to = l->k;
    for (int64_t n = 0; n < all; n += 16)
        for (int64_t c = 0; c < d; c += 32)
            for (int64_t r = 0; r < 16; r++, to += 32) _mm512_storeu_si512(to, _mm512_i32gather_epi32(step, (const int *)(const void *)(rows + n * d + c + 2 * r), 4));
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
                _mm512_storeu_si512(to, pair_of(even, odd));
            }
}

struct job { const struct attention_dense *a; char *scratch; uint64_t lane_bytes; int64_t range; };

/* Queries [at, at + count) of a range that begins at `from`, against the packed block of keys that begins at `key`. */
static void attend_block(const struct job *j, const struct lane *l, int64_t b, int64_t from, int64_t at, int64_t count, int64_t key, int64_t keys)
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
    multiply_keys(l->scores, l->q + at * d, l->k, up(count, 16), most, d);
    take_block(l, at, count, most, a->scale, dv);
}

static void attend_range(const struct job *j, const struct lane *l, int64_t b, int64_t h, int64_t from, int64_t count)
{
    const struct attention_dense *a = j->a;
    const int64_t d = up(a->head_dim, 32), dv = up(a->head_dim_v, 16), end = attention_dense_seen(a, b, from + count - 1);
    round_rows(l->q, d, a->q + (b * a->queries + from) * a->ldq + h * a->head_dim, a->ldq, count, up(count, 16), a->head_dim);
    range_begin(l, count, dv);
    for (int64_t key = 0; key < end; key += KEYS) {
        const int64_t keys = a->keys - key < KEYS ? a->keys - key : KEYS;
        pack_keys(l, a->k + (b * a->keys + key) * a->ldk + h * a->head_dim, a->ldk, keys, a->head_dim);
        pack_values(l, a->v + (b * a->keys + key) * a->ldv + h * a->head_dim_v, a->ldv, keys, a->head_dim_v);
        for (int64_t i = 0; i < count; i += QUERIES) attend_block(j, l, b, from, i, count - i < QUERIES ? count - i : QUERIES, key, keys);
    }
    float *y = a->y + (b * a->queries + from) * a->ldy + h * a->head_dim_v;
    for (int64_t i = 0; i < count; i++, y += a->ldy) put_sums(y, l, i, dv, a->head_dim_v, l->sum[i] > 0 ? 1 / l->sum[i] : 0);
}

static void attend_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct attention_dense *a = j->a;
    struct lane l;
    lane_of(&l, a, j->scratch + j->lane_bytes * (uint64_t)part);
    const int64_t ranges = (a->queries + j->range - 1) / j->range, units = a->batch * a->heads * ranges;
    tiles_begin(&whole_tiles);
    for (int64_t u = units * part / parts, stop = units * (part + 1) / parts; u < stop; u++) {
        const int64_t from = u % ranges * j->range, count = a->queries - from < j->range ? a->queries - from : j->range;
        attend_range(j, &l, u / ranges / a->heads, u / ranges % a->heads, from, count);
    }
    tiles_end();
}

static void attention_tiles(const struct attention_dense *a, void *scratch, int threads)
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

void diffusion_fill_amx(struct diffusion_kernels *k)
{
    k->attention_tiles_scratch = attention_tiles_scratch;
    k->attention_tiles = attention_tiles;
}
