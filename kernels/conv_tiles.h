/* Convolution on bfloat16 tiles (AMX) without rows of taps in memory: stride 1, one group, any kernel and dilation. Used by conv.c alone.
 *
 * x is written once, rounded, as planes of 32 channels: [copies][in_c / 32][positions][32]. A tile of 16 outputs side by side then is, for each tap, 16 positions one behind the other, 1 KiB
 * that lies together, and another tap is the same tile some positions on. Where lines are a multiple of 16 long one copy does, with the padding's zeros written out on either side of a line;
 * elsewhere there is a copy for each column of taps, moved and without padding, so that tiles run on over the ends of lines.
 * Weights are tiles [out_c / 32][in_c / 32][taps][2][16][32]: one step loads two tiles of x, two of weights and makes four products. What decides
 * speed is how often either is read again from how far: oneDNN goes through all weights for each line of outputs, which pictures of few lines and many channels cannot afford (SPEED.md).
 *
 * A sum takes its terms in one order, planes of 32 channels and their taps, whatever the shape, the batch or the threads: an output is the same bits beside any neighbours. */
#ifndef KERNELS_CONV_TILES_H
#define KERNELS_CONV_TILES_H

#include "kernels/conv.h"

enum { CONV_TILES_TAPS_MAX = 49 };

/* Can it, and is it the first choice where the machine has tiles? A rule from measurements (SPEED.md); s->bf16 is not looked at. */
bool conv_tiles_can(const struct conv_spec *s);
bool conv_tiles_wanted(const struct conv_spec *s);

/* weight: ONNX order. *packed: *bytes on the heap. ST_TOO_LARGE, ST_NO_MEMORY. */
enum status conv_tiles_pack(void **packed, uint64_t *bytes, const struct conv_spec *s, const float *weight, int threads, struct err *err);

/* How a shape lies and is worked through. */
struct conv_tiles_plan {
    int64_t groups, pairs, taps;         /* of 32 input channels, of 32 output channels, of the kernel */
    int     copies;
    int64_t line, image, positions;      /* positions from one line to the next, from one image to the next, of a plane */
    int64_t across;                      /* tiles of a line; 0: tiles run on over lines */
    int64_t image_tiles, tiles;          /* of one image and in all */
    int64_t block;                       /* tiles that meet a part of the weights while that is near */
    int64_t depth;                       /* planes of such a part */
    bool    split_pairs;                 /* threads share out output channels, else tiles */
    uint64_t x_bytes, lane_bytes, scratch;
};
enum status conv_tiles_plan(struct conv_tiles_plan *out, const struct conv_spec *s, const struct window2d *w, int threads, struct err *err);

struct conv_tiles_run {
    const struct conv_spec *spec;
    const struct window2d *w;
    const struct conv_tiles_plan *plan;
    const uint16_t *packed;
    const float *bias;                   /* [out_c] or NULL */
    void *y;                             /* floats or, with spec->y_bf16, bfloat16 */
    const void *x, *residual;            /* floats or, with spec->x_bf16 (y_bf16), bfloat16; residual NULL or y's shape (it may be y) */
    void *scratch;
};
/* Only where cpu_level_detect() is CPU_AMX. */
void conv_tiles_run(const struct conv_tiles_run *r, int threads);

/* ---- kernels/cpu/amx/conv_tiles.c ---- */
/* lines [first, end) of all images' padded lines to planes */
void conv_tiles_write_x(const struct conv_tiles_run *r, uint16_t *x, int64_t first, int64_t end);
/* outputs of pairs [from, to) and tiles [first, end); sums: lane_bytes */
void conv_tiles_multiply(const struct conv_tiles_run *r, const uint16_t *x, float *sums, int64_t from, int64_t to, int64_t first, int64_t end);

#endif
