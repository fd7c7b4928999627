/* Reading ModelProto. Every message is walked twice: once to count its repeated fields, once to fill arrays of exactly that size, so nothing
 * grows and a count is always bounded by the bytes that hold it. Field numbers are those of onnx.proto. */
#include "engine/formats/onnx.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "engine/formats/onnx_tensor.h"
#include "engine/formats/protobuf.h"

static enum status bad(struct err *err, const char *what)
{
    return err_set(err, ST_BAD_INPUT, "not a valid ONNX file: %s is cut off or malformed", what);
}

static enum status no_memory(struct err *err)
{
    return err_set(err, ST_NO_MEMORY, "the model's structure alone passes its memory budget");
}

enum status onnx_read_name(const char **out, struct arena *arena, const struct pb_field *f, struct err *err)
{
    if (f->wire != PB_BYTES) return bad(err, "a name");
    if (f->length > ONNX_NAME_MAX) return err_set(err, ST_BAD_INPUT, "a name of %llu bytes; at most %d are taken", (unsigned long long)f->length, ONNX_NAME_MAX);
    if (f->length && memchr(f->bytes, 0, (size_t)f->length)) return err_set(err, ST_BAD_INPUT, "a name in the ONNX file holds a NUL byte");
    *out = arena_copy(arena, f->length ? (const char *)f->bytes : "", (size_t)f->length);
    return *out ? ST_OK : no_memory(err);
}

/* Occurrences of length-delimited fields 1..15 and 20..30 of a message. */
static bool count_fields(struct pb c, int counts[32])
{
    struct pb_field f;
    memset(counts, 0, 32 * sizeof counts[0]);
    while (pb_next(&c, &f))
        if (f.wire == PB_BYTES && f.number < 32 && counts[f.number] < INT32_MAX) counts[f.number]++;
    return !c.failed;
}

static uint64_t count_packed(struct pb c, uint32_t number, enum pb_wire one)
{
    struct pb_field f;
    uint64_t n = 0, v;
    while (pb_next(&c, &f)) {
        if (f.number != number) continue;
        if (f.wire != PB_BYTES) { n++; continue; }
        if (one == PB_FIXED32) { n += f.length / 4; continue; }
        struct pb s = pb_sub(&f);
        while (s.p < s.end && pb_varint(&s, &v)) n++;
    }
    return n;
}

static enum status read_floats(struct onnx_attribute *a, struct arena *arena, struct pb c, struct err *err)
{
    uint64_t n = count_packed(c, 7, PB_FIXED32);
    if (n > INT32_MAX / 8) return err_set(err, ST_BAD_INPUT, "attribute '%s' has too many values", a->name);
    float *x = arena_calloc(arena, n + 1, sizeof *x);
    if (!x) return no_memory(err);
    struct pb_field f;
    int k = 0;
    while (pb_next(&c, &f)) {
        if (f.number != 7) continue;
        if (f.wire == PB_FIXED32) { uint32_t bits = (uint32_t)f.value; memcpy(&x[k++], &bits, 4); continue; }
        if (f.wire != PB_BYTES || f.length % 4) return bad(err, "a list of floats");
        if (f.length) memcpy(&x[k], f.bytes, f.length);
        k += (int)(f.length / 4);
    }
    a->floats = x;
    a->count = k;
    return ST_OK;
}

static enum status read_ints(struct onnx_attribute *a, struct arena *arena, struct pb c, struct err *err)
{
    uint64_t n = count_packed(c, 8, PB_VARINT), v;
    if (n > INT32_MAX / 8) return err_set(err, ST_BAD_INPUT, "attribute '%s' has too many values", a->name);
    int64_t *x = arena_calloc(arena, n + 1, sizeof *x);
    if (!x) return no_memory(err);
    struct pb_field f;
    int k = 0;
    while (pb_next(&c, &f)) {
        if (f.number != 8) continue;
        if (f.wire == PB_VARINT) { x[k++] = (int64_t)f.value; continue; }
        if (f.wire != PB_BYTES) return bad(err, "a list of integers");
        struct pb s = pb_sub(&f);
        while (s.p < s.end) {
            if (!pb_varint(&s, &v)) return bad(err, "a list of integers");
            x[k++] = (int64_t)v;
        }
    }
    a->ints = x;
    a->count = k;
    return ST_OK;
}

static enum status read_strings(struct onnx_attribute *a, struct arena *arena, struct pb c, int n, struct err *err)
{
    struct string_ref *x = arena_calloc(arena, (uint64_t)n + 1, sizeof *x);
    if (!x) return no_memory(err);
    struct pb_field f;
    int k = 0;
    while (pb_next(&c, &f))
        if (f.number == 9 && f.wire == PB_BYTES) x[k++] = (struct string_ref){ (const char *)f.bytes, (size_t)f.length };
    a->strings = x;
    a->count = k;
    return ST_OK;
}

/* Files written before attributes carried their type leave field 20 out: the filled field tells it. */
static void guess_type(struct onnx_attribute *a, const int counts[32], bool has_f, bool has_i)
{
    if (a->type) return;
    if (has_f) a->type = ONNX_FLOAT;
    else if (has_i) a->type = ONNX_INT;
    else if (counts[4]) a->type = ONNX_STRING;
    else if (counts[5]) a->type = ONNX_TENSOR;
    else if (counts[6]) a->type = ONNX_GRAPH;
    else if (counts[7]) a->type = ONNX_FLOATS;
    else if (counts[8]) a->type = ONNX_INTS;
    else if (counts[9]) a->type = ONNX_STRINGS;
    else a->type = ONNX_OTHER;
}

static enum status read_graph(struct onnx_graph *g, struct arena *arena, struct pb c, int depth, struct err *err);

static enum status read_attribute(struct onnx_attribute *a, struct arena *arena, struct pb c, int depth, struct err *err)
{
    int counts[32], tensors = 0;
    struct pb_field f;
    bool has_f = false, has_i = false;
    enum status st = ST_OK;
    if (!count_fields(c, counts)) return bad(err, "an attribute");
    a->name = "";
    a->s.text = "";      /* of a string that is not there: nobody need ask */
    for (struct pb s = c; !st && pb_next(&s, &f);) {
        uint32_t bits = (uint32_t)f.value;
        switch (f.number) {
        case 1: st = onnx_read_name(&a->name, arena, &f, err); break;
        case 2: if (f.wire == PB_FIXED32) { memcpy(&a->f, &bits, 4); has_f = true; } break;
        case 3: if (f.wire == PB_VARINT) { a->i = (int64_t)f.value; has_i = true; } break;
        case 4: if (f.wire == PB_BYTES) a->s = (struct string_ref){ (const char *)f.bytes, (size_t)f.length }; break;
        case 5:
            if (f.wire != PB_BYTES) return bad(err, "a tensor attribute");
            if (counts[10]) return bad(err, "a tensor attribute");
            a->t = arena_calloc(arena, 1, sizeof *a->t);
            st = a->t ? onnx_read_tensor(a->t, arena, pb_sub(&f), err) : no_memory(err);
            break;
        case 6:
            if (f.wire != PB_BYTES) return bad(err, "a graph attribute");
            a->g = arena_calloc(arena, 1, sizeof *a->g);
            st = a->g ? read_graph(a->g, arena, pb_sub(&f), depth + 1, err) : no_memory(err);
            break;
        case 10:
            if (f.wire != PB_BYTES) return bad(err, "a tensor attribute");
            if (tensors == 0) a->t = arena_calloc(arena, (uint64_t)counts[10], sizeof *a->t);
            st = a->t ? onnx_read_tensor(&a->t[tensors++], arena, pb_sub(&f), err) : no_memory(err);
            break;
        case 20: a->type = f.value >= 1 && f.value <= 9 ? (enum onnx_attribute_type)f.value : ONNX_OTHER; break;
        case 21: st = onnx_read_name(&a->reference, arena, &f, err); break;
        default: break;
        }
    }
    if (st) return st;
    if (a->reference && !a->reference[0]) a->reference = NULL;
    if (a->reference) return ST_OK;
    guess_type(a, counts, has_f, has_i);
    if (a->type == ONNX_FLOATS) return read_floats(a, arena, c, err);
    if (a->type == ONNX_INTS) return read_ints(a, arena, c, err);
    if (a->type == ONNX_STRINGS) return read_strings(a, arena, c, counts[9], err);
    if (a->type == ONNX_TENSORS) a->count = tensors;
    if (a->type == ONNX_GRAPH && !a->g) return err_set(err, ST_BAD_INPUT, "attribute '%s' says it is a graph but holds none", a->name);
    if (a->type == ONNX_TENSOR && !a->t) return err_set(err, ST_BAD_INPUT, "attribute '%s' says it is a tensor but holds none", a->name);
    return ST_OK;
}

static enum status read_node(struct onnx_node *n, struct arena *arena, struct pb c, int depth, struct err *err)
{
    int counts[32];
    struct pb_field f;
    enum status st = ST_OK;
    if (!count_fields(c, counts)) return bad(err, "a node");
    *n = (struct onnx_node){ .name = "", .type = "", .domain = "", .overload = "" };
    n->inputs = arena_calloc(arena, (uint64_t)counts[1] + 1, sizeof *n->inputs);
    n->outputs = arena_calloc(arena, (uint64_t)counts[2] + 1, sizeof *n->outputs);
    n->attributes = arena_calloc(arena, (uint64_t)counts[5] + 1, sizeof *n->attributes);
    if (!n->inputs || !n->outputs || !n->attributes) return no_memory(err);
    while (!st && pb_next(&c, &f)) {
        if (f.wire != PB_BYTES) continue;
        switch (f.number) {
        case 1: st = onnx_read_name(&n->inputs[n->input_count++], arena, &f, err); break;
        case 2: st = onnx_read_name(&n->outputs[n->output_count++], arena, &f, err); break;
        case 3: st = onnx_read_name(&n->name, arena, &f, err); break;
        case 4: st = onnx_read_name(&n->type, arena, &f, err); break;
        case 5: st = read_attribute(&n->attributes[n->attribute_count++], arena, pb_sub(&f), depth, err); break;
        case 7: st = onnx_read_name(&n->domain, arena, &f, err); break;
        case 8: st = onnx_read_name(&n->overload, arena, &f, err); break;
        default: break;
        }
    }
    if (st) return err_prefix(err, "node '%s' (%s)", n->name[0] ? n->name : (n->output_count && n->outputs[0] ? n->outputs[0] : "?"), n->type);
    if (strcmp(n->domain, "ai.onnx") == 0) n->domain = "";
    return ST_OK;
}

/* TensorShapeProto: dim { 1: dim_value, 2: dim_param } */
static enum status read_shape(struct onnx_port *p, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field f, d;
    p->rank = 0;
    while (pb_next(&c, &f)) {
        if (f.number != 1 || f.wire != PB_BYTES) continue;
        if (p->rank == TENSOR_RANK_MAX) return err_set(err, ST_UNSUPPORTED, "'%s' has more than %d dimensions", p->name, TENSOR_RANK_MAX);
        int64_t value = -1;
        struct pb s = pb_sub(&f);
        while (pb_next(&s, &d)) {
            if (d.number == 1 && d.wire == PB_VARINT) value = (int64_t)d.value >= 0 ? (int64_t)d.value : -1;
            if (d.number != 2 || d.length == 0) continue;
            enum status st = onnx_read_name(&p->symbols[p->rank], arena, &d, err);
            if (st) return st;
        }
        if (s.failed) return bad(err, "a dimension");
        p->dims[p->rank++] = value;
    }
    return c.failed ? bad(err, "a shape") : ST_OK;
}

/* TypeProto { 1: tensor { 1: elem_type, 2: shape }, 4: sequence, 5: map, 8: sparse tensor, 9: optional { 1: elem_type } } */
static enum status read_type(struct onnx_port *p, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field t, e;
    enum status st = ST_OK;
    struct pb inner = { 0 };
    while (!st && pb_next(&c, &t)) {
        if (t.wire != PB_BYTES) continue;
        struct pb s = pb_sub(&t);
        if (t.number == 4) p->is_sequence = true;
        if (t.number == 9 && !p->is_optional) {
            p->is_optional = true;
            while (pb_next(&s, &e))
                if (e.number == 1 && e.wire == PB_BYTES) inner = pb_sub(&e);
        }
        if (t.number != 1) continue;
        p->is_tensor = true;
        while (!st && pb_next(&s, &e)) {
            if (e.number == 1) p->dtype = e.value < DT_COUNT ? (enum dtype)e.value : DT_NONE;
            if (e.number == 2 && e.wire == PB_BYTES) st = read_shape(p, arena, pb_sub(&e), err);
        }
        if (!st && s.failed) st = bad(err, "a tensor type");
    }
    if (!st && c.failed) st = bad(err, "a type");
    if (!st && inner.p && !p->is_tensor && !p->is_sequence) return read_type(p, arena, inner, err);      /* once: is_optional is set now */
    return st;
}

/* ValueInfoProto { 1: name, 2: type } */
static enum status read_port(struct onnx_port *p, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field f;
    enum status st = ST_OK;
    *p = (struct onnx_port){ .name = "", .rank = -1 };
    for (struct pb s = c; !st && pb_next(&s, &f);)
        if (f.number == 1) st = onnx_read_name(&p->name, arena, &f, err);
    while (!st && pb_next(&c, &f))
        if (f.number == 2 && f.wire == PB_BYTES) st = read_type(p, arena, pb_sub(&f), err);
    if (!st && c.failed) st = bad(err, "an input or output");
    return st;
}

static enum status read_graph(struct onnx_graph *g, struct arena *arena, struct pb c, int depth, struct err *err)
{
    int counts[32];
    struct pb_field f;
    enum status st = ST_OK;
    if (depth > ONNX_DEPTH_MAX) return err_set(err, ST_UNSUPPORTED, "graphs stand in graphs more than %d deep", ONNX_DEPTH_MAX);
    if (!count_fields(c, counts)) return bad(err, "the graph");
    if (counts[1] > ONNX_NODES_MAX || counts[5] + counts[11] + counts[12] + counts[15] > ONNX_VALUES_MAX)
        return err_set(err, ST_BAD_INPUT, "the graph has %d nodes and %d initializers; at most %d and %d are taken", counts[1], counts[5], ONNX_NODES_MAX, ONNX_VALUES_MAX);
    g->name = "";
    g->nodes = arena_calloc(arena, (uint64_t)counts[1] + 1, sizeof *g->nodes);
    g->initializers = arena_calloc(arena, (uint64_t)counts[5] + (uint64_t)counts[15] + 1, sizeof *g->initializers);
    g->inputs = arena_calloc(arena, (uint64_t)counts[11] + 1, sizeof *g->inputs);
    g->outputs = arena_calloc(arena, (uint64_t)counts[12] + 1, sizeof *g->outputs);
    if (!g->nodes || !g->initializers || !g->inputs || !g->outputs) return no_memory(err);
    while (!st && pb_next(&c, &f)) {
        if (f.wire != PB_BYTES) continue;
        switch (f.number) {
        case 1: st = read_node(&g->nodes[g->node_count++], arena, pb_sub(&f), depth, err); break;
        case 2: st = onnx_read_name(&g->name, arena, &f, err); break;
        case 5: st = onnx_read_tensor(&g->initializers[g->initializer_count++], arena, pb_sub(&f), err); break;
        case 15: st = onnx_read_sparse(&g->initializers[g->initializer_count++], arena, pb_sub(&f), err); break;
        case 11: st = read_port(&g->inputs[g->input_count++], arena, pb_sub(&f), err); break;
        case 12: st = read_port(&g->outputs[g->output_count++], arena, pb_sub(&f), err); break;
        default: break;
        }
    }
    return st;
}

static enum status read_opset(struct onnx_opset *o, struct arena *arena, struct pb c, struct err *err)
{
    struct pb_field f;
    *o = (struct onnx_opset){ .domain = "", .version = 0 };
    while (pb_next(&c, &f)) {
        if (f.number == 1) {
            enum status st = onnx_read_name(&o->domain, arena, &f, err);
            if (st) return st;
        }
        if (f.number == 2 && f.wire == PB_VARINT) o->version = (int64_t)f.value;
    }
    if (c.failed) return bad(err, "an opset import");
    if (strcmp(o->domain, "ai.onnx") == 0) o->domain = "";
    return ST_OK;
}

/* FunctionProto { 1: name, 4: input, 5: output, 7: node, 9: opset_import, 10: domain, 11: attribute_proto, 13: overload } */
static enum status read_function(struct onnx_function *n, struct arena *arena, struct pb c, struct err *err)
{
    int counts[32];
    struct pb_field f;
    enum status st = ST_OK;
    if (!count_fields(c, counts)) return bad(err, "a function");
    if (counts[7] > ONNX_NODES_MAX || counts[9] > ONNX_OPSETS_MAX) return err_set(err, ST_BAD_INPUT, "a function has %d nodes and %d opset imports; at most %d and %d are taken", counts[7], counts[9], ONNX_NODES_MAX, ONNX_OPSETS_MAX);
    *n = (struct onnx_function){ .name = "", .domain = "", .overload = "" };
    n->inputs = arena_calloc(arena, (uint64_t)counts[4] + 1, sizeof *n->inputs);
    n->outputs = arena_calloc(arena, (uint64_t)counts[5] + 1, sizeof *n->outputs);
    n->nodes = arena_calloc(arena, (uint64_t)counts[7] + 1, sizeof *n->nodes);
    n->opsets = arena_calloc(arena, (uint64_t)counts[9] + 1, sizeof *n->opsets);
    n->defaults = arena_calloc(arena, (uint64_t)counts[11] + 1, sizeof *n->defaults);
    if (!n->inputs || !n->outputs || !n->nodes || !n->opsets || !n->defaults) return no_memory(err);
    while (!st && pb_next(&c, &f)) {
        if (f.wire != PB_BYTES) continue;
        switch (f.number) {
        case 1: st = onnx_read_name(&n->name, arena, &f, err); break;
        case 4: st = onnx_read_name(&n->inputs[n->input_count++], arena, &f, err); break;
        case 5: st = onnx_read_name(&n->outputs[n->output_count++], arena, &f, err); break;
        case 7: st = read_node(&n->nodes[n->node_count++], arena, pb_sub(&f), 0, err); break;
        case 9: st = read_opset(&n->opsets[n->opset_count++], arena, pb_sub(&f), err); break;
        case 10: st = onnx_read_name(&n->domain, arena, &f, err); break;
        case 11: st = read_attribute(&n->defaults[n->default_count++], arena, pb_sub(&f), 0, err); break;
        case 13: st = onnx_read_name(&n->overload, arena, &f, err); break;
        default: break;
        }
    }
    if (!st && strcmp(n->domain, "ai.onnx") == 0) n->domain = "";
    return st;
}

enum status onnx_parse(struct onnx_model **out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err)
{
    struct onnx_model *m = arena_calloc(arena, 1, sizeof *m);
    if (!m) return no_memory(err);
    struct pb c = pb_open(data, size);
    struct pb_field f;
    bool has_graph = false;
    int counts[32];
    enum status st = count_fields(c, counts) ? ST_OK : bad(err, "the model");
    if (!st && !(m->functions = arena_calloc(arena, (uint64_t)counts[25] + 1, sizeof *m->functions))) st = no_memory(err);
    m->producer = "";
    while (!st && pb_next(&c, &f)) {
        switch (f.number) {
        case 1: if (f.wire == PB_VARINT) m->ir_version = (int64_t)f.value; break;
        case 2: st = onnx_read_name(&m->producer, arena, &f, err); break;
        case 7:
            if (f.wire != PB_BYTES) st = bad(err, "the graph");
            else if (has_graph) st = err_set(err, ST_BAD_INPUT, "not a valid ONNX file: it holds two graphs");
            else st = read_graph(&m->graph, arena, pb_sub(&f), 0, err);
            has_graph = true;
            break;
        case 8:
            if (m->opset_count == ONNX_OPSETS_MAX) st = err_set(err, ST_BAD_INPUT, "more than %d opset imports", ONNX_OPSETS_MAX);
            else st = f.wire == PB_BYTES ? read_opset(&m->opsets[m->opset_count++], arena, pb_sub(&f), err) : bad(err, "an opset import");
            break;
        case 25: st = f.wire == PB_BYTES ? read_function(&m->functions[m->function_count++], arena, pb_sub(&f), err) : bad(err, "a function"); break;
        default: break;
        }
    }
    if (st) return st;
    if (c.failed) return bad(err, "the model");
    if (!has_graph) return err_set(err, ST_BAD_INPUT, "not a valid ONNX file: it holds no graph");
    *out = m;
    return ST_OK;
}

enum status onnx_parse_tensor(struct onnx_tensor *out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err)
{
    memset(out, 0, sizeof *out);
    return onnx_read_tensor(out, arena, pb_open(data, size), err);
}

/* SequenceProto { 1: name, 2: elem_type, 3: tensor_values, 5: sequence_values, 7: optional_values } */
static enum status read_sequence(struct tensor *out, struct arena *arena, struct pb c, struct err *err)
{
    int counts[32];
    struct pb_field f;
    enum status st = ST_OK;
    if (!count_fields(c, counts)) return bad(err, "a sequence");
    if (counts[5] || counts[6] || counts[7]) return err_set(err, ST_UNSUPPORTED, "a sequence of something other than tensors");
    struct tensor *items = arena_calloc(arena, (uint64_t)counts[3] + 1, sizeof *items);
    if (!items) return no_memory(err);
    int n = 0;
    while (!st && pb_next(&c, &f)) {
        if (f.number != 3 || f.wire != PB_BYTES) continue;
        struct onnx_tensor t = { 0 };
        st = onnx_read_tensor(&t, arena, pb_sub(&f), err);
        if (!st && t.location) st = err_set(err, ST_UNSUPPORTED, "a sequence whose data is in another file");
        items[n++] = t.tensor;
    }
    *out = (struct tensor){ .dtype = DT_SEQUENCE, .rank = 1, .dims = { n }, .data = items, .bytes = (uint64_t)n * sizeof *items };
    return st;
}

enum status onnx_parse_sequence(struct tensor *out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err)
{
    return read_sequence(out, arena, pb_open(data, size), err);
}

/* OptionalProto { 1: name, 2: elem_type, 3: tensor_value, 5: sequence_value } */
enum status onnx_parse_optional(struct tensor *out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err)
{
    struct pb c = pb_open(data, size);
    struct pb_field f;
    enum status st = ST_OK;
    *out = (struct tensor){ .dtype = DT_ABSENT };
    while (!st && pb_next(&c, &f)) {
        if (f.wire != PB_BYTES) continue;
        struct onnx_tensor t = { 0 };
        if (f.number == 3) {
            st = onnx_read_tensor(&t, arena, pb_sub(&f), err);
            *out = t.tensor;
            if (!st && t.location) st = err_set(err, ST_UNSUPPORTED, "an optional whose data is in another file");
        } else if (f.number == 5) st = read_sequence(out, arena, pb_sub(&f), err);
        else if (f.number > 3) st = err_set(err, ST_UNSUPPORTED, "an optional of something other than a tensor or a sequence");
    }
    return !st && c.failed ? bad(err, "an optional") : st;
}

const struct onnx_attribute *onnx_find_attribute(const struct onnx_attribute *list, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0) return &list[i];
    return NULL;
}
