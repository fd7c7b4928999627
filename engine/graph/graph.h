/* The graph core: values, nodes, and what an operator is.
 *
 * Shapes are never algebra here. A graph input may have free dimensions; everything behind it gets its shape by running the operators'
 * `infer` functions with the free dimensions bound to numbers: at load to a few probing numbers (passes that need shapes, the proof
 * that rows are independent), and for each exact input shape when a plan is made. Integer tensors that follow from shapes alone
 * (Shape, Gather, Concat ... Reshape) are computed while planning, so exports that compute their shapes cost nothing at run time.
 * A shape that depends on data is found while running, in a budgeted arena of the run.
 *
 * A value may also be a sequence of tensors or an optional that holds nothing (DT_SEQUENCE, DT_ABSENT of tensor.h). A node may own bodies: graphs
 * of their own whose inputs are what the operator hands them and, behind those, what they read of the graph around them (captures), which the
 * node lists as inputs of its own.
 *
 * A value of rank >= 3 may be stored channels last (NHWC). Its dims stay in ONNX's order; the flag says how the bytes lie. */
#ifndef ENGINE_GRAPH_GRAPH_H
#define ENGINE_GRAPH_GRAPH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "engine/device.h"
#include "engine/formats/onnx.h"
#include "engine/tensor.h"
#include "kernels/kernels.h"

enum { GRAPH_OPSET_MAX = 27, GRAPH_INPUTS_MAX = 256 };

/* A tensor on its way through operators. */
struct operand {
    enum dtype dtype;
    int        rank;
    int64_t    dims[TENSOR_RANK_MAX];
    void      *data;              /* NULL: not known (yet) */
    uint64_t   bytes;
    bool       channels_last;
    bool       splat;             /* data holds one element that stands for all */
    bool       batched;           /* analysis: dims[0] is the row dimension and row r depends on rows r only */
    bool       tainted;           /* analysis: follows from the number of rows */
    bool       dynamic;           /* dims are known only while running */
    bool       state;             /* an input that outlives the step (KV pages): operators write to it, it is never copied */
};

enum value_kind { VALUE_NODE, VALUE_INPUT, VALUE_CONSTANT };

struct value {
    const char     *name;
    enum value_kind kind;
    struct operand  type;         /* constants: whole; inputs: dtype and declared dims (-1 free); others: layout only */
    const char     *symbols[TENSOR_RANK_MAX];
    int             producer;     /* node index, -1 */
    int             uses;         /* by live nodes */
    bool            is_output;
    bool            is_optional;  /* an input or output that may be DT_ABSENT */
    bool            declared;     /* an output whose dtype and dims the file declares: in `said` */
    struct operand  said;
    struct operand  probe[2];     /* shapes under two bindings; rank -1 where unknown */
};

struct bytes_layer;
struct gpu_store;
struct task_list;
struct conv_layer;
struct conv_slices;
struct linear_layer;
struct sparse_layer;
struct graph;

/* A graph that a node runs. Its inputs behind the first `formal_count` are the node's inputs captures[0], captures[1], ... */
struct body { const char *attribute; struct graph *graph; int formal_count; int *captures; };

/* Input 0, result 0 (and what is added to it) lie in memory as bfloat16, although the file says float. */
enum node_halves { HALVES_IN = 1, HALVES_OUT = 2 };

struct node {
    const struct op *op;
    const char *name;
    int         opset;
    int        *in, *out;         /* value numbers, -1: left out */
    int         in_count, out_count;
    struct onnx_attribute *attributes;
    int         attribute_count;
    bool        dead;
    struct body *bodies; int body_count;      /* graphs this node runs, in the order of its graph attributes */
    int         formal_count;     /* inputs the operator itself takes; those behind are captures */

    unsigned   halves;            /* enum node_halves; fused into a convolution by store_halves */
    /* fused into this node */
    struct activation_spec act;
    int         residual;         /* index into in, -1 */
    /* made by passes_pack: shared by all instances, read only */
    struct conv_layer *conv;
    struct conv_slices *slices;   /* of a convolution over three dimensions (engine/operators/nn/conv_slices.h) */
    void       *packed;           /* GEMM panels */
    uint64_t    packed_bytes;
    const float *bias;            /* dense [n] beside `packed` */
    const float *weight;          /* ScaleShift: the scale; convolution: a scale by output channel that packing multiplies in */
    struct bytes_layer *bytes;    /* of the operators in operators/quantised/bytes.h that have a weight */
    struct linear_layer *linear;  /* Linear; Gemm and MatMul of a graph in bfloat16, in place of `packed` */
    struct linear_layer **recurrent;  /* RNN, GRU and LSTM of a graph in bfloat16, in place of `packed`: of each direction its enum recurrent_part, NULL where it has none */
    struct sparse_layer *sparse;  /* Gemm and MatMul whose weight is mostly 0, in place of `packed` */
    const void *spec;             /* of the operators in operators/llm.h: read only, in the arena */
    uint64_t    row_work;         /* about how many products each row of input 0 takes, where dims alone do not tell; 0: they do */
};

struct graph {
    struct arena *arena;          /* names, constants: the model's budget */
    struct device device;
    bool          int8;           /* the quantised patterns of the file become operators on bytes */
    bool          bf16;           /* layers with constant weights round those and what they are given to bfloat16, where the machine is quick at it; sums stay float */
    bool          exact_ends;     /* with bf16: convolutions that read the graph's inputs and products that make its outputs are float all the same */
    bool          loose;          /* with bf16: convolutions may have an error 1.7 times as large where that is much quicker (conv_spec.loose) */
    uint64_t      memory_max;
    uint64_t      packed_bytes;
    const struct file_map *file, *external; int external_count;      /* mapped files that constants may lie in, whose pages packed weights give back; NULL */
    struct gpu_store *gpu;        /* NULL: every node runs on the CPU. Else those that can be said as tasks run there, and their weights are not packed here */
    struct value *values; int value_count, value_room;
    struct node  *nodes;  int node_count, node_room;
    int *inputs;  int input_count;
    int *outputs; int output_count;
    struct linear_layer **linears; int linear_count, linear_room;      /* all that nodes use, closed with the graph */
    struct graph *inner, *next_inner;         /* bodies of nodes, closed with the graph: a list */
    bool          is_body;
    int64_t       max_rows;       /* hint for kernels */
    bool          batchable;
    const char   *batch_reason;   /* why not */
};

struct call {
    const struct node *node;
    struct operand **in, **out;   /* in[i] NULL: left out; out[i] NULL: nobody wants it */
    int in_count, out_count;
    const struct kernels *k;
    const struct llm_kernels *llm;
    const struct diffusion_kernels *diffusion;
    int   threads;
    void *scratch;                /* of op->scratch bytes, aligned to TENSOR_ALIGN */
    void *state;                  /* of op->prepare */
    bool  needs_data;             /* set by infer: the shape depends on data that is not there */
    struct arena *run;            /* while evaluating: memory that lives until the run ends (texts of string tensors, items of sequences, what call_make takes) */
    const atomic_bool *stop;      /* while running; may be NULL: once true, long work ends with ST_CANCELLED */
};

/* A row of the operator table. */
struct op {
    const char *name, *domain;
    int      since, until;                    /* opsets; until 0: GRAPH_OPSET_MAX */
    int      in_min, in_max, out_min, out_max;
    unsigned flags;
    int      code;                            /* tells rows of one family apart */
    /* Fills dtype and dims of every out (each out[i] exists while inferring); checks everything that can be checked without data. */
    enum status (*infer)(struct call *c, struct err *err);
    enum status (*eval)(struct call *c, struct err *err);
    uint64_t    (*scratch)(const struct call *c);                 /* NULL: none */
    enum status (*prepare)(struct call *c, struct err *err);      /* once per plan; sets c->state */
    void        (*release)(void *state);
    /* Given operands with batched flags: is every output batched, rows independent? NULL: never. */
    bool        (*rows)(const struct call *c);
    /* The call as tasks of a GPU (engine/graph/tasks.h), every shape known; refuses what cannot be said so. NULL: never. */
    void        (*tasks)(struct call *c, struct task_list *l);
};

enum op_flags {
    OP_VIEW       = 1,     /* out[0] is in[0] with other dims */
    OP_INPLACE    = 2,     /* out[0] may overwrite in[0] (or in[1]) of the same size */
    OP_SHAPE_ONLY = 4,     /* eval looks at the dims of its inputs only */
    OP_LAST       = 8,     /* takes channels-last operands, all ranks >= 3 in the same layout, and keeps the layout */
    OP_UNARY      = 16,    /* elementwise, one tensor input */
    OP_BROADCAST  = 32,    /* elementwise over broadcast inputs */
    OP_SHAPE_IN1  = 64,    /* input 1 only says a shape */
    OP_SPLAT      = 128,   /* inputs may be splats */
    OP_DRAWS      = 256,   /* random: never folded */
    OP_READS_LAST = 1024,  /* takes a channels-last input 0, answers in plain order */
    OP_MAKES      = 2048,  /* eval makes every result itself (call_make): their types or shapes depend on data. There is no infer; `prepare` is called once per plan, before any shape is known */
    OP_PRODUCT    = 8192,  /* work: up to every element of the results times every element of the largest input */
    OP_PRODUCT_ALL = 16384, /* work: up to the product of the inputs' elements, of one input its square */
    OP_HOLES      = 4096,  /* inputs among the first in_min may be left out; infer looks */
    OP_SUMS       = 32768, /* adds in[residual], whose buffer the result may take over */
    OP_WANTS_LAST = 512,   /* convolution: input 0 must be channels last when it is f32 */
    OP_BYTES      = 32768, /* made by fuse_quantised: takes bytes in either order where its other flags say so */
};

/* ---- operators: engine/operators/table.c ---- */
/* The row for this name at this opset, or NULL. *known is set when the operator exists at another opset. */
const struct op *op_find(const char *domain, const char *name, int opset, bool *known);

/* ---- attributes ---- */
const struct onnx_attribute *node_attribute(const struct node *n, const char *name);
int64_t       node_int(const struct node *n, const char *name, int64_t otherwise);
float         node_float(const struct node *n, const char *name, float otherwise);
const int64_t *node_ints(const struct node *n, const char *name, int *count);       /* NULL and 0 if absent */
bool          node_text_is(const struct node *n, const char *name, const char *text, bool otherwise);

/* ---- for operators ---- */
enum status call_error(const struct call *c, struct err *err, enum status st, const char *format, ...) __attribute__((format(printf, 4, 5)));
uint64_t    operand_count(const struct operand *o);      /* elements; the shape was checked */
int         operand_size(const struct operand *o);       /* bytes of an element */
/* Sets dtype and dims of out[i], checking that the size fits. */
enum status call_set(struct call *c, int i, enum dtype t, const int64_t *dims, int rank, struct err *err);
/* Reads input i as a short list of integers (int32, int64 or uint8). False when its data is not known: needs_data is then set. */
enum status call_ints(struct call *c, int i, int64_t *out, int max, int *count, bool *known, struct err *err);
/* Has whoever runs this asked for its end? Sets err. For loops whose length data says. */
bool        call_stopped(const struct call *c, struct err *err);
/* For OP_MAKES: sets dtype and dims of out[i] (always there) and gives it memory of the run. */
enum status call_make(struct call *c, int i, enum dtype t, const int64_t *dims, int rank, struct err *err);
/* A copy of a value whose bytes, texts and items all lie in the arena: what a sequence or a later step may keep. */
enum status operand_keep(struct operand *to, const struct operand *from, struct arena *arena, struct err *err);
struct tensor  operand_tensor(const struct operand *o);
struct operand tensor_operand(const struct tensor *t);
bool        axis_fix(int64_t *axis, int rank);           /* -rank..rank-1 -> 0..rank-1 */
/* dims in the order the bytes lie in. */
void        operand_physical(const struct operand *o, int64_t *dims);

/* ---- building ---- */
int          graph_add_value(struct graph *g, const char *name, enum value_kind kind);         /* -1: no memory */
struct node *graph_add_node(struct graph *g, int in_count, int out_count);                   /* NULL: no memory; lists filled with -1 */
/* A node of one of our own operators and its one output, which is given back: inputs (-1 at the end: left out), `spec` copied into the arena. -1: no memory. out may be NULL. */
int          graph_add_operator(struct graph *g, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out);
int          graph_add_constant(struct graph *g, const char *name, enum dtype t, const int64_t *dims, int rank, void *data);   /* data in the arena */
/* The constant's dense, aligned bytes. Materialised into the arena where the file's are not aligned or it is a splat. NULL: over budget. */
const void  *graph_dense(struct graph *g, int value);
/* The graph closes the layer when it is closed itself; false: no memory, and the layer was closed. */
bool         graph_own_linear(struct graph *g, struct linear_layer *l);
void         graph_count_uses(struct graph *g);
/* Sorts nodes so that producers come first (the file's order where it can); drops dead ones. */
enum status  graph_sort(struct graph *g, struct err *err);
/* An empty graph of the same arena and device that closes with g: for bodies. NULL: no memory. */
struct graph *graph_add_inner(struct graph *g);
void         graph_close(struct graph *g);               /* packed weights; the arena is the caller's */

#endif
