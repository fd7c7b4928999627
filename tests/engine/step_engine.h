/* A real engine of the step contract with many steps, for tests of the scheduler: a request's one input "work" is int64 [rows, 2] of {steps,
 * value}; each step streams one partial result, and after `steps` of them (of row 0) the output "sum" is int64 [rows, 1] = value * steps,
 * added up step by step. A negative value fails at its last step; steps above 1000000 are refused by check. */
#ifndef TESTS_ENGINE_STEP_ENGINE_H
#define TESTS_ENGINE_STEP_ENGINE_H

#include "engine/engine.h"

struct step_engine_control {
    atomic_uint step_us;                  /* how long a step takes */
    atomic_int  room;                     /* slots an instance has; 0: as many as asked */
    atomic_int  steps, slots_open, slots_peak, riders_peak, preempt_once, mixed_keys;
    atomic_int  instances;
    atomic_int  running, running_peak;    /* steps at the same time, over all engines */
    atomic_bool fail_start;
};
extern struct step_engine_control step_control;
extern const struct engine_ops step_engine;

#endif
