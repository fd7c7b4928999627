#include "engine/graph/plan_gpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/tasks.h"

enum { ALIGN = 256, RECORD_MIN = 4 /* tasks that are worth recording */ };
enum leg_kind { LEG_TASKS, LEG_PUT, LEG_GET, LEG_HOST };
enum recorded { RECORD_NOT_YET, RECORD_NEXT, RECORD_NEVER };

struct leg { enum leg_kind kind; int first, count /* of tasks */, value, step; enum recorded state; struct gpu_recording *recording; };

struct plan_gpu {
    struct plan       *plan;
    struct gpu_store  *store;
    struct gpu_task   *tasks; struct task_source *sources /* [task][GPU_OPERANDS] */; int task_count, task_room, source_room;
    struct leg        *legs; int leg_count, leg_room;
    void             **tables; int table_count;
    bool              *on_device;       /* [step] */
    bool              *host_has, *device_has;      /* [root], while legs are laid */
    uint64_t           own, own_bytes, staging, staging_bytes, fault, bytes;      /* places behind the workspace, and all */
    bool               faults;          /* some task looks at indices */
    struct plan_site   site;
    struct plan_gpu_counts counts;
};

static uint64_t whole(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }
static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "laying out a plan on the device"); }

/* Room for one more of something. */
static bool grow(void **items, int count, int *room, size_t size)
{
    if (count < *room) return true;
    const int more = *room ? 2 * *room : 64;
    void *p = mem_realloc_array(*items, (uint64_t)more, size);
    if (!p) return false;
    *items = p;
    *room = more;
    return true;
}

static struct leg *add_leg(struct plan_gpu *d, enum leg_kind kind)
{
    void *items = d->legs;
    if (!grow(&items, d->leg_count, &d->leg_room, sizeof *d->legs)) return NULL;
    d->legs = items;
    d->legs[d->leg_count] = (struct leg){ .kind = kind, .first = d->task_count, .value = -1, .step = -1 };
    return &d->legs[d->leg_count++];
}

/* Takes a task over into the last leg of tasks, or a new one. */
static enum status add_task(struct plan_gpu *d, const struct gpu_task *t, const struct task_source *sources, struct err *err)
{
    void *tasks = d->tasks, *rows = d->sources;
    const bool room = grow(&tasks, d->task_count, &d->task_room, sizeof *d->tasks) && grow(&rows, d->task_count, &d->source_room, GPU_OPERANDS * sizeof *d->sources);
    d->tasks = tasks;
    d->sources = rows;
    if (!room) return no_memory(err);
    struct leg *last = d->leg_count ? &d->legs[d->leg_count - 1] : NULL;
    if ((!last || last->kind != LEG_TASKS) && !(last = add_leg(d, LEG_TASKS))) return no_memory(err);
    d->tasks[d->task_count] = *t;
    memcpy(d->sources + (size_t)d->task_count * GPU_OPERANDS, sources, GPU_OPERANDS * sizeof *sources);
    for (int k = 0; k < t->operands; k++) d->faults = d->faults || sources[k].fault;
    d->task_count++;
    last->count++;
    return ST_OK;
}

static int number_of(const struct plan_gpu *d, const struct operand *o) { return (int)(o - d->plan->operands); }
static bool is_known(const struct plan_gpu *d, int v) { return d->plan->buffers[plan_root(d->plan, v)].place == PLACE_KNOWN; }

/* A float of the file that the device stores in another size or format goes over through the staging place. */
static bool is_converted(const struct plan_gpu *d, const struct operand *o) { return o->dtype == DT_F32 && d->store->float_type != GPU_F32; }

static enum status convert(struct plan_gpu *d, const struct operand *o, bool to_device, struct err *err)
{
    struct gpu_task t;
    struct task_source sources[GPU_OPERANDS] = { { 0 } };
    memset(&t, 0, sizeof t);
    t.kind = GPU_POINTWISE;
    t.operands = 2;
    t.type[to_device] = d->store->float_type;
    t.type[!to_device] = GPU_F32;
    t.u.pointwise.function = GPU_COPY;
    t.u.pointwise.inputs = 1;
    t.u.pointwise.count = (int64_t)operand_count(o);
    sources[to_device].value = o;
    sources[!to_device].own = -1;              /* the staging place */
    if (o->bytes > d->staging_bytes) d->staging_bytes = o->bytes;
    enum status st = d->store->api->prepare(d->store->gpu, &t, err);
    if (!st && (st = add_task(d, &t, sources, err))) d->store->api->release(d->store->gpu, &t);
    return st;
}

static enum status copy_over(struct plan_gpu *d, int v, bool to_device, struct err *err)
{
    const struct operand *o = &d->plan->operands[v];
    const bool converted = is_converted(d, o);
    enum status st = ST_OK;
    if (!to_device && converted) st = convert(d, o, false, err);
    struct leg *l = st ? NULL : add_leg(d, to_device ? LEG_PUT : LEG_GET);
    if (!l) return st ? st : no_memory(err);
    l->value = v;
    if (to_device) d->counts.puts++;
    else d->counts.gets++;
    return to_device && converted ? convert(d, o, true, err) : ST_OK;
}

/* Values that the device has not. */
static enum status bring(struct plan_gpu *d, const struct node *n, bool to_device, struct err *err)
{
    bool *has = to_device ? d->device_has : d->host_has;
    enum status st = ST_OK;
    for (int k = 0; k < n->in_count && !st; k++) {
        if (n->in[k] < 0 || is_known(d, n->in[k])) continue;
        if (d->plan->operands[n->in[k]].state) {               /* it lies on the device and is never copied */
            if (!to_device) st = err_set(err, ST_UNSUPPORTED, "operator %s cannot run on the GPU as this model uses it, and what it reads is there", n->op->name);
            continue;
        }
        const int r = plan_root(d->plan, n->in[k]);
        if (has[r] || d->plan->operands[n->in[k]].dynamic) continue;
        st = copy_over(d, n->in[k], to_device, err);
        has[r] = true;
    }
    return st;
}

static void made(struct plan_gpu *d, const struct node *n, bool on_device)
{
    for (int k = 0; k < n->out_count; k++) {
        if (n->out[k] < 0) continue;
        const int r = plan_root(d->plan, n->out[k]);
        d->device_has[r] = on_device;
        d->host_has[r] = !on_device;
    }
}

/* Constants of the model and of the plan that tasks read, as addresses. */
static enum status resolve_constants(struct plan_gpu *d, struct task_list *l, struct err *err)
{
    const struct graph *g = d->plan->graph;
    for (int i = 0; i < l->count; i++)
        for (int k = 0; k < l->tasks[i].operands; k++) {
            struct task_source *s = &l->sources[i][k];
            if (!s->value) continue;
            const int v = number_of(d, s->value);
            if (v < 0 || v >= g->value_count || !is_known(d, v)) continue;
            const struct operand *o = s->value;
            const uint64_t count = operand_count(o);
            const bool floats = o->dtype == DT_F32;
            enum status st;
            if (g->values[v].kind == VALUE_CONSTANT) st = gpu_store_put(d->store, &g->values[v], 0, o->data, count, floats, l->tasks[i].type[k], &s->constant, err);
            else {
                st = gpu_store_copy(d->store, o->data, count, floats, l->tasks[i].type[k], &s->constant, err);
                if (!st && !task_keep_table(l, s->constant)) {
                    d->store->api->free(d->store->gpu, s->constant);
                    st = no_memory(err);
                }
            }
            if (st) return st;
            s->value = NULL;
        }
    return ST_OK;
}

/* May this step be said as tasks at all? */
static bool may_go(const struct plan_gpu *d, const struct step *s)
{
    const struct node *n = s->node;
    if (s->dynamic || !n->op->tasks || n->body_count) return false;
    for (int k = 0; k < n->in_count; k++)
        if (n->in[k] >= 0 && d->plan->operands[n->in[k]].dynamic) return false;
    return true;
}

static void release_tasks(const struct plan_gpu *d, struct gpu_task *tasks, int count)
{
    for (int i = 0; i < count; i++)
        if (tasks[i].prepared) d->store->api->release(d->store->gpu, &tasks[i]);
}

/* The step's tasks, ready to run. *goes is false when it has to stay on the CPU. */
static enum status say_step(struct plan_gpu *d, struct step *s, struct task_list *l, bool *goes, struct err *err)
{
    enum status st = ST_OK;
    *goes = may_go(d, s);
    if (!*goes) return ST_OK;
    l->count = l->own_count = 0;
    l->refused = false;
    l->error = (struct err){ 0 };
    s->node->op->tasks(&s->call, l);
    if (l->error.status) return *err = l->error, l->error.status;
    if (l->refused) *goes = false;
    else st = resolve_constants(d, l, err);
    int ready = 0;
    for (; *goes && !st && ready < l->count; ready++) {
        struct err why;
        const enum status own = d->store->api->prepare(d->store->gpu, &l->tasks[ready], &why);
        if (own == ST_UNSUPPORTED) *goes = false;
        else if (own) *err = why, st = own;
        if (own) break;
    }
    if (st || !*goes) release_tasks(d, l->tasks, ready);
    return st;
}

static enum status lay_step(struct plan_gpu *d, int i, struct task_list *l, struct err *err)
{
    struct step *s = &d->plan->steps[i];
    bool goes;
    if (s->view && s->node->out_count == 1) return ST_OK;
    enum status st = say_step(d, s, l, &goes, err);
    if (!st) st = bring(d, s->node, goes, err);
    if (st) {
        if (goes) release_tasks(d, l->tasks, l->count);
        return st;
    }
    made(d, s->node, goes);
    d->on_device[i] = goes;
    if (!goes) {
        struct leg *leg = add_leg(d, LEG_HOST);
        if (!leg) return no_memory(err);
        leg->step = i;
        d->counts.host_steps++;
        return ST_OK;
    }
    uint64_t own = 0;
    for (int k = 0; k < l->own_count; k++) {
        const uint64_t bytes = whole(l->own_bytes[k]);
        l->own_bytes[k] = own;                 /* its place from now on */
        own += bytes;
    }
    if (own > d->own_bytes) d->own_bytes = own;
    for (int t = 0; t < l->count; t++) {
        for (int k = 0; k < l->tasks[t].operands; k++)
            if (l->sources[t][k].own > 0) l->sources[t][k].own_at = l->own_bytes[l->sources[t][k].own - 1];
        st = add_task(d, &l->tasks[t], l->sources[t], err);
        if (st) {
            release_tasks(d, l->tasks + t, l->count - t);
            return st;
        }
    }
    d->counts.device_steps++;
    return ST_OK;
}

enum status plan_gpu_open(struct plan_gpu **out, struct plan *p, struct err *err)
{
    struct plan_gpu *d = mem_calloc_array(1, sizeof *d);
    struct task_list *l = mem_calloc_array(1, sizeof *l);
    const struct graph *g = p->graph;
    enum status st = d && l ? ST_OK : no_memory(err);
    if (!st) {
        d->plan = p;
        d->store = l->store = g->gpu;
        l->float_type = g->gpu->float_type;
        d->on_device = mem_calloc_array((uint64_t)p->step_count + 1, sizeof *d->on_device);
        d->host_has = mem_calloc_array((uint64_t)g->value_count + 1, sizeof *d->host_has);
        d->device_has = mem_calloc_array((uint64_t)g->value_count + 1, sizeof *d->device_has);
        if (!d->on_device || !d->host_has || !d->device_has) st = no_memory(err);
    }
    for (int k = 0; k < g->input_count && !st; k++) d->host_has[plan_root(p, g->inputs[k])] = true;
    for (int i = 0; i < p->step_count && !st; i++) st = lay_step(d, i, l, err);
    for (int k = 0; k < g->output_count && !st; k++) {
        const int v = g->outputs[k], r = plan_root(p, v);
        if (is_known(d, v) || p->operands[v].dynamic || d->host_has[r]) continue;
        st = copy_over(d, v, false, err);
        d->host_has[r] = true;
    }
    if (l && d) d->tables = l->tables, d->table_count = l->table_count;
    free(l);
    if (st) {
        plan_gpu_close(d);
        return st;
    }
    free(d->host_has);
    free(d->device_has);
    d->host_has = d->device_has = NULL;
    d->own = whole(p->workspace);
    d->staging = d->own + d->own_bytes;
    d->fault = d->staging + whole(d->staging_bytes);
    d->bytes = d->fault + ALIGN;
    d->counts.tasks = d->task_count;
    *out = d;
    return ST_OK;
}

static void forget_recordings(struct plan_gpu *d)
{
    for (int i = 0; i < d->leg_count; i++) {
        if (d->legs[i].recording) d->store->api->recording_close(d->legs[i].recording);
        d->legs[i].recording = NULL;
        d->legs[i].state = RECORD_NOT_YET;
    }
}

void plan_gpu_close(struct plan_gpu *d)
{
    if (!d) return;
    forget_recordings(d);
    release_tasks(d, d->tasks, d->task_count);
    for (int i = 0; i < d->table_count; i++) d->store->api->free(d->store->gpu, d->tables[i]);
    free(d->tables);
    free(d->tasks);
    free(d->sources);
    free(d->legs);
    free(d->on_device);
    free(d->host_has);
    free(d->device_has);
    free(d);
}

uint64_t plan_site_bytes(const struct plan *p) { return p->gpu ? p->gpu->bytes : 0; }

/* Where a value lies in the device's workspace. */
static char *address_of(const struct plan_gpu *d, int v)
{
    const struct plan *p = d->plan;
    const struct buffer *b = &p->buffers[plan_root(p, v)];
    if (p->operands[v].state) return d->site.state;
    return d->site.memory + (b->place == PLACE_INPUT ? p->input_copy[b->input] : b->offset);
}

void plan_bind_site(struct plan *p, const struct plan_site *site)
{
    struct plan_gpu *d = p->gpu;
    if (!d || (d->site.queue == site->queue && d->site.memory == site->memory)) return;
    d->site = *site;
    forget_recordings(d);
    for (int i = 0; i < d->task_count; i++)
        for (int k = 0; k < d->tasks[i].operands; k++) {
            const struct task_source *s = &d->sources[(size_t)i * GPU_OPERANDS + (size_t)k];
            char *at = s->constant;
            if (s->value) at = address_of(d, number_of(d, s->value));
            else if (s->own > 0) at = site->memory + d->own + s->own_at;
            else if (s->own < 0) at = site->memory + d->staging;
            else if (s->fault) at = site->memory + d->fault;
            d->tasks[i].at[k] = at;
        }
}

static enum status run_tasks(struct plan_gpu *d, struct leg *l, struct err *err)
{
    const struct gpu_api *api = d->store->api;
    if (l->recording) return api->replay(d->site.queue, l->recording, err);
    if (l->state == RECORD_NEXT && l->count >= RECORD_MIN) {
        struct err why;
        if (api->record(d->site.queue, d->tasks + l->first, l->count, &l->recording, &why)) l->state = RECORD_NEVER;
        if (l->recording) return api->replay(d->site.queue, l->recording, err);
    } else if (l->state == RECORD_NOT_YET) l->state = RECORD_NEXT;
    return api->run(d->site.queue, d->tasks + l->first, l->count, err);
}

static enum status run_leg(struct plan_gpu *d, struct leg *l, struct arena *run, const atomic_bool *stop, struct err *err)
{
    const struct gpu_api *api = d->store->api;
    struct operand *o = l->value >= 0 ? &d->plan->operands[l->value] : NULL;
    enum status st = ST_OK;
    switch (l->kind) {
    case LEG_TASKS: return run_tasks(d, l, err);
    case LEG_PUT: return o->bytes ? api->put(d->site.queue, is_converted(d, o) ? d->site.memory + d->staging : address_of(d, l->value), o->data, o->bytes, err) : ST_OK;
    case LEG_GET: return o->bytes ? api->get(d->site.queue, o->data, is_converted(d, o) ? d->site.memory + d->staging : address_of(d, l->value), o->bytes, err) : ST_OK;
    case LEG_HOST:
        st = api->wait(d->site.queue, err);
        return st ? st : plan_run_step(d->plan, &d->plan->steps[l->step], run, stop, err);
    }
    return st;
}

enum status plan_gpu_run(struct plan_gpu *d, struct arena *run, const atomic_bool *stop, struct err *err)
{
    const struct gpu_api *api = d->store->api;
    int32_t fault = 0;
    enum status st = ST_OK;
    if (stop && atomic_load_explicit(stop, memory_order_relaxed)) return err_set(err, ST_CANCELLED, "stopped");
    if (d->faults) st = api->put(d->site.queue, d->site.memory + d->fault, &fault, sizeof fault, err);
    for (int i = 0; i < d->leg_count && !st; i++) st = run_leg(d, &d->legs[i], run, stop, err);
    if (!st && d->faults) st = api->get(d->site.queue, &fault, d->site.memory + d->fault, sizeof fault, err);
    struct err late;
    const enum status waited = api->wait(d->site.queue, st ? &late : err);        /* also after a failure: nothing may still read the request's memory */
    if (!st) st = waited;
    return !st && fault ? err_set(err, ST_BAD_INPUT, "an index is outside of the dimension that it points into") : st;
}

bool plan_gpu_has(const struct plan_gpu *d, int step) { return d->on_device[step]; }
struct plan_gpu_counts plan_gpu_counts(const struct plan *p) { return p->gpu ? p->gpu->counts : (struct plan_gpu_counts){ .host_steps = p->step_count }; }
