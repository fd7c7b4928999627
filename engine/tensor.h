/* What every part of the house agrees a tensor is. dtypes carry the numbers of ONNX's TensorProto.DataType, so that no table is needed
 * between a file and a kernel; block-quantised types of language models will start at 64. */
#ifndef ENGINE_TENSOR_H
#define ENGINE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum dtype {
    DT_NONE = 0, DT_F32 = 1, DT_U8 = 2, DT_I8 = 3, DT_U16 = 4, DT_I16 = 5, DT_I32 = 6, DT_I64 = 7, DT_STRING = 8, DT_BOOL = 9,
    DT_F16 = 10, DT_F64 = 11, DT_U32 = 12, DT_U64 = 13, DT_C64 = 14, DT_C128 = 15, DT_BF16 = 16,
    DT_F8E4M3FN = 17, DT_F8E4M3FNUZ = 18, DT_F8E5M2 = 19, DT_F8E5M2FNUZ = 20, DT_U4 = 21, DT_I4 = 22, DT_F4E2M1 = 23, DT_F8E8M0 = 24,
    DT_U2 = 25, DT_I2 = 26,
    DT_COUNT,                  /* what a file may say ends here */
    DT_SEQUENCE = 40,          /* rank 1; its elements are struct tensor, whose data belongs to whoever owns the sequence's */
    DT_ABSENT = 41             /* an optional that holds nothing: rank 0, no bytes */
};

enum { TENSOR_RANK_MAX = 8 };
enum { TENSOR_ALIGN = 64 };    /* bytes; every tensor buffer of ours starts so */

/* An element of a DT_STRING tensor: bytes, not NUL-terminated. */
struct string_ref { const char *text; size_t length; };

struct tensor {
    enum dtype dtype;
    int        rank;                       /* 0: a scalar */
    int64_t    dims[TENSOR_RANK_MAX];      /* row-major */
    void      *data;                       /* borrowed; DT_STRING: struct string_ref[count]; 4- and 2-bit types packed, low bits first */
    uint64_t   bytes;                      /* of data */
};

/* Bits of one element; 0 for DT_STRING, DT_SEQUENCE, DT_ABSENT and DT_NONE. */
int         dtype_bits(enum dtype t);
const char *dtype_name(enum dtype t);          /* "float32", "int64", "string", ... as ONNX and NumPy say */
const char *dtype_oip(enum dtype t);           /* "FP32", "INT64", "BYTES", ... (Open Inference Protocol); NULL where it has none */
enum dtype  dtype_from_oip(const char *name, size_t length);      /* DT_NONE if unknown */
const char *dtype_config(enum dtype t);        /* "TYPE_FP32", "TYPE_STRING", ... (Triton's ModelConfig); NULL where it has none */
enum dtype  dtype_from_config(const char *name, size_t length);
const char *dtype_npy(enum dtype t);           /* "<f4", "|b1", ...; NULL where NumPy has none */

/* Elements of a shape; false when a dimension is negative or the product does not fit. Rank 0 has one. */
bool shape_count(const int64_t *dims, int rank, uint64_t *out);
/* Bytes of a dense tensor (4- and 2-bit types rounded up); DT_STRING counts its string_refs, DT_SEQUENCE its tensors. */
bool tensor_bytes(enum dtype t, const int64_t *dims, int rank, uint64_t *out);
/* "[1,3,224,224]" into out, cut when it does not fit; returns out. */
char *shape_text(const int64_t *dims, int rank, char *out, size_t size);

#endif
