/* The linear layer: checks the spec, chooses, and shares columns of y out to threads.
 *
 * Two ways. `decoded` is there for every type: a thread decodes a slab of W (all of k, as many columns as stay in its second-level cache) to floats in
 * the panels of gemm_f32 and multiplies there; the slab's width shows nowhere in the result. F32 weights are one packed slab made at the start. */
#include "kernels/linear.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/blocks.h"

enum {
    ALIGN = 64,
    SLAB_STEP = 32,                      /* columns: a whole number of panels at every level */
    SLAB_BYTES = 1 << 20,
    DECODE_BYTES = 4 * 256 * SLAB_STEP   /* 256 numbers of each row of a step */
};
static const int64_t PARALLEL_MIN = 150000;      /* multiply-adds below which waking a team costs more than it saves */
static const uint64_t NUMBERS_MAX = (uint64_t)1 << 44;

struct linear_layer {
    struct linear_spec spec;
    const struct block_format *format;
    struct kernels k;
    void *packed;                        /* F32: gemm_f32's */
    uint64_t bytes;
    int64_t slab;                        /* columns decoded at a time */
    char name[48];
};

static enum status check_spec(const struct linear_spec *s, const struct block_format **format, struct err *err)
{
    const struct block_format *f = block_format(s->type);
    uint64_t size;
    if (!f) return err_set(err, ST_UNSUPPORTED, "linear layer: weight type %d is none of those known here", s->type);
    if (s->n < 1 || s->k < 1) return err_set(err, ST_BAD_INPUT, "linear layer: %lld x %lld weights: both must be at least 1", (long long)s->n, (long long)s->k);
    if (s->k % f->elements) return err_set(err, ST_BAD_INPUT, "linear layer: rows of %lld numbers are not whole %s blocks of %d", (long long)s->k, f->name, f->elements);
    if (!size_mul((uint64_t)s->n, (uint64_t)s->k, &size) || size > NUMBERS_MAX) return err_set(err, ST_TOO_LARGE, "linear layer: %lld x %lld weights are more than fit in memory", (long long)s->n, (long long)s->k);
    if (s->row_bytes < s->k / f->elements * f->bytes)
        return err_set(err, ST_BAD_INPUT, "linear layer: rows %lld bytes apart are shorter than %lld %s numbers", (long long)s->row_bytes, (long long)s->k, f->name);
    if ((unsigned)s->mode >= LINEAR_MODE_COUNT) return err_set(err, ST_BAD_INPUT, "linear layer: no such mode");
    *format = f;
    return ST_OK;
}

/* ---- decoded: slabs of floats ---- */

static int64_t slab_columns(int64_t k)
{
    int64_t columns = SLAB_BYTES / (int64_t)sizeof(float) / k / SLAB_STEP * SLAB_STEP;
    return columns < SLAB_STEP ? SLAB_STEP : columns;
}

/* W's rows [first, first + columns) as a packed b [k, columns] of gemm_f32, whose panels may be narrower or as wide as a step. */
static void decode_slab(const struct linear_layer *l, float *packed, float *rows, int64_t first, int64_t columns)
{
    const struct linear_spec *s = &l->spec;
    const int64_t span = 256;
    const int64_t width = (int64_t)(l->k.gemm_f32_packed_bytes(1, 1) / sizeof(float));    /* of a panel */
    for (int64_t at = 0; at < columns; at += width) {
        const int64_t count = columns - at < width ? columns - at : width;
        float *panel = packed + at * s->k;
        for (int64_t from = 0; from < s->k; from += span) {
            const int64_t numbers = s->k - from < span ? s->k - from : span;
            for (int64_t r = 0; r < count; r++)
                l->format->decode(rows + r * span, (const char *)s->weight + (first + at + r) * s->row_bytes + from / l->format->elements * l->format->bytes, numbers);
            for (int64_t i = 0; i < numbers; i++) {
                float *to = panel + (from + i) * width;
                for (int64_t r = 0; r < count; r++) to[r] = rows[r * span + i];
                for (int64_t r = count; r < width; r++) to[r] = 0;
            }
        }
    }
}

struct decoded_job {
    const struct linear_layer *l;
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx, m;
    const struct gemm_epilogue *ep;
    char *scratch;
    uint64_t lane_bytes;
};

static uint64_t decoded_lane_bytes(const struct linear_layer *l)
{
    return (uint64_t)l->slab * (uint64_t)l->spec.k * sizeof(float) + DECODE_BYTES;
}

static void decoded_part(void *ctx, int part, int parts)
{
    const struct decoded_job *j = ctx;
    const struct linear_layer *l = j->l;
    const int64_t n = l->spec.n, slab = l->slab, steps = (n + SLAB_STEP - 1) / SLAB_STEP;
    float *rows = (float *)(void *)(j->scratch + (uint64_t)part * j->lane_bytes), *packed = rows + DECODE_BYTES / (int)sizeof *rows;
    int64_t end = steps * (part + 1) / parts * SLAB_STEP;
    if (end > n) end = n;
    for (int64_t at = steps * part / parts * SLAB_STEP; at < end; at += slab) {
        const int64_t columns = end - at < slab ? end - at : slab;
        struct gemm_epilogue ep = *j->ep;
        if (ep.bias) ep.bias += at;
        if (ep.residual) ep.residual += at;
        decode_slab(l, packed, rows, at, columns);
        l->k.gemm_f32(j->y + at, j->ldy, j->x, j->ldx, packed, j->m, columns, l->spec.k, &ep, 1);
    }
}

static void decoded_run(const struct decoded_job *job, int threads)
{
    struct decoded_job j = *job;
    const struct linear_spec *s = &j.l->spec;
    const int64_t steps = (s->n + SLAB_STEP - 1) / SLAB_STEP;
    const int parts = s->n * s->k < PARALLEL_MIN / 8 ? 1 : steps < threads ? (int)steps : threads;     /* decoding costs like several rows */
    j.lane_bytes = decoded_lane_bytes(j.l);
    parallel_for(parts, parts, decoded_part, &j);
}

/* ---- the layer ---- */

static uint64_t own_bytes(const struct linear_layer *l)
{
    return l->spec.type == BLOCK_F32 ? (uint64_t)l->k.gemm_f32_packed_bytes(l->spec.k, l->spec.n) : 0;
}

uint64_t linear_open_bytes(const struct linear_spec *spec)
{
    struct linear_layer l = { .spec = *spec };
    if (check_spec(spec, &l.format, NULL)) return UINT64_MAX;
    kernels_fill(&l.k, spec->level);
    return own_bytes(&l);
}

/* F32 rows may lie at any alignment and stride: packed a step of columns at a time. */
static void pack_f32(struct linear_layer *l, float *rows)
{
    for (int64_t at = 0; at < l->spec.n; at += SLAB_STEP) {
        const int64_t columns = l->spec.n - at < SLAB_STEP ? l->spec.n - at : SLAB_STEP;
        decode_slab(l, (float *)l->packed + at * l->spec.k, rows, at, columns);
    }
}

enum status linear_open(struct linear_layer **out, const struct linear_spec *spec, struct err *err)
{
    const struct block_format *format;
    enum status st = check_spec(spec, &format, err);
    if (st) return st;
    struct linear_layer *l = mem_calloc_array(1, sizeof *l);
    if (!l) return err_set(err, ST_NO_MEMORY, "linear layer");
    l->spec = *spec;
    l->format = format;
    kernels_fill(&l->k, spec->level);
    l->slab = slab_columns(spec->k);
    l->bytes = own_bytes(l);
    if (l->bytes) {
        float *rows = mem_alloc_aligned(DECODE_BYTES, ALIGN);
        l->packed = mem_alloc_aligned(l->bytes, ALIGN);
        if (!rows || !l->packed) {
            free(rows);
            st = err_set(err, ST_NO_MEMORY, "linear layer: %llu bytes of packed weights", (unsigned long long)l->bytes);
            goto close_layer;
        }
        pack_f32(l, rows);
        free(rows);
    }
    snprintf(l->name, sizeof l->name, "%s %s, %s", format->name, l->packed ? "packed" : "decoded by slabs", cpu_level_name(l->k.level));
    *out = l;
    return ST_OK;
close_layer:
    linear_close(l);
    return st;
}

void linear_close(struct linear_layer *l)
{
    if (!l) return;
    free(l->packed);
    free(l);
}

uint64_t    linear_bytes(const struct linear_layer *l) { return l->bytes; }
const char *linear_kernel(const struct linear_layer *l) { return l->name; }
bool        linear_borrows(const struct linear_layer *l) { return !l->packed; }

uint64_t linear_scratch(const struct linear_layer *l, int64_t m, int threads)
{
    (void)m;
    return l->packed ? 0 : decoded_lane_bytes(l) * (uint64_t)(threads < 1 ? 1 : threads);
}

void linear_run(const struct linear_layer *l, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep, void *scratch, int threads)
{
    static const struct gemm_epilogue nothing = { .act = { .kind = ACT_NONE } };
    if (m < 1) return;
    if (threads < 1) threads = 1;
    if (!ep) ep = &nothing;
    if (l->packed) {
        l->k.gemm_f32(y, ldy, x, ldx, l->packed, m, l->spec.n, l->spec.k, ep, threads);
        return;
    }
    assert(scratch);
    const struct decoded_job j = { .l = l, .y = y, .ldy = ldy, .x = x, .ldx = ldx, .m = m, .ep = ep, .scratch = scratch };
    decoded_run(&j, threads);
}
