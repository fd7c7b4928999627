/* ONNX files (ModelProto, TensorProto) read into plain structs. The structs live in the caller's arena; raw tensor data stays where it
 * is in the file (a view), so the file's bytes must outlive them. Names are copied, NUL-terminated. Graphs nest (the bodies of If, Loop,
 * Scan stand in attributes), at most ONNX_DEPTH_MAX deep. */
#ifndef ENGINE_FORMATS_ONNX_H
#define ENGINE_FORMATS_ONNX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/tensor.h"

enum { ONNX_NODES_MAX = 100000, ONNX_VALUES_MAX = 200000, ONNX_NAME_MAX = 4096, ONNX_OPSETS_MAX = 64, ONNX_DEPTH_MAX = 16 };

/* A tensor of the file. Where `location` is set the data is outside: engine/formats/external.h opens it. */
struct onnx_tensor {
    const char   *name;
    struct tensor tensor;              /* data: view into the file, or arena memory where the file had typed fields; NULL when external */
    const char   *location;            /* external data: file name relative to the model; NULL: the data is here */
    uint64_t      offset, length;
    bool          has_length;
};

/* AttributeProto.AttributeType */
enum onnx_attribute_type { ONNX_FLOAT = 1, ONNX_INT = 2, ONNX_STRING = 3, ONNX_TENSOR = 4, ONNX_GRAPH = 5, ONNX_FLOATS = 6, ONNX_INTS = 7, ONNX_STRINGS = 8, ONNX_TENSORS = 9, ONNX_OTHER = 99 };

struct onnx_attribute {
    const char              *name;
    const char              *reference;    /* inside a function: the attribute of the call that stands for this one; else NULL */
    enum onnx_attribute_type type;
    float                    f;
    int64_t                  i;
    struct string_ref        s;
    struct onnx_tensor      *t;
    struct onnx_graph       *g;
    const float             *floats;
    const int64_t           *ints;
    const struct string_ref *strings;
    int                      count;    /* of floats, ints, strings or tensors (t[0], t[1], ...) */
};

struct onnx_node {
    const char *name, *type, *domain;  /* domain "" is ONNX's own */
    const char *overload;              /* of a function */
    const char **inputs, **outputs;    /* "": left out */
    int input_count, output_count;
    struct onnx_attribute *attributes; int attribute_count;
};

struct onnx_port {
    const char *name;
    bool        is_tensor;             /* a tensor or an optional one; false: sequence, map, sparse, or no type given */
    bool        is_sequence;           /* of whatever */
    bool        is_optional;           /* of a tensor or of a sequence */
    enum dtype  dtype;
    int         rank;                  /* -1: unknown */
    int64_t     dims[TENSOR_RANK_MAX]; /* -1: free */
    const char *symbols[TENSOR_RANK_MAX];   /* the name of a free dimension, or NULL */
};

struct onnx_graph {
    const char *name;
    struct onnx_node   *nodes;        int node_count;
    struct onnx_tensor *initializers; int initializer_count;
    struct onnx_port   *inputs;       int input_count;
    struct onnx_port   *outputs;      int output_count;
};

struct onnx_opset { const char *domain; int64_t version; };

/* A function of the model's own: a node of this name and domain stands for these nodes. */
struct onnx_function {
    const char *name, *domain, *overload;
    const char **inputs, **outputs; int input_count, output_count;
    struct onnx_node *nodes; int node_count;
    struct onnx_attribute *defaults; int default_count;
    struct onnx_opset *opsets; int opset_count;
};

struct onnx_model {
    int64_t           ir_version;
    const char       *producer;
    struct onnx_opset opsets[ONNX_OPSETS_MAX]; int opset_count;
    struct onnx_graph graph;
    struct onnx_function *functions; int function_count;
};

/* ST_BAD_INPUT names what was wrong and where; ST_NO_MEMORY when the arena's budget is spent. */
enum status onnx_parse(struct onnx_model **out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err);
/* A file that holds one TensorProto (the suite's input_0.pb). */
enum status onnx_parse_tensor(struct onnx_tensor *out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err);
/* A file that holds one SequenceProto or OptionalProto: DT_SEQUENCE or DT_ABSENT where it is no tensor. */
enum status onnx_parse_sequence(struct tensor *out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err);
enum status onnx_parse_optional(struct tensor *out, struct arena *arena, const uint8_t *data, uint64_t size, struct err *err);

/* The external data of a tensor, the one way for every tensor of every kind (R21): below the model's folder, no links, a regular file with
 * one name. *map is set to the mapping the tensor's data points into; the caller unmaps it. Call only where location is set. */
struct file_map;
enum status onnx_open_external(struct onnx_tensor *t, struct file_map *map, int dirfd, struct err *err);

/* The attribute of this name in a node's list, or NULL. */
const struct onnx_attribute *onnx_find_attribute(const struct onnx_attribute *list, int count, const char *name);

#endif
