#include "engine/calibrate/qdq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/formats/onnx_edit.h"

enum { WEIGHT_MAX = 127, STEPS = 255, OPSET_BY_AXIS = 13 };

struct scale { float scale; int zero; };

struct writer {
    struct outline   *n;
    struct onnx_edit  edit;
    const struct range *ranges;
    const bool       *rounded;
    bool              is_signed;
    const char      **restored;       /* [tensor]: what DequantizeLinear makes of it; NULL */
    const char      **scales, **zeros;/* [tensor]: names of the initializers, of roots */
    int              *reads;          /* [tensor]: readers that are left */
    bool             *dropped;        /* [initializer] */
};

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "writing the model passes its memory budget"); }

static struct scale scale_of(const struct writer *w, int tensor)
{
    const struct range r = w->ranges[w->n->tensors[tensor].scale_of];
    float scale = (r.high - r.low) / STEPS;
    if (w->is_signed) scale = 2 * fmaxf(-r.low, r.high) / (STEPS - 1);
    if (!(scale >= 1e-30f)) scale = 1;
    if (w->is_signed) return (struct scale){ scale, 0 };
    const float zero = nearbyintf(-r.low / scale);
    return (struct scale){ scale, zero < 0 ? 0 : zero > STEPS ? STEPS : (int)zero };
}

/* ---- activations ---- */
static enum status round_tensor(struct writer *w, int t, struct err *err)
{
    struct outline *n = w->n;
    const struct outline_tensor *x = &n->tensors[t];
    const int root = x->scale_of;
    struct buf *to = x->producer < 0 ? &w->edit.first : &w->edit.nodes[x->producer].after;
    if (!w->scales[root]) {
        const struct scale s = scale_of(w, root);
        const int8_t zero = (int8_t)(uint8_t)s.zero;
        w->scales[root] = outline_name(n, n->tensors[root].name, "_scale");
        w->zeros[root] = outline_name(n, n->tensors[root].name, "_zero_point");
        if (!w->scales[root] || !w->zeros[root]) return no_memory(err);
        onnx_put_tensor(&w->edit.initializers, w->scales[root], DT_F32, NULL, 0, &s.scale, 4);
        onnx_put_tensor(&w->edit.initializers, w->zeros[root], w->is_signed ? DT_I8 : DT_U8, NULL, 0, &zero, 1);
    }
    const char *rounded = outline_name(n, x->name, "_QuantizeLinear_Output"), *q = outline_name(n, x->name, "_QuantizeLinear"), *d = outline_name(n, x->name, "_DequantizeLinear");
    w->restored[t] = outline_name(n, x->name, "_DequantizeLinear_Output");
    if (!rounded || !q || !d || !w->restored[t]) return no_memory(err);
    onnx_put_node(to, q, "QuantizeLinear", (const char *[]){ x->name, w->scales[root], w->zeros[root] }, 3, rounded, -1);
    onnx_put_node(to, d, "DequantizeLinear", (const char *[]){ rounded, w->scales[root], w->zeros[root] }, 3, w->restored[t], -1);
    return ST_OK;
}

/* Who reads a rounded tensor reads the restored one; only what computes in float reads the original where that was made in float. */
static enum status redirect(struct writer *w, int i, struct err *err)
{
    const struct onnx_node *x = &w->n->graph->nodes[i];
    const bool integer = outline_is_integer(w->n, i, w->rounded);
    for (int k = 0; k < x->input_count; k++) {
        const int t = outline_find(w->n, x->inputs[k]);
        if (t < 0 || !w->restored[t]) continue;
        const int from = w->n->tensors[t].producer;
        if (!integer && (from < 0 || !outline_is_integer(w->n, from, w->rounded))) continue;
        const char **in = onnx_edit_inputs(&w->edit, i, k + 1);
        if (!in) return no_memory(err);
        in[k] = w->restored[t];
    }
    return ST_OK;
}

/* ---- weights ---- */
/* [channels] scales, no smaller than what lets the bias be an int32. */
static void weight_scales(float *scale, const struct outline_layer *l, float input_scale)
{
    const struct operand *w = l->weight;
    const int64_t channels = w->dims[l->axis], step = l->axis ? 1 : (int64_t)(w->bytes / 4) / channels, count = (int64_t)(w->bytes / 4);
    const float *x = w->data, *bias = l->bias ? l->bias->data : NULL;
    for (int64_t c = 0; c < channels; c++) scale[c] = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t c = l->axis ? i % channels : i / step;
        const float a = fabsf(x[i]);
        if (a > scale[c] && isfinite(a)) scale[c] = a;
    }
    for (int64_t c = 0; c < channels; c++) {
        scale[c] /= WEIGHT_MAX;
        const float least = bias ? fabsf(bias[c]) / (input_scale * 2e9f) : 0;
        if (scale[c] < least) scale[c] = least;
        if (!(scale[c] >= 1e-30f)) scale[c] = 1;
    }
}

static int8_t round_weight(float x, float scale)
{
    const float v = nearbyintf(x / scale);
    return (int8_t)(v != v ? 0 : v > WEIGHT_MAX ? WEIGHT_MAX : v < -WEIGHT_MAX ? -WEIGHT_MAX : v);
}

/* An initializer of rounded numbers with its scales (and zero points, unless there are none) and the node that restores it; the name of that. */
static const char *put_rounded(struct writer *w, int node, const char *stem, enum dtype t, const struct operand *like, const void *data, const float *scale, int64_t channels, int axis)
{
    struct outline *n = w->n;
    const char *rounded = outline_name(n, stem, "_quantized"), *scales = outline_name(n, stem, "_scale"), *zeros = outline_name(n, stem, "_zero_point"), *out = outline_name(n, stem, "_DequantizeLinear_Output"), *name = outline_name(n, stem, "_DequantizeLinear");
    const int size = t == DT_I8 ? 1 : 4;
    void *none = mem_calloc_array((uint64_t)channels, 1);
    if (!rounded || !scales || !zeros || !out || !name || !none) {
        free(none);
        return NULL;
    }
    onnx_put_tensor(&w->edit.initializers, rounded, t, like->dims, like->rank, data, like->bytes / 4 * (uint64_t)size);
    onnx_put_tensor(&w->edit.initializers, scales, DT_F32, &channels, 1, scale, (uint64_t)channels * 4);
    if (t == DT_I8) onnx_put_tensor(&w->edit.initializers, zeros, DT_I8, &channels, 1, none, (uint64_t)channels);
    onnx_put_node(&w->edit.nodes[node].before, name, "DequantizeLinear", (const char *[]){ rounded, scales, zeros }, t == DT_I8 ? 3 : 2, out, axis);
    free(none);
    return out;
}

static enum status round_layer(struct writer *w, const struct outline_layer *l, struct err *err)
{
    struct outline *n = w->n;
    const struct onnx_node *x = &n->graph->nodes[l->node];
    const int64_t channels = l->weight->dims[l->axis], count = (int64_t)(l->weight->bytes / 4), step = l->axis ? 1 : count / channels;
    const int weight = outline_find(n, x->inputs[1]);
    const float input = scale_of(w, outline_find(n, x->inputs[0])).scale, *from = l->weight->data, *bias = l->bias ? l->bias->data : NULL;
    const char *own = weight >= 0 && n->tensors[weight].readers == 1 ? x->inputs[1] : arena_format(w->edit.arena, "%s_weight", x->outputs[0]), *bias_stem = arena_format(w->edit.arena, "%s_bias", x->outputs[0]);
    const char **in = onnx_edit_inputs(&w->edit, l->node, bias ? 3 : 2);
    float *scale = mem_alloc_array((uint64_t)channels, sizeof *scale);
    int8_t *rounded = mem_alloc_array((uint64_t)count, 1);
    int32_t *sums = mem_alloc_array((uint64_t)channels, sizeof *sums);
    enum status st = own && bias_stem && in && scale && rounded && sums ? ST_OK : no_memory(err);
    if (!st) {
        weight_scales(scale, l, input);
        for (int64_t i = 0; i < count; i++) rounded[i] = round_weight(from[i], scale[l->axis ? i % channels : i / step]);
        in[1] = put_rounded(w, l->node, own, DT_I8, l->weight, rounded, scale, channels, l->axis);
        if (!in[1]) st = no_memory(err);
    }
    if (!st && bias) {
        for (int64_t c = 0; c < channels; c++) {
            scale[c] *= input;
            sums[c] = (int32_t)nearbyintf(fmaxf(-2.1e9f, fminf(2.1e9f, bias[c] / scale[c])));
        }
        in[2] = put_rounded(w, l->node, bias_stem, DT_I32, l->bias, sums, scale, channels, 0);
        if (!in[2]) st = no_memory(err);
    }
    for (int k = 1; k < (bias ? 3 : 2); k++) {
        const int t = outline_find(n, x->inputs[k]);
        if (t >= 0) w->reads[t]--;
    }
    free(scale);
    free(rounded);
    free(sums);
    return st;
}

/* What nobody reads any more, and read somebody did, is left out: initializers, and nodes that only led to weights. */
static void drop_unread(struct writer *w)
{
    struct outline *n = w->n;
    for (int i = n->graph->node_count - 1; i >= 0; i--) {
        const struct onnx_node *x = &n->graph->nodes[i];
        bool unread = x->output_count > 0, was = false;
        for (int k = 0; k < x->output_count; k++) {
            const int t = outline_find(n, x->outputs[k]);
            unread = unread && (t < 0 || (w->reads[t] <= 0 && !n->tensors[t].is_output));
            was = was || (t >= 0 && n->tensors[t].readers > 0);
        }
        if (!unread || !was) continue;
        w->edit.nodes[i].dropped = true;
        for (int k = 0; k < x->input_count; k++) {
            const int t = outline_find(n, x->inputs[k]);
            if (t >= 0) w->reads[t]--;
        }
    }
    for (int i = 0; i < n->graph->initializer_count; i++) {
        const int t = outline_find(n, n->graph->initializers[i].name);
        w->dropped[i] = t >= 0 && n->tensors[t].readers > 0 && w->reads[t] <= 0;
    }
}

static enum status begin(struct writer *w, const uint8_t *data, uint64_t size, struct err *err)
{
    struct outline *n = w->n;
    struct arena *a = &n->constants.arena;
    enum status st = onnx_edit_begin(&w->edit, a, data, size, n->model, err);
    if (st) return st;
    const uint64_t count = (uint64_t)n->tensor_count + 1;
    w->restored = arena_calloc(a, count, sizeof *w->restored);
    w->scales = arena_calloc(a, count, sizeof *w->scales);
    w->zeros = arena_calloc(a, count, sizeof *w->zeros);
    w->reads = arena_calloc(a, count, sizeof *w->reads);
    w->dropped = arena_calloc(a, (uint64_t)n->graph->initializer_count + 1, sizeof *w->dropped);
    if (!w->restored || !w->scales || !w->zeros || !w->reads || !w->dropped) return no_memory(err);
    for (int t = 0; t < n->tensor_count; t++) w->reads[t] = n->tensors[t].readers;
    w->edit.opset = OPSET_BY_AXIS;
    w->edit.dropped = w->dropped;
    return ST_OK;
}

enum status qdq_write(struct buf *out, struct outline *n, const uint8_t *data, uint64_t size, const struct range *ranges, const bool *rounded, const struct qdq_options *options, struct err *err)
{
    struct writer w = { .n = n, .ranges = ranges, .rounded = rounded, .is_signed = options->signed_activations };
    outline_place(n, rounded);
    enum status st = begin(&w, data, size, err);
    for (int t = 0; t < n->tensor_count && !st; t++)
        if (n->tensors[t].rounded) st = round_tensor(&w, t, err);
    for (int i = 0; i < n->graph->node_count && !st; i++) st = redirect(&w, i, err);
    for (int l = 0; l < n->layer_count && !st; l++)
        if (rounded[l]) st = round_layer(&w, &n->layers[l], err);
    if (!st) {
        drop_unread(&w);
        st = onnx_edit_write(out, &w.edit, n->constants.dirfd, err);
    }
    onnx_edit_end(&w.edit);
    return st;
}
