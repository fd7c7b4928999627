/* Graphs, bodies and calls of functions taken over: names become value numbers, nodes find their row in the operator table, Constant nodes and
 * initializers become constants. Refusals name the node, its operator and the opset. */
#include "engine/onnx/scope.h"

#include <string.h>

#include "base/checked.h"

static const char *node_name(const struct onnx_node *n) { return n->name[0] ? n->name : n->output_count ? n->outputs[0] : n->type; }

static enum status twice(const char *name, struct err *err) { return err_set(err, ST_BAD_INPUT, "two things in the graph are named '%s'", name); }

static int opset_of(const struct scope *s, const char *domain)
{
    if (!domain[0] && !s->function && s->import->opset) return s->import->opset;
    for (int i = 0; i < s->opset_count; i++)
        if (strcmp(s->opsets[i].domain, domain) == 0) return s->opsets[i].version < 1 ? 1 : s->opsets[i].version > GRAPH_OPSET_MAX ? GRAPH_OPSET_MAX + 1 : (int)s->opsets[i].version;
    return domain[0] ? 1 : s->import->opset;
}

/* ---- constants ---- */
static enum status add_constant(struct scope *s, const char *name, struct onnx_tensor *t, struct err *err)
{
    enum status st = import_settle_tensor(s->import, t, err);
    if (st) return st;
    int id = graph_add_constant(s->graph, name, t->tensor.dtype, t->tensor.dims, t->tensor.rank, t->tensor.data);
    if (id < 0) return import_no_memory(err);
    return names_put(&s->names, name, id) ? ST_OK : twice(name, err);
}

static const struct onnx_attribute *find_attribute(struct attributes a, const char *name)
{
    for (int i = 0; i < a.count; i++)
        if (strcmp(a.list[i].name, name) == 0) return &a.list[i];
    return NULL;
}

/* The node's attributes with references to the call's replaced; those the call leaves out are gone. */
static enum status settle_attributes(const struct scope *s, const struct onnx_node *n, struct onnx_attribute **out, int *count, struct err *err)
{
    bool any = false;
    *out = n->attributes;
    *count = n->attribute_count;
    for (int i = 0; i < n->attribute_count; i++) any = any || n->attributes[i].reference;
    if (!any) return ST_OK;
    *count = 0;
    if (!(*out = arena_calloc(&s->import->arena, (uint64_t)n->attribute_count + 1, sizeof **out))) return import_no_memory(err);
    for (int i = 0; i < n->attribute_count; i++) {
        const struct onnx_attribute *a = &n->attributes[i];
        const char *name = a->name;
        if (a->reference) {
            const char *wanted = a->reference;
            a = find_attribute(s->given, wanted);
            if (!a) a = find_attribute(s->defaults, wanted);
        }
        if (!a || a->reference) continue;
        (*out)[*count] = *a;
        (*out)[(*count)++].name = name;
    }
    return ST_OK;
}

/* The value of a Constant node, in whichever of its attributes. */
static enum status constant_tensor(const struct scope *s, const struct onnx_node *n, struct onnx_tensor **out, struct err *err)
{
    static const char *const names[] = { "value_float", "value_int", "value_floats", "value_ints", "value_string", "value_strings" };
    struct onnx_attribute *list;
    int count;
    enum status st = settle_attributes(s, n, &list, &count, err);
    for (int i = 0; i < count && !st; i++) {
        struct onnx_attribute *a = &list[i];
        if (strcmp(a->name, "value") == 0 && a->type == ONNX_TENSOR) { *out = a->t; return ST_OK; }
        for (int k = 0; k < 6; k++) {
            if (strcmp(a->name, names[k])) continue;
            struct onnx_tensor *t = arena_calloc(&s->import->arena, 1, sizeof *t);
            if (!t) return import_no_memory(err);
            struct tensor *x = &t->tensor;
            t->name = n->outputs[0];
            x->dtype = k == 0 || k == 2 ? DT_F32 : k == 1 || k == 3 ? DT_I64 : DT_STRING;
            x->data = k == 0 ? (void *)&a->f : k == 1 ? (void *)&a->i : k == 2 ? (void *)(uintptr_t)a->floats : k == 3 ? (void *)(uintptr_t)a->ints : k == 4 ? (void *)&a->s : (void *)(uintptr_t)a->strings;
            static const enum onnx_attribute_type types[] = { ONNX_FLOAT, ONNX_INT, ONNX_FLOATS, ONNX_INTS, ONNX_STRING, ONNX_STRINGS };
            if (a->type != types[k] || (!x->data && a->count)) return err_set(err, ST_BAD_INPUT, "node '%s' (Constant): attribute '%s' is of another type", n->outputs[0], a->name);
            if (k == 2 || k == 3 || k == 5) {
                x->rank = 1;
                x->dims[0] = a->count;
            }
            *out = t;
            return ST_OK;
        }
    }
    return st ? st : err_set(err, ST_UNSUPPORTED, "node '%s' (Constant): it holds neither a dense tensor nor numbers", n->outputs[0]);
}

/* ---- names ---- */
/* The value of a name here or around; -1 with no error: nothing makes it. */
static enum status look_up(struct scope *s, const char *name, int *out, struct err *err)
{
    *out = names_find(&s->names, name);
    if (*out >= 0 || !s->outer) return ST_OK;
    int around;
    enum status st = look_up(s->outer, name, &around, err);
    if (st || around < 0) return st;
    const struct value *v = &s->outer->graph->values[around];
    int id = v->kind == VALUE_CONSTANT ? graph_add_constant(s->graph, v->name, v->type.dtype, v->type.dims, v->type.rank, v->type.data) : graph_add_value(s->graph, v->name, VALUE_INPUT);
    if (id < 0) return import_no_memory(err);
    if (s->graph->values[id].kind == VALUE_INPUT) {
        s->graph->values[id].type.rank = -1;
        struct capture *c = arena_alloc(&s->import->arena, ((uint64_t)s->capture_count + 1) * sizeof *c, 8);
        if (!c) return import_no_memory(err);
        if (s->capture_count) memcpy(c, s->captures, (size_t)s->capture_count * sizeof *c);
        c[s->capture_count++] = (struct capture){ around, id };
        s->captures = c;
    }
    names_put(&s->names, name, id);
    *out = id;
    return ST_OK;
}

/* ---- bodies ---- */
static enum status take_body(struct scope *s, const struct onnx_attribute *a, struct body *out, struct capture **captures, int *capture_count, struct err *err)
{
    struct graph *g = graph_add_inner(s->graph);
    if (!g) return import_no_memory(err);
    struct scope inner = { .import = s->import, .graph = g, .outer = s, .opsets = s->opsets, .opset_count = s->opset_count, .function = s->function, .given = s->given, .defaults = s->defaults, .depth = s->depth + 1 };
    enum status st = scope_take_graph(&inner, a->g, err);
    if (st) return st;
    *out = (struct body){ a->name, g, g->input_count, NULL };
    int *inputs = arena_alloc(&s->import->arena, ((uint64_t)g->input_count + (uint64_t)inner.capture_count + 1) * sizeof *inputs, 8);
    if (!inputs) return import_no_memory(err);
    if (g->input_count + inner.capture_count > GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "body '%s' reads more than %d values", a->name, GRAPH_INPUTS_MAX);
    if (g->input_count) memcpy(inputs, g->inputs, (size_t)g->input_count * sizeof *inputs);
    for (int i = 0; i < inner.capture_count; i++) inputs[g->input_count + i] = inner.captures[i].inner;
    g->inputs = inputs;
    g->input_count += inner.capture_count;
    *captures = inner.captures;
    *capture_count = inner.capture_count;
    return ST_OK;
}

/* The bodies of a node; what they capture goes behind its inputs. `in` has room for GRAPH_INPUTS_MAX. */
static enum status take_bodies(struct scope *s, const struct onnx_attribute *attributes, int attribute_count, struct body **bodies, int *body_count, int *in, int *in_count, struct err *err)
{
    enum status st = ST_OK;
    int n = 0, formal = *in_count;
    for (int i = 0; i < attribute_count; i++) n += attributes[i].type == ONNX_GRAPH;
    *body_count = 0;
    if (n == 0) return ST_OK;
    if (!(*bodies = arena_calloc(&s->import->arena, (uint64_t)n, sizeof **bodies))) return import_no_memory(err);
    for (int i = 0; i < attribute_count && !st; i++) {
        struct capture *captures = NULL;
        int count = 0;
        if (attributes[i].type != ONNX_GRAPH) continue;
        struct body *b = &(*bodies)[*body_count];
        st = take_body(s, &attributes[i], b, &captures, &count, err);
        if (st) return st;
        ++*body_count;
        if (!(b->captures = arena_alloc(&s->import->arena, ((uint64_t)count + 1) * sizeof *b->captures, 8))) return import_no_memory(err);
        for (int k = 0; k < count; k++) {
            int at = formal;
            while (at < *in_count && in[at] != captures[k].outer) at++;
            if (at == GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "the bodies of a node read more than %d values", GRAPH_INPUTS_MAX);
            if (at == *in_count) in[(*in_count)++] = captures[k].outer;
            b->captures[k] = at;
        }
    }
    return st;
}

/* ---- nodes ---- */
static const struct onnx_function *find_function(const struct import *m, const struct onnx_node *n)
{
    for (int i = 0; i < m->model->function_count; i++) {
        const struct onnx_function *f = &m->model->functions[i];
        if (strcmp(f->name, n->type) == 0 && strcmp(f->domain, n->domain) == 0 && strcmp(f->overload, n->overload) == 0) return f;
    }
    return NULL;
}

static enum status check_row(const struct onnx_node *n, int opset, const struct op **out, int *ins, struct err *err)
{
    bool known;
    const char *name = node_name(n);
    const struct op *op = op_find(n->domain, n->type, opset, &known);
    if (!op && n->domain[0]) return err_set(err, ST_UNSUPPORTED, "node '%s' needs operator %s of domain '%s', which inferd does not have%s", name, n->type, n->domain, known ? " at that opset" : "");
    if (!op) return err_set(err, ST_UNSUPPORTED, "node '%s' needs operator %s of opset %d, which inferd does not have%s", name, n->type, opset, known ? " at that opset" : "");
    *ins = n->input_count;
    while (*ins > op->in_min && n->inputs[*ins - 1][0] == 0) --*ins;
    if (*ins < op->in_min || *ins > op->in_max || n->output_count < op->out_min || n->output_count > op->out_max)
        return err_set(err, ST_BAD_INPUT, "node '%s' (%s, opset %d) has %d inputs and %d outputs; %d to %d and %d to %d are right", name, n->type, opset, *ins, n->output_count, op->in_min, op->in_max, op->out_min, op->out_max);
    *out = op;
    return ST_OK;
}

/* An input of the function that its call does not give. */
static bool left_out(const struct scope *s, const char *name)
{
    for (int i = 0; s->function && i < s->function->input_count; i++)
        if (strcmp(s->function->inputs[i], name) == 0) return true;
    return false;
}

static enum status take_call(struct scope *s, const struct onnx_function *f, const struct onnx_node *n, const int *in, const int *out, struct err *err);

static enum status take_node(struct scope *s, const struct onnx_node *n, struct err *err)
{
    int in[GRAPH_INPUTS_MAX], out[GRAPH_INPUTS_MAX], ins = n->input_count, opset = opset_of(s, n->domain);
    const struct op *op = NULL;
    enum status st = ST_OK;
    if (++s->import->nodes > ONNX_NODES_MAX) return err_set(err, ST_BAD_INPUT, "with every call of its functions the model has more than %d nodes", ONNX_NODES_MAX);
    const struct onnx_function *f = find_function(s->import, n);
    if (!f) st = check_row(n, opset, &op, &ins, err);
    if (st) return st;
    if (ins > GRAPH_INPUTS_MAX || n->output_count > GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "node '%s' has more than %d inputs or outputs", node_name(n), GRAPH_INPUTS_MAX);
    for (int k = 0; k < ins; k++) {
        in[k] = -1;
        if (n->inputs[k][0] == 0) continue;
        st = look_up(s, n->inputs[k], &in[k], err);
        if (!st && in[k] < 0 && !left_out(s, n->inputs[k])) return err_set(err, ST_BAD_INPUT, "node '%s' (%s) reads '%s', which nothing in the graph makes", node_name(n), n->type, n->inputs[k]);
        if (st) return st;
    }
    for (int k = 0; op && k < op->in_min; k++)
        if (in[k] < 0) return err_set(err, ST_BAD_INPUT, "node '%s' (%s, opset %d): input %d is missing", node_name(n), n->type, opset, k);
    for (int k = 0; k < n->output_count; k++) out[k] = n->outputs[k][0] ? names_find(&s->names, n->outputs[k]) : -1;
    if (f) return take_call(s, f, n, in, out, err);
    struct onnx_attribute *attributes;
    int attribute_count, body_count, formal = ins;
    struct body *bodies = NULL;
    st = settle_attributes(s, n, &attributes, &attribute_count, err);
    if (!st) st = take_bodies(s, attributes, attribute_count, &bodies, &body_count, in, &ins, err);
    if (st) return st;
    struct node *x = graph_add_node(s->graph, ins, n->output_count);
    if (!x) return import_no_memory(err);
    x->op = op;
    x->name = node_name(n);
    x->opset = opset;
    x->attributes = attributes;
    x->attribute_count = attribute_count;
    x->bodies = bodies;
    x->body_count = body_count;
    x->formal_count = formal;
    if (ins) memcpy(x->in, in, (size_t)ins * sizeof *in);
    if (n->output_count) memcpy(x->out, out, (size_t)n->output_count * sizeof *out);
    return ST_OK;
}

static bool is_constant(const struct onnx_node *n) { return strcmp(n->type, "Constant") == 0 && !n->domain[0]; }

/* First all results get their numbers, so that the order of nodes in the file does not matter; then inputs are looked up. A function's results
 * have theirs already. */
static enum status take_nodes(struct scope *s, const struct onnx_node *nodes, int count, struct err *err)
{
    enum status st = ST_OK;
    for (int i = 0; i < count && !st; i++) {
        const struct onnx_node *n = &nodes[i];
        struct onnx_tensor *t = NULL;
        if (is_constant(n)) {
            if (n->output_count != 1 || n->input_count) return err_set(err, ST_BAD_INPUT, "node '%s' (Constant) must have one output and no inputs", node_name(n));
            st = constant_tensor(s, n, &t, err);
            if (!st && names_find(&s->names, n->outputs[0]) < 0) st = add_constant(s, n->outputs[0], t, err);
            else if (!st) st = err_set(err, ST_UNSUPPORTED, "result '%s' of a function is a Constant", n->outputs[0]);
            continue;
        }
        for (int k = 0; k < n->output_count && !st; k++) {
            if (n->outputs[k][0] == 0) continue;
            int id = names_find(&s->names, n->outputs[k]);
            bool own = id >= 0 && s->function && s->graph->values[id].kind == VALUE_NODE && s->graph->values[id].producer == -2;
            if (own) { s->graph->values[id].producer = -1; continue; }
            if (id >= 0) return twice(n->outputs[k], err);
            id = graph_add_value(s->graph, n->outputs[k], VALUE_NODE);
            if (id < 0) return import_no_memory(err);
            names_put(&s->names, n->outputs[k], id);
        }
    }
    for (int i = 0; i < count && !st; i++)
        if (!is_constant(&nodes[i])) st = take_node(s, &nodes[i], err);
    return st;
}

/* ---- calls of the model's own functions ---- */
static enum status pass_through(struct scope *s, int from, int to, const char *name, struct err *err)
{
    bool known;
    struct node *x = from < 0 ? NULL : graph_add_node(s->graph, 1, 1);
    if (from < 0) return err_set(err, ST_BAD_INPUT, "result '%s' of a function is made by nothing", name);
    if (!x) return import_no_memory(err);
    x->op = op_find("", "Identity", GRAPH_OPSET_MAX, &known);
    x->name = name;
    x->opset = GRAPH_OPSET_MAX;
    x->in[0] = from;
    x->out[0] = to;
    x->formal_count = 1;
    return ST_OK;
}

static enum status take_call(struct scope *s, const struct onnx_function *f, const struct onnx_node *n, const int *in, const int *out, struct err *err)
{
    struct scope inner = { .import = s->import, .graph = s->graph, .opsets = f->opsets, .opset_count = f->opset_count, .function = f, .defaults = { f->defaults, f->default_count }, .depth = s->depth + 1 };
    struct onnx_attribute *given;
    int passed[GRAPH_INPUTS_MAX];
    enum status st = inner.depth > ONNX_DEPTH_MAX ? err_set(err, ST_UNSUPPORTED, "calls of functions stand in functions more than %d deep, or a function calls itself", ONNX_DEPTH_MAX) : ST_OK;
    if (!st && (n->input_count > f->input_count || n->output_count > f->output_count)) st = err_set(err, ST_BAD_INPUT, "node '%s' calls function %s with %d inputs and %d outputs; it has %d and %d", node_name(n), f->name, n->input_count, n->output_count, f->input_count, f->output_count);
    if (!st) st = settle_attributes(s, n, &given, &inner.given.count, err);
    if (st) return st;
    inner.given.list = given;
    uint64_t count = (uint64_t)f->input_count + (uint64_t)f->output_count;
    for (int i = 0; i < f->node_count; i++) count += (uint64_t)f->nodes[i].output_count;
    st = names_begin(&inner.names, count) ? ST_OK : import_no_memory(err);
    for (int k = 0; k < f->input_count && !st; k++)
        if (k < n->input_count && in[k] >= 0 && !names_put(&inner.names, f->inputs[k], in[k])) st = twice(f->inputs[k], err);
    for (int k = 0; k < n->output_count && !st; k++) {
        passed[k] = names_find(&inner.names, f->outputs[k]);
        if (out[k] < 0) continue;
        if (passed[k] >= 0) { st = pass_through(&inner, passed[k], out[k], f->outputs[k], err); continue; }
        names_put(&inner.names, f->outputs[k], out[k]);
        s->graph->values[out[k]].producer = -2;          /* waits for the node that makes it */
    }
    if (!st) st = take_nodes(&inner, f->nodes, f->node_count, err);
    for (int k = 0; k < n->output_count && !st; k++)
        if (out[k] >= 0 && s->graph->values[out[k]].producer == -2) st = err_set(err, ST_BAD_INPUT, "result '%s' is made by none of its nodes", f->outputs[k]);
    names_end(&inner.names);
    return st ? err_prefix(err, "function %s called by node '%s'", f->name, node_name(n)) : ST_OK;
}

/* ---- graphs ---- */
static enum status take_inputs(struct scope *s, const struct onnx_graph *f, struct err *err)
{
    struct graph *g = s->graph;
    g->inputs = arena_calloc(&s->import->arena, (uint64_t)f->input_count + 1, sizeof *g->inputs);
    if (!g->inputs) return import_no_memory(err);
    for (int i = 0; i < f->input_count; i++) {
        struct onnx_port *p = &f->inputs[i];
        if (names_find(&s->names, p->name) >= 0) continue;       /* an initializer's own declaration */
        bool typed = (p->is_tensor && p->dtype != DT_NONE) || p->is_sequence;
        if (!typed && !g->is_body && !p->is_optional) return err_set(err, ST_UNSUPPORTED, "input '%s' is neither a tensor nor a sequence of tensors", p->name);
        if (p->name[0] == 0) return err_set(err, ST_BAD_INPUT, "an input has no name");
        if (g->input_count == GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "the model has more than %d inputs", GRAPH_INPUTS_MAX);
        int id = graph_add_value(g, p->name, VALUE_INPUT);
        if (id < 0) return import_no_memory(err);
        struct value *v = &g->values[id];
        v->type.dtype = p->is_sequence ? DT_SEQUENCE : p->dtype;
        v->type.rank = p->is_sequence ? 1 : p->rank;
        memcpy(v->type.dims, p->dims, sizeof p->dims);
        if (p->is_sequence) v->type.dims[0] = -1;
        v->is_optional = p->is_optional;
        memcpy(v->symbols, p->symbols, sizeof p->symbols);
        g->inputs[g->input_count++] = id;
        names_put(&s->names, p->name, id);
    }
    return ST_OK;
}

/* A body may give the same value twice, and what it did not make itself: those pass through an Identity. */
static enum status own_output(struct scope *s, const char *name, int *id, struct err *err)
{
    int from = *id, to = graph_add_value(s->graph, name, VALUE_NODE);
    if (to < 0) return import_no_memory(err);
    *id = to;
    return pass_through(s, from, to, name, err);
}

static enum status take_outputs(struct scope *s, const struct onnx_graph *f, struct err *err)
{
    struct graph *g = s->graph;
    if (f->output_count == 0 && !g->is_body) return err_set(err, ST_BAD_INPUT, "the graph has no outputs");
    if (f->output_count > GRAPH_INPUTS_MAX) return err_set(err, ST_UNSUPPORTED, "the model has more than %d outputs", GRAPH_INPUTS_MAX);
    g->outputs = arena_calloc(&s->import->arena, (uint64_t)f->output_count + 1, sizeof *g->outputs);
    if (!g->outputs) return import_no_memory(err);
    for (int i = 0; i < f->output_count; i++) {
        struct onnx_port *p = &f->outputs[i];
        int id;
        enum status st = look_up(s, p->name, &id, err);
        if (st) return st;
        if (id < 0) return err_set(err, ST_BAD_INPUT, "output '%s' is made by no node", p->name);
        if (g->values[id].is_output && !g->is_body) return err_set(err, ST_BAD_INPUT, "output '%s' is listed twice", p->name);
        if (g->is_body && (g->values[id].is_output || g->values[id].kind != VALUE_NODE) && (st = own_output(s, p->name, &id, err))) return st;
        struct value *v = &g->values[id];
        v->is_output = true;
        v->is_optional = v->is_optional || p->is_optional;
        v->declared = p->is_tensor && p->dtype != DT_NONE && !p->is_optional;
        v->said = (struct operand){ .dtype = p->is_sequence ? DT_SEQUENCE : p->dtype, .rank = p->is_sequence ? 1 : p->rank };
        memcpy(v->said.dims, p->dims, sizeof p->dims);
        if (p->is_sequence) v->said.dims[0] = -1;
        g->outputs[g->output_count++] = id;
    }
    return ST_OK;
}

enum status scope_take_graph(struct scope *s, struct onnx_graph *f, struct err *err)
{
    if (s->depth > ONNX_DEPTH_MAX) return err_set(err, ST_UNSUPPORTED, "graphs stand in graphs and functions more than %d deep", ONNX_DEPTH_MAX);
    uint64_t count = (uint64_t)f->initializer_count + (uint64_t)f->input_count;
    for (int i = 0; i < f->node_count; i++) count += (uint64_t)f->nodes[i].output_count;
    enum status st = names_begin(&s->names, count) ? ST_OK : import_no_memory(err);
    for (int i = 0; !st && i < f->initializer_count; i++) st = add_constant(s, f->initializers[i].name, &f->initializers[i], err);
    if (!st) st = take_inputs(s, f, err);
    if (!st) st = take_nodes(s, f->nodes, f->node_count, err);
    if (!st) st = take_outputs(s, f, err);
    if (!st) st = graph_sort(s->graph, err);
    names_end(&s->names);
    return st;
}
