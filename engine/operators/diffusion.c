/* The operators of networks that draw which compute much: convolution, group norm, attention, growing. What only moves or scales is in diffusion_move.c. */
#include "engine/operators/diffusion.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/conv.h"

static int64_t last_of(const struct operand *o) { return o->rank ? o->dims[o->rank - 1] : 0; }

/* Everything between the first dimension and the last. */
static int64_t between(const struct operand *o)
{
    int64_t n = 1;
    for (int d = 1; d < o->rank - 1; d++) n *= o->dims[d];
    return n;
}

/* ---- Conv2d ---- */
static int64_t window_side(int64_t in, const struct conv2d_spec *s) { return (in + s->low + s->high - s->kernel) / s->stride + 1; }

static enum status infer_conv2d(struct call *c, struct err *err)
{
    const struct conv2d_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    if (x->rank != 4 || x->dims[3] != s->in_c) return call_error(c, err, ST_INTERNAL, "it takes pictures of %lld channels, but its input has %d dimensions and %lld channels", (long long)s->in_c, x->rank, (long long)last_of(x));
    if (x->dims[1] + s->low + s->high < s->kernel || x->dims[2] + s->low + s->high < s->kernel) return call_error(c, err, ST_BAD_INPUT, "a picture of %lld x %lld is smaller than its window", (long long)x->dims[1], (long long)x->dims[2]);
    return call_set(c, 0, DT_F32, (int64_t[]){ x->dims[0], window_side(x->dims[1], s), window_side(x->dims[2], s), s->out_c }, 4, err);
}

static enum status prepare_conv2d(struct call *c, struct err *err)
{
    const struct conv2d_spec *s = c->node->spec;
    const int64_t *x = c->in[0]->dims, *y = c->out[0]->dims;
    const struct window2d w = { .n = x[0], .h = x[1], .w = x[2], .c = x[3], .out_h = y[1], .out_w = y[2], .kh = s->kernel, .kw = s->kernel, .stride_h = s->stride, .stride_w = s->stride,
                                .dilation_h = 1, .dilation_w = 1, .pad_top = s->low, .pad_left = s->low, .pad_bottom = s->high, .pad_right = s->high };
    struct conv_plan *plan = NULL;
    if (!c->node->conv) return ST_OK;      /* it runs on a GPU */
    enum status st = conv_plan_open(&plan, c->node->conv, &w, c->threads, err);
    c->state = plan;
    return st;
}

static void release_conv2d(void *state) { conv_plan_close(state); }

static uint64_t scratch_conv2d(const struct call *c) { return c->state ? conv_plan_scratch(c->state) : 0; }

static enum status eval_conv2d(struct call *c, struct err *err)
{
    const float *residual = c->in_count > 1 && c->in[1] ? c->in[1]->data : NULL;
    return conv_plan_run(c->state, c->out[0]->data, c->in[0]->data, residual, c->scratch, err);
}
const struct op op_conv2d = { "Conv2d", "inferd", 1, 0, 1, 2, 1, 1, OP_WANTS_LAST, 0, infer_conv2d, eval_conv2d, scratch_conv2d, prepare_conv2d, release_conv2d, NULL, tasks_conv2d };

/* ---- GroupNorm ---- */
static struct group_norm group_norm_of(const struct call *c)
{
    const struct group_norm_op_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *add = c->in_count > 1 ? c->in[1] : NULL, *m = c->in_count > 2 ? c->in[2] : NULL;
    return (struct group_norm){ .n = x->dims[0], .rows = between(x), .channels = s->channels, .groups = s->groups, .scale = s->scale, .bias = s->bias, .add = add ? add->data : NULL, .ldadd = add ? last_of(add) : 0,
                                .modulation = m ? m->data : NULL, .ldmod = m ? last_of(m) : 0, .epsilon = s->epsilon, .act = c->node->act };
}

static enum status infer_group_norm(struct call *c, struct err *err)
{
    const struct group_norm_op_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    if (x->rank < 2 || last_of(x) != s->channels) return call_error(c, err, ST_INTERNAL, "it takes %lld channels, but its input has %lld", (long long)s->channels, (long long)last_of(x));
    return call_set(c, 0, DT_F32, x->dims, x->rank, err);
}

static uint64_t scratch_group_norm(const struct call *c)
{
    const struct group_norm g = group_norm_of(c);
    return group_norm_scratch(&g);
}

static enum status eval_group_norm(struct call *c, struct err *err)
{
    const struct group_norm g = group_norm_of(c);
    (void)err;
    c->diffusion->group_norm_f32(c->out[0]->data, c->in[0]->data, &g, c->scratch, c->threads);
    return ST_OK;
}
const struct op op_group_norm = { "GroupNorm", "inferd", 1, 0, 1, 3, 1, 1, OP_INPLACE, 0, infer_group_norm, eval_group_norm, scratch_group_norm, NULL, NULL, NULL, tasks_group_norm };

/* ---- Attention ---- */
static struct attention_dense attention_of(const struct call *c)
{
    const struct attention_dense_op_spec *s = c->node->spec;
    const struct operand *q = c->in[0], *k = c->in[1], *v = c->in[2], *counts = c->in_count > 3 ? c->in[3] : NULL;
    struct attention_dense a = { .heads = s->heads, .head_dim = s->head_dim, .head_dim_v = s->head_dim, .batch = q->dims[0], .queries = between(q), .keys = between(k), .scale = s->scale, .causal = s->causal,
                                 .ldq = last_of(q), .ldk = last_of(k), .ldv = last_of(v), .ldy = (int64_t)s->heads * s->head_dim, .y = c->out[0]->data, .distance = s->distance, .key_counts = counts ? counts->data : NULL };
    a.q = q->data ? (const float *)q->data + s->q_column : NULL;
    a.k = k->data ? (const float *)k->data + s->k_column : NULL;
    a.v = v->data ? (const float *)v->data + s->v_column : NULL;
    return a;
}

static enum status infer_attention(struct call *c, struct err *err)
{
    const struct attention_dense_op_spec *s = c->node->spec;
    const struct operand *q = c->in[0], *k = c->in[1], *v = c->in[2];
    int64_t width = (int64_t)s->heads * s->head_dim, dims[TENSOR_RANK_MAX];
    if (q->rank < 3 || k->rank < 3 || v->rank < 3 || q->dims[0] != k->dims[0] || k->dims[0] != v->dims[0] || between(k) != between(v) || last_of(q) < s->q_column + width || last_of(k) < s->k_column + width || last_of(v) < s->v_column + width)
        return call_error(c, err, ST_INTERNAL, "queries, keys and values do not fit %d heads of %d", s->heads, s->head_dim);
    if (s->distance && (between(q) != s->tokens || between(k) != s->tokens)) return call_error(c, err, ST_INTERNAL, "its weights by distance are for %lld tokens", (long long)s->tokens);
    memcpy(dims, q->dims, (size_t)q->rank * sizeof *dims);
    dims[q->rank - 1] = width;
    return call_set(c, 0, DT_F32, dims, q->rank, err);
}

static bool in_bf16(const struct call *c, const struct attention_dense *a) { return ((const struct attention_dense_op_spec *)c->node->spec)->bf16 && c->diffusion->attention_bf16 && !a->distance; }

static uint64_t scratch_attention(const struct call *c)
{
    const struct attention_dense a = attention_of(c);
    if (in_bf16(c, &a)) return c->diffusion->attention_bf16_scratch(&a, c->threads);
    return attention_dense_scratch(&a, c->threads);
}

static enum status eval_attention(struct call *c, struct err *err)
{
    const struct attention_dense a = attention_of(c);
    (void)err;
    if (in_bf16(c, &a)) c->diffusion->attention_bf16(&a, c->scratch, c->threads);
    else attention_dense_f32(&a, c->k, c->diffusion, c->scratch, c->threads);
    return ST_OK;
}
const struct op op_attention = { "Attention", "inferd", 1, 0, 3, 4, 1, 1, 0, 0, infer_attention, eval_attention, scratch_attention, NULL, NULL, NULL, tasks_attention_dense };

/* ---- Upsample ---- */
static enum status infer_upsample(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *like = c->in_count > 1 ? c->in[1] : NULL;
    if (x->rank != 4 || (like && like->rank != 4)) return call_error(c, err, ST_INTERNAL, "it takes pictures");
    return call_set(c, 0, DT_F32, (int64_t[]){ x->dims[0], like ? like->dims[1] : 2 * x->dims[1], like ? like->dims[2] : 2 * x->dims[2], x->dims[3] }, 4, err);
}

static enum status eval_upsample(struct call *c, struct err *err)
{
    const int64_t *x = c->in[0]->dims, *y = c->out[0]->dims;
    (void)err;
    c->diffusion->upsample_f32(c->out[0]->data, c->in[0]->data, x[0], x[1], x[2], x[3], y[1], y[2], c->threads);
    return ST_OK;
}
const struct op op_upsample = { "Upsample", "inferd", 1, 0, 1, 2, 1, 1, 0, 0, infer_upsample, eval_upsample, NULL, NULL, NULL, NULL, tasks_upsample };
