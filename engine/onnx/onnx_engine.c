/* The ONNX engine: one graph for each version, shared by its instances; each instance keeps a small cache of plans by exact input shape and one
 * workspace for all of them. A lone request runs on its own buffers; requests that ride together are gathered row by row, run as one and scattered. Where copying large inputs costs more than a run of several
 * rows saves (a pooling, a normalisation), each runs on its own buffers within the step: what is quicker is measured, since no rule tells it. */
#include "engine/onnx/onnx_engine.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/graph/passes.h"
#include "engine/graph/plan.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "engine/onnx/trial.h"
#include "kernels/conv.h"

enum { MEMORY_DEFAULT_GIB = 8, SLOTS = 256, MACHINE_MAX = 160, TRIAL_EDITION = 5 /* of kernels and rules: choices of another are made anew */, APART_BYTES_MIN = 64 << 10, TRY_FIRST = 16, TRY_OFTEN = 64, TRY_SELDOM = 1024 };
static const double GAIN_MIN = 1.05;

static enum status make_signature(struct engine *e, struct err *err)
{
    struct graph *g = &e->import.graph;
    struct port *in = arena_calloc(g->arena, (uint64_t)g->input_count + 1, sizeof *in), *out = arena_calloc(g->arena, (uint64_t)g->output_count + 1, sizeof *out);
    if (!in || !out) return err_set(err, ST_NO_MEMORY, "the model's signature passes its memory budget");
    for (int k = 0; k < g->input_count; k++) {
        const struct value *v = &g->values[g->inputs[k]];
        in[k] = (struct port){ .name = v->name, .dtype = v->type.dtype, .rank = v->type.rank, .optional = v->is_optional };
        memcpy(in[k].dims, v->type.dims, sizeof in[k].dims);
    }
    for (int k = 0; k < g->output_count; k++) {
        const struct value *v = &g->values[g->outputs[k]];
        bool known = v->probe[0].rank >= 0 && v->probe[1].rank >= 0;
        out[k] = (struct port){ .name = v->name, .dtype = v->said.dtype, .rank = v->said.rank, .optional = v->is_optional };
        memcpy(out[k].dims, v->said.dims, sizeof out[k].dims);
        if (known) out[k].dtype = v->probe[0].dtype;
        else if (v->kind != VALUE_NODE) out[k].dtype = v->type.dtype;
        if (!known || (v->declared && v->said.rank == v->probe[0].rank)) continue;
        out[k].rank = v->probe[0].rank;                  /* not declared: what both probes agree on is fixed */
        for (int d = 0; d < out[k].rank; d++) out[k].dims[d] = v->probe[0].dims[d] == v->probe[1].dims[d] ? v->probe[0].dims[d] : -1;
    }
    e->signature = (struct signature){ .platform = "onnxruntime_onnx", .precision = e->precision, .inputs = in, .input_count = g->input_count, .outputs = out, .output_count = g->output_count, .batchable = g->batchable };
    return ST_OK;
}

static void engine_close(struct engine *e)
{
    if (!e) return;
    if (e->built) import_close(&e->import);
    if (e->fallen) import_close(&e->fallback);
    pthread_mutex_destroy(&e->lock);
    free(e->directory);
    file_unmap(&e->map);
    free(e);
}

/* ---- precision ---- */
/* What a file becomes. exact_ends and loose: as of struct graph. */
struct form { enum precision precision; bool exact_ends, loose; };

/* The file as a graph that can run. What was there is closed first. */
static enum status build_graph(struct engine *e, struct form f, struct err *err)
{
    const struct engine_options *o = &e->options;
    if (e->built) import_close(&e->import);
    e->built = false;
    enum status st = import_open(&e->import, e->map.data, e->map.size, e->dirfd, false, &e->device, e->memory_max, err);
    if (st) return st;
    e->built = true;
    e->import.graph.bf16 = f.precision == PRECISION_BF16 && !e->device.gpu;
    e->import.graph.int8 = f.precision == PRECISION_INT8;
    e->import.graph.exact_ends = f.exact_ends;
    e->import.graph.loose = f.loose;
    e->import.graph.max_rows = o->max_batch_rows > 0 ? o->max_batch_rows : 1;
    e->precision = (struct signature_precision){ .name = precision_name(f.precision), .error = -1 };
    e->quantised = is_quantised(&e->import.graph);
    return passes_run(&e->import.graph, o->passes_off, err);
}

/* What a choice holds for: the processor, its level, threads and the rows that kernels were chosen for. */
static void describe_machine(const struct engine *e, char text[MACHINE_MAX])
{
    char processor[CPU_KIND_MAX];
    cpu_kind(processor);
    snprintf(text, MACHINE_MAX, "%s; %s; %d threads; %lld rows; trial %d", processor, cpu_level_name(e->device.kernels.level), e->options.threads, (long long)e->options.max_batch_rows, TRIAL_EDITION);
}

/* Forms of bf16 among choices: [loose][exact_ends] */
static const char *const form_names[2][2] = { { "bf16", "within" }, { "loose", "inner" } };

/* "FORM ERROR GAIN", FORM f32 or one of the precision that is tried; anything else is no choice. */
static bool read_choice(const char *text, enum precision tried, struct form *f, double *error, double *gain)
{
    char name[8];
    if (sscanf(text, "%7s %lf %lf", name, error, gain) != 3) return false;
    *f = (struct form){ .precision = PRECISION_F32 };
    for (int k = 0; k < 4; k++)
        if (!strcmp(name, form_names[k / 2][k % 2])) *f = (struct form){ PRECISION_BF16, k % 2, k / 2 };
    return (f->precision == PRECISION_BF16 || precision_from_name(name, &f->precision)) && (f->precision == tried || f->precision == PRECISION_F32);
}

static bool has_loose_layer(const struct graph *g)
{
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && g->nodes[i].conv && conv_layer_is_loose(g->nodes[i].conv)) return true;
    for (const struct graph *b = g->inner; b; b = b->next_inner)
        if (has_loose_layer(b)) return true;
    return false;
}

/* Builds the graph with everything rounded, loosely where that is quicker, and compares. Where the error is a little too large it is built without the ends, whose roundings no later layer averages;
 * where that is not enough, not loosely. */
static bool try_forms(struct engine *e, struct trial *t, enum precision tried, double allowed, struct form *f, double *error, double *gain)
{
    *f = (struct form){ .precision = tried, .loose = tried == PRECISION_BF16 };
    for (;;) {
        if (build_graph(e, *f, NULL) || trial_compare(t, &e->import.graph, error, gain, NULL)) return false;
        e->import.graph.loose = f->loose = f->loose && has_loose_layer(&e->import.graph);      /* without such a layer it is the same graph */
        if (*error <= allowed && *gain >= GAIN_MIN) return true;
        if (tried == PRECISION_BF16 && !f->exact_ends && *error <= TRIAL_ERROR_NEAR && *gain >= GAIN_MIN) f->exact_ends = true;
        else if (f->loose && *error <= 2 * TRIAL_ERROR_NEAR) *f = (struct form){ .precision = tried };
        else break;
    }
    *f = (struct form){ .precision = PRECISION_F32 };
    return true;
}

/* The graph stands in float. Leaves it in the quicker precision whose error is small enough: of a file that carries scales bytes are tried, of others bfloat16. A trial that fails says
 * nothing of the model: it stays in float. */
static enum status choose_precision(struct engine *e, struct err *err)
{
    const struct engine_choices *choices = e->options.choices;
    const enum precision tried = e->quantised ? PRECISION_INT8 : PRECISION_BF16;
    const double allowed = e->quantised ? TRIAL_INT8_ERROR_MAX : TRIAL_ERROR_MAX;
    char machine[MACHINE_MAX], text[64];
    double error, gain;
    struct form f;
    struct trial *t;
    if (e->device.gpu || (!e->quantised && !e->device.kernels.bf16) || e->options.passes_off || !trial_wanted(&e->import.graph, e->memory_max)) return ST_OK;
    describe_machine(e, machine);
    if (!(choices && choices->find(choices->ctx, machine, text, sizeof text) && read_choice(text, tried, &f, &error, &gain))) {
        if (trial_begin(&t, &e->import.graph, e->memory_max, NULL)) return ST_OK;
        const bool done = try_forms(e, t, tried, allowed, &f, &error, &gain);
        trial_end(t);
        if (!done) return build_graph(e, (struct form){ .precision = PRECISION_F32 }, err);       /* nothing was found out, so nothing is kept */
        snprintf(text, sizeof text, "%s %.3e %.3f", f.precision == PRECISION_BF16 ? form_names[f.loose][f.exact_ends] : precision_name(f.precision), error, gain);
        if (choices) choices->keep(choices->ctx, machine, text);
    }
    const bool stands = strcmp(precision_name(f.precision), e->precision.name) == 0 && e->import.graph.exact_ends == f.exact_ends && e->import.graph.loose == f.loose;
    enum status st = stands ? ST_OK : build_graph(e, f, err);
    e->precision.tried = precision_name(tried);
    e->precision.error_max = allowed;
    e->precision.error = error;
    e->precision.gain = gain;
    return st;
}

/* What is asked for, where file and machine have it. */
static enum precision first_precision(const struct engine *e)
{
    if (e->device.gpu && (e->options.precision == PRECISION_F16 || e->options.precision == PRECISION_BF16)) return e->options.precision;
    if (e->options.precision == PRECISION_BF16 && e->device.kernels.bf16) return PRECISION_BF16;
    return e->options.precision == PRECISION_INT8 && !e->options.passes_off ? PRECISION_INT8 : PRECISION_F32;
}

/* ---- the GPU ---- */
static enum status use_gpu(struct engine *e, const struct model_files *files, struct err *err)
{
    if (files->directory && !(e->directory = strdup(files->directory))) return err_set(err, ST_NO_MEMORY, "opening a model");
    e->device.gpu_float = e->options.precision == PRECISION_BF16 ? GPU_BF16 : e->options.precision == PRECISION_F16 ? GPU_F16 : GPU_F32;
    return device_gpu_open(&e->device.gpu, e->options.gpu - 1, err);
}

/* The file as a graph for the CPU, in float: what the card had is gone with it. */
static enum status build_fallback(struct engine *e, struct err *err)
{
    struct device cpu = e->device;
    cpu.gpu = NULL;
    const int dirfd = e->directory ? open(e->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    enum status st = import_open(&e->fallback, e->map.data, e->map.size, dirfd, false, &cpu, e->memory_max, err);
    if (dirfd >= 0) close(dirfd);
    if (st) return st;
    e->fallback.graph.max_rows = e->import.graph.max_rows;
    st = passes_run(&e->fallback.graph, e->options.passes_off, err);
    if (st) import_close(&e->fallback);
    return st;
}

/* The graph that an instance runs now. Once the card is lost that is the fallback; the instance lets go of its old plans. */
static enum status current_graph(struct engine_instance *i, const struct graph **out, struct err *err)
{
    struct engine *e = i->engine;
    const struct device_gpu *gpu = e->device.gpu;
    enum status st = ST_OK;
    *out = &e->import.graph;
    if (!gpu || (!e->fallen && !gpu->api->lost(gpu->gpu))) return ST_OK;
    pthread_mutex_lock(&e->lock);
    if (!e->fallen && !(st = build_fallback(e, err))) e->fallen = true;
    pthread_mutex_unlock(&e->lock);
    if (st) return st;
    if (!i->fallen) {
        const uint64_t budget = i->plans.budget;
        plan_cache_close(&i->plans);
        i->plans.budget = budget;
        i->fallen = true;
    }
    *out = &e->fallback.graph;
    return ST_OK;
}

static enum status engine_open(struct engine **out, const struct model_files *files, const struct engine_options *options, struct err *err)
{
    struct engine *e = mem_calloc_array(1, sizeof *e);
    if (!e) return err_set(err, ST_NO_MEMORY, "opening a model");
    e->options = *options;
    e->memory_max = options->memory_max ? options->memory_max : (uint64_t)MEMORY_DEFAULT_GIB << 30;
    e->dirfd = -1;
    pthread_mutex_init(&e->lock, NULL);
    enum status st = file_map_path(&e->map, files->main_file, err);
    if (!st && files->directory) e->dirfd = open(files->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    device_cpu_open(&e->device, options->cpu_level, options->threads);
    if (!st && options->gpu) st = use_gpu(e, files, err);
    if (!st) st = build_graph(e, (struct form){ .precision = first_precision(e) }, err);
    if (!st && options->precision == PRECISION_INT8 && !e->quantised) e->precision.name = precision_name(PRECISION_F32);
    if (!st && options->precision == PRECISION_AUTO) st = choose_precision(e, err);
    if (e->dirfd >= 0) close(e->dirfd);
    e->options.choices = NULL;
    if (!st) st = make_signature(e, err);
    if (!st && e->map.data) madvise((void *)(uintptr_t)e->map.data, e->map.size, MADV_DONTNEED);     /* packed weights have taken the file's place; what is still read comes back by itself */
    if (st) {
        engine_close(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

static const struct signature *engine_describe(const struct engine *e) { return &e->signature; }

static enum status engine_check(const struct engine *e, struct request *r, struct err *err) { return request_check_ports(r, &e->signature, err); }

/* ---- instances ---- */
static void instance_stop(struct engine_instance *i)
{
    if (!i) return;
    plan_cache_close(&i->plans);
    arena_free(&i->run);
    free(i->free_slots);
    free(i->pointers);
    free(i);
}

static enum status instance_start(struct engine_instance **out, struct engine *e, struct err *err)
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
        instance_stop(i);
        return err_set(err, ST_NO_MEMORY, "starting an instance");
    }
    *out = i;
    return ST_OK;
}

static enum status instance_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err)
{
    for (int k = 0; k < i->slots_total; k++) {
        if (i->free_slots[k].request) continue;
        i->free_slots[k] = (struct slot){ .request = r, .state = SLOT_RUNNING };
        *out = &i->free_slots[k];
        return ST_OK;
    }
    return err_set(err, ST_UNAVAILABLE, "no slot is free");
}

static void instance_retire(struct engine_instance *i, struct slot *s)
{
    (void)i;
    s->request = NULL;
}

/* Puts every request's rows of each input behind each other, or points at the one request's own memory. */
static void gather(struct engine_instance *i, struct plan *plan, struct slot *const *slots, int n)
{
    const struct signature *s = &i->engine->signature;
    for (int k = 0; k < s->input_count; k++) {
        const struct tensor *first = request_input_tensor(slots[0]->request, &s->inputs[k]);
        if (n == 1 && (uintptr_t)first->data % TENSOR_ALIGN == 0 && first->data) {
            i->pointers[k] = first->data;
            continue;
        }
        char *to = i->pointers[k] = plan_input_buffer(plan, k);
        for (int j = 0; j < n; j++) {
            const struct tensor *t = request_input_tensor(slots[j]->request, &s->inputs[k]);
            if (t->bytes) memcpy(to, t->data, t->bytes);
            to += t->bytes;
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

static enum status answer(const struct engine_instance *i, const struct plan *plan, struct request *r, int64_t row, int64_t rows_all, struct err *err)
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
        const struct operand *o = plan_output(plan, k);
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

/* One run for all of these. */
static enum status run_together(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    const struct engine *e = i->engine;
    const struct graph *g;
    struct operand shapes[GRAPH_INPUTS_MAX];
    int64_t rows = 0, row = 0;
    if (n > 1 && !e->signature.batchable) return err_set(err, ST_INTERNAL, "requests of a model without rows cannot ride together");
    for (int j = 0; j < n; j++) rows += slots[j]->request->rows;
    enum status st = current_graph(i, &g, err);
    if (st) return st;
    for (int k = 0; k < g->input_count; k++) {
        const struct tensor *t = request_input_tensor(slots[0]->request, &e->signature.inputs[k]);
        shapes[k] = (struct operand){ .dtype = t->dtype, .rank = t->rank };
        memcpy(shapes[k].dims, t->dims, sizeof t->dims);
        if (e->signature.batchable) shapes[k].dims[0] = rows;
    }
    struct plan *plan = NULL;
    st = plan_cache_get(&i->plans, g, shapes, &plan, err);
    if (st) return st;
    gather(i, plan, slots, n);
    uint64_t gathered = clock_ns();
    st = plan_run(plan, i->pointers, &i->run, stop, err);
    uint64_t computed = clock_ns();
    for (int j = 0; j < n && !st; j++) {
        struct request *r = slots[j]->request;
        slots[j]->error = (struct err){ 0 };
        enum status own = answer(i, plan, r, row, rows, &slots[j]->error);
        slots[j]->state = own ? SLOT_FAILED : SLOT_DONE;
        r->times.input_done = gathered;
        r->times.infer_done = computed;
        row += r->rows;
    }
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

static enum status instance_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
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

static enum status instance_collect(struct engine_instance *i, struct err *err)
{
    (void)i;
    (void)err;
    return ST_OK;
}

const struct engine_ops onnx_engine = {
    .name = "onnx", .on_gpu = true, .open = engine_open, .describe = engine_describe, .close = engine_close, .check = engine_check, .start = instance_start, .stop = instance_stop,
    .admit = instance_admit, .submit = instance_submit, .collect = instance_collect, .retire = instance_retire,
};

enum status onnx_inspect(const uint8_t *data, uint64_t size, struct err *err)
{
    struct import m;
    enum status st = import_open(&m, data, size, -1, true, NULL, (uint64_t)MEMORY_DEFAULT_GIB << 30, err);
    if (!st) import_close(&m);
    return st;
}
