/* Spread (spread.h). The product of all pixels stands in scratch; lines of the result are shared out to threads, and each pixel of the result is written once. */
#include "engine/operators/nn/spread.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/operators/operators.h"
#include "kernels/conv.h"

struct spread_state { struct conv_plan *plan; uint64_t product; /* bytes of the product */ };

static enum status infer_spread(struct call *c, struct err *err)
{
    const struct spread_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *beside = s->join ? c->in[SPREAD_BESIDE] : NULL;
    const enum dtype from = c->node->halves & HALVES_IN ? DT_BF16 : DT_F32, to = c->node->halves & HALVES_OUT ? DT_BF16 : DT_F32;
    char a[80], b[80];
    if (x->rank != 4 || x->dims[1] != s->in_c || x->dtype != from) return call_error(c, err, ST_BAD_INPUT, "its input is %s of %s, but its weight takes %lld channels", shape_text(x->dims, x->rank, a, sizeof a), dtype_name(x->dtype), (long long)s->in_c);
    int64_t dims[4] = { x->dims[0], s->out_c, 0, 0 };
    if (__builtin_mul_overflow(x->dims[2], s->kh, &dims[2]) || __builtin_mul_overflow(x->dims[3], s->kw, &dims[3])) return call_error(c, err, ST_TOO_LARGE, "its result is too large");
    if (beside) {
        if (beside->rank != 4 || beside->dtype != to || beside->dims[0] != dims[0] || beside->dims[2] != dims[2] || beside->dims[3] != dims[3])
            return call_error(c, err, ST_BAD_INPUT, "%s and %s cannot be joined", shape_text(beside->dims, beside->rank, a, sizeof a), shape_text(dims, 4, b, sizeof b));
        dims[1] += beside->dims[1];
    }
    return call_set(c, 0, to, dims, 4, err);
}

static enum status prepare_spread(struct call *c, struct err *err)
{
    const struct spread_spec *s = c->node->spec;
    const int64_t *x = c->in[0]->dims;
    if (!c->node->conv || c->out[0]->bytes == 0) return ST_OK;
    struct spread_state *state = mem_calloc_array(1, sizeof *state);
    if (!state) return err_set(err, ST_NO_MEMORY, "planning a transposed convolution");
    const struct window2d w = { .n = x[0], .h = x[2], .w = x[3], .c = x[1], .out_h = x[2], .out_w = x[3], .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
    enum status st = conv_plan_open(&state->plan, c->node->conv, &w, c->threads, err);
    if (st) {
        free(state);
        return st;
    }
    state->product = ((uint64_t)(x[0] * x[2] * x[3]) * (uint64_t)(s->kh * s->kw * s->out_c) * (uint64_t)operand_size(c->out[0]) + 63) & ~(uint64_t)63;
    c->state = state;
    return ST_OK;
}

static void release_spread(void *state)
{
    conv_plan_close(((struct spread_state *)state)->plan);
    free(state);
}

static uint64_t scratch_spread(const struct call *c)
{
    const struct spread_state *s = c->state;
    return s ? s->product + conv_plan_scratch(s->plan) : 0;
}

struct spread_job { char *y; const char *product, *beside; int64_t lines, columns, own, other; int kh, kw; bool first; };      /* own and other: bytes of a pixel */

static void spread_part(void *ctx, int part, int parts)
{
    const struct spread_job *j = ctx;
    const int64_t all = j->own + j->other, block = j->kw * j->own;
    for (int64_t line = j->lines * part / parts, end = j->lines * (part + 1) / parts; line < end; line++) {
        const char *from = j->product + (line / j->kh * j->columns * j->kh + line % j->kh) * block, *beside = j->beside + line * j->columns * j->kw * j->other;
        char *y = j->y + line * j->columns * j->kw * all, *mine = y + (j->first ? 0 : j->other), *others = y + (j->first ? j->own : 0);
        for (int64_t x = 0; x < j->columns; x++, from += j->kh * block) {
            if (!j->other) {
                memcpy(y + x * block, from, (size_t)block);
                continue;
            }
            for (int k = 0; k < j->kw; k++, mine += all, others += all, beside += j->other) {
                memcpy(mine, from + k * j->own, (size_t)j->own);
                memcpy(others, beside, (size_t)j->other);
            }
        }
    }
}

static enum status eval_spread(struct call *c, struct err *err)
{
    const struct spread_spec *s = c->node->spec;
    const struct spread_state *state = c->state;
    const struct operand *x = c->in[0], *y = c->out[0], *beside = s->join ? c->in[SPREAD_BESIDE] : NULL;
    if (y->bytes == 0) return ST_OK;
    if (!x->channels_last || !y->channels_last || (beside && !beside->channels_last)) return call_error(c, err, ST_INTERNAL, "it takes pictures channels last");
    enum status st = conv_plan_run(state->plan, c->scratch, x->data, NULL, (char *)c->scratch + state->product, err);
    if (st) return st;
    struct spread_job j = { .y = y->data, .product = c->scratch, .beside = beside ? beside->data : y->data, .lines = y->dims[0] * y->dims[2], .columns = x->dims[3], .own = s->out_c * operand_size(y), .other = beside ? beside->dims[1] * operand_size(y) : 0,
                            .kh = s->kh, .kw = s->kw, .first = s->join == SPREAD_BEFORE };
    parallel_for(c->threads, c->threads, spread_part, &j);
    return ST_OK;
}

static bool rows_spread(const struct call *c)
{
    const struct operand *beside = ((const struct spread_spec *)c->node->spec)->join ? c->in[SPREAD_BESIDE] : NULL;
    return c->in[0]->batched && !c->in[1]->batched && !c->in[1]->tainted && (!beside || beside->batched);
}

const struct op op_spread = { "Spread", "inferd", 1, 0, 2, 4, 1, 1, 0, 0, infer_spread, eval_spread, scratch_spread, prepare_spread, release_spread, rows_spread, NULL };
