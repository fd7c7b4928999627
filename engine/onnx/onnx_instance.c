/* Steps of the ONNX engine. Each instance keeps a small cache of plans by exact input shape and one workspace for all of them. A lone request runs on its own buffers; requests that ride
 * together are gathered row by row, run as one and scattered. No rule tells what is quickest, so it is measured: where copying large inputs costs more than a run of several rows saves (a pooling,
 * a normalisation), each request runs on its own buffers within the step; where the buffers of all rows pass the caches, the rows run in parts whose buffers do not. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/graph/plan.h"
#include "engine/onnx/onnx_engine_internal.h"

enum { SLOTS = 256, APART_BYTES_MIN = 64 << 10, TRY_FIRST = 16, TRY_OFTEN = 64, TRY_SELDOM = 1024 };
enum { PART_BYTES_PER_THREAD = 8 << 20, WAYS_COLD = 2, WAYS_MEASURED = 4, WAYS_ANEW = 1024 };

/* The graph that the instance runs now; it lets go of the plans of a card that was lost. */
static enum status current_graph(struct engine_instance *i, const struct graph **out, struct err *err)
{
    enum status st = onnx_current_graph(i->engine, out, err);
    if (st || *out == &i->engine->import.graph || i->fallen) return st;
    const uint64_t budget = i->plans.budget;
    plan_cache_close(&i->plans);
    i->plans.budget = budget;
    i->fallen = true;
    return ST_OK;
}

void onnx_instance_stop(struct engine_instance *i)
{
    if (!i) return;
    plan_cache_close(&i->plans);
    arena_free(&i->run);
    free(i->free_slots);
    free(i->pointers);
    free(i);
}

enum status onnx_instance_start(struct engine_instance **out, struct engine *e, struct err *err)
{
    struct engine_instance *i = mem_calloc_array(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "starting an instance");
    i->engine = e;
    uint64_t used = e->import.arena.used + e->import.graph.packed_bytes;
    i->plans.budget = used < e->memory_max ? e->memory_max - used : 0;
    arena_init(&i->run, i->plans.budget);
    i->slots_total = SLOTS;
    i->free_slots = mem_calloc_array(SLOTS, sizeof *i->free_slots);
    i->pointers = mem_calloc_array((uint64_t)e->signature.input_count + 1, sizeof *i->pointers);
    if (!i->free_slots || !i->pointers) {
        onnx_instance_stop(i);
        return err_set(err, ST_NO_MEMORY, "starting an instance");
    }
    *out = i;
    return ST_OK;
}

enum status onnx_instance_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err)
{
    for (int k = 0; k < i->slots_total; k++) {
        if (i->free_slots[k].request) continue;
        i->free_slots[k] = (struct slot){ .request = r, .state = SLOT_RUNNING };
        *out = &i->free_slots[k];
        return ST_OK;
    }
    return err_set(err, ST_UNAVAILABLE, "no slot is free");
}

void onnx_instance_retire(struct engine_instance *i, struct slot *s)
{
    (void)i;
    s->request = NULL;
}

/* Points at the rows from `first` on, `count` of them, of every input: a request's own memory where it alone holds them, else copies behind each other. */
static void gather(struct engine_instance *i, struct plan *plan, struct slot *const *slots, int n, int64_t first, int64_t count)
{
    const struct signature *s = &i->engine->signature;
    for (int k = 0; k < s->input_count; k++) {
        char *to = i->pointers[k] = plan_input_buffer(plan, k);
        int64_t row = 0;
        for (int j = 0; j < n; j++) {
            const struct tensor *t = request_input_tensor(slots[j]->request, &s->inputs[k]);
            const int64_t rows = s->batchable ? slots[j]->request->rows : count;
            const int64_t from = first > row ? first - row : 0, until = first + count < row + rows ? first + count - row : rows;      /* of this request */
            row += rows;
            if (until <= from || !t->bytes) continue;
            const uint64_t row_bytes = t->bytes / (uint64_t)rows, bytes = until - from == rows ? t->bytes : row_bytes * (uint64_t)(until - from);
            char *own = (char *)t->data + row_bytes * (uint64_t)from;
            if (until - from == count && (uintptr_t)own % TENSOR_ALIGN == 0) {
                i->pointers[k] = own;
                break;
            }
            memcpy(to, own, bytes);
            to += bytes;
        }
    }
}

/* Strings and items of an answer may point into the model file, the run or another request: they are copied into the request's arena. */
static enum status copy_deep(struct request *r, struct tensor *t, struct err *err)
{
    struct operand from = tensor_operand(t), to = { 0 };
    enum status st = operand_keep(&to, &from, &r->arena, err);
    if (!st) *t = operand_tensor(&to);
    return st;
}

/* results: of every graph output, all rows of the step. */
static enum status answer(const struct engine_instance *i, const struct operand *results, struct request *r, int64_t row, int64_t rows_all, struct err *err)
{
    const struct signature *s = &i->engine->signature;
    int count = r->wanted_count ? r->wanted_count : s->output_count;
    r->outputs = arena_calloc(&r->arena, (uint64_t)count + 1, sizeof *r->outputs);
    if (!r->outputs) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    r->output_count = count;
    for (int j = 0; j < count; j++) {
        int k = j;
        for (int w = 0; r->wanted_count && w < s->output_count; w++)
            if (strcmp(s->outputs[w].name, r->wanted[j]) == 0) k = w;
        const struct operand *o = &results[k];
        int64_t dims[TENSOR_RANK_MAX];
        memcpy(dims, o->dims, sizeof dims);
        uint64_t skip = 0;
        if (s->batchable) {
            if (o->rank < 1 || o->dims[0] != rows_all) return err_set(err, ST_INTERNAL, "output '%s' does not have the batch's rows", s->outputs[k].name);
            dims[0] = r->rows;
            skip = o->bytes / (uint64_t)rows_all * (uint64_t)row;
        }
        enum status st = request_output(r, j, s->outputs[k].name, o->dtype, dims, o->rank, err);
        if (st) return st;
        struct tensor *t = &r->outputs[j].tensor;
        if (t->bytes) memcpy(t->data, (const char *)o->data + skip, t->bytes);
        if ((t->dtype == DT_STRING || t->dtype == DT_SEQUENCE) && (st = copy_deep(r, t, err))) return st;
    }
    return ST_OK;
}

/* ---- steps ---- */
struct step { struct slot *const *slots; int n; int64_t rows; const struct graph *graph; struct operand shapes[GRAPH_INPUTS_MAX]; struct operand *results; uint64_t begun, gather_ns; };

static enum status run_rows(struct engine_instance *i, struct step *t, struct plan *plan, int64_t first, int64_t count, const atomic_bool *stop, struct err *err)
{
    const uint64_t start = clock_ns();
    gather(i, plan, t->slots, t->n, first, count);
    t->gather_ns += clock_ns() - start;
    return plan_run(plan, i->pointers, &i->run, stop, err);
}

/* Part after part, each output's rows put behind each other. */
static enum status run_parts(struct engine_instance *i, struct step *t, int64_t part, const atomic_bool *stop, struct err *err)
{
    for (int64_t at = 0, rows; at < t->rows; at += rows) {
        struct plan *plan;
        rows = part < t->rows - at ? part : t->rows - at;
        for (int k = 0; k < t->graph->input_count; k++) t->shapes[k].dims[0] = rows;
        enum status st = plan_cache_get(&i->plans, t->graph, t->shapes, &plan, err);
        if (!st) st = run_rows(i, t, plan, at, rows, stop, err);
        if (st) return st;
        for (int k = 0; k < t->graph->output_count; k++) {
            const struct operand *o = plan_output(plan, k);
            struct operand *to = &t->results[k];
            const uint64_t row_bytes = o->bytes / (uint64_t)rows;
            if (o->rank < 1 || o->dims[0] != rows) return err_set(err, ST_INTERNAL, "output '%s' does not have the batch's rows", i->engine->signature.outputs[k].name);
            if (!at) {
                *to = (struct operand){ .dtype = o->dtype, .rank = o->rank, .bytes = row_bytes * (uint64_t)t->rows };
                memcpy(to->dims, o->dims, sizeof o->dims);
                to->dims[0] = t->rows;
                if (!(to->data = arena_alloc(&i->run, to->bytes + 1, TENSOR_ALIGN))) return err_set(err, ST_NO_MEMORY, "the answers of a step");
            }
            memcpy((char *)to->data + row_bytes * (uint64_t)at, o->data, o->bytes);
        }
    }
    return ST_OK;
}

static enum status run_whole(struct engine_instance *i, struct step *t, struct plan *plan, const atomic_bool *stop, struct err *err)
{
    enum status st = run_rows(i, t, plan, 0, t->rows, stop, err);
    for (int k = 0; k < t->graph->output_count && !st; k++) t->results[k] = *plan_output(plan, k);
    return st;
}

/* Do rows lie behind each other as whole bytes that may be copied? Not strings, sequences and numbers of 4 bits. */
static bool can_be_parted(const struct port *ports, int count)
{
    for (int k = 0; k < count; k++)
        if (dtype_bits(ports[k].dtype) < 8) return false;
    return true;
}

/* Rows of the parts that a step may be quicker in: those whose buffers stay in the caches. The step's own where there are none, or where rows may depend on each other (the configuration's
 * max_batch_size says that they do not). */
static int64_t part_rows(const struct engine *e, const struct graph *g, const struct plan *whole, int64_t rows)
{
    const uint64_t bytes = plan_workspace(whole), near = (uint64_t)PART_BYTES_PER_THREAD * (uint64_t)(e->options.threads > 0 ? e->options.threads : 1);
    if (!e->signature.batchable || e->options.max_batch_rows < 2 || rows < 2 || bytes <= near || g->gpu || plan_is_dynamic(whole)) return rows;
    if (!can_be_parted(e->signature.inputs, e->signature.input_count) || !can_be_parted(e->signature.outputs, e->signature.output_count)) return rows;
    const uint64_t parts = (bytes + near - 1) / near;
    return parts < (uint64_t)rows ? (rows + (int64_t)parts - 1) / (int64_t)parts : 1;
}

/* Which way this run of a plan goes. The first runs alternate, each way once unmeasured; then the quicker one, until both are measured anew. */
static bool goes_in_parts(struct plan_ways *w)
{
    if (w->runs == WAYS_ANEW) *w = (struct plan_ways){ .runs = WAYS_COLD };
    const unsigned run = w->runs++;
    return run < WAYS_COLD + WAYS_MEASURED ? run % 2 : w->ns[1] < w->ns[0];
}

static void note_way(struct plan_ways *w, bool parts, uint64_t ns)
{
    if (w->runs > WAYS_COLD && w->runs <= WAYS_COLD + WAYS_MEASURED && (!w->ns[parts] || ns < w->ns[parts])) w->ns[parts] = ns;
}

static enum status begin_step(struct engine_instance *i, struct step *t, struct err *err)
{
    struct engine *e = i->engine;
    if (t->n > 1 && !e->signature.batchable) return err_set(err, ST_INTERNAL, "requests of a model without rows cannot ride together");
    for (int j = 0; j < t->n; j++) t->rows += t->slots[j]->request->rows;
    enum status st = current_graph(i, &t->graph, err);
    if (st) return st;
    for (int k = 0; k < t->graph->input_count; k++) {
        const struct tensor *x = request_input_tensor(t->slots[0]->request, &e->signature.inputs[k]);
        t->shapes[k] = (struct operand){ .dtype = x->dtype, .rank = x->rank };
        memcpy(t->shapes[k].dims, x->dims, sizeof x->dims);
        if (e->signature.batchable) t->shapes[k].dims[0] = t->rows;
    }
    t->results = arena_calloc(&i->run, (uint64_t)t->graph->output_count + 1, sizeof *t->results);
    return t->results ? ST_OK : err_set(err, ST_NO_MEMORY, "the answers of a step");
}

static void answer_all(struct engine_instance *i, struct step *t)
{
    const uint64_t computed = clock_ns();
    int64_t row = 0;
    for (int j = 0; j < t->n; j++) {
        struct request *r = t->slots[j]->request;
        t->slots[j]->error = (struct err){ 0 };
        t->slots[j]->state = answer(i, t->results, r, row, t->rows, &t->slots[j]->error) ? SLOT_FAILED : SLOT_DONE;
        r->times.input_done = t->begun + t->gather_ns;
        r->times.infer_done = computed;
        row += r->rows;
    }
}

/* One step for all of these, as one run or part by part. */
static enum status run_together(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    struct step t = { .slots = slots, .n = n };
    struct plan *plan;
    enum status st = begin_step(i, &t, err);
    if (!st) st = plan_cache_get(&i->plans, t.graph, t.shapes, &plan, err);
    if (!st) {
        struct plan_ways *ways = plan_cache_ways(&i->plans, plan);
        const int64_t part = part_rows(i->engine, t.graph, plan, t.rows);
        const bool parts = part < t.rows && goes_in_parts(ways);
        t.begun = clock_ns();
        st = parts ? run_parts(i, &t, part, stop, err) : run_whole(i, &t, plan, stop, err);
        if (!st && part < t.rows) note_way(ways, parts, clock_ns() - t.begun);
    }
    if (!st) answer_all(i, &t);
    arena_reset(&i->run);
    return st;
}

/* Requests of large inputs may be quicker one by one: then they are. The other way is tried now and then, seldom where it was much slower. */
static bool goes_apart(struct engine_instance *i, struct slot *const *slots, int n)
{
    uint64_t bytes = 0;
    const double *t = i->row_ns;
    for (int k = 0; n > 1 && k < i->engine->signature.input_count; k++) bytes += request_input_tensor(slots[0]->request, &i->engine->signature.inputs[k])->bytes;
    if (bytes / (uint64_t)slots[0]->request->rows < APART_BYTES_MIN) return false;
    unsigned step = ++i->steps;
    if (t[0] <= 0 || t[1] <= 0) return step >= TRY_FIRST && t[0] > 0;
    const bool quicker = t[1] < t[0], near = t[0] < 1.5 * t[1] && t[1] < 1.5 * t[0];
    return step % (near ? TRY_OFTEN : TRY_SELDOM) ? quicker : !quicker;
}

enum status onnx_instance_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    const unsigned before = i->steps;
    const bool apart = goes_apart(i, slots, n);
    const bool counted = i->steps != before;
    const uint64_t start = clock_ns();
    enum status st = apart ? ST_OK : run_together(i, slots, n, stop, err);
    int64_t rows = 0;
    for (int k = 0; k < n && !st; k++) {
        if (apart) st = run_together(i, slots + k, 1, stop, err);
        rows += slots[k]->request->rows;
    }
    if (st || !counted) return st;
    double *t = &i->row_ns[apart], took = (double)(clock_ns() - start) / (double)rows;
    *t = *t > 0 ? *t + (took - *t) * 0.125 : took;
    return ST_OK;
}

enum status onnx_instance_collect(struct engine_instance *i, struct err *err)
{
    (void)i;
    (void)err;
    return ST_OK;
}
