/* A linear layer of a language model: y[m, n] = epilogue(x[m, k] W^T) with W as a GGUF file stores it: n rows of k numbers in blocks of one type
 * (kernels/blocks.h). Kernel and packed layout are chosen once, when the layer is opened, by type, mode and CPU level.
 *
 * LINEAR_F32: every number of W is decoded to float, and each sum takes its k terms in ascending order with one fused multiply-add each, then the epilogue:
 *   the bits of gemm_f32 on the decoded weights, whatever m, threads and level.
 * LINEAR_FAST: the quickest. Rows of x are rounded to 8 bits in blocks of 32 for quantised weights; from 17 rows on, where a machine has tiles, x and W are rounded to bfloat16
 *   instead (W to within 2^-14 of its row's largest number, too, so one row of W may not be of many sizes). F16 and F32 weights are never rounded, nor are BF16 ones (x then is, from 9 rows on).
 * LINEAR_INVARIANT: as FAST, but a row's bits depend on nothing but that row, W and the level: not on m, the other rows or the threads. */
#ifndef KERNELS_LINEAR_H
#define KERNELS_LINEAR_H

#include "base/err.h"
#include "kernels/kernels.h"

enum linear_mode { LINEAR_F32, LINEAR_FAST, LINEAR_INVARIANT, LINEAR_MODE_COUNT };

struct linear_spec {
    int              type;               /* enum block_type */
    const void      *weight;             /* n rows, row_bytes apart; any alignment */
    int64_t          n, k;               /* k a multiple of the type's block */
    int64_t          row_bytes;          /* at least k / elements * bytes */
    enum linear_mode mode;
    enum cpu_level   level;              /* cap; the machine's own level if that is lower */
    bool             gated;              /* with few_rounded on a machine that is quick at bfloat16 (kernels.bf16): of the n rows, a multiple of 32, the second half are gates: y [m, n / 2] = (the first half's sums) * activation(the second's), bias [n], no residual */
    bool             few_rounded;        /* FAST, BF16 weights: few rows of x are rounded to bfloat16, too, where the machine is quick at that */
};

struct linear_layer;                     /* packed weights and choice; immutable, shared by all instances */

/* ST_BAD_INPUT, ST_UNSUPPORTED (no such type), ST_TOO_LARGE, ST_NO_MEMORY. *out is untouched on failure. */
enum status linear_open(struct linear_layer **out, const struct linear_spec *spec, struct err *err);
void        linear_close(struct linear_layer *l);                   /* NULL is fine */
uint64_t    linear_bytes(const struct linear_layer *l);             /* memory of its own: packed weights; 0 when it borrows */
uint64_t    linear_open_bytes(const struct linear_spec *spec);      /* what linear_bytes will say, for a budget; UINT64_MAX when that is no number */
const char *linear_kernel(const struct linear_layer *l);            /* e.g. "q4_k panels, vnni", for inspect */
bool        linear_rounds(const struct linear_layer *l);            /* x is rounded, for some numbers of rows at least */
bool        linear_is_invariant(const struct linear_layer *l);      /* a row's bits depend on neither m nor the other rows, although the mode may be FAST */
bool        linear_borrows(const struct linear_layer *l);           /* spec.weight is still read by linear_run: keep it mapped */

/* Bytes of scratch (64-byte aligned) for a run of m rows on so many threads. Grows with m. */
uint64_t    linear_scratch(const struct linear_layer *l, int64_t m, int threads);
/* y [m, n] row stride ldy; x [m, k] row stride ldx; y may not overlap x. ep: NULL, or bias [n], residual (may be y) and activation. Allocates nothing.
 * A number that is not finite in a row of x makes that row of y not finite too. */
void        linear_run(const struct linear_layer *l, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep, void *scratch, int threads);

/* Several layers of one x, as linear_run of each in turn and with its bits; rows are rounded once for layers beside each other that round them alike. y's overlap neither x nor each other; scratch
 * for the one that needs most. */
struct linear_part { const struct linear_layer *layer; float *y; int64_t ldy; const struct gemm_epilogue *ep; };
void        linear_run_parts(const struct linear_part *parts, int count, const float *x, int64_t ldx, int64_t m, void *scratch, int threads);

/* As linear_run where x lies in memory as bfloat16 (x_halves), y and the residual do (y_halves), or neither, for a layer of few_rounded on a machine that is quick at bfloat16, whatever m.
 * With tiles a row's bits depend neither on m nor on the other rows. */
struct linear_halves { bool x, y; };
void        linear_run_halves(const struct linear_layer *l, void *y, int64_t ldy, const void *x, int64_t ldx, int64_t m, struct linear_halves halves, const struct gemm_epilogue *ep, void *scratch, int threads);

/* Columns [from, to) of y alone, on the calling thread; from is a multiple of 32, and to as well or n. Threads that share out y so each have scratch of their own. */
uint64_t    linear_columns_scratch(const struct linear_layer *l, int64_t m);
void        linear_run_columns(const struct linear_layer *l, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep, void *scratch, int64_t from, int64_t to);

#endif
