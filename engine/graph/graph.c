#include "engine/graph/graph.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/gpu_store.h"
#include "kernels/bytes.h"
#include "engine/operators/nn/conv_slices.h"
#include "kernels/conv.h"
#include "kernels/linear.h"
#include "kernels/sparse.h"

const struct onnx_attribute *node_attribute(const struct node *n, const char *name) { return onnx_find_attribute(n->attributes, n->attribute_count, name); }

int64_t node_int(const struct node *n, const char *name, int64_t otherwise)
{
    const struct onnx_attribute *a = node_attribute(n, name);
    return a && a->type == ONNX_INT ? a->i : otherwise;
}

float node_float(const struct node *n, const char *name, float otherwise)
{
    const struct onnx_attribute *a = node_attribute(n, name);
    return a && a->type == ONNX_FLOAT ? a->f : otherwise;
}

const int64_t *node_ints(const struct node *n, const char *name, int *count)
{
    const struct onnx_attribute *a = node_attribute(n, name);
    *count = a && a->type == ONNX_INTS ? a->count : 0;
    return *count || (a && a->type == ONNX_INTS) ? a->ints : NULL;
}

bool node_text_is(const struct node *n, const char *name, const char *text, bool otherwise)
{
    const struct onnx_attribute *a = node_attribute(n, name);
    if (!a || a->type != ONNX_STRING) return otherwise;
    return a->s.length == strlen(text) && memcmp(a->s.text, text, a->s.length) == 0;
}

enum status call_error(const struct call *c, struct err *err, enum status st, const char *format, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return err_set(err, st, "node '%s' (%s, opset %d): %s", c->node->name, c->node->op->name, c->node->opset, text);
}

uint64_t operand_count(const struct operand *o)
{
    uint64_t n = 0;
    bool ok = shape_count(o->dims, o->rank, &n);
    assert(ok);
    (void)ok;
    return n;
}

int operand_size(const struct operand *o)
{
    return o->dtype == DT_STRING ? (int)sizeof(struct string_ref) : o->dtype == DT_SEQUENCE ? (int)sizeof(struct tensor) : dtype_bits(o->dtype) / 8;
}

enum status call_set(struct call *c, int i, enum dtype t, const int64_t *dims, int rank, struct err *err)
{
    struct operand *o = c->out[i];
    uint64_t bytes;
    if (!o) return ST_OK;
    if (rank > TENSOR_RANK_MAX) return call_error(c, err, ST_UNSUPPORTED, "its result has %d dimensions; at most %d are taken", rank, TENSOR_RANK_MAX);
    for (int d = 0; d < rank; d++)
        if (dims[d] < 0) return call_error(c, err, ST_BAD_INPUT, "dimension %d of its result would be %lld", d, (long long)dims[d]);
    if (!tensor_bytes(t, dims, rank, &bytes) || bytes > (uint64_t)1 << 46) return call_error(c, err, ST_TOO_LARGE, "its result would be too large");
    o->dtype = t;
    o->rank = rank;
    if (dims != o->dims && rank) memmove(o->dims, dims, (size_t)rank * sizeof *dims);
    o->bytes = bytes;
    return ST_OK;
}

bool call_stopped(const struct call *c, struct err *err)
{
    if (!c->stop || !atomic_load_explicit(c->stop, memory_order_relaxed)) return false;
    err_set(err, ST_CANCELLED, "stopped");
    return true;
}

enum status call_make(struct call *c, int i, enum dtype t, const int64_t *dims, int rank, struct err *err)
{
    enum status st = call_set(c, i, t, dims, rank, err);
    if (st) return st;
    struct operand *o = c->out[i];
    o->channels_last = o->splat = false;
    o->data = arena_alloc(c->run, o->bytes ? o->bytes : 1, TENSOR_ALIGN);
    return o->data ? ST_OK : call_error(c, err, ST_NO_MEMORY, "its result passes the memory budget");
}

struct tensor operand_tensor(const struct operand *o)
{
    struct tensor t = { .dtype = o->dtype, .rank = o->rank, .data = o->data, .bytes = o->bytes };
    memcpy(t.dims, o->dims, sizeof t.dims);
    return t;
}

struct operand tensor_operand(const struct tensor *t)
{
    struct operand o = { .dtype = t->dtype, .rank = t->rank, .data = t->data, .bytes = t->bytes };
    memcpy(o.dims, t->dims, sizeof o.dims);
    return o;
}

static enum status keep(struct tensor *t, struct arena *arena, int depth, struct err *err)
{
    void *copy = arena_alloc(arena, t->bytes ? t->bytes : 1, TENSOR_ALIGN);
    if (!copy) return err_set(err, ST_NO_MEMORY, "keeping a value passes the memory budget");
    if (t->bytes) memcpy(copy, t->data, t->bytes);
    t->data = copy;
    struct string_ref *s = copy;
    for (uint64_t k = 0; t->dtype == DT_STRING && k < t->bytes / sizeof *s; k++)
        if (!(s[k].text = arena_copy(arena, s[k].length ? s[k].text : "", s[k].length))) return err_set(err, ST_NO_MEMORY, "keeping a value passes the memory budget");
    struct tensor *items = copy;
    if (t->dtype == DT_SEQUENCE && depth == 0) return err_set(err, ST_UNSUPPORTED, "sequences nested too deep");
    for (uint64_t k = 0; t->dtype == DT_SEQUENCE && k < t->bytes / sizeof *items; k++) {
        enum status st = keep(&items[k], arena, depth - 1, err);
        if (st) return st;
    }
    return ST_OK;
}

enum status operand_keep(struct operand *to, const struct operand *from, struct arena *arena, struct err *err)
{
    struct tensor t = operand_tensor(from);
    enum { DEPTH_MAX = 4 };
    enum status st = keep(&t, arena, DEPTH_MAX, err);
    bool dynamic = to->dynamic;
    if (st) return st;
    *to = tensor_operand(&t);
    to->dynamic = dynamic;
    return ST_OK;
}

enum status call_ints(struct call *c, int i, int64_t *out, int max, int *count, bool *known, struct err *err)
{
    const struct operand *o = i < c->in_count ? c->in[i] : NULL;
    *known = false;
    *count = 0;
    if (!o) return ST_OK;
    if (o->rank > 1) return call_error(c, err, ST_BAD_INPUT, "input %d must be a list of integers, but has %d dimensions", i, o->rank);
    if (o->dtype != DT_I64 && o->dtype != DT_I32 && o->dtype != DT_U8) return call_error(c, err, ST_BAD_INPUT, "input %d must hold integers, but holds %s", i, dtype_name(o->dtype));
    uint64_t n = operand_count(o);
    if (n > (uint64_t)max) return call_error(c, err, ST_BAD_INPUT, "input %d holds %llu numbers; at most %d make sense", i, (unsigned long long)n, max);
    *count = (int)n;
    if (!o->data) { c->needs_data = true; return ST_OK; }
    *known = true;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t j = o->splat ? 0 : k;
        if (o->dtype == DT_I64) memcpy(&out[k], (const char *)o->data + 8 * j, 8);
        else if (o->dtype == DT_I32) { int32_t v; memcpy(&v, (const char *)o->data + 4 * j, 4); out[k] = v; }
        else out[k] = ((const uint8_t *)o->data)[j];
    }
    return ST_OK;
}

bool axis_fix(int64_t *axis, int rank)
{
    if (*axis < -(int64_t)rank || *axis >= rank) return false;
    if (*axis < 0) *axis += rank;
    return true;
}

void operand_physical(const struct operand *o, int64_t *dims)
{
    if (!o->channels_last || o->rank < 3) {
        memcpy(dims, o->dims, sizeof o->dims);
        return;
    }
    dims[0] = o->dims[0];
    for (int i = 2; i < o->rank; i++) dims[i - 1] = o->dims[i];
    dims[o->rank - 1] = o->dims[1];
}

int graph_add_value(struct graph *g, const char *name, enum value_kind kind)
{
    if (g->value_count == g->value_room) {
        int room = g->value_room ? g->value_room * 2 : 256;
        struct value *v = mem_realloc_array(g->values, (uint64_t)room, sizeof *v);
        if (!v) return -1;
        g->values = v;
        g->value_room = room;
    }
    g->values[g->value_count] = (struct value){ .name = name, .kind = kind, .producer = -1 };
    g->values[g->value_count].probe[0].rank = g->values[g->value_count].probe[1].rank = -1;
    return g->value_count++;
}

struct node *graph_add_node(struct graph *g, int in_count, int out_count)
{
    if (g->node_count == g->node_room) {
        int room = g->node_room ? g->node_room * 2 : 128;
        struct node *n = mem_realloc_array(g->nodes, (uint64_t)room, sizeof *n);
        if (!n) return NULL;
        g->nodes = n;
        g->node_room = room;
    }
    int *ids = arena_alloc(g->arena, ((uint64_t)in_count + (uint64_t)out_count + 1) * sizeof *ids, 8);
    if (!ids) return NULL;
    for (int i = 0; i < in_count + out_count; i++) ids[i] = -1;
    struct node *n = &g->nodes[g->node_count++];
    *n = (struct node){ .name = "", .in = ids, .out = ids + in_count, .in_count = in_count, .out_count = out_count, .residual = -1 };
    return n;
}

int graph_add_operator(struct graph *g, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out)
{
    while (in_count && in[in_count - 1] < 0) in_count--;
    int v = graph_add_value(g, "", VALUE_NODE);
    struct node *n = v < 0 ? NULL : graph_add_node(g, in_count, 1);
    void *copy = spec_size ? arena_alloc(g->arena, spec_size, 16) : NULL;
    if (!n || (spec_size && !copy)) return -1;
    if (spec_size) memcpy(copy, spec, spec_size);
    n->op = op;
    n->name = op->name;
    n->opset = 1;
    n->spec = copy;
    memcpy(n->in, in, (size_t)in_count * sizeof *in);
    n->out[0] = v;
    g->values[v].producer = g->node_count - 1;
    if (out) *out = n;
    return v;
}

int graph_add_constant(struct graph *g, const char *name, enum dtype t, const int64_t *dims, int rank, void *data)
{
    int id = graph_add_value(g, name, VALUE_CONSTANT);
    if (id < 0) return -1;
    struct operand *o = &g->values[id].type;
    o->dtype = t;
    o->rank = rank;
    if (rank) memcpy(o->dims, dims, (size_t)rank * sizeof *dims);
    o->data = data;
    bool ok = tensor_bytes(t, dims, rank, &o->bytes);
    assert(ok);
    (void)ok;
    return id;
}

const void *graph_dense(struct graph *g, int value)
{
    struct operand *o = &g->values[value].type;
    int size = operand_size(o);
    if (!o->splat && (size == 0 || (uintptr_t)o->data % (uintptr_t)(size > 8 ? 8 : size) == 0)) return o->data;
    uint8_t *copy = arena_alloc(g->arena, o->bytes ? o->bytes : 1, TENSOR_ALIGN);
    if (!copy) return NULL;
    if (!o->splat) memcpy(copy, o->data, o->bytes);
    else
        for (uint64_t i = 0; i < o->bytes; i += (uint64_t)size) memcpy(copy + i, o->data, (size_t)size);
    o->data = copy;
    o->splat = false;
    return copy;
}

void graph_count_uses(struct graph *g)
{
    for (int i = 0; i < g->value_count; i++) {
        g->values[i].uses = 0;
        g->values[i].producer = -1;
    }
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        if (n->dead) continue;
        for (int k = 0; k < n->in_count; k++)
            if (n->in[k] >= 0) g->values[n->in[k]].uses++;
        for (int k = 0; k < n->out_count; k++)
            if (n->out[k] >= 0) g->values[n->out[k]].producer = i;
    }
    for (int i = 0; i < g->output_count; i++) g->values[g->outputs[i]].uses++;
}

/* Kahn's algorithm with the lowest file position first would need a heap; a depth-first walk with a stack of our own keeps the file's order
 * for files that are sorted already, which ONNX demands, and still puts right what passes have moved. */
enum status graph_sort(struct graph *g, struct err *err)
{
    graph_count_uses(g);
    int n = g->node_count, top = 0, done = 0;
    uint8_t *mark = mem_calloc_array((uint64_t)n + 1, 1);
    int *stack = mem_alloc_array((uint64_t)n + 1, sizeof *stack), *next = mem_calloc_array((uint64_t)n + 1, sizeof *next);
    struct node *sorted = mem_alloc_array((uint64_t)n + 1, sizeof *sorted);
    enum status st = mark && stack && next && sorted ? ST_OK : err_set(err, ST_NO_MEMORY, "sorting the graph");
    for (int root = 0; !st && root < n; root++) {
        if (mark[root] || g->nodes[root].dead) continue;
        stack[top++] = root;
        mark[root] = 1;
        while (top && !st) {
            int i = stack[top - 1];
            struct node *x = &g->nodes[i];
            if (next[i] == x->in_count) {
                sorted[done++] = *x;
                mark[i] = 2;
                top--;
                continue;
            }
            int v = x->in[next[i]++], p = v < 0 ? -1 : g->values[v].producer;
            if (p < 0 || mark[p] == 2) continue;
            if (mark[p] == 1) st = err_set(err, ST_BAD_INPUT, "the graph has a cycle through node '%s'", x->name);
            else { mark[p] = 1; stack[top++] = p; }
        }
    }
    if (!st) {
        if (done) memcpy(g->nodes, sorted, (size_t)done * sizeof *sorted);
        g->node_count = done;
        graph_count_uses(g);
    }
    free(mark);
    free(stack);
    free(next);
    free(sorted);
    return st;
}

bool graph_own_linear(struct graph *g, struct linear_layer *l)
{
    if (g->linear_count == g->linear_room) {
        int room = g->linear_room ? g->linear_room * 2 : 64;
        struct linear_layer **list = mem_realloc_array(g->linears, (uint64_t)room, sizeof(struct linear_layer *));
        if (!list) {
            linear_close(l);
            return false;
        }
        g->linears = list;
        g->linear_room = room;
    }
    g->linears[g->linear_count++] = l;
    return true;
}

struct graph *graph_add_inner(struct graph *g)
{
    struct graph *b = arena_calloc(g->arena, 1, sizeof *b);
    if (!b) return NULL;
    b->arena = g->arena;
    b->device = g->device;
    b->memory_max = g->memory_max;
    b->max_rows = 1;
    b->is_body = true;
    b->next_inner = g->inner;
    g->inner = b;
    return b;
}

void graph_close(struct graph *g)
{
    for (struct graph *b = g->inner, *next; b; b = next) {
        next = b->next_inner;
        graph_close(b);
    }
    for (int i = 0; i < g->linear_count; i++) linear_close(g->linears[i]);
    free(g->linears);
    for (int i = 0; i < g->node_count; i++) {
        bytes_layer_close(g->nodes[i].bytes);
        if (g->nodes[i].conv) conv_layer_close(g->nodes[i].conv);
        conv_slices_close(g->nodes[i].slices);
        sparse_close(g->nodes[i].sparse);
        free(g->nodes[i].packed);
    }
    gpu_store_close(g->gpu);
    free(g->values);
    free(g->nodes);
    *g = (struct graph){ 0 };
}
