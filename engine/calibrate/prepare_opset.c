/* From an older opset to 13. Most operators only took more types on the way; what changed its meaning, or where it reads something, is listed here, and rewritten where its node tells enough. Models below
 * opset 7 broadcast by other rules and are refused. */
#include <string.h>

#include "engine/calibrate/prepare.h"
#include "engine/formats/onnx_edit.h"
#include "engine/graph/passes.h"

enum { OPSET_LEAST = 7, EDIT_INTS_MAX = 64 };

static enum status refuse(const struct onnx_node *x, int opset, struct err *err)
{
    return err_set(err, ST_UNSUPPORTED, "rounding by output channel needs opset 13, and node '%s' (%s) of opset %d is not rewritten for it: export the model with opset 13 or above", x->name[0] ? x->name : x->outputs[0], x->type, opset);
}

/* An attribute of integers becomes an input at `place`. */
static bool ints_to_input(struct onnx_edit *e, struct outline *n, int i, const char *attribute, int place)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    const struct onnx_attribute *a = outline_attribute(x, attribute);
    if (!a) return true;
    if (a->type != ONNX_INTS || a->count > EDIT_INTS_MAX) return false;
    const char *name = outline_name(n, arena_format(e->arena, "%s_", x->outputs[0]), attribute), **in = onnx_edit_inputs(e, i, place + 1);
    if (!name || !in) return false;
    const int64_t count = a->count;
    onnx_put_tensor(&e->initializers, name, DT_I64, &count, 1, a->ints, (uint64_t)count * 8);
    in[place] = name;
    for (int k = 0; k < ONNX_EDIT_DROPS; k++)
        if (!e->nodes[i].drop_attributes[k]) {
            e->nodes[i].drop_attributes[k] = attribute;
            break;
        }
    return true;
}

/* An attribute that is one float becomes an input at `place`. */
static bool float_to_input(struct onnx_edit *e, struct outline *n, int i, const char *attribute, int place, int slot)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    const struct onnx_attribute *a = outline_attribute(x, attribute);
    if (!a) return true;
    if (a->type != ONNX_FLOAT) return false;
    const char *name = outline_name(n, arena_format(e->arena, "%s_", x->outputs[0]), attribute), **in = onnx_edit_inputs(e, i, place + 1);
    if (!name || !in) return false;
    onnx_put_tensor(&e->initializers, name, DT_F32, NULL, 0, &a->f, 4);
    in[place] = name;
    e->nodes[i].drop_attributes[slot] = attribute;
    return true;
}

/* Softmax and its kin took all dimensions from `axis` on together; now they take one. The same where that is the last of a tensor whose rank is known. */
static bool softmax(struct onnx_edit *e, struct outline *n, int i)
{
    const struct onnx_node *x = &n->graph->nodes[i];
    const int64_t axis = outline_int(x, "axis", 1);
    const int v = names_find(&n->values, x->inputs[0]);
    const struct graph *g = &n->constants.graph;
    if (axis == -1) return true;
    if (v < 0 || !probe_known(g, v) || axis != g->values[v].probe[0].rank - 1) return false;
    e->nodes[i].drop_attributes[0] = "axis";
    onnx_put_attribute_int(&e->nodes[i].attributes, "axis", -1);
    return true;
}

static bool one_of(const char *type, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(type, *list) == 0) return true;
    return false;
}

static bool rewrite(struct onnx_edit *e, struct outline *n, int i, int opset)
{
    static const char *const refused_9[] = { "Upsample", "BatchNormalization", "Scan", "Cast", NULL }, *const refused_10[] = { "Slice", "TopK", "Upsample", "Dropout", NULL }, *const refused_11[] = { "Resize", "Scatter", "Gemm", NULL };
    static const char *const softmaxes[] = { "Softmax", "LogSoftmax", "Hardmax", NULL };
    const struct onnx_node *x = &n->graph->nodes[i];
    struct onnx_node_edit *edit = &e->nodes[i];
    if (x->domain[0]) return true;
    if (strcmp(x->type, "BatchNormalization") == 0) return outline_int(x, "spatial", 1) == 1;
    if (strcmp(x->type, "Cast") == 0) return opset >= 6;
    if (strcmp(x->type, "Gemm") == 0) return opset >= 7;
    if (strcmp(x->type, "Dropout") == 0) {
        edit->drop_attributes[0] = opset < 12 ? "ratio" : NULL;
        return true;
    }
    if (opset < 9 && one_of(x->type, refused_9)) return false;
    if (opset < 10 && one_of(x->type, refused_10)) return false;
    if (opset < 11 && one_of(x->type, refused_11)) return false;
    if (opset < 11 && strcmp(x->type, "Clip") == 0) return float_to_input(e, n, i, "min", 1, 0) && float_to_input(e, n, i, "max", 2, 1);
    if (opset < 11 && strcmp(x->type, "Pad") == 0) {
        const struct onnx_attribute *value = outline_attribute(x, "value");
        return ints_to_input(e, n, i, "pads", 1) && (!value || float_to_input(e, n, i, "value", 2, 1));
    }
    if (one_of(x->type, softmaxes)) return softmax(e, n, i);
    if (one_of(x->type, (const char *const[]){ "Squeeze", "Unsqueeze", "ReduceSum", NULL })) return ints_to_input(e, n, i, "axes", 1);
    if (strcmp(x->type, "Split") == 0) return ints_to_input(e, n, i, "split", 1);
    return true;
}

enum status prepare_opset(struct onnx_edit *e, struct outline *n, struct err *err)
{
    const int opset = n->constants.opset;
    struct graph *g = &n->constants.graph;
    if (opset < OPSET_LEAST) return err_set(err, ST_UNSUPPORTED, "the model is of opset %d; rounding takes %d and above", opset, OPSET_LEAST);
    graph_count_uses(g);
    enum status st = graph_sort(g, err);
    if (!st) st = probe_shapes(g, err);
    for (int i = 0; i < n->graph->node_count && !st; i++) {
        const struct onnx_node *x = &n->graph->nodes[i];
        for (int k = 0; k < x->attribute_count; k++)
            if (x->attributes[k].type == ONNX_GRAPH) return refuse(x, opset, err);      /* its nodes would have to be rewritten, too */
        if (!e->nodes[i].dropped && !rewrite(e, n, i, opset)) st = refuse(x, opset, err);
    }
    return st;
}
