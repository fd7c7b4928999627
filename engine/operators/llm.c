/* The plain operators of language models: tables, norms, rotation, gates. Attention is in llm_attention.c, mixtures of experts in llm_experts.c. Every
 * token is computed by itself, in an order that does not depend on how many there are. */
#include "engine/operators/llm.h"

#include <math.h>
#include <string.h>

/* Rows are all dimensions but the last. Numbers of one column (ids, positions) may have any rank too. */
static int64_t columns_of(const struct operand *o) { return o->rank >= 2 ? o->dims[o->rank - 1] : 0; }
static int64_t ids_of(const struct operand *o) { return (int64_t)operand_count(o); }
static int64_t tokens_of(const struct operand *o)
{
    int64_t n = o->rank ? o->dims[0] : 0;
    for (int d = 1; d < o->rank - 1; d++) n *= o->dims[d];
    return n;
}
/* Output `out` has the rows of `like` (all its dimensions when it holds ids) and so many columns. */
static enum status set_output_columns(struct call *c, int out, const struct operand *like, bool ids, int64_t columns, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX + 1];
    int rank = ids ? like->rank + 1 : like->rank;
    if (rank > TENSOR_RANK_MAX || rank < 1) return call_error(c, err, ST_INTERNAL, "its input has %d dimensions", like->rank);
    memcpy(dims, like->dims, (size_t)like->rank * sizeof *dims);
    dims[rank - 1] = columns;
    return call_set(c, out, DT_F32, dims, rank, err);
}
static enum status set_columns(struct call *c, const struct operand *like, bool ids, int64_t columns, struct err *err) { return set_output_columns(c, 0, like, ids, columns, err); }

/* ---- Embed ---- */
static enum status infer_embed(struct call *c, struct err *err)
{
    const struct embed_spec *s = c->node->spec;
    return set_columns(c, c->in[0], true, s->width, err);
}

static void embed_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct embed_spec *s = c->node->spec;
    const int32_t *ids = c->in[0]->data;
    int64_t t = ids_of(c->in[0]);
    for (int64_t i = t * part / parts; i < t * (part + 1) / parts; i++) {
        float *y = (float *)c->out[0]->data + i * s->width;
        int64_t row = ids[i] + s->shift;
        row = row < 0 ? 0 : row >= s->rows ? s->rows - 1 : row;      /* ids were checked when the request came; a padding token has 0 */
        s->format->decode(y, s->table + row * s->row_bytes, s->width);
        if (s->scale != 1)
            for (int64_t k = 0; k < s->width; k++) y[k] *= s->scale;
    }
}

static enum status eval_embed(struct call *c, struct err *err)
{
    (void)err;
    parallel_for(c->threads, c->threads, embed_part, c);
    return ST_OK;
}
const struct op op_embed = { "Embed", "inferd", 1, 0, 1, 1, 1, 1, 0, 0, infer_embed, eval_embed, NULL, NULL, NULL, NULL, tasks_embed };

/* ---- Linear ---- */
static enum status infer_linear(struct call *c, struct err *err)
{
    const struct linear_op_spec *s = c->node->spec;
    if (columns_of(c->in[0]) != s->k) return call_error(c, err, ST_INTERNAL, "it multiplies rows of %lld, but its input has %lld", (long long)s->k, (long long)columns_of(c->in[0]));
    return set_columns(c, c->in[0], false, s->n, err);
}

static uint64_t scratch_linear(const struct call *c) { return !c->node->linear ? 0 : linear_scratch(c->node->linear, tokens_of(c->in[0]), c->threads); }

static enum status eval_linear(struct call *c, struct err *err)
{
    const struct linear_op_spec *s = c->node->spec;
    const struct gemm_epilogue ep = { .bias = c->node->bias, .residual = c->in_count > 1 && c->in[1] ? c->in[1]->data : NULL, .ldr = s->n, .act = c->node->act };
    (void)err;
    linear_run(c->node->linear, c->out[0]->data, s->n, c->in[0]->data, s->k, tokens_of(c->in[0]), &ep, c->scratch, c->threads);
    return ST_OK;
}
const struct op op_linear = { "Linear", "inferd", 1, 0, 1, 2, 1, 1, 0, 0, infer_linear, eval_linear, scratch_linear, NULL, NULL, NULL, tasks_linear };

/* ---- Projections ---- */
static enum status infer_projections(struct call *c, struct err *err)
{
    const struct projections_spec *s = c->node->spec;
    enum status st = ST_OK;
    if (columns_of(c->in[0]) != s->k) return call_error(c, err, ST_INTERNAL, "it multiplies rows of %lld, but its input has %lld", (long long)s->k, (long long)columns_of(c->in[0]));
    for (int p = 0; p < (s->gated ? 1 : s->parts) && !st; p++) st = set_output_columns(c, p, c->in[0], false, s->n[p], err);
    return st;
}

static uint64_t gates_bytes(const struct call *c)
{
    const struct projections_spec *s = c->node->spec;
    return s->gated ? ((uint64_t)tokens_of(c->in[0]) * (uint64_t)s->n[0] * sizeof(float) + 63) & ~(uint64_t)63 : 0;
}

/* the sums that become gates; behind them what the layers need */
static uint64_t scratch_projections(const struct call *c)
{
    const struct projections_spec *s = c->node->spec;
    uint64_t most = 0;
    for (int p = 0; p < s->parts && s->linear[p]; p++) {
        const uint64_t bytes = linear_scratch(s->linear[p], tokens_of(c->in[0]), c->threads);
        if (bytes > most) most = bytes;
    }
    return most + gates_bytes(c);
}

static enum status eval_projections(struct call *c, struct err *err)
{
    const struct projections_spec *s = c->node->spec;
    const int64_t tokens = tokens_of(c->in[0]);
    float *gates = c->scratch, *y = c->out[0]->data;
    struct gemm_epilogue ep[GPU_PARTS];
    struct linear_part parts[GPU_PARTS];
    (void)err;
    for (int p = 0; p < s->parts; p++) {
        ep[p] = (struct gemm_epilogue){ .bias = s->bias[p], .act = { .kind = ACT_NONE } };
        parts[p] = (struct linear_part){ .layer = s->linear[p], .y = !s->gated ? c->out[p]->data : p ? y : gates, .ldy = s->n[p], .ep = ep + p };
    }
    linear_run_parts(parts, s->parts, c->in[0]->data, s->k, tokens, (char *)c->scratch + gates_bytes(c), c->threads);
    if (s->gated) c->llm->gate_f32(y, s->n[0], gates, s->n[0], y, s->n[0], tokens, s->n[0], s->gate.kind, s->gate.limit, c->threads);
    return ST_OK;
}
const struct op op_projections = { "Projections", "inferd", 1, 0, 1, 1, 1, GPU_PARTS, 0, 0, infer_projections, eval_projections, scratch_projections, NULL, NULL, NULL, tasks_projections };

/* ---- Norm ---- */
static enum status infer_like(struct call *c, struct err *err) { return set_columns(c, c->in[0], false, columns_of(c->in[0]), err); }

static void norm_group(float *y, const float *x, int64_t n, const struct norm_spec *s, const float *scale, const float *bias)
{
    double mean = 0, squares = 0;
    if (s->layer) {
        for (int64_t i = 0; i < n; i++) mean += (double)x[i];
        mean /= (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - mean;
        squares += d * d;
    }
    float factor = (float)(1 / sqrt(squares / (double)n + (double)s->epsilon)), m = (float)mean;
    for (int64_t i = 0; i < n; i++) {
        float v = (x[i] - m) * factor;
        if (scale) v *= scale[i];
        y[i] = bias ? v + bias[i] : v;
    }
}

static void norm_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct norm_spec *s = c->node->spec;
    int64_t t = tokens_of(c->in[0]), columns = columns_of(c->in[0]);
    for (int64_t r = t * part / parts; r < t * (part + 1) / parts; r++)
        for (int64_t k = 0; k + s->width <= columns; k += s->width) {
            int64_t at = r * columns + k;
            norm_group((float *)c->out[0]->data + at, (const float *)c->in[0]->data + at, s->width, s, s->scale ? s->scale + (s->whole ? k : 0) : NULL, s->bias ? s->bias + (s->whole ? k : 0) : NULL);
        }
}

static enum status eval_norm(struct call *c, struct err *err)
{
    const struct norm_spec *s = c->node->spec;
    int64_t groups = s->width ? (int64_t)operand_count(c->in[0]) / s->width : 0;
    (void)err;
    if (!s->whole && !s->layer && !s->bias) {
        c->llm->rms_norm_f32(c->out[0]->data, s->width, c->in[0]->data, s->width, s->scale, groups, s->width, s->epsilon, c->threads);
        return ST_OK;
    }
    if (!s->whole && s->layer) {
        c->k->layer_norm_f32(c->out[0]->data, c->in[0]->data, s->scale, s->bias, groups, s->width, s->epsilon, c->threads);
        return ST_OK;
    }
    parallel_for(c->threads, c->threads, norm_part, c);
    return ST_OK;
}
const struct op op_norm = { "Norm", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE, 0, infer_like, eval_norm, NULL, NULL, NULL, NULL, tasks_norm };

/* ---- RopeTable, Rope ---- */
static enum status infer_rope_table(struct call *c, struct err *err)
{
    const struct rope_table_spec *s = c->node->spec;
    return set_columns(c, c->in[0], true, s->rotary, err);
}

static enum status eval_rope_table(struct call *c, struct err *err)
{
    const struct rope_table_spec *s = c->node->spec;
    const int32_t *positions = c->in[0]->data;
    int half = s->rotary / 2;
    float *y = c->out[0]->data;
    (void)err;
    for (int64_t t = 0; t < ids_of(c->in[0]); t++, y += s->rotary) {
        bool lengthened = s->frequency_long && positions[t] & ROPE_LONG;
        const float *f = lengthened ? s->frequency_long : s->frequency, factor = lengthened ? s->factor_long : s->factor;
        float p = (float)(positions[t] & ~ROPE_LONG);
        for (int i = 0; i < half; i++) {
            y[i] = cosf(p * f[i]) * factor;
            y[half + i] = sinf(p * f[i]) * factor;
        }
    }
    return ST_OK;
}
const struct op op_rope_table = { "RopeTable", "inferd", 1, 0, 1, 1, 1, 1, 0, 0, infer_rope_table, eval_rope_table, NULL, NULL, NULL, NULL, tasks_rope_table };

static void rope_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct rope_op_spec *s = c->node->spec;
    int64_t t = tokens_of(c->in[0]), columns = columns_of(c->in[0]);
    int half = s->rotary / 2, a = s->adjacent ? 2 : 1, b = s->adjacent ? 1 : half;      /* pair i: elements i * a and i * a + b */
    for (int64_t r = t * part / parts; r < t * (part + 1) / parts; r++) {
        const float *cosine = (const float *)c->in[1]->data + r * s->rotary, *sine = cosine + half;
        float *row = (float *)c->out[0]->data + r * columns;
        if (row != (const float *)c->in[0]->data + r * columns) memcpy(row, (const float *)c->in[0]->data + r * columns, (size_t)columns * sizeof *row);
        for (int64_t h = 0; h < s->heads; h++) {
            float *x = row + s->column + h * s->head_dim;
            for (int i = 0; i < half; i++) {
                float u = x[i * a], v = x[i * a + b];
                x[i * a] = u * cosine[i] - v * sine[i];
                x[i * a + b] = v * cosine[i] + u * sine[i];
            }
        }
    }
}

static enum status eval_rope(struct call *c, struct err *err)
{
    (void)err;
    parallel_for(c->threads, c->threads, rope_part, c);
    return ST_OK;
}
const struct op op_rope = { "Rope", "inferd", 1, 0, 2, 2, 1, 1, OP_INPLACE, 0, infer_like, eval_rope, NULL, NULL, NULL, NULL, NULL };

/* ---- Gate ---- */
static enum status infer_gate(struct call *c, struct err *err)
{
    bool both = c->in_count < 2 || !c->in[1];
    return set_columns(c, c->in[0], false, columns_of(c->in[0]) / (both ? 2 : 1), err);
}

static enum status eval_gate(struct call *c, struct err *err)
{
    const struct gate_spec *s = c->node->spec;
    int64_t t = tokens_of(c->in[0]), n = columns_of(c->out[0]);
    const bool both = c->in_count < 2 || !c->in[1];
    const float *x = c->in[0]->data, *gate = both && s->up_first ? x + n : x, *up = !both ? c->in[1]->data : s->up_first ? x : x + n;
    int64_t ld = columns_of(c->in[0]);
    (void)err;
    c->llm->gate_f32(c->out[0]->data, n, gate, ld, up, ld, t, n, s->kind, s->limit, c->threads);
    return ST_OK;
}
const struct op op_gate = { "Gate", "inferd", 1, 0, 1, 2, 1, 1, OP_INPLACE, 0, infer_gate, eval_gate, NULL, NULL, NULL, NULL, tasks_gate };

/* ---- TakeRows ---- */
static enum status infer_take_rows(struct call *c, struct err *err) { return set_columns(c, c->in[1], true, columns_of(c->in[0]), err); }

static enum status eval_take_rows(struct call *c, struct err *err)
{
    const int32_t *wanted = c->in[1]->data;
    int64_t t = tokens_of(c->in[0]), n = columns_of(c->in[0]);
    for (int64_t i = 0; i < ids_of(c->in[1]); i++) {
        if (wanted[i] < 0 || wanted[i] >= t) return call_error(c, err, ST_INTERNAL, "row %d of %lld is asked for", wanted[i], (long long)t);
        memcpy((float *)c->out[0]->data + i * n, (const float *)c->in[0]->data + wanted[i] * n, (size_t)n * sizeof(float));
    }
    return ST_OK;
}
const struct op op_take_rows = { "TakeRows", "inferd", 1, 0, 2, 2, 1, 1, 0, 0, infer_take_rows, eval_take_rows, NULL, NULL, NULL, NULL, tasks_take_rows };

/* ---- element by element ---- */
enum { CODE_CLIP, CODE_SOFTCAP, CODE_SCALE };
static enum status eval_limit(struct call *c, struct err *err)
{
    const struct limit_spec *s = c->node->spec;
    const float *x = c->in[0]->data;
    float *y = c->out[0]->data, l = s->limit;
    int64_t n = (int64_t)operand_count(c->in[0]);
    (void)err;
    switch (c->node->op->code) {
    case CODE_CLIP:
        for (int64_t i = 0; i < n; i++) y[i] = x[i] > l ? l : x[i] < -l ? -l : x[i];
        break;
    case CODE_SOFTCAP:
        for (int64_t i = 0; i < n; i++) y[i] = x[i] / l;
        c->k->activate_f32(y, y, n, (struct activation_spec){ ACT_TANH, 0, 0 }, c->threads);
        for (int64_t i = 0; i < n; i++) y[i] *= l;
        break;
    default:
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * l;
    }
    return ST_OK;
}
const struct op op_clip = { "Clip", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE, CODE_CLIP, infer_like, eval_limit, NULL, NULL, NULL, NULL, tasks_clip };
const struct op op_softcap = { "Softcap", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE, CODE_SOFTCAP, infer_like, eval_limit, NULL, NULL, NULL, NULL, tasks_softcap };
const struct op op_scale = { "Scale", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE, CODE_SCALE, infer_like, eval_limit, NULL, NULL, NULL, NULL, tasks_scale };

static enum status eval_sum(struct call *c, struct err *err)
{
    (void)err;
    c->k->add_f32(c->out[0]->data, c->in[0]->data, c->in[1]->data, (int64_t)operand_count(c->in[0]), c->threads);
    return ST_OK;
}
const struct op op_sum = { "Sum", "inferd", 1, 0, 2, 2, 1, 1, OP_INPLACE, 0, infer_like, eval_sum, NULL, NULL, NULL, NULL, tasks_sum };

static enum status eval_shared(struct call *c, struct err *err)
{
    int64_t t = tokens_of(c->in[0]), n = columns_of(c->in[0]);
    const float *x = c->in[0]->data, *gate = c->in[1]->data, *z = c->in[2]->data;
    float *y = c->out[0]->data;
    (void)err;
    for (int64_t r = 0; r < t; r++) {
        float s = 1 / (1 + expf(-gate[r]));
        for (int64_t k = 0; k < n; k++) y[r * n + k] = x[r * n + k] * s + z[r * n + k];
    }
    return ST_OK;
}
const struct op op_shared = { "Shared", "inferd", 1, 0, 3, 3, 1, 1, OP_INPLACE, 0, infer_like, eval_shared, NULL, NULL, NULL, NULL, tasks_shared };
