/* The block formats of GGUF files: how a row of numbers is stored as blocks of `elements` numbers in `bytes` bytes. A format's number is ggml's type
 * number as the file holds it. Rows are whole blocks, one after the other, little-endian. The layouts are those of the GGUF specification and of
 * the `gguf` package's quants.py, whose float arithmetic decode repeats step by step: equal in bits.
 *
 * Kinds: a scale per block (Q*_0, IQ4_NL, MXFP4), scale and minimum (Q*_1), 256 numbers in sub-blocks with small scales of their own (the K formats),
 * vectors of 4 or 8 from a fixed grid (IQ1 to IQ3: decoding only), three values (TQ1_0, TQ2_0). Q8_1 and Q8_K are formats of activations. */
#ifndef KERNELS_BLOCKS_H
#define KERNELS_BLOCKS_H

#include <stdint.h>

enum block_type {
    BLOCK_F32 = 0, BLOCK_F16 = 1, BLOCK_Q4_0 = 2, BLOCK_Q4_1 = 3, BLOCK_Q5_0 = 6, BLOCK_Q5_1 = 7, BLOCK_Q8_0 = 8, BLOCK_Q8_1 = 9,
    BLOCK_Q2_K = 10, BLOCK_Q3_K = 11, BLOCK_Q4_K = 12, BLOCK_Q5_K = 13, BLOCK_Q6_K = 14, BLOCK_Q8_K = 15,
    BLOCK_IQ2_XXS = 16, BLOCK_IQ2_XS = 17, BLOCK_IQ3_XXS = 18, BLOCK_IQ1_S = 19, BLOCK_IQ4_NL = 20, BLOCK_IQ3_S = 21, BLOCK_IQ2_S = 22, BLOCK_IQ4_XS = 23,
    BLOCK_IQ1_M = 29, BLOCK_BF16 = 30, BLOCK_TQ1_0 = 34, BLOCK_TQ2_0 = 35, BLOCK_MXFP4 = 39, BLOCK_TYPE_END = 40
};

struct block_format {
    const char *name;                    /* as ggml writes it: "Q4_K" */
    int elements, bytes;                 /* of one block */
    /* n numbers, a multiple of `elements`. x and y may have any alignment of bytes on the packed side. Any bytes decode without harm. */
    void (*decode)(float *y, const void *x, int64_t n);
    /* NULL where there is none. Finite numbers only are promised a near fit; others give some block. */
    void (*encode)(void *y, const float *x, int64_t n);
};

/* NULL for a number that names no format here. */
const struct block_format *block_format(int type);

#endif
