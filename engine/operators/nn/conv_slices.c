#include "engine/operators/nn/conv_slices.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

struct conv_slices {
    struct conv_spec spec;
    struct activation_spec act;
    struct kernels kernels;
    float  *bias;                        /* NULL: none */
    int     depth;
    struct conv_layer *layers[];         /* [depth] */
};

/* Slices [to, to + count) of y take slices from `from` on, `stride` apart. */
struct slices_step { struct conv_plan *plan; int64_t from, to, count; };

struct slices_plan {
    const struct conv_slices *slices;
    int64_t  n, in_slices, out_slices, in_slice, out_slice /* numbers */, stride;
    int      threads;
    uint64_t scratch;
    struct slices_step steps[];          /* [depth] */
};

enum status conv_slices_open(struct conv_slices **out, const struct conv_spec *spec, int depth, const float *weight, const float *bias, struct activation_spec act, const struct kernels *k, int threads, struct err *err)
{
    const int64_t planes = spec->out_c * (spec->in_c / spec->groups), cells = (int64_t)spec->kh * spec->kw;
    struct conv_slices *s = mem_calloc_array(1, sizeof *s + (size_t)depth * sizeof *s->layers);
    float *own = mem_alloc_array((uint64_t)planes, (uint64_t)cells * sizeof *own);
    enum status st = s && own ? ST_OK : err_set(err, ST_NO_MEMORY, "packing a convolution over three dimensions");
    if (s) {
        s->spec = *spec;
        s->spec.has_residual = true;
        s->spec.act = (struct activation_spec){ ACT_NONE, 0, 0 };
        s->act = act;
        s->kernels = *k;
        s->depth = depth;
        if (bias && !(s->bias = mem_alloc_array((uint64_t)spec->out_c, sizeof *s->bias)) && !st) st = err_set(err, ST_NO_MEMORY, "packing a convolution over three dimensions");
        if (s->bias) memcpy(s->bias, bias, (size_t)spec->out_c * sizeof *bias);
    }
    for (int d = 0; d < depth && !st; d++) {
        for (int64_t i = 0; i < planes; i++) memcpy(own + i * cells, weight + (i * depth + d) * cells, (size_t)cells * sizeof *own);
        st = conv_layer_open(&s->layers[d], &s->spec, own, NULL, k, threads, err);
    }
    free(own);
    if (st) conv_slices_close(s);
    else *out = s;
    return st;
}

void conv_slices_close(struct conv_slices *s)
{
    if (!s) return;
    for (int d = 0; d < s->depth; d++)
        if (s->layers[d]) conv_layer_close(s->layers[d]);
    free(s->bias);
    free(s);
}

uint64_t conv_slices_bytes(const struct conv_slices *s)
{
    uint64_t sum = 0;
    for (int d = 0; d < s->depth; d++) sum += conv_layer_bytes(s->layers[d]);
    return sum;
}

const char *conv_slices_kernel(const struct conv_slices *s) { return conv_layer_kernel(s->layers[0]); }

static int64_t least_whole(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

enum status slices_plan_open(struct slices_plan **out, const struct conv_slices *s, const struct window *w, int64_t n, int threads, struct err *err)
{
    struct slices_plan *p = mem_calloc_array(1, sizeof *p + (size_t)s->depth * sizeof *p->steps);
    if (!p) return err_set(err, ST_NO_MEMORY, "planning a convolution");
    struct window2d d = { .h = w->in[1], .w = w->in[2], .c = s->spec.in_c, .out_h = w->out[1], .out_w = w->out[2], .kh = s->spec.kh, .kw = s->spec.kw, .stride_h = s->spec.stride_h, .stride_w = s->spec.stride_w,
                          .dilation_h = s->spec.dilation_h, .dilation_w = s->spec.dilation_w, .pad_top = w->low[1], .pad_left = w->low[2], .pad_bottom = w->high[1], .pad_right = w->high[2] };
    *p = (struct slices_plan){ .slices = s, .n = n, .in_slices = w->in[0], .out_slices = w->out[0], .in_slice = d.h * d.w * d.c, .out_slice = d.out_h * d.out_w * s->spec.out_c, .stride = w->stride[0], .threads = threads };
    enum status st = ST_OK;
    for (int k = 0; k < s->depth && !st; k++) {
        struct slices_step *t = &p->steps[k];
        const int64_t shift = k * w->dilation[0] - w->low[0];              /* slice z of y takes z * stride + shift */
        t->to = least_whole(-shift, p->stride);
        const int64_t end = p->in_slices - shift <= 0 ? 0 : (p->in_slices - shift - 1) / p->stride + 1;
        t->count = (end < p->out_slices ? end : p->out_slices) - t->to;
        if (t->count <= 0) {
            t->count = 0;
            continue;
        }
        t->from = t->to * p->stride + shift;
        d.n = p->stride == 1 ? t->count : 1;
        st = conv_plan_open(&t->plan, s->layers[k], &d, threads, err);
        if (!st && conv_plan_scratch(t->plan) > p->scratch) p->scratch = conv_plan_scratch(t->plan);
    }
    if (st) slices_plan_close(p);
    else *out = p;
    return st;
}

void slices_plan_close(struct slices_plan *p)
{
    if (!p) return;
    for (int k = 0; k < p->slices->depth; k++)
        if (p->steps[k].plan) conv_plan_close(p->steps[k].plan);
    free(p);
}

uint64_t slices_plan_scratch(const struct slices_plan *p) { return p->scratch; }

struct beginning { const struct slices_plan *p; float *y; const float *residual; };

/* y = bias + residual */
static void begin_part(void *ctx, int part, int parts)
{
    const struct beginning *b = ctx;
    const struct slices_plan *p = b->p;
    const int64_t c = p->slices->spec.out_c, rows = p->n * p->out_slices * p->out_slice / c, from = rows * part / parts, to = rows * (part + 1) / parts;
    const float *bias = p->slices->bias;
    for (int64_t r = from; r < to; r++) {
        float *y = b->y + r * c;
        if (b->residual) {
            const float *x = b->residual + r * c;
            for (int64_t k = 0; k < c; k++) y[k] = bias ? x[k] + bias[k] : x[k];
        } else if (bias) memcpy(y, bias, (size_t)c * sizeof *y);
        else memset(y, 0, (size_t)c * sizeof *y);
    }
}

enum status slices_plan_run(const struct slices_plan *p, float *y, const float *x, const float *residual, void *scratch, struct err *err)
{
    const struct conv_slices *s = p->slices;
    struct beginning b = { p, y, residual };
    enum status st = ST_OK;
    parallel_for(p->threads, p->threads, begin_part, &b);
    for (int64_t i = 0; i < p->n; i++)
        for (int k = 0; k < s->depth; k++) {
            const struct slices_step *t = &p->steps[k];
            const float *from = x + (i * p->in_slices + t->from) * p->in_slice;
            float *to = y + (i * p->out_slices + t->to) * p->out_slice;
            for (int64_t z = 0; z < t->count && !st; z += p->stride == 1 ? t->count : 1) st = conv_plan_run(t->plan, to + z * p->out_slice, from + z * p->stride * p->in_slice, to + z * p->out_slice, scratch, err);
        }
    if (!st && s->act.kind != ACT_NONE) s->kernels.activate_f32(y, y, p->n * p->out_slices * p->out_slice, s->act, p->threads);
    return st;
}
