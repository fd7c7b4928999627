/* What a node asks of a GPU: its call as a list of tasks (kernels/gpu.h). An operator that can be said so has a function `tasks` in its row of the table, beside eval; plan_gpu.c
 * calls it once for each plan, when every shape is known, and puts addresses in later.
 *
 * The device stores what the file calls float as F32, F16 or BF16 (the precision of the model) and every other type as it is. */
#ifndef ENGINE_GRAPH_TASKS_H
#define ENGINE_GRAPH_TASKS_H

#include "engine/graph/gpu_store.h"
#include "engine/graph/graph.h"
#include "kernels/gpu.h"

enum { TASKS_MAX = 64 };      /* of one node */

/* Where an operand of a task comes from: a value of the plan, the store's constant, a buffer of the node's own, or the word that says "an index was wrong". */
struct task_source { const struct operand *value; void *constant; int own /* its number + 1; -1: the staging place of conversions */; uint64_t own_at; bool fault; };

struct task_list {
    struct gpu_store *store;
    int               float_type;
    struct gpu_task   tasks[TASKS_MAX];
    struct task_source sources[TASKS_MAX][GPU_OPERANDS];
    int               count;
    uint64_t          own_bytes[TASKS_MAX]; int own_count;      /* buffers that live for this node's tasks only */
    void            **tables; int table_count, table_room;          /* device memory of the whole plan: the owner frees it */
    bool              refused;                                  /* something cannot be said: the node goes to the CPU */
    struct err        error;                                    /* why, or what failed: the status of the first failure that is not a refusal */
};

/* The device's type of a tensor's elements; -1: it has none. */
int  task_type(const struct task_list *l, enum dtype t);
/* A task more; what is filled in is kept even when the list is refused later. Never NULL: past TASKS_MAX the list is refused and the last one is given again. */
struct gpu_task *task_add(struct task_list *l, enum gpu_kind kind);
/* The next operand of the task: a value (NULL: left out, address 0). Types that the device has not, and splats, refuse the list. */
void task_value(struct task_list *l, struct gpu_task *t, const struct operand *o);
/* Numbers of the node itself: `count` floats, stored once for the model under (node, slot) as type. data NULL: left out. */
void task_floats(struct task_list *l, struct gpu_task *t, const struct node *n, int slot, const float *data, uint64_t count, int type);
/* Numbers that hold for this plan's shapes only, `type` already; copied now, freed with the plan. */
void task_table(struct task_list *l, struct gpu_task *t, const void *data, uint64_t count, int type);
/* Device memory that is freed with the plan; false: no memory to remember it. */
bool task_keep_table(struct task_list *l, void *at);
/* A buffer of the node's own: made once, named by its number afterwards. */
int  task_own(struct task_list *l, uint64_t bytes);
void task_own_operand(struct task_list *l, struct gpu_task *t, int own, int type);
/* The weight of a convolution, [a, b, cells...] in the file, as [a, cells..., b]; scale, where there is one, multiplies each of a. It must be a constant of floats. */
void task_weight(struct task_list *l, struct gpu_task *t, const struct node *n, int slot, const struct operand *w, const float *scale);
/* A window's first dimensions; more than GPU_SPACE refuse the list. */
struct window;
struct gpu_window task_window(struct task_list *l, const struct window *w);
/* What lies at a device address that the node's spec knows (NULL: left out). */
void task_device(struct task_list *l, struct gpu_task *t, void *at, int type);
void task_fault(struct task_list *l, struct gpu_task *t);
/* Says that it cannot be done. */
void task_refuse(struct task_list *l);

/* y = function(inputs) over broadcast inputs 0 to count - 1 of the call, in y's order. */
struct gpu_task *task_pointwise(struct task_list *l, const struct call *c, int function, int count);
/* The same of dense values of one shape; b NULL: of a alone. */
struct gpu_task *task_dense(struct task_list *l, int function, const struct operand *a, const struct operand *b, const struct operand *y);
/* Every element of y is this float. */
void task_fill(struct task_list *l, const struct operand *y, float v);
/* Elements of x, `from` on by steps of their own, to a dense y in order of dims. */
void task_move(struct task_list *l, const struct operand *y, const struct operand *x, int64_t from, int rank, const int64_t *dims, const int64_t *x_steps);
/* The same to places of y, `to` on by y_steps. */
void task_move_into(struct task_list *l, const struct operand *y, int64_t to, const int64_t *y_steps, const struct operand *x, int64_t from, const int64_t *x_steps, int rank, const int64_t *dims);

#endif
