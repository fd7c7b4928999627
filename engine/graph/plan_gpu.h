/* A plan on a GPU. Every step whose operator can be said as tasks runs there, on a workspace in device memory that is laid out as the host's; the others run on the CPU, and values go over
 * where the other side reads them. Which goes where is settled when the plan is made: a list of legs (tasks, a copy to the device, a copy back, a step of the CPU). Legs of tasks are
 * recorded at their second run and replayed from then on. */
#ifndef ENGINE_GRAPH_PLAN_GPU_H
#define ENGINE_GRAPH_PLAN_GPU_H

#include "engine/graph/plan_internal.h"

struct plan_gpu;

enum status plan_gpu_open(struct plan_gpu **out, struct plan *p, struct err *err);     /* p: buffers placed */
void        plan_gpu_close(struct plan_gpu *d);                                         /* NULL is fine */
enum status plan_gpu_run(struct plan_gpu *d, struct arena *run, const atomic_bool *stop, struct err *err);
bool        plan_gpu_has(const struct plan_gpu *d, int step);                           /* does this step run on the device? */

/* Counts of a plan, for logs, benchmarks and tests. */
struct plan_gpu_counts { int device_steps, host_steps, puts, gets, tasks; };
struct plan_gpu_counts plan_gpu_counts(const struct plan *p);

#endif
