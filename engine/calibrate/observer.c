#include "engine/calibrate/observer.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/passes.h"
#include "engine/graph/plan_cache.h"
#include "engine/onnx/import.h"
#include "engine/onnx/names.h"

struct observer {
    struct import     import;
    struct plan_cache plans;
    struct arena      run;
    struct plan      *plan;          /* of the last run */
    struct port      *ports;
    int               own_outputs;   /* the model's */
    int              *at;            /* [names]: place among the graph's outputs */
};

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "looking into the model passes its memory budget"); }

/* The named tensors become outputs behind the model's own. */
static enum status show(struct observer *o, const char *const *names, int name_count, struct err *err)
{
    struct graph *g = &o->import.graph;
    struct names values;
    int *outputs = arena_calloc(g->arena, (uint64_t)g->output_count + (uint64_t)name_count + 1, sizeof *outputs);
    o->at = arena_calloc(g->arena, (uint64_t)name_count + 1, sizeof *o->at);
    o->own_outputs = g->output_count;
    if (!outputs || !o->at) return no_memory(err);
    enum status st = names_begin(&values, (uint64_t)g->value_count) ? ST_OK : no_memory(err);
    for (int v = 0; v < g->value_count && !st; v++)
        if (g->values[v].name) names_put(&values, g->values[v].name, v);
    if (g->output_count) memcpy(outputs, g->outputs, (size_t)g->output_count * sizeof *outputs);
    g->outputs = outputs;
    for (int i = 0; i < name_count && !st; i++) {
        int v = names_find(&values, names[i]), k = 0;
        if (v < 0) st = err_set(err, ST_INTERNAL, "the model has no tensor '%s'", names[i]);
        while (!st && k < g->output_count && outputs[k] != v) k++;
        if (!st && k == g->output_count) {
            outputs[g->output_count++] = v;
            g->values[v].is_output = true;
        }
        o->at[i] = k;
    }
    names_end(&values);
    return st;
}

static enum status list_ports(struct observer *o, struct err *err)
{
    const struct graph *g = &o->import.graph;
    o->ports = arena_calloc(g->arena, (uint64_t)g->input_count + 1, sizeof *o->ports);
    if (!o->ports) return no_memory(err);
    for (int k = 0; k < g->input_count; k++) {
        const struct value *v = &g->values[g->inputs[k]];
        o->ports[k] = (struct port){ .name = v->name, .dtype = v->type.dtype, .rank = v->type.rank, .optional = v->is_optional };
        memcpy(o->ports[k].dims, v->type.dims, sizeof o->ports[k].dims);
    }
    return ST_OK;
}

enum status observer_open(struct observer **out, const uint8_t *data, uint64_t size, const char *const *names, int name_count, const struct observer_options *options, struct err *err)
{
    struct device device;
    struct observer *o = mem_calloc_array(1, sizeof *o);
    if (!o) return no_memory(err);
    device_cpu_open(&device, options->cpu_level, options->threads);
    enum status st = import_open(&o->import, data, size, -1, false, &device, options->memory_max, err);
    if (st) {
        free(o);
        return st;
    }
    st = list_ports(o, err);
    if (!st) st = show(o, names, name_count, err);
    if (!st) st = passes_run(&o->import.graph, false, err);
    uint64_t used = o->import.arena.used + o->import.graph.packed_bytes;
    o->plans.budget = used < options->memory_max ? options->memory_max - used : 0;
    arena_init(&o->run, o->plans.budget);
    if (st) observer_close(o);
    else *out = o;
    return st;
}

void observer_close(struct observer *o)
{
    if (!o) return;
    plan_cache_close(&o->plans);
    arena_free(&o->run);
    import_close(&o->import);
    free(o);
}

const struct port *observer_inputs(const struct observer *o, int *count)
{
    *count = o->import.graph.input_count;
    return o->ports;
}

enum status observer_run(struct observer *o, const struct tensor *inputs, struct err *err)
{
    struct operand shapes[GRAPH_INPUTS_MAX];
    void *data[GRAPH_INPUTS_MAX];
    arena_reset(&o->run);
    for (int k = 0; k < o->import.graph.input_count; k++) {
        shapes[k] = tensor_operand(&inputs[k]);
        data[k] = inputs[k].data;
    }
    enum status st = plan_cache_get(&o->plans, &o->import.graph, shapes, &o->plan, err);
    return st ? st : plan_run(o->plan, data, &o->run, NULL, err);
}

const struct operand *observer_tensor(const struct observer *o, int name) { return plan_output(o->plan, o->at[name]); }
int observer_output_count(const struct observer *o) { return o->own_outputs; }
const struct operand *observer_output(const struct observer *o, int k) { return plan_output(o->plan, k); }
