#include <string.h>

#include "engine/ensemble/ensemble.h"

#define REFUSE(...) err_set(err, ST_BAD_INPUT, __VA_ARGS__)

/* -> the step that makes a tensor; step_count: the request brings it; -1: nobody. */
static int maker_of(const struct ensemble_plan *p, const char *tensor)
{
    if (signature_input(&p->signature, tensor)) return p->step_count;
    for (int s = 0; s < p->step_count; s++)
        for (int k = 0; k < p->steps[s].output_count; k++)
            if (!strcmp(p->steps[s].outputs[k].tensor, tensor)) return s;
    return -1;
}

static enum status check_makers(const struct ensemble_plan *p, struct err *err)
{
    for (int s = 0; s < p->step_count; s++) {
        const struct ensemble_step *step = &p->steps[s];
        if (!step->input_count || !step->output_count) return REFUSE("ensemble step %d (model '%.128s') needs an input_map and an output_map", s + 1, step->model);
        for (int k = 0; k < step->output_count; k++)
            if (maker_of(p, step->outputs[k].tensor) != s) return REFUSE("ensemble tensor '%.100s' is made twice: step %d (model '%.128s') is the second to give it", step->outputs[k].tensor, s + 1, step->model);
        for (int k = 0; k < step->input_count; k++)
            if (maker_of(p, step->inputs[k].tensor) < 0) return REFUSE("ensemble tensor '%.100s', which step %d (model '%.128s') takes, is no input of the ensemble and no step makes it", step->inputs[k].tensor, s + 1, step->model);
    }
    for (int k = 0; k < p->signature.output_count; k++)
        if (maker_of(p, p->signature.outputs[k].name) < 0) return REFUSE("ensemble output '%.100s' is made by no step", p->signature.outputs[k].name);
    return ST_OK;
}

enum status ensemble_check(const struct ensemble_plan *p, struct err *err)
{
    bool done[ENSEMBLE_STEPS_MAX] = { false };
    enum status st = check_makers(p, err);
    /* each round takes the steps whose makers are done; a round that takes none has met a circle */
    for (int left = p->step_count; !st && left;) {
        int before = left;
        for (int s = 0; s < p->step_count; s++) {
            bool ready = !done[s];
            for (int k = 0; ready && k < p->steps[s].input_count; k++) {
                int maker = maker_of(p, p->steps[s].inputs[k].tensor);
                ready = maker == p->step_count || done[maker];
            }
            if (ready) done[s] = true, left--;
        }
        if (left == before) {
            int s = 0;
            while (done[s]) s++;
            return REFUSE("the ensemble's steps go in a circle: step %d (model '%.128s') waits for what is made from its own output", s + 1, p->steps[s].model);
        }
    }
    return st;
}
