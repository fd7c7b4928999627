#include "tests/engine/step_engine.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct engine { int unused; };
struct engine_instance { struct slot *const *slots; int count; };
struct step_slot { struct slot slot; int64_t left; int64_t *sums; };

struct step_engine_control step_control;

static const struct port in = { "work", DT_I64, 2, { -1, 2 }, false }, out = { "sum", DT_I64, 2, { -1, 1 }, false };
static const struct signature signature = { .platform = "step", .inputs = &in, .input_count = 1, .outputs = &out, .output_count = 1, .batchable = true };

static enum status step_open(struct engine **e, const struct model_files *files, const struct engine_options *options, struct err *err)
{
    (void)files, (void)options;
    *e = calloc(1, sizeof **e);
    return *e ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory");
}

static const struct signature *step_describe(const struct engine *e) { (void)e; return &signature; }
static void step_close(struct engine *e) { free(e); }

static enum status step_check(const struct engine *e, struct request *r, struct err *err)
{
    (void)e;
    if (r->input_count != 1 || r->inputs[0].tensor.dtype != DT_I64) return err_set(err, ST_BAD_INPUT, "one int64 input is wanted");
    const int64_t *work = r->inputs[0].tensor.data;
    if (work[0] > 1000000) return err_set(err, ST_BAD_INPUT, "too many steps");
    r->rows = r->inputs[0].tensor.dims[0];
    r->ride_key = (uint64_t)(r->priority == 7);
    return ST_OK;
}

static enum status step_start(struct engine_instance **i, struct engine *e, struct err *err)
{
    (void)e;
    if (atomic_load(&step_control.fail_start)) return err_set(err, ST_NO_MEMORY, "this instance was told to fail");
    *i = calloc(1, sizeof **i);
    atomic_fetch_add(&step_control.instances, 1);
    return ST_OK;
}

static void step_stop(struct engine_instance *i)
{
    atomic_fetch_sub(&step_control.instances, 1);
    free(i);
}

static enum status step_admit(struct engine_instance *i, struct request *r, struct slot **slot, struct err *err)
{
    (void)i;
    int room = atomic_load(&step_control.room);
    if (room && atomic_load(&step_control.slots_open) >= room) return err_set(err, ST_UNAVAILABLE, "no room");
    struct step_slot *s = calloc(1, sizeof *s);
    const int64_t *work = r->inputs[0].tensor.data;
    s->left = work[0];
    s->sums = calloc((size_t)r->rows, sizeof *s->sums);
    int open = atomic_fetch_add(&step_control.slots_open, 1) + 1;
    if (open > atomic_load(&step_control.slots_peak)) atomic_store(&step_control.slots_peak, open);
    *slot = &s->slot;
    return ST_OK;
}

static enum status step_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    i->slots = slots;
    i->count = n;
    if (n > atomic_load(&step_control.riders_peak)) atomic_store(&step_control.riders_peak, n);
    for (int k = 1; k < n; k++)
        if (slots[k]->request->ride_key != slots[0]->request->ride_key) atomic_store(&step_control.mixed_keys, 1);
    int running = atomic_fetch_add(&step_control.running, 1) + 1, peak = atomic_load(&step_control.running_peak);
    while (running > peak && !atomic_compare_exchange_weak(&step_control.running_peak, &peak, running)) continue;
    unsigned us = atomic_load(&step_control.step_us);
    for (; us > 0 && !atomic_load(stop); us -= us < 1000 ? us : 1000) usleep(us < 1000 ? us : 1000);
    atomic_fetch_sub(&step_control.running, 1);
    return us ? err_set(err, ST_CANCELLED, "nobody wants this step") : ST_OK;
}

static enum status step_collect(struct engine_instance *i, struct err *err)
{
    (void)err;
    atomic_fetch_add(&step_control.steps, 1);
    for (int k = 0; k < i->count; k++) {
        struct step_slot *s = (struct step_slot *)i->slots[k];
        struct request *r = s->slot.request;
        const int64_t *work = r->inputs[0].tensor.data;
        int one = 1;
        if (atomic_compare_exchange_strong(&step_control.preempt_once, &one, 0)) {
            s->slot.state = SLOT_PREEMPTED;
            continue;
        }
        for (int64_t row = 0; row < r->rows; row++) s->sums[row] += work[row * 2 + 1];
        s->slot.partial = true;
        s->slot.state = SLOT_RUNNING;
        if (--s->left > 0) continue;
        s->slot.state = SLOT_DONE;
        r->times.input_done = r->times.infer_done = r->times.taken;
        r->output_count = 1;
        r->outputs = arena_calloc(&r->arena, 1, sizeof *r->outputs);
        if (work[1] < 0) err_set(&s->slot.error, ST_INTERNAL, "a negative value"), s->slot.state = SLOT_FAILED;
        else if (request_output(r, 0, "sum", DT_I64, (int64_t[]){ r->rows, 1 }, 2, &s->slot.error)) s->slot.state = SLOT_FAILED;
        else memcpy(r->outputs[0].tensor.data, s->sums, (size_t)r->rows * sizeof *s->sums);
    }
    return ST_OK;
}

static void step_retire(struct engine_instance *i, struct slot *slot)
{
    (void)i;
    struct step_slot *s = (struct step_slot *)slot;
    atomic_fetch_sub(&step_control.slots_open, 1);
    free(s->sums);
    free(s);
}

const struct engine_ops step_engine = {
    .name = "step", .open = step_open, .describe = step_describe, .close = step_close, .check = step_check, .start = step_start, .stop = step_stop,
    .admit = step_admit, .submit = step_submit, .collect = step_collect, .retire = step_retire,
};
