/* The operator table: the families' tables searched in turn. */
#include <string.h>

#include "engine/operators/operators.h"

static const struct op *const families[] = {
    ops_unary, ops_binary, ops_shape, ops_move, ops_pad, ops_reduce, ops_normalise, ops_conv, ops_pool, ops_matmul, ops_resize, ops_index,
    ops_cast, ops_bits, ops_scatter, ops_arrange, ops_control, ops_sequence, ops_attention, ops_linear_attention, ops_loss, ops_norms, ops_recurrent, ops_conv_other,
    ops_quantise, ops_products, ops_sample, ops_boxes, ops_decode, ops_fourier, ops_einsum, ops_unique, ops_strings, ops_tfidf, ops_random, ops_optimiser,
    ops_ml_features, ops_ml_labels, ops_ml_trees, ops_ml_machines, ops_ms_elementwise, ops_ms_products, ops_ms_pointwise, ops_ms_attention, ops_ms_grouped,
};

const struct op *op_find(const char *domain, const char *name, int opset, bool *known)
{
    *known = false;
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++)
        for (const struct op *o = families[f]; o->name; o++) {
            if (strcmp(o->name, name) || strcmp(o->domain, domain)) continue;
            *known = true;
            if (opset >= o->since && opset <= (o->until ? o->until : GRAPH_OPSET_MAX)) return o;
        }
    return NULL;
}
