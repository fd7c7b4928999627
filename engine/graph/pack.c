/* Weights as the kernels want them, made once for the model version and shared by its instances: convolution layers, GEMM panels, dense vectors.
 * Afterwards every constant that a node still reads as it is gets aligned. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/graph/passes.h"
#include "engine/operators/nn/conv_columns.h"
#include "engine/operators/nn/conv_slices.h"
#include "engine/operators/nn/spread.h"
#include "engine/operators/nn/tall_product.h"
#include "engine/operators/operators.h"
#include "engine/operators/quantised/bytes.h"
#include "kernels/blocks.h"
#include "kernels/conv.h"
#include "kernels/half.h"
#include "kernels/linear.h"
#include "kernels/sparse.h"

enum { ROWS_TIMED = 32 };      /* pruned weights must be quicker for one row and for at least so many: rows are tokens as often as requests */

static enum status charge(struct graph *g, uint64_t bytes, struct err *err)
{
    uint64_t whole;
    if (!size_add(g->packed_bytes, g->arena->used, &whole) || !size_add(whole, bytes, &whole) || whole > g->memory_max)
        return err_set(err, ST_NO_MEMORY, "packed weights need %llu bytes more than the model's memory budget of %llu leaves", (unsigned long long)bytes, (unsigned long long)g->memory_max);
    return ST_OK;
}

bool value_is_constant(const struct graph *g, int v) { return v >= 0 && g->values[v].kind == VALUE_CONSTANT; }

/* A constant's bytes, dense and aligned: where they are, or a copy that *owned must free. */
static const void *borrow_dense(const struct graph *g, int v, void **owned)
{
    const struct operand *o = &g->values[v].type;
    size_t size = (size_t)operand_size(o);
    *owned = NULL;
    if (!o->splat && (uintptr_t)o->data % (size > 8 ? 8 : size) == 0) return o->data;
    uint8_t *copy = *owned = mem_alloc_aligned(o->bytes ? o->bytes : 1, TENSOR_ALIGN);
    if (!copy) return NULL;
    if (!o->splat) memcpy(copy, o->data, o->bytes);
    else
        for (uint64_t i = 0; i < o->bytes; i += size) memcpy(copy + i, o->data, size);
    return copy;
}

bool conv_packable(const struct graph *g, const struct node *n)
{
    if (!(n->op->flags & OP_WANTS_LAST) || !value_is_constant(g, n->in[1])) return false;
    const struct operand *w = &g->values[n->in[1]].type;
    int bias = n->in_count > 2 ? n->in[2] : -1, count;
    if (w->dtype != DT_F32 || (w->rank != 3 && w->rank != 4) || w->bytes == 0 || (bias >= 0 && !value_is_constant(g, bias))) return false;
    const int64_t *strides = node_ints(n, "strides", &count), *dilations;
    if (strides && count != w->rank - 2) return false;
    dilations = node_ints(n, "dilations", &count);
    if (dilations && count != w->rank - 2) return false;
    for (int d = 0; d < w->rank; d++)
        if (w->dims[d] > INT32_MAX) return false;
    int64_t groups = node_int(n, "group", 1);
    const struct operand *b = bias >= 0 ? &g->values[bias].type : NULL;
    if (groups < 1 || groups > w->dims[0] || w->dims[0] % groups || (b && (b->dtype != DT_F32 || b->rank != 1 || b->dims[0] != w->dims[0]))) return false;
    for (int d = 0; d < w->rank - 2; d++)
        if ((strides && (strides[d] < 1 || strides[d] > 1 << 20)) || (dilations && (dilations[d] < 1 || dilations[d] > 1 << 20)) || w->dims[d + 2] > 1 << 20) return false;
    return true;
}

/* The weight with the scale of a folded normalisation multiplied in; *owned holds the copy. */
static const float *scaled_weight(const struct graph *g, const struct node *n, void **owned)
{
    const struct operand *w = &g->values[n->in[1]].type;
    const float *x = borrow_dense(g, n->in[1], owned);
    if (!x || !n->weight) return x;
    float *copy = *owned;
    if (!copy) {
        copy = *owned = mem_alloc_aligned(w->bytes, TENSOR_ALIGN);
        if (!copy) return NULL;
        memcpy(copy, x, w->bytes);
    }
    int64_t each = (int64_t)(w->bytes / 4) / w->dims[0];
    for (int64_t m = 0; m < w->dims[0]; m++)
        for (int64_t i = 0; i < each; i++) copy[m * each + i] *= n->weight[m];
    return copy;
}

/* What probing found of the layer's picture. */
static void give_hints(const struct graph *g, const struct node *n, struct conv_spec *spec)
{
    const struct operand *x = probe_known(g, n->in[0]) ? &g->values[n->in[0]].probe[0] : NULL, *y = probe_known(g, n->out[0]) ? &g->values[n->out[0]].probe[0] : NULL;
    const int rank = g->values[n->in[1]].type.rank, flat = rank == 3;
    int count;
    if (!x || x->rank != rank) return;
    spec->hint_h = flat ? 1 : x->dims[2];
    spec->hint_w = x->dims[flat ? 2 : 3];
    const int64_t *pads = node_ints(n, "pads", &count);
    if (!y || y->rank != rank || !node_text_is(n, "auto_pad", "NOTSET", true) || (pads && count != 2 * (rank - 2))) return;
    spec->hint_out_h = flat ? 1 : y->dims[2];
    spec->hint_out_w = y->dims[flat ? 2 : 3];
    spec->hint_top = flat || !pads || pads[0] < 0 || pads[0] > INT32_MAX ? 0 : (int)pads[0];
    spec->hint_left = !pads || pads[!flat] < 0 || pads[!flat] > INT32_MAX ? 0 : (int)pads[!flat];
}

/* Does a convolution read an input of the graph, as it is or in another order? */
static bool reads_input(const struct graph *g, const struct node *n)
{
    int v = n->in[0];
    while (v >= 0 && g->values[v].kind == VALUE_NODE && g->values[v].producer >= 0 && g->nodes[g->values[v].producer].op == &op_reorder) v = g->nodes[g->values[v].producer].in[0];
    return v >= 0 && g->values[v].kind == VALUE_INPUT;
}

/* Is a product an output, or what alone becomes one in another step? */
static bool makes_output(const struct graph *g, const struct node *n)
{
    if (g->values[n->out[0]].is_output) return true;
    const struct node *reader = graph_sole_reader(g, n->out[0]);
    return reader && reader->in[0] == n->out[0] && reader->out[0] >= 0 && g->values[reader->out[0]].is_output;
}

static enum status pack_conv(struct graph *g, struct node *n, struct err *err)
{
    if (!conv_packable(g, n)) return ST_OK;
    const struct operand *w = &g->values[n->in[1]].type;
    int bias = n->in_count > 2 ? n->in[2] : -1, count;
    bool flat = w->rank == 3;
    const int64_t *strides = node_ints(n, "strides", &count), *dilations = node_ints(n, "dilations", &count);
    int64_t groups = node_int(n, "group", 1);
    struct conv_spec spec = {
        .in_c = w->dims[1] * groups, .out_c = w->dims[0], .groups = groups,
        .kh = flat ? 1 : (int)w->dims[2], .kw = (int)w->dims[flat ? 2 : 3], .stride_h = flat || !strides ? 1 : (int)strides[0], .stride_w = strides ? (int)strides[!flat] : 1,
        .dilation_h = flat || !dilations ? 1 : (int)dilations[0], .dilation_w = dilations ? (int)dilations[!flat] : 1,
        .has_residual = n->residual >= 0, .act = n->act, .bf16 = g->bf16 && !(g->exact_ends && reads_input(g, n)), .loose = g->loose, .x_bf16 = (n->halves & HALVES_IN) != 0, .y_bf16 = (n->halves & HALVES_OUT) != 0, .hint_n_max = g->max_rows,
    };
    give_hints(g, n, &spec);
    enum status st = charge(g, w->bytes, err);
    if (st) return st;
    void *own_w, *own_b = NULL;
    const float *weight = scaled_weight(g, n, &own_w), *vector = bias >= 0 ? borrow_dense(g, bias, &own_b) : NULL;
    if (!weight || (bias >= 0 && !vector)) st = err_set(err, ST_NO_MEMORY, "unpacking a weight");
    else st = conv_layer_open(&n->conv, &spec, weight, vector, &g->device.kernels, g->device.threads, err);
    free(own_w);
    free(own_b);
    if (!st) g->packed_bytes += conv_layer_bytes(n->conv);
    return st ? err_prefix(err, "node '%s' (Conv)", n->name) : ST_OK;
}

bool gemm_packable(const struct graph *g, const struct node *n)
{
    if (strcmp(n->op->name, "Gemm") && strcmp(n->op->name, "MatMul")) return false;
    if (!value_is_constant(g, n->in[1])) return false;
    const struct operand *w = &g->values[n->in[1]].type;
    return w->dtype == DT_F32 && w->rank == 2 && w->bytes > 0;
}

/* A layer of bfloat16 weights: rows of k numbers, one for each column of the product. */
static enum status open_rounded(struct graph *g, const struct node *n, const uint16_t *rows, int64_t columns, int64_t k, bool few_rounded, struct linear_layer **out, struct err *err)
{
    const struct linear_spec spec = { .type = BLOCK_BF16, .weight = rows, .n = columns, .k = k, .row_bytes = 2 * k, .mode = LINEAR_FAST, .level = g->device.kernels.level, .few_rounded = few_rounded };
    enum status st = charge(g, linear_open_bytes(&spec), err);
    if (!st) st = linear_open(out, &spec, err);
    if (st) return st;
    if (!graph_own_linear(g, *out)) return err_set(err, ST_NO_MEMORY, "packing the weight of node '%s'", n->name);
    g->packed_bytes += linear_bytes(*out);
    return ST_OK;
}

static enum status pack_rounded(struct graph *g, struct node *n, bool turned, int64_t k, int64_t columns, bool few_rounded, struct err *err)
{
    void *owned = NULL;
    const struct operand *w = &g->values[n->in[1]].type;
    const float *b = w->splat ? w->data : borrow_dense(g, n->in[1], &owned);
    uint16_t *rounded = mem_alloc_array((uint64_t)k, (uint64_t)columns * sizeof *rounded), *rows = turned || w->splat ? rounded : mem_alloc_array((uint64_t)k, (uint64_t)columns * sizeof *rows);
    enum status st = b && rounded && rows ? ST_OK : err_set(err, ST_NO_MEMORY, "packing the weight of node '%s'", n->name);
    if (!st && w->splat) for (int64_t i = 0; i < k * columns; i++) rounded[i] = f32_to_bf16_one(*b);
    else if (!st) g->device.kernels.round_bf16(rounded, b, k * columns, 1);
    if (!st && rows != rounded) g->device.kernels.transpose_2d(rows, rounded, 1, k, columns, sizeof *rows, 1);
    if (!st) st = open_rounded(g, n, rows, columns, k, few_rounded, &n->linear, err);
    if (rows != rounded) free(rows);
    free(rounded);
    free(owned);
    return st;
}

/* Lists of what is not 0 in place of the panels that stand there, where those are slower. */
static enum status pack_pruned(struct graph *g, struct node *n, const float *b, bool turned, int64_t k, int64_t columns, struct err *err)
{
    struct sparse_layer *s;
    enum status st = sparse_open(&s, b, turned ? 1 : columns, turned ? k : 1, k, columns, &g->device.kernels, err);
    if (st) return st;
    if (!sparse_is_quicker(s, n->packed, g->max_rows > ROWS_TIMED ? g->max_rows : ROWS_TIMED, g->device.threads)) {
        sparse_close(s);
        return ST_OK;
    }
    free(n->packed);
    n->packed = NULL;
    n->packed_bytes = 0;
    n->sparse = s;
    return ST_OK;
}

static enum status pack_gemm(struct graph *g, struct node *n, struct err *err)
{
    const struct operand *w = &g->values[n->in[1]].type;
    bool gemm = strcmp(n->op->name, "Gemm") == 0, turned = gemm && node_int(n, "transB", 0);
    int64_t k = w->dims[turned], columns = w->dims[!turned];
    if (g->bf16 && !(g->exact_ends && makes_output(g, n)) && !(gemm && node_int(n, "transA", 0))) return pack_rounded(g, n, turned, k, columns, false, err);
    uint64_t bytes = g->device.kernels.gemm_f32_packed_bytes(k, columns);
    enum status st = charge(g, bytes, err);
    if (st) return st;
    void *owned = NULL;
    bool splat = w->splat;
    const float *b = splat ? w->data : borrow_dense(g, n->in[1], &owned);
    n->packed = mem_alloc_aligned(bytes ? bytes : 1, 4096);
    if (!b || !n->packed) {
        free(owned);
        return err_set(err, ST_NO_MEMORY, "packing the weight of node '%s'", n->name);
    }
    g->device.kernels.gemm_f32_pack(n->packed, b, splat ? 0 : turned ? 1 : columns, splat ? 0 : turned ? k : 1, k, columns);
    n->packed_bytes = bytes;
    if (!splat && !(gemm && node_int(n, "transA", 0)) && sparse_wanted(b, turned ? 1 : columns, turned ? k : 1, k, columns)) st = pack_pruned(g, n, b, turned, k, columns, err);
    free(owned);
    g->packed_bytes += n->sparse ? sparse_bytes(n->sparse) : bytes;
    return st;
}

/* With tiles our own product is quicker than oneDNN's. */
static enum status pack_tall_layer(struct graph *g, struct node *n, struct err *err)
{
    const struct tall_product_spec *p = n->spec;
    enum status st = pack_rounded(g, n, p->turned, p->k, p->n, true, err);
    if (st || n->in_count < 3 || n->in[2] < 0) return st;
    void *owned;
    const float *bias = borrow_dense(g, n->in[2], &owned);
    float *own = arena_alloc(g->arena, (uint64_t)p->n * sizeof *own, sizeof *own);
    if (bias && own) n->bias = memcpy(own, bias, (size_t)p->n * sizeof *own);
    else st = err_set(err, ST_NO_MEMORY, "packing the bias of node '%s'", n->name);
    free(owned);
    return st;
}

/* The weight as a 1x1 convolution's: [n, k]. */
static enum status pack_product(struct graph *g, struct node *n, struct err *err)
{
    const struct tall_product_spec *p = n->spec;
    const struct operand *w = &g->values[n->in[1]].type;
    struct conv_spec spec = { .in_c = p->k, .out_c = p->n, .groups = 1, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .has_residual = n->residual >= 0, .act = n->act, .bf16 = true,
                              .x_bf16 = (n->halves & HALVES_IN) != 0, .y_bf16 = (n->halves & HALVES_OUT) != 0, .hint_w = 1, .hint_n_max = 1 };
    spec.hint_h = probe_known(g, n->in[0]) ? (int64_t)operand_count(&g->values[n->in[0]].probe[0]) / p->k : 1;
    enum status st = charge(g, 2 * w->bytes, err);
    if (st) return st;
    const int bias = n->in_count > 2 ? n->in[2] : -1;
    void *own_w = NULL, *own_b = NULL;
    float *turned = NULL;
    const float *weight = borrow_dense(g, n->in[1], &own_w), *vector = bias >= 0 ? borrow_dense(g, bias, &own_b) : n->bias;
    if (weight && !p->turned && (turned = mem_alloc_array((uint64_t)p->k, (uint64_t)p->n * sizeof *turned))) g->device.kernels.transpose_2d(turned, weight, 1, p->k, p->n, sizeof *turned, 1);
    if (!weight || (bias >= 0 && !vector) || (!p->turned && !turned)) st = err_set(err, ST_NO_MEMORY, "packing the weight of node '%s'", n->name);
    else st = conv_layer_open(&n->conv, &spec, turned ? turned : weight, vector, &g->device.kernels, g->device.threads, err);
    free(turned);
    free(own_w);
    free(own_b);
    if (!st) g->packed_bytes += conv_layer_bytes(n->conv);
    return st ? err_prefix(err, "node '%s' (TallProduct)", n->name) : ST_OK;
}

/* [in_c, m, kh, kw] as a 1x1 convolution's weight [kh kw m, in_c], and the bias for each of kh kw. */
static enum status pack_spread(struct graph *g, struct node *n, struct err *err)
{
    const struct spread_spec *s = n->spec;
    const struct operand *w = &g->values[n->in[1]].type;
    const int64_t cells = (int64_t)s->kh * s->kw;
    struct conv_spec spec = { .in_c = s->in_c, .out_c = cells * s->out_c, .groups = 1, .kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .bf16 = true,
                              .x_bf16 = (n->halves & HALVES_IN) != 0, .y_bf16 = (n->halves & HALVES_OUT) != 0, .hint_n_max = g->max_rows };
    if (probe_known(g, n->in[0])) spec.hint_h = g->values[n->in[0]].probe[0].dims[2], spec.hint_w = g->values[n->in[0]].probe[0].dims[3];
    enum status st = charge(g, 2 * w->bytes, err);
    if (st) return st;
    void *own_w = NULL, *own_b = NULL;
    const bool has_bias = n->in[2] >= 0;
    const float *weight = borrow_dense(g, n->in[1], &own_w), *vector = has_bias ? borrow_dense(g, n->in[2], &own_b) : NULL;
    float *turned = mem_alloc_array((uint64_t)(cells * s->out_c), (uint64_t)s->in_c * sizeof *turned), *bias = mem_calloc_array((uint64_t)(cells * s->out_c), sizeof *bias);
    if (!weight || (has_bias && !vector) || !turned || !bias) st = err_set(err, ST_NO_MEMORY, "packing the weight of node '%s'", n->name);
    for (int64_t k = 0; !st && k < cells; k++)
        for (int64_t m = 0; m < s->out_c; m++) {
            const int64_t at = k * s->out_c + m;
            if (vector) bias[at] = vector[m];
            for (int64_t c = 0; c < s->in_c; c++) turned[at * s->in_c + c] = weight[(c * s->out_c + m) * cells + k];
        }
    if (!st) st = conv_layer_open(&n->conv, &spec, turned, bias, &g->device.kernels, g->device.threads, err);
    free(turned);
    free(bias);
    free(own_w);
    free(own_b);
    if (!st) g->packed_bytes += conv_layer_bytes(n->conv);
    return st ? err_prefix(err, "node '%s' (Spread)", n->name) : ST_OK;
}

bool columns_packable(const struct graph *g, const struct node *n)
{
    const bool transposed = strcmp(n->op->name, "ConvTranspose") == 0 && !n->op->domain[0];
    if ((!transposed && !(n->op->flags & OP_WANTS_LAST)) || n->in_count < 2 || !value_is_constant(g, n->in[1])) return false;
    const struct operand *w = &g->values[n->in[1]].type;
    const int64_t groups = node_int(n, "group", 1);
    return w->dtype == DT_F32 && w->bytes > 0 && w->rank >= (transposed ? 3 : 5) && groups >= 1 && groups <= w->dims[0] && w->dims[0] % groups == 0;
}

static enum status pack_columns(struct graph *g, struct node *n, struct err *err)
{
    const struct operand *w = &g->values[n->in[1]].type;
    const bool transposed = !(n->op->flags & OP_WANTS_LAST);
    const int64_t groups = node_int(n, "group", 1);
    uint64_t bytes = columns_pack_bytes(&g->device.kernels, transposed, w->dims, w->rank, groups);
    enum status st = charge(g, bytes, err);
    if (st) return st;
    void *owned;
    const float *x = borrow_dense(g, n->in[1], &owned);
    n->packed = mem_alloc_aligned(bytes ? bytes : 1, 4096);
    if (x && n->packed) {
        columns_pack(&g->device.kernels, transposed, n->packed, x, w->dims, w->rank, groups);
        n->packed_bytes = bytes;
        g->packed_bytes += bytes;
    } else st = err_set(err, ST_NO_MEMORY, "packing the weight of node '%s'", n->name);
    free(owned);
    return st;
}

/* A convolution over three dimensions whose numbers are usual ones: by slices. */
static bool slices_packable(const struct graph *g, const struct node *n)
{
    const struct operand *w = n->in_count > 1 && value_is_constant(g, n->in[1]) ? &g->values[n->in[1]].type : NULL;
    const int bias = n->in_count > 2 && n->residual != 2 ? n->in[2] : -1;
    int strides, dilations;
    if (!(n->op->flags & OP_WANTS_LAST) || op_is_bytes_layer(n->op) || !w || w->rank != 5 || !columns_packable(g, n) || (bias >= 0 && (!value_is_constant(g, bias) || g->values[bias].type.dtype != DT_F32 || (int64_t)operand_count(&g->values[bias].type) != w->dims[0]))) return false;
    const int64_t *stride = node_ints(n, "strides", &strides), *dilation = node_ints(n, "dilations", &dilations);
    for (int d = 0; d < 3; d++)
        if (w->dims[2 + d] > 64 || (stride && (strides != 3 || stride[d] < 1 || stride[d] > 64)) || (dilation && (dilations != 3 || dilation[d] < 1 || dilation[d] > 64))) return false;
    return true;
}

static enum status pack_slices(struct graph *g, struct node *n, struct err *err)
{
    const struct operand *w = &g->values[n->in[1]].type, *x = probe_known(g, n->in[0]) ? &g->values[n->in[0]].probe[0] : NULL;
    const int bias = n->in_count > 2 && n->residual != 2 ? n->in[2] : -1;
    const int64_t groups = node_int(n, "group", 1);
    int count;
    const int64_t *strides = node_ints(n, "strides", &count), *dilations = node_ints(n, "dilations", &count);
    struct conv_spec spec = { .in_c = w->dims[1] * groups, .out_c = w->dims[0], .groups = groups, .kh = (int)w->dims[3], .kw = (int)w->dims[4], .stride_h = strides ? (int)strides[1] : 1, .stride_w = strides ? (int)strides[2] : 1,
                              .dilation_h = dilations ? (int)dilations[1] : 1, .dilation_w = dilations ? (int)dilations[2] : 1, .bf16 = g->bf16 && !(g->exact_ends && reads_input(g, n)), .loose = g->loose };
    if (x && x->rank == 5) spec.hint_h = x->dims[3], spec.hint_w = x->dims[4], spec.hint_n_max = x->dims[2];
    enum status st = charge(g, w->bytes, err);
    if (st) return st;
    void *own_w, *own_b = NULL;
    const float *weight = scaled_weight(g, n, &own_w), *vector = bias >= 0 ? borrow_dense(g, bias, &own_b) : NULL;
    if (!weight || (bias >= 0 && !vector)) st = err_set(err, ST_NO_MEMORY, "unpacking a weight");
    else st = conv_slices_open(&n->slices, &spec, (int)w->dims[2], weight, vector, n->act, &g->device.kernels, g->device.threads, err);
    free(own_w);
    free(own_b);
    if (!st) g->packed_bytes += conv_slices_bytes(n->slices);
    return st ? err_prefix(err, "node '%s' (Conv)", n->name) : ST_OK;
}

static enum status pack_recurrent(struct graph *g, struct node *n, struct err *err)
{
    const struct operand *w = &g->values[n->in[1]].type, *r = &g->values[n->in[2]].type;
    uint64_t bytes = recurrent_pack_bytes(&g->device.kernels, n, w->dims, r->dims);
    enum status st = charge(g, bytes, err);
    if (st) return st;
    void *own_w, *own_r;
    const float *a = borrow_dense(g, n->in[1], &own_w), *b = borrow_dense(g, n->in[2], &own_r);
    n->packed = mem_alloc_aligned(bytes ? bytes : 1, 4096);
    float *room = mem_alloc_array(recurrent_room(w->dims, r->dims), sizeof *room);
    if (a && b && n->packed && room) {
        recurrent_pack(&g->device.kernels, n, n->packed, room, a, w->dims, b, r->dims);
        n->packed_bytes = bytes;
        g->packed_bytes += bytes;
    } else st = err_set(err, ST_NO_MEMORY, "packing the weights of node '%s'", n->name);
    free(room);
    free(own_w);
    free(own_r);
    return st;
}

/* The same rounded: each part of each direction is a layer. */
static enum status pack_recurrent_rounded(struct graph *g, struct node *n, struct err *err)
{
    const int64_t *w = g->values[n->in[1]].type.dims, *r = g->values[n->in[2]].type.dims, gates = w[1] / r[2], depths[RECURRENT_PARTS] = { w[2], r[2], r[2] };
    void *own_w, *own_r;
    const float *from[RECURRENT_PARTS] = { borrow_dense(g, n->in[1], &own_w), borrow_dense(g, n->in[2], &own_r) };
    from[RECURRENT_LAST] = from[RECURRENT_R];
    uint16_t *rows = mem_alloc_array((uint64_t)w[1], (uint64_t)(w[2] > r[2] ? w[2] : r[2]) * sizeof *rows);
    n->recurrent = arena_calloc(g->arena, (uint64_t)w[0] * RECURRENT_PARTS, sizeof *n->recurrent);
    enum status st = from[RECURRENT_W] && from[RECURRENT_R] && rows && n->recurrent ? ST_OK : err_set(err, ST_NO_MEMORY, "packing the weights of node '%s'", n->name);
    for (int64_t i = 0; i < w[0] * RECURRENT_PARTS && !st; i++) {
        const enum recurrent_part part = (enum recurrent_part)(i % RECURRENT_PARTS);
        const int64_t count = recurrent_rows(n, part, r[2], gates), depth = depths[part];
        if (!count) continue;
        for (int64_t k = 0; k < count; k++) g->device.kernels.round_bf16(rows + k * depth, from[part] + (i / RECURRENT_PARTS * w[1] + recurrent_row(n, part, r[2], gates, k)) * depth, depth, 1);
        st = open_rounded(g, n, rows, count, depth, true, &n->recurrent[i], err);
    }
    free(rows);
    free(own_w);
    free(own_r);
    return st;
}

/* Bytes as they are multiplied: [out, in / groups, kh, kw], or [in, out] beside the stride. Those of a transposed convolution, [in, out, kh, kw], become [kh, kw, out, in]. */
static int8_t *layer_weight(const struct operand *w, const struct node *n, const struct bytes_product *p)
{
    int8_t *copy = mem_alloc_array(w->bytes, 1);
    const uint8_t *from = w->data;
    const int64_t in = w->dims[0], out = w->dims[1], space = w->rank == 4 ? w->dims[2] * w->dims[3] : 1;
    for (uint64_t i = 0; copy && i < w->bytes; i++) {
        const int64_t at = (int64_t)i;
        const uint64_t to = n->op == &op_bytes_transpose ? (uint64_t)((at % space * out + at / space % out) * in + at / (space * out)) : i;
        copy[to] = (int8_t)((w->splat ? *from : from[i]) ^ (p->offset ? 0x80 : 0));
    }
    return copy;
}

static enum status pack_bytes(struct graph *g, struct node *n, struct err *err)
{
    const struct operand *w = &g->values[n->in[1]].type;
    const struct bytes_product *p = n->spec;
    struct bytes_spec spec;
    bytes_product_shape(&spec, n, w, p);
    enum status st = charge(g, w->bytes, err);
    if (st) return st;
    int8_t *weight = layer_weight(w, n, p);
    st = weight ? bytes_layer_open(&n->bytes, &spec, weight, p->columns ? spec.out_c : 0, &g->device.kernels, err) : err_set(err, ST_NO_MEMORY, "unpacking a weight");
    free(weight);
    if (st) return err_prefix(err, "node '%s' (%s)", n->name, n->op->name);
    g->packed_bytes += bytes_layer_bytes(n->bytes);
    return ST_OK;
}

/* Does a node read this input as plain bytes although it was packed? */
static bool reads_packed(const struct graph *g, const struct node *n, int k)
{
    if (n->conv || n->slices) return k == 1 || (k == 2 && n->residual != 2);
    if (n->bytes) return k == 1;
    if (n->recurrent) return k == 1 || k == 2;
    return n->packed ? k == 1 || (k == 2 && recurrent_packable(g, n)) : (n->linear || n->sparse) && k == 1;
}

/* Does a GPU take this node, whose weight then goes there as the file has it? Only where shapes are known when plans are made: the rest runs here. */
static bool goes_to_gpu(const struct graph *g, const struct node *n) { return g->gpu && n->op->tasks && n->in_count && n->in[0] >= 0 && probe_known(g, n->in[0]) && n->out[0] >= 0 && probe_known(g, n->out[0]); }

/* Packed weights have taken the file's place in memory. */
static void let_go(const struct graph *g, const struct node *n)
{
    for (int k = 0; k < n->in_count; k++) {
        if (!value_is_constant(g, n->in[k]) || !reads_packed(g, n, k)) continue;
        const struct operand *o = &g->values[n->in[k]].type;
        bool mapped = g->file && file_map_holds(g->file, o->data);
        for (int f = 0; f < g->external_count; f++) mapped |= file_map_holds(&g->external[f], o->data);
        if (mapped && !o->splat) file_let_go(o->data, o->bytes);
    }
}

enum status pack_weights(struct graph *g, struct err *err)
{
    for (int i = 0; i < g->node_count; i++) {
        struct node *n = &g->nodes[i];
        enum status st = ST_OK;
        if (goes_to_gpu(g, n)) continue;
        if (op_is_bytes_layer(n->op)) st = pack_bytes(g, n, err);
        else if (slices_packable(g, n)) st = pack_slices(g, n, err);
        else if (columns_packable(g, n)) st = pack_columns(g, n, err);
        else if (n->op->flags & OP_WANTS_LAST) st = pack_conv(g, n, err);
        else if (n->op == &op_spread) st = pack_spread(g, n, err);
        else if (n->op == &op_tall_product) st = g->device.kernels.level >= CPU_AMX ? pack_tall_layer(g, n, err) : pack_product(g, n, err);
        else if (gemm_packable(g, n)) st = pack_gemm(g, n, err);
        else if (recurrent_packable(g, n)) st = g->bf16 ? pack_recurrent_rounded(g, n, err) : pack_recurrent(g, n, err);
        if (st) return st;
        let_go(g, n);
    }
    for (int i = 0; i < g->node_count; i++)
        for (int k = 0; k < g->nodes[i].in_count; k++) {
            int v = g->nodes[i].in[k];
            if (!value_is_constant(g, v) || reads_packed(g, &g->nodes[i], k)) continue;
            if (!graph_dense(g, v)) return err_set(err, ST_NO_MEMORY, "constant '%s' passes the model's memory budget of %llu bytes", g->values[v].name, (unsigned long long)g->memory_max);
        }
    for (int k = 0; k < g->output_count; k++)
        if (value_is_constant(g, g->outputs[k]) && !graph_dense(g, g->outputs[k])) return err_set(err, ST_NO_MEMORY, "constant '%s' passes the model's memory budget", g->values[g->outputs[k]].name);
    return ST_OK;
}
