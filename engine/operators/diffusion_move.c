/* The operators of networks that draw which move numbers about, or scale them by a condition of the whole picture. */
#include <math.h>
#include <string.h>

#include "engine/operators/diffusion.h"
#include "engine/operators/operators.h"

static int64_t last_of(const struct operand *o) { return o->rank ? o->dims[o->rank - 1] : 0; }

static enum status infer_same_shape(struct call *c, struct err *err) { return call_set(c, 0, DT_F32, c->in[0]->dims, c->in[0]->rank, err); }

/* ---- Join, Part ---- */
static enum status infer_join(struct call *c, struct err *err)
{
    const struct join_spec *s = c->node->spec;
    const struct operand *a = c->in[0], *b = c->in[1];
    int64_t dims[TENSOR_RANK_MAX];
    bool fits = a->rank == b->rank && s->axis < a->rank;
    for (int d = 0; fits && d < a->rank; d++) fits = d == s->axis || a->dims[d] == b->dims[d];
    if (!fits) {
        char x[80], y[80];
        return call_error(c, err, ST_BAD_INPUT, "%s and %s cannot be joined", shape_text(a->dims, a->rank, x, sizeof x), shape_text(b->dims, b->rank, y, sizeof y));
    }
    memcpy(dims, a->dims, (size_t)a->rank * sizeof *dims);
    dims[s->axis] += b->dims[s->axis];
    return call_set(c, 0, DT_F32, dims, a->rank, err);
}

static void join_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct join_spec *s = c->node->spec;
    const struct operand *a = c->in[0], *b = c->in[1];
    const int64_t rows = dims_product(a->dims, 0, s->axis), na = dims_product(a->dims, s->axis, a->rank), nb = dims_product(b->dims, s->axis, b->rank);
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
        float *y = (float *)c->out[0]->data + r * (na + nb);
        memcpy(y, (const float *)a->data + r * na, (size_t)na * sizeof *y);
        memcpy(y + na, (const float *)b->data + r * nb, (size_t)nb * sizeof *y);
    }
}

static enum status eval_join(struct call *c, struct err *err)
{
    (void)err;
    parallel_for(c->threads, c->threads, join_part, c);
    return ST_OK;
}
const struct op op_join = { "Join", "inferd", 1, 0, 2, 2, 1, 1, 0, 0, infer_join, eval_join, NULL, NULL, NULL, NULL, tasks_join };

static int64_t part_first(const struct call *c, int64_t *count)
{
    const struct part_spec *s = c->node->spec;
    *count = s->count >= 0 ? s->count : c->in[1]->dims[s->axis];
    return s->first >= 0 ? s->first : c->in[0]->dims[s->axis] - *count;
}

static enum status infer_part(struct call *c, struct err *err)
{
    const struct part_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    int64_t dims[TENSOR_RANK_MAX], count, first = part_first(c, &count);
    if (s->axis >= x->rank || first < 0 || first + count > x->dims[s->axis]) return call_error(c, err, ST_INTERNAL, "a part beyond the end of its input");
    memcpy(dims, x->dims, (size_t)x->rank * sizeof *dims);
    dims[s->axis] = count;
    return call_set(c, 0, DT_F32, dims, x->rank, err);
}

static enum status eval_part(struct call *c, struct err *err)
{
    const struct part_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    int64_t count, first = part_first(c, &count);
    const int64_t rows = dims_product(x->dims, 0, s->axis), inner = dims_product(x->dims, s->axis + 1, x->rank), each = x->dims[s->axis] * inner;
    (void)err;
    for (int64_t r = 0; r < rows; r++) memcpy((float *)c->out[0]->data + r * count * inner, (const float *)x->data + r * each + first * inner, (size_t)(count * inner) * sizeof(float));
    return ST_OK;
}
const struct op op_part = { "Part", "inferd", 1, 0, 1, 2, 1, 1, 0, 0, infer_part, eval_part, NULL, NULL, NULL, NULL, tasks_part };

/* ---- TimeEmbed ---- */
static enum status infer_time_embed(struct call *c, struct err *err)
{
    const struct time_embed_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    int64_t each = dims_product(x->dims, 1, x->rank);
    return call_set(c, 0, DT_F32, (int64_t[]){ x->dims[0], each * s->dim }, 2, err);
}

static enum status eval_time_embed(struct call *c, struct err *err)
{
    const struct time_embed_spec *s = c->node->spec;
    const float *t = c->in[0]->data;
    float *y = c->out[0]->data;
    const int half = s->dim / 2;
    const uint64_t n = operand_count(c->in[0]);
    (void)err;
    for (uint64_t k = 0; k < n; k++, y += s->dim) {
        if (s->dim % 2) y[s->dim - 1] = 0;
        for (int i = 0; i < half; i++) {
            float f = s->frequencies ? s->frequencies[i] : expf((float)(-log((double)s->base) * i / ((double)half - (double)s->shift))), a = s->scale * (t[k] * f);
            y[i] = s->cosines_first ? cosf(a) : sinf(a);
            y[half + i] = s->cosines_first ? sinf(a) : cosf(a);
        }
    }
    return ST_OK;
}
const struct op op_time_embed = { "TimeEmbed", "inferd", 1, 0, 1, 1, 1, 1, 0, 0, infer_time_embed, eval_time_embed, NULL, NULL, NULL, NULL, NULL };

/* ---- Act, Product ---- */
static enum status eval_act(struct call *c, struct err *err)
{
    (void)err;
    c->k->activate_f32(c->out[0]->data, c->in[0]->data, (int64_t)operand_count(c->in[0]), c->node->act, c->threads);
    return ST_OK;
}
const struct op op_act = { "Act", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE, 0, infer_same_shape, eval_act, NULL, NULL, NULL, NULL, tasks_act };

static enum status eval_product(struct call *c, struct err *err)
{
    (void)err;
    c->k->mul_f32(c->out[0]->data, c->in[0]->data, c->in[1]->data, (int64_t)operand_count(c->in[0]), c->threads);
    return ST_OK;
}
const struct op op_product = { "Product", "inferd", 1, 0, 2, 2, 1, 1, OP_INPLACE, 0, infer_same_shape, eval_product, NULL, NULL, NULL, NULL, tasks_product };

/* ---- Modulate, Gated ---- */
static void modulate_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct modulate_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *m = c->in[1];
    const int64_t channels = last_of(x), rows = dims_product(x->dims, 0, x->rank - 1), each = dims_product(x->dims, 1, x->rank - 1);
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
        const float *from = (const float *)x->data + r * channels, *row = (const float *)m->data + r / each * last_of(m);
        const float *scale = s->scale >= 0 ? row + s->scale : NULL, *shift = s->shift >= 0 ? row + s->shift : NULL;
        float *y = (float *)c->out[0]->data + r * channels;
        for (int64_t k = 0; k < channels; k++) y[k] = from[k] * (scale ? 1 + scale[k] : 1) + (shift ? shift[k] : 0);
    }
}

static enum status eval_modulate(struct call *c, struct err *err)
{
    const struct modulate_spec *s = c->node->spec;
    int64_t most = (s->scale > s->shift ? s->scale : s->shift) + last_of(c->in[0]);
    if (last_of(c->in[1]) < most || c->in[1]->dims[0] != c->in[0]->dims[0]) return call_error(c, err, ST_INTERNAL, "its condition is too short");
    parallel_for(c->threads, c->threads, modulate_part, c);
    return ST_OK;
}
const struct op op_modulate = { "Modulate", "inferd", 1, 0, 2, 2, 1, 1, OP_INPLACE, 0, infer_same_shape, eval_modulate, NULL, NULL, NULL, NULL, tasks_modulate };

static void gated_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct gated_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *m = c->in[2];
    const int64_t channels = last_of(x), rows = dims_product(x->dims, 0, x->rank - 1), each = dims_product(x->dims, 1, x->rank - 1);
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
        const float *from = (const float *)x->data + r * channels, *more = (const float *)c->in[1]->data + r * channels, *gate = (const float *)m->data + r / each * last_of(m) + s->gate;
        float *y = (float *)c->out[0]->data + r * channels;
        for (int64_t k = 0; k < channels; k++) y[k] = from[k] + gate[k] * more[k];
    }
}

static enum status eval_gated(struct call *c, struct err *err)
{
    const struct gated_spec *s = c->node->spec;
    if (last_of(c->in[2]) < s->gate + last_of(c->in[0]) || c->in[2]->dims[0] != c->in[0]->dims[0]) return call_error(c, err, ST_INTERNAL, "its condition is too short");
    parallel_for(c->threads, c->threads, gated_part, c);
    return ST_OK;
}
const struct op op_gated = { "Gated", "inferd", 1, 0, 3, 3, 1, 1, OP_INPLACE, 0, infer_same_shape, eval_gated, NULL, NULL, NULL, NULL, tasks_gated };

/* ---- Patch, Unpatch ---- */
static enum status infer_patch(struct call *c, struct err *err)
{
    const struct patch_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    const int64_t p = s->side;
    if (x->rank != 4 || x->dims[1] % p || x->dims[2] % p) return call_error(c, err, ST_BAD_INPUT, "a picture of %lld x %lld cannot be cut into patches of %lld", (long long)x->dims[1], (long long)x->dims[2], (long long)p);
    return call_set(c, 0, DT_F32, (int64_t[]){ x->dims[0], x->dims[1] / p, x->dims[2] / p, x->dims[3] * p * p }, 4, err);
}

static enum status infer_unpatch(struct call *c, struct err *err)
{
    const struct patch_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    const int64_t p = s->side;
    if (x->rank != 4 || x->dims[3] % (p * p)) return call_error(c, err, ST_INTERNAL, "%lld channels are no patches of %lld", (long long)last_of(x), (long long)p);
    return call_set(c, 0, DT_F32, (int64_t[]){ x->dims[0], x->dims[1] * p, x->dims[2] * p, x->dims[3] / (p * p) }, 4, err);
}

/* Both: pictures [n, h p, w p, c] beside patches [n, h, w, p p c]. */
static enum status eval_patches(struct call *c, struct err *err)
{
    const struct patch_spec *s = c->node->spec;
    const bool cut = c->node->op->code;
    const struct operand *picture = cut ? c->in[0] : c->out[0], *patches = cut ? c->out[0] : c->in[0];
    const int64_t p = s->side, h = patches->dims[1], w = patches->dims[2], ch = picture->dims[3];
    (void)err;
    for (int64_t n = 0; n < picture->dims[0]; n++)
        for (int64_t y = 0; y < h * p; y++)
            for (int64_t x = 0; x < w; x++) {
                float *a = (float *)picture->data + (((n * h * p) + y) * w * p + x * p) * ch, *b = (float *)patches->data + (((n * h + y / p) * w + x) * p + y % p) * p * ch;
                if (!s->by_channel) {
                    memcpy(cut ? b : a, cut ? a : b, (size_t)(p * ch) * sizeof *a);
                    continue;
                }
                b = (float *)patches->data + ((n * h + y / p) * w + x) * p * p * ch + y % p * p;
                for (int64_t q = 0; q < p; q++)
                    for (int64_t k = 0; k < ch; k++) {
                        float *from = cut ? a + q * ch + k : b + k * p * p + q, *to = cut ? b + k * p * p + q : a + q * ch + k;
                        *to = *from;
                    }
            }
    return ST_OK;
}
const struct op op_patch = { "Patch", "inferd", 1, 0, 1, 1, 1, 1, 0, 1, infer_patch, eval_patches, NULL, NULL, NULL, NULL, tasks_patches };
const struct op op_unpatch = { "Unpatch", "inferd", 1, 0, 1, 1, 1, 1, 0, 0, infer_unpatch, eval_patches, NULL, NULL, NULL, NULL, tasks_patches };

/* ---- AddPositions ---- */
static enum status infer_positions(struct call *c, struct err *err)
{
    const struct positions_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    if (x->rank != 4 || x->dims[1] > s->side || x->dims[2] > s->side) return call_error(c, err, ST_BAD_INPUT, "a picture of %lld x %lld patches is larger than the %lld whose places it knows", (long long)x->dims[1], (long long)x->dims[2], (long long)s->side);
    return infer_same_shape(c, err);
}

static enum status eval_positions(struct call *c, struct err *err)
{
    const struct positions_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    const int64_t h = x->dims[1], w = x->dims[2], row = w * x->dims[3], top = (s->side - h) / 2, left = (s->side - w) / 2;
    (void)err;
    for (int64_t r = 0; r < x->dims[0] * h; r++)
        c->k->add_f32((float *)c->out[0]->data + r * row, (const float *)x->data + r * row, s->table + ((top + r % h) * s->side + left) * x->dims[3], row, 1);
    return ST_OK;
}
const struct op op_add_positions = { "AddPositions", "inferd", 1, 0, 1, 1, 1, 1, OP_INPLACE, 0, infer_positions, eval_positions, NULL, NULL, NULL, NULL, tasks_add_positions };

/* ---- AsTokens ---- */
static enum status infer_as_tokens(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *like = c->in_count > 1 ? c->in[1] : NULL;
    int64_t dims[TENSOR_RANK_MAX];
    if (!like) return call_set(c, 0, DT_F32, (int64_t[]){ x->dims[0], dims_product(x->dims, 1, x->rank - 1), last_of(x) }, 3, err);
    memcpy(dims, like->dims, (size_t)like->rank * sizeof *dims);
    dims[like->rank - 1] = last_of(x);
    if (dims_product(dims, 0, like->rank) != dims_product(x->dims, 0, x->rank)) return call_error(c, err, ST_INTERNAL, "its two inputs have not the same rows");
    return call_set(c, 0, DT_F32, dims, like->rank, err);
}

static enum status eval_nothing(struct call *c, struct err *err)
{
    (void)c;
    (void)err;
    return ST_OK;
}
const struct op op_as_tokens = { "AsTokens", "inferd", 1, 0, 1, 2, 1, 1, OP_VIEW, 0, infer_as_tokens, eval_nothing, NULL, NULL, NULL, NULL, tasks_as_tokens };

/* ---- RopePairs ---- */
static void rope_pairs_part(void *ctx, int part, int parts)
{
    const struct call *c = ctx;
    const struct rope_pairs_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *table = c->in[1];
    const int64_t columns = last_of(x), rows = dims_product(x->dims, 0, x->rank - 1), tokens = dims_product(x->dims, 1, x->rank - 1);
    const int half = (int)last_of(table) / 2;
    for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
        const float *cosine = (const float *)table->data + r % tokens * 2 * half, *sine = cosine + half;
        float *y = (float *)c->out[0]->data + r * columns;
        if (c->out[0]->data != x->data) memcpy(y, (const float *)x->data + r * columns, (size_t)columns * sizeof *y);
        for (int h = 0; h < s->heads; h++) {
            float *v = y + s->column + (int64_t)h * s->head_dim;
            for (int i = 0; i < half; i++) {
                const float a = v[2 * i], b = v[2 * i + 1];
                v[2 * i] = a * cosine[i] - b * sine[i];
                v[2 * i + 1] = b * cosine[i] + a * sine[i];
            }
        }
    }
}

static enum status eval_rope_pairs(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *table = c->in[1];
    if (table->dims[0] != dims_product(x->dims, 1, x->rank - 1)) return call_error(c, err, ST_INTERNAL, "its table has %lld rows for %lld tokens", (long long)table->dims[0], (long long)dims_product(x->dims, 1, x->rank - 1));
    parallel_for(c->threads, c->threads, rope_pairs_part, c);
    return ST_OK;
}
const struct op op_rope_pairs = { "RopePairs", "inferd", 1, 0, 2, 2, 1, 1, OP_INPLACE, 0, infer_same_shape, eval_rope_pairs, NULL, NULL, NULL, NULL, tasks_rope_pairs };
