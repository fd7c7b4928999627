/* The operators of networks that draw as tasks of a GPU: pictures are channels last there, too. TimeEmbed stays on the CPU, where its numbers are float whatever the device stores; it reads inputs only. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/tasks.h"
#include "engine/operators/diffusion.h"
#include "engine/operators/operators.h"

static int64_t last_of(const struct operand *o) { return o->rank ? o->dims[o->rank - 1] : 0; }
static int64_t between(const struct operand *o) { return o->rank < 2 ? 1 : dims_product(o->dims, 1, o->rank - 1); }
static const struct operand *given(const struct call *c, int i) { return i < c->in_count ? c->in[i] : NULL; }

/* A pointwise task over [n, rows, channels]: inputs that have all of it, or one row of `columns` numbers for each of n. */
struct input { const struct operand *value; int own /* + 1 */; bool by_picture; int64_t columns; };

static struct gpu_task *pointwise(struct task_list *l, int function, const struct input *in, int count, const struct operand *y, int own_y)
{
    const struct operand *x = in[0].value;
    const int64_t n = x->dims[0], rows = between(x), channels = last_of(x);
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    for (int k = 0; k < count; k++) {
        if (in[k].own) task_own_operand(l, t, in[k].own - 1, l->float_type);
        else task_value(l, t, in[k].value);
    }
    if (y) task_value(l, t, y);
    else task_own_operand(l, t, own_y, l->float_type);
    t->u.pointwise = (struct gpu_pointwise){ .function = function, .inputs = count, .rank = 3, .count = n * rows * channels, .dims = { n, rows, channels } };
    for (int k = 0; k < count; k++) {
        const int64_t steps[] = { in[k].by_picture ? in[k].columns : rows * channels, in[k].by_picture ? 0 : channels, 1 };
        memcpy(t->u.pointwise.steps[k], steps, sizeof steps);
    }
    return t;
}

/* Columns `first` to `first + count` of each of the value's `rows`, dense in a buffer of their own: its number. */
static int columns_of(struct task_list *l, const struct operand *o, int64_t rows, int64_t first, int64_t count)
{
    const int own = task_own(l, (uint64_t)(rows * count) * (uint64_t)gpu_type_bytes(l->float_type));
    struct gpu_task *t = task_add(l, GPU_MOVE);
    task_value(l, t, o);
    task_own_operand(l, t, own, l->float_type);
    t->u.move = (struct gpu_move){ .rank = 2, .size = gpu_type_bytes(l->float_type), .count = rows * count, .from = first, .dims = { rows, count }, .x_steps = { last_of(o), 1 }, .y_steps = { count, 1 } };
    return own;
}

/* An input that is some columns of a row for each picture. */
static struct input part_of(struct task_list *l, const struct operand *m, int64_t first, int64_t count)
{
    return (struct input){ .own = columns_of(l, m, m->dims[0], first, count) + 1, .by_picture = true, .columns = count };
}

static struct input whole(const struct operand *o) { return (struct input){ .value = o }; }

/* ---- Conv2d ---- */
void tasks_conv2d(struct call *c, struct task_list *l)
{
    const struct conv2d_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *y = c->out[0], *residual = given(c, 1);
    if (!s->device) {
        task_refuse(l);
        return;
    }
    struct gpu_task *t = task_add(l, GPU_CONV);
    task_value(l, t, x);
    task_device(l, t, s->device, l->float_type);
    task_value(l, t, y);
    task_floats(l, t, c->node, 0, c->node->bias, (uint64_t)s->out_c, l->float_type);
    task_value(l, t, residual);
    t->u.conv = (struct gpu_conv){ .n = x->dims[0], .in_c = s->in_c, .out_c = s->out_c, .groups = 1, .has_bias = c->node->bias, .has_residual = residual, .act = c->node->act, .w = { .dims = 2 } };
    for (int d = 0; d < 2; d++) {
        struct gpu_window *w = &t->u.conv.w;
        w->in[d] = x->dims[1 + d];
        w->out[d] = y->dims[1 + d];
        w->kernel[d] = s->kernel;
        w->stride[d] = s->stride;
        w->dilation[d] = 1;
        w->low[d] = s->low;
        w->high[d] = s->high;
    }
}

/* ---- GroupNorm ---- */
void tasks_group_norm(struct call *c, struct task_list *l)
{
    const struct group_norm_op_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *add = given(c, 1), *m = given(c, 2);
    const uint64_t bytes = operand_count(x) * (uint64_t)gpu_type_bytes(l->float_type);
    int sum = -1, normed = -1;
    if (add) {
        sum = task_own(l, bytes);
        pointwise(l, GPU_ADD, (struct input[]){ whole(x), { .value = add, .by_picture = true, .columns = last_of(add) } }, 2, NULL, sum);
    }
    if (m) normed = task_own(l, bytes);
    struct gpu_task *t = task_add(l, GPU_NORM_CHANNELS);
    if (sum >= 0) task_own_operand(l, t, sum, l->float_type);
    else task_value(l, t, x);
    if (m) task_own_operand(l, t, normed, l->float_type);
    else task_value(l, t, c->out[0]);
    task_floats(l, t, c->node, 0, s->scale, (uint64_t)s->channels, GPU_F32);
    task_floats(l, t, c->node, 1, s->bias, (uint64_t)s->channels, GPU_F32);
    t->u.norm_channels = (struct gpu_norm_channels){ .batch = x->dims[0], .channels = s->channels, .groups = s->groups, .space = between(x), .epsilon = s->epsilon, .last = true };
    if (!m) {
        t->u.norm_channels.act = c->node->act;
        return;
    }
    const struct input scale = part_of(l, m, 0, s->channels), shift = part_of(l, m, s->channels, s->channels), from = { .value = x, .own = normed + 1 };
    pointwise(l, GPU_MODULATE, (struct input[]){ from, scale, shift }, 3, c->out[0], -1)->u.pointwise.act = c->node->act;
}

/* ---- Attention ---- */
enum { HEAD_MAX = 256 /* what attention's kernel for tensor cores takes */, SCORES_MAX = 1 << 28 /* numbers of a matrix of scores that may be kept */ };

/* One large head: scores as a matrix, its softmax, and their product with the values. The operands are whole values. */
static bool large_head(struct call *c, struct task_list *l)
{
    const struct attention_dense_op_spec *s = c->node->spec;
    const struct operand *q = c->in[0], *k = c->in[1], *v = c->in[2];
    const int64_t n = q->dims[0], queries = between(q), keys = between(k), d = s->head_dim;
    if (s->heads != 1 || d <= HEAD_MAX || s->causal || s->distance || given(c, 3) || last_of(q) != d || last_of(k) != d || last_of(v) != d || s->q_column || s->k_column || s->v_column || n * queries * keys > SCORES_MAX) return false;
    const int scores = task_own(l, (uint64_t)(n * queries * keys) * (uint64_t)gpu_type_bytes(l->float_type));
    struct gpu_task *t = task_add(l, GPU_PRODUCT);
    task_value(l, t, q);
    task_value(l, t, k);
    task_own_operand(l, t, scores, l->float_type);
    t->u.product = (struct gpu_product){ .m = queries, .n = keys, .k = d, .batch = n, .a_step = queries * d, .b_step = keys * d, .alpha = s->scale, .b_turned = true };
    t = task_add(l, GPU_SOFTMAX);
    task_own_operand(l, t, scores, l->float_type);
    task_own_operand(l, t, scores, l->float_type);
    t->u.softmax = (struct gpu_softmax){ .outer = n * queries, .n = keys, .inner = 1 };
    t = task_add(l, GPU_PRODUCT);
    task_own_operand(l, t, scores, l->float_type);
    task_value(l, t, v);
    task_value(l, t, c->out[0]);
    t->u.product = (struct gpu_product){ .m = queries, .n = d, .k = keys, .batch = n, .a_step = queries * keys, .b_step = keys * d, .alpha = 1 };
    return true;
}

void tasks_attention_dense(struct call *c, struct task_list *l)
{
    const struct attention_dense_op_spec *s = c->node->spec;
    const struct operand *q = c->in[0], *k = c->in[1], *v = c->in[2];
    const int64_t width = (int64_t)s->heads * s->head_dim, queries = between(q), keys = between(k);
    if (s->distance) {
        task_refuse(l);
        return;
    }
    if (large_head(c, l)) return;
    const struct operand *from[] = { q, k, v };
    const int64_t columns[] = { s->q_column, s->k_column, s->v_column };
    int own[3];     /* heads that begin within a value are moved into one of their own, for attention's kernel takes where a value begins; -1: they begin with it */
    struct gpu_steps steps[3];
    for (int i = 0; i < 3; i++) {
        own[i] = columns[i] ? columns_of(l, from[i], from[i]->dims[0] * between(from[i]), columns[i], width) : -1;
        const int64_t row = own[i] < 0 ? last_of(from[i]) : width;
        steps[i] = (struct gpu_steps){ .row = between(from[i]) * row, .head = s->head_dim, .token = row };
    }
    struct gpu_task *t = task_add(l, GPU_ATTENTION);
    for (int i = 0; i < 3; i++) {
        if (own[i] < 0) task_value(l, t, from[i]);
        else task_own_operand(l, t, own[i], l->float_type);
    }
    task_value(l, t, c->out[0]);
    task_value(l, t, NULL);
    task_value(l, t, NULL);
    task_value(l, t, given(c, 3));
    t->u.attention = (struct gpu_attention){ .batch = q->dims[0], .heads = s->heads, .queries = queries, .keys = keys, .head_dim = s->head_dim, .head_dim_v = s->head_dim, .group = 1, .scale = s->scale, .causal = s->causal,
                                             .q = steps[0], .k = steps[1], .v = steps[2], .y = { queries * width, s->head_dim, width } };
}

/* ---- moves ---- */
/* Element i of `out` is element i * in / out of `in`: along one axis of [outer, in, inner]. */
static void grow(struct task_list *l, const struct operand *x, int own_x, const struct operand *y, int own_y, int64_t outer, int64_t in, int64_t out, int64_t inner)
{
    int32_t *index = mem_alloc_array((uint64_t)out, sizeof *index);
    float *ones = mem_alloc_array((uint64_t)out, sizeof *ones);
    struct gpu_task *t = task_add(l, GPU_RESIZE);
    if (x) task_value(l, t, x);
    else task_own_operand(l, t, own_x, l->float_type);
    if (y) task_value(l, t, y);
    else task_own_operand(l, t, own_y, l->float_type);
    if (index && ones) {
        for (int64_t i = 0; i < out; i++) index[i] = (int32_t)(i * in / out), ones[i] = 1;
        task_table(l, t, index, (uint64_t)out, GPU_I32);
        task_table(l, t, ones, (uint64_t)out, GPU_F32);
    } else {
        err_set(&l->error, ST_NO_MEMORY, "growing a picture");
        task_refuse(l);
    }
    t->u.resize = (struct gpu_resize){ .outer = outer, .in = in, .out = out, .inner = inner, .taps = 1 };
    free(index);
    free(ones);
}

void tasks_upsample(struct call *c, struct task_list *l)
{
    const struct operand *x = c->in[0], *y = c->out[0];
    const int64_t n = x->dims[0], h = x->dims[1], w = x->dims[2], ch = x->dims[3], times_h = y->dims[1] / h, times_w = y->dims[2] / w;
    if (times_h * h == y->dims[1] && times_w * w == y->dims[2]) {
        task_move(l, y, x, 0, 6, (int64_t[]){ n, h, times_h, w, times_w, ch }, (int64_t[]){ h * w * ch, w * ch, 0, ch, 0, 1 });
        return;
    }
    const int own = task_own(l, (uint64_t)(n * y->dims[1] * w * ch) * (uint64_t)gpu_type_bytes(l->float_type));
    grow(l, x, -1, NULL, own, n, h, y->dims[1], w * ch);
    grow(l, NULL, own, y, -1, n * y->dims[1], w, y->dims[2], ch);
}

void tasks_join(struct call *c, struct task_list *l)
{
    const struct join_spec *s = c->node->spec;
    const int64_t rows = dims_product(c->in[0]->dims, 0, s->axis), each = dims_product(c->out[0]->dims, s->axis, c->out[0]->rank);
    int64_t to = 0;
    for (int i = 0; i < 2; i++) {
        const int64_t n = dims_product(c->in[i]->dims, s->axis, c->in[i]->rank);
        task_move_into(l, c->out[0], to, (int64_t[]){ each, 1 }, c->in[i], 0, (int64_t[]){ n, 1 }, 2, (int64_t[]){ rows, n });
        to += n;
    }
}

void tasks_part(struct call *c, struct task_list *l)
{
    const struct part_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *y = c->out[0];
    const int64_t count = y->dims[s->axis], first = s->first >= 0 ? s->first : x->dims[s->axis] - count, inner = dims_product(x->dims, s->axis + 1, x->rank);
    task_move(l, y, x, first * inner, 2, (int64_t[]){ dims_product(x->dims, 0, s->axis), count * inner }, (int64_t[]){ x->dims[s->axis] * inner, 1 });
}

/* Pictures [n, h p, w p, c] beside patches [n, h, w, p p c]; what is written is walked in order. */
void tasks_patches(struct call *c, struct task_list *l)
{
    const struct patch_spec *s = c->node->spec;
    const bool is_cut = c->node->op->code;
    const struct operand *picture = is_cut ? c->in[0] : c->out[0], *patches = is_cut ? c->out[0] : c->in[0];
    const int64_t p = s->side, n = picture->dims[0], h = patches->dims[1], w = patches->dims[2], ch = picture->dims[3], all = p * p * ch, row = w * p * ch;
    const int64_t down = s->by_channel ? p : p * ch, across = s->by_channel ? 1 : ch, channel = s->by_channel ? p * p : 1;      /* within a patch */
    if (is_cut && s->by_channel) task_move(l, patches, picture, 0, 6, (int64_t[]){ n, h, w, ch, p, p }, (int64_t[]){ h * p * row, p * row, p * ch, 1, row, ch });
    else if (is_cut) task_move(l, patches, picture, 0, 6, (int64_t[]){ n, h, w, p, p, ch }, (int64_t[]){ h * p * row, p * row, p * ch, row, ch, 1 });
    else task_move(l, picture, patches, 0, 6, (int64_t[]){ n, h, p, w, p, ch }, (int64_t[]){ h * w * all, w * all, down, all, across, channel });
}

/* ---- element by element ---- */
void tasks_act(struct call *c, struct task_list *l) { task_dense(l, GPU_COPY, c->in[0], NULL, c->out[0])->u.pointwise.act = c->node->act; }
void tasks_product(struct call *c, struct task_list *l) { task_dense(l, GPU_MUL, c->in[0], c->in[1], c->out[0]); }

void tasks_modulate(struct call *c, struct task_list *l)
{
    const struct modulate_spec *s = c->node->spec;
    const int64_t channels = last_of(c->in[0]);
    if (s->scale < 0 && s->shift < 0) {
        task_dense(l, GPU_COPY, c->in[0], NULL, c->out[0]);
        return;
    }
    struct input in[3] = { whole(c->in[0]) };
    int count = 1;
    if (s->scale >= 0) in[count++] = part_of(l, c->in[1], s->scale, channels);
    if (s->shift >= 0) in[count++] = part_of(l, c->in[1], s->shift, channels);
    pointwise(l, s->scale < 0 ? GPU_ADD : GPU_MODULATE, in, count, c->out[0], -1);
}

void tasks_gated(struct call *c, struct task_list *l)
{
    const struct gated_spec *s = c->node->spec;
    const struct input gate = part_of(l, c->in[2], s->gate, last_of(c->in[0]));
    pointwise(l, GPU_SCALE_SHIFT, (struct input[]){ whole(c->in[1]), gate, whole(c->in[0]) }, 3, c->out[0], -1);
}

void tasks_add_positions(struct call *c, struct task_list *l)
{
    const struct positions_spec *s = c->node->spec;
    const struct operand *x = c->in[0];
    const int64_t n = x->dims[0], h = x->dims[1], w = x->dims[2], ch = x->dims[3], top = (s->side - h) / 2, left = (s->side - w) / 2;
    const int own = task_own(l, (uint64_t)(h * w * ch) * (uint64_t)gpu_type_bytes(l->float_type));
    struct gpu_task *t = task_add(l, GPU_MOVE);
    task_floats(l, t, c->node, 0, s->table, (uint64_t)(s->side * s->side * ch), l->float_type);
    task_own_operand(l, t, own, l->float_type);
    t->u.move = (struct gpu_move){ .rank = 2, .size = gpu_type_bytes(l->float_type), .count = h * w * ch, .from = (top * s->side + left) * ch, .dims = { h, w * ch }, .x_steps = { s->side * ch, 1 }, .y_steps = { w * ch, 1 } };
    t = task_add(l, GPU_POINTWISE);
    task_value(l, t, x);
    task_own_operand(l, t, own, l->float_type);
    task_value(l, t, c->out[0]);
    t->u.pointwise = (struct gpu_pointwise){ .function = GPU_ADD, .inputs = 2, .rank = 2, .count = n * h * w * ch, .dims = { n, h * w * ch }, .steps = { { h * w * ch, 1 }, { 0, 1 } } };
}

/* A view of one input; what has two is not laid out as one, though the numbers stay as they are. */
void tasks_as_tokens(struct call *c, struct task_list *l) { task_dense(l, GPU_COPY, c->in[0], NULL, c->out[0]); }

/* In place a number and its neighbour would be read after one was written: it goes through a buffer. */
void tasks_rope_pairs(struct call *c, struct task_list *l)
{
    const struct rope_pairs_spec *s = c->node->spec;
    const struct operand *x = c->in[0], *table = c->in[1];
    const int64_t columns = last_of(x), rows = x->dims[0] * between(x);
    const int own = task_own(l, operand_count(x) * (uint64_t)gpu_type_bytes(l->float_type));
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    task_value(l, t, x);
    task_own_operand(l, t, own, l->float_type);
    t->u.pointwise = (struct gpu_pointwise){ .function = GPU_COPY, .inputs = 1, .count = rows * columns };
    t = task_add(l, GPU_ROTATE);
    task_own_operand(l, t, own, l->float_type);
    task_value(l, t, table);
    task_value(l, t, c->out[0]);
    t->u.rotate = (struct gpu_rotate){ .rows = rows, .columns = columns, .column = s->column, .heads = s->heads, .head_dim = s->head_dim, .tokens = between(x), .rotary = (int)last_of(table) };
}
