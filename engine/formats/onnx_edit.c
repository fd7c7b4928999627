/* The copy is made field by field: ModelProto, in it GraphProto, in it the nodes that have a change. Field numbers are those of onnx.proto. */
#include "engine/formats/onnx_edit.h"

#include <string.h>

#include "base/file.h"
#include "engine/formats/protobuf_write.h"

enum { MODEL_IR = 1, MODEL_GRAPH = 7, MODEL_OPSET = 8, GRAPH_NODE = 1, GRAPH_TENSOR = 5, GRAPH_INPUT = 11, GRAPH_INFO = 13, GRAPH_SPARSE = 15, NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_TYPE = 4, NODE_ATTRIBUTE = 5 };
enum { IR_OF_OPSET_13 = 7, ATTRIBUTE_INT = 2 };
static const uint64_t FILE_MAX = ((uint64_t)2 << 30) - (1 << 20);      /* protobuf's messages are below 2 GiB */

enum status onnx_edit_begin(struct onnx_edit *e, struct arena *arena, const uint8_t *data, uint64_t size, const struct onnx_model *m, struct err *err)
{
    *e = (struct onnx_edit){ .arena = arena, .data = data, .size = size, .model = m };
    e->nodes = arena_calloc(arena, (uint64_t)m->graph.node_count + 1, sizeof *e->nodes);
    if (!e->nodes) return err_set(err, ST_NO_MEMORY, "changing a model passes its memory budget");
    buf_init(&e->first, FILE_MAX);
    buf_init(&e->initializers, FILE_MAX);
    for (int i = 0; i < m->graph.node_count; i++) {
        buf_init(&e->nodes[i].before, FILE_MAX);
        buf_init(&e->nodes[i].after, FILE_MAX);
        buf_init(&e->nodes[i].attributes, FILE_MAX);
    }
    return ST_OK;
}

void onnx_edit_end(struct onnx_edit *e)
{
    for (int i = 0; e->nodes && i < e->model->graph.node_count; i++) {
        buf_free(&e->nodes[i].before);
        buf_free(&e->nodes[i].after);
        buf_free(&e->nodes[i].attributes);
    }
    buf_free(&e->first);
    buf_free(&e->initializers);
    e->nodes = NULL;
}

const char **onnx_edit_inputs(struct onnx_edit *e, int node, int count)
{
    struct onnx_node_edit *n = &e->nodes[node];
    if (n->input_count >= count) return n->inputs;
    const char **wider = arena_calloc(e->arena, (uint64_t)count, sizeof *wider);
    if (!wider) return NULL;
    if (n->input_count) memcpy(wider, n->inputs, (size_t)n->input_count * sizeof *wider);
    n->inputs = wider;
    n->input_count = count;
    return wider;
}

/* ---- pieces ---- */
void onnx_put_attribute_int(struct buf *to, const char *name, int64_t v)
{
    size_t a = pb_begin(to, NODE_ATTRIBUTE);
    pb_put_text(to, 1, name);
    pb_put_number(to, 3, (uint64_t)v);
    pb_put_number(to, 20, ATTRIBUTE_INT);
    pb_end(to, a);
}

void onnx_put_node(struct buf *to, const char *name, const char *type, const char *const *inputs, int count, const char *output, int axis)
{
    size_t n = pb_begin(to, GRAPH_NODE);
    for (int k = 0; k < count; k++) pb_put_text(to, NODE_INPUT, inputs[k]);
    pb_put_text(to, NODE_OUTPUT, output);
    pb_put_text(to, 3, name);
    pb_put_text(to, NODE_TYPE, type);
    if (axis >= 0) onnx_put_attribute_int(to, "axis", axis);
    pb_end(to, n);
}

void onnx_put_tensor(struct buf *to, const char *name, enum dtype t, const int64_t *dims, int rank, const void *data, uint64_t bytes)
{
    buf_reserve(to, bytes + 256);
    size_t n = pb_begin(to, GRAPH_TENSOR);
    for (int d = 0; d < rank; d++) pb_put_number(to, 1, (uint64_t)dims[d]);
    pb_put_number(to, 2, (uint64_t)t);
    pb_put_text(to, 8, name);
    pb_put_bytes(to, 9, data, bytes);
    pb_end(to, n);
}

/* ---- the copy ---- */
static void copy_field(struct buf *to, const struct pb_field *f)
{
    pb_put_key(to, (int)f->number, f->wire);
    switch (f->wire) {
    case PB_VARINT: pb_put_varint(to, f->value); break;
    case PB_FIXED64: buf_append(to, &f->value, 8); break;
    case PB_FIXED32: buf_append(to, &f->value, 4); break;
    case PB_BYTES:
        pb_put_varint(to, f->length);
        if (f->length) buf_append(to, f->bytes, f->length);
        break;
    }
}

static bool text_is(const struct pb_field *f, const char *text) { return f->wire == PB_BYTES && f->length == strlen(text) && (f->length == 0 || memcmp(f->bytes, text, f->length) == 0); }

/* Is the text of the first field of this number in the message one of these? */
static bool named(const struct pb_field *message, uint32_t number, const char *const *names, int count)
{
    struct pb c = pb_sub(message);
    struct pb_field f;
    while (pb_next(&c, &f)) {
        if (f.number != number) continue;
        for (int i = 0; i < count; i++)
            if (names[i] && text_is(&f, names[i])) return true;
        return false;
    }
    return false;
}

static void copy_node(struct buf *to, const struct pb_field *message, const struct onnx_node_edit *e)
{
    struct pb c = pb_sub(message);
    struct pb_field f;
    int input = 0, output = 0;
    size_t n = pb_begin(to, GRAPH_NODE);
    while (pb_next(&c, &f)) {
        const char *text = NULL;
        if (f.number == NODE_INPUT && f.wire == PB_BYTES && input++ < e->input_count) text = e->inputs[input - 1];
        if (f.number == NODE_OUTPUT && f.wire == PB_BYTES && output++ == 0) text = e->output;
        if (f.number == NODE_TYPE) text = e->type;
        if (f.number == NODE_ATTRIBUTE && f.wire == PB_BYTES && named(&f, 1, e->drop_attributes, ONNX_EDIT_DROPS)) continue;
        if (text) pb_put_text(to, (int)f.number, text);
        else copy_field(to, &f);
    }
    for (; input < e->input_count; input++) pb_put_text(to, NODE_INPUT, e->inputs[input] ? e->inputs[input] : "");
    buf_append(to, e->attributes.data ? e->attributes.data : "", e->attributes.length);
    pb_end(to, n);
}

/* A tensor whose data is outside, with the data in it. */
static enum status copy_external(struct buf *to, const struct pb_field *message, struct onnx_tensor t, int dirfd, struct err *err)
{
    struct file_map map = { 0 };
    if (!t.tensor.data && dirfd < 0) return err_set(err, ST_UNSUPPORTED, "tensor '%s' keeps its data in another file, which is not taken here", t.name);
    enum status st = t.tensor.data ? ST_OK : onnx_open_external(&t, &map, dirfd, err);
    if (st) return st;
    struct pb c = pb_sub(message);
    struct pb_field f;
    buf_reserve(to, t.tensor.bytes + 256);
    size_t n = pb_begin(to, GRAPH_TENSOR);
    while (pb_next(&c, &f))
        if (f.number != 13 && f.number != 14 && f.number != 9) copy_field(to, &f);
    pb_put_bytes(to, 9, t.tensor.data, t.tensor.bytes);
    pb_end(to, n);
    file_unmap(&map);
    return ST_OK;
}

/* A declaration, among the inputs, of an initializer that is dropped. Files of before IR 4 declare all of theirs; where that version is raised a declaration would mean that callers may
 * replace the constant, so none stays. */
static bool is_dropped(const struct onnx_edit *e, const struct pb_field *message)
{
    const struct onnx_graph *g = &e->model->graph;
    const bool all = e->opset >= 13 && e->model->ir_version < 4;
    for (int i = 0; (all || e->dropped) && i < g->initializer_count; i++)
        if ((all || e->dropped[i]) && named(message, 1, &g->initializers[i].name, 1)) return true;
    return false;
}

static enum status copy_graph(struct buf *to, const struct onnx_edit *e, const struct pb_field *message, int dirfd, struct err *err)
{
    const struct onnx_graph *g = &e->model->graph;
    struct pb c = pb_sub(message);
    struct pb_field f;
    enum status st = ST_OK;
    int node = 0, tensor = 0;
    size_t begin = pb_begin(to, MODEL_GRAPH);
    buf_append(to, e->first.data ? e->first.data : "", e->first.length);
    while (!st && pb_next(&c, &f)) {
        if (f.number == GRAPH_NODE && f.wire == PB_BYTES) {
            const struct onnx_node_edit *n = &e->nodes[node++];
            buf_append(to, n->before.data ? n->before.data : "", n->before.length);
            if (!n->dropped) copy_node(to, &f, n);
            buf_append(to, n->after.data ? n->after.data : "", n->after.length);
            continue;
        }
        if ((f.number == GRAPH_TENSOR || f.number == GRAPH_SPARSE) && f.wire == PB_BYTES) {
            const struct onnx_tensor *t = &g->initializers[tensor];
            if (e->dropped && e->dropped[tensor++]) continue;
            if (!e->dropped) tensor++;
            if (t->location && f.number == GRAPH_TENSOR) st = copy_external(to, &f, *t, dirfd, err);
            else copy_field(to, &f);
            continue;
        }
        if (f.number == GRAPH_INPUT && f.wire == PB_BYTES && is_dropped(e, &f)) continue;
        if (f.number == GRAPH_INFO && f.wire == PB_BYTES && named(&f, 1, e->values, e->value_count)) continue;
        copy_field(to, &f);
    }
    buf_append(to, e->initializers.data ? e->initializers.data : "", e->initializers.length);
    pb_end(to, begin);
    return st;
}

/* Data outside that is no initializer of the main graph stays where it is, and the copy could not find it. */
static const char *find_outside(const struct onnx_graph *g, bool main)
{
    const char *found = NULL;
    for (int i = 0; !main && i < g->initializer_count && !found; i++)
        if (g->initializers[i].location) found = g->initializers[i].name;
    for (int i = 0; i < g->node_count && !found; i++)
        for (int k = 0; k < g->nodes[i].attribute_count && !found; k++) {
            const struct onnx_attribute *a = &g->nodes[i].attributes[k];
            for (int j = 0; a->t && j < (a->type == ONNX_TENSORS ? a->count : 1); j++)
                if (a->t[j].location) found = a->name;
            if (a->g && !found) found = find_outside(a->g, false);
        }
    return found;
}

static void copy_opset(struct buf *to, const struct pb_field *message, int64_t least)
{
    struct pb c = pb_sub(message);
    struct pb_field f;
    bool onnx = true;
    int64_t version = 0;
    while (pb_next(&c, &f)) {
        if (f.number == 1) onnx = f.length == 0 || text_is(&f, "ai.onnx");
        if (f.number == 2) version = (int64_t)f.value;
    }
    if (!onnx || version >= least) { copy_field(to, message); return; }
    size_t n = pb_begin(to, MODEL_OPSET);
    pb_put_text(to, 1, "");
    pb_put_number(to, 2, (uint64_t)least);
    pb_end(to, n);
}

enum status onnx_edit_write(struct buf *out, const struct onnx_edit *e, int dirfd, struct err *err)
{
    struct pb c = pb_open(e->data, e->size);
    struct pb_field f;
    bool has_opset = false;
    const char *outside = find_outside(&e->model->graph, true);
    enum status st = outside ? err_set(err, ST_UNSUPPORTED, "'%s', a tensor within a node, keeps its data in another file; initializers only may", outside) : ST_OK;
    buf_reserve(out, e->size < FILE_MAX ? e->size : FILE_MAX);
    while (!st && pb_next(&c, &f)) {
        if (f.number == MODEL_GRAPH && f.wire == PB_BYTES) st = copy_graph(out, e, &f, dirfd, err);
        else if (f.number == MODEL_IR && f.wire == PB_VARINT && e->opset >= 13 && f.value < IR_OF_OPSET_13) pb_put_number(out, MODEL_IR, IR_OF_OPSET_13);
        else if (f.number == MODEL_OPSET && f.wire == PB_BYTES && e->opset) {
            copy_opset(out, &f, e->opset);
            has_opset = true;
        } else copy_field(out, &f);
    }
    if (!st && e->opset && !has_opset) {
        size_t n = pb_begin(out, MODEL_OPSET);
        pb_put_number(out, 2, (uint64_t)e->opset);
        pb_end(out, n);
    }
    if (!st && (out->failed || out->length > FILE_MAX)) st = err_set(err, ST_TOO_LARGE, "the changed model would not fit into one file of 2 GiB, which is as much as ONNX files may be");
    return st;
}
