/* What the operator files share: one table per family, joined by table.c; helpers to check operands; strided walks. */
#ifndef ENGINE_OPERATORS_OPERATORS_H
#define ENGINE_OPERATORS_OPERATORS_H

#include "engine/graph/graph.h"

extern const struct op ops_unary[], ops_binary[], ops_shape[], ops_move[], ops_pad[], ops_reduce[], ops_normalise[], ops_conv[], ops_pool[], ops_matmul[], ops_resize[], ops_index[];
extern const struct op ops_cast[], ops_bits[], ops_scatter[], ops_arrange[], ops_control[], ops_sequence[], ops_attention[], ops_linear_attention[], ops_loss[], ops_norms[], ops_recurrent[], ops_conv_other[], ops_quantise[], ops_products[],
    ops_sample[], ops_boxes[], ops_decode[], ops_fourier[], ops_einsum[], ops_unique[], ops_strings[], ops_tfidf[], ops_random[], ops_optimiser[],
    ops_ml_features[], ops_ml_labels[], ops_ml_trees[], ops_ml_machines[], ops_ms_elementwise[], ops_ms_products[], ops_ms_pointwise[], ops_ms_attention[], ops_ms_grouped[];
/* Made by passes only. */
/* RNN, GRU and LSTM with the usual attributes go through recurrent_f32.c; with constant weights (rank 3: dims of W and R) these are packed. */
enum recurrent_part { RECURRENT_W, RECURRENT_R, RECURRENT_LAST /* of a GRU that resets before the product: R's rows of the last gate */, RECURRENT_PARTS };
int64_t  recurrent_rows(const struct node *n, enum recurrent_part part, int64_t hidden, int64_t gates);                   /* of a part; 0: there is no such part */
int64_t  recurrent_row(const struct node *n, enum recurrent_part part, int64_t hidden, int64_t gates, int64_t place);     /* of a direction of W or R: what stands at this place of the part */
bool     recurrent_is_plain(const struct node *n);
bool     recurrent_packable(const struct graph *g, const struct node *n);
uint64_t recurrent_pack_bytes(const struct kernels *k, const struct node *n, const int64_t *w, const int64_t *r);
uint64_t recurrent_room(const int64_t *w, const int64_t *r);     /* floats that packing works in */
void     recurrent_pack(const struct kernels *k, const struct node *n, void *packed, float *room, const float *w, const int64_t *w_dims, const float *r, const int64_t *r_dims);
/* What kernels call this node, ACT_NONE where they do not know it. */
struct activation_spec activation_of_node(const struct node *n);
extern const struct op op_reorder, op_shuffle, op_scale_shift, op_silu, op_mean_pixels, op_scale_pixels;

/* ---- operands ---- */
/* Input i; NULL where it was left out. */
const struct operand *call_input(const struct call *c, int i);
/* Input 0 has elements of whole bytes; is of a floating-point type. */
enum status call_need_sized(const struct call *c, struct err *err);
enum status call_need_real(const struct call *c, struct err *err);
/* dims[from] * ... * dims[to - 1] */
int64_t     dims_product(const int64_t *dims, int from, int to);
/* Where dimension d of the ONNX order lies in the bytes. */
int         operand_physical_axis(const struct operand *o, int d);

/* Batches of matrices, the last two dimensions: those before them, broadcast between two operands. */
struct batch_shape { int rank; int64_t dims[TENSOR_RANK_MAX]; };
bool        batch_shape_of(struct batch_shape *s, const struct operand *a, const struct operand *b);      /* false: they do not fit */
/* Which of o's matrices belongs to matrix `at` of the result. */
int64_t     batch_matrix(const struct batch_shape *s, const struct operand *o, int64_t at);

/* Infer of elementwise operators: out[0] like in[0]. */
enum status infer_same(struct call *c, struct err *err);
/* ---- proofs of row independence ---- */
bool rows_elementwise(const struct call *c);     /* every batched input aligned with dimension 0 of the output, nothing tainted */
bool rows_first(const struct call *c);           /* input 0 batched and dims[0] kept, all others neither batched nor tainted */
bool rows_apart(const struct call *c);           /* rows_first, and input 0 has more dimensions than the rows': for what works along the last one */
bool call_any_tainted(const struct call *c, int from);

/* ---- strided walks ---- */
enum { WALK_MAX = 4 };
/* Visits the elements of a shape in order; runs of the innermost dimension are handed over whole. offset[k] and stride[k] are in elements. */
struct walk {
    int     rank, count;                               /* operands */
    int64_t dims[TENSOR_RANK_MAX], stride[WALK_MAX][TENSOR_RANK_MAX];
    int64_t offset[WALK_MAX], index[TENSOR_RANK_MAX];
    int64_t run;                                       /* length of the innermost dimension */
    bool    more;
};
/* strides: stride[k][d] filled by the caller for dims[0..rank-1]; dimensions are merged where all operands allow it. */
void walk_begin(struct walk *w);
void walk_next(struct walk *w);
static inline int64_t walk_step(const struct walk *w, int k) { return w->rank ? w->stride[k][w->rank - 1] : 0; }
/* Element strides of an operand by ONNX dimension, whatever its layout. */
void operand_strides(const struct operand *o, int64_t *strides);
/* Sets up a walk over out (in the order its bytes lie) for inputs broadcast against it; legacy aligns input 1 at `axis` (opset < 7). */
enum status walk_broadcast(struct walk *w, const struct call *c, struct err *err);
enum status infer_broadcast_dims(struct call *c, int64_t *dims, int *rank, struct err *err);

/* memcpy by element size with strides: y contiguous. */
void copy_strided(void *y, const void *x, int64_t n, int64_t stride, int size);

#endif
