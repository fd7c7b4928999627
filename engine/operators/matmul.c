/* Products of matrices. f32 goes to the GEMM of the kernels, whose order of addition does not depend on the number of rows; a constant right
 * side was packed at load, another is packed into scratch. Other types are computed directly. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"
#include "kernels/linear.h"
#include "kernels/sparse.h"

/* ---- Gemm: alpha * A' * B' + beta * C ---- */
struct gemm { int64_t m, n, k; bool ta, tb; float alpha, beta; const struct operand *bias; };

static enum status read_gemm(const struct call *c, struct gemm *g, struct err *err)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    *g = (struct gemm){ .ta = node_int(c->node, "transA", 0) != 0, .tb = node_int(c->node, "transB", 0) != 0, .alpha = node_float(c->node, "alpha", 1), .beta = node_float(c->node, "beta", 1), .bias = c->in_count > 2 ? c->in[2] : NULL };
    bool numbers = dtype_is_real(a->dtype) || dtype_is_integer(a->dtype);
    if (!numbers || a->dtype != b->dtype || (g->bias && g->bias->dtype != a->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s and %s", dtype_name(a->dtype), dtype_name(b->dtype));
    char s[80], t[80];
    if (a->rank != 2 || b->rank != 2) goto wrong;
    g->m = a->dims[g->ta];
    g->k = a->dims[!g->ta];
    g->n = b->dims[!g->tb];
    if (b->dims[g->tb] != g->k) goto wrong;
    if (!g->bias) return ST_OK;
    const struct operand *o = g->bias;
    int64_t rows = o->rank > 1 ? o->dims[o->rank - 2] : 1, columns = o->rank ? o->dims[o->rank - 1] : 1;
    if (o->rank > 2 || (rows != 1 && rows != g->m) || (columns != 1 && columns != g->n)) return call_error(c, err, ST_BAD_INPUT, "C is %s, which does not broadcast to [%lld,%lld]", shape_text(o->dims, o->rank, s, sizeof s), (long long)g->m, (long long)g->n);
    return ST_OK;
wrong:
    return call_error(c, err, ST_BAD_INPUT, "%s and %s cannot be multiplied (transA %d, transB %d)", shape_text(a->dims, a->rank, s, sizeof s), shape_text(b->dims, b->rank, t, sizeof t), g->ta, g->tb);
}

static enum status infer_gemm(struct call *c, struct err *err)
{
    struct gemm g;
    enum status st = read_gemm(c, &g, err);
    return st ? st : call_set(c, 0, c->in[0]->dtype, (int64_t[]){ g.m, g.n }, 2, err);
}

static uint64_t aligned(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static uint64_t scratch_gemm(const struct call *c)
{
    struct gemm g;
    if (c->in[0]->dtype != DT_F32 || read_gemm(c, &g, NULL)) return 0;
    if (c->node->linear) return linear_scratch(c->node->linear, g.m, c->threads);
    if (c->node->sparse) return sparse_scratch(c->node->sparse, g.m);
    return (g.ta ? aligned(c->in[0]->bytes) : 0) + (c->node->packed ? 0 : aligned(c->k->gemm_f32_packed_bytes(g.k, g.n)));
}

static void bias_strides(const struct gemm *g, int64_t *row, int64_t *column)
{
    const struct operand *o = g->bias;
    int64_t rows = o->rank > 1 ? o->dims[o->rank - 2] : 1, columns = o->rank ? o->dims[o->rank - 1] : 1;
    *column = columns == 1 ? 0 : 1;
    *row = rows == 1 ? 0 : columns;
}

static void finish_gemm(float *y, const struct gemm *g)
{
    int64_t row = 0, column = 0;
    const float *x = g->bias ? g->bias->data : NULL;
    if (x) bias_strides(g, &row, &column);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            float v = g->alpha * y[i * g->n + j];
            y[i * g->n + j] = x ? v + g->beta * x[i * row + j * column] : v;
        }
}

/* One element of a product of any real or integer type: the sum of k terms, a from `at` on in steps of `a_step` elements, b likewise. A sum of integers
 * wraps and stands in `whole`. */
struct term_sum { double real; int64_t whole; };
static struct term_sum sum_terms(const struct operand *a, int64_t at, int64_t a_step, const struct operand *b, int64_t bt, int64_t b_step, int64_t k)
{
    double sum = 0, p, q;
    uint64_t whole = 0;
    int64_t u, v;
    for (; k > 0; k--, at += a_step, bt += b_step) {
        if (dtype_is_real(a->dtype)) {
            real_load(&p, a->dtype, a->data, (uint64_t)at, 0, 1);
            real_load(&q, b->dtype, b->data, (uint64_t)bt, 0, 1);
            sum += p * q;
        } else {
            int_load(&u, a->dtype, a->data, (uint64_t)at, 0, 1);
            int_load(&v, b->dtype, b->data, (uint64_t)bt, 0, 1);
            whole += (uint64_t)u * (uint64_t)v;
        }
    }
    return (struct term_sum){ sum, (int64_t)whole };
}

/* Any real or integer type: y[i,j] = alpha * sum + beta * c. */
static void direct_gemm(const struct call *c, const struct gemm *g)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    struct operand *y = c->out[0];
    int64_t row = 0, column = 0;
    if (g->bias) bias_strides(g, &row, &column);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            struct term_sum sum = sum_terms(a, g->ta ? i : i * g->k, g->ta ? g->m : 1, b, g->tb ? j * g->k : j, g->tb ? 1 : g->n, g->k);
            bool real = dtype_is_real(a->dtype);
            double r = (double)g->alpha * (real ? sum.real : (double)sum.whole), e = 0;
            if (g->bias) real_load(&e, g->bias->dtype, g->bias->data, (uint64_t)(i * row + j * column), 0, 1);
            r += (double)g->beta * e;
            int64_t k = real ? 0 : g->alpha == 1 && !g->bias ? sum.whole : r >= 9.2e18 ? INT64_MAX : r <= -9.2e18 ? INT64_MIN : (int64_t)r;
            if (real) real_store(y->data, y->dtype, (uint64_t)(i * g->n + j), &r, 1);
            else int_store(y->data, y->dtype, (uint64_t)(i * g->n + j), &k, 1);
        }
}

static enum status eval_gemm(struct call *c, struct err *err)
{
    struct gemm g;
    enum status st = read_gemm(c, &g, err);
    if (st || c->out[0]->bytes == 0) return st;
    if (c->in[0]->dtype != DT_F32) {
        direct_gemm(c, &g);
        return ST_OK;
    }
    const float *a = c->in[0]->data;
    char *scratch = c->scratch;
    if (g.ta) {
        c->k->transpose_2d(scratch, a, 1, g.k, g.m, 4, c->threads);
        a = (const float *)scratch;
        scratch += aligned(c->in[0]->bytes);
    }
    const void *packed = c->node->packed;
    if (!packed && !c->node->linear && !c->node->sparse) {
        c->k->gemm_f32_pack(scratch, c->in[1]->data, g.tb ? 1 : g.n, g.tb ? g.k : 1, g.k, g.n);
        packed = scratch;
    }
    bool vector = !g.bias || (g.alpha == 1 && g.beta == 1 && (g.bias->rank < 2 || g.bias->dims[0] == 1) && operand_count(g.bias) == (uint64_t)g.n);
    bool simple = vector && g.alpha == 1;
    struct gemm_epilogue ep = { .bias = simple ? c->node->bias ? c->node->bias : g.bias ? g.bias->data : NULL : NULL };
    if (simple) ep.act = c->node->act;
    if (c->node->linear) linear_run(c->node->linear, c->out[0]->data, g.n, a, g.k, g.m, &ep, scratch, c->threads);
    else if (c->node->sparse) sparse_run(c->node->sparse, c->out[0]->data, g.n, a, g.k, g.m, &ep, scratch, c->threads);
    else c->k->gemm_f32(c->out[0]->data, g.n, a, g.k, packed, g.m, g.n, g.k, &ep, c->threads);
    if (!simple) finish_gemm(c->out[0]->data, &g);
    return ST_OK;
}

/* alpha A B + C with C a row or as large as the result, beta 1. */
static void tasks_gemm(struct call *c, struct task_list *l)
{
    struct gemm g;
    struct gpu_task *t = task_add(l, GPU_PRODUCT);
    if (read_gemm(c, &g, NULL) || !dtype_is_real(c->in[0]->dtype) || (g.bias && g.beta != 1)) {
        task_refuse(l);
        return;
    }
    const struct operand *o = g.bias;
    const bool full = o && o->rank == 2 && o->dims[0] == g.m && o->dims[1] == g.n && g.m > 1, row = o && !full && operand_count(o) == (uint64_t)g.n && (o->rank < 2 || o->dims[0] == 1);
    if ((o && !full && !row) || (c->node->bias && full)) task_refuse(l);
    t->u.product = (struct gpu_product){ .m = g.m, .n = g.n, .k = g.k, .batch = 1, .alpha = g.alpha, .a_turned = g.ta, .b_turned = g.tb, .has_bias = row || c->node->bias, .has_residual = full, .act = c->node->act };
    task_value(l, t, c->in[0]);
    task_value(l, t, c->in[1]);
    task_value(l, t, c->out[0]);
    if (c->node->bias) task_floats(l, t, c->node, 3, c->node->bias, (uint64_t)g.n, l->float_type);
    else task_value(l, t, row ? o : NULL);
    task_value(l, t, full ? o : NULL);
}

static bool rows_gemm(const struct call *c)
{
    const struct operand *bias = c->in_count > 2 ? c->in[2] : NULL;
    return c->in[0]->batched && !node_int(c->node, "transA", 0) && !call_any_tainted(c, 1) && !(bias && bias->rank == 2 && bias->dims[0] != 1);
}

/* ---- MatMul: numpy's rules ---- */
struct matmul { int64_t m, n, k, batch; int rank; int64_t dims[TENSOR_RANK_MAX]; bool row, column; };

static enum status read_matmul(const struct call *c, struct matmul *g, struct err *err)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    char s[80], t[80];
    *g = (struct matmul){ .batch = 1 };
    if (!(dtype_is_real(a->dtype) || dtype_is_integer(a->dtype)) || a->dtype != b->dtype) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s and %s", dtype_name(a->dtype), dtype_name(b->dtype));
    if (a->rank < 1 || b->rank < 1) goto wrong;
    g->row = a->rank == 1;
    g->column = b->rank == 1;
    g->m = g->row ? 1 : a->dims[a->rank - 2];
    g->k = a->dims[a->rank - 1];
    g->n = g->column ? 1 : b->dims[b->rank - 1];
    if ((g->column ? b->dims[0] : b->dims[b->rank - 2]) != g->k) goto wrong;
    int ab = g->row ? 0 : a->rank - 2, bb = g->column ? 0 : b->rank - 2, n = ab > bb ? ab : bb;
    for (int d = 0; d < n; d++) {
        int64_t p = d < n - ab ? 1 : a->dims[d - (n - ab)], q = d < n - bb ? 1 : b->dims[d - (n - bb)];
        if (p != q && p != 1 && q != 1) goto wrong;
        g->dims[d] = p == 1 ? q : p;
        if (__builtin_mul_overflow(g->batch, g->dims[d], &g->batch)) goto wrong;
    }
    g->rank = n;
    if (!g->row) g->dims[g->rank++] = g->m;
    if (!g->column) g->dims[g->rank++] = g->n;
    return ST_OK;
wrong:
    return call_error(c, err, ST_BAD_INPUT, "%s and %s cannot be multiplied", shape_text(a->dims, a->rank, s, sizeof s), shape_text(b->dims, b->rank, t, sizeof t));
}

static enum status infer_matmul(struct call *c, struct err *err)
{
    struct matmul g;
    enum status st = read_matmul(c, &g, err);
    return st ? st : call_set(c, 0, c->in[0]->dtype, g.dims, g.rank, err);
}

static uint64_t scratch_matmul(const struct call *c)
{
    struct matmul g;
    if (c->in[0]->dtype != DT_F32 || c->node->packed || read_matmul(c, &g, NULL)) return 0;
    if (c->node->linear) return linear_scratch(c->node->linear, g.m * g.batch, c->threads);
    if (c->node->sparse) return sparse_scratch(c->node->sparse, g.m * g.batch);
    return aligned(c->k->gemm_f32_packed_bytes(g.k, g.n)) * (uint64_t)(c->in[1]->rank > 2 && c->threads > 1 ? c->threads : 1);
}

static int64_t batch_offset(const struct operand *o, const struct matmul *g, int64_t index, bool vector)
{
    int own = vector ? 0 : o->rank - 2, all = g->rank - !g->row - !g->column;
    int64_t step = vector ? 0 : o->dims[o->rank - 1] * o->dims[o->rank - 2], at = 0;
    for (int d = all - 1; d >= 0; d--) {
        int64_t i = index % g->dims[d];
        index /= g->dims[d];
        int mine = d - (all - own);
        if (mine < 0) continue;
        if (o->dims[mine] != 1) at += i * step;
        step *= o->dims[mine];
    }
    return at;
}

static void direct_product(const struct call *c, const struct matmul *g, int64_t a0, int64_t b0, int64_t y0)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    struct operand *y = c->out[0];
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            struct term_sum sum = sum_terms(a, a0 + i * g->k, 1, b, b0 + j, g->n, g->k);
            if (dtype_is_real(a->dtype)) real_store(y->data, y->dtype, (uint64_t)(y0 + i * g->n + j), &sum.real, 1);
            else int_store(y->data, y->dtype, (uint64_t)(y0 + i * g->n + j), &sum.whole, 1);
        }
}

/* f32 with a right side for each: the matrices are shared out among threads where there are enough of them. */
struct matrices { const struct call *c; const struct matmul *g; uint64_t panel; int threads; };

static void matrices_part(void *ctx, int part, int parts)
{
    const struct matrices *j = ctx;
    const struct call *c = j->c;
    const struct matmul *g = j->g;
    char *panel = (char *)c->scratch + j->panel * (uint64_t)part;
    const struct gemm_epilogue ep = { .bias = c->node->bias, .act = c->node->act };
    int64_t packed = -1;
    for (int64_t i = g->batch * part / parts, end = g->batch * (part + 1) / parts; i < end; i++) {
        int64_t ao = batch_offset(c->in[0], g, i, g->row), bo = batch_offset(c->in[1], g, i, g->column);
        if (bo != packed) c->k->gemm_f32_pack(panel, (const float *)c->in[1]->data + bo, g->n, 1, g->k, g->n);
        packed = bo;
        c->k->gemm_f32((float *)c->out[0]->data + i * g->m * g->n, g->n, (const float *)c->in[0]->data + ao, g->k, panel, g->m, g->n, g->k, &ep, j->threads);
    }
}

static enum status eval_matmul(struct call *c, struct err *err)
{
    struct matmul g;
    enum status st = read_matmul(c, &g, err);
    if (st || c->out[0]->bytes == 0) return st;
    const float *a = c->in[0]->data;
    float *y = c->out[0]->data;
    struct gemm_epilogue ep = { .bias = c->node->bias, .act = c->node->act };
    if (c->in[0]->dtype == DT_F32 && c->in[1]->rank <= 2) {      /* one right side for all: one tall product */
        const void *packed = c->node->packed;
        if (c->node->linear) {
            linear_run(c->node->linear, y, g.n, a, g.k, g.m * g.batch, &ep, c->scratch, c->threads);
            return ST_OK;
        }
        if (c->node->sparse) {
            sparse_run(c->node->sparse, y, g.n, a, g.k, g.m * g.batch, &ep, c->scratch, c->threads);
            return ST_OK;
        }
        if (!packed) c->k->gemm_f32_pack(c->scratch, c->in[1]->data, g.n, 1, g.k, g.n);
        c->k->gemm_f32(y, g.n, a, g.k, packed ? packed : c->scratch, g.m * g.batch, g.n, g.k, &ep, c->threads);
        return ST_OK;
    }
    if (c->in[0]->dtype == DT_F32) {
        const bool apart = g.batch >= c->threads && c->threads > 1;
        struct matrices j = { c, &g, aligned(c->k->gemm_f32_packed_bytes(g.k, g.n)), apart ? 1 : c->threads };
        parallel_for(apart ? c->threads : 1, apart ? c->threads : 1, matrices_part, &j);
        return ST_OK;
    }
    for (int64_t i = 0; i < g.batch; i++) direct_product(c, &g, batch_offset(c->in[0], &g, i, g.row), batch_offset(c->in[1], &g, i, g.column), i * g.m * g.n);
    return ST_OK;
}

/* One right side for all, or one for each: batches that are broadcast in part go to the CPU. */
static void tasks_matmul(struct call *c, struct task_list *l)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    struct matmul g;
    struct gpu_task *t = task_add(l, GPU_PRODUCT);
    if (read_matmul(c, &g, NULL) || !dtype_is_real(a->dtype)) {
        task_refuse(l);
        return;
    }
    const int64_t of_a = g.row ? 1 : dims_product(a->dims, 0, a->rank - 2), of_b = g.column ? 1 : dims_product(b->dims, 0, b->rank - 2);
    if ((of_a != 1 && of_a != g.batch) || (of_b != 1 && of_b != g.batch)) task_refuse(l);
    struct gpu_product p = { .m = g.m, .n = g.n, .k = g.k, .batch = g.batch, .a_step = of_a == 1 ? 0 : g.m * g.k, .b_step = of_b == 1 ? 0 : g.k * g.n, .alpha = 1, .has_bias = c->node->bias != NULL, .act = c->node->act };
    if (of_b == 1 && of_a == g.batch) p.m *= g.batch, p.batch = 1, p.a_step = 0;
    t->u.product = p;
    task_value(l, t, a);
    task_value(l, t, b);
    task_value(l, t, c->out[0]);
    task_floats(l, t, c->node, 3, c->node->bias, (uint64_t)g.n, l->float_type);
    task_value(l, t, NULL);
}

static bool rows_matmul(const struct call *c)
{
    const struct operand *a = c->in[0], *b = c->in[1];
    if (call_any_tainted(c, 2) || (a->tainted && !a->batched) || (b->tainted && !b->batched) || !a->batched || a->rank < 2) return false;
    if (b->batched) return a->rank >= 3 && b->rank == a->rank;
    return b->rank < a->rank || a->rank == 2 || b->dims[0] == 1;
}

const struct op ops_matmul[] = {
    { "Gemm", "", 1, 0, 2, 3, 1, 1, 0, 0, infer_gemm, eval_gemm, scratch_gemm, NULL, NULL, rows_gemm, tasks_gemm },
    { "MatMul", "", 1, 0, 2, 2, 1, 1, 0, 0, infer_matmul, eval_matmul, scratch_matmul, NULL, NULL, rows_matmul, tasks_matmul },
    { 0 }
};
