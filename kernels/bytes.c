/* Layers on bytes: where weights lie, how x is read, who does what.
 *
 * A convolution is a product without im2col: a row of the product is a pixel of y, and what it takes of x are `segments` stretches of memory at fixed offsets from the pixel's corner (a row
 * of the window with all its channels; with groups or dilation a single pixel). So that the offsets hold at the borders, a picture with padding is first copied into scratch with x_zero
 * around it: then every pixel, wherever it lies, has the same term -x_zero * sum(w) of its zero point, which is folded into `start`. A stride of 1 makes one long run of pixels out of all
 * rows of the padded picture: those between two rows are computed and dropped. Without a window (1 x 1, matrices) the run is x itself.
 *
 * Threads share out blocks of pixels or, where the weights are the larger part, pairs of panels. Within a thread what is reused stays in its cache: the weights while blocks pass when they
 * fit half of the second level, else each pair of panels while all blocks pass. Sums are exact, so none of this changes a bit. */
#include "kernels/bytes.h"

#include <assert.h>
#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/bytes_level.h"

enum { ALIGN = 64, CUT_ROWS = 8 /* pixels that a level takes at once at most, but for tiles */, NAME_MAX_ = 40, CACHE_BYTES = 1 << 20, BAND = 4 /* rows of y */, SPLIT_BYTES = 256 << 10, COPIES_BYTES = 1 << 20 };

struct bytes_layer {
    struct bytes_spec spec;
    const struct bytes_level *level;
    struct kernels k;
    struct bytes_walk walk;              /* without `at`, which hangs on the picture's width */
    int64_t stretch;                     /* bytes of a segment that count */
    int64_t per;                         /* output channels of a group */
    bool saturates;                      /* bytes_level.h */
    bool depthwise, window, compact;     /* compact: 1 x 1 with a stride, whose pixels are gathered first */
    int8_t *weight;
    int32_t *start;                      /* those of the spec with the zero point's term; in the weights' order where depthwise */
    int32_t *sums;                       /* [out_c] of weights, where the result is int32 */
    float *scale, *shift;
    uint8_t table[256];
    uint64_t bytes;
    char name[NAME_MAX_];
};

const struct bytes_level *bytes_level(enum cpu_level level)
{
    if (level > cpu_level_detect()) level = cpu_level_detect();
    if (level >= CPU_AMX) return &bytes_level_amx;
    if (level >= CPU_AVX512) return !cpu_has_vnni() ? &bytes_level_avx512 : cpu_has_vbmi() ? &bytes_level_avx512vbmi : &bytes_level_avx512vnni;
    return level >= CPU_AVX2 ? &bytes_level_avx2 : &bytes_level_scalar;
}

/* The depth of a chunk: one that divides the stretch, if there is one of 32 or more, so that nothing beyond it is read. */
static void set_chunks(struct bytes_walk *w, int64_t stretch)
{
    const int64_t least = (stretch + BYTES_DEPTH - 1) / BYTES_DEPTH;
    for (int64_t n = least; n <= 2 * least; n++)
        if (stretch % (4 * n) == 0) {
            w->chunks = (int)n, w->depth = (int)(stretch / n);
            return;
        }
    w->chunks = (int)least;
    w->depth = (int)(((stretch + least - 1) / least + 3) / 4 * 4);
}

static int64_t panels_of(const struct bytes_layer *l) { return (l->per + BYTES_PANEL - 1) / BYTES_PANEL; }
static int64_t pairs_of(const struct bytes_layer *l) { return (panels_of(l) + 1) / 2; }      /* of panels, of a group */
static int8_t *pair_at(const struct bytes_layer *l, int64_t i) { return l->weight + (i / pairs_of(l) * panels_of(l) + i % pairs_of(l) * 2) * l->walk.panel_bytes; }      /* of all groups' pairs */

/* Where the panel of output channel m keeps its first byte; the channel's bytes follow in fours, 64 apart. */
static int8_t *panel_of(const struct bytes_layer *l, int64_t m) { return l->weight + (m / l->per * panels_of(l) + m % l->per / BYTES_PANEL) * l->walk.panel_bytes + m % l->per % BYTES_PANEL * 4; }

/* The weights as [in, out]: rows are read as they lie. */
static void pack_columns(struct bytes_layer *l, const int8_t *w, int64_t column_stride)
{
    for (int64_t i = 0; i < l->stretch; i += 4) {
        const int64_t rows = l->stretch - i < 4 ? l->stretch - i : 4;
        for (int64_t m = 0; m < l->spec.out_c; m++) {
            int8_t *to = panel_of(l, m) + i / 4 * 64;
            for (int64_t r = 0; r < rows; r++) to[r] = w[m + (i + r) * column_stride];
        }
    }
}

/* The weights as [out, in / groups, kh, kw]. */
static enum status pack_panels(struct bytes_layer *l, const int8_t *w, struct err *err)
{
    const struct bytes_spec *s = &l->spec;
    const struct bytes_walk *k = &l->walk;
    const int64_t in = s->in_c / s->groups, n = in * s->kh * s->kw;
    const bool rows = k->segments == s->kh;       /* a segment is a row of the window */
    int32_t *from = mem_alloc_array((uint64_t)n, sizeof *from);       /* of each byte of a channel, in a panel's order */
    if (!from) return err_set(err, ST_NO_MEMORY, "packing a layer on bytes");
    for (int64_t j = 0; j < n; j++) {
        const int64_t segment = j / l->stretch, i = j % l->stretch;
        const int64_t ky = rows ? segment : segment / s->kw, kx = rows ? i / in : segment % s->kw, c = rows ? i % in : i;
        from[j] = (int32_t)((c * s->kh + ky) * s->kw + kx);
    }
    for (int64_t m = 0; m < s->out_c; m++) {
        const int8_t *own = w + m * n;
        const int32_t *at = from;
        for (int g = 0; g < k->segments; g++, at += l->stretch) {
            int8_t *to = panel_of(l, m) + (int64_t)g * k->chunks * k->depth / 4 * 64;
            for (int64_t i = 0; i < l->stretch; i++) to[i / 4 * 64 + i % 4] = own[at[i]];
        }
    }
    free(from);
    return ST_OK;
}

static int64_t depth_blocks(const struct bytes_layer *l) { return (l->spec.in_c + 63) / 64; }

/* kernels/bytes_level.h: columns of 4 window rows, channels in the order that the bytes are woven in */
static int64_t woven(int64_t c) { return c / 64 * 64 + c % 16 / 4 * 16 + c % 64 / 16 * 4 + c % 4; }

/* The last block's channels stand twice where they are few: its other half takes another row of y. */
static bool is_twice(const struct bytes_layer *l, int64_t c) { return l->depthwise && l->level->depth_columns && c / 64 == depth_blocks(l) - 1 && (l->spec.in_c - 1) % 64 < 32; }

static void pack_depth(struct bytes_layer *l, const int8_t *w)
{
    const struct bytes_spec *s = &l->spec;
    const int64_t groups = (s->kh + 3) / 4;
    for (int64_t c = 0; c < s->in_c; c++)
        for (int y = 0; y < s->kh; y++)
            for (int x = 0; x < s->kw; x++) {
                const int8_t v = w[(c * s->kh + y) * s->kw + x];
                if (!l->level->depth_columns) l->weight[((int64_t)y * s->kw + x) * s->in_c + c] = v;
                else {
                    int8_t *block = l->weight + ((x * groups + y / 4) * depth_blocks(l) + c / 64) * 256;
                    block[woven(c % 64) * 4 + y % 4] = v;
                    if (is_twice(l, c)) block[woven(c % 64 + 32) * 4 + y % 4] = v;
                }
            }
}

/* sums[m] = of an output channel's weights */
static void sum_weights(const struct bytes_layer *l, const int8_t *w, int64_t column_stride, int32_t *sums)
{
    const int64_t n = l->spec.in_c / l->spec.groups * l->spec.kh * l->spec.kw;
    memset(sums, 0, (size_t)l->spec.out_c * sizeof *sums);
    for (int64_t i = 0; column_stride && i < n; i++)
        for (int64_t m = 0; m < l->spec.out_c; m++) sums[m] += w[m + i * column_stride];
    for (int64_t m = 0; !column_stride && m < l->spec.out_c; m++)
        for (int64_t i = 0; i < n; i++) sums[m] += w[m * n + i];
}

static enum status set_finish(struct bytes_layer *l, const int8_t *w, int64_t column_stride, struct err *err)
{
    struct bytes_finish *f = &l->spec.finish;
    const int zero = l->spec.x_zero + (l->spec.x_signed ? 128 : 0);
    int32_t *sums = l->sums ? l->sums : mem_alloc_array((uint64_t)l->spec.out_c, sizeof *sums);
    if (!sums) return err_set(err, ST_NO_MEMORY, "packing a layer on bytes");
    sum_weights(l, w, column_stride, sums);
    for (int64_t m = 0; m < l->spec.out_c; m++) {
        const int64_t to = l->depthwise && l->level->depth_columns ? woven(m) : m;
        l->start[to] = (int32_t)((uint32_t)(f->start ? f->start[m] : 0) - (uint32_t)zero * (uint32_t)sums[m]);
        l->scale[to] = f->scale ? f->scale[m] : 1;
        l->shift[to] = f->shift ? f->shift[m] : 0;
        if (!is_twice(l, m)) continue;
        const int64_t again = m / 64 * 64 + woven(m % 64 + 32);
        l->start[again] = l->start[to], l->scale[again] = l->scale[to], l->shift[again] = l->shift[to];
    }
    l->saturates = f->out == BYTES_U8 && f->zero == 0 && f->low <= 0 && f->low > -1 && f->high == 255;
    for (int64_t m = 0; m < l->spec.out_c && l->saturates; m++) l->saturates = f->scale && fabsf(f->scale[m]) <= 0.25f && (!f->shift || fabsf(f->shift[m]) < 0x1p29f);
    if (sums != l->sums) free(sums);
    if (f->table) memcpy(l->table, f->table, sizeof l->table);
    f->start = l->start, f->scale = l->scale, f->shift = l->shift;
    f->table = f->table ? l->table : NULL;
    return ST_OK;
}

static enum status size_layer(struct bytes_layer *l, uint64_t *weights, uint64_t *numbers, struct err *err)
{
    const struct bytes_spec *s = &l->spec;
    const int64_t in = s->in_c / s->groups, terms = in * s->kh * s->kw;
    if (in > BYTES_TERMS_MAX || s->kh > BYTES_TERMS_MAX || s->kw > BYTES_TERMS_MAX || terms > BYTES_TERMS_MAX) return err_set(err, ST_UNSUPPORTED, "a layer on bytes adds up at most %d products, this one %lld", BYTES_TERMS_MAX, (long long)terms);
    l->per = s->out_c / s->groups;
    l->window = s->kh > 1 || s->kw > 1;
    l->compact = !l->window && (s->stride_h > 1 || s->stride_w > 1);
    l->depthwise = l->window && s->groups > 1 && in == 1 && l->per == 1 && !s->finish.has_residual && s->finish.act.kind == ACT_NONE && s->finish.out <= BYTES_S8;
    const bool rows = s->groups == 1 && s->dilation_w == 1;
    l->walk.segments = rows ? s->kh : s->kh * s->kw;
    l->stretch = rows ? in * s->kw : in;
    set_chunks(&l->walk, l->stretch);
    l->walk.panel_bytes = (int64_t)l->walk.segments * l->walk.chunks * l->walk.depth * BYTES_PANEL;
    *numbers = (uint64_t)(l->depthwise ? depth_blocks(l) * 64 : s->out_c);
    if (l->depthwise) *weights = (uint64_t)depth_blocks(l) * 64 * (uint64_t)((s->kh + 3) / 4 * 4 * s->kw);
    else if (!size_mul((uint64_t)(s->groups * panels_of(l)), (uint64_t)l->walk.panel_bytes, weights)) return err_set(err, ST_NO_MEMORY, "a layer on bytes is too large");
    return ST_OK;
}

enum status bytes_layer_open(struct bytes_layer **out, const struct bytes_spec *s, const int8_t *weight, int64_t column_stride, const struct kernels *k, struct err *err)
{
    assert(s->groups >= 1 && s->in_c % s->groups == 0 && s->out_c % s->groups == 0 && (!column_stride || (s->kh == 1 && s->kw == 1 && s->groups == 1)));
    struct bytes_layer *l = mem_calloc_array(1, sizeof *l);
    uint64_t weights = 0, numbers = 0;
    if (!l) return err_set(err, ST_NO_MEMORY, "a layer on bytes");
    l->spec = *s;
    l->k = *k;
    l->level = bytes_level(k->level);
    enum status st = size_layer(l, &weights, &numbers, err);
    if (st) goto fail;
    l->weight = mem_alloc_aligned(weights, 4096);
    l->start = mem_calloc_array(numbers, sizeof *l->start);
    l->scale = mem_calloc_array(numbers, sizeof *l->scale);
    l->shift = mem_calloc_array(numbers, sizeof *l->shift);
    if (s->finish.out == BYTES_I32) l->sums = mem_calloc_array(numbers, sizeof *l->sums);
    if ((s->finish.out == BYTES_I32 && !l->sums) || !l->weight || !l->start || !l->scale || !l->shift) {
        st = err_set(err, ST_NO_MEMORY, "a layer on bytes: %llu bytes of weights", (unsigned long long)weights);
        goto fail;
    }
    memset(l->weight, 0, weights);
    if (l->depthwise) pack_depth(l, weight);
    else if (column_stride) pack_columns(l, weight, column_stride);
    else st = pack_panels(l, weight, err);
    if (!st) st = set_finish(l, weight, column_stride, err);
    if (st) goto fail;
    l->bytes = weights + (l->sums ? 16 : 12) * numbers;
    snprintf(l->name, sizeof l->name, "int8 %s, %s", l->depthwise ? "depthwise" : l->window ? "window" : "product", l->level->name);
    *out = l;
    return ST_OK;
fail:
    bytes_layer_close(l);
    return st;
}

void bytes_layer_close(struct bytes_layer *l)
{
    if (!l) return;
    free(l->weight);
    free(l->start);
    free(l->sums);
    free(l->scale);
    free(l->shift);
    free(l);
}

uint64_t    bytes_layer_bytes(const struct bytes_layer *l) { return l->bytes; }
const char *bytes_layer_kernel(const struct bytes_layer *l) { return l->name; }

/* ---- how a picture is read ---- */

/* One shape: the copy it needs, and its runs of pixels. */
struct shape {
    struct window2d w;                   /* of what is read: the copy, or x */
    bool copied;
    int64_t pictures;                    /* that are not one run */
    int64_t together;                    /* of them at a time */
    int64_t copy_bytes;                  /* of one picture, what may be read behind it included */
    int64_t runs, length, run_step;      /* pixels of each run; bytes between runs */
    int64_t per_row, kept;               /* of each per_row pixels of the run the first `kept` are pixels of y */
    int64_t blocks;                      /* of a run */
};

static void set_runs(const struct bytes_layer *l, struct shape *s)
{
    const struct window2d *w = &s->w;
    const int64_t flat = (w->out_h - 1) * w->w + w->out_w;
    const int64_t unit = l->level->rows_whole > 1 ? BYTES_PANEL : 4;       /* rows that cost as much as fewer do */
    const bool whole = l->window && w->stride_h == 1 && w->stride_w == 1 && (flat + unit - 1) / unit < w->out_h * ((w->out_w + unit - 1) / unit);
    s->runs = !l->window || whole ? 1 : w->out_h;
    s->length = !l->window ? w->out_h * w->out_w : whole ? flat : w->out_w;
    s->run_step = w->stride_h * w->w * w->c;
    s->per_row = whole ? w->w : s->length;
    s->kept = whole ? w->out_w : s->length;
    s->blocks = (s->length + BYTES_ROWS - 1) / BYTES_ROWS;
}

static struct shape read_shape(const struct bytes_layer *l, const struct window2d *w)
{
    const struct bytes_spec *p = &l->spec;
    struct shape s = { .w = *w, .pictures = w->n };
    const bool padded = w->pad_top || w->pad_left || (w->out_h - 1) * p->stride_h + (p->kh - 1) * p->dilation_h + 1 > w->h || (w->out_w - 1) * p->stride_w + (p->kw - 1) * p->dilation_w + 1 > w->w;
    s.w.c = p->in_c;
    s.w.kh = p->kh, s.w.kw = p->kw, s.w.stride_h = p->stride_h, s.w.stride_w = p->stride_w, s.w.dilation_h = p->dilation_h, s.w.dilation_w = p->dilation_w;
    s.w.pad_top = s.w.pad_left = s.w.pad_bottom = s.w.pad_right = 0;
    if (!l->window && !l->compact && !padded && !p->x_signed) {      /* all pictures are one run */
        s.w.h = s.w.out_h = w->n * w->out_h, s.w.n = s.pictures = 1;
        set_runs(l, &s);
        s.copied = s.length < (l->level->rows_whole > 1 ? BYTES_ROWS : 1) || l->walk.chunks * l->walk.depth != l->stretch;
    } else {
        s.copied = true;
        s.w.h = l->window ? (w->out_h - 1) * p->stride_h + (p->kh - 1) * p->dilation_h + 1 : w->out_h;
        s.w.w = l->window ? (w->out_w - 1) * p->stride_w + (p->kw - 1) * p->dilation_w + 1 : w->out_w;
        if (!l->window) s.w.stride_h = s.w.stride_w = 1;
        s.w.n = 1;
        set_runs(l, &s);
    }
    s.copy_bytes = (s.w.h * s.w.w * p->in_c + BYTES_ROWS * s.w.stride_w * p->in_c + (l->walk.chunks * l->walk.depth - l->stretch) + ALIGN - 1) / ALIGN * ALIGN;
    s.together = s.copied && s.copy_bytes < COPIES_BYTES ? COPIES_BYTES / s.copy_bytes : 1;
    if (s.together > s.pictures) s.together = s.pictures;
    return s;
}

struct job {
    const struct bytes_layer *l;
    const struct window2d *w;            /* as the caller says it */
    struct shape s;
    int64_t pictures;                    /* at a time */
    const uint8_t *x, *from;             /* pictures of x; what is read: they or their copies */
    int64_t x_picture, from_picture, y_picture;      /* bytes between them; pixels */
    uint8_t *copy;
    void *y;
    const uint8_t *residual;
    const int64_t *at;
    struct bytes_finish finish;
    int zero;                            /* of unsigned bytes */
    bool by_panels;
};

static void copy_bytes(uint8_t *to, const uint8_t *from, int64_t n, bool flip)
{
    if (!flip) memcpy(to, from, (size_t)n);
    else
        for (int64_t i = 0; i < n; i++) to[i] = from[i] ^ 0x80;
}

/* Rows [first, end) of a picture's copy, to `line`: x with its zero point around it; gathered where the window is one pixel with a stride. */
static void copy_rows(const struct job *j, int64_t picture, uint8_t *line, int64_t first, int64_t end)
{
    const struct bytes_spec *p = &j->l->spec;
    const struct window2d *w = j->w, *to = &j->s.w;
    const int64_t c = p->in_c, left = w->pad_left < to->w ? w->pad_left : to->w, inside = to->w - left < w->w ? to->w - left : w->w;
    for (int64_t row = first; row < end; row++, line += to->w * c) {
        const int64_t y = row * (j->l->compact ? p->stride_h : 1) - w->pad_top;
        if (y < 0 || y >= w->h) {
            memset(line, j->zero, (size_t)(to->w * c));
            continue;
        }
        const uint8_t *x = j->x + picture * j->x_picture + y * w->w * c;
        for (int64_t i = 0; j->l->compact && i < to->w; i++) {
            const int64_t at = i * p->stride_w - w->pad_left;
            if (at < 0 || at >= w->w) memset(line + i * c, j->zero, (size_t)c);
            else copy_bytes(line + i * c, x + at * c, c, p->x_signed);
        }
        if (j->l->compact) continue;
        memset(line, j->zero, (size_t)(left * c));
        copy_bytes(line + left * c, x, inside * c, p->x_signed);
        memset(line + (left + inside) * c, j->zero, (size_t)((to->w - left - inside) * c));
    }
}

/* Where a share that is at `at` and goes on to `end` leaves the picture it is in; pictures have `each` rows or pixels. */
static int64_t picture_end(int64_t at, int64_t each, int64_t end)
{
    const int64_t next = (at / each + 1) * each;
    return next < end ? next : end;
}

static void copy_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const int64_t height = j->s.w.h, row = j->s.w.w * j->l->spec.in_c, first = j->pictures * height * part / parts, end = j->pictures * height * (part + 1) / parts;
    if (!j->l->window && !j->l->compact && j->s.pictures == 1 && height != j->w->out_h) {      /* several pictures as one run */
        copy_bytes(j->copy + first * row, j->x + first * row, (end - first) * row, false);
        return;
    }
    for (int64_t at = first, stop; at < end; at = stop) {
        const int64_t picture = at / height;
        stop = picture_end(at, height, end);
        copy_rows(j, picture, j->copy + picture * j->s.copy_bytes + (at - picture * height) * row, at - picture * height, stop - picture * height);
    }
}

/* ---- products ---- */

/* A block of pixels: where it is read and where its rows go. */
struct block { const uint8_t *x; int rows; bool in_order; int64_t first, pixel[BYTES_ROWS]; };

/* pixels [fresh, end) of a picture's run, as many as make a block */
static void find_block(struct block *b, const struct job *j, const struct bytes_walk *walk, int64_t picture, int64_t run, int64_t fresh, int64_t end)
{
    const struct shape *s = &j->s;
    const int whole = j->l->level->rows_whole;
    const int64_t length = s->length, before = picture * j->y_picture;
    int64_t first = fresh, rows = end - first < BYTES_ROWS ? end - first : BYTES_ROWS;
    b->in_order = s->per_row == s->kept && rows % whole == 0;
    rows = (rows + whole - 1) / whole * whole;
    if (!s->copied && first + rows > length) first = length - rows;       /* reads some again rather than what lies behind x */
    b->rows = (int)rows;
    b->x = j->from + picture * j->from_picture + run * s->run_step + first * walk->step;
    b->first = before + run * length + first;
    if (b->in_order) return;
    int64_t row = first / s->per_row, column = first % s->per_row;
    for (int64_t r = 0; r < rows; r++) {
        b->pixel[r] = first + r < fresh || first + r >= length || column >= s->kept ? -1 : before + run * length + row * s->kept + column;
        if (++column == s->per_row) row++, column = 0;
    }
}

/* A block's sums with a pair of panels, and where they go. */
struct sums { struct bytes_rows rows; int64_t channel; int columns; bool waiting; int32_t numbers[BYTES_ROWS * BYTES_PAIR] __attribute__((aligned(64))); };

static void finish_sums(const struct job *j, struct sums *s)
{
    if (s->waiting) j->l->level->finish(&s->rows, s->numbers, s->channel, s->columns);
    s->waiting = false;
}

/* A block with pair i of panels. */
static void block_multiply(const struct job *j, struct sums *s, const struct bytes_walk *walk, const struct block *b, int64_t i)
{
    const struct bytes_layer *l = j->l;
    const int64_t group = i / pairs_of(l), pair = i % pairs_of(l), in = l->spec.in_c / l->spec.groups;
    s->columns = l->per - pair * BYTES_PAIR < BYTES_PAIR ? (int)(l->per - pair * BYTES_PAIR) : BYTES_PAIR;
    s->channel = group * l->per + pair * BYTES_PAIR;
    l->level->multiply(s->numbers, b->x + group * in, walk, b->rows, pair_at(l, i), s->columns > BYTES_PANEL ? 2 : 1);
    s->rows = (struct bytes_rows){ .finish = &j->finish, .saturates = l->saturates, .k = &l->k, .y = j->y, .residual = j->residual, .channels = l->spec.out_c, .pixel = b->in_order ? NULL : b->pixel, .first = b->first, .rows = b->rows };
    s->waiting = true;
}

/* What pair i's products fetch meanwhile: block b's share, of so many blocks (0: nothing), of the next pair's weights. */
static void weights_ahead(struct bytes_walk *walk, const struct job *j, int64_t i, int64_t end, int64_t b, int64_t blocks)
{
    const int64_t lines = 2 * walk->panel_bytes / BYTES_LINE, first = lines * b / (blocks < 1 ? 1 : blocks);
    walk->ahead = NULL;
    if (blocks < 1 || i + 1 >= end) return;
    walk->ahead = pair_at(j->l, i + 1) + first * BYTES_LINE;
    walk->lines = (int)(lines * (b + 1) / blocks - first);
}

/* A thread's share of the pictures: runs' blocks counted through all of them [from, end) or, where a picture is one run, pixels of it. */
struct share { bool by_pixels; int64_t from, end, blocks; };

/* Where a share of the pixels ends: on what a level takes at once. */
static int64_t pixel_cut(const struct job *j, int part, int parts)
{
    const int64_t cut = j->l->level->rows_whole > CUT_ROWS ? j->l->level->rows_whole : CUT_ROWS, length = j->s.length, at = j->pictures * length * part / parts;
    return at - at % length % cut;
}

static struct share share_of(const struct job *j, int part, int parts)
{
    const struct shape *s = &j->s;
    const int64_t all = j->pictures * s->runs * s->blocks, length = s->length;
    struct share share = { .by_pixels = !j->by_panels && s->runs == 1, .end = all };
    if (!j->by_panels && !share.by_pixels) share.from = all * part / parts, share.end = all * (part + 1) / parts;
    share.blocks = share.end - share.from;
    if (!share.by_pixels) return share;
    share.from = pixel_cut(j, part, parts), share.end = pixel_cut(j, part + 1, parts), share.blocks = 0;
    for (int64_t at = share.from, stop; at < share.end; at = stop) {
        stop = picture_end(at, length, share.end);
        share.blocks += (stop - at + BYTES_ROWS - 1) / BYTES_ROWS;
    }
    return share;
}

/* The block at `at`, which is then that of the next one. */
static void next_block(struct block *b, const struct job *j, const struct bytes_walk *walk, const struct share *share, int64_t *at)
{
    const struct shape *s = &j->s;
    const int64_t length = s->length;
    if (share->by_pixels) {
        const int64_t picture = *at / length, first = picture * length, stop = picture_end(*at, length, share->end);
        find_block(b, j, walk, picture, 0, *at - first, stop - first);
        *at = *at + BYTES_ROWS < stop ? *at + BYTES_ROWS : stop;
    } else {
        const int64_t run = *at / s->blocks;
        find_block(b, j, walk, run / s->runs, run % s->runs, *at % s->blocks * BYTES_ROWS, length);
        ++*at;
    }
}

static void product_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct bytes_layer *l = j->l;
    const int64_t pairs = pairs_of(l) * l->spec.groups;
    const int64_t p0 = j->by_panels ? pairs * part / parts : 0, p1 = j->by_panels ? pairs * (part + 1) / parts : pairs;
    const struct share share = share_of(j, part, parts);
    struct bytes_walk walk = l->walk;
    walk.at = j->at;
    walk.step = j->s.w.stride_w * l->spec.in_c;
    if (share.blocks < 1 || p0 >= p1) return;
    l->level->begin(walk.depth);
    struct block block[2];               /* tiles work on one block's sums while vectors finish those before it */
    struct sums sums[2];
    sums[0].waiting = sums[1].waiting = false;
    int at = 0, turn = 0;
    const int64_t together = (p1 - p0) * 2 * walk.panel_bytes <= CACHE_BYTES ? p1 - p0 : 1;       /* pairs of panels that stay while blocks pass */
    for (int64_t p = p0; p < p1; p += together)
        for (int64_t b = 0, place = share.from; b < share.blocks; b++) {
            next_block(&block[at ^= 1], j, &walk, &share, &place);
            for (int64_t i = p; i < p + together; i++) {
                weights_ahead(&walk, j, i, p1, together == 1 ? b : 0, together == 1 ? share.blocks : b == 0);
                block_multiply(j, &sums[turn ^= 1], &walk, &block[at], i);
                finish_sums(j, &sums[turn ^ 1]);
            }
        }
    finish_sums(j, &sums[turn]);
    l->level->end();
}

/* Depthwise: each thread takes rows of y a few at a time, and copies just the rows of x that these need. */
static int64_t band_rows(const struct bytes_layer *l, int64_t rows) { return (rows - 1) * l->spec.stride_h + (l->spec.kh - 1) * l->spec.dilation_h + 1; }
static uint64_t band_bytes(const struct bytes_layer *l, const struct shape *s) { return ((uint64_t)(band_rows(l, BAND) * s->w.w * l->spec.in_c) + ALIGN - 1) / ALIGN * ALIGN; }

static void depth_part(void *ctx, int part, int parts)
{
    const struct job *j = ctx;
    const struct bytes_layer *l = j->l;
    const struct window2d *w = &j->s.w;
    uint8_t *band = j->copy + (uint64_t)part * band_bytes(l, &j->s);
    struct bytes_depth_job d = { .w = w, .finish = &j->finish, .k = &l->k, .weight = l->weight, .start = l->start, .scale = l->scale, .shift = l->shift, .x = band, .saturates = l->saturates, .twice = is_twice(l, l->spec.in_c - 1) };
    for (int64_t at = j->pictures * w->out_h * part / parts, end = j->pictures * w->out_h * (part + 1) / parts, some; at < end; at += some) {
        const int64_t picture = at / w->out_h, row = at % w->out_h, left = picture_end(at, w->out_h, end) - at;
        some = left < BAND ? left : BAND;
        copy_rows(j, picture, band, row * w->stride_h, row * w->stride_h + band_rows(l, some));
        d.y = (uint8_t *)j->y + at * w->out_w * w->c;
        l->level->depthwise(&d, 0, some);
    }
}

static uint64_t offsets_bytes(const struct bytes_layer *l) { return ((uint64_t)l->walk.segments * sizeof(int64_t) + ALIGN - 1) / ALIGN * ALIGN; }

/* a start of its own, for another zero point */
static uint64_t starts_bytes(const struct bytes_layer *l) { return l->sums ? ((uint64_t)l->spec.out_c * sizeof(int32_t) + ALIGN - 1) / ALIGN * ALIGN : 0; }

uint64_t bytes_layer_scratch(const struct bytes_layer *l, const struct window2d *w, int threads)
{
    const struct shape s = read_shape(l, w);
    if (l->depthwise) return offsets_bytes(l) + band_bytes(l, &s) * (uint64_t)(threads < 1 ? 1 : threads);
    return offsets_bytes(l) + starts_bytes(l) + (s.copied ? (uint64_t)(s.copy_bytes * s.together) : 0);
}

static size_t number_bytes(enum bytes_out out) { return out <= BYTES_S8 ? 1 : 4; }

void bytes_layer_run(const struct bytes_layer *l, void *y, const void *x, const int *x_zero, const void *residual, const struct window2d *w, void *scratch, int threads)
{
    struct job j = { .l = l, .w = w, .s = read_shape(l, w), .at = scratch, .copy = (uint8_t *)scratch + offsets_bytes(l) + starts_bytes(l), .finish = l->spec.finish };
    const struct bytes_spec *p = &l->spec;
    const struct shape *s = &j.s;
    int64_t *at = scratch;
    if (w->n < 1 || w->out_h < 1 || w->out_w < 1) return;
    assert(!x_zero || l->sums);
    j.zero = (x_zero ? *x_zero : p->x_zero) + (p->x_signed ? 128 : 0);
    if (x_zero) {
        int32_t *start = (int32_t *)(void *)((uint8_t *)scratch + offsets_bytes(l));
        for (int64_t m = 0; m < p->out_c; m++) start[m] = (int32_t)((uint32_t)l->start[m] - (uint32_t)(*x_zero - p->x_zero) * (uint32_t)l->sums[m]);
        j.finish.start = start;
    }
    const bool rows = l->walk.segments == p->kh && p->groups == 1 && p->dilation_w == 1;
    for (int i = 0; i < l->walk.segments; i++) {
        const int ky = rows ? i : i / p->kw, kx = rows ? 0 : i % p->kw;
        at[i] = ((int64_t)ky * p->dilation_h * s->w.w + (int64_t)kx * p->dilation_w) * p->in_c;
    }
    const int64_t pairs = pairs_of(l) * p->groups, together = l->depthwise ? s->pictures : s->together;
    j.x_picture = s->pictures == 1 ? 0 : w->h * w->w * p->in_c;
    j.from_picture = s->pictures == 1 ? 0 : s->copy_bytes;
    j.y_picture = w->out_h * w->out_w;
    for (int64_t n = 0; n < s->pictures; n += together) {
        j.pictures = s->pictures - n < together ? s->pictures - n : together;
        j.by_panels = threads > 1 && !l->depthwise && ((pairs * 2 * l->walk.panel_bytes > SPLIT_BYTES && pairs >= threads) || j.pictures * s->runs * s->blocks < threads);
        j.x = (const uint8_t *)x + n * j.x_picture;
        j.y = (uint8_t *)y + (size_t)(n * j.y_picture * p->out_c) * number_bytes(p->finish.out);
        j.residual = residual ? (const uint8_t *)residual + n * j.y_picture * p->out_c : NULL;
        j.from = s->copied ? j.copy : j.x;
        const int copiers = j.pictures * s->w.h < threads ? 1 : threads;
        if (s->copied && !l->depthwise) parallel_for(copiers, copiers, copy_part, &j);
        if (l->depthwise) parallel_for(threads, threads, depth_part, &j);
        else parallel_for(threads, threads, product_part, &j);
    }
}
