/* From the file's structs to the graph: names become value numbers, nodes find their row in the operator table, Constant nodes and initializers
 * become constants. Refusals name the node, its operator and the opset. */
#include "engine/onnx/import.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

struct names { const char **name; int *value; uint32_t mask; };

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "the model's graph passes its memory budget"); }

static uint32_t hash_text(const char *s)
{
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h ^ h >> 15;
}

static bool names_begin(struct names *n, uint64_t count)
{
    uint64_t room = 64;
    while (room < count * 2) room *= 2;
    n->mask = (uint32_t)(room - 1);
    n->name = mem_calloc_array(room, sizeof *n->name);
    n->value = mem_calloc_array(room, sizeof *n->value);
    return n->name && n->value;
}

static void names_end(struct names *n)
{
    free(n->name);
    free(n->value);
}

/* The slot of a name: empty (name NULL) when it is new. */
static uint32_t names_slot(const struct names *n, const char *name)
{
    uint32_t i = hash_text(name) & n->mask;
    while (n->name[i] && strcmp(n->name[i], name)) i = (i + 1) & n->mask;
    return i;
}

static int names_find(const struct names *n, const char *name)
{
    uint32_t i = names_slot(n, name);
    return n->name[i] ? n->value[i] : -1;
}

static bool names_put(struct names *n, const char *name, int value)
{
    uint32_t i = names_slot(n, name);
    if (n->name[i]) return false;
    n->name[i] = name;
    n->value[i] = value;
    return true;
}

static enum status find_opset(struct import *m, struct err *err)
{
    m->opset = 0;
    for (int i = 0; i < m->model->opset_count; i++)
        if (m->model->opsets[i].domain[0] == 0) {
            int64_t v = m->model->opsets[i].version;
            if (v < 1 || v > GRAPH_OPSET_MAX) return err_set(err, ST_UNSUPPORTED, "the model needs opset %lld; 1 to %d are known", (long long)v, GRAPH_OPSET_MAX);
            m->opset = (int)v;
        }
    if (m->opset == 0 && m->model->opset_count == 0 && m->model->ir_version < 3) m->opset = 1;
    if (m->opset == 0) return err_set(err, ST_BAD_INPUT, "the model does not say which ONNX opset it needs");
    return ST_OK;
}

static enum status settle_tensor(struct import *m, struct onnx_tensor *t, int dirfd, struct err *err)
{
    if (!t->location || t->tensor.data) return ST_OK;
    if (dirfd < 0) return err_set(err, ST_UNSUPPORTED, "tensor '%s' keeps its data in another file, which is not taken here", t->name);
    if (t->tensor.dtype == DT_STRING) return err_set(err, ST_BAD_INPUT, "tensor '%s' holds strings, which cannot be external", t->name);
    struct file_map *maps = mem_realloc_array(m->maps, (uint64_t)m->map_count + 1, sizeof *maps);
    if (!maps) return no_memory(err);
    m->maps = maps;
    maps[m->map_count] = (struct file_map){ 0 };
    enum status st = onnx_open_external(t, &maps[m->map_count], dirfd, err);
    if (!st) m->map_count++;
    return st;
}

static enum status add_constant(struct import *m, struct names *names, const char *name, struct onnx_tensor *t, int dirfd, bool look_only, struct err *err)
{
    enum status st = look_only && t->location ? ST_OK : settle_tensor(m, t, dirfd, err);
    if (st) return st;
    int id = graph_add_constant(&m->graph, name, t->tensor.dtype, t->tensor.dims, t->tensor.rank, t->tensor.data);
    if (id < 0) return no_memory(err);
    if (!names_put(names, name, id)) return err_set(err, ST_BAD_INPUT, "two things in the graph are named '%s'", name);
    return ST_OK;
}

/* The value of a Constant node, in whichever of its attributes. */
static enum status constant_tensor(struct import *m, const struct onnx_node *n, struct onnx_tensor **out, struct err *err)
{
    static const char *const names[] = { "value_float", "value_int", "value_floats", "value_ints", "value_string", "value_strings" };
    for (int i = 0; i < n->attribute_count; i++) {
        struct onnx_attribute *a = &n->attributes[i];
        if (strcmp(a->name, "value") == 0 && a->type == ONNX_TENSOR) { *out = a->t; return ST_OK; }
        for (int k = 0; k < 6; k++) {
            if (strcmp(a->name, names[k])) continue;
            struct onnx_tensor *t = arena_calloc(&m->arena, 1, sizeof *t);
            if (!t) return no_memory(err);
            struct tensor *x = &t->tensor;
            t->name = n->outputs[0];
            x->dtype = k == 0 || k == 2 ? DT_F32 : k == 1 || k == 3 ? DT_I64 : DT_STRING;
            x->data = k == 0 ? (void *)&a->f : k == 1 ? (void *)&a->i : k == 2 ? (void *)(uintptr_t)a->floats : k == 3 ? (void *)(uintptr_t)a->ints : k == 4 ? (void *)&a->s : (void *)(uintptr_t)a->strings;
            if (k == 2 || k == 3 || k == 5) {
                x->rank = 1;
                x->dims[0] = a->count;
            }
            *out = t;
            return ST_OK;
        }
    }
    return err_set(err, ST_UNSUPPORTED, "node '%s' (Constant): it holds neither a dense tensor nor numbers", n->outputs[0]);
}

static enum status add_inputs(struct import *m, struct names *names, struct err *err)
{
    struct onnx_graph *f = &m->model->graph;
    struct graph *g = &m->graph;
    g->inputs = arena_calloc(&m->arena, (uint64_t)f->input_count + 1, sizeof *g->inputs);
    if (!g->inputs) return no_memory(err);
    for (int i = 0; i < f->input_count; i++) {
        struct onnx_port *p = &f->inputs[i];
        if (names_find(names, p->name) >= 0) continue;       /* an initializer's own declaration */
        if (!p->is_tensor || p->dtype == DT_NONE) return err_set(err, ST_UNSUPPORTED, "input '%s' is not a tensor", p->name);
        if (p->name[0] == 0) return err_set(err, ST_BAD_INPUT, "an input has no name");
        if (g->input_count == GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "the model has more than %d inputs", GRAPH_INPUTS_MAX);
        int id = graph_add_value(g, p->name, VALUE_INPUT);
        if (id < 0) return no_memory(err);
        struct value *v = &g->values[id];
        v->type.dtype = p->dtype;
        v->type.rank = p->rank;
        memcpy(v->type.dims, p->dims, sizeof p->dims);
        memcpy(v->symbols, p->symbols, sizeof p->symbols);
        g->inputs[g->input_count++] = id;
        names_put(names, p->name, id);
    }
    return ST_OK;
}

static enum status check_row(const struct onnx_node *n, const char *name, int opset, const struct op **out, int *ins, struct err *err)
{
    bool known;
    const struct op *op = op_find(n->domain, n->type, opset, &known);
    if (n->domain[0]) return err_set(err, ST_UNSUPPORTED, "node '%s' needs operator %s of domain '%s', which inferd does not have", name, n->type, n->domain);
    if (!op) return err_set(err, ST_UNSUPPORTED, "node '%s' needs operator %s of opset %d, which inferd does not have%s", name, n->type, opset, known ? " at that opset" : "");
    *ins = n->input_count;
    while (*ins > op->in_min && n->inputs[*ins - 1][0] == 0) --*ins;
    if (*ins < op->in_min || *ins > op->in_max || n->output_count < op->out_min || n->output_count > op->out_max)
        return err_set(err, ST_BAD_INPUT, "node '%s' (%s, opset %d) has %d inputs and %d outputs; %d to %d and %d to %d are right", name, n->type, opset, *ins, n->output_count, op->in_min, op->in_max, op->out_min, op->out_max);
    for (int i = 0; i < op->in_min; i++)
        if (n->inputs[i][0] == 0) return err_set(err, ST_BAD_INPUT, "node '%s' (%s, opset %d): input %d is missing", name, n->type, opset, i);
    *out = op;
    return ST_OK;
}

static const char *node_name(const struct onnx_node *n) { return n->name[0] ? n->name : n->output_count ? n->outputs[0] : n->type; }

/* First all results get their numbers, so that the order of nodes in the file does not matter; then inputs are looked up. */
static enum status add_nodes(struct import *m, struct names *names, int dirfd, bool look_only, struct err *err)
{
    struct onnx_graph *f = &m->model->graph;
    struct graph *g = &m->graph;
    for (int i = 0; i < f->node_count; i++) {
        const struct onnx_node *n = &f->nodes[i];
        const struct op *op = NULL;
        struct onnx_tensor *t = NULL;
        int ins = 0;
        if (strcmp(n->type, "Constant") == 0 && !n->domain[0]) {
            if (n->output_count != 1 || n->input_count) return err_set(err, ST_BAD_INPUT, "node '%s' (Constant) must have one output and no inputs", node_name(n));
            enum status st = constant_tensor(m, n, &t, err);
            if (!st) st = add_constant(m, names, n->outputs[0], t, dirfd, look_only, err);
            if (st) return st;
            continue;
        }
        enum status st = check_row(n, node_name(n), m->opset, &op, &ins, err);
        if (st) return st;
        struct node *x = graph_add_node(g, ins, n->output_count);
        if (!x) return no_memory(err);
        x->op = op;
        x->name = node_name(n);
        x->opset = m->opset;
        x->attributes = n->attributes;
        x->attribute_count = n->attribute_count;
        int *out = x->out;
        for (int k = 0; k < n->output_count; k++) {
            if (n->outputs[k][0] == 0) continue;
            out[k] = graph_add_value(g, n->outputs[k], VALUE_NODE);
            if (out[k] < 0) return no_memory(err);
            if (!names_put(names, n->outputs[k], out[k])) return err_set(err, ST_BAD_INPUT, "two things in the graph are named '%s'", n->outputs[k]);
        }
    }
    for (int i = 0, at = 0; i < f->node_count; i++) {
        const struct onnx_node *n = &f->nodes[i];
        if (strcmp(n->type, "Constant") == 0) continue;
        struct node *x = &g->nodes[at++];
        for (int k = 0; k < x->in_count; k++) {
            if (n->inputs[k][0] == 0) continue;
            x->in[k] = names_find(names, n->inputs[k]);
            if (x->in[k] < 0) return err_set(err, ST_BAD_INPUT, "node '%s' (%s) reads '%s', which nothing in the graph makes", x->name, n->type, n->inputs[k]);
        }
    }
    return ST_OK;
}

static enum status add_outputs(struct import *m, const struct names *names, struct err *err)
{
    struct onnx_graph *f = &m->model->graph;
    struct graph *g = &m->graph;
    if (f->output_count == 0) return err_set(err, ST_BAD_INPUT, "the graph has no outputs");
    if (f->output_count > GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "the model has more than %d outputs", GRAPH_INPUTS_MAX);
    g->outputs = arena_calloc(&m->arena, (uint64_t)f->output_count, sizeof *g->outputs);
    if (!g->outputs) return no_memory(err);
    for (int i = 0; i < f->output_count; i++) {
        struct onnx_port *p = &f->outputs[i];
        int id = names_find(names, p->name);
        if (id < 0) return err_set(err, ST_BAD_INPUT, "output '%s' is made by no node", p->name);
        for (int k = 0; k < i; k++)
            if (g->outputs[k] == id) return err_set(err, ST_BAD_INPUT, "output '%s' is listed twice", p->name);
        struct value *v = &g->values[id];
        v->is_output = true;
        v->declared = p->is_tensor && p->dtype != DT_NONE;
        v->said = (struct operand){ .dtype = p->dtype, .rank = p->rank };
        memcpy(v->said.dims, p->dims, sizeof p->dims);
        g->outputs[g->output_count++] = id;
    }
    return ST_OK;
}

enum status import_open(struct import *m, const uint8_t *data, uint64_t size, int dirfd, bool look_only, const struct device *device, uint64_t memory_max, struct err *err)
{
    struct names names = { 0 };
    *m = (struct import){ 0 };
    arena_init(&m->arena, memory_max);
    m->graph.arena = &m->arena;
    m->graph.memory_max = memory_max;
    m->graph.max_rows = 1;
    if (device) m->graph.device = *device;
    enum status st = onnx_parse(&m->model, &m->arena, data, size, err);
    if (!st && m->model->function_count) st = err_set(err, ST_UNSUPPORTED, "the model defines %d functions of its own, which are not taken: export it with functions inlined", m->model->function_count);
    if (!st) st = find_opset(m, err);
    if (!st) {
        const struct onnx_graph *f = &m->model->graph;
        uint64_t count = (uint64_t)f->initializer_count + (uint64_t)f->input_count;
        for (int i = 0; i < f->node_count; i++) count += (uint64_t)f->nodes[i].output_count;
        st = names_begin(&names, count) ? ST_OK : no_memory(err);
    }
    for (int i = 0; !st && i < m->model->graph.initializer_count; i++) {
        struct onnx_tensor *t = &m->model->graph.initializers[i];
        st = add_constant(m, &names, t->name, t, dirfd, look_only, err);
    }
    if (!st) st = add_inputs(m, &names, err);
    if (!st) st = add_nodes(m, &names, dirfd, look_only, err);
    if (!st) st = add_outputs(m, &names, err);
    if (!st) st = graph_sort(&m->graph, err);
    names_end(&names);
    if (st) import_close(m);
    return st;
}

void import_close(struct import *m)
{
    graph_close(&m->graph);
    for (int i = 0; i < m->map_count; i++) file_unmap(&m->maps[i]);
    free(m->maps);
    arena_free(&m->arena);
    *m = (struct import){ 0 };
}
