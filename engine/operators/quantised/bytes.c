#include "engine/operators/quantised/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/operators/operators.h"
#include "engine/operators/window.h"

static const struct bytes_product *product_of(const struct call *c) { return c->node->spec; }
static const struct bytes_values  *values_of(const struct call *c) { return c->node->spec; }

static bool is_byte(enum dtype t) { return t == DT_U8 || t == DT_I8; }
static enum dtype type_of(const struct quantum *q) { return q->is_signed ? DT_I8 : DT_U8; }

static enum dtype result_of(enum bytes_out out)
{
    static const enum dtype types[] = { [BYTES_U8] = DT_U8, [BYTES_S8] = DT_I8, [BYTES_F32] = DT_F32, [BYTES_I32] = DT_I32 };
    return types[out];
}

void bytes_product_shape(struct bytes_spec *s, const struct node *n, const struct operand *weight, const struct bytes_product *p)
{
    *s = p->layer;
    s->groups = s->kh = s->kw = s->stride_h = s->stride_w = s->dilation_h = s->dilation_w = 1;
    if (n->op == &op_bytes_product) {
        s->in_c = weight->dims[!p->columns];
        s->out_c = weight->dims[p->columns];
        return;
    }
    if (n->op == &op_bytes_transpose) {          /* one pixel makes a whole window */
        s->in_c = weight->dims[0];
        s->out_c = weight->dims[1] * weight->dims[2] * weight->dims[3];
        return;
    }
    const bool flat = weight->rank == 3;
    int count;
    const int64_t *strides = node_ints(n, "strides", &count), *dilations = node_ints(n, "dilations", &count);
    s->groups = node_int(n, "group", 1);
    s->in_c = weight->dims[1] * s->groups;
    s->out_c = weight->dims[0];
    s->kh = flat ? 1 : (int)weight->dims[2];
    s->kw = (int)weight->dims[flat ? 2 : 3];
    if (strides) s->stride_h = flat ? 1 : (int)strides[0], s->stride_w = (int)strides[!flat];
    if (dilations) s->dilation_h = flat ? 1 : (int)dilations[0], s->dilation_w = (int)dilations[!flat];
}

/* ---- layers ---- */

static enum status check_residual(struct call *c, struct err *err)
{
    if (c->node->residual < 0) {
        const struct operand *z = c->in_count > 2 ? c->in[2] : NULL;
        return !z || (is_byte(z->dtype) && operand_count(z) == 1) ? ST_OK : call_error(c, err, ST_BAD_INPUT, "its zero point is not one byte");
    }
    const struct operand *r = c->in[c->node->residual], *y = c->out[0];
    if (is_byte(r->dtype) && r->rank == y->rank && !memcmp(r->dims, y->dims, (size_t)r->rank * sizeof *r->dims)) return ST_OK;
    char a[80], b[80];
    return call_error(c, err, ST_BAD_INPUT, "the sum behind it adds %s to %s", shape_text(r->dims, r->rank, a, sizeof a), shape_text(y->dims, y->rank, b, sizeof b));
}

static enum status infer_conv(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *weight = c->in[1];
    struct window w;
    int64_t dims[TENSOR_RANK_MAX];
    if (!is_byte(x->dtype) || weight->rank != x->rank) return call_error(c, err, ST_BAD_INPUT, "its weight does not fit its input");
    enum status st = window_read(&w, c, weight->dims + 2, err);
    if (st) return st;
    if (x->dims[1] != weight->dims[1] * node_int(c->node, "group", 1)) return call_error(c, err, ST_BAD_INPUT, "its weight is for %lld channels, its input has %lld", (long long)(weight->dims[1] * node_int(c->node, "group", 1)), (long long)x->dims[1]);
    dims[0] = x->dims[0];
    dims[1] = weight->dims[0];
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    st = call_set(c, 0, result_of(product_of(c)->layer.finish.out), dims, x->rank, err);
    return st ? st : check_residual(c, err);
}

static enum status infer_transposed(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *weight = c->in[1];
    if (!is_byte(x->dtype) || x->rank != 4 || x->dims[1] != weight->dims[0]) return call_error(c, err, ST_BAD_INPUT, "its weight does not fit its input");
    int64_t dims[4] = { x->dims[0], weight->dims[1] };
    if (__builtin_mul_overflow(x->dims[2], weight->dims[2], &dims[2]) || __builtin_mul_overflow(x->dims[3], weight->dims[3], &dims[3])) return call_error(c, err, ST_TOO_LARGE, "its result would be too large");
    return call_set(c, 0, result_of(product_of(c)->layer.finish.out), dims, 4, err);
}

static enum status infer_product(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *weight = c->in[1];
    const struct bytes_product *p = product_of(c);
    int64_t dims[TENSOR_RANK_MAX];
    if (!is_byte(x->dtype) || x->rank < 1 || x->dims[x->rank - 1] != weight->dims[!p->columns]) return call_error(c, err, ST_BAD_INPUT, "its weight does not fit its input");
    memcpy(dims, x->dims, sizeof dims);
    dims[x->rank - 1] = weight->dims[p->columns];
    enum status st = call_set(c, 0, result_of(p->layer.finish.out), dims, x->rank, err);
    return st ? st : check_residual(c, err);
}

/* The window of the layer that is packed, and what else runs around it. */
struct layer_call { struct window2d w; bool transposed; uint64_t turned_x, turned_y, turned_r, stage; int64_t in_space, out_space, out_c; };

static uint64_t aligned(uint64_t bytes) { return (bytes + 63) & ~(uint64_t)63; }

static enum status read_layer(struct call *c, struct layer_call *l, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0], *weight = c->in[1];
    const struct node *n = c->node;
    *l = (struct layer_call){ .transposed = n->op == &op_bytes_transpose, .out_c = y->dims[1] };
    if (n->op == &op_bytes_product) {
        const int64_t rows = x->dims[x->rank - 1] ? (int64_t)operand_count(x) / x->dims[x->rank - 1] : 0;
        l->w = (struct window2d){ .n = 1, .h = 1, .w = rows, .out_h = 1, .out_w = rows, .c = x->dims[x->rank - 1], .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
        return ST_OK;
    }
    if (l->transposed) {
        l->w = (struct window2d){ .n = x->dims[0], .h = x->dims[2], .w = x->dims[3], .out_h = x->dims[2], .out_w = x->dims[3], .c = x->dims[1], .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1 };
        l->stage = aligned(y->bytes);
    } else {
        struct window w;
        enum status st = window_read(&w, c, weight->dims + 2, err);
        if (st) return st;
        l->w = window_2d(&w, x->dims[0], x->dims[1]);
    }
    l->in_space = dims_product(x->dims, 2, x->rank);
    l->out_space = dims_product(y->dims, 2, y->rank);
    if (!x->channels_last && x->dims[1] > 1 && l->in_space > 1) l->turned_x = aligned(x->bytes);
    if (!y->channels_last && y->dims[1] > 1 && l->out_space > 1) l->turned_y = aligned(y->bytes);
    if (l->turned_y && n->residual >= 0) l->turned_r = aligned(c->in[n->residual]->bytes);
    return ST_OK;
}

static uint64_t scratch_layer(const struct call *c)
{
    struct call copy = *c;
    struct layer_call l;
    if (!c->node->bytes || c->out[0]->bytes == 0 || read_layer(&copy, &l, NULL)) return 0;
    return l.turned_x + l.turned_y + l.turned_r + l.stage + bytes_layer_scratch(c->node->bytes, &l.w, c->threads);
}

/* Windows [pixel][ky][kx, channel] to rows of y: each row of a window is one stretch there, too. */
struct spread { char *y; const char *x; int64_t pixels, width, kh; size_t stretch; };

static void spread_part(void *ctx, int part, int parts)
{
    const struct spread *s = ctx;
    const int64_t lines = s->pixels / s->width * s->kh;            /* of y: written in order */
    for (int64_t line = lines * part / parts, end = lines * (part + 1) / parts; line < end; line++) {
        const char *x = s->x + (size_t)(line / s->kh * s->width * s->kh + line % s->kh) * s->stretch;
        char *y = s->y + (size_t)(line * s->width) * s->stretch;
        const size_t step = (size_t)s->kh * s->stretch;
        if (s->stretch == 64)
            for (int64_t i = 0; i < s->width; i++) memcpy(y + i * 64, x + (size_t)i * step, 64);
        else
            for (int64_t i = 0; i < s->width; i++) memcpy(y + (size_t)i * s->stretch, x + (size_t)i * step, s->stretch);
    }
}

static enum status eval_layer(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0], *residual = c->node->residual >= 0 ? c->in[c->node->residual] : NULL;
    struct layer_call l;
    if (y->bytes == 0) return ST_OK;
    if (!c->node->bytes) return call_error(c, err, ST_INTERNAL, "its weight was not packed");
    enum status st = read_layer(c, &l, err);
    if (st) return st;
    const int size = operand_size(y);
    char *scratch = c->scratch, *out = l.turned_y ? scratch + l.turned_x : y->data;
    const void *in = x->data, *r = residual ? residual->data : NULL;
    if (l.turned_x) {
        in = scratch;
        c->k->transpose_2d(scratch, x->data, x->dims[0], x->dims[1], l.in_space, 1, c->threads);
    }
    if (l.turned_r) {
        r = scratch + l.turned_x + l.turned_y;
        c->k->transpose_2d(scratch + l.turned_x + l.turned_y, residual->data, residual->dims[0], residual->dims[1], l.out_space, 1, c->threads);
    }
    char *stage = scratch + l.turned_x + l.turned_y + l.turned_r;
    const struct operand *z = c->node->residual < 0 && c->in_count > 2 ? c->in[2] : NULL;      /* a zero point that is found while running */
    const int zero = !z ? 0 : z->dtype == DT_I8 ? *(const int8_t *)z->data : *(const uint8_t *)z->data;
    bytes_layer_run(c->node->bytes, l.transposed ? stage : out, in, z ? &zero : NULL, r, &l.w, stage + l.stage, c->threads);
    if (l.transposed) {
        struct spread s = { out, stage, l.w.n * l.w.h * l.w.w, l.w.w, c->in[1]->dims[2], (size_t)(c->in[1]->dims[3] * l.out_c * size) };
        parallel_for(c->threads, c->threads, spread_part, &s);
    }
    if (l.turned_y) c->k->transpose_2d(y->data, out, y->dims[0], l.out_space, y->dims[1], size, c->threads);
    return ST_OK;
}

static bool rows_layer(const struct call *c)
{
    const struct operand *y = c->out[0];
    if (!c->in[0]->batched || c->in[0]->rank < 2 || y->dims[0] != c->in[0]->dims[0] || call_any_tainted(c, 1)) return false;
    return c->node->residual < 0 || c->in[c->node->residual]->batched;
}

#define LAYER(name, flags, infer) { name, "inferd", 1, 0, 2, 3, 1, 1, flags, 0, infer, eval_layer, scratch_layer, NULL, NULL, rows_layer, NULL }
const struct op op_bytes_conv = LAYER("BytesConv", OP_WANTS_LAST | OP_LAST | OP_BYTES, infer_conv), op_bytes_transpose = LAYER("BytesTranspose", OP_WANTS_LAST | OP_LAST | OP_BYTES, infer_transposed),
    op_bytes_product = LAYER("BytesProduct", OP_BYTES, infer_product);

/* ---- number by number ---- */

static enum status infer_round(struct call *c, struct err *err)
{
    if (c->in[0]->dtype != DT_F32) return call_error(c, err, ST_INTERNAL, "it takes floats");
    return call_set(c, 0, type_of(&values_of(c)->y), c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_round(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    (void)err;
    if (x->channels_last == c->out[0]->channels_last || x->rank < 3) bytes_round(c->k, c->out[0]->data, x->data, (int64_t)operand_count(x), &values_of(c)->y, c->threads);
    else bytes_round_turned(c->k, c->out[0]->data, x->data, x->dims[0], dims_product(x->dims, 2, x->rank), x->dims[1], &values_of(c)->y, c->threads);      /* layout.c: from plain order only */
    return ST_OK;
}

static enum status infer_restore(struct call *c, struct err *err)
{
    if (!is_byte(c->in[0]->dtype)) return call_error(c, err, ST_INTERNAL, "it takes bytes");
    return call_set(c, 0, DT_F32, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_restore(struct call *c, struct err *err)
{
    (void)err;
    bytes_restore(c->k, c->out[0]->data, c->in[0]->data, (int64_t)operand_count(c->in[0]), &values_of(c)->a, c->threads);
    return ST_OK;
}

static enum status infer_table(struct call *c, struct err *err)
{
    if (!is_byte(c->in[0]->dtype)) return call_error(c, err, ST_INTERNAL, "it takes bytes");
    return call_set(c, 0, type_of(&values_of(c)->y), c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_table(struct call *c, struct err *err)
{
    (void)err;
    bytes_look_up(c->k, c->out[0]->data, c->in[0]->data, (int64_t)operand_count(c->in[0]), values_of(c)->table, c->threads);
    return ST_OK;
}

static enum status infer_add(struct call *c, struct err *err)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    if (!is_byte(a->dtype) || !is_byte(b->dtype) || a->rank != b->rank || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims)) return call_error(c, err, ST_BAD_INPUT, "its inputs are not of one shape");
    return call_set(c, 0, type_of(&values_of(c)->y), a->dims, a->rank, err);
}

static enum status eval_add(struct call *c, struct err *err)
{
    const struct bytes_values *v = values_of(c);
    (void)err;
    bytes_add(c->k, c->out[0]->data, c->in[0]->data, c->in[1]->data, (int64_t)operand_count(c->in[0]), &v->a, &v->b, &v->y, v->low, v->high, c->threads);
    return ST_OK;
}

/* A picture, channels last or of one pixel, by a number for each of its channels. */
static enum status infer_scale(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *g = c->in[1];
    if (!is_byte(x->dtype) || !is_byte(g->dtype) || x->rank < 2 || g->rank != x->rank || g->dims[0] != x->dims[0] || g->dims[1] != x->dims[1] || dims_product(g->dims, 2, g->rank) != 1) return call_error(c, err, ST_BAD_INPUT, "its second input is not one number for each channel");
    return call_set(c, 0, type_of(&values_of(c)->y), x->dims, x->rank, err);
}

static enum status eval_scale(struct call *c, struct err *err)
{
    const struct bytes_values *v = values_of(c);
    const struct operand *x = c->in[0];
    const int64_t space = dims_product(x->dims, 2, x->rank);
    (void)err;
    if (x->bytes == 0) return ST_OK;
    if (x->channels_last || space == 1) {
        bytes_scale(c->k, c->out[0]->data, x->data, c->in[1]->data, x->dims[0], space, x->dims[1], &v->a, &v->b, &v->y, c->threads);
        return ST_OK;
    }
    uint8_t *wide = c->scratch;                    /* plain order: the gate's number for each pixel of a plane */
    for (int64_t i = 0, planes = x->dims[0] * x->dims[1]; i < planes; i++) {
        memset(wide, ((const uint8_t *)c->in[1]->data)[i], (size_t)space);
        bytes_scale(c->k, (uint8_t *)c->out[0]->data + i * space, (const uint8_t *)x->data + i * space, wide, 1, 1, space, &v->a, &v->b, &v->y, 1);
    }
    return ST_OK;
}

static uint64_t scratch_scale(const struct call *c) { return c->in[0]->channels_last ? 0 : (uint64_t)dims_product(c->in[0]->dims, 2, c->in[0]->rank); }

/* ---- windows ---- */

static enum status infer_pool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct window w;
    int64_t dims[TENSOR_RANK_MAX] = { x->dims[0], x->dims[1] };
    if (!is_byte(x->dtype)) return call_error(c, err, ST_INTERNAL, "it takes bytes");
    enum status st = window_read(&w, c, NULL, err);
    if (st) return st;
    memcpy(dims + 2, w.out, (size_t)w.dims * sizeof *dims);
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

static enum status eval_pool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct window w;
    enum status st = window_read(&w, c, NULL, err);
    if (st || c->out[0]->bytes == 0) return st;
    struct window2d d = window_2d(&w, x->dims[0], x->dims[1]);
    if (!x->channels_last) {                       /* planes of one channel lie alike in both orders */
        d.n *= d.c;
        d.c = 1;
    }
    bytes_pool_max(c->k, c->out[0]->data, x->data, &d, x->dtype == DT_I8, c->threads);
    return ST_OK;
}

enum { MEAN_PIXELS_MAX = 1 << 22 };      /* whose sum fits int32 */

static enum status infer_mean(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t dims[TENSOR_RANK_MAX] = { x->dims[0], x->dims[1] };
    if (!is_byte(x->dtype) || x->rank < 3 || x->bytes == 0 || dims_product(x->dims, 2, x->rank) > MEAN_PIXELS_MAX) return call_error(c, err, ST_UNSUPPORTED, "it takes pictures of bytes, of 1 to %d pixels", MEAN_PIXELS_MAX);
    for (int d = 2; d < x->rank; d++) dims[d] = 1;
    return call_set(c, 0, type_of(&values_of(c)->y), dims, x->rank, err);
}

static uint64_t scratch_mean(const struct call *c) { return c->in[0]->channels_last ? 0 : c->in[0]->bytes; }

static enum status eval_mean(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    const struct bytes_values *v = values_of(c);
    const int64_t space = dims_product(x->dims, 2, x->rank);
    const void *in = x->data;
    (void)err;
    if (!x->channels_last) {
        c->k->transpose_2d(c->scratch, x->data, x->dims[0], x->dims[1], space, 1, c->threads);
        in = c->scratch;
    }
    bytes_mean(c->k, c->out[0]->data, in, x->dims[0], space, x->dims[1], &v->a, &v->y, c->threads);
    return ST_OK;
}

#define EACH(name, ins, flags, infer, eval, scratch, rows) { name, "inferd", 1, 0, ins, ins, 1, 1, (flags) | OP_LAST | OP_BYTES, 0, infer, eval, scratch, NULL, NULL, rows, NULL }
const struct op op_bytes_round = EACH("BytesRound", 1, OP_UNARY, infer_round, eval_round, NULL, rows_elementwise), op_bytes_restore = EACH("BytesRestore", 1, OP_UNARY, infer_restore, eval_restore, NULL, rows_elementwise),
    op_bytes_table = EACH("BytesTable", 1, OP_UNARY | OP_INPLACE, infer_table, eval_table, NULL, rows_elementwise), op_bytes_add = EACH("BytesAdd", 2, OP_BROADCAST | OP_INPLACE, infer_add, eval_add, NULL, rows_elementwise),
    op_bytes_scale = EACH("BytesScale", 2, OP_INPLACE, infer_scale, eval_scale, scratch_scale, rows_elementwise), op_bytes_pool = EACH("BytesPool", 1, 0, infer_pool, eval_pool, NULL, rows_first),
    op_bytes_mean = EACH("BytesMean", 1, 0, infer_mean, eval_mean, scratch_mean, rows_first);
