/* What a GPU does for the graph core: a table of functions that libinferd_cuda.so exports (kernels/cuda/), and the tasks it takes. Numbers only: a task is one kernel call
 * described by shapes, steps and device addresses; graphs, nodes and plans stay on the other side (engine/graph/plan_gpu.h). C17 and CUDA C++ read this header alike.
 *
 * Every function may fail with a sentence. ST_NO_MEMORY means that the budget or the card is full and may be tried again; ST_UNAVAILABLE that the device is lost to this
 * process: nothing but close works on it afterwards (a CUDA context that met an error is not mended by anything short of a new process). */
#ifndef KERNELS_GPU_H
#define KERNELS_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/activation.h"

#ifdef __CUDACC__
#define GPU_INLINE static inline __host__ __device__
#else
#define GPU_INLINE static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { GPU_API_VERSION = 1, GPU_DIMS = 8, GPU_OPERANDS = 8, GPU_SPACE = 3, GPU_TEXT = 96, GPU_MASKS = 2 };

/* How numbers lie in device memory. U8 is also bool (0 or 1). */
enum gpu_type { GPU_F32, GPU_F16, GPU_BF16, GPU_I32, GPU_I64, GPU_U8, GPU_I8, GPU_TYPE_COUNT };
GPU_INLINE int gpu_type_bytes(int type) { return type == GPU_I64 ? 8 : type == GPU_F32 || type == GPU_I32 ? 4 : type == GPU_F16 || type == GPU_BF16 ? 2 : 1; }
GPU_INLINE bool gpu_type_is_float(int type) { return type <= GPU_BF16; }

/* ---- tasks ---- */
enum gpu_kind { GPU_POINTWISE, GPU_MOVE, GPU_FILL, GPU_GATHER, GPU_REDUCE, GPU_SOFTMAX, GPU_NORM_ROWS, GPU_NORM_CHANNELS, GPU_POOL, GPU_RESIZE, GPU_PRODUCT, GPU_CONV, GPU_ATTENTION, GPU_PIXELS, GPU_KIND_COUNT };

/* y[i] = f(a[...], b[...], c[...]), then the activation. One input: functions of a; two: of a and b. Whole numbers alone are computed as int64, everything else as float. */
enum gpu_function {
    GPU_COPY /* also between types: towards whole numbers truncated; with alpha to U8: bool, "is not 0" */, GPU_NEG, GPU_ABS, GPU_RECIPROCAL, GPU_FLOOR, GPU_CEIL, GPU_ROUND /* ties to even */, GPU_SIGN, GPU_SQRT, GPU_EXP, GPU_LOG, GPU_SIN, GPU_COS,
    GPU_NOT, GPU_ISNAN, GPU_SOFTSIGN, GPU_MISH, GPU_SWISH /* a * sigmoid(alpha a) */, GPU_SELU /* beta * (a > 0 ? a : alpha expm1(a)) */, GPU_CELU /* alpha */, GPU_THRESHOLD /* a > alpha ? a : 0 */, GPU_SCALE /* alpha a */,
    GPU_ADD, GPU_SUB, GPU_MUL, GPU_DIV, GPU_POW, GPU_MIN, GPU_MAX, GPU_MOD /* sign of b */, GPU_FMOD /* sign of a */, GPU_PRELU, GPU_AND, GPU_OR, GPU_XOR, GPU_EQUAL, GPU_LESS, GPU_GREATER, GPU_LESS_EQUAL, GPU_GREATER_EQUAL,
    GPU_WHERE /* a ? b : c */, GPU_SCALE_SHIFT /* a * b + c */, GPU_FUNCTION_COUNT
};
/* Elements of the result in order; input k of element (i0, i1, ...) lies at sum of i_d * steps[k][d]. count: the product of dims. */
struct gpu_pointwise { int function, inputs, rank; float alpha, beta; struct activation_spec act; int64_t count, dims[GPU_DIMS], steps[3][GPU_DIMS]; };

/* y[to + ...] = x[from + ...]; both walk over dims with steps of their own, in elements of `size` bytes (1, 2, 4, 8). Steps may be 0 or negative in x. */
struct gpu_move { int rank, size; int64_t count, from, to, dims[GPU_DIMS], x_steps[GPU_DIMS], y_steps[GPU_DIMS]; };

struct gpu_fill { int size; int64_t count; uint64_t bits; };        /* one element's bits, low bytes first */

/* x [outer, n, inner], index [count], y [outer, count, inner]. An index below 0 counts from the end; for one that is outside of x, 1 is written to *fault and something of x to y.
 * Operands x, index, y, fault (int32). */
struct gpu_gather { int size; int64_t outer, n, inner, count; };

/* x by steps: element (kept, gone) lies at the sums of both; y dense over kept. Sums are float (int64 of whole numbers). The log-sum of exponentials takes the largest off first. */
enum gpu_reduction { GPU_RED_SUM, GPU_RED_MEAN, GPU_RED_MAX, GPU_RED_MIN, GPU_RED_PROD, GPU_RED_L1, GPU_RED_L2, GPU_RED_LOG_SUM, GPU_RED_LOG_SUM_EXP, GPU_RED_SQUARES, GPU_RED_ARGMAX, GPU_RED_ARGMIN };
struct gpu_reduce { int reduction, kept_rank, gone_rank; bool last /* arg: of equal ones the last */; int64_t count, length, kept[GPU_DIMS], kept_steps[GPU_DIMS], gone[GPU_DIMS], gone_steps[GPU_DIMS]; };

struct gpu_softmax { int64_t outer, n, inner; bool log; };           /* along the middle axis of a plain tensor */

/* Rows of n: y = (x - mean) / sqrt(variance + epsilon) * scale[i] + bias[i]; rms: no mean. Operands x, y, scale, bias (address 0: left out). */
struct gpu_norm_rows { int64_t rows, n; float epsilon; bool rms; };
/* x [batch, channels, space] (last: [batch, space, channels]) by groups of channels over all space; scale and bias by channel. */
struct gpu_norm_channels { int64_t batch, channels, groups, space; float epsilon; bool last; struct activation_spec act; };

/* A window over up to three dimensions, channels last (x [n, in..., c]) or first. */
enum gpu_pooling { GPU_POOL_MAX, GPU_POOL_AVERAGE /* padding not counted */, GPU_POOL_AVERAGE_PADDED };
struct gpu_window { int dims; int64_t in[GPU_SPACE], out[GPU_SPACE], kernel[GPU_SPACE], stride[GPU_SPACE], dilation[GPU_SPACE], low[GPU_SPACE], high[GPU_SPACE] /* padding before and behind */; };
struct gpu_pool { int pooling; bool last; int64_t n, channels; struct gpu_window w; };

/* Each output element of one axis is a sum of `taps` elements of x [outer, in, inner]: operands x, y, index (int32 [out, taps]), weight (float [out, taps]). */
struct gpu_resize { int64_t outer, in, out, inner; int taps; };

/* y [batch, m, n] = act(alpha * a b + bias[n] + residual). a [m, k] with `a_turned` [k, m]; b [k, n] with b_turned [n, k]; y dense by rows. Batch steps in elements, 0: one for all.
 * residual: y's shape and steps. Operands a, b, y, bias, residual. */
struct gpu_product { int64_t m, n, k, batch, a_step, b_step; float alpha; bool a_turned, b_turned, has_bias, has_residual; struct activation_spec act; };

/* Channels last: x [n, in..., in_c], weight [out_c, kernel..., in_c / groups], y [n, out..., out_c]; y = act(conv + bias + residual). Transposed: weight [in_c, kernel..., out_c / groups],
 * and the window's in and out are those of the convolution that it undoes: in is y's space, out is x's. Operands x, weight, y, bias, residual. */
struct gpu_conv { int64_t n, in_c, out_c, groups; bool transposed, has_bias, has_residual; struct gpu_window w; struct activation_spec act; };

/* As struct attention_dense: element (row, head, token, i) of q lies at q.row * row + q.head * head + q.token * token + i. Masks: float added, or bool whose 0 stands for `unseen`.
 * Operands q, k, v, y, mask 0, mask 1. `nothing` times 0 is what a query gets that sees no key. */
struct gpu_steps { int64_t row, head, token; };
enum gpu_mask_kind { GPU_NO_MASK, GPU_MASK_ADD, GPU_MASK_SEEN, GPU_MASK_HIDDEN };
struct gpu_mask { int kind; float unseen; int64_t row, head, query; };
struct gpu_attention { int64_t batch, heads, queries, keys, head_dim, head_dim_v; int group /* heads that share one of k and v */; float scale, nothing; bool causal; struct gpu_steps q, k, v, y; struct gpu_mask masks[GPU_MASKS]; };

/* Pictures as they come from a decoder, uint8 [n, h * w, c], to numbers: y = x * scale[c] + shift[c], y channels last or first. Operands x, y, scale, shift (float). */
struct gpu_pixels { int64_t n, space, channels; bool last; };

struct gpu_task {
    int   kind, operands;
    void *at[GPU_OPERANDS];              /* device addresses, in the order that the struct names; results where it says y (pointwise: inputs, then y) */
    int   type[GPU_OPERANDS];            /* enum gpu_type */
    union {
        struct gpu_pointwise pointwise; struct gpu_move move; struct gpu_fill fill; struct gpu_gather gather; struct gpu_reduce reduce; struct gpu_softmax softmax; struct gpu_norm_rows norm_rows;
        struct gpu_norm_channels norm_channels; struct gpu_pool pool; struct gpu_resize resize; struct gpu_product product; struct gpu_conv conv; struct gpu_attention attention; struct gpu_pixels pixels;
    } u;
    void *prepared;                      /* the device's own: library plan, algorithm; made by prepare, not by the caller */
};

/* ---- the device ---- */
struct gpu;              /* an open card: context, allocator, library handles. Any thread; calls are ordered by a lock of its own */
struct gpu_queue;        /* a stream with its events and staging memory: one thread at a time */
struct gpu_recording;    /* tasks recorded once and replayed as one launch (a CUDA graph) */

struct gpu_info { char name[GPU_TEXT], driver[GPU_TEXT], uuid[GPU_TEXT] /* "GPU-..." as the driver's tools write it */; int major, minor, processors; uint64_t memory, budget; };
struct gpu_sample { uint64_t memory_used, memory_total; double power_watts, energy_joules, utilisation; /* negative: not known */ };

struct gpu_api {
    uint32_t    version;                 /* GPU_API_VERSION; first in every version */
    const char *name;                    /* "cuda" */
    int         (*count)(void);                                                                       /* cards that can be used; 0 without a driver */
    /* budget: bytes of device memory that alloc gives out at most; 0: nine tenths of what is free now. cache: folder for tuned choices, or NULL. */
    enum status (*open)(struct gpu **out, int ordinal, uint64_t budget, const char *cache, struct err *err);
    void        (*close)(struct gpu *g);
    void        (*info)(const struct gpu *g, struct gpu_info *out);
    bool        (*sample)(struct gpu *g, struct gpu_sample *out);                                      /* false: NVML is not there */
    bool        (*lost)(const struct gpu *g);                                                         /* any thread */

    enum status (*alloc)(struct gpu *g, uint64_t bytes, void **out, struct err *err);                  /* aligned to 256; kept for the next caller when freed */
    void        (*free)(struct gpu *g, void *p);                                                      /* NULL is fine; nobody may still use it */
    enum status (*pin)(struct gpu *g, uint64_t bytes, void **out, struct err *err);                    /* host memory that copies run on by themselves */
    void        (*unpin)(struct gpu *g, void *p);

    enum status (*queue_open)(struct gpu *g, struct gpu_queue **out, struct err *err);
    void        (*queue_close)(struct gpu_queue *q);
    enum status (*put)(struct gpu_queue *q, void *device, const void *host, uint64_t bytes, struct err *err);     /* host may be used again when it returns, unless it is pinned: then after wait */
    enum status (*get)(struct gpu_queue *q, void *host, const void *device, uint64_t bytes, struct err *err);     /* there after wait */
    enum status (*wait)(struct gpu_queue *q, struct err *err);
    double      (*milliseconds)(struct gpu_queue *q);                                                  /* device time between the last two waits; negative: not known */

    /* Checks the task and chooses how it runs (library plans are timed once for each shape and kept in the cache folder). ST_UNSUPPORTED: it cannot; the caller computes it otherwise. */
    enum status (*prepare)(struct gpu *g, struct gpu_task *t, struct err *err);
    void        (*release)(struct gpu *g, struct gpu_task *t);                                         /* what prepare made */
    enum status (*run)(struct gpu_queue *q, const struct gpu_task *tasks, int count, struct err *err); /* starts them in order */
    /* The same, recorded: addresses are those of now. */
    enum status (*record)(struct gpu_queue *q, const struct gpu_task *tasks, int count, struct gpu_recording **out, struct err *err);
    enum status (*replay)(struct gpu_queue *q, struct gpu_recording *r, struct err *err);
    void        (*recording_close)(struct gpu_recording *r);
};

/* The library's one export. */
const struct gpu_api *inferd_gpu_api(void);

#ifdef __cplusplus
}
#endif

/* Opens the library, once a process (it is never closed): `path`, or libinferd_cuda.so beside the program, then where the loader looks. NULL with a sentence when it is not there, of another version, or finds no card. */
const struct gpu_api *gpu_library(const char *path, struct err *err);

#endif
