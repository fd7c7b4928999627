/* Layers on bytes: convolutions and matrix products of 8-bit numbers, and what goes with them between quantised layers.
 *
 * x holds unsigned bytes (or signed ones), channels last; weights are signed bytes without a zero point. Sums are exact int32. What becomes of a sum is float, in one
 * order that all levels keep, so that all agree in bits:
 *   v = (float)(sum of (x - x_zero) w + start[c]) scale[c] + shift[c]       one fused multiply-add
 *   bytes: v (with an activation first: activation(v) inverse) is rounded to nearest even and limited to low .. high; with a residual that number n and the residual's byte r
 *          give n first + (r - r_zero) second, rounded and limited again; then zero is added, and a table of 256 may follow
 *   float: activation(v); int32: the sum itself */
#ifndef KERNELS_BYTES_H
#define KERNELS_BYTES_H

#include "base/err.h"
#include "kernels/kernels.h"

enum bytes_out { BYTES_U8, BYTES_S8, BYTES_F32, BYTES_I32 };
enum { BYTES_TERMS_MAX = 65536 };        /* of one sum: 255 x 128 times as much fits int32 */

/* Limits and zeros count from 0 to 255 for unsigned bytes and from -128 to 127 for signed ones. */
struct bytes_finish {
    enum bytes_out out;
    const int32_t *start;                /* [out_c] or NULL */
    const float *scale, *shift;          /* [out_c]; shift may be NULL, scale too where the result is int32 */
    struct activation_spec act;          /* kernels.h; RELU and CLIP of bytes are better said as low and high */
    float inverse;
    float low, high;                     /* around 0: zero is not in them */
    int zero;
    bool has_residual, r_signed;
    int r_zero;
    float first, second, sum_low, sum_high;      /* the limits after the residual was added */
    const uint8_t *table;                /* [256] or NULL: of the finished byte's bits */
};

struct bytes_spec {
    int64_t in_c, out_c, groups;
    int kh, kw, stride_h, stride_w, dilation_h, dilation_w;
    bool x_signed;
    int x_zero;
    struct bytes_finish finish;
};

struct bytes_layer;
/* weight [out_c, in_c / groups, kh, kw]: element (m, c, y, x) at m * row_stride + (c * kh + y) * kw + x elements, or with `column_stride` (1 x 1 only) at m + c * column_stride.
 * Everything is copied. ST_UNSUPPORTED where a sum may pass int32. */
enum status bytes_layer_open(struct bytes_layer **out, const struct bytes_spec *s, const int8_t *weight, int64_t column_stride, const struct kernels *k, struct err *err);
void        bytes_layer_close(struct bytes_layer *l);          /* NULL is fine */
uint64_t    bytes_layer_bytes(const struct bytes_layer *l);
const char *bytes_layer_kernel(const struct bytes_layer *l);
/* Scratch of bytes_layer_run; 64-byte aligned. */
uint64_t    bytes_layer_scratch(const struct bytes_layer *l, const struct window2d *w, int threads);
/* y [n, out_h, out_w, out_c]; residual in y's shape (bytes). y may be residual, never x. A matrix is a picture of 1 x rows. x_zero: another zero point than the layer was opened with, of a
 * layer whose result is int32; NULL: the same. */
void        bytes_layer_run(const struct bytes_layer *l, void *y, const void *x, const int *x_zero, const void *residual, const struct window2d *w, void *scratch, int threads);

/* ---- number by number: real = (byte - zero) scale ---- */
struct quantum { float scale; int zero; bool is_signed; };

/* y[i] = x[i] / scale, rounded to nearest even, and zero; limited to the bytes there are. What is no number gives the least byte. */
void bytes_round(const struct kernels *k, void *y, const float *x, int64_t n, const struct quantum *q, int threads);
void bytes_restore(const struct kernels *k, float *y, const void *x, int64_t n, const struct quantum *q, int threads);
/* y[i] = a[i] + b[i], the real sum limited to low .. high (around y's zero, in its quanta); y may be a or b */
void bytes_add(const struct kernels *k, void *y, const void *a, const void *b, int64_t n, const struct quantum *qa, const struct quantum *qb, const struct quantum *qy, float low, float high, int threads);
/* y[n, r, c] = x[n, r, c] gate[n, c]; y may be x. With rows = 1 a product number by number. */
void bytes_scale(const struct kernels *k, void *y, const void *x, const void *gate, int64_t n, int64_t rows, int64_t columns, const struct quantum *qx, const struct quantum *qg, const struct quantum *qy, int threads);
void bytes_look_up(const struct kernels *k, void *y, const void *x, int64_t n, const uint8_t *table, int threads);          /* y may be x */
void bytes_pool_max(const struct kernels *k, void *y, const void *x, const struct window2d *w, bool is_signed, int threads);  /* a window with nothing in it gives the least byte */
/* [n, rows, columns] -> [n, columns]; the sum is exact */
void bytes_mean(const struct kernels *k, void *y, const void *x, int64_t n, int64_t rows, int64_t columns, const struct quantum *qx, const struct quantum *qy, int threads);

#endif
