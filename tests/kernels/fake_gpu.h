/* A GPU without a card: the table of kernels/gpu.h over host memory, every task computed by the functions that the CUDA kernels are made of (kernels/cuda/body.h). It knows which memory is
 * its own: a task that is given a host address, or one beyond the end of an allocation, fails. Calls can be made to fail at the n-th. */
#ifndef TESTS_KERNELS_FAKE_GPU_H
#define TESTS_KERNELS_FAKE_GPU_H

#include "kernels/gpu.h"

const struct gpu_api *fake_gpu_api(void);
/* What tests of whole models run on: the library that the environment's TEST_GPU names (make test-gpu), else the one without a card. */
const struct gpu_api *test_gpu_api(void);
bool test_gpu_is_fake(void);

/* From now on call number `at` (1: the next) of open, alloc, pin, queue_open, put, get, wait, prepare, run, record and replay fails with `status`; a status that is not
 * ST_NO_MEMORY leaves the device lost. 0: no more. Gives the number of calls since the last setting. */
uint64_t fake_gpu_fail(uint64_t at, enum status status);
/* Bytes that are allocated and not given back, and queues, recordings and prepared tasks likewise. */
struct fake_gpu_held { uint64_t bytes, pinned; int queues, recordings, prepared; };
struct fake_gpu_held fake_gpu_held(void);
bool fake_gpu_is_empty(void);            /* none of them */
/* Computes a task whose addresses are host memory. */
void fake_gpu_compute(const struct gpu_task *t);
/* The same for the kinds of language models; false: it is not one of them. */
bool fake_gpu_compute_llm(const struct gpu_task *t);
/* From now on tasks are computed by this function, which is false for one that it refuses; NULL: by the one above. */
void fake_gpu_compute_by(bool (*compute)(const struct gpu_task *t));
/* Kinds of tasks that have run. */
uint64_t fake_gpu_ran(enum gpu_kind kind);

#endif
