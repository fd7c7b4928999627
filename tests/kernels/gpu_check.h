/* Between the files of gpu-check: a task beside its reference. */
#ifndef TESTS_KERNELS_GPU_CHECK_H
#define TESTS_KERNELS_GPU_CHECK_H

#include "kernels/gpu.h"

/* An operand: `count` numbers of a type; random, or whole numbers below `limit`, or what `given` holds. out: a result; begins: it holds operand begins - 1 before, in whose place it is made.
 * bound: of a result whose kernel rounds more than its type does; 0: what the type allows. */
struct numbers { int type; int64_t count; int limit; bool out; int begins; const void *given; double bound; };

uint32_t gpu_check_draw(void);
/* The task on both sides, started and recorded; says what differs. */
void gpu_check_task(const char *name, struct gpu_task t, const struct numbers *n, int count);
/* gpu_llm_check.c */
void gpu_check_llm(void);

#endif
