/* Operators on bytes that engine/graph/fuse_quantised.c makes out of a quantised file's patterns. What each needs to know is in node->spec; window attributes are those of the
 * operator that it came from. Values stay bytes between them; kernels/bytes.h does the work. */
#ifndef ENGINE_OPERATORS_QUANTISED_BYTES_H
#define ENGINE_OPERATORS_QUANTISED_BYTES_H

#include "engine/graph/graph.h"
#include "kernels/bytes.h"

/* BytesConv, BytesProduct and BytesTranspose (convolution, product by a matrix, transposed convolution whose window is its stride): input 0 x, 1 the weight of signed bytes,
 * 2 what is added (node->residual), or the zero
 * point of x where the file computes it. The layer's arrays lie in the model's arena; its counts and window are set from the weight when it is packed. */
struct bytes_product {
    struct bytes_spec layer;
    bool columns;                        /* the weight is [in, out] */
    bool offset;                         /* the weight's bytes are unsigned around 128 */
    struct quantum x, y;                 /* y: of a result in bytes, before a sum and a table */
};

/* BytesRound, BytesRestore, BytesAdd, BytesScale, BytesTable, BytesPool, BytesMean */
struct bytes_values {
    struct quantum a, b, y;
    float low, high;                     /* BytesAdd */
    uint8_t table[256];
};

extern const struct op op_bytes_conv, op_bytes_product, op_bytes_transpose, op_bytes_round, op_bytes_restore, op_bytes_add, op_bytes_scale, op_bytes_table, op_bytes_pool, op_bytes_mean;

static inline bool op_is_bytes_layer(const struct op *op) { return op == &op_bytes_conv || op == &op_bytes_product || op == &op_bytes_transpose; }
/* Channels of input and result, groups and window of a layer with this weight. */
void bytes_product_shape(struct bytes_spec *s, const struct node *n, const struct operand *weight, const struct bytes_product *p);

#endif
