/* The tasks of language models on the host: sums in the order of k, attention with all scores of a query at hand. */
#include <assert.h>
#include <stdlib.h>

#include "kernels/cuda/body_llm.h"
#include "tests/kernels/fake_gpu.h"

static float sum_of(const struct gpu_task *t, int part, int64_t r, int64_t column)
{
    const struct gpu_matrix *w = &t->u.linear.w[part];
    const float *x = body_linear_x(t, r);
    const uint8_t *row = body_linear_row(t, part, r, column);
    float sum = 0, v[GPU_CHUNK];
    for (int64_t c = 0; c < body_chunks(w); c++) {
        body_chunk(w, row, c, v);
        for (int64_t k = 0; k < GPU_CHUNK && c * GPU_CHUNK + k < w->k; k++) sum += x[c * GPU_CHUNK + k] * v[k];
    }
    return sum;
}

static void linear(const struct gpu_task *t)
{
    const struct gpu_linear *l = &t->u.linear;
    for (int64_t r = 0; r < l->m; r++)
        for (int64_t i = 0; i < body_linear_columns(l); i++) {
            int64_t column = i;
            const int part = l->gated ? 0 : body_linear_part(l, &column);
            body_linear_finish(t, part, r, column, sum_of(t, part, r, column), l->gated ? sum_of(t, 1, r, column) : 0);
        }
}

static void route(const struct gpu_task *t)
{
    const struct gpu_route *r = &t->u.route;
    for (int64_t i = 0; i < r->tokens; i++) {
        const float *logits = (const float *)t->at[0] + i * r->experts;
        int32_t *chosen = (int32_t *)t->at[1] + i * r->used;
        float *weight = (float *)t->at[2] + i * r->used, top = -INFINITY, all = 0, some = 0;
        for (int e = 0; e < r->experts; e++) top = fmaxf(top, logits[e]);
        for (int e = 0; e < r->experts; e++) all += expf(logits[e] - top);
        for (int u = 0; u < r->used; u++) {
            int best = -1;
            for (int e = 0; e < r->experts; e++) {
                bool taken = false;
                for (int k = 0; k < u; k++) taken = taken || chosen[k] == e;
                if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
            }
            chosen[u] = best;
            weight[u] = expf(logits[best] - top);
            some += weight[u];
        }
        for (int u = 0; u < r->used; u++) weight[u] /= r->own ? some : all;
    }
}

static void attend_head(const struct gpu_task *t, const int32_t *row, int64_t token, int64_t head, float *scores)
{
    const struct gpu_paged *p = &t->u.paged;
    const struct gpu_cache *c = &p->c;
    const int64_t of = head / (p->heads / c->kv_heads), position = row[2] + token - row[0], from = body_paged_from(p, position), to = body_paged_to(p, row, position);
    const int32_t *pages = (const int32_t *)t->at[2] + row[3];
    const float *q = (const float *)t->at[0] + (token * p->heads + head) * c->head_dim;
    float *y = (float *)t->at[4] + (token * p->heads + head) * c->head_dim_v, top = -INFINITY, total = 0, scale;
    for (int64_t j = from; j < to; j++) {
        const char *keys = body_keys(c, body_page(c, t->at[3], pages, j / ATTENTION_PAGE), of);
        float product = 0;
        for (int64_t i = 0; i < c->head_dim; i++) product += q[i] * body_key(c, keys, j % ATTENTION_PAGE, i);
        scores[j] = body_paged_score(p, t->at[6] ? ((const float *)t->at[6])[head] : 0, position, j, product);
        top = fmaxf(top, scores[j]);
    }
    for (int64_t j = from; j < to; j++) total += scores[j] = top > -INFINITY ? expf(scores[j] - top) : 0;
    const float inverse = body_paged_inverse(&scale, top, total, t->at[5] ? (const float *)t->at[5] + head : NULL);
    for (int64_t i = 0; i < c->head_dim_v; i++) y[i] = 0;
    for (int64_t j = from; j < to; j++) {
        const char *values = body_values(c, body_page(c, t->at[3], pages, j / ATTENTION_PAGE), of);
        for (int64_t i = 0; i < c->head_dim_v; i++) y[i] += scores[j] * body_value(c, values, j % ATTENTION_PAGE, i);
    }
    for (int64_t i = 0; i < c->head_dim_v; i++) y[i] *= scale * inverse;
}

static void paged(const struct gpu_task *t)
{
    const struct gpu_paged *p = &t->u.paged;
    const int32_t *rows = t->at[1];
    int64_t longest = 1;
    for (int r = 0; r < p->c.sequences; r++)
        if ((int64_t)rows[4 * r + 1] + rows[4 * r + 2] > longest) longest = (int64_t)rows[4 * r + 1] + rows[4 * r + 2];
    float *scores = malloc((size_t)longest * sizeof *scores);
    assert(scores);
    for (int64_t token = 0; token < p->tokens; token++) {
        const int r = body_row_of(rows, p->c.sequences, token);
        for (int64_t h = 0; h < p->heads; h++) {
            if (r >= 0) attend_head(t, rows + 4 * r, token, h, scores);
            else
                for (int64_t i = 0; i < p->c.head_dim_v; i++) ((float *)t->at[4])[(token * p->heads + h) * p->c.head_dim_v + i] = 0;
        }
    }
    free(scores);
}

bool fake_gpu_compute_llm(const struct gpu_task *t)
{
    switch (t->kind) {
    case GPU_LINEAR: linear(t); return true;
    case GPU_ROUTE: route(t); return true;
    case GPU_PAGED: paged(t); return true;
    case GPU_EMBED: case GPU_GATE: case GPU_ROPE_TABLE: case GPU_STORE: case GPU_COMBINE: break;
    default: return false;
    }
    for (int64_t i = 0, n = body_llm_elements(t); i < n; i++) switch (t->kind) {
        case GPU_EMBED: body_embed(t, i); break;
        case GPU_GATE: body_gate_one(t, i); break;
        case GPU_ROPE_TABLE: body_rope_table(t, i); break;
        case GPU_STORE: body_store_one(t, i); break;
        default: body_combine(t, i);
        }
    return true;
}
