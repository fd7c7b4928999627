/* What networks that draw need beside kernels.h and linear.h, as a table of one level: group norms, the weights of an attention block, growing a picture. */
#ifndef KERNELS_DIFFUSION_H
#define KERNELS_DIFFUSION_H

#include "kernels/attention_dense.h"
#include "kernels/kernels.h"

/* y = act(norm(x + add) * scale + bias), and with `modulation` act(... * (1 + m[c]) + m[channels + c]). A picture's numbers are those of one group at a time: mean and
 * variance over all its pixels and the channels of the group. Sums go over GROUP_NORM_ROWS pixels at a time, channel by channel, and then over channels and
 * blocks in ascending order in double: the same bits for any company, threads and level. */
enum { GROUP_NORM_ROWS = 64, GROUP_NORM_CHANNELS_MAX = 4096 /* of one group */ };
struct group_norm {
    int64_t n, rows, channels, groups;   /* x and y [n, rows, channels] */
    const float *scale, *bias;           /* [channels] or NULL */
    const float *add;                    /* [n, channels], ldadd apart, or NULL */
    int64_t      ldadd;
    const float *modulation;             /* [n, 2 channels], ldmod apart, or NULL */
    int64_t      ldmod;
    float        epsilon;
    struct activation_spec act;
};

struct diffusion_kernels {
    enum cpu_level level;
    /* scratch: group_norm_scratch bytes, aligned to 64; y may be x */
    void (*group_norm_f32)(float *y, const float *x, const struct group_norm *g, void *scratch, int threads);
    /* s [rows, columns], lds apart, the scores of queries from i on of row b and head h with keys from j on: s * scale, then what the masks do to it. */
    void (*attention_masks_f32)(float *s, int64_t lds, int64_t rows, int64_t columns, const struct attention_dense *a, int64_t b, int64_t h, int64_t i, int64_t j);
    /* s [rows, columns], lds apart: row r becomes exp(s * scale - top[r]) for its first limit[r] columns (ATTENTION_DENSE_KEYS at most), 0 for the others; top and sum [rows] go on
     * from what they were, and shrink[r] is what has been added up so far must be multiplied by. A row of nothing but -infinity adds nothing. */
    void (*attention_weights_f32)(float *s, int64_t lds, int64_t rows, int64_t columns, const int64_t *limit, float scale, float *top, float *sum, float *shrink);
    /* y[r, c] *= factor[r] */
    void (*scale_rows_f32)(float *y, int64_t ldy, const float *factor, int64_t rows, int64_t columns);
    /* attention_dense_f32 with numbers rounded to bfloat16; without `distance`. A query's bits do not depend on the others. NULL unless cpu_is_quick_at_bf16. */
    uint64_t (*attention_bf16_scratch)(const struct attention_dense *a, int threads);
    void (*attention_bf16)(const struct attention_dense *a, void *scratch, int threads);
    /* Nearest: y [n, out_h, out_w, c] from x [n, h, w, c]; pixel i of a side of `out` is pixel floor(i * in / out). */
    void (*upsample_f32)(float *y, const float *x, int64_t n, int64_t h, int64_t w, int64_t c, int64_t out_h, int64_t out_w, int threads);
};

uint64_t group_norm_scratch(const struct group_norm *g);

/* Fills the table for min(cap, what the machine has). */
void diffusion_kernels_fill(struct diffusion_kernels *k, enum cpu_level cap);

#endif
