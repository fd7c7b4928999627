/* Between the builders: build_parts.c has the pieces, build.c the decoders and encoders of one stack, build_pair.c those with an encoder beside the decoder. */
#ifndef ENGINE_LLM_BUILD_INTERNAL_H
#define ENGINE_LLM_BUILD_INTERNAL_H

#include "engine/llm/build.h"
#include "engine/operators/llm.h"

enum { TEXT_GUESS = 512 };        /* positions that a token is taken to look at when threads are chosen */

struct builder {
    struct graph     *g;
    struct llm_model *m;
    const struct llm_config *c;
    const struct llm_build_options *o;
    struct err       *err;
    enum status       st;          /* the first failure sticks; every function below does nothing then and gives -1 */
    int               inputs[LLM_INPUTS];
    int               table, local_table;   /* of the rotation */
    uint64_t          page_stride, layer_bytes;
    struct arena      loose;       /* a matrix that had to be rearranged, until its layer is packed */
};

/* build_pair.c: the decoder of a pair. */
enum status llm_build_decoder(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err);

extern const struct activation_spec BUILD_PLAIN;

/* The first failure and its sentence; those after it say nothing. -1. */
int  build_refuse(struct builder *b, enum status st, const char *format, ...) __attribute__((format(printf, 3, 4)));
int  build_no_memory(struct builder *b);
/* A node with up to six inputs (-1: left out at the end) and one output. */
int  build_add(struct builder *b, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out);
bool build_has(struct builder *b, enum llm_role role, int layer);
const float *build_floats(struct builder *b, enum llm_role role, bool bias, int layer, int64_t count);
/* llm_weight_find for a matrix that build_open_linear is given next. */
enum status build_find(struct builder *b, enum llm_role role, int layer, int expert, int64_t n, int64_t k, struct llm_weight *w);
/* The file's pages of a matrix that has been copied. */
void build_let_go(const struct llm_weight *w);
struct linear_layer *build_open_linear(struct builder *b, const struct llm_weight *w);
int  build_linear_of(struct builder *b, int x, const struct llm_weight *w, const float *bias, int residual, struct activation_spec act);
/* The matrix of a role and its bias, if there is one. Without the matrix: -1, an error only when it is `needed`. */
int  build_linear(struct builder *b, int x, enum llm_role role, int layer, int64_t n, int64_t k, int residual, struct activation_spec act, bool needed);
/* On a GPU (g->gpu): the matrix in device memory; and up to three matrices that read the same x, as one node. roles: of the layer, each [n[i], width]; gated: of two. Results in y[]. */
void build_device_matrix(struct builder *b, const struct llm_weight *w, struct device_matrix *out);
void build_projections(struct builder *b, int x, const enum llm_role *roles, const int64_t *n, int parts, int layer, const struct gate_spec *gate, int *y);
/* A norm over groups of `width` columns; `columns`: of the value. Some families' norms have no weights (OLMo): `bare` allows that. */
int  build_norm(struct builder *b, int x, enum llm_role role, int layer, int64_t width, int64_t columns, bool bare);
int  build_scaled(struct builder *b, const struct op *op, int x, float limit);
int  build_sum(struct builder *b, int x, int y);
int  build_embed(struct builder *b, enum llm_role role, int ids, int64_t rows, int64_t shift, float scale, bool needed);
struct gate_spec build_gate_of(const struct llm_config *c);
void build_add_inputs(struct builder *b);
void build_name_output(struct builder *b, int v, const char *name);

#endif
