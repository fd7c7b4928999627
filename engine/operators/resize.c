/* Resize and Upsample, any rank, all modes and coordinate rules of opset 1 to 19. For each dimension a table says which source elements each result takes,
 * and how much of each (its taps); a result is the sum over the taps of all dimensions. Results outside a cropped region are a constant. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"
#include "engine/operators/reals.h"

enum coordinates { C_HALF_PIXEL, C_ASYMMETRIC, C_ALIGN_CORNERS, C_PYTORCH, C_HALF_SYMMETRIC, C_CROP, C_HALF_NEAREST };
enum nearest { N_PREFER_FLOOR, N_PREFER_CEIL, N_FLOOR, N_CEIL };
enum mode { M_NEAREST, M_LINEAR, M_CUBIC };

struct resize {
    double  scale[TENSOR_RANK_MAX], from[TENSOR_RANK_MAX], to[TENSOR_RANK_MAX];      /* from, to: of the cropped region, 0 to 1 */
    int64_t out[TENSOR_RANK_MAX];
    enum mode mode;
    enum coordinates rule;
    enum nearest nearest;
    bool antialias, inside_only;
    double sharpness;
};

static enum status read_scales(struct call *c, int i, double *scales, int *n, bool *known, struct err *err)
{
    const struct operand *o = c->in[i];
    uint64_t count = operand_count(o);
    if (!dtype_is_real(o->dtype) || count > TENSOR_RANK_MAX) return call_error(c, err, ST_BAD_INPUT, "its scales must be at most %d numbers", TENSOR_RANK_MAX);
    *n = (int)count;
    *known = count == 0 || o->data;
    if (!*known) c->needs_data = true;
    else if (count) real_load(scales, o->dtype, o->data, 0, 1, (int)count);
    return ST_OK;
}

static enum status read_rules(const struct call *c, struct resize *r, struct err *err)
{
    static const char *const rules[] = { "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_crop_and_resize", "tf_half_pixel_for_nn" };
    static const char *const nearest[] = { "round_prefer_floor", "round_prefer_ceil", "floor", "ceil" };
    const struct node *n = c->node;
    bool upsample = n->op->code == 1 || n->opset < 11;
    *r = (struct resize){ .antialias = node_int(n, "antialias", 0) != 0, .inside_only = node_int(n, "exclude_outside", 0) != 0, .sharpness = (double)node_float(n, "cubic_coeff_a", -0.75f) };
    r->mode = node_text_is(n, "mode", "linear", false) || node_text_is(n, "mode", "bilinear", false) ? M_LINEAR : node_text_is(n, "mode", "cubic", false) ? M_CUBIC : M_NEAREST;
    if (r->mode == M_NEAREST && !node_text_is(n, "mode", "nearest", true)) return call_error(c, err, ST_BAD_INPUT, "its mode is none of nearest, linear and cubic");
    r->rule = upsample ? C_ASYMMETRIC : C_HALF_PIXEL;
    r->nearest = upsample ? N_FLOOR : N_PREFER_FLOOR;
    if (upsample) return ST_OK;
    int found = -1;
    for (int i = 0; i < 7 && found < 0; i++)
        if (node_text_is(n, "coordinate_transformation_mode", rules[i], i == 0)) found = i;
    if (found < 0) return call_error(c, err, ST_UNSUPPORTED, "its coordinate_transformation_mode is not known");
    r->rule = (enum coordinates)found;
    for (int i = 0; i < 4; i++)
        if (node_text_is(n, "nearest_mode", nearest[i], i == 0)) { r->nearest = (enum nearest)i; break; }
    return ST_OK;
}

/* The region of tf_crop_and_resize: starts of all axes, then ends. */
static enum status read_region(struct call *c, struct resize *r, const int64_t *axes, int m, bool *known, struct err *err)
{
    const struct operand *o = c->in_count > 1 ? c->in[1] : NULL;
    if (r->rule != C_CROP) return ST_OK;
    if (!o || !dtype_is_real(o->dtype) || operand_count(o) != (uint64_t)(2 * m)) return call_error(c, err, ST_BAD_INPUT, "its region must be %d numbers", 2 * m);
    *known = o->data != NULL;
    if (!*known) { c->needs_data = true; return ST_OK; }
    for (int i = 0; i < m; i++) {
        int64_t d = axes[i];
        if (!axis_fix(&d, c->in[0]->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)d, c->in[0]->rank);
        r->from[d] = operand_real(o, (uint64_t)i);
        r->to[d] = operand_real(o, (uint64_t)(i + m));
    }
    return ST_OK;
}

/* Sizes that keep the picture's proportions: one scale for all axes, the smallest or the largest. */
static void keep_aspect(const struct call *c, struct resize *r, const int64_t *axes, int m)
{
    bool larger = node_text_is(c->node, "keep_aspect_ratio_policy", "not_smaller", false);
    double scale = 0;
    if (!larger && !node_text_is(c->node, "keep_aspect_ratio_policy", "not_larger", false)) return;
    for (int i = 0; i < m; i++) {
        double s = r->scale[axes[i] < 0 ? axes[i] + c->in[0]->rank : axes[i]];
        if (i == 0 || (larger ? s > scale : s < scale)) scale = s;
    }
    for (int i = 0; i < m; i++) {
        int64_t d = axes[i] < 0 ? axes[i] + c->in[0]->rank : axes[i];
        r->scale[d] = scale;
        r->out[d] = (int64_t)floor(scale * (double)c->in[0]->dims[d] + 0.5);
    }
}

static enum status read_resize(struct call *c, struct resize *r, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    double scales[TENSOR_RANK_MAX];
    int64_t sizes[TENSOR_RANK_MAX], axes[TENSOR_RANK_MAX];
    int ns = 0, nz = 0, m = 0;
    const struct onnx_attribute *a = node_attribute(c->node, "scales");
    const int64_t *ax = node_ints(c->node, "axes", &m);
    *known = true;
    enum status st = read_rules(c, r, err);
    int at = c->node->op->code == 1 || c->node->opset < 11 ? 1 : 2;
    if (st) return st;
    if (a && a->type == ONNX_FLOATS && c->node->opset < 9) {
        for (ns = 0; ns < a->count && ns < TENSOR_RANK_MAX; ns++) scales[ns] = (double)a->floats[ns];
    } else if (c->in_count > at && c->in[at]) {
        st = read_scales(c, at, scales, &ns, known, err);
    }
    if (!st && *known && ns == 0 && c->in_count > 3 && c->in[3]) st = call_ints(c, 3, sizes, TENSOR_RANK_MAX, &nz, known, err);
    if (st || !*known) return st;
    if (!ax || m > TENSOR_RANK_MAX)
        for (m = 0; m < x->rank; m++) axes[m] = m;
    else memcpy(axes, ax, (size_t)m * sizeof *axes);
    for (int d = 0; d < x->rank; d++) r->to[d] = 1;
    st = read_region(c, r, axes, m, known, err);
    if (st || !*known) return st;
    if (ns != m && nz != m) return call_error(c, err, ST_BAD_INPUT, "%d scales and %d sizes for %d dimensions", ns, nz, m);
    for (int d = 0; d < x->rank; d++) { r->scale[d] = 1; r->out[d] = x->dims[d]; }
    for (int i = 0; i < m; i++) {
        int64_t d = axes[i];
        if (!axis_fix(&d, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)d, x->rank);
        if (ns == m) {
            double size = floor((double)x->dims[d] * scales[i]);
            if (!(scales[i] > 0) || !(size <= 1e12)) return call_error(c, err, ST_BAD_INPUT, "scale %d is %g", i, scales[i]);
            r->scale[d] = scales[i];
            r->out[d] = (int64_t)size;
        } else {
            r->out[d] = sizes[i];
            if (sizes[i] < 0 || (sizes[i] > 0 && x->dims[d] == 0)) return call_error(c, err, ST_BAD_INPUT, "size %d is %lld", i, (long long)sizes[i]);
            r->scale[d] = x->dims[d] ? (double)sizes[i] / (double)x->dims[d] : 1;
        }
    }
    if (ns != m) keep_aspect(c, r, axes, m);
    return ST_OK;
}

static enum status infer_resize(struct call *c, struct err *err)
{
    struct resize r;
    bool known = true;
    if (!dtype_is_real(c->in[0]->dtype) && !dtype_is_integer(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    enum status st = read_resize(c, &r, &known, err);
    if (st || !known) return st;
    return call_set(c, 0, c->in[0]->dtype, r.out, c->in[0]->rank, err);
}

static double source(const struct resize *r, int d, int64_t i, int64_t in)
{
    double s = r->scale[d], n = (double)in * s, x = (double)i;        /* n: the resized length before it is rounded */
    switch (r->rule) {
    case C_ASYMMETRIC: return x / s;
    case C_ALIGN_CORNERS: return r->out[d] == 1 ? 0 : x * (double)(in - 1) / (n - 1);
    case C_PYTORCH: return r->out[d] == 1 ? 0 : (x + 0.5) / s - 0.5;
    case C_HALF_SYMMETRIC: {
        double adjust = (double)r->out[d] / n, centre = (double)in / 2;
        return centre * (1 - adjust) + (x + 0.5) / s - 0.5;
    }
    case C_CROP: {
        double whole = (double)(in - 1);
        return r->out[d] == 1 ? 0.5 * (r->from[d] + r->to[d]) * whole : r->from[d] * whole + x * (r->to[d] - r->from[d]) * whole / (double)(r->out[d] - 1);
    }
    case C_HALF_NEAREST: return (x + 0.5) / s;
    default: return (x + 0.5) / s - 0.5;
    }
}

static int64_t nearest_of(double x, enum nearest rule, int64_t in)
{
    double v = rule == N_FLOOR ? floor(x) : rule == N_CEIL ? ceil(x) : rule == N_PREFER_FLOOR ? ceil(x - 0.5) : floor(x + 0.5);
    return v < 0 ? 0 : v > (double)(in - 1) ? in - 1 : (int64_t)v;
}

/* ---- taps ---- */
struct tap { int64_t index; double weight; };
struct dimension { struct tap *taps; bool *outside; int each; int64_t source_stride; };

static bool stays(const struct resize *r, const struct operand *x, int d) { return r->rule != C_CROP && r->out[d] == x->dims[d] && r->scale[d] == 1; }

/* Taps of one result along dimension d: an even number around the coordinate, more where a smaller picture is made with antialias. */
static int64_t taps_of(const struct resize *r, const struct operand *x, int d)
{
    if (stays(r, x, d) || r->mode == M_NEAREST) return 1;
    double support = r->mode == M_LINEAR ? 1 : 2, scale = r->antialias && r->scale[d] < 1 ? r->scale[d] : 1;
    double start = floor(-support / scale) + 1;
    return start < -1e6 ? -1 : (int64_t)(2 * support) - 2 * (int64_t)(start + support - 1);
}

static double kernel_at(const struct resize *r, double x)
{
    double a = r->sharpness;
    x = fabs(x);
    if (r->mode == M_LINEAR) return x < 1 ? 1 - x : 0;
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((x - 5) * x + 8) * x * a - 4 * a : 0;
}

/* The taps of result i; true when it lies outside a cropped region. */
static bool fill_taps(const struct resize *r, struct tap *tap, int each, const struct operand *x, int d, int64_t i)
{
    int64_t in = x->dims[d];
    double at = source(r, d, i, in), sum = 0;
    if (!(at > -1e12 && at < 1e12)) at = 0;
    const bool outside = r->rule == C_CROP && (at < 0 || at > (double)(in - 1));
    if (each == 1) {
        tap[0] = (struct tap){ stays(r, x, d) ? i : nearest_of(at, r->nearest, in), 1 };
        return outside;
    }
    double base = ceil(at) - 1, scale = r->antialias && r->scale[d] < 1 ? r->scale[d] : 1;
    for (int k = 0; k < each; k++) {
        double place = base + 1 - each / 2 + k;
        bool inside = place >= 0 && place <= (double)(in - 1);
        tap[k].index = inside ? (int64_t)place : place < 0 ? 0 : in - 1;
        tap[k].weight = r->inside_only && !inside ? 0 : kernel_at(r, (place - at) * scale);
        sum += tap[k].weight;
    }
    for (int k = 0; k < each && sum != 0 && (r->inside_only || scale < 1); k++) tap[k].weight /= sum;
    return outside;
}

/* ---- f32 without a cropped region: an axis after the other, by the kernel of taps ---- */
enum { QUICK_TAPS = 64 };
struct quick { uint64_t table, picture; int passes; };      /* bytes of the longest table and of an intermediate result; axes that change */

static bool is_quick(const struct call *c, const struct resize *r, struct quick *q)
{
    const struct operand *x = c->in[0];
    uint64_t elements = operand_count(x), bytes;
    *q = (struct quick){ 0 };
    if (x->dtype != DT_F32 || r->rule == C_CROP || !elements || x->splat) return false;
    for (int d = 0; d < x->rank; d++) {
        const int64_t each = taps_of(r, x, d);
        if (stays(r, x, d)) continue;
        if (each < 1 || each > QUICK_TAPS || !size_mul((uint64_t)r->out[d], (uint64_t)each * sizeof(struct axis_tap) + 64, &bytes)) return false;
        if (bytes > q->table) q->table = bytes;
        if (!size_mul(elements / (uint64_t)x->dims[d], (uint64_t)r->out[d], &elements) || !size_mul(elements, sizeof(float), &bytes)) return false;
        if (bytes > q->picture) q->picture = bytes;
        q->passes++;
    }
    q->table = (q->table + 63) & ~(uint64_t)63;
    q->picture = q->passes > 1 ? (q->picture + 63) & ~(uint64_t)63 : 0;
    return q->picture < UINT64_MAX / 4 && q->table < UINT64_MAX / 4;
}

static void quick_resize(const struct call *c, const struct resize *r, const struct quick *q)
{
    const struct operand *x = c->in[0];
    int done = 0, axes[TENSOR_RANK_MAX];
    int64_t dims[TENSOR_RANK_MAX];
    struct axis_tap *taps = c->scratch;
    char *pictures = (char *)c->scratch + q->table;
    const float *from = x->data;
    operand_physical(x, dims);
    for (int d = 0; d < x->rank; d++) axes[operand_physical_axis(x, d)] = d;
    if (!q->passes) memcpy(c->out[0]->data, from, x->bytes);
    for (int at = 0; at < x->rank; at++) {                  /* in the order the bytes lie in */
        const int d = axes[at], each = (int)taps_of(r, x, d);
        struct tap full[QUICK_TAPS];
        if (stays(r, x, d)) continue;
        for (int64_t i = 0; i < r->out[d]; i++) {
            fill_taps(r, full, each, x, d, i);
            for (int k = 0; k < each; k++) taps[i * each + k] = (struct axis_tap){ full[k].index, (float)full[k].weight };
        }
        float *to = ++done == q->passes ? c->out[0]->data : (float *)(void *)(pictures + (done & 1 ? 0 : q->picture));
        c->k->taps_f32(to, from, dims_product(dims, 0, at), dims[at], r->out[d], dims_product(dims, at + 1, x->rank), taps, each, c->threads);
        dims[at] = r->out[d];
        from = to;
    }
}

static uint64_t scratch_resize(const struct call *c)
{
    struct call copy = *c;
    struct resize r;
    bool known;
    uint64_t bytes = 0;
    struct quick q;
    if (read_resize(&copy, &r, &known, NULL) || !known) return 0;
    if (is_quick(c, &r, &q)) return q.table + 2 * q.picture;
    for (int d = 0; d < c->in[0]->rank; d++) {
        int64_t each = taps_of(&r, c->in[0], d);
        uint64_t table;
        if (each < 0 || !size_mul((uint64_t)r.out[d], (uint64_t)each * sizeof(struct tap) + 1, &table) || !size_add(bytes, table + 64, &bytes)) return UINT64_MAX;
    }
    return bytes;
}

static void lay_tables(const struct call *c, const struct resize *r, struct dimension *t)
{
    const struct operand *x = c->in[0];
    char *at = c->scratch;
    for (int d = 0; d < x->rank; d++) {
        t[d].each = (int)taps_of(r, x, d);
        t[d].taps = (struct tap *)(void *)at;
        at += (uint64_t)r->out[d] * (uint64_t)t[d].each * sizeof(struct tap);
        t[d].outside = (bool *)(void *)at;
        at += ((uint64_t)r->out[d] + 63) & ~(uint64_t)15;
        at = (char *)(((uintptr_t)at + 15) & ~(uintptr_t)15);
        for (int64_t i = 0; i < r->out[d]; i++) t[d].outside[i] = fill_taps(r, t[d].taps + i * t[d].each, t[d].each, x, d, i);
    }
}

/* The sum over the taps of dimensions d and up, from element `at` of the source on. */
static double blend(const struct operand *x, const struct dimension *t, const int64_t *index, int d, int64_t at)
{
    if (d == x->rank) return operand_real(x, (uint64_t)at);
    double sum = 0;
    const struct tap *tap = t[d].taps + index[d] * t[d].each;
    if (t[d].each == 1) return blend(x, t, index, d + 1, at + tap->index * t[d].source_stride);
    for (int k = 0; k < t[d].each; k++)
        if (tap[k].weight != 0) sum += tap[k].weight * blend(x, t, index, d + 1, at + tap[k].index * t[d].source_stride);
    return sum;
}

static enum status eval_resize(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct operand *y = c->out[0];
    struct resize r;
    struct dimension t[TENSOR_RANK_MAX];
    bool known;
    int64_t xs[TENSOR_RANK_MAX], ys[TENSOR_RANK_MAX], index[TENSOR_RANK_MAX] = { 0 };
    int size = operand_size(x), d = 0;
    enum status st = read_resize(c, &r, &known, err);
    struct quick q;
    if (st || y->bytes == 0) return st;
    if (is_quick(c, &r, &q)) {
        quick_resize(c, &r, &q);
        return ST_OK;
    }
    double outside = (double)node_float(c->node, "extrapolation_value", 0);
    operand_strides(x, xs);
    operand_strides(y, ys);
    lay_tables(c, &r, t);
    for (int k = 0; k < x->rank; k++) t[k].source_stride = xs[k];
    while (d >= 0) {
        int64_t from = 0, to = 0;
        bool cut = false;
        for (int k = 0; k < x->rank; k++) {
            from += t[k].taps[index[k] * t[k].each].index * xs[k];
            to += index[k] * ys[k];
            cut = cut || t[k].outside[index[k]];
        }
        if (cut) operand_real_put(y, (uint64_t)to, outside);
        else if (r.mode == M_NEAREST) memcpy((char *)y->data + to * size, (const char *)x->data + from * size, (size_t)size);
        else operand_real_put(y, (uint64_t)to, blend(x, t, index, 0, 0));
        for (d = x->rank - 1; d >= 0 && ++index[d] == y->dims[d]; d--) index[d] = 0;
    }
    return ST_OK;
}

/* An axis after the other, as on the CPU: what lies between goes through buffers of the node's own. */
static void tasks_resize(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    struct resize r;
    struct quick q;
    bool known;
    int axes[TENSOR_RANK_MAX], own[2] = { -1, -1 }, done = 0;
    int64_t dims[TENSOR_RANK_MAX];
    if (read_resize(c, &r, &known, NULL) || !known || !is_quick(c, &r, &q)) {
        task_refuse(l);
        return;
    }
    operand_physical(x, dims);
    for (int d = 0; d < x->rank; d++) axes[operand_physical_axis(x, d)] = d;
    for (int k = 0; k < 2 && q.passes > 1 + k; k++) own[k] = task_own(l, q.picture);
    if (!q.passes) task_pointwise(l, c, GPU_COPY, 1);
    for (int at = 0; at < x->rank && !l->refused; at++) {
        const int d = axes[at], each = (int)taps_of(&r, x, d);
        if (stays(&r, x, d)) continue;
        const uint64_t count = (uint64_t)r.out[d] * (uint64_t)each;
        int32_t *index = mem_alloc_array(count, sizeof *index);
        float *weight = mem_alloc_array(count, sizeof *weight);
        if (!index || !weight) {
            err_set(&l->error, ST_NO_MEMORY, "the taps of a resize");
            task_refuse(l);
        }
        for (int64_t i = 0; i < r.out[d] && !l->refused; i++) {
            struct tap full[QUICK_TAPS];
            fill_taps(&r, full, each, x, d, i);
            for (int k = 0; k < each; k++) index[i * each + k] = (int32_t)full[k].index, weight[i * each + k] = (float)full[k].weight;
        }
        struct gpu_task *t = task_add(l, GPU_RESIZE);
        t->u.resize = (struct gpu_resize){ .outer = dims_product(dims, 0, at), .in = dims[at], .out = r.out[d], .inner = dims_product(dims, at + 1, x->rank), .taps = each };
        if (done) task_own_operand(l, t, own[(done - 1) & 1], l->float_type);
        else task_value(l, t, x);
        if (++done == q.passes) task_value(l, t, c->out[0]);
        else task_own_operand(l, t, own[(done - 1) & 1], l->float_type);
        task_table(l, t, index, count, GPU_I32);
        task_table(l, t, weight, count, GPU_F32);
        free(index);
        free(weight);
        dims[at] = r.out[d];
    }
}

/* Sizes may be worked out from the number of rows (that the rest of the shape is not was checked); scales may not. */
static bool rows_resize(const struct call *c)
{
    for (int i = 1; i < c->in_count; i++)
        if (c->in[i] && (c->in[i]->batched || (c->in[i]->tainted && i != 3))) return false;
    return c->in[0]->batched && c->out[0]->dims[0] == c->in[0]->dims[0];
}

const struct op ops_resize[] = {
    { "Resize", "", 10, 0, 1, 4, 1, 1, OP_LAST | OP_PRODUCT, 0, infer_resize, eval_resize, scratch_resize, NULL, NULL, rows_resize, tasks_resize },
    { "Upsample", "", 1, 9, 1, 2, 1, 1, OP_LAST | OP_PRODUCT, 1, infer_resize, eval_resize, scratch_resize, NULL, NULL, rows_resize, tasks_resize },
    { 0 }
};
