/* A model file seen for rounding to 8 bits: its tensors by name, its layers on constant weights, and which tensors are to be rounded when certain layers are.
 *
 * Rounded are: what a rounded layer reads; what a rounded convolution makes (behind the Relu or Clip that alone reads it); and, so that chains of integers are not broken, what
 * an Add, a Concat or a pooling reads whose result is rounded, where all of it comes from such operators anyway. Operators that only move numbers (Reshape, MaxPool, ...) keep the scale of what
 * they read. Results of the model itself are not rounded, nor is anything within bodies and functions. */
#ifndef ENGINE_CALIBRATE_OUTLINE_H
#define ENGINE_CALIBRATE_OUTLINE_H

#include "engine/onnx/import.h"
#include "engine/onnx/names.h"

struct outline_layer {
    int         node;                 /* of the main graph, by its place in the file */
    const char *name;                 /* of the node, or of its result */
    int         axis;                 /* of the weight: its output channels */
    const struct operand *weight, *bias;      /* dense; bias NULL: none, or none that can be rounded */
};

struct outline_tensor {
    const char *name;
    int  producer;                    /* a node; -1: an input of the model, a constant */
    int  readers;                     /* by nodes of the main graph (counted for each input), by its outputs and by bodies */
    int  reader;                      /* a node of the main graph that reads it */
    bool is_output, rounded;
    int  scale_of;                    /* the tensor whose scale it has; itself as a rule */
};

struct outline {
    const struct onnx_model *model;
    const struct onnx_graph *graph;
    struct import           constants;      /* the same file with what is constant computed */
    struct names            names;          /* -> tensors */
    struct names            values;         /* -> constants.graph */
    struct outline_tensor  *tensors; int tensor_count;
    struct outline_layer   *layers;  int layer_count;
    int                    *layer_of;       /* node -> layer, -1 */
    bool                    quantised;      /* the file holds rounded layers already */
};

/* `data` must outlive the outline; dirfd as in import_open. */
enum status outline_open(struct outline *n, const uint8_t *data, uint64_t size, int dirfd, uint64_t memory_max, struct err *err);
void        outline_close(struct outline *n);
/* Says of every tensor whether it is rounded when these layers are (rounded[layer_count]). */
void        outline_place(struct outline *n, const bool *rounded);

int         outline_find(const struct outline *n, const char *name);                         /* -1: none (or "") */
/* The constant of this name, dense; NULL: it is none, or there is no memory for it. */
const struct operand *outline_constant(struct outline *n, const char *name);
const struct onnx_attribute *outline_attribute(const struct onnx_node *n, const char *name);
int64_t     outline_int(const struct onnx_node *n, const char *name, int64_t otherwise);
/* Is it a Relu or Clip that alone reads what node i makes? Its number, else -1. */
int         outline_activation(const struct outline *n, int i);
/* Does node i run in whole numbers when these layers do: a rounded layer, or what stands between such? */
bool        outline_is_integer(const struct outline *n, int i, const bool *rounded);
/* A name that nothing in the file bears, beginning like this; in the outline's arena. NULL: no memory. */
const char *outline_name(struct outline *n, const char *stem, const char *end);

#endif
