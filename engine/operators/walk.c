/* Walks over strided tensors, shared by every operator that broadcasts, slices or permutes. */
#include <string.h>

#include "engine/operators/operators.h"

static bool mergeable(const struct walk *w, int d)
{
    for (int k = 0; k < w->count; k++)
        if (w->stride[k][d] != w->stride[k][d + 1] * w->dims[d + 1]) return false;
    return true;
}

static void drop_dim(struct walk *w, int d)
{
    for (int i = d; i + 1 < w->rank; i++) {
        w->dims[i] = w->dims[i + 1];
        for (int k = 0; k < w->count; k++) w->stride[k][i] = w->stride[k][i + 1];
    }
    w->rank--;
}

void walk_begin(struct walk *w)
{
    w->more = true;
    for (int d = 0; d < w->rank; d++)
        if (w->dims[d] == 0) w->more = false;
    for (int d = w->rank - 1; d >= 0; d--)
        if (w->dims[d] == 1) drop_dim(w, d);
    for (int d = w->rank - 2; d >= 0; d--) {
        if (!mergeable(w, d)) continue;
        w->dims[d + 1] *= w->dims[d];
        drop_dim(w, d);
    }
    w->run = w->rank ? w->dims[w->rank - 1] : 1;
    memset(w->index, 0, sizeof w->index);
    memset(w->offset, 0, sizeof w->offset);
}

void walk_next(struct walk *w)
{
    for (int d = w->rank - 2; d >= 0; d--) {
        for (int k = 0; k < w->count; k++) w->offset[k] += w->stride[k][d];
        if (++w->index[d] < w->dims[d]) return;
        for (int k = 0; k < w->count; k++) w->offset[k] -= w->stride[k][d] * w->dims[d];
        w->index[d] = 0;
    }
    w->more = false;
}

void operand_strides(const struct operand *o, int64_t *strides)
{
    int64_t dims[TENSOR_RANK_MAX], physical[TENSOR_RANK_MAX], s = 1;
    operand_physical(o, dims);
    for (int d = o->rank - 1; d >= 0; d--) {
        physical[d] = o->splat ? 0 : s;
        s *= dims[d];
    }
    memcpy(strides, physical, sizeof physical);
    if (!o->channels_last || o->rank < 3) return;
    strides[1] = physical[o->rank - 1];
    for (int i = 2; i < o->rank; i++) strides[i] = physical[i - 1];
}

/* Where dimension 0 of input i lies in a result of `rank` dimensions. Before opset 7 input 1 could be aligned from the left by `axis`. */
static int align(const struct call *c, int i, int rank)
{
    const struct operand *o = c->in[i];
    if (i == 1 && c->node->opset < 7 && node_int(c->node, "broadcast", 0)) {
        int64_t axis = node_int(c->node, "axis", rank - o->rank);
        if (axis < 0) axis += rank;
        if (axis >= 0 && axis + o->rank <= rank) return (int)axis;
    }
    if (strcmp(c->node->op->name, "PRelu") == 0 && i == 1 && c->node->opset < 7 && o->rank == 1 && rank > 1 && o->dims[0] != 1) return 1;
    return rank - o->rank;
}

enum status infer_broadcast_dims(struct call *c, int64_t *dims, int *out_rank, struct err *err)
{
    int rank = 0;
    for (int i = 0; i < c->in_count; i++)
        if (c->in[i] && c->in[i]->rank > rank) rank = c->in[i]->rank;
    for (int d = 0; d < rank; d++) dims[d] = 1;
    for (int i = 0; i < c->in_count; i++) {
        const struct operand *o = c->in[i];
        if (!o) continue;
        int at = align(c, i, rank);
        for (int d = 0; d < o->rank; d++) {
            int64_t *y = &dims[at + d], x = o->dims[d];
            if (*y == x || x == 1) continue;
            if (*y != 1) {
                char a[80], b[80];
                return call_error(c, err, ST_BAD_INPUT, "shapes %s and %s cannot be broadcast together", shape_text(c->in[0]->dims, c->in[0]->rank, a, sizeof a), shape_text(o->dims, o->rank, b, sizeof b));
            }
            *y = x;
        }
    }
    *out_rank = rank;
    return ST_OK;
}

enum status walk_broadcast(struct walk *w, const struct call *c, struct err *err)
{
    const struct operand *y = c->out[0];
    int64_t s[TENSOR_RANK_MAX] = { 0 };
    if (c->in_count > WALK_MAX) return call_error(c, err, ST_INTERNAL, "too many operands for one walk");
    *w = (struct walk){ .rank = y->rank, .count = c->in_count };
    bool last = y->channels_last && y->rank >= 3;
    int order[TENSOR_RANK_MAX];
    for (int d = 0; d < y->rank; d++) order[d] = !last || d == 0 ? d : d == y->rank - 1 ? 1 : d + 1;
    for (int d = 0; d < y->rank; d++) w->dims[d] = y->dims[order[d]];
    for (int k = 0; k < c->in_count; k++) {
        const struct operand *x = c->in[k];
        int at = align(c, k, y->rank);
        operand_strides(x, s);
        for (int d = 0; d < y->rank; d++) {
            int from = order[d] - at;
            w->stride[k][d] = from < 0 || from >= x->rank || x->dims[from] == 1 ? 0 : s[from];
        }
    }
    walk_begin(w);
    return ST_OK;
}

void copy_strided(void *y, const void *x, int64_t n, int64_t stride, int size)
{
    if (stride == 1) {
        if (n) memcpy(y, x, (size_t)n * (size_t)size);
        return;
    }
    if (size == 4) {
        const uint32_t *a = x;
        uint32_t *b = y;
        for (int64_t i = 0; i < n; i++) b[i] = a[i * stride];
        return;
    }
    for (int64_t i = 0; i < n; i++) memcpy((char *)y + i * size, (const char *)x + i * stride * size, (size_t)size);
}

bool call_any_tainted(const struct call *c, int from)
{
    for (int i = from; i < c->in_count; i++)
        if (c->in[i] && (c->in[i]->tainted || c->in[i]->batched)) return true;
    return false;
}

bool rows_first(const struct call *c)
{
    return c->in[0] && c->in[0]->batched && !call_any_tainted(c, 1) && c->out[0]->rank >= 1 && c->out[0]->dims[0] == c->in[0]->dims[0];
}

bool rows_apart(const struct call *c) { return c->in[0] && c->in[0]->rank > 1 && rows_first(c); }

bool rows_elementwise(const struct call *c)
{
    const struct operand *y = c->out[0];
    for (int i = 0; i < c->in_count; i++) {
        const struct operand *x = c->in[i];
        if (!x) continue;
        if (x->tainted && !x->batched) return false;
        int at = align(c, i, y->rank);
        if (x->batched && (at != 0 || x->dims[0] != y->dims[0])) return false;
        /* an input without rows must be the same for every row */
        if (!x->batched && at == 0 && x->rank == y->rank && x->dims[0] != 1) return false;
    }
    return y->rank >= 1;
}

enum status infer_same(struct call *c, struct err *err)
{
    return call_set(c, 0, c->in[0]->dtype, c->in[0]->dims, c->in[0]->rank, err);
}
