/* Quantised files compute in float between DequantizeLinear and QuantizeLinear. Where a layer stands between them its sums can be whole numbers: the layer becomes one operator on bytes
 * (engine/operators/quantised/bytes.h) that gives the same numbers to a quantum.
 *
 * The weights of such layers must not be folded to floats, which would take four times their memory: before constants are folded, a DequantizeLinear of a constant that only layers read
 * as their weight is set aside. Its result counts as a constant without bytes, so that the passes for floats see a layer on constant weights and fuse biases, norms and
 * activations with it. Then this pass takes the layers that it can; the weights of all others are folded after all.
 *
 * Files in operator form (QLinearConv, QLinearMatMul, MatMulInteger, ConvInteger with constant weights) take the same operators. */
#include "engine/graph/fuse_quantised.h"

#include <math.h>
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

/* ---- weights set aside ---- */

static bool is_layer(const struct node *n) { return node_is(n, "Conv") || node_is(n, "ConvTranspose") || node_is(n, "MatMul") || node_is(n, "Gemm"); }

static bool is_set_aside(const struct graph *g, const struct node *n) { return node_is(n, "DequantizeLinear") && !n->dead && n->out[0] >= 0 && value_is_constant(g, n->out[0]); }

/* Do only layers read v, as their weight? */
static bool is_weight(const struct graph *g, int v)
{
    int readers = 0;
    if (g->values[v].is_output) return false;
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        for (int k = 0; k < n->in_count && !n->dead; k++) {
            if (n->in[k] != v) continue;
            if (k != 1 || !is_layer(n)) return false;
            readers++;
        }
    }
    return readers > 0;
}

enum status set_weights_aside(struct graph *g, struct err *err)
{
    (void)err;
    for (int i = 0; i < g->node_count; i++) {
        struct node *n = &g->nodes[i];
        if (n->dead || !node_is(n, "DequantizeLinear") || n->out[0] < 0 || !value_is_constant(g, n->in[0]) || !value_is_constant(g, n->in[1]) || (n->in_count > 2 && n->in[2] >= 0 && !value_is_constant(g, n->in[2]))) continue;
        const struct operand *w = &g->values[n->in[0]].type;
        struct value *v = &g->values[n->out[0]];
        if ((w->dtype != DT_I8 && w->dtype != DT_U8) || w->rank < 2 || w->rank > 4 || w->bytes == 0 || !w->data || g->values[n->in[1]].type.dtype != DT_F32 || node_int(n, "block_size", 0) || !is_weight(g, n->out[0])) continue;
        struct operand o = *w;
        o.dtype = DT_F32;
        o.data = NULL;
        o.splat = false;
        if (!tensor_bytes(DT_F32, o.dims, o.rank, &o.bytes)) continue;
        v->kind = VALUE_CONSTANT;
        v->type = o;
    }
    return ST_OK;
}

/* What is still read becomes a result of its DequantizeLinear again, for the folding of constants. */
static void put_back(struct graph *g)
{
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        if (!is_set_aside(g, n)) continue;
        g->values[n->out[0]].kind = VALUE_NODE;
        g->values[n->out[0]].type = (struct operand){ 0 };
    }
}

/* ---- reading the patterns ---- */

static bool is_one(const struct graph *g, int v, enum dtype t)
{
    return value_is_constant(g, v) && g->values[v].type.data && operand_count(&g->values[v].type) == 1 && (t == DT_NONE || g->values[v].type.dtype == t);
}

bool quantum_of(const struct graph *g, const struct node *n, struct quantum *q)
{
    const bool rounds = node_is(n, "QuantizeLinear");
    if ((!rounds && !node_is(n, "DequantizeLinear")) || n->in_count < 2 || !is_one(g, n->in[1], DT_F32) || node_int(n, "block_size", 0)) return false;
    const int zero = n->in_count > 2 ? n->in[2] : -1;
    if (zero >= 0 && !is_one(g, zero, DT_NONE)) return false;
    const int64_t said = node_int(n, "output_dtype", 0);
    if (!rounds && said && said != DT_F32) return false;
    if (rounds && node_int(n, "precision", 0) && node_int(n, "precision", 0) != DT_F32) return false;
    enum dtype t = zero >= 0 ? g->values[zero].type.dtype : rounds ? (said ? (enum dtype)said : DT_U8) : probe_known(g, n->in[0]) ? g->values[n->in[0]].probe[0].dtype : DT_NONE;
    if (t != DT_U8 && t != DT_I8) return false;
    memcpy(&q->scale, g->values[n->in[1]].type.data, sizeof q->scale);
    q->is_signed = t == DT_I8;
    q->zero = 0;
    if (zero >= 0) q->zero = q->is_signed ? *(const int8_t *)g->values[zero].type.data : *(const uint8_t *)g->values[zero].type.data;
    return isnormal(q->scale) && q->scale > 0;
}

bool byte_source(const struct graph *g, int v, int *x, struct quantum *q)
{
    if (v < 0 || g->values[v].producer < 0 || value_is_constant(g, v)) return false;
    const struct node *n = &g->nodes[g->values[v].producer];
    if (n->dead || !node_is(n, "DequantizeLinear") || !quantum_of(g, n, q) || value_is_constant(g, n->in[0])) return false;
    *x = n->in[0];
    return true;
}

struct node *sole_quantiser(const struct graph *g, int v, struct quantum *q)
{
    struct node *n = graph_sole_reader(g, v);
    return node_is(n, "QuantizeLinear") && n->in[0] == v && quantum_of(g, n, q) ? n : NULL;
}

bool node_become(struct graph *g, struct node *n, const struct op *op, const struct node *from, const int *in, int in_count, const void *spec, size_t spec_size)
{
    int *list = arena_alloc(g->arena, ((uint64_t)in_count + 1) * sizeof *list, 8);
    void *copy = spec ? arena_alloc(g->arena, spec_size, 16) : NULL;
    if (!list || (spec && !copy)) return false;
    if (spec) memcpy(copy, spec, spec_size);
    for (int k = 0; k < in_count; k++) {
        list[k] = in[k];
        if (in[k] >= 0) g->values[in[k]].uses++;
    }
    n->name = from->name;
    n->opset = from->opset;
    n->attributes = from->attributes;
    n->attribute_count = from->attribute_count;
    n->op = op;
    n->in = list;
    n->in_count = in_count;
    n->spec = copy;
    n->residual = -1;
    n->act = (struct activation_spec){ .kind = ACT_NONE };
    n->bias = n->weight = NULL;
    return true;
}

bool limits_of(const struct quantum *q, struct activation_spec act, float *low, float *high)
{
    *low = (float)((q->is_signed ? -128 : 0) - q->zero);
    *high = (float)((q->is_signed ? 127 : 255) - q->zero);
    if (act.kind == ACT_NONE) return true;
    const float least = act.kind == ACT_RELU ? 0 : act.alpha / q->scale, most = act.kind == ACT_RELU ? INFINITY : act.beta / q->scale;
    if (act.kind != ACT_RELU && act.kind != ACT_CLIP) return false;
    if (rintf(least) > *low) *low = fminf(rintf(least), *high);
    if (rintf(most) < *high) *high = fmaxf(rintf(most), *low);
    return true;
}

/* ---- layers ---- */

struct weights { int value; int64_t channels, repeat; bool columns, offset; const float *scale; bool one; };      /* channels: of scales and biases; each stands `repeat` times */

/* All zero points 0, or 128 of unsigned bytes. */
static bool zeros_fit(const struct graph *g, int v, enum dtype t, bool *offset)
{
    *offset = t == DT_U8;
    if (v < 0) return t == DT_I8;
    const struct operand *z = &g->values[v].type;
    if (!value_is_constant(g, v) || !z->data || z->dtype != t) return false;
    for (uint64_t i = 0, n = z->splat ? 1 : z->bytes; i < n; i++)
        if (((const uint8_t *)z->data)[i] != (*offset ? 128 : 0)) return false;
    return true;
}

static bool axis_is(const struct node *n, int64_t axis, int rank)
{
    int64_t said = node_int(n, "axis", 1);
    return axis_fix(&said, rank) && said == axis;
}

/* Attributes that read as one window. */
static bool window_fits(const struct graph *g, const struct node *n)
{
    const struct operand *w = &g->values[n->in[1]].type;
    int count;
    if (w->rank != 3 && w->rank != 4) return false;
    for (int i = 0; i < 2; i++) {
        const int64_t *list = node_ints(n, i ? "dilations" : "strides", &count);
        if (list && count != w->rank - 2) return false;
        for (int d = 0; list && d < count; d++)
            if (list[d] < 1 || list[d] > 1 << 20) return false;
    }
    for (int d = 0; d < w->rank - 2; d++)
        if (w->dims[d + 2] > 1 << 20) return false;
    const int64_t groups = node_int(n, "group", 1);
    return groups >= 1 && groups <= w->dims[0] && w->dims[0] % groups == 0;
}

/* A transposed convolution that puts its windows side by side. */
static bool is_tiling(const struct graph *g, const struct node *n)
{
    const struct operand *w = &g->values[n->in[1]].type;
    int count;
    const int64_t *strides = node_ints(n, "strides", &count);
    if (w->rank != 4 || !strides || count != 2 || strides[0] != w->dims[2] || strides[1] != w->dims[3] || node_int(n, "group", 1) != 1 || !node_text_is(n, "auto_pad", "NOTSET", true)) return false;
    static const char *const zero[] = { "pads", "output_padding", "output_shape" };
    for (int i = 0; i < 3; i++) {
        const int64_t *list = node_ints(n, zero[i], &count);
        for (int d = 0; list && d < count; d++)
            if (list[d]) return false;
        if (i == 2 && list) return false;
    }
    const int64_t *dilations = node_ints(n, "dilations", &count);
    for (int d = 0; dilations && d < count; d++)
        if (dilations[d] != 1) return false;
    return true;
}

static bool read_weights(struct graph *g, const struct node *n, struct weights *w)
{
    const int made = n->in[1] >= 0 ? g->values[n->in[1]].producer : -1;
    if (made < 0 || !is_set_aside(g, &g->nodes[made])) return false;
    const struct node *dq = &g->nodes[made];
    const struct operand *q = &g->values[dq->in[0]].type, *s = &g->values[dq->in[1]].type;
    const bool matrix = node_is(n, "MatMul") || node_is(n, "Gemm");
    *w = (struct weights){ .value = dq->in[0], .repeat = 1 };
    if (!zeros_fit(g, dq->in_count > 2 ? dq->in[2] : -1, q->dtype, &w->offset) || (w->offset && q->dtype != DT_U8)) return false;
    if (matrix ? q->rank != 2 : node_is(n, "Conv") ? !window_fits(g, n) : !is_tiling(g, n)) return false;
    int64_t axis = 0;
    if (matrix) {
        w->columns = node_is(n, "MatMul") || !node_int(n, "transB", 0);
        axis = w->columns;
    } else if (node_is(n, "ConvTranspose")) {
        axis = 1;
        w->repeat = q->dims[2] * q->dims[3];
    }
    w->channels = q->dims[axis];
    w->one = operand_count(s) == 1;
    if (!w->one && (operand_count(s) != (uint64_t)w->channels || !axis_is(dq, axis, q->rank))) return false;
    w->scale = graph_dense(g, dq->in[1]);
    return w->scale != NULL;
}

/* The bias of a layer as [channels], NULL: none; false: it has another shape. */
static bool read_bias(struct graph *g, const struct node *n, const struct weights *w, const float **bias)
{
    *bias = n->bias;
    if (n->bias || n->in_count < 3 || n->in[2] < 0 || n->residual == 2) return true;
    const struct operand *b = &g->values[n->in[2]].type;
    if (!value_is_constant(g, n->in[2]) || !b->data || b->dtype != DT_F32 || operand_count(b) != (uint64_t)w->channels || (b->rank > 1 && b->dims[b->rank - 1] != w->channels)) return false;
    *bias = graph_dense(g, n->in[2]);
    return *bias != NULL;
}

/* Scale and shift of every output channel: v in real units, or in quanta of y. */
static bool set_numbers(struct graph *g, struct bytes_product *p, const struct weights *w, const float *more, const float *bias, float y_scale)
{
    const int64_t n = w->channels * w->repeat;
    float *scale = arena_calloc(g->arena, (uint64_t)n, sizeof *scale), *shift = bias ? arena_calloc(g->arena, (uint64_t)n, sizeof *shift) : NULL;
    if (!scale || (bias && !shift)) return false;
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = i % w->channels;
        scale[i] = (float)((double)p->x.scale * (double)w->scale[w->one ? 0 : c] * (double)(more ? more[c] : 1) / (double)y_scale);
        if (bias) shift[i] = (float)((double)bias[c] / (double)y_scale);
    }
    p->layer.finish.scale = scale;
    p->layer.finish.shift = shift;
    return true;
}

static const struct op *layer_op(const struct node *n) { return node_is(n, "Conv") ? &op_bytes_conv : node_is(n, "ConvTranspose") ? &op_bytes_transpose : &op_bytes_product; }

static bool too_many_terms(const struct graph *g, const struct node *n, int weight)
{
    const struct operand *w = &g->values[weight].type;
    const uint64_t count = operand_count(w);
    if (layer_op(n) == &op_bytes_transpose) return w->dims[0] > BYTES_TERMS_MAX;
    if (layer_op(n) == &op_bytes_product) return w->dims[0] > BYTES_TERMS_MAX || w->dims[1] > BYTES_TERMS_MAX;
    return count / (uint64_t)w->dims[0] > BYTES_TERMS_MAX;
}

static bool fuse_layer(struct graph *g, struct node *n)
{
    struct weights w;
    struct bytes_product p = { .layer = { .groups = 1 } };
    struct bytes_finish *f = &p.layer.finish;
    const float *bias;
    int x;
    if (!is_layer(n) || n->residual >= 0 || !read_weights(g, n, &w) || !byte_source(g, n->in[0], &x, &p.x) || too_many_terms(g, n, w.value) || !read_bias(g, n, &w, &bias)) return true;
    if (node_is(n, "Gemm") && (node_int(n, "transA", 0) || node_float(n, "alpha", 1) != 1 || node_float(n, "beta", 1) != 1)) return true;
    if (node_is(n, "MatMul") && probe_known(g, n->in[0]) && g->values[n->in[0]].probe[0].rank < 2) return true;
    p.columns = w.columns, p.offset = w.offset;
    p.layer.x_signed = p.x.is_signed, p.layer.x_zero = p.x.zero;
    struct node *q = sole_quantiser(g, n->out[0], &p.y), *last = q ? q : n;
    float unit = 1;
    if (q) {
        f->out = p.y.is_signed ? BYTES_S8 : BYTES_U8;
        f->zero = p.y.zero;
        if (limits_of(&p.y, n->act, &f->low, &f->high)) unit = p.y.scale;
        else f->act = n->act, f->inverse = 1 / p.y.scale;
    } else {
        f->out = BYTES_F32;
        f->act = n->act;
    }
    if (!set_numbers(g, &p, &w, n->weight, bias, unit)) return false;
    const int in[] = { x, w.value };
    return node_become(g, last, layer_op(n), n, in, 2, &p, sizeof p);
}

/* ---- operator form ---- */

static bool one_float(const struct graph *g, int v, float *out)
{
    if (!is_one(g, v, DT_F32)) return false;
    memcpy(out, g->values[v].type.data, sizeof *out);
    return isnormal(*out) && *out > 0;
}

static bool one_byte(const struct graph *g, int v, int *zero, bool *is_signed)
{
    if (!is_one(g, v, DT_NONE) || (g->values[v].type.dtype != DT_U8 && g->values[v].type.dtype != DT_I8)) return false;
    *is_signed = g->values[v].type.dtype == DT_I8;
    *zero = *is_signed ? *(const int8_t *)g->values[v].type.data : *(const uint8_t *)g->values[v].type.data;
    return true;
}

static int input_of(const struct node *n, int k) { return k < n->in_count ? n->in[k] : -1; }

/* QLinearConv and QLinearMatMul with constant weights; ConvInteger and MatMulInteger, whose x must say its type by a zero point or its probe. */
static bool fuse_operator(struct graph *g, struct node *n)
{
    const bool linear = node_is(n, "QLinearConv") || node_is(n, "QLinearMatMul"), conv = node_is(n, "QLinearConv") || node_is(n, "ConvInteger");
    if (!linear && !conv && !node_is(n, "MatMulInteger")) return true;
    const int wv = n->in[linear ? 3 : 1], wz = input_of(n, linear ? 5 : 3), xz = input_of(n, 2);
    struct bytes_product p = { .layer = { .groups = 1 }, .columns = !conv };
    struct bytes_finish *f = &p.layer.finish;
    struct weights w = { .value = wv, .repeat = 1 };
    if (!value_is_constant(g, wv) || !g->values[wv].type.data) return true;
    const struct operand *q = &g->values[wv].type;
    if ((q->dtype != DT_I8 && q->dtype != DT_U8) || q->bytes == 0 || !zeros_fit(g, wz, q->dtype, &p.offset)) return true;
    const bool later = xz >= 0 && !value_is_constant(g, xz);       /* the zero point is found while running */
    if (xz >= 0 && !later ? !one_byte(g, xz, &p.x.zero, &p.x.is_signed) : !probe_known(g, n->in[0])) return true;
    if (later && (linear || !probe_known(g, xz) || operand_count(&g->values[xz].probe[0]) != 1)) return true;
    if (xz < 0 || later) p.x.is_signed = g->values[n->in[0]].probe[0].dtype == DT_I8;
    if (!conv && (q->rank != 2 || !probe_known(g, n->in[0]) || g->values[n->in[0]].probe[0].rank < 2)) return true;
    w.channels = q->dims[conv ? 0 : 1];
    const uint64_t terms = operand_count(q) / (uint64_t)w.channels;
    if (terms > BYTES_TERMS_MAX) return true;
    const int in[] = { n->in[0], wv, xz };
    if (conv) {                                    /* the window is read as a Conv's is: its weight is input 1 */
        struct node same = *n;
        int as[] = { n->in[0], wv };
        same.in = as;
        if (!window_fits(g, &same)) return true;
    }
    p.layer.x_signed = p.x.is_signed, p.layer.x_zero = p.x.zero;
    f->out = BYTES_I32;
    if (linear) {
        const struct operand *s = &g->values[n->in[4]].type;
        if (!one_float(g, n->in[1], &p.x.scale) || !one_float(g, n->in[6], &p.y.scale) || !one_byte(g, n->in[7], &p.y.zero, &p.y.is_signed)) return true;
        if (!value_is_constant(g, n->in[4]) || s->dtype != DT_F32 || (operand_count(s) != 1 && operand_count(s) != (uint64_t)w.channels)) return true;
        const int bias = conv ? input_of(n, 8) : -1;
        if (bias >= 0 && (!value_is_constant(g, bias) || g->values[bias].type.dtype != DT_I32 || operand_count(&g->values[bias].type) != (uint64_t)w.channels)) return true;
        w.one = operand_count(s) == 1;
        if (!(w.scale = graph_dense(g, n->in[4])) || (bias >= 0 && !(f->start = graph_dense(g, bias)))) return false;
        f->out = p.y.is_signed ? BYTES_S8 : BYTES_U8;
        f->zero = p.y.zero;
        limits_of(&p.y, f->act, &f->low, &f->high);
        if (!set_numbers(g, &p, &w, NULL, NULL, p.y.scale)) return false;
    }
    return node_become(g, n, conv ? &op_bytes_conv : &op_bytes_product, n, in, later ? 3 : 2, &p, sizeof p);
}

bool is_quantised(const struct graph *g)
{
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        if (n->dead) continue;
        if (node_is(n, "QLinearConv") || node_is(n, "QLinearMatMul") || node_is(n, "MatMulInteger") || node_is(n, "ConvInteger") || op_is_bytes_layer(n->op)) return true;
        if (node_is(n, "DequantizeLinear") && value_is_constant(g, n->in[0]) && g->values[n->in[0]].type.rank >= 2) return true;
    }
    return false;
}

enum status fuse_quantised(struct graph *g, struct err *err)
{
    bool room = true;
    for (int i = 0; i < g->node_count && room; i++) {
        if (g->nodes[i].dead || g->nodes[i].out[0] < 0) continue;
        room = fuse_layer(g, &g->nodes[i]);
        if (room) room = fuse_operator(g, &g->nodes[i]);
    }
    if (!room) return err_set(err, ST_NO_MEMORY, "fusing passes the model's memory budget");
    enum status st = graph_settle(g, err);
    if (!st) put_back(g);
    if (!st) st = fold_constants(g, err);
    if (!st) st = graph_settle(g, err);
    if (!st) st = probe_shapes(g, err);
    if (!st) st = fuse_bytes(g, err);
    if (!st) st = graph_settle(g, err);
    if (!st) st = finish_bytes(g, err);
    return st ? st : graph_settle(g, err);
}
