/* Sequence batching (Triton's sequence_batching): requests that carry the same sequence id are answered one after the other, and what a model says about its state in one is
 * an input of the next. Requests of different sequences ride together like any others. A part of the scheduler, and used by it alone.
 *
 * A sequence begins with a request that says sequence_start, ends with one that says sequence_end, or after idle_us without a request. At most `candidates` are under way; the
 * requests of further ones are held until one of these ends. An `iterative` model's requests are sequences of their own, from start to end in one. Which row of a batch a sequence gets means nothing here, so `direct` and `oldest` differ only in their number. */
#ifndef ENGINE_SEQUENCES_H
#define ENGINE_SEQUENCES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/request.h"
#include "engine/signature.h"

enum { SEQUENCE_CONTROLS_MAX = 16, SEQUENCE_STATES_MAX = 64, SEQUENCE_ID_MAX = 128, SEQUENCES_KEPT_MAX = 65536 /* under way or waiting */ };

/* Inputs that tell the model where in its sequence a request is. */
enum sequence_control_kind { CONTROL_START, CONTROL_END, CONTROL_READY /* always true */, CONTROL_ID };
struct sequence_control {
    const char *name;
    enum sequence_control_kind kind;
    enum dtype  dtype;
    uint8_t     values[2][8];              /* one element of that dtype: false, true; not of CONTROL_ID */
};

/* An output that is the same sequence's next input. */
struct carried_state {
    const char *input, *output;
    enum dtype  dtype;
    int         rank; int64_t dims[TENSOR_RANK_MAX];      /* of the first; batch dimension included (1) */
    const char *file;                      /* what the first holds, row-major; NULL: zero */
    const void *first;                     /* its bytes, once they were read */
};

struct sequence_plan {
    bool     on;
    bool     iterative;
    bool     rows;                         /* tensors have a batch dimension: a request brings one row */
    int      candidates;
    uint64_t idle_us;
    const struct sequence_control *controls; int control_count;
    const struct carried_state   *states;   int state_count;
};

struct sequences;
struct sequences *sequences_open(const struct sequence_plan *p);      /* NULL without memory; the plan is borrowed */
void              sequences_close(struct sequences *q);

/* Reads sequence_id, sequence_start and sequence_end, and gives the request the inputs and wanted outputs that its client knows nothing of. Before the engine's check. */
enum status sequences_prepare(struct sequences *q, struct request *r, const struct signature *s, struct err *err);

/* All below with the scheduler's lock. *ready: it may be queued; otherwise it is held. ST_BAD_INPUT: no such sequence. */
enum status sequences_enter(struct sequences *q, struct request *r, uint64_t now, bool *ready, struct err *err);
/* A request is over, or it was held and will not be. -> the requests that may be queued now, linked by `next`. */
struct request *sequences_leave(struct sequences *q, struct request *r, uint64_t now);
/* Ends what has been idle too long (everything idle when `closing`). -> as above */
struct request *sequences_sweep(struct sequences *q, uint64_t now, bool closing);
/* When a sweep may end the next one; 0: nothing idle. */
uint64_t        sequences_next_sweep(const struct sequences *q);
/* Puts the sequence's state into the inputs of a request that is about to be queued. */
enum status     sequences_dispatch(struct sequences *q, struct request *r, struct err *err);

/* Without the lock, by the worker that has r's outputs: the state leaves the answer and becomes the sequence's. */
enum status     sequences_capture(struct sequences *q, struct request *r, struct err *err);

#endif
