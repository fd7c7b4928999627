/* As body.h, for the tasks of language models: matrices of blocks, rotation, pages of keys and values, gates and routes. Everything here is float but what matrices and pages hold. */
#ifndef KERNELS_CUDA_BODY_LLM_H
#define KERNELS_CUDA_BODY_LLM_H

#include <assert.h>

#include "kernels/attention.h"
#include "kernels/cuda/body.h"

/* ---- matrices ---- */
BODY float body_half(const void *p) { return body_load(p, GPU_F16, 0); }

/* 16 bytes at an address that divides by 16. */
struct body_words { uint32_t v[4]; };
BODY struct body_words body_fetch(const uint8_t *p)
{
    struct body_words w;
#ifdef __CUDA_ARCH__
    const uint4 v = __ldg((const uint4 *)p);
    w.v[0] = v.x, w.v[1] = v.y, w.v[2] = v.z, w.v[3] = v.w;
#else
    assert((uintptr_t)p % 16 == 0);      /* a card would stop */
    for (int i = 0; i < 4; i++) w.v[i] = (uint32_t)p[4 * i] | (uint32_t)p[4 * i + 1] << 8 | (uint32_t)p[4 * i + 2] << 16 | (uint32_t)p[4 * i + 3] << 24;
#endif
    return w;
}

/* A whole number below 2^23 as float. On the device through the bits of 2^23 + v: conversions run at a quarter of the rate of sums. */
BODY float body_small(uint32_t v)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(0x4b000000u | v) - 8388608.0f;
#else
    return (float)v;
#endif
}

/* Scale and minimum of sub-block j of the 12 bytes that Q4_K and Q5_K pack eight of each into: 6 bits each. */
BODY void body_k_scales(const struct body_words *head, int j, uint32_t *scale, uint32_t *least)
{
    const uint32_t a = head->v[1], b = head->v[2], c = head->v[3];       /* bytes 0-3, 4-7, 8-11 */
    const int s = 8 * (j & 3);
    if (j < 4) {
        *scale = a >> s & 63;
        *least = b >> s & 63;
    } else {
        *scale = (c >> s & 15) | (a >> s >> 6 & 3) << 4;
        *least = (c >> (s + 4) & 15) | (b >> s >> 6 & 3) << 4;
    }
}

/* Chunk `c` of a row, decoded: GPU_CHUNK numbers; behind the row's end they are 0. */
BODY void body_chunk(const struct gpu_matrix *w, const uint8_t *row, int64_t c, float *y)
{
    switch (w->block) {
    case BLOCK_F32:
        for (int i = 0; i < GPU_CHUNK; i += 4) {
            const struct body_words v = body_fetch(row + 128 * c + 4 * i);
            for (int k = 0; k < 4; k++) y[i + k] = body_load(&v, GPU_F32, k);
        }
        return;
    case BLOCK_F16: case BLOCK_BF16:
        for (int i = 0; i < GPU_CHUNK; i += 8) {
            const struct body_words v = body_fetch(row + 64 * c + 2 * i);
            for (int k = 0; k < 8; k++) y[i + k] = body_load(&v, w->block == BLOCK_F16 ? GPU_F16 : GPU_BF16, k);
        }
        return;
    case BLOCK_Q4_0: {
        const struct body_words v = body_fetch(row + 16 * c);
        const float d = body_half(row + w->k / 2 + 2 * c);
        for (int i = 0; i < 16; i++) {
            const uint32_t b = v.v[i / 4] >> 8 * (i & 3);
            y[i] = d * (body_small(b & 15) - 8);
            y[i + 16] = d * (body_small(b >> 4 & 15) - 8);
        }
        return;
    }
    case BLOCK_Q8_0: {
        const float d = body_half(row + w->k + 2 * c);
        for (int i = 0; i < GPU_CHUNK; i += 16) {
            const struct body_words v = body_fetch(row + 32 * c + i);
            for (int k = 0; k < 16; k++) y[i + k] = d * (body_small((v.v[k / 4] >> 8 * (k & 3) & 255) ^ 128) - 128);
        }
        return;
    }
    case BLOCK_Q4_K: case BLOCK_Q5_K: {
        const bool five = w->block == BLOCK_Q5_K;
        const uint8_t *block = row + (five ? 176 : 144) * (c / 8);
        const int j = (int)(c % 8), shift = 4 * (j & 1);
        const struct body_words head = body_fetch(block);
        uint32_t scale, least;
        body_k_scales(&head, j, &scale, &least);
        const float d = body_load(&head, GPU_F16, 0) * body_small(scale), m = body_load(&head, GPU_F16, 1) * body_small(least);
        for (int i = 0; i < GPU_CHUNK; i += 16) {
            const struct body_words low = body_fetch(block + (five ? 48 : 16) + 32 * (j / 2) + i);
            struct body_words high = { { 0, 0, 0, 0 } };
            if (five) high = body_fetch(block + 16 + i);
            for (int k = 0; k < 16; k++) y[i + k] = d * body_small((low.v[k / 4] >> (8 * (k & 3) + shift) & 15) | (high.v[k / 4] >> (8 * (k & 3) + j) & 1) << 4) - m;
        }
        return;
    }
    case BLOCK_Q6_K: {
        const int64_t b = c / 8, blocks = w->k / 256;
        const int half = (int)(c % 8) / 4, t = (int)(c % 4), shift = 4 * (t >> 1);
        const uint8_t *low = row + 128 * b + 64 * half + 32 * (t & 1), *high = row + 128 * blocks + 64 * b + 32 * half;
        const int8_t *scales = (const int8_t *)row + 192 * blocks + 16 * b + 8 * half + 2 * t;
        const float d = body_half(row + 208 * blocks + 2 * b);
        for (int i = 0; i < GPU_CHUNK; i += 16) {
            const struct body_words l = body_fetch(low + i), h = body_fetch(high + i);
            const float s = d * (float)scales[i / 16];
            for (int k = 0; k < 16; k++) y[i + k] = s * (body_small((l.v[k / 4] >> (8 * (k & 3) + shift) & 15) | (h.v[k / 4] >> (8 * (k & 3) + 2 * t) & 3) << 4) - 32);
        }
        return;
    }
    default:
        for (int i = 0; i < GPU_CHUNK; i++) y[i] = 0;
    }
}

BODY int64_t body_chunks(const struct gpu_matrix *w) { return (w->k + GPU_CHUNK - 1) / GPU_CHUNK; }

/* Element i counts chunks of y. */
BODY void body_embed(const struct gpu_task *t, int64_t i)
{
    const struct gpu_embed *e = &t->u.embed;
    const int64_t chunks = body_chunks(&e->w), c = i % chunks, r = i / chunks;
    int64_t row = t->at[0] ? ((const int32_t *)t->at[0])[r] + e->shift : r;
    row = row < 0 ? 0 : row >= e->w.n ? e->w.n - 1 : row;
    float w[GPU_CHUNK];
    body_chunk(&e->w, (const uint8_t *)t->at[1] + row * e->w.row_bytes, c, w);
    for (int k = 0; k < GPU_CHUNK && c * GPU_CHUNK + k < e->w.k; k++) body_store(t->at[2], t->type[2], r * e->w.k + c * GPU_CHUNK + k, w[k] * e->scale);
}

BODY float body_gate(int kind, float limit, float g, float u)
{
    switch (kind) {
    case 0: return g * body_sigmoid(g) * u;                                             /* enum gate_kind of kernels/llm.h, in its order */
    case 1: return 0.5f * g * (1 + erff(g * 0.70710678f)) * u;
    case 2: return 0.5f * g * (1 + tanhf(0.79788456f * (g + 0.044715f * g * g * g))) * u;
    case 3: return g > 0 ? g * u : 0;
    case 4: return body_sigmoid(g) * u;
    default:
        g = fminf(g, limit);
        return (body_clamp(u, -limit, limit) + 1) * g * body_sigmoid(1.702f * g);
    }
}

BODY void body_gate_one(const struct gpu_task *t, int64_t i)
{
    const struct gpu_gate *g = &t->u.gate;
    const int64_t r = i / g->n, c = i % g->n;
    body_store(t->at[2], t->type[2], i, body_gate(g->kind, g->limit, body_load(t->at[0], t->type[0], g->gate_from + r * g->gate_step + c), body_load(t->at[1], t->type[1], g->up_from + r * g->up_step + c)));
}

/* ---- products of few rows ---- */
BODY const uint8_t *body_linear_row(const struct gpu_task *t, int part, int64_t r, int64_t column)
{
    const struct gpu_linear *l = &t->u.linear;
    const int64_t expert = l->experts ? ((const int32_t *)t->at[GPU_LINEAR_CHOSEN])[r] : 0;
    return (const uint8_t *)t->at[GPU_LINEAR_W + GPU_LINEAR_EACH * part] + expert * l->next[part] + column * l->w[part].row_bytes;
}
BODY const float *body_linear_x(const struct gpu_task *t, int64_t r) { return (const float *)t->at[GPU_LINEAR_X] + (t->u.linear.experts ? r / t->u.linear.share : r) * t->u.linear.k; }
BODY float body_linear_biased(const struct gpu_task *t, int part, int64_t r, int64_t column, float sum)
{
    const struct gpu_linear *l = &t->u.linear;
    const float *bias = (const float *)t->at[GPU_LINEAR_BIAS + GPU_LINEAR_EACH * part];
    return bias ? sum + bias[(l->experts ? ((const int32_t *)t->at[GPU_LINEAR_CHOSEN])[r] * l->next_bias[part] : 0) + column] : sum;
}
/* What is done with the sums of a column: `other` is part 1's where they are gated. */
BODY void body_linear_finish(const struct gpu_task *t, int part, int64_t r, int64_t column, float sum, float other)
{
    const struct gpu_linear *l = &t->u.linear;
    const int64_t at = r * l->w[part].n + column;
    float v = body_linear_biased(t, part, r, column, sum);
    if (l->gated) v = body_gate(l->gate_kind, l->limit, v, body_linear_biased(t, 1, r, column, other));
    else {
        if (l->has_residual) v += ((const float *)t->at[GPU_LINEAR_RESIDUAL])[at];
        v = body_activate(v, l->act);
    }
    ((float *)t->at[GPU_LINEAR_Y + GPU_LINEAR_EACH * part])[at] = v;
}
/* Columns of all parts that have a result of their own. */
BODY int64_t body_linear_columns(const struct gpu_linear *l)
{
    int64_t n = l->w[0].n;
    for (int p = 1; p < l->parts && !l->gated; p++) n += l->w[p].n;
    return n;
}
BODY int body_linear_part(const struct gpu_linear *l, int64_t *column)
{
    int p = 0;
    while (p + 1 < l->parts && *column >= l->w[p].n) *column -= l->w[p++].n;
    return p;
}

/* ---- rotation ---- */
BODY void body_rope_table(const struct gpu_task *t, int64_t i)
{
    const struct gpu_rope_table *r = &t->u.rope_table;
    const int half = r->rotary / 2, c = (int)(i % half);
    const int32_t position = ((const int32_t *)t->at[0])[i / half];
    const bool lengthened = t->at[3] && position & 1 << 30;
    const float angle = (float)(position & ~(1 << 30)) * ((const float *)(lengthened ? t->at[3] : t->at[2]))[c], factor = lengthened ? r->factor_long : r->factor;
    float *y = (float *)t->at[1] + i / half * r->rotary + c;
    y[0] = cosf(angle) * factor;
    y[half] = sinf(angle) * factor;
}

/* Number i of a head at x, rotated by the token's row of the table. */
BODY float body_rotated(const float *x, int64_t i, const float *table, int rotary, bool adjacent)
{
    if (!table || i >= rotary) return x[i];
    const int half = rotary / 2;
    const int64_t pair = adjacent ? i / 2 : i % half;
    const bool second = adjacent ? i % 2 : i >= half;
    const float u = x[adjacent ? 2 * pair : pair], v = x[adjacent ? 2 * pair + 1 : pair + half], cosine = table[pair], sine = table[half + pair];
    return second ? v * cosine + u * sine : u * cosine - v * sine;
}

/* ---- pages ---- */
/* The row of the step that a token belongs to; -1: none. */
BODY int body_row_of(const int32_t *rows, int sequences, int64_t token)
{
    for (int r = 0; r < sequences; r++)
        if (token >= rows[4 * r] && token < (int64_t)rows[4 * r] + rows[4 * r + 1]) return r;
    return -1;
}

BODY char *body_page(const struct gpu_cache *c, void *kv, const int32_t *pages, int64_t entry) { return (char *)kv + c->layer + pages[entry] * c->page_stride; }

/* Bytes of n numbers of the cache; of Q8_0 whole blocks. */
BODY int64_t body_cache_bytes(int kv_block, int64_t n) { return kv_block == BLOCK_F32 ? 4 * n : kv_block == BLOCK_Q8_0 ? n / 32 * 34 : 2 * n; }
BODY int body_cache_type(int kv_block) { return kv_block == BLOCK_F32 ? GPU_F32 : kv_block == BLOCK_F16 ? GPU_F16 : GPU_BF16; }
BODY const char *body_keys(const struct gpu_cache *c, const char *page, int64_t head) { return page + body_cache_bytes(c->kv_block, head * c->head_dim * ATTENTION_PAGE); }
BODY const char *body_values(const struct gpu_cache *c, const char *page, int64_t head)
{
    return page + body_cache_bytes(c->kv_block, c->kv_heads * c->head_dim * ATTENTION_PAGE) + body_cache_bytes(c->kv_block, head * c->head_dim_v * ATTENTION_PAGE);
}

/* Number i of the key at place `at` of a page; keys: of the head. */
BODY float body_key(const struct gpu_cache *c, const char *keys, int64_t at, int64_t i)
{
    if (c->kv_block != BLOCK_Q8_0) return body_load(keys, body_cache_type(c->kv_block), i * ATTENTION_PAGE + at);
    const char *b = keys + i / 32 * 34 * ATTENTION_PAGE;
    return body_half(b + 2 * at) * (float)((const int8_t *)b)[2 * ATTENTION_PAGE + i % 32 * ATTENTION_PAGE + at];
}
BODY float body_value(const struct gpu_cache *c, const char *values, int64_t at, int64_t i)
{
    if (c->kv_block != BLOCK_Q8_0) return body_load(values, body_cache_type(c->kv_block), at * c->head_dim_v + i);
    const char *b = values + (at * (c->head_dim_v / 32) + i / 32) * 34;
    return body_half(b) * (float)((const int8_t *)b)[2 + i % 32];
}

/* How many numbers one element of a store takes: a block of Q8_0 has one scale. */
BODY int64_t body_store_group(const struct gpu_store_kv *s) { return s->c.kv_block == BLOCK_Q8_0 ? 32 : 1; }
BODY int64_t body_store_count(const struct gpu_store_kv *s) { return s->tokens * ((s->heads + s->c.kv_heads) * s->c.head_dim + s->c.kv_heads * s->c.head_dim_v) / body_store_group(s); }

BODY void body_store_numbers(const struct gpu_cache *c, char *to, bool keys, int64_t at, int64_t i, const float *x)
{
    if (c->kv_block != BLOCK_Q8_0) {
        body_store(to, body_cache_type(c->kv_block), keys ? i * ATTENTION_PAGE + at : at * c->head_dim_v + i, x[0]);
        return;
    }
    char *b = to + (keys ? i / 32 * 34 * ATTENTION_PAGE : (at * (c->head_dim_v / 32) + i / 32) * 34);
    float most = 0;
    for (int k = 0; k < 32; k++) most = fmaxf(most, fabsf(x[k]));
    const float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    body_store(keys ? b + 2 * at : b, GPU_F16, 0, d);
    for (int k = 0; k < 32; k++) ((int8_t *)b)[keys ? 2 * ATTENTION_PAGE + k * ATTENTION_PAGE + at : 2 + k] = (int8_t)rintf(x[k] * inverse);
}

/* Element e: `group` numbers of a head of q, k or v of one token. */
BODY void body_store_one(const struct gpu_task *t, int64_t e)
{
    const struct gpu_store_kv *s = &t->u.store;
    const struct gpu_cache *c = &s->c;
    const int64_t group = body_store_group(s), of_q = s->heads * c->head_dim, of_k = c->kv_heads * c->head_dim, each = of_q + of_k + c->kv_heads * c->head_dim_v;
    const int64_t token = e * group / each, at = e * group % each;
    const float *table = t->at[3] ? (const float *)t->at[3] + token * s->rotary : NULL;
    float x[32];
    if (at < of_q) {
        const float *head = (const float *)t->at[0] + s->q_from + token * s->q_step + at / c->head_dim * c->head_dim;
        for (int64_t k = 0; k < group; k++) ((float *)t->at[7])[token * of_q + at + k] = body_rotated(head, at % c->head_dim + k, table, s->rotary, s->adjacent);
        return;
    }
    const int row = body_row_of((const int32_t *)t->at[4], c->sequences, token);
    if (row < 0) return;
    const int32_t *r = (const int32_t *)t->at[4] + 4 * row;
    const int64_t position = r[2] + token - r[0];
    const char *page = body_page(c, t->at[6], (const int32_t *)t->at[5], r[3] + position / ATTENTION_PAGE);
    const bool keys = at < of_q + of_k;
    const int64_t in = keys ? at - of_q : at - of_q - of_k, dim = keys ? c->head_dim : c->head_dim_v, head = in / dim, i = in % dim;
    if (keys) {
        const float *from = (const float *)t->at[1] + s->k_from + token * s->k_step + head * dim;
        for (int64_t k = 0; k < group; k++) x[k] = body_rotated(from, i + k, table, s->rotary, s->adjacent);
    } else {
        const float *from = (const float *)t->at[2] + s->v_from + token * s->v_step + head * dim;
        for (int64_t k = 0; k < group; k++) x[k] = from[i + k];
    }
    body_store_numbers(c, (char *)(keys ? body_keys(c, page, head) : body_values(c, page, head)), keys, position % ATTENTION_PAGE, i, x);
}

/* ---- attention over pages ---- */
/* The score of a key, given its product with the query; -infinity: it is not seen. */
BODY float body_paged_score(const struct gpu_paged *p, float slope, int64_t position, int64_t key, float product)
{
    if (p->causal && key > position) return -INFINITY;
    if (p->window > 0 && (key <= position - p->window || key >= position + p->window)) return -INFINITY;
    float s = product * p->scale;
    if (p->softcap > 0) s = p->softcap * tanhf(s / p->softcap);
    return s + slope * (float)(key - position);
}
/* Keys of a row that one of its tokens may see: [from, to). */
BODY int64_t body_paged_to(const struct gpu_paged *p, const int32_t *row, int64_t position) { return p->causal ? position + 1 : (int64_t)row[2] + row[1]; }
BODY int64_t body_paged_from(const struct gpu_paged *p, int64_t position) { return p->window > 0 && position >= p->window ? position - p->window + 1 : 0; }

/* A span's result joined to those before it: sums o of weights taken to `top`, their total. */
struct body_span { float top, total, scale_old, scale_new; };
BODY struct body_span body_span_join(float top, float total, float more_top, float more_total)
{
    struct body_span s;
    s.top = fmaxf(top, more_top);
    s.scale_old = top > -INFINITY ? expf(top - s.top) : 0;
    s.scale_new = more_top > -INFINITY ? expf(more_top - s.top) : 0;
    s.total = total * s.scale_old + more_total * s.scale_new;
    return s;
}
/* 1 / total at the end, with the sink's weight in it. */
BODY float body_paged_inverse(float *scale, float top, float total, const float *sink)
{
    *scale = 1;
    if (sink) {
        const struct body_span s = body_span_join(top, total, *sink, 1);
        *scale = s.scale_old;
        total = s.total;
    }
    return total > 0 ? 1 / total : 0;
}
/* Where the partial results of a row's spans begin: rows have their entries of the page table in order. */
BODY int64_t body_paged_slot(const int32_t *row, int at) { return row[3] / (GPU_SPAN / ATTENTION_PAGE) + at; }

/* ---- experts ---- */
BODY void body_combine(const struct gpu_task *t, int64_t i)
{
    const struct gpu_combine *c = &t->u.combine;
    const int64_t token = i / c->n, k = i % c->n;
    const float *x = (const float *)t->at[0] + token * c->used * c->n + k, *weight = (const float *)t->at[1] + token * c->used;
    float sum = 0;
    for (int u = 0; u < c->used; u++) sum += weight[u] * x[u * c->n];
    ((float *)t->at[2])[i] = sum;
}

/* As body_elements, of these kinds. */
BODY int64_t body_llm_elements(const struct gpu_task *t)
{
    switch (t->kind) {
    case GPU_EMBED: return t->u.embed.count * body_chunks(&t->u.embed.w);
    case GPU_GATE: return t->u.gate.rows * t->u.gate.n;
    case GPU_ROPE_TABLE: return t->u.rope_table.count * (t->u.rope_table.rotary / 2);
    case GPU_STORE: return body_store_count(&t->u.store);
    case GPU_COMBINE: return t->u.combine.tokens * t->u.combine.n;
    default: return 0;
    }
}

#endif
