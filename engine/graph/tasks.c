#include "engine/graph/tasks.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/operators/operators.h"
#include "engine/operators/window.h"
#include "kernels/half.h"

int task_type(const struct task_list *l, enum dtype t)
{
    switch (t) {
    case DT_F32: return l->float_type;
    case DT_F16: return GPU_F16;
    case DT_BF16: return GPU_BF16;
    case DT_I32: return GPU_I32;
    case DT_I64: return GPU_I64;
    case DT_U8: case DT_BOOL: return GPU_U8;
    case DT_I8: return GPU_I8;
    default: return -1;
    }
}

void task_refuse(struct task_list *l) { l->refused = true; }

struct gpu_task *task_add(struct task_list *l, enum gpu_kind kind)
{
    if (l->count == TASKS_MAX) {
        task_refuse(l);
        l->count--;
    }
    memset(l->sources[l->count], 0, sizeof l->sources[0]);
    struct gpu_task *t = &l->tasks[l->count++];
    memset(t, 0, sizeof *t);       /* padding too: a library's cache may hash it */
    t->kind = (int)kind;
    return t;
}

/* The place of the task's next operand; its type is set. */
static struct task_source *next(struct task_list *l, struct gpu_task *t, int type)
{
    static struct task_source nowhere;
    if (t->operands == GPU_OPERANDS) {
        task_refuse(l);
        return &nowhere;
    }
    t->type[t->operands] = type;
    return &l->sources[t - l->tasks][t->operands++];
}

void task_value(struct task_list *l, struct gpu_task *t, const struct operand *o)
{
    const int type = o ? task_type(l, o->dtype) : GPU_F32;
    if (type < 0 || (o && o->splat)) task_refuse(l);
    next(l, t, type < 0 ? GPU_F32 : type)->value = o;
}

void task_floats(struct task_list *l, struct gpu_task *t, const struct node *n, int slot, const float *data, uint64_t count, int type)
{
    struct task_source *s = next(l, t, type);
    if (!data || l->refused) return;
    if (gpu_store_put(l->store, n, slot, data, count, true, type, &s->constant, &l->error)) task_refuse(l);
}

int task_own(struct task_list *l, uint64_t bytes)
{
    if (l->own_count == TASKS_MAX) {
        task_refuse(l);
        l->own_count--;
    }
    l->own_bytes[l->own_count] = bytes;
    return l->own_count++;
}

void task_own_operand(struct task_list *l, struct gpu_task *t, int own, int type) { next(l, t, type)->own = own + 1; }
void task_device(struct task_list *l, struct gpu_task *t, void *at, int type) { next(l, t, type)->constant = at; }
void task_fault(struct task_list *l, struct gpu_task *t) { next(l, t, GPU_I32)->fault = true; }

_Static_assert((int)TENSOR_RANK_MAX <= (int)GPU_DIMS, "a walk fits a task");

struct gpu_task *task_pointwise(struct task_list *l, const struct call *c, int function, int count)
{
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    struct gpu_pointwise *p = &t->u.pointwise;
    struct call some = *c;
    struct walk w;
    some.in_count = count;
    for (int k = 0; k < count; k++) task_value(l, t, c->in[k]);
    task_value(l, t, c->out[0]);
    if (l->refused) return t;
    if (walk_broadcast(&w, &some, NULL)) {
        task_refuse(l);
        return t;
    }
    p->function = function;
    p->inputs = count;
    p->count = (int64_t)operand_count(c->out[0]);
    bool dense = w.rank <= 1;
    for (int k = 0; k < count && dense; k++) dense = walk_step(&w, k) == 1 || p->count == 1;
    if (dense) return t;                   /* rank 0: every operand goes from element to element */
    p->rank = w.rank;
    memcpy(p->dims, w.dims, (size_t)w.rank * sizeof *p->dims);
    for (int k = 0; k < count; k++) memcpy(p->steps[k], w.stride[k], (size_t)w.rank * sizeof p->steps[k][0]);
    return t;
}

struct gpu_task *task_dense(struct task_list *l, int function, const struct operand *a, const struct operand *b, const struct operand *y)
{
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    task_value(l, t, a);
    if (b) task_value(l, t, b);
    task_value(l, t, y);
    t->u.pointwise = (struct gpu_pointwise){ .function = function, .inputs = b ? 2 : 1, .count = (int64_t)operand_count(y) };
    return t;
}

void task_move_into(struct task_list *l, const struct operand *y, int64_t to, const int64_t *y_steps, const struct operand *x, int64_t from, const int64_t *x_steps, int rank, const int64_t *dims)
{
    struct gpu_task *t = task_add(l, GPU_MOVE);
    struct walk w = { .rank = rank, .count = 2 };
    memcpy(w.dims, dims, (size_t)rank * sizeof *dims);
    memcpy(w.stride[0], x_steps, (size_t)rank * sizeof *x_steps);
    memcpy(w.stride[1], y_steps, (size_t)rank * sizeof *y_steps);
    walk_begin(&w);
    task_value(l, t, x);
    task_value(l, t, y);
    struct gpu_move *m = &t->u.move;
    *m = (struct gpu_move){ .rank = w.rank, .size = gpu_type_bytes(t->type[0]), .count = dims_product(dims, 0, rank), .from = from, .to = to };
    memcpy(m->dims, w.dims, (size_t)w.rank * sizeof *m->dims);
    memcpy(m->x_steps, w.stride[0], (size_t)w.rank * sizeof *m->x_steps);
    memcpy(m->y_steps, w.stride[1], (size_t)w.rank * sizeof *m->y_steps);
}

void task_move(struct task_list *l, const struct operand *y, const struct operand *x, int64_t from, int rank, const int64_t *dims, const int64_t *x_steps)
{
    int64_t y_steps[TENSOR_RANK_MAX], step = 1;
    for (int d = rank - 1; d >= 0; step *= dims[d--]) y_steps[d] = step;
    task_move_into(l, y, 0, y_steps, x, from, x_steps, rank, dims);
}

void task_weight(struct task_list *l, struct gpu_task *t, const struct node *n, int slot, const struct operand *w, const float *scale)
{
    if (l->refused || w->dtype != DT_F32 || !w->data || w->splat || w->rank < 2) {
        task_refuse(l);
        next(l, t, l->float_type);
        return;
    }
    struct task_source *s = next(l, t, l->float_type);
    if ((s->constant = gpu_store_find(l->store, n, slot))) return;
    const int64_t a = w->dims[0], b = w->dims[1], cells = dims_product(w->dims, 2, w->rank);
    const float *from = w->data;
    float *to = mem_alloc_array((uint64_t)(a * b), (uint64_t)cells * sizeof *to + 1);
    if (!to) {
        err_set(&l->error, ST_NO_MEMORY, "turning the weight of node '%s'", n->name);
        task_refuse(l);
        return;
    }
    for (int64_t i = 0; i < a; i++)
        for (int64_t j = 0; j < b; j++)
            for (int64_t k = 0; k < cells; k++) to[(i * cells + k) * b + j] = from[(i * b + j) * cells + k] * (scale ? scale[i] : 1);
    if (gpu_store_put(l->store, n, slot, to, (uint64_t)(a * b * cells), true, l->float_type, &s->constant, &l->error)) task_refuse(l);
    free(to);
}

struct gpu_window task_window(struct task_list *l, const struct window *w)
{
    struct gpu_window g = { .dims = w->dims };
    if (w->dims > GPU_SPACE) {
        task_refuse(l);
        return g;
    }
    for (int d = 0; d < w->dims; d++) g.in[d] = w->in[d], g.out[d] = w->out[d], g.kernel[d] = w->kernel[d], g.stride[d] = w->stride[d], g.dilation[d] = w->dilation[d], g.low[d] = w->low[d], g.high[d] = w->high[d];
    return g;
}

void task_fill(struct task_list *l, const struct operand *y, float v)
{
    struct gpu_task *t = task_add(l, GPU_FILL);
    task_value(l, t, y);
    t->u.fill = (struct gpu_fill){ .size = gpu_type_bytes(t->type[0]), .count = (int64_t)operand_count(y) };
    if (t->type[0] == GPU_F32) memcpy(&t->u.fill.bits, &v, sizeof v);
    else if (t->type[0] == GPU_F16) t->u.fill.bits = f32_to_f16(v);
    else if (t->type[0] == GPU_BF16) t->u.fill.bits = f32_to_bf16_one(v);
    else task_refuse(l);
}

bool task_keep_table(struct task_list *l, void *at)
{
    if (l->table_count == l->table_room) {
        const int room = l->table_room ? 2 * l->table_room : 16;
        void *more = mem_realloc_array(l->tables, (uint64_t)room, sizeof *l->tables);
        if (!more) return false;
        l->tables = more;
        l->table_room = room;
    }
    l->tables[l->table_count++] = at;
    return true;
}

void task_table(struct task_list *l, struct gpu_task *t, const void *data, uint64_t count, int type)
{
    struct task_source *s = next(l, t, type);
    if (l->refused) return;
    if (gpu_store_copy(l->store, data, count, false, type, &s->constant, &l->error)) task_refuse(l);
    else if (!task_keep_table(l, s->constant)) {
        l->store->api->free(l->store->gpu, s->constant);
        err_set(&l->error, ST_NO_MEMORY, "the tables of a plan");
        task_refuse(l);
    }
}
