/* Sampling pictures at coordinates: GridSample, AffineGrid, RoiAlign, MaxRoiPool. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum { SPACE_MAX = TENSOR_RANK_MAX - 2 };
enum padding { PAD_ZEROS, PAD_BORDER, PAD_REFLECTION };

/* ---- GridSample(x [n, c, ...], grid [n, ..., r]) ---- */
struct sampler { const double *plane; const int64_t *dims; int rank; enum padding padding; bool corners; int taps; };      /* taps along each dimension: 1, 2 or 4 */

static enum status infer_grid(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *grid = c->in[1];
    int64_t dims[TENSOR_RANK_MAX];
    int r = x->rank - 2;
    bool fits = r >= 1 && dtype_is_real(x->dtype) && dtype_is_real(grid->dtype) && grid->rank == x->rank && grid->dims[0] == x->dims[0] && grid->dims[x->rank - 1] == r;
    for (int d = 2; fits && d < x->rank; d++) fits = x->dims[d] > 0;
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "its grid does not fit the input");
    memcpy(dims, x->dims, 2 * sizeof *dims);
    memcpy(dims + 2, grid->dims + 1, (size_t)r * sizeof *dims);
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

/* A coordinate folded back between low and high. */
static double reflect(double x, double low, double high)
{
    double range = high - low;
    if (range <= 0) return low;
    x = fmod(fabs(x - low), 2 * range);
    return low + (x > range ? 2 * range - x : x);
}

static double pixel(const struct sampler *s, const int64_t *at)
{
    int64_t k = 0;
    for (int d = 0; d < s->rank; d++) {
        int64_t i = at[d], n = s->dims[d];
        if (i < 0 || i >= n) {
            if (s->padding == PAD_ZEROS) return 0;
            if (s->padding == PAD_BORDER) i = i < 0 ? 0 : n - 1;
            else {
                double f = s->corners ? reflect((double)i, 0, (double)(n - 1)) : reflect((double)i, -0.5, (double)n - 0.5);
                i = f < 0 ? 0 : f > (double)(n - 1) ? n - 1 : (int64_t)f;
            }
        }
        k = k * n + i;
    }
    return s->plane[k];
}

static void weights_of(int taps, double f, double *w)
{
    const double a = -0.75;
    if (taps == 2) { w[0] = 1 - f; w[1] = f; return; }
    double far = f + 1, back = 1 - f, end = 2 - f;
    w[0] = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a;
    w[1] = ((a + 2) * f - (a + 3)) * f * f + 1;
    w[2] = ((a + 2) * back - (a + 3)) * back * back + 1;
    w[3] = ((a * end - 5 * a) * end + 8 * a) * end - 4 * a;
}

static double sample(const struct sampler *s, const double *x)
{
    double w[SPACE_MAX][4], sum = 0;
    int64_t base[SPACE_MAX], at[SPACE_MAX];
    int index[SPACE_MAX] = { 0 }, d = 0;
    for (int k = 0; k < s->rank; k++) {
        double f = s->taps == 1 ? nearbyint(x[k]) : floor(x[k]);
        base[k] = (int64_t)f - (s->taps == 4);
        w[k][0] = 1;
        if (s->taps > 1) weights_of(s->taps, x[k] - f, w[k]);
    }
    while (d >= 0) {
        double weight = 1;
        for (int k = 0; k < s->rank; k++) {
            weight *= w[k][index[k]];
            at[k] = base[k] + index[k];
        }
        sum += weight * pixel(s, at);
        for (d = s->rank - 1; d >= 0 && ++index[d] == s->taps; d--) index[d] = 0;
    }
    return sum;
}

static enum status eval_grid(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct sampler s = { .dims = x->dims + 2, .rank = x->rank - 2, .corners = node_int(c->node, "align_corners", 0) != 0 };
    struct reals r;
    (void)err;
    s.padding = node_text_is(c->node, "padding_mode", "border", false) ? PAD_BORDER : node_text_is(c->node, "padding_mode", "reflection", false) ? PAD_REFLECTION : PAD_ZEROS;
    s.taps = node_text_is(c->node, "mode", "nearest", false) ? 1 : node_text_is(c->node, "mode", "cubic", false) || node_text_is(c->node, "mode", "bicubic", false) ? 4 : 2;
    reals_begin(&r, c);
    int64_t in = dims_product(x->dims, 2, x->rank), out = dims_product(c->out[0]->dims, 2, x->rank);
    for (int64_t n = 0; n < x->dims[0]; n++)
        for (int64_t o = 0; o < out; o++) {
            double at[SPACE_MAX];
            for (int d = 0; d < s.rank; d++) {           /* the grid names the last dimension first */
                double g = r.in[1][(n * out + o) * s.rank + s.rank - 1 - d], size = (double)s.dims[d];
                double v = s.corners ? (g + 1) / 2 * (size - 1) : ((g + 1) * size - 1) / 2, low = s.corners ? 0 : -0.5, high = s.corners ? size - 1 : size - 0.5;
                if (s.taps == 1) v = nearbyint((double)(float)v);
                if (s.padding == PAD_BORDER && (v < low || v > high)) v = v < 0 ? 0 : v > size - 1 ? size - 1 : v;
                if (s.padding == PAD_REFLECTION && (v < low || v > high)) v = reflect(v, low, high);
                at[d] = v > -1e9 && v < 1e9 ? v : -1e9;
            }
            for (int64_t ch = 0; ch < x->dims[1]; ch++) {
                s.plane = r.in[0] + (n * x->dims[1] + ch) * in;
                r.out[0][(n * x->dims[1] + ch) * out + o] = sample(&s, at);
            }
        }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- AffineGrid(theta [n, r, r + 1], size) ---- */
static enum status infer_affine(struct call *c, struct err *err)
{
    const struct operand *theta = c->in[0];
    int64_t size[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX];
    int n;
    bool known;
    enum status st = call_ints(c, 1, size, TENSOR_RANK_MAX - 1, &n, &known, err);
    if (st || !known) return st;
    int r = n - 2;
    if ((r != 2 && r != 3) || theta->rank != 3 || theta->dims[0] != size[0] || theta->dims[1] != r || theta->dims[2] != r + 1 || !dtype_is_real(theta->dtype)) return call_error(c, err, ST_BAD_INPUT, "its matrices do not fit a size of %d numbers", n);
    dims[0] = size[0];
    memcpy(dims + 1, size + 2, (size_t)r * sizeof *dims);
    dims[r + 1] = r;
    return call_set(c, 0, theta->dtype, dims, r + 2, err);
}

static enum status eval_affine(struct call *c, struct err *err)
{
    const struct operand *y = c->out[0];
    int r = y->rank - 2;
    bool corners = node_int(c->node, "align_corners", 0) != 0;
    struct reals v;
    (void)err;
    reals_begin(&v, c);
    for (int64_t k = 0, n = (int64_t)operand_count(y) / r; k < n; k++) {
        double at[4] = { 0 };
        int64_t left = k;
        for (int d = r - 1, e = 0; d >= 0; left /= y->dims[d + 1], d--, e++) {
            double size = (double)y->dims[d + 1], i = (double)(left % y->dims[d + 1]);
            at[e] = corners ? (size > 1 ? -1 + 2 * i / (size - 1) : 0) : (2 * i + 1) / size - 1;
        }
        at[r] = 1;
        for (int row = 0; row < r; row++)
            for (int j = 0; j <= r; j++) v.out[0][k * r + row] += v.in[0][(left * r + row) * (r + 1) + j] * at[j];
    }
    reals_end(&v, c);
    return ST_OK;
}

/* ---- RoiAlign(x [n, c, h, w], rois [k, 4], batch indices [k]) ---- */
static enum status infer_roi(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *rois = c->in[1], *batch = c->in[2];
    int64_t h = node_int(c->node, "output_height", 1), w = node_int(c->node, "output_width", 1);
    if (x->rank != 4 || rois->rank != 2 || rois->dims[1] != 4 || batch->rank != 1 || batch->dims[0] != rois->dims[0] || !dtype_is_real(x->dtype) || !dtype_is_real(rois->dtype) || batch->dtype != DT_I64 || h < 1 || w < 1) return call_error(c, err, ST_BAD_INPUT, "regions, their batch indices or the output size do not fit");
    return call_set(c, 0, x->dtype, (int64_t[]){ rois->dims[0], x->dims[1], h, w }, 4, err);
}

/* The four pixels around (y, x) and their weights; false: outside. */
static bool corners_of(double y, double x, int64_t h, int64_t w, int64_t at[4], double weight[4])
{
    if (!(y >= -1 && y <= (double)h && x >= -1 && x <= (double)w)) return false;
    y = y < 0 ? 0 : y;
    x = x < 0 ? 0 : x;
    int64_t i = (int64_t)y, j = (int64_t)x, i2 = i + 1, j2 = j + 1;
    if (i >= h - 1) { i = i2 = h - 1; y = (double)i; }
    if (j >= w - 1) { j = j2 = w - 1; x = (double)j; }
    double fy = y - (double)i, fx = x - (double)j;
    at[0] = i * w + j;
    at[1] = i * w + j2;
    at[2] = i2 * w + j;
    at[3] = i2 * w + j2;
    weight[0] = (1 - fy) * (1 - fx);
    weight[1] = (1 - fy) * fx;
    weight[2] = fy * (1 - fx);
    weight[3] = fy * fx;
    return true;
}

struct roi { double y, x, bin_h, bin_w; int64_t grid_h, grid_w; };

static double roi_cell(const struct roi *o, const double *plane, int64_t h, int64_t w, int64_t i, int64_t j, bool max)
{
    double sum = 0;
    bool any = false;
    for (int64_t a = 0; a < o->grid_h; a++)
        for (int64_t b = 0; b < o->grid_w; b++) {
            int64_t at[4];
            double weight[4], y = o->y + (double)i * o->bin_h + ((double)a + 0.5) * o->bin_h / (double)o->grid_h, x = o->x + (double)j * o->bin_w + ((double)b + 0.5) * o->bin_w / (double)o->grid_w, v = 0, most = 0;
            bool inside = corners_of(y, x, h, w, at, weight);
            for (int k = 0; k < 4 && inside; k++) {
                v += weight[k] * plane[at[k]];
                most = k == 0 || weight[k] * plane[at[k]] > most ? weight[k] * plane[at[k]] : most;
            }
            if (!max) sum += v;
            else if (!any || most > sum) sum = most;
            any = true;
        }
    return max ? sum : sum / (double)(o->grid_h * o->grid_w);
}

static enum status eval_roi(struct call *c, struct err *err)
{
    enum { GRID_MAX = 1 << 12 };
    const struct operand *x = c->in[0];
    int64_t height = c->out[0]->dims[2], width = c->out[0]->dims[3], h = x->dims[2], w = x->dims[3], ratio = node_int(c->node, "sampling_ratio", 0);
    double scale = (double)node_float(c->node, "spatial_scale", 1), half = c->node->opset >= 16 && node_text_is(c->node, "coordinate_transformation_mode", "half_pixel", true) ? 0.5 : 0;
    bool max = node_text_is(c->node, "mode", "max", false);
    struct reals r;
    reals_begin(&r, c);
    if (ratio < 0 || ratio > GRID_MAX) return call_error(c, err, ST_BAD_INPUT, "sampling_ratio is %lld", (long long)ratio);
    for (int64_t k = 0; k < c->out[0]->dims[0]; k++) {
        const double *b = r.in[1] + k * 4;
        int64_t n = operand_int(c->in[2], (uint64_t)k);
        double y2 = b[3] * scale - half, x2 = b[2] * scale - half;
        struct roi o = { .y = b[1] * scale - half, .x = b[0] * scale - half };
        double roi_h = y2 - o.y, roi_w = x2 - o.x;
        if (half == 0) { roi_h = fmax(roi_h, 1); roi_w = fmax(roi_w, 1); }
        if (n < 0 || n >= x->dims[0] || !(roi_h < 1e6 && roi_w < 1e6 && roi_h > -1e6 && roi_w > -1e6)) return call_error(c, err, ST_BAD_INPUT, "region %lld is out of range", (long long)k);
        o.bin_h = roi_h / (double)height;
        o.bin_w = roi_w / (double)width;
        o.grid_h = ratio ? ratio : (int64_t)fmax(1, ceil(o.bin_h));
        o.grid_w = ratio ? ratio : (int64_t)fmax(1, ceil(o.bin_w));
        for (int64_t ch = 0; ch < x->dims[1] && h * w > 0; ch++)
            for (int64_t at = 0; at < height * width; at++)
                r.out[0][(k * x->dims[1] + ch) * height * width + at] = roi_cell(&o, r.in[0] + (n * x->dims[1] + ch) * h * w, h, w, at / width, at % width, max);
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- MaxRoiPool(x, regions [k, 5]: batch index, x1, y1, x2, y2) ---- */
static enum status infer_roi_pool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *rois = c->in[1];
    int n;
    const int64_t *shape = node_ints(c->node, "pooled_shape", &n);
    if (x->rank != 4 || rois->rank != 2 || rois->dims[1] != 5 || !dtype_is_real(x->dtype) || rois->dtype != x->dtype || n != 2 || shape[0] < 1 || shape[1] < 1) return call_error(c, err, ST_BAD_INPUT, "regions or pooled_shape do not fit");
    return call_set(c, 0, x->dtype, (int64_t[]){ rois->dims[0], x->dims[1], shape[0], shape[1] }, 4, err);
}

/* The largest number of a plane's cell; an empty cell is 0. */
static double largest(const double *plane, int64_t w, const int64_t low[2], const int64_t high[2])
{
    double most = 0;
    for (int64_t i = low[0]; i < high[0]; i++)
        for (int64_t j = low[1]; j < high[1]; j++) most = (i == low[0] && j == low[1]) || plane[i * w + j] > most ? plane[i * w + j] : most;
    return most;
}

static enum status eval_roi_pool(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    const int64_t *size = x->dims + 2, *pooled = c->out[0]->dims + 2;
    double scale = (double)node_float(c->node, "spatial_scale", 1);
    struct reals r;
    reals_begin(&r, c);
    for (int64_t k = 0; k < c->out[0]->dims[0]; k++) {
        const double *b = r.in[1] + k * 5;
        if (!(b[0] >= 0 && b[0] < (double)x->dims[0])) return call_error(c, err, ST_BAD_INPUT, "region %lld names no picture", (long long)k);
        for (int64_t at = 0; at < pooled[0] * pooled[1]; at++) {
            int64_t cell[2] = { at / pooled[1], at % pooled[1] }, low[2], high[2];
            for (int d = 0; d < 2; d++) {
                double start = round(b[2 - d] * scale), end = round(b[4 - d] * scale), bin = fmax(end - start + 1, 1) / (double)pooled[d], most = (double)size[d];
                low[d] = (int64_t)fmin(fmax(floor((double)cell[d] * bin) + start, 0), most);
                high[d] = (int64_t)fmin(fmax(ceil((double)(cell[d] + 1) * bin) + start, 0), most);
            }
            for (int64_t ch = 0; ch < x->dims[1]; ch++)
                r.out[0][(k * x->dims[1] + ch) * pooled[0] * pooled[1] + at] = largest(r.in[0] + ((int64_t)b[0] * x->dims[1] + ch) * size[0] * size[1], size[1], low, high);
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

const struct op ops_sample[] = {
    { "MaxRoiPool", "", 1, 0, 2, 2, 1, 1, OP_PRODUCT, 0, infer_roi_pool, eval_roi_pool, reals_scratch, NULL, NULL, NULL, NULL },
    { "GridSample", "", 16, 0, 2, 2, 1, 1, 0, 0, infer_grid, eval_grid, reals_scratch, NULL, NULL, NULL, NULL },
    { "AffineGrid", "", 20, 0, 2, 2, 1, 1, 0, 0, infer_affine, eval_affine, reals_scratch, NULL, NULL, NULL, NULL },
    { "RoiAlign", "", 10, 0, 3, 3, 1, 1, OP_PRODUCT, 0, infer_roi, eval_roi, reals_scratch, NULL, NULL, NULL, NULL },
    { 0 }
};
