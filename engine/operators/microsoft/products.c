/* com.microsoft: products of matrices with transposes and a factor, by packed weights of few bits, by 8-bit weights quantised on the way. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

/* Batched matrices: rows, inner and columns, and the strides of each side once it is turned. */
struct shapes { int64_t m, k, n, a_row, a_step, b_row, b_step; struct batch_shape batch; };

static bool read_shapes(const struct operand *a, const struct operand *b, bool ta, bool tb, struct shapes *s)
{
    *s = (struct shapes){ 0 };
    if (a->rank < 2 || b->rank < 2) return false;
    int64_t ar = a->dims[a->rank - 2], ac = a->dims[a->rank - 1], br = b->dims[b->rank - 2], bc = b->dims[b->rank - 1];
    s->m = ta ? ac : ar;
    s->k = ta ? ar : ac;
    s->n = tb ? br : bc;
    s->a_row = ta ? 1 : ac;
    s->a_step = ta ? ac : 1;
    s->b_row = tb ? 1 : bc;
    s->b_step = tb ? bc : 1;
    return batch_shape_of(&s->batch, a, b) && s->k == (tb ? bc : br);
}

static enum status set_product(struct call *c, const struct shapes *s, enum dtype t, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX];
    memcpy(dims, s->batch.dims, sizeof dims);
    dims[s->batch.rank] = s->m;
    dims[s->batch.rank + 1] = s->n;
    return call_set(c, 0, t, dims, s->batch.rank + 2, err);
}

/* ---- FusedMatMul ---- */
static enum status infer_fused(struct call *c, struct err *err)
{
    struct shapes s;
    if (node_int(c->node, "transBatchA", 0) || node_int(c->node, "transBatchB", 0)) return call_error(c, err, ST_UNSUPPORTED, "turned batches are not computed");
    if (!dtype_is_real(c->in[0]->dtype) || c->in[0]->dtype != c->in[1]->dtype || !read_shapes(c->in[0], c->in[1], node_int(c->node, "transA", 0) != 0, node_int(c->node, "transB", 0) != 0, &s)) return call_error(c, err, ST_BAD_INPUT, "its inputs cannot be multiplied");
    return set_product(c, &s, c->in[0]->dtype, err);
}

static enum status eval_fused(struct call *c, struct err *err)
{
    struct shapes s;
    struct reals r;
    double alpha = (double)node_float(c->node, "alpha", 1);
    (void)err;
    read_shapes(c->in[0], c->in[1], node_int(c->node, "transA", 0) != 0, node_int(c->node, "transB", 0) != 0, &s);
    reals_begin(&r, c);
    for (int64_t t = 0, all = dims_product(s.batch.dims, 0, s.batch.rank); t < all; t++) {
        const double *a = r.in[0] + batch_matrix(&s.batch, c->in[0], t) * s.m * s.k, *b = r.in[1] + batch_matrix(&s.batch, c->in[1], t) * s.k * s.n;
        double *y = r.out[0] + t * s.m * s.n;
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t k = 0; k < s.k; k++) {
                double v = alpha * a[i * s.a_row + k * s.a_step];
                for (int64_t j = 0; j < s.n; j++) y[i * s.n + j] += v * b[k * s.b_row + j * s.b_step];
            }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- MatMulNBits(a, packed b [n, blocks, bytes], scales, zero points, group index, bias) ---- */
struct nbits { int64_t n, k, bits, block, blocks; };

static enum status read_nbits(const struct call *c, struct nbits *s, struct err *err)
{
    const struct operand *a = c->in[0], *b = c->in[1], *scales = c->in[2], *z = call_input(c, 3), *bias = call_input(c, 5);
    *s = (struct nbits){ node_int(c->node, "N", 0), node_int(c->node, "K", 0), node_int(c->node, "bits", 4), node_int(c->node, "block_size", 32), 0 };
    bool fits = a->rank >= 1 && dtype_is_real(a->dtype) && s->n > 0 && s->k > 0 && (s->bits == 2 || s->bits == 4 || s->bits == 8) && s->block >= 16 && s->block <= 1 << 20 && a->dims[a->rank - 1] == s->k && b->dtype == DT_U8 && dtype_is_real(scales->dtype);
    if (fits) {
        s->blocks = (s->k + s->block - 1) / s->block;
        uint64_t groups = (uint64_t)(s->n * s->blocks), bytes = (uint64_t)(s->n * ((s->blocks * s->bits + 7) / 8));
        fits = s->n <= INT32_MAX && s->k <= INT32_MAX && operand_count(b) == groups * (uint64_t)(s->block * s->bits / 8) && operand_count(scales) == groups;
        if (fits && z) fits = z->dtype == DT_U8 ? operand_count(z) == bytes : z->dtype == a->dtype && operand_count(z) == groups;
        if (fits && bias) fits = bias->dtype == a->dtype && operand_count(bias) == (uint64_t)s->n;
    }
    if (fits && call_input(c, 4)) return call_error(c, err, ST_UNSUPPORTED, "a group index is not taken");
    return fits ? ST_OK : call_error(c, err, ST_BAD_INPUT, "its weights, scales and zero points do not fit N, K, bits and block_size");
}

static enum status infer_nbits(struct call *c, struct err *err)
{
    struct nbits s;
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = read_nbits(c, &s, err);
    if (st) return st;
    memcpy(dims, c->in[0]->dims, sizeof dims);
    dims[c->in[0]->rank - 1] = s.n;
    return call_set(c, 0, c->in[0]->dtype, dims, c->in[0]->rank, err);
}

static unsigned field(const uint8_t *p, int64_t i, int64_t bits)
{
    int64_t per = 8 / bits;
    return p[i / per] >> (i % per * bits) & ((1u << bits) - 1);
}

static double weight_at(const struct call *c, const struct nbits *s, int64_t n, int64_t k)
{
    int64_t g = k / s->block, group = n * s->blocks + g;
    const struct operand *z = call_input(c, 3);
    const uint8_t *b = (const uint8_t *)c->in[1]->data + group * (s->block * s->bits / 8);
    double zero = (double)(1 << (s->bits - 1));
    if (z && z->dtype == DT_U8) zero = field((const uint8_t *)z->data + n * ((s->blocks * s->bits + 7) / 8), g, s->bits);
    else if (z) zero = operand_real(z, (uint64_t)group);
    return ((double)field(b, k % s->block, s->bits) - zero) * operand_real(c->in[2], (uint64_t)group);
}

static enum status eval_nbits(struct call *c, struct err *err)
{
    struct nbits s;
    enum status st = read_nbits(c, &s, err);
    if (st) return st;
    int64_t rows = (int64_t)operand_count(c->in[0]) / s.k;
    double *w = (double *)c->scratch;
    for (int64_t n = 0; n < s.n; n++) {
        for (int64_t k = 0; k < s.k; k++) w[k] = weight_at(c, &s, n, k);
        for (int64_t i = 0; i < rows; i++) {
            double sum = call_input(c, 5) ? operand_real(c->in[5], (uint64_t)n) : 0;
            for (int64_t k = 0; k < s.k; k++) sum += w[k] * operand_real(c->in[0], (uint64_t)(i * s.k + k));
            operand_real_put(c->out[0], (uint64_t)(i * s.n + n), sum);
        }
    }
    return ST_OK;
}

static uint64_t scratch_nbits(const struct call *c)
{
    struct nbits s;
    return read_nbits(c, &s, NULL) ? 0 : (uint64_t)s.k * sizeof(double);
}

/* ---- DynamicQuantizeMatMul(a, b, b scale, b zero, bias) and MatMulIntegerToFloat(a, b, a scale, b scale, a zero, b zero, bias) ---- */
struct places { int a_scale, b_scale, a_zero, b_zero, bias; };
static const struct places places_of[] = { { -1, 2, -1, 3, 4 }, { 2, 3, 4, 5, 6 } };

static const struct operand *placed(const struct call *c, int i) { return i < 0 ? NULL : call_input(c, i); }

static enum status infer_scaled(struct call *c, struct err *err)
{
    const struct places *p = &places_of[c->node->op->code];
    const struct operand *a = c->in[0], *b = c->in[1], *bias = placed(c, p->bias);
    struct shapes s;
    bool dynamic = c->node->op->code == 0, fits = (b->dtype == DT_U8 || b->dtype == DT_I8) && (dynamic ? a->dtype == DT_F32 : a->dtype == DT_U8 || a->dtype == DT_I8) && read_shapes(a, b, false, false, &s);
    const struct operand *each[] = { c->in[p->b_scale], placed(c, p->b_zero), placed(c, p->a_scale), placed(c, p->a_zero) };
    for (int i = 0; i < 4 && fits; i++) fits = !each[i] || operand_count(each[i]) == 1 || (i < 2 && operand_count(each[i]) == (uint64_t)s.n);
    fits = fits && each[0]->dtype == DT_F32 && (!each[1] || each[1]->dtype == b->dtype) && (!each[2] || each[2]->dtype == DT_F32) && (!each[3] || each[3]->dtype == a->dtype) && (!bias || (bias->dtype == DT_F32 && operand_count(bias) == (uint64_t)s.n));
    return fits ? set_product(c, &s, DT_F32, err) : call_error(c, err, ST_BAD_INPUT, "its inputs, scales and zero points do not go together");
}

/* The scale and zero point of float rows taken as uint8. */
static void measure(const struct operand *a, float *scale, float *zero)
{
    const float *x = a->data;
    float low = 0, high = 0;
    for (uint64_t k = 0, n = operand_count(a); k < n; k++) {
        low = x[k] < low ? x[k] : low;
        high = x[k] > high ? x[k] : high;
    }
    *scale = high == low ? 1 : (high - low) / 255.0f;
    *zero = nearbyintf(fmaxf(0, fminf(255, -low / *scale)));
}

static enum status eval_scaled(struct call *c, struct err *err)
{
    const struct places *p = &places_of[c->node->op->code];
    const struct operand *a = c->in[0], *b = c->in[1], *bs = c->in[p->b_scale], *bz = placed(c, p->b_zero), *bias = placed(c, p->bias);
    struct shapes s;
    bool dynamic = c->node->op->code == 0;
    float scale, zero;
    (void)err;
    read_shapes(a, b, false, false, &s);
    if (dynamic) measure(a, &scale, &zero);
    else {
        scale = ((const float *)c->in[p->a_scale]->data)[0];
        zero = placed(c, p->a_zero) ? (float)operand_int(c->in[p->a_zero], 0) : 0;
    }
    for (int64_t t = 0, all = dims_product(s.batch.dims, 0, s.batch.rank); t < all; t++) {
        int64_t ma = batch_matrix(&s.batch, a, t) * s.m * s.k, mb = batch_matrix(&s.batch, b, t) * s.k * s.n;
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t j = 0; j < s.n; j++) {
                int64_t sum = 0, z = bz ? operand_int(bz, operand_count(bz) == 1 ? 0 : (uint64_t)j) : 0;
                for (int64_t k = 0; k < s.k; k++) {
                    double v = dynamic ? (double)fmaxf(0, fminf(255, nearbyintf(((const float *)a->data)[ma + i * s.k + k] / scale) + zero)) : (double)operand_int(a, (uint64_t)(ma + i * s.k + k));
                    sum += ((int64_t)v - (int64_t)zero) * (operand_int(b, (uint64_t)(mb + k * s.n + j)) - z);
                }
                double y = (double)sum * (double)(scale * (float)operand_real(bs, operand_count(bs) == 1 ? 0 : (uint64_t)j));
                operand_real_put(c->out[0], (uint64_t)((t * s.m + i) * s.n + j), y + (bias ? operand_real(bias, (uint64_t)j) : 0));
            }
    }
    return ST_OK;
}

const struct op ops_ms_products[] = {
    { "FusedMatMul", "com.microsoft", 1, 0, 2, 2, 1, 1, OP_PRODUCT, 0, infer_fused, eval_fused, reals_scratch, NULL, NULL, NULL, NULL },
    { "MatMulNBits", "com.microsoft", 1, 0, 3, 6, 1, 1, OP_PRODUCT, 0, infer_nbits, eval_nbits, scratch_nbits, NULL, NULL, rows_apart, NULL },
    { "DynamicQuantizeMatMul", "com.microsoft", 1, 0, 3, 5, 1, 1, OP_PRODUCT, 0, infer_scaled, eval_scaled, NULL, NULL, NULL, NULL, NULL },
    { "MatMulIntegerToFloat", "com.microsoft", 1, 0, 4, 7, 1, 1, OP_PRODUCT, 1, infer_scaled, eval_scaled, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
