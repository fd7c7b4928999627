/* The convolution layer: packs weights once, chooses the kernel once, and runs it on any shape.
 *
 * Own kernels: a 1x1 convolution of stride 1 is gemm_f32 on the rows of pixels; a depthwise one is depthwise2d_f32; a large 3x3 one goes by Winograd (conv_winograd.c), in bfloat16 one of many channels by tiles (conv_tiles.c); everything else goes by im2col: a band of output pixels
 * becomes rows [pixels, kh kw in_c / groups] in scratch and is multiplied by the packed weights. Bands are shared out to threads and sized to stay in the
 * second-level cache. All of them add in an order that knows nothing of bands, threads or batch. What oneDNN does is in conv_onednn.c;
 * a shape that its kernel does not take (whatever the batch: so rows stay equal) gets our own kernel, whose weights are packed when the first such shape comes. */
#include "kernels/conv.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/conv_onednn.h"
#include "kernels/conv_tiles.h"
#include "kernels/conv_winograd.h"
#include "kernels/conv_winograd_bf16.h"

enum { BAND_FLOATS = 96 * 1024, BAND_PIXELS_MIN = 14, ALIGN = 64 };

enum conv_kind { CONV_IM2COL, CONV_GEMM1X1, CONV_DEPTHWISE, CONV_WINOGRAD, CONV_TILES, CONV_WINOGRAD_BF16, CONV_ONEDNN, CONV_KIND_COUNT };
static const char *const kind_names[CONV_KIND_COUNT] = { "im2col", "gemm1x1", "depthwise", "winograd4x4", "tiles", "winograd2x2:bf16", "onednn" };

struct conv_spare { pthread_mutex_t lock; struct conv_layer *own; };    /* own: NULL until a shape needs it */

struct conv_layer {
    struct conv_spec spec;
    struct kernels k;
    enum conv_kind kind;
    void *packed;                        /* per group a packed b [kh kw in_c/groups, out_c/groups]; depthwise: [kh, kw, c]; Winograd: 36 packed b [in_c, out_c]; tiles: conv_tiles.h */
    float *bias;                         /* [out_c] or NULL */
    uint64_t packed_stride;              /* bytes of one group, or of one of the 36 */
    uint64_t bytes;
    struct conv_onednn *onednn;
    struct conv_spare *spare;            /* with onednn only */
    bool acts_after;                     /* with onednn: our own kernel does the activation */
    char name[64];
};

struct conv_plan {
    const struct conv_layer *l;
    struct window2d w;
    int threads;
    int64_t band;                        /* output pixels per band */
    uint64_t lane_bytes;                 /* scratch of one thread */
    struct conv_winograd_blocks blocks;
    struct conv_tiles_plan tiles;
    struct conv_winograd_bf16_plan winograd_bf16;
    struct conv_onednn_plan *onednn;
    bool rounds_x, widens_x, rounds_y;   /* what is stored otherwise than the kernel takes it goes through scratch */
    uint64_t kernel_scratch, x_scratch, y_scratch;      /* bytes, one behind the other */
};

static int64_t depth_of(const struct conv_spec *s) { return s->kh * s->kw * (s->in_c / s->groups); }

static enum status check_spec(const struct conv_spec *s, struct err *err)
{
    uint64_t size;
    if (s->in_c < 1 || s->out_c < 1 || s->groups < 1 || s->kh < 1 || s->kw < 1 || s->stride_h < 1 || s->stride_w < 1 || s->dilation_h < 1 || s->dilation_w < 1)
        return err_set(err, ST_BAD_INPUT, "convolution: channels, groups, kernel, strides and dilations must be at least 1");
    if (s->in_c % s->groups || s->out_c % s->groups)
        return err_set(err, ST_BAD_INPUT, "convolution: %lld input and %lld output channels do not divide into %lld groups", (long long)s->in_c, (long long)s->out_c, (long long)s->groups);
    if (!size_mul((uint64_t)s->in_c / (uint64_t)s->groups, (uint64_t)s->kh * (uint64_t)s->kw, &size) || !size_mul(size, (uint64_t)s->out_c, &size) || size > (uint64_t)1 << 40)
        return err_set(err, ST_TOO_LARGE, "convolution: the weights have more elements than fit in memory");
    return ST_OK;
}

static bool is_depthwise(const struct conv_spec *s) { return s->groups > 1 && s->groups == s->in_c && s->out_c == s->in_c; }
static bool is_pointwise(const struct conv_spec *s) { return s->groups == 1 && s->kh == 1 && s->kw == 1 && s->stride_h == 1 && s->stride_w == 1; }

/* [out_c, 1, kh, kw] -> [kh, kw, c] */
static enum status pack_depthwise(struct conv_layer *l, const float *weight, struct err *err)
{
    const int64_t taps = (int64_t)l->spec.kh * l->spec.kw, c = l->spec.out_c;
    uint64_t bytes;
    if (!size_mul((uint64_t)taps * sizeof(float), (uint64_t)c, &bytes) || !(l->packed = mem_alloc_aligned(bytes, ALIGN))) return err_set(err, ST_NO_MEMORY, "convolution weights");
    l->k.transpose_2d(l->packed, weight, 1, c, taps, sizeof(float), 1);
    l->bytes += bytes;
    return ST_OK;
}

/* [out_c, in_c / groups, kh, kw] -> per group packed [kh kw in_c/groups, out_c / groups]: rows in the order of the im2col rows */
static enum status pack_gemm(struct conv_layer *l, const float *weight, struct err *err)
{
    const struct conv_spec *s = &l->spec;
    const int64_t ic = s->in_c / s->groups, oc = s->out_c / s->groups, taps = (int64_t)s->kh * s->kw, depth = depth_of(s);
    l->packed_stride = (l->k.gemm_f32_packed_bytes(depth, oc) + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
    uint64_t bytes;
    if (!size_mul(l->packed_stride, (uint64_t)s->groups, &bytes) || !(l->packed = mem_alloc_aligned(bytes, ALIGN))) return err_set(err, ST_NO_MEMORY, "convolution weights");
    l->bytes += bytes;
    float *turned = taps == 1 ? NULL : mem_alloc_array((uint64_t)oc, (uint64_t)depth * sizeof(float));
    if (taps > 1 && !turned) return err_set(err, ST_NO_MEMORY, "convolution weights");
    for (int64_t g = 0; g < s->groups; g++) {
        const float *group = weight + g * oc * depth;
        if (taps > 1) l->k.transpose_2d(turned, group, oc, ic, taps, sizeof(float), 1);       /* [oc, ic, taps] -> [oc, taps, ic] */
        l->k.gemm_f32_pack((char *)l->packed + (uint64_t)g * l->packed_stride, taps > 1 ? turned : group, 1, depth, depth, oc);
    }
    free(turned);
    return ST_OK;
}

static enum status copy_bias(struct conv_layer *l, const float *bias, struct err *err)
{
    if (!bias) return ST_OK;
    l->bias = mem_alloc_array((uint64_t)l->spec.out_c, sizeof(float));
    if (!l->bias) return err_set(err, ST_NO_MEMORY, "convolution bias");
    memcpy(l->bias, bias, (size_t)l->spec.out_c * sizeof(float));
    l->bytes += (uint64_t)l->spec.out_c * sizeof(float);
    return ST_OK;
}

/* Our own kernel for this layer. */
static enum conv_kind own_kind(const struct conv_spec *s) { return is_depthwise(s) ? CONV_DEPTHWISE : is_pointwise(s) ? CONV_GEMM1X1 : CONV_IM2COL; }

/* Float layers whose activation is an exponential: oneDNN's costs as much as the layer does, ours half of that (SPEED.md). Depthwise ones of large pictures with a stride and pointwise ones that do not
 * widen have few such numbers for each product: there oneDNN stays ahead. */
static bool is_quicker_by_own(const struct conv_spec *s, enum conv_kind own, const struct kernels *k)
{
    enum { LARGE = 64 };
    const bool exponential = s->act.kind == ACT_SILU || s->act.kind == ACT_SIGMOID;
    if (k->level < CPU_AVX512 || (s->bf16 && k->bf16) || s->x_bf16 || s->y_bf16 || !exponential || s->hint_w == 0) return false;
    return own == CONV_DEPTHWISE ? s->stride_w == 1 || s->hint_w < LARGE : own == CONV_GEMM1X1 && s->out_c >= 2 * s->in_c;
}

/* oneDNN's exponentials are several times as slow as ours even beside the way through memory: 0.56 ms of the 0.66 of a first layer with SiLU. Its depthwise kernels do as well as ours. */
static bool acts_apart(const struct conv_spec *s, const struct kernels *k)
{
    return k->level >= CPU_AVX512 && !s->bf16 && !s->y_bf16 && !is_depthwise(s) && (s->act.kind == ACT_SILU || s->act.kind == ACT_SIGMOID);
}

static bool takes_winograd_bf16(const struct conv_spec *s, const struct kernels *k) { return s->bf16 && k->bf16 && k->level < CPU_AMX && conv_winograd_can(s); }

/* With enough channels for its transforms beside its products, and enough tiles for its weights. */
static bool wants_winograd_bf16(const struct conv_spec *s, const struct kernels *k)
{
    enum { TILES_MIN = 48, IN_MIN = 64, OUT_MIN = 32 };
    const int64_t tiles = ((s->hint_h + 1) / 2) * ((s->hint_w + 1) / 2);
    return s->loose && takes_winograd_bf16(s, k) && s->in_c >= IN_MIN && s->out_c >= OUT_MIN && (tiles == 0 || tiles >= TILES_MIN);
}

/* Our depthwise kernel reads and writes bfloat16 as it does floats. With few products for each number there is nothing in rounding the weights, too, and the error is less. */
static bool takes_halves(const struct conv_layer *l) { return is_depthwise(&l->spec) && l->spec.x_bf16 && l->spec.y_bf16 && l->kind == CONV_DEPTHWISE; }

enum status conv_layer_open_as(struct conv_layer **out, const struct conv_spec *spec, const float *weight, const float *bias, const struct kernels *k, int threads,
                               enum conv_choice choice, struct err *err)
{
    enum status st = check_spec(spec, err);
    if (st) return st;
    struct conv_layer *l = calloc(1, sizeof *l);
    if (!l) return err_set(err, ST_NO_MEMORY, "convolution layer");
    l->spec = *spec;
    l->k = *k;
    l->kind = choice == CONV_BY_IM2COL ? CONV_IM2COL : own_kind(spec);
    if (choice == CONV_BY_WINOGRAD && !conv_winograd_can(spec)) {
        st = err_set(err, ST_UNSUPPORTED, "convolution: Winograd takes 3x3 kernels of stride 1 in one group");
        goto close;
    }
    if (choice == CONV_BY_TILES && !(spec->bf16 && k->level >= CPU_AMX && conv_tiles_can(spec))) {
        st = err_set(err, ST_UNSUPPORTED, "convolution: tiles take bfloat16 layers of stride 1 in one group, on a machine that has them");
        goto close;
    }
    if (choice == CONV_BY_WINOGRAD_BF16 && !takes_winograd_bf16(spec, k)) {
        st = err_set(err, ST_UNSUPPORTED, "convolution: Winograd in bfloat16 takes 3x3 kernels of stride 1 in one group, on a machine that is quick at dot products of bfloat16");
        goto close;
    }
    const bool own = choice == CONV_BY_RULE && (takes_halves(l) || is_quicker_by_own(spec, l->kind, k));
    l->spec.bf16 = spec->bf16 && k->bf16 && !own && (choice == CONV_BY_ONEDNN || choice == CONV_BY_RULE || choice == CONV_BY_TILES || choice == CONV_BY_WINOGRAD_BF16);
    const bool tiles = choice == CONV_BY_TILES || (choice == CONV_BY_RULE && l->spec.bf16 && k->level >= CPU_AMX && conv_tiles_wanted(spec));
    const bool rounded = choice == CONV_BY_WINOGRAD_BF16 || (choice == CONV_BY_RULE && wants_winograd_bf16(&l->spec, k));
    const bool winograd = choice == CONV_BY_WINOGRAD || (choice == CONV_BY_RULE && conv_winograd_wanted(spec, k->level));
    if (!tiles && !rounded && (l->spec.bf16 || (!winograd && !own && (choice == CONV_BY_ONEDNN || (choice == CONV_BY_RULE && conv_onednn_wanted(spec, k->level)))))) {
        struct conv_spec theirs = l->spec;
        l->acts_after = acts_apart(&theirs, k);
        if (l->acts_after) theirs.act = (struct activation_spec){ .kind = ACT_NONE };
        st = conv_onednn_open(&l->onednn, &theirs, weight, bias, k->level, threads, err);
        if (st == ST_UNSUPPORTED && l->spec.bf16) {      /* no kernel in bfloat16: as in f32 */
            conv_layer_close(l);
            struct conv_spec plain = *spec;
            plain.bf16 = false;
            return conv_layer_open_as(out, &plain, weight, bias, k, threads, choice, err);
        }
        if (st == ST_OK && !(l->spare = calloc(1, sizeof *l->spare))) {
            st = err_set(err, ST_NO_MEMORY, "convolution layer");
            goto close;
        }
        if (st == ST_OK) {
            pthread_mutex_init(&l->spare->lock, NULL);
            l->kind = CONV_ONEDNN;
            l->bytes = conv_onednn_bytes(l->onednn);
            snprintf(l->name, sizeof l->name, "onednn:%s", conv_onednn_name(l->onednn));
            *out = l;
            return ST_OK;
        }
        if (st != ST_UNSUPPORTED || choice == CONV_BY_ONEDNN) goto close;
    }
    if (tiles) l->kind = CONV_TILES;
    else if (rounded) l->kind = CONV_WINOGRAD_BF16;
    else if (winograd) l->kind = CONV_WINOGRAD;
    snprintf(l->name, sizeof l->name, "%s", kind_names[l->kind]);
    switch (l->kind) {
    case CONV_WINOGRAD:  st = conv_winograd_pack(&l->packed, &l->packed_stride, &l->bytes, spec, weight, k, err); break;
    case CONV_TILES:     st = conv_tiles_pack(&l->packed, &l->bytes, spec, weight, threads, err); break;
    case CONV_WINOGRAD_BF16: st = conv_winograd_bf16_pack(&l->packed, &l->bytes, spec, weight, threads, err); break;
    case CONV_DEPTHWISE: st = pack_depthwise(l, weight, err); break;
    default:             st = pack_gemm(l, weight, err);
    }
    if (!st) st = copy_bias(l, bias, err);
    if (st) goto close;
    *out = l;
    return ST_OK;
close:
    conv_layer_close(l);
    return st;
}

enum status conv_layer_open(struct conv_layer **out, const struct conv_spec *spec, const float *weight, const float *bias, const struct kernels *k, int threads, struct err *err)
{
    return conv_layer_open_as(out, spec, weight, bias, k, threads, CONV_BY_RULE, err);
}

void conv_layer_close(struct conv_layer *l)
{
    if (!l) return;
    conv_onednn_close(l->onednn);
    if (l->spare) {
        conv_layer_close(l->spare->own);
        pthread_mutex_destroy(&l->spare->lock);
        free(l->spare);
    }
    free(l->packed);
    free(l->bias);
    free(l);
}

bool conv_layer_is_loose(const struct conv_layer *l) { return l->kind == CONV_WINOGRAD_BF16; }

uint64_t conv_layer_bytes(const struct conv_layer *l) { return l->bytes; }
const char *conv_layer_kernel(const struct conv_layer *l) { return l->name; }
bool conv_takes_activation(struct activation_spec act) { return act.kind == ACT_NONE || conv_onednn_takes_activation(act); }

static enum status check_window(const struct conv_spec *s, const struct window2d *w, struct err *err)
{
    uint64_t in, out;
    if (w->c != s->in_c || w->kh != s->kh || w->kw != s->kw || w->stride_h != s->stride_h || w->stride_w != s->stride_w || w->dilation_h != s->dilation_h || w->dilation_w != s->dilation_w)
        return err_set(err, ST_BAD_INPUT, "convolution: the window of this shape is not the layer's");
    if (w->n < 0 || w->h < 1 || w->w < 1 || w->out_h < 1 || w->out_w < 1 || w->pad_top < 0 || w->pad_left < 0 || w->pad_bottom < 0 || w->pad_right < 0)
        return err_set(err, ST_BAD_INPUT, "convolution: input %lld x %lld cannot give output %lld x %lld", (long long)w->h, (long long)w->w, (long long)w->out_h, (long long)w->out_w);
    const int64_t reach_h = (w->out_h - 1) * w->stride_h + (int64_t)(w->kh - 1) * w->dilation_h + 1, reach_w = (w->out_w - 1) * w->stride_w + (int64_t)(w->kw - 1) * w->dilation_w + 1;
    if (reach_h > w->h + w->pad_top + w->pad_bottom || reach_w > w->w + w->pad_left + w->pad_right)
        return err_set(err, ST_BAD_INPUT, "convolution: output %lld x %lld reaches beyond the padded input", (long long)w->out_h, (long long)w->out_w);
    if (!size_mul((uint64_t)w->n * sizeof(float), (uint64_t)w->h, &in) || !size_mul(in, (uint64_t)w->w, &in) || !size_mul(in, (uint64_t)w->c, &in) ||
        !size_mul((uint64_t)w->n * sizeof(float), (uint64_t)w->out_h, &out) || !size_mul(out, (uint64_t)w->out_w, &out) || !size_mul(out, (uint64_t)s->out_c, &out))
        return err_set(err, ST_TOO_LARGE, "convolution: the shape has more elements than fit in memory");
    return ST_OK;
}

/* The layer by our own kernel, from the weights that oneDNN holds. */
static enum status spare_layer(const struct conv_layer **out, const struct conv_layer *l, struct err *err)
{
    enum status st = ST_OK;
    pthread_mutex_lock(&l->spare->lock);
    if (!l->spare->own) {
        const float *bias = NULL;
        float *weight = mem_alloc_array((uint64_t)depth_of(&l->spec) * sizeof(float), (uint64_t)l->spec.out_c);
        st = weight ? conv_onednn_unpack(l->onednn, weight, &bias, err) : err_set(err, ST_NO_MEMORY, "convolution weights");
        struct conv_spec plain = l->spec;
        plain.bf16 = plain.x_bf16 = plain.y_bf16 = false;
        if (!st) st = conv_layer_open_as(&l->spare->own, &plain, weight, bias, &l->k, 1, CONV_BY_OWN, err);
        free(weight);
    }
    *out = l->spare->own;
    pthread_mutex_unlock(&l->spare->lock);
    return st;
}

/* A padded (or cropped) 1x1 goes by im2col rows, with the same packed weights and so the same bits. */
static bool is_padded(const struct window2d *w) { return w->pad_top || w->pad_left || w->pad_bottom || w->pad_right || w->out_h != w->h || w->out_w != w->w; }

static uint64_t round_up(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

static uint64_t kernel_scratch(const struct conv_plan *p)
{
    switch (p->l->kind) {
    case CONV_TILES:         return p->tiles.scratch;
    case CONV_WINOGRAD_BF16: return p->winograd_bf16.scratch;
    case CONV_WINOGRAD:      return p->blocks.scratch;
    case CONV_ONEDNN:        return p->onednn ? conv_onednn_plan_scratch(p->onednn) : 0;
    default:                 return p->lane_bytes * (uint64_t)p->threads;
    }
}

/* What the kernel needs, and room for an input and an output that it takes in another type than they are stored in. */
static void plan_scratch(struct conv_plan *p, const struct conv_spec *given)
{
    const struct window2d *w = &p->w;
    const bool either = p->l->kind == CONV_TILES || p->l->kind == CONV_WINOGRAD_BF16, halves = (p->onednn && given->bf16) || takes_halves(p->l);
    const uint64_t in = (uint64_t)(w->n * w->h * w->w * w->c), out = (uint64_t)(w->n * w->out_h * w->out_w * given->out_c);
    p->rounds_x = halves && !given->x_bf16;
    p->widens_x = !halves && !either && given->x_bf16;
    p->rounds_y = !halves && !either && given->y_bf16;
    p->kernel_scratch = round_up(kernel_scratch(p));
    p->x_scratch = p->rounds_x ? round_up(in * sizeof(uint16_t)) : p->widens_x ? round_up(in * sizeof(float)) : 0;
    p->y_scratch = p->rounds_y ? round_up(out * sizeof(float)) : 0;
}

enum status conv_plan_open(struct conv_plan **out, const struct conv_layer *l, const struct window2d *w, int threads, struct err *err)
{
    enum status st = check_window(&l->spec, w, err);
    if (st) return st;
    struct conv_plan *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "convolution plan");
    *p = (struct conv_plan){ .l = l, .w = *w, .threads = threads < 1 ? 1 : threads };
    const struct conv_spec given = l->spec;
    if (l->kind == CONV_ONEDNN && w->n > 0) {
        st = conv_onednn_plan_open(&p->onednn, l->onednn, w, p->threads, err);
        if (st == ST_UNSUPPORTED) {
            st = spare_layer(&l, l, err);
            p->l = l;
        }
        if (st) {
            free(p);
            return st;
        }
    }
    if (l->kind == CONV_WINOGRAD) st = conv_winograd_plan(&p->blocks, &l->spec, w, p->threads, err);
    if (l->kind == CONV_WINOGRAD_BF16) st = conv_winograd_bf16_plan(&p->winograd_bf16, &l->spec, w, p->threads, err);
    if (l->kind == CONV_TILES) st = conv_tiles_plan(&p->tiles, &l->spec, w, p->threads, err);
    if (st) {
        free(p);
        return st;
    }
    if (l->kind == CONV_IM2COL || (l->kind == CONV_GEMM1X1 && is_padded(w))) {
        const int64_t depth = depth_of(&l->spec), pixels = w->out_h * w->out_w, each = (pixels + p->threads - 1) / p->threads;
        p->band = BAND_FLOATS / depth / BAND_PIXELS_MIN * BAND_PIXELS_MIN;
        if (p->band < BAND_PIXELS_MIN) p->band = BAND_PIXELS_MIN;
        if (w->n < p->threads && p->band > each) p->band = each;
        if (p->band > pixels) p->band = pixels;
        if (!size_mul((uint64_t)p->band * sizeof(float), (uint64_t)depth, &p->lane_bytes) || !size_add(p->lane_bytes, ALIGN - 1, &p->lane_bytes)) {
            free(p);
            return err_set(err, ST_TOO_LARGE, "convolution: the window has more elements than fit in memory");
        }
        p->lane_bytes &= ~(uint64_t)(ALIGN - 1);
    }
    plan_scratch(p, &given);
    *out = p;
    return ST_OK;
}

void conv_plan_close(struct conv_plan *p)
{
    if (!p) return;
    conv_onednn_plan_close(p->onednn);
    free(p);
}

uint64_t conv_plan_scratch(const struct conv_plan *p) { return p->kernel_scratch + p->x_scratch + p->y_scratch; }

/* `count` floats: short runs, of which im2col is full, as two halves that may overlap. */
static inline void copy_floats(float *to, const float *from, int64_t count)
{
    if (count > 32) {
        memcpy(to, from, (size_t)count * sizeof *to);
    } else if (count >= 16) {
        memcpy(to, from, 16 * sizeof *to);
        memcpy(to + count - 16, from + count - 16, 16 * sizeof *to);
    } else if (count >= 8) {
        memcpy(to, from, 8 * sizeof *to);
        memcpy(to + count - 8, from + count - 8, 8 * sizeof *to);
    } else if (count >= 4) {
        memcpy(to, from, 4 * sizeof *to);
        memcpy(to + count - 4, from + count - 4, 4 * sizeof *to);
    } else {
        for (int64_t i = 0; i < count; i++) to[i] = from[i];
    }
}

static inline void zero_floats(float *to, int64_t count)
{
    if (count > 16) memset(to, 0, (size_t)count * sizeof *to);
    else
        for (int64_t i = 0; i < count; i++) to[i] = 0;
}

/* The taps of one pixel whose window begins at line `top`, column `left`, some of which lie outside. */
static void gather_edge(float *rows, const float *x, const struct window2d *w, int64_t top, int64_t left, int64_t channels, bool side_by_side)
{
    int kx0 = 0, kx1 = w->kw;                                             /* the taps of a line that lie inside */
    while (kx0 < kx1 && left + (int64_t)kx0 * w->dilation_w < 0) kx0++;
    while (kx1 > kx0 && left + (int64_t)(kx1 - 1) * w->dilation_w >= w->w) kx1--;
    for (int ky = 0; ky < w->kh; ky++, rows += w->kw * channels) {
        const int64_t y = top + (int64_t)ky * w->dilation_h;
        if (y < 0 || y >= w->h) {
            zero_floats(rows, w->kw * channels);
            continue;
        }
        const float *at = x + (y * w->w + left) * w->c;
        zero_floats(rows, kx0 * channels);
        if (side_by_side) copy_floats(rows + kx0 * channels, at + kx0 * channels, (kx1 - kx0) * channels);
        else
            for (int kx = kx0; kx < kx1; kx++) copy_floats(rows + kx * channels, at + kx * w->dilation_w * w->c, channels);
        zero_floats(rows + kx1 * channels, (w->kw - kx1) * channels);
    }
}

/* Output pixels [first, first + count) of picture n as rows [count, kh, kw, channels] of input channels [from, from + channels). Where the taps of a line lie side
 * by side, they are one run. */
static void gather_rows(float *rows, const float *x, const struct window2d *w, int64_t n, int64_t first, int64_t count, int64_t from, int64_t channels)
{
    const bool side_by_side = channels == w->c && w->dilation_w == 1;
    const int64_t run = side_by_side ? channels * w->kw : channels, runs = side_by_side ? 1 : w->kw, step = w->dilation_w * w->c, line = w->dilation_h * w->w * w->c;
    const int64_t last_top = w->h - 1 - (int64_t)(w->kh - 1) * w->dilation_h, last_left = w->w - 1 - (int64_t)(w->kw - 1) * w->dilation_w, depth = channels * w->kh * w->kw;
    int64_t top = first / w->out_w * w->stride_h - w->pad_top, column = first % w->out_w;
    x += n * w->h * w->w * w->c + from;
    for (int64_t i = 0; i < count; i++, rows += depth) {
        const int64_t left = column * w->stride_w - w->pad_left;
        if (top >= 0 && top <= last_top && left >= 0 && left <= last_left) {
            const float *at = x + (top * w->w + left) * w->c;
            float *to = rows;
            for (int ky = 0; ky < w->kh; ky++, at += line)
                for (int64_t r = 0; r < runs; r++, to += run) copy_floats(to, at + r * step, run);
        } else {
            gather_edge(rows, x, w, top, left, channels, side_by_side);
        }
        if (++column == w->out_w) column = 0, top += w->stride_h;
    }
}

struct im2col_job {
    const struct conv_plan *p;
    float *y;
    const float *x, *residual;
    char *scratch;
};

static void im2col_part(void *ctx, int part, int parts)
{
    const struct im2col_job *j = ctx;
    const struct conv_plan *p = j->p;
    const struct conv_layer *l = p->l;
    const struct conv_spec *s = &l->spec;
    const int64_t ic = s->in_c / s->groups, oc = s->out_c / s->groups, depth = depth_of(s), pixels = p->w.out_h * p->w.out_w;
    const int64_t bands = (pixels + p->band - 1) / p->band, units = p->w.n * bands * s->groups;
    float *rows = (float *)(j->scratch + (uint64_t)part * p->lane_bytes);
    for (int64_t u = units * part / parts, end = units * (part + 1) / parts; u < end; u++) {
        const int64_t g = u % s->groups, band = u / s->groups % bands, n = u / s->groups / bands, first = band * p->band;
        const int64_t count = pixels - first < p->band ? pixels - first : p->band, at = (n * pixels + first) * s->out_c + g * oc;
        const struct gemm_epilogue ep = { .bias = l->bias ? l->bias + g * oc : NULL, .residual = j->residual ? j->residual + at : NULL, .ldr = s->out_c, .act = s->act };
        gather_rows(rows, j->x, &p->w, n, first, count, g * ic, ic);
        l->k.gemm_f32(j->y + at, s->out_c, rows, depth, (const char *)l->packed + (uint64_t)g * l->packed_stride, count, oc, depth, &ep, 1);
    }
}

/* By our own kernels: floats in and out, but where the depthwise one takes bfloat16; tiles take either. */
static void run_own(const struct conv_plan *p, void *y, const void *x, const void *residual, void *scratch)
{
    const struct conv_layer *l = p->l;
    const struct conv_spec *s = &l->spec;
    const struct gemm_epilogue ep = { .bias = l->bias, .residual = residual, .ldr = s->out_c, .act = s->act };
    if (l->kind == CONV_GEMM1X1 && !is_padded(&p->w)) {
        l->k.gemm_f32(y, s->out_c, x, s->in_c, l->packed, p->w.n * p->w.h * p->w.w, s->out_c, s->in_c, &ep, p->threads);
    } else if (takes_halves(l)) {
        l->k.depthwise2d_bf16(y, x, l->packed, l->bias, residual, &p->w, s->act, p->threads);
    } else if (l->kind == CONV_DEPTHWISE) {
        l->k.depthwise2d_f32(y, x, l->packed, l->bias, residual, &p->w, s->act, p->threads);
    } else if (l->kind == CONV_WINOGRAD) {
        const struct conv_winograd_run r = { .spec = s, .k = &l->k, .w = &p->w, .blocks = &p->blocks, .packed = l->packed, .stride = l->packed_stride, .y = y, .x = x, .ep = ep, .scratch = scratch };
        conv_winograd_run(&r, p->threads);
    } else if (l->kind == CONV_TILES) {
        const struct conv_tiles_run r = { .spec = s, .w = &p->w, .plan = &p->tiles, .packed = l->packed, .bias = l->bias, .y = y, .x = x, .residual = residual, .scratch = scratch };
        conv_tiles_run(&r, p->threads);
    } else if (l->kind == CONV_WINOGRAD_BF16) {
        const struct conv_winograd_bf16_run r = { .spec = s, .w = &p->w, .plan = &p->winograd_bf16, .packed = l->packed, .bias = l->bias, .y = y, .x = x, .residual = residual, .scratch = scratch };
        conv_winograd_bf16_run(&r, p->threads);
    } else {
        struct im2col_job j = { .p = p, .y = y, .x = x, .residual = residual, .scratch = scratch };
        parallel_for(p->threads, p->threads, im2col_part, &j);
    }
}

enum status conv_plan_run(struct conv_plan *p, void *y, const void *x, const void *residual, void *scratch, struct err *err)
{
    const struct conv_layer *l = p->l;
    const struct kernels *k = &l->k;
    const int64_t in = p->w.n * p->w.h * p->w.w * p->w.c, out = p->w.n * p->w.out_h * p->w.out_w * l->spec.out_c;
    char *other_x = (char *)scratch + p->kernel_scratch;
    float *other_y = (float *)(void *)(other_x + p->x_scratch);
    enum status st = ST_OK;
    assert(l->spec.has_residual == (residual != NULL));
    if (p->w.n == 0) return ST_OK;
    if (p->rounds_x) k->round_bf16(other_x, x, in, p->threads);
    if (p->widens_x) k->widen_bf16((float *)(void *)other_x, x, in, p->threads);
    if (p->rounds_x || p->widens_x) x = other_x;
    if (p->rounds_y && residual) {
        k->widen_bf16(other_y, residual, out, p->threads);
        residual = other_y;
    }
    void *to = p->rounds_y ? other_y : y;
    if (l->kind == CONV_ONEDNN) st = conv_onednn_plan_run(p->onednn, to, x, residual, scratch, err);
    else run_own(p, to, x, residual, scratch);
    if (!st && l->kind == CONV_ONEDNN && l->acts_after) k->activate_f32(to, to, out, l->spec.act, p->threads);
    if (!st && p->rounds_y) k->round_bf16(y, other_y, out, p->threads);
    return st;
}
