/* A DAG of models as one model (Triton's ensemble_scheduling): each step is a request to another model's scheduler, made when what it takes is there. Tensors are
 * passed on as they are, without a copy: a request holds those in whose memory its inputs lie until it is over, and the answer those of its outputs. Batching, priorities
 * and limits are those of the models; deadline, priority and cancellation go on to every step. */
#ifndef ENGINE_ENSEMBLE_ENSEMBLE_H
#define ENGINE_ENSEMBLE_ENSEMBLE_H

#include "engine/engine.h"

enum { ENSEMBLE_STEPS_MAX = 64, ENSEMBLE_CALLS_MAX = 1024 /* requests that wait for steps at a time */ };

struct ensemble_edge { const char *port, *tensor; };      /* a model's input or output, and the ensemble's name for what goes through it */

struct ensemble_step {
    const char *model;
    int64_t     version;                   /* 0: its default */
    const struct ensemble_edge *inputs;  int input_count;
    const struct ensemble_edge *outputs; int output_count;
};

struct ensemble_plan {
    const struct ensemble_step *steps; int step_count;
    struct signature signature;            /* inputs and outputs are names of tensors; batchable: the first dimension is rows */
    int64_t rows_max;                      /* of a batchable one */
};

/* Where a step finds its model. `pin` keeps the version until unpin; ST_NOT_FOUND or ST_UNAVAILABLE. Any thread. */
struct ensemble_models {
    void *context;
    enum status (*pin)(void *context, const char *model, int64_t version, struct scheduler **scheduler, void **pin, struct err *err);
    void        (*unpin)(void *context, void *pin);
};

/* Every tensor that a step takes or the ensemble gives has one maker, and the steps have an order. ST_BAD_INPUT names what is wrong. */
enum status ensemble_check(const struct ensemble_plan *p, struct err *err);

extern const struct engine_ops ensemble_engine;      /* opened with engine_options.ensemble and models; files are not looked at */

#endif
