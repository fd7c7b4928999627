#include "engine/calibrate/prepare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/formats/onnx_edit.h"

enum { OPSET_BY_AXIS = 13 };

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "folding normalisations passes the model's memory budget"); }

/* The normalisation that alone reads what convolution i makes, with all its numbers known; -1: none. p: scale, bias, mean, variance. */
static int find_norm(struct outline *n, int i, const float *p[4])
{
    const struct onnx_node *x = &n->graph->nodes[i];
    const int t = outline_find(n, x->outputs[0]), layer = n->layer_of[i];
    if (layer < 0 || strcmp(x->type, "Conv") || t < 0 || n->tensors[t].readers != 1 || n->tensors[t].is_output || n->tensors[t].reader < 0) return -1;
    if (x->input_count > 2 && x->inputs[2][0] && !n->layers[layer].bias) return -1;
    const int r = n->tensors[t].reader;
    const struct onnx_node *b = &n->graph->nodes[r];
    if (strcmp(b->type, "BatchNormalization") || b->domain[0] || b->input_count != 5 || outline_int(b, "training_mode", 0) || outline_int(b, "spatial", 1) != 1) return -1;
    for (int k = 1; k < b->output_count; k++)
        if (outline_find(n, b->outputs[k]) >= 0 && n->tensors[outline_find(n, b->outputs[k])].readers) return -1;
    for (int k = 0; k < 4; k++) {
        const struct operand *o = outline_constant(n, b->inputs[k + 1]);
        if (!o || o->dtype != DT_F32 || operand_count(o) != (uint64_t)n->layers[layer].weight->dims[0]) return -1;
        p[k] = o->data;
    }
    return strcmp(b->inputs[0], x->outputs[0]) ? -1 : r;
}

/* Convolution i with the normalisation r multiplied in: its own weight and bias, and r's result. */
static enum status fold_norm(struct onnx_edit *e, struct outline *n, int i, int r, const float *const p[4], struct err *err)
{
    const struct onnx_node *b = &n->graph->nodes[r];
    const struct outline_layer *l = &n->layers[n->layer_of[i]];
    const struct onnx_attribute *epsilon = outline_attribute(b, "epsilon");
    const int64_t channels = l->weight->dims[0], each = (int64_t)(l->weight->bytes / 4) / channels;
    const float *from = l->weight->data, *bias = l->bias ? l->bias->data : NULL;
    const char *weight_name = outline_name(n, b->outputs[0], "_folded_weight"), *bias_name = outline_name(n, b->outputs[0], "_folded_bias"), **in = onnx_edit_inputs(e, i, 3);
    float *w = mem_alloc_array((uint64_t)channels * (uint64_t)each, sizeof *w), *v = mem_alloc_array((uint64_t)channels, sizeof *v);
    enum status st = weight_name && bias_name && in && w && v ? ST_OK : no_memory(err);
    for (int64_t c = 0; c < channels && !st; c++) {
        const double s = (double)p[0][c] / sqrt((double)p[3][c] + (epsilon ? (double)epsilon->f : 1e-5));
        for (int64_t k = 0; k < each; k++) w[c * each + k] = (float)((double)from[c * each + k] * s);
        v[c] = (float)((double)p[1][c] + ((bias ? (double)bias[c] : 0) - (double)p[2][c]) * s);
    }
    if (!st) {
        onnx_put_tensor(&e->initializers, weight_name, DT_F32, l->weight->dims, l->weight->rank, w, l->weight->bytes);
        onnx_put_tensor(&e->initializers, bias_name, DT_F32, &channels, 1, v, (uint64_t)channels * 4);
        in[1] = weight_name;
        in[2] = bias_name;
        e->nodes[i].output = b->outputs[0];
        e->nodes[r].dropped = true;
    }
    free(w);
    free(v);
    return st;
}

enum status prepare_model(struct buf *out, struct outline *n, const uint8_t *data, uint64_t size, int *folded, struct err *err)
{
    struct onnx_edit e;
    struct arena *a = &n->constants.arena;
    const struct onnx_graph *g = n->graph;
    *folded = 0;
    enum status st = onnx_edit_begin(&e, a, data, size, n->model, err);
    const char **gone = arena_calloc(a, (uint64_t)g->node_count + 1, sizeof *gone);
    int *reads = arena_calloc(a, (uint64_t)n->tensor_count + 1, sizeof *reads);
    bool *dropped = arena_calloc(a, (uint64_t)g->initializer_count + 1, sizeof *dropped);
    if (!st && (!gone || !reads || !dropped)) st = no_memory(err);
    for (int t = 0; t < n->tensor_count && !st; t++) reads[t] = n->tensors[t].readers;
    for (int i = 0; i < g->node_count && !st; i++) {
        const float *p[4];
        const int r = find_norm(n, i, p);
        if (r < 0) continue;
        st = fold_norm(&e, n, i, r, p, err);
        gone[(*folded)++] = g->nodes[i].outputs[0];
        for (int k = 1; k < g->nodes[i].input_count; k++)
            if (outline_find(n, g->nodes[i].inputs[k]) >= 0) reads[outline_find(n, g->nodes[i].inputs[k])]--;
        for (int k = 1; k < 5; k++)
            if (outline_find(n, g->nodes[r].inputs[k]) >= 0) reads[outline_find(n, g->nodes[r].inputs[k])]--;
    }
    for (int i = 0; i < g->initializer_count && !st; i++) {
        const int t = outline_find(n, g->initializers[i].name);
        dropped[i] = t >= 0 && n->tensors[t].readers > 0 && reads[t] <= 0;
    }
    if (!st && n->constants.opset < OPSET_BY_AXIS) st = prepare_opset(&e, n, err);
    if (!st) {
        e.dropped = dropped;
        e.values = gone;
        e.value_count = *folded;
        e.opset = OPSET_BY_AXIS;
        st = onnx_edit_write(out, &e, n->constants.dirfd, err);
    }
    onnx_edit_end(&e);
    return st;
}
