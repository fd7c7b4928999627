/* What the builders of networks share: finding a network's weights by the names that diffusers gives them, and adding operators to a graph. A network is a folder of a
 * diffusers model (config.json and *.safetensors) or a part of a single file, whose names are translated (names.h). Weights stay mapped; what is packed takes their place. */
#ifndef ENGINE_DIFFUSION_NETWORK_H
#define ENGINE_DIFFUSION_NETWORK_H

#include "base/json.h"
#include "engine/formats/weights.h"
#include "engine/graph/graph.h"
#include "engine/operators/llm.h"
#include "kernels/linear.h"

enum { NETWORK_NAME_MAX = 256, NETWORK_LEVELS_MAX = 16 };

/* The weights of one network. */
struct network_source {
    const struct weights *weights;
    uint8_t              *used;        /* [weights->count] asked for */
    /* NULL: names are as diffusers has them. Else what the file may call one, in `out`, for attempt 0, 1, ...; false: nothing more. */
    bool                (*rename)(const struct network_source *s, const char *name, int attempt, char *out, size_t size);
    const char           *prefix;      /* of all names of this network in a file that holds several, or NULL */
    int                   levels, layers;      /* for `rename`: of an autoencoder, of a U-Net's blocks */
    const struct json    *config;      /* config.json's object */
};

struct network {
    struct graph      *g;
    struct network_source *source;
    const struct json *config;
    enum linear_mode   mode;           /* LINEAR_F32: everything in f32; else convolutions too are rounded to bfloat16 where that is quicker */
    struct err        *err;
    enum status        st;             /* the first failure sticks: every function below then does nothing and gives -1 or NULL */
};

/* ---- configuration ---- */
int64_t     network_int(const struct network *b, const char *key, int64_t otherwise);
double      network_real(const struct network *b, const char *key, double otherwise);
bool        network_bool(const struct network *b, const char *key, bool otherwise);
const char *network_text(const struct network *b, const char *key, const char *otherwise);       /* otherwise: also for null */
/* Element `index` of a list, or the number itself for every index; `otherwise` for null and what is not there. */
int64_t     network_int_at(const struct network *b, const char *key, int index, int64_t otherwise);
const char *network_text_at(const struct network *b, const char *key, int index);                 /* NULL: none */
int         network_count(const struct network *b, const char *key);                               /* elements of a list, 0 for anything else */
bool        network_has(const struct network *b, const char *key);                                 /* there and not null */

/* ---- weights; names are printf formats ---- */
const struct weight_tensor *network_find(struct network *b, const char *format, ...) __attribute__((format(printf, 2, 3)));      /* NULL: absent; no failure */
/* A vector or small table as floats in the arena. NULL when absent: a failure when `needed`. count 0: any. */
const float *network_floats(struct network *b, int64_t count, bool needed, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* ---- operators: each gives a value ---- */
int  network_fail(struct network *b, enum status st);
/* The first failure with its sentence; later ones say nothing. */
int  network_refuse(struct network *b, enum status st, const char *format, ...) __attribute__((format(printf, 3, 4)));
int  network_no_memory(struct network *b);
void network_begin(struct network *b, int inputs, int outputs);              /* room for them */
int  network_input(struct network *b, const char *name, enum dtype t, int rank, const int64_t *dims);     /* -1: free */
void network_output(struct network *b, int v, const char *name);
/* A node with up to eight inputs (those left out at the end are -1) and one output. */
int  network_add(struct network *b, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out);

extern const struct activation_spec NETWORK_PLAIN, NETWORK_SILU;
enum status network_activation(const char *name, struct activation_spec *out, struct err *err);

/* NAME.weight [n, k] (or [n, k, 1, 1]) and NAME.bias, which may be absent. residual -1: none. */
int  network_linear(struct network *b, int x, int residual, struct activation_spec act, const char *format, ...) __attribute__((format(printf, 5, 6)));
/* GEGLU: the first half of such a layer's columns times gelu of the second; one node where the kernels have it so. */
int  network_geglu(struct network *b, int x, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Rows of a table by ids; type: the enum block_type of spec->format. */
int  network_embed(struct network *b, int ids, int type, const struct embed_spec *spec);
/* The same as network_linear for a matrix that is stored the other way round, [k, n]. */
int  network_linear_turned(struct network *b, int x, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Rows [first, first + count) of the same. */
int  network_linear_rows(struct network *b, int x, int64_t first, int64_t count, const char *format, ...) __attribute__((format(printf, 5, 6)));
/* NAME.weight [out, in, k, k]; padding `low` above and left, `high` below and right. A 1x1 window of stride 1 becomes a Linear. */
int  network_conv(struct network *b, int x, int residual, int stride, int low, int high, struct activation_spec act, const char *format, ...) __attribute__((format(printf, 8, 9)));
/* add, modulation -1: none */
int  network_group_norm(struct network *b, int x, int add, int modulation, int64_t groups, double epsilon, struct activation_spec act, const char *format, ...) __attribute__((format(printf, 8, 9)));
/* With or without scale and bias. columns: of a row. */
int  network_layer_norm(struct network *b, int x, int64_t columns, double epsilon, const char *format, ...) __attribute__((format(printf, 5, 6)));
/* An RMS norm over groups of `width` columns; the weight is NAME.weight. */
int  network_rms_norm(struct network *b, int x, int64_t width, double epsilon, const char *format, ...) __attribute__((format(printf, 5, 6)));
int  network_attention(struct network *b, int q, int k, int v, int counts, int heads, int head_dim, double scale, bool causal);
int  network_sum(struct network *b, int x, int y);
int  network_act(struct network *b, int x, struct activation_spec act);
int  network_join(struct network *b, int x, int y, int axis);
/* Every tensor of the source was asked for, but for names that contain one of `idle` (NULL-ended). */
enum status network_all_used(const struct network *b, const char *const *idle);

#endif
