/* oneDNN's convolution (C API of 2.x; the only file that names it).
 *
 * Activations are plain NHWC, weights are reordered once into the layout that the chosen kernel asks for, bias, residual (as a sum on the
 * output) and activation ride in the kernel's own store. The algorithm is always `direct`: Winograd chooses its tile by batch size and so rounds a
 * row otherwise when it has neighbours. A layer keeps one kernel (by the name oneDNN gives it) and one weight layout; a plan whose shape would get another
 * kernel at its batch size runs the kernel of batch size 1 once per picture instead. When a layer opens, a picture alone and the
 * same picture within a batch must come out equal in bits, else the layer is refused and conv.c takes our own kernel.
 *
 * A small layer (under a million products a picture) always takes its pictures one by one, each on one thread, and threads share out the pictures: the kernel is made once with
 * the layer and serves every batch size, since making one costs more than such a layer's run.
 *
 * oneDNN is capped to our CPU level once per process, at the first layer (dnnl_set_max_cpu_isa works only once); a layer of another
 * level is then refused. Executing makes a few small heap allocations inside the library; there is none of ours. */
#include "kernels/conv_onednn.h"

#ifndef INFERD_NO_ONEDNN

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/half.h"

enum { APART_PRODUCTS_MAX = 1000000, ALIGN = 64, PRIMITIVES_CACHED = 128, NAME_MAX_ = 48, KERNELS_TRIED = 8 };
static const int64_t VERIFY_MACS = 400000000;           /* a batch for the check is cut to about this much work: some 2 ms */
enum { FRESH_NUMBERS = 65521, CHECKED = 256 };      /* of the check; a prime, so that rows and pictures differ */

struct conv_onednn {
    struct conv_spec spec;
    dnnl_memory_desc_t weights_md;
    void *weights;
    float *bias;
    uint64_t bytes;
    char name[NAME_MAX_];
    bool apart;                          /* pictures one by one, each on one thread */
    struct window2d window;              /* with `apart`: the shape that `one` is for */
    dnnl_primitive_t one;
};

/* What one call is given; with pictures apart each thread has its own. */
struct lane { dnnl_stream_t stream; dnnl_memory_t x, y, weights, bias, scratch; };

struct conv_onednn_plan {
    const struct conv_onednn *c;
    dnnl_primitive_t primitive;
    bool borrowed;                       /* the primitive is the layer's */
    void *weights;                       /* bfloat16: laid out anew for a shape that the layer's layout does not serve; NULL: the layer's */
    struct lane *lanes; int lane_count;
    uint64_t scratch_bytes;              /* of one lane */
    int64_t calls;                       /* 1, or n when the primitive takes one picture */
    size_t x_picture, y_picture;         /* bytes of one picture */
    size_t y_bytes;                      /* of the whole output */
    int threads;
};

static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;   /* engine, engine_level */
static dnnl_engine_t engine;
static enum cpu_level engine_level;

/* oneDNN's process-wide state, made by the first layer for its level. */
static enum status engine_for(enum cpu_level level, struct err *err)
{
    static const dnnl_cpu_isa_t isa[CPU_LEVEL_COUNT] = { dnnl_cpu_isa_sse41, dnnl_cpu_isa_avx2, dnnl_cpu_isa_avx512_core, dnnl_cpu_isa_all };
    enum status st = ST_OK;
    if (level == CPU_SCALAR) return err_set(err, ST_UNSUPPORTED, "convolution: oneDNN is not used at the level scalar");
    pthread_mutex_lock(&process_lock);
    if (!engine) {
        if (level < cpu_level_detect()) dnnl_set_max_cpu_isa(isa[level]);
        dnnl_set_primitive_cache_capacity(PRIMITIVES_CACHED);
        if (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) st = err_set(err, ST_UNSUPPORTED, "convolution: oneDNN has no engine for this machine");
        engine_level = level;
    } else if (engine_level != level) {
        st = err_set(err, ST_UNSUPPORTED, "convolution: oneDNN already runs at the level %s in this process", cpu_level_name(engine_level));
    }
    pthread_mutex_unlock(&process_lock);
    return st;
}

/* The activation as oneDNN's eltwise; false when it has none. */
static bool eltwise_of(struct activation_spec act, dnnl_alg_kind_t *alg, float *alpha, float *beta)
{
    *alpha = act.alpha, *beta = act.beta;
    switch (act.kind) {
    case ACT_RELU:       *alg = dnnl_eltwise_relu, *alpha = 0; return true;
    case ACT_CLIP:       *alg = dnnl_eltwise_clip; return true;
    case ACT_LEAKY_RELU: *alg = dnnl_eltwise_relu; return true;
    case ACT_SIGMOID:    *alg = dnnl_eltwise_logistic; return true;
    case ACT_TANH:       *alg = dnnl_eltwise_tanh; return true;
    case ACT_SILU:       *alg = dnnl_eltwise_swish, *alpha = 1; return true;
    case ACT_QUICK_GELU: *alg = dnnl_eltwise_swish, *alpha = 1.702f; return true;
    case ACT_HARD_SWISH: *alg = dnnl_eltwise_hardswish; return true;
    case ACT_GELU:       *alg = dnnl_eltwise_gelu_erf; return true;
    case ACT_GELU_TANH:  *alg = dnnl_eltwise_gelu_tanh; return true;
    case ACT_ELU:        *alg = dnnl_eltwise_elu; return true;
    case ACT_EXP:        *alg = dnnl_eltwise_exp; return true;
    default:             return false;
    }
}

bool conv_onednn_takes_activation(struct activation_spec act)
{
    dnnl_alg_kind_t alg;
    float alpha, beta;
    return eltwise_of(act, &alg, &alpha, &beta);
}

static bool plain_md(dnnl_memory_desc_t *md, int n, const dnnl_dims_t dims, dnnl_data_type_t type, dnnl_format_tag_t tag) { return dnnl_memory_desc_init_by_tag(md, n, dims, type, tag) == dnnl_success; }

static size_t x_size(const struct conv_spec *s) { return s->bf16 ? sizeof(uint16_t) : sizeof(float); }
static size_t y_size(const struct conv_spec *s) { return s->bf16 && s->y_bf16 ? sizeof(uint16_t) : sizeof(float); }

static void weight_dims(const struct conv_spec *s, int *n, dnnl_dims_t dims)
{
    *n = s->groups > 1 ? 5 : 4;
    dnnl_dim_t *d = dims;
    if (s->groups > 1) *d++ = s->groups;
    *d++ = s->out_c / s->groups, *d++ = s->in_c / s->groups, *d++ = s->kh, *d++ = s->kw;
}

static dnnl_status_t describe(dnnl_convolution_desc_t *cd, const struct conv_spec *s, const struct window2d *w, int64_t n, bool has_bias, const dnnl_memory_desc_t *weights)
{
    dnnl_memory_desc_t x, y, any, bias;
    dnnl_dims_t dims;
    int rank;
    const dnnl_data_type_t in = s->bf16 ? dnnl_bf16 : dnnl_f32, out = s->bf16 && s->y_bf16 ? dnnl_bf16 : dnnl_f32;
    weight_dims(s, &rank, dims);
    if (!plain_md(&x, 4, (dnnl_dims_t){ n, s->in_c, w->h, w->w }, in, dnnl_nhwc) || !plain_md(&y, 4, (dnnl_dims_t){ n, s->out_c, w->out_h, w->out_w }, out, dnnl_nhwc) ||
        !plain_md(&any, rank, dims, in, dnnl_format_tag_any) || !plain_md(&bias, 1, (dnnl_dims_t){ s->out_c }, dnnl_f32, dnnl_a)) return dnnl_invalid_arguments;
    const dnnl_dims_t strides = { s->stride_h, s->stride_w }, dilates = { s->dilation_h - 1, s->dilation_w - 1 }, before = { w->pad_top, w->pad_left };
    /* oneDNN wants the padding that the output really uses; a rest at the lower right that no window reaches is cut off. */
    const dnnl_dims_t after = { (w->out_h - 1) * s->stride_h + (s->kh - 1) * s->dilation_h + 1 - w->h - w->pad_top, (w->out_w - 1) * s->stride_w + (s->kw - 1) * s->dilation_w + 1 - w->w - w->pad_left };
    return dnnl_dilated_convolution_forward_desc_init(cd, dnnl_forward_inference, dnnl_convolution_direct, &x, weights ? weights : &any, has_bias ? &bias : NULL, &y, strides, dilates, before, after);
}

static dnnl_status_t attributes(dnnl_primitive_attr_t *out, const struct conv_spec *s)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_alg_kind_t alg;
    float alpha, beta;
    dnnl_status_t st = dnnl_primitive_attr_create(&attr);
    if (st == dnnl_success) st = dnnl_post_ops_create(&ops);
    if (st == dnnl_success && s->has_residual) st = dnnl_post_ops_append_sum(ops, 1.0f);
    if (st == dnnl_success && s->act.kind != ACT_NONE) st = eltwise_of(s->act, &alg, &alpha, &beta) ? dnnl_post_ops_append_eltwise(ops, 1.0f, alg, alpha, beta) : dnnl_unimplemented;
    if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (st == dnnl_success) st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (ops) dnnl_post_ops_destroy(ops);
    if (st == dnnl_success) *out = attr;
    else if (attr) dnnl_primitive_attr_destroy(attr);
    return st;
}

/* Reference loops and im2col over a library GEMM are no gain over ours, and the latter adds in an order of its own. */
static bool name_is_wanted(const char *name) { return !strstr(name, "ref") && strncmp(name, "gemm", 4) != 0; }

/* The first kernel for `n` pictures of this window: any wanted one when `name` is NULL (and `skip` of them are passed over), else the one of that name with `weights`' layout. */
static dnnl_primitive_desc_t find_kernel(const struct conv_spec *s, const struct window2d *w, int64_t n, bool has_bias, const dnnl_memory_desc_t *weights, const char *name, int skip)
{
    dnnl_convolution_desc_t cd;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_iterator_t it = NULL;
    dnnl_primitive_desc_t found = NULL;
    if (describe(&cd, s, w, n, has_bias, weights) != dnnl_success || attributes(&attr, s) != dnnl_success) return NULL;
    for (dnnl_status_t st = dnnl_primitive_desc_iterator_create(&it, &cd, attr, engine, NULL); st == dnnl_success && !found; st = dnnl_primitive_desc_iterator_next(it)) {
        const char *info = NULL;
        dnnl_primitive_desc_t pd = dnnl_primitive_desc_iterator_fetch(it);
        if (!pd) break;
        bool fits = dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &info) == dnnl_success && info && (name ? !strcmp(info, name) : name_is_wanted(info) && skip-- == 0);
        if (fits) found = pd;
        else dnnl_primitive_desc_destroy(pd);
    }
    if (it) dnnl_primitive_desc_iterator_destroy(it);
    dnnl_primitive_attr_destroy(attr);
    return found;
}

void conv_onednn_plan_close(struct conv_onednn_plan *p)
{
    if (!p) return;
    for (int i = 0; i < p->lane_count; i++) {
        const struct lane *l = &p->lanes[i];
        dnnl_memory_t memories[] = { l->x, l->y, l->weights, l->bias, l->scratch };
        for (size_t k = 0; k < sizeof memories / sizeof *memories; k++)
            if (memories[k]) dnnl_memory_destroy(memories[k]);
        if (l->stream) dnnl_stream_destroy(l->stream);
    }
    if (p->primitive && !p->borrowed) dnnl_primitive_destroy(p->primitive);
    free(p->lanes);
    free(p->weights);
    free(p);
}

static bool bind(dnnl_memory_t *m, const dnnl_memory_desc_t *md, void *data)
{
    return md && dnnl_memory_create(m, md, engine, data ? data : DNNL_MEMORY_NONE) == dnnl_success;
}

static bool reorder(void *to_data, const dnnl_memory_desc_t *to_md, void *from_data, const dnnl_memory_desc_t *from_md)
{
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_stream_t stream = NULL;
    bool done = dnnl_memory_create(&from, from_md, engine, from_data) == dnnl_success && dnnl_memory_create(&to, to_md, engine, to_data) == dnnl_success &&
                dnnl_reorder_primitive_desc_create(&pd, from_md, engine, to_md, engine, NULL) == dnnl_success && dnnl_primitive_create(&primitive, pd) == dnnl_success &&
                dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) == dnnl_success &&
                dnnl_primitive_execute(primitive, stream, 2, (dnnl_exec_arg_t[]){ { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } }) == dnnl_success && dnnl_stream_wait(stream) == dnnl_success;
    if (stream) dnnl_stream_destroy(stream);
    if (primitive) dnnl_primitive_destroy(primitive);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (to) dnnl_memory_destroy(to);
    if (from) dnnl_memory_destroy(from);
    return done;
}

static bool open_lanes(struct conv_onednn_plan *p, const_dnnl_primitive_desc_t pd)
{
    const struct conv_onednn *c = p->c;
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    p->scratch_bytes = scratch ? (dnnl_memory_desc_get_size(scratch) + ALIGN - 1) & ~(uint64_t)(ALIGN - 1) : 0;
    p->lane_count = c->apart ? p->threads : 1;
    p->lanes = mem_calloc_array((uint64_t)p->lane_count, sizeof *p->lanes);
    bool made = p->lanes != NULL;
    if (!made) p->lane_count = 0;
    for (int i = 0; made && i < p->lane_count; i++) {
        struct lane *l = &p->lanes[i];
        made = dnnl_stream_create(&l->stream, engine, dnnl_stream_default_flags) == dnnl_success && bind(&l->x, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0), NULL) &&
               bind(&l->y, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0), NULL) && bind(&l->weights, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0), p->weights ? p->weights : c->weights) &&
               (!p->scratch_bytes || bind(&l->scratch, scratch, NULL)) && (!c->bias || bind(&l->bias, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1), c->bias));
    }
    return made;
}

static bool same_picture(const struct window2d *a, const struct window2d *b)
{
    return a->h == b->h && a->w == b->w && a->out_h == b->out_h && a->out_w == b->out_w && a->pad_top == b->pad_top && a->pad_left == b->pad_left;
}

/* The kernel for this window, for one picture or for all. Whether the layer's kernel takes the shape must not hang on the batch: one picture is asked for first. */
static dnnl_primitive_desc_t describe_plan(struct conv_onednn_plan *p, const struct window2d *w)
{
    const struct conv_onednn *c = p->c;
    dnnl_primitive_desc_t one = find_kernel(&c->spec, w, 1, c->bias, &c->weights_md, c->name, 0), all;
    p->calls = c->apart ? w->n : 1;
    if (!one || c->apart || w->n <= 1) return one;
    if ((all = find_kernel(&c->spec, w, w->n, c->bias, &c->weights_md, c->name, 0))) {
        dnnl_primitive_desc_destroy(one);
        return all;
    }
    p->calls = w->n;
    return one;
}

/* In bfloat16 large pictures ask for another layout of the weights than small ones: then the plan has its own. */
static dnnl_primitive_desc_t describe_anew(struct conv_onednn_plan *p, const struct window2d *w)
{
    const struct conv_onednn *c = p->c;
    dnnl_primitive_desc_t pd = c->spec.bf16 ? find_kernel(&c->spec, w, w->n, c->bias, NULL, NULL, 0) : NULL;
    const dnnl_memory_desc_t *md = pd ? dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0) : NULL;
    p->calls = 1;
    if (md && (p->weights = mem_alloc_aligned(dnnl_memory_desc_get_size(md), ALIGN)) && reorder(p->weights, md, c->weights, &c->weights_md)) return pd;
    if (pd) dnnl_primitive_desc_destroy(pd);
    return NULL;
}

enum status conv_onednn_plan_open(struct conv_onednn_plan **out, const struct conv_onednn *c, const struct window2d *w, int threads, struct err *err)
{
    parallel_set_threads(c->apart ? 1 : threads);       /* a kernel is made for the team that will run it */
    struct conv_onednn_plan *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "convolution plan");
    *p = (struct conv_onednn_plan){ .c = c, .threads = threads, .x_picture = (size_t)(w->h * w->w * w->c) * x_size(&c->spec), .y_picture = (size_t)(w->out_h * w->out_w * c->spec.out_c) * y_size(&c->spec) };
    p->y_bytes = p->y_picture * (size_t)w->n;
    bool made;
    if (c->one && same_picture(w, &c->window)) {
        const_dnnl_primitive_desc_t pd = NULL;
        p->primitive = c->one;
        p->borrowed = true;
        p->calls = w->n;
        made = dnnl_primitive_get_primitive_desc(c->one, &pd) == dnnl_success && open_lanes(p, pd);
    } else {
        dnnl_primitive_desc_t pd = describe_plan(p, w);
        if (!pd) pd = describe_anew(p, w);
        if (!pd) {
            conv_onednn_plan_close(p);
            return err_set(err, ST_UNSUPPORTED, "convolution: kernel %s does not take an input of %lld x %lld", c->name, (long long)w->h, (long long)w->w);
        }
        made = dnnl_primitive_create(&p->primitive, pd) == dnnl_success && open_lanes(p, pd);
        dnnl_primitive_desc_destroy(pd);
    }
    if (!made) {
        conv_onednn_plan_close(p);
        return err_set(err, ST_NO_MEMORY, "convolution: kernel %s could not be made", c->name);
    }
    *out = p;
    return ST_OK;
}

uint64_t conv_onednn_plan_scratch(const struct conv_onednn_plan *p) { return p->scratch_bytes * (uint64_t)p->lane_count; }

struct copy_job { char *y; const char *x; size_t n; };      /* bytes */
static void copy_part(void *ctx, int part, int parts)
{
    const struct copy_job *j = ctx;
    size_t from = j->n * (size_t)part / (size_t)parts, to = j->n * ((size_t)part + 1) / (size_t)parts;
    memcpy(j->y + from, j->x + from, to - from);
}

struct run_job { const struct conv_onednn_plan *p; char *y; const char *x; char *scratch; atomic_bool failed; };

/* Calls [calls part / parts, calls (part + 1) / parts) with the part's own lane. */
static void run_part(void *ctx, int part, int parts)
{
    struct run_job *j = ctx;
    const struct conv_onednn_plan *p = j->p;
    const struct lane *l = &p->lanes[part];
    dnnl_exec_arg_t args[5] = { { DNNL_ARG_SRC, l->x }, { DNNL_ARG_WEIGHTS, l->weights }, { DNNL_ARG_DST, l->y } };
    int count = 3;
    bool well = true;
    if (l->bias) args[count++] = (dnnl_exec_arg_t){ DNNL_ARG_BIAS, l->bias };
    if (l->scratch) {
        well = dnnl_memory_set_data_handle(l->scratch, j->scratch + (uint64_t)part * p->scratch_bytes) == dnnl_success;
        args[count++] = (dnnl_exec_arg_t){ DNNL_ARG_SCRATCHPAD, l->scratch };
    }
    for (int64_t i = p->calls * part / parts, end = p->calls * (part + 1) / parts; well && i < end; i++) {
        /* The library's types know no const; it only reads x. */
        union { const char *given; void *taken; } in = { .given = j->x + (size_t)i * p->x_picture };
        well = dnnl_memory_set_data_handle(l->x, in.taken) == dnnl_success && dnnl_memory_set_data_handle(l->y, j->y + (size_t)i * p->y_picture) == dnnl_success &&
               dnnl_primitive_execute(p->primitive, l->stream, count, args) == dnnl_success && dnnl_stream_wait(l->stream) == dnnl_success;
    }
    if (!well) atomic_store_explicit(&j->failed, true, memory_order_relaxed);
}

enum status conv_onednn_plan_run(struct conv_onednn_plan *p, void *y, const void *x, const void *residual, void *scratch, struct err *err)
{
    if (residual && residual != y) {
        struct copy_job j = { y, residual, p->y_bytes };
        parallel_for(p->threads, p->threads, copy_part, &j);
    }
    struct run_job j = { .p = p, .y = y, .x = x, .scratch = scratch };
    const int parts = p->calls < p->lane_count ? (int)p->calls : p->lane_count;
    parallel_set_threads(p->c->apart ? 1 : p->threads);
    parallel_for(parts, parts, run_part, &j);
    return j.failed ? err_set(err, ST_INTERNAL, "convolution: kernel %s failed", p->c->name) : ST_OK;
}

static bool plain_weights_md(dnnl_memory_desc_t *md, const struct conv_spec *s)
{
    dnnl_dims_t dims;
    int rank;
    weight_dims(s, &rank, dims);
    return plain_md(md, rank, dims, dnnl_f32, rank == 5 ? dnnl_goihw : dnnl_oihw);
}

/* ONNX order into the kernel's layout, which may pad channels. */
static enum status pack(struct conv_onednn *c, const float *weight, const float *bias, struct err *err)
{
    const uint64_t bytes = dnnl_memory_desc_get_size(&c->weights_md);
    c->weights = mem_alloc_aligned(bytes, ALIGN);
    if (bias) c->bias = mem_alloc_array((uint64_t)c->spec.out_c, sizeof(float));
    if (!c->weights || (bias && !c->bias)) return err_set(err, ST_NO_MEMORY, "convolution weights");
    if (bias) memcpy(c->bias, bias, (size_t)c->spec.out_c * sizeof(float));
    c->bytes = bytes + (bias ? (uint64_t)c->spec.out_c * sizeof(float) : 0);
    dnnl_memory_desc_t plain;
    union { const float *given; void *taken; } in = { .given = weight };
    if (plain_weights_md(&plain, &c->spec) && reorder(c->weights, &c->weights_md, in.taken, &plain)) return ST_OK;
    return err_set(err, ST_UNSUPPORTED, "convolution: weights cannot be put in the layout of kernel %s", c->name);
}

enum status conv_onednn_unpack(const struct conv_onednn *c, float *weight, const float **bias, struct err *err)
{
    dnnl_memory_desc_t plain;
    *bias = c->bias;
    if (plain_weights_md(&plain, &c->spec) && reorder(weight, &plain, c->weights, &c->weights_md)) return ST_OK;
    return err_set(err, ST_NO_MEMORY, "convolution: the weights of kernel %s could not be unpacked", c->name);
}

/* Typical picture of the layer: the hints, else something small; padded so that the output covers the input. */
static struct window2d typical_window(const struct conv_spec *s)
{
    const int reach_h = (s->kh - 1) * s->dilation_h, reach_w = (s->kw - 1) * s->dilation_w;
    struct window2d w = { .n = 1, .h = s->hint_h > 0 ? s->hint_h : 28, .w = s->hint_w > 0 ? s->hint_w : 28, .c = s->in_c, .kh = s->kh, .kw = s->kw, .stride_h = s->stride_h, .stride_w = s->stride_w,
                          .dilation_h = s->dilation_h, .dilation_w = s->dilation_w, .pad_top = reach_h / 2, .pad_left = reach_w / 2, .pad_bottom = reach_h - reach_h / 2, .pad_right = reach_w - reach_w / 2 };
    w.out_h = (w.h - 1) / s->stride_h + 1, w.out_w = (w.w - 1) / s->stride_w + 1;
    if (s->hint_out_h > 0 && s->hint_out_w > 0) {
        w.out_h = s->hint_out_h, w.out_w = s->hint_out_w, w.pad_top = s->hint_top, w.pad_left = s->hint_left;
        w.pad_bottom = w.pad_right = 0;          /* what the output needs is worked out from the rest */
    }
    return w;
}

static enum status run_once(const struct conv_onednn *c, const struct window2d *w, int threads, void *y, const void *x, struct err *err)
{
    struct conv_onednn_plan *p;
    enum status st = conv_onednn_plan_open(&p, c, w, threads, err);
    if (st) return st;
    const uint64_t bytes = conv_onednn_plan_scratch(p);
    void *scratch = bytes ? mem_alloc_aligned(bytes, ALIGN) : NULL;
    st = bytes && !scratch ? err_set(err, ST_NO_MEMORY, "convolution scratch") : conv_onednn_plan_run(p, y, x, c->spec.has_residual ? y : NULL, scratch, err);
    free(scratch);
    conv_onednn_plan_close(p);
    return st;
}

/* Random numbers as the layer takes them, over and over again. */
static void fill(void *x, size_t count, const struct conv_spec *s)
{
    const size_t fresh = count < FRESH_NUMBERS ? count : FRESH_NUMBERS, size = x_size(s);
    uint32_t state = 12345;
    for (size_t i = 0; i < fresh; i++) {
        const float f = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
        const uint16_t rounded = f32_to_bf16_one(f);
        memcpy((char *)x + i * size, s->bf16 ? (const void *)&rounded : &f, size);
    }
    for (size_t i = fresh; i < count; i += fresh) memcpy((char *)x + i * size, x, (count - i < fresh ? count - i : fresh) * size);
}

/* What a check holds for. Networks repeat their layers, and those of other weights need no check of their own. */
struct checked { struct window2d w; int64_t in_c, out_c, groups, n; int act, forms, threads; char name[NAME_MAX_]; };

static struct { pthread_mutex_t lock; struct checked list[CHECKED]; unsigned count; } checks = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct checked check_of(const struct conv_onednn *c, const struct window2d *w, int64_t n, int threads)
{
    const struct conv_spec *s = &c->spec;
    struct checked k;
    memset(&k, 0, sizeof k);      /* compared as bytes */
    k.w = *w;
    k.in_c = s->in_c, k.out_c = s->out_c, k.groups = s->groups, k.n = n;
    k.act = (int)s->act.kind, k.threads = threads;
    k.forms = s->has_residual | s->bf16 << 1 | s->x_bf16 << 2 | s->y_bf16 << 3;
    memcpy(k.name, c->name, strlen(c->name));
    return k;
}

static bool was_checked(const struct checked *k)
{
    bool found = false;
    pthread_mutex_lock(&checks.lock);
    for (unsigned i = 0; i < checks.count && i < CHECKED; i++) found |= !memcmp(&checks.list[i], k, sizeof *k);
    pthread_mutex_unlock(&checks.lock);
    return found;
}

static void note_checked(const struct checked *k)
{
    pthread_mutex_lock(&checks.lock);
    checks.list[checks.count++ % CHECKED] = *k;
    pthread_mutex_unlock(&checks.lock);
}

/* One picture alone, first and last of a batch: equal in bits, at this thread count and at one? */
static enum status verify(const struct conv_onednn *c, struct window2d w, int threads, struct err *err)
{
    const int64_t macs = w.out_h * w.out_w * c->spec.out_c * (c->spec.in_c / c->spec.groups) * c->spec.kh * c->spec.kw, afford = macs > 0 ? VERIFY_MACS / macs : 1;
    int64_t n = c->spec.hint_n_max > 1 ? c->spec.hint_n_max : 2;
    if (n > afford) n = afford < 2 ? 2 : afford;
    const struct checked key = check_of(c, &w, n, threads);
    if (was_checked(&key)) return ST_OK;
    const size_t in = (size_t)(w.h * w.w * w.c), out = (size_t)(w.out_h * w.out_w * c->spec.out_c) * y_size(&c->spec);
    float *x = mem_alloc_array((uint64_t)n * in, sizeof(float));
    char *batch = mem_calloc_array((uint64_t)n, out), *alone = mem_calloc_array(1, out);
    enum status st = x && batch && alone ? ST_OK : err_set(err, ST_NO_MEMORY, "convolution check");
    if (!st) {
        fill(x, (size_t)n * in, &c->spec);
        const size_t one = in * x_size(&c->spec);
        memcpy((char *)x + (size_t)(n - 1) * one, x, one);
        st = run_once(c, &w, threads, alone, x, err);
        w.n = n;
        if (!st) st = run_once(c, &w, threads, batch, x, err);
        if (!st && (memcmp(alone, batch, out) || memcmp(alone, batch + (size_t)(n - 1) * out, out)))
            st = err_set(err, ST_UNSUPPORTED, "convolution: kernel %s rounds a picture otherwise within a batch", c->name);
    }
    if (!st) note_checked(&key);
    free(x);
    free(batch);
    free(alone);
    return st;
}

static enum status open_kernel(struct conv_onednn **out, const struct conv_spec *s, const float *weight, const float *bias, int threads, int skip, bool *more, struct err *err)
{
    const struct window2d w = typical_window(s);
    const bool apart = s->hint_h > 0 && w.out_h * w.out_w * s->out_c * (s->in_c / s->groups) * s->kh * s->kw < APART_PRODUCTS_MAX;
    parallel_set_threads(apart ? 1 : threads);
    dnnl_primitive_desc_t pd = find_kernel(s, &w, 1, bias, NULL, NULL, skip);
    *more = pd != NULL;
    if (!pd) return err_set(err, ST_UNSUPPORTED, "convolution: oneDNN has no direct kernel for it");
    struct conv_onednn *c = calloc(1, sizeof *c);
    const char *info = "";
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &info);
    enum status st = c && md ? ST_OK : err_set(err, ST_NO_MEMORY, "convolution layer");
    if (!st) {
        c->spec = *s;
        c->weights_md = *md;
        snprintf(c->name, sizeof c->name, "%s", info);
        st = pack(c, weight, bias, err);
    }
    if (!st && apart) {
        c->apart = true;
        c->window = w;
        if (dnnl_primitive_create(&c->one, pd) != dnnl_success) st = err_set(err, ST_NO_MEMORY, "convolution: kernel %s could not be made", c->name);
    }
    dnnl_primitive_desc_destroy(pd);
    if (!st && !apart) st = verify(c, w, threads, err);
    if (st) conv_onednn_close(c);
    else *out = c;
    return st;
}

enum status conv_onednn_open(struct conv_onednn **out, const struct conv_spec *s, const float *weight, const float *bias, enum cpu_level level, int threads, struct err *err)
{
    enum status st = engine_for(level, err);
    if (st) return st;
    bool more = true;
    st = ST_UNSUPPORTED;
    for (int skip = 0; skip < KERNELS_TRIED && st == ST_UNSUPPORTED && more; skip++) st = open_kernel(out, s, weight, bias, threads, skip, &more, err);
    return st;
}

void conv_onednn_close(struct conv_onednn *c)
{
    if (!c) return;
    if (c->one) dnnl_primitive_destroy(c->one);
    free(c->weights);
    free(c->bias);
    free(c);
}

uint64_t    conv_onednn_bytes(const struct conv_onednn *c) { return c->bytes; }
const char *conv_onednn_name(const struct conv_onednn *c) { return c->name; }

bool conv_onednn_wanted(const struct conv_spec *s, enum cpu_level level)
{
    (void)s;
    return level != CPU_SCALAR;
}

#else

bool conv_onednn_wanted(const struct conv_spec *s, enum cpu_level level)
{
    (void)s, (void)level;
    return false;
}
bool conv_onednn_takes_activation(struct activation_spec act) { return (void)act, false; }
enum status conv_onednn_open(struct conv_onednn **out, const struct conv_spec *s, const float *weight, const float *bias, enum cpu_level level, int threads, struct err *err)
{
    (void)out, (void)s, (void)weight, (void)bias, (void)level, (void)threads;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}
enum status conv_onednn_unpack(const struct conv_onednn *c, float *weight, const float **bias, struct err *err)
{
    (void)c, (void)weight, (void)bias;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}
void conv_onednn_close(struct conv_onednn *c) { (void)c; }
uint64_t conv_onednn_bytes(const struct conv_onednn *c) { return (void)c, 0; }
const char *conv_onednn_name(const struct conv_onednn *c) { return (void)c, "none"; }
enum status conv_onednn_plan_open(struct conv_onednn_plan **out, const struct conv_onednn *c, const struct window2d *w, int threads, struct err *err)
{
    (void)out, (void)c, (void)w, (void)threads;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}
void conv_onednn_plan_close(struct conv_onednn_plan *p) { (void)p; }
uint64_t conv_onednn_plan_scratch(const struct conv_onednn_plan *p) { return (void)p, 0; }
enum status conv_onednn_plan_run(struct conv_onednn_plan *p, void *y, const void *x, const void *residual, void *scratch, struct err *err)
{
    (void)p, (void)y, (void)x, (void)residual, (void)scratch;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}

#endif
