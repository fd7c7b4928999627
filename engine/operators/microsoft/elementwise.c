/* com.microsoft: GELUs, normalisations with a skip connection, embeddings. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

static int64_t last_dim(const struct operand *o) { return o->rank ? o->dims[o->rank - 1] : 1; }

static bool is_row(const struct operand *o, int64_t n) { return !o || (dtype_is_real(o->dtype) && operand_count(o) == (uint64_t)n); }

/* ---- Gelu, FastGelu(x, bias), BiasGelu(x, bias), QuickGelu ---- */
enum gelu { G_EXACT, G_FAST, G_QUICK };

static enum status infer_gelu(struct call *c, struct err *err)
{
    if (!dtype_is_real(c->in[0]->dtype) || !is_row(call_input(c, 1), last_dim(c->in[0]))) return call_error(c, err, ST_BAD_INPUT, "its bias does not fit the last dimension");
    return infer_same(c, err);
}

static enum status eval_gelu(struct call *c, struct err *err)
{
    struct reals r;
    int64_t n = last_dim(c->in[0]);
    double alpha = (double)node_float(c->node, "alpha", 1.702f);
    (void)err;
    reals_begin(&r, c);
    for (int64_t k = 0, count = (int64_t)operand_count(c->in[0]); k < count; k++) {
        double x = r.in[0][k] + (call_input(c, 1) ? r.in[1][k % n] : 0);
        switch (c->node->op->code) {
        case G_EXACT: r.out[0][k] = 0.5 * x * (1 + erf(x * 0.7071067811865476)); break;
        case G_FAST: r.out[0][k] = 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); break;
        default: r.out[0][k] = x / (1 + exp(-alpha * x));
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- SkipLayerNormalization(x, skip, gamma, beta, bias), its simplified form (no mean, no beta), SimplifiedLayerNormalization(x, scale) ---- */
enum norm { N_SKIP, N_SKIP_SIMPLE, N_SIMPLE };
struct parts { int skip, gamma, beta, bias, sum_out; bool centred; };
static const struct parts parts_of[] = { { 1, 2, 3, 4, 3, true }, { 1, 2, -1, 3, 3, false }, { -1, 1, -1, -1, -1, false } };

static const struct operand *part(const struct call *c, int i) { return i < 0 ? NULL : call_input(c, i); }

static enum status infer_norm(struct call *c, struct err *err)
{
    const struct parts *p = &parts_of[c->node->op->code];
    const struct operand *x = c->in[0], *skip = part(c, p->skip);
    int64_t n = last_dim(x);
    bool fits = x->rank >= 1 && dtype_is_real(x->dtype) && is_row(c->in[p->gamma], n) && is_row(part(c, p->beta), n) && is_row(part(c, p->bias), n);
    uint64_t count = operand_count(x);
    if (fits && skip) fits = dtype_is_real(skip->dtype) && last_dim(skip) == n && operand_count(skip) > 0 && count % operand_count(skip) == 0;
    if (p->skip < 0 && node_int(c->node, "axis", -1) != -1 && node_int(c->node, "axis", -1) != x->rank - 1) return call_error(c, err, ST_UNSUPPORTED, "it is computed over the last dimension only");
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "skip, scale or bias do not fit the input");
    enum status st = infer_same(c, err);
    for (int i = 1; i < c->out_count && !st; i++) {
        int64_t dims[TENSOR_RANK_MAX];
        memcpy(dims, x->dims, sizeof dims);
        if (i < 3) dims[x->rank - 1] = 1;
        st = call_set(c, i, i < 3 ? DT_F32 : x->dtype, dims, x->rank, err);
    }
    return st;
}

static enum status eval_norm(struct call *c, struct err *err)
{
    const struct parts *p = &parts_of[c->node->op->code];
    struct reals r;
    int64_t n = last_dim(c->in[0]), rows = n ? (int64_t)operand_count(c->in[0]) / n : 0, skips = part(c, p->skip) ? (int64_t)operand_count(part(c, p->skip)) : 1;
    double epsilon = (double)node_float(c->node, "epsilon", p->skip < 0 ? 1e-5f : 1e-12f);
    (void)err;
    reals_begin(&r, c);
    for (int64_t row = 0; row < rows; row++) {
        double *x = r.in[0] + row * n, mean = 0, square = 0;
        for (int64_t k = 0; k < n; k++) {
            if (part(c, p->skip)) x[k] += r.in[p->skip][(row * n + k) % skips];
            if (part(c, p->bias)) x[k] += r.in[p->bias][k];
            mean += p->centred ? x[k] / (double)n : 0;
        }
        for (int64_t k = 0; k < n; k++) square += (x[k] - mean) * (x[k] - mean) / (double)n;
        double scale = 1 / sqrt(square + epsilon);
        for (int64_t k = 0; k < n; k++) r.out[0][row * n + k] = (x[k] - mean) * scale * r.in[p->gamma][k] + (part(c, p->beta) ? r.in[p->beta][k] : 0);
        if (c->out_count > 1 && r.out[1]) r.out[1][row] = p->sum_out < 0 ? scale : mean;
        if (c->out_count > 2 && r.out[2]) r.out[2][row] = scale;
        if (c->out_count > 3 && r.out[3]) memcpy(r.out[3] + row * n, x, (size_t)n * sizeof *x);
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- EmbedLayerNormalization(ids, segments, words, positions, segment table, gamma, beta, mask, position ids) -> y, mask index, sum ---- */
static enum status infer_embed(struct call *c, struct err *err)
{
    const struct operand *ids = c->in[0], *seg = c->in[1], *words = c->in[2], *mask = call_input(c, 7), *at = call_input(c, 8);
    if (!ids || !words || !c->in[3] || !c->in[5] || !c->in[6]) return call_error(c, err, ST_BAD_INPUT, "ids, tables, gamma or beta are missing");
    bool fits = ids->dtype == DT_I32 && ids->rank == 2 && words->rank == 2 && c->in[3]->rank == 2 && (!seg || (seg->dtype == DT_I32 && operand_count(seg) == operand_count(ids) && c->in[4] && c->in[4]->rank == 2)) && dtype_is_real(words->dtype);
    int64_t n = fits ? words->dims[1] : 0;
    fits = fits && c->in[3]->dims[1] == n && (!c->in[4] || c->in[4]->dims[1] == n) && is_row(c->in[5], n) && is_row(c->in[6], n) && (!mask || (mask->dtype == DT_I32 && operand_count(mask) == operand_count(ids))) && (!at || (at->dtype == DT_I32 && at->rank == 2 && at->dims[1] == ids->dims[1]));
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "ids and tables do not fit each other");
    int64_t dims[3] = { ids->dims[0], ids->dims[1], n };
    enum status st = call_set(c, 0, words->dtype, dims, 3, err);
    if (!st && c->out_count > 1) st = call_set(c, 1, DT_I32, dims, 1, err);
    return st || c->out_count < 3 ? st : call_set(c, 2, words->dtype, dims, 3, err);
}

static enum status eval_embed(struct call *c, struct err *err)
{
    const struct operand *ids = c->in[0], *seg = c->in[1], *mask = call_input(c, 7), *at = call_input(c, 8);
    int64_t n = c->in[2]->dims[1], length = ids->dims[1];
    double epsilon = (double)node_float(c->node, "epsilon", 1e-12f);
    for (int64_t row = 0; row < ids->dims[0] * length; row++) {
        int64_t t = row % length, place[3] = { operand_int(ids, (uint64_t)row), at ? operand_int(at, (uint64_t)(at->dims[0] == 1 ? t : row)) : t, seg ? operand_int(seg, (uint64_t)row) : 0 };
        double mean = 0, square = 0;
        for (int i = 0; i < 3; i++)
            if ((i < 2 || seg) && (place[i] < 0 || place[i] >= c->in[2 + i]->dims[0])) return call_error(c, err, ST_BAD_INPUT, "id %lld is not in its table", (long long)place[i]);
        double *x = (double *)c->scratch;
        for (int64_t k = 0; k < n; k++) {
            x[k] = operand_real(c->in[2], (uint64_t)(place[0] * n + k)) + operand_real(c->in[3], (uint64_t)(place[1] * n + k)) + (seg ? operand_real(c->in[4], (uint64_t)(place[2] * n + k)) : 0);
            mean += x[k] / (double)n;
        }
        for (int64_t k = 0; k < n; k++) square += (x[k] - mean) * (x[k] - mean) / (double)n;
        for (int64_t k = 0; k < n; k++) {
            if (c->out[0]) operand_real_put(c->out[0], (uint64_t)(row * n + k), (x[k] - mean) / sqrt(square + epsilon) * operand_real(c->in[5], (uint64_t)k) + operand_real(c->in[6], (uint64_t)k));
            if (c->out_count > 2 && c->out[2]) operand_real_put(c->out[2], (uint64_t)(row * n + k), x[k]);
        }
    }
    for (int64_t b = 0; b < ids->dims[0] && c->out_count > 1 && c->out[1]; b++) {      /* where a row's first masked place is */
        int64_t sum = 0;
        for (int64_t t = 0; mask && t < length && operand_int(mask, (uint64_t)(b * length + t)) == 1; t++) sum = t + 1;
        operand_int_put(c->out[1], (uint64_t)b, sum);
    }
    return ST_OK;
}

static uint64_t scratch_embed(const struct call *c) { return ((uint64_t)c->in[2]->dims[1] + 1) * sizeof(double); }

#define MS(name, ins_min, ins, outs, code, infer, eval, rows) { name, "com.microsoft", 1, 0, ins_min, ins, 1, outs, 0, code, infer, eval, reals_scratch, NULL, NULL, rows, NULL }
const struct op ops_ms_elementwise[] = {
    MS("Gelu", 1, 1, 1, G_EXACT, infer_gelu, eval_gelu, rows_apart), MS("BiasGelu", 2, 2, 1, G_EXACT, infer_gelu, eval_gelu, rows_apart), MS("FastGelu", 1, 2, 1, G_FAST, infer_gelu, eval_gelu, rows_apart), MS("QuickGelu", 1, 1, 1, G_QUICK, infer_gelu, eval_gelu, rows_apart),
    MS("SkipLayerNormalization", 3, 5, 4, N_SKIP, infer_norm, eval_norm, NULL), MS("SkipSimplifiedLayerNormalization", 3, 4, 4, N_SKIP_SIMPLE, infer_norm, eval_norm, NULL),
    { "SimplifiedLayerNormalization", "", 1, 0, 2, 2, 1, 2, 0, N_SIMPLE, infer_norm, eval_norm, reals_scratch, NULL, NULL, rows_apart, NULL },
    { "EmbedLayerNormalization", "com.microsoft", 1, 0, 7, 9, 1, 3, OP_HOLES, 0, infer_embed, eval_embed, scratch_embed, NULL, NULL, NULL, NULL },
    { 0 }
};
