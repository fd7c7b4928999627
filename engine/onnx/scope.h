/* Shared by import.c and scope.c: a scope is the names of one graph or of one call of a function while it is taken over.
 *
 * Scopes nest in two ways. The body of an If or a Loop is a graph of its own, and a name that it does not make is looked up in the scope around it: a
 * constant is shared, anything else becomes an input of the body and of its node (a capture). A function's nodes are taken over into the graph of
 * the call, once for each call; they see the function's own names only, and attributes that refer to the call's. */
#ifndef ENGINE_ONNX_SCOPE_H
#define ENGINE_ONNX_SCOPE_H

#include "engine/onnx/import.h"
#include "engine/onnx/names.h"

struct attributes { const struct onnx_attribute *list; int count; };

struct capture { int outer, inner; };

struct scope {
    struct import *import;
    struct graph  *graph;
    struct scope  *outer;                 /* whose names may be captured; NULL: none */
    struct names   names;
    const struct onnx_opset *opsets; int opset_count;
    const struct onnx_function *function; /* whose nodes these are; NULL: a graph's */
    struct attributes given, defaults;    /* of the call: what references in the function stand for */
    struct capture *captures; int capture_count;
    int depth;
};

/* Takes a graph of the file over into s->graph: constants, inputs, nodes, outputs. */
enum status scope_take_graph(struct scope *s, struct onnx_graph *f, struct err *err);

/* ---- import.c, for scopes ---- */
enum status import_no_memory(struct err *err);
/* Opens the external data of a tensor where it has any. */
enum status import_settle_tensor(struct import *m, struct onnx_tensor *t, struct err *err);

#endif
