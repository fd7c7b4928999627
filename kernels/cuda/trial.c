#include "kernels/cuda/internal.h"

enum { TIMES = 5 };

enum status trial_begin(struct trial *t, struct gpu *g, const struct gpu_task *task, const uint64_t *counts, struct err *err)
{
    *t = (struct trial){ .gpu = g, .task = *task };
    enum status st = cuda_trial_queue(g, &t->queue, err);
    for (int k = 0; k < task->operands && !st; k++) {
        const uint64_t bytes = counts[k] * (uint64_t)gpu_type_bytes(task->type[k]);
        if (!bytes) continue;
        st = memory_take(g->memory, bytes, &t->buffers[k], err);
        if (!st) st = cuda_check(g, cudaMemsetAsync(t->buffers[k], 0x3c, bytes, t->queue->stream), "timing a task", err);
        t->task.at[k] = t->buffers[k];
    }
    if (st) trial_end(t);
    return st;
}

float trial_time(struct trial *t, enum status (*once)(void *plan, const void *offer, struct gpu_queue *q, const struct gpu_task *task, struct err *err), void *plan, const void *offer)
{
    struct gpu_queue *q = t->queue;
    float ms = -1;
    struct err why;
    if (once(plan, offer, q, &t->task, &why) || cudaEventRecord(q->begun, q->stream) != cudaSuccess) return -1;
    for (int i = 0; i < TIMES; i++)
        if (once(plan, offer, q, &t->task, &why)) return -1;
    if (cudaEventRecord(q->ended, q->stream) != cudaSuccess || cudaStreamSynchronize(q->stream) != cudaSuccess || cudaEventElapsedTime(&ms, q->begun, q->ended) != cudaSuccess) return -1;
    return ms;
}

void trial_end(struct trial *t)
{
    for (int k = 0; k < GPU_OPERANDS; k++) memory_give(t->gpu->memory, t->buffers[k]);
}
