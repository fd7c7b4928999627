/* TallProduct (tall_product.h): a plan of the layer for so many rows. */
#include "engine/operators/nn/tall_product.h"

#include <string.h>

#include "engine/operators/operators.h"
#include "kernels/conv.h"
#include "kernels/linear.h"

static enum status infer_product(struct call *c, struct err *err)
{
    const struct tall_product_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *sum = c->node->residual >= 0 ? c->in[c->node->residual] : NULL;
    const enum dtype from = c->node->halves & HALVES_IN ? DT_BF16 : DT_F32, to = c->node->halves & HALVES_OUT ? DT_BF16 : DT_F32;
    int64_t dims[TENSOR_RANK_MAX];
    char a[80], b[80];
    if (x->rank < 2 || x->dims[x->rank - 1] != s->k || x->dtype != from) return call_error(c, err, ST_BAD_INPUT, "%s of %s and a weight of %lld x %lld cannot be multiplied", shape_text(x->dims, x->rank, a, sizeof a), dtype_name(x->dtype), (long long)s->k, (long long)s->n);
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    dims[x->rank - 1] = s->n;
    if (sum && (sum->rank != x->rank || sum->dtype != to || memcmp(sum->dims, dims, (size_t)x->rank * sizeof *dims)))
        return call_error(c, err, ST_BAD_INPUT, "the sum behind it adds %s to %s", shape_text(sum->dims, sum->rank, a, sizeof a), shape_text(dims, x->rank, b, sizeof b));
    return call_set(c, 0, to, dims, x->rank, err);
}

static enum status prepare_product(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    if (!c->node->conv || c->out[0]->bytes == 0) return ST_OK;
    const int64_t rows = dims_product(x->dims, 0, x->rank - 1);
    const struct window2d w = { .n = 1, .h = rows, .w = 1, .c = x->dims[x->rank - 1], .out_h = rows, .out_w = 1, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
    struct conv_plan *plan = NULL;
    enum status st = conv_plan_open(&plan, c->node->conv, &w, c->threads, err);
    c->state = plan;
    return st;
}

static void release_product(void *state) { conv_plan_close(state); }

static int64_t rows_of(const struct call *c) { return dims_product(c->in[0]->dims, 0, c->in[0]->rank - 1); }

static uint64_t scratch_product(const struct call *c) { return c->state ? conv_plan_scratch(c->state) : c->node->linear ? linear_scratch(c->node->linear, rows_of(c), c->threads) : 0; }

static enum status eval_product(struct call *c, struct err *err)
{
    if (c->out[0]->bytes == 0) return ST_OK;
    const void *sum = c->node->residual >= 0 ? c->in[c->node->residual]->data : NULL;
    if (c->node->linear) {
        const struct tall_product_spec *s = c->node->spec;
        const struct linear_halves halves = { .x = (c->node->halves & HALVES_IN) != 0, .y = (c->node->halves & HALVES_OUT) != 0 };
        const struct gemm_epilogue ep = { .bias = c->node->bias, .residual = sum, .ldr = s->n, .act = c->node->act };
        linear_run_halves(c->node->linear, c->out[0]->data, s->n, c->in[0]->data, s->k, rows_of(c), halves, &ep, c->scratch, c->threads);
        return ST_OK;
    }
    return conv_plan_run(c->state, c->out[0]->data, c->in[0]->data, sum, c->scratch, err);
}

static bool rows_product(const struct call *c)
{
    const struct operand *sum = c->node->residual >= 0 ? c->in[c->node->residual] : NULL;
    return c->in[0]->batched && !c->in[1]->batched && !c->in[1]->tainted && (!sum || sum->batched);
}

const struct op op_tall_product = { "TallProduct", "inferd", 1, 0, 2, 4, 1, 1, OP_SUMS, 0, infer_product, eval_product, scratch_product, prepare_product, release_product, rows_product, NULL };
