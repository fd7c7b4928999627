/* The engine of ensembles. An instance computes nothing: its step hands requests to other models' schedulers and sleeps until one of them has an answer, somebody new is
 * queued, or nobody wants the rest. Two kinds of request meet here: the one asked of the ensemble (the "call") and those made for its steps (the "children").
 *
 * Who keeps whose memory: a child holds its call's request and the children whose outputs it takes, until its own answer is there (or, when it fails, until nobody touches
 * it any more); a call holds its children until it is retired; the answer holds the children in whose memory its outputs lie (request.kept). */
#include "engine/ensemble/ensemble.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/threads.h"
#include "engine/scheduler.h"

enum { CHILD_BYTES_MAX = 512 << 20, NAP_MS = 1000 };

struct engine {
    const struct ensemble_plan   *plan;
    const struct ensemble_models *models;
    struct signature signature;
};

struct engine_instance {
    struct engine  *engine;
    pthread_mutex_t lock;                  /* guards what follows and every child's `over` */
    pthread_cond_t  news;
    bool            woken;
    int             running;               /* children whose event has not come */
};

struct child {
    struct request          request;       /* first: a request is its child */
    struct engine_instance *instance;
    struct scheduler       *scheduler;
    void                   *pin;
    const struct ensemble_models *models;
    struct request        **lenders; int lender_count;      /* whose memory the inputs are */
    bool                    over, seen;    /* its event came; its call knows */
};

struct call {
    struct slot    base;
    struct child  *children[ENSEMBLE_STEPS_MAX];      /* NULL: not begun */
    int            done;
};

/* ---- children ---- */
static void child_let_go(struct child *c)
{
    for (int i = 0; i < c->lender_count; i++) request_drop(c->lenders[i]);
    c->lender_count = 0;
}

static void child_release(struct request *r)
{
    struct child *c = (struct child *)r;
    child_let_go(c);
    if (c->pin) c->models->unpin(c->models->context, c->pin);
    arena_free(&r->arena);
    free(c);
}

static void child_event(struct request *r, enum request_event e)
{
    struct child *c = (struct child *)r;
    struct engine_instance *i = c->instance;
    if (e == EVENT_PARTIAL) return;
    pthread_mutex_lock(&i->lock);
    c->over = true;
    i->running--;
    pthread_cond_broadcast(&i->news);
    pthread_mutex_unlock(&i->lock);
}

/* The tensor of that name as the call has it now; `owner` is the request in whose memory it lies. NULL: nobody has made it yet. */
static const struct tensor *find_tensor(const struct engine *e, const struct call *call, const char *name, struct request **owner)
{
    struct request *parent = call->base.request;
    for (int i = 0; i < parent->input_count; i++)
        if (!strcmp(parent->inputs[i].name, name)) return *owner = parent, &parent->inputs[i].tensor;
    for (int s = 0; s < e->plan->step_count; s++) {
        const struct child *c = call->children[s];
        if (!c || !c->seen) continue;
        for (int k = 0; k < e->plan->steps[s].output_count; k++) {
            if (strcmp(e->plan->steps[s].outputs[k].tensor, name)) continue;
            for (int o = 0; o < c->request.output_count; o++)
                if (!strcmp(c->request.outputs[o].name, e->plan->steps[s].outputs[k].port)) return *owner = (struct request *)&c->request, &c->request.outputs[o].tensor;
        }
    }
    return NULL;
}

static enum status fill_child(struct child *c, const struct engine *e, const struct call *call, const struct ensemble_step *step, struct err *err)
{
    struct request *r = &c->request, *parent = call->base.request;
    r->inputs = arena_calloc(&r->arena, (uint64_t)step->input_count, sizeof *r->inputs);
    r->wanted = arena_calloc(&r->arena, (uint64_t)step->output_count, sizeof *r->wanted);
    c->lenders = arena_calloc(&r->arena, (uint64_t)step->input_count, sizeof(struct request *));
    if (!r->inputs || !r->wanted || !c->lenders) return err_set(err, ST_NO_MEMORY, "no memory for its request");
    for (int k = 0; k < step->input_count; k++) {
        struct request *owner;
        const struct tensor *t = find_tensor(e, call, step->inputs[k].tensor, &owner);
        if (!t) return err_set(err, ST_INTERNAL, "the tensor '%.100s' was not among the answers", step->inputs[k].tensor);
        r->inputs[r->input_count++] = (struct request_tensor){ step->inputs[k].port, *t };
        request_hold(owner);
        c->lenders[c->lender_count++] = owner;
    }
    for (int k = 0; k < step->output_count; k++) r->wanted[r->wanted_count++] = step->outputs[k].port;
    r->id = parent->id;
    r->parameters = parent->parameters;
    r->parameter_count = parent->parameter_count;
    r->priority = parent->priority;
    r->queue_timeout_us = parent->queue_timeout_us;
    r->deadline_ns = parent->deadline_ns;
    r->times.received = parent->times.received;
    return ST_OK;
}

static enum status launch(struct engine_instance *i, struct call *call, int at, struct err *err)
{
    const struct engine *e = i->engine;
    const struct ensemble_step *step = &e->plan->steps[at];
    struct child *c = mem_calloc_array(1, sizeof *c);
    if (!c) return err_set(err, ST_NO_MEMORY, "no memory for its request");
    request_init(&c->request, CHILD_BYTES_MAX);
    c->request.event = child_event;
    c->request.release = child_release;
    c->instance = i;
    c->models = e->models;
    enum status st = e->models->pin(e->models->context, step->model, step->version, &c->scheduler, &c->pin, err);
    if (!st) st = fill_child(c, e, call, step, err);
    if (!st) {
        pthread_mutex_lock(&i->lock);
        i->running++;
        pthread_mutex_unlock(&i->lock);
        call->children[at] = c;      /* before the event may come */
        st = scheduler_submit(c->scheduler, &c->request, err);
        if (!st) return ST_OK;
        pthread_mutex_lock(&i->lock);
        i->running--;
        pthread_mutex_unlock(&i->lock);
        call->children[at] = NULL;
    }
    request_drop(&c->request);
    return st;
}

/* ---- calls ---- */
static enum status step_failed(struct call *call, const struct engine *e, int at, const struct err *why)
{
    call->base.error = *why;
    err_prefix(&call->base.error, "ensemble step %d, model '%.128s'", at + 1, e->plan->steps[at].model);
    call->base.state = SLOT_FAILED;
    return why->status;
}

static bool begins(const struct engine *e, const struct call *call, int at)
{
    struct request *owner;
    if (call->children[at]) return false;
    for (int k = 0; k < e->plan->steps[at].input_count; k++)
        if (!find_tensor(e, call, e->plan->steps[at].inputs[k].tensor, &owner)) return false;
    return true;
}

static enum status answer(struct call *call, const struct engine *e, struct err *err)
{
    struct request *r = call->base.request;
    const struct signature *s = &e->signature;
    const int n = r->wanted_count ? r->wanted_count : s->output_count;
    r->outputs = arena_calloc(&r->arena, (uint64_t)n + 1, sizeof *r->outputs);
    r->kept = arena_calloc(&r->arena, (uint64_t)n + 1, sizeof(struct request *));
    if (!r->outputs || !r->kept) return err_set(err, ST_NO_MEMORY, "no memory for the answer");
    for (int k = 0; k < n; k++) {
        const char *name = r->wanted_count ? r->wanted[k] : s->outputs[k].name;
        struct request *owner;
        const struct tensor *t = find_tensor(e, call, name, &owner);
        if (!t) return err_set(err, ST_INTERNAL, "the output '%.100s' was not among the answers", name);
        r->outputs[r->output_count++] = (struct request_tensor){ name, *t };
        request_hold(owner);
        r->kept[r->kept_count++] = owner;
    }
    return ST_OK;
}

/* What has come is taken note of, what can begin begins. */
static void advance(struct engine_instance *i, struct call *call)
{
    const struct engine *e = i->engine;
    struct err why = { 0 };
    for (int s = 0; s < e->plan->step_count; s++) {
        struct child *c = call->children[s];
        if (!c || c->seen) continue;
        pthread_mutex_lock(&i->lock);
        c->seen = c->over;
        pthread_mutex_unlock(&i->lock);
        if (!c->seen) continue;
        if (c->request.error.status) {
            step_failed(call, e, s, &c->request.error);
            return;
        }
        child_let_go(c);
        call->done++;
    }
    for (int s = 0; s < e->plan->step_count; s++)
        if (begins(e, call, s) && launch(i, call, s, &why)) {
            step_failed(call, e, s, &why);
            return;
        }
    if (call->done < e->plan->step_count) return;
    if (answer(call, e, &call->base.error)) call->base.state = SLOT_FAILED;
    else call->base.state = SLOT_DONE;
    call->base.request->times.infer_done = clock_ns();
}

/* ---- the contract ---- */
static enum status engine_open(struct engine **out, const struct model_files *files, const struct engine_options *options, struct err *err)
{
    (void)files;
    if (!options->ensemble || !options->models) return err_set(err, ST_BAD_INPUT, "an ensemble needs ensemble_scheduling in its config");
    enum status st = ensemble_check(options->ensemble, err);
    struct engine *e = st ? NULL : mem_calloc_array(1, sizeof *e);
    if (st) return st;
    if (!e) return err_set(err, ST_NO_MEMORY, "opening an ensemble");
    *e = (struct engine){ .plan = options->ensemble, .models = options->models, .signature = options->ensemble->signature };
    *out = e;
    return ST_OK;
}

static const struct signature *engine_describe(const struct engine *e) { return &e->signature; }
static void engine_close(struct engine *e) { free(e); }

static enum status engine_check(const struct engine *e, struct request *r, struct err *err)
{
    enum status st = request_check_ports(r, &e->signature, err);
    if (!st && e->signature.batchable && r->rows > e->plan->rows_max) st = err_set(err, ST_BAD_INPUT, "inference request batch-size must be <= %lld", (long long)e->plan->rows_max);
    r->rows = 1;      /* what is limited here is how many wait */
    r->ride_key = 0;
    return st;
}

static enum status instance_start(struct engine_instance **out, struct engine *e, struct err *err)
{
    struct engine_instance *i = mem_calloc_array(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "starting an instance");
    i->engine = e;
    pthread_mutex_init(&i->lock, NULL);
    condition_init(&i->news);
    *out = i;
    return ST_OK;
}

static void instance_stop(struct engine_instance *i)
{
    pthread_mutex_lock(&i->lock);
    while (i->running) pthread_cond_wait(&i->news, &i->lock);      /* children of calls that were dropped tell us still */
    pthread_mutex_unlock(&i->lock);
    pthread_cond_destroy(&i->news);
    pthread_mutex_destroy(&i->lock);
    free(i);
}

static enum status instance_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err)
{
    (void)i;
    (void)r;
    struct call *call = mem_calloc_array(1, sizeof *call);
    if (!call) return err_set(err, ST_NO_MEMORY, "no memory for an ensemble's request");
    *out = &call->base;
    return ST_OK;
}

static void instance_retire(struct engine_instance *i, struct slot *s)
{
    struct call *call = (struct call *)s;
    for (int k = 0; k < i->engine->plan->step_count; k++) {
        struct child *c = call->children[k];
        if (!c) continue;
        if (!c->seen) scheduler_cancel(c->scheduler, &c->request);
        request_drop(&c->request);
    }
    free(call);
}

static void instance_wake(struct engine_instance *i)
{
    pthread_mutex_lock(&i->lock);
    i->woken = true;
    pthread_cond_broadcast(&i->news);
    pthread_mutex_unlock(&i->lock);
}

static bool has_news(const struct engine *e, const struct call *call)
{
    for (int s = 0; s < e->plan->step_count; s++)
        if (call->children[s] && call->children[s]->over && !call->children[s]->seen) return true;
    return false;
}

/* Sleeps until a child of these calls is over or somebody else wants the worker. False: the latter. */
static bool wait_for_news(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop)
{
    bool news = false;
    pthread_mutex_lock(&i->lock);
    for (;;) {
        for (int k = 0; k < n && !news; k++) news = has_news(i->engine, (const struct call *)slots[k]);
        if (news || i->woken || atomic_load(stop)) break;
        condition_wait(&i->news, &i->lock, clock_ns() + (uint64_t)NAP_MS * 1000000);
    }
    i->woken = false;
    pthread_mutex_unlock(&i->lock);
    return news;
}

static enum status instance_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    (void)err;
    bool fresh = false, ended = false;
    for (int k = 0; k < n; k++) {
        struct request_times *t = &slots[k]->request->times;
        fresh |= !t->input_done;
        if (!t->input_done) t->input_done = clock_ns();
    }
    while (!ended && (fresh || wait_for_news(i, slots, n, stop))) {
        fresh = false;
        for (int k = 0; k < n; k++) {
            if (slots[k]->state == SLOT_RUNNING) advance(i, (struct call *)slots[k]);
            ended |= slots[k]->state != SLOT_RUNNING;
        }
    }
    return ST_OK;
}

static enum status instance_collect(struct engine_instance *i, struct err *err)
{
    (void)i;
    (void)err;
    return ST_OK;
}

const struct engine_ops ensemble_engine = {
    .name = "ensemble", .open = engine_open, .describe = engine_describe, .close = engine_close, .check = engine_check, .start = instance_start, .stop = instance_stop,
    .admit = instance_admit, .submit = instance_submit, .collect = instance_collect, .retire = instance_retire, .wake = instance_wake,
};
