/* The ONNX engine: one graph for each version, shared by its instances (onnx_instance.c), in the precision that was asked for or that a trial found. */
#include "engine/onnx/onnx_engine.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/graph/passes.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "engine/onnx/trial.h"
#include "kernels/conv.h"

enum { MEMORY_DEFAULT_GIB = 8, MACHINE_MAX = 160, TRIAL_EDITION = 5 /* of kernels and rules: choices of another are made anew */ };
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
    if (e->device.gpu) e->device.gpu_float = f.precision == PRECISION_F16 ? GPU_F16 : f.precision == PRECISION_BF16 ? GPU_BF16 : GPU_F32;
    enum status st = import_open(&e->import, e->map.data, e->map.size, e->dirfd, false, &e->device, e->memory_max, err);
    if (st) return st;
    e->built = true;
    e->import.graph.file = &e->map;
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

/* On a card, in float so far: float16 where its error is small enough and it is quicker, else bfloat16, whose range is float's. */
static enum status choose_on_gpu(struct engine *e, struct err *err)
{
    static const enum precision tried[] = { PRECISION_F16, PRECISION_BF16 };
    const struct engine_choices *choices = e->options.choices;
    struct form f = { .precision = PRECISION_F32 };
    struct gpu_info info;
    struct trial *t;
    char machine[MACHINE_MAX], text[64], name[8];
    double error = -1, gain = 0;
    e->device.gpu->api->info(e->device.gpu->gpu, &info);
    snprintf(machine, sizeof machine, "%s; %s; %lld rows; trial %d", info.name, info.driver, (long long)e->options.max_batch_rows, TRIAL_EDITION);
    const bool known = choices && choices->find(choices->ctx, machine, text, sizeof text) && sscanf(text, "%7s %lf %lf", name, &error, &gain) == 3 && precision_from_name(name, &f.precision)
        && (f.precision == PRECISION_F32 || f.precision == PRECISION_F16 || f.precision == PRECISION_BF16);
    if (!known) {
        if (trial_begin(&t, &e->import.graph, e->memory_max, NULL)) return ST_OK;
        bool done = true;
        f.precision = PRECISION_F32;
        for (int k = 0; k < 2 && done && f.precision == PRECISION_F32; k++) {
            done = !build_graph(e, (struct form){ .precision = tried[k] }, NULL) && !trial_compare(t, &e->import.graph, &error, &gain, NULL);
            if (done && error <= TRIAL_ERROR_MAX && gain >= GAIN_MIN) f.precision = tried[k];
        }
        trial_end(t);
        if (!done) return build_graph(e, (struct form){ .precision = PRECISION_F32 }, err);       /* nothing was found out, so nothing is kept */
        snprintf(text, sizeof text, "%s %.3e %.3f", precision_name(f.precision), error, gain);
        if (choices) choices->keep(choices->ctx, machine, text);
    }
    enum status st = strcmp(precision_name(f.precision), e->precision.name) == 0 ? ST_OK : build_graph(e, f, err);
    e->precision.tried = precision_name(f.precision == PRECISION_F32 ? PRECISION_BF16 : f.precision);
    e->precision.error_max = TRIAL_ERROR_MAX;
    e->precision.error = error;
    e->precision.gain = gain;
    return st;
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
    if (e->device.gpu && !e->options.passes_off && trial_wanted(&e->import.graph, e->memory_max)) return choose_on_gpu(e, err);
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
    e->fallback.graph.file = &e->map;
    e->fallback.graph.max_rows = e->import.graph.max_rows;
    st = passes_run(&e->fallback.graph, e->options.passes_off, err);
    if (st) import_close(&e->fallback);
    return st;
}

enum status onnx_current_graph(struct engine *e, const struct graph **out, struct err *err)
{
    const struct device_gpu *gpu = e->device.gpu;
    enum status st = ST_OK;
    *out = &e->import.graph;
    if (!gpu || (!e->fallen && !gpu->api->lost(gpu->gpu))) return ST_OK;
    pthread_mutex_lock(&e->lock);
    if (!e->fallen && !(st = build_fallback(e, err))) e->fallen = true;
    pthread_mutex_unlock(&e->lock);
    *out = &e->fallback.graph;
    return st;
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
    if (!st && e->map.data) file_let_go(e->map.data, e->map.size);     /* packed weights have taken the file's place; what is still read comes back by itself */
    if (st) {
        engine_close(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

static const struct signature *engine_describe(const struct engine *e) { return &e->signature; }

static enum status engine_check(const struct engine *e, struct request *r, struct err *err) { return request_check_ports(r, &e->signature, err); }

const struct engine_ops onnx_engine = {
    .name = "onnx", .on_gpu = true, .open = engine_open, .describe = engine_describe, .close = engine_close, .check = engine_check, .start = onnx_instance_start, .stop = onnx_instance_stop,
    .admit = onnx_instance_admit, .submit = onnx_instance_submit, .collect = onnx_instance_collect, .retire = onnx_instance_retire,
};

enum status onnx_inspect(const uint8_t *data, uint64_t size, struct err *err)
{
    struct import m;
    enum status st = import_open(&m, data, size, -1, true, NULL, (uint64_t)MEMORY_DEFAULT_GIB << 30, err);
    if (!st) import_close(&m);
    return st;
}
