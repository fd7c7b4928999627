/* The linear layer: checks the spec, chooses, and shares columns of y out to threads.
 *
 * Weights that have panels (kernels/linear_panels.h) are packed into them once; F32 ones into those of gemm_f32; the rest is read from the file as it lies.
 * Ways to multiply. F32: gemm_f32. `panels`: x rounded to 8 bits against the panels, or x as it is for as few rows as make one tile. `bf16`: many rows, FAST, where
 * the machine is quick at it. `decoded`, for everything else: a thread turns a slab of W (all of k, as many columns as stay in its second-level cache) into floats in the panels of gemm_f32 and
 * multiplies there; the slab's width shows nowhere in the result. */
#include "kernels/linear.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/linear_panels.h"

enum {
    ALIGN = 64,
    SLAB_STEP = 32,                      /* columns: a whole number of panels at every level */
    SLAB_BYTES = 1 << 20,
    DECODE_BYTES = 4 * 256 * SLAB_STEP,  /* 256 numbers of each row of a step */
    BYTES_ROWS_MIN = 32,                 /* of x: from here on tiles of bytes win against the vector units' dot products */
    TILES_ROWS_MIN = 17,                 /* and bfloat16 tiles against either */
    TILES_HALVES_MIN = 9,                /* the same for 16-bit weights, and dot products of bfloat16, against floats */
    EXACT_ROWS = 8                       /* of x: up to here weights become floats as they are used, in registers */
};
static const int64_t PARALLEL_MIN = 150000;      /* multiply-adds below which waking a team costs more than it saves */
static const struct gemm_epilogue nothing = { .act = { .kind = ACT_NONE } };
static const uint64_t NUMBERS_MAX = (uint64_t)1 << 44;

struct linear_layer {
    struct linear_spec spec;
    const struct block_format *format;
    struct kernels k;
    const struct panel_layout *layout;   /* NULL: no panels */
    const struct panel_kernels *panels;
    void *packed;                        /* F32: gemm_f32's; with a layout: panels; else NULL */
    float *units;                        /* of every row of the panels, behind them; NULL where no bfloat16 tiles are made of them */
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
    if (s->gated && (s->n % (2 * PANEL_ROWS) || !s->few_rounded || s->type != BLOCK_BF16 || s->mode != LINEAR_FAST)) return err_set(err, ST_UNSUPPORTED, "linear layer: gates beside what they gate take bfloat16 weights of a multiple of 32 rows and rounded x");
    *format = f;
    return ST_OK;
}

/* ---- decoded: slabs of floats ---- */

static int64_t slab_columns(int64_t k)
{
    int64_t columns = SLAB_BYTES / (int64_t)sizeof(float) / k / SLAB_STEP * SLAB_STEP;
    return columns < SLAB_STEP ? SLAB_STEP : columns;
}

static int64_t gemm_panel(const struct linear_layer *l) { return (int64_t)(l->k.gemm_f32_packed_bytes(1, 1) / sizeof(float)); }    /* columns */

/* W's rows [first, first + columns) as a packed b [k, columns] of gemm_f32, whose panels may be narrower or as wide as a step. */
static void decode_rows(const struct linear_layer *l, float *packed, float *rows, int64_t first, int64_t columns)
{
    const struct linear_spec *s = &l->spec;
    const int64_t span = 256, width = gemm_panel(l);
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

/* The same from panels; first is a multiple of 16. */
static void decode_panels(const struct linear_layer *l, float *packed, int64_t first, int64_t columns)
{
    const int64_t k = l->spec.k, width = gemm_panel(l), each = panel_bytes(l->layout, k);
    for (int64_t at = 0; at < columns; at += PANEL_ROWS) {
        const uint8_t *panel = (const uint8_t *)l->packed + (first + at) / PANEL_ROWS * each;
        if (width < PANEL_ROWS) l->panels->decode(packed + at * k, width, k * width, l->spec.type, panel, 0, k);
        else l->panels->decode(packed + at / width * width * k + at % width, width, PANEL_ROWS / 2, l->spec.type, panel, 0, k);
    }
}

struct linear_job {
    const struct linear_layer *l;
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx, m;
    const struct gemm_epilogue *ep;
    char *scratch;
    uint64_t lane_bytes;
    bool x_halves, y_halves;
    bool rounded;                        /* the scratch holds x as the layer before it left it there, which is as this one rounds it */
};

static uint64_t decoded_lane_bytes(const struct linear_layer *l)
{
    return (uint64_t)l->slab * (uint64_t)l->spec.k * sizeof(float) + DECODE_BYTES;
}

static void decoded_columns(const struct linear_job *j, char *lane, int64_t from, int64_t end)
{
    const struct linear_layer *l = j->l;
    float *rows = (float *)(void *)lane, *packed = rows + DECODE_BYTES / (int)sizeof *rows;
    for (int64_t at = from; at < end; at += l->slab) {
        const int64_t columns = end - at < l->slab ? end - at : l->slab;
        const struct gemm_epilogue ep = gemm_epilogue_from(j->ep, at);
        if (l->layout) decode_panels(l, packed, at, columns);
        else decode_rows(l, packed, rows, at, columns);
        l->k.gemm_f32(j->y + at, j->ldy, j->x, j->ldx, packed, j->m, columns, l->spec.k, &ep, 1);
    }
}

static void decoded_part(void *ctx, int part, int parts)
{
    const struct linear_job *j = ctx;
    const int64_t n = j->l->spec.n, steps = (n + SLAB_STEP - 1) / SLAB_STEP, end = steps * (part + 1) / parts * SLAB_STEP;
    decoded_columns(j, j->scratch + (uint64_t)part * j->lane_bytes, steps * part / parts * SLAB_STEP, end < n ? end : n);
}

static void decoded_run(const struct linear_job *job, int threads)
{
    struct linear_job j = *job;
    const struct linear_spec *s = &j.l->spec;
    const int64_t steps = (s->n + SLAB_STEP - 1) / SLAB_STEP;
    const int parts = s->n * s->k < PARALLEL_MIN / 8 ? 1 : steps < threads ? (int)steps : threads;     /* decoding costs like several rows */
    j.lane_bytes = decoded_lane_bytes(j.l);
    parallel_for(parts, parts, decoded_part, &j);
}

/* ---- panels ---- */

static bool is_half(const struct linear_layer *l) { return l->layout && l->layout->low == 16; }
static int64_t panel_count(const struct linear_layer *l) { return (l->spec.n + PANEL_ROWS - 1) / PANEL_ROWS; }

/* x is taken as it is, not rounded: the same bits by panels and by slabs. */
static bool is_exact(const struct linear_layer *l) { return is_half(l) || l->spec.mode == LINEAR_F32; }

/* Does a run of m rows go by panels? */
static bool by_panels(const struct linear_layer *l, int64_t m)
{
    if (!l->layout) return false;
    return !is_exact(l) || m <= EXACT_ROWS;
}

struct panels_work { struct panel_job job; const struct linear_layer *l; };

static void quantise_part(void *ctx, int part, int parts)
{
    const struct panels_work *w = ctx;
    w->l->panels->quantise(&w->job, part, parts);
}

static void panels_part(void *ctx, int part, int parts)
{
    const struct panels_work *w = ctx;
    const int64_t count = panel_count(w->l), pairs = (count + 1) / 2, end = pairs * (part + 1) / parts * 2;
    w->l->panels->multiply(&w->job, pairs * part / parts * 2, end < count ? end : count);
}

static struct panel_job panel_job_of(const struct linear_job *d)
{
    const struct linear_spec *s = &d->l->spec;
    return (struct panel_job){ .type = s->type, .panels = d->l->packed, .panel_bytes = panel_bytes(d->l->layout, s->k), .n = s->n, .k = s->k, .m = d->m, .exact = is_exact(d->l), .units = d->l->units,
                               .y = d->y, .ldy = d->ldy, .x = d->x, .ldx = d->ldx, .ep = d->ep, .x_halves = d->x_halves, .y_halves = d->y_halves, .gated = s->gated };
}

static void panels_run(const struct linear_job *d, int threads)
{
    const struct linear_spec *s = &d->l->spec;
    struct panels_work w = { .job = panel_job_of(d), .l = d->l };
    w.job.rows = (struct panel_block *)(void *)d->scratch;
    const int64_t count = panel_count(d->l);
    if (!is_exact(d->l) && !d->rounded) {
        const int parts = d->m * s->k < PARALLEL_MIN ? 1 : threads;
        parallel_for(parts, parts, quantise_part, &w);
    }
    const int parts = d->m * s->n * s->k < (is_half(d->l) ? 1 : 4) * PARALLEL_MIN ? 1 : count < 2 * threads ? 1 : threads;
    parallel_for(parts, parts, panels_part, &w);
}

/* ---- tiles of bytes ---- */

/* AMX: the same bits as panels. With a scale for each 16 of k the way between tile and vector units costs more than tiles save. */
static bool by_bytes(const struct linear_layer *l, int64_t m) { return l->k.level >= CPU_AMX && l->layout && !l->layout->two && !is_exact(l) && m >= BYTES_ROWS_MIN; }

struct bytes_work { struct panel_job job; struct panel_rows *x; char *lanes; };

static void bytes_round_part(void *ctx, int part, int parts)
{
    const struct bytes_work *w = ctx;
    const int64_t blocks = (w->job.m + 15) / 16;
    panel_bytes_round(w->x, &w->job, blocks * part / parts, blocks * (part + 1) / parts);
}

static void bytes_part(void *ctx, int part, int parts)
{
    const struct bytes_work *w = ctx;
    const int64_t count = (w->job.n + PANEL_ROWS - 1) / PANEL_ROWS, pairs = (count + 1) / 2, end = pairs * (part + 1) / parts * 2;
    panel_bytes_multiply(&w->job, w->x, w->lanes + (int64_t)TILES_BYTES_LANE * part, pairs * part / parts * 2, end < count ? end : count);
}

static void bytes_run(const struct linear_job *d, int threads)
{
    const struct linear_spec *s = &d->l->spec;
    struct bytes_work w = { .x = (struct panel_rows *)(void *)d->scratch, .lanes = d->scratch + panel_bytes_rows(d->m, s->k) };
    w.job = panel_job_of(d);
    const int parts = d->m * s->n * s->k < 4 * PARALLEL_MIN ? 1 : threads;
    if (!d->rounded) parallel_for(parts, parts, bytes_round_part, &w);
    parallel_for(parts, parts, bytes_part, &w);
}

/* ---- bfloat16 ---- */

/* FAST only: another rounding of x than that of few rows. Without tiles quantised weights are quicker as bytes, and F16 ones, which take three products, as floats. */
static bool by_bf16(const struct linear_layer *l, int64_t m)
{
    if (!l->k.bf16 || l->spec.mode != LINEAR_FAST || !l->layout) return false;
    if (l->spec.few_rounded && l->spec.type == BLOCK_BF16) return true;
    if (l->k.level < CPU_AMX) return l->spec.type == BLOCK_BF16 && m >= TILES_HALVES_MIN;
    return m >= (is_half(l) ? TILES_HALVES_MIN : TILES_ROWS_MIN);
}

/* whatever m; for m rows */
static const struct panel_bf16_kernels *bf16_any(const struct linear_layer *l) { return l->k.level >= CPU_AMX ? &panel_bf16_amx : &panel_bf16_avx512; }
static const struct panel_bf16_kernels *bf16_kernels(const struct linear_layer *l, int64_t m) { return m == 1 ? &panel_bf16_one : bf16_any(l); }

struct bf16_work { const struct panel_bf16_kernels *kernels; struct panel_job job; uint16_t *a; char *lanes; uint64_t lane_bytes; };

static int64_t pair_count(const struct linear_layer *l) { return (l->spec.n + 2 * PANEL_ROWS - 1) / (2 * PANEL_ROWS); }

static void bf16_round_part(void *ctx, int part, int parts)
{
    const struct bf16_work *w = ctx;
    const int64_t blocks = (w->job.m + 15) / 16;
    w->kernels->round(w->a, &w->job, blocks * part / parts, blocks * (part + 1) / parts);
}

static void bf16_part(void *ctx, int part, int parts)
{
    const struct bf16_work *w = ctx;
    const int64_t pairs = (w->job.n + 2 * PANEL_ROWS - 1) / (2 * PANEL_ROWS);
    w->kernels->multiply(&w->job, w->a, w->lanes + w->lane_bytes * (uint64_t)part, pairs * part / parts * 2, pairs * (part + 1) / parts * 2);
}

/* Of very many rows each thread takes some, TILES_X at a time, so that those are rounded near where they are used. */
static bool rows_apart(int64_t m, int threads) { return m >= (int64_t)2 * TILES_X * threads; }

static const float *numbers_on(const float *from, int64_t numbers, bool halves) { return (const float *)(const void *)((const char *)from + numbers * (halves ? 2 : 4)); }

static void bf16_rows_part(void *ctx, int part, int parts)
{
    const struct bf16_work *w = ctx;
    const struct panel_job *all = &w->job;
    uint16_t *a = w->a + panel_tiles_bytes(all->type, TILES_X, all->k) / sizeof *a * (uint64_t)part;
    const int64_t blocks = (all->m + TILES_X - 1) / TILES_X, from = blocks * part / parts * TILES_X, stop = blocks * (part + 1) / parts * TILES_X, end = stop < all->m ? stop : all->m;
    for (int64_t row = from; row < end; row += TILES_X) {
        struct panel_job j = *all;
        struct gemm_epilogue ep = *all->ep;
        j.m = end - row < TILES_X ? end - row : TILES_X;
        j.x = numbers_on(j.x, row * j.ldx, j.x_halves);
        j.y = (float *)(void *)((char *)j.y + row * j.ldy * (j.y_halves ? 2 : 4));
        if (ep.residual) ep.residual = numbers_on(ep.residual, row * ep.ldr, j.y_halves);
        j.ep = &ep;
        w->kernels->round(a, &j, 0, (j.m + 15) / 16);
        w->kernels->multiply(&j, a, w->lanes + w->lane_bytes * (uint64_t)part, 0, (j.n + 2 * PANEL_ROWS - 1) / (2 * PANEL_ROWS) * 2);
    }
}

static uint64_t bf16_rows_bytes(const struct linear_layer *l, int64_t m, int threads)
{
    return panel_tiles_bytes(l->spec.type, rows_apart(m, threads) ? (int64_t)2 * TILES_X * threads : m, l->spec.k);
}

static uint64_t bf16_lane_bytes(const struct linear_layer *l, int64_t m, int threads)
{
    const int64_t pairs = pair_count(l);
    return rows_apart(m, threads) ? panel_lane_bytes(TILES_X, l->spec.k, pairs) : panel_lane_bytes(m, l->spec.k, m * l->spec.n * l->spec.k < 4 * PARALLEL_MIN ? pairs : (pairs + threads - 1) / threads);
}

static void bf16_run(const struct linear_job *d, const struct panel_bf16_kernels *kernels, int threads)
{
    const struct linear_spec *s = &d->l->spec;
    struct bf16_work w = { .kernels = kernels, .a = (uint16_t *)(void *)d->scratch, .lanes = d->scratch + bf16_rows_bytes(d->l, d->m, threads), .lane_bytes = bf16_lane_bytes(d->l, d->m, threads) };
    w.job = panel_job_of(d);
    const int parts = d->m * s->n * s->k < 4 * PARALLEL_MIN ? 1 : threads;
    if (rows_apart(d->m, threads)) {
        parallel_for(threads, threads, bf16_rows_part, &w);
        return;
    }
    parallel_for(parts, parts, bf16_round_part, &w);
    parallel_for(parts, parts, bf16_part, &w);
}

const struct panel_kernels *panel_kernels(enum cpu_level level)
{
    if (level > cpu_level_detect()) level = cpu_level_detect();
    if (level >= CPU_AVX512 && cpu_has_vnni()) return &panel_kernels_avx512vnni;
    return level >= CPU_AVX2 ? &panel_kernels_avx2 : &panel_kernels_scalar;
}

/* ---- the layer ---- */

static bool has_units(const struct linear_layer *l) { return l->k.level >= CPU_AMX && l->spec.mode == LINEAR_FAST && l->layout && !is_half(l); }

static uint64_t own_bytes(const struct linear_layer *l)
{
    if (l->spec.type == BLOCK_F32) return (uint64_t)l->k.gemm_f32_packed_bytes(l->spec.k, l->spec.n);
    return l->layout ? ((uint64_t)panel_bytes(l->layout, l->spec.k) + (has_units(l) ? PANEL_ROWS * sizeof *l->units : 0)) * (uint64_t)panel_count(l) : 0;
}

uint64_t linear_open_bytes(const struct linear_spec *spec)
{
    struct linear_layer l = { .spec = *spec, .layout = panel_layout(spec->type) };
    if (check_spec(spec, &l.format, NULL)) return UINT64_MAX;
    kernels_fill(&l.k, spec->level);
    return own_bytes(&l);
}

/* F32 rows may lie at any alignment and stride: packed a step of columns at a time, by way of `rows`. */
static enum status pack_weights(struct linear_layer *l)
{
    const struct linear_spec *s = &l->spec;
    l->packed = mem_alloc_huge(l->bytes, ALIGN);
    if (!l->packed) return ST_NO_MEMORY;
    if (l->layout) {
        const int64_t each = panel_bytes(l->layout, s->k);
        if (has_units(l)) l->units = (float *)(void *)((uint8_t *)l->packed + each * panel_count(l));
        for (int64_t p = 0; p < panel_count(l); p++) {
            uint8_t *panel = (uint8_t *)l->packed + p * each;
            panel_pack(panel, s->type, s->weight, s->row_bytes, s->gated ? p % 2 * (s->n / 2) + p / 2 * PANEL_ROWS : p * PANEL_ROWS, s->n, s->k);
            if (l->units) panel_units(l->units + p * PANEL_ROWS, s->type, panel, s->k);
        }
        return ST_OK;
    }
    float *rows = mem_alloc_aligned(DECODE_BYTES, ALIGN);
    if (!rows) return ST_NO_MEMORY;
    for (int64_t at = 0; at < s->n; at += SLAB_STEP) decode_rows(l, (float *)l->packed + at * s->k, rows, at, s->n - at < SLAB_STEP ? s->n - at : SLAB_STEP);
    free(rows);
    return ST_OK;
}

static void name_layer(struct linear_layer *l)
{
    const char *level = cpu_level_name(l->k.level);
    if (l->spec.type == BLOCK_F32) snprintf(l->name, sizeof l->name, "F32 packed, %s", level);
    else if (l->layout) snprintf(l->name, sizeof l->name, "%s panels, %s", l->format->name, is_exact(l) ? level : l->panels->name);
    else snprintf(l->name, sizeof l->name, "%s decoded by slabs, %s", l->format->name, level);
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
    if (spec->gated && !l->k.bf16) {
        free(l);
        return err_set(err, ST_UNSUPPORTED, "linear layer: gates beside what they gate need a machine that is quick at bfloat16");
    }
    l->layout = panel_layout(spec->type);
    l->panels = panel_kernels(spec->level);
    l->slab = slab_columns(spec->k);
    l->bytes = own_bytes(l);
    if (l->bytes && pack_weights(l)) {
        linear_close(l);
        return err_set(err, ST_NO_MEMORY, "linear layer: %llu bytes of packed weights", (unsigned long long)linear_open_bytes(spec));
    }
    name_layer(l);
    *out = l;
    return ST_OK;
}

void linear_close(struct linear_layer *l)
{
    if (!l) return;
    free(l->packed);
    free(l);
}

uint64_t    linear_bytes(const struct linear_layer *l) { return l->bytes; }
const char *linear_kernel(const struct linear_layer *l) { return l->name; }
bool        linear_is_invariant(const struct linear_layer *l) { return !by_bf16(l, INT64_MAX); }
bool        linear_rounds(const struct linear_layer *l) { return l->spec.mode != LINEAR_F32 && l->layout && l->spec.type != BLOCK_F16; }
bool        linear_borrows(const struct linear_layer *l) { return !l->packed; }

uint64_t linear_scratch(const struct linear_layer *l, int64_t m, int threads)
{
    if (l->spec.type == BLOCK_F32) return 0;
    if (threads < 1) threads = 1;
    if (by_bf16(l, m)) return bf16_rows_bytes(l, m, threads) + bf16_lane_bytes(l, m, threads) * (uint64_t)threads;
    if (by_bytes(l, m)) return panel_bytes_rows(m, l->spec.k) + (uint64_t)TILES_BYTES_LANE * (uint64_t)threads;
    if (by_panels(l, m)) return is_exact(l) ? 0 : panel_rows_bytes(l->panels, m, l->spec.k);
    return decoded_lane_bytes(l) * (uint64_t)threads;
}

static void run(const struct linear_job *j, int threads)
{
    const struct linear_layer *l = j->l;
    if (l->spec.type == BLOCK_F32) l->k.gemm_f32(j->y, j->ldy, j->x, j->ldx, l->packed, j->m, l->spec.n, l->spec.k, j->ep, threads);
    else if (by_bf16(l, j->m)) bf16_run(j, bf16_kernels(l, j->m), threads);
    else if (by_bytes(l, j->m)) bytes_run(j, threads);
    else if (by_panels(l, j->m)) panels_run(j, threads);
    else decoded_run(j, threads);
}

void linear_run(const struct linear_layer *l, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep, void *scratch, int threads)
{
    const struct linear_job j = { .l = l, .y = y, .ldy = ldy, .x = x, .ldx = ldx, .m = m, .ep = ep ? ep : &nothing, .scratch = scratch };
    if (m > 0) run(&j, threads < 1 ? 1 : threads);
}

/* Are m rows of x rounded to 8 bits? */
static bool rounds_to_bytes(const struct linear_layer *l, int64_t m) { return l->layout && !is_exact(l) && !by_bf16(l, m); }

/* Does `a` round m rows of x to 8 bits, and does `b` then want the very same? */
static bool rounds_alike(const struct linear_layer *a, const struct linear_layer *b, int64_t m)
{
    const struct panel_layout *p = a->layout, *q = b->layout;
    return rounds_to_bytes(a, m) && rounds_to_bytes(b, m) && a->spec.k == b->spec.k && a->panels == b->panels && by_bytes(a, m) == by_bytes(b, m) && p->offset == q->offset && p->minimum == q->minimum && p->two == q->two;
}

void linear_run_parts(const struct linear_part *parts, int count, const float *x, int64_t ldx, int64_t m, void *scratch, int threads)
{
    for (int i = 0; i < count && m > 0; i++) {
        const struct linear_job j = { .l = parts[i].layer, .y = parts[i].y, .ldy = parts[i].ldy, .x = x, .ldx = ldx, .m = m, .ep = parts[i].ep ? parts[i].ep : &nothing, .scratch = scratch,
                                      .rounded = i > 0 && rounds_alike(parts[i - 1].layer, parts[i].layer, m) };
        run(&j, threads < 1 ? 1 : threads);
    }
}

void linear_run_halves(const struct linear_layer *l, void *y, int64_t ldy, const void *x, int64_t ldx, int64_t m, struct linear_halves halves, const struct gemm_epilogue *ep, void *scratch, int threads)
{
    if (m < 1) return;
    const struct linear_job j = { .l = l, .y = y, .ldy = ldy, .x = x, .ldx = ldx, .m = m, .ep = ep ? ep : &nothing, .scratch = scratch, .x_halves = halves.x, .y_halves = halves.y };
    bf16_run(&j, bf16_any(l), threads < 1 ? 1 : threads);
}

uint64_t linear_columns_scratch(const struct linear_layer *l, int64_t m)
{
    if (l->spec.type == BLOCK_F32) return 0;
    if (by_bf16(l, m)) return panel_tiles_bytes(l->spec.type, m, l->spec.k) + panel_lane_bytes(m, l->spec.k, pair_count(l));
    if (l->layout) return is_exact(l) ? 0 : panel_rows_bytes(l->panels, m, l->spec.k);
    return decoded_lane_bytes(l);
}

void linear_run_columns(const struct linear_layer *l, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, const struct gemm_epilogue *ep, void *scratch, int64_t from, int64_t to)
{
    const int64_t k = l->spec.k, panel = from / PANEL_ROWS, end = (to + PANEL_ROWS - 1) / PANEL_ROWS;
    if (m < 1 || from >= to) return;
    const struct linear_job d = { .l = l, .y = y, .ldy = ldy, .x = x, .ldx = ldx, .m = m, .ep = ep ? ep : &nothing, .scratch = scratch };
    if (l->spec.type == BLOCK_F32) {
        const struct gemm_epilogue own = gemm_epilogue_from(d.ep, from);
        l->k.gemm_f32(y + from, ldy, x, ldx, (const char *)l->packed + l->k.gemm_f32_packed_bytes(k, from), m, to - from, k, &own, 1);
    } else if (by_bf16(l, m)) {
        const struct panel_job job = panel_job_of(&d);
        const struct panel_bf16_kernels *kernels = bf16_kernels(l, m);
        uint16_t *a = scratch;
        kernels->round(a, &job, 0, (m + 15) / 16);
        kernels->multiply(&job, a, (char *)scratch + panel_tiles_bytes(l->spec.type, m, k), panel, (end + 1) / 2 * 2);
    } else if (l->layout) {
        struct panel_job job = panel_job_of(&d);
        job.rows = scratch;
        if (!is_exact(l)) l->panels->quantise(&job, 0, 1);
        l->panels->multiply(&job, panel, end);
    } else decoded_columns(&d, scratch, from, to);
}
