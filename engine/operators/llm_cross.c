/* A decoder's look at what an encoder made: Keep stores the encoder's keys and values, CrossAttention reads them. */
#include "engine/operators/llm.h"

#include <string.h>

static uint64_t rows_bytes(const struct operand *rows) { return ((uint64_t)rows->dims[0] * sizeof(struct attention_row) + 63) & ~(uint64_t)63; }

/* ---- Keep ---- */
static enum status infer_keep(struct call *c, struct err *err) { return call_set(c, 0, DT_F32, (int64_t[]){ c->in[0]->dims[0], c->in[0]->dims[1] }, 2, err); }

static uint64_t scratch_keep(const struct call *c) { return rows_bytes(c->in[3]); }

static enum status eval_keep(struct call *c, struct err *err)
{
    const struct attention_op_spec *s = c->node->spec;
    struct attention_row *rows = c->scratch;
    int n;
    enum status st = llm_rows(c, c->in[3], c->in[4], c->in[1]->dims[0], rows, &n, err);
    if (st) return st;
    if (c->out[0]->data != c->in[0]->data) memcpy(c->out[0]->data, c->in[0]->data, c->in[0]->bytes);
    c->llm->attention_store((char *)c->in[5]->data + s->layer_offset, s->page_stride, &s->kernel, c->in[1]->data, c->in[1]->dims[1], c->in[2]->data, c->in[2]->dims[1], rows, n, c->threads);
    return ST_OK;
}
const struct op op_keep = { "Keep", "inferd", 1, 0, 6, 6, 1, 1, OP_INPLACE, 0, infer_keep, eval_keep, scratch_keep, NULL, NULL, NULL, NULL };

/* ---- CrossAttention ---- */
static enum status infer_cross(struct call *c, struct err *err)
{
    const struct attention_op_spec *s = c->node->spec;
    if (c->in[1]->rank != 2 || c->in[1]->dims[1] != 4) return call_error(c, err, ST_INTERNAL, "rows must be [sequences, 4]");
    return call_set(c, 0, DT_F32, (int64_t[]){ c->in[0]->dims[0], (int64_t)s->kernel.heads * s->kernel.head_dim_v }, 2, err);
}

static uint64_t scratch_cross(const struct call *c)
{
    const struct attention_op_spec *s = c->node->spec;
    return rows_bytes(c->in[1]) + attention_scratch(&s->kernel, c->threads);
}

static enum status eval_cross(struct call *c, struct err *err)
{
    const struct attention_op_spec *s = c->node->spec;
    const int32_t *table = c->in[1]->data, *pages = c->in[2]->data;
    struct attention_row *rows = c->scratch;
    int64_t t = c->in[0]->dims[0], covered = 0;
    int n = 0;
    for (int64_t i = 0; i < c->in[1]->dims[0]; i++) {
        const int32_t *r = table + 4 * i;
        if (r[1] == 0) continue;
        if (r[0] < 0 || r[1] < 0 || (int64_t)r[0] + r[1] > t || r[2] < 1 || r[3] < 0 || r[3] + ((int64_t)r[2] + ATTENTION_PAGE - 1) / ATTENTION_PAGE > c->in[2]->dims[0])
            return call_error(c, err, ST_INTERNAL, "row %lld of the step does not fit it", (long long)i);
        rows[n++] = (struct attention_row){ .first = r[0], .count = r[1], .position = r[2] - r[1], .pages = pages + r[3] };      /* not causal: every key up to position + count */
        covered += r[1];
    }
    if (covered < t) memset(c->out[0]->data, 0, c->out[0]->bytes);
    c->llm->attention_paged(c->out[0]->data, c->out[0]->dims[1], c->in[0]->data, c->in[0]->dims[1], (char *)c->in[3]->data + s->layer_offset, s->page_stride, &s->kernel, rows, n, (char *)c->scratch + rows_bytes(c->in[1]), c->threads);
    return ST_OK;
}
const struct op op_cross_attention = { "CrossAttention", "inferd", 1, 0, 4, 4, 1, 1, 0, 0, infer_cross, eval_cross, scratch_cross, NULL, NULL, NULL, NULL };
