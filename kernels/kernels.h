/* Numbers only: pointers in, pointers out, no allocation, no threads of their own making but parallel_for. Every function of the table
 * has a complete scalar version; a level replaces what it does better. Contracts are here, code is in cpu/{scalar,avx2,avx512,amx}/.
 *
 * Order of addition (docs/DESIGN.md): every f32 product of matrices adds its k terms in ascending order with one fused multiply-add each,
 * c = fma(a[k], b[k], c) from c = 0, whatever m, n, threads and level; then come the epilogue's steps. So a row's result never
 * depends on its neighbours, and all levels agree in bits. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/activation.h"

enum cpu_level { CPU_SCALAR, CPU_AVX2, CPU_AVX512, CPU_AMX, CPU_LEVEL_COUNT };   /* AVX512 means F, BW, DQ, VL; VNNI and bf16 dot are asked for apart; AMX half-precision arithmetic, too */
enum cpu_level cpu_level_detect(void);                  /* by CPUID and XGETBV; for AMX also the kernel's permission (arch_prctl), asked once */
bool           cpu_has_vbmi(void);                      /* permutations of bytes (AVX512_VBMI), likewise */
bool           cpu_has_vnni(void);                      /* 8-bit dot products (AVX512_VNNI), where the level is CPU_AVX512 or above */
/* Does rounding to bfloat16 pay at this level? With tiles, or with dot products of bfloat16 (AVX512_BF16) at twice floats' rate: AMD's have that, Intel's little more than floats' own. */
bool           cpu_is_quick_at_bf16(enum cpu_level level);
enum { CPU_KIND_MAX = 80 };
void           cpu_kind(char text[CPU_KIND_MAX]);       /* the processor's name and its family, model and stepping: what timings hold for */
const char    *cpu_level_name(enum cpu_level l);        /* "scalar", "avx2", "avx512", "amx" */
bool           cpu_level_from_name(const char *name, enum cpu_level *out);

/* Runs body(ctx, part, parts) on `threads` threads of the calling thread's team and returns when all are done. The only place that
 * knows OpenMP. Parts run in any order. */
void parallel_for(int threads, int parts, void (*body)(void *ctx, int part, int parts), void *ctx);
/* Runs body(ctx, part, parts) on the calling thread's team, all parts at once, so that they may wait for each other; parts is the number of threads there really are, at most `threads`. */
void parallel_team(int threads, void (*body)(void *ctx, int part, int parts), void *ctx);
/* Where the parts of a team, or some of them, wait until all `parts` have come. Begins as zeros. */
struct team_gate { _Alignas(64) _Atomic(int32_t) here, round; };
void team_meet(struct team_gate *gate, int parts);
/* The calling thread's team ends; its next call makes another. For threads that computed for a while and now wait: where more threads live than there are cores, every team's threads sleep at once when
 * they have nothing to do, and waking them costs a step milliseconds. */
void parallel_dismiss(void);
/* The size of the team that a library starts from the calling thread from now on. */
void parallel_set_threads(int threads);

/* c = activation(product * alpha_scale + bias[n] + residual), in this order. */
struct gemm_epilogue {
    const float *bias;              /* [n], or NULL */
    const float *residual;          /* [m, n] with row stride ldr, or NULL */
    int64_t      ldr;
    struct activation_spec act;
};
/* The same for y's columns from `column` on. */
static inline struct gemm_epilogue gemm_epilogue_from(const struct gemm_epilogue *ep, int64_t column)
{
    struct gemm_epilogue own = *ep;
    if (own.bias) own.bias += column;
    if (own.residual) own.residual += column;
    return own;
}

enum pool_kind { POOL_MAX, POOL_AVERAGE /* padding not counted */, POOL_AVERAGE_PADDED /* padding counted */ };

/* A 2-D window over NHWC. out_h, out_w are given by the caller (ceil mode, auto_pad resolved). */
struct window2d {
    int64_t n, h, w, c;
    int64_t out_h, out_w;
    int     kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right;
};

enum arith_kind { ARITH_ADD, ARITH_SUB, ARITH_MUL, ARITH_DIV, ARITH_MAX, ARITH_MIN, ARITH_PRELU };

/* One axis of a tensor seen as [outer, n, inner]. A result of taps is the sum of weight times element index. */
enum reduce_kind { REDUCE_SUM, REDUCE_MEAN, REDUCE_MAX, REDUCE_MIN, REDUCE_L1, REDUCE_L2, REDUCE_SQUARES };
struct axis_tap { int64_t index; float weight; };

/* A window over `dims` axes of [outer, in..., inner]. */
enum { POOL_DIMS_MAX = 6 };
struct pool_any { int64_t outer, inner; int dims; int64_t in[POOL_DIMS_MAX], out[POOL_DIMS_MAX], kernel[POOL_DIMS_MAX], stride[POOL_DIMS_MAX], dilation[POOL_DIMS_MAX], low[POOL_DIMS_MAX], high[POOL_DIMS_MAX]; };

/* A pruned W [k, n] by groups of 16 columns: steps begin[g] to begin[g + 1], in each one place (a row of W, ascending) and value of every column; a column that is done has value 0 at place 0.
 * order: which column that is, -1 none. */
enum { SPARSE_GROUP = 16 };
struct sparse_columns { const int64_t *begin; const int32_t *order; const uint16_t *places /* [steps][16] */; const float *values; };

struct kernels {
    enum cpu_level level;
    bool           bf16;                 /* cpu_is_quick_at_bf16(level) */

    /* ---- products of matrices. B is packed once into panels; a packed B is good for this level only. ---- */
    size_t (*gemm_f32_packed_bytes)(int64_t k, int64_t n);
    /* b[i, j] = b[i * row_stride + j * column_stride], i < k, j < n. So a transposed B needs no copy first. */
    void (*gemm_f32_pack)(void *packed, const float *b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n);
    /* c [m, n] row stride ldc; a [m, k] row stride lda, unit column stride. c may not overlap a. */
    void (*gemm_f32)(float *c, int64_t ldc, const float *a, int64_t lda, const void *packed_b, int64_t m, int64_t n, int64_t k,
                     const struct gemm_epilogue *ep, int threads);

    /* Groups [from, to) of y = x W, W [k, n] as lists of what is not 0 (kernels/sparse.h). rows is 1, 16 or 32: x [k][rows], y [n][rows]. One thread. */
    void (*sparse_f32)(float *y, const float *x, int rows, const struct sparse_columns *s, int64_t from, int64_t to);

    /* ---- element by element; x and y may be the same ---- */
    void (*activate_f32)(float *y, const float *x, int64_t n, struct activation_spec act, int threads);
    void (*add_f32)(float *y, const float *a, const float *b, int64_t n, int threads);
    void (*mul_f32)(float *y, const float *a, const float *b, int64_t n, int threads);
    /* y[i] = a[i * step_a] op b[i * step_b], steps 0 or 1. A NaN on either side makes MAX and MIN NaN; PRELU: a < 0 ? a b : a. */
    void (*arith_f32)(float *y, const float *a, const float *b, int64_t n, int step_a, int step_b, enum arith_kind kind, int threads);
    /* y[r, c] = act(x[r, c] * scale[c] + bias[c]); scale, bias may be NULL (1, 0). Rows contiguous: NHWC batch norm, bias. */
    void (*scale_shift_f32)(float *y, const float *x, const float *scale, const float *bias, int64_t rows, int64_t columns, struct activation_spec act, int threads);

    /* ---- rows ---- */
    void (*softmax_f32)(float *y, const float *x, int64_t rows, int64_t columns, int threads);          /* maximum taken off first */
    void (*layer_norm_f32)(float *y, const float *x, const float *scale, const float *bias, int64_t rows, int64_t columns, float epsilon, int threads);

    /* ---- pictures, NHWC f32 ---- */
    void (*pool2d_f32)(float *y, const float *x, const struct window2d *w, enum pool_kind kind, int threads);
    void (*mean_rows_f32)(float *y, const float *x, int64_t n, int64_t rows, int64_t columns, int threads);   /* [n, rows, columns] -> [n, columns]; GlobalAveragePool in NHWC */
    /* Depthwise: weight [kh, kw, c]; y = act(conv + bias + residual). */
    void (*depthwise2d_f32)(float *y, const float *x, const float *weight, const float *bias, const float *residual, const struct window2d *w, struct activation_spec act, int threads);
    /* Winograd F(4x4, 3x3) of stride 1 (kernels/conv_winograd.h): tiles [first, first + count) of all pictures' tiles, row by row, picture after picture; 4 x 4 outputs each.
     * v: 36 planes, `plane` floats apart, each [count, w->c]; m: 36 planes, each [count, channels]. One thread: the caller shares out tiles.
     * The output is act(transformed + bias[channel] + residual), residual in y's place and shape (it may be y). */
    void (*winograd_input_f32)(float *v, int64_t plane, const float *x, const struct window2d *w, int64_t first, int64_t count);
    void (*winograd_output_f32)(float *y, int64_t channels, const float *m, int64_t plane, const struct window2d *w, int64_t first, int64_t count, const struct gemm_epilogue *ep);
    /* Across-channel local response normalisation (ONNX LRN) on [rows, c]. */
    void (*lrn_f32)(float *y, const float *x, int64_t rows, int64_t c, int size, float alpha, float beta, float bias, int threads);

    /* ---- axes ---- */
    /* y [outer, inner]; sums in double, in an order of n's own. A NaN makes MAX and MIN NaN. n > 0. */
    void (*reduce_f32)(float *y, const float *x, int64_t outer, int64_t n, int64_t inner, enum reduce_kind kind, int threads);
    /* y [outer, out, inner] from x [outer, in, inner]: taps [out, each], indices within `in`. A single tap is a copy. */
    void (*taps_f32)(float *y, const float *x, int64_t outer, int64_t in, int64_t out, int64_t inner, const struct axis_tap *taps, int each, int threads);
    void (*pool_any_f32)(float *y, const float *x, const struct pool_any *w, enum pool_kind kind, int threads);

    /* ---- recurrent cells; one thread ---- */
    /* n units of each row, whose states lie ldh apart and whose gates lie one behind the other, n numbers each.
     * gates: the whole sums of i, o, f, c: cell = sigmoid(f) cell + sigmoid(i) tanh(c), h = sigmoid(o) tanh(cell). */
    void (*lstm_cell_f32)(float *h, float *cell, int64_t ldh, const float *gates, int64_t ldg, int64_t rows, int64_t n);
    /* x and sums, of the input and of h, as z, r, new: z = sigmoid(x + sums), r likewise, new = tanh(x + r sums), y = new + z (h - new). */
    void (*gru_cell_f32)(float *y, const float *h, int64_t ldh, const float *x, int64_t ldx, const float *sums, int64_t lds, int64_t rows, int64_t n);
    /* y = new + keep (h - new); y, h and new lie ldh apart. */
    void (*blend_f32)(float *y, const float *h, const float *new, int64_t ldh, const float *keep, int64_t ldk, int64_t rows, int64_t n);

    /* ---- numbers that lie in memory as bfloat16: kernels/cpu/halves_body.h ---- */
    /* to nearest even; what is no number stays none */
    void (*round_bf16)(void *y, const float *x, int64_t n, int threads);
    void (*widen_bf16)(float *y, const void *x, int64_t n, int threads);
    /* pool2d_f32 and mean_rows_f32 of such pictures: sums are float, rounded once; a maximum is exact */
    void (*pool2d_bf16)(void *y, const void *x, const struct window2d *w, enum pool_kind kind, int threads);
    void (*mean_rows_bf16)(float *y, const void *x, int64_t n, int64_t rows, int64_t columns, int threads);
    /* depthwise2d_f32 of such pictures: sums are float, in the same order, rounded once */
    void (*depthwise2d_bf16)(void *y, const void *x, const float *weight, const float *bias, const void *residual, const struct window2d *w, struct activation_spec act, int threads);
    /* y[n, r, c] = x[n, r, c] * scale[n, c]: the gate of a squeeze-and-excitation block. y may be x. */
    void (*scale_channels_bf16)(void *y, const void *x, const float *scale, int64_t n, int64_t rows, int64_t columns, int threads);

    /* ---- moving ---- */
    /* [n, rows, columns] -> [n, columns, rows], elements of 1, 2, 4 or 8 bytes: NCHW <-> NHWC among others. */
    void (*transpose_2d)(void *y, const void *x, int64_t n, int64_t rows, int64_t columns, int element_bytes, int threads);
};

/* Fills the table for min(cap, what the machine has). */
void kernels_fill(struct kernels *k, enum cpu_level cap);

/* ---- convolution: kernels/conv.h holds the layer object (packed weights) that chooses between our own kernels and oneDNN ---- */

#endif
