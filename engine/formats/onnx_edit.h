/* A changed copy of an ONNX file. What the changes do not name is copied byte by byte: unknown fields, metadata, functions, bodies. Data of initializers
 * that lies outside is written into the copy, so that it is one file (at most 2 GiB, protobuf's own limit).
 *
 * Changes concern the main graph: its nodes by their place in the file, its initializers by name. Everything lives in the caller's arena except the buffers, which
 * onnx_edit_end frees. */
#ifndef ENGINE_FORMATS_ONNX_EDIT_H
#define ENGINE_FORMATS_ONNX_EDIT_H

#include "base/buf.h"
#include "engine/formats/onnx.h"

enum { ONNX_EDIT_DROPS = 4 };

/* What becomes of a node. */
struct onnx_node_edit {
    bool         dropped;
    const char  *type;                       /* NULL: as it was */
    const char **inputs; int input_count;    /* [input_count]: NULL: as it was; those beyond the node's own are appended ("" where left out) */
    const char  *output;                     /* its first output; NULL: as it was */
    const char  *drop_attributes[ONNX_EDIT_DROPS];
    struct buf   attributes;                 /* AttributeProto fields of a NodeProto, appended */
    struct buf   before, after;              /* NodeProto fields of a GraphProto: nodes put in front of it and behind it */
};

struct onnx_edit {
    struct arena           *arena;
    const uint8_t          *data; uint64_t size;
    const struct onnx_model *model;          /* of the same bytes */
    struct onnx_node_edit  *nodes;           /* one for each node of model->graph */
    struct buf              first;           /* nodes before all others */
    struct buf              initializers;    /* TensorProto fields of a GraphProto, appended */
    const bool             *dropped;         /* initializers of the file by their place, with their declarations as inputs; NULL: none */
    const char            **values; int value_count;   /* value_info of these names is left out */
    int64_t                 opset;           /* of ai.onnx, raised to this; 0: as it was */
};

enum status onnx_edit_begin(struct onnx_edit *e, struct arena *arena, const uint8_t *data, uint64_t size, const struct onnx_model *m, struct err *err);
void        onnx_edit_end(struct onnx_edit *e);
/* Appends the changed file. dirfd: where external data is, -1: nowhere. */
enum status onnx_edit_write(struct buf *out, const struct onnx_edit *e, int dirfd, struct err *err);

/* The inputs of a node's edit, room for `count` of them. NULL: no memory. */
const char **onnx_edit_inputs(struct onnx_edit *e, int node, int count);

/* ---- pieces, appended to a buffer ---- */
/* A node: up to six inputs and one output; `axis` below 0 is left out. */
void onnx_put_node(struct buf *to, const char *name, const char *type, const char *const *inputs, int count, const char *output, int axis);
/* An initializer of the main graph. */
void onnx_put_tensor(struct buf *to, const char *name, enum dtype t, const int64_t *dims, int rank, const void *data, uint64_t bytes);
void onnx_put_attribute_int(struct buf *to, const char *name, int64_t v);

#endif
