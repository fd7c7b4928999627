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
#include "kernels/blocks.h"

#ifdef __CUDACC__
#define GPU_INLINE static inline __host__ __device__
#else
#define GPU_INLINE static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { GPU_API_VERSION = 2, GPU_DIMS = 8, GPU_OPERANDS = 12, GPU_SPACE = 3, GPU_TEXT = 96, GPU_MASKS = 2, GPU_PARTS = 3, GPU_CHUNK = 32 /* numbers of a matrix that are read together */ };

/* How numbers lie in device memory. U8 is also bool (0 or 1). */
enum gpu_type { GPU_F32, GPU_F16, GPU_BF16, GPU_I32, GPU_I64, GPU_U8, GPU_I8, GPU_TYPE_COUNT };
GPU_INLINE int gpu_type_bytes(int type) { return type == GPU_I64 ? 8 : type == GPU_F32 || type == GPU_I32 ? 4 : type == GPU_F16 || type == GPU_BF16 ? 2 : 1; }
GPU_INLINE bool gpu_type_is_float(int type) { return type <= GPU_BF16; }

/* ---- tasks ---- */
enum gpu_kind { GPU_POINTWISE, GPU_MOVE, GPU_FILL, GPU_GATHER, GPU_REDUCE, GPU_SOFTMAX, GPU_NORM_ROWS, GPU_NORM_CHANNELS, GPU_POOL, GPU_RESIZE, GPU_PRODUCT, GPU_CONV, GPU_ATTENTION, GPU_PIXELS,
    GPU_EMBED, GPU_LINEAR, GPU_GATE, GPU_ROPE_TABLE, GPU_STORE, GPU_PAGED, GPU_ROUTE, GPU_COMBINE /* of language models */, GPU_ROTATE, GPU_KIND_COUNT };

/* y[i] = f(a[...], b[...], c[...]), then the activation. One input: functions of a; two: of a and b. Whole numbers alone are computed as int64, everything else as float. */
enum gpu_function {
    GPU_COPY /* also between types: towards whole numbers truncated; with alpha to U8: bool, "is not 0" */, GPU_NEG, GPU_ABS, GPU_RECIPROCAL, GPU_FLOOR, GPU_CEIL, GPU_ROUND /* ties to even */, GPU_SIGN, GPU_SQRT, GPU_EXP, GPU_LOG, GPU_SIN, GPU_COS,
    GPU_NOT, GPU_ISNAN, GPU_SOFTSIGN, GPU_MISH, GPU_SWISH /* a * sigmoid(alpha a) */, GPU_SELU /* beta * (a > 0 ? a : alpha expm1(a)) */, GPU_CELU /* alpha */, GPU_THRESHOLD /* a > alpha ? a : 0 */, GPU_SCALE /* alpha a */,
    GPU_ADD, GPU_SUB, GPU_MUL, GPU_DIV, GPU_POW, GPU_MIN, GPU_MAX, GPU_MOD /* sign of b */, GPU_FMOD /* sign of a */, GPU_PRELU, GPU_AND, GPU_OR, GPU_XOR, GPU_EQUAL, GPU_LESS, GPU_GREATER, GPU_LESS_EQUAL, GPU_GREATER_EQUAL,
    GPU_WHERE /* a ? b : c */, GPU_SCALE_SHIFT /* a * b + c */, GPU_MODULATE /* a * (1 + b) + c; of two inputs c is 0 */, GPU_FUNCTION_COUNT
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

/* Rows of n: y = (x - mean) / sqrt(variance + epsilon) * scale[i] + bias[i]; rms: no mean. Operands x, y, scale, bias (address 0: left out). periods: every row of so many has its own n of scale and
 * bias; 0: all have the same. */
struct gpu_norm_rows { int64_t rows, n; float epsilon; bool rms; int64_t periods; };
/* x [batch, channels, space] (last: [batch, space, channels]) by groups of channels over all space; scale and bias by channel. */
struct gpu_norm_channels { int64_t batch, channels, groups, space; float epsilon; bool last; struct activation_spec act; };

/* A window over up to three dimensions, channels last (x [n, in..., c]) or first. */
enum gpu_pooling { GPU_POOL_MAX, GPU_POOL_AVERAGE /* padding not counted */, GPU_POOL_AVERAGE_PADDED };
struct gpu_window { int dims; int64_t in[GPU_SPACE], out[GPU_SPACE], kernel[GPU_SPACE], stride[GPU_SPACE], dilation[GPU_SPACE], low[GPU_SPACE], high[GPU_SPACE] /* padding before and behind */; };
struct gpu_pool { int pooling; bool last; int64_t n, channels; struct gpu_window w; };

/* Each output element of one axis is a sum of `taps` elements of x [outer, in, inner]: operands x, y, index (int32 [out, taps]), weight (float [out, taps]). */
struct gpu_resize { int64_t outer, in, out, inner; int taps; };

/* y [batch, m, n] = act(alpha * a b + bias[n] + residual). a [m, k] with `a_turned` [k, m]; b [k, n] with b_turned [n, k]; y dense by rows. Batch steps in elements, 0: one for all.
 * residual: y's shape and steps. Operands a, b, y, bias, residual; of a and b in halves the other three may be floats. */
struct gpu_product { int64_t m, n, k, batch, a_step, b_step; float alpha; bool a_turned, b_turned, has_bias, has_residual; struct activation_spec act; };

/* Channels last: x [n, in..., in_c], weight [out_c, kernel..., in_c / groups], y [n, out..., out_c]; y = act(conv + bias + residual). Transposed: weight [in_c, kernel..., out_c / groups],
 * and the window's in and out are those of the convolution that it undoes: in is y's space, out is x's. Operands x, weight, y, bias, residual. */
struct gpu_conv { int64_t n, in_c, out_c, groups; bool transposed, has_bias, has_residual; struct gpu_window w; struct activation_spec act; };

/* As struct attention_dense: element (row, head, token, i) of q lies at q.row * row + q.head * head + q.token * token + i. Masks: float added, or bool whose 0 stands for `unseen`.
 * Operands q, k, v, y, mask 0, mask 1, counts (int32 [batch]: keys that a row's queries see; address 0: all). `nothing` times 0 is what a query gets that sees no key. */
struct gpu_steps { int64_t row, head, token; };
enum gpu_mask_kind { GPU_NO_MASK, GPU_MASK_ADD, GPU_MASK_SEEN, GPU_MASK_HIDDEN };
struct gpu_mask { int kind; float unseen; int64_t row, head, query; };
struct gpu_attention { int64_t batch, heads, queries, keys, head_dim, head_dim_v; int group /* heads that share one of k and v */; float scale, nothing; bool causal; struct gpu_steps q, k, v, y; struct gpu_mask masks[GPU_MASKS]; };

/* y = x [rows, columns], whose neighbouring pairs of the first `rotary` numbers of `heads` heads from `column` on are turned by the row's place among `tokens`: table [tokens, rotary] cosines, then sines.
 * Operands x, table, y. */
struct gpu_rotate { int64_t rows, columns, column, heads, head_dim, tokens; int rotary; };

/* Pictures as they come from a decoder, uint8 [n, h * w, c], to numbers: y = x * scale[c] + shift[c], y channels last or first. Operands x, y, scale, shift (float). */
struct gpu_pixels { int64_t n, space, channels; bool last; };

/* ---- language models: what their operators (engine/operators/llm.h) ask for ---- */
/* A matrix in device memory: n rows of k numbers, row_bytes (a multiple of 16) apart. block is an enum block_type that gpu_block_is_native: of F32, F16 and BF16 a row is its numbers, filled up
 * with 0 to whole chunks; of the others the file's blocks taken apart, one field of all blocks of the row after the other (gpu_block_fields). */
struct gpu_matrix { int block; int64_t n, k, row_bytes; };
struct gpu_field { int from, bytes; };       /* of a block as the file has it, in the order of the device */
enum { GPU_FIELDS = 4 };
GPU_INLINE bool gpu_block_is_plain(int block) { return block == BLOCK_F32 || block == BLOCK_F16 || block == BLOCK_BF16; }
GPU_INLINE bool gpu_block_is_native(int block) { return gpu_block_is_plain(block) || block == BLOCK_Q4_0 || block == BLOCK_Q8_0 || block == BLOCK_Q4_K || block == BLOCK_Q5_K || block == BLOCK_Q6_K; }
/* Fills what is used; the number of fields, 0 for plain numbers. */
static inline int gpu_block_fields(int block, struct gpu_field f[GPU_FIELDS])
{
    switch (block) {
    case BLOCK_Q4_0: f[0] = (struct gpu_field){ 2, 16 }, f[1] = (struct gpu_field){ 0, 2 }; return 2;                       /* numbers, scale */
    case BLOCK_Q8_0: f[0] = (struct gpu_field){ 2, 32 }, f[1] = (struct gpu_field){ 0, 2 }; return 2;
    case BLOCK_Q4_K: f[0] = (struct gpu_field){ 0, 144 }; return 1;
    case BLOCK_Q5_K: f[0] = (struct gpu_field){ 0, 176 }; return 1;
    case BLOCK_Q6_K: f[0] = (struct gpu_field){ 0, 128 }, f[1] = (struct gpu_field){ 128, 64 }, f[2] = (struct gpu_field){ 192, 16 }, f[3] = (struct gpu_field){ 208, 2 }; return 4;      /* low bits, high bits, scales, their scale */
    default: return 0;
    }
}

/* y [count, k] = row ids[i] + shift of the matrix (held to its rows) times scale; without ids row i. Operands ids (int32), matrix, y. */
struct gpu_embed { struct gpu_matrix w; int64_t count, shift; float scale; };

/* act(gate) * up, by enum gate_kind of kernels/llm.h. Element (r, i): gate[gate_from + r gate_step + i], up likewise; y dense [rows, n]. Operands gate, up, y. */
struct gpu_gate { int64_t rows, n, gate_from, gate_step, up_from, up_step; int kind; float limit; };

/* y_p [m, n_p] = act(x [m, k] W_p' + bias_p + residual), for matrices that read the same x, all sums float: for few rows, since every number of W is decoded for up to eight of them. gated: of two
 * parts y_0 = gate(part 0) * part 1, of which no y is made. experts: row r takes, of each part, matrix chosen[r] (next bytes apart, their biases next_bias numbers) and row r / share of x.
 * Operands x, of each part W, y, bias (GPU_LINEAR_*), residual (of part 0), chosen (int32); addresses 0: left out. */
struct gpu_linear { int64_t m, k; int parts; struct gpu_matrix w[GPU_PARTS]; int64_t next[GPU_PARTS], next_bias[GPU_PARTS]; bool gated; int gate_kind; float limit; bool has_residual; int experts, share; struct activation_spec act; };
enum { GPU_LINEAR_X = 0, GPU_LINEAR_W = 1, GPU_LINEAR_Y = 2, GPU_LINEAR_BIAS = 3, GPU_LINEAR_EACH = 3 /* operands of a part */, GPU_LINEAR_RESIDUAL = 10, GPU_LINEAR_CHOSEN = 11 };

/* y [count, rotary]: rotary / 2 cosines, then sines, of position times frequency, times factor. Positions with the bit ROPE_LONG of engine/operators/llm.h (1 << 30) take the long frequencies, where
 * there are any. Operands positions (int32), y, frequency, long frequency. */
struct gpu_rope_table { int64_t count; int rotary; float factor, factor_long; };

/* Where a text's keys and values lie: rows int32 [sequences, 4] {first token, tokens, position of the first, first entry in pages}, pages int32, and pages themselves as kernels/attention.h lays them
 * out, from layer on page_stride bytes apart. kv_block: F32, F16, BF16, Q8_0. */
struct gpu_cache { int sequences, kv_heads, kv_block; int64_t head_dim, head_dim_v, layer, page_stride; };

/* Rotates queries and keys (table: what gpu_rope_table makes; address 0: not) and puts keys and values into their pages. Element i of head h of token t: q[q_from + t q_step + h head_dim + i].
 * Operands q, k, v, table, rows, pages, kv, y [tokens, heads * head_dim] (the rotated queries). */
struct gpu_store_kv { struct gpu_cache c; int64_t tokens, heads, q_from, q_step, k_from, k_step, v_from, v_step; int rotary; bool adjacent; };

/* Attention of queries q [tokens, heads * head_dim] over their texts' pages, as struct attention_spec says it. Keys are taken by spans of GPU_SPAN from a text's beginning on, whose results are put
 * together in that order. A token that no row names gets 0. Operands q, rows, pages, kv, y [tokens, heads * head_dim_v], sinks, alibi (float [heads], address 0: none), partial (float: GPU_PAGED_PARTIAL
 * numbers for each of `spans` spans, tokens and heads). */
enum { GPU_SPAN = 512 };
struct gpu_paged { struct gpu_cache c; int64_t tokens, heads, spans /* of the longest text that the page table has room for */; float scale, softcap; int window; bool causal, alone /* a query's bits do not depend on how its text is cut into calls; nothing is rounded */; };
GPU_INLINE int64_t gpu_paged_partial(const struct gpu_paged *p) { return p->c.head_dim_v + 2; }      /* sums, then the largest score and the weights' total */

/* The `used` largest of each row's logits (the lower index first among equals) and their weights: exponentials by their own sum (own), or by that of all. Operands logits [tokens, experts],
 * chosen (int32) and weight (float) [tokens, used]. */
struct gpu_route { int64_t tokens; int experts, used; bool own; };
/* y [tokens, n] = sum over u of weight[t, u] * x[t * used + u]. Operands x, weight, y. */
struct gpu_combine { int64_t tokens, n; int used; };

struct gpu_task {
    int   kind, operands;
    void *at[GPU_OPERANDS];              /* device addresses, in the order that the struct names; results where it says y (pointwise: inputs, then y) */
    int   type[GPU_OPERANDS];            /* enum gpu_type */
    union {
        struct gpu_pointwise pointwise; struct gpu_move move; struct gpu_fill fill; struct gpu_gather gather; struct gpu_reduce reduce; struct gpu_softmax softmax; struct gpu_norm_rows norm_rows;
        struct gpu_norm_channels norm_channels; struct gpu_pool pool; struct gpu_resize resize; struct gpu_product product; struct gpu_conv conv; struct gpu_attention attention; struct gpu_pixels pixels; struct gpu_rotate rotate;
        struct gpu_embed embed; struct gpu_linear linear; struct gpu_gate gate; struct gpu_rope_table rope_table; struct gpu_store_kv store; struct gpu_paged paged; struct gpu_route route; struct gpu_combine combine;
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
