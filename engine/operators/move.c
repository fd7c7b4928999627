/* Operators that only move elements. Those that may run channels last first bring axes and pads into the order the bytes lie in and
 * then know nothing of layouts. */
#include <string.h>

#include "base/checked.h"
#include "engine/graph/tasks.h"
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"

/* ---- Transpose ---- */
static enum status read_permutation(const struct call *c, int *perm, struct err *err)
{
    int n, rank = c->in[0]->rank;
    const int64_t *a = node_ints(c->node, "perm", &n);
    unsigned seen = 0;
    if (a && n != rank) return call_error(c, err, ST_BAD_INPUT, "its permutation has %d entries for rank %d", n, rank);
    for (int d = 0; d < rank; d++) {
        int64_t p = a ? a[d] : rank - 1 - d;
        if (p < 0 || p >= rank || seen >> p & 1) return call_error(c, err, ST_BAD_INPUT, "its permutation is not one");
        seen |= 1u << p;
        perm[d] = (int)p;
    }
    return ST_OK;
}

static enum status infer_transpose(struct call *c, struct err *err)
{
    int perm[TENSOR_RANK_MAX];
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = call_need_sized(c, err);
    if (!st) st = read_permutation(c, perm, err);
    if (st) return st;
    for (int d = 0; d < c->in[0]->rank; d++) dims[d] = c->in[0]->dims[perm[d]];
    return call_set(c, 0, c->in[0]->dtype, dims, c->in[0]->rank, err);
}

/* Dimensions of the result and the steps that they are in the input. */
static enum status transpose_walk(struct walk *w, const struct call *c, struct err *err)
{
    int perm[TENSOR_RANK_MAX];
    int64_t s[TENSOR_RANK_MAX];
    enum status st = read_permutation(c, perm, err);
    if (st) return st;
    operand_strides(c->in[0], s);
    *w = (struct walk){ .rank = c->out[0]->rank, .count = 1 };
    for (int d = 0; d < w->rank; d++) {
        w->dims[d] = c->out[0]->dims[d];
        w->stride[0][d] = s[perm[d]];
    }
    return ST_OK;
}

static enum status eval_transpose(struct call *c, struct err *err)
{
    const int size = operand_size(c->in[0]);
    struct walk w;
    enum status st = transpose_walk(&w, c, err);
    if (st) return st;
    walk_begin(&w);
    bool matrix = w.rank >= 2 && w.rank <= 3 && w.stride[0][w.rank - 2] == 1 && w.stride[0][w.rank - 1] == w.dims[w.rank - 2] && size <= 8 && size != 3;
    if (w.more && matrix && (w.rank == 2 || w.stride[0][0] == w.dims[1] * w.dims[2])) {
        c->k->transpose_2d(c->out[0]->data, c->in[0]->data, w.rank == 3 ? w.dims[0] : 1, w.dims[w.rank - 1], w.dims[w.rank - 2], size, c->threads);
        return ST_OK;
    }
    for (char *y = c->out[0]->data; w.more; walk_next(&w), y += w.run * size)
        copy_strided(y, (const char *)c->in[0]->data + w.offset[0] * size, w.run, walk_step(&w, 0), size);
    return ST_OK;
}

static void tasks_transpose(struct call *c, struct task_list *l)
{
    struct walk w;
    if (transpose_walk(&w, c, NULL)) task_refuse(l);
    else task_move(l, c->out[0], c->in[0], 0, w.rank, w.dims, w.stride[0]);
}

static bool rows_transpose(const struct call *c)
{
    int n;
    const int64_t *a = node_ints(c->node, "perm", &n);
    return c->in[0]->batched && c->out[0]->rank >= 1 && (a ? n > 0 && a[0] == 0 : c->in[0]->rank <= 1);
}

/* Input 0 broadcast to the result, whatever order the bytes of either lie in: Expand and Reorder. */
static void tasks_expand(struct call *c, struct task_list *l)
{
    struct call one = *c;
    struct walk w;
    one.in_count = 1;
    if (walk_broadcast(&w, &one, NULL)) task_refuse(l);
    else task_move(l, c->out[0], c->in[0], 0, w.rank, w.dims, w.stride[0]);
}

/* ---- Reorder: plain <-> channels last; the flags of in and out say which ---- */
static enum status infer_reorder(struct call *c, struct err *err) { return infer_same(c, err); }

static enum status eval_reorder(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t space = dims_product(x->dims, 2, x->rank), channels = x->dims[1];
    (void)err;
    if (x->channels_last == c->out[0]->channels_last || space == 1 || channels == 1) {
        if (x->bytes && c->out[0]->data != x->data) memcpy(c->out[0]->data, x->data, x->bytes);
        return ST_OK;
    }
    bool last = x->channels_last;
    c->k->transpose_2d(c->out[0]->data, x->data, x->dims[0], last ? space : channels, last ? channels : space, operand_size(x), c->threads);
    return ST_OK;
}

const struct op op_reorder = { "Reorder", "inferd", 1, 0, 1, 1, 1, 1, 0, 0, infer_reorder, eval_reorder, NULL, NULL, NULL, rows_first, tasks_expand };

/* ---- ChannelShuffle: reshape [n,g,c,...], swap g and c, reshape back; attribute "group" ---- */
static enum status eval_shuffle(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t group = node_int(c->node, "group", 1), space = dims_product(x->dims, 2, x->rank), per = x->dims[1] / group;
    (void)err;
    if (x->channels_last) {
        c->k->transpose_2d(c->out[0]->data, x->data, x->dims[0] * space, group, per, 4, c->threads);
        return ST_OK;
    }
    for (int64_t n = 0; n < x->dims[0]; n++)
        for (int64_t g = 0; g < group; g++)
            for (int64_t p = 0; p < per; p++)
                memcpy((float *)c->out[0]->data + ((n * per + p) * group + g) * space, (const float *)x->data + ((n * group + g) * per + p) * space, (size_t)space * 4);
    return ST_OK;
}

/* [n, group, per, space] with the middle two changed. */
static void tasks_shuffle(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    const int64_t group = node_int(c->node, "group", 1), space = dims_product(x->dims, 2, x->rank), per = x->dims[1] / group, n = x->dims[0];
    const int64_t plain[4] = { n, per, group, space }, plain_steps[4] = { x->dims[1] * space, space, per * space, 1 }, last[4] = { n, space, per, group }, last_steps[4] = { x->dims[1] * space, x->dims[1], 1, per };
    task_move(l, c->out[0], x, 0, 4, x->channels_last ? last : plain, x->channels_last ? last_steps : plain_steps);
}

const struct op op_shuffle = { "ChannelShuffle", "inferd", 1, 0, 1, 1, 1, 1, OP_LAST, 0, infer_same, eval_shuffle, NULL, NULL, NULL, rows_first, tasks_shuffle };

/* ---- Concat ---- */
static enum status infer_concat(struct call *c, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX], axis = node_int(c->node, "axis", 1);
    const struct operand *x = c->in[0];
    enum status st = call_need_sized(c, err);
    if (st) return st;
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    memcpy(dims, x->dims, sizeof dims);
    for (int i = 1; i < c->in_count; i++) {
        const struct operand *o = c->in[i];
        bool fits = o && o->rank == x->rank && o->dtype == x->dtype;
        for (int d = 0; fits && d < x->rank; d++) fits = d == axis || o->dims[d] == x->dims[d];
        if (!fits || __builtin_add_overflow(dims[axis], o->dims[axis], &dims[axis])) return call_error(c, err, ST_BAD_INPUT, "input %d does not fit the others along axis %lld", i, (long long)axis);
    }
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

struct concat { const struct call *c; int axis; int64_t outer, row; };

static void concat_part(void *ctx, int part, int parts)
{
    const struct concat *j = ctx;
    const struct call *c = j->c;
    int64_t from = j->outer * part / parts, to = j->outer * (part + 1) / parts, at = 0;
    for (int i = 0; i < c->in_count; i++) {
        const struct operand *x = c->in[i];
        int64_t dims[TENSOR_RANK_MAX];
        operand_physical(x, dims);
        int64_t bytes = dims_product(dims, j->axis, x->rank) * operand_size(x);
        for (int64_t o = from; o < to && bytes; o++) memcpy((char *)c->out[0]->data + o * j->row + at, (const char *)x->data + o * bytes, (size_t)bytes);
        at += bytes;
    }
}

static enum status eval_concat(struct call *c, struct err *err)
{
    const struct operand *y = c->out[0];
    int64_t axis = node_int(c->node, "axis", 1), dims[TENSOR_RANK_MAX];
    (void)err;
    axis_fix(&axis, y->rank);
    int p = operand_physical_axis(y, (int)axis);
    operand_physical(y, dims);
    struct concat j = { c, p, dims_product(dims, 0, p), dims_product(dims, p, y->rank) * operand_size(y) };
    int threads = y->bytes > 65536 ? c->threads : 1;
    parallel_for(threads, threads, concat_part, &j);
    return ST_OK;
}

/* Each input as [outer, its part of the axis * inner] into rows of the result. */
static void tasks_concat(struct call *c, struct task_list *l)
{
    const struct operand *y = c->out[0];
    int64_t axis = node_int(c->node, "axis", 1), dims[TENSOR_RANK_MAX], at = 0;
    axis_fix(&axis, y->rank);
    const int p = operand_physical_axis(y, (int)axis);
    operand_physical(y, dims);
    const int64_t outer = dims_product(dims, 0, p), row = dims_product(dims, p, y->rank);
    for (int i = 0; i < c->in_count; i++) {
        operand_physical(c->in[i], dims);
        const int64_t part = dims_product(dims, p, y->rank);
        if (part * outer == 0) continue;
        task_move_into(l, y, at, (int64_t[]){ row, 1 }, c->in[i], 0, (int64_t[]){ part, 1 }, 2, (int64_t[]){ outer, part });
        at += part;
    }
}

static bool rows_concat(const struct call *c)
{
    int64_t axis = node_int(c->node, "axis", 1);
    if (!axis_fix(&axis, c->out[0]->rank) || axis == 0) return false;
    for (int i = 0; i < c->in_count; i++)
        if (!c->in[i]->batched) return false;
    return true;
}

/* ---- Split ---- */
static enum status split_sizes(struct call *c, int64_t axis, int64_t *sizes, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    int n = 0, parts = c->out_count;
    int64_t total = 0;
    *known = true;
    if (parts > GRAPH_INPUTS_MAX) return call_error(c, err, ST_UNSUPPORTED, "it has more than %d outputs", GRAPH_INPUTS_MAX);
    if (c->in_count > 1 && c->in[1]) {
        enum status st = call_ints(c, 1, sizes, GRAPH_INPUTS_MAX, &n, known, err);
        if (st || !*known) return st;
    } else {
        const int64_t *a = node_ints(c->node, "split", &n);
        if (n > GRAPH_INPUTS_MAX) n = 0;
        if (n) memcpy(sizes, a, (size_t)n * sizeof *sizes);
    }
    if (n == 0) {
        int64_t each = (x->dims[axis] + parts - 1) / parts, left = x->dims[axis];
        if (c->node->opset < 18 && x->dims[axis] % parts) return call_error(c, err, ST_BAD_INPUT, "%lld cannot be split into %d equal parts", (long long)x->dims[axis], parts);
        for (n = 0; n < parts; n++, left -= sizes[n - 1]) sizes[n] = each < left ? each : left;
    }
    for (int i = 0; i < n; i++)
        if (sizes[i] < 0 || __builtin_add_overflow(total, sizes[i], &total)) return call_error(c, err, ST_BAD_INPUT, "a part has %lld elements", (long long)sizes[i]);
    if (n != parts || total != x->dims[axis]) return call_error(c, err, ST_BAD_INPUT, "%d parts of %lld in all do not make %d outputs of %lld", n, (long long)total, parts, (long long)x->dims[axis]);
    return ST_OK;
}

static enum status infer_split(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), sizes[GRAPH_INPUTS_MAX], dims[TENSOR_RANK_MAX];
    bool known;
    enum status st = call_need_sized(c, err);
    if (st) return st;
    if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
    st = split_sizes(c, axis, sizes, &known, err);
    if (!known) return st;
    memcpy(dims, x->dims, sizeof dims);
    for (int i = 0; i < c->out_count && !st; i++) {
        dims[axis] = sizes[i];
        st = call_set(c, i, x->dtype, dims, x->rank, err);
    }
    return st;
}

static enum status eval_split(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), sizes[GRAPH_INPUTS_MAX], dims[TENSOR_RANK_MAX], at = 0;
    bool known;
    axis_fix(&axis, x->rank);
    enum status st = split_sizes(c, axis, sizes, &known, err);
    if (st) return st;
    int p = operand_physical_axis(x, (int)axis), size = operand_size(x);
    operand_physical(x, dims);
    int64_t outer = dims_product(dims, 0, p), inner = dims_product(dims, p + 1, x->rank) * size, row = dims[p] * inner;
    for (int i = 0; i < c->out_count; at += sizes[i++] * inner) {
        int64_t bytes = sizes[i] * inner;
        for (int64_t o = 0; o < outer && bytes && c->out[i]; o++) memcpy((char *)c->out[i]->data + o * bytes, (const char *)x->data + o * row + at, (size_t)bytes);
    }
    return ST_OK;
}

static void tasks_split(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), sizes[GRAPH_INPUTS_MAX], dims[TENSOR_RANK_MAX], at = 0;
    bool known;
    axis_fix(&axis, x->rank);
    if (split_sizes(c, axis, sizes, &known, NULL) || !known) {
        task_refuse(l);
        return;
    }
    const int p = operand_physical_axis(x, (int)axis);
    operand_physical(x, dims);
    const int64_t outer = dims_product(dims, 0, p), inner = dims_product(dims, p + 1, x->rank), row = dims[p] * inner;
    for (int i = 0; i < c->out_count; at += sizes[i++] * inner)
        if (c->out[i] && sizes[i] > 0 && inner > 0 && outer > 0) task_move(l, c->out[i], x, at, 2, (int64_t[]){ outer, sizes[i] * inner }, (int64_t[]){ row, 1 });
}

static bool rows_split(const struct call *c)
{
    int64_t axis = node_int(c->node, "axis", 0);
    return axis_fix(&axis, c->in[0]->rank) && axis != 0 && c->in[0]->batched && !call_any_tainted(c, 1);
}

/* ---- Slice ---- */
struct slice { int64_t start[TENSOR_RANK_MAX], step[TENSOR_RANK_MAX], size[TENSOR_RANK_MAX]; };

static int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

static enum status read_slice(struct call *c, struct slice *s, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t v[4][TENSOR_RANK_MAX];
    int n[4] = { 0 };
    bool k[4] = { true, true, true, true };
    enum status st = ST_OK;
    *known = true;
    if (c->node->opset < 10) {
        static const char *const names[] = { "starts", "ends", "axes" };
        for (int i = 0; i < 3; i++) {
            const int64_t *a = node_ints(c->node, names[i], &n[i]);
            if (n[i] > TENSOR_RANK_MAX) return call_error(c, err, ST_BAD_INPUT, "it has %d %s", n[i], names[i]);
            if (n[i]) memcpy(v[i], a, (size_t)n[i] * sizeof *a);
        }
    } else {
        if (c->in_count < 3 || !c->in[1] || !c->in[2]) return call_error(c, err, ST_BAD_INPUT, "starts or ends are missing");
        for (int i = 0; i < 4 && i + 1 < c->in_count && !st; i++)
            if (c->in[i + 1]) st = call_ints(c, i + 1, v[i], TENSOR_RANK_MAX, &n[i], &k[i], err);
    }
    if (st) return st;
    if (n[1] != n[0] || (n[2] && n[2] != n[0]) || (n[3] && n[3] != n[0]) || n[0] > x->rank) return call_error(c, err, ST_BAD_INPUT, "starts, ends, axes and steps differ in length");
    *known = k[0] && k[1] && k[2] && k[3];
    if (!*known) return ST_OK;
    for (int d = 0; d < x->rank; d++) { s->start[d] = 0; s->step[d] = 1; s->size[d] = x->dims[d]; }
    for (int i = 0; i < n[0]; i++) {
        int64_t axis = n[2] ? v[2][i] : i, step = n[3] ? v[3][i] : 1, a = v[0][i], b = v[1][i];
        if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
        if (step == 0 || step == INT64_MIN) return call_error(c, err, ST_BAD_INPUT, "its step is %lld", (long long)step);
        int64_t dim = x->dims[axis];
        if (a < 0) a = a < -dim ? -1 : a + dim;          /* -1 here: before the first */
        if (b < 0) b = b < -dim ? -1 : b + dim;
        a = step > 0 ? clamp(a, 0, dim) : clamp(a, v[0][i] < -dim ? 0 : -1, dim - 1);
        b = step > 0 ? clamp(b, 0, dim) : clamp(b, -1, dim - 1);
        int64_t span = step > 0 ? b - a : a - b, stride = step > 0 ? step : -step;
        s->start[axis] = a;
        s->step[axis] = step;
        s->size[axis] = span > 0 && dim > 0 ? (span - 1) / stride + 1 : 0;
    }
    return ST_OK;
}

static enum status infer_slice(struct call *c, struct err *err)
{
    struct slice s;
    bool known;
    enum status st = call_need_sized(c, err);
    if (!st) st = read_slice(c, &s, &known, err);
    return st || !known ? st : call_set(c, 0, c->in[0]->dtype, s.size, c->in[0]->rank, err);
}

/* Dimensions and steps of a walk over the slice of x in the order of x's bytes; the element it begins at is given back. */
static int64_t slice_walk(struct walk *w, const struct operand *x, const struct slice *s)
{
    int64_t strides[TENSOR_RANK_MAX], base = 0;
    operand_strides(x, strides);
    *w = (struct walk){ .rank = x->rank, .count = 1 };
    for (int d = 0; d < x->rank; d++) {
        int p = operand_physical_axis(x, d);
        base += s->start[d] * strides[d];
        w->dims[p] = s->size[d];
        w->stride[0][p] = strides[d] * (s->size[d] > 1 ? s->step[d] : 1);
    }
    return base;
}

static enum status eval_slice(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct slice s;
    struct walk w;
    bool known;
    int size = operand_size(x);
    enum status st = read_slice(c, &s, &known, err);
    if (st) return st;
    const int64_t base = slice_walk(&w, x, &s);
    walk_begin(&w);
    for (char *y = c->out[0]->data; w.more; walk_next(&w), y += w.run * size)
        copy_strided(y, (const char *)x->data + (base + w.offset[0]) * size, w.run, walk_step(&w, 0), size);
    return ST_OK;
}

static void tasks_slice(struct call *c, struct task_list *l)
{
    struct slice s;
    struct walk w;
    bool known;
    if (read_slice(c, &s, &known, NULL) || !known) {
        task_refuse(l);
        return;
    }
    const int64_t base = slice_walk(&w, c->in[0], &s);
    task_move(l, c->out[0], c->in[0], base, w.rank, w.dims, w.stride[0]);
}

static bool rows_slice(const struct call *c)
{
    struct slice s;
    struct err e;
    bool known;
    struct call copy = *c;
    if (!rows_first(c)) return false;
    return read_slice(&copy, &s, &known, &e) == ST_OK && known && s.start[0] == 0 && s.step[0] == 1;
}

/* ---- Expand, Tile ---- */
static enum status infer_expand(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t want[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX];
    bool known;
    int n;
    enum status st = call_need_sized(c, err);
    if (!st) st = call_ints(c, 1, want, TENSOR_RANK_MAX, &n, &known, err);
    if (st || !known) return st;
    int rank = n > x->rank ? n : x->rank;
    for (int d = 0; d < rank; d++) {
        int64_t a = d < rank - x->rank ? 1 : x->dims[d - (rank - x->rank)], b = d < rank - n ? 1 : want[d - (rank - n)];
        if (a != b && a != 1 && b != 1) return call_error(c, err, ST_BAD_INPUT, "dimension %d cannot grow from %lld to %lld", d, (long long)a, (long long)b);
        dims[d] = a == 1 ? b : a;
    }
    return call_set(c, 0, x->dtype, dims, rank, err);
}

static enum status eval_expand(struct call *c, struct err *err)
{
    struct call one = *c;
    struct walk w;
    int size = operand_size(c->in[0]);
    one.in_count = 1;
    enum status st = walk_broadcast(&w, &one, err);
    for (char *y = c->out[0]->data; !st && w.more; walk_next(&w), y += w.run * size)
        copy_strided(y, (const char *)c->in[0]->data + w.offset[0] * size, w.run, walk_step(&w, 0), size);
    return st;
}

/* Each dimension as [repeats, its own length]. */
static void tasks_tile(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    int64_t strides[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX], steps[TENSOR_RANK_MAX];
    int rank = 0;
    operand_strides(x, strides);
    for (int d = 0; d < x->rank; d++) {
        const int64_t times = x->dims[d] ? y->dims[d] / x->dims[d] : 1;
        if (rank + 2 > TENSOR_RANK_MAX) {
            task_refuse(l);
            return;
        }
        if (times != 1) dims[rank] = times, steps[rank++] = 0;
        dims[rank] = x->dims[d], steps[rank++] = strides[d];
    }
    task_move(l, y, x, 0, rank, dims, steps);
}

/* Growing one row to n equal rows, or keeping rows where they are. */
static bool rows_expand(const struct call *c)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    if (c->in[1]->batched || y->rank < 1) return false;
    if (x->batched) return x->rank == y->rank && x->dims[0] == y->dims[0];
    return !x->tainted && (x->rank < y->rank || x->dims[0] == 1);
}

static enum status infer_tile(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t repeats[TENSOR_RANK_MAX], dims[TENSOR_RANK_MAX], times, axis;
    bool known = true;
    int n;
    enum status st = call_need_sized(c, err);
    if (st) return st;
    if (c->node->opset < 6) {                         /* inputs: tiles, axis */
        if (c->in_count < 3) return call_error(c, err, ST_BAD_INPUT, "tiles or axis is missing");
        st = call_ints(c, 1, &times, 1, &n, &known, err);
        if (!st && known) st = call_ints(c, 2, &axis, 1, &n, &known, err);
        if (st || !known) return st;
        if (!axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, x->rank);
        for (int d = 0; d < x->rank; d++) repeats[d] = d == axis ? times : 1;
    } else {
        st = call_ints(c, 1, repeats, TENSOR_RANK_MAX, &n, &known, err);
        if (st || !known) return st;
        if (n != x->rank) return call_error(c, err, ST_BAD_INPUT, "%d repeats for rank %d", n, x->rank);
    }
    for (int d = 0; d < x->rank; d++)
        if (repeats[d] < 0 || __builtin_mul_overflow(x->dims[d], repeats[d], &dims[d])) return call_error(c, err, ST_BAD_INPUT, "repeat %d is %lld", d, (long long)repeats[d]);
    return call_set(c, 0, x->dtype, dims, x->rank, err);
}

static enum status eval_tile(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    int size = operand_size(x), rank = x->rank;
    int64_t index[TENSOR_RANK_MAX] = { 0 }, strides[TENSOR_RANK_MAX];
    char *out = y->data;
    (void)err;
    if (y->bytes == 0) return ST_OK;
    if (rank == 0) { memcpy(out, x->data, (size_t)size); return ST_OK; }
    operand_strides(x, strides);
    for (;;) {
        int64_t from = 0, row = x->dims[rank - 1];
        for (int d = 0; d < rank - 1; d++) from += index[d] % x->dims[d] * strides[d];
        for (int64_t t = 0; t < y->dims[rank - 1]; t += row, out += row * size) memcpy(out, (const char *)x->data + from * size, (size_t)(row * size));
        int d = rank - 2;
        while (d >= 0 && ++index[d] == y->dims[d]) index[d--] = 0;
        if (d < 0) return ST_OK;
    }
}

const struct op ops_move[] = {
    { "Transpose", "", 1, 0, 1, 1, 1, 1, OP_READS_LAST, 0, infer_transpose, eval_transpose, NULL, NULL, NULL, rows_transpose, tasks_transpose },
    { "Concat", "", 1, 0, 1, GRAPH_INPUTS_MAX, 1, 1, OP_LAST, 0, infer_concat, eval_concat, NULL, NULL, NULL, rows_concat, tasks_concat },
    { "Split", "", 1, 0, 1, 2, 1, GRAPH_INPUTS_MAX, OP_LAST, 0, infer_split, eval_split, NULL, NULL, NULL, rows_split, tasks_split },
    { "Slice", "", 1, 0, 1, 5, 1, 1, OP_LAST, 0, infer_slice, eval_slice, NULL, NULL, NULL, rows_slice, tasks_slice },
    { "Expand", "", 8, 0, 2, 2, 1, 1, OP_SHAPE_IN1 | OP_READS_LAST, 0, infer_expand, eval_expand, NULL, NULL, NULL, rows_expand, tasks_expand },
    { "Tile", "", 1, 0, 2, 3, 1, 1, 0, 0, infer_tile, eval_tile, NULL, NULL, NULL, rows_first, tasks_tile },
    { 0 }
};
