/* Attention over the paged cache of keys and values: stores the step's own first, then lets every token look at its sequence. */
#include "engine/operators/llm.h"

#include <string.h>

static enum status infer_attention(struct call *c, struct err *err)
{
    const struct attention_op_spec *s = c->node->spec;
    if (c->in[3]->rank != 2 || c->in[3]->dims[1] != 4) return call_error(c, err, ST_INTERNAL, "rows must be [sequences, 4]");
    return call_set(c, 0, DT_F32, (int64_t[]){ c->in[0]->dims[0], (int64_t)s->kernel.heads * s->kernel.head_dim_v }, 2, err);
}

static uint64_t rows_bytes(const struct call *c) { return ((uint64_t)c->in[3]->dims[0] * sizeof(struct attention_row) + 63) & ~(uint64_t)63; }

enum { BF16_ROWS_MIN = 16 };             /* of an entry: from here on bfloat16 wins */

static bool in_bf16(const struct call *c)
{
    const struct attention_op_spec *s = c->node->spec;
    return s->round && c->llm->attention_bf16 && attention_suits_bf16(&s->kernel);
}

static uint64_t scratch_attention(const struct call *c)
{
    const struct attention_op_spec *s = c->node->spec;
    const uint64_t few = attention_scratch(&s->kernel, c->threads), many = in_bf16(c) ? c->llm->attention_bf16_scratch(&s->kernel, c->threads) : 0;
    return rows_bytes(c) + (many > few ? many : few);
}

/* Entries of many rows to the end; returns how many are not. */
static int part_entries(struct attention_row *rows, int count)
{
    int few = 0;
    for (int i = 0; i < count; i++) {
        if (rows[i].count >= BF16_ROWS_MIN) continue;
        const struct attention_row r = rows[i];
        rows[i] = rows[few];
        rows[few++] = r;
    }
    return few;
}

enum status llm_rows(const struct call *c, const struct operand *table, const struct operand *pages, int64_t t, struct attention_row *rows, int *count, struct err *err)
{
    *count = 0;
    for (int64_t i = 0; i < table->dims[0]; i++) {
        const int32_t *r = (const int32_t *)table->data + 4 * i;
        if (r[1] == 0) continue;
        if (r[0] < 0 || r[1] < 0 || (int64_t)r[0] + r[1] > t || r[2] < 0 || r[3] < 0 || r[3] + ((int64_t)r[2] + r[1] + ATTENTION_PAGE - 1) / ATTENTION_PAGE > pages->dims[0])
            return call_error(c, err, ST_INTERNAL, "row %lld of the step does not fit it", (long long)i);
        rows[(*count)++] = (struct attention_row){ .first = r[0], .count = r[1], .position = r[2], .pages = (const int32_t *)pages->data + r[3] };
    }
    return ST_OK;
}

static enum status eval_attention(struct call *c, struct err *err)
{
    const struct attention_op_spec *s = c->node->spec;
    struct attention_row *rows = c->scratch;
    int64_t t = c->in[0]->dims[0], covered = 0;
    int n;
    enum status st = llm_rows(c, c->in[3], c->in[4], t, rows, &n, err);
    if (st) return st;
    for (int i = 0; i < n; i++) covered += rows[i].count;
    char *pool = (char *)c->in[5]->data + s->layer_offset;
    int64_t ldq = c->in[0]->dims[1], ldk = c->in[1]->dims[1], ldv = c->in[2]->dims[1], ldy = c->out[0]->dims[1];
    const float *q = (const float *)c->in[0]->data + s->q_column, *k = (const float *)c->in[1]->data + s->k_column, *v = (const float *)c->in[2]->data + s->v_column;
    if (covered < t) memset(c->out[0]->data, 0, c->out[0]->bytes);      /* what pads the step belongs to nobody */
    c->llm->attention_store(pool, s->page_stride, &s->kernel, k, ldk, v, ldv, rows, n, c->threads);
    const int few = in_bf16(c) ? part_entries(rows, n) : n;
    void *scratch = (char *)c->scratch + rows_bytes(c);
    c->llm->attention_paged(c->out[0]->data, ldy, q, ldq, pool, s->page_stride, &s->kernel, rows, few, scratch, c->threads);
    if (few < n) c->llm->attention_bf16(c->out[0]->data, ldy, q, ldq, pool, s->page_stride, &s->kernel, rows + few, n - few, scratch, c->threads);
    return ST_OK;
}

const struct op op_paged_attention = { "PagedAttention", "inferd", 1, 0, 6, 7, 1, 1, 0, 0, infer_attention, eval_attention, scratch_attention, NULL, NULL, NULL, tasks_paged_attention };
