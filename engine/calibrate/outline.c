#include "engine/calibrate/outline.h"

#include <stdio.h>
#include <string.h>

#include "engine/graph/passes.h"

enum { SETTLE_ROUNDS = 64, NAME_TRIES = 1000 };

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "looking at the model passes its memory budget"); }

/* ---- names ---- */
int outline_find(const struct outline *n, const char *name) { return name && name[0] ? names_find(&n->names, name) : -1; }

const struct operand *outline_constant(struct outline *n, const char *name)
{
    struct graph *g = &n->constants.graph;
    int v = name && name[0] ? names_find(&n->values, name) : -1;
    if (v < 0 || g->values[v].kind != VALUE_CONSTANT || !g->values[v].type.data || !graph_dense(g, v)) return NULL;
    return &g->values[v].type;
}

const char *outline_name(struct outline *n, const char *stem, const char *end)
{
    const char *name = arena_format(&n->constants.arena, "%s%s", stem, end);
    for (int i = 1; name && i < NAME_TRIES && (names_find(&n->names, name) >= 0 || names_find(&n->values, name) >= 0); i++) name = arena_format(&n->constants.arena, "%s%s_%d", stem, end, i);
    return name;
}

const struct onnx_attribute *outline_attribute(const struct onnx_node *n, const char *name) { return onnx_find_attribute(n->attributes, n->attribute_count, name); }

int64_t outline_int(const struct onnx_node *n, const char *name, int64_t otherwise)
{
    const struct onnx_attribute *a = outline_attribute(n, name);
    return a && a->type == ONNX_INT ? a->i : otherwise;
}

static bool is(const struct onnx_node *n, const char *type) { return strcmp(n->type, type) == 0 && !n->domain[0]; }

static int add_tensor(struct outline *n, const char *name, int producer)
{
    int at = outline_find(n, name);
    if (!name[0] || at >= 0) return at;
    at = n->tensor_count++;
    n->tensors[at] = (struct outline_tensor){ .name = name, .producer = producer, .reader = -1, .scale_of = at };
    names_put(&n->names, name, at);
    return at;
}

/* What a body reads of the graphs around it is read by name. */
static void count_body(struct outline *n, const struct onnx_graph *g)
{
    for (int i = 0; i < g->node_count; i++) {
        for (int k = 0; k < g->nodes[i].input_count; k++) {
            int t = outline_find(n, g->nodes[i].inputs[k]);
            if (t >= 0) n->tensors[t].readers++;
        }
        for (int k = 0; k < g->nodes[i].attribute_count; k++)
            if (g->nodes[i].attributes[k].g) count_body(n, g->nodes[i].attributes[k].g);
    }
    for (int k = 0; k < g->output_count; k++) {
        int t = outline_find(n, g->outputs[k].name);
        if (t >= 0) n->tensors[t].readers++;
    }
}

static enum status list_tensors(struct outline *n, struct err *err)
{
    const struct onnx_graph *g = n->graph;
    uint64_t room = (uint64_t)g->input_count + (uint64_t)g->initializer_count + 1;
    for (int i = 0; i < g->node_count; i++) room += (uint64_t)g->nodes[i].output_count;
    n->tensors = arena_calloc(&n->constants.arena, room, sizeof *n->tensors);
    if (!n->tensors || !names_begin(&n->names, room)) return no_memory(err);
    for (int i = 0; i < g->initializer_count; i++) add_tensor(n, g->initializers[i].name, -1);
    for (int i = 0; i < g->input_count; i++) add_tensor(n, g->inputs[i].name, -1);
    for (int i = 0; i < g->node_count; i++)
        for (int k = 0; k < g->nodes[i].output_count; k++) add_tensor(n, g->nodes[i].outputs[k], i);
    for (int i = 0; i < g->node_count; i++) {
        for (int k = 0; k < g->nodes[i].input_count; k++) {
            int t = outline_find(n, g->nodes[i].inputs[k]);
            if (t < 0) continue;
            n->tensors[t].readers++;
            n->tensors[t].reader = i;
        }
        for (int k = 0; k < g->nodes[i].attribute_count; k++)
            if (g->nodes[i].attributes[k].g) count_body(n, g->nodes[i].attributes[k].g);
    }
    for (int i = 0; i < g->output_count; i++) {
        int t = outline_find(n, g->outputs[i].name);
        if (t < 0) continue;
        n->tensors[t].readers++;
        n->tensors[t].is_output = true;
    }
    return ST_OK;
}

/* ---- layers ---- */
/* A bias that can be rounded to int32: one number for each channel, added as it is. */
static const struct operand *bias_of(struct outline *n, const struct onnx_node *x, int64_t channels)
{
    const struct operand *b = x->input_count > 2 ? outline_constant(n, x->inputs[2]) : NULL;
    const struct onnx_attribute *alpha = outline_attribute(x, "alpha"), *beta = outline_attribute(x, "beta");
    const bool plain = !is(x, "Gemm") || ((!alpha || alpha->f == 1) && (!beta || beta->f == 1));
    return b && plain && b->dtype == DT_F32 && b->rank == 1 && b->dims[0] == channels ? b : NULL;
}

static bool read_layer(struct outline *n, int i, struct outline_layer *l)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    const bool conv = is(x, "Conv"), gemm = is(x, "Gemm"), matmul = is(x, "MatMul");
    if (!(conv || gemm || matmul) || x->input_count < 2 || x->output_count != 1 || !x->inputs[0][0] || outline_constant(n, x->inputs[0])) return false;
    const struct operand *w = outline_constant(n, x->inputs[1]);
    if (!w || w->dtype != DT_F32 || w->bytes == 0 || (conv ? w->rank < 3 : w->rank != 2)) return false;
    *l = (struct outline_layer){ .node = i, .name = x->name[0] ? x->name : x->outputs[0], .axis = conv ? 0 : gemm && outline_int(x, "transB", 0) ? 0 : 1, .weight = w };
    l->bias = matmul ? NULL : bias_of(n, x, w->dims[l->axis]);
    return true;
}

static enum status list_layers(struct outline *n, struct err *err)
{
    const int count = n->graph->node_count;
    n->layers = arena_calloc(&n->constants.arena, (uint64_t)count + 1, sizeof *n->layers);
    n->layer_of = arena_calloc(&n->constants.arena, (uint64_t)count + 1, sizeof *n->layer_of);
    if (!n->layers || !n->layer_of) return no_memory(err);
    for (int i = 0; i < count; i++) {
        const char *type = n->graph->nodes[i].type;
        n->quantised = n->quantised || strstr(type, "QuantizeLinear") || strstr(type, "DequantizeLinear") || strncmp(type, "QLinear", 7) == 0;
        n->layer_of[i] = -1;
        if (read_layer(n, i, &n->layers[n->layer_count])) n->layer_of[i] = n->layer_count++;
    }
    return ST_OK;
}

enum status outline_open(struct outline *n, const uint8_t *data, uint64_t size, int dirfd, uint64_t memory_max, struct err *err)
{
    struct device device;
    *n = (struct outline){ 0 };
    device_cpu_open(&device, CPU_AMX, 1);
    enum status st = import_open(&n->constants, data, size, dirfd, false, &device, memory_max, err);
    if (st) return st;
    struct graph *g = &n->constants.graph;
    n->model = n->constants.model;
    n->graph = &n->model->graph;
    for (int v = 0; v < g->value_count && !st; v++)      /* folding looks at constants as numbers */
        if (g->values[v].kind == VALUE_CONSTANT && g->values[v].type.bytes <= 1 << 16 && !g->values[v].type.splat && g->values[v].type.data && !graph_dense(g, v)) st = no_memory(err);
    if (!st) st = fold_constants(g, err);
    if (!st && !names_begin(&n->values, (uint64_t)g->value_count)) st = no_memory(err);
    for (int v = 0; v < g->value_count && !st; v++)      /* the first of a name is the main graph's own */
        if (g->values[v].name) names_put(&n->values, g->values[v].name, v);
    if (!st) st = list_tensors(n, err);
    if (!st) st = list_layers(n, err);
    if (st) outline_close(n);
    return st;
}

void outline_close(struct outline *n)
{
    names_end(&n->names);
    names_end(&n->values);
    if (n->constants.arena.limit) import_close(&n->constants);
    *n = (struct outline){ 0 };
}

/* ---- which tensors are rounded ---- */
int outline_activation(const struct outline *n, int i)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    int t = x->output_count == 1 ? outline_find(n, x->outputs[0]) : -1;
    if (t < 0 || n->tensors[t].readers != 1 || n->tensors[t].is_output || n->tensors[t].reader < 0) return -1;
    const int r = n->tensors[t].reader;
    const struct onnx_node *a = &n->graph->nodes[r];
    return (is(a, "Relu") || is(a, "Clip")) && a->output_count == 1 && a->input_count > 0 && strcmp(a->inputs[0], x->outputs[0]) == 0 ? r : -1;
}

/* The tensor that node i makes, behind its activation. */
static int result_of(const struct outline *n, int i)
{
    const int a = outline_activation(n, i);
    return outline_find(n, n->graph->nodes[a < 0 ? i : a].outputs[0]);
}

/* Only moves numbers, or chooses among them: its result has its input's scale. */
static bool moves(const struct onnx_node *n)
{
    static const char *const types[] = { "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "DepthToSpace", "SpaceToDepth" };
    if (n->output_count != 1 || n->input_count < 1 || n->domain[0]) return false;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(n->type, types[i]) == 0) return true;
    if (strcmp(n->type, "Resize")) return false;
    const struct onnx_attribute *mode = outline_attribute(n, "mode");
    return !mode || (mode->type == ONNX_STRING && mode->s.length == 7 && memcmp(mode->s.text, "nearest", 7) == 0);
}

/* Computes in whole numbers from rounded inputs. How many of its inputs are tensors; 0: it does not. */
static int joins(const struct onnx_node *n)
{
    if (n->output_count != 1 || n->input_count < 1) return 0;
    if (is(n, "Add") && n->input_count == 2) return 2;
    if (is(n, "Concat")) return n->input_count;
    return is(n, "AveragePool") || is(n, "GlobalAveragePool");
}

/* Inputs of node i that would be rounded for it; 0: it is no such node, or an input is constant. */
static int rounded_inputs(const struct outline *n, int i)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    const int count = moves(x) ? 1 : joins(x);
    for (int k = 0; k < count; k++) {
        const int v = x->inputs[k][0] ? names_find(&n->values, x->inputs[k]) : -1;
        if (v < 0 || n->constants.graph.values[v].kind == VALUE_CONSTANT || outline_find(n, x->inputs[k]) < 0) return 0;
    }
    return count;
}

/* Is the tensor made by what may run in whole numbers? Depth bounds the walk; beyond it the answer is no. */
static bool is_able(const struct outline *n, int t, const bool *rounded, int depth)
{
    if (n->tensors[t].rounded) return true;
    int i = n->tensors[t].producer;
    if (i < 0 || depth == 0) return false;
    const struct onnx_node *x = &n->graph->nodes[i];
    if (is(x, "Relu") || is(x, "Clip")) {
        int from = outline_find(n, x->inputs[0]);
        if (from < 0 || n->tensors[from].producer < 0 || outline_activation(n, n->tensors[from].producer) != i) return false;
        i = n->tensors[from].producer;
    }
    if (n->layer_of[i] >= 0) return rounded[n->layer_of[i]];
    const int count = rounded_inputs(n, i);
    for (int k = 0; k < count; k++)
        if (!is_able(n, outline_find(n, n->graph->nodes[i].inputs[k]), rounded, depth - 1)) return false;
    return count > 0;
}

/* One round from the end to the beginning; true: something was added. */
static bool spread_back(struct outline *n, const bool *rounded)
{
    bool more = false;
    for (int i = n->graph->node_count - 1; i >= 0; i--) {
        const int count = rounded_inputs(n, i), to = count ? result_of(n, i) : -1;
        bool able = to >= 0 && n->tensors[to].rounded && n->layer_of[i] < 0;
        for (int k = 0; k < count && able; k++) able = is_able(n, outline_find(n, n->graph->nodes[i].inputs[k]), rounded, 8);
        for (int k = 0; k < count && able; k++) {
            struct outline_tensor *t = &n->tensors[outline_find(n, n->graph->nodes[i].inputs[k])];
            more = more || !t->rounded;
            t->rounded = true;
        }
    }
    return more;
}

void outline_place(struct outline *n, const bool *rounded)
{
    for (int t = 0; t < n->tensor_count; t++) {
        n->tensors[t].rounded = false;
        n->tensors[t].scale_of = t;
    }
    for (int l = 0; l < n->layer_count; l++) {
        if (!rounded[l]) continue;
        const struct onnx_node *x = &n->graph->nodes[n->layers[l].node];
        const int out = result_of(n, n->layers[l].node);
        n->tensors[outline_find(n, x->inputs[0])].rounded = true;
        if (is(x, "Conv") && out >= 0 && !n->tensors[out].is_output) n->tensors[out].rounded = true;
    }
    for (int i = 0; i < SETTLE_ROUNDS && spread_back(n, rounded); i++) {}
    for (int i = 0; i < n->graph->node_count; i++) {
        const struct onnx_node *x = &n->graph->nodes[i];
        if (!moves(x)) continue;
        const int from = outline_find(n, x->inputs[0]), to = outline_find(n, x->outputs[0]);
        if (from >= 0 && to >= 0 && n->tensors[from].rounded && n->tensors[to].rounded) n->tensors[to].scale_of = n->tensors[from].scale_of;
    }
}

bool outline_is_integer(const struct outline *n, int i, const bool *rounded)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    if (is(x, "Relu") || is(x, "Clip")) {
        const int from = outline_find(n, x->inputs[0]);
        if (from < 0 || n->tensors[from].producer < 0 || outline_activation(n, n->tensors[from].producer) != i) return false;
        i = n->tensors[from].producer;
    }
    if (n->layer_of[i] >= 0) return rounded[n->layer_of[i]];
    const int count = rounded_inputs(n, i);
    for (int k = 0; k < count; k++)
        if (!n->tensors[outline_find(n, n->graph->nodes[i].inputs[k])].rounded) return false;
    return count > 0;
}
