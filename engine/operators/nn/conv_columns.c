/* A convolution gathers, for some output elements at a time, what their windows see into rows [elements, kernel * channels], and multiplies them by the packed
 * weight; its sums run over the kernel's elements and then the channels, ascending. A transposed one adds, for each row of the output's last dimension and each kernel
 * element that meets it, the product of the input's row and that element's matrix to every stride-th pixel; kernel elements ascend. Neither order depends on
 * the other pictures or on threads, which share out rows of the output. */
#include "engine/operators/nn/conv_columns.h"

#include <string.h>

#include "base/checked.h"

enum { COLUMNS_FLOATS = 1 << 15, COLUMNS_ROWS_MAX = 112 };      /* of gathered rows: half of a second-level cache, and not more rows than a few tiles of the product */

static uint64_t whole(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

/* Matrices [k, n], `count` of them, each `bytes` long. */
struct matrices { int64_t k, n, count; uint64_t bytes; };

static struct matrices matrices_of(const struct kernels *k, bool transposed, const int64_t *w, int rank, int64_t groups)
{
    struct matrices m;
    const int64_t cells = dims_product(w, 2, rank);
    m.k = transposed ? w[0] / groups : w[1] * cells;
    m.n = transposed ? w[1] : w[0] / groups;
    m.count = transposed ? groups * cells : groups;
    m.bytes = whole(k->gemm_f32_packed_bytes(m.k, m.n));
    return m;
}

uint64_t columns_pack_bytes(const struct kernels *k, bool transposed, const int64_t *w, int rank, int64_t groups)
{
    const struct matrices m = matrices_of(k, transposed, w, rank, groups);
    uint64_t bytes;
    return size_mul(m.bytes, (uint64_t)m.count, &bytes) && bytes < UINT64_MAX / 4 ? bytes : UINT64_MAX / 4;
}

/* A convolution's weight is [m, c, cells]; its matrix [cells, c] by [m] is packed cell by cell, since a panel is k after k. */
static void pack_cells(const struct kernels *k, char *to, const float *w, const struct matrices *m, int64_t channels)
{
    const int64_t cells = m->k / channels;
    if (cells == 1) {
        k->gemm_f32_pack(to, w, 1, m->k, m->k, m->n);
        return;
    }
    /* one column of panels at a time: as wide as a packed single row is */
    const int64_t panel = (int64_t)(k->gemm_f32_packed_bytes(1, 1) / sizeof(float));
    float *out = (float *)(void *)to;
    for (int64_t left = 0; left < m->n; left += panel)
        for (int64_t cell = 0; cell < cells; cell++)
            for (int64_t c = 0; c < channels; c++, out += panel)
                for (int64_t i = 0; i < panel; i++) out[i] = left + i < m->n ? w[((left + i) * channels + c) * cells + cell] : 0;
}

void columns_pack(const struct kernels *k, bool transposed, void *packed, const float *weight, const int64_t *w, int rank, int64_t groups)
{
    const struct matrices m = matrices_of(k, transposed, w, rank, groups);
    const int64_t cells = dims_product(w, 2, rank);
    for (int64_t i = 0; i < m.count; i++) {
        char *to = (char *)packed + (uint64_t)i * m.bytes;
        if (transposed) k->gemm_f32_pack(to, weight + i / cells * m.k * m.n * cells + i % cells, m.n * cells, cells, m.k, m.n);
        else pack_cells(k, to, weight + i * m.n * m.k, &m, w[1]);
    }
}

/* ---- what both share: operands channels last, weights packed ---- */
struct shared {
    const struct call *c;
    const struct window *w;
    const struct kernels *k;
    struct matrices m;
    const float *x, *bias;
    float  *y, *rows;                    /* rows: of each thread */
    const char *packed;
    int64_t groups, in_c, out_c, in, out, at_once;
};

static bool turns(const struct operand *o, int64_t space) { return !o->channels_last && o->dims[1] > 1 && space > 1; }

static int64_t at_once_of(const struct matrices *m)
{
    const int64_t n = COLUMNS_FLOATS / (m->k > 0 ? m->k : 1);
    return n < 1 ? 1 : n > COLUMNS_ROWS_MAX ? COLUMNS_ROWS_MAX : n;
}

uint64_t columns_scratch(const struct call *c, const struct window *w, bool transposed, int64_t groups)
{
    const struct matrices m = matrices_of(c->k, transposed, c->in[1]->dims, c->in[1]->rank, groups);
    uint64_t bytes = 64, rows;
    if (turns(c->in[0], dims_product(w->in, 0, w->dims))) bytes += whole(c->in[0]->bytes);
    if (turns(c->out[0], dims_product(w->out, 0, w->dims))) bytes += whole(c->out[0]->bytes);
    if (!c->node->packed) bytes += columns_pack_bytes(c->k, transposed, c->in[1]->dims, c->in[1]->rank, groups);
    if (transposed) return bytes;
    if (!size_mul((uint64_t)at_once_of(&m) * sizeof(float) * (uint64_t)(c->threads > 0 ? c->threads : 1), (uint64_t)m.k, &rows)) return UINT64_MAX;
    return size_add(bytes, rows, &bytes) ? bytes : UINT64_MAX;
}

static void begin(struct shared *s, const struct call *c, const struct window *w, bool transposed, int64_t groups)
{
    const struct operand *x = c->in[0], *y = c->out[0], *bias = c->in_count > 2 && c->node->residual != 2 ? c->in[2] : NULL;
    char *at = c->scratch;
    *s = (struct shared){ .c = c, .w = w, .k = c->k, .groups = groups, .in_c = x->dims[1], .out_c = y->dims[1], .in = dims_product(w->in, 0, w->dims), .out = dims_product(w->out, 0, w->dims), .x = x->data, .y = y->data, .bias = bias ? bias->data : NULL };
    s->m = matrices_of(c->k, transposed, c->in[1]->dims, c->in[1]->rank, groups);
    s->at_once = at_once_of(&s->m);
    if (turns(x, s->in)) {
        c->k->transpose_2d(at, x->data, x->dims[0], x->dims[1], s->in, 4, c->threads);
        s->x = (const float *)(void *)at;
        at += whole(x->bytes);
    }
    if (turns(y, s->out)) {
        s->y = (float *)(void *)at;
        at += whole(y->bytes);
    }
    s->packed = c->node->packed;
    if (!s->packed) {
        columns_pack(c->k, transposed, at, c->in[1]->data, c->in[1]->dims, c->in[1]->rank, groups);
        s->packed = at;
        at += s->m.bytes * (uint64_t)s->m.count;
    }
    s->rows = (float *)(void *)at;
}

static void end(const struct shared *s)
{
    struct operand *y = s->c->out[0];
    if (s->y != y->data) s->k->transpose_2d(y->data, s->y, y->dims[0], s->out, s->out_c, 4, s->c->threads);
}

/* ---- convolution ---- */
static void gather(const struct shared *s, float *to, int64_t n, int64_t group, int64_t o)
{
    const struct window *w = s->w;
    const int64_t per = s->in_c / s->groups;
    int64_t at[WINDOW_DIMS], k[WINDOW_DIMS] = { 0 };
    const float *x = s->x + n * s->in * s->in_c + group * per;
    for (int d = w->dims - 1; d >= 0; d--) at[d] = o % w->out[d], o /= w->out[d];
    for (int64_t cell = 0, cells = s->m.k / per; cell < cells; cell++, to += per) {
        int64_t from = 0;
        bool inside = true;
        for (int d = 0; d < w->dims; d++) {
            const int64_t i = at[d] * w->stride[d] - w->low[d] + k[d] * w->dilation[d];
            inside = inside && i >= 0 && i < w->in[d];
            from = from * w->in[d] + i;
        }
        if (inside) memcpy(to, x + from * s->in_c, (size_t)per * sizeof *to);
        else memset(to, 0, (size_t)per * sizeof *to);
        for (int d = w->dims - 1; d >= 0 && ++k[d] == w->kernel[d]; d--) k[d] = 0;
    }
}

static void convolve_part(void *ctx, int part, int parts)
{
    const struct shared *s = ctx;
    const int64_t blocks = (s->out + s->at_once - 1) / s->at_once, units = s->c->out[0]->dims[0] * blocks;
    float *rows = s->rows + (int64_t)part * s->at_once * s->m.k;
    for (int64_t u = units * part / parts, stop = units * (part + 1) / parts; u < stop; u++) {
        const int64_t n = u / blocks, first = u % blocks * s->at_once, count = s->out - first < s->at_once ? s->out - first : s->at_once;
        for (int64_t g = 0; g < s->groups; g++) {
            const struct gemm_epilogue ep = { .bias = s->bias ? s->bias + g * s->m.n : NULL, .act = s->c->node->act };
            for (int64_t i = 0; i < count; i++) gather(s, rows + i * s->m.k, n, g, first + i);
            s->k->gemm_f32(s->y + (n * s->out + first) * s->out_c + g * s->m.n, s->out_c, rows, s->m.k, s->packed + (uint64_t)g * s->m.bytes, count, s->m.n, s->m.k, &ep, 1);
        }
    }
}

void columns_convolve(const struct call *c, const struct window *w, int64_t groups)
{
    struct shared s;
    begin(&s, c, w, false, groups);
    parallel_for(c->threads, c->threads, convolve_part, &s);
    end(&s);
}

/* ---- transposed ---- */
/* Adds one row of the output's last dimension: kernel element `cell`, whose place in that dimension is k, meets the input's row at `from`. */
static void add_row(const struct shared *s, float *y, const float *from, int64_t cell, int64_t cells, int64_t k)
{
    const struct window *w = s->w;
    const int d = w->dims - 1;
    const int64_t shift = k * w->dilation[d] - w->low[d], step = w->stride[d];
    int64_t first = shift < 0 ? (-shift + step - 1) / step : 0, last = w->out[d] - 1 - shift < 0 ? -1 : (w->out[d] - 1 - shift) / step;
    if (last > w->in[d] - 1) last = w->in[d] - 1;
    if (last < first) return;
    const int64_t per = s->in_c / s->groups;
    for (int64_t g = 0; g < s->groups; g++) {
        float *to = y + (first * step + shift) * s->out_c + g * s->m.n;
        const struct gemm_epilogue ep = { .residual = to, .ldr = step * s->out_c };
        s->k->gemm_f32(to, step * s->out_c, from + first * s->in_c + g * per, s->in_c, s->packed + (uint64_t)(g * cells + cell) * s->m.bytes, last - first + 1, s->m.n, s->m.k, &ep, 1);
    }
}

static void transpose_row(const struct shared *s, int64_t n, int64_t row)
{
    const struct window *w = s->w;
    const int last = w->dims - 1;
    const int64_t cells = dims_product(w->kernel, 0, w->dims);
    int64_t at[WINDOW_DIMS], k[WINDOW_DIMS] = { 0 };
    float *y = s->y + (n * s->out + row * w->out[last]) * s->out_c;
    for (int64_t i = 0; i < w->out[last]; i++)
        for (int64_t m = 0; m < s->out_c; m++) y[i * s->out_c + m] = s->bias ? s->bias[m] : 0;
    for (int d = last - 1; d >= 0; d--) at[d] = row % w->out[d], row /= w->out[d];
    for (int64_t cell = 0; cell < cells; cell++) {
        int64_t from = 0;
        bool meets = true;
        for (int d = 0; d < last && meets; d++) {
            const int64_t i = at[d] + w->low[d] - k[d] * w->dilation[d];
            meets = i >= 0 && i % w->stride[d] == 0 && i / w->stride[d] < w->in[d];
            if (meets) from = from * w->in[d] + i / w->stride[d];
        }
        if (meets) add_row(s, y, s->x + (n * s->in + from * w->in[last]) * s->in_c, cell, cells, k[last]);
        for (int d = last; d >= 0 && ++k[d] == w->kernel[d]; d--) k[d] = 0;
    }
}

static void transpose_part(void *ctx, int part, int parts)
{
    const struct shared *s = ctx;
    const int64_t rows = s->out / (s->w->out[s->w->dims - 1] > 0 ? s->w->out[s->w->dims - 1] : 1), units = s->c->out[0]->dims[0] * rows;
    for (int64_t u = units * part / parts, stop = units * (part + 1) / parts; u < stop; u++) transpose_row(s, u / rows, u % rows);
}

void columns_transpose(const struct call *c, const struct window *w, int64_t groups)
{
    struct shared s;
    begin(&s, c, w, true, groups);
    parallel_for(c->threads, c->threads, transpose_part, &s);
    end(&s);
}
