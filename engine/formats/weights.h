/* The tensors of a weight file, whatever its format (gguf.h, safetensors.h): named, typed views into a mapped file, found by name. The file stays mapped
 * as long as the object that read it; nothing is copied. Tensors are not aligned beyond what the file promises. */
#ifndef ENGINE_FORMATS_WEIGHTS_H
#define ENGINE_FORMATS_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

enum { WEIGHTS_RANK_MAX = 8, WEIGHTS_TENSORS_MAX = 65536 };

/* GGUF's type numbers (the first list), and after them what only safetensors has. */
enum weight_type {
    WEIGHT_F32 = 0, WEIGHT_F16 = 1, WEIGHT_Q4_0 = 2, WEIGHT_Q4_1 = 3, WEIGHT_Q5_0 = 6, WEIGHT_Q5_1 = 7, WEIGHT_Q8_0 = 8, WEIGHT_Q8_1 = 9,
    WEIGHT_Q2_K = 10, WEIGHT_Q3_K = 11, WEIGHT_Q4_K = 12, WEIGHT_Q5_K = 13, WEIGHT_Q6_K = 14, WEIGHT_Q8_K = 15, WEIGHT_IQ2_XXS = 16, WEIGHT_IQ2_XS = 17,
    WEIGHT_IQ3_XXS = 18, WEIGHT_IQ1_S = 19, WEIGHT_IQ4_NL = 20, WEIGHT_IQ3_S = 21, WEIGHT_IQ2_S = 22, WEIGHT_IQ4_XS = 23, WEIGHT_I8 = 24, WEIGHT_I16 = 25,
    WEIGHT_I32 = 26, WEIGHT_I64 = 27, WEIGHT_F64 = 28, WEIGHT_IQ1_M = 29, WEIGHT_BF16 = 30, WEIGHT_TQ1_0 = 34, WEIGHT_TQ2_0 = 35, WEIGHT_MXFP4 = 39,
    WEIGHT_BOOL = 1000, WEIGHT_U8 = 1001, WEIGHT_U16 = 1002, WEIGHT_U32 = 1003, WEIGHT_U64 = 1004, WEIGHT_F8_E4M3 = 1005, WEIGHT_F8_E5M2 = 1006,
};

struct weight_tensor {
    const char    *name;                       /* NUL-terminated, owned by the file's object */
    int            type;                       /* enum weight_type */
    int            rank;                       /* 0: a scalar */
    int64_t        dims[WEIGHTS_RANK_MAX];     /* outermost first (row-major); a quantised row is whole blocks along dims[rank - 1] */
    const uint8_t *data;                       /* view into the mapped file */
    uint64_t       bytes;                      /* exactly what type and dims say */
};

/* Elements and bytes of one block of the type (1 element for plain types); false for a number that is no type. */
bool        weight_type_block(int type, uint32_t *elements, uint32_t *bytes);
const char *weight_type_name(int type);        /* "Q8_0"; "?" for a number that is no type */
/* Bytes of a tensor; the sentence tells an unknown type, a row that is not whole blocks, or a size beyond 2^63. */
enum status weight_tensor_bytes(int type, const int64_t *dims, int rank, uint64_t *bytes, struct err *err);

/* A map from byte strings to non-negative ints: open addressing, seeded so that a file cannot choose its collisions. Keys are borrowed. */
struct weights_map {
    struct weights_map_slot { const char *text; uint32_t length; int32_t value; } *slots;
    uint32_t mask, count;
    uint64_t seed;
};
bool weights_map_init(struct weights_map *m, uint64_t expected);                                  /* false: no memory */
bool weights_map_put(struct weights_map *m, const char *text, size_t length, int32_t value);       /* grows; replaces an equal key; false: no memory */
int  weights_map_get(const struct weights_map *m, const char *text, size_t length);                /* -1: absent */
void weights_map_free(struct weights_map *m);

/* The tensors of one or several files. Filled by the readers. */
struct weights {
    struct weight_tensor *tensors;
    int                   count, capacity;
    struct weights_map    names;
};
/* Appends a copy of *t (its name must outlive the set). ST_BAD_INPUT for a name that is there already or one tensor too many. */
enum status                 weights_add(struct weights *w, const struct weight_tensor *t, struct err *err);
const struct weight_tensor *weights_find(const struct weights *w, const char *name);               /* NULL: absent */
void                        weights_free(struct weights *w);

/* Where the writers of gguf.h and safetensors.h put their bytes. write returns false when it could not. */
struct weights_sink { bool (*write)(void *ctx, const void *bytes, size_t n); void *ctx; };
struct weights_sink weights_sink_fd(const int *fd);                /* an open file descriptor; *fd must outlive the sink */
struct weights_sink weights_sink_buf(struct buf *b);

#endif
